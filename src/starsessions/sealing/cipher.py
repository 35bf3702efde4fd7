"""What nobody but the server can read or change: AES-256-GCM-SIV (RFC 8452) with a random nonce of 96 bits.

It derives fresh keys from each nonce, so that random nonces stay safe far beyond the 2^32 messages of plain AES-GCM;
and should one ever repeat, all that shows is whether the two plaintexts were equal. A key id in front selects the one
key that is tried; nothing in the bytes selects an algorithm.

    key id, 4 bytes | nonce, 12 bytes | ciphertext and tag
"""

from os import urandom

from starsessions.exceptions import ImproperlyConfigured
from starsessions.sealing.keys import derive

_KEY_ID, _NONCE, _TAG = 4, 12, 16
_SEALED = _KEY_ID + _NONCE

SHORTEST = _SEALED + _TAG
"""Bytes of something sealed that holds nothing."""


class Cipher:
    """Seals for one purpose, with which its keys are derived. The first key seals, all open."""

    def __init__(self, keys: list[bytes], purpose: str) -> None:
        try:
            from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
            from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
        except ImportError as missing:
            raise ImproperlyConfigured(
                "Encryption needs the package cryptography: install the extra starsessions[encrypted]."
            ) from missing
        try:
            self._ciphers = {
                derive(key, "starsessions/v1/key-id", _KEY_ID): AESGCMSIV(derive(key, f"starsessions/v1/{purpose}"))
                for key in keys
            }
        except UnsupportedAlgorithm as missing:
            raise ImproperlyConfigured(
                "Encryption needs AES-GCM-SIV, which OpenSSL has from 3.2 on: install cryptography as a wheel."
            ) from missing
        if len(self._ciphers) < len(keys):
            raise ImproperlyConfigured("The list of keys holds the same key twice.")
        self._refused = InvalidTag
        self._key_id, self._cipher = next(iter(self._ciphers.items()))

    def seal(self, plain: bytes, bound_to: bytes | None = None) -> bytes:
        """`bound_to` is not in the result: who opens it has to know it."""
        nonce = urandom(_NONCE)
        return self._key_id + nonce + self._cipher.encrypt(nonce, plain, bound_to)

    def open(self, raw: bytes, bound_to: bytes | None = None) -> bytes | None:
        """None for what was not sealed with these keys, for this purpose, and bound to this."""
        cipher = self._ciphers.get(raw[:_KEY_ID])
        if cipher is None or len(raw) < SHORTEST:
            return None
        try:
            return cipher.decrypt(raw[_KEY_ID:_SEALED], raw[_SEALED:], bound_to)
        except self._refused:
            return None
