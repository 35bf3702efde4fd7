"""The store contract: bytes under a key on a server until a deadline, with a version. What differs from one database
to the next is in here, and nothing else is.

There is no verb that writes whatever is there. Two requests that race are told so, and a session that was deleted
stays deleted, however late a write arrives. `now` and `expires_at` are instants in seconds; an entry whose
`expires_at` is not after `now` does not exist.
"""

from typing import Any, NamedTuple, Protocol

Version = Any
"""Opaque to everybody but the store. Never the same twice for one key, not even after a delete."""


class Entry(NamedTuple):
    """What is stored under a key."""

    value: bytes
    expires_at: int
    version: Version

    def __repr__(self) -> str:
        return "<Entry>"


class Refused(Exception):
    """`put` or `delete` found something else than it expected. `current` is what is there, None if nothing is."""

    def __init__(self, current: Entry | None) -> None:
        super().__init__("changed meanwhile" if current else "gone")
        self.current = current


class Store(Protocol):
    """Three verbs. Each is atomic; each raises only for a failing system, but for `Refused`."""

    async def get(self, key: str, now: int) -> Entry | None:
        """What is stored; None if it is missing or expired."""

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        """Store under a key that is free (`expect=None`) or still holds version `expect`; otherwise `Refused`."""

    async def delete(self, key: str, expect: Version | None, now: int) -> bool:
        """Remove what is stored, if it still has version `expect` (None: whatever it has); otherwise `Refused`.

        False if nothing was there. With `expect` given, nothing being there is `Refused`, too.
        """
