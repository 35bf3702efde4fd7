"""Execute statements: each in its own transaction, in one round trip, and with a timeout.

Each statement runs in its own task. After the timeout the request fails at once, while the task goes on to clean up its
connection, which takes drivers seconds if the server does not answer. If a request is cancelled, its statement still
runs to the end, so that no connection has to be closed in the middle of a reply. A cancelled write waits for that end,
so that nothing is written afterwards.

A pooled connection may have been lost since its last use. Checking it first would cost a round trip, so a statement
that fails is retried once instead: SQLAlchemy empties its pool when it detects a lost connection. A write may have been
carried out by the first attempt; the writer recognizes it by its version.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from random import random
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from anyio import CancelScope
from sqlalchemy import URL, Connection, CursorResult, Executable, Row, StaticPool, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    InvalidRequestError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util.concurrency import greenlet_spawn

from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured

P = ParamSpec("P")
T = TypeVar("T")

BUSY: set[str | int] = {
    "40001",  # PostgreSQL: serialization failure
    "40P01",  # PostgreSQL: deadlock
    "0A000",  # asyncpg: the table was altered since the statement was prepared
    1205,  # MySQL: waited too long for a lock
    1213,  # MySQL: deadlock
    "SQLITE_BUSY",
    "SQLITE_BUSY_RECOVERY",
    "SQLITE_BUSY_SNAPSHOT",
    "SQLITE_LOCKED",
    "SQLITE_LOCKED_SHAREDCACHE",
}
"""Errors after which nothing was changed, and a retry may succeed."""

READ_ONLY: set[str | int] = {
    "25006",  # PostgreSQL
    1290,  # MySQL: --read-only
    1792,  # MySQL: the transaction is read-only
    1836,  # MySQL: a read-only mode
}
"""Errors for a write on a server that was the primary when the connection was made."""

MAX_ATTEMPTS = 8
"""The attempts at a statement that fails with an error in `BUSY`."""

ASYNC_DRIVERS = {
    "aiomysql": "mysql+aiomysql://",
    "aiosqlite": "sqlite+aiosqlite:///",
    "asyncmy": "mysql+asyncmy://",
    "asyncpg": "postgresql+asyncpg://",
    "psycopg": "postgresql+psycopg://",
}


class Answer(NamedTuple):
    rows: Sequence[Row[Any]]

    written: int
    """The number of rows written; 0 if an INSERT found its key in use."""

    in_doubt: bool
    """Whether an earlier attempt failed and may have been carried out."""


class Database:
    """An engine, with the timeout and the retries that the store needs."""

    def __init__(self, engine: AsyncEngine, timeout: float) -> None:
        self.name: str = engine.dialect.name
        self._engine = engine.sync_engine
        self._timeout = timeout
        self._running: set[asyncio.Task[Any]] = set()

    async def with_timeout(self, work: Coroutine[Any, Any, T], *, writes: bool = False) -> T:
        """Return the result of the work. Raises `BackendUnavailable` after the timeout."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        task = loop.create_task(work)
        self._running.add(task)

        def time_is_up() -> None:
            task.cancel()
            if not answer.done():
                answer.set_exception(BackendUnavailable(f"The store did not answer within {self._timeout:g} seconds."))

        timer = loop.call_later(self._timeout, time_is_up)

        def has_ended(task: asyncio.Task[T]) -> None:
            timer.cancel()
            self._running.discard(task)
            if answer.done():  # the request has timed out or was cancelled
                task.cancelled() or task.exception()
            elif task.cancelled():  # the event loop is being closed
                answer.cancel()
            elif (failure := task.exception()) is not None:
                answer.set_exception(failure)
            else:
                answer.set_result(task.result())

        task.add_done_callback(has_ended)
        try:
            return await answer
        except asyncio.CancelledError:
            if writes:
                with CancelScope(shield=True):
                    await asyncio.wait({task}, timeout=timer.when() - loop.time())
            raise

    async def finished(self) -> None:
        """Wait until no work is running. All work ends within the timeout, or soon after."""
        while self._running:
            await asyncio.wait(self._running)

    async def execute(self, statement: Executable, parameters: dict[str, Any]) -> Answer:
        (rows, written), in_doubt = await self.call(_execute, statement, parameters)
        return Answer(rows, written, in_doubt)

    async def call(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, bool]:
        """Run the work on a connection. Return its result, and whether an earlier attempt may have been carried out.

        Raises:
            BackendUnavailable: the work failed. It replaces the many errors of drivers and event loops.
        """
        attempts, in_doubt = 0, False
        while True:
            try:
                return await greenlet_spawn(partial(self._once, work, *args, **kwargs)), in_doubt
            except Exception as error:
                failure = _as_the_driver_said(error)
            if _is(failure, BUSY):
                attempts += 1
                again = attempts < MAX_ATTEMPTS
                await asyncio.sleep(0.002 * 2**attempts * random())  # noqa: S311 - jitter
            else:
                again, in_doubt = not in_doubt, True
            if not again:
                raise BackendUnavailable(f"The store failed: {type(failure).__name__}.") from failure

    def _once(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            commits = not self._engine.dialect.detect_autocommit_setting(driver)
            if commits and self.name == "postgresql":
                # An engine of the application. PostgreSQL drivers send nothing for this; others would send a statement.
                connection.execution_options(isolation_level="AUTOCOMMIT")
                commits = False
            try:
                result = work(connection, *args, **kwargs)
                if commits:
                    connection.commit()
            except Exception as error:
                if _spoils(error):
                    connection.invalidate()
                raise
            return result


def _execute(
    connection: Connection, statement: Executable, parameters: dict[str, Any]
) -> tuple[Sequence[Row[Any]], int]:
    try:
        result: CursorResult[Any] = connection.execute(statement, parameters)
    except IntegrityError:
        return (), 0
    return (result.all(), 0) if result.returns_rows else ((), result.rowcount)


def _as_the_driver_said(error: Exception) -> Exception:
    """Return the driver's own error, without tracebacks.

    SQLAlchemy's error shows the parameters, which are keys and sessions. The frames of the tracebacks hold them as
    well, and tools that print local variables would show them.
    """
    if isinstance(error, StatementError) and isinstance(error.orig, Exception):
        error = error.orig
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _spoils(error: Exception) -> bool:
    """Return whether the connection must not be reused: its state is unknown, or its server is now a replica."""
    if isinstance(error, InterfaceError | InternalError) or not isinstance(error, SQLAlchemyError):
        return True
    return isinstance(error, DBAPIError) and _is(error.orig, READ_ONLY)


def _is(failure: BaseException | None, codes: set[str | int]) -> bool:
    """Return whether a driver's error has one of these codes, in any of the places where drivers put it."""
    said = (
        getattr(failure, "sqlstate", None),
        getattr(failure, "sqlite_errorname", None),
        *getattr(failure, "args", ())[:1],
    )
    return any(code in codes for code in said if isinstance(code, str | int))


def engine_for(engine_or_url: AsyncEngine | URL | str, timeout: float) -> tuple[AsyncEngine, bool]:
    """Return the engine, and whether it was made from a URL, so that the backend must close it."""
    if isinstance(engine_or_url, AsyncEngine):
        if isinstance(engine_or_url.pool, StaticPool):
            raise ImproperlyConfigured(
                "All requests would share the one connection of this engine (StaticPool), and one request would roll "
                "back the writes of another. Pass a URL instead: for SQLite in memory, 'sqlite+aiosqlite://'."
            )
        return engine_or_url, False
    if not isinstance(engine_or_url, URL | str):
        raise ImproperlyConfigured(
            f"SQLAlchemyBackend takes a URL, or an AsyncEngine from create_async_engine(), not "
            f"a {type(engine_or_url).__name__}."
        )
    return _engine_from_url(engine_or_url, timeout), True


def _engine_from_url(url: URL | str, timeout: float) -> AsyncEngine:
    try:
        engine = create_async_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,  # there is nothing to roll back, and MySQL would need a round trip for it
            hide_parameters=True,
        )
    except ArgumentError:
        raise ImproperlyConfigured(
            "SQLAlchemy cannot read this URL: pass one like postgresql+asyncpg://user:password@host/database."
        ) from None
    except ModuleNotFoundError as error:
        if error.name in ASYNC_DRIVERS:
            raise ImproperlyConfigured(f"The driver of this URL is not installed: pip install {error.name}.") from None
        raise _wrong_driver() from None
    except InvalidRequestError:
        raise _wrong_driver() from None
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", partial(_prepare_sqlite, timeout))
    return engine


def _wrong_driver() -> ImproperlyConfigured:
    known = ", ".join(ASYNC_DRIVERS.values())
    return ImproperlyConfigured(f"The driver of this URL does not support asyncio: begin the URL with one of {known}.")


def _prepare_sqlite(timeout: float, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Let readers and one writer work in parallel (WAL). Other writers wait for half the timeout of the store."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(timeout * 500)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()
