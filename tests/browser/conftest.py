"""Small applications, each in a server of its own, and Chromium. The tests of the demo share the fixtures."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from selenium import webdriver

from tests.browser.tab import Tab
from tests.demo.conftest import chromium, serve
from tests.missing import missing

__all__ = ["chromium", "serve"]

HERE = Path(__file__).parent


@pytest.fixture
def start(serve: Callable[..., int]) -> Callable[..., int]:
    """``start("provider", KEY="value")`` answers the port of the application in this module."""
    return partial(serve, HERE)


@pytest.fixture
def tab(chromium: webdriver.Chrome) -> Tab:
    """A tab without cookies, service workers and cached pages."""
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Storage.clearCookies", {})
    chromium.execute_cdp_cmd("Network.clearBrowserCache", {})
    return Tab(chromium)


@pytest.fixture
def axe() -> str:
    """The code of axe-core. `scripts/test` installs it."""
    path = Path(os.environ.get("STARSESSIONS_AXE", "missing"))
    return path.read_text(encoding="utf-8") if path.is_file() else missing("STARSESSIONS_AXE is no file: axe-core")
