"""What is found in an application: its middlewares, and the ways to routes that may change something."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.routing import BaseRoute, Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from starsessions import CookieBackend, InMemoryBackend, SessionMiddleware, csrf
from starsessions.check.application import Application
from starsessions.health import HealthCheck
from starsessions.oidc import BackchannelLogout
from starsessions.pages import DevicesPages, OperatorPages
from starsessions.stores import MemoryStore
from starsessions.users import UserSessions
from tests.check.deployments import (
    CSRF,
    KEY,
    OTHER_KEY,
    PAGE,
    RIGHT,
    answer,
    app_of,
    deployed,
    findings,
    numbers,
    sessions,
)
from tests.rows import rows


class Form(HTTPEndpoint):
    async def post(self, request: Any) -> None: ...


class Page(HTTPEndpoint):
    async def get(self, request: Any) -> None: ...


class Unlike(BaseRoute):
    """A route that is neither an endpoint nor an application."""


class SomeCsrfProtection:
    def __init__(self, app: Any) -> None:
        self.app = app


class Endless:
    """What a mock is: each attribute leads to another one."""

    def __init__(self, app: Any = None) -> None: ...

    @property
    def app(self) -> "Endless":
        return self


async def plain(scope: Any, receive: Any, send: Any) -> None: ...


def verified(*paths: str, router: bool = False, included: bool = False) -> FastAPI:
    """An application of FastAPI with two forms: dependencies protect these paths, a router, or what one includes."""
    dependencies = [Depends(csrf.verify)]
    forms = APIRouter(dependencies=dependencies if router else [])
    for path in ("/a", "/b"):
        forms.add_api_route(path, answer, methods=["POST"], dependencies=dependencies if path in paths else [])
    outer = APIRouter()
    outer.include_router(forms, prefix="/forms", dependencies=dependencies if included else [])
    app = FastAPI()
    app.include_router(outer)
    app.add_middleware(SessionMiddleware, backend=CookieBackend(KEY), **RIGHT)
    return app


def with_route(route: BaseRoute) -> Starlette:
    return app_of(sessions(), routes=[route])


protected = Middleware(SomeCsrfProtection)
PEOPLE = UserSessions(InMemoryBackend())


@rows(
    "app, found",
    [
        # What may change something
        (with_route(PAGE), []),
        (with_route(Route("/", answer, methods=["HEAD", "OPTIONS"])), []),
        (with_route(Route("/", answer, methods=["DELETE"])), ["S301"]),
        (with_route(Route("/", Page)), []),
        (with_route(Route("/", Form)), ["S301"]),
        (with_route(Route("/", StaticFiles)), ["S301"]),
        (with_route(WebSocketRoute("/", answer)), ["S301"]),
        (with_route(Mount("/static", StaticFiles(directory="/"))), []),
        (with_route(Mount("/other", plain)), ["S301"]),
        (with_route(Mount("/other", routes=[PAGE])), []),
        (with_route(Mount("/other", routes=[Route("/", Form)])), ["S301"]),
        (with_route(Host("other.example", Router([Route("/", Form)]))), ["S301"]),
        (with_route(Unlike()), []),
        # What the library itself serves: it reads only, checks a token, or takes no cookie
        (with_route(Route("/readyz", HealthCheck(InMemoryBackend()))), []),
        (with_route(Mount("/devices", DevicesPages(PEOPLE, sign_in_url="/login"))), []),
        (with_route(Mount("/operators", OperatorPages(PEOPLE, guard=lambda request: None))), []),
        (
            with_route(Route("/logout-tokens", BackchannelLogout(PEOPLE, issuer="https://op.example", client_id="us"))),
            [],
        ),
        (SessionMiddleware(plain, backend=CookieBackend(KEY), **RIGHT), ["S301"]),
        (SessionMiddleware(app_of(CSRF), backend=CookieBackend(KEY), **RIGHT), []),
        (SessionMiddleware(Router([Route("/", Form)]), backend=CookieBackend(KEY), **RIGHT), ["S301"]),
        # What protects
        (app_of(sessions(), protected), []),
        (app_of(protected, sessions()), []),
        (with_route(Route("/", Form, middleware=[protected])), []),
        (with_route(Mount("/other", routes=[Route("/", Form)], middleware=[protected])), []),
        (app_of(sessions(), routes=[Mount("/x", Router([Route("/", Form)], middleware=[protected]))]), []),
        (app_of(sessions(), routes=[Route("/", Form, middleware=[protected]), Route("/b", Form)]), ["S302"]),
        (verified(), ["S301"]),
        (verified("/a"), ["S302"]),
        (verified("/a", "/b"), []),
        (verified(router=True), []),
        (verified(included=True), []),
    ],
)
@pytest.mark.anyio
async def test_each_way_to_change_something_has_to_be_protected(app: Any, found: list[str]) -> None:
    assert await numbers(app) == found


@pytest.mark.anyio
async def test_sessions_of_a_mounted_application_and_of_a_route_are_found() -> None:
    wrong = sessions(session_cookie="session")
    for route in (Mount("/shop", app_of(wrong, CSRF)), Route("/", answer, middleware=[wrong])):
        [one] = await findings(app_of(CSRF, routes=[route]), silence=["S303"])
        assert (one.number, one.where) == ("S203", "session")


@pytest.mark.anyio
async def test_the_first_paths_without_protection_are_named() -> None:
    routes = [Route("/a", Form, middleware=[protected]), Mount("/x", routes=[Route("/b", Form)])]
    routes += [Route(path, Form) for path in ("/c", "/d")]
    [one] = await findings(app_of(sessions(), routes=routes))
    assert one.sentence.endswith(": /x/b, /c, /d.")
    [one] = await findings(app_of(sessions(), routes=[*routes, Route("/e", Form), Route("/f", Form)]))
    assert one.sentence.endswith(": /x/b, /c, /d, and 2 more.")


@pytest.mark.anyio
async def test_an_application_that_runs_is_looked_at_as_it_is() -> None:
    app = deployed(https_only=None, on_conflict="raise", backend=CookieBackend(KEY, max_cookies=3))
    before = await findings(app)
    with TestClient(app):
        stack = app.middleware_stack
        assert await findings(app) == before
        assert app.middleware_stack is stack
    assert [one.number for one in before] == ["S005", "S206"]


@pytest.mark.anyio
async def test_a_middleware_that_cannot_be_made_is_a_finding_without_its_message() -> None:
    def broken(app: Any) -> Any:
        raise RuntimeError(KEY)

    [one] = await findings(app_of(Middleware(broken), sessions()))
    assert one.sentence == "The application cannot start: RuntimeError."


@pytest.mark.anyio
async def test_a_backend_that_cannot_be_bound_is_a_finding_without_its_message() -> None:
    class Unbound(InMemoryBackend):
        def prepare(self, binding: Any, policy: Any) -> None:
            if self.original is not None:
                raise RuntimeError(KEY)

    [one] = await findings(deployed(backend=Unbound()))
    assert one.sentence == "The application cannot start: RuntimeError."


@pytest.mark.anyio
async def test_a_keyword_of_another_library_is_a_finding_with_its_message() -> None:
    [one] = await findings(app_of(Middleware(SessionMiddleware, backend=InMemoryBackend(), cookie_name="x")))
    assert one.number == "S001"
    assert "use session_cookie" in one.sentence


@pytest.mark.anyio
async def test_a_middleware_that_was_put_inside_later_is_found() -> None:
    app = SessionMiddleware(plain, backend=CookieBackend(KEY), **RIGHT)
    app.app = StarlettesMiddleware(plain, OTHER_KEY, session_cookie=RIGHT["session_cookie"])
    assert "S001" in await numbers(app)


@pytest.mark.anyio
@pytest.mark.parametrize("app", [None, 42, plain, Endless(), SimpleNamespace(app=None)])
async def test_anything_can_be_checked(app: object) -> None:
    assert await numbers(app) == ["S002"]


@pytest.mark.anyio
async def test_a_route_whose_middlewares_have_no_end_is_looked_at() -> None:
    assert await numbers(with_route(Route("/", answer, methods=["POST"], middleware=[Middleware(Endless)]))) == ["S301"]


def test_what_the_log_said_meanwhile_was_said_by_others(caplog: pytest.LogCaptureFixture) -> None:
    found = Application(deployed(on_conflict="raise"))
    assert [template[:24] for template, _ in found.said] == ['on_conflict="raise" has ']
    assert caplog.records == []
    logging.getLogger("starsessions").warning("another message")
    assert [record.message for record in caplog.records] == ["another message"]


def test_a_log_that_is_switched_off_hides_no_finding(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("starsessions")
    with caplog.at_level(logging.ERROR, "starsessions"):
        assert len(Application(deployed(on_conflict="raise")).said) == 1
        assert log.level == logging.ERROR
    monkeypatch.setattr(log, "disabled", True)  # as `dictConfig` leaves each logger that it does not name
    assert len(Application(deployed(on_conflict="raise")).said) == 1
    assert log.disabled


class Broken(MemoryStore):
    async def get(self, key: str, *, now: int) -> Any:
        raise RuntimeError(KEY)


@pytest.mark.anyio
async def test_a_store_of_the_application_may_raise_anything() -> None:
    from starsessions.stores import StoreBackend

    [one] = await findings(deployed(backend=StoreBackend(Broken(), encrypt_with=KEY)))
    assert one.number == "S402"
    assert one.sentence == "The store of the sessions does not work: RuntimeError."
    assert one.page == "reference/checks.md#s402"
