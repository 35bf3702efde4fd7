"""Secret keys: checking the keys that the application passes, and deriving a key for each label from them."""

import hmac
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

from starlette.datastructures import Secret

from starsessions.exceptions import ImproperlyConfigured


class Undisclosed(Protocol):
    """A key that is not shown by accident: pydantic's `SecretStr` and `SecretBytes`."""

    def get_secret_value(self) -> Any:
        """Return the key, a str or bytes."""


Key: TypeAlias = str | bytes | Secret | Undisclosed
Keys: TypeAlias = Key | Sequence[Key]
OptionalKeys: TypeAlias = Keys | Literal[False]
"""For a setting without which nothing is encrypted. Not None: a variable that is not set must not mean that."""

STRONG = 32
"""The length in bytes below which a key is weak: 256 bits if it is random (NIST SP 800-131A requires 112)."""

GENERATE = "Generate one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"

_WEAK = "%s is weak (%d bytes, %d different): an attacker who guesses it can sign in as any user. %s"

_log = logging.getLogger("starsessions")


def key_list(keys: Keys, setting: str = "secret_key", *, refuses_short: bool = False) -> list[bytes]:
    """Return the keys as bytes; the first is the one that signs or encrypts.

    Other weak keys are logged as a warning. The key is never shown.

    Args:
        keys: what the application passed.
        setting: the name of the keyword, for messages.
        refuses_short: refuse keys of less than 32 bytes. Starlette and versions 1.x took any key, so those that sign
            are only reported. There is no such past where something is encrypted.

    Raises:
        ImproperlyConfigured: a key is missing, empty or too short, or has another type.
    """
    return [_judged(raw, setting, refuses_short) for raw in raw_keys(keys, setting)]


def raw_keys(keys: Keys, setting: str) -> list[bytes]:
    """Return the keys as bytes, however weak they are.

    Raises:
        ImproperlyConfigured: a key is missing or empty, or has another type.
    """
    several = [keys] if isinstance(keys, (str, bytes, Secret)) or hasattr(keys, "get_secret_value") else keys
    if not isinstance(several, Sequence):
        raise ImproperlyConfigured(f"{setting} {_what_is_wrong_with(several)}")
    if not several:
        raise ImproperlyConfigured(f"{setting} is an empty list. {GENERATE}")
    return [_raw(key, setting) for key in several]


def _raw(key: object, setting: str) -> bytes:
    if isinstance(key, Secret):
        key = str(key)
    elif hasattr(key, "get_secret_value"):
        key = key.get_secret_value()
    if not isinstance(key, (str, bytes)):
        raise ImproperlyConfigured(f"{setting} {_what_is_wrong_with(key)}")
    try:
        raw = key.encode() if isinstance(key, str) else key
    except UnicodeEncodeError:
        raise ImproperlyConfigured(f"{setting} contains a lone surrogate: pass valid text, or bytes.") from None
    if not raw:
        raise ImproperlyConfigured(f"{setting} is empty: is the variable that holds the key set? {GENERATE}")
    return raw


def _judged(raw: bytes, setting: str, refuses_short: bool) -> bytes:
    """Return a key. Report it if it is weak."""
    if refuses_short and len(raw) < STRONG:
        raise ImproperlyConfigured(
            f"{setting} has {len(raw)} bytes, and needs {STRONG}: a short key can be guessed, and all data decrypted. "
            f"{GENERATE}"
        )
    if is_weak(raw):
        _log.warning(_WEAK, setting, len(raw), len(set(raw)), GENERATE)
    return raw


def is_weak(key: bytes) -> bool:
    """Return whether a key is short, or has few different bytes.

    >>> is_weak(b"a" * 32), is_weak(b"0123456789abcdefghijklmnopqrstuv")
    (True, False)
    """
    return len(key) < STRONG or len(set(key)) < STRONG // 4


def _what_is_wrong_with(key: object) -> str:
    if key is None:
        return f"is None: is the variable that holds the key set? {GENERATE}"
    return (
        f"must be a str, bytes or SecretStr, or a flat list of them, not {type(key).__name__}: the first one is used."
    )


def hmac_with(key: bytes, digest: Callable[[bytes], Any]) -> Callable[[bytes], bytes]:
    """Return a function that computes an HMAC (RFC 2104), for a hash with 64-byte blocks.

    The key is hashed once in advance, which takes half the time of `hmac`.
    """
    block = (key if len(key) <= 64 else digest(key).digest()).ljust(64, b"\0")
    inner = digest(bytes(byte ^ 0x36 for byte in block)).copy
    outer = digest(bytes(byte ^ 0x5C for byte in block)).copy

    def compute(message: bytes) -> bytes:
        one, other = inner(), outer()
        one.update(message)
        other.update(one.digest())
        mac: bytes = other.digest()
        return mac

    return compute


def derive(key: bytes, label: bytes, length: int = 32) -> bytes:
    """Derive a key with HKDF-SHA-256 (RFC 5869) without a salt. `label` names the purpose, its version and the binding.

    Each purpose has its own key, so that a token signed or encrypted for one is never valid for another.
    """
    pseudorandom = hmac.digest(bytes(32), key, "sha256")
    block = output = b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(pseudorandom, block + label + bytes([counter]), "sha256")
        output += block
    return output[:length]
