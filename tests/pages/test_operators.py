"""Operators: who may see the pages, what they can end, and what the audit is told."""

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount

from starsessions import BackendUnavailable, ImproperlyConfigured, InMemoryBackend, Session
from starsessions.backends.base import Backend
from starsessions.events import EndedByOperator, Event
from starsessions.history import SignInHistory
from starsessions.pages import DevicesPages, OperatorPages
from starsessions.users import UserSessions, get_user_id, sign_in
from tests.pages.visitor import Seen, Visitor, site
from tests.rows import rows
from tests.site import Clock

SAFARI = "Mozilla/5.0 (iPhone; like Mac OS X) Safari/1"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0"


def guard(request: Request) -> str | None:
    """The members of staff; one of them has been told to ask someone else."""
    user = get_user_id(request)
    if user == "trainee":
        raise HTTPException(403)
    return user if user == "olga" else None


@pytest.fixture
def backend(clock: Clock) -> Any:
    return InMemoryBackend(clock=clock)


@pytest.fixture
def heard() -> list[Event]:
    return []


def with_operators(backend: Backend, clock: Clock, **settings: Any) -> Starlette:
    users = UserSessions(backend)
    pages = OperatorPages(users, **({"guard": guard, "clock": clock} | settings))
    devices = DevicesPages(users, sign_in_url="/login", clock=clock)
    mounts = [Mount("/operators", pages), Mount("/devices", devices)]
    return site(backend, *mounts, max_sessions_per_user=None)


@pytest.fixture
def app(backend: Backend, clock: Clock, heard: list[Event]) -> Starlette:
    return with_operators(backend, clock, on_event=heard.append)


def searched(operator: Visitor, user: str) -> Any:
    """The page about a user."""
    form = Seen(operator.get("/operators/").text).form_with("Search")
    return operator.post("/operators/", data=form.fields | {"user": user})


def count_of(page: Any) -> str:
    return next((text for text in Seen(page.text).texts if text.startswith("Live sessions")), "none")


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_an_operator_ends_one_session_of_a_user_or_all_and_the_audit_says_who(
    app: Starlette, heard: list[Event], loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "starsessions.audit")
    phone, laptop, third = (Visitor(app, "ann", agent, backend=loop) for agent in (SAFARI, FIREFOX, "curl/8"))
    ben = Visitor(app, "ben", SAFARI, backend=loop)
    olga = Visitor(app, "olga", backend=loop)

    page = searched(olga, " ann ")
    assert count_of(page) == "Live sessions: 3"
    assert {*Seen(page.text).devices} == {"Sessions of ann", "Safari on iPhone", "Firefox on Linux", "curl"}
    handle = Seen(page.text).form_with("End Safari on iPhone").buttons["End Safari on iPhone"]["end"]
    page = olga.click(page, "End Safari on iPhone")
    assert page.status_code == 200
    assert "That session has ended." in page.text
    assert count_of(page) == "Live sessions: 2"
    assert phone.get("/devices/").url.path == "/login"
    assert laptop.get("/devices/").status_code == 200

    page = olga.click(page, "End all sessions")
    assert "Sessions that have ended: 2" in page.text
    assert "This user is not signed in." in page.text
    assert third.get("/devices/").url.path == "/login"
    assert ben.get("/devices/").url.path == "/devices/"

    assert heard == [EndedByOperator("olga", "ann", handle, 1), EndedByOperator("olga", "ann", "", 2)]
    assert [record.message for record in caplog.records if record.name == "starsessions.audit"] == [
        f"The operator 'olga' has ended session {handle!r} of the user 'ann': 1 ended.",
        "The operator 'olga' has ended all sessions of the user 'ann': 2 ended.",
    ]


# The guard


@pytest.mark.guarantee(28)
@rows("user, status", [(None, 404), ("ann", 404), ("trainee", 403)])
def test_who_is_not_an_operator_sees_and_ends_nothing(app: Starlette, user: str | None, status: int) -> None:
    Visitor(app, "ben", SAFARI)
    visitor = Visitor(app, user)
    token = Seen(Visitor(app, "olga").get("/operators/").text).forms[0].fields["csrf_token"]
    for data in ({"user": "ben"}, {"user": "ben", "end-all": "1"}):
        answer = visitor.post("/operators/", data={"csrf_token": token} | data)
        assert answer.status_code == status
        assert "ben" not in answer.text
    assert visitor.get("/operators/").status_code == status
    assert visitor.get("/operators/nothing").status_code == 404
    assert visitor.get("/operators/style.css").status_code == status
    assert count_of(searched(Visitor(app, "olga"), "ben")) in (
        "Live sessions: 1",
        "Live sessions: 2",
        "Live sessions: 3",
    )


@pytest.mark.parametrize("answer", [True, "", 1, b"olga"])
def test_a_guard_that_names_no_operator_opens_nothing(backend: Backend, clock: Clock, answer: Any) -> None:
    visitor = Visitor(with_operators(backend, clock, guard=lambda request: answer), "olga")
    with pytest.raises(TypeError, match="the name of the operator"):
        visitor.get("/operators/")


def test_a_guard_may_wait(backend: Backend, clock: Clock) -> None:
    async def waits(request: Request) -> str | None:
        return get_user_id(request)

    app = with_operators(backend, clock, guard=waits)
    assert Visitor(app, "ann").get("/operators/").status_code == 200
    assert Visitor(app).get("/operators/").status_code == 404


def test_there_is_no_operators_page_without_a_guard() -> None:
    users = UserSessions(InMemoryBackend())
    with pytest.raises(TypeError, match="guard"):
        OperatorPages(users)  # type: ignore[call-arg]
    with pytest.raises(ImproperlyConfigured, match="guard must be a function"):
        OperatorPages(users, guard=None)  # type: ignore[arg-type]


def test_the_first_page_shows_the_numbers_of_the_application(backend: Backend, clock: Clock) -> None:
    async def counts() -> dict[str, int]:
        return {"Live <sessions>": 1234567}

    olga = Visitor(with_operators(backend, clock, counts=counts), "olga")
    page = olga.get("/operators/")
    assert "Live <sessions> 1,234,567" in Seen(page.text).text
    assert "1,234,567" not in searched(olga, "ann").text
    assert olga.get("/operators/style.css").headers["content-type"].startswith("text/css")


# Forms


def test_a_form_without_the_token_of_the_operator_ends_nothing(app: Starlette, heard: list[Event]) -> None:
    ann = Visitor(app, "ann", SAFARI)
    olga = Visitor(app, "olga")
    theirs = Seen(Visitor(app, "olga").get("/operators/").text).forms[0].fields["csrf_token"]
    for token in ({}, {"csrf_token": "x"}, {"csrf_token": theirs}):
        answer = olga.post("/operators/", data={"user": "ann", "end-all": "1", **token})
        assert answer.status_code == 403
        assert "This page is out of date" in answer.text
    assert heard == []
    assert ann.get("/devices/").url.path == "/devices/"


def test_the_second_of_two_clicks_ends_nothing_more(app: Starlette, heard: list[Event]) -> None:
    Visitor(app, "ann", SAFARI)
    Visitor(app, "ann", FIREFOX)
    olga = Visitor(app, "olga")
    page = searched(olga, "ann")
    olga.click(page, "End Safari on iPhone")
    again = olga.click(page, "End Safari on iPhone")
    assert again.status_code == 404
    assert "That session had ended before." in again.text
    assert count_of(again) == "Live sessions: 1"
    olga.click(page, "End all sessions")
    assert "Sessions that have ended: 0" in olga.click(page, "End all sessions").text
    assert [event.ended for event in heard if isinstance(event, EndedByOperator)] == [1, 0, 1, 0]


def test_the_handle_of_another_user_ends_nothing(app: Starlette) -> None:
    Visitor(app, "ann", SAFARI)
    ben = Visitor(app, "ben", FIREFOX)
    olga = Visitor(app, "olga")
    form = Seen(searched(olga, "ben").text).form_with("End Firefox on Linux")
    data = form.fields | form.buttons["End Firefox on Linux"] | {"user": "ann"}
    assert olga.post("/operators/", data=data).status_code == 404
    assert ben.get("/devices/").url.path == "/devices/"


def test_an_action_that_fails_is_in_the_audit(
    app: Starlette, backend: Any, heard: list[Event], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "starsessions.audit")
    Visitor(app, "ann", SAFARI)
    olga = Visitor(app, "olga", raise_server_exceptions=False)
    page = searched(olga, "ann")

    async def fails(*_: Any, **__: Any) -> None:
        raise BackendUnavailable("The store failed.")

    monkeypatch.setattr(UserSessions, "revoke_all", fails)
    assert olga.click(page, "End all sessions").status_code == 503
    assert heard == [EndedByOperator("olga", "ann", "", None)]
    assert "all sessions of the user 'ann': failed." in caplog.text


# What is shown


@pytest.mark.guarantee(28)
def test_no_id_of_a_session_and_no_key_is_in_a_page_and_no_user_in_a_url(app: Starlette, backend: Any) -> None:
    ann = Visitor(app, "ann@example.com", SAFARI)
    olga = Visitor(app, "olga")
    page = searched(olga, "ann@example.com")
    for visitor in (ann, olga):
        assert visitor.cookies["session"] not in page.text
    keys = backend.store.all_keys() if hasattr(backend.store, "all_keys") else []
    assert not any(key in page.text for key in keys)
    seen = Seen(page.text)
    assert "ann" not in str(page.url)
    assert not any("ann" in form.action for form in seen.forms)
    assert not any("ann" in link for link in seen.links.values())
    assert page.headers["cache-control"] == "no-store"


def test_what_an_operator_types_is_text_and_no_html(app: Starlette) -> None:
    hostile = "\"><script>alert(1)</script>{user}'"
    Visitor(app).post("/login", params={"user": hostile, "method": hostile})
    page = searched(Visitor(app, "olga"), hostile)
    assert count_of(page) == "Live sessions: 1"
    assert f"Sessions of {hostile}" in Seen(page.text).devices
    assert "<script" not in page.text
    assert Seen(page.text).forms[0].fields["user"] == hostile


@rows("user", ["", "   ", "no-one", "x" * 100_000, "\0", "a\ud800".encode("utf-8", "surrogatepass").decode("latin-1")])
def test_a_user_without_sessions_has_none(app: Starlette, user: str) -> None:
    page = searched(Visitor(app, "olga"), user)
    assert page.status_code == 200
    assert count_of(page) == "none"
    assert ("This user is not signed in." in page.text) == bool(user.strip())


def test_a_thousand_sessions_of_a_user_are_shown_in_pages(app: Starlette, backend: Backend, clock: Clock) -> None:
    async def sign_in_often() -> None:
        for number in range(1001):
            session = Session(backend)
            await session.load()
            await sign_in(session, "ann", method=f"way {number}")
            await session.persist()

    olga = Visitor(app, "olga")
    asyncio.run(sign_in_often())
    page = searched(olga, "ann")
    assert count_of(page) == "Live sessions: More than 1000"
    shown: list[str] = []
    while True:
        texts = Seen(page.text).texts
        shown += [text for text in texts if text.startswith("way ")]
        if "Older" not in texts:
            break
        page = olga.click(page, "Older")
    assert sorted(shown) == sorted(f"way {number}" for number in range(1001))


def test_head_and_other_methods_end_nothing(app: Starlette) -> None:
    olga = Visitor(app, "olga")
    assert olga.head("/operators/").text == ""
    for method in ("PUT", "DELETE", "PATCH"):
        assert olga.request(method, "/operators/", params={"user": "ann", "end-all": "1"}).status_code == 405


def test_the_operators_own_session_is_marked_and_may_be_ended(app: Starlette) -> None:
    olga = Visitor(app, "olga", FIREFOX)
    page = searched(olga, "olga")
    assert "This device" in page.text
    assert "Sessions that have ended: 1" in olga.click(page, "End all sessions").text
    assert olga.get("/operators/").status_code == 404


# The history


@pytest.fixture
def history(tmp_path: Path, clock: Clock) -> Iterator[SignInHistory]:
    history = SignInHistory(f"sqlite+aiosqlite:///{tmp_path / 'history.db'}", clock=clock)
    asyncio.run(history.create_table())
    return history


def test_operators_see_the_history_of_a_user_and_which_of_them_has_ended_a_session(
    backend: Backend, clock: Clock, history: SignInHistory
) -> None:
    app = with_operators(backend, clock, history=history, on_event=history.record)
    with Visitor(app, "olga") as olga:
        Visitor(app, "ann", SAFARI)
        page = searched(olga, "ann")
        assert "Nothing yet." in page.text
        for number in range(60):
            history.sign_in_failed(Request({"type": "http", "headers": []}), "ann", method=f"way {number}")
        page = olga.click(page, "End all sessions")
        seen = Seen(page.text)
        assert re.search("Signed out by an operator by olga", seen.text)
        assert "way 59" in seen.texts
        assert "way 0" not in seen.texts
        assert "way 0" in Seen(olga.click(page, "Older").text).texts
