"""What was ended stays ended: signing in, rotating and ending at once, and with a store that fails anywhere.

After each story all sessions of the user are revoked. No cookie that was ever issued may be signed in then.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from anyio import CancelScope
from anyio.lowlevel import checkpoint

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    Session,
    SessionBackend,
    SessionGone,
    TooManySessions,
    update_atomically,
    users,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from tests.orders import Merging, Stepped, in_every_state
from tests.rows import rows
from tests.shell.people import sign_in
from tests.site import KEY, Browser, Clock, Site

# What is shown is in the order of the calls to the store, which is the same on either loop.
pytestmark = pytest.mark.anyio


class Watched(Stepped):
    """Breaks at the call that it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.breaks_at = 0
        self.how = ""
        self.scope = CancelScope()

    async def carry_out(self, verb: str, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        self.calls += 1
        how = self.how if self.calls == self.breaks_at else ""
        if how == "call lost":
            raise BackendUnavailable("The store failed: ConnectionError.")
        result = await work()
        if how == "answer lost":
            raise BackendUnavailable("The store failed: ConnectionError.")
        if how == "cancelled":
            self.scope.cancel()
            await checkpoint()
        return result


def one_by_one(store: MemoryStore) -> MemoryStore:
    """Take the power from a store to write several entries at once. (A wrapper would let calls go at the same time.)"""
    store.__class__ = type("OneByOne", (type(store),), {"write_together": None})
    return store


KINDS: dict[str, Callable[[MemoryStore, Clock], SessionBackend]] = {
    "stored": lambda store, clock: StoreBackend(store, clock=clock),
    "in a cookie": lambda store, clock: CookieBackend(KEY, revocations=store, clock=clock),
    "stored, one by one": lambda store, clock: StoreBackend(one_by_one(store), clock=clock),
    "in a cookie, one by one": lambda store, clock: CookieBackend(KEY, revocations=one_by_one(store), clock=clock),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Callable[[MemoryStore, Clock], SessionBackend]:
    return KINDS[request.param]


class Story:
    """A store, a site on it that can be visited twice at once, and every cookie that was ever given out."""

    def __init__(self, kind: Callable[[MemoryStore, Clock], SessionBackend], clock: Clock, **settings: Any) -> None:
        self.store = Watched()
        self.clock = clock
        self.backend = kind(self.store, clock)
        self.users = UserSessions(self.backend)
        self.site = Site(backend=self.backend, clock=clock, autoload=True, **settings)
        self.cookies: list[dict[str, str]] = []

    async def visit(self, act: Callable[[Session], Any], browser: Browser) -> Any:
        """What the handler returned; None if it was told that the session was ended meanwhile."""
        try:
            return (await self.site.visit(act, browser)).result
        except SessionGone:
            return None
        finally:
            self.cookies.append(dict(browser.cookies))

    async def user(self, browser: Browser) -> Any:
        return (await self.site.visit(users.get_user_id, Browser(dict(browser.cookies)))).result

    async def alive(self) -> list[Browser]:
        """The cookies that are signed in."""
        browsers = [Browser(dict(cookies)) for cookies in {tuple(one.items()) for one in self.cookies}]
        return [browser for browser in browsers if await self.user(browser) is not None]

    async def end_all(self) -> None:
        await self.users.revoke_all("ann")
        assert await self.alive() == [], "a session lives that is on no list"
        assert await self.users.list("ann") == []


async def rotate(session: Session) -> None:
    await session.regenerate_id()


async def change(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


async def twice(session: Session) -> None:
    await users.sign_in(session, "ann")
    await users.sign_in(session, "ann")


async def other_and_back(session: Session) -> None:
    await users.sign_in(session, "bob")
    await users.sign_in(session, "ann")


async def and_rotate(session: Session) -> None:
    await users.sign_in(session, "ann")
    await session.regenerate_id()


async def and_flush(session: Session) -> None:
    await users.sign_in(session, "ann")
    await session.flush()
    session["n"] = 1


async def and_clear(session: Session) -> None:
    await users.sign_in(session, "ann")
    session.clear()


async def and_persist(session: Session) -> None:
    await users.sign_in(session, "ann")
    await session.persist()
    session["n"] = 1


async def persist_first(session: Session) -> None:
    await session.persist()
    await users.sign_in(session, "ann")


async def and_update(session: Session) -> None:
    await users.sign_in(session, "ann")
    await update_atomically(session, lambda data: data.update(n=1))


ACTS: dict[str, Any] = {
    "sign in": sign_in(),
    "twice": twice,
    "other and back": other_and_back,
    "and rotate": and_rotate,
    "and flush": and_flush,
    "and clear": and_clear,
    "and persist": and_persist,
    "persist first": persist_first,
    "and update": and_update,
    "rotate": rotate,
    "change": change,
    "sign out": users.sign_out,
}

BEFORE: dict[str, Any] = {"anonymous": change, "signed in": sign_in(), "nobody": None}


@pytest.fixture(params=list(BEFORE))
def before(request: pytest.FixtureRequest) -> Any:
    return BEFORE[request.param]


@pytest.mark.guarantee(21)
@rows("act", ACTS.values(), ids=ACTS)
async def test_a_session_can_be_revoked_during_any_request(kind: Any, clock: Clock, before: Any, act: Any) -> None:
    story, browser = Story(kind, clock), Browser()
    await story.visit(before or Session.load, browser)
    await story.visit(act, browser)
    await story.end_all()


@pytest.mark.exhaustive
@pytest.mark.requirement("ASVS 7.5.2")
@pytest.mark.guarantee(21)
@rows("act", ACTS.values(), ids=ACTS)
async def test_a_session_revoked_by_its_handle_stays_ended_during_any_request(
    kind: Any, clock: Clock, act: Any
) -> None:
    async def scenario(schedule: Merging) -> None:
        story, browser = Story(kind, clock), Browser()
        await story.visit(sign_in(), browser)
        [listed] = await story.users.list("ann")
        await schedule.beside(
            story.store,
            act=lambda: story.visit(act, browser),
            end=lambda: story.users.revoke("ann", listed.handle),
        )
        assert await story.visit(users.get_handle, browser) != listed.handle
        assert act not in (rotate, change) or await story.alive() == []
        await story.end_all()

    await in_every_state(scenario)


@pytest.mark.exhaustive
@pytest.mark.requirement("ASVS 7.4.2")
@pytest.mark.guarantee(21)
@rows("act", ACTS.values(), ids=ACTS)
async def test_when_all_are_ended_none_that_was_busy_is_left_off_the_list(
    kind: Any, clock: Clock, before: Any, act: Any
) -> None:
    async def scenario(schedule: Merging) -> None:
        story, browser = Story(kind, clock), Browser()
        await story.visit(before or Session.load, browser)
        await schedule.beside(
            story.store,
            act=lambda: story.visit(act, browser),
            end=lambda: story.users.revoke_all("ann"),
        )
        await story.end_all()

    await in_every_state(scenario)


@pytest.mark.requirement("ASVS 7.1.2")
@pytest.mark.guarantee(21)
@rows("too_many", ["evict", "refuse"])
async def test_of_two_concurrent_sign_ins_one_exceeds_the_limit(kind: Any, clock: Clock, too_many: str) -> None:
    async def try_to(session: Session) -> None:
        with suppress(TooManySessions):
            await users.sign_in(session, "ann")

    async def scenario(schedule: Merging) -> None:
        story = Story(kind, clock, max_sessions_per_user=1, on_too_many=too_many)
        await schedule.beside(
            story.store,
            one=lambda: story.visit(try_to, Browser()),
            two=lambda: story.visit(try_to, Browser()),
        )
        assert len(await story.alive()) == len(await story.users.list("ann")) == 1

    await in_every_state(scenario)


@pytest.mark.exhaustive
@pytest.mark.guarantee(21)
@rows("act", ACTS.values(), ids=ACTS)
@rows("how", ["call lost", "answer lost"])
@rows("ended", [True, False])
async def test_a_store_failure_anywhere_leaves_every_user_able_to_sign_in_and_out(
    kind: Any, clock: Clock, before: Any, act: Any, how: str, ended: bool
) -> None:
    await break_at_each_call(kind, clock, before, act, how, ended)


@pytest.mark.both_loops
@rows("act", ACTS.values(), ids=ACTS)
@rows("ended", [True, False])
async def test_a_user_can_be_signed_out_and_in_again_wherever_a_request_is_cancelled(
    kind: Any, clock: Clock, before: Any, act: Any, ended: bool
) -> None:
    await break_at_each_call(kind, clock, before, act, "cancelled", ended)


async def break_at_each_call(kind: Any, clock: Clock, before: Any, act: Any, how: str, ended: bool) -> None:
    breaks_at = 0
    while True:
        breaks_at += 1
        story, browser = Story(kind, clock), Browser()
        await story.visit(before or Session.load, browser)
        story.store.calls, story.store.breaks_at, story.store.how = 0, breaks_at, how
        with story.store.scope:
            await story.visit(act, browser)
        if story.store.calls < breaks_at:
            break
        story.store.how = ""
        if ended:
            await story.end_all()
        await story.visit(sign_in(), browser)
        assert await story.user(browser) == "ann", f"after call {breaks_at}"
        await story.end_all()


@rows("act", [rotate, and_rotate], ids=["rotate", "and rotate"])
@rows("seconds", [0, 1])
async def test_a_session_that_got_a_new_id_stays_on_the_list_for_as_long_as_it_is_used(
    kind: Any, clock: Clock, act: Any, seconds: int
) -> None:
    """Also if that was in the second of the sign in: a pointer from the old id to the new one does not last so long."""
    story, browser = Story(kind, clock, max_age=100_000, rolling=True), Browser()
    await story.visit(sign_in(), browser)
    clock.advance(seconds)
    await story.visit(act, browser)
    for _ in range(100):
        clock.advance(60_000)
        await story.visit(change, browser)
        assert len(await story.users.list("ann")) == 1
    assert await story.user(browser) == "ann"
    await story.end_all()
