"""Execute statements: each in its own transaction, in one round trip, and with a timeout.

Connections come from a pool of the store's own, one for each event loop. A request may hold a connection of the
application's pool until after its response (FastAPI's dependencies with `yield` do), and would wait for itself if the
session needed a second one of the same pool.

Each statement runs in its own task. After the timeout the request fails at once, while the task goes on to clean up its
connection, which takes drivers seconds if the server does not answer: they are interrupted after another timeout. If a
request is cancelled, its statement still runs to the end, so that no connection has to be closed in the middle of a
reply. A cancelled write waits for that end, so that nothing is written afterwards.

A pooled connection may have been lost since its last use. Checking it first would cost a round trip, so a statement
that fails is retried once instead: SQLAlchemy empties its pool when it detects a lost connection. A write may have been
carried out by the first attempt; the writer recognizes it by its version.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from importlib.util import find_spec
from random import random
from threading import Lock
from typing import Any, NamedTuple, NoReturn, TypeVar

import sqlalchemy as sa
from anyio import CancelScope
from sqlalchemy import event, exc
from sqlalchemy.engine.base import OptionEngine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util.concurrency import greenlet_spawn

from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.stores.loops import PerLoop

T = TypeVar("T")

Codes = frozenset[str | int]

LOCKED: Codes = frozenset(
    {"SQLITE_BUSY", "SQLITE_BUSY_RECOVERY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_LOCKED", "SQLITE_LOCKED_SHAREDCACHE"}
)

BUSY: Codes = LOCKED | {
    "40001",  # PostgreSQL: serialization failure
    "40P01",  # PostgreSQL: deadlock
    "0A000",  # asyncpg: the table was altered since the statement was prepared
    1205,  # MySQL: waited too long for a lock
    1213,  # MySQL: deadlock
}
"""Errors after which nothing was changed, and a retry may succeed."""

READ_ONLY: Codes = frozenset(
    {
        "25006",  # PostgreSQL
        1290,  # MySQL: --read-only
        1792,  # MySQL: the transaction is read-only
        1836,  # MySQL: a read-only mode
    }
)
"""Errors for a write on a server that was the primary when the connection was made."""

NO_TABLE: Codes = frozenset({"42P01", 1146, "no such table"})
"""PostgreSQL, MySQL and SQLite: the table does not exist."""

OLD_TABLE: Codes = frozenset({"42703", 1054, 1176, "no such column", "has no column named"})
"""PostgreSQL, MySQL and SQLite: the table lacks a column, or on MySQL an index."""

PREPARED: Codes = frozenset({"26000", "42P05"})
"""PostgreSQL: a prepared statement does not exist, or exists already."""

CAUSES: dict[Codes, str] = {
    NO_TABLE: "The table {table!r} is missing: create it with `await backend.create_table()`, or with an Alembic "
    "migration that uses backend.metadata.",
    OLD_TABLE: "The table {table!r} lacks a column or an index, because an earlier version created it: change it with "
    "an Alembic migration that uses backend.metadata, or drop it and create it with `await backend.create_table()`. "
    "Dropping it ends all sessions.",
    LOCKED: "The SQLite file is locked by another transaction. If it is this request's own, end it before the response "
    'starts (FastAPI: `Depends(get_db, scope="function")`), or keep the sessions in a file of their own.',
    frozenset({"SQLITE_CANTOPEN"}): "The SQLite file cannot be opened: create its directory, or correct the URL (three "
    "slashes begin a relative path, four an absolute one).",
    PREPARED: "Prepared statements do not work, as behind PgBouncer in transaction mode. Create the engine with "
    "poolclass=NullPool, and connect_args={{'prepare_threshold': None}} for psycopg, or for asyncpg "
    "{{'statement_cache_size': 0, 'prepared_statement_name_func': lambda: f'__{{uuid4()}}__'}}.",
}
"""What is wrong and how to fix it, for errors that have one usual cause."""

MAX_ATTEMPTS = 8
"""The attempts at a statement that fails with an error in `BUSY`."""

MOST_CONNECTIONS = 15
"""As many as SQLAlchemy's default pool opens at most. That one closes ten of them after each use."""

_POOL: dict[str, Any] = {
    "pool_size": MOST_CONNECTIONS,
    "max_overflow": 0,
    "pool_use_lifo": True,  # the process of PostgreSQL that answered last does so a tenth faster than one that was idle
    "pool_recycle": 300,  # seconds; firewalls forget connections that are idle for long, and say nothing
}

ASYNC_DRIVERS: dict[str, tuple[str, ...]] = {
    "postgresql": ("psycopg", "asyncpg"),
    "mysql": ("asyncmy",),
    "mariadb": ("asyncmy",),
    "sqlite": ("aiosqlite",),
}
"""The drivers that are tested, for each database. The first one that is installed is the default."""


class UnusableTable(BackendUnavailable):
    """The table is missing, or is not what the statements need."""


class MissingTable(UnusableTable):
    """The table is missing."""


class Answer(NamedTuple):
    rows: Sequence[sa.Row[Any]]

    written: int
    """The number of rows written; 0 if an INSERT found its key in use."""

    in_doubt: bool = False
    """Whether an earlier attempt failed and may have been carried out."""


_KINDS: dict[Codes, type[BackendUnavailable]] = {NO_TABLE: MissingTable, OLD_TABLE: UnusableTable}
"""The errors that are known by their class."""


class _OwnPool(OptionEngine):
    """An engine with the settings and events of another one, and a pool of its own.

    SQLAlchemy's `OptionEngine` shares the pool as well. It is what `Engine.execution_options()` returns.
    """

    pool: sa.Pool = None  # type: ignore[assignment] # hides the property that leads to the pool of the other engine

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine, {})
        self.pool = engine.pool.recreate()


def own_pool(engine: sa.Engine) -> sa.Engine:
    """Return an engine with the settings of another one, and connections of its own."""
    return _OwnPool(engine)


class _Turn:
    """Lets one event loop at a time use the connection of a database in memory, which belongs to all of them.

    SQLAlchemy's own lock raises in the second loop, which closes the connection, and the database ends with it. Waiting
    for a lock of threads could block the loop that has to release it.
    """

    def __init__(self) -> None:
        self._lock = Lock()

    async def __aenter__(self) -> None:
        while not self._lock.acquire(blocking=False):  # noqa: ASYNC110 - an event of asyncio belongs to one loop
            await asyncio.sleep(0.001)

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class _Local(NamedTuple):
    """What belongs to one event loop."""

    engine: sa.Engine
    free: asyncio.Semaphore
    turn: AbstractAsyncContextManager[None]
    running: set[asyncio.Task[Any]]


def _open_local(engine: sa.Engine, connections: int, timeout: float, turn: _Turn) -> _Local:
    if isinstance(engine.pool, sa.StaticPool):
        return _Local(engine, asyncio.Semaphore(1), turn, set())
    engine = _OwnPool(engine)
    if engine.dialect.name == "sqlite":
        event.listen(engine.pool, "connect", partial(_wait_no_longer, timeout))
    return _Local(engine, asyncio.Semaphore(connections), nullcontext(), set())


async def _close_local(local: _Local) -> None:
    if not isinstance(local.engine.pool, sa.StaticPool):
        await greenlet_spawn(local.engine.dispose)


class Database:
    """The connections, with the timeout and the retries that the store needs.

    Args:
        engine: the engine whose settings are used. Its pool is not.
        table: the name of the table, for error messages.
        timeout: the seconds after which work is abandoned.
        connections: the most connections that are open at once in one event loop.
    """

    def __init__(self, engine: AsyncEngine, table: str, timeout: float, connections: int) -> None:
        self.name: str = engine.dialect.name
        self._engine = engine
        self._table = table
        self._timeout = timeout
        self._local = PerLoop(partial(_open_local, engine.sync_engine, connections, timeout, _Turn()), _close_local)

    async def with_timeout(self, work: Coroutine[Any, Any, T], *, writes: bool = False) -> T:
        """Return the result of the work. Raises `BackendUnavailable` after the timeout."""
        try:
            running = self._local.get().running
        except ImproperlyConfigured:
            work.close()
            raise
        loop = asyncio.get_running_loop()
        task = loop.create_task(work)
        running.add(task)
        # `asyncio.wait` would do what this future does, and take 10 µs more.
        is_late: asyncio.Future[bool] = loop.create_future()

        def end(late: bool) -> None:
            if not is_late.done():
                is_late.set_result(late)

        def has_ended(task: asyncio.Task[T]) -> None:
            running.discard(task)
            timer.cancel()
            task.cancelled() or task.exception()  # asked for, although no one may be waiting for it any more
            end(False)

        def give_up() -> None:
            if is_late.done():  # no one waits any more
                self._interrupt(task)
            end(True)

        timer = loop.call_later(self._timeout, give_up)
        task.add_done_callback(has_ended)
        try:
            late = await is_late
        except asyncio.CancelledError:
            if writes:
                with CancelScope(shield=True):
                    await asyncio.wait({task}, timeout=timer.when() - loop.time())
            raise
        if late and not task.done():  # the answer may have arrived with the limit, while something blocked the loop
            self._interrupt(task)
            raise BackendUnavailable(f"The store did not answer within {self._timeout:g} seconds.")
        return task.result()

    def _interrupt(self, task: asyncio.Task[Any]) -> None:
        """Cancel work, and again if it goes on: a driver may wait for the end of its statement, which never comes."""
        if not task.done():
            task.cancel()
            task.get_loop().call_later(self._timeout, self._interrupt, task)

    async def finished(self) -> None:
        """Wait until no work is running. All work ends within the timeout, or soon after."""
        while running := self._local.get().running:
            await asyncio.wait(running)

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        await self.finished()
        await self._local.aclose()
        if isinstance(self._engine.pool, sa.StaticPool):
            await self._engine.dispose()

    async def new_connection(self) -> Any:
        """Return a new connection of the driver, which no pool knows. The caller closes it."""
        pool = self._local.get().engine.pool.recreate()

        def connect() -> Any:
            connection = pool.connect()
            of_driver = connection.driver_connection
            connection.detach()
            return of_driver

        try:
            return await greenlet_spawn(connect)
        except Exception as error:
            self._fail(_as_the_driver_said(error))

    async def execute(self, statement: sa.Executable, parameters: dict[str, Any]) -> Answer:
        answer, in_doubt = await self.call(lambda connection: _execute(connection, statement, parameters))
        return answer._replace(in_doubt=True) if in_doubt else answer

    async def call(self, work: Callable[[sa.Connection], T]) -> tuple[T, bool]:
        """Run the work on a connection. Return its result, and whether an earlier attempt may have been carried out.

        Raises:
            BackendUnavailable: the work failed. It replaces the many errors of drivers and event loops.
        """
        local, attempts, in_doubt = self._local.get(), 0, False
        loop = asyncio.get_running_loop()
        until = loop.time() + self._timeout / 2  # a lock that is held for longer is reported, and not waited for
        async with local.free, local.turn:
            while True:
                try:
                    return await greenlet_spawn(_once, local.engine, work), in_doubt
                except Exception as error:
                    failure = _as_the_driver_said(error)
                if has_code(failure, BUSY):
                    attempts += 1
                    again = attempts < MAX_ATTEMPTS and loop.time() < until
                    await asyncio.sleep(0.002 * 2**attempts * random())  # noqa: S311 - jitter
                else:
                    again, in_doubt = not in_doubt, True
                if not again:
                    self._fail(failure)

    def _fail(self, failure: Exception) -> NoReturn:
        for codes, cause in CAUSES.items():
            if has_code(failure, codes):
                raise _KINDS.get(codes, BackendUnavailable)(cause.format(table=self._table)) from None
        raise BackendUnavailable(f"The store failed: {type(failure).__name__}.") from failure


def _once(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        commits = not engine.dialect.detect_autocommit_setting(driver)
        if commits and engine.dialect.name == "postgresql":
            # An engine of the application. PostgreSQL drivers send nothing for this; others would send a statement.
            connection.execution_options(isolation_level="AUTOCOMMIT")
            commits = False
        try:
            result = work(connection)
            if commits:
                connection.commit()
        except Exception as error:
            if _breaks_connection(error):
                connection.invalidate()
            raise
        return result


def _execute(connection: sa.Connection, statement: sa.Executable, parameters: dict[str, Any]) -> Answer:
    try:
        result: sa.CursorResult[Any] = connection.execute(statement, parameters)
    except exc.IntegrityError:
        return Answer((), 0)
    return Answer(result.all(), 0) if result.returns_rows else Answer((), result.rowcount)


def _as_the_driver_said(error: Exception) -> Exception:
    """Return the driver's own error, without tracebacks.

    SQLAlchemy's error shows the parameters, which are keys and sessions. The frames of the tracebacks hold them as
    well, and tools that print local variables would show them.
    """
    if isinstance(error, exc.StatementError) and isinstance(error.orig, Exception):
        error = error.orig
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _breaks_connection(error: Exception) -> bool:
    """Return whether the connection must not be reused: its state is unknown, or its server is now a replica."""
    if isinstance(error, exc.InterfaceError | exc.InternalError) or not isinstance(error, exc.SQLAlchemyError):
        return True
    return isinstance(error, exc.DBAPIError) and has_code(error.orig, READ_ONLY)


def has_code(failure: BaseException | None, codes: Codes) -> bool:
    """Return whether a driver's error has one of these codes, in any of the places where drivers put it."""
    first = next(iter(getattr(failure, "args", ())), None)
    said = [getattr(failure, "sqlstate", None), getattr(failure, "sqlite_errorname", None), first]
    if isinstance(first, str):
        said += [first.partition(":")[0], " ".join(first.split()[2:6])]  # SQLite: "table t has no column named c"
    return any(code in codes for code in said if isinstance(code, str | int))


def engine_for(engine_or_url: AsyncEngine | sa.URL | str, timeout: float) -> tuple[AsyncEngine, int]:
    """Return an engine, and the most connections that may be open at once."""
    if isinstance(engine_or_url, AsyncEngine):
        return _engine_like(engine_or_url)
    if not isinstance(engine_or_url, sa.URL | str):
        end = "." if engine_or_url else ": is the variable that holds the URL set?"
        raise ImproperlyConfigured(
            f"SQLAlchemyBackend takes a URL, or an AsyncEngine from create_async_engine(), not "
            f"{type(engine_or_url).__name__}{end}"
        )
    return _engine_from_url(engine_or_url, timeout), MOST_CONNECTIONS


def _engine_like(engine: AsyncEngine) -> tuple[AsyncEngine, int]:
    if isinstance(engine.pool, sa.StaticPool):
        if engine.dialect.name != "sqlite":
            raise ImproperlyConfigured(
                "All requests would share the one connection of this engine (StaticPool), and one request would roll "
                "back the writes of another: leave out poolclass=StaticPool."
            )
        return AsyncEngine(_OwnPool(engine.sync_engine)), MOST_CONNECTIONS
    size = engine.pool.size() if isinstance(engine.pool, sa.QueuePool) else 0
    return engine, size or MOST_CONNECTIONS


def _engine_from_url(url: sa.URL | str, timeout: float) -> AsyncEngine:
    try:
        url = with_driver(sa.make_url(url))
        dialect: Any = url.get_dialect()
        in_memory = dialect.get_pool_class(url) is sa.StaticPool  # SQLite: it has one connection
        engine = create_async_engine(
            url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,  # there is nothing to roll back, and MySQL would need a round trip for it
            hide_parameters=True,
            **({} if in_memory else _POOL),
        )
    except exc.ArgumentError:
        raise ImproperlyConfigured(
            "SQLAlchemy cannot read this URL: pass one like postgresql+asyncpg://user:password@host/database."
        ) from None
    except (ModuleNotFoundError, exc.InvalidRequestError):
        raise ImproperlyConfigured(
            "The driver of this URL is not installed, or does not support asyncio. Drivers that do: "
            f"{', '.join(sorted({driver for drivers in ASYNC_DRIVERS.values() for driver in drivers}))}."
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", partial(_prepare_sqlite, timeout))
    return engine


def with_driver(url: sa.URL) -> sa.URL:
    """Add an installed driver to a URL that names none, because SQLAlchemy's defaults do not all support asyncio."""
    drivers = ASYNC_DRIVERS.get(url.drivername, ())
    for driver in drivers:
        if find_spec(driver) is not None:
            return url.set(drivername=f"{url.drivername}+{driver}")
    if drivers:
        raise ImproperlyConfigured(f"This URL needs a driver that supports asyncio: pip install {drivers[-1]}.")
    return url


def _prepare_sqlite(timeout: float, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Let readers and one writer work in parallel (WAL). Other writers wait for half the timeout of the store."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(timeout * 500)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def _wait_no_longer(timeout: float, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Let SQLite wait for a lock for half the timeout of the store at most, so that there is time to say so."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout")
    [waits] = cursor.fetchall()[0]
    cursor.execute(f"PRAGMA busy_timeout = {min(waits, int(timeout * 500))}")
    cursor.close()
