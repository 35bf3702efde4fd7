"""The servers that all tests share: each starts when a test first asks for it, and ends with the last test.

A fixture gives the address only, so that no test can kill a server that others use; whoever wants to do that starts one
of their own (``with redis.standalone() as server:``). With a variable of the environment, the address is that of
somebody's own server. Tests must therefore use names of their own in it, and leave nothing behind.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.servers import mariadb, postgres, redis
from tests.servers.process import Address, Server


def shared(variable: str, start: Callable[[], AbstractContextManager[Server]]) -> Iterator[Address]:
    if url := os.environ.get(variable):
        yield Address(url)
    else:
        with start() as server:
            yield server.address


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Address]:
    yield from shared("STARSESSIONS_REDIS_URL", redis.standalone)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Address]:
    yield from shared("STARSESSIONS_POSTGRES_URL", postgres.server)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[Address]:
    yield from shared("STARSESSIONS_MARIADB_URL", mariadb.server)
