"""The contract of `starsessions.stores.base`, a rule for each of its promises.

Rules move time by saying another `now`, and never back for one key. What must be there has more than a minute to live
by the database's own clock, too.
"""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from anyio import create_task_group
from anyio.lowlevel import checkpoint

from starsessions.stores.base import Conflict, Entry, Store, Sweeping, Version
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
async def get_returns_what_create_has_stored(place: StoreFixture) -> None:
    """`get` returns the value, the deadline and the version of what `create` has stored; None where nothing is."""
    store, now = await place.connect(), place.now
    assert await store.get("key", now=now) is None, "get found something under a key that was never written"
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    assert version is not None, "create returned None for a version, with which delete asks for none"
    _check(await store.get("key", now=now), b"value", now + LIFE, version)


@STORE.rule()
async def a_value_is_immutable_bytes(place: StoreFixture) -> None:
    """A value is `bytes`: what is stored cannot be changed by changing what was read."""
    store, now = await place.connect(), place.now
    await store.create("key", b"value", expires_at=now + LIFE, now=now)
    value = (await _get(store, "key", now)).value
    assert type(value) is bytes, f"the value is {type(value).__name__}, not bytes"
    value = (await _refused_create(store, "key", now)).value
    assert type(value) is bytes, f"the value in Conflict is {type(value).__name__}, not bytes"


@STORE.rule()
async def every_byte_of_a_value_comes_back(place: StoreFixture) -> None:
    """Any bytes may be stored: none, NULs, what looks like text, JSON or SQL, what is no text at all, 64 KiB of it."""
    store, now = await place.connect(), place.now
    large = bytes(range(256)) * 256
    for n, value in enumerate((*NASTY_VALUES, large[: place.largest_value])):
        await store.create(f"key-{n}", value, expires_at=now + LIFE, now=now)
        read = (await _get(store, f"key-{n}", now)).value
        assert read == value, f"{len(value)} bytes {value[:16]!r} came back as {len(read)} bytes {read[:16]!r}"


@STORE.rule()
async def the_largest_value_is_kept_and_a_larger_one_is_refused_whole(place: StoreFixture) -> None:
    """A value of the size that is stated as the limit is kept (a MiB if none is). One byte more is an error."""
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
        assert isinstance(outcome, Exception), f"replace took {limit + 1} bytes, and the stated limit is {limit}"
        assert not isinstance(outcome, Conflict), "a value that is too large was answered with Conflict"
        _check(await store.get("key", now=now), largest, now + LIFE, version)


@STORE.rule()
async def keys_that_differ_in_case_are_different(place: StoreFixture) -> None:
    """`key` and `KEY` are two keys."""
    store, now = await place.connect(), place.now
    for key in ("key", "KEY", "Key"):
        assert await store.get(key, now=now) is None, f"{key} is found before it is written, by another case's name"
        await store.create(key, key.encode(), expires_at=now + LIFE, now=now)
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
        await store.create(key, key.encode(), expires_at=now + LIFE, now=now)
    for key in keys:
        assert (await _get(store, key, now)).value == key.encode(), f"{key} has the value of another key"


# Deadlines


@STORE.rule()
async def an_entry_expires_exactly_at_its_deadline(place: StoreFixture) -> None:
    """An entry is there one second before its deadline, and at its deadline it is not."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    _check(await store.get("key", now=now + LIFE - 1), b"value", now + LIFE, version)
    assert await store.get("key", now=now + LIFE) is None, "an entry was found at its deadline"
    assert await store.get("key", now=now + LIFE + 1) is None, "an entry was found after its deadline"


@STORE.rule()
async def a_deadline_is_kept_to_the_second(place: StoreFixture) -> None:
    """`expires_at` is read back as it was given, near and far: it is exact for ten billion seconds ahead."""
    store, now = await place.connect(), place.now
    for ahead in (LIFE - 1, LIFE, 2**31, 2**32 + 1, 10**10):
        key = f"key-{ahead}"
        version = await store.create(key, b"value", expires_at=now + ahead, now=now)
        _check(await store.get(key, now=now), b"value", now + ahead, version)
        _check(await store.get(key, now=now + ahead - 1), b"value", now + ahead, version)


@STORE.rule()
async def each_write_sets_the_deadline(place: StoreFixture) -> None:
    """Each write sets the deadline: a later one, and a sooner one."""
    store, now = await place.connect(), place.now
    for key, ahead in {"later": 3 * LIFE, "sooner": LIFE}.items():
        version = await store.create(key, b"value", expires_at=now + 2 * LIFE, now=now)
        version = await store.replace(key, b"value", version, expires_at=now + ahead, now=now)
        _check(await store.get(key, now=now + ahead - 1), b"value", now + ahead, version)
        assert await store.get(key, now=now + ahead) is None, "an entry was found at the deadline of its latest write"


@STORE.rule()
async def a_write_with_a_deadline_that_has_passed_leaves_nothing(place: StoreFixture) -> None:
    """After a write whose deadline is not after `now` there is no entry, also where there was one."""
    store, now = await place.connect(), place.now
    for late in (0, 1):
        await store.create("new", b"value", expires_at=now - late, now=now)
        assert await store.get("new", now=now) is None, f"what was written {late} s after its deadline is there"
        version = await store.create(f"old-{late}", b"value", expires_at=now + LIFE, now=now)
        await store.replace(f"old-{late}", b"value", version, expires_at=now - late, now=now)
        assert await store.get(f"old-{late}", now=now) is None, f"what was written {late} s after its deadline is there"


@STORE.rule()
async def the_key_of_an_expired_entry_is_free(place: StoreFixture) -> None:
    """Where an entry has expired, a new one may be created, and the version of the old one does not fit it."""
    store, now = await place.connect(), place.now
    old = await store.create("key", b"old", expires_at=now + LIFE, now=now)
    later = now + LIFE
    new = await store.create("key", b"new", expires_at=later + LIFE, now=later)
    assert new != old, "the new entry has the version of the expired one"
    _check(await _refused_replace(store, "key", old, later), b"new", later + LIFE, new)
    _check(await store.get("key", now=later), b"new", later + LIFE, new)


@STORE.rule()
async def the_version_of_an_expired_entry_is_refused(place: StoreFixture) -> None:
    """At its deadline an entry can no longer be changed or deleted by its version: `Conflict`, and nothing is there."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    later = now + LIFE
    current = await _refused(store.replace("key", b"back", version, expires_at=later + LIFE, now=later))
    assert current is None, "Conflict carries an expired entry"
    assert await store.get("key", now=later) is None, "a refused write has brought back an expired entry"
    current = await _refused(store.delete("key", version, now=later))
    assert current is None, "Conflict carries an expired entry"


@STORE.rule()
async def deleting_an_expired_entry_returns_false(place: StoreFixture) -> None:
    """`delete` returns False where the entry has expired."""
    store, now = await place.connect(), place.now
    await store.create("key", b"value", expires_at=now + LIFE, now=now)
    assert await store.delete("key", now=now + LIFE) is False, "delete did not return False for an expired entry"


# Who may write


@STORE.rule()
async def create_refuses_a_key_that_is_in_use(place: StoreFixture) -> None:
    """`create` does not overwrite an entry. It raises `Conflict`, which carries the entry that is there."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"first", expires_at=now + LIFE, now=now)
    _check(await _refused_create(store, "key", now), b"first", now + LIFE, version)
    _check(await store.get("key", now=now), b"first", now + LIFE, version)


@STORE.rule()
async def replace_with_the_current_version_writes(place: StoreFixture) -> None:
    """`replace` with the current version writes the value, and returns a new version."""
    store, now = await place.connect(), place.now
    first = await store.create("key", b"first", expires_at=now + LIFE, now=now)
    second = await store.replace("key", b"second", first, expires_at=now + LIFE, now=now)
    assert second != first, "the version has not changed with the value"
    _check(await store.get("key", now=now), b"second", now + LIFE, second)


@STORE.rule()
async def replace_with_an_older_version_is_refused(place: StoreFixture) -> None:
    """Who has read an older version does not write. `Conflict` carries what is there, which stays as it is."""
    store, now = await place.connect(), place.now
    first = await store.create("key", b"first", expires_at=now + LIFE, now=now)
    second = await store.replace("key", b"second", first, expires_at=now + LIFE, now=now)
    _check(await _refused_replace(store, "key", first, now), b"second", now + LIFE, second)
    _check(await store.get("key", now=now), b"second", now + LIFE, second)


@STORE.rule()
async def a_version_that_the_key_never_had_is_refused(place: StoreFixture) -> None:
    """A version of another key opens nothing, whether something is there or not."""
    store, now = await place.connect(), place.now
    other = await store.create("other", b"", expires_at=now + LIFE, now=now)
    for _ in range(3):
        other = await store.replace("other", b"", other, expires_at=now + LIFE, now=now)
    current = await _refused(store.replace("key", b"value", other, expires_at=now + LIFE, now=now))
    assert current is None, "Conflict carries an entry under a key that was never written"
    assert await store.get("key", now=now) is None, "a refused write has written"
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    _check(await _refused_replace(store, "key", other, now), b"value", now + LIFE, version)
    current = await _refused(store.delete("key", other, now=now))
    _check(current, b"value", now + LIFE, version)


@STORE.rule()
async def versions_never_repeat(place: StoreFixture) -> None:
    """A key never has the same version twice: not for equal values, not after a delete, not after a deadline."""
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
        assert version not in versions[:n], f"version {n} was there before"


@STORE.rule()
async def replace_never_revives_a_deleted_entry(place: StoreFixture) -> None:
    """A late write to a key that was deleted is `Conflict`, and nothing is there: a logout is final."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    await store.delete("key", now=now)
    current = await _refused(store.replace("key", b"late", version, expires_at=now + LIFE, now=now))
    assert current is None, "Conflict carries an entry that was deleted"
    assert await store.get("key", now=now) is None, "a late write has brought back what was deleted"


@STORE.rule()
async def a_version_from_before_a_delete_does_not_fit_a_later_entry(place: StoreFixture) -> None:
    """A late write does not fit into an entry that was made under the same key later."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"old", expires_at=now + LIFE, now=now)
    await store.delete("key", now=now)
    new = await store.create("key", b"new", expires_at=now + LIFE, now=now)
    _check(await _refused_replace(store, "key", version, now), b"new", now + LIFE, new)
    _check(await store.get("key", now=now), b"new", now + LIFE, new)


# Deleting


@STORE.rule()
async def delete_removes_the_entry_and_returns_whether_there_was_one(place: StoreFixture) -> None:
    """`delete` is True if something was there and False if not; again is no error, and the key is free."""
    store, now = await place.connect(), place.now
    assert await store.delete("key", now=now) is False, "delete did not return False for a key that was never written"
    await store.create("key", b"value", expires_at=now + LIFE, now=now)
    assert await store.delete("key", now=now) is True, "delete did not return True for an entry that was there"
    assert await store.get("key", now=now) is None, "what was deleted is there"
    assert await store.delete("key", now=now) is False, "delete did not return False the second time"
    await store.create("key", b"value", expires_at=now + LIFE, now=now)


@STORE.rule()
async def delete_with_the_current_version_removes(place: StoreFixture) -> None:
    """`delete` with the version that is there removes it."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    assert await store.delete("key", version, now=now) is True, "delete did not return True for an entry that was there"
    assert await store.get("key", now=now) is None, "what was deleted is there"


@STORE.rule()
async def delete_with_an_older_version_is_refused(place: StoreFixture) -> None:
    """`delete` with another version than is there is `Conflict`, which carries what is there, and removes nothing."""
    store, now = await place.connect(), place.now
    first = await store.create("key", b"first", expires_at=now + LIFE, now=now)
    second = await store.replace("key", b"second", first, expires_at=now + LIFE, now=now)
    _check(await _refused(store.delete("key", first, now=now)), b"second", now + LIFE, second)
    _check(await store.get("key", now=now), b"second", now + LIFE, second)


@STORE.rule()
async def delete_with_the_version_of_a_deleted_entry_is_refused(place: StoreFixture) -> None:
    """`delete` with a version, where nothing is, is `Conflict` and carries nothing."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    await store.delete("key", now=now)
    assert await _refused(store.delete("key", version, now=now)) is None, "Conflict carries an entry that was deleted"


@STORE.rule()
async def delete_removes_no_other_key(place: StoreFixture) -> None:
    """`delete` leaves all other keys alone, also those that begin alike."""
    store, now = await place.connect(), place.now
    for key in ("key", "key-2", "ke"):
        await store.create(key, b"value", expires_at=now + LIFE, now=now)
    await store.delete("key", now=now)
    for key in ("key-2", "ke"):
        assert await store.get(key, now=now) is not None, f"{key} went with another key"


# At once


@STORE.rule()
async def of_parallel_creates_one_wins(place: StoreFixture) -> None:
    """Of many that take a free key at once one gets it. The others are told what it has written."""
    stores, now = await _connections(place), place.now
    for key in map(str, range(ROUNDS)):
        outcomes = await _at_once(
            [partial(store.create, key, b"%d" % n, expires_at=now + LIFE, now=now) for n, store in enumerate(stores)]
        )
        await _check_one_has_won(stores[0], key, outcomes, now)


@STORE.rule()
async def of_parallel_replaces_one_wins(place: StoreFixture) -> None:
    """Of many that have read the same version and write at once one gets through. The others are told what is there."""
    stores, now = await _connections(place), place.now
    for key in map(str, range(ROUNDS)):
        version = await stores[0].create(key, b"start", expires_at=now + LIFE, now=now)
        outcomes = await _at_once(
            [
                partial(store.replace, key, b"%d" % n, version, expires_at=now + LIFE, now=now)
                for n, store in enumerate(stores)
            ]
        )
        await _check_one_has_won(stores[0], key, outcomes, now)


@STORE.rule()
async def of_parallel_deletes_one_removes(place: StoreFixture) -> None:
    """Of many that delete at once one says True, or is not refused."""
    stores, now = await _connections(place), place.now
    for key in map(str, range(ROUNDS)):
        await stores[0].create(key, b"value", expires_at=now + LIFE, now=now)
        outcomes = await _at_once([partial(store.delete, key, now=now) for store in stores])
        assert outcomes.count(True) == 1, f"{outcomes.count(True)} deletes at once said that they had removed"
        version = await stores[0].create(key, b"value", expires_at=now + LIFE, now=now)
        outcomes = await _at_once([partial(store.delete, key, version, now=now) for store in stores])
        done = [outcome for outcome in outcomes if not isinstance(outcome, Conflict)]
        assert done == [True], f"of {AT_ONCE} deletes of one version at once, {len(done)} were not refused"


@STORE.rule()
async def a_delete_is_final_against_a_parallel_replace(place: StoreFixture) -> None:
    """Whichever comes first, a `replace` of an entry or its `delete`: after both there is no entry."""
    stores, now = await _connections(place), place.now
    for n in range(2 * ROUNDS):
        key = str(n)
        version = await stores[0].create(key, b"value", expires_at=now + LIFE, now=now)
        works: list[Callable[[], Awaitable[Any]]] = [
            partial(stores[0].replace, key, b"late", version, expires_at=now + LIFE, now=now),
            partial(stores[1].delete, key, now=now),
        ]
        await _at_once(works if n % 2 else works[::-1])
        assert await stores[2].get(key, now=now) is None, "a write at the same time has brought back what was deleted"


@STORE.rule()
async def of_a_parallel_replace_and_delete_one_wins(place: StoreFixture) -> None:
    """Of a `replace` and a `delete` of the same version one raises `Conflict`, and the other has done its work."""
    stores, now = await _connections(place), place.now
    for n in range(2 * ROUNDS):
        key = str(n)
        version = await stores[0].create(key, b"value", expires_at=now + LIFE, now=now)
        replace = partial(stores[0].replace, key, b"new", version, expires_at=now + LIFE, now=now)
        delete = partial(stores[1].delete, key, version, now=now)
        works: list[Callable[[], Awaitable[Any]]] = [replace, delete]
        written, deleted = await _at_once(works) if n % 2 else (await _at_once(works[::-1]))[::-1]
        assert isinstance(written, Conflict) != isinstance(deleted, Conflict), (
            "a replace and a delete of one version both won"
        )
        left = await stores[2].get(key, now=now)
        assert (left is None) == isinstance(written, Conflict), "what is there is not what the winner has made"


@STORE.rule()
async def writers_that_retry_lose_no_update(place: StoreFixture) -> None:
    """Many add one to a number, each again with what `Conflict` carries until it fits: they all count."""
    stores, now, writes = await _connections(place), place.now, 3 * AT_ONCE
    await stores[0].create("key", b"0", expires_at=now + LIFE, now=now)

    async def add(store: Store) -> None:
        for _ in range(3):
            current: Entry | None = await _get(store, "key", now)
            await checkpoint()  # let the others read, too, also where the store waits for nothing
            for _ in range(writes + 1):  # another write has come between each time
                assert current is not None, "Conflict says that there is no entry, and none was deleted"
                try:
                    value = b"%d" % (int(current.value) + 1)
                    await store.replace("key", value, current.version, expires_at=now + LIFE, now=now)
                    break
                except Conflict as conflict:
                    current = conflict.current
            else:
                raise AssertionError(f"a writer was refused more than {writes} times, and there were no more writes")

    await _at_once([partial(add, store) for store in stores])
    added = int((await _get(stores[0], "key", now)).value)
    assert added == writes, f"of {writes} updates {added} are there"


@STORE.rule()
async def a_cancelled_call_is_done_whole_or_not_at_all(place: StoreFixture) -> None:
    """A `replace` that is cancelled has been done whole or not at all, and the connection works as before."""
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
        assert found in ((b"old", LIFE, True), (b"new", 2 * LIFE, False)), "a replace that was cancelled is half done"
        await store.replace(f"key-{patience}", b"next", entry.version, expires_at=now + LIFE, now=now)


# Handles and places


@STORE.rule("several_connections")
async def one_connection_sees_what_another_writes(place: StoreFixture) -> None:
    """Two connections see one storage: at once, with the versions and deadlines of each other."""
    one, other, now = await place.connect(), await place.connect(), place.now
    first = await one.create("key", b"first", expires_at=now + LIFE, now=now)
    _check(await other.get("key", now=now), b"first", now + LIFE, first)
    second = await other.replace("key", b"second", first, expires_at=now + 2 * LIFE, now=now)
    _check(await one.get("key", now=now), b"second", now + 2 * LIFE, second)
    _check(await _refused_replace(one, "key", first, now), b"second", now + 2 * LIFE, second)
    assert await one.delete("key", second, now=now) is True, (
        "delete did not return True for what another connection has written"
    )
    assert await other.get("key", now=now) is None, "what one connection has deleted is there for the other"


@STORE.rule()
async def another_storage_is_separate(place: StoreFixture) -> None:
    """What is stored in another place (under another prefix, in another table) is not there, and is left alone."""
    async with place.another() as elsewhere:
        here, there, now = await place.connect(), await elsewhere.connect(), place.now
        version = await there.create("key", b"theirs", expires_at=now + LIFE, now=now)
        assert await here.get("key", now=now) is None, "get found what is stored in another place"
        current = await _refused(here.replace("key", b"ours", version, expires_at=now + LIFE, now=now))
        assert current is None, "Conflict carries what is stored in another place"
        assert await here.delete("key", now=now) is False, "delete found what is stored in another place"
        await here.create("key", b"ours", expires_at=now + LIFE, now=now)
        _check(await there.get("key", now=now), b"theirs", now + LIFE, version)


@STORE.rule("durable")
async def entries_outlive_their_connections(place: StoreFixture) -> None:
    """When all connections are closed and new ones opened, all is as it was, and what was deleted stays deleted."""
    store, now = await place.connect(), place.now
    version = await store.create("key", b"value", expires_at=now + LIFE, now=now)
    dead = await store.create("dead", b"value", expires_at=now + LIFE, now=now)
    await store.delete("dead", now=now)
    await place.disconnect()

    store = await place.connect()
    _check(await store.get("key", now=now), b"value", now + LIFE, version)
    assert await _refused(store.replace("dead", b"late", dead, expires_at=now + LIFE, now=now)) is None, (
        "what was deleted is there again"
    )
    for _ in range(5):
        new = await store.create("dead", b"new", expires_at=now + LIFE, now=now)
        assert new != dead, "versions begin again with a new connection, and repeat"
        await store.delete("dead", new, now=now)
    await store.replace("key", b"next", version, expires_at=now + LIFE, now=now)


# Sweeping


@STORE.rule("sweeps")
async def sweep_removes_expired_entries_only(place: StoreFixture) -> None:
    """`sweep` removes expired entries, those that expire this very second included, says how many, and no others."""
    store, now = await _sweeping(place), place.now
    for n in range(3):
        await store.create(f"expired-{n}", b"value", expires_at=now + LIFE + n - 2, now=now)
    version = await store.create("lives", b"value", expires_at=now + LIFE + 1, now=now)
    await store.create("deleted", b"value", expires_at=now + LIFE, now=now)
    await store.delete("deleted", now=now)
    swept = await store.sweep(100, now=now + LIFE)
    assert swept == 3, f"sweep says that it removed {swept} of 3 expired entries"
    _check(await store.get("lives", now=now + LIFE), b"value", now + LIFE + 1, version)
    swept = await store.sweep(100, now=now + LIFE)
    assert swept == 0, f"sweep removed {swept} where nothing had expired"


@STORE.rule("sweeps")
async def sweep_removes_at_most_its_limit(place: StoreFixture) -> None:
    """`sweep` removes at most `limit` entries. Fewer than `limit` means that none is left."""
    store, now = await _sweeping(place), place.now
    for n in range(7):
        await store.create(f"expired-{n}", b"value", expires_at=now + LIFE, now=now)
    swept = [await store.sweep(3, now=now + LIFE) for _ in range(3)]
    assert swept == [3, 3, 1], f"of 7 expired entries, sweeps of at most 3 removed {swept}"


@STORE.rule("sweeps")
async def sweep_goes_by_the_latest_deadline(place: StoreFixture) -> None:
    """`sweep` goes by the latest deadline, whether it was moved later or sooner."""
    store, now = await _sweeping(place), place.now
    later = await store.create("later", b"value", expires_at=now + LIFE, now=now)
    later = await store.replace("later", b"value", later, expires_at=now + 3 * LIFE, now=now)
    sooner = await store.create("sooner", b"value", expires_at=now + 3 * LIFE, now=now)
    await store.replace("sooner", b"value", sooner, expires_at=now + LIFE, now=now)
    swept = await store.sweep(100, now=now + LIFE)
    assert swept == 1, f"sweep removed {swept} entries where one had expired, by its latest deadline"
    _check(await store.get("later", now=now + LIFE), b"value", now + 3 * LIFE, later)


@STORE.rule("sweeps")
async def sweep_leaves_entries_that_are_created_meanwhile(place: StoreFixture) -> None:
    """An entry that is created where one had expired stays, also if a sweep runs at the same time."""
    store, now = await _sweeping(place), place.now
    then = now + LIFE
    for n in range(ROUNDS):
        for key in ALPHABET[:AT_ONCE]:
            await store.create(key, b"old", expires_at=then, now=now)
        works: list[Callable[[], Awaitable[Any]]] = [
            partial(store.create, key, b"new", expires_at=then + LIFE, now=then) for key in ALPHABET[:AT_ONCE]
        ]
        works.insert(n * AT_ONCE // ROUNDS, partial(store.sweep, 2 * AT_ONCE, now=then))
        await _at_once(works)
        for key in ALPHABET[:AT_ONCE]:
            entry = await store.get(key, now=then)
            assert entry is not None, "a sweep removed what was created while it ran"
            assert entry.value == b"new", "what was written is not there"
            await store.delete(key, entry.version, now=then)


@STORE.rule("sweeps")
async def parallel_sweeps_count_each_entry_once(place: StoreFixture) -> None:
    """What several sweeps at once remove is counted by one of them, and no sweep fails because of another one."""
    await _sweeping(place)
    stores, now = await _connections(place, 4), place.now
    for n in range(4 * AT_ONCE):
        await stores[0].create(f"expired-{n}", b"value", expires_at=now + LIFE, now=now)
    sweepers = [store for store in stores if isinstance(store, Sweeping)]
    outcomes = await _at_once([partial(store.sweep, AT_ONCE, now=now + LIFE) for store in sweepers])
    swept = sum([outcome for outcome in outcomes if not isinstance(outcome, Conflict)])
    swept += await sweepers[0].sweep(5 * AT_ONCE, now=now + LIFE)
    assert swept == 4 * AT_ONCE, f"of {4 * AT_ONCE} expired entries, parallel sweeps removed {swept}"


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


async def _at_once(works: Sequence[Callable[[], Awaitable[T]]]) -> list[T | Conflict]:
    """What each of them came to, in their order, if they all go at once."""
    outcomes: dict[int, T | Conflict] = {}

    async def do(n: int, work: Callable[[], Awaitable[T]]) -> None:
        try:
            outcomes[n] = await work()
        except Conflict as refused:
            outcomes[n] = refused

    async with create_task_group() as tasks:
        for n, work in enumerate(works):
            tasks.start_soon(do, n, work)
    return [outcomes[n] for n in range(len(works))]


async def _get(store: Store, key: str, now: int) -> Entry:
    entry = await store.get(key, now=now)
    assert entry is not None, "what was written is not there"
    return entry


async def _refused(verb: Awaitable[object]) -> Entry | None:
    """What the refusal carries."""
    try:
        await verb
    except Conflict as refused:
        return refused.current
    raise AssertionError("Conflict was not raised, and what was expected was not there")


async def _refused_create(store: Store, key: str, now: int) -> Entry:
    """The entry that the refusal carries: there is one."""
    current = await _refused(store.create(key, b"not to be written", expires_at=now + 9 * LIFE, now=now))
    assert current is not None, "Conflict does not carry what is there"
    return current


async def _refused_replace(store: Store, key: str, version: Version, now: int) -> Entry:
    """The entry that the refusal carries: there is one."""
    current = await _refused(store.replace(key, b"not to be written", version, expires_at=now + 9 * LIFE, now=now))
    assert current is not None, "Conflict does not carry what is there"
    return current


def _check(entry: Entry | None, value: bytes, expires_at: int, version: Version) -> None:
    assert entry is not None, "what was written is not there, or is not what Conflict carries"
    assert entry.value == value, f"the value is {entry.value[:40]!r} and should be {value[:40]!r}"
    wrong = entry.expires_at - expires_at
    assert wrong == 0, f"the deadline is wrong by {wrong} s"
    assert entry.version == version, "the version is not the one that the write has returned"


async def _check_one_has_won(store: Store, key: str, outcomes: Sequence[Version | Conflict], now: int) -> None:
    winners = [n for n, outcome in enumerate(outcomes) if not isinstance(outcome, Conflict)]
    assert len(winners) == 1, f"of {len(outcomes)} writers at once {len(winners)} have won"
    [winner] = winners
    value, version = b"%d" % winner, outcomes[winner]
    _check(await store.get(key, now=now), value, now + LIFE, version)
    for outcome in outcomes:
        if isinstance(outcome, Conflict):
            _check(outcome.current, value, now + LIFE, version)
