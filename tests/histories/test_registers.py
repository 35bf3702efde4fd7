"""The search for an order decides as trying all orders does, and knows each mistake that a store can make."""

from itertools import permutations
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.histories.registers import Step, miscounted, unexplained
from tests.rows import rows

pytestmark = pytest.mark.once


def wrote(value: str | int | None, began: float, ended: float = inf) -> Step:
    return Step(began, ended, True, value)


def read(value: str | int | None, began: float, ended: float) -> Step:
    return Step(began, ended, False, value)


@rows(
    "steps",
    [
        [read("a", 0, 1)],
        [wrote("a", 0, 1), read(None, 2, 3)],
        [wrote("a", 0, 1), wrote("b", 2, 3), read("a", 4, 5)],
        [wrote("a", 0, 9), wrote("b", 0, 9), read("a", 1, 2), read("b", 3, 4), read("a", 5, 6)],
        [wrote("a", 0, 1), wrote(None, 2, 3), read("a", 4, 5)],
        [wrote("a", 0, 1), wrote("b", 2), read("b", 3, 4), read("a", 5, 6)],
        [wrote("a", 5), read("a", 1, 2)],
        [wrote("a", 0, 1), wrote(None, 2), read(None, 3, 4), read("a", 5, 6), read(None, 7, 8)],
    ],
    ids=[
        "a value that no one wrote",
        "a write that was confirmed and lost",
        "an older value than the one that was confirmed",
        "two values in turns",
        "a deleted value",
        "a write without an answer that was seen, and is undone",
        "a value before it was written",
        "one delete without an answer that happens twice",
    ],
)
def test_a_wrong_history_of_a_register_has_no_order(steps: list[Step]) -> None:
    assert unexplained(steps)


@rows(
    "steps",
    [
        [read(None, 0, 1), wrote("a", 2, 3), read("a", 4, 5)],
        [wrote("a", 0, 3), read(None, 1, 2), read("a", 1, 4)],
        [wrote("a", 0, 9), wrote("b", 0, 9), read("b", 1, 2), read("a", 3, 4)],
        [wrote("a", 0), read(None, 1, 2), read("a", 3, 4)],
        [wrote("a", 0), read(None, 1, 2)],
        [wrote("a", 0, 1), wrote(None, 2), wrote(None, 3), read("a", 4, 5), read(None, 6, 7)],
    ],
    ids=[
        "one after another",
        "read while it is written",
        "two that are written at the same time",
        "a write without an answer that happens late",
        "a write without an answer that never happens",
        "deletes without an answer",
    ],
)
def test_a_right_history_of_a_register_has_an_order(steps: list[Step]) -> None:
    assert unexplained(steps) == []


def explained_by_some_order(steps: list[Step]) -> bool:
    """Try all orders of all choices of what happened: slow, and too simple to be wrong."""
    sure, maybe = [one for one in steps if one.ended < inf], [one for one in steps if one.ended == inf]
    for chosen in range(2 ** len(maybe)):
        happened = sure + [one for at, one in enumerate(maybe) if chosen >> at & 1 and one.writes]
        for order in permutations(happened):
            value, is_right = None, True
            for at, one in enumerate(order):
                is_right &= all(earlier.began <= one.ended for earlier in order[:at]) and (
                    one.writes or one.value == value
                )
                value = one.value if one.writes else value
            if is_right:
                return True
    return False


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    steps = []
    for number in range(draw(st.integers(1, 6))):
        writes = draw(st.booleans())
        began = draw(st.integers(0, 8))
        ended = draw(st.sampled_from([began + 1, began + 4, inf] if writes else [began + 1, began + 4]))
        value = draw(st.sampled_from([None, "a", "b", "c"]))
        steps.append(Step(began, ended, writes, value, number))
    return steps


@settings(max_examples=300)
@given(histories())
def test_the_search_decides_as_trying_all_orders_does(steps: list[Step]) -> None:
    assert (unexplained(steps) == []) == explained_by_some_order(steps)


@rows(
    "steps",
    [
        [wrote(1, 0, 1), wrote(1, 2, 3)],
        [wrote(1, 0, 3), wrote(1, 0, 3)],
        [wrote(1, 0, 1), read(0, 2, 3)],
        [wrote(1, 0, 1), read(2, 2, 3)],
        [wrote(1, 0, 1), wrote(None, 2), read(3, 4, 5)],
        [wrote(1, 0, 1), wrote(None, 2), read(2, 3, 4), read(1, 5, 6)],
        [read(1, 0, 1), wrote(1, 2, 3)],
    ],
    ids=[
        "a lost increment",
        "two that count as one",
        "a confirmed one that does not count",
        "one that counts twice",
        "one without an answer that counts twice",
        "a counter that falls",
        "one that counts before it is asked for",
    ],
)
def test_a_wrong_history_of_a_counter_is_found(steps: list[Step]) -> None:
    assert miscounted(steps)


@rows(
    "steps",
    [
        [read(0, 0, 1), wrote(1, 2, 3), wrote(2, 4, 5), read(2, 6, 7)],
        [wrote(2, 0, 3), wrote(1, 0, 3), read(1, 1, 2)],
        [wrote(None, 0), wrote(2, 1, 2), read(2, 3, 4)],
        [wrote(None, 0), wrote(1, 1, 2), read(2, 3, 4)],
        [wrote(None, 0), wrote(1, 1, 2), read(1, 3, 4)],
    ],
    ids=["one after another", "at the same time", "no answer, early", "no answer, late", "no answer, never"],
)
def test_a_right_history_of_a_counter_is_accepted(steps: list[Step]) -> None:
    assert miscounted(steps) == []
