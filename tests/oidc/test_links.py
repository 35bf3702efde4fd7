"""A sign-out of the provider beside a sign-in, a rotation and a renewal: in every order, no session survives it."""

from collections.abc import Awaitable, Callable, Coroutine, Hashable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    ImproperlyConfigured,
    Session,
    SessionBackend,
    SessionGone,
    users,
)
from starsessions.backends import provider_links
from starsessions.backends.entries import Location
from starsessions.backends.provider_links import REMEMBERED_FOR, Link
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import UserIndex
from starsessions.core.record import Identity, Record
from starsessions.lifecycle import sign_in as signing_in
from starsessions.stores.base import Owner
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from tests.oidc.provider import ISSUER, NOW, World
from tests.orders import Merging, Stepped, in_every_state
from tests.rows import rows
from tests.shell.people import LISTING, sign_in
from tests.site import KEY, Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio

DAY = 86_400


@dataclass
class Fault:
    """Which call of a task fails: before its work, or after it."""

    calls_left: int
    works_first: bool


fault: ContextVar[Fault | None] = ContextVar("fault", default=None)


class Failing(Stepped):
    """Notes its calls, and fails where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []

    async def carry_out(self, verb: str, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        self.calls.append((verb, name))
        plan = fault.get()
        fails = False
        if plan is not None:
            plan.calls_left -= 1
            fails = plan.calls_left == 0
        if not fails or (plan is not None and plan.works_first):
            result = await work()
        if fails:
            raise BackendUnavailable("The store failed.")
        return result


KINDS: dict[str, Callable[[MemoryStore, Clock], SessionBackend]] = {
    "stored": lambda store, clock: StoreBackend(store, clock=clock),
    "cookies": lambda store, clock: CookieBackend(KEY, revocations=store, clock=clock),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


async def backwards(self: UserIndex, *work: Coroutine[Any, Any, Any]) -> list[Any]:
    """What is waited for together may be done in any order: here, the last comes first."""
    return [await one for one in reversed(work)][::-1]


@pytest.fixture(params=["in turn", "backwards"])
def together(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "backwards":
        monkeypatch.setattr(UserIndex, "concurrently", backwards)


class Story(World):
    """A world whose store stops before each call."""

    def __init__(self, kind: str, **settings: Any) -> None:
        self.store = Failing()
        super().__init__(lambda clock: KINDS[kind](self.store, clock), **settings)

    async def visit(self, act: Callable[[Session], Any], browser: Browser) -> None:
        with suppress(SessionGone):
            await self.site.visit(act, browser)

    async def revoke(self, by: str) -> None:
        await self.sessions.revoke_linked(ISSUER, **{by: "name"})  # type: ignore[arg-type]

    def owner(self, **names: str) -> str:
        links, _ = self.sessions.provider_links()
        session, subject = links.owners(ISSUER, names.get("session", ""), names.get("subject", ""))
        return session or subject


def names(**given: str) -> dict[str, str]:
    return {"provider": ISSUER, **{f"provider_{name}": value for name, value in given.items()}}


@pytest.mark.parametrize("by", ["session", "subject"])
async def test_a_sign_out_beside_a_sign_in_leaves_no_session_in_any_order(kind: str, together: None, by: str) -> None:
    async def scenario(schedule: Merging) -> None:
        story, browser, by_name = Story(kind), Browser(), {by: "name"}
        owner = story.owner(**by_name)

        def in_which_order() -> Hashable:
            return tuple(call for call in story.store.calls if call in (("list", owner), ("create", owner)))

        await schedule.beside(
            story.store,
            in_which_order,
            sign_in=lambda: story.visit(sign_in("ann", **names(**by_name)), browser),
            sign_out=lambda: story.revoke(by),
        )
        if await story.user(browser) is not None:
            # A subject may sign in again: this sign-in began after the sign-out had looked.
            assert by == "subject"
            assert story.store.calls.index(("list", owner)) < story.store.calls.index(("create", owner))
            assert await story.sessions.revoke_linked(ISSUER, subject="name") == 1
            assert await story.user(browser) is None

    assert await in_every_state(scenario) > 20


@pytest.mark.parametrize("by", [pytest.param("session", marks=pytest.mark.wide), "subject"])
@pytest.mark.parametrize("works_first", [False, True])
async def test_a_sign_out_that_is_interrupted_anywhere_is_completed_by_the_next(by: str, works_first: bool) -> None:
    interrupted = 0

    async def scenario(schedule: Merging, call: int) -> None:
        story, browser = Story("stored"), Browser()

        async def sign_out() -> None:
            nonlocal interrupted
            fault.set(Fault(call, works_first))
            try:
                await story.revoke(by)
            except BackendUnavailable:
                interrupted += 1

        await schedule.beside(
            story.store,
            sign_in=lambda: story.visit(sign_in("ann", **names(**{by: "name"})), browser),
            sign_out=sign_out,
        )
        await story.revoke(by)
        assert await story.user(browser) is None

    for call in range(1, 8):
        await in_every_state(partial(scenario, call=call))
    assert interrupted > 20


@pytest.mark.parametrize("together", ["in turn", pytest.param("backwards", marks=pytest.mark.wide)], indirect=True)
@pytest.mark.parametrize("act", ["rotate", "change", "extend"])
async def test_a_sign_out_beside_a_request_ends_its_session_in_every_order(kind: str, together: None, act: str) -> None:
    async def work(session: Session) -> None:
        await session.load()
        session["n"] = 1
        if act == "rotate":
            await session.regenerate_id()

    async def scenario(schedule: Merging) -> None:
        story, browser = Story(kind, max_age=40 * DAY), Browser()
        await story.visit(sign_in("ann", **names(session="name")), browser)
        if act == "extend":  # past the end of the links
            story.clock.advance(30 * DAY)
        old = Browser(dict(browser.cookies))
        await schedule.beside(
            story.store,
            request=lambda: story.visit(work, browser),
            sign_out=lambda: story.revoke("session"),
        )
        assert await story.user(browser) is None
        assert await story.user(old) is None

    assert await in_every_state(scenario) > 5


# What a link says, and for how long


@pytest.mark.parametrize("backend", list(LISTING))
async def test_each_backend_that_lists_sessions_ends_those_of_a_provider(backend: str) -> None:
    world = World(LISTING[backend])
    ann, bob = await world.sign_in(), await world.sign_in("bob", "sid-2", "sub-2")

    assert await world.sessions.revoke_linked(ISSUER, session="sid-1") == 1
    assert await world.sessions.revoke_linked(ISSUER, session="sid-1") == 0
    assert (await world.user(ann), await world.user(bob)) == (None, "bob")
    assert await world.sessions.revoke_linked(ISSUER, subject="sub-2") == 1
    assert await world.user(bob) is None


async def test_names_of_other_providers_and_applications_are_not_confused() -> None:
    world = World()
    ann = await world.sign_in()
    other = UserSessions(world.backend, session_cookie="other")

    assert await world.sessions.revoke_linked(ISSUER + "s", session="id-1") == 0
    assert await world.sessions.revoke_linked(ISSUER, session="sub-1", subject="sid-1") == 0
    assert await other.revoke_linked(ISSUER, session="sid-1", subject="sub-1") == 0
    assert await world.user(ann) == "ann"


async def test_several_users_with_many_sessions_of_one_subject_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_links, "PAGE", 50)
    world = World()
    browsers = [await world.sign_in(f"user-{number % 3}", f"sid-{number}") for number in range(120)]

    assert await world.sessions.revoke_linked(ISSUER, subject="sub-1") == 120
    assert [one for one in browsers if await world.user(one)] == []


async def test_a_providers_session_that_has_ended_admits_no_sign_in_for_a_quarter_of_an_hour() -> None:
    world = World()
    for seconds in (0, 10):  # each sign-out begins it again
        world.clock.now = NOW + seconds
        await world.sessions.revoke_linked(ISSUER, session="sid-1")
    world.clock.now = NOW + 10 + REMEMBERED_FOR - 1
    with pytest.raises(SessionGone, match="meanwhile"):
        await world.sign_in()
    world.clock.now = NOW + 10 + REMEMBERED_FOR
    assert await world.user(await world.sign_in()) == "ann"


async def test_links_last_as_long_as_their_session() -> None:
    world = World(max_age=40 * DAY, rolling=True)
    ann = await world.sign_in()
    for _ in range(30):
        world.clock.advance(30 * DAY)
        assert await world.user(ann) == "ann"

    assert await world.sessions.revoke_linked(ISSUER, session="sid-1") == 1
    assert await world.user(ann) is None


@rows("kind", list(KINDS))
async def test_a_session_whose_links_were_lost_ends_at_its_next_renewal(kind: str) -> None:
    store = MemoryStore()
    world = World(lambda clock: KINDS[kind](store, clock))
    ann = await world.sign_in()
    links, now = world.sessions.provider_links()
    for owner in links.owners(ISSUER, "sid-1", "sub-1"):
        page = await store.list_owned(owner, limit=10, now=now)
        [(key, _)] = page.entries
        await store.delete(key, now=now)
    assert await world.user(ann) == "ann"

    await world.site.visit(change, ann)
    assert await world.user(ann) is None


async def test_a_sign_out_leaves_no_links() -> None:
    store = MemoryStore()
    world = World(lambda clock: StoreBackend(store, clock=clock))
    ann = await world.sign_in()
    await world.site.visit(users.sign_out, ann)
    assert await _owned(world, store) == 0

    async def twice(session: Session) -> None:
        await sign_in("ann", **names(session="sid-1", subject="sub-1"))(session)
        await sign_in("ann", **names(session="sid-1", subject="sub-1"))(session)

    await world.site.visit(twice, Browser())
    assert await _owned(world, store) == 2

    await world.sessions.revoke_linked(ISSUER, session="sid-1", subject="sub-1")
    assert await _owned(world, store) == 1  # that of the subject ends with a sign-out of the subject


def test_what_debuggers_print_shows_no_names() -> None:
    identity = Identity("ann", NOW, "handle")
    link = Link("key", "owner", Record(b"", NOW, NOW, identity=identity), Location("key", 1))
    names = signing_in.ProviderNames(ISSUER, "sid-1", "sub-1")
    assert [repr(one) for one in (link, names)] == ["<Link>", "<ProviderNames>"]


async def test_what_is_no_link_is_passed_over() -> None:
    store = MemoryStore()
    world = World(lambda clock: StoreBackend(store, clock=clock))
    ann = await world.sign_in()
    links, now = world.sessions.provider_links()
    owner, _ = links.owners(ISSUER, "sid-1", "")
    await store.create("garbage", b"x", expires_at=now + 60, now=now, owner=Owner(owner, now))

    assert await world.sessions.revoke_linked(ISSUER, session="sid-1") == 1
    assert await world.user(ann) is None


# The settings


@rows(
    "given",
    [
        {"provider": ISSUER},
        {"provider_session": "sid-1"},
        {"provider_subject": "sub-1"},
        {"provider": ISSUER, "provider_session": 1},
        {"provider": None, "provider_session": "sid-1"},
    ],
)
async def test_a_provider_is_named_completely(given: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="provider"):
        await World().site.visit(sign_in("ann", **given))


@rows("backend", [lambda: CookieBackend(KEY, allow_unrevocable=True), DictBackend])
async def test_a_session_that_cannot_be_ended_has_no_provider(backend: Callable[[], SessionBackend]) -> None:
    with pytest.raises(ImproperlyConfigured, match="could end the session"):
        await Site(backend=backend()).visit(sign_in("ann", **names(session="sid-1")))


async def _owned(world: World, store: MemoryStore) -> int:
    links, now = world.sessions.provider_links()
    owners = links.owners(ISSUER, "sid-1", "sub-1")
    return sum([await store.count_owned(owner, most=1000, now=now) for owner in owners])


async def change(session: Session) -> None:
    await session.load()
    session["n"] = session.get("n", 0) + 1
