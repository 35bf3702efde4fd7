"""The examples in the documents run as they are printed, and do what their pages say."""

import ast
import asyncio
import base64
import contextlib
import inspect
import json
import logging
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
from fastapi import APIRouter, Depends, FastAPI
from itsdangerous import TimestampSigner
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.testclient import TestClient

from starsessions import BackendUnavailable, CookieBackend, SessionMiddleware, SessionNotLoaded, users
from starsessions.fastapi import CurrentSession
from starsessions.personal import export_user
from starsessions.stores import MemoryStore, StoreBackend
from starsessions.testing import session_of, sign_in
from tests.contracts import WholeBackend, WholeStore
from tests.docs.pages import DOCS, README, ROOT, Story, blocks, name_of, pages, stories, story_of, tell
from tests.rows import rows
from tests.servers.process import Address
from tests.site import KEY

STORIES = [story for document in [README, *pages()] for story in stories(document)]


def app_of(page: str, number: int = 0) -> Any:
    return tell(story_of(page, number))["app"]


@contextlib.contextmanager
def nothing_is_left_in(folder: Path) -> Iterator[None]:
    """Some examples make a file, and one silences the log."""
    logger = logging.getLogger("starsessions")
    level = logger.level
    with contextlib.chdir(folder):
        yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    with nothing_is_left_in(tmp_path):
        yield


@rows("story", STORIES, ids=lambda story: f"{name_of(story[0].document)}:{story[0].line}")
def test_all_examples_run(story: Story, tmp_path_factory: pytest.TempPathFactory) -> None:
    with nothing_is_left_in(tmp_path_factory.mktemp("example")):
        for name, value in tell(story).items():
            if name.startswith("test_") and inspect.isfunction(value) and not inspect.signature(value).parameters:
                value()


@rows("number", [0, 1], ids=["FastAPI", "Starlette"])
def test_the_quick_start_counts_visits(number: int) -> None:
    app = tell(stories(README)[number])["app"]
    browser, stranger = TestClient(app), TestClient(app)
    assert [browser.get("/").json() for _ in range(2)] == [{"visits": 1}, {"visits": 2}]
    assert stranger.get("/").json() == {"visits": 1}


def test_the_sign_in_of_the_readme_lets_the_user_in() -> None:
    browser = TestClient(tell(stories(README)[2])["app"])
    assert browser.get("/account").status_code == 401
    browser.post("/login", data={"name": "ann"})
    assert browser.get("/account").json() == "ann"


def test_the_home_page_begins_as_the_readme_does() -> None:
    assert "from starsessions.fastapi import CurrentSession" in story_of("index.md")[0].code
    browser = TestClient(app_of("index.md"))
    assert [browser.get("/").json() for _ in range(2)] == [{"visits": 1}, {"visits": 2}]


def test_the_tutorial_for_starlette_logs_in_and_out() -> None:
    browser = TestClient(app_of("tutorials/log-in-with-starlette.md"), follow_redirects=False)
    assert browser.get("/account").headers["location"] == "/login"
    assert browser.post("/login", data={"email": "ann@example.com", "password": "guess"}).status_code == 403
    form = {"email": "ann@example.com", "password": "correct horse", "remember": "on"}
    assert "Max-Age=2592000" in browser.post("/login", data=form).headers["set-cookie"]
    assert "You are logged in" in browser.get("/account").text
    browser.post("/logout")
    assert browser.get("/account").status_code == 303


def test_the_application_of_the_tutorial_passes_its_test_when_it_is_deployed_in_a_file_or_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    users, _, *rest = story_of("tutorials/log-in-with-fastapi.md")
    deployed = [users, *story_of("tutorials/deploy.md"), *rest]
    tell(deployed)["test_login"]()
    assert Path("sessions.db").is_file()
    monkeypatch.setenv("DATABASE_URL", "sqlite+aiosqlite://")
    names = tell(deployed)
    names["test_login"]()
    with TestClient(names["app"], base_url="https://testserver") as browser:
        form = {"email": "ann@example.com", "password": "correct horse"}
        assert "__Host-session=" in browser.post("/login", data=form, follow_redirects=False).headers["set-cookie"]
        assert browser.post("/logout", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_a_session_ends_after_half_an_hour_without_use_or_after_thirty_days_if_it_is_remembered() -> None:
    browser = TestClient(app_of("guides/users/keep-users-signed-in.md"))
    assert "Max-Age" not in browser.post("/login", data={"name": "ann"}).headers["set-cookie"]
    response = browser.post("/login", data={"name": "ann", "remember": "on"})
    assert "Max-Age=2592000;" in response.headers["set-cookie"]


def test_other_devices_are_signed_out_when_the_password_changes() -> None:
    app = app_of("guides/users/devices.md", 1)
    here, there = TestClient(app), TestClient(app)
    for browser in (here, there):
        browser.post("/login", data={"name": "ann"})
    assert [one["is_current"] for one in here.get("/devices").json()].count(True) == 1
    assert here.post("/password", data={"password": "another"}).json() == 1
    assert there.get("/devices").status_code == 401
    assert here.get("/devices").status_code == 200
    assert here.post("/logout-everywhere").status_code == 200
    assert here.get("/devices").status_code == 401


def test_the_page_of_devices_is_mounted_in_a_few_lines() -> None:
    browser = TestClient(app_of("guides/users/devices.md"))
    sign_in(browser, "ann")
    assert "You are signed in on this device only." in browser.get("/devices").text


def test_the_history_counts_failed_sign_ins() -> None:
    with TestClient(app_of("guides/users/sign-in-history.md")) as browser:
        wrong, right = {"name": "ann", "password": "guess"}, {"name": "ann", "password": "correct horse"}
        assert [browser.post("/login", data=wrong).status_code for _ in range(11)] == [403] * 10 + [429]
        assert browser.post("/login", data=right | {"name": "ben"}).status_code == 200
        assert "Signed in" in browser.get("/devices/history").text


def test_an_operator_ends_the_sessions_of_a_user() -> None:
    app = app_of("guides/users/operators.md")
    sue, ann = TestClient(app), TestClient(app)
    sign_in(sue, "sue")
    sign_in(ann, "ann")
    assert sue.get("/operators/").status_code == 200
    assert ann.get("/operators/").status_code == 404


def test_an_email_is_changed_after_a_recent_login_only() -> None:
    browser = TestClient(app_of("guides/users/confirm-password.md"))
    assert browser.post("/email", data={"email": "a@b.test"}).status_code == 401
    browser.post("/login", data={"name": "ann"}, follow_redirects=False)
    assert browser.post("/email", data={"email": "a@b.test"}).json() == "a@b.test"


def test_staff_see_what_a_customer_sees_and_stay_who_they_are() -> None:
    namespace = tell(story_of("guides/users/impersonation.md"))
    app, sign_in = namespace["app"], namespace["sign_in"]

    async def login(request: Request, name: str) -> None:
        await sign_in(request, name)

    app.add_api_route("/login/{name}", login, methods=["POST"])

    sue, ann = TestClient(app), TestClient(app)
    sue.post("/login/sue")
    ann.post("/login/ann")
    assert ann.post("/support/view-as/bob").status_code == 403
    sue.post("/support/view-as/bob")
    assert sue.get("/orders").json() == {"orders_of": "bob", "requested_by": "sue"}
    sue.post("/support/stop")
    assert sue.get("/orders").json() == {"orders_of": "sue", "requested_by": "sue"}


def test_another_service_knows_who_has_signed_in_by_the_same_settings_or_by_an_endpoint(
    redis_server: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESSIONS_URL", redis_server.url)
    guide = tell(story_of("guides/data/other-services.md"))
    with TestClient(guide["shop"]) as shop, TestClient(guide["reports"]) as reports:
        assert [reports.get("/reports").status_code, shop.get("/session").status_code] == [401, 401]
        shop.post("/login", params={"name": "ann"})
        cookie = {"Cookie": f"session={shop.cookies['session']}"}
        shop.cookies.clear()
        assert reports.get("/reports", headers=cookie).json() == "Reports for ann"
        assert shop.get("/session", headers=cookie).json() == {"user": "ann"}


def test_the_countdown_of_the_guide_keeps_its_promise_until_the_absolute_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = now = int(time.time())
    monkeypatch.setattr(time, "time", lambda: now)
    browser = TestClient(app_of("guides/users/warn-before-expiry.md"))
    left = browser.post("/login", params={"name": "ann"}).json()
    while left > 200:
        for passed in [179, left - 1]:  # the first use comes too early to renew the session
            now += min(passed, left - 1)
            response = browser.post("/stay")
            assert response.status_code == 200
            left = response.json()
    assert now + left == began + 43200
    now += left
    assert browser.post("/stay").status_code == 401


def test_a_front_end_on_another_origin_may_send_requests_with_the_cookie() -> None:
    app = app_of("guides/front-ends/cors.md")
    browser = TestClient(app, base_url="https://api.example.com")
    from_front_end = {"Origin": "https://app.example.com", "Sec-Fetch-Site": "same-site"}
    response = browser.post("/cart/tea", headers=from_front_end)
    assert response.json() == ["tea"]
    assert response.headers["access-control-allow-origin"] == "https://app.example.com"
    assert response.headers["access-control-allow-credentials"] == "true"
    assert browser.post("/cart/milk", headers=from_front_end).json() == ["tea", "milk"]
    assert (
        browser.post("/cart/x", headers={"Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site"}).status_code
        == 403
    )


def test_the_cookie_of_an_application_below_a_path_goes_to_that_path_only() -> None:
    shop = tell(story_of("guides/production/proxy.md"))["shop"]

    def visit(request: Request) -> None:
        request.session["visited"] = True

    shop.user_middleware[0].kwargs["autoload"] = True
    shop.add_api_route("/visit", visit)
    browser = TestClient(shop, base_url="https://testserver/shop", root_path="/shop")
    cookie = browser.get("/visit").headers["set-cookie"].lower()
    for attribute in ("__secure-session=", "path=/shop;", "secure"):
        assert attribute in cookie


def test_a_script_sends_the_token_in_the_header() -> None:
    browser = TestClient(app_of("guides/front-ends/htmx-and-fetch.md"))
    token = browser.get("/api/csrf").json()["token"]
    assert browser.post("/like").status_code == 403
    assert browser.post("/like", headers={"X-CSRF-Token": token}).json() == 1
    assert 'name="csrf-token"' in browser.get("/").text


def test_an_iframe_gets_a_partitioned_cookie() -> None:
    widget = tell(story_of("guides/front-ends/subdomains-and-iframes.md", 1))["widget"]

    def visit(request: Request) -> None:
        request.session["visited"] = True

    widget.user_middleware[0].kwargs["autoload"] = True
    widget.add_api_route("/visit", visit)
    cookie = TestClient(widget, base_url="https://testserver").get("/visit").headers["set-cookie"].lower()
    for attribute in ("__host-widget=", "samesite=none", "secure", "partitioned", "path=/;"):
        assert attribute in cookie


def test_a_client_without_a_cookie_jar_sends_the_value_of_the_cookie_back() -> None:
    app = app_of("guides/front-ends/mobile-and-api-clients.md")
    told = TestClient(app).post("/login", data={"name": "ann"}).headers["set-cookie"]
    cookie = told.partition(";")[0]
    assert cookie.startswith("session=")
    assert TestClient(app).get("/me", headers={"Cookie": cookie}).json() == "ann"


def test_an_api_takes_a_session_or_a_token() -> None:
    namespace = tell(story_of("guides/front-ends/mobile-and-api-clients.md"))

    def who(user: str) -> str:
        return user

    who.__annotations__["user"] = namespace["Annotated"][str, Depends(namespace["caller"])]
    namespace["app"].add_api_route("/who", who)
    browser = TestClient(namespace["app"])
    assert browser.get("/who").status_code == 401
    assert browser.get("/who", headers={"Authorization": "Bearer a-token-from-your-database"}).json() == "ann"
    browser.post("/login", data={"name": "bob"})
    assert browser.get("/who").json() == "bob"


def test_every_page_of_the_templates_shows_the_user_and_an_error_page_needs_autoload() -> None:
    namespace = tell(story_of("guides/front-ends/templates.md"))
    app, templates = namespace["app"], namespace["templates"]

    def not_found(request: Request, error: Exception) -> Response:
        response: Response = templates.TemplateResponse(request, "home.html", status_code=404)
        return response

    app.add_exception_handler(404, not_found)
    stranger, browser = TestClient(app), TestClient(app)
    assert "The theme is light." in browser.get("/").text
    browser.post("/theme", data={"theme": "<dark>"})
    page = browser.post("/login", data={"name": "ann"}).text
    assert "Signed in as ann" in page
    assert "The theme is &lt;dark&gt;." in page
    assert 'href="/login"' in stranger.get("/").text
    with pytest.raises(SessionNotLoaded):
        browser.get("/missing")
    app.user_middleware[0].kwargs["autoload"] = True
    app.middleware_stack = None  # it is built anew
    assert "Signed in as ann" in browser.get("/missing").text


def test_the_templates_show_the_user_that_a_dependency_has_loaded() -> None:
    namespace = tell(story_of("guides/front-ends/templates.md"))
    app, templates = namespace["app"], namespace["templates"]
    templates.env.loader.mapping |= {
        "name.html": "{{ request.state.user.name }}{% include 'one.html' %}"
        "{% import 'two.html' as two with context %}{{ two.theme() }}",
        "one.html": ", {{ request.state.user.name }}",
        "two.html": "{% macro theme() %}, {{ request.session.theme }}{% endmacro %}",
    }

    def page(request: Request) -> Response:
        response: Response = templates.TemplateResponse(request, "name.html")
        return response

    app.add_api_route("/name", page, dependencies=[Depends(namespace["loaded_with_user"])], response_class=HTMLResponse)
    browser = TestClient(app)
    browser.post("/theme", data={"theme": "dark"})
    browser.post("/login", data={"name": "ann"})
    assert browser.get("/name").text == "Ann, Ann, dark"


def test_the_message_is_shown_on_the_next_page() -> None:
    browser = TestClient(app_of("guides/front-ends/flash.md"))
    assert browser.post("/save").text == "success"
    assert browser.get("/").text == "nothing new"


@rows(("revocations", "status"), [(None, 200), (MemoryStore(), 401)], ids=["none", "revocations"])
def test_the_users_of_starlette_s_middleware_are_signed_in_and_keep_their_cart(
    revocations: MemoryStore | None, status: int
) -> None:
    app = app_of("guides/migrate/from-starlette.md", 3)
    key = story_of("guides/migrate/from-starlette.md")[0].code.partition('secret_key="')[2].partition('"')[0]
    if revocations:
        app.user_middleware[0].kwargs["backend"] = CookieBackend(key, revocations=revocations)
    cart = base64.b64encode(json.dumps({"user_id": 7, "cart": ["tea"]}).encode())
    browser = TestClient(app)
    old = {"Cookie": f"session={TimestampSigner(key).sign(cart).decode()}"}
    assert browser.get("/account", headers=old).status_code == status
    assert browser.get("/account").status_code == status  # with the new cookie
    with session_of(browser) as session:
        assert (users.get_user_id(session), session.get("cart")) == (("7", ["tea"]) if status == 200 else (None, None))
    browser.cookies.clear()
    assert browser.get("/account").status_code == 401


@rows("page", ["guides/migrate/from-flask.md", "guides/migrate/from-django.md"])
def test_the_page_for_those_who_come_from_another_framework_logs_in_and_out(
    page: str, caplog: pytest.LogCaptureFixture
) -> None:
    with TestClient(app_of(page), base_url="https://testserver") as browser:
        assert browser.get("/account").status_code == 401
        assert browser.post("/login", data={"name": "ann"}).status_code == 200
        assert browser.get("/account").json() == "ann"
        if "flask" in page:
            assert browser.post("/email").status_code == 200
        assert browser.post("/logout").status_code == 200
        assert browser.get("/account").status_code == 401
    assert [one.getMessage() for one in caplog.records if one.name.startswith("starsessions")] == []


def test_the_websocket_saves_what_it_was_told_by_a_new_visitor_and_by_one_who_has_a_session() -> None:
    app = app_of("guides/front-ends/websockets.md")
    visitor, browser = TestClient(app), TestClient(app)
    with visitor.websocket_connect("/talk") as talk:
        talk.send_text("hi")
        assert talk.receive_text() == "hi"
        assert b"set-cookie" in dict(talk.extra_headers or [])
    assert browser.get("/export").text == "a line\n"
    with browser.websocket_connect("/talk") as talk:
        talk.send_text("hello")
        assert talk.receive_text() == "hello"


def test_the_session_says_who_the_user_is_where_the_middleware_are_in_the_order_of_the_page() -> None:
    app = app_of("reference/middleware.md", 1)

    def who(request: Request) -> str | None:
        return request.user.display_name if request.user.is_authenticated else None

    app.add_api_route("/who", who)
    browser = TestClient(app)
    assert browser.get("/who").json() is None
    sign_in(browser, "ann")
    response = browser.get("/who", headers={"Origin": "https://app.example.com"})
    assert response.json() == "ann"
    assert response.headers["access-control-allow-origin"] == "https://app.example.com"


def test_a_uuid_comes_back_from_the_session_as_one() -> None:
    browser = TestClient(app_of("guides/data/serializer.md"))
    assert browser.get("/order").json() is None
    assert browser.post("/order").json() == browser.get("/order").json()


def test_a_test_client_shows_that_the_session_is_saved_and_comes_back(capsys: pytest.CaptureFixture[str]) -> None:
    tell(story_of("troubleshooting.md"))
    cookie, reason = capsys.readouterr().out.splitlines()
    assert cookie.startswith("session=")
    assert reason == "None"


def test_the_session_is_loaded_in_each_way_that_the_page_names() -> None:
    browser = TestClient(app_of("troubleshooting.md", 1))
    assert [browser.get("/def").json() for _ in range(2)] == [1, 2]
    assert browser.get("/async-def").json() == 2


def test_a_middleware_that_is_added_before_reads_the_session() -> None:
    browser = TestClient(app_of("troubleshooting.md", 2))
    with session_of(browser) as session:
        session["language"] = "fr"
    assert browser.get("/").headers["content-language"] == "fr"


def test_starlette_reads_the_session_on_the_way_back() -> None:
    def write(request: Request) -> PlainTextResponse:
        request.session["cart"] = "tea"
        return PlainTextResponse()

    def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.session.get("cart", "nothing"))

    here, back = app_of("guides/migrate/from-starlette.md"), app_of("guides/migrate/from-starlette.md", 1)
    here.add_route("/", write)
    back.add_route("/", read)
    browser, old = TestClient(here), TestClient(back)
    browser.get("/")
    assert old.get("/").text == "nothing"
    old.cookies["session"] = browser.cookies["session"]
    assert old.get("/").text == "tea"


def test_the_limits_of_a_size_are_those_of_the_page() -> None:
    names = tell(story_of("guides/production/choose-a-backend.md"))
    [cookies], [server] = names["in_cookies"].user_middleware, names["on_server"].user_middleware
    assert server.kwargs["max_size"] == 100_000
    app = Starlette()
    app.add_middleware(SessionMiddleware, **cookies.kwargs)
    browser = TestClient(app)
    with session_of(browser) as session:
        session["text"] = secrets.token_hex(4000)  # does not get shorter than 4000 bytes
    assert len(browser.cookies) == 2


def test_every_page_of_the_shop_that_reads_the_session_has_no_store() -> None:
    def read(request: Request) -> PlainTextResponse:
        return PlainTextResponse(request.session.get("cart", "nothing"))

    shop = tell(story_of("guides/users/sign-out.md"))["shop"]
    shop.add_route("/", read)
    shop.user_middleware[0].kwargs["autoload"] = True
    browser = TestClient(shop)
    sign_in(browser, "ann")
    assert browser.get("/").headers["cache-control"] == "no-store"


def test_a_new_name_makes_another_cookie() -> None:
    renamed = tell(story_of("guides/front-ends/subdomains-and-iframes.md", 1))["renamed"]
    browser = TestClient(renamed, base_url="https://testserver")
    with session_of(browser) as session:
        session["cart"] = ["tea"]
    assert list(browser.cookies) == ["__Host-session"]


@pytest.mark.anyio
async def test_the_store_of_the_page_says_that_the_database_failed() -> None:
    bounded = tell(story_of("guides/extend/run-a-store.md"))["no_longer_than"]
    for error in (OSError(), None):
        with pytest.raises(BackendUnavailable):
            async with bounded(0.01):
                await failing(error)
    async with bounded(5):
        pass


async def failing(error: OSError | None) -> None:
    if error:
        raise error
    await anyio.sleep_forever()


def test_the_value_of_a_cookie_is_decoded_in_a_shell() -> None:
    namespace = tell(story_of("troubleshooting.md", 3))
    app = Starlette()
    app.add_middleware(SessionMiddleware, backend=namespace["backend"])
    browser = TestClient(app)
    with session_of(browser) as session:
        session["cart"] = ["tea"]
    assert asyncio.run(namespace["inspect"](browser.cookies["session"])) == ({"cart": ["tea"]}, None)
    assert asyncio.run(namespace["inspect"]("anything")) == ({}, "malformed")


@rows("number", [0, 1], ids=["FastAPI", "Starlette"])
def test_the_typed_sessions_keep_a_cart(number: int) -> None:
    story = story_of("guides/data/typed.md", number)
    browser, stranger = TestClient(tell(story)["app"]), TestClient(tell(story)["app"])
    assert browser.post("/cart/tea").json() == ["tea"]
    assert browser.post("/cart/milk").json() == ["tea", "milk"]
    assert stranger.post("/cart/milk").json() == ["milk"]


def test_the_migration_makes_a_cart_out_of_a_basket() -> None:
    migrate = tell(story_of("guides/data/typed.md", 2))["migrate"]
    assert migrate(1, {"basket": ["tea"], "theme": "dark"}) == {"cart": {"items": ["tea"]}, "theme": "dark"}
    assert migrate(1, {}) == {"cart": {"items": []}}


def test_the_atomic_update_counts_down() -> None:
    browser = TestClient(app_of("guides/data/counters.md"))
    assert [browser.post("/spend").json() for _ in range(3)] == [2, 1, 0]


@rows(
    ("root_path", "mounted_at", "path", "is_forgotten"),
    [
        ("", "", "/login", True),
        ("/shop", "", "/login", True),
        ("", "/shop", "/login", True),
        ("/site", "/shop", "/login", True),
        ("/site", "", "/auth/callback", True),
        ("/site", "/shop", "/inner/login", True),
        ("", "", "/other", False),
        ("/login", "", "/other", False),
    ],
)
def test_a_privacy_middleware_leaves_browser_and_network_out(
    root_path: str, mounted_at: str, path: str, is_forgotten: bool
) -> None:
    app = app_of("explanation/privacy.md")
    backend = app.user_middleware[-1].kwargs["backend"]

    async def login(request: Request) -> None:
        await users.sign_in(request, "ann")

    auth, inner = APIRouter(prefix="/auth"), FastAPI()
    inner.add_api_route("/login", login, methods=["POST"])
    app.mount("/inner", inner)
    app.user_middleware[0].kwargs["paths"].append("/inner/login")
    auth.add_api_route("/callback", login, methods=["POST"])
    app.include_router(auth)
    for one in ("/login", "/other"):
        app.add_api_route(one, login, methods=["POST"])
    outer = app
    if mounted_at:
        outer = FastAPI()
        outer.mount(mounted_at, app)
    browser = TestClient(
        outer,
        base_url=f"http://testserver{root_path}",
        root_path=root_path,
        headers={"user-agent": "Mozilla/5.0 (X11; Linux) Firefox/145.0"},
        client=("203.0.113.7", 1),
    )
    assert browser.post(mounted_at + path).status_code == 200
    [session] = asyncio.run(export_user(backend, "ann", session_cookie="session")).sessions
    expected = ("", "") if is_forgotten else ("Firefox on Linux", "203.0.113.0/24")
    assert (session.agent, session.address) == expected


def test_the_client_that_the_application_owns_is_closed_when_it_shuts_down(
    redis_server: Address, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = [
        replace(
            block,
            code=block.code.replace(
                'Redis(host="localhost", ssl=True, ssl_check_hostname=True)', f"Redis.from_url({redis_server.url!r})"
            ),
        )
        for block in story_of("guides/production/redis.md")
    ]
    guide = tell(story)
    app = Starlette(lifespan=guide["lifespan"])
    app.add_middleware(SessionMiddleware, backend=guide["backend"])
    close, closed = Redis.aclose, []

    async def aclose(client: Any) -> None:
        closed.append(client)
        await close(client)

    monkeypatch.setattr(Redis, "aclose", aclose)
    with TestClient(app) as browser:
        sign_in(browser, "ann")
        assert closed == []
    assert closed == [guide["client"]]


def test_a_request_without_a_session_says_why_in_the_log_and_one_with_a_session_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = app_of("troubleshooting.md")

    async def store(session: CurrentSession) -> None:
        session["cart"] = ["tea"]

    app.add_api_route("/store", store, methods=["POST"])
    browser = TestClient(app)
    assert [browser.get("/debug").json() for _ in range(2)] == ["no cookie", "no cookie"]
    assert [record.message for record in caplog.records] == ["no session: no cookie"] * 2
    caplog.clear()
    browser.post("/store")
    assert [browser.get("/debug").json() for _ in range(2)] == [None, None]
    assert caplog.records == []


def test_an_application_that_keeps_its_sessions_in_sqlite_starts_as_it_is_printed() -> None:
    started = 0
    for story in STORIES:
        if any("sqlite+aiosqlite:///" in block.code for block in story) and "app" in (names := tell(story)):
            with TestClient(names["app"]):
                started += 1
    assert started >= 4


def test_the_cron_job_ends() -> None:
    asyncio.run(tell(story_of("guides/production/cleanup.md", 1))["purge"]())


def test_the_page_answers_when_the_store_fails() -> None:
    app = app_of("explanation/durability.md")

    async def fail(request: Request) -> None:
        raise BackendUnavailable("The store failed.")

    app.add_route("/", fail)
    answer = TestClient(app).get("/")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")


def test_the_rotations_of_the_page_do_what_it_says() -> None:
    namespace = tell(story_of("explanation/concurrent-requests.md", 1))
    app, reports, clock = namespace["app"], namespace["reports"], namespace["clock"]
    browser, old = TestClient(app), TestClient(app)
    browser.get("/promote")
    old.cookies["session"] = browser.cookies["session"]

    browser.get("/refresh")
    assert browser.cookies["session"] != old.cookies["session"]
    assert old.get("/").json() == {"role": "admin", "miss_reason": None}
    clock.advance(30)
    assert old.get("/").json() == {"role": None, "miss_reason": "rotated away"}
    [handle] = reports
    assert len(handle) == 16

    old.cookies["session"] = browser.cookies["session"]
    browser.get("/promote")
    assert old.get("/").json() == {"role": None, "miss_reason": "rotated a moment ago"}
    assert reports == [handle]

    before = browser.cookies["session"]
    clock.advance(3600)
    assert browser.get("/").json() == {"role": "admin", "miss_reason": None}
    assert browser.cookies["session"] != before


def test_the_simple_backend_keeps_a_session() -> None:
    app = app_of("guides/extend/write-a-backend.md")
    browser, stranger = TestClient(app), TestClient(app)
    assert [browser.get("/").text for _ in range(3)] == ["Visit 1\n", "Visit 2\n", "Visit 3\n"]
    assert stranger.get("/").text == "Visit 1\n"
    assert len(browser.cookies["session"]) == 43


def test_the_simple_backend_has_twenty_lines() -> None:
    block = story_of("guides/extend/write-a-backend.md")[0]
    [written] = [node for node in ast.parse(block.code).body if isinstance(node, ast.ClassDef)]
    lines = block.code.splitlines()[written.lineno - 1 : written.end_lineno]
    assert len(list(filter(None, lines))) <= 20


@pytest.mark.guarantee(27)
def test_a_cookie_of_2_x_is_read() -> None:
    # base64 of {"user": "ann", "__metadata__": {"lifetime": 0, "created": 1, "last_access": 2}}, as JsonSerializer and
    # CookieStore of 2.2.1 wrote it.
    data = b"eyJ1c2VyIjoiYW5uIiwiX19tZXRhZGF0YV9fIjp7ImxpZmV0aW1lIjowLCJjcmVhdGVkIjoxLCJsYXN0X2FjY2VzcyI6Mn19"
    session = asyncio.run(CookieBackend(KEY).read(TimestampSigner(KEY).sign(data).decode()))
    assert session.pop("__metadata__")
    assert session == {"user": "ann"}


STORES = {
    "file": (
        """
import fcntl
import sys
from pathlib import Path
sys.path.append({examples!r})
from custom_store import FileStore

class PatientStore(FileStore):
    async def _alone(self, work):
        with open("lock", "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # SQLite itself gives up after a while
            return await super()._alone(work)

def open_store(name):
    return PatientStore(Path(name))
""",
        "40",
    ),
    "memory of each process": (
        """
from starsessions.stores import MemoryStore
stores = {{}}

def open_store(name):
    return stores.setdefault(name, MemoryStore())
""",
        "0",
    ),
}


@rows(("store", "printed"), STORES.values(), ids=STORES)
def test_the_program_for_two_processes_shows_what_the_rules_cannot_see(
    store: str, printed: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("two_processes")
    [program] = [block for block in blocks(DOCS / "guides/extend/test-a-store.md") if block.language == "py"]
    folder.joinpath("program.py").write_text(program.code.replace("150", "20"), encoding="utf-8")
    folder.joinpath("my_store.py").write_text(store.format(examples=str(ROOT / "examples")), encoding="utf-8")
    ran = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == printed


_written = tell(story_of("guides/extend/write-a-store.md"))
_listing = tell(story_of("guides/extend/list-by-owner.md"))
_announcing = tell(story_of("guides/extend/announce.md"))
_suites = {**tell(story_of("guides/extend/test-a-store.md", 0)), **tell(story_of("guides/extend/test-a-store.md", 1))}


class TestTheStoreOfThePage(WholeStore, _suites["TestMyStore"]):  # type: ignore[misc]
    """The suite that the page shows, as it is printed, with the store of the page on how to write one."""

    @pytest.fixture
    def open_store(self) -> Callable[[str], Any]:
        stores: dict[str, Any] = {}
        return lambda name: stores.setdefault(name, _written["DictStore"]())


class TestTheStoreOfThePageThatListsByOwnerAndAnnounces(WholeStore, _suites["TestMyStore"]):  # type: ignore[misc]
    declines: ClassVar = {
        name: reason
        for name, reason in _suites["TestMyStore"].declines.items()
        if name not in ("owners", "announcements")
    }

    @pytest.fixture
    def open_store(self) -> Callable[[str], Any]:
        class Both(_listing["OwnedDictStore"], _announcing["Announcer"]):  # type: ignore[misc]
            def __init__(self) -> None:
                _listing["OwnedDictStore"].__init__(self)
                _announcing["Announcer"].__init__(self)

        stores: dict[str, Any] = {}
        return lambda name: stores.setdefault(name, Both())


class TestTheBackendOfThePage(WholeBackend, _suites["TestMemoryBackend"]):  # type: ignore[misc]
    """The same for a backend that keeps its sessions in that store."""

    @pytest.fixture
    def open_backend(self) -> Callable[[], Any]:
        return lambda: StoreBackend(_written["DictStore"]())


def test_without_the_name_of_its_cookie_the_complete_application_works_and_logs_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    story = story_of("tutorials/complete-application.md")
    unnamed = [replace(block, code=block.code.replace('SessionCookie("shop")', "SessionCookie()")) for block in story]
    assert unnamed != story
    tell(unnamed)["test_a_note_is_kept"]()
    assert "make the dependencies with SessionCookie('shop')" in caplog.text


ONE_AFTER_THE_OTHER = """
import pytest
from starsessions.testing import sign_in
from starsessions.users import UserSessions

@pytest.mark.parametrize("turn", [1, 2])
def test_ann_has_signed_in_once(client, turn):
    sign_in(client, "ann")
    assert len(client.portal.call(UserSessions(client.app.state.sessions).list, "ann")) == 1
"""


@pytest.mark.once
def test_the_fixture_of_the_guide_gives_each_test_an_empty_store_and_leaves_no_table(
    redis_server: Address, postgres_server: Address, tmp_path: Path
) -> None:
    app, conftest, tests = (block.code for block in story_of("guides/testing/stores-in-tests.md"))
    redis, postgres = "redis://localhost:6379/15", "postgresql+asyncpg://test:secret@localhost/test"
    assert redis in conftest
    assert postgres in conftest
    conftest = conftest.replace(redis, redis_server.url).replace(postgres, postgres_server.over("asyncpg"))
    (tmp_path / "app.py").write_text(app)
    (tmp_path / "conftest.py").write_text("from app import create_app\n" + conftest)
    (tmp_path / "test_cart.py").write_text(tests + ONE_AFTER_THE_OTHER)
    program = ["-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([sys.executable, *program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "12 passed" in done.stdout, done.stdout + done.stderr
    assert asyncio.run(tables_of_tests(postgres_server.over("asyncpg"))) == []


async def tables_of_tests(url: str) -> list[str]:
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        names = await connection.scalars(text("SELECT tablename FROM pg_tables WHERE tablename LIKE 'test\\_%'"))
    await engine.dispose()
    return list(names)


@pytest.mark.once
def test_the_complete_application_passes_its_tests_under_a_path_and_a_type_checker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROOT_PATH", "/shop")
    story = story_of("tutorials/complete-application.md")
    (tmp_path / "app.py").write_text("\n\n".join(block.code for block in story), encoding="utf-8")
    # What mypy knows of the packages was found out before, by scripts/test.
    mypy = f"mypy --config-file {ROOT / 'pyproject.toml'} --cache-dir {ROOT / '.mypy_cache'} app.py"
    for command in ("pytest -q -p no:cacheprovider app.py", mypy):
        done = subprocess.run(
            [sys.executable, "-m", *command.split()], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
