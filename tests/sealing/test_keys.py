"""Keys: what may be passed as one, and what is derived from it, against published vectors and other people's code."""

import hashlib
import hmac
import logging
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretBytes, SecretStr
from starlette.applications import Starlette
from starlette.datastructures import Secret

from starsessions import CookieBackend, EncryptedCookieBackend, SessionMiddleware
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.core.binding import DEFAULT_BINDING, Purpose
from starsessions.exceptions import ImproperlyConfigured
from starsessions.sealing.keys import derive, hmac_with, key_list
from starsessions.stores.memory import MemoryStore
from tests.rows import rows

STRONG_KEY = "kE9ZxqPz0mB4sT7vY2cD5fG8hJ1lN6rW"


# Key lists


@rows(
    ("keys", "wanted"),
    [
        (STRONG_KEY, [STRONG_KEY.encode()]),
        (STRONG_KEY.encode(), [STRONG_KEY.encode()]),
        (Secret(STRONG_KEY), [STRONG_KEY.encode()]),
        ([STRONG_KEY], [STRONG_KEY.encode()]),
        ((STRONG_KEY, STRONG_KEY.lower().encode()), [STRONG_KEY.encode(), STRONG_KEY.lower().encode()]),
        ([Secret(STRONG_KEY), STRONG_KEY.upper()], [STRONG_KEY.encode(), STRONG_KEY.upper().encode()]),
        (SecretStr(STRONG_KEY), [STRONG_KEY.encode()]),
        ("ключ, который длиннее 32 байтов", ["ключ, который длиннее 32 байтов".encode()]),
    ],
)
def test_one_key_or_a_list_of_them_in_their_order(keys: Any, wanted: list[bytes]) -> None:
    assert key_list(keys) == wanted


# What is wrong with a key

NOT_SET = "is the variable that holds the key set"
WRONG: list[tuple[Any, str]] = [
    (None, NOT_SET),
    ([None], NOT_SET),
    ("", NOT_SET),
    (b"", NOT_SET),
    (Secret(""), NOT_SET),
    (SecretStr(""), NOT_SET),
    ([STRONG_KEY, b""], NOT_SET),
    ([], "is an empty list"),
    ((), "is an empty list"),
    (5, "not int"),
    ({STRONG_KEY}, "not set"),
    ({"key": STRONG_KEY}, "not dict"),
    (iter([STRONG_KEY]), "not list_iterator"),
    ([STRONG_KEY, 5], "not int"),
    ([[STRONG_KEY]], "not list"),
    (bytearray(b"key"), "not int"),
    ("\ud800" * 40, "lone surrogate"),
]
KEYWORDS: dict[str, Callable[[Any], object]] = {
    "secret_key": CookieBackend,
    "secret_key of the middleware": lambda keys: SessionMiddleware(Starlette(), keys),
    "secret_key of the encrypted cookie": EncryptedCookieBackend,
    "accept_signed": lambda keys: EncryptedCookieBackend(STRONG_KEY, accept_signed=keys),
    "encrypt_with": lambda keys: StoreBackend(MemoryStore(), encrypt_with=keys),
    "encrypt_with of Redis": lambda keys: RedisBackend("redis://localhost", encrypt_with=keys),
    "encrypt_with of SQL": lambda keys: SQLAlchemyBackend("sqlite+aiosqlite://", encrypt_with=keys),
}


@pytest.mark.guarantee(8)
@rows(("keys", "wrong"), WRONG, ids=lambda value: type(value).__name__)
@rows("keyword", KEYWORDS)
def test_a_wrong_key_is_refused_under_the_name_of_its_keyword(keyword: str, keys: Any, wrong: str) -> None:
    if keys is None and keyword in ("accept_signed", "secret_key of the middleware"):
        return  # None is their default
    with pytest.raises(ImproperlyConfigured, match=f"^{keyword.split(maxsplit=1)[0]} .*{wrong}") as error:
        KEYWORDS[keyword](keys)
    assert STRONG_KEY not in str(error.value)


def test_a_key_that_is_hidden_from_logs_is_taken_wherever_a_key_is() -> None:
    class Hidden:
        def get_secret_value(self) -> str:
            return STRONG_KEY

    for key in (SecretStr(STRONG_KEY), SecretBytes(STRONG_KEY.encode()), Hidden()):
        assert key_list(key) == key_list([key]) == [STRONG_KEY.encode()]


# Short keys

SHORT = [keyword for keyword in KEYWORDS if keyword.startswith("encrypt_with") or "encrypted" in keyword]


@pytest.mark.guarantee(8)
@rows("key", ["hunter2", b"x" * 31, SecretStr("changeme"), [STRONG_KEY, "hunter2"]], ids=lambda key: type(key).__name__)
@rows("keyword", SHORT)
def test_a_short_key_does_not_encrypt(keyword: str, key: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"and needs 32: .*token_urlsafe\(32\)") as error:
        KEYWORDS[keyword](key)
    assert str(error.value).startswith(keyword.split(maxsplit=1)[0])
    assert "hunter2" not in str(error.value)


def test_a_short_key_of_the_past_may_still_sign_and_be_migrated_from(caplog: pytest.LogCaptureFixture) -> None:
    CookieBackend("hunter2")
    EncryptedCookieBackend(STRONG_KEY, accept_signed="hunter2")
    assert [record.getMessage().split()[:3] for record in caplog.records] == [
        ["secret_key", "is", "weak"],
        ["accept_signed", "is", "weak"],
    ]


# Weak keys


@rows("key", ["hunter2", "TOP SECRET", "x" * 31, "x" * 64, "abcabcabc" * 10, b"changeme"])
def test_a_weak_key_is_reported_once_and_never_shown(key: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    key_list(key)

    (entry,) = caplog.records
    assert (entry.name, entry.levelno) == ("starsessions", logging.WARNING)
    assert "secret_key is weak" in entry.getMessage()
    assert "token_urlsafe(32)" in entry.getMessage()
    text = key.decode() if isinstance(key, bytes) else key
    assert text not in entry.getMessage()
    assert text not in repr(entry.args)


def test_each_weak_key_of_a_list_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    key_list(["hunter2", STRONG_KEY, "hunter3"])

    assert len(caplog.records) == 2
    assert "hunter" not in caplog.text


@rows("key", [STRONG_KEY, bytes(range(32)), "0123456789abcdef" * 2, hashlib.sha256(b"x").hexdigest()])
def test_a_strong_key_is_not_reported(key: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    key_list(key)

    assert not caplog.records


# HMAC


@rows("digest", [hashlib.sha1, hashlib.sha256], ids=["sha1", "sha256"])
@rows("length", [*range(201)])
def test_the_prepared_hmac_is_that_of_the_standard_library(digest: Callable[[bytes], Any], length: int) -> None:
    key = bytes(at * 7 % 256 for at in range(length))
    compute = hmac_with(key, digest)

    for message in (b"", b"x", b"message" * 30, bytes(64), bytes(1000)):
        assert compute(message) == hmac.digest(key, message, digest)


@given(st.binary(max_size=200), st.lists(st.binary(max_size=100), max_size=4))
def test_a_prepared_hmac_may_be_used_again_and_again(key: bytes, messages: list[bytes]) -> None:
    compute = hmac_with(key, hashlib.sha256)

    assert [compute(message) for message in messages] == [hmac.digest(key, message, "sha256") for message in messages]


# HKDF


def test_key_derivation_of_rfc_5869_appendix_a3() -> None:
    """SHA-256 with neither salt nor info."""
    okm = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"

    assert derive(b"\x0b" * 22, b"", 42).hex() == okm


@pytest.mark.guarantee(8)
@given(st.binary(max_size=100), st.binary(max_size=40), st.integers(1, 255 * 32))
def test_key_derivation_is_that_of_cryptography(key: bytes, label: bytes, length: int) -> None:
    theirs = HKDF(SHA256(), length, salt=None, info=label).derive(key)

    assert derive(key, label, length) == theirs


def test_keys_for_two_purposes_have_nothing_in_common() -> None:
    """Not even a beginning: HKDF's output for a short length is the beginning of that for a longer one."""
    labels = [DEFAULT_BINDING.label(purpose) for purpose in Purpose]

    assert len({derive(b"key", label)[:4] for label in labels}) == len(labels)
