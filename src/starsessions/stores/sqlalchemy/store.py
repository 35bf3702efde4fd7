"""The store contract in SQL."""

from collections.abc import Sequence
from functools import partial
from os import urandom
from typing import Any

from sqlalchemy import Executable, Table
from sqlalchemy.ext.asyncio import AsyncEngine

from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.stores.announce import Announces, try_to_announce
from starsessions.stores.base import (
    Announcing,
    Conflict,
    Cursor,
    Entry,
    Joined,
    Owner,
    Page,
    ScanPage,
    Version,
    Write,
)
from starsessions.stores.sqlalchemy.announce import announcer_for
from starsessions.stores.sqlalchemy.batches import Batches
from starsessions.stores.sqlalchemy.connection import MOST_CONNECTIONS, Database, MissingTable, UnusableTable
from starsessions.stores.sqlalchemy.deletes import Deletes
from starsessions.stores.sqlalchemy.survey import survey_of
from starsessions.stores.sqlalchemy.table import Statements
from starsessions.stores.survey import Survey

MAX_ROUNDS = 8
"""The attempts of a `create` whose key is alternately in use and free."""

_FREE: Version = object()
"""The version of a missing entry."""

_BEGINNING = Cursor(2**63 - 1, "")
"""What every entry of a listing comes after."""


class SQLAlchemyStore(Announces):
    """A store in a table of a SQL database. It is also `Sweeping`, `Indexing`, `Batching`, `Joining`, `Scanning`
    and `Timed`.

    Each method is one statement in its own transaction; several writes at once are one on PostgreSQL only. Deletes at
    the same time share one. A conflict takes one more statement, to read the current entry.
    This is true for an engine with `isolation_level="AUTOCOMMIT"` and `skip_autocommit_rollback=True`, and on
    PostgreSQL for any engine. A write that raises `BackendUnavailable` may or may not have been carried out.

    The version is 63 random bits, chosen by the writer, so that a write whose reply was lost can be recognized.

    Args:
        engine: the engine whose settings are used. The store has connections of its own, in each event loop.
        table: the table: see `session_table`.
        timeout: the seconds after which a method raises `BackendUnavailable`.
        connections: the most connections that are open at once in one event loop.
    """

    def __init__(
        self, engine: AsyncEngine, table: Table, *, timeout: float = 5.0, connections: int = MOST_CONNECTIONS
    ) -> None:
        self.table = table
        self._database = Database(engine, table.fullname, timeout, connections)
        self.announcer: Announcing = announcer_for(self._database, table.fullname)
        self.statements: Statements = Statements(table, engine.dialect)
        self._batches = Batches(self._database, table, self.statements)
        self._deletes = Deletes(self._database, self.statements, engine.dialect)

    async def get(self, key: str, *, now: int) -> Entry | None:
        return await self._database.with_timeout(self._get(key, now))

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        return await self._database.with_timeout(self._put(key, value, _FREE, expires_at, now, owner), writes=True)

    async def replace(
        self, key: str, value: bytes, version: Version, *, expires_at: int, now: int, owner: Owner | None = None
    ) -> Version:
        return await self._database.with_timeout(self._put(key, value, version, expires_at, now, owner), writes=True)

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        return await self._database.with_timeout(self._delete(key, version, now), writes=True)

    async def sweep(self, limit: int, *, now: int) -> int:
        return await self._database.with_timeout(self._sweep(limit, now))

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        return await self._database.with_timeout(self._list_owned(name, limit, now, after or _BEGINNING))

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        """Return the number of an owner's entries that have not expired by `now`, or `most + 1` if there are more."""
        parameters = {"p_owner": name, "p_now": now, "p_limit": most + 1}
        return int(await self._database.with_timeout(self._scalar(self.statements.count_owned, parameters)))

    async def get_joined(self, key: str, other: str, *, now: int) -> Joined:
        return await self._database.with_timeout(self._get_joined(key, other, now))

    async def write_together(
        self, writes: Sequence[Write], *, now: int, topics: Sequence[str] = ()
    ) -> Sequence[Version | None] | None:
        return await self._database.with_timeout(self._write_together(writes, now, topics), writes=True)

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        return await self._database.with_timeout(self._scan(limit, now, after or ""))

    async def time(self) -> float:
        """Return the time of the database in seconds since 1970."""
        return float(await self._database.with_timeout(self._scalar(self.statements.time, {})))

    async def check_table(self) -> None:
        """Raise `ImproperlyConfigured` if the table is missing or lacks a column."""
        try:
            # It names every column. An inspector would not apply the engine's schema_translate_map.
            await self.list_owned("", limit=1, now=0)
        except UnusableTable as error:
            raise ImproperlyConfigured(str(error)) from None

    async def survey(self) -> Survey:
        """Return what the database says about itself and the table."""
        try:
            await self.list_owned("", limit=1, now=0)
        except UnusableTable as error:
            return Survey(wrong_table=str(error), is_table_missing=isinstance(error, MissingTable))
        found, _ = await self._database.with_timeout(self._database.call(partial(survey_of, self.table)))
        return found

    async def create_table(self) -> None:
        """Create the table and its indexes, unless it exists."""
        # If another process creates it at the same time, this fails, and the second attempt finds the table.
        await self._database.with_timeout(self._database.call(partial(self.table.create, checkfirst=True)))

    async def finished(self) -> None:
        """Wait for work that was abandoned after a timeout or a cancelled request."""
        await self._database.finished()

    async def aclose(self) -> None:
        """Close the connections of this event loop. The next method opens new ones."""
        await self._database.aclose()

    async def _get(self, key: str, now: int) -> Entry | None:
        rows = (await self._database.execute(self.statements.get, {"p_key": key, "p_now": now})).rows
        return Entry._make(rows[0]) if rows else None

    async def _get_joined(self, key: str, other: str, now: int) -> Joined:
        parameters = {"p_key": key, "p_other": other, "p_now": now}
        rows = (await self._database.execute(self.statements.get_joined, parameters)).rows
        if not rows:
            return Joined(None)
        [row] = rows
        owner, found = row[0], [Entry._make(row[n : n + 3]) for n in (1, 4, 7)]
        entry, *others = [one if one.value is not None and now < one.expires_at else None for one in found]
        return Joined(entry) if owner is None else Joined(entry, owner, *others)

    async def _put(
        self, key: str, value: bytes, expected: Version, expires_at: int, now: int, owner: Owner | None
    ) -> Version:
        version = int.from_bytes(urandom(8)) >> 1
        row = {"p_key": key, "p_value": value, "p_expires_at": expires_at, "p_version": version}
        row["p_owner"], row["p_since"] = owner or (None, None)
        for _ in range(MAX_ROUNDS):
            written, in_doubt = await self._write(row, expected, now)
            if written:
                return version
            current = await self._get(key, now)
            if current is not None and current.version == version:
                return version  # the first attempt was carried out, and its reply was lost
            if current is not None and in_doubt:
                # If this write was carried out, the current entry includes it, and it must not be applied twice.
                raise BackendUnavailable("The store failed during a write, and its result is unknown.")
            if current is not None or expected is not _FREE:
                raise Conflict(current)
        raise BackendUnavailable(f"The store gave contradictory answers {MAX_ROUNDS} times.")

    async def _write(self, row: dict[str, Any], expected: Version, now: int) -> tuple[bool, bool]:
        """Return whether the row was written, and whether a failed attempt may have written it."""
        execute, in_doubt = self._database.execute, False
        if expected is _FREE:
            inserted = await execute(self.statements.insert, row)
            if inserted.written:
                return True, False
            statement, in_doubt = self.statements.take_over, inserted.in_doubt
            parameters = {**row, "p_now": now}
        else:
            statement, parameters = self.statements.replace, {**row, "p_expect": expected, "p_now": now}
        written = await execute(statement, parameters)
        return written.written > 0, written.in_doubt or in_doubt

    async def _delete(self, key: str, expected: Version | None, now: int) -> bool:
        if expected is None:
            return (await self._database.execute(self.statements.delete, {"p_key": key, "p_now": now})).written > 0
        deleted = await self._deletes.delete(key, expected, now)
        if key in deleted.keys:
            return True
        current = await self._get(key, now)
        if current is None and deleted.in_doubt:
            return True
        raise Conflict(current)

    async def _list_owned(self, name: str, limit: int, now: int, after: Cursor) -> Page:
        here = {"p_owner": name, "p_now": now, "p_since": after.since, "p_key": after.key}
        rows = (await self._database.execute(self.statements.list_owned, {**here, "p_limit": limit + 1})).rows
        page = rows[:limit]
        entries = [(row.key, Entry(row.value, row.expires_at, row.version)) for row in page]
        return Page(entries, Cursor(page[-1].since, page[-1].key) if len(rows) > limit else None)

    async def _write_together(
        self, writes: Sequence[Write], now: int, topics: Sequence[str]
    ) -> Sequence[Version | None]:
        announces = self._batches.announces
        versions = await self._batches.carry_out(writes, now, topics if announces else ())
        if topics and not announces:  # here, since this goes on if the caller is cancelled
            await try_to_announce(self.announcer, topics, self._batches.notices)
        return versions

    async def _scan(self, limit: int, now: int, after: str) -> ScanPage:
        rows = (await self._database.execute(self.statements.scan, {"p_key": after, "p_limit": limit})).rows
        entries = ((row.key, Entry(row.value, row.expires_at, row.version), row.owner) for row in rows)
        live = [one for one in entries if now < one[1].expires_at]
        return ScanPage(live, rows[-1].key if len(rows) == limit else None)

    async def _scalar(self, statement: Executable, parameters: dict[str, Any]) -> Any:
        return (await self._database.execute(statement, parameters)).rows[0][0]

    async def _sweep(self, limit: int, now: int) -> int:
        execute, parameters = self._database.execute, {"p_now": now, "p_limit": limit}
        if self._database.name == "postgresql":
            return (await execute(self.statements.sweep, parameters)).written
        keys = [row.key for row in (await execute(self.statements.some_dead, parameters)).rows]
        return (await execute(self.statements.delete_dead, {"p_keys": keys, "p_now": now})).written if keys else 0
