"""What is ended is ended: whatever the clock says, whatever the index has lost, and however many there are."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from math import inf
from typing import Any, ClassVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    Session,
    SessionBackend,
    SessionGone,
    personal,
    set_expiry,
    update_atomically,
    users,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import PENDING_FOR
from starsessions.events import Event, Revoked
from starsessions.exceptions import ImproperlyConfigured, SessionConflict, SessionError
from starsessions.lifecycle import limits
from starsessions.stores.base import Deletion, Owner, Page, Write
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from tests.rows import rows
from tests.shell.people import OneByOne, Recorded, sign_in, signed_in, user_of
from tests.site import KEY, Browser, Clock, Site

pytestmark = pytest.mark.anyio

KINDS: dict[str, Callable[[MemoryStore, Clock], SessionBackend]] = {
    "stored": lambda store, clock: StoreBackend(store, clock=clock),
    "signed": lambda store, clock: CookieBackend(KEY, revocations=store, clock=clock),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Callable[[MemoryStore, Clock], SessionBackend]:
    return KINDS[request.param]


# Clocks


@pytest.mark.guarantee(21)
@rows("apart", [59, 61, 90, -59, -61, -90])
@rows("how", ["ends all", "ends one", "ends others", "signs out", "evicts"])
async def test_what_one_worker_ends_is_ended_at_a_worker_with_another_clock(
    kind: Any, clock: Clock, apart: int, how: str
) -> None:
    store, other_clock = MemoryStore(), Clock()
    other_clock.advance(clock() + apart - other_clock())
    here, there = kind(store, clock), kind(store, other_clock)
    site = Site(backend=here, clock=clock, autoload=True, max_sessions_per_user=2)
    elsewhere = Site(backend=there, clock=other_clock, autoload=True)
    browser = await signed_in(elsewhere)
    handle = (await elsewhere.visit(users.get_handle, browser)).result

    if how == "ends all":
        assert await UserSessions(here).revoke_all("ann") == 1
    elif how == "ends one":
        assert await UserSessions(here).revoke("ann", handle) is True
    elif how == "ends others":
        mine = await signed_in(site)
        assert (await site.visit(lambda session: UserSessions(here).revoke_others(session), mine)).result == 1
    elif how == "signs out":
        reply = await site.visit(users.sign_out, Browser(dict(browser.cookies)))
        assert "Max-Age=0" in reply.set_cookie
    else:
        for _ in range(2):
            clock.advance(max(0, apart) + 1)
            assert await user_of(site, await signed_in(site)) == "ann"

    assert await user_of(elsewhere, browser) is None
    assert handle not in [one.handle for one in await UserSessions(there).list("ann")]


@rows("apart", [59, 61, 90])
@rows("how", ["saved with the response", "saved atomically"])
async def test_a_sign_in_ends_the_session_before_though_another_worker_has_just_written_it(
    clock: Clock, apart: int, how: str
) -> None:
    store, fast = MemoryStore(), Clock()
    fast.advance(clock() + apart - fast())
    here = Site(backend=StoreBackend(store, clock=clock), clock=clock, autoload=True)
    elsewhere = Site(backend=StoreBackend(store, clock=fast), clock=fast, autoload=True)
    browser = Browser()
    await here.visit(lambda session: session.update(basket="full"), browser)
    copy = Browser(dict(browser.cookies))

    async def sign_in_meanwhile(session: Session) -> None:
        await users.sign_in(session, "ann")
        await elsewhere.visit(lambda other: other.update(color="red"), copy)
        if how == "saved atomically":
            await update_atomically(session, lambda data: None)

    await here.visit(sign_in_meanwhile, browser)
    assert await user_of(here, browser) == "ann"
    assert (await elsewhere.visit(dict, copy)).result == {}


@rows("apart", [59, 90])
async def test_a_session_that_has_expired_here_and_not_there_is_ended_by_its_sign_out(
    kind: Any, clock: Clock, apart: int
) -> None:
    store, fast = MemoryStore(), Clock()
    fast.advance(clock() + apart - fast())
    slow_site = Site(backend=kind(store, clock), clock=clock, autoload=True, max_age=apart)
    fast_site = Site(backend=kind(store, fast), clock=fast, autoload=True, max_age=apart)
    browser = await signed_in(slow_site)
    assert await user_of(slow_site, browser) == "ann"

    reply = await fast_site.visit(users.sign_out, Browser(dict(browser.cookies)))

    assert reply.set_cookies == []  # for this server, it was only an expired cookie
    assert await user_of(slow_site, browser) is None


# The epoch


class Forgets(Recorded):
    """A store that has lost its listings, as a database may that evicts what is not used."""

    forgets = False

    async def list_owned(self, name: str, **how: Any) -> Page:
        return Page([], None) if self.forgets else await super().list_owned(name, **how)

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        return 0 if self.forgets else await super().count_owned(name, most=most, now=now)


async def change(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


async def extend(session: Session) -> None:
    set_expiry(session, 100 * 24 * 60 * 60)


@pytest.mark.guarantee(21)
@rows("renewal", [change, extend, Session.regenerate_id])
async def test_a_session_that_the_index_has_lost_ends_at_its_next_renewal(
    kind: Any, clock: Clock, renewal: Any
) -> None:
    store = Forgets()
    backend = kind(store, clock)
    site = Site(backend=backend, clock=clock, autoload=True)
    browser = await signed_in(site)
    copy = Browser(dict(browser.cookies))
    store.forgets = True
    assert await UserSessions(backend).revoke_all("ann") == 0
    store.forgets = False

    reply = await site.visit(renewal, browser)

    assert reply.set_cookies == []
    assert [await user_of(site, one) for one in (browser, copy)] == [None, None]
    assert await UserSessions(backend).list("ann") == []


async def test_a_session_of_a_later_epoch_lives_and_ends_with_the_next_one(kind: Any, clock: Clock) -> None:
    backend = kind(MemoryStore(), clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    first = await signed_in(site)
    for _ in range(3):
        await sessions.revoke_all("ann")
        browser = await signed_in(site)
        for renewal in (change, extend, Session.regenerate_id, change):
            await site.visit(renewal, browser)
            assert await user_of(site, browser) == "ann"
        assert await user_of(site, first) is None
        first = browser


async def test_only_the_sessions_of_an_earlier_epoch_are_ended(kind: Any, clock: Clock) -> None:
    """A user who signs in while all are ended, with the new epoch, has just shown a credential."""
    inside: list[Any] = []

    class Interrupted(Recorded):
        async def list_owned(self, name: str, **how: Any) -> Page:
            if inside:
                await inside.pop()()
            return await super().list_owned(name, **how)

    backend = kind(Interrupted(), clock)
    site, new = Site(backend=backend, clock=clock, autoload=True), Browser()
    old = await signed_in(site)
    other = Site(backend=backend, clock=clock, autoload=True)
    inside.append(lambda: other.visit(sign_in(), new))

    assert await UserSessions(backend).revoke_all("ann") == 1

    assert [await user_of(site, one) for one in (old, new)] == [None, "ann"]


# A sign-in that takes its time, or is overtaken


@pytest.mark.guarantee(21)
@rows("seconds", [59, 60, 61, PENDING_FOR - 1])
async def test_a_sign_in_whose_handler_is_slow_is_saved(kind: Any, clock: Clock, seconds: int) -> None:
    backend = kind(MemoryStore(), clock)
    site, browser = Site(backend=backend, clock=clock, autoload=True), Browser()

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        clock.advance(seconds)

    await site.visit(act, browser)
    assert await user_of(site, browser) == "ann"
    assert len(await UserSessions(backend).list("ann")) == 1


@pytest.mark.guarantee(21)
@rows("seconds", [0, 59, 60, 3600])
@rows("begun", [False, True])
async def test_a_sign_in_that_was_overtaken_says_so_however_slow_it_is_and_keeps_the_session_before(
    kind: Any, clock: Clock, seconds: int, begun: bool
) -> None:
    backend = kind(MemoryStore(), clock)
    site, browser = Site(backend=backend, clock=clock, autoload=True), Browser()
    if begun:
        await site.visit(change, browser)

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        await UserSessions(backend).revoke_all("ann")
        clock.advance(seconds)

    with pytest.raises(SessionGone, match="The sign-in was not saved: meanwhile, the user's sessions were revoked"):
        await site.visit(act, browser)
    assert await user_of(site, browser) is None
    assert await UserSessions(backend).list("ann") == []
    assert await site.data(browser) == ({"n": 1} if begun else {})


async def test_a_sign_in_that_takes_an_hour_is_refused_since_nothing_would_have_known_of_it(
    kind: Any, clock: Clock
) -> None:
    backend = kind(MemoryStore(), clock)
    site, browser = Site(backend=backend, clock=clock, autoload=True), Browser()

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        clock.advance(PENDING_FOR)

    with pytest.raises(SessionGone, match=r"The sign-in was not saved: .* or an hour has passed since"):
        await site.visit(act, browser)
    assert await UserSessions(backend).list("ann") == []
    await site.visit(sign_in(), browser)
    assert await user_of(site, browser) == "ann"


@pytest.mark.guarantee(21)
@rows("how", ["by its handle", "with all others"])
@rows("before", [0, 61, 1800])
@rows("seconds", [0, 59, 61, 1799])
async def test_a_sign_in_that_is_ended_from_another_device_before_it_is_saved_says_so(
    kind: Any, clock: Clock, how: str, before: int, seconds: int
) -> None:
    backend = kind(MemoryStore(), clock)
    site, other, browser = (*[Site(backend=backend, clock=clock, autoload=True) for _ in range(2)], Browser())
    mine = await signed_in(other)

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        clock.advance(before)
        if how == "by its handle":
            await UserSessions(backend).revoke("ann", users.get_handle(session) or "")
        else:
            await other.visit(lambda session: UserSessions(backend).revoke_others(session), mine)
        clock.advance(seconds)

    with pytest.raises(SessionGone, match="The sign-in was not saved"):
        await site.visit(act, browser)
    assert [await user_of(site, one) for one in (mine, browser)] == ["ann", None]


@pytest.mark.guarantee(21)
@rows("too_many", ["evict", "refuse"])
@rows("before, after", [(1, 0), (1, 61), (61, 0), (61, 61), (1800, 1700)])
async def test_at_the_maximum_a_sign_in_that_a_later_one_has_overtaken_says_so(
    kind: Any, clock: Clock, too_many: str, before: int, after: int
) -> None:
    if (too_many, before) == ("refuse", 1):
        return  # then the later one is refused
    backend = kind(MemoryStore(), clock)
    site, other = [
        Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=1, on_too_many=too_many)
        for _ in range(2)
    ]
    first, second = Browser(), Browser()

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        clock.advance(before)
        await other.visit(sign_in(), second)
        assert await user_of(other, second) == "ann"
        clock.advance(after)

    with pytest.raises(SessionGone, match="later sign-ins took its place"):
        await site.visit(act, first)
    assert [await user_of(site, one) for one in (first, second)] == [None, "ann"]
    assert len(await UserSessions(backend).list("ann")) == 1


async def test_a_sign_in_that_fails_because_of_a_conflict_leaves_no_session(clock: Clock) -> None:
    backend = StoreBackend(MemoryStore(), clock=clock)
    site, other = [Site(backend=backend, clock=clock, autoload=True, on_conflict="raise") for _ in range(2)]
    await site.visit(change)

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        session["n"] = 10
        await other.visit(change, Browser(dict(site.browser.cookies)))

    with pytest.raises(SessionConflict):
        await site.visit(act)
    assert await UserSessions(backend).list("ann") == []
    assert await site.data() == {"n": 2}


@pytest.mark.guarantee(21)
async def test_a_sign_in_that_fails_evicts_nothing(kind: Any, clock: Clock) -> None:
    events: list[Event] = []
    backend = kind(MemoryStore(), clock)
    site = Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=1, on_event=events.append)
    first = await signed_in(site)

    async def fails(session: Session) -> None:
        await users.sign_in(session, "ann")
        raise LookupError

    with pytest.raises(LookupError):
        await site.visit(fails, Browser())
    assert await user_of(site, first) == "ann"
    assert [event for event in events if isinstance(event, Revoked)] == []


class Late(OneByOne):
    """`meanwhile` is awaited once, before an entry is replaced. All else that is sent at that moment arrives before."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.meanwhile: Callable[[], Awaitable[Any]] | None = None
        self._replace, self.replace = store.replace, self._late

    async def _late(self, key: str, value: bytes, version: Any, **how: Any) -> Any:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        return await self._replace(key, value, version, **how)


async def test_a_sign_in_whose_write_is_late_looks_once_more_if_it_has_the_last_place(kind: Any, clock: Clock) -> None:
    """It has counted before the other one began, and that one was judged before this one was written."""
    store = Late(MemoryStore())
    backend = kind(store, clock)
    site = Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=1)
    store.meanwhile = lambda: signed_in(site)
    with suppress(SessionGone):  # it is the one that has to go
        await signed_in(site)
    assert len(await UserSessions(backend).list("ann")) == 1


async def test_an_eviction_that_the_store_prevents_is_made_up_for_by_the_next_sign_in(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Refuses(MemoryStore):
        fails = ""

        async def delete(self, key: str, version: Any = None, *, now: int) -> bool:
            self._fail("delete")
            return await super().delete(key, version, now=now)

        async def list_owned(self, name: str, **how: Any) -> Page:
            self._fail("list")
            return await super().list_owned(name, **how)

        async def count_owned(self, name: str, *, most: int, now: int) -> int:
            self._fail("count")
            return await super().count_owned(name, most=most, now=now)

        async def write_together(self, writes: Sequence[Write], **how: Any) -> Any:
            self._fail("delete" if isinstance(writes[0], Deletion) else "write")
            return await super().write_together(writes, **how)

        def _fail(self, verb: str) -> None:
            if self.fails == verb:
                raise BackendUnavailable("The store failed: ConnectionError.")

    for verb in ("delete", "list", "count"):
        store = Refuses()
        backend = StoreBackend(store, clock=clock)
        site = Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=1)
        browsers = [await signed_in(site)]

        async def act(session: Session, store: Refuses = store, verb: str = verb) -> None:
            await users.sign_in(session, "ann")
            store.fails = verb

        browsers.append(Browser())
        await site.visit(act, browsers[1])
        store.fails = ""
        assert [await user_of(site, one) for one in browsers] == ["ann", "ann"], verb
        browsers.append(await signed_in(site))
        assert [await user_of(site, one) for one in browsers] == [None, None, "ann"], verb
    assert "more sessions than max_sessions_per_user allows" in caplog.text


@rows("which", ["evicted", "unconfirmed"])
async def test_what_an_eviction_has_ended_before_the_store_failed_is_told_and_announced(
    clock: Clock, which: str
) -> None:
    class Fails(MemoryStore):
        answers = 1000
        announced: ClassVar[list[int]] = []

        async def delete(self, key: str, version: Any = None, *, now: int) -> bool:
            self.answers -= 1
            if self.answers < 0:
                raise BackendUnavailable("The store failed: ConnectionError.")
            return await super().delete(key, version, now=now)

        async def announce(self, topics: Sequence[str]) -> None:
            self.announced.append(len(topics))

    store, events = Fails(), list[Event]()
    backend = StoreBackend(store, clock=clock)
    most = 9 if which == "unconfirmed" else None
    before = Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=most)
    browsers = [await signed_in(before) for _ in range(4)]
    clock.advance(60)
    site = Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=1, on_event=events.append)
    store.answers = 2
    store.announced.clear()
    new = await signed_in(site)
    store.answers = 1000
    assert sum(isinstance(event, Revoked) for event in events) == 2
    assert store.announced == [2]
    assert [await user_of(before, one) for one in (*browsers, new)].count("ann") == 3


# Many sessions, and the limit of time


class Slow(Recorded):
    """A store that answers no call to delete any more after some of them."""

    answers = 1000

    async def delete(self, key: str, version: Any = None, *, now: int) -> bool:
        self.answers -= 1
        if self.answers < 0:
            await anyio.sleep_forever()
        return await super().delete(key, version, now=now)


@rows("others", [False, True])
async def test_at_the_limit_of_time_ending_all_says_how_many_have_ended(kind: Any, clock: Clock, others: bool) -> None:
    events: list[Event] = []
    store = Slow()
    backend = kind(store, clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend, on_event=events.append)
    mine = await signed_in(site)
    browsers = [await signed_in(site) for _ in range(4)]
    store.answers = 2

    async def act(session: Session) -> int:
        if others:
            return await sessions.revoke_others(session, timeout=0.2)
        return await sessions.revoke_all("ann", timeout=0.2)

    reply = await site.visit(act, mine)
    assert reply.messages[0]["status"] == 503
    assert len({event.handle for event in events if isinstance(event, Revoked)}) == 2

    store.answers = 1000
    assert await sessions.revoke_all("ann") == 3
    assert [await user_of(site, one) for one in (mine, *browsers)] == [None] * 5


async def test_the_error_at_the_limit_of_time_says_what_was_done(clock: Clock) -> None:
    store = Slow()
    backend = StoreBackend(store, clock=clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    for _ in range(3):
        await signed_in(site)
    store.answers = 1
    with pytest.raises(
        BackendUnavailable,
        match=r"^Only 1 of the user's sessions ended in 0\.001 seconds: the rest are refused at their next renewal; "
        r"call it again\.$",
    ):
        await sessions.revoke_all("ann", timeout=0.001)
    for timeout in (0, -1, True, "1"):
        with pytest.raises(ImproperlyConfigured, match="timeout must be more than 0 seconds"):
            await sessions.revoke_all("ann", timeout=timeout)  # type: ignore[arg-type]


async def test_more_sessions_than_a_page_holds_are_all_ended_and_counted(
    kind: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (users, limits):
        monkeypatch.setattr(module, "PAGE", 2)
    backend = kind(MemoryStore(), clock)
    few, many = [Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=most) for most in (2, None)]
    sessions = UserSessions(backend)
    browsers = []
    for _ in range(5):
        browsers.append(await signed_in(many))
        clock.advance(1)
    browsers.append(await signed_in(few))
    assert [await user_of(many, one) for one in browsers] == [None] * 4 + ["ann"] * 2
    for _ in range(3):
        await signed_in(many)
    assert await sessions.revoke_all("ann") == 5
    assert await sessions.list("ann") == []


class Busy(MemoryStore):
    """`then` is awaited once, after the first page of a longer list."""

    then: Callable[[], Awaitable[None]] | None = None

    async def list_owned(self, name: str, **how: Any) -> Page:
        page = await super().list_owned(name, **how)
        if page.after is not None:
            then, self.then = self.then, None
            if then is not None:
                await then()
        return page


class InOrder(StoreBackend):
    """Each new id comes before all others of its second in a list."""

    hashes_ids: ClassVar[bool] = False
    numbers = count(1000)

    async def generate_id(self) -> str:
        return str(next(self.numbers))


@rows("act", ["end one", "end others", "export"])
async def test_a_session_that_moves_up_a_long_list_while_it_is_read_is_not_missed(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    for module in (users, personal):
        monkeypatch.setattr(module, "PAGE", 2)
    store = Busy()
    backend = InOrder(store, clock=clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    browsers = {}
    for _ in range(6):  # within a second
        browser = await signed_in(site)
        browsers[(await site.visit(users.get_handle, browser)).result] = browser
    listed = await sessions.list("ann")
    first, last = listed[0].handle, listed[-1].handle
    busy = browsers[last]

    async def moves_up() -> None:
        await site.visit(Session.regenerate_id, busy)
        assert (await sessions.list("ann", limit=1))[0].handle == last

    store.then = moves_up
    if act == "end one":
        assert await sessions.revoke("ann", last)
    elif act == "end others":
        assert (await site.visit(sessions.revoke_others, browsers[first])).result == 5
    else:
        assert last in {one.handle for one in (await personal.export_user(backend, "ann")).sessions}
    assert store.then is None
    assert await user_of(site, busy) == ("ann" if act == "export" else None)


class Lengths(MemoryStore):
    """It says how long each page may be that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.limits: list[int] = []

    async def list_owned(self, name: str, *, limit: int, now: int, after: Any = None) -> Page:
        self.limits.append(limit)
        return await super().list_owned(name, limit=limit, now=now, after=after)


@rows(
    ("act", "expected"),
    [
        ("end all", [4] * 6),
        ("end one", [4, 4, 8, 16, 4, 4]),
        ("export", [4, 4, 8, 16, 4, 4]),
    ],
)
async def test_pages_get_longer_only_for_a_second_that_does_not_fit_on_one(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, act: str, expected: list[int]
) -> None:
    for module in (users, personal):
        monkeypatch.setattr(module, "PAGE", 4)
    store = Lengths()
    backend = StoreBackend(store, clock=clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    for _ in range(9):
        await signed_in(site)
        clock.advance(1)
    for _ in range(11):  # the newest, of one second
        await signed_in(site)
    store.limits.clear()
    if act == "end all":
        assert await sessions.revoke_all("ann") == 20
    elif act == "end one":
        assert not await sessions.revoke("ann", "none")
    else:
        assert len((await personal.export_user(backend, "ann")).sessions) == 20
    assert store.limits == expected


class Timed(Recorded):
    """It says by when each list must be there."""

    def __init__(self) -> None:
        super().__init__()
        self.deadlines: list[float] = []

    async def list_owned(self, name: str, **how: Any) -> Any:
        self.deadlines.append(anyio.current_effective_deadline())
        return await super().list_owned(name, **how)


@pytest.mark.both_loops
async def test_sessions_are_told_of_page_by_page_and_who_is_told_has_no_limit_of_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million of them would need much memory, and the history of sign-ins has no place for so many."""
    monkeypatch.setattr(users, "PAGE", 2)
    store, told, deadlines, counts = Timed(), list[int](), list[float](), list[int]()
    backend = StoreBackend(store, clock=clock)
    site = Site(backend=backend, clock=clock, autoload=True)

    async def on_event(event: Event) -> None:
        told.append(store.calls.count("list"))
        deadlines.append(anyio.current_effective_deadline())

    for _ in range(5):
        await signed_in(site)
    store.calls.clear()
    sessions = UserSessions(backend, on_event=on_event)
    assert await sessions.revoke_all("ann", on_page=counts.append) == 5
    assert (told, counts) == ([1, 1, 2, 2, 3], [2, 4, 5])
    assert deadlines == [inf] * 5
    assert len(store.deadlines) == 4
    assert all(anyio.current_time() < deadline < inf for deadline in store.deadlines)


@pytest.mark.both_loops
async def test_what_has_ended_is_told_of_also_if_the_limit_of_time_is_reached_while_it_is_announced(
    kind: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing interrupts an announcement, so the limit is noticed later, and then it must not interrupt `on_event`."""
    backend, told, scopes = kind(MemoryStore(), clock), list[Event](), list[anyio.CancelScope]()
    for _ in range(3):
        await signed_in(Site(backend=backend, clock=clock))
    [bound] = backend._copies().values()
    begin_scope, announce = anyio.CancelScope, bound.user_index.announce

    def noted_scope(**how: Any) -> anyio.CancelScope:
        scopes.append(begin_scope(**how))
        return scopes[-1]

    async def announce_until_the_limit(*topics: str) -> None:
        await announce(*topics)
        if len(topics) == 3:
            scopes[0].deadline = anyio.current_time() - 1

    async def on_event(event: Event) -> None:
        await checkpoint()
        told.append(event)

    sessions = UserSessions(backend, on_event=on_event)
    monkeypatch.setattr(anyio, "CancelScope", noted_scope)
    monkeypatch.setattr(bound.user_index, "announce", announce_until_the_limit)
    with pytest.raises(BackendUnavailable, match=r"^Only 3 of the user's sessions ended in 30 seconds: "):
        await sessions.revoke_all("ann")
    assert len(told) == 3


async def test_a_session_that_an_interrupted_rotation_has_left_twice_is_told_of_once(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "PAGE", 1)
    backend, events = StoreBackend(MemoryStore(), clock=clock), list[Event]()
    await signed_in(Site(backend=backend, clock=clock))
    [bound] = backend._copies().values()
    [one] = (await bound.user_index.page("ann", 9, 0))[0]
    assert one.record is not None
    await bound.user_index.create("!first", one.record, int(clock()) + 60, int(clock()))
    assert await UserSessions(backend, on_event=events.append).revoke_all("ann") == len(events) == 1


async def test_what_has_expired_or_cannot_be_read_is_not_one_of_the_maximum(clock: Clock) -> None:
    store = MemoryStore()
    first = Site(backend=StoreBackend(store, encrypt_with="1" * 32, clock=clock), clock=clock, autoload=True)
    await signed_in(first)  # with a key that is not in use any more
    backend = StoreBackend(store, encrypt_with=KEY, clock=clock)
    long = Site(backend=backend, clock=clock, autoload=True, max_age=1000)
    await signed_in(long)
    clock.advance(100)
    events: list[Event] = []
    short = Site(
        backend=StoreBackend(store, encrypt_with=KEY, clock=clock),
        clock=clock,
        autoload=True,
        max_age=50,
        max_sessions_per_user=1,
        on_event=events.append,
    )
    browser = await signed_in(short)
    assert [event for event in events if isinstance(event, Revoked)] == []
    assert await user_of(short, browser) == "ann"


async def test_two_requests_that_extend_a_revocable_cookie_at_once_both_keep_it(clock: Clock) -> None:
    backend = CookieBackend(KEY, revocations=MemoryStore(), clock=clock)
    site, other = [Site(backend=backend, clock=clock, autoload=True) for _ in range(2)]
    await site.visit(sign_in())

    async def act(session: Session) -> None:
        await session.load()
        await other.visit(extend, Browser(dict(site.browser.cookies)))
        extend_now(session)

    def extend_now(session: Session) -> None:
        set_expiry(session, 200 * 24 * 60 * 60)

    await site.visit(act)
    clock.advance(150 * 24 * 60 * 60)
    assert await user_of(site, site.browser) == "ann"


class Repeats(StoreBackend):
    async def generate_id(self) -> str:
        return "always-the-same"


async def test_a_new_id_that_is_in_use_is_refused_although_the_application_chose_the_first(clock: Clock) -> None:
    backend = Repeats(MemoryStore(), clock=clock)
    await backend.write({"a": 1})
    session = Session(backend, "chosen")
    await session.load()
    session["b"] = 2
    await session.regenerate_id()
    with pytest.raises(SessionError, match="returned an id that is in use"):
        await session.persist()
    assert await backend.read("always-the-same") == {"a": 1}


async def test_an_id_that_is_in_use_is_refused_by_the_sign_in(clock: Clock) -> None:
    site = Site(backend=Repeats(MemoryStore(), clock=clock), clock=clock, autoload=True)
    await site.visit(change, Browser())
    with pytest.raises(SessionError, match="returned an id that is in use"):
        await site.visit(sign_in(), Browser())


@rows("at_once", [False, True])
async def test_a_new_id_whose_write_was_lost_is_not_called_in_use(clock: Clock, at_once: bool) -> None:
    class Loses(MemoryStore):
        loses = False

        async def create(self, key: str, value: bytes, **how: Any) -> Any:
            return self._answer(await super().create(key, value, **how))

        async def write_together(self, writes: Sequence[Write], **how: Any) -> Any:
            return self._answer(await super().write_together(writes, **how))

        def _answer(self, written: Any) -> Any:
            if self.loses:
                self.loses = False
                raise BackendUnavailable("The store failed: ConnectionError.")
            return written

    class LosesOneByOne(Loses):
        write_together: Any = None

    store = (Loses if at_once else LosesOneByOne)()
    site = Site(backend=StoreBackend(store, clock=clock), clock=clock, autoload=True)
    await site.visit(change)

    async def act(session: Session) -> None:
        await session.regenerate_id()
        store.loses = True
        with pytest.raises(BackendUnavailable):
            await session.persist()
        with pytest.raises(BackendUnavailable, match="send the request again"):
            await session.persist()

    with suppress(BackendUnavailable):
        await site.visit(act)


async def test_a_page_of_a_list_costs_a_page(kind: Any, clock: Clock) -> None:
    store = Recorded()
    backend = kind(store, clock)
    site = Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=None)
    for n in range(25):
        clock.advance(n % 3)
        await signed_in(site)
    sessions, seen, sizes, after = UserSessions(backend), [], [], None
    every = [one.handle for one in await sessions.list("ann")]
    store.calls.clear()
    while True:
        page = await sessions.list("ann", limit=10, after=after)
        seen += [one.handle for one in page]
        sizes.append(len(page))
        after = page.after
        if after is None:
            break
    assert (seen, sizes) == (every, [10, 10, 5])
    assert len(every) == len(set(every)) == 25
    assert store.calls == ["list"] * len(store.calls)
    assert len(store.calls) <= 5


async def test_more_sessions_of_one_second_than_a_page_has_are_all_listed(kind: Any, clock: Clock) -> None:
    backend = kind(MemoryStore(), clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    for _ in range(7):
        await signed_in(site)
    every, seen, after = await sessions.list("ann"), [], None
    for _ in range(4):
        page = await sessions.list("ann", limit=2, after=after)
        seen += [one.handle for one in page]
        after = page.after
    assert (seen, after) == ([one.handle for one in every], None)


async def test_a_page_begins_where_the_one_before_ended_though_its_last_session_has_ended(
    kind: Any, clock: Clock
) -> None:
    backend = kind(MemoryStore(), clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    for _ in range(6):
        await signed_in(site)
        clock.advance(1)
    every = [one.handle for one in await sessions.list("ann")]
    page = await sessions.list("ann", limit=3)
    await sessions.revoke("ann", every[2])
    assert [one.handle for one in await sessions.list("ann", limit=3, after=page.after)] == every[3:]


@rows("after", ["", "x", "1", "-1.x", "²3.x", "9" * 400, "1.", ".", "253402300799.x"])
async def test_a_place_on_a_list_that_no_page_has_named_is_no_error(kind: Any, clock: Clock, after: str) -> None:
    backend = kind(MemoryStore(), clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    await signed_in(site)
    assert len(await sessions.list("ann", limit=1, after=after)) <= 1
    with pytest.raises(ValueError, match="limit of 1 or more"):
        await sessions.list("ann", limit=0)


# What a sign-in and an end cost


async def test_a_sign_in_is_two_writes_and_the_second_is_for_the_session_before_as_well(clock: Clock) -> None:
    """A write, both epochs and the count are sent together, where calls wait: then that is one round trip."""
    store, browser = Recorded(), Browser()
    site = Site(backend=StoreBackend(store, clock=clock), clock=clock, max_sessions_per_user=100)
    together = ["get", "get", "count"]
    await site.visit(sign_in(), browser)
    assert store.calls == ["create", *together, "replace", *together]
    store.calls.clear()
    await site.visit(sign_in(), browser)
    assert store.calls == ["get", "create", *together, "replace and create and replace", *together]
    store.calls.clear()
    await site.visit(users.sign_out, browser)
    assert store.calls == ["get", "delete"]


class Far:
    """A store at the end of a line: the calls that are under way at the same time are one round trip."""

    def __init__(self) -> None:
        self._store = MemoryStore()
        self._under_way = 0
        self.trips = 0

    async def _send(self, work: Awaitable[Any]) -> Any:
        if not self._under_way:
            self.trips += 1
        self._under_way += 1
        try:
            await checkpoint()
            return await work
        finally:
            self._under_way -= 1

    async def get(self, key: str, *, now: int) -> Any:
        return await self._send(self._store.get(key, now=now))

    async def create(self, key: str, value: bytes, *, owner: Owner | None = None, **how: Any) -> Any:
        return await self._send(self._store.create(key, value, owner=owner, **how))

    async def replace(self, key: str, value: bytes, version: Any, **how: Any) -> Any:
        return await self._send(self._store.replace(key, value, version, **how))

    async def delete(self, key: str, version: Any = None, *, now: int) -> Any:
        return await self._send(self._store.delete(key, version, now=now))

    async def list_owned(self, name: str, **how: Any) -> Any:
        return await self._send(self._store.list_owned(name, **how))

    async def count_owned(self, name: str, *, most: int, now: int) -> Any:
        return await self._send(self._store.count_owned(name, most=most, now=now))


class FarBatching(Far):
    """The same, of a store that carries out several writes at once."""

    async def write_together(self, writes: Sequence[Write], **how: Any) -> Any:
        return await self._send(self._store.write_together(writes, **how))


class FarJoining(Far):
    """The same, of a store that reads an entry with that of its owner."""

    async def get_joined(self, key: str, other: str, *, now: int) -> Any:
        return await self._send(self._store.get_joined(key, other, now=now))


@rows(("store", "rotation", "again"), [(Far, 4, 4), (FarBatching, 2, 3)])
async def test_what_can_be_sent_together_is_one_round_trip(
    clock: Clock, store: type[Far], rotation: int, again: int
) -> None:
    await count_trips(store(), clock, rotation, again)


async def count_trips(store: Far, clock: Clock, rotation: int, again: int) -> None:
    browser = Browser()
    backend = StoreBackend(store, clock=clock)
    site = Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=3)
    sessions = UserSessions(backend)

    async def trips(act: Any, browser: Browser) -> int:
        before = store.trips
        await site.visit(act, browser)
        return store.trips - before

    assert await trips(sign_in(), browser) == 2
    assert await trips(change, browser) == 2  # the load, and the write with the epoch
    assert await trips(Session.regenerate_id, browser) == rotation
    assert await trips(sign_in(), browser) == again
    assert await trips(users.sign_out, browser) == 2
    for _ in range(3):
        await signed_in(site)
    handle = (await sessions.list("ann"))[1].handle
    before = store.trips
    await sessions.revoke("ann", handle)
    assert store.trips - before == 2
    await sessions.revoke_all("ann")
    assert store.trips - before == 2 + 5  # twice for the epoch, and a list before and after one for all


async def test_a_conflict_in_what_was_sent_together_is_merged(clock: Clock) -> None:
    backend = StoreBackend(Far(), clock=clock)
    site, other = [Site(backend=backend, clock=clock, autoload=True) for _ in range(2)]
    await site.visit(sign_in())

    async def act(session: Session) -> None:
        await other.visit(change, Browser(dict(site.browser.cookies)))
        session["m"] = 1

    await site.visit(act)
    assert await site.data() == {"n": 1, "m": 1}


async def test_ending_one_of_many_is_one_list_and_one_write(clock: Clock) -> None:
    store = Recorded()
    backend = StoreBackend(store, clock=clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    for _ in range(5):
        await signed_in(site)
    handle = (await sessions.list("ann"))[2].handle
    store.calls.clear()
    assert await sessions.revoke("ann", handle) is True
    assert store.calls == ["list", "delete"]
    store.calls.clear()
    assert await sessions.revoke_all("ann") == 4
    assert store.calls == ["get", "create", "list", *["delete"] * 4, "list"]


# The stamp


@pytest.mark.requirement("ASVS 7.4.3")
@rows("backend", ["signed without a list", *KINDS])
async def test_a_session_with_an_old_stamp_ends(clock: Clock, backend: str) -> None:
    kinds = KINDS | {"signed without a list": lambda _, clock: CookieBackend(KEY, allow_unrevocable=True, clock=clock)}
    site = Site(backend=kinds[backend](MemoryStore(), clock), clock=clock, autoload=True)
    first, second, bare = Browser(), Browser(), Browser()
    for browser, stamp in ((first, "the old hash"), (second, "the new hash"), (bare, "")):
        await site.visit(sign_in(stamp=stamp), browser)

    async def check(session: Session) -> bool:
        return await users.check_stamp(session, "the new hash")

    replies = [await site.visit(check, one) for one in (first, second, bare, Browser())]
    assert [reply.result for reply in replies] == [False, True, False, False]
    assert [await user_of(site, one) for one in (first, second, bare)] == [None, "ann", None]


async def identity_in(session: Session) -> Any:
    await session.load()
    return session.__starsessions__.user


async def test_a_stamp_is_not_in_the_cookie_and_that_of_another_user_does_not_fit(clock: Clock) -> None:
    site = Site(backend=CookieBackend(KEY, allow_unrevocable=True, clock=clock), clock=clock, autoload=True)
    seen = []
    for user in ("ann", "bob"):
        browser = Browser()
        await site.visit(sign_in(user, stamp="a hash of a password"), browser)
        identity = (await site.visit(identity_in, browser)).result
        assert "hash" not in identity.stamp
        seen.append(identity.stamp)
    assert len({*seen}) == 2

    async def check_nothing(session: Session) -> bool:
        return await users.check_stamp(session, "")

    assert (await site.visit(check_nothing, browser)).result is False  # a user without a password has no stamp


async def test_a_lowered_maximum_ends_the_rest_of_many_sessions_with_few_announcements(clock: Clock) -> None:
    """Each is a transaction in PostgreSQL, and the user waits for all of them."""

    class Announced(MemoryStore):
        announced: ClassVar[list[int]] = []

        async def announce(self, topics: Sequence[str]) -> None:
            self.announced.append(len(topics))

    backend = StoreBackend(Announced(), clock=clock)
    before = Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=None)
    for _ in range(121):
        await before.visit(sign_in(), Browser())
    Announced.announced.clear()
    await Site(backend=backend, clock=clock, autoload=True, max_sessions_per_user=2).visit(sign_in(), Browser())
    assert Announced.announced == [50, 50, 20]
