"""Signed tokens: valid only with the key and the cookie's name, and invalid if one bit changes."""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import BadSignature, SignatureExpired, TimestampSigner
from itsdangerous import Signer as ItsdangerousSigner

from starsessions.core.binding import binding_for
from starsessions.core.encoding import from_base64url, to_base64url
from starsessions.core.record import LAST_INSTANT, MissReason, Record
from starsessions.sealing.envelope import pack
from starsessions.sealing.keys import derive
from starsessions.sealing.signed import PREFIX, Signer, StarletteSigner
from tests.rows import rows

KEY, OLD_KEY, OTHER_KEY = b"new key of the application, long enough", b"its old key", b"a stranger's key"
PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]

RECORD = Record(b'{"user":1}', 1_700_000_000, 1_700_000_000)
OWN_RECORD = Record(b"\x81\xa4user\x01", 1_600_000_000, 1_700_000_000, 60, None, True)

records = st.builds(
    Record,
    st.binary(max_size=200),
    st.integers(0, LAST_INSTANT),
    st.integers(0, LAST_INSTANT),
    st.none() | st.integers(1, LAST_INSTANT),
    st.none() | st.integers(0, LAST_INSTANT),
    st.booleans(),
)


def signer(*keys: bytes, name: str = "session", compress: bool = False) -> Signer:
    return Signer(list(keys) or [KEY], binding_for(name), compress)


def starlette(*keys: bytes) -> StarletteSigner:
    return StarletteSigner(list(keys) or [KEY])


class FrozenTimestampSigner(TimestampSigner):
    """itsdangerous, with a clock that only the test advances."""

    def __init__(self, key: bytes, now: int) -> None:
        super().__init__(key)
        self.now = now

    def get_timestamp(self) -> int:
        return self.now


# The form of Starlette


objects = st.binary(max_size=200).map(b"{%b".__mod__)
"""What begins like a JSON object, and may go on with anything."""


@given(objects, st.integers(0, 2**40), st.binary(min_size=1, max_size=80))
def test_itsdangerous_verifies_the_librarys_tokens(payload: bytes, now: int, key: bytes) -> None:
    token = StarletteSigner([key]).seal(Record(payload, now, now))

    value = FrozenTimestampSigner(key, now).unsign(token, max_age=0)

    assert value == b64encode(payload)


@given(objects, st.integers(0, 2**40), st.binary(min_size=1, max_size=80))
def test_the_library_verifies_tokens_of_itsdangerous(payload: bytes, now: int, key: bytes) -> None:
    token = FrozenTimestampSigner(key, now).sign(b64encode(payload)).decode()

    assert StarletteSigner([key]).open(token) == Record(payload, now, now)


@given(objects, st.integers(0, 2**40))
def test_both_write_the_same_bytes(payload: bytes, now: int) -> None:
    theirs = FrozenTimestampSigner(KEY, now).sign(b64encode(payload)).decode()

    assert starlette().seal(Record(payload, now, now)) == theirs


@rows("payload", [b"\x81\xa7user_id\x01", b"[1]", b'"text"', b"1", b" {}", b"null"])
def test_other_text_signed_with_the_key_is_a_session_only_if_it_is_a_json_object(
    payload: bytes,
) -> None:
    token = FrozenTimestampSigner(KEY, 1).sign(b64encode(payload)).decode()
    assert starlette().open(token) is MissReason.UNDECODABLE


def test_itsdangerous_reads_the_age_of_the_librarys_tokens() -> None:
    token = starlette().seal(RECORD)

    with pytest.raises(SignatureExpired):
        FrozenTimestampSigner(KEY, RECORD.renewed_at + 61).unsign(token, max_age=60)
    with pytest.raises(BadSignature):
        FrozenTimestampSigner(OTHER_KEY, RECORD.renewed_at).unsign(token)


@rows("token", ["", ".", "..", "a", "a.b", ".a.b", "s1.", "s1", "~2~abc", "null"])
def test_a_token_without_three_parts_is_malformed(token: str) -> None:
    assert starlette().open(token) is MissReason.MALFORMED


@rows("value", [b"?", b"a", b"YQ", b"YQ==x", b"Y Q=", b"{}", b"a.b", b"YQ==\n", b"=", b"Y-_="])
def test_a_signed_value_that_is_no_base64_is_undecodable(value: bytes) -> None:
    """It is signed with the application's key, by other code of the application."""
    token = FrozenTimestampSigner(KEY, 1).sign(value).decode()

    assert starlette().open(token) is MissReason.UNDECODABLE


@pytest.mark.guarantee(9)
@given(st.text(st.sampled_from("aA0-_=.~"), min_size=1, max_size=12))
def test_any_text_signed_with_the_key_causes_no_error(text: str) -> None:
    token = ItsdangerousSigner(KEY, salt="itsdangerous.Signer").sign(text).decode()

    assert isinstance(starlette().open(token), (Record, MissReason))


def test_a_signature_with_another_salt_is_refused() -> None:
    token = TimestampSigner(KEY, salt="password-reset").sign(b64encode(b"{}")).decode()

    assert starlette().open(token) is MissReason.BAD_SIGNATURE


def test_non_ascii_text_is_ignored_without_an_error() -> None:
    """No cookie gets this far; `await backend.read(…)` with whatever an application was given does."""
    for open_token in (starlette().open, signer().open):
        assert open_token("s1.é") is MissReason.MALFORMED
        assert isinstance(open_token("é.é.é"), MissReason)


# Our own form


@given(records, st.booleans())
def test_a_token_can_be_read_back(record: Record, compress: bool) -> None:
    sealing = signer(compress=compress)

    assert sealing.open(sealing.seal(record)) == record


@given(records)
def test_a_token_needs_no_quoting_and_has_one_spelling(record: Record) -> None:
    token = signer().seal(record)

    assert token.startswith(PREFIX)
    assert to_base64url(from_base64url(token[len(PREFIX) :])) == token[len(PREFIX) :]
    assert token == signer().seal(record)


def test_compression_makes_it_shorter_and_needs_no_setting_to_be_read() -> None:
    record = Record(b"again and " * 100, 1, 1)

    token = signer(compress=True).seal(record)

    assert len(token) < len(signer().seal(record)) / 5
    assert signer().open(token) == record


def test_the_format_matches_the_docstring() -> None:
    """Computed without the library's code, except for the key derivation, which has its own test."""
    raw = from_base64url(signer().seal(OWN_RECORD)[len(PREFIX) :])

    key = derive(KEY, b"starsessions/v1/signed-cookie/7:session/7:session/")
    assert raw[:32] == hmac.digest(key, raw[32:], "sha256")
    assert raw[32:] == pack(OWN_RECORD)


@rows("text", ["", "!", "a", "abc=", "é", "a b", to_base64url(bytes(31)), to_base64url(bytes(32))])
def test_text_that_cannot_be_a_token_is_malformed(text: str) -> None:
    assert signer().open(PREFIX + text) is MissReason.MALFORMED


@given(st.binary(min_size=1, max_size=60))
def test_a_valid_envelope_with_any_content_causes_no_error(raw: bytes) -> None:
    mac = hmac.digest(derive(KEY, b"starsessions/v1/signed-cookie/7:session/7:session/"), raw, hashlib.sha256)

    assert isinstance(signer().open(PREFIX + to_base64url(mac + raw)), Record) or (
        signer().open(PREFIX + to_base64url(mac + raw)) is MissReason.UNDECODABLE
    )


@rows("raw", [b"\0", b"\0rubbish", b"\1rubbish", b"\2", b"\0\x90", b"\xff" * 40])
def test_a_verified_envelope_that_holds_no_record_is_undecodable(raw: bytes) -> None:
    mac = hmac.digest(derive(KEY, b"starsessions/v1/signed-cookie/7:session/7:session/"), raw, hashlib.sha256)

    assert signer().open(PREFIX + to_base64url(mac + raw)) is MissReason.UNDECODABLE


# Both: nothing but the token itself is accepted

FORMS: dict[str, tuple[Callable[..., Any], Record, str]] = {
    "starlette": (starlette, RECORD, ""),
    "own": (signer, OWN_RECORD, PREFIX),
    "own, compressed": (lambda *keys: signer(*keys, compress=True), Record(b"a" * 500, 1, 2), PREFIX),
}
forms = pytest.mark.parametrize("form", FORMS)


def refused(result: object) -> bool:
    return result in (MissReason.BAD_SIGNATURE, MissReason.MALFORMED)


@forms
def test_a_token_with_one_other_character_is_refused(form: str) -> None:
    make, record, prefix = FORMS[form]
    sealing = make()
    token = sealing.seal(record)
    assert sealing.open(token) == record

    for at in range(len(prefix), len(token)):
        for character in PRINTABLE:
            if character != token[at]:
                assert refused(sealing.open(token[:at] + character + token[at + 1 :]))


@forms
def test_a_token_with_one_bit_flipped_is_refused(form: str) -> None:
    make, record, prefix = FORMS[form]
    sealing = make()
    token = sealing.seal(record)

    for at in range(len(prefix), len(token)):
        for bit in range(7):  # the eighth makes no ASCII of it, which ends before a seal is looked at
            flipped = token[:at] + chr(ord(token[at]) ^ 1 << bit) + token[at + 1 :]
            assert refused(sealing.open(flipped))


@forms
def test_a_token_that_was_cut_or_extended_is_refused(form: str) -> None:
    make, record, prefix = FORMS[form]
    sealing = make()
    token = sealing.seal(record)
    body = token[len(prefix) :]

    for at in range(len(body)):
        assert refused(sealing.open(prefix + body[:at]))
        assert refused(sealing.open(prefix + body[at + 1 :]))
        assert refused(sealing.open(prefix + body[:at] + body[at + 1 :]))
        assert refused(sealing.open(prefix + body[:at] + "A" + body[at:])) or body[at] == "A"
    for tail in (*PRINTABLE, "AAAA", "=", "==", "\n", " ", body, token, f".{body}"):
        assert refused(sealing.open(token + tail))
    for head in (*PRINTABLE, "AAAA", "\n", " ", body):
        assert refused(sealing.open(prefix + head + body))


@forms
def test_two_tokens_cannot_be_made_into_a_third(form: str) -> None:
    make, record, prefix = FORMS[form]
    sealing = make()
    one = sealing.seal(record)[len(prefix) :]
    other = sealing.seal(Record(record.payload, record.began_at + 1, record.renewed_at + 1))[len(prefix) :]

    for at in range(len(one)):
        mixed = one[:at] + other[at:]
        assert mixed in (one, other) or refused(sealing.open(prefix + mixed))


@forms
def test_the_first_key_writes_and_all_keys_read(form: str) -> None:
    make, record, _ = FORMS[form]

    assert make(KEY, OLD_KEY).seal(record) == make(KEY).seal(record)
    assert make(KEY, OLD_KEY).open(make(KEY).seal(record)) == record
    assert make(KEY, OLD_KEY).open(make(OLD_KEY).seal(record)) == record
    assert make(OTHER_KEY, OLD_KEY, KEY).open(make(KEY).seal(record)) == record


@forms
def test_a_token_of_a_key_that_is_not_listed_is_invalid(form: str) -> None:
    make, record, _ = FORMS[form]

    assert make(KEY, OLD_KEY).open(make(OTHER_KEY).seal(record)) is MissReason.BAD_SIGNATURE
    assert make(KEY).open(make(OLD_KEY).seal(record)) is MissReason.BAD_SIGNATURE


def test_a_token_is_valid_for_one_cookie_name_only() -> None:
    token = signer(name="admin").seal(OWN_RECORD)

    assert signer(name="session").open(token) is MissReason.BAD_SIGNATURE
    assert signer(name="admin").open(token) == OWN_RECORD


def test_one_format_cannot_be_passed_off_as_the_other() -> None:
    own, theirs = signer().seal(OWN_RECORD), starlette().seal(RECORD)

    assert refused(starlette().open(own))
    assert refused(signer().open(theirs))
    assert refused(signer().open(PREFIX + theirs))
    assert refused(starlette().open(own[len(PREFIX) :]))


def test_a_token_in_starlettes_format_is_never_read_as_s1() -> None:
    """Text signed by the application's own `TimestampSigner` must not be accepted as a session."""
    for value in (PREFIX + "AAAA", signer(OTHER_KEY).seal(OWN_RECORD)):
        token = TimestampSigner(KEY).sign(value).decode()

        assert refused(signer().open(token))
