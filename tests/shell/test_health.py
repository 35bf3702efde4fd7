"""The readiness probe: one read of the store, shared by all who ask at once, and no more than yes or no."""

import logging
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    EncryptedCookieBackend,
    InMemoryBackend,
    SessionBackend,
    SessionMiddleware,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.health import HealthCheck, check_health
from starsessions.stores import MemoryStore
from starsessions.stores.listed import ListedStore
from starsessions.testing.conformance.right_stores import Entries, Right
from tests.shell.people import LISTING, Recorded
from tests.shell.test_outage import Failing
from tests.site import KEY, Clock, DictBackend, Reply, call, settled

pytestmark = pytest.mark.anyio


async def probe(health: HealthCheck) -> Reply:
    return await call(health, {"type": "http", "method": "GET", "path": "/readyz", "headers": []})


def answer_of(reply: Reply) -> tuple[int, bytes]:
    return reply.messages[0]["status"], reply.messages[1]["body"]


OK, UNAVAILABLE = (200, b'{"status":"ok"}'), (503, b'{"status":"unavailable"}')


@pytest.mark.both_loops
async def test_a_store_that_answers_is_healthy_and_is_read_once_and_never_written(clock: Clock) -> None:
    store = Recorded()
    for backend in (StoreBackend(store, clock=clock), CookieBackend(KEY, revocations=store, clock=clock), store):
        assert answer_of(await probe(HealthCheck(backend))) == OK
        await check_health(backend)
        assert store.calls == ["get", "get"]
        store.calls.clear()
    assert store.all_keys() == []


@pytest.mark.both_loops
async def test_a_store_that_fails_is_not_healthy_until_it_answers_again(
    caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    store = Failing()
    for backend in (StoreBackend(store, clock=clock), EncryptedCookieBackend(KEY, revocations=store, clock=clock)):
        caplog.clear()
        health = HealthCheck(backend)
        store.fails = True
        for _ in range(3):
            reply = await probe(health)
            assert answer_of(reply) == UNAVAILABLE
            assert reply.all("cache-control") == ["no-store"]
        with pytest.raises(BackendUnavailable):
            await check_health(backend)
        store.fails = False
        assert answer_of(await probe(health)) == OK
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage() == "The session store is not healthy: The store failed: ConnectionError."


async def test_cookies_without_a_store_are_always_healthy() -> None:
    for backend in (CookieBackend(KEY), EncryptedCookieBackend(KEY)):
        assert answer_of(await probe(HealthCheck(backend))) == OK


async def test_each_kind_of_backend_is_healthy(clock: Clock) -> None:
    for make in LISTING.values():
        await check_health(make(clock))
    await check_health(ListedStore(Right(Entries())))


async def test_a_backend_of_the_application_is_read_whatever_it_raises() -> None:
    class Own(DictBackend):
        error: Exception | None = None

        async def read(self, session_id: str) -> dict[str, Any]:
            if self.error is not None:
                raise self.error
            return await super().read(session_id)

    backend = Own()
    health = HealthCheck(backend)
    assert answer_of(await probe(health)) == OK
    backend.error = ConnectionError("SECRET")
    assert answer_of(await probe(health)) == UNAVAILABLE
    with pytest.raises(BackendUnavailable, match=r"^The store failed: ConnectionError\.$"):
        await check_health(backend)


@pytest.mark.both_loops
async def test_probes_at_the_same_time_share_a_read(clock: Clock) -> None:
    class Slow(Recorded):
        def __init__(self) -> None:
            super().__init__()
            self.may_answer = anyio.Event()

        async def get(self, key: str, *, now: int) -> Any:
            self.calls.append("get")
            await self.may_answer.wait()
            return None

    store, replies = Slow(), list[Reply]()
    health = HealthCheck(StoreBackend(store, clock=clock))

    async def ask() -> None:
        replies.append(await probe(health))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
        await settled()
        assert (store.calls, replies) == (["get"], [])
        store.may_answer.set()
    assert [answer_of(reply) for reply in replies] == [OK] * 50
    assert store.calls == ["get", "get"]  # one for those who asked while the first one was under way


def application(backend: SessionBackend) -> Starlette:
    health = HealthCheck(backend)
    routes = [Route("/readyz", health), Mount("/mounted", health), WebSocketRoute("/ws", health)]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, backend=backend)])


def test_it_is_a_route_or_mounted_and_takes_no_other_method() -> None:
    backend = InMemoryBackend()
    client = TestClient(application(backend))
    for path in ("/readyz", "/mounted", "/mounted/"):
        response = client.get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
        assert "set-cookie" not in response.headers
        assert client.head(path).status_code == 200
        refused = client.post(path)
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/ws"):
        raise AssertionError("it was accepted")


def test_it_is_a_route_of_fastapi_and_answers_without_a_redirect() -> None:
    app = FastAPI(routes=[Route("/readyz", HealthCheck(MemoryStore()))])
    response = TestClient(app, follow_redirects=False).get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
