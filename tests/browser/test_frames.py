"""A page of one's own in a sandboxed frame."""

from collections.abc import Callable

import pytest

from tests.browser.tab import Tab

pytestmark = pytest.mark.once


def test_the_cure_for_a_sandboxed_frame_that_is_refused_works(tab: Tab, start: Callable[..., int]) -> None:
    port = start("pages")
    for sandbox, works in [("allow-forms", False), ("allow-forms allow-same-origin", True)]:
        tab.open(port, "/frame", sandbox=sandbox)
        tab.browser.switch_to.frame(0)
        answer = tab.click("say-cached")
        assert (answer == "Saved", "add allow-same-origin" in answer) == (works, not works)
