"""The backend for Redis, on real servers: the stored entries, the commands, and the clients."""

import asyncio
import math
import secrets
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
import redis as blocking
from redis.asyncio import ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import LoadBalancingStrategy

from starsessions import users
from starsessions.backends.redis import RedisBackend
from starsessions.core.record import MissReason
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.stores.base import Conflict, Entry, Store
from starsessions.stores.redis.connection import within
from starsessions.stores.redis.store import RedisStore
from tests.backends.proxy import Proxy, proxy
from tests.rows import rows
from tests.servers import redis as servers
from tests.servers.process import Address
from tests.servers.redis import RedisServer, SentinelAddress
from tests.site import Browser, Clock, Site

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
LIFE = 100


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the one that redis-py knows


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that only this file uses, so that its statistics are about us."""
    with servers.standalone() as server:
        yield server


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


Open = Callable[..., RedisStore]


@pytest.fixture
async def open_store(server: RedisServer, closing: AsyncExitStack) -> Open:
    """Opens a store in a corner of its own; by the URL, if no client is given."""

    def open_one(client_or_url: Any = None, prefix: str | None = None) -> RedisStore:
        prefix = secrets.token_hex(4) + ":" if prefix is None else prefix
        store = RedisStore(client_or_url or server.url, prefix, timeout=30)
        closing.push_async_callback(store.aclose)
        return store

    return open_one


@pytest.fixture
async def ask(server: RedisServer, closing: AsyncExitStack) -> Callable[..., Awaitable[Any]]:
    """A client for what the test itself wants to know."""
    client = await closing.enter_async_context(Redis.from_url(server.url))
    return client.execute_command


async def refused(work: Awaitable[Any]) -> Entry | None:
    with pytest.raises(Conflict) as caught:
        await work
    return caught.value.current


# Stored entries


async def test_an_entry_is_a_string_of_layout_version_and_value(open_store: Open, ask: Any) -> None:
    store = open_store(prefix="layout:")
    version = await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
    assert await ask("KEYS", "layout:*") == [b"layout:key"]
    assert await ask("GET", "layout:key") == b"\x02" + version + b"value"
    assert version[8:] == (NOW + LIFE).to_bytes(8, "big") + b"\0"


@pytest.mark.guarantee(17)
async def test_a_key_is_the_prefix_and_a_hash_of_the_id(server: RedisServer, ask: Any) -> None:
    backend = RedisBackend(server.url, "hashed:", timeout=30)
    async with backend.lifespan():
        await backend.write({"user": "ann"}, "an-id")
    [key] = await ask("KEYS", "hashed:*")
    assert len(key) == len("hashed:") + 43
    assert b"an-id" not in key + await ask("GET", key)


async def test_stores_with_different_prefixes_are_separate(open_store: Open) -> None:
    ours, theirs = open_store(prefix="ours:"), open_store(prefix="theirs:")
    await ours.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
    assert await theirs.get("key", now=NOW) is None
    assert await theirs.delete("key", now=NOW) is False
    assert await ours.get("key", now=NOW) is not None


# Expiry


@pytest.mark.guarantee(19)
@rows("now", [1, NOW, NOW * 2])
async def test_redis_expires_entries_by_its_own_clock(open_store: Open, ask: Any, now: int) -> None:
    store = open_store(prefix=f"ttl-{now}:")
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    assert LIFE * 1000 - 30_000 < await ask("PTTL", f"ttl-{now}:key") <= LIFE * 1000
    await store.replace("key", b"value", version, expires_at=now + 2 * LIFE, now=now)
    assert LIFE * 1000 < await ask("PTTL", f"ttl-{now}:key") <= 2 * LIFE * 1000


@rows("ahead", [10**10, 10**13, 2**62])
async def test_a_far_deadline_does_not_overflow(open_store: Open, ask: Any, ahead: int) -> None:
    store = open_store(prefix=f"far-{ahead}:")
    await store.create("key", b"value", expires_at=NOW + ahead, now=NOW)
    found = await store.get("key", now=NOW + 10**9)
    assert found is not None
    assert found.expires_at == NOW + ahead
    assert await ask("PTTL", f"far-{ahead}:key") > 10**12


@rows("late", [0, 1, 2 * NOW])
async def test_an_entry_that_has_expired_when_written_is_not_kept(open_store: Open, ask: Any, late: int) -> None:
    store = open_store(prefix=f"late-{late}:")
    version = await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
    await store.replace("key", b"value", version, expires_at=NOW - late, now=NOW)
    await store.create("new", b"value", expires_at=NOW - late, now=NOW)
    assert await ask("KEYS", f"late-{late}:*") == []


@pytest.mark.guarantee(19)
async def test_redis_removes_expired_entries_itself(open_store: Open, server: RedisServer) -> None:
    store = open_store(prefix="short:")
    await store.create("key", b"value", expires_at=NOW + 1, now=NOW)
    server.wait_until(lambda: not server.ask("EXISTS", "short:key"), "has not removed an expired entry")


# Foreign values under a key of the store

GARBAGE = {
    "nothing": ("SET", ""),
    "a few characters": ("SET", "value"),
    "seventeen characters": ("SET", "\x02" + "x" * 16),
    "a longer text": ("SET", "a value of another program"),
    "another layout": ("SET", b"\x01" + b"x" * 30),
    "a hash": ("HSET", "field", "value"),
    "a list": ("RPUSH", "value"),
}


class TestGarbage:
    @pytest.fixture
    def garbage(self, open_store: Open, ask: Any) -> Callable[[str], Awaitable[RedisStore]]:
        async def put(kind: str) -> RedisStore:
            command, *words = GARBAGE[kind]
            prefix = secrets.token_hex(4) + ":"
            await ask(command, prefix + "key", *words)
            return open_store(prefix=prefix)

        return put

    @rows("kind", GARBAGE)
    async def test_is_not_there_and_has_no_version(self, garbage: Any, kind: str) -> None:
        store = await garbage(kind)
        assert await store.get("key", now=NOW) is None
        assert await refused(store.replace("key", b"value", b"xxxxxxxx", expires_at=NOW + LIFE, now=NOW)) is None
        assert await refused(store.delete("key", b"xxxxxxxx", now=NOW)) is None

    @rows("kind", GARBAGE)
    async def test_leaves_its_place_to_an_entry(self, garbage: Any, kind: str) -> None:
        store = await garbage(kind)
        version = await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
        assert await store.get("key", now=NOW) == Entry(b"value", NOW + LIFE, version)

    @rows("kind", GARBAGE)
    async def test_can_be_removed(self, garbage: Any, ask: Any, kind: str) -> None:
        store = await garbage(kind)
        assert await store.delete("key", now=NOW) is False
        assert await ask("EXISTS", store._prefix + b"key") == 0

    @rows("kind", GARBAGE)
    async def test_does_not_disturb_loads_that_share_a_command(self, garbage: Any, kind: str) -> None:
        store = await garbage(kind)
        await store.create("other", b"value", expires_at=NOW + LIFE, now=NOW)
        found = await asyncio.gather(*(store.get(key, now=NOW) for key in ["other", "key", "other", "key", "none"]))
        assert [entry and entry.value for entry in found] == [b"value", None, b"value", None, None]


async def test_an_entry_without_a_record_is_ignored_and_can_be_removed(server: RedisServer) -> None:
    backend = RedisBackend(server.url, secrets.token_hex(4), timeout=30)
    async with backend.lifespan():
        await backend.store.create(backend.key_of("an-id"), b"garbage", expires_at=NOW * 2, now=NOW)
        assert await backend.fetch("an-id", NOW) is MissReason.UNDECODABLE
        await backend.remove("an-id")
        await backend.write({"a": 1}, "an-id")
        assert await backend.read("an-id") == {"a": 1}


# What is sent


@pytest.fixture
def sent(server: RedisServer) -> Callable[[], dict[str, int]]:
    """The commands that the server has carried out since the last call, by its own count."""

    def count() -> Counter[str]:
        found = server.ask("INFO", "commandstats")
        calls = {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in found.items()}
        # What a new connection begins with, and what the test itself asks. (Commands of a script are counted, too.)
        greetings = ("info", "client", "hello", "select", "command", "script", "config")
        return Counter({name: n for name, n in calls.items() if not name.startswith(greetings)})

    before = count()

    def since() -> dict[str, int]:
        nonlocal before
        earlier, before = before, count()
        return dict(before - earlier)

    return since


NEW = {"evalsha": 1, "get": 1, "set": 1}  # the script looks, and writes
CHANGED = {"evalsha": 1, "get": 2, "set": 1}
ENDED = {"evalsha": 1, "get": 2, "del": 1, "publish": 1}


class TestRoundTrips:
    @pytest.fixture
    async def site(self, server: RedisServer, clock: Clock, closing: AsyncExitStack) -> Site:
        self.backend = RedisBackend(server.url, secrets.token_hex(4), timeout=30)
        await closing.enter_async_context(self.backend.lifespan())
        site, ended = Site(backend=self.backend, clock=clock, autoload=True), Browser()
        for act in (lambda session: session.update(a=1), lambda session: session.flush()):
            await site.visit(act, ended)  # the server learns the scripts
        await site.visit(lambda session: session.update(a=1))
        return site

    @pytest.mark.guarantee(18)
    async def test_none_for_a_session_that_is_not_used(self, site: Site, sent: Any) -> None:
        await Site(backend=self.backend).visit(lambda session: None, site.browser)
        assert sent() == {}

    async def test_none_to_read_a_session_without_a_cookie(self, site: Site, sent: Any) -> None:
        await site.visit(lambda session: session.get("a"), Browser())
        assert sent() == {}

    @pytest.mark.guarantee(18)
    async def test_one_to_read(self, site: Site, sent: Any) -> None:
        assert await site.data() == {"a": 1}
        assert sent() == {"get": 1}

    @pytest.mark.guarantee(18)
    async def test_one_for_a_new_session(self, site: Site, sent: Any) -> None:
        await site.visit(lambda session: session.update(a=1), Browser())
        assert sent() == NEW

    @pytest.mark.guarantee(18)
    async def test_two_to_change(self, site: Site, sent: Any) -> None:
        await site.visit(lambda session: session.update(a=2))
        assert sent() == CHANGED

    @pytest.mark.guarantee(18)
    async def test_two_to_log_out_which_the_second_announces(self, site: Site, sent: Any) -> None:
        await site.visit(lambda session: session.flush())
        assert sent() == ENDED

    @pytest.mark.guarantee(18)
    async def test_two_scripts_to_sign_in(self, site: Site, sent: Any) -> None:
        await site.visit(lambda session: users.sign_in(session, "ann"))
        commands = sent()
        # The place of the session is written, and then, at once, the session, the data before it and the pointer. The
        # session is read before. Each of the two scripts reads what it replaces, and then both epochs, and counts.
        assert {name: commands.get(name, 0) for name in ("evalsha", "set", "get", "mget", "zcard")} == {
            "evalsha": 2,
            "set": 4,
            "get": 1 + (1 + 2) + (3 + 2),
            "mget": 0,
            "zcard": 2 + 1,  # the first looks for expired entries of the user, too
        }

    @pytest.mark.guarantee(18)
    async def test_one_more_for_a_conflict(self, site: Site, sent: Any, clock: Clock) -> None:
        elsewhere = Site(backend=self.backend, clock=clock, autoload=True)
        elsewhere.browser = Browser(dict(site.browser.cookies))

        async def slow(session: Any) -> None:
            await elsewhere.visit(lambda other: other.update(b=2))
            sent()
            session["c"] = 3

        await site.visit(slow)
        assert sent() == {"evalsha": 2, "get": 2, "set": 1}
        assert await site.data() == {"a": 1, "b": 2, "c": 3}


async def test_loads_at_the_same_time_share_a_command(open_store: Open, sent: Any) -> None:
    store = open_store()
    for key in "abcdefgh":
        await store.create(key, key.encode(), expires_at=NOW + LIFE, now=NOW)
    sent()
    found = await asyncio.gather(*(store.get(key, now=NOW) for key in "abcdefghij"))
    assert [entry and entry.value for entry in found] == [*(key.encode() for key in "abcdefgh"), None, None]
    assert sent() == {"get": 1, "mget": 1}


async def test_a_server_that_has_forgotten_the_script_gets_it_again(open_store: Open, ask: Any, sent: Any) -> None:
    store = open_store()
    version = await store.create("key", b"1", expires_at=NOW + LIFE, now=NOW)
    await ask("SCRIPT", "FLUSH")
    sent()
    version = await store.replace("key", b"2", version, expires_at=NOW + LIFE, now=NOW)
    # That it does not know the script, it counts as a call, too.
    assert sent() == {"evalsha": 1, "eval": 1, "get": 1, "set": 1}
    await store.replace("key", b"3", version, expires_at=NOW + LIFE, now=NOW)
    assert sent() == NEW


# Whose client it is

Client = Redis | RedisCluster


class Watched(Redis):
    """An application's subclass that sees each command."""

    seen: list[str]

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.__dict__.setdefault("seen", []).append(args[0])
        return await super().execute_command(*args, **options)


CLIENTS: dict[str, Callable[[str], Client]] = {
    "as it comes": Redis.from_url,
    "decoding": lambda url: Redis.from_url(url, decode_responses=True),
    "decoding, RESP 3": lambda url: Redis.from_url(url, decode_responses=True, protocol=3),
    "RESP 3": lambda url: Redis.from_url(url, protocol=3),
    "RESP 2": lambda url: Redis.from_url(url, protocol=2),
    "one connection": lambda url: Redis.from_url(url, single_connection_client=True, decode_responses=True),
    "a pool": lambda url: Redis.from_pool(ConnectionPool.from_url(url, max_connections=2)),
    "a subclass": lambda url: Watched.from_url(url, decode_responses=True),
    "Latin 1": lambda url: Redis.from_url(url, decode_responses=True, encoding="latin-1"),
}


@rows("kind", CLIENTS)
async def test_clients_of_any_kind_work(kind: str, server: RedisServer, open_store: Open) -> None:
    async with CLIENTS[kind](server.url) as client:
        await check_store(open_store(client))
        if isinstance(client, Watched):
            assert {"GET", "EVALSHA"} <= set(client.seen)
        assert await client.ping()  # it is still open


async def check_store(store: Store) -> None:
    """A bit of everything, with values that are no text, alone and at once."""
    value = bytes(range(256))

    async def one(key: str) -> None:
        first = await store.create(key, value, expires_at=NOW + LIFE, now=NOW)
        found = Entry(value, NOW + LIFE, first)
        assert await store.get(key, now=NOW) == found
        assert await refused(store.create(key, b"", expires_at=NOW + LIFE, now=NOW)) == found
        second = await store.replace(key, b"", first, expires_at=NOW + LIFE, now=NOW)
        found = Entry(b"", NOW + LIFE, second)
        assert await refused(store.delete(key, first, now=NOW)) == found
        assert await store.get(key, now=NOW) == found
        assert await store.delete(key, second, now=NOW) is True
        assert await store.delete(key, now=NOW) is False
        assert await store.get(key, now=NOW) is None

    await one("alone")
    await asyncio.gather(*(one(f"{n}") for n in range(20)))


async def test_more_requests_than_connections_wait_for_each_other(open_store: Open, ask: Any) -> None:
    async def clients() -> int:
        return len((await ask("CLIENT", "LIST", "TYPE", "normal")).splitlines())

    others = await clients()
    store = open_store()
    await asyncio.gather(*(store.create(f"{n}", b"value", expires_at=NOW + LIFE, now=NOW) for n in range(300)))
    assert await clients() - others <= 50


# The connection that is kept


class Noting(ConnectionPool):
    """A pool that knows how many connections were taken, and how many of them are out."""

    taken = out = 0

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        connection = await super().get_connection(*args, **options)
        self.taken += 1
        self.out += 1
        return connection

    async def release(self, connection: Any) -> None:
        await super().release(connection)
        self.out -= 1


class TestTheConnectionThatIsKept:
    @pytest.fixture
    async def between(self, server: RedisServer, closing: AsyncExitStack) -> Proxy:
        return await closing.enter_async_context(proxy(server.port))

    @pytest.fixture
    async def client(self, between: Proxy, closing: AsyncExitStack) -> Redis:
        return await closing.enter_async_context(Redis.from_pool(Noting.from_url(between.url)))

    @pytest.fixture
    def pool(self, client: Redis) -> Noting:
        pool = client.connection_pool
        assert isinstance(pool, Noting)
        return pool

    @pytest.fixture
    def store(self, client: Redis, open_store: Open) -> RedisStore:
        return open_store(client)

    @pytest.fixture
    async def end_the_moment(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Awaitable[None]]:
        async def end() -> None:
            loop = asyncio.get_running_loop()
            now = loop.time
            monkeypatch.setattr(loop, "time", lambda: now() + 1)
            for _ in range(3):  # what is due is called, and the task that it starts ends
                await asyncio.sleep(0)

        return end

    async def test_serves_one_command_after_the_other(self, store: RedisStore, pool: Noting) -> None:
        version = await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW)
        assert await store.get("key", now=NOW) == Entry(b"value", NOW + LIFE, version)
        assert await store.delete("key", version, now=NOW) is True
        assert (pool.taken, pool.out) == (1, 1)

    async def test_is_one_even_after_many_were_used_at_once(self, store: RedisStore, pool: Noting) -> None:
        await asyncio.gather(*(store.create(f"{n}", b"value", expires_at=NOW + LIFE, now=NOW) for n in range(10)))
        assert (pool.taken, pool.out) == (10, 1)

    async def test_is_given_back_after_a_moment(self, store: RedisStore, pool: Noting, end_the_moment: Any) -> None:
        await store.get("key", now=NOW)
        await end_the_moment()
        assert (pool.taken, pool.out) == (1, 0)

    async def test_is_returned_by_its_user_if_the_moment_ends_meanwhile(
        self, store: RedisStore, pool: Noting, between: Proxy, end_the_moment: Any
    ) -> None:
        await store.get("key", now=NOW)
        between.flows.clear()
        request = asyncio.create_task(store.get("key", now=NOW))
        await asyncio.sleep(0)
        await end_the_moment()
        assert (pool.taken, pool.out) == (1, 1)
        between.flows.set()
        await request
        assert (pool.taken, pool.out) == (1, 0)

    async def test_is_never_one_that_has_failed(self, store: RedisStore, pool: Noting, ask: Any) -> None:
        await ask("LPUSH", store._prefix + b"list", "a")
        assert await store.get("list", now=NOW) is None
        assert (pool.taken, pool.out) == (1, 0)

    @rows(("most", "kept"), [(1, 0), (2, 0), (49, 0), (50, 1)])
    async def test_is_none_of_a_small_pool_which_others_may_need(
        self, server: RedisServer, open_store: Open, most: int, kept: int
    ) -> None:
        async with Redis.from_pool(Noting.from_url(server.url, max_connections=most)) as client:
            await open_store(client).get("key", now=NOW)
            assert client.connection_pool.out == kept

    async def test_is_not_kept_anew_in_the_instant_in_which_its_moment_ends(
        self, store: RedisStore, pool: Noting, between: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A loop whose clock is coarse calls what is due a little early: by its time, the moment is not over yet."""
        await store.get("key", now=NOW)
        between.flows.clear()
        request = asyncio.create_task(store.get("key", now=NOW))
        await asyncio.sleep(0)
        with monkeypatch.context() as later:
            loop = asyncio.get_running_loop()
            now = loop.time
            later.setattr(loop, "time", lambda: now() + 1)
            await asyncio.sleep(0)
        between.flows.set()
        await request
        assert (pool.taken, pool.out) == (1, 0)

    async def test_is_looked_after_by_the_pool_when_it_was_closed(
        self, store: RedisStore, pool: Noting, client: Redis
    ) -> None:
        await store.get("key", now=NOW)
        await client.aclose()
        await store.get("key", now=NOW)
        assert (pool.taken, pool.out) == (2, 1)


async def test_a_cluster(redis_cluster: Address, open_store: Open) -> None:
    for options in ({}, {"decode_responses": True}):
        async with RedisCluster.from_url(redis_cluster.url, **options) as client:
            await check_store(open_store(client))


async def test_the_primary_of_a_sentinel(redis_sentinel: SentinelAddress, open_store: Open) -> None:
    sentinel = Sentinel(redis_sentinel.sentinels)
    async with sentinel.master_for(redis_sentinel.service, decode_responses=True) as client:
        await check_store(open_store(client))
    for asked in sentinel.sentinels:
        await asked.aclose()


# What is refused


def reading_replicas(**options: Any) -> RedisCluster:
    return RedisCluster(host="localhost", port=1, **options)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a blocking client": (blocking.Redis, r"or a Redis or RedisCluster client from redis\.asyncio, not a redis"),
    "a pipeline": (lambda: Redis().pipeline(), r"not a redis\.asyncio\.client\.Pipeline"),
    "a pool": (ConnectionPool, r"not a redis\.asyncio\.connection\.ConnectionPool"),
    "nothing": (lambda: None, "not NoneType: is the variable that holds the URL set"),
    "replicas of a Sentinel": (lambda: Sentinel([("localhost", 1)]).slave_for("sessions"), "master_for"),
    "a Cluster that balances": (
        lambda: reading_replicas(load_balancing_strategy=LoadBalancingStrategy.ROUND_ROBIN),
        "must not read from replicas",
    ),
    "an URL of something else": (lambda: "postgresql://ann:hunter2@localhost/db", "pass redis://"),
    "a name": (lambda: "localhost", r"\(ValueError\): pass redis://"),
    "an unknown option": (lambda: "redis://ann:hunter2@localhost/0?colour=hunter2", r"\(TypeError\): pass redis://"),
    "a port that is none": (lambda: "redis://localhost:hunter2", r"\(ValueError\): pass redis://"),
}


@rows("what", REFUSED)
async def test_an_object_that_is_no_client_of_a_primary_is_rejected(what: str) -> None:
    make, says = REFUSED[what]
    with pytest.raises(ImproperlyConfigured, match=says) as refusal:
        RedisBackend(make())
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.filterwarnings("ignore:.*read_from_replicas:DeprecationWarning")
async def test_a_cluster_that_reads_from_replicas_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="must not read from replicas"):
        RedisBackend(reading_replicas(read_from_replicas=True))


@rows("timeout", [0, -1, math.nan])
def test_a_timeout_must_be_positive(timeout: float) -> None:
    with pytest.raises(ImproperlyConfigured, match="timeout must be more than 0 seconds"):
        RedisBackend("redis://localhost", timeout=timeout)


def test_without_redis_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImproperlyConfigured, match=r"install the extra starsessions\[redis\]"):
        RedisBackend("redis://localhost")


# What is waited for, and how a failure is called


async def test_an_error_of_the_store_names_it_but_no_session_data() -> None:
    async def fails() -> None:
        raise OSError("reset by 10.0.0.1 while sending SECRET")

    with pytest.raises(BackendUnavailable, match=r"^The store failed: OSError\.$"):
        await within(1, fails(), (OSError,))


async def test_unexpected_errors_pass_through() -> None:
    async def fails() -> None:
        raise LookupError("a mistake of the store's author")

    with pytest.raises(LookupError):
        await within(1, fails(), (OSError,))


async def test_a_store_that_does_not_answer_times_out() -> None:
    with pytest.raises(BackendUnavailable, match=r"^The store did not answer within 0\.001 seconds\.$"):
        await within(0.001, asyncio.sleep(60), (OSError,))


# Who closes it


class TestByUrl:
    @pytest.fixture
    def backend(self, server: RedisServer) -> RedisBackend:
        return RedisBackend(server.url, secrets.token_hex(4), timeout=30)

    @pytest.fixture
    def connections(self, server: RedisServer) -> Callable[[], int]:
        return lambda: len(server.ask("CLIENT", "LIST", "TYPE", "normal"))

    async def test_the_lifespan_closes_what_was_opened(
        self, backend: RedisBackend, server: RedisServer, connections: Any
    ) -> None:
        before = connections()
        async with backend.lifespan():
            await asyncio.gather(*(backend.write({"a": 1}) for _ in range(5)))
            assert connections() > before
        server.wait_until(lambda: connections() == before, "still has our connections")

    async def test_it_works_again_after_a_lifespan(self, backend: RedisBackend) -> None:
        async with backend.lifespan():
            session_id = await backend.write({"a": 1})
        async with backend.lifespan():
            assert await backend.read(session_id) == {"a": 1}

    async def test_an_application_that_never_used_it_closes_nothing(self, backend: RedisBackend) -> None:
        async with backend.lifespan():
            pass


async def test_a_client_that_was_given_stays_open(server: RedisServer, closing: AsyncExitStack) -> None:
    client = await closing.enter_async_context(Redis.from_url(server.url))
    connection = await client.connection_pool.get_connection()
    backend = RedisBackend(client, secrets.token_hex(4), timeout=30)
    async with backend.lifespan():
        await backend.write({"a": 1})
    assert connection.is_connected


async def test_a_server_that_refuses_all_connections_is_unavailable(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    backend = RedisBackend(f"redis://ann:hunter2@127.0.0.1:{server.port}", timeout=30)
    await closing.enter_async_context(backend.lifespan())
    with pytest.raises(BackendUnavailable) as error:
        await backend.read("an-id")
    assert "hunter2" not in str(error.value)
