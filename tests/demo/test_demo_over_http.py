"""The demo over a real socket: what its users do, with every backend."""

import base64
import json
import re
from collections.abc import Callable, Iterator
from html import unescape
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from tests.demo.conftest import EXAMPLES
from tests.servers.process import Address

DAY = 24 * 60 * 60
BACKENDS = ["memory", "cookie", "encrypted"]


@pytest.fixture(params=BACKENDS)
def port(request: pytest.FixtureRequest, start_demo: Callable[..., int]) -> int:
    return start_demo(DEMO_BACKEND=request.param)


@pytest.fixture
def memory(start_demo: Callable[..., int]) -> int:
    return start_demo(DEMO_BACKEND="memory")


def new_browser(port: int, cookie: str | None = None) -> httpx2.Client:
    # Nothing from the environment: a proxy that is meant for the world outside has no business on loopback.
    browser = httpx2.Client(base_url=f"http://127.0.0.1:{port}", follow_redirects=True, trust_env=False)
    if cookie is not None:
        browser.cookies.set("session", cookie, domain="127.0.0.1")
    return browser


@pytest.fixture
def browser(port: int) -> Iterator[httpx2.Client]:
    with new_browser(port) as client:
        yield client


def sign_in(browser: httpx2.Client, name: str = "Ada", **more: str) -> httpx2.Response:
    return browser.post("/sign-in", data={"name": name, **more})


def text_of(page: httpx2.Response, element_id: str) -> str | None:
    """What the element with this id says, without its tags; None if the page has no such element."""
    assert page.status_code == 200, page.text
    found = re.search(rf'<(\w+)[^>]* id="{element_id}"[^>]*>(.*?)</\1>', page.text, re.DOTALL)
    return unescape(re.sub(r"<[^>]*>", "", found[2])).strip() if found else None


def cookies_set(response: httpx2.Response) -> list[Morsel[str]]:
    """The session cookies that this response, and the redirects on the way to it, set."""
    lines = [line for each in [*response.history, response] for line in each.headers.get_list("set-cookie")]
    return [SimpleCookie(line)["session"] for line in lines]


# --- coming and going ------------------------------------------------------------------------------------------------


def test_a_visitor_who_only_looks_gets_no_cookie(browser: httpx2.Client) -> None:
    for _ in range(2):
        page = browser.get("/")
        assert text_of(page, "sign-in-title") == "Sign in"
        assert text_of(page, "visits") is None
        assert "set-cookie" not in page.headers


def test_signing_in_greets_the_person_by_name(browser: httpx2.Client) -> None:
    page = sign_in(browser, "Ada")
    assert [each.status_code for each in page.history] == [303]
    assert text_of(page, "name") == "Ada"
    assert text_of(browser.get("/"), "name") == "Ada"


def test_a_name_of_any_letters_comes_back_as_it_was_typed(browser: httpx2.Client) -> None:
    name = 'Zoë <b>"O\'Hara"</b> 🦉; a=b'
    sign_in(browser, name)
    page = browser.get("/")
    assert "<b>" not in page.text
    assert text_of(page, "name") == name


def test_signing_in_without_a_name_is_refused_and_begins_no_session(browser: httpx2.Client) -> None:
    answer = sign_in(browser, "   ")
    assert answer.status_code == 422
    assert "set-cookie" not in answer.headers


def test_signing_out_forgets_the_person_and_takes_the_cookie_away(browser: httpx2.Client) -> None:
    sign_in(browser)
    page = browser.post("/sign-out")
    assert [cookie["max-age"] for cookie in cookies_set(page)] == ["0"]
    assert len(browser.cookies.jar) == 0
    assert text_of(page, "name") is None
    assert text_of(browser.get("/"), "name") is None


def test_signing_out_by_following_a_link_is_not_possible(browser: httpx2.Client) -> None:
    sign_in(browser)
    assert browser.get("/sign-out").status_code == 405
    assert text_of(browser.get("/"), "name") == "Ada"


def test_two_people_at_once_do_not_see_each_other(port: int, browser: httpx2.Client) -> None:
    sign_in(browser, "Ada")
    with new_browser(port) as other:
        sign_in(other, "Grace")
        browser.post("/cart", data={"sku": "tea"})
        assert text_of(other.get("/"), "name") == "Grace"
        assert text_of(other.get("/"), "empty") == "Nothing in it yet."
    assert text_of(browser.get("/"), "name") == "Ada"


def test_a_cookie_that_was_tampered_with_is_nobody(port: int, browser: httpx2.Client) -> None:
    sign_in(browser)
    good = browser.cookies["session"]
    for bad in (good[:-1], good[1:], good[:8] + ("A" if good[8] != "A" else "B") + good[9:], "rubbish", '"', "=;="):
        with new_browser(port, cookie=bad) as thief:
            assert text_of(thief.get("/"), "name") is None


def test_the_page_never_shows_what_the_cookie_holds(browser: httpx2.Client) -> None:
    sign_in(browser)
    page = browser.get("/")
    assert browser.cookies["session"] not in page.text
    assert text_of(page, "cookie") == "session"


def test_somebody_else_who_signs_in_after_me_does_not_get_my_cart(browser: httpx2.Client) -> None:
    sign_in(browser, "Ada")
    browser.post("/cart", data={"sku": "tea"})
    page = sign_in(browser, "Grace")
    assert text_of(page, "name") == "Grace"
    assert text_of(page, "pieces") == "0"


# --- the id (memory: the cookie holds one) ---------------------------------------------------------------------------


def test_signing_in_changes_the_id_and_keeps_the_cart(memory: int) -> None:
    with new_browser(memory) as browser:
        browser.post("/cart", data={"sku": "pears"})
        before = browser.cookies["session"]
        page = sign_in(browser)
        after = browser.cookies["session"]
    assert before != after
    assert text_of(page, "pieces") == "1"
    with new_browser(memory, cookie=before) as thief:
        assert text_of(thief.get("/"), "pieces") == "0"
    with new_browser(memory, cookie=after) as owner:
        assert text_of(owner.get("/"), "name") == "Ada"


def test_the_cookie_from_before_signing_out_is_nobody_afterwards(memory: int) -> None:
    with new_browser(memory) as browser:
        sign_in(browser)
        stolen = browser.cookies["session"]
        browser.post("/sign-out")
    with new_browser(memory, cookie=stolen) as thief:
        page = thief.get("/")
        assert text_of(page, "name") is None
        assert "set-cookie" not in page.headers, "a dead id is neither adopted nor cleared"


def test_an_id_that_the_browser_made_up_is_not_adopted(memory: int) -> None:
    made_up = "A" * 43
    with new_browser(memory, cookie=made_up) as browser:
        page = sign_in(browser)
        assert made_up not in [cookie.value for cookie in cookies_set(page)]
        assert text_of(browser.get("/"), "name") == "Ada"
    with new_browser(memory, cookie=made_up) as attacker:
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
    with new_browser(start_demo(DEMO_BACKEND=backend)) as browser:
        sign_in(browser, "Bartholomew")
        assert (b"Bartholomew" in readable(browser.cookies["session"])) is shown


# --- the cart: a list of dicts in the session ------------------------------------------------------------------------


def test_what_is_appended_to_the_cart_stays_in_it(browser: httpx2.Client) -> None:
    browser.post("/cart", data={"sku": "tea"})
    browser.post("/cart", data={"sku": "honey"})
    page = browser.post("/cart", data={"sku": "tea"})
    assert [text_of(page, f"quantity-{sku}") for sku in ("tea", "bread", "honey")] == ["2", None, "1"]
    assert text_of(browser.get("/"), "pieces") == "3"
    assert text_of(page, "total") == "€\xa025.40"


def test_a_quantity_can_be_changed_and_a_line_removed(browser: httpx2.Client) -> None:
    for sku in ("tea", "bread"):
        browser.post("/cart", data={"sku": sku})
    assert text_of(browser.post("/cart/tea", data={"quantity": "5"}), "quantity-tea") == "5"
    page = browser.post("/cart/tea", data={"quantity": "0"})
    assert text_of(page, "quantity-tea") is None
    assert text_of(browser.get("/"), "quantity-bread") == "1"


def test_the_quantity_that_is_sent_twice_counts_once(browser: httpx2.Client) -> None:
    browser.post("/cart", data={"sku": "tea"})
    for _ in range(2):
        page = browser.post("/cart/tea", data={"quantity": "2"})
    assert text_of(page, "quantity-tea") == "2"


@pytest.mark.parametrize(
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
    browser: httpx2.Client, path: str, form: dict[str, str], status: int
) -> None:
    browser.post("/cart", data={"sku": "tea"})
    answer = browser.post(path, data=form)
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers
    assert text_of(browser.get("/"), "quantity-tea") == "1"


# --- counting visits -------------------------------------------------------------------------------------------------


def test_visits_are_counted_from_the_moment_there_is_a_session(browser: httpx2.Client) -> None:
    browser.get("/")
    assert text_of(sign_in(browser), "visits") == "1"
    assert [text_of(browser.get("/"), "visits") for _ in range(3)] == ["2", "3", "4"]


# --- how long it lasts -----------------------------------------------------------------------------------------------


def test_remember_me_lasts_thirty_days(browser: httpx2.Client) -> None:
    promised = [int(cookie["max-age"]) for cookie in cookies_set(sign_in(browser, remember="1"))]
    assert promised
    assert all(30 * DAY - 60 <= seconds <= 30 * DAY for seconds in promised)


def test_the_promise_to_remember_survives_the_next_change(browser: httpx2.Client) -> None:
    sign_in(browser, remember="1")
    page = browser.post("/cart", data={"sku": "tea"})
    assert text_of(page, "kept") == "30 days from your last visit: you asked to be remembered"
    assert [cookie.discard for cookie in browser.cookies.jar] == [False]
    assert all(30 * DAY - 60 <= int(cookie["max-age"]) <= 30 * DAY for cookie in cookies_set(page))


def test_without_remember_me_the_cookie_ends_with_the_browser(browser: httpx2.Client) -> None:
    browser.post("/cart", data={"sku": "tea"})  # before signing in, the cookie has a Max-Age
    for page in (sign_in(browser), browser.post("/cart", data={"sku": "tea"})):
        assert all(not cookie["max-age"] and not cookie["expires"] for cookie in cookies_set(page))
    assert [cookie.expires for cookie in browser.cookies.jar] == [None]


def test_signing_out_makes_the_next_person_start_without_being_remembered(browser: httpx2.Client) -> None:
    sign_in(browser, "Ada", remember="1")
    browser.post("/sign-out")
    sign_in(browser, "Grace")
    assert [cookie.expires for cookie in browser.cookies.jar] == [None]


# --- the cookie and the caches ---------------------------------------------------------------------------------------


def test_the_cookie_is_closed_to_scripts_and_other_sites(browser: httpx2.Client) -> None:
    cookies = cookies_set(sign_in(browser))
    assert cookies
    for cookie in cookies:
        assert cookie["httponly"]
        assert (cookie["samesite"].lower(), cookie["path"], cookie["domain"]) == ("lax", "/", "")
        assert not cookie["secure"], "over plain http; see the next test"


def test_https_only_says_secure_even_over_http(start_demo: Callable[..., int]) -> None:
    with new_browser(start_demo(DEMO_BACKEND="memory", DEMO_HTTPS_ONLY="1")) as browser:
        cookies = cookies_set(sign_in(browser))
        assert cookies
        assert all(cookie["secure"] for cookie in cookies)


def test_a_page_that_depends_on_the_session_is_not_for_shared_caches(browser: httpx2.Client) -> None:
    assert "cookie" in browser.get("/").headers["vary"].lower()
    answer = sign_in(browser).history[0]
    assert "cookie" in answer.headers["vary"].lower()
    assert answer.headers["cache-control"] == "no-store"


def test_the_stylesheet_has_nothing_to_do_with_the_session(browser: httpx2.Client) -> None:
    sign_in(browser)
    sheet = browser.get("/static/shop.css")
    assert sheet.status_code == 200
    assert "set-cookie" not in sheet.headers
    assert "vary" not in sheet.headers


def test_the_page_needs_no_script_and_nothing_from_elsewhere(browser: httpx2.Client) -> None:
    page = browser.get("/").text
    assert "<script" not in page
    links = re.findall(r'(?:href|src|action)="([^"]*)"', page)
    assert [link for link in links if not re.match(r"/(?!/)|#|data:,", link)] == []


# --- the WebSocket ---------------------------------------------------------------------------------------------------


def say(port: int, cookie: str | None, *messages: str) -> tuple[list[Any], list[str]]:
    """The answers to these messages, and the cookies that came with the handshake."""
    headers = {"cookie": f"session={cookie}"} if cookie else {}
    with connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers, proxy=None) as socket:
        assert socket.response is not None
        answers = []
        for message in messages:
            socket.send(message)
            answers.append(json.loads(socket.recv(timeout=30)))
        return answers, socket.response.headers.get_all("set-cookie")


def test_the_websocket_knows_who_is_signed_in(port: int, browser: httpx2.Client) -> None:
    sign_in(browser, "Ada")
    answers, _ = say(port, browser.cookies["session"], "hello", "again")
    assert answers == [
        {"name": "Ada", "sockets": 1, "messages": 1, "text": "hello"},
        {"name": "Ada", "sockets": 1, "messages": 2, "text": "again"},
    ]


def test_the_websocket_of_a_stranger_knows_nobody_and_sets_no_cookie(port: int) -> None:
    answers, cookies = say(port, None, "hello")
    assert answers == [{"name": None, "sockets": 0, "messages": 1, "text": "hello"}]
    assert cookies == []


def test_what_the_websocket_changes_before_it_accepts_is_kept(port: int, browser: httpx2.Client) -> None:
    sign_in(browser, "Ada")
    cookie = browser.cookies["session"]
    for number in (1, 2):
        answers, cookies = say(port, cookie, "hello")
        assert answers[0]["sockets"] == number
        for line in cookies:  # with the cookie backends, the session itself
            cookie = SimpleCookie(line)["session"].value
    with new_browser(port, cookie=cookie) as later:
        assert "sockets" in (text_of(later.get("/"), "keys") or "")


def test_the_websocket_after_signing_out_knows_nobody(memory: int) -> None:
    with new_browser(memory) as browser:
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
    with new_browser(ports[0]) as first, new_browser(ports[1]) as second:
        first.post("/sign-in", data={"name": "Ann"})
        second.cookies.set("session", first.cookies["session"], domain="127.0.0.1")
        assert "Ann" in second.get("/").text
        first.post("/sign-out")
        assert "Ann" not in second.get("/").text


def test_the_page_shows_the_kind_of_a_store_and_never_its_url(serve: Callable[..., int], tmp_path: Path) -> None:
    port = serve(EXAMPLES / "demo", "app", DEMO_BACKEND=f"sqlite+aiosqlite:///{tmp_path / 'secret-place.db'}")
    with new_browser(port) as browser:
        page = browser.get("/").text
    assert '<code id="backend">sqlite+aiosqlite</code>' in page
    assert "secret-place" not in page


def test_a_store_is_given_by_its_url(serve: Callable[..., int], redis_server: Address) -> None:
    with new_browser(serve(EXAMPLES / "demo", "app", DEMO_BACKEND=redis_server.url)) as browser:
        browser.post("/sign-in", data={"name": "Ann"})
        assert "Ann" in browser.get("/").text
