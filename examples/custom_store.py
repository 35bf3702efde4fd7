"""A custom store: four methods on a database, here SQLite from the standard library. No update is lost.

    python -m uvicorn custom_store:app --app-dir examples

`tests/testing/test_example_store.py` checks in a few lines that it fulfils the contract of a store. It is an example
to read: in an application, use `starsessions.backends.sqlalchemy`.
"""

import os
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

from anyio import to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starsessions import BackendUnavailable, SessionMiddleware, load_session
from starsessions.stores import Conflict, Entry, Version

T = TypeVar("T")

TABLE = "CREATE TABLE IF NOT EXISTS session (key TEXT PRIMARY KEY, value BLOB, expires_at INTEGER, version TEXT)"


class FileStore:
    def __init__(self, path: Path) -> None:
        self.path = path

    async def get(self, key: str, *, now: int) -> Entry | None:
        return await self._alone(lambda database: find(database, key, now))

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int) -> Version:
        def create(database: sqlite3.Connection) -> Version:
            current = find(database, key, now)
            if current is not None:
                raise Conflict(current)
            return write(database, key, value, expires_at)

        return await self._alone(create)

    async def replace(self, key: str, value: bytes, version: Version, *, expires_at: int, now: int) -> Version:
        def replace(database: sqlite3.Connection) -> Version:
            check(find(database, key, now), version)
            return write(database, key, value, expires_at)

        return await self._alone(replace)

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        def delete(database: sqlite3.Connection) -> bool:
            current = find(database, key, now)
            if version is not None:
                check(current, version)
            database.execute("DELETE FROM session WHERE key = ?", (key,))
            return current is not None

        return await self._alone(delete)

    async def sweep(self, limit: int, *, now: int) -> int:
        expired = "SELECT key FROM session WHERE expires_at <= ? LIMIT ?"
        delete = f"DELETE FROM session WHERE key IN ({expired})"  # noqa: S608 - it contains no value
        return await self._alone(lambda database: database.execute(delete, (now, limit)).rowcount)

    async def _alone(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in an exclusive transaction, in a thread, because SQLite blocks."""

        def run() -> T:
            try:
                with closing(sqlite3.connect(self.path, isolation_level=None)) as database:
                    # Fast, but a power failure can corrupt the file: remove this line if that matters.
                    database.execute("PRAGMA synchronous = OFF")
                    database.execute("BEGIN IMMEDIATE")
                    database.execute(TABLE)
                    result = work(database)
                    database.execute("COMMIT")
                    return result
            except sqlite3.Error as error:
                raise BackendUnavailable(f"SQLite failed: {type(error).__name__}.") from error

        return await to_thread.run_sync(run)


def find(database: sqlite3.Connection, key: str, now: int) -> Entry | None:
    query = "SELECT value, expires_at, version FROM session WHERE key = ? AND expires_at > ?"
    row = database.execute(query, (key, now)).fetchone()
    return Entry(*row) if row else None


def check(current: Entry | None, version: Version) -> None:
    if current is None or current.version != version:
        raise Conflict(current)


def write(database: sqlite3.Connection, key: str, value: bytes, expires_at: int) -> Version:
    version = uuid4().hex  # never the same twice
    database.execute("REPLACE INTO session VALUES (?, ?, ?, ?)", (key, value, expires_at, version))
    return version


async def count(request: Request) -> Response:
    session = await load_session(request)
    session["visits"] = session.get("visits", 0) + 1
    return PlainTextResponse(f"Visit {session['visits']}\n")


path = Path(os.environ.get("SESSIONS", Path(tempfile.gettempdir(), "sessions.sqlite")))
app = Starlette(
    routes=[Route("/", count)],
    middleware=[Middleware(SessionMiddleware, backend=FileStore(path))],
)
