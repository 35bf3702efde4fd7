"""Personal data: all that a store holds of a user, to hand out or to erase. For the rights of access and to erasure.

Most of it is in the listing of the user, whose entries name the user. What else names the user is found by a scan of
all entries: the links from identity providers, entries that a listing has lost, and rows that have expired and that the
database has not removed yet. So an erasure takes as long as statistics, and needs a store that is `Scanning`.

A sign-in history is another table. It is exported and erased together with the sessions if it is given: see `History`.
"""

from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from math import isfinite
from typing import Any, Protocol

from anyio.lowlevel import checkpoint
from msgspec.structs import asdict

from starsessions.backends.adapter import adapt, bound_as
from starsessions.backends.base import Backend, SessionBackend
from starsessions.backends.entries import Pointer
from starsessions.backends.epochs import EPOCH_BYTES
from starsessions.backends.user_index import PAGE, Owned, UserIndex, next_page
from starsessions.core.record import Found, Identity, Record, readable
from starsessions.events import OnEvent
from starsessions.exceptions import ImproperlyConfigured
from starsessions.stores.base import Cursor, Entry, Scanning, ScanPage, Store
from starsessions.users import UserSessions

__all__ = ["ErasedUser", "History", "StoredSession", "UserData", "as_json", "erase_user", "export_user"]

_DAY = 24 * 60 * 60
"""Seconds that the end of all sessions of one user may take: a job has no browser that waits."""


class History(Protocol):
    """A history of sign-ins: it is exported and erased together with the sessions."""

    def export(self, user_id: str, /) -> AsyncIterator[Any]:
        """Yield the entries of a user."""

    async def erase(self, user_id: str, /) -> int:
        """Delete the entries of a user, and return how many that were."""


@dataclass(frozen=True, slots=True)
class StoredSession:
    """What is stored of one session of a user. Nothing in it opens the session."""

    handle: str
    """The session's public name, for `UserSessions.revoke()`."""
    began_at: datetime
    signed_in_at: datetime
    last_used_at: datetime
    """When the session was last renewed, as in `UserSession`."""
    expires_at: datetime
    """When the store forgets it, if it is not renewed."""
    method: str
    """How the user signed in: the value of `sign_in(method=…)`."""
    agent: str
    """The browser and system; "" if they are unknown."""
    address: str
    """The network of the address at sign-in, shortened; "" if it is unknown."""
    is_live: bool
    """False: it has expired and was not removed yet, or it is a sign-in under way."""
    data: dict[str, Any] | None
    """The session's data. None: it is not in the store, or this process cannot read it. For a signed or encrypted
    cookie, only the browser has it."""

    def __repr__(self) -> str:
        return "<StoredSession>"


@dataclass(frozen=True, slots=True)
class UserData:
    """What a store holds of a user."""

    user_id: str
    sessions: list[StoredSession]
    """The newest sign-in first."""
    history: list[Any]
    """The entries of the sign-in history. Empty: none was given."""

    def __repr__(self) -> str:
        return "<UserData>"


@dataclass(frozen=True, slots=True)
class ErasedUser:
    """What an erasure has removed."""

    sessions: int
    """Live sessions that were ended."""
    entries: int
    """Other entries: links of identity providers, and what had expired or was lost from the listing."""
    history: int
    """Entries of the sign-in history."""
    unreadable: int
    """Entries that were kept, because they are encrypted with another key or are garbage: the user may be in them."""


async def export_user(
    backend: SessionBackend | Store,
    user_id: str,
    *,
    session_cookie: str | None = None,
    app_name: str | None = None,
    history: History | None = None,
) -> UserData:
    """Return all that is stored about a user's sessions.

    Args:
        backend: the backend that the middleware uses, or a store.
        user_id: the user's id.
        session_cookie: the middleware's, if this backend serves several, or those of another process.
        app_name: likewise.
        history: the history of sign-ins, if there is one.

    Raises:
        ImproperlyConfigured: the backend cannot list sessions, or it is unknown whose sessions are meant.
        BackendUnavailable: the store failed or did not answer in time.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend, Session
    >>> from starsessions.users import sign_in
    >>> async def main():
    ...     backend = InMemoryBackend()
    ...     session = Session(backend)
    ...     await sign_in(session, "ann", method="password")
    ...     session["theme"] = "dark"
    ...     await session.persist()
    ...     exported = await export_user(backend, "ann")
    ...     return [(one.method, one.data) for one in exported.sessions]
    >>> asyncio.run(main())
    [('password', {'theme': 'dark'})]
    """
    bound, index, now = _opened(backend, session_cookie, app_name)
    sessions: dict[str, StoredSession] = {}
    async for record, identity, expires_at in _stored(index, user_id):
        is_live = _is_live(index, record, expires_at, now)
        # An interrupted rotation leaves a session twice: the live one is meant.
        if is_live or identity.handle not in sessions:
            sessions[identity.handle] = _shown(bound, record, identity, expires_at, is_live)
    past = [] if history is None else [entry async for entry in history.export(user_id)]
    return UserData(user_id, list(sessions.values()), past)


async def erase_user(
    backend: SessionBackend | Store,
    user_id: str,
    *,
    session_cookie: str | None = None,
    app_name: str | None = None,
    history: History | None = None,
    on_event: OnEvent | None = None,
    on_page: Callable[[int], object] | None = None,
    dry_run: bool = False,
) -> ErasedUser:
    """End all sessions of a user, and remove from the store all that names the user.

    Close the account first: a user who can still sign in is stored again. What the application has put into other
    people's sessions is not looked for. If it is interrupted, call it again: what is left is found then. It works in
    pages, so it needs little memory, however much is stored.

    Args:
        backend: the backend that the middleware uses, or a store.
        user_id: the user's id.
        session_cookie: the middleware's, if this backend serves several, or those of another process.
        app_name: likewise.
        history: the history of sign-ins, if there is one.
        on_event: called with a `Revoked` for each session that is ended. Do not pass what writes them to the history.
        on_page: called after each page with the number of entries that were ended or looked at so far.
        dry_run: remove nothing, and return what is found in the listing of the user and in the history.

    Raises:
        ImproperlyConfigured: the store cannot be scanned, or it is unknown whose sessions are meant.
        BackendUnavailable: the store failed, or its servers changed during the scan: call it again.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend, Session
    >>> from starsessions.users import sign_in
    >>> async def main():
    ...     backend = InMemoryBackend()
    ...     session = Session(backend)
    ...     await sign_in(session, "ann")
    ...     await session.persist()
    ...     return (await erase_user(backend, "ann")).sessions, (await export_user(backend, "ann")).sessions
    >>> asyncio.run(main())
    (1, [])
    """
    bound, index, now = _opened(backend, session_cookie, app_name)
    store: object = index.store
    if not isinstance(store, Scanning):
        raise ImproperlyConfigured(
            "What names a user cannot be found in this store: give it the method scan() of "
            "starsessions.stores.Scanning."
        )
    if dry_run:
        return await _counted(index, user_id, now, history)
    users, on_page = UserSessions(bound, on_event=on_event), on_page or _ignored
    sessions = await users.revoke_all(user_id, timeout=_DAY, on_page=on_page)
    entries, unreadable, seen = 0, 0, sessions
    page: ScanPage | None = None
    while page is None or page.after is not None:
        await checkpoint()  # a store that never waits must not keep others from running
        page = await store.scan(limit=PAGE, now=0, after=None if page is None else page.after)
        theirs: list[Owned] = []
        for key, entry, owner in page.entries:
            is_theirs = await _is_theirs(index, user_id, key, entry, owner, now)
            unreadable += is_theirs is None
            if is_theirs:
                theirs.append(Owned(key, entry.version, None))
        entries += await _ended(index, theirs)
        seen += len(page.entries)
        on_page(seen)
    # A session that was moved during the scan is in the listing. The epoch refuses what is written until it is removed.
    sessions += await users.revoke_all(user_id, timeout=_DAY)
    await index.epochs.forget(user_id)
    return ErasedUser(sessions, entries, 0 if history is None else await history.erase(user_id), unreadable)


def _ignored(count: int) -> None:
    """Do nothing: no one asked for progress."""


async def _ended(index: UserIndex, entries: list[Owned]) -> int:
    """End entries, and return how many were there."""
    ended: list[Owned] = []
    await index.end_each(entries, ended.append)
    return len(ended)


async def _counted(index: UserIndex, user_id: str, now: int, history: History | None) -> ErasedUser:
    """Return what is found without a scan."""
    live, others, past = 0, 0, 0
    async for record, _, expires_at in _stored(index, user_id):
        is_live = _is_live(index, record, expires_at, now)
        live, others = live + is_live, others + (not is_live)
    if history is not None:
        async for _ in history.export(user_id):
            past += 1
    return ErasedUser(live, others, past, 0)


async def _stored(index: UserIndex, user_id: str) -> AsyncIterator[tuple[Record, Identity, int]]:
    """Yield what is in the listing of a user and can be read, and when it expires."""
    after: Cursor | None = None
    limit, before = PAGE, set[str]()
    while True:
        await checkpoint()
        owned, end = await index.page(user_id, limit, 0, after)
        for one in owned:
            if one.record is not None and one.identity is not None and one.key not in before:
                yield one.record, one.identity, one.expires_at
        if end is None:
            return
        before = {one.key for one in owned}  # the next page begins with some of them
        after, limit = next_page(end, after, limit, PAGE)


def _is_live(index: UserIndex, record: Record, expires_at: int, now: int) -> bool:
    return index.is_live(record, now) and expires_at > now


async def _is_theirs(
    index: UserIndex, user_id: str, key: str, entry: Entry, owner: str | None, now: int
) -> bool | None:
    """Return whether an entry names this user, or belongs to an ended session. None: it cannot be read.

    Args:
        index: the entries of users.
        user_id: the user.
        key: where the entry is stored.
        entry: the entry.
        owner: the name of its owner.
        now: the current time.
    """
    if owner == index.owner_name(user_id):
        return True
    if len(entry.value) <= EPOCH_BYTES:  # an epoch, or the number of a provider's token
        return False
    read = index.read(key, entry)
    if isinstance(read, Pointer):
        # The data of before a sign-in names no one. It is of no use without the session that followed.
        return read.payload is not None and await index.store.get(read.to, now=now) is None
    if not isinstance(read, Found):
        return None
    identity = read.record.identity
    if identity is None or owner is None or identity.user_id != user_id:
        return False
    return index.links.is_link(key, owner, identity)


def as_json(value: Any) -> Any:
    """Return a value as JSON can hold it: for what is exported.

    Dataclasses and msgspec structs become objects, instants ISO 8601, bytes base64, sets and tuples lists. What JSON
    has no form for becomes its `str()`.

    >>> as_json({"at": datetime(2026, 1, 2, tzinfo=UTC), 3: (1.5, float("inf")), "raw": b"\\xff"})
    {'at': '2026-01-02T00:00:00+00:00', '3': [1.5, 'inf'], 'raw': '/w=='}
    """
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and isfinite(value)):
        return value
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(one) for one in value]
    if isinstance(value, (date, time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, bytes):
        return b64encode(value).decode()
    fields = getattr(value, "__dataclass_fields__", None)
    if fields is not None:
        return {name: as_json(getattr(value, name)) for name in fields}
    return as_json(asdict(value)) if hasattr(value, "__struct_fields__") else str(value)


def _opened(
    backend: SessionBackend | Store, session_cookie: str | None, app_name: str | None
) -> tuple[Backend, UserIndex, int]:
    bound = bound_as(adapt(backend), session_cookie, app_name)
    if bound.user_index is None:
        raise ImproperlyConfigured(
            "This backend keeps no list of a user's sessions: only browsers have them, or they are in a SessionBackend "
            "of the application."
        )
    return bound, bound.user_index, int(bound.clock())


def _shown(bound: Backend, record: Record, identity: Identity, expires_at: int, is_live: bool) -> StoredSession:
    has_data = record.payload is not None and not bound.is_client_side
    return StoredSession(
        handle=identity.handle,
        began_at=_moment(record.began_at),
        signed_in_at=_moment(identity.signed_in_at),
        last_used_at=_moment(record.renewed_at),
        expires_at=_moment(expires_at),
        method=identity.method,
        agent=identity.agent,
        address=identity.address,
        is_live=is_live,
        data=readable(record.payload, bound.serializer.loads) if has_data else None,
    )


def _moment(instant: int) -> datetime:
    return datetime.fromtimestamp(instant, UTC)
