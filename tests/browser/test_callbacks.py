"""Forms that another site sends here: the three ways of the guide, as they are printed, over two sites in Chromium.

`localhost` and `127.0.0.1` are two sites, and Chromium treats http://localhost as trustworthy, so it takes `Secure`
cookies from there.
"""

from collections.abc import Callable

import pytest

from tests.browser.tab import Tab

pytestmark = pytest.mark.once

Start = Callable[..., int]


@pytest.fixture
def port(start: Start) -> int:
    return start("guide", GUIDE="guides/users/callbacks.md", EXAMPLE="0")


def come_back(tab: Tab, start: Start, port: int, to: str, **fields: str) -> str:
    """Send the form that is on the provider's page."""
    tab.open(start("provider"), host="127.0.0.1", to=f"http://localhost:{port}{to}", **fields)
    return tab.click("back")


def test_a_callback_that_redirects_finds_the_session_on_the_next_page(tab: Tab, start: Start, port: int) -> None:
    order = tab.open(port, "/payment")
    before = tab.cookies()
    assert tab.open(port, "/payment/done") == "The payment is missing."
    assert come_back(tab, start, port, "/payment/callback", order=order) == "Thank you."
    assert tab.cookies() == before


def test_a_callback_that_is_sent_again_brings_the_session(tab: Tab, start: Start, port: int) -> None:
    state = tab.open(port, "/login")
    come_back(tab, start, port, "/login/callback", state=state, user='ann"><b>')
    tab.waits_for("Welcome.")
    come_back(tab, start, port, "/login/callback", state=state, user="mallory")
    tab.waits_for("The sign-in failed.")


def test_a_second_cookie_arrives_with_the_callback(tab: Tab, start: Start, port: int) -> None:
    state = tab.open(port, "/booking")
    assert come_back(tab, start, port, "/booking/callback", state=state) == "Booked."
    assert "Please start again." in come_back(tab, start, port, "/booking/callback", state=state)


def test_what_a_callback_writes_leaves_the_session_of_the_browser_alone(tab: Tab, start: Start) -> None:
    """The browser has kept its cookie back, so a new one would replace a session that is still in use."""
    pages = start("pages")
    tab.open(pages, "/plain")
    tab.click("sign-in")
    come_back(tab, start, pages, "/say")
    assert tab.open(pages, "/account") == "Ada"


def test_a_callback_may_sign_the_user_in(tab: Tab, start: Start) -> None:
    pages = start("pages")
    come_back(tab, start, pages, "/sign-in")
    assert tab.open(pages, "/account") == "Ada"
