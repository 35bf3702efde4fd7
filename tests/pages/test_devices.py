"""A person's devices and sign-in history, as the person meets them in a browser."""

import asyncio
import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount
from starlette.templating import Jinja2Templates

from starsessions import BackendUnavailable, ImproperlyConfigured, InMemoryBackend, Session
from starsessions.backends.base import Backend
from starsessions.events import EndedByOperator, SignedIn
from starsessions.flash import add_flash
from starsessions.history import SignInHistory
from starsessions.pages import DevicesPages, Page
from starsessions.users import UserSessions, sign_in
from tests.pages.visitor import Seen, Visitor, site
from tests.rows import rows
from tests.shell.people import LISTING
from tests.site import Clock

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
SAFARI = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Safari/604.1"


@pytest.fixture
def backend(clock: Clock) -> Any:
    return InMemoryBackend(clock=clock)


@pytest.fixture
def app(backend: Backend, clock: Clock) -> Starlette:
    return with_devices(backend, clock)


def with_devices(backend: Backend, clock: Clock, **settings: Any) -> Starlette:
    pages = DevicesPages(UserSessions(backend), sign_in_url="/login", clock=clock, **settings)
    return site(backend, Mount("/devices", pages, name="devices"))


def names(page: Any) -> list[str]:
    """The devices that a page shows."""
    return Seen(page.text).devices


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", LISTING)
def test_a_person_sees_all_devices_and_signs_out_one_of_them_or_all_others(clock: Clock, kind: str, loop: str) -> None:
    app = with_devices(LISTING[kind](clock), clock)
    phone = Visitor(app, "ann", SAFARI, backend=loop)
    clock.advance(1)
    tablet = Visitor(app, "ann", "Mozilla/5.0 (iPad; like Mac OS X) CriOS/1", backend=loop)
    clock.advance(3 * 3600 - 1)
    laptop = Visitor(app, "ann", FIREFOX, backend=loop)

    page = laptop.get("/devices")
    assert page.status_code == 200
    assert names(page) == ["Firefox on Linux", "Chrome on iPad", "Safari on iPhone"]
    assert "Firefox on Linux This device Signed in 2027-01-15 11:00 UTC just now password" in Seen(page.text).text
    assert "3 h ago" in page.text

    page = laptop.click(page, "Sign out Safari on iPhone")
    assert page.status_code == 200
    assert "That device is signed out." in page.text
    assert names(page) == ["Firefox on Linux", "Chrome on iPad"]
    assert phone.get("/devices/").url.path == "/login"
    assert tablet.get("/devices/").status_code == 200

    page = laptop.click(page, "Sign out all other devices")
    assert "All other devices are signed out: 1" in page.text
    assert "You are signed in on this device only." in page.text
    assert tablet.get("/devices/").url.path == "/login"


@pytest.fixture
def ann(app: Starlette) -> Visitor:
    return Visitor(app, "ann", FIREFOX)


@pytest.mark.parametrize("path", ["/devices/", "/devices/history", "/devices/history.csv"])
def test_someone_who_is_not_signed_in_is_sent_to_the_login_with_the_way_back(
    backend: Backend, clock: Clock, path: str
) -> None:
    history = SignInHistory("sqlite+aiosqlite://", clock=clock)
    app = with_devices(backend, clock, history=history)
    answer = Visitor(app).get(path)
    assert answer.text == "/login wants to go on to /devices/"


# Forms


def test_the_handle_of_another_user_is_not_found_and_ends_nothing(app: Starlette, ann: Visitor) -> None:
    eve = Visitor(app, "eve", SAFARI)
    Visitor(app, "eve", FIREFOX)
    Visitor(app, "ann", FIREFOX)
    theirs = Seen(eve.get("/devices/").text).form_with("Sign out Firefox on Linux").buttons["Sign out Firefox on Linux"]
    form = Seen(ann.get("/devices/").text).forms[0]
    answer = ann.post("/devices/end", data=form.fields | theirs)
    assert answer.status_code == 404
    assert "That device was not signed in any more." in answer.text
    assert len(names(eve.get("/devices/"))) == 2
    assert len(names(ann.get("/devices/"))) == 2


def test_the_second_of_two_clicks_finds_that_the_device_is_signed_out(app: Starlette, ann: Visitor) -> None:
    Visitor(app, "ann", SAFARI)
    page = ann.get("/devices/")
    assert ann.click(page, "Sign out Safari on iPhone").status_code == 200
    again = ann.click(page, "Sign out Safari on iPhone")
    assert again.status_code == 404
    assert "was not signed in any more" in again.text
    assert names(again) == ["Firefox on Linux"]  # and the page goes on as before
    assert ann.click(again, "Back").status_code == 404  # this application has no home page


@pytest.mark.parametrize("kind", LISTING)
def test_the_second_of_two_clicks_on_all_others_does_not_sign_this_one_out(clock: Clock, kind: str) -> None:
    app = with_devices(LISTING[kind](clock), clock)
    Visitor(app, "ann", SAFARI)
    ann = Visitor(app, "ann", FIREFOX)
    page = ann.get("/devices/")
    before = dict(ann.cookies)
    assert ann.click(page, "Sign out all other devices").status_code == 200
    now = dict(ann.cookies)
    assert now != before
    ann.cookies.clear()
    ann.cookies.update(before)  # the click was so quick that the browser had only the old id
    again = ann.click(page, "Sign out all other devices")
    assert not any("set-cookie" in response.headers for response in [*again.history, again])
    if kind in ("signed", "encrypted"):  # nothing tells it from a cookie that was ended: the login finds the new one
        assert again.text == "/login wants to go on to /devices/"
    else:
        assert (again.status_code, "This page is out of date" in again.text) == (403, True)
        assert Seen(again.text).links["Open it again"] == "./"
    ann.cookies.clear()
    ann.cookies.update(now)
    assert names(ann.get("/devices/")) == ["Firefox on Linux"]


def test_a_form_without_a_token_or_with_that_of_another_session_ends_nothing(app: Starlette, ann: Visitor) -> None:
    other = Visitor(app, "ann", SAFARI)
    page = ann.get("/devices/")
    form = Seen(page.text).form_with("Sign out Safari on iPhone")
    handle = form.buttons["Sign out Safari on iPhone"]
    theirs = Seen(other.get("/devices/").text).forms[0].fields
    for data in (handle, handle | {"csrf_token": ""}, handle | theirs):
        for path in ("/devices/end", "/devices/end-others"):
            answer = ann.post(path, data=data)
            assert answer.status_code == 403
            assert "This page is out of date" in answer.text
            assert answer.headers["cache-control"] == "no-store"
    assert len(names(ann.get("/devices/"))) == 2


def test_a_page_that_was_opened_before_a_sign_out_leads_to_the_login(app: Starlette, ann: Visitor) -> None:
    Visitor(app, "ann", SAFARI)
    page = ann.get("/devices/")
    ann.post("/logout")
    assert ann.click(page, "Sign out Safari on iPhone").text == "/login wants to go on to /devices/"


def test_a_page_that_was_opened_by_the_user_before_ends_nothing_of_the_next_one(app: Starlette, ann: Visitor) -> None:
    Visitor(app, "ann", SAFARI)
    page = ann.get("/devices/")
    ann.post("/login?user=eve")
    assert ann.click(page, "Sign out Safari on iPhone").status_code == 403
    assert ann.click(page, "Sign out all other devices").status_code == 403
    assert len(names(Visitor(app, "ann").get("/devices/"))) == 2


@rows("data", [{}, {"handle": ""}, {"handle": "x" * 10_000}, {"handle": "\0"}, {"handle": ["a", "b"]}])
def test_a_handle_that_no_page_has_shown_ends_nothing(app: Starlette, ann: Visitor, data: dict[str, Any]) -> None:
    Visitor(app, "ann", SAFARI)
    token = Seen(ann.get("/devices/").text).forms[0].fields
    before = len(names(ann.get("/devices/")))
    assert ann.post("/devices/end", data=token | data).status_code == 404
    assert ann.post("/devices/end", data=token, files={"handle": b"a file"}).status_code == 404
    assert len(names(ann.get("/devices/"))) == before


# A confirmation


def test_with_step_up_an_old_sign_in_is_confirmed_before_a_device_is_signed_out(backend: Backend, clock: Clock) -> None:
    app = with_devices(backend, clock, step_up=600, confirm_url="/confirm?why=devices#form")
    Visitor(app, "ann", SAFARI)
    ann = Visitor(app, "ann", FIREFOX)
    page = ann.get("/devices/")
    clock.advance(600)
    for button in ("Sign out Safari on iPhone", "Sign out all other devices"):
        answer = ann.click(page, button, follow_redirects=False)
        assert answer.status_code == 303
        assert answer.headers["location"] == "/confirm?why=devices&next=/devices/#form"
    assert len(names(ann.get("/devices/"))) == 2
    ann.post("/login?user=ann")  # the password, again
    assert len(names(ann.click(ann.get("/devices/"), "Sign out Safari on iPhone"))) == 1


@pytest.mark.parametrize("waits", [False, True])
def test_the_application_may_decide_whether_to_ask_for_a_confirmation(
    backend: Backend, clock: Clock, waits: bool
) -> None:
    answers = iter([False, True])

    async def later(request: Request) -> bool:
        return next(answers)

    asked = later if waits else lambda request: next(answers)
    app = with_devices(backend, clock, step_up=asked, confirm_url="https://id.example.com/confirm")
    Visitor(app, "ann", SAFARI)
    ann = Visitor(app, "ann", FIREFOX)
    page = ann.get("/devices/")
    answer = ann.click(page, "Sign out Safari on iPhone", follow_redirects=False)
    assert answer.headers["location"] == "https://id.example.com/confirm?next=/devices/"
    assert names(ann.click(page, "Sign out Safari on iPhone")) == ["Firefox on Linux"]


# Many


UNLIMITED: dict[str, Any] = {"max_sessions_per_user": None}


def test_a_thousand_sessions_are_shown_in_pages(backend: Backend, clock: Clock) -> None:
    async def sign_in_often() -> None:
        for number in range(1000):
            clock.advance(number % 3)
            session = Session(backend)
            await session.load()
            await sign_in(session, "ann", method=f"way {number}")
            await session.persist()

    app = site(backend, Mount("/devices", DevicesPages(UserSessions(backend), sign_in_url="/login")), **UNLIMITED)
    Visitor(app, "ann")  # binds the backend
    asyncio.run(sign_in_often())
    ann = Visitor(app, "ann", FIREFOX)
    page, shown = ann.get("/devices/"), []
    while True:
        texts = Seen(page.text).texts
        shown += [text for text in texts if text.startswith("way ")]
        assert texts.count("Sign out all other devices") == 1
        if "Older" not in texts:
            break
        page = ann.click(page, "Older")
    assert len(shown) == 1000
    assert sorted(shown) == sorted(f"way {number}" for number in range(1000))
    assert len(Seen(page.text).forms) < 60


def test_a_page_that_does_not_exist_is_the_first(ann: Visitor) -> None:
    for after in ("", "x", "9" * 50, "<script>"):
        page = ann.get("/devices/", params={"after": after})
        assert names(page) == ["Firefox on Linux"]
        assert "<script>" not in page.text


# What strangers send


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"


def test_what_a_browser_or_a_sign_in_says_is_text_and_no_html(app: Starlette, backend: Backend) -> None:
    async def sign_in_strangely() -> None:
        session = Session(backend)
        session.__starsessions__.headers = [(b"user-agent", HOSTILE.encode())]
        await session.load()
        await sign_in(session, HOSTILE, method=HOSTILE)
        await session.persist()

    Visitor(app, "ann")
    asyncio.run(sign_in_strangely())
    eve = Visitor(app, agent="Firefox/1 <b>")
    assert eve.post("/login", params={"user": HOSTILE, "method": HOSTILE}).status_code == 200
    page = eve.get("/devices/")
    assert Seen(page.text).texts.count(HOSTILE) == 2
    assert {tag for tag, _ in Seen(page.text).tags} & {"script", "img", "b", "style"} == set()
    assert not any(
        name.startswith("on") or name == "style" for _, attributes in Seen(page.text).tags for name in attributes
    )


# The protocol


def test_methods_that_a_page_does_not_have_are_refused_and_head_has_no_body(ann: Visitor) -> None:
    assert ann.head("/devices/").status_code == 200
    assert ann.head("/devices/").text == ""
    for method, path in [("POST", "/"), ("GET", "/end"), ("HEAD", "/end-others"), ("PUT", "/"), ("DELETE", "/end")]:
        assert ann.request(method, f"/devices{path}").status_code == 405
    for path in ("/history", "/history.csv", "/end/", "//", "/x"):  # without a history, there is no page of it
        assert ann.get(f"/devices{path}").status_code == 404


def test_a_head_does_not_take_the_message_of_the_next_page(app: Starlette, ann: Visitor) -> None:
    Visitor(app, "ann", SAFARI)
    ann.click(ann.get("/devices/"), "Sign out Safari on iPhone", follow_redirects=False)
    ann.head("/devices/")
    assert "That device is signed out." in ann.get("/devices/").text


def test_pages_are_not_stored_and_allow_nothing_inline(ann: Visitor) -> None:
    page = ann.get("/devices/")
    assert page.headers["cache-control"] == "no-store"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    [style] = [attributes["href"] for tag, attributes in Seen(page.text).tags if attributes.get("rel") == "stylesheet"]
    served = ann.get(f"/devices/{style}")
    assert served.headers["content-type"].startswith("text/css")
    assert "immutable" in served.headers["cache-control"]
    assert "set-cookie" not in served.headers
    assert ann.get("/devices/style.css?v=another").headers["cache-control"] == "no-cache"


def under_a_prefix(app: Starlette, prefix: str) -> Any:
    """A proxy that serves the application below a path, which it says (`--root-path`)."""

    async def proxied(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": prefix, "path": prefix + scope["path"]}, receive, send)

    return proxied


def silently_under_a_prefix(app: Starlette, prefix: str) -> Any:
    """A proxy that serves the application below a path, and does not say so."""

    async def proxied(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix(prefix)
        assert path != scope["path"]  # a link that leads out of the prefix
        await app({**scope, "path": path}, receive, send)

    return proxied


def test_links_and_forms_stay_below_the_prefix_of_a_proxy(app: Starlette) -> None:
    Visitor(app, "ann", SAFARI)
    proxied = Visitor(silently_under_a_prefix(app, "/shop"), agent=FIREFOX)
    proxied.post("/shop/login?user=ann")
    page = proxied.click(proxied.get("/shop/devices/"), "Sign out Safari on iPhone")
    assert (page.status_code, page.url.path) == (200, "/shop/devices/")

    told = Visitor(under_a_prefix(app, "/shop"))
    assert told.get("/devices/", follow_redirects=False).headers["location"] == "/shop/login?next=/shop/devices/"
    told.post("/login?user=ann")
    assert Seen(told.get("/devices/").text).links["Back"] == "/shop/"


def test_pages_may_be_mounted_within_a_mount(backend: Backend, clock: Clock) -> None:
    pages = DevicesPages(UserSessions(backend), sign_in_url="/login", clock=clock)
    app = site(backend, Mount("/my account", routes=[Mount("/devices", pages, name="devices")], name="account"))
    Visitor(app, "ann", SAFARI)
    answer = Visitor(app).get("/my account/devices/", follow_redirects=False)
    assert answer.headers["location"] == "/login?next=/my%20account/devices/"
    ann = Visitor(app, "ann", FIREFOX)
    page = ann.click(ann.get("/my account/devices/"), "Sign out Safari on iPhone")
    assert page.status_code == 200
    assert app.url_path_for("account:devices:devices") == "/my account/devices/"


def test_an_outage_of_the_store_signs_no_one_out(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = InMemoryBackend(clock=clock)
    app = with_devices(backend, clock)
    app.user_middleware[0].kwargs["on_unavailable"] = "anonymous"
    ann = Visitor(app, "ann", raise_server_exceptions=False)

    async def fails(*_: Any, **__: Any) -> None:
        raise BackendUnavailable("The store failed.")

    monkeypatch.setattr(backend.store, "get", fails)
    assert ann.get("/devices/").status_code == 503


# The application's own template and language


def test_a_page_is_shown_in_the_template_of_the_application(backend: Backend, clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "account.html").write_text(
        "<html lang={{ page.language }}><title>{{ page.title }} | Shop</title>"
        "<link rel=stylesheet href={{ page.style }}>"
        "<main>{{ page.body }}</main>{{ page.context.devices | length }} of {{ page.context.user_id }}"
    )
    templates = Jinja2Templates(tmp_path)

    def render(request: Request, page: Page) -> Response:
        return templates.TemplateResponse(request, "account.html", {"page": page})

    app = with_devices(backend, clock, render=render, home_url=None)
    ann = Visitor(app, "ann", FIREFOX)
    page = ann.get("/devices/")
    assert "<title>Your devices | Shop</title>" in page.text
    assert "<h2>Firefox on Linux" in page.text
    assert page.text.endswith("1 of ann")
    assert "Back" not in page.text
    assert page.headers["cache-control"] == "no-store"
    assert ann.post("/devices/end", data={}).status_code == 403  # whatever status the template had


def test_the_renderer_may_wait_and_set_headers_of_its_own(backend: Backend, clock: Clock) -> None:
    async def render(request: Request, page: Page) -> Response:
        return HTMLResponse(f"{page.name} {page.status}", headers={"cache-control": "private"})

    app = with_devices(backend, clock, render=render)
    page = Visitor(app, "ann").get("/devices/")
    assert page.text == "devices 200"
    assert page.headers["cache-control"] == "private"


def test_the_message_of_another_page_is_shown_as_text(backend: Backend, clock: Clock) -> None:
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await Request(scope).session.load()
        add_flash(Request(scope), "<b>Saved</b>", '"><i>')
        await PlainTextResponse("")(scope, receive, send)

    pages = DevicesPages(UserSessions(backend), sign_in_url="/login", clock=clock)
    ann = Visitor(site(backend, Mount("/flash", page), Mount("/devices", pages)), "ann")
    ann.get("/flash/")
    assert '<p class="ss-notice &quot;&gt;&lt;i&gt;" role="status">&lt;b&gt;Saved' in ann.get("/devices/").text


# The history


@pytest.fixture
def history(tmp_path: Path, clock: Clock) -> SignInHistory:
    history = SignInHistory(f"sqlite+aiosqlite:///{tmp_path / 'history.db'}", clock=clock)
    asyncio.run(history.create_table())
    return history


@pytest.fixture
def with_history(backend: Backend, clock: Clock, history: SignInHistory) -> Starlette:
    pages = DevicesPages(UserSessions(backend), sign_in_url="/login", history=history, clock=clock)
    return site(backend, Mount("/devices", pages), on_event=history.record)


def test_a_person_reads_their_own_history_and_downloads_it(with_history: Starlette, history: SignInHistory) -> None:
    with Visitor(with_history, agent=FIREFOX) as ann:
        ann.post("/login?user=ann")
        history.record(SignedIn("h", "eve", "of eve"))
        history.record(EndedByOperator("a member of staff", "ann", "", 1))
        page = ann.click(ann.get("/devices/"), "Sign-in history")
        seen = Seen(page.text)
        assert "Signed in Firefox on Linux password 2027-01-15 08:00 UTC" in seen.text
        assert "Signed out by an operator" in seen.text
        assert "of eve" not in page.text
        assert "a member of staff" not in page.text
        table = ann.click(page, "Download as CSV")
        assert table.headers["content-type"].startswith("text/csv")
        assert table.headers["cache-control"] == "no-store"
        lines = [*csv.DictReader(io.StringIO(table.text))]
        assert [(line["what"], line["operator"]) for line in lines] == [("by operator", ""), ("signed in", "")]


def test_a_long_history_is_shown_in_pages_and_an_empty_one_says_so(
    with_history: Starlette, history: SignInHistory
) -> None:
    with Visitor(with_history) as ann:
        ann.post("/login?user=ann")
        ann.portal.call(history.erase, "ann")
        assert "Nothing yet." in ann.get("/devices/history").text
        for number in range(120):
            history.record(SignedIn(f"h{number}", "ann", f"way {number}"))
        page, shown = ann.get("/devices/history"), []
        while True:
            seen = Seen(page.text)
            shown += [text for text in seen.texts if text.startswith("way ")]
            if "Older" not in seen.links:
                break
            page = ann.click(page, "Older")
        assert shown == [f"way {number}" for number in reversed(range(120))]


# Mistakes


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"sign_in_url": "login"}, "sign_in_url must be a path"),
    ({"sign_in_url": "//evil.test"}, "sign_in_url must be a path"),
    ({"sign_in_url": None}, "sign_in_url must be a path"),
    ({"step_up": 600}, "step_up and confirm_url belong together"),
    ({"confirm_url": "/confirm"}, "step_up and confirm_url belong together"),
    ({"step_up": 600, "confirm_url": "confirm"}, "confirm_url must be a path"),
    ({"step_up": "600", "confirm_url": "/confirm"}, "step_up must be seconds"),
    ({"render": "account.html"}, "render must be a function"),
    ({"translate": "de"}, "translate must be a dict"),
]


@rows("settings, message", MISTAKES)
def test_a_mistake_in_a_setting_is_an_error_that_names_the_cure(settings: dict[str, Any], message: str) -> None:
    users = UserSessions(InMemoryBackend())
    with pytest.raises(ImproperlyConfigured, match=message):
        DevicesPages(users, **({"sign_in_url": "/login"} | settings))


def test_a_backend_in_the_place_of_its_sessions_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"DevicesPages takes UserSessions\(backend\)"):
        DevicesPages(InMemoryBackend(), sign_in_url="/login")  # type: ignore[arg-type]


def test_without_a_parser_of_forms_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[[str], Any] = lambda name: None  # noqa: E731 - the type of it matters to mypy
    monkeypatch.setattr("starsessions.pages.site.find_spec", find)
    with pytest.raises(ImproperlyConfigured, match=r"starsessions\[pages\]"):
        DevicesPages(UserSessions(InMemoryBackend()), sign_in_url="/login")


def test_a_current_device_is_that_of_the_request(app: Starlette, ann: Visitor) -> None:
    Visitor(app, "ann", SAFARI)
    text = Seen(ann.get("/devices/").text).text
    assert text.index("Firefox on Linux This device") < text.index("Safari on iPhone")
    assert text.count("This device") == 1
