"""A release that changes the cookie's domain, path or partition, in Chromium, as in shell/test_changed_cookies.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.rows import rows

pytestmark = pytest.mark.once

DOMAIN = {"domain": "example.localhost"}
EMBEDDED = {"same_site": "none", "https_only": True}
PARTITIONED = {**EMBEDDED, "partitioned": True}
CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, DOMAIN),
    (DOMAIN, {}),
    ({"path": "/shop"}, {}),
    ({}, {"path": "/shop"}),
    (EMBEDDED, PARTITIONED),
    (PARTITIONED, EMBEDDED),
]


@pytest.mark.guarantee(6)
@rows(("before", "after"), CHANGES)
@rows("steps", [["write"], ["sign-in"], ["write", "put"], []])
def test_after_a_change_of_its_place_the_cookie_locks_no_one_in_or_out(
    serve: Callable[..., int],
    chromium: webdriver.Chrome,
    before: dict[str, Any],
    after: dict[str, Any],
    steps: list[str],
) -> None:
    """The releases have two ports, which share their cookies. Names below localhost resolve to this machine."""
    chromium.execute_cdp_cmd("Storage.clearCookies", {})

    def at(settings: dict[str, Any], act: str) -> str:
        port = serve(Path(__file__).parent, "released", SETTINGS=json.dumps(settings))
        chromium.get(f"http://www.example.localhost:{port}/shop/account/{act}")
        return chromium.find_element(By.TAG_NAME, "body").text

    def held() -> list[str]:
        cookies = chromium.execute_cdp_cmd("Storage.getCookies", {})["cookies"]
        return [f"{cookie['domain']} {cookie['path']}" for cookie in cookies if cookie["name"] == "session"]

    at(before, "put")
    assert at(before, "visit") == "user=ann"
    for step in steps:
        at(after, step)
    if at(after, "visit") != "user=ann":
        at(after, "put")
    assert at(after, "visit") == "user=ann"
    at(after, "sign-out")
    assert at(after, "visit") == "user="
    assert held() == []
