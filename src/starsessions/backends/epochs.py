"""Epochs: by one write, all sessions of a user are refused, or those of all users, also such as no list has.

A session carries the two epochs of its sign-in: that of all users, and its user's own. Both are read with each write of
a signed-in session, and an epoch that it does not carry ends it. So they also end what a store has lost from its
listing. Each load compares them, too, where that is asked for: the user's epoch is stored under the name of the owner,
so that a store which is `Joining` reads it with the session. It counts if that owner is the user of the session. Where
there is no epoch, or it has expired, there is nothing to carry.
"""

from collections.abc import Callable, Coroutine
from os import urandom
from typing import Any

from starsessions.core.record import Identity
from starsessions.stores.base import Conflict, Entry, Indexing, Joined, Joining

EPOCH_BYTES = 8

EPOCH_FOR = 400 * 24 * 60 * 60
"""Seconds for which an epoch is kept: longer than browsers keep a cookie without a renewal."""

EPOCH_OF_ALL_FOR = 100 * 365 * 24 * 60 * 60
"""Seconds for which the epoch of all users is kept. Nothing else ends what it refuses, however long that may last."""


class Epochs:
    """The epochs of one cookie of one application and one kind of backend.

    Args:
        store: where they are.
        joining: the same store, if it can read a session together with its epochs.
        of_everyone: the key of the epoch of all users.
        owner_name: returns the key of the epoch of a user, which is the name of the owner.
        concurrently: waits for several coroutines together.
    """

    def __init__(
        self,
        store: Indexing,
        joining: Joining | None,
        of_everyone: str,
        owner_name: Callable[[str], str],
        concurrently: Callable[..., Coroutine[Any, Any, list[Any]]],
    ) -> None:
        self._store = store
        self._joining = joining
        self._of_everyone = of_everyone
        self._owner_name = owner_name
        self._concurrently = concurrently

    async def of(self, user_id: str, now: int) -> bytes:
        """Return the user's epoch; empty: there is none, and all sessions of the user are valid."""
        return await self._read(self._owner_name(user_id), now)

    async def of_all(self, now: int) -> bytes:
        """Return the epoch of all users; empty: there is none."""
        return await self._read(self._of_everyone, now)

    async def both(self, user_id: str, now: int) -> bytes:
        """Return what a session of the user that begins now carries."""
        return b"".join(await self._concurrently(self.of_all(now), self.of(user_id, now)))

    async def allow(self, identity: Identity, now: int) -> bool:
        """Return whether the session began after the last time that all sessions of its user, or of all, were ended."""
        return all(await self._concurrently(*self.questions(identity, now)))

    def questions(self, identity: Identity, now: int) -> list[Coroutine[Any, Any, bool]]:
        """Return the two questions of `allow`, to be asked together with others."""
        return [self._allows(key, identity, now) for key in (self._of_everyone, self._owner_name(identity.user_id))]

    async def get_joined(self, key: str, now: int) -> Joined:
        """Return an entry with the epochs of its owner and of all users, if the store can read them together."""
        if self._joining is None:
            return Joined(await self._store.get(key, now=now))
        return await self._joining.get_joined(key, self._of_everyone, now=now)

    async def allow_joined(self, identity: Identity, joined: Joined, now: int) -> bool:
        """Do the same as `allow` for the session in an entry, by the epochs that were read with it."""
        if joined.owner != self._owner_name(identity.user_id):  # the store cannot join, or has lost the owner
            return await self.allow(identity, now)
        return all(epoch_in(one) in identity.epoch for one in (joined.of_owner, joined.other))

    async def begin(self, user_id: str, now: int) -> bytes:
        """Give the user another epoch, which refuses all earlier sessions at their next renewal. Return it."""
        return await self._begin(self._owner_name(user_id), now + EPOCH_FOR, now)

    async def begin_for_all(self, now: int) -> None:
        """Give all users another epoch."""
        await self._begin(self._of_everyone, now + EPOCH_OF_ALL_FOR, now)

    async def forget(self, user_id: str) -> None:
        """Remove the user's epoch. What it still refuses must have been deleted."""
        await self._store.delete(self._owner_name(user_id), now=0)

    async def _begin(self, key: str, expires_at: int, now: int) -> bytes:
        epoch, entry = urandom(EPOCH_BYTES), await self._store.get(key, now=now)
        while True:
            try:
                if entry is None:
                    await self._store.create(key, epoch, expires_at=expires_at, now=now)
                else:
                    await self._store.replace(key, epoch, entry.version, expires_at=expires_at, now=now)
                return epoch
            except Conflict as conflict:  # another "end all", which the one that comes last completes
                entry = conflict.current

    async def _allows(self, key: str, identity: Identity, now: int) -> bool:
        return await self._read(key, now) in identity.epoch

    async def _read(self, key: str, now: int) -> bytes:
        return epoch_in(await self._store.get(key, now=now))


def epoch_in(entry: Entry | None) -> bytes:
    """Return the epoch in an entry; empty: there is none."""
    return b"" if entry is None else entry.value


def carries(identity: Identity, epochs: bytes) -> bool:
    """Return whether a session carries all of these epochs, so that none of them refuses it.

    >>> carries(Identity("ann", 0, "", epoch=b"of all..of ann.."), b"of ann.."), carries(Identity("ann", 0, ""), b"")
    (True, True)
    >>> carries(Identity("ann", 0, "", epoch=b"of all.."), b"of all..of ann..")
    False
    """
    parts = (epochs[begin : begin + EPOCH_BYTES] for begin in range(0, len(epochs), EPOCH_BYTES))
    return all(part in identity.epoch for part in parts)
