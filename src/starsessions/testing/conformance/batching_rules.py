"""The contract of `Batching`, the optional power of a store, as one rule for each of its guarantees."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, cast

from anyio import create_task_group
from anyio.lowlevel import checkpoint

from starsessions.stores.base import (
    BatchConflict,
    Batching,
    Conflict,
    Creation,
    Deletion,
    Indexing,
    Owner,
    Replacement,
    Store,
    Version,
    Write,
)
from starsessions.testing.conformance.checks import LIFE, ROUNDS, at_once, check_entry, connections
from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import StoreFixture

BATCHING: Contract[StoreFixture] = Contract(
    {
        "batches": "the store carries out several writes at once, or none of them: `write_together`",
    }
)
"""The contract of a store that is `Batching`."""

_STORED = {"create": None, "replace": b"old", "delete": b"old"}
"""What is stored before each of three writes."""


class _Store(Indexing, Batching, Protocol):
    """The store in a rule about several writes."""


@BATCHING.rule("batches")
async def writes_together_are_all_carried_out(place: StoreFixture) -> None:
    """`write_together` creates, replaces and deletes, and returns the versions, with None for what it deleted."""
    store, now = await _batching(place), place.now
    one, two = [await store.create(key, b"old", expires_at=now + LIFE, now=now) for key in ("one", "two")]
    writes: list[Write] = [
        Creation("new", b"new", now + LIFE),
        Deletion("one", one),
        Replacement("two", b"newer", two, now + 2 * LIFE),
    ]
    new, nothing, newer = await _written(store, writes, now)
    assert nothing is None, "a deletion has a version"
    check_entry(await store.get("new", now=now), b"new", now + LIFE, new)
    check_entry(await store.get("two", now=now), b"newer", now + 2 * LIFE, newer)
    assert await store.get("one", now=now) is None, "an entry that was deleted is still there"


@BATCHING.rule("batches")
async def a_refused_write_refuses_all_of_them(place: StoreFixture) -> None:
    """If one of the writes is refused, whichever it is, none is carried out."""
    store, now = await _batching(place), place.now
    for n, refused in enumerate(("create", "replace", "delete")):
        new, old, dead = (f"{verb}-{n}" for verb in ("create", "replace", "delete"))
        versions = {key: await store.create(key, b"old", expires_at=now + LIFE, now=now - 1) for key in (old, dead)}
        if refused == "create":
            await store.create(new, b"there", expires_at=now + LIFE, now=now)
        else:
            key = f"{refused}-{n}"
            await store.replace(key, b"there", versions[key], expires_at=now + LIFE, now=now)
        wanted = [b"there" if refused == verb else stored for verb, stored in _STORED.items()]
        writes: list[Write] = [
            Creation(new, b"new", now + LIFE),
            Replacement(old, b"new", versions[old], now + LIFE),
            Deletion(dead, versions[dead]),
        ]
        for order in (writes, writes[::-1]):
            await _refused(store, order, now)
            found = [await store.get(key, now=now) for key in (new, old, dead)]
            values = [entry and entry.value for entry in found]
            assert values == wanted, f"after a refusal, the values are {values} instead of {wanted}"


@BATCHING.rule("batches")
async def the_refusal_says_which_write_and_what_is_there(place: StoreFixture) -> None:
    """`BatchConflict` has the index of the first write that was refused, and the entry that it has found, or None."""
    store, now = await _batching(place), place.now
    used = await store.create("used", b"value", expires_at=now + LIFE, now=now)
    was = await store.create("was", b"value", expires_at=now + LIFE, now=now)
    await store.delete("was", now=now)
    taken = Creation("used", b"", now + LIFE)
    lost: list[Write] = [Replacement("was", b"", was, now + LIFE), Deletion("was", was)]
    for n, refused in enumerate((taken, *lost)):
        free, other = Creation(f"free-{n}", b"", now + LIFE), lost[1] if refused is taken else taken
        for wanted, writes in ((0, [refused, free, other]), (1, [free, refused, other]), (1, [free, refused])):
            conflict = await _refused(store, writes, now)
            assert conflict.index == wanted, f"the write {conflict.index} is said to be refused instead of {wanted}"
            current = conflict.current
            if refused is not taken:
                assert current is None, "BatchConflict has an entry, though it was deleted"
            else:
                assert current is not None, "BatchConflict does not carry the existing entry"
                assert (current.value, current.version) == (b"value", used), "BatchConflict carries another entry"
            await store.delete(free.key, now=now)


@BATCHING.rule("batches")
async def writes_together_go_by_the_deadlines(place: StoreFixture) -> None:
    """The key of an expired entry is free, and its version is refused. An entry whose deadline has passed is none."""
    store, now = await _batching(place), place.now
    dead = {key: await store.create(key, b"", expires_at=now + LIFE, now=now) for key in ("free", "one", "two")}
    then = now + LIFE
    for write in (Replacement("one", b"new", dead["one"], then + LIFE), Deletion("two", dead["two"])):
        conflict = await _refused(store, [write], then)
        assert conflict.current is None, "BatchConflict has an entry that has expired"
    await _written(store, [Creation("free", b"new", then + LIFE), Creation("past", b"new", then - 1)], then)
    found = await store.get("free", now=then)
    assert found is not None, "the key of an expired entry is not free"
    assert found.value == b"new", "an expired entry was not replaced"
    assert await store.get("past", now=then) is None, "an entry whose deadline has passed is there"


@BATCHING.rule("batches", "owners")
async def writes_together_change_the_listings(place: StoreFixture) -> None:
    """What was created or replaced is listed by its owner, and what was deleted or has no owner any more is not."""
    store, now = await _batching(place), place.now
    alice, bob = Owner("alice", now), Owner("bob", now)
    gone, given, freed = [
        await store.create(key, b"", expires_at=now + LIFE, now=now, owner=alice) for key in ("gone", "given", "freed")
    ]
    writes: list[Write] = [
        Deletion("gone", gone),
        Replacement("given", b"", given, now + LIFE, bob),
        Replacement("freed", b"", freed, now + LIFE),
        Creation("new", b"", now + LIFE, alice),
    ]
    await _written(store, writes, now)
    listed = {name: await _keys(store, name, now) for name in ("alice", "bob")}
    assert listed == {"alice": ["new"], "bob": ["given"]}, f"the listings are {listed}"


@BATCHING.rule("batches")
async def of_parallel_batches_one_wins(place: StoreFixture) -> None:
    """Of concurrent batches that write the same entries, in any order, one is carried out, and the others are not."""
    stores, now = [_checked(store) for store in await connections(place, 6)], place.now
    for n in range(ROUNDS):
        keys = [f"a-{n}", f"b-{n}"]
        versions = [await stores[0].create(key, b"", expires_at=now + LIFE, now=now) for key in keys]
        shared = [Replacement(key, b"", version, now + LIFE) for key, version in zip(keys, versions, strict=True)]
        works: list[Any] = [
            partial(
                store.write_together,
                [*(shared if m % 2 else shared[::-1]), Creation(f"new-{n}-{m}", b"", now + LIFE)],
                now=now,
            )
            for m, store in enumerate(stores)
        ]
        outcomes = await at_once(works)
        winners = [m for m, outcome in enumerate(outcomes) if not isinstance(outcome, Conflict)]
        assert len(winners) == 1, f"{len(winners)} of {len(outcomes)} concurrent batches succeeded"
        created = [m for m in range(len(stores)) if await stores[0].get(f"new-{n}-{m}", now=now)]
        assert created == winners, f"the batches {created} have created entries, but {winners} succeeded"


@BATCHING.rule("batches")
async def of_a_parallel_batch_and_delete_one_wins(place: StoreFixture) -> None:
    """Of a batch and a concurrent `delete` of an entry that it replaces, one succeeds."""
    stores, now = [_checked(store) for store in await connections(place, 2)], place.now
    for n in range(2 * ROUNDS):
        key, new = f"key-{n}", f"new-{n}"
        version = await stores[0].create(key, b"", expires_at=now + LIFE, now=now)
        writes: list[Write] = [Replacement(key, b"", version, now + LIFE), Creation(new, b"", now + LIFE)]
        batch = partial(stores[0].write_together, writes, now=now)
        works: list[Any] = [batch, partial(_delete_after, n // 2, stores[1], key, version, now)]
        outcomes = await at_once(works if n % 2 else works[::-1])
        lost = [isinstance(outcome, Conflict) for outcome in outcomes]
        assert sorted(lost) == [False, True], (
            "both a batch and a concurrent delete of one version succeeded, or neither"
        )
        is_written = not (lost if n % 2 else lost[::-1])[0]
        there = [await stores[0].get(one, now=now) is not None for one in (key, new)]
        assert there == [is_written, is_written], "after a concurrent delete, a batch was carried out in part"


@BATCHING.rule("batches")
async def a_cancelled_batch_is_carried_out_whole_or_not_at_all(place: StoreFixture) -> None:
    """If `write_together` is cancelled, all of its writes were carried out, or none."""
    store, now = await _batching(place), place.now
    for patience in range(16):
        keys = [f"{n}-{patience}" for n in range(3)]
        async with create_task_group() as tasks:
            writes = [Creation(key, b"", now + LIFE) for key in keys]
            tasks.start_soon(partial(store.write_together, writes, now=now))
            for _ in range(patience):
                await checkpoint()
            tasks.cancel_scope.cancel()
        there = {await store.get(key, now=now) is not None for key in keys}
        assert len(there) == 1, "a cancelled batch was carried out in part"


# Helpers


async def _batching(place: StoreFixture) -> _Store:
    return _checked(await place.connect())


def _checked(store: Store) -> _Store:
    assert isinstance(store, Batching), (
        "the store does not write several entries at once: add write_together(), or decline 'batches' with a reason"
    )
    return cast(_Store, store)


async def _written(store: _Store, writes: Sequence[Write], now: int) -> Sequence[Version | None]:
    """Return the versions of a batch that has to be carried out."""
    versions = await store.write_together(writes, now=now)
    assert versions is not None, "write_together returned None: decline 'batches' with a reason, if it always does"
    assert len(versions) == len(writes), f"write_together returned {len(versions)} versions for {len(writes)} writes"
    return versions


async def _refused(store: _Store, writes: Sequence[Write], now: int) -> BatchConflict:
    """Return the refusal of a batch."""
    try:
        await store.write_together(writes, now=now)
    except BatchConflict as conflict:
        return conflict
    raise AssertionError("BatchConflict was not raised, though an entry was not as expected")


async def _delete_after(patience: int, store: Store, key: str, version: Version, now: int) -> None:
    for _ in range(patience):
        await checkpoint()
    await store.delete(key, version, now=now)


async def _keys(store: Indexing, name: str, now: int) -> list[str]:
    return [key for key, _ in (await store.list_owned(name, limit=50, now=now)).entries]
