"""Secret keys: checking the keys that the application passes, and deriving a key for each label from them."""

import hmac
import logging
from collections.abc import Callable, Sequence
from typing import Any

from starlette.datastructures import Secret

from starsessions.exceptions import ImproperlyConfigured

Key = str | bytes | Secret
Keys = Key | Sequence[Key]

STRONG = 32
"""The length in bytes below which a key is weak: 256 bits if it is random (NIST SP 800-131A requires 112)."""

_log = logging.getLogger("starsessions")


def key_list(keys: Keys) -> list[bytes]:
    """Return the keys as bytes; the first is the one that signs or encrypts.

    A weak key is logged as a warning, without showing the key.

    Raises:
        ImproperlyConfigured: a key is empty or has another type.
    """
    several = [keys] if isinstance(keys, (str, bytes, Secret)) else keys
    if not isinstance(several, Sequence) or not several:
        raise ImproperlyConfigured("secret_key must be a str or bytes, or a list of them: new cookies use the first.")
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
        raise ImproperlyConfigured("secret_key contains a lone surrogate: pass valid text, or bytes.") from None
    if not raw:
        raise ImproperlyConfigured(
            "secret_key is empty. Generate one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    if len(raw) < STRONG or len(set(raw)) < STRONG // 4:
        _log.warning(
            "secret_key is weak (%d bytes, %d different): an attacker who guesses it can sign in as any user. "
            "Generate one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
            len(raw),
            len(set(raw)),
        )
    return raw


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
