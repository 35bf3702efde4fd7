"""Sign users in and out, list a user's sessions, and revoke them."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from starsessions.backends.adapter import adapt
from starsessions.backends.base import Backend, SessionBackend
from starsessions.backends.user_index import IndexedSession, UserIndex
from starsessions.core.durations import Duration, seconds
from starsessions.core.kinds import as_base
from starsessions.core.record import Identity, Record
from starsessions.core.serializer import is_unicode
from starsessions.events import OnEvent, Revoked, dispatch
from starsessions.exceptions import ImproperlyConfigured, UnsupportedValue
from starsessions.lifecycle import sign_in as signing_in
from starsessions.session import SessionSource, get_session, load_session
from starsessions.stores.base import Store

__all__ = [
    "UserSession",
    "UserSessions",
    "get_handle",
    "get_signed_in_at",
    "get_user_id",
    "is_fresh",
    "sign_in",
    "sign_out",
]


async def sign_in(
    source: SessionSource, user_id: str, *, remember: bool | None = None, keep_data: bool = True, method: str = ""
) -> str:
    """Sign a user in, and return the session's new id. The old id stops working at once.

    Call it whenever you have verified a password or another credential, even if the user is signed in already: the id
    changes each time, and the session's lifetime restarts (ASVS 7.2.4). The user's list includes the session at once;
    the session itself is saved with the response.

    Args:
        source: a request, a WebSocket, or a session.
        user_id: the user's id, a str that is not empty.
        remember: the user's answer to "remember me". True: the session lasts for 30 days, or `max_age` if that is
            longer, even after the browser is closed; where `absolute_timeout` is 30 days or less, as long as any other.
            False: the cookie ends with the browser. None: the user was not asked, and the session lasts for `max_age`.
        keep_data: keep the data of the anonymous session. Data of another user is never kept.
        method: how the user signed in, in the application's words, for the list of devices.

    Raises:
        ImproperlyConfigured: the session is in a cookie that cannot be revoked: see `allow_unrevocable` of the backend.
        SessionGone: all of the user's sessions were revoked during the sign-in. It is raised when the session is saved.
        TooManySessions: the user has `max_sessions_per_user` sessions, and `on_too_many="refuse"` is set.
        ResponseStarted: the headers have been sent, and the new id can no longer reach the browser.
        TypeError: `user_id` is not a str, or is empty; or `remember` is not a bool.
    """
    if not isinstance(user_id, str) or not user_id:
        raise TypeError("sign_in() takes the id of a user as a str that is not empty: pass str(user.id).")
    if remember is not None and not isinstance(remember, bool):
        raise TypeError('sign_in() takes remember as a bool: pass bool(form.get("remember")).')
    if not is_unicode(user_id) or not is_unicode(method):
        raise UnsupportedValue("what sign_in() was given", "str with half of a character", "No text has that.")
    user_id, method = as_base(user_id, user_id), as_base(method, method)
    session = await load_session(source)
    return await signing_in.sign_in(session, user_id, remember, keep_data, method)


async def sign_out(source: SessionSource, *, clear_site_data: bool = False) -> None:
    """End the session permanently, as `session.delete()` does.

    Args:
        source: a request, a WebSocket, or a session.
        clear_site_data: tell the browser to delete everything that it stores for this site, including its cache (ASVS
            14.3.1).
    """
    session = get_session(source)
    await session.delete()
    session.__starsessions__.clears_site_data = clear_site_data


def get_user_id(source: SessionSource) -> str | None:
    """Return the id of the signed-in user; None if the session is anonymous."""
    identity = _identity_in(source)
    return None if identity is None else identity.user_id


def get_signed_in_at(source: SessionSource) -> datetime | None:
    """Return when the user signed in, or last confirmed it by signing in again; None if the session is anonymous."""
    identity = _identity_in(source)
    return None if identity is None else _moment(identity.signed_in_at)


def get_handle(source: SessionSource) -> str | None:
    """Return the session's public name on the user's list of devices; None if the session is anonymous."""
    identity = _identity_in(source)
    return None if identity is None else identity.handle


def is_fresh(source: SessionSource, within: Duration) -> bool:
    """Return whether the user signed in less than `within` ago (seconds or a `timedelta`).

    If not, ask for the password again before sensitive changes to the account (ASVS 7.5.1).
    """
    identity = _identity_in(source)
    longest, now = seconds("within", within), int(get_session(source).__starsessions__.config.clock())
    return identity is not None and now < identity.signed_in_at + longest


def _identity_in(source: SessionSource) -> Identity | None:
    session = get_session(source)
    bool(session)  # loads it, or says that it is not loaded
    return session.__starsessions__.user


@dataclass(frozen=True, slots=True)
class UserSession:
    """One session of a user's list. Nothing in it opens the session."""

    handle: str
    """The session's public name: pass it to `revoke()`."""
    began_at: datetime
    signed_in_at: datetime
    last_used_at: datetime
    """When the session was last renewed: by a change, or with `rolling=True` by use, to within `renew_every`. For a
    signed or encrypted cookie, when it was signed in, since only the browser has the rest.
    """
    method: str
    """How the user signed in: the value of `sign_in(method=…)`."""
    agent: str
    """The browser and system; "" if they are unknown."""
    address: str
    """The network of the address at sign-in, shortened; "" if it is unknown."""
    is_current: bool
    """Whether it is the session that was passed as `current`: "this device"."""


class UserSessions:
    """Lists and revokes users' sessions, in a backend that can list them: any store, or cookies with `revocations`.

    The cost grows with the number of sessions of that one user only.

    Args:
        backend: the backend that the middleware uses.
        on_event: called with a `Revoked` for each session that is ended, as the middleware's `on_event` is with others.

    Raises:
        ImproperlyConfigured: the backend cannot list sessions.

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
                "This backend cannot list a user's sessions. Keep sessions in a store, or pass revocations=<store> to "
                "the cookie backend."
            )

    def _opened(self) -> tuple[Backend, UserIndex, int]:
        """The backend that was bound for the middleware, its lists, and what time it is."""
        bound = self._given.bound_once() if self._names is None else self._given.bound_for(*self._names)
        if bound is None:
            raise ImproperlyConfigured(
                "No SessionMiddleware has been built with this backend yet, so it is unknown whose sessions are meant: "
                "build the application first, or say UserSessions(backend, session_cookie=…)."
            )
        assert bound.user_index is not None
        return bound, bound.user_index, int(bound.clock())

    async def list(self, user_id: str, current: SessionSource | None = None) -> list[UserSession]:
        """Return the user's live sessions, the newest sign-in first.

        Args:
            user_id: the user's id.
            current: the request or session to mark with `is_current`.
        """
        backend, user_index, now = self._opened()
        handle = None if current is None else get_handle(current)
        index = await user_index.of(user_id, now)
        found = [await backend.look_up(one, now) for one in reversed(index)]
        return [_shown(one.record, one.record.identity, handle) for one in found if one and one.record.identity]

    async def revoke(self, user_id: str, handle: str) -> bool:
        """End one of the user's sessions. Return False if the user has none with this handle."""
        return await self._end(user_id, lambda one: one.handle == handle) > 0

    async def revoke_all(self, user_id: str) -> int:
        """End all sessions of the user, and return how many ended.

        Call it when a password was changed, or an account is closed (ASVS 7.4.2, 7.4.3). Sessions that are being signed
        in at that moment end, too.
        """
        return await self._end(user_id, lambda _: True)

    async def revoke_others(self, current: SessionSource) -> int:
        """End all sessions of the signed-in user except this one, which gets a new id. Return how many ended.

        If no user is signed in, do nothing and return 0.
        """
        session = get_session(current)
        user_id, handle = get_user_id(session), get_handle(session)
        if user_id is None:
            return 0
        ended = await self._end(user_id, lambda one: one.handle != handle)
        await session.regenerate_id()
        return ended

    async def _end(self, user_id: str, is_meant: Callable[[IndexedSession], bool]) -> int:
        backend, user_index, now = self._opened()
        which = [one for one in await user_index.of(user_id, now) if is_meant(one)]
        # Before they are removed from the list: after an interruption, the rest can still be revoked.
        ended = [await backend.look_up(one, now) is not None for one in which]
        for one in which:
            await backend.revoke(one, now)
        await user_index.remove(user_id, {one.handle for one in which}, now)
        # And once more afterwards: a session that was saved in between had found itself on the list.
        for one in which:
            await backend.revoke(one, now)
        if self._on_event is not None:
            revoked = [Revoked(one.handle, user_id) for one, lived in zip(which, ended, strict=True) if lived]
            await dispatch(revoked, self._on_event)
        return sum(ended)


def _shown(record: Record, identity: Identity, current: str | None) -> UserSession:
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
