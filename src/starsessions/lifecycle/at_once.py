"""A second way to load and to save, without a coroutine, for backends that do no I/O.

Stepping through `load` and `save` would do the same, but a whole request then took 1.16 to 1.20 times the processor's
instructions where it reads, and 1.07 to 1.10 times where it writes (a signed cookie, and memory). Requests with a
cookie miss their targets already (docs/explanation/performance.md). So there are two ways, which call the same
functions and differ only in how they ask the backend. All of the second way is in this file.
"""

import anyio

from starsessions.backends.base import Backend, Conflict, in_one_step
from starsessions.core.cookies import Values
from starsessions.core.record import Found, MissReason, deadline, why_expired
from starsessions.core.state import Command, Create, Replace, Rotate
from starsessions.exceptions import SessionNotLoaded
from starsessions.lifecycle.config import Storing
from starsessions.lifecycle.loading import choose_for, report_miss
from starsessions.lifecycle.saving import note_save
from starsessions.lifecycle.tracked_dict import TrackedDict

_clear, _fill = dict.clear, dict.update  # the hot path looks them up once


def load_now(session: TrackedDict) -> None:
    """Load the session at its first access."""
    state = session.__starsessions__
    config, peek = state.config, state.config.peek
    if peek is None:
        raise SessionNotLoaded(_how_to_load())
    found: Values | Found | MissReason = config.tokens_in(state.headers)
    if isinstance(found, list):
        now = int(config.clock())
        if len(found) == 1:
            found = peek(found[0], now)
            if isinstance(found, Found):
                found = why_expired(found.record, config.policy, now) or found
        else:
            found = choose_for(state, [peek(token, now) for token in found], now)
    _clear(session)
    _fill(session, state.loaded(found))
    if state.miss_reason is not None:
        report_miss(state, state.miss_reason)


def save_now(session: TrackedDict, command: Command) -> bool:
    """Carry out the command if that needs no I/O. Return False if nothing was done: then call `save`."""
    state = session.__starsessions__
    config = state.config
    if config.store_now is None or not isinstance(command, config.stored_now):
        return False
    try:
        kept = config.store_now(command)
    except Conflict:
        return False  # `save` runs into the same conflict, and merges
    if config.on_event is not None:
        note_save(command, kept, state, state.identity)
    state.saved(command, kept)
    return True


def storing_now(backend: Backend) -> Storing:
    """Return the function that carries out commands without I/O, and the commands that it accepts."""
    if not backend.never_waits:
        return None, ()
    if backend.is_client_side:
        seal = backend.seal

        def store_in_token(command: Create | Replace | Rotate) -> Found:
            return Found(seal(command.record), command.record)

        return store_in_token, (Replace, Create, Rotate)

    policy = backend.policy

    def store(command: Replace) -> Found:
        record = command.record
        return in_one_step(backend.replace(command.found, record, deadline(record, policy), record.renewed_at))

    # Create and Rotate need `generate_id()`, which an application may override with a coroutine that does I/O.
    return store, (Replace,)


def _how_to_load() -> str:
    try:
        anyio.get_current_task()
    except Exception:  # no event loop runs in this thread: it is that of a `def` function, where nothing can be awaited
        return (
            "A `def` function cannot load the session. FastAPI passes it loaded to a parameter "
            "`session: CurrentSession` (starsessions.fastapi). Elsewhere call `await session.load()` in an "
            "`async def` function before, or pass autoload=True to SessionMiddleware."
        )
    return (
        "Call `await session.load()` before the session is used, also by a template, or pass autoload=True to "
        "SessionMiddleware. In FastAPI, `session: CurrentSession` (starsessions.fastapi) is loaded."
    )
