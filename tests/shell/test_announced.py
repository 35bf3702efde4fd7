"""Sessions that are watched end when their end is announced, without a look between: on asyncio and trio."""

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from starsessions import BackendUnavailable, Session, SessionBackend, users, watch
from starsessions.backends import bus as buses
from starsessions.backends.announcements import Announcements, announcements_of
from starsessions.backends.bus import BEAT, Bus, running_loop
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import UserIndex
from starsessions.stores import Announcing, Conflict, MemoryStore, Store, announce
from starsessions.stores.base import Replacement, Version
from starsessions.users import UserSessions
from starsessions.watch import _MAX_FAILURES, _OFTEN, _SELDOM
from tests.kinds import each_backend
from tests.rows import rows
from tests.shell.people import each_listing, sign_in
from tests.shell.test_watch import Ticks
from tests.site import Browser, Clock, Site
from tests.site import settled as turns

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]


async def settled() -> None:
    """Wait until nothing happens any more, what was called from other threads included."""
    for _ in range(3):
        await turns()


class Line(MemoryStore):
    """A store whose subscriptions a test can count, cut and deafen. It writes step by step, and then announces."""

    write_together: Any = None

    def __init__(self, *, reaches_all: bool = True) -> None:
        super().__init__()
        self.announced: list[Sequence[str]] = []
        self.opened = self.subscribed = self.looks = 0
        self.fails: Exception | None = None
        self.is_deaf = False
        self.cuts: list[anyio.CancelScope] = []
        self._reaches_all = reaches_all

    @property
    def reaches_all(self) -> bool:
        return self._reaches_all

    async def get(self, key: str, *, now: int) -> Any:
        self.looks += 1
        return await super().get(key, now=now)

    async def announce(self, topics: Sequence[str]) -> None:
        self.announced.append(topics)
        if self.fails:
            raise self.fails
        if not self.is_deaf:
            await super().announce(topics)

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[AsyncIterator[Sequence[str]]]:
        self.opened += 1
        if self.fails:
            raise self.fails
        self.subscribed += 1
        try:
            async with super().listen() as announced:
                yield self._until_cut(announced)
        finally:
            self.subscribed -= 1

    async def _until_cut(self, announced: AsyncIterator[Sequence[str]]) -> AsyncIterator[Sequence[str]]:
        while True:
            topics: Sequence[str] = ()
            with anyio.CancelScope() as cut:
                self.cuts = [cut]
                topics = await anext(announced)
            if cut.cancelled_caught:
                return
            yield topics

    def listen(self) -> AbstractAsyncContextManager[AsyncIterator[Sequence[str]]]:
        return self._listen()

    def cut(self) -> None:
        for one in self.cuts:
            one.cancel()


class Hand:
    """A sleep that ends when the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._sleeping: list[anyio.Event] = []

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        over = anyio.Event()
        self._sleeping.append(over)
        await over.wait()

    async def wake(self) -> None:
        sleeping, self._sleeping = self._sleeping, []
        for over in sleeping:
            over.set()
        await settled()


class Pauses:
    """Waits only for what happens, and notes for how long it would have waited at most."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def __call__(self, something: Callable[[], Awaitable[None]], limit: float) -> None:
        self.asked.append(limit)
        await something()


class Streams:
    """Some streams that watch the session of one browser, and what became of them."""

    def __init__(self, site: Site, browser: Browser, tasks: Any, count: int = 1, **how: Any) -> None:
        self.log: list[bool] = []
        self.waits = Pauses()
        self.open = 0
        self.sessions: list[Session] = []
        for _ in range(count):
            tasks.start_soon(self._stream, site, browser, {"wait": self.waits, **how})

    async def _stream(self, site: Site, browser: Browser, how: Any) -> None:
        async def act(session: Session) -> None:
            self.sessions.append(session)
            async with watch.move_on_when_ended(session, **how) as scope:
                self.open += 1
                try:
                    await anyio.sleep_forever()
                finally:
                    self.open -= 1
            self.log.append(scope.cancelled_caught)

        await another(site).visit(act, Browser(dict(browser.cookies)))


def another(site: Site) -> Site:
    """The same site and browser, for a request at the same time."""
    made = Site(backend=site.app.config.backend, autoload=True)
    made.app.config = site.app.config
    made.browser = Browser(dict(site.browser.cookies))
    return made


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
async def site(line: Line, hand: Hand, clock: Clock) -> Site:
    """A site whose browser has signed in, on a store whose subscription is in the test's hand."""
    made = Site(backend=StoreBackend(line, clock=clock), clock=clock, autoload=True)
    by_hand(made, line, hand)
    await made.visit(sign_in())
    return made


def by_hand(site: Site, store: Announcing, sleep: Hand) -> Bus:
    told = site.app.config.backend.announcements
    assert told is not None
    bus = told._buses[running_loop()] = Bus(store, told._notices, sleep)
    return bus


@asynccontextmanager
async def streams(site: Site, count: int = 1, **how: Any) -> AsyncIterator[Streams]:
    """Streams that are open and heard, and are cancelled at the end."""
    async with anyio.create_task_group() as tasks:
        opened = Streams(site, site.browser, tasks, count, **how)
        await settled()
        yield opened
        tasks.cancel_scope.cancel()


async def end_all(site: Site) -> None:
    await UserSessions(site.app.config.backend).revoke_all("ann")


async def end_this(site: Site) -> None:
    sessions = UserSessions(site.app.config.backend)
    [only] = await sessions.list("ann")
    assert await sessions.revoke("ann", only.handle)


async def end_others(site: Site) -> None:
    elsewhere = another(site)
    elsewhere.browser = Browser()

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        await session.persist()
        await UserSessions(site.app.config.backend).revoke_others(session)

    await elsewhere.visit(act)


async def evict(site: Site) -> None:
    for _ in range(2):
        await another(site).visit(sign_in(), Browser())


async def sign_out(site: Site) -> None:
    await site.visit(users.sign_out)


async def sign_in_again(site: Site) -> None:
    await site.visit(sign_in())


# The end


@pytest.mark.guarantee(21)
@pytest.mark.parametrize("end", [end_all, sign_out, sign_in_again])
async def test_a_stream_ends_as_soon_as_the_end_of_its_session_is_announced(
    site: Site, end: Callable[[Site], Awaitable[None]]
) -> None:
    async with streams(site) as opened:
        assert opened.log == []
        await end(site)
        await settled()
        assert opened.log == [True]


@pytest.mark.guarantee(21)
@pytest.mark.parametrize("end", [end_all, end_this, end_others, sign_out, sign_in_again, evict])
@each_listing
async def test_each_end_of_a_session_is_announced_by_each_backend_that_can_revoke(
    site_of: Callable[..., Site], listing: SessionBackend, end: Callable[[Site], Awaitable[None]]
) -> None:
    site = site_of(backend=listing, max_sessions_per_user=2)
    await site.visit(sign_in())
    async with streams(site, 3) as opened:
        assert opened.log == []
        await end(site)
        await settled()
        assert opened.log == [True] * 3


async def test_streams_of_a_session_that_the_store_has_lost_from_its_listing_end_with_all_others(
    site: Site, line: Line
) -> None:
    for part in line._owned:
        part.clear()
    async with streams(site) as opened:
        await end_all(site)
        await settled()
        assert opened.log == [True]
        assert [dict(session) for session in opened.sessions] == [{}]
    log: list[bool] = []

    async def look(session: Session) -> None:
        log.append(await watch.revalidate(session))

    await site.visit(look)
    assert log == [False]


async def test_to_end_many_sessions_takes_a_message_for_fifty(site: Site, line: Line) -> None:
    for _ in range(69):
        await site.visit(sign_in(), Browser())
    line.announced.clear()
    await end_all(site)
    assert [len(topics) for topics in line.announced] == [1, 50, 20]


async def test_it_follows_a_session_to_its_next_id(site: Site) -> None:
    async with streams(site) as opened:
        await site.visit(Session.regenerate_id)
        await settled()
        await site.visit(Session.regenerate_id)
        await settled()
        assert opened.log == []
        await sign_out(site)
        await settled()
        assert opened.log == [True]


async def test_the_end_of_another_session_costs_it_no_look(site: Site, line: Line) -> None:
    other = Browser()
    await site.visit(sign_in("bob"), other)
    async with streams(site):
        before = line.looks
        await site.visit(users.sign_out, other)
        ended = line.looks
        await settled()
        assert (line.looks, ended > before) == (ended, True)


async def test_work_that_goes_on_after_its_response_ends_with_the_session_and_can_change_it(site: Site) -> None:
    log: list[object] = []

    async def work(session: Session) -> None:
        async with watch.move_on_when_ended(session, wait=Pauses()) as scope:
            await session.persist()
            session["steps"] = 1
            await session.persist()
            log.append("working")
            await anyio.sleep_forever()
        log.append(scope.cancelled_caught)

    async with anyio.create_task_group() as tasks:

        def begin(session: Session) -> None:
            tasks.start_soon(work, session)

        await site.visit(begin)
        await settled()
        assert log == ["working"]
        assert await site.data() == {"steps": 1}
        await sign_out(site)
        await settled()
        assert log == ["working", True]


async def test_an_end_between_loading_and_listening_is_noticed(site: Site) -> None:
    async with streams(site):  # so that there is a subscription, which will not begin for the next one
        elsewhere, log = another(site), []

        async def act(session: Session) -> None:
            await sign_out(elsewhere)
            async with watch.move_on_when_ended(session, wait=Pauses()) as scope:
                await anyio.sleep_forever()
            log.append(scope.cancelled_caught)

        await site.visit(act)
        assert log == [True]


async def test_a_visitor_without_a_session_is_looked_at_when_it_is_time_and_not_before(site: Site) -> None:
    stranger = another(site)
    stranger.browser = Browser()
    async with streams(stranger) as strangers, streams(site) as opened:
        assert (strangers.open, strangers.waits.asked) == (1, [_OFTEN])
        assert (opened.open, opened.waits.asked) == (1, [_SELDOM, _SELDOM])


# The subscription


async def test_a_thousand_streams_share_one_subscription(site: Site, line: Line) -> None:
    async with streams(site, 1000) as opened:
        assert (opened.open, line.opened, line.subscribed) == (1000, 1, 1)
        await sign_out(site)
        await settled()
        assert (opened.open, opened.log, line.opened) == (0, [True] * 1000, 1)


async def test_two_backends_on_one_store_share_one_subscription(line: Line) -> None:
    assert announcements_of(line) is announcements_of(line) is StoreBackend(line).announcements


async def test_an_idle_stream_does_not_look(site: Site, line: Line, hand: Hand) -> None:
    async with streams(site, 10) as opened:
        before = line.looks
        for _ in range(20):
            await hand.wake()
        assert (line.looks, opened.open) == (before, 10)


async def test_a_subscription_ends_when_no_one_listens_and_begins_again(site: Site, line: Line, hand: Hand) -> None:
    for n in range(1, 4):
        async with streams(site):
            assert (line.opened, line.subscribed) == (n, 1)
        for _ in range(3):
            await hand.wake()
        assert line.subscribed == 0


async def test_one_that_comes_soon_after_the_last_has_left_finds_the_subscription(site: Site, line: Line) -> None:
    for _ in range(5):
        async with streams(site):
            assert (line.opened, line.subscribed) == (1, 1)


async def test_after_a_loss_it_subscribes_again_and_everyone_looks_once(site: Site, line: Line, hand: Hand) -> None:
    async with streams(site, 10) as opened:
        for n in range(2, 32):  # a look reads the session and the epoch of the user
            line.cut()
            await settled()
            before = line.looks
            await hand.wake()
            assert (line.opened, line.subscribed, line.looks - before, opened.open) == (n, 1, 30, 10)
        line.cut()
        await settled()
        await sign_out(site)
        await settled()
        assert opened.open == 10, "there was no subscription"
        await hand.wake()
        assert opened.open == 0


async def test_the_pauses_between_attempts_grow_to_ten_seconds_and_begin_anew(
    site: Site, line: Line, hand: Hand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    monkeypatch.setattr(buses.anyio, "current_time", lambda: now[0])
    monkeypatch.setattr(buses, "random", lambda: 1.0)
    line.fails = BackendUnavailable("The store failed: ConnectionError.")
    with caplog.at_level(logging.WARNING, "starsessions"):
        async with streams(site):
            for _ in range(9):
                await hand.wake()
            assert hand.asked == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10]
            line.fails = None
            await hand.wake()
            now[0] = 100
            hand.asked.clear()
            line.cut()
            await settled()
            assert hand.asked == [0.1]
    [record] = caplog.records
    assert "tried again: The store failed: ConnectionError. Meanwhile" in record.getMessage()


async def test_a_line_that_is_dead_in_silence_is_noticed(
    site: Site, line: Line, hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    async with streams(site) as opened:
        line.is_deaf = True
        await sign_out(site)
        for _ in range(3):  # the wait for the first beat, the time between two, the wait for the second
            await settled()
            assert opened.open == 1
            await hand.wake()
        assert line.subscribed == 0
        assert "connection pooler" in caplog.text
        line.is_deaf = False
        await hand.wake()
        assert (line.opened, opened.log) == (2, [True])


async def test_one_process_beats_for_all(site: Site, line: Line, hand: Hand, clock: Clock) -> None:
    async with streams(site):
        assert line.announced.count([BEAT]) == 1
        for _ in range(10):
            await hand.wake()
            await line.announce(["something"])
            await settled()
        assert line.announced.count([BEAT]) == 1
        for _ in range(10):
            await hand.wake()
        assert line.announced.count([BEAT]) > 3


async def test_a_subscription_that_is_closed_leaves_nothing_and_can_begin_again(site: Site, line: Line) -> None:
    told = site.app.config.backend.announcements
    assert told is not None
    async with streams(site):
        await told.aclose()
        assert line.subscribed == 0
        await told.aclose()
    async with streams(site):
        assert line.subscribed == 1
    await told.aclose()
    await Announcements(line).aclose()


async def test_the_end_of_the_application_ends_the_subscription(site: Site, line: Line) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        async with streams(site):
            assert line.subscribed == 1
        await send({"type": "lifespan.shutdown.complete"})

    said: list[tuple[str, int]] = []

    async def send(message: Any) -> None:
        said.append((message["type"], line.subscribed))

    whole = another(site).app
    whole.app = app
    await whole({"type": "lifespan"}, None, send)  # type: ignore[arg-type]
    assert said == [("lifespan.startup.complete", 0), ("lifespan.shutdown.complete", 0)]


# How often it looks


async def test_it_looks_seldom_only_where_all_ends_are_announced(clock: Clock) -> None:
    for reaches_all, expected in ((True, _SELDOM), (False, _OFTEN)):
        line, hand = Line(reaches_all=reaches_all), Hand()
        site = Site(backend=StoreBackend(line, clock=clock), clock=clock, autoload=True)
        by_hand(site, line, hand)
        await site.visit(sign_in())
        async with streams(site) as opened:
            assert opened.waits.asked[-1] == expected
        async with streams(site, check_every=7) as opened:
            assert {*opened.waits.asked} == {7}


async def test_it_looks_often_while_the_subscription_is_lost(site: Site, line: Line, hand: Hand) -> None:
    async with streams(site) as opened:
        assert opened.waits.asked[-1] == _SELDOM
        before = line.looks
        line.cut()
        await settled()
        assert (opened.waits.asked[-1], line.looks) == (_OFTEN, before)
        await hand.wake()
        assert opened.waits.asked[-1] == _SELDOM


async def test_it_looks_when_the_session_expires(site: Site, clock: Clock) -> None:
    clock.advance(14 * 86400 - 20)
    async with streams(site) as opened:
        assert opened.waits.asked[-1] == 20
    clock.advance(19.5)
    async with streams(site) as opened:
        assert opened.waits.asked[-1] == 1


@pytest.mark.parametrize(
    ("check_every", "usually", "after_a_failure"), [(None, _SELDOM, _OFTEN), (7, 7, 7), (3600, 3600, _OFTEN)]
)
async def test_after_a_failure_of_the_store_it_looks_often(
    site: Site, line: Line, check_every: float | None, usually: float, after_a_failure: float
) -> None:
    """What it was told may be the end of the session, and is not told again."""
    async with streams(site, check_every=check_every) as opened:
        usual, line.get = line.get, failing  # type: ignore[method-assign]
        for _ in range(_MAX_FAILURES - 1):
            await have_look(site, opened)
            assert (opened.waits.asked[-1], opened.open) == (after_a_failure, 1)
        line.get = usual  # type: ignore[method-assign]
        await have_look(site, opened)
        assert opened.waits.asked[-1] == usually


@pytest.mark.parametrize(("check_every", "failures"), [(None, _MAX_FAILURES), (7, _MAX_FAILURES), (20, 5)])
async def test_looks_that_are_repeated_early_end_a_stream_no_sooner(
    site: Site, line: Line, check_every: float | None, failures: int
) -> None:
    """Three looks that fail end it. One that comes after half the time counts for half of one."""
    async with streams(site, check_every=check_every) as opened:
        line.get = failing  # type: ignore[method-assign]
        for _ in range(failures - 1):
            await have_look(site, opened)
            assert opened.open == 1
        await have_look(site, opened)
        assert opened.open == 0


async def have_look(site: Site, opened: Streams) -> None:
    found = opened.sessions[0].__starsessions__.found
    assert found is not None
    backend = site.app.config.backend
    assert backend.announcements is not None
    await backend.announcements.announce(backend.topics_of(found))
    await settled()


async def failing(*_: Any, **__: Any) -> Any:
    raise BackendUnavailable("The store failed: ConnectionError.")


# To announce


async def test_an_announcement_that_fails_is_logged_once_and_fails_no_request(
    site: Site, line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.fails = BackendUnavailable("The store failed: ConnectionError.")
    with caplog.at_level(logging.WARNING, "starsessions"):
        for _ in range(3):
            await site.visit(sign_in())
            assert (await site.visit(users.sign_out)).messages[0]["status"] == 200
    [record] = caplog.records
    assert "was not announced: The store failed: ConnectionError. It has ended" in record.getMessage()


@pytest.mark.guarantee(21)
@rows("why", ["the store fails", "the client leaves"])
async def test_what_has_ended_before_an_interruption_is_announced(
    site: Site, line: Line, clock: Clock, why: str
) -> None:
    class Ends(Line):
        answers = 1000

        async def delete(self, key: str, version: Any = None, *, now: int) -> bool:
            self.answers -= 1
            if self.answers < 0 and why == "the store fails":
                raise BackendUnavailable("The store failed: ConnectionError.")
            if self.answers < 0:
                client.cancel()
                await anyio.lowlevel.checkpoint()
            return await super().delete(key, version, now=now)

        async def announce(self, topics: Sequence[str]) -> None:
            await anyio.lowlevel.checkpoint()
            await super().announce(topics)

    line.__class__ = Ends
    for _ in range(2):
        await site.visit(sign_in(), Browser())
    clock.advance(1)  # so that the next is the first on the list
    await site.visit(sign_in())

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        await session.persist()
        line.answers = 1  # type: ignore[attr-defined]
        await UserSessions(site.app.config.backend).revoke_others(session)

    async with streams(site) as opened:
        with anyio.CancelScope() as client:
            reply = await another(site).visit(act, Browser())
            assert (why, reply.messages[0]["status"]) == ("the store fails", 503)
        await settled()
        assert opened.log == [True]


CHANGES: dict[str, Callable[[UserIndex, Version], Awaitable[object]]] = {
    "an end": lambda index, version: index.end("key", version),
    "an end of what is unchanged": lambda index, version: index.end_unchanged("key", version, 1),
    "a pointer": lambda index, version: index.put_pointer(Replacement("key", b"", version, 9, None), 1),
}


@rows("change", CHANGES)
@rows("when", ["while it is written", "once it is written"])
async def test_a_change_that_was_carried_out_is_announced_though_the_client_has_left(
    clock: Clock, change: str, when: str
) -> None:
    """A store finishes a write that it has begun, and only then is it cancelled."""

    class Leaves(Line):
        async def replace(self, *what: Any, **how: Any) -> Any:
            return await self._left(await super().replace(*what, **how))

        async def delete(self, *what: Any, **how: Any) -> Any:
            return await self._left(await super().delete(*what, **how))

        async def _left(self, result: Any) -> Any:
            client.cancel()
            if when == "while it is written":
                await anyio.lowlevel.checkpoint()
            return result

        async def announce(self, topics: Sequence[str]) -> None:
            await anyio.lowlevel.checkpoint()
            await super().announce(topics)

    line = Leaves()
    version = await line.create("key", b"", expires_at=9, now=1)
    with anyio.CancelScope() as client:
        await CHANGES[change](StoreBackend(line, clock=clock).bound_for().user_index, version)
        await anyio.lowlevel.checkpoint()
    assert (client.cancelled_caught, line.announced) == (True, [("key",)])


@rows("change", ["an end of what is unchanged", "a pointer"])
async def test_a_change_that_was_refused_is_not_announced(line: Line, clock: Clock, change: str) -> None:
    with pytest.raises(Conflict):
        await CHANGES[change](StoreBackend(line, clock=clock).bound_for().user_index, 99)
    assert line.announced == []


async def test_an_announcement_that_takes_long_delays_a_request_for_a_moment_only(
    site: Site, line: Line, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def forever(topics: Sequence[str]) -> None:
        await anyio.sleep_forever()

    monkeypatch.setattr(announce, "SEND_WITHIN", 0)
    line.announce = forever  # type: ignore[method-assign]
    await sign_out(site)
    assert "TimeoutError" in caplog.text


async def test_a_write_announces_nothing(site: Site, line: Line) -> None:
    for n in range(3):
        await site.visit(lambda session, n=n: session.update(n=n))  # type: ignore[misc]
    assert line.announced == []


async def test_a_store_without_the_power_is_looked_at_often(clock: Clock) -> None:
    class Plain:
        def __init__(self) -> None:
            inner = MemoryStore()
            self.get, self.create, self.replace, self.delete = inner.get, inner.create, inner.replace, inner.delete

    plain: Store = Plain()
    site = Site(backend=StoreBackend(plain, clock=clock), clock=clock, autoload=True)
    await site.visit(sign_in())
    async with streams(site) as opened:
        await sign_out(site)
        await settled()
        assert (opened.open, opened.waits.asked) == (1, [_OFTEN])


# Generators


class Source:
    """A generator whose items the test gives, and what became of it."""

    def __init__(self) -> None:
        self.is_closed = False
        self.pulled = 0
        self._send, self._receive = anyio.create_memory_object_stream[str](100)

    def __call__(self, item: str) -> None:
        self._send.send_nowait(item)

    async def items(self) -> AsyncIterator[str]:
        try:
            with self._send, self._receive:
                while True:
                    self.pulled += 1
                    yield await self._receive.receive()
        finally:
            self.is_closed = True


@asynccontextmanager
async def response(
    site: Site, make: Callable[[Session], AsyncIterator[Any]], sends: Callable[[Any], Awaitable[None]] | None = None
) -> AsyncIterator[list[Any]]:
    """A response that sends what a generator yields, and "end" at its own end."""
    sent: list[Any] = []

    async def act(session: Session) -> None:
        async for item in make(session):
            sent.append(item)
            if sends:
                await sends(item)
        sent.append("end")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(another(site).visit, act)
        await settled()
        yield sent
        tasks.cancel_scope.cancel()


async def test_a_generator_ends_with_the_session_and_closes_what_it_yields_from(site: Site) -> None:
    source = Source()
    async with response(site, lambda session: watch.until_ended(session, source.items(), wait=Pauses())) as sent:
        source("a")
        source("b")
        await settled()
        assert sent == ["a", "b"]
        await sign_out(site)
        await settled()
        assert (sent, source.is_closed) == (["a", "b", "end"], True)


async def test_an_end_does_not_cancel_the_one_who_sends_and_nothing_is_sent_after_it(site: Site) -> None:
    source, may_go_on = Source(), anyio.Event()

    async def slowly(item: str) -> None:
        await may_go_on.wait()

    async def make() -> AsyncIterator[str]:
        async for item in watch.until_ended(session_of[0], source.items(), wait=Pauses()):
            yield item

    session_of: list[Session] = []

    def begin(session: Session) -> AsyncIterator[str]:
        session_of.append(session)
        return make()

    async with response(site, begin, slowly) as sent:
        source("a")
        source("b")
        await settled()
        await sign_out(site)
        await settled()
        assert sent == ["a"]
        may_go_on.set()
        await settled()
        assert (sent, source.is_closed, source.pulled) == (["a", "end"], True, 1)


async def test_an_item_that_comes_together_with_the_end_is_not_sent(site: Site) -> None:
    async def closing(session: Session) -> AsyncIterator[str]:
        async for item in watch.until_ended(session, Stubborn(), wait=Pauses()):
            yield item

    class Stubborn:
        """An iterator that answers a cancellation with another item. It cannot be closed."""

        count = 0

        def __aiter__(self) -> "Stubborn":
            return self

        async def __anext__(self) -> str:
            self.count += 1
            if self.count > 1:
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    return "b"
            return "a"

    async with response(site, closing) as sent:
        await sign_out(site)
        await settled()
        assert sent == ["a", "end"]


async def test_a_generator_that_has_ended_ends_the_one_around_it_and_its_error_passes(site: Site) -> None:
    async def two() -> AsyncIterator[int]:
        yield 1
        yield 2

    async def fails() -> AsyncIterator[int]:
        yield 1
        raise LookupError("of the application")

    async with response(site, lambda session: watch.until_ended(session, two())) as sent:
        assert sent == [1, 2, "end"]

    async def act(session: Session) -> list[int]:
        return [item async for item in watch.until_ended(session, fails())]

    with pytest.raises(LookupError, match="of the application"):
        await site.visit(act)


async def test_a_client_that_leaves_closes_the_generator_and_leaves_no_listener(site: Site) -> None:
    source, told = Source(), site.app.config.backend.announcements
    assert told is not None
    async with response(site, lambda session: watch.until_ended(session, source.items())):
        assert len(told.bus()._listeners) == 1
    assert (source.is_closed, told.bus()._listeners, told.bus()._by_topic) == (True, set(), {})


@pytest.mark.parametrize("how", ["a block", "a generator"])
async def test_an_error_of_a_look_is_raised_where_the_session_is_watched(site: Site, line: Line, how: str) -> None:
    async def act(session: Session) -> None:
        line.get = broken  # type: ignore[method-assign]
        if how == "a block":
            async with watch.move_on_when_ended(session):
                await anyio.sleep_forever()
        else:
            async for _ in watch.until_ended(session, Source().items()):
                pass

    async def broken(*_: Any, **__: Any) -> Any:
        raise LookupError("of the store")

    with pytest.raises(LookupError, match="of the store"):
        await site.visit(act)


# Changes


async def test_a_stream_learns_of_a_change_that_is_announced_and_of_others_when_it_looks(site: Site) -> None:
    async def languages(session: Session) -> AsyncIterator[Any]:
        async for changed in watch.changes(session, wait=ticks):
            yield changed["language"]

    async def change(session: Session) -> None:
        session["language"] = "de"
        await watch.announce_change(session)

    async def same(session: Session) -> None:
        await watch.announce_change(session)

    ticks = Ticks()
    async with response(site, languages) as sent:
        await site.visit(change)
        await settled()
        assert sent == ["de"]
        await site.visit(same)
        await settled()
        assert sent == ["de"]
        await site.visit(lambda session: session.update(language="fr"))
        await settled()
        assert sent == ["de"]
        await ticks.tick()
        assert sent == ["de", "fr"]
        await sign_out(site)
        await settled()
        assert sent == ["de", "fr", "end"]
    ticks.close()


@each_backend
async def test_a_change_is_saved_before_it_is_announced_and_with_a_backend_that_cannot_announce(
    backend: SessionBackend, clock: Clock
) -> None:
    site = Site(backend=backend, clock=clock, autoload=True)

    async def change(session: Session) -> None:
        session["n"] = 1
        await watch.announce_change(session)

    await site.visit(change)
    assert await site.data() == {"n": 1}


# Threads and event loops


def test_an_end_in_one_thread_is_heard_in_the_event_loops_of_others() -> None:
    store, ended, ready = MemoryStore(), [], threading.Semaphore(0)

    async def listen() -> None:
        async with store.listen() as announced:
            ready.release()
            ended.append(await anext(announced))

    def run(backend: str) -> None:
        anyio.run(listen, backend=backend)

    threads = [threading.Thread(target=run, args=[name]) for name in ("asyncio", "asyncio", "trio")]
    for thread in threads:
        thread.start()
    for _ in threads:
        ready.acquire()
    anyio.run(store.announce, ["a", "b"])
    for thread in threads:
        thread.join()
    assert ended == [("a", "b")] * 3
    anyio.run(store.announce, ["c"])


def test_each_event_loop_has_a_subscription_and_none_is_left_when_they_end(clock: Clock) -> None:
    line = Line()
    backend = StoreBackend(line, clock=clock)
    told = backend.announcements
    assert told is not None

    async def main() -> None:
        site = Site(backend=backend, clock=clock, autoload=True)
        await site.visit(sign_in())
        async with streams(site) as opened:
            assert line.subscribed == 1
            await sign_out(site)
            await settled()
            assert opened.log == [True]

    for name in ("asyncio", "trio", "asyncio"):
        anyio.run(main, backend=name)
        assert line.subscribed == 0
    gc.collect()
    assert len(told._buses) <= 1


def test_an_event_loop_that_was_closed_in_the_middle_is_forgotten(clock: Clock) -> None:
    line = Line()
    told = announcements_of(line)
    assert told is not None
    kept = []

    async def begin() -> None:
        listening = told.bus().listening(["a"])
        listening.__enter__()
        kept.append(listening)
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(begin())
    tasks = asyncio.all_tasks(loop)
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    anyio.run(begin)
    assert [other.is_closed() for other in told._buses] == [True]
