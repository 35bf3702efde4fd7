"""A few tasks, in every order in which they can take their steps. No sleeps, and nothing is left to chance.

A step is a call to the store: a task stands still before each of its own until it is its turn, and one task at a time
goes. Between two calls a task shares nothing with the others, so these orders are all that can happen, as long as each
call is atomic (which the rules of a store show).
"""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from copy import copy
from types import SimpleNamespace
from typing import Any

from anyio import Event, create_task_group

from starsessions.backends.base import SessionBackend
from starsessions.backends.server_side import StoreBackend

VERBS = ("get", "create", "replace", "delete")
"""Of a store."""


class _Walker:
    """A task, and whether it stands before a step or has arrived at its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.may_go = Event()
        self.stands = Event()
        self.is_done = False

    async def stand(self) -> None:
        self.may_go = Event()
        self.stands.set()
        await self.may_go.wait()

    async def go(self) -> None:
        self.stands = Event()
        self.may_go.set()
        await self.stands.wait()


_walker: ContextVar[_Walker | None] = ContextVar("starsessions.testing.walker", default=None)


class Schedule:
    """One order. What is done outside of `together` goes ahead at once."""

    def __init__(self, choices: Sequence[int] = ()) -> None:
        self.order: list[str] = []
        """Whose step each was."""
        self.taken: list[tuple[int, int]] = []
        """At each step, which of how many tasks went."""
        self._choices = choices

    async def together(self, **tasks: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
        """Run these to their ends, step by step; what they return, in the order in which they ended."""
        walkers = [_Walker(name) for name in tasks]
        results: dict[str, Any] = {}

        async def walk(walker: _Walker) -> None:
            _walker.set(walker)
            try:
                results[walker.name] = await tasks[walker.name]()
            finally:
                walker.is_done = True
                walker.stands.set()

        async with create_task_group() as group:
            for walker in walkers:
                group.start_soon(walk, walker)
                await walker.stands.wait()  # before its first step, or at its end
            while going := [walker for walker in walkers if not walker.is_done]:
                walker = going[self._choose(len(going))]
                self.order.append(walker.name)
                await walker.go()
        return results

    def _choose(self, options: int) -> int:
        step = len(self.taken)
        choice = self._choices[step] if step < len(self._choices) else 0
        if choice >= options:
            raise RuntimeError("The same steps have led elsewhere: there is chance in what the tasks do.")
        self.taken.append((choice, options))
        return choice


async def in_every_order(scenario: Callable[[Schedule], Awaitable[None]], most: int = 5_000) -> int:
    """Run a scenario once for each order of the steps in its `together`, and say how many there were.

    A scenario begins afresh each time. If it fails, the order stands in a note of the error.

    >>> import anyio
    >>> async def main():
    ...     seen = set()
    ...     async def scenario(schedule):
    ...         said = []
    ...         async def say(word):
    ...             await step()
    ...             said.append(word)
    ...         await schedule.together(one=lambda: say("one"), other=lambda: say("other"))
    ...         seen.add(" ".join(said))
    ...     return await in_every_order(scenario), sorted(seen)
    >>> anyio.run(main)
    (2, ['one other', 'other one'])
    """
    choices: list[int] = []
    for count in range(1, most + 1):
        schedule = Schedule(choices)
        try:
            await scenario(schedule)
        except Exception as error:
            error.add_note(f"in the order: {', '.join(schedule.order)}")
            raise
        taken = schedule.taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return count
        choices = [choice for choice, _ in taken]
        choices[-1] += 1
    raise RuntimeError(f"There are more than {most} orders.")


async def step() -> None:
    """Wait for one's turn, in a task of a schedule; anywhere else, go on."""
    walker = _walker.get()
    if walker is not None:
        await walker.stand()


def stepped(backend: SessionBackend) -> tuple[SessionBackend, list[str]]:
    """The same backend, with a step before each call to its store, and the list that will name these calls.

    A backend that is no `StoreBackend` takes its steps before its own four calls.
    """
    calls: list[str] = []

    def with_step(owner: object, verb: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(owner, verb)

        async def stand_and_call(*args: Any, **kwargs: Any) -> Any:
            await step()
            calls.append(verb)
            return await call(*args, **kwargs)

        return stand_and_call

    twin: Any = copy(backend)
    if isinstance(backend, StoreBackend):
        twin.store = SimpleNamespace(**{verb: with_step(backend.store, verb) for verb in VERBS})
    else:
        for verb in ("read", "write", "remove", "exists"):
            setattr(twin, verb, with_step(backend, verb))
    return twin, calls
