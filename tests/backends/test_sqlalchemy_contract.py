"""SQL databases keep the contracts: SQLite, PostgreSQL by two drivers, and MariaDB.

The rules of a store run on all of them. A backend makes the same calls to each, in the same orders: on most of them,
a part of its rules is enough.
"""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from starsessions.backends.sqlalchemy import SQLAlchemyBackend, SQLAlchemyStore, session_table
from starsessions.testing import BackendSuite, OpenBackend, OpenStore, StoreSuite
from tests.backends import part
from tests.backends.sql import Database, database, opened
from tests.servers.process import Address

each_database = pytest.mark.parametrize("db", ["sqlite", "postgres-asyncpg", "mariadb"], indirect=True)
second_driver = pytest.mark.parametrize("db", ["postgres-psycopg"], indirect=True)
asyncpg = pytest.mark.parametrize("db", ["postgres-asyncpg"], indirect=True)
all_but_asyncpg = pytest.mark.parametrize("db", ["sqlite", "postgres-psycopg", "mariadb"], indirect=True)


@pytest.fixture
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


class Stores(StoreSuite):
    __test__ = False

    @pytest.fixture
    async def open_store(self, db: Database) -> AsyncIterator[OpenStore]:
        names = set()

        @contextlib.asynccontextmanager
        async def open_one(name: str) -> AsyncIterator[SQLAlchemyStore]:
            names.add(name)
            backend = SQLAlchemyBackend(db.url, name, timeout=30)
            await backend.create_table()
            async with backend.lifespan():
                yield backend.store

        yield open_one
        async with opened(db.url) as backend, backend.engine.begin() as connection:
            for name in names:
                await connection.run_sync(session_table(MetaData(), name).drop)


class Backends(BackendSuite):
    __test__ = False

    @pytest.fixture
    def open_backend(self, db: Database) -> OpenBackend:
        return lambda: opened(db.url, timeout=30)


@each_database
class TestStore(part.Ordinary, Stores):
    __test__ = True
    ordinary, others = part.DRIVERS, pytest.mark.once


@second_driver
class TestDriver(part.Ordinary, Stores):
    __test__ = True
    ordinary = part.DRIVERS


@asyncpg
class TestBackend(part.Ordinary, Backends):
    __test__ = True
    ordinary = part.FEW_ORDERS


@all_but_asyncpg
class TestRequests(part.Ordinary, Backends):
    __test__ = True
    ordinary = part.REQUESTS


class TestWithAnEngineThatCommitsEachStatement(part.Ordinary, BackendSuite):
    """As it comes out of `create_async_engine(url)`, except for PostgreSQL."""

    ordinary = part.REQUESTS

    @pytest.fixture
    def open_backend(self, mariadb_server: Address) -> OpenBackend:
        return lambda: opened(create_async_engine(mariadb_server.over("asyncmy")), timeout=30)
