"""Schedules: every order once, and nothing else."""

from collections.abc import Awaitable, Callable

import pytest
from anyio.lowlevel import checkpoint

from starsessions.testing.conformance.interleaving import Schedule, in_every_order, step
from tests.rows import rows

pytestmark = [pytest.mark.anyio, pytest.mark.once]


def walking(walked: list[str], name: str, steps: int) -> Callable[[], Awaitable[str]]:
    async def walk() -> str:
        for _ in range(steps):
            await step()
            await checkpoint()
            walked.append(name)
        return name.upper()

    return walk


@rows(
    ("steps", "orders"),
    [
        ({"a": 1}, 1),
        ({"a": 0, "b": 3}, 1),
        ({"a": 1, "b": 1}, 2),
        ({"a": 2, "b": 2}, 6),  # 4! / (2! * 2!)
        ({"a": 3, "b": 2}, 10),
        ({"a": 2, "b": 2, "c": 2}, 90),  # 6! / (2! * 2! * 2!)
        ({"a": 3, "b": 2, "c": 2}, 210),
    ],
)
async def test_each_order_of_the_steps_is_run_once(steps: dict[str, int], orders: int) -> None:
    seen: list[str] = []

    async def scenario(schedule: Schedule) -> None:
        walked: list[str] = []
        results = await schedule.together(**{name: walking(walked, name, count) for name, count in steps.items()})
        assert results == {name: name.upper() for name in steps}
        assert walked == schedule.order
        seen.append("".join(walked))

    assert await in_every_order(scenario) == orders
    assert len(seen) == len(set(seen)) == orders


async def test_tasks_are_told_apart_by_the_order_in_which_they_end() -> None:
    ends = set()

    async def scenario(schedule: Schedule) -> None:
        results = await schedule.together(a=walking([], "a", 2), b=walking([], "b", 1))
        ends.add((*results, *schedule.order))

    await in_every_order(scenario)
    assert ends == {("a", "b", "a", "a", "b"), ("b", "a", "a", "b", "a"), ("b", "a", "b", "a", "a")}


async def test_an_error_says_in_which_order_it_came() -> None:
    async def scenario(schedule: Schedule) -> None:
        walked: list[str] = []
        await schedule.together(one=walking(walked, "one", 1), other=walking(walked, "other", 2))
        assert walked != ["other", "one", "other"], "so it is"

    with pytest.raises(AssertionError, match="so it is") as failed:
        await in_every_order(scenario)
    assert failed.value.__notes__ == ["in the order: other, one, other"]


async def test_an_error_in_a_task_ends_the_others() -> None:
    async def fail() -> None:
        await step()
        raise ValueError("broken")

    async def scenario(schedule: Schedule) -> None:
        await schedule.together(one=fail, other=walking([], "other", 2))

    with pytest.raises(ExceptionGroup) as failed:
        await in_every_order(scenario)
    assert failed.group_contains(ValueError, match="broken")


async def test_more_orders_than_asked_for_are_an_error() -> None:
    async def scenario(schedule: Schedule) -> None:
        await schedule.together(a=walking([], "a", 2), b=walking([], "b", 2))

    assert await in_every_order(scenario, most=6) == 6
    with pytest.raises(RuntimeError, match="more than 5 orders"):
        await in_every_order(scenario, most=5)


@rows("more", [False, True])
async def test_tasks_that_are_not_deterministic_are_detected(more: bool) -> None:
    steps = iter([1, 2] if more else [2, 1, 1])

    async def scenario(schedule: Schedule) -> None:
        first = walking([], "a", next(steps))
        await schedule.together(a=first, b=walking([], "b", 1), c=walking([], "c", 1))

    with pytest.raises(ExceptionGroup) as failed:
        await in_every_order(scenario)
    assert failed.group_contains(RuntimeError, match="make the tasks deterministic")


async def test_a_step_outside_of_a_schedule_does_not_wait() -> None:
    await step()
