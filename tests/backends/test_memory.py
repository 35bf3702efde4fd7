"""Guarantee 13: the memory backend expires, scales, shares no objects, and may be used from threads."""

from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from starsessions import InMemoryBackend, Session, set_expiry
from starsessions.core.record import Found, Record
from starsessions.stores.base import Conflict, Owner
from starsessions.stores.memory import MemoryStore
from tests.site import Clock, Site

pytestmark = pytest.mark.anyio

NOW = 1000


@pytest.mark.guarantee(13)
async def test_the_backend_shares_no_objects_with_the_handler(site_of: Callable[..., Site], clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    site = site_of(backend=backend)
    cart = [1]

    await site.visit(lambda session: session.update(cart=cart))
    cart.append(2)
    first = await site.data()
    first["cart"].append(3)

    assert await site.data() == {"cart": [1]}
    next(iter(backend.data.values()))["cart"].append(4)
    assert await site.data() == {"cart": [1]}


@pytest.mark.guarantee(13, 19)
async def test_expired_sessions_are_dropped_by_the_writes_that_follow(clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    for _ in range(1000):
        await backend.write({"a": 1})
    clock.advance(14 * 86400)
    for _ in range(1000):
        await backend.write({"a": 1})
    assert len(backend) == 1000


@pytest.mark.guarantee(13)
async def test_a_write_checks_two_other_entries_whatever_the_total(clock: Clock) -> None:
    class Counted(array):  # type: ignore[type-arg]
        looked = 0

        def __getitem__(self, place: Any) -> Any:
            self.looked += 1
            return super().__getitem__(place)

    costs = []
    for size in (10, 10_000):
        store = MemoryStore()
        for n in range(size):
            await store.create(f"key-{n}", b"", expires_at=NOW + 1, now=NOW)
        store._ends = ends = Counted("Q", store._ends)
        for n in range(100):
            await store.create(f"new-{n}", b"", expires_at=NOW + 1, now=NOW)
        costs.append(ends.looked)
    assert costs == [200, 200]


async def test_sessions_written_and_ended_alternately_leave_no_entries() -> None:
    store = MemoryStore()
    for n in range(10_000):
        key = f"key-{n % 3}"
        await store.create(key, b"", expires_at=NOW + 1, now=NOW)
        await store.delete(key, now=NOW)
    assert store.all_keys() == store._keys == []


async def test_many_sessions_that_expire_at_once_are_removed_by_a_fifth_as_many_writes() -> None:
    """One removal for each write would keep the memory of the peak, since each write also adds one."""
    store = MemoryStore()
    for n in range(10_000):
        await store.create(f"old-{n}", b"", expires_at=100, now=1)
    removed = []
    for n in range(2000):
        before = len(store)
        await store.create(f"new-{n}", b"", expires_at=1000, now=100)
        removed.append(before + 1 - len(store))
    assert len(store) == 2000
    assert max(removed) <= 16  # no request waits for all of them
    assert all([await store.get(f"new-{n}", now=100) for n in range(2000)])


async def test_the_sweep_keeps_each_key_exactly_once() -> None:
    import random

    chance, store, now = random.Random(1), MemoryStore(), NOW
    versions: dict[str, Any] = {}
    for _ in range(5_000):
        key = f"key-{chance.randrange(20)}"
        now += chance.randrange(2)
        try:
            if chance.random() < 0.7:
                entry = await store.get(key, now=now)
                expires_at = now + chance.randrange(1, 30)
                if entry is None:
                    versions[key] = await store.create(key, key.encode(), expires_at=expires_at, now=now)
                else:
                    versions[key] = await store.replace(
                        key, key.encode(), entry.version, expires_at=expires_at, now=now
                    )
            else:
                await store.delete(key, chance.choice([None, versions.get(key)]), now=now)
        except Conflict:
            pass
        assert sorted(store._keys) == sorted(store.all_keys())
        for one in store.all_keys():
            held = store.peek(one, now)
            assert held is None or held.value == one.encode()


async def test_an_entry_expires_at_its_deadline_and_frees_its_key() -> None:
    store = MemoryStore()
    await store.create("key", b"old", expires_at=NOW + 1, now=NOW)
    assert await store.get("key", now=NOW) is not None
    assert await store.get("key", now=NOW + 1) is None
    await store.create("key", b"new", expires_at=NOW + 9, now=NOW + 1)
    entry = await store.get("key", now=NOW + 1)
    assert entry is not None
    assert entry.value == b"new"


class Audited(InMemoryBackend):
    """Writes down what is changed, and waits for nothing."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.replaced: list[str] = []

    async def replace(self, found: Found, record: Record, ends_at: int, now: int) -> Found:
        self.replaced.append(found.token)
        return await super().replace(found, record, ends_at, now)


class Slow(MemoryStore):
    async def replace(self, *args: Any, **instants: Any) -> Any:
        await checkpoint()
        return await super().replace(*args, **instants)


async def test_an_overridden_replace_is_called(site_of: Callable[..., Site], clock: Clock) -> None:
    backend = Audited(clock)
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(a=1))
    await site.visit(lambda session: session.update(a=2))
    assert backend.replaced == [site.browser.cookies["session"]]
    assert await site.data() == {"a": 2}


@pytest.mark.both_loops
async def test_work_that_may_wait_is_not_done_in_one_step(site_of: Callable[..., Site], clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    assert backend.never_waits
    assert not Audited(clock).never_waits
    backend.store = Slow()
    assert not backend.never_waits
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(a=1))
    await site.visit(lambda session: session.update(a=2))
    assert await site.data() == {"a": 2}


async def test_a_conflicting_write_raises_conflict_with_the_current_entry() -> None:
    store = MemoryStore()
    first = await store.create("key", b"1", expires_at=NOW + 9, now=NOW)
    with pytest.raises(Conflict) as taken:
        await store.create("key", b"2", expires_at=NOW + 9, now=NOW)
    assert taken.value.current is not None
    assert taken.value.current.value == b"1"

    second = await store.replace("key", b"2", first, expires_at=NOW + 9, now=NOW)
    for expect in (first, object(), None):
        with pytest.raises(Conflict):
            await store.replace("key", b"3", expect, expires_at=NOW + 9, now=NOW)
        with pytest.raises(Conflict):
            await store.delete("key", expect or object(), now=NOW)

    assert await store.delete("key", second, now=NOW) is True
    assert await store.delete("key", now=NOW) is False
    for verb in (store.replace("key", b"4", second, expires_at=NOW + 9, now=NOW), store.delete("key", second, now=NOW)):
        with pytest.raises(Conflict) as gone:
            await verb
        assert gone.value.current is None


async def test_a_version_is_never_the_same_twice() -> None:
    store = MemoryStore()
    seen = set()
    for _ in range(10):
        seen.add(await store.create("key", b"", expires_at=NOW + 9, now=NOW))
        await store.delete("key", now=NOW)
    assert len(seen) == 10


@pytest.mark.guarantee(13)
def test_threads_that_write_at_once_lose_nothing() -> None:
    store = MemoryStore()

    def write(thread: int) -> int:
        wins = 0
        for n in range(500):
            for verb in (
                store.create(f"{thread}-{n}", b"", expires_at=NOW + 9, now=NOW),
                store.create("shared", b"", expires_at=NOW + 9, now=NOW),
            ):
                try:
                    verb.send(None)
                except StopIteration:
                    wins += 1
                except Conflict:
                    pass
        return wins

    with ThreadPoolExecutor(8) as pool:
        wins = sum(pool.map(write, range(8)))
    assert wins == 8 * 500 + 1
    assert len(store) == 8 * 500 + 1


@pytest.mark.guarantee(13)
async def test_sessions_that_have_ended_give_their_memory_back() -> None:
    import tracemalloc

    store, keys = MemoryStore(), [f"{n:043}" for n in range(20_000)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for key in keys:
        await store.create(key, b"v" * 150, expires_at=NOW + 9, now=NOW, owner=Owner(key, NOW))
    taken = tracemalloc.get_traced_memory()[0] - before
    for key in keys:
        await store.delete(key, now=NOW)
    left = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert left <= taken / 40


@pytest.mark.guarantee(13)
async def test_no_write_waits_until_a_dict_of_all_sessions_has_grown() -> None:
    store = MemoryStore()
    for n in range(20_000):
        await store.create(f"{n:043}", b"", expires_at=NOW + 9, now=NOW, owner=Owner(f"user-{n}", NOW))
    parts: list[Any] = [*store._entries, *store._owners, *store._owned]
    assert sum(map(len, parts)) == 3 * 20_000
    assert max(map(len, parts)) < 1000


@pytest.mark.guarantee(13)
def test_a_million_sessions_take_at_most_three_times_their_payload_and_key() -> None:
    """Measured on 20,000: the memory grows with them linearly, except for the doubling of the dict."""
    import tracemalloc

    store = MemoryStore()
    key, value = "k" * 43, b"v" * 150
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    size = 20_000
    for n in range(size):
        verb = store.create(f"{n:043}", value + b"%d" % n, expires_at=NOW + 9, now=NOW)
        with pytest.raises(StopIteration):
            verb.send(None)
    taken = (tracemalloc.get_traced_memory()[0] - before) / size
    tracemalloc.stop()
    assert taken <= 3 * (len(key) + len(value))


async def test_a_session_in_memory_can_be_used_by_hand_with_chosen_ids() -> None:
    backend = InMemoryBackend()
    session = Session(backend, "my-id")
    await session.load()
    session["user"] = "ann"
    assert await session.persist() == "my-id"
    assert backend.data == {"my-id": {"user": "ann"}}


async def test_two_writers_of_one_id_by_hand_both_succeed() -> None:
    """Another request writes between the read and the write; the second write merges with its result."""

    class Interrupted(InMemoryBackend):
        interrupted = 0

        async def create(self, *args: Any) -> Any:
            if not self.interrupted:
                self.interrupted += 1
                await self.write({"first": 1}, "one-id")
            return await super().create(*args)

    backend = Interrupted()
    assert await backend.write({"second": 2}, "one-id") == "one-id"
    assert backend.data == {"one-id": {"second": 2}}


async def test_two_sessions_by_hand_that_begin_under_one_id_are_merged() -> None:
    backend = InMemoryBackend()
    one, other = Session(backend, "one-id"), Session(backend, "one-id")
    await one.load()
    await other.load()
    one["a"], other["b"] = 1, 2
    await one.persist()
    await other.persist()
    assert backend.data == {"one-id": {"a": 1, "b": 2}}


async def test_a_renewal_does_not_overwrite_a_concurrent_write(site_of: Callable[..., Site], clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    site, elsewhere = (site_of(backend=backend, rolling=True, max_age=100) for _ in range(2))
    elsewhere.browser = site.browser
    await site.visit(lambda session: session.update(n=1))
    clock.advance(50)

    async def act(session: Session) -> None:
        assert session["n"] == 1
        await elsewhere.visit(lambda other: other.update(n=2))

    await site.visit(act)
    assert await site.data() == {"n": 2}


async def test_a_rotation_to_an_id_that_is_taken_is_an_error_and_changes_nothing(site_of: Callable[..., Site]) -> None:
    from starsessions import SessionError

    class Stuck(InMemoryBackend):
        async def generate_id(self) -> str:
            return "always-the-same"

    backend = Stuck()
    site = Site(backend=backend, autoload=True)
    await site.visit(lambda session: session.update(n=1))
    with pytest.raises(SessionError, match="generate_id"):
        await site.visit(Session.regenerate_id)
    assert backend.data == {"always-the-same": {"n": 1}}


async def test_data_leaves_out_garbage(clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    await backend.store.create("garbage", b"\xc1", expires_at=int(clock()) + 9, now=int(clock()))
    assert backend.data == {}


async def test_writers_that_always_conflict_give_up_with_an_error(
    site_of: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    from starsessions import SessionError
    from starsessions.backends.base import Conflict
    from starsessions.lifecycle import saving

    class Contended(InMemoryBackend):
        async def replace(self, found: Any, *args: Any) -> Any:
            raise Conflict(found)

    monkeypatch.setattr(saving, "MAX_ATTEMPTS", 3)
    site = Site(backend=Contended(), autoload=True)
    await site.visit(lambda session: session.update(n=1))
    with pytest.raises(SessionError, match="on every attempt"):
        await site.visit(lambda session: session.update(n=2))


async def test_the_sweep_drops_a_dead_entry_that_is_the_last_one() -> None:
    store = MemoryStore()
    first = await store.create("first", b"", expires_at=NOW + 9, now=NOW)
    await store.create("last", b"", expires_at=NOW + 1, now=NOW)
    for _ in range(2):
        first = await store.replace("first", b"", first, expires_at=NOW + 9, now=NOW + 1)
    assert store.all_keys() == store._keys == ["first"]


async def test_writing_by_hand_over_garbage_raises_and_does_not_loop(clock: Clock) -> None:
    from starsessions import SessionError

    backend = InMemoryBackend(clock=clock)
    await backend.store.create("garbage", b"\xc1", expires_at=int(clock()) + 9, now=int(clock()))
    with pytest.raises(SessionError, match="not a session"):
        await backend.write({"a": 1}, "garbage")


async def test_a_session_that_expires_before_the_response_causes_no_error(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    """The only entry, and dead when it is written: the sweep that follows has nothing left to look at."""
    from datetime import UTC, datetime

    def act(session: Session) -> None:
        session["a"] = 1
        set_expiry(session, datetime.fromtimestamp(clock() + 1, UTC))
        clock.advance(2)

    site = site_of(backend=InMemoryBackend(clock=clock))
    await site.visit(act)
    assert await site.data() == {}


def test_an_empty_backend_is_not_replaced_by_the_default_of_an_or() -> None:
    backend, store = InMemoryBackend(), MemoryStore()
    assert (len(backend), len(store)) == (0, 0)
    assert (backend or None) is backend
    assert (store or None) is store
