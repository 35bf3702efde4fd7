"""Flash messages where the browser, and not the application, decides how a page is fetched."""

from collections.abc import Callable, Iterator

import pytest

from tests.browser.tab import Tab

pytestmark = pytest.mark.once

WORKER = """
const [path] = arguments;
await navigator.serviceWorker.register(path);
await navigator.serviceWorker.ready;
while (!navigator.serviceWorker.controller) await new Promise(r => setTimeout(r, 10));
"""
NO_WORKER = """
for (const worker of await navigator.serviceWorker.getRegistrations()) await worker.unregister();
"""


@pytest.fixture
def behind_worker(tab: Tab, start: Callable[..., int]) -> Iterator[Callable[[str], Tab]]:
    """``behind_worker(path)``: a tab whose requests go through this service worker."""
    port = start("pages")

    def install(path: str) -> Tab:
        tab.open(port, "/plain")
        assert tab.script(WORKER, path) is None
        return tab

    yield install
    tab.open(port, "/plain")
    tab.script(NO_WORKER)


@pytest.mark.guarantee(23)
def test_a_page_behind_a_service_worker_shows_its_message_once(behind_worker: Callable[[str], Tab]) -> None:
    tab = behind_worker("/worker.js")
    assert tab.click("say") == "Saved (navigate empty)"
    tab.browser.refresh()
    assert tab.text() == "no message (navigate empty)"


def test_a_worker_that_makes_its_own_request_gets_no_message(behind_worker: Callable[[str], Tab]) -> None:
    """It looks like any `fetch()`: the guide says so."""
    tab = behind_worker("/worker.js?own")
    tab.click("say")
    tab.browser.refresh()
    assert tab.text() == "no message (cors empty)"


@pytest.mark.guarantee(10, 23)
def test_a_page_that_may_be_cached_shows_its_message_once(tab: Tab, start: Callable[..., int]) -> None:
    """The page sends `private, max-age=600`, and its message must not come out of the browser's cache."""
    tab.open(start("pages"), "/plain")
    tab.click("sign-in")  # otherwise the session ends with its last message, and the cookie is deleted
    for _ in range(3):  # the clock's second may change in between, and then a cookie is sent, and with it no-store
        assert tab.click("say-cached") == "Saved"
        tab.click("to-plain")
        assert tab.click("to-cached") == "no message"
        tab.click("to-plain")
