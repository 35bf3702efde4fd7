"""What lasts longer than a request, and ends with its session: WebSockets and streams."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio

from starsessions.core.durations import Duration, seconds
from starsessions.exceptions import BackendUnavailable, SessionConflict
from starsessions.session import Session

MAX_FAILURES = 3
"""Looks in a row that may fail because the store does: after that nobody can say that the session lives."""


@dataclass(slots=True)
class Watch:
    """`ended`: whether what was watched has ended before the work was done."""

    ended: bool = False


@asynccontextmanager
async def ends_with(
    session: Session, every: Duration = 10, *, sleep: Callable[[float], Awaitable[object]] = anyio.sleep
) -> AsyncIterator[Watch]:
    """Cancels what is in the `with` block when the session has ended: signed out, revoked, or over.

    It looks every so many seconds, so an end is noticed within that time, on every store. One look costs one load.
    Between looks, `session` takes over what other requests have changed.

    >>> async def talk(websocket):
    ...     await websocket.accept()
    ...     async with ends_with(websocket.session, every=10) as watch:
    ...         async for text in websocket.iter_text():
    ...             await websocket.send_text(text)
    ...     if watch.ended:
    ...         await websocket.close(1008, "You were signed out.")
    """
    pause = seconds("every", every)
    watch = Watch()

    async def look(scope: anyio.CancelScope) -> None:
        failures = 0
        while failures < MAX_FAILURES:
            await sleep(pause)
            try:
                if not await session.revalidate():
                    break
                failures = 0
            except BackendUnavailable:
                failures += 1
            except SessionConflict:  # it lives, and what has to be said about that is said when it is saved
                failures = 0
        watch.ended = True
        scope.cancel()

    raised: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look, tasks.cancel_scope)
        try:
            yield watch
        except Exception as error:  # raised below, since a task group would make a group of it
            raised = error
        tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised
