"""End WebSockets, streams and long work when their session ends, and learn of its changes."""

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any, TypeVar

import anyio

from starsessions.backends.bus import Bus, Listener, spawn
from starsessions.core.durations import Duration, seconds
from starsessions.core.record import deadline
from starsessions.exceptions import BackendUnavailable, SessionConflict
from starsessions.lifecycle import loading
from starsessions.session import Session, SessionSource, load_session

__all__ = ["announce_change", "changes", "move_on_when_ended", "revalidate", "until_ended"]

T = TypeVar("T")

_MAX_FAILURES = 3
"""Checks in a row that may fail because the store does. After that, the session cannot be assumed alive."""

_OFTEN = 10
"""Seconds between two checks, where nothing announces the end of a session."""

_SELDOM = 60
"""Seconds between two checks, where the store announces it."""

_Wait = Callable[[Callable[[], Awaitable[None]], float], Awaitable[None]]
"""Waits for something, for a number of seconds at most."""


async def _wait_at_most(something: Callable[[], Awaitable[None]], limit: float) -> None:
    """Wait for something, for a number of seconds at most."""
    with anyio.move_on_after(limit):
        await something()


async def revalidate(source: SessionSource) -> bool:
    """Check whether the session is still alive, and load the changes that other requests have made to it.

    Return False if it has ended: signed out, revoked, expired, or signed in again since it was loaded.
    """
    session = await load_session(source)
    return await _is_current(session, None) and await loading.revalidate(session)


async def _is_current(session: Session, bus: Bus | None) -> bool:
    """Return False if all sessions of the user, or of all users, were ended since the sign-in.

    A request learns that when it renews the session. A stream does not renew it.
    """
    state = session.__starsessions__
    found, index = state.found, state.config.backend.user_index
    if found is None or index is None or found.record.identity is None:
        return True
    identity, now = found.record.identity, int(state.config.clock())
    if bus is None:
        if await index.epochs.allow(identity, now):
            return True
    # One after the other: when all users are out, and every stream looks, one read of one key is enough.
    elif await bus.shared.read(index.everyone, lambda: index.epochs.of_all(now)) in identity.epoch:
        name = index.owner_name(identity.user_id)
        if await bus.shared.read(name, lambda: index.epochs.of(identity.user_id, now)) in identity.epoch:
            return True
    state.lost(session)
    return False


@asynccontextmanager
async def move_on_when_ended(
    source: SessionSource,
    check_every: Duration | None = None,
    *,
    wait: Callable[[Callable[[], Awaitable[None]], float], Awaitable[None]] = _wait_at_most,
) -> AsyncIterator[anyio.CancelScope]:
    """Cancel the `with` block when the session has ended: signed out, revoked or expired.

    It works like anyio's `move_on_after`, with the end of a session instead of a timeout: `scope.cancelled_caught` is
    True if the block was cancelled. It looks when the store announces something, and from time to time. Each look costs
    one load, and also loads changes that other requests have made. If the store fails three times in a row, the session
    counts as ended.

    Do not use it around a `yield`, since a block that is cancelled there cancels what it has yielded to. For a
    generator, there is `until_ended`.

    Args:
        source: a request, a WebSocket, or a session.
        check_every: the longest pause between two looks, in seconds or as a `timedelta`. None: 60 seconds while the
            store announces the ends of sessions, and 10 seconds otherwise. After a look that failed, it is 10 seconds
            at most.
        wait: waits for the next look; for tests.

    >>> async def talk(websocket):
    ...     await websocket.accept()
    ...     async with move_on_when_ended(websocket) as scope:
    ...         async for text in websocket.iter_text():
    ...             await websocket.send_text(text)
    ...     if scope.cancelled_caught:
    ...         await websocket.close(1008, "You were signed out.")
    """
    session = await load_session(source)
    with _listening(session, check_every, wait) as watch, anyio.CancelScope() as watch.scope, watch.in_background():
        yield watch.scope
    watch.raise_error()


async def until_ended(
    source: SessionSource,
    items: AsyncIterable[T],
    check_every: Duration | None = None,
    *,
    wait: Callable[[Callable[[], Awaitable[None]], float], Awaitable[None]] = _wait_at_most,
) -> AsyncGenerator[T]:
    """Yield the items until the session has ended, or there are no more. Then close the iterator that they come from.

    It is for a `StreamingResponse` or Server-Sent Events: the response ends as if there were no more items.

    Args:
        source: a request, a WebSocket, or a session.
        items: an asynchronous generator, or another asynchronous iterable.
        check_every: as in `move_on_when_ended`.
        wait: waits for the next look; for tests.

    >>> from starlette.responses import StreamingResponse
    >>> async def news(request):
    ...     async def events():
    ...         while True:
    ...             yield "data: something has happened\\n\\n"
    ...             await anyio.sleep(5)
    ...     return StreamingResponse(until_ended(request, events()), media_type="text/event-stream")
    """
    session = await load_session(source)
    iterator = aiter(items)
    with _listening(session, check_every, wait) as watch:
        try:
            with watch.in_background():
                while not watch.has_ended:
                    with anyio.CancelScope() as watch.scope:  # not around the `yield`
                        try:
                            item = await anext(iterator)
                        except StopAsyncIteration:
                            break
                    if not watch.has_ended:
                        yield item
        finally:
            close = getattr(iterator, "aclose", None)
            if close is not None:
                await close()
    watch.raise_error()


async def changes(
    source: SessionSource,
    check_every: Duration | None = None,
    *,
    wait: Callable[[Callable[[], Awaitable[None]], float], Awaitable[None]] = _wait_at_most,
) -> AsyncGenerator[Session]:
    """Yield the session whenever another request has changed its data, until it has ended.

    A change is noticed at once if the request that makes it calls `announce_change`, and otherwise at the next look.

    Args:
        source: a request, a WebSocket, or a session.
        check_every: as in `move_on_when_ended`.
        wait: waits for the next look; for tests.

    >>> async def languages(request):
    ...     async for session in changes(request):
    ...         yield session["language"]
    """
    session = await load_session(source)
    with _listening(session, check_every, wait) as watch:
        before = _payload(session)
        while await watch.is_alive():
            if (now := _payload(session)) != before:
                before = now
                yield session


async def announce_change(source: SessionSource) -> None:
    """Save the session now, and have the streams that watch it load the change at once.

    Args:
        source: a request, a WebSocket, or a session.

    Raises:
        SessionGone: the session was ended by another request after it was loaded.
        ResponseStarted: saving needs a new cookie, and the headers have been sent.
        BackendUnavailable: the store failed or did not answer in time.
    """
    session = await load_session(source)
    await session.persist()
    backend, found = session.__starsessions__.config.backend, session.__starsessions__.found
    topics = () if found is None else backend.topics_of(found)
    if backend.user_index is not None and topics:
        await backend.user_index.announce(topics[0])


class _Watch:
    """Looks at a session, when it is told to and from time to time, until it has ended."""

    def __init__(
        self, session: Session, bus: Bus | None, listener: Listener, check_every: float | None, wait: _Wait
    ) -> None:
        self.has_ended = False
        self.scope = anyio.CancelScope()
        """What is cancelled when the session has ended."""
        self._session = session
        self._bus = bus
        self._listener = listener
        self._check_every = check_every
        self._wait = wait
        self._failures: float = 0
        self._error: Exception | None = None

    async def is_alive(self) -> bool:
        """Wait until it is time to look, and return whether the session is alive."""
        await self._wait(self._listener.woken, self._pause())
        while self._listener.was_only_woken():
            await self._wait(self._listener.woken, self._pause())
        try:
            is_alive = await _is_current(self._session, self._bus)
            if is_alive:
                async with nullcontext() if self._bus is None else self._bus.turns:
                    is_alive = await loading.revalidate(self._session)
            self._failures = 0
        except BackendUnavailable:
            # What is repeated early counts for less, so that an outage does not end a stream any sooner.
            self._failures += min(1, _OFTEN / (self._check_every or _OFTEN)) if self._failures else 1
            is_alive = self._failures < _MAX_FAILURES
        except SessionConflict:  # the session is alive, and saving it reports the conflict
            self._failures, is_alive = 0, True
        if is_alive and self._bus is not None:
            self._bus.follow(self._listener, _topics_of(self._session))
        return is_alive

    def _pause(self) -> float:
        pause = self._check_every
        if pause is None:
            pause = _SELDOM if self._bus is not None and self._bus.reaches_all else _OFTEN
        if self._failures:  # what it was told to look for may have happened, and is not told again
            pause = min(pause, _OFTEN)
        state = self._session.__starsessions__
        if state.found is None:
            return pause
        remaining = deadline(state.found.record, state.config.policy) - state.config.clock()
        return min(pause, max(1, remaining))

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Look within a `with` block. Cancel `scope` when the session has ended, or cannot be looked at."""
        mine = anyio.CancelScope()

        async def look() -> None:
            with mine:
                try:
                    while await self.is_alive():
                        pass
                except Exception as error:
                    self._error = error
                self.has_ended = True
                self.scope.cancel()

        spawn(look)
        try:
            yield
        finally:
            mine.cancel()

    def raise_error(self) -> None:
        """Raise what has ended the looking in the background."""
        if self._error is not None:
            raise self._error


@contextmanager
def _listening(session: Session, check_every: Duration | None, wait: _Wait) -> Iterator[_Watch]:
    pause = None if check_every is None else seconds("check_every", check_every)
    announcements = session.__starsessions__.config.backend.announcements
    bus = None if announcements is None else announcements.bus()
    with nullcontext(Listener()) if bus is None else bus.listening(_topics_of(session)) as listener:
        yield _Watch(session, bus, listener, pause, wait)


def _topics_of(session: Session) -> Sequence[str]:
    state = session.__starsessions__
    return () if state.found is None else state.config.backend.topics_of(state.found)


def _payload(session: Session) -> Any:
    found = session.__starsessions__.found
    return None if found is None else found.record.payload
