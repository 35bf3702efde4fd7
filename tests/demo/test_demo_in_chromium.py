"""The demo in a real browser: only a browser shows which cookies it accepts, and that they are gone after signing out.

Chromium treats http://localhost as trustworthy, so `Secure` cookies can be tested without a certificate.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

from tests.missing import missing

FLAGS = [
    "--headless",
    "--no-sandbox",  # Chromium refuses to run as root otherwise; it only ever sees our own page
    "--disable-gpu",
    "--disable-dev-shm-usage",  # the default /dev/shm of a container is too small
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
]
DAY = 24 * 60 * 60


def program(name: str) -> str:
    return shutil.which(name) or missing(f"{name} is not installed (Debian: apt-get install chromium chromium-driver)")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    chromium, driver = program("chromium"), program("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}", "--window-size=1280,1000"]:
        options.add_argument(flag)
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver)) as browser:
        browser.set_page_load_timeout(60)
        yield browser


class Visitor:
    """Somebody in front of the browser, on the demo's page."""

    def __init__(self, browser: webdriver.Chrome, port: int) -> None:
        self.browser = browser
        browser.get(f"http://localhost:{port}/")

    def click(self, element_id: str) -> None:
        """Sends a form, and waits for the page that comes back."""
        page = self.browser.find_element(By.TAG_NAME, "html")
        self.browser.find_element(By.ID, element_id).click()
        # A question that meets the page while it is being replaced is answered with an unnamed error: ask again.
        WebDriverWait(self.browser, 30, ignored_exceptions=[WebDriverException]).until(staleness_of(page))

    def sign_in(self, name: str = "Ada", *, remember: bool = False) -> None:
        self.browser.find_element(By.ID, "name-field").send_keys(name)
        if remember:
            self.browser.find_element(By.ID, "remember").click()
        self.click("sign-in")

    def sees(self, element_id: str) -> str | None:
        """What can be read in this place; None if there is no such place."""
        found = self.browser.find_elements(By.ID, element_id)
        return found[0].text if found else None

    def cookies(self) -> list[dict[str, Any]]:
        """All that the browser holds, for every site and in every partition."""
        answer = self.browser.execute_cdp_cmd("Storage.getCookies", {})
        return list(answer["cookies"])

    def cookie(self) -> dict[str, Any]:
        (cookie,) = self.cookies()
        return cookie


@pytest.fixture
def visit(chromium: webdriver.Chrome, start_demo: Callable[..., int]) -> Callable[..., Visitor]:
    """``visit(DEMO_BACKEND="cookie")``: a visitor without cookies, on the page of a demo with these settings."""
    chromium.execute_cdp_cmd("Storage.clearCookies", {})

    def visit(**settings: str) -> Visitor:
        return Visitor(chromium, start_demo(**{"DEMO_BACKEND": "memory", **settings}))

    return visit


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures of the page go; DEMO_SCREENSHOT_DIR keeps them."""
    directory = Path(os.environ.get("DEMO_SCREENSHOT_DIR") or tmp_path)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


# --- the page --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_the_page_fits_the_screen_and_follows_the_colour_scheme(
    visit: Callable[..., Visitor], pictures: Path, width: int, scheme: str
) -> None:
    visitor = visit()
    browser = visitor.browser
    visitor.click("add-tea")
    visitor.sign_in("Ada")
    screen = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    try:
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        colour = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        red = int(colour.partition("(")[2].partition(",")[0])
        assert (red > 200) if scheme == "light" else (red < 50), colour
        picture = pictures / f"demo-{scheme}-{width}.png"
        assert browser.save_screenshot(str(picture))
        assert picture.read_bytes().startswith(b"\x89PNG")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_on_the_page_works_without_scripts(visit: Callable[..., Visitor]) -> None:
    visitor = visit()
    visitor.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        visitor.sign_in("Ada")
        assert visitor.sees("name") == "Ada"
    finally:
        visitor.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("backend", ["memory", "cookie", "encrypted"])
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


@pytest.mark.parametrize("backend", ["memory", "cookie", "encrypted"])
@pytest.mark.parametrize("name", ["__Host-session", "__Secure-session"])
def test_a_cookie_with_a_prefix_is_accepted_and_gone_after_signing_out(
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


@pytest.mark.parametrize("remember", [True, False], ids=["remembered", "until the browser closes"])
def test_a_partitioned_cookie_is_accepted_and_gone_after_signing_out(
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
