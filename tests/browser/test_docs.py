"""The documentation in Chromium, as `scripts/docs --build` has built it: on any screen, in light and in dark."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.tab import Tab
from tests.browser.test_pages import AXE, RULES
from tests.missing import missing

pytestmark = pytest.mark.once

SITE = Path(__file__).parents[2] / ".cache" / "site"
PAGES = ["/", "/guides/production/choose-a-backend/", "/reference/session/"]
SCREENS = {"desktop": (1280, 720), "phone": (320, 640)}  # with the navigation beside the text, and without it
OF_THE_THEME = {
    "landmark-unique": "the navigation has two landmarks of one name: the section, and the list in it",
    "scrollable-region-focusable": "wide code and tables have no tabindex; Chromium and Firefox focus them without one",
}
"""By rule of axe: why what it finds is not of our making, and can stay."""

INPUT = "return document.activeElement.shadowRoot?.activeElement?.matches('input')"
FIRST_HIT = """
    const roots = [...document.querySelectorAll("*")].map(element => element.shadowRoot).filter(root => root);
    const [hit] = roots.flatMap(root => [...root.querySelectorAll("[role=option]")]);
    return hit && new URL(hit.href).pathname === arguments[0];
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Do not write down each request."""


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    """The port of the documentation."""
    if not (SITE / "index.html").is_file():
        missing("the documentation is not built: scripts/docs --build")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def open_as_a_stranger(tab: Tab, port: int, page: str) -> None:
    """Open a page without the colours that the site has stored, and forget what the console said before."""
    tab.open(port, page, "127.0.0.1")
    tab.browser.execute_script("localStorage.clear()")
    tab.browser.get_log("browser")
    tab.open(port, page, "127.0.0.1")


@pytest.mark.parametrize("device", SCREENS)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_any_screen_and_axe_finds_nothing_of_our_making(
    site: int, tab: Tab, axe: str, page: str, device: str
) -> None:
    width, height = SCREENS[device]
    with tab.on_a_screen(width, height):
        for scheme in ("light", "dark"):
            tab.prefer(scheme)
            open_as_a_stranger(tab, site, page)
            assert tab.scheme() == scheme
            assert tab.browser.execute_script("return document.documentElement.scrollWidth") <= width
            tab.browser.execute_script(axe)
            found = [one for one in tab.script(AXE, RULES) if one.partition(":")[0] not in OF_THE_THEME]
            assert found == [], scheme
            assert tab.browser.get_log("browser") == []


@pytest.mark.parametrize("device", SCREENS)
def test_the_search_leads_to_the_page(site: int, tab: Tab, device: str) -> None:
    with tab.on_a_screen(*SCREENS[device]):
        open_as_a_stranger(tab, site, "/")
        buttons = tab.browser.find_elements(By.CSS_SELECTOR, ".md-search__button, label[for=__search]")
        [button] = [button for button in buttons if button.is_displayed()]
        button.click()
        tab.waits_until(INPUT)
        ActionChains(tab.browser).send_keys("rotate keys").perform()
        tab.waits_until(FIRST_HIT, "/guides/production/rotate-keys/")
        ActionChains(tab.browser).send_keys(Keys.ENTER).perform()
        tab.waits_for("change the secret without signing users out")
        assert tab.browser.get_log("browser") == []
