"""What another site makes the browser send comes without a Lax cookie, and must not replace its session."""

from collections.abc import Callable
from typing import Any

import pytest

from starsessions import InMemoryBackend, Session, SessionBackend, SessionGone, csrf, flash, update_atomically, users
from tests.kinds import each_backend
from tests.rows import rows
from tests.shell.people import sign_in
from tests.site import Browser, Clock, Site

pytestmark = pytest.mark.anyio

CROSS_SITE = [(b"host", b"shop.example"), (b"sec-fetch-site", b"cross-site"), (b"origin", b"https://pay.example")]


async def update(session: Session) -> None:
    await update_atomically(session, lambda data: data.update(paid=1))


async def sent_by_another_site(site: Site, act: Callable[[Session], Any], **scope: Any) -> Any:
    """The browser keeps its cookie, and takes the one that it gets."""
    withheld, browser = dict(site.browser.cookies), Browser()
    request = {"method": "POST", "path": "/paid", "headers": CROSS_SITE, **scope}
    try:
        return await site.visit(act, browser, **request)
    finally:
        site.browser.cookies = withheld | browser.cookies


@pytest.mark.guarantee(21)
@each_backend
@rows("act", [lambda session: session.update(paid=1), lambda session: flash.add_flash(session, "Paid.")])
async def test_what_a_callback_writes_does_not_sign_the_user_out(
    site_of: Callable[..., Site], backend: SessionBackend, caplog: pytest.LogCaptureFixture, act: Any
) -> None:
    caplog.clear()
    site = site_of(backend=backend)
    await site.visit(sign_in())

    for _ in range(2):
        reply = await sent_by_another_site(site, act)
        assert (reply.set_cookies, reply.all("vary")) == ([], ["Cookie"])

    assert (await site.visit(users.get_user_id)).result == "ann"
    assert caplog.text.count("/paid") == caplog.text.count("docs/guides/users/callbacks.md") == 1


async def test_a_path_forges_no_line_of_the_log(
    site_of: Callable[..., Site], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    site = site_of(backend=InMemoryBackend(clock=clock), autoload=True)
    site.response = [(b"cache-control", b"public")]
    path = "/a\nERROR all sessions are lost" + "x" * 500
    await sent_by_another_site(site, lambda session: session.update(paid=1), path=path)
    await site.visit(lambda session: session.get("n"), path=path)
    assert [("\n" in one.getMessage(), len(one.getMessage()) < 600) for one in caplog.records] == [(False, True)] * 3


@each_backend
@rows("act", [Session.persist, update], ids=["persist", "update_atomically"])
async def test_saving_by_hand_in_a_callback_raises_and_names_the_guide(
    site_of: Callable[..., Site], backend: SessionBackend, act: Any
) -> None:
    site = site_of(backend=backend)

    with pytest.raises(SessionGone, match=r"docs/guides/users/callbacks\.md"):
        await sent_by_another_site(site, act)
    assert site.browser.cookies == {}


@rows(
    ("scope", "settings"),
    [
        ({"method": "GET"}, {}),
        ({"headers": [(b"sec-fetch-site", b"same-origin")]}, {}),
        ({"headers": [(b"host", b"shop.example")]}, {}),
        ({"headers": [(b"host", b"127.0.0.1:8000"), (b"origin", b"http://shop.example")]}, {}),  # nginx, plain http
        ({}, {"same_site": "none", "https_only": True}),
        ({"headers": [*CROSS_SITE, (b"cookie", b"session=unknown")]}, {}),
    ],
)
async def test_any_other_request_begins_a_session(
    site_of: Callable[..., Site], clock: Clock, scope: dict[str, Any], settings: dict[str, Any]
) -> None:
    site = site_of(backend=InMemoryBackend(clock=clock), **settings)
    reply = await sent_by_another_site(site, lambda session: session.update(n=1), **scope)
    assert len(reply.set_cookies) == 1


async def signs_in_by_hand(session: Session) -> None:
    await session.regenerate_id()
    session["user"] = "ann"


@each_backend
@rows(("act", "user"), [(sign_in(), "ann"), (signs_in_by_hand, None)])
async def test_a_user_who_signs_in_there_gets_a_session(
    site_of: Callable[..., Site], backend: SessionBackend, act: Any, user: str | None
) -> None:
    """A SAML or OpenID provider posts the answer. The new id is asked for, so the browser's session is replaced."""
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(n=1))

    assert len((await sent_by_another_site(site, act)).set_cookies) == 1
    seen = await site.visit(lambda session: (users.get_user_id(session), session.get("user"), session.get("n")))
    assert seen.result == (user, None if user else "ann", None)


def test_the_keys_of_the_library_are_known_as_its_own(clock: Clock) -> None:
    from starlette.requests import Request

    from starsessions.core.record import is_bare

    session = Session(InMemoryBackend(clock=clock))
    session.is_loaded = True
    csrf.csrf_token(Request({"type": "http", "headers": [], "session": session}))
    flash.add_flash(session, "Hello.")
    assert is_bare(session)
