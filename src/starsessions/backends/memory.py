"""Sessions in the memory of this process: for development, tests, and services that run as one process."""

from array import array
from collections.abc import Mapping
from itertools import count
from struct import Struct
from threading import Lock
from types import MappingProxyType
from typing import Any, ClassVar

from starsessions.backends.base import Clock, Found, in_one_step, wall_clock
from starsessions.backends.store import Entry, Refused, Version
from starsessions.backends.stored import Moved, StoredBackend
from starsessions.core.record import WhyNew
from starsessions.core.serializer import Serializer

_HEAD = Struct(">QQQ")  # expires_at, version, and where the key stands in `_keys`


class MemoryStore:
    """A dict of bytes. Nothing walks over all of it: each `put` looks at two other entries, in turn, and drops them if
    they are over, so that dead entries go as fast as new ones come.

    An entry is one bytes object, its deadline and version in front: no container that the garbage collector would have
    to visit, a million times over. The sweep has the deadlines in a row of their own, since entries lie all over the
    memory. A lock makes each verb atomic between threads.
    """

    def __init__(self) -> None:
        self._entries: dict[str, bytes] = {}
        self._keys: list[str] = []  # every key of _entries, once: the sweep's way around
        self._ends = array("Q")  # and when its entry is over
        self._next = 0
        self._versions = count(1)
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def all_keys(self) -> list[str]:
        return list(self._entries)

    async def get(self, key: str, now: int) -> Entry | None:
        return self.peek(key, now)

    def peek(self, key: str, now: int) -> Entry | None:
        """`get`, at once."""
        stored = self._entries.get(key)
        if stored is None:
            return None
        expires_at, version, _ = _HEAD.unpack_from(stored)
        return Entry(stored[_HEAD.size :], expires_at, version) if now < expires_at else None

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        with self._lock:
            stored = self._entries.get(key)
            current, place = None, len(self._keys)
            if stored is not None:
                ends_at, version, place = _HEAD.unpack_from(stored)
                current = version if now < ends_at else None
            if current != expect:
                raise Refused(self.peek(key, now))
            expires_at, version = max(0, expires_at), next(self._versions)
            self._entries[key] = _HEAD.pack(expires_at, version, place) + value
            if stored is None:
                self._keys.append(key)
                self._ends.append(expires_at)
            else:
                self._ends[place] = expires_at
            self._sweep_two(now)
            return version

    async def delete(self, key: str, expect: Version | None, now: int) -> bool:
        with self._lock:
            current = self.peek(key, now)
            if expect is not None and (current is None or current.version != expect):
                raise Refused(current)
            self._drop(key)
            return current is not None

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


class InMemoryBackend(StoredBackend):
    """Sessions in a dict of this process, which forgets them when it ends.

    They expire, nobody else holds the objects in them, and `def` endpoints in threads may use them. With several
    worker processes each has sessions of its own: use one process, or another backend.

    >>> from starsessions import SessionMiddleware
    >>> from starlette.applications import Starlette
    >>> app = Starlette()
    >>> app.add_middleware(SessionMiddleware, backend=InMemoryBackend())
    """

    hashes_ids: ClassVar[bool] = False  # who reads this memory reads everything else in it, too

    def __init__(self, *, serializer: Serializer | None = None, clock: Clock = wall_clock) -> None:
        self.store: MemoryStore
        super().__init__(MemoryStore(), serializer=serializer, clock=clock)

    def peek(self, token: str, now: int) -> Found | WhyNew:
        read = self._read(token, token, self.store.peek(token, now))
        return in_one_step(self._followed(read, token, now)) if isinstance(read, Moved) else read

    @property
    def never_waits(self) -> bool:  # type: ignore[override]
        # A subclass may have a `replace` of its own, and somebody may have put another store in the place of ours.
        return type(self.store) is MemoryStore and type(self).replace is StoredBackend.replace

    def __len__(self) -> int:
        return len(self.store)

    @property
    def data(self) -> Mapping[str, dict[str, Any]]:
        """A copy of all that is held, live or not, by id: for tests. It walks over everything.

        >>> import asyncio
        >>> backend = InMemoryBackend()
        >>> asyncio.run(backend.write({"user": "ann"}, "some-id"))
        'some-id'
        >>> dict(backend.data)
        {'some-id': {'user': 'ann'}}
        """
        held = {}
        for key in self.store.all_keys():
            found = self._read(key, key, self.store.peek(key, 0))
            if isinstance(found, Found):
                held[key] = self.serializer.loads(found.record.payload)
        return MappingProxyType(held)
