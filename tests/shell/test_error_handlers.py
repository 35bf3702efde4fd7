"""An application's handler of an error answers also if the error is raised when the session is saved.

Starlette takes a response for started when the endpoint has sent it, although nothing is sent before the session is
saved, and calls no handler then.
"""

from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.testclient import TestClient

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    InMemoryBackend,
    SessionConflict,
    SessionError,
    SessionGone,
    SessionMiddleware,
    SessionTooLarge,
    UnsupportedValue,
    users,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from tests.rows import rows
from tests.site import KEY, Clock


class Down(MemoryStore):
    async def create(self, key: str, value: bytes, *, expires_at: int, now: int) -> Any:
        raise BackendUnavailable("The store is down.")


async def write(request: Request) -> None:
    request.session["n"] = request.session.get("n", 0) + 1


async def write_an_object(request: Request) -> None:
    request.session["n"] = object()


async def write_much(request: Request) -> None:
    request.session["n"] = "n" * 2_000_000


async def write_while_another_request_does(request: Request) -> None:
    await write(request)
    if request.method == "GET":
        TestClient(request.app, cookies=request.cookies).post("/")
        request.session["n"] = -1


async def sign_in_and_revoke(request: Request) -> None:
    await users.sign_in(request, "ann")
    await UserSessions(request.app.state.backend).revoke_all("ann")


FAILURES: dict[str, tuple[Any, Any, Any]] = {
    "down": (BackendUnavailable, write, lambda clock: StoreBackend(Down(), clock=clock)),
    "type": (UnsupportedValue, write_an_object, lambda clock: InMemoryBackend(clock=clock)),
    "size": (SessionTooLarge, write_much, lambda clock: InMemoryBackend(clock=clock)),
    "cookie": (SessionTooLarge, write_much, lambda clock: CookieBackend(KEY, clock=clock)),
    "conflict": (SessionConflict, write_while_another_request_does, lambda clock: InMemoryBackend(clock=clock)),
    "gone": (SessionGone, sign_in_and_revoke, lambda clock: InMemoryBackend(clock=clock)),
}
KINDS = [Starlette, FastAPI]


def browser_of(kind: Any, act: Any, backend: Any, handlers: dict[Any, Any]) -> TestClient:
    async def endpoint(request: Request) -> Response:
        await act(request)
        return PlainTextResponse("Done.")

    app = kind(exception_handlers=handlers)
    app.state.backend = backend
    app.add_route("/", endpoint, methods=["GET", "POST"])
    app.add_middleware(SessionMiddleware, backend=backend, autoload=True, on_conflict="raise")
    return TestClient(app, raise_server_exceptions=False)


@rows("kind", KINDS)
@rows(("error", "act", "backend"), FAILURES.values(), ids=FAILURES)
def test_the_handler_of_an_error_answers_when_the_session_is_saved(
    clock: Clock, kind: Any, error: Any, act: Any, backend: Any
) -> None:
    def answer(request: Request, error: Exception) -> Response:
        return PlainTextResponse(type(error).__name__, 409)

    browser = browser_of(kind, act, backend(clock), {error: answer})
    browser.post("/")
    reply = browser.get("/")
    assert (reply.status_code, reply.text) == (409, error.__name__)
    assert "set-cookie" not in reply.headers


@rows("kind", KINDS)
def test_a_failure_of_such_a_handler_is_the_error(clock: Clock, kind: Any) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        raise SessionError("The handler failed.")

    browser = browser_of(kind, write, StoreBackend(Down(), clock=clock), {SessionError: answer})
    with pytest.raises(SessionError, match="handler failed"):
        TestClient(browser.app).get("/")


@rows(
    ("error", "is_saved"),
    [(HTTPException(403), True), (LookupError("It has a handler."), True), (ValueError("It has none."), False)],
    ids=repr,
)
def test_a_sign_in_before_an_exception_is_saved_if_a_handler_answers(
    clock: Clock, error: Exception, is_saved: bool
) -> None:
    async def act(request: Request) -> None:
        if request.method == "POST":
            await users.sign_in(request, "ann")
            raise error
        raise HTTPException(200, str(users.get_user_id(request)))

    def answer(request: Request, error: Exception) -> Response:
        return PlainTextResponse("Something is missing.", 404)

    browser = browser_of(Starlette, act, InMemoryBackend(clock=clock), {LookupError: answer})
    assert ("set-cookie" in browser.post("/").headers) is is_saved
    assert browser.get("/").text == ("ann" if is_saved else "None")


class Copies:
    """A middleware that passes a copy of the scope on, so that the handlers are not in that of the outer one."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(dict(scope), receive, send)


def test_without_its_handler_a_store_that_fails_is_answered_503(clock: Clock) -> None:
    async def endpoint(request: Request) -> Response:
        await write(request)
        return PlainTextResponse("Done.")

    app = Starlette(exception_handlers={BackendUnavailable: lambda request, error: PlainTextResponse("Mine.", 418)})
    app.add_route("/", endpoint)
    app.add_middleware(Copies)
    app.add_middleware(SessionMiddleware, backend=StoreBackend(Down(), clock=clock), autoload=True)
    assert TestClient(app).get("/").status_code == 503
