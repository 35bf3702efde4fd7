"""SQL databases keep the contracts: SQLite, PostgreSQL by two drivers, and MariaDB."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from starsessions.backends.sqlalchemy import SQLAlchemyBackend, SQLAlchemyStore, session_table
from starsessions.testing import BackendSuite, OpenBackend, OpenStore, StoreSuite
from tests.backends.sql import DATABASES, Database, database, opened
from tests.servers.process import Address


@pytest.fixture(params=list(DATABASES))
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


class TestStore(StoreSuite):
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


class TestBackend(BackendSuite):
    @pytest.fixture
    def open_backend(self, db: Database) -> OpenBackend:
        return lambda: opened(db.url, timeout=30)


class TestBackendWithAnEngineThatCommitsEachStatement(BackendSuite):
    """As it comes out of `create_async_engine(url)`, except for PostgreSQL."""

    @pytest.fixture
    def open_backend(self, mariadb_server: Address) -> OpenBackend:
        return lambda: opened(create_async_engine(mariadb_server.over("asyncmy")), timeout=30)
