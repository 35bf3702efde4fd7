"""Applications for `benchmarks.end_to_end`: without sessions, with this library's, with Starlette's, and the floor.

Each exists as plain ASGI, which does almost nothing, and as a Starlette application with its router. With a session of
150 bytes, `/fill` stores a value, `/read` reads it, and `/` does not use the session.
"""

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from benchmarks.cases import BODY, data_of
from benchmarks.contestants import KEY
from benchmarks.floor import Floor
from starsessions import SessionMiddleware

DATA = data_of(150)


async def plain(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    if scope["path"] == "/fill":
        scope["session"].update(DATA)
    elif scope["path"] == "/read":
        assert scope.get("session", DATA)["user_id"] == 42
    headers = [(b"content-length", b"2"), (b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send(BODY)


async def untouched(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


async def read(request: Request) -> PlainTextResponse:
    assert (request.session if "session" in request.scope else DATA)["user_id"] == 42
    return PlainTextResponse("ok")


async def fill(request: Request) -> PlainTextResponse:
    request.session.update(DATA)
    return PlainTextResponse("ok")


ROUTES = [Route("/", untouched), Route("/read", read), Route("/fill", fill)]

plain_ours = SessionMiddleware(plain, KEY, autoload=True)
plain_starlette = StarletteSessions(plain, KEY)
plain_floor = Floor(plain, KEY)
routed = Starlette(routes=ROUTES)
routed_ours = Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, secret_key=KEY, autoload=True)])
routed_starlette = Starlette(routes=ROUTES, middleware=[Middleware(StarletteSessions, secret_key=KEY)])
routed_floor = Starlette(routes=ROUTES, middleware=[Middleware(Floor, secret_key=KEY)])
