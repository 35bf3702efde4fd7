"""Log what a developer has to know once, and not at each request: a line per request would hide all others."""

import logging
from collections import Counter
from collections.abc import Callable
from threading import Lock
from time import monotonic

from starsessions.exceptions import BackendUnavailable

_log = logging.getLogger("starsessions")

MOST = 100
"""The messages of one kind that are logged at most, if their keys contain what a request says, such as its path."""

MOST_SHOWN = 200
"""The characters of a value that are shown."""


class Notices:
    """What has been logged for one middleware, backend or store.

    >>> notices = Notices()
    >>> notices.warn("cookie", "The cookie %s is too large.", "session")
    True
    >>> notices.warn("cookie", "The cookie %s is too large.", "session")
    False
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._logged_at: dict[str | tuple[object, ...], float] = {}
        self._varied: Counter[object] = Counter()
        self._lock = Lock()  # the event loops of several threads may share one

    def warn(
        self,
        key: str | tuple[object, ...],
        message: str,
        *args: object,
        every: float | None = None,
        level: int = logging.WARNING,
    ) -> bool:
        """Log a message, unless one with this key was logged before. Return whether it was logged.

        Args:
            key: what the message is about: a text; or a tuple, if that contains what a request says. The first item is
                then the kind of the message, and one kind does not keep others out of the log.
            message: the message, with `%s` for each of `args`. It must not contain an id, a token or a session's data.
            every: log again after this many seconds. None: never again.
            level: the level of the `logging` module.
        """
        with self._lock:
            if not self._is_due(key, every):
                return False
        _log.log(level, message, *map(_shown, args), stacklevel=2)
        return True

    def _is_due(self, key: str | tuple[object, ...], every: float | None) -> bool:
        now = self._clock()
        before = self._logged_at.get(key)
        if before is None:
            if isinstance(key, tuple):
                if self._varied[key[0]] >= MOST:
                    return False
                self._varied[key[0]] += 1
        elif every is None or now < before + every:
            return False
        self._logged_at[key] = now
        return True


def why_failed(error: Exception) -> str:
    """Return what can be logged of an error. The messages of others may contain what must not be seen."""
    return str(error) if isinstance(error, BackendUnavailable) else f"{type(error).__name__}."


def _shown(value: object) -> object:
    """Return a text as it may be logged: a line break in a path, once decoded, would forge lines of the log."""
    if not isinstance(value, str):
        return value
    short = value[:MOST_SHOWN]
    return short if short.isprintable() else ascii(short)[1:-1]
