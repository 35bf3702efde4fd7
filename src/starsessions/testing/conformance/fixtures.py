"""The fixture of a store rule: an isolated storage, and connections to it."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from secrets import token_hex
from types import TracebackType
from typing import Self, TypeVar

from anyio import Event, move_on_after

from starsessions.backends.base import SessionBackend
from starsessions.stores.base import Store

OpenStore = Callable[[str], Store | AbstractAsyncContextManager[Store]]
"""Opens a connection to the storage of this name (letters, digits and `_`), and creates that storage if it is new.

Names are not reused between tests. Return an async context manager if there is something to close.
"""

OpenBackend = Callable[[], SessionBackend | AbstractAsyncContextManager[SessionBackend]]
"""Creates a backend, which may already hold other sessions. Return an async context manager if it must be closed."""

Wait = Callable[[Event], Awaitable[None]]
"""Waits for an event, and gives up after a while."""

PATIENCE = 60
"""Seconds after which an announcement that has not arrived counts as lost, and the rule as broken.

An announcement that is late cannot be told from one that is lost. It is not left without a verdict, because then no
store that loses announcements would ever break a rule. On servers it takes some milliseconds, so a busy machine is no
reason for a minute.
"""

T = TypeVar("T")


async def wait_with_patience(event: Event) -> None:
    """Wait for an event, or until it would have happened long ago."""
    with move_on_after(PATIENCE):
        await event.wait()


@asynccontextmanager
async def opened(what: T | AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
    """Enter an async context manager, and close it at the end; anything else is yielded unchanged."""
    if isinstance(what, AbstractAsyncContextManager):
        async with what as entered:
            yield entered
    else:
        yield what


class StoreFixture:
    """An isolated, empty storage. `connect()` opens a connection to it: a `Store`.

    Args:
        open_store: opens a connection to the storage of a given name.
        one_connection_only: `connect()` returns the same connection each time.
        largest_value: the largest value in bytes that the store accepts. None: no stated limit.
        wait: waits for what was announced, and gives up after a while; for tests of the rules.

    >>> import anyio
    >>> from starsessions.stores.memory import MemoryStore
    >>> async def main():
    ...     async with StoreFixture(lambda name: MemoryStore()) as place:
    ...         store = await place.connect()
    ...         return await store.get("key", now=place.now)
    >>> anyio.run(main)
    """

    def __init__(
        self,
        open_store: OpenStore,
        *,
        one_connection_only: bool = False,
        largest_value: int | None = None,
        wait: Wait = wait_with_patience,
    ) -> None:
        self.name: str = f"place_{token_hex(8)}"
        self.largest_value: int | None = largest_value
        """The largest value in bytes; None: no stated limit."""
        self.now: int = int(time.time())
        """The time at which the rule begins. It is the real time, because a database may also use its own clock."""
        self.wait: Wait = wait
        """Waits for an event, and gives up after a while."""
        self._open = open_store
        self._one_connection_only = one_connection_only
        self._connections: list[Store] = []
        self._closing = AsyncExitStack()

    async def connect(self) -> Store:
        """Open a connection; return the first one again if the store allows only one."""
        if self._connections and self._one_connection_only:
            return self._connections[0]
        store = await self._closing.enter_async_context(opened(self._open(self.name)))
        self._connections.append(store)
        return store

    async def disconnect(self) -> None:
        """Close all connections. A durable store keeps its entries."""
        self._connections.clear()
        await self._closing.aclose()

    def another(self) -> "StoreFixture":
        """Return a fixture with a separate storage of the same kind. Enter and exit it like this one."""
        return StoreFixture(
            self._open,
            one_connection_only=self._one_connection_only,
            largest_value=self.largest_value,
            wait=self.wait,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.disconnect()
