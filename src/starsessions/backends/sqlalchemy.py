"""Sessions in a SQL database."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from starsessions.backends.base import wall_clock
from starsessions.backends.observer import UNOBSERVED
from starsessions.backends.server_side import StoreBackend
from starsessions.core.durations import Clock, Duration, seconds, time_limit
from starsessions.core.record import Found, MissReason
from starsessions.core.serializer import Serializer
from starsessions.exceptions import BackendUnavailable
from starsessions.notices import Notices
from starsessions.sealing.keys import OptionalKeys
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
    """Sessions in PostgreSQL, MySQL, MariaDB or SQLite, using SQLAlchemy's asyncio extension.

    The backend has a small pool of connections of its own, and closes it when the application shuts down. If you pass
    your engine, its settings and events apply to that pool, and the engine itself is neither used nor changed. So a
    request that holds one of its connections does not wait for itself. If you pass a URL, each read or write is one
    round trip. So it is with an engine that connects to PostgreSQL; create others with
    `isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True`, or each statement needs a COMMIT and a ROLLBACK.

    The table is not created automatically: call `create_table()`, or use Alembic with the backend's `metadata`. If the
    table is missing or lacks a column, the application fails at startup. If the database does not answer at startup, a
    warning is logged, because it may still be starting.

    Args:
        engine_or_url: an `AsyncEngine`, or the URL of a database. If it names no driver, an installed one is used.
        table_name: the name of the table, or `schema.table`.
        metadata: the metadata that the table is added to, for example that of your models. None: a new one.
        timeout: the seconds after which an operation raises `BackendUnavailable`.
        sweep_every: about how often this process removes expired sessions, in seconds or as a `timedelta`. None: never;
            call `sweep()` regularly.
        encrypt_with: a key of 32 bytes or more that encrypts what is stored, bound to its place. A list: the first key
            encrypts, all decrypt, and a record moves to the first key when it is next written. Sessions that are not
            encrypted are ignored then. False: no encryption.
        serializer: converts the data to bytes. None: MessagePack.
        check_epoch: ask at each load of a signed-in session, and not only when it is written, whether all sessions of
            the user or of all users were ended. It is part of the same statement.
        clock: returns the seconds since 1970; for tests.

    Raises:
        ImproperlyConfigured: the engine or URL cannot be used, or SQLAlchemy or the driver is missing.

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
        encrypt_with: OptionalKeys = False,
        serializer: Serializer | None = None,
        check_epoch: bool = False,
        clock: Clock = wall_clock,
    ) -> None:
        limit = time_limit("timeout", timeout)
        self._notices = Notices()
        self._has_started = False
        self._sweep_every = None if sweep_every is None else seconds("sweep_every", sweep_every)
        self.engine: AsyncEngine
        self.engine, connections = engine_for(engine_or_url, limit)
        self.table: Table = session_table(metadata, table_name)
        self.store: SQLAlchemyStore
        store = SQLAlchemyStore(self.engine, self.table, timeout=limit, connections=connections)
        super().__init__(store, encrypt_with=encrypt_with, serializer=serializer, check_epoch=check_epoch, clock=clock)

    @property
    def metadata(self) -> "MetaData":
        """The metadata that contains the table, for Alembic's `target_metadata`."""
        return self.table.metadata

    async def fetch(self, token: str, now: int) -> Found | MissReason:
        if self._sweep_every is not None and not self._has_started:
            self._notices.warn(
                "lifespan",
                "sweep_every has no effect, and expired sessions remain in the table, because the lifespan of the "
                "SessionMiddleware did not run. Servers run that of the outermost application only: if it mounts the "
                "one with the middleware, use `async with backend.lifespan():` in its lifespan.",
            )
        return await super().fetch(token, now)

    async def create_table(self) -> None:
        """Create the table and its indexes, unless it exists.

        Raises:
            BackendUnavailable: the database failed or did not answer in time.
        """
        await self.store.create_table()

    async def sweep(self, limit: int = 1000) -> int:
        """Remove at most `limit` expired sessions, and return the number removed. Fewer than `limit`: none is left.

        Raises:
            BackendUnavailable: the database failed or did not answer in time.
        """
        removed = await self.store.sweep(limit, now=int(self.clock()))
        # Several middlewares may share this table: one of those that are measured counts.
        measured = [bound.observer for bound in self._copies().values() if bound.observer is not UNOBSERVED]
        for observer in measured[:1]:
            observer.swept(removed)
        return removed

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self._has_started = True
        sweeper = None
        try:
            await self._look_for_table()
            if self._sweep_every is not None:
                sweeper = asyncio.create_task(
                    sweep_forever(self.store, self._sweep_every, self.clock, told=self.observer.swept)
                )
            async with super().lifespan():
                yield
        finally:
            if sweeper is not None:
                sweeper.cancel()
                with suppress(asyncio.CancelledError):
                    await sweeper
            await self.store.aclose()

    async def _look_for_table(self) -> None:
        try:
            await self.store.check_table()
        except BackendUnavailable as error:
            _logger.warning("The session database does not answer yet, so its table was not checked: %s", error)
