"""The dependencies for FastAPI: who is let in, who is rejected, and with which response."""

import inspect
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from starsessions import (
    BackendUnavailable,
    ImproperlyConfigured,
    InMemoryBackend,
    ResponseStarted,
    Session,
    SessionBackend,
    SessionMiddleware,
    csrf,
    users,
)
from starsessions.fastapi import (
    CurrentSession,
    SessionCookie,
    SignedInSession,
    UserId,
    fresh,
    safe_next,
    signed_in,
    user_id,
)
from tests.rows import rows
from tests.site import KEY, Clock, by_the_clock

TOO_LONG_AGO = "You signed in too long ago for this. Sign in again."

BrowserOf = Callable[..., TestClient]


def sign_in_routes(app: FastAPI) -> FastAPI:
    @app.post("/sign-in/{user}")
    async def sign_in(user: str, session: CurrentSession) -> None:
        await users.sign_in(session, user)

    @app.post("/sign-out")
    async def sign_out(session: CurrentSession) -> None:
        await users.sign_out(session)

    return app


@pytest.fixture
def app(backend: SessionBackend, clock: Clock) -> FastAPI:
    """An endpoint without a dependency on the session loads nothing."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, **by_the_clock(clock, backend=backend))
    return sign_in_routes(app)


@pytest.fixture
def memory_app(clock: Clock) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend(clock=clock))
    return sign_in_routes(app)


# The session


@pytest.mark.both_loops
def test_the_session_is_loaded_for_async_def_and_def_endpoints(app: FastAPI, browser_of: BrowserOf) -> None:
    @app.get("/async")
    async def in_the_loop(session: CurrentSession) -> dict[str, Any]:
        session["async"] = session.get("async", 0) + 1
        return session

    @app.get("/def")
    def in_a_thread(session: CurrentSession) -> dict[str, Any]:
        session.setdefault("def", []).append("x")
        return session

    browser = browser_of(app)
    assert browser.get("/async").json() == {"async": 1}
    assert browser.get("/def").json() == {"async": 1, "def": ["x"]}
    assert browser.get("/def").json() == {"async": 1, "def": ["x", "x"]}


def test_an_endpoint_that_does_not_ask_for_the_session_does_not_load_it(
    memory_app: FastAPI, browser_of: BrowserOf
) -> None:
    @memory_app.get("/")
    def public() -> None:
        pass

    browser = browser_of(memory_app)
    browser.post("/sign-in/ann")
    response = browser.get("/")
    assert "vary" not in response.headers
    assert "set-cookie" not in response.headers


def test_all_dependencies_of_a_request_have_the_same_session(app: FastAPI, browser_of: BrowserOf) -> None:
    def put(session: CurrentSession) -> None:
        session["put"] = True

    @app.get("/", dependencies=[Depends(put)])
    def endpoint(session: CurrentSession, again: Annotated[Session, Depends(SessionCookie())]) -> bool:
        return session is again and session["put"]

    assert browser_of(app).get("/").json() is True


def test_what_a_dependency_changes_after_its_yield_is_saved_with_the_scope_of_the_function(
    app: FastAPI, browser_of: BrowserOf
) -> None:
    async def note(session: CurrentSession) -> AsyncIterator[None]:
        session["noted"] = ["before"]
        yield
        session["noted"] = ["before", "after"]

    async def note_inside(session: CurrentSession) -> AsyncIterator[None]:
        session["noted"] = ["before"]
        yield
        session["noted"].append("after")

    for path, dependency in (("", note), ("-inside", note_inside)):
        app.get(f"/late{path}", dependencies=[Depends(dependency)])(lambda: None)
        app.get(f"/in-time{path}", dependencies=[Depends(dependency, scope="function")])(lambda: None)

    @app.get("/")
    def kept(session: CurrentSession) -> dict[str, Any]:
        return session

    browser = browser_of(app)
    for path in ("", "-inside"):
        with pytest.raises(
            ResponseStarted, match=r'After the `yield` of a FastAPI dependency: Depends\(…, scope="funct'
        ):
            browser.get(f"/late{path}")
        browser.get(f"/in-time{path}")
        assert browser.get("/").json() == {"noted": ["before", "after"]}


def test_a_second_session_has_its_own_dependencies(browser_of: BrowserOf) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=KEY)
    app.add_middleware(SessionMiddleware, secret_key=KEY, session_cookie="admin", scope_key="admin")
    admin = SessionCookie("admin", scope_key="admin")

    @app.get("/")
    def endpoint(session: CurrentSession, other: Annotated[Session, Depends(admin)]) -> None:
        session["is"] = "session"
        other["is"] = "admin"

    assert set(browser_of(app).get("/").cookies) == {"session", "admin"}


# Signed-in users


def test_only_signed_in_users_are_let_in(app: FastAPI, browser_of: BrowserOf) -> None:
    @app.get("/session")
    def session_of(session: SignedInSession) -> str | None:
        return users.get_user_id(session)

    @app.get("/user")
    async def user_of(user: UserId) -> str:
        return user

    browser = browser_of(app)
    for path in ("/session", "/user"):
        refused = browser.get(path)
        assert (refused.status_code, refused.json()) == (401, {"detail": "Not signed in."})
        assert "www-authenticate" not in refused.headers
        assert "set-cookie" not in refused.headers
        assert refused.headers["vary"] == "Cookie"
    browser.post("/sign-in/ann")
    assert browser.get("/session").json() == browser.get("/user").json() == "ann"
    browser.post("/sign-out")
    assert browser.get("/session").status_code == browser.get("/user").status_code == 401


def test_a_router_lets_only_signed_in_users_in(memory_app: FastAPI, browser_of: BrowserOf) -> None:
    router = APIRouter(prefix="/account", dependencies=[Depends(signed_in())])

    @router.get("/")
    def account() -> str:
        return "yours"

    memory_app.include_router(router)
    browser = browser_of(memory_app)
    assert browser.get("/account/").status_code == 401
    browser.post("/sign-in/ann")
    assert browser.get("/account/").json() == "yours"


@rows("dependency, refusal", [(signed_in(), 401), (csrf.verify, 403)])
def test_a_dependency_of_the_application_guards_its_endpoints_and_nothing_else(
    browser_of: BrowserOf, dependency: Any, refusal: int
) -> None:
    """The pages say so, and that a middleware is what guards all."""

    async def plain(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    def application(*guards: Any) -> FastAPI:
        app, mounted = FastAPI(dependencies=[*guards]), FastAPI()
        mounted.post("/pay")(lambda: "ok")
        app.post("/pay")(lambda: "ok")
        app.mount("/sub", mounted)
        app.add_route("/plain", plain, methods=["POST"])
        return app

    def statuses(app: FastAPI) -> list[int]:
        app.add_middleware(SessionMiddleware, backend=InMemoryBackend())
        foreign = {"origin": "https://evil.test"}
        return [browser_of(app).post(path, headers=foreign).status_code for path in ("/pay", "/sub/pay", "/plain")]

    assert statuses(application(Depends(dependency))) == [refusal, 200, 200]
    wrapped = application()
    wrapped.add_middleware(csrf.CsrfMiddleware)
    assert statuses(wrapped) == [403, 403, 403]


def test_changes_made_before_a_401_are_saved(memory_app: FastAPI, browser_of: BrowserOf) -> None:
    def note(session: CurrentSession) -> None:
        session["refused"] = session.get("refused", 0) + 1

    @memory_app.get("/", dependencies=[Depends(note)])
    def endpoint(user: UserId) -> None:
        pass

    @memory_app.get("/refused")
    def refused(session: CurrentSession) -> int:
        return int(session["refused"])

    browser = browser_of(memory_app)
    browser.get("/")
    browser.get("/")
    assert browser.get("/refused").json() == 2


def test_an_outage_is_a_503_and_not_a_401(clock: Clock, browser_of: BrowserOf) -> None:
    class Failing(InMemoryBackend):
        fails = False

        async def fetch(self, token: str, now: int) -> Any:
            if self.fails:
                raise BackendUnavailable("The store does not answer.")
            return await super().fetch(token, now)

    app = FastAPI()
    app.add_middleware(SessionMiddleware, **by_the_clock(clock, backend=Failing(), on_unavailable="anonymous"))
    sign_in_routes(app)

    @app.get("/")
    def endpoint(user: UserId) -> str:
        return user

    browser = browser_of(app)
    browser.post("/sign-in/ann")
    Failing.fails = True
    assert browser.get("/").status_code == 503
    Failing.fails = False
    assert browser.get("/").json() == "ann"


# Pages


@pytest.fixture
def pages(memory_app: FastAPI) -> FastAPI:
    @memory_app.api_route("/orders/{rest:path}", methods=["GET", "HEAD", "POST"])
    def orders(session: Annotated[Session, Depends(signed_in(redirect_to="/login"))]) -> str:
        return "orders"

    @memory_app.get("/settings")
    def settings(user: Annotated[str, Depends(user_id(redirect_to="/login?lang=de"))]) -> str:
        return user

    @memory_app.api_route("/form", methods=["GET", "POST"])
    def form(user: Annotated[str, Depends(user_id(redirect_to="/#sign-in"))]) -> str:
        return user

    @memory_app.get("/{rest:path}")
    def anything(user: Annotated[str, Depends(user_id(redirect_to="https://sso.test/ä"))]) -> str:
        return user

    return memory_app


@rows(
    ("method", "path", "location"),
    [
        ("GET", "/orders/", "/login?next=/orders/"),
        ("HEAD", "/orders/", "/login?next=/orders/"),
        ("GET", "/orders/7?page=2&x=a%20b", "/login?next=/orders/7%3Fpage%3D2%26x%3Da%2520b"),
        ("GET", "/orders/%C3%A4%20%3F", "/login?next=/orders/%25C3%25A4%2520%253F"),
        ("POST", "/orders/", "/login"),
        ("GET", "/orders/" + "a" * 2000, "/login"),
        ("GET", "/settings", "/login?lang=de&next=/settings"),
        ("GET", "/form", "/?next=/form#sign-in"),
        ("POST", "/form", "/#sign-in"),
        ("GET", "//evil.test/", "https://sso.test/%C3%A4"),
        ("GET", "/ok", "https://sso.test/%C3%A4?next=/ok"),
    ],
)
def test_a_browser_that_navigates_is_sent_to_sign_in_and_back(
    pages: FastAPI, browser_of: BrowserOf, method: str, path: str, location: str
) -> None:
    browser = browser_of(pages)
    response = browser.request(method, f"http://testserver{path}", headers={"sec-fetch-mode": "navigate"})
    assert (response.status_code, response.headers["location"]) == (303, location)
    assert browser.request(method, f"http://testserver{path}").status_code == 303  # no Fetch metadata
    passed_on = {"sec-fetch-mode": "same-origin", "upgrade-insecure-requests": "1"}  # Firefox, by a service worker
    assert browser.request(method, f"http://testserver{path}", headers=passed_on).status_code == 303
    browser.post("/sign-in/ann")
    assert browser.request(method, f"http://testserver{path}").status_code == 200


@rows("mode", ["cors", "no-cors", "same-origin"])
def test_a_script_that_fetches_gets_401_and_no_redirect(pages: FastAPI, browser_of: BrowserOf, mode: str) -> None:
    response = browser_of(pages).get("/orders/", headers={"sec-fetch-mode": mode})
    assert (response.status_code, response.json()) == (401, {"detail": "Not signed in."})


@rows("path", ["/base/orders/", "/orders/", "/bases", "/base/"])
def test_next_is_relative_to_the_root_of_the_host(pages: FastAPI, browser_of: BrowserOf, path: str) -> None:
    """Some servers prepend the root path to the path, others do not."""
    wanted = {"/orders/": "/base/orders/", "/bases": "/base/bases"}.get(path, path)
    location = browser_of(pages, root_path="/base").get(path).headers["location"]
    assert location.partition("?next=")[2] == wanted


def test_next_of_a_mounted_application_is_the_whole_path(pages: FastAPI, browser_of: BrowserOf) -> None:
    outer = FastAPI()
    outer.mount("/shop", pages)
    outer.add_middleware(SessionMiddleware, secret_key=KEY, session_cookie="outer")
    assert browser_of(outer).get("/shop/orders/").headers["location"] == "/login?next=/shop/orders/"
    location = browser_of(outer, root_path="/base").get("/shop/x").headers["location"]
    assert location.partition("?next=")[2] == "/base/shop/x"


@rows("root", ["", "/base", "/base/", "/bäse"])
@rows(
    "redirect_to, location",
    [
        ("/login", "{0}/login?next={1}/page"),
        ("login_page", "{0}/account/login?next={1}/page"),
        ("mounted:login", "{0}/sub/login?next={1}/page"),
        ("https://sso.test/login", "https://sso.test/login?next={1}/page"),
    ],
)
def test_redirect_to_is_a_path_or_a_route_of_the_application_wherever_a_proxy_serves_it(
    memory_app: FastAPI, browser_of: BrowserOf, root: str, redirect_to: str, location: str
) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend())
    app.add_api_route("/account/login", lambda: "", name="login_page")
    app.mount("/sub", Starlette(routes=[Route("/login", lambda request: PlainTextResponse(), name="login")]), "mounted")

    @app.get("/page")
    def page(user: Annotated[str, Depends(user_id(redirect_to=redirect_to))]) -> str:
        return user

    found = browser_of(app, root_path=root).get("/page").headers["location"]
    prefix = quote(root.rstrip("/"))
    assert found == location.format(prefix, quote(prefix))


def test_redirect_to_is_found_from_within_a_mounted_application(pages: FastAPI, browser_of: BrowserOf) -> None:
    outer, shop = FastAPI(), FastAPI()
    shop.add_middleware(SessionMiddleware, backend=InMemoryBackend())
    shop.add_api_route("/login", lambda: "", name="login_page")

    @shop.get("/by-name")
    def by_name(user: Annotated[str, Depends(user_id(redirect_to="shop:login_page"))]) -> str:
        return user

    @shop.get("/by-path")
    def by_path(user: Annotated[str, Depends(user_id(redirect_to="/shop/login"))]) -> str:
        return user

    outer.mount("/shop", shop, "shop")
    browser = browser_of(outer, root_path="/base")
    for path in ("/base/shop/by-name", "/base/shop/by-path"):
        assert browser.get(path).headers["location"] == f"/base/shop/login?next={path}"


def test_redirect_to_that_names_no_route_is_an_error_that_says_so(browser_of: BrowserOf) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend())

    @app.get("/page/{number}")
    def page(user: Annotated[str, Depends(user_id(redirect_to="page"))]) -> str:
        return user

    with pytest.raises(ImproperlyConfigured, match="redirect_to='page' is not the name of a route without parameters"):
        browser_of(app).get("/page/1")


def table_of_safe_next() -> list[tuple[str, str]]:
    rows = [line.split("|")[1:3] for line in inspect.getdoc(safe_next).splitlines() if line.startswith("|")]  # type: ignore[union-attr]
    return [(target.strip().replace(r"\t", "\t"), goes_to.strip()) for target, goes_to in rows[2:]]


@rows(("target", "goes_to"), table_of_safe_next())
def test_safe_next_returns_what_its_table_says(target: str, goes_to: str) -> None:
    assert safe_next(target, default="default") == goes_to


@rows("target", [None, "/\n", "/a\\b", "/" + "a" * 2000, " /", "/ x", "/\x7f"])
def test_a_target_that_is_not_a_path_of_this_site_gives_the_default(target: str | None) -> None:
    assert safe_next(target) == "/"


# Fresh sign-ins


@pytest.fixture
def guarded(app: FastAPI) -> FastAPI:
    @app.post("/email")
    def change(session: Annotated[Session, Depends(fresh(within=timedelta(minutes=10)))]) -> str | None:
        return users.get_user_id(session)

    @app.get("/email")
    def page(session: Annotated[Session, Depends(fresh(within=600, redirect_to="/login"))]) -> str | None:
        return users.get_user_id(session)

    return app


def test_a_recent_sign_in_is_fresh(guarded: FastAPI, browser_of: BrowserOf, clock: Clock) -> None:
    browser = browser_of(guarded)
    assert browser.post("/email").status_code == 401
    browser.post("/sign-in/ann")
    clock.now += 60
    assert browser.post("/email").json() == browser.get("/email").json() == "ann"


@pytest.mark.requirement("ASVS 7.5.1")
def test_an_old_sign_in_has_to_be_repeated(guarded: FastAPI, browser_of: BrowserOf, clock: Clock) -> None:
    browser = browser_of(guarded)
    browser.post("/sign-in/ann")
    clock.now += 3600
    refused = browser.post("/email")
    assert (refused.status_code, refused.json()) == (403, {"detail": TOO_LONG_AGO})
    sent = browser.get("/email")
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=/email")
    browser.post("/sign-in/ann")
    assert browser.post("/email").json() == "ann"


# WebSockets


@pytest.mark.both_loops
def test_an_unauthenticated_websocket_is_rejected_before_it_is_accepted(
    app: FastAPI, browser_of: BrowserOf, clock: Clock
) -> None:
    @app.websocket("/session")
    async def with_session(websocket: WebSocket, session: SignedInSession) -> None:
        await websocket.accept()
        await websocket.send_json(users.get_user_id(session))

    @app.websocket("/user")
    async def with_user(websocket: WebSocket, user: Annotated[str, Depends(user_id(redirect_to="/login"))]) -> None:
        await websocket.accept()
        await websocket.send_json(user)

    @app.websocket("/fresh")
    async def with_fresh(websocket: WebSocket, session: Annotated[Session, Depends(fresh(within=60))]) -> None:
        await websocket.accept()
        await websocket.send_json(users.get_user_id(session))

    browser = browser_of(app)

    def refusal(path: str) -> tuple[int, str]:
        with pytest.raises(WebSocketDisconnect) as caught, browser.websocket_connect(path):
            pass
        return caught.value.code, caught.value.reason

    for path in ("/session", "/user", "/fresh"):
        assert refusal(path) == (1008, "Not signed in.")
    browser.post("/sign-in/ann")
    for path in ("/session", "/user", "/fresh"):
        with browser.websocket_connect(path) as websocket:
            assert websocket.receive_json() == "ann"
    clock.now += 3600
    assert refusal("/fresh") == (1008, TOO_LONG_AGO)


def test_a_websocket_has_the_session_of_the_page(memory_app: FastAPI, browser_of: BrowserOf) -> None:
    @memory_app.websocket("/")
    async def talk(websocket: WebSocket, session: CurrentSession) -> None:
        await websocket.accept()
        session["said"] = await websocket.receive_text()

    @memory_app.get("/")
    def said(session: CurrentSession) -> str:
        return str(session["said"])

    browser = browser_of(memory_app)
    browser.post("/sign-in/ann")
    with browser.websocket_connect("/") as websocket:
        websocket.send_text("hello")
    assert browser.get("/").json() == "hello"


# Misuse


@rows("dependency", [CurrentSession, SignedInSession, UserId])
@rows("has_starlettes", [False, True])
def test_without_the_middleware_the_error_names_the_cure(
    browser_of: BrowserOf, dependency: Any, has_starlettes: bool
) -> None:
    app = FastAPI()
    if has_starlettes:
        app.add_middleware(StarlettesMiddleware, secret_key=KEY)

    @app.get("/")
    def endpoint(session: dependency) -> None:
        pass

    with pytest.raises(ImproperlyConfigured, match=r"add starsessions\.SessionMiddleware"):
        browser_of(app).get("/")


def test_a_document_that_names_another_cookie_is_reported_once(
    browser_of: BrowserOf, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=KEY, session_cookie="__Host-session")
    right, wrong = SessionCookie("__Host-session"), SessionCookie()

    @app.get("/")
    def endpoint(one: Annotated[Session, Depends(right)], two: Annotated[Session, Depends(wrong)]) -> None:
        pass

    browser = browser_of(app)
    browser.get("/")
    browser.get("/")
    [record] = caplog.records
    assert record.getMessage() == (
        "The OpenAPI document calls the session cookie 'session', and the middleware '__Host-session'. Sessions work, "
        "but the document is wrong: make the dependencies with SessionCookie('__Host-session')."
    )


def test_settings_that_cannot_work_are_rejected_at_startup() -> None:
    for make in (signed_in, user_id, lambda redirect_to: fresh(60, redirect_to)):
        for wrong in ("login/", "", "ftp://example.com/", Path("/login")):
            with pytest.raises(ImproperlyConfigured, match="redirect_to must be a path"):
                make(redirect_to=wrong)
    with pytest.raises(ImproperlyConfigured, match="within must be"):
        fresh(within=0)


def test_the_package_imports_neither_fastapi_nor_pydantic() -> None:
    code = "import sys, starsessions, starsessions.typed; assert not {'fastapi', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


class Person(BaseModel):
    user: str | None = None


@pytest.mark.once
@rows(
    ("path", "is_logged"),
    [
        ("/me", True),  # pydantic asks the dict for keys in C, and finds none
        ("/me/loaded", False),
        ("/nothing", False),
        ("/missing", False),
    ],
)
def test_a_response_model_that_is_filled_from_a_session_that_is_not_loaded_is_reported_once(
    caplog: pytest.LogCaptureFixture, path: str, is_logged: bool
) -> None:
    app = sign_in_routes(FastAPI())
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend())

    @app.get("/me", response_model=Person)
    async def me(request: Request) -> Any:
        return request.session

    @app.get("/me/loaded", response_model=Person)
    async def loaded(request: Request) -> Any:
        await request.session.load()
        return request.session

    @app.get("/nothing")
    async def nothing() -> None: ...

    @app.get("/missing")
    async def missing(request: Request) -> None:
        raise HTTPException(404, str(request.session.is_loaded))

    caplog.clear()
    client = TestClient(app)
    client.get(path)
    assert caplog.records == []  # a visitor has no session to load
    client.post("/sign-in/ann")
    for _ in range(2):
        client.get(path)
    assert ["response_model" in record.getMessage() for record in caplog.records] == [True] * is_logged
