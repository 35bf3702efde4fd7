"""Small applications for any session library, and what browsers see of them."""

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient, WebSocketTestSession
from starlette.types import ASGIApp, Receive, Scope, Send

BrowserOf = Callable[..., TestClient]
"""The fixture `browser_of`."""


async def page(request: Request) -> JSONResponse:
    """GET shows the session, POST updates it, DELETE clears it; each returns the data afterwards."""
    if request.method == "POST":
        request.session.update(await request.json())
    elif request.method == "DELETE":
        request.session.clear()
    return JSONResponse(dict(request.session))


ROUTE = Route("/", page, methods=["GET", "POST", "DELETE"])


def pages(kind: type, **settings: Any) -> Starlette:
    """An application with a session middleware of this class."""
    return Starlette(routes=[ROUTE], middleware=[Middleware(kind, **settings)])


class Deployed:
    """The server. Assign to `app` to deploy another version."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def take_cookies(browser: TestClient, websocket: WebSocketTestSession) -> None:
    """Starlette's test client, unlike a browser, does not keep the cookies that come with `websocket.accept`."""
    for name, value in websocket.extra_headers or ():
        if name == b"set-cookie":
            browser.cookies.set(*value.decode().partition(";")[0].split("=", 1), domain="testserver.local", path="/")


def seen(browser: TestClient) -> Any:
    return browser.get("/").json()


def said(set_cookie: str) -> dict[str, str | None]:
    """A parsed Set-Cookie header: the value under the cookie's name, attributes in lower case."""
    (name, value), *attributes = (part.partition("=")[::2] for part in set_cookie.split("; "))
    return {name: value} | {key.lower(): text or None for key, text in attributes}
