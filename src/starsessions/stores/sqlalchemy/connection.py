"""How a statement gets to a database and back: as a transaction of its own, without a round trip more than itself, and
in bounded time.

A statement runs in a task of its own. When time is up, the request is answered at once, and the task goes on to put its
connection in order: drivers take seconds for that when the server does not answer. When a request is cancelled, its
statement runs to its end, so that no connection has to be closed in the middle of an answer; who writes waits for that
end, so that nothing is written later.

A pooled connection may have died since it was last used, and it is not asked beforehand, which would cost a round trip.
So what fails is tried once more: SQLAlchemy empties its pool when it sees a connection that was lost. A write may then
have been carried out the first time, or not; the writer finds out by the version.
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
"""Failures after which nothing has been done, and the same statement may well succeed."""

READ_ONLY: set[str | int] = {
    "25006",  # PostgreSQL
    1290,  # MySQL: --read-only
    1792,  # MySQL: the transaction is read-only
    1836,  # MySQL: a read-only mode
}
"""What a server says to a write that was the primary when the connection was made."""

MAX_ATTEMPTS = 8
"""Of a statement that fails for what is in `BUSY`."""

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
    """How many rows; 0 as well if an INSERT found its key taken."""

    in_doubt: bool
    """An earlier attempt has failed, and it is unknown whether it was carried out."""


class Database:
    """An engine, as the store uses it."""

    def __init__(self, engine: AsyncEngine, timeout: float) -> None:
        self.name: str = engine.dialect.name
        self._engine = engine.sync_engine
        self._timeout = timeout
        self._running: set[asyncio.Task[Any]] = set()

    async def with_timeout(self, work: Coroutine[Any, Any, T], *, writes: bool = False) -> T:
        """What the work comes to; `BackendUnavailable` when time is up."""
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
            if answer.done():  # the request has gone away
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
        """Returns when nothing runs any more. Each piece of work ends in time, or soon after."""
        while self._running:
            await asyncio.wait(self._running)

    async def execute(self, statement: Executable, parameters: dict[str, Any]) -> Answer:
        (rows, written), in_doubt = await self.call(_execute, statement, parameters)
        return Answer(rows, written, in_doubt)

    async def call(
        self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> tuple[T, bool]:
        """What the work comes to on a connection, and whether an earlier attempt at it is in doubt.

        It raises nothing but `BackendUnavailable`: drivers and event loops raise many things when a server fails.
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
                await asyncio.sleep(0.002 * 2**attempts * random())  # noqa: S311 - so that two do not meet again
            else:
                again, in_doubt = not in_doubt, True
            if not again:
                raise BackendUnavailable(f"The store failed: {type(failure).__name__}.") from failure

    def _once(self, work: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        with self._engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            commits = not self._engine.dialect.detect_autocommit_setting(driver)
            if commits and self.name == "postgresql":
                # An engine of the user's. These drivers note it down and send nothing; others would send a statement.
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
    """The driver's own error: SQLAlchemy's shows the parameters, which are keys and sessions.

    The frames of its traceback hold them, too, for tools that print local variables.
    """
    if isinstance(error, StatementError) and isinstance(error.orig, Exception):
        error = error.orig
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _spoils(error: Exception) -> bool:
    """Whether the connection must not be used again: its state is unknown, or it leads to what is a replica now."""
    if isinstance(error, InterfaceError | InternalError) or not isinstance(error, SQLAlchemyError):
        return True
    return isinstance(error, DBAPIError) and _is(error.orig, READ_ONLY)


def _is(failure: BaseException | None, codes: set[str | int]) -> bool:
    """Whether a driver's error has one of these codes, wherever this driver has put it."""
    said = (
        getattr(failure, "sqlstate", None),
        getattr(failure, "sqlite_errorname", None),
        *getattr(failure, "args", ())[:1],
    )
    return any(code in codes for code in said if isinstance(code, str | int))


def engine_for(engine_or_url: AsyncEngine | URL | str, timeout: float) -> tuple[AsyncEngine, bool]:
    """The engine, and whether it is ours: made from a URL, and to be closed by us."""
    if isinstance(engine_or_url, AsyncEngine):
        if isinstance(engine_or_url.pool, StaticPool):
            raise ImproperlyConfigured(
                "This engine has one connection that all requests share, so that one would roll back what another has "
                "written. Pass the URL instead of the engine: for SQLite in memory, 'sqlite+aiosqlite://'."
            )
        return engine_or_url, False
    if not isinstance(engine_or_url, URL | str):
        raise ImproperlyConfigured(
            f"SQLAlchemyBackend needs an AsyncEngine, from create_async_engine(), or a URL, and not "
            f"a {type(engine_or_url).__name__}."
        )
    return _engine_from_url(engine_or_url, timeout), True


def _engine_from_url(url: URL | str, timeout: float) -> AsyncEngine:
    try:
        engine = create_async_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,  # there is nothing to roll back, and MySQL would be asked to all the same
            hide_parameters=True,
        )
    except ArgumentError:
        raise ImproperlyConfigured(
            "This is not a URL that SQLAlchemy knows. It looks like postgresql+asyncpg://user:password@host/database."
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
    return ImproperlyConfigured(f"The driver of this URL is not one for asyncio. The URL may begin with {known}.")


def _prepare_sqlite(timeout: float, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Readers and the one writer go on beside each other (WAL). A writer waits for its turn, but fails before we do."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(timeout * 500)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()
