"""base64url, and base64 with padding, with exactly one text for each value."""

from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from starsessions.core.encoding import from_base64, from_base64url, is_valid_id, to_base64, to_base64url
from tests.rows import rows

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def is_refused(text: str, read: Callable[[str], bytes] = from_base64url) -> bool:
    try:
        read(text)
    except ValueError:  # or a subclass: callers catch ValueError only
        return True
    return False


@given(st.binary(max_size=100))
def test_bytes_decode_to_what_was_encoded(raw: bytes) -> None:
    assert from_base64url(to_base64url(raw)) == raw


@given(st.binary(max_size=100))
def test_base64url_equals_the_standard_librarys_without_padding(raw: bytes) -> None:
    assert to_base64url(raw) == urlsafe_b64encode(raw).decode().rstrip("=")


@given(st.text(st.sampled_from(ALPHABET), max_size=20))
@example("A")
@example("AAAAA")
def test_base64url_text_is_canonical_or_rejected(text: str) -> None:
    try:
        raw = from_base64url(text)
    except ValueError:
        assert len(text) % 4 == 1 or to_base64url(urlsafe_b64decode(text + "=" * (-len(text) % 4))) != text
    else:
        assert to_base64url(raw) == text


@rows("raw", [b"\0", b"\0\0", b"\xff", b"\xff\xff", bytes(4), bytes(32), bytes(range(31))])
def test_of_texts_that_differ_in_the_last_character_one_is_accepted(raw: bytes) -> None:
    text = to_base64url(raw)
    accepted = []

    for last in ALPHABET:
        try:
            accepted.append((last, from_base64url(text[:-1] + last)))
        except ValueError:
            continue

    assert (text[-1], raw) in accepted
    assert len({value for _, value in accepted}) == len(accepted)


@given(st.text(st.sampled_from("A-_=+/ \n\té\0٣\ud800"), max_size=12))
def test_only_letters_digits_dash_and_underscore_are_accepted(text: str) -> None:
    assert set(text) <= set(ALPHABET) or is_refused(text)


@rows(
    "text",
    [
        "AAAA\n",
        "\nAAAA",
        "AAAA=",
        "AA==",
        "AA=",
        "AA A",
        "A+AA",
        "A/AA",
        "AAAA\0",
        "\uff21AAA",
        "AAAA====",
        "AAAA\n\n\n\n",
        "AA    AA",
        "++++AAAA",
        "////AAAA",
        "A+A+A+A+",
        "AAA=AAA=",
        "!!!!",
        "====",
    ],
)
def test_a_non_canonical_text_is_rejected(text: str) -> None:
    assert is_refused(text)


# With padding

STANDARD = ALPHABET[:-2] + "+/"


@given(st.binary(max_size=100))
def test_base64_equals_the_standard_librarys_and_decodes_again(raw: bytes) -> None:
    assert to_base64(raw) == b64encode(raw).decode()
    assert from_base64(to_base64(raw)) == raw


@given(st.text(st.sampled_from(STANDARD), max_size=20), st.sampled_from(["", "=", "==", "==="]))
@example("AA", "")
@example("AB", "==")
@example("AAB", "=")
def test_base64_text_is_canonical_or_rejected(text: str, padding: str) -> None:
    try:
        raw = from_base64(text + padding)
    except ValueError:
        with suppress(ValueError):
            assert b64encode(b64decode(text + padding, validate=True)).decode() != text + padding
    else:
        assert to_base64(raw) == text + padding


@rows("raw", [b"\0", b"\0\0", b"\xff", b"\xff\xff", bytes(4), bytes(32), bytes(range(31))])
def test_of_padded_texts_that_differ_near_the_end_one_is_accepted(raw: bytes) -> None:
    text = to_base64(raw)

    for at in range(len(text) - 4, len(text)):
        texts = [text[:at] + other + text[at + 1 :] for other in f"{STANDARD}="]
        read = [from_base64(one) for one in texts if not is_refused(one, from_base64)]
        assert raw in read
        assert len(set(read)) == len(read)


UNPADDED = ["A", "AA", "AAA", "AAAA=", "A===", "====", "AAAA====", "AA==AA=="]
STRANGE = ["AA A", "AAAA\n", "\nAAAA", "AAAA\0", "A-AA", "A_AA", "\uff21AAA", "\ud800AAA", "é"]
QUOTED = ['"AAA', 'AAAA"', 'AAAA","', "\\u0041AAA", "A\\/AA", "\\/\\/"]


@rows("text", [*UNPADDED, *STRANGE, *QUOTED])
def test_a_non_canonical_padded_text_is_rejected(text: str) -> None:
    assert is_refused(text, from_base64)


# Ids


@rows("text", ["a", "a" * 43, "a" * 128, ALPHABET, "-", "_"])
def test_an_id_of_safe_characters_may_reach_a_backend(text: str) -> None:
    assert is_valid_id(text)


@rows(
    "text",
    [
        "",
        "a" * 129,
        "a\n",
        "\na",
        "a b",
        "a.b",
        "../a",
        "a/b",
        "a:b",
        "a'b",
        'a"b',
        "a%00",
        "a\0",
        "é",
        "٣",
        "\uff41",
        "*",
        "{a}",
    ],
)
def test_other_text_never_reaches_a_backend(text: str) -> None:
    assert not is_valid_id(text)
