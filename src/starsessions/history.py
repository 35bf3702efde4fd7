"""The history of sign-ins: who signed in, failed to, or was signed out, when and with which device. In SQL.

    history = SignInHistory(backend.engine)
    app.add_middleware(SessionMiddleware, backend=backend, on_event=history.record)

**Recording never delays a request, and never fails one.** `record()` puts the event into a queue in memory and returns.
A task writes what waits there, up to 100 entries with one statement. If the database fails, they stay in the queue, and
the next event tries again; the failure is logged once a minute. The queue has 10,000 places, and what comes when it is
full is lost, which is logged, too: also if a user with more sessions is signed out of all at once. So a process that is
killed loses what it has not written yet: the last moment, or what an outage has left. `lifespan()` writes the rest when
the application shuts down.

Nothing changes an entry. It is deleted when it is older than `keep_for` (`purge()`), or with its user (`erase()`).
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from secrets import randbits
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from anyio import from_thread, move_on_after
from starlette.requests import HTTPConnection

from starsessions.backends.base import wall_clock
from starsessions.core.csrf import header_of
from starsessions.core.durations import Clock, Duration, seconds, time_limit
from starsessions.core.history import (
    COUNTER_BITS,
    TEXTS,
    HistoryEntry,
    What,
    as_csv,
    cleaned,
    heading,
    key_of_user,
    number_at,
    position,
)
from starsessions.core.user_agent import describe, truncate_ip
from starsessions.events import EndedByOperator, Event, Revoked, SignedIn, SignedOut
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.notices import Notices
from starsessions.stores.loops import running_loop
from starsessions.stores.sqlalchemy.connection import Answer, Database, UnusableTable, engine_for
from starsessions.stores.sqlalchemy.history import (
    HistoryStatements,
    Row,
    entry_of,
    history_table,
    insert_all,
)

__all__ = ["HistoryEntry", "HistoryPage", "SignInHistory", "What", "history_table"]

if TYPE_CHECKING:
    from sqlalchemy import URL, Executable, MetaData, Table
    from sqlalchemy.ext.asyncio import AsyncEngine

_MOST_WAITING = 10_000
"""The entries that wait in memory at most."""

_AT_ONCE = 100
"""The entries that one statement inserts."""

_NEWEST = (1 << 63) - 1
_UNUSABLE = "The table of the history is missing or lacks a column: create it with `await history.create_table()`, or \
with an Alembic migration that uses history.metadata."

_WHAT: dict[type[Event], What] = {
    SignedIn: What.SIGNED_IN,
    SignedOut: What.SIGNED_OUT,
    Revoked: What.REVOKED,
    EndedByOperator: What.BY_OPERATOR,
}


class HistoryPage(list[HistoryEntry]):
    """Entries, the newest first."""

    after: str | None = None
    """Where the next page begins, to pass to `list(after=…)`; None: this is the last page. It may be part of a URL."""


class _Writer(NamedTuple):
    """What writes in one event loop."""

    task: asyncio.Task[None]
    ended: Future[None]
    """Tells the other event loops when the task has ended."""


class SignInHistory:
    """The history of sign-ins in a table of a SQL database.

    Pass `record` as `on_event` to the middleware and to `UserSessions`. If you have an `on_event` of your own, call
    `history.record(event)` in it.

    Args:
        engine_or_url: an `AsyncEngine`, such as `backend.engine`, or the URL of a database. It has connections of its
            own, as a `SQLAlchemyBackend` does.
        table_name: the name of the table, or `schema.table`.
        metadata: the metadata that the table is added to. None: a new one.
        timeout: the seconds after which an operation raises `BackendUnavailable`.
        keep_for: how long an entry is kept, in seconds or as a `timedelta`: `purge()` deletes older ones.
        clock: returns the seconds since 1970; for tests.

    >>> import asyncio
    >>> async def main():
    ...     history = SignInHistory("sqlite+aiosqlite://")
    ...     await history.create_table()
    ...     async with history.lifespan():
    ...         history.record(SignedIn("a-handle", "ann", "password", "Firefox on Linux"))
    ...         return [(one.what, one.method, one.agent) for one in await history.list("ann")]
    >>> asyncio.run(main())
    [(<What.SIGNED_IN: 'signed in'>, 'password', 'Firefox on Linux')]
    """

    def __init__(
        self,
        engine_or_url: "AsyncEngine | URL | str",
        table_name: str = "starsessions_history",
        *,
        metadata: "MetaData | None" = None,
        timeout: float | timedelta = 5.0,
        keep_for: Duration = timedelta(days=365),
        clock: Clock = wall_clock,
    ) -> None:
        self._timeout = time_limit("timeout", timeout)
        engine, connections = engine_for(engine_or_url, self._timeout)
        self.table: Table = history_table(metadata, table_name)
        self.keep_for: int = seconds("keep_for", keep_for)
        self.clock = clock
        self._database = Database(engine, self.table.fullname, self._timeout, connections)
        self._statements = HistoryStatements(self.table)
        self._notices = Notices()
        self._waiting: deque[Row] = deque()
        self._last = 0
        self._lock = Lock()  # endpoints in threads record, too, and there may be several event loops
        self._writers: dict[asyncio.AbstractEventLoop, _Writer] = {}

    @property
    def metadata(self) -> "MetaData":
        """The metadata that contains the table, for Alembic's `target_metadata`."""
        return self.table.metadata

    def record(self, event: Event) -> None:
        """Add an event to the history, if it is one of sign-ins and their ends. It returns at once, and never fails.

        Pass it as `on_event`.
        """
        what = _WHAT.get(type(event))
        if what is not None:
            self._add(what, {name: getattr(event, name, "") for name in TEXTS})

    def sign_in_failed(self, request: HTTPConnection, user_id: str, *, method: str = "") -> None:
        """Add a failed attempt to sign in to the history of a user. It returns at once, and never fails.

        Args:
            request: the request, for the browser and the network.
            user_id: the id of the account. Do not pass what was typed if there is no such account: it may be a
                password in the wrong field.
            method: how, in the application's words.
        """
        agent = describe(header_of(request.scope["headers"], b"user-agent"))
        address = truncate_ip(request.client.host) if request.client else ""
        self._add(What.FAILED, {"user_id": user_id, "method": method, "agent": agent, "address": address})

    async def failures(self, user_id: str, within: Duration) -> int:
        """Return how often someone failed to sign in as this user lately (seconds or a `timedelta`).

        Those that other processes have not written yet are missing. Limit the rate of attempts somewhere else, too.
        """
        await self.finished()
        since = number_at(int((self.clock() - seconds("within", within)) * 1000))
        answer = await self._execute(self._statements.failures, {"p_user": key_of_user(user_id), "p_since": since})
        return int(answer.rows[0][0])

    async def list(self, user_id: str | None, *, limit: int = 50, after: str | None = None) -> HistoryPage:
        """Return the history of a user, the newest entry first.

        Args:
            user_id: the user's id. None: the history of all users.
            limit: the most entries to return, 1 or more.
            after: the `after` of the page before; None, or what no page had: begin with the newest entry.

        Raises:
            BackendUnavailable: the database failed or did not answer in time.
        """
        if limit < 1:
            raise ValueError("list() takes a limit of 1 or more.")
        await self.finished()
        start = position(after)
        parameters: Row = {"p_before": _NEWEST if start is None else start, "p_limit": limit + 1}
        statement = self._statements.page
        if user_id is not None:
            statement, parameters["p_user"] = self._statements.page_of_user, key_of_user(user_id)
        rows = (await self._execute(statement, parameters)).rows
        page = HistoryPage(map(entry_of, rows[:limit]))
        page.after = str(rows[limit - 1][0]) if len(rows) > limit else None
        return page

    async def export(self, user_id: str | None = None) -> AsyncIterator[HistoryEntry]:
        """Yield all entries of a user, or of all users, the newest first. They are read in pages.

        >>> import asyncio
        >>> async def main():
        ...     history = SignInHistory("sqlite+aiosqlite://")
        ...     await history.create_table()
        ...     async with history.lifespan():
        ...         return [entry async for entry in history.export("ann")]
        >>> asyncio.run(main())
        []
        """
        page = await self.list(user_id, limit=1000)
        while True:
            for entry in page:
                yield entry
            if page.after is None:
                return
            page = await self.list(user_id, limit=1000, after=page.after)

    async def csv(self, user_id: str | None = None) -> AsyncIterator[str]:
        """Yield the lines of a CSV file with all entries of a user, or of all users: for a `StreamingResponse`.

        A spreadsheet does not run what a cell contains: a cell that would be a formula gets an apostrophe in front.
        """
        yield heading()
        async for entry in self.export(user_id):
            yield as_csv([entry])

    async def purge(self, limit: int = 1000) -> int:
        """Delete at most `limit` entries that are older than `keep_for`, and return how many. Fewer: none is left.

        Call it regularly, as `sweep()` of the backend.
        """
        before = number_at(int((self.clock() - self.keep_for) * 1000))
        return await self._delete(self._statements.some_old, self._statements.delete_old, {"p_before": before}, limit)

    async def erase(self, user_id: str) -> int:
        """Delete the history of a user, and return how many entries that were. Nothing of the id is left in the table.

        If the user is an operator, what they did stays in the histories of others, without the name.
        """
        await self.finished()
        self._forget(user_id)  # of what could not be written
        await self._others_finished()
        self._forget(user_id)  # of what another event loop had taken, and could not write
        count, of_user = 0, {"p_user": key_of_user(user_id)}
        some, delete = self._statements.some_of_user, self._statements.delete_of_user
        while deleted := await self._delete(some, delete, of_user, 1000):
            count += deleted
        await self._execute(self._statements.forget_operator, {"p_operator": cleaned(user_id)})
        return count

    async def create_table(self) -> None:
        """Create the table and its index, unless it exists.

        Raises:
            BackendUnavailable: the database failed or did not answer in time.
        """
        # If another process creates it at the same time, this fails, and the second attempt finds the table.
        create = self._database.call(lambda connection: self.table.create(connection, checkfirst=True))
        await self._database.with_timeout(create)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Check the table at startup. At shutdown, write what waits, and close the connections.

        Raises:
            ImproperlyConfigured: the table is missing, or lacks a column.
        """
        with suppress(BackendUnavailable):  # the database may still be starting
            try:
                await self.list("")
            except UnusableTable:
                raise ImproperlyConfigured(_UNUSABLE) from None
        try:
            yield
        finally:
            await self.finished()
            await self._database.aclose()

    async def finished(self) -> None:
        """Write what waits in this process, if that is possible within the timeout. It does not fail."""
        writer = self._write_soon()
        if writer is not None:
            await asyncio.wait({writer}, timeout=self._timeout)
        await self._others_finished()

    async def _others_finished(self) -> None:
        """Wait for what other event loops are writing: what they have taken waits no more, and is not stored yet."""
        here = running_loop()
        others = [one.ended for loop, one in list(self._writers.items()) if loop is not here and loop.is_running()]
        with move_on_after(self._timeout):
            await asyncio.gather(*(asyncio.wrap_future(one) for one in others if not one.done()))

    def _forget(self, user_id: str) -> None:
        """Remove a user from what waits, as `erase` does from the table."""
        key, name = key_of_user(user_id), cleaned(user_id)
        with self._lock:
            for _ in range(len(self._waiting)):
                row = self._waiting.popleft()
                if row["user_key"] != key:
                    self._waiting.append(row | {"operator": ""} if row["operator"] == name else row)

    def _add(self, what: What, texts: Mapping[str, str]) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._notices.warn(
                "full",
                "The history of sign-ins has lost an entry: %s are waiting already, as the database fails or is slow.",
                _MOST_WAITING,
                every=60,
            )
            return
        now, user = self.clock(), key_of_user(texts["user_id"])
        row: Row = {"id": self._next_number(now), "at": int(now), "what": what.value, "user_key": user}
        self._waiting.append(row | {name: cleaned(texts.get(name, "")) for name in TEXTS})
        try:
            self._write_soon()
        except ImproperlyConfigured:  # an endpoint in a thread; or no event loop, and the next call in one writes it
            with suppress(RuntimeError):
                from_thread.run_sync(self._write_soon)

    def _next_number(self, now: float) -> int:
        number = number_at(int(now * 1000), randbits(COUNTER_BITS - 1))
        with self._lock:
            # What happens at one moment keeps its order. A clock that was ahead, and is right again, begins anew.
            self._last = self._last + 1 if number <= self._last < number + number_at(1000) else number
            return self._last

    def _write_soon(self) -> "asyncio.Task[None] | None":
        """Let a task write what waits, unless one does. Return the task of this event loop, if there is one."""
        loop = running_loop()
        writer = self._writers.get(loop)
        if writer is not None and not writer.task.done():
            return writer.task
        if not self._waiting:
            return None
        for closed in [other for other in list(self._writers) if other.is_closed()]:
            self._writers.pop(closed, None)
        task, ended = loop.create_task(self._write()), Future[None]()
        ended.set_running_or_notify_cancel()  # it is not cancelled with those who wait for it
        task.add_done_callback(lambda _: ended.set_result(None))
        self._writers[loop] = _Writer(task, ended)
        return task

    def _next_rows(self) -> Sequence[Row]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]

    async def _write(self) -> None:
        while rows := self._next_rows():
            work = self._database.call(partial(insert_all, table=self.table, rows=rows))
            try:
                await self._database.with_timeout(work, writes=True)
            except BaseException as error:
                self._waiting.extendleft(reversed(rows))
                if not isinstance(error, BackendUnavailable):
                    raise
                why = _UNUSABLE if isinstance(error, UnusableTable) else error
                self._notices.warn("unwritten", "The history of sign-ins could not be written: %s", why, every=60)
                return

    async def _execute(self, statement: "Executable", parameters: Row) -> Answer:
        try:
            return await self._database.with_timeout(self._database.execute(statement, parameters))
        except UnusableTable:
            raise UnusableTable(_UNUSABLE) from None

    async def _delete(self, some: "Executable", delete: "Executable", found: Row, limit: int) -> int:
        rows = (await self._execute(some, {**found, "p_limit": limit})).rows
        if rows:
            await self._execute(delete, {**found, "p_numbers": [row[0] for row in rows]})
        return len(rows)
