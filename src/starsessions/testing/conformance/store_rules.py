"""The contract of `starsessions.stores.base`, as one rule for each of its guarantees.

Rules advance time by passing a later `now`, and never an earlier one for the same key. Entries that must exist have
more than a minute left by the database's own clock, too.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, cast

from anyio import create_task_group
from anyio.lowlevel import checkpoint

from starsessions.stores.base import Conflict, Entry, Store, Sweeping, Version
from starsessions.testing.conformance.announcing_rules import ANNOUNCING
from starsessions.testing.conformance.batching_rules import BATCHING
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
from starsessions.testing.conformance.indexing_rules import INDEXING
from starsessions.testing.conformance.joining_rules import JOINING
from starsessions.testing.conformance.scanning_rules import SCANNING

STORE: Contract[StoreFixture] = Contract(
    {
        "several_connections": "two connections share one storage",
        "durable": "entries are kept when all connections are closed",
        "sweeps": "the store has `sweep`, because its database does not remove expired entries itself",
    }
)
"""The contract of a `Store`, with that of its optional powers."""

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

# Reading


@STORE.rule()
async def get_returns_what_create_has_stored(place: StoreFixture) -> None:
    """`get` returns the value, the deadline and the version of an entry that `create` has stored; otherwise None."""
    store, now = await place.connect(), place.now
    assert await store.get("key", now=now) is None, "get found something under a key that was never written"
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    assert version is not None, "create returned None as the version, but None means any version in delete"
    check_entry(await store.get("key", now=now), b"value", now + LIFE, version)


@STORE.rule()
async def a_value_is_immutable_bytes(place: StoreFixture) -> None:
    """A value is `bytes`, so that changing a returned value cannot change the stored one."""
    store, now = await place.connect(), place.now
    await store.create("key", b"value", expires_at=now + LIFE, now=now)
    value = (await _get(store, "key", now)).value
    assert type(value) is bytes, f"the value is {type(value).__name__}, not bytes"
    value = (await _refused_create(store, "key", now)).value
    assert type(value) is bytes, f"the value in Conflict is {type(value).__name__}, not bytes"


@STORE.rule()
async def every_byte_of_a_value_comes_back(place: StoreFixture) -> None:
    """Any bytes can be stored: none, NULs, bytes that look like text, JSON or SQL, invalid text, and 64 KiB."""
    store, now = await place.connect(), place.now
    large = bytes(range(256)) * 256
    for n, value in enumerate((*NASTY_VALUES, large[: place.largest_value])):
        await store.create(f"key-{n}", value, expires_at=now + LIFE, now=now)
        read = (await _get(store, f"key-{n}", now)).value
        assert read == value, f"{len(value)} bytes {value[:16]!r} came back as {len(read)} bytes {read[:16]!r}"


@STORE.rule()
async def the_largest_value_is_kept_and_a_larger_one_is_refused_whole(place: StoreFixture) -> None:
    """A value of the stated largest size is kept (1 MiB if there is no limit). One byte more raises an error."""
    store, now, limit = await place.connect(), place.now, place.largest_value
    largest = b"v" * (limit or 2**20)
    version = await store.create("key", largest, expires_at=now + LIFE, now=now)
    assert (await _get(store, "key", now)).value == largest, f"{len(largest)} bytes did not come back"
    if limit is not None:
        outcome: object = None
        try:
            outcome = await store.replace("key", largest + b"v", version, expires_at=now + LIFE, now=now)
        except Exception as error:
            outcome = error
        assert isinstance(outcome, Exception), f"replace accepted {limit + 1} bytes, but the stated limit is {limit}"
        assert not isinstance(outcome, Conflict), "Conflict was raised for a value that is too large"
        check_entry(await store.get("key", now=now), largest, now + LIFE, version)


@STORE.rule()
async def keys_that_differ_in_case_are_different(place: StoreFixture) -> None:
    """Keys are case-sensitive: `key` and `KEY` are different keys."""
    store, now = await place.connect(), place.now
    for key in ("key", "KEY", "Key"):
        assert await store.get(key, now=now) is None, f"{key} was found, but only another case was written"
        await store.create(key, key.encode(), expires_at=now + LIFE, now=now)
    for key in ("key", "KEY", "Key"):
        assert (await _get(store, key, now)).value == key.encode(), f"{key} has the value of another key"


@STORE.rule()
async def keys_of_1_to_128_characters_are_kept_apart(place: StoreFixture) -> None:
    """A key consists of 1 to 128 of the characters A-Z a-z 0-9 - _, and every character is significant."""
    store, now = await place.connect(), place.now
    keys = [*ALPHABET, ALPHABET * 2, ALPHABET * 2 + "x"]
    keys[-1] = keys[-1][1:]  # 128 characters again
    keys.append(keys[-1][:-1] + "y")
    for key in keys:
        await store.create(key, key.encode(), expires_at=now + LIFE, now=now)
    for key in keys:
        assert (await _get(store, key, now)).value == key.encode(), f"{key} has the value of another key"


# Deadlines


@STORE.rule()
async def an_entry_expires_exactly_at_its_deadline(place: StoreFixture) -> None:
    """An entry exists one second before its deadline, and has expired at its deadline."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    check_entry(await store.get("key", now=now + LIFE - 1), b"value", now + LIFE, version)
    assert await store.get("key", now=now + LIFE) is None, "an entry was found at its deadline"
    assert await store.get("key", now=now + LIFE + 1) is None, "an entry was found after its deadline"


@STORE.rule()
async def a_deadline_is_kept_to_the_second(place: StoreFixture) -> None:
    """`expires_at` is returned exactly as it was passed, for up to ten billion seconds ahead."""
    store, now = await place.connect(), place.now
    for ahead in (LIFE - 1, LIFE, 2**31, 2**32 + 1, 10**10):
        key = f"key-{ahead}"
        version = await store.create(key, b"value", expires_at=now + ahead, now=now)
        check_entry(await store.get(key, now=now), b"value", now + ahead, version)
        check_entry(await store.get(key, now=now + ahead - 1), b"value", now + ahead, version)


@STORE.rule()
async def each_write_sets_the_deadline(place: StoreFixture) -> None:
    """Each write sets the deadline, whether to a later or to an earlier time."""
    store, now = await place.connect(), place.now
    for key, ahead in {"later": 3 * LIFE, "sooner": LIFE}.items():
        version = await store.create(key, b"value", expires_at=now + 2 * LIFE, now=now)
        version = await store.replace(key, b"value", version, expires_at=now + ahead, now=now)
        check_entry(await store.get(key, now=now + ahead - 1), b"value", now + ahead, version)
        assert await store.get(key, now=now + ahead) is None, "an entry was found at the deadline of its latest write"


@STORE.rule()
async def a_write_with_a_deadline_that_has_passed_leaves_nothing(place: StoreFixture) -> None:
    """After a write whose deadline is not after `now`, there is no entry, even if there was one before."""
    store, now = await place.connect(), place.now
    for late in (0, 1):
        await store.create("new", b"value", expires_at=now - late, now=now)
        assert await store.get("new", now=now) is None, f"an entry written {late} s after its deadline exists"
        version = await store.create(f"old-{late}", b"value", expires_at=now + LIFE, now=now)
        await store.replace(f"old-{late}", b"value", version, expires_at=now - late, now=now)
        assert await store.get(f"old-{late}", now=now) is None, f"an entry written {late} s after its deadline exists"


@STORE.rule()
async def the_key_of_an_expired_entry_is_free(place: StoreFixture) -> None:
    """After an entry has expired, a new one can be created, and the version of the old one does not match it."""
    store, now = await place.connect(), place.now
    old = await store.create("key", b"old", expires_at=now + LIFE, now=now)
    later = now + LIFE
    new = await store.create("key", b"new", expires_at=later + LIFE, now=later)
    assert new != old, "the new entry has the version of the expired one"
    check_entry(await _refused_replace(store, "key", old, later), b"new", later + LIFE, new)
    check_entry(await store.get("key", now=later), b"new", later + LIFE, new)


@STORE.rule()
async def the_version_of_an_expired_entry_is_refused(place: StoreFixture) -> None:
    """At its deadline, changing or deleting an entry by its version raises `Conflict`, which carries no entry."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    later = now + LIFE
    current = await refused(store.replace("key", b"back", version, expires_at=later + LIFE, now=later))
    assert current is None, "Conflict carries an expired entry"
    assert await store.get("key", now=later) is None, "a rejected write brought back an expired entry"
    current = await refused(store.delete("key", version, now=later))
    assert current is None, "Conflict carries an expired entry"


@STORE.rule()
async def deleting_an_expired_entry_returns_false(place: StoreFixture) -> None:
    """`delete` returns False if the entry has expired."""
    store, now = await place.connect(), place.now
    await store.create("key", b"value", expires_at=now + LIFE, now=now)
    assert await store.delete("key", now=now + LIFE) is False, "delete did not return False for an expired entry"


# Conditional writes


@STORE.rule()
async def create_refuses_a_key_that_is_in_use(place: StoreFixture) -> None:
    """`create` does not overwrite an entry. It raises `Conflict`, which carries the existing entry."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"first", expires_at=now + LIFE, now=now)
    check_entry(await _refused_create(store, "key", now), b"first", now + LIFE, version)
    check_entry(await store.get("key", now=now), b"first", now + LIFE, version)


@STORE.rule()
async def replace_with_the_current_version_writes(place: StoreFixture) -> None:
    """`replace` with the current version writes the value, and returns a new version."""
    store, now = await place.connect(), place.now
    first = await store.create("key", b"first", expires_at=now + LIFE, now=now)
    second = await store.replace("key", b"second", first, expires_at=now + LIFE, now=now)
    assert second != first, "the version has not changed with the value"
    check_entry(await store.get("key", now=now), b"second", now + LIFE, second)


@STORE.rule()
async def replace_with_an_older_version_is_refused(place: StoreFixture) -> None:
    """`replace` with an older version raises `Conflict`, which carries the current entry, and changes nothing."""
    store, now = await place.connect(), place.now
    first = await store.create("key", b"first", expires_at=now + LIFE, now=now)
    second = await store.replace("key", b"second", first, expires_at=now + LIFE, now=now)
    check_entry(await _refused_replace(store, "key", first, now), b"second", now + LIFE, second)
    check_entry(await store.get("key", now=now), b"second", now + LIFE, second)


@STORE.rule()
async def a_version_that_the_key_never_had_is_refused(place: StoreFixture) -> None:
    """A version of another key raises `Conflict`, whether or not there is an entry."""
    store, now = await place.connect(), place.now
    other = await store.create("other", b"", expires_at=now + LIFE, now=now)
    for _ in range(3):
        other = await store.replace("other", b"", other, expires_at=now + LIFE, now=now)
    current = await refused(store.replace("key", b"value", other, expires_at=now + LIFE, now=now))
    assert current is None, "Conflict carries an entry under a key that was never written"
    assert await store.get("key", now=now) is None, "a rejected write was carried out"
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    check_entry(await _refused_replace(store, "key", other, now), b"value", now + LIFE, version)
    current = await refused(store.delete("key", other, now=now))
    check_entry(current, b"value", now + LIFE, version)


@STORE.rule()
async def versions_never_repeat(place: StoreFixture) -> None:
    """A key never has the same version twice, not even for equal values, after a delete or after a deadline."""
    store, now = await place.connect(), place.now
    versions: list[Version] = []
    for _ in range(3):
        version = await store.create("key", b"equal", expires_at=now + LIFE, now=now)
        versions.append(version)
        for _ in range(2):
            version = await store.replace("key", b"equal", version, expires_at=now + LIFE, now=now)
            versions.append(version)
        await store.delete("key", version, now=now)
        versions.append(await store.create("key", b"equal", expires_at=now + LIFE, now=now))
        await store.delete("key", now=now)
        versions.append(await store.create("key", b"equal", expires_at=now + LIFE, now=now))
        now += LIFE  # it has expired
    for n, version in enumerate(versions):
        assert version not in versions[:n], f"version {n} was used before"


@STORE.rule()
async def replace_never_revives_a_deleted_entry(place: StoreFixture) -> None:
    """A late `replace` of a deleted entry raises `Conflict` and writes nothing, so that a logout is final."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    await store.delete("key", now=now)
    current = await refused(store.replace("key", b"late", version, expires_at=now + LIFE, now=now))
    assert current is None, "Conflict carries a deleted entry"
    assert await store.get("key", now=now) is None, "a late write brought back a deleted entry"


@STORE.rule()
async def a_version_from_before_a_delete_does_not_fit_a_later_entry(place: StoreFixture) -> None:
    """A version issued before a delete does not match an entry created later under the same key."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"old", expires_at=now + LIFE, now=now)
    await store.delete("key", now=now)
    new = await store.create("key", b"new", expires_at=now + LIFE, now=now)
    check_entry(await _refused_replace(store, "key", version, now), b"new", now + LIFE, new)
    check_entry(await store.get("key", now=now), b"new", now + LIFE, new)


# Deleting


@STORE.rule()
async def delete_removes_the_entry_and_returns_whether_there_was_one(place: StoreFixture) -> None:
    """`delete` returns whether there was an entry. Deleting again is not an error, and the key is free."""
    store, now = await place.connect(), place.now
    assert await store.delete("key", now=now) is False, "delete did not return False for a key that was never written"
    await store.create("key", b"value", expires_at=now + LIFE, now=now)
    assert await store.delete("key", now=now) is True, "delete did not return True for an existing entry"
    assert await store.get("key", now=now) is None, "a deleted entry was found"
    assert await store.delete("key", now=now) is False, "delete did not return False the second time"
    await store.create("key", b"value", expires_at=now + LIFE, now=now)


@STORE.rule()
async def delete_with_the_current_version_removes(place: StoreFixture) -> None:
    """`delete` with the current version removes the entry."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    assert await store.delete("key", version, now=now) is True, "delete did not return True for an existing entry"
    assert await store.get("key", now=now) is None, "a deleted entry was found"


@STORE.rule()
async def delete_with_an_older_version_is_refused(place: StoreFixture) -> None:
    """`delete` with an older version raises `Conflict`, which carries the current entry, and removes nothing."""
    store, now = await place.connect(), place.now
    first = await store.create("key", b"first", expires_at=now + LIFE, now=now)
    second = await store.replace("key", b"second", first, expires_at=now + LIFE, now=now)
    check_entry(await refused(store.delete("key", first, now=now)), b"second", now + LIFE, second)
    check_entry(await store.get("key", now=now), b"second", now + LIFE, second)


@STORE.rule()
async def delete_with_the_version_of_a_deleted_entry_is_refused(place: StoreFixture) -> None:
    """`delete` with a version, if there is no entry, raises `Conflict`, which carries none."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    await store.delete("key", now=now)
    assert await refused(store.delete("key", version, now=now)) is None, "Conflict carries a deleted entry"


@STORE.rule()
async def delete_removes_no_other_key(place: StoreFixture) -> None:
    """`delete` leaves all other keys alone, even those with the same prefix."""
    store, now = await place.connect(), place.now
    for key in ("key", "key-2", "ke"):
        await store.create(key, b"value", expires_at=now + LIFE, now=now)
    await store.delete("key", now=now)
    for key in ("key-2", "ke"):
        assert await store.get(key, now=now) is not None, f"{key} was deleted with another key"


# Concurrency


@STORE.rule()
async def of_parallel_creates_one_wins(place: StoreFixture) -> None:
    """Of many concurrent `create` calls for a free key, one succeeds. The others get its entry in `Conflict`."""
    stores, now = await connections(place), place.now
    for key in map(str, range(ROUNDS)):
        outcomes = await at_once(
            [partial(store.create, key, b"%d" % n, expires_at=now + LIFE, now=now) for n, store in enumerate(stores)]
        )
        await _check_one_has_won(stores[0], key, outcomes, now)


@STORE.rule()
async def of_parallel_replaces_one_wins(place: StoreFixture) -> None:
    """Of many concurrent `replace` calls with one version, one succeeds. The others get its entry in `Conflict`."""
    stores, now = await connections(place), place.now
    for key in map(str, range(ROUNDS)):
        version = await stores[0].create(key, b"start", expires_at=now + LIFE, now=now)
        outcomes = await at_once(
            [
                partial(store.replace, key, b"%d" % n, version, expires_at=now + LIFE, now=now)
                for n, store in enumerate(stores)
            ]
        )
        await _check_one_has_won(stores[0], key, outcomes, now)


@STORE.rule()
async def of_parallel_deletes_one_removes(place: StoreFixture) -> None:
    """Of many concurrent `delete` calls, one returns True; with a version, the others raise `Conflict`."""
    stores, now = await connections(place), place.now
    for key in map(str, range(ROUNDS)):
        await stores[0].create(key, b"value", expires_at=now + LIFE, now=now)
        outcomes = await at_once([partial(store.delete, key, now=now) for store in stores])
        assert outcomes.count(True) == 1, f"{outcomes.count(True)} concurrent deletes returned True"
        version = await stores[0].create(key, b"value", expires_at=now + LIFE, now=now)
        outcomes = await at_once([partial(store.delete, key, version, now=now) for store in stores])
        done = [outcome for outcome in outcomes if not isinstance(outcome, Conflict)]
        assert done == [True], f"of {AT_ONCE} concurrent deletes of one version, {len(done)} succeeded"


@STORE.rule()
async def a_delete_is_final_against_a_parallel_replace(place: StoreFixture) -> None:
    """After a concurrent `replace` and `delete` of an entry there is no entry, whichever comes first."""
    stores, now = await connections(place), place.now
    for n in range(2 * ROUNDS):
        key = str(n)
        version = await stores[0].create(key, b"value", expires_at=now + LIFE, now=now)
        works: list[Callable[[], Awaitable[Any]]] = [
            partial(stores[0].replace, key, b"late", version, expires_at=now + LIFE, now=now),
            partial(stores[1].delete, key, now=now),
        ]
        await at_once(works if n % 2 else works[::-1])
        assert await stores[2].get(key, now=now) is None, "a concurrent write brought back a deleted entry"


@STORE.rule()
async def of_a_parallel_replace_and_delete_one_wins(place: StoreFixture) -> None:
    """Of a concurrent `replace` and `delete` of the same version, one succeeds, and the other raises `Conflict`."""
    stores, now = await connections(place), place.now
    for n in range(2 * ROUNDS):
        key = str(n)
        version = await stores[0].create(key, b"value", expires_at=now + LIFE, now=now)
        replace = partial(stores[0].replace, key, b"new", version, expires_at=now + LIFE, now=now)
        delete = partial(stores[1].delete, key, version, now=now)
        works: list[Callable[[], Awaitable[Any]]] = [replace, delete]
        written, deleted = await at_once(works) if n % 2 else (await at_once(works[::-1]))[::-1]
        assert isinstance(written, Conflict) != isinstance(deleted, Conflict), (
            "a replace and a delete of one version both succeeded, or both failed"
        )
        left = await stores[2].get(key, now=now)
        assert (left is None) == isinstance(written, Conflict), "the result is not that of the call that succeeded"


@STORE.rule()
async def writers_that_retry_lose_no_update(place: StoreFixture) -> None:
    """Many writers increment a number, and retry with the entry in `Conflict`: no increment is lost."""
    stores, now, writes = await connections(place), place.now, 3 * AT_ONCE
    await stores[0].create("key", b"0", expires_at=now + LIFE, now=now)

    async def add(store: Store) -> None:
        for _ in range(3):
            current: Entry | None = await _get(store, "key", now)
            await checkpoint()  # let the others read as well, even if the store never suspends
            for _ in range(writes + 1):  # each conflict means that another write has succeeded
                assert current is not None, "Conflict carries no entry, but none was deleted"
                try:
                    value = b"%d" % (int(current.value) + 1)
                    await store.replace("key", value, current.version, expires_at=now + LIFE, now=now)
                    break
                except Conflict as conflict:
                    current = conflict.current
            else:
                raise AssertionError(f"a writer got more than {writes} conflicts, but there were only {writes} writes")

    await at_once([partial(add, store) for store in stores])
    added = int((await _get(stores[0], "key", now)).value)
    assert added == writes, f"of {writes} updates, {added} were kept"


@STORE.rule()
async def a_cancelled_call_is_done_whole_or_not_at_all(place: StoreFixture) -> None:
    """A cancelled `replace` is carried out completely or not at all, and the connection still works."""
    store, now = await place.connect(), place.now
    for patience in range(10):
        version = await store.create(f"key-{patience}", b"old", expires_at=now + LIFE, now=now)
        async with create_task_group() as tasks:
            new = partial(store.replace, f"key-{patience}", b"new", version, expires_at=now + 2 * LIFE, now=now)
            tasks.start_soon(new)
            for _ in range(patience):
                await checkpoint()
            tasks.cancel_scope.cancel()
        entry = await _get(store, f"key-{patience}", now)
        found = (entry.value, entry.expires_at - now, entry.version == version)
        assert found in ((b"old", LIFE, True), (b"new", 2 * LIFE, False)), "a cancelled replace was carried out in part"
        await store.replace(f"key-{patience}", b"next", entry.version, expires_at=now + LIFE, now=now)


# Connections and storages


@STORE.rule("several_connections")
async def one_connection_sees_what_another_writes(place: StoreFixture) -> None:
    """Two connections to one storage see each other's writes at once, with their versions and deadlines."""
    one, other, now = await place.connect(), await place.connect(), place.now
    first = await one.create("key", b"first", expires_at=now + LIFE, now=now)
    check_entry(await other.get("key", now=now), b"first", now + LIFE, first)
    second = await other.replace("key", b"second", first, expires_at=now + 2 * LIFE, now=now)
    check_entry(await one.get("key", now=now), b"second", now + 2 * LIFE, second)
    check_entry(await _refused_replace(one, "key", first, now), b"second", now + 2 * LIFE, second)
    assert await one.delete("key", second, now=now) is True, (
        "delete did not return True for an entry that another connection wrote"
    )
    assert await other.get("key", now=now) is None, "an entry that one connection deleted was found by the other"


@STORE.rule()
async def another_storage_is_separate(place: StoreFixture) -> None:
    """Entries in another storage (another prefix, another table) are not found, and are left alone."""
    async with place.another() as elsewhere:
        here, there, now = await place.connect(), await elsewhere.connect(), place.now
        version = await there.create("key", b"theirs", expires_at=now + LIFE, now=now)
        assert await here.get("key", now=now) is None, "get found an entry of another storage"
        current = await refused(here.replace("key", b"here", version, expires_at=now + LIFE, now=now))
        assert current is None, "Conflict carries an entry of another storage"
        assert await here.delete("key", now=now) is False, "delete found an entry of another storage"
        await here.create("key", b"here", expires_at=now + LIFE, now=now)
        check_entry(await there.get("key", now=now), b"theirs", now + LIFE, version)


@STORE.rule("durable")
async def entries_outlive_their_connections(place: StoreFixture) -> None:
    """After all connections were closed, entries are unchanged, and deleted entries stay deleted."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    dead = await store.create("dead", b"value", expires_at=now + LIFE, now=now)
    await store.delete("dead", now=now)
    await place.disconnect()

    store = await place.connect()
    check_entry(await store.get("key", now=now), b"value", now + LIFE, version)
    assert await refused(store.replace("dead", b"late", dead, expires_at=now + LIFE, now=now)) is None, (
        "Conflict carries a deleted entry"
    )
    for _ in range(5):
        new = await store.create("dead", b"new", expires_at=now + LIFE, now=now)
        assert new != dead, "a version was repeated after reconnecting"
        await store.delete("dead", new, now=now)
    await store.replace("key", b"next", version, expires_at=now + LIFE, now=now)


# Sweeping


@STORE.rule("sweeps")
async def sweep_removes_expired_entries_only(place: StoreFixture) -> None:
    """`sweep` removes only expired entries, including those that expire in this second, and returns their number."""
    store, now = await _sweeping(place), place.now
    for n in range(3):
        await store.create(f"expired-{n}", b"value", expires_at=now + LIFE + n - 2, now=now)
    version = await store.create("lives", b"value", expires_at=now + LIFE + 1, now=now)
    await store.create("deleted", b"value", expires_at=now + LIFE, now=now)
    await store.delete("deleted", now=now)
    swept = await store.sweep(100, now=now + LIFE)
    assert swept == 3, f"sweep returned {swept} for 3 expired entries"
    check_entry(await store.get("lives", now=now + LIFE), b"value", now + LIFE + 1, version)
    swept = await store.sweep(100, now=now + LIFE)
    assert swept == 0, f"sweep returned {swept}, but nothing had expired"


@STORE.rule("sweeps")
async def sweep_removes_at_most_its_limit(place: StoreFixture) -> None:
    """`sweep` removes at most `limit` entries. Fewer than `limit` means that none is left."""
    store, now = await _sweeping(place), place.now
    for n in range(7):
        await store.create(f"expired-{n}", b"value", expires_at=now + LIFE, now=now)
    swept = [await store.sweep(3, now=now + LIFE) for _ in range(3)]
    assert swept == [3, 3, 1], f"three sweeps of at most 3 of 7 expired entries returned {swept}"


@STORE.rule("sweeps")
async def sweep_goes_by_the_latest_deadline(place: StoreFixture) -> None:
    """`sweep` uses the latest deadline, whether it was moved later or earlier."""
    store, now = await _sweeping(place), place.now
    later = await store.create("later", b"value", expires_at=now + LIFE, now=now)
    later = await store.replace("later", b"value", later, expires_at=now + 3 * LIFE, now=now)
    sooner = await store.create("sooner", b"value", expires_at=now + 3 * LIFE, now=now)
    await store.replace("sooner", b"value", sooner, expires_at=now + LIFE, now=now)
    swept = await store.sweep(100, now=now + LIFE)
    assert swept == 1, f"sweep returned {swept}, but one entry had expired by its latest deadline"
    check_entry(await store.get("later", now=now + LIFE), b"value", now + 3 * LIFE, later)


@STORE.rule("sweeps")
async def sweep_leaves_entries_that_are_created_meanwhile(place: StoreFixture) -> None:
    """An entry that replaces an expired one is kept, even if a sweep runs concurrently."""
    store, now = await _sweeping(place), place.now
    then = now + LIFE
    for n in range(ROUNDS):
        for key in ALPHABET[:AT_ONCE]:
            await store.create(key, b"old", expires_at=then, now=now)
        works: list[Callable[[], Awaitable[Any]]] = [
            partial(store.create, key, b"new", expires_at=then + LIFE, now=then) for key in ALPHABET[:AT_ONCE]
        ]
        works.insert(n * AT_ONCE // ROUNDS, partial(store.sweep, 2 * AT_ONCE, now=then))
        await at_once(works)
        for key in ALPHABET[:AT_ONCE]:
            entry = await store.get(key, now=then)
            assert entry is not None, "a sweep removed an entry that was created while it ran"
            assert entry.value == b"new", "the entry does not have the value that was written"
            await store.delete(key, entry.version, now=then)


@STORE.rule("sweeps")
async def parallel_sweeps_count_each_entry_once(place: StoreFixture) -> None:
    """Each entry is counted by one of several concurrent sweeps, and no sweep fails because of another."""
    await _sweeping(place)
    stores, now = await connections(place, 4), place.now
    for n in range(4 * AT_ONCE):
        await stores[0].create(f"expired-{n}", b"value", expires_at=now + LIFE, now=now)
    sweepers = [store for store in stores if isinstance(store, Sweeping)]
    outcomes = await at_once([partial(store.sweep, AT_ONCE, now=now + LIFE) for store in sweepers])
    swept = sum(outcome for outcome in outcomes if not isinstance(outcome, Conflict))
    swept += await sweepers[0].sweep(5 * AT_ONCE, now=now + LIFE)
    assert swept == 4 * AT_ONCE, f"concurrent sweeps of {4 * AT_ONCE} expired entries returned {swept} in total"


# The optional powers

STORE.include(INDEXING)
STORE.include(SCANNING)
STORE.include(ANNOUNCING)


# Several writes at once

STORE.include(BATCHING)
STORE.include(JOINING)


# Helpers


class _SweepingStore(Store, Sweeping, Protocol):
    """The store in a rule about sweeping."""


async def _sweeping(place: StoreFixture) -> _SweepingStore:
    store: Any = await place.connect()
    assert isinstance(store, Sweeping), "the store has no sweep(): add it, or decline 'sweeps' with a reason"
    return cast(_SweepingStore, store)


async def _get(store: Store, key: str, now: int) -> Entry:
    entry = await store.get(key, now=now)
    assert entry is not None, "an entry that was written is missing"
    return entry


async def _refused_create(store: Store, key: str, now: int) -> Entry:
    """Return the entry that `Conflict` carries; fail if it carries none."""
    current = await refused(store.create(key, b"not to be written", expires_at=now + 9 * LIFE, now=now))
    assert current is not None, "Conflict does not carry the existing entry"
    return current


async def _refused_replace(store: Store, key: str, version: Version, now: int) -> Entry:
    """Return the entry that `Conflict` carries; fail if it carries none."""
    current = await refused(store.replace(key, b"not to be written", version, expires_at=now + 9 * LIFE, now=now))
    assert current is not None, "Conflict does not carry the existing entry"
    return current


async def _check_one_has_won(store: Store, key: str, outcomes: Sequence[Version | Conflict], now: int) -> None:
    winners = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Conflict)]
    assert len(winners) == 1, f"{len(winners)} of {len(outcomes)} concurrent writers succeeded"
    [winner] = winners
    value, version = b"%d" % winner, outcomes[winner]
    check_entry(await store.get(key, now=now), value, now + LIFE, version)
    for outcome in outcomes:
        if isinstance(outcome, Conflict):
            check_entry(outcome.current, value, now + LIFE, version)
