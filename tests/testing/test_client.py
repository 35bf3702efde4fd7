"""`session_of`: a test reads and writes what its client's next request finds, and what its last one left."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Host, Mount, Route, Router
from starlette.testclient import TestClient

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    ResponseStarted,
    Session,
    SessionBackend,
    SessionMiddleware,
    SessionTooLarge,
    TooManySessions,
    users,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.stores.memory import MemoryStore
from starsessions.testing import Clock, session_of, sign_in
from starsessions.users import UserSessions
from tests.kinds import each_backend
from tests.rows import rows
from tests.site import KEY

BrowserOf = Callable[..., TestClient]


@pytest.fixture
def browser_of(anyio_backend: str) -> BrowserOf:
    def make(app: Any, **options: Any) -> TestClient:
        return TestClient(app, backend=anyio_backend, **options)  # type: ignore[arg-type]

    return make


async def show(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def count(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse(request.session["n"])


async def leave(request: Request) -> Response:
    request.session.clear()
    return Response()


ROUTES = [Route("/", show), Route("/count", count), Route("/leave", leave)]


def app_with(backend: SessionBackend | None = None, **settings: Any) -> Starlette:
    settings = {"backend": InMemoryBackend() if backend is None else backend, "autoload": True, **settings}
    return Starlette(routes=ROUTES, middleware=[Middleware(SessionMiddleware, **settings)])


@pytest.mark.guarantee(25)
@each_backend
def test_the_next_request_finds_what_the_test_writes(browser_of: BrowserOf, backend: SessionBackend) -> None:
    client = browser_of(app_with(backend))
    with session_of(client) as session:
        session["user"] = "ann"
        session["cart"] = [{"item": "tea"}]
    assert client.get("/").json() == {"user": "ann", "cart": [{"item": "tea"}]}
    with session_of(client) as session:
        session["cart"][0]["item"] = "milk"
        del session["user"]
    assert client.get("/").json() == {"cart": [{"item": "milk"}]}


@pytest.mark.guarantee(25)
@each_backend
def test_the_test_reads_what_a_request_has_stored(browser_of: BrowserOf, backend: SessionBackend) -> None:
    client = browser_of(app_with(backend))
    client.get("/count")
    client.get("/count")
    with session_of(client) as session:
        assert dict(session) == {"n": 2}
    assert client.get("/count").json() == 3


@each_backend
def test_a_client_without_a_session_has_an_empty_one_and_stays_without(
    browser_of: BrowserOf, backend: SessionBackend
) -> None:
    client = browser_of(app_with(backend))
    with session_of(client) as session:
        assert session.is_empty
    assert dict(client.cookies) == {}


@each_backend
def test_a_session_that_is_emptied_takes_the_cookie_along(browser_of: BrowserOf, backend: SessionBackend) -> None:
    client = browser_of(app_with(backend))
    client.get("/count")
    with session_of(client) as session:
        session.clear()
    assert dict(client.cookies) == {}
    assert client.get("/").json() == {}


def fails_after_a_change(session: Session) -> None:
    session["n"] = 100
    raise LookupError("of the test")


@pytest.mark.guarantee(25)
@each_backend
def test_a_block_that_raises_saves_nothing(browser_of: BrowserOf, backend: SessionBackend) -> None:
    client = browser_of(app_with(backend))
    client.get("/count")
    with pytest.raises(LookupError, match="of the test"), session_of(client) as session:
        fails_after_a_change(session)
    assert client.get("/").json() == {"n": 1}


@each_backend
def test_each_client_has_a_session_of_its_own(browser_of: BrowserOf, backend: SessionBackend) -> None:
    app = app_with(backend)
    ann, bob = browser_of(app), browser_of(app)
    with session_of(ann) as session:
        session["user"] = "ann"
    assert bob.get("/").json() == {}


def test_requests_inside_of_the_block_are_merged_as_those_of_another_tab(browser_of: BrowserOf) -> None:
    client = browser_of(app_with(InMemoryBackend()))
    client.get("/count")
    with session_of(client) as session:
        assert client.get("/count").json() == 2
        session["user"] = "ann"
    assert client.get("/").json() == {"n": 2, "user": "ann"}


@pytest.mark.guarantee(25)
def test_the_clock_of_the_test_is_the_clock_of_the_session(browser_of: BrowserOf) -> None:
    clock = Clock(1_000_000)
    client = browser_of(app_with(InMemoryBackend(clock=clock), max_age=60))
    with session_of(client) as session:
        session["user"] = "ann"
    clock.advance(59)
    with session_of(client) as session:
        assert session["user"] == "ann"
    clock.advance(1)
    with session_of(client) as session:
        assert session.is_empty
    assert client.get("/").json() == {}


def test_a_large_session_is_split_over_cookies_as_in_a_request(browser_of: BrowserOf) -> None:
    client = browser_of(app_with(CookieBackend(KEY, max_cookies=3)))
    with session_of(client) as session:
        session["text"] = "a" * 6000
    assert len(dict(client.cookies)) == 2
    assert client.get("/").json() == {"text": "a" * 6000}
    with session_of(client) as session:
        session["text"] = "short"
    assert len(dict(client.cookies)) == 1


def test_an_error_of_saving_reaches_the_test(browser_of: BrowserOf) -> None:
    client = browser_of(app_with(CookieBackend(KEY)))
    with pytest.raises(SessionTooLarge), session_of(client) as session:
        session["text"] = "a" * 6000


def test_a_session_is_closed_with_its_block(browser_of: BrowserOf) -> None:
    client = browser_of(app_with())
    with session_of(client) as session:
        session["user"] = "ann"
    with pytest.raises(ResponseStarted):
        session["user"] = "bob"


def test_autoload_is_not_needed(browser_of: BrowserOf) -> None:
    client = browser_of(app_with(autoload=False))
    with session_of(client) as session:
        session["user"] = "ann"
    with session_of(client) as session:
        assert session["user"] == "ann"


class LoopBound(StoreBackend):
    """A backend that belongs to the loop on which the application was started, as one with connections does."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.threads: set[int] = set()

    async def fetch(self, token: str, now: int) -> Any:
        from threading import get_ident

        self.threads.add(get_ident())
        return await super().fetch(token, now)


def test_an_application_that_runs_is_asked_on_its_own_loop(browser_of: BrowserOf) -> None:
    backend = LoopBound()
    with browser_of(app_with(backend)) as client:
        client.get("/count")
        client.get("/count")
        with session_of(client) as session:
            assert session["n"] == 2
        assert client.get("/count").json() == 3
    assert len(backend.threads) == 1


class Down(StoreBackend):
    """A backend whose store fails."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())

    async def fetch(self, token: str, now: int) -> Any:
        raise BackendUnavailable("The store is down.")

    async def create(self, *args: Any) -> Any:
        raise BackendUnavailable("The store is down.")


@rows("autoload", [True, False])
def test_a_store_that_fails_is_an_error_of_the_test(browser_of: BrowserOf, autoload: bool) -> None:
    client = browser_of(app_with(Down(), autoload=autoload))
    with pytest.raises(BackendUnavailable), session_of(client) as session:
        session["user"] = "ann"
    client.cookies.set("session", "some-id", domain="testserver.local", path="/")
    with pytest.raises(BackendUnavailable), session_of(client):
        pass


class Broken(StoreBackend):
    """A backend with a mistake in it."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())

    async def fetch(self, token: str, now: int) -> Any:
        raise ZeroDivisionError


def test_a_mistake_in_a_backend_is_an_error_of_the_test(browser_of: BrowserOf) -> None:
    client = browser_of(app_with(Broken()))
    client.cookies.set("session", "some-id", domain="testserver.local", path="/")
    with pytest.raises(ZeroDivisionError), session_of(client):
        pass


def test_pytests_own_exceptions_pass_through_the_block(browser_of: BrowserOf) -> None:
    """They are no `Exception`s, and no group."""
    with pytest.raises(pytest.fail.Exception, match="as it should"), session_of(browser_of(app_with())):
        pytest.fail("as it should")


# Finding the middleware


def fastapi_app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True)

    @app.get("/")
    def show(request: Request) -> dict[str, Any]:
        return dict(request.session)

    return app


APPS: dict[str, Callable[[], Any]] = {
    "FastAPI": fastapi_app,
    "wrapped": lambda: SessionMiddleware(Starlette(routes=ROUTES), secret_key=KEY, autoload=True),
    "around a router": lambda: SessionMiddleware(Router(ROUTES), secret_key=KEY, autoload=True),
    "two layers": lambda: SessionMiddleware(
        app_with(session_cookie="inner", scope_key="inner"), secret_key=KEY, autoload=True
    ),
    "own and mounted": lambda: Starlette(
        routes=[Mount("/admin", app_with(session_cookie="admin")), *ROUTES],
        middleware=[Middleware(SessionMiddleware, secret_key=KEY, autoload=True)],
    ),
}


@pytest.mark.guarantee(25)
@rows("kind", [kind for kind in APPS if kind != "two layers"])
def test_the_middleware_is_found_wherever_it_is(browser_of: BrowserOf, kind: str) -> None:
    client = browser_of(APPS[kind]())
    with session_of(client) as session:
        session["user"] = "ann"
    assert list(client.cookies) == ["session"]
    assert client.get("/").json() == {"user": "ann"}


@rows("started", [False, True])
def test_an_application_may_have_answered_before_or_not(browser_of: BrowserOf, started: bool) -> None:
    client = browser_of(app_with(CookieBackend(KEY)))
    if started:
        client.get("/")
    with session_of(client) as session:
        session["user"] = "ann"
    assert client.get("/").json() == {"user": "ann"}


def test_a_mounted_application_has_a_session_to_read_and_write(browser_of: BrowserOf) -> None:
    client = browser_of(Starlette(routes=[Mount("/admin", app_with())]))
    with session_of(client) as session:
        session["user"] = "ann"
    assert client.get("/admin/").json() == {"user": "ann"}
    with session_of(client) as session:
        assert session["user"] == "ann"


def test_the_root_path_of_the_client_counts(browser_of: BrowserOf) -> None:
    client = browser_of(app_with(), root_path="/api")
    with session_of(client) as session:
        session["user"] = "ann"
    assert client.get("/api/").json() == {"user": "ann"}


def test_of_several_sessions_the_test_names_one(browser_of: BrowserOf) -> None:
    client = browser_of(APPS["two layers"]())
    with pytest.raises(ImproperlyConfigured, match=r"'session', 'inner'.*session_cookie="):
        session_of(client)
    with session_of(client, session_cookie="inner") as session:
        session["user"] = "ann"
    assert list(client.cookies) == ["inner"]
    with pytest.raises(ImproperlyConfigured, match="found 0"):
        session_of(client, session_cookie="other")


def test_a_session_of_a_mounted_application_can_be_named(browser_of: BrowserOf) -> None:
    client = browser_of(APPS["own and mounted"]())
    with session_of(client, session_cookie="admin") as session:
        session["user"] = "root"
    assert client.get("/admin/").json() == {"user": "root"}
    assert client.get("/").json() == {}


def test_two_mounted_applications_are_told_apart_by_the_test(browser_of: BrowserOf) -> None:
    one, other = app_with(session_cookie="one"), app_with(session_cookie="other")
    client = browser_of(Starlette(routes=[Mount("/a", one), Mount("/longer", other), Host("other.example", other)]))
    with pytest.raises(ImproperlyConfigured, match="found 3"):
        session_of(client)


def test_an_application_without_the_middleware_raises(browser_of: BrowserOf) -> None:
    with pytest.raises(ImproperlyConfigured, match="found 0"):
        session_of(browser_of(Starlette(routes=ROUTES)))


def test_a_client_without_an_application_raises() -> None:
    with httpx2.Client(base_url="http://testserver") as client, pytest.raises(TypeError, match="app="):
        session_of(client)


@pytest.mark.guarantee(25)
def test_a_secure_cookie_on_http_is_noticed_by_the_test_that_loses_it(browser_of: BrowserOf) -> None:
    app = app_with(https_only=True)
    with pytest.raises(ImproperlyConfigured, match="https://testserver"), session_of(browser_of(app)) as session:
        session["user"] = "ann"
    client = browser_of(app, base_url="https://testserver")
    with session_of(client) as session:
        session["user"] = "ann"
    assert client.get("/").json() == {"user": "ann"}


# Signing in


async def me(request: Request) -> Response:
    session: Session = request.session  # type: ignore[assignment]
    return JSONResponse(users.get_user_id(session))


def app_with_people(backend: SessionBackend, **settings: Any) -> Starlette:
    middleware = [Middleware(SessionMiddleware, backend=backend, autoload=True, **settings)]
    return Starlette(routes=[Route("/", show), Route("/me", me)], middleware=middleware)


@pytest.mark.guarantee(25)
@each_backend
@rows("started", [False, True])
def test_a_user_is_signed_in_in_one_line(browser_of: BrowserOf, backend: SessionBackend, started: bool) -> None:
    app = app_with_people(backend)
    with ExitStack() as stack:
        ann, bob, nobody = [
            stack.enter_context(browser_of(app)) if started else browser_of(app) for _ in ("ann", "bob", "nobody")
        ]
        sign_in(ann, "ann")
        sign_in(bob, "bob", method="passkey")
        assert [client.get("/me").json() for client in (ann, bob, nobody)] == ["ann", "bob", None]
        sign_in(ann, "eve")
        assert ann.get("/me").json() == "eve"


def test_sign_in_takes_the_same_arguments_as_in_a_handler(browser_of: BrowserOf) -> None:
    clock = Clock()
    backend = InMemoryBackend(clock=clock)
    client = browser_of(app_with_people(backend, max_age=60))
    with session_of(client) as session:
        session["cart"] = ["tea"]
    sign_in(client, "42", method="passkey", remember=True)
    assert client.get("/").json() == {"cart": ["tea"]}
    sign_in(client, "42", method="passkey", remember=True, keep_data=False)
    assert client.get("/").json() == {}
    clock.advance(999)
    assert client.get("/me").json() == "42"
    [listed] = anyio.run(UserSessions(backend).list, "42")
    assert listed.method == "passkey"


def test_a_sign_in_that_is_refused_reaches_the_test(browser_of: BrowserOf) -> None:
    app = app_with_people(InMemoryBackend(), max_sessions_per_user=1, on_too_many="refuse")
    sign_in(browser_of(app), "42")
    with pytest.raises(TooManySessions):
        sign_in(browser_of(app), "42")


def test_a_sign_in_says_which_of_several_sessions_it_means(browser_of: BrowserOf) -> None:
    client = browser_of(APPS["two layers"]())
    with pytest.raises(ImproperlyConfigured, match="session_cookie="):
        sign_in(client, "42")
    sign_in(client, "42", session_cookie="inner")
    assert list(client.cookies) == ["inner"]


@pytest.mark.guarantee(25)
@pytest.mark.anyio
@each_backend
async def test_with_an_asynchronous_client_a_sign_in_is_awaited(backend: SessionBackend) -> None:
    transport = httpx2.ASGITransport(app=app_with_people(backend))
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
        await sign_in(client, "42")
        assert (await client.get("/me")).json() == "42"


# Asynchronous clients


@pytest.mark.guarantee(25)
@pytest.mark.anyio
@each_backend
async def test_an_asynchronous_client_has_a_session_too(backend: SessionBackend) -> None:
    transport = httpx2.ASGITransport(app=app_with(backend))
    async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
        async with session_of(client) as session:
            session["n"] = 5
            await session.regenerate_id()
        assert (await client.get("/count")).json() == 6
        async with session_of(client) as session:
            assert session["n"] == 6
            await session.delete()
        assert (await client.get("/")).json() == {}
        with pytest.raises(LookupError, match="of the test"):
            async with session_of(client) as session:
                fails_after_a_change(session)
        assert (await client.get("/")).json() == {}


@pytest.mark.anyio
async def test_an_application_that_the_client_hides_can_be_given() -> None:
    app = app_with()

    async def hidden(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(hidden), base_url="http://testserver") as client:
        with pytest.raises(ImproperlyConfigured, match="app="):
            session_of(client)
        async with session_of(client, app=app) as session:
            session["user"] = "ann"
        assert (await client.get("/")).json() == {"user": "ann"}


@pytest.mark.anyio
async def test_the_wrong_kind_of_block_names_the_right_one() -> None:
    app = app_with()
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://testserver") as client:
        with pytest.raises(TypeError, match="async with"), session_of(client):
            pass
    with pytest.raises(TypeError, match="`with session_of"):
        async with session_of(TestClient(app)):
            pass
