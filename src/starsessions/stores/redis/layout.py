"""The bytes of an entry in Redis, and of its place in the listing of its owner.

An entry is one string under one key. Instants are 8 bytes, big-endian:

    0x02 | 8 random bytes | expires_at | n, one byte | value                            (n = 0: it has no owner)
    0x02 | 8 random bytes | expires_at | n, one byte | since | owner, n bytes | value

All between the first byte and the value is the version. So a write that replaces or deletes an entry knows its
former owner without a read. A version that is returned may be longer than the stored one, by 8 bytes: until when
the place of the entry is kept, if that is longer than the entry.

A listing is a sorted set under `{owner}`. Its members have the score 0, so Redis orders them by their bytes:

    since | key | 0x00 | the last minute, 4 bytes | who, 4 bytes

`since | key | 0x00` is the place of an entry: a listing has one such member at most. The last minute, since 1970 by
the clock of the server, is when the entry expires at the latest. `who` is the beginning of the version that put it
there, if the entry may be on another server; otherwise zero.
"""

from struct import Struct, error
from typing import NamedTuple

from starsessions.stores.base import Cursor, Entry, Owner, Version

LAYOUT = 2
_HEAD = Struct(">B8sQB")
_SINCE = Struct(">Q")
_AT = _HEAD.size - 1  # where the owner begins in a version
_TAIL = 9  # the bytes of a member after its key


class Place(NamedTuple):
    """Where an entry is listed."""

    listing: bytes
    """The key of the listing."""

    start: bytes
    """How the member begins."""

    who: bytes
    """The beginning of the version of the entry."""

    kept_until: int
    """When the entry expires, or later."""

    def is_same(self, other: "Place | None") -> bool:
        """Return whether two versions of an entry have one place."""
        return other is not None and self[:2] == other[:2]


def new_version(random: bytes, expires_at: int, owner: Owner | None) -> bytes:
    """Return a version: the random bytes, and what the store will have to know."""
    name = b"" if owner is None else owner.name.encode()
    start = _HEAD.pack(LAYOUT, random, max(0, expires_at), len(name))[1:]
    return start if owner is None else start + _since(owner.since) + name


def with_kept_until(version: bytes, kept_until: int) -> bytes:
    """Return a version that says until when the place of its entry is kept."""
    return version + _since(kept_until)


def as_stored(version: Version) -> Version:
    """Return what is stored of a version."""
    return version[: -_SINCE.size] if _says_kept_until(version) else version


def _says_kept_until(version: Version) -> bool:
    size = version[_AT - 1] if len(version) > _AT else 0
    return size > 0 and len(version) == _AT + size + 2 * _SINCE.size


def entry_of(version: bytes, value: bytes) -> bytes:
    """Return the bytes of an entry."""
    return bytes([LAYOUT]) + version + value


def parsed(stored: bytes | None, now: int) -> Entry | None:
    """Return the entry that these bytes are; None if they are none, or it has expired."""
    if stored is None or len(stored) < _HEAD.size or stored[0] != LAYOUT:
        return None
    _, _, expires_at, size = _HEAD.unpack_from(stored)
    end = _HEAD.size + (_SINCE.size + size if size else 0)
    return Entry(stored[end:], expires_at, stored[1:end]) if now < expires_at else None


def listing(prefix: bytes, name: str) -> bytes:
    """Return the key of an owner's listing. It is none of an entry: those contain no braces."""
    return prefix + b"{" + name.encode() + b"}"


def place_of(prefix: bytes, key: str, version: Version) -> Place | None:
    """Return the place of an entry that has this version; None if it has no owner."""
    try:
        _, random, expires_at, size = _HEAD.unpack_from(b"\0" + version)
    except error:  # no version of this store
        return None
    name = as_stored(version)[_AT + _SINCE.size :]
    if not size or len(name) != size:
        return None
    start = version[_AT : _AT + _SINCE.size] + key.encode() + b"\0"
    [kept_until] = _SINCE.unpack(version[-_SINCE.size :]) if _says_kept_until(version) else [expires_at]
    return Place(prefix + b"{" + name + b"}", start, random[:4], kept_until)


def owner_of(version: Version) -> str | None:
    """Return the owner of an entry that has this version; None if it has none."""
    return version[_AT + _SINCE.size :].decode(errors="replace") or None


def cursor(member: bytes) -> Cursor:
    """Return the position and the key of a member of a listing."""
    [since] = _SINCE.unpack_from(member)
    return Cursor(since, member[_SINCE.size : -_TAIL].decode())


def below(after: Cursor | None) -> bytes:
    """Return what all members after a cursor are less than, as ZREVRANGEBYLEX takes it."""
    return b"+" if after is None else b"(" + _since(after.since) + after.key.encode() + b"\0"


def _since(since: int) -> bytes:
    return _SINCE.pack(min(max(0, since), 2**64 - 1))
