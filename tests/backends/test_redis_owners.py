"""The entries of an owner in Redis: on one server, in a Cluster, and in a Cluster behind an ordinary client."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.crc import key_slot

from starsessions.stores.base import Conflict, Cursor, Indexing, Owner, Timed
from starsessions.stores.redis.store import RedisStore

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
LIFE = 1000
ANN = "ann"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the one that redis-py knows


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
            client = Redis.from_url(request.getfixturevalue("redis_with_slots").url)
        case _:
            client = pytest.importorskip("fakeredis").FakeAsyncRedis()
    await closing.enter_async_context(client)
    return client


@pytest.fixture
async def store(client: Any) -> AsyncIterator[RedisStore]:
    prefix = f"{secrets.token_hex(8)}:"
    store = RedisStore(client, prefix, timeout=30)
    await store.list_owned(ANN, limit=1, now=NOW)  # it learns what kind of server this is
    yield store
    async for name in client.scan_iter(match=f"{prefix}*"):
        await client.delete(name)


everywhere = pytest.mark.parametrize("client", SETUPS, indirect=True)
on_one_server = pytest.mark.parametrize("client", ["one server"], indirect=True)


async def create(store: RedisStore, key: str, since: int = NOW, owner: str = ANN, life: int = LIFE) -> Any:
    return await store.create(key, key.encode(), expires_at=NOW + life, now=NOW, owner=Owner(owner, since))


async def replace(store: RedisStore, key: str, version: Any, life: int = LIFE, owner: Owner | None = None) -> Any:
    return await store.replace(key, b"2", version, expires_at=NOW + life, now=NOW, owner=owner)


async def listed(store: RedisStore, owner: str = ANN, now: int = NOW) -> list[str]:
    page = await store.list_owned(owner, limit=1000, now=now)
    return [key for key, _ in page.entries]


def listing(store: RedisStore, owner: str = ANN) -> str:
    return f"{store._prefix.decode()}{{{owner}}}"


async def members(store: RedisStore, client: Any, owner: str = ANN) -> list[bytes]:
    return list(await client.zrange(listing(store, owner), 0, -1))


# What is stored


@on_one_server
async def test_a_listing_is_a_sorted_set_of_places(store: RedisStore, client: Any) -> None:
    version = await create(store, "key", since=NOW)
    assert version[8:] == (NOW + LIFE).to_bytes(8, "big") + b"\3" + NOW.to_bytes(8, "big") + b"ann"
    assert await client.get(store._prefix + b"key") == b"\2" + version + b"key"
    [(member, score)] = await client.zrange(listing(store), 0, -1, withscores=True)
    assert (member[:-8], score) == (NOW.to_bytes(8, "big") + b"key\0", 0)
    assert member[-4:] == bytes(4)
    ends = (await client.time())[0] + LIFE
    assert ends <= 60 * int.from_bytes(member[-8:-4], "big") <= ends + 120


@everywhere
async def test_a_place_is_left_behind_by_nothing(store: RedisStore, client: Any) -> None:
    """Not even one that `list_owned` would ignore."""
    ends: list[Callable[[str, Any], Awaitable[Any]]] = [
        lambda key, version: store.delete(key, version, now=NOW),
        lambda key, version: store.delete(key, now=NOW),
        lambda key, version: store.delete(key, now=0),
        lambda key, version: replace(store, key, version),
        lambda key, version: replace(store, key, version, owner=Owner("bob", NOW)),
        lambda key, version: replace(store, key, version, 0, Owner(ANN, NOW)),
    ]
    for n, end in enumerate(ends):
        first = await create(store, f"{n}")
        version = await replace(store, f"{n}", first, 2 * LIFE, Owner(ANN, NOW))
        for refused in (
            create(store, f"{n}", owner="carol"),
            create(store, f"{n}", since=7),
            replace(store, f"{n}", first, owner=Owner("carol", NOW)),
            replace(store, f"{n}", first, 0, Owner(ANN, NOW)),
            store.delete(f"{n}", first, now=NOW),
        ):
            with pytest.raises(Conflict):
                await refused
        assert len(await members(store, client)) == 1
        await end(f"{n}", version)
        assert await members(store, client) == []
    await create(store, "expired", life=0)
    assert await members(store, client) == []
    assert await members(store, client, "carol") == []
    assert await listed(store, "bob") == ["4"]


@everywhere
async def test_a_move_leaves_no_place_behind(store: RedisStore, client: Any) -> None:
    version = await create(store, "key", since=5)
    for since in (6, 4):
        version = await replace(store, "key", version, owner=Owner(ANN, since))
        assert len(await members(store, client)) == 1


@everywhere
async def test_parallel_changes_of_one_owner_lose_none(store: RedisStore, client: Any) -> None:
    async def one(n: int) -> None:
        version = await create(store, f"{n}", since=n)
        if n % 2:
            await store.delete(f"{n}", version, now=NOW)

    await asyncio.gather(*(one(n) for n in range(200)))
    assert await listed(store) == [f"{n}" for n in reversed(range(0, 200, 2))]
    assert await store.count_owned(ANN, most=1000, now=NOW) == 100


@pytest.mark.parametrize("client", ["Cluster behind an ordinary client"], indirect=True)
async def test_a_place_that_was_written_with_its_entry_by_chance_is_counted_and_not_listed(client: Any) -> None:
    """Before it knows that this is a Cluster, a store may write to a listing and an entry in the same slot at once. It
    cannot tell later that no other write has renewed such a place, so it is left.
    """
    prefix = f"{secrets.token_hex(8)}:"
    store = RedisStore(client, prefix, timeout=30)
    slot = key_slot(f"{prefix}{{{ANN}}}".encode())
    key = next(f"{n}" for n in count() if key_slot(f"{prefix}{n}".encode()) == slot)
    version = await create(store, key)
    assert await listed(store) == [key]
    await store.delete(key, version, now=NOW)
    assert (await listed(store), await store.count_owned(ANN, most=1, now=NOW)) == ([], 1)
    await client.delete(listing(store))


@everywhere
async def test_any_position_is_kept_within_what_a_place_can_hold(store: RedisStore) -> None:
    for n, since in enumerate([-1, 0, 2**64 - 1, 2**70]):
        await create(store, f"{n}", since)
    assert await listed(store) == ["3", "2", "1", "0"]
    page = await store.list_owned(ANN, limit=2, now=NOW, after=Cursor(2**80, "3"))
    assert [key for key, _ in page.entries] == ["2", "1"]


@everywhere
async def test_versions_of_another_store_are_refused(store: RedisStore) -> None:
    await create(store, "key")
    for version in (b"x", b"12345678", b"x" * 17, b"x" * 200):
        with pytest.raises(Conflict):
            await replace(store, "key", version, owner=Owner(ANN, NOW))
        with pytest.raises(Conflict):
            await store.delete("key", version, now=NOW)
    assert await listed(store) == ["key"]


@everywhere
async def test_a_page_that_ends_with_the_last_place_is_the_last(store: RedisStore) -> None:
    for key in "abcd":
        await create(store, key)
    page = await store.list_owned(ANN, limit=2, now=NOW)
    assert page.after == Cursor(NOW, "c")
    page = await store.list_owned(ANN, limit=2, now=NOW, after=page.after)
    assert (page.after, [key for key, _ in page.entries]) == (None, ["b", "a"])


@everywhere
async def test_the_clock_is_that_of_the_server(store: RedisStore) -> None:
    assert abs(await store.time() - time.time()) < 60


# How long


@everywhere
async def test_a_listing_lives_longer_than_each_of_its_entries(store: RedisStore, client: Any) -> None:
    for n, life in enumerate([10, LIFE, 100 * LIFE, 60, 10**13]):
        await create(store, f"{n}", life=life)
        longest = max([await client.pttl(store._prefix + f"{m}".encode()) for m in range(n + 1)])
        assert await client.pttl(listing(store)) > longest + 1_800_000
    assert await listed(store) == ["4", "3", "2", "1", "0"]


@everywhere
async def test_a_listing_is_not_prolonged_by_each_write(store: RedisStore, client: Any) -> None:
    version = await create(store, "key")
    await client.pexpire(listing(store), LIFE * 1000 + 3_700_000)
    await replace(store, "key", version, owner=Owner(ANN, NOW))
    assert await client.pttl(listing(store)) <= LIFE * 1000 + 3_700_000


def place(n: int, expired_at: float) -> bytes:
    ends = int(expired_at / 60).to_bytes(4, "big")
    return n.to_bytes(8, "big") + f"old-{n}".encode() + b"\0" + ends + bytes(4)


@everywhere
@pytest.mark.parametrize("many", [6, 300])
async def test_new_places_push_out_those_that_expired_an_hour_ago(store: RedisStore, client: Any, many: int) -> None:
    now = await store.time()
    old = {place(n, now - 3720) for n in range(many)}
    kept = {place(many + n, now - 3480) for n in range(2)}
    await client.zadd(listing(store), dict.fromkeys(old | kept, 0))
    left, turns = many, 0
    while left:
        version = await create(store, "key")
        found = set(await members(store, client))
        assert left - 8 <= len(found & old) <= left
        left, turns = len(found & old), turns + 1
        assert found >= kept
        assert len(found - kept - old) == 1
        await store.delete("key", version, now=NOW)
        assert turns < 1000


# Entries and listings that Redis evicts


@on_one_server
async def test_reading_a_listing_removes_what_has_no_entry(store: RedisStore, client: Any) -> None:
    for key in ("a", "b", "c", "d", "e"):
        await create(store, key)
    await client.delete(store._prefix + b"b")
    await client.set(store._prefix + b"c", "of another program")
    await client.delete(store._prefix + b"d")
    await client.lpush(store._prefix + b"d", "a list")
    assert await listed(store) == ["e", "a"]
    assert await store.count_owned(ANN, most=1000, now=NOW) == 2


@everywhere
@pytest.mark.parametrize("life", [LIFE // 2, LIFE, 2 * LIFE])
async def test_each_write_puts_an_evicted_place_back(store: RedisStore, client: Any, life: int) -> None:
    versions = {key: await create(store, key) for key in ("a", "b")}
    await client.delete(listing(store))
    assert await listed(store) == []
    for key, version in versions.items():
        await replace(store, key, version, life, Owner(ANN, NOW))
    assert await listed(store) == ["b", "a"]


@everywhere
async def test_what_has_expired_for_this_worker_is_listed_for_others(store: RedisStore) -> None:
    await create(store, "a", life=10)
    await create(store, "b")
    assert await listed(store, now=NOW + 10) == ["b"]
    assert await listed(store, now=NOW) == ["b", "a"]


def test_the_store_has_the_powers() -> None:
    store = RedisStore("redis://localhost", "", timeout=1)
    assert isinstance(store, Indexing)
    assert isinstance(store, Timed)
