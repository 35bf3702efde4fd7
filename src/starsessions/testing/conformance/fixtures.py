"""Where a rule is proved: one isolated storage, and connections to it."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from secrets import token_hex
from types import TracebackType
from typing import Self, TypeVar

from starsessions.backends.base import SessionBackend
from starsessions.stores.base import Store

OpenStore = Callable[[str], Store | AbstractAsyncContextManager[Store]]
"""Opens a connection to the storage of this name (letters, digits and `_`), and makes that storage if it is new.

Names are never used twice. What is to be closed is given as an async context manager.
"""

OpenBackend = Callable[[], SessionBackend | AbstractAsyncContextManager[SessionBackend]]
"""Makes a backend, which may hold sessions of others already. What is to be closed is given likewise."""

T = TypeVar("T")


@asynccontextmanager
async def opened(what: T | AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """What was opened; closed at the end if there is something to close."""
    if isinstance(what, AbstractAsyncContextManager):
        async with what as entered:
            yield entered
    else:
        yield what


class StoreFixture:
    """One isolated storage, fresh and empty. `connect()` opens a connection to it: a `Store`.

    >>> import anyio
    >>> from starsessions.stores.memory import MemoryStore
    >>> async def main():
    ...     async with StoreFixture(lambda name: MemoryStore()) as place:
    ...         store = await place.connect()
    ...         return await store.get("key", now=place.now)
    >>> anyio.run(main)
    """

    def __init__(
        self, open_store: OpenStore, *, one_connection_only: bool = False, largest_value: int | None = None
    ) -> None:
        self.name: str = f"place_{token_hex(8)}"
        self.largest_value: int | None = largest_value
        """The bytes that a value may have; None: no limit is stated."""
        self.now: int = int(time.time())
        """The instant at which rules begin. A real one, because a database may also look at a clock of its own."""
        self._open = open_store
        self._one_connection_only = one_connection_only
        self._connections: list[Store] = []
        self._closing = AsyncExitStack()

    async def connect(self) -> Store:
        """A new connection; the first one again where one is all that there can be."""
        if self._connections and self._one_connection_only:
            return self._connections[0]
        store = await self._closing.enter_async_context(opened(self._open(self.name)))
        self._connections.append(store)
        return store

    async def disconnect(self) -> None:
        """Close all connections. What they have stored stays, where stores are durable."""
        self._connections.clear()
        await self._closing.aclose()

    def another(self) -> "StoreFixture":
        """Another place of the same kind: to be opened and closed like this one."""
        return StoreFixture(self._open, one_connection_only=self._one_connection_only, largest_value=self.largest_value)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.disconnect()
