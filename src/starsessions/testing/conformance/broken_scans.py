"""Stores with typical mistakes in the optional power to scan, and the rules that must reject each of them.

As with the other broken stores, the sets of rules are written by hand.
"""

from typing import ClassVar, Self

from starsessions.stores.base import Entry, ScanPage, Version
from starsessions.testing.conformance import scanning_rules as s
from starsessions.testing.conformance.contract import Rule
from starsessions.testing.conformance.fixtures import StoreFixture
from starsessions.testing.conformance.right_stores import Entries, Right

# What is on a page


class ScansKeysOnly(Right):
    """It fills in what it does not read."""

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        page = super().scan_page(left, limit, now)
        return page._replace(entries=[(key, entry._replace(version=None), owner) for key, entry, owner in page.entries])


class ScansWithoutOwners(Right):
    """`SELECT key, value, expires_at, version`, without the owner."""

    def owner_name(self, key: str) -> str | None:
        return None


class ScansItsOwnLists(Right):
    """The lists of owners are entries like any others."""

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        page = super().scan_page(left, limit, now)
        names = {owner.name for owner in self.entries.owners.values()}
        return page._replace(entries=[*page.entries, *((name, Entry(b"", now + 1, None), None) for name in names)])


class ScansWhatIsOver(Right):
    """The scan does not check deadlines."""

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        return super().scan_page(left, limit, 0)


class ScansByTheLatestTime(Right):
    """It goes by the latest time that any worker has named."""

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        latest = self.entries.notes["latest"] = max(now, self.entries.notes.get("latest", 0))
        return await super().scan(limit=limit, now=latest, after=after)


class ScansCopies(Right):
    """It reads a replica, in which a deleted entry lives for a while."""

    def scanned(self) -> list[str]:
        return sorted(self.entries.notes.setdefault("all", {}))

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        version = await super().write(key, value, expires_at, expect, now)
        self.entries.notes.setdefault("all", {})[key] = Entry(value, expires_at, version)
        return version

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        copies = [(key, self.entries.notes["all"][key]) for key in left[:limit]]
        live = [(key, entry, self.owner_name(key)) for key, entry in copies if self.is_live(entry, now)]
        return ScanPage(live, super().scan_page(left, limit, now).after)


# How it goes on


class ScansByNumber(Right):
    """`LIMIT … OFFSET …`."""

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        begin = int(after or 0)
        page = self.scan_page(self.scanned()[begin:], limit, now)
        return page._replace(after=None if page.after is None else str(begin + limit))


class ScansByPlace(Right):
    """An array, in which the last entry takes the place of one that is removed: perhaps where the scan has been."""

    def places(self) -> list[str]:
        places: list[str] = self.entries.notes.setdefault("places", [])
        return places

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        version = await super().write(key, value, expires_at, expect, now)
        if key not in self.places():
            self.places().append(key)
        return version

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        deleted: bool = await super().delete(key, version, now=now)
        if key in self.places():
            self.places()[self.places().index(key)] = self.places()[-1]
            self.places().pop()
        return deleted

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        begin = int(after or 0)
        page = self.scan_page(self.places()[begin:], limit, now)
        return page._replace(after=None if page.after is None else str(begin + limit))


class ScansByDeadline(Right):
    """`ORDER BY expires_at`, which a renewal changes."""

    def scanned(self) -> list[str]:
        return sorted(self.entries, key=self.sorted_by)

    def sorted_by(self, key: str) -> str:
        return f"{self.entries[key].expires_at:012}{key}"

    def goes_on_with(self, key: str, after: str) -> bool:
        return self.sorted_by(key) > after

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        page = super().scan_page(left, limit, now)
        return page._replace(after=None if page.after is None else self.sorted_by(page.after))


class ScansFromTheCursorsEntry(Right):
    """It looks for the entry of the cursor, and ends if it was deleted."""

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        if after is not None and after not in self.entries:
            return ScanPage([], None)
        return await super().scan(limit=limit, now=now, after=after)


class ScansKeysWithoutCase(Right):
    """A case-insensitive collation of the key."""

    def scanned(self) -> list[str]:
        return sorted(self.entries, key=str.lower)

    def goes_on_with(self, key: str, after: str) -> bool:
        return key.lower() > after.lower()


class ScansTheFirstPageAgain(Right):
    """`>=` instead of `>`."""

    def goes_on_with(self, key: str, after: str) -> bool:
        return key >= after


class EndsAtAShortPage(Right):
    """It takes a page with expired entries for the last one."""

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        page = super().scan_page(left, limit, now)
        return page if len(page.entries) == limit else page._replace(after=None)


class ScansAHundred(Right):
    """`LIMIT 100`, and no other page."""

    def scanned(self) -> list[str]:
        return super().scanned()[:100]


class ScansAllAtOnce(Right):
    """`KEYS *`."""

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        return super().scan_page(left, len(left), now)


class ScansInItsProcess(Right):
    """A cursor on the server, which only the connection that opened it has."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(entries)
        self.opened: set[str] = set()

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        if after is not None and after not in self.opened:
            return ScanPage([], None)
        page = await super().scan(limit=limit, now=now, after=after)
        self.opened |= {page.after} if page.after else set()
        return page


class ScansTheWholeDatabase(Right):
    """`SCAN` without `MATCH`, where another storage is in the same database."""

    opened: ClassVar[list[Right]] = []

    async def __aenter__(self) -> Self:
        self.opened.append(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.opened.remove(self)

    def scanned(self) -> list[str]:
        return sorted({key for store in self.opened for key in store.entries})

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        pages = [Right(store.entries).scan_page(left, limit, now) for store in self.opened]
        found = {key: (key, entry, owner) for page in pages for key, entry, owner in page.entries}
        return ScanPage([*found.values()], pages[0].after)


# The broken scans, and the rules that must reject them

WRONG_SCANS: dict[type[Right], set[Rule[StoreFixture]]] = {
    ScansKeysOnly: {s.a_scan_has_each_entry_as_it_is},
    ScansWithoutOwners: {s.a_scan_has_the_owner_of_each_entry},
    ScansItsOwnLists: {s.a_scan_has_the_owner_of_each_entry},
    ScansWhatIsOver: {s.a_scan_has_no_entry_that_has_expired, s.a_scan_at_time_0_has_all_that_is_stored},
    ScansByTheLatestTime: {s.a_scan_at_time_0_has_all_that_is_stored},
    ScansCopies: {s.a_scan_has_no_entry_that_was_deleted_before},
    ScansByNumber: {s.a_scan_misses_nothing_that_stays},
    ScansByPlace: {s.a_scan_misses_nothing_that_stays},
    ScansByDeadline: {s.a_scan_misses_nothing_that_stays},
    ScansFromTheCursorsEntry: {s.a_scan_misses_nothing_that_stays},
    ScansKeysWithoutCase: {s.the_pages_of_a_scan_are_complete},
    # With a limit of 1, it never gets any further.
    ScansTheFirstPageAgain: {s.the_pages_of_a_scan_are_complete, s.a_scan_has_no_entry_that_has_expired},
    EndsAtAShortPage: {s.a_scan_has_no_entry_that_has_expired},
    ScansAHundred: {s.a_scan_has_many_entries_in_small_pages},
    ScansAllAtOnce: {s.a_scan_has_many_entries_in_small_pages},
    ScansInItsProcess: {s.another_connection_goes_on_with_a_scan},
    ScansTheWholeDatabase: {s.a_scan_has_no_entry_of_another_storage},
}
