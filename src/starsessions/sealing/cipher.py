"""What only the server can read or change: AES-256-GCM (NIST SP 800-38D), under 256 keys of one purpose.

A random nonce of 96 bits is good for 2^32 messages under one key, which a busy site reaches, and a nonce that comes
twice breaks the key. So 104 random bits are drawn: the first eight choose the key. Each key then sees its 2^32nd
message when 2^40 were sealed. All keys are derived once, when the cipher is made. The bits come from the system for
each message: what is kept for the next ones would be there twice after a fork. A key id in front says which secret it
was; nothing in the bytes selects an algorithm.

    key id, 4 bytes | which of its keys, 1 byte | nonce, 12 bytes | ciphertext and tag
"""

from os import urandom

from starsessions.core.binding import Binding, Purpose
from starsessions.exceptions import ImproperlyConfigured
from starsessions.sealing.keys import derive

_KEY_ID, _RANDOM, _TAG = 4, 13, 16
_WHICH, _SEALED = _KEY_ID + 1, _KEY_ID + _RANDOM

SHORTEST = _SEALED + _TAG
"""Bytes of something sealed that holds nothing."""


class Cipher:
    """Seals for one purpose and binding, which its keys and its associated data begin with.

    The first secret seals, all open.
    """

    def __init__(self, keys: list[bytes], purpose: Purpose, binding: Binding) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as missing:
            raise ImproperlyConfigured(
                "Encryption needs the package cryptography: install the extra starsessions[encrypted]."
            ) from missing
        self._refused = InvalidTag
        self._label = binding.label(purpose)
        self._ciphers: dict[bytes, AESGCM] = {}
        for key in reversed(keys):  # the first one comes last, and is the one that seals
            self._key_id = derive(key, binding.label(Purpose.KEY_ID), _KEY_ID)
            self._sealing = [AESGCM(derive(key, self._label + bytes((which,)))) for which in range(256)]
            self._ciphers |= {self._key_id + bytes((which,)): one for which, one in enumerate(self._sealing)}
        if len(self._ciphers) < 256 * len(keys):
            raise ImproperlyConfigured("The list of keys holds the same key twice.")

    def seal(self, plain: bytes, associated_data: bytes = b"") -> bytes:
        """Encrypt. `associated_data` is not part of the result: it has to be known to open it."""
        random = urandom(_RANDOM)
        sealed = self._sealing[random[0]].encrypt(random[1:], plain, self._label + associated_data)
        return self._key_id + random + sealed

    def open(self, raw: bytes, associated_data: bytes = b"") -> bytes | None:
        """Decrypt. None for what was not sealed with these keys, for this purpose, and with this associated data."""
        cipher = self._ciphers.get(raw[:_WHICH])
        if cipher is None or len(raw) < SHORTEST:
            return None
        try:
            return cipher.decrypt(raw[_WHICH:_SEALED], raw[_SEALED:], self._label + associated_data)
        except self._refused:
            return None
