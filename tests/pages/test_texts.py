"""Every text of the pages can be translated, and nothing else is in the catalogue."""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from starlette.requests import Request
from starlette.routing import Mount

from starsessions import InMemoryBackend
from starsessions.core.history import What
from starsessions.events import EndedByOperator, Revoked, SignedIn, SignedOut
from starsessions.history import SignInHistory
from starsessions.pages import MESSAGES, DevicesPages, OperatorPages, texts
from starsessions.pages.html import element, filled, joined
from starsessions.pages.texts import time_of
from starsessions.users import UserSessions
from tests.pages.visitor import Seen, Visitor, site
from tests.rows import rows
from tests.site import Clock

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64) Firefox/145.0"


class Catalogue:
    """Translates a text into its number, and remembers which texts it was asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, int] = {}

    def __call__(self, request: Request) -> Any:
        return self.say

    def say(self, text: str) -> str:
        number = self.asked.setdefault(text, len(self.asked))
        if text in (texts.LANGUAGE, texts.DIRECTION):
            return {"en": "ar", "ltr": "rtl"}[text]
        names = " ".join(f"{{{name}}}" for _, name, _, _ in Formatter().parse(text) if name)
        return f"«{number} {names}»"


def test_no_text_escapes_a_translator_and_none_of_the_catalogue_is_unused(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("starsessions.pages.devices.PAGE", 2)
    monkeypatch.setattr("starsessions.pages.operators.PAGE", 2)
    monkeypatch.setattr("starsessions.pages.operators.MOST_COUNTED", 3)
    backend, catalogue = InMemoryBackend(clock=clock), Catalogue()
    history = SignInHistory(f"sqlite+aiosqlite:///{tmp_path / 'history.db'}", clock=clock)
    asyncio.run(history.create_table())
    users, shared = UserSessions(backend), {"history": history, "translate": catalogue, "clock": clock}
    devices = DevicesPages(users, sign_in_url="/login", **shared)  # type: ignore[arg-type]
    operators = OperatorPages(users, guard=lambda request: "an operator", **shared)  # type: ignore[arg-type]
    app = site(backend, Mount("/devices", devices), Mount("/operators", operators))
    pages: list[Any] = []

    def labels(page: Any) -> list[str]:
        pages.append(page)
        return [label for form in Seen(page.text).forms for label in form.buttons]

    with Visitor(app, agent=FIREFOX) as ann:
        for user_agent in (FIREFOX, ""):
            for seconds in (86400, 3600, 60):
                Visitor(app, agent=user_agent).post("/login", params={"user": "ann", "method": ""})
                clock.advance(seconds)
        ann.post("/login", params={"user": "ann", "method": ""})
        first, *_ = labels(ann.get("/devices/"))
        page = pages[-1]
        while older := [attributes["href"] for _, attributes in Seen(pages[-1].text).tags if "rel" in attributes][2:]:
            labels(ann.get(f"/devices/{older[0]}"))
        labels(ann.click(page, first))
        labels(ann.click(page, first))
        labels(ann.post("/devices/end", data={}))
        labels(ann.post("/operators/", data={}))
        labels(ann.get("/devices/history"))
        for event in (
            SignedIn("h", "ann", ""),
            SignedOut("h", "ann"),
            Revoked("h", "ann"),
            EndedByOperator("an operator", "ann", "", 1),
        ):
            history.record(event)
            labels(ann.get("/devices/history"))
        history.sign_in_failed(Request({"type": "http", "headers": []}), "ann")
        labels(ann.get("/devices/history"))

        labels(ann.get("/operators/"))

        def post(**data: str) -> list[str]:
            token = Seen(ann.get("/operators/").text).forms[0].fields["csrf_token"]
            return labels(ann.post("/operators/", data={"csrf_token": token, "user": "ann", **data}))

        post(user="ben")
        post()
        sent = [sent for form in Seen(pages[-1].text).forms for sent in form.buttons.values()]
        *_, one = (each["end"] for each in sent if "end" in each)  # the first is the operator's own
        post(end=one)
        post(end=one)
        last = labels(ann.get("/devices/"))[-1]
        labels(ann.click(pages[-1], last))
        post(**{"end-all": "1"})

    assert set(catalogue.asked) == set(MESSAGES)
    for page in pages:
        assert '<html lang="ar" dir="rtl">' in page.text
        # A translation is a number in quotes, with others in it, and what was not said by the library.
        own = r"([«»\d\s]|Firefox|Linux|ann|ben|an operator)+"
        assert [text for text in Seen(page.text).texts if not re.fullmatch(own, text)] == [], page.url


def test_a_dict_translates_what_it_has_and_leaves_the_rest(clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    german = {"en": "de", "Your devices": "Ihre Geräte", "{browser} on {system}": "{browser} unter {system}"}
    pages = DevicesPages(UserSessions(backend), sign_in_url="/login", translate=german)
    page = Visitor(site(backend, Mount("/devices", pages)), "ann", FIREFOX).get("/devices/")
    assert '<html lang="de" dir="ltr">' in page.text
    assert "<h1>Ihre Geräte</h1>" in page.text
    assert "Firefox unter Linux" in page.text
    assert "Last used" in page.text


def test_the_names_in_braces_of_each_message_can_be_filled() -> None:
    values = dict.fromkeys(("count", "time", "browser", "system", "device", "user", "operator"), "x")
    assert [text for text in MESSAGES if "{" in text.format(**values)] == []
    assert len(set(MESSAGES)) == len(MESSAGES)
    assert [what for what in What if texts.WHAT[what] not in MESSAGES] == []


@rows(
    "seconds, text",
    [
        (-5, "just now"),
        (59, "just now"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (3600, "1 h ago"),
        (86399, "23 h ago"),
        (86400, "1 d ago"),
        (86400 * 400, "400 d ago"),
    ],
)
def test_how_long_ago_something_was(seconds: int, text: str) -> None:
    moment = datetime(2026, 11, 26, tzinfo=UTC)
    assert f">{text}<" in time_of(str, moment, moment.timestamp() + seconds)


def test_html_escapes_what_is_not_html() -> None:
    assert joined(["<", element("b", "&"), None]) == "&lt;<b>&amp;</b>"
    assert (
        element("a", href='"><script>', data_x=False, hidden=True) == '<a href="&quot;&gt;&lt;script&gt;" hidden></a>'
    )
    assert filled("<{a}> {b}", a="{b}", b=element("i", "'")) == "&lt;{b}&gt; <i>&#x27;</i>"
