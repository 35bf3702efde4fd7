"""Encrypted tokens: only the server can read or change them.

A token is bound to its purpose, the application and the name of its cookie, which are part of the key derivation and of
the associated data. So the value of one cookie is invalid in another cookie.

    x1.  base64( the envelope, encrypted by `Cipher` )
"""

from starsessions.core.binding import Binding, Purpose
from starsessions.core.encoding import from_base64, to_base64
from starsessions.core.record import MissReason, Record
from starsessions.sealing.cipher import SHORTEST, Cipher
from starsessions.sealing.envelope import packer, unpack

PREFIX = "x1."
_PREFIX_LENGTH = len(PREFIX)


class Encrypter:
    """Encrypt and decrypt `x1.` tokens, which are valid for one binding only."""

    def __init__(self, keys: list[bytes], binding: Binding, compress: bool = False) -> None:
        self._cipher = Cipher(keys, Purpose.ENCRYPTED_COOKIE, binding)
        self._pack = packer(compress)

    def seal(self, record: Record) -> str:
        return PREFIX + to_base64(self._cipher.seal(self._pack(record)))

    def open(self, token: str) -> Record | MissReason:
        try:
            raw = from_base64(token[_PREFIX_LENGTH:])
        except ValueError:
            return MissReason.MALFORMED
        if len(raw) <= SHORTEST:
            return MissReason.MALFORMED
        plain = self._cipher.open(raw)
        if plain is None:
            return MissReason.BAD_SIGNATURE
        try:
            return unpack(plain)
        except Exception:  # a token of another release is never an error
            return MissReason.UNDECODABLE
