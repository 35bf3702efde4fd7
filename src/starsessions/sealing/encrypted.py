"""Encrypted tokens: nobody but the server can read or change them.

A token is bound to its purpose and to the name of its cookie, with which its key is derived: one cookie's value is
refused in another cookie.

    x1.  base64( what `Cipher` makes of the envelope )
"""

from starsessions.core.encoding import from_base64, to_base64
from starsessions.core.record import MissReason, Record
from starsessions.sealing.cipher import SHORTEST, Cipher
from starsessions.sealing.envelope import packer, unpack

PREFIX = "x1."
_PREFIX_LENGTH = len(PREFIX)


class Encrypter:
    """`x1.` tokens, good for one cookie name only. `pad_to` hides the length up to a multiple of so many bytes."""

    def __init__(self, keys: list[bytes], cookie_name: str, compress: bool = False, pad_to: int = 0) -> None:
        self._cipher = Cipher(keys, f"encrypted-cookie/{cookie_name}")
        self._pack = packer(compress, pad_to)

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
        except Exception:  # whatever an older release has sealed: it is never an error
            return MissReason.UNDECODABLE
