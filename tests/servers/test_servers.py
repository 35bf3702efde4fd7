"""The private servers themselves: what the tests of the backends rely on when they stop, pause and kill them."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis as redis_py
from redis.asyncio import Redis, RedisCluster, Sentinel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.servers import fixtures, guard, mariadb, postgres, redis
from tests.servers.process import PATIENCE, Address, Server, ServerError
from tests.servers.redis import SentinelAddress

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]


def set_in_redis(at: Address) -> None:
    with redis_py.Redis.from_url(at.url) as client:
        client.set("test", "kept")


def get_from_redis(at: Address) -> object:
    with redis_py.Redis.from_url(at.url, decode_responses=True) as client:
        return client.get("test")


def psycopg_runs(statement: str) -> Callable[[Address], object]:
    def run(at: Address) -> object:
        with psycopg.connect(at.url) as connection:
            result = connection.execute(statement.encode())
            return result.fetchall() if result.description else None

    return run


def sqlalchemy_runs(driver: str, statement: str) -> Callable[[Address], object]:
    async def execute(at: Address) -> object:
        engine = create_async_engine(at.over(driver))
        async with engine.begin() as connection:
            result = await connection.execute(text(statement))
            rows = list(map(tuple, result.all())) if result.returns_rows else None
        await engine.dispose()
        return rows

    return lambda at: asyncio.run(execute(at))


@dataclass(frozen=True)
class Engine:
    start: Callable[..., AbstractContextManager[Server]]
    write: Callable[[Address], object]
    read: Callable[[Address], object]
    kept: object


WRITE, READ, ROWS = "CREATE TABLE test AS SELECT 'kept' AS word", "SELECT word FROM test", [("kept",)]
ENGINES = {
    "redis": Engine(redis.standalone, set_in_redis, get_from_redis, "kept"),
    "postgres-psycopg": Engine(postgres.server, psycopg_runs(WRITE), psycopg_runs(READ), ROWS),
    "postgres-asyncpg": Engine(
        postgres.server, sqlalchemy_runs("asyncpg", WRITE), sqlalchemy_runs("asyncpg", READ), ROWS
    ),
    "mariadb": Engine(mariadb.server, sqlalchemy_runs("asyncmy", WRITE), sqlalchemy_runs("asyncmy", READ), ROWS),
}


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param]


def test_a_durable_server_keeps_confirmed_writes_after_a_kill(engine: Engine) -> None:
    with engine.start(durable=True) as server:
        engine.write(server.address)

        server.kill()
        assert not server.running
        server.start()

        assert engine.read(server.address) == engine.kept


def test_any_server_keeps_its_data_after_an_orderly_stop(engine: Engine) -> None:
    with engine.start() as server:
        engine.write(server.address)

        server.restart()

        assert engine.read(server.address) == engine.kept


def test_a_paused_server_answers_after_it_is_resumed(engine: Engine) -> None:
    with engine.start() as server, ThreadPoolExecutor() as threads:
        engine.write(server.address)

        with server.paused():
            answer = threads.submit(engine.read, server.address)
            with pytest.raises(TimeoutError):
                answer.result(timeout=0.2)

        assert answer.result(timeout=PATIENCE) == engine.kept


def test_a_replica_takes_over_the_keys_of_a_dead_primary_of_the_cluster() -> None:
    with redis.cluster() as cluster:
        dead = cluster.primary_of("test")
        with dead.client() as client:
            client.set("test", "kept")
            assert client.wait(1, 10_000) == 1

        dead.kill()
        heir = cluster.wait_for_takeover("test", of=dead)

        assert heir.ask("GET", "test") == "kept"
        cluster.start()
        assert dead.role() == "slave"


def test_the_sentinels_replace_a_dead_primary() -> None:
    with redis.sentinel() as group:
        dead = group.primary()
        with dead.client() as client:
            client.set("test", "kept")
            assert client.wait(2, 10_000) == 2

        dead.kill()
        heir = group.wait_for_failover(of=dead)

        assert heir.ask("GET", "test") == "kept"


def test_all_nodes_of_a_cluster_keep_confirmed_writes_after_a_kill() -> None:
    with redis.cluster(durable=True) as cluster:
        cluster.primary_of("test").ask("SET", "test", "kept")

        cluster.kill()
        assert not any(node.running for node in cluster.nodes)
        cluster.start()

        assert cluster.primary_of("test").ask("GET", "test") == "kept"


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(ServerError, match=r"(?s)Redis on port \d+ has ended; the end of its log:.*no-such-setting"):
        redis.standalone(config={"no-such-setting": "1"}).__enter__()


def test_the_servers_end_and_their_folders_vanish_also_when_the_tests_are_killed(tmp_path: Path) -> None:
    program = """
import signal, sys, os
from tests.servers import redis
with redis.standalone() as server:
    print(server.port, server.directory, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    port, directory = killed.stdout.split()

    until = time.monotonic() + PATIENCE
    while Path(directory).exists() and time.monotonic() < until:
        time.sleep(0.02)
    assert not Path(directory).exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)))


class TestAMissingProgram:
    @pytest.fixture(autouse=True)
    def nothing_is_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.servers.process.shutil.which", lambda name, path=None: None)

    def test_is_a_skip_with_the_package_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("STARSESSIONS_REQUIRE_ALL", raising=False)

        with pytest.raises(pytest.skip.Exception, match=r"redis-server is not installed .*install redis-server"):
            redis.standalone().__enter__()

    def test_is_a_failure_where_nothing_may_be_skipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STARSESSIONS_REQUIRE_ALL", "1")

        with pytest.raises(pytest.fail.Exception, match="redis-server is not installed"):
            redis.standalone().__enter__()


def test_a_variable_points_the_shared_fixture_at_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARSESSIONS_POSTGRES_URL", "postgresql://someone:password@example.org/sessions")

    (address,) = fixtures.shared("STARSESSIONS_POSTGRES_URL", postgres.server)

    assert address.over("asyncpg") == "postgresql+asyncpg://someone:password@example.org/sessions"
    assert "password" not in repr(address)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_the_shared_postgresql_answers(postgres_server: Address, driver: str) -> None:
    assert sqlalchemy_runs(driver, "SELECT 1")(postgres_server) == [(1,)]


def test_the_shared_mariadb_answers(mariadb_server: Address) -> None:
    assert sqlalchemy_runs("asyncmy", "SELECT 1")(mariadb_server) == [(1,)]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
class TestTheSharedRedis:
    async def test_answers(self, redis_server: Address) -> None:
        async with Redis.from_url(redis_server.url) as client:
            assert await client.ping()

    async def test_cluster_answers(self, redis_cluster: Address) -> None:
        async with RedisCluster.from_url(redis_cluster.url) as client:
            assert await client.get("starsessions:no such key") is None

    async def test_primary_answers_by_way_of_its_sentinels(self, redis_sentinel: SentinelAddress) -> None:
        sentinel = Sentinel(redis_sentinel.sentinels)
        async with sentinel.master_for(redis_sentinel.service) as client:
            assert await client.ping()
        for client in sentinel.sentinels:
            await client.aclose()


def test_a_killed_server_leaves_no_process() -> None:
    """One that is still attached to the memory of PostgreSQL would keep it from starting again."""
    with postgres.server() as server:
        assert server._process is not None
        for _ in range(3):
            clients = [server.client() for _ in range(8)]  # each has a process
            members = [*guard.family(server._process.pid)]
            server.kill()
            assert all(map(guard.has_ended, members))
            server.start()
            for client in clients:
                client.close()
