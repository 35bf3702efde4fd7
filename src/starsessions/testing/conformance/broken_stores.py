"""Stores with typical mistakes, and the rules that must reject each of them.

The sets of rules are written by hand, from the rules' statements and the effects of each mistake. A set copied from a
result would prove nothing.
"""

from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from typing import Any, ClassVar, cast
from uuid import uuid4

from anyio import Event
from anyio.lowlevel import checkpoint

from starsessions.stores.base import Conflict, Entry, Owner, Store, Version
from starsessions.testing.conformance import announcing_rules as a
from starsessions.testing.conformance import batching_rules as b
from starsessions.testing.conformance import indexing_rules as i
from starsessions.testing.conformance import joining_rules as j
from starsessions.testing.conformance import scanning_rules as s
from starsessions.testing.conformance import store_rules as r
from starsessions.testing.conformance.broken_announcements import WRONG_ANNOUNCEMENTS
from starsessions.testing.conformance.broken_batches import WRONG_BATCHES
from starsessions.testing.conformance.broken_joins import WRONG_JOINS
from starsessions.testing.conformance.broken_listings import WRONG_LISTINGS
from starsessions.testing.conformance.broken_scans import WRONG_SCANS
from starsessions.testing.conformance.checks import LIFE
from starsessions.testing.conformance.contract import Rule
from starsessions.testing.conformance.fixtures import OpenStore, StoreFixture
from starsessions.testing.conformance.right_stores import Entries, Kind, Right
from starsessions.testing.conformance.verdict import verdicts

# Unconditional and non-atomic writes


class Upserts(Right):
    """`SET key value`: the version is not checked."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        current = self.live(key, now)
        return await super().write(key, value, expires_at, current.version if current else None, now)


class ReplacesInsteadOfCreating(Right):
    """`INSERT OR REPLACE` for new entries; only changes check the version."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        if expect is None:
            self.entries.pop(key, None)
        return await super().write(key, value, expires_at, expect, now)


class CreatesWhenItShouldChange(Right):
    """`UPDATE … WHERE version = …`, and if no row matched, `INSERT`."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().write(key, value, expires_at, expect if self.live(key, now) else None, now)


class RevivesWhatIsOver(Right):
    """`UPDATE … WHERE key = … AND version = …`, without the deadline in the condition."""

    def check(self, key: str, expect: Version | None, now: int) -> None:
        entry = self.entries.get(key)
        if expect is None or entry is None or entry.version != expect:
            super().check(key, expect, now)


class StumblesOverWhatIsOver(Right):
    """A plain `INSERT`: an expired row blocks its key until it is swept."""

    def check(self, key: str, expect: Version | None, now: int) -> None:
        super().check(key, expect, now)
        if expect is None and key in self.entries:
            raise Conflict(None)


class ChecksThenWrites(Right):
    """It reads, compares in Python, and writes: two commands, with a race window between them."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        self.check(key, expect, now)
        await checkpoint()
        version = uuid4().hex
        self.entries[key] = Entry(value, expires_at, version)
        return version


class ChecksThenDeletes(Right):
    """The same with `delete`."""

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        if version is not None:
            self.check(key, version, now)
        lived = self.live(key, now) is not None
        await checkpoint()
        self.entries.pop(key, None)
        return lived


class WritesInTwoSteps(Right):
    """`HSET value`, then `HSET version` and `EXPIREAT`."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        self.check(key, expect, now)
        if key in self.entries:
            self.entries[key] = self.entries[key]._replace(value=value)
            await checkpoint()
        version = uuid4().hex
        self.entries[key] = Entry(value, expires_at, version)
        return version


# Versions that repeat


class CountsEachEntry(Right):
    """A column `version`: 1 for a new row, incremented by each update."""

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        current = self.live(key, now)
        return current.version + 1 if current else 1


class CountsEachConnection(Right):
    """A counter in the memory of each process, while the entries are shared and durable."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(entries)
        self.numbers: Iterator[int] = count(1)

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return next(self.numbers)


class HashesValues(Right):
    """The version is a hash of the value, like many ETags."""

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return hash(value)


class VersionsByTheClock(Right):
    """`updated_at` as version."""

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return now


# Deadlines


class ReadsWhatIsOver(Right):
    """The database removes expired entries itself, but late, and reads do not check."""

    async def get(self, key: str, *, now: int) -> Entry | None:
        return self.entries.get(key)


class LivesASecondTooLong(Right):
    """`now <= expires_at`."""

    def is_live(self, entry: Entry, now: int) -> bool:
        return now <= entry.expires_at


class KeepsTheFirstDeadline(Right):
    """`UPDATE … SET value = …, version = …`, without the deadline."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        current = self.live(key, now)
        return await super().write(key, value, current.expires_at if current else expires_at, expect, now)


class RoundsUpToMinutes(Right):
    """The database counts the time to live in minutes."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        minutes = -(-(expires_at - now) // 60)
        return await super().write(key, value, now + minutes * 60, expect, now)


class RoundsDownToTens(Right):
    """The database stores deadlines in a type with too few digits."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        seconds = expires_at - now
        return await super().write(key, value, now + (seconds if seconds <= 300 else seconds // 10 * 10), expect, now)


class LivesThirtyDaysAtMost(Right):
    """Like memcached, which interprets large values as something else."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().write(key, value, min(expires_at, now + 30 * 86400), expect, now)


class WantsATimeToLive(Right):
    """`SET … EX 0` is an error."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        if expires_at <= now:
            raise ValueError("invalid expire time")
        return await super().write(key, value, expires_at, expect, now)


class RenewsWhatIsRead(Right):
    """`GETEX`, or a cache with a sliding time to live."""

    async def get(self, key: str, *, now: int) -> Entry | None:
        entry = await super().get(key, now=now)
        if entry is not None:
            self.entries[key] = entry._replace(expires_at=max(entry.expires_at, now + LIFE))
        return entry


# Deletes and conflicts


class DeletesWithoutAVersion(Right):
    """`DELETE … WHERE key = …`."""

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        return cast(bool, await super().delete(key, now=now))


class DeletesAndSaysNothing(Right):
    """The `return` was forgotten."""

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> None:
        await super().delete(key, version, now=now)


class DeletesAndSaysYes(Right):
    """`return True` at the end."""

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        await super().delete(key, version, now=now)
        return True


class CountsRowsThatAreOver(Right):
    """`return result.rowcount > 0`, which counts expired rows that are not swept yet."""

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        was_there = key in self.entries
        await super().delete(key, version, now=now)
        return was_there


class DeletesWhatBeginsAlike(Right):
    """`DELETE … WHERE key LIKE 'key%'`."""

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> Any:
        lived = await super().delete(key, version, now=now)
        for other in [other for other in self.entries if other.startswith(key)]:
            del self.entries[other]
        return lived


class RefusesAndDoesNotSayWhy(Right):
    """`if result.rowcount == 0: raise Conflict(None)`."""

    def check(self, key: str, expect: Version | None, now: int) -> None:
        try:
            super().check(key, expect, now)
        except Conflict:
            raise Conflict(None) from None


class RefusesWithAnotherVersion(Right):
    """`Conflict` carries an entry from a lagging replica: a retry with it always fails."""

    def check(self, key: str, expect: Version | None, now: int) -> None:
        try:
            super().check(key, expect, now)
        except Conflict as conflict:
            raise Conflict(conflict.current and conflict.current._replace(version="lags")) from None


class RefusesWithTheDead(Right):
    """`Conflict` carries an entry whose deadline was not checked."""

    def check(self, key: str, expect: Version | None, now: int) -> None:
        try:
            super().check(key, expect, now)
        except Conflict:
            raise Conflict(self.entries.get(key)) from None


# Keys, values and storages


class RenamesKeys(Right):
    """A correct store, but with transformed keys."""

    key: ClassVar[Any]

    async def get(self, key: str, *, now: int) -> Entry | None:
        return await super().get(self.key(key), now=now)

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().write(self.key(key), value, expires_at, expect, now)

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> Any:
        return await super().delete(self.key(key), version, now=now)

    def own(self, key: str, owner: Owner | None) -> None:
        super().own(self.key(key), owner)


class LowersKeys(RenamesKeys):
    """A case-insensitive collation or file system."""

    key: ClassVar[Any] = staticmethod(str.lower)


class CutsKeys(RenamesKeys):
    """`VARCHAR(127)`, which truncates silently."""

    key: ClassVar[Any] = staticmethod(lambda key: key[:127])


class KeepsText(Right):
    """A `TEXT` column."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().write(key, value.decode(errors="replace").encode(), expires_at, expect, now)


class StripsNuls(Right):
    """`BINARY(n)` pads with NULs, which are stripped on reading."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().write(key, value.rstrip(b"\0"), expires_at, expect, now)


class CutsValues(Right):
    """MySQL's `BLOB`: values over 65,535 bytes are truncated."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().write(key, value[:65_535], expires_at, expect, now)


class HandsOutItsOwn(Right):
    """Values are mutable."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().write(key, cast(bytes, bytearray(value)), expires_at, expect, now)


class KnowsNoPrefix(Right):
    """All storages are the same one."""


class ForgetsWithItsConnection(Right):
    """`:memory:`, which is separate for each connection."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(Entries())


# Sweeping


class SweepsEverything(Right):
    """`DELETE … LIMIT n`, without a condition."""

    def has_expired(self, key: str, now: int) -> bool:
        return True


class SweepsWithoutLimit(Right):
    """`DELETE … WHERE expires_at <= now`."""

    async def sweep(self, limit: int, *, now: int) -> Any:
        return await super().sweep(10**9, now=now)


class SweepsASecondLate(Right):
    """`expires_at < now`."""

    def has_expired(self, key: str, now: int) -> bool:
        return self.entries[key].expires_at < now


class SweepsAndSaysTheLimit(Right):
    """`return limit`."""

    async def sweep(self, limit: int, *, now: int) -> int:
        await super().sweep(limit, now=now)
        return limit


class SweepsWhatItSawBefore(Right):
    """It selects the expired keys, and then deletes these keys unconditionally."""

    async def sweep(self, limit: int, *, now: int) -> int:
        expired = [key for key in self.entries if self.has_expired(key, now)][:limit]
        await checkpoint()
        for key in expired:
            self.entries.pop(key, None)
        return len(expired)


class HasAnIndex(Right):
    """A correct store that sweeps by an index of deadlines."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        version = await super().write(key, value, expires_at, expect, now)
        self.entries.index[key] = expires_at
        return version

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> Any:
        lived = await super().delete(key, version, now=now)
        self.entries.index.pop(key, None)
        return lived

    async def sweep(self, limit: int, *, now: int) -> int:
        expired = [key for key, expires_at in self.entries.index.items() if expires_at <= now][:limit]
        for key in expired:
            del self.entries.index[key]
            self.entries.pop(key, None)
        return len(expired)


class DeletesAndLeavesTheIndex(HasAnIndex):
    """`DEL key`, without `ZREM`."""

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> Any:
        return await Right.delete(self, key, version, now=now)


class RenewsAndLeavesTheIndex(HasAnIndex):
    """`ZADD` when an entry is created, but not when it is renewed."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        version = await Right.write(self, key, value, expires_at, expect, now)
        if expect is None:
            self.entries.index[key] = expires_at
        return version


# Sizes


class TakesAThousandBytes(Right):
    """It raises an error for a value that is too large."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        if len(value) > 1000:
            raise ValueError("too large")
        return await super().write(key, value, expires_at, expect, now)


class RefusesWhatIsTooLarge(Right):
    """It raises `Conflict` for a value that is too large, so that a session would retry."""

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        if len(value) > 1000:
            raise Conflict(self.live(key, now))
        return await super().write(key, value, expires_at, expect, now)


class FourMethods:
    """It has only the four methods."""

    get: ClassVar[Any] = Right.get
    create: ClassVar[Any] = Right.create
    replace: ClassVar[Any] = Right.replace
    delete: ClassVar[Any] = Right.delete


# The broken stores, and the rules that must reject them

SWEEPS = {
    r.sweep_removes_expired_entries_only,
    r.sweep_removes_at_most_its_limit,
    r.sweep_goes_by_the_latest_deadline,
    r.sweep_leaves_entries_that_are_created_meanwhile,
    r.parallel_sweeps_count_each_entry_once,
}

REFUSALS_THAT_CARRY = {
    r.a_value_is_immutable_bytes,
    r.the_key_of_an_expired_entry_is_free,
    r.create_refuses_a_key_that_is_in_use,
    r.replace_with_an_older_version_is_refused,
    r.a_version_that_the_key_never_had_is_refused,
    r.a_version_from_before_a_delete_does_not_fit_a_later_entry,
    r.of_parallel_creates_one_wins,
    r.of_parallel_replaces_one_wins,
    r.writers_that_retry_lose_no_update,
    r.one_connection_sees_what_another_writes,
}

WRONG: dict[type[Right], set[Rule[StoreFixture]]] = {
    Upserts: REFUSALS_THAT_CARRY
    | {
        r.the_version_of_an_expired_entry_is_refused,
        r.replace_never_revives_a_deleted_entry,
        r.a_delete_is_final_against_a_parallel_replace,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.another_storage_is_separate,
        r.entries_outlive_their_connections,
        i.a_refused_write_changes_no_owner,
        i.of_parallel_writers_the_winner_owns,
        i.what_a_parallel_delete_removed_is_in_no_listing,
    },
    ReplacesInsteadOfCreating: {
        r.a_value_is_immutable_bytes,
        r.create_refuses_a_key_that_is_in_use,
        r.of_parallel_creates_one_wins,
        i.a_refused_write_changes_no_owner,
        i.of_parallel_writers_the_winner_owns,
    },
    CreatesWhenItShouldChange: {
        r.the_version_of_an_expired_entry_is_refused,
        r.a_version_that_the_key_never_had_is_refused,
        r.replace_never_revives_a_deleted_entry,
        r.a_delete_is_final_against_a_parallel_replace,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.another_storage_is_separate,
        r.entries_outlive_their_connections,
        i.a_refused_write_changes_no_owner,
        i.what_a_parallel_delete_removed_is_in_no_listing,
    },
    RevivesWhatIsOver: {r.the_version_of_an_expired_entry_is_refused},
    StumblesOverWhatIsOver: {
        r.a_write_with_a_deadline_that_has_passed_leaves_nothing,
        r.the_key_of_an_expired_entry_is_free,
        r.versions_never_repeat,
        r.sweep_leaves_entries_that_are_created_meanwhile,
        i.an_expired_entry_leaves_the_listing,
    },
    ChecksThenWrites: {
        r.of_parallel_creates_one_wins,
        r.of_parallel_replaces_one_wins,
        r.a_delete_is_final_against_a_parallel_replace,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.writers_that_retry_lose_no_update,
        i.of_parallel_writers_the_winner_owns,
        i.what_a_parallel_delete_removed_is_in_no_listing,
    },
    ChecksThenDeletes: {
        b.of_a_parallel_batch_and_delete_one_wins,
        r.of_parallel_deletes_one_removes,
        r.of_a_parallel_replace_and_delete_one_wins,
    },
    WritesInTwoSteps: {
        r.of_parallel_replaces_one_wins,
        r.a_delete_is_final_against_a_parallel_replace,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.writers_that_retry_lose_no_update,
        r.a_cancelled_call_is_done_whole_or_not_at_all,
        i.of_parallel_writers_the_winner_owns,
        i.what_a_parallel_delete_removed_is_in_no_listing,
        i.a_cancelled_write_leaves_no_entry_unlisted,
    },
    CountsEachEntry: {
        r.the_key_of_an_expired_entry_is_free,
        r.versions_never_repeat,
        r.a_version_from_before_a_delete_does_not_fit_a_later_entry,
        r.entries_outlive_their_connections,
    },
    CountsEachConnection: {
        r.writers_that_retry_lose_no_update,
        r.one_connection_sees_what_another_writes,
        r.entries_outlive_their_connections,
    },
    HashesValues: {r.versions_never_repeat, i.of_parallel_writers_the_winner_owns},
    VersionsByTheClock: {
        r.replace_with_the_current_version_writes,
        r.replace_with_an_older_version_is_refused,
        r.a_version_that_the_key_never_had_is_refused,
        r.versions_never_repeat,
        r.a_version_from_before_a_delete_does_not_fit_a_later_entry,
        r.delete_with_an_older_version_is_refused,
        r.of_parallel_replaces_one_wins,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.writers_that_retry_lose_no_update,
        r.a_cancelled_call_is_done_whole_or_not_at_all,
        r.one_connection_sees_what_another_writes,
        r.entries_outlive_their_connections,
        i.a_refused_write_changes_no_owner,
        i.of_parallel_writers_the_winner_owns,
    },
    ReadsWhatIsOver: {
        b.writes_together_go_by_the_deadlines,
        r.an_entry_expires_exactly_at_its_deadline,
        r.each_write_sets_the_deadline,
        r.a_write_with_a_deadline_that_has_passed_leaves_nothing,
        r.the_version_of_an_expired_entry_is_refused,
    },
    LivesASecondTooLong: SWEEPS
    | {b.writes_together_go_by_the_deadlines}
    | {
        r.an_entry_expires_exactly_at_its_deadline,
        r.each_write_sets_the_deadline,
        r.a_write_with_a_deadline_that_has_passed_leaves_nothing,
        r.the_key_of_an_expired_entry_is_free,
        r.the_version_of_an_expired_entry_is_refused,
        r.deleting_an_expired_entry_returns_false,
        r.versions_never_repeat,
        i.an_expired_entry_leaves_the_listing,
        i.each_write_sets_how_long_an_entry_is_listed,
        i.pages_go_on_after_entries_that_have_expired,
        i.a_swept_entry_leaves_the_listing,
        s.a_scan_has_no_entry_that_has_expired,
    },
    KeepsTheFirstDeadline: {
        j.an_entry_comes_with_that_of_its_owner_and_another,
        r.each_write_sets_the_deadline,
        r.a_write_with_a_deadline_that_has_passed_leaves_nothing,
        r.a_cancelled_call_is_done_whole_or_not_at_all,
        r.one_connection_sees_what_another_writes,
        r.sweep_goes_by_the_latest_deadline,
        i.an_owned_entry_is_listed_at_once,
        i.each_write_sets_how_long_an_entry_is_listed,
        s.a_scan_has_each_entry_as_it_is,
    },
    # All rules that compare a deadline, or need a key to be free at its deadline.
    RoundsUpToMinutes: SWEEPS
    | {b.writes_together_go_by_the_deadlines, i.the_name_of_an_owner_may_be_the_key_of_an_entry}
    | {j.an_entry_comes_with_that_of_its_owner_and_another, j.what_has_expired_is_not_joined}
    | REFUSALS_THAT_CARRY - {r.a_value_is_immutable_bytes, r.writers_that_retry_lose_no_update}
    | {
        r.get_returns_what_create_has_stored,
        r.an_entry_expires_exactly_at_its_deadline,
        r.a_deadline_is_kept_to_the_second,
        r.each_write_sets_the_deadline,
        r.the_version_of_an_expired_entry_is_refused,
        r.deleting_an_expired_entry_returns_false,
        r.replace_with_the_current_version_writes,
        r.versions_never_repeat,
        r.delete_with_an_older_version_is_refused,
        r.a_cancelled_call_is_done_whole_or_not_at_all,
        r.another_storage_is_separate,
        r.entries_outlive_their_connections,
        i.an_owned_entry_is_listed_at_once,
        i.pages_go_on_after_entries_that_have_expired,
        i.an_expired_entry_leaves_the_listing,
        i.each_write_sets_how_long_an_entry_is_listed,
        i.replace_without_an_owner_ends_the_listing,
        i.a_refused_write_changes_no_owner,
        i.one_connection_lists_what_another_writes,
        i.a_swept_entry_leaves_the_listing,
        s.a_scan_has_each_entry_as_it_is,
        s.a_scan_has_no_entry_that_has_expired,
    },
    RoundsDownToTens: {r.a_deadline_is_kept_to_the_second},
    LivesThirtyDaysAtMost: {r.a_deadline_is_kept_to_the_second, i.each_write_sets_how_long_an_entry_is_listed},
    WantsATimeToLive: {r.a_write_with_a_deadline_that_has_passed_leaves_nothing},
    RenewsWhatIsRead: {
        r.an_entry_expires_exactly_at_its_deadline,
        r.a_deadline_is_kept_to_the_second,
        r.each_write_sets_the_deadline,
    },
    DeletesWithoutAVersion: {
        b.of_a_parallel_batch_and_delete_one_wins,
        r.the_version_of_an_expired_entry_is_refused,
        r.a_version_that_the_key_never_had_is_refused,
        r.delete_with_an_older_version_is_refused,
        r.delete_with_the_version_of_a_deleted_entry_is_refused,
        r.of_parallel_deletes_one_removes,
        r.of_a_parallel_replace_and_delete_one_wins,
    },
    DeletesAndSaysNothing: {
        r.deleting_an_expired_entry_returns_false,
        r.delete_removes_the_entry_and_returns_whether_there_was_one,
        r.delete_with_the_current_version_removes,
        r.of_parallel_deletes_one_removes,
        r.one_connection_sees_what_another_writes,
        r.another_storage_is_separate,
    },
    DeletesAndSaysYes: {
        r.deleting_an_expired_entry_returns_false,
        r.delete_removes_the_entry_and_returns_whether_there_was_one,
        r.of_parallel_deletes_one_removes,
        r.another_storage_is_separate,
    },
    CountsRowsThatAreOver: {r.deleting_an_expired_entry_returns_false},
    DeletesWhatBeginsAlike: {r.delete_removes_no_other_key},
    RefusesAndDoesNotSayWhy: REFUSALS_THAT_CARRY | {r.delete_with_an_older_version_is_refused},
    RefusesWithAnotherVersion: REFUSALS_THAT_CARRY - {r.a_value_is_immutable_bytes}
    | {r.delete_with_an_older_version_is_refused},
    RefusesWithTheDead: {r.the_version_of_an_expired_entry_is_refused},
    LowersKeys: {
        r.keys_that_differ_in_case_are_different,
        r.keys_of_1_to_128_characters_are_kept_apart,
        i.the_newest_entries_come_first,
        j.names_of_owners_are_joined_whole_and_with_case,
        s.the_pages_of_a_scan_are_complete,
    },
    CutsKeys: {
        r.keys_of_1_to_128_characters_are_kept_apart,
        j.names_of_owners_are_joined_whole_and_with_case,
        s.the_pages_of_a_scan_are_complete,
    },
    KeepsText: {r.every_byte_of_a_value_comes_back},
    StripsNuls: {r.every_byte_of_a_value_comes_back},
    CutsValues: {
        r.every_byte_of_a_value_comes_back,
        r.the_largest_value_is_kept_and_a_larger_one_is_refused_whole,
    },
    HandsOutItsOwn: {r.a_value_is_immutable_bytes},
    KnowsNoPrefix: {
        r.another_storage_is_separate,
        i.another_storage_has_listings_of_its_own,
        j.nothing_of_another_storage_is_joined,
        s.a_scan_has_no_entry_of_another_storage,
    },
    ForgetsWithItsConnection: {
        r.of_parallel_creates_one_wins,
        r.of_parallel_replaces_one_wins,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.writers_that_retry_lose_no_update,
        r.one_connection_sees_what_another_writes,
        r.entries_outlive_their_connections,
        i.parallel_creates_of_one_owner_lose_none,
        i.creating_and_deleting_commute,
        i.of_parallel_writers_the_winner_owns,
        i.one_connection_lists_what_another_writes,
        i.listings_outlive_their_connections,
        s.another_connection_goes_on_with_a_scan,
        a.a_store_that_reaches_all_is_heard_by_every_connection,
        a.the_end_of_a_connection_is_not_silent,
    },
    SweepsEverything: {
        r.sweep_removes_expired_entries_only,
        r.sweep_goes_by_the_latest_deadline,
        r.sweep_leaves_entries_that_are_created_meanwhile,
        i.a_swept_entry_leaves_the_listing,
    },
    SweepsWithoutLimit: {r.sweep_removes_at_most_its_limit},
    SweepsASecondLate: SWEEPS - {r.sweep_leaves_entries_that_are_created_meanwhile}
    | {i.a_swept_entry_leaves_the_listing},
    SweepsAndSaysTheLimit: SWEEPS - {r.sweep_leaves_entries_that_are_created_meanwhile},
    SweepsWhatItSawBefore: {
        r.sweep_leaves_entries_that_are_created_meanwhile,
        r.parallel_sweeps_count_each_entry_once,
    },
    DeletesAndLeavesTheIndex: {r.sweep_removes_expired_entries_only},
    RenewsAndLeavesTheIndex: {r.sweep_goes_by_the_latest_deadline},
    **WRONG_LISTINGS,
    **WRONG_BATCHES,
    **WRONG_JOINS,
    **WRONG_SCANS,
    **WRONG_ANNOUNCEMENTS,
}


class BrokenStore:
    """A store with one mistake, and the ids of the rules that must reject it."""

    def __init__(self, kind: type[Right], rejected_by: set[Rule[StoreFixture]]) -> None:
        self.name: str = kind.__name__
        self.mistake: str = (kind.__doc__ or "").splitlines()[0]
        self.rejected_by: frozenset[str] = frozenset(rule.__name__ for rule in rejected_by)
        self._kind = kind

    def open_stores(self) -> OpenStore:
        """Return a function that opens connections to new, empty storages."""
        return opener(self._kind)

    async def failing_rules(self) -> frozenset[str]:
        """Return the ids of the rules that reject it."""
        return await failing_rules(self._kind)

    def __repr__(self) -> str:
        return f"<BrokenStore: {self.name}>"


def broken_stores() -> list[BrokenStore]:
    """Return stores that the rules must reject: to see that they do, also when the rules have been changed.

    >>> import anyio
    >>> [upserts] = [store for store in broken_stores() if store.name == "Upserts"]
    >>> "create_refuses_a_key_that_is_in_use" in upserts.rejected_by
    True
    >>> anyio.run(upserts.failing_rules) == upserts.rejected_by
    True
    """
    return [BrokenStore(kind, rules) for kind, rules in WRONG.items()]


def opener(kind: Kind) -> OpenStore:
    """Return a function that opens connections of this kind to new, empty storages."""
    storages: dict[str, Entries] = defaultdict(Entries)
    return lambda name: cast(Store, kind(storages["" if kind is KnowsNoPrefix else name]))


async def failing_rules(kind: Kind, largest_value: int | None = None) -> frozenset[str]:
    """Return the ids of the rules that stores of this kind break. Each rule gets its own storage."""

    def fixture() -> StoreFixture:
        return StoreFixture(opener(kind), largest_value=largest_value, wait=_a_moment)

    return frozenset([one.rule async for one in verdicts(r.STORE, fixture, {}) if one.outcome == "broken"])


async def _a_moment(event: Event) -> None:
    """Wait for as long as an announcement takes within one event loop."""
    for _ in range(50):
        if event.is_set():
            return
        await checkpoint()
