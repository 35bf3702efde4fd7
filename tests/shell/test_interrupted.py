"""A process that dies, a store that fails and a client that leaves, after each call to the store of each operation.

Whatever is interrupted: a live session is in the listing of its user, what was ended opens nothing, the next sign-in
brings the user below the maximum, and an eviction comes with a sign-in that was saved, or was told.
"""

from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from anyio import CancelScope
from anyio.lowlevel import checkpoint

from starsessions import BackendUnavailable, CookieBackend, Session, SessionBackend, SessionGone, users
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import COUNTS_FOR
from starsessions.core.record import Found
from starsessions.events import Event, Revoked
from starsessions.stores.base import Entry, Page, Write
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from tests.orders import numbered, task
from tests.rows import rows
from tests.shell.people import OneByOne, sign_in
from tests.site import KEY, Browser, Clock, Site

pytestmark = pytest.mark.anyio


class Killed(BaseException):
    """The process is dead: it does nothing any more."""


class Fragile(MemoryStore):
    """Does something else before the call that it is told, and breaks at another."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.breaks_at = 0
        self.how = ""
        self.is_dead = False
        self.scope = CancelScope()
        self.meanwhile_at = 0
        self.meanwhile: Callable[[], Awaitable[Any]] | None = None
        self.after: Callable[[int], Awaitable[Any]] | None = None
        """Is told after each call how many there were."""

    async def _call(self, work: Awaitable[Any]) -> Any:
        if self.is_dead:
            work.close()  # type: ignore[attr-defined]
            raise Killed
        self.calls += 1
        number, meanwhile, how = self.calls, self.meanwhile, self.how if self.calls == self.breaks_at else ""
        if meanwhile is not None and number == self.meanwhile_at:
            plan, after = self.how, self.after
            self.meanwhile, self.how, self.after = None, "", None
            await meanwhile()
            self.calls, self.how, self.after = number, plan, after
        if how == "call lost":
            work.close()  # type: ignore[attr-defined]
            raise BackendUnavailable("The store failed: ConnectionError.")
        result = await work
        if self.after is not None:
            await self.after(number)
        if how == "answer lost":
            raise BackendUnavailable("The store failed: ConnectionError.")
        if how == "cancelled":
            self.scope.cancel()
            await checkpoint()
        if how == "killed":
            self.is_dead = True
            raise Killed
        return result

    async def get(self, key: str, *, now: int) -> Entry | None:
        found: Entry | None = await self._call(super().get(key, now=now))
        return found

    async def create(self, key: str, value: bytes, **how: Any) -> Any:
        return await self._call(super().create(key, value, **how))

    async def replace(self, key: str, value: bytes, version: Any, **how: Any) -> Any:
        return await self._call(super().replace(key, value, version, **how))

    async def delete(self, key: str, version: Any = None, *, now: int) -> bool:
        lived: bool = await self._call(super().delete(key, version, now=now))
        return lived

    async def write_together(self, writes: Sequence[Write], **how: Any) -> Any:
        return await self._call(super().write_together(writes, **how))

    async def list_owned(self, name: str, **how: Any) -> Page:
        page: Page = await self._call(super().list_owned(name, **how))
        return page

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        count: int = await self._call(super().count_owned(name, most=most, now=now))
        return count

    async def state(self, now: int) -> Hashable:
        """All that later requests can find: the entries, and the listings in their order."""
        entries = [
            (key, entry.value, entry.expires_at, owner)
            for key, entry, owner in (await self.scan(limit=1000, now=now))[0]
        ]
        owners = sorted({owner for *_, owner in entries if owner})
        pages = [await super(Fragile, self).list_owned(owner, limit=1000, now=now) for owner in owners]
        return frozenset(entries), tuple(tuple(key for key, _ in page.entries) for page in pages)


class FourVerbs:
    """A store that lists nothing: `ListedStore` does."""

    def __init__(self, store: Fragile) -> None:
        self.get, self.create, self.replace, self.delete = store.get, store.create, store.replace, store.delete


KINDS: dict[str, "Kind"] = {
    "stored": lambda store, clock: StoreBackend(store, clock=clock),
    "stored one by one": lambda store, clock: StoreBackend(OneByOne(store), clock=clock),
    "stored, with a list": lambda store, clock: StoreBackend(FourVerbs(store), clock=clock),
    "signed": lambda store, clock: CookieBackend(KEY, revocations=store, clock=clock),
    "signed one by one": lambda store, clock: CookieBackend(KEY, revocations=OneByOne(store), clock=clock),
    "signed, with a list": lambda store, clock: CookieBackend(KEY, revocations=FourVerbs(store), clock=clock),
}


Kind = Callable[[Any, Clock], SessionBackend]


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(params=["stored", "stored one by one", "signed", "signed one by one"])
def indexed(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(params=["stored, with a list", "signed, with a list"])
def listed(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def checked() -> set[Hashable]:
    """The states in which all promises are kept, as was seen already."""
    return set()


class Story:
    """Ann, who is signed in at two browsers, one of them since a second before the other, and has a cart at a third.

    Args:
        kind: makes the backend.
        most: how many sessions a user may have.
        checked: states that need no check any more. A state is the same again only if what is random is `numbered`.
    """

    def __init__(self, kind: Kind, most: int | None, checked: set[Hashable]) -> None:
        self.store = Fragile()
        self.checked = checked
        self.clock = clock = Clock()
        self.backend = kind(self.store, clock)
        self.most = most
        self.events: list[Event] = []
        self.users = UserSessions(self.backend, on_event=self.events.append)
        settings = {} if most is None else {"max_sessions_per_user": most}
        self.site = Site(backend=self.backend, clock=clock, autoload=True, on_event=self.events.append, **settings)
        self.old, self.new, self.cart = Browser(), Browser(), Browser()
        self.before: list[Browser] = []
        """A copy of each cookie that was given out before anything was interrupted."""
        self.closed: list[Browser] = []
        """A copy of each cookie that must open nothing, because an answer has said so."""

    async def begin(self) -> None:
        for browser in (self.old, self.new):
            await self.visit(sign_in(), browser)
            self.clock.advance(1)
        await self.visit(lambda session: session.update(cart=[1]), self.cart)
        self.before = [Browser(dict(browser.cookies)) for browser in (self.old, self.new)]

    async def visit(self, act: Any, browser: Browser) -> int:
        with suppress(SessionGone):
            reply = await self.site.visit(act, browser)
            return int(reply.messages[0]["status"])
        return 0

    async def user(self, browser: Browser) -> Any:
        return (await self.site.visit(users.get_user_id, Browser(dict(browser.cookies)))).result

    async def handles(self, browsers: list[Browser]) -> set[Any]:
        seen = [await self.site.visit(users.get_handle, Browser(dict(one.cookies))) for one in browsers]
        return {reply.result for reply in seen} - {None}

    async def listed(self) -> set[str]:
        return {one.handle for one in await self.users.list("ann")}

    async def interrupted(self, act: "Act", how: str, at: int) -> bool:
        """Break the act at its call. Return False if it has fewer calls."""
        store = self.store
        store.calls, store.breaks_at, store.how = 0, at, how
        with suppress(BackendUnavailable), store.scope:
            try:
                await act(self)
            except BaseException as error:
                if not _is_killed(error):
                    raise
        store.how, store.is_dead, store.meanwhile, store.after = "", False, None, None
        return store.calls >= at

    async def check(self, at: str) -> None:
        """All promises."""
        state = await self.state()
        if state in self.checked:
            return
        self.checked.add(state)
        await self._all_are_listed(at)
        for browser in self.closed:
            assert await self.user(browser) is None, f"what was ended opens {at}"
        fresh = Browser()
        await self.visit(sign_in(), fresh)
        assert await self.user(fresh) == "ann", f"the user cannot sign in {at}"
        if self.most is not None:
            assert len(await self.listed()) <= self.most, f"there are too many after the next sign-in {at}"
        await self._all_are_listed(at)
        every = [*self.before, self.old, self.new, self.cart, fresh]
        for user in ("ann", "bob"):
            await self.users.revoke_all(user)
        assert await self.listed() == set()
        assert [await self.user(one) for one in every] == [None] * len(every), f"not all have ended {at}"

    async def state(self) -> Hashable:
        """All that the promises depend on."""
        cookies = [
            tuple(sorted(one.cookies.items())) for one in (*self.before, self.old, self.new, self.cart, *self.closed)
        ]
        now = int(self.clock())
        return self.most, now, tuple(cookies), len(self.before), await self.store.state(now)

    async def _all_are_listed(self, at: str) -> None:
        """Look at every entry of the store: each that belongs to a user is in the listing of that user."""
        now = int(self.clock())
        index = self.backend.bound_for().user_index  # type: ignore[attr-defined]
        listed = {one.key for user in ("ann", "bob") for one in (await index.page(user, 1000, now))[0]}
        for key in self.store.all_keys():
            found = index.read(key, await index.store.get(key, now=now))
            if isinstance(found, Found) and found.record.identity is not None:
                assert key in listed, f"a session is on no list {at}"


Act = Callable[[Story], Awaitable[Any]]


def _is_killed(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_is_killed(one) for one in error.exceptions)
    return isinstance(error, Killed)


async def signs_in(story: Story) -> None:
    await story.visit(sign_in(), Browser())


async def signs_in_a_minute_later(story: Story) -> None:
    """Then those whose cookies were never presented make way, where there is a maximum."""
    story.clock.advance(COUNTS_FOR)
    await story.visit(sign_in(), Browser())


async def signs_in_with_a_cart(story: Story) -> None:
    await story.visit(sign_in(), story.cart)


async def signs_in_again(story: Story) -> None:
    await story.visit(sign_in(), story.old)


async def signs_in_as_bob(story: Story) -> None:
    await story.visit(sign_in("bob"), story.old)


async def rotates(story: Story) -> None:
    await story.visit(lambda session: session.regenerate_id(), story.old)


async def rotates_with_a_grace(story: Story) -> None:
    grace = 60 if story.backend.has_grace else None  # type: ignore[attr-defined]
    await story.visit(lambda session: session.regenerate_id(grace=grace), story.old)


async def changes(story: Story) -> None:
    await story.visit(lambda session: session.update(n=1), story.old)


async def signs_out(story: Story) -> None:
    browser = Browser(dict(story.old.cookies))
    if await story.visit(users.sign_out, story.old) == 200:
        story.closed.append(browser)


async def ends_one(story: Story) -> None:
    known = [Browser(dict(story.old.cookies)), *story.before[:1]]
    for handle in await story.handles([story.old]):
        await story.users.revoke("ann", handle)
        story.closed.extend(known)


async def ends_others(story: Story) -> None:
    known = [Browser(dict(story.old.cookies)), *story.before[:1]]

    async def act(session: Session) -> None:
        if users.get_user_id(session) is not None:
            await UserSessions(story.backend).revoke_others(session)
            story.closed.extend(known)

    await story.visit(act, story.new)


async def ends_all(story: Story) -> None:
    known = [*story.before, *(Browser(dict(one.cookies)) for one in (story.old, story.new, story.cart))]
    await story.users.revoke_all("ann")
    story.closed.extend(known)


ACTS: dict[str, Act] = {
    "signs in": signs_in,
    "signs in a minute later": signs_in_a_minute_later,
    "signs in with a cart": signs_in_with_a_cart,
    "signs in again": signs_in_again,
    "signs in as another user": signs_in_as_bob,
    "rotates": rotates,
    "rotates with a grace": rotates_with_a_grace,
    "changes": changes,
    "signs out": signs_out,
    "ends one": ends_one,
    "ends others": ends_others,
    "ends all": ends_all,
}
ENDING = ("signs out", "ends one", "ends others", "ends all", "signs in as another user", "signs in again")


@pytest.mark.exhaustive
@pytest.mark.guarantee(21)
@rows("name", ACTS)
@rows("how", ["killed", "call lost", "answer lost", "cancelled"])
@rows("most", [None, 2, 1])
async def test_each_promise_is_kept_wherever_an_operation_is_interrupted(
    indexed: Kind, checked: set[Hashable], name: str, how: str, most: int | None
) -> None:
    await interrupt_at_each_call(indexed, checked, name, how, most)


@pytest.mark.exhaustive
@rows("name", ACTS)
@rows("how", ["killed", "answer lost"])
async def test_with_a_list_each_promise_is_kept_wherever_an_operation_is_interrupted(
    listed: Kind, checked: set[Hashable], name: str, how: str
) -> None:
    await interrupt_at_each_call(listed, checked, name, how, 2)


async def interrupt_at_each_call(kind: Kind, checked: set[Hashable], name: str, how: str, most: int | None) -> None:
    at, goes_on = 0, True
    while goes_on:
        at += 1
        with numbered(), task(0):
            story = Story(kind, most, checked)
            await story.begin()
            before = await story.listed()
            goes_on = await story.interrupted(ACTS[name], how, at)
            after = await story.listed()
            told = {event.handle for event in story.events if isinstance(event, Revoked)}
            if name not in ENDING and before - after - told:
                assert after - before, f"a session was evicted in silence, and no other was signed in, after call {at}"
            await story.check(f"after call {at}")


@pytest.mark.exhaustive
@pytest.mark.guarantee(21)
@rows("name", ACTS)
@rows("meanwhile", ["signs in", "rotates", "signs out", "ends one", "ends others", "ends all"])
async def test_each_promise_is_kept_if_a_process_dies_and_another_has_worked_meanwhile(
    indexed: Kind, checked: set[Hashable], name: str, meanwhile: str
) -> None:
    await dies_beside_another(indexed, checked, ACTS[name], ACTS[meanwhile])


@pytest.mark.exhaustive
@rows("name", ["signs in", "signs in again", "rotates", "ends all"])
@rows("meanwhile", ["signs in", "ends all"])
async def test_with_a_list_each_promise_is_kept_if_a_process_dies_and_another_has_worked_meanwhile(
    listed: Kind, checked: set[Hashable], name: str, meanwhile: str
) -> None:
    await dies_beside_another(listed, checked, ACTS[name], ACTS[meanwhile])


async def dies_beside_another(kind: Kind, checked: set[Hashable], act: Act, meanwhile: Act) -> None:
    """Serve another request before each call, and let the process die after each of those that follow.

    Many of these deaths leave the same, so that one of them is enough.
    """
    for then in range(1, 100):
        left: dict[Hashable, int] = {}

        async def look(story: Story, at: int, then: int = then, left: dict[Hashable, int] = left) -> None:
            if at >= then:
                left.setdefault(await story.state(), at)

        calls = await beside_another(kind, checked, act, meanwhile, then, after=look)
        for state, at in left.items():
            if state not in checked:
                await beside_another(kind, checked, act, meanwhile, then, dies_at=at)
                assert state in checked, "it has left something else"
        if calls < then:
            return


async def beside_another(
    kind: Kind, checked: set[Hashable], act: Act, meanwhile: Act, then: int, *, after: Any = None, dies_at: int = 0
) -> int:
    """Serve another request before a call. Return how many calls there were."""

    async def other_request() -> None:
        with task(1):
            await meanwhile(story)

    with numbered(), task(0):
        story = Story(kind, 2, checked)
        await story.begin()
        store = story.store
        store.meanwhile, store.meanwhile_at = other_request, then
        store.after = after and partial(after, story)
        await story.interrupted(act, "killed", dies_at)
        calls = store.calls
        await story.check(f"after call {calls}, with another request before call {then}")
        return calls


@rows("how", ["killed", "cancelled"])
async def test_a_sign_in_that_was_interrupted_costs_a_place_for_a_minute(kind: Kind, how: str) -> None:
    story = Story(kind, 1, set())
    await story.interrupted(signs_in, how, 1)
    await story.check("after a sign-in that was interrupted")
    story.clock.advance(COUNTS_FOR)
    assert await story.listed() == set()
