"""The stores that the clients' application keeps its sessions in, each started for one run."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from tests.servers import mariadb, postgres, redis
from tests.servers.process import Address, Server
from tests.wide.programs import unpacked

Service = Server | redis.Group


@contextmanager
def _sqlite() -> Iterator[tuple[str, None]]:
    with tempfile.TemporaryDirectory(prefix="starsessions-") as folder:
        yield _with_table(f"sqlite+aiosqlite:///{Path(folder, 'sessions.db')}"), None


@contextmanager
def _postgres(driver: str) -> Iterator[tuple[str, Service]]:
    with postgres.server(durable=True) as server:
        yield _with_table(server.address.over(driver)), server


@contextmanager
def _mariadb() -> Iterator[tuple[str, Service]]:
    with mariadb.server(durable=True) as server:
        yield _with_table(server.address.over("asyncmy")), server


@contextmanager
def _redis(*, durable: bool) -> Iterator[tuple[str, Service]]:
    with redis.standalone(durable=durable) as server:
        yield server.url, server


@contextmanager
def _valkey() -> Iterator[tuple[str, Service]]:
    with redis.standalone(durable=True, program=unpacked("usr/bin/valkey-server")) as server:
        yield server.url, server


@contextmanager
def _cluster() -> Iterator[tuple[str, Service]]:
    with redis.cluster(durable=True) as group:
        yield group.url.replace("redis://", "redis+cluster://"), group


@contextmanager
def _sentinel() -> Iterator[tuple[str, Service]]:
    with redis.sentinel(durable=True) as group:
        yield group.address.url, group


@contextmanager
def _full() -> Iterator[tuple[str, Service]]:
    with redis.standalone(config={"maxmemory": "3mb", "maxmemory-policy": "allkeys-lru"}) as server:
        yield server.url, server


STORES: dict[str, Callable[[], "contextmanager[tuple[str, Service | None]]"]] = {
    "sqlite": _sqlite,
    "redis": lambda: _redis(durable=True),
    "redis-forgetful": lambda: _redis(durable=False),
    "redis-evicting": _full,
    "valkey": _valkey,
    "redis-cluster": _cluster,
    "redis-sentinel": _sentinel,
    "postgres": lambda: _postgres("asyncpg"),
    "postgres-psycopg": lambda: _postgres("psycopg"),
    "mariadb": _mariadb,
}
"""By name: what starts the store, and gives its URL and the server that a fault may hit."""


def _with_table(url: str) -> str:
    async def create() -> None:
        backend = SQLAlchemyBackend(url, timeout=30)
        await backend.create_table()
        await backend.store.aclose()
        await backend.engine.dispose()

    asyncio.run(create())
    return url


def through(url: str, server: Server, port: int) -> str:
    """Return the URL of the same store behind a proxy on this port."""
    return Address(url).url.replace(f":{server.port}", f":{port}", 1)
