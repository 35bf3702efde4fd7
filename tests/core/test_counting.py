"""Counts of many values, in constant memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starsessions.core.counting import Distinct, Sizes
from tests.rows import rows

pytestmark = pytest.mark.once


@rows("number", [0, 1, 2, 1000])
def test_few_texts_are_counted_exactly(number: int) -> None:
    distinct = Distinct()
    for n in [*range(number), *range(number)]:
        distinct.add(f"user-{n}")
    assert distinct.count() == number


def test_many_texts_are_counted_to_a_thousandth() -> None:
    distinct = Distinct()
    for n in range(300_000):
        distinct.add(str(n))
    assert abs(distinct.count() - 300_000) <= 300


def test_a_full_table_still_has_a_count() -> None:
    distinct = Distinct()
    distinct._zeros = 0
    assert distinct.count() > 2**24


def test_any_text_is_counted() -> None:
    distinct = Distinct()
    for text in ("", "é", "\ud800", "a" * 10_000):
        distinct.add(text)
    assert distinct.count() == 4


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0, 1))
def test_a_share_of_the_sizes_is_within_the_size_that_is_told_to_one_percent(values: list[int], share: float) -> None:
    sizes = Sizes()
    for value in values:
        sizes.add(value)
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    assert abs(sizes.within(share) - exact) <= exact / 100
    assert (sizes.total, sizes.largest) == (sum(values), max(values))


def test_there_is_no_size_of_nothing() -> None:
    sizes = Sizes()
    assert (sizes.total, sizes.largest, sizes.within(0.5)) == (0, 0, 0)


def test_the_memory_of_sizes_is_bounded() -> None:
    sizes = Sizes()
    for value in range(0, 10**6, 7):
        sizes.add(value)
    assert len(sizes._counts) < 2500
