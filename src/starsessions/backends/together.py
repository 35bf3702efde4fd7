"""Writes that belong together: at once where the store can, and otherwise one after the other.

Both have the same outcome, and `user_index.py` says what an interruption leaves. Where the first way is refused, the
second finds out why, and what to do.
"""

from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from starsessions.backends.entries import Location, Pointer
from starsessions.backends.user_index import Overtaken, PendingSignIn, UserIndex
from starsessions.core.encoding import key_under
from starsessions.core.record import Found, MissReason, Record
from starsessions.stores.base import BatchConflict, Conflict, Creation, Deletion, Entry, Replacement, Version, Write

MOMENT = 30
"""Seconds after a rotation in which the old id is expected, because its requests were in flight."""

MOVING_FOR = 60
"""Seconds that the new entry of a rotation lives until the old one is a pointer, where that takes two steps."""

KNOWN_FOR = 24 * 60 * 60
"""Seconds for which a replaced id is remembered after its grace period."""


class Moved(Exception):
    """The session before was not moved, because it has changed or ended meanwhile.

    Args:
        current: what is stored in its place.
    """

    def __init__(self, current: Entry | None) -> None:
        self.current = current


class Move(NamedTuple):
    """A session that is to get another key."""

    found: Found
    """The session before."""

    key: str
    """The new key."""

    record: Record
    ends_at: int
    now: int
    usable_until: int
    """Until when the old id still works; 0: it does not."""

    pending: PendingSignIn | None
    """The entry of the sign-in that moves the session."""

    @property
    def location(self) -> Location:
        """Where the session before is stored."""
        location: Location = self.found.version
        return location

    def __repr__(self) -> str:
        return "<Move>"


class Mover:
    """Gives sessions other keys.

    Args:
        index: the entries of users, and the store.
        label: the label of the keys under which the data before a sign-in is kept.
    """

    def __init__(self, index: UserIndex, label: bytes) -> None:
        self._index = index
        self._label = label

    def key_before(self, key: str) -> str:
        """Return the key under which the data is kept that a session had before its sign-in."""
        return key_under(self._label, key)

    async def move(self, move: Move) -> Version:
        """Store a session under another key, leave a pointer in the old place, and announce it. Return the version.

        Raises:
            Conflict: the new key is in use.
            Moved: the session before has changed or ended meanwhile.
            Overtaken: something has ended the session meanwhile, or its sign-in.
        """
        versions = await self._in_one_batch(move)
        return versions[0] if versions else await self._in_steps(move)

    async def put(
        self,
        key: str,
        record: Record,
        ends_at: int,
        now: int,
        pending: PendingSignIn | None = None,
        later_end: int | None = None,
    ) -> Version:
        """Store a session under a key where there is none, or the pending entry of its sign-in.

        Args:
            key: where to store it.
            record: the session.
            ends_at: when it expires.
            now: the current time.
            pending: the pending entry.
            later_end: when the entry that will replace this one of a user expires. None: none will.

        Raises:
            Conflict: the key is in use.
            Overtaken: something has ended the session meanwhile, or its sign-in.
        """
        index = self._index
        if pending is not None:
            return await index.complete(pending, record, ends_at, now)
        if record.identity is not None:
            return await index.create(key, record, ends_at, now, later_end)
        return await index.store.create(key, index.value(key, record), expires_at=ends_at, now=now)

    async def _in_one_batch(self, move: Move) -> Sequence[Version]:
        """Return the versions of what was written; none: it has to be done in steps."""
        writes: list[Write] = [self._new_entry(move)]
        if move.pending is not None:
            writes.append(self._data_before(move))
        writes.append(self._pointer(move))
        try:
            versions, is_wanted = await self._written(move, writes)
        except BatchConflict as conflict:
            if conflict.index == len(writes) - 1:
                raise Moved(conflict.current) from None
            return ()
        if versions and not is_wanted:
            await self._move_back(move, versions[0], versions[-1])
            raise Overtaken
        return versions

    async def _written(self, move: Move, writes: Sequence[Write]) -> tuple[Sequence[Version], bool]:
        """Write at once, if the store can. Return the versions, and whether nothing has ended the session meanwhile."""
        index, now, topic = self._index, move.now, move.location.key
        if move.record.identity is None:
            return await index.write_together(writes, now, topic) or (), True
        return await index.write(writes, move.record, move.ends_at, now, topic, move.pending)

    async def _move_back(self, move: Move, version: Version, pointer: Version) -> None:
        """End a session that was overtaken. The browser keeps the cookie, and the anonymous session before lives on."""
        found, location, store = move.found, move.location, self._index.store
        await self._index.end(move.key, version)
        with suppress(Conflict):
            if found.record.identity is not None:
                await store.delete(location.key, pointer, now=0)
            else:
                value, until = self._index.value(location.key, found.record), location.until or move.ends_at
                await store.replace(location.key, value, pointer, expires_at=until, now=move.now)

    async def _in_steps(self, move: Move) -> Version:
        index, pending, now = self._index, move.pending, move.now
        # The new entry comes first: no browser knows its id yet, and if this is interrupted the old one is intact. The
        # new one of a user then stays in the listing, where nothing ends it with the old one, so it lives for a minute.
        is_brief = pending is None and move.record.identity is not None and now + MOVING_FOR < move.ends_at
        first_end, until = (now + MOVING_FOR, move.ends_at) if is_brief else (move.ends_at, None)
        work: list[Coroutine[Any, Any, Any]] = [self.put(move.key, move.record, first_end, now, pending, until)]
        if pending is not None:
            work.append(self._keep_data_before(move))
        version, *_ = await index.concurrently(*work)
        try:
            await index.put_pointer(self._pointer(move), now)
        except Conflict as conflict:
            if pending is not None:
                await index.take_back(pending, now)
                await index.delete(self.key_before(move.key))
            else:
                await index.delete(move.key, version)
            raise Moved(conflict.current) from None
        return await self._prolong(move, version) if is_brief else version

    async def _keep_data_before(self, move: Move) -> None:
        key, value, expires_at, _ = self._data_before(move)
        with suppress(Conflict):  # an earlier attempt of this request has stored it
            await self._index.store.create(key, value, expires_at=expires_at, now=move.now)

    async def _prolong(self, move: Move, version: Version) -> Version:
        """Let the new entry of a rotation live as long as its session."""
        new, index, now = self._new_entry(move), self._index, move.now
        try:
            return await index.store.replace(
                new.key, new.value, version, expires_at=new.expires_at, now=now, owner=new.owner
            )
        except Conflict as conflict:
            if isinstance(index.read(new.key, conflict.current), MissReason):
                raise Moved(None) from None
            # A request with the old id has written it, in the grace period, and prolonged it. The next save merges.
            return version

    # What is written

    def _new_entry(self, move: Move) -> Creation | Replacement:
        key, pending, owner = move.key, move.pending, self._index.owner_of(move.record)
        value = self._index.value(key, move.record)
        if pending is None:
            return Creation(key, value, move.ends_at, owner)
        return Replacement(key, value, pending.version, move.ends_at, owner)

    def _data_before(self, move: Move) -> Creation:
        """Keep the data that the session had before a sign-in for a moment, for the same form if it is sent twice."""
        key = self.key_before(move.key)
        value = self._index.value(key, Pointer(move.key, move.now, 0, move.found.record.payload))
        return Creation(key, value, move.now + MOMENT)

    def _pointer(self, move: Move) -> Replacement:
        key, version, _ = move.location.key, move.location.version, move.location.until
        # Longer than any request is in flight, but not so long that pointers outnumber the sessions.
        known_until = min(move.ends_at, max(move.now, move.usable_until) + KNOWN_FOR)
        value = self._index.value(key, Pointer(move.key, move.now, move.usable_until))
        return Replacement(key, value, version, max(known_until, move.usable_until))


async def complete_and_end(
    index: UserIndex, pending: PendingSignIn, record: Record, before: Location, ends_at: int, now: int
) -> Version:
    """Store a sign-in in the place of its pending entry, and end and announce the one before. Return the version.

    Args:
        index: the entries of users.
        pending: the pending entry.
        record: what to store.
        before: where the sign-in before is stored.
        ends_at: when the entry expires.
        now: the current time.

    Raises:
        Overtaken: something has ended the sign-in meanwhile.
    """
    key, value = pending.key, index.value(pending.key, record)
    writes: list[Write] = [
        Replacement(key, value, pending.version, ends_at, index.owner_of(record)),
        Deletion(before.key, before.version),
    ]
    with suppress(BatchConflict):
        versions, is_wanted = await index.write(writes, record, ends_at, now, before.key, pending)
        if versions:
            return await _kept(index, key, versions[0], is_wanted)
    version = await index.complete(pending, record, ends_at, now)
    await index.end(before.key, before.version)
    return version


async def replace_sign_in(index: UserIndex, location: Location, record: Record, ends_at: int, now: int) -> Version:
    """Replace the sign-in of a user, and announce that. Return the version.

    Args:
        index: the entries of users.
        location: where it is stored.
        record: what to store.
        ends_at: when the entry expires.
        now: the current time.

    Raises:
        Conflict: the sign-in has changed or ended meanwhile.
        Overtaken: something has ended it meanwhile.
    """
    key = location.key
    write = Replacement(key, index.value(key, record), location.version, ends_at, index.owner_of(record))
    versions, is_wanted = await index.write([write], record, ends_at, now, key)
    if versions:
        return await _kept(index, key, versions[0], is_wanted)
    version = await index.replace(key, record, location.version, ends_at, now)
    await index.announce(key)
    return version


async def _kept(index: UserIndex, key: str, version: Version, is_wanted: bool) -> Version:
    if not is_wanted:
        await index.end(key, version)
        raise Overtaken
    return version
