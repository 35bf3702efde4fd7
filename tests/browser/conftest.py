"""Small applications, each in a server of its own, and Chromium. The tests of the demo share the fixtures."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from selenium import webdriver

from tests.browser.tab import Tab
from tests.demo.conftest import chromium, serve

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
