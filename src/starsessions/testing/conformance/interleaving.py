"""Run a few tasks in every possible order of their steps, deterministically and without sleeping.

A step is a call to the store. Each task waits before each of its calls until it is chosen, and one task runs at a time.
Between two calls a task shares nothing with the others. So these are all possible orders, as long as each call is
atomic, which the rules of a store check.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from copy import copy
from types import SimpleNamespace
from typing import Any

from anyio import Event, create_task_group

from starsessions.backends.base import SessionBackend
from starsessions.backends.server_side import StoreBackend

VERBS = ("get", "create", "replace", "delete", "list_owned", "count_owned", "write_together", "get_joined")
"""The methods of a store that requests call. Not every store has the last four."""

REFUSED = ": refused"
"""How the record of a batch ends that the store could not carry out."""


class _Walker:
    """A task, and whether it has paused before a step or ended."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.may_go = Event()
        self.has_paused = Event()
        self.is_done = False

    async def pause(self) -> None:
        self.may_go = Event()
        self.has_paused.set()
        await self.may_go.wait()

    async def go(self) -> None:
        self.has_paused = Event()
        self.may_go.set()
        await self.has_paused.wait()


_walker: ContextVar[_Walker | None] = ContextVar("starsessions.testing.walker", default=None)


class Schedule:
    """One order of steps. Calls outside `together` run immediately."""

    def __init__(self, choices: Sequence[tuple[int, int]] = ()) -> None:
        self.order: list[str] = []
        """The name of the task that took each step."""
        self.taken: list[tuple[int, int]] = []
        """For each step, the index of the chosen task and the number of tasks."""
        self._choices = choices
        """What the first steps must be."""

    async def together(self, **tasks: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
        """Run the tasks to their ends, step by step. Return their results, in the order in which they ended."""
        walkers = [_Walker(name) for name in tasks]
        results: dict[str, Any] = {}

        async def walk(walker: _Walker) -> None:
            _walker.set(walker)
            try:
                results[walker.name] = await tasks[walker.name]()
            finally:
                walker.is_done = True
                walker.has_paused.set()

        async with create_task_group() as group:
            for walker in walkers:
                group.start_soon(walk, walker)
                await walker.has_paused.wait()  # before its first step, or at its end
            while going := [walker for walker in walkers if not walker.is_done]:
                walker = going[self._choose(len(going))]
                self.order.append(walker.name)
                await walker.go()
        return results

    def _choose(self, options: int) -> int:
        step = len(self.taken)
        choice, expected = self._choices[step] if step < len(self._choices) else (0, options)
        if options != expected:
            raise RuntimeError("The same steps led to a different state: make the tasks deterministic.")
        self.taken.append((choice, options))
        return choice


async def in_every_order(scenario: Callable[[Schedule], Awaitable[None]], most: int = 5_000) -> int:
    """Run a scenario once for each order of the steps in its `together`, and return the number of orders.

    The scenario must set up its own data each time. If it fails, a note on the error names the order.

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
    choices: list[tuple[int, int]] = []
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
        choice, options = taken.pop()
        choices = [*taken, (choice + 1, options)]
    raise RuntimeError(f"There are more than {most} orders: use fewer tasks or steps, or raise most=….")


async def step() -> None:
    """Wait until the current task is chosen. Outside a schedule, do nothing."""
    walker = _walker.get()
    if walker is not None:
        await walker.pause()


def stepped(backend: SessionBackend) -> tuple[SessionBackend, list[str]]:
    """Return a copy of the backend with a step before each call to its store, and a list that records these calls.

    For other backends than a `StoreBackend`, the steps are before its own four methods.
    """
    calls: list[str] = []

    def with_step(owner: object, verb: str) -> Callable[..., Awaitable[Any]]:
        call = getattr(owner, verb)

        async def pause_and_call(*args: Any, **kwargs: Any) -> Any:
            await step()
            calls.append(verb)
            result = await call(*args, **kwargs)
            if verb == "write_together" and result is None:
                calls[-1] = f"{verb} of {len(args[0])}{REFUSED}"
            return result

        return pause_and_call

    twin: Any = copy(backend)
    if isinstance(backend, StoreBackend):
        twin.store = SimpleNamespace(
            **{verb: with_step(backend.store, verb) for verb in VERBS if hasattr(backend.store, verb)}
        )
    else:
        for verb in ("read", "write", "remove", "exists"):
            setattr(twin, verb, with_step(backend, verb))
    return twin, calls
