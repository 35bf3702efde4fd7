"""All users are out at once: by one write, which refuses whatever is stored."""

from itertools import product
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from starsessions import BackendUnavailable, Session, SessionGone, set_expiry, users, watch
from starsessions.backends.epochs import EPOCH_FOR
from starsessions.exceptions import ImproperlyConfigured
from starsessions.stores.base import Page
from starsessions.stores.memory import MemoryStore
from starsessions.testing.conformance.interleaving import step
from starsessions.users import UserSessions
from tests.orders import Merging, in_every_state
from tests.rows import rows
from tests.shell.people import signed_in, user_of
from tests.shell.test_ends_everywhere import Forgets, change, extend
from tests.shell.test_interrupted import KINDS, Kind, Story
from tests.shell.test_sign_in_races import KINDS as WATCHED
from tests.shell.test_sign_in_races import Story as WatchedStory
from tests.site import Browser, Clock, Site, settled

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["stored", "signed"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


async def renewed(site: Site, browser: Browser, renewal: Any = change) -> str | None:
    """The user of the session after it was written."""
    await site.visit(renewal, browser)
    return await user_of(site, browser)


@pytest.mark.guarantee(21)
@rows("renewal", [change, extend, Session.regenerate_id])
async def test_every_signed_in_session_ends_at_its_next_renewal_and_no_anonymous_one(
    kind: Kind, clock: Clock, renewal: Any
) -> None:
    backend = kind(MemoryStore(), clock)
    site = Site(backend=backend, clock=clock, autoload=True)
    browsers = [await signed_in(site, user) for user in ("ann", "ann", "bob")]
    copies = [Browser(dict(one.cookies)) for one in browsers]
    cart = Browser()
    await site.visit(change, cart)

    await UserSessions(backend).revoke_everyone()

    assert [await renewed(site, one, renewal) for one in browsers] == [None] * 3
    assert [await user_of(site, one) for one in copies] == [None] * 3
    await site.visit(renewal, cart)
    assert (await site.data(cart))["n"] >= 1
    assert await renewed(site, await signed_in(site), renewal) == "ann"


@pytest.mark.guarantee(21)
@rows("order", [*product(("sign in", "all of ann", "everyone"), repeat=4)], ids=str)
async def test_a_session_lives_if_nothing_was_ended_since_its_sign_in(
    kind: Kind, clock: Clock, order: tuple[str, ...]
) -> None:
    """The store has lost its listings: so only the epochs end anything, the user's own and that of all."""
    store = Forgets()
    store.forgets = True
    backend = kind(store, clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    begun: list[tuple[int, Browser, Browser]] = []
    last = {"ann": -1, "bob": -1}
    for at, act in enumerate(order):
        if act == "sign in":
            begun.append((at, await signed_in(site, "ann"), await signed_in(site, "bob")))
        elif act == "all of ann":
            await sessions.revoke_all("ann")
            last["ann"] = at
        else:
            await sessions.revoke_everyone()
            last = dict.fromkeys(last, at)
    for at, ann, bob in begun:
        assert await renewed(site, ann) == (None if at < last["ann"] else "ann")
        assert await renewed(site, bob) == (None if at < last["bob"] else "bob")


async def test_a_session_outlives_an_epoch_that_has_expired(kind: Kind, clock: Clock) -> None:
    backend = kind(MemoryStore(), clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    await sessions.revoke_everyone()
    await sessions.revoke_all("ann")

    async def for_years(session: Session) -> None:
        await users.sign_in(session, "ann")
        set_expiry(session, 3 * EPOCH_FOR)

    browser = Browser()
    await site.visit(for_years, browser)
    clock.advance(EPOCH_FOR + 1)
    assert await renewed(site, browser) == "ann"


async def test_what_was_ended_stays_ended_for_longer_than_a_session_is_kept(kind: Kind, clock: Clock) -> None:
    backend = kind(MemoryStore(), clock)
    site = Site(backend=backend, clock=clock, autoload=True, max_age=20 * EPOCH_FOR)
    browser = await signed_in(site)
    await UserSessions(backend).revoke_everyone()
    clock.advance(10 * EPOCH_FOR)
    assert await renewed(site, browser) is None


@pytest.mark.guarantee(21)
async def test_those_of_another_cookie_and_kind_of_backend_are_not_meant(clock: Clock) -> None:
    store = MemoryStore()
    backends = [KINDS["stored"](store, clock), KINDS["signed"](store, clock)]
    sites = [
        Site(backend=backend, clock=clock, autoload=True, session_cookie=cookie)
        for backend in backends
        for cookie in ("session", "admin")
    ]
    browsers = [await signed_in(site) for site in sites]
    for at, (backend, cookie) in enumerate(product(backends, ("session", "admin"))):
        await UserSessions(backend, session_cookie=cookie).revoke_everyone()
        alive = [await renewed(site, browser) for site, browser in zip(sites, browsers, strict=True)]
        assert alive == [None] * (at + 1) + ["ann"] * (3 - at)


@pytest.mark.guarantee(21)
async def test_a_sign_in_of_before_ends_and_one_of_after_lives_in_every_order(clock: Clock) -> None:
    for name in ("stored", "in a cookie"):
        seen: set[bool] = set()

        async def scenario(schedule: Merging, name: str = name, seen: set[bool] = seen) -> None:
            story, browser = WatchedStory(WATCHED[name], clock), Browser()
            order: list[str] = []

            async def sign_in_beside(session: Session) -> None:
                await step()
                order.append("begins")
                await users.sign_in(session, "ann")
                order.append("begun")

            async def everyone() -> None:
                await step()
                order.append("ends")
                await story.users.revoke_everyone()
                order.append("ended")

            await schedule.beside(
                story.store,
                lambda: tuple(order),
                act=lambda: story.visit(sign_in_beside, browser),
                end=everyone,
            )
            await story.visit(change, browser)
            lives = await story.user(browser) == "ann"
            if order.index("begun") < order.index("ends"):
                assert not lives
            if order.index("ended") < order.index("begins"):
                assert lives
            seen.add(lives)

        await in_every_state(scenario)
        assert seen == {True, False}


@pytest.mark.guarantee(21)
@rows("how", ["killed", "call lost", "answer lost", "cancelled"])
async def test_wherever_it_is_interrupted_all_are_refused_once_it_was_done_again(
    kind: Kind, clock: Clock, how: str
) -> None:
    async def ends_everyone(story: Story) -> None:
        await story.users.revoke_everyone()

    at, goes_on = 0, True
    while goes_on:
        at += 1
        story = Story(kind, None, set())
        await story.begin()
        goes_on = await story.interrupted(ends_everyone, how, at)
        first = [Browser(dict(one.cookies)) for one in (story.old, story.new)]
        alive = [await renewed(story.site, one) for one in first]
        assert len({*alive}) == 1, f"some are refused and some are not, after call {at}"
        await story.users.revoke_everyone()
        assert [await renewed(story.site, one) for one in (story.old, story.new)] == [None] * 2
        await story.check(f"after call {at}")


async def test_a_sign_in_that_is_overtaken_by_it_says_so(kind: Kind, clock: Clock) -> None:
    backend = kind(MemoryStore(), clock)
    site = Site(backend=backend, clock=clock, autoload=True)

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        await UserSessions(backend).revoke_everyone()

    with pytest.raises(SessionGone, match="The sign-in was not saved: meanwhile, the user's sessions were revoked"):
        await site.visit(act)


async def test_two_at_once_both_end_everyone(kind: Kind, clock: Clock) -> None:
    """The second write finds the first, whichever of them comes first."""

    class Beside(MemoryStore):
        async def get(self, key: str, *, now: int) -> Any:
            found = await super().get(key, now=now)
            if inside:
                await inside.pop()()
            return found

    inside: list[Any] = []
    for is_first in (True, False):
        backend = kind(Beside(), clock)
        site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
        if not is_first:
            await sessions.revoke_everyone()
        browser = await signed_in(site)
        inside.append(sessions.revoke_everyone)
        await sessions.revoke_everyone()
        assert await renewed(site, browser) is None


async def test_at_its_limit_of_time_it_says_that_it_may_not_be_done(kind: Kind, clock: Clock) -> None:
    class Silent(MemoryStore):
        async def list_owned(self, name: str, **how: Any) -> Page:
            raise AssertionError("it needs no list")

        async def get(self, key: str, *, now: int) -> Any:
            await anyio.sleep_forever()

    backend = kind(Silent(), clock)
    sessions = UserSessions(backend, session_cookie="session")
    message = r"^The sessions of all users may not have ended in 0\.001 seconds: call it again\.$"
    with pytest.raises(BackendUnavailable, match=message):
        await sessions.revoke_everyone(timeout=0.001)
    with pytest.raises(ImproperlyConfigured, match="timeout must be more than 0 seconds"):
        await sessions.revoke_everyone(timeout=0)


@pytest.mark.both_loops
async def test_streams_of_all_users_end_and_each_of_them_by_one_read_of_one_key(clock: Clock) -> None:
    class Far(MemoryStore):
        reads: list[str]

        async def get(self, key: str, *, now: int) -> Any:
            self.reads.append(key)
            await checkpoint()
            return await super().get(key, now=now)

    store = Far()
    store.reads = []
    backend = KINDS["stored"](store, clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    browsers = [await signed_in(site, f"user {n}") for n in range(20)]
    ended: list[int] = []

    async def stream(n: int, browser: Browser) -> None:
        async def act(session: Session) -> None:
            async with watch.move_on_when_ended(session) as scope:
                await anyio.sleep_forever()
            if scope.cancelled_caught:
                ended.append(n)

        await Site(backend=backend, clock=clock, autoload=True).visit(act, browser)

    async with anyio.create_task_group() as tasks:
        for n, browser in enumerate(browsers):
            tasks.start_soon(stream, n, browser)
        for _ in range(3):
            await settled()
        store.reads.clear()
        await sessions.revoke_everyone()
    assert sorted(ended) == [*range(20)]
    assert len(store.reads) <= 3  # one to write it, and one or two for all streams
    assert await user_of(site, browsers[0]) == "user 0"  # until it is written
