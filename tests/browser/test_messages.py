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
