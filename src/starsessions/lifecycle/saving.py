"""Save a session: carry out the command of the state machine; on a conflict, merge and decide again.

`decide` asks the state machine for a command and does no I/O; `carry_out` waits for the backend. Between the two, the
state machine learns nothing but the backend's answers.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from inspect import iscoroutine
from typing import Any, TypeVar

import anyio

from starsessions.backends.base import Conflict, IdInUse
from starsessions.backends.entries import Location
from starsessions.backends.user_index import Overtaken, Owned, PendingSignIn
from starsessions.core import merge
from starsessions.core.record import Found, Identity, deadline, has_lived
from starsessions.core.state import (
    BY_HAND,
    NOTHING,
    OPEN,
    SAVING,
    Command,
    Create,
    Delete,
    Discard,
    Nothing,
    Phase,
    Replace,
    Rotate,
)
from starsessions.events import ConflictResolved, SignedOut
from starsessions.exceptions import (
    BackendUnavailable,
    ResponseStarted,
    SessionError,
    SessionGone,
    SessionTooLarge,
    UnsupportedValue,
)
from starsessions.lifecycle.limits import evict, make_room_after_save
from starsessions.lifecycle.loading import find_all, judge
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.tracked_dict import TrackedDict, replace_items
from starsessions.reporting import events_for_save, handle_of

MAX_ATTEMPTS = 1000
"""Conflicts after which saving gives up. Each conflict means that another request has saved successfully."""

_CONTENDED = "The session was not saved, because other requests changed it on every attempt: send the request again."

_OVERTAKEN = (
    "The sign-in was not saved: meanwhile, the user's sessions were revoked, later sign-ins took its place, or an hour "
    "has passed since sign_in(). Sign in again."
)

_FAILED = (SAVING, Phase.FAILED)

T = TypeVar("T")


def decide(session: TrackedDict, by_hand: bool = False) -> Command:
    """Return the command that brings the stored session up to date."""
    state = session.__starsessions__
    if state.models:
        state.sync_models()
    try:
        return state.command(session, int(state.config.clock()), by_hand)
    except SessionTooLarge:
        state.config.observer.refused("max_size")
        raise
    except UnsupportedValue as error:
        # The frames that are left out hold the data, and error trackers send the local variables of all frames.
        raise error.with_traceback(None) from None


async def save(session: TrackedDict, command: Command | None = None, *, by_hand: bool = False) -> None:
    """Save the session in the backend, and record in its state what the response must tell the browser."""
    state = session.__starsessions__
    for _ in range(MAX_ATTEMPTS):
        if state.signs_out:
            await end_cleared(session)
            command = None
            if state.phase not in (OPEN, SAVING):
                if dict.__len__(session):
                    state.check_reachable()  # raises: the browser would not learn the new id
                return
        try:
            await carry_out(command or decide(session, by_hand), session)
            return
        except Conflict as conflict:
            command = None
            if state.signs_out:  # since the command was decided: another task of this request has cleared the session
                continue
            current, moved_to = await _found_again(conflict, state)
            merged = state.conflict(current, session, int(state.config.clock()), moved_to)
            if merged is None:
                return
            await _end_expired(current, state)
            replace_items(session, merged)
            _note_merge(state)
    raise SessionError(_CONTENDED)


async def carry_out(command: Command, session: TrackedDict) -> None:
    """Carry out the command, and report the result to the state machine.

    Raises:
        Conflict: the stored session has changed since the command was decided; nothing was done.
    """
    state = session.__starsessions__
    backend = state.config.backend
    match command:
        case Nothing():
            if command is not NOTHING:
                state.cookie = command.cookie
            return
        case Discard():
            state.lost(session)
            return
        case Delete():
            deleting = backend.delete(command.found, int(state.config.clock()), if_unchanged=True)
            await state.config.observer.committing(command, deleting)
            state.deleted(session)
            return
    signed_in = state.identity if state.identity is command.record.identity else None
    try:
        kept, evicted = await state.config.observer.committing(command, _store(command, state, signed_in))
    except Overtaken:
        state.identity = state.pending = None
        state.lost(session)
        raise SessionGone(_OVERTAKEN) from None
    if state.config.on_event is not None:
        note_save(command, kept, state, signed_in)
    state.saved(command, kept)
    if signed_in is not None:
        state.pending = None
        if evicted and backend.user_index is not None:
            await evict(evicted, backend.user_index, state)


async def _store(
    command: Create | Replace | Rotate, state: RequestState, signed_in: Identity | None
) -> tuple[Found, list[list[Owned]]]:
    """Write what the command says. Return what is stored now, and the sessions that a sign-in evicts."""
    backend, rules = state.config.backend, state.config.users
    now = command.record.renewed_at  # the instant of the decision
    ends_at = deadline(command.record, state.config.policy)
    if isinstance(command, Replace):
        return await backend.replace(command.found, command.record, ends_at, now), []
    index, pending = backend.user_index, state.pending if signed_in is not None else None
    kept = await _store_under_new_id(command, state, ends_at, now, pending)
    if signed_in is None or index is None or rules.max_sessions is None:
        return kept, []
    # One that has the last place looks, too: another may have begun after the count, and judged before this write. So
    # does one whose pending entry was abandoned, for a later sign-in of this request that was refused.
    if pending is not None and pending.count < rules.max_sessions and not pending.is_marked:
        return kept, []
    try:
        return kept, await make_room_after_save(signed_in, index, rules, now, state)
    except Overtaken:
        await backend.delete(kept, now)
        raise
    except BackendUnavailable:
        return kept, []


async def _found_again(conflict: Conflict, state: RequestState) -> tuple[Found | None, Found | None]:
    """Return the session as it is stored now, and where it lives if it has moved. Then a pending sign-in keeps data.

    If it is back where it was found, because the sign-in that had moved it was undone meanwhile, it is neither lost nor
    moved. Otherwise it would live on under its old id, beside a copy.
    """
    config, found = state.config, state.found
    if conflict.current is not None or found is None or state.identity is None:
        return conflict.current, None
    now = int(config.clock())
    current = judge(await config.backend.refetch(found, now), config.policy, now)
    if not isinstance(current, Found):
        return None, None
    before, location = found.version, current.version
    if isinstance(before, Location) and isinstance(location, Location) and location.key == before.key:
        return current, None
    return None, current


async def _end_expired(before: Found | None, state: RequestState) -> None:
    """End the session before a sign-in that is saved without it: it has expired by this clock, and not by another."""
    if before is not None and state.found is None:
        await state.config.backend.delete(before, int(state.config.clock()))


async def _store_under_new_id(
    command: Create | Rotate, state: RequestState, ends_at: int, now: int, pending: PendingSignIn | None
) -> Found:
    tried_id, state.tried_id = state.tried_id, command.session_id
    try:
        return await _store_new(command, state, ends_at, now, pending)
    except IdInUse:
        if command.session_id is None or command.session_id != tried_id:
            raise
        # What is stored there is this request's own: the store failed after an earlier attempt had written it.
        raise BackendUnavailable("The store failed while it saved the session: send the request again.") from None


async def _store_new(
    command: Create | Rotate, state: RequestState, ends_at: int, now: int, pending: PendingSignIn | None
) -> Found:
    backend, record = state.config.backend, command.record
    if isinstance(command, Rotate):
        new_id = command.session_id or await backend.new_id()
        return await backend.rotate(command.found, record, new_id, ends_at, now, command.usable_until, pending)
    try:
        return await backend.create(record, command.session_id, ends_at, now, pending)
    except Conflict:
        if state.explicit_id is None or state.next_id is not None:
            raise IdInUse from None
        raise  # the application chose this id, and another task has stored a session under it meanwhile


def note_save(command: Create | Replace | Rotate, kept: Found, state: RequestState, signed_in: Identity | None) -> None:
    """Note the events of what was saved."""
    before = None if type(command) is Create else state.found
    state.note(*events_for_save(before, kept, type(command) is Rotate, signed_in))


def _note_merge(state: RequestState) -> None:
    if state.found is not None:
        state.note(ConflictResolved(handle_of(state.found)))


# Saving that a handler asks for. The session has been loaded.


async def save_for_headers(session: TrackedDict, command: Command | None = None) -> None:
    """Save before the headers are sent: after a save already in progress, and before any that begins meanwhile."""
    state = session.__starsessions__
    if state.lock is None:
        await save(session, command)
    else:
        async with state.lock:
            await save(session)


async def persist(session: TrackedDict) -> str:
    """Save on request of the handler, and return the id. Raises `SessionGone` if the session was ended."""
    state = session.__starsessions__
    async with _by_hand(state):
        await save(session, by_hand=True)
    if state.found is None:
        raise SessionGone(_why_gone(state))
    return state.found.token


def _why_gone(state: RequestState) -> str:
    if state.is_withheld:
        return (
            "Nothing was saved: another site sent this request without the session cookie, and a new session would "
            "replace the one that the browser has. See docs/guides/users/callbacks.md."
        )
    if state.has_ended or state.signs_out:
        return "This request has ended the session: the user is signed out, and nothing was saved."
    return "The session was ended by another request after it was loaded, so nothing was saved."


async def update_atomically(session: TrackedDict, change: Callable[[dict[str, Any]], T]) -> T:
    """Run `change` on the stored data and save the result; repeat until no other request writes in between."""
    state = session.__starsessions__
    async with _by_hand(state):
        if state.signs_out:
            await end_cleared(session)
            if state.phase not in (OPEN, SAVING):
                state.check_reachable()  # raises: the browser would not learn the new id
        return await _update(session, change)


async def _update(session: TrackedDict, change: Callable[[dict[str, Any]], T]) -> T:
    state, config = session.__starsessions__, session.__starsessions__.config
    state.sync_models()
    before = dict(dict.items(session))
    pending = merge.diff(state.stored(), before)  # earlier changes of this request, which are saved with it
    for _ in range(MAX_ATTEMPTS):
        data = config.loads(config.dumps(before))  # in objects of its own
        result = change(data)
        if iscoroutine(result):
            result.close()
            raise TypeError("update_atomically() takes a plain function, not a coroutine function: it may run again.")
        replace_items(session, data)
        state.modified = True
        try:
            await carry_out(decide(session), session)
        except Conflict as conflict:
            if state.signs_out:  # another task of this request has cleared the session
                raise SessionGone(_why_gone(state)) from None
            # What was made of older data must not be what the handler goes on with, if the next attempt fails.
            replace_items(session, before)
            current, moved_to = await _found_again(conflict, state)
            if state.rebase(current, session, int(config.clock()), moved_to):
                await _end_expired(current, state)
                before = dict(dict.items(session)) if state.found is None else merge.apply(pending, state.stored())
                replace_items(session, before)
                _note_merge(state)
                continue
        except BaseException:
            if not state.signs_out:
                replace_items(session, before)
            raise
        if state.is_lost:
            raise SessionGone(_why_gone(state))
        return result
    raise SessionError(_CONTENDED)


@asynccontextmanager
async def _by_hand(state: RequestState) -> AsyncIterator[None]:
    """Hold the right to save for one task of this request, before or after the headers are sent."""
    state.check_known()
    if state.is_saving:
        await _headers_saved(state)
    if state.phase in _FAILED:  # a new id that was asked for would be stored, and the browser never told of it
        raise ResponseStarted(
            "Saving the session failed when the response started, so it cannot be saved by hand in this request either."
        )
    if state.phase is not OPEN:
        state.check_reachable()
        state.phase = BY_HAND
    try:
        async with state.save_lock():
            yield
    except anyio.get_cancelled_exc_class():
        state.save_was_cancelled = state.phase is BY_HAND
        raise
    state.save_was_cancelled = False


async def _headers_saved(state: RequestState) -> None:
    """Wait until what the headers wait for is saved, or has failed."""
    state.headers_saved = state.headers_saved or anyio.Event()
    await state.headers_saved.wait()


async def end(session: TrackedDict) -> None:
    """End the session at once: a sign-out must not depend on a response that may fail."""
    state = session.__starsessions__
    state.check_known()
    if state.is_saving:
        await _headers_saved(state)
    async with state.save_lock():  # what another task of this request is saving has to be ended, too
        if state.phase is not OPEN and state.config.is_client_side:
            state.check_reachable()
        await _end(session)
        await abandon(state)


async def end_cleared(session: TrackedDict) -> None:
    """End the session of a user that was cleared. What the handler has asked for since then is for the next one."""
    await _end(session, keeps=True)


async def _end(session: TrackedDict, keeps: bool = False) -> None:
    """End the session, also if another request has moved it. `keeps`: the data and requests are for the next one."""
    state = session.__starsessions__
    config = state.config
    found, now = state.found or state.lost_session, int(config.clock())
    if found is not None:
        await config.observer.committing(Delete(found), config.backend.delete(found, now))
        identity, index = found.record.identity, config.backend.user_index
        if identity is not None:
            config.observer.signed_out()
            state.note(SignedOut(handle_of(found), identity.user_id, identity.agent, identity.address))
        state.deleted(session, keeps)
        if identity is not None and index is not None and identity.has_provider:
            await index.links.forget(identity)
    else:
        # What this server could not use, it can still end: cookies that are too many, or a session that has expired by
        # its clock, and not by those of the others.
        every = await find_all(state) if state.miss_reason is not None or state.explicit_id is not None else []
        for one in every:
            await config.observer.committing(Delete(one), config.backend.delete(one, now))
        if any(has_lived(one.record, config.policy, now) for one in every):
            state.deleted(session)
        else:
            state.forget(session)


async def abandon(state: RequestState) -> None:
    """Delete the entry of a sign-in that this request does not save."""
    pending, state.pending = state.pending, None
    index = state.config.backend.user_index
    if pending is not None and index is not None:
        await index.abandon(pending)
