"""Who is signed in where. The record is the truth: an entry knows its owner, and the store lists what a user owns.

Nothing above the store keeps a list. So there is nothing to bring up to date after a change, and nothing that can
disagree with the sessions when a process dies. Two promises follow: a live session is in the listing of its owner, and
what was deleted opens nothing. This is each operation, as calls to the store, and what a crash after each call leaves.
Where the store is `Batching`, steps that are marked with * are one call, and a crash leaves all of them or none. The
announcement is part of the call, or follows, also if the client leaves meanwhile: where it follows, a crash can leave
it out. (`together.py` has both ways. A refused batch is done step by step, which finds out why.) Where the store is
`Answering`, what is read at the same time as a write is part of its call, and was there after it.

In a Cluster, an entry and its place in the listing are on different servers. Two kinds of entries are *provisional*
there: they are written at the same time as their places, which are kept for as long as the entries that replace them.
When the write has succeeded, both are there. *If it is interrupted, the entry may be on no list, or a place without an
entry stays until the session would have expired.* Neither does harm. A pending entry opens nothing, and no one will
complete it. The new entry of a rotation has an id that no one knows, and the session is listed by its old entry. What
ends that one meanwhile makes step 2 of the rotation a conflict.

* **Sign in.** (1) Create a *pending* entry under the new key: it has an identity, no data, and an hour to live. At the
  same time, read the epochs, and count. *A place that is taken for a minute.* (2*) When the session is saved,
  replace the pending entry by its version; at the same time, read the epochs again, and count. *The new session is
  listed; if the response is lost, no one knows its id. The session before is intact.* Whatever has ended the pending
  entry meanwhile (end all, an eviction, a sign-out in the same request) has made step 2 a conflict: the sign-in was
  overtaken. So it is if the handler takes an hour, since nothing would find it after that. If an epoch has changed,
  delete what was written. (3*) Put a pointer in the place of the session before. *Done.* If that one has changed
  meanwhile, make the entry pending again, and save the merged session. In a batch, the entry is still pending then. If
  it is overtaken once the pointer is there, an anonymous session is put back. *If not: that session is lost.*
* **Sign out, end one.** Delete the entry by its version. If it has become a pointer, because of a rotation, follow it.
* **Rotate.** (1*) Create the entry under the new key, for a minute. *The session is listed twice under one handle; no
  one knows the new id.* (2*) Replace the old entry by a pointer, which has no owner. If that fails, delete the new
  entry. (3) Let the new entry live as long as its session: not needed in a batch. *The session ends after a minute.*
  A signed or encrypted cookie has one entry for its sign-in. It is replaced, with the next generation.
* **Evict.** After step 2 of a sign-in, and only if the count has reached the maximum: list, and end the oldest. *Some
  are left, and the next sign-in ends them.* A sign-in that fails evicts nothing. Another one that is still pending may
  have counted before this one began, and be one too many. So if there is no place for it, it is marked: its entry gets
  another version. That makes its step 2 a conflict, and after it was written, it lists, too. *It lists in vain.* The
  entry says that it is marked, and no one marks it again: it may never be saved, and be pending for an hour.
* **End others.** List, and end each. *Some are left, and listed.* A rotation may move an entry to a place on a page
  that was read before, but within the second of its sign-in. So the next page begins with that second again.
* **End all.** (1) Give the user another epoch (`epochs.py`). *The user's sessions are refused at their next renewal.*
  (2) List, and end each that does not carry this epoch; again, until there is none. *Some are left, listed, and
  refused.*
* **End everyone.** Give all users another epoch. *All their sessions are refused at their next renewal.* There is no
  list of all users, so nothing is deleted.

In a Cluster, ending one session is four round trips. Two find it by its handle: the places, and then the entries. A
place has the key, and only the record has the handle: a store knows nothing of handles. The other two are the end and
the announcement. Sent together, the announcement might arrive first: those who hear it would look at a session that is
still there, and not look again before their time. One script could delete and announce only by a channel that each
server passes on to all others, which is the load that a sharded channel spares a Cluster.

Concurrent requests meet in a version or in the epoch. A sign-in that ended before "end all" began is in its listing.
One that is under way has a pending entry there, or reads the new epoch when it is saved, since that is the later call.
A rotation that is under way finds that its old entry was deleted, or has left a pointer that is followed.

Two sign-ins at the maximum must not evict each other, and of two that are one too many at most one may stay. So there
is an order: by the time of the sign-in, then by handle. One that finds the user at the maximum comes after all that it
sees there (`Identity.later`), whatever the clocks say. All that judge later agree who is last.

What ends a session passes `now=0`: it ends what is stored, whether or not it has expired by the clock of this server.
"""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from math import inf
from os import urandom
from typing import Any, NamedTuple, TypeVar

import anyio
from msgspec.structs import replace

from starsessions.backends.announcements import Announcements, announcements_of
from starsessions.backends.entries import Entries, Pointer
from starsessions.backends.epochs import Epochs, epoch_in
from starsessions.backends.provider_links import ProviderLinks
from starsessions.core.binding import Binding, Purpose
from starsessions.core.encoding import key_under, to_base64url
from starsessions.core.record import Found, Identity, MissReason, Policy, Record, has_lived, why_expired
from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import (
    Answering,
    BatchConflict,
    Batching,
    Conflict,
    Creation,
    Cursor,
    Deletion,
    Entry,
    Indexing,
    Joining,
    Owner,
    Provisional,
    Replacement,
    Store,
    Version,
    Write,
    Written,
)
from starsessions.stores.listed import as_indexing, is_indexing
from starsessions.stores.memory import MemoryStore

T = TypeVar("T")

COUNTS_FOR = 60
"""Seconds for which a sign-in takes one of the places of the maximum, although no answer to it may have arrived."""

PENDING_FOR = 60 * 60
"""Seconds that a sign-in may take from `sign_in()` to its save: for so long, what ends it finds its pending entry."""

MARKED = 0
"""What `Record.told` is in the pending entry of a sign-in that must look for others once it is saved. It has no cookie
of which a browser could have been told.
"""

MAX_HOPS = 16
"""The number of pointers that are followed. More rotations than that in one grace period are a loop or an attack."""

MAX_TRIES = 100
"""Conflicts after which a sign-out deletes the session unconditionally."""

PAGE = 1000
"""Entries that are listed at once."""

KNOWN_NAMES = 256
"""The names of owners that are kept for the next time: those of the requests that are under way."""

CHUNK = 50
"""Entries that are changed or deleted concurrently."""


class Overtaken(Exception):
    """Something has ended a session while it was being saved: an "end all", its provider, or the maximum.

    Nothing of it is stored, or what was stored is ended by the caller.
    """


class PendingSignIn:
    """The entry that a sign-in has stored, until the session is saved in its place."""

    __slots__ = ("count", "epochs", "identity", "is_marked", "key", "most", "until", "version")

    def __init__(self, key: str, identity: Identity, until: int, most: int | None = None) -> None:
        self.key: str = key
        self.identity: Identity = identity
        self.until: int = until
        self.most: int | None = most
        """The most sessions of the user; None: it does not matter how many there are."""
        self.count: int = 0
        """How many entries the user had when this one was written last, or more; 0 if that is unknown."""
        self.epochs: bytes = b""
        """What a session of the user carries that began when this entry was written first."""
        self.version: Version = None
        self.is_marked: bool = False
        """Whether a later sign-in has found no place for it, so that it must look for others once it is saved."""

    def __repr__(self) -> str:
        return "<PendingSignIn>"


class Owned(NamedTuple):
    """An entry of a user's listing. `record` is None if it cannot be read."""

    key: str
    version: Version
    record: Record | None
    expires_at: int = 0

    def __repr__(self) -> str:
        return "<Owned>"

    @property
    def identity(self) -> Identity | None:
        return None if self.record is None else self.record.identity

    @property
    def is_marked(self) -> bool:
        """Of a pending entry: whether its sign-in looks for others in any case, once it is saved."""
        return self.record is not None and self.record.told == MARKED


def new_handle() -> str:
    """Return a new public name for a session: 16 random characters. It does not give access to the session.

    >>> len(new_handle())
    16
    """
    return to_base64url(urandom(12))


class UserIndex:
    """The entries of users in a store, for one cookie of one application and one kind of backend.

    Backends do not share listings, because none can tell whether the sessions of another one are still valid.

    Args:
        store: the store.
        binding: the application and its cookie.
        purpose: the kind of listing.
        entries: encodes and decodes the entries.
        policy: how long the sessions last; None: as long as their entries.
        checks_epoch: whether each load compares the epochs, so that what they refuse opens nothing.
    """

    def __init__(
        self,
        store: Store,
        binding: Binding,
        purpose: Purpose,
        entries: Entries,
        policy: Policy | None = None,
        checks_epoch: bool = False,
    ) -> None:
        self.checks_epoch: bool = checks_epoch
        self.store: Indexing = as_indexing(store)
        self.announcements: Announcements | None = announcements_of(store)
        # Where the library keeps the lists, what the store writes by itself would be on none.
        self._batching = store if is_indexing(store) and isinstance(store, Batching) else None
        self._most_together: float = 0 if self._batching is None else inf
        self._answering = store if is_indexing(store) and isinstance(store, Answering) else None
        self._label = binding.label(purpose)
        self._name_of = lru_cache(KNOWN_NAMES)(partial(key_under, self._label))  # a sign-in asks for one six times
        self.everyone: str = key_under(binding.label(Purpose.EPOCH_OF_ALL) + self._label, "")
        """The key of the epoch of all users, and the topic of those who have to compare it."""
        self._entries = entries
        self._policy = policy
        # Where nothing waits, nothing is gained by asking for two things at once.
        self._in_turn = isinstance(store, MemoryStore)
        joining = store if is_indexing(store) and isinstance(store, Joining) else None
        self.epochs: Epochs = Epochs(self.store, joining, self.everyone, self.owner_name, self.concurrently)
        self.links: ProviderLinks = ProviderLinks(self.store, binding, self._label, entries, self.concurrently)

    # Whose entry it is

    def owner_of(self, record: Record, later_end: int | None = None) -> Owner | None:
        """Return the owner of a session's entry; None if no user is signed in.

        Args:
            record: the session.
            later_end: when the entry that will replace this one expires. None: none will.
        """
        identity = record.identity
        if identity is None:
            return None
        name, since = self.owner_name(identity.user_id), identity.signed_in_at
        return Owner(name, since) if later_end is None else Provisional(name, since, later_end)

    def owner_name(self, user_id: str) -> str:
        """Return the name of the owner that the user is in the store. It is also the key of the user's epoch, so that a
        store which reads the entry of a session finds it.
        """
        return self._name_of(user_id)

    async def page(
        self, user_id: str, limit: int, now: int, after: Cursor | None = None
    ) -> tuple[list[Owned], Cursor | None]:
        """Return the user's entries, the newest sign-in first, pending ones included, and where the next page begins.

        Args:
            user_id: the user.
            limit: the most entries to return.
            now: the current time. 0: also those that have expired.
            after: where the page begins; None: at the newest sign-in.
        """
        page = await self.store.list_owned(self.owner_name(user_id), limit=limit, now=now, after=after)
        owned = []
        for key, entry in page.entries:
            read = self.read(key, entry)
            if isinstance(read, Found):
                user = read.record.identity
                if user is not None and user.user_id == user_id:
                    owned.append(Owned(key, entry.version, read.record, entry.expires_at))
            elif not isinstance(read, Pointer):  # encrypted with a key that is not in use any more, or garbage
                owned.append(Owned(key, entry.version, None))
        return owned, page.after

    def is_live(self, record: Record, now: int) -> bool:
        """Return whether this is a session that was saved, and has not expired."""
        return record.payload is not None and (self._policy is None or why_expired(record, self._policy, now) is None)

    def has_lived(self, one: Owned, now: int) -> bool:
        """Return whether an entry that was ended at `now` was a session, by this server's clock or a faster one."""
        record = one.record
        if record is None or record.payload is None:
            return False
        return self._policy is None or has_lived(record, self._policy, now)

    async def begin_epoch_of_all(self, now: int) -> None:
        """Give all users another epoch, and tell the streams of all of them to compare it."""
        await self.epochs.begin_for_all(now)
        await self.announce(self.everyone)

    async def is_wanted(self, record: Record, ends_at: int, now: int) -> bool:
        """Return whether nothing has ended the session: neither another epoch nor its identity provider."""
        identity = _identity(record)
        asked = [*self.epochs.questions(identity, now), *self._provider_allows(identity, ends_at, now)]
        return all(await self.concurrently(*asked))

    def _provider_allows(self, identity: Identity, ends_at: int, now: int) -> list[Coroutine[Any, Any, bool]]:
        return [self.links.are_open(identity, ends_at, now)] if identity.has_provider else []

    # Writing

    def value(self, key: str, content: Record | Pointer) -> bytes:
        """Return the bytes to store under this key."""
        return self._entries.value(key, content)

    def _may_write_together(self, count: int) -> bool:
        """Return whether the store may carry out so many writes at once."""
        return count <= self._most_together

    async def write_together(self, writes: Sequence[Write], now: int, topic: str) -> Sequence[Version] | None:
        """Carry out all of these writes at once, and announce a key. Return their versions; None: the store cannot.

        Raises:
            BatchConflict: an entry was not as expected, and nothing was written.
        """
        if self._batching is None or not self._may_write_together(len(writes)):
            return None
        versions = await self._batching.write_together(writes, now=now, topics=[topic])
        if versions is None:  # a Cluster, and it stays one
            self._most_together = len(writes) - 1
        return versions

    async def put_pointer(self, write: Replacement, now: int) -> None:
        """Replace an entry that has no owner any more, and announce its key.

        Raises:
            Conflict: the entry has another version, or is missing or expired.
        """
        key, value, version, expires_at, _ = write
        if await self.write_together([write], now, key) is None:
            await self._announced(self.store.replace(key, value, version, expires_at=expires_at, now=now), key)

    async def create(
        self, key: str, record: Record, expires_at: int, now: int, later_end: int | None = None
    ) -> Version:
        """Store the session of a user under another key.

        Args:
            key: the key.
            record: the session.
            expires_at: when the entry expires.
            now: the current time.
            later_end: when the entry that will replace this one expires. None: none will.

        Raises:
            Conflict: the key is in use.
            Overtaken: something has ended the session meanwhile. Nothing of it is stored.
        """
        return await self._if_wanted(
            Creation(key, self.value(key, record), expires_at, self.owner_of(record, later_end)), record, now
        )

    async def replace(
        self,
        key: str,
        record: Record,
        version: Version,
        expires_at: int,
        now: int,
        pending: PendingSignIn | None = None,
    ) -> Version:
        """Replace the session of a user.

        Args:
            key: where it is stored.
            record: the session.
            version: the version that it must have.
            expires_at: when the entry expires.
            now: the current time.
            pending: what is replaced, if that is the pending entry of a sign-in.

        Raises:
            Conflict: the session has changed or ended meanwhile.
            Overtaken: something has ended the session meanwhile. Nothing of it is stored.
        """
        write = Replacement(key, self.value(key, record), version, expires_at, self.owner_of(record))
        return await self._if_wanted(write, record, now, pending)

    async def _if_wanted(
        self, write: Creation | Replacement, record: Record, now: int, pending: PendingSignIn | None = None
    ) -> Version:
        [version], is_wanted = await self.write([write], record, write.expires_at, now, pending=pending)
        if not is_wanted:
            await self.end(write.key, version)
            raise Overtaken
        return version

    async def write(
        self,
        writes: Sequence[Write],
        record: Record,
        ends_at: int,
        now: int,
        topic: str | None = None,
        pending: PendingSignIn | None = None,
    ) -> tuple[Sequence[Version], bool]:
        """Carry out writes of a user's session, and ask at the same time whether anything has ended it.

        Args:
            writes: what to write: an entry, or several.
            record: the session.
            ends_at: when its entry expires.
            now: the current time.
            topic: what to announce.
            pending: the pending entry that is replaced. It notes the number of the user's entries.

        Returns:
            The versions, and whether nothing has ended the session meanwhile. No versions: the store cannot carry out
            all of this at once, and nothing was written.

        Raises:
            Conflict: an entry was not as expected, and nothing was written.
        """
        if topic is not None and not self._may_write_together(len(writes)):
            return (), True
        identity = _identity(record)
        most = None if pending is None else pending.most
        written, *answers = await self.concurrently(
            self._written(writes, identity, now, topic, most, self._count_if_possible),
            *self._provider_allows(identity, ends_at, now),
        )
        if pending is not None:
            pending.count = written.owned
        carried, of_owner, of_all = identity.epoch, epoch_in(written.of_owner), epoch_in(written.other)
        return written.versions, of_owner in carried and of_all in carried and all(answers)

    async def _written(
        self,
        writes: Sequence[Write],
        identity: Identity,
        now: int,
        topic: str | None,
        most: int | None,
        count: Callable[..., Coroutine[Any, Any, int]],
    ) -> Written:
        """Write, and read the epochs and the number of entries, by one call if the store is `Answering`."""
        name, answering = self.owner_name(identity.user_id), self._answering
        if answering is not None:
            topics = () if topic is None else (topic,)
            written = await answering.write_joined(writes, owner=name, other=self.everyone, now=now, topics=topics)
            if written is not None:
                return written
            self._answering = None  # a Cluster, and it stays one
        alone = topic is None and len(writes) == 1
        work = self._write_alone(writes[0], now) if alone else self.write_together(writes, now, topic or "")
        asked = [self.store.get(key, now=now) for key in (self.everyone, name)]
        counted = [] if most is None else [count(name, most=most, now=now)]
        versions, other, of_owner, *number = await self.concurrently(work, *asked, *counted)
        return Written(versions or (), of_owner, other, number[0] if number else 0)

    async def _write_alone(self, write: Write, now: int) -> Sequence[Version]:
        assert not isinstance(write, Deletion)
        how: Any = {"expires_at": write.expires_at, "now": now, "owner": write.owner}
        if isinstance(write, Creation):
            return [await self.store.create(write.key, write.value, **how)]
        return [await self.store.replace(write.key, write.value, write.version, **how)]

    async def _count_if_possible(self, name: str, *, most: int, now: int) -> int:
        try:
            return await self.store.count_owned(name, most=most, now=now)
        except BackendUnavailable:  # the session itself is stored
            return 0

    async def begin(
        self, key: str, identity: Identity, ends_at: int, now: int, most: int | None = None
    ) -> PendingSignIn:
        """Store the pending entry of a sign-in, and read at the same time the epochs, and count.

        Args:
            key: the key of the session.
            identity: who signs in.
            ends_at: when the session would expire if it was saved now.
            now: the current time.
            most: the most sessions of the user; None: they are not counted.

        Raises:
            Conflict: the key is in use.
        """
        pending = PendingSignIn(key, identity, ends_at + PENDING_FOR, most)
        write = self._pending_entry(pending, now)
        written = await self._written([write], identity, now, None, most, self.store.count_owned)
        [pending.version], pending.count = written.versions, written.owned
        pending.epochs = epoch_in(written.other) + epoch_in(written.of_owner)
        return pending

    async def complete(self, pending: PendingSignIn, record: Record, expires_at: int, now: int) -> Version:
        """Store the session in the place of its pending entry.

        Raises:
            Overtaken: the pending entry was ended meanwhile, or has expired.
        """
        key = pending.key
        for _ in range(MAX_TRIES):
            try:
                pending.version = await self.replace(key, record, pending.version, expires_at, now, pending)
                return pending.version
            except Conflict as conflict:
                read = self.read(key, conflict.current)
            if not isinstance(read, Found) or _handle(read.record) != pending.identity.handle:
                break
            # A later sign-in has marked it, or it was stored by an earlier attempt, whose answer was lost.
            pending.version, pending.is_marked = read.version.version, True
        raise Overtaken

    async def mark(self, pending: Owned, now: int) -> bool:
        """Let another request's sign-in find out that there is a later one. Return False if it was saved or ended."""
        assert pending.record is not None
        value, owner = self.value(pending.key, replace(pending.record, told=MARKED)), self.owner_of(pending.record)
        try:
            await self.store.replace(
                pending.key, value, pending.version, expires_at=pending.expires_at, now=now, owner=owner
            )
        except Conflict as conflict:
            # If it is pending still, another has marked it, or it was taken back: it is saved and counted after this.
            read = self.read(pending.key, conflict.current)
            return isinstance(read, Found) and read.record.payload is None
        return True

    async def take_back(self, pending: PendingSignIn, now: int) -> None:
        """Make the entry pending again, because the session has to be merged before it is stored."""
        with suppress(Conflict):  # it was ended, and the next attempt finds that out
            [pending.version] = await self._write_alone(self._pending_entry(pending, now), now)

    async def abandon(self, pending: PendingSignIn) -> None:
        """Delete the pending entry of a sign-in that is not saved."""
        await self.delete(pending.key, pending.version)
        await self.links.forget(pending.identity)

    def _pending_entry(self, pending: PendingSignIn, now: int) -> Creation | Replacement:
        key, version, record = pending.key, pending.version, Record(None, now, now, identity=pending.identity)
        value, expires_at, owner = self.value(key, record), now + PENDING_FOR, self.owner_of(record, pending.until)
        if version is None:
            return Creation(key, value, expires_at, owner)
        return Replacement(key, value, version, expires_at, owner)

    # Reading and ending

    def read(self, key: str, entry: Entry | None) -> Found | Pointer | MissReason:
        """Decode an entry, a pending one as well."""
        return self._entries.read("", key, entry, shows_pending=True)

    async def end(self, key: str, version: Version | None = None) -> bool:
        """Delete an entry as `delete` does, and announce it to all who watch the session."""
        if version is not None:
            with suppress(BatchConflict):  # `delete` follows a rotation
                if await self.write_together([Deletion(key, version)], 0, key) is not None:
                    return True
        return await self._announced(self.delete(key, version), key)

    async def end_unchanged(self, key: str, version: Version, now: int) -> None:
        """Delete an entry if it has this version, and announce it.

        Raises:
            Conflict: the entry has another version, or is missing or expired.
        """
        if await self.write_together([Deletion(key, version)], now, key) is None:
            await self._announced(self.store.delete(key, version, now=now), key)

    async def end_each(self, entries: Sequence[Owned], note: Callable[[Owned], None]) -> None:
        """End entries, a chunk at a time, and announce that. `note` is called with each that was there."""
        for begin in range(0, len(entries), CHUNK):
            await self._end_chunk(entries[begin : begin + CHUNK], note)

    async def _end_chunk(self, entries: Sequence[Owned], note: Callable[[Owned], None]) -> None:
        topics: list[str] = []

        async def end(one: Owned) -> None:
            was_there = await (self.end if len(entries) == 1 else self.delete)(one.key, one.version)
            topics.append(one.key)
            if was_there:
                note(one)

        try:
            await self.concurrently(*(end(one) for one in entries))
        finally:  # what has ended before a failure has ended
            if len(entries) > 1:  # together: an announcement is a transaction in PostgreSQL
                await self.announce_in_any_case(topics)

    async def announce(self, *topics: str) -> None:
        """Have all who listen to these keys or names of owners look at their sessions at once. It does not fail."""
        if self.announcements is not None:
            await self.announcements.announce(topics)

    async def announce_in_any_case(self, topics: Sequence[str]) -> None:
        """Announce as `announce` does, also if the limit of time was reached meanwhile, or the client has left."""
        if topics:
            with anyio.CancelScope(shield=True):
                await self.announce(*topics)

    async def _announced(self, write: Coroutine[Any, Any, T], key: str) -> T:
        """Carry out a write, and announce a key, unless it fails."""
        try:
            result = await write
        except anyio.get_cancelled_exc_class():  # a store finishes what it has begun, and then raises this
            await self.announce_in_any_case([key])
            raise
        await self.announce_in_any_case([key])
        return result

    async def delete(self, key: str, version: Version | None = None) -> bool:
        """Delete an entry, following rotations, whatever the clock says. Return False if there was none.

        Args:
            key: where the entry was.
            version: its version, so that one which was rotated meanwhile is followed. None: delete what is there.
        """
        for _ in range(MAX_TRIES):
            try:
                return await self.store.delete(key, version, now=0)
            except Conflict as conflict:
                entry = conflict.current
            # Another request has changed or rotated the session. After a rotation the new id is ended, grace or not.
            key, entry = await self.moved_to(key, entry, 0)
            if entry is None:
                return False
            version = entry.version
        return await self.store.delete(key, now=0)

    async def moved_to(self, key: str, entry: Entry | None, now: int) -> tuple[str, Entry | None]:
        """Follow pointers from this entry to the last key and its entry, regardless of grace periods."""
        for _ in range(MAX_HOPS):
            read = self.read(key, entry)
            if not isinstance(read, Pointer):
                break
            key, entry = read.to, await self.store.get(read.to, now=now)
        return key, entry

    async def concurrently(self, *work: Coroutine[Any, Any, Any]) -> list[Any]:
        """Wait for all of these together, and return their results, in order. Raise the first error once all ended."""
        if self._in_turn or len(work) == 1:
            try:
                return [await one for one in work]
            except BaseException:
                for one in work:
                    one.close()
                raise
        results: list[Any] = [None] * len(work)
        errors: list[Exception | None] = [None] * len(work)

        async def run(index: int) -> None:
            try:
                results[index] = await work[index]
            except Exception as error:  # raised below: a task group would wrap it in an exception group
                errors[index] = error

        async with anyio.create_task_group() as tasks:
            for index in range(len(work)):
                tasks.start_soon(run, index)
        for error in errors:
            if error is not None:
                raise error
        return results


def next_page(
    end: Cursor, after: Cursor | None, limit: int, usual: int = PAGE, is_shorter: bool = False
) -> tuple[Cursor, int]:
    """Return where the next page begins, and its length, so that none misses a session that gets another id meanwhile.

    Such a session may move up, within the second of its sign-in. So a page begins with the last second of the one
    before. If that one began there, too, and nothing on it was ended, the second does not fit on a page of this length.

    Args:
        end: where a page ended.
        after: where it began.
        limit: its length.
        usual: the length of a page that begins with another second.
        is_shorter: whether something on it was ended.

    >>> next_page(Cursor(70, "key"), Cursor(71, ""), 1000)
    (Cursor(since=71, key=''), 2000)
    >>> next_page(Cursor(70, "key"), Cursor(71, ""), 2000, is_shorter=True)
    (Cursor(since=71, key=''), 2000)
    >>> next_page(Cursor(69, "key"), Cursor(71, ""), 2000)
    (Cursor(since=70, key=''), 1000)
    """
    begin = Cursor(end.since + 1, "")
    if begin != after:
        return begin, usual
    return begin, limit if is_shorter else limit * 2


def _identity(record: Record) -> Identity:
    assert record.identity is not None
    return record.identity


def _handle(record: Record) -> str | None:
    return None if record.identity is None else record.identity.handle
