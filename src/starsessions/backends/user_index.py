"""An index of each user's sessions, in any `Store`: one list for each user.

It needs only the four methods of a store, so it works with every store, including third-party ones and a Redis Cluster.
Each list is one entry, which is changed with `replace`.

A list does not grow without limit: a sign-in that adds to it checks which of the listed sessions are still valid. A
session that was listed recently may not be stored yet, so it counts as valid for `PENDING` seconds.
"""

from collections.abc import Callable, Set
from os import urandom
from typing import NamedTuple

from msgspec.msgpack import Decoder, Encoder
from msgspec.structs import replace

from starsessions.core.binding import Binding, Purpose
from starsessions.core.encoding import key_under, to_base64url
from starsessions.core.record import Identity, Instant, Key, Opaque, Record
from starsessions.exceptions import BackendUnavailable
from starsessions.sealing.cipher import Cipher
from starsessions.stores.base import Conflict, Entry, Store

PENDING = 60
"""Seconds that a sign-in may take from being listed to being stored."""

MAX_TRIES = 1000


class IndexedSession(Opaque, frozen=True, array_like=True):
    """One session in the index."""

    handle: str
    key: Key
    """The store's key of its record; empty if the session is in the cookie."""

    listed_at: Instant
    until: Instant
    """When the listing ends. By then the session has expired, or a renewal has extended the listing."""

    identity: Identity | None = None
    """The identity of a session in a signed or encrypted cookie, which cannot be looked up; None for others."""


Index = tuple[IndexedSession, ...]
"""The sessions of one user, the oldest first."""


class Snapshot(NamedTuple):
    """A user's list as it was read, with its entry in the store."""

    listed: Index
    entry: Entry | None


_encode = Encoder().encode
_decode = Decoder(Index).decode


def new_handle() -> str:
    """Return a new public name for a session: 16 random characters. It does not give access to the session.

    >>> len(new_handle())
    16
    """
    return to_base64url(urandom(12))


def listing_end(ends_at: int, now: int) -> int:
    """Return when the listing of a session ends: after twice its lifetime, so that most renewals need not extend it."""
    return ends_at + (ends_at - now)


def _mark(key: str) -> bytes:
    """Return the prefix of a stored list. It prevents confusion with a session, or with the list of another user."""
    return b"u1." + key[:8].encode("ascii")


def _is(listed: IndexedSession, identity: Identity) -> bool:
    """Return whether this is the listed session, in its current generation."""
    return listed.handle == identity.handle and (
        listed.identity is None or listed.identity.generation == identity.generation
    )


class UserIndex:
    """The lists of users' sessions in a store, for one cookie of one application and one kind of backend.

    Backends do not share lists, because none can tell whether the sessions of another one are still valid.
    """

    def __init__(self, store: Store, binding: Binding, purpose: Purpose, cipher: Cipher | None = None) -> None:
        """Create the index.

        Args:
            store: where the lists are stored.
            binding: the application and its cookie.
            purpose: the kind of list.
            cipher: encrypts the lists, if the backend encrypts its records. None: no encryption.
        """
        self._store = store
        self._label = binding.label(purpose)
        self._is_sealed = purpose is Purpose.COOKIE_LIST
        self._cipher = cipher

    def listing(self, identity: Identity, key: str, now: int) -> IndexedSession:
        """How the list has a session: a cookie cannot be looked up, so there is all that can be shown of it."""
        shown = identity if self._is_sealed else None
        return IndexedSession(identity.handle, key, now, identity.listed_until, shown)

    async def of(self, user_id: str, now: int) -> Index:
        """Return the user's list, which may include sessions that have ended."""
        return (await self.look(user_id, now)).listed

    async def look(self, user_id: str, now: int) -> Snapshot:
        """Read the user's list, to pass it to `change`."""
        key = key_under(self._label, user_id)
        entry = await self._store.get(key, now=now)
        return Snapshot(self._read(key, entry), entry)

    async def change(
        self,
        user_id: str,
        change: Callable[[Index], Index],
        now: int,
        *,
        keep_until: int = 0,
        seen: Snapshot | None = None,
    ) -> Index:
        """Change the user's list atomically, and return the list as it was before the change.

        Args:
            user_id: the user.
            change: returns the new list for an old one. It runs again if another request writes first.
            now: the current time, in seconds since 1970.
            keep_until: when the list expires, in seconds since 1970, unless it is kept longer already. A `change` that
                adds to the list needs it.
            seen: the list that `look` has returned, to save a read. Only for a `change` that changes the list or
                raises: an outdated list is detected by the write. None: read the list.

        Raises:
            BackendUnavailable: other requests changed the list on every attempt, or the store failed.
        """
        key = key_under(self._label, user_id)
        entry = (seen or await self.look(user_id, now)).entry
        for _ in range(MAX_TRIES):
            before = self._read(key, entry)
            after = change(before)
            expires_at = keep_until if entry is None else max(entry.expires_at, keep_until)
            if after == before and (entry is None or expires_at == entry.expires_at):
                return before
            try:
                if entry is None:
                    await self._store.create(key, self._written(key, after), expires_at=expires_at, now=now)
                elif not after:
                    await self._store.delete(key, entry.version, now=now)
                else:
                    written = self._written(key, after)
                    await self._store.replace(key, written, entry.version, expires_at=expires_at, now=now)
                return before
            except Conflict as conflict:
                entry = conflict.current
        raise BackendUnavailable("Other requests changed the list of the user's sessions on every attempt: try again.")

    async def keep_indexed(self, record: Record, key: str, ends_at: int, now: int) -> Record:
        """Extend the session's listing if the session outlasts it. Return the record, updated with the new listing.

        Most renewals do nothing here, because a session is listed for twice its lifetime.
        """
        identity = record.identity
        if identity is None or ends_at <= identity.listed_until:
            return record
        identity = replace(identity, listed_until=max(identity.listed_until, listing_end(ends_at, now)))
        listed = self.listing(identity, key, now)

        def renewed(index: Index) -> Index:
            # In the same position: the list is in the order of the sign-ins.
            if any(_is(one, identity) for one in index):
                return tuple(listed if _is(one, identity) else one for one in index)
            # A signed or encrypted cookie is valid while it is listed. One that was revoked must not be listed again.
            return index if self._is_sealed else (*index, listed)

        await self.change(identity.user_id, renewed, now, keep_until=listed.until)
        return replace(record, identity=identity)

    async def moved(self, identity: Identity, key: str, now: int) -> None:
        """Update the key of a listed session after a rotation. A session that is not listed was ended, and stays so."""

        def moved(index: Index) -> Index:
            return tuple(replace(one, key=key) if one.handle == identity.handle else one for one in index)

        await self.change(identity.user_id, moved, now)

    async def next_generation(self, identity: Identity, now: int) -> Identity | None:
        """Start the next generation of a cookie, which invalidates all earlier ones. None if it is no longer listed."""
        turned = replace(identity, generation=identity.generation + 1)

        def turn(index: Index) -> Index:
            return tuple(replace(one, identity=turned) if _is(one, identity) else one for one in index)

        before = await self.change(identity.user_id, turn, now)
        return turned if any(_is(one, identity) for one in before) else None

    async def forget(self, identity: Identity, now: int) -> None:
        """Remove an ended session from the list. (Sessions in a store need no call: a lookup finds them missing.)"""
        await self.remove(identity.user_id, {identity.handle}, now)

    async def remove(self, user_id: str, handles: Set[str], now: int) -> None:
        """Remove the sessions with these handles from the user's list."""
        await self.change(user_id, lambda index: tuple(one for one in index if one.handle not in handles), now)

    async def is_indexed(self, identity: Identity, now: int) -> bool:
        """Return whether the session is listed. Revoking a signed or encrypted cookie removes it from the list."""
        index = await self.of(identity.user_id, now)
        return any(_is(one, identity) and now < one.until for one in index)

    def _written(self, key: str, index: Index) -> bytes:
        raw = _encode(index)
        return _mark(key) + (raw if self._cipher is None else self._cipher.seal(raw, key.encode()))

    def _read(self, key: str, entry: Entry | None) -> Index:
        """Decode a stored list. Garbage counts as empty: sessions are listed again when they are renewed."""
        mark = _mark(key)
        if entry is None or not entry.value.startswith(mark):
            return ()
        raw: bytes | None = entry.value[len(mark) :]
        if raw and self._cipher is not None:
            raw = self._cipher.open(raw, key.encode())
        try:
            return _decode(raw or b"")
        except Exception:  # foreign data, or a list of another release
            return ()
