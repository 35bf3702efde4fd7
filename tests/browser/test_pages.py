"""The pages of the library in Chromium: without scripts, on a phone, in the dark, and for people with a disability."""

from collections.abc import Callable, Iterator
from urllib.request import Request, urlopen

import pytest
from selenium.webdriver.common.by import By

from tests.browser.tab import Tab

pytestmark = pytest.mark.once

PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Mobile Safari/604.1"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
SCREENS = {"desktop": (1024, 720), "phone": (320, 640)}  # WCAG 2.2, 1.4.10: 320 pixels
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
AXE = """
    const found = await axe.run(document, {runOnly: {type: "tag", values: arguments[0]}});
    return found.violations.map(one => one.id + ": " + one.nodes.map(node => node.html).join(" "));
"""


@pytest.fixture
def without_scripts(tab: Tab) -> Iterator[Tab]:
    tab.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    yield tab
    tab.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def elsewhere(port: int, user: str) -> None:
    """Sign in on two other devices, and fail to once."""
    for agent in (PHONE, FIREFOX):
        url = f"http://127.0.0.1:{port}/login?user={user}"
        urlopen(Request(url, headers={"user-agent": agent})).close()  # with its cookies it goes no further


def devices(tab: Tab, port: int) -> None:
    elsewhere(port, "ann")
    tab.open(port, "/login", user="ann")
    tab.click_on("button[name=handle]")


def history(tab: Tab, port: int) -> None:
    devices(tab, port)
    tab.open(port, "/account/devices/history")


def operators(tab: Tab, port: int) -> None:
    devices(tab, port)
    tab.open(port, "/operators/")
    tab.browser.find_element(By.ID, "ss-user").send_keys("ann")
    tab.click_on(".ss-main")
    tab.browser.find_element(By.TAG_NAME, "summary").click()


def front(tab: Tab, port: int) -> None:
    """The first page for operators."""
    devices(tab, port)
    tab.open(port, "/operators/")


def expired(tab: Tab, port: int) -> None:
    devices(tab, port)
    tab.browser.execute_script("document.querySelector('[name=csrf_token]').value = 'stale'")
    tab.click_on("button[name=handle]")


@pytest.mark.parametrize("device", SCREENS)
@pytest.mark.parametrize("page", [devices, history, front, operators, expired], ids=lambda page: page.__name__)
def test_axe_finds_nothing_on_a_page_on_any_screen_in_light_and_in_dark(
    start: Callable[..., int], tab: Tab, axe: str, page: Callable[[Tab, int], None], device: str
) -> None:
    port = start("devices")
    width, height = SCREENS[device]
    with tab.on_a_screen(width, height):
        page(tab, port)
        for scheme in ("light", "dark"):
            tab.prefer(scheme)
            assert tab.scheme() == scheme
            tab.browser.execute_script(axe)
            assert tab.script(AXE, RULES) == [], scheme
            assert tab.browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_axe_finds_what_is_wrong_with_a_page(start: Callable[..., int], tab: Tab, axe: str) -> None:
    devices(tab, start("devices"))
    tab.browser.execute_script("document.querySelector('h1').style.color = '#eee'; document.documentElement.lang = ''")
    tab.browser.execute_script(axe)
    assert {finding.partition(":")[0] for finding in tab.script(AXE, RULES)} == {"color-contrast", "html-has-lang"}


def test_everything_works_without_scripts(start: Callable[..., int], without_scripts: Tab) -> None:
    tab, port = without_scripts, start("devices")
    elsewhere(port, "eve")
    text = tab.open(port, "/login", user="eve")
    assert "Safari on iPhone" in text
    assert "This device" in text
    text = tab.click_on("button[aria-label='Sign out Safari on iPhone']")
    assert "That device is signed out." in text
    assert "Safari on iPhone" not in text
    text = tab.click_on("form[action=end-others] button")
    assert "All other devices are signed out: 1" in text
    assert "Failed attempt to sign in" in tab.click_on("nav a[href=history]")

    elsewhere(port, "ben")
    tab.open(port, "/operators/")
    tab.browser.find_element(By.ID, "ss-user").send_keys("ben")
    assert "Live sessions: 2" in tab.click_on(".ss-main")
    tab.browser.find_element(By.TAG_NAME, "summary").click()
    assert "This signs the user out everywhere." in tab.text()
    assert "Sessions that have ended: 2" in tab.click_on("details button")


def test_the_policy_of_the_page_allows_its_own_stylesheet(start: Callable[..., int], tab: Tab) -> None:
    devices(tab, start("devices"))
    radius = tab.browser.find_element(By.CSS_SELECTOR, ".ss-list > li").value_of_css_property("border-top-left-radius")
    assert radius == "12px"
