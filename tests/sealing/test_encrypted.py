"""Encrypted tokens: readable only with the key and the cookie's name."""

import sys

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from starsessions.core.binding import DEFAULT_BINDING, binding_for
from starsessions.core.encoding import from_base64, to_base64
from starsessions.core.record import LAST_INSTANT, MissReason, Record
from starsessions.exceptions import ImproperlyConfigured
from starsessions.sealing import signed
from starsessions.sealing.encrypted import PREFIX, Encrypter
from starsessions.sealing.envelope import pack
from starsessions.sealing.signed import Signer, StarletteSigner
from tests.rows import rows

KEY, OLD_KEY, OTHER_KEY = b"new key of the application, long enough", b"its old key", b"a stranger's key"
LABEL = b"starsessions/v1/encrypted-cookie/7:session/7:session/"
KEY_ID = b"starsessions/v1/key-id/7:session/7:session/"
PRINTABLE = [chr(code) for code in range(0x21, 0x7F)]

RECORD = Record(b"\x81\xa4user\x01", 1_600_000_000, 1_700_000_000, 60, None, True)

records = st.builds(
    Record,
    st.binary(max_size=200),
    st.integers(0, LAST_INSTANT),
    st.integers(0, LAST_INSTANT),
    st.none() | st.integers(1, LAST_INSTANT),
    st.none() | st.integers(0, LAST_INSTANT),
    st.booleans(),
)


def encrypter(*keys: bytes, name: str = "session", compress: bool = False) -> Encrypter:
    return Encrypter(list(keys) or [KEY], binding_for(name), compress)


def hkdf(key: bytes, label: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt=None, info=label).derive(key)


def refused(result: object) -> bool:
    return result in (MissReason.BAD_SIGNATURE, MissReason.MALFORMED)


@given(records, st.booleans())
def test_a_token_can_be_read_back(record: Record, compress: bool) -> None:
    token = encrypter(compress=compress).seal(record)

    assert encrypter().open(token) == record


@given(records)
def test_a_token_needs_no_quoting_and_has_one_spelling(record: Record) -> None:
    token = encrypter().seal(record)

    assert token.startswith(PREFIX)
    assert to_base64(from_base64(token[len(PREFIX) :])) == token[len(PREFIX) :]


def test_encrypting_the_same_session_never_gives_the_same_token() -> None:
    tokens = [from_base64(encrypter().seal(RECORD)[len(PREFIX) :]) for _ in range(100)]

    assert len({raw[4:17] for raw in tokens}) == 100
    assert len({raw[17:] for raw in tokens}) == 100
    assert len({raw[4] for raw in tokens}) > 50, "all keys are used"
    assert {raw[:4] for raw in tokens} == {hkdf(KEY, KEY_ID, 4)}


def test_the_token_reveals_nothing_of_the_session() -> None:
    raw = from_base64(encrypter().seal(Record(b"a very private payload", 1, 2))[len(PREFIX) :])

    assert not any(part in raw for part in (b"very", b"private", b"payload"))


def test_the_format_matches_the_docstring() -> None:
    """Decrypted without the library's code, because this format is in users' cookies and must stay."""
    raw = from_base64(encrypter().seal(RECORD)[len(PREFIX) :])

    assert raw[:4] == hkdf(KEY, KEY_ID, 4)
    assert cipher_of(raw[4]).decrypt(raw[5:17], raw[17:], LABEL) == pack(RECORD)


def cipher_of(which: int) -> AESGCM:
    return AESGCM(hkdf(KEY, LABEL + bytes((which,)), 32))


@pytest.mark.guarantee(8)
def test_each_first_byte_that_is_drawn_has_a_key_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a nonce which comes twice breaks nothing unless the byte in front of it does, too."""
    sealing = encrypter()
    sealed = set()
    for which in range(256):
        monkeypatch.setattr("starsessions.sealing.cipher.urandom", lambda length, which=which: bytes((which,)) * length)
        raw = from_base64(sealing.seal(RECORD)[len(PREFIX) :])
        assert raw[4:17] == bytes((which,)) * 13
        moved = raw[:4] + bytes(((which + 1) % 256,)) + raw[5:]
        assert sealing.open(PREFIX + to_base64(moved)) is MissReason.BAD_SIGNATURE
        sealed.add(cipher_of(which).encrypt(bytes(12), b"", LABEL))
    assert len(sealed) == 256


# Compression


def test_compression_makes_it_shorter_and_needs_no_setting_to_be_read() -> None:
    record = Record(b"again and " * 100, 1, 1)

    token = encrypter(compress=True).seal(record)

    assert len(token) < len(encrypter().seal(record)) / 5
    assert encrypter().open(token) == record


# Nothing but the token itself is accepted


@rows("text", ["", "!", "a", "abc=", "é", "a b", to_base64(bytes(32)), to_base64(bytes(33))])
def test_text_that_cannot_be_a_token_is_malformed(text: str) -> None:
    assert encrypter().open(PREFIX + text) is MissReason.MALFORMED


def test_a_token_with_one_other_character_is_refused() -> None:
    sealing = encrypter()
    token = sealing.seal(RECORD)

    for at in range(len(PREFIX), len(token)):
        for character in PRINTABLE:
            if character != token[at]:
                assert refused(sealing.open(token[:at] + character + token[at + 1 :]))


@pytest.mark.guarantee(8)
def test_a_token_with_one_bit_of_its_bytes_flipped_is_refused() -> None:
    sealing = encrypter()
    raw = from_base64(sealing.seal(RECORD)[len(PREFIX) :])

    for at in range(len(raw)):
        for bit in range(8):
            flipped = raw[:at] + bytes((raw[at] ^ 1 << bit,)) + raw[at + 1 :]
            assert sealing.open(PREFIX + to_base64(flipped)) is MissReason.BAD_SIGNATURE


def test_a_token_that_was_cut_or_extended_is_refused() -> None:
    sealing = encrypter()
    token = sealing.seal(RECORD)
    body = token[len(PREFIX) :]

    for at in range(len(body)):
        assert refused(sealing.open(PREFIX + body[:at]))
        assert refused(sealing.open(PREFIX + body[at + 1 :]))
        assert refused(sealing.open(PREFIX + body[:at] + body[at + 1 :]))
    for tail in (*PRINTABLE, "AAAA", "=", "==", "\n", " ", body, token, f".{body}"):
        assert refused(sealing.open(token + tail))
    for head in (*PRINTABLE, "AAAA", "\n", " ", body):
        assert refused(sealing.open(PREFIX + head + body))


def test_two_tokens_cannot_be_made_into_a_third() -> None:
    sealing = encrypter()
    one, other = sealing.seal(RECORD)[len(PREFIX) :], sealing.seal(RECORD)[len(PREFIX) :]

    for at in range(len(one)):
        mixed = one[:at] + other[at:]
        assert mixed in (one, other) or refused(sealing.open(PREFIX + mixed))


@given(st.binary(max_size=80))
def test_garbage_with_a_valid_key_id_is_rejected(raw: bytes) -> None:
    key_id = hkdf(KEY, KEY_ID, 4)

    assert refused(encrypter().open(PREFIX + to_base64(key_id + raw)))


@given(st.binary(min_size=1, max_size=60))
def test_a_valid_envelope_with_any_content_causes_no_error(plain: bytes) -> None:
    sealed = cipher_of(0).encrypt(bytes(12), plain, LABEL)
    token = PREFIX + to_base64(hkdf(KEY, KEY_ID, 4) + bytes(13) + sealed)

    result = encrypter().open(token)

    assert isinstance(result, Record) or result is MissReason.UNDECODABLE


# Keys and purposes


def test_the_first_key_writes_and_all_keys_read() -> None:
    both = encrypter(KEY, OLD_KEY)

    assert encrypter(KEY).open(both.seal(RECORD)) == RECORD
    assert encrypter(OLD_KEY).open(both.seal(RECORD)) is MissReason.BAD_SIGNATURE
    assert both.open(encrypter(KEY).seal(RECORD)) == RECORD
    assert both.open(encrypter(OLD_KEY).seal(RECORD)) == RECORD


def test_a_token_of_a_key_that_is_not_listed_is_invalid() -> None:
    assert encrypter(KEY, OLD_KEY).open(encrypter(OTHER_KEY).seal(RECORD)) is MissReason.BAD_SIGNATURE


@pytest.mark.guarantee(8)
def test_the_key_id_selects_the_only_key_that_is_tried() -> None:
    """No trial decryption: with the id of another key of the list, the right key is not found."""
    both = encrypter(KEY, OLD_KEY)
    raw = from_base64(both.seal(RECORD)[len(PREFIX) :])

    moved = hkdf(OLD_KEY, KEY_ID, 4) + raw[4:]

    assert both.open(PREFIX + to_base64(moved)) is MissReason.BAD_SIGNATURE


def test_a_list_with_the_same_key_twice_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"contains the same key twice"):
        encrypter(KEY, OLD_KEY, KEY)


def test_a_token_is_valid_for_one_cookie_name_only() -> None:
    token = encrypter(name="admin").seal(RECORD)

    assert encrypter(name="session").open(token) is MissReason.BAD_SIGNATURE
    assert encrypter(name="admin").open(token) == RECORD


def test_a_signed_token_is_never_accepted_as_encrypted() -> None:
    own = Signer([KEY], DEFAULT_BINDING).seal(RECORD)
    starlette = StarletteSigner([KEY]).seal(RECORD)

    for token in (own, PREFIX + own[len(signed.PREFIX) :], starlette, PREFIX + starlette):
        assert refused(encrypter().open(token))


def test_an_encrypted_token_is_never_accepted_as_signed() -> None:
    token = encrypter().seal(RECORD)

    for forged in (token, signed.PREFIX + token[len(PREFIX) :]):
        assert refused(Signer([KEY], DEFAULT_BINDING).open(forged))
        assert refused(StarletteSigner([KEY]).open(forged))


# What must be installed


@pytest.mark.parametrize("missing", ["cryptography.exceptions", "cryptography.hazmat.primitives.ciphers.aead"])
def test_without_cryptography_the_error_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)

    with pytest.raises(ImproperlyConfigured, match=r"install the extra starsessions\[encrypted\]"):
        encrypter()
