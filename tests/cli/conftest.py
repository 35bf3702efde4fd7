"""A shop in a SQLite file with sessions in it, and the command line in this process."""

import asyncio
import io
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from starsessions.backends.base import Backend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.cli import main
from starsessions.stores.sqlalchemy.store import SQLAlchemyStore
from starsessions.users import UserSessions, get_handle
from tests.cli.needs import needs_cyclopts
from tests.shell.people import sign_in
from tests.site import Browser, Clock, Site


@dataclass(frozen=True)
class Said:
    """What a command has printed, and its exit code."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    needs_cyclopts()
    for name in ("NO_COLOR", "FORCE_COLOR", "STARSESSIONS_APP", "STARSESSIONS_STORE", "STARSESSIONS_ENCRYPT_WITH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(arguments)
        return Said(code, *capsys.readouterr())

    return run


class Terminal(io.StringIO):
    """A stream that a person looks at, or types into."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Shop:
    """The database of a shop, and what happens in it."""

    url: str

    def run(self, act: Callable[[SQLAlchemyBackend], Awaitable[Any]]) -> Any:
        async def opened() -> Any:
            backend = SQLAlchemyBackend(self.url, timeout=30)
            try:
                return await act(backend)
            finally:
                await backend.store.aclose()
                await backend.engine.dispose()

        return asyncio.run(opened())

    def sign_in(
        self,
        *people: str,
        clock: Clock | None = None,
        make: Callable[[SQLAlchemyBackend], Backend] = lambda stored: stored,
        **settings: Any,
    ) -> list[str]:
        """Sign people in, and return the handles of their sessions."""

        async def act(stored: SQLAlchemyBackend) -> list[str]:
            backend, handles = make(stored), []
            site = Site(backend=backend, autoload=True, clock=clock, **{"app_name": "shop", **settings})
            for person in people:
                browser = Browser()
                await site.visit(lambda session: session.update(cart=["tea"]), browser)
                await site.visit(sign_in(person, method="password"), browser)
                handles.append((await site.visit(get_handle, browser)).result)
            return handles

        handles: list[str] = self.run(act)
        return handles

    def users(self) -> dict[str, int]:
        """The number of live sessions of the people who have signed in."""

        async def act(backend: SQLAlchemyBackend) -> dict[str, int]:
            users = UserSessions(backend, session_cookie="session", app_name="shop")
            return {person: len(await users.list(person)) for person in ("ann", "bob")}

        counted: dict[str, int] = self.run(act)
        return counted


async def _time_of_server(store: SQLAlchemyStore) -> float:
    return time.time()


@pytest.fixture
def empty_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    now = time.time()  # and so it stays: what lives for seconds must not expire on a slow machine
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(SQLAlchemyStore, "time", _time_of_server)
    url = f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}"
    monkeypatch.setenv("SHOP_DATABASE", url)
    return Shop(url)


@pytest.fixture
def shop(empty_shop: Shop) -> Shop:
    empty_shop.run(lambda backend: backend.create_table())
    return empty_shop
