"""Is there an order in which one register explains all that was read from it? And the same for a counter.

The search is that of Wing and Gong, with the memory of Lowe: a state is the set of steps that were taken and the value
that they leave. A step may come next if no other step had ended before it began. A read that fits is taken at once,
because it changes nothing. A write without an answer may be taken at any later time, or never.
"""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any, NamedTuple


class Step(NamedTuple):
    """One read or write of a register, or one increment of a counter."""

    began: float
    ended: float
    """Infinity: it may never have happened."""
    writes: bool
    value: Any
    number: int = 0


def _beginning(step: Step) -> tuple[float, int]:
    return step.began, step.number


def unexplained(steps: Iterable[Step], initial: Any = None) -> list[Step]:
    """Return the steps at which every order fails; none if there is an order."""
    steps = sorted(steps, key=_beginning)
    sure = [one for one in steps if one.ended < inf]
    read = {one.value for one in sure if not one.writes}
    # A write that may never have happened, and whose value was never read, explains nothing.
    maybe = [one for one in steps if one.ended == inf and one.writes and (one.value is None or one.value in read)]
    waiting, known = [(0, 0, initial)], set()
    furthest, stuck = -1, []
    while waiting:
        state = waiting.pop()
        if state in known:
            continue
        known.add(state)
        done, used, value = state
        ready, limit = _ready(sure, done)
        if not ready:
            return []
        fitting = next((at for at in ready if not sure[at].writes and sure[at].value == value), None)
        if fitting is not None:
            waiting.append((done | 1 << fitting, used, value))
            continue
        waiting += [(done, used | 1 << at, maybe[at].value) for at in _possible(maybe, used, limit)]
        waiting += [(done | 1 << at, used, sure[at].value) for at in ready if sure[at].writes]
        if done.bit_count() > furthest:
            furthest, stuck = done.bit_count(), [sure[at] for at in ready]
    return stuck


def _ready(sure: Sequence[Step], done: int) -> tuple[list[int], float]:
    """Which steps may come next, and when the first of those ended that have not been taken."""
    ready, limit = [], inf
    for at in range((~done & done + 1).bit_length() - 1, len(sure)):  # the first that was not taken
        if sure[at].began > limit:
            break
        if not done >> at & 1:
            ready.append(at)
            limit = min(limit, sure[at].ended)
    return ready, limit


def _possible(maybe: Sequence[Step], used: int, limit: float) -> list[int]:
    """Which uncertain steps may come next; of those that do the same, the earliest is enough."""
    first: dict[Any, int] = {}
    for at, one in enumerate(maybe):
        if one.began <= limit and not used >> at & 1:
            first.setdefault(one.value, at)
    return list(first.values())


def miscounted(steps: Iterable[Step]) -> list[Step]:
    """Return the answers of a counter that are wrong: `writes` are increments, which answer with the new value.

    An answer is at least the number of increments that were confirmed before, and at most the number of those that had
    begun; it never falls, and no two increments have the same answer.
    """
    steps = list(steps)
    increments = [one for one in steps if one.writes]
    answered = [one for one in steps if one.ended < inf]
    values = [one.value for one in increments if one.ended < inf]
    wrong = []
    for one in answered:
        least = sum(other.ended < one.began for other in increments) + one.writes
        most = sum(other.began <= one.ended for other in increments)
        highest = max((other.value for other in answered if other.ended < one.began), default=0) + one.writes
        if not max(least, highest) <= one.value <= most or (one.writes and values.count(one.value) > 1):
            wrong.append(one)
    return wrong
