"""Load the session that the request's cookie names: one of the two places that wait for the backend."""

import logging

from starsessions.backends.base import in_one_step
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
    """Do what `load` does at the first access, where nothing has to be waited for."""
    state = session.__starsessions__
    if state.is_loaded:
        return
    if not state.config.loads_at_once:
        raise SessionNotLoaded("Call `await session.load()` first, or pass autoload=True to SessionMiddleware.")
    in_one_step(load(session))


async def find(state: RequestState) -> Found | MissReason:
    """Return what the request's cookie names, and why there is nothing if there is nothing."""
    config = state.config
    now = int(config.clock())
    fetch, policy = config.backend.fetch, config.policy
    try:
        if state.explicit_id is not None:
            return check_deadline(await fetch(state.explicit_id, now), policy, now)
        tokens = config.tokens_in(state.headers)
        if not isinstance(tokens, list):
            return tokens
        if len(tokens) == 1:
            return check_deadline(await fetch(tokens[0], now), policy, now)
        return only_valid([check_deadline(await fetch(token, now), policy, now) for token in tokens])
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
    await load(session)
    state = session.__starsessions__
    state.check_known()
    found, config = state.found, state.config
    if found is None:
        return False
    now = int(config.clock())
    current = check_deadline(await config.backend.refetch(found, now), config.policy, now)
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


def check_deadline(found: Found | MissReason, policy: Policy, now: int) -> Found | MissReason:
    """Return what was found, or why it is no live session."""
    if isinstance(found, Found):
        return why_expired(found.record, policy, now) or found
    return found


def only_valid(results: list[Found | MissReason]) -> Found | MissReason:
    """Of several cookies with the session's name, from other paths or domains, use one only if no other is valid.

    If two are, one of them was planted, and nothing tells which (RFC 6265bis, 4.2.2 and 8.6).
    """
    live = [result for result in results if isinstance(result, Found)]
    if len(live) == 1:
        return live[0]
    return MissReason.MALFORMED if live else results[0]


def _report_miss(state: RequestState, why: MissReason) -> None:
    if why is MissReason.ROTATED:
        _log.warning("A session id was used that had been rotated away, after its grace period.")
    if state.config.on_event is not None:
        tokens = state.config.tokens_in(state.headers)
        state.note(*events_for_miss(why, tokens if isinstance(tokens, list) else ()))


def _handle(found: Found) -> str | None:
    identity = found.record.identity
    return None if identity is None else identity.handle
