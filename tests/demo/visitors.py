"""Who visits the demo in the tests: a client that sends forms as a browser does, and a visitor in Chromium."""

import re
import shutil
from html import unescape
from pathlib import Path
from secrets import token_hex
from typing import Any

import httpx2
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.expected_conditions import staleness_of
from selenium.webdriver.support.wait import WebDriverWait

from tests.missing import missing

# --- over HTTP -------------------------------------------------------------------------------------------------------

HANG = 60  # seconds: no verdict about speed, only the end of a test that would wait for ever
TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')


class Browser(httpx2.Client):
    """Sends forms with the token of the page that it has seen last."""

    def __init__(self, port: int, cookie: str | None = None, host: str = "127.0.0.1", **headers: str) -> None:
        super().__init__(
            base_url=f"http://{host}:{port}",
            headers=headers,
            follow_redirects=True,
            timeout=HANG,
            trust_env=False,  # a proxy that is meant for the world outside has no business on loopback
            event_hooks={"response": [self._look]},
        )
        self.token: dict[str, str] = {}
        if cookie is not None:
            self.cookies.set("session", cookie, domain="127.0.0.1")

    def _look(self, response: httpx2.Response) -> None:
        if response.headers.get("content-type", "").startswith("text/html"):
            response.read()
            found = TOKEN.search(response.text)
            self.token = {"csrf_token": found[1]} if found else {}

    def post(self, path: str, data: dict[str, str] | None = None, **more: Any) -> httpx2.Response:  # type: ignore[override]
        return super().post(path, data={**self.token, **(data or {})}, **more)


def sign_in(browser: Browser, name: str = "Ada", **more: str) -> httpx2.Response:
    return browser.post("/sign-in", data={"name": name, **more})


def text_of(page: httpx2.Response, element_id: str) -> str | None:
    """What the element with this id says, without its tags; None if the page has no such element."""
    assert page.status_code == 200, page.text
    found = re.search(rf'<(\w+)[^>]* id="{element_id}"[^>]*>(.*?)</\1>', page.text, re.DOTALL)
    return unescape(re.sub(r"<[^>]*>", "", found[2])).strip() if found else None


def new_name() -> str:
    """Return a new user name: the servers are shared, and so would the devices be."""
    return f"Ada {token_hex(4)}"


def messages_on(page: httpx2.Response) -> list[str]:
    found = re.findall(r'<p class="(?:message|ss-notice) [^"]*" role="status">(.*?)</p>', page.text)
    return [unescape(text) for text in found]


# --- in Chromium -----------------------------------------------------------------------------------------------------

FLAGS = [
    "--headless",
    "--no-sandbox",  # Chromium refuses to run as root otherwise; it only ever sees our own page
    "--disable-gpu",
    "--disable-dev-shm-usage",  # the default /dev/shm of a container is too small
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--window-size=1280,1000",
]


def program(name: str) -> str:
    return shutil.which(name) or missing(f"{name} is not installed (Debian: apt-get install chromium chromium-driver)")


def start_chromium(profile: Path) -> webdriver.Chrome:
    """Chromium with a profile of its own."""
    chromium, driver = program("chromium"), program("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    browser.set_page_load_timeout(HANG)
    return browser


class Visitor:
    """A visitor on the demo's page in Chromium."""

    def __init__(self, browser: webdriver.Chrome, port: int) -> None:
        self.browser = browser
        self.port = port
        self.home = f"http://localhost:{port}/"
        browser.get(self.home)

    def open(self, path: str) -> None:
        self.browser.get(self.home + path)

    def click(self, element_id: str) -> None:
        """Follows a link or sends a form, and waits for the page that comes back."""
        self.click_on(self.browser.find_element(By.ID, element_id))

    def click_on_first(self, selector: str) -> None:
        """The same for the first element with this selector."""
        self.click_on(self.browser.find_element(By.CSS_SELECTOR, selector))

    def click_on(self, element: Any) -> None:
        page = self.browser.find_element(By.TAG_NAME, "html")
        element.click()
        # A question that meets the page while it is being replaced is answered with an unnamed error: ask again.
        WebDriverWait(self.browser, HANG, 0.05, ignored_exceptions=[WebDriverException]).until(staleness_of(page))

    def sign_in(self, name: str = "Ada", *, remember: bool = False) -> None:
        self.browser.find_element(By.ID, "name-field").send_keys(name)
        if remember:
            self.browser.find_element(By.ID, "remember").click()
        self.click("sign-in")

    def send_twice(self, field_id: str, text: str, delay: int) -> None:
        """Fill a field and send its form, and again after this many milliseconds, unless the answer was faster."""
        page = self.browser.find_element(By.TAG_NAME, "html")
        field = self.browser.find_element(By.ID, field_id)
        field.send_keys(text)
        script = "const [{form}, delay] = arguments; form.submit(); setTimeout(() => form.submit(), delay);"
        self.browser.execute_script(script, field, delay)
        WebDriverWait(self.browser, HANG, 0.05, ignored_exceptions=[WebDriverException]).until(staleness_of(page))

    def sees(self, element_id: str) -> str | None:
        """What can be read in this place; None if there is no such place, or it is invisible."""
        found = self.browser.find_elements(By.ID, element_id)
        return found[0].text if found and found[0].is_displayed() else None

    def messages(self) -> list[str]:
        return [found.text for found in self.browser.find_elements(By.CSS_SELECTOR, "[role=status]")]

    def devices(self) -> list[str]:
        """The names on the page of devices."""
        return [found.text for found in self.browser.find_elements(By.CSS_SELECTOR, ".ss-list h2")]

    def waits_until_live(self) -> None:
        """Until the page's stream knows who it belongs to."""
        WebDriverWait(self.browser, HANG, 0.05).until(
            lambda browser: browser.execute_script("return document.documentElement.dataset.live") == "true"
        )

    def hears_that_it_was_signed_out(self) -> bool:
        """Without a click."""
        return bool(WebDriverWait(self.browser, HANG, 0.05).until(lambda _: self.sees("ended")))

    def cookies(self) -> list[dict[str, Any]]:
        """All that the browser holds, for every site and in every partition."""
        answer = self.browser.execute_cdp_cmd("Storage.getCookies", {})
        return list(answer["cookies"])

    def cookie(self) -> dict[str, Any]:
        (cookie,) = self.cookies()
        return cookie
