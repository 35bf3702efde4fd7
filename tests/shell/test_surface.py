"""What `request.session` shows to a template: the application's keys, and not the attributes of a class."""

from typing import Any

import pytest
from jinja2 import DictLoader, Environment
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from starsessions import InMemoryBackend, Session, SessionMiddleware
from starsessions.lifecycle.tracked_dict import TrackedDict
from tests.site import KEY

# What applications keep in a session, and what this library, other libraries and people have names for.
KEYS = [
    "access_token", "app", "auth", "basket", "began_at", "cart", "category", "clock", "config", "cookie", "count",
    "country", "created_at", "csrf", "csrf_token", "current", "email", "ended", "error", "events", "exists",
    "expiry", "expires_at", "fields", "filters", "flash", "flashes", "fresh", "from_user", "group", "handle",
    "headers", "history", "id", "identity", "info", "is_admin", "is_authenticated", "is_fresh", "key", "kind",
    "lang", "language", "last_seen", "locale", "lock", "message", "messages", "meta", "method", "miss_reason",
    "model", "models", "name", "new", "next", "nonce", "note", "oauth", "order", "owner", "page",
    "password_changed_at", "permissions", "phase", "pop_flashes", "profile", "provider", "query", "records",
    "redirect", "remember", "revalidate", "role", "roles", "rotate", "save", "scope", "seen", "sid", "sign_in",
    "sign_out", "signed_in_at", "state", "status", "step", "store", "tenant", "theme", "time", "timezone",
    "title", "token", "tokens", "type", "update_atomically", "user", "user_id", "username", "users", "version",
    "views", "visits", "why_new", "wizard",
]  # fmt: skip

DICT = set(dir(dict)) | {"fromkeys"}
STARLETTE = {"accessed", "modified", "mark_accessed", "mark_modified"}
OF_1_0_2 = {
    "data", "delete", "flush", "is_empty", "is_loaded", "is_modified", "load", "persist", "regenerate_id", "session_id",
}  # fmt: skip


def test_a_template_shows_the_keys_of_the_application() -> None:
    """Jinja asks for an attribute before it asks for a key."""
    page = "{% set s = request.session %}" + "".join(f"{key}={{{{ s.{key} }}}};" for key in KEYS)
    templates = Environment(loader=DictLoader({"page": page}), autoescape=True)

    def show(request: Request) -> Response:
        for key in KEYS:
            request.session.setdefault(key, f"my {key}")
        return HTMLResponse(templates.get_template("page").render(request=request))

    for settings in ({"secret_key": KEY}, {"backend": InMemoryBackend()}):
        app = Starlette(routes=[Route("/", show)])
        app.add_middleware(SessionMiddleware, autoload=True, **settings)  # type: ignore[arg-type]
        text = TestClient(app).get("/").text
        assert [key for key in KEYS if f"{key}=my {key};" not in text] == []


def test_a_session_has_the_attributes_of_a_dict_of_starlettes_session_and_of_1_0_2_and_no_others() -> None:
    public = {name for name in dir(Session) if not name.startswith("_")}
    assert public == {name for name in DICT if not name.startswith("_")} | STARLETTE | OF_1_0_2


def test_a_session_is_a_dict_that_reports_what_happens_to_it_and_nothing_else() -> None:
    # A base class more would be a promise: someone would ask isinstance() for it.
    assert Session.__mro__ == (Session, TrackedDict, dict, object)


def test_an_attribute_that_is_set_in_the_place_of_a_key_is_an_error() -> None:
    session: Any = Session(InMemoryBackend())
    with pytest.raises(AttributeError):
        session.user = "ann"


def test_a_template_that_prints_the_session_prints_no_secret() -> None:
    shown = Environment(autoescape=True).from_string("{{ s }} {{ s.__starsessions__ }}")
    session = Session(InMemoryBackend(), "an-id-that-nobody-may-see")
    assert "an-id" not in shown.render(s=session)
