"""The servers that all tests share: each starts when a test first asks for it, and ends with the last test.

A fixture gives the address only, so that no test can kill a server that others use; a test that needs that starts one
of their own (``with redis.standalone() as server:``). With a variable of the environment, the address is that of
a developer's own server. Tests must therefore use names of their own in it, and leave nothing behind.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.servers import mariadb, postgres, redis
from tests.servers.process import Address, Server


def shared(variable: str, start: Callable[[], AbstractContextManager[Server | redis.Group]]) -> Iterator[Address]:
    if url := os.environ.get(variable):
        yield Address(url)
    else:
        with start() as server:
            yield server.address


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Address]:
    yield from shared("STARSESSIONS_REDIS_URL", redis.standalone)


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[Address]:
    """The URL of one node."""
    yield from shared("STARSESSIONS_REDIS_CLUSTER_URL", redis.cluster)


@pytest.fixture(scope="session")
def redis_with_slots() -> Iterator[Address]:
    """A Cluster of one node: an ordinary client reaches all keys, but no two slots at once, as with some services."""
    with redis.standalone(config={"cluster-enabled": "yes"}) as server:
        server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        server.wait_until(server.serves_cluster, "did not serve its slots")
        yield server.address


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[redis.SentinelAddress]:
    for address in shared("STARSESSIONS_REDIS_SENTINEL_URL", redis.sentinel):
        yield redis.SentinelAddress(address.url)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Address]:
    yield from shared("STARSESSIONS_POSTGRES_URL", postgres.server)


@pytest.fixture(scope="session")
def metered_postgres_server() -> Iterator[Address]:
    """For tests that count statements: it is used by one test at a time."""
    settings = {"shared_preload_libraries": "pg_stat_statements", "pg_stat_statements.track_utility": "on"}
    with postgres.server(settings=settings) as server:
        yield server.address


@pytest.fixture(scope="session")
def metered_mariadb_server() -> Iterator[Address]:
    """For tests that count statements: it is used by one test at a time."""
    with mariadb.server() as server:
        yield server.address


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Address]:
    yield from shared("STARSESSIONS_MARIADB_URL", mariadb.server)
