"""Sign a user in: record the identity, store the pending entry of the session, and rotate the id."""

from collections.abc import Coroutine
from os import urandom
from typing import Any, NamedTuple

from msgspec.structs import replace

from starsessions.backends.base import IdInUse
from starsessions.backends.user_index import new_handle
from starsessions.core.binding import Purpose
from starsessions.core.csrf import SECRET_BYTES, header_of, put_secret, remove_secrets
from starsessions.core.encoding import key_under, to_base64url
from starsessions.core.record import Expiry, Identity, MissReason, Policy, Record, deadline
from starsessions.core.user_agent import describe, truncate_ip
from starsessions.exceptions import ImproperlyConfigured, TooManySessions
from starsessions.lifecycle.limits import admit
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.saving import abandon, end, end_cleared
from starsessions.lifecycle.tracked_dict import TrackedDict
from starsessions.stores.base import Conflict

REMEMBER_FOR = 30 * 24 * 60 * 60


class ProviderNames(NamedTuple):
    """What an identity provider calls a sign-in."""

    issuer: str
    session: str
    subject: str

    def __repr__(self) -> str:
        return "<ProviderNames>"


NO_PROVIDER = ProviderNames("", "", "")


async def sign_in(
    session: TrackedDict,
    user_id: str,
    remember: bool | None,
    keep_data: bool,
    method: str,
    stamp: str = "",
    provider: ProviderNames = NO_PROVIDER,
) -> str:
    """Sign the user in to this session, which has been loaded, under a new id, and return that id."""
    state = session.__starsessions__
    state.check_sendable()
    check_revocable(state)
    if state.signs_out:
        async with state.save_lock():
            await end_cleared(session)
    config, before, now = state.config, state.user, int(state.config.clock())
    new_id = await config.backend.new_id()
    if keep_data:  # before the session that has the data is ended, if the user may have one only
        await take_along(session, session, user_id)
    identity = linked(identity_of(user_id, method, stamp, state, now), provider, state)
    expiry = expiry_for(remember, state)
    identity = await register(identity, new_id, state, now, expiry)
    if before is not None and before.user_id != user_id:
        pending, state.pending = state.pending, None
        await end(session)
        state.pending = pending
    elif not keep_data:
        session.clear()
    state.sign_in(identity, new_id, expiry)
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
        return state.next_id  # the sign-in has stored an entry under this id, and the old id must get no grace
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
    if remove_secrets(session):
        put_secret(session, to_base64url(urandom(6)), urandom(SECRET_BYTES))


def identity_of(user_id: str, method: str, stamp: str, state: RequestState, now: int) -> Identity:
    """Return the identity that this request signs in, with a readable description of the device."""
    address = truncate_ip(state.client[0]) if state.client else ""
    agent = describe(header_of(state.headers, b"user-agent"))
    stamp = hashed_stamp(stamp, user_id, state)
    return Identity(user_id, now, new_handle(), method, agent, address, stamp=stamp)


def linked(identity: Identity, provider: ProviderNames, state: RequestState) -> Identity:
    """Return the identity with what its provider will call it when it signs the user out."""
    index = state.config.backend.user_index
    if not provider.issuer:
        return identity
    if index is None:
        raise ImproperlyConfigured(
            "sign_in() takes a provider only if the provider could end the session: keep sessions in a store, or pass "
            "revocations=<store> to the cookie backend."
        )
    session, subject = index.links.owners(*provider)
    return replace(identity, provider_session=session, provider_subject=subject)


def hashed_stamp(stamp: str, user_id: str, state: RequestState) -> str:
    """Return what a session keeps of the fingerprint of credentials: readers of a signed cookie must not learn it."""
    if not stamp:
        return ""
    label = state.config.backend.binding.label(Purpose.STAMP) + key_under(b"", user_id).encode()
    return key_under(label, stamp)[:22]


async def register(identity: Identity, new_id: str, state: RequestState, now: int, expiry: Expiry | None) -> Identity:
    """Store the pending entry of the session, in whose place it is saved, and return the identity to save."""
    config, found = state.config, state.found
    index, rules = config.backend.user_index, config.users
    if index is None:
        return identity
    await abandon(state)  # a sign-in earlier in this request
    key, expiry = config.backend.sign_in_key(identity, new_id), expiry or state.expiry or Expiry()
    ends_at = config.backend.sign_in_end(deadline(Record(None, now, now, *expiry, None, identity), config.policy), now)
    work: list[Coroutine[Any, Any, Any]] = [index.begin(key, identity, ends_at, now, rules.max_sessions)]
    if identity.has_provider:
        work.append(index.links.write(identity, now + remember_for(config.policy), now))
    try:
        pending, *_ = await index.concurrently(*work)
    except Conflict:
        raise IdInUse from None
    state.pending = pending
    identity = replace(identity, epoch=pending.epochs, is_confirmed=not rules.confirms)
    if rules.max_sessions is not None and pending.count >= rules.max_sessions:
        # A sign-in with an id in its grace period replaces nothing: the session that the id opens lives on.
        replaced = None if found is None or found.is_alias else found.record.identity
        try:
            return await admit(identity, None if replaced is None else replaced.handle, index, rules, now)
        except TooManySessions:
            config.observer.refused("max_sessions_per_user")
            await abandon(state)
            raise
    return identity
