"""What the guide says about large cookies behind proxies is what these proxies do."""

import re
from collections.abc import Iterator

import httpx2
import pytest

from tests.docs.pages import DOCS, blocks
from tests.wide.asgi import AsgiServer, serving
from tests.wide.proxies import PROXIES, behind

pytestmark = pytest.mark.wide

GUIDE = DOCS / "guides" / "production" / "proxy.md"
FITS = {
    name: int(size.replace(",", ""))
    for name, size in re.findall(r"^\| (\w+) \| ([\d,]+) \|", GUIDE.read_text(), re.MULTILINE)
}
LINES = {block.language: block.code for block in blocks(GUIDE) if block.heading == "Large cookies"}
ALL = 27_000  # what 9 cookies hold


@pytest.fixture(scope="module")
def application() -> Iterator[AsgiServer]:
    with serving("uvicorn-uvloop-httptools", MAX_COOKIES="9") as server:
        yield server


def comes_back(url: str, size: int) -> bool:
    """Store a session of this size, and return whether the next request brings it."""
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as browser:
        try:
            if browser.post("/fill", params={"size": size}).status_code != 200:
                return False
            return browser.get("/fill").text == str(size)
        except httpx2.RemoteProtocolError:
            return False


def test_the_guide_has_a_row_and_lines_for_each_proxy() -> None:
    assert set(FITS) == set(PROXIES)
    assert set(LINES) == {name.lower() for name in PROXIES}


@pytest.mark.parametrize("name", PROXIES)
def test_as_much_fits_as_the_guide_says_and_little_more(application: AsgiServer, name: str) -> None:
    with behind(name, application.port) as proxy:
        assert comes_back(proxy.url, FITS[name])
        assert not comes_back(proxy.url, FITS[name] * 107 // 100 // 2 * 2)


@pytest.mark.parametrize("name", PROXIES)
def test_with_the_lines_of_the_guide_nine_cookies_fit(application: AsgiServer, name: str) -> None:
    with behind(name, application.port, LINES[name.lower()]) as proxy:
        assert comes_back(proxy.url, ALL)
