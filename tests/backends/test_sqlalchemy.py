"""The store contract in SQL, on each database and driver: races, round trips, the table, the sweep, what is refused.

What happens when a database fails is in test_sqlalchemy_faults.py.
"""

import asyncio
import contextlib
import importlib
import logging
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, StaticPool, create_engine, event, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.schema import CreateIndex, CreateTable

import starsessions.stores.sqlalchemy
from starsessions import BackendUnavailable, ImproperlyConfigured, Session
from starsessions.backends.sqlalchemy import SQLAlchemyBackend, SQLAlchemyStore, session_table
from starsessions.stores import Swept, sweep_all
from starsessions.stores.base import Conflict, Store, Sweeping
from starsessions.stores.sweeper import BATCH, PAUSE, sweep_forever
from tests.backends.sql import (
    DATABASES,
    NOW,
    Database,
    Meter,
    database,
    enough,
    explained,
    metered,
    opened,
    pool_of,
    until,
)
from tests.rows import rows
from tests.servers.process import Address
from tests.site import Clock, Site

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=list(DATABASES))
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


@pytest.fixture
async def backend(db: Database, clock: Clock) -> AsyncIterator[SQLAlchemyBackend]:
    async with opened(db.url, clock=clock) as backend:
        yield backend


@pytest.fixture
def store(backend: SQLAlchemyBackend) -> SQLAlchemyStore:
    return backend.store


# The contract, as far as SQL makes it hard


async def test_an_entry_is_read_changed_and_deleted_by_its_version(store: SQLAlchemyStore) -> None:
    first = await store.create("key", b"\x00\xff'\\", expires_at=NOW + 9, now=NOW)
    entry = await store.get("key", now=NOW)
    assert entry is not None
    assert (type(entry.value), entry) == (bytes, (b"\x00\xff'\\", NOW + 9, first))

    second = await store.replace("key", b"", first, expires_at=NOW + 8, now=NOW)
    for late in (
        store.replace("key", b"late", first, expires_at=NOW + 9, now=NOW),
        store.delete("key", first, now=NOW),
    ):
        with pytest.raises(Conflict) as refused:
            await late
        assert refused.value.current == (b"", NOW + 8, second)

    assert await store.delete("key", second, now=NOW) is True
    assert await store.delete("key", now=NOW) is False
    for late in (
        store.replace("key", b"late", second, expires_at=NOW + 9, now=NOW),
        store.delete("key", second, now=NOW),
    ):
        with pytest.raises(Conflict) as refused:
            await late
        assert refused.value.current is None


@pytest.mark.guarantee(19)
async def test_expired_entries_free_their_keys_and_live_ones_do_not(store: SQLAlchemyStore) -> None:
    old = await store.create("key", b"old", expires_at=NOW + 9, now=NOW)
    with pytest.raises(Conflict) as refused:
        await store.create("key", b"new", expires_at=NOW + 99, now=NOW + 8)
    assert refused.value.current == (b"old", NOW + 9, old)
    with pytest.raises(Conflict) as refused:
        await store.replace("key", b"new", old, expires_at=NOW + 99, now=NOW + 9)
    assert refused.value.current is None
    new = await store.create("key", b"new", expires_at=NOW + 99, now=NOW + 9)
    assert await store.get("key", now=NOW + 9) == (b"new", NOW + 99, new)


async def test_two_keys_that_differ_in_case_are_two(store: SQLAlchemyStore) -> None:
    for key in ("key", "KEY", "k" * 128, "K" * 128):
        assert await store.get(key, now=NOW) is None
        await store.create(key, key.encode(), expires_at=NOW + 9, now=NOW)
    entry = await store.get("KEY", now=NOW)
    assert entry is not None
    assert entry.value == b"KEY"


async def test_a_value_may_be_larger_than_64_kib(store: SQLAlchemyStore) -> None:
    value = secrets.token_bytes(300_000)
    await store.create("key", value, expires_at=NOW + 9, now=NOW)
    entry = await store.get("key", now=NOW)
    assert entry is not None
    assert entry.value == value


async def test_one_of_32_concurrent_creates_replaces_or_deletes_succeeds(store: SQLAlchemyStore) -> None:
    async def winners(*verbs: Awaitable[Any]) -> list[Any]:
        outcomes = await asyncio.gather(*verbs, return_exceptions=True)
        won = [outcome for outcome in outcomes if not isinstance(outcome, Conflict)]
        for outcome in outcomes:
            if isinstance(outcome, Conflict) and outcome.current is not None:
                assert outcome.current.version == won[0]
        return won

    [version] = await winners(*(store.create("key", b"%d" % n, expires_at=NOW + 9, now=NOW) for n in range(32)))
    [version] = await winners(
        *(store.replace("key", b"%d" % n, version, expires_at=NOW + 9, now=NOW) for n in range(32))
    )
    # an expired entry has only one successor as well
    [version] = await winners(*(store.create("key", b"%d" % n, expires_at=NOW + 99, now=NOW + 9) for n in range(32)))
    [version] = await winners(*(store.delete("key", version, now=NOW + 9) for n in range(32)))
    assert version is True


async def test_a_key_that_is_alternately_used_and_free_raises_in_the_end(store: SQLAlchemyStore) -> None:
    """As if another process deleted the entry before each read, and created it before each write."""

    async def nothing(key: str, now: int) -> None:
        return None

    await store.create("key", b"theirs", expires_at=NOW + 9, now=NOW)
    store._get = nothing  # type: ignore[method-assign]
    with pytest.raises(BackendUnavailable, match="contradictory"):
        await store.create("key", b"ours", expires_at=NOW + 9, now=NOW)


def test_the_store_can_sweep(tmp_path: Path) -> None:
    backend = SQLAlchemyBackend(f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}", timeout=30)
    store: Store = backend.store
    assert isinstance(store, Sweeping)


# Sessions


@pytest.mark.guarantee(15)
async def test_32_writers_of_one_session_on_32_keys_lose_none(
    backend: SQLAlchemyBackend, clock: Clock, site_of: Callable[..., Site]
) -> None:
    sites = [site_of(backend=backend) for _ in range(32)]
    await sites[0].visit(lambda session: session.update(first=1, doomed=1))
    for site in sites[1:]:
        site.browser = sites[0].browser

    async def write(site: Site, n: int) -> None:
        def act(session: Session) -> None:
            session[f"key-{n}"] = n
            session.pop("doomed", None)

        await site.visit(act)

    await asyncio.gather(*(write(site, n) for n, site in enumerate(sites)))
    assert await sites[0].data() == {"first": 1, **{f"key-{n}": n for n in range(32)}}


@pytest.mark.guarantee(14)
async def test_a_logout_is_final_against_requests_in_flight(
    backend: SQLAlchemyBackend, clock: Clock, site_of: Callable[..., Site]
) -> None:
    for _ in range(10):
        sites = [site_of(backend=backend) for _ in range(8)]
        await sites[0].visit(lambda session: session.update(user="ann"))
        cookies = dict(sites[0].browser.cookies)
        for site in sites[1:]:
            site.browser.cookies = dict(cookies)
        writers = (site.visit(lambda session: session.update(n=1)) for site in sites[1:])
        await asyncio.gather(*writers, sites[0].visit(Session.delete))
        sites[0].browser.cookies = dict(cookies)
        assert await sites[0].data() == {}


@pytest.mark.guarantee(17)
async def test_rows_contain_no_session_id(backend: SQLAlchemyBackend) -> None:
    session_id = await backend.write({"user": "ann"})
    async with backend.engine.connect() as connection:
        [row] = (await connection.execute(select(backend.table))).all()
    assert session_id.encode() not in row.key.encode() + row.value
    assert await backend.read(row.key) == {}


async def test_garbage_under_a_key_is_ignored(backend: SQLAlchemyBackend) -> None:
    session_id = await backend.write({"user": "ann"})
    for garbage in (b"", b"\xc1", b"12345678", secrets.token_bytes(100)):
        async with backend.engine.begin() as connection:
            await connection.execute(update(backend.table).values(value=garbage))
        assert await backend.read(session_id) == {}
    await backend.remove(session_id)
    async with backend.engine.connect() as connection:
        assert (await connection.execute(select(backend.table))).all() == []


async def test_sqlite_keeps_sessions_while_no_process_runs(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}"
    async with contextlib.AsyncExitStack() as stack:
        first = SQLAlchemyBackend(url, timeout=30)
        await first.create_table()
        await stack.enter_async_context(first.lifespan())
        session_id = await first.write({"user": "ann"})
    second = SQLAlchemyBackend(url, timeout=30)
    async with second.lifespan():
        assert await second.read(session_id) == {"user": "ann"}


async def test_sqlite_from_a_url_lets_readers_work_during_a_write(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    async with opened(f"sqlite+aiosqlite:///{path}") as backend:
        session_id = await backend.write({"user": "ann"})
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            other.execute("BEGIN IMMEDIATE")
            assert await backend.read(session_id) == {"user": "ann"}
            other.execute("ROLLBACK")


# Round trips


@pytest.mark.guarantee(18)
@pytest.mark.parametrize("name", list(DATABASES))
async def test_a_request_needs_the_minimum_of_statements(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> None:
    async with metered(name, request, tmp_path) as (url, meter_of), opened(url, clock=clock) as backend:
        asked = meter_of(backend)
        await check_round_trips(backend, clock, asked)


@pytest.mark.guarantee(18)
@pytest.mark.parametrize("name", ["postgres-asyncpg", "postgres-psycopg"])
async def test_the_applications_own_postgres_engine_needs_no_transactions_either(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> None:
    async with (
        metered(name, request, tmp_path) as (url, meter_of),
        opened(create_async_engine(url), clock=clock) as backend,
    ):
        await check_round_trips(backend, clock, meter_of(backend))


async def check_round_trips(backend: SQLAlchemyBackend, clock: Clock, asked: Meter) -> None:
    site, elsewhere = (Site(backend=backend, clock=clock, autoload=True) for _ in range(2))
    elsewhere.browser = site.browser

    async def change_meanwhile(session: Session) -> None:
        session["mine"] = 1
        await elsewhere.visit(lambda other: other.update(theirs=1))

    await site.visit(lambda session: session.update(n=0))  # connections are opened, and statements are prepared
    await site.visit(lambda session: session.update(n=1))
    await site.visit(change_meanwhile)
    await site.visit(Session.delete)
    await asked()

    await site.visit(lambda session: None)
    assert await asked() == 0, "untouched"
    await site.visit(lambda session: session.update(n=1))
    assert await asked() == 1, "a new session"
    await site.visit(lambda session: session.get("n"))
    assert await asked() == 1, "read"
    await site.visit(lambda session: session.update(n=2))
    assert await asked() == 2, "changed"
    await site.visit(change_meanwhile)
    assert await asked() == 2 + 2 + 2, "two requests that change; and for the conflict a look, and another write"
    await site.visit(Session.delete)
    # PostgreSQL announces it with the same statement. Elsewhere, what can be several writes is a transaction.
    assert await asked() == (2 if backend.store.reaches_all else 4), "logout"


# Engines


async def test_the_applications_own_engine_is_neither_used_nor_changed(db: Database, clock: Clock) -> None:
    """Whatever its isolation is: on MariaDB and SQLite it commits each statement, which the next connection sees."""
    engine = create_async_engine(db.url)
    async with opened(engine, clock=clock) as backend:
        async with backend.lifespan():
            session_id = await backend.write({"n": 1})
            with pytest.raises(Conflict):
                await backend.store.delete("nothing", 1, now=NOW)
            assert await backend.write({"n": 2}, session_id) == session_id
        assert "Connections in pool: 0" in engine.pool.status()
        async with opened(db.url, clock=clock) as other:
            row = select(backend.table.c.version)
            async with other.engine.connect() as connection:
                assert len((await connection.execute(row)).all()) == 1
        async with engine.begin() as connection:  # and it has its own isolation again
            await connection.execute(update(backend.table).values(expires_at=0))
            await connection.rollback()
        assert await backend.read(session_id) == {"n": 2}


async def test_an_engine_made_from_a_url_is_closed_and_can_be_used_again(db: Database) -> None:
    async with opened(db.url) as backend:
        for n in range(2):
            async with backend.lifespan():
                await backend.write({"n": n})
                assert pool_of(backend).checkedin() > 0
            assert pool_of(backend).checkedin() == 0


REFUSED = {
    "a sync engine": (lambda: create_engine("sqlite://"), "AsyncEngine from create_async_engine"),
    "nothing": (lambda: None, "not NoneType: is the variable that holds the URL set"),
    "a sync driver": (lambda: "sqlite+pysqlite:///sessions.db", "does not support asyncio.*aiosqlite"),
    "a driver that is missing": (lambda: "postgresql+pg8000://host/db", "is not installed.*asyncpg"),
    "no URL": (lambda: "hunter2", "cannot read this URL"),
    "an unknown database": (lambda: "paper+pencil://user:hunter2@host/db", "cannot read this URL"),
    "one connection for all": (
        lambda: create_async_engine("postgresql+asyncpg://host/db", poolclass=StaticPool),
        "leave out poolclass=StaticPool",
    ),
}


@rows("what", list(REFUSED))
def test_an_invalid_engine_is_rejected_with_the_cure(what: str) -> None:
    make, cure = REFUSED[what]
    with pytest.raises(ImproperlyConfigured, match=cure) as refused:
        SQLAlchemyBackend(make())  # type: ignore[no-untyped-call]
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_url_without_a_driver_means_one_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(url: str) -> str:
        return SQLAlchemyBackend(url).engine.url.drivername

    assert [chosen(f"{name}://host/db") for name in ("postgresql", "mysql", "mariadb")] == [
        "postgresql+psycopg",
        "mysql+asyncmy",
        "mariadb+asyncmy",
    ]
    assert chosen("sqlite:///sessions.db") == "sqlite+aiosqlite"
    found = {"asyncpg"}
    monkeypatch.setattr("starsessions.stores.sqlalchemy.connection.find_spec", lambda name: name in found or None)
    assert chosen("postgresql://host/db") == "postgresql+asyncpg"
    found.clear()
    with pytest.raises(ImproperlyConfigured, match="pip install asyncpg"):
        chosen("postgresql://host/db")


@rows(
    ("settings", "message"),
    [({"timeout": 0}, "timeout"), ({"sweep_every": 0}, "sweep_every"), ({"sweep_every": "1h"}, "sweep_every")],
)
def test_invalid_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        SQLAlchemyBackend("sqlite+aiosqlite://", **settings)


def test_the_package_imports_no_sqlalchemy_by_itself() -> None:
    program = "import starsessions, sys; print([name for name in sys.modules if 'sqlalchemy' in name])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"


@pytest.mark.parametrize("missing", ["sqlalchemy.ext.asyncio", "greenlet"])
def test_without_sqlalchemy_the_error_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, missing, None)
        with pytest.raises(ImproperlyConfigured, match=r"install the extra starsessions\[sqlalchemy\]"):
            importlib.reload(starsessions.stores.sqlalchemy)
    # And it is the first thing that the import of the backend comes to.
    code = f"import sys; sys.modules[{missing!r}] = None; import starsessions.backends.sqlalchemy"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "ImproperlyConfigured" in ended.stderr
    assert "install the extra starsessions[sqlalchemy]" in ended.stderr


# The table


async def test_the_table_is_created_when_asked_and_no_more_than_once(db: Database) -> None:
    backends = [SQLAlchemyBackend(db.url, f"t_{secrets.token_hex(8)}", timeout=30)]
    backends += [SQLAlchemyBackend(db.url, backends[0].table.name, timeout=30) for _ in range(7)]
    with pytest.raises(ImproperlyConfigured, match=r"create_table.*Alembic"):
        async with backends[0].lifespan():
            raise AssertionError("it has started without its table")

    await asyncio.gather(*(backend.create_table() for backend in backends))
    session_id = await backends[0].write({"user": "ann"})
    await asyncio.gather(*(backend.create_table() for backend in backends))

    async with backends[0].lifespan():
        assert await backends[1].read(session_id) == {"user": "ann"}
    async with backends[0].engine.begin() as connection:
        await connection.run_sync(backends[0].table.drop)
    await backends[0].engine.dispose()


async def test_a_table_that_another_process_creates_at_the_same_moment_is_used(db: Database) -> None:
    """It is missing when this process looks for it, and exists when this process creates it."""
    backend, others = SQLAlchemyBackend(db.url, f"t_{secrets.token_hex(8)}", timeout=30), [True]

    @event.listens_for(backend.table, "before_create")
    def create_meanwhile(table: Any, connection: Any, **keywords: Any) -> None:
        others.clear()
        connection.execute(CreateTable(table))

    await backend.create_table()
    assert not others
    assert await backend.read(await backend.write({"user": "ann"})) == {"user": "ann"}
    await backend.store.aclose()
    async with backend.engine.begin() as connection:
        await connection.run_sync(backend.table.drop)
    await backend.engine.dispose()


async def test_a_database_that_does_not_answer_at_the_start_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    backend = SQLAlchemyBackend("postgresql+asyncpg://user:hunter2@127.0.0.1:1/db")
    with caplog.at_level(logging.WARNING, "starsessions"):
        async with backend.lifespan():
            pass
    [record] = caplog.records
    assert "does not answer yet" in record.message
    assert "hunter2" not in record.message


async def test_a_sqlite_file_in_a_directory_that_does_not_exist_is_reported_with_the_cure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = SQLAlchemyBackend(f"sqlite+aiosqlite:///{tmp_path}/missing/sessions.db", timeout=30)
    async with backend.lifespan():
        with pytest.raises(BackendUnavailable, match="create its directory"):
            await backend.write({"n": 1})
    assert "create its directory" in caplog.text


def test_the_table_belongs_to_the_metadata_of_the_application_if_it_is_given() -> None:
    metadata = MetaData(schema="app")
    table = session_table(metadata, "web_sessions")
    backend = SQLAlchemyBackend("sqlite+aiosqlite://", "web_sessions", metadata=metadata)
    assert backend.table is table is metadata.tables["app.web_sessions"]
    assert backend.metadata is metadata
    assert SQLAlchemyBackend("sqlite+aiosqlite://").metadata is not metadata


def test_the_table_as_each_database_has_it() -> None:
    table = session_table(MetaData())

    def ddl(dialect: Any) -> str:
        made = [CreateTable(table), *(CreateIndex(index) for index in table.indexes)]
        return " ".join(";".join(str(each.compile(dialect=dialect)) for each in made).split())

    for dialect in (mysql.dialect(), mysql.dialect(is_mariadb=True)):
        assert "`key` VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL" in ddl(dialect)
        assert "owner VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin, since BIGINT, PRIMARY KEY" in ddl(dialect)
        assert "CREATE INDEX ix_starsessions_owner ON starsessions (owner, since, `key`)" in ddl(dialect)
        assert "value MEDIUMBLOB NOT NULL" in ddl(dialect)
        assert "ENGINE=InnoDB" in ddl(dialect)
    assert 'key VARCHAR(128) COLLATE "C" NOT NULL' in ddl(postgresql.dialect())
    assert "value BYTEA NOT NULL, expires_at BIGINT NOT NULL, version BIGINT NOT NULL" in ddl(postgresql.dialect())
    assert 'owner VARCHAR(128) COLLATE "C", since BIGINT, PRIMARY KEY' in ddl(postgresql.dialect())
    for dialect in (postgresql.dialect(), sqlite.dialect()):
        index = "CREATE INDEX ix_starsessions_owner ON starsessions (owner, since, key) WHERE owner IS NOT NULL"
        assert index in ddl(dialect).replace('"', "")
    assert "CREATE INDEX ix_starsessions_expires_at ON starsessions (expires_at)" in ddl(sqlite.dialect())


# The sweep


@pytest.mark.guarantee(19)
async def test_a_sweep_removes_no_more_than_its_limit_and_nothing_that_lives(
    backend: SQLAlchemyBackend, store: SQLAlchemyStore, clock: Clock
) -> None:
    now = int(clock())
    for n in range(25):
        await store.create(f"key-{n}", b"", expires_at=now + n, now=now)
    clock.advance(19)
    assert [await backend.sweep(limit=8) for _ in range(4)] == [8, 8, 4, 0]
    async with backend.engine.connect() as connection:
        deadlines = (await connection.execute(select(backend.table.c.expires_at))).scalars().all()
    assert sorted(deadlines) == [now + n for n in range(20, 25)]


@pytest.mark.guarantee(19)
async def test_sweeps_at_once_remove_each_row_once(store: SQLAlchemyStore) -> None:
    for n in range(100):
        await store.create(f"key-{n}", b"", expires_at=NOW + n % 50, now=NOW)
    removed = await asyncio.gather(*(store.sweep(10, now=NOW + 40) for _ in range(20)))
    while more := await store.sweep(10, now=NOW + 40):
        removed.append(more)
    assert sum(removed) == 82
    assert max(removed) <= 10


@pytest.mark.guarantee(19)
async def test_a_sweep_finds_its_rows_by_the_index(backend: SQLAlchemyBackend, db: Database) -> None:
    # Small tables are read from one end to the other, which costs less.
    await filled_with(100_000 if db.is_postgres else 5_000, backend, db)
    statements = backend.store.statements
    parameters = {"p_now": 50, "p_limit": 20}
    plans = {}
    if db.is_postgres:
        plans["sweep"] = await explained(backend.engine, statements.sweep, parameters)
    else:
        plans["select"] = await explained(backend.engine, statements.some_dead, parameters)
        keys = [f"key-{n}" for n in range(20)]
        plans["delete"] = await explained(backend.engine, statements.delete_dead, {"p_keys": keys, "p_now": 50})
    index = f"ix_{backend.table.name}_expires_at"
    if db.is_postgres:
        assert f"Index Scan using {index}" in plans["sweep"] or f"Index Only Scan using {index}" in plans["sweep"]
        assert f"{backend.table.name}_pkey" in plans["sweep"]
        assert "Seq Scan" not in plans["sweep"]
    elif db.name == "sqlite":
        assert f"USING INDEX {index} (expires_at<?)" in plans["select"]
        assert "(key=?)" in plans["delete"]
    else:
        assert f"range|{index}" in plans["select"]
        assert "range|PRIMARY" in plans["delete"]


async def test_every_verb_finds_its_row_by_the_key(backend: SQLAlchemyBackend, db: Database) -> None:
    # A user's sessions are found by keys, too: the list of them is an entry like any other.
    await filled_with(10_000, backend, db)
    statements = backend.store.statements
    row = {"p_value": b"v", "p_expires_at": 60, "p_version": 1, "p_owner": "ann", "p_since": 1}
    here = {"p_key": "key-5000", "p_now": 50}
    verbs = {
        "get": (statements.get, here),
        "replace": (statements.replace, {**row, **here, "p_expect": 5000}),
        "take over": (statements.take_over, {**row, **here}),
        "delete": (statements.delete, here),
        "delete expected": (statements.delete_expected, {**here, "p_expect": 5000}),
    }
    primary = {"postgres": f"Index Scan using {backend.table.name}_pkey", "sqlite": "(key=?)", "mariadb": "|PRIMARY"}
    for verb, (statement, parameters) in verbs.items():
        plan = await explained(backend.engine, statement, parameters)
        assert primary[db.name.partition("-")[0]] in plan, (verb, plan)


async def filled_with(rows: int, backend: SQLAlchemyBackend, db: Database) -> None:
    """Rows that end one after the other, and that the database has seen."""
    made = [{"key": f"key-{n}", "value": b"v", "expires_at": n, "version": n} for n in range(enough(rows, backend))]
    async with backend.engine.connect() as connection:
        await connection.execute(backend.table.insert(), made)
        await connection.execute(text(f"ANALYZE {'TABLE ' if db.name == 'mariadb' else ''}{backend.table.name}"))


async def test_a_sweep_on_postgres_skips_rows_that_are_locked(postgres_server: Address, clock: Clock) -> None:
    async with opened(postgres_server.over("asyncpg"), clock=clock, timeout=60) as backend:
        for n in range(3):
            await backend.store.create(f"key-{n}", b"", expires_at=NOW + 1, now=NOW)
        async with create_async_engine(postgres_server.over("asyncpg")).connect() as other:
            await other.execute(select(backend.table).where(backend.table.c.key == "key-1").with_for_update())
            assert await backend.store.sweep(10, now=NOW + 9) == 2
            await other.rollback()
        await other.engine.dispose()
        assert await backend.store.sweep(10, now=NOW + 9) == 1


async def test_other_requests_can_write_during_a_sweep_on_mariadb(mariadb_server: Address) -> None:
    """A DELETE that is not yet committed simulates a slow one: sessions that live are read, written and begun."""
    async with opened(mariadb_server.over("asyncmy")) as backend:
        store = backend.store
        version = await store.create("alive", b"", expires_at=NOW + 9, now=NOW)
        for n in range(3):
            await store.create(f"key-{n}", b"", expires_at=NOW + 1, now=NOW)
        other = create_async_engine(mariadb_server.over("asyncmy"))
        async with other.connect() as connection:
            # so many that walking over all of them, which locks all of them, costs more than using the index
            rows = [{"key": f"a-{n}", "value": b"", "expires_at": NOW + 99, "version": n} for n in range(5_000)]
            await connection.execute(backend.table.insert(), rows)
            await connection.execute(text(f"ANALYZE TABLE {backend.table.name}"))
            await connection.commit()
            keys = [f"key-{n}" for n in range(3)]
            await connection.execute(store.statements.delete_dead, {"p_keys": keys, "p_now": NOW + 5})
            await store.replace("alive", b"", version, expires_at=NOW + 10, now=NOW + 5)
            for n in range(50):
                await store.create(f"new-{n}", b"", expires_at=NOW + n, now=NOW)
            await connection.rollback()
        await other.dispose()


# The sweep, again and again


class Sleeps:
    """Replaces sleeping: the sweeper waits until a test lets it go on."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[float] = asyncio.Queue()
        self._go_on = asyncio.Semaphore(0)

    async def __call__(self, seconds: float) -> None:
        self.asked.put_nowait(seconds)
        await self._go_on.acquire()

    async def next(self) -> float:
        """How long the sweeper wants to sleep; the previous sleep has ended."""
        self._go_on.release()
        return await self.asked.get()


class Piles:
    """A store that finds so many dead entries at each sweep; an error is raised."""

    def __init__(self, *piles: int | Exception) -> None:
        self.piles = list(piles)

    async def sweep(self, limit: int, now: int) -> int:
        pile = self.piles.pop(0)
        if isinstance(pile, Exception):
            raise pile
        return min(pile, limit)


@contextlib.asynccontextmanager
async def sweeper(
    store: Sweeping, chance: float = 0.5, timer: Callable[[], float] = lambda: 0.0
) -> AsyncIterator[Sleeps]:
    sleeps = Sleeps()
    work = sweep_forever(store, 60, lambda: NOW, sleep=sleeps, timer=timer, chance=lambda: chance)
    task = asyncio.create_task(work)
    yield sleeps
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@rows(("chance", "first", "then"), [(0, 0, 30), (0.5, 30, 60), (0.999, 59.94, 89.94)])
async def test_workers_that_start_together_do_not_sweep_together(chance: float, first: float, then: float) -> None:
    async with sweeper(Piles(0), chance) as sleeps:
        assert await sleeps.asked.get() == pytest.approx(first)
        assert await sleeps.next() == pytest.approx(then)


async def test_a_sweep_takes_batches_with_pauses_until_nothing_is_left() -> None:
    async with sweeper(Piles(BATCH, BATCH, 1, 0)) as sleeps:
        await sleeps.asked.get()
        assert [await sleeps.next() for _ in range(4)] == [PAUSE, PAUSE, 60, 60]


async def test_a_sweep_beside_the_application_rests_for_as_long_as_a_slow_batch_took() -> None:
    timer = Timer()
    async with sweeper(SlowPiles(timer, (BATCH, PAUSE / 2), (BATCH, 3), (1, 3)), timer=timer) as sleeps:
        await sleeps.asked.get()
        assert [await sleeps.next() for _ in range(3)] == [PAUSE, 3, 60]


# The sweep of all


class Timer:
    """Goes on while a batch works, and while the sweep rests."""

    def __init__(self) -> None:
        self.now = 0.0
        self.rests: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        self.now += seconds


class SlowPiles(Piles):
    """Each sweep takes the seconds that it was given."""

    def __init__(self, timer: Timer, *batches: tuple[int, float]) -> None:
        super().__init__(*(pile for pile, _ in batches))
        self.timer, self.seconds = timer, [seconds for _, seconds in batches]

    async def sweep(self, limit: int, now: int) -> int:
        self.timer.now += self.seconds.pop(0)
        return await super().sweep(limit, now)


async def swept(*batches: tuple[int, float], **how: Any) -> tuple[Swept, list[float]]:
    timer = Timer()
    how = {"clock": lambda: NOW, "timer": timer, "sleep": timer.sleep, **how}
    return await sweep_all(SlowPiles(timer, *batches), **how), timer.rests


FULL = (BATCH, 2.0)


@rows(
    "share, rests",
    [(1, [0, 0]), (0.5, [2, 2]), (0.25, [6, 6]), (0.8, [0.5, 0.5])],
)
async def test_a_sweep_of_all_works_for_its_share_of_the_time(share: float, rests: list[float]) -> None:
    done, rested = await swept(FULL, FULL, (1, 2.0), share=share)
    assert done == Swept(2 * BATCH + 1, timed_out=False)
    assert rested == pytest.approx(rests)


@rows(
    "limit, batches, timed_out",
    [(0.1, 1, True), (4, 1, True), (4.1, 2, True), (timedelta(seconds=8), 2, True), (8.1, 3, False), (None, 3, False)],
)
async def test_a_sweep_of_all_begins_no_batch_after_its_limit_of_time(
    limit: float | timedelta | None, batches: int, timed_out: bool
) -> None:
    piles = [FULL, FULL, (0, 2.0)]
    done, rested = await swept(*piles[:batches], share=0.5, timeout=limit)
    assert done == Swept(BATCH * min(batches, 2), timed_out)
    assert len(rested) == batches - 1, "and it does not rest before it ends"


async def test_a_sweep_of_all_tells_its_progress() -> None:
    told: list[int] = []
    await swept(FULL, FULL, (7, 0), on_batch=told.append)
    assert told == [BATCH, 2 * BATCH, 2 * BATCH + 7]


async def test_a_sweep_of_all_goes_by_the_clock_of_each_batch() -> None:
    class Clocked(Piles):
        async def sweep(self, limit: int, now: int) -> int:
            seen.append(now)
            return await super().sweep(limit, now)

    seen: list[int] = []
    clock = Clock(NOW)

    async def rest(seconds: float) -> None:
        clock.advance(5)

    await sweep_all(Clocked(BATCH, 0), clock=clock, sleep=rest)
    assert seen == [NOW, NOW + 5]


@rows("how, message", [({"share": 0}, "share"), ({"share": 1.1}, "share"), ({"timeout": 0}, "timeout")])
async def test_a_sweep_of_all_refuses_a_share_and_a_limit_that_make_no_sense(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        await swept(**how)


@pytest.mark.guarantee(19)
async def test_sweeps_of_all_at_once_remove_all_and_count_each_row_once(
    backend: SQLAlchemyBackend, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starsessions.stores.sweeper.BATCH", 10)
    await filled_with(200, backend, db)
    first = await asyncio.gather(*(sweep_all(backend.store, clock=lambda: 149) for _ in range(3)))
    last = await sweep_all(backend.store, clock=lambda: 149)
    assert sum(one.removed for one in [*first, last]) == 150
    assert not any(one.timed_out for one in first)
    assert await backend.store.sweep(100, now=149) == 0
    assert await backend.store.get("key-150", now=149) is not None


@pytest.mark.guarantee(19)
async def test_a_sweep_that_fails_is_logged_once_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    down = BackendUnavailable("The store failed: Test.")
    async with sweeper(Piles(down, down, BATCH, down)) as sleeps:
        await sleeps.asked.get()
        with caplog.at_level(logging.WARNING, "starsessions"):
            assert [await sleeps.next() for _ in range(2)] == [60, 60]
            assert len(caplog.records) == 1
            assert [await sleeps.next() for _ in range(2)] == [PAUSE, 60]
    assert len(caplog.records) == 2
    assert "The store failed: Test." in caplog.text


async def test_the_lifespan_sweeps_and_ends_the_sweep(
    db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)
    async with opened(db.url, clock=clock, sweep_every=1) as backend:
        now = int(clock())
        await backend.store.create("dead", b"", expires_at=now + 1, now=now)
        await backend.store.create("alive", b"", expires_at=now + 9, now=now)
        clock.advance(1)
        before = asyncio.all_tasks()
        async with backend.lifespan():
            deleted = False
            while not deleted:
                async with backend.engine.connect() as connection:
                    keys = (await connection.execute(select(backend.table.c.key))).scalars().all()
                deleted = keys == ["alive"]
        await until(lambda: asyncio.all_tasks() <= before)
