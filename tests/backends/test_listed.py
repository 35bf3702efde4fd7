"""A store of four methods that lists by owner: what is interrupted, what runs at once, clocks, garbage, and its bound.

That it keeps all rules of such a store is shown in tests/testing, over a store in a dict and over the one in a file.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import count
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from starsessions.exceptions import BackendUnavailable
from starsessions.stores import Conflict, Entry, MemoryStore, Owner, Version, listed
from starsessions.stores.listed import ListedStore, as_indexing, list_key
from starsessions.testing.conformance.interleaving import Schedule, in_every_order, step
from starsessions.testing.conformance.right_stores import Entries, ListsWithGaps, Right
from tests.rows import rows

pytestmark = [pytest.mark.anyio, pytest.mark.once]

NOW, LIFE = 1_800_000_000, 100
ALICE, BOB = Owner("alice", NOW), Owner("bob", NOW)
LIST = list_key("alice")
START = b"l1." + LIST[:8].encode()

Verb = Callable[..., Awaitable[Any]]


class Database:
    """A store of four methods. `before` and `after` are awaited around each call, with the number of the call."""

    def __init__(self) -> None:
        self.entries = Entries()
        self.calls: list[str] = []
        self._store = Right(self.entries)

    async def before(self) -> None: ...

    async def after(self) -> None: ...

    async def _call(self, verb: str, *args: Any, **instants: Any) -> Any:
        self.calls.append(verb)
        await self.before()
        result = await getattr(self._store, verb)(*args, **instants)
        if instants.get("expires_at", instants["now"] + 1) <= instants["now"]:
            del self.entries[args[0]]  # as databases do that count the time that is left
        await self.after()
        return result

    async def get(self, key: str, *, now: int) -> Entry | None:
        found: Entry | None = await self._call("get", key, now=now)
        return found

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int) -> Version:
        return await self._call("create", key, value, expires_at=expires_at, now=now)

    async def replace(self, key: str, value: bytes, version: Version, *, expires_at: int, now: int) -> Version:
        return await self._call("replace", key, value, version, expires_at=expires_at, now=now)

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        deleted: bool = await self._call("delete", key, version, now=now)
        return deleted


async def keys_of(store: ListedStore, name: str, now: int = 0) -> list[str]:
    return [key for key, _ in (await store.list_owned(name, limit=1000, now=now)).entries]


async def check_all_is_listed(database: Database) -> None:
    """Each entry is in the listing of its owner, and in no other."""
    store = ListedStore(Right(database.entries))
    owned: dict[str, list[str]] = {"alice": [], "bob": []}
    for key in sorted(database.entries.keys() - map(list_key, owned), reverse=True):
        entry = await store.get(key, now=0)
        if entry and entry.value:
            owned.setdefault(entry.value.decode(), []).append(key)
    for name in ("alice", "bob"):
        assert sorted(await keys_of(store, name), reverse=True) == owned[name], "an entry that exists is not listed"
        assert await store.count_owned(name, most=1000, now=0) >= len(owned[name])
        for key in owned[name]:
            ends_at = database.entries[list_key(name)].expires_at
            assert database.entries[key].expires_at <= ends_at, "the list expires first"


# What a request does: each returns what to call on a store that has the entry "old" of alice, with this version. The
# value of each entry is the name of its owner.


def creating(store: ListedStore, version: Version) -> Awaitable[Any]:
    return store.create("new", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)


def renewing(store: ListedStore, version: Version) -> Awaitable[Any]:
    return store.replace("old", b"alice", version, expires_at=NOW + 9 * LIFE, now=NOW, owner=ALICE)


def moving(store: ListedStore, version: Version) -> Awaitable[Any]:
    return store.replace("old", b"bob", version, expires_at=NOW + LIFE, now=NOW, owner=BOB)


def dropping(store: ListedStore, version: Version) -> Awaitable[Any]:
    return store.replace("old", b"nobody", version, expires_at=NOW + LIFE, now=NOW)


def deleting(store: ListedStore, version: Version) -> Awaitable[Any]:
    return store.delete("old", version, now=NOW)


def ending(store: ListedStore, version: Version) -> Awaitable[Any]:
    return store.delete("old", now=0)


def recreating(store: ListedStore, version: Version) -> Awaitable[Any]:
    return store.create("old", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)


def giving(store: ListedStore, version: Version) -> Awaitable[Any]:
    return store.create("given", b"bob", expires_at=NOW + LIFE, now=NOW, owner=BOB)


def taking(store: ListedStore, version: Version) -> Awaitable[Any]:
    return store.create("old", b"bob", expires_at=NOW + LIFE, now=NOW, owner=BOB)


WORKS = [creating, renewing, moving, dropping, deleting, ending, recreating, giving, taking]


@pytest.fixture(params=["one process", "two processes", "a full list"])
def processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many processes there are. With a list of one place, each write finds it full."""
    if request.param == "a full list":
        monkeypatch.setattr(listed, "MOST_LISTED", 1)
    return 1 if request.param == "one process" else 2


class Fails(Database):
    """It fails at one call, or has done the work and fails then."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 10**9
        self.has_done_it = False

    async def before(self) -> None:
        if len(self.calls) == self.at and not self.has_done_it:
            raise BackendUnavailable("down")

    async def after(self) -> None:
        if len(self.calls) == self.at and self.has_done_it:
            raise BackendUnavailable("down")


@rows("has_done_it", [False, True])
@rows("work", WORKS, ids=lambda work: work.__name__)
async def test_whatever_is_interrupted_an_entry_that_exists_is_listed(
    work: Callable[[ListedStore, Version], Awaitable[Any]], has_done_it: bool, processes: int
) -> None:
    for at in count(1):
        database = Fails()
        store = ListedStore(database)
        version = await store.create("old", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
        database.at, database.has_done_it = len(database.calls) + at, has_done_it
        try:
            await work(store, version)
        except BackendUnavailable:
            pass
        except Conflict:
            assert work in (recreating, taking)
        await check_all_is_listed(database)
        if len(database.calls) < database.at:
            break


class Waits(Database):
    async def before(self) -> None:
        await anyio.lowlevel.checkpoint()


class Steps(Database):
    async def before(self) -> None:
        await step()


@pytest.mark.parametrize("one", WORKS, ids=lambda work: work.__name__)
async def test_in_every_order_of_two_requests_an_entry_that_exists_is_listed(one: Any, processes: int) -> None:
    for other in WORKS[WORKS.index(one) :]:

        async def scenario(schedule: Schedule, other: Any = other) -> None:
            database = Steps()
            store = ListedStore(database)
            second = store if processes == 1 else ListedStore(database)
            version = await store.create("old", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)

            async def run(work: Any, store: ListedStore) -> None:
                with suppress(Conflict):
                    await work(store, version)

            await schedule.together(one=lambda: run(one, store), other=lambda: run(other, second))
            await check_all_is_listed(database)

        await in_every_order(scenario)


async def test_parallel_creates_and_deletes_of_one_owner_lose_none() -> None:
    async def scenario(schedule: Schedule) -> None:
        database = Steps()
        store = ListedStore(database)
        for key in ("a", "b"):
            await store.create(key, b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
        await schedule.together(
            one=lambda: store.create("c", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE),
            other=lambda: store.delete("a", now=0),
        )
        assert await keys_of(store, "alice") == ["c", "b"]
        assert await store.count_owned("alice", most=1000, now=NOW) == 2

    assert await in_every_order(scenario) > 10


@rows("count", [1, 2])
async def test_what_parallel_requests_want_of_a_list_is_written_together(count: int) -> None:
    database = Waits()
    stores = [ListedStore(database) for _ in range(count)]
    keys = [f"{n:02}" for n in range(40)]

    async def create(n: int, key: str) -> None:
        await stores[n % count].create(key, b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)

    async def delete(n: int, key: str) -> None:
        await stores[n % count].delete(key, now=0)

    for work, each in ((create, 3), (delete, 5)):
        database.calls.clear()
        async with anyio.create_task_group() as tasks:
            for n, key in enumerate(keys):
                tasks.start_soon(work, n, key)
        assert len(database.calls) <= count * each * len(keys), "each request fights with all others"
        await check_all_is_listed(database)
        assert sorted(await keys_of(stores[0], "alice")) == (keys if work is create else [])
    assert dict(database.entries) == {}


async def test_a_cancelled_request_keeps_no_other_from_changing_the_list() -> None:
    database = Waits()
    store = ListedStore(database)
    for patience in range(12):
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(cancelled_after, patience, scope)
                await store.create(f"cancelled-{patience}", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
        await store.create(f"{patience}", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
        await check_all_is_listed(database)
    assert [str(n) for n in range(12)] == sorted(
        (key for key in await keys_of(store, "alice") if "-" not in key), key=int
    )


async def cancelled_after(patience: int, scope: anyio.CancelScope) -> None:
    for _ in range(patience):
        await anyio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_list_that_others_always_change_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed, "MAX_TRIES", 3)
    database = Database()

    async def overtaken() -> None:
        if database.calls[-1] == "replace":
            database.entries[LIST] = database.entries[LIST]._replace(version=len(database.calls))

    store = ListedStore(database)
    await store.create("a", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    database.before = overtaken  # type: ignore[method-assign]
    with pytest.raises(BackendUnavailable, match="on every attempt: try again"):
        await store.create("b", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    assert "b" not in database.entries


async def test_a_list_that_another_request_removes_is_made_anew() -> None:
    database = Database()

    async def overtaken() -> None:
        if database.calls[-1] == "replace":
            database.entries.pop(LIST, None)

    store = ListedStore(database)
    await store.create("a", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    database.before = overtaken  # type: ignore[method-assign]
    await store.create("b", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    assert await keys_of(store, "alice") == ["b"]


# What it costs


@pytest.mark.parametrize("owner", [None, ALICE])
async def test_what_each_call_costs(owner: Owner | None) -> None:
    database = Database()
    store = ListedStore(database)

    async def cost(call: Awaitable[Any]) -> tuple[Any, str]:
        before = len(database.calls)
        return await call, " ".join(database.calls[before:])

    version, first = await cost(store.create("a", b"", expires_at=NOW + LIFE, now=NOW, owner=owner))
    _, second = await cost(store.create("b", b"", expires_at=NOW + LIFE, now=NOW, owner=owner))
    version, renewed = await cost(store.replace("a", b"", version, expires_at=NOW + 2 * LIFE, now=NOW, owner=owner))
    version, extended = await cost(store.replace("a", b"", version, expires_at=NOW + 3 * LIFE, now=NOW, owner=owner))
    version, moved = await cost(store.replace("a", b"", version, expires_at=NOW + LIFE, now=NOW, owner=owner and BOB))
    assert await store.count_owned("alice", most=1000, now=NOW) == (1 if owner else 0)
    _, read = await cost(store.get("a", now=NOW))
    _, deleted = await cost(store.delete("a", version, now=NOW))
    _, ended = await cost(store.delete("b", now=NOW))
    if owner is None:
        assert (first, second, renewed, extended, moved) == ("create", "create", "replace", "replace", "replace")
        assert (read, deleted, ended) == ("get", "delete", "get delete")
    else:
        assert (first, second) == ("get create create", "get replace create")
        assert (renewed, extended) == ("get replace", "get replace replace")  # a place is kept for twice the lifetime
        assert moved == "get create replace get replace"
        assert (read, deleted, ended) == ("get", "delete get delete", "get delete get delete")
        assert dict(database.entries) == {}, "a list without places is left"


async def test_a_page_reads_its_entries_only() -> None:
    database = Database()
    store = ListedStore(database)
    for n in range(20):
        await store.create(f"{n:02}", b"", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    database.calls.clear()
    page = await store.list_owned("alice", limit=5, now=NOW)
    assert [key for key, _ in page.entries] == ["19", "18", "17", "16", "15"]
    assert database.calls == ["get"] * 6
    assert (await store.list_owned("alice", limit=20, now=NOW)).after is None


async def test_a_place_is_forgotten_after_twice_the_lifetime_of_its_entry() -> None:
    database = Database()
    store = ListedStore(database)
    await store.create("a", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    assert await store.count_owned("alice", most=1000, now=NOW + 2 * LIFE - 1) == 1
    assert await store.count_owned("alice", most=1000, now=NOW + 2 * LIFE) == 0
    now = NOW + 2 * LIFE
    await store.create("b", b"alice", expires_at=now + LIFE, now=now, owner=ALICE)
    assert await store.count_owned("alice", most=1000, now=0) == 1
    assert "a" not in database.entries, "an entry is stored that is on no list"


async def test_the_list_of_another_owner_counts_as_empty() -> None:
    database = Database()
    store = ListedStore(database)
    await store.create("key", b"", expires_at=NOW + LIFE, now=NOW, owner=Owner("clara", NOW))
    database.entries[LIST] = database.entries[list_key("clara")]
    assert await store.count_owned("alice", most=1000, now=NOW) == 0


async def test_a_full_list_is_smaller_than_64_kib() -> None:
    database = Database()
    store = ListedStore(database)
    for n in range(listed.MOST_LISTED):
        await store.create(f"{n:043}", b"", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    assert len(database.entries[LIST].value) < 64 * 1024
    assert await store.count_owned("alice", most=1000, now=NOW) == 1000


# A full list


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed, "MOST_LISTED", 3)


async def filled(store: ListedStore, since: int = NOW) -> list[Version]:
    return [
        await store.create(key, b"alice", expires_at=NOW + LIFE, now=NOW, owner=Owner("alice", since + n))
        for n, key in enumerate("abc")
    ]


async def test_a_full_list_of_live_entries_ends_the_oldest(three: None) -> None:
    database = Database()
    store = ListedStore(database)
    await filled(store)
    await store.create("d", b"alice", expires_at=NOW + LIFE, now=NOW, owner=Owner("alice", NOW + 9))
    assert await keys_of(store, "alice") == ["d", "c", "b"]
    assert "a" not in database.entries, "an entry is alive that is on no list"
    await store.create("e", b"alice", expires_at=NOW + LIFE, now=NOW, owner=Owner("alice", NOW - 9))
    assert await keys_of(store, "alice") == ["d", "c", "e"]
    await store.create("f", b"alice", expires_at=NOW + LIFE, now=NOW, owner=Owner("alice", NOW))
    assert await keys_of(store, "alice") == ["d", "c", "f"], "it did not end the one that signed in first"


@rows("ended", ["missing", "expired", "of another owner", "without an owner"])
async def test_a_full_list_forgets_what_has_ended_before_it_ends_an_entry(ended: str, three: None) -> None:
    database = Database()
    store = ListedStore(database)
    await filled(store)
    now = NOW
    if ended == "missing":
        del database.entries["b"]  # by a request that was killed before it changed the list
    elif ended == "expired":
        database.entries["b"] = database.entries["b"]._replace(expires_at=NOW + 1)
        now += 1
    else:
        other = ListedStore(Right(Entries()))
        await other.create("b", b"", expires_at=NOW + LIFE, now=NOW, owner=BOB if ended == "of another owner" else None)
        found = await other.get("b", now=NOW)
        assert found is not None
        database.entries["b"] = Entry(b"without an owner", NOW + LIFE, "another")
    await store.create("d", b"alice", expires_at=NOW + LIFE, now=now, owner=ALICE)
    assert await keys_of(store, "alice") == ["c", "d", "a"]
    assert await store.count_owned("alice", most=1000, now=now) == 3


async def test_a_place_whose_time_has_passed_is_forgotten_without_a_trace(three: None) -> None:
    database = Database()
    store = ListedStore(database)
    await filled(store)
    for key in "abc":
        del database.entries[key]
    now = NOW + 3 * LIFE
    await store.create("d", b"alice", expires_at=now + LIFE, now=now, owner=ALICE)
    assert (await keys_of(store, "alice"), sorted(database.entries)) == (["d"], sorted(["d", LIST]))


# Clocks


@rows("ahead", [LIFE, 2 * LIFE, 3 * LIFE, 10**6])
async def test_a_clock_that_is_fast_leaves_no_entry_unlisted(ahead: int) -> None:
    database = Database()
    store = ListedStore(database)
    await filled(store)
    fast = NOW + ahead
    await store.create("fast", b"alice", expires_at=fast + LIFE, now=fast, owner=Owner("alice", fast))
    await check_all_is_listed(database)
    assert (await keys_of(store, "alice", NOW))[0] == "fast"
    await store.delete("fast", now=fast)
    await check_all_is_listed(database)


@rows("end", ["a", "b"])
async def test_a_list_that_has_expired_by_a_fast_clock_keeps_its_other_places(end: str) -> None:
    database = Database()
    store = ListedStore(database)
    await store.create("a", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    await store.create("b", b"alice", expires_at=NOW + 9 * LIFE, now=NOW, owner=ALICE)
    await store.delete(end, now=NOW + 10**6)
    assert await keys_of(store, "alice", NOW) == ["b" if end == "a" else "a"]


async def test_an_entry_that_expired_and_is_deleted_leaves_the_list() -> None:
    database = Database()
    store = ListedStore(database)
    await store.create("key", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    assert await store.delete("key", now=NOW + LIFE) is False
    assert dict(database.entries) == {}


async def test_a_list_that_has_become_shorter_meanwhile_is_not_made_anew() -> None:
    database = Database()
    store, other = ListedStore(database), ListedStore(database)
    await store.create("long", b"alice", expires_at=NOW + 9 * LIFE, now=NOW, owner=ALICE)

    async def nothing() -> None: ...

    async def overtaken() -> None:
        if database.calls[-1] == "replace":
            database.before = nothing  # type: ignore[method-assign]
            await other.create("short", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
            await other.delete("long", now=NOW)  # the list expires when the place of the other entry does

    database.before = overtaken  # type: ignore[method-assign]
    fast = NOW + 4 * LIFE
    await store.create("fast", b"alice", expires_at=fast + LIFE, now=fast, owner=ALICE)
    await check_all_is_listed(database)


async def test_a_write_that_is_refused_does_not_shorten_a_list() -> None:
    async def scenario(schedule: Schedule) -> None:
        database = Steps()
        store = ListedStore(database)
        stale = await store.create("old", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
        await store.replace("old", b"alice", stale, expires_at=NOW + 9 * LIFE, now=NOW, owner=ALICE)

        async def refused() -> None:
            with pytest.raises(Conflict):
                await store.replace("old", b"", stale, expires_at=NOW + LIFE, now=NOW, owner=ALICE)

        await schedule.together(one=refused, other=lambda: creating(store, stale))
        await check_all_is_listed(database)

    await in_every_order(scenario)


async def test_a_list_is_kept_as_long_as_an_entry_that_has_expired_by_a_fast_clock() -> None:
    entries = Entries()
    store = ListedStore(Right(entries))
    await store.create("key", b"alice", expires_at=NOW + LIFE, now=NOW + 3 * LIFE, owner=ALICE)
    assert entries[LIST].expires_at >= entries["key"].expires_at
    assert await keys_of(store, "alice", NOW) == ["key"]


# Garbage

NOT_UTF_8 = START + b"\x91\x94\x01\xa1\xff\xc4\x00\x01"
NOT_A_KEY = START + b"\x91\x94\x01\xa2 \n\xc4\x00\x01"
TOO_LATE = START + b"\x91\x94\x01\xa1k\xc4\x00\xcf" + b"\xff" * 8


@rows(
    "garbage",
    [
        b"",
        START,
        START + b"\xff",
        START + b"\x91\x01",
        b"l1.bob\x90",
        b"\xc1\xc1",
        b"s" * 5000,
        NOT_UTF_8,
        NOT_A_KEY,
        TOO_LATE,
    ],
)
async def test_garbage_under_the_key_of_a_list_counts_as_empty(garbage: bytes) -> None:
    database = Database()
    store = ListedStore(database)
    version = await store.create("key", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    database.entries[LIST] = database.entries[LIST]._replace(value=garbage)
    assert await keys_of(store, "alice") == []
    assert await store.count_owned("alice", most=1000, now=NOW) == 0
    version = await store.replace("key", b"alice", version, expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    assert await keys_of(store, "alice") == ["key"], "an entry is not listed again when it is renewed"
    await store.delete("key", version, now=NOW)
    assert await store.count_owned("alice", most=1000, now=NOW) == 0


async def test_an_entry_that_lost_its_list_can_be_deleted() -> None:
    database = Database()
    store = ListedStore(database)
    version = await store.create("key", b"alice", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    del database.entries[LIST]
    assert await store.delete("key", version, now=NOW) is True
    assert dict(database.entries) == {}


@rows(
    "value",
    [
        b"\xc1",
        b"\xc1\xc1",
        b"\xc1\x92\xc0\xc4\x00",
        b"\xc1\x92\x92\x92\xa5alice\x01\xc4\x00\xc4\x00",
        b"\xc1l1",
        b"\xc1\x92\x92\x92\xa1\xff\x01\xc4\x00\xc4\x00",
    ],
)
@rows("owner", [None, ALICE])
async def test_a_value_cannot_be_taken_for_one_that_has_an_owner(value: bytes, owner: Owner | None) -> None:
    store = ListedStore(Database())
    await store.create("key", value, expires_at=NOW + LIFE, now=NOW, owner=owner)
    found = await store.get("key", now=NOW)
    assert found is not None
    assert found.value == value
    assert await keys_of(store, "alice") == (["key"] if owner else [])


async def test_a_value_that_was_damaged_is_read_as_it_is() -> None:
    database = Database()
    store = ListedStore(database)
    await store.create("key", b"value", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    whole = database.entries["key"]
    for damaged in (
        whole.value[:-1],
        *(whole.value.replace(b"alice", name) for name in (b"\xc3\xa9ice", b"\xffice", b"al ce")),
        b"\xc1",
        b"",
    ):
        database.entries["key"] = whole._replace(value=damaged)
        found = await store.get("key", now=NOW)
        assert found is not None
        assert found.value == damaged
        assert await keys_of(store, "alice") == []
    current = await store.get("key", now=NOW)
    assert current is not None
    version = await store.replace("key", b"new", current.version, expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    assert await keys_of(store, "alice") == ["key"]
    assert await store.delete("key", version, now=NOW) is True


# Which stores have the power


def called(**verbs: Any) -> Any:
    async def verb(*args: Any, **rest: Any) -> None: ...

    return SimpleNamespace(
        **dict.fromkeys(("get", "create", "replace", "delete", "list_owned", "count_owned"), verb) | verbs
    )


async def create_without_an_owner(key: str, value: bytes, *, expires_at: int, now: int) -> None: ...


@rows(
    ("store", "has_it"),
    [
        (MemoryStore(), True),
        (ListsWithGaps(Entries()), True),
        (ListedStore(Database()), True),
        (called(), True),
        (Database(), False),
        (called(create=create_without_an_owner), False),
    ],
    ids=lambda store: type(store).__name__,
)
async def test_a_store_gets_the_power_unless_it_has_it(store: Any, has_it: bool) -> None:
    assert (as_indexing(store) is store) == has_it
    assert has_it or isinstance(as_indexing(store), ListedStore)


async def test_an_entry_that_moves_to_another_key_while_a_page_is_read_is_on_it() -> None:
    """As a rotation moves it: the new entry is written before the old one leaves its owner. The page would have neither
    if the list was read before that, and the entries afterwards.
    """
    database = Database()
    store, other = ListedStore(database), ListedStore(Right(database.entries))
    version = await store.create("old", b"1", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    moved = False

    async def move() -> None:
        nonlocal moved
        if not moved:
            moved = True
            await other.create("new", b"1", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
            await other.replace("old", b"2", version, expires_at=NOW + LIFE, now=NOW)

    database.after = move  # type: ignore[method-assign]
    page = await store.list_owned("alice", limit=10, now=NOW)
    assert [key for key, _ in page.entries] == ["new"]


async def test_a_page_that_changes_whenever_it_is_read_is_returned_in_the_end() -> None:
    database, numbers = Database(), count()
    store, other = ListedStore(database), ListedStore(Right(database.entries))
    for key in ("key", "missing"):
        await store.create(key, b"1", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
    del database.entries["missing"]

    async def add() -> None:
        key = f"new-{next(numbers)}"
        await other.create(key, b"1", expires_at=NOW + LIFE, now=NOW, owner=ALICE)
        del database.entries[key]  # its place is left

    database.after = add  # type: ignore[method-assign]
    assert "key" in [key for key, _ in (await store.list_owned("alice", limit=1000, now=NOW)).entries]
