"""Measure what a failover takes back, and what it costs to wait for replicas.

    python -m benchmarks.replicas                 # Redis with Sentinel, a Cluster of six, PostgreSQL with a standby
    python -m benchmarks.replicas --only price
    python -m benchmarks.replicas --only crowd    # 200 ends at once in PostgreSQL

Ends are confirmed and then the primary is killed: at once, or after the replicas had been cut off from it.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from secrets import token_hex
from typing import Any, NamedTuple

from redis.asyncio import Redis, RedisCluster, Sentinel
from sqlalchemy.ext.asyncio import create_async_engine

from starsessions import BackendUnavailable
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.stores.base import Deletion, Indexing, Owner
from starsessions.stores.redis.store import RedisStore
from starsessions.stores.sqlalchemy.store import SQLAlchemyStore
from tests.servers import postgres, redis

ENDS = 200
AT_ONCE = 50
TURNS = 500
NOW = int(time.time())


class Service(NamedTuple):
    """Servers of which one is the primary."""

    open: Callable[[], AbstractAsyncContextManager[Indexing]]
    is_of_primary: Callable[[str], bool]
    """Whether the primary has the entry of a key."""

    cut_off: Callable[[], None]
    fail_over: Callable[[], None]


@asynccontextmanager
async def redis_store(client: Redis | RedisCluster, waits: bool) -> AsyncIterator[RedisStore]:
    async with client:
        yield RedisStore(client, "", timeout=4, wait_for_replicas=int(waits))


@contextmanager
def sentinel(waits: bool) -> Iterator[Service]:
    with redis.sentinel(replicas=1) as group:
        primary = group.primary()

        def fail_over() -> None:
            primary.kill()
            group.wait_for_failover(primary)

        def client() -> Redis:
            found: Redis = Sentinel(group.address.sentinels).master_for(group.address.service)  # type: ignore[no-untyped-call]
            return found

        yield Service(lambda: redis_store(client(), waits), lambda key: True, primary.refuse_replicas, fail_over)


@contextmanager
def cluster(waits: bool) -> Iterator[Service]:
    with redis.cluster() as group:
        primary = group.primary_of("key-0")

        def fail_over() -> None:
            primary.kill()
            group.wait_for_takeover("key-0", primary)

        yield Service(
            lambda: redis_store(RedisCluster.from_url(group.url), waits),
            lambda key: group.primary_of(key) is primary,
            primary.refuse_replicas,
            fail_over,
        )


@asynccontextmanager
async def sql_store(server: postgres.PostgresServer, **settings: str) -> AsyncIterator[SQLAlchemyStore]:
    url, connect_args = server.address.over("asyncpg"), {"server_settings": settings}
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT", connect_args=connect_args)
    backend = SQLAlchemyBackend(engine, timeout=4)
    await backend.create_table()
    async with backend.lifespan():
        yield backend.store


@contextmanager
def standby(waits: bool) -> Iterator[Service]:
    with postgres.pair() as (primary, follower):
        if waits:
            primary.wait_for_standby()
        now = [primary]

        def fail_over() -> None:
            primary.kill()
            follower.promote()
            now[:] = [follower]

        yield Service(lambda: sql_store(now[0]), lambda key: True, primary.refuse_standbys, fail_over)


SERVICES = {"Redis, Sentinel": sentinel, "Redis Cluster": cluster, "PostgreSQL, a standby": standby}


async def end_all(store: Indexing, keys: list[str]) -> set[str]:
    """End sessions, and return those of which that was confirmed."""
    confirmed = set()
    for begin in range(0, len(keys), AT_ONCE):
        some = keys[begin : begin + AT_ONCE]
        outcomes = await asyncio.gather(*(store.delete(key, now=0) for key in some), return_exceptions=True)
        confirmed |= {key for key, outcome in zip(some, outcomes, strict=True) if outcome is True}
    return confirmed


async def alive(store: Indexing, key: str) -> bool:
    while True:
        with contextlib.suppress(BackendUnavailable):
            return await store.get(key, now=NOW) is not None


async def came_back(service: Service, *, is_cut_off: bool) -> tuple[int, int]:
    """Return how many ends were confirmed, and how many of those the failover has taken back."""
    keys = [key for key in (f"key-{n}" for n in range(4 * ENDS)) if service.is_of_primary(key)][:ENDS]
    async with service.open() as store:
        for key in keys:
            await store.create(key, b"x" * 200, expires_at=NOW + 9999, now=NOW)
        await asyncio.sleep(2)  # replicas follow
        if is_cut_off:
            service.cut_off()
        confirmed = await end_all(store, keys)
        service.fail_over()
    async with service.open() as store:
        return len(confirmed), sum([await alive(store, key) for key in confirmed])


async def price(stores: dict[str, Indexing]) -> dict[str, float]:
    """Return the seconds of an end in each of the stores, in turns."""
    times: dict[str, list[float]] = {name: [] for name in stores}
    for turn in range(TURNS):
        for name, store in stores.items():
            key = token_hex(16)
            await store.create(key, b"x" * 200, expires_at=NOW + 9999, now=NOW, owner=Owner(key, turn))
            began = time.perf_counter()
            assert await store.delete(key, now=0)
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in times.items()}


async def prices() -> None:
    with redis.pair() as (primary, _), redis.cluster() as group:
        for name, client in (
            ("Redis", lambda: Redis.from_url(primary.url)),
            ("Redis Cluster", lambda: RedisCluster.from_url(group.url)),
        ):
            made: list[Any] = [client(), client()]
            async with redis_store(made[0], False) as hasty, redis_store(made[1], True) as careful:
                say(f"{name}: an end", await price({"without": hasty, "with": careful}))
    with postgres.pair() as (database, _):
        database.wait_for_standby()
        async with sql_store(database, synchronous_commit="local") as hasty, sql_store(database) as careful:
            say("PostgreSQL: an end", await price({"without": hasty, "with": careful}))


async def seconds_of_crowd(store: SQLAlchemyStore, announces: bool) -> float:
    """Return how long 200 ends at once take, the fastest of five attempts."""
    fastest = float("inf")
    for _ in range(5):
        ends: list[tuple[Deletion, list[str]]] = []
        for key in [token_hex(16) for _ in range(ENDS)]:
            version = await store.create(key, b"x" * 200, expires_at=NOW + 9999, now=NOW, owner=Owner(key, 0))
            ends.append((Deletion(key, version), [key] if announces else []))
        began = time.perf_counter()
        await asyncio.gather(*(store.write_together([end], now=0, topics=topics) for end, topics in ends))
        fastest = min(fastest, time.perf_counter() - began)
    return fastest


async def crowds() -> None:
    """Many end their sessions at once. A transaction that announces waits for the others that do."""
    with postgres.pair() as (database, follower):
        database.wait_for_standby()
        for delay in (0, 10):
            follower.ask(f"ALTER SYSTEM SET recovery_min_apply_delay = {delay}")
            follower.ask("SELECT pg_reload_conf()")
            for commit in ("local", "remote_apply"):
                async with sql_store(database, synchronous_commit=commit) as store:
                    for announces in (False, True):
                        seconds = await seconds_of_crowd(store, announces)
                        how = "announced" if announces else "silent"
                        sys.stdout.write(f"{commit}, standby {delay} ms away, {how}: {ENDS} ends in {seconds:.2f} s\n")
                        sys.stdout.flush()


def say(what: str, taken: dict[str, float]) -> None:
    milliseconds = ", ".join(f"{name} {seconds * 1000:.2f} ms" for name, seconds in taken.items())
    sys.stdout.write(f"{what}: {milliseconds}; ratio {taken['with'] / taken['without']:.2f}\n")


async def losses() -> None:
    for name, start in SERVICES.items():
        for waits in (False, True):
            for is_cut_off in (False, True):
                with start(waits) as service:
                    confirmed, back = await came_back(service, is_cut_off=is_cut_off)
                how = f"{'with' if waits else 'without'}, {'replicas cut off' if is_cut_off else 'replicas follow'}"
                sys.stdout.write(f"{name}: {how}: {confirmed} of {ENDS} ends confirmed, {back} came back\n")
                sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What a failover takes back, and what it costs that it does not.")
    parser.add_argument("--only", choices=["losses", "price", "crowd"])
    only = parser.parse_args().only
    if only in (None, "losses"):
        asyncio.run(losses())
    if only in (None, "price"):
        asyncio.run(prices())
    if only in (None, "crowd"):
        asyncio.run(crowds())
