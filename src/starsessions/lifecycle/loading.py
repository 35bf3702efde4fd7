"""Load the session named by the request's cookie. Only this module and `saving` wait for the backend."""

import logging

from starsessions.core.arrival import is_at_home
from starsessions.core.cookies import Values
from starsessions.core.record import Found, MissReason, Policy, why_expired
from starsessions.events import StoreFailed, events_for_miss
from starsessions.exceptions import BackendUnavailable, SessionNotLoaded
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.tracked_dict import TrackedDict, replace_items

_log = logging.getLogger("starsessions")


async def load(session: TrackedDict) -> None:
    """Load the session from the backend, once."""
    state = session.__starsessions__
    if state.is_loaded:
        return
    found = await find(state)
    if not state.is_loaded:  # another task of this request may have loaded it meanwhile
        dict.update(session, state.loaded(found))
        if state.miss_reason is not None:
            _report_miss(state, state.miss_reason)


def load_now(session: TrackedDict) -> None:
    """Load the session at its first access, for backends that do no I/O.

    Stepping through the coroutine `load` would work, but took 1.2 times as long. So both call the same synchronous
    functions, and differ only in how they query the backend.
    """
    state = session.__starsessions__
    config, peek = state.config, state.config.peek
    if peek is None:
        raise SessionNotLoaded("Call `await session.load()` first, or pass autoload=True to SessionMiddleware.")
    found: Values | Found | MissReason = config.tokens_in(state.headers)
    if isinstance(found, list):
        now = int(config.clock())
        found = choose([peek(token, now) for token in found], config.policy, now)
    dict.update(session, state.loaded(found))
    if state.miss_reason is not None:
        _report_miss(state, state.miss_reason)


async def find(state: RequestState) -> Found | MissReason:
    """Return the session named by the request's cookie, or the reason why there is none."""
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
        _log.warning("The session store failed, so a request continues with an empty session: %s", error)
        state.note(StoreFailed(str(error)))
        return MissReason.UNAVAILABLE


async def revalidate(session: TrackedDict) -> bool:
    """Reload the session, and merge the changes of other requests into it. Return False if it has ended.

    A sign-in since it was loaded, of another user or of the same one, counts as an end.
    """
    state = session.__starsessions__
    state.check_known()
    found, config = state.found, state.config
    if found is None:
        return False
    now = int(config.clock())
    current = choose([await config.backend.refetch(found, now)], config.policy, now)
    if not isinstance(current, Found) or _handle(current) != _handle(found):
        state.lost(session, current if isinstance(current, Found) else None)
        return False
    if current.version != found.version:
        state.sync_models()
        merged = state.conflict(current, session, now)
        if merged is None:
            return False
        replace_items(session, merged)
    return True


def choose(results: list[Found | MissReason], policy: Policy, now: int) -> Found | MissReason:
    """Return the only valid session among the request's cookies, or the reason why there is none.

    A browser may send several cookies of this name, set for different paths or domains. If two of them are valid, an
    attacker planted one, and the server cannot tell which (RFC 6265bis, 4.2.2 and 8.6), so neither is used.
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
    if why is MissReason.NO_COOKIE:
        state.is_at_home = is_at_home(state.method, state.config.cookie.same_site, state.headers)
    if why is MissReason.ROTATED:
        _log.warning("A request used a session id that was replaced by a newer one, after its grace period.")
    if state.config.on_event is not None:
        tokens = state.config.tokens_in(state.headers)
        state.note(*events_for_miss(why, tokens if isinstance(tokens, list) else ()))


def _handle(found: Found) -> str | None:
    identity = found.record.identity
    return None if identity is None else identity.handle
