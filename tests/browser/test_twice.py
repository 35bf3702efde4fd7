"""A form that is sent twice: the browser throws the first answer away, and its cookie with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser.tab import Tab

pytestmark = pytest.mark.once

TWICE = """
const form = document.forms[0];
form.submit();
fetch("/arrived").then(() => form.submit());
"""


@pytest.mark.parametrize("backend", ["memory", "sqlite"])
def test_a_sign_in_that_is_sent_twice_ends_signed_in_with_the_cart(
    tab: Tab, start: Callable[..., int], tmp_path: Path, backend: str
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}" if backend == "sqlite" else backend
    port = start("twice", BACKEND=url)
    tab.open(port, "/shelf")
    tab.browser.execute_script(TWICE)
    tab.waits_for(", ")
    assert tab.text() == "Ada, tea"
    assert tab.open(port, "/who") == "Ada, tea"
