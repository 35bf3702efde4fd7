"""What is given to `Depends()` in a form that would check nothing is refused when the route is declared."""

import re
from collections.abc import Callable
from types import FunctionType
from typing import Annotated, Any, get_origin

import pytest
from fastapi import APIRouter, Depends, FastAPI, Security, WebSocket
from fastapi.exceptions import FastAPIError

from starsessions import ImproperlyConfigured, Session, csrf
from starsessions import fastapi as dependencies
from starsessions.fastapi import SessionCookie, safe_next
from tests.rows import rows

COOKIE = SessionCookie("session")

FACTORIES = {
    "signed_in": "Call it: Depends(signed_in()).",
    "user_id": "Call it: Depends(user_id()).",
    "fresh": "Call it: Depends(fresh(within=600)).",
    "watched": 'Call it: Depends(watched(), scope="function").',
    "typed": "Call it: Depends(typed(Model)).",
    "SessionCookie": "Call it: Depends(SessionCookie()).",
}
TYPES = {
    "CurrentSession": "session: CurrentSession, or in a list of dependencies write Depends(SessionCookie()).",
    "SignedInSession": "session: SignedInSession, or in a list of dependencies write Depends(signed_in()).",
    "UserId": "user_id: UserId, or in a list of dependencies write Depends(user_id()).",
    "WatchedSession": "session: WatchedSession, or in a list of dependencies write "
    'Depends(watched(), scope="function").',
}
METHODS = {name: cure for name, cure in FACTORIES.items() if name != "SessionCookie"}
REFUSED = [(getattr(dependencies, name), name, cure) for name, cure in (FACTORIES | TYPES).items()]
REFUSED += [(getattr(COOKIE, name), f"SessionCookie.{name}", cure) for name, cure in METHODS.items()]


def on_a_route(dependency: Any) -> None:
    FastAPI().get("/", dependencies=[Depends(dependency)])(lambda: "secret")


def on_a_parameter(dependency: Any) -> None:
    def endpoint(user: Annotated[str, Depends(dependency)]) -> str:
        return "secret"

    FastAPI().post("/")(endpoint)


def as_a_default(dependency: Any) -> None:
    def endpoint(user: str = Security(dependency, scopes=["admin"])) -> str:
        return "secret"

    FastAPI().get("/")(endpoint)


def on_a_router(dependency: Any) -> None:
    APIRouter(dependencies=[Depends(dependency)]).get("/")(lambda: "secret")


def on_an_application(dependency: Any) -> None:
    FastAPI(dependencies=[Depends(dependency)]).get("/")(lambda: "secret")


def on_an_included_router(dependency: Any) -> None:
    router, app = APIRouter(), FastAPI()
    router.get("/")(lambda: "secret")
    app.include_router(router, dependencies=[Depends(dependency)])
    app.openapi()


def in_another_dependency(dependency: Any) -> None:
    def admin(user: Annotated[str, Depends(dependency)]) -> str:
        return user

    on_a_route(admin)


def on_a_websocket(dependency: Any) -> None:
    async def endpoint(websocket: WebSocket, user: Annotated[str, Depends(dependency)]) -> None:
        await websocket.accept()

    FastAPI().websocket("/")(endpoint)


def in_a_path_with_the_name_of_the_parameter(dependency: Any) -> None:
    names = "{redirect_to}/{within}/{check_every}/{model}/{name}/{user_id}/{session}"
    FastAPI().get(f"/{names}", dependencies=[Depends(dependency)])(lambda: "secret")


@rows("dependency, name, cure", REFUSED)
@rows(
    "declare",
    [
        on_a_route,
        on_a_parameter,
        as_a_default,
        on_a_router,
        on_an_application,
        on_an_included_router,
        in_another_dependency,
        on_a_websocket,
        in_a_path_with_the_name_of_the_parameter,
    ],
)
def test_a_dependency_that_would_check_nothing_is_refused_with_its_cure(
    declare: Callable[[Any], None], dependency: Any, name: str, cure: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"^Depends\({re.escape(name)}\) .*{re.escape(cure)}$"):
        declare(dependency)


def test_each_public_name_that_may_be_mistaken_for_a_dependency_is_in_the_table() -> None:
    assert {*FACTORIES, *TYPES} == {*dependencies.__all__} - {"safe_next"}
    methods = {name for name, one in vars(SessionCookie).items() if isinstance(one, FunctionType) and name[0] != "_"}
    assert methods == {*METHODS}


def test_what_needs_no_parentheses_is_accepted_without() -> None:
    on_a_route(csrf.verify)
    on_a_route(csrf.csrf_token)
    on_a_route(safe_next)  # the parameter of a query, made safe
    on_a_route(COOKIE)


@rows("name", [*TYPES])
def test_a_type_is_accepted_as_the_type_of_a_parameter(name: str) -> None:
    annotation = getattr(dependencies, name)

    def endpoint(injected: annotation) -> None: ...

    assert get_origin(annotation) is Annotated
    FastAPI().get("/")(endpoint)


def takes_a_session(session: Session) -> None: ...


def returns_a_session() -> Session:
    raise AssertionError("It is never called.")


@rows("endpoint", [takes_a_session, returns_a_session])
def test_a_session_without_a_dependency_gets_the_error_that_troubleshooting_quotes(
    endpoint: Callable[..., Any],
) -> None:
    quoted = "Invalid args for response field! Hint: check that <class 'starsessions.session.Session'> is a valid"
    with pytest.raises(FastAPIError, match=re.escape(quoted)):
        FastAPI().get("/")(endpoint)
