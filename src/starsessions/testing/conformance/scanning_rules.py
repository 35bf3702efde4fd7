"""The contract of `Scanning`, the optional power of a store, as one rule for each of its guarantees.

As in the rules of a store, time advances by passing a later `now`; `now=0` asks for all that is stored.
"""

from typing import Any, Protocol, cast

from starsessions.stores.base import Entry, Owner, Scanning, ScanPage, Store
from starsessions.stores.listed import is_indexing
from starsessions.testing.conformance.checks import ALPHABET, LIFE, check_entry
from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import StoreFixture

SCANNING: Contract[StoreFixture] = Contract({"scan": "the store goes through all its entries, page by page: `scan`"})
"""The contract of a store that is `Scanning`."""

MANY = 130
"""More than the usual size of a batch."""


@SCANNING.rule("scan")
async def a_scan_has_each_entry_as_it_is(place: StoreFixture) -> None:
    """A scan has each entry with its value, deadline and version, as the latest write left it, and nothing else."""
    store, now = await _scanning(place), place.now
    assert await _all(store, now) == {}, "the scan of an empty store is not empty"
    first = await store.create("first", b"value", expires_at=now + LIFE, now=now)
    old = await store.create("second", b"old", expires_at=now + LIFE, now=now)
    new = await store.replace("second", b"new", old, expires_at=now + 2 * LIFE, now=now)
    found = await _all(store, now)
    assert set(found) == {"first", "second"}, f"the scan has {sorted(found)} instead of the two keys that were written"
    check_entry(found["first"][0], b"value", now + LIFE, first)
    check_entry(found["second"][0], b"new", now + 2 * LIFE, new)
    assert [owner for _, owner in found.values()] == [None, None], "an entry without an owner has one"


@SCANNING.rule("scan", "owners")
async def a_scan_has_the_owner_of_each_entry(place: StoreFixture) -> None:
    """A scan has the name of the present owner of an entry, None without one, and no entry that was not created."""
    store, now = await _owning(place), place.now
    alice, bob = Owner("alice", now), Owner("bob", now)
    versions = {
        key: await store.create(key, b"value", expires_at=now + LIFE, now=now, owner=alice)
        for key in ("stays", "is-given", "is-released", "is-deleted")
    }
    await store.replace("is-given", b"value", versions["is-given"], expires_at=now + LIFE, now=now, owner=bob)
    await store.replace("is-released", b"value", versions["is-released"], expires_at=now + LIFE, now=now)
    await store.delete("is-deleted", now=now)
    await store.create("is-deleted", b"value", expires_at=now + LIFE, now=now)
    owners = {key: owner for key, (_, owner) in (await _all(store, now)).items()}
    wanted = {"stays": "alice", "is-given": "bob", "is-released": None, "is-deleted": None}
    assert owners == wanted, f"the owners in the scan are {owners} instead of {wanted}"


@SCANNING.rule("scan")
async def the_pages_of_a_scan_are_complete(place: StoreFixture) -> None:
    """Pages of any size have all entries together, whatever their keys are, and end."""
    store, now = await _scanning(place), place.now
    wanted = {"a", "A", "aa", "aB", "Aa", "_", "-", "0", "9", "Z", "z", ALPHABET * 2, ALPHABET[::-1] * 2}
    for key in wanted:
        await store.create(key, b"value", expires_at=now + LIFE, now=now)
    for limit in (1, 2, 3, 12, 13, 14):
        found = set(await _all(store, now, limit))
        assert found == wanted, f"pages of {limit} have {sorted(found)} instead of {sorted(wanted)}"


@SCANNING.rule("scan")
async def a_scan_has_many_entries_in_small_pages(place: StoreFixture) -> None:
    """More than a hundred entries are scanned. A page has about as many as were asked for."""
    store, now = await _scanning(place), place.now
    wanted = {f"key-{n}" for n in range(MANY)}
    for key in wanted:
        await store.create(key, b"value", expires_at=now + LIFE, now=now)
    for limit in (10, 2 * MANY):
        pages = await _pages(store, now, limit)
        found = _keys(pages)
        assert found == wanted, f"pages of {limit} have {len(found)} of {MANY} entries"
        longest = max(len(page.entries) for page in pages)
        assert longest <= 5 * limit, f"a page has {longest} entries, but about {limit} were asked for"


@SCANNING.rule("scan")
async def a_scan_has_no_entry_that_has_expired(place: StoreFixture) -> None:
    """A scan has an entry until one second before its deadline. It goes on after whole pages that have expired."""
    store, now = await _scanning(place), place.now
    for n in range(20):
        life = LIFE if 4 <= n < 17 else 2 * LIFE
        await store.create(f"key-{n:02}", b"value", expires_at=now + life, now=now)
    assert len(await _all(store, now + LIFE - 1)) == 20, "one second before the deadline, the scan lacks an entry"
    for limit in (1, 3, 5):
        found = set(await _all(store, now + LIFE, limit))
        wanted = {f"key-{n:02}" for n in (0, 1, 2, 3, 17, 18, 19)}
        assert found == wanted, f"pages of {limit} have {sorted(found)} instead of what has not expired"


@SCANNING.rule("scan")
async def a_scan_at_time_0_has_all_that_is_stored(place: StoreFixture) -> None:
    """With `now=0` a scan has each entry that `get` finds with it, also if a fast clock has been used before."""
    store, now = await _scanning(place), place.now
    for key, life in {"short": LIFE, "lives": 9 * LIFE}.items():
        await store.create(key, b"value", expires_at=now + life, now=now)
    assert set(await _all(store, now + 2 * LIFE)) == {"lives"}, "the scan has not exactly what has not expired"
    wanted = {key for key in ("short", "lives") if await store.get(key, now=0) is not None}
    assert "lives" in wanted, "an entry that has not expired by any clock is missing"
    found = set(await _all(store, 0))
    assert found == wanted, f"with now=0, {sorted(wanted)} are found by their keys, but the scan has {sorted(found)}"


@SCANNING.rule("scan")
async def a_scan_misses_nothing_that_stays(place: StoreFixture) -> None:
    """Between two pages, entries are created, replaced and deleted: each that exists all the time is on a page."""
    store, now = await _scanning(place), place.now
    versions = {
        f"key-{n:02}": await store.create(f"key-{n:02}", b"value", expires_at=now + 9 * LIFE, now=now)
        for n in range(40)
    }
    seen: set[str] = set()
    renewed: set[str] = set()
    page, turn = await store.scan(limit=4, now=now), 0
    while page.after is not None:
        assert turn < 10 * MANY, "the pages never end"
        seen |= {key for key, _, _ in page.entries}
        for key in [key for key, _, _ in page.entries if key in versions][-2:]:  # perhaps where the page ends
            del versions[key]
            await store.delete(key, now=now)
        await store.create(f"0-{turn}", b"before all others", expires_at=now + LIFE, now=now)
        await store.create(f"z-{turn}", b"after all others", expires_at=now + LIFE, now=now)
        left = [key for key in versions if key not in seen | renewed]
        for key, life in [(key, LIFE) for key in left[:1]] + [(key, 20 * LIFE) for key in left[1:][-1:]]:
            renewed.add(key)  # perhaps it comes to another place
            versions[key] = await store.replace(key, b"new", versions[key], expires_at=now + life, now=now)
        page, turn = await store.scan(limit=4, now=now, after=page.after), turn + 1
    seen |= {key for key, _, _ in page.entries}
    missed = sorted(versions.keys() - seen)
    assert not missed, f"the scan has missed {missed}, which existed all the time"


@SCANNING.rule("scan")
async def a_scan_has_no_entry_that_was_deleted_before(place: StoreFixture) -> None:
    """What was deleted is on no page that is asked for afterwards, also not with `now=0`."""
    store, now = await _scanning(place), place.now
    for n in range(6):
        await store.create(f"key-{n}", b"value", expires_at=now + LIFE, now=now)
    first = await store.scan(limit=2, now=now)
    deleted = {f"key-{n}" for n in range(6)} - {key for key, _, _ in first.entries}
    for key in deleted:
        await store.delete(key, now=now)
    later = await _pages(store, now, 2, first)
    for found in (_keys(later), _keys(await _pages(store, now, 50)), _keys(await _pages(store, 0, 50))):
        assert not found & deleted, "a page has an entry that was deleted before"


@SCANNING.rule("scan", "several_connections")
async def another_connection_goes_on_with_a_scan(place: StoreFixture) -> None:
    """A connection has what others have written, and goes on where a page of another connection ended."""
    stores, now = [await _scanning(place), await _scanning(place)], place.now
    wanted = {f"key-{n}" for n in range(12)}
    for n, key in enumerate(sorted(wanted)):
        await stores[n % 2].create(key, b"value", expires_at=now + LIFE, now=now)
    pages = [await stores[0].scan(limit=2, now=now)]
    while pages[-1].after is not None:
        assert len(pages) < 10 * MANY, "the pages never end"
        pages.append(await stores[len(pages) % 2].scan(limit=2, now=now, after=pages[-1].after))
    found = _keys(pages)
    assert found == wanted, f"a scan over two connections has {sorted(found)} instead of {sorted(wanted)}"


@SCANNING.rule("scan")
async def a_scan_has_no_entry_of_another_storage(place: StoreFixture) -> None:
    """A scan has only the entries of its own storage (its prefix, its table)."""
    async with place.another() as elsewhere:
        here, there, now = await _scanning(place), await _scanning(elsewhere), place.now
        await there.create("theirs", b"value", expires_at=now + LIFE, now=now)
        await here.create("ours", b"value", expires_at=now + LIFE, now=now)
        found = set(await _all(here, now))
        assert found == {"ours"}, f"the scan of a storage with one entry has {sorted(found)}"


# Helpers


class _ScanningStore(Store, Scanning, Protocol):
    """The store in these rules."""


async def _scanning(place: StoreFixture) -> _ScanningStore:
    store: Any = await place.connect()
    assert isinstance(store, Scanning), "the store has no scan(): add it, or decline 'scan' with a reason"
    return cast(_ScanningStore, store)


async def _owning(place: StoreFixture) -> Any:
    store = await _scanning(place)
    assert is_indexing(store), (
        "the store does not take the owner of an entry: add it, or decline 'owners' with a reason"
    )
    return store


async def _pages(store: Scanning, now: int, limit: int, first: ScanPage | None = None) -> list[ScanPage]:
    """Return all pages, or those that follow a first one."""
    pages = [first or await store.scan(limit=limit, now=now)]
    while pages[-1].after is not None:
        assert len(pages) < 10 * MANY, "the pages never end"
        pages.append(await store.scan(limit=limit, now=now, after=pages[-1].after))
    return pages[1:] if first else pages


def _keys(pages: list[ScanPage]) -> set[str]:
    return {key for page in pages for key, _, _ in page.entries}


async def _all(store: Scanning, now: int, limit: int = 50) -> dict[str, tuple[Entry, str | None]]:
    """Return the entries on all pages and the names of their owners, by key."""
    return {key: (entry, owner) for page in await _pages(store, now, limit) for key, entry, owner in page.entries}
