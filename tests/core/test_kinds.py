"""Values of published packages whose types are their own: clocks of tests, zones, numbers of numpy."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta, tzinfo
from importlib.util import find_spec
from math import isnan
from typing import Any

import pytest

from starsessions.core.durations import expiry
from starsessions.core.kinds import as_base
from starsessions.core.serializer import Msgpack, PlainJson
from starsessions.exceptions import UnsupportedValue
from tests.missing import missing
from tests.rows import rows

naive = datetime
"""Deliberately without a zone."""
AT = "2024-05-06 07:08:09"


def needs(package: str) -> None:
    if find_spec(package) is None:
        missing(f"{package} is not installed")


@contextmanager
def frozen(package: str) -> Iterator[None]:
    needs(package)
    if package == "freezegun":
        from freezegun import freeze_time

        with freeze_time(AT):
            yield
    else:
        from time_machine import travel

        with travel(AT, tick=False):
            yield


@pytest.mark.parametrize("package", ["freezegun", "time_machine"])
def test_what_a_frozen_clock_shows_is_kept(package: str) -> None:
    for serializer in (Msgpack(), PlainJson()):
        with frozen(package):
            today = date.today
            values = [datetime.now(UTC), naive.now(), today(), {"at": naive.now(), today(): [naive.now()]}]
            kept = serializer.loads(serializer.dumps({"values": values}))
            assert kept == {"values": values}
            assert expiry(datetime.now(UTC) + timedelta(hours=1), now=1_714_979_289).until == 1_714_982_889
        kept = serializer.loads(serializer.dumps({"values": values}))  # the same values when time goes on
        assert kept == {"values": values}
        assert [type(value) for value in kept["values"][:3]] == [datetime, datetime, date]


FROZEN_IMPORT = """
import datetime
from freezegun import freeze_time

def check():
    data = {"at": datetime.datetime.now(), "on": datetime.date.today(), "utc": [datetime.datetime.now(datetime.UTC)]}
    assert serializer.loads(serializer.dumps(data)) == data

with freeze_time("2024-05-06"):
    import starsessions
    from starsessions.core.kinds import SCALARS
    from starsessions.core.serializer import Msgpack
    serializer = Msgpack()
    check()
check()
assert {datetime.datetime, datetime.date} <= SCALARS
with freeze_time("2024-05-07"):
    check()
"""


def test_the_package_may_be_imported_in_a_frozen_time() -> None:
    needs("freezegun")
    subprocess.run([sys.executable, "-c", FROZEN_IMPORT], check=True)


def zones_of(package: str) -> Iterator[tzinfo]:
    needs(package)
    if package == "pytz":
        from pytz import timezone, utc

        berlin = timezone("Europe/Berlin")
        yield from (utc, *(berlin.localize(naive(2024, month, 1)).tzinfo for month in (1, 7)))  # CET and CEST
    elif package == "dateutil":
        from dateutil import tz

        yield from (tz.UTC, tz.gettz("Europe/Berlin"), tz.gettz("Australia/Lord_Howe"), tz.tzstr("CET-1CEST"))
    else:
        from tzlocal import get_localzone

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TZ", "Europe/Berlin")
            yield get_localzone()


@pytest.mark.parametrize("package", ["dateutil", "pytz", "tzlocal"])
def test_a_datetime_in_a_zone_of_a_package_is_kept_in_every_hour(package: str) -> None:
    """In the two nights, too, in which the clocks go forward and back."""
    half_hours = [naive(2024, month, 1) + timedelta(minutes=30 * n) for month in (3, 4, 10) for n in range(31 * 48)]
    serializer = Msgpack()
    for zone in zones_of(package):
        values = [each.replace(tzinfo=zone, fold=fold) for each in half_hours for fold in (0, 1)]
        kept = serializer.loads(serializer.dumps({"at": values}))["at"]
        for value, back in zip(values, kept, strict=True):
            assert (back.replace(tzinfo=None), back.fold) == (value.replace(tzinfo=None), value.fold)
            assert back.utcoffset() == value.utcoffset()


def test_what_numpy_calls_a_number_is_kept_if_python_has_its_type() -> None:
    needs("numpy")
    import numpy as np

    data: dict[str, Any] = {"price": np.float64(1.5), "name": np.str_("é"), "raw": np.bytes_(b"\0a")}
    serializer = Msgpack()

    kept = serializer.loads(serializer.dumps(data | {"nan": np.float64("nan")}))

    assert [type(value) for value in kept.values()] == [float, str, bytes, float]
    assert isnan(kept.pop("nan"))
    assert kept == data
    for value, kind in [(np.int64(1), "int64"), (np.float32(1), "float32"), (np.bool_(True), "numpy.bool")]:
        with pytest.raises(UnsupportedValue, match=f'^session."n"..0. is an? {kind}, .* made from it'):
            serializer.dumps({"n": [value]})


@rows("value", [1, True, None, "a", 1.5, (), object])
def test_a_value_that_is_no_subclass_has_no_other_base(value: Any) -> None:
    assert as_base(value, value) is value


def test_a_number_that_claims_to_be_unequal_to_itself_is_no_nan() -> None:
    class Odd(float):
        def __eq__(self, other: object) -> bool:
            return False

        def __ne__(self, other: object) -> bool:
            return True

        __hash__ = float.__hash__

    assert as_base(Odd(1.5)) is None
