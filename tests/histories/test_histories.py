"""Random clients against real servers on real stores: whatever fails, what was answered is true.

`python -m tests.histories` runs the same for longer, and under more conditions.
"""

from dataclasses import replace

import pytest

from tests.histories.checker import Violation, check
from tests.histories.conditions import CONDITIONS, OTHERS
from tests.histories.run import Condition, run

pytestmark = pytest.mark.once


def violations(condition: Condition) -> list[Violation]:
    found = check(run(condition).history, condition.rules)
    return [one for one in found if one.promise not in condition.costs]


def shown(found: list[Violation]) -> str:
    return "\n".join(map(str, found))


@pytest.mark.guarantee(20)
@pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"])
def test_what_is_answered_is_true(store: str) -> None:
    found = violations(Condition(store, operations=300))
    assert not found, shown(found)


@pytest.mark.guarantee(20)
@pytest.mark.parametrize(
    "condition",
    [
        Condition("redis", faults=("kill", "proxy"), operations=300, strikes=2, ends_with_kill=True),
        Condition("sqlite", faults=("workers",), leave=0.1, operations=300, strikes=2),
    ],
    ids=["the store is killed, and its answers are lost", "workers are killed and paused, and clients leave"],
)
def test_what_is_answered_is_true_whatever_fails(condition: Condition) -> None:
    found = violations(condition)
    assert not found, shown(found)


def test_a_store_that_forgets_is_found_out() -> None:
    """The control: Redis without persistence, killed."""
    found = violations(Condition("redis-forgetful", operations=200, ends_with_kill=True))
    assert "what was not ended lives" in {one.promise for one in found}


@pytest.mark.wide
@pytest.mark.parametrize(
    "name", [name for name, one in CONDITIONS.items() if one.faults or one.skew or one.leave or one.settings]
)
def test_what_is_answered_is_true_for_longer(name: str) -> None:
    found = violations(replace(CONDITIONS[name], servers=OTHERS, seconds=15))
    assert not found, shown(found)
