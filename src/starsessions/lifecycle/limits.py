"""How many sessions a user may have: which sign-in is refused, and which sessions one that is saved evicts.

All that judge at the same time have the same order (`rank`), so that they agree who is one too many: see
`backends/user_index.py`.

The answer to a sign-in may be lost on its way, and then the user has a session that no browser knows. So a sign-in is
stored unconfirmed, and the first request with its cookie confirms it, by one write. One that was not confirmed within a
minute *makes way*: it lives for as long as it can, but it goes before all others, and refuses no sign-in. So does one
that an epoch refuses.

What makes way is ended by its version, and only after the sign-in that needs its place was saved. If it was confirmed
meanwhile, that is a conflict, and the sign-in is judged anew. Judges whose clocks differ may end one more than they
need to, and never one too few: each looks after its own session was saved.

The number of entries says whether to look, and is asked for while the session is written: another round trip after that
would be one for every sign-in. So a sign-in may be counted, wait, and be written after others have come and judged. The
first of those that found no place for it has marked it, and it looks in any case.
"""

from contextlib import suppress
from typing import NamedTuple

from msgspec.structs import replace

from starsessions.backends.epochs import carries
from starsessions.backends.user_index import CHUNK, COUNTS_FOR, PAGE, Overtaken, Owned, UserIndex
from starsessions.core.record import Identity
from starsessions.events import Revoked
from starsessions.exceptions import BackendUnavailable, TooManySessions
from starsessions.lifecycle.config import UserRules
from starsessions.lifecycle.request_state import RequestState
from starsessions.stores.base import Conflict, Cursor


class Sessions(NamedTuple):
    """The sessions of a user that count towards the maximum. Each has more than one entry after a broken rotation."""

    saved: dict[str, list[Owned]]
    """Those that are saved, by handle."""
    pending: list[Owned]
    """The sign-ins that are not saved yet. After a minute, they count only once they are."""


def rank(one: Owned | Identity) -> tuple[int, str]:
    """Return where a session comes in the order of eviction: the lowest goes first."""
    identity = one if isinstance(one, Identity) else _identity(one)
    return identity.signed_in_at + identity.later, identity.handle


def makes_way(entries: list[Owned], to: Identity, now: int) -> bool:
    """Return whether a session goes before all others: it is unconfirmed after a minute, or an epoch refuses it."""
    return all(_is_unconfirmed(one, now) or not carries(_identity(one), to.epoch) for one in entries)


def _is_unconfirmed(one: Owned, now: int) -> bool:
    # By the time of its save: the handler of its sign-in may have been slow.
    return not _identity(one).is_confirmed and one.record is not None and one.record.renewed_at + COUNTS_FOR <= now


def _identity(one: Owned) -> Identity:
    assert one.identity is not None
    return one.identity


async def sessions_of(index: UserIndex, user_id: str, now: int) -> Sessions:
    """Read the sessions of a user."""
    sessions = Sessions({}, [])
    after: Cursor | None = None
    while True:
        page, after = await index.page(user_id, PAGE, now, after)
        for one in page:
            if one.record is None or one.identity is None:
                continue
            if one.record.payload is None:
                sessions.pending.append(one)
            elif index.is_live(one.record, now):
                sessions.saved.setdefault(one.identity.handle, []).append(one)
        if after is None:
            return sessions


async def admit(identity: Identity, replaced: str | None, index: UserIndex, rules: UserRules, now: int) -> Identity:
    """Return the identity for a sign-in that has found the user at the maximum, with its place in the order.

    Args:
        identity: the identity, whose entry is pending.
        replaced: the handle of the session that it replaces, which does not count.
        index: the entries of users.
        rules: the maximum.
        now: the current time.

    Raises:
        TooManySessions: the user has the maximum already, and none is evicted.
    """
    while True:
        saved, pending = await sessions_of(index, identity.user_id, now)
        if replaced is not None:
            saved.pop(replaced, None)
        counting = sum(not makes_way(entries, identity, now) for entries in saved.values())
        young = [one for one in pending if one.record is not None and now < one.record.renewed_at + COUNTS_FOR]
        if rules.evicts or await _has_room(identity, counting, young, index, rules):
            break
    last = max((rank(entries[0])[0] for entries in saved.values()), default=0)
    return replace(identity, later=max(0, last + 1 - identity.signed_in_at))


async def _has_room(identity: Identity, saved: int, pending: list[Owned], index: UserIndex, rules: UserRules) -> bool:
    """Refuse a sign-in if there are enough before it. Otherwise end those after it. False: something has changed."""
    others = sorted((one for one in pending if rank(one)[1] != identity.handle), key=rank)
    before = [one for one in others if rank(one) < rank(identity)]
    most = rules.max_sessions or 0
    if saved + len(before) >= most:
        raise TooManySessions("This user has as many sessions as max_sessions_per_user allows: end one of them first.")
    try:
        for one in others[most - saved - 1 :]:
            await index.store.delete(one.key, one.version, now=0)
    except Conflict:  # it was saved meanwhile
        return False
    return True


async def make_room_after_save(
    identity: Identity, index: UserIndex, rules: UserRules, now: int, state: RequestState
) -> list[list[Owned]]:
    """End the sessions that make way for a sign-in, which has just been saved. Return those that it evicts besides.

    Raises:
        Overtaken: it is itself one too many, because others have been saved or confirmed meanwhile.
    """
    most = rules.max_sessions or 0
    while True:
        saved, pending = await sessions_of(index, identity.user_id, now)
        ranked = sorted(saved.values(), key=lambda one: (not makes_way(one, identity, now), rank(one[0])))
        losers = ranked[: max(0, len(ranked) - most)]
        evicted = [entries for entries in losers if not makes_way(entries, identity, now)]
        if evicted and (not rules.evicts or any(rank(entries[0])[1] == identity.handle for entries in evicted)):
            raise Overtaken
        later = [one for one in pending if not one.is_marked] if len(saved) + len(pending) > most else []
        if await _mark_each(later, index, now) and await _end_unchanged(
            losers[: len(losers) - len(evicted)], index, state
        ):
            return evicted


async def _mark_each(pending: list[Owned], index: UserIndex, now: int) -> bool:
    """Make sign-ins look for others once they are saved. Return False if one was saved meanwhile, or has ended."""
    for begin in range(0, len(pending), CHUNK):
        if not all(await index.concurrently(*(index.mark(one, now) for one in pending[begin : begin + CHUNK]))):
            return False
    return True


async def _end_unchanged(losers: list[list[Owned]], index: UserIndex, state: RequestState) -> bool:
    """End sessions that make way. Return False if one of them has changed meanwhile."""
    for begin in range(0, len(losers), CHUNK):
        owned = [one for entries in losers[begin : begin + CHUNK] for one in entries]
        if not await _end_together(owned, index, state):
            return False
    return True


async def _end_together(owned: list[Owned], index: UserIndex, state: RequestState) -> bool:
    """End these sessions concurrently, and report those that have ended. Return False if one of them has changed."""
    ended: list[Owned] = []

    async def end(one: Owned) -> None:
        with suppress(Conflict):
            if await index.store.delete(one.key, one.version, now=0):
                ended.append(one)

    try:
        await index.concurrently(*(end(one) for one in owned))
    finally:
        state.note(*_revoked(ended))
        await index.announce_in_any_case([one.key for one in ended])
    return len(ended) == len(owned)


async def evict(losers: list[list[Owned]], index: UserIndex, state: RequestState) -> None:
    """End these sessions. If the store fails, the next sign-in ends them: this one is saved, and its answer valid."""
    ended: list[Owned] = []
    try:
        await index.end_each([one for entries in losers for one in entries], ended.append)
    except BackendUnavailable:
        state.config.notices.warn(
            "evict",
            "A user has more sessions than max_sessions_per_user allows, because the store failed while a sign-in "
            "ended the oldest. The user's next sign-in ends them.",
            every=60,
        )
    finally:
        events = _revoked(ended)
        state.config.observer.revoked(len(events), "limit")
        state.note(*events)


def _revoked(ended: list[Owned]) -> list[Revoked]:
    users = {user.handle: user for user in map(_identity, ended)}
    return [Revoked(user.handle, user.user_id, user.agent, user.address) for user in users.values()]
