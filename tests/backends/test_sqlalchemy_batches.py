"""Several writes at once in SQL: announcements, deadlocks, attempts whose outcome is unknown, and transactions."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import create_async_engine

from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import BatchConflict, Creation, Deletion, Replacement
from starsessions.stores.sqlalchemy import batches
from starsessions.stores.sqlalchemy.connection import Database as Connections
from starsessions.stores.sqlalchemy.store import SQLAlchemyStore
from tests.backends.sql import Database, database, opened

pytestmark = pytest.mark.anyio

NOW, LATER = 1_800_000_000, 1_800_001_000

each_database = pytest.mark.parametrize(
    "db", ["sqlite", "postgres-asyncpg", "postgres-psycopg", "mariadb"], indirect=True
)
on_postgres = pytest.mark.parametrize("db", ["postgres-asyncpg", "postgres-psycopg"], indirect=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


@pytest.fixture
async def backend(db: Database) -> AsyncIterator[SQLAlchemyBackend]:
    async with opened(db.url) as backend:
        yield backend


@pytest.fixture
def store(backend: SQLAlchemyBackend) -> SQLAlchemyStore:
    return backend.store


@each_database
async def test_what_is_written_at_once_is_announced(store: SQLAlchemyStore) -> None:
    async with store.listen() as heard:
        await store.write_together([Creation("a", b"1", LATER)], now=NOW, topics=["a", "b"])
        with pytest.raises(BatchConflict):
            await store.write_together([Creation("a", b"1", LATER)], now=NOW, topics=["c"])
        await store.write_together([Creation("d", b"1", LATER)], now=NOW)
        many = [f"topic-{n}" for n in range(batches.MOST_TOPICS + 1)]
        await store.write_together([Creation("e", b"1", LATER)], now=NOW, topics=many)
        assert [*await anext(heard)] == ["a", "b"]
        topics = [*await anext(heard)]
        while len(topics) < len(many):
            topics += await anext(heard)
        assert topics == many


@each_database
async def test_what_was_written_is_announced_though_the_caller_was_cancelled_meanwhile(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The announcement follows the commit; on PostgreSQL where that waits for a standby."""
    store._batches.announces = False
    carry_out = store._batches.carry_out

    async def cancelling(*batch: Any) -> Any:
        versions = await carry_out(*batch)
        caller.cancel()
        return versions

    monkeypatch.setattr(store._batches, "carry_out", cancelling)
    async with store.listen() as heard:
        caller = asyncio.create_task(store.write_together([Creation("a", b"1", LATER)], now=NOW, topics=["a"]))
        [outcome] = await asyncio.gather(caller, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError)
        await store.announce(["b"])
        assert [*await anext(heard)] == ["a"]


@on_postgres
async def test_a_deadlock_is_resolved_and_the_batch_is_carried_out(store: SQLAlchemyStore, backend: Any) -> None:
    """Another transaction, as a statement that deletes several entries, locks the rows in the other order."""
    versions = {key: await store.create(key, b"1", expires_at=LATER, now=NOW) for key in "ab"}
    lock = text(f"SELECT 1 FROM {backend.table.name} WHERE key = :key FOR UPDATE")
    waits = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE :table")
    async with backend.engine.connect() as raw, backend.engine.connect() as looking:
        other = await raw.execution_options(isolation_level="READ COMMITTED")
        await other.execute(text("SET deadlock_timeout = '1min'"))  # so that the batch is the one that is ended
        await other.execute(lock, {"key": "b"})
        writes = [Replacement(key, b"2", versions[key], LATER) for key in "ba"]
        batch = asyncio.create_task(store.write_together(writes, now=NOW))

        async with asyncio.timeout(60):
            while not (await looking.execute(waits, {"table": f"%{backend.table.name}%"})).scalar_one():
                await looking.rollback()
        await other.execute(lock, {"key": "a"})
        await other.commit()
        written = await batch
    assert written is not None
    entries = [await store.get(key, now=NOW) for key in "ba"]
    assert [entry and entry.version for entry in entries] == [*written]


@on_postgres
async def test_a_batch_that_cannot_be_announced_is_carried_out(
    store: SQLAlchemyStore, backend: SQLAlchemyBackend, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the queue of notifications is full, because some application listens and does not read."""
    refused = f"refused_{backend.table.name}"

    def refuse(*execution: Any) -> tuple[str, Any]:
        _, _, statement, parameters, *_ = execution
        return statement.replace("pg_notify", refused), parameters

    body = "$$ BEGIN RAISE EXCEPTION 'full' USING ERRCODE = '54000'; END $$"
    async with backend.engine.connect() as connection:
        function = f"CREATE FUNCTION {refused}(text, text) RETURNS void LANGUAGE plpgsql AS {body}"
        await connection.execute(text(function))
        await connection.commit()
    event.listen(backend.engine.sync_engine, "before_cursor_execute", refuse, retval=True)
    written = await store.write_together([Creation("a", b"1", LATER)], now=NOW, topics=["a"])
    entry = await store.get("a", now=NOW)
    assert entry is not None
    assert [entry.version] == written
    assert "The end of a session was not announced: PostgreSQL refused it." in caplog.text
    with pytest.raises(BatchConflict):
        await store.write_together([Creation("a", b"1", LATER)], now=NOW, topics=["a"])


# Attempts whose outcome is unknown


def twice(monkeypatch: pytest.MonkeyPatch, meanwhile: Any = None) -> None:
    """Carry out the next work of the store twice, as if the first answer had been lost."""
    call, calls = Connections.call, []

    async def called(self: Connections, work: Any) -> Any:
        calls.append(await call(self, work))
        if len(calls) > 1:
            return calls[-1]
        if meanwhile is not None:
            await call(self, meanwhile)
        return (await call(self, work))[0], True

    monkeypatch.setattr(Connections, "call", called)


@each_database
async def test_a_batch_whose_answer_was_lost_is_not_carried_out_twice(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await store.create("a", b"1", expires_at=LATER, now=NOW)
    twice(monkeypatch)
    written = await store.write_together([Replacement("a", b"2", version, LATER), Creation("b", b"3", LATER)], now=NOW)
    assert written is not None
    entries = [await store.get(key, now=NOW) for key in "ab"]
    assert [entry and (entry.value, entry.version) for entry in entries] == [(b"2", written[0]), (b"3", written[1])]


@each_database
async def test_a_deletion_whose_answer_was_lost_is_done(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await store.create("a", b"1", expires_at=LATER, now=NOW)
    twice(monkeypatch)
    assert await store.write_together([Deletion("a", version)], now=NOW) == [None]


@each_database
async def test_several_deletions_whose_answer_was_lost_are_in_doubt(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = {key: await store.create(key, b"1", expires_at=LATER, now=NOW) for key in "ab"}
    twice(monkeypatch)
    with pytest.raises(BackendUnavailable, match="its result is unknown"):
        await store.write_together([Deletion(key, version) for key, version in versions.items()], now=NOW)


@pytest.mark.parametrize("db", ["sqlite"], indirect=True)
async def test_answers_that_contradict_each_other_end_at_some_time(
    store: SQLAlchemyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches.Batches, "_one_by_one", lambda *_: False)
    with pytest.raises(BackendUnavailable, match="contradictory"):
        await store.write_together([Creation("a", b"1", LATER)], now=NOW)


# Failures and transactions


@each_database
async def test_a_write_that_fails_takes_the_others_with_it(store: SQLAlchemyStore) -> None:
    unfit: Any = "no bytes" * 10**3
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            await store.write_together([Creation("a", b"1", LATER), Creation("b", unfit, 10**30)], now=NOW)
    assert [await store.get(key, now=NOW) for key in "ab"] == [None, None]
    assert await store.write_together([Creation(key, b"1", LATER) for key in "ab"], now=NOW)


@each_database
async def test_an_engine_that_begins_transactions_by_itself_writes_all_or_nothing(
    db: Database,
) -> None:
    async with opened(create_async_engine(db.url)) as own, opened(db.url) as other:
        old = await own.store.create("a", b"1", expires_at=LATER, now=NOW)
        with pytest.raises(BatchConflict) as conflict:
            await own.store.write_together([Replacement("a", b"2", old, LATER), Deletion("b", 1)], now=NOW)
        assert conflict.value.index == 1
        await own.store.write_together([Replacement("a", b"3", old, LATER), Creation("b", b"4", LATER)], now=NOW)
        async with other.engine.connect() as connection:
            rows = (await connection.execute(select(own.table.c.value).order_by(own.table.c.key))).scalars().all()
        assert rows == [b"3", b"4"]
