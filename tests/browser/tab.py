"""What the tests do in a tab of Chromium."""

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

from tests.demo.visitors import HANG


class Tab:
    """One tab. A site is on `localhost`, and another site on `127.0.0.1`."""

    def __init__(self, browser: webdriver.Chrome) -> None:
        self.browser = browser
        # A question that meets the page while it is being replaced is answered with an unnamed error: ask again.
        self._wait = WebDriverWait(browser, HANG, 0.05, ignored_exceptions=[WebDriverException])

    def open(self, port: int, path: str = "/", host: str = "localhost", **query: str) -> str:
        """Open a page and return its text."""
        self.browser.get(f"http://{host}:{port}{path}{'?' if query else ''}{urlencode(query)}")
        return self.text()

    def text(self) -> str:
        [text] = self._wait.until(lambda browser: [browser.find_element(By.TAG_NAME, "body").text])
        return text.strip('" \n')

    def click(self, element_id: str) -> str:
        """Click, wait for the next page, and return its text."""
        return self.click_on(f"#{element_id}")

    def click_on(self, selector: str) -> str:
        """Click on the first element with this selector, wait for the next page, and return its text."""
        page = self.browser.find_element(By.TAG_NAME, "html")
        self.browser.find_element(By.CSS_SELECTOR, selector).click()
        self._wait.until(staleness_of(page))
        return self.text()

    def back(self) -> str:
        """Go back, and return the page's text."""
        here = self.browser.current_url
        self.browser.back()
        self._wait.until(lambda browser: browser.current_url != here)
        return self.text()

    def waits_for(self, text: str) -> None:
        """Wait until the page says this: a script sends the browser on."""
        self._wait.until(lambda _: text in self.text())

    def waits_until(self, code: str, *arguments: Any) -> None:
        """Wait until a script returns true."""
        self._wait.until(lambda browser: browser.execute_script(code, *arguments))

    def cookies(self) -> dict[str, str]:
        """Return all cookies of the browser, by their names."""
        found = self.browser.execute_cdp_cmd("Storage.getCookies", {})["cookies"]
        return {cookie["name"]: cookie["value"] for cookie in found}

    @contextlib.contextmanager
    def on_a_screen(self, width: int, height: int) -> Iterator[None]:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        try:
            yield
        finally:
            self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
            self.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def prefer(self, scheme: str) -> None:
        """Let the user prefer "light" or "dark", until the screen is left."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def scheme(self) -> str:
        """Return whether the page is "light" or "dark"."""
        colour = self.browser.find_element(By.TAG_NAME, "body").value_of_css_property("background-color")
        red = int(colour.partition("(")[2].partition(",")[0])
        return "light" if red > 200 else "dark" if red < 50 else colour

    def script(self, code: str, *arguments: Any) -> Any:
        """Run a script that awaits, and return what it returns."""
        return self.browser.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            f"(async (...arguments) => {{ {code} }})(...arguments).then(done, error => done(String(error)));",
            *arguments,
        )
