"""Sessions in the memory of this process, for development, tests, and single-process services."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Self

from starsessions.backends.base import in_one_step, wall_clock
from starsessions.backends.entries import Pointer
from starsessions.backends.server_side import StoreBackend
from starsessions.core.binding import Binding
from starsessions.core.durations import Clock
from starsessions.core.record import Found, MissReason, Policy
from starsessions.core.serializer import Serializer
from starsessions.stores.memory import MemoryStore


class InMemoryBackend(StoreBackend):
    """Sessions in the memory of this process. They are lost when it ends.

    Sessions expire, share no objects with the application, and can be used from `def` endpoints and event loops in
    several threads. With several worker processes, each has its own sessions: use one process, or another backend.

    Args:
        serializer: converts the data to bytes. None: MessagePack.
        check_epoch: ask at each load of a signed-in session, and not only when it is written, whether all sessions of
            the user or of all users were ended. Loading a session then needs `autoload=True` or `load()`.
        clock: returns the seconds since 1970; for tests.

    >>> from starsessions import SessionMiddleware
    >>> from starlette.applications import Starlette
    >>> app = Starlette()
    >>> app.add_middleware(SessionMiddleware, backend=InMemoryBackend())
    """

    hashes_ids: ClassVar[bool] = False  # anyone who can read this memory can read everything else in it

    def __init__(
        self, *, serializer: Serializer | None = None, check_epoch: bool = False, clock: Clock = wall_clock
    ) -> None:
        self.store: MemoryStore
        self._stores: dict[Binding, MemoryStore | None] = {}  # None: the first one, which is `store`
        super().__init__(MemoryStore(), serializer=serializer, check_epoch=check_epoch, clock=clock)

    def prepare(self, binding: Binding, policy: Policy) -> None:
        if self.original is not None:  # the keys are ids, without the binding, so each binding has its own store
            own = self._stores.setdefault(binding, MemoryStore() if self._stores else None)
            self.store = self.store if own is None else own
        super().prepare(binding, policy)

    def by_hand(self) -> Self:
        # Sessions written before any middleware exists belong to the first one, which uses the same store.
        bound = self.bound_once()
        return self if bound is None else bound

    def peek(self, token: str, now: int) -> Found | MissReason:
        entry = self.store.peek(token, now)
        read = self._read(token, token, entry)
        if isinstance(read, Pointer):
            return in_one_step(self._found(token, token, entry, now, self.store.get))
        return read

    @property
    def never_waits(self) -> bool:  # type: ignore[override]
        # A subclass may override `replace`, and the application may have set another store.
        usual = type(self.store) is MemoryStore and type(self).replace is StoreBackend.replace
        return usual and not self.user_index.checks_epoch

    def __len__(self) -> int:
        others = () if self.original is not None else self._stores.values()
        return len(self.store) + sum(len(store) for store in others if store is not None)

    def __bool__(self) -> bool:
        return True  # `backend or …` must not replace an empty one

    @property
    def data(self) -> Mapping[str, dict[str, Any]]:
        """A copy of all sessions by id, expired ones included, for tests. Its cost grows with their number.

        >>> import asyncio
        >>> backend = InMemoryBackend()
        >>> asyncio.run(backend.write({"user": "ann"}, "some-id"))
        'some-id'
        >>> dict(backend.data)
        {'some-id': {'user': 'ann'}}
        """
        return MappingProxyType(self.by_hand().copied())

    def copied(self) -> dict[str, dict[str, Any]]:
        """Return the `data` of this binding."""
        held = {}
        for key in self.store.all_keys():
            found = self._read(key, key, self.store.peek(key, 0))
            if isinstance(found, Found):
                held[key] = self.serializer.loads(found.record.payload)
        return held
