"""The entries of an owner in SQL: what is asked of the database, what it reads for it, and who waits for whom."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from starsessions import BackendUnavailable, ImproperlyConfigured
from starsessions.backends.sqlalchemy import SQLAlchemyBackend, SQLAlchemyStore
from starsessions.stores.base import Cursor, Indexing, Owner
from tests.backends.sql import DATABASES, NOW, Database, analyze, database, enough, explained, metered, opened
from tests.servers.process import Address

pytestmark = pytest.mark.anyio

ANN = Owner("ann", NOW)
PAGE = 50


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


async def owned(store: Indexing, name: str, *, limit: int = PAGE, now: int = NOW) -> list[str]:
    """The keys on all pages."""
    keys: list[str] = []
    after = None
    while True:
        page = await store.list_owned(name, limit=limit, now=now, after=after)
        keys += [key for key, _ in page.entries]
        if page.after is None:
            return keys
        after = page.after


async def fill(backend: SQLAlchemyBackend, owner: str | None, rows: int, since: int | None = None) -> None:
    """Rows that another process has written: the key of each is as random as that of a session."""
    made = [
        {"key": secrets.token_hex(16), "value": b"v", "expires_at": NOW + 9, "version": n}
        | {"owner": owner, "since": owner and (NOW + n if since is None else since)}
        for n in range(rows)
    ]
    async with backend.engine.begin() as connection:
        await connection.execute(backend.table.insert(), made)


# Pages


async def test_a_page_is_the_last_if_no_entry_comes_after_it(store: SQLAlchemyStore) -> None:
    for key in "cab":
        await store.create(key, b"", expires_at=NOW + 9, now=NOW, owner=ANN)
    assert [await owned(store, "ann", limit=limit) for limit in (1, 2, 3, 4)] == [["c", "b", "a"]] * 4
    assert (await store.list_owned("ann", limit=2, now=NOW)).after == Cursor(NOW, "b")
    assert (await store.list_owned("ann", limit=3, now=NOW)).after is None


async def test_only_entries_that_have_not_expired_are_counted(store: SQLAlchemyStore) -> None:
    for life in (1, 5, 9):
        await store.create(f"for-{life}", b"", expires_at=NOW + life, now=NOW, owner=ANN)
    assert [await store.count_owned("ann", most=1000, now=NOW + passed) for passed in (0, 1, 8, 9)] == [3, 2, 1, 0]


async def test_the_order_does_not_depend_on_the_index(tmp_path: Path) -> None:
    async with opened(f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}") as backend:
        async with backend.engine.begin() as connection:
            await connection.execute(text(f"DROP INDEX ix_{backend.table.name}_owner"))
        for key in "cab":
            await backend.store.create(key, b"", expires_at=NOW + 9, now=NOW, owner=ANN)
        assert await owned(backend.store, "ann") == ["c", "b", "a"]


# What a statement reads


async def test_an_entry_and_that_of_its_owner_are_found_by_the_primary_key(
    backend: SQLAlchemyBackend, db: Database
) -> None:
    await fill(backend, "big", enough(2_000, backend))
    for key, owner in (("key", ANN), ("ann", None), ("other", None)):
        await backend.store.create(key, b"", expires_at=NOW + 9, now=NOW, owner=owner)
    await analyze(backend)
    here = {"p_key": "key", "p_other": "other", "p_now": NOW}
    # MariaDB explains it in ten columns, which SQLAlchemy would take for the ten that the statement has.
    statement = backend.store.statements.get_joined.add_columns(literal_column("1"))
    plan = await explained(backend.engine, statement, here)
    if db.is_postgres:
        assert plan.count(f"Index Scan using {backend.table.name}_pkey") == 3
        assert "Seq Scan" not in plan
    elif db.name == "sqlite":
        assert plan.count("(key=?)") == len(plan.splitlines()) == 3
    else:
        assert plan.splitlines() == ["const|PRIMARY"] * 3


@pytest.mark.guarantee(18)
@pytest.mark.parametrize("since", [NOW, None])
async def test_a_page_begins_in_the_index(since: int | None, backend: SQLAlchemyBackend, db: Database) -> None:
    """No plan reads the pages before it, nor sorts; if all entries are of one second neither."""
    many = 500 if db.name == "sqlite" else 5_000
    for owner, rows in (("big", many), (None, many), ("ann", 10)):
        await fill(backend, owner, rows, since)
    await analyze(backend)
    statements, index = backend.store.statements, f"ix_{backend.table.name}_owner"
    here = {"p_owner": "big", "p_now": NOW, "p_since": NOW + many // 2, "p_key": "8", "p_limit": PAGE}
    if since is not None:
        here["p_since"] = since
    page = await explained(backend.engine, statements.list_owned, here)
    count = await explained(backend.engine, statements.count_owned, {"p_owner": "ann", "p_now": NOW, "p_limit": 11})
    if db.is_postgres:
        assert f"Index Scan Backward using {index}" in page
        assert "ROW(since, (key)::text) < ROW(" in page.partition("Index Cond:")[2].partition("Filter:")[0]
        assert index in count
        assert "Seq Scan" not in count
    elif db.name == "sqlite":
        assert page.endswith(f"USING INDEX {index} (owner=? AND (since,key)<(?,?))")
        assert f"USING INDEX {index} (owner=?)" in count
    else:
        assert page == f"range|{index}"
        assert count == f"ALL|None\nref|{index}"  # those that it has found in the index are counted
        async with backend.engine.connect() as connection:
            await connection.execute(text("FLUSH STATUS"))
            await connection.execute(statements.list_owned, here)
            read = (await connection.execute(text("SHOW SESSION STATUS LIKE 'Handler_read%'"))).all()
        assert sum(int(number) for _, number in read) <= PAGE + 5


@pytest.mark.guarantee(18)
@pytest.mark.parametrize("name", list(DATABASES))
async def test_each_call_about_an_owner_is_one_statement(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with metered(name, request, tmp_path) as (url, meter_of), opened(url) as backend:
        store, asked = backend.store, meter_of(backend)
        version = await store.create("key", b"", expires_at=NOW + 9, now=NOW, owner=ANN)
        for _ in range(2):  # statements are prepared
            await store.list_owned("ann", limit=1, now=NOW)
            await store.count_owned("ann", most=1000, now=NOW)
            await store.time()
            version = await store.replace("key", b"", version, expires_at=NOW + 9, now=NOW, owner=ANN)
        await asked()
        for n, work in enumerate(
            (
                store.create("new", b"", expires_at=NOW + 9, now=NOW, owner=ANN),
                store.replace("key", b"", version, expires_at=NOW + 9, now=NOW, owner=ANN),
                store.list_owned("ann", limit=1, now=NOW),
                store.count_owned("ann", most=1000, now=NOW),
                store.delete("key", now=NOW),
                store.time(),
            )
        ):
            await work
            assert await asked() == 1, n
        versions = {f"key-{n}": await store.create(f"key-{n}", b"", expires_at=NOW + 9, now=NOW) for n in range(50)}
        await asked()
        await asyncio.gather(*(store.delete(key, version, now=0) for key, version in versions.items()))
        assert await asked() == 1, "fifty deletes at once"


async def test_the_time_is_that_of_the_database(store: SQLAlchemyStore) -> None:
    before = time.time()
    assert before - 1 < await store.time() < time.time() + 1


async def test_the_time_does_not_depend_on_the_time_zone_of_the_connection(mariadb_server: Address) -> None:
    at = 1_761_441_300.25
    settings = {"init_command": f"SET time_zone = '+05:30', timestamp = {at}"}
    async with opened(create_async_engine(mariadb_server.over("asyncmy"), connect_args=settings)) as backend:
        assert await backend.store.time() == at


# Many at once


@pytest.mark.guarantee(15)
async def test_of_200_sign_ins_of_one_user_at_once_none_is_lost(store: SQLAlchemyStore) -> None:
    keys = [secrets.token_hex(16) for _ in range(200)]
    await asyncio.gather(*(store.create(key, b"v", expires_at=NOW + 9, now=NOW, owner=ANN) for key in keys))
    assert await owned(store, "ann") == sorted(keys, reverse=True)
    assert await store.count_owned("ann", most=1000, now=NOW) == 200


@pytest.mark.guarantee(15)
async def test_creates_deletes_renewals_and_sweeps_of_one_owner_at_once_all_happen(store: SQLAlchemyStore) -> None:
    """Each changes the same part of the index, and what the sweep removes is between what lives."""
    old = {secrets.token_hex(16): expires_at for expires_at in (NOW + 1, NOW + 9, NOW + 9) for _ in range(70)}
    made = await asyncio.gather(
        *(store.create(key, b"", expires_at=expires_at, now=NOW, owner=ANN) for key, expires_at in old.items())
    )
    living = [key for key, expires_at in old.items() if expires_at == NOW + 9]
    renewed, ended, new = living[:70], living[70:], [secrets.token_hex(16) for _ in range(70)]
    versions, later = dict(zip(old, made, strict=True)), NOW + 5

    async def renew(key: str) -> None:
        await store.replace(key, b"2", versions[key], expires_at=NOW + 99, now=later, owner=ANN)

    swept, *_ = await asyncio.gather(
        asyncio.gather(*(store.sweep(7, now=later) for _ in range(20))),
        *(store.create(key, b"", expires_at=NOW + 9, now=later, owner=ANN) for key in new),
        *(store.delete(key, now=later) for key in ended),
        *(renew(key) for key in renewed),
        *(store.list_owned("ann", limit=PAGE, now=later) for _ in range(20)),
    )
    assert await owned(store, "ann", now=later) == sorted(renewed + new, reverse=True)
    assert sum(swept) + await store.sweep(1000, now=later) == 70


async def test_what_another_transaction_does_with_an_entry_lets_its_owner_work(shared: Database) -> None:
    """Creates, deletes and pages of one owner wait for no lock on another entry of theirs."""
    async with opened(shared.url) as backend:
        store = backend.store
        versions = {
            key: await store.create(key, b"", expires_at=NOW + 9, now=NOW, owner=ANN) for key in ("a", "c", "e", "g")
        }
        other = create_async_engine(shared.url)
        async with other.connect() as connection:
            row = {"p_value": b"", "p_expires_at": NOW + 9, "p_version": 1, "p_owner": "ann", "p_since": NOW}
            here = {"p_key": "c", "p_now": NOW, "p_expect": versions["c"]}
            await connection.execute(store.statements.replace, {**row, **here})
            await connection.execute(store.statements.delete, {"p_key": "e", "p_now": NOW})
            await connection.execute(store.statements.insert, {**row, "p_key": "d"})
            for key in ("0", "b", "cc", "dd", "f", "z"):
                await store.create(key, b"", expires_at=NOW + 9, now=NOW, owner=ANN)
            assert await store.delete("a", versions["a"], now=NOW)
            await store.replace("g", b"", versions["g"], expires_at=NOW + 99, now=NOW, owner=ANN)
            assert await owned(store, "ann", limit=2) == ["z", "g", "f", "e", "dd", "cc", "c", "b", "0"]
            await connection.rollback()
        await other.dispose()


@pytest.fixture(params=[name for name in DATABASES if name != "sqlite"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """A server, where two transactions can write at once."""
    return database(request.param, request, tmp_path)


# A table of an earlier version


async def make_old_table(backend: SQLAlchemyBackend, engine: AsyncEngine) -> None:
    name = backend.table.name
    async with engine.begin() as connection:
        await connection.execute(text(f"DROP INDEX ix_{name}_owner{on_table(backend)}"))
        for column in ("owner", "since"):
            await connection.execute(text(f"ALTER TABLE {name} DROP COLUMN {column}"))


def on_table(backend: SQLAlchemyBackend) -> str:
    return f" ON {backend.table.name}" if backend.engine.dialect.name == "mysql" else ""


async def test_a_table_without_owners_is_named_with_the_cure(db: Database) -> None:
    async with opened(db.url) as backend:
        await make_old_table(backend, backend.engine)
        cure = rf"'{backend.table.name}' lacks a column or an index.*Alembic.*drop it.*create_table"
        with pytest.raises(ImproperlyConfigured, match=cure):
            async with backend.lifespan():
                raise AssertionError("it has started with the table of an earlier version")
        for work in (
            backend.store.create("key", b"", expires_at=NOW + 9, now=NOW),
            backend.store.replace("key", b"", 1, expires_at=NOW + 9, now=NOW),
            backend.store.list_owned("ann", limit=1, now=NOW),
            backend.store.count_owned("ann", most=1000, now=NOW),
        ):
            with pytest.raises(BackendUnavailable, match=cure):
                await work
        async with backend.engine.begin() as connection:
            await connection.run_sync(backend.table.drop)
        await backend.create_table()
        async with backend.lifespan():
            assert await backend.read(await backend.write({"user": "ann"})) == {"user": "ann"}


async def test_rows_that_an_earlier_version_writes_into_the_new_table_have_no_owner(
    backend: SQLAlchemyBackend,
) -> None:
    """While workers are replaced one after the other, both versions are at work."""
    async with backend.engine.begin() as connection:
        row: dict[str, Any] = {"key": "old", "value": b"v", "expires_at": NOW + 9, "version": 1}
        await connection.execute(backend.table.insert(), row)
        assert (await connection.execute(select(backend.table.c.owner))).all() == [(None,)]
    assert await backend.store.replace("old", b"", 1, expires_at=NOW + 9, now=NOW, owner=ANN)
    assert await owned(backend.store, "ann") == ["old"]
