"""The rules prove themselves: each wrong store makes a mistake that somebody has made, and fails exactly what it must.

The sets are written by hand, from what the rule says and what the mistake does. A set that is copied from a result
would prove nothing.
"""

from collections import defaultdict
from collections.abc import Callable
from itertools import count
from typing import Any, cast
from uuid import uuid4

import pytest
from anyio import Lock, fail_after
from anyio.lowlevel import checkpoint

from starsessions.backends.store import Entry, Refused, Store, Version
from starsessions.testing import StorePlace
from starsessions.testing import rules as r
from starsessions.testing.contract import Rule


class Entries(dict[str, Entry]):
    """What a database holds, and what there is once for all connections onto it."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.index: dict[str, int] = {}


Opened = Callable[[Entries], Any]


class Right:
    """A store in a dict that several connections share. Versions are uuids."""

    def __init__(self, entries: Entries) -> None:
        self.entries = entries

    def is_live(self, entry: Entry, now: int) -> bool:
        return now < entry.expires_at

    def live(self, key: str, now: int) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and self.is_live(entry, now) else None

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return uuid4().hex

    def check(self, key: str, expect: Version | None, now: int) -> None:
        current = self.live(key, now)
        if (current.version if current else None) != expect:
            raise Refused(current)

    async def get(self, key: str, now: int) -> Entry | None:
        return self.live(key, now)

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        self.check(key, expect, now)
        version = self.new_version(key, value, now)
        self.entries[key] = Entry(value, expires_at, version)
        return version

    async def delete(self, key: str, expect: Version | None, now: int) -> Any:
        if expect is not None:
            self.check(key, expect, now)
        lived = self.live(key, now) is not None
        self.entries.pop(key, None)
        return lived

    def is_over(self, key: str, now: int) -> bool:
        return not self.is_live(self.entries[key], now)

    async def sweep(self, limit: int, now: int) -> Any:
        over = [key for key in self.entries if self.is_over(key, now)][:limit]
        for key in over:
            del self.entries[key]
        return len(over)


# Stores that are legal, and different


class CountsAll(Right):
    """Versions are numbers, from 0 on, for all keys and connections together."""

    numbers = count(0)

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return next(self.numbers)


class HasListsAsVersions(Right):
    """Versions are opaque: these cannot be hashed."""

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return [uuid4(), now]


class ForgetsWhenAsked(Right):
    """A get drops all that is over."""

    async def get(self, key: str, now: int) -> Entry | None:
        await self.sweep(len(self.entries), now)
        return await super().get(key, now)


class Waits(Right):
    """Waits everywhere, and is atomic by a lock."""

    async def _alone(self, work: Callable[..., Any], *args: Any) -> Any:
        await checkpoint()
        async with self.entries.lock:
            await checkpoint()
            result = await work(*args)
        await checkpoint()
        return result

    async def get(self, *args: Any) -> Any:
        return await self._alone(super().get, *args)

    async def put(self, *args: Any) -> Any:
        return await self._alone(super().put, *args)

    async def delete(self, *args: Any) -> Any:
        return await self._alone(super().delete, *args)

    async def sweep(self, *args: Any) -> Any:
        return await self._alone(super().sweep, *args)


LEGAL = [Right, CountsAll, HasListsAsVersions, ForgetsWhenAsked, Waits]


# Writing what should not be written


class Upserts(Right):
    """`SET key value`: `expect` is not looked at."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        current = self.live(key, now)
        return await super().put(key, value, expires_at, current.version if current else None, now)


class ReplacesInsteadOfCreating(Right):
    """`INSERT OR REPLACE` for what is new; only changes look at the version."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        if expect is None:
            self.entries.pop(key, None)
        return await super().put(key, value, expires_at, expect, now)


class CreatesWhenItShouldChange(Right):
    """`UPDATE … WHERE version = …`, and if no row was there, `INSERT`."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().put(key, value, expires_at, expect if self.live(key, now) else None, now)


class RevivesWhatIsOver(Right):
    """`UPDATE … WHERE key = … AND version = …`, and the deadline was forgotten in the condition."""

    def check(self, key: str, expect: Version | None, now: int) -> None:
        entry = self.entries.get(key)
        if expect is None or entry is None or entry.version != expect:
            super().check(key, expect, now)


class StumblesOverWhatIsOver(Right):
    """A plain `INSERT`: the row that is over is in the way until it is swept."""

    def check(self, key: str, expect: Version | None, now: int) -> None:
        super().check(key, expect, now)
        if expect is None and key in self.entries:
            raise Refused(None)


class ChecksThenWrites(Right):
    """Reads, compares in Python, and writes: two commands, and others come between."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        self.check(key, expect, now)
        await checkpoint()
        version = uuid4().hex
        self.entries[key] = Entry(value, expires_at, version)
        return version


class ChecksThenDeletes(Right):
    """The same with `delete`."""

    async def delete(self, key: str, expect: Version | None, now: int) -> bool:
        if expect is not None:
            self.check(key, expect, now)
        lived = self.live(key, now) is not None
        await checkpoint()
        self.entries.pop(key, None)
        return lived


class WritesInTwoSteps(Right):
    """`HSET value`, then `HSET version` and `EXPIREAT`."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        self.check(key, expect, now)
        if key in self.entries:
            self.entries[key] = self.entries[key]._replace(value=value)
            await checkpoint()
        version = uuid4().hex
        self.entries[key] = Entry(value, expires_at, version)
        return version


# Versions that repeat


class CountsEachEntry(Right):
    """A column `version`, one more with each update, and 1 for a new row."""

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        current = self.live(key, now)
        return current.version + 1 if current else 1


class CountsEachConnection(Right):
    """A counter in the memory of each process, while the entries are shared and stay."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(entries)
        self.numbers = count(1)

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return next(self.numbers)


class HashesValues(Right):
    """The version is a hash of the value, like many an ETag."""

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return hash(value)


class VersionsByTheClock(Right):
    """`updated_at` as version."""

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return now


# Deadlines


class ReadsWhatIsOver(Right):
    """The database is to forget by itself, and does so when it likes."""

    async def get(self, key: str, now: int) -> Entry | None:
        return self.entries.get(key)


class LivesASecondTooLong(Right):
    """`now <= expires_at`."""

    def is_live(self, entry: Entry, now: int) -> bool:
        return now <= entry.expires_at


class KeepsTheFirstDeadline(Right):
    """`UPDATE … SET value = …, version = …`, without the deadline."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        current = self.live(key, now)
        return await super().put(key, value, current.expires_at if current else expires_at, expect, now)


class RoundsUpToMinutes(Right):
    """The database counts the time to live in minutes."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        minutes = -(-(expires_at - now) // 60)
        return await super().put(key, value, now + minutes * 60, expect, now)


class RoundsDownToTens(Right):
    """The database keeps deadlines in a type that has not enough digits."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        seconds = expires_at - now
        return await super().put(key, value, now + (seconds if seconds <= 300 else seconds // 10 * 10), expect, now)


class LivesThirtyDaysAtMost(Right):
    """Like memcached, which takes more for something else."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().put(key, value, min(expires_at, now + 30 * 86400), expect, now)


class WantsATimeToLive(Right):
    """`SET … EX 0` is an error."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        if expires_at <= now:
            raise ValueError("invalid expire time")
        return await super().put(key, value, expires_at, expect, now)


class RenewsWhatIsRead(Right):
    """`GETEX`, or a cache with a sliding time to live."""

    async def get(self, key: str, now: int) -> Entry | None:
        entry = await super().get(key, now)
        if entry is not None:
            self.entries[key] = entry._replace(expires_at=max(entry.expires_at, now + r.LIFE))
        return entry


# Deleting, and refusing


class DeletesWithoutAVersion(Right):
    """`DELETE … WHERE key = …`."""

    async def delete(self, key: str, expect: Version | None, now: int) -> bool:
        return cast(bool, await super().delete(key, None, now))


class DeletesAndSaysNothing(Right):
    """The `return` was forgotten."""

    async def delete(self, key: str, expect: Version | None, now: int) -> None:
        await super().delete(key, expect, now)


class DeletesAndSaysYes(Right):
    """`return True` at the end."""

    async def delete(self, key: str, expect: Version | None, now: int) -> bool:
        await super().delete(key, expect, now)
        return True


class CountsRowsThatAreOver(Right):
    """`return result.rowcount > 0`, and the row is there until it is swept."""

    async def delete(self, key: str, expect: Version | None, now: int) -> bool:
        was_there = key in self.entries
        await super().delete(key, expect, now)
        return was_there


class DeletesWhatBeginsAlike(Right):
    """`DELETE … WHERE key LIKE 'key%'`."""

    async def delete(self, key: str, expect: Version | None, now: int) -> Any:
        lived = await super().delete(key, expect, now)
        for other in [other for other in self.entries if other.startswith(key)]:
            del self.entries[other]
        return lived


class RefusesAndDoesNotSayWhy(Right):
    """`if result.rowcount == 0: raise Refused(None)`."""

    def check(self, key: str, expect: Version | None, now: int) -> None:
        try:
            super().check(key, expect, now)
        except Refused:
            raise Refused(None) from None


class RefusesWithTheDead(Right):
    """What `Refused` carries is read without a look at the deadline."""

    def check(self, key: str, expect: Version | None, now: int) -> None:
        try:
            super().check(key, expect, now)
        except Refused:
            raise Refused(self.entries.get(key)) from None


# Keys, values and places


class RenamesKeys(Right):
    """A store that is right, under other keys."""

    def key(self, key: str) -> str:
        return key

    async def get(self, key: str, now: int) -> Entry | None:
        return await super().get(self.key(key), now)

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().put(self.key(key), value, expires_at, expect, now)

    async def delete(self, key: str, expect: Version | None, now: int) -> Any:
        return await super().delete(self.key(key), expect, now)


class LowersKeys(RenamesKeys):
    """A collation that knows no case, or a file system."""

    def key(self, key: str) -> str:
        return key.lower()


class CutsKeys(RenamesKeys):
    """`VARCHAR(127)`, which cuts off in silence."""

    def key(self, key: str) -> str:
        return key[:127]


class KeepsText(Right):
    """A `TEXT` column."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().put(key, value.decode(errors="replace").encode(), expires_at, expect, now)


class StripsNuls(Right):
    """`BINARY(n)` pads with NULs, which are stripped when it is read."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().put(key, value.rstrip(b"\0"), expires_at, expect, now)


class CutsValues(Right):
    """`BLOB` of MySQL: 65,535 bytes, and what is longer is cut off."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().put(key, value[:65_535], expires_at, expect, now)


class HandsOutItsOwn(Right):
    """What is read can be changed."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        return await super().put(key, bytearray(value), expires_at, expect, now)


class KnowsNoPrefix(Right):
    """All places are one."""

    everything: Entries

    def __init__(self, entries: Entries) -> None:
        super().__init__(self.everything)


class ForgetsWithItsConnection(Right):
    """`:memory:`, which each connection has for itself."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(Entries())


# Sweeping


class SweepsEverything(Right):
    """`DELETE … LIMIT n`, without a condition."""

    def is_over(self, key: str, now: int) -> bool:
        return True


class SweepsWithoutLimit(Right):
    """`DELETE … WHERE expires_at <= now`."""

    async def sweep(self, limit: int, now: int) -> Any:
        return await super().sweep(10**9, now)


class SweepsASecondLate(Right):
    """`expires_at < now`."""

    def is_over(self, key: str, now: int) -> bool:
        return self.entries[key].expires_at < now


class SweepsAndSaysTheLimit(Right):
    """`return limit`."""

    async def sweep(self, limit: int, now: int) -> int:
        await super().sweep(limit, now)
        return limit


class SweepsWhatItSawBefore(Right):
    """Selects the keys that are over, and then deletes these keys."""

    async def sweep(self, limit: int, now: int) -> int:
        over = [key for key in self.entries if self.is_over(key, now)][:limit]
        await checkpoint()
        for key in over:
            self.entries.pop(key, None)
        return len(over)


class HasAnIndex(Right):
    """Right, and sweeps by an index of deadlines."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        version = await super().put(key, value, expires_at, expect, now)
        self.entries.index[key] = expires_at
        return version

    async def delete(self, key: str, expect: Version | None, now: int) -> Any:
        lived = await super().delete(key, expect, now)
        self.entries.index.pop(key, None)
        return lived

    async def sweep(self, limit: int, now: int) -> int:
        over = [key for key, expires_at in self.entries.index.items() if expires_at <= now][:limit]
        for key in over:
            del self.entries.index[key]
            self.entries.pop(key, None)
        return len(over)


class DeletesAndLeavesTheIndex(HasAnIndex):
    """`DEL key`, without `ZREM`."""

    async def delete(self, key: str, expect: Version | None, now: int) -> Any:
        return await Right.delete(self, key, expect, now)


class RenewsAndLeavesTheIndex(HasAnIndex):
    """`ZADD` when an entry is made, and not when it is renewed."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        version = await Right.put(self, key, value, expires_at, expect, now)
        if expect is None:
            self.entries.index[key] = expires_at
        return version


SWEEPS = {
    r.sweep_removes_what_is_over_and_nothing_else,
    r.sweep_removes_no_more_than_it_may,
    r.sweep_leaves_what_was_renewed,
    r.sweep_takes_nothing_that_begins_meanwhile,
    r.sweeps_at_once_count_each_entry_once,
}

REFUSALS_THAT_CARRY = {
    r.a_value_is_immutable_bytes,
    r.the_key_of_what_is_over_is_free,
    r.a_key_that_is_taken_is_not_free,
    r.put_with_an_older_version_is_refused,
    r.a_version_that_the_key_never_had_is_refused,
    r.put_never_finds_its_version_in_what_came_after_a_delete,
    r.of_writers_that_create_at_once_one_wins,
    r.of_writers_that_replace_at_once_one_wins,
    r.writers_that_try_again_lose_no_update,
    r.what_one_connection_writes_the_other_sees,
}

WRONG: dict[Opened, set[Rule[StorePlace]]] = {
    Upserts: REFUSALS_THAT_CARRY
    | {
        r.the_version_of_what_is_over_is_nobodys,
        r.put_never_brings_back_what_was_deleted,
        r.a_delete_wins_against_writes_at_the_same_time,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.nothing_of_another_place_is_seen,
        r.what_is_stored_outlives_its_connections,
    },
    ReplacesInsteadOfCreating: {
        r.a_value_is_immutable_bytes,
        r.a_key_that_is_taken_is_not_free,
        r.of_writers_that_create_at_once_one_wins,
    },
    CreatesWhenItShouldChange: {
        r.the_version_of_what_is_over_is_nobodys,
        r.a_version_that_the_key_never_had_is_refused,
        r.put_never_brings_back_what_was_deleted,
        r.a_delete_wins_against_writes_at_the_same_time,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.nothing_of_another_place_is_seen,
        r.what_is_stored_outlives_its_connections,
    },
    RevivesWhatIsOver: {r.the_version_of_what_is_over_is_nobodys},
    StumblesOverWhatIsOver: {
        r.what_is_put_with_a_deadline_that_has_passed_is_not_there,
        r.the_key_of_what_is_over_is_free,
        r.a_version_is_never_the_same_twice,
        r.sweep_takes_nothing_that_begins_meanwhile,
    },
    ChecksThenWrites: {
        r.of_writers_that_create_at_once_one_wins,
        r.of_writers_that_replace_at_once_one_wins,
        r.a_delete_wins_against_writes_at_the_same_time,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.writers_that_try_again_lose_no_update,
    },
    ChecksThenDeletes: {
        r.of_deletes_at_once_one_has_removed,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
    },
    WritesInTwoSteps: {
        r.of_writers_that_replace_at_once_one_wins,
        r.a_delete_wins_against_writes_at_the_same_time,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.writers_that_try_again_lose_no_update,
        r.a_call_that_is_cancelled_is_done_or_not_and_does_no_harm,
    },
    CountsEachEntry: {
        r.the_key_of_what_is_over_is_free,
        r.a_version_is_never_the_same_twice,
        r.put_never_finds_its_version_in_what_came_after_a_delete,
        r.what_is_stored_outlives_its_connections,
    },
    CountsEachConnection: {
        r.writers_that_try_again_lose_no_update,
        r.what_one_connection_writes_the_other_sees,
        r.what_is_stored_outlives_its_connections,
    },
    HashesValues: {r.a_version_is_never_the_same_twice},
    VersionsByTheClock: {
        r.put_replaces_what_has_the_expected_version,
        r.put_with_an_older_version_is_refused,
        r.a_version_that_the_key_never_had_is_refused,
        r.a_version_is_never_the_same_twice,
        r.put_never_finds_its_version_in_what_came_after_a_delete,
        r.delete_with_an_older_version_is_refused,
        r.of_writers_that_replace_at_once_one_wins,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.writers_that_try_again_lose_no_update,
        r.a_call_that_is_cancelled_is_done_or_not_and_does_no_harm,
        r.what_one_connection_writes_the_other_sees,
        r.what_is_stored_outlives_its_connections,
    },
    ReadsWhatIsOver: {
        r.an_entry_is_over_exactly_at_its_deadline,
        r.each_put_moves_the_deadline,
        r.what_is_put_with_a_deadline_that_has_passed_is_not_there,
        r.the_version_of_what_is_over_is_nobodys,
    },
    LivesASecondTooLong: SWEEPS
    | {
        r.an_entry_is_over_exactly_at_its_deadline,
        r.each_put_moves_the_deadline,
        r.what_is_put_with_a_deadline_that_has_passed_is_not_there,
        r.the_key_of_what_is_over_is_free,
        r.the_version_of_what_is_over_is_nobodys,
        r.deleting_what_is_over_finds_nothing,
        r.a_version_is_never_the_same_twice,
    },
    KeepsTheFirstDeadline: {
        r.each_put_moves_the_deadline,
        r.what_is_put_with_a_deadline_that_has_passed_is_not_there,
        r.a_call_that_is_cancelled_is_done_or_not_and_does_no_harm,
        r.what_one_connection_writes_the_other_sees,
        r.sweep_leaves_what_was_renewed,
    },
    # Whatever compares a deadline, or wants a key to be free at its deadline.
    RoundsUpToMinutes: SWEEPS
    | REFUSALS_THAT_CARRY - {r.a_value_is_immutable_bytes, r.writers_that_try_again_lose_no_update}
    | {
        r.what_was_put_is_read_back_with_its_version,
        r.an_entry_is_over_exactly_at_its_deadline,
        r.a_deadline_is_kept_to_the_second,
        r.each_put_moves_the_deadline,
        r.the_version_of_what_is_over_is_nobodys,
        r.deleting_what_is_over_finds_nothing,
        r.put_replaces_what_has_the_expected_version,
        r.a_version_is_never_the_same_twice,
        r.delete_with_an_older_version_is_refused,
        r.a_call_that_is_cancelled_is_done_or_not_and_does_no_harm,
        r.nothing_of_another_place_is_seen,
        r.what_is_stored_outlives_its_connections,
    },
    RoundsDownToTens: {r.a_deadline_is_kept_to_the_second},
    LivesThirtyDaysAtMost: {r.a_deadline_is_kept_to_the_second},
    WantsATimeToLive: {r.what_is_put_with_a_deadline_that_has_passed_is_not_there},
    RenewsWhatIsRead: {
        r.an_entry_is_over_exactly_at_its_deadline,
        r.a_deadline_is_kept_to_the_second,
        r.each_put_moves_the_deadline,
    },
    DeletesWithoutAVersion: {
        r.the_version_of_what_is_over_is_nobodys,
        r.a_version_that_the_key_never_had_is_refused,
        r.delete_with_an_older_version_is_refused,
        r.delete_with_a_version_of_what_is_gone_is_refused,
        r.of_deletes_at_once_one_has_removed,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
    },
    DeletesAndSaysNothing: {
        r.deleting_what_is_over_finds_nothing,
        r.delete_removes_what_is_there_and_says_whether_it_did,
        r.delete_removes_what_has_the_expected_version,
        r.of_deletes_at_once_one_has_removed,
        r.what_one_connection_writes_the_other_sees,
        r.nothing_of_another_place_is_seen,
    },
    DeletesAndSaysYes: {
        r.deleting_what_is_over_finds_nothing,
        r.delete_removes_what_is_there_and_says_whether_it_did,
        r.of_deletes_at_once_one_has_removed,
        r.nothing_of_another_place_is_seen,
    },
    CountsRowsThatAreOver: {r.deleting_what_is_over_finds_nothing},
    DeletesWhatBeginsAlike: {r.delete_takes_nothing_but_its_key},
    RefusesAndDoesNotSayWhy: REFUSALS_THAT_CARRY | {r.delete_with_an_older_version_is_refused},
    RefusesWithTheDead: {r.the_version_of_what_is_over_is_nobodys},
    LowersKeys: {r.keys_that_differ_in_case_are_two, r.keys_of_1_to_128_characters_are_kept_apart},
    CutsKeys: {r.keys_of_1_to_128_characters_are_kept_apart},
    KeepsText: {r.every_byte_of_a_value_comes_back},
    StripsNuls: {r.every_byte_of_a_value_comes_back},
    CutsValues: {
        r.every_byte_of_a_value_comes_back,
        r.the_largest_value_is_kept_and_a_larger_one_is_refused_whole,
    },
    HandsOutItsOwn: {r.a_value_is_immutable_bytes},
    KnowsNoPrefix: {r.nothing_of_another_place_is_seen},
    ForgetsWithItsConnection: {
        r.of_writers_that_create_at_once_one_wins,
        r.of_writers_that_replace_at_once_one_wins,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.writers_that_try_again_lose_no_update,
        r.what_one_connection_writes_the_other_sees,
        r.what_is_stored_outlives_its_connections,
    },
    SweepsEverything: {
        r.sweep_removes_what_is_over_and_nothing_else,
        r.sweep_leaves_what_was_renewed,
        r.sweep_takes_nothing_that_begins_meanwhile,
    },
    SweepsWithoutLimit: {r.sweep_removes_no_more_than_it_may},
    SweepsASecondLate: SWEEPS - {r.sweep_takes_nothing_that_begins_meanwhile},
    SweepsAndSaysTheLimit: SWEEPS - {r.sweep_takes_nothing_that_begins_meanwhile},
    SweepsWhatItSawBefore: {
        r.sweep_takes_nothing_that_begins_meanwhile,
        r.sweeps_at_once_count_each_entry_once,
    },
    DeletesAndLeavesTheIndex: {r.sweep_removes_what_is_over_and_nothing_else},
    RenewsAndLeavesTheIndex: {r.sweep_leaves_what_was_renewed},
}


async def broken_by(open_store: Opened, largest_value: int | None = None) -> set[str]:
    """The rules that a store does not keep."""
    broken = set()
    for rule in r.STORE:
        KnowsNoPrefix.everything = Entries()
        world: dict[str, Entries] = defaultdict(Entries)
        async with StorePlace(lambda name: open_store(world[name]), largest_value=largest_value) as place:  # noqa: B023
            try:
                with fail_after(10):
                    await rule(place)
            except Exception:
                broken.add(rule.__name__)
    return broken


# On one event loop, because trio shuffles what goes at once, and some mistakes show in one order only.


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("store", [*LEGAL, HasAnIndex], ids=lambda store: store.__name__)
@pytest.mark.anyio
async def test_a_store_that_is_legal_and_different_keeps_all_rules(store: Opened) -> None:
    assert await broken_by(store) == set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("store", WRONG, ids=lambda store: store.__name__)
@pytest.mark.anyio
async def test_a_wrong_store_fails_exactly_the_rules_that_its_mistake_breaks(store: Opened) -> None:
    assert await broken_by(store) == {rule.__name__ for rule in WRONG[store]}


def test_each_rule_catches_something() -> None:
    caught = set().union(*WRONG.values())
    assert [rule.__name__ for rule in r.STORE if rule not in caught] == ["a_key_that_was_never_written_is_missing"]


# A size limit is a number that is stated, and checked on both sides.


class TakesAThousandBytes(Right):
    """Says so with an error."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        if len(value) > 1000:
            raise ValueError("too large")
        return await super().put(key, value, expires_at, expect, now)


class RefusesWhatIsTooLarge(Right):
    """Says so with `Refused`, after which a session would try again."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        if len(value) > 1000:
            raise Refused(self.live(key, now))
        return await super().put(key, value, expires_at, expect, now)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
    ("store", "stated", "is_kept"),
    [
        (TakesAThousandBytes, 1000, True),
        (TakesAThousandBytes, 1001, False),
        (TakesAThousandBytes, 999, False),
        (TakesAThousandBytes, None, False),
        (RefusesWhatIsTooLarge, 1000, False),
        (Right, 1000, False),
        (CutsValues, 65_535, False),
    ],
)
@pytest.mark.anyio
async def test_a_limit_is_neither_higher_nor_lower_than_what_is_stated(
    store: Opened, stated: int | None, is_kept: bool
) -> None:
    rule = r.the_largest_value_is_kept_and_a_larger_one_is_refused_whole
    assert (rule.__name__ not in await broken_by(store, stated)) == is_kept


# What is declined


class CannotSweep:
    get, put, delete = Right.get, Right.put, Right.delete


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_store_without_a_sweep_has_to_say_so() -> None:
    async with StorePlace(lambda name: cast(Store, CannotSweep())) as place:
        with pytest.raises(AssertionError, match="decline 'sweeps' with a reason"):
            await r.sweep_removes_what_is_over_and_nothing_else(place)


def test_a_capability_is_declined_with_a_reason_and_its_rules_only() -> None:
    declines = {"sweeps": "it forgets by itself"}
    assert {rule for rule in r.STORE if r.STORE.why_declined(rule, declines) == "it forgets by itself"} == SWEEPS
    for wrong in ({"sweeps": ""}, {"sweeps": True}, {"expiry": "it is slow"}):
        with pytest.raises(ValueError, match=r"Decline 'sweeps' with|no 'expiry' to decline, only several"):
            r.STORE.why_declined(r.a_value_is_immutable_bytes, cast(Any, wrong))


def test_each_rule_has_a_sentence() -> None:
    assert [rule.__name__ for rule in r.STORE if not (rule.__doc__ or "").endswith(".")] == []
