"""End WebSockets and streams when their session ends."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anyio

from starsessions.core.durations import Duration, seconds
from starsessions.exceptions import BackendUnavailable, SessionConflict
from starsessions.lifecycle import loading
from starsessions.session import SessionSource, get_session, load_session

MAX_FAILURES = 3
"""Checks in a row that may fail because the store does. After that, the session cannot be assumed alive."""


async def revalidate(source: SessionSource) -> bool:
    """Check whether the session is still alive, and load the changes that other requests have made to it.

    Return False if it has ended: signed out, revoked, expired, or signed in again since it was loaded.
    """
    return await loading.revalidate(await load_session(source))


@asynccontextmanager
async def move_on_when_ended(
    source: SessionSource, check_every: Duration = 10, *, sleep: Callable[[float], Awaitable[object]] = anyio.sleep
) -> AsyncIterator[anyio.CancelScope]:
    """Cancel the `with` block when the session has ended: signed out, revoked or expired.

    It works like anyio's `move_on_after`, with the end of a session instead of a timeout: `scope.cancelled_caught` is
    True if the block was cancelled. Each check costs one load, and also loads changes that other requests have made. If
    the store fails three times in a row, the session counts as ended.

    Args:
        source: a request, a WebSocket, or a session.
        check_every: the pause between two checks, in seconds or as a `timedelta`. An end is noticed within that time.
        sleep: waits for the pause; for tests.

    >>> async def talk(websocket):
    ...     await websocket.accept()
    ...     async with move_on_when_ended(websocket, check_every=10) as scope:
    ...         async for text in websocket.iter_text():
    ...             await websocket.send_text(text)
    ...     if scope.cancelled_caught:
    ...         await websocket.close(1008, "You were signed out.")
    """
    pause = seconds("check_every", check_every)
    session = get_session(source)

    async def watch(scope: anyio.CancelScope) -> None:
        failures = 0
        while failures < MAX_FAILURES:
            await sleep(pause)
            try:
                if not await revalidate(session):
                    break
                failures = 0
            except BackendUnavailable:
                failures += 1
            except SessionConflict:  # the session is alive, and saving it reports the conflict
                failures = 0
        scope.cancel()

    raised: Exception | None = None
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(watch, scope)
            try:
                yield scope
            except Exception as error:  # raised below: a task group would wrap it in an exception group
                raised = error
        tasks.cancel_scope.cancel()
    if raised is not None:
        raise raised
