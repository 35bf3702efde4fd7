"""The examples of docs/fastapi.md work as described, in a test client and under uvicorn."""

import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.docs.pages import story_of, tell

SHOP = story_of("guides/users/protect-routes.md")
HOST = story_of("reference/fastapi.md")


def test_sign_in_redirects_to_the_wanted_page(browser_of: Callable[..., TestClient]) -> None:
    browser = browser_of(tell(SHOP)["app"])
    assert browser.get("/api/me").status_code == 401
    assert browser.get("/admin/report").status_code == 401
    to_login = browser.get("/orders").headers["location"]
    assert to_login == "/login?next=/orders"
    assert "form" in browser.get(to_login).text
    assert browser.post(to_login, data={"name": "ann"}).headers["location"] == "/orders"
    assert browser.get("/orders").text == "The orders of ann"
    assert browser.get("/api/me").json() == {"user": "ann"}
    assert browser.get("/admin/report").json() == "for signed-in users"
    browser.post("/logout")
    assert browser.get("/api/me").status_code == 401


def test_sign_in_never_redirects_to_another_site(browser_of: Callable[..., TestClient]) -> None:
    browser = browser_of(tell(SHOP)["app"])
    response = browser.post("/login", params={"next": "//evil.test/"}, data={"name": "ann"})
    assert response.headers["location"] == "/orders"


def test_the_cookie_with_a_prefix_is_in_the_document(browser_of: Callable[..., TestClient]) -> None:
    app = tell(HOST)["app"]
    browser = browser_of(app, base_url="https://testserver")
    assert [browser.get("/visits").json() for _ in range(2)] == [1, 2]
    assert list(browser.get("/openapi.json").json()["components"]["securitySchemes"]) == ["__Host-session"]


@pytest.fixture
def address() -> Iterator[str]:
    """The document's application, under uvicorn in a thread."""
    app: FastAPI = tell(SHOP)["app"]
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    listening.close()


def test_it_runs_under_uvicorn(address: str) -> None:
    with httpx2.Client(base_url=address) as browser:
        assert browser.get("/orders").headers["location"] == "/login?next=/orders"
        assert browser.post("/login?next=/api/me", data={"name": "ann"}).headers["location"] == "/api/me"
        assert browser.get("/api/me").json() == {"user": "ann"}
        assert "/openapi.json" in browser.get("/docs").text
        schemes = browser.get("/openapi.json").json()["components"]["securitySchemes"]
        assert schemes["session"]["in"] == "cookie"
