"""Read a key once for all who ask for it at the same time: the streams of a user, when all of them are told to look."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


class _Turn:
    """One read, and those who wait for it."""

    __slots__ = ("answers", "done", "error")

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.answers: list[Any] = []
        self.error: Exception | None = None


class SharedReads:
    """Those who ask for a key while it is being read share the read that follows. It begins after all of them asked."""

    def __init__(self) -> None:
        self._running: dict[str, _Turn] = {}
        self._waiting: dict[str, _Turn] = {}

    async def read(self, key: str, read: Callable[[], Awaitable[T]]) -> T:
        """Return what `read` returns, or what it has returned to another one. An error is raised to all of them."""
        while (turn := self._waiting.get(key)) is not None:
            await turn.done.wait()
            if turn.error is not None:
                raise turn.error
            if turn.answers:
                answer: T = turn.answers[0]
                return answer
            # The one who was to read was cancelled.
        turn = self._waiting[key] = _Turn()
        try:
            if (before := self._running.get(key)) is not None:
                await before.done.wait()
            self._running[key] = self._waiting.pop(key)
            turn.answers.append(await read())
            return turn.answers[0]  # type: ignore[no-any-return]
        except Exception as error:
            turn.error = error
            raise
        finally:
            for turns in (self._waiting, self._running):
                if turns.get(key) is turn:
                    del turns[key]
            turn.done.set()
