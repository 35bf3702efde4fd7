"""Sign a user in: record the identity, list the session in the user's index, and rotate the id."""

import logging
from collections.abc import Callable, Set
from os import urandom
from weakref import WeakSet

from msgspec.structs import replace

from starsessions.backends.base import Backend
from starsessions.backends.user_index import PENDING, Index, IndexedSession, indexed_as, listing_end, new_handle
from starsessions.core.csrf import SECRET_BYTES, renew_secrets
from starsessions.core.encoding import to_base64url
from starsessions.core.record import Expiry, Identity
from starsessions.core.user_agent import describe, truncate_ip
from starsessions.events import Event, Revoked
from starsessions.exceptions import TooManySessions
from starsessions.lifecycle.config import Config, Headers, UserRules
from starsessions.lifecycle.loading import load
from starsessions.lifecycle.saving import end
from starsessions.lifecycle.tracked_dict import TrackedDict

_log = logging.getLogger("starsessions")
_warned: WeakSet[Backend] = WeakSet()


async def sign_in(session: TrackedDict, user_id: str, remember: bool, keep_data: bool, method: str) -> str:
    """Sign the user in to this session under a new id, and return that id."""
    await load(session)
    state = session.__starsessions__
    state.check_sendable()
    config, now = state.config, int(state.config.clock())
    before, stored = state.user, None if state.found is None else state.found.record.identity
    new_id = await config.backend.new_id()
    identity = identity_of(user_id, method, state.headers, state.client, now)
    identity = await register(identity, new_id, config, state.identity, stored, now, state.note)
    if before is not None and before.user_id != user_id:
        await end(session)
    elif not keep_data:
        session.clear()
    state.sign_in(identity, new_id, Expiry(lifetime=config.users.remember_for) if remember else None)
    end_open_forms(session)
    return new_id


async def regenerate_id(session: TrackedDict, grace: int) -> str:
    """Give the session a new id, and return it. The old id still works for `grace` seconds."""
    state = session.__starsessions__
    if state.identity is not None and state.next_id is not None:
        return state.next_id  # the sign-in has listed this id in the index, and the old id must get no grace
    state.rotate(await state.config.backend.new_id(), grace)
    if not grace:  # a grace period lets requests in flight succeed, and open forms as well
        end_open_forms(session)
    return state.next_id or ""


def end_open_forms(session: TrackedDict) -> None:
    """Invalidate all CSRF tokens that were issued earlier: see `starsessions.csrf`."""
    renew_secrets(session, to_base64url(urandom(6)), urandom(SECRET_BYTES))


def identity_of(user_id: str, method: str, headers: Headers, client: tuple[str, int] | None, now: int) -> Identity:
    """Return the identity that this request signs in, with a readable description of the device."""
    agent = next((value for name, value in headers if name == b"user-agent"), b"")
    address = truncate_ip(client[0]) if client else ""
    return Identity(user_id, now, new_handle(), method, describe(agent.decode("latin-1")), address)


async def register(
    identity: Identity,
    new_id: str,
    config: Config,
    before: Identity | None,
    replaced: Identity | None,
    now: int,
    note: Callable[[Event], None],
) -> Identity:
    """List the session that is about to be stored in its user's index, and end those over the limit.

    Args:
        identity: the user who signs in.
        new_id: the id under which the session will be stored.
        config: the settings of the middleware.
        before: an identity signed in earlier in this request, which will not be stored. None: there was none.
        replaced: the identity of the session that this one replaces. It stays listed until then, and does not count
            towards the limit. None: there is none.
        now: the time of the sign-in, in seconds since 1970.
        note: is called with each event.

    Raises:
        TooManySessions: the user is at the limit, and `on_too_many` is "refuse".
    """
    backend, rules, user_id = config.backend, config.users, identity.user_id
    user_index = backend.user_index
    if user_index is None:
        if backend.is_client_side and backend not in _warned:
            _warned.add(backend)
            _log.warning(
                "A user signed in with a cookie that cannot be revoked: a stolen copy stays valid after sign-out. "
                "Pass revocations=<store> to the backend, or keep sessions in a store."
            )
        return identity
    longest = max(config.policy.max_age, rules.remember_for)
    # A signed or encrypted cookie is valid while it is listed, and no backend can look up whether it was ever sent. So
    # it is listed for a short time, until its first save extends the listing.
    until = now + PENDING if backend.is_client_side else listing_end(now + longest, now)
    identity = replace(identity, listed_until=until)
    listed = indexed_as(identity, backend.key_of(new_id), now, is_sealed=backend.is_client_side)
    seen = await user_index.look(user_id, now)
    gone = await backend.dead_handles(seen.listed, now)
    if before is not None:
        gone |= {before.handle}
    evicted: Index = ()

    def add(index: Index) -> Index:
        nonlocal evicted
        index, evicted = enforce_limit(index, listed, gone, replaced, rules)
        return index

    await user_index.change(user_id, add, until, now, seen)
    for one in evicted:
        await backend.revoke(one, now)
        note(Revoked(one.handle, user_id))
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
