"""The databases that the tests of the SQL backend run on, and what they share."""

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from tests.servers.process import PATIENCE, Address

NOW = 1_800_000_000
MEMORY = Path("/dev/shm")

DATABASES = {
    "sqlite": ("", "aiosqlite"),
    "postgres-asyncpg": ("postgres_server", "asyncpg"),
    "postgres-psycopg": ("postgres_server", "psycopg"),
    "mariadb": ("mariadb_server", "asyncmy"),
}


@dataclass(frozen=True)
class Database:
    name: str
    url: str

    @property
    def is_postgres(self) -> bool:
        return self.name.startswith("postgres")


def database(name: str, request: pytest.FixtureRequest, folder: Path) -> Database:
    fixture, driver = DATABASES[name]
    if not fixture:
        return Database(name, f"sqlite+aiosqlite:///{_without_disk(request, folder) / 'sessions.db'}")
    address: Address = request.getfixturevalue(fixture)
    return Database(name, address.over(driver))


def _without_disk(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A folder in memory, or this one where there is none. SQLite waits for the disk at each commit."""
    if not os.access(MEMORY, os.W_OK):
        return folder
    made = Path(tempfile.mkdtemp(prefix="starsessions-", dir=MEMORY))
    request.addfinalizer(lambda: shutil.rmtree(made))
    return made


@contextlib.asynccontextmanager
async def opened(engine_or_url: Any, **settings: Any) -> AsyncIterator[SQLAlchemyBackend]:
    """A backend with a table of its own, which is gone afterwards. On a busy machine, too, it answers in time."""
    backend = SQLAlchemyBackend(engine_or_url, f"t_{secrets.token_hex(8)}", **{"timeout": 30, **settings})
    await backend.create_table()
    try:
        yield backend
    finally:
        await backend.store.aclose()
        async with backend.engine.begin() as connection:
            await connection.run_sync(backend.table.drop)
        await backend.engine.dispose()


def pool_of(backend: SQLAlchemyBackend) -> Any:
    """The connections of the sessions in this event loop; `backend.engine` has others."""
    return backend.store._database._local.get().engine.pool


async def until(condition: Callable[[], bool]) -> None:
    """Polls what a server does at its own pace."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.01)


async def analyze(backend: SQLAlchemyBackend) -> None:
    """Let the database count what it has, as it does by itself after a while."""
    kind = "TABLE " if backend.engine.dialect.name == "mysql" else ""
    async with backend.engine.begin() as connection:
        await connection.execute(text(f"ANALYZE {kind}{backend.table.name}"))


def enough(rows: int, backend: SQLAlchemyBackend) -> int:
    """So many rows that the database uses its index. SQLite does so with any, and commits each of them."""
    return min(rows, 200) if backend.engine.dialect.name == "sqlite" else rows


async def explained(engine: AsyncEngine, statement: Any, parameters: dict[str, Any]) -> str:
    how = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"

    def explain(connection: Any, cursor: Any, sql: str, *rest: Any) -> tuple[str, Any]:
        return f"{how} {sql}", rest[0]

    event.listen(engine.sync_engine, "before_cursor_execute", explain, retval=True)
    async with engine.connect() as connection:
        rows = (await connection.execute(statement, parameters)).mappings().all()
    event.remove(engine.sync_engine, "before_cursor_execute", explain)
    if engine.dialect.name in {"mysql", "mariadb"}:
        return "\n".join(f"{row['type']}|{row['key']}" for row in rows)
    return "\n".join(" ".join(map(str, row.values())) for row in rows)


# Round trips, by the servers' own statistics


class Meter:
    """How many statements a database has been asked since the last look."""

    def __init__(self, count: Callable[[], Awaitable[int]]) -> None:
        self._count = count
        self._seen = 0

    async def __call__(self) -> int:
        before, self._seen = self._seen, await self._count()
        return self._seen - before


@contextlib.asynccontextmanager
async def postgres_meter(address: Address) -> AsyncIterator[Meter]:
    statement = text("SELECT sum(calls) FROM pg_stat_statements WHERE query NOT LIKE '%pg_stat_statements%'")
    engine = create_async_engine(address.over("asyncpg"), isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text("CREATE EXTENSION IF NOT EXISTS pg_stat_statements"))

        async def count() -> int:
            return int((await connection.execute(statement)).scalar_one())

        yield Meter(count)
    await engine.dispose()


@contextlib.asynccontextmanager
async def mariadb_meter(address: Address) -> AsyncIterator[Meter]:
    """`Questions` counts COMMIT and ROLLBACK, too, and the query itself."""
    engine = create_async_engine(address.over("asyncmy"), isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True)
    asked = 0
    async with engine.connect() as connection:

        async def count() -> int:
            nonlocal asked
            asked += 1
            questions = (await connection.execute(text("SHOW GLOBAL STATUS LIKE 'Questions'"))).one()[1]
            return int(questions) - asked

        yield Meter(count)
    await engine.dispose()


@contextlib.asynccontextmanager
async def metered(
    name: str, request: pytest.FixtureRequest, folder: Path
) -> AsyncIterator[tuple[str, Callable[[SQLAlchemyBackend], Meter]]]:
    """A database to which nothing else sends statements."""
    fixture, driver = DATABASES[name]
    if fixture:
        server: Address = request.getfixturevalue(f"metered_{fixture}")
        async with (mariadb_meter if name == "mariadb" else postgres_meter)(server) as meter:
            yield server.over(driver), lambda backend: meter
    else:
        yield f"sqlite+aiosqlite:///{folder / 'metered.db'}", sqlite_meter


def sqlite_meter(backend: SQLAlchemyBackend) -> Meter:
    """SQLite has no server; the library itself reports each statement."""
    statements: list[str] = []

    async def count() -> int:
        return len(statements)

    def trace(driver: Any, record: Any, proxy: Any) -> None:
        driver.run_async(lambda connection: connection.set_trace_callback(statements.append))

    event.listen(pool_of(backend), "checkout", trace)
    return Meter(count)
