"""Remove expired entries periodically while the application runs."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from starsessions.core.durations import Clock
from starsessions.stores.base import Sweeping

_logger = logging.getLogger("starsessions")

BATCH = 1000
"""The number of entries removed at once."""

PAUSE = 0.1
"""Seconds between two batches, so that the database can serve requests."""


async def sweep_forever(
    store: Sweeping,
    every: float,
    clock: Clock,
    *,
    told: Callable[[int], object] = lambda removed: None,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    chance: Callable[[], float] = random.random,
) -> None:
    """Sweep periodically until cancelled. Each time, remove batches until no expired entry is left.

    Many workers do this in parallel. So each waits for a random time before its first sweep and between two sweeps. A
    worker that finds less than a full batch waits again, because nothing is left or another worker is sweeping. The
    first of several failures in a row is logged.

    Args:
        store: the store to sweep.
        every: the mean time between two sweeps, in seconds. The actual time is 0.5 to 1.5 times as long.
        clock: returns the current time, in seconds since 1970.
        told: is called with the number of entries that were removed.
        sleep: waits for a number of seconds; for tests.
        chance: returns a random number from 0 to 1; for tests.
    """
    await sleep(every * chance())
    fails = False
    while True:
        removed = 0
        try:
            removed = await store.sweep(BATCH, now=int(clock()))
            fails = False
            told(removed)
        except Exception as error:  # whatever it is, the next attempt may succeed
            if not fails:
                _logger.warning("Expired sessions could not be removed, and the next sweep will retry: %s", error)
            fails = True
        await sleep(PAUSE if removed >= BATCH else every * (0.5 + chance()))
