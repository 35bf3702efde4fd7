"""Load the session that the request's cookie names: one of the two places that wait for the backend."""

import logging

from starsessions.core.cookies import Values
from starsessions.core.record import Found, MissReason, Policy, why_expired
from starsessions.events import StoreFailed, events_for_miss
from starsessions.exceptions import BackendUnavailable, SessionNotLoaded
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.tracked_dict import TrackedDict, replace_items

_log = logging.getLogger("starsessions")


async def load(session: TrackedDict) -> None:
    """Fill the session with what the backend has, once."""
    state = session.__starsessions__
    if state.is_loaded:
        return
    found = await find(state)
    if not state.is_loaded:  # another task of this request may have been faster
        dict.update(session, state.loaded(found))
        if state.miss_reason is not None:
            _report_miss(state, state.miss_reason)


def load_now(session: TrackedDict) -> None:
    """Do what `load` does at the first access, where nothing has to be waited for.

    A coroutine that is driven in one step would do, and took 1.2 times as long: so what both do is in functions that
    wait for nothing, and they differ in how they ask the backend.
    """
    state = session.__starsessions__
    config = state.config
    if not config.loads_at_once:
        raise SessionNotLoaded("Call `await session.load()` first, or pass autoload=True to SessionMiddleware.")
    found: Values | Found | MissReason = config.tokens_in(state.headers)
    if isinstance(found, list):
        now, peek = int(config.clock()), config.backend.peek
        found = choose([peek(token, now) for token in found], config.policy, now)
    dict.update(session, state.loaded(found))
    if state.miss_reason is not None:
        _report_miss(state, state.miss_reason)


async def find(state: RequestState) -> Found | MissReason:
    """Return what the request's cookie names, and why there is nothing if there is nothing."""
    config = state.config
    tokens = config.tokens_in(state.headers) if state.explicit_id is None else [state.explicit_id]
    if not isinstance(tokens, list):
        return tokens
    now, fetch = int(config.clock()), config.backend.fetch
    try:
        return choose([await fetch(token, now) for token in tokens], config.policy, now)
    except BackendUnavailable as error:
        if not config.anonymous_if_unavailable:
            raise
        _log.warning("The store of the sessions failed, so a request continues without its session: %s", error)
        state.note(StoreFailed(str(error)))
        return MissReason.UNAVAILABLE


async def revalidate(session: TrackedDict) -> bool:
    """Ask the backend again, and take over what other requests have changed. False: the session has ended.

    It has also ended if another user has signed in since it was loaded, or the same one again.
    """
    state = session.__starsessions__
    state.check_known()
    found, config = state.found, state.config
    if found is None:
        return False
    now = int(config.clock())
    current = choose([await config.backend.refetch(found, now)], config.policy, now)
    if not isinstance(current, Found) or _handle(current) != _handle(found):
        state.lost(session)
        return False
    if current.version != found.version:
        state.sync_models()
        merged = state.conflict(current, session, now)
        if merged is None:
            return False
        replace_items(session, merged)
    return True


def choose(results: list[Found | MissReason], policy: Policy, now: int) -> Found | MissReason:
    """Return the live session among what the request's cookies name; or why there is none.

    Of several cookies with the session's name, from other paths or domains, one is used only if no other is valid. If
    two are, one of them was planted, and nothing tells which (RFC 6265bis, 4.2.2 and 8.6).
    """
    if len(results) == 1:  # nearly always
        [result] = results
        return why_expired(result.record, policy, now) or result if isinstance(result, Found) else result
    judged = [choose([result], policy, now) for result in results]
    live = [result for result in judged if isinstance(result, Found)]
    if len(live) == 1:
        return live[0]
    return MissReason.MALFORMED if live else judged[0]


def _report_miss(state: RequestState, why: MissReason) -> None:
    if why is MissReason.ROTATED:
        _log.warning("A session id was used that had been rotated away, after its grace period.")
    if state.config.on_event is not None:
        tokens = state.config.tokens_in(state.headers)
        state.note(*events_for_miss(why, tokens if isinstance(tokens, list) else ()))


def _handle(found: Found) -> str | None:
    identity = found.record.identity
    return None if identity is None else identity.handle
