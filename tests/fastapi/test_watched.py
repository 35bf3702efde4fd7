"""Endpoints that end with the session: WebSockets, long work, and streams of events."""

from collections.abc import AsyncIterator
from typing import Annotated

import anyio
import pytest
from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from starsessions import InMemoryBackend, Session, SessionMiddleware
from starsessions.fastapi import CurrentSession, SessionCookie, WatchedSession
from starsessions.users import UserSessions
from starsessions.watch import until_ended
from tests.fastapi.test_dependencies import BrowserOf, sign_in_routes

pytestmark = pytest.mark.both_loops


@pytest.fixture
def backend() -> InMemoryBackend:
    return InMemoryBackend()


@pytest.fixture
def app(backend: InMemoryBackend) -> FastAPI:
    app = sign_in_routes(FastAPI())
    app.add_middleware(SessionMiddleware, backend=backend)
    return app


@pytest.fixture
def browser(app: FastAPI, browser_of: BrowserOf) -> TestClient:
    browser = browser_of(app)
    browser.post("/sign-in/ann")
    return browser


def test_a_websocket_is_closed_when_its_session_has_ended(
    app: FastAPI, browser: TestClient, backend: InMemoryBackend
) -> None:
    @app.websocket("/talk")
    async def talk(websocket: WebSocket, session: WatchedSession) -> None:
        await websocket.accept()
        while True:  # trio may drop an `iter_text()` that is cancelled here without closing it, which warns
            text = await websocket.receive_text()
            await websocket.send_text(text)
            if text == "out":
                await UserSessions(backend).revoke_all("ann")

    with browser.websocket_connect("/talk") as websocket:
        for text in ("hello", "out"):
            websocket.send_text(text)
            assert websocket.receive_text() == text
        with pytest.raises(WebSocketDisconnect) as closed:
            websocket.receive_text()
    assert (closed.value.code, closed.value.reason) == (1008, "Your session has ended.")


def test_long_work_is_cancelled_when_its_session_has_ended(
    app: FastAPI, browser: TestClient, backend: InMemoryBackend
) -> None:
    steps: list[str] = []

    @app.post("/run")
    async def run(session: WatchedSession, ends: bool) -> str:
        steps.append("one")
        if ends:
            await UserSessions(backend).revoke_all("ann")
            await anyio.sleep_forever()
        steps.append("two")
        return "done"

    assert browser.post("/run?ends=no").json() == "done"
    refused = browser.post("/run?ends=yes")
    assert (refused.status_code, refused.json()) == (401, {"detail": "Your session has ended."})
    assert steps == ["one", "two", "one"]


def test_an_error_of_the_endpoint_passes(app: FastAPI, browser: TestClient) -> None:
    cookie = SessionCookie()

    @app.get("/fails")
    async def fails(session: Annotated[Session, Depends(cookie.watched(5), scope="function")]) -> None:
        raise LookupError("of the endpoint")

    with pytest.raises(LookupError, match="of the endpoint"):
        browser.get("/fails")


def test_streams_of_events_end_with_their_session(app: FastAPI, browser: TestClient, backend: InMemoryBackend) -> None:
    async def numbers() -> AsyncIterator[str]:
        yield "1"
        yield "2"
        await UserSessions(backend).revoke_all("ann")
        await anyio.sleep_forever()

    @app.get("/plain")
    async def plain(session: CurrentSession) -> StreamingResponse:
        return StreamingResponse(until_ended(session, numbers()))

    @app.get("/events", response_class=EventSourceResponse)
    async def events(session: CurrentSession) -> AsyncIterator[ServerSentEvent]:
        async for number in until_ended(session, numbers()):
            yield ServerSentEvent(data=number)

    assert browser.get("/plain").text == "12"
    browser.post("/sign-in/ann")
    assert browser.get("/events").text.count("data:") == 2
