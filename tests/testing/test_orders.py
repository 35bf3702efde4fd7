"""The states that requests can lead to: all of them, by fewer runs than there are orders."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from typing import Any

import pytest

from starsessions.stores.base import Conflict, Creation, Owner
from starsessions.testing.conformance.interleaving import Schedule, in_every_order
from tests.orders import Merging, Stepped, in_every_state
from tests.rows import rows

pytestmark = [pytest.mark.anyio, pytest.mark.once]

LATER = {"expires_at": 10, "now": 0}


class Visitor:
    """Reads, writes and deletes, and does what comes next by what it has seen."""

    def __init__(self, store: Stepped, steps: str) -> None:
        self.store = store
        self.steps = steps
        self.seen: list[Any] = []

    async def visit(self) -> None:
        for at, verb in enumerate(self.steps):
            with suppress(Conflict):
                await getattr(self, f"_{verb}")(f"{self.steps}{at}{self.seen}".encode())

    async def _r(self, _: bytes) -> None:
        found = await self.store.get("one", now=0)
        self.seen.append(found and found.value)

    async def _w(self, value: bytes) -> None:
        found = await self.store.get("one", now=0)
        if found is not None:
            await self.store.replace("one", value, found.version, **LATER)

    async def _c(self, value: bytes) -> None:
        await self.store.write_together([Creation("one", value, 10)], now=0)

    async def _d(self, _: bytes) -> None:
        self.seen.append(await self.store.delete("one", now=0))

    async def _a(self, value: bytes) -> None:
        await self.store.create("other", value, **LATER, owner=Owner("ann", 1))

    async def _l(self, _: bytes) -> None:
        page = await self.store.list_owned("ann", limit=2, now=0)
        self.seen.append(len(page.entries) + await self.store.count_owned("ann", most=2, now=0))


def outcome(store: Stepped, visitors: Sequence[Visitor]) -> Any:
    left = [store.peek(key, 0) for key in ("one", "other")]
    return tuple(entry and entry.value for entry in left), tuple(tuple(one.seen) for one in visitors)


async def visits(schedule: Any, steps: Sequence[str], outcomes: set[Any], begin: Callable[..., Any]) -> None:
    store = Stepped()
    visitors = [Visitor(store, one) for one in steps]
    await store.create("one", b"", **LATER)
    await begin(schedule, store)(**{str(at): one.visit for at, one in enumerate(visitors)})
    outcomes.add(outcome(store, visitors))


STEPS = ["rr", "ww", "rw", "dc", "cd", "wa", "ar", "l", "al"]


@rows(
    "steps", [*product(STEPS, STEPS), ("r", "w", "d"), ("rw", "c", "d"), ("ar", "cd", "rw"), ("l", "a", "l")], ids=str
)
async def test_all_that_can_come_of_every_order_comes_of_the_orders_that_are_tried(steps: Sequence[str]) -> None:
    expected: set[Any] = set()
    seen: set[Any] = set()

    def beside(schedule: Merging, store: Stepped) -> Callable[..., Any]:
        return partial(schedule.beside, store)

    def together(schedule: Schedule, store: Stepped) -> Callable[..., Any]:
        return schedule.together

    orders = await in_every_order(partial(visits, steps=steps, outcomes=expected, begin=together))
    tried = await in_every_state(partial(visits, steps=steps, outcomes=seen, begin=beside))
    assert seen == expected
    assert tried <= orders


async def test_readers_need_no_more_orders_than_they_have_states() -> None:
    async def scenario(schedule: Merging) -> None:
        store = Stepped()
        visitors = [Visitor(store, "r" * 9) for _ in range(2)]
        await schedule.beside(store, one=visitors[0].visit, other=visitors[1].visit)

    assert await in_every_state(scenario) < 100  # the orders are 48620


async def test_an_error_in_one_order_is_found() -> None:
    async def scenario(schedule: Merging) -> None:
        store = Stepped()
        one, other = Visitor(store, "rrrd"), Visitor(store, "rrcr")
        await schedule.beside(store, one=one.visit, other=other.visit)
        assert (one.seen[-1], other.seen[-1]) != (True, None), "so it is"

    with pytest.raises(AssertionError, match="so it is") as failed:
        await in_every_state(scenario)
    assert failed.value.__notes__[0].startswith("in the order: ")


async def test_what_tasks_share_besides_the_store_is_a_part_of_the_state() -> None:
    seen = set()

    async def scenario(schedule: Merging) -> None:
        store, order = Stepped(), list[str]()

        async def visit(name: str) -> None:
            for _ in range(2):
                await store.get("one", now=0)
                order.append(name)

        await schedule.beside(store, lambda: tuple(order), one=partial(visit, "1"), other=partial(visit, "2"))
        seen.add("".join(order))

    assert await in_every_state(scenario) == 6
    assert seen == {"1122", "1212", "1221", "2112", "2121", "2211"}
