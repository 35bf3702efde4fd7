"""Measure what the number of a user's sessions costs: a user of ten beside one of ten thousand, in turns.

    python -m benchmarks.owners                        # Redis, a Cluster of six nodes, PostgreSQL and SQLite
    python -m benchmarks.owners --only redis --sessions 1000
    python -m benchmarks.owners --floor                # the marks of a sign-in, a page, and an end of all

The servers are private ones, started as in the tests, or those of the variables in CONTRIBUTING.md.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from secrets import token_hex, token_urlsafe
from typing import Any, NamedTuple

from redis.asyncio import RedisCluster

from starsessions import Session, users
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
TOGETHER = 200
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
        await self.store.count_owned(self.name, now=self.now)

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


# The marks, by what an application calls


class Mark(NamedTuple):
    name: str
    found: float
    most: float | None
    unit: str = ""

    @property
    def is_missed(self) -> bool:
        return self.most is not None and self.found > self.most

    def __str__(self) -> str:
        most = "" if self.most is None else f"<= {self.most:g}{self.unit}"
        return f"{self.name} | {most} | {self.found:.2f}{self.unit} | {'MISSED' if self.is_missed else ''}"


class Visitors:
    """All who sign in as one user."""

    def __init__(self, backend: StoreBackend) -> None:
        self.backend, self.name = backend, token_urlsafe(16)
        self.sessions = users.UserSessions(backend, session_cookie="session")

    async def sign_in(self) -> str:
        session = Session(self.backend)
        await session.load()
        await users.sign_in(session, self.name)
        await session.persist()
        return users.get_handle(session) or ""

    async def turn(self) -> float:
        """Return how long a sign-in takes. It leaves as many sessions as there were."""
        began = time.perf_counter()
        handle = await self.sign_in()
        took = time.perf_counter() - began
        assert await self.sessions.revoke(self.name, handle)
        return took

    async def page(self, limit: int) -> None:
        assert len(await self.sessions.list(self.name, limit=limit)) == limit

    async def end_all(self, count: int) -> float:
        began = time.perf_counter()
        assert await self.sessions.revoke_all(self.name) == count
        return time.perf_counter() - began


async def in_turns(*works: Callable[[], Awaitable[float]]) -> list[float]:
    """Return the median of each. All have their turn before the next round, which goes backwards."""
    taken: list[list[float]] = [[] for _ in works]
    for n in range(TURNS):
        for work, of_one in [*zip(works, taken, strict=True)][:: 1 if n % 2 else -1]:
            of_one.append(await work())
    return [statistics.median(of_one) for of_one in taken]


async def marks(backend: StoreBackend, many: int) -> list[Mark]:
    few, page, large, crowd = (Visitors(backend) for _ in range(4))
    for visitors, count in ((few, FEW), (page, PAGE), (large, many)):
        await at_once([visitors.sign_in] * count)
    one, other = await in_turns(few.turn, large.turn)
    listed = await in_turns(
        lambda: timed(lambda: large.page(PAGE)),
        lambda: timed(lambda: page.page(PAGE)),
        lambda: timed(lambda: few.page(FEW)),
    )
    slowest = max(await at_once([crowd.sign_in] * TOGETHER, TOGETHER))
    lost = TOGETHER - len(await crowd.sessions.list(crowd.name, limit=2 * TOGETHER))
    return [
        Mark(f"sign in: at {many} sessions over {FEW}", other / one, 1.5),
        Mark(f"a page of {PAGE}: of {many} over {PAGE}", listed[0] / listed[1], 1.5),
        Mark(f"a page of {PAGE} of {many} over {FEW} of {FEW}", listed[0] / listed[2], None),
        Mark(f"end all of {many}", await large.end_all(many), 3, " s"),
        Mark(f"{TOGETHER} sign-ins at once: the slowest", slowest, 1, " s"),
        Mark(f"{TOGETHER} sign-ins at once: lost", lost, 0),
    ]


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


async def main(name: str, open_backend: Open, url: str, many: int, floor: bool) -> bool:
    """Measure one store, and return whether it has met all marks."""
    async with open_backend(url) as backend:
        if floor:
            found = await marks(backend, many)
            print(f"\n{name} | wanted | found |\n---|---|---|---", *found, sep="\n", flush=True)
            return not any(mark.is_missed for mark in found)
        store: Any = backend.store
        await measure(name, store, many)
        return True


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What the number of a user's sessions costs.")
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--only", type=lambda names: names.split(","), default=list(STORES))
    parser.add_argument("--floor", action="store_true", help="measure the marks, and fail if one is missed")
    arguments = parser.parse_args()
    are_met = True
    for name in arguments.only:
        start, open_backend = STORES[name]
        with start() as address:
            are_met &= asyncio.run(main(name, open_backend, address.url, arguments.sessions, arguments.floor))
    sys.exit(not are_met)
