"""Stores with typical mistakes in the optional power to write several entries at once, and the rules that must reject
each of them.

As with the other broken stores, the sets of rules are written by hand.
"""

from collections.abc import Sequence
from typing import Any

from anyio.lowlevel import checkpoint

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import BatchConflict, Creation, Entry, Write
from starsessions.testing.conformance import batching_rules as b
from starsessions.testing.conformance.contract import Rule
from starsessions.testing.conformance.fixtures import StoreFixture
from starsessions.testing.conformance.right_stores import Right


class SaysTheVersionsBackwards(Right):
    """It puts the writes in another order, and returns the versions in that one."""

    async def write_together(self, writes: Sequence[Write], **how: Any) -> Any:
        return (await super().write_together(writes, **how))[::-1]


class WritesOneAfterTheOther(Right):
    """A pipeline of conditional writes, without a transaction."""

    async def write_together(self, writes: Sequence[Write], *, now: int, topics: Sequence[str] = ()) -> Any:
        versions: list[Any] = []
        for index, write in enumerate(writes):
            try:
                versions += await super().write_together([write], now=now)
            except BatchConflict as conflict:
                raise BatchConflict(index, conflict.current) from None
        return versions


class NamesTheLastWrite(Right):
    """It knows that the transaction was rolled back, and not why."""

    def refuse(self, index: int, writes: Sequence[Write], current: Entry | None) -> BatchConflict:
        return BatchConflict(len(writes) - 1, current)


class RefusesABatchAndDoesNotSayWhy(Right):
    """It does not read what is there."""

    def refuse(self, index: int, writes: Sequence[Write], current: Entry | None) -> BatchConflict:
        return BatchConflict(index, None)


class WritesTogetherByVersionOnly(Right):
    """`WHERE version = …`, without the deadline."""

    def there(self, key: str, now: int) -> Entry | None:
        return self.entries.get(key)


class WritesTogetherWithoutOwners(Right):
    """It leaves the listings to single writes."""

    def carry_out(self, write: Write) -> Any:
        owner = self.entries.owners.get(write.key)
        version = super().carry_out(write)
        self.own(write.key, owner)
        return version


class LocksInTheOrderGiven(Right):
    """Two batches that lock the same rows in different orders are a deadlock, which it does not resolve."""

    async def write_together(self, writes: Sequence[Write], **how: Any) -> Any:
        locked: set[str] = self.entries.notes.setdefault("locked", set())
        mine: set[str] = set()
        try:
            for write in writes:
                if write.key in locked - mine:
                    raise BackendUnavailable("Deadlock.")
                mine.add(write.key)
                locked.add(write.key)
                await checkpoint()
            return await super().write_together(writes, **how)
        finally:
            locked -= mine


class ChecksThenWritesTogether(Right):
    """It reads and compares, and then writes, in a lock that only batches take."""

    async def write_together(self, writes: Sequence[Write], *, now: int, topics: Sequence[str] = ()) -> Any:
        async with self.entries.lock:
            self.check_all(writes, now)
            await checkpoint()
            return [self.carry_out(write) for write in writes]


class StopsBetweenTwoWrites(Right):
    """It checks all, and writes one after the other, and may be cancelled between two of them."""

    async def write_together(self, writes: Sequence[Write], *, now: int, topics: Sequence[str] = ()) -> Any:
        self.check_all(writes, now)
        await checkpoint()
        self.check_all(writes, now)
        if any(not isinstance(write, Creation) for write in writes):
            return [self.carry_out(write) for write in writes]
        versions = []
        for write in writes:
            versions.append(self.carry_out(write))
            await checkpoint()
        return versions


WRONG_BATCHES: dict[type[Right], set[Rule[StoreFixture]]] = {
    SaysTheVersionsBackwards: {b.writes_together_are_all_carried_out},
    WritesOneAfterTheOther: {b.a_refused_write_refuses_all_of_them},
    NamesTheLastWrite: {b.the_refusal_says_which_write_and_what_is_there},
    RefusesABatchAndDoesNotSayWhy: {b.the_refusal_says_which_write_and_what_is_there},
    WritesTogetherByVersionOnly: {b.writes_together_go_by_the_deadlines},
    WritesTogetherWithoutOwners: {b.writes_together_change_the_listings},
    LocksInTheOrderGiven: {b.of_parallel_batches_one_wins},
    ChecksThenWritesTogether: {b.of_a_parallel_batch_and_delete_one_wins},
    StopsBetweenTwoWrites: {b.a_cancelled_batch_is_carried_out_whole_or_not_at_all},
}
