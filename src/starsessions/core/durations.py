"""Durations and ends, as users may write them. Inside of the package they are whole seconds."""

from collections.abc import Callable
from datetime import datetime, timedelta

from starsessions.core.record import Expiry
from starsessions.exceptions import ImproperlyConfigured

LONGEST = 10**10
"""Seconds, some 300 years: what is longer is a mistake, and would not fit where instants are stored."""

Duration = int | timedelta

Clock = Callable[[], float]
"""Seconds since 1970."""


def seconds(setting: str, value: Duration) -> int:
    """At least one whole second, rounded down.

    >>> from datetime import timedelta
    >>> seconds("max_age", timedelta(minutes=1))
    60
    """
    if isinstance(value, timedelta):
        value = int(value.total_seconds())
    if isinstance(value, bool) or not isinstance(value, int):
        raise ImproperlyConfigured(f"{setting} must be seconds (an int) or a timedelta, not {type(value).__name__}.")
    if not 1 <= value <= LONGEST:
        raise ImproperlyConfigured(f"{setting} must be at least one second, and no more than {LONGEST}.")
    return value


def expiry(value: int | timedelta | datetime | None, now: int) -> Expiry:
    """What `set_expiry(value)` means at `now`. TypeError and ValueError say what is wrong with the value.

    >>> expiry(60, now=1000)
    Expiry(lifetime=60, until=None, browser=False)
    """
    if isinstance(value, datetime):
        until = int(value.timestamp())
        if until <= now:
            raise ValueError(
                "set_expiry() was given a moment that has passed: call `await session.delete()` to end it."
            )
        return Expiry(until=until)
    if isinstance(value, timedelta):
        lifetime = int(value.total_seconds())
        if not lifetime and value:
            raise ValueError("set_expiry() counts in whole seconds, and was given less than one.")
    else:
        lifetime = 0 if value is None else value
    if isinstance(lifetime, bool) or not isinstance(lifetime, int):
        raise TypeError("set_expiry() takes seconds (an int), a timedelta, a datetime or None.")
    if lifetime < 0:
        raise ValueError("set_expiry() was given a negative duration: call `await session.delete()` to end it.")
    if lifetime > LONGEST:
        raise ValueError(f"set_expiry() takes no more than {LONGEST} seconds.")
    return Expiry(lifetime=lifetime) if lifetime else Expiry(browser=True)
