"""Interrupts a call at each of its lines by another thread, so that what two threads do to each other is not luck."""

import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from types import FrameType, ModuleType
from typing import Any

Call = Callable[[], Any]


class Lock:
    """Replaces the locks of a module, so that it is known when the second thread waits for the first."""

    waits: threading.Event = threading.Event()

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            Lock.waits.set()
            self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()


def outcome(call: Call) -> Any:
    """Return what a call returns, or the exception that it raises."""
    try:
        return call()
    except Exception as error:
        return error


class _Interrupted:
    """The first call, in a thread of its own, and the second one at a line of it."""

    def __init__(self, first: Call, second: Call, modules: set[str], lines: int) -> None:
        self._second, self._modules, self._left = second, modules, lines
        self.was_reached = False
        self.outcomes: list[Any] = [None, None]
        self._threads = [threading.Thread(target=self._run, args=[0, first])]

    def run(self) -> None:
        Lock.waits.clear()
        self._threads[0].start()
        for thread in self._threads:  # the second one is there before the first has ended
            thread.join()

    def _run(self, place: int, call: Call) -> None:
        sys.settrace(self._enter if place == 0 else None)
        self.outcomes[place] = outcome(call)
        sys.settrace(None)
        if place == 1:
            Lock.waits.set()

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._line if frame.f_code.co_filename in self._modules else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and not self.was_reached:
            self.was_reached = self._left == 0
            self._left -= 1
            if self.was_reached:
                self._threads.append(threading.Thread(target=self._run, args=[1, self._second]))
                self._threads[1].start()
                Lock.waits.wait()  # until it has ended, or needs what the first one holds
        return self._line


def at_each_line(make: Callable[[], tuple[Call, Call]], *modules: ModuleType) -> Iterator[list[Any]]:
    """Yield the outcomes of two calls, once for each line of the first one in these modules.

    `make` returns the two calls anew. The second one runs in the middle of the first, as far as locks allow.
    """
    names = {str(module.__file__) for module in modules}
    for lines in count():
        interrupted = _Interrupted(*make(), names, lines)
        interrupted.run()
        if not interrupted.was_reached:
            assert lines, "there was nothing to interrupt"
            return
        yield interrupted.outcomes
