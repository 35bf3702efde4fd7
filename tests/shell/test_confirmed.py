"""A sign-in whose answer was lost does not count against the maximum for longer than a minute."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from starsessions import Session, TooManySessions, users
from starsessions.events import Event, Revoked
from starsessions.stores.memory import MemoryStore
from starsessions.testing.conformance.interleaving import Schedule
from starsessions.users import UserSessions
from tests.orders import Merging, in_every_state
from tests.rows import rows
from tests.shell.people import Recorded, sign_in, signed_in, user_of
from tests.shell.test_ends_everywhere import KINDS, change
from tests.shell.test_sign_in_races import KINDS as WATCHED
from tests.shell.test_sign_in_races import Story
from tests.site import Browser, Clock, Site

pytestmark = pytest.mark.anyio

CONFIRMS = {"stored": ["get", "replace", "get", "get"], "signed": ["get", "replace", "get", "get"]}
"""The load, and the write of the renewal together with both epochs."""


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Device:
    """Ann's sites, where she may have some sessions, and what became of them."""

    def __init__(self, kind: str, clock: Clock, most: int | None = 2, too_many: str = "evict") -> None:
        self.clock = clock
        self.store = Recorded()
        self.backend = KINDS[kind](self.store, clock)
        self.sessions = UserSessions(self.backend)
        self.events: list[Event] = []
        settings: dict[str, Any] = {"on_too_many": too_many, "on_event": self.events.append}
        self.site = Site(backend=self.backend, clock=clock, autoload=True, max_sessions_per_user=most, **settings)

    async def used(self) -> Browser:
        """A session whose cookie has been presented. It is a second older than the next."""
        browser = await signed_in(self.site)
        await self.site.visit(users.get_user_id, browser)
        self.clock.advance(1)
        return browser

    async def lost(self) -> Browser:
        """A session whose cookie never arrived, a second older than the next."""
        browser = await signed_in(self.site)
        self.clock.advance(1)
        return browser

    async def users(self, *browsers: Browser) -> list[str | None]:
        return [await user_of(self.site, one) for one in browsers]

    def revoked(self) -> int:
        return sum(isinstance(event, Revoked) for event in self.events)


@pytest.mark.guarantee(21)
@rows("too_many", ["evict", "refuse"])
@rows("seconds", [58, 59, 3600])
async def test_after_a_minute_a_sign_in_whose_answer_was_lost_makes_way_first(
    kind: str, clock: Clock, too_many: str, seconds: int
) -> None:
    ann = Device(kind, clock, 2, too_many)
    used, lost = await ann.used(), await ann.lost()
    clock.advance(seconds)
    has_waited = seconds >= 59

    new = Browser()
    if too_many == "refuse" and not has_waited:
        with pytest.raises(TooManySessions):
            await ann.site.visit(sign_in(), new)
    else:
        await ann.site.visit(sign_in(), new)

    expected = ["ann", None, "ann"] if has_waited else [None, "ann", "ann"]
    if too_many == "refuse" and not has_waited:
        expected = ["ann", "ann", None]
    assert await ann.users(used, lost, new) == expected
    assert ann.revoked() == (expected[2] is not None)
    assert len(await ann.sessions.list("ann")) == 2


async def test_the_event_says_on_which_device_it_was_signed_in(kind: str, clock: Clock) -> None:
    ann = Device(kind, clock, 1)
    await ann.site.visit(sign_in(), Browser(), client=("203.0.113.77", 1), headers=[(b"user-agent", b"curl/8")])
    clock.advance(60)
    await ann.site.visit(sign_in(), Browser())
    [told] = [event for event in ann.events if isinstance(event, Revoked)]
    assert (told.user_id, told.agent, told.address) == ("ann", "curl", "203.0.113.0/24")


@rows("too_many", ["evict", "refuse"])
async def test_it_lives_as_long_as_no_one_needs_its_place_and_counts_once_it_was_used(
    kind: str, clock: Clock, too_many: str
) -> None:
    """Someone reads the first page for five minutes."""
    ann = Device(kind, clock, 2, too_many)
    reads = await ann.lost()
    clock.advance(300)
    used = await ann.used()
    assert await ann.users(reads, used) == ["ann", "ann"]
    await ann.site.visit(change, reads)
    assert await ann.site.data(reads) == {"n": 1}
    clock.advance(300)
    new = Browser()
    if too_many == "refuse":
        with pytest.raises(TooManySessions):
            await ann.site.visit(sign_in(), new)
    else:
        await ann.site.visit(sign_in(), new)
        assert await ann.users(reads, used, new) == [None, "ann", "ann"]


@rows("too_many", ["evict", "refuse"])
async def test_of_several_that_were_lost_the_oldest_make_way_and_no_more_than_needed(
    kind: str, clock: Clock, too_many: str
) -> None:
    ann = Device(kind, clock, 4, too_many)
    used, *lost = await ann.used(), await ann.lost(), await ann.lost(), await ann.lost()
    clock.advance(60)
    new = [await ann.used(), await ann.used()]
    assert await ann.users(used, *new) == ["ann"] * 3
    handles = {one.handle for one in await ann.sessions.list("ann")}
    assert len(handles) == 4
    assert await ann.users(*lost) == [None, None, "ann"]


async def test_signing_in_once_more_in_the_same_browser_finds_room(kind: str, clock: Clock) -> None:
    """The answer was lost, so the browser still has no cookie, or that of the session before."""
    ann = Device(kind, clock, 1, "refuse")
    lost = await ann.lost()
    clock.advance(60)
    new = await ann.used()
    assert await ann.users(lost, new) == [None, "ann"]


# What it costs


async def test_the_first_request_with_the_cookie_writes_once_and_no_later_one_does(kind: str, clock: Clock) -> None:
    ann = Device(kind, clock)
    browser = await signed_in(ann.site)
    ann.store.calls.clear()
    await ann.site.visit(users.get_user_id, browser)
    assert ann.store.calls == CONFIRMS[kind]
    for _ in range(2):
        ann.store.calls.clear()
        await ann.site.visit(users.get_user_id, browser)
        assert ann.store.calls == ["get"]


async def test_a_change_in_the_first_request_confirms_with_the_same_write(kind: str, clock: Clock) -> None:
    ann = Device(kind, clock)
    browser = await signed_in(ann.site)
    ann.store.calls.clear()
    await ann.site.visit(change, browser)
    assert ann.store.calls == CONFIRMS[kind]
    ann.store.calls.clear()
    await ann.site.visit(users.get_user_id, browser)
    assert ann.store.calls == ["get"]


@rows("most", [100, None])
async def test_where_no_maximum_was_chosen_nothing_is_confirmed(kind: str, clock: Clock, most: int | None) -> None:
    ann = Device(kind, clock, most)
    browser = await signed_in(ann.site)
    ann.store.calls.clear()
    await ann.site.visit(users.get_user_id, browser)
    assert ann.store.calls == ["get"]


async def test_a_request_that_does_not_load_its_session_writes_nothing(kind: str, clock: Clock) -> None:
    ann = Device(kind, clock)
    site = Site(backend=ann.backend, clock=clock, max_sessions_per_user=2)
    browser = await signed_in(site)
    ann.store.calls.clear()
    await site.visit(None, browser)
    assert ann.store.calls == []


# What confirms, and what does not


async def and_persist(session: Session) -> None:
    await users.sign_in(session, "ann")
    await session.persist()
    session["n"] = 1


async def and_persist_twice(session: Session) -> None:
    await and_persist(session)
    await session.persist()


@rows("act", [and_persist, and_persist_twice])
async def test_the_request_of_the_sign_in_itself_does_not_confirm_it(kind: str, clock: Clock, act: Any) -> None:
    ann = Device(kind, clock)
    used, lost = await ann.used(), Browser()
    await ann.site.visit(act, lost)
    clock.advance(60)
    new = await ann.used()
    assert await ann.users(used, lost, new) == ["ann", None, "ann"]


@rows("act", [Session.regenerate_id, change, users.get_user_id, sign_in()])
async def test_each_use_of_the_cookie_confirms_it(kind: str, clock: Clock, act: Any) -> None:
    ann = Device(kind, clock)
    first, second = await ann.lost(), await ann.lost()
    await ann.site.visit(act, second)
    await ann.site.visit(users.get_user_id, second)  # after a sign-in, its cookie is another one
    clock.advance(60)
    new = await ann.used()
    assert await ann.users(first, second, new) == [None, "ann", "ann"]


async def test_a_slow_handler_has_its_minute_from_the_save(kind: str, clock: Clock) -> None:
    ann = Device(kind, clock)
    used, slow = await ann.used(), Browser()

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        clock.advance(300)

    await ann.site.visit(act, slow)
    clock.advance(30)
    new = await ann.used()
    assert await ann.users(used, slow, new) == [None, "ann", "ann"]


async def test_if_the_answer_that_confirms_a_cookie_is_lost_the_next_request_does_it_again(clock: Clock) -> None:
    ann = Device("signed", clock)
    browser = await signed_in(ann.site)
    before = Browser(dict(browser.cookies))
    await ann.site.visit(users.get_user_id, browser)
    assert browser.cookies != before.cookies
    for _ in range(2):
        copy = Browser(dict(before.cookies))
        ann.store.calls.clear()
        await ann.site.visit(users.get_user_id, copy)
        assert ann.store.calls == CONFIRMS["signed"]
    assert await ann.users(before, browser, copy) == ["ann"] * 3


async def test_a_session_of_before_the_maximum_was_chosen_counts(kind: str, clock: Clock) -> None:
    ann = Device(kind, clock)
    old = await signed_in(Site(backend=ann.backend, clock=clock, autoload=True))
    clock.advance(60)
    first = await ann.lost()
    clock.advance(60)
    assert await ann.users(old, first, await ann.used()) == ["ann", None, "ann"]


@rows("too_many", ["evict", "refuse"])
async def test_what_an_epoch_refuses_makes_way_at_once(kind: str, clock: Clock, too_many: str) -> None:
    ann = Device(kind, clock, 2, too_many)
    for _ in range(2):
        await ann.used()
    await ann.sessions.revoke_everyone()
    new = [await ann.used(), await ann.used()]
    assert await ann.users(*new) == ["ann", "ann"]
    assert len(await ann.sessions.list("ann")) == 2


async def test_a_lowered_maximum_lets_many_make_way(kind: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starsessions.lifecycle.limits.CHUNK", 2)
    ann = Device(kind, clock, 9)
    for _ in range(7):
        await ann.lost()
    clock.advance(60)
    few = Site(backend=ann.backend, clock=clock, autoload=True, max_sessions_per_user=2, on_event=ann.events.append)
    await signed_in(few)
    assert ann.revoked() == 6
    assert len(await ann.sessions.list("ann")) == 2


# At the same time


async def quietly(session: Session) -> None:
    with suppress(TooManySessions):
        await users.sign_in(session, "ann")


async def confirm(session: Session) -> str | None:
    """Return whose session this is when that it was confirmed is stored."""
    await session.persist()
    return users.get_user_id(session)


class Random3(Schedule):
    """An order that is as good as any, and always the same for a number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._random = Random(number)

    def _choose(self, options: int) -> int:
        self.taken.append((0, options))
        return self._random.randrange(options)


async def set_up(name: str, too_many: str) -> tuple[Story, Browser, Browser]:
    """One session in use, and one that was lost more than a minute ago: the maximum."""
    story = Story(WATCHED[name], Clock(), max_sessions_per_user=2, on_too_many=too_many)
    used, lost = Browser(), Browser()
    for browser in (used, lost):
        await story.visit(sign_in(), browser)
    await story.visit(users.get_user_id, used)
    story.clock.advance(60)
    return story, used, lost


@pytest.mark.guarantee(21)
@rows("name", WATCHED)
@rows("too_many", ["evict", "refuse"])
async def test_beside_a_request_that_confirms_it_never_too_many_and_none_too_few_are_left(
    name: str, too_many: str
) -> None:
    outcomes: set[tuple[Any, ...]] = set()

    async def scenario(schedule: Merging) -> None:
        story, used, lost = await set_up(name, too_many)
        new = Browser()
        seen = await schedule.beside(
            story.store, sign_in=lambda: story.visit(quietly, new), confirm=lambda: story.visit(confirm, lost)
        )
        alive = (await story.user(used), await story.user(lost), await story.user(new))
        assert sum(user is not None for user in alive) == len(await story.users.list("ann")) == 2
        if too_many == "refuse":
            assert alive[0] == "ann"
        if seen["confirm"] == "ann":
            assert alive[1] == "ann"
        outcomes.add((*alive, seen["confirm"]))

    await in_every_state(scenario)
    assert {alive[1:3] for alive in outcomes} >= {(None, "ann")}
    assert len(outcomes) >= 2, "the schedules decide nothing"


@pytest.mark.exhaustive
@pytest.mark.guarantee(21)
@rows("name", WATCHED)
@rows("too_many", ["evict", "refuse"])
async def test_two_sign_ins_and_a_request_that_confirms_leave_no_more_than_the_maximum(
    name: str, too_many: str
) -> None:
    for number in range(150):
        schedule = Random3(number)
        story, used, lost = await set_up(name, too_many)
        one, two = Browser(), Browser()
        tasks: dict[str, Callable[[], Awaitable[Any]]] = {
            "one": lambda story=story, one=one: story.visit(quietly, one),  # type: ignore[misc]
            "two": lambda story=story, two=two: story.visit(quietly, two),  # type: ignore[misc]
            "confirm": lambda story=story, lost=lost: story.visit(confirm, lost),  # type: ignore[misc]
        }
        seen = await schedule.together(**tasks)
        alive = [await story.user(browser) for browser in (used, lost, one, two)]
        listed = len(await story.users.list("ann"))
        assert sum(user is not None for user in alive) == listed <= 2, (number, alive)
        assert listed >= 1, (number, alive)
        if too_many == "refuse":
            assert alive[0] == "ann", (number, alive)
            assert seen["confirm"] is None or alive[1] == "ann", (number, alive)


@rows("apart", [-1, 1])
async def test_two_judges_whose_clocks_differ_leave_no_more_than_the_maximum(
    kind: str, clock: Clock, apart: int
) -> None:
    """For the one, the minute has passed, and for the other it has not."""
    store, other_clock = MemoryStore(), Clock()
    other_clock.advance(clock() + apart - other_clock())
    here, there = KINDS[kind](store, clock), KINDS[kind](store, other_clock)
    site, elsewhere = [
        Site(backend=backend, clock=ticks, autoload=True, max_sessions_per_user=2)
        for backend, ticks in ((here, clock), (there, other_clock))
    ]
    used, lost = await signed_in(site), await signed_in(site)
    assert await user_of(site, used) == "ann"
    for ticks in (clock, other_clock):
        ticks.advance(60 - max(0, apart))
    new = [Browser(), Browser()]

    async def beside(session: Session) -> None:
        await users.sign_in(session, "ann")
        await elsewhere.visit(sign_in(), new[1])

    await site.visit(beside, new[0])
    alive = [await user_of(site, one) for one in (used, lost, *new)]
    assert len(await UserSessions(here).list("ann")) == sum(user is not None for user in alive) <= 2
