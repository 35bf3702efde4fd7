"""Removing expired entries again and again, while the application runs."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from starsessions.core.durations import Clock
from starsessions.stores.base import Sweeping

_logger = logging.getLogger("starsessions")

BATCH = 1000
"""Entries that are removed at once."""

PAUSE = 0.1
"""Seconds between two batches: the database has other things to do."""


async def sweep_forever(
    store: Sweeping,
    every: float,
    clock: Clock,
    *,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    chance: Callable[[], float] = random.random,
) -> None:
    """Until it is cancelled: sweep about `every` so many seconds, in batches, until nothing is left.

    Many workers do this at once. So each waits for a time of its own before the first sweep, and between two of them
    (from half to one and a half of `every`); one that finds less than a whole batch, because there is no more or
    because others are at it, waits again. A failure is logged, once until it works again.
    """
    await sleep(every * chance())
    fails = False
    while True:
        removed = 0
        try:
            removed = await store.sweep(BATCH, now=int(clock()))
            fails = False
        except Exception as error:  # whatever it is, the next time may be better
            if not fails:
                _logger.warning("Expired sessions could not be removed: %s We go on trying.", error)
            fails = True
        await sleep(PAUSE if removed >= BATCH else every * (0.5 + chance()))
