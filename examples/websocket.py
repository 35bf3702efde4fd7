"""A session in a WebSocket: the handshake can set the cookie, and `persist()` saves later changes.

    python -m uvicorn websocket:app --app-dir examples

The sessions are stored in memory. Changes after `accept` need a server-side backend: no cookie can be set by then, so a
session that is stored in the cookie raises `ResponseStarted`.
"""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.status import WS_1008_POLICY_VIOLATION
from starlette.websockets import WebSocket

from starsessions import InMemoryBackend, SessionGone, SessionMiddleware, get_session, load_session


async def total(request: Request) -> Response:
    return PlainTextResponse(f"{request.session.get('messages', 0)} messages so far\n")


async def sign_out(request: Request) -> Response:
    await get_session(request).flush()
    return PlainTextResponse("Signed out\n")


async def echo(websocket: WebSocket) -> None:
    session = await load_session(websocket)
    # Changed before `accept`, so the response to the handshake sets the cookie of a new session.
    session["connections"] = session.get("connections", 0) + 1
    await websocket.accept()
    try:
        async for text in websocket.iter_text():
            session["messages"] = session.get("messages", 0) + 1
            # It would be saved at the close anyway. Saved now, it is visible in other tabs while the socket is open.
            await session.persist()
            await websocket.send_text(f"{session['messages']}: {text}")
    except SessionGone:
        # Ended in another tab. An open connection cannot restore the session.
        await websocket.close(WS_1008_POLICY_VIOLATION)


app = Starlette(
    routes=[Route("/", total), Route("/sign-out", sign_out, methods=["POST"]), WebSocketRoute("/echo", echo)],
    middleware=[Middleware(SessionMiddleware, backend=InMemoryBackend(), autoload=True)],
)
