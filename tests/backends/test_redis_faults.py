"""Redis dies, sleeps, forgets, refuses, and loses what it says, while a user has a session.

Nothing may hang, no confirmed change may be missing, no user may get the data of another, and what comes after the
recovery must work.
"""

import asyncio
import json
import re
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from anyio import move_on_after
from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, OutOfMemoryError, ReadOnlyError

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import Conflict, Cursor, Entry, Owner
from starsessions.stores.redis.store import RedisStore
from tests.backends.proxy import Proxy, proxy
from tests.docs.pages import story_of, tell
from tests.rows import rows
from tests.servers import redis as servers
from tests.servers.process import free_port
from tests.servers.redis import RedisServer
from tests.servers.tls import self_signed

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
LIFE = 1000


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with servers.standalone(durable=True) as server:
        yield server


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


Open = Callable[..., RedisStore]


@pytest.fixture
async def open_store(closing: AsyncExitStack) -> Open:
    def open_one(client_or_url: Any, timeout: float = 20) -> RedisStore:
        store = RedisStore(client_or_url, "faults:", timeout=timeout)
        closing.push_async_callback(store.aclose)
        return store

    return open_one


@pytest.fixture
async def between(server: RedisServer, closing: AsyncExitStack) -> Proxy:
    return await closing.enter_async_context(proxy(server.port))


async def unavailable(work: Awaitable[Any]) -> BackendUnavailable:
    async with asyncio.timeout(120):  # no judgement, only an end
        with pytest.raises(BackendUnavailable) as caught:
            await work
    assert "key" not in str(caught.value)
    return caught.value


async def answers(store: RedisStore, times: int = 1) -> None:
    """Wait until a store has answered so often. On a busy machine, an answer may come after its short timeout."""
    async with asyncio.timeout(120):
        while times:
            with suppress(BackendUnavailable):
                await store.get("key", now=NOW)
                times -= 1


async def when_changed(store: RedisStore, value: bytes) -> Entry:
    async with asyncio.timeout(30):
        while True:
            found = await store.get("key", now=NOW)
            assert found is not None
            if found.value != value:
                return found


async def check(store: RedisStore) -> None:
    """Everything works, and everybody gets their own: as many at once as there may be connections, and more."""

    async def one(key: str) -> None:
        await store.delete(key, now=NOW)
        version = await store.create(key, key.encode(), expires_at=NOW + LIFE, now=NOW, owner=Owner(key, 1))
        for _ in range(3):
            found = await store.get(key, now=NOW)
            assert found is not None
            assert found.value == key.encode()
        assert await owned(store, key) == [key]
        assert await store.delete(key, version, now=NOW) is True
        assert await store.get(key, now=NOW) is None
        assert await owned(store, key) == []

    outcomes = await asyncio.gather(*(one(f"check-{n}") for n in range(120)), return_exceptions=True)
    for failure in filter(None, outcomes):
        raise failure


# Not there


async def test_without_a_server_the_store_is_unavailable(open_store: Open) -> None:
    store = open_store(f"redis://127.0.0.1:{free_port()}")
    for work in (
        store.get("key", now=NOW),
        store.create("key", b"value", expires_at=NOW + LIFE, now=NOW),
        store.delete("key", now=NOW),
        store.delete("key", b"12345678", now=NOW),
    ):
        error = await unavailable(work)
        assert str(error) == "The store failed: ConnectionError."


async def test_loads_that_share_a_command_all_fail_with_it(open_store: Open) -> None:
    store = open_store(f"redis://127.0.0.1:{free_port()}")
    found = await asyncio.gather(*(store.get(f"key-{n}", now=NOW) for n in range(10)), return_exceptions=True)
    assert [type(error) for error in found] == [BackendUnavailable] * 10


@pytest.mark.guarantee(20)
@pytest.mark.parametrize("make", ["by url", "one connection"])
async def test_a_peer_that_repeats_what_it_hears_is_no_store_without_sessions(
    open_store: Open, closing: AsyncExitStack, make: str
) -> None:
    """A socket can be connected to itself, if the server is down and its port is one that clients get (TCP's
    simultaneous open; a published port of Docker). Each command then reads itself as its reply.
    """

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while heard := await reader.read(4096):
            writer.write(heard)
        writer.close()

    port = free_port()
    closing.callback((await asyncio.start_server(repeat, "127.0.0.1", port)).close)
    client = CLIENTS[make](f"redis://127.0.0.1:{port}")
    if not isinstance(client, str):
        closing.push_async_callback(client.aclose)
    store = open_store(client, 120)
    for work in (
        store.get("key", now=NOW),
        store.create("key", b"value", expires_at=NOW + LIFE, now=NOW),
        store.replace("key", b"value", b"12345678", expires_at=NOW + LIFE, now=NOW),
        store.delete("key", now=NOW),
        store.delete("key", b"12345678", now=NOW),
    ):
        await unavailable(work)
    async with asyncio.timeout(60):
        found = await asyncio.gather(*(store.get(f"key-{n}", now=NOW) for n in range(10)), return_exceptions=True)
    assert [type(error) for error in found] == [BackendUnavailable] * 10


@pytest.mark.guarantee(20)
@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_after_a_restart_the_next_request_works(server: RedisServer, open_store: Open, end: str) -> None:
    store = open_store(server.url)
    await check(store)  # there are many open connections now
    version = await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
    getattr(server, end)()
    await unavailable(store.get("key", now=NOW))
    server.start()
    found = await store.get("key", now=NOW)
    assert found is not None
    assert found.version == version
    await store.replace("key", b"another", version, expires_at=NOW + LIFE, now=NOW)
    await check(store)


async def test_a_restart_while_idle_is_no_failure(server: RedisServer, open_store: Open) -> None:
    store = open_store(server.url)
    await check(store)
    server.restart()
    await check(store)


async def test_a_restart_between_two_commands_is_no_failure(
    server: RedisServer, open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection of the first one was kept for the second one, and is dead."""
    monkeypatch.setattr("starsessions.stores.redis.connection._MOMENT", 60)
    store = open_store(server.url)
    version = await store.create("key", b"1", expires_at=NOW + LIFE, now=NOW)
    server.restart()
    assert await store.get("key", now=NOW) == Entry(b"1", NOW + LIFE, version)
    server.restart()
    version = await store.replace("key", b"2", version, expires_at=NOW + LIFE, now=NOW)
    server.restart()
    assert await store.delete("key", version, now=NOW) is True


LOOPS = [
    ("asyncio", {"use_uvloop": False}),
    pytest.param(
        ("asyncio", {"use_uvloop": True}),
        marks=pytest.mark.skipif(find_spec("uvloop") is None, reason="uvloop is not installed"),
    ),
]
"""Both event loops that servers use. Each has other errors for a connection that is not there any more."""


@pytest.mark.guarantee(20)
@pytest.mark.parametrize("anyio_backend", LOOPS, ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("make", ["by url", "one connection"])
async def test_a_connection_that_was_reset_is_no_failure(
    between: Proxy, open_store: Open, closing: AsyncExitStack, make: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has noticed, and closed its transport, but the driver has not."""
    monkeypatch.setattr("starsessions.stores.redis.connection._MOMENT", 60)
    client = CLIENTS[make](between.url)
    if not isinstance(client, str):
        closing.push_async_callback(client.aclose)
    store = open_store(client)
    version = await store.create("key", b"1", expires_at=NOW + LIFE, now=NOW)

    async def reset() -> None:
        between.reset()
        await asyncio.sleep(0.05)

    await reset()
    assert await store.get("key", now=NOW) == Entry(b"1", NOW + LIFE, version)
    await reset()
    version = await store.replace("key", b"2", version, expires_at=NOW + LIFE, now=NOW)
    await reset()
    assert await store.delete("key", version, now=NOW) is True


# Too slow


@pytest.mark.guarantee(20)
async def test_a_server_that_does_not_answer_is_unavailable_after_the_timeout(
    server: RedisServer, open_store: Open
) -> None:
    store = open_store(server.url, 0.3)
    version = await open_store(server.url).create("key", b"value", expires_at=NOW + LIFE, now=NOW)
    await answers(store)
    with server.paused():
        for work in (
            store.get("key", now=NOW),
            store.replace("key", b"late", version, expires_at=NOW + LIFE, now=NOW),
            store.delete("key", now=NOW),
        ):
            error = await unavailable(work)
            assert str(error) == "The store did not answer within 0.3 seconds."
        at_once = [store.get("key", now=NOW) for _ in range(200)]
        found = await asyncio.gather(*at_once, return_exceptions=True)
        assert [type(error) for error in found] == [BackendUnavailable] * 200
    await check(open_store(server.url))
    await answers(store, 50)


async def test_waiting_for_a_connection_counts(server: RedisServer, open_store: Open, closing: AsyncExitStack) -> None:
    client = Redis.from_pool(ConnectionPool.from_url(server.url, max_connections=2))
    store = open_store(await closing.enter_async_context(client), 0.3)
    with server.paused():
        at_once = [store.create(f"key-{n}", b"value", expires_at=NOW + LIFE, now=NOW) for n in range(20)]
        found = await asyncio.gather(*at_once, return_exceptions=True)
        assert [type(error) for error in found] == [BackendUnavailable] * 20


# Lost


class TestALostAnswer:
    @pytest.fixture
    def store(self, between: Proxy, open_store: Open) -> RedisStore:
        return open_store(between.url)

    async def test_to_a_read_is_requested_again(self, store: RedisStore, between: Proxy) -> None:
        await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
        between.lose_replies = 1
        found = await store.get("key", now=NOW)
        assert found is not None
        assert found.value == b"value"

    async def test_to_a_listing_is_requested_again(self, store: RedisStore, between: Proxy) -> None:
        await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW, owner=Owner("owner", 1))
        between.lose_replies = 1
        assert await owned(store, "owner") == ["key"]
        between.lose_replies = 1
        assert await store.count_owned("owner", most=1000, now=NOW) == 1
        between.lose_replies = 1
        assert await store.time() > 0
        assert between.lose_replies == 0

    @pytest.mark.guarantee(20)
    async def test_to_a_write_is_no_failure(self, store: RedisStore, between: Proxy) -> None:
        version = await store.create("key", b"1", expires_at=NOW + LIFE, now=NOW)
        between.lose_replies = 1
        version = await store.replace("key", b"2", version, expires_at=NOW + LIFE, now=NOW)
        assert between.lose_replies == 0
        found = await store.get("key", now=NOW)
        assert found is not None
        assert found == (b"2", NOW + LIFE, version)

    async def test_to_a_new_entry_is_no_failure(self, store: RedisStore, between: Proxy) -> None:
        await store.get("key", now=NOW)
        between.lose_replies = 1
        version = await store.create("key", b"1", expires_at=NOW + LIFE, now=NOW)
        await store.replace("key", b"2", version, expires_at=NOW + LIFE, now=NOW)

    @pytest.mark.parametrize("whatever", [True, False])
    async def test_to_a_delete_is_no_failure(self, store: RedisStore, between: Proxy, whatever: bool) -> None:
        version = await store.create("key", b"1", expires_at=NOW + LIFE, now=NOW)
        between.lose_replies = 1
        assert await store.delete("key", None if whatever else version, now=NOW) is True
        assert between.lose_replies == 0
        assert await store.get("key", now=NOW) is None

    async def test_and_another_write_since_is_unavailable(
        self, store: RedisStore, between: Proxy, server: RedisServer, open_store: Open
    ) -> None:
        """It is unknown whether the first one was carried out, so it must not be reported as failed or done."""
        version = await store.create("key", b"1", expires_at=NOW + LIFE, now=NOW)
        between.flows.clear()
        between.lose_replies = 1
        ours = asyncio.create_task(store.replace("key", b"2", version, expires_at=NOW + LIFE, now=NOW))
        theirs = open_store(server.url)
        found = await when_changed(theirs, b"1")
        await theirs.replace("key", b"3", found.version, expires_at=NOW + LIFE, now=NOW)
        between.flows.set()
        error = await unavailable(ours)
        assert str(error) == "The reply to a write was lost, and its result is unknown: another one followed."

    @pytest.mark.guarantee(14)
    async def test_and_a_logout_since_is_final(
        self, store: RedisStore, between: Proxy, server: RedisServer, open_store: Open
    ) -> None:
        version = await store.create("key", b"1", expires_at=NOW + LIFE, now=NOW)
        between.flows.clear()
        between.lose_replies = 1
        ours = asyncio.create_task(store.replace("key", b"2", version, expires_at=NOW + LIFE, now=NOW))
        theirs = open_store(server.url)
        await when_changed(theirs, b"1")
        await theirs.delete("key", now=NOW)
        between.flows.set()
        with pytest.raises(Conflict) as refusal:
            await ours
        assert refusal.value.current is None
        assert await theirs.get("key", now=NOW) is None

    async def test_twice_is_unavailable_and_what_follows_works(self, store: RedisStore, between: Proxy) -> None:
        await store.get("key", now=NOW)
        between.lose_replies = 2
        await unavailable(store.create("key", b"1", expires_at=NOW + LIFE, now=NOW))
        await check(store)

    async def test_to_many_at_once_is_no_failure(self, store: RedisStore, between: Proxy) -> None:
        await check(store)
        between.lose_replies = 1
        await check(store)


async def test_a_lost_request_is_sent_again(between: Proxy, open_store: Open) -> None:
    store = open_store(between.url)
    await store.get("key", now=NOW)
    between.lose_requests = 1
    version = await store.create("key", b"1", expires_at=NOW + LIFE, now=NOW)
    between.lose_requests = 1
    found = await store.get("key", now=NOW)
    assert found is not None
    assert found.version == version


# Cancelled

CLIENTS: dict[str, Callable[[str], Any]] = {
    "by url": lambda url: url,
    "a pool of two": lambda url: Redis.from_pool(ConnectionPool.from_url(url, max_connections=2)),
    "no timeouts": lambda url: Redis.from_url(url, socket_timeout=None),
    "one connection": lambda url: Redis.from_url(url, single_connection_client=True),
}


class TestCancelled:
    """Requests whose browsers have gone must leave no answer behind for those who come later (CVE-2023-28859)."""

    @pytest.fixture(params=CLIENTS)
    async def store(
        self, request: pytest.FixtureRequest, between: Proxy, open_store: Open, closing: AsyncExitStack
    ) -> RedisStore:
        client = CLIENTS[request.param](between.url)
        if not isinstance(client, str):
            closing.push_async_callback(client.aclose)
        store = open_store(client)
        for n in range(20):
            await store.create(f"{n}", f"{n}".encode(), expires_at=NOW + LIFE, now=NOW)
        return store

    async def answers_are_right(self, store: RedisStore) -> None:
        async def one(n: int) -> None:
            found = await store.get(f"{n}", now=NOW)
            assert found is not None
            assert found.value == f"{n}".encode()

        for n in range(20):
            await one(n)
        await asyncio.gather(*(one(n) for n in range(20)))

    @pytest.mark.guarantee(20)
    async def test_while_they_wait_for_an_answer(self, store: RedisStore, between: Proxy) -> None:
        for turns in range(1, 12):
            between.flows.clear()
            requests = [asyncio.create_task(store.get(f"{n}", now=NOW)) for n in range(20)]
            requests += [
                asyncio.create_task(store.create(f"new-{turns}-{n}", b"new", expires_at=NOW + LIFE, now=NOW))
                for n in range(5)
            ]
            for _ in range(turns**2):
                await asyncio.sleep(0)
            for request in requests:
                request.cancel()
            outcomes = await asyncio.gather(*requests, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError}
            between.flows.set()
            await self.answers_are_right(store)

    async def test_by_anyio_which_cancels_again_and_again(self, store: RedisStore, between: Proxy) -> None:
        async def request(n: int, seconds: float) -> None:
            with move_on_after(seconds):
                await store.get(f"{n}", now=NOW)
            with move_on_after(seconds):
                await store.create(f"new-{n}", b"new", expires_at=NOW + LIFE, now=NOW)

        for milliseconds in range(8):
            between.flows.clear()
            await asyncio.gather(*(request(n, milliseconds / 1000) for n in range(20)))
            between.flows.set()
            await self.answers_are_right(store)

    async def test_of_one_request_does_not_affect_others_sharing_its_command(
        self, store: RedisStore, between: Proxy
    ) -> None:
        between.flows.clear()
        requests = [asyncio.create_task(store.get(f"{n}", now=NOW)) for n in range(20)]
        await asyncio.sleep(0.01)
        for request in requests[::3]:
            request.cancel()
        between.flows.set()
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        for n, outcome in enumerate(outcomes):
            if n % 3 == 0:
                assert type(outcome) is asyncio.CancelledError
            else:
                assert not isinstance(outcome, BaseException)
                assert outcome is not None
                assert outcome.value == f"{n}".encode()


async def test_no_request_waits_forever_for_a_cancelled_shared_command(between: Proxy, open_store: Open) -> None:
    """As `asyncio.run()` does with all tasks at its end; but the task may be another loop's guest, and go on."""
    store = open_store(between.url, 0.3)
    await answers(store)
    between.flows.clear()
    requests = [asyncio.create_task(store.get(f"{n}", now=NOW)) for n in range(5)]
    await asyncio.sleep(0.01)
    [shared] = [task for task in asyncio.all_tasks() if "_read_next" in repr(task)]
    shared.cancel()
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BackendUnavailable] * 5
    between.flows.set()


# Refusing


@pytest.mark.guarantee(20)
async def test_a_full_server_accepts_no_session_but_can_end_existing_ones(
    server: RedisServer, open_store: Open
) -> None:
    store = open_store(server.url)
    version = await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
    await store.create("other", b"value", expires_at=NOW + LIFE, now=NOW)
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.ask("CONFIG", "SET", "maxmemory", "1")
    error = await unavailable(store.create("new", b"value", expires_at=NOW + LIFE, now=NOW))
    assert str(error) == "The store failed: OutOfMemoryError."
    assert isinstance(error.__cause__, OutOfMemoryError)
    found = await store.get("key", now=NOW)
    assert found is not None
    assert found.version == version
    assert await store.delete("key", version, now=NOW) is True
    assert await store.delete("other", now=NOW) is True
    server.ask("CONFIG", "SET", "maxmemory", "0")
    await check(store)


async def test_a_full_disk_is_unavailable(server: RedisServer, open_store: Open) -> None:
    store = open_store(server.url)
    await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
    server.ask("CONFIG", "SET", "save", "3600 1")  # only a server that is to save on its own stops when it cannot
    in_the_way = server.directory / "dump.rdb"
    in_the_way.mkdir()  # where the file is to go
    server.ask("BGSAVE")
    server.wait_until(lambda: server.ask("INFO", "persistence")["rdb_last_bgsave_status"] == "err", "could save")
    await unavailable(store.create("new", b"value", expires_at=NOW + LIFE, now=NOW))
    await unavailable(store.delete("key", now=NOW))
    assert await store.get("key", now=NOW) is not None
    in_the_way.rmdir()
    server.ask("BGSAVE")
    server.wait_until(lambda: server.ask("INFO", "persistence")["rdb_last_bgsave_status"] == "ok", "could not save")
    await check(store)


async def test_a_replica_is_unavailable_for_writes_until_it_is_promoted(server: RedisServer, open_store: Open) -> None:
    store = open_store(server.url)
    version = await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
    server.ask("REPLICAOF", "127.0.0.1", str(free_port()))
    error = await unavailable(store.replace("key", b"late", version, expires_at=NOW + LIFE, now=NOW))
    assert isinstance(error.__cause__, ReadOnlyError)
    server.ask("REPLICAOF", "NO", "ONE")
    await store.replace("key", b"another", version, expires_at=NOW + LIFE, now=NOW)
    await check(store)


async def test_a_name_that_resolves_to_another_primary_is_followed(
    server: RedisServer, between: Proxy, open_store: Open
) -> None:
    """The old primary lives on as a replica, and our connections to it do."""
    store = open_store(between.url)
    await check(store)
    with servers.standalone() as other:
        server.ask("REPLICAOF", "127.0.0.1", str(other.port))
        between.target = other.port
        version = await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
        assert other.ask("EXISTS", "faults:key") == 1
        await store.delete("key", version, now=NOW)


async def test_a_server_that_still_loads_is_unavailable(open_store: Open) -> None:
    slowly = {"loading-process-events-interval-bytes": "1024"}  # how often it looks at clients meanwhile
    with servers.standalone(config=slowly) as server:
        store = open_store(server.url)
        for n in range(200):
            await store.create(f"{n}", b"value", expires_at=NOW + LIFE, now=NOW)
        server.ask("CONFIG", "SET", "key-load-delay", "20000")  # microseconds
        server.ask("CONFIG", "REWRITE")
        server.stop()
        server.launch()
        error = None
        while not isinstance(error, BusyLoadingError):  # before that, it does not listen
            error = (await unavailable(store.get("1", now=NOW))).__cause__
        server.ask("CONFIG", "SET", "key-load-delay", "0")
        server.wait_until(lambda: server.ask("INFO", "persistence")["loading"] == 0, "still loads")
        found = await store.get("1", now=NOW)
        assert found is not None
        await check(store)


async def test_a_server_that_forbids_the_command_is_unavailable(server: RedisServer, open_store: Open) -> None:
    server.ask("ACL", "SETUSER", "poor", "on", "nopass", "~*", "+evalsha", "+eval", "+set", "+del")
    store = open_store(f"redis://poor:x@127.0.0.1:{server.port}")
    error = await unavailable(store.get("key", now=NOW))
    assert isinstance(error.__cause__, NoPermissionError)
    # The script finds that it may not look, and does not take this for nothing being there.
    await unavailable(store.create("key", b"value", expires_at=NOW + LIFE, now=NOW))
    await unavailable(store.replace("key", b"value", b"12345678", expires_at=NOW + LIFE, now=NOW))
    await unavailable(store.delete("key", now=NOW))


async def test_a_listing_whose_entries_may_not_be_read_is_unavailable_and_stays(
    server: RedisServer, open_store: Open
) -> None:
    store = open_store(server.url)
    await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW, owner=Owner("owner", 1))
    server.ask("ACL", "SETUSER", "poor", "on", "nopass", "~*", "+evalsha", "+eval", "+zrevrangebylex", "+zrem")
    await unavailable(open_store(f"redis://poor:x@127.0.0.1:{server.port}").list_owned("owner", limit=9, now=NOW))
    assert await owned(store, "owner") == ["key"]


async def test_the_documented_permissions_are_sufficient(server: RedisServer, open_store: Open) -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/production/redis.md").read_text()
    [permitted] = re.findall(r"^ACL SETUSER .* (~starsessions:.*)$", guide, re.MULTILINE)
    server.ask("ACL", "SETUSER", "ours", "on", "nopass", *permitted.replace("starsessions:", "faults:").split())
    store = open_store(f"redis://ours:x@127.0.0.1:{server.port}")
    await check(store)
    await store.time()


async def test_the_documented_provider_is_asked_for_the_password_at_each_new_connection(
    server: RedisServer, open_store: Open, tmp_path: Path
) -> None:
    """A connection that is open outlives its password, as the guide says."""
    guide = tell(story_of("guides/production/rotate-credentials.md"))
    guide["PASSWORD"] = file = tmp_path / "password"
    file.write_text("old\n")
    server.ask("ACL", "SETUSER", "sessions", "on", ">old", "~*", "&*", "+@all")
    provided = open_store(lambda: Redis(port=server.port, credential_provider=guide["FromFile"]()))
    fixed = open_store(f"redis://sessions:old@127.0.0.1:{server.port}")
    both = [provided, fixed]
    for changes in [(), (">new",), ("<old",), ("off",), ("on",)]:
        server.ask("ACL", "SETUSER", "sessions", *changes)
        assert [await store.get("key", now=NOW) for store in both] == [None, None]
    file.write_text("new\n")
    server.ask("CLIENT", "KILL", "USER", "sessions")
    assert await provided.get("key", now=NOW) is None
    error = await unavailable(fixed.get("key", now=NOW))
    assert isinstance(error.__cause__, AuthenticationError)


@rows("host", ["127.0.0.1", "localhost"])
async def test_over_tls_a_server_of_another_name_is_refused_though_its_authority_is_trusted(
    open_store: Open, tmp_path: Path, host: str
) -> None:
    """By redis-py 5, too, which does not look at the name unless it is told to."""
    key, certificate = self_signed(tmp_path)  # for 127.0.0.1
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    accepted: list[StreamWriter] = []

    def accept(_: StreamReader, writer: StreamWriter) -> None:
        accepted.append(writer)
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context) as listening:
        port = listening.sockets[0].getsockname()[1]
        error = await unavailable(open_store(f"rediss://{host}:{port}?ssl_ca_certs={certificate}").get("key", now=NOW))
    assert (accepted != []) is (host == "127.0.0.1")
    assert ("CERTIFICATE_VERIFY_FAILED" in str(error.__cause__)) is (host == "localhost")


async def test_a_server_that_evicts_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """It may evict the list of a user before the sessions on it, which then cannot be ended."""
    with servers.standalone() as server:
        for limit, policy, permission, lines in [
            ("0", "allkeys-lru", "+info", 0),
            ("100mb", "noeviction", "+info", 0),
            ("100mb", "volatile-lru", "-info", 0),
            ("100mb", "volatile-lru", "+info", 1),
        ]:
            caplog.clear()
            server.ask("CONFIG", "SET", "maxmemory", limit, "maxmemory-policy", policy)
            server.ask("ACL", "SETUSER", "default", permission)
            for options in ({}, {"single_connection_client": True}):  # one gets bytes, the other a dict
                async with Redis.from_url(server.url, **options) as client:
                    store = RedisStore(client, f"{policy}:", timeout=20)
                    for n in range(3):
                        await store.create(f"{permission}{options}{n}", b"", expires_at=NOW + LIFE, now=NOW)
            found = [record.getMessage() for record in caplog.records]
            assert len(found) == 2 * lines
            assert all("(maxmemory-policy volatile-lru)" in line for line in found)


@pytest.mark.parametrize("refuses", ["cluster", "permissions"])
async def test_a_server_that_refuses_mget_is_read_key_by_key_from_then_on(open_store: Open, refuses: str) -> None:
    """A Cluster with one node, reached by an ordinary client, serves all keys, but not several slots at once."""
    with servers.standalone(config={"cluster-enabled": "yes"} if refuses == "cluster" else {}) as server:
        if refuses == "cluster":
            server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            server.wait_until(server.serves_cluster, "did not serve its slots")
        else:
            server.ask("ACL", "SETUSER", "default", "-mget")
        store = open_store(server.url)
        await check(store)
        asked = server.ask("INFO", "commandstats")["cmdstat_mget"]
        assert asked["rejected_calls"] > 0
        await check(store)
        assert server.ask("INFO", "commandstats")["cmdstat_mget"] == asked


# Under load


async def owned(store: RedisStore, name: str) -> list[str]:
    """The keys of all entries of an owner."""
    keys: list[str] = []
    after: Cursor | None = None
    while True:
        page = await store.list_owned(name, limit=50, now=NOW, after=after)
        keys += [key for key, _ in page.entries]
        after = page.after
        if after is None:
            return keys


class Load:
    """Writers at work, and what they were told.

    Each owns one key in a value that all share and raises its number there; and each begins and ends sessions of its
    own.
    """

    WRITERS = 16
    SHARED = ("shared-1", "shared-2", "shared-3")

    def __init__(self, store: RedisStore, name: str = "writer") -> None:
        self.store = store
        self.name = name
        self.going = True
        self.confirmed: dict[tuple[str, str], int] = {}
        self.possible: dict[tuple[str, str], int] = {}
        self.sums = dict.fromkeys(self.SHARED, 0)
        self.unknown = dict.fromkeys(self.SHARED, 0)
        self.living: set[str] = set()
        self.ended: set[str] = set()
        self.done = 0
        self.failed = 0

    async def start(self) -> None:
        for key in self.SHARED:
            await self.store.create(key, b"{}", expires_at=NOW + LIFE, now=NOW)
        self.tasks = [asyncio.create_task(self.write(f"{self.name}-{n}")) for n in range(self.WRITERS)]

    async def progress(self, steps: int) -> None:
        """Until so many more writes were confirmed."""
        aim = self.done + steps
        async with asyncio.timeout(60):
            while self.done < aim:
                await asyncio.sleep(0.01)
                for task in self.tasks:
                    if task.done():
                        task.result()

    async def finish(self) -> None:
        self.going = False
        await asyncio.gather(*self.tasks)

    async def write(self, name: str) -> None:
        n = 0
        while self.going:
            for key in self.SHARED:
                try:
                    await self.raise_number(key, name)
                except BackendUnavailable:
                    self.failed += 1
                    await asyncio.sleep(0.01)
            session = f"session-{name}-{n}"
            n += 1
            try:
                version = await self.store.create(
                    session, session.encode(), expires_at=NOW + LIFE, now=NOW, owner=Owner(name, n)
                )
                if n % 2:
                    self.living.add(session)
                else:
                    await self.store.delete(session, version, now=NOW)
                    self.ended.add(session)
            except BackendUnavailable:
                self.failed += 1

    async def raise_number(self, key: str, name: str) -> None:
        entry = await self.store.get(key, now=NOW)
        while True:
            assert entry is not None, "a session was lost"
            numbers = json.loads(entry.value)
            number = numbers[name] = numbers.get(name, 0) + 1
            numbers["sum"] = numbers.get("sum", 0) + 1
            self.possible[key, name] = number
            try:
                await self.store.replace(
                    key, json.dumps(numbers).encode(), entry.version, expires_at=NOW + LIFE, now=NOW
                )
            except Conflict as refused:
                entry = refused.current
            except BackendUnavailable:
                self.unknown[key] += 1
                raise
            else:
                self.confirmed[key, name] = number
                self.sums[key] += 1
                self.done += 1
                return

    async def audit(self) -> None:
        """What was confirmed is there, once; and what was ended is not."""
        for key in self.SHARED:
            entry = await self.store.get(key, now=NOW)
            assert entry is not None
            numbers = json.loads(entry.value)
            for (of, name), number in self.confirmed.items():
                if of == key:
                    assert number <= numbers[name] <= self.possible[key, name]
            assert self.sums[key] <= numbers["sum"] <= self.sums[key] + self.unknown[key]
        for session in self.living:
            entry = await self.store.get(session, now=NOW)
            assert entry is not None, "a confirmed session is missing"
            assert entry.value == session.encode()
        for session in self.ended:
            assert await self.store.get(session, now=NOW) is None, "a session lives that was ended"
        owners = {session.split("-", 1)[1].rsplit("-", 1)[0] for session in self.living | self.ended}
        listed = {key for owner in owners for key in await owned(self.store, owner)}
        assert listed >= self.living, "a session is on no list"
        assert not listed & self.ended, "a session is listed that was ended"


@pytest.mark.guarantee(20)
async def test_confirmed_writes_survive_kills_under_load(server: RedisServer, open_store: Open) -> None:
    store = open_store(server.url)
    load = Load(store)
    await load.start()
    for _ in range(3):
        await load.progress(200)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
    await load.progress(200)
    await load.finish()
    assert load.failed
    await load.audit()
    await check(store)


async def test_confirmed_writes_survive_cut_connections(between: Proxy, open_store: Open) -> None:
    store = open_store(between.url)
    load = Load(store)
    await load.start()
    for _ in range(20):
        await load.progress(30)
        between.lose_replies = 5
        await load.progress(30)
        between.lose_requests = 5
    await load.finish()
    await load.audit()
    await check(store)


async def test_a_pause_under_load_confirms_no_lost_write(server: RedisServer, open_store: Open) -> None:
    store = open_store(server.url, 0.2)
    load = Load(store)
    await load.start()
    for _ in range(3):
        await load.progress(100)
        await asyncio.to_thread(server.pause)
        await asyncio.sleep(0.5)
        server.resume()
    await load.progress(100)
    await load.finish()
    assert load.failed
    store = open_store(server.url)
    load.store = store
    await load.audit()
    await check(store)


@pytest.mark.guarantee(20)
async def test_a_failover_of_a_sentinel_under_load(open_store: Open, closing: AsyncExitStack) -> None:
    """Replication is asynchronous: what was confirmed in the last moments before may be gone. What was not, stays."""
    with servers.sentinel() as group:
        sentinel = Sentinel(group.address.sentinels)
        for asked in sentinel.sentinels:
            closing.push_async_callback(asked.aclose)
        client = await closing.enter_async_context(sentinel.master_for(group.address.service))
        await failover(open_store(client), group.primary(), group.wait_for_failover)


@pytest.mark.guarantee(20)
async def test_a_failover_of_a_cluster_under_load(open_store: Open, closing: AsyncExitStack) -> None:
    with servers.cluster() as group:
        client = await closing.enter_async_context(RedisCluster.from_url(group.url))
        key = f"faults:{Load.SHARED[0]}"
        await failover(open_store(client), group.primary_of(key), lambda of: group.wait_for_takeover(key, of))


@pytest.mark.guarantee(20)
@pytest.mark.once
async def test_a_cluster_whose_slots_move_keeps_all_sessions(open_store: Open, closing: AsyncExitStack) -> None:
    """The client closes connections that other commands are about to use."""
    with servers.cluster() as group:
        client = await closing.enter_async_context(RedisCluster.from_url(group.url))
        store = open_store(client)
        going = True

        async def writer(key: str) -> int:
            changes = 0
            owner = Owner("owner", 1)
            version = await store.create(key, b"0", expires_at=NOW + LIFE, now=NOW, owner=owner)
            while going:
                found = await store.get(key, now=NOW)
                assert found == (b"%d" % changes, NOW + LIFE + changes % 2, version)
                changes += 1
                version = await store.replace(
                    key, b"%d" % changes, version, expires_at=NOW + LIFE + changes % 2, now=NOW, owner=owner
                )
            return changes

        keys = [f"key-{n}" for n in range(8)]
        writers = [asyncio.create_task(writer(key)) for key in keys]
        for n, key in enumerate(keys):
            await asyncio.to_thread(group.move, f"faults:{key}", group.nodes[n % 3])
        await asyncio.to_thread(group.move, "faults:{owner}", group.nodes[0])
        await asyncio.to_thread(group.move, "faults:{owner}", group.nodes[1])
        going = False
        assert min(await asyncio.gather(*writers)) > 0
        assert sorted(await owned(store, "owner")) == keys


@pytest.mark.guarantee(20)
@pytest.mark.once
async def test_a_primary_that_is_killed_between_two_steps_leaves_no_entry_unlisted(
    open_store: Open, closing: AsyncExitStack
) -> None:
    """The listing was written, and the server of the entry is dead."""

    class Held(RedisCluster):
        hold = False

        async def execute_command(self, *args: Any, **options: Any) -> Any:
            if self.hold and b"faults:key" in args:
                self.hold = False
                await asyncio.to_thread(primary.kill)
            return await super().execute_command(*args, **options)

    with servers.cluster() as group:
        primary = group.primary_of("faults:key")
        name = next(name for name in "abcdefgh" if group.primary_of(f"faults:{{{name}}}") is not primary)
        client = await closing.enter_async_context(Held.from_url(group.url))
        store, owner = open_store(client), Owner(name, 1)
        await store.create("other", b"", expires_at=NOW + LIFE, now=NOW, owner=owner)
        client.hold = True
        with suppress(BackendUnavailable):
            await store.create("key", b"", expires_at=NOW + LIFE, now=NOW, owner=owner)
        assert not client.hold
        await asyncio.to_thread(group.wait_for_takeover, "faults:key", primary)
        await until_it_works(store)
        exists = await store.get("key", now=NOW) is not None
        assert ("key" in await owned(store, name)) == exists
        assert await store.delete("key", now=NOW) == exists
        await store.create("key", b"", expires_at=NOW + LIFE, now=NOW, owner=owner)
        assert "key" in await owned(store, name)


async def failover(
    store: RedisStore, primary: RedisServer, wait_for_failover: Callable[[RedisServer], RedisServer]
) -> None:
    before, after = Load(store, "before"), Load(store, "after")
    await before.start()
    await before.progress(200)
    await before.finish()
    await before.audit()
    await asyncio.to_thread(primary.wait_until_replicated)  # any of them may become the primary
    keep = asyncio.create_task(keep_reading(store, before))
    await asyncio.to_thread(primary.kill)
    await asyncio.to_thread(wait_for_failover, primary)
    await until_it_works(store)
    keep.cancel()
    with pytest.raises(asyncio.CancelledError):  # it has met nothing else
        await keep
    await before.audit()
    for key in Load.SHARED:
        await store.delete(key, now=NOW)
    after.living = before.living
    await after.start()
    await after.progress(200)
    await after.finish()
    await after.audit()
    await check(store)


async def keep_reading(store: RedisStore, load: Load) -> None:
    async def one(session: str) -> None:
        while True:
            try:
                found = await store.get(session, now=NOW)
            except BackendUnavailable:
                await asyncio.sleep(0.01)
            else:
                assert found is not None
                assert found.value == session.encode()

    await asyncio.gather(*(one(session) for session in sorted(load.living)[:8]))


async def until_it_works(store: RedisStore) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await check(store)
            except BackendUnavailable:
                await asyncio.sleep(0.05)
            else:
                return
