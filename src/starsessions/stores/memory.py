"""A store in a dict of this process."""

from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import count
from struct import Struct
from threading import RLock
from typing import TypeVar

from starsessions.stores.announce import Announces, InProcess
from starsessions.stores.base import (
    Announcing,
    BatchConflict,
    Conflict,
    Creation,
    Cursor,
    Deletion,
    Entry,
    Joined,
    Owner,
    Page,
    ScanPage,
    Version,
    Write,
)

_HEAD = Struct(">QQQ")  # expires_at, version, and the index of the key in `_keys`

_MOST = 16  # the entries that one write removes at most

_FREE = 0  # the version of a missing entry

_PARTS = 256  # the dicts that share the keys: one dict of a million takes 25 ms to grow

T = TypeVar("T")


class MemoryStore(Announces):
    """A store in a dict of this process. A lock makes each method atomic between threads.

    No operation scans all entries. Each write checks other entries in turn until two have not expired, and removes up
    to 16 that have. So expired entries are removed faster than new ones are added, however many expire at once. Nor
    does an operation copy all entries, as a dict does when it grows: they are in many small ones.

    Each entry is one bytes object that begins with its expiry and version, because the garbage collector would have to
    visit a million containers. The sweep reads the expiries from an array, because the entries are spread over memory.
    """

    def __init__(self) -> None:
        self.announcer: Announcing = InProcess(reaches_all=True)
        self._entries: list[dict[str, bytes]] = [{} for _ in range(_PARTS)]  # each under the hash of its key
        self._keys: list[str] = []  # every key of _entries once, in the order of the sweep
        self._ends = array("Q")  # when the entry of each key expires
        self._next = 0
        self._versions = count(1)
        self._lock = RLock()
        self._owners: list[dict[str, Owner]] = [{} for _ in range(_PARTS)]  # the owner of each key that has one
        self._owned: list[dict[str, list[Cursor]]] = [{} for _ in range(_PARTS)]  # an owner's keys, the oldest first

    def __len__(self) -> int:
        return len(self._keys)

    def __bool__(self) -> bool:
        return True  # `backend or …` must not replace an empty one

    def all_keys(self) -> list[str]:
        return list(self._keys)

    async def get(self, key: str, *, now: int) -> Entry | None:
        return self.peek(key, now)

    def peek(self, key: str, now: int) -> Entry | None:
        """Do the same as `get`, without a coroutine."""
        stored = self._entries[hash(key) % _PARTS].get(key)
        if stored is None:
            return None
        expires_at, version, _ = _HEAD.unpack_from(stored)
        return Entry(stored[_HEAD.size :], expires_at, version) if now < expires_at else None

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        return self._put(key, value, _FREE, expires_at, now, owner)

    async def replace(
        self, key: str, value: bytes, version: Version, *, expires_at: int, now: int, owner: Owner | None = None
    ) -> Version:
        return self._put(key, value, version, expires_at, now, owner)

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        with self._lock:
            current = self.peek(key, now)
            if version is not None and (current is None or current.version != version):
                raise Conflict(current)
            self._drop(key)
            return current is not None

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        with self._lock:
            owned = self._owned[hash(name) % _PARTS].get(name, [])
            end = len(owned) if after is None else bisect_left(owned, after)
            begin = max(0, end - limit)
            found = [(one.key, self.peek(one.key, now)) for one in reversed(owned[begin:end])]
            return Page([(key, entry) for key, entry in found if entry], owned[begin] if begin else None)

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        return len(self._owned[hash(name) % _PARTS].get(name, ()))

    async def get_joined(self, key: str, other: str, *, now: int) -> Joined:
        with self._lock:
            entry, owner = self.peek(key, now), self._owner_name(key)
            if entry is None or owner is None:
                return Joined(entry)
            return Joined(entry, owner, self.peek(owner, now), self.peek(other, now))

    async def write_together(
        self, writes: Sequence[Write], *, now: int, topics: Sequence[str] = ()
    ) -> Sequence[Version | None] | None:
        with self._lock:
            for index, write in enumerate(writes):
                current = self.peek(write.key, now)
                expected = _FREE if isinstance(write, Creation) else write.version
                if (_FREE if current is None else current.version) != expected:
                    raise BatchConflict(index, current)
            versions = [self._carry_out(write, now) for write in writes]
        if topics:
            await self.announce(topics)
        return versions

    def _carry_out(self, write: Write, now: int) -> Version | None:
        if isinstance(write, Deletion):
            self._drop(write.key)
            return None
        expected = _FREE if isinstance(write, Creation) else write.version
        return self._put(write.key, write.value, expected, write.expires_at, now, write.owner)

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        # From the last key to the first: when one is removed, the last one moves to its place, but never out of the
        # part that comes after.
        with self._lock:
            end = len(self._keys) if after is None else min(int(after), len(self._keys))
            begin = max(0, end - limit)
            found = [(key, self.peek(key, now)) for key in reversed(self._keys[begin:end])]
            entries = [(key, entry, self._owner_name(key)) for key, entry in found if entry]
            return ScanPage(entries, str(begin) if begin else None)

    def _owner_name(self, key: str) -> str | None:
        owner = self._owners[hash(key) % _PARTS].get(key)
        return None if owner is None else owner.name

    def _put(
        self, key: str, value: bytes, expected: Version, expires_at: int, now: int, owner: Owner | None
    ) -> Version:
        """Write if the entry has the expected version."""
        with self._lock:
            part = hash(key) % _PARTS
            stored = self._entries[part].get(key)
            current, place = _FREE, len(self._keys)
            if stored is not None:
                ends_at, version, place = _HEAD.unpack_from(stored)
                current = version if now < ends_at else _FREE
            if current != expected:
                raise Conflict(self.peek(key, now))
            expires_at, version = max(0, expires_at), next(self._versions)
            self._entries[part][key] = _HEAD.pack(expires_at, version, place) + value
            if stored is None:
                self._keys.append(key)
                self._ends.append(expires_at)
            else:
                self._ends[place] = expires_at
            if owner is not None or key in self._owners[part]:
                self._give_to(owner, key)
            self._sweep(now)
            return version

    def _give_to(self, owner: Owner | None, key: str) -> None:
        """Move the entry to the listing of its new owner."""
        owners = self._owners[hash(key) % _PARTS]
        former = _popped(owners, key)
        if former is not None:
            listed = self._owned[hash(former.name) % _PARTS]
            owned = listed[former.name]
            del owned[bisect_left(owned, Cursor(former.since, key))]
            if not owned:
                _popped(listed, former.name)
        if owner is not None:
            owners[key] = owner
            listed = self._owned[hash(owner.name) % _PARTS]
            insort(listed.setdefault(owner.name, []), Cursor(owner.since, key))

    def _drop(self, key: str) -> None:
        """Remove an entry, and move the last key to its place in the order of the sweep."""
        part = hash(key) % _PARTS
        stored = _popped(self._entries[part], key)
        if stored is None:
            return
        if key in self._owners[part]:
            self._give_to(None, key)
        place = _HEAD.unpack_from(stored)[2]
        last, expires_at = self._keys.pop(), self._ends.pop()
        if last != key:
            self._keys[place], self._ends[place] = last, expires_at
            entries = self._entries[hash(last) % _PARTS]
            moved = entries[last]
            version = _HEAD.unpack_from(moved)[1]
            entries[last] = _HEAD.pack(expires_at, version, place) + moved[_HEAD.size :]

    def _sweep(self, now: int) -> None:
        live = 0
        for _ in range(min(_MOST, len(self._keys))):
            if self._next >= len(self._keys):
                self._next = 0
            if now >= self._ends[self._next]:
                self._drop(self._keys[self._next])  # the last key takes its place
                continue
            self._next += 1
            live += 1
            if live == 2:
                break


def _popped(part: dict[str, T], key: str) -> T | None:
    value = part.pop(key, None)
    if not part:
        part.clear()  # otherwise it keeps the memory of its largest size
    return value
