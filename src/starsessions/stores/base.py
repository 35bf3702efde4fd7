"""The store contract: bytes under a key until a deadline, with a version. What differs from one database to the next
is behind it, and nothing else is.

There is no verb that overwrites unconditionally. Two requests that race are told so, and a session that was deleted
stays deleted, however late a write arrives. `now` and `expires_at` are instants, whole seconds since 1970; an entry
whose `expires_at` is not after `now` does not exist, whether or not the database still holds it.

`starsessions.testing` has this contract as rules, and a suite that shows whether a store keeps them.
"""

from inspect import iscoroutinefunction
from typing import Any, NamedTuple, Protocol, TypeGuard, runtime_checkable

Version = Any
"""Opaque to all but the store. A key never has the same version twice, not even after a delete."""


class Entry(NamedTuple):
    """What is stored under a key."""

    value: bytes
    expires_at: int
    version: Version

    def __repr__(self) -> str:
        return "<Entry>"  # tools that print local variables must not print what is in a session


class Conflict(Exception):
    """`create`, `replace` or `delete` found another entry than it expected.

    `current` is the entry that is there; None if there is none. It saves the loser of a race a second question, so a
    store answers with what it saw when it refused.
    """

    def __init__(self, current: Entry | None) -> None:
        super().__init__("changed meanwhile" if current else "missing")
        self.current = current


class Store(Protocol):
    """Four verbs. Each is atomic, also against the same verb in another process.

    They raise nothing but `Conflict`, and `BackendUnavailable` if the database fails or does not answer in time. A key
    is 1 to 128 of the characters A-Z a-z 0-9 - _, and keys that differ in case only are different keys. A value is any
    bytes; the store shares no mutable copy of it.
    """

    async def get(self, key: str, *, now: int) -> Entry | None:
        """Return the entry under a key; None if it is missing or expired."""

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int) -> Version:
        """Store a new entry and return its version. An expired entry does not count: its key is free.

        Raises:
            Conflict: the key is in use.
        """

    async def replace(self, key: str, value: bytes, version: Version, *, expires_at: int, now: int) -> Version:
        """Replace the entry that has this version, and return its new version.

        Raises:
            Conflict: the entry has another version, or is missing or expired.
        """

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        """Remove an entry. Return False if there was none.

        With a version, remove the entry only if it still has that version.

        Raises:
            Conflict: a version was given, and the entry has another one, or is missing or expired.
        """


WHAT_A_STORE_IS = (
    "A store has the coroutine methods get, create, replace and delete: see starsessions.stores.Store, and "
    "starsessions.testing.StoreSuite, which shows whether they do what they promise."
)


def is_store(candidate: object) -> TypeGuard[Store]:
    """Return whether it looks like a `Store`: four coroutine methods of these names.

    >>> is_store({}), is_store(None)
    (False, False)
    """
    return all(iscoroutinefunction(getattr(candidate, verb, None)) for verb in ("get", "create", "replace", "delete"))


@runtime_checkable
class Sweeping(Protocol):
    """A store whose database does not remove expired entries by itself."""

    async def sweep(self, limit: int, *, now: int) -> int:
        """Remove at most `limit` expired entries, and return how many: fewer than `limit` means that none is left.

        It removes nothing that is not expired at the moment of its removal, and does not block other requests.
        """
