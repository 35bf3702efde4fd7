"""What is logged once about cookies and the servers around the application, and what is not worth a line."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarletteSessions
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from starsessions import CookieBackend, InMemoryBackend, Session, SessionMiddleware
from starsessions.core.cookies import MAX_HEADER
from starsessions.lifecycle.advice import MOST_LOOKS
from tests.rows import rows
from tests.site import KEY, Browser, Headers, Site

pytestmark = pytest.mark.anyio

FORWARDED: Headers = [(b"host", b"shop.example.com"), (b"x-forwarded-proto", b"https")]


def write(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@rows(
    ("settings", "cure"),
    [
        ({"backend": CookieBackend(KEY, max_cookies=3)}, "docs/guides/production/proxy.md"),
        ({"backend": CookieBackend(KEY, max_cookies=2)}, None),
        ({"partitioned": True}, 'same_site="none"'),
        ({"partitioned": True, "same_site": "strict"}, "remove partitioned=True"),
        ({"partitioned": True, "same_site": "none", "https_only": True}, None),
        ({}, None),
    ],
    ids=str,
)
def test_settings_that_do_not_work_everywhere_are_reported_when_the_application_is_built(
    caplog: pytest.LogCaptureFixture, settings: dict[str, Any], cure: str | None
) -> None:
    caplog.clear()
    if "backend" not in settings:
        settings = settings | {"secret_key": KEY}
    SessionMiddleware(Starlette(), **settings)
    assert [cure in one for one in said(caplog) if cure] == [True] * (cure is not None)
    assert len(said(caplog)) == (cure is not None)


@rows(
    ("settings", "scheme", "headers", "cure"),
    [
        ({}, "http", [(b"host", b"shop.example.com")], None),
        ({}, "http", FORWARDED, "--forwarded-allow-ips"),
        ({"https_only": True}, "http", FORWARDED, "--forwarded-allow-ips"),
        ({}, "http", [(b"forwarded", b'for=1.2.3.4;Proto="https"')], "--forwarded-allow-ips"),
        ({}, "http", [(b"forwarded", b"for=1.2.3.4;proto=http"), (b"x-forwarded-proto", b"http")], None),
        ({}, "https", FORWARDED, None),
        ({"https_only": True}, "http", [(b"host", b"testserver")], "base_url='https://testserver'"),
        ({"session_cookie": "__Host-session"}, "http", [(b"host", b"shop.example.com:80")], "Use https"),
        *(
            ({"https_only": True}, "http", [(b"host", host)], None)
            for host in (b"localhost:8000", b"127.0.0.1:8000", b"[::1]:8000", b"app.localhost", b"")
        ),
        ({"https_only": True}, "https", [(b"host", b"testserver")], None),
        # Behind a proxy that ends https and does not say so: browsers send Sec-Fetch-Site over https only.
        ({"https_only": True}, "http", [(b"host", b"shop.example.com"), (b"sec-fetch-site", b"none")], None),
        ({"domain": "example.com"}, "https", [(b"host", b"shop.example.com")], None),
        ({"domain": ".Example.com"}, "https", [(b"host", b"EXAMPLE.com:443")], None),
        ({"domain": "example.com"}, "https", [(b"host", b"example.org")], "does not cover the host"),
        ({"domain": "example.com"}, "https", [(b"host", b"badexample.com")], "does not cover the host"),
        ({"domain": "shop.example.com"}, "http", [(b"host", b"example.com")], "does not cover the host"),
        ({"domain": "example.com"}, "https", [], None),
    ],
    ids=str,
)
async def test_a_cookie_that_the_browser_will_not_keep_or_protect_is_reported_once(
    site_of: Callable[..., Site],
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    scheme: str,
    headers: Headers,
    cure: str | None,
) -> None:
    caplog.clear()
    site = site_of(**settings)
    for _ in range(3):
        await site.visit(write, scheme=scheme, headers=headers)
    assert len(said(caplog)) == (cure is not None)
    assert all(cure in one for one in said(caplog) if cure)


@rows(("before", "is_looked_at"), [(MOST_LOOKS - 1, True), (MOST_LOOKS, False)])
async def test_only_the_first_responses_are_looked_at(
    site_of: Callable[..., Site], caplog: pytest.LogCaptureFixture, before: int, is_looked_at: bool
) -> None:
    caplog.clear()
    site = site_of(backend=InMemoryBackend())
    for _ in range(before):
        await site.visit(write, Browser(), headers=[(b"host", b"shop.example.com")])
    await site.visit(write, Browser(), headers=FORWARDED)
    assert len(said(caplog)) == is_looked_at


FOREIGN = "eyJuIjogMX0=.ZzzzzA." + "x" * 27


@rows(
    ("make", "cookie", "cure"),
    [
        (CookieBackend, f"session={FOREIGN}", "session_cookie=…"),
        (lambda key: InMemoryBackend(), f"session={FOREIGN}", "session_cookie=…"),
        (lambda key: InMemoryBackend(), "session=" + "A" * 43, None),
        (CookieBackend, "session=x", None),
        (CookieBackend, "session=", None),
        (CookieBackend, f"other={FOREIGN}", None),
        (CookieBackend, "session=" + "x" * (MAX_HEADER - len("session=")), None),
        (CookieBackend, "session=" + "x" * (MAX_HEADER - len("session=") + 1), "Make other cookies smaller"),
        (CookieBackend, "a=" + "x" * MAX_HEADER, "Make other cookies smaller"),
        (CookieBackend, "; ".join(f"session={n}" for n in range(5)), "__Host-"),
    ],
    ids=str,
)
async def test_a_rejected_cookie_is_reported_once_if_someone_has_to_do_something(
    site_of: Callable[..., Site],
    caplog: pytest.LogCaptureFixture,
    make: Callable[[str], Any],
    cookie: str,
    cure: str | None,
) -> None:
    caplog.clear()
    site = site_of(backend=make(KEY))
    for _ in range(3):
        reply = await site.visit(dict, headers=[(b"cookie", cookie.encode())])
        assert reply.result == {}
    assert len(said(caplog)) == (cure is not None)
    assert all(cure in one and FOREIGN not in one for one in said(caplog) if cure)


async def test_an_application_that_deletes_the_cookie_itself_is_not_taken_for_a_second_one(
    site_of: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    site = site_of()
    await site.visit(write)
    site.response = removing("session")
    await site.visit(Session.clear)
    assert said(caplog) == []


def removing(name: str, **attributes: Any) -> Headers:
    response = Response()
    response.delete_cookie(name, **attributes)
    return response.raw_headers


@rows(
    ("settings", "removed", "act", "is_said"),
    [
        ({}, removing("session"), dict, True),
        ({}, removing("session"), write, True),
        ({}, removing("session"), Session.clear, False),
        ({}, removing("another"), dict, False),
        ({}, removing("session", path="/old"), dict, False),
        ({}, removing("session", domain="example.com"), dict, False),
        ({"domain": "example.com"}, removing("session", domain="example.com"), dict, True),
        ({"path": "/Shop"}, removing("session", path="/Shop"), dict, True),
        ({"path": "/Shop"}, removing("session"), dict, False),
        ({}, [(b"set-cookie", b"session=; Max-Age=0; Path=/")], dict, True),
        ({}, [(b"set-cookie", b"session=; max-age=0")], dict, False),
    ],
)
async def test_a_response_that_removes_the_cookie_while_the_session_lives_on_is_reported_once(
    site_of: Callable[..., Site],
    caplog: pytest.LogCaptureFixture,
    settings: dict[str, Any],
    removed: Headers,
    act: Callable[[Session], Any],
    is_said: bool,
) -> None:
    site = site_of(**settings)
    await site.visit(write)
    caplog.clear()
    browser, site.response = Browser(site.browser.cookies), removed
    for _ in range(2):
        await site.visit(act, Browser({**browser.cookies}))
    assert ["End the session with sign_out() or session.delete()" in one for one in said(caplog)] == [True] * is_said


async def test_a_sign_out_that_leaves_a_message_and_removes_the_cookie_is_not_reported(
    site_of: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    async def leave(session: Session) -> None:
        await session.delete()
        session["message"] = "Goodbye"

    site = site_of(backend=InMemoryBackend())
    await site.visit(write)
    site.response = removing("session")
    await site.visit(leave)
    assert said(caplog) == []


async def count(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return Response(str(request.session["n"]))


@pytest.mark.parametrize("name", ["session", "admin"])
def test_a_mounted_application_that_writes_the_same_cookie_is_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """As NiceGUI does, which adds Starlette's middleware to the application that it mounts."""
    mounted = Starlette(
        routes=[Route("/", count)],
        middleware=[Middleware(StarletteSessions, secret_key=KEY[::-1], session_cookie=name)],
    )

    class Reads:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "lifespan" or scope["session"].get("user") is None
            await self.app(scope, receive, send)

    app = Starlette(routes=[Mount("/ui", mounted)], middleware=[Middleware(Reads)])
    app.add_middleware(SessionMiddleware, secret_key=KEY, autoload=True)
    client = TestClient(app)
    for _ in range(3):
        client.get("/ui/")
    reported = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ["NiceGUI" in record.getMessage() for record in reported] == [True] * (name == "session")
