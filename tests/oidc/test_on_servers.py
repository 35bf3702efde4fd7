"""On real servers, a sign-out of the provider ends what it means: the steps are those of every store."""

import secrets
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from starsessions.backends.redis import RedisBackend
from tests.backends.sql import database, opened
from tests.oidc.provider import World, log_out, logout_claims, signed

pytestmark = pytest.mark.anyio


async def ends_what_it_means(backend: Any) -> None:
    world = World(lambda clock: backend)
    ann, other, bob = [await world.sign_in(*names) for names in (("ann",), ("ann", "sid-2"), ("bob", "sid-3", "sub-2"))]
    now = int(backend.clock())
    times = {"iat": now, "exp": now + 60}

    assert (await log_out(world.logout, signed(logout_claims(**times)))).status == 200
    assert (await log_out(world.logout, signed(logout_claims(**times)))).status == 400
    assert [await world.user(one) for one in (ann, other, bob)] == [None, "ann", "bob"]
    assert (await log_out(world.logout, signed(logout_claims(jti="2", sid=..., sub="sub-1", **times)))).status == 200
    assert [await world.user(one) for one in (ann, other, bob)] == [None, None, "bob"]
    assert await world.user(await world.sign_in("ann", "sid-4")) == "ann"


@pytest.mark.parametrize("server", ["redis_server", "redis_cluster"])
async def test_in_redis(server: str, request: pytest.FixtureRequest) -> None:
    kind = RedisCluster if server == "redis_cluster" else Redis
    async with kind.from_url(request.getfixturevalue(server).url) as client:
        prefix = f"{secrets.token_hex(8)}:"
        await ends_what_it_means(RedisBackend(client, prefix, timeout=30))
        for key in [key async for key in client.scan_iter(f"*{prefix}*")]:
            await client.delete(key)


@pytest.mark.parametrize("name", ["sqlite", "postgres-asyncpg", "mariadb"])
async def test_in_a_database(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    async with opened(database(name, request, tmp_path).url) as backend:
        await ends_what_it_means(backend)
