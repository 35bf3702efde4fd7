"""What is given to `Depends()` in a form that would check nothing is refused when the route is declared."""

import functools
import inspect
import pydoc
import re
from collections.abc import Callable
from typing import Annotated, Any, get_origin

import pytest
from fastapi import APIRouter, Depends, FastAPI, Query, Security, WebSocket
from fastapi.exceptions import FastAPIError
from pydantic import BaseModel, create_model
from starlette.testclient import TestClient

from starsessions import ImproperlyConfigured, InMemoryBackend, Session, SessionMiddleware, csrf
from starsessions import fastapi as dependencies
from starsessions.fastapi import SessionCookie, UserId, safe_next
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


# Forms without a `Depends`, in which the query or the body of a request would be the value.


def in_a_union(hint: Any) -> None:
    def endpoint(user: hint | None = None) -> None: ...

    FastAPI().get("/")(endpoint)


def in_a_list(hint: Any) -> None:
    def endpoint(users: list[hint]) -> None: ...

    FastAPI().get("/")(endpoint)


def in_a_model(hint: Any) -> None:
    create_model("Model", user=(hint, ...))


def with_a_query_of_its_own(hint: Any) -> None:
    def endpoint(user: Annotated[hint, Query()]) -> None: ...

    FastAPI().get("/")(endpoint)


def in_a_union_of_another_dependency(hint: Any) -> None:
    def dependency(user: hint | None = None) -> None: ...

    on_a_route(dependency)


@rows("name, cure", TYPES.items())
@rows("declare", [in_a_union, in_a_list, in_a_model, with_a_query_of_its_own, in_a_union_of_another_dependency])
def test_a_type_is_refused_as_a_part_of_another_type(declare: Callable[[Any], None], name: str, cure: str) -> None:
    alone = cure.partition(",")[0]
    with pytest.raises(
        ImproperlyConfigured, match=rf"^{name} injects only as the whole type of a parameter, {alone}\. .* get_user_id"
    ):
        declare(getattr(dependencies, name))


def test_a_type_that_is_the_whole_type_of_a_parameter_is_injected_whatever_its_default() -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend())

    @app.get("/")
    def endpoint(user: UserId = None) -> str:  # type: ignore[assignment]
        return user

    assert TestClient(app).get("/?user=alice").status_code == 401


def as_metadata(dependency: Any) -> None:
    def endpoint(user: Annotated[str, dependency]) -> str:
        return user

    FastAPI().get("/")(endpoint)


def as_metadata_in_a_union(dependency: Any) -> None:
    as_metadata_of(str, dependency)


def as_metadata_of_a_body(dependency: Any) -> None:
    as_metadata_of(dict[str, str], dependency)


def as_metadata_of(hint: Any, dependency: Any) -> None:
    def endpoint(user: Annotated[hint, dependency] | None = None) -> None: ...

    FastAPI().post("/")(endpoint)


def as_a_default_without_depends(dependency: Any) -> None:
    def endpoint(user: str = dependency) -> str:
        return user

    FastAPI().get("/")(endpoint)


class Cart(BaseModel):
    """Something to see a session through."""


MADE: dict[str, tuple[Any, ...]] = {"signed_in": (), "user_id": (), "fresh": (600,), "watched": (), "typed": (Cart,)}
BARE = [(getattr(where, name), name) for name in MADE for where in (dependencies, COOKIE)]
BARE += [(factory(*MADE[name]), name) for factory, name in BARE]


@rows("dependency, name", [*BARE, (SessionCookie, "SessionCookie"), (COOKIE, "SessionCookie")])
@rows("declare", [as_metadata, as_metadata_in_a_union, as_metadata_of_a_body])
def test_a_dependency_is_refused_in_a_type_without_depends(
    declare: Callable[[Any], None], dependency: Any, name: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"^{outside(name)}$"):
        declare(dependency)


@rows("dependency, name", BARE)
def test_a_dependency_is_refused_as_a_default_without_depends(dependency: Any, name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"^{outside(name)}$"):
        as_a_default_without_depends(dependency)


PageUser = Annotated[str, Depends(dependencies.user_id())]


@rows("hint, default", [(str, UserId), (str, COOKIE), (PageUser | None, None)])
def test_three_forms_cannot_be_refused_and_the_reference_says_so(hint: Any, default: Any) -> None:
    app = FastAPI()

    @app.get("/")
    def endpoint(user: hint = default) -> str:
        return user

    assert TestClient(app).get("/?user=alice").json() == "alice"


def outside(name: str) -> str:
    call = re.escape(FACTORIES[name].removeprefix("Call it: ").removesuffix("."))
    return rf"(SessionCookie\.)?{name} checks nothing outside of Depends: .* Write {call}\."


def test_a_dependency_is_seen_to_be_awaitable_also_where_no_wrapper_is_looked_through() -> None:
    # An older FastAPI would call it in a thread, and take the coroutine for a checked session.
    for factory, name in BARE[: len(MADE) * 2]:
        called = factory(*MADE[name]).__call__
        assert inspect.isasyncgenfunction(called) if name == "watched" else inspect.iscoroutinefunction(called)


def test_a_part_of_a_factory_is_refused_like_the_whole() -> None:
    for name, arguments in (MADE | {"SessionCookie": ()}).items():
        part = functools.partial(getattr(dependencies, name), *(arguments or ["/login"]))
        with pytest.raises(ImproperlyConfigured, match=rf"^Depends\({name}\) would check nothing"):
            on_a_route(part)


def test_the_signature_of_a_factory_shows_no_address() -> None:
    shown = (
        str(inspect.signature(dependencies.user_id)) + pydoc.render_doc(SessionCookie) + pydoc.render_doc(COOKIE.typed)
    )
    assert "Annotated[str | None, no parameter of a request] = None" in shown
    assert " at 0x" not in shown


@rows("dependency, name, cure", REFUSED)
def test_a_router_that_is_included_with_a_refused_dependency_responds_500_to_each_request(
    dependency: Any, name: str, cure: str
) -> None:
    router, app = APIRouter(), FastAPI()
    router.get("/")(lambda: "secret")
    app.include_router(router, dependencies=[Depends(dependency)])
    with TestClient(app, raise_server_exceptions=False) as browser:
        assert browser.get("/").status_code == 500
        assert browser.get("/?user=alice&_=1&redirect_to=/").status_code == 500
    with TestClient(app) as browser, pytest.raises(ImproperlyConfigured, match=re.escape(cure)):
        browser.get("/")


def test_each_public_name_that_may_be_mistaken_for_a_dependency_is_in_the_table() -> None:
    assert {*FACTORIES, *TYPES} == {*dependencies.__all__} - {"safe_next"}
    methods = {name for name, one in vars(SessionCookie).items() if callable(one) and name[0] != "_"}
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
