"""Scans of all entries: what each database reads for a page, what is no entry, and servers that change meanwhile.

That all stores keep the rules of a scan is shown by the suites of each.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis, RedisCluster

from starsessions import Session
from starsessions.backends.base import in_one_step
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.exceptions import BackendUnavailable
from starsessions.inventory import live_sessions, stats
from starsessions.stores import MemoryStore, Owner, Scanning
from starsessions.stores.listed import ListedStore
from starsessions.stores.redis.store import RedisStore
from starsessions.testing.conformance.broken_stores import FourMethods
from starsessions.users import UserSessions, sign_in
from tests.backends.sql import DATABASES, Database, analyze, database, enough, explained, metered, opened
from tests.servers import redis as servers
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.anyio

NOW, LIFE = 1_800_000_000, 1000

BEGUN_ANEW = "servers of this Redis changed during the scan.*begin the scan again"


async def scanned(store: Scanning, *, limit: int = 100, after: str | None = None) -> list[str]:
    """The keys on all pages, or on those that follow."""
    page = await store.scan(limit=limit, now=NOW, after=after)
    keys = [key for key, _, _ in page.entries]
    while page.after is not None:
        page = await store.scan(limit=limit, now=NOW, after=page.after)
        keys += [key for key, _, _ in page.entries]
    return keys


async def fill(store: Any, count: int) -> set[str]:
    keys = {f"key-{n}" for n in range(count)}
    await asyncio.gather(*(store.create(key, b"v", expires_at=NOW + LIFE, now=NOW) for key in keys))
    return keys


# Memory


@pytest.mark.once
@given(
    st.integers(1, 5),
    st.lists(
        st.lists(st.tuples(st.sampled_from(["create", "replace", "delete"]), st.integers(0, 30)), max_size=8),
        max_size=30,
    ),
)
def test_whatever_comes_and_goes_in_memory_a_scan_misses_nothing_that_stays(
    limit: int, turns: list[list[tuple[str, int]]]
) -> None:
    """The last entry moves to the place of one that is removed, and each write removes some that have expired."""
    store = MemoryStore()
    for n in range(20):
        in_one_step(store.create(f"{n}", b"v", expires_at=NOW + (1 if n % 3 else LIFE), now=NOW))
    lives = {f"{n}" for n in range(0, 20, 3)}
    after, seen = None, set[str]()
    for turn in [*turns, *([[]] * 60)]:
        page = in_one_step(store.scan(limit=limit, now=NOW + 1, after=after))
        seen |= {key for key, _, _ in page.entries}
        after = page.after
        if after is None:
            break
        for verb, n in turn:
            there = store.peek(f"{n}", NOW + 1)
            if verb == "create" and there is None:
                in_one_step(store.create(f"{n}", b"v", expires_at=NOW + LIFE, now=NOW + 1))
            elif verb == "replace" and there is not None:
                in_one_step(store.replace(f"{n}", b"w", there.version, expires_at=NOW + LIFE, now=NOW + 1))
            elif verb == "delete":
                in_one_step(store.delete(f"{n}", now=NOW + 1))
                lives.discard(f"{n}")
    assert after is None
    assert lives <= seen


# SQL


@pytest.fixture(params=list(DATABASES))
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


async def test_a_page_in_sql_begins_in_the_primary_key_and_reads_no_other_rows(db: Database) -> None:
    async with opened(db.url, timeout=60) as backend:
        rows = range(enough(2_000, backend))
        made = [{"key": f"key-{n}", "value": b"v", "expires_at": NOW + LIFE, "version": n} for n in rows]
        async with backend.engine.begin() as connection:
            await connection.execute(backend.table.insert(), made)
        await analyze(backend)
        plan = await explained(backend.engine, backend.store.statements.scan, {"p_key": "key-5", "p_limit": 50})
    if db.is_postgres:
        assert f"Index Scan using {backend.table.name}_pkey" in plan
        assert "Index Cond:" in plan
        assert "Sort" not in plan
    elif db.name == "sqlite":
        assert plan.endswith("(key>?)")
        assert "B-TREE" not in plan
    else:
        assert plan == "range|PRIMARY"


@pytest.mark.parametrize("name", list(DATABASES))
async def test_a_page_of_expired_rows_is_empty_and_one_statement(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """If it looked for so many live rows, it might read millions of others."""
    async with metered(name, request, tmp_path) as (url, meter_of), opened(url) as backend:
        store, asked = backend.store, meter_of(backend)
        for n in range(12):
            await store.create(f"key-{n:02}", b"", expires_at=NOW + (1 if n < 10 else LIFE), now=NOW)
        await store.scan(limit=5, now=NOW + 1)  # it is prepared
        await asked()
        page = await store.scan(limit=5, now=NOW + 1)
        assert await asked() == 1
        assert page == ([], "key-04")
        assert await scanned_at(store, NOW + 1) == ["key-10", "key-11"]


async def scanned_at(store: Scanning, now: int) -> list[str]:
    page = await store.scan(limit=100, now=now)
    assert page.after is None
    return [key for key, _, _ in page.entries]


async def check_statistics(backend: StoreBackend, user_count: int = 7) -> None:
    """Users sign in, one of them twice, and a few sessions stay anonymous."""
    bound = backend.bound_for("session")
    for n in range(user_count + 1):
        session = Session(bound)
        await session.load()
        await sign_in(session, f"user-{n % user_count}")
        await session.persist()
    for _ in range(3):
        await bound.write({"theme": "dark"})
    found = await stats(backend, session_cookie="session")
    assert (found.signed_in, found.anonymous, found.users) == (user_count + 1, 3, user_count)
    assert (found.others, found.unreadable, found.expired) == (0, 0, 0)
    await UserSessions(backend, session_cookie="session").revoke_all("user-0")
    shown = [one.user_id async for page in live_sessions(backend, session_cookie="session") for one in page.sessions]
    assert sorted(shown, key=str) == [*[None] * 3, *(f"user-{n}" for n in range(1, user_count))]


async def test_statistics_in_sql(db: Database) -> None:
    async with opened(db.url, timeout=60) as backend:
        await check_statistics(backend)


# Four methods


async def test_a_store_with_lists_scans_if_the_one_below_does_and_has_no_list_on_a_page() -> None:
    assert not isinstance(ListedStore(FourMethods()), Scanning)  # type: ignore[arg-type]
    store = ListedStore(MemoryStore())
    version = await store.create("owned", b"v", expires_at=NOW + LIFE, now=NOW, owner=Owner("ann", NOW))
    await store.create("unowned", b"\xc1", expires_at=NOW + LIFE, now=NOW)
    page = await store.scan(limit=9, now=NOW)
    found = {key: (entry.value, owner) for key, entry, owner in page.entries}
    assert found == {"owned": (b"v", "ann"), "unowned": (b"\xc1", None)}
    [scanned_version] = [entry.version for key, entry, _ in page.entries if key == "owned"]
    assert scanned_version == version
    await store.delete("owned", scanned_version, now=NOW)


# Redis


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture(params=["one server", "Cluster", "Cluster behind an ordinary client", "fakeredis"])
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
    return await closing.enter_async_context(client)


async def test_what_is_no_entry_in_redis_is_on_no_page(client: Any, closing: AsyncExitStack) -> None:
    prefix = f"{secrets.token_hex(8)}*[a-c]?\\^:"  # a pattern, if it were taken for one
    store, other = RedisStore(client, prefix, timeout=30), RedisStore(client, f"{prefix}other:", timeout=30)
    names = [f"{prefix}{rest}" for rest in ("list", "hash", "short", "old", "a b", "é")]
    names.append(prefix.replace("*", "x").replace("[a-c]", "a") + "alike")
    for name in [*names, *(f"{prefix}{rest}" for rest in ("key", "owned", "{ann}", "other:key"))]:
        closing.push_async_callback(client.delete, name)
    await client.rpush(names[0], "v")
    await client.hset(names[1], "v", "v")
    for name in names[2:]:
        await client.set(name, b"v" if name == names[2] else b"\x01" * 30)
    await other.create("key", b"v", expires_at=NOW + LIFE, now=NOW)
    version = await store.create("key", b"", expires_at=NOW + LIFE, now=NOW)
    await store.create("owned", b"v", expires_at=NOW + LIFE, now=NOW, owner=Owner("ann", NOW))
    page = await store.scan(limit=1000, now=NOW)
    while page.after is not None:
        following = await store.scan(limit=1000, now=NOW, after=page.after)
        page = following._replace(entries=[*page.entries, *following.entries])
    found = {key: (entry.value, owner) for key, entry, owner in page.entries}
    assert found == {"key": (b"", None), "owned": (b"v", "ann")}
    assert version in [entry.version for _, entry, _ in page.entries]


async def test_a_page_passes_over_the_data_of_others(redis_server: RedisServer, closing: AsyncExitStack) -> None:
    client = await closing.enter_async_context(Redis.from_url(redis_server.url))
    prefix = f"{secrets.token_hex(8)}:"
    store, others = RedisStore(client, f"{prefix}ours:", timeout=30), [f"{prefix}{n}" for n in range(2000)]
    await client.mset(dict.fromkeys(others, b"v"))
    closing.push_async_callback(client.delete, *others)
    keys = await fill(store, 3)
    page, pages = await store.scan(limit=1, now=NOW), 1
    found = {key for key, _, _ in page.entries}
    while page.after is not None:
        page, pages = await store.scan(limit=1, now=NOW, after=page.after), pages + 1
        found |= {key for key, _, _ in page.entries}
    assert found == keys
    assert pages < 20


async def test_statistics_in_redis(client: Any) -> None:
    prefix = f"{secrets.token_hex(8)}:"
    await check_statistics(RedisBackend(client, prefix, timeout=30))
    async for name in client.scan_iter(match=f"{prefix}*"):
        await client.delete(name)


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with servers.standalone(durable=True) as server:
        yield server


async def test_a_server_that_was_restarted_between_two_pages_ends_the_scan(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    """The position of SCAN means nothing to it: entries would be missed."""
    store = RedisStore(server.url, "scans:", timeout=20)
    closing.push_async_callback(store.aclose)
    keys = await fill(store, 300)
    page = await store.scan(limit=20, now=NOW)
    await asyncio.to_thread(server.restart)
    with pytest.raises(BackendUnavailable, match=BEGUN_ANEW):
        await store.scan(limit=20, now=NOW, after=page.after)
    assert set(await scanned(store)) == keys


async def test_a_server_that_may_not_say_which_one_it_is_does_not_scan(
    server: RedisServer, closing: AsyncExitStack
) -> None:
    """Otherwise a restart would go unnoticed."""
    rights = ["~scans:*", "-@all", "+eval", "+evalsha", "+get", "+scan"]
    for n, (right, is_enough) in enumerate([("+info", False), ("+cluster", False), ("+info +cluster|nodes", True)]):
        server.ask("ACL", "SETUSER", f"user-{n}", "on", "nopass", *rights, *right.split())
        store = RedisStore(f"redis://user-{n}:x@127.0.0.1:{server.port}", "scans:", timeout=20)
        closing.push_async_callback(store.aclose)
        if is_enough:
            assert await store.scan(limit=20, now=NOW) == ([], None)
        else:
            with pytest.raises(BackendUnavailable, match="The store failed"):
                await store.scan(limit=20, now=NOW)


# A Cluster that changes


class Changing:
    """A Cluster, a store in it, and its primaries in the order of a scan."""

    def __init__(self, group: servers.RedisCluster, client: RedisCluster) -> None:
        self.group = group
        self.store = RedisStore(client, "scans:", timeout=20)

    def primaries(self) -> list[RedisServer]:
        masters = [node for node in self.group.answering if node.role() == "master"]
        return sorted(masters, key=lambda node: f"127.0.0.1:{node.port}")

    def key_on(self, node: RedisServer, keys: set[str]) -> str:
        return next(key for key in sorted(keys) if self.group.primary_of(f"scans:{key}") is node)


@pytest.fixture
async def changing(closing: AsyncExitStack) -> AsyncIterator[Changing]:
    with servers.cluster() as group:
        yield Changing(group, await closing.enter_async_context(RedisCluster.from_url(group.url)))


async def test_a_cluster_that_changes_between_two_pages_misses_no_entry_silently(
    changing: Changing, closing: AsyncExitStack
) -> None:
    """Slots move from a node that is still to come to one that was scanned; a node fails over; a node dies."""
    store, group = changing.store, changing.group
    keys = await fill(store, 300)
    assert set(await scanned(store, limit=20)) == keys

    async def after_the_first_node() -> str:
        first, page = changing.primaries()[0], await store.scan(limit=20, now=NOW)
        while page.after is not None and page.after.endswith(f":{first.port}"):
            page = await store.scan(limit=20, now=NOW, after=page.after)
        assert page.after is not None
        return page.after

    first, *_, last = changing.primaries()
    after = await after_the_first_node()
    with pytest.raises(BackendUnavailable, match=BEGUN_ANEW):
        await scanned(store, after=f"{after}0")  # a node that this client does not know
    for node in (first, next(node for node in group.nodes if node.role() == "slave")):
        alone = RedisStore(await closing.enter_async_context(Redis.from_url(node.url)), "scans:", timeout=20)
        with pytest.raises(BackendUnavailable):
            await scanned(alone)  # it reaches one node of three
    await asyncio.to_thread(group.move, f"scans:{changing.key_on(last, keys)}", first)
    with pytest.raises(BackendUnavailable, match=BEGUN_ANEW):
        await scanned(store, after=after)
    assert set(await scanned(store)) == keys

    # A slot that is about to move: an entry might be on the other node already.
    after, slot = await after_the_first_node(), str(servers.key_slot(f"scans:{changing.key_on(last, keys)}".encode()))
    last.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", first.ask("CLUSTER", "MYID"))
    with pytest.raises(BackendUnavailable, match=BEGUN_ANEW):
        await scanned(store, after=after)
    last.ask("CLUSTER", "SETSLOT", slot, "STABLE")
    assert set(await scanned(store, after=after)) <= keys

    # A failover that was asked for, and one after a death.
    after = await after_the_first_node()
    replica = next(node for node in group.nodes if node.role() == "slave" and node.ask("ROLE")[2] == last.port)
    await asyncio.to_thread(replica.ask, "CLUSTER", "FAILOVER")
    group.wait_until(lambda: replica.role() == "master" and group.is_ready(), "did not fail over")
    with pytest.raises(BackendUnavailable, match=BEGUN_ANEW):
        await scanned(store, after=after)
    assert set(await scanned(store)) == keys

    after = await after_the_first_node()
    last = changing.primaries()[-1]
    name = f"scans:{changing.key_on(last, keys)}"
    last.wait_until_replicated()
    await asyncio.to_thread(last.kill)
    with pytest.raises(BackendUnavailable):
        await scanned(store, after=after)
    await asyncio.to_thread(group.wait_for_takeover, name, last)
    with pytest.raises(BackendUnavailable, match=BEGUN_ANEW):
        await scanned(store, after=after)
    assert set(await scanned(store)) == keys
