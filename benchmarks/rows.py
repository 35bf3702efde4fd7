"""Measure SQL among many rows: loading, writing, listing a user's sessions, and sweeping one batch.

The times should be as low among a million rows as among a thousand. The tests check the database's query plan to show
that each statement uses an index; this measures the time. A write during a sweep waits for one batch at most.
"""

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from secrets import token_urlsafe
from statistics import median
from typing import Any

from sqlalchemy import select, text

from benchmarks.cases import data_of
from benchmarks.marks import SWEEP, WAITS
from starsessions import Session, users
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.users import UserSessions

Work = Callable[[], Awaitable[None]]
Measured = Callable[[], Awaitable[float]]
"""Returns microseconds, or a ratio."""

FEW = 1000
PEOPLE = 100
SESSIONS_EACH = 3
CHUNK = 10_000
ROUNDS, TIMES = 7, 100
BATCH = 1000


def measure(urls: dict[str, str], most: int) -> list[dict[str, Any]]:
    return [row for kind, url in urls.items() for row in asyncio.run(of_database(kind, url, (FEW, most)))]


async def of_database(kind: str, url: str, sizes: tuple[int, ...]) -> list[dict[str, Any]]:
    async with AsyncExitStack() as stack:
        tables = {rows: await stack.enter_async_context(table_of(url, rows)) for rows in sizes}
        found: dict[int, dict[str, list[float]]] = {rows: {} for rows in sizes}
        gc.collect()
        for _ in range(ROUNDS):
            for rows, works in tables.items():
                for name, measured in works.items():
                    found[rows].setdefault(name, []).append(await measured())
    # The best round, as everywhere; but of the longest waits of a writer, the median.
    best = {
        rows: {name: (median if name == WAITS else min)(took) for name, took in names.items()}
        for rows, names in found.items()
    }
    return [{"kind": kind, "rows": rows, **names} for rows, names in best.items()]


def mean(work: Work, count: int) -> Measured:
    async def measured() -> float:
        return await microseconds(work, count)

    return measured


async def microseconds(work: Work, count: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(count):
        await work()
    return (time.perf_counter() - started) / count * 1e6


def wait_for(batch: Work, work: Work) -> Measured:
    """Return the longest time of `work` during the sweep of a batch, over that of the batch and of `work` alone."""

    async def measured() -> float:
        alone = max([await microseconds(work) for _ in range(10)])
        longest = 0.0
        sweep = asyncio.create_task(microseconds(batch))
        await asyncio.sleep(0)
        while not sweep.done():
            longest = max(longest, await microseconds(work))
        return longest / (await sweep + alone)

    return measured


@asynccontextmanager
async def table_of(url: str, rows: int) -> AsyncIterator[dict[str, Measured]]:
    backend = SQLAlchemyBackend(url, f"among_{rows}", timeout=600)
    await backend.create_table()
    try:
        ids = [await signed_in(backend, f"user-{n}") for n in range(PEOPLE) for _ in range(SESSIONS_EACH)]
        await fill(backend, rows)
        yield works_on(backend, ids)
    finally:
        async with backend.engine.begin() as connection:
            await connection.run_sync(backend.table.drop)
        await backend.engine.dispose()


async def signed_in(backend: SQLAlchemyBackend, user: str) -> str:
    session = Session(backend)
    await session.load()
    session.update(data_of(150))
    await users.sign_in(session, user)
    return await session.persist()


async def fill(backend: SQLAlchemyBackend, rows: int) -> None:
    """Insert copies of an existing row under other keys, and expired ones for the sweep."""
    now = int(time.time())
    async with backend.engine.connect() as connection:
        value = (await connection.execute(select(backend.table.c.value).limit(1))).scalar_one()

    async def insert(count: int, first: int, last: int) -> None:
        for start in range(0, count, CHUNK):
            made = [
                {
                    "key": token_urlsafe(32),
                    "value": value,
                    "expires_at": now + random.randint(first, last),
                    "version": random.getrandbits(63),
                }
                for _ in range(min(CHUNK, count - start))
            ]
            async with backend.engine.connect() as connection:
                await connection.execution_options(isolation_level="SERIALIZABLE")
                async with connection.begin():
                    await connection.execute(backend.table.insert(), made)

    await insert(rows, 10**5, 10**6)
    await insert(2 * ROUNDS * BATCH, -(10**6), -1000)
    async with backend.engine.connect() as connection:
        await connection.execute(text(f"ANALYZE {backend.table.name}"))


def works_on(backend: SQLAlchemyBackend, ids: list[str]) -> dict[str, Measured]:
    """Return the measurements of one round."""
    users = UserSessions(backend)

    async def load() -> None:
        assert await backend.read(random.choice(ids))

    async def write() -> None:
        session = Session(backend, random.choice(ids))
        await session.load()
        session["visits"] += 1
        await session.persist()

    async def of_one() -> None:
        listed = await users.list(f"user-{random.randrange(PEOPLE)}")
        assert len(listed) == SESSIONS_EACH

    async def sweep() -> None:
        assert await backend.sweep(BATCH) == BATCH

    return {
        "load": mean(load, TIMES),
        "load and write": mean(write, TIMES),
        f"list of {SESSIONS_EACH}": mean(of_one, TIMES),
        SWEEP: mean(sweep, 1),
        WAITS: wait_for(sweep, write),
    }
