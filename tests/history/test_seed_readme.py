"""The examples of `seed-readme.txt` run unchanged, and do what its text says."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from starsessions import CookieBackend, InMemoryBackend, SessionBackend, SessionMiddleware, SessionNotLoaded
from tests.history import seed
from tests.history.pages import ROUTE, BrowserOf, pages, said, seen
from tests.rows import rows
from tests.site import Clock, Site


def run(code: str, **names: Any) -> dict[str, Any]:
    exec(compile(code, "seed-readme.txt", "exec"), names)
    return names


async def counting(request: Request) -> JSONResponse:
    await request.session.load()  # type: ignore[attr-defined]
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session["visits"])


async def forgetful(request: Request) -> JSONResponse:
    return JSONResponse(request.session["visits"])


ROUTES = [Route("/", counting), Route("/forgetful", forgetful)]


@pytest.fixture
def custom() -> SessionBackend:
    """A new instance of the backend in the text."""
    backend = run(seed.CUSTOM_BACKEND)["InMemoryBackend"]()
    assert isinstance(backend, SessionBackend)
    assert not isinstance(backend, InMemoryBackend)
    return backend


def test_only_the_mistaken_imports_are_corrected() -> None:
    for code in (seed.ENABLE, seed.AUTOLOAD, seed.CHANGE_BACKEND, seed.CUSTOM_BACKEND):
        written = seed.TEXT.splitlines()
        changed = [line for line in code.splitlines() if line.strip() not in written]
        assert set(changed) <= set(seed.MISTAKEN.values())


def test_the_first_example_signs_the_session_into_a_cookie(browser_of: BrowserOf) -> None:
    app = run(seed.ENABLE, other_options={"routes": ROUTES})["app"]
    browser = browser_of(app)
    first = browser.get("/")
    assert [first.json(), browser.get("/").json()] == [1, 2]
    assert said(first.headers["set-cookie"])["max-age"] == str(14 * 24 * 60 * 60)


def test_the_session_has_to_be_loaded_or_session_not_loaded_is_raised(browser_of: BrowserOf) -> None:
    browser = browser_of(run(seed.ENABLE, other_options={"routes": ROUTES})["app"])
    with pytest.raises(SessionNotLoaded):
        browser.get("/forgetful")


def test_the_second_example_loads_by_itself(browser_of: BrowserOf) -> None:
    middleware = eval(seed.AUTOLOAD, {"Middleware": Middleware, "SessionMiddleware": SessionMiddleware})
    browser = browser_of(Starlette(routes=[ROUTE], middleware=[middleware]))
    browser.post("/", json={"visits": 1})
    assert seen(browser) == {"visits": 1}


def test_the_third_example_takes_another_backend(browser_of: BrowserOf) -> None:
    names = run(seed.CHANGE_BACKEND)
    assert isinstance(names["backend"], CookieBackend)
    app = names["app"]
    app.router.routes.extend(ROUTES)
    browser = browser_of(app)
    first = browser.get("/")
    assert [first.json(), browser.get("/").json()] == [1, 2]
    assert said(first.headers["set-cookie"])["max-age"] == "3600"


# The fourth example: a backend of twenty lines, under the middleware


@pytest.mark.guarantee(26)
@pytest.mark.anyio
async def test_the_custom_backend_implements_the_four_calls(custom: SessionBackend) -> None:
    session_id = await custom.write({"key": "value"})
    assert isinstance(session_id, str)
    assert await custom.read(session_id) == {"key": "value"}
    assert await custom.exists(session_id) is True
    assert await custom.write({"key": "other"}, session_id) == session_id
    await custom.remove(session_id)
    assert await custom.exists(session_id) is False
    assert await custom.read(session_id) == {}


@rows("autoload", [True, False])
def test_the_custom_backend_serves_http_and_websockets(
    custom: SessionBackend, browser_of: BrowserOf, autoload: bool
) -> None:
    async def talk(websocket: WebSocket) -> None:
        await websocket.session.load()  # type: ignore[attr-defined]
        await websocket.accept()
        websocket.session["visits"] += 1
        await websocket.close()

    middleware = [Middleware(SessionMiddleware, backend=custom, autoload=autoload)]
    browser = browser_of(Starlette(routes=[*ROUTES, WebSocketRoute("/ws", talk)], middleware=middleware))
    assert browser.get("/").json() == 1
    with browser.websocket_connect("/ws") as websocket:
        assert websocket.receive()["type"] == "websocket.close"
    assert browser.get("/").json() == 3


def test_the_custom_backend_stores_changes_and_removes_cleared_sessions(custom: Any, browser_of: BrowserOf) -> None:
    browser = browser_of(pages(SessionMiddleware, backend=custom, autoload=True))
    assert seen(browser) == {}
    assert custom._storage == {}
    browser.post("/", json={"cart": ["apple"]})
    assert seen(browser) == {"cart": ["apple"]}
    browser.delete("/")
    assert custom._storage == {}
    assert not browser.cookies


def site(backend: SessionBackend, **settings: Any) -> Site:
    return Site(backend=backend, autoload=True, **settings)


@pytest.mark.guarantee(26)
@pytest.mark.anyio
async def test_with_the_custom_backend_nested_changes_are_kept(custom: SessionBackend) -> None:
    shop = site(custom)
    await shop.visit(lambda session: session.update(cart=[{"item": "apple", "count": 1}]))
    await shop.visit(lambda session: session["cart"][0].update(count=2))
    await shop.visit(lambda session: session["cart"].append({"item": "pear", "count": 1}))
    assert await shop.data() == {"cart": [{"item": "apple", "count": 2}, {"item": "pear", "count": 1}]}


@pytest.mark.anyio
async def test_the_custom_backend_never_shares_its_objects_with_a_handler(custom: SessionBackend) -> None:
    shop = site(custom)
    await shop.visit(lambda session: session.update(cart=["apple"]))

    async def fail(session: Any) -> None:
        session["cart"].append("pear")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        await shop.visit(fail)
    assert await shop.data() == {"cart": ["apple"]}


@pytest.mark.guarantee(26)
@pytest.mark.anyio
async def test_with_the_custom_backend_deadlines_are_kept(custom: SessionBackend, clock: Clock) -> None:
    shop = site(custom, clock=clock, max_age=60)
    await shop.visit(lambda session: session.update(key="value"))
    clock.advance(59)
    assert await shop.data() == {"key": "value"}
    clock.advance(1)
    assert await shop.data() == {}


@pytest.mark.anyio
async def test_with_the_custom_backend_absolute_timeouts_are_kept(custom: SessionBackend, clock: Clock) -> None:
    shop = site(custom, clock=clock, max_age=60, absolute_timeout=100)
    await shop.visit(lambda session: session.update(count=0))
    for count in (1, 2):
        clock.advance(45)
        await shop.visit(lambda session, count=count: session.update(count=count))
    assert await shop.data() == {"count": 2}
    clock.advance(10)
    assert await shop.data() == {}


@pytest.mark.guarantee(26)
@pytest.mark.anyio
async def test_with_the_custom_backend_an_invented_or_malformed_id_is_never_adopted(custom: Any) -> None:
    shop = site(custom)
    for made_up in ("made-up", "../../etc/passwd", "a b", "%00", "x" * 200):
        shop.browser.cookies["session"] = made_up
        await shop.visit(lambda session: session.update(key="value"))
        assert made_up not in custom._storage
        assert await shop.data() == {"key": "value"}


@pytest.mark.anyio
async def test_the_custom_backend_never_sees_a_malformed_id(custom: SessionBackend) -> None:
    asked: list[str] = []

    class Watched(type(custom)):  # type: ignore[misc]
        async def read(self, session_id: str) -> Any:
            asked.append(session_id)
            return await super().read(session_id)

        async def exists(self, session_id: str) -> Any:
            asked.append(session_id)
            return await super().exists(session_id)

    shop = site(Watched())
    for malformed in ("../../etc/passwd", "a b", "x" * 200, "ä", "'; --"):
        shop.browser.cookies["session"] = malformed
        await shop.data()
    assert asked == []


@pytest.mark.guarantee(26)
@pytest.mark.anyio
async def test_with_the_custom_backend_regenerate_id_kills_the_old_id(custom: Any) -> None:
    shop = site(custom)
    await shop.visit(lambda session: session.update(key="value"))
    old_id = shop.browser.cookies["session"]
    await shop.visit(lambda session: session.regenerate_id())
    assert shop.browser.cookies["session"] != old_id
    assert await shop.data() == {"key": "value"}
    assert list(custom._storage) == [shop.browser.cookies["session"]]


@pytest.mark.anyio
async def test_with_the_custom_backend_a_copied_cookie_is_invalid_after_delete(custom: Any) -> None:
    shop = site(custom)
    await shop.visit(lambda session: session.update(key="value"))
    copied = dict(shop.browser.cookies)
    await shop.visit(lambda session: session.delete())
    shop.browser.cookies = dict(copied)
    assert await shop.data() == {}
    await shop.visit(lambda session: session.update(key="value"))
    assert shop.browser.cookies != copied


@pytest.mark.anyio
async def test_a_session_stored_by_1_0_2_in_the_custom_backend_is_read(custom: SessionBackend) -> None:
    session_id = await custom.write({"key": "value"})
    shop = site(custom)
    shop.browser.cookies["session"] = session_id
    assert await shop.data() == {"key": "value"}
    await shop.visit(lambda session: session.update(key="other"))
    assert shop.browser.cookies["session"] == session_id
    assert await shop.data() == {"key": "other"}
