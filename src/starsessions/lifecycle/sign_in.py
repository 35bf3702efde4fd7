"""What a sign in does beside the session: who it is, and a place on the list of that user's sessions."""

import logging
from collections.abc import Callable, Set
from weakref import WeakSet

from msgspec.structs import replace

from starsessions.backends.base import Backend
from starsessions.backends.user_index import PENDING, Index, IndexedSession, indexed_as, listing_end, new_handle
from starsessions.core.record import Identity
from starsessions.core.user_agent import describe, truncate_ip
from starsessions.events import Event, Revoked
from starsessions.exceptions import TooManySessions
from starsessions.lifecycle.config import Headers, Setting, UserRules

_log = logging.getLogger("starsessions")
_warned: WeakSet[Backend] = WeakSet()


def identity_of(user_id: str, method: str, headers: Headers, client: tuple[str, int] | None, now: int) -> Identity:
    """Who signs in with this request, how, and with what: in words, for the list of devices."""
    agent = next((value for name, value in headers if name == b"user-agent"), b"")
    address = truncate_ip(client[0]) if client else ""
    return Identity(user_id, now, new_handle(), method, describe(agent.decode("latin-1")), address)


async def register(
    identity: Identity,
    new_id: str,
    setting: Setting,
    before: Identity | None,
    replaced: Identity | None,
    now: int,
    note: Callable[[Event], None],
) -> Identity:
    """Put the session that is about to be on its user's list, and end those that are too many.

    `before`: who signed in earlier in this request, and never came to be. `replaced`: whose session it is in whose
    place this one comes; it stays on the list until then, and is not one too many. Raises `TooManySessions`.
    """
    backend, rules, user_id = setting.backend, setting.users, identity.user_id
    user_index = backend.user_index
    if user_index is None:
        if backend.is_client_side and backend not in _warned:
            _warned.add(backend)
            _log.warning(
                "Somebody signs in with a sealed cookie that cannot be called back: a copy of it outlives the sign "
                "out. Give the backend revocations=… (a store), or keep sessions in a store."
            )
        return identity
    longest = max(setting.policy.max_age, rules.remember_for)
    # A sealed cookie lives while it is listed, and nobody can look whether it came to be: it has to say so.
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
    """The list with one more session on it, and those that have to go: the oldest ones."""
    others = tuple(one for one in index if one.handle not in gone)
    rivals = tuple(one for one in others if replaced is None or one.handle != replaced.handle)
    too_many = 0 if rules.max_sessions is None else max(0, len(rivals) + 1 - rules.max_sessions)
    if too_many and not rules.evicts:
        raise TooManySessions("This user has as many sessions as are allowed.")
    evicted = rivals[:too_many]
    return (*(one for one in others if one not in evicted), listed), evicted
