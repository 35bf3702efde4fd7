"""Starlette's own middlewares outside and inside of `SessionMiddleware`."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser, requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from starsessions import ResponseStarted, SessionBackend, SessionMiddleware
from tests.history.pages import ROUTE, BrowserOf, seen
from tests.kinds import each_backend
from tests.rows import rows

Around = list[Middleware]

# Starlette 1.0's BaseHTTPMiddleware does this itself, and trio reports it.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'starlette.requests.Request.stream':ResourceWarning")


def sessions(backend: SessionBackend) -> Middleware:
    return Middleware(SessionMiddleware, backend=backend, autoload=True)


# AuthenticationMiddleware


class BySession(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        user = conn.session.get("user")
        return None if user is None else (AuthCredentials(["authenticated"]), SimpleUser(user))


@requires("authenticated", status_code=401)
async def whoami(request: Request) -> Response:
    return PlainTextResponse(request.user.display_name)


@requires("authenticated")
async def whoami_over_a_socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(websocket.user.display_name)
    await websocket.close()


@each_backend
def test_authentication_reads_the_session(backend: SessionBackend, browser_of: BrowserOf) -> None:
    routes = [ROUTE, Route("/whoami", whoami), WebSocketRoute("/ws", whoami_over_a_socket)]
    middleware = [sessions(backend), Middleware(AuthenticationMiddleware, backend=BySession())]
    browser = browser_of(Starlette(routes=routes, middleware=middleware))
    assert browser.get("/whoami").status_code == 401
    browser.post("/", json={"user": "ann"})
    assert browser.get("/whoami").text == "ann"
    with browser.websocket_connect("/ws") as websocket:
        assert websocket.receive_text() == "ann"
    browser.delete("/")
    assert browser.get("/whoami").status_code == 401


# BaseHTTPMiddleware


async def count(request: Request, call_next: RequestResponseEndpoint) -> Response:
    request.session["before"] = request.session.get("before", 0) + 1
    response = await call_next(request)
    request.session["after"] = request.session.get("after", 0) + 1
    return response


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers["x-passed"] = "yes"
    return response


async def in_parts(request: Request) -> Response:
    async def body() -> Any:
        for part in ("a", "b"):
            yield part

    request.session["streamed"] = True
    return StreamingResponse(body())


@each_backend
def test_a_base_http_middleware_inside_uses_the_session_before_and_after_the_handler(
    backend: SessionBackend, browser_of: BrowserOf
) -> None:
    middleware = [sessions(backend), Middleware(BaseHTTPMiddleware, dispatch=count)]
    browser = browser_of(Starlette(routes=[ROUTE], middleware=middleware))
    assert seen(browser) == {"before": 1}
    assert seen(browser) == {"before": 2, "after": 1}
    browser.post("/", json={"user": "ann"})
    assert seen(browser) == {"before": 4, "after": 3, "user": "ann"}


@each_backend
@rows("outside", [True, False], ids=["around", "inside"])
@pytest.mark.both_loops
def test_a_base_http_middleware_passes_the_session_on(
    backend: SessionBackend, browser_of: BrowserOf, outside: bool
) -> None:
    passing = Middleware(BaseHTTPMiddleware, dispatch=pass_on)
    middleware: Around = [passing, sessions(backend)] if outside else [sessions(backend), passing]
    browser = browser_of(Starlette(routes=[ROUTE, Route("/parts", in_parts)], middleware=middleware))
    response = browser.post("/", json={"user": "ann"})
    assert response.headers["x-passed"] == "yes"
    assert browser.get("/parts").text == "ab"
    assert seen(browser) == {"user": "ann", "streamed": True}
    browser.delete("/")
    assert not browser.cookies


async def too_late(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    request.session["user"] = "bob"
    return response


@each_backend
def test_an_outer_base_http_middleware_that_changes_too_late_gets_an_error(
    backend: SessionBackend, browser_of: BrowserOf
) -> None:
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=too_late), sessions(backend)]
    browser = browser_of(Starlette(routes=[ROUTE], middleware=middleware))
    with pytest.raises(ResponseStarted, match="persist"):
        browser.post("/", json={"user": "ann"})


# GZipMiddleware


async def long_text(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse({"visits": request.session["visits"], "text": "lorem ipsum " * 200})


@each_backend
@rows("outside", [True, False], ids=["around", "inside"])
def test_compression_does_not_interfere_with_the_session(
    backend: SessionBackend, browser_of: BrowserOf, outside: bool
) -> None:
    compression = Middleware(GZipMiddleware)
    middleware: Around = [compression, sessions(backend)] if outside else [sessions(backend), compression]
    browser = browser_of(Starlette(routes=[Route("/", long_text)], middleware=middleware))
    for visits in (1, 2):
        response = browser.get("/", headers={"accept-encoding": "gzip"})
        assert response.headers["content-encoding"] == "gzip"
        assert response.json()["visits"] == visits
        assert {field.strip() for field in response.headers["vary"].split(",")} == {"Accept-Encoding", "Cookie"}
