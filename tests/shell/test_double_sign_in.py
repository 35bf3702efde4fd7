"""A sign-in that is sent twice (double click, reload, retry) ends signed in, whichever response the browser keeps.

A browser drops the first response, and its cookie, when the form is sent again. So the second one must sign in, too,
although the first one has rotated the id that both came with.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from starlette.requests import HTTPConnection

from starsessions import BackendUnavailable, Session, SessionBackend, SessionGone, csrf, update_atomically, users
from starsessions.backends.server_side import StoreBackend
from starsessions.stores.base import BatchConflict
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from tests.kinds import each_backend, each_store_backend
from tests.orders import Merging, in_every_state
from tests.rows import rows
from tests.shell.people import each_listing, sign_in
from tests.shell.test_sign_in_races import KINDS, Story, and_persist, and_update, twice
from tests.site import KEY, Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio

CART = {"cart": ["tea"]}


def fill(session: Session) -> None:
    session.update(CART)


def content(session: Session) -> tuple[str | None, dict[str, Any]]:
    return users.get_user_id(session), dict(session)


async def without_data(session: Session) -> None:
    await users.sign_in(session, "ann", keep_data=False)


FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "once": (sign_in(), CART),
    "with a key of its own": (and_persist, CART | {"n": 1}),
    "with an atomic update": (and_update, CART | {"n": 1}),
    "twice": (twice, CART),
    "without the data": (without_data, {}),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


@pytest.mark.exhaustive
@pytest.mark.guarantee(21)
@rows(("form", "data"), FORMS.values(), ids=FORMS)
async def test_in_every_order_of_two_forms_both_responses_sign_in_with_the_cart(
    kind: Any, clock: Clock, form: Any, data: dict[str, Any]
) -> None:
    async def scenario(schedule: Merging) -> None:
        story, visitor = Story(kind, clock), Browser()
        await story.visit(fill, visitor)
        one, other = Browser(dict(visitor.cookies)), Browser(dict(visitor.cookies))
        await schedule.beside(story.store, one=lambda: story.visit(form, one), other=lambda: story.visit(form, other))
        for kept in (one, other):
            assert (await story.site.visit(content, kept)).result == ("ann", data)
        await story.end_all()

    await in_every_state(scenario)


MOMENTS = ["before it is loaded", "before it is saved"]


@pytest.mark.guarantee(21)
@each_backend
async def test_a_form_that_is_sent_twice_signs_in_with_the_cart(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    for moment in MOMENTS:
        visitor, second = Browser(), Browser()
        await site_of(backend=backend).visit(fill, visitor)
        second.cookies |= visitor.cookies

        async def act(session: Session, moment: str = moment, first: Browser = visitor) -> None:
            for now in MOMENTS:
                if now == moment:
                    await site_of(backend=backend).visit(sign_in(), first)
                await session.load()
            await users.sign_in(session, "ann")

        await site_of(backend=backend, autoload=False).visit(act, second)
        for kept in (visitor, second):
            user, data = (await site_of(backend=backend).visit(content, kept)).result
            # A backend of four methods leaves no trace of what was rotated, so the second form has no cart.
            assert (user, data) in [("ann", CART)] + [("ann", {})] * isinstance(backend, DictBackend)


BETWEEN: dict[str, tuple[Any, dict[str, Any]]] = {
    "another person signs in": (sign_in("bob"), {}),
    "the session is deleted": (Session.delete, {}),
    "the id is replaced": (Session.regenerate_id, CART),
}


@pytest.mark.guarantee(14)
@each_store_backend
@rows(("between", "data"), BETWEEN.values(), ids=BETWEEN)
async def test_a_sign_in_whose_session_was_ended_meanwhile_is_saved_without_its_data(
    site_of: Callable[..., Site], store_backend: SessionBackend, between: Any, data: dict[str, Any]
) -> None:
    first, second = Browser(), Browser()
    await site_of(backend=store_backend).visit(fill, first)
    second.cookies |= first.cookies

    async def act(session: Session) -> None:
        bool(session)  # loads it
        await site_of(backend=store_backend).visit(between, first)
        await users.sign_in(session, "ann")
        session["new"] = 1

    await site_of(backend=store_backend).visit(act, second)
    assert (await site_of(backend=store_backend).visit(content, second)).result == ("ann", data | {"new": 1})


@each_store_backend
async def test_a_form_that_arrives_after_another_request_has_replaced_the_id_signs_in_without_its_data(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    """Only a sign-in leaves the data behind for the same form."""
    site, browser = site_of(backend=store_backend), Browser()
    await site.visit(fill, browser)
    old = Browser(dict(browser.cookies))
    await site.visit(Session.regenerate_id, browser)
    await site.visit(sign_in(), old)
    assert (await site.visit(content, old)).result == ("ann", {})


@pytest.mark.guarantee(21)
@each_store_backend
async def test_the_holder_of_the_old_id_gets_nothing_that_was_added_since_the_sign_in(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    """Not even with the password, and a stranger not even what was there before."""
    site, planted, victim = site_of(backend=store_backend), Browser(), Browser()
    await site.visit(fill, planted)
    victim.cookies |= planted.cookies

    async def with_a_secret(session: Session) -> None:
        await users.sign_in(session, "ann")
        session["second_factor"] = True

    await site.visit(with_a_secret, victim)
    for user, data in (("eve", {}), ("ann", CART)):
        attacker = Browser(dict(planted.cookies))
        assert (await site.visit(content, attacker)).result == (None, {})
        await site.visit(sign_in(user), attacker)
        assert (await site.visit(content, attacker)).result == (user, data)
    await site.visit(users.sign_out, victim)
    await site.visit(sign_in(), planted)
    assert (await site.visit(content, planted)).result == ("ann", {}), "what was signed out has ended"


@pytest.mark.guarantee(21)
@each_store_backend
@rows("user, moves", [("ann", sign_in()), ("eve", Session.regenerate_id)], ids=["signed in", "rotated"])
async def test_a_request_with_the_old_id_that_waits_signs_in_without_what_was_added_under_the_new_one(
    site_of: Callable[..., Site], store_backend: SessionBackend, user: str, moves: Any
) -> None:
    """It keeps what it has loaded: what the session holds under its new id may be all that a login still asks for."""
    site, planted = site_of(backend=store_backend), Browser()
    await site.visit(fill, planted)
    victim = Browser(dict(planted.cookies))

    async def waits(session: Session) -> None:
        bool(session)  # loads it
        await site.visit(moves, victim)
        await site.visit(lambda session: session.update(second_factor=True), victim)
        await users.sign_in(session, user)

    await site.visit(waits, planted)
    assert (await site.visit(content, planted)).result == (user, CART)


@pytest.mark.guarantee(21)
@each_listing
async def test_a_second_form_brings_the_cart_also_where_it_ends_the_session_of_the_first(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site, first = site_of(backend=listing, max_sessions_per_user=1), Browser()
    await site.visit(fill, first)
    second = Browser(dict(first.cookies))
    for browser, other in ((first, None), (second, first)):
        await site.visit(sign_in(), browser)
        assert (await site.visit(content, browser)).result == ("ann", CART)
        assert other is None or (await site.visit(content, other)).result == (None, {})


@pytest.mark.guarantee(20)
async def test_a_sign_in_with_an_id_in_its_grace_exceeds_no_limit(site_of: Callable[..., Site], clock: Clock) -> None:
    """It begins a session beside the one that the id still opens."""
    backend = StoreBackend(MemoryStore(), clock=clock)
    site, browser = site_of(backend=backend, max_sessions_per_user=1, rotate_every=600), Browser()
    await site.visit(sign_in(), browser)
    old = Browser(dict(browser.cookies))
    clock.advance(600)
    await site.visit(fill, browser)
    await site.visit(sign_in(), old)
    assert (await site.visit(content, old)).result == ("ann", CART)
    assert (await site.visit(content, browser)).result == (None, {})


@pytest.mark.parametrize("encrypted", [False, True])
async def test_what_is_kept_for_a_second_form_is_kept_for_half_a_minute(
    site_of: Callable[..., Site], clock: Clock, encrypted: bool
) -> None:
    """And not for a day: it may be large, and the user may sign out, or the account be closed."""
    store = MemoryStore()
    backend = StoreBackend(store, encrypt_with=KEY if encrypted else False, clock=clock)
    site, visitor = site_of(backend=backend), Browser()
    await site.visit(lambda session: session.update(cart="tea" * 10_000), visitor)
    for _ in range(3):
        await site.visit(sign_in(), visitor)
    await site.visit(users.sign_out, visitor)
    clock.advance(30)
    left = [await store.get(key, now=int(clock())) for key in store.all_keys()]
    assert 3 <= len([entry for entry in left if entry]) < 10, "the replaced ids are known"
    assert sum(len(entry.value) for entry in left if entry) < 2_000


@pytest.mark.guarantee(21)
@each_backend
async def test_two_strangers_forms_at_once_both_sign_in(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    browsers = [Browser(), Browser()]

    async def act(session: Session) -> None:
        await site_of(backend=backend).visit(sign_in(), browsers[0])
        await users.sign_in(session, "ann")

    await site_of(backend=backend).visit(act, browsers[1])
    for browser in browsers:
        assert (await site_of(backend=backend).visit(content, browser)).result == ("ann", {})


class Undone(MemoryStore):
    """Stores a sign-in of eve, and ends it at once. Before it is undone, another sign-in is refused because of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stored, self.refused, self.undone = anyio.Event(), anyio.Event(), anyio.Event()
        self.ends: Callable[[str], Any]

    async def write_together(self, writes: Any, **how: Any) -> Any:
        if len(writes) < 3:  # not a sign-in, what was before it, and the pointer to it
            return await super().write_together(writes, **how)
        try:
            versions = await super().write_together(writes, **how)
        except BatchConflict:
            self.refused.set()
            await self.undone.wait()
            raise
        if not self.stored.is_set():
            await self.ends("eve")
            self.stored.set()
            await self.refused.wait()
        return versions


@pytest.mark.guarantee(21)
@rows("form", [sign_in(), and_update], ids=["once", "with an atomic update"])
async def test_a_sign_in_ends_the_old_id_also_if_another_one_had_replaced_it_and_was_undone(
    site_of: Callable[..., Site], clock: Clock, form: Any
) -> None:
    store, browser = Undone(), Browser()
    backend = StoreBackend(store, clock=clock)
    site, store.ends = site_of(backend=backend), UserSessions(backend).revoke_all
    await site.visit(fill, browser)
    old, others = Browser(dict(browser.cookies)), Browser(dict(browser.cookies))

    async def is_undone() -> None:
        with pytest.raises(SessionGone, match="sign-in was not saved"):
            await site.visit(sign_in("eve"), others)
        store.undone.set()

    async with anyio.create_task_group() as tasks:

        async def act(session: Session) -> None:
            session.setdefault("n", 0)  # loads it
            tasks.start_soon(is_undone)
            await store.stored.wait()
            await form(session)

        await site.visit(act, browser)
    user, data = (await site.visit(content, browser)).result
    assert (user, data["cart"]) == ("ann", ["tea"])
    assert (await site.visit(content, old)).result == (None, {}), "the id that the sign-in has replaced"


@each_store_backend
async def test_an_atomic_update_after_the_first_one_was_lost_is_made_once(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    site, browser = site_of(backend=store_backend), Browser()
    await site.visit(lambda session: session.update(n=1, cart=["tea"]), browser)
    copy = Browser(dict(browser.cookies))

    async def act(session: Session) -> int:
        await users.sign_in(session, "ann")
        await site_of(backend=store_backend).visit(sign_in(), copy)

        def add(data: dict[str, Any]) -> int:
            data["n"] += 1
            return int(data["n"])

        return await update_atomically(session, add)

    assert (await site.visit(act, browser)).result == 2
    assert (await site.visit(content, browser)).result == ("ann", CART | {"n": 2})


@pytest.mark.guarantee(21)
@each_listing
@rows("by_hand", [False, True])
async def test_a_sign_in_that_was_revoked_meanwhile_raises_and_does_not_answer_as_if_done(
    site_of: Callable[..., Site], listing: SessionBackend, by_hand: bool
) -> None:
    site, browser = site_of(backend=listing), Browser()
    await site.visit(fill, browser)

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        await UserSessions(listing).revoke_all("ann")
        if by_hand:
            await session.persist()

    with pytest.raises(SessionGone, match="sign-in was not saved"):
        await site.visit(act, browser)
    assert await UserSessions(listing).list("ann") == []
    assert (await site.visit(content, browser)).result[0] is None


@pytest.mark.guarantee(20)
@rows("before", [None, fill])
@rows("call", range(1, 12))
async def test_an_attempt_that_failed_halfway_and_was_ignored_is_a_lost_store_and_no_reused_id(
    clock: Clock, before: Any, call: int
) -> None:
    """`persist()` fails after it has stored the session, the handler goes on, and the response saves again."""
    story, browser = Story(KINDS["stored"], clock), Browser()
    await story.visit(before or Session.load, browser)

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        story.store.breaks_at, story.store.how = story.store.calls + call, "call lost"
        with suppress(BackendUnavailable):
            await session.persist()
        story.store.breaks_at = 0

    reply = await story.site.visit(act, browser)
    assert reply.messages[0]["status"] in (200, 503)
    assert await story.user(browser) == ("ann" if reply.messages[0]["status"] == 200 else None)
    await story.visit(sign_in(), browser)
    assert await story.user(browser) == "ann"
    await story.end_all()


@pytest.mark.guarantee(21)
@each_store_backend
async def test_a_form_with_a_token_that_arrives_after_the_first_one_was_answered_signs_in_with_the_cart(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    """The token is that of the page, and the page is that of the session that was just replaced."""
    site, visitor = site_of(backend=store_backend), Browser()

    def page(session: Session) -> str:
        fill(session)
        return csrf.csrf_token(HTTPConnection({"type": "http", "session": session}))

    token = (await site.visit(page, visitor)).result
    old = dict(visitor.cookies)

    async def form(session: Session) -> None:
        headers = [(b"x-csrf-token", token.encode())]
        await csrf.verify(HTTPConnection({"type": "http", "method": "POST", "headers": headers, "session": session}))
        await users.sign_in(session, "ann")

    for _ in range(2):
        browser = Browser(dict(old))
        await site.visit(form, browser)
        user, data = (await site.visit(content, browser)).result
        assert (user, data["cart"]) == ("ann", ["tea"])
        with pytest.raises(csrf.CsrfFailed):
            await site.visit(form, browser)  # the page is out of date in the new session
    clock.advance(30)
    with pytest.raises(csrf.CsrfFailed):
        await site.visit(form, Browser(dict(old)))
