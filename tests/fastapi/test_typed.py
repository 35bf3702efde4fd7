"""Typed sessions as a dependency."""

from collections.abc import Callable
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, WebSocket
from pydantic import BaseModel
from starlette.testclient import TestClient

from starsessions import SessionBackend, SessionMiddleware
from starsessions.fastapi import CurrentSession, typed
from starsessions.typed import TypedSession
from tests.kinds import each_backend, each_server_backend

BrowserOf = Callable[..., TestClient]


class Cart(BaseModel):
    items: list[str] = []


class Shop(BaseModel):
    cart: Cart = Cart()
    theme: str = "light"


SHOP = TypedSession(Shop)
CurrentShop = Annotated[Shop, Depends(typed(SHOP))]


def app_of(backend: SessionBackend) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=backend)

    @app.post("/async/{item}")
    async def in_the_loop(item: str, shop: CurrentShop) -> None:
        shop.cart.items.append(item)

    @app.post("/def/{item}")
    def in_a_thread(item: str, shop: CurrentShop) -> None:
        shop.cart.items.append(item)

    @app.get("/")
    def show(shop: Annotated[Shop, Depends(typed(Shop))]) -> Shop:
        return shop

    return app


@each_backend
def test_a_nested_change_is_saved_in_async_def_and_def_endpoints(
    backend: SessionBackend, browser_of: BrowserOf
) -> None:
    browser = browser_of(app_of(backend))
    browser.post("/async/tea")
    browser.post("/def/milk")
    assert browser.get("/").json() == {"cart": {"items": ["tea", "milk"]}, "theme": "light"}


@each_backend
def test_reading_the_session_sets_no_cookie(backend: SessionBackend, browser_of: BrowserOf) -> None:
    browser = browser_of(app_of(backend))
    assert "set-cookie" not in browser.get("/").headers
    browser.post("/def/tea")
    assert "set-cookie" not in browser.get("/").headers


@each_backend
def test_dependencies_with_the_same_model_get_the_same_object(backend: SessionBackend, browser_of: BrowserOf) -> None:
    app = app_of(backend)

    def paint(shop: Annotated[Shop, Depends(typed(SHOP))]) -> None:
        shop.theme = "dark"

    @app.get("/same", dependencies=[Depends(paint)])
    def same(shop: CurrentShop, session: CurrentSession) -> str:
        return shop.theme

    browser = browser_of(app)
    assert browser.get("/same").json() == "dark"
    assert browser.get("/").json()["theme"] == "dark"


@pytest.mark.both_loops
@each_server_backend
def test_changes_of_an_open_websocket_are_saved_at_its_end(
    server_backend: SessionBackend, browser_of: BrowserOf
) -> None:
    app = app_of(server_backend)

    @app.websocket("/")
    async def talk(websocket: WebSocket, shop: CurrentShop) -> None:
        await websocket.accept()
        shop.cart.items.append(await websocket.receive_text())

    browser = browser_of(app)
    browser.post("/def/tea")
    with browser.websocket_connect("/") as websocket:
        websocket.send_text("milk")
    assert browser.get("/").json()["cart"] == {"items": ["tea", "milk"]}
