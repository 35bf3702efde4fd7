"""The contract of `starsessions.stores.base`, a rule for each of its promises.

Rules move time by saying another `now`, and never back for one key. What must be there has more than a minute to live
by the database's own clock, too.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from anyio import create_task_group
from anyio.lowlevel import checkpoint

from starsessions.stores.base import Entry, Refused, Store, Sweeping, Version
from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import StoreFixture

STORE: Contract[StoreFixture] = Contract(
    {
        "several_connections": "two connections, perhaps of two processes, see one storage",
        "durable": "what is stored is still there when all connections were closed and new ones are opened",
        "sweeps": "it has `sweep`, because its database does not forget by itself",
    }
)
"""The contract of a `Store`."""

T = TypeVar("T")

LIFE = 100  # seconds
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
NASTY_VALUES = (
    b"",
    b"\x00",
    b"a\x00\x00",
    b" a \r\n",
    b"1",
    b"null",
    b"'); --\\",
    b"\xff\xfe\xc3\x28",
    bytes(range(256)),
)
AT_ONCE = 16
ROUNDS = 8


# What is there


@STORE.rule()
async def what_was_put_is_read_back_with_its_version(place: StoreFixture) -> None:
    """`get` gives the value, the deadline, and the version that `put` has returned; None where nobody has written."""
    store, now = await place.connect(), place.now
    assert await store.get("key", now) is None, "get found something under a key that nobody has written"
    version = await store.put("key", b"value", now + LIFE, None, now)
    assert version is not None, "put returned None for a version, which means that a key is free"
    _check(await store.get("key", now), b"value", now + LIFE, version)


@STORE.rule()
async def a_value_is_immutable_bytes(place: StoreFixture) -> None:
    """A value is `bytes`: nobody can change what is stored by changing what was read."""
    store, now = await place.connect(), place.now
    await store.put("key", b"value", now + LIFE, None, now)
    value = (await _get(store, "key", now)).value
    assert type(value) is bytes, f"the value is {type(value).__name__}, not bytes"
    value = (await _refused_put(store, "key", None, now)).value
    assert type(value) is bytes, f"the value in Refused is {type(value).__name__}, not bytes"


@STORE.rule()
async def every_byte_of_a_value_comes_back(place: StoreFixture) -> None:
    """Any bytes may be stored: none, NULs, what looks like text, JSON or SQL, what is no text at all, 64 KiB of it."""
    store, now = await place.connect(), place.now
    large = bytes(range(256)) * 256
    for n, value in enumerate((*NASTY_VALUES, large[: place.largest_value])):
        await store.put(f"key-{n}", value, now + LIFE, None, now)
        read = (await _get(store, f"key-{n}", now)).value
        assert read == value, f"{len(value)} bytes {value[:16]!r} came back as {len(read)} bytes {read[:16]!r}"


@STORE.rule()
async def the_largest_value_is_kept_and_a_larger_one_is_refused_whole(place: StoreFixture) -> None:
    """A value of the size that is stated as the limit is kept (a MiB if none is). One byte more is an error."""
    store, now, limit = await place.connect(), place.now, place.largest_value
    largest = b"v" * (limit or 2**20)
    version = await store.put("key", largest, now + LIFE, None, now)
    assert (await _get(store, "key", now)).value == largest, f"{len(largest)} bytes did not come back"
    if limit is not None:
        outcome: object = None
        try:
            outcome = await store.put("key", largest + b"v", now + LIFE, version, now)
        except Exception as error:
            outcome = error
        assert isinstance(outcome, Exception), f"put took {limit + 1} bytes, and the stated limit is {limit}"
        assert not isinstance(outcome, Refused), "a value that is too large was answered with Refused"
        _check(await store.get("key", now), largest, now + LIFE, version)


@STORE.rule()
async def keys_that_differ_in_case_are_two(place: StoreFixture) -> None:
    """`key` and `KEY` are two keys."""
    store, now = await place.connect(), place.now
    for key in ("key", "KEY", "Key"):
        assert await store.get(key, now) is None, f"{key} is found before it is written, by another case's name"
        await store.put(key, key.encode(), now + LIFE, None, now)
    for key in ("key", "KEY", "Key"):
        assert (await _get(store, key, now)).value == key.encode(), f"{key} has the value of another key"


@STORE.rule()
async def keys_of_1_to_128_characters_are_kept_apart(place: StoreFixture) -> None:
    """A key has 1 to 128 characters of A-Z a-z 0-9 - _, and each of them counts."""
    store, now = await place.connect(), place.now
    keys = [*ALPHABET, ALPHABET * 2, ALPHABET * 2 + "x"]
    keys[-1] = keys[-1][1:]  # 128 again, and only the last character is one that the other has not got there
    keys.append(keys[-1][:-1] + "y")
    for key in keys:
        await store.put(key, key.encode(), now + LIFE, None, now)
    for key in keys:
        assert (await _get(store, key, now)).value == key.encode(), f"{key} has the value of another key"


# Deadlines


@STORE.rule()
async def an_entry_is_over_exactly_at_its_deadline(place: StoreFixture) -> None:
    """An entry is there one second before its deadline, and at its deadline it is not."""
    store, now = await place.connect(), place.now
    version = await store.put("key", b"value", now + LIFE, None, now)
    _check(await store.get("key", now + LIFE - 1), b"value", now + LIFE, version)
    assert await store.get("key", now + LIFE) is None, "an entry was found at its deadline"
    assert await store.get("key", now + LIFE + 1) is None, "an entry was found after its deadline"


@STORE.rule()
async def a_deadline_is_kept_to_the_second(place: StoreFixture) -> None:
    """`expires_at` is read back as it was given, near and far: it is exact for ten billion seconds ahead."""
    store, now = await place.connect(), place.now
    for ahead in (LIFE - 1, LIFE, 2**31, 2**32 + 1, 10**10):
        key = f"key-{ahead}"
        version = await store.put(key, b"value", now + ahead, None, now)
        _check(await store.get(key, now), b"value", now + ahead, version)
        _check(await store.get(key, now + ahead - 1), b"value", now + ahead, version)


@STORE.rule()
async def each_put_moves_the_deadline(place: StoreFixture) -> None:
    """Each `put` sets the deadline: a later one, and a sooner one."""
    store, now = await place.connect(), place.now
    for key, ahead in {"later": 3 * LIFE, "sooner": LIFE}.items():
        version = await store.put(key, b"value", now + 2 * LIFE, None, now)
        version = await store.put(key, b"value", now + ahead, version, now)
        _check(await store.get(key, now + ahead - 1), b"value", now + ahead, version)
        assert await store.get(key, now + ahead) is None, "an entry was found at the deadline of its latest put"


@STORE.rule()
async def what_is_put_with_a_deadline_that_has_passed_is_not_there(place: StoreFixture) -> None:
    """A `put` whose deadline is not after `now` leaves nothing that lives, also where something lived."""
    store, now = await place.connect(), place.now
    for late in (0, 1):
        await store.put("new", b"value", now - late, None, now)
        assert await store.get("new", now) is None, f"what was put {late} s after its deadline is there"
        version = await store.put(f"old-{late}", b"value", now + LIFE, None, now)
        await store.put(f"old-{late}", b"value", now - late, version, now)
        assert await store.get(f"old-{late}", now) is None, f"what was put {late} s after its deadline is there"


@STORE.rule()
async def the_key_of_what_is_over_is_free(place: StoreFixture) -> None:
    """Where an entry is over, a new one may begin, and the version of the old one does not open it."""
    store, now = await place.connect(), place.now
    old = await store.put("key", b"old", now + LIFE, None, now)
    later = now + LIFE
    new = await store.put("key", b"new", later + LIFE, None, later)
    assert new != old, "the new entry has the version of the one that was over"
    _check(await _refused_put(store, "key", old, later), b"new", later + LIFE, new)
    _check(await store.get("key", later), b"new", later + LIFE, new)


@STORE.rule()
async def the_version_of_what_is_over_is_nobodys(place: StoreFixture) -> None:
    """At its deadline an entry can no longer be changed or deleted by its version: `Refused`, and nothing is there."""
    store, now = await place.connect(), place.now
    version = await store.put("key", b"value", now + LIFE, None, now)
    later = now + LIFE
    current = await _refused(store.put("key", b"back", later + LIFE, version, later))
    assert current is None, "Refused carries an entry that is over"
    assert await store.get("key", later) is None, "a refused put has brought back what was over"
    current = await _refused(store.delete("key", version, later))
    assert current is None, "Refused carries an entry that is over"


@STORE.rule()
async def deleting_what_is_over_finds_nothing(place: StoreFixture) -> None:
    """`delete` says False where what was there is over."""
    store, now = await place.connect(), place.now
    await store.put("key", b"value", now + LIFE, None, now)
    assert await store.delete("key", None, now + LIFE) is False, "delete did not say False of what was over"


# Who may write


@STORE.rule()
async def a_key_that_is_taken_is_not_free(place: StoreFixture) -> None:
    """`put` with `expect=None` does not write over what is there. It is `Refused`, which carries what is there."""
    store, now = await place.connect(), place.now
    version = await store.put("key", b"first", now + LIFE, None, now)
    _check(await _refused_put(store, "key", None, now), b"first", now + LIFE, version)
    _check(await store.get("key", now), b"first", now + LIFE, version)


@STORE.rule()
async def put_replaces_what_has_the_expected_version(place: StoreFixture) -> None:
    """`put` with the version that is there replaces the value, and returns a new version."""
    store, now = await place.connect(), place.now
    first = await store.put("key", b"first", now + LIFE, None, now)
    second = await store.put("key", b"second", now + LIFE, first, now)
    assert second != first, "the version has not changed with the value"
    _check(await store.get("key", now), b"second", now + LIFE, second)


@STORE.rule()
async def put_with_an_older_version_is_refused(place: StoreFixture) -> None:
    """Who has read an older version does not write. `Refused` carries what is there, which stays as it is."""
    store, now = await place.connect(), place.now
    first = await store.put("key", b"first", now + LIFE, None, now)
    second = await store.put("key", b"second", now + LIFE, first, now)
    _check(await _refused_put(store, "key", first, now), b"second", now + LIFE, second)
    _check(await store.get("key", now), b"second", now + LIFE, second)


@STORE.rule()
async def a_version_that_the_key_never_had_is_refused(place: StoreFixture) -> None:
    """A version of another key opens nothing, whether something is there or not."""
    store, now = await place.connect(), place.now
    other = await store.put("other", b"", now + LIFE, None, now)
    for _ in range(3):
        other = await store.put("other", b"", now + LIFE, other, now)
    current = await _refused(store.put("key", b"value", now + LIFE, other, now))
    assert current is None, "Refused carries an entry under a key that nobody has written"
    assert await store.get("key", now) is None, "a refused put has written"
    version = await store.put("key", b"value", now + LIFE, None, now)
    _check(await _refused_put(store, "key", other, now), b"value", now + LIFE, version)
    current = await _refused(store.delete("key", other, now))
    _check(current, b"value", now + LIFE, version)


@STORE.rule()
async def a_version_is_never_the_same_twice(place: StoreFixture) -> None:
    """A key never has the same version twice: not for equal values, not after a delete, not after a deadline."""
    store, now = await place.connect(), place.now
    versions: list[Version] = []
    for _ in range(3):
        version = None
        for _ in range(3):
            version = await store.put("key", b"equal", now + LIFE, version, now)
            versions.append(version)
        await store.delete("key", version, now)
        versions.append(await store.put("key", b"equal", now + LIFE, None, now))
        await store.delete("key", None, now)
        versions.append(await store.put("key", b"equal", now + LIFE, None, now))
        now += LIFE  # it is over
    for n, version in enumerate(versions):
        assert version not in versions[:n], f"version {n} was there before"


@STORE.rule()
async def put_never_brings_back_what_was_deleted(place: StoreFixture) -> None:
    """A late write to a key that was deleted is `Refused`, and nothing is there: a logout is final."""
    store, now = await place.connect(), place.now
    version = await store.put("key", b"value", now + LIFE, None, now)
    await store.delete("key", None, now)
    current = await _refused(store.put("key", b"late", now + LIFE, version, now))
    assert current is None, "Refused carries an entry that was deleted"
    assert await store.get("key", now) is None, "a late put has brought back what was deleted"


@STORE.rule()
async def put_never_finds_its_version_in_what_came_after_a_delete(place: StoreFixture) -> None:
    """A late write does not fit into an entry that was made under the same key later."""
    store, now = await place.connect(), place.now
    version = await store.put("key", b"old", now + LIFE, None, now)
    await store.delete("key", None, now)
    new = await store.put("key", b"new", now + LIFE, None, now)
    _check(await _refused_put(store, "key", version, now), b"new", now + LIFE, new)
    _check(await store.get("key", now), b"new", now + LIFE, new)


# Deleting


@STORE.rule()
async def delete_removes_what_is_there_and_says_whether_it_did(place: StoreFixture) -> None:
    """`delete` is True if something was there and False if not; again is no error, and the key is free."""
    store, now = await place.connect(), place.now
    assert await store.delete("key", None, now) is False, "delete did not say False of a key that nobody has written"
    await store.put("key", b"value", now + LIFE, None, now)
    assert await store.delete("key", None, now) is True, "delete did not say True of what was there"
    assert await store.get("key", now) is None, "what was deleted is there"
    assert await store.delete("key", None, now) is False, "delete did not say False the second time"
    await store.put("key", b"value", now + LIFE, None, now)


@STORE.rule()
async def delete_removes_what_has_the_expected_version(place: StoreFixture) -> None:
    """`delete` with the version that is there removes it."""
    store, now = await place.connect(), place.now
    version = await store.put("key", b"value", now + LIFE, None, now)
    assert await store.delete("key", version, now) is True, "delete did not say True of what was there"
    assert await store.get("key", now) is None, "what was deleted is there"


@STORE.rule()
async def delete_with_an_older_version_is_refused(place: StoreFixture) -> None:
    """`delete` with another version than is there is `Refused`, which carries what is there, and removes nothing."""
    store, now = await place.connect(), place.now
    first = await store.put("key", b"first", now + LIFE, None, now)
    second = await store.put("key", b"second", now + LIFE, first, now)
    _check(await _refused(store.delete("key", first, now)), b"second", now + LIFE, second)
    _check(await store.get("key", now), b"second", now + LIFE, second)


@STORE.rule()
async def delete_with_a_version_of_what_is_gone_is_refused(place: StoreFixture) -> None:
    """`delete` with a version, where nothing is, is `Refused` and carries nothing."""
    store, now = await place.connect(), place.now
    version = await store.put("key", b"value", now + LIFE, None, now)
    await store.delete("key", None, now)
    assert await _refused(store.delete("key", version, now)) is None, "Refused carries an entry that was deleted"


@STORE.rule()
async def delete_takes_nothing_but_its_key(place: StoreFixture) -> None:
    """`delete` leaves all other keys alone, also those that begin alike."""
    store, now = await place.connect(), place.now
    for key in ("key", "key-2", "ke"):
        await store.put(key, b"value", now + LIFE, None, now)
    await store.delete("key", None, now)
    for key in ("key-2", "ke"):
        assert await store.get(key, now) is not None, f"{key} went with another key"


# At once


@STORE.rule()
async def of_writers_that_create_at_once_one_wins(place: StoreFixture) -> None:
    """Of many that take a free key at once one gets it. The others are told what it has written."""
    stores, now = await _connections(place), place.now
    for key in map(str, range(ROUNDS)):
        outcomes = await _at_once(
            [partial(store.put, key, b"%d" % n, now + LIFE, None, now) for n, store in enumerate(stores)]
        )
        await _check_one_has_won(stores[0], key, outcomes, now)


@STORE.rule()
async def of_writers_that_replace_at_once_one_wins(place: StoreFixture) -> None:
    """Of many that have read the same version and write at once one gets through. The others are told what is there."""
    stores, now = await _connections(place), place.now
    for key in map(str, range(ROUNDS)):
        version = await stores[0].put(key, b"start", now + LIFE, None, now)
        outcomes = await _at_once(
            [partial(store.put, key, b"%d" % n, now + LIFE, version, now) for n, store in enumerate(stores)]
        )
        await _check_one_has_won(stores[0], key, outcomes, now)


@STORE.rule()
async def of_deletes_at_once_one_has_removed(place: StoreFixture) -> None:
    """Of many that delete at once one says True, or is not refused."""
    stores, now = await _connections(place), place.now
    for key in map(str, range(ROUNDS)):
        await stores[0].put(key, b"value", now + LIFE, None, now)
        outcomes = await _at_once([partial(store.delete, key, None, now) for store in stores])
        assert outcomes.count(True) == 1, f"{outcomes.count(True)} deletes at once said that they had removed"
        version = await stores[0].put(key, b"value", now + LIFE, None, now)
        outcomes = await _at_once([partial(store.delete, key, version, now) for store in stores])
        done = [outcome for outcome in outcomes if not isinstance(outcome, Refused)]
        assert done == [True], f"of {AT_ONCE} deletes of one version at once, {len(done)} were not refused"


@STORE.rule()
async def a_delete_wins_against_writes_at_the_same_time(place: StoreFixture) -> None:
    """Whichever comes first, a `put` to an entry or its `delete`, the entry is gone when both are done."""
    stores, now = await _connections(place), place.now
    for n in range(2 * ROUNDS):
        key = str(n)
        version = await stores[0].put(key, b"value", now + LIFE, None, now)
        works: list[Callable[[], Awaitable[Any]]] = [
            partial(stores[0].put, key, b"late", now + LIFE, version, now),
            partial(stores[1].delete, key, None, now),
        ]
        await _at_once(works if n % 2 else works[::-1])
        assert await stores[2].get(key, now) is None, "a put at the same time has brought back what was deleted"


@STORE.rule()
async def of_a_put_and_a_delete_of_one_version_at_once_one_wins(place: StoreFixture) -> None:
    """Of a `put` and a `delete` that expect the same version one is `Refused`, and the other one's work is there."""
    stores, now = await _connections(place), place.now
    for n in range(2 * ROUNDS):
        key = str(n)
        version = await stores[0].put(key, b"value", now + LIFE, None, now)
        put = partial(stores[0].put, key, b"new", now + LIFE, version, now)
        delete = partial(stores[1].delete, key, version, now)
        works: list[Callable[[], Awaitable[Any]]] = [put, delete]
        written, deleted = await _at_once(works) if n % 2 else (await _at_once(works[::-1]))[::-1]
        assert isinstance(written, Refused) != isinstance(deleted, Refused), (
            "a put and a delete of one version both won"
        )
        left = await stores[2].get(key, now)
        assert (left is None) == isinstance(written, Refused), "what is there is not what the winner has made"


@STORE.rule()
async def writers_that_try_again_lose_no_update(place: StoreFixture) -> None:
    """Many add one to a number, each again with what `Refused` carries until it fits: they all count."""
    stores, now = await _connections(place), place.now
    await stores[0].put("key", b"0", now + LIFE, None, now)

    async def add(store: Store) -> None:
        for _ in range(3):
            current: Entry | None = await _get(store, "key", now)
            await checkpoint()  # let the others read, too, also where the store waits for nothing
            while current is not None:
                try:
                    await store.put("key", b"%d" % (int(current.value) + 1), now + LIFE, current.version, now)
                    break
                except Refused as refused:
                    current = refused.current
            assert current is not None, "Refused says that nothing is there, and nobody has deleted"

    await _at_once([partial(add, store) for store in stores])
    added = int((await _get(stores[0], "key", now)).value)
    assert added == 3 * AT_ONCE, f"of {3 * AT_ONCE} updates {added} are there"


@STORE.rule()
async def a_call_that_is_cancelled_is_done_or_not_and_does_no_harm(place: StoreFixture) -> None:
    """A `put` that is cancelled has been done whole or not at all, and the connection works as before."""
    store, now = await place.connect(), place.now
    for patience in range(10):
        version = await store.put(f"key-{patience}", b"old", now + LIFE, None, now)
        async with create_task_group() as tasks:
            tasks.start_soon(store.put, f"key-{patience}", b"new", now + 2 * LIFE, version, now)
            for _ in range(patience):
                await checkpoint()
            tasks.cancel_scope.cancel()
        entry = await _get(store, f"key-{patience}", now)
        found = (entry.value, entry.expires_at - now, entry.version == version)
        assert found in ((b"old", LIFE, True), (b"new", 2 * LIFE, False)), "a put that was cancelled is half done"
        await store.put(f"key-{patience}", b"next", now + LIFE, entry.version, now)


# Handles and places


@STORE.rule("several_connections")
async def what_one_connection_writes_the_other_sees(place: StoreFixture) -> None:
    """Two connections see one storage: at once, with the versions and deadlines of each other."""
    one, other, now = await place.connect(), await place.connect(), place.now
    first = await one.put("key", b"first", now + LIFE, None, now)
    _check(await other.get("key", now), b"first", now + LIFE, first)
    second = await other.put("key", b"second", now + 2 * LIFE, first, now)
    _check(await one.get("key", now), b"second", now + 2 * LIFE, second)
    _check(await _refused_put(one, "key", first, now), b"second", now + 2 * LIFE, second)
    assert await one.delete("key", second, now) is True, (
        "delete did not say True of what another connection has written"
    )
    assert await other.get("key", now) is None, "what one connection has deleted is there for the other"


@STORE.rule()
async def nothing_of_another_place_is_seen(place: StoreFixture) -> None:
    """What is stored in another place (under another prefix, in another table) is not there, and is left alone."""
    async with place.another() as elsewhere:
        here, there, now = await place.connect(), await elsewhere.connect(), place.now
        version = await there.put("key", b"theirs", now + LIFE, None, now)
        assert await here.get("key", now) is None, "get found what is stored in another place"
        current = await _refused(here.put("key", b"ours", now + LIFE, version, now))
        assert current is None, "Refused carries what is stored in another place"
        assert await here.delete("key", None, now) is False, "delete found what is stored in another place"
        await here.put("key", b"ours", now + LIFE, None, now)
        _check(await there.get("key", now), b"theirs", now + LIFE, version)


@STORE.rule("durable")
async def what_is_stored_outlives_its_connections(place: StoreFixture) -> None:
    """When all connections are closed and new ones opened, all is as it was, and what was deleted stays deleted."""
    store, now = await place.connect(), place.now
    version = await store.put("key", b"value", now + LIFE, None, now)
    dead = await store.put("dead", b"value", now + LIFE, None, now)
    await store.delete("dead", None, now)
    await place.disconnect()

    store = await place.connect()
    _check(await store.get("key", now), b"value", now + LIFE, version)
    assert await _refused(store.put("dead", b"late", now + LIFE, dead, now)) is None, "what was deleted is there again"
    for _ in range(5):
        new = await store.put("dead", b"new", now + LIFE, None, now)
        assert new != dead, "versions begin again with a new connection, and repeat"
        await store.delete("dead", new, now)
    await store.put("key", b"next", now + LIFE, version, now)


# Sweeping


@STORE.rule("sweeps")
async def sweep_removes_what_is_over_and_nothing_else(place: StoreFixture) -> None:
    """`sweep` removes what is over, what ends at this very second included, says how many, and leaves what lives."""
    store, now = await _sweeping(place), place.now
    for n in range(3):
        await store.put(f"over-{n}", b"value", now + LIFE + n - 2, None, now)
    version = await store.put("lives", b"value", now + LIFE + 1, None, now)
    await store.put("deleted", b"value", now + LIFE, None, now)
    await store.delete("deleted", None, now)
    swept = await store.sweep(100, now + LIFE)
    assert swept == 3, f"sweep says that it removed {swept} of 3 entries that are over"
    _check(await store.get("lives", now + LIFE), b"value", now + LIFE + 1, version)
    swept = await store.sweep(100, now + LIFE)
    assert swept == 0, f"sweep removed {swept} where nothing was over"


@STORE.rule("sweeps")
async def sweep_removes_no_more_than_it_may(place: StoreFixture) -> None:
    """`sweep` removes at most `limit` entries. Fewer than `limit` means that no more are over."""
    store, now = await _sweeping(place), place.now
    for n in range(7):
        await store.put(f"over-{n}", b"value", now + LIFE, None, now)
    swept = [await store.sweep(3, now + LIFE) for _ in range(3)]
    assert swept == [3, 3, 1], f"of 7 entries that are over, sweeps of at most 3 removed {swept}"


@STORE.rule("sweeps")
async def sweep_leaves_what_was_renewed(place: StoreFixture) -> None:
    """`sweep` goes by the latest deadline, whether it was moved later or sooner."""
    store, now = await _sweeping(place), place.now
    later = await store.put("later", b"value", now + LIFE, None, now)
    later = await store.put("later", b"value", now + 3 * LIFE, later, now)
    sooner = await store.put("sooner", b"value", now + 3 * LIFE, None, now)
    await store.put("sooner", b"value", now + LIFE, sooner, now)
    swept = await store.sweep(100, now + LIFE)
    assert swept == 1, f"sweep removed {swept} entries where one was over, by its latest deadline"
    _check(await store.get("later", now + LIFE), b"value", now + 3 * LIFE, later)


@STORE.rule("sweeps")
async def sweep_takes_nothing_that_begins_meanwhile(place: StoreFixture) -> None:
    """An entry that is put where one was over stays, also if a sweep runs at the same time."""
    store, now = await _sweeping(place), place.now
    then = now + LIFE
    for n in range(ROUNDS):
        for key in ALPHABET[:AT_ONCE]:
            await store.put(key, b"old", then, None, now)
        works: list[Callable[[], Awaitable[Any]]] = [
            partial(store.put, key, b"new", then + LIFE, None, then) for key in ALPHABET[:AT_ONCE]
        ]
        works.insert(n * AT_ONCE // ROUNDS, partial(store.sweep, 2 * AT_ONCE, then))
        await _at_once(works)
        for key in ALPHABET[:AT_ONCE]:
            entry = await store.get(key, then)
            assert entry is not None, "a sweep took what was put while it ran"
            assert entry.value == b"new", "what was put is not there"
            await store.delete(key, entry.version, then)


@STORE.rule("sweeps")
async def sweeps_at_once_count_each_entry_once(place: StoreFixture) -> None:
    """What several sweeps at once remove is counted by one of them, and no sweep fails because of another one."""
    await _sweeping(place)
    stores, now = await _connections(place, 4), place.now
    for n in range(4 * AT_ONCE):
        await stores[0].put(f"over-{n}", b"value", now + LIFE, None, now)
    sweepers = [store for store in stores if isinstance(store, Sweeping)]
    outcomes = await _at_once([partial(store.sweep, AT_ONCE, now + LIFE) for store in sweepers])
    swept = sum([outcome for outcome in outcomes if not isinstance(outcome, Refused)])
    swept += await sweepers[0].sweep(5 * AT_ONCE, now + LIFE)
    assert swept == 4 * AT_ONCE, f"of {4 * AT_ONCE} entries that are over, sweeps at once removed {swept}"


# What the rules are made of


class _SweepingStore(Store, Sweeping, Protocol):
    """What a rule about sweeping works with."""


async def _sweeping(place: StoreFixture) -> _SweepingStore:
    store: Any = await place.connect()
    assert isinstance(store, Sweeping), "there is no sweep(): write one, or decline 'sweeps' with a reason"
    return cast(_SweepingStore, store)


async def _connections(place: StoreFixture, count: int = AT_ONCE) -> list[Store]:
    """As many stores as are asked for, on three connections in turn."""
    connections = [await place.connect() for _ in range(3)]
    return [connections[n % 3] for n in range(count)]


async def _at_once(works: Sequence[Callable[[], Awaitable[T]]]) -> list[T | Refused]:
    """What each of them came to, in their order, if they all go at once."""
    outcomes: dict[int, T | Refused] = {}

    async def do(n: int, work: Callable[[], Awaitable[T]]) -> None:
        try:
            outcomes[n] = await work()
        except Refused as refused:
            outcomes[n] = refused

    async with create_task_group() as tasks:
        for n, work in enumerate(works):
            tasks.start_soon(do, n, work)
    return [outcomes[n] for n in range(len(works))]


async def _get(store: Store, key: str, now: int) -> Entry:
    entry = await store.get(key, now)
    assert entry is not None, "what was put is not there"
    return entry


async def _refused(verb: Awaitable[object]) -> Entry | None:
    """What the refusal carries."""
    try:
        await verb
    except Refused as refused:
        return refused.current
    raise AssertionError("put or delete did not raise Refused, and what it expected was not there")


async def _refused_put(store: Store, key: str, expect: Version | None, now: int) -> Entry:
    """The entry that the refusal carries: one is there."""
    current = await _refused(store.put(key, b"not to be written", now + 9 * LIFE, expect, now))
    assert current is not None, "Refused does not carry what is there"
    return current


def _check(entry: Entry | None, value: bytes, expires_at: int, version: Version) -> None:
    assert entry is not None, "what was put is not there, or is not what Refused carries"
    assert entry.value == value, f"the value is {entry.value[:40]!r} and should be {value[:40]!r}"
    wrong = entry.expires_at - expires_at
    assert wrong == 0, f"the deadline is wrong by {wrong} s"
    assert entry.version == version, "the version is not the one that put has returned"


async def _check_one_has_won(store: Store, key: str, outcomes: Sequence[Version | Refused], now: int) -> None:
    winners = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Refused)]
    assert len(winners) == 1, f"of {len(outcomes)} writers at once {len(winners)} have won"
    [winner] = winners
    value, version = b"%d" % winner, outcomes[winner]
    _check(await store.get(key, now), value, now + LIFE, version)
    for outcome in outcomes:
        if isinstance(outcome, Refused):
            _check(outcome.current, value, now + LIFE, version)
