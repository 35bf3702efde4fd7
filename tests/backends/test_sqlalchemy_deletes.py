"""Deletes that come at once share a statement. Each has its own answer, and is not at the mercy of the others."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from starsessions import BackendUnavailable
from starsessions.backends.sqlalchemy import SQLAlchemyBackend, SQLAlchemyStore
from starsessions.stores.base import Conflict, Version
from starsessions.stores.sqlalchemy import deletes
from tests.backends.sql import DATABASES, NOW, Database, analyze, database, explained, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=list(DATABASES))
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


@pytest.fixture
async def backend(db: Database) -> AsyncIterator[SQLAlchemyBackend]:
    async with opened(db.url, timeout=60) as backend:
        yield backend


@pytest.fixture
def store(backend: SQLAlchemyBackend) -> SQLAlchemyStore:
    return backend.store


async def made(store: SQLAlchemyStore, keys: str) -> dict[str, Version]:
    return {key: await store.create(key, b"v", expires_at=NOW + 9, now=NOW) for key in keys}


async def together(*work: Any) -> list[Any]:
    """The answers; None: there was no such entry."""
    answers = await asyncio.gather(*work, return_exceptions=True)
    return [answer.current if isinstance(answer, Conflict) else answer for answer in answers]


async def kept(store: SQLAlchemyStore, keys: str) -> list[str]:
    return [key for key in keys if await store.get(key, now=NOW)]


def statements(backend: SQLAlchemyBackend) -> list[str]:
    """The statements from now on."""
    seen: list[str] = []
    event.listen(backend.engine.sync_engine, "before_cursor_execute", lambda *args: seen.append(args[2].split()[0]))
    return seen


async def test_each_of_several_deletes_has_its_own_answer(store: SQLAlchemyStore) -> None:
    versions = await made(store, "abcd")
    changed = await store.replace("b", b"new", versions["b"], expires_at=NOW + 9, now=NOW)
    answers = await together(*(store.delete(key, versions[key], now=0) for key in "abc"), store.delete("x", 1, now=0))
    assert answers == [True, (b"new", NOW + 9, changed), True, None]
    assert await kept(store, "abcd") == ["b", "d"]


async def test_of_two_deletes_of_one_entry_one_succeeds(store: SQLAlchemyStore) -> None:
    versions = await made(store, "ab")
    answers = await together(*(store.delete(key, versions[key], now=0) for key in "aabb"))
    assert sorted(map(str, answers)) == ["None", "None", "True", "True"]


async def test_each_has_its_own_clock(store: SQLAlchemyStore) -> None:
    versions = await made(store, "abcd")
    work = [store.delete(key, versions[key], now=now) for key, now in zip("abcd", [0, NOW + 9] * 2, strict=True)]
    assert await together(*work) == [True, None, True, None]


async def test_no_statement_deletes_more_than_a_limit(
    backend: SQLAlchemyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletes, "MOST", 3)
    versions, seen = await made(backend.store, "abcdefgh"), statements(backend)
    assert await together(*(backend.store.delete(key, versions[key], now=0) for key in versions)) == [True] * 8
    assert seen == ["DELETE"] * 3


async def test_a_database_that_cannot_say_what_it_has_deleted_gets_one_statement_for_each(
    backend: SQLAlchemyBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend.engine.dialect, "delete_returning", False)
    versions, seen = await made(backend.store, "abc"), statements(backend)
    assert await together(*(backend.store.delete(key, versions[key], now=0) for key in "abc")) == [True] * 3
    assert seen == ["DELETE"] * 3


async def test_a_failure_is_that_of_each(backend: SQLAlchemyBackend) -> None:
    versions = await made(backend.store, "abc")
    async with backend.engine.begin() as connection:
        await connection.run_sync(backend.table.drop)
    answers = await together(*(backend.store.delete(key, versions[key], now=0) for key in "abc"))
    assert [isinstance(answer, BackendUnavailable) for answer in answers] == [True] * 3
    await backend.create_table()
    versions = await made(backend.store, "abc")
    assert await together(*(backend.store.delete(key, versions[key], now=0) for key in "abc")) == [True] * 3


async def test_one_that_is_ended_with_the_event_loop_leaves_no_other_waiting(store: SQLAlchemyStore) -> None:
    """The first one carries out the statement, and any may be cancelled: before it was sent, or afterwards."""
    for doomed in range(3):
        for turns in range(3):
            versions = await made(store, "abc")
            tasks = [asyncio.create_task(store._deletes.delete(key, versions[key], 0)) for key in "abc"]
            for _ in range(turns):
                await asyncio.sleep(0)
            tasks[doomed].cancel()
            async with asyncio.timeout(60):
                answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(answers.pop(doomed), asyncio.CancelledError)
            was_first = doomed == 0 and turns > 0
            assert {type(answer) for answer in answers} == {BackendUnavailable if was_first else deletes.Deleted}
            for key in "abc":
                await store.delete(key, now=0)


async def test_several_entries_are_found_by_their_keys(backend: SQLAlchemyBackend, db: Database) -> None:
    keys = [f"key-{n}" for n in range(500 if db.name == "sqlite" else 20_000)]
    rows = [{"key": key, "value": b"v", "expires_at": NOW, "version": n} for n, key in enumerate(keys)]
    async with backend.engine.begin() as connection:
        await connection.execute(backend.table.insert(), rows)
    await analyze(backend)
    parameters = {"p_keys": keys[:50], "p_versions": [*range(50)], "p_now": 0}
    plan = await explained(backend.engine, backend.store.statements.delete_together, parameters)
    if db.is_postgres:
        assert f"{backend.table.name}_pkey" in plan
        assert "Seq Scan" not in plan
    else:
        assert {"sqlite": "(key=?)", "mariadb": "range|PRIMARY"}[db.name] in plan
