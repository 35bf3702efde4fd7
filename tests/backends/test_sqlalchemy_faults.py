"""Databases that fail: each operation ends in time, with the truth or with `BackendUnavailable`; the next one works."""

import asyncio
import contextlib
import random
import re
import secrets
import sqlite3
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from anyio import move_on_after
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from starsessions import BackendUnavailable
from starsessions.backends.sqlalchemy import SQLAlchemyBackend, SQLAlchemyStore
from starsessions.stores.base import Conflict, Cursor, Entry, Owner
from starsessions.stores.sqlalchemy.connection import MAX_ATTEMPTS, MOST_CONNECTIONS
from tests.backends.proxy import proxy
from tests.backends.sql import DATABASES, NOW, Database, database, opened, pool_of, until
from tests.servers import mariadb, postgres
from tests.servers.process import Address, Server

pytestmark = pytest.mark.anyio

SERVERS: dict[str, Callable[..., AbstractContextManager[Server]]] = {
    "postgres-asyncpg": postgres.server,
    "postgres-psycopg": postgres.server,
    "mariadb": mariadb.server,
}
LOCKS = [name for name in DATABASES if name != "sqlite"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=list(DATABASES))
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


@pytest.fixture(params=LOCKS)
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """A server that others use as well."""
    return database(request.param, request, tmp_path)


@dataclass
class Own:
    """A server of a test's own."""

    name: str
    server: Server

    @property
    def address(self) -> Address:
        return self.server.address

    @property
    def url(self) -> str:
        url = self.address.over(DATABASES[self.name][1])
        # Otherwise asyncpg first asks for TLS, and if it is cancelled there, it leaves a future behind whose error
        # asyncio reports at some later time, as the failure of whichever test is running.
        return f"{url}?ssl=disable" if self.name == "postgres-asyncpg" else url


@pytest.fixture(params=list(SERVERS))
def own(request: pytest.FixtureRequest) -> Iterator[Own]:
    with SERVERS[request.param]() as server:
        yield Own(request.param, server)


@contextlib.asynccontextmanager
async def lock(backend: SQLAlchemyBackend, url: str, key: str) -> AsyncIterator[None]:
    """Another transaction has changed a row and not committed yet."""
    other = create_async_engine(url)
    async with other.connect() as connection:
        where = backend.table.c.key == key
        await connection.execute(select(backend.table).where(where).with_for_update())
        yield
        await connection.rollback()
    await other.dispose()


async def works(store: SQLAlchemyStore) -> None:
    """Each of the verbs, once."""
    key = secrets.token_hex(8)
    owner = Owner(key, NOW)
    version = await store.create(key, b"1", expires_at=NOW + 9, now=NOW, owner=owner)
    version = await store.replace(key, b"2", version, expires_at=NOW + 9, now=NOW, owner=owner)
    assert await store.get(key, now=NOW) == (b"2", NOW + 9, version)
    assert await store.list_owned(key, limit=1, now=NOW) == ([(key, (b"2", NOW + 9, version))], None)
    assert await store.delete(key, version, now=NOW) is True
    assert await store.count_owned(key, most=1000, now=NOW) == 0


HANGS = 120  # seconds: no judgement, only an end


async def fails(work: Awaitable[Any]) -> BackendUnavailable:
    """How it fails. That it ends at all shows that it waits for no longer than it may: the other side never answers."""
    async with asyncio.timeout(HANGS):
        with pytest.raises(BackendUnavailable) as failure:
            await work
    return failure.value


# Servers that end and come back


@pytest.mark.guarantee(20)
async def test_a_restarted_server_is_found_again_by_the_first_request(own: Own) -> None:
    """All connections in the pool are dead, and have not been checked. Reads and writes get through."""
    async with opened(own.url) as backend:
        store = backend.store
        version = await store.create("key", b"1", expires_at=NOW + 9, now=NOW)
        doomed = await store.create("doomed", b"1", expires_at=NOW + 9, now=NOW)

        async def next_request(work: Callable[[], Awaitable[Any]]) -> Any:
            await asyncio.gather(*(store.get("key", now=NOW) for _ in range(5)))  # fill the pool
            own.server.restart()
            return await work()

        assert await next_request(lambda: store.get("key", now=NOW)) == (b"1", NOW + 9, version)
        version = await next_request(lambda: store.replace("key", b"2", version, expires_at=NOW + 9, now=NOW))
        assert await store.get("key", now=NOW) == (b"2", NOW + 9, version)
        assert await next_request(lambda: store.delete("doomed", doomed, now=NOW)) is True
        await next_request(lambda: asyncio.gather(*(works(store) for _ in range(10))))


async def test_requests_fail_at_once_while_the_server_is_down_and_work_when_it_is_up(own: Own) -> None:
    async with opened(own.url) as backend:
        await works(backend.store)
        own.server.stop()
        for _ in range(2):
            for verb in (
                backend.store.get("key", now=NOW),
                backend.store.create("key", b"", expires_at=NOW + 9, now=NOW),
                backend.store.replace("key", b"", 1, expires_at=NOW + 9, now=NOW),
                backend.store.delete("key", now=NOW),
                backend.store.sweep(10, now=NOW),
                backend.store.list_owned("ann", limit=1, now=NOW),
                backend.store.count_owned("ann", most=1000, now=NOW),
                backend.store.time(),
                backend.create_table(),
            ):
                await fails(verb)
        own.server.start()
        await works(backend.store)


@pytest.mark.guarantee(20)
async def test_a_paused_server_costs_a_request_its_time_and_no_connection(own: Own) -> None:
    async with opened(own.url, timeout=30) as backend:
        store = backend.store
        await works(store)
        store._database._timeout = 0.3
        with own.server.paused():
            await fails(store.get("key", now=NOW))
            verbs: list[Awaitable[Any]] = [store.get(f"key-{n}", now=NOW) for n in range(10)]
            verbs += [
                store.list_owned("ann", limit=1, now=NOW),
                store.count_owned("ann", most=1000, now=NOW),
                store.time(),
            ]
            verbs += [store.create(f"key-{n}", b"", expires_at=NOW + 9, now=NOW) for n in range(10)]
            await asyncio.gather(*(fails(verb) for verb in verbs))
        await store.finished()
        store._database._timeout = 30
        await asyncio.gather(*(works(store) for _ in range(10)))
        assert pool_of(backend).checkedout() == 0


@pytest.mark.guarantee(20)
async def test_connections_that_have_fallen_silent_are_replaced(shared: Database) -> None:
    """The network has lost them, and nothing says so."""
    found = re.search(r"@127\.0\.0\.1:(\d+)/", shared.url)
    assert found, "the server belongs to another program"
    async with proxy(int(found[1])) as between, opened(shared.url.replace(found[1], str(between.port))) as backend:
        store = backend.store
        await asyncio.gather(*(works(store) for _ in range(30)))
        store._database._timeout = 0.3
        between.flows.clear()
        await asyncio.gather(*(fails(store.get(f"key-{n}", now=NOW)) for n in range(30)))
        between.silence()
        store._database._timeout = 30
        await asyncio.gather(*(works(store) for _ in range(30)))
        await store.finished()
        assert pool_of(backend).checkedout() == 0


async def test_a_driver_that_waits_while_it_is_cancelled_is_cancelled_again(tmp_path: Path) -> None:
    """As psycopg does, for the end of its statement: if that never comes, the place of the connection is lost."""

    async def waits() -> None:
        for _ in range(2):
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await asyncio.Event().wait()

    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}") as backend:
        database = backend.store._database
        database._timeout = 0.01
        await fails(database.with_timeout(waits()))
        with move_on_after(0.005):
            await database.with_timeout(waits(), writes=True)
        async with asyncio.timeout(HANGS):
            await backend.store.finished()


@dataclass
class Diary:
    """What one writer was told about its session."""

    key: str
    tried: int = 0
    confirmed: int = 0
    is_ended: bool = False
    failures: int = 0


@pytest.mark.guarantee(20)
@pytest.mark.parametrize(
    "name", ["postgres-asyncpg", "mariadb", pytest.param("postgres-psycopg", marks=pytest.mark.wide)]
)
async def test_after_kill_9_every_confirmed_change_is_there_and_no_ended_session_lives(name: str) -> None:
    with SERVERS[name](durable=True) as server:
        async with opened(Own(name, server).url) as backend:
            store, chance = backend.store, random.Random(name)
            diaries = [Diary(f"key-{n}") for n in range(16)]
            going = True

            async def write(diary: Diary) -> None:
                """One session after another is begun, changed and ended; each number is written once."""
                entry: Entry | None = None
                while going:
                    try:
                        if diary.is_ended:
                            assert await store.get(diary.key, now=NOW) is None
                            diary.key, diary.is_ended = f"key-{secrets.token_hex(8)}", False
                            entry = None
                        if diary.confirmed and chance.random() < 0.1:
                            await store.delete(diary.key, now=NOW)
                            diary.is_ended = True
                            ended.append(diary.key)
                            diary.confirmed = 0
                            continue
                        diary.tried += 1
                        value = b"%d" % diary.tried
                        if entry is None:
                            version = await store.create(diary.key, value, expires_at=NOW + 9, now=NOW, owner=ann)
                        else:
                            version = await store.replace(
                                diary.key, value, entry.version, expires_at=NOW + 9, now=NOW, owner=ann
                            )
                        entry, diary.confirmed = Entry(value, NOW + 9, version), diary.tried
                    except (BackendUnavailable, Conflict):
                        diary.failures += 1
                        await asyncio.sleep(0.01)
                        with contextlib.suppress(BackendUnavailable):
                            entry = await store.get(diary.key, now=NOW)

            async def tried(more: int) -> None:
                target = sum(diary.tried for diary in diaries) + more
                await until(lambda: sum(diary.tried for diary in diaries) >= target)

            ended: list[str] = []
            ann = Owner("ann", NOW)
            writers = [asyncio.create_task(write(diary)) for diary in diaries]
            for _ in range(3):
                await tried(150)
                await asyncio.to_thread(server.kill)
                await tried(32)
                await asyncio.to_thread(server.start)
            await tried(300)
            going = False
            await asyncio.gather(*writers)

            listed = dict((await store.list_owned("ann", limit=100, now=NOW)).entries)
            for diary in diaries:
                entry = await store.get(diary.key, now=NOW)
                assert listed.pop(diary.key, None) == entry
                if diary.confirmed:
                    assert entry is not None
                    assert diary.confirmed <= int(entry.value) <= diary.tried
            for key in ended:
                assert await store.get(key, now=NOW) is None
            assert not listed.keys() & set(ended)
            assert any(diary.failures for diary in diaries)
            assert len(ended) > 10
            await asyncio.gather(*(works(store) for _ in range(20)))


# Connections that end in the middle


@dataclass
class Proxy:
    """Passes bytes on to a server. Once armed, it swallows the next answer, and cuts the connection."""

    port: int
    on_cut: Callable[[], Awaitable[Any]] | None = None
    is_armed: bool = False
    cuts: int = 0
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        their_reader, their_writer = await asyncio.open_connection("127.0.0.1", self.port)

        async def answers() -> None:
            while data := await their_reader.read(65536):
                if self.is_armed:
                    self.is_armed = False
                    self.cuts += 1
                    if self.on_cut is not None:
                        await self.on_cut()
                    break
                writer.write(data)

        async def questions() -> None:
            while data := await reader.read(65536):
                their_writer.write(data)

        tasks = [asyncio.create_task(answers()), asyncio.create_task(questions())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for one in (writer, their_writer):
            one.close()
            with contextlib.suppress(OSError):
                await one.wait_closed()


@contextlib.asynccontextmanager
async def behind_proxy(shared: Database) -> AsyncIterator[tuple[SQLAlchemyBackend, SQLAlchemyStore, Proxy]]:
    """The backend speaks to the server through the proxy; the second store directly."""
    found = re.search(r"@127\.0\.0\.1:(\d+)/", shared.url)
    assert found, "the server belongs to another program"
    proxy = Proxy(int(found[1]))
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with opened(shared.url) as direct:
        url = shared.url.replace(f":{found[1]}/", f":{port}/")
        backend = SQLAlchemyBackend(url, direct.table.name, timeout=30)
        await works(backend.store)
        yield backend, direct.store, proxy
        await backend.store.aclose()
    server.close()
    await server.wait_closed()


@pytest.mark.guarantee(20)
async def test_a_write_whose_reply_was_lost_is_recognised(shared: Database) -> None:
    async with behind_proxy(shared) as (backend, direct, proxy):
        store, version = backend.store, None
        for n in range(3):
            proxy.is_armed = True
            ann = Owner("ann", NOW + n)
            if n == 0:
                version = await store.create("key", b"0", expires_at=NOW + 9, now=NOW, owner=ann)
            else:
                version = await store.replace("key", b"%d" % n, version, expires_at=NOW + 9, now=NOW, owner=ann)
            found = ("key", (b"%d" % n, NOW + 9, version))
            assert await direct.list_owned("ann", limit=9, now=NOW, after=Cursor(NOW + n, "z")) == ([found], None)
        proxy.is_armed = True  # and in place of an expired entry
        version = await store.create("key", b"again", expires_at=NOW + 99, now=NOW + 9, owner=Owner("bob", NOW))
        assert await direct.get("key", now=NOW + 9) == (b"again", NOW + 99, version)
        assert [await direct.count_owned(name, most=1000, now=NOW + 9) for name in ("ann", "bob")] == [0, 1]
        proxy.is_armed = True
        assert await store.delete("key", version, now=NOW + 9) is True
        assert await direct.get("key", now=NOW + 9) is None
        versions = [(f"key-{n}", await direct.create(f"key-{n}", b"", expires_at=NOW + 9, now=NOW)) for n in range(9)]
        proxy.is_armed = True
        deletes = (store.delete(key, version, now=0) for key, version in versions)
        assert await asyncio.gather(*deletes) == [True] * 9
        assert proxy.cuts == 6


async def test_a_read_whose_answer_was_lost_is_repeated(shared: Database) -> None:
    async with behind_proxy(shared) as (backend, direct, proxy):
        version = await direct.create("key", b"1", expires_at=NOW + 9, now=NOW, owner=Owner("ann", NOW))
        proxy.is_armed = True
        assert await backend.store.get("key", now=NOW) == (b"1", NOW + 9, version)
        proxy.is_armed = True
        assert len((await backend.store.list_owned("ann", limit=9, now=NOW)).entries) == 1
        proxy.is_armed = True
        assert await backend.store.count_owned("ann", most=1000, now=NOW) == 1
        assert proxy.cuts == 3


async def test_a_lost_reply_with_an_unknown_result_raises(shared: Database) -> None:
    """The write was carried out, and another request built on it: repeating it would count it twice."""
    async with behind_proxy(shared) as (backend, direct, proxy):

        async def build_on_it() -> None:
            entry = await direct.get("key", now=NOW)
            assert entry is not None
            assert entry.value == b"first"
            await direct.replace("key", entry.value + b" and second", entry.version, expires_at=NOW + 9, now=NOW)

        version = await direct.create("key", b"1", expires_at=NOW + 9, now=NOW)
        proxy.is_armed, proxy.on_cut = True, build_on_it
        with pytest.raises(BackendUnavailable, match="unknown"):
            await backend.store.replace("key", b"first", version, expires_at=NOW + 9, now=NOW)
        entry = await direct.get("key", now=NOW)
        assert entry is not None
        assert entry.value == b"first and second"


async def test_a_lost_reply_does_not_bring_back_a_deleted_entry(shared: Database) -> None:
    async with behind_proxy(shared) as (backend, direct, proxy):
        version = await direct.create("key", b"1", expires_at=NOW + 9, now=NOW)
        proxy.is_armed, proxy.on_cut = True, lambda: direct.delete("key", now=NOW)
        with pytest.raises(Conflict) as refused:
            await backend.store.replace("key", b"first", version, expires_at=NOW + 9, now=NOW)
        assert refused.value.current is None
        assert await direct.get("key", now=NOW) is None


# Cancelled requests


async def test_work_that_ends_in_the_turn_of_the_limit_has_succeeded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where something has blocked the event loop for longer than the limit, the answer arrives together with it."""
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}", timeout=30) as backend:
        loop, waiting = asyncio.get_running_loop(), asyncio.Event()
        goes_on = loop.create_future()

        async def waits() -> str:
            loop.call_later(20, goes_on.set_result, "the answer")  # before the timeout
            waiting.set()
            answer: str = await goes_on
            return answer

        request = asyncio.create_task(backend.store._database.with_timeout(waits()))
        await waiting.wait()
        now = loop.time
        monkeypatch.setattr(loop, "time", lambda: now() + 60)
        assert await request == "the answer"


@pytest.mark.guarantee(20)
async def test_cancelled_requests_leak_and_poison_no_connection(db: Database) -> None:
    """Cancelled at every stage, with and without a connection at hand, and some of them twice."""
    async with opened(create_async_engine(db.url, pool_size=2, max_overflow=1), timeout=30) as backend:
        store, chance = backend.store, random.Random(1)
        await works(store)
        for round_ in range(60):
            tasks = [asyncio.create_task(works(store)) for _ in range(5)]
            for _ in range(round_):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
                if chance.random() < 0.5:
                    await asyncio.sleep(0)
                    task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(outcome is None or isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        await asyncio.gather(*(works(store) for _ in range(10)))
        await store.finished()
        assert pool_of(backend).checkedout() == 0
        if db.is_postgres:
            async with backend.engine.connect() as connection:
                mine = text("SELECT count(*) FROM pg_stat_activity WHERE query LIKE :table")
                assert (await connection.execute(mine, {"table": f"%{backend.table.name}%"})).scalar_one() <= 3


async def test_a_cancelled_write_ends_before_its_request_continues(shared: Database) -> None:
    async with opened(shared.url, timeout=30) as backend:
        store = backend.store
        version = await store.create("key", b"1", expires_at=NOW + 9, now=NOW)
        async with lock(backend, shared.url, "key"):
            writer = asyncio.create_task(store.replace("key", b"2", version, expires_at=NOW + 9, now=NOW))
            await asyncio.sleep(0.05)
            writer.cancel()
            await asyncio.sleep(0.05)
            assert not writer.done()
        with pytest.raises(asyncio.CancelledError):
            await writer
        entry = await store.get("key", now=NOW)
        assert entry is not None
        assert entry.value == b"2"


async def test_a_read_that_is_cancelled_waits_for_nothing(db: Database) -> None:
    async with opened(create_async_engine(db.url, pool_size=1), timeout=30) as backend:
        async with backend.store._database._local.get().free:  # another read has the only connection
            reader = asyncio.create_task(backend.store.get("key", now=NOW))
            await asyncio.sleep(0.01)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
        await works(backend.store)


async def test_a_write_that_is_cancelled_ends_in_time(shared: Database) -> None:
    async with opened(shared.url) as backend:
        version = await backend.store.create("key", b"1", expires_at=NOW + 9, now=NOW)
        backend.store._database._timeout = 0.3
        async with lock(backend, shared.url, "key"):
            writer = asyncio.create_task(backend.store.replace("key", b"2", version, expires_at=NOW + 9, now=NOW))
            await asyncio.sleep(0.05)
            writer.cancel()
            async with asyncio.timeout(HANGS):
                with pytest.raises(asyncio.CancelledError):
                    await writer
            await backend.store.finished()
        backend.store._database._timeout = 30
        await works(backend.store)


async def test_work_that_is_ended_with_the_event_loop_ends_its_request(shared: Database) -> None:
    """As `asyncio.run` does at its end: all tasks are cancelled, in any order."""
    async with opened(shared.url, timeout=30) as backend:
        version = await backend.store.create("key", b"1", expires_at=NOW + 9, now=NOW)
        async with lock(backend, shared.url, "key"):
            before = asyncio.all_tasks()
            request = asyncio.create_task(backend.store.replace("key", b"2", version, expires_at=NOW + 9, now=NOW))
            await asyncio.sleep(0.05)
            for task in asyncio.all_tasks() - before - {request}:
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
        await works(backend.store)


# Locks, deadlocks, and what else passes by itself


async def test_serialization_failures_are_tried_again(postgres_server: Address) -> None:
    """A server whose transactions are serializable fails some of them, and says so with 40001."""
    engine = create_async_engine(
        postgres_server.over("asyncpg"),
        connect_args={"server_settings": {"default_transaction_isolation": "serializable"}},
    )
    async with opened(engine, timeout=30) as backend:
        store = backend.store
        version = await store.create("key", b"", expires_at=NOW + 9, now=NOW)
        for _ in range(10):
            outcomes = await asyncio.gather(
                *(store.replace("key", b"", version, expires_at=NOW + 9, now=NOW) for _ in range(4)),
                return_exceptions=True,
            )
            [version] = [outcome for outcome in outcomes if isinstance(outcome, int)]
            assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 3


async def test_a_lock_timeout_is_retried_a_limited_number_of_times(mariadb_server: Address) -> None:
    engine = create_async_engine(mariadb_server.over("asyncmy"), isolation_level="AUTOCOMMIT")

    @event.listens_for(engine.sync_engine, "connect")
    def impatient(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("SET innodb_lock_wait_timeout = 0")
        cursor.close()

    async with opened(engine, timeout=30) as backend:
        version = await backend.store.create("key", b"1", expires_at=NOW + 9, now=NOW)
        async with lock(backend, mariadb_server.over("asyncmy"), "key"):
            failure = await fails(backend.store.replace("key", b"2", version, expires_at=NOW + 9, now=NOW))
            assert "1205" in str(failure.__cause__)
            writer = asyncio.create_task(backend.store.replace("key", b"2", version, expires_at=NOW + 9, now=NOW))
            await asyncio.sleep(0.01)
        await writer


async def test_sqlite_waits_for_another_writer_and_fails_in_time(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with opened(f"sqlite+aiosqlite:///{path}", timeout=30) as backend:
        hasty = SQLAlchemyBackend(backend.engine.url, backend.table.name, timeout=1)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            writer = asyncio.create_task(backend.store.create("key", b"", expires_at=NOW + 9, now=NOW))
            await asyncio.sleep(0.7)  # longer than all attempts take if SQLite itself does not wait
            assert not writer.done()
            other.execute("COMMIT")
            await writer
            other.execute("BEGIN IMMEDIATE")
            await fails(hasty.store.create("other", b"", expires_at=NOW + 9, now=NOW))
            other.execute("COMMIT")
        await hasty.store.finished()
        await works(backend.store)
        await hasty.store.aclose()


async def test_deadlocks_are_retried_a_limited_number_of_times(tmp_path: Path) -> None:
    """SQLite at its most impatient says that it is busy, each time at once."""
    path = tmp_path / "sessions.db"
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", connect_args={"timeout": 0})
    attempts = []
    async with opened(engine, timeout=30) as backend:
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *args: attempts.append(args[2]))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await fails(backend.store.create("key", b"", expires_at=NOW + 9, now=NOW))
            other.execute("COMMIT")
        assert len(attempts) == MAX_ATTEMPTS


# Databases that do not do what they are asked


async def test_a_replica_serves_reads_and_a_write_looks_for_the_primary_again(shared: Database) -> None:
    async with opened(shared.url) as writable:
        version = await writable.store.create("key", b"1", expires_at=NOW + 9, now=NOW)
        engine = create_async_engine(shared.url)
        is_replica, connections = True, []

        @event.listens_for(engine.sync_engine, "connect")
        def connect(connection: Any, record: Any) -> None:
            connections.append(connection)
            cursor = connection.cursor()
            if is_replica:
                read_only = (
                    "CHARACTERISTICS AS TRANSACTION READ ONLY" if shared.is_postgres else "TRANSACTION READ ONLY"
                )
                cursor.execute(f"SET SESSION {read_only}")
            cursor.close()
            connection.commit()

        backend, other = (SQLAlchemyBackend(engine, name, timeout=30) for name in (writable.table.name, "new_table"))
        assert await backend.store.get("key", now=NOW) == (b"1", NOW + 9, version)
        for verb in (
            backend.store.create("new", b"", expires_at=NOW + 9, now=NOW),
            backend.store.replace("key", b"", version, expires_at=NOW + 9, now=NOW),
            backend.store.delete("key", now=NOW),
            other.create_table(),
        ):
            await fails(verb)
        assert await backend.store.get("key", now=NOW) == (b"1", NOW + 9, version)
        # One for the first read and the first attempt to write, one for each other attempt, and one for the last read.
        assert len(connections) == 9
        is_replica = False
        await works(backend.store)
        await asyncio.gather(backend.store.aclose(), other.store.aclose())


async def test_a_file_that_may_only_be_read_serves_reads(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with opened(f"sqlite+aiosqlite:///{path}") as writable:
        version = await writable.store.create("key", b"1", expires_at=NOW + 9, now=NOW)
        url = f"sqlite+aiosqlite:///file:{path}?mode=ro&uri=true"
        backend = SQLAlchemyBackend(url, writable.table.name, timeout=30)
        assert await backend.store.get("key", now=NOW) == (b"1", NOW + 9, version)
        await fails(backend.store.create("new", b"", expires_at=NOW + 9, now=NOW))
        assert await backend.store.get("key", now=NOW) == (b"1", NOW + 9, version)
        await backend.store.aclose()


@pytest.mark.guarantee(20)
async def test_a_full_disk_leaves_no_partial_write(tmp_path: Path) -> None:
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}") as backend:
        store = backend.store
        version = await store.create("key", b"1", expires_at=NOW + 9, now=NOW)

        @event.listens_for(pool_of(backend), "checkout")
        def fill(connection: Any, record: Any, proxy: Any) -> None:
            cursor = connection.cursor()
            cursor.execute("PRAGMA max_page_count = 1")  # SQLite makes of it what it has already
            cursor.close()

        large = secrets.token_bytes(50_000)
        for write in (
            store.create("new", large, expires_at=NOW + 9, now=NOW),
            store.replace("key", large, version, expires_at=NOW + 9, now=NOW),
        ):
            failure = await fails(write)
            assert "full" in str(failure.__cause__)
        assert await store.get("key", now=NOW) == (b"1", NOW + 9, version)
        assert await store.get("new", now=NOW) is None
        event.remove(pool_of(backend), "checkout", fill)


async def test_prepared_statements_behind_a_pooler_are_named_with_their_cure(postgres_server: Address) -> None:
    """As behind PgBouncer in transaction mode, the connection has statements that another client has prepared."""
    engine = create_async_engine(postgres_server.over("psycopg"))

    @event.listens_for(engine.sync_engine, "connect")
    def as_if_used_before(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        for n in range(20):
            cursor.execute(f"PREPARE _pg3_{n} AS SELECT 1")
        cursor.close()
        connection.commit()

    async with opened(engine) as backend:

        async def visits() -> None:
            for n in range(20):  # psycopg prepares what it has executed a few times
                await backend.store.create(f"key-{n}", b"", expires_at=NOW + 9, now=NOW)

        assert re.search("PgBouncer.*prepare_threshold.*statement_cache_size", str(await fails(visits())))


async def test_a_dropped_table_is_a_failure_and_not_an_empty_session(db: Database) -> None:
    async with opened(db.url) as backend:
        session_id = await backend.write({"user": "ann"})
        async with backend.engine.begin() as connection:
            await connection.run_sync(backend.table.drop)
        for verb in (
            backend.read(session_id),
            backend.write({"n": 1}),
            backend.remove(session_id),
            backend.store.list_owned("ann", limit=1, now=NOW),
            backend.store.count_owned("ann", most=1000, now=NOW),
        ):
            await fails(verb)
        await backend.create_table()
        assert await backend.read(session_id) == {}
        await works(backend.store)


async def test_a_table_that_was_altered_since_is_used_as_it_is_now(db: Database) -> None:
    """Statements that were prepared before have to be prepared again."""
    async with opened(db.url) as backend:
        version = await backend.store.create("key", b"1", expires_at=NOW + 9, now=NOW)
        assert await backend.store.get("key", now=NOW) == (b"1", NOW + 9, version)
        other = create_async_engine(db.url)
        async with other.begin() as connection:
            await connection.execute(text(f"ALTER TABLE {backend.table.name} ADD COLUMN note VARCHAR(9)"))
            if db.is_postgres:
                await connection.execute(text(f"ALTER TABLE {backend.table.name} ALTER COLUMN expires_at TYPE NUMERIC"))
        await other.dispose()
        assert await backend.store.get("key", now=NOW) == (b"1", NOW + 9, version)
        await works(backend.store)


async def test_the_sessions_open_no_more_connections_than_the_pool_has_and_wait_for_them_in_time(db: Database) -> None:
    engine = create_async_engine(db.url, pool_size=2, max_overflow=8)
    async with opened(engine, timeout=30) as backend:
        store, connections = backend.store, []
        event.listen(pool_of(backend), "connect", lambda *args: connections.append(1))
        await asyncio.gather(*(works(store) for _ in range(10)))
        assert len(connections) == 1  # and the one of create_table()
        store._database._timeout = 0.2
        async with store._database._local.get().free, store._database._local.get().free:
            await asyncio.gather(*(fails(store.get("key", now=NOW)) for _ in range(5)))
        store._database._timeout = 30
        await works(store)


async def test_connections_that_many_requests_at_once_have_opened_are_used_by_the_next(db: Database) -> None:
    """To open one takes much longer than to read a session."""
    async with opened(db.url, timeout=30) as backend:
        connections: list[int] = []
        event.listen(pool_of(backend), "connect", lambda *args: connections.append(1))
        for _ in range(3):
            await asyncio.gather(*(backend.store.get("key", now=NOW) for _ in range(20)))
        assert len(connections) < MOST_CONNECTIONS  # and the one of create_table()
        used = set()
        event.listen(pool_of(backend), "checkout", lambda connection, *args: used.add(id(connection)))
        await works(backend.store)
        assert len(used) == 1  # the one that was used last, since its server process is the fastest


async def test_a_connection_that_a_firewall_may_have_forgotten_is_not_used(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(db.url, timeout=30) as backend:
        connections: list[int] = []
        event.listen(pool_of(backend), "connect", lambda *args: connections.append(1))
        await works(backend.store)
        assert connections == []  # that of create_table()
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 600)
        await works(backend.store)
        assert connections == [1]


@pytest.mark.parametrize("error", [OSError("network"), ValueError("a bug of a driver")])
async def test_a_connection_in_an_unknown_state_is_not_reused(error: Exception, tmp_path: Path) -> None:
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}") as backend:
        fresh = []
        event.listen(pool_of(backend), "connect", lambda *args: fresh.append(1))
        failures = [error, error]

        def fail(*args: Any) -> None:
            if failures:
                raise failures.pop()

        event.listen(backend.engine.sync_engine, "before_cursor_execute", fail)
        failure = await fails(backend.store.get("key", now=NOW))
        assert type(error).__name__ in str(failure)
        await works(backend.store)
        assert len(fresh) == 2  # the second attempt, and what came after it


# What errors show


def said(failure: BaseException) -> str:
    """All that a log could show of an error, local variables excepted."""
    links: list[BaseException] = []
    link: BaseException | None = failure
    while link is not None:
        links.append(link)
        link = link.__cause__ or link.__context__
    return "".join(traceback.format_exception(failure)) + repr(links) + "".join(map(str, links))


@pytest.mark.parametrize("name", list(DATABASES))
async def test_no_error_shows_a_key_or_a_value(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    db, key, value = database(name, request, tmp_path), "SECRET-KEY", b"SECRET-VALUE"
    owner = Owner("SECRET-OWNER", NOW)
    async with opened(create_async_engine(db.url)) as backend:  # one that does not hide parameters
        store = backend.store
        version = await store.create(key, value, expires_at=NOW + 9, now=NOW)
        with pytest.raises(Conflict) as refused:
            await store.create(key, value, expires_at=NOW + 9, now=NOW)
        async with backend.engine.begin() as connection:
            await connection.run_sync(backend.table.drop)
        failures = [
            refused.value,
            await fails(store.get(key, now=NOW)),
            await fails(store.create(key, value, expires_at=NOW + 9, now=NOW, owner=owner)),
            await fails(store.replace(key, value, version, expires_at=NOW + 9, now=NOW, owner=owner)),
            await fails(store.replace(key, value, version, expires_at=10**30, now=NOW, owner=owner)),
            await fails(store.list_owned(owner.name, limit=1, now=NOW, after=Cursor(10**30, key))),
            await fails(store.count_owned(owner.name, most=1000, now=10**30)),
            await fails(store.delete(key, now=NOW)),
        ]
        await backend.create_table()
    for failure in failures:
        assert "SECRET-" not in said(failure)
        link = failure.__cause__
        while link is not None:  # nor in a tool that prints the variables of the frames
            assert link.__traceback__ is None
            link = link.__cause__ or link.__context__
