"""The application that the tests serve with several servers, and behind several proxies."""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from starsessions import CookieBackend, SessionMiddleware, update_atomically, users
from starsessions.backends.sqlalchemy import SQLAlchemyBackend

KEY = "a key of thirty-two bytes or more"


async def visit(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(f"{request.session['visits']} {users.get_user_id(request)}")


async def count(request: Request) -> Response:
    def increment(data: dict[str, int]) -> int:
        data["count"] = data.get("count", 0) + 1
        return data["count"]

    return PlainTextResponse(str(await update_atomically(request, increment)))


async def fill(request: Request) -> Response:
    """Put this many bytes into the session that cannot be compressed, or say how many there are."""
    if request.method == "POST":
        request.session["text"] = os.urandom(int(request.query_params["size"]) // 2).hex()
    return PlainTextResponse(str(len(request.session.get("text", ""))))


async def sign_in(request: Request) -> Response:
    await users.sign_in(request, "ada")
    return PlainTextResponse("welcome")


async def sign_out(request: Request) -> Response:
    await users.sign_out(request)
    return PlainTextResponse("bye")


async def echo(websocket: WebSocket) -> None:
    await websocket.session.load()  # type: ignore[attr-defined]
    await websocket.accept()
    await websocket.send_text(str(websocket.session.get("visits")))
    await websocket.close()


backend = (
    CookieBackend(KEY, max_cookies=int(os.environ["MAX_COOKIES"]))
    if "MAX_COOKIES" in os.environ
    else SQLAlchemyBackend(os.environ["DATABASE"], timeout=30)
)
app = Starlette(
    routes=[
        Route("/", visit),
        Route("/count", count, methods=["POST"]),
        Route("/fill", fill, methods=["GET", "POST"]),
        Route("/sign-in", sign_in, methods=["POST"]),
        Route("/sign-out", sign_out, methods=["POST"]),
        WebSocketRoute("/echo", echo),
    ],
    middleware=[Middleware(SessionMiddleware, backend=backend, autoload=True)],
)
