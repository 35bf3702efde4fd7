"""Measure what the number of a user's sessions costs: a user of ten beside one of ten thousand, in turns.

    python -m benchmarks.owners                        # Redis, a Cluster of six nodes, PostgreSQL and SQLite
    python -m benchmarks.owners --only redis --sessions 1000

The servers are private ones, started as in the tests, or those of the variables in CONTRIBUTING.md.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from secrets import token_hex, token_urlsafe
from typing import Any

from redis.asyncio import RedisCluster

from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.stores.base import Cursor, Indexing, Owner
from tests.servers import postgres, redis
from tests.servers.fixtures import shared
from tests.servers.process import Address

FEW = 10
PAGE = 50
AT_ONCE = 50
LIFE = 14 * 86_400
TURNS = 200


class User:
    """A user, and their sessions in a store."""

    def __init__(self, store: Indexing) -> None:
        self.store, self.name, self.now = store, token_urlsafe(32), int(time.time())
        self.since = self.now - 10**7

    async def create(self) -> str:
        self.since += 1
        key, owner = token_urlsafe(32), Owner(self.name, self.since)
        await self.store.create(key, os.urandom(200), expires_at=self.now + LIFE, now=self.now, owner=owner)
        return key

    async def delete(self, key: str) -> None:
        assert await self.store.delete(key, now=0)

    async def page(self, after: Cursor | None = None, limit: int = PAGE) -> tuple[list[str], Cursor | None]:
        page = await self.store.list_owned(self.name, limit=limit, now=self.now, after=after)
        return [key for key, _ in page.entries], page.after

    async def count(self) -> None:
        await self.store.count_owned(self.name, most=1000, now=self.now)

    async def delete_all(self) -> None:
        after: Cursor | None = None
        while True:
            keys, after = await self.page(after, 1000)
            await at_once([lambda key=key: self.delete(key) for key in keys])
            if after is None:
                return


async def at_once(works: list[Callable[[], Awaitable[Any]]], most: int = AT_ONCE) -> list[float]:
    """Do all of this, so many at a time, and return how long each took."""
    waiting = iter(works)

    async def worker() -> list[float]:
        return [await timed(work) for work in waiting]

    return [seconds for part in await asyncio.gather(*(worker() for _ in range(most))) for seconds in part]


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await work()
    return time.perf_counter() - began


async def turns(users: list[User]) -> dict[str, list[float]]:
    """Return the median seconds of each operation for each user. All users have their turn before the next round."""
    taken: dict[str, list[list[float]]] = {
        what: [[] for _ in users] for what in ("create", "page of 10", "page of 50", "count", "delete")
    }
    for _ in range(TURNS):
        for n, user in enumerate(users):
            keys: list[str] = []

            async def create(user: User = user, keys: list[str] = keys) -> None:
                keys.append(await user.create())

            taken["create"][n].append(await timed(create))
            taken["page of 10"][n].append(await timed(lambda user=user: user.page(limit=FEW)))
            taken["page of 50"][n].append(await timed(user.page))
            taken["count"][n].append(await timed(user.count))
            taken["delete"][n].append(await timed(lambda user=user, keys=keys: user.delete(keys[0])))
    return {what: [statistics.median(of_user) for of_user in of_users] for what, of_users in taken.items()}


async def measure(name: str, store: Indexing, many: int) -> None:
    few, large, crowd = User(store), User(store), User(store)
    await at_once([few.create] * FEW)
    await at_once([large.create] * many)
    print(f"\n{name} | {FEW} | {many} | factor\n---|---|---|---")
    for what, (one, other) in (await turns([few, large])).items():
        print(f"{what} | {1000 * one:.2f} ms | {1000 * other:.2f} ms | {other / one:.2f}")
    began = time.perf_counter()
    slowest = max(await at_once([crowd.create] * 200, 200))
    print(f"200 creates at once: {time.perf_counter() - began:.2f} s, the slowest {slowest:.2f} s")
    print(f"delete all {many}: {await timed(large.delete_all):.2f} s")


# The stores


@asynccontextmanager
async def in_redis(url: str) -> AsyncIterator[StoreBackend]:
    backend = RedisBackend(url, f"{token_hex(4)}:", timeout=60)
    async with backend.lifespan():
        yield backend


@asynccontextmanager
async def in_cluster(url: str) -> AsyncIterator[StoreBackend]:
    backend = RedisBackend(lambda: RedisCluster.from_url(url), f"{token_hex(4)}:", timeout=60)
    async with backend.lifespan():
        yield backend


@asynccontextmanager
async def in_sql(url: str) -> AsyncIterator[StoreBackend]:
    backend = SQLAlchemyBackend(url.replace("postgresql:", "postgresql+asyncpg:"), f"owners_{token_hex(4)}")
    await backend.create_table()
    async with backend.lifespan():
        yield backend


@contextmanager
def file() -> Iterator[Address]:
    with tempfile.TemporaryDirectory() as folder:
        yield Address(f"sqlite+aiosqlite:///{Path(folder)}/sessions.db")


Start = Callable[[], AbstractContextManager[Address]]
Open = Callable[[str], AbstractAsyncContextManager[StoreBackend]]

STORES: dict[str, tuple[Start, Open]] = {
    "redis": (contextmanager(lambda: shared("STARSESSIONS_REDIS_URL", redis.standalone)), in_redis),
    "cluster": (contextmanager(lambda: shared("STARSESSIONS_REDIS_CLUSTER_URL", redis.cluster)), in_cluster),
    "postgres": (contextmanager(lambda: shared("STARSESSIONS_POSTGRES_URL", postgres.server)), in_sql),
    "sqlite": (file, in_sql),
}


async def main(name: str, open_backend: Open, url: str, many: int) -> None:
    async with open_backend(url) as backend:
        store: Any = backend.store
        await measure(name, store, many)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the number of a user's sessions costs.")
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(STORES))
    arguments = parser.parse_args()
    for name in arguments.only:
        start, open_backend = STORES[name]
        with start() as address:
            asyncio.run(main(name, open_backend, address.url, arguments.sessions))
