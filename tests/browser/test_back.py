"""What the Back button shows after a sign-out: the table of the guide, in Chromium."""

from collections.abc import Callable

import pytest

from tests.browser.tab import Tab
from tests.rows import rows

pytestmark = pytest.mark.once

SIGN_OUT, AND_CLEAR = "sign-out", "sign-out-and-clear"


@rows(
    ("cache", "sign_out", "pages_between", "shown"),
    [
        ("", SIGN_OUT, 0, "Ada"),
        ("", SIGN_OUT, 1, "Ada"),
        ("private, no-cache", SIGN_OUT, 0, "Ada"),
        ("private, max-age=600", SIGN_OUT, 0, "Ada"),
        # The page that has the button is put into the browser's memory after that was cleared.
        ("", AND_CLEAR, 0, "Ada"),
        ("", AND_CLEAR, 1, "a visitor"),
        ("private, max-age=600", AND_CLEAR, 1, "a visitor"),
        ("no-store", SIGN_OUT, 0, "a visitor"),
        ("no-store", SIGN_OUT, 1, "a visitor"),
        ("no-store", AND_CLEAR, 0, "a visitor"),
    ],
)
def test_back_after_a_sign_out_shows_what_the_guide_says(
    tab: Tab, start: Callable[..., int], cache: str, sign_out: str, pages_between: int, shown: str
) -> None:
    port = start("pages")
    tab.open(port, "/plain")
    tab.click("sign-in")
    assert tab.open(port, "/account", cache=cache, row=f"{sign_out} {pages_between}") == "Ada"
    for _ in range(pages_between):
        tab.click("to-plain")
    tab.click(sign_out)
    for _ in range(pages_between):
        tab.back()
    assert tab.back() == shown
    tab.browser.refresh()
    assert tab.text() == "a visitor"


def test_with_no_store_back_asks_the_server_although_the_page_says_nothing(tab: Tab, start: Callable[..., int]) -> None:
    port = start("pages", NO_STORE="1")
    tab.open(port, "/plain")
    tab.click("sign-in")
    assert tab.open(port, "/account") == "Ada"
    tab.click(SIGN_OUT)
    assert tab.back() == "a visitor"
