"""Authenticated encryption with AES-256-GCM (NIST SP 800-38D), using 256 keys for each purpose.

With random 96-bit nonces, one key is safe for 2^32 messages. A busy site can reach that, and a repeated nonce breaks
the key. So each message draws 104 random bits, of which the first eight choose the key: a key encrypts its 2^32nd
message only after 2^40 in total. All keys are derived once, when the cipher is created. The random bits come from the
operating system for each message, because a buffer of them would be duplicated by a fork. The key id names the secret.
Nothing in the bytes selects an algorithm.

    key id, 4 bytes | index of the key, 1 byte | nonce, 12 bytes | ciphertext and tag
"""

from os import urandom

from starsessions.core.binding import Binding, Purpose
from starsessions.exceptions import ImproperlyConfigured
from starsessions.sealing.keys import derive

_KEY_ID, _RANDOM, _TAG = 4, 13, 16
_WHICH, _SEALED = _KEY_ID + 1, _KEY_ID + _RANDOM

SHORTEST = _SEALED + _TAG
"""The length in bytes of an encrypted empty message."""


class Cipher:
    """Encrypt and decrypt for one purpose and binding. Both are part of the key derivation and the associated data.

    The first secret encrypts; all secrets decrypt.
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
        for key in reversed(keys):  # the first key comes last, so that it is the one that encrypts
            self._key_id = derive(key, binding.label(Purpose.KEY_ID), _KEY_ID)
            self._sealing = [AESGCM(derive(key, self._label + bytes((which,)))) for which in range(256)]
            self._ciphers |= {self._key_id + bytes((which,)): one for which, one in enumerate(self._sealing)}
        if len(self._ciphers) < 256 * len(keys):  # by chance, this happens to one pair of keys in four billion
            raise ImproperlyConfigured(
                "The list of keys contains the same key twice, or two with the same id of four bytes: remove one, or "
                "generate another."
            )

    def seal(self, plain: bytes, associated_data: bytes = b"") -> bytes:
        """Encrypt. `associated_data` is authenticated but not included: decrypting needs the same value."""
        random = urandom(_RANDOM)
        sealed = self._sealing[random[0]].encrypt(random[1:], plain, self._label + associated_data)
        return self._key_id + random + sealed

    def open(self, raw: bytes, associated_data: bytes = b"") -> bytes | None:
        """Decrypt. Return None for bytes that were not encrypted with these keys, purpose and associated data."""
        cipher = self._ciphers.get(raw[:_WHICH])
        if cipher is None or len(raw) < SHORTEST:
            return None
        try:
            return cipher.decrypt(raw[_WHICH:_SEALED], raw[_SEALED:], self._label + associated_data)
        except self._refused:
            return None
