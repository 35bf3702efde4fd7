"""A clock for tests."""

from datetime import timedelta


class Clock:
    """A clock that only the test advances: pass it as the `clock=` of a backend.

    Args:
        now: the seconds since 1970 at which it starts.

    >>> clock = Clock(1_000)
    >>> clock.advance(60)
    >>> clock()
    1060
    """

    def __init__(self, now: float = 1_800_000_000) -> None:
        self.now: float = now

    def __call__(self) -> float:
        return self.now

    def advance(self, by: float | timedelta) -> None:
        """Advance the clock by this many seconds, or by a `timedelta`."""
        self.now += by.total_seconds() if isinstance(by, timedelta) else by
