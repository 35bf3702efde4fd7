"""A store in a dict of this process."""

from array import array
from itertools import count
from struct import Struct
from threading import Lock

from starsessions.stores.base import Conflict, Entry, Version

_HEAD = Struct(">QQQ")  # expires_at, version, and where the key stands in `_keys`

_FREE = 0  # the version of what does not exist


class MemoryStore:
    """A dict of bytes. Nothing walks over all of it: each write looks at two other entries, in turn, and drops those
    that have expired, so that expired entries go as fast as new ones come.

    An entry is one bytes object, its deadline and version in front: no container that the garbage collector would have
    to visit, a million times over. The sweep has the deadlines in a row of their own, since entries lie all over the
    memory. A lock makes each verb atomic between threads.
    """

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}
        self._keys: list[str] = []  # every key of _entries, once: the sweep's way around
        self._ends = array("Q")  # and when its entry expires
        self._next = 0
        self._versions = count(1)
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __bool__(self) -> bool:
        return True  # `backend or …` must not replace an empty one

    def all_keys(self) -> list[str]:
        return list(self._entries)

    async def get(self, key: str, *, now: int) -> Entry | None:
        return self.peek(key, now)

    def peek(self, key: str, now: int) -> Entry | None:
        """`get`, without a coroutine."""
        stored = self._entries.get(key)
        if stored is None:
            return None
        expires_at, version, _ = _HEAD.unpack_from(stored)
        return Entry(stored[_HEAD.size :], expires_at, version) if now < expires_at else None

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int) -> Version:
        return self._put(key, value, _FREE, expires_at, now)

    async def replace(self, key: str, value: bytes, version: Version, *, expires_at: int, now: int) -> Version:
        return self._put(key, value, version, expires_at, now)

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        with self._lock:
            current = self.peek(key, now)
            if version is not None and (current is None or current.version != version):
                raise Conflict(current)
            self._drop(key)
            return current is not None

    def _put(self, key: str, value: bytes, expected: Version, expires_at: int, now: int) -> Version:
        """Write where the entry has the version that is expected."""
        with self._lock:
            stored = self._entries.get(key)
            current, place = _FREE, len(self._keys)
            if stored is not None:
                ends_at, version, place = _HEAD.unpack_from(stored)
                current = version if now < ends_at else _FREE
            if current != expected:
                raise Conflict(self.peek(key, now))
            expires_at, version = max(0, expires_at), next(self._versions)
            self._entries[key] = _HEAD.pack(expires_at, version, place) + value
            if stored is None:
                self._keys.append(key)
                self._ends.append(expires_at)
            else:
                self._ends[place] = expires_at
            self._sweep_two(now)
            return version

    def _drop(self, key: str) -> None:
        """Forget an entry; the last key takes its place on the sweep's way."""
        stored = self._entries.pop(key, None)
        if stored is None:
            return
        place = _HEAD.unpack_from(stored)[2]
        last, expires_at = self._keys.pop(), self._ends.pop()
        if last != key:
            self._keys[place], self._ends[place] = last, expires_at
            moved = self._entries[last]
            version = _HEAD.unpack_from(moved)[1]
            self._entries[last] = _HEAD.pack(expires_at, version, place) + moved[_HEAD.size :]

    def _sweep_two(self, now: int) -> None:
        for _ in range(min(2, len(self._keys))):
            if self._next >= len(self._keys):
                self._next = 0
            if now < self._ends[self._next]:
                self._next += 1
            else:
                self._drop(self._keys[self._next])
