"""Measure the size of a session: bytes in the store, and bytes and round trips per request.

    python -m benchmarks.sizes                     # two tables, as docs/guides/production/sizes.md has them
    python -m benchmarks.sizes --sessions 2000     # faster, and less exact
    python -m benchmarks.sizes --only redis,sqlite

The servers are private ones, started as in the tests; those that are not installed are left out. Set a variable such as
`STARSESSIONS_REDIS_URL` (see CONTRIBUTING.md) to use your own server; the names created there are removed at the end.
The payload is random text, so that no database compresses it.
"""

import argparse
import asyncio
import random
import tempfile
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex, token_urlsafe
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from starsessions import InMemoryBackend, Session
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.core.record import Found
from starsessions.core.serializer import Msgpack
from tests.servers import mariadb, postgres, redis
from tests.servers.fixtures import shared
from tests.site import Act, Browser, Site

SIZES = (150, 4096)
AT_ONCE = 50
CHANGES = 3
VISITS = 20


@dataclass
class Opened:
    """A store, and the bytes that it uses."""

    backend: StoreBackend
    held: Callable[[], Awaitable[float]]
    tidy: Callable[[], Awaitable[object]]
    """Run the server's periodic maintenance now, so that changes leave no garbage."""


Open = Callable[[str], AbstractAsyncContextManager[Opened]]


async def nothing() -> None:
    pass


# --- the stores -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def in_memory(url: str) -> AsyncIterator[Opened]:
    async def held() -> float:
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        yield Opened(InMemoryBackend(), held, nothing)
    finally:
        tracemalloc.stop()


@asynccontextmanager
async def in_redis(url: str) -> AsyncIterator[Opened]:
    prefix = "starsessions:"
    async with Redis.from_url(url) as client:
        backend = RedisBackend(url, prefix)

        async def held() -> float:
            return float((await client.info("memory"))["used_memory"])

        async with backend.lifespan():
            yield Opened(backend, held, nothing)
        async for key in client.scan_iter(prefix + "*"):
            await client.unlink(key)


@asynccontextmanager
async def in_sql(url: str, held_in: Callable[[AsyncEngine, str], Awaitable[float]], tidy: str) -> AsyncIterator[Opened]:
    backend = SQLAlchemyBackend(url, f"sizes_{token_hex(4)}")

    async def say(statement: str) -> None:
        async with backend.engine.connect() as connection:
            await connection.execute(text(statement))

    name = backend.table.name
    await backend.create_table()
    async with backend.lifespan():
        yield Opened(backend, lambda: held_in(backend.engine, name), lambda: say(tidy.format(name)))
        await say(f"DROP TABLE {name}")


async def scalar(engine: AsyncEngine, statement: str, **values: str) -> float:
    async with engine.connect() as connection:
        return float((await connection.execute(text(statement), values)).scalar_one())


async def of_postgres(engine: AsyncEngine, name: str) -> float:
    return await scalar(engine, "SELECT pg_total_relation_size(:name)", name=name)


async def of_mariadb(engine: AsyncEngine, name: str) -> float:
    async with engine.connect() as connection:
        await connection.execute(text(f"ANALYZE TABLE {name}"))
    return await scalar(
        engine, "SELECT data_length + index_length FROM information_schema.tables WHERE table_name = :name", name=name
    )


async def of_sqlite(engine: AsyncEngine, name: str) -> float:
    pages = "SELECT (p.page_count - f.freelist_count) * s.page_size"
    return await scalar(engine, f"{pages} FROM pragma_page_count p, pragma_freelist_count f, pragma_page_size s")


STORES: dict[str, Open] = {
    "memory": in_memory,
    "redis": in_redis,
    "postgres": lambda url: in_sql(url, of_postgres, "VACUUM {}"),
    "mariadb": lambda url: in_sql(url, of_mariadb, "ANALYZE TABLE {}"),
    "sqlite": lambda url: in_sql(url, of_sqlite, "SELECT 1"),
}


# --- bytes in the store -----------------------------------------------------------------------------------------------


def data_of(size: int) -> dict[str, Any]:
    """Return data whose payload has exactly `size` bytes."""
    data: dict[str, Any] = {"user": random.randrange(10**6, 10**9), "rest": ""}
    for _ in range(3):  # the prefix with a text's length varies in length, too
        length = len(data["rest"]) + size - len(Msgpack().dumps(data))
        data["rest"] = token_urlsafe(length)[:length]
    assert len(Msgpack().dumps(data)) == size
    return data


async def all_of(works: Iterable[Awaitable[Any]]) -> list[Any]:
    done: list[Any] = []
    batch: list[Awaitable[Any]] = []
    for work in works:
        batch.append(work)
        if len(batch) == AT_ONCE:
            done += await asyncio.gather(*batch)
            batch = []
    return done + await asyncio.gather(*batch)


@dataclass
class Kept:
    """Return the bytes of one session."""

    new: float
    changed: float
    pointer: float
    """Return the bytes that a rotation leaves under the old id."""


async def measure_kept(opened: Opened, size: int, sessions: int) -> Kept:
    backend = opened.backend

    async def grown() -> float:
        return (await opened.held() - before) / sessions

    async def in_fifths(work: Callable[[str], Awaitable[Any]]) -> None:
        """Clean up as databases do when a fifth of a table has changed (PostgreSQL's default)."""
        random.shuffle(ids)
        fifth = -(-sessions // 5)
        for start in range(0, sessions, fifth):
            await all_of(work(session_id) for session_id in ids[start : start + fifth])
            await opened.tidy()

    async def rotate(session_id: str) -> None:
        now = int(time.time())
        found = await backend.fetch(session_id, now)
        assert isinstance(found, Found)
        await backend.rotate(found, found.record, await backend.new_id(), now + 10**6, now)

    # Connections, caches and the first pages do not count.
    for session_id in await all_of(backend.write(data_of(size)) for _ in range(AT_ONCE)):
        await backend.read(session_id)
    await opened.tidy()
    before = await opened.held()
    ids = await all_of(backend.write(data_of(size)) for _ in range(sessions))
    await opened.tidy()
    new = await grown()
    for _ in range(CHANGES):
        await in_fifths(lambda session_id: backend.write(data_of(size), session_id))
    changed = await grown()
    await in_fifths(rotate)
    return Kept(new, changed, await grown() - changed)


# --- bytes on the wire ------------------------------------------------------------------------------------------------


class Between:
    """A proxy between a client and a server that counts bytes and round trips."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self.host, self.port = parts.hostname, parts.port
        self._url = url
        self.reset()

    def reset(self) -> None:
        self.up = self.down = self.trips = 0
        self._asked = False

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        while received := await reader.read(2**16):
            if up:
                self.up += len(received)
                self.trips += not self._asked
            else:
                self.down += len(received)
            self._asked = up
            writer.write(received)
        writer.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection(self.host, self.port)
        await asyncio.gather(self._pass_on(reader, to_server[1], True), self._pass_on(to_server[0], writer, False))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        """Yield the URL to use instead of the server's."""
        async with await asyncio.start_server(self._accept, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            yield self._url.replace(f"{self.host}:{self.port}", f"127.0.0.1:{port}")
            server.close()


@dataclass
class Way:
    """Averages per request."""

    trips: float
    up: float
    down: float


BEGINS = "begins one"


def requests(size: int) -> dict[str, Act]:
    async def change(session: Session) -> None:
        await session.load()
        session.update(data_of(size))

    return {
        "does not use it": lambda session: None,
        "reads": Session.load,
        BEGINS: change,
        "changes": change,
        "rotates": Session.regenerate_id,
        "logs out": Session.flush,
    }


async def measure_way(open_store: Open, url: str, size: int) -> dict[str, Way]:
    between = Between(url)
    ways = {}
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_store(await stack.enter_async_context(between.open())))
        site = Site(backend=opened.backend)
        acts = requests(size)
        for name, act in acts.items():
            total = Way(0, 0, 0)
            for n in range(VISITS * 2):  # drivers prepare a statement after seeing it a few times
                browser = Browser()
                if name != BEGINS:
                    await site.visit(acts[BEGINS], browser)
                between.reset()
                await site.visit(act, browser)
                if n >= VISITS:
                    total.trips += between.trips / VISITS
                    total.up += between.up / VISITS
                    total.down += between.down / VISITS
            ways[name] = total
    return ways


# --- the tables -------------------------------------------------------------------------------------------------------


@contextmanager
def servers(only: Sequence[str]) -> Iterator[dict[str, str]]:
    """Return the addresses of the available servers."""
    memory = Path("/dev/shm")  # a file has the same size there, and is written faster
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None))
        found = {"memory": "", "sqlite": f"sqlite+aiosqlite:///{folder}/sessions.db"}
        starters: dict[str, tuple[str, Callable[[], Any], str]] = {
            "redis": ("STARSESSIONS_REDIS_URL", redis.standalone, ""),
            "postgres": ("STARSESSIONS_POSTGRES_URL", postgres.server, "asyncpg"),
            "mariadb": ("STARSESSIONS_MARIADB_URL", mariadb.server, "asyncmy"),
        }
        for name, (variable, start, driver) in starters.items():
            if name in only:
                try:
                    address = stack.enter_context(contextmanager(shared)(variable, start))
                except pytest.skip.Exception as skip:
                    print(f"(left out: {skip})")
                else:
                    found[name] = address.over(driver) if driver else address.url
        yield {name: found[name] for name in only if name in found}


async def main(sessions: int, addresses: dict[str, str]) -> None:
    print(f"Bytes of one session, of {sessions:,}\n")
    print("| store | payload | new | after three changes | left by a rotation |")
    print("|---|---|---|---|---|")
    for name, url in addresses.items():
        for size in SIZES:
            async with STORES[name](url) as opened:
                kept = await measure_kept(opened, size, sessions)
            print(f"| {name} | {size} | {kept.new:.0f} | {kept.changed:.0f} | {kept.pointer:.0f} |", flush=True)

    print("\nOne request: round trips, bytes to the server, bytes back\n")
    names = list(requests(0))
    print("| store | payload | " + " | ".join(names) + " |")
    print("|---" * (2 + len(names)) + "|")
    for name, url in addresses.items():
        for size in SIZES if "@" in url or url.startswith("redis") else ():
            ways = await measure_way(STORES[name], url, size)
            cells = [f"{way.trips:.3g}: {way.up:.0f}, {way.down:.0f}" for way in ways.values()]
            print(f"| {name} | {size} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a session takes.")
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(STORES))
    arguments = parser.parse_args()
    with servers(arguments.only) as addresses:
        asyncio.run(main(arguments.sessions, addresses))
