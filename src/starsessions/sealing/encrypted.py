"""Encrypted tokens: nobody but the server can read or change them.

A token is bound to its purpose and to the name of its cookie, with which its key is derived: one cookie's value is
refused in another cookie.

    x1.  base64url( what `Cipher` makes of the envelope )
"""

from starsessions.core.record import Record, WhyNew
from starsessions.core.tokens import from_base64url, to_base64url
from starsessions.sealing.cipher import SHORTEST, Cipher
from starsessions.sealing.envelope import pack
from starsessions.sealing.signed import opened

PREFIX = "x1."


class Encrypter:
    """`x1.` tokens, good for one cookie name only. `pad_to` hides the length up to a multiple of so many bytes."""

    def __init__(self, keys: list[bytes], cookie_name: str, compress: bool = False, pad_to: int = 0) -> None:
        self._cipher = Cipher(keys, f"encrypted-cookie/{cookie_name}")
        self._compress = compress
        self._pad_to = pad_to

    def seal(self, record: Record) -> str:
        return PREFIX + to_base64url(self._cipher.seal(pack(record, self._compress, self._pad_to)))

    def open(self, token: str) -> Record | WhyNew:
        try:
            raw = from_base64url(token[len(PREFIX) :])
        except ValueError:
            return WhyNew.MALFORMED
        if len(raw) <= SHORTEST:
            return WhyNew.MALFORMED
        plain = self._cipher.open(raw)
        return WhyNew.BAD_SIGNATURE if plain is None else opened(plain)
