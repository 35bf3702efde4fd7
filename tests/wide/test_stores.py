"""The stores keep their contracts on servers that the ordinary run leaves out, and over other transports."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, ClassVar

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend, SQLAlchemyStore
from starsessions.stores.redis.store import RedisStore
from starsessions.testing import BackendSuite, OpenBackend, OpenStore, StoreSuite
from tests.backends.sql import opened
from tests.servers.process import Address
from tests.wide.programs import mysql, pgbouncer, redis_like

pytestmark = pytest.mark.wide

Connect = Callable[[], AsyncEngine | str]

REDIS = {
    "valkey": ("usr/bin/valkey-server", "tcp", ""),
    "redis-resp3": ("usr/bin/redis-server", "tcp", "?protocol=3"),
    "redis-tls": ("usr/bin/redis-server", "tls", ""),
    "redis-unix-socket": ("usr/bin/redis-server", "unix", ""),
}


@pytest.fixture(scope="module", params=list(REDIS))
def redis_url(request: pytest.FixtureRequest) -> Iterator[str]:
    program, transport, query = REDIS[request.param]
    with redis_like(program, transport) as address:
        yield address.url + query


class TestRedisStore(StoreSuite):
    declines: ClassVar = {"sweeps": "Redis forgets by itself"}

    @pytest.fixture
    def open_store(self, redis_url: str) -> OpenStore:
        corner = secrets.token_hex(8)

        @contextlib.asynccontextmanager
        async def open_one(name: str) -> AsyncIterator[RedisStore]:
            backend = RedisBackend(redis_url, f"{corner}:{name}:", timeout=30)
            async with backend.lifespan():
                yield backend.store

        return open_one


class TestRedisBackend(BackendSuite):
    @pytest.fixture
    def open_backend(self, redis_url: str) -> OpenBackend:
        @contextlib.asynccontextmanager
        async def open_one() -> AsyncIterator[RedisBackend]:
            backend = RedisBackend(redis_url, f"{secrets.token_hex(8)}:", timeout=30)
            async with backend.lifespan():
                yield backend

        return open_one


@pytest.fixture(scope="module")
def mysql_server() -> Iterator[Address]:
    with mysql() as address:
        yield address


@pytest.fixture(scope="module")
def pgbouncer_server(postgres_server: Address) -> Iterator[Address]:
    """As PgBouncer 1.21 and newer is by default: it keeps track of prepared statements."""
    with pgbouncer(postgres_server) as address:
        yield address


@pytest.fixture(scope="module")
def old_pgbouncer_server(postgres_server: Address) -> Iterator[Address]:
    """As PgBouncer was before 1.21: a prepared statement may be missing on the next connection."""
    with pgbouncer(postgres_server, "max_prepared_statements = 0") as address:
        yield address


# What docs/guides/production/postgresql.md says for PgBouncer before 1.21, and for max_prepared_statements = 0.
PSYCOPG: dict[str, Any] = {"connect_args": {"prepare_threshold": None}}
ASYNCPG: dict[str, Any] = {
    "connect_args": {"statement_cache_size": 0, "prepared_statement_name_func": lambda: f"_{secrets.token_hex(8)}"},
    "poolclass": NullPool,
}
SQL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mysql": ("mysql_server", "asyncmy", {}),
    "pgbouncer-asyncpg": ("pgbouncer_server", "asyncpg", {}),
    "pgbouncer-psycopg": ("pgbouncer_server", "psycopg", {}),
    "old-pgbouncer-asyncpg": ("old_pgbouncer_server", "asyncpg", ASYNCPG),
    "old-pgbouncer-psycopg": ("old_pgbouncer_server", "psycopg", PSYCOPG),
}


@pytest.fixture(params=list(SQL))
def connect(request: pytest.FixtureRequest) -> Connect:
    """Give what `SQLAlchemyBackend` takes."""
    fixture, driver, settings = SQL[request.param]
    address: Address = request.getfixturevalue(fixture)
    url = address.over(driver)
    return lambda: create_async_engine(url, **settings) if settings else url


class TestSqlStore(StoreSuite):
    declines: ClassVar = {"announcements": "PgBouncer passes none on"}

    @pytest.fixture
    async def open_store(self, connect: Connect) -> OpenStore:
        corner = secrets.token_hex(8)

        @contextlib.asynccontextmanager
        async def open_one(name: str) -> AsyncIterator[SQLAlchemyStore]:
            backend = SQLAlchemyBackend(connect(), f"{name}_{corner}", timeout=30)
            await backend.create_table()
            async with backend.lifespan():
                yield backend.store

        return open_one


class TestSqlBackend(BackendSuite):
    @pytest.fixture
    def open_backend(self, connect: Connect) -> OpenBackend:
        return lambda: opened(connect(), timeout=30)


@pytest.mark.anyio
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_default_settings_behind_an_old_pgbouncer_name_the_cure(
    driver: str, postgres_server: Address, old_pgbouncer_server: Address
) -> None:
    async with opened(postgres_server.over("psycopg")) as direct:
        backend = SQLAlchemyBackend(old_pgbouncer_server.over(driver), direct.table.name, timeout=30)
        outcomes: list[object] = []
        while not any("PgBouncer" in str(outcome) for outcome in outcomes):
            # Which statements meet on one connection is up to the pooler, so it may take more than one round.
            assert len(outcomes) < 5000
            visits = (backend.write({"n": n}) for n in range(100))
            outcomes += await asyncio.gather(*visits, return_exceptions=True)
        await backend.store.aclose()
