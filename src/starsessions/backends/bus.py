"""Hear what a store announces, and tell all who watch one of these sessions to look at it.

There is one subscription for each store and event loop, however many sessions are watched. It begins with the first
listener, connects again when it is lost, and ends soon after the last listener has left.

A connection may be dead without an error (a firewall that forgot it), or deaf (a connection pooler between). So a
subscription counts as heard when something has arrived by it. If nothing arrives for a while, a process announces a
beat, which all processes hear. If it hears nothing itself, the subscription is lost. So a fleet of any size sends about
one beat in that time.

What is announced while the subscription is lost is not heard. So when it is heard again, all listeners look once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context
from random import random
from typing import Any

import anyio

from starsessions.backends.sharing import SharedReads
from starsessions.notices import Notices, why_failed
from starsessions.stores.base import Announcing

BEAT_EVERY = 20.0
"""Seconds of silence, on average, after which a process announces a beat."""

BEAT_WITHIN = 5.0
"""Seconds after which a beat that was not heard means that the subscription is lost."""

PAUSES = (0.1, 10.0)
"""The first and the longest pause between two attempts to subscribe, in seconds."""

STEADY = 30.0
"""Seconds after which a subscription counts as steady: if it is lost then, the pauses begin anew."""

MOST_LOOKS = 50
"""Listeners that look at their sessions at the same time. All are told at once, and the store has its limits."""

BEAT = "~"  # no key has this character

_LOST = (
    "The subscription to what the session store announces was lost, and is tried again: %s Meanwhile, open streams "
    "look every few seconds whether their sessions have ended."
)
_DEAF = (
    "nothing is heard of what was announced. (A connection pooler in transaction mode passes no notifications on: let "
    "the sessions bypass it. In Redis, the user needs the permission for the channel.)"
)

Sleep = Callable[[float], Awaitable[object]]

_tasks: set[asyncio.Task[None]] = set()


def spawn(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine function in the background of the running event loop. It must not raise."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        from trio.lowlevel import spawn_system_task

        spawn_system_task(work)
        return
    # The context of the request that happens to be the first would live as long as the task.
    task = loop.create_task(work(), context=Context())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


class Listener:
    """Waits to be told to look, or to consider anew how long it waits."""

    __slots__ = ("_is_told", "_woken", "topics")

    def __init__(self) -> None:
        self.topics: Sequence[str] = ()
        self._is_told = False
        self._woken = anyio.Event()

    def tell(self) -> None:
        """Have the listener look."""
        self._is_told = True
        self._woken.set()

    def wake(self) -> None:
        """Have the listener consider anew how long it waits."""
        self._woken.set()

    async def woken(self) -> None:
        await self._woken.wait()

    def was_only_woken(self) -> bool:
        """Return whether the listener was woken, and not told to look. After that, it can wait again."""
        was_told, self._is_told = self._is_told, False
        was_woken = self._woken.is_set()
        if was_woken:
            self._woken = anyio.Event()
        return was_woken and not was_told


class Bus:
    """The subscription to a store in one event loop, and its listeners."""

    def __init__(self, store: Announcing, notices: Notices, sleep: Sleep = anyio.sleep) -> None:
        self.turns: anyio.CapacityLimiter = anyio.CapacityLimiter(MOST_LOOKS)
        self.shared: SharedReads = SharedReads()
        self._store = store
        self._notices = notices
        self._sleep = sleep
        self._listeners: set[Listener] = set()
        self._by_topic: dict[str, set[Listener]] = {}
        self._is_heard = False
        self._has_heard = False  # since the last beat
        self._scope: anyio.CancelScope | None = None
        self._ended = anyio.Event()

    @property
    def reaches_all(self) -> bool:
        """Whether an announcement of any process would be heard now."""
        return self._is_heard and self._store.reaches_all

    @contextmanager
    def listening(self, topics: Sequence[str]) -> Iterator[Listener]:
        """Listen within a `with` block. The listener is told to look once when it is sure that it hears."""
        listener = Listener()
        self._listeners.add(listener)
        self.follow(listener, topics)
        if self._scope is None:
            self._scope, self._ended = anyio.CancelScope(), anyio.Event()
            spawn(self._run)
        elif self._is_heard and topics:
            listener.tell()
        try:
            yield listener
        finally:
            self.follow(listener, ())
            self._listeners.discard(listener)

    def follow(self, listener: Listener, topics: Sequence[str]) -> None:
        """Change the topics of a listener."""
        if topics == listener.topics:
            return
        for topic in listener.topics:
            listeners = self._by_topic[topic]
            listeners.discard(listener)
            if not listeners:
                del self._by_topic[topic]
        for topic in topics:
            self._by_topic.setdefault(topic, set()).add(listener)
        listener.topics = topics

    async def aclose(self) -> None:
        """End the subscription, and wait until its connection is closed."""
        if self._scope is not None:
            self._scope.cancel()
            await self._ended.wait()

    async def _run(self) -> None:
        assert self._scope is not None
        try:
            with self._scope:
                await self._stay_subscribed()
        finally:
            self._scope, self._is_heard = None, False
            self._ended.set()

    async def _stay_subscribed(self) -> None:
        pause, longest = PAUSES
        while self._listeners:
            began = anyio.current_time()
            await self._subscribe()
            was_heard, self._is_heard = self._is_heard, False
            if not self._listeners:
                break
            self._notices.warn("lost", _LOST, self._why, every=600)
            if was_heard:  # and not at each attempt: their pause would begin anew, and they would never look
                for listener in self._listeners:
                    listener.wake()
            if anyio.current_time() - began > STEADY:
                pause = PAUSES[0]
            await self._sleep(pause * (0.5 + random() / 2))  # noqa: S311 - jitter
            pause = min(2 * pause, longest)

    async def _subscribe(self) -> None:
        """Listen until the subscription is lost, or no one listens any more."""
        self._why = "the connection was closed."
        try:
            async with self._store.listen() as announced, anyio.create_task_group() as tasks:
                tasks.start_soon(self._beat, tasks.cancel_scope)
                try:
                    async for topics in announced:
                        self._hear(topics)
                except Exception as error:
                    self._why = why_failed(error)
                tasks.cancel_scope.cancel()
        except Exception as error:
            self._why = why_failed(error)

    async def _beat(self, scope: anyio.CancelScope) -> None:
        """End the subscription if it is dead or deaf, or if no one listens any more."""
        self._has_heard = False
        while self._listeners:
            if not self._has_heard:
                with suppress(Exception):  # the reason why it is not heard
                    await self._store.announce([BEAT])
                await self._sleep(BEAT_WITHIN)
                if not self._has_heard:
                    self._why = _DEAF
                    break
            self._has_heard = False
            await self._sleep(BEAT_EVERY * (0.75 + random() / 2))  # noqa: S311 - jitter
        scope.cancel()

    def _hear(self, topics: Sequence[str]) -> None:
        self._has_heard = True
        if not self._is_heard:
            self._is_heard = True
            for listener in self._listeners:
                if listener.topics:
                    listener.tell()
        for topic in topics:
            for listener in self._by_topic.get(topic, ()):
                listener.tell()


def running_loop() -> object:
    """Return the running event loop of asyncio, or the token of that of trio."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        from trio.lowlevel import current_trio_token

        return current_trio_token()


def is_closed(loop: object) -> bool:
    """Return whether an event loop was closed, perhaps with work that it did not end."""
    return isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()
