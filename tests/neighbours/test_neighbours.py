"""Libraries that use `request.session` do with this middleware what they do with Starlette's.

Each is its published package, served by uvicorn in a process of its own, and the client is on a socket.
"""

import json
import re
from hashlib import sha256
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from websockets.sync.client import connect

from starsessions.core.encoding import to_base64url
from tests.neighbours.pages import AS_IT_IS, WITH_THIS_LINE, neighbour
from tests.neighbours.process import MIDDLEWARES, Application, served

with_both = pytest.mark.parametrize("middleware", MIDDLEWARES)


def cookie(browser: httpx2.Client, name: str = "session") -> str:
    [value] = [each.value for each in browser.cookies.jar if each.name == name]
    assert value
    return value


@neighbour("Authlib", AS_IT_IS, "authlib_client")
@with_both
def test_authlib_stores_its_state_and_the_application_its_userinfo(middleware: str) -> None:
    with served("authlib_client", middleware) as app, app.browser() as browser:
        assert browser.get("/login").json() == {"keys": ["user"], "name": "Ann"}
        assert browser.get("/").json()["name"] == "Ann"
        assert browser.get("/logout").json() == {"keys": [], "name": None}
        assert list(browser.cookies.jar) == []


@neighbour("fastapi-users", AS_IT_IS, "fastapi_users_login")
@with_both
def test_fastapi_users_signs_in_beside_the_session(middleware: str) -> None:
    with served("fastapi_users_login", middleware) as app, app.browser() as browser:
        browser.post("/add")
        person = {"email": "ann@example.com", "password": "correct horse"}
        assert browser.post("/register", json=person).status_code == 201
        form = {"username": person["email"], "password": person["password"]}
        assert browser.post("/login", data=form).status_code == 204
        session = {"cart": ["tea"], "last_login_of": person["email"]}
        assert browser.get("/").json() == {"user": person["email"], **session}
        browser.post("/logout")
        assert browser.get("/").json() == {"user": None, **session}


@neighbour("sqladmin", WITH_THIS_LINE, "sqladmin_login")
@with_both
def test_sqladmin_signs_in_by_the_session_of_the_application(middleware: str) -> None:
    with served("sqladmin_login", middleware) as app, app.browser() as browser:
        browser.get("/")
        assert browser.get("/admin/").url.path == "/admin/login"
        assert browser.post("/admin/login", data={"username": "ann", "password": "x"}).url.path == "/admin/"
        assert browser.get("/").json() == {"visits": 2, "admin": "ann"}
        assert browser.get("/admin/logout").url.path == "/admin/login"
        assert browser.get("/").json() == {"visits": 3}


@neighbour("starlette-admin", AS_IT_IS, "starlette_admin_login")
@with_both
def test_starlette_admin_signs_in_and_out(middleware: str) -> None:
    with served("starlette_admin_login", middleware) as app, app.browser() as browser:
        assert browser.get("/admin/").url.path == "/admin/login"

        def post(path: str, **form: str) -> httpx2.Response:
            return browser.post(path, data={**form, "csrftoken": cookie(browser, "starlette_admin_csrftoken")})

        assert post("/admin/login", username="ann", password="wrong").status_code == 400
        assert post("/admin/login", username="ann", password="right").url.path == "/admin/"
        assert browser.get("/").json() == {"admin": "ann"}
        assert post("/admin/logout").url.path == "/admin/login"
        assert browser.get("/").json() == {}


@neighbour("starlette-flash", AS_IT_IS, "starlette_flash_messages")
@with_both
def test_starlette_flash_shows_a_message_once(middleware: str) -> None:
    with served("starlette_flash_messages", middleware) as app, app.browser() as browser:
        assert browser.post("/say").json() == [{"category": "success", "message": "Saved"}]
        assert browser.get("/").json() == []


@neighbour("FastHTML", WITH_THIS_LINE, "fasthtml_pages")
@with_both
def test_fasthtml_takes_the_middleware_as_sess_cls(middleware: str) -> None:
    with served("fasthtml_pages", middleware) as app, app.browser() as browser:
        assert browser.get("/").json() == {"pages": ["home"]}
        assert browser.post("/login?name=ann").json()["auth"] == "ann"
        assert "auth" not in browser.post("/logout").json()
        assert cookie(browser, "session_")


@neighbour("sse-starlette", WITH_THIS_LINE, "sse_stream")
@with_both
def test_an_event_stream_reads_the_session_and_changes_it_late_with_persist(middleware: str) -> None:
    with served("sse_stream", middleware) as app, app.browser() as browser:
        assert "data: 1" in browser.get("/stream?persist=1").text
        assert "data: end" in browser.get("/stream?persist=1").text
        late = {"late": True} if middleware == "starsessions" else {}
        if middleware == "starsessions":
            assert "the session was changed" not in app.log.read_text()
        assert browser.get("/").json() == {"streams": 2, **late}


@with_both
@pytest.mark.wide
def test_a_late_change_of_an_event_stream_is_never_lost_in_silence(middleware: str) -> None:
    with served("sse_stream", middleware) as app, app.browser() as browser:
        try:
            browser.get("/stream")
        except httpx2.RemoteProtocolError:  # the stream ends before its end
            assert middleware == "starsessions"
        assert browser.get("/").json() == {"streams": 1}
        assert ("await session.persist()" in app.log.read_text()) == (middleware == "starsessions")


@neighbour("Strawberry", WITH_THIS_LINE, "strawberry_graphql")
@with_both
def test_strawberry_has_the_session_in_queries_mutations_and_subscriptions(middleware: str) -> None:
    with served("strawberry_graphql", middleware) as app, app.browser() as browser:

        def ask(query: str) -> list[str]:
            [answer] = browser.post("/graphql", json={"query": query}).json()["data"].values()
            return list(answer)

        assert ask('mutation { add(item: "tea") }') == ["tea"]
        assert ask('mutation { add(item: "milk") }') == ["tea", "milk"]
        assert ask("{ cart }") == ["tea", "milk"]

        cookies = {"Cookie": f"session={cookie(browser)}"}
        address = f"ws://127.0.0.1:{app.port}/graphql"
        with connect(address, subprotocols=["graphql-transport-ws"], additional_headers=cookies) as socket:
            socket.send('{"type": "connection_init"}')
            assert json.loads(socket.recv())["type"] == "connection_ack"
            put = {"query": 'subscription { put(item: "salt") }'}
            socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": put}))
            assert json.loads(socket.recv())["payload"]["data"] == {"put": ["tea", "milk", "salt"]}


@neighbour("fastapi-cache2", WITH_THIS_LINE, "fastapi_cache_pages")
@with_both
def test_a_cache_by_url_gives_each_user_the_page_of_the_first(middleware: str) -> None:
    with served("fastapi_cache_pages", middleware) as app, app.browser() as ann, app.browser() as bob:
        ann.post("/login/ann")
        bob.post("/login/bob")
        assert ann.get("/by-url").json() == "ann"
        assert bob.get("/by-url").json() == "ann"  # what the guide warns of: a cache by URL knows no users
        assert [each.get("/by-user").json() for each in (ann, bob, ann)] == ["ann", "bob", "ann"]


@neighbour("OpenTelemetry", AS_IT_IS, "opentelemetry_spans")
@with_both
def test_spans_hold_neither_the_cookie_nor_the_session(middleware: str) -> None:
    assert seen_by("opentelemetry_spans", middleware, "/spans") == {}


@pytest.mark.wide
@with_both
def test_spans_hold_the_cookie_if_all_headers_are_captured_unless_it_is_sanitized(middleware: str) -> None:
    all_headers = {
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST": ".*",
        "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_RESPONSE": ".*",
    }
    sanitized = {"OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS": "cookie,set-cookie"}
    assert seen_by("opentelemetry_spans", middleware, "/spans", **all_headers) == {page: ["cookie"] for page in PAGES}
    assert seen_by("opentelemetry_spans", middleware, "/spans", **all_headers, **sanitized) == {}


@neighbour("Sentry", WITH_THIS_LINE, "sentry_reports")
@with_both
def test_reports_without_local_variables_hold_neither_the_cookie_nor_the_session(middleware: str) -> None:
    assert seen_by("sentry_reports", middleware, "/reports") == {}


PAGES = ["/", "/fails", "/refused"]


def seen_by(name: str, middleware: str, reports: str, **variables: str) -> dict[str, list[str]]:
    """By page: what the reports of its requests hold of the session."""
    seen = {}
    for path in PAGES:
        with served(name, middleware, **variables) as app, app.browser() as browser:
            browser.post("/login")
            browser.get(path)
            secrets = {"cookie": cookie(browser), "data": "a-name-in-the-session"}
            text = browser.get(reports).text
            assert path in text
            if found := [kind for kind, value in secrets.items() if value in text]:
                seen[path] = found
    return seen


@neighbour("NiceGUI", WITH_THIS_LINE, "nicegui_host", "nicegui")
@with_both
def test_nicegui_pages_share_the_session_of_the_host(middleware: str) -> None:
    with served("nicegui_host", middleware, "nicegui") as app, app.browser() as browser:
        assert browser.get("/count").json() == 1
        assert page_of_nicegui(browser) == "count=1; visits=1"
        assert browser.get("/count").json() == 2
        assert page_of_nicegui(browser) == "count=2; visits=2"
        assert browser.get("/seen").json() == 2


@pytest.mark.wide
def test_nicegui_with_a_cookie_of_its_own_leaves_the_host_its_session() -> None:
    with served("nicegui_host", "starsessions", "nicegui", HOW="apart") as app, app.browser() as browser:
        assert browser.get("/count").json() == 1
        assert page_of_nicegui(browser) == "count=None; visits=1"
        assert browser.get("/count").json() == 2
        assert page_of_nicegui(browser) == "count=None; visits=2"


@pytest.mark.wide
def test_nicegui_that_overwrites_the_cookie_is_reported() -> None:
    with served("nicegui_host", "starsessions", "nicegui", HOW="overwritten") as app, app.browser() as browser:
        browser.get("/count")
        page_of_nicegui(browser)
        browser.get("/count")
        assert "Something else also sets the cookie" in app.log.read_text()


def page_of_nicegui(browser: httpx2.Client) -> str:
    [label] = re.findall(r"count=\w+; visits=\d+", browser.get("/gui/").text)
    return str(label)


@neighbour("Gradio", AS_IT_IS, "gradio_login", "gradio")
@with_both
def test_gradio_lets_in_who_has_signed_in(middleware: str) -> None:
    with (
        served("gradio_login", middleware, "gradio", GRADIO_ANALYTICS_ENABLED="False") as app,
        app.browser() as browser,
    ):
        assert browser.get("/gui/config").status_code == 401
        browser.post("/login/ann")
        assert browser.get("/gui/config").status_code == 200
        browser.post("/logout")
        assert browser.get("/gui/config").status_code == 401


@neighbour("FastMCP", WITH_THIS_LINE, "fastmcp_consent", "fastmcp")
@with_both
def test_a_consent_page_of_fastmcp_belongs_to_one_browser(middleware: str) -> None:
    with served("fastmcp_consent", middleware, "fastmcp") as app, app.browser() as browser, app.browser() as thief:
        back, verifier = "http://127.0.0.1:9/back", "v" * 43
        registration = {"redirect_uris": [back], "token_endpoint_auth_method": "none"}
        client = browser.post("/register", json=registration).json()["client_id"]
        asked = {
            "response_type": "code",
            "client_id": client,
            "redirect_uri": back,
            "code_challenge": to_base64url(sha256(verifier.encode()).digest()),
            "code_challenge_method": "S256",
            "state": "state",
        }
        page = browser.get("/authorize", params=asked)
        assert page.json() == "Do you agree?"
        form = {"asked": parse_qs(page.url.query.decode())["asked"][0]}
        thief.post("/consent", data=form)
        assert thief.post("/consent", data=form).status_code == 403
        granted = browser.post("/consent", data=form, follow_redirects=False).headers["location"]
        code = {"grant_type": "authorization_code", "code": parse_qs(urlsplit(granted).query)["code"][0]}
        code |= {"client_id": client, "redirect_uri": back, "code_verifier": verifier}
        token = browser.post("/token", data=code).json()["access_token"]
        assert [counted(app, browser, token) for _ in range(2)] == [1, 2]


def counted(app: Application, browser: httpx2.Client, token: str) -> int:
    """A call of the tool, by a client that keeps its cookies."""
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "count", "arguments": {}}}
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json, text/event-stream"}
    answer = browser.post("/mcp", json=call, headers=headers)
    assert answer.status_code == 200, f"{answer.text}\n{app.log.read_text()}"
    return int(answer.json()["result"]["content"][0]["text"])
