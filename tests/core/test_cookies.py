"""Cookies: reading raw bytes, checking settings, and the exact form of `Set-Cookie`."""

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from starsessions.core.cookies import MAX_COOKIE, MAX_HEADER, MAX_SAME_NAME, CookieSpec, count, find
from starsessions.core.record import MissReason
from starsessions.exceptions import ImproperlyConfigured
from tests.rows import rows

Headers = list[tuple[bytes, bytes]]

NAMES = ["session", "a", "aa", "aba", "a.a", "*", "a|b", "^a$", "__Host-a", "a-1"]


def cookie(*headers: bytes) -> Headers:
    return [(b"cookie", header) for header in headers]


def found(headers: Headers, name: str) -> list[bytes] | None:
    """None: there are values, but too many, or none that the library could have set."""
    values = find(headers, name)
    if isinstance(values, list):
        assert values  # "no cookie" has a value of its own
        return [value.encode("ascii") for value in values]
    return [] if values is MissReason.NO_COOKIE else None


def read(*headers: bytes, name: str = "session") -> list[bytes] | None:
    return found(cookie(*headers), name)


# Reading


def read_slowly(headers: Headers, name: bytes) -> list[bytes] | None:
    """RFC 6265bis to the letter and slow: the reference for the real parser."""
    values: list[bytes] = []
    for key, header in headers:
        if key == b"cookie":
            for pair in header.split(b";"):
                if b"=" not in pair:
                    continue  # a value without a name
                its_name, _, value = (text.strip(b" \t") for text in pair.partition(b"="))
                if len(value) > 1 and value.startswith(b'"') and value.endswith(b'"'):
                    value = value[1:-1]
                if its_name == name and value not in values:
                    values.append(value)
    too_much = (
        len(values) > MAX_SAME_NAME or sum(len(header) for key, header in headers if key == b"cookie") > MAX_HEADER
    )
    ours = [value for value in values if value.isascii() and 0 < len(value) <= MAX_COOKIE - len(name)]
    return None if too_much or (values and not ours) else ours


SPECIAL = [
    b"=",
    b";",
    b" ",
    b"\t",
    b" \t ",
    b"; ",
    b",",
    b'"',
    b"\\",
    b"\\073",
    b"%3B",
    b"$Version",
    b"\0",
    b"\r",
    b"\n",
]
SPECIAL += [b"\x0b", b"\x0c", b"\x85", b"\xa0", b"\xff"]


@st.composite
def nasty_requests(draw: st.DrawFn) -> tuple[Headers, str]:
    """Headers with the wanted name, similar names and separators in any order."""
    name = draw(st.sampled_from(NAMES))
    relatives = [name.encode(), name.swapcase().encode(), *(other.encode() for other in NAMES)]
    pieces = st.one_of(
        st.just(name.encode()),
        st.sampled_from([b"=", b"=", b";"]),
        st.sampled_from(relatives),
        st.sampled_from(SPECIAL),
    )
    header = st.lists(pieces, max_size=20).map(b"".join) | st.binary(max_size=20)
    keys = st.sampled_from([b"cookie", b"cookie", b"cookie", b"x-cookie", b"set-cookie"])
    return draw(st.lists(st.tuples(keys, header), max_size=4)), name


@pytest.mark.guarantee(6)
@given(nasty_requests())
@example((cookie(b"a=1; a=2; a=3; a=4"), "a"))
@example((cookie(b"a=1; a=2; a=3", b"a=4;a=5"), "a"))
@example((cookie(b"a=1; a=2; a=3; a=4; a=1; a=2"), "a"))
@example((cookie(b"aba=1;abaaba=2;ababa=3; aba aba=4"), "aba"))
def test_cookies_are_read_as_by_a_slow_parser_that_is_obviously_correct(request_: tuple[Headers, str]) -> None:
    headers, name = request_

    assert found(headers, name) == read_slowly(headers, name.encode())


@rows(
    ("header", "values"),
    [
        (b"session=x", [b"x"]),
        (b"a=1; session=x; b=2", [b"x"]),
        (b"a=1;session=x;b=2", [b"x"]),
        (b"  session \t=\t x \t;", [b"x"]),
        (b"session=x y", [b"x y"]),
        (b"session=a=b==", [b"a=b=="]),
        (b"session=", None),
        (b"session=;session=x", [b"x"]),
        (b"session=x; session=y", [b"x", b"y"]),
        (b"session=y; session=x", [b"y", b"x"]),
        (b"session=x; session=x", [b"x"]),
        (b'session="x"', [b"x"]),
        (b'session="a/b+c=="', [b"a/b+c=="]),
        (b'session="x"; session=x', [b"x"]),
        (b'session="x"; session="y"', [b"x", b"y"]),
        (b'session= "x" ', [b"x"]),
        (b'session="x', [b'"x']),
        (b'session=x"', [b'x"']),
        (b'session=""', None),
        (b'session="', [b'"']),
        (b'session=""x""', [b'"x"']),
        (b'session="a;b"', [b'"a']),
        (b"session='x'", [b"'x'"]),
        (b"session=%78", [b"%78"]),
        (b"session=\\170", [b"\\170"]),
        (b"session=x,session=y", [b"x,session=y"]),
        (b"session=x\x0b", [b"x\x0b"]),
        (b"session=\xa0x", None),
        (b"session=\xffx; session=y", [b"y"]),
        (b"\xa0session=x", []),
        (b"\nsession=x", []),
        (b"Session=x; SESSION=y", []),
        (b"SESSION=session", []),
        (b"xsession=x", []),
        (b"x session=x", []),
        (b"x-session=x", []),
        (b"session-1=x", []),
        (b"sessionx=x", []),
        (b"session", []),
        (b"session; x", []),
        (b"=session=x", []),
        (b"=session", []),
        (b"a=session=x", []),
        (b"a=; =session=x", []),
        (b"a==;session=x", [b"x"]),
        (b"", []),
        (b";;;=;;", []),
    ],
)
def test_values_are_read_from_a_header_as_in_the_table(header: bytes, values: list[bytes] | None) -> None:
    assert read(header) == values


def test_several_cookie_headers_are_one_list() -> None:
    assert read(b"a=1", b"session=x; b=2", b"session=y") == [b"x", b"y"]


def test_only_the_cookie_header_is_read_at_any_position() -> None:
    others = [(b"x-cookie", b"session=a"), (b"set-cookie", b"session=b"), (b"host", b"session=c")]
    headers = [*others, (b"cookie", b"session=x"), *others, (b"cookie", b"session=y"), *others]

    assert found(others, "session") == []
    assert found(headers, "session") == [b"x", b"y"]


def test_a_special_character_in_the_name_is_matched_literally() -> None:
    assert read(b"axb=1; a.b=2", name="a.b") == [b"2"]
    assert read(b"a=1; b=2; a|b=3", name="a|b") == [b"3"]


def test_the_maximum_number_of_values_is_accepted_and_one_more_is_not() -> None:
    pairs = [b"session=%d" % index for index in range(MAX_SAME_NAME)]

    assert read(b"; ".join(pairs)) == [b"%d" % index for index in range(MAX_SAME_NAME)]
    assert read(b"; ".join([*pairs, b"session=x"])) is None
    assert read(*pairs, b"session=x") is None
    assert read(*pairs, *pairs) is not None


def test_the_maximum_number_of_bytes_is_accepted_and_one_more_is_not() -> None:
    padding = b"x" * (MAX_HEADER - len(b"session=y;"))

    assert read(b"session=y;" + padding) == [b"y"]
    assert count(cookie(b"session=y;" + padding), "session") == 1
    assert read(b"session=y;" + padding + b"x") is None
    assert count(cookie(b"session=y;" + padding + b"x"), "session") == 0
    assert read(b"session=y", padding) == [b"y"]  # the separator between two headers counts as a byte
    assert read(b"session=y", padding, b"x") is None


# Hostile input: the work is bounded


class Untouchable(bytes):
    """A header that fails the test if anything except its length is read."""

    def look(self, *args: object) -> NoReturn:
        raise AssertionError(f"{len(self)} bytes were searched")

    __contains__ = __getitem__ = __iter__ = find = index = count = look  # type: ignore[assignment]
    partition = rfind = rpartition = replace = split = strip = look  # type: ignore[assignment]


def test_a_megabyte_of_cookies_is_not_searched() -> None:
    assert read(Untouchable(b"session=" + b"x" * 2**20)) is None


def test_after_too_many_bytes_no_further_header_is_searched() -> None:
    assert read(*[b"x" * 1000] * 65, *[Untouchable(b"x" * 1000)] * 10_000) is None


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "cookies of other names": lambda size: b"; ".join(b"c%d=%d" % (at, at) for at in range(size // 10)),
    "one value again and again": lambda size: b"session=x;" * (size // 10),
    "empty values": lambda size: b"session=;" * (size // 9),
    "values that differ": lambda size: b";".join(b"session=%d" % at for at in range(size // 12)),
    "the name repeated": lambda size: b"session" * (size // 7),
    "the name repeated, in one value": lambda size: b"session=" * (size // 8),
    "the name repeated, with blanks": lambda size: b"session " * (size // 8),
    "the name repeated, in the names of others": lambda size: b"x session=y;" * (size // 12),
    "semicolons": lambda size: b";" * size,
    "equals signs": lambda size: b"=" * size,
    "backslashes": lambda size: b'session="' + b"\\" * size + b'"',
    "quotes": lambda size: b"session=" + b'"' * size,
    "octal escapes": lambda size: b"session=" + b"\\073" * (size // 4),
    "blanks": lambda size: b" " * size,
    "blanks before the name": lambda size: b" \t" * (size // 2) + b"session=x",
    "blanks after the name": lambda size: b"session" + b" " * size,
    "blanks before the value": lambda size: b"session=" + b" " * size + b"x",
    "blanks inside of the value": lambda size: b"session=x" + b" " * size + b"x",
    "blanks after the value": lambda size: b"session=x" + b" " * size,
    "blanks before each name": lambda size: (b" " * 20 + b"session=x;") * (size // 30),
}


def steps_of(action: Callable[[], object]) -> int:
    """The number of Python lines that were run."""
    steps = 0

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal steps
        steps += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return steps


@pytest.mark.guarantee(6)
@rows("attack", HOSTILE)
def test_twice_the_input_takes_at_most_twice_the_work(attack: str) -> None:
    """Quadratic work would take four times as many steps at any size, so small inputs show it."""
    header = HOSTILE[attack]

    once = steps_of(lambda: read(header(2_000)))
    twice = steps_of(lambda: read(header(4_000)))

    assert twice <= 2 * once + 100


@rows("attack", HOSTILE)
def test_64_kib_of_hostile_input_are_read_fast(attack: str) -> None:
    """Work in C cannot be counted, only timed.

    Linear work takes a few milliseconds. Quadratic work (a regular expression that may begin with blanks, or a search
    that restarts for each pair) would be 2^32 / 2 steps: seconds on any machine. One second is far from both.
    """
    header = HOSTILE[attack](MAX_HEADER)[:MAX_HEADER]

    began_at = time.thread_time()
    values = read(header)
    took = time.thread_time() - began_at

    assert took < 1
    assert values == read_slowly(cookie(header), b"session")


@pytest.mark.guarantee(6)
def test_ten_thousand_cookies_are_read_like_ten() -> None:
    others = b";".join(b"%x=" % at for at in range(10_000))

    assert read(others + b"; session=x") == [b"x"]


def test_backslashes_are_literal_and_twenty_thousand_are_too_long() -> None:
    assert read(b'session="' + b"\\" * 4_000 + b'"') == [b"\\" * 4_000]
    assert read(b'session="' + b"\\" * 20_000 + b'"') is None


# Settings: combinations that browsers reject fail at construction, and the message names the cure


@rows("name", ["session", "a", "A-b_c.d", "!#$%&'*+-.^_`|~0", "__Host-session", "x" * (MAX_COOKIE // 2)])
def test_a_cookie_name_is_a_token(name: str) -> None:
    assert CookieSpec(name).name == name


@rows(
    "name",
    ["", " ", "a b", "a;b", "a=b", "a,b", 'a"b', "a\\b", "a\n", "\ta", "a\0", "a\x7f", "é", "a/b", "a@b", "[a]", "a:b"],
)
def test_a_name_that_is_not_a_token_is_rejected(name: str) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"^session_cookie=.* letters, digits and any of !#\$%&'\*\+-\.\^_`\|~"
    ):
        CookieSpec(name)


@rows("name", [None, b"session", 1, ["session"]])
def test_a_name_that_is_not_a_str_is_rejected(name: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=f"^session_cookie must be a str, not {type(name).__name__}"):
        CookieSpec(name)


def test_a_name_that_leaves_no_room_for_a_value_is_rejected() -> None:
    with pytest.raises(ImproperlyConfigured, match="session_cookie leaves no room for a value"):
        CookieSpec("x" * (MAX_COOKIE // 2 + 1))


@rows("path", ["/", "/app", "/app/", "/a%20b", "/a:b@c,d=e", "/~x"])
def test_a_path_begins_with_a_slash(path: str) -> None:
    assert CookieSpec(path=path).path == path


@rows("path", ["", "app", "/a;b", "/a b", "/a\n", "/a\r\nSet-Cookie: x=y", "/é", "/a\0", "/\x7f", "*"])
def test_a_path_that_could_break_out_of_the_header_is_rejected(path: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r'^path=.* printable ASCII without ";", beginning with "/"'):
        CookieSpec(path=path)


@rows("domain", ["example.com", ".example.com", "a.b-c.d", "localhost", "127.0.0.1", "xn--bcher-kva.example"])
def test_a_domain_is_a_host_name(domain: str) -> None:
    assert CookieSpec(domain=domain).domain == domain


@rows(
    "domain",
    [
        "",
        ".",
        "https://example.com",
        "example.com:8000",
        "example.com/",
        "a b",
        "a;b",
        "a\n",
        "a, b",
        "bücher.example",
        "-a",
        "a.",
    ],
)
def test_a_domain_that_is_not_a_host_name_is_rejected(domain: str) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"^domain=.* a host name such as example\.com, without scheme and port"
    ):
        CookieSpec(domain=domain)


@pytest.mark.guarantee(6)
@rows("setting", ["path", "domain"])
def test_a_list_instead_of_a_str_is_rejected(setting: str) -> None:
    settings: Any = {setting: ["/"]}

    with pytest.raises(ImproperlyConfigured, match=f"^{setting} must be a str, not list"):
        CookieSpec(**settings)


@rows("same_site", ["Lax", "", None, False, ["lax"], "lax; secure"])
def test_an_unknown_same_site_is_rejected(same_site: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r'^same_site must be "lax", "strict" or "none", not '):
        CookieSpec(same_site=same_site)


@rows("https_only", ["yes", "auto", [], 2])
def test_an_unknown_https_only_is_rejected(https_only: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^https_only must be True, False or None"):
        CookieSpec(https_only=https_only)


@pytest.mark.requirement("ASVS 3.3.3")
@rows("name", ["__Host-s", "__host-s", "__HOST-s", "__Host-Http-s"])
@rows(
    ("settings", "cure"),
    [
        ({"domain": "example.com"}, r"must not have a domain: remove domain=…, or use the prefix __Secure-"),
        ({"path": "/app"}, r'needs path="/": remove path=…, or use the prefix __Secure-'),
        ({"https_only": False}, r"without Secure .*remove https_only=False.*localhost"),
    ],
)
def test_a_host_cookie_is_bound_to_its_host_and_secure(name: str, settings: dict[str, Any], cure: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=cure) as caught:
        CookieSpec(name, **settings)

    assert name in str(caught.value)


@rows("name", ["__Secure-s", "__secure-s", "__Http-s", "__HTTP-s"])
def test_a_secure_cookie_is_secure(name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="remove https_only=False"):
        CookieSpec(name, https_only=False)

    assert CookieSpec(name, domain="example.com", path="/app").is_secure("http")


@rows("name", ["__Host-s", "__Host-Http-s"])
@rows("settings", [{}, {"path": "/"}, {"https_only": True}])
def test_a_host_cookie_that_browsers_accept_is_accepted(name: str, settings: dict[str, Any]) -> None:
    spec = CookieSpec(name, **settings)

    assert spec.is_secure("http")
    assert spec.path == "/"


@rows("name", ["__Hosts", "_Host-s", "x__Host-s", "Host-s", "__Securely"])
def test_a_name_that_only_resembles_a_prefix_has_none(name: str) -> None:
    assert not CookieSpec(name, domain="example.com", path="/app", https_only=False).is_secure("https")


@pytest.mark.requirement("ASVS 3.3.2")
@rows("https_only", [None, False])
def test_same_site_none_needs_secure(https_only: bool | None) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r'SameSite=None without Secure: pass https_only=True with same_site="none"'
    ):
        CookieSpec(same_site="none", https_only=https_only)


def test_same_site_none_with_secure_is_accepted() -> None:
    assert CookieSpec(same_site="none", https_only=True).is_secure("http")


def test_a_partitioned_cookie_is_secure() -> None:
    assert CookieSpec(partitioned=True).is_secure("http")

    with pytest.raises(ImproperlyConfigured, match=r"partitioned=True needs it.*remove https_only=False"):
        CookieSpec(partitioned=True, https_only=False)


@rows(
    ("https_only", "scheme", "secure"),
    [
        (None, "https", True),
        (None, "wss", True),
        (None, "http", False),
        (None, "ws", False),
        (True, "http", True),
        (True, "ws", True),
        (False, "https", False),
        (False, "wss", False),
    ],
)
def test_secure_follows_the_request_unless_it_is_forced(https_only: bool | None, scheme: str, secure: bool) -> None:
    assert CookieSpec(https_only=https_only).is_secure(scheme) == secure


# The form of Set-Cookie


@pytest.mark.requirement("ASVS 3.3.2", "ASVS 3.3.4", "NIST 5.1.1(3)", "NIST 5.1.1(6)")
@rows(
    ("settings", "max_age", "secure", "header"),
    [
        ({}, 60, False, b"n=v; path=/; Max-Age=60; httponly; samesite=lax"),
        ({}, None, False, b"n=v; path=/; httponly; samesite=lax"),
        ({"path": "/app"}, 60, True, b"n=v; path=/app; Max-Age=60; httponly; samesite=lax; secure"),
        ({"same_site": "strict"}, 1, False, b"n=v; path=/; Max-Age=1; httponly; samesite=strict"),
        (
            {"domain": "example.com"},
            60,
            False,
            b"n=v; path=/; Max-Age=60; httponly; samesite=lax; domain=example.com",
        ),
        ({"partitioned": True}, 60, True, b"n=v; path=/; Max-Age=60; httponly; samesite=lax; secure; partitioned"),
        (
            {"same_site": "none", "https_only": True, "domain": "a.b", "partitioned": True},
            60,
            True,
            b"n=v; path=/; Max-Age=60; httponly; samesite=none; secure; domain=a.b; partitioned",
        ),
    ],
)
def test_a_cookie_is_set_in_exactly_one_form(
    settings: dict[str, Any], max_age: int | None, secure: bool, header: bytes
) -> None:
    assert CookieSpec(**settings).set("n", "v", max_age, secure) == (b"set-cookie", header)


@rows("partitioned", [False, True])
@rows("domain", [None, "example.com"])
@rows("same_site", ["lax", "strict", "none"])
@rows("secure", [False, True])
def test_a_cookie_is_cleared_with_the_attributes_that_it_was_set_with(
    same_site: Any, domain: str | None, partitioned: bool, secure: bool
) -> None:
    spec = CookieSpec("n", same_site, True, "/app", domain, partitioned)

    _, given = spec.set("n", "v", 60, secure)
    _, taken = spec.set("n", "null", 0, secure)

    gone = b"expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0"
    assert taken == given.replace(b"n=v", b"n=null").replace(b"Max-Age=60", gone)


def test_the_repr_of_a_spec_hides_its_internals() -> None:
    assert repr(CookieSpec("n")) == (
        "CookieSpec(name='n', same_site='lax', https_only=None, path='/', domain=None, partitioned=False)"
    )
