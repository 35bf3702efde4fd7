"""Ask the stores of an application. A store that does not answer is a fact, and not an error."""

import logging

from starsessions.backends.clocks import seconds_ahead
from starsessions.check.facts import StoreFact
from starsessions.core.durations import Clock
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.stores.base import Store, Timed
from starsessions.stores.memory import MemoryStore
from starsessions.stores.survey import Survey, Surveyed

_NO_SESSION = "starsessions-check"
"""A key under which nothing is stored."""

_log = logging.getLogger("starsessions")


async def fact_of_store(store: Store, clock: Clock) -> StoreFact:
    """Return what is found when a store is asked.

    Args:
        store: the store. Nothing in it is changed.
        clock: the clock of this server.
    """
    known = StoreFact(id(store), isinstance(store, MemoryStore))
    try:
        if isinstance(store, Surveyed):
            survey = await store.survey()
        else:
            survey = Survey()
            await store.get(_NO_SESSION, now=0)
        ahead = await seconds_ahead(store, clock) if isinstance(store, Timed) else 0
    except (BackendUnavailable, ImproperlyConfigured) as error:
        return StoreFact(known.identity, known.is_memory, str(error))
    except Exception as error:
        # A store of the application may raise anything, and say anything in it.
        _log.debug("A store failed while it was checked.", exc_info=error)
        return StoreFact(known.identity, known.is_memory, f"{type(error).__name__}.")
    return StoreFact(known.identity, known.is_memory, None, ahead, survey)
