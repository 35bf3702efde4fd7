"""The entries of an owner in Redis: on one server, in a Cluster, and in a Cluster behind an ordinary client."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster

from starsessions.stores.base import Conflict, Cursor, Entry, Indexing, Owner
from starsessions.stores.redis.store import RedisStore
from tests.servers import redis as servers
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
LIFE = 1000
ANN = "ann"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the one that redis-py knows


@pytest.fixture(scope="module")
def slots() -> Iterator[RedisServer]:
    """A Cluster of one node, which serves all keys, but not keys of several slots at once."""
    with servers.standalone(config={"cluster-enabled": "yes"}) as server:
        server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        server.wait_until(server.serves_cluster, "did not serve its slots")
        yield server


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


SETUPS = ["one server", "Cluster", "Cluster behind an ordinary client", "fakeredis"]


@pytest.fixture
async def client(request: pytest.FixtureRequest, closing: AsyncExitStack) -> Any:
    match request.param:
        case "one server":
            client: Any = Redis.from_url(request.getfixturevalue("redis_server").url)
        case "Cluster":
            client = RedisCluster.from_url(request.getfixturevalue("redis_cluster").url)
        case "Cluster behind an ordinary client":
            client = Redis.from_url(request.getfixturevalue("slots").url)
        case _:
            client = pytest.importorskip("fakeredis").FakeAsyncRedis()
    await closing.enter_async_context(client)
    return client


@pytest.fixture
async def store(client: Any) -> AsyncIterator[RedisStore]:
    prefix = f"{secrets.token_hex(8)}:"
    yield RedisStore(client, prefix, timeout=30)
    async for name in client.scan_iter(match=f"{prefix}*"):
        await client.delete(name)


everywhere = pytest.mark.parametrize("client", SETUPS, indirect=True)


async def create(store: RedisStore, key: str, since: int = NOW, owner: str = ANN, life: int = LIFE) -> Any:
    return await store.create(key, key.encode(), expires_at=NOW + life, now=NOW, owner=Owner(owner, since))


async def listed(store: RedisStore, owner: str = ANN, now: int = NOW, limit: int = 100) -> list[str]:
    page = await store.list_owned(owner, limit=limit, now=now)
    assert page.after is None
    return [key for key, _ in page.entries]


async def members(store: RedisStore, owner: str = ANN) -> list[bytes]:
    client: Any = store.clients.get().client
    found: list[bytes] = await client.zrange(store._prefix + b"{" + owner.encode() + b"}", 0, -1)
    return found


@everywhere
async def test_entries_are_listed_the_newest_first(store: RedisStore) -> None:
    versions = {key: await create(store, key, since) for key, since in [("a", 5), ("b", 7), ("c", 6), ("ca", 6)]}
    await create(store, "d", owner="bob")
    await store.create("e", b"", expires_at=NOW + LIFE, now=NOW)
    page = await store.list_owned(ANN, limit=10, now=NOW)
    assert page.entries == [(key, Entry(key.encode(), NOW + LIFE, versions[key])) for key in ("b", "ca", "c", "a")]
    assert page.after is None
    assert await store.count_owned(ANN, now=NOW) == 4
    assert await listed(store, "nobody") == []
    assert await store.count_owned("nobody", now=NOW) == 0


@everywhere
async def test_pages_follow_each_other(store: RedisStore) -> None:
    keys = [f"key-{n:02}" for n in range(10)]
    await asyncio.gather(*(create(store, key, since=n // 4) for n, key in enumerate(keys)))
    found: list[str] = []
    after: Cursor | None = None
    sizes = []
    while True:
        page = await store.list_owned(ANN, limit=4, now=NOW, after=after)
        found += [key for key, _ in page.entries]
        sizes.append(len(page.entries))
        after = page.after
        if after is None:
            break
    assert found == keys[::-1]
    assert sizes == [4, 4, 2]
    page = await store.list_owned(ANN, limit=4, now=NOW, after=Cursor(1, "key-06x"))
    assert [key for key, _ in page.entries] == ["key-06", "key-05", "key-04", "key-03"]


@everywhere
async def test_an_entry_keeps_its_place_when_it_is_replaced(store: RedisStore) -> None:
    version = await create(store, "a", 5)
    await create(store, "b", 6)
    await store.replace("a", b"2", version, expires_at=NOW + 2 * LIFE, now=NOW, owner=Owner(ANN, 5))
    assert await listed(store) == ["b", "a"]
    assert len(await members(store)) == 2


@everywhere
async def test_an_entry_leaves_the_listing_of_its_former_owner(store: RedisStore) -> None:
    version = await create(store, "a", 5)
    version = await store.replace("a", b"2", version, expires_at=NOW + LIFE, now=NOW, owner=Owner("bob", 5))
    assert (await listed(store), await listed(store, "bob")) == ([], ["a"])
    version = await store.replace("a", b"3", version, expires_at=NOW + LIFE, now=NOW, owner=Owner("bob", 6))
    assert await listed(store, "bob") == ["a"]
    assert await store.count_owned("bob", now=NOW) == 1
    await store.replace("a", b"4", version, expires_at=NOW + LIFE, now=NOW)
    assert await listed(store, "bob") == []
    assert (await store.count_owned(ANN, now=NOW), await store.count_owned("bob", now=NOW)) == (0, 0)


@everywhere
@pytest.mark.parametrize("whatever", [True, False])
async def test_a_deleted_entry_leaves_the_listing(store: RedisStore, whatever: bool) -> None:
    version = await create(store, "a")
    await create(store, "b")
    assert await store.delete("a", None if whatever else version, now=NOW) is True
    assert await listed(store) == ["b"]
    assert len(await members(store)) == 1
    assert await store.delete("b", now=0) is True
    assert await members(store) == []


@everywhere
async def test_what_is_written_with_an_expiry_that_has_passed_is_not_listed(store: RedisStore) -> None:
    await create(store, "a", life=0)
    version = await create(store, "b")
    await store.replace("b", b"2", version, expires_at=NOW, now=NOW, owner=Owner(ANN, NOW))
    assert await members(store) == []


@everywhere
async def test_a_conflict_changes_no_listing(store: RedisStore) -> None:
    first = await create(store, "a", owner="bob")
    version = await store.replace("a", b"2", first, expires_at=NOW + LIFE, now=NOW, owner=Owner("bob", NOW))
    for work in (
        create(store, "a"),
        store.replace("a", b"3", first, expires_at=NOW + LIFE, now=NOW, owner=Owner(ANN, NOW)),
        store.replace("a", b"3", first, expires_at=NOW + LIFE, now=NOW, owner=Owner("bob", NOW)),
        store.replace("a", b"3", first, expires_at=NOW + LIFE, now=NOW),
        store.delete("a", first, now=NOW),
    ):
        with pytest.raises(Conflict) as conflict:
            await work
        assert conflict.value.current == Entry(b"2", NOW + LIFE, version)
    assert (await members(store), await listed(store, "bob")) == ([], ["a"])


@everywhere
async def test_parallel_changes_of_one_owner_lose_none(store: RedisStore) -> None:
    async def one(n: int) -> None:
        version = await create(store, f"{n}", since=n)
        if n % 2:
            await store.delete(f"{n}", version, now=NOW)

    await asyncio.gather(*(one(n) for n in range(200)))
    assert await listed(store, limit=200) == [f"{n}" for n in reversed(range(0, 200, 2))]
    assert await store.count_owned(ANN, now=NOW) == 100


@everywhere
async def test_expired_entries_are_not_listed(store: RedisStore) -> None:
    await create(store, "a", life=10)
    await create(store, "b")
    assert await listed(store, now=NOW + 10) == ["b"]
    assert await listed(store, now=NOW) == ["b", "a"]  # another worker's clock


@everywhere
async def test_the_clock_is_that_of_the_server(store: RedisStore) -> None:
    import time

    assert abs(await store.time() - time.time()) < 60


def test_the_store_has_the_powers() -> None:
    assert isinstance(RedisStore("redis://localhost", "", timeout=1), Indexing)
