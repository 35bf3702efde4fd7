"""The databases that the tests of the SQL backend run on, and what they share."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from tests.servers.process import PATIENCE, Address

NOW = 1_800_000_000

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
        return Database(name, f"sqlite+aiosqlite:///{folder / 'sessions.db'}")
    address: Address = request.getfixturevalue(fixture)
    return Database(name, address.over(driver))


@contextlib.asynccontextmanager
async def opened(engine_or_url: Any, **settings: Any) -> AsyncIterator[SQLAlchemyBackend]:
    """A backend with a table of its own, which is gone afterwards."""
    backend = SQLAlchemyBackend(engine_or_url, f"t_{secrets.token_hex(8)}", **settings)
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
