"""The application that the clients ask. Each answer tells which session the cookie has opened, and what it is now."""

import os
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from starsessions import (
    CookieBackend,
    Session,
    SessionGone,
    SessionMiddleware,
    TooManySessions,
    load_session,
    update_atomically,
    users,
)
from starsessions.backends.base import wall_clock
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from tests.histories.history import COUNT, KEYS

SKEW = float(os.environ.get("SKEW", "0"))
SPEED = float(os.environ.get("SPEED", "1"))
TIMEOUT = float(os.environ.get("TIMEOUT", "5"))
SETTINGS = os.environ.get("SETTINGS", "").split(",")
"""Some of `run.SETTINGS`."""
KEY = "a key of 32 random bytes or more"


def clock() -> float:
    return wall_clock() * SPEED + SKEW


def backend_for(url: str) -> StoreBackend:
    """Return the backend for a URL; `redis+cluster` and `redis+sentinel` are Redis with several servers."""
    parts = urlsplit(url)
    common: Any = {"clock": clock, "check_epoch": "check_epoch" in SETTINGS}
    common["encrypt_with"] = KEY if "encrypt_with" in SETTINGS else False
    if not parts.scheme.startswith("redis"):
        return SQLAlchemyBackend(url, timeout=TIMEOUT, **common)
    common["wait_for_replicas"] = 1 if "wait_for_replicas" in SETTINGS else 0
    if parts.scheme == "redis+cluster":
        from redis.asyncio import RedisCluster

        return RedisBackend(lambda: RedisCluster.from_url(f"redis://{parts.netloc}"), timeout=TIMEOUT, **common)
    if parts.scheme == "redis+sentinel":
        from redis.asyncio import Sentinel

        hosts = [(host, int(port)) for host, port in (one.split(":") for one in parts.netloc.split(","))]
        name = parts.path.strip("/")
        return RedisBackend(lambda: Sentinel(hosts).master_for(name), timeout=TIMEOUT, **common)
    return RedisBackend(url, timeout=TIMEOUT, **common)


def seen(session: Session) -> dict[str, Any] | None:
    """What the session says of itself; None if there is none."""
    if "name" not in session:
        return None
    user, handle = users.get_user_id(session), users.get_handle(session)
    return {"name": session["name"], "user": user, "owner": session["owner"], "handle": handle}


async def begin(request: Request, session: Session) -> Any:
    if "name" not in session:
        session["name"] = request.query_params["value"]
        session["owner"] = request.query_params["browser"]


async def get(request: Request, session: Session) -> Any:
    name = session.get("name", "")
    return {key: session.get(f"{key}@{name}") for key in KEYS} | {COUNT: session.get(f"{COUNT}@{name}", 0)}


async def change(request: Request, session: Session) -> Any:
    """Set or delete a key: saved with the response, or before it, which says whether it was saved."""
    if "name" in session:
        # With the name of the session, since a second sign-in with one form takes the data along into another session.
        key = f"{request.query_params['key']}@{session['name']}"
        if "value" in request.query_params:
            session[key] = request.query_params["value"]
        else:
            session.pop(key, None)
        if request.query_params["confirms"] == "True":
            await session.persist()


async def increment(request: Request, session: Session) -> Any:
    if "name" not in session:
        return None

    def one_more(data: dict[str, Any]) -> int:
        key = f"{COUNT}@{data['name']}"
        data[key] = data.get(key, 0) + 1
        return int(data[key])

    return await update_atomically(session, one_more)


async def sign_in(request: Request, session: Session) -> Any:
    before = session.get("name")
    try:
        await users.sign_in(session, request.query_params["user"])
    except TooManySessions:
        return "refused"
    if before is None or "rotate_every" in SETTINGS:
        # What came along from another session: by a second sign-in with one form, or from one that lives on, since its
        # id has a grace period.
        session.clear()
    _label(request, session)
    await session.persist()
    if "name" not in session:  # it was ended meanwhile, and with it all that it had
        _label(request, session)
        await session.persist()
    return None


def _label(request: Request, session: Session) -> None:
    session.setdefault("name", request.query_params["value"])
    session["owner"] = request.query_params["user"]


async def sign_out(request: Request, session: Session) -> Any:
    await users.sign_out(session)


async def rotate(request: Request, session: Session) -> Any:
    if "name" in session:
        await session.regenerate_id()
        await session.persist()


async def revoke_others(request: Request, session: Session) -> Any:
    ended = await sessions.revoke_others(session)
    if "name" in session:
        await session.persist()
    return ended


async def list_of(request: Request) -> Response:
    listed = await sessions.list(request.query_params["user"])
    return JSONResponse({"value": [one.handle for one in listed]})


async def revoke(request: Request) -> Response:
    return JSONResponse({"value": await sessions.revoke(request.query_params["user"], request.query_params["handle"])})


async def revoke_all(request: Request) -> Response:
    return JSONResponse({"value": await sessions.revoke_all(request.query_params["user"])})


async def revoke_everyone(request: Request) -> Response:
    await sessions.revoke_everyone()
    return JSONResponse({"value": None})


def telling(handler: Callable[[Request, Session], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        session = await load_session(request)
        opened = seen(session)
        value = await handler(request, session)
        return JSONResponse({"opened": opened, "value": value, "left": seen(session)})

    return endpoint


class Told:
    """Answers 409 if the session has ended meanwhile, also when that shows only as the answer is about to be sent."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except SessionGone:
            await Response(status_code=409)(scope, receive, send)


stored = backend_for(os.environ["STORE"])
backend: StoreBackend | CookieBackend = stored
if "revocations" in SETTINGS:
    backend = CookieBackend(KEY, revocations=stored, check_epoch="check_epoch" in SETTINGS, clock=clock)
HANDLERS = {
    "begin": begin,
    "get": get,
    "replay": get,
    "set": change,
    "delete": change,
    "increment": increment,
    "sign_in": sign_in,
    "sign_out": sign_out,
    "rotate": rotate,
    "revoke_others": revoke_others,
}
app = Starlette(
    routes=[
        *(Route(f"/{kind}", telling(handler), methods=["POST"]) for kind, handler in HANDLERS.items()),
        Route("/list", list_of, methods=["POST"]),
        Route("/revoke", revoke, methods=["POST"]),
        Route("/revoke_all", revoke_all, methods=["POST"]),
        Route("/revoke_everyone", revoke_everyone, methods=["POST"]),
    ],
    middleware=[
        Middleware(Told),
        Middleware(
            SessionMiddleware,
            backend=backend,
            max_sessions_per_user=int(os.environ["MAXIMUM"]),
            on_too_many="refuse" if "refuse" in SETTINGS else "evict",
            rotate_every=61 if "rotate_every" in SETTINGS else None,
        ),
    ],
)
sessions = users.UserSessions(backend)
