"""Guarantee 12: several sessions in one app, each works or fails with a sentence."""

import re
from collections.abc import Callable
from typing import Any
from unittest.mock import MagicMock

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from starsessions import (
    CookieBackend,
    EncryptedCookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    Session,
    SessionMiddleware,
    get_session,
    load_session,
)
from starsessions.core.serializer import Msgpack
from starsessions.stores import MemoryStore
from tests.rows import rows
from tests.site import KEY, DictBackend


async def count(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse(request.session)


async def count_both(request: Request) -> Response:
    for key in ("session", "preferences"):
        request.scope[key]["n"] = request.scope[key].get("n", 0) + 1
    return JSONResponse([request.scope["session"], request.scope["preferences"]])


async def replace(request: Request) -> Response:
    request.scope["session"] = {"replaced": True}
    return Response()


@pytest.mark.guarantee(12)
def test_two_sessions_side_by_side_under_two_scope_keys(caplog: pytest.LogCaptureFixture) -> None:
    app = Starlette(routes=[Route("/", count_both)])
    app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True)
    app.add_middleware(
        SessionMiddleware,
        backend=InMemoryBackend(),
        autoload=True,
        session_cookie="preferences",
        scope_key="preferences",
    )
    client = TestClient(app)
    assert client.get("/").json() == [{"n": 1}, {"n": 1}]
    assert client.get("/").json() == [{"n": 2}, {"n": 2}]
    assert set(client.cookies) == {"session", "preferences"}
    assert caplog.records == []


@pytest.mark.anyio
async def test_a_scope_key_that_no_middleware_has_is_named_in_the_error() -> None:
    request = HTTPConnection({"type": "http", "session": Session(InMemoryBackend())})
    message = (
        "This request has no session of this package under scope_key='admim': pass the scope_key of a "
        "starsessions.SessionMiddleware that is outside of what reads the session."
    )
    with pytest.raises(ImproperlyConfigured, match=f"^{re.escape(message)}$"):
        get_session(request, "admim")
    with pytest.raises(ImproperlyConfigured, match=f"^{re.escape(message)}$"):
        await load_session(request, "admim")


def test_under_one_scope_key_the_inner_session_is_used_and_the_outer_one_left_alone() -> None:
    app = Starlette(routes=[Route("/", count)])
    app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True, session_cookie="inner")
    app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True, session_cookie="outer")
    client = TestClient(app)
    assert [client.get("/").json() for _ in range(3)] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert set(client.cookies) == {"inner"}


@pytest.mark.guarantee(12)
def test_a_session_that_no_handler_can_see_is_reported_at_start(caplog: pytest.LogCaptureFixture) -> None:
    app = Starlette()
    app.add_middleware(SessionMiddleware, secret_key=KEY, session_cookie="inner")
    app.add_middleware(SessionMiddleware, secret_key=KEY, session_cookie="outer")
    app.build_middleware_stack()
    record = caplog.records[0]
    assert "handlers see only the session of the cookie 'inner', not that of 'outer'" in record.message
    assert "scope_key" in record.message


@rows(
    ("inner", "outer", "is_reported"),
    [
        ({"secret_key": KEY}, {"secret_key": KEY}, True),
        ({"secret_key": KEY}, {"secret_key": "another key that is long enough for this"}, False),
        ({"secret_key": ["another key that is long enough for this", KEY]}, {"secret_key": KEY}, True),
        ({"secret_key": KEY}, {"secret_key": KEY, "absolute_timeout": 60}, True),
        ({"secret_key": KEY, "app_name": "shop"}, {"secret_key": KEY}, False),
        ({"secret_key": KEY}, {"backend": CookieBackend(KEY, starlette_format=False)}, False),
        ({"secret_key": KEY}, {"backend": CookieBackend(KEY, compress=True)}, False),
        ({"secret_key": KEY}, {"backend": CookieBackend(KEY, serializer=Msgpack())}, False),
        ({"secret_key": KEY}, {"backend": CookieBackend(KEY, revocations=MemoryStore())}, False),
        ({"secret_key": KEY}, {"backend": EncryptedCookieBackend(KEY)}, False),
        ({"secret_key": KEY}, {"backend": EncryptedCookieBackend(KEY, accept_signed=KEY)}, True),
        ({"secret_key": KEY}, {"backend": InMemoryBackend()}, False),
    ],
)
def test_two_that_read_each_others_cookies_in_starlettes_format_are_reported_at_start(
    inner: dict[str, Any], outer: dict[str, Any], is_reported: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    app = Starlette()
    app.add_middleware(SessionMiddleware, session_cookie="inner", scope_key="inner", **inner)
    app.add_middleware(SessionMiddleware, session_cookie="outer", **outer)
    app.build_middleware_stack()
    said = [record.getMessage() for record in caplog.records if "share a secret_key" in record.getMessage()]
    assert len(said) == is_reported
    assert all("'inner'" in one and "'outer'" in one and KEY not in one for one in said)


def test_a_plain_dict_put_over_an_inner_session_is_saved_by_the_inner_one_only() -> None:
    app = Starlette(routes=[Route("/", count), Route("/replace", replace)])
    app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True, session_cookie="inner")
    app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True, session_cookie="outer")
    client = TestClient(app)
    client.get("/replace")
    assert set(client.cookies) == {"inner"}
    assert client.get("/").json() == {"replaced": True, "n": 1}


def test_a_mounted_app_with_starlettes_own_middleware_keeps_its_own_session() -> None:
    admin = Starlette(
        routes=[Route("/", count)],
        middleware=[Middleware(StarletteSessions, secret_key="other" + KEY, session_cookie="admin")],
    )
    app = Starlette(routes=[Route("/", count), Mount("/admin", admin)])
    app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True)
    client = TestClient(app)
    assert [client.get(path).json()["n"] for path in ("/", "/admin/", "/", "/admin/", "/admin/")] == [1, 1, 2, 2, 3]
    assert set(client.cookies) == {"session", "admin"}


@pytest.mark.guarantee(12)
def test_the_outer_session_is_saved_though_an_inner_middleware_took_its_place() -> None:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["before"] = True
        await inner(scope, receive, send)

    inner = StarletteSessions(Starlette(routes=[Route("/", count)]), secret_key="other" + KEY, session_cookie="inner")
    app = SessionMiddleware(outer, secret_key=KEY, autoload=True)
    client = TestClient(app)
    assert client.get("/").json() == {"n": 1}
    assert set(client.cookies) == {"session", "inner"}


def test_a_mounted_app_uses_the_session_of_the_app_around_it() -> None:
    app = Starlette(routes=[Route("/", count), Mount("/sub", routes=[Route("/", count)])])
    app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True)
    client = TestClient(app)
    assert [client.get(path).json()["n"] for path in ("/", "/sub/", "/")] == [1, 2, 3]


@pytest.mark.guarantee(12)
def test_a_mounted_app_with_a_middleware_of_its_own_has_a_session_of_its_own() -> None:
    sub = Starlette(
        routes=[Route("/", count)],
        middleware=[Middleware(SessionMiddleware, secret_key=KEY, autoload=True, session_cookie="sub")],
    )
    app = Starlette(routes=[Route("/", count), Mount("/sub", sub)])
    app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True)
    client = TestClient(app)
    client.get("/")
    response = client.get("/sub/")
    assert response.json() == {"n": 1}
    assert "sub=" in response.headers["set-cookie"]


def mounted(outer: dict[str, Any], inner: dict[str, Any]) -> TestClient:
    """A browser of an application and one that is mounted in it, each with a middleware of its own."""
    routes = [Route("/", count), WebSocketRoute("/ws", tell)]
    sub = Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, **inner)])
    app = Starlette(routes=[Route("/", count), Mount("/sub", sub)])
    app.add_middleware(SessionMiddleware, **outer)
    return TestClient(app)


async def tell(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(websocket.session)
    await websocket.close()


STORE, SHARED, CUSTOM = MemoryStore(), InMemoryBackend(), DictBackend()


@pytest.mark.guarantee(12)
@rows("settings", [{"secret_key": KEY}, {"backend": SHARED}, {"backend": STORE}, {"backend": CUSTOM}], ids=str)
def test_a_mounted_application_with_the_same_sessions_shares_that_of_the_outer_one(
    settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    browser = mounted({**settings, "autoload": True}, {**settings, "autoload": True})
    assert [browser.get(path).json()["n"] for path in ("/", "/sub/", "/sub/", "/")] == [1, 2, 3, 4]
    with browser.websocket_connect("/sub/ws") as websocket:
        assert websocket.receive_json() == {"n": 4}
    assert len(browser.cookies) == 1
    assert [record.getMessage()[:50] for record in caplog.records] == [
        "A SessionMiddleware for the cookie 'session' is in"
    ]


def test_a_mounted_application_without_autoload_uses_the_session_that_the_outer_one_has_loaded() -> None:
    browser = mounted({"secret_key": KEY, "autoload": True}, {"secret_key": KEY})
    assert [browser.get("/sub/").json()["n"] for _ in range(2)] == [1, 2]


@rows("settings", [{"secret_key": KEY}, {"backend": SHARED}], ids=str)
def test_a_mounted_application_loads_the_shared_session_if_it_says_autoload(settings: dict[str, Any]) -> None:
    browser = mounted(settings, {**settings, "autoload": True})
    assert [browser.get("/sub/").json()["n"] for _ in range(2)] == [1, 2]


@rows("settings", [{"secret_key": KEY}, {"backend": SHARED}], ids=str)
def test_a_request_that_is_tried_again_has_a_session_that_is_saved(settings: dict[str, Any]) -> None:
    """A middleware around it that calls it twice passes the same scope, with the session of the first attempt."""
    attempts = []

    async def fails_once(request: Request) -> Response:
        attempts.append(request)
        if len(attempts) % 2:
            request.session["n"] = -1
            raise OSError
        return await count(request)

    class TriesAgain:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            try:
                await self.app(scope, receive, send)
            except OSError:
                await self.app(scope, receive, send)

    app = Starlette(routes=[Route("/", fails_once)])
    app.add_middleware(SessionMiddleware, **settings, autoload=True)
    app.add_middleware(TriesAgain)
    browser = TestClient(app)
    assert [browser.get("/").json()["n"] for _ in range(3)] == [1, 2, 3]


@pytest.mark.guarantee(12)
@rows(
    ("outer", "inner"),
    [
        ({"secret_key": KEY}, {"secret_key": KEY[::-1]}),
        ({"secret_key": KEY}, {"backend": InMemoryBackend()}),
        ({"backend": InMemoryBackend()}, {"backend": InMemoryBackend()}),
    ],
    ids=str,
)
def test_a_mounted_middleware_with_other_sessions_under_the_outer_cookie_raises(
    outer: dict[str, Any], inner: dict[str, Any]
) -> None:
    with pytest.raises(ImproperlyConfigured, match="session_cookie"):
        mounted({**outer, "autoload": True}, {**inner, "autoload": True}).get("/sub/")


@pytest.mark.guarantee(12)
def test_the_same_cookie_twice_in_one_stack_fails_at_start() -> None:
    app = Starlette()
    app.add_middleware(SessionMiddleware, secret_key=KEY)
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend())
    with pytest.raises(ImproperlyConfigured, match=r"installed twice .*session_cookie"):
        app.build_middleware_stack()


@pytest.mark.guarantee(12)
def test_starlettes_middleware_with_the_same_cookie_inside_fails_at_startup() -> None:
    app = Starlette()
    app.add_middleware(StarletteSessions, secret_key=KEY)
    app.add_middleware(GZipMiddleware)
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend())
    with pytest.raises(ImproperlyConfigured, match=r"Starlette's own, .* session_cookie"):
        app.build_middleware_stack()


@pytest.mark.guarantee(12)
def test_starlettes_middleware_with_the_same_cookie_around_fails_at_the_first_request() -> None:
    app = Starlette(routes=[Route("/", count)])
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend())
    app.add_middleware(StarletteSessions, secret_key=KEY)
    with pytest.raises(ImproperlyConfigured, match=r"Starlette's own, .* session_cookie"):
        TestClient(app).get("/")


def test_starlettes_middleware_with_another_cookie_around_is_left_alone() -> None:
    app = Starlette(routes=[Route("/", count)])
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend(), autoload=True)
    app.add_middleware(StarletteSessions, secret_key=KEY, session_cookie="outer")
    client = TestClient(app)
    assert [client.get("/").json() for _ in range(3)] == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_cycle_of_applications_does_not_hang_the_check() -> None:
    class Endless:
        @property
        def app(self) -> "Endless":
            return self

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    SessionMiddleware(Endless(), secret_key=KEY)
    SessionMiddleware(MagicMock(), secret_key=KEY)


@rows("inner_first", [True, False])
def test_the_order_of_middlewares_that_use_the_session_is_starlettes(inner_first: bool) -> None:
    class Uses:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                Request(scope).session.get("n")
            await self.app(scope, receive, send)

    app = Starlette(routes=[Route("/", count)])
    add: list[Callable[[], None]] = [
        lambda: app.add_middleware(Uses),
        lambda: app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True),
    ]
    for one in add if inner_first else reversed(add):
        one()
    if inner_first:
        assert TestClient(app).get("/").json() == {"n": 1}
    else:
        with pytest.raises(AssertionError, match="SessionMiddleware must be installed"):
            TestClient(app).get("/")


@pytest.mark.guarantee(6)
@rows(
    ("settings", "cure"),
    [
        ({}, "secret_key=… or backend=…"),
        ({"backend": InMemoryBackend}, "is a class: use an instance"),
        ({"backend": object()}, "instance of a subclass of"),
        ({"secret_key": KEY, "session_cookie": ["a"]}, "session_cookie must be a str"),
        ({"secret_key": KEY, "session_cookie": "a b"}, "session_cookie"),
        ({"secret_key": KEY, "path": "relative"}, "path"),
        ({"secret_key": KEY, "domain": "evil; secure"}, "domain"),
        ({"secret_key": KEY, "same_site": "Lax"}, "same_site"),
        ({"secret_key": KEY, "same_site": "none"}, "https_only=True"),
        ({"secret_key": KEY, "session_cookie": "__Host-s", "domain": "example.com"}, "remove domain"),
        ({"secret_key": KEY, "session_cookie": "__Host-s", "path": "/app"}, "remove path"),
        ({"secret_key": KEY, "session_cookie": "__Secure-s", "https_only": False}, "remove https_only=False"),
        ({"secret_key": KEY, "partitioned": True, "https_only": False}, "remove https_only=False"),
        ({"secret_key": KEY, "https_only": "yes"}, "https_only must be"),
        ({"secret_key": KEY, "https_only": 1}, "https_only must be"),
        ({"secret_key": KEY, "scope_key": "path"}, "scope_key"),
        ({"secret_key": KEY, "scope_key": 5}, "scope_key"),
        ({"secret_key": KEY, "max_age": 10**30}, "max_age"),
        ({"secret_key": KEY, "session_cookie": "s" * 3000}, "no room"),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, str) else "",
)
def test_an_invalid_setting_fails_at_startup_with_the_cure(settings: dict[str, Any], cure: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=cure):
        SessionMiddleware(Starlette(), **settings)


def test_two_middlewares_with_one_cookie_in_a_websocket_raise_too() -> None:
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()

    def middleware(key: str) -> list[Middleware]:
        return [Middleware(SessionMiddleware, secret_key=key, autoload=True)]

    sub = Starlette(routes=[WebSocketRoute("/", echo)], middleware=middleware(KEY[::-1]))
    app = Starlette(routes=[Mount("/sub", sub)], middleware=middleware(KEY))
    with pytest.raises(ImproperlyConfigured, match="session_cookie"), TestClient(app).websocket_connect("/sub/"):
        pass
