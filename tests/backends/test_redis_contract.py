"""Redis keeps the contracts: one server, a Cluster of six nodes, and a Sentinel set."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import pytest
from redis.asyncio import Redis, RedisCluster, Sentinel

from starsessions.backends.redis import RedisBackend
from starsessions.stores.redis.store import RedisStore
from starsessions.testing import OpenBackend, OpenStore
from tests.backends import part
from tests.contracts import WholeBackend, WholeStore
from tests.servers.process import Address
from tests.servers.redis import SentinelAddress

Connect = Callable[[], AbstractAsyncContextManager[Any]]
"""Gives what `RedisBackend` takes."""


@asynccontextmanager
async def cleaning(client: Redis | RedisCluster, prefix: str) -> AsyncIterator[None]:
    """The server may be shared with other programs."""
    yield
    async for name in client.scan_iter(match=f"{prefix}*"):
        await client.delete(name)


class OneServer:
    @pytest.fixture
    def connect(self, redis_server: Address) -> Connect:
        return lambda: Redis.from_url(redis_server.url)


class Cluster:
    @pytest.fixture
    def connect(self, redis_cluster: Address) -> Connect:
        return lambda: RedisCluster.from_url(redis_cluster.url)


class ClusterOfOneNode:
    """By an ordinary client, which some services offer."""

    @pytest.fixture
    def connect(self, redis_with_slots: Address) -> Connect:
        return lambda: Redis.from_url(redis_with_slots.url)


class SentinelSet:
    @pytest.fixture
    def connect(self, redis_sentinel: SentinelAddress) -> Connect:
        @asynccontextmanager
        async def connect() -> AsyncIterator[Redis]:
            sentinel = Sentinel(redis_sentinel.sentinels)
            async with sentinel.master_for(redis_sentinel.service) as client:
                yield client
            for asked in sentinel.sentinels:
                await asked.aclose()

        return connect


class Stores(WholeStore):
    __test__ = False
    declines: ClassVar = {"sweeps": "Redis forgets by itself"}

    @pytest.fixture
    async def open_store(self, connect: Connect) -> AsyncIterator[OpenStore]:
        corner = f"{secrets.token_hex(8)}:"

        @asynccontextmanager
        async def open_one(name: str) -> AsyncIterator[RedisStore]:
            async with connect() as client:
                yield RedisStore(client, f"{corner}{name}:", timeout=30)

        yield open_one
        async with connect() as client, cleaning(client, corner):
            pass


SPREAD = Stores.declines | {"batches": "in a Cluster, the entries are on different servers"}


class Backends(WholeBackend):
    __test__ = False

    @pytest.fixture
    def open_backend(self, connect: Connect) -> OpenBackend:
        @asynccontextmanager
        async def open_one() -> AsyncIterator[RedisBackend]:
            prefix = f"{secrets.token_hex(8)}:"
            async with AsyncExitStack() as closing:
                client = await closing.enter_async_context(connect())
                await closing.enter_async_context(cleaning(client, prefix))
                yield RedisBackend(client, prefix, timeout=30)

        return open_one


class FakeRedis:
    """Like other servers with an incomplete Lua, it has no `struct`."""

    @pytest.fixture
    def connect(self) -> Connect:
        fakeredis = pytest.importorskip("fakeredis")
        server = fakeredis.FakeServer()
        return lambda: fakeredis.FakeAsyncRedis(server=server)


class TestDriversOnOneServer(OneServer, Stores):
    __test__ = True
    contract = part.DRIVERS


@pytest.mark.once
class TestStoreOnOneServer(OneServer, Stores):
    __test__ = True
    contract = part.WITHOUT_DRIVERS


class TestRequestsOnOneServer(OneServer, Backends):
    __test__ = True
    contract = part.REQUESTS


@pytest.mark.once
class TestBackendOnOneServer(OneServer, Backends):
    __test__ = True
    contract = part.WITHOUT_REQUESTS


@pytest.mark.once
class TestDriversOnFakeRedis(FakeRedis, Stores):
    __test__ = True
    contract = part.DRIVERS


class TestDriversOnACluster(Cluster, Stores):
    __test__ = True
    declines = SPREAD
    contract = part.DRIVERS


@pytest.mark.once
class TestListingsOnACluster(Cluster, Stores):
    """There, an entry and its place in a listing are written one after the other, and each node is scanned."""

    __test__ = True
    contract = part.LISTINGS


@pytest.mark.once
class TestListingsOnAClusterOfOneNode(ClusterOfOneNode, Stores):
    __test__ = True
    contract = part.LISTINGS


class TestRequestsOnACluster(Cluster, Backends):
    __test__ = True
    contract = part.REQUESTS


class TestConnectionsOfASentinelSet(SentinelSet, Stores):
    """Once it is found, the primary of a set is a server like any other."""

    __test__ = True
    contract = part.CONNECTIONS


class TestRequestsOnASentinelSet(SentinelSet, Backends):
    __test__ = True
    contract = part.REQUESTS


# All other rules


@pytest.mark.wide
class TestStoreOnFakeRedis(FakeRedis, Stores):
    __test__ = True
    contract = part.WITHOUT_DRIVERS


@pytest.mark.wide
class TestStoreOnACluster(Cluster, Stores):
    __test__ = True
    declines = SPREAD
    contract = part.WITHOUT_DRIVERS


@pytest.mark.wide
class TestBackendOnACluster(Cluster, Backends):
    __test__ = True
    contract = part.WITHOUT_REQUESTS


@pytest.mark.wide
class TestStoreOnASentinelSet(SentinelSet, Stores):
    __test__ = True
    contract = part.WITHOUT_CONNECTIONS


@pytest.mark.wide
class TestBackendOnASentinelSet(SentinelSet, Backends):
    __test__ = True
    contract = part.WITHOUT_REQUESTS
