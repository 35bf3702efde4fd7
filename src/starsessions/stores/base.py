"""The store contract: bytes under a key on a server until a deadline, with a version. What differs from one database
to the next is in here, and nothing else is.

There is no verb that writes whatever is there. Two requests that race are told so, and a session that was deleted
stays deleted, however late a write arrives. `now` and `expires_at` are instants, whole seconds since 1970; an entry
whose `expires_at` is not after `now` does not exist, whether or not the database still holds it.

`starsessions.testing` has this contract as rules, and a suite that shows whether a store keeps them.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

Version = Any
"""Opaque to everybody but the store. Never the same twice for one key, not even after a delete."""


class Entry(NamedTuple):
    """What is stored under a key."""

    value: bytes
    expires_at: int
    version: Version

    def __repr__(self) -> str:
        return "<Entry>"  # tools that print local variables must not print what is in a session


class Refused(Exception):
    """`put` or `delete` found something else than it expected. `current` is what is there, None if nothing is.

    It saves the loser of a race a second question, so a store answers with it what it saw when it refused.
    """

    def __init__(self, current: Entry | None) -> None:
        super().__init__("changed meanwhile" if current else "gone")
        self.current = current


class Store(Protocol):
    """Three verbs. Each is atomic, also against the same verb in another process.

    Each raises nothing but `Refused`, and `BackendUnavailable` for a system that fails or does not answer in time.
    A key is 1 to 128 of the characters A-Z a-z 0-9 - _, and two that differ in case only are two keys. A value is
    any bytes; there is no copy of it that somebody else may change.
    """

    async def get(self, key: str, now: int) -> Entry | None:
        """What is stored; None if it is missing or expired."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        """Store under a key that is free (`expect=None`) or still holds version `expect`; otherwise `Refused`.

        What has expired is not there: its key is free, and its version is nobody's. The new version is returned.
        """

    async def delete(self, key: str, expect: Version | None, now: int) -> bool:
        """Remove what is stored, if it still has version `expect` (None: whatever it has); otherwise `Refused`.

        False if nothing was there. With `expect` given, nothing being there is `Refused`, too.
        """


@runtime_checkable
class Sweeping(Protocol):
    """A store whose database does not forget by itself."""

    async def sweep(self, limit: int, now: int) -> int:
        """Remove at most `limit` expired entries, and say how many were removed: fewer than `limit` is all of them.

        Takes nothing away that is not expired at the moment of its removal, and lets everybody else go on meanwhile.
        """
