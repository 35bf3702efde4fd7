"""Announcements on real servers: what one process announces, all hear; and a lost connection loses nothing but time."""

import asyncio
import gc
import secrets
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis as blocking
from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel

from starsessions import BackendUnavailable, users
from starsessions.backends import bus
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.stores.redis.store import RedisStore
from starsessions.stores.sqlalchemy.announce import _subscribed
from starsessions.stores.sqlalchemy.store import SQLAlchemyStore
from tests.backends import sql
from tests.backends.sql import until
from tests.servers import postgres, redis
from tests.servers.process import Address
from tests.servers.redis import SentinelAddress
from tests.shell import test_announced as announced_in_memory
from tests.shell.people import sign_in
from tests.shell.test_announced import Streams
from tests.site import Site

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("error")]

AnnouncingStore = RedisStore | SQLAlchemyStore


class Place:
    """One prefix or table on one server, and what that knows of its subscriptions."""

    def __init__(self, url: str, closing: AsyncExitStack) -> None:
        self.url = url
        self.patience = 30.0
        self._closing = closing

    def backend(self) -> StoreBackend:
        """Return a backend as another process would make it."""
        made = self.make()
        self._closing.push_async_callback(made.store.aclose)  # type: ignore[attr-defined]
        if made.announcements is not None:
            self._closing.push_async_callback(made.announcements.aclose)
        return made

    def store(self) -> AnnouncingStore:
        store = self.backend().store
        assert isinstance(store, AnnouncingStore)
        return store

    def make(self) -> StoreBackend:
        raise NotImplementedError

    def count(self) -> int:
        """The number of subscriptions."""
        raise NotImplementedError

    def kill(self) -> None:
        """Let the server close them."""
        raise NotImplementedError


class OnRedis(Place):
    def __init__(self, url: str, closing: AsyncExitStack, **settings: Any) -> None:
        super().__init__(url, closing, **settings)
        self.prefix = f"{secrets.token_hex(8)}:"

    def client(self) -> Any:
        return self.url

    def make(self) -> RedisBackend:
        return RedisBackend(self.client(), self.prefix, timeout=self.patience)

    def nodes(self) -> list[str]:
        return [self.url]

    def ask(self, *command: str) -> list[Any]:
        answers = []
        for node in self.nodes():
            with blocking.Redis.from_url(node, decode_responses=True) as client:
                answers.append(client.execute_command(*command))
        return answers

    def count(self) -> int:
        channel = f"{self.prefix}announcements"
        found = self.ask("PUBSUB", "NUMSUB", channel) + self.ask("PUBSUB", "SHARDNUMSUB", channel)
        return sum(int([*answer][1] if isinstance(answer, list) else answer[channel]) for answer in found)

    def kill(self) -> None:
        self.ask("CLIENT", "KILL", "TYPE", "pubsub")


class OnCluster(OnRedis):
    def client(self) -> Any:
        return lambda: RedisCluster.from_url(self.url)

    def nodes(self) -> list[str]:
        with blocking.RedisCluster.from_url(self.url) as client:
            return [f"redis://{node.host}:{node.port}" for node in client.get_primaries()]


class OnPostgres(Place):
    def __init__(self, url: str, closing: AsyncExitStack, **settings: Any) -> None:
        super().__init__(url, closing, **settings)
        self.table = f"t_{secrets.token_hex(8)}"

    def make(self) -> SQLAlchemyBackend:
        return SQLAlchemyBackend(self.url, self.table, timeout=self.patience)

    def ask(self, what: str) -> int:
        channel = self.make().store.announcer._channel  # type: ignore[attr-defined]
        _, rest = self.url.split("://", 1)
        with psycopg.connect(f"postgresql://{rest}", autocommit=True) as connection:
            found = connection.execute(
                f"SELECT {what} FROM pg_stat_activity WHERE query = %s", [f'LISTEN "{channel}"']
            ).fetchone()
        assert found is not None
        return int(found[0])

    def count(self) -> int:
        return self.ask("count(*)")

    def kill(self) -> None:
        self.ask("count(pg_terminate_backend(pid))")


@asynccontextmanager
async def place(kind: str, request: pytest.FixtureRequest, folder: Path) -> AsyncIterator[Any]:
    async with AsyncExitStack() as closing:
        if kind == "redis":
            yield OnRedis(request.getfixturevalue("redis_server").url, closing)
        elif kind == "cluster":
            yield OnCluster(request.getfixturevalue("redis_cluster").url, closing)
        else:
            made = OnPostgres(sql.database(kind, request, folder).url, closing)
            first = made.make()
            await first.create_table()
            try:
                yield made
            finally:
                await closing.aclose()
                async with first.engine.begin() as connection:
                    await connection.run_sync(first.table.drop)
                await first.store.aclose()
                await first.engine.dispose()


@pytest.fixture(params=["redis", "cluster", "postgres-asyncpg", "postgres-psycopg"])
async def here(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    async with place(request.param, request, tmp_path) as made:
        yield made


@pytest.fixture(params=["redis", "postgres-asyncpg", "postgres-psycopg"])
async def alone(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Place, Any]]:
    """A place on a server that a test may kill."""
    async with AsyncExitStack() as closing:
        if request.param == "redis":
            server: Any = closing.enter_context(redis.standalone(durable=True))
            yield OnRedis(server.url, closing), server
        else:
            server = closing.enter_context(postgres.server())
            made = OnPostgres(server.address.over(request.param.removeprefix("postgres-")), closing)
            first = made.make()
            await first.create_table()
            await first.store.aclose()
            yield made, server


# The power of the stores


async def test_all_processes_hear_what_one_announces_from_then_on(here: Place) -> None:
    one, two = here.store(), here.store()
    assert one.reaches_all
    many = [secrets.token_urlsafe(96) for _ in range(200)]
    await one.announce(["before"])
    async with one.listen() as by_one, two.listen() as by_two:
        await one.announce(["a"])
        await two.announce(many)
        for announced in (by_one, by_two):
            heard: list[str] = []
            while len(heard) < 201:
                heard += await anext(announced)
            assert heard == ["a", *many]


async def test_a_subscription_leaves_no_connection(here: Place) -> None:
    store = here.store()
    for _ in range(3):
        async with store.listen():
            assert here.count() == 1
        await until(lambda: here.count() == 0)


async def test_a_subscription_that_the_server_closes_says_so_and_another_one_can_begin(here: Place) -> None:
    store = here.store()
    async with store.listen() as announced:
        here.kill()
        with pytest.raises(BackendUnavailable, match="The store failed"):
            await anext(announced)
    async with store.listen() as announced:
        await store.announce(["a"])
        assert [*await anext(announced)] == ["a"]


async def test_a_subscription_to_a_server_that_does_not_run_fails_in_time(alone: tuple[Place, Any]) -> None:
    where, server = alone
    server.kill()
    with pytest.raises(BackendUnavailable):
        async with where.store().listen():
            pass


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
async def test_elsewhere_only_this_process_hears(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    async with sql.opened(sql.database(kind, request, tmp_path).url) as backend:
        assert not backend.store.reaches_all
        async with backend.store.listen() as announced:
            await backend.store.announce(["a"])
            assert [*await anext(announced)] == ["a"]


# Sessions


async def site_at(where: Place) -> Site:
    made = Site(backend=where.backend(), autoload=True)
    await made.visit(sign_in())
    return made


@asynccontextmanager
async def streams(site: Site, count: int = 1, **how: Any) -> AsyncIterator[Streams]:
    """Streams that are open: on a real server, loading their session takes longer than the turns of the tasks."""
    async with announced_in_memory.streams(site, count, **how) as opened:
        await until(lambda: opened.open == count)
        yield opened


async def test_an_end_in_one_process_ends_the_streams_of_another(here: Place) -> None:
    site = await site_at(here)
    worker = Site(backend=here.backend(), autoload=True)
    worker.browser = site.browser
    async with streams(worker, 50) as opened:
        await until(lambda: here.count() == 1 and len(opened.waits.asked) >= 100)  # each has looked once
        await site.visit(users.sign_out)
        await until(lambda: opened.log == [True] * 50)


async def test_thirty_kills_of_the_subscription_lose_nothing(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bus, "PAUSES", (0.01, 0.02))
    site = await site_at(here)
    worker = Site(backend=here.backend(), autoload=True)
    worker.browser = site.browser
    store: Any = worker.app.config.backend.place
    listen, opened_so_often = store.listen, []

    def counted() -> Any:
        opened_so_often.append(1)
        return listen()

    store.listen = counted
    async with streams(worker, 5) as opened:
        told = worker.app.config.backend.announcements
        assert told is not None
        for n in range(1, 31):
            await until(lambda n=n: len(opened_so_often) >= n and told.bus().reaches_all)  # type: ignore[misc]
            await asyncio.to_thread(here.kill)
        await site.visit(users.sign_out)  # perhaps while there is no subscription
        await until(lambda: opened.log == [True] * 5)


async def test_a_server_that_is_killed_and_started_again_loses_nothing(
    alone: tuple[Place, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "PAUSES", (0.01, 0.02))
    where, server = alone
    site = await site_at(where)
    async with streams(site, 5, check_every=3600) as opened:
        told = site.app.config.backend.announcements
        assert told is not None
        await until(lambda: told.bus().reaches_all)
        await asyncio.to_thread(server.kill)
        await until(lambda: not told.bus().reaches_all)
        assert opened.open == 5
        await asyncio.to_thread(server.start)
        await until(lambda: told.bus().reaches_all)
        assert opened.open == 5
        await site.visit(users.sign_out)
        await until(lambda: opened.log == [True] * 5)


async def test_a_server_that_hangs_is_noticed_by_a_beat(
    alone: tuple[Place, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its connections stay open, and nothing comes by them: as behind a firewall that has forgotten them."""
    where, server = alone
    site = await site_at(where)
    worker = Site(backend=where.backend(), autoload=True)
    worker.browser = site.browser
    where.patience = 1  # how long a beat waits for the server that hangs; all else has the time that it takes
    place: Any = worker.app.config.backend.place
    place.announce = where.store().announce
    monkeypatch.setattr(bus, "BEAT_EVERY", 0.01)
    monkeypatch.setattr(bus, "BEAT_WITHIN", 3)
    monkeypatch.setattr(bus, "PAUSES", (0.01, 0.02))
    async with streams(worker, 5, check_every=3600) as opened:
        told = worker.app.config.backend.announcements
        assert told is not None
        await until(lambda: told.bus().reaches_all)
        with server.paused():
            await until(lambda: not told.bus().reaches_all)
        await until(lambda: told.bus().reaches_all)
        await site.visit(users.sign_out)
        await until(lambda: opened.log == [True] * 5)


async def test_the_end_of_the_application_leaves_no_task_and_no_connection(here: Place) -> None:
    site = await site_at(here)
    told = site.app.config.backend.announcements
    assert told is not None
    before = asyncio.all_tasks()
    async with streams(site, 3):
        await until(lambda: told.bus().reaches_all)
    await told.aclose()
    await until(lambda: here.count() == 0 and asyncio.all_tasks() <= before)


def test_several_threads_with_event_loops_have_a_subscription_each(redis_server: Address) -> None:
    backend = RedisBackend(redis_server.url, secrets.token_hex(4), timeout=30)
    listening, results = threading.Barrier(3), []

    async def main() -> None:
        site = Site(backend=backend, autoload=True)
        await site.visit(sign_in())
        told = site.app.config.backend.announcements
        assert told is not None
        async with streams(site) as opened:
            await until(lambda: told.bus().reaches_all)
            await asyncio.to_thread(listening.wait, 60)
            await site.visit(users.sign_out)
            await until(lambda: opened.log == [True])
            results.append(opened.log)

    threads = [threading.Thread(target=asyncio.run, args=[main()]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [[True]] * 3
    gc.collect()
    with blocking.Redis.from_url(redis_server.url) as client:
        assert client.client_list(_type="pubsub") == []


# Settings of Redis


CLIENTS: dict[str, Callable[[str], Any]] = {
    "RESP2": lambda url: Redis.from_url(url, protocol=2),
    "RESP3": lambda url: Redis.from_url(url, protocol=3),
    "decoded": lambda url: Redis.from_url(url, decode_responses=True),
    "impatient": lambda url: Redis.from_url(url, socket_timeout=2),
    "one connection": lambda url: Redis.from_url(url, single_connection_client=True),
    "a small pool": lambda url: Redis.from_pool(ConnectionPool.from_url(url, max_connections=1)),
}


@pytest.mark.parametrize("kind", CLIENTS)
async def test_each_kind_of_client_can_subscribe(kind: str, redis_server: Address) -> None:
    client = CLIENTS[kind](redis_server.url)
    store = RedisStore(client, secrets.token_hex(4), timeout=30)
    async with store.listen() as announced:
        next_one = asyncio.ensure_future(anext(announced))
        await asyncio.sleep(2.5 if kind == "impatient" else 0)
        await store.announce(["a", "b"])
        assert [*await next_one] == ["a", "b"]
    await client.aclose()


async def test_a_client_of_a_sentinel_subscribes_to_the_primary(redis_sentinel: SentinelAddress) -> None:
    sentinel = Sentinel(redis_sentinel.sentinels)
    async with sentinel.master_for(redis_sentinel.service) as client:
        store = RedisStore(client, secrets.token_hex(4), timeout=30)
        async with store.listen() as announced:
            await store.announce(["a"])
            assert [*await anext(announced)] == ["a"]
    for asked in sentinel.sentinels:
        await asked.aclose()


def test_a_client_that_was_used_in_another_event_loop_subscribes_with_the_same_settings(redis_server: Address) -> None:
    client = Redis.from_url(redis_server.url, protocol=3)
    store = RedisStore(client, secrets.token_hex(4), timeout=30)

    async def main() -> None:
        async with store.listen() as announced:
            await store.announce(["a"])
            assert [*await anext(announced)] == ["a"]
        if store.clients.get().client is client:
            await client.aclose()

    for _ in range(2):
        asyncio.run(main())


async def test_a_channel_that_moves_to_another_node_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    with redis.cluster() as nodes:
        client = RedisCluster.from_url(nodes.url)
        store = RedisStore(client, secrets.token_hex(4), timeout=30)
        channel = store.announcer._channel.decode()  # type: ignore[attr-defined]
        async with store.listen() as announced:
            before = nodes.primary_of(channel)
            [to] = [node for node in nodes.nodes[:3] if node is not before][:1]
            await asyncio.to_thread(nodes.move, channel, to)
            with pytest.raises(BackendUnavailable):
                await anext(announced)
        async with store.listen() as announced:
            await store.announce(["a"])
            assert [*await anext(announced)] == ["a"]
        await client.aclose()


async def test_a_cluster_older_than_redis_7_has_one_channel_for_all_nodes(redis_cluster: Address) -> None:
    client = RedisCluster.from_url(redis_cluster.url)
    store = RedisStore(client, secrets.token_hex(4), timeout=30)
    transport = store.clients.get()
    sent: list[Any] = []

    async def send(*command: Any) -> Any:
        sent.append(command[0])
        if command[0] == "SPUBLISH":
            raise blocking.ResponseError("unknown command 'SPUBLISH', with args beginning with: 'c' 'm' ")
        return await transport.send(*command)

    old: Any = store.announcer
    old._clients = Clients(transport._replace(send=send))
    async with store.listen() as announced:
        await store.announce(["a"])
        assert [*await anext(announced)] == ["a"]
    assert sent == ["SPUBLISH", "PUBLISH", "PUBLISH"]
    await client.aclose()


async def test_a_cluster_that_refuses_an_announcement_is_not_taken_for_an_old_one(redis_cluster: Address) -> None:
    client = RedisCluster.from_url(redis_cluster.url)
    store = RedisStore(client, secrets.token_hex(4), timeout=30)

    async def refuse(*command: Any) -> Any:
        raise blocking.ResponseError("this user has no permissions to run the 'spublish' command")

    announcer: Any = store.announcer
    announcer._clients = Clients(store.clients.get()._replace(send=refuse))
    with pytest.raises(BackendUnavailable, match="ResponseError"):
        await store.announce(["a"])
    assert announcer._has_shards
    await client.aclose()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_a_connection_that_is_lost_before_it_has_subscribed_says_so(
    driver: str, postgres_server: Address
) -> None:
    store = SQLAlchemyBackend(postgres_server.over(driver), timeout=30).store
    announcer: Any = store.announcer
    connection = await announcer._database.new_connection()
    await connection.close()
    with pytest.raises(BackendUnavailable, match="The store failed"):
        await _subscribed(connection, "a")
    await store.aclose()


class Clients:
    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def get(self) -> Any:
        return self._transport


async def test_a_user_without_the_permission_for_the_channel_is_told_what_is_missing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis.standalone() as server:
        server.ask("ACL", "SETUSER", "poor", "on", ">secret", "~*", "+@all", "resetchannels")
        url = server.url.replace("redis://", "redis://poor:secret@")
        async with AsyncExitStack() as closing:
            site = await site_at(OnRedis(url, closing))
            async with streams(site) as opened:
                await until(lambda: "NoPermissionError" in caplog.text)
                assert opened.open == 1
                assert (await site.visit(users.sign_out)).messages[0]["status"] == 200
    assert "was not announced" in caplog.text
