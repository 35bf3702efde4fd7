"""The demo over a real socket: what its users do, with every backend."""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from html import unescape
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from threading import Thread
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from tests.demo.conftest import EXAMPLES
from tests.demo.visitors import HANG, Browser, messages_on, new_name, sign_in, text_of
from tests.rows import rows
from tests.servers.process import Address

DAY = 24 * 60 * 60
BACKENDS = ["memory", "cookie", "encrypted"]


@pytest.fixture(params=BACKENDS)
def port(request: pytest.FixtureRequest, start_demo: Callable[..., int]) -> int:
    return start_demo(DEMO_BACKEND=request.param)


@pytest.fixture
def memory(start_demo: Callable[..., int]) -> int:
    return start_demo(DEMO_BACKEND="memory")


@pytest.fixture
def browser(port: int) -> Iterator[Browser]:
    with Browser(port) as client:
        yield client


def cookies_set(response: httpx2.Response) -> list[Morsel[str]]:
    """The session cookies that this response, and the redirects on the way to it, set."""
    lines = [line for each in [*response.history, response] for line in each.headers.get_list("set-cookie")]
    return [SimpleCookie(line)["session"] for line in lines]


# --- coming and going ------------------------------------------------------------------------------------------------


def test_a_visitor_who_only_looks_gets_no_cookie(browser: Browser) -> None:
    for _ in range(2):
        page = browser.get("/")
        assert text_of(page, "sign-in-title") == "Sign in"
        assert text_of(page, "visits") is None
        assert "set-cookie" not in page.headers


def test_signing_in_greets_the_person_by_name(browser: Browser) -> None:
    page = sign_in(browser, "Ada")
    assert [each.status_code for each in page.history] == [303]
    assert text_of(page, "name") == "Ada"
    assert text_of(browser.get("/"), "name") == "Ada"


def test_a_name_of_any_letters_comes_back_as_it_was_typed(browser: Browser) -> None:
    name = 'Zoë <b>"O\'Hara"</b> 🦉; a=b'
    sign_in(browser, name)
    page = browser.get("/")
    assert "<b>" not in page.text
    assert text_of(page, "name") == name


def test_signing_in_without_a_name_is_refused_and_begins_no_session(browser: Browser) -> None:
    answer = sign_in(browser, "   ")
    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


def test_signing_out_forgets_the_person_and_takes_the_cookie_away(browser: Browser) -> None:
    sign_in(browser)
    page = browser.post("/sign-out")
    assert [cookie["max-age"] for cookie in cookies_set(page)][-1] == "0", "once the farewell was shown"
    assert len(browser.cookies.jar) == 0
    assert text_of(page, "name") is None
    assert text_of(browser.get("/"), "name") is None


def test_signing_out_by_following_a_link_is_not_possible(browser: Browser) -> None:
    sign_in(browser)
    assert browser.get("/sign-out").status_code == 405
    assert text_of(browser.get("/"), "name") == "Ada"


def test_two_people_at_once_do_not_see_each_other(port: int, browser: Browser) -> None:
    sign_in(browser, "Ada")
    with Browser(port) as other:
        sign_in(other, "Grace")
        browser.post("/cart", data={"sku": "tea"})
        assert text_of(other.get("/"), "name") == "Grace"
        assert text_of(other.get("/"), "empty") == "Nothing in it yet."
    assert text_of(browser.get("/"), "name") == "Ada"


def test_a_tampered_cookie_is_invalid(port: int, browser: Browser) -> None:
    sign_in(browser)
    good = browser.cookies["session"]
    for bad in (good[:-1], good[1:], good[:8] + ("A" if good[8] != "A" else "B") + good[9:], "rubbish", '"', "=;="):
        with Browser(port, cookie=bad) as thief:
            assert text_of(thief.get("/"), "name") is None


def test_the_page_never_shows_what_the_cookie_holds(browser: Browser) -> None:
    sign_in(browser)
    page = browser.get("/")
    assert browser.cookies["session"] not in page.text
    assert text_of(page, "cookie") == "session"


def test_another_user_who_signs_in_later_does_not_get_the_cart(browser: Browser) -> None:
    sign_in(browser, "Ada")
    browser.post("/cart", data={"sku": "tea"})
    page = sign_in(browser, "Grace")
    assert text_of(page, "name") == "Grace"
    assert text_of(page, "pieces") == "0"


# --- the id (memory: the cookie holds one) ---------------------------------------------------------------------------


def test_signing_in_changes_the_id_and_keeps_the_cart(memory: int) -> None:
    with Browser(memory) as browser:
        browser.post("/cart", data={"sku": "pears"})
        before = browser.cookies["session"]
        page = sign_in(browser)
        after = browser.cookies["session"]
    assert before != after
    assert text_of(page, "pieces") == "1"
    with Browser(memory, cookie=before) as thief:
        assert text_of(thief.get("/"), "pieces") == "0"
    with Browser(memory, cookie=after) as owner:
        assert text_of(owner.get("/"), "name") == "Ada"


def test_the_old_cookie_is_invalid_after_sign_out(memory: int) -> None:
    with Browser(memory) as browser:
        sign_in(browser)
        stolen = browser.cookies["session"]
        browser.post("/sign-out")
    with Browser(memory, cookie=stolen) as thief:
        page = thief.get("/")
        assert text_of(page, "name") is None
        assert "set-cookie" not in page.headers, "a dead id is neither adopted nor cleared"


def test_an_id_that_the_browser_made_up_is_not_adopted(memory: int) -> None:
    made_up = "A" * 43
    with Browser(memory, cookie=made_up) as browser:
        page = sign_in(browser)
        assert made_up not in [cookie.value for cookie in cookies_set(page)]
        assert text_of(browser.get("/"), "name") == "Ada"
    with Browser(memory, cookie=made_up) as attacker:
        assert text_of(attacker.get("/"), "name") is None


# --- what the browser can read in the cookie -------------------------------------------------------------------------


def readable(cookie: str) -> bytes:
    """All that base64 hides, whatever separates the parts."""
    parts = re.split(r"[^A-Za-z0-9_+/-]", cookie)
    whole = [part + "=" * (-len(part) % 4) for part in parts if len(part) % 4 != 1]
    return b" ".join(base64.b64decode(part, altchars=b"-_") for part in whole)


@pytest.mark.parametrize(("backend", "shown"), [("memory", False), ("cookie", True), ("encrypted", False)])
def test_only_the_signed_cookie_lets_the_browser_read_the_session(
    backend: str, shown: bool, start_demo: Callable[..., int]
) -> None:
    with Browser(start_demo(DEMO_BACKEND=backend)) as browser:
        sign_in(browser, "Bartholomew")
        assert (b"Bartholomew" in readable(browser.cookies["session"])) is shown


@pytest.mark.parametrize("backend", ["sqlite", *BACKENDS])
def test_a_sign_in_form_that_is_sent_twice_at_once_signs_in_with_the_cart(
    start_demo: Callable[..., int], backend: str
) -> None:
    """The browser gives up on the first response, and takes the second one."""
    port = start_demo(DEMO_BACKEND=backend)
    for delay in (0, 0.002, 0.005, 0.01, 0.02, 0.05):
        with Browser(port) as browser:
            browser.post("/cart", data={"sku": "tea"})
            form = {"name": new_name(), **browser.token}
            with Browser(port, browser.cookies["session"]) as given_up:
                first = Thread(target=given_up.post, args=("/sign-in", form), kwargs={"follow_redirects": False})
                first.start()
                time.sleep(delay)
                page = browser.post("/sign-in", form)
                first.join()
            assert form["name"] in page.text, f"not signed in, {delay} s later"
            assert text_of(page, "quantity-tea") == "1", f"no cart, {delay} s later"


# --- the cart: a list of dicts in the session ------------------------------------------------------------------------


def test_what_is_appended_to_the_cart_stays_in_it(browser: Browser) -> None:
    browser.post("/cart", data={"sku": "tea"})
    browser.post("/cart", data={"sku": "honey"})
    page = browser.post("/cart", data={"sku": "tea"})
    assert [text_of(page, f"quantity-{sku}") for sku in ("tea", "bread", "honey")] == ["2", None, "1"]
    assert text_of(browser.get("/"), "pieces") == "3"
    assert text_of(page, "total") == "€\xa025.40"


def test_a_quantity_can_be_changed_and_a_line_removed(browser: Browser) -> None:
    for sku in ("tea", "bread"):
        browser.post("/cart", data={"sku": sku})
    assert text_of(browser.post("/cart/tea", data={"quantity": "5"}), "quantity-tea") == "5"
    page = browser.post("/cart/tea", data={"quantity": "0"})
    assert text_of(page, "quantity-tea") is None
    assert text_of(browser.get("/"), "quantity-bread") == "1"


def test_the_quantity_that_is_sent_twice_counts_once(browser: Browser) -> None:
    browser.post("/cart", data={"sku": "tea"})
    for _ in range(2):
        page = browser.post("/cart/tea", data={"quantity": "2"})
    assert text_of(page, "quantity-tea") == "2"


@rows(
    ("path", "form", "status"),
    [
        ("/cart", {"sku": "diamonds"}, 404),
        ("/cart", {}, 422),
        ("/cart/tea", {"quantity": "-1"}, 422),
        ("/cart/tea", {"quantity": "100"}, 422),
        ("/cart/tea", {"quantity": "many"}, 422),
    ],
)
def test_a_form_that_the_page_would_not_send_changes_nothing(
    browser: Browser, path: str, form: dict[str, str], status: int
) -> None:
    browser.post("/cart", data={"sku": "tea"})
    before = text_of(browser.get("/"), "quantity-tea")
    answer = browser.post(path, data=form)
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers
    assert before is not None
    assert text_of(browser.get("/"), "quantity-tea") == before


# --- counting visits -------------------------------------------------------------------------------------------------


def test_visits_are_counted_from_the_moment_there_is_a_session(browser: Browser) -> None:
    browser.get("/")
    assert text_of(sign_in(browser), "visits") == "1"
    assert [text_of(browser.get("/"), "visits") for _ in range(3)] == ["2", "3", "4"]


# --- how long it lasts -----------------------------------------------------------------------------------------------


def test_remember_me_lasts_thirty_days(browser: Browser) -> None:
    promised = [int(cookie["max-age"]) for cookie in cookies_set(sign_in(browser, remember="1"))]
    assert promised
    assert all(30 * DAY - 60 <= seconds <= 30 * DAY for seconds in promised)


def test_the_promise_to_remember_survives_the_next_change(browser: Browser) -> None:
    sign_in(browser, remember="1")
    page = browser.post("/cart", data={"sku": "tea"})
    assert text_of(page, "kept") == "30 days from your last visit: you asked to be remembered"
    assert [cookie.discard for cookie in browser.cookies.jar] == [False]
    assert all(30 * DAY - 60 <= int(cookie["max-age"]) <= 30 * DAY for cookie in cookies_set(page))


def test_without_remember_me_the_cookie_ends_with_the_browser(browser: Browser) -> None:
    browser.post("/cart", data={"sku": "tea"})  # before signing in, the cookie has a Max-Age
    for page in (sign_in(browser), browser.post("/cart", data={"sku": "tea"})):
        assert all(not cookie["max-age"] and not cookie["expires"] for cookie in cookies_set(page))
    assert [cookie.expires for cookie in browser.cookies.jar] == [None]


def test_signing_out_makes_the_next_person_start_without_being_remembered(browser: Browser) -> None:
    sign_in(browser, "Ada", remember="1")
    browser.post("/sign-out")
    sign_in(browser, "Grace")
    assert [cookie.expires for cookie in browser.cookies.jar] == [None]


# --- the cookie and the caches ---------------------------------------------------------------------------------------


def test_the_cookie_is_closed_to_scripts_and_other_sites(browser: Browser) -> None:
    cookies = cookies_set(sign_in(browser))
    assert cookies
    for cookie in cookies:
        assert cookie["httponly"]
        assert (cookie["samesite"].lower(), cookie["path"], cookie["domain"]) == ("lax", "/", "")
        assert not cookie["secure"], "over plain http; see the next test"


def test_https_only_says_secure_even_over_http(start_demo: Callable[..., int]) -> None:
    with Browser(start_demo(DEMO_BACKEND="memory", DEMO_HTTPS_ONLY="1")) as browser:
        cookies = cookies_set(sign_in(browser))
        assert cookies
        assert all(cookie["secure"] for cookie in cookies)


def test_a_page_that_depends_on_the_session_is_not_for_shared_caches(browser: Browser) -> None:
    assert "cookie" in browser.get("/").headers["vary"].lower()
    answer = sign_in(browser).history[0]
    assert "cookie" in answer.headers["vary"].lower()
    assert answer.headers["cache-control"] == "no-store"


def test_the_stylesheet_has_nothing_to_do_with_the_session(browser: Browser) -> None:
    sign_in(browser)
    sheet = browser.get("/static/shop.css")
    assert sheet.status_code == 200
    assert "set-cookie" not in sheet.headers
    assert "vary" not in sheet.headers


@rows("path", ["/", "/devices", "/devices/history"])
def test_nothing_on_the_pages_is_inline_or_from_elsewhere(browser: Browser, path: str) -> None:
    sign_in(browser)
    page = browser.get(path)
    assert re.findall(r"<script[^>]*>", page.text) == ['<script src="/static/live.js" defer>']
    assert not re.search(r"<style|\bstyle=|\bon\w+=", page.text)
    links = re.findall(r'(?:href|src|action)="([^"]*)"', page.text)
    assert [link for link in links if not re.match(r"(?!//)[\w./?=#-]+$|data:,", link)] == []
    assert "default-src 'none'" in page.headers["content-security-policy"]


# --- messages --------------------------------------------------------------------------------------------------------


def test_a_message_survives_the_redirect_and_is_shown_once(browser: Browser) -> None:
    assert messages_on(browser.post("/cart", data={"sku": "tea"})) == ["In your cart: Darjeeling tea."]
    assert messages_on(browser.get("/")) == []


# --- forged forms -----------------------------------------------------------------------------------------


@rows(
    ("path", "form"),
    [
        ("/sign-in", {"name": "Eve"}),
        ("/sign-out", {}),
        ("/cart", {"sku": "tea"}),
        ("/cart/tea", {"quantity": "2"}),
        ("/close-account", {}),
    ],
)
def test_a_signed_in_user_cannot_send_a_form_without_a_token(browser: Browser, path: str, form: dict[str, str]) -> None:
    sign_in(browser, "Ada")
    browser.token = {}
    answer = browser.post(path, data=form)
    assert answer.status_code == 403
    assert "That page was out of date" in answer.text
    assert "You are signed in as <strong>Ada</strong> now." in answer.text
    page = browser.get("/")
    assert (text_of(page, "name"), text_of(page, "pieces")) == ("Ada", "0")


def test_a_form_opened_before_sign_out_gets_an_error_page_that_explains_it(browser: Browser) -> None:
    stale = sign_in(browser) and browser.token
    browser.post("/sign-out")
    browser.token = stale
    answer = browser.post("/cart", data={"sku": "tea"})
    assert answer.status_code == 403
    assert "You are not signed in now." in answer.text
    assert "set-cookie" not in answer.headers


def test_a_form_on_another_site_gets_an_error_page_that_explains_it(browser: Browser) -> None:
    answer = browser.post("/sign-in", data={"name": "Eve"}, headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    assert "That did not come from here" in answer.text
    assert text_of(browser.get("/"), "name") is None


# --- devices ---------------------------------------------------------------------------------------------------------

FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:145.0) Gecko/20100101 Firefox/145.0"


@pytest.fixture
def phone(port: int) -> Iterator[Browser]:
    """Another browser, for the same person."""
    with Browser(port, **{"user-agent": FIREFOX}) as client:
        yield client


def handles_on(page: httpx2.Response) -> list[str]:
    return re.findall(r'name="handle" value="([^"]+)"', page.text)


def test_the_devices_of_a_user_are_listed_and_this_one_is_marked(browser: Browser, phone: Browser) -> None:
    user = new_name()
    for each in (phone, browser):
        sign_in(each, user)
    page = unescape(re.sub(r"<[^>]*>", " ", phone.get("/devices").text))
    assert re.search(r"Firefox on Windows\s+This device\s+Signed in\s+just now\s+name only\s+127\.0\.0\.0/24", page)
    assert re.search(r"python-httpx2\s+Signed in\s+just now\s.*\sSign out\s", page, re.DOTALL)


def test_the_page_of_devices_shows_a_visitor_where_to_sign_in(browser: Browser) -> None:
    page = browser.get("/devices")
    assert (page.url.path, text_of(page, "sign-in-title")) == ("/", "Sign in to go on")
    assert "set-cookie" not in page.headers
    (wanted,) = re.findall(r'name="next" value="([^"]*)"', page.text)
    assert sign_in(browser, next=wanted).url.path == "/devices/"


def test_signing_in_never_redirects_to_another_site(browser: Browser) -> None:
    assert sign_in(browser, next="//evil.test/").url.path == "/"


def test_one_device_is_ended_by_its_handle(browser: Browser, phone: Browser) -> None:
    user = new_name()
    sign_in(phone, user)
    sign_in(browser, user)
    (handle,) = handles_on(browser.get("/devices"))
    assert messages_on(browser.post("/devices/end", {"handle": handle})) == ["That device is signed out."]
    assert text_of(phone.get("/"), "name") is None
    assert messages_on(browser.post("/devices/end", {"handle": handle})) == ["That device was not signed in any more."]
    assert text_of(browser.get("/"), "name") == user


def test_a_user_cannot_end_the_devices_of_another_user(port: int, browser: Browser, phone: Browser) -> None:
    victim = new_name()
    sign_in(phone, victim)
    with Browser(port) as second:
        sign_in(second, victim)
        (handle,) = handles_on(second.get("/devices"))
    sign_in(browser, new_name())
    browser.get("/devices")
    assert messages_on(browser.post("/devices/end", {"handle": handle})) == ["That device was not signed in any more."]
    assert text_of(phone.get("/"), "name") == victim


def test_all_other_devices_are_ended_and_this_one_stays_with_its_cart(browser: Browser, phone: Browser) -> None:
    user = new_name()
    sign_in(phone, user)
    sign_in(browser, user)
    browser.post("/cart", {"sku": "tea"})
    before = browser.cookies["session"]
    assert messages_on(browser.post("/devices/end-others")) == ["All other devices are signed out: 1"]
    assert browser.cookies["session"] != before
    assert text_of(phone.get("/"), "name") is None
    page = browser.get("/")
    assert (text_of(page, "name"), text_of(page, "pieces")) == (user, "1")


def test_a_form_of_the_devices_without_a_token_ends_nothing(browser: Browser) -> None:
    sign_in(browser, new_name())
    for path, form in (("/devices/end", {"handle": "x"}), ("/devices/end-others", {})):
        browser.token = {}
        answer = browser.post(path, data=form)
        assert answer.status_code == 403
        assert "This page is out of date" in answer.text


def test_an_operator_ends_the_sessions_of_a_user_whose_history_tells(browser: Browser, phone: Browser) -> None:
    user = new_name()
    sign_in(phone, user)
    assert phone.get("/operators").status_code == 404
    sign_in(browser, "Olga")
    browser.get("/operators")
    page = browser.post("/operators/", {"user": user})
    assert "Live sessions: 1" in page.text
    page = browser.post("/operators/", {"user": user, "end-all": "1"})
    assert messages_on(page) == ["Sessions that have ended: 1"]
    assert "by Olga" in page.text
    assert text_of(phone.get("/"), "name") is None
    sign_in(phone, user)
    page = phone.get("/devices/history")
    assert "Signed out by an operator" in page.text
    assert "Olga" not in page.text


# --- what asks to sign in again --------------------------------------------------------------------------------------


def test_an_account_is_closed_everywhere(browser: Browser, phone: Browser) -> None:
    user = new_name()
    sign_in(phone, user)
    sign_in(browser, user)
    page = browser.post("/close-account")
    assert messages_on(page) == ["Your account is closed, and all your devices are signed out."]
    assert text_of(page, "name") is None
    assert text_of(phone.get("/"), "name") is None


def test_closing_the_account_asks_to_sign_in_again_after_a_while(serve: Callable[..., int], tmp_path: Path) -> None:
    """Two servers with one store. For one of them a second is a while, and for the other it is not."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}"
    strict, patient = (serve(EXAMPLES / "demo", "app", DEMO_BACKEND=url, DEMO_FRESH_FOR=each) for each in ("1", "300"))
    with Browser(strict) as browser:
        sign_in(browser, "Ada", remember="1")
        browser.post("/cart", {"sku": "tea"})
        time.sleep(1.1)
        page = browser.post("/close-account")
        assert text_of(page, "name") == "Ada"
        assert "Before you can close your account, sign in again" in page.text

        page = sign_in(browser, "Ada", remember="1", next="/devices/")
        assert page.url.path == "/devices/"
        assert messages_on(page) == ["Thank you, it is you."]
        assert text_of(page, "pieces") == "1"
        assert len(handles_on(page)) == 0, "signing in again makes no second device"
        cookie = browser.cookies["session"]
    with Browser(patient, cookie) as browser:
        browser.get("/devices")
        assert text_of(browser.post("/close-account"), "name") is None


# --- the WebSocket ---------------------------------------------------------------------------------------------------


def say(port: int, cookie: str | None, *messages: str) -> tuple[list[Any], list[str]]:
    """The answers to these messages, and the cookies that came with the handshake."""
    headers = {"cookie": f"session={cookie}"} if cookie else {}
    with connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers, proxy=None, open_timeout=HANG) as socket:
        assert socket.response is not None
        answers = []
        for message in messages:
            socket.send(message)
            answers.append(json.loads(socket.recv(timeout=HANG)))
        return answers, socket.response.headers.get_all("set-cookie")


def test_the_websocket_knows_who_is_signed_in(port: int, browser: Browser) -> None:
    sign_in(browser, "Ada")
    answers, _ = say(port, browser.cookies["session"], "hello", "again")
    assert answers == [
        {"name": "Ada", "sockets": 1, "messages": 1, "text": "hello"},
        {"name": "Ada", "sockets": 1, "messages": 2, "text": "again"},
    ]


def test_the_websocket_of_a_visitor_is_anonymous_and_sets_no_cookie(port: int) -> None:
    answers, cookies = say(port, None, "hello")
    assert answers == [{"name": None, "sockets": 0, "messages": 1, "text": "hello"}]
    assert cookies == []


def test_changes_before_the_websocket_is_accepted_are_kept(port: int, browser: Browser) -> None:
    sign_in(browser, "Ada")
    cookie = browser.cookies["session"]
    for number in (1, 2):
        answers, cookies = say(port, cookie, "hello")
        assert answers[0]["sockets"] == number
        for line in cookies:  # with the cookie backends, the session itself
            cookie = SimpleCookie(line)["session"].value
    with Browser(port, cookie=cookie) as later:
        assert "sockets" in (text_of(later.get("/"), "keys") or "")


def test_the_websocket_is_anonymous_after_sign_out(memory: int) -> None:
    with Browser(memory) as browser:
        sign_in(browser, "Ada")
        cookie = browser.cookies["session"]
        browser.post("/sign-out")
    answers, _ = say(memory, cookie, "hello")
    assert answers[0]["name"] is None


def test_by_default_a_session_is_kept_in_a_file_and_survives_a_restart(
    serve: Callable[..., int], tmp_path: Path
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'sessions.db'}"
    ports = [serve(EXAMPLES / "demo", "app", DEMO_BACKEND=url, DEMO_SECRET=secret) for secret in ("one", "another")]
    with Browser(ports[0]) as first, Browser(ports[1]) as second:
        first.post("/sign-in", data={"name": "Ann"})
        second.cookies.set("session", first.cookies["session"], domain="127.0.0.1")
        assert "Ann" in second.get("/").text
        first.post("/sign-out")
        assert "Ann" not in second.get("/").text


def test_the_page_shows_the_kind_of_a_store_and_never_its_url(serve: Callable[..., int], tmp_path: Path) -> None:
    port = serve(EXAMPLES / "demo", "app", DEMO_BACKEND=f"sqlite+aiosqlite:///{tmp_path / 'secret-place.db'}")
    with Browser(port) as browser:
        page = browser.get("/").text
    assert '<code id="backend">sqlite+aiosqlite</code>' in page
    assert "secret-place" not in page


def test_a_store_is_given_by_its_url(serve: Callable[..., int], redis_server: Address) -> None:
    with Browser(serve(EXAMPLES / "demo", "app", DEMO_BACKEND=redis_server.url)) as browser:
        browser.post("/sign-in", data={"name": "Ann"})
        assert "Ann" in browser.get("/").text


# --- the stream ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[*BACKENDS, "sqlite"])
def announced(request: pytest.FixtureRequest, start_with_provider: Callable[[str], int]) -> int:
    return start_with_provider(request.param)


@contextmanager
def live(browser: Browser) -> Iterator[tuple[Any, Iterator[str]]]:
    """Whose the stream is, and its further lines."""
    with browser.stream("GET", "/live") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        yield json.loads(next(lines).removeprefix("data: ")), lines


def is_closed(lines: Iterator[str]) -> bool:
    return list(lines) == ["retry: 500", ""]


def test_a_stream_ends_at_once_when_its_session_is_ended_on_another_device(announced: int) -> None:
    user = new_name()
    with Browser(announced) as browser, Browser(announced) as phone:
        sign_in(phone, user)
        sign_in(browser, user)
        with live(browser) as (name, lines):
            assert name == user
            phone.get("/devices")
            phone.post("/devices/end-others")
            assert is_closed(lines)


def test_the_stream_of_a_stranger_says_so_and_ends(browser: Browser) -> None:
    with live(browser) as (name, lines):
        assert name == ""
        assert is_closed(lines)


# --- the identity provider -------------------------------------------------------------------------------------------


def sign_in_there(browser: Browser, name: str) -> httpx2.Response:
    page = browser.get("/sign-in/provider")
    if wanted := re.search(r'name="next" value="([^"]+)"', page.text):
        page = browser.post("/provider/sign-in", {"name": name, "next": unescape(wanted[1])})
    return page


def test_a_sign_out_at_the_provider_ends_the_streams_of_this_user_alone_at_once(announced: int) -> None:
    user, other = new_name(), new_name()
    with ExitStack() as stack:
        one, two, stranger = (stack.enter_context(Browser(announced, host="localhost")) for _ in range(3))
        assert messages_on(sign_in_there(one, user)) == [f"Welcome, {user}."]
        assert text_of(sign_in_there(two, user), "name") == user
        sign_in_there(stranger, other)

        (_, first), (_, second) = (stack.enter_context(live(each)) for each in (one, two))
        assert text_of(one.get("/provider/"), "browsers") == "In 2 browsers."
        one.post("/provider/sign-out-everywhere")
        assert is_closed(first)
        assert is_closed(second)
        assert [text_of(each.get("/"), "name") for each in (one, two, stranger)] == [None, None, other]
        assert text_of(two.get("/provider/"), "browsers") is None


def test_the_provider_asks_for_the_name_only_once(start_with_provider: Callable[[str], int]) -> None:
    with Browser(start_with_provider("memory"), host="localhost") as browser:
        user = new_name()
        sign_in_there(browser, user)
        browser.post("/sign-out")
        assert messages_on(browser.get("/sign-in/provider")) == [f"Welcome, {user}."]


def test_a_sign_in_that_the_provider_did_not_finish_signs_no_one_in(start_with_provider: Callable[[str], int]) -> None:
    with Browser(start_with_provider("memory"), host="localhost") as browser:
        page = browser.get("/sign-in/callback?error=access_denied&state=x")
        assert messages_on(page) == ["The provider did not sign you in."]
        assert text_of(page, "name") is None


def test_the_way_to_the_provider_begins_at_the_address_to_which_it_leads_back(
    start_with_provider: Callable[[str], int],
) -> None:
    port = start_with_provider("memory")
    with Browser(port) as browser:
        answer = browser.get("/sign-in/provider", follow_redirects=False)
    assert answer.headers["location"] == f"http://localhost:{port}/sign-in/provider"
