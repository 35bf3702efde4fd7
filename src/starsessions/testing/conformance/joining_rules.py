"""The contract of `Joining`, the optional power of a store, as one rule for each of its guarantees."""

from typing import Protocol, cast

from anyio import create_task_group
from anyio.lowlevel import checkpoint

from starsessions.stores.base import Entry, Indexing, Joined, Joining, Owner, Store
from starsessions.testing.conformance.checks import ALPHABET, LIFE, check_entry, connections
from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import StoreFixture

JOINING: Contract[StoreFixture] = Contract(
    {"joins": "the store reads an entry with that of its owner and another one: `get_joined`"}
)
"""The contract of a store that is `Joining`."""

TURNS = 50
"""The writes that a reader watches."""


class _Store(Indexing, Joining, Protocol):
    """The store in these rules."""


@JOINING.rule("joins")
async def an_entry_comes_with_that_of_its_owner_and_another(place: StoreFixture) -> None:
    """`get_joined` returns three entries, each as its latest write left it, and the name of the owner."""
    store, now = await _joining(place), place.now
    joined = await _written(store, "key", Owner("alice", now), now)
    assert (joined.of_owner, joined.other) == (None, None), "an entry that was never written was read"
    owned = await store.create("alice", b"of alice", expires_at=now + 2 * LIFE, now=now)
    other = await store.create("other", b"old", expires_at=now + LIFE, now=now)
    other = await store.replace("other", b"new", other, expires_at=now + 3 * LIFE, now=now)
    joined = await store.get_joined("key", "other", now=now)
    assert joined.owner == "alice", "the entry has another owner"
    assert joined.entry == await store.get("key", now=now), "the entry is not what `get` returns"
    check_entry(joined.of_owner, b"of alice", now + 2 * LIFE, owned)
    check_entry(joined.other, b"new", now + 3 * LIFE, other)


@JOINING.rule("joins")
async def the_entry_of_the_present_owner_is_joined(place: StoreFixture) -> None:
    """When an entry is given to another owner, it comes with that one's entry."""
    store, now = await _joining(place), place.now
    for name in ("alice", "bob"):
        await store.create(name, name.encode(), expires_at=now + LIFE, now=now)
    await _written(store, "key", Owner("alice", now), now)
    for name in ("bob", "alice"):
        joined = await _written(store, "key", Owner(name, now), now)
        assert (joined.owner, _value(joined.of_owner)) == (name, name.encode()), "an entry of a former owner was read"


@JOINING.rule("joins")
async def an_entry_without_an_owner_comes_alone(place: StoreFixture) -> None:
    """An entry that has no owner, or none any more, comes without others; and so does none at all."""
    store, now = await _joining(place), place.now
    for key in ("alice", "other"):
        await store.create(key, b"value", expires_at=now + LIFE, now=now)
    for owner in (None, Owner("alice", now), None):
        joined = await _written(store, "key", owner, now)
        assert joined.entry is not None, "an entry that was written is missing"
        assert owner or joined[1:] == (None, None, None), "an entry without an owner does not come alone"
    await _written(store, "key", Owner("alice", now), now)
    await store.delete("key", now=now)
    assert await store.get_joined("key", "other", now=now) == Joined(None), "what is missing does not come alone"


@JOINING.rule("joins")
async def what_has_expired_is_not_joined(place: StoreFixture) -> None:
    """Each of the three entries is returned until one second before its own deadline."""
    store, now = await _joining(place), place.now
    lives = {"other": LIFE, "alice": 2 * LIFE, "key": 3 * LIFE}
    for key, life in lives.items():
        owner = Owner("alice", now) if key == "key" else None
        await store.create(key, b"value", expires_at=now + life, now=now, owner=owner)
    for n, life in enumerate(lives.values()):
        for then, ended in ((now + life - 1, n), (now + life, n + 1)):
            joined = await store.get_joined("key", "other", now=then)
            found = [one is not None for one in (joined.other, joined.of_owner, joined.entry)]
            assert found == [False] * ended + [True] * (3 - ended), "an entry was not read until its deadline"


@JOINING.rule("joins")
async def names_of_owners_are_joined_whole_and_with_case(place: StoreFixture) -> None:
    """The name of an owner is compared with a key as keys are: whole, and with case."""
    store, now = await _joining(place), place.now
    long = (ALPHABET * 2)[:127]
    names = ["a", "owner", "OWNER", "Owner", "owner-2", "own", "own_r", long + "x", long + "y", long]
    for name in names:
        await store.create(name, name.encode(), expires_at=now + LIFE, now=now)
    for n, name in enumerate(names):
        joined = await _written(store, f"key-{n}", Owner(name, now), now)
        assert (joined.owner, _value(joined.of_owner)) == (name, name.encode()), f"{name} has another one's entry"


@JOINING.rule("joins")
async def what_comes_with_an_entry_is_not_older(place: StoreFixture) -> None:
    """What was written before an entry is not read as it was before that, while both are being written."""
    writer, store = [_checked(one) for one in await connections(place, 2)]
    now, owner = place.now, Owner("alice", place.now)
    owners: dict[str, Owner | None] = {"alice": None, "other": None, "key": owner}
    versions = {
        key: await writer.create(key, b"0", expires_at=now + LIFE, now=now, owner=owner)
        for key, owner in owners.items()
    }
    written = 0

    async def write() -> None:
        nonlocal written
        for n in range(1, TURNS + 1):
            for key, owner in owners.items():
                how = {"expires_at": now + LIFE, "now": now}
                versions[key] = await writer.replace(key, b"%d" % n, versions[key], owner=owner, **how)
            await checkpoint()
            written = n

    async with create_task_group() as tasks:
        tasks.start_soon(write)
        while written < TURNS:
            joined = await store.get_joined("key", "other", now=now)
            found, *others = [int(_value(one) or -1) for one in (joined.entry, joined.of_owner, joined.other)]
            assert min(others) >= found, "an entry was read that was written after what was read with it"
            await checkpoint()


@JOINING.rule("joins")
async def nothing_of_another_storage_is_joined(place: StoreFixture) -> None:
    """What another storage (another prefix, another table) has under the same keys is not read."""
    async with place.another() as elsewhere:
        here, there, now = await _joining(place), await _joining(elsewhere), place.now
        for key in ("alice", "other"):
            await there.create(key, b"theirs", expires_at=now + LIFE, now=now)
        joined = await _written(here, "key", Owner("alice", now), now)
        assert (joined.of_owner, joined.other) == (None, None), "an entry of another storage was read"


# Helpers


async def _joining(place: StoreFixture) -> _Store:
    return _checked(await place.connect())


def _checked(store: Store) -> _Store:
    assert isinstance(store, Joining), (
        "the store does not read an entry with that of its owner: add get_joined(), or decline 'joins' with a reason"
    )
    return cast(_Store, store)


async def _written(store: _Store, key: str, owner: Owner | None, now: int) -> Joined:
    """Write an entry of this owner, and return what is read."""
    there = await store.get(key, now=now)
    if there is None:
        await store.create(key, b"value", expires_at=now + LIFE, now=now, owner=owner)
    else:
        await store.replace(key, b"value", there.version, expires_at=now + LIFE, now=now, owner=owner)
    return await store.get_joined(key, "other", now=now)


def _value(entry: Entry | None) -> bytes | None:
    return None if entry is None else entry.value
