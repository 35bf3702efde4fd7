"""`SessionMiddleware` as 1.0.2 had it: its keywords, its cookie, its errors."""

import inspect
import re
from datetime import timedelta
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from starsessions import (
    CookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    SessionBackend,
    SessionError,
    SessionMiddleware,
    SessionNotLoaded,
)
from tests.history.pages import ROUTE, BrowserOf, pages, said, seen, take_cookies
from tests.kinds import each_backend
from tests.rows import rows
from tests.site import KEY, DictBackend

KEYWORDS = {
    *("secret_key", "backend", "autoload", "session_cookie", "max_age", "same_site", "https_only"),
    *("path", "domain", "partitioned"),
}
FOURTEEN_DAYS = 14 * 24 * 60 * 60


def cookie_of(settings: dict[str, Any], browser_of: BrowserOf, **options: Any) -> dict[str, str | None]:
    """The attributes of the cookie that the first change sets."""
    browser = browser_of(pages(SessionMiddleware, **{"secret_key": KEY, "autoload": True, **settings}), **options)
    return said(browser.post("/", json={"key": "value"}).headers["set-cookie"])


def test_the_errors_have_one_root() -> None:
    assert issubclass(ImproperlyConfigured, SessionError)
    assert issubclass(SessionNotLoaded, SessionError)
    assert issubclass(SessionError, Exception)


def test_neither_a_secret_key_nor_a_backend_is_improperly_configured() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"secret_key=.* or backend="):
        SessionMiddleware(Starlette())


def test_an_application_with_neither_of_them_does_not_start() -> None:
    app = Starlette()
    app.add_middleware(SessionMiddleware)
    with pytest.raises(ImproperlyConfigured), TestClient(app):
        pass  # pragma: no cover


def test_the_keywords_and_their_defaults_are_those_of_1_0_2() -> None:
    defaults = {name: parameter.default for name, parameter in inspect.signature(SessionMiddleware).parameters.items()}
    assert {name: defaults[name] for name in ("secret_key", "backend", "autoload", "session_cookie", "same_site")} == {
        "secret_key": None,
        "backend": None,
        "autoload": False,
        "session_cookie": "session",
        "same_site": "lax",
    }
    assert defaults["max_age"] == FOURTEEN_DAYS


def test_new_arguments_are_keyword_only() -> None:
    parameters = inspect.signature(SessionMiddleware).parameters
    new = [parameter for name, parameter in parameters.items() if name not in {"app", *KEYWORDS}]
    assert new
    assert {parameter.kind for parameter in new} == {inspect.Parameter.KEYWORD_ONLY}


def test_every_keyword_of_starlettes_middleware_is_accepted() -> None:
    theirs = set(inspect.signature(StarletteSessionMiddleware).parameters)
    assert theirs <= set(inspect.signature(SessionMiddleware).parameters)


# autoload


async def unloaded(request: Request) -> JSONResponse:
    try:
        request.session["key"] = "value"
    except SessionNotLoaded:
        before = "not loaded"
    await request.session.load()  # type: ignore[attr-defined]
    request.session["key"] = "value"
    return JSONResponse([before, dict(request.session)])


@each_backend
def test_a_handler_has_to_load_the_session(browser_of: BrowserOf, backend: SessionBackend) -> None:
    app = Starlette(routes=[Route("/", unloaded)], middleware=[Middleware(SessionMiddleware, backend=backend)])
    assert browser_of(app).get("/").json() == ["not loaded", {"key": "value"}]


@each_backend
def test_with_autoload_no_call_is_needed(browser_of: BrowserOf, backend: SessionBackend) -> None:
    browser = browser_of(pages(SessionMiddleware, backend=backend, autoload=True))
    assert seen(browser) == {}
    assert browser.post("/", json={"key": "value"}).json() == {"key": "value"}
    assert seen(browser) == {"key": "value"}


@each_backend
@rows("autoload", [True, False])
def test_load_may_be_called_whether_autoload_is_on_or_not(
    browser_of: BrowserOf, backend: SessionBackend, autoload: bool
) -> None:
    async def visits(request: Request) -> JSONResponse:
        await request.session.load()  # type: ignore[attr-defined]
        request.session["visits"] = request.session.get("visits", 0) + 1
        return JSONResponse(request.session["visits"])

    middleware = [Middleware(SessionMiddleware, backend=backend, autoload=autoload)]
    browser = browser_of(Starlette(routes=[Route("/", visits)], middleware=middleware))
    assert [browser.get("/").json() for _ in range(3)] == [1, 2, 3]


@each_backend
@rows("autoload", [True, False])
@pytest.mark.both_loops
def test_websockets_have_the_same_session(browser_of: BrowserOf, backend: SessionBackend, autoload: bool) -> None:
    async def visits(websocket: WebSocket) -> None:
        if not autoload:
            await websocket.session.load()  # type: ignore[attr-defined]
        websocket.session["visits"] = websocket.session.get("visits", 0) + 1
        await websocket.accept()
        await websocket.send_json(dict(websocket.session))
        await websocket.close()

    routes = [WebSocketRoute("/ws", visits), Route("/", unloaded)]
    middleware = [Middleware(SessionMiddleware, backend=backend, autoload=autoload)]
    browser = browser_of(Starlette(routes=routes, middleware=middleware))
    for count in (1, 2):
        with browser.websocket_connect("/ws") as websocket:
            assert websocket.receive_json() == {"visits": count}
            take_cookies(browser, websocket)


# The cookie


@pytest.mark.both_loops
@each_backend
def test_a_session_is_kept_changed_and_cleared(browser_of: BrowserOf, backend: SessionBackend) -> None:
    browser = browser_of(pages(SessionMiddleware, backend=backend, autoload=True))
    browser.post("/", json={"some": "data"})
    assert seen(browser) == {"some": "data"}
    browser.post("/", json={"more": "data"})
    assert seen(browser) == {"some": "data", "more": "data"}
    cleared = browser.delete("/")
    assert cleared.json() == {}
    assert said(cleared.headers["set-cookie"])["expires"] == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert not browser.cookies
    assert seen(browser) == {}


def test_the_default_cookie_is_that_of_1_0_2(browser_of: BrowserOf) -> None:
    cookie = cookie_of({}, browser_of)
    assert cookie.pop("session")
    assert cookie == {"path": "/", "max-age": str(FOURTEEN_DAYS), "httponly": None, "samesite": "lax"}


def test_max_age_is_written_as_in_1_0_2(browser_of: BrowserOf) -> None:
    browser = browser_of(pages(SessionMiddleware, secret_key=KEY, autoload=True))
    set_cookie = browser.post("/", json={"some": "data"}).headers["set-cookie"]
    [found] = re.findall(r"; Max-Age=([0-9]+);", set_cookie)
    assert int(found) == FOURTEEN_DAYS


SETTINGS: dict[str, tuple[dict[str, Any], dict[str, str | None]]] = {
    "max_age in seconds": ({"max_age": 60}, {"max-age": "60"}),
    "max_age as a timedelta": ({"max_age": timedelta(hours=1)}, {"max-age": "3600"}),
    "same_site": ({"same_site": "strict"}, {"samesite": "strict"}),
    "same_site none": ({"same_site": "none", "https_only": True}, {"samesite": "none", "secure": None}),
    "https_only": ({"https_only": True}, {"secure": None}),
    "path": ({"path": "/shop"}, {"path": "/shop"}),
    "domain": ({"domain": "example.com"}, {"domain": "example.com"}),
    "partitioned": ({"partitioned": True, "https_only": True}, {"partitioned": None, "secure": None}),
}


@rows(("settings", "expected"), SETTINGS.values(), ids=SETTINGS)
def test_each_keyword_reaches_the_cookie(
    settings: dict[str, Any], expected: dict[str, str | None], browser_of: BrowserOf
) -> None:
    default = {"path": "/", "max-age": str(FOURTEEN_DAYS), "httponly": None, "samesite": "lax"}
    cookie = cookie_of(settings, browser_of)
    assert cookie.pop("session")
    assert cookie == default | expected


def test_session_cookie_names_the_cookie(browser_of: BrowserOf) -> None:
    assert "shop" in cookie_of({"session_cookie": "shop"}, browser_of)


@rows("max_age", [None, 0])
def test_a_browser_session_has_no_max_age(max_age: int | None, browser_of: BrowserOf) -> None:
    assert "max-age" not in cookie_of({"max_age": max_age}, browser_of)


def test_secure_follows_the_request_unless_it_is_forced(browser_of: BrowserOf) -> None:
    https: dict[str, Any] = {"base_url": "https://testserver"}
    assert "secure" not in cookie_of({}, browser_of)
    assert "secure" in cookie_of({}, browser_of, **https)
    assert "secure" in cookie_of({"https_only": True}, browser_of)
    assert "secure" not in cookie_of({"https_only": False}, browser_of, **https)


def test_the_path_of_a_mounted_application_is_the_root_unless_one_is_set(browser_of: BrowserOf) -> None:
    inner = pages(SessionMiddleware, secret_key=KEY, autoload=True)
    browser = browser_of(Starlette(routes=[Mount("/second_app", inner)]))
    response = browser.post("/second_app/", json={"some": "data"})
    assert said(response.headers["set-cookie"])["path"] == "/"
    assert browser.get("/second_app/").json() == {"some": "data"}


def test_the_path_behind_a_proxy_is_the_root_unless_one_is_set(browser_of: BrowserOf) -> None:
    assert cookie_of({}, browser_of, root_path="/behind")["path"] == "/"
    assert cookie_of({"path": "/behind"}, browser_of, root_path="/behind")["path"] == "/behind"


@rows("secret_key", ["example", Secret("example")], ids=["str", "Secret"])
def test_the_keys_of_1_0_2_are_accepted(secret_key: str | Secret, browser_of: BrowserOf) -> None:
    browser = browser_of(pages(SessionMiddleware, secret_key=secret_key, autoload=True))
    browser.post("/", json={"some": "data"})
    assert seen(browser) == {"some": "data"}


def test_a_backends_own_max_age_limits_the_session(browser_of: BrowserOf) -> None:
    cookie = cookie_of({"secret_key": None, "backend": CookieBackend(secret_key="secret", max_age=3600)}, browser_of)
    assert cookie["max-age"] == "3600"


# Ids under the middleware


@rows("kind", [InMemoryBackend, DictBackend])
def test_an_invented_id_is_never_adopted(
    kind: type[InMemoryBackend] | type[DictBackend], browser_of: BrowserOf
) -> None:
    backend = kind()
    browser = browser_of(pages(SessionMiddleware, backend=backend, autoload=True))
    browser.cookies.set("session", "someid")
    assert seen(browser) == {}
    response = browser.post("/", json={"some": "data"})
    new_id = said(response.headers["set-cookie"])["session"]
    assert new_id is not None
    assert new_id != "someid"


def test_a_generate_id_patched_after_the_application_was_built_is_used(browser_of: BrowserOf) -> None:
    async def generate_id() -> str:
        return "patched"

    backend = InMemoryBackend()
    browser = browser_of(pages(SessionMiddleware, backend=backend, autoload=True))
    assert seen(browser) == {}
    backend.generate_id = generate_id  # type: ignore[method-assign]
    browser.post("/", json={"some": "data"})
    assert browser.cookies["session"] == "patched"
    assert backend.data == {"patched": {"some": "data"}}


def test_the_example_application_of_1_0_2(browser_of: BrowserOf) -> None:
    async def homepage(request: Request) -> JSONResponse:
        return JSONResponse(request.session.data)  # type: ignore[attr-defined]

    async def set_time(request: Request) -> RedirectResponse:
        request.session["date"] = "2021-07-23T12:00:00"
        return RedirectResponse("/")

    async def clean(request: Request) -> RedirectResponse:
        await request.session.flush()  # type: ignore[attr-defined]
        return RedirectResponse("/")

    routes = [Route("/", homepage), Route("/set", set_time), Route("/clean", clean)]
    middleware = [Middleware(SessionMiddleware, secret_key="secret", autoload=True)]
    browser = browser_of(Starlette(debug=True, routes=routes, middleware=middleware))
    assert seen(browser) == {}
    assert browser.get("/set").json() == {"date": "2021-07-23T12:00:00"}
    assert seen(browser) == {"date": "2021-07-23T12:00:00"}
    assert browser.get("/clean").json() == {}
    assert not browser.cookies


def test_add_middleware_and_the_middleware_argument_do_the_same(browser_of: BrowserOf) -> None:
    app = Starlette(routes=[ROUTE])
    app.add_middleware(SessionMiddleware, secret_key="TOP SECRET", autoload=True)
    browser = browser_of(app)
    browser.post("/", json={"some": "data"})
    browser_of_the_other = browser_of(pages(SessionMiddleware, secret_key="TOP SECRET", autoload=True))
    browser_of_the_other.cookies.update(browser.cookies)
    assert seen(browser_of_the_other) == {"some": "data"}
