"""The application of these recipes: it counts visits, and signs in whom it is told to.

`SESSIONS` is the URL of where sessions are kept: `postgresql+asyncpg://…`, or `redis+cluster://…` of any node.
`SESSION_KEY` is a secret of 32 bytes or more, by which they are encrypted there. The table of PostgreSQL is made by
Alembic, or by `starsessions create-table`.
"""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from starsessions import SessionMiddleware
from starsessions.backends.urls import backend_from_url
from starsessions.csrf import CsrfMiddleware
from starsessions.users import get_user_id, sign_in


async def visit(request: Request) -> JSONResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    seen = {"visits": request.session["visits"], "user": get_user_id(request), "scheme": request.url.scheme}
    return JSONResponse(seen)


async def login(request: Request) -> JSONResponse:
    await sign_in(request, request.query_params["user"])  # after you have verified a password
    return JSONResponse({"user": get_user_id(request)})


async def healthy(request: Request) -> JSONResponse:
    """Answer without the session: an outage of the store must not restart all servers."""
    return JSONResponse({})


app = Starlette(
    routes=[Route("/", visit), Route("/login", login, methods=["POST"]), Route("/healthz", healthy)],
    middleware=[
        Middleware(
            SessionMiddleware,
            backend=backend_from_url(os.environ["SESSIONS"], encrypt_with=os.environ["SESSION_KEY"]),
            session_cookie="__Host-session",
            https_only=True,
            autoload=True,
        ),
        Middleware(CsrfMiddleware),
    ],
)
