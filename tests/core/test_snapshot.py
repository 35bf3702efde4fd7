"""Snapshots are equal only for values that are stored alike."""

from copy import deepcopy
from datetime import date
from decimal import Decimal
from enum import IntEnum
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from starsessions.core.merge import same
from starsessions.core.snapshot import snapshot
from tests.rows import rows


class Level(IntEnum):
    ONE = 1


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=3)
    | st.dates()
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("ab") | st.integers(0, 1), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(values, values)
def test_equal_snapshots_are_of_equal_values_of_the_same_types(one: Any, other: Any) -> None:
    assert snapshot(one) != snapshot(other) or same(one, other)


@given(values)
def test_a_value_that_has_not_changed_has_the_same_snapshot_if_others_hold_it_as_well(value: Any) -> None:
    before = snapshot(value)
    held = [value, deepcopy(value)]

    assert [snapshot(one) for one in held] == [before, before]


@rows(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ([1], (1,)),
        ({1}, frozenset({1})),
        ({1: 1}, {True: 1}),
        ("1", b"1"),
        (Decimal("1.0"), Decimal("1.00")),
        (date(2024, 5, 6), "2024-05-06"),
        ([date(2024, 5, 6)], [date(2024, 5, 7)]),
    ],
)
def test_values_that_only_resemble_each_other_have_other_snapshots(one: Any, other: Any) -> None:
    assert snapshot([one]) != snapshot([other])


@rows("value", [None, b"", "", 0, [], {}, Level.ONE, date(2024, 5, 6), [Level.ONE]])
def test_each_value_that_a_session_can_hold_has_a_snapshot(value: Any) -> None:
    assert snapshot(value) is not None


def test_what_a_session_cannot_hold_has_none() -> None:
    around: list[Any] = []
    around.append(around)

    assert snapshot([object()]) is None
    assert snapshot(around) is None
