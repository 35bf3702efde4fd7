"""Durations in settings: whole seconds, or an error that names the setting."""

from datetime import timedelta
from typing import Any

import pytest

from starsessions.core.durations import seconds
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
    ],
)
def test_a_duration_is_in_whole_seconds_rounded_down(value: int | timedelta, wanted: int) -> None:
    assert seconds("max_age", value) == wanted
    assert type(seconds("max_age", value)) is int


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
