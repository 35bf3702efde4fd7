"""Random clients against real servers on real stores: whatever fails, what was answered is true.

`python -m tests.histories` runs the same for longer, and under more conditions.
"""

import pytest

from tests.histories.checker import Violation, check
from tests.histories.run import Condition, run

pytestmark = pytest.mark.once

AFAR = {"what was not ended lives", "what is dead stays dead", "what lives is listed", "what is listed lives"}
"""What clocks may cost that are further apart than a minute: sessions, and never their ends."""


def violations(condition: Condition) -> list[Violation]:
    return check(run(condition).history, condition.rules)


def shown(found: list[Violation]) -> str:
    return "\n".join(map(str, found))


@pytest.mark.guarantee(20)
@pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"])
def test_what_is_answered_is_true(store: str) -> None:
    found = violations(Condition(store, operations=500))
    assert not found, shown(found)


@pytest.mark.guarantee(20)
@pytest.mark.parametrize(
    "condition",
    [
        Condition("redis", faults=("kill", "proxy"), operations=400, strikes=3, ends_with_kill=True),
        Condition("sqlite", faults=("workers",), leave=0.1, operations=400, strikes=2),
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


WIDE = ("hypercorn-uvloop-2-workers", "granian-2-workers")


@pytest.mark.wide
@pytest.mark.parametrize(
    "condition",
    [
        Condition("redis", WIDE, ("kill", "pause", "workers", "proxy"), seconds=20, ends_with_kill=True),
        Condition("redis-cluster", WIDE, ("move", "failover"), seconds=20),
        Condition("redis-sentinel", WIDE, leave=0.1, seconds=10),
        Condition("postgres", WIDE, ("kill", "pause", "workers", "proxy"), seconds=20, ends_with_kill=True),
        Condition("postgres-psycopg", WIDE, ("pause", "proxy"), seconds=20, ends_with_kill=True),
        Condition("mariadb", WIDE, ("kill", "pause", "proxy"), seconds=20, ends_with_kill=True),
        Condition("redis", WIDE, skew=29, seconds=10),
    ],
    ids=lambda condition: " ".join([condition.store, *condition.faults]),
)
def test_what_is_answered_is_true_for_longer(condition: Condition) -> None:
    found = violations(condition)
    assert not found, shown(found)


@pytest.mark.wide
@pytest.mark.parametrize("store", ["redis", "postgres", "sqlite"])
def test_clocks_that_are_wrong_cost_sessions_and_never_their_ends(store: str) -> None:
    found = [one for one in violations(Condition(store, skew=90, seconds=8)) if one.promise not in AFAR]
    assert not found, shown(found)
