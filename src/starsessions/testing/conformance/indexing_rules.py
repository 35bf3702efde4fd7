"""The contract of `Indexing`, the optional power of a store, as one rule for each of its guarantees.

As in the rules of a store, time advances by passing a later `now`; `now=0` asks for all that is stored.
"""

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from anyio import create_task_group
from anyio.lowlevel import checkpoint

from starsessions.stores.base import Conflict, Entry, Indexing, Owner, Store, Sweeping
from starsessions.stores.listed import is_indexing
from starsessions.testing.conformance.checks import (
    ALPHABET,
    AT_ONCE,
    LIFE,
    ROUNDS,
    at_once,
    check_entry,
    connections,
    refused,
)
from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import StoreFixture

INDEXING: Contract[StoreFixture] = Contract(
    {
        "owners": "the store lists the entries of an owner: `list_owned`, `count_owned`, and the argument `owner`",
    }
)
"""The contract of a store that is `Indexing`."""

_Work = Callable[[], Coroutine[Any, Any, Any]]

MANY = 130
"""More than the usual size of a batch."""

MOST_COUNTED = 1000
"""More than the entries of any owner in these rules."""


# Listing


@INDEXING.rule("owners")
async def an_owned_entry_is_listed_at_once(place: StoreFixture) -> None:
    """After each write, the listing of the owner has the entry, with its value, deadline and version."""
    store, now = await _indexing(place), place.now
    assert await _all(store, "alice", now) == [], "the listing of an owner who never had an entry is not empty"
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now, owner=Owner("alice", now))
    [(key, entry)] = await _all(store, "alice", now)
    assert key == "key", "the listing has another key than the one that was written"
    check_entry(entry, b"value", now + LIFE, version)
    check_entry(await store.get("key", now=now), b"value", now + LIFE, version)
    version = await store.replace("key", b"new", version, expires_at=now + 2 * LIFE, now=now, owner=Owner("alice", now))
    [(key, entry)] = await _all(store, "alice", now)
    check_entry(entry, b"new", now + 2 * LIFE, version)


@INDEXING.rule("owners")
async def an_owner_sees_no_entry_of_others(place: StoreFixture) -> None:
    """A listing has neither the entries of other owners, nor those without an owner."""
    store, now = await _indexing(place), place.now
    for name in ("alice", "bob"):
        await store.create(f"of-{name}", b"value", expires_at=now + LIFE, now=now, owner=Owner(name, now))
    await store.create("unowned", b"value", expires_at=now + LIFE, now=now)
    for name in ("alice", "bob"):
        assert await _keys(store, name, now) == [f"of-{name}"], "a listing has not exactly the entries of its owner"


@INDEXING.rule("owners")
async def owner_names_are_compared_whole_and_with_case(place: StoreFixture) -> None:
    """The name of an owner has 1 to 128 of the characters A-Z a-z 0-9 - _, and every character is significant."""
    store, now = await _indexing(place), place.now
    long = (ALPHABET * 2)[:127]
    names = ["a", "owner", "OWNER", "Owner", "owner-2", "own", "own_r", long + "x", long + "y", long]
    for n, name in enumerate(names):
        await store.create(f"key-{n}", b"value", expires_at=now + LIFE, now=now, owner=Owner(name, now))
    for n, name in enumerate(names):
        assert await _keys(store, name, now) == [f"key-{n}"], f"{name} has the entries of another owner"
        counted = await store.count_owned(name, most=MOST_COUNTED, now=now)
        assert counted == 1, f"count_owned returned {counted} for the one entry of {name}"


@INDEXING.rule("owners")
async def the_name_of_an_owner_may_be_the_key_of_an_entry(place: StoreFixture) -> None:
    """An entry whose key is the name of an owner is one like any other, and the listing stays as it is."""
    store, now = await _indexing(place), place.now
    await store.create("key", b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", now))
    assert await store.get("owner", now=now) is None, "there is an entry that was never written"
    version = await store.create("owner", b"old", expires_at=now + LIFE, now=now)
    version = await store.replace("owner", b"new", version, expires_at=now + LIFE, now=now)
    check_entry(await store.get("owner", now=now), b"new", now + LIFE, version)
    assert await _keys(store, "owner", now) == ["key"], "the listing has not exactly the entries of its owner"
    await store.delete("owner", version, now=now)
    assert await _keys(store, "owner", now) == ["key"], "the listing has ended with another entry"


@INDEXING.rule("owners")
async def the_newest_entries_come_first(place: StoreFixture) -> None:
    """Entries are listed in descending order of `since`, as numbers, and of the key, as its characters are in ASCII."""
    store, now = await _indexing(place), place.now
    cursors = [(9, "nine"), (10, "ten"), (100, "hundred"), (2**31, "later"), (2**32 + 5, "last"), (0, "first")]
    cursors += [(now, key) for key in ("a", "Z", "_", "A", "z", "-", "0", "9", "aa", "aB", "Aa")]
    for since, key in cursors:
        await store.create(key, b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", since))
    keys = await _keys(store, "owner", now)
    wanted = [key for _, key in sorted(cursors, reverse=True)]
    assert keys == wanted, f"the order is {keys} instead of {wanted}"


# Pages


@INDEXING.rule("owners")
async def pages_are_complete_and_disjoint(place: StoreFixture) -> None:
    """Pages of any size have each entry once, in order, and none has more entries than its limit."""
    store, now = await _indexing(place), place.now
    cursors = [(now + n // 3, f"key-{n}") for n in range(8)]
    for since, key in cursors:
        await store.create(key, b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", since))
    wanted = [key for _, key in sorted(cursors, reverse=True)]
    for limit in (1, 2, 3, 7, 8, 9):
        keys = await _keys(store, "owner", now, limit)
        assert keys == wanted, f"pages of {limit} have {keys} instead of {wanted}"


@INDEXING.rule("owners")
async def pages_go_on_after_entries_that_have_expired(place: StoreFixture) -> None:
    """Pages are complete if so many entries have expired, or were deleted, that a whole page might be of them."""
    store, now = await _indexing(place), place.now
    for n in range(12):
        life = LIFE if 2 <= n < 7 else 2 * LIFE
        await store.create(f"key-{n:02}", b"value", expires_at=now + life, now=now, owner=Owner("owner", now + n))
    for n in (7, 8):
        await store.delete(f"key-{n:02}", now=now)
    for limit in (1, 2, 5):
        keys = await _keys(store, "owner", now + LIFE, limit)
        wanted = [f"key-{n:02}" for n in (11, 10, 9, 1, 0)]
        assert keys == wanted, f"pages of {limit} have {keys} instead of {wanted}, the entries that have not expired"


@INDEXING.rule("owners")
async def pages_miss_nothing_while_others_come_and_go(place: StoreFixture) -> None:
    """While entries are added and deleted between two pages, each entry that stays is listed once."""
    store, now = await _indexing(place), place.now

    async def add(key: str, since: int) -> None:
        await store.create(key, b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", since))

    since = {f"key-{n:02}": now + 10 * n for n in range(20)}
    for key, instant in since.items():
        await add(key, instant)
    seen: list[str] = []
    deleted: set[str] = set()
    after = None
    turn = 0
    while True:
        assert turn < 20, "the pages never end"
        page = await store.list_owned("owner", limit=3, now=now, after=after)
        seen += [key for key, _ in page.entries]
        if page.after is None:
            break
        after = page.after
        await add(f"newer-{turn}", now + 1000 + turn)
        for key in seen[-1:]:  # at the end of the page
            await add(f"{key}-{turn}", since[key])  # it belongs on that page, before this one
        for key in (*seen[-1:], f"key-{turn:02}"):
            deleted.add(key)
            await store.delete(key, now=now)
        turn += 1
    stayed = [key for key in seen if key not in deleted]
    wanted = [key for key in reversed(since) if key not in deleted]
    assert stayed == wanted, f"the pages have {stayed} of the entries that stayed, instead of {wanted}"
    assert len(seen) == len(set(seen)), "an entry is on two pages"


@INDEXING.rule("owners")
async def an_owner_may_have_many_entries(place: StoreFixture) -> None:
    """More than a hundred entries of one owner are listed and counted."""
    store, now = await _indexing(place), place.now
    for n in range(MANY):
        await store.create(f"key-{n:03}", b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", now + n))
    wanted = [f"key-{n:03}" for n in reversed(range(MANY))]
    for limit in (50, 2 * MANY):
        keys = await _keys(store, "owner", now, limit)
        assert keys == wanted, f"pages of {limit} have {len(set(keys))} of {MANY} entries"
    counted = await store.count_owned("owner", most=MOST_COUNTED, now=now)
    assert counted == MANY, f"count_owned returned {counted} for {MANY} entries"


# Owners


@INDEXING.rule("owners")
async def replace_keeps_the_place_of_an_entry(place: StoreFixture) -> None:
    """An entry that is replaced with the same owner is listed once, where it was. With another `since` it moves."""
    store, now = await _indexing(place), place.now
    versions = [
        await store.create(f"key-{n}", b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", now + n))
        for n in range(3)
    ]
    version = versions[1]
    for value in (b"second", b"third"):
        version = await store.replace(
            "key-1", value, version, expires_at=now + 2 * LIFE, now=now, owner=Owner("owner", now + 1)
        )
    keys = await _keys(store, "owner", now)
    assert keys == ["key-2", "key-1", "key-0"], f"after a replace, the listing is {keys}"
    counted = await store.count_owned("owner", most=MOST_COUNTED, now=now)
    assert counted == 3, f"count_owned returned {counted} for 3 entries, one of which was replaced twice"
    await store.replace("key-0", b"value", versions[0], expires_at=now + LIFE, now=now, owner=Owner("owner", now + 9))
    keys = await _keys(store, "owner", now)
    assert keys == ["key-0", "key-2", "key-1"], f"after a replace with another since, the listing is {keys}"


@INDEXING.rule("owners")
async def replace_gives_an_entry_to_its_new_owner(place: StoreFixture) -> None:
    """An entry that is replaced with another owner, or with its first one, is in the listing of the new owner only."""
    store, now = await _indexing(place), place.now
    of_alice = await store.create("of-alice", b"value", expires_at=now + LIFE, now=now, owner=Owner("alice", now))
    unowned = await store.create("unowned", b"value", expires_at=now + LIFE, now=now)
    to_bob = Owner("bob", now)
    of_bob = await store.replace("of-alice", b"new", of_alice, expires_at=now + LIFE, now=now, owner=to_bob)
    await store.replace("unowned", b"new", unowned, expires_at=now + LIFE, now=now, owner=to_bob)
    assert await _keys(store, "alice", now) == [], "an entry is in the listing of its former owner"
    assert await _keys(store, "bob", now) == ["unowned", "of-alice"], "an entry is not listed by its new owner"
    counted = await store.count_owned("bob", most=MOST_COUNTED, now=now)
    assert counted == 2, f"count_owned returned {counted} for 2 entries that the owner was given"
    await store.replace("of-alice", b"back", of_bob, expires_at=now + LIFE, now=now, owner=Owner("alice", now))
    assert await _keys(store, "alice", now) == ["of-alice"], "an entry that came back is not listed by its owner"
    assert await _keys(store, "bob", now) == ["unowned"], "an entry is in the listing of its former owner"


@INDEXING.rule("owners")
async def replace_without_an_owner_ends_the_listing(place: StoreFixture) -> None:
    """An entry that is replaced without an owner is in no listing."""
    store, now = await _indexing(place), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", now))
    version = await store.replace("key", b"new", version, expires_at=now + LIFE, now=now)
    assert await _keys(store, "owner", now) == [], "an entry without an owner is in the listing of its former owner"
    check_entry(await store.get("key", now=now), b"new", now + LIFE, version)


@INDEXING.rule("owners")
async def a_refused_write_changes_no_owner(place: StoreFixture) -> None:
    """A `create` or `replace` that raises `Conflict` leaves the entry with its owner, and gives none to another."""
    store, now = await _indexing(place), place.now
    old = await store.create("key", b"first", expires_at=now + LIFE, now=now, owner=Owner("alice", now))
    version = await store.replace("key", b"value", old, expires_at=now + LIFE, now=now, owner=Owner("alice", now))
    for owner in (Owner("bob", now), Owner("alice", now + 1), None):
        await refused(store.create("key", b"late", expires_at=now + LIFE, now=now, owner=owner))
        await refused(store.replace("key", b"late", old, expires_at=now + LIFE, now=now, owner=owner))
        await refused(store.replace("missing", b"late", old, expires_at=now + LIFE, now=now, owner=owner))
    assert await _keys(store, "bob", now) == [], "a rejected write gave an entry to another owner"
    [(key, entry)] = await _all(store, "alice", now)
    assert key == "key", "a rejected write is in the listing"
    check_entry(entry, b"value", now + LIFE, version)


@INDEXING.rule("owners")
async def a_deleted_entry_leaves_the_listing(place: StoreFixture) -> None:
    """After a `delete`, with or without a version, the entry is in no listing, nor is a later one under its key."""
    store, now = await _indexing(place), place.now
    for key in ("any", "version", "stays"):
        version = await store.create(key, b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", now))
        if key != "stays":
            await store.delete(key, version if key == "version" else None, now=now)
    assert await _keys(store, "owner", now) == ["stays"], "the listing has a deleted entry, or lacks another"
    for key in ("any", "version"):
        await store.create(key, b"unowned", expires_at=now + LIFE, now=now)
    assert await _keys(store, "owner", now) == ["stays"], "an entry is listed by the owner of an earlier entry"
    await store.delete("stays", now=0)
    await store.create("stays", b"of another", expires_at=now + LIFE, now=now, owner=Owner("another", now))
    assert await _keys(store, "owner", now) == [], "an entry is listed by the owner of an earlier entry"
    assert await _keys(store, "another", now) == ["stays"], "an entry under a key that was used before is not listed"


# Time


@INDEXING.rule("owners")
async def an_expired_entry_leaves_the_listing(place: StoreFixture) -> None:
    """An entry is listed until one second before its deadline. A later one under its key has the later one's owner."""
    store, now = await _indexing(place), place.now
    for key in ("key", "other", "another"):
        await store.create(key, b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", now))
    keys = await _keys(store, "owner", now + LIFE - 1)
    assert keys == ["other", "key", "another"], f"one second before the deadline, the listing is {keys}"
    then = now + LIFE
    assert await _keys(store, "owner", then) == [], "the listing has an entry at its deadline"
    await store.create("key", b"unowned", expires_at=then + LIFE, now=then)
    await store.create("other", b"of another", expires_at=then + LIFE, now=then, owner=Owner("new", then))
    assert await _keys(store, "owner", then) == [], "an entry is listed by the owner of an expired one"
    assert await _keys(store, "new", then) == ["other"], "an entry under the key of an expired one is not listed"


@INDEXING.rule("owners")
async def each_write_sets_how_long_an_entry_is_listed(place: StoreFixture) -> None:
    """An entry is listed for as long as its latest write says, however often and far that has been extended."""
    store, now, owner = await _indexing(place), place.now, Owner("owner", place.now)
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now, owner=owner)
    for life in (2 * LIFE, 3 * LIFE, 100 * LIFE, 10**9):
        version = await store.replace("key", b"value", version, expires_at=now + life, now=now, owner=owner)
        assert await _keys(store, "owner", now + life - 1) == ["key"], "an entry that was extended is not listed"
        counted = await store.count_owned("owner", most=MOST_COUNTED, now=now + life - 1)
        assert counted == 1, f"count_owned returned {counted} for an entry that was extended"
    await store.replace("key", b"value", version, expires_at=now + LIFE, now=now, owner=owner)
    assert await _keys(store, "owner", now + LIFE) == [], "an entry is listed at the deadline of its latest write"


@INDEXING.rule("owners")
async def at_time_0_all_that_is_stored_is_listed(place: StoreFixture) -> None:
    """With `now=0` each entry that `get` finds is listed and counted, also if a fast clock has been used before."""
    store, now, fast = await _indexing(place), place.now, place.now + 3 * LIFE
    for key, life in {"short": LIFE, "medium": 2 * LIFE, "lives": 9 * LIFE}.items():
        await store.create(key, b"value", expires_at=now + life, now=now, owner=Owner("owner", now))
    assert await _keys(store, "owner", fast) == ["lives"], "the listing has not exactly what has not expired"
    await store.create("fast", b"value", expires_at=fast + LIFE, now=fast, owner=Owner("owner", fast))
    await store.delete("fast", now=fast)
    await store.count_owned("owner", most=MOST_COUNTED, now=fast)
    found = [key for key in ("short", "medium", "lives") if await store.get(key, now=0) is not None]
    assert "lives" in found, "an entry that has not expired by any clock is missing"
    keys = await _keys(store, "owner", 0)
    assert sorted(keys) == sorted(found), f"with now=0, {found} are found by their keys, but {keys} are listed"
    counted = await store.count_owned("owner", most=MOST_COUNTED, now=0)
    assert counted >= len(found), f"count_owned returned {counted} for {len(found)} entries"


@INDEXING.rule("owners")
async def count_owned_misses_no_entry(place: StoreFixture) -> None:
    """`count_owned` counts each entry once. It may count those that were deleted or expired as well."""
    store, now = await _indexing(place), place.now
    counted = await store.count_owned("owner", most=MOST_COUNTED, now=now)
    assert counted == 0, f"count_owned returned {counted} for an owner who never had an entry"
    for n in range(5):
        life = LIFE if n < 2 else 2 * LIFE
        await store.create(f"key-{n}", b"value", expires_at=now + life, now=now, owner=Owner("owner", now + n))
        counted = await store.count_owned("owner", most=MOST_COUNTED, now=now)
        assert counted == n + 1, f"count_owned returned {counted} for {n + 1} entries"
    await store.delete("key-4", now=now)
    for then, live in ((now, 4), (now + LIFE, 2)):
        counted = await store.count_owned("owner", most=MOST_COUNTED, now=then)
        assert live <= counted <= 5, f"count_owned returned {counted} for {live} entries, and at most 5 at any time"


@INDEXING.rule("owners")
async def count_owned_says_that_there_are_more_than_asked_for(place: StoreFixture) -> None:
    """`count_owned` returns more than `most` if an owner has more entries, and the number of them otherwise."""
    store, now = await _indexing(place), place.now
    for n in range(7):
        await store.create(f"key-{n}", b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", now + n))
    for most in (1, 5, 6):
        counted = await store.count_owned("owner", most=most, now=now)
        assert counted > most, f"count_owned returned {counted} for 7 entries, which are more than {most}"
    for most in (7, 8):
        counted = await store.count_owned("owner", most=most, now=now)
        assert counted == 7, f"count_owned returned {counted} for 7 entries, which are not more than {most}"


# Concurrency


@INDEXING.rule("owners")
async def parallel_creates_of_one_owner_lose_none(place: StoreFixture) -> None:
    """Many entries that are created concurrently for one owner are all listed and counted."""
    stores, now = await _connections(place), place.now
    for n in range(ROUNDS):
        name = f"owner-{n}"
        await _together(
            [
                partial(store.create, f"{n}-{m:02}", b"", expires_at=now + LIFE, now=now, owner=Owner(name, now + m))
                for m, store in enumerate(stores)
            ]
        )
        wanted = [f"{n}-{m:02}" for m in reversed(range(AT_ONCE))]
        keys = await _keys(stores[1], name, now)
        assert keys == wanted, f"of {AT_ONCE} entries that were created concurrently, {len(keys)} are listed"
        counted = await stores[2].count_owned(name, most=MOST_COUNTED, now=now)
        assert counted == AT_ONCE, f"count_owned returned {counted} for {AT_ONCE} entries"


@INDEXING.rule("owners")
async def creating_and_deleting_commute(place: StoreFixture) -> None:
    """While entries of an owner are deleted and renewed, others are created for the same owner: none is lost."""
    stores, now = await _connections(place), place.now
    for n in range(ROUNDS):
        owner, old, renewed = Owner(f"owner-{n}", now), f"old-{n}", f"renewed-{n}"
        versions = [
            await stores[0].create(f"{renewed}-{m}", b"", expires_at=now + LIFE, now=now, owner=owner) for m in range(4)
        ]
        for m in range(4):
            await stores[0].create(f"{old}-{m}", b"", expires_at=now + LIFE, now=now, owner=owner)
        works: list[_Work] = []
        for m in range(4):
            one, two, three = stores[3 * m], stores[3 * m + 1], stores[3 * m + 2]
            life = (m + 2) * LIFE
            works += [
                partial(one.create, f"new-{n}-{m}", b"", expires_at=now + life, now=now, owner=owner),
                partial(two.delete, f"{old}-{m}", now=now),
                partial(three.replace, f"{renewed}-{m}", b"", versions[m], expires_at=now + life, now=now, owner=owner),
            ]
        await _together(works)
        keys = await _keys(stores[0], owner.name, now)
        wanted = [f"{kind}-{n}-{m}" for kind in ("renewed", "new") for m in reversed(range(4))]
        assert keys == wanted, f"after concurrent writes, {keys} are listed instead of {wanted}"


@INDEXING.rule("owners")
async def of_parallel_writers_the_winner_owns(place: StoreFixture) -> None:
    """Of concurrent writes of one key for several owners, one succeeds, and only its owner has the entry."""
    stores, now = await _connections(place, 5), place.now
    for n in range(ROUNDS):
        names = [f"owner-{m}" for m in range(5)]
        key, version = f"key-{n}", None
        for _ in range(2):
            names.reverse()  # the first may always win
            outcomes = await at_once(
                [_write(store, key, version, now, Owner(name, now)) for store, name in zip(stores, names, strict=True)]
            )
            [winner] = [m for m, outcome in enumerate(outcomes) if not isinstance(outcome, Conflict)]
            version = outcomes[winner]
            owners = [name for name in names if key in await _keys(stores[1], name, now)]
            assert owners == [names[winner]], f"an entry of {names[winner]} is in the listings of {owners}"


@INDEXING.rule("owners")
async def what_a_parallel_delete_removed_is_in_no_listing(place: StoreFixture) -> None:
    """After a concurrent `delete` and change of the owner, there is no entry, and no listing has it."""
    stores, now = await _connections(place, 3), place.now
    for n in range(2 * ROUNDS):
        key, owner = str(n), Owner("alice", now)
        version = await stores[0].create(key, b"", expires_at=now + LIFE, now=now, owner=owner)
        works: list[_Work] = [
            _write(stores[0], key, version, now, Owner("bob", now)),
            partial(stores[1].delete, key, now=now),
        ]
        await at_once(works if n % 2 else works[::-1])
        for name in ("alice", "bob"):
            assert await _keys(stores[2], name, now) == [], "a listing has an entry that was deleted"


@INDEXING.rule("owners")
async def a_cancelled_write_leaves_no_entry_unlisted(place: StoreFixture) -> None:
    """If a `create` or `replace` is cancelled, the entry is in the listing of its owner, or was not written."""
    store, now = await _indexing(place), place.now
    alice, bob = Owner("alice", now), Owner("bob", now)
    for patience in range(16):
        created, given = f"created-{patience}", f"given-{patience}"
        version = await store.create(given, b"old", expires_at=now + LIFE, now=now, owner=alice)
        for work in (_write(store, created, None, now, alice), _write(store, given, version, now, bob)):
            async with create_task_group() as tasks:
                tasks.start_soon(work)
                for _ in range(patience):
                    await checkpoint()
                tasks.cancel_scope.cancel()
        of_alice, of_bob = await _keys(store, "alice", now), await _keys(store, "bob", now)
        is_there = await store.get(created, now=now) is not None
        assert (created in of_alice) == is_there, "a cancelled create left an entry that is not listed, or the opposite"
        entry = await store.get(given, now=now)
        assert entry is not None, "a cancelled replace removed the entry"
        is_of = (given in of_alice, given in of_bob)
        assert is_of == (entry.value == b"old", entry.value != b"old"), "after a cancelled replace, an owner is wrong"


# Connections and storages


@INDEXING.rule("owners", "several_connections")
async def one_connection_lists_what_another_writes(place: StoreFixture) -> None:
    """Two connections to one storage list and count the same entries at once."""
    one, other, now = await _indexing(place), await _indexing(place), place.now
    version = await one.create("key", b"first", expires_at=now + LIFE, now=now, owner=Owner("alice", now))
    assert await _keys(other, "alice", now) == ["key"], "an entry of another connection is not listed"
    assert await other.count_owned("alice", most=MOST_COUNTED, now=now) == 1, (
        "an entry of another connection is not counted"
    )
    version = await other.replace("key", b"next", version, expires_at=now + LIFE, now=now, owner=Owner("bob", now))
    assert await _keys(one, "alice", now) == [], "an entry is listed, though another connection gave it away"
    [(_, entry)] = await _all(one, "bob", now)
    check_entry(entry, b"next", now + LIFE, version)
    await one.delete("key", now=now)
    assert await _keys(other, "bob", now) == [], "an entry is listed, though another connection deleted it"


@INDEXING.rule("owners")
async def another_storage_has_listings_of_its_own(place: StoreFixture) -> None:
    """An owner of the same name in another storage (another prefix, another table) has other entries."""
    async with place.another() as elsewhere:
        here, there, now = await _indexing(place), await _indexing(elsewhere), place.now
        await there.create("key", b"theirs", expires_at=now + LIFE, now=now, owner=Owner("owner", now))
        assert await _keys(here, "owner", now) == [], "the listing has an entry of another storage"
        assert await here.count_owned("owner", most=MOST_COUNTED, now=now) == 0, (
            "an entry of another storage is counted"
        )
        await here.create("key", b"ours", expires_at=now + LIFE, now=now, owner=Owner("owner", now))
        await here.delete("key", now=now)
        assert await _keys(there, "owner", now) == ["key"], "an entry is missing, though another storage's was deleted"


@INDEXING.rule("owners", "durable")
async def listings_outlive_their_connections(place: StoreFixture) -> None:
    """After all connections were closed, the listings are unchanged."""
    store, now = await _indexing(place), place.now
    for key in ("key", "dead"):
        await store.create(key, b"value", expires_at=now + LIFE, now=now, owner=Owner("owner", now))
    await store.delete("dead", now=now)
    await place.disconnect()

    store = await _indexing(place)
    assert await _keys(store, "owner", now) == ["key"], "the listing is another one after reconnecting"
    assert await store.count_owned("owner", most=MOST_COUNTED, now=now) >= 1, "the count is too low after reconnecting"


# Sweeping


@INDEXING.rule("owners", "sweeps")
async def a_swept_entry_leaves_the_listing(place: StoreFixture) -> None:
    """What `sweep` has removed is in no listing, whatever the time, and what it left is."""
    store, now = await _indexing(place), place.now
    assert isinstance(store, Sweeping), "the store has no sweep(): add it, or decline 'sweeps' with a reason"
    for n in range(6):
        life = LIFE if n % 2 else 2 * LIFE
        await store.create(f"key-{n}", b"value", expires_at=now + life, now=now, owner=Owner("owner", now + n))
    for _ in range(3):
        await store.sweep(2, now=now + LIFE)
    for then in (now + LIFE, 0):
        keys = await _keys(store, "owner", then, 2)
        assert keys == ["key-4", "key-2", "key-0"], f"after a sweep, the listing is {keys}"
    for n in (1, 3, 5):
        await store.create(f"key-{n}", b"unowned", expires_at=now + 2 * LIFE, now=now + LIFE)
    keys = await _keys(store, "owner", now + LIFE)
    assert keys == ["key-4", "key-2", "key-0"], "an entry is listed by the owner of one that was swept"


# Helpers


async def _indexing(place: StoreFixture) -> Indexing:
    return _checked(await place.connect())


def _checked(store: Store) -> Indexing:
    assert is_indexing(store), (
        "the store does not list the entries of an owner: add list_owned(), count_owned(), and the argument owner of "
        "create() and replace(), or decline 'owners' with a reason"
    )
    return store


async def _connections(place: StoreFixture, count: int = AT_ONCE) -> list[Indexing]:
    """Return `count` stores, which share three connections."""
    return [_checked(store) for store in await connections(place, count)]


async def _all(store: Indexing, name: str, now: int, limit: int = 50) -> list[tuple[str, Entry]]:
    """Return the entries on all pages."""
    found: list[tuple[str, Entry]] = []
    page = await store.list_owned(name, limit=limit, now=now)
    for _ in range(10 * MANY):
        assert len(page.entries) <= limit, f"a page has {len(page.entries)} entries, but {limit} were asked for"
        found += page.entries
        if page.after is None:
            return found
        page = await store.list_owned(name, limit=limit, now=now, after=page.after)
    raise AssertionError(f"there are more than {10 * MANY} pages")


async def _keys(store: Indexing, name: str, now: int, limit: int = 50) -> list[str]:
    return [key for key, _ in await _all(store, name, now, limit)]


def _write(store: Indexing, key: str, version: Any, now: int, owner: Owner) -> _Work:
    """Return a call that creates an entry for this owner, or replaces the one that has this version."""
    if version is None:
        return partial(store.create, key, b"", expires_at=now + LIFE, now=now, owner=owner)
    return partial(store.replace, key, b"", version, expires_at=now + LIFE, now=now, owner=owner)


async def _together(works: Sequence[_Work]) -> None:
    """Run all calls concurrently. None may be refused."""
    refused_calls = [outcome for outcome in await at_once(works) if isinstance(outcome, Conflict)]
    assert not refused_calls, "Conflict was raised, though no other call wrote this key"
