"""Log what a developer has to know once, and not at each request: a line per request would hide all others."""

import logging
from collections.abc import Callable, Hashable
from time import monotonic

_log = logging.getLogger("starsessions")

MOST = 100
"""The different messages that are logged at most. A key may contain a path, which anyone can choose."""


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
        self._logged_at: dict[Hashable, float] = {}

    def warn(
        self, key: Hashable, message: str, *args: object, every: float | None = None, level: int = logging.WARNING
    ) -> bool:
        """Log a message, unless one with this key was logged before. Return whether it was logged.

        Args:
            key: what the message is about.
            message: the message, with `%s` for each of `args`. It must not contain an id, a token or a session's data.
            every: log again after this many seconds. None: never again.
            level: the level of the `logging` module.
        """
        now = self._clock()
        before = self._logged_at.get(key)
        if before is None:
            if len(self._logged_at) >= MOST:
                return False
        elif every is None or now < before + every:
            return False
        self._logged_at[key] = now
        _log.log(level, message, *args, stacklevel=2)
        return True
