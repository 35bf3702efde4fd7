"""A user's sessions, as a page of devices shows them, and the ways to end them from elsewhere."""

from dataclasses import dataclass
from datetime import UTC, datetime

from starsessions.backends.adapter import adapt
from starsessions.backends.base import Backend, SessionBackend
from starsessions.backends.user_index import Index, IndexedSession, UserIndex
from starsessions.core.durations import Duration
from starsessions.events import OnEvent, Revoked, dispatch
from starsessions.exceptions import ImproperlyConfigured
from starsessions.session import SessionSource, get_session
from starsessions.stores.base import Store


async def sign_in(
    source: SessionSource, user_id: str, *, remember: bool = False, keep_data: bool = True, method: str = ""
) -> str:
    """Make this session that of a user, under a new id, which is returned. The old id stops working at once.

    Call it whenever a password or another credential has been verified, also if the user is signed in already: the id
    changes each time, and the session's lifetime starts anew (ASVS 7.2.4).

    Args:
        source: a request, a WebSocket, or a session.
        user_id: the user's id, a str that is not empty.
        remember: keep the session for 30 days, also when the browser is closed. Where `absolute_timeout` is shorter,
            the session lasts as long as any other.
        keep_data: keep what the anonymous session holds. Data of another user is never kept.
        method: how the user signed in, in the application's words, for the list of devices.

    The user's list has the session at once; the session is saved with the response.

    Raises:
        TooManySessions: one more is refused.
        ResponseStarted: the headers have been sent, and the new id can no longer reach the browser.
        TypeError: `user_id` is not a str, or is empty.
    """
    return await get_session(source).sign_in(user_id, remember=remember, keep=keep_data, method=method)


async def sign_out(source: SessionSource, *, clear_site_data: bool = False) -> None:
    """End the session for good, as `session.delete()` does.

    Args:
        source: a request, a WebSocket, or a session.
        clear_site_data: tell the browser to forget all that it has of this site, its cache included (ASVS 14.3.1).
    """
    await get_session(source).sign_out(clear_site_data)


def get_user_id(source: SessionSource) -> str | None:
    """Return the id of the signed-in user; None if the session is anonymous."""
    return get_session(source).user_id


def get_signed_in_at(source: SessionSource) -> datetime | None:
    """Return when the user signed in, or last confirmed it by signing in again; None if the session is anonymous."""
    return get_session(source).signed_in_at


def get_handle(source: SessionSource) -> str | None:
    """Return the session's public name on the user's list of devices; None if the session is anonymous."""
    return get_session(source).handle


def is_fresh(source: SessionSource, within: Duration) -> bool:
    """Return whether the user signed in less than `within` ago (seconds or a `timedelta`).

    If not, ask for the password again before a change to the account (ASVS 7.5.1).
    """
    return get_session(source).is_fresh(within)


@dataclass(frozen=True, slots=True)
class UserSession:
    """One session on the list. Nothing here opens it."""

    handle: str
    """Its public name: for the form that ends it."""
    began_at: datetime
    signed_in_at: datetime
    last_used_at: datetime
    """When it was last renewed: by a change, or with `rolling=True` by use, to within `renew_every`. Of a sealed cookie
    nobody but the browser knows: when it was signed in."""
    method: str
    """How the person signed in, in the words that `sign_in(method=…)` was given."""
    agent: str
    """Browser and system, in words; empty if they are unknown."""
    address: str
    """The network it was signed in from, shortened; empty if it is unknown."""
    is_current: bool
    """Whether it is the session that asks: "this device"."""


class UserSessions:
    """The sessions of users, in a backend that can list them: any store, or cookies with `revocations`.

    What it costs grows with the sessions of that one user, and with nothing else.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend, Session
    >>> async def main():
    ...     backend = InMemoryBackend()
    ...     session = Session(backend)
    ...     await session.load()
    ...     await sign_in(session, "ann", method="password")
    ...     await session.persist()
    ...     sessions = UserSessions(backend)
    ...     listed = await sessions.list("ann")
    ...     ended = await sessions.revoke_all("ann")
    ...     return [one.method for one in listed], ended, await sessions.list("ann")
    >>> asyncio.run(main())
    (['password'], 1, [])
    """

    def __init__(
        self,
        backend: SessionBackend | Store,
        *,
        session_cookie: str | None = None,
        app_name: str | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """Make it from what the middleware has as its `backend`: the same object.

        Args:
            backend: a backend that can list sessions, or a store.
            session_cookie: the middleware's, if this backend serves several, or those of another process.
            app_name: likewise.
            on_event: is told of each session that is ended (`Revoked`), as that of the middleware is of others.

        Without names, they are those of the only middleware that has this backend. It may be built later.
        """
        self._on_event = on_event
        self._names = None if session_cookie is None and app_name is None else (session_cookie or "session", app_name)
        self._given: Backend = adapt(backend)
        if self._given.user_index is None:
            raise ImproperlyConfigured(
                "This backend cannot list the sessions of a user: keep sessions in a store, or give the cookie backend "
                "revocations=… (a store)."
            )

    @property
    def _backend(self) -> Backend:
        if self._names is not None:
            return self._given.bound_for(*self._names)
        bound = self._given.bound_once()
        if bound is None:
            raise ImproperlyConfigured(
                "No SessionMiddleware has been built with this backend yet, so it is unknown whose sessions are meant: "
                "build the application first, or say UserSessions(backend, session_cookie=…)."
            )
        return bound

    @property
    def _user_index(self) -> UserIndex:
        index = self._backend.user_index
        assert index is not None
        return index

    async def list(self, user_id: str, current: SessionSource | None = None) -> list[UserSession]:
        """Return the live sessions, the newest sign-in first. `current`: the one to mark with `is_current`."""
        now = int(self._backend.clock())
        index = await self._user_index.of(user_id, now)
        handle = None if current is None else get_handle(current)
        shown = [await self._shown(one, handle, now) for one in reversed(index)]
        return [one for one in shown if one is not None]

    async def revoke(self, user_id: str, handle: str) -> bool:
        """End one of the user's sessions by its handle. Return False if there is none."""
        index = await self._user_index.of(user_id, int(self._backend.clock()))
        return await self._end(user_id, tuple(one for one in index if one.handle == handle)) > 0

    async def revoke_all(self, user_id: str) -> int:
        """End all sessions of the user, and return how many there were.

        Call it when a password was changed, or an account is closed (ASVS 7.4.2, 7.4.3). Sessions that are being
        signed in at this moment end, too.
        """
        return await self._end(user_id, await self._user_index.of(user_id, int(self._backend.clock())))

    async def revoke_others(self, current: SessionSource) -> int:
        """End all sessions of the signed-in user except this one, which gets a new id; return how many ended.

        It returns 0 if nobody is signed in.
        """
        session = get_session(current)
        user_id, handle = get_user_id(session), get_handle(session)
        if user_id is None:
            return 0
        index = await self._user_index.of(user_id, int(self._backend.clock()))
        ended = await self._end(user_id, tuple(one for one in index if one.handle != handle))
        await session.regenerate_id()
        return ended

    async def _end(self, user_id: str, which: Index) -> int:
        now = int(self._backend.clock())
        handles = frozenset(one.handle for one in which)
        # Before it is taken from the list: if we are interrupted, what is left can be ended later.
        ended = [await self._backend.look_up(one, now) is not None for one in which]
        for one in which:
            await self._backend.revoke(one, now)
        await self._user_index.change(
            user_id, lambda index: tuple(one for one in index if one.handle not in handles), now + 1, now
        )
        # And after it: a session that was stored in between was still listed when it looked.
        for one in which:
            await self._backend.revoke(one, now)
        if self._on_event is not None:
            revoked = [Revoked(one.handle, user_id) for one, lived in zip(which, ended, strict=True) if lived]
            await dispatch(revoked, self._on_event)
        return sum(ended)

    async def _shown(self, listed: IndexedSession, current: str | None, now: int) -> UserSession | None:
        found = await self._backend.look_up(listed, now)
        if found is None or found.record.identity is None:
            return None
        record, identity = found.record, found.record.identity
        return UserSession(
            handle=identity.handle,
            began_at=_moment(record.began_at),
            signed_in_at=_moment(identity.signed_in_at),
            last_used_at=_moment(record.renewed_at),
            method=identity.method,
            agent=identity.agent,
            address=identity.address,
            is_current=identity.handle == current,
        )


def _moment(instant: int) -> datetime:
    return datetime.fromtimestamp(instant, UTC)
