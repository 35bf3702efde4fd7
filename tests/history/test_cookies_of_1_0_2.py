"""Cookies of version 1.0.2 are read, and it reads the cookies of 3.0 as long as the data is plain JSON."""

from typing import Any

import pytest

from starsessions import CookieBackend, Session, SessionMiddleware
from tests.history.pages import BrowserOf, pages, said, seen
from tests.history.sealed_by_1_0_2 import Version102
from tests.history.test_cookies_of_starlette import ANOTHER_KEY, PLAIN, same
from tests.site import KEY

DATA = {"user": "Zoë", "cart": [{"item": "apple", "count": 2}], "seen": None, "rate": 0.5, "member": True}


def ours(browser_of: BrowserOf, cookie: str | None = None, **settings: Any) -> Any:
    browser = browser_of(pages(SessionMiddleware, **{"secret_key": KEY, "autoload": True, **settings}))
    if cookie is not None:
        browser.cookies.set("session", cookie, domain="testserver.local", path="/")
    return browser


def test_the_reference_process_runs_version_1_0_2(version_1_0_2: Version102) -> None:
    [metadata] = version_1_0_2.directory.glob("starsessions-*.dist-info")
    assert metadata.name == "starsessions-1.0.2.dist-info"


@pytest.mark.anyio
async def test_the_backends_of_1_0_2_and_3_0_read_each_others_cookies(version_1_0_2: Version102) -> None:
    backend = CookieBackend(KEY, 3600)
    theirs = version_1_0_2.ask(*(["seal", KEY, 3600, data] for data in PLAIN.values()))
    for cookie, data in zip(theirs, PLAIN.values(), strict=True):
        assert same(await backend.read(cookie), data)

    written = [await backend.write(data) for data in PLAIN.values()]
    read = version_1_0_2.ask(*(["open", KEY, 3600, cookie] for cookie in written))
    assert same(read, list(PLAIN.values()))


@pytest.mark.anyio
async def test_a_session_by_hand_takes_its_cookie_as_an_id(version_1_0_2: Version102) -> None:
    session = Session(CookieBackend(KEY, 3600), version_1_0_2.seal(KEY, DATA))
    await session.load()
    assert session.data == DATA
    session["count"] = 1
    assert version_1_0_2.open(KEY, await session.persist()) == DATA | {"count": 1}


def test_a_session_survives_the_upgrade_and_the_rollback(version_1_0_2: Version102, browser_of: BrowserOf) -> None:
    _, [set_cookie] = version_1_0_2.visit(KEY, None, DATA)
    browser = ours(browser_of, said(set_cookie)["session"])
    assert seen(browser) == DATA
    assert "set-cookie" not in browser.get("/").headers

    changed = browser.post("/", json={"seen": "by us"})
    assert len(browser.cookies.jar) == 1
    cookie = said(changed.headers["set-cookie"])["session"]
    before, [set_cookie] = version_1_0_2.visit(KEY, cookie, {"seen": "by them"})
    assert before == DATA | {"seen": "by us"}

    browser = ours(browser_of, said(set_cookie)["session"])
    assert seen(browser) == DATA | {"seen": "by them"}


def test_the_cookie_has_the_attributes_of_1_0_2(version_1_0_2: Version102, browser_of: BrowserOf) -> None:
    _, [theirs] = version_1_0_2.visit(KEY, None, DATA)
    cookie = ours(browser_of).post("/", json=DATA).headers["set-cookie"]
    assert said(cookie) | {"session": None} == said(theirs) | {"session": None}


def test_a_cookie_cleared_by_1_0_2_opens_no_session(version_1_0_2: Version102, browser_of: BrowserOf) -> None:
    _, [set_cookie] = version_1_0_2.visit(KEY, None, DATA)
    _, [set_cookie] = version_1_0_2.visit(KEY, said(set_cookie)["session"], None)
    assert seen(ours(browser_of, said(set_cookie)["session"])) == {}


def test_another_key_reads_nothing(version_1_0_2: Version102, browser_of: BrowserOf) -> None:
    cookie = version_1_0_2.seal(ANOTHER_KEY, DATA)
    assert seen(ours(browser_of, cookie)) == {}
    assert seen(ours(browser_of, cookie, secret_key=[KEY, ANOTHER_KEY])) == DATA
    response = ours(browser_of).post("/", json=DATA)
    assert version_1_0_2.open(ANOTHER_KEY, said(response.headers["set-cookie"])["session"] or "") == {}


def test_data_beyond_the_format_of_1_0_2_opens_no_session_there(
    version_1_0_2: Version102, browser_of: BrowserOf
) -> None:
    response = ours(browser_of, absolute_timeout=3600).post("/", json=DATA)
    cookie = said(response.headers["set-cookie"])["session"]
    assert cookie is not None
    assert version_1_0_2.open(KEY, cookie) == {}
