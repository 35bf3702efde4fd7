"""Applications for the command line, as an operator would name them: tests.cli.shop:create_app()"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from secrets import token_urlsafe
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from starsessions import CookieBackend, InMemoryBackend, SessionBackend, SessionMiddleware
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.events import Event
from starsessions.exceptions import ImproperlyConfigured
from starsessions.timeouts import AAL2
from tests.site import KEY


class Past:
    """A history of sign-ins, which keeps nothing of old users."""

    def __init__(self) -> None:
        self.entries = {"ann": [{"what": "signed in"}, {"what": "signed out"}]}
        self.old = 3

    def record(self, event: Event) -> None:
        recorded.append(event)

    async def export(self, user_id: str) -> Any:
        for entry in self.entries.get(user_id, []):
            yield entry

    async def erase(self, user_id: str) -> int:
        return len(self.entries.pop(user_id, []))

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        yield
        closed.append(self)

    async def create_table(self) -> None: ...

    async def purge(self, limit: int) -> int:
        removed = min(limit, self.old)
        self.old -= removed
        return removed


closed: list[Past] = []
recorded: list[Event] = []
past = Past()
not_a_key = "postgresql://shop:secret@localhost/shop"


def backend() -> SQLAlchemyBackend:
    return SQLAlchemyBackend(os.environ["SHOP_DATABASE"], timeout=30)


def application(backend: SessionBackend, **settings: Any) -> Starlette:
    def home(request: Request) -> PlainTextResponse:
        return PlainTextResponse("")

    middleware = Middleware(SessionMiddleware, backend=backend, **{"https_only": True, **settings})
    return Starlette(routes=[Route("/", home)], middleware=[middleware])


def create_app() -> Starlette:
    return application(backend(), app_name="shop")


def ready_to_deploy() -> Starlette:
    stored = SQLAlchemyBackend(os.environ["SHOP_DATABASE"], encrypt_with=token_urlsafe(32), timeout=30)
    return application(stored, session_cookie="__Host-shop", **AAL2)


def that_waits() -> Starlette:
    stored = backend()

    async def scan(**how: Any) -> Any:
        sys.stdout.write("It has begun.\n")
        sys.stdout.flush()
        await asyncio.sleep(600)

    stored.store.scan = scan  # type: ignore[method-assign]
    return application(stored, app_name="shop")


def noisy() -> Starlette:
    logging.getLogger("starsessions").warning("This is in the log of the application.")
    return create_app()


def with_history() -> Starlette:
    return application(backend(), app_name="shop", on_event=Past().record)


def with_cookies() -> Starlette:
    return application(CookieBackend(KEY, revocations=backend()), app_name="shop")


def in_memory() -> Starlette:
    return application(InMemoryBackend())


def in_browsers() -> Starlette:
    return application(CookieBackend(KEY, allow_unrevocable=True))


def with_a_setting_without_effect() -> Starlette:
    return application(CookieBackend(KEY, allow_unrevocable=True), on_conflict="raise")


def misconfigured() -> Starlette:
    return application(InMemoryBackend(), max_age=-1)


def without_sessions() -> Starlette:
    return Starlette()


def with_two_cookies() -> Starlette:
    shared = backend()
    inner = application(shared, session_cookie="shop", app_name="shop")
    inner.add_middleware(SessionMiddleware, backend=shared, session_cookie="admin", scope_key="admin_session")
    return inner


def fails() -> Starlette:
    raise RuntimeError(f"cannot connect to {not_a_key}")


def is_misconfigured() -> Starlette:
    raise ImproperlyConfigured("A setting is wrong: correct it.")
