"""A correct store in a dict, from which the broken ones are made, and some that are correct but unusual."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import count
from typing import Any, ClassVar, Self
from uuid import uuid4

from anyio import Lock
from anyio.lowlevel import checkpoint

from starsessions.stores.announce import Announces, InProcess
from starsessions.stores.base import (
    Announcing,
    BatchConflict,
    Conflict,
    Creation,
    Cursor,
    Deletion,
    Entry,
    Joined,
    Owner,
    Page,
    ScanPage,
    Version,
    Write,
)
from starsessions.stores.listed import ListedStore


class Entries(dict[str, Entry]):
    """The contents of a database, and the objects that all its connections share."""

    def __init__(self) -> None:
        self.lock: Lock = Lock()
        self.index: dict[str, int] = {}
        self.owners: dict[str, Owner] = {}
        self.notes: dict[Any, Any] = {}
        self.announcer: InProcess = InProcess(reaches_all=True)


Kind = Callable[[Entries], Any]
"""Opens a connection to a database."""

Topics = AsyncIterator[Sequence[str]]
"""What is announced."""


class Right(Announces):
    """A correct store in a dict that several connections share. Versions are UUIDs."""

    def __init__(self, entries: Entries) -> None:
        self.entries = entries
        self.announcer: Announcing = entries.announcer

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
            raise Conflict(current)

    async def get(self, key: str, *, now: int) -> Entry | None:
        return self.live(key, now)

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        version = await self.write(key, value, expires_at, None, now)
        self.own(key, owner)
        return version

    async def replace(
        self, key: str, value: bytes, version: Version, *, expires_at: int, now: int, owner: Owner | None = None
    ) -> Version:
        version = await self.write(key, value, expires_at, version, now)
        self.own(key, owner)
        return version

    async def write(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        self.check(key, expect, now)
        version = self.new_version(key, value, now)
        self.entries[key] = Entry(value, expires_at, version)
        return version

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> Any:
        if version is not None:
            self.check(key, version, now)
        lived = self.live(key, now) is not None
        self.entries.pop(key, None)
        self.entries.owners.pop(key, None)
        return lived

    def own(self, key: str, owner: Owner | None) -> None:
        if owner is None:
            self.entries.owners.pop(key, None)
        else:
            self.entries.owners[key] = owner

    def owned(self, name: str, now: int) -> list[Cursor]:
        """Return where the entries of an owner are, the newest first."""
        owners = self.entries.owners.items()
        return sorted([Cursor(one.since, key) for key, one in owners if one.name == name and self.has(key)])[::-1]

    def has(self, key: str) -> bool:
        return key in self.entries

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        left = [one for one in self.owned(name, now) if after is None or self.comes_after(one, after)]
        return self.page(left, limit, now)

    def comes_after(self, one: Cursor, after: Cursor) -> bool:
        return one < after

    def page(self, left: list[Cursor], limit: int, now: int) -> Page:
        """Return the first of these entries."""
        found = [(one.key, self.live(one.key, now)) for one in left[:limit]]
        entries = [(key, entry) for key, entry in found if entry is not None]
        return Page(entries, left[limit - 1] if len(left) > limit else None)

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        return len(self.owned(name, now))

    async def write_together(self, writes: Sequence[Write], *, now: int, topics: Sequence[str] = ()) -> Any:
        self.check_all(writes, now)
        return [self.carry_out(write) for write in writes]

    def check_all(self, writes: Sequence[Write], now: int) -> None:
        for index, write in enumerate(writes):
            current = self.there(write.key, now)
            expect = None if isinstance(write, Creation) else write.version
            if (current.version if current else None) != expect:
                raise self.refuse(index, writes, current)

    def there(self, key: str, now: int) -> Entry | None:
        return Right.live(self, key, now)

    def refuse(self, index: int, writes: Sequence[Write], current: Entry | None) -> BatchConflict:
        return BatchConflict(index, current)

    def carry_out(self, write: Write) -> Version | None:
        """Carry out one of several writes, which was checked."""
        if isinstance(write, Deletion):
            self.entries.pop(write.key, None)
            self.entries.owners.pop(write.key, None)
            return None
        version = Right.new_version(self, write.key, write.value, 0)
        self.entries[write.key] = Entry(write.value, write.expires_at, version)
        Right.own(self, write.key, write.owner)
        return version

    async def get_joined(self, key: str, other: str, *, now: int) -> Joined:
        entry, owner = self.stored(key, now), self.present_owner(key)
        if entry is None or owner is None:
            return Joined(entry)
        return Joined(entry, owner, self.stored(owner, now), self.stored(other, now))

    def stored(self, key: str, now: int) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and now < entry.expires_at else None

    def present_owner(self, key: str) -> str | None:
        return Right.owner_name(self, key)

    def scanned(self) -> list[str]:
        """Return the keys in the order of a scan."""
        return sorted(self.entries)

    def goes_on_with(self, key: str, after: str) -> bool:
        return key > after

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        left = [key for key in self.scanned() if after is None or self.goes_on_with(key, after)]
        return self.scan_page(left, limit, now)

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        """Return the first of these entries."""
        found = [(key, self.live(key, now)) for key in left[:limit]]
        entries = [(key, entry, self.owner_name(key)) for key, entry in found if entry is not None]
        return ScanPage(entries, left[limit - 1] if len(left) > limit else None)

    def owner_name(self, key: str) -> str | None:
        owner = self.entries.owners.get(key)
        return None if owner is None else owner.name

    def has_expired(self, key: str, now: int) -> bool:
        return not self.is_live(self.entries[key], now)

    async def sweep(self, limit: int, *, now: int) -> Any:
        expired = [key for key in self.entries if self.has_expired(key, now)][:limit]
        for key in expired:
            del self.entries[key]
        return len(expired)


# Correct but unusual stores


class CountsAll(Right):
    """Versions are numbers from 0, counted over all keys and connections."""

    numbers: ClassVar[Iterator[int]] = count(0)

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return next(self.numbers)


class HasListsAsVersions(Right):
    """Versions are opaque: these are not hashable."""

    def new_version(self, key: str, value: bytes, now: int) -> Version:
        return [uuid4(), now]


class ForgetsWhenAsked(Right):
    """A get removes all expired entries."""

    async def get(self, key: str, *, now: int) -> Entry | None:
        await self.sweep(len(self.entries), now=now)
        return await super().get(key, now=now)


class Waits(Right):
    """It awaits everywhere, and uses a lock to be atomic."""

    async def _alone(self, work: Callable[..., Any], *args: Any, **instants: Any) -> Any:
        await checkpoint()
        async with self.entries.lock:
            await checkpoint()
            result = await work(*args, **instants)
        await checkpoint()
        return result

    async def get(self, *args: Any, **instants: Any) -> Any:
        return await self._alone(super().get, *args, **instants)

    async def create(self, *args: Any, **instants: Any) -> Any:
        return await self._alone(super().create, *args, **instants)

    async def replace(self, *args: Any, **instants: Any) -> Any:
        return await self._alone(super().replace, *args, **instants)

    async def delete(self, *args: Any, **instants: Any) -> Any:
        return await self._alone(super().delete, *args, **instants)

    async def sweep(self, *args: Any, **instants: Any) -> Any:
        return await self._alone(super().sweep, *args, **instants)

    async def list_owned(self, *args: Any, **instants: Any) -> Any:
        return await self._alone(super().list_owned, *args, **instants)

    async def count_owned(self, *args: Any, **instants: Any) -> Any:
        return await self._alone(super().count_owned, *args, **instants)

    async def write_together(self, *args: Any, **instants: Any) -> Any:
        return await self._alone(super().write_together, *args, **instants)

    async def get_joined(self, *args: Any, **instants: Any) -> Any:
        return await self._alone(super().get_joined, *args, **instants)

    async def scan(self, *args: Any, **instants: Any) -> Any:
        return await self._alone(super().scan, *args, **instants)


class ScansTwice(Right):
    """Each page repeats the entry before it, and is a little longer."""

    def goes_on_with(self, key: str, after: str) -> bool:
        return key >= after

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        return super().scan_page(left, limit + 1, now)


class EndsAScanWithAnEmptyPage(Right):
    """A page has a cursor unless nothing was looked at."""

    def scan_page(self, left: list[str], limit: int, now: int) -> ScanPage:
        return ScanPage(super().scan_page(left, limit, now).entries, left[:limit][-1] if left else None)


class ListsWithGaps(Right):
    """Deleted entries keep their places for a while, so that pages are short or empty, and counts too high."""

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> Any:
        owner = self.entries.owners.get(key)
        deleted = await super().delete(key, version, now=now)
        self.own(key, owner)
        return deleted

    def has(self, key: str) -> bool:
        return True


class EndsWithAnEmptyPage(Right):
    """A page has a cursor unless it is empty."""

    def page(self, left: list[Cursor], limit: int, now: int) -> Page:
        return Page(super().page(left, limit, now).entries, left[:limit][-1] if left else None)


class KeepsListsBesideEntries(ListedStore, Announces):
    """A store of four methods, to which the library has added the power to list by owner. It declines the others."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(Right(entries))
        self.announcer: Announcing = entries.announcer
        self.sweep: Any = Right(entries).sweep


class HearsItsConnectionOnly(Right):
    """It says that it does not reach all."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(entries)
        self.announcer: Announcing = InProcess(reaches_all=False)


class EndsWithItsConnection(Right):
    """Those who listen end when the connection is closed."""

    is_closed: bool = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_closed = True
        await self.announce([])

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Topics]:
        async with super().listen() as announced:
            yield self.until_closed(announced)

    def listen(self) -> AbstractAsyncContextManager[Topics]:
        return self._listen()

    async def until_closed(self, announced: Topics) -> Topics:
        async for topics in announced:
            if self.is_closed:
                break
            yield topics


LEGAL: list[Kind] = [Right, CountsAll, HasListsAsVersions, ForgetsWhenAsked, Waits]

LEGAL_ANNOUNCEMENTS: list[Kind] = [HearsItsConnectionOnly, EndsWithItsConnection]
"""Stores that are unusual in how they announce."""

LEGAL_LISTINGS: list[Kind] = [ListsWithGaps, EndsWithAnEmptyPage, KeepsListsBesideEntries]
"""Stores that are unusual in how they list by owner."""

LEGAL_SCANS: list[Kind] = [ScansTwice, EndsAScanWithAnEmptyPage]
"""Stores that are unusual in how they go through all entries."""
