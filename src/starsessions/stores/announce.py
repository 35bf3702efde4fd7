"""Announcements in this process, and the power to announce as a base class of stores."""

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from threading import Lock

import anyio

from starsessions.notices import Notices, why_failed
from starsessions.stores.base import Announcing

NOT_ANNOUNCED = (
    "The end of a session was not announced: %s It has ended all the same. Its open streams end when they next look."
)
"""What is logged of an announcement that failed. It needs the reason."""

SEND_WITHIN = 1.0
"""Seconds that an announcement may delay a request."""


class Announces:
    """A store that is `Announcing` by means of its `announcer`."""

    announcer: Announcing

    @property
    def reaches_all(self) -> bool:
        return self.announcer.reaches_all

    async def announce(self, topics: Sequence[str]) -> None:
        await self.announcer.announce(topics)

    def listen(self) -> AbstractAsyncContextManager[AsyncIterator[Sequence[str]]]:
        return self.announcer.listen()


class InProcess:
    """Announces to all event loops and threads of this process.

    Args:
        reaches_all: whether no other process uses the store.
    """

    def __init__(self, *, reaches_all: bool) -> None:
        self.reaches_all = reaches_all
        self._lock = Lock()
        self._inboxes: tuple[_Inbox, ...] = ()  # replaced and never changed, since other threads go through it

    async def announce(self, topics: Sequence[str]) -> None:
        for inbox in self._inboxes:
            inbox.put(tuple(topics))

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[Sequence[str]]]:
        mine = _Inbox()
        with self._lock:
            self._inboxes = (*self._inboxes, mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._inboxes = tuple(inbox for inbox in self._inboxes if inbox is not mine)


class _Inbox:
    """What one listener has not read yet. Any thread may put something in; only its event loop reads."""

    def __init__(self) -> None:
        self._call_soon = _call_soon_in_this_loop()
        self._unread: deque[Sequence[str]] = deque()
        self._arrived = anyio.Event()

    def put(self, topics: Sequence[str]) -> None:
        self._unread.append(topics)
        with suppress(RuntimeError):  # that event loop has ended
            self._call_soon(self._wake)

    def _wake(self) -> None:
        self._arrived.set()

    def __aiter__(self) -> AsyncIterator[Sequence[str]]:
        return self

    async def __anext__(self) -> Sequence[str]:
        while not self._unread:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._unread.popleft()


def _call_soon_in_this_loop() -> Callable[[Callable[[], None]], object]:
    """Return a function by which any thread can have something called in the running event loop."""
    import asyncio  # applications that use no session store may have none

    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        from trio.lowlevel import current_trio_token

        return current_trio_token().run_sync_soon


def in_parts(topics: Sequence[str], most: int) -> Iterator[str]:
    """Yield the topics as messages of at most `most` topics each, separated by spaces.

    >>> [*in_parts(["a", "b", "c"], 2)]
    ['a b', 'c']
    """
    for begin in range(0, len(topics), most):
        yield " ".join(topics[begin : begin + most])


async def try_to_announce(announcer: Announcing, topics: Sequence[str], notices: Notices) -> None:
    """Announce topics. It does not fail, and takes no longer than a moment."""
    try:
        with anyio.fail_after(SEND_WITHIN):
            await announcer.announce(topics)
    except Exception as error:
        notices.warn("announce", NOT_ANNOUNCED, why_failed(error), every=600)
