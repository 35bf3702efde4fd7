"""Messages for the next page: shown once, to a page, in any tab, on every backend."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.testclient import TestClient

from starsessions import ImproperlyConfigured, Session, SessionBackend, SessionMiddleware, SessionNotLoaded, flash
from starsessions.flash import Flash, context_processor
from tests.rows import rows
from tests.site import Browser, Headers, Site

pytestmark = pytest.mark.anyio

PAGE = [(b"sec-fetch-mode", b"navigate"), (b"sec-fetch-dest", b"document")]
FETCH = [(b"sec-fetch-mode", b"cors"), (b"sec-fetch-dest", b"empty")]
PREFETCH = [*PAGE, (b"sec-purpose", b"prefetch")]

SiteOf = Callable[..., Site]


async def pop(session: Session) -> list[Flash]:
    await session.load()
    return flash.pop_flashes(session)


async def say(session: Session, *texts: str) -> None:
    await session.load()
    for text in texts:
        flash.add_flash(session, text)


async def shown(site: Site, headers: Headers = PAGE, act: Callable[[Session], Any] = pop) -> list[str]:
    reply = await site.visit(act, headers=[*site.browser.header(), *headers])
    return [message.text for message in reply.result]


@pytest.mark.guarantee(23)
async def test_a_message_is_shown_on_the_next_page_and_only_there(site_of: SiteOf, backend: SessionBackend) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: flash.add_flash(session, "Saved", "success"))
    reply = await site.visit(pop)
    assert reply.result == [Flash("Saved", "success")]
    assert await shown(site) == []


async def test_a_session_with_nothing_but_a_message_ends_when_it_is_shown(
    site_of: SiteOf, backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: flash.add_flash(session, "Hello"))
    assert await shown(site) == ["Hello"]
    assert site.browser.cookies == {}


async def test_a_page_without_messages_is_no_change_and_makes_no_session(
    site_of: SiteOf, backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    reply = await site.visit(pop)
    assert (reply.result, reply.set_cookies) == ([], [])


@pytest.mark.guarantee(23)
@rows("headers", [FETCH, PREFETCH, [(b"x-requested-with", b"XMLHttpRequest")]])
async def test_a_background_fetch_and_a_prefetch_do_not_eat_messages(
    site_of: SiteOf, backend: SessionBackend, headers: Headers
) -> None:
    """fisharebest/webtrees#3186, Tatoeba/tatoeba2#1949: a background request consumed the message."""
    site = site_of(backend=backend)
    await site.visit(lambda session: flash.add_flash(session, "Saved"))
    assert await shown(site, headers) == []
    assert await shown(site) == ["Saved"]


@rows("background", [False, True])
@rows("take", [flash.pop_flashes, flash.claim_flashes], ids=lambda take: take.__name__)
async def test_an_answer_to_head_shows_nothing_and_takes_no_messages(
    site_of: SiteOf, take: Callable[..., Any], background: bool
) -> None:
    """Starlette serves HEAD with the handler of GET."""
    site = site_of(autoload=True)
    await site.visit(lambda session: flash.add_flash(session, "Saved"))
    reply = await site.visit(lambda session: take(session, background=background), method="HEAD")
    assert reply.result == []
    assert await shown(site) == ["Saved"]


async def test_an_answer_to_a_script_that_is_shown_may_take_them(site_of: SiteOf) -> None:
    site = site_of()
    await site.visit(lambda session: flash.add_flash(session, "Saved"))
    assert await shown(site, FETCH, lambda session: flash.pop_flashes(session, background=True)) == ["Saved"]
    assert await shown(site) == []


async def while_another(site_of: SiteOf, backend: SessionBackend, first: Any, meanwhile: Any) -> tuple[Site, Any, Any]:
    """Two tabs: one request has loaded its session, `meanwhile` runs as a whole, then `first` runs."""
    site, elsewhere = site_of(backend=backend), site_of(backend=backend)
    await site.visit(lambda session: session.update(user="ann"))
    await site.visit(lambda session: say(session, "before"))
    browser = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> Any:
        await session.load()
        nonlocal other
        other = await elsewhere.visit(meanwhile, Browser(dict(browser.cookies)))
        return await first(session)

    other: Any = None
    reply = await site.visit(act, Browser(dict(browser.cookies)))
    return site, reply.result, other.result


@pytest.mark.guarantee(23)
async def test_messages_added_by_two_tabs_are_both_kept(site_of: SiteOf, server_backend: SessionBackend) -> None:
    """A list under one key would be last write wins."""
    site, _, _ = await while_another(
        site_of, server_backend, lambda session: say(session, "one"), lambda session: say(session, "other")
    )
    assert sorted(await shown(site)) == ["before", "one", "other"]
    assert await shown(site) == []


@pytest.mark.guarantee(23)
async def test_a_message_added_while_a_page_is_rendered_is_on_the_next_page(
    site_of: SiteOf, server_backend: SessionBackend
) -> None:
    site, page, _ = await while_another(site_of, server_backend, pop, lambda session: say(session, "meanwhile"))
    assert page == [Flash("before")]
    assert await shown(site) == ["meanwhile"]
    assert await shown(site) == []


@pytest.mark.guarantee(23)
async def test_a_message_shown_meanwhile_is_not_brought_back(site_of: SiteOf, server_backend: SessionBackend) -> None:
    site, _, page = await while_another(site_of, server_backend, lambda session: say(session, "one"), pop)
    assert page == [Flash("before")]
    assert await shown(site) == ["one"]


async def claim(session: Session) -> list[Flash]:
    return await flash.claim_flashes(session)


@pytest.mark.guarantee(23)
async def test_of_two_pages_at_the_same_moment_one_gets_the_message(
    site_of: SiteOf, server_backend: SessionBackend
) -> None:
    site, one, other = await while_another(site_of, server_backend, claim, claim)
    assert (one, other) == ([], [Flash("before")])
    assert await shown(site) == []


async def test_a_claim_finds_messages_added_since_the_session_was_loaded(
    site_of: SiteOf, server_backend: SessionBackend
) -> None:
    site, page, _ = await while_another(site_of, server_backend, claim, lambda session: say(session, "meanwhile"))
    assert page == [Flash("before"), Flash("meanwhile")]
    assert await shown(site) == []


async def test_a_claim_in_an_ended_session_gets_no_messages(site_of: SiteOf, server_backend: SessionBackend) -> None:
    _, page, _ = await while_another(site_of, server_backend, claim, Session.delete)
    assert page == []


async def test_a_claim_takes_messages_on_every_backend(site_of: SiteOf, backend: SessionBackend) -> None:
    site = site_of(backend=backend, autoload=False)
    await site.visit(lambda session: say(session, "Saved"))
    assert await shown(site, FETCH, claim) == []
    assert await shown(site, PAGE, claim) == ["Saved"]
    assert await shown(site, PAGE, claim) == []


async def test_a_handler_that_fails_has_shown_nothing_and_taken_nothing(site_of: SiteOf) -> None:
    site = site_of()
    await site.visit(lambda session: flash.add_flash(session, "Saved"))

    def fails(session: Session) -> None:
        flash.pop_flashes(session)
        raise LookupError

    with pytest.raises(LookupError):
        await site.visit(fails)
    assert await shown(site) == ["Saved"]


async def test_a_message_in_a_signed_cookie_leaves_it_in_starlettes_form(site_of: SiteOf) -> None:
    site = site_of()
    await site.visit(lambda session: flash.add_flash(session, "Saved"))
    assert not site.browser.cookies["session"].startswith("s1.")


@pytest.mark.guarantee(23)
async def test_the_largest_backlog_of_messages_fits_into_a_cookie(site_of: SiteOf) -> None:
    """LearningCircuit/local-deep-research#5774: an unbounded backlog was a silent sign out."""
    site = site_of()
    for _ in range(20):
        await site.visit(lambda session: say(session, *["é" * 300] * 3))
    assert len(site.browser.cookies["session"]) < 4096


# In templates


def application(templates: Path, backend: SessionBackend, autoload: bool = True) -> Starlette:
    html = Jinja2Templates(templates, context_processors=[context_processor])

    async def save(request: Request) -> Response:
        flash.add_flash(request.session, "<Saved>", "success")  # type: ignore[attr-defined]
        return RedirectResponse("/shows", 303)

    async def page(request: Request) -> Response:
        return html.TemplateResponse(request, request.url.path[1:] + ".html")

    return Starlette(
        routes=[Route("/save", save, methods=["POST"]), Route("/{page}", page)],
        middleware=[Middleware(SessionMiddleware, backend=backend, autoload=autoload)],
    )


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    (tmp_path / "shows.html").write_text(
        "{% for m in flashes() %}<p class={{ m.category }}>{{ m.text }}</p>{% endfor %}"
    )
    (tmp_path / "silent.html").write_text("Hello")
    return tmp_path


async def test_a_template_shows_and_escapes_them_once(templates: Path, backend: SessionBackend) -> None:
    browser = TestClient(application(templates, backend))
    assert browser.post("/save").text == "<p class=success>&lt;Saved&gt;</p>"
    assert browser.get("/shows").text == ""


async def test_a_template_that_shows_no_messages_takes_none(templates: Path, backend: SessionBackend) -> None:
    browser = TestClient(application(templates, backend))
    browser.post("/save", follow_redirects=False)
    assert browser.get("/silent").text == "Hello"
    assert "Saved" in browser.get("/shows").text


async def test_a_session_that_is_not_loaded_raises(templates: Path, backend: SessionBackend) -> None:
    with pytest.raises(SessionNotLoaded):
        TestClient(application(templates, backend, autoload=False)).get("/shows")


async def test_without_the_middleware_the_error_names_the_cure() -> None:
    with pytest.raises(ImproperlyConfigured, match="SessionMiddleware"):
        flash.pop_flashes(Request({"type": "http"}))
