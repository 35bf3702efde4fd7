"""Encrypted tokens: nobody but the server can read or change them.

AES-256-GCM-SIV (RFC 8452) with a random nonce of 96 bits. It derives fresh keys from each nonce, so that random
nonces stay safe far beyond the 2^32 messages of plain AES-GCM; and should one ever repeat, all that shows is whether
the two plaintexts were equal. The key id in the token selects the one key that is tried; nothing in the token selects
an algorithm. A token is bound to its purpose and to the name of its cookie, with which its key is derived: one
cookie's value is refused in another cookie.

    x1.  base64url( key id, 4 bytes | nonce, 12 bytes | ciphertext and tag )
"""

from os import urandom

from starsessions.core.record import Record, WhyNew
from starsessions.core.tokens import from_base64url, to_base64url
from starsessions.exceptions import ImproperlyConfigured
from starsessions.sealing.envelope import pack
from starsessions.sealing.keys import derive
from starsessions.sealing.signed import opened

PREFIX = "x1."

_KEY_ID, _NONCE, _TAG = 4, 12, 16
_SEALED = _KEY_ID + _NONCE


class Encrypter:
    """`x1.` tokens, good for one cookie name only. `pad_to` hides the length up to a multiple of so many bytes."""

    def __init__(self, keys: list[bytes], cookie_name: str, compress: bool = False, pad_to: int = 0) -> None:
        try:
            from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
            from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
        except ImportError as missing:
            raise ImproperlyConfigured(
                "Encrypted cookies need the package cryptography: install the extra starsessions[encrypted]."
            ) from missing
        try:
            self._ciphers = {
                derive(key, "starsessions/v1/key-id", _KEY_ID): AESGCMSIV(
                    derive(key, f"starsessions/v1/encrypted-cookie/{cookie_name}")
                )
                for key in keys
            }
        except UnsupportedAlgorithm as missing:
            raise ImproperlyConfigured(
                "Encrypted cookies need AES-GCM-SIV, which OpenSSL has from 3.2 on: install cryptography as a wheel."
            ) from missing
        if len(self._ciphers) < len(keys):
            raise ImproperlyConfigured("secret_key holds the same key twice.")
        self._refused = InvalidTag
        self._key_id, self._cipher = next(iter(self._ciphers.items()))
        self._compress = compress
        self._pad_to = pad_to

    def seal(self, record: Record) -> str:
        nonce = urandom(_NONCE)
        sealed = self._cipher.encrypt(nonce, pack(record, self._compress, self._pad_to), None)
        return PREFIX + to_base64url(self._key_id + nonce + sealed)

    def open(self, token: str) -> Record | WhyNew:
        try:
            raw = from_base64url(token[len(PREFIX) :])
        except ValueError:
            return WhyNew.MALFORMED
        if len(raw) <= _SEALED + _TAG:
            return WhyNew.MALFORMED
        cipher = self._ciphers.get(raw[:_KEY_ID])
        if cipher is None:
            return WhyNew.BAD_SIGNATURE
        try:
            plain = cipher.decrypt(raw[_KEY_ID:_SEALED], raw[_SEALED:], None)
        except self._refused:
            return WhyNew.BAD_SIGNATURE
        return opened(plain)
