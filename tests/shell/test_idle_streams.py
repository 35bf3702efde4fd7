"""What an idle stream costs, and how soon streams end while nothing is announced. Time is moved by hand."""

import gc
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from starsessions import BackendUnavailable, Session, users
from starsessions.backends.server_side import StoreBackend
from starsessions.watch import _OFTEN, _SELDOM
from tests.shell.people import sign_in
from tests.shell.test_announced import Line, another, by_hand, streams
from tests.site import Browser, Clock, Site

pytestmark = pytest.mark.anyio

MOST_MEMORY = 20_000
"""Bytes that watching a session may take."""


async def soon() -> None:
    """Wait until all that can go on in this event loop has done so."""
    for _ in range(100):
        await anyio.lowlevel.checkpoint()


class Timeline:
    """The time of all who wait for something, for some seconds at most, or sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self._waiting: list[tuple[float, anyio.Event]] = []

    async def wait(self, something: Callable[[], Awaitable[None]], limit: float) -> None:
        mine = (self.now + limit, anyio.Event())
        self._waiting.append(mine)
        try:
            async with anyio.create_task_group() as tasks:

                async def first(of_both: Callable[[], Awaitable[object]]) -> None:
                    await of_both()
                    tasks.cancel_scope.cancel()

                tasks.start_soon(first, something)
                tasks.start_soon(first, mine[1].wait)
        finally:
            self._waiting.remove(mine)

    async def sleep(self, seconds: float) -> None:
        await self.wait(anyio.sleep_forever, seconds)

    async def step(self) -> None:
        """Move to the next moment at which someone has waited long enough."""
        self.now = min(until for until, _ in self._waiting)
        for until, has_passed in self._waiting:
            if until <= self.now:
                has_passed.set()
        await soon()

    async def move_to(self, moment: float) -> None:
        while min(until for until, _ in self._waiting) <= moment:
            await self.step()
        self.now = moment


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def timeline() -> Timeline:
    return Timeline()


@pytest.fixture
async def site(line: Line, timeline: Timeline, clock: Clock) -> Site:
    """A site whose browser has signed in, with a subscription whose time the test moves."""
    made = Site(backend=StoreBackend(line, clock=clock), clock=clock, autoload=True)
    by_hand(made, line, timeline.sleep)  # type: ignore[arg-type]
    await made.visit(sign_in())
    return made


async def opened_in_turn(closing: AsyncExitStack, site: Site, timeline: Timeline) -> Callable[[], int]:
    """Open a stream every two seconds, and return how many of them are open."""
    all_of_them = []
    for n in range(5):
        await timeline.move_to(2 * n) if n else None
        all_of_them.append(await closing.enter_async_context(streams(site, wait=timeline.wait)))
    return lambda: sum(opened.open for opened in all_of_them)


def kill(line: Line) -> None:
    """Close the subscription, and refuse another one and all announcements."""
    line.fails = BackendUnavailable("The store failed: ConnectionError.")
    line.cut()


def block(line: Line) -> None:
    """Refuse announcements. Those who listen do not notice."""
    line.fails = BackendUnavailable("The store failed: NoPermissionError.")


def deafen(line: Line) -> None:
    """Take announcements and pass none on, as a connection pooler does."""
    line.is_deaf = True


@pytest.mark.guarantee(21)
@pytest.mark.parametrize(("breaks", "interval"), [(kill, _OFTEN), (block, _SELDOM), (deafen, _SELDOM)])
@pytest.mark.parametrize("when", ["at once", "later"])
async def test_without_announcements_all_streams_end_within_the_interval_and_a_second(
    site: Site, line: Line, timeline: Timeline, breaks: Callable[[Line], None], interval: float, when: str
) -> None:
    async with AsyncExitStack() as closing:
        count = await opened_in_turn(closing, site, timeline)
        breaks(line)
        if when == "later":
            await timeline.move_to(timeline.now + 33)
        await site.visit(users.sign_out)
        ended_at = timeline.now
        await soon()
        assert count() == 5
        while count():
            await timeline.step()
        assert timeline.now - ended_at <= interval + 1


@pytest.mark.guarantee(21)
async def test_an_idle_stream_looks_at_most_once_a_minute(site: Site, line: Line, timeline: Timeline) -> None:
    async with AsyncExitStack() as closing:
        count = await opened_in_turn(closing, site, timeline)
        looks, begun_at, minutes = line.looks, timeline.now, 10
        await timeline.move_to(begun_at + 60 * minutes)
        assert count() == 5
        calls_of_a_look = 3  # the session, the epoch of its user, and that of all users
        assert line.looks - looks <= 5 * minutes * calls_of_a_look


@pytest.mark.guarantee(21)
async def test_to_watch_a_session_takes_less_than_twenty_kilobytes(site: Site) -> None:
    async def only_wait(session: Session) -> None:
        await anyio.sleep_forever()

    async def bytes_of(count: int, act: Callable[..., Awaitable[Any]] | None) -> int:
        async with AsyncExitStack() as closing:
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            if act is None:
                opened = await closing.enter_async_context(streams(site, count))
                assert opened.open == count
            else:
                tasks = await closing.enter_async_context(anyio.create_task_group())
                for _ in range(count):
                    tasks.start_soon(another(site).visit, act, Browser(dict(site.browser.cookies)))
                await soon()
                closing.callback(tasks.cancel_scope.cancel)
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before

    count = 100
    tracemalloc.start()
    try:
        for act in (only_wait, None):  # what is made once, and kept
            await bytes_of(2, act)
        without, watched = await bytes_of(count, only_wait), await bytes_of(count, None)
    finally:
        tracemalloc.stop()
    assert watched > without
    assert (watched - without) / count < MOST_MEMORY
