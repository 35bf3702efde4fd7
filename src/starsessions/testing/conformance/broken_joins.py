"""Stores with typical mistakes in the optional power to read an entry with that of its owner, and the rules that must
reject each of them.

As with the other broken stores, the sets of rules are written by hand.
"""

from typing import ClassVar, Self

from anyio.lowlevel import checkpoint

from starsessions.stores.base import Entry, Joined, Owner
from starsessions.testing.conformance import joining_rules as j
from starsessions.testing.conformance.contract import Rule
from starsessions.testing.conformance.fixtures import StoreFixture
from starsessions.testing.conformance.right_stores import Right


class JoinsWithoutVersions(Right):
    """It fills in what it does not read."""

    def stored(self, key: str, now: int) -> Entry | None:
        entry = super().stored(key, now)
        return entry._replace(version=None) if entry else None


class JoinsTheFirstOwner(Right):
    """The name of the owner is copied when the entry is created, and not when it is replaced."""

    def own(self, key: str, owner: Owner | None) -> None:
        super().own(key, owner)
        if owner is not None:
            self.entries.notes.setdefault(f"owner of {key}", owner.name)

    def present_owner(self, key: str) -> str | None:
        owner = super().present_owner(key)
        return owner and str(self.entries.notes[f"owner of {key}"])


class JoinsWhatNobodyOwns(Right):
    """`LEFT JOIN`, whether or not the entry has an owner."""

    async def get_joined(self, key: str, other: str, *, now: int) -> Joined:
        joined = await super().get_joined(key, other, now=now)
        return joined._replace(other=self.stored(other, now))


class JoinsWhatHasExpired(Right):
    """The deadline of the entry is checked, and not those of the others."""

    async def get_joined(self, key: str, other: str, *, now: int) -> Joined:
        joined = await super().get_joined(key, other, now=0)
        return joined if self.stored(key, now) else Joined(None)


class JoinsNamesWithoutCase(Right):
    """A case-insensitive collation of the owner."""

    def stored(self, key: str, now: int) -> Entry | None:
        same = [one for one in self.entries if one.lower() == key.lower()]
        return super().stored(same[0], now) if same else None


class ReadsTheOwnersEntryFirst(Right):
    """It looks for the owner, reads what belongs to that one, and then reads the entry."""

    async def get_joined(self, key: str, other: str, *, now: int) -> Joined:
        joined = await super().get_joined(key, other, now=now)
        await checkpoint()
        return joined._replace(entry=self.stored(key, now))


class JoinsTheWholeDatabase(Right):
    """The key of the owner's entry has no prefix, where another storage is in the same database."""

    opened: ClassVar[list[Right]] = []

    async def __aenter__(self) -> Self:
        self.opened.append(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.opened.remove(self)

    def stored(self, key: str, now: int) -> Entry | None:
        found = (Right(one.entries).stored(key, now) for one in (self, *self.opened))
        return next((entry for entry in found if entry), None)


WRONG_JOINS: dict[type[Right], set[Rule[StoreFixture]]] = {
    JoinsWithoutVersions: {j.an_entry_comes_with_that_of_its_owner_and_another},
    JoinsTheFirstOwner: {j.the_entry_of_the_present_owner_is_joined},
    JoinsWhatNobodyOwns: {j.an_entry_without_an_owner_comes_alone},
    JoinsWhatHasExpired: {j.what_has_expired_is_not_joined},
    JoinsNamesWithoutCase: {j.names_of_owners_are_joined_whole_and_with_case},
    ReadsTheOwnersEntryFirst: {j.what_comes_with_an_entry_is_not_older},
    JoinsTheWholeDatabase: {j.nothing_of_another_storage_is_joined},
}
