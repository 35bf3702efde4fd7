"""Requests that another site makes a browser send: each attack by its name, and each way to be refused by mistake."""

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Form
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.templating import Jinja2Templates
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from starsessions import ImproperlyConfigured, InMemoryBackend, Session, SessionBackend, SessionMiddleware, users
from starsessions.csrf import CsrfFailed, CsrfMiddleware, WhyRefused, context_processor, csrf_input, csrf_token, verify
from starsessions.session import get_session
from tests.kinds import each_backend, each_server_backend, each_store_backend
from tests.rows import rows
from tests.site import KEY, Browser, Clock, Site, call

BrowserOf = Callable[..., TestClient]
SiteOf = Callable[..., Site]

CROSS_SITE = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"}
OWN = {"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}


@pytest.fixture
def browser_of(anyio_backend: str) -> BrowserOf:
    def make(app: Any, **options: Any) -> TestClient:
        return TestClient(app, backend=anyio_backend, **options)  # type: ignore[arg-type]

    return make


# Where it comes from


async def transfer(request: Request) -> Response:
    request.session["balance"] = request.session.get("balance", 100) - 10
    return JSONResponse(request.session["balance"])


async def balance(request: Request) -> Response:
    return JSONResponse(request.session.get("balance", 100))


async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json(websocket.session.get("balance", 100))
    await websocket.close()


def bank(**settings: Any) -> Starlette:
    methods = ["POST", "PUT", "PATCH", "DELETE", "TRACE", "WHATEVER"]
    return Starlette(
        routes=[
            Route("/", balance, methods=["GET", "OPTIONS"]),
            Route("/transfer", transfer, methods=methods),
            Route("/hooks/{name}", transfer, methods=methods),
            Route("/hooks/", transfer, methods=methods),
            WebSocketRoute("/talk", talk),
        ],
        middleware=[
            Middleware(SessionMiddleware, secret_key=KEY, autoload=True),
            Middleware(CsrfMiddleware, **settings),
        ],
    )


@pytest.mark.guarantee(22)
@rows("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "WHATEVER"])
def test_a_form_on_another_site_transfers_no_money(browser_of: BrowserOf, method: str) -> None:
    """CWE-352; ASVS 5.0, 3.5.1 and 3.5.3. SameSite=None, or a browser without it, sends the cookie along."""
    browser = browser_of(bank())
    assert browser.request(method, "/transfer", headers=OWN).json() == 90
    response = browser.request(method, "/transfer", headers=CROSS_SITE)
    assert response.status_code == 403
    assert "trusted_origins" in response.text
    assert "bypass" in response.text, "the cure for the callback of a payment service"
    assert browser.get("/").json() == 90


@pytest.mark.guarantee(22)
def test_a_form_on_a_foreign_subdomain_transfers_no_money(browser_of: BrowserOf) -> None:
    """`SameSite` cookies are sent from there (RFC 6265bis, 8.8.3)."""
    headers = {"Sec-Fetch-Site": "same-site", "Origin": "https://blog.testserver"}
    assert browser_of(bank()).post("/transfer", headers=headers).status_code == 403


@rows(
    ("origin", "cure"),
    [("null", "allow-same-origin"), ("https://evil.example", "proxy"), ("http://testserver.evil.example", "proxy")],
)
def test_an_older_browser_says_by_its_origin_that_it_comes_from_elsewhere(
    browser_of: BrowserOf, origin: str, cure: str
) -> None:
    """`null`: from a sandboxed frame, a `data:` URL, or after a redirect."""
    response = browser_of(bank()).post("/transfer", headers={"Origin": origin})
    assert response.status_code == 403
    assert cure in response.text


def test_the_refusal_of_a_sandboxed_frame_names_a_cure_that_works(browser_of: BrowserOf) -> None:
    """`trusted_origins=["null"]` is refused at start, so it must not be the cure."""
    response = browser_of(bank()).post("/transfer", headers={"Sec-Fetch-Site": "cross-site", "Origin": "null"})
    assert response.status_code == 403
    assert "allow-same-origin" in response.text
    assert "trusted_origins" not in response.text


@rows("headers", [OWN, {"Sec-Fetch-Site": "none"}, {"Origin": "http://testserver"}, {}])
def test_same_origin_requests_and_non_browser_clients_pass(browser_of: BrowserOf, headers: dict[str, str]) -> None:
    assert browser_of(bank()).post("/transfer", headers=headers).status_code == 200


@rows("method", ["GET", "HEAD", "OPTIONS"])
def test_links_from_other_sites_and_preflights_pass(browser_of: BrowserOf, method: str) -> None:
    assert browser_of(bank()).request(method, "/", headers=CROSS_SITE).status_code == 200


def test_a_trusted_origin_may_send(browser_of: BrowserOf) -> None:
    browser = browser_of(bank(trusted_origins=["https://Admin.example:443/"[:-1]]))
    admin = {"Sec-Fetch-Site": "cross-site", "Origin": "https://admin.example"}
    assert browser.post("/transfer").status_code == 200  # begins a session, which a request from another site does not
    assert browser.post("/transfer", headers=admin).status_code == 200
    assert browser.post("/transfer", headers=CROSS_SITE).status_code == 403
    with browser.websocket_connect("/talk", headers=admin) as connection:
        assert connection.receive_json() == 80


@pytest.mark.anyio
@rows(
    ("path", "status"),
    [
        ("/hooks/payments", 200),
        ("/transfer", 403),
        ("/hooks/", 403),
        ("/hooks", 403),
        ("/hooks/payments/more", 403),
        ("/hooks/../transfer", 403),
        ("/hooks/payments/\n", 403),
        ("/hooks/payments\n/../transfer", 403),
        ("//hooks/payments", 403),
        ("/HOOKS/payments", 403),
        ("hooks/payments", 403),
        ("", 403),
    ],
)
async def test_a_path_in_bypass_takes_anything_and_no_other_path_does(path: str, status: int) -> None:
    scope = {"type": "http", "method": "POST", "path": path, "headers": [(b"sec-fetch-site", b"cross-site")]}
    reply = await call(bank(bypass=["/hooks/{name}"]), scope)
    assert reply.messages[0]["status"] == status


@pytest.mark.anyio
@rows(
    ("root_path", "path", "status"),
    [("", "/hooks/", 200), ("", "/hooks/\n", 403), ("/hooks", "/hooks/hooks/", 200), ("/ho", "/hooks/", 200)],
)
async def test_a_path_in_bypass_is_what_routes_compare(root_path: str, path: str, status: int) -> None:
    headers = [(b"sec-fetch-site", b"cross-site")]
    scope = {"type": "http", "method": "POST", "root_path": root_path, "path": path, "headers": headers}
    reply = await call(bank(bypass=["/hooks/"]), scope)
    assert reply.messages[0]["status"] == status


@pytest.mark.guarantee(22)
def test_a_path_that_only_leads_to_one_in_bypass_is_not_exempt(browser_of: BrowserOf) -> None:
    """CVE-2025-47910: Go exempted what its router would have redirected to such a path, too."""
    browser = browser_of(bank(bypass=["/hooks/"]), follow_redirects=False)
    assert browser.post("/hooks/", headers=CROSS_SITE).status_code == 200
    assert browser.post("/hooks", headers=OWN).status_code == 307
    assert browser.post("/hooks", headers=CROSS_SITE).status_code == 403


@rows(
    ("path", "status"),
    [("/bank/hooks/a", 200), ("/hooks/a", 403), ("/bankhooks/a", 403), ("/bank", 403), ("/bank/bank/hooks/a", 403)],
)
def test_bypass_is_about_the_paths_of_the_application_that_has_the_middleware(
    browser_of: BrowserOf, path: str, status: int
) -> None:
    app = Starlette(routes=[Mount("/bank", bank(bypass=["/hooks/{name}", "/bank"])), Mount("/", bank())])
    assert browser_of(app).post(path, headers=CROSS_SITE).status_code == status


@pytest.mark.guarantee(22)
def test_another_site_cannot_open_a_websocket(browser_of: BrowserOf) -> None:
    """Cross-site WebSocket hijacking, CWE-1385: cookies are sent along, and no browser asks before (RFC 6455, 10.2)."""
    browser = browser_of(bank())
    browser.post("/transfer")
    for headers in (CROSS_SITE, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        with pytest.raises(WebSocketDisconnect) as refusal, browser.websocket_connect("/talk", headers=headers):
            pass
        assert refusal.value.code == 1008
    for headers in (OWN, {"Origin": "http://testserver"}, {}):
        with browser.websocket_connect("/talk", headers=headers) as connection:
            assert connection.receive_json() == 90


def test_lifespan_passes_through_the_csrf_middleware(browser_of: BrowserOf) -> None:
    with browser_of(bank()) as browser:
        assert browser.get("/").status_code == 200


def test_a_rejected_request_is_logged_with_its_origin(browser_of: BrowserOf, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        browser_of(bank()).post("/transfer", headers={**CROSS_SITE, "Cookie": "session=a-secret"})
    [record] = caplog.records
    assert "(POST, Sec-Fetch-Site 'cross-site'" in record.getMessage()
    assert "trusted_origins" in record.getMessage()
    assert "https://evil.example" in record.getMessage()
    assert "a-secret" not in record.getMessage()


def test_a_line_break_in_an_origin_makes_no_line_in_the_log(
    browser_of: BrowserOf, caplog: pytest.LogCaptureFixture
) -> None:
    """CWE-117. Servers refuse such headers; a test client does not."""
    browser_of(bank()).post("/transfer", headers={"Origin": b"https://evil.example\x0b\x85forged " + b"x" * 5000})
    [record] = caplog.records
    assert len(record.getMessage().splitlines()) == 1
    assert len(record.getMessage()) < 1000


async def refuse_later(request: Request, error: CsrfFailed) -> Response:
    return refuse_now(request, error)


def refuse_now(request: Request, error: CsrfFailed) -> Response:
    return JSONResponse({"error": error.why, "path": request.url.path}, error.status_code)


def refuse_a_person(request: Request, error: CsrfFailed) -> Response:
    return JSONResponse({"error": error.why, "path": request.session.get("path", "/transfer")}, error.status_code)


@rows("refuse", [refuse_now, refuse_later, refuse_a_person])
def test_the_application_can_handle_rejected_requests(browser_of: BrowserOf, refuse: Any) -> None:
    browser = browser_of(bank(refuse=refuse))
    response = browser.post("/transfer", headers=CROSS_SITE)
    assert (response.status_code, response.json()) == (403, {"error": "cross-site", "path": "/transfer"})
    with pytest.raises(WebSocketDisconnect), browser.websocket_connect("/talk", headers=CROSS_SITE):
        pass


@rows(
    "settings",
    [
        {"trusted_origins": "https://admin.example"},
        {"trusted_origins": ["*"]},
        {"trusted_origins": ["null"]},
        {"trusted_origins": ["admin.example"]},
        {"trusted_origins": ["https://*.example.com"]},
        {"trusted_origins": [b"https://admin.example"]},
        {"trusted_origins": None},
        {"bypass": "/hooks"},
        {"bypass": ["hooks"]},
        {"refuse": "no"},
    ],
)
def test_an_invalid_setting_fails_at_startup(settings: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured):
        CsrfMiddleware(bank(), **settings)


def test_a_refusal_that_could_not_use_the_session_fails_at_startup() -> None:
    """The stack is built from the inside out, so the outer middleware sees the inner one."""
    session, check = Middleware(SessionMiddleware, secret_key=KEY), Middleware(CsrfMiddleware, refuse=refuse_now)
    with pytest.raises(ImproperlyConfigured, match="before add_middleware"):
        Starlette(middleware=[check, session]).build_middleware_stack()
    Starlette(middleware=[session, check]).build_middleware_stack()
    Starlette(middleware=[Middleware(CsrfMiddleware), session]).build_middleware_stack()


# What it knows: a token


async def form(request: Request) -> Response:
    return PlainTextResponse(csrf_token(request))


async def post(request: Request) -> Response:
    await verify(request)
    async with request.form() as fields:
        request.session["said"] = fields.get("said", "")
    return PlainTextResponse(request.session["said"])


async def plain(request: Request) -> Response:
    request.session.get("user")
    return PlainTextResponse("no form here")


async def sign_in_a_user(request: Request) -> Response:
    await users.sign_in(request, "ann")
    return Response()


async def sign_in(request: Request) -> Response:
    session = get_session(request)
    await session.regenerate_id()
    session["user"] = "ann"
    return Response()


async def sign_out(request: Request) -> Response:
    await get_session(request).delete()
    return Response()


def shop(backend: SessionBackend, **settings: Any) -> Starlette:
    return Starlette(
        routes=[
            Route("/form", form),
            Route("/post", post, methods=["POST", "PUT"]),
            Route("/plain", plain),
            Route("/sign-in", sign_in, methods=["POST"]),
            Route("/sign-in-a-user", sign_in_a_user, methods=["POST"]),
            Route("/sign-out", sign_out, methods=["POST"]),
        ],
        middleware=[Middleware(SessionMiddleware, backend=backend, autoload=True, **settings)],
    )


def why(response: Any) -> str:
    assert response.status_code == 403, response.text
    return "no token" if "no CSRF token" in response.text else "stale token"


@each_backend
def test_a_form_with_its_token_arrives(browser_of: BrowserOf, backend: SessionBackend) -> None:
    browser = browser_of(shop(backend))
    token = browser.get("/form").text
    assert browser.post("/post", data={"csrf_token": token, "said": "hello"}).text == "hello"
    files = {"file": ("a.txt", b"content")}
    assert browser.post("/post", data={"csrf_token": token, "said": "hello"}, files=files).text == "hello"
    assert browser.put("/post", headers={"X-CSRF-Token": token}, json={}).status_code == 200


@pytest.mark.requirement("NIST 5.1")
@pytest.mark.guarantee(22)
@each_backend
def test_a_form_without_a_token_gets_an_error_with_the_cure(browser_of: BrowserOf, backend: SessionBackend) -> None:
    """NIST SP 800-63B-4, 5.1: each POST carries something that the session is checked by."""
    browser = browser_of(shop(backend))
    browser.get("/form")
    for sent in ({}, {"data": {"csrf_token": ""}}, {"json": {"csrf_token": "x"}}, {"headers": {"X-CSRF-Token": ""}}):
        response = browser.post("/post", **sent)
        assert why(response) == "no token"
        assert "csrf_input()" in response.text


@pytest.mark.guarantee(22)
@each_backend
def test_a_token_in_the_address_does_not_count(browser_of: BrowserOf, backend: SessionBackend) -> None:
    """Addresses stand in logs and in `Referer` (ASVS 14.2.1)."""
    browser = browser_of(shop(backend))
    token = browser.get("/form").text
    assert why(browser.post(f"/post?csrf_token={token}&X-CSRF-Token={token}")) == "no token"


async def a_body_that_must_not_be_read() -> Message:
    raise AssertionError("the body was read")


def from_a_stranger(content_type: str) -> Request:
    headers = [(b"content-type", content_type.encode())]
    scope = {"type": "http", "method": "POST", "headers": headers, "session": Session(InMemoryBackend())}
    return Request(scope, a_body_that_must_not_be_read)


@pytest.mark.anyio
@rows(
    ("content_type", "why"),
    [
        ("application/x-www-form-urlencoded", WhyRefused.STALE_TOKEN),
        ("Multipart/Form-Data; boundary=x", WhyRefused.STALE_TOKEN),
        ("application/json", WhyRefused.NO_TOKEN),
        ("text/plain", WhyRefused.NO_TOKEN),
        ("", WhyRefused.NO_TOKEN),
    ],
)
async def test_the_body_of_a_stranger_is_not_read(content_type: str, why: WhyRefused) -> None:
    with pytest.raises(CsrfFailed) as failed:
        await verify(from_a_stranger(content_type))
    assert failed.value.why is why
    assert "csrf_input()" in failed.value.detail


def test_without_python_multipart_a_header_is_enough_and_a_form_is_refused() -> None:
    """Starlette asserts in `request.form()` then, and that would be a 500 for any stranger."""
    code = """
import sys
sys.modules["python_multipart"] = sys.modules["multipart"] = None
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starsessions import SessionMiddleware
from starsessions.csrf import csrf_token, verify

async def page(request):
    return PlainTextResponse(csrf_token(request))

async def post(request):
    await verify(request)
    return PlainTextResponse("done")

app = Starlette(
    routes=[Route("/", page), Route("/", post, methods=["POST"])],
    middleware=[Middleware(SessionMiddleware, secret_key="0123456789" * 4, autoload=True)],
)
browser = TestClient(app)
answers = [browser.post("/"), browser.post("/", json={}), browser.post("/", data={"csrf_token": "x"})]
token = browser.get("/").text
answers += [browser.post("/", data={"csrf_token": token}) for _ in range(2)]
answers += [browser.post("/", json={}, headers={"X-CSRF-Token": token})]
print([answer.status_code for answer in answers])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[403, 403, 403, 403, 403, 200]"
    assert ran.stderr.count("pip install python-multipart") == 1


@pytest.mark.anyio
async def test_that_python_multipart_is_missing_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    request = from_a_stranger("multipart/form-data")
    for name in ("python_multipart", "multipart"):
        monkeypatch.setitem(sys.modules, name, None)
    for _ in range(2):
        with pytest.raises(CsrfFailed):
            await verify(request)
    [record] = caplog.records
    assert "X-CSRF-Token" in record.getMessage()


@each_backend
def test_a_form_of_plain_text_smuggles_no_token(browser_of: BrowserOf, backend: SessionBackend) -> None:
    """`enctype=text/plain` is how another site sends JSON without a preflight."""
    browser = browser_of(shop(backend))
    token = browser.get("/form").text
    body = f"csrf_token={token}"
    assert why(browser.post("/post", content=body, headers={"Content-Type": "text/plain"})) == "no token"


@each_backend
def test_an_uploaded_file_is_no_csrf_token(browser_of: BrowserOf, backend: SessionBackend) -> None:
    browser = browser_of(shop(backend))
    token = browser.get("/form").text
    assert why(browser.post("/post", files={"csrf_token": ("a.txt", token.encode())})) == "no token"


@pytest.mark.requirement("NIST 5.1")
@pytest.mark.guarantee(22)
@each_backend
def test_the_token_of_another_session_is_invalid(browser_of: BrowserOf, backend: SessionBackend) -> None:
    """Login CSRF, and what breaks a double submit cookie: the attacker has a session, and a token of it."""
    app = shop(backend)
    attacker, victim = browser_of(app), browser_of(app)
    token = attacker.get("/form").text
    assert why(victim.post("/post", data={"csrf_token": token})) == "stale token"
    victim.get("/form")
    assert why(victim.post("/post", data={"csrf_token": token})) == "stale token"
    assert attacker.post("/post", data={"csrf_token": token}).status_code == 200


@pytest.mark.requirement("NIST 5.1")
@pytest.mark.guarantee(22)
@each_backend
@rows("way", ["/sign-in", "/sign-in-a-user"])
def test_a_token_issued_before_sign_in_is_invalid_afterwards(
    browser_of: BrowserOf, backend: SessionBackend, way: str
) -> None:
    """Session fixation (CWE-384, RFC 6265bis 8.6): the attacker has planted a session, and knows a token of it."""
    app = shop(backend)
    attacker, victim = browser_of(app), browser_of(app)
    known = attacker.get("/form").text
    victim.cookies.set("session", attacker.cookies["session"], domain="testserver.local", path="/")
    assert victim.post("/post", data={"csrf_token": known}).status_code == 200
    victim.post(way)
    response = victim.post("/post", data={"csrf_token": known})
    assert why(response) == "stale token"
    assert ("You are signed in already" in response.text) is (way == "/sign-in-a-user")
    assert "eload the page" in response.text
    assert victim.post("/post", data={"csrf_token": victim.get("/form").text}).status_code == 200


@pytest.mark.guarantee(22)
@pytest.mark.guarantee(22)
@each_backend
@rows("sent", [{}, {"csrf_token": "of the visitor"}])
def test_a_form_that_is_out_of_date_tells_a_signed_in_person_so(
    browser_of: BrowserOf, backend: SessionBackend, sent: dict[str, str]
) -> None:
    """The login form is sent twice: the second one has the token of the visitor."""
    app = shop(backend)
    app.add_exception_handler(CsrfFailed, say_whether_signed_in)  # type: ignore[arg-type]
    browser = browser_of(app)
    browser.get("/form")
    assert browser.post("/post", data=sent).json() is False
    browser.post("/sign-in-a-user")
    assert browser.post("/post", data=sent).json() is True
    browser.post("/sign-out")
    assert browser.post("/post", data=sent).json() is False


async def say_whether_signed_in(request: Request, error: CsrfFailed) -> Response:
    return JSONResponse(error.signed_in)


@each_backend
def test_a_form_opened_before_sign_out_gets_a_clear_error(browser_of: BrowserOf, backend: SessionBackend) -> None:
    browser = browser_of(shop(backend))
    token = browser.get("/form").text
    browser.post("/sign-out")
    assert why(browser.post("/post", data={"csrf_token": token})) == "stale token"


@each_backend
def test_a_session_that_has_nothing_but_tokens_lives_through_a_new_id(
    browser_of: BrowserOf, backend: SessionBackend
) -> None:
    """If the secret were only removed, the session would be empty then, and end."""
    app = shop(backend)

    async def rotate(request: Request) -> Response:
        await get_session(request).regenerate_id()
        return Response()

    app.add_route("/rotate", rotate, methods=["POST"])
    browser = browser_of(app)
    old = browser.get("/form").text
    before = browser.cookies["session"]
    browser.post("/rotate")
    assert browser.cookies["session"] != before
    assert why(browser.post("/post", data={"csrf_token": old})) == "stale token"


def test_a_session_without_tokens_is_given_no_secret_by_a_new_id(browser_of: BrowserOf) -> None:
    backend = InMemoryBackend()
    browser = browser_of(shop(backend))
    browser.post("/sign-in")
    browser.post("/sign-in")
    assert list(backend.data.values()) == [{"user": "ann"}]


@pytest.mark.guarantee(22)
@each_backend
def test_each_page_has_a_token_of_its_own_and_all_of_them_are_good(
    browser_of: BrowserOf, backend: SessionBackend
) -> None:
    """BREACH: a secret that is the same in each compressed answer can be guessed from many lengths."""
    browser = browser_of(shop(backend))
    tokens = [browser.get("/form").text for _ in range(5)]
    assert len(set(tokens)) == 5
    assert len({token[:8] for token in tokens}) == 5
    assert len({token[-8:] for token in tokens}) == 5
    for token in tokens:
        assert browser.post("/post", data={"csrf_token": token}).status_code == 200


@pytest.mark.guarantee(22)
def test_only_a_page_that_shows_a_token_makes_a_session(browser_of: BrowserOf) -> None:
    backend = InMemoryBackend()
    browser = browser_of(shop(backend))
    browser.get("/plain")
    browser.post("/post")
    browser.post("/post", data={"csrf_token": "A" * 64})
    assert (len(backend), dict(browser.cookies)) == (0, {})
    browser.get("/form")
    assert len(backend) == 1
    assert browser.get("/form").headers.get("set-cookie") is None


@each_backend
def test_a_page_with_a_token_is_kept_in_no_shared_cache(browser_of: BrowserOf, backend: SessionBackend) -> None:
    browser = browser_of(shop(backend))
    first, second = browser.get("/form"), browser.get("/form")
    assert first.headers["cache-control"] == "no-store"
    assert "Cookie" in second.headers["vary"]


def test_the_secret_is_in_no_page(browser_of: BrowserOf) -> None:
    backend = InMemoryBackend()
    browser = browser_of(shop(backend))
    page = browser.get("/form").text
    [[secret]] = [data.values() for data in backend.data.values()]
    assert secret not in page
    assert page[22:] not in secret


@pytest.mark.guarantee(22)
@pytest.mark.anyio
@each_server_backend
async def test_two_tabs_whose_first_pages_are_made_at_once_both_have_good_tokens(
    site_of: SiteOf, server_backend: SessionBackend
) -> None:
    """One secret under one key would be that of the later page: the form of the other one would be stale at once."""
    site, elsewhere = site_of(backend=server_backend), site_of(backend=server_backend)
    await site.visit(lambda session: session.update(user="ann"))

    def token(session: Session) -> str:
        return csrf_token(HTTPConnection({"type": "http", "session": session}))

    async def first(session: Session) -> tuple[str, str]:
        await session.load()
        other = await elsewhere.visit(token, Browser(dict(site.browser.cookies)))
        return token(session), other.result

    reply = await site.visit(first)
    for one in reply.result:
        await site.visit(lambda session, one=one: verify(posted(session, one)))


def posted(session: Session, token: str) -> Request:
    headers = [(b"x-csrf-token", token.encode())]
    return Request({"type": "http", "method": "POST", "headers": headers, "session": session})


@pytest.mark.guarantee(22)
@pytest.mark.anyio
@each_store_backend
async def test_an_id_that_changes_with_a_grace_leaves_open_forms_alone(
    site_of: SiteOf, store_backend: SessionBackend, clock: Clock
) -> None:
    """No rights have changed; laravel/framework#9531 shows what happens otherwise."""
    site = site_of(backend=store_backend, rotate_every=61)

    def token(session: Session) -> str:
        return csrf_token(HTTPConnection({"type": "http", "session": session}))

    open_form = (await site.visit(token)).result
    id_before = site.browser.cookies["session"]
    clock.advance(61)
    await site.visit(lambda session: session.get("user"))
    assert site.browser.cookies["session"] != id_before
    await site.visit(lambda session: verify(posted(session, open_form)))
    await site.visit(lambda session: session.regenerate_id(grace=30))
    await site.visit(lambda session: verify(posted(session, open_form)))
    await site.visit(lambda session: session.regenerate_id())
    with pytest.raises(CsrfFailed) as failed:
        await site.visit(lambda session: verify(posted(session, open_form)))
    assert failed.value.why is WhyRefused.STALE_TOKEN


@pytest.mark.anyio
@each_backend
async def test_verify_loads_the_session(site_of: SiteOf, backend: SessionBackend) -> None:
    site = site_of(backend=backend, autoload=False)

    async def token(session: Session) -> str:
        await session.load()
        return csrf_token(HTTPConnection({"type": "http", "session": session}))

    open_form = (await site.visit(token)).result
    await site.visit(lambda session: verify(posted(session, open_form)))


@pytest.mark.anyio
async def test_a_token_leaves_a_signed_cookie_in_starlettes_form(site_of: SiteOf) -> None:
    site = site_of()
    await site.visit(lambda session: csrf_token(HTTPConnection({"type": "http", "session": session})))
    assert not site.browser.cookies["session"].startswith("s1.")


@pytest.mark.anyio
async def test_without_the_middleware_the_error_names_the_cure() -> None:
    scope = {"type": "http", "method": "POST", "headers": [], "session": {}}
    with pytest.raises(ImproperlyConfigured, match="SessionMiddleware"):
        csrf_token(Request(scope))
    with pytest.raises(ImproperlyConfigured, match="SessionMiddleware"):
        await verify(Request(scope))


@pytest.mark.anyio
async def test_a_request_without_a_body_to_read_is_asked_for_the_header() -> None:
    scope = {"type": "http", "method": "POST", "headers": [], "session": Session(InMemoryBackend())}
    with pytest.raises(CsrfFailed):
        await verify(HTTPConnection(scope))


# In templates


def test_templates_have_a_field_and_a_token(browser_of: BrowserOf, backend: SessionBackend, tmp_path: Path) -> None:
    (tmp_path / "form.html").write_text('<meta name=t content="{{ csrf_token() }}"><form>{{ csrf_input() }}</form>')
    (tmp_path / "plain.html").write_text("Hello")
    html = Jinja2Templates(tmp_path, context_processors=[context_processor])

    async def page(request: Request) -> Response:
        return html.TemplateResponse(request, request.path_params["name"] + ".html")

    app = shop(backend)
    app.add_route("/page/{name}", page)
    browser = browser_of(app)
    assert browser.get("/page/plain").text == "Hello"
    assert dict(browser.cookies) == {}
    shown = browser.get("/page/form").text
    tokens = re.findall(r'(?:content|value)="([^"]+)"', shown)
    assert len(set(tokens)) == 2
    assert f'<form><input type="hidden" name="csrf_token" value="{tokens[1]}"></form>' in shown
    for token in tokens:
        assert browser.post("/post", data={"csrf_token": token}).status_code == 200


# In FastAPI


def fast(backend: SessionBackend, *middleware: Middleware) -> FastAPI:
    app = FastAPI(
        dependencies=[Depends(verify)],
        middleware=[*middleware, Middleware(SessionMiddleware, backend=backend, autoload=True)],
    )

    @app.get("/form")
    def show(request: Request) -> str:
        return csrf_input(request)

    @app.post("/post")
    def said(said: Annotated[str, Form()]) -> str:
        return said

    @app.post("/json")
    async def told(said: dict[str, str]) -> dict[str, str]:
        return said

    @app.websocket("/talk")
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    return app


@each_backend
def test_as_a_dependency_of_a_whole_application(browser_of: BrowserOf, backend: SessionBackend) -> None:
    browser = browser_of(fast(backend))
    token = browser.get("/form").json().split('"')[5]
    assert browser.post("/post", data={"said": "hello", "csrf_token": token}).json() == "hello"
    assert browser.post("/json", json={"a": "b"}, headers={"X-CSRF-Token": token}).json() == {"a": "b"}
    refused = browser.post("/post", data={"said": "hello"})
    assert refused.status_code == 403
    assert "csrf_input()" in refused.json()["detail"]
    assert browser.post("/json", json={"csrf_token": token}).status_code == 403


@each_backend
def test_the_application_can_answer_a_stale_form(browser_of: BrowserOf, backend: SessionBackend) -> None:
    app = fast(backend)
    app.add_exception_handler(CsrfFailed, refuse_now)  # type: ignore[arg-type]
    response = browser_of(app).post("/post", data={"said": "hello", "csrf_token": "old"})
    assert response.json() == {"error": "stale token", "path": "/post"}


@each_backend
def test_the_dependency_lets_no_other_site_open_a_websocket(browser_of: BrowserOf, backend: SessionBackend) -> None:
    """CWE-1385, where there is no CsrfMiddleware."""
    browser = browser_of(fast(backend))
    with browser.websocket_connect("/talk", headers=OWN) as connection, pytest.raises(WebSocketDisconnect):
        connection.receive_json()
    with pytest.raises(WebSocketDenialResponse), browser.websocket_connect("/talk", headers=CROSS_SITE):
        pass


@each_backend
def test_bypass_does_not_speak_for_the_dependency(browser_of: BrowserOf, backend: SessionBackend) -> None:
    """`bypass` is about what the middleware checks: where this WebSocket comes from has not been checked."""
    browser = browser_of(fast(backend, Middleware(CsrfMiddleware, bypass=["/talk"])))
    with pytest.raises(WebSocketDenialResponse), browser.websocket_connect("/talk", headers=CROSS_SITE):
        pass
    with browser.websocket_connect("/talk", headers=OWN) as connection, pytest.raises(WebSocketDisconnect):
        connection.receive_json()


@each_backend
def test_the_dependency_uses_the_trusted_origins_of_the_middleware(
    browser_of: BrowserOf, backend: SessionBackend
) -> None:
    browser = browser_of(fast(backend, Middleware(CsrfMiddleware, trusted_origins=["https://admin.example"])))
    admin = {"Origin": "https://admin.example"}
    with browser.websocket_connect("/talk", headers=admin) as connection, pytest.raises(WebSocketDisconnect):
        connection.receive_json()
    with pytest.raises(WebSocketDisconnect), browser.websocket_connect("/talk", headers=CROSS_SITE):
        pass
