"""Read by mypy, pyright and ty, never run: a store with all optional powers, and the rules that it is tested with."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import assert_type

import pytest
from anyio import create_memory_object_stream
from anyio.streams.memory import MemoryObjectSendStream

from starsessions import InMemoryBackend
from starsessions.stores import (
    Announcing,
    BatchConflict,
    Batching,
    Conflict,
    Creation,
    Cursor,
    Deletion,
    Entry,
    Indexing,
    Joined,
    Joining,
    MemoryStore,
    Owner,
    Page,
    Provisional,
    Replacement,
    Scanning,
    ScanPage,
    Store,
    StoreBackend,
    Sweeping,
    Timed,
    Version,
    Write,
)
from starsessions.testing import (
    BackendSuite,
    BrokenStore,
    Contract,
    NoVerdict,
    OpenBackend,
    OpenStore,
    RulesSuite,
    StoreFixture,
    StoreSuite,
    Verdict,
    broken_stores,
    check_against_model,
    store_verdicts,
)


class FullStore:
    """Keeps entries in a dict. Those who use this object hear what is announced."""

    reaches_all = False

    def __init__(self) -> None:
        self.entries: dict[str, tuple[Entry, Owner | None]] = {}
        self.listeners: list[MemoryObjectSendStream[Sequence[str]]] = []

    async def get(self, key: str, *, now: int) -> Entry | None:
        entry, _ = self.entries.get(key, (None, None))
        return entry if entry is not None and now < entry.expires_at else None

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        if (entry := await self.get(key, now=now)) is not None:
            raise Conflict(entry)
        self.entries[key] = Entry(value, expires_at, version := object()), owner
        return version

    async def replace(
        self, key: str, value: bytes, version: Version, *, expires_at: int, now: int, owner: Owner | None = None
    ) -> Version:
        await self.delete(key, version, now=now)
        return await self.create(key, value, expires_at=expires_at, now=now, owner=owner)

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        entry = await self.get(key, now=now)
        if version is not None and (entry is None or entry.version != version):
            raise Conflict(entry)
        return self.entries.pop(key, None) is not None and entry is not None

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        owned = [
            (Cursor(owner.since, key), entry)
            for key, (entry, owner) in self.entries.items()
            if owner is not None and owner.name == name and now < entry.expires_at
        ]
        left = sorted((one for one in owned if after is None or one[0] < after), reverse=True)
        here = left[:limit]
        return Page([(cursor.key, entry) for cursor, entry in here], here[-1][0] if len(left) > limit else None)

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        return len((await self.list_owned(name, limit=most + 1, now=now)).entries)

    async def get_joined(self, key: str, other: str, *, now: int) -> Joined:
        entry, (_, owner) = await self.get(key, now=now), self.entries.get(key, (None, None))
        if entry is None or owner is None:
            return Joined(entry)
        return Joined(entry, owner.name, await self.get(owner.name, now=now), other=await self.get(other, now=now))

    async def write_together(
        self, writes: Sequence[Write], *, now: int, topics: Sequence[str] = ()
    ) -> Sequence[Version | None] | None:
        before, versions = self.entries.copy(), list[Version | None]()
        for index, write in enumerate(writes):
            try:
                versions.append(await self._written(write, now))
            except Conflict as error:
                self.entries = before
                raise BatchConflict(index, error.current) from error
        await self.announce(topics)
        return versions

    async def _written(self, write: Write, now: int) -> Version | None:
        match write:
            case Creation(key, value, expires_at, owner):
                return await self.create(key, value, expires_at=expires_at, now=now, owner=owner)
            case Replacement(key, value, version, expires_at, owner):
                return await self.replace(key, value, version, expires_at=expires_at, now=now, owner=owner)
            case Deletion(key, version):
                await self.delete(key, version, now=now)
                return None

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        keys = sorted(key for key, (entry, _) in self.entries.items() if key > (after or "") and now < entry.expires_at)
        page: list[tuple[str, Entry, str | None]] = []
        for key in keys[:limit]:
            entry, owner = self.entries[key]
            page.append((key, entry, None if owner is None else owner.name))
        return ScanPage(page, keys[limit - 1] if len(keys) > limit else None)

    async def sweep(self, limit: int, *, now: int) -> int:
        expired = [key for key, (entry, _) in self.entries.items() if entry.expires_at <= now][:limit]
        for key in expired:
            del self.entries[key]
        return len(expired)

    async def time(self) -> float:
        return 0.0

    async def announce(self, topics: Sequence[str]) -> None:
        for listener in self.listeners:
            listener.send_nowait(topics)

    @asynccontextmanager
    async def listen(self) -> AsyncGenerator[AsyncIterator[Sequence[str]]]:
        listener, heard = create_memory_object_stream[Sequence[str]](inf)
        self.listeners.append(listener)
        with listener, heard:
            try:
                yield heard
            finally:
                self.listeners.remove(listener)


store: Store = FullStore()
announcing: Announcing = FullStore()
batching: Batching = FullStore()
indexing: Indexing = FullStore()
joining: Joining = FullStore()
scanning: Scanning = FullStore()
sweeping: Sweeping = FullStore()
timed: Timed = FullStore()
StoreBackend(FullStore())


async def sign_in(key: str) -> None:
    version = await indexing.create(key, b"", expires_at=60, now=0, owner=Provisional("ann", since=0, until=600))
    await indexing.replace(key, b"value", version, expires_at=600, now=0, owner=Owner("ann", since=0))


class TestFullStore(StoreSuite):
    declines = {"durable": "it is in memory"}  # noqa: RUF012
    largest_value = 1_000_000

    @pytest.fixture
    def open_store(self) -> OpenStore:
        stores: dict[str, Store] = {}
        return lambda name: stores.setdefault(name, FullStore())


class TestBackend(BackendSuite):
    event_loops = ("asyncio", "trio")

    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return lambda: StoreBackend(FullStore())


class TestRules(RulesSuite):
    pass


def test_no_sequence_of_requests_is_handled_incorrectly() -> None:
    check_against_model(InMemoryBackend, rolling=True, event_loop="trio")


async def without_pytest() -> list[str]:
    told: list[str] = []
    try:
        async for verdict in store_verdicts(lambda name: MemoryStore(), declines={"sweeps": "each write sweeps"}):
            assert_type(verdict, Verdict)
            if verdict.outcome == "broken":
                told.append(f"{verdict.rule}: {verdict.why}")
    except NoVerdict as error:
        told.append(str(error))
    return told


async def does_what_it_must_not(broken: BrokenStore) -> bool:
    async with StoreFixture(broken.open_stores()) as place:
        assert_type(await place.connect(), Store)
    return await broken.failing_rules() == broken.rejected_by


def mistakes() -> list[str]:
    return [broken.mistake for broken in broken_stores()]


OURS = Contract[StoreFixture]({"large values": "a value may have a megabyte"})


@OURS.rule("large values")
async def keeps_a_large_value(place: StoreFixture) -> None:
    """A value of a megabyte is returned unchanged."""
    here = await place.connect()
    await here.create("key", bytes(1 << 20), expires_at=place.now + 60, now=place.now)
