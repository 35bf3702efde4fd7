"""Sessions in a SQL database."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from starsessions.backends.base import wall_clock
from starsessions.backends.server_side import StoreBackend
from starsessions.core.durations import Clock, Duration, seconds, time_limit
from starsessions.core.serializer import Serializer
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.sealing.keys import Keys
from starsessions.stores.sqlalchemy.connection import engine_for
from starsessions.stores.sqlalchemy.store import SQLAlchemyStore
from starsessions.stores.sqlalchemy.table import session_table
from starsessions.stores.sweeper import sweep_forever

__all__ = ["SQLAlchemyBackend", "session_table"]

if TYPE_CHECKING:
    from sqlalchemy import URL, MetaData, Table
    from sqlalchemy.ext.asyncio import AsyncEngine

_logger = logging.getLogger("starsessions")


class SQLAlchemyBackend(StoreBackend):
    """Sessions in PostgreSQL, MySQL, MariaDB or SQLite, through SQLAlchemy's asyncio.

    With a URL the engine is ours: made so that a read or a write is one round trip, and closed when the application
    ends. SQLite then writes ahead (WAL), and waits for its turn. An engine of your own stays open, and as it is. Unless
    it speaks to PostgreSQL, make it with `isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True`: otherwise each
    statement costs a COMMIT and a ROLLBACK more.

    The table is never created behind your back: call `create_table()`, or let Alembic find `table` in its `metadata`
    (yours, if you give it). When the application starts, a table that is missing is an error; a database that does not
    answer is not, as it may still come.

    `timeout` is the number of seconds after which a request gives up. `sweep_every` is about how often this process
    removes expired sessions, in seconds or as a timedelta; without it, call `sweep()` from time to time.

    >>> import asyncio
    >>> from starsessions.backends.sqlalchemy import SQLAlchemyBackend
    >>> async def main():
    ...     backend = SQLAlchemyBackend("sqlite+aiosqlite://")
    ...     await backend.create_table()
    ...     async with backend.lifespan():  # the middleware does this in an application
    ...         session_id = await backend.write({"user": "ann"})
    ...         return await backend.read(session_id)
    >>> asyncio.run(main())
    {'user': 'ann'}
    """

    def __init__(
        self,
        engine_or_url: "AsyncEngine | URL | str",
        table_name: str = "starsessions",
        *,
        metadata: "MetaData | None" = None,
        timeout: float | timedelta = 5.0,
        sweep_every: Duration | None = None,
        encrypt_with: Keys | None = None,
        serializer: Serializer | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        limit = time_limit("timeout", timeout)
        self._sweep_every = None if sweep_every is None else seconds("sweep_every", sweep_every)
        self.engine: AsyncEngine
        self.engine, self._is_ours = engine_for(engine_or_url, limit)
        self.table: Table = session_table(metadata, table_name)
        self.store: SQLAlchemyStore
        store = SQLAlchemyStore(self.engine, self.table, timeout=limit)
        super().__init__(store, encrypt_with=encrypt_with, serializer=serializer, clock=clock)

    @property
    def metadata(self) -> "MetaData":
        """Where the table belongs to, for Alembic's `target_metadata`."""
        return self.table.metadata

    async def create_table(self) -> None:
        """Create the table and its index, unless it is there."""
        await self.store.create_table()

    async def sweep(self, limit: int = 1000) -> int:
        """Remove at most `limit` expired sessions, and say how many: fewer than `limit`, and nothing is left."""
        return await self.store.sweep(limit, now=int(self.clock()))

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        await self._look_for_table()
        sweeper = None
        if self._sweep_every is not None:
            sweeper = asyncio.create_task(sweep_forever(self.store, self._sweep_every, self.clock))
        try:
            yield
        finally:
            if sweeper is not None:
                sweeper.cancel()
                with suppress(asyncio.CancelledError):
                    await sweeper
            await self.store.finished()
            if self._is_ours:
                await self.engine.dispose()

    async def _look_for_table(self) -> None:
        try:
            is_there = await self.store.has_table()
        except BackendUnavailable as error:
            _logger.warning("The database of the sessions does not answer yet: %s", error)
            return
        if not is_there:
            raise ImproperlyConfigured(
                f"The table {self.table.fullname!r} is missing: `await backend.create_table()` creates it, or a "
                "migration of Alembic, which finds it in backend.metadata."
            )
