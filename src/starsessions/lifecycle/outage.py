"""What is logged of a store that fails: a line for the outage, one each minute, and one when it works again."""

import logging
import os
from collections.abc import Callable
from time import monotonic

from starsessions.notices import Notices

_log = logging.getLogger("starsessions")

EVERY = 60
"""Seconds between two lines. A busy server would log thousands, and hide all others."""


class Outage:
    """The outages of a middleware's store."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._notices = Notices(clock)  # of its own: others may be full of messages about paths
        self._unlogged = 0
        self.is_known: bool = False
        """Whether a failure was logged, and not yet that the store works again."""

    def failed(self, outcome: str, error: Exception) -> None:
        """Log a failure, or count it.

        Args:
            outcome: what becomes of requests meanwhile.
            error: the failure. Its traceback is logged at the level DEBUG.
        """
        _log.debug("The session store failed.", exc_info=error)
        again = "still fails" if self.is_known else "failed"
        message = f"The session store {again}: {cause_of(error)} {outcome}{self._others()}"
        if self._notices.warn("failed", message, every=EVERY, level=logging.ERROR):
            self.is_known, self._unlogged = True, 0
        else:
            self._unlogged += 1

    def ended(self) -> None:
        """Log that the store works again."""
        _log.warning("The session store works again.%s", self._others())
        self.is_known, self._unlogged = False, 0

    def _others(self) -> str:
        return f" Failed requests since the last message: {self._unlogged}." if self._unlogged else ""


def cause_of(error: BaseException) -> str:
    """Name what failed, and its root, without the messages of drivers: they may contain keys, values and passwords.

    >>> from starsessions import BackendUnavailable
    >>> cause_of(BackendUnavailable("The store did not answer within 5 seconds."))
    'The store did not answer within 5 seconds.'
    """
    if error.__cause__ is None:
        return str(error)
    first = root = error.__cause__
    while (cause := root.__cause__ or root.__context__) is not None:
        root = cause
    names = dict.fromkeys([type(first).__name__, type(root).__name__])
    if isinstance(root, OSError) and root.errno is not None:
        names[os.strerror(root.errno)] = None
    return f"{', '.join(names)}."
