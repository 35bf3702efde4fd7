"""The single-file examples: each can be imported, starts with the command that it names, and does what it says."""

import importlib.util
import runpy
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from starsessions import InMemoryBackend
from starsessions.backends.base import Backend
from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from tests.demo.visitors import HANG
from tests.rows import rows

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def start(serve: Callable[..., int]) -> Callable[..., int]:
    def start(name: str, **settings: str) -> int:
        return serve(EXAMPLES, name, **settings)

    return start


def new_browser(port: int, cookie: str | None = None) -> httpx2.Client:
    browser = httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False)
    if cookie is not None:
        browser.cookies.set("session", cookie, domain="127.0.0.1")
    return browser


@rows("name", FILES)
def test_the_example_can_be_imported_and_says_how_to_start_it(name: str) -> None:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert callable(module.app)
    assert f"python -m uvicorn {name}:app --app-dir examples" in (module.__doc__ or "")
    assert f"python -m uvicorn {name}:app --app-dir examples" in (EXAMPLES / "README.md").read_text()


RECIPES = EXAMPLES / "deploy"


def recipe(**variables: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        return runpy.run_path(str(RECIPES / "app.py"))["app"]


@rows(
    "url, kind",
    [
        ("postgresql+asyncpg://app:password@db/app?timeout=3", SQLAlchemyBackend),
        ("redis+cluster://redis-0:6379?prefix=shop:", RedisBackend),
        ("rediss://:password@redis", RedisBackend),
        ("memory://", InMemoryBackend),
    ],
)
def test_the_application_of_the_recipes_keeps_sessions_where_its_url_says(url: str, kind: type[Backend]) -> None:
    app = recipe(SESSIONS=url, SESSION_KEY="a key of thirty-two bytes or more")
    backend = app.user_middleware[0].kwargs["backend"]
    assert isinstance(backend, kind)
    assert bool(backend.key_facts) == (url != "memory://")
    if url == "memory://":
        with TestClient(app, base_url="https://testserver") as browser:
            assert [browser.get("/").json()["visits"] for _ in range(2)] == [1, 2]
            assert browser.post("/login?user=ann").json() == {"user": "ann"}


@pytest.mark.parametrize("name", ["signed_cookie", "custom_backend", "custom_store"])
def test_the_example_counts_the_visits_of_each_browser(name: str, start: Callable[..., int], tmp_path: Path) -> None:
    port = start(name, SESSIONS=str(tmp_path / "sessions"))
    with new_browser(port) as one, new_browser(port) as other:
        assert [one.get("/").text for _ in range(3)] == ["Visit 1\n", "Visit 2\n", "Visit 3\n"]
        assert other.get("/").text == "Visit 1\n"


def test_the_signed_cookie_survives_a_restart_if_the_key_does(start: Callable[..., int]) -> None:
    key = "a key of thirty-two bytes or more"
    with new_browser(start("signed_cookie", SECRET_KEY=key, LIFE="first")) as before:
        before.get("/")
        cookie = before.cookies["session"]
    with new_browser(start("signed_cookie", SECRET_KEY=key, LIFE="second"), cookie) as after:
        assert after.get("/").text == "Visit 2\n"
    with new_browser(start("signed_cookie"), cookie) as with_another_key:
        assert with_another_key.get("/").text == "Visit 1\n"


# --- the WebSocket ---------------------------------------------------------------------------------------------------


def echo(port: int, cookie: str | None = None) -> AbstractContextManager[ClientConnection]:
    headers = {"cookie": f"session={cookie}"} if cookie else {}
    return connect(f"ws://127.0.0.1:{port}/echo", additional_headers=headers, proxy=None, open_timeout=HANG)


def say(socket: ClientConnection, text: str) -> str | bytes:
    socket.send(text)
    return socket.recv(timeout=HANG)


def cookie_of(socket: ClientConnection) -> str:
    assert socket.response
    return SimpleCookie(socket.response.headers["set-cookie"])["session"].value


def test_the_websocket_begins_a_session_in_its_handshake_and_keeps_what_changes_later(
    start: Callable[..., int],
) -> None:
    port = start("websocket")
    with echo(port) as socket:
        cookie = cookie_of(socket)
        with new_browser(port, cookie) as browser:
            for number in (1, 2):
                assert say(socket, "hello") == f"{number}: hello"
                assert browser.get("/").text == f"{number} messages so far\n", "while the connection is open"
    with echo(port, cookie) as socket:
        assert say(socket, "hello again") == "3: hello again"


def test_an_open_websocket_does_not_bring_back_a_session_that_was_ended(start: Callable[..., int]) -> None:
    port = start("websocket")
    with echo(port) as socket:
        cookie = cookie_of(socket)
        assert say(socket, "hello") == "1: hello"
        with new_browser(port, cookie) as browser:
            assert browser.post("/sign-out").status_code == 200
        with pytest.raises(ConnectionClosed) as closed:
            say(socket, "still here")
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1008
    with new_browser(port, cookie) as thief:
        assert thief.get("/").text == "0 messages so far\n"
