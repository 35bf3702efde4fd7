"""Applications that are right, and what one changes to make them wrong."""

import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route

from starsessions import CookieBackend, SessionMiddleware
from starsessions.check import Finding, check
from starsessions.csrf import CsrfMiddleware
from starsessions.timeouts import AAL2

KEY, OTHER_KEY = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
COOKIE = "__Host-session"
RIGHT: dict[str, Any] = {"session_cookie": COOKIE, "https_only": True, **AAL2}
"""The settings of a middleware in which nothing is wrong."""


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("done")


FORM = Route("/transfer", answer, methods=["GET", "POST"])
PAGE = Route("/", answer)
CSRF = Middleware(CsrfMiddleware)


def sessions(**settings: Any) -> Middleware:
    if "backend" not in settings:
        settings["backend"] = CookieBackend(KEY)
    return Middleware(SessionMiddleware, **{**RIGHT, **settings})


def app_of(*middleware: Middleware, routes: Sequence[BaseRoute] = (FORM, PAGE), debug: bool = False) -> Starlette:
    return Starlette(debug=debug, routes=routes, middleware=middleware or [sessions(), CSRF])


def deployed(**settings: Any) -> Starlette:
    """An application with these settings of the middleware, which is right in everything else."""
    return app_of(sessions(**settings), CSRF)


async def findings(app: object, **how: Any) -> list[Finding]:
    return await check(app, **{"argv": [], "environ": {}, "timeouts": AAL2, **how})


async def numbers(app: object, **how: Any) -> list[str]:
    return [one.number for one in await findings(app, **how)]


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port of this machine that no server can take meanwhile, and that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]
