"""A session in a WebSocket: the handshake brings the cookie and can set one, and `persist()` saves what comes later.

    python -m uvicorn websocket:app --app-dir examples

The sessions live in memory. What changes after `accept` needs such a backend, on the server: the cookie can't be
changed any more by then, and a session that lives in the cookie says so with an error.
"""

from typing import cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.status import WS_1008_POLICY_VIOLATION
from starlette.websockets import WebSocket

from starsessions import InMemoryBackend, Session, SessionGone, SessionMiddleware


async def total(request: Request) -> Response:
    return PlainTextResponse(f"{request.session.get('messages', 0)} messages so far\n")


async def sign_out(request: Request) -> Response:
    await cast(Session, request.session).flush()
    return PlainTextResponse("Nobody\n")


async def echo(websocket: WebSocket) -> None:
    session = cast(Session, websocket.session)  # Starlette only promises a dict
    # Written before `accept`, so the answer to the handshake carries the cookie of a new session.
    session["connections"] = session.get("connections", 0) + 1
    await websocket.accept()
    try:
        async for text in websocket.iter_text():
            session["messages"] = session.get("messages", 0) + 1
            # At the close it would be saved anyway; now, the other tabs see it while the connection is open.
            await session.persist()
            await websocket.send_text(f"{session['messages']}: {text}")
    except SessionGone:
        # Ended in another tab. What is gone stays gone, so an open connection can't bring it back.
        await websocket.close(WS_1008_POLICY_VIOLATION)


app = Starlette(
    routes=[Route("/", total), Route("/sign-out", sign_out, methods=["POST"]), WebSocketRoute("/echo", echo)],
    middleware=[Middleware(SessionMiddleware, backend=InMemoryBackend(), autoload=True)],
)
