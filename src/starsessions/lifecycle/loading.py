"""Load the session named by the request's cookie."""

from starsessions.core.arrival import is_withheld
from starsessions.core.cookies import find as find_values
from starsessions.core.record import Found, MissReason, Policy, why_expired
from starsessions.events import StoreFailed
from starsessions.exceptions import BackendUnavailable
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.tracked_dict import TrackedDict, replace_items
from starsessions.reporting import events_for_miss

_REJECTED = (MissReason.MALFORMED, MissReason.BAD_SIGNATURE, MissReason.SEVERAL)
_clear, _fill = dict.clear, dict.update  # the hot path looks them up once


async def load(session: TrackedDict) -> None:
    """Load the session from the backend, once."""
    state = session.__starsessions__
    if state.is_loaded:
        return
    found = await state.config.observer.loading(find(state))
    if not state.is_loaded:  # another task of this request may have loaded it meanwhile
        _clear(session)
        _fill(session, state.loaded(found))
        if state.miss_reason is not None:
            report_miss(state, state.miss_reason)


async def find(state: RequestState) -> Found | MissReason:
    """Return the session named by the request's cookie, or the reason why there is none."""
    config = state.config
    tokens = config.tokens_in(state.headers) if state.explicit_id is None else [state.explicit_id]
    if not isinstance(tokens, list):
        return tokens
    now, fetch = int(config.clock()), config.backend.fetch
    try:
        results = [await fetch(token, now) for token in tokens]
        if config.outage.is_known:
            config.outage.ended()
        return choose_for(state, results, now)
    except BackendUnavailable as error:
        if not config.anonymous_if_unavailable:
            raise
        config.outage.failed("Requests continue with an empty session.", error)
        state.note(StoreFailed(str(error)))
        return MissReason.UNAVAILABLE


async def find_all(state: RequestState) -> list[Found]:
    """Return every session among the request's cookies, expired or not, to end them all."""
    config = state.config
    tokens = config.tokens_in(state.headers) if state.explicit_id is None else [state.explicit_id]
    now = int(config.clock())
    results = [await config.backend.fetch_to_end(token, now) for token in tokens] if isinstance(tokens, list) else []
    return [result for result in results if isinstance(result, Found)]


async def revalidate(session: TrackedDict) -> bool:
    """Reload the session, and merge the changes of other requests into it. Return False if it has ended.

    A sign-in since it was loaded, of another user or of the same one, counts as an end.
    """
    state = session.__starsessions__
    state.check_known()
    found, config = state.found, state.config
    if found is None or state.signs_out:
        return False
    now = int(config.clock())
    current = judge(await config.backend.refetch(found, now), config.policy, now)
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
    attacker may have planted one, and the server cannot tell which (RFC 6265bis, 4.2.2 and 8.6), so neither is used.
    The next response that begins or ends a session removes the others: see `core.duplicates`.
    """
    judged = [judge(result, policy, now) for result in results]
    live = [result for result in judged if isinstance(result, Found)]
    if len(live) == 1:
        return live[0]
    return MissReason.SEVERAL if live else judged[0]


def judge(result: Found | MissReason, policy: Policy, now: int) -> Found | MissReason:
    return why_expired(result.record, policy, now) or result if isinstance(result, Found) else result


def choose_for(state: RequestState, results: list[Found | MissReason], now: int) -> Found | MissReason:
    """Return what `choose` does, and note whether a cookie may be another application's."""
    state.brings_foreign = _has_foreign(results, state.config.is_client_side)
    return choose(results, state.config.policy, now)


def _has_foreign(results: list[Found | MissReason], is_client_side: bool) -> bool:
    """Return whether one of several cookies may be another application's, which this one must not remove."""
    return len(results) > 1 and any(
        result is MissReason.BAD_SIGNATURE
        or result is MissReason.MALFORMED
        or (result is MissReason.UNKNOWN and not is_client_side)
        for result in results
    )


def report_miss(state: RequestState, why: MissReason) -> None:
    """Tell the log and the application why the request has no session."""
    if why is MissReason.NO_COOKIE:
        state.is_withheld = is_withheld(state.method, state.config.cookie.same_site, state.headers)
    config = state.config
    if why is MissReason.ROTATED:  # its owner, too, can send it as often as they like
        config.notices.warn(
            "rotated",
            "A request used a session id that was replaced by a newer one, after its grace period: perhaps a stolen "
            "cookie. The event RotatedIdReused reports each of them, this message one a minute.",
            every=60,
        )
    if why in _REJECTED:
        values = find_values(state.headers, config.cookie.name)
        config.advice.on_rejected(why, state.headers, values if isinstance(values, list) else [])
    if config.on_event is not None:
        tokens = config.tokens_in(state.headers)
        state.note(*events_for_miss(why, tokens if isinstance(tokens, list) else ()))


def _handle(found: Found) -> str | None:
    identity = found.record.identity
    return None if identity is None else identity.handle
