"""What the author of a store writes, as type checkers see it."""

from typing import assert_type

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from starsessions import CookieBackend, InMemoryBackend, Session, SessionMiddleware
from starsessions.stores import Conflict, Entry, MemoryStore, Store, StoreBackend, Sweeping, Version
from starsessions.testing import CookieBackendSuite, OpenBackend, OpenStore, StoreSuite, broken_stores
from starsessions.users import UserSessions


class DictStore:
    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def _check(self, key: str, version: Version | None, now: int) -> Entry | None:
        entry = self.entries.get(key)
        current = entry if entry is not None and now < entry.expires_at else None
        if (None if current is None else current.version) != version:
            raise Conflict(current)
        return current

    async def get(self, key: str, *, now: int) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry is not None and now < entry.expires_at else None

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int) -> Version:
        self._check(key, None, now)
        self.entries[key] = Entry(value, expires_at, version := object())
        return version

    async def replace(self, key: str, value: bytes, version: Version, *, expires_at: int, now: int) -> Version:
        self._check(key, version, now)
        self.entries[key] = Entry(value, expires_at, new := object())
        return new

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        if version is not None:
            self._check(key, version, now)
        return self.entries.pop(key, None) is not None

    async def sweep(self, limit: int, *, now: int) -> int:
        return 0


store: Store = DictStore()
sweeping: Sweeping = DictStore()
in_memory: Store = MemoryStore()
app = Starlette(middleware=[Middleware(SessionMiddleware, backend=store, app_name="shop")])
SessionMiddleware(app, backend=DictStore())
Session(store, "an-id")
UserSessions(store)
UserSessions(store, session_cookie="sid", app_name="shop")
CookieBackend("a key", revocations=store, starlette_format=False)
assert_type(StoreBackend(store).bound_for("sid"), StoreBackend)
assert_type(InMemoryBackend().bound_for(app_name="shop"), InMemoryBackend)
assert_type([one.name for one in broken_stores()], list[str])


class TestDictStore(StoreSuite):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        return lambda name: DictStore()


class TestCookies(CookieBackendSuite):
    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return lambda: CookieBackend("a key", revocations=store)
