"""A sign-in that takes a moment, as the hash of a password does: long enough for the form to be sent again.

The store is in BACKEND: a name, or the URL of a database.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from starsessions import InMemoryBackend, SessionMiddleware
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.users import get_user_id, sign_in

URL = os.environ["BACKEND"]
backend = InMemoryBackend() if URL == "memory" else SQLAlchemyBackend(URL, timeout=30)

first_arrived, second_arrived, first_answered = asyncio.Event(), asyncio.Event(), asyncio.Event()


async def shelf(request: Request) -> Response:
    request.session["cart"] = "tea"
    return HTMLResponse('<form method="post" action="/sign-in"></form>')


async def arrived(request: Request) -> Response:
    await first_arrived.wait()
    return Response()


async def start(request: Request) -> Response:
    assert request.session["cart"] == "tea"  # both have loaded the visitor's session
    if not first_arrived.is_set():
        first_arrived.set()
        await second_arrived.wait()
        done = BackgroundTask(first_answered.set)
    else:
        second_arrived.set()
        await first_answered.wait()
        done = None
    await sign_in(request, "Ada")
    return RedirectResponse("/who", 303, background=done)


async def who(request: Request) -> Response:
    return HTMLResponse(f"{get_user_id(request) or 'a visitor'}, {request.session.get('cart', 'nothing')}")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    if isinstance(backend, SQLAlchemyBackend):
        await backend.create_table()
    yield


app = Starlette(
    routes=[
        Route("/shelf", shelf),
        Route("/arrived", arrived),
        Route("/sign-in", start, methods=["POST"]),
        Route("/who", who),
    ],
    middleware=[Middleware(SessionMiddleware, backend=backend, autoload=True)],
    lifespan=lifespan,
)
