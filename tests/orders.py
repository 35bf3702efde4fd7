"""Every order of a few requests' calls to a store, by the states that they lead to.

Two requests of ten calls each have 184,756 orders, but most of these meet again: the entries are the same, and so is
what the calls of each request have returned. From there on all is the same, too, so it is tried once. And where the
next two calls do not touch the same key, it is enough to make them in one order. This takes a hundredth of the runs, or
less. It needs requests that are deterministic, so what is random is a number here: whose, and which.
"""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import pytest
from msgspec.msgpack import encode

from starsessions.backends import base, epochs, user_index
from starsessions.stores import listed
from starsessions.stores.base import Conflict, Page
from starsessions.stores.memory import MemoryStore
from starsessions.testing.conformance.interleaving import Schedule, in_every_order, step


class _Call(NamedTuple):
    writes: bool
    keys: frozenset[str] | None
    """None: all, because it reads a list."""

    def commutes_with(self, other: "_Call") -> bool:
        if not (self.writes or other.writes):
            return True
        return self.keys is not None and other.keys is not None and self.keys.isdisjoint(other.keys)


class _Task:
    """What a task has drawn, and what the store has told it: from that follows what it does next."""

    def __init__(self, number: int) -> None:
        self.is_done = False
        self.next: _Call | None = None
        """The call that it waits for."""
        self._numbers = count((number << 24) + 1)  # no version is 0
        self._last = 0
        self._told: list[Hashable] = []

    def draw(self) -> int:
        self._last = next(self._numbers)
        return self._last

    def is_told(self, *answer: Hashable) -> None:
        self._told.append(answer)

    def state(self) -> Hashable:
        return self._last, tuple(self._told)


_task: ContextVar[_Task | None] = ContextVar("task", default=None)


def _draw() -> int:
    own = _task.get()
    assert own is not None
    return own.draw()


@contextmanager
def numbered() -> Iterator[None]:
    """What is random is a number instead, as long as this lasts."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (base, epochs, user_index, listed):
            patch.setattr(module, "urandom", lambda length: _draw().to_bytes(length))
        yield


@contextmanager
def task(number: int) -> Iterator[None]:
    """What is drawn meanwhile are the numbers of this task, from the first one on."""
    before = _task.set(_Task(number))
    try:
        yield
    finally:
        _task.reset(before)


_READS = {"get", "list", "count"}


class _Versions:
    def __next__(self) -> int:
        return _draw()


class Stepped(MemoryStore):
    """Stops before each call, for a schedule to say when to go on, and notes what its task has learned from it."""

    def __init__(self) -> None:
        super().__init__()
        if _task.get() is not None:
            self._versions = _Versions()  # type: ignore[assignment]

    def state(self) -> Hashable:
        return frozenset((key, self.peek(key, 0)) for key in self.all_keys())

    async def carry_out(self, verb: str, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do what the call is to do: a subclass can fail before it and after it.

        Args:
            verb: "get", "create", "replace", "delete", "write", "list" or "count".
            name: the key, or the owner that is listed, or of what is created.
            work: the call itself.
        """
        return await work()

    async def _call(
        self, verb: str, name: str, work: Callable[[], Awaitable[Any]], keys: Iterable[str] | None = None
    ) -> Any:
        own = _task.get() or _Task(0)
        own.next = _Call(verb not in _READS, None if keys is None else frozenset(keys))
        await step()
        told = own.is_told
        try:
            result = await self.carry_out(verb, name, work)
        except Conflict as error:
            told(verb, name, getattr(error, "index", None), error.current)
            raise
        except Exception as error:
            told(verb, name, type(error))
            raise
        told(verb, name, encode(result))
        return result

    async def get(self, key: str, *, now: int) -> Any:
        return await self._call("get", key, lambda: super(Stepped, self).get(key, now=now), [key])

    async def create(self, key: str, value: bytes, **how: Any) -> Any:
        owner = how.get("owner")
        name = owner.name if owner else key
        return await self._call("create", name, lambda: super(Stepped, self).create(key, value, **how), [key])

    async def replace(self, key: str, value: bytes, version: Any, **how: Any) -> Any:
        return await self._call("replace", key, lambda: super(Stepped, self).replace(key, value, version, **how), [key])

    async def delete(self, key: str, version: Any = None, *, now: int) -> bool:
        done: bool = await self._call("delete", key, lambda: super(Stepped, self).delete(key, version, now=now), [key])
        return done

    async def write_together(self, writes: Any, **how: Any) -> Any:
        keys = [one.key for one in writes]
        return await self._call("write", keys[0], lambda: super(Stepped, self).write_together(writes, **how), keys)

    async def list_owned(self, name: str, **how: Any) -> Page:
        page: Page = await self._call("list", name, lambda: super(Stepped, self).list_owned(name, **how))
        return page

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        owned: int = await self._call("count", name, lambda: super(Stepped, self).count_owned(name, most=most, now=now))
        return owned


class _Known(Exception):
    """What comes of this order was seen already."""


class Merging(Schedule):
    """A schedule that does not try again what follows from a state that it has seen."""

    def __init__(self, schedule: Schedule, seen: set[Hashable]) -> None:
        super().__init__(schedule._choices)
        self.order, self.taken = schedule.order, schedule.taken
        self._seen = seen
        self._is_known = False
        self._asleep: set[_Task] = set()
        """Tasks whose next call was tried before calls of others that commute with it."""

    async def beside(
        self,
        store: Stepped,
        shared: Callable[[], Hashable] | None = None,
        **tasks: Callable[[], Awaitable[Any]],
    ) -> dict[str, Any]:
        """Do what `together` does, and end the scenario there if what follows was seen already.

        Args:
            store: what the tasks share. Between two calls to it, each does what only it can notice.
            shared: returns all else that they share, or that is looked at in the end.
            tasks: what to run.
        """
        self._store, self._shared = store, shared
        self._tasks = [_Task(number) for number in range(1, len(tasks) + 1)]

        async def run(own: _Task, work: Callable[[], Awaitable[Any]]) -> Any:
            _task.set(own)
            try:
                return await work()
            finally:
                own.is_done = True

        started = zip(self._tasks, tasks.items(), strict=True)
        results = await self.together(**{name: partial(run, own, work) for own, (name, work) in started})
        if self._is_known:
            raise _Known
        return results

    def _choose(self, options: int) -> int:
        going = [task for task in self._tasks if not task.is_done]
        awake = [task for task in going if task not in self._asleep]
        if len(self.taken) >= len(self._choices) and not self._is_known:
            state = self._state()
            self._is_known = not awake or state in self._seen
            self._seen.add(state)
        if self._is_known:
            awake = going[:1]
        chosen = super()._choose(len(awake))
        tried = {*self._asleep, *awake[:chosen]}
        self._asleep = {task for task in tried if self._commute(task.next, awake[chosen].next)}
        return going.index(awake[chosen])

    def _state(self) -> Hashable:
        shared = self._shared and self._shared()
        return self._store.state(), shared, *(task.state() for task in self._tasks)

    def _commute(self, one: _Call | None, other: _Call | None) -> bool:
        return self._shared is None and one is not None and other is not None and one.commutes_with(other)


async def in_every_state(scenario: Callable[[Merging], Awaitable[None]], most: int = 5_000) -> int:
    """Run a scenario in as many orders as it takes to see all states, and return how many that are.

    The scenario must set up its own data each time, and begin with a `Stepped` store of its own.
    """
    seen: set[Hashable] = set()

    async def run(schedule: Schedule) -> None:
        with suppress(_Known), task(0):
            await scenario(Merging(schedule, seen))

    with numbered():
        return await in_every_order(run, most)
