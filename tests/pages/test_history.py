"""The history of sign-ins in each database: what is recorded, read, deleted and exported, and what an outage costs."""

import asyncio
import csv
import io
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.requests import Request

from starsessions import BackendUnavailable, ImproperlyConfigured, InMemoryBackend, SessionBackend, users
from starsessions import history as module
from starsessions.core.history import LONGEST, key_of_user, number_at
from starsessions.events import Created, EndedByOperator, Revoked, SignedIn, SignedOut
from starsessions.history import HistoryEntry, SignInHistory, What, history_table
from starsessions.users import UserSessions
from tests.backends.sql import DATABASES, Database, database
from tests.interrupted import Call, Lock, at_each_line
from tests.rows import rows
from tests.shell.people import sign_in
from tests.site import Clock, Site

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@pytest.fixture(params=list(DATABASES))
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


@asynccontextmanager
async def opened(url: str, clock: Clock) -> AsyncIterator[SignInHistory]:
    """A history with a table of its own, which is dropped afterwards."""
    engine = create_async_engine(url)
    history = SignInHistory(engine, f"h_{secrets.token_hex(8)}", clock=clock, timeout=30)
    await history.create_table()
    async with history.lifespan():
        yield history
    async with engine.begin() as connection:
        await connection.run_sync(history.table.drop)
    await engine.dispose()


@pytest.fixture
async def history(db: Database, clock: Clock) -> AsyncIterator[SignInHistory]:
    async with opened(db.url, clock) as history:
        yield history


@pytest.fixture
async def on_sqlite(tmp_path: Path, clock: Clock) -> AsyncIterator[SignInHistory]:
    """For what does not depend on the database."""
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'history.db'}", clock) as history:
        yield history


def writer_of(history: SignInHistory) -> asyncio.Task[None]:
    """The task that writes in this event loop."""
    return history._writers[asyncio.get_running_loop()].task


def request_from(agent: str = "curl/8", address: tuple[str, int] | None = ("203.0.113.77", 1)) -> Request:
    return Request({"type": "http", "headers": [(b"user-agent", agent.encode())], "client": address})


async def test_a_user_has_a_history_the_newest_entry_first(history: SignInHistory, clock: Clock) -> None:
    began = datetime.fromtimestamp(clock(), UTC)
    history.record(SignedIn("h1", "ann", "password", "Firefox on Linux", "203.0.113.0/24"))
    history.record(SignedOut("h1", "ann", "Firefox on Linux", "203.0.113.0/24"))
    history.record(SignedIn("h2", "eve", "passkey"))
    clock.advance(60)
    history.sign_in_failed(request_from(), "ann", method="password")
    history.record(Revoked("h3", "ann", "Chrome on Android"))
    history.record(EndedByOperator("support", "ann", "", 2))
    history.record(Created("h4"))  # no sign-in, and no end of one
    later = began + timedelta(seconds=60)
    assert await history.list("ann") == [
        HistoryEntry(later, What.BY_OPERATOR, "ann", operator="support"),
        HistoryEntry(later, What.REVOKED, "ann", "h3", "", "Chrome on Android"),
        HistoryEntry(later, What.FAILED, "ann", "", "password", "curl", "203.0.113.0/24"),
        HistoryEntry(began, What.SIGNED_OUT, "ann", "h1", "", "Firefox on Linux", "203.0.113.0/24"),
        HistoryEntry(began, What.SIGNED_IN, "ann", "h1", "password", "Firefox on Linux", "203.0.113.0/24"),
    ]
    assert [one.user_id for one in await history.list(None)] == ["ann", "ann", "ann", "eve", "ann", "ann"]
    with pytest.raises(ValueError, match="1 or more"):
        await history.list("ann", limit=0)


STRANGE = ["Ann", "ann ", "ann\0", "ann\ud800", "Ä", "a" * 400, "a" * 400 + "b", "😀", "'; DROP TABLE h"]


async def test_ids_of_users_are_told_apart_byte_by_byte_whatever_they_contain(history: SignInHistory) -> None:
    for number, user in enumerate(["ann", *STRANGE]):
        history.record(SignedIn(f"h{number}", user, "m" * 1000))
    for number, user in enumerate(["ann", *STRANGE]):
        [entry] = await history.list(user)
        kept = user.replace("\0", "\ufffd").replace("\ud800", "\ufffd")[:LONGEST]
        assert (entry.handle, entry.user_id) == (f"h{number}", kept)


async def test_a_history_is_read_in_pages_in_which_nothing_is_missing(history: SignInHistory) -> None:
    for number in range(1003):
        history.record(SignedIn(f"h{number}", "ann", ""))
    page = await history.list("ann", limit=400)
    read = [*page]
    while page.after is not None:
        page = await history.list("ann", limit=400, after=page.after)
        read += page
    assert [one.handle for one in read] == [f"h{number}" for number in reversed(range(1003))]
    assert [one async for one in history.export("ann")] == read
    assert await history.list("ann", limit=1003) == read
    assert (await history.list("ann", limit=1003)).after is None


@rows("after", ["", "x", "-1", "²", "9" * 19, "9" * 30, "1.5", "0x1", " 1"])
async def test_a_page_that_no_page_has_named_is_the_first(on_sqlite: SignInHistory, after: str) -> None:
    on_sqlite.record(SignedIn("h", "ann", ""))
    assert len(await on_sqlite.list("ann", after=after)) > 0


async def test_old_entries_are_purged_in_batches(history: SignInHistory, clock: Clock) -> None:
    for number in range(5):
        history.record(SignedIn(f"old{number}", "ann", ""))
    await history.finished()
    clock.advance(history.keep_for)
    history.record(SignedIn("new", "ann", ""))
    assert await history.purge() == 0  # it is kept for the whole year
    clock.advance(1)
    assert [await history.purge(2) for _ in range(4)] == [2, 2, 1, 0]
    assert [one.handle for one in await history.list("ann")] == ["new"]


async def test_an_erased_user_leaves_nothing_in_the_table(history: SignInHistory) -> None:
    history.record(EndedByOperator("a-telling-id", "ann", "h", 1))
    for number in range(1001):
        history.record(SignedIn(f"h{number}", "a-telling-id", ""))
    assert await history.erase("a-telling-id") == 1001
    assert await history.erase("a-telling-id") == 0
    engine = history._database._engine
    async with engine.connect() as connection:
        left = (await connection.execute(text(f"SELECT * FROM {history.table.name}"))).all()
    assert "a-telling-id" not in repr(left)
    assert [one.what for one in await history.list("ann")] == [What.BY_OPERATOR]


async def test_failed_sign_ins_are_counted_within_a_time(history: SignInHistory, clock: Clock) -> None:
    history.sign_in_failed(request_from(), "ann")
    history.record(SignedIn("h", "ann", ""))
    clock.advance(600)
    history.sign_in_failed(request_from(address=None), "ann")
    history.sign_in_failed(request_from(), "eve")
    assert await history.failures("ann", within=900) == 2
    assert await history.failures("ann", within=timedelta(seconds=60)) == 1
    assert [one.address for one in await history.list("ann")] == ["", "", "203.0.113.0/24"]


async def test_a_clock_that_was_ahead_for_a_moment_does_not_make_later_entries_recent(
    on_sqlite: SignInHistory, clock: Clock
) -> None:
    clock.advance(86_400)
    on_sqlite.sign_in_failed(request_from(), "eve")
    clock.advance(-86_400)
    on_sqlite.sign_in_failed(request_from(), "ann")
    clock.advance(1000)
    assert await on_sqlite.failures("ann", within=900) == 0


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "\uff1d1", '=HYPERLINK("http://evil.test")']


@rows("text", FORMULAS)
async def test_a_spreadsheet_runs_no_cell_of_the_csv(on_sqlite: SignInHistory, text: str) -> None:
    on_sqlite.record(SignedIn("h", text, text, text, text))
    table = "".join([line async for line in on_sqlite.csv(text)])
    head, row = [*csv.reader(io.StringIO(table, newline=""))]
    assert head == ["at", "what", "user_id", "handle", "method", "agent", "address", "operator"]
    assert row[1:] == ["signed in", f"'{text}", "h", f"'{text}", f"'{text}", f"'{text}", ""]


async def test_the_csv_has_all_users_if_none_is_named(on_sqlite: SignInHistory) -> None:
    on_sqlite.record(SignedIn("h", "ann", ""))
    on_sqlite.record(SignedIn("h", "eve", ""))
    assert len([line async for line in on_sqlite.csv()]) == 3


async def test_it_hears_of_sign_ins_and_of_their_ends_from_the_middleware(
    on_sqlite: SignInHistory, site_of: Callable[..., Site], clock: Clock
) -> None:
    backend: SessionBackend = InMemoryBackend(clock=clock)
    site = site_of(backend=backend, on_event=on_sqlite.record)
    sessions = UserSessions(backend, on_event=on_sqlite.record)
    await site.visit(sign_in("ann", method="password"))
    await site.visit(users.sign_out)
    await site.visit(sign_in("ann"))
    await sessions.revoke_all("ann")
    told = [(one.what, one.method) for one in await on_sqlite.list("ann")]
    assert told == [(What.REVOKED, ""), (What.SIGNED_IN, ""), (What.SIGNED_OUT, ""), (What.SIGNED_IN, "password")]


async def plan(engine: AsyncEngine, statement: Any, parameters: dict[str, Any]) -> str:
    told = statement.params(**parameters).compile(engine.sync_engine, compile_kwargs={"literal_binds": True})
    how = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    async with engine.connect() as connection:
        rows = (await connection.execute(text(f"{how} {told}"))).mappings().all()
    if "possible_keys" in rows[0]:
        return "\n".join(f"{row['type']}|{row['key']}" for row in rows)
    return "\n".join(" ".join(map(str, row.values())) for row in rows)


async def test_a_page_and_a_purge_read_no_more_than_they_return(
    history: SignInHistory, db: Database, clock: Clock
) -> None:
    for number in range(5_000):
        history.record(SignedIn("h", f"user {number % 50}", "password"))
        clock.advance(1)
    await history.finished()
    engine, statements, table = history._database._engine, history._statements, history.table
    async with engine.begin() as connection:
        await connection.execute(text(f"ANALYZE {'TABLE ' if db.name == 'mariadb' else ''}{table.name}"))
    middle = number_at(int((clock() - 4_000) * 1000))
    of_user = {"p_user": key_of_user("user 7"), "p_before": middle, "p_limit": 10}
    old = {"p_before": middle, "p_limit": 10}
    [index] = [index.name for index in table.indexes]
    page = await plan(engine, statements.page_of_user, of_user)
    purge = await plan(engine, statements.some_old, old)
    if db.is_postgres:
        assert f"Index Scan Backward using {index}" in page
        assert f"Index Only Scan using {table.name}_pkey" in purge
        assert "Sort" not in page + purge
    elif db.name == "sqlite":
        assert f"USING INDEX {index} (user_key=? AND id<?)" in page
        assert "SEARCH" in purge
        assert "TEMP B-TREE" not in page + purge
    else:
        assert page == f"range|{index}"
        assert purge == "range|PRIMARY"


# An outage


class Outage:
    """Makes a history's statements fail, or wait, as long as it is in effect."""

    def __init__(self, history: SignInHistory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = True
        self.tries = 0
        call = history._database.call

        async def failing(work: Any) -> Any:
            self.tries += 1
            if self.is_on:
                raise BackendUnavailable("The store failed: for this test.")
            return await call(work)

        monkeypatch.setattr(history._database, "call", failing)


async def test_an_outage_fails_no_request_and_what_it_left_is_written_afterwards(
    on_sqlite: SignInHistory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage(on_sqlite, monkeypatch)
    for number in range(250):
        on_sqlite.record(SignedIn(f"h{number}", "ann", ""))
    await on_sqlite.finished()
    await on_sqlite.finished()
    assert outage.tries == 2  # one for each: it does not go on with what would fail
    with pytest.raises(BackendUnavailable):
        await on_sqlite.list("ann")
    assert [record.message for record in caplog.records] == [
        "The history of sign-ins could not be written: The store failed: for this test."
    ]
    outage.is_on = False
    assert [one.handle for one in await on_sqlite.list("ann", limit=999)] == [f"h{n}" for n in reversed(range(250))]


async def test_the_queue_has_an_end_and_the_log_says_so_once(
    on_sqlite: SignInHistory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 3)
    for number in range(5):
        on_sqlite.record(SignedIn(f"h{number}", "ann", ""))
    assert [one.handle for one in await on_sqlite.list("ann")] == ["h2", "h1", "h0"]
    assert [record.message for record in caplog.records] == [
        "The history of sign-ins has lost an entry: 3 are waiting already, as the database fails or is slow."
    ]


async def test_an_entry_whose_answer_was_lost_is_written_once(
    history: SignInHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, answers = history._database.call, iter([True])

    async def loses_the_first_answer(work: Any) -> Any:
        answer = await call(work)
        if next(answers, False):
            raise BackendUnavailable("The store failed: the answer was lost.")
        return answer

    monkeypatch.setattr(history._database, "call", loses_the_first_answer)
    history.record(SignedIn("h1", "ann", ""))
    await history.finished()
    history.record(SignedIn("h2", "ann", ""))
    assert [one.handle for one in await history.list("ann")] == ["h2", "h1"]


async def test_what_waits_of_an_erased_user_is_not_written_later(
    on_sqlite: SignInHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, failures = on_sqlite._database.call, iter([True])

    async def fails_once(work: Any) -> Any:
        if next(failures, False):
            raise BackendUnavailable("The store failed: for this test.")
        return await call(work)

    monkeypatch.setattr(on_sqlite._database, "call", fails_once)
    for event in (SignedIn("h1", "ann", ""), SignedIn("h2", "eve", ""), EndedByOperator("ann", "eve", "h2", 1)):
        on_sqlite.record(event)
    assert await on_sqlite.erase("ann") == 0
    assert [(one.user_id, one.operator) for one in await on_sqlite.list(None)] == [("eve", ""), ("eve", "")]


async def test_a_database_that_does_not_answer_holds_up_a_page_for_the_timeout_only(
    on_sqlite: SignInHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(on_sqlite._database, "call", lambda work: asyncio.Event().wait())
        patched.setattr(on_sqlite._database, "_timeout", 0.05)
        patched.setattr(on_sqlite, "_timeout", 0.01)
        on_sqlite.record(SignedIn("h", "ann", ""))
        with pytest.raises(BackendUnavailable, match="did not answer"):
            await on_sqlite.list("ann")
    assert len(await on_sqlite.list("ann")) == 1


async def test_a_writer_that_goes_on_for_long_holds_up_a_page_for_the_timeout_only(
    on_sqlite: SignInHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(on_sqlite, "_write", asyncio.Event().wait)
        patched.setattr(on_sqlite, "_timeout", 0.01)
        on_sqlite.record(SignedIn("h", "ann", ""))
        with anyio.fail_after(30):
            assert await on_sqlite.list("ann") == []
    writer = writer_of(on_sqlite)
    writer.cancel()
    with suppress(asyncio.CancelledError):
        await writer
    assert len(await on_sqlite.list("ann")) == 1


def test_what_a_loop_that_ends_has_not_written_is_written_in_the_next_one(tmp_path: Path, clock: Clock) -> None:
    history = SignInHistory(f"sqlite+aiosqlite:///{tmp_path / 'history.db'}", clock=clock)
    history.record(SignedIn("without a loop", "ann", ""))

    async def first() -> None:
        await history.create_table()
        history.record(SignedIn("in the first", "ann", ""))
        # The loop ends here, and cancels the task that would write it.

    async def second() -> list[str]:
        async with history.lifespan():
            return [one.handle for one in await history.list("ann")]

    asyncio.run(first())
    assert asyncio.run(second()) == ["in the first", "without a loop"]


async def test_an_endpoint_in_a_thread_records_as_well(on_sqlite: SignInHistory) -> None:
    await anyio.to_thread.run_sync(on_sqlite.sign_in_failed, request_from(), "ann")
    await writer_of(on_sqlite)  # without waiting for the next event
    assert await on_sqlite.failures("ann", within=60) == 1


def test_endpoints_in_threads_that_record_at_once_have_an_entry_each(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table refuses the second of two entries with one number, as if it were the first, written twice."""
    monkeypatch.setattr(module, "Lock", Lock)
    histories: list[SignInHistory] = []

    def make() -> tuple[Call, Call]:
        histories.append(history := SignInHistory("sqlite+aiosqlite://", clock=clock))

        def record() -> None:
            history.record(SignedIn("h", "ann", ""))

        return record, record

    for _ in at_each_line(make, module):
        assert len({row["id"] for row in histories[-1]._waiting}) == 2


def test_event_loops_that_write_at_once_write_each_entry_once(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def waits(other: Any) -> asyncio.Future[Any]:
        Lock.waits.set()
        return wrap(other)

    wrap = asyncio.wrap_future
    monkeypatch.setattr(asyncio, "wrap_future", waits)
    monkeypatch.setattr(module, "Lock", Lock)
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    history = SignInHistory(f"sqlite+aiosqlite:///{tmp_path / 'history.db'}", clock=clock, timeout=30)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(history.create_table())

        def make() -> tuple[Call, Call]:
            for _ in range(3):
                history.record(SignedIn("h", "ann", ""))
            return lambda: first.run(history.finished()), lambda: second.run(history.finished())

        rounds = [*at_each_line(make, module)]
        assert rounds == [[None, None]] * len(rounds)
        assert len(first.run(history.list("ann", limit=999))) == 3 * (len(rounds) + 1)


class Another:
    """An event loop in a thread of its own, which stops where it writes, until it may go on."""

    def __init__(self, history: SignInHistory, monkeypatch: pytest.MonkeyPatch) -> None:
        self.writes, self.may_go_on, self.is_waited_for = threading.Event(), threading.Event(), threading.Event()
        self.fails = False
        self._history = history
        self._call = history._database.call
        self._wrap = asyncio.wrap_future
        monkeypatch.setattr(history._database, "call", self._stopping)
        monkeypatch.setattr(asyncio, "wrap_future", self._waiting)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    async def _stopping(self, work: Any) -> Any:
        if threading.current_thread() is self._thread:
            self.writes.set()
            self.may_go_on.wait()
            if self.fails:
                raise BackendUnavailable("The store failed: for this test.")
        return await self._call(work)

    def _waiting(self, other: Any) -> asyncio.Future[Any]:
        future = self._wrap(other)
        self.is_waited_for.set()
        return future

    async def _run(self) -> None:
        self._history.record(SignedIn("h", "ann", ""))
        await self._history.finished()
        await self._history._database.aclose()

    def begin(self) -> None:
        self._thread.start()
        self.writes.wait()

    async def goes_on_during(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of work that waits for this one."""
        task = asyncio.create_task(work)
        while not self.is_waited_for.is_set():
            assert not task.done(), "it does not wait for the other"
            await asyncio.sleep(0)
        self.may_go_on.set()
        return await task

    def __enter__(self) -> "Another":
        return self

    def __exit__(self, *error: object) -> None:
        self.may_go_on.set()
        self._thread.join()


@rows("fails", [False, True])
@rows("begins", ["before", "when the others have been waited for"])
async def test_what_another_event_loop_is_writing_of_an_erased_user_is_erased(
    on_sqlite: SignInHistory, monkeypatch: pytest.MonkeyPatch, fails: bool, begins: str
) -> None:
    others_finished = on_sqlite._others_finished

    async def late() -> None:
        patched.setattr(on_sqlite, "_others_finished", others_finished)
        await others_finished()
        other.begin()

    with monkeypatch.context() as patched, Another(on_sqlite, patched) as other:
        other.fails = fails
        if begins == "before":
            other.begin()
        else:
            patched.setattr(on_sqlite, "_others_finished", late)
        on_sqlite.record(SignedIn("h2", "eve", ""))  # this event loop writes as well
        assert await other.goes_on_during(on_sqlite.erase("ann")) == (not fails)
    assert [one.user_id for one in await on_sqlite.list(None)] == ["eve"]
    assert await on_sqlite.erase("eve") == 1


async def test_a_page_has_what_another_event_loop_was_writing(
    on_sqlite: SignInHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, Another(on_sqlite, patched) as other:
        other.begin()
        assert [one.handle for one in await other.goes_on_during(on_sqlite.list("ann"))] == ["h"]


async def test_an_event_loop_that_writes_for_long_holds_up_a_page_of_another_for_the_timeout_only(
    on_sqlite: SignInHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched, Another(on_sqlite, patched) as other:
        other.begin()
        patched.setattr(on_sqlite, "_timeout", 0.01)
        assert await on_sqlite.list("ann") == []
    assert len(await on_sqlite.list("ann")) == 1


async def test_an_event_loop_that_was_stopped_while_it_wrote_is_not_waited_for(
    on_sqlite: SignInHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin() -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        loop.call_soon(on_sqlite.record, SignedIn("h", "ann", ""))
        loop.call_soon(loop.stop)
        loop.run_forever()
        return loop

    monkeypatch.setattr(asyncio, "wrap_future", None)
    loop = await asyncio.to_thread(begin)
    assert len(await on_sqlite.list("ann")) == 1
    assert loop in on_sqlite._writers
    await asyncio.to_thread(loop.run_until_complete, on_sqlite._writers[loop].task)
    loop.close()
    on_sqlite.record(SignedIn("h2", "ann", ""))
    assert len(await on_sqlite.list("ann")) == 2
    assert loop not in on_sqlite._writers


# The table


async def test_a_missing_table_fails_the_startup_and_an_absent_database_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    history = SignInHistory(f"sqlite+aiosqlite:///{tmp_path / 'history.db'}")
    with pytest.raises(ImproperlyConfigured, match=r"await history\.create_table\(\)"):
        async with history.lifespan():
            raise AssertionError
    history.record(SignedIn("h", "ann", ""))
    await history.finished()
    assert "await history.create_table()" in caplog.text
    absent = SignInHistory(f"sqlite+aiosqlite:///{tmp_path / 'missing' / 'history.db'}")
    async with absent.lifespan():
        pass


def test_the_table_belongs_to_the_metadata_and_is_made_once() -> None:
    metadata = MetaData(schema="app")
    table = history_table(metadata, "sign_ins")
    assert history_table(metadata, "sign_ins") is table
    assert history_table(None, "other.sign_ins").fullname == "other.sign_ins"
    assert SignInHistory("sqlite+aiosqlite://", "sign_ins", metadata=metadata).metadata is metadata
