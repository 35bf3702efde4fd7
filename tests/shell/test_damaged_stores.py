"""Guarantee 9, for stores: whatever an entry holds, no request fails and no list does.

A store may be shared, restored from a backup, or written by another release during a deployment.
"""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from msgspec import msgpack

from starsessions import InMemoryBackend, Session, SessionBackend, SessionGone, users
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.stores.base import Conflict, Entry, Indexing, Page, Store
from starsessions.stores.listed import as_indexing
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from starsessions.watch import revalidate
from tests.shell.people import signed_in
from tests.site import KEY, Browser, Clock, Site

pytestmark = pytest.mark.anyio

WEIRD: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        2**40,
        2**63,
        -(2**63),
        1.5,
        float("nan"),
        "",
        "é",
        "\0",
        "a" * 200,
        b"",
        b"\xc1",
        b"{",
        [],
        {},
    ),
    *(msgpack.Ext(1, b"\x01"), msgpack.Ext(99, b""), {(1,): 1}),
    msgpack.encode({"cart": msgpack.Ext(4, msgpack.encode(["2024-01-01T00:00:00", 5, None, None]))}),
    msgpack.encode({(1,): {(2,): [msgpack.Ext(9, b"sNaN")]}}),
    b"\x81\xa1a" + b"\x91" * 150 + b"\x01",
    b'{"a":' + b"[" * 150 + b"]" * 150 + b"}",
]


POINTERS = [{"to": to, "at": 1_700_000_000, "until": 2**37} for to in ("é", "\0", "a\n", "", "a" * 43)]


class Damaging:
    """A store that returns damaged values once it is told to."""

    def __init__(self, inner: Store, random: Random) -> None:
        self.inner = inner
        self._random = random
        self.damages = False

    async def get(self, key: str, *, now: int) -> Entry | None:
        assert key.isascii(), "databases refuse other keys, or find them equal to others"
        assert key.isprintable()
        return self._damaged(await self.inner.get(key, now=now))

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int) -> Any:
        return await self._refusing(self.inner.create(key, value, expires_at=expires_at, now=now))

    async def replace(self, key: str, value: bytes, version: Any, *, expires_at: int, now: int) -> Any:
        return await self._refusing(self.inner.replace(key, value, version, expires_at=expires_at, now=now))

    async def delete(self, key: str, version: Any = None, *, now: int) -> bool:
        lived: bool = await self._refusing(self.inner.delete(key, version, now=now))
        return lived

    async def _refusing(self, work: Awaitable[Any]) -> Any:
        try:
            return await work
        except Conflict as conflict:
            raise Conflict(self._damaged(conflict.current)) from None

    def _damaged(self, entry: Entry | None) -> Entry | None:
        if entry is None or not self.damages or self._random.random() < 0.2:
            return entry
        value = self._retyped(entry.value) if self._random.random() < 0.7 else self._mangled(entry.value)
        return Entry(value, entry.expires_at, entry.version)

    def _retyped(self, value: bytes) -> bytes:
        """Another value in one place of the record, pointer or list, which begins after its owner."""
        for start in (11, 8, 0):
            try:
                content = msgpack.decode(value[start:])
            except Exception:  # the owner is as long as the kind of entry
                continue
            if isinstance(content, (list, dict)) and content:
                return value[:start] + msgpack.encode(self._with_one_changed(content))
        return self._mangled(value)

    def _with_one_changed(self, content: Any) -> Any:
        if isinstance(content, (list, dict)) and content and self._random.random() < 0.8:
            at = self._random.choice(list(content) if isinstance(content, dict) else range(len(content)))
            content[at] = self._with_one_changed(content[at])
            return content
        return self._random.choice(WEIRD + POINTERS)

    def _mangled(self, value: bytes) -> bytes:
        at, random = self._random.randrange(len(value) + 1), self._random
        return value[:at] + random.randbytes(random.randrange(4)) + value[at + random.randrange(4) :]


class DamagingIndex(Damaging):
    """One that lists its entries by their owner."""

    inner: Indexing

    def __init__(self, inner: Store, random: Random) -> None:
        super().__init__(inner, random)
        self.inner = as_indexing(inner)

    async def create(self, key: str, value: bytes, **how: Any) -> Any:
        return await self._refusing(self.inner.create(key, value, **how))

    async def replace(self, key: str, value: bytes, version: Any, **how: Any) -> Any:
        return await self._refusing(self.inner.replace(key, value, version, **how))

    async def list_owned(self, name: str, **how: Any) -> Page:
        page = await self.inner.list_owned(name, **how)
        entries = [(key, self._damaged(entry) or entry) for key, entry in page.entries]
        return Page(entries, page.after)

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        return await self.inner.count_owned(name, most=most, now=now)


@asynccontextmanager
async def damaged(name: str, random: Random, clock: Clock, tmp_path: Path) -> AsyncIterator[tuple[Any, Damaging]]:
    """A backend over a damaging store. In memory, ids are not hashed."""
    backend: Any = {
        "memory": lambda: InMemoryBackend(clock=clock),
        "stored": lambda: StoreBackend(MemoryStore(), clock=clock),
        "stored, with a list": lambda: StoreBackend(MemoryStore(), clock=clock),
        "encrypted": lambda: StoreBackend(MemoryStore(), encrypt_with=KEY, clock=clock),
        "SQLite": lambda: SQLAlchemyBackend(f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}", timeout=30, clock=clock),
    }[name]()
    if name == "SQLite":
        await backend.create_table()
    async with backend.lifespan():
        inner = backend.store
        backend.store = (Damaging if "list" in name else DamagingIndex)(inner, random)
        yield backend, backend.store
        backend.store = inner


async def begin(site: Site) -> tuple[Browser, Browser]:
    """A signed-in session on two devices, one of which has just been rotated; the browser with its old id."""
    await signed_in(site)
    browser = await signed_in(site)

    async def act(session: Session) -> None:
        await session.load()
        session["cart"] = [{"sku": "tea"}]
        await session.regenerate_id(grace=60)

    old = Browser(dict(browser.cookies))
    await site.visit(act, browser)
    return browser, old


@pytest.mark.guarantee(9)
@pytest.mark.parametrize(
    ("name", "times"),
    [("memory", 300), ("stored", 200), ("stored, with a list", 200), ("encrypted", 100), ("SQLite", 40)],
    ids=str,
)
async def test_no_request_or_list_fails_whatever_the_store_holds(
    name: str, times: int, clock: Clock, tmp_path: Path
) -> None:
    random = Random(name)  # the same in each run
    async with damaged(name, random, clock, tmp_path) as (backend, store):
        site = Site(backend=backend, autoload=True, rolling=random.random() < 0.5, absolute_timeout=10**6)
        for _ in range(times):
            store.damages = False
            await UserSessions(backend).revoke_all("ann")
            browser, old = await begin(site)

            async def everything(
                session: Session, browser: Browser = browser, backend: SessionBackend = backend
            ) -> None:
                store.damages = random.random() < 0.3
                await session.load()
                users.get_user_id(session), users.get_signed_in_at(session), users.is_fresh(session, 60)
                store.damages = False
                if random.random() < 0.5:  # another request writes meanwhile: a conflict
                    await Site(backend=backend, autoload=True).visit(add, Browser(dict(browser.cookies)))
                store.damages = True
                if random.random() < 0.3:
                    await revalidate(session)
                add(session)
                if random.random() < 0.3:
                    await UserSessions(backend).list("ann", current=session)
                if random.random() < 0.2:
                    await users.sign_in(session, "ann")
                if random.random() < 0.2:
                    await UserSessions(backend).revoke_others(session)

            with suppress(SessionGone):  # a damaged list counts as revoked, and a sign-in that was on it says so
                await site.visit(everything, random.choice([browser, old]))
            store.damages = True
            await UserSessions(backend).list("ann")
            await UserSessions(backend).revoke_all("ann")
            await backend.bound_for().read(browser.cookies.get("session", "x"))


def add(session: Session) -> None:
    session["n"] = 1
