"""The demo's pages on screens, wide and narrow, in light and in dark; `scripts/screenshots` keeps the pictures."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from tests.demo.visitors import Browser, Visitor, sign_in

pytestmark = pytest.mark.once

PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Mobile Safari/604.1"
SCREENS = {"desktop": (1024, 720), "phone": (390, 780)}
ENOUGH_CONTRAST = 4.5  # WCAG 2.2, 1.4.3

CONTRASTS = """
    const light = colour => {
        const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        const [r, g, b] = colour.match(/[\\d.]+/g).map(Number);
        return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    };
    const behind = element => {
        for (; element; element = element.parentElement) {
            const colour = getComputedStyle(element).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return colour;
        }
    };
    const speaks = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    return [...document.querySelectorAll("body *")].filter(
        element => element.checkVisibility() && speaks(element)
    ).map(element => {
        const [darker, lighter] = [getComputedStyle(element).color, behind(element)].map(light).sort((a, b) => a - b);
        return [(lighter + 0.05) / (darker + 0.05), element.outerHTML];
    });
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures of the pages go; DEMO_SCREENSHOT_DIR keeps them."""
    directory = Path(os.environ.get("DEMO_SCREENSHOT_DIR") or tmp_path)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def shop(visitor: Visitor) -> None:
    visitor.click("add-tea")
    visitor.sign_in("Ada")
    visitor.click("add-honey")


def devices(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    visitor.click("to-devices")
    if len(visitor.devices()) > 1:  # what an earlier test has left
        visitor.click_on_first("form[action=end-others] button")
    with Browser(visitor.port, **{"user-agent": PHONE}) as phone:
        sign_in(phone, "Ada")
    visitor.click("to-devices")


def signed_out(visitor: Visitor) -> None:
    """The session ends elsewhere while the page is open."""
    shop(visitor)
    visitor.waits_until_live()
    with Browser(visitor.port, cookie=visitor.cookie()["value"]) as elsewhere:
        elsewhere.get("/")
        elsewhere.post("/sign-out")
    visitor.hears_that_it_was_signed_out()


def stale(visitor: Visitor) -> None:
    visitor.sign_in("Ada")
    visitor.browser.execute_cdp_cmd("Storage.clearCookies", {})
    visitor.click("add-tea")


def visitor(visitor: Visitor) -> None:
    """No one is signed in."""


def provider(visitor: Visitor) -> None:
    visitor.open("provider/")
    visitor.sign_in("Ada")


@contextmanager
def screen(visitor: Visitor, size: tuple[int, int]) -> Iterator[None]:
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    try:
        visitor.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield
    finally:
        visitor.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        visitor.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("device", SCREENS)
@pytest.mark.parametrize(
    "page",
    [shop, devices, signed_out, stale, visitor, provider],
    ids=lambda page: page.__name__.replace("_", "-"),
)
def test_the_page_fits_the_screen_and_can_be_read_in_light_and_in_dark(
    visit: Callable[..., Visitor],
    pictures: Path,
    request: pytest.FixtureRequest,
    page: Callable[[Visitor], None],
    device: str,
) -> None:
    visitor = visit()
    browser = visitor.browser
    with screen(visitor, SCREENS[device]):
        page(visitor)
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            assert browser.execute_script("return document.documentElement.scrollWidth") <= SCREENS[device][0]

            colour = browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
            red = int(colour.partition("(")[2].partition(",")[0])
            assert (red > 200) if scheme == "light" else (red < 50), colour
            faint = [(ratio, html) for ratio, html in browser.execute_script(CONTRASTS) if ratio < ENOUGH_CONTRAST]
            assert faint == [], scheme

            picture = pictures / f"{request.node.callspec.id}-{scheme}.png"
            assert browser.save_screenshot(str(picture))
            assert picture.read_bytes().startswith(b"\x89PNG")
