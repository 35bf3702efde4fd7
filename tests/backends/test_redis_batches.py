"""Several writes at once in Redis: what is announced with them, what a Cluster does, and a reply that is lost."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis import exceptions
from redis.asyncio import Redis, RedisCluster

from starsessions.exceptions import BackendUnavailable
from starsessions.stores import announce
from starsessions.stores.base import BatchConflict, Creation, Deletion, Owner, Replacement
from starsessions.stores.redis.commands import Commands
from starsessions.stores.redis.store import RedisStore
from tests.servers.process import Address

pytestmark = pytest.mark.anyio

NOW, LATER = 1_800_000_000, 1_800_001_000
ANN = Owner("ann", 5)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


Open = Callable[[Any], RedisStore]


@pytest.fixture
def open_store(closing: AsyncExitStack) -> Open:
    prefix = f"{secrets.token_hex(8)}:"

    def open_store(server: Any) -> RedisStore:
        store = RedisStore(server, prefix, timeout=30)
        closing.push_async_callback(store.aclose)
        return store

    return open_store


@pytest.fixture
def store(redis_server: Address, open_store: Open) -> RedisStore:
    return open_store(redis_server.url)


@pytest.fixture
def loses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Lose the reply to the next script, and do something before it is sent again."""
    run = Commands._run_once

    def lose(meanwhile: Any = None) -> None:
        replies: list[Any] = []

        async def run_once(self: Commands, *what: Any) -> Any:
            replies.append(await run(self, *what))
            if len(replies) > 1:
                return replies[-1]
            if meanwhile is not None:
                await meanwhile()
            raise exceptions.ConnectionError

        monkeypatch.setattr(Commands, "_run_once", run_once)

    return lose


async def test_what_is_written_at_once_is_announced_to_other_processes(
    store: RedisStore, redis_server: Address, open_store: Open
) -> None:
    async with open_store(redis_server.url).listen() as heard:
        await store.write_together([Creation("a", b"1", LATER)], now=NOW, topics=["a", "b"])
        with pytest.raises(BatchConflict):
            await store.write_together([Creation("a", b"1", LATER)], now=NOW, topics=["c"])
        await store.write_together([Creation("d", b"1", LATER)], now=NOW, topics=["d"])
        assert [await anext(heard), await anext(heard)] == [["a", "b"], ["d"]]


@pytest.fixture(params=["Cluster", "Cluster behind an ordinary client"])
async def spread(request: pytest.FixtureRequest, open_store: Open) -> RedisStore:
    if request.param == "Cluster":
        url = request.getfixturevalue("redis_cluster").url
        return open_store(lambda: RedisCluster.from_url(url))
    store = open_store(request.getfixturevalue("redis_with_slots").url)
    await store.list_owned("ann", limit=1, now=NOW)  # it learns what kind of server this is
    return store


async def test_a_cluster_writes_one_entry_and_announces_it_but_not_several(spread: RedisStore) -> None:
    async def write(*writes: Any, topic: str) -> Any:
        return await spread.write_together(writes, now=NOW, topics=[topic])

    async with spread.listen() as heard:
        assert await write(Creation("a", b"1", LATER), Creation("b", b"1", LATER), topic="several") is None
        assert [await spread.get(key, now=NOW) for key in "ab"] == [None, None]
        [version] = await write(Creation("a", b"1", LATER, ANN), topic="created")
        entry = await spread.get("a", now=NOW)
        assert entry is not None
        assert entry.version == version
        with pytest.raises(BatchConflict) as refused:
            await write(Creation("a", b"2", LATER), topic="refused")
        assert (refused.value.index, refused.value.current) == (0, entry)
        assert await write(Deletion("a", version), topic="deleted") == [None]
        assert await spread.count_owned("ann", most=1, now=NOW) == 0
        assert [await anext(heard), await anext(heard)] == [["created"], ["deleted"]]


async def test_an_announcement_that_fails_in_a_cluster_is_logged_and_fails_no_write(
    spread: RedisStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(topics: Sequence[str]) -> None:
        raise BackendUnavailable("The store failed: ConnectionError.")

    monkeypatch.setattr(spread.announcer, "announce", fail)
    assert await spread.write_together([Creation("a", b"1", LATER)], now=NOW, topics=["a"]) is not None
    assert await spread.get("a", now=NOW) is not None
    [record] = caplog.records
    assert "was not announced: The store failed" in record.message


async def test_an_announcement_that_hangs_in_a_cluster_fails_no_write(
    spread: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await spread.write_together([Creation("a", b"1", LATER, ANN)], now=NOW)
    monkeypatch.setattr(announce, "SEND_WITHIN", 0)
    monkeypatch.setattr(spread.announcer, "announce", lambda topics: asyncio.Event().wait())
    assert await spread.write_together([Creation("b", b"1", LATER)], now=NOW, topics=["b"]) is not None


async def test_a_cluster_behind_an_ordinary_client_is_found_out(redis_with_slots: Address, open_store: Open) -> None:
    store = open_store(redis_with_slots.url)
    writes = [Creation(key, b"1", LATER, ANN) for key in "ab"]
    for _ in range(2):
        assert await store.write_together(writes, now=NOW) is None
    assert [await store.get(key, now=NOW) for key in "ab"] == [None, None]


async def test_what_is_asked_with_writes_is_there_after_them(
    store: RedisStore, redis_server: Address, open_store: Open
) -> None:
    """An older answer would miss what has ended the user's sessions just before the writes."""
    async with open_store(redis_server.url).listen() as heard:
        await store.create("everyone", b"of all", expires_at=LATER - 1, now=NOW)
        writes = [Creation("ann", b"of ann", LATER), Creation("a", b"1", LATER + 1, ANN)]
        written = await store.write_joined(writes, owner="ann", other="everyone", now=NOW, topics=["a"])
        assert written is not None
        entries = [await store.get(key, now=NOW) for key in ("ann", "a", "everyone")]
        assert [entry and entry.version for entry in entries[:2]] == written.versions
        assert (written.of_owner, written.other, written.owned) == (entries[0], entries[2], 1)
        assert await anext(heard) == ["a"]
        assert "of ann" not in repr(written)


async def test_what_is_asked_with_writes_is_none_once_it_has_expired(store: RedisStore) -> None:
    for key, until in (("ann", LATER + 1), ("everyone", LATER)):
        await store.create(key, b"1", expires_at=until, now=NOW)
    for then, expected in ((LATER, [True, False]), (LATER + 1, [False, False])):
        writes = [Creation(f"a-{then}", b"1", then + 9, ANN)]
        written = await store.write_joined(writes, owner="ann", other="everyone", now=then)
        assert written is not None
        assert [written.of_owner is not None, written.other is not None] == expected


async def test_a_refused_write_answers_nothing(store: RedisStore) -> None:
    await store.create("a", b"1", expires_at=LATER, now=NOW)
    writes = [Creation("b", b"1", LATER, ANN), Creation("a", b"2", LATER)]
    with pytest.raises(BatchConflict) as refused:
        await store.write_joined(writes, owner="ann", other="everyone", now=NOW)
    assert (refused.value.index, await store.count_owned("ann", most=1, now=NOW)) == (1, 0)


async def test_what_is_asked_is_answered_also_if_the_first_reply_was_lost(store: RedisStore, loses: Any) -> None:
    loses()
    writes = [Creation("ann", b"of ann", LATER), Creation("a", b"1", LATER, ANN)]
    written = await store.write_joined(writes, owner="ann", other="everyone", now=NOW)
    assert written is not None
    assert written.of_owner == await store.get("ann", now=NOW)
    assert (written.other, written.owned) == (None, 1)


async def test_a_deletion_whose_reply_was_lost_is_in_doubt_if_more_was_asked(store: RedisStore, loses: Any) -> None:
    version = await store.create("a", b"1", expires_at=LATER, now=NOW)
    loses()
    with pytest.raises(BackendUnavailable, match="its result is unknown"):
        await store.write_joined([Deletion("a", version)], owner="ann", other="everyone", now=NOW)


async def test_a_session_that_was_ended_is_a_conflict_also_if_the_first_reply_was_lost(
    store: RedisStore, loses: Any
) -> None:
    """As it is if a store is asked one by one: the request ends without its session, and not with a 503."""
    version = await store.create("a", b"1", expires_at=LATER, now=NOW, owner=ANN)
    await store.delete("a", now=NOW)
    loses()
    with pytest.raises(BatchConflict) as refused:
        await store.write_joined([Replacement("a", b"2", version, LATER, ANN)], owner="ann", other="all", now=NOW)
    assert refused.value.current is None


async def test_a_cluster_does_not_answer_with_its_writes(spread: RedisStore) -> None:
    written = await spread.write_joined([Creation("a", b"1", LATER, ANN)], owner="ann", other="everyone", now=NOW)
    assert (written, await spread.get("a", now=NOW)) == (None, None)


async def test_a_listing_of_another_type_refuses_all(redis_server: Address, open_store: Open) -> None:
    store = open_store(redis_server.url)
    async with Redis.from_url(redis_server.url) as client:
        await client.set(store._prefix + b"{ann}", b"no listing")
        writes = [Creation("a", b"1", LATER), Creation("b", b"1", LATER, ANN)]
        with pytest.raises(BackendUnavailable):
            await store.write_together(writes, now=NOW)
        assert [await store.get(key, now=NOW) for key in "ab"] == [None, None]
        await client.delete(store._prefix + b"{ann}")


async def test_a_batch_whose_reply_was_lost_is_not_carried_out_twice(store: RedisStore, loses: Any) -> None:
    version = await store.create("a", b"1", expires_at=LATER, now=NOW)
    await store.get("a", now=NOW)
    loses()
    written = await store.write_together(
        [Replacement("a", b"2", version, LATER), Creation("b", b"3", LATER, ANN)], now=NOW
    )
    assert written is not None
    entries = [await store.get(key, now=NOW) for key in "ab"]
    assert [entry and (entry.value, entry.version) for entry in entries] == [(b"2", written[0]), (b"3", written[1])]


async def test_a_deletion_whose_reply_was_lost_is_done(store: RedisStore, loses: Any) -> None:
    version = await store.create("a", b"1", expires_at=LATER, now=NOW)
    loses()
    assert await store.write_together([Deletion("a", version)], now=NOW) == [None]


async def test_a_batch_whose_reply_was_lost_is_in_doubt_once_another_write_has_followed(
    store: RedisStore, loses: Any, redis_server: Address
) -> None:
    versions = [await store.create(key, b"1", expires_at=LATER, now=NOW) for key in "ab"]

    async def change() -> None:
        async with Redis.from_url(redis_server.url) as client:
            await client.delete(store._prefix + b"a")

    works: Sequence[Any] = ([Replacement("a", b"2", versions[0], LATER)], [Deletion(key, 1) for key in "cd"])
    for writes in (works[0], [Deletion("b", versions[1]), Creation("e", b"", LATER)]):
        loses(change)
        with pytest.raises(BackendUnavailable, match="its result is unknown"):
            await store.write_together(writes, now=NOW)
