"""The entries of a store as values: a session, the pointer that a rotation leaves, or the reason why it is neither.

Each entry begins with the first characters of its key, so that a misdirected reply (a connection out of sync, a record
copied to another key) is rejected.
"""

from msgspec.msgpack import Decoder, Encoder

from starsessions.core.record import Found, Instant, Key, MissReason, Opaque, Record
from starsessions.sealing.cipher import Cipher
from starsessions.stores.base import Entry, Version

_MARK = 8  # characters of the key, 48 bits: enough against accidents; `encrypt_with` protects against attackers


class Pointer(Opaque, frozen=True):
    """The value stored under the old key of a rotated session: the key of its successor.

    It is a map in MessagePack and a record is an array, so that the first byte distinguishes them.
    """

    to: Key
    at: Instant
    """The time of the rotation, in seconds since 1970."""
    until: Instant
    """The time until which the old id still works; 0: it stopped working at once."""
    payload: bytes | None = None
    """The data of the session before a sign-in, under a key of its own. None: this is the pointer itself."""


class Location(Opaque, frozen=True):
    """The `version` of a session found in a store: its key, the store's own version, and when the entry expires."""

    key: str
    version: Version
    until: int = 0


_encode = Encoder().encode
_decode_record = Decoder(Record).decode
_decode_pointer = Decoder(Pointer).decode


class Entries:
    """Encodes and decodes the entries of one store.

    Args:
        cipher: encrypts them, bound to their keys. None: no encryption.
        is_marked: whether they begin with a part of their keys.
    """

    def __init__(self, cipher: Cipher | None = None, is_marked: bool = True) -> None:
        self._cipher = cipher
        self._is_marked = is_marked

    def value(self, key: str, content: Record | Pointer) -> bytes:
        """Return the bytes to store under this key."""
        body = _encode(content)
        if self._cipher is not None:
            body = self._cipher.seal(body, key.encode())
        return _mark(key) + body if self._is_marked else body

    def read(
        self, token: str, key: str, entry: Entry | None, is_alias: bool = False, shows_pending: bool = False
    ) -> Found | Pointer | MissReason:
        """Decode an entry. One that a sign-in has stored, and no save has completed, opens nothing.

        Args:
            token: what opens the session, for the result.
            key: where the entry is stored.
            entry: the entry; None: there is none.
            is_alias: whether the token was rotated, for the result.
            shows_pending: return the entry of a sign-in that is not saved yet, too.
        """
        if entry is None:
            return MissReason.UNKNOWN
        body = entry.value
        if self._is_marked:
            mark = _mark(key)
            if not body.startswith(mark):
                return MissReason.UNDECODABLE
            body = body[len(mark) :]
        if self._cipher is not None:
            opened = self._cipher.open(body, key.encode())
            if opened is None:
                return MissReason.BAD_SIGNATURE
            body = opened
        try:
            if body[0] & 0xF0 == 0x80:
                return _decode_pointer(body)
            record = _decode_record(body)
        except Exception:  # garbage under this key, or a record of another release
            return MissReason.UNDECODABLE
        if record.payload is None and not shows_pending:
            return MissReason.UNKNOWN
        return Found(token, record, Location(key, entry.version, entry.expires_at), is_alias)


def _mark(key: str) -> bytes:
    return key[:_MARK].encode("ascii")
