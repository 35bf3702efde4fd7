"""The measurement of growth works, and says what it measured. No time is asserted."""

from xml.etree import ElementTree as ET

import pytest

from benchmarks import growth
from benchmarks.growth import BARE, HANDLERS, KEYS, RATIOS, SIZES, data_of, measure, svg, table
from starsessions.core.serializer import Msgpack
from tests.rows import rows

pytestmark = pytest.mark.once


def test_every_case_is_measured_with_every_session_and_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "SIZES", {name: min(size, 300) for name, size in SIZES.items()})

    found = measure(rounds=1, seconds=1e-6)

    assert [*found] == [*SIZES, KEYS]
    assert all([*figures] == [BARE, *HANDLERS] for figures in found.values())
    assert table(found).count("\n") == 2 + len(found)
    assert ET.fromstring(svg(found)).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_ratio_beyond_its_mark_is_told() -> None:
    figures = {BARE: 1.0, **dict.fromkeys(HANDLERS, 1.0)}
    slow = {**figures, "read a list": 1.51}

    told = table({"64 kB": figures, KEYS: slow, "another": slow})

    assert told.count("MISSED") == 1
    assert "| 1.51 (≤ 1.5, MISSED) |" in told
    assert all(f"{ratio.case} / {ratio.over}" in told for ratio in RATIOS)


@rows("size", list(SIZES.values()))
def test_the_session_has_about_the_size_that_it_is_called_by(size: int) -> None:
    assert 0.8 * size <= len(Msgpack().dumps(data_of(size))) <= 1.1 * size
