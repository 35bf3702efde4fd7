"""The store contract: versioned bytes under a key, with an expiry. It covers exactly what differs between databases.

No method overwrites unconditionally. So concurrent writes are detected, and a deleted session stays deleted, however
late a write arrives. `now` and `expires_at` are whole seconds since 1970. An entry whose `expires_at` is not after
`now` does not exist, even if the database still holds it.

`starsessions.testing` provides the rules of this contract as a test suite.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from inspect import iscoroutinefunction
from typing import Any, NamedTuple, Protocol, Self, TypeGuard, runtime_checkable

Version = Any
"""A value that only the store interprets. A key never has the same version twice, not even after a delete."""


class Entry(NamedTuple):
    """The value stored under a key, its expiry (seconds since 1970) and its version."""

    value: bytes
    expires_at: int
    version: Version

    def __repr__(self) -> str:
        return "<Entry>"  # tools that print local variables must not print session data


class Conflict(Exception):
    """`create`, `replace` or `delete` found an entry other than the expected one, and changed nothing.

    Args:
        current: the existing entry, as the store saw it when it refused; None if there is none. It saves the loser of
            a race another read.
    """

    def __init__(self, current: Entry | None) -> None:
        super().__init__("changed meanwhile" if current else "missing")
        self.current = current


class Store(Protocol):
    """The contract of a store: four methods, each of them atomic, even across processes.

    They raise only `Conflict`, and `BackendUnavailable` if the database fails or does not answer in time. A key
    consists of 1 to 128 of the characters A-Z a-z 0-9 - _, and is case-sensitive. A value is any bytes; the store never
    returns or keeps a mutable object.

    Every method takes `now`, the current time in seconds since 1970, by which it decides whether an entry has expired.
    """

    async def get(self, key: str, *, now: int) -> Entry | None:
        """Return the entry under a key; None if it is missing or expired."""

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int) -> Version:
        """Store a new entry and return its version. The key of an expired entry is free.

        Args:
            key: where to store the entry.
            value: the bytes to store.
            expires_at: when the entry expires, in seconds since 1970. It may have passed; then no entry remains.
            now: the current time, in seconds since 1970.

        Raises:
            Conflict: the key is in use.
        """

    async def replace(self, key: str, value: bytes, version: Version, *, expires_at: int, now: int) -> Version:
        """Replace the entry that has this version, and return its new version.

        Args:
            key: where the entry is stored.
            value: the bytes to store.
            version: the version that the entry must have.
            expires_at: when the entry expires, in seconds since 1970. It may have passed; then no entry remains.
            now: the current time, in seconds since 1970.

        Raises:
            Conflict: the entry has another version, or is missing or expired.
        """

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        """Remove an entry. Return False if there was none.

        Args:
            key: where the entry is stored.
            version: remove the entry only if it has this version. None: whatever its version is.
            now: the current time, in seconds since 1970.

        Raises:
            Conflict: a version was given, and the entry has another one, or is missing or expired.
        """


WHAT_A_STORE_IS = (
    "A store has the coroutine methods get, create, replace and delete: see starsessions.stores.Store, and test yours "
    "with starsessions.testing.StoreSuite."
)


def is_store(candidate: object) -> TypeGuard[Store]:
    """Return whether an object looks like a `Store`: it has the four coroutine methods.

    >>> is_store({}), is_store(None)
    (False, False)
    """
    return all(iscoroutinefunction(getattr(candidate, verb, None)) for verb in ("get", "create", "replace", "delete"))


@runtime_checkable
class Sweeping(Protocol):
    """A store whose database does not remove expired entries itself."""

    async def sweep(self, limit: int, *, now: int) -> int:
        """Remove at most `limit` expired entries, and return the number removed. Fewer than `limit`: none is left.

        An entry must be expired at the moment of its removal. Other requests must not be blocked meanwhile.
        """


@runtime_checkable
class Timed(Protocol):
    """A store whose database has a clock, by which clocks of workers that differ too much are found."""

    async def time(self) -> float:
        """Return the time of the database, in seconds since 1970."""


class Owner(NamedTuple):
    """Whose entry it is, and where the entry comes in the listing of that owner."""

    name: str
    """The owner: 1 to 128 of the characters A-Z a-z 0-9 - _, case-sensitive."""

    since: int
    """The position in the listing, in seconds since 1970. An entry keeps it when it is replaced."""


class Provisional(Owner):
    """The owner of an entry that counts for nothing yet. It counts once it is replaced by one with an ordinary `Owner`.

    A store may ignore the difference. One that writes an entry and its place in the listing one after the other, as in
    a Cluster, may write this entry and its place at the same time: if that is interrupted, the entry may be in no
    listing. It may keep the place until the ordinary entry expires, so that only the entry remains to be written.

    Args:
        name: as in `Owner`.
        since: as in `Owner`.
        until: when the ordinary entry is expected to expire, in seconds since 1970.
    """

    until: int

    def __new__(cls, name: str, since: int, until: int) -> Self:
        self = super().__new__(cls, name, since)
        self.until = until
        return self


class Cursor(NamedTuple):
    """Where a page of a listing ends: the position and the key of its last entry."""

    since: int
    key: str


class Page(NamedTuple):
    """A part of the entries of one owner, the newest first."""

    entries: Sequence[tuple[str, Entry]]
    """The keys and their entries. There may be fewer than were asked for, and none, although more pages follow."""

    after: Cursor | None
    """Where the next page begins; None: this is the last page."""


@runtime_checkable
class Indexing(Protocol):
    """A store that knows the owner of an entry, and lists the entries of an owner: an optional power of a `Store`.

    It has `get` and `delete` of a `Store`. Its `create` and `replace` take the owner as well. Whatever is interrupted,
    an entry that exists is in the listing of its owner, unless that is `Provisional`. Adding and removing entries of
    one owner in parallel loses none.
    """

    async def get(self, key: str, *, now: int) -> Entry | None:
        """As in `Store`."""

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        """As in `Store`. The entry also leaves the listing of its owner."""

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        """As in `Store`. The entry belongs to `owner`; None: to none, and it is in no listing."""

    async def replace(
        self, key: str, value: bytes, version: Version, *, expires_at: int, now: int, owner: Owner | None = None
    ) -> Version:
        """As in `Store`. The entry belongs to `owner` from now on, and no longer to another."""

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        """Return entries of an owner, in descending order of `since` and, where that is equal, of the key.

        An entry that belongs to the owner during the whole call, and comes after the cursor, is on this page or on one
        that follows. An entry that expired by `now`, or was deleted before the call, is on none.

        Args:
            name: the name of the owner.
            limit: the most entries to return, 1 or more.
            now: the current time, in seconds since 1970.
            after: the `after` of the page before; None: begin with the newest entry.
        """

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        """Return the number of an owner's entries. It may count entries that have expired or were just deleted, but
        misses none that exists.

        Args:
            name: the name of the owner.
            most: if there are more, any number above this may be returned, so that no more than one above it is read.
            now: the current time, in seconds since 1970.
        """


class Joined(NamedTuple):
    """An entry, and two others that say whether it is still valid."""

    entry: Entry | None
    """The entry; None: it is missing or expired."""

    owner: str | None = None
    """The name of its owner; None: it has none."""

    of_owner: Entry | None = None
    """The entry whose key is that name."""

    other: Entry | None = None
    """The entry under the other key."""

    def __repr__(self) -> str:
        return "<Joined>"


@runtime_checkable
class Joining(Protocol):
    """A store that reads an entry with two others at once: an optional power of a store that is `Indexing`.

    With `check_epoch`, each load compares the session with what has ended all sessions of its user, or of all users.
    Whose session it is, only its entry says. Without this power, that takes a second round trip.
    """

    async def get_joined(self, key: str, other: str, *, now: int) -> Joined:
        """Return an entry, the one whose key is the name of its owner, and one under another key.

        The two others are read at the same moment as the entry, or after it. What ends sessions is written before the
        sign-ins that follow it: so an older answer would refuse one of those.

        Args:
            key: where the entry is stored. If it is missing or expired, or has no owner, it comes alone.
            other: where the other entry is stored: another key.
            now: the current time, in seconds since 1970. Each of the three that has expired is None.

        Raises:
            BackendUnavailable: the database failed or did not answer in time.
        """


class Creation(NamedTuple):
    """One of several writes: `create`."""

    key: str
    value: bytes
    expires_at: int
    owner: Owner | None = None

    def __repr__(self) -> str:
        return "<Creation>"


class Replacement(NamedTuple):
    """One of several writes: `replace`."""

    key: str
    value: bytes
    version: Version
    expires_at: int
    owner: Owner | None = None

    def __repr__(self) -> str:
        return "<Replacement>"


class Deletion(NamedTuple):
    """One of several writes: `delete`, of the entry that has this version."""

    key: str
    version: Version

    def __repr__(self) -> str:
        return "<Deletion>"


Write = Creation | Replacement | Deletion


class BatchConflict(Conflict):
    """One of several writes found an entry other than the expected one, and none of them was carried out.

    Args:
        index: which of the writes that was, the first if there are more.
        current: the existing entry; None if there is none.
    """

    def __init__(self, index: int, current: Entry | None) -> None:
        super().__init__(current)
        self.index = index


@runtime_checkable
class Batching(Protocol):
    """A store that carries out several writes at once: an optional power of a store that is `Indexing`.

    The library uses it for what belongs together: to give a session another id, it stores the new entry, puts a pointer
    in the place of the old one, and announces that. Without this power it does so step by step.
    """

    async def write_together(
        self, writes: Sequence[Write], *, now: int, topics: Sequence[str] = ()
    ) -> Sequence[Version | None] | None:
        """Carry out all of these writes, or none, as one atomic step. Then announce the topics, as `announce` does.

        Return the new versions in the order of the writes, with None for a deletion. Return None in place of them, and
        do nothing, if this database cannot do it: in a Cluster, entries are on different servers, so that one write may
        be possible, and several are not.

        Args:
            writes: what to write. No two of them have the same key.
            now: the current time, in seconds since 1970.
            topics: what to announce once all is written, if the store is `Announcing`. A failure to do so is no error.

        Raises:
            BatchConflict: an entry was not as expected, and nothing was written or announced.
            BackendUnavailable: the database failed or did not answer in time. All of the writes were carried out, or
                none.
        """


class Written(NamedTuple):
    """What was written together, and what is there after that."""

    versions: Sequence[Version | None]
    """As `Batching` returns them."""

    of_owner: Entry | None
    """The entry whose key is the name of the owner."""

    other: Entry | None
    """The entry under the other key."""

    owned: int
    """The number of the owner's entries."""

    def __repr__(self) -> str:
        return "<Written>"


@runtime_checkable
class Answering(Protocol):
    """A store that writes and answers at once: a power of a store that is `Batching`, for stores of this package.

    What is written for a user counts only if nothing has ended the user's sessions. Without this power, that is asked
    by other calls, at the same time.
    """

    async def write_joined(
        self, writes: Sequence[Write], *, owner: str, other: str, now: int, topics: Sequence[str] = ()
    ) -> Written | None:
        """Do what `write_together` does, and return with the versions what `get_joined` and `count_owned` would.

        What is returned was there after the writes. Return None, and do nothing, if this database cannot do it.

        Args:
            writes: what to write. No two of them have the same key.
            owner: the name of the owner.
            other: the key of the other entry.
            now: the current time, in seconds since 1970. Each of the two entries that has expired is None.
            topics: what to announce once all is written.

        Raises:
            BatchConflict: as in `write_together`.
            BackendUnavailable: as in `write_together`.
        """


class ScanPage(NamedTuple):
    """A part of all entries of a store, in an order of the store's own."""

    entries: Sequence[tuple[str, Entry, str | None]]
    """The keys, their entries, and the names of their owners; None: it has none. There may be none, although more
    pages follow."""

    after: str | None
    """Where the next page begins; None: this is the last page. Only the store interprets it."""


@runtime_checkable
class Scanning(Protocol):
    """A store that goes through all its entries: an optional power of a `Store`, for counts, checks and clean-ups."""

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        """Return some of the entries.

        An entry that exists during the whole scan, from the first page to the last, is on one page at least; it may be
        on several, as it was at that moment. An entry that expired by `now`, or was deleted before the call, is on
        none. Another connection, perhaps of another process, can go on after a page.

        Args:
            limit: about how many entries to return, 1 or more: it limits the work of a call.
            now: the current time, in seconds since 1970.
            after: the `after` of the page before; None: begin.

        Raises:
            BackendUnavailable: the database failed, or was reorganized so that entries might be missed: begin again.
        """


@runtime_checkable
class Announcing(Protocol):
    """A store that can tell all who listen to look at once: an optional power of a `Store`.

    A topic is a key or the name of an owner. An announcement says "look now", and no more: it may be lost, repeated or
    late. So those who listen also look from time to time. An announcement only makes them do so at once.
    """

    @property
    def reaches_all(self) -> bool:
        """Whether all processes that use the store hear an announcement. Otherwise only this process does."""

    async def announce(self, topics: Sequence[str]) -> None:
        """Announce topics to all who listen at this moment.

        Raises:
            BackendUnavailable: the database failed or did not answer in time.
        """

    def listen(self) -> AbstractAsyncContextManager[AsyncIterator[Sequence[str]]]:
        """Return a context manager that subscribes when it is entered, and then gives what is announced.

        When the connection is lost, the iterator raises `BackendUnavailable` or ends. It does not connect again.

        Raises:
            BackendUnavailable: the database failed or did not answer in time.
        """
