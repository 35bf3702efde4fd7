"""Several event loops, in turn and at once, and processes that fork: each has connections of its own, and ends them.

Programs meet that more often than they know: a test client has a loop for each request unless it is used with `with`,
a script prepares the database with `asyncio.run()`, and a server forks after that.
"""

import asyncio
import gc
import os
import secrets
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import trio
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from starsessions import ImproperlyConfigured, InMemoryBackend, SessionMiddleware
from starsessions.backends.redis import RedisBackend
from starsessions.stores import loops
from starsessions.stores.loops import PerLoop
from starsessions.stores.redis.store import RedisStore
from tests.servers.process import Address
from tests.servers.redis import SentinelAddress

pytestmark = pytest.mark.filterwarnings("error")

COPIED: dict[str, Callable[[str], Any]] = {
    "a URL": lambda url: url,
    "a client": Redis.from_url,
    "a client that waits": lambda url: Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=3)),
    "a client with one connection": lambda url: Redis.from_url(url, single_connection_client=True),
}


@pytest.fixture(params=[*COPIED, "memory"])
def backend(request: pytest.FixtureRequest, redis_server: Address) -> Any:
    if request.param == "memory":
        return InMemoryBackend()
    return RedisBackend(COPIED[request.param](redis_server.url), secrets.token_hex(4), timeout=30)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """What the garbage collector warns of fails the test, too: what is dropped must have been closed."""
    yield
    gc.collect()


async def use(backend: Any, at_once: int = 20) -> list[str]:
    """Write and read some sessions: as many at once as need several connections."""

    async def one(n: int) -> str:
        session_id: str = await backend.write({"n": n})
        assert await backend.read(session_id) == {"n": n}
        return session_id

    return await asyncio.gather(*(one(n) for n in range(at_once)))


async def check(backend: Any, ids: list[str]) -> None:
    found = await asyncio.gather(*(backend.read(session_id) for session_id in ids))
    assert found == [{"n": n} for n in range(len(ids))]


@contextmanager
def connections(address: Address) -> Iterator[Callable[[], int]]:
    import redis

    with redis.Redis.from_url(address.url) as client:
        yield lambda: len(client.client_list())


def test_one_loop_after_the_other_has_the_same_sessions(backend: Any) -> None:
    ids = asyncio.run(use(backend))
    for _ in range(3):
        asyncio.run(check(backend, ids))
        asyncio.run(use(backend))


def test_a_loop_that_ends_leaves_no_connection(redis_server: Address) -> None:
    with connections(redis_server) as count:
        before = count()
        for make in COPIED.values():
            backend = RedisBackend(make(redis_server.url), secrets.token_hex(4), timeout=30)
            for _ in range(2):
                asyncio.run(use(backend))
                assert count() == before


def test_a_backend_that_is_dropped_keeps_no_connection_though_its_loop_goes_on(
    redis_server: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application may make many in one loop: for its tests, or for its customers."""
    monkeypatch.setattr(loops, "SOON", 0)

    async def main(count: Callable[[], int]) -> None:
        before = count()
        for _ in range(3):
            await RedisBackend(redis_server.url, secrets.token_hex(4), timeout=30).write({"n": 1})
        client = Redis.from_url(redis_server.url)
        await RedisBackend(client, secrets.token_hex(4), timeout=30).write({"n": 1})
        kept = RedisBackend(redis_server.url, secrets.token_hex(4), timeout=30)
        await kept.write({"n": 1})
        async with asyncio.timeout(30):
            while await asyncio.to_thread(count) != before + 2:
                gc.collect()
        left = [await asyncio.to_thread(count) for _ in range(20)]
        assert set(left) == {before + 2}, "the application closes its own client"
        await client.aclose()

    with connections(redis_server) as count:
        asyncio.run(main(count))


@pytest.fixture
def long_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no lease of a connection end by itself during a test."""
    monkeypatch.setattr("starsessions.stores.redis.connection._MOMENT", 60)


async def keeping(address: Address) -> tuple[RedisStore, Any, Any]:
    """Return a store that has just read, what lends its connections, and the lease of the one that it keeps."""
    store = RedisStore(address.url, secrets.token_hex(4), timeout=30)
    await store.get("key", now=1)
    pooled = store.clients.get().release.__self__  # type: ignore[attr-defined]
    assert pooled._kept is not None
    return store, pooled, pooled._kept


@pytest.mark.usefixtures("long_lease")
def test_a_store_that_is_closed_keeps_no_connection_whose_timer_would_begin_a_task(redis_server: Address) -> None:
    """A loop that ends may not run it, and Python warns of that."""

    async def main() -> None:
        store, pooled, lease = await keeping(redis_server)
        await store.aclose()
        pooled._end(lease)
        assert pooled._tasks == set()

    asyncio.run(main())


def test_what_the_end_of_a_loop_has_closed_begins_no_task_that_may_not_run() -> None:
    async def main() -> None:
        async def close(one: object) -> None:
            pass

        kept = PerLoop(object, close)
        kept.get()
        loop = asyncio.get_running_loop()
        [closing] = loops._closing_at_the_end[loop]
        await closing.aclose()
        before = asyncio.all_tasks()
        loops._close_now(loop, closing)
        assert asyncio.all_tasks() == before

    asyncio.run(main())


@pytest.mark.usefixtures("long_lease")
def test_a_read_in_the_turn_in_which_a_lease_ends_opens_no_second_connection(redis_server: Address) -> None:
    """A new one would authenticate, with a password that may have changed since."""

    async def main() -> None:
        store, pooled, lease = await keeping(redis_server)
        pooled._end(lease)
        await store.get("key", now=1)
        assert pooled._pool._available_connections == [lease.connection]
        assert pooled._pool._in_use_connections == set()
        await store.aclose()

    asyncio.run(main())


def test_a_loop_that_ends_while_a_dropped_backend_is_to_be_closed_closes_it_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loops, "SOON", 0)
    closed = []

    async def close(one: object) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        closed.append(one)

    async def main() -> None:
        PerLoop(object, close).get()

    asyncio.run(main())
    gc.collect()
    assert (len(closed), caplog.records) == (1, [])


def test_loops_at_the_same_time_do_not_disturb_each_other(backend: Any) -> None:
    errors: list[BaseException] = []
    together = threading.Barrier(4)

    async def main() -> None:
        for _ in range(5):
            await asyncio.to_thread(together.wait)
            await check(backend, await use(backend))

    def thread() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            errors.append(error)
            together.abort()

    threads = [threading.Thread(target=thread) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert errors == []


def test_a_loop_keeps_its_connections_while_another_one_is_used(redis_server: Address) -> None:
    """A store that knows only the last loop would open connections anew at each turn."""
    backend = RedisBackend(redis_server.url, secrets.token_hex(4), timeout=30)
    with connections(redis_server) as count, asyncio.Runner() as first, asyncio.Runner() as second:
        for runner in (first, second):
            runner.run(use(backend, 1))
        before = count()
        for runner in (first, second) * 5:
            runner.run(use(backend, 1))
        # On a slow machine, each loop may need a second one while it returns the first to its pool.
        assert count() <= before + 2


def test_a_loop_that_was_not_shut_down_is_forgotten() -> None:
    closed: list[object] = []

    async def close(it: object) -> None:
        closed.append(it)

    objects = PerLoop(object, close)

    async def use() -> object:
        assert objects.get() is objects.get()
        return objects.get()

    for _ in range(3):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(use())
        loop.close()
    last = asyncio.run(use())
    assert closed == [last]
    asyncio.run(objects.aclose())  # this loop has none
    assert closed == [last]
    assert len(objects._open) <= 2


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_processes_that_fork_after_the_first_use_share_no_connection(backend: Any) -> None:
    ids = asyncio.run(use(backend))
    children = [_fork(partial(_child, backend, ids)) for _ in range(3)]
    asyncio.run(check(backend, ids))
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    asyncio.run(check(backend, ids))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_a_process_that_forks_while_its_loop_runs_keeps_its_connections(redis_server: Address) -> None:
    for make in (COPIED["a URL"], COPIED["a client"]):
        backend = RedisBackend(make(redis_server.url), secrets.token_hex(4), timeout=30)

        async def main(backend: Any = backend) -> None:
            ids = await use(backend)
            child = _fork(lambda: threading.Thread(target=_child, args=[backend, ids]))
            for _ in range(5):
                await check(backend, ids)
            assert await asyncio.to_thread(os.waitpid, child, 0) == (child, 0)
            await check(backend, ids)

        asyncio.run(main())


def _fork(work: Callable[[], Any]) -> int:
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        code = 1
        try:
            thread = work()
            if thread is not None:  # the loop of the parent counts as running in the main thread
                thread.start()
                thread.join()
            code = 0
        finally:
            os._exit(code)
    return child


def _child(backend: Any, ids: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(check(backend, ids))
        asyncio.run(use(backend))
        gc.collect()


def application(backend: Any) -> Starlette:
    async def count(request: Request) -> PlainTextResponse:
        await request.session.load()  # type: ignore[attr-defined]
        request.session["n"] = request.session.get("n", 0) + 1
        return PlainTextResponse(str(request.session["n"]))

    return Starlette(routes=[Route("/", count)], middleware=[Middleware(SessionMiddleware, backend=backend)])


def test_a_test_client_without_with_has_a_loop_for_each_request_and_leaves_nothing(backend: Any) -> None:
    client = TestClient(application(backend))
    assert [client.get("/").text for _ in range(3)] == ["1", "2", "3"]
    with client:
        assert client.get("/").text == "4"
    assert client.get("/").text == "5"


# Clients that cannot be copied


def test_a_cluster_or_sentinel_is_made_for_each_loop_by_a_function(
    redis_cluster: Address, redis_sentinel: SentinelAddress
) -> None:
    def make_cluster() -> Any:
        return RedisCluster.from_url(redis_cluster.url)

    def make_primary() -> Any:
        return Sentinel(redis_sentinel.sentinels).master_for(redis_sentinel.service)

    for make in (make_cluster, make_primary):
        backend = RedisBackend(make, secrets.token_hex(4), timeout=30)
        ids = asyncio.run(use(backend))
        with asyncio.Runner() as first, asyncio.Runner() as second:
            for runner in (first, second, first):
                runner.run(check(backend, ids))
        given = RedisBackend(make(), secrets.token_hex(4), timeout=30)
        ids = asyncio.run(use(given))
        with pytest.raises(ImproperlyConfigured, match="pass RedisBackend a function that makes the client"):
            asyncio.run(check(given, ids))


# No asyncio at all


def test_without_asyncio_the_server_does_not_start_and_the_message_says_why(redis_server: Address) -> None:
    backend = RedisBackend(redis_server.url, timeout=30)
    says = "needs asyncio, and the application runs without it, for instance on trio: run the server with asyncio"
    with pytest.raises(ImproperlyConfigured, match=says), TestClient(application(backend), backend="trio"):
        raise AssertionError("it did start")
    with pytest.raises(ImproperlyConfigured, match=says):  # a server without lifespan
        TestClient(application(backend), backend="trio").get("/", headers={"cookie": "session=some-id"})
    for verb in (backend.store.get, backend.store.delete):
        with pytest.raises(ImproperlyConfigured, match=says):
            trio.run(partial(verb, "key", now=1))
