"""The application of these recipes: it counts visits, and signs in whom it is told to.

`SESSIONS` says where sessions are kept: `postgresql+asyncpg://…`, or `redis+cluster://…` of any node. `SESSION_KEY` is
a secret of 32 bytes or more, by which they are encrypted there.
"""

import os

from redis.asyncio import RedisCluster
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from starsessions import SessionMiddleware
from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.csrf import CsrfMiddleware
from starsessions.users import get_user_id, sign_in


def backend_from_environment() -> RedisBackend | SQLAlchemyBackend:
    """Return the backend that the variables name. The table is made by Alembic, or by `create_table()`."""
    url, key = os.environ["SESSIONS"], os.environ["SESSION_KEY"]
    if url.startswith("redis+cluster://"):
        node = url.replace("redis+cluster", "redis", 1)
        return RedisBackend(lambda: RedisCluster.from_url(node), encrypt_with=key)
    return SQLAlchemyBackend(url, encrypt_with=key)


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
            backend=backend_from_environment(),
            session_cookie="__Host-session",
            https_only=True,
            autoload=True,
        ),
        Middleware(CsrfMiddleware),
    ],
)
