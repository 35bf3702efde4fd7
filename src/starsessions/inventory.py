"""What is stored: all live sessions page by page, and statistics. For operators, dashboards and scheduled jobs.

It works with any backend whose store is `Scanning`, and for signed or encrypted cookies with such a store as
`revocations`; there, what is listed are the sign-ins, since only browsers have the sessions.

Sessions come and go during a scan. One that exists during all of it is counted; one that is stored, rotated or ended
meanwhile may or may not be. Redis may return an entry twice while it resizes its table.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from anyio.lowlevel import checkpoint

from starsessions.backends.adapter import adapt, bound_as
from starsessions.backends.base import SessionBackend
from starsessions.backends.entries import Pointer
from starsessions.backends.epochs import carries
from starsessions.backends.user_index import UserIndex
from starsessions.core.counting import Distinct, Sizes
from starsessions.core.record import Found, Policy, Record
from starsessions.exceptions import ImproperlyConfigured
from starsessions.stores.base import Entry, Scanning, Store

__all__ = ["LivePage", "LiveSession", "Stats", "live_sessions", "stats"]

_PAGE = 500
"""Entries that are read at once."""

_LONGEST_NOTE = 8
"""No session is so short. What is: an epoch, and the numbers of a provider's tokens."""


@dataclass(frozen=True, slots=True)
class LiveSession:
    """A live session. Nothing in it opens the session."""

    handle: str | None
    """The session's public name, for `UserSessions.revoke()`. None: no user is signed in."""

    user_id: str | None
    """The signed-in user; None: the session is anonymous."""

    began_at: datetime

    signed_in_at: datetime | None

    last_used_at: datetime
    """When the session was last renewed, as in `UserSession`."""

    size: int
    """The bytes of its value in the store. The database needs more, for the key and for itself."""


class LivePage(NamedTuple):
    """Some of the live sessions."""

    sessions: list[LiveSession]
    """There may be none, although more pages follow."""

    unreadable: int
    """The entries that were skipped, because they are encrypted with another key, or are garbage."""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a store held. All numbers are of entries that were read during the scan."""

    sessions: int
    """Live sessions: the next two together."""

    signed_in: int
    anonymous: int
    """Live sessions without a user. If other cookies keep theirs in the same table or under the same prefix, without
    `encrypt_with`, these are counted as well."""

    users: int
    """Different users of these sessions: an estimate, exact for a thousand users and to 0.1 % for millions."""

    revoked: int
    """Signed-in sessions that `revoke_everyone()` has ended, and that are still stored. They are refused when they are
    next written, or where the backend has `check_epoch=True`, loaded."""

    pointers: int
    """What rotations and sign-ins leave in place of the old id, for a day at most."""

    others: int
    """Sign-ins under way, links of identity providers, epochs, and the signed-in sessions of other cookies."""

    unreadable: int
    """Entries that are encrypted with another key, or are garbage."""

    expired: int
    """Entries of all kinds that have expired and that the database has not removed yet."""

    bytes: int
    """The bytes of all values, those that have expired included."""

    size_p50: int
    """Half of the live sessions have no larger value than this, to within 1 %."""

    size_p99: int
    size_max: int


async def live_sessions(
    backend: SessionBackend | Store, *, session_cookie: str | None = None, app_name: str | None = None
) -> AsyncIterator[LivePage]:
    """Go through all live sessions, page by page, in no particular order. The memory needed is that of a page.

    Args:
        backend: the backend that the middleware uses, or a store.
        session_cookie: the middleware's, if this backend serves several, or those of another process.
        app_name: likewise.

    Raises:
        ImproperlyConfigured: the store cannot be scanned, or it is unknown whose sessions are meant.
        BackendUnavailable: the store failed, or its servers changed during the scan: begin again.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend
    >>> async def main():
    ...     backend = InMemoryBackend()
    ...     await backend.bound_for("session").write({"theme": "dark"})
    ...     return [one.user_id async for page in live_sessions(backend) for one in page.sessions]
    >>> asyncio.run(main())
    [None]
    """
    scan, after = _Scan(backend, session_cookie, app_name), None
    while True:
        judged, after = await scan.page(after)
        live = [_shown(record, size) for _, record, size in judged if record is not None]
        yield LivePage(live, sum(kind == "unreadable" for kind, _, _ in judged))
        if after is None:
            return


async def stats(
    backend: SessionBackend | Store,
    *,
    session_cookie: str | None = None,
    app_name: str | None = None,
    on_page: Callable[[int], object] | None = None,
) -> Stats:
    """Count what is stored, in one pass and constant memory.

    Args:
        backend: the backend that the middleware uses, or a store.
        session_cookie: the middleware's, if this backend serves several, or those of another process.
        app_name: likewise.
        on_page: called after each page with the number of entries so far, for instance to show that work is going on.

    Raises:
        ImproperlyConfigured: the store cannot be scanned, or it is unknown whose sessions are meant.
        BackendUnavailable: the store failed, or its servers changed during the scan: begin again.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend
    >>> async def main():
    ...     backend = InMemoryBackend()
    ...     await backend.bound_for("session").write({"theme": "dark"})
    ...     counted = await stats(backend)
    ...     return counted.sessions, counted.signed_in, counted.users
    >>> asyncio.run(main())
    (1, 0, 0)
    """
    counts: Counter[str] = Counter()
    users, all_sizes, sizes = Distinct(), Sizes(), Sizes()
    scan, after, has_more = _Scan(backend, session_cookie, app_name), None, True
    while has_more:
        judged, after = await scan.page(after)
        has_more = after is not None
        for kind, record, size in judged:
            counts[kind] += 1
            all_sizes.add(size)
            if record is not None:
                sizes.add(size)
                if record.identity is not None:
                    users.add(record.identity.user_id)
        if on_page is not None:
            on_page(counts.total())
    return Stats(
        sessions=counts["signed in"] + counts["anonymous"],
        signed_in=counts["signed in"],
        anonymous=counts["anonymous"],
        users=users.count(),
        revoked=counts["revoked"],
        pointers=counts["pointer"],
        others=counts["other"],
        unreadable=counts["unreadable"],
        expired=counts["expired"],
        bytes=all_sizes.total,
        size_p50=sizes.within(0.5),
        size_p99=sizes.within(0.99),
        size_max=sizes.largest,
    )


_Judged = tuple[str, Record | None, int]
"""What an entry is; the session if it is a live one; and the size of its value."""


class _Scan:
    """Reads the entries of a backend.

    Args:
        backend: the backend that was given.
        session_cookie: the name of the cookie; None, as `app_name`: that of the only middleware.
        app_name: the name of the application.
    """

    def __init__(self, backend: SessionBackend | Store, session_cookie: str | None, app_name: str | None) -> None:
        bound = bound_as(adapt(backend), session_cookie, app_name)
        index = bound.user_index
        store = None if index is None else index.store
        if index is None or not isinstance(store, Scanning):
            raise ImproperlyConfigured(
                "What this backend holds cannot be listed: its store needs the method scan() "
                "(starsessions.stores.Scanning), and a cookie backend needs such a store as revocations=…."
            )
        self._index: UserIndex = index
        self._store: Scanning = store
        self._now: int = int(bound.clock())
        self._epoch: bytes | None = None
        # In a process without the middleware, its settings are unknown. An entry expires when they said, in any case.
        self._has_settings: bool = bound.policy != Policy()

    async def page(self, after: str | None) -> tuple[list[_Judged], str | None]:
        """Return the entries of a page, and where the next one begins."""
        await checkpoint()  # a store that never waits must not keep others from running
        if self._epoch is None:
            self._epoch = await self._index.epochs.of_all(self._now)
        page = await self._store.scan(limit=_PAGE, now=0, after=after)
        return [self._judged(*one) for one in page.entries], page.after

    def _judged(self, key: str, entry: Entry, owner: str | None) -> _Judged:
        kind, record = self._kind_of(key, entry, owner)
        return kind, record, len(entry.value)

    def _kind_of(self, key: str, entry: Entry, owner: str | None) -> tuple[str, Record | None]:
        if entry.expires_at <= self._now:
            return "expired", None
        if len(entry.value) <= _LONGEST_NOTE:
            return "other", None
        read = self._index.read(key, entry)
        if isinstance(read, Pointer):
            return "pointer", None
        if not isinstance(read, Found):
            return "unreadable", None
        record = read.record
        # The owner tells the sessions of this cookie from those of others, and from links to sessions.
        if record.payload is None or owner != self._owner_name(record):
            return "other", None
        if self._has_settings and not self._index.is_live(record, self._now):
            return "expired", None
        if record.identity is None:
            return "anonymous", record
        if self._epoch and not carries(record.identity, self._epoch):
            return "revoked", None
        return "signed in", record

    def _owner_name(self, record: Record) -> str | None:
        return None if record.identity is None else self._index.owner_name(record.identity.user_id)


def _shown(record: Record, size: int) -> LiveSession:
    identity = record.identity
    return LiveSession(
        handle=None if identity is None else identity.handle,
        user_id=None if identity is None else identity.user_id,
        began_at=_moment(record.began_at),
        signed_in_at=None if identity is None else _moment(identity.signed_in_at),
        last_used_at=_moment(record.renewed_at),
        size=size,
    )


def _moment(instant: int) -> datetime:
    return datetime.fromtimestamp(instant, UTC)
