"""The demo in a real browser: only a browser shows which cookies it accepts, and that they are gone after signing out.

Chromium treats http://localhost as trustworthy, so `Secure` cookies can be tested without a certificate.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from tests.demo.visitors import Visitor, new_name

pytestmark = pytest.mark.once

DAY = 24 * 60 * 60


# --- the page --------------------------------------------------------------------------------------------------------


def test_everything_on_the_page_works_without_scripts(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        visitor.sign_in("Ada")
        assert visitor.sees("name") == "Ada"
    finally:
        visitor.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("backend", ["memory", "encrypted"])
def test_a_person_signs_in_fills_the_cart_and_signs_out(visit: Callable[..., Visitor], backend: str) -> None:
    visitor = visit(DEMO_BACKEND=backend)
    assert visitor.sees("backend") == backend
    assert visitor.cookies() == []

    visitor.click("add-tea")
    visitor.sign_in("Zoë 🦉")
    assert visitor.sees("name") == "Zoë 🦉"
    visitor.click("add-honey")
    visitor.click("more-honey")
    visitor.click("remove-tea")
    assert (visitor.sees("quantity-tea"), visitor.sees("quantity-honey")) == (None, "2")
    visitor.browser.refresh()
    assert (visitor.sees("pieces"), visitor.sees("visits")) == ("2", "6")

    visitor.click("sign-out")
    assert visitor.sees("name") is None
    assert visitor.sees("pieces") == "0"
    assert visitor.cookies() == []


def test_a_message_survives_the_redirect_and_is_shown_once(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.click("add-tea")
    assert visitor.messages() == ["In your cart: Darjeeling tea."]
    visitor.browser.refresh()
    assert visitor.messages() == []

    visitor.sign_in("Ada")
    assert visitor.messages() == ["Welcome, Ada."]
    visitor.click("sign-out")
    assert visitor.messages() == ["You are signed out."]
    visitor.browser.refresh()
    assert visitor.messages() == []
    assert visitor.cookies() == []


@pytest.mark.guarantee(5)
def test_a_visitor_whose_sign_in_is_sent_twice_is_signed_in_with_the_cart(
    visit: Callable[..., Visitor], tmp_path: Path
) -> None:
    """The browser throws the first answer away. Without luck with the time, nine of twenty were not signed in."""
    for delay in range(0, 20, 2):
        visitor = visit(DEMO_BACKEND=f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}")
        visitor.click("add-tea")
        visitor.send_twice("name-field", "Ada", delay)
        assert (visitor.sees("name"), visitor.sees("pieces")) == ("Ada", "1"), f"{delay} ms"
        visitor.open("")
        assert (visitor.sees("name"), visitor.sees("pieces")) == ("Ada", "1"), f"{delay} ms"


# --- two tabs --------------------------------------------------------------------------------------------------------


@contextmanager
def in_another_tab(visitor: Visitor) -> Iterator[None]:
    first = visitor.browser.current_window_handle
    visitor.browser.switch_to.new_window("tab")
    visitor.open("")
    yield
    visitor.browser.close()
    visitor.browser.switch_to.window(first)


def test_a_form_opened_before_sign_in_gets_a_clear_error(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    with in_another_tab(visitor):
        visitor.sign_in("Ada")
    visitor.click("add-tea")
    assert visitor.sees("refused") == "That page was out of date"
    assert "You are signed in as Ada now." in visitor.browser.find_element(By.TAG_NAME, "main").text
    visitor.click("back")
    visitor.click("add-tea")
    assert visitor.sees("pieces") == "1"


def test_a_form_opened_before_sign_out_gets_a_clear_error(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.sign_in("Ada")
    with in_another_tab(visitor):
        visitor.click("sign-out")
    visitor.click("add-tea")
    assert visitor.sees("refused") == "That page was out of date"
    assert "You are not signed in now." in visitor.browser.find_element(By.TAG_NAME, "main").text
    visitor.click("back")
    assert visitor.sees("pieces") == "0"


def test_two_tabs_of_a_visitor_both_fill_the_cart(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    with in_another_tab(visitor):
        visitor.click("add-tea")
    visitor.click("add-honey")
    assert visitor.sees("pieces") == "2"


# --- two devices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["memory", "cookie"])
def test_a_device_signed_out_elsewhere_is_notified_and_anonymous_on_its_next_request(
    visit: Callable[..., Visitor], backend: str
) -> None:
    here, there = visit(DEMO_BACKEND=backend), visit("another_chromium", DEMO_BACKEND=backend)
    user = new_name()
    for device in (here, there):
        device.sign_in(user, remember=True)
        device.waits_until_live()

    here.click("to-devices")
    assert here.devices() == ["Chrome on Linux This device", "Chrome on Linux"]
    here.click_on_first("form[action=end-others] button")
    assert here.messages() == ["All other devices are signed out: 1"]
    assert here.devices() == ["Chrome on Linux This device"]

    assert there.hears_that_it_was_signed_out()
    there.click("to-devices")
    assert (there.sees("name"), there.sees("sign-in-title")) == (None, "Sign in to go on")

    here.open("")
    here.waits_until_live()
    assert (here.sees("name"), here.sees("ended")) == (user, None)


def test_a_sign_out_at_the_provider_is_seen_by_the_open_pages_of_both_browsers(
    visit: Callable[..., Visitor], start_with_provider: Callable[[str], int]
) -> None:
    port, user = start_with_provider("memory"), new_name()
    here, there = visit(port=port), visit("another_chromium", port=port)
    for device in (here, there):
        device.click("with-provider")
        device.sign_in(user)
        assert device.messages() == [f"Welcome, {user}."]
        device.waits_until_live()

    with in_another_tab(here):
        here.click("to-provider")
        assert (here.sees("name"), here.sees("browsers")) == (user, "In 2 browsers.")
        here.click("sign-out-everywhere")
        assert here.sees("name") is None
    assert there.hears_that_it_was_signed_out()
    assert here.hears_that_it_was_signed_out()
    there.open("")
    assert there.sees("name") is None


def test_a_form_of_a_device_that_was_signed_out_gets_a_clear_answer(visit: Callable[..., Visitor]) -> None:
    here, there = visit(), visit("another_chromium")
    user = new_name()
    for device in (here, there):
        device.sign_in(user)
    here.click("to-devices")
    here.click_on_first(".ss-list button")
    assert here.messages() == ["That device is signed out."]

    there.click("add-tea")
    assert there.sees("refused") == "That page was out of date"
    there.click("back")
    assert (there.sees("name"), there.sees("pieces")) == (None, "0")


@pytest.mark.parametrize("backend", ["memory", "cookie"])
def test_other_tabs_of_the_device_that_signed_out_all_others_stay_live(
    visit: Callable[..., Visitor], backend: str
) -> None:
    here, there = visit(DEMO_BACKEND=backend), visit("another_chromium", DEMO_BACKEND=backend)
    user = new_name()
    for device in (here, there):
        device.sign_in(user)
        device.waits_until_live()
    with in_another_tab(here):  # which gives the session a new id, so the stream with the old one must come back
        here.click("to-devices")
        here.click_on_first("form[action=end-others] button")
        assert there.hears_that_it_was_signed_out()
    here.waits_until_live()
    assert here.sees("ended") is None


# --- cookies as the browser sees them --------------------------------------------------------------------------------


def test_the_cookie_is_out_of_reach_for_scripts_and_other_sites(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.sign_in()
    cookie = visitor.cookie()
    assert cookie["name"] == "session"
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Lax", False)
    assert (cookie["domain"], cookie["path"]) == ("localhost", "/")
    assert visitor.browser.execute_script("return document.cookie") == ""


def test_remember_me_outlives_the_browser_and_anything_else_does_not(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.sign_in(remember=True)
    kept = visitor.cookie()
    now = visitor.browser.execute_script("return Date.now() / 1000")
    assert kept["session"] is False
    assert 30 * DAY - 60 <= kept["expires"] - now <= 30 * DAY

    visitor.click("sign-out")
    visitor.sign_in(remember=False)
    assert visitor.cookie()["session"] is True


@pytest.mark.guarantee(6)
@pytest.mark.parametrize(("name", "backend"), [("__Host-session", "memory"), ("__Secure-session", "encrypted")])
def test_a_cookie_with_a_prefix_is_accepted_and_deleted_on_sign_out(
    visit: Callable[..., Visitor], name: str, backend: str
) -> None:
    visitor = visit(DEMO_COOKIE=name, DEMO_BACKEND=backend)
    visitor.sign_in()
    assert visitor.sees("name") == "Ada"
    cookie = visitor.cookie()
    assert (cookie["name"], cookie["secure"], cookie["path"]) == (name, True, "/")

    visitor.click("sign-out")
    assert visitor.sees("name") is None
    assert visitor.cookies() == []


@pytest.mark.guarantee(6)
@pytest.mark.parametrize("remember", [True, False], ids=["remembered", "until the browser closes"])
def test_a_partitioned_cookie_is_accepted_and_deleted_on_sign_out(
    visit: Callable[..., Visitor], remember: bool
) -> None:
    visitor = visit(DEMO_PARTITIONED="1")
    visitor.sign_in(remember=remember)
    assert visitor.sees("name") == "Ada"
    cookie = visitor.cookie()
    assert (cookie["secure"], cookie["session"]) == (True, not remember)
    assert cookie["partitionKey"]["topLevelSite"] == "http://localhost"

    visitor.click("sign-out")
    assert visitor.sees("name") is None
    assert visitor.cookies() == []


def test_the_browser_brings_its_session_to_the_websocket(visit: Callable[..., Visitor]) -> None:
    visitor = visit(DEMO_COOKIE="__Host-session")
    visitor.sign_in("Ada")
    answer = visitor.browser.execute_async_script(
        """
        const done = arguments[0], socket = new WebSocket("/ws");
        socket.onopen = () => socket.send("hello");
        socket.onmessage = event => { socket.close(); done(event.data); };
        socket.onerror = () => done("error");
        """
    )
    assert '"name":"Ada"' in answer
    visitor.browser.refresh()
    assert "sockets" in (visitor.sees("keys") or "")
