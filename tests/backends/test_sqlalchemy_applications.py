"""Applications whose models are in the same database: what they hold while their session is saved, and what is said."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import anyio
import httpx2
import pytest
import uvicorn
from fastapi import Depends, FastAPI
from sqlalchemy import NullPool, StaticPool, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from starlette.requests import Request
from starlette.testclient import TestClient

from starsessions import ImproperlyConfigured, SessionMiddleware
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from tests.backends.sql import DATABASES, Database, database, opened, pool_of
from tests.servers.process import Address

pytestmark = pytest.mark.anyio


@pytest.fixture(params=list(DATABASES))
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[httpx2.AsyncClient]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="on"))
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        yield client
    server.should_exit = True
    await running


def shop(backend: SQLAlchemyBackend, engine: AsyncEngine, statement: str, together: int = 1, **scope: Any) -> FastAPI:
    """The dependency ends its transaction and returns its connection after the response, as FastAPI's guide has it."""
    app, barrier = FastAPI(), asyncio.Barrier(together)
    app.add_middleware(SessionMiddleware, backend=backend, autoload=True)

    async def connected() -> AsyncIterator[Any]:
        async with engine.begin() as connection:
            yield connection

    @app.get("/")
    async def order(request: Request, connection: Annotated[Any, Depends(connected, **scope)]) -> None:
        await connection.execute(text(statement))
        await barrier.wait()  # each request has its connection now
        request.session["ordered"] = True

    return app


@pytest.mark.parametrize(("pool", "visitors"), [({"pool_size": 3, "max_overflow": 0}, 3), ({}, 15)])
async def test_as_many_requests_as_the_engine_has_connections_save_their_sessions(
    pool: dict[str, int], visitors: int, postgres_server: Address
) -> None:
    for driver in ("asyncpg", "psycopg"):
        engine = create_async_engine(postgres_server.over(driver), **pool)
        async with opened(engine) as backend, served(shop(backend, engine, "SELECT 1", visitors)) as client:
            replies = await asyncio.gather(*(client.get("/") for _ in range(visitors)))
        await engine.dispose()
        assert [reply.status_code for reply in replies] == [200] * visitors


@pytest.mark.parametrize("shares_engine", [True, False])
async def test_a_request_that_has_locked_the_sqlite_file_itself_says_so_and_works_with_function_scope(
    shares_engine: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, insert = f"sqlite+aiosqlite:///{tmp_path / 'shop.db'}", "INSERT INTO orders VALUES (1)"
    engine = create_async_engine(url)
    engine_or_url = engine if shares_engine else url
    async with opened(engine_or_url) as backend:
        hasty = SQLAlchemyBackend(engine_or_url, backend.table.name, timeout=1)
        async with engine.begin() as connection:
            await connection.execute(text("CREATE TABLE orders (id INTEGER)"))
        async with served(shop(hasty, engine, insert)) as client:
            assert (await client.get("/")).status_code == 503
        assert 'Depends(get_db, scope="function")' in caplog.text
        assert "a file of their own" in caplog.text
        async with served(shop(backend, engine, insert, scope="function")) as client:
            assert (await client.get("/")).status_code == 200
    await engine.dispose()


async def test_the_settings_and_events_of_an_engine_apply_to_the_connections_of_the_sessions(tmp_path: Path) -> None:
    url, seen = f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}", set()
    engine = create_async_engine(url, poolclass=NullPool, connect_args={"cached_statements": 7})
    event.listen(engine.sync_engine, "do_connect", lambda *args: seen.add(args[-1]["cached_statements"]))
    event.listen(engine.sync_engine, "connect", lambda *args: seen.add("connect"))
    async with opened(engine.execution_options(mine=1)) as backend:
        event.listen(
            engine.sync_engine, "before_execute", lambda *args: seen.add(args[0].get_execution_options().get("mine"))
        )
        await backend.write({"user": "ann"})
        assert isinstance(pool_of(backend), NullPool)
        assert seen == {7, "connect", 1}


async def test_a_database_in_memory_is_one_in_all_event_loops() -> None:
    memory = "sqlite+aiosqlite://"
    for engine_or_url in (memory, create_async_engine(memory, poolclass=StaticPool)):
        backend = SQLAlchemyBackend(engine_or_url, timeout=30)
        await asyncio.to_thread(asyncio.run, backend.create_table())
        session_id = await backend.write({"user": "ann"})
        assert await backend.read(session_id) == {"user": "ann"}
        await backend.store.aclose()
        with pytest.raises(ImproperlyConfigured, match="missing"):
            async with backend.lifespan():
                pass


def test_a_database_in_memory_serves_several_event_loops_at_once() -> None:
    """They share its one connection. A failure on it would close it, and the database would end with it."""
    backend = SQLAlchemyBackend("sqlite+aiosqlite://", timeout=30)
    asyncio.run(backend.create_table())

    async def use(thread: int) -> list[Any]:
        async def visit(n: int) -> Any:
            return await backend.read(await backend.write({"of": [thread, n]}))

        return [found for _ in range(10) for found in await asyncio.gather(*map(visit, range(8)))]

    with ThreadPoolExecutor(4) as threads:
        for thread, found in enumerate(threads.map(lambda thread: asyncio.run(use(thread)), range(4))):
            assert found == [{"of": [thread, n]} for n in range(8)] * 10
    asyncio.run(backend.store.aclose())


# Tables: where they are, and that they are missing


async def test_a_table_is_found_in_the_schema_that_the_engine_or_its_name_gives(postgres_server: Address) -> None:
    plain = create_async_engine(postgres_server.over("asyncpg"), isolation_level="AUTOCOMMIT")
    translated = plain.execution_options(schema_translate_map={None: "tenant"})
    async with plain.connect() as connection:
        for schema in ("tenant", "web"):
            await connection.execute(text(f"CREATE SCHEMA {schema}"))
        try:
            for engine, table in ((translated, "sessions"), (plain, "web.sessions")):
                backend = SQLAlchemyBackend(engine, table, timeout=30)
                with pytest.raises(ImproperlyConfigured, match=f"{backend.table.fullname}' is missing"):
                    async with backend.lifespan():
                        pass
                await backend.create_table()
                async with backend.lifespan():
                    assert await backend.read(await backend.write({"user": "ann"})) == {"user": "ann"}
            found = text("SELECT table_schema FROM information_schema.tables WHERE table_name = 'sessions'")
            assert set((await connection.execute(found)).scalars()) == {"tenant", "web"}
        finally:
            await connection.execute(text("DROP SCHEMA tenant, web CASCADE"))
    await plain.dispose()


def one_handler(backend: SQLAlchemyBackend) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=backend, autoload=True)

    @app.get("/")
    async def count(request: Request) -> int:
        request.session["n"] = n = request.session.get("n", 0) + 1
        return n

    return app


async def test_a_missing_table_is_named_without_a_lifespan_too(db: Database, caplog: pytest.LogCaptureFixture) -> None:
    app = one_handler(SQLAlchemyBackend(db.url, "forgotten", timeout=30))
    reply = await asyncio.to_thread(lambda: TestClient(app).get("/"))
    assert reply.status_code == 503
    assert "The table 'forgotten' is missing" in caplog.text
    assert "create_table()" in caplog.text
    assert "Alembic" in caplog.text


def test_a_mounted_middleware_that_never_sweeps_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def visited(lifespan: Callable[[SQLAlchemyBackend], Any]) -> int:
        backend = SQLAlchemyBackend(f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}", sweep_every=60, timeout=30)
        asyncio.run(backend.create_table())
        caplog.clear()
        outer = FastAPI(lifespan=lambda app: lifespan(backend))
        outer.mount("/", one_handler(backend))
        with TestClient(outer) as client:
            assert [client.get("/").json() for _ in range(3)] == [1, 2, 3]
        return sum("async with backend.lifespan()" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.WARNING, "starsessions"):
        assert visited(lambda backend: contextlib.nullcontext()) == 1
        assert visited(lambda backend: backend.lifespan()) == 0


def test_a_server_without_asyncio_cannot_start(tmp_path: Path) -> None:
    backend = SQLAlchemyBackend(f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}", timeout=30)

    async def start() -> None:
        async with backend.lifespan():
            pass

    with pytest.raises(ImproperlyConfigured, match="needs asyncio"):
        anyio.run(start, backend="trio")
