"""What a failover or a crash of PostgreSQL takes back is the database's own setting, and so is what prevents it.

Standbys are refused, and the writer of the log is paused, so that what is lost is no matter of chance.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from starsessions import BackendUnavailable
from starsessions.backends.sqlalchemy import SQLAlchemyBackend, SQLAlchemyStore
from starsessions.stores.base import Deletion
from starsessions.stores.sqlalchemy.connection import Database
from tests.backends.sql import NOW, until
from tests.rows import rows
from tests.servers import guard, postgres
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.anyio

DRIVERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "asyncpg": lambda value: {"server_settings": {"synchronous_commit": value}},
    "psycopg": lambda value: {"options": f"-c synchronous_commit={value}"},
}
"""The `connect_args` by which an engine asks for another setting than the server's, as the guide says."""

Pair = tuple[PostgresServer, PostgresServer]


@pytest.fixture(params=list(DRIVERS))
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with postgres.pair(settings={"synchronous_commit": "local"}) as both:
        yield both


@asynccontextmanager
async def opened(server: PostgresServer, driver: str, **settings: Any) -> AsyncIterator[SQLAlchemyStore]:
    engine = create_async_engine(server.address.over(driver), isolation_level="AUTOCOMMIT", **settings)
    backend = SQLAlchemyBackend(engine, timeout=30)
    await backend.create_table()
    async with backend.lifespan():
        yield backend.store


async def signed_in(store: SQLAlchemyStore) -> dict[str, Any]:
    keys = [f"key-{n}" for n in range(20)]
    return dict(zip(keys, [await store.create(key, b"", expires_at=NOW + 99, now=NOW) for key in keys], strict=True))


async def alive(store: SQLAlchemyStore) -> set[str]:
    return {key for key in [f"key-{n}" for n in range(20)] if await store.get(key, now=NOW) is not None}


def follows(pair: Pair) -> None:
    """Wait until the standby has everything."""
    primary, standby = pair
    last = primary.ask("SELECT pg_current_wal_lsn()")
    standby.wait_until(lambda: standby.ask(f"SELECT pg_last_wal_replay_lsn() >= '{last}'"), "did not follow")


def fail_over(pair: Pair) -> None:
    primary, standby = pair
    primary.kill()
    standby.promote()


async def test_a_failover_takes_back_what_was_confirmed_without_a_standby(pair: Pair, driver: str) -> None:
    """The control: the standby is asynchronous, and all that it lacks comes back."""
    primary, standby = pair
    async with opened(primary, driver) as store:
        sessions = await signed_in(store)
        follows(pair)
        primary.refuse_standbys()
        for key, version in sessions.items():
            assert await store.delete(key, version, now=NOW) is True
    fail_over(pair)
    async with opened(standby, driver) as store:
        assert await alive(store) == {*sessions}


@pytest.mark.guarantee(20)
async def test_a_failover_takes_back_nothing_that_a_synchronous_standby_has(pair: Pair, driver: str) -> None:
    primary, standby = pair
    primary.wait_for_standby()
    async with opened(primary, driver, connect_args=DRIVERS[driver]("on")) as store:
        sessions = await signed_in(store)
        for key, version in [*sessions.items()][:10]:
            assert await store.delete(key, version, now=NOW) is True
        fail_over(pair)
    async with opened(standby, driver) as store:
        assert await alive(store) == {*[*sessions][10:]}


async def test_an_end_that_no_synchronous_standby_has_is_not_confirmed(pair: Pair, driver: str) -> None:
    primary, standby = pair
    primary.wait_for_standby()
    async with opened(primary, driver) as store:
        sessions = await signed_in(store)
        follows(pair)
    primary.refuse_standbys()
    async with opened(primary, driver, connect_args=DRIVERS[driver]("on")) as store:
        await asyncio.gather(*(store.get(key, now=NOW) for key in sessions))  # opens the connections
        store._database._timeout = 2
        ends = [store.delete(key, version, now=NOW) for key, version in sessions.items()]
        outcomes = await asyncio.gather(*ends, return_exceptions=True)
        assert {type(one) for one in outcomes} == {BackendUnavailable}
        # They have happened here all the same, so a second attempt has nothing to write, and nothing to wait for.
        await until(lambda: primary.ask("SELECT count(*) FROM starsessions") == 0)
        store._database._timeout = 30
        assert await store.delete("key-0", now=NOW) is False
        store._database._timeout = 2
        with pytest.raises(BackendUnavailable):  # what writes in any case, such as "end all", waits
            await store.create("epoch", b"", expires_at=NOW + 99, now=NOW)
        fail_over(pair)
    async with opened(standby, driver) as store:
        assert await alive(store) == {*sessions}


async def test_a_commit_that_waits_for_a_standby_holds_up_no_announcement(pair: Pair, driver: str) -> None:
    """A transaction that announces has the lock of all that do until it is committed."""
    primary, standby = pair
    primary.wait_for_standby()
    async with opened(primary, driver, connect_args=DRIVERS[driver]("on")) as store, store.listen() as heard:
        sessions = await signed_in(store)
        ends = [Deletion(key, version) for key, version in sessions.items()]
        await store.write_together(ends[:1], now=NOW, topics=["a"])  # its answer says that there is a standby
        assert [*await anext(heard)] == ["a"]
        with standby.paused():
            end = asyncio.create_task(store.write_together(ends[1:2], now=NOW, topics=["b"]))
            await until(lambda: primary.ask("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == 1)
            with primary.client() as other:
                other.execute("SET lock_timeout = '5s'")
                other.execute("SELECT pg_notify('another_application', '')")
            assert not end.done()
        await end
        assert [*await anext(heard)] == ["b"]


@rows("value", ["off", "local"])
async def test_where_no_commit_waits_for_a_standby_the_end_and_its_announcement_are_one(
    pair: Pair, driver: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, _ = pair
    primary.wait_for_standby()
    call, calls = Database.call, list[Any]()

    async def counted(database: Database, work: Any) -> Any:
        calls.append(work)
        return await call(database, work)

    async with opened(primary, driver, connect_args=DRIVERS[driver](value)) as store:
        sessions = await signed_in(store)
        with monkeypatch.context() as patched:
            patched.setattr(Database, "call", counted)
            for key, version in sessions.items():
                await store.write_together([Deletion(key, version)], now=NOW, topics=[key])
        assert len(calls) == len(sessions)


async def test_a_crash_takes_back_what_an_asynchronous_commit_has_confirmed(driver: str) -> None:
    with postgres.server(durable=True) as server:
        async with opened(server, driver) as store:
            sessions = await signed_in(store)
        writer = server.ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
        guard.send(writer, signal.SIGSTOP)
        async with opened(server, driver, connect_args=DRIVERS[driver]("off")) as store:
            for key, version in sessions.items():
                assert await store.delete(key, version, now=NOW) is True
            assert await alive(store) == set()
            server.kill()
        server.start()
        async with opened(server, driver) as store:
            assert await alive(store) == {*sessions}
            for key, version in sessions.items():
                assert await store.delete(key, version, now=NOW) is True
            server.kill()
        server.start()
        async with opened(server, driver) as store:
            assert await alive(store) == set()  # and a synchronous one has not
