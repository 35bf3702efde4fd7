"""Measure the statistics of many sessions: seconds, and the peak memory of the process that counts.

    python -m benchmarks.inventory                     # 1,000,000 sessions in Redis, a Cluster, PostgreSQL and SQLite
    python -m benchmarks.inventory --only redis --sessions 100000
    python -m benchmarks.inventory --erase             # one user with all of them is erased

The servers are private ones, started as in the tests, or those of the variables in CONTRIBUTING.md. The sessions are
written past the library, by COPY and by pipelines: 70 % of them are signed in, three of each user.

With `--erase`, all are those of one user, and half of them are sessions and half the history of sign-ins, where there
is SQL. The erasure is interrupted after a third of the sessions, and begun again.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from random import getrandbits
from secrets import token_urlsafe
from typing import Any, NamedTuple

from redis.asyncio import Redis, RedisCluster

from benchmarks.owners import STORES
from starsessions.backends.entries import Entries
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.backends.user_index import UserIndex, new_handle
from starsessions.core.record import Identity, Record
from starsessions.events import SignedIn
from starsessions.history import SignInHistory
from starsessions.inventory import stats
from starsessions.personal import erase_user
from starsessions.stores.base import Owner
from starsessions.stores.redis.layout import entry_of, new_version, place_of

NAME = "inventory"
LIFE = 14 * 86_400
CHUNK = 10_000
OF_EACH = 3
USER = "ann"


class Row(NamedTuple):
    """An entry of the store."""

    key: str
    value: bytes
    expires_at: int
    version: int
    owner: str | None
    since: int | None


def rows(index: UserIndex, count: int, user: str | None) -> Iterator[Row]:
    entries, now = Entries(), int(time.time())
    for n in range(count):
        key, identity = token_urlsafe(32), None
        if n % 10 < 7 or user is not None:
            name, at = user or f"user-{n // OF_EACH}", now if user is None else now - n
            identity = Identity(name, at, new_handle(), "password", "Firefox, Linux", "10.0.0.0/24")
        record = Record(b"\x81\xa4cart" + os.urandom(150), now, now, identity=identity)
        owner = index.owner_of(record) or Owner("", 0)
        value = entries.value(key, record)
        yield Row(key, value, now + LIFE, getrandbits(63), owner.name or None, owner.since or None)


def chunks(made: Iterator[Row]) -> Iterator[list[Row]]:
    return iter(lambda: list(islice(made, CHUNK)), [])


async def fill_sql(url: str, count: int, user: str | None) -> None:
    backend = SQLAlchemyBackend(url, NAME)
    await backend.create_table()
    made = rows(backend.bound_for().user_index, count, user)
    async with backend.engine.begin() as connection:
        if backend.engine.dialect.name == "postgresql":
            driver: Any = (await connection.get_raw_connection()).driver_connection
            await driver.copy_records_to_table(NAME, records=made, columns=Row._fields)
        else:
            for some in chunks(made):
                await connection.execute(backend.table.insert(), [row._asdict() for row in some])
    await backend.store.aclose()


async def fill_history(url: str, count: int) -> None:
    history = SignInHistory(url, timeout=60)
    await history.create_table()
    async with history.lifespan():
        for _ in range(0, count, CHUNK):
            for _ in range(CHUNK):
                history.record(SignedIn(new_handle(), USER, "password", "Firefox, Linux", "10.0.0.0/24"))
            await history.finished()


async def fill_redis(client: Any, count: int, user: str | None) -> None:
    prefix = f"{NAME}:".encode()
    for some in chunks(rows(RedisBackend(client).bound_for().user_index, count, user)):
        async with client.pipeline(transaction=False) as pipeline:
            for row in some:
                owner = None if row.owner is None else Owner(row.owner, row.since or 0)
                version = new_version(os.urandom(8), row.expires_at, owner)
                pipeline.set(prefix + row.key.encode(), entry_of(version, row.value), ex=LIFE)
                place = place_of(prefix, row.key, version)
                if place is not None:
                    pipeline.zadd(place.listing, {place.start + bytes(8): 0})
            await pipeline.execute()


def backend_on(kind: str, url: str) -> StoreBackend:
    if kind in {"redis", "cluster"}:
        client = url if kind == "redis" else lambda: RedisCluster.from_url(url)
        return RedisBackend(client, f"{NAME}:", timeout=30)
    return SQLAlchemyBackend(url, NAME, timeout=30)


async def fill(kind: str, url: str, count: int, user: str | None) -> None:
    match kind:
        case "redis":
            async with Redis.from_url(url) as client:
                await fill_redis(client, count, user)
        case "cluster":
            async with RedisCluster.from_url(url) as client:
                await fill_redis(client, count, user)
        case _ if user is None:
            await fill_sql(url, count, user)
        case _:
            await fill_sql(url, count // 2, user)
            await fill_history(url, count - count // 2)


async def measure(kind: str, url: str) -> None:
    """In a process of its own."""
    before, began = peak(), time.perf_counter()
    backend = backend_on(kind, url)
    async with backend.lifespan():
        found = await stats(backend, session_cookie="session")
    seconds = time.perf_counter() - began
    print(f"{kind}: {found.sessions:,} sessions in {seconds:.1f} s, {peak():.0f} MB at the peak ({before:.0f} before)")
    print("   ", asdict(found))


class Progress:
    """Notes how often it is called, and the longest pause."""

    def __init__(self) -> None:
        self.calls, self.longest, self.last = 0, 0.0, time.perf_counter()
        self.interrupts_after, self.task = sys.maxsize, asyncio.current_task()

    def __call__(self, number: int) -> None:
        now = time.perf_counter()
        self.calls, self.longest, self.last = self.calls + 1, max(self.longest, now - self.last), now
        if number > self.interrupts_after and self.task is not None and not self.task.cancelling():
            self.task.cancel()


async def measure_erasure(kind: str, url: str, count: int) -> None:
    """In a process of its own."""
    before, backend = peak(), backend_on(kind, url)
    history = None if kind in {"redis", "cluster"} else SignInHistory(url, timeout=30)
    erase = partial(erase_user, backend, USER, session_cookie="session", history=history)

    async def interrupted() -> None:
        progress = Progress()
        progress.interrupts_after = count // 3
        await erase(on_page=progress)

    async with backend.lifespan():
        began = time.perf_counter()
        with suppress(asyncio.CancelledError):
            await asyncio.create_task(interrupted())
        print(f"{kind}: interrupted after {time.perf_counter() - began:.1f} s", flush=True)
        progress = Progress()
        erased = await erase(on_page=progress)
        ended = time.perf_counter()
        left = await erase(dry_run=True)
    print(f"{kind}: erased in {ended - began:.1f} s, {peak():.0f} MB at the peak ({before:.0f} before)")
    print(f"    {time.process_time():.1f} s of the processor in this process")
    print(f"    {progress.calls} pages, {progress.longest:.1f} s at most, and {ended - progress.last:.1f} s after them")
    print("   ", asdict(erased), asdict(left))


def peak() -> float:
    """Return the most megabytes that this process has had in memory."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the statistics of many sessions cost.")
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(STORES))
    parser.add_argument("--erase", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        [name] = arguments.only
        erasure = partial(measure_erasure, count=arguments.sessions)
        asyncio.run((erasure if arguments.erase else measure)(name, arguments.measure))
        sys.exit()
    for name in arguments.only:
        with STORES[name][0]() as address:
            url = address.url.replace("postgresql:", "postgresql+asyncpg:")
            asyncio.run(fill(name, url, arguments.sessions, USER if arguments.erase else None))
            command = [sys.executable, "-m", "benchmarks.inventory", "--only", name, "--measure", url]
            more = ["--erase", "--sessions", str(arguments.sessions)] if arguments.erase else []
            subprocess.run([*command, *more], check=True)
