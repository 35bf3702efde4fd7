"""sqladmin's authentication installs Starlette's `SessionMiddleware` inside of the application.

The inner middleware replaces `scope["session"]`, and both share the scope. Each keeps its own session, in
its own cookie.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqladmin import Admin, ModelView
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import Engine, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from starsessions import SessionBackend, SessionMiddleware
from tests.history.pages import ROUTE, BrowserOf, seen
from tests.site import KEY

ADMINS_KEY = KEY[::-1]


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


class ProductAdmin(ModelView, model=Product):
    column_list = ("id", "name")


class AdminAuth(AuthenticationBackend):
    """As in sqladmin's documentation."""

    async def login(self, request: Request) -> bool:
        form = await request.form()
        if form["password"] != "open sesame":
            return False
        request.session.update({"token": "a-token"})
        return True

    async def logout(self, request: Request) -> bool:
        request.session.clear()
        return True

    async def authenticate(self, request: Request) -> bool:
        return "token" in request.session


class OurAdminAuth(AdminAuth):
    """The same with one import replaced: the inner middleware is this library's, too."""

    def __init__(self, secret_key: str, **session_settings: Any) -> None:
        self.middlewares = [Middleware(SessionMiddleware, secret_key=secret_key, autoload=True, **session_settings)]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Product(name="apple"))
        session.commit()
    yield engine
    engine.dispose()


class Visits:
    """A middleware between them that uses the outer session on every page, including the admin's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            session = scope["session"]
            session["visits"] = session.get("visits", 0) + 1
        await self.app(scope, receive, send)


@pytest.fixture(params=[AdminAuth, OurAdminAuth], ids=["inner one of Starlette", "inner one of the library"])
def browser_with(
    request: pytest.FixtureRequest, engine: Engine, backend: SessionBackend, browser_of: BrowserOf
) -> Callable[..., TestClient]:
    def make(*between: Middleware) -> TestClient:
        middleware = [Middleware(SessionMiddleware, backend=backend, autoload=True), *between]
        app = Starlette(routes=[ROUTE], middleware=middleware)
        auth = request.param(secret_key=ADMINS_KEY, session_cookie="admin")
        Admin(app, engine, authentication_backend=auth).add_view(ProductAdmin)
        return browser_of(app)

    return make


def log_in(browser: TestClient, password: str = "open sesame") -> int:
    form = {"username": "ann", "password": password}
    return browser.post("/admin/login", data=form, follow_redirects=False).status_code


def may_enter(browser: TestClient) -> bool:
    response = browser.get("/admin/product/list", follow_redirects=False)
    return response.status_code == 200 and "apple" in response.text


def test_the_admin_logs_in_and_out(browser_with: Callable[..., TestClient]) -> None:
    browser = browser_with()
    assert not may_enter(browser)
    assert log_in(browser, "guessed") == 400
    assert not may_enter(browser)
    assert log_in(browser) == 302
    assert may_enter(browser)
    browser.get("/admin/logout")
    assert not may_enter(browser)


@pytest.mark.guarantee(12)
def test_each_session_has_a_cookie_of_its_own(browser_with: Callable[..., TestClient]) -> None:
    browser = browser_with()
    browser.post("/", json={"user": "ann"})
    assert list(browser.cookies) == ["session"]
    log_in(browser)
    assert set(browser.cookies) == {"session", "admin"}
    assert seen(browser) == {"user": "ann"}
    assert may_enter(browser)


def test_ending_one_session_keeps_the_other(browser_with: Callable[..., TestClient]) -> None:
    browser = browser_with()
    browser.post("/", json={"user": "ann"})
    log_in(browser)
    browser.get("/admin/logout")
    assert seen(browser) == {"user": "ann"}
    log_in(browser)
    browser.delete("/")
    assert may_enter(browser)
    assert list(browser.cookies) == ["admin"]


def test_an_inner_session_in_the_scope_never_reaches_the_outer_cookie(
    browser_with: Callable[..., TestClient],
) -> None:
    browser = browser_with()
    log_in(browser)
    assert list(browser.cookies) == ["admin"]
    assert seen(browser) == {}


def test_one_response_saves_both_sessions(browser_with: Callable[..., TestClient]) -> None:
    browser = browser_with(Middleware(Visits))
    response = browser.post("/admin/login", data={"username": "ann", "password": "open sesame"}, follow_redirects=False)
    assert {cookie.partition("=")[0] for cookie in response.headers.get_list("set-cookie")} == {"session", "admin"}
    assert may_enter(browser)
    assert seen(browser) == {"visits": 3}


def test_with_the_applications_key_and_cookie_the_admin_shares_its_session(
    engine: Engine, browser_of: BrowserOf
) -> None:
    app = Starlette(routes=[ROUTE], middleware=[Middleware(SessionMiddleware, secret_key=KEY, autoload=True)])
    Admin(app, engine, authentication_backend=AdminAuth(secret_key=KEY)).add_view(ProductAdmin)
    browser = browser_of(app)
    browser.post("/", json={"user": "ann"})
    log_in(browser)
    assert may_enter(browser)
    assert seen(browser) == {"user": "ann", "token": "a-token"}
    assert list(browser.cookies) == ["session"]
