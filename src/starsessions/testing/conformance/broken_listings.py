"""Stores with typical mistakes in the optional power to list by owner, and the rules that must reject each of them.

As with the other broken stores, the sets of rules are written by hand.
"""

from itertools import count
from typing import Any

from anyio.lowlevel import checkpoint

from starsessions.stores.base import Conflict, Cursor, Entry, Owner, Page, Version
from starsessions.testing.conformance import batching_rules as b
from starsessions.testing.conformance import indexing_rules as i
from starsessions.testing.conformance import joining_rules as j
from starsessions.testing.conformance import scanning_rules as s
from starsessions.testing.conformance.contract import Rule
from starsessions.testing.conformance.fixtures import StoreFixture
from starsessions.testing.conformance.right_stores import Entries, Right

# Names


class KeepsAListUnderTheNameOfItsOwner(Right):
    """So no entry can be there."""

    def check(self, key: str, expect: Version | None, now: int) -> None:
        owned = self.owned(key, now)
        if owned:
            raise Conflict(self.live(owned[0].key, now))
        super().check(key, expect, now)


# Order


class ListsTheOldestFirst(Right):
    """`ORDER BY since, key`, without `DESC`."""

    def owned(self, name: str, now: int) -> list[Cursor]:
        return super().owned(name, now)[::-1]

    def comes_after(self, one: Cursor, after: Cursor) -> bool:
        return one > after


class OrdersKeysWithoutCase(Right):
    """A case-insensitive collation of the key."""

    def owned(self, name: str, now: int) -> list[Cursor]:
        return sorted(super().owned(name, now), key=lambda one: (one.since, one.key.lower()), reverse=True)


class OrdersTimesAsText(Right):
    """A sort key made of text, in which 9 comes after 10."""

    def owned(self, name: str, now: int) -> list[Cursor]:
        return sorted(super().owned(name, now), key=lambda one: (str(one.since), one.key), reverse=True)


# Pages


class PagesByNumber(Right):
    """`LIMIT … OFFSET …`."""

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        begin = 0 if after is None else after.since
        owned = self.owned(name, now)
        more = Cursor(begin + limit, "") if len(owned) > begin + limit else None
        return Page(self.page(owned[begin:], limit, now).entries, more)


class LooksForTheCursor(Right):
    """`WHERE (since, key) < (SELECT since, key FROM … WHERE key = …)`, which is nothing once that entry was deleted."""

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        if after is not None and after not in self.owned(name, now):
            return Page([], None)
        return await super().list_owned(name, limit=limit, now=now, after=after)


class BeginsWithTheCursor(Right):
    """`<=` instead of `<`."""

    def comes_after(self, one: Cursor, after: Cursor) -> bool:
        return one <= after


class PagesByTimeOnly(Right):
    """A cursor without the key: it skips what has the same time."""

    def comes_after(self, one: Cursor, after: Cursor) -> bool:
        return one.since < after.since


class StopsAtAShortPage(Right):
    """It takes a page with expired entries for the last one."""

    def page(self, left: list[Cursor], limit: int, now: int) -> Page:
        page = super().page(left, limit, now)
        return page if len(page.entries) == limit else Page(page.entries, None)


class IgnoresTheLimit(Right):
    """It returns all."""

    def page(self, left: list[Cursor], limit: int, now: int) -> Page:
        return super().page(left, len(left), now)


class ListsAHundred(Right):
    """`ZREVRANGE 0 99`."""

    def owned(self, name: str, now: int) -> list[Cursor]:
        return super().owned(name, now)[:100]


# Owners


class KeepsTheFirstOwner(Right):
    """`UPDATE … SET value = …`, without the owner."""

    async def replace(self, key: str, value: bytes, version: Version, **rest: Any) -> Version:
        return await super().replace(key, value, version, **rest | {"owner": self.entries.owners.get(key)})


class KeepsTheOwnerIfNoneIsGiven(Right):
    """`owner = COALESCE(:owner, owner)`."""

    async def replace(self, key: str, value: bytes, version: Version, **rest: Any) -> Version:
        owner = rest.get("owner") or self.entries.owners.get(key)
        return await super().replace(key, value, version, **rest | {"owner": owner})


class ListsForFormerOwners(Right):
    """`SADD` to the set of the new owner, without `SREM` from that of the former one."""

    def own(self, key: str, owner: Owner | None) -> None:
        if owner is not None:
            self.entries.notes[owner.name, key] = owner.since

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> Any:
        deleted = await super().delete(key, version, now=now)
        for place in [place for place in self.entries.notes if place[1] == key]:
            del self.entries.notes[place]
        return deleted

    def owned(self, name: str, now: int) -> list[Cursor]:
        places = [(owner, Cursor(since, key)) for (owner, key), since in self.entries.notes.items() if self.has(key)]
        return sorted([one for owner, one in places if owner == name], reverse=True)


class OwnsBeforeItChecks(Right):
    """It changes the index, and then makes the conditional write, which may be refused."""

    async def create(self, key: str, value: bytes, **rest: Any) -> Version:
        self.own(key, rest.get("owner"))
        return await super().create(key, value, **rest)

    async def replace(self, key: str, value: bytes, version: Version, **rest: Any) -> Version:
        self.own(key, rest.get("owner"))
        return await super().replace(key, value, version, **rest)


class LeavesTheIndexToLaterWrites(Right):
    """`DEL key`, and no change of the index by that, nor by a `create` without an owner."""

    async def create(self, key: str, value: bytes, **rest: Any) -> Version:
        owner = rest.get("owner") or self.entries.owners.get(key)
        return await super().create(key, value, **rest | {"owner": owner})

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> Any:
        owner = self.entries.owners.get(key)
        deleted = await super().delete(key, version, now=now)
        self.own(key, owner)
        return deleted


class ListsWhatNobodyOwns(Right):
    """`WHERE owner = … OR owner IS NULL`."""

    def owned(self, name: str, now: int) -> list[Cursor]:
        of_nobody = [Cursor(0, key) for key in self.entries if key not in self.entries.owners]
        return super().owned(name, now) + sorted(of_nobody, reverse=True)


class AddsAPlaceWithEachWrite(Right):
    """`RPUSH` for each write."""

    def own(self, key: str, owner: Owner | None) -> None:
        super().own(key, owner)
        if owner is not None:
            self.entries.notes.setdefault((owner.name, key), []).append(Cursor(owner.since, key))

    def owned(self, name: str, now: int) -> list[Cursor]:
        return [place for one in super().owned(name, now) for place in self.entries.notes[name, one.key]]


class LowersOwners(Right):
    """A case-insensitive collation of the owner's name."""

    def own(self, key: str, owner: Owner | None) -> None:
        super().own(key, owner and owner._replace(name=owner.name.lower()))

    def owned(self, name: str, now: int) -> list[Cursor]:
        return super().owned(name.lower(), now)


class CutsOwners(Right):
    """`VARCHAR(127)`, which truncates silently."""

    def own(self, key: str, owner: Owner | None) -> None:
        super().own(key, owner and owner._replace(name=owner.name[:127]))

    def owned(self, name: str, now: int) -> list[Cursor]:
        return super().owned(name[:127], now)


class OwnersAreAPattern(Right):
    """`WHERE owner LIKE 'name%'`."""

    def owned(self, name: str, now: int) -> list[Cursor]:
        alike = {owner.name for owner in self.entries.owners.values() if owner.name.startswith(name)}
        return sorted(
            [one for owner in alike for one in super(OwnersAreAPattern, self).owned(owner, now)], reverse=True
        )


# Time


class ListsWhatHasExpired(Right):
    """The listing does not check deadlines."""

    def page(self, left: list[Cursor], limit: int, now: int) -> Page:
        return super().page(left, limit, 0)


class GoesByTheLatestTime(Right):
    """It lists by the latest time that any worker has named."""

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        latest = self.entries.notes["latest"] = max(now, self.entries.notes.get("latest", 0))
        return await super().list_owned(name, limit=limit, now=latest, after=after)


class ForgetsPlacesBeforeEntries(Right):
    """Each write takes off the index what has expired by its clock, and leaves the entries to the database."""

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        for other in [other for other in self.entries if self.has_expired(other, now)]:
            self.own(other, None)
        return await super().create(key, value, expires_at=expires_at, now=now, owner=owner)


class ListsEndWithTheirFirstEntry(Right):
    """`EXPIREAT` for the list when it is created, and never again."""

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        if owner is not None:
            self.entries.notes.setdefault(owner.name, expires_at)
        return await super().create(key, value, expires_at=expires_at, now=now, owner=owner)

    def owned(self, name: str, now: int) -> list[Cursor]:
        owned = super().owned(name, now)
        return owned if owned and now < self.entries.notes.get(name, now + 1) else []


class ListsCopies(Right):
    """The listing is a table of its own with the values, from which a sweep removes nothing."""

    def own(self, key: str, owner: Owner | None) -> None:
        super().own(key, owner)
        self.entries.notes[key] = self.entries[key]

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> Any:
        deleted = await super().delete(key, version, now=now)
        self.entries.notes.pop(key, None)
        return deleted

    def has(self, key: str) -> bool:
        return key in self.entries.notes

    def page(self, left: list[Cursor], limit: int, now: int) -> Page:
        copies: list[tuple[str, Entry]] = [(one.key, self.entries.notes[one.key]) for one in left[:limit]]
        live = [(key, entry) for key, entry in copies if self.is_live(entry, now)]
        return Page(live, super().page(left, limit, now).after)


# Counts


class CountsCreates(Right):
    """A counter that is incremented by `create` only."""

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        version = await super().create(key, value, expires_at=expires_at, now=now, owner=owner)
        if owner is not None:
            self.entries.notes.setdefault(owner.name, count(1)).__next__()
        return version

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        return int(repr(self.entries.notes.get(name, count(1)))[6:-1]) - 1


class CountsWrites(Right):
    """A counter that each write increments."""

    def own(self, key: str, owner: Owner | None) -> None:
        super().own(key, owner)
        if owner is not None:
            self.entries.notes[owner.name] = self.entries.notes.get(owner.name, 0) + 1

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        counted: int = self.entries.notes.get(name, 0)
        return counted


class CountsUpToWhatIsAskedFor(Right):
    """`LIMIT :most`."""

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        return min(most, len(self.owned(name, now)))


class CachesTheCount(Right):
    """It counts once."""

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        counted: int = self.entries.notes.setdefault(name, len(self.owned(name, now)))
        return counted


# Concurrency and connections


class ChangesAListInTwoSteps(Right):
    """It reads the list of an owner, adds the key, and writes the list back."""

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        version = await super().create(key, value, expires_at=expires_at, now=now, owner=owner)
        if owner is not None:
            listed: frozenset[str] = self.entries.notes.get(owner.name, frozenset())
            await checkpoint()
            self.entries.notes[owner.name] = listed | {key}
        return version

    async def replace(
        self, key: str, value: bytes, version: Version, *, expires_at: int, now: int, owner: Owner | None = None
    ) -> Version:
        version = await super().replace(key, value, version, expires_at=expires_at, now=now, owner=owner)
        if owner is not None:
            self.entries.notes[owner.name] = self.entries.notes.get(owner.name, frozenset()) | {key}
        return version

    def owned(self, name: str, now: int) -> list[Cursor]:
        listed = self.entries.notes.get(name, ())
        return [one for one in super().owned(name, now) if one.key in listed]


class ListsAfterwards(Right):
    """It writes the entry first, and then the index."""

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        version = await super().create(key, value, expires_at=expires_at, now=now)
        await checkpoint()
        self.own(key, owner)
        return version


class ListsInItsProcess(Right):
    """The index is in the memory of each process, while the entries are shared and durable."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(entries)
        self.owners: dict[str, Owner] = {}

    def own(self, key: str, owner: Owner | None) -> None:
        self.owners.pop(key, None)
        if owner is not None:
            self.owners[key] = owner

    def owned(self, name: str, now: int) -> list[Cursor]:
        owners = self.owners.items()
        return sorted([Cursor(one.since, key) for key, one in owners if one.name == name and self.has(key)])[::-1]


# The broken listings, and the rules that must reject them

PAGES = {
    i.pages_are_complete_and_disjoint,
    i.pages_go_on_after_entries_that_have_expired,
    i.pages_miss_nothing_while_others_come_and_go,
    i.an_owner_may_have_many_entries,
    i.a_swept_entry_leaves_the_listing,  # its pages are of two entries
}

OWNERS_THAT_JOIN = {
    j.an_entry_comes_with_that_of_its_owner_and_another,
    j.the_entry_of_the_present_owner_is_joined,
    j.what_has_expired_is_not_joined,
    j.names_of_owners_are_joined_whole_and_with_case,
    j.what_comes_with_an_entry_is_not_older,
}

WRONG_LISTINGS: dict[type[Right], set[Rule[StoreFixture]]] = {
    KeepsAListUnderTheNameOfItsOwner: {
        i.the_name_of_an_owner_may_be_the_key_of_an_entry,
        j.an_entry_comes_with_that_of_its_owner_and_another,
        j.what_comes_with_an_entry_is_not_older,
    },
    # All rules that list several entries, and compare their order.
    ListsTheOldestFirst: PAGES
    | {
        i.the_newest_entries_come_first,
        i.replace_keeps_the_place_of_an_entry,
        i.replace_gives_an_entry_to_its_new_owner,
        i.an_expired_entry_leaves_the_listing,
        i.parallel_creates_of_one_owner_lose_none,
        i.creating_and_deleting_commute,
    },
    OrdersKeysWithoutCase: {i.the_newest_entries_come_first},
    OrdersTimesAsText: {i.the_newest_entries_come_first},
    PagesByNumber: {i.pages_miss_nothing_while_others_come_and_go},
    LooksForTheCursor: {i.pages_miss_nothing_while_others_come_and_go},
    BeginsWithTheCursor: PAGES - {i.pages_miss_nothing_while_others_come_and_go},  # there the cursor's entry is deleted
    PagesByTimeOnly: {i.pages_are_complete_and_disjoint},
    StopsAtAShortPage: {i.pages_go_on_after_entries_that_have_expired},
    IgnoresTheLimit: PAGES - {i.pages_miss_nothing_while_others_come_and_go},
    ListsAHundred: {i.an_owner_may_have_many_entries},
    KeepsTheFirstOwner: {
        j.the_entry_of_the_present_owner_is_joined,
        i.replace_keeps_the_place_of_an_entry,
        i.replace_gives_an_entry_to_its_new_owner,
        i.replace_without_an_owner_ends_the_listing,
        i.of_parallel_writers_the_winner_owns,
        i.a_cancelled_write_leaves_no_entry_unlisted,
        i.one_connection_lists_what_another_writes,
        s.a_scan_has_the_owner_of_each_entry,
    },
    KeepsTheOwnerIfNoneIsGiven: {
        i.replace_without_an_owner_ends_the_listing,
        j.an_entry_without_an_owner_comes_alone,
        s.a_scan_has_the_owner_of_each_entry,
    },
    ListsForFormerOwners: OWNERS_THAT_JOIN
    | {
        b.writes_together_change_the_listings,
        i.replace_gives_an_entry_to_its_new_owner,
        i.replace_without_an_owner_ends_the_listing,
        i.an_expired_entry_leaves_the_listing,
        i.of_parallel_writers_the_winner_owns,
        i.a_cancelled_write_leaves_no_entry_unlisted,
        i.one_connection_lists_what_another_writes,
        i.a_swept_entry_leaves_the_listing,
        s.a_scan_has_the_owner_of_each_entry,
    },
    OwnsBeforeItChecks: {i.a_refused_write_changes_no_owner, i.of_parallel_writers_the_winner_owns},
    LeavesTheIndexToLaterWrites: {
        i.a_deleted_entry_leaves_the_listing,
        i.an_expired_entry_leaves_the_listing,
        i.a_swept_entry_leaves_the_listing,
        s.a_scan_has_the_owner_of_each_entry,
    },
    ListsWhatNobodyOwns: {
        b.writes_together_change_the_listings,
        i.an_owner_sees_no_entry_of_others,
        i.the_name_of_an_owner_may_be_the_key_of_an_entry,
        i.replace_without_an_owner_ends_the_listing,
        i.a_deleted_entry_leaves_the_listing,
        i.an_expired_entry_leaves_the_listing,
        i.a_swept_entry_leaves_the_listing,
    },
    AddsAPlaceWithEachWrite: {
        b.writes_together_change_the_listings,
        i.an_owned_entry_is_listed_at_once,
        i.a_refused_write_changes_no_owner,  # it has been replaced before
        i.replace_keeps_the_place_of_an_entry,
        i.replace_gives_an_entry_to_its_new_owner,
        i.each_write_sets_how_long_an_entry_is_listed,
        i.creating_and_deleting_commute,
    },
    LowersOwners: {i.owner_names_are_compared_whole_and_with_case, j.names_of_owners_are_joined_whole_and_with_case},
    CutsOwners: {i.owner_names_are_compared_whole_and_with_case, j.names_of_owners_are_joined_whole_and_with_case},
    OwnersAreAPattern: {i.owner_names_are_compared_whole_and_with_case},
    ListsWhatHasExpired: {
        i.pages_go_on_after_entries_that_have_expired,
        i.an_expired_entry_leaves_the_listing,
        i.each_write_sets_how_long_an_entry_is_listed,
        i.at_time_0_all_that_is_stored_is_listed,
    },
    GoesByTheLatestTime: {i.at_time_0_all_that_is_stored_is_listed},
    ForgetsPlacesBeforeEntries: {i.at_time_0_all_that_is_stored_is_listed},
    ListsEndWithTheirFirstEntry: {
        i.each_write_sets_how_long_an_entry_is_listed,
        i.at_time_0_all_that_is_stored_is_listed,
        i.count_owned_misses_no_entry,
    },
    ListsCopies: {b.writes_together_change_the_listings, i.a_swept_entry_leaves_the_listing},
    CountsCreates: {i.replace_gives_an_entry_to_its_new_owner},
    CountsWrites: {i.replace_keeps_the_place_of_an_entry, i.each_write_sets_how_long_an_entry_is_listed},
    CountsUpToWhatIsAskedFor: {i.count_owned_says_that_there_are_more_than_asked_for},
    CachesTheCount: {i.count_owned_misses_no_entry},
    ChangesAListInTwoSteps: {
        b.writes_together_change_the_listings,
        i.parallel_creates_of_one_owner_lose_none,
        i.creating_and_deleting_commute,
        i.a_cancelled_write_leaves_no_entry_unlisted,
    },
    ListsAfterwards: {i.a_cancelled_write_leaves_no_entry_unlisted},
    ListsInItsProcess: OWNERS_THAT_JOIN
    | {
        b.writes_together_change_the_listings,
        i.parallel_creates_of_one_owner_lose_none,
        i.of_parallel_writers_the_winner_owns,
        i.one_connection_lists_what_another_writes,
        i.listings_outlive_their_connections,
        s.a_scan_has_the_owner_of_each_entry,
    },
}
