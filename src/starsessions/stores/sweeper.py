"""Remove expired entries: all at once at a pace, or periodically while the application runs."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NamedTuple

import anyio

from starsessions.core.durations import Clock, time_limit
from starsessions.exceptions import ImproperlyConfigured
from starsessions.stores.base import Sweeping

_logger = logging.getLogger("starsessions")

BATCH = 200
"""The number of entries removed at once.

Keys are random, so each entry is on another page of the table and of the index, and PostgreSQL writes whole pages to
its log. All commits of the application wait for what is in the log before theirs. So several small batches are felt
less than one large batch (`benchmarks/cleanup.py`).
"""

PAUSE = 0.02
"""The least seconds between two batches while the application runs, so that the database can serve requests."""

Sleep = Callable[[float], Awaitable[object]]


class Swept(NamedTuple):
    """What a sweep has done."""

    removed: int
    """The number of entries removed."""

    timed_out: bool
    """Whether it ended because of its limit of time. False: nothing is left, or another sweep is removing it."""


async def sweep_all(
    store: Sweeping,
    *,
    share: float = 0.25,
    timeout: float | timedelta | None = None,
    on_batch: Callable[[int], object] | None = None,
    clock: Clock = time.time,
    timer: Callable[[], float] = time.monotonic,
    sleep: Sleep = anyio.sleep,
) -> Swept:
    """Remove expired entries in batches until none is left: for a cron job, however many there are.

    It rests after each batch in proportion to the time that the batch took. So it slows down by itself where the
    database is busy. Several at once do no harm: none removes what another one is removing.

    Args:
        store: the store to sweep, such as the `store` of a backend.
        share: the part of the time in which the database works for it, more than 0 and at most 1: without rest.
        timeout: the seconds after which no further batch begins, or a `timedelta`. None: no limit.
        on_batch: called after each batch with the number removed so far, to show progress.
        clock: returns the seconds since 1970, by which entries expire; for tests.
        timer: returns seconds by which it paces itself; for tests.
        sleep: waits for a number of seconds; for tests.

    Raises:
        BackendUnavailable: the database failed or did not answer in time. What was removed by then is removed.

    >>> import asyncio
    >>> from starsessions.backends.sqlalchemy import SQLAlchemyBackend
    >>> async def main():
    ...     backend = SQLAlchemyBackend("sqlite+aiosqlite://")
    ...     await backend.create_table()
    ...     async with backend.lifespan():
    ...         return await sweep_all(backend.store, timeout=600)
    >>> asyncio.run(main())
    Swept(removed=0, timed_out=False)
    """
    if not 0 < share <= 1:
        raise ImproperlyConfigured("share must be more than 0 and at most 1: 0.25 works for a quarter of the time.")
    began = timer()
    until = None if timeout is None else began + time_limit("timeout", timeout)
    removed = 0
    while True:
        batch = await store.sweep(BATCH, now=int(clock()))
        ended = timer()
        removed += batch
        if on_batch is not None:
            on_batch(removed)
        if batch < BATCH:
            return Swept(removed, timed_out=False)
        rest = (ended - began) * (1 / share - 1)
        began = ended + rest
        if until is not None and began >= until:
            return Swept(removed, timed_out=True)
        await sleep(rest)
        began = timer()


async def sweep_forever(
    store: Sweeping,
    every: float,
    clock: Clock,
    *,
    told: Callable[[int], object] = lambda removed: None,
    sleep: Sleep = asyncio.sleep,
    timer: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,  # noqa: S311 - jitter
) -> None:
    """Sweep periodically until cancelled. Each time, remove batches until no expired entry is left, and rest after
    each for as long as it took.

    Many workers do this in parallel. So each waits for a random time before its first sweep and between two sweeps. A
    worker that finds less than a full batch waits again, because nothing is left or another worker is sweeping. The
    first of several failures in a row is logged.

    Args:
        store: the store to sweep.
        every: the mean time between two sweeps, in seconds. The actual time is 0.5 to 1.5 times as long.
        clock: returns the current time, in seconds since 1970.
        told: is called with the number of entries that were removed.
        sleep: waits for a number of seconds; for tests.
        timer: returns seconds by which it paces itself; for tests.
        chance: returns a random number from 0 to 1; for tests.
    """
    await sleep(every * chance())
    fails = False
    while True:
        removed, began = 0, timer()
        try:
            removed = await store.sweep(BATCH, now=int(clock()))
            fails = False
            told(removed)
        except Exception as error:  # whatever it is, the next attempt may succeed
            if not fails:
                _logger.warning("Expired sessions could not be removed, and the next sweep will retry: %s", error)
            fails = True
        await sleep(max(PAUSE, timer() - began) if removed >= BATCH else every * (0.5 + chance()))
