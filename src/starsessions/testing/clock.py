"""Time that a test moves by hand."""


class Clock:
    """A clock that is moved by hand: for the `clock=` of a backend.

    >>> clock = Clock(1_000)
    >>> clock.advance(60)
    >>> clock()
    1060
    """

    def __init__(self, now: float = 1_800_000_000) -> None:
        self.now: float = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.now += seconds
