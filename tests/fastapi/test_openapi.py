"""The OpenAPI document marks exactly the operations that need the cookie."""

from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from pydantic import BaseModel
from starlette.testclient import TestClient

from starsessions import InMemoryBackend, Session, SessionMiddleware
from starsessions.fastapi import CurrentSession, SessionCookie, SignedInSession, UserId, fresh, signed_in, typed


class Shop(BaseModel):
    cart: list[str] = []


def document(app: FastAPI) -> Any:
    response = TestClient(app).get("/openapi.json")
    assert response.status_code == 200
    return response.json()


def security(app: FastAPI) -> dict[str, Any]:
    paths = document(app)["paths"]
    return {path: operation.get("security") for path, methods in paths.items() for operation in methods.values()}


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend())
    return app


def test_each_operation_that_uses_the_session_has_the_scheme_and_no_other(app: FastAPI) -> None:
    def current_user(user: UserId) -> str:
        return user

    @app.get("/public")
    def public() -> None: ...

    @app.get("/session")
    def session(session: CurrentSession) -> None: ...

    @app.get("/signed-in")
    def is_signed_in(session: SignedInSession) -> None: ...

    @app.get("/page")
    def page(session: Annotated[Session, Depends(signed_in(redirect_to="/login"))]) -> None: ...

    @app.get("/user")
    def user(user: Annotated[str, Depends(current_user)]) -> None: ...

    @app.get("/fresh")
    def is_fresh(session: Annotated[Session, Depends(fresh(within=60))], user: UserId) -> None: ...

    @app.get("/shop")
    def shop(shop: Annotated[Shop, Depends(typed(Shop))]) -> None: ...

    router = APIRouter(dependencies=[Depends(signed_in())])

    @router.get("/router")
    def in_a_router() -> None: ...

    app.include_router(router)
    assert security(app) == {
        "/public": None,
        "/session": [{"session": []}],
        "/signed-in": [{"session": []}],
        "/page": [{"session": []}],
        "/user": [{"session": []}],
        "/fresh": [{"session": []}],
        "/shop": [{"session": []}],
        "/router": [{"session": []}],
    }
    described = document(app)
    assert described["components"]["securitySchemes"] == {
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "session",
            "description": "The browser sends it automatically.",
        }
    }
    # Parameters of the dependencies are not parameters of an operation, and the model is not a body.
    for methods in described["paths"].values():
        assert "parameters" not in methods["get"]
        assert "requestBody" not in methods["get"]


def test_the_scheme_has_the_name_of_the_cookie(app: FastAPI) -> None:
    cookie, other = SessionCookie("__Host-session"), SessionCookie("a!b", scheme_name="Other", description=None)

    @app.get("/one")
    def one(session: Annotated[Session, Depends(cookie)]) -> None: ...

    @app.get("/both")
    def both(
        session: Annotated[Session, Depends(cookie.signed_in())], other: Annotated[str, Depends(other.user_id())]
    ) -> None: ...

    assert security(app) == {"/one": [{"__Host-session": []}], "/both": [{"__Host-session": []}, {"Other": []}]}
    assert document(app)["components"]["securitySchemes"] == {
        "__Host-session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "__Host-session",
            "description": "The browser sends it automatically.",
        },
        "Other": {"type": "apiKey", "in": "cookie", "name": "a!b"},
    }
    assert SessionCookie("a!b").scheme_name == "a_b"  # OpenAPI 3.1, Components Object: the names allow fewer characters


def test_the_docs_are_shown_without_a_session(app: FastAPI) -> None:
    @app.get("/user")
    def user(user: UserId) -> None: ...

    browser = TestClient(app)
    docs = browser.get("/docs")
    assert docs.status_code == 200
    assert "/openapi.json" in docs.text
    for response in (docs, browser.get("/openapi.json"), browser.get("/redoc")):
        assert "set-cookie" not in response.headers
        assert "vary" not in response.headers
