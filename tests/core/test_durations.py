"""Durations in settings: whole seconds, or an error that names the setting."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from http import HTTPStatus
from typing import Any

import pytest

from starsessions.core.durations import expiry, seconds
from starsessions.core.record import LAST_INSTANT
from starsessions.exceptions import ImproperlyConfigured
from tests.rows import rows


@rows(
    ("value", "wanted"),
    [
        (1, 1),
        (3600, 3600),
        (timedelta(seconds=1), 1),
        (timedelta(days=14), 14 * 24 * 60 * 60),
        (timedelta(seconds=1, milliseconds=999), 1),
        (HTTPStatus.OK, 200),
    ],
)
def test_a_duration_is_in_whole_seconds_rounded_down(value: int | timedelta, wanted: int) -> None:
    assert seconds("max_age", value) == wanted
    assert type(seconds("max_age", value)) is type(expiry(value, now=0).lifetime) is int


@rows("value", [0, -1, timedelta(0), timedelta(milliseconds=999), timedelta(days=-1), timedelta.min])
def test_less_than_a_second_is_rejected(value: int | timedelta) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^max_age must be between 1 and 10000000000 seconds\.$"):
        seconds("max_age", value)


@rows("value", [1.5, "3600", None, True, False, [1], float("nan")])
def test_another_type_is_rejected_by_name(value: Any) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=f"^renew_every must be seconds .* timedelta, not {type(value).__name__}"
    ):
        seconds("renew_every", value)


naive = datetime
"""Deliberately without a zone."""
EAST, WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-14))


@contextmanager
def living_in(zone: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        yield
    time.tzset()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no tzset")
@rows("zone", ["Pacific/Auckland", "Asia/Tokyo", "UTC", "America/New_York"])
def test_an_instant_is_the_same_for_all_local_zones(zone: str) -> None:
    """The ends of the calendar are outside of what the platform converts, in some zones."""
    never = [naive.max, datetime.max.replace(tzinfo=UTC), datetime.max.replace(tzinfo=WEST)]
    past = [naive.min, datetime.min.replace(tzinfo=UTC), datetime.min.replace(tzinfo=EAST), naive(1970, 1, 1)]
    with living_in(zone):
        for value in never:
            assert expiry(value, now=10**6).until == LAST_INSTANT
        for value in past:
            with pytest.raises(ValueError, match=r"in the past.* local time: pass datetime\.now\(UTC\)"):
                expiry(value, now=10**6)
        assert expiry(naive.fromtimestamp(2 * 10**9), now=10**6).until == 2 * 10**9
        assert expiry(datetime.fromtimestamp(2 * 10**9, UTC), now=10**6).until == 2 * 10**9
