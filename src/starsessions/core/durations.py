"""Durations and expiry times in the forms that users may pass. Everywhere else they are whole seconds."""

from collections.abc import Callable
from datetime import datetime, timedelta

from starsessions.core.record import LAST_INSTANT, Expiry
from starsessions.exceptions import ImproperlyConfigured

LONGEST = 10**10
"""The longest duration in seconds, about 300 years. A longer one is a mistake, and would overflow stored instants."""

Duration = int | timedelta

Clock = Callable[[], float]
"""Returns seconds since 1970."""


def seconds(setting: str, value: Duration) -> int:
    """Return a duration in whole seconds, rounded down.

    Args:
        setting: the argument's name, for the error message.
        value: seconds (an int) or a `timedelta`.

    Raises:
        ImproperlyConfigured: the value has another type, is less than one second, or is longer than `LONGEST`.

    >>> from datetime import timedelta
    >>> seconds("max_age", timedelta(minutes=1))
    60
    """
    if isinstance(value, timedelta):
        value = int(value.total_seconds())
    if isinstance(value, bool) or not isinstance(value, int):
        raise ImproperlyConfigured(f"{setting} must be seconds (an int) or a timedelta, not {type(value).__name__}.")
    if not 1 <= value <= LONGEST:
        raise ImproperlyConfigured(f"{setting} must be between 1 and {LONGEST} seconds.")
    return int(value)


def time_limit(setting: str, value: float | timedelta) -> float:
    """Return the seconds after which a store gives up. Fractions count.

    >>> time_limit("timeout", timedelta(milliseconds=500))
    0.5
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= LONGEST:
        raise ImproperlyConfigured(f"{setting} must be more than 0 seconds: a number, or a timedelta.")
    return value


def expiry(value: int | timedelta | datetime | None, now: int) -> Expiry:
    """Return what `set_expiry(value)` means at `now`.

    Raises:
        TypeError: the value has another type.
        ValueError: the value is negative, in the past, too long, or less than a second.

    >>> expiry(60, now=1000)
    Expiry(lifetime=60, until=None, browser=False)
    """
    if isinstance(value, datetime):
        until = _instant(value)
        if until <= now:
            raise ValueError(
                "set_expiry() got a time in the past. A datetime without a zone is local time: pass "
                "datetime.now(UTC) + timedelta(…). To end the session, call `await session.delete()`."
            )
        return Expiry(until=until)
    if isinstance(value, timedelta):
        lifetime = int(value.total_seconds())
        if not lifetime and value:
            raise ValueError("set_expiry() got a duration of less than a second. Pass at least one second.")
    else:
        lifetime = 0 if value is None else value
    if isinstance(lifetime, bool) or not isinstance(lifetime, int):
        raise TypeError("set_expiry() takes seconds (an int), a timedelta, a datetime or None.")
    if lifetime < 0:
        raise ValueError("set_expiry() got a negative duration. To end the session, call `await session.delete()`.")
    if lifetime > LONGEST:
        raise ValueError(f"set_expiry() got a duration that is too long. Pass at most {LONGEST} seconds.")
    return Expiry(lifetime=int(lifetime)) if lifetime else Expiry(browser=True)


def _instant(value: datetime) -> int:
    try:
        return min(int(value.timestamp()), LAST_INSTANT)
    except (OverflowError, ValueError, OSError):  # near the ends of the calendar, in some zones and on some platforms
        return LAST_INSTANT if value.year > 1970 else 0
