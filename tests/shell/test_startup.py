"""A setting that cannot work stops the server, and a test client raises it; by hand, the constructor raises it."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from traceback import extract_tb
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as OfStarlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from starsessions import ImproperlyConfigured, SessionMiddleware
from starsessions.csrf import CsrfMiddleware
from starsessions.testing import session_of
from tests.rows import rows
from tests.site import KEY

pytestmark = pytest.mark.anyio

WRONG: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "a value": (SessionMiddleware, {"secret_key": KEY, "same_site": "Lax"}, "same_site"),
    "a keyword of 2.x": (SessionMiddleware, {"store": "redis://localhost"}, "'store': use backend"),
    "nothing": (SessionMiddleware, {}, "needs secret_key=… or backend=…"),
    "a type": (SessionMiddleware, {"backend": object()}, "backend"),
    "CSRF": (CsrfMiddleware, {"trusted_origins": ["https://a.test/"]}, "no browser sends the origin"),
    "a keyword of CSRF": (CsrfMiddleware, {"origins": []}, "origins"),
}
APPLICATION = """
from fastapi import FastAPI
from starsessions import SessionMiddleware
from starsessions.csrf import CsrfMiddleware

app = FastAPI()
app.add_middleware({}, **{!r})
"""
SERVERS = {
    "uvicorn": ["--port", "0"],
    "hypercorn": ["--bind", "127.0.0.1:0"],
    "granian": ["--interface", "asgi", "--port", "0"],
}


@pytest.mark.once
@rows("server", [server for server in SERVERS if find_spec(server)])
@rows("wrong", ["a keyword of 2.x", "CSRF"])
def test_a_setting_that_cannot_work_stops_the_server(tmp_path: Path, server: str, wrong: str) -> None:
    middleware, settings, message = WRONG[wrong]
    (tmp_path / "wrong.py").write_text(APPLICATION.format(middleware.__name__, settings))
    command = [sys.executable, "-m", server, *SERVERS[server], "wrong:app"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert message in ended.stdout + ended.stderr
    assert ended.returncode != 0 or server == "hypercorn"  # it exits with 0 whatever fails at startup


@rows("framework", [Starlette, FastAPI])
@rows("starts", [True, False])
@rows("wrong", list(WRONG))
def test_a_setting_that_cannot_work_is_raised_by_a_test_client(
    framework: Callable[[], Starlette], starts: bool, wrong: str
) -> None:
    middleware, settings, message = WRONG[wrong]
    app = framework()
    app.add_middleware(middleware, **settings)
    client = TestClient(app)
    with pytest.raises((ImproperlyConfigured, TypeError), match=message), client if starts else nullcontext():
        client.get("/")
    with pytest.raises((ImproperlyConfigured, TypeError), match=message):
        client.get("/again")


@rows("outer", [SessionMiddleware, OfStarlette])
@rows("wrong", [name for name in WRONG if WRONG[name][0] is SessionMiddleware])
def test_a_wrong_setting_of_a_mounted_application_is_raised_when_it_is_visited(outer: Any, wrong: str) -> None:
    """Whatever sessions are around it: it is made in the event loop, by the first request that it gets."""
    middleware, settings, message = WRONG[wrong]
    inner = Starlette(middleware=[Middleware(middleware, **settings)])
    app = Starlette(routes=[Mount("/inner", inner)], middleware=[Middleware(outer, secret_key=KEY)])
    with TestClient(app) as client:
        for _ in range(2):
            with pytest.raises((ImproperlyConfigured, TypeError), match=message):
                client.get("/inner/")


@pytest.mark.both_loops
@rows("wrong", list(WRONG))
async def test_in_an_event_loop_the_error_waits_for_the_first_message(wrong: str) -> None:
    kind, settings, message = WRONG[wrong]
    outer = CsrfMiddleware(SessionMiddleware(kind(Starlette(), **settings), secret_key=KEY))
    sent: list[Any] = []

    async def send(sending: Any) -> None:
        sent.append(sending)

    depths = []
    for _ in range(2):
        with pytest.raises((ImproperlyConfigured, TypeError), match=message) as failed:
            await outer({"type": "lifespan"}, None, send)  # type: ignore[arg-type]
        depths.append(len(extract_tb(failed.tb)))
    assert sent == [{"type": "lifespan.startup.failed", "message": str(failed.value)}] * 2
    assert depths[0] == depths[1], "the traceback of the error grows with each request"


@rows("wrong", list(WRONG))
def test_outside_of_an_event_loop_the_constructor_raises(wrong: str) -> None:
    middleware, settings, message = WRONG[wrong]
    with pytest.raises((ImproperlyConfigured, TypeError), match=message):
        middleware(Starlette(), **settings)


async def test_session_of_raises_the_error_for_an_asynchronous_client() -> None:
    app = Starlette(middleware=[Middleware(SessionMiddleware, secret_key=KEY, max_age=-1)])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://testserver") as client:
        with pytest.raises(ImproperlyConfigured, match="max_age"):
            session_of(client)
