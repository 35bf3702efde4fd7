"""Notice that the clock of this worker and that of its store differ too much.

Whether a session has expired is decided by the clocks of the workers. Two of them may differ by `CLOCK_SKEW`. So each
may differ from the store's by half of that.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import anyio

from starsessions.core.durations import Clock
from starsessions.core.record import CLOCK_SKEW
from starsessions.notices import Notices
from starsessions.stores.base import Timed

MOST_APART = CLOCK_SKEW / 2
"""The seconds by which the clocks of a worker and of its store may differ."""

AGAIN = 3600
"""Seconds after which the clocks are compared again."""

Sleep = Callable[[float], Awaitable[object]]


@asynccontextmanager
async def comparing(store: object, clock: Clock, *, sleep: Sleep = anyio.sleep) -> AsyncIterator[None]:
    """Compare this worker's clock with that of a `Timed` store now, and on asyncio each hour.

    Args:
        store: the store; if it is not `Timed`, nothing happens.
        clock: returns the time of this worker, in seconds since 1970.
        sleep: waits for a number of seconds; for tests.
    """
    if not isinstance(store, Timed):
        yield
        return
    import asyncio  # it takes long, and a process without such a store may never need it

    later, notices = None, Notices()
    await compare(store, clock, notices)
    with suppress(RuntimeError):  # another library than asyncio runs the application
        later = asyncio.get_running_loop().create_task(_compare_again(store, clock, notices, sleep))
    try:
        yield
    finally:
        if later is not None:
            later.cancel()
            with suppress(asyncio.CancelledError):
                await later


async def _compare_again(store: Timed, clock: Clock, notices: Notices, sleep: Sleep) -> None:
    while True:
        await sleep(AGAIN)
        await compare(store, clock, notices)


async def seconds_ahead(store: Timed, clock: Clock) -> float:
    """Return by how many seconds this worker's clock is ahead of that of the store."""
    before = clock()
    there = await store.time()
    return (before + clock()) / 2 - there  # the store has read its clock in between


async def compare(store: Timed, clock: Clock, notices: Notices) -> None:
    """Log a warning if the two clocks differ too much."""
    try:
        ahead = await seconds_ahead(store, clock)
    except Exception as error:  # requests report a store that fails
        notices.warn("failed", "The clock of the session store could not be read: %s", error, level=logging.INFO)
        return
    if abs(ahead) > MOST_APART:
        notices.warn(
            "clocks",
            "The clock of this server is %d s %s that of the session store. If the clocks of two servers differ by "
            "more than %d s, sessions that one has stored count as expired on the other: synchronize the clocks of all "
            "servers, for instance with NTP.",
            round(abs(ahead)),
            "ahead of" if ahead > 0 else "behind",
            CLOCK_SKEW,
            every=AGAIN,
        )
