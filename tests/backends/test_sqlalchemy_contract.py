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
from starsessions.testing import OpenBackend, OpenStore
from tests.backends import part
from tests.backends.sql import Database, database, opened
from tests.contracts import WholeBackend, WholeStore
from tests.servers.process import Address

each_database = pytest.mark.parametrize("db", ["sqlite", "postgres-asyncpg", "mariadb"], indirect=True)
second_driver = pytest.mark.parametrize("db", ["postgres-psycopg"], indirect=True)
asyncpg = pytest.mark.parametrize("db", ["postgres-asyncpg"], indirect=True)
all_but_asyncpg = pytest.mark.parametrize("db", ["sqlite", "postgres-psycopg", "mariadb"], indirect=True)


@pytest.fixture
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


class Stores(WholeStore):
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


class Backends(WholeBackend):
    __test__ = False

    @pytest.fixture
    def open_backend(self, db: Database) -> OpenBackend:
        return lambda: opened(db.url, timeout=30)


@each_database
class TestDriver(Stores):
    __test__ = True
    contract = part.DRIVERS


@pytest.mark.once
@each_database
class TestStore(Stores):
    __test__ = True
    contract = part.WITHOUT_DRIVERS


@second_driver
class TestSecondDriver(Stores):
    __test__ = True
    contract = part.DRIVERS


@asyncpg
class TestBackend(Backends):
    __test__ = True
    contract = part.FEW_ORDERS


@all_but_asyncpg
class TestRequests(Backends):
    __test__ = True
    contract = part.REQUESTS


class EngineThatCommitsEachStatement(WholeBackend):
    """As it comes out of `create_async_engine(url)`, except for PostgreSQL."""

    __test__ = False

    @pytest.fixture
    def open_backend(self, mariadb_server: Address) -> OpenBackend:
        return lambda: opened(create_async_engine(mariadb_server.over("asyncmy")), timeout=30)


class TestRequestsWithAnEngineThatCommitsEachStatement(EngineThatCommitsEachStatement):
    __test__ = True
    contract = part.REQUESTS


# All other rules


@pytest.mark.wide
@second_driver
class TestStoreByASecondDriver(Stores):
    __test__ = True
    contract = part.WITHOUT_DRIVERS


@pytest.mark.wide
@asyncpg
class TestManyOrders(Backends):
    __test__ = True
    contract = part.MANY_ORDERS


@pytest.mark.wide
@all_but_asyncpg
class TestOtherRequests(Backends):
    __test__ = True
    contract = part.WITHOUT_REQUESTS


@pytest.mark.wide
class TestOtherRequestsWithAnEngineThatCommitsEachStatement(EngineThatCommitsEachStatement):
    __test__ = True
    contract = part.WITHOUT_REQUESTS
