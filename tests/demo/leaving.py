"""An application whose clients leave in the middle: served by uvicorn, for `test_clients_that_leave.py`.

Each test has a name of its own, `run`, for the moments that it waits for and for the gate that it may close. So nothing
here, and nothing there, sleeps or polls.
"""

import os
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from starsessions import (
    CookieBackend,
    EncryptedCookieBackend,
    InMemoryBackend,
    Session,
    SessionBackend,
    SessionMiddleware,
)

KEY = "0123456789abcdefghijklmnopqrstuvwxyzABCDEF"
LIMIT = 40  # seconds: shorter than the patience of the tests, so that a hang is told from here
moments: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)


class Gated(SessionBackend):
    """A dict, with a gate before each write of a session that says so: where a request may be cancelled."""

    def __init__(self) -> None:
        self._storage: dict[str, dict[str, Any]] = {}

    async def read(self, session_id: str) -> dict[str, Any]:
        return self._storage.get(session_id, {})

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        if gate := data.get("gate"):
            moments[f"{gate} writing"].set()
            await moments[f"{gate} open"].wait()
        session_id = session_id or await self.generate_id()
        self._storage[session_id] = data
        return session_id

    async def remove(self, session_id: str) -> None:
        del self._storage[session_id]

    async def exists(self, session_id: str) -> bool:
        return session_id in self._storage


BACKENDS = {
    "signed": lambda: CookieBackend(KEY),
    "encrypted": lambda: EncryptedCookieBackend(KEY),
    "memory": InMemoryBackend,
    "custom": Gated,
}


class Watch:
    """Around everything: reports when a request has ended, including its session."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        finally:
            run = scope.get("path", "").rpartition("/")[2]
            moments[f"{run} over"].set()


def session_of(connection: HTTPConnection) -> Session:
    return cast(Session, connection.session)


async def begin(request: Request) -> Response:
    request.session.update(cart=[{"sku": "tea", "quantity": 1}], steps=[])
    return Response()


async def show(request: Request) -> Response:
    return JSONResponse(request.session)


async def stream(request: Request) -> Response:
    """Endless, and what changed the session went out with its headers."""
    request.session["cart"].append({"sku": "bread", "quantity": 2})

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield b"crumbs"
            await anyio.lowlevel.checkpoint()

    return StreamingResponse(chunks())


async def stream_and_save(request: Request) -> Response:
    """Endless, and saves each step that it makes: two changes that belong together."""
    session = session_of(request)

    async def chunks() -> AsyncIterator[bytes]:
        await session.persist()
        while True:
            session["steps"].append(len(session["steps"]))
            session["count"] = len(session["steps"])
            await session.persist()
            yield b"step"

    return StreamingResponse(chunks())


async def stream_after_a_gate(request: Request) -> Response:
    """The first write, the one before the headers, waits for the gate."""
    request.session["gate"] = request.path_params["run"]
    return await stream(request)


async def save_behind_a_gate(request: Request) -> Response:
    session = session_of(request)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await session.persist()
        session["gate"] = request.path_params["run"]
        await session.persist()
        yield b"never"

    return StreamingResponse(chunks())


async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        websocket.session["cart"].append({"sku": text, "quantity": 3})
        await websocket.send_text("noted")


async def socket_that_persists(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        websocket.session["cart"].append({"sku": text, "quantity": 4})
        websocket.session["gate"] = websocket.path_params["run"]
        await session_of(websocket).persist()


async def wait(request: Request) -> Response:
    with anyio.fail_after(LIMIT):
        await moments[request.query_params["for"]].wait()
    return Response()


async def open_gate(request: Request) -> Response:
    moments[request.query_params["gate"] + " open"].set()
    return Response()


app = Starlette(
    routes=[
        Route("/begin", begin),
        Route("/show", show),
        Route("/wait", wait),
        Route("/open", open_gate),
        Route("/stream/{run}", stream),
        Route("/stream-and-save/{run}", stream_and_save),
        Route("/stream-after-a-gate/{run}", stream_after_a_gate),
        Route("/save-behind-a-gate/{run}", save_behind_a_gate),
        WebSocketRoute("/socket/{run}", socket),
        WebSocketRoute("/socket-that-persists/{run}", socket_that_persists),
    ],
    middleware=[
        Middleware(Watch),
        Middleware(SessionMiddleware, backend=BACKENDS[os.environ["BACKEND"]](), autoload=True),
    ],
)
