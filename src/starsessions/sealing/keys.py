"""Secret keys: what may be passed as one, and the keys that are derived from it, each under a label of its own."""

import hmac
import logging
from collections.abc import Callable, Sequence
from typing import Any

from starlette.datastructures import Secret

from starsessions.exceptions import ImproperlyConfigured

Key = str | bytes | Secret
Keys = Key | Sequence[Key]

STRONG = 32
"""Bytes below which a key is called weak: 256 bits if they are random (NIST SP 800-131A asks for 112)."""

_log = logging.getLogger("starsessions")


def key_list(keys: Keys) -> list[bytes]:
    """The keys as bytes, the one that seals first. A weak one is reported in the log, but never shown."""
    several = [keys] if isinstance(keys, (str, bytes, Secret)) else keys
    if not isinstance(several, Sequence) or not several:
        raise ImproperlyConfigured("secret_key must be a str or bytes, or a list of them: the first seals, all open.")
    return [_key(key) for key in several]


def _key(key: object) -> bytes:
    if isinstance(key, Secret):
        key = str(key)
    if not isinstance(key, (str, bytes)):
        raise ImproperlyConfigured(
            f"secret_key must be a str or bytes, or a flat list of them, not {type(key).__name__}."
        )
    try:
        raw = key.encode() if isinstance(key, str) else key
    except UnicodeEncodeError:
        raise ImproperlyConfigured("secret_key is not text: it holds a lone surrogate.") from None
    if not raw:
        raise ImproperlyConfigured(
            "secret_key is empty. Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    if len(raw) < STRONG or len(set(raw)) < STRONG // 4:
        _log.warning(
            "secret_key is weak (%d bytes, %d different): an attacker who guesses it can sign in as any user. "
            "Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            len(raw),
            len(set(raw)),
        )
    return raw


def hmac_with(key: bytes, digest: Callable[[bytes], Any]) -> Callable[[bytes], bytes]:
    """HMAC (RFC 2104) with the key already worked in, for a hash whose block is 64 bytes: half the time of `hmac`."""
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
    """HKDF-SHA-256 (RFC 5869) without a salt: `label` names the purpose, its version and the binding.

    A purpose has a key of its own so that what was sealed for one is never opened by another.
    """
    pseudorandom = hmac.digest(bytes(32), key, "sha256")
    block = output = b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.digest(pseudorandom, block + label + bytes([counter]), "sha256")
        output += block
    return output[:length]
