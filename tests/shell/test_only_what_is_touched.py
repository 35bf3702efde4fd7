"""Only what a handler has touched is compared and encoded. So whatever it does, what is stored has to be what it has.

Each handler here runs twice: with a session, and with a plain dict, which shows what the data must be.
"""

import asyncio
from collections.abc import Callable
from copy import deepcopy
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starsessions import ResponseStarted, Session
from starsessions.core.merge import same, same_items
from tests.kinds import BACKENDS
from tests.rows import rows
from tests.shell.test_websocket import ACCEPT, CLOSE, connect
from tests.site import Clock, Site

keys = st.sampled_from("abcd")
scalars = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "a: b", "é"])
values = st.recursive(
    scalars | st.just(date(2024, 5, 6)),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
        | st.sets(scalars, max_size=2)
    ),
    max_leaves=4,
)


class World:
    """A dict, and what a handler holds of it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.held: list[Any] = []

    def hold(self, *parts: Any) -> None:
        for part in parts:
            self.held.append(part)
            if isinstance(part, (list, tuple)):
                self.hold(*part)
            elif isinstance(part, dict):
                self.hold(*part.values())

    def one(self, number: int) -> Any:
        return self.held[number % len(self.held)] if self.held else None


Step = Callable[[World], Any]


def put(key: str, value: Any) -> Step:
    return lambda world: world.data.__setitem__(key, deepcopy(value))


def put_twice(key: str, other: str) -> Step:
    return lambda world: world.data.__setitem__(other, world.data.get(key))


def put_held(key: str, number: int) -> Step:
    return lambda world: world.data.__setitem__(key, world.one(number))


def take(key: str) -> Step:
    return lambda world: world.hold(world.data[key]) if key in world.data else None


def get(key: str, value: Any) -> Step:
    return lambda world: world.hold(world.data.get(key, deepcopy(value)))


def set_default(key: str, value: Any) -> Step:
    return lambda world: world.hold(world.data.setdefault(key, deepcopy(value)))


def change_held(number: int, value: Any) -> Step:
    def change(world: World) -> None:
        part = world.one(number)
        if isinstance(part, list):
            part.append(deepcopy(value))
        elif isinstance(part, dict):
            part["c"] = deepcopy(value)
        elif isinstance(part, set):
            part.add("c")

    return change


def change_back(number: int) -> Step:
    def change(world: World) -> None:
        part = world.one(number)
        if isinstance(part, list) and part:
            part.pop()
        elif isinstance(part, dict):
            part.pop("c", None)
        elif isinstance(part, set):
            part.discard("c")

    return change


def reverse(number: int) -> Step:
    return lambda world: world.one(number).reverse() if isinstance(world.one(number), list) else None


def pop(key: str) -> Step:
    return lambda world: world.hold(world.data.pop(key, None))


def move_to_the_end(key: str) -> Step:
    return lambda world: world.data.__setitem__(key, world.data.pop(key, 0))


def delete(key: str) -> Step:
    return lambda world: world.data.__delitem__(key) if key in world.data else None


def update(items: dict[str, Any]) -> Step:
    return lambda world: world.data.update(deepcopy(items))


def merge(items: dict[str, Any]) -> Step:
    return lambda world: world.data.__ior__(deepcopy(items))


def pop_item(world: World) -> None:
    if world.data:
        world.hold(world.data.popitem()[1])


items = st.dictionaries(keys, values, max_size=3)
numbers = st.integers(0, 9)
steps = st.lists(
    st.one_of(
        st.builds(put, keys, values),
        st.builds(put_twice, keys, keys),
        st.builds(put_held, keys, numbers),
        st.builds(take, keys),
        st.builds(get, keys, values),
        st.builds(set_default, keys, values),
        st.builds(change_held, numbers, values),
        st.builds(change_held, numbers, values),
        st.builds(change_back, numbers),
        st.builds(reverse, numbers),
        st.builds(pop, keys),
        st.builds(move_to_the_end, keys),
        st.builds(delete, keys),
        st.builds(update, items),
        st.builds(merge, items),
        st.just(pop_item),
        st.just(lambda world: world.data.clear()),
        st.just(lambda world: world.hold(*world.data.values())),
        st.just(lambda world: world.hold(*dict(world.data.items()).values())),
        st.just(lambda world: world.hold(*world.data.copy().values())),
    ),
    max_size=8,
)


class Handler:
    """Takes the same steps with a session and with a dict."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.plain = World(deepcopy(start))
        self.real: World | None = None

    async def take(self, steps: list[Step], session: Session) -> None:
        await session.load()
        if self.real is None:
            self.real = World(session)
        for step in steps:
            step(self.real)
            step(self.plain)

    @property
    def wrote(self) -> bool:
        assert self.real is not None
        assert isinstance(self.real.data, Session)
        return self.real.data.__starsessions__.wrote


def alike(one: Any, other: Any) -> bool:
    return same(one, other) and [*one] == [*other]


@pytest.mark.guarantee(2)
@rows("kind", list(BACKENDS))
@given(start=items, taken=steps)
def test_whatever_a_handler_does_is_saved_and_nothing_else_is_written(
    kind: str, start: dict[str, Any], taken: list[Step]
) -> None:
    async def play() -> None:
        site = Site(backend=BACKENDS[kind](Clock()), autoload=True)
        await site.visit(lambda session: session.update(deepcopy(start)))
        handler = Handler(start)

        await site.visit(lambda session: handler.take(taken, session))

        assert handler.wrote is not same_items(handler.plain.data, start)
        found = await site.data()
        # What is as it was is not written, also if it has another order.
        assert alike(found, handler.plain.data if handler.wrote else start)

    asyncio.run(play())


@pytest.mark.guarantee(2)
@rows("kind", ["memory", "stored", "custom"])
@given(start=items, taken=steps, saved=st.lists(steps, max_size=3), late=steps)
def test_whatever_a_handler_does_after_a_save_by_hand_is_saved(
    kind: str, start: dict[str, Any], taken: list[Step], saved: list[list[Step]], late: list[Step]
) -> None:
    async def play() -> None:
        site = Site(backend=BACKENDS[kind](Clock()), autoload=True)
        await site.visit(lambda session: session.update(deepcopy(start)))
        handler = Handler(start)

        async def connected(session: Session, send: Any) -> None:
            await handler.take([*taken, put("e", "not empty, so that the browser has a cookie")], session)
            await send(ACCEPT)
            for some in saved:
                await handler.take(some, session)
                again = Session(site.app.config.backend, await session.persist())
                await again.load()
                assert same_items(dict(again), handler.plain.data)
            await handler.take(late, session)
            await send(CLOSE)

        await connect(site, connected)

        assert same_items(await site.data(), handler.plain.data)

    asyncio.run(play())


@pytest.mark.anyio
@rows("put", [lambda session, cart: session.update(cart=cart), lambda session, cart: session.__setitem__("cart", cart)])
async def test_a_list_that_was_set_and_is_changed_after_the_response_is_no_silent_loss(
    put: Callable[[Session, list[int]], object],
) -> None:
    site, cart = Site(backend=BACKENDS["memory"](Clock()), autoload=True), [1]

    with pytest.raises(ResponseStarted):
        await site.visit(lambda session: put(session, cart), after=lambda session: cart.append(2))
