"""Rotation with a grace: requests that were on their way when the id changed see and write the new session."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from starsessions import (
    ImproperlyConfigured,
    MissReason,
    Session,
    SessionBackend,
    SessionGone,
    get_miss_reason,
    update_atomically,
)
from tests.kinds import BACKENDS, each_store_backend
from tests.rows import rows
from tests.site import Browser, Clock, Site

pytestmark = pytest.mark.anyio


def put(**data: Any) -> Callable[[Session], None]:
    return lambda session: session.update(data)


async def rotate(session: Session) -> str:
    return await session.regenerate_id(grace=30)


def why(session: Session) -> MissReason | None:
    assert not session
    return get_miss_reason(session)


async def started(site: Site) -> tuple[Browser, Browser]:
    """A session that was rotated with a grace: a browser with the old id, and one with the new."""
    await site.visit(put(user="ann"))
    old = Browser(dict(site.browser.cookies))
    await site.visit(rotate)
    assert site.browser.cookies != old.cookies
    return old, site.browser


@pytest.mark.guarantee(16)
@each_store_backend
async def test_within_the_grace_the_old_id_reads_and_writes_the_new_session(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=store_backend)
    old, new = await started(site)
    clock.advance(29)
    assert await site.data(old) == {"user": "ann"}
    reply = await site.visit(put(cart=[1]), old)
    assert reply.set_cookies == []
    assert await site.data(new) == {"user": "ann", "cart": [1]}


@pytest.mark.guarantee(16)
@each_store_backend
async def test_after_the_grace_the_old_id_is_invalid_and_reported_as_rotated(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=store_backend)
    old, new = await started(site)
    clock.advance(30)
    reply = await site.visit(why, old)
    assert reply.result is MissReason.ROTATED
    assert reply.set_cookies == []
    assert await site.data(new) == {"user": "ann"}


@pytest.mark.guarantee(16)
@each_store_backend
async def test_there_is_no_grace_unless_it_is_requested(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    site = site_of(backend=store_backend)
    await site.visit(put(user="ann"))
    old = Browser(dict(site.browser.cookies))
    await site.visit(Session.regenerate_id)
    assert (await site.visit(why, old)).result is MissReason.JUST_ROTATED


async def sign_in(session: Session) -> None:
    await session.regenerate_id()
    session["user"] = "ann"


@pytest.mark.guarantee(16)
@each_store_backend
async def test_a_request_just_after_a_rotation_does_not_sign_the_user_out(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    """The page sent it with the id that it had before the sign-in. Its data belongs to no user."""
    site = site_of(backend=store_backend)
    await site.visit(put(seen=1))
    late = Browser(dict(site.browser.cookies))
    await site.visit(sign_in)
    clock.advance(29)
    reply = await site.visit(lambda session: session.setdefault("visits", []).append(1), late)
    assert reply.set_cookies == []
    assert await site.data() == {"seen": 1, "user": "ann"}
    for save in (Session.persist, lambda session: update_atomically(session, lambda data: data.update(n=1))):
        with pytest.raises(SessionGone):
            await site.visit(save, late)


@each_store_backend
async def test_a_browser_that_missed_the_new_id_can_start_again(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=store_backend)
    await site.visit(put(seen=1))
    lost = Browser(dict(site.browser.cookies))
    await site.visit(sign_in)
    at_once = Browser(dict(lost.cookies))
    await site.visit(sign_in, at_once)
    assert await site.data(at_once) == {"user": "ann"}
    clock.advance(30)
    await site.visit(put(visits=1), lost)
    assert await site.data(lost) == {"visits": 1}


@pytest.mark.guarantee(16)
@each_store_backend
async def test_a_logout_with_the_old_id_ends_the_new_session(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    site = site_of(backend=store_backend)
    old, new = await started(site)
    reply = await site.visit(Session.flush, old)
    assert "Max-Age=0" in reply.set_cookie
    assert await site.data(Browser(dict(new.cookies))) == {}


@each_store_backend
async def test_a_rotation_with_the_old_id_rotates_the_new_session(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    site = site_of(backend=store_backend)
    old, new = await started(site)
    newest = Browser(dict(old.cookies))
    await site.visit(rotate, newest)
    for browser in (Browser(dict(old.cookies)), Browser(dict(new.cookies)), newest):
        assert await site.data(browser) == {"user": "ann"}


@each_store_backend
async def test_a_second_grace_does_not_prolong_the_first(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=store_backend)
    old, new = await started(site)
    clock.advance(29)
    await site.visit(rotate, new)
    assert await site.data(Browser(dict(old.cookies))) == {"user": "ann"}
    clock.advance(1)
    assert await site.data(Browser(dict(old.cookies))) == {}
    assert await site.data(new) == {"user": "ann"}


@each_store_backend
async def test_a_request_that_was_on_its_way_during_the_rotation_loses_nothing(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    site, elsewhere = site_of(backend=store_backend), site_of(backend=store_backend)
    await site.visit(put(user="ann"))
    slow, fast = Browser(dict(site.browser.cookies)), Browser(dict(site.browser.cookies))

    async def act(session: Session) -> None:
        await session.load()
        await elsewhere.visit(rotate, fast)
        session["cart"] = [1]

    reply = await site.visit(act, slow)
    assert reply.set_cookies == []
    assert await site.data(fast) == {"user": "ann", "cart": [1]}


@each_store_backend
async def test_rotate_every_gives_a_new_id_in_time_and_keeps_parallel_requests_in(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=store_backend, rotate_every=600)
    await site.visit(put(user="ann"))
    first = dict(site.browser.cookies)
    clock.advance(599)
    assert (await site.visit(dict)).set_cookies == []
    clock.advance(1)
    old = Browser(dict(first))
    await site.data()
    assert site.browser.cookies != first
    # The page's other requests, which the browser sent with the first one.
    reply = await site.visit(lambda session: session["user"], old)
    assert (reply.result, reply.set_cookies) == ("ann", [])
    clock.advance(60)
    assert await site.data(old) == {}
    second = dict(site.browser.cookies)
    clock.advance(539)
    assert (await site.visit(dict)).set_cookies == []
    clock.advance(1)
    await site.visit(dict)
    assert site.browser.cookies not in (first, second)
    assert await site.data() == {"user": "ann"}


@each_store_backend
async def test_rotate_every_leaves_a_request_alone_that_does_not_use_its_session(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=store_backend, rotate_every=600)
    await site.visit(put(user="ann"))
    clock.advance(600)
    assert (await site.visit()).set_cookies == []


@pytest.mark.guarantee(16)
@each_store_backend
async def test_two_requests_that_both_find_a_rotation_due_make_one(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    site, elsewhere = (site_of(backend=store_backend, rotate_every=600) for _ in range(2))
    await site.visit(put(user="ann"))
    slow, fast = Browser(dict(site.browser.cookies)), Browser(dict(site.browser.cookies))
    clock.advance(600)

    async def act(session: Session) -> None:
        await session.load()
        await elsewhere.visit(put(fast=1), fast)
        session["slow"] = 1

    assert (await site.visit(act, slow)).set_cookies == []
    assert await site.data(fast) == {"user": "ann", "fast": 1, "slow": 1}


@each_store_backend
async def test_after_the_headers_nothing_is_rotated(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=store_backend, rotate_every=600)
    await site.visit(put(user="ann"))

    async def late(session: Session) -> None:
        clock.advance(600)
        await session.persist()
        session["n"] = 1
        await session.persist()

    before = dict(site.browser.cookies)
    await site.visit(Session.load, after=late)
    assert site.browser.cookies == before
    assert await site.data() == {"user": "ann", "n": 1}


@rows("kind", ["signed", "encrypted", "custom"])
async def test_a_backend_without_grace_raises_for_a_grace(
    site_of: Callable[..., Site], clock: Clock, kind: str
) -> None:
    site = site_of(backend=BACKENDS[kind](clock))
    await site.visit(put(user="ann"))
    with pytest.raises(ImproperlyConfigured, match="cannot keep an old id usable"):
        await site.visit(rotate)


@each_store_backend
@rows("grace", [0, -1, 0.5, "30"])
async def test_an_invalid_grace_is_rejected(
    site_of: Callable[..., Site], store_backend: SessionBackend, grace: Any
) -> None:
    site = site_of(backend=store_backend)
    with pytest.raises(ImproperlyConfigured, match="grace must be"):
        await site.visit(lambda session: session.regenerate_id(grace=grace))


@each_store_backend
@rows("again", [put(flash="too late"), Session.persist], ids=["puts something in", "persists"])
async def test_a_request_whose_session_was_rotated_elsewhere_leaves_the_new_id_in_the_browser(
    site_of: Callable[..., Site], store_backend: SessionBackend, again: Callable[[Session], Any]
) -> None:
    """Its handler was told that the session has ended, and goes on."""
    site, elsewhere = (site_of(backend=store_backend) for _ in range(2))
    await site.visit(put(a=1))
    browser = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> None:
        session["b"] = 2
        await elsewhere.visit(sign_in, browser)
        with pytest.raises(SessionGone):
            await session.persist()
        with suppress(SessionGone):
            outcome = again(session)
            if isinstance(outcome, Awaitable):
                await outcome

    assert (await site.visit(act)).set_cookies == []
    assert await elsewhere.data(browser) == {"a": 1, "user": "ann"}


@each_store_backend
@rows("then", [put(c=3), lambda session: update_atomically(session, lambda data: data.update(c=3))])
async def test_a_cookie_that_was_to_be_set_is_not_if_the_session_is_rotated_with_a_grace_meanwhile(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock, then: Callable[[Session], Any]
) -> None:
    site, elsewhere = (site_of(backend=store_backend, rolling=True, max_age=1000, renew_every=1) for _ in range(2))
    await site.visit(put(a=1))
    browser = Browser(dict(site.browser.cookies))
    clock.advance(2)

    async def act(session: Session) -> None:
        session["b"] = 2
        await session.persist()
        await elsewhere.visit(lambda other: other.regenerate_id(grace=60), browser)
        outcome = then(session)
        if isinstance(outcome, Awaitable):
            await outcome

    assert (await site.visit(act)).set_cookies == []
    clock.advance(60)
    assert await elsewhere.data(browser) == {"a": 1, "b": 2, "c": 3}
