"""Signing in and out: a new id each time, and the user kept apart from the data."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from starsessions import (
    CookieBackend,
    EncryptedCookieBackend,
    ImproperlyConfigured,
    ResponseStarted,
    Session,
    SessionBackend,
    UnsupportedValue,
    flash,
    users,
)
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from tests.keys import owner_name
from tests.rows import rows
from tests.shell.people import LISTING, sign_in, user_of
from tests.shell.test_websocket import connect
from tests.site import KEY, Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio


# Signing in


@pytest.mark.requirement("NIST 5.1(1)")
async def test_a_sign_in_is_seen_at_once_and_at_the_next_request(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend)

    async def act(session: Session) -> tuple[str | None, datetime | None]:
        assert (users.get_user_id(session), users.get_signed_in_at(session), users.get_handle(session)) == (
            None,
            None,
            None,
        )
        await users.sign_in(session, "ann")
        return users.get_user_id(session), users.get_signed_in_at(session)

    at = datetime.fromtimestamp(clock(), UTC)
    assert (await site.visit(act)).result == ("ann", at)
    clock.advance(5)
    assert (await site.visit(lambda session: (users.get_user_id(session), users.get_signed_in_at(session)))).result == (
        "ann",
        at,
    )


async def test_a_sign_in_without_any_data_is_a_session_and_removing_its_data_does_not_end_it(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in())
    await site.visit(lambda session: session.update(n=1))
    await site.visit(lambda session: session.pop("n"))
    assert (await site.visit(lambda session: (users.get_user_id(session), dict(session)))).result == ("ann", {})


@pytest.mark.requirement("ASVS 7.2.4", "NIST 5.1")
@pytest.mark.guarantee(21)
async def test_each_sign_in_gives_a_new_id_and_invalidates_the_old_one(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    """ASVS 7.2.4: a new token at authentication, and at re-authentication; the current one is terminated."""
    site = site_of(backend=server_backend)
    await site.visit(lambda session: session.update(cart=[1]))
    ids = [dict(site.browser.cookies)]
    for _ in range(2):
        await site.visit(sign_in())
        ids.append(dict(site.browser.cookies))
    assert len({tuple(one.items()) for one in ids}) == 3
    for old in ids[:2]:
        assert await site.data(Browser(old)) == {}
    assert await site.data() == {"cart": [1]}


async def test_data_of_the_anonymous_session_is_kept_or_dropped_by_choice(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    for keep in (True, False):
        site = site_of(backend=backend)
        await site.visit(lambda session: session.update(cart=[1]))
        await site.visit(sign_in(keep_data=keep))
        assert await site.data() == ({"cart": [1]} if keep else {})
        assert await user_of(site, site.browser) == "ann"


@pytest.mark.guarantee(21)
async def test_data_of_another_user_is_never_passed_on(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in("ann"))
    await site.visit(lambda session: session.update(secret="of Ann"))
    await site.visit(sign_in("eve"))
    assert (await site.visit(lambda session: (users.get_user_id(session), dict(session)))).result == ("eve", {})


@pytest.mark.requirement("NIST 5.1")
@pytest.mark.guarantee(21)
async def test_the_user_cannot_be_overwritten_through_the_data(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in())
    await site.visit(lambda session: session.update(user_id="eve", identity="eve"))
    assert await user_of(site, site.browser) == "ann"
    with pytest.raises(AttributeError):
        await site.visit(lambda session: setattr(session, "user_id", "eve"))


@rows("user", ["", None, 42, b"ann"])
async def test_a_user_id_that_is_no_text_is_refused(
    site_of: Callable[..., Site], backend: SessionBackend, user: Any
) -> None:
    with pytest.raises(TypeError, match=r"str\(user\.id\)"):
        await site_of(backend=backend).visit(sign_in(user))


@rows("value", [None, b"a hash", 5])
@rows(
    ("keyword", "cure"),
    [
        ("method", "leave it out if you keep no names for the ways of signing in"),
        ("stamp", "bytes as hash.hex(). For a user without a password, leave it out, and do not call check_stamp()"),
    ],
)
async def test_what_goes_with_a_user_is_refused_by_name_if_it_is_no_text(
    site_of: Callable[..., Site], backend: SessionBackend, keyword: str, cure: str, value: Any
) -> None:
    site = site_of(backend=backend)
    with pytest.raises(TypeError, match=rf"^sign_in\(\) takes {keyword} as a str: .*{re.escape(cure)}\.$"):
        await site.visit(sign_in(**{keyword: value}))
    assert await user_of(site, site.browser) is None


@rows("value", [None, b"a hash", 5])
async def test_a_stamp_that_is_no_text_signs_no_user_out(
    site_of: Callable[..., Site], backend: SessionBackend, value: Any
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in(stamp="a hash"))
    with pytest.raises(TypeError, match=r"^check_stamp\(\) takes stamp as a str: "):
        await site.visit(lambda session: users.check_stamp(session, value))
    assert await user_of(site, site.browser) == "ann"


async def test_sign_in_raises_after_the_headers_are_sent(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    with pytest.raises(ResponseStarted, match="sign in, or call"):
        await site_of(backend=backend).visit(after=sign_in())


@pytest.mark.requirement("ASVS 7.2.4")
async def test_after_a_sign_in_a_rotation_has_nothing_left_to_do_and_gives_no_grace(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    """The id before the sign-in becomes invalid in every case: an attacker may have planted it."""
    site, sessions = site_of(backend=store_backend), UserSessions(store_backend)
    await site.visit(lambda session: session.update(n=1))
    planted = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> bool:
        new_id = await users.sign_in(session, "ann")
        return new_id == await session.regenerate_id(grace=60)

    assert (await site.visit(act)).result is True
    assert await user_of(site, planted) is None
    assert await user_of(site, site.browser) == "ann"
    assert await sessions.revoke_all("ann") == 1
    assert await user_of(site, site.browser) is None


@rows("more", [{}, {"m": 1}])
async def test_a_sign_in_in_a_rejected_websocket_has_no_effect(
    site_of: Callable[..., Site], server_backend: SessionBackend, more: dict[str, int]
) -> None:
    """The browser does not learn the new id, and the old one must not become that of a signed-in user."""
    site = site_of(backend=server_backend)
    await site.visit(lambda session: session.update(n=1))

    async def handler(session: Session, send: Any) -> None:
        await users.sign_in(session, "ann")
        session.update(more)
        await send({"type": "websocket.close"})

    await connect(site, handler)
    assert (await site.visit(lambda session: (users.get_user_id(session), dict(session)))).result == (
        None,
        {"n": 1, **more},
    )


@rows(("user", "method"), [("\ud800", ""), ("ann", "\ud800")])
async def test_half_of_a_character_is_refused_before_anything_is_listed(
    site_of: Callable[..., Site], backend: SessionBackend, user: str, method: str
) -> None:
    site = site_of(backend=backend)
    with pytest.raises(UnsupportedValue, match="half of a character"):
        await site.visit(sign_in(user, method=method))
    assert await user_of(site, site.browser) is None


@pytest.mark.requirement("ASVS 7.5.2")
@rows("user", ["a\0b", "ann/../bob", "'; --", "\u00e9", "e\u0301", "x" * 2000])
async def test_any_other_text_names_a_user_and_no_second_one(
    site_of: Callable[..., Site], listing: SessionBackend, user: str
) -> None:
    site, sessions = site_of(backend=listing), UserSessions(listing)
    await site.visit(sign_in(user))
    [listed] = await sessions.list(user)
    assert await user_of(site, site.browser) == user
    for stranger in ("a", "ann", "bob", user + " ", user.upper() + "x", "\ud800"):
        assert await sessions.revoke(stranger, listed.handle) is False
    for handle in ("", "\0", "\ud800", listed.handle.lower() + "x", owner_name(user), "h" * 100_000):
        assert await sessions.revoke(user, handle) is False
    assert await user_of(site, site.browser) == user


async def test_a_session_by_hand_and_a_write_by_hand_keep_who_is_signed_in(backend: SessionBackend) -> None:
    session = Session(backend)
    await session.load()
    await users.sign_in(session, "ann")
    session_id = await session.persist()
    if not isinstance(backend, DictBackend):  # which knows nothing of people, and writes what it is told to
        session_id = await backend.write({"n": 1}, session_id)
    again = Session(backend, session_id)
    await again.load()
    assert users.get_user_id(again) == "ann"


# Signing out


@pytest.mark.requirement("ASVS 7.4.1", "NIST 5.1")
@pytest.mark.guarantee(21)
async def test_signing_out_ends_the_session_and_the_copy_of_its_cookie(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    """ASVS 7.4.1: also of a self-contained token, given a list of those that live."""
    site = site_of(backend=listing)
    await site.visit(sign_in())
    copy = Browser(dict(site.browser.cookies))
    reply = await site.visit(users.sign_out)
    assert "Max-Age=0" in reply.set_cookie
    assert reply.all("clear-site-data") == []
    assert await user_of(site, copy) is None
    assert await UserSessions(listing).list("ann") == []


async def test_a_key_set_after_signing_out_in_the_same_request_is_that_of_an_anonymous_visitor(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)

    async def in_and_out(session: Session) -> None:
        await users.sign_in(session, "ann")
        await users.sign_out(session)
        session["theme"] = "dark"

    await site.visit(in_and_out)
    assert await user_of(site, site.browser) is None
    assert await site.data() == {"theme": "dark"}


@pytest.mark.requirement("NIST 5.1")
async def test_signing_out_can_tell_the_browser_to_forget_the_site(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in())
    reply = await site.visit(lambda session: users.sign_out(session, clear_site_data=True))
    assert reply.all("clear-site-data") == ['"cache", "cookies", "storage"']


async def test_no_other_response_tells_the_browser_to_forget_the_site(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    for act in (lambda session: session.update(n=1), sign_in(), Session.regenerate_id, Session.delete):
        reply = await site.visit(act)
        assert (len(reply.set_cookies), reply.all("clear-site-data")) == (1, [])


async def test_signing_out_an_anonymous_visitor_clears_no_site_data(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    """Such an answer may be stored by a cache, and says nothing about anybody."""
    reply = await site_of(backend=backend).visit(lambda session: users.sign_out(session, clear_site_data=True))

    assert reply.all("clear-site-data") == reply.all("set-cookie") == []


async def test_a_message_said_after_signing_out_is_not_wiped_with_the_site(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    """The browser would forget the cookie that came in the same response (found in Chromium)."""
    site = site_of(backend=backend)
    await site.visit(sign_in())

    async def act(session: Session) -> None:
        await users.sign_out(session, clear_site_data=True)
        flash.add_flash(session, "You are signed out.")

    reply = await site.visit(act)
    assert reply.all("clear-site-data") == ['"cache", "storage"']
    assert len((await site.visit(lambda session: flash.pop_flashes(session, background=True))).result) == 1


@pytest.mark.requirement("ASVS 7.2.4")
@rows("kind", ["rotated", "signed in again"])
async def test_a_copy_of_an_old_signed_or_encrypted_cookie_is_invalid(
    site_of: Callable[..., Site], clock: Clock, kind: str
) -> None:
    site = site_of(backend=LISTING["encrypted"](clock))
    await site.visit(sign_in())
    copy = Browser(dict(site.browser.cookies))
    await site.visit(Session.regenerate_id if kind == "rotated" else sign_in())
    assert await user_of(site, copy) is None
    assert await user_of(site, site.browser) == "ann"


@pytest.mark.requirement("ASVS 7.4.1")
@rows("backend", [CookieBackend(KEY), EncryptedCookieBackend(KEY), EncryptedCookieBackend(KEY, accept_signed=KEY)])
async def test_a_sign_in_with_a_cookie_that_cannot_be_revoked_is_refused_unless_it_is_asked_for(
    site_of: Callable[..., Site], clock: Clock, caplog: pytest.LogCaptureFixture, backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    with pytest.raises(ImproperlyConfigured, match=r"revocations=<store> to CookieBackend .* allow_unrevocable=True"):
        await site.visit(sign_in())
    assert (await site.visit(lambda session: (users.get_user_id(session), dict(session)))).result == (None, {})

    for asked in (
        CookieBackend(KEY, allow_unrevocable=True, clock=clock),
        EncryptedCookieBackend(KEY, revocations=MemoryStore(), clock=clock),
    ):
        site = site_of(backend=asked)
        await site.visit(sign_in())
        assert await user_of(site, site.browser) == "ann"
    assert caplog.records == []
    with pytest.raises(ImproperlyConfigured, match="revocations="):
        UserSessions(CookieBackend(KEY, allow_unrevocable=True))
