"""Read by mypy, pyright and ty, never run: messages, tokens against CSRF, and the session of a test client."""

from collections.abc import Callable
from typing import Any, assert_type

import httpx2
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.templating import Jinja2Templates
from starlette.testclient import TestClient

from starsessions import Session, SessionMiddleware, csrf, flash, get_session, users
from starsessions.csrf import CsrfFailed, CsrfMiddleware, WhyRefused
from starsessions.flash import Flash
from starsessions.testing import session_of, sign_in


async def messages(request: Request) -> Response:
    session = get_session(request)
    assert_type(session, Session)
    assert_type(flash.add_flash(session, "Saved", "success"), None)
    flash.add_flash(session, "Saved")
    assert_type(flash.pop_flashes(session), list[Flash])
    assert_type(flash.pop_flashes(session, background=True), list[Flash])
    assert_type(await flash.claim_flashes(session), list[Flash])
    for message in flash.pop_flashes(request):
        assert_type(message.text, str)
        assert_type(message.category, str)
    return Response()


async def tokens(request: Request) -> Response:
    assert_type(await csrf.verify(request), None)
    assert_type(csrf.csrf_token(request), str)
    field: str = csrf.csrf_input(request)
    return Response(field)


async def refuse(request: Request, error: CsrfFailed) -> Response:
    assert_type(error.why, WhyRefused)
    return PlainTextResponse(error.detail, error.status_code)


def refuse_any(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 403)


fast = FastAPI(dependencies=[Depends(csrf.verify)])
templates = Jinja2Templates("templates", context_processors=[csrf.context_processor, flash.context_processor])
assert_type(csrf.context_processor(Request({})), dict[str, Callable[..., Any]])

app = Starlette(
    middleware=[
        Middleware(CsrfMiddleware),
        Middleware(CsrfMiddleware, trusted_origins=["https://admin.example"], bypass=("/hooks/{name}",), refuse=refuse),
        Middleware(CsrfMiddleware, refuse=refuse_any),
        Middleware(SessionMiddleware, secret_key="TOP SECRET", autoload=True),
    ]
)


def test_of_an_application() -> None:
    client = TestClient(app)
    assert_type(sign_in(client, "42", method="password"), None)
    with session_of(client) as session:
        assert_type(session, Session)
        session["user"] = "ann"
    with session_of(client, session_cookie="session", app=app) as session:
        assert session["user"] == "ann"


async def test_of_an_asynchronous_client() -> None:
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://testserver") as client:
        await sign_in(client, "42")
        async with session_of(client) as session:
            assert_type(users.get_user_id(session), str | None)
