"""A write is confirmed when replicas have it, if the application says so: then a failover takes back no end.

Replicas are paused, or refused, so that what they lack is no matter of chance.
"""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest
from redis.asyncio import Redis, RedisCluster, Sentinel
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from starsessions import SessionMiddleware
from starsessions.backends.redis import RedisBackend
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.stores.base import Conflict, Owner
from starsessions.stores.redis.store import RedisStore
from starsessions.users import UserSessions, sign_in, sign_out
from tests.backends.proxy import proxy
from tests.rows import rows
from tests.servers import redis as servers
from tests.servers.redis import RedisServer
from tests.site import Clock
from tests.wide.programs import unpacked

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
LIFE = 1000
ANN = Owner("ann", NOW)
NOT_CONFIRMED = "The write was carried out, but only 0 of 1 replicas have confirmed it in time. A failover may lose "
NOT_CONFIRMED += "it: try again, and check the replicas."

Pair = tuple[RedisServer, RedisServer]
Attempt = Callable[[], Awaitable[Any]]


@pytest.fixture(scope="module", params=["redis", pytest.param("valkey", marks=pytest.mark.wide)])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    program = unpacked("usr/bin/valkey-server") if request.param == "valkey" else []
    with servers.pair(program=program) as both:
        yield both


class Seeing(Redis):
    """A client that sees its commands, such as one that traces them: it is not bypassed."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        return await super().execute_command(*args, **options)


Open = Callable[..., RedisStore]


@pytest.fixture(params=[Redis, Seeing])
async def open_store(request: pytest.FixtureRequest, pair: Pair) -> AsyncIterator[Open]:
    """Each store has connections of its own."""
    async with AsyncExitStack() as stack:

        def open_one(timeout: float = 30, **settings: Any) -> RedisStore:
            client = request.param.from_url(pair[0].url)
            stack.push_async_callback(client.aclose)
            return RedisStore(client, "replicas:", timeout=timeout, **{"wait_for_replicas": 1, **settings})

        pair[0].ask("FLUSHDB")
        yield open_one


async def not_confirmed(*attempts: Awaitable[Any]) -> None:
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    assert list(map(str, outcomes)) == [NOT_CONFIRMED] * len(attempts)
    assert {type(one) for one in outcomes} == {BackendUnavailable}


async def signed_in(store: RedisStore, key: str) -> bytes:
    return await store.create(key, b"", expires_at=NOW + LIFE, now=NOW, owner=ANN)


async def test_what_a_replica_has_is_confirmed(open_store: Open) -> None:
    store = open_store()
    version = await signed_in(store, "key")
    version = await store.replace("key", b"1", version, expires_at=NOW + LIFE, now=NOW, owner=ANN)
    assert await store.delete("key", version, now=NOW) is True
    assert await store.delete("key", now=NOW) is False
    with pytest.raises(Conflict):
        await store.delete("key", version, now=NOW)
    assert await store.get("key", now=0) is None
    assert (await store.list_owned("ann", limit=10, now=0)).entries == []


@pytest.mark.guarantee(20)
async def test_what_a_replica_lacks_is_not_confirmed_however_often_it_is_tried(open_store: Open, pair: Pair) -> None:
    """The second attempt finds that all is done. Only what it writes itself can tell whether a replica has that."""
    before, store = open_store(), open_store(timeout=6)
    old, changed = await signed_in(before, "old"), await signed_in(before, "changed")
    await before.get("old", now=0)

    def attempts(store: RedisStore) -> list[Awaitable[Any]]:
        return [
            store.delete("old", old, now=0),
            store.replace("changed", b"", changed, expires_at=NOW + LIFE, now=NOW),
            signed_in(store, "new"),
        ]

    with pair[1].paused():
        await not_confirmed(*attempts(store))
        again = open_store(timeout=6)
        endings = again.delete("old", now=0), again.get("old", now=0), again.list_owned("ann", limit=10, now=0)
        await not_confirmed(*attempts(again), *endings)
        assert await before.get("old", now=NOW) is None  # reading confirms nothing, and waits for nothing
        assert {key for key, _ in (await before.list_owned("ann", limit=10, now=NOW)).entries} == {"new"}
    assert await before.delete("old", now=0) is False


class WaitsElsewhere(Seeing):
    """Sends WAIT by another connection than the write, as a pool may do."""

    other: Redis

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        return _Scattered(self)


class _Scattered:
    def __init__(self, client: WaitsElsewhere) -> None:
        self._client = client
        self._commands: list[tuple[Any, ...]] = []

    def execute_command(self, *command: Any, **options: Any) -> None:
        self._commands.append(command)

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        *before, wait = self._commands
        replies = [await self._client.execute_command(*one) for one in before]
        return [*replies, await self._client.other.execute_command(*wait)]


async def test_only_the_connection_of_a_write_can_tell_whether_a_replica_has_it(pair: Pair) -> None:
    """Another one finds nothing to wait for, and counts the replica that has nothing."""
    async with WaitsElsewhere.from_url(pair[0].url) as client, Redis.from_url(pair[0].url) as client.other:
        await client.other.set("key", "")  # a pool has used it before
        assert await client.other.wait(1, 0) == 1
        wrong = RedisStore(client, "replicas:", timeout=30, wait_for_replicas=1)
        right = RedisStore(client.other, "replicas:", timeout=6, wait_for_replicas=1)
        await signed_in(RedisStore(client, "replicas:", timeout=30), "key")
        with pair[1].paused():
            assert await wrong.delete("key", now=NOW) is True
            await not_confirmed(right.delete("key", now=NOW))


@rows("replicas", [-1, 1.0, True, "1", None])
async def test_the_number_of_replicas_is_an_integer(replicas: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="wait_for_replicas is a number of replicas"):
        RedisStore("redis://localhost", "", timeout=1, wait_for_replicas=replicas)


async def test_a_script_that_the_server_has_forgotten_is_sent_again(open_store: Open, pair: Pair) -> None:
    store = open_store()
    pair[0].ask("SCRIPT", "FLUSH")
    version = await signed_in(store, "key")
    assert await store.delete("key", version, now=NOW) is True


async def test_a_primary_that_has_lost_its_replicas_can_refuse_writes() -> None:
    """`min-replicas-to-write`: nothing is written then, and nothing is confirmed. Reading goes on."""
    with servers.pair(config={"min-replicas-to-write": "1"}) as (primary, _):
        async with Redis.from_url(primary.url) as client:
            store = RedisStore(client, "replicas:", timeout=30)
            version = await signed_in(store, "key")
            primary.refuse_replicas()
            for write in (store.delete("key", now=NOW), store.delete("key", version, now=NOW), signed_in(store, "new")):
                with pytest.raises(BackendUnavailable, match=r"^The store failed: \w+Error\.$"):
                    await write
            assert await store.get("key", now=NOW) is not None
            assert await store.get("new", now=NOW) is None


async def test_a_user_with_the_permissions_in_the_guide_may_wait(pair: Pair) -> None:
    guide = Path(__file__).parents[2].joinpath("docs/guides/production/redis.md").read_text()
    [permitted] = re.findall(r"^ACL SETUSER .* (~starsessions:.*)$", guide, re.MULTILINE)
    assert "`wait_for_replicas` needs `+wait`" in guide
    pair[0].ask("ACL", "SETUSER", "ours", "on", "nopass", *permitted.split(), "+wait")
    async with Redis(port=pair[0].port, username="ours", password="") as client:
        store = RedisStore(client, "starsessions:", timeout=30, wait_for_replicas=1)
        version = await signed_in(store, "key")
        assert await store.delete("key", version, now=NOW) is True
        assert await store.delete("key", now=NOW) is False


@pytest.mark.once
@pytest.mark.guarantee(20)
async def test_a_sign_out_is_answered_when_it_is_durable_and_so_is_the_second_attempt(pair: Pair, clock: Clock) -> None:
    """The second one finds no session. That it has ended is confirmed no earlier for that."""
    prefix = f"{secrets.token_hex(8)}:"
    hasty, patient = (
        RedisBackend(pair[0].url, prefix, timeout=timeout, wait_for_replicas=1, clock=clock) for timeout in (6, 30)
    )
    sessions, listed = (UserSessions(backend, session_cookie="session") for backend in (hasty, patient))

    async def come_in(request: Request) -> Response:
        await sign_in(request, "ann")
        return Response()

    async def leave(request: Request) -> Response:
        await sign_out(request)
        return Response()

    def client_of(backend: RedisBackend) -> httpx2.AsyncClient:
        routes = [Route("/in", come_in), Route("/out", leave)]
        app = Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, backend=backend, autoload=True)])
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url="https://test")

    async with hasty.lifespan(), patient.lifespan(), client_of(hasty) as client, client_of(patient) as waits:
        await waits.get("/in")
        client.cookies = waits.cookies
        [session] = await listed.list("ann")
        with pair[1].paused():
            assert [(await client.get("/out")).status_code for _ in range(2)] == [503, 503]
            assert await listed.list("ann") == []
            for end in (sessions.revoke("ann", session.handle), sessions.revoke_all("ann")):
                await not_confirmed(end)
        assert (await waits.get("/out")).status_code == 200


# Failovers


class Service(NamedTuple):
    """Several servers, of which one takes over when the primary is killed."""

    new_client: Callable[[], Redis | RedisCluster]
    primary: RedisServer
    keys: list[str]
    """Keys of which the primary has the entries."""

    wait_for_failover: Callable[[], object]


def with_sentinels(stack: ExitStack) -> Service:
    group = stack.enter_context(servers.sentinel(replicas=1))
    primary, keys = group.primary(), [f"key-{n}" for n in range(30)]

    def new_client() -> Redis:
        sentinel = Sentinel(group.address.sentinels)
        return sentinel.master_for(group.address.service)

    return Service(new_client, primary, keys, lambda: group.wait_for_failover(primary))


def in_cluster(stack: ExitStack) -> Service:
    group = stack.enter_context(servers.cluster())
    url, primary = group.url, group.primary_of("replicas:key-0")
    of_primary = (f"key-{n}" for n in count() if group.primary_of(f"replicas:key-{n}") is primary)
    keys = [*islice(of_primary, 30)]
    return Service(
        lambda: RedisCluster.from_url(url),
        primary,
        keys,
        lambda: group.wait_for_takeover("replicas:key-0", primary),
    )


@pytest.fixture(params=[with_sentinels, in_cluster])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with ExitStack() as stack:
        yield request.param(stack)


@pytest.fixture
async def stores(service: Service) -> AsyncIterator[tuple[RedisStore, ...]]:
    """One that waits for no replica, one that waits, and one that does not wait for long, for what must fail."""
    made = [
        RedisStore(service.new_client, "replicas:", timeout=timeout, wait_for_replicas=replicas)
        for timeout, replicas in ((30, 0), (30, 1), (12, 1))
    ]
    yield tuple(made)
    for store in made:
        await store.aclose()


async def alive(store: RedisStore, keys: Iterable[str]) -> set[str]:
    return {key for key in keys if await store.get(key, now=NOW) is not None}


async def failed_over(service: Service, store: RedisStore) -> None:
    await asyncio.to_thread(service.primary.kill)
    await asyncio.to_thread(service.wait_for_failover)
    async with asyncio.timeout(60):
        while True:
            with suppress(BackendUnavailable):
                await store.get(service.keys[0], now=NOW)
                return


@pytest.mark.guarantee(20)
@pytest.mark.once
async def test_a_failover_takes_back_nothing_that_was_confirmed_with_a_replica(
    service: Service, stores: tuple[RedisStore, ...]
) -> None:
    """Each end that no replica has comes back; with the option, none of these was confirmed."""
    careless, careful, hasty = stores
    plain, waited, ended = service.keys[:10], service.keys[10:20], service.keys[20:]
    await asyncio.gather(*(signed_in(careful, key) for key in service.keys))
    await asyncio.gather(*(careful.delete(key, now=NOW) for key in ended))
    await asyncio.to_thread(service.primary.refuse_replicas)
    await asyncio.gather(*(careless.delete(key, now=NOW) for key in plain))
    await not_confirmed(*(hasty.delete(key, now=NOW) for key in waited))
    assert await alive(careless, service.keys) == set()
    await failed_over(service, careless)
    assert await alive(careless, service.keys) == {*plain, *waited}  # the control: those in `plain` were confirmed


# In a Cluster, an entry and its place are on different servers


@pytest.fixture(scope="module")
def cluster() -> Iterator[servers.RedisCluster]:
    with servers.cluster() as group:
        yield group


class InParts(NamedTuple):
    store: RedisStore
    hasty: RedisStore
    """The same, for what must fail."""
    prefix: str


@pytest.fixture
async def in_parts(cluster: servers.RedisCluster) -> AsyncIterator[InParts]:
    async with RedisCluster.from_url(cluster.url) as client:
        prefix = f"{secrets.token_hex(8)}:"
        patient, hasty = (RedisStore(client, prefix, timeout=timeout, wait_for_replicas=1) for timeout in (30, 6))
        yield InParts(patient, hasty, prefix)


def replica_of(cluster: servers.RedisCluster, primary: RedisServer) -> RedisServer:
    return cluster.nodes[cluster.nodes.index(primary) + 3]


async def test_a_second_attempt_to_end_what_is_listed_is_confirmed_by_the_server_of_the_entry(
    cluster: servers.RedisCluster, in_parts: InParts
) -> None:
    """The listing cannot tell: it is on another server, whose replica works."""
    store, hasty, prefix = in_parts
    of_listing = cluster.primary_of(f"{prefix}{{ann}}")
    key = next(f"key-{n}" for n in range(100) if cluster.primary_of(f"{prefix}key-{n}") is not of_listing)
    version = await signed_in(store, key)
    with replica_of(cluster, cluster.primary_of(f"{prefix}{key}")).paused():
        await not_confirmed(hasty.delete(key, version, now=0))
        await not_confirmed(hasty.list_owned("ann", limit=10, now=0))
        assert (await store.list_owned("ann", limit=10, now=NOW)).entries == []
    assert (await store.list_owned("ann", limit=10, now=0)).entries == []


async def test_writes_follow_a_slot_that_moves(cluster: servers.RedisCluster, in_parts: InParts) -> None:
    store, _, prefix = in_parts
    for n in range(6):
        version = await signed_in(store, "key")
        for key in ("key", "{ann}"):
            await asyncio.to_thread(cluster.move, f"{prefix}{key}", cluster.nodes[n % 3])
        assert await store.delete("key", version, now=NOW) is True
    assert await store.get("key", now=0) is None


async def test_writes_follow_a_key_whose_slot_is_about_to_move(
    cluster: servers.RedisCluster, in_parts: InParts
) -> None:
    store, hasty, prefix = in_parts
    of = cluster.primary_of(f"{prefix}key")
    to = next(node for node in cluster.nodes[:3] if node is not of)
    slot = of.ask("CLUSTER", "KEYSLOT", f"{prefix}key")
    to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", of.ask("CLUSTER", "MYID"))
    of.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.ask("CLUSTER", "MYID"))
    with replica_of(cluster, to).paused():
        await not_confirmed(signed_in(hasty, "key"))  # `to` has it
    assert await store.delete("key", now=NOW) is True
    await asyncio.to_thread(cluster.move, f"{prefix}key", to)


async def test_a_node_that_always_refuses_is_asked_a_limited_number_of_times(cluster: servers.RedisCluster) -> None:
    class Misled(RedisCluster):
        def get_node_from_key(self, key: str, replica: bool = False) -> Any:
            right = super().get_node_from_key(key, replica)
            return next(node for node in self.get_primaries() if node.port != right.port)

    async with Misled.from_url(cluster.url) as client:
        store = RedisStore(client, "replicas:", timeout=30, wait_for_replicas=1)
        with pytest.raises(BackendUnavailable, match=r"^The store failed: MovedError\.$"):
            await store.delete("key", now=NOW)


async def test_a_write_whose_reply_was_lost_is_sent_again(pair: Pair) -> None:
    async with proxy(pair[0].port) as between, Redis.from_url(between.url) as client:
        store = RedisStore(client, "replicas:", timeout=30, wait_for_replicas=1)
        version = await signed_in(store, "key")
        between.lose_replies = 1
        assert await store.delete("key", version, now=NOW) is True
        assert between.lose_replies == 0
