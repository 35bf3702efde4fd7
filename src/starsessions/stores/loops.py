"""One object for each event loop: a connection cannot be used in another loop, nor in a forked process."""

from asyncio import AbstractEventLoop, Task, get_running_loop
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from types import AsyncGeneratorType
from typing import Generic, TypeVar
from weakref import finalize

from starsessions.exceptions import ImproperlyConfigured

T = TypeVar("T")

SOON = 1.0
"""Seconds after which what belonged to a dropped owner is closed."""

_tasks: set[Task[None]] = set()

Close = Callable[[T], Awaitable[object]]

_closing_at_the_end: dict[AbstractEventLoop, set[AsyncGenerator[None]]] = {}
"""The generators of each loop. Without this reference, those of an owner that is dropped early (as in
`asyncio.run(SQLAlchemyBackend(url).create_table())`) would be destroyed in the middle of closing."""


def running_loop() -> AbstractEventLoop:
    """Return the running event loop of asyncio.

    Raises:
        ImproperlyConfigured: another library runs the application.
    """
    try:
        return get_running_loop()
    except RuntimeError:
        raise ImproperlyConfigured(
            "This store needs asyncio, and the application runs without it, for instance on trio: run the server with "
            "asyncio, or keep the sessions in cookies or in memory."
        ) from None


class PerLoop(Generic[T]):
    """Make an object when it is first used in an event loop, and close it when that loop ends.

    An event loop that ends closes its asynchronous generators (PEP 525), and `asyncio.run()`, servers and test clients
    see to that. So each object is closed by a generator of its loop: after `asyncio.run()` nothing is open that a
    process could inherit by a fork. An object whose loop was closed without that is dropped.

    Args:
        make: returns a new object. It is called in the event loop, perhaps by several threads at once.
        close: closes an object, in its event loop.
        is_owner: close the objects also soon after this was dropped. False: the application may still use one of them.
    """

    def __init__(self, make: Callable[[], T], close: Close[T], *, is_owner: bool = True) -> None:
        self._make = make
        self._close = close
        self.is_owner = is_owner
        self._open: dict[AbstractEventLoop, tuple[T, AsyncGenerator[None]]] = {}
        if is_owner:
            finalize(self, _close_soon, self._open).atexit = False

    def get(self) -> T:
        """Return the object of the running event loop."""
        loop = running_loop()
        found = self._open.get(loop)
        return self._new(loop) if found is None else found[0]

    async def aclose(self) -> None:
        """Close the object of the running event loop, if there is one. `get` makes a new one."""
        loop = running_loop()
        found = self._open.pop(loop, None)
        if found is not None:
            _closing_at_the_end[loop].discard(found[1])
            await found[1].aclose()

    def _new(self, loop: AbstractEventLoop) -> T:
        for held in (self._open, _closing_at_the_end):
            for ended in [other for other in list(held) if other.is_closed()]:
                held.pop(ended, None)
        new = self._make()
        closing = _closing(new, self._close)
        with suppress(StopIteration):  # it is at its `yield`
            closing.asend(None).send(None)
        self._open[loop] = new, closing
        _closing_at_the_end.setdefault(loop, set()).add(closing)
        return new


def _close_soon(opened: Mapping[AbstractEventLoop, tuple[object, AsyncGenerator[None]]]) -> None:
    """Close what a dropped owner has left open in loops that go on. One that ends before does it, and does it whole."""
    for loop, (_, closing) in opened.items():
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(loop.call_later, SOON, _close_now, loop, closing)


def _close_now(loop: AbstractEventLoop, closing: AsyncGenerator[None]) -> None:
    # A loop that is ending has closed it, and may not run another task.
    if isinstance(closing, AsyncGeneratorType) and closing.ag_frame is None:
        return

    async def close() -> None:
        with suppress(RuntimeError):  # the loop is ending, and closes it
            await closing.aclose()

    task = loop.create_task(close())
    task.add_done_callback(lambda _: _closing_at_the_end[loop].discard(closing))
    task.add_done_callback(_tasks.discard)
    _tasks.add(task)


async def _closing(one: T, close: Close[T]) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await close(one)
