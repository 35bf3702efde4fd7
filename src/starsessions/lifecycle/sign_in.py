"""Sign a user in: record the identity, list the session in the user's index, and rotate the id."""

from collections.abc import Set
from os import urandom
from typing import Any

from msgspec.structs import replace

from starsessions.backends.user_index import PENDING, Index, IndexedSession, listing_end, new_handle
from starsessions.core.csrf import SECRET_BYTES, header_of, renew_secrets
from starsessions.core.encoding import to_base64url
from starsessions.core.record import Expiry, Identity, MissReason, Policy
from starsessions.core.user_agent import describe, truncate_ip
from starsessions.events import Revoked
from starsessions.exceptions import ImproperlyConfigured, TooManySessions
from starsessions.lifecycle.config import UserRules
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.saving import end
from starsessions.lifecycle.tracked_dict import TrackedDict

REMEMBER_FOR = 30 * 24 * 60 * 60


async def sign_in(session: TrackedDict, user_id: str, remember: bool | None, keep_data: bool, method: str) -> str:
    """Sign the user in to this session, which has been loaded, under a new id, and return that id."""
    state = session.__starsessions__
    state.check_sendable()
    check_revocable(state)
    config, before, now = state.config, state.user, int(state.config.clock())
    new_id = await config.backend.new_id()
    if keep_data:  # before the session that has the data is ended, if the user may have one only
        await take_along(session, session, user_id)
    identity = await register(identity_of(user_id, method, state, now), new_id, state, now)
    if before is not None and before.user_id != user_id:
        await end(session)
    elif not keep_data:
        session.clear()
    state.sign_in(identity, new_id, expiry_for(remember, state))
    end_open_forms(session)
    return new_id


async def take_along(session: TrackedDict, data: dict[str, Any], user_id: str | None = None) -> dict[str, Any]:
    """Add to `data` what was in the session that the same form has signed in a moment ago (a double submit).

    That response may never have arrived, and with it the cookie of the session that the data was moved to.

    Args:
        session: the session of a request whose id was rotated a moment ago. Otherwise nothing is added.
        data: what the keys are added to, except those that it has. It is returned.
        user_id: the user who must be signed in there. None: any, to check the form before the user is known.
    """
    state = session.__starsessions__
    config = state.config
    tokens = config.tokens_in(state.headers)
    if state.miss_reason is MissReason.JUST_ROTATED and isinstance(tokens, list):
        for token in tokens:
            payload = await config.backend.data_before_sign_in(token, user_id, int(config.clock()))
            if payload is not None:
                state.take_along(payload, data)
    return data


async def regenerate_id(session: TrackedDict, grace: int) -> str:
    """Give the session a new id, and return it. The old id still works for `grace` seconds."""
    state = session.__starsessions__
    if state.identity is not None and state.next_id is not None:
        return state.next_id  # the sign-in has listed this id in the index, and the old id must get no grace
    state.rotate(await state.config.backend.new_id(), grace)
    if not grace:  # a grace period lets requests in flight succeed, and open forms as well
        end_open_forms(session)
    return state.next_id or ""


def check_revocable(state: RequestState) -> None:
    """Raise `ImproperlyConfigured` if the sign-in could not be revoked, and the backend does not allow that."""
    backend = state.config.backend
    if backend.is_client_side and backend.user_index is None and not backend.allow_unrevocable:
        raise ImproperlyConfigured(
            "sign_in() was called, but the session is in a cookie that cannot be revoked: a stolen copy would stay "
            "valid after the sign-out. Keep sessions in a store, or pass revocations=<store> to CookieBackend or "
            "EncryptedCookieBackend; or accept it with CookieBackend(secret_key, allow_unrevocable=True)."
        )


def expiry_for(remember: bool | None, state: RequestState) -> Expiry | None:
    """Return the expiry that the user has chosen; None: no choice, so that `max_age` applies."""
    if remember is None:
        return None
    if not remember:
        return Expiry(browser=True)
    config = state.config
    if _is_capped(config.policy):
        config.notices.warn(
            "remember",
            "sign_in(remember=True) has no effect, because no session may last longer than absolute_timeout. Remove "
            'absolute_timeout, or the "remember me" box.',
        )
    return Expiry(lifetime=remember_for(config.policy))


def remember_for(policy: Policy) -> int:
    """Return how many seconds a session lasts from its last renewal if the user asked to be remembered."""
    # Where no session may last longer than that, a remembered one has to be used as often as any other.
    return policy.max_age if _is_capped(policy) else max(policy.max_age, REMEMBER_FOR)


def _is_capped(policy: Policy) -> bool:
    return policy.absolute_timeout is not None and policy.absolute_timeout <= REMEMBER_FOR


def end_open_forms(session: TrackedDict) -> None:
    """Invalidate all CSRF tokens that were issued earlier: see `starsessions.csrf`."""
    renew_secrets(session, to_base64url(urandom(6)), urandom(SECRET_BYTES))


def identity_of(user_id: str, method: str, state: RequestState, now: int) -> Identity:
    """Return the identity that this request signs in, with a readable description of the device."""
    address = truncate_ip(state.client[0]) if state.client else ""
    return Identity(user_id, now, new_handle(), method, describe(header_of(state.headers, b"user-agent")), address)


async def register(identity: Identity, new_id: str, state: RequestState, now: int) -> Identity:
    """List the session that is about to be stored in its user's index, and end those over the limit.

    The session that it replaces stays listed until then, and does not count towards the limit.
    """
    config, found = state.config, state.found
    # A sign-in with an id in its grace period replaces nothing: the session that the id opens lives on.
    replaced = None if found is None or found.is_alias else found.record.identity
    backend, rules, user_id = config.backend, config.users, identity.user_id
    user_index = backend.user_index
    if user_index is None:
        return identity
    # A signed or encrypted cookie is valid while it is listed, and no backend can look up whether it was ever sent. So
    # it is listed for a short time, until its first save extends the listing.
    until = now + PENDING if backend.is_client_side else listing_end(now + remember_for(config.policy), now)
    identity = replace(identity, listed_until=until)
    listed = user_index.listing(identity, backend.key_of(new_id), now)
    seen = await user_index.look(user_id, now)
    gone = await backend.dead_handles(seen.listed, now)
    if state.identity is not None:  # who signed in earlier in this request, and never came to be
        gone |= {state.identity.handle}
    evicted: Index = ()

    def add(index: Index) -> Index:
        nonlocal evicted
        index, evicted = enforce_limit(index, listed, gone, replaced, rules)
        return index

    await user_index.change(user_id, add, now, keep_until=until, seen=seen)
    for one in evicted:
        await backend.revoke(one, now)
        state.note(Revoked(one.handle, user_id))
    return identity


def enforce_limit(
    index: Index, listed: IndexedSession, gone: Set[str], replaced: Identity | None, rules: UserRules
) -> tuple[Index, Index]:
    """Return the list with the new session added, and the oldest sessions, which must be ended to keep the limit."""
    others = tuple(one for one in index if one.handle not in gone)
    rivals = tuple(one for one in others if replaced is None or one.handle != replaced.handle)
    too_many = 0 if rules.max_sessions is None else max(0, len(rivals) + 1 - rules.max_sessions)
    if too_many and not rules.evicts:
        raise TooManySessions("This user has as many sessions as max_sessions_per_user allows: end one of them first.")
    evicted = rivals[:too_many]
    return (*(one for one in others if one not in evicted), listed), evicted
