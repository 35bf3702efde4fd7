"""Tokens in one cookie or several: parts in any order, and either all of them or none."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starsessions.core.chunking import MAX_PARTS, cookies_for, part_name, room_for, split, tokens_of
from starsessions.core.cookies import MAX_COOKIE, MAX_HEADER, CookieSpec
from starsessions.core.record import MissReason
from tests.rows import rows

SPEC = CookieSpec()
CHARACTERS = "ABCabc019-_."

Headers = list[tuple[bytes, bytes]]


def tokens_in(headers: Headers, spec: CookieSpec, *settings: Any, **more: Any) -> Any:
    return tokens_of(spec, *settings, **more)(headers)


def cookie(*headers: bytes) -> Headers:
    return [(b"cookie", header) for header in headers]


def set_by(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
    """The cookies of a browser that had none, after these `Set-Cookie` headers."""
    held = {}
    for name, header in headers:
        assert name == b"set-cookie"
        pair, *attributes = header.decode("ascii").split("; ")
        if "Max-Age=0" not in attributes:
            key, _, value = pair.partition("=")
            held[key] = value
    return held


def cleared_by(headers: Sequence[tuple[bytes, bytes]]) -> list[str]:
    texts = [header.decode("ascii") for _, header in headers]
    return [text.partition("=")[0] for text in texts if "Max-Age=0" in text.split("; ")]


# One cookie


@rows("max_cookies", [1, 2, MAX_PARTS])
@rows(
    ("headers", "result"),
    [
        ([], MissReason.NO_COOKIE),
        (cookie(b"other=x"), MissReason.NO_COOKIE),
        (cookie(b"session=abc"), ["abc"]),
        (cookie(b"session=abc; session=def"), ["abc", "def"]),
        (cookie(b"session=abc", b"session=def"), ["abc", "def"]),
        (cookie(b"session=abc; session=abc"), ["abc"]),
        (cookie(b"session="), MissReason.MALFORMED),
        (cookie(b"session=; session=abc"), ["abc"]),
        (cookie(b"session=\xc3\xa9"), MissReason.MALFORMED),
        (cookie(b"session=\xc3\xa9; session=abc"), ["abc"]),
        (cookie(b"session=" + b"x" * MAX_HEADER), MissReason.MALFORMED),
        (cookie(*(b"session=%d" % at for at in range(5))), MissReason.SEVERAL),
        (cookie(b"session=" + b"x" * (MAX_COOKIE - 7)), ["x" * (MAX_COOKIE - 7)]),
        (cookie(b"session=" + b"x" * (MAX_COOKIE - 6)), MissReason.MALFORMED),
    ],
)
def test_the_tokens_in_a_request(headers: Headers, result: Any, max_cookies: int) -> None:
    assert tokens_in(headers, SPEC, max_cookies) == result


@rows("value", ["~1~abc", "~0~abc", "~10~abc", "~~abc", "~2abc", "a~2~abc", "~x~abc"])
def test_a_prefix_that_is_not_a_valid_mark_is_part_of_the_token(value: str) -> None:
    assert tokens_in(cookie(b"session=" + value.encode(), b"session-1=def"), SPEC, MAX_PARTS) == [value]


def test_a_mark_is_ignored_when_splitting_is_off() -> None:
    assert tokens_in(cookie(b"session=~2~abc; session-1=def"), SPEC, 1) == ["~2~abc"]


def test_a_token_that_the_backend_finds_malformed_is_ignored() -> None:
    headers = cookie(b"session=../x; session=abc")

    assert tokens_in(headers, SPEC, is_well_formed=str.isalnum) == ["abc"]
    assert tokens_in(headers, SPEC, is_well_formed=str.isdigit) is MissReason.MALFORMED


def test_the_backend_checks_whole_tokens_only() -> None:
    asked: list[str] = []

    tokens_in(cookie(b"session=~2~abc; session-1=def; session="), SPEC, 2, lambda token: not asked.append(token))

    assert asked == ["abcdef"]


# Several


@rows("room", [20, 21, 50, 200])
def test_parts_fill_the_room_and_the_first_holds_their_number(room: int) -> None:
    for length in range(1, MAX_PARTS * room - 2):
        token = "x" * length

        parts = split(token, room)

        assert all(0 < len(part) <= room for part in parts)
        assert all(len(part) == room for part in parts[:-1])
        assert "".join(parts) == (token if length <= room else f"~{len(parts)}~{token}")


@pytest.mark.guarantee(7)
@given(st.text(CHARACTERS, min_size=1, max_size=300), st.integers(40, 320), st.data())
def test_a_split_token_is_joined_in_any_order_of_its_parts(token: str, room: int, data: st.DataObject) -> None:
    parts = split(token, room)
    pairs = [f"{part_name('session', at)}={part}".encode() for at, part in enumerate(parts)]
    pairs += [b"session-0=x", b"session-01=x", b"xsession-1=x", b"other=y"]

    order = data.draw(st.permutations(pairs))
    cut = data.draw(st.integers(0, len(order)))

    assert tokens_in(cookie(b"; ".join(order[:cut]), b";".join(order[cut:])), SPEC, MAX_PARTS) == [token]


@rows("count", range(2, MAX_PARTS + 1))
def test_a_token_with_a_missing_part_is_malformed(count: int) -> None:
    parts = split("x" * (10 * count - 3), 10)
    pairs = [f"{part_name('session', at)}={part}".encode() for at, part in enumerate(parts)]
    assert len(pairs) == count
    assert tokens_in(cookie(*pairs), SPEC, MAX_PARTS) == ["x" * (10 * count - 3)]

    for missing in range(1, count):
        assert tokens_in(cookie(*pairs[:missing], *pairs[missing + 1 :]), SPEC, MAX_PARTS) is MissReason.MALFORMED
    assert tokens_in(cookie(*pairs[1:]), SPEC, MAX_PARTS) is MissReason.NO_COOKIE


@rows("second", [b"session-1=", b"session-1=\xc3\xa9", b"session-1=" + b"x" * MAX_COOKIE])
def test_a_malformed_part_counts_as_missing(second: bytes) -> None:
    assert tokens_in(cookie(b"session=~2~abc", second), SPEC, MAX_PARTS) is MissReason.MALFORMED


def test_a_part_with_two_values_makes_the_token_unusable() -> None:
    assert tokens_in(cookie(b"session=~2~abc; session-1=def; session-1=evil"), SPEC, MAX_PARTS) is MissReason.SEVERAL
    many = cookie(b"session=~2~abc", *(b"session-1=%d" % at for at in range(5)))
    assert tokens_in(many, SPEC, MAX_PARTS) is MissReason.SEVERAL
    assert tokens_in(cookie(b"session=~2~abc; session-1=def; session-1=def"), SPEC, MAX_PARTS) == ["abcdef"]


def test_a_whole_token_and_a_split_one_are_two_tokens() -> None:
    assert tokens_in(cookie(b"session=~2~abc; session-1=def; session=ghi"), SPEC, MAX_PARTS) == ["abcdef", "ghi"]
    assert tokens_in(cookie(b"session=~2~abc; session=ghi"), SPEC, MAX_PARTS) == ["ghi"]


def test_parts_beyond_the_setting_are_not_read() -> None:
    pairs = b"session=~3~a; session-1=b; session-2=c"

    assert tokens_in(cookie(pairs), SPEC, 3) == ["abc"]
    assert tokens_in(cookie(pairs), SPEC, 2) in (["ab"], MissReason.MALFORMED)


def test_a_part_keeps_the_prefix_of_the_name() -> None:
    assert part_name("__Host-session", 3) == "__Host-session-3"


# Setting and clearing


def test_one_part_is_one_cookie() -> None:
    assert cookies_for(SPEC, ["abc"], 60, False, 1, []) == [SPEC.set("session", "abc", 60, False)]


@rows("max_cookies", [1, 3])
def test_without_parts_the_cookie_is_removed(max_cookies: int) -> None:
    assert cookies_for(SPEC, [], 0, True, max_cookies, []) == [SPEC.set("session", "null", 0, True)]


def test_a_token_that_is_set_can_be_read() -> None:
    parts = split("x" * 50 + "y" * 50, 40)

    held = set_by(cookies_for(SPEC, parts, 60, False, 5, []))

    assert list(held) == ["session", "session-1", "session-2"]
    header = "; ".join(f"{name}={value}" for name, value in reversed(held.items())).encode()
    assert tokens_in(cookie(header), SPEC, 5) == ["x" * 50 + "y" * 50]


@pytest.mark.guarantee(7)
def test_parts_of_an_older_and_longer_token_are_removed() -> None:
    held = cookie(b"session=~5~a; session-1=b; session-2=c", b"session-3=d; session-4=e; session-5=mine")

    headers = cookies_for(SPEC, ["~2~x", "y"], 60, True, 5, held)

    assert headers == [
        SPEC.set("session", "~2~x", 60, True),
        SPEC.set("session-1", "y", 60, True),
        SPEC.set("session-2", "null", 0, True),
        SPEC.set("session-3", "null", 0, True),
        SPEC.set("session-4", "null", 0, True),
    ]


def test_a_token_that_fits_again_removes_all_other_parts() -> None:
    headers = cookies_for(SPEC, ["x"], 60, False, 9, cookie(b"session=~3~a; session-1=b; session-2=c"))

    assert set_by(headers) == {"session": "x"}
    assert cleared_by(headers) == ["session-1", "session-2"]


def test_clearing_removes_all_parts_that_the_browser_has() -> None:
    headers = cookies_for(SPEC, [], 0, False, 9, cookie(b"session=~3~a; session-1=b; session-2=c"))

    assert cleared_by(headers) == ["session", "session-1", "session-2"]


def test_a_stale_part_is_removed_even_if_too_many_copies_arrive() -> None:
    many = cookie(b"; ".join(b"session-1=%d" % at for at in range(9)))

    assert cleared_by(cookies_for(SPEC, ["x"], 60, False, 2, many)) == ["session-1"]


def test_without_splitting_similar_cookies_of_others_are_left_alone() -> None:
    headers = cookies_for(SPEC, ["x"], 60, False, 1, cookie(b"session-1=another application"))

    assert cleared_by(headers) == []


# Limits

specs = st.builds(
    CookieSpec,
    name=st.sampled_from(["s", "session", "__Host-session", "x" * 200]),
    same_site=st.sampled_from(["lax", "strict"]),
) | st.builds(
    CookieSpec,
    domain=st.sampled_from(["example.com", "a" * 200]),
    partitioned=st.booleans(),
    path=st.just("/" + "p" * 500),
)


@given(specs, st.none() | st.integers(1, 10**10), st.booleans())
def test_a_single_cookie_may_fill_the_browsers_limit(spec: CookieSpec, max_age: int | None, secure: bool) -> None:
    """Browsers count only the name and the value."""
    room = room_for(spec, 1, max_age, secure)

    assert len(spec.name) + room == MAX_COOKIE
    assert tokens_in(cookie(f"{spec.name}={'x' * room}".encode()), spec, 1) == ["x" * room]


@pytest.mark.guarantee(7)
@given(specs, st.none() | st.integers(1, 10**10), st.booleans(), st.integers(2, MAX_PARTS))
def test_no_cookie_of_a_split_session_exceeds_the_limit_with_attributes(
    spec: CookieSpec, max_age: int | None, secure: bool, count: int
) -> None:
    room = room_for(spec, count, max_age, secure)
    token = "x" * (count * room - 3)

    parts = split(token, room)
    headers = cookies_for(spec, parts, max_age, secure, count, [])

    assert len(parts) == len(headers) == count
    assert max(len(header) for _, header in headers) <= MAX_COOKIE
    assert max(len(header) for _, header in headers) == MAX_COOKIE, "room that is left could have been used"
    assert len(split(token + "x", room)) == count + 1


def test_the_parts_of_the_longest_token_are_read_back() -> None:
    room = room_for(SPEC, MAX_PARTS, 60, True)
    token = "x" * (MAX_PARTS * room - 3)

    held = set_by(cookies_for(SPEC, split(token, room), 60, True, MAX_PARTS, []))

    assert len(held) == MAX_PARTS
    assert tokens_in(cookie("; ".join(map("=".join, held.items())).encode()), SPEC, MAX_PARTS) == [token]
