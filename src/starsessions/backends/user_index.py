"""Whose sessions there are: an index in any `Store`, one list for each user, that knows where their sessions are.

It needs nothing of a store but its four verbs, so it works on each of them, third-party ones and a Redis Cluster
included: all that is known of one user is under one key, and changes by `replace`.

A list is never longer than what the user has: a sign-in that adds to it looks which of the sessions still live. A
session that was listed a moment ago may not be stored yet, so it counts as living for `PENDING` seconds.
"""

from collections.abc import Callable
from os import urandom
from typing import NamedTuple

from msgspec import Struct
from msgspec.msgpack import Decoder, Encoder
from msgspec.structs import replace

from starsessions.core.binding import DEFAULT_BINDING, Binding, Purpose
from starsessions.core.encoding import key_under, to_base64url
from starsessions.core.record import Identity, Opaque, Record
from starsessions.exceptions import BackendUnavailable
from starsessions.sealing.cipher import Cipher
from starsessions.stores.base import Conflict, Entry, Store

PENDING = 60
"""Seconds that a sign in may take from being listed to being stored."""

MAX_TRIES = 1000


class IndexedSession(Opaque, Struct, frozen=True, array_like=True):
    """One session in the index."""

    handle: str
    key: str
    """Where its record is stored; empty if the cookie is the session."""

    listed_at: int
    until: int
    """By then it has expired, or has listed itself again."""

    identity: Identity | None = None
    """What there is to show of a session that cannot be looked up: a signed or encrypted cookie."""


Index = tuple[IndexedSession, ...]
"""The sessions of one user, the oldest first."""


class Snapshot(NamedTuple):
    """The list of a user, as it was read."""

    listed: Index
    entry: Entry | None


_encode = Encoder().encode
_decode = Decoder(Index).decode


def index_key(user_id: str, binding: Binding = DEFAULT_BINDING, purpose: Purpose = Purpose.SESSION_LIST) -> str:
    """Return the key under which a store keeps the list of this user.

    >>> index_key("ann") != index_key("Ann"), len(index_key("ann"))
    (True, 43)
    """
    return key_under(binding.label(purpose), user_id)


def new_handle() -> str:
    """A public name for a session: 16 characters, which open nothing.

    >>> len(new_handle())
    16
    """
    return to_base64url(urandom(12))


def listing_end(ends_at: int, now: int) -> int:
    """Until when to list a session that expires at `ends_at`: as long again, so that renewing it rarely has to."""
    return ends_at + (ends_at - now)


def _mark(key: str) -> bytes:
    """What is in front of a list: it is no session, and no list of another user, whatever key it is found under."""
    return b"u1." + key[:8].encode("ascii")


def _is(listed: IndexedSession, identity: Identity) -> bool:
    """Whether this is the session that is listed, and no earlier turn of it."""
    return listed.handle == identity.handle and (
        listed.identity is None or listed.identity.generation == identity.generation
    )


class UserIndex:
    """The index in a store: the lists of one cookie of one application, and of one kind of backend.

    Lists are not shared, because no backend can tell whether another one's sessions still live.
    """

    def __init__(
        self,
        store: Store,
        binding: Binding = DEFAULT_BINDING,
        purpose: Purpose = Purpose.SESSION_LIST,
        cipher: Cipher | None = None,
    ) -> None:
        """`purpose`: which kind of list. `cipher`: makes what is stored unreadable, if the store's records are."""
        self._store = store
        self._label = binding.label(purpose)
        self._is_sealed = purpose is Purpose.COOKIE_LIST
        self._cipher = cipher

    def listing(self, identity: Identity, key: str, now: int) -> IndexedSession:
        """How the list has a session: a cookie cannot be looked up, so there is all that can be shown of it."""
        shown = identity if self._is_sealed else None
        return IndexedSession(identity.handle, key, now, identity.listed_until, shown)

    async def of(self, user_id: str, now: int) -> Index:
        """What is listed, whether or not it still lives."""
        return (await self.look(user_id, now)).listed

    async def look(self, user_id: str, now: int) -> Snapshot:
        """What is listed, to be changed then."""
        key = key_under(self._label, user_id)
        entry = await self._store.get(key, now=now)
        return Snapshot(self._read(key, entry), entry)

    async def change(
        self,
        user_id: str,
        change: Callable[[Index], Index],
        keep_until: int,
        now: int,
        seen: Snapshot | None = None,
    ) -> Index:
        """What was listed before `change`, which runs again if another request was faster. It is kept until then.

        `seen`: what `look` has found, so that it is not read again. Only for a `change` that does something, or raises:
        it is when it writes that it finds out whether it was too late, and what it raises is true of what was seen.
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
                    await self._store.replace(
                        key, self._written(key, after), entry.version, expires_at=expires_at, now=now
                    )
                return before
            except Conflict as conflict:
                entry = conflict.current
        raise BackendUnavailable("The list of a user's sessions was changed by others too often.")

    async def keep_indexed(self, record: Record, key: str, ends_at: int, now: int) -> Record:
        """See to it that the list knows where the session stands for as long as it may last, and note that down.

        Most renewals need not ask: the list was told of twice the time.
        """
        identity = record.identity
        if identity is None or ends_at <= identity.listed_until:
            return record
        identity = replace(identity, listed_until=max(identity.listed_until, listing_end(ends_at, now)))
        listed = self.listing(identity, key, now)

        def renewed(index: Index) -> Index:
            # In its place: the list is in the order of the sign ins.
            if any(_is(one, identity) for one in index):
                return tuple(listed if _is(one, identity) else one for one in index)
            # Who is on the list decides whether a sealed cookie lives: what was ended meanwhile must not come back.
            return index if self._is_sealed else (*index, listed)

        await self.change(identity.user_id, renewed, listed.until, now)
        return replace(record, identity=identity)

    async def moved(self, identity: Identity, key: str, now: int) -> None:
        """A session that is listed stands elsewhere now. One that is not was ended meanwhile, and stays so."""
        await self.change(
            identity.user_id,
            lambda index: tuple(replace(one, key=key) if one.handle == identity.handle else one for one in index),
            now,
            now,
        )

    async def next_generation(self, identity: Identity, now: int) -> Identity | None:
        """The next generation of a cookie: all earlier ones are invalid now. None if it is no longer on the list."""
        turned = replace(identity, generation=identity.generation + 1)
        before = await self.change(
            identity.user_id,
            lambda index: tuple(replace(one, identity=turned) if _is(one, identity) else one for one in index),
            now,
            now,
        )
        return turned if any(_is(one, identity) for one in before) else None

    async def forget(self, identity: Identity, now: int) -> None:
        """Take a session that has ended from the list. (One in a store need not be: it is seen that it is missing.)"""
        await self.change(
            identity.user_id, lambda index: tuple(one for one in index if one.handle != identity.handle), now, now
        )

    async def is_indexed(self, identity: Identity, now: int) -> bool:
        """Whether the session was not taken from the list: that is how it is ended from elsewhere."""
        index = await self.of(identity.user_id, now)
        return any(_is(one, identity) and now < one.until for one in index)

    def _written(self, key: str, index: Index) -> bytes:
        raw = _encode(index)
        return _mark(key) + (raw if self._cipher is None else self._cipher.seal(raw, key.encode()))

    def _read(self, key: str, entry: Entry | None) -> Index:
        """What an entry says; nothing, if it is garbage: sessions list themselves again when they are renewed."""
        mark = _mark(key)
        if entry is None or not entry.value.startswith(mark):
            return ()
        raw: bytes | None = entry.value[len(mark) :]
        if raw and self._cipher is not None:
            raw = self._cipher.open(raw, key.encode())
        try:
            return _decode(raw or b"")
        except Exception:  # not ours, or of another release
            return ()
