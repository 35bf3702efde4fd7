"""The readiness probe on servers that end, sleep, and can only be read."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from starsessions import SessionBackend
from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.health import HealthCheck
from tests.servers import postgres, redis
from tests.servers.process import free_port
from tests.shell.test_health import OK, UNAVAILABLE, answer_of, probe

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(backend: Any) -> AsyncIterator[HealthCheck]:
    async with backend.lifespan():
        yield HealthCheck(backend)


@pytest.fixture
def redis_server_of_its_own() -> Iterator[redis.RedisServer]:
    with redis.standalone() as server:
        yield server


@pytest.fixture
def postgres_server_of_its_own() -> Iterator[postgres.PostgresServer]:
    with postgres.server() as server:
        yield server


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(f"{request.param}_server_of_its_own")


def backend_on(server: Any, timeout: float) -> SessionBackend:
    if isinstance(server, redis.RedisServer):
        return RedisBackend(server.url, timeout=timeout)
    return SQLAlchemyBackend(server.address.over("asyncpg") + "?ssl=disable", timeout=timeout)


async def created(server: Any) -> None:
    if not isinstance(server, redis.RedisServer):
        backend = SQLAlchemyBackend(server.address.over("asyncpg"), timeout=30)
        await backend.create_table()
        await backend.store.aclose()


async def test_a_dead_server_is_not_healthy_and_one_that_came_back_is(server: Any) -> None:
    await created(server)
    async with running(backend_on(server, 30)) as health:
        assert answer_of(await probe(health)) == OK
        server.stop()
        assert answer_of(await probe(health)) == UNAVAILABLE
        server.start()
        assert answer_of(await probe(health)) == OK


async def test_a_paused_server_is_not_healthy_after_the_timeout_of_the_store(server: Any) -> None:
    await created(server)
    async with running(backend_on(server, 30)) as patient, running(backend_on(server, 0.3)) as health:
        with server.paused():
            assert answer_of(await probe(health)) == UNAVAILABLE
        assert answer_of(await probe(patient)) == OK


async def test_a_database_without_the_table_is_not_healthy() -> None:
    backend = SQLAlchemyBackend("sqlite+aiosqlite://")
    assert answer_of(await probe(HealthCheck(backend))) == UNAVAILABLE
    await backend.store.aclose()


async def test_a_server_that_can_only_be_read_is_healthy_because_nothing_is_written(
    redis_server_of_its_own: redis.RedisServer,
) -> None:
    server = redis_server_of_its_own
    async with running(RedisBackend(server.url, timeout=30)) as health:
        server.ask("REPLICAOF", "127.0.0.1", str(free_port()))
        server.ask("CONFIG", "RESETSTAT")
        assert answer_of(await probe(health)) == OK
        commands = server.ask("INFO", "commandstats")
        assert "cmdstat_get" in commands
        assert not {name for name in commands if "eval" in name or ("set" in name and "reset" not in name)}


async def test_a_database_that_can_only_be_read_is_healthy_because_nothing_is_written() -> None:
    with postgres.server() as server:
        await created(server)
        server.stop()
        server.command += ["-c", "default_transaction_read_only=on"]
        server.start()
        async with running(backend_on(server, 30)) as health:
            assert answer_of(await probe(health)) == OK
