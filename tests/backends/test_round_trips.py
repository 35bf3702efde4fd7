"""How many round trips a sign-in takes, and an end: what is sent together counts once, and announcements count."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from secrets import token_hex
from typing import Any, TypeVar

import pytest
from redis.asyncio import RedisCluster

from starsessions import Session, users
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.stores.redis import clients, scripts
from starsessions.stores.redis.connection import Transport, transport_for
from starsessions.stores.sqlalchemy.connection import Database
from starsessions.users import UserSessions
from tests.servers.process import Address
from tests.shell.people import sign_in, signed_in, who
from tests.site import Browser, Site, settled

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Trips:
    """Holds back all that is sent until nothing else can happen, and then lets it go together."""

    def __init__(self) -> None:
        self._held: list[asyncio.Future[None]] = []
        self._under_way = 0
        self._counts = False
        self.most_at_once = 0

    async def sent(self, send: Callable[..., Awaitable[Any]], *what: Any) -> Any:
        if not self._counts:
            return await send(*what)
        turn = asyncio.get_running_loop().create_future()
        self._held.append(turn)
        await turn
        self._under_way += 1
        try:
            return await send(*what)
        finally:
            self._under_way -= 1

    async def of(self, work: Coroutine[Any, Any, Any]) -> int:
        count, self._counts = 0, True
        task = asyncio.create_task(work)
        while not task.done():
            await settled()
            if self._held and not self._under_way:
                count += 1
                held, self._held = self._held, []
                self.most_at_once = max(self.most_at_once, len(held))
                for turn in held:
                    turn.set_result(None)
            await asyncio.sleep(0)
        self._counts = False
        await task
        return count


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Trips:
    trips = Trips()

    def counted(client: Any, seconds: float) -> Transport:
        transport = transport_for(client, seconds)
        send, read = partial(trips.sent, transport.send), partial(trips.sent, transport.read)
        return transport._replace(send=send, read=read)

    call = Database.call
    monkeypatch.setattr(clients, "transport_for", counted)
    monkeypatch.setattr(Database, "call", lambda database, work: trips.sent(call, database, work))
    return trips


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def redis(redis_server: Address, trips: Trips, closing: AsyncExitStack) -> RedisBackend:
    return await running(RedisBackend(redis_server.url, token_hex(8), timeout=30), closing)


@pytest.fixture
async def cluster(redis_cluster: Address, trips: Trips, closing: AsyncExitStack) -> RedisBackend:
    async with RedisCluster.from_url(redis_cluster.url) as client:
        for script in vars(scripts).values():  # on each server: which of them the keys are on, is random
            if isinstance(script, scripts.Script):
                await client.script_load(script.source)
    return await running(
        RedisBackend(lambda: RedisCluster.from_url(redis_cluster.url), token_hex(8), timeout=30), closing
    )


@pytest.fixture(params=["asyncpg", "psycopg"])
async def postgres(
    postgres_server: Address, request: pytest.FixtureRequest, closing: AsyncExitStack
) -> SQLAlchemyBackend:
    backend = SQLAlchemyBackend(postgres_server.over(request.param), f"t_{token_hex(8)}", timeout=30)
    await backend.create_table()
    return await running(backend, closing)


B = TypeVar("B", bound=StoreBackend)


async def running(backend: B, closing: AsyncExitStack) -> B:
    closing.push_async_callback(backend.store.aclose)  # type: ignore[attr-defined]
    await closing.enter_async_context(backend.lifespan())
    return backend


async def counted(backend: StoreBackend, trips: Trips) -> dict[str, int]:
    """Let a user do everything twice, and count what the second time takes."""
    site = Site(backend=backend, autoload=True, max_sessions_per_user=100)
    sessions = UserSessions(backend)

    async def visit(act: Any, browser: Browser) -> int:
        return await trips.of(site.visit(act, browser))

    async def everything() -> dict[str, int]:
        cart, other = Browser(), Browser()
        await visit(lambda session: session.update(cart=[1]), cart)
        counts = {"a sign-in with a cart": await visit(sign_in(), cart)}
        counts["again"] = await visit(sign_in(), cart)
        counts["a rotation"] = await visit(Session.regenerate_id, cart)
        counts["without a session before"] = await visit(sign_in(), other)
        handle = (await site.visit(users.get_handle, other)).result
        counts["ending one"] = await trips.of(sessions.revoke("ann", handle))
        counts["a sign-out"] = await visit(users.sign_out, cart)
        assert await sessions.list("ann") == []
        return counts

    await everything()  # connections are opened, statements are prepared, and scripts are loaded
    trips.most_at_once = 0
    return await everything()


TOGETHER = {
    "a sign-in with a cart": 3,  # load; the pending entry; the session, the pointer and the announcement
    "again": 3,
    "a rotation": 2,
    "without a session before": 2,
    "ending one": 2,  # the list; the end and the announcement
    "a sign-out": 2,
}


@pytest.mark.guarantee(18)
async def test_a_sign_in_takes_three_round_trips_in_redis(redis: RedisBackend, trips: Trips) -> None:
    assert await counted(redis, trips) == TOGETHER
    assert trips.most_at_once == 1, "what is sent together is one script"


@pytest.mark.guarantee(18)
async def test_a_sign_in_takes_three_round_trips_in_postgresql(postgres: SQLAlchemyBackend, trips: Trips) -> None:
    assert await counted(postgres, trips) == TOGETHER


async def loads(store: Any, trips: Trips) -> list[int]:
    """Return the round trips of loads: of a cart and of a signed-in session, without and with `check_epoch`."""
    counts = []
    for checks in (False, True):
        site = Site(backend=StoreBackend(store, check_epoch=checks), autoload=True)
        cart, ann = Browser(), await signed_in(site)
        await site.visit(lambda session: session.update(cart=[1]), cart)
        for count in ([], counts):  # the first time, statements are prepared, and scripts are loaded
            count += [await trips.of(site.visit(who, one)) for one in (cart, ann)]
    return counts


@pytest.mark.guarantee(18)
async def test_a_load_that_compares_the_epochs_takes_one_round_trip_in_redis(redis: RedisBackend, trips: Trips) -> None:
    assert await loads(redis.store, trips) == [1, 1, 1, 1]


@pytest.mark.guarantee(18)
async def test_a_load_that_compares_the_epochs_takes_one_round_trip_in_postgresql(
    postgres: SQLAlchemyBackend, trips: Trips
) -> None:
    assert await loads(postgres.store, trips) == [1, 1, 1, 1]


@pytest.mark.guarantee(18)
async def test_a_load_that_compares_the_epochs_takes_two_round_trips_in_a_cluster(
    cluster: RedisBackend, trips: Trips
) -> None:
    """The epochs are on other servers than the session, and both are read at once."""
    assert await loads(cluster.store, trips) == [1, 1, 1, 2]


@pytest.mark.guarantee(18)
async def test_a_sign_in_takes_five_round_trips_in_a_cluster(cluster: RedisBackend, trips: Trips) -> None:
    """The listing and the entries are on different servers, so what matters is written one after the other."""
    assert await counted(cluster, trips) == {
        "a sign-in with a cart": 5,  # load; the pending entry; the session; the pointer; the announcement
        "again": 5,  # the place before is removed during the announcement
        "a rotation": 5,  # load; the new entry, for a minute; the pointer; the announcement; the new entry, for longer
        "without a session before": 2,
        "ending one": 4,  # the list, which is two; the end; the announcement
        "a sign-out": 3,
    }
