"""`session.clear()` signs a user out, as it does in code for Starlette: on the server, too, and for good."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from starsessions import (
    BackendUnavailable,
    InMemoryBackend,
    ResponseStarted,
    Session,
    SessionBackend,
    set_expiry,
    update_atomically,
    users,
)
from starsessions.events import SignedOut
from starsessions.exceptions import SessionGone
from starsessions.lifecycle.loading import revalidate
from starsessions.typed import TypedSession
from starsessions.users import UserSessions
from tests.rows import rows
from tests.shell.people import sign_in, user_of, who
from tests.shell.test_websocket import ACCEPT, CLOSE, connect
from tests.site import Browser, Site

pytestmark = pytest.mark.anyio


def replaced_by_nothing(session: Session) -> None:
    session.data = {}


EMPTIED: list[Callable[[Session], None]] = [Session.clear, replaced_by_nothing]


@pytest.mark.guarantee(14)
@rows("emptied", EMPTIED)
async def test_a_user_whose_session_is_cleared_is_signed_out_and_a_copy_of_the_cookie_opens_nothing(
    site_of: Callable[..., Site], listing: SessionBackend, emptied: Callable[[Session], None]
) -> None:
    heard: list[object] = []
    site = site_of(backend=listing, on_event=heard.append)
    await site.visit(sign_in())
    await site.visit(lambda session: session.update(cart=[1]))
    stolen = Browser(dict(site.browser.cookies))

    reply = await site.visit(emptied)

    assert "Max-Age=0" in reply.set_cookies[-1]
    assert await user_of(site, stolen) is None
    assert await UserSessions(listing).list("ann") == []
    assert [type(event) for event in heard if isinstance(event, SignedOut)] == [SignedOut]


async def test_an_empty_dict_in_the_place_of_the_session_signs_out(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in())
    await site.visit(lambda session: session.update(cart=[1]))
    stolen = Browser(dict(site.browser.cookies))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = {}
        await send({"type": "http.response.start", "status": 200, "headers": []})

    handle, site.app.app = site.app.app, app
    await site.visit()
    site.app.app = handle

    assert await user_of(site, stolen) is None


@pytest.mark.guarantee(14)
async def test_what_is_put_in_afterwards_begins_another_session(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in())
    await site.visit(lambda session: session.update(cart=[1]))
    before = dict(site.browser.cookies)

    def sign_out(session: Session) -> None:
        session.clear()
        session["message"] = "Goodbye."
        set_expiry(session, 60)

    await site.visit(sign_out)

    assert site.browser.cookies != before
    assert (await site.visit(lambda session: (who(session), dict(session)))).result == (
        None,
        {"message": "Goodbye."},
    )


async def test_the_id_that_is_asked_for_afterwards_is_that_of_the_next_session(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in())

    async def sign_out(session: Session) -> str:
        session.clear()
        session["n"] = 1
        return await session.regenerate_id()

    reply = await site.visit(sign_out)

    assert reply.result in site.browser.cookies.values()
    assert (await site.visit(lambda session: (who(session), dict(session)))).result == (None, {"n": 1})


@pytest.mark.guarantee(14)
async def test_a_session_that_was_rotated_meanwhile_ends_as_well(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    """A sign-out must not depend on which of two requests is first."""
    site = site_of(backend=listing)
    await site.visit(sign_in())

    async def sign_out(session: Session) -> None:
        await session.load()
        await site.visit(Session.regenerate_id)
        session.clear()

    old = Browser(dict(site.browser.cookies))
    await site.visit(sign_out, browser=old)

    assert await user_of(site, site.browser) is None


async def test_a_sign_in_after_it_in_the_same_request_is_kept(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    for user in ("ann", "ann", "bob"):

        async def change(session: Session, user: str = user) -> None:
            session.clear()
            await users.sign_in(session, user)
            session["of"] = user

        await site.visit(change)
        assert (await site.visit(lambda session: (who(session), dict(session)))).result == (user, {"of": user})


async def test_a_session_that_is_cleared_after_a_sign_in_in_the_same_request_stays_signed_in(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(cart=[1]))

    async def change(session: Session) -> None:
        await users.sign_in(session, "ann")
        session.clear()

    await site.visit(change)

    assert (await site.visit(lambda session: (who(session), dict(session)))).result == ("ann", {})


async def test_an_anonymous_session_that_is_cleared_and_refilled_goes_on(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(n=1))
    before = dict(site.browser.cookies)

    def refill(session: Session) -> None:
        session.clear()
        session["n"] = 1

    reply = await site.visit(refill)

    assert reply.set_cookies == []
    assert site.browser.cookies == before


async def test_saving_by_hand_signs_out_at_once(site_of: Callable[..., Site], server_backend: SessionBackend) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in())
    stolen = Browser(dict(site.browser.cookies))

    async def sign_out(session: Session) -> str | None:
        session.clear()
        await session.persist()
        return await user_of(site, stolen)

    assert (await site.visit(sign_out)).result is None


async def test_an_atomic_update_afterwards_is_one_of_the_next_session(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in())
    await site.visit(lambda session: session.update(n=1))

    async def change(session: Session) -> None:
        session.clear()
        await update_atomically(session, lambda data: data.update(n=data.get("n", 10) + 1))

    await site.visit(change)

    assert (await site.visit(lambda session: (who(session), dict(session)))).result == (None, {"n": 11})


@pytest.mark.guarantee(14)
async def test_a_websocket_signs_out_after_the_handshake(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in())
    stolen = Browser(dict(site.browser.cookies))

    async def handler(session: Session, send: Any) -> None:
        await session.load()
        await send(ACCEPT)
        session.clear()

    await connect(site, handler)

    assert await user_of(site, stolen) is None


async def test_what_a_websocket_puts_in_afterwards_cannot_be_saved(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in())
    stolen = Browser(dict(site.browser.cookies))

    async def handler(session: Session, send: Any) -> None:
        await session.load()
        await send(ACCEPT)
        session.clear()
        session["message"] = "Goodbye."

    with pytest.raises(ResponseStarted, match="needs a new cookie"):
        await connect(site, handler)

    assert await user_of(site, stolen) is None


async def test_saving_by_hand_in_a_websocket_says_that_nothing_is_left(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in())

    async def handler(session: Session, send: Any) -> None:
        await session.load()
        await send(ACCEPT)
        session.clear()
        with pytest.raises(SessionGone, match="signed out"):
            await session.persist()

    await connect(site, handler)

    assert await user_of(site, site.browser) is None


async def test_a_session_that_is_loaded_anew_is_not_cleared(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in())
    await site.visit(lambda session: session.update(n=1))

    async def change(session: Session) -> None:
        session.clear()
        session.is_loaded = False
        await session.load()

    await site.visit(change)

    assert (await site.visit(lambda session: (who(session), dict(session)))).result == ("ann", {"n": 1})


async def test_it_signs_out_once_and_what_is_changed_after_that_is_kept(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in())

    async def change(session: Session) -> None:
        session.clear()
        session["a"] = 1
        await session.persist()
        session["b"] = 2

    await site.visit(change)

    assert (await site.visit(lambda session: (who(session), dict(session)))).result == (None, {"a": 1, "b": 2})


# Beside other tasks and requests


def gate(backend: SessionBackend, name: str) -> tuple[anyio.Event, anyio.Event]:
    """Hold the next call of a method of the backend. Return what says that it began, and what lets it go on."""
    real, begun, goes_on = getattr(backend, name), anyio.Event(), anyio.Event()

    async def held(*what: Any, **how: Any) -> Any:
        if not begun.is_set():
            begun.set()
            await goes_on.wait()
        return await real(*what, **how)

    setattr(backend, name, held)
    return begun, goes_on


@pytest.fixture
def heard() -> list[object]:
    return []


@pytest.fixture
async def ann(site_of: Callable[..., Site], heard: list[object]) -> Site:
    site = site_of(backend=InMemoryBackend(), on_event=heard.append)
    await site.visit(sign_in())
    heard.clear()
    return site


def change_elsewhere(session: Session) -> None:
    session["y"] = 1


@pytest.mark.guarantee(14)
@rows("by_hand", [Session.persist, lambda session: update_atomically(session, lambda data: data.update(x=2))])
@rows("elsewhere", [Session.regenerate_id, change_elsewhere])
async def test_a_session_that_is_cleared_while_another_task_saves_it_ends(
    site_of: Callable[..., Site], elsewhere: Any, by_hand: Any
) -> None:
    heard: list[object] = []
    site = site_of(backend=InMemoryBackend(), on_event=heard.append)
    await site.visit(sign_in())
    old, new = Browser(dict(site.browser.cookies)), Browser(dict(site.browser.cookies))
    heard.clear()

    async def act(session: Session) -> None:
        await session.load()
        session["x"] = 1
        begun, goes_on = gate(site.app.config.backend, "replace")

        async def other() -> None:
            await begun.wait()
            await site.visit(elsewhere, new)
            session.clear()
            session["message"] = "Goodbye."
            goes_on.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            with suppress(SessionGone):  # an atomic update of what is cleared meanwhile
                await by_hand(session)

    await site.visit(act, old)

    assert [await user_of(site, one) for one in (old, new, site.browser)] == [None, None, None]
    assert await site.data(old) == {"message": "Goodbye."}
    assert [type(event) for event in heard].count(SignedOut) == 1


async def test_what_another_task_puts_in_during_the_sign_out_is_kept(ann: Site) -> None:
    async def act(session: Session) -> None:
        await session.load()
        session.clear()
        session["a"] = 1
        begun, goes_on = gate(ann.app.config.backend, "delete")

        async def other() -> None:
            await begun.wait()
            session["b"] = 2
            goes_on.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            await session.persist()

    await ann.visit(act)

    assert await ann.data() == {"a": 1, "b": 2}


async def test_a_model_that_is_loaded_afterwards_is_kept(ann: Site) -> None:
    @dataclass
    class Cart:
        items: int = 0

    async def act(session: Session) -> None:
        session.clear()
        cart = await TypedSession(Cart).load(session)
        cart.items = 3
        await session.persist()
        cart.items += 1

    await ann.visit(act)

    assert await ann.data() == {"items": 4}


async def test_a_model_outlives_data_that_is_replaced_by_other_data(ann: Site) -> None:
    @dataclass
    class Cart:
        items: int = 0

    async def act(session: Session) -> None:
        cart = await TypedSession(Cart).load(session)
        session.data = {"items": 5}
        cart.items = 6

    await ann.visit(act)

    assert await ann.data() == {"items": 6}


async def test_the_user_is_signed_out_for_the_rest_of_the_request(ann: Site) -> None:
    def act(session: Session) -> str | None:
        session.clear()
        return who(session)

    assert (await ann.visit(act)).result is None


async def test_an_expiry_that_was_set_before_is_not_that_of_the_next_session(ann: Site) -> None:
    def act(session: Session) -> None:
        set_expiry(session, 60)
        session.clear()
        session["n"] = 1

    reply = await ann.visit(act)

    assert "Max-Age=1209600" in reply.set_cookies[-1]


async def test_revalidating_what_was_cleared_finds_that_it_has_ended(ann: Site) -> None:
    old, new = Browser(dict(ann.browser.cookies)), Browser(dict(ann.browser.cookies))

    async def act(session: Session) -> bool:
        await session.load()
        session.clear()
        await ann.visit(lambda other: other.update(secret="of ann"), new)
        return await revalidate(session)

    assert (await ann.visit(act, old)).result is False
    assert await ann.data(old) == {}


async def test_an_atomic_update_after_the_handshake_cannot_begin_another_session(ann: Site) -> None:
    async def handler(session: Session, send: Any) -> None:
        await session.load()
        await send(ACCEPT)
        session.clear()
        with pytest.raises(ResponseStarted):
            await update_atomically(session, lambda data: data.update(n=1))

    stolen = Browser(dict(ann.browser.cookies))
    await connect(ann, handler)

    assert await user_of(ann, stolen) is None


async def test_a_rejected_websocket_signs_out_if_the_cookie_can_be_revoked(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site = site_of(backend=listing)
    await site.visit(sign_in())
    stolen = Browser(dict(site.browser.cookies))

    async def handler(session: Session, send: Any) -> None:
        await session.load()
        session.clear()
        await send(CLOSE)

    await connect(site, handler)

    assert await user_of(site, stolen) is None


@pytest.mark.guarantee(14)
async def test_a_sign_out_ends_the_session_although_it_was_found_to_have_moved(ann: Site) -> None:
    old, new = Browser(dict(ann.browser.cookies)), Browser(dict(ann.browser.cookies))

    async def act(session: Session) -> None:
        await session.load()
        await ann.visit(Session.regenerate_id, new)
        session["n"] = 1
        with pytest.raises(SessionGone):
            await session.persist()
        await users.sign_out(session)

    await ann.visit(act, old)

    assert await user_of(ann, new) is None


async def test_another_user_who_signs_in_afterwards_signs_the_first_one_out(ann: Site, heard: list[object]) -> None:
    async def act(session: Session) -> None:
        session.clear()
        await users.sign_in(session, "bob")

    await ann.visit(act)

    assert await user_of(ann, ann.browser) == "bob"
    assert [event.user_id for event in heard if isinstance(event, SignedOut)] == ["ann"]


async def test_a_sign_in_that_keeps_no_data_signs_the_same_user_not_out(ann: Site, heard: list[object]) -> None:
    await ann.visit(sign_in(keep_data=False))

    assert await user_of(ann, ann.browser) == "ann"
    assert not [event for event in heard if isinstance(event, SignedOut)]


async def test_an_atomic_update_that_fails_brings_nothing_back_that_another_task_has_cleared(ann: Site) -> None:
    async def act(session: Session) -> dict[str, Any]:
        await session.load()
        session["secret"] = "of ann"
        backend: Any = ann.app.config.backend
        begun = anyio.Event()

        async def fails(*_: object) -> None:
            begun.set()
            await goes_on.wait()
            raise BackendUnavailable("no store")

        backend.replace, replace, goes_on = fails, backend.replace, anyio.Event()

        async def other() -> None:
            await begun.wait()
            session.clear()
            goes_on.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            with pytest.raises(BackendUnavailable):
                await update_atomically(session, lambda data: data.update(n=1))
        backend.replace = replace
        return dict(session)

    assert (await ann.visit(act)).result == {}
    assert await ann.data() == {}
