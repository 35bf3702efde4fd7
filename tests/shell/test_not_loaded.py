"""A session that was not loaded never reads as an empty one, by code in C neither. And a template sees no id."""

import copy
import json
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import anyio
import msgspec
import pytest
from anyio.to_thread import run_sync
from jinja2 import Environment
from pydantic import BaseModel, TypeAdapter
from starlette.responses import JSONResponse

from starsessions import InMemoryBackend, Session, SessionBackend, SessionNotLoaded
from starsessions.backends.server_side import StoreBackend
from starsessions.stores.memory import MemoryStore
from tests.missing import missing
from tests.rows import rows
from tests.site import Site

pytestmark = pytest.mark.anyio


class Basket(msgspec.Struct):
    cart: Any = None


class Strict(BaseModel, extra="forbid"):
    cart: Any = None


def orjson(session: Session) -> bytes:
    if find_spec("orjson") is None:
        missing("orjson is not installed")
    from orjson import dumps

    encoded: bytes = dumps(session)
    return encoded


READERS: dict[str, Callable[[Session], Any]] = {
    "json": json.dumps,
    "json inside": lambda session: json.dumps({"session": session}),
    "JSONResponse": JSONResponse,
    "msgspec.json": msgspec.json.encode,
    "msgspec.msgpack": msgspec.msgpack.encode,
    "to_builtins": msgspec.to_builtins,
    "convert": lambda session: msgspec.convert(session, Basket),
    "dump_json": TypeAdapter(dict).dump_json,
    "dump_python": lambda session: TypeAdapter(dict).dump_python(session, mode="json"),
    "validate_python": TypeAdapter(dict).validate_python,
    "a strict model": Strict.model_validate,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "dict": dict,
    "dict.copy": dict.copy,
    "list": list,
    "**": lambda session: dict(**session),
    "|": lambda session: {} | session,
    "==": lambda session: session == {},
    "not": lambda session: not session,
    "repr of the items": lambda session: repr(session.items()),
}


@rows("reader", READERS)
def test_no_reader_takes_a_session_that_is_not_loaded_for_an_empty_one(reader: str) -> None:
    session = Session(InMemoryBackend())

    with pytest.raises(Exception, match=r"SessionNotLoaded|load|Expected `str`") as caught:
        READERS[reader](session)

    assert isinstance(caught.value, SessionNotLoaded | TypeError | ValueError | msgspec.ValidationError)


def test_orjson_does_not_take_a_session_that_is_not_loaded_for_an_empty_one() -> None:
    with pytest.raises(TypeError, match="SessionNotLoaded"):
        orjson(Session(InMemoryBackend()))


def test_a_dump_that_keeps_python_objects_shows_that_the_session_is_not_loaded() -> None:
    """pydantic copies what it does not know: here nothing can raise."""
    assert "SessionNotLoaded" in TypeAdapter(dict).dump_python(Session(InMemoryBackend()))


@rows("reader", [reader for reader in READERS if reader not in ("==", "not")])
def test_every_reader_sees_the_data_of_a_loaded_session(reader: str) -> None:
    session = Session(InMemoryBackend())
    session.is_loaded = True
    session["cart"] = [1]

    assert "cart" in repr(READERS[reader](session)) or READERS[reader](session) is not None


@rows("store", [InMemoryBackend, lambda: StoreBackend(MemoryStore())])
async def test_a_session_that_loads_itself_is_loaded_for_json_too(store: Callable[[], SessionBackend]) -> None:
    """Also where `scope["session"]` is used, and Starlette's `request.session` never is."""
    site = Site(backend=store(), autoload=True)
    await site.visit(lambda session: session.update(cart=[1]))

    assert (await site.visit(json.dumps)).result == '{"cart": [1]}'


async def test_a_request_that_only_looks_at_a_session_which_it_did_not_load_stores_nothing() -> None:
    backend = InMemoryBackend()
    site = Site(backend=backend)

    for act in (Session.mark_accessed, Session.mark_modified, repr):
        assert (await site.visit(act)).set_cookies == []
    assert dict(backend.data) == {}


async def test_a_session_that_is_declared_loaded_or_not_starts_over() -> None:
    session = Session(InMemoryBackend())
    session.is_loaded = True
    session["a"] = 1
    session.is_loaded = True
    assert session == {"a": 1}
    session.is_loaded = False
    with pytest.raises(SessionNotLoaded):
        session.get("a")
    with pytest.raises(TypeError, match="SessionNotLoaded"):
        msgspec.json.encode(session)
    await session.load()
    assert session == {}


@pytest.mark.both_loops
async def test_the_error_names_what_helps_where_it_is_raised() -> None:
    session = Session(InMemoryBackend())

    with pytest.raises(SessionNotLoaded, match=r"^Call `await session\.load\(\)` before .* a template"):
        session.get("user")
    with pytest.raises(SessionNotLoaded, match=r"^A `def` function cannot load .* `session: CurrentSession`"):
        await run_sync(session.get, "user")
    await anyio.lowlevel.checkpoint()


# Templates


@rows("autoescape", [True, False])
@rows(
    "source",
    [
        "{{ session.session_id }}",
        "{{ session|attr('session_id') }}",
        "{{ session.session_id|e }}",
        "{{ [session.session_id] }}",
    ],
)
def test_a_template_never_prints_the_id(autoescape: bool, source: str) -> None:
    session = Session(InMemoryBackend(), "the-secret-id")
    session.is_loaded = True

    assert "secret" not in Environment(autoescape=autoescape).from_string(source).render(session=session)


@rows("autoescape", [True, False])
def test_a_template_shows_the_applications_key_session_id(autoescape: bool) -> None:
    session = Session(InMemoryBackend(), "the-secret-id")
    session.is_loaded = True
    session["session_id"] = "conference 7"
    template = Environment(autoescape=autoescape).from_string("{{ session.session_id }} {{ session['session_id'] }}")

    assert template.render(session=session) == "conference 7 conference 7"
    assert f"{session.session_id}" == str(session.session_id) == "the-secret-id"
    assert getattr(session, "session_id") == "the-secret-id"  # noqa: B009 - as a template engine in Python does
