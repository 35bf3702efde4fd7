"""Sign users in and out, list a user's sessions, and revoke them."""

from collections.abc import Awaitable, Callable, Collection, Container, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from math import inf

import anyio
from anyio.lowlevel import checkpoint

from starsessions.backends.adapter import adapt, bound_as
from starsessions.backends.base import Backend, SessionBackend
from starsessions.backends.epochs import carries
from starsessions.backends.observer import By
from starsessions.backends.provider_links import ProviderLinks, handles_by_user
from starsessions.backends.user_index import PAGE, Owned, UserIndex, next_page
from starsessions.core.durations import Duration, seconds, time_limit
from starsessions.core.kinds import as_base
from starsessions.core.record import LAST_INSTANT, Identity, Record
from starsessions.core.wrapping import is_unicode
from starsessions.events import OnEvent, Revoked
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured, UnsupportedValue
from starsessions.lifecycle import sign_in as signing_in
from starsessions.reporting import dispatch
from starsessions.session import SessionSource, get_session, load_session
from starsessions.stores.base import Cursor, Store

__all__ = [
    "UserSession",
    "UserSessionPage",
    "UserSessions",
    "check_stamp",
    "get_handle",
    "get_signed_in_at",
    "get_user_id",
    "is_fresh",
    "sign_in",
    "sign_out",
]


async def sign_in(
    source: SessionSource,
    user_id: str,
    *,
    remember: bool | None = None,
    keep_data: bool = True,
    method: str = "",
    stamp: str = "",
    provider: str = "",
    provider_session: str = "",
    provider_subject: str = "",
) -> str:
    """Sign a user in, and return the session's new id. The old id stops working at once.

    Call it whenever you have verified a password or another credential, even if the user is signed in already: the id
    changes each time, and the session's lifetime restarts (ASVS 7.2.4). The session is saved with the response. Until
    then it has an entry in the store, which `revoke_all()` ends as well.

    Args:
        source: a request, a WebSocket, or a session.
        user_id: the user's id, a str that is not empty.
        remember: the user's answer to "remember me". True: the session lasts for 30 days, or `max_age` if that is
            longer, even after the browser is closed; where `absolute_timeout` is 30 days or less, as long as any other.
            False: the cookie ends with the browser. None: the user was not asked, and the session lasts for `max_age`.
        keep_data: keep the data of the anonymous session. Data of another user is never kept.
        method: how the user signed in, in the application's words, for the list of devices.
        stamp: a fingerprint of the user's credentials, such as the stored hash of the password: see `check_stamp`.
        provider: the identity provider that has verified the user, as the claim `iss` of the ID token spells it. It can
            end the session: see `starsessions.oidc`.
        provider_session: the claim `sid` of the ID token, if there is one.
        provider_subject: the claim `sub` of the ID token.

    Raises:
        ImproperlyConfigured: the session is in a cookie that cannot be revoked: see `allow_unrevocable` of the backend.
        SessionGone: the user's sessions were revoked during the sign-in, later sign-ins took its place, or the handler
            has taken an hour. It is raised when the session is saved.
        TooManySessions: the user has `max_sessions_per_user` sessions, and `on_too_many="refuse"` is set.
        ResponseStarted: the headers have been sent, and the new id can no longer reach the browser.
        TypeError: `user_id` is not a str, or is empty; `method` or `stamp` is not a str; `remember` is not a bool; or
            only a part of what a provider says was given.
    """
    if not isinstance(user_id, str) or not user_id:
        raise TypeError("sign_in() takes the id of a user as a str that is not empty: pass str(user.id).")
    if remember is not None and not isinstance(remember, bool):
        raise TypeError('sign_in() takes remember as a bool: pass bool(form.get("remember")).')
    if not isinstance(method, str):
        raise TypeError(
            "sign_in() takes method as a str: leave it out if you keep no names for the ways of signing in."
        )
    _check_stamp("sign_in", stamp)
    if not is_unicode(user_id) or not is_unicode(method) or not is_unicode(stamp):
        raise UnsupportedValue("what sign_in() was given", "str with half of a character", "No text has that.")
    user_id, method = as_base(user_id, user_id), as_base(method, method)
    names = _provider_names(provider, provider_session, provider_subject)
    session = await load_session(source)
    return await signing_in.sign_in(session, user_id, remember, keep_data, method, stamp, names)


def _check_stamp(function: str, stamp: str) -> None:
    if not isinstance(stamp, str):
        raise TypeError(
            f"{function}() takes stamp as a str: the stored hash of the password, bytes as hash.hex(). "
            "For a user without a password, leave it out, and do not call check_stamp()."
        )


def _provider_names(*names: str) -> signing_in.ProviderNames:
    if names == signing_in.NO_PROVIDER:
        return signing_in.NO_PROVIDER
    provider, session, subject = names
    if not all(isinstance(name, str) for name in names) or bool(provider) != bool(session or subject):
        raise TypeError(
            "sign_in() takes provider with provider_session, provider_subject or both, as str: pass the claims iss, "
            "sid and sub of the ID token."
        )
    return signing_in.ProviderNames(provider, session, subject)


async def check_stamp(source: SessionSource, stamp: str) -> bool:
    """Return whether the user signed in with these credentials. If not, sign the user out.

    Call it with each request, or before what matters, with the fingerprint that the user has now. So a changed password
    ends all sessions that were signed in with the old one, without a list: also those in signed or encrypted cookies.
    After the change, sign the user in again with the new fingerprint.

    Args:
        source: a request, a WebSocket, or a session.
        stamp: the fingerprint that would be passed to `sign_in()` now. The session holds a hash of it.

    Returns:
        True if it is that of the sign-in. False if it is another one, or no user is signed in.

    Raises:
        TypeError: `stamp` is not a str.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend, Session
    >>> async def main():
    ...     session = Session(InMemoryBackend())
    ...     await sign_in(session, "ann", stamp="hash of the password")
    ...     valid = await check_stamp(session, "hash of the password")
    ...     return valid, await check_stamp(session, "hash of another"), get_user_id(session)
    >>> asyncio.run(main())
    (True, False, None)
    """
    _check_stamp("check_stamp", stamp)
    session = await load_session(source)
    identity = session.__starsessions__.user
    if identity is None:
        return False
    expected = signing_in.hashed_stamp(stamp, identity.user_id, session.__starsessions__)
    if expected and compare_digest(expected, identity.stamp):
        return True
    await session.delete()
    return False


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
    signed or encrypted cookie, when it was signed in or last got a new id, since only the browser has the rest.
    """
    method: str
    """How the user signed in: the value of `sign_in(method=…)`."""
    agent: str
    """The browser and system; "" if they are unknown."""
    address: str
    """The network of the address at sign-in, shortened; "" if it is unknown."""
    is_current: bool
    """Whether it is the session that was passed as `current`: "this device"."""


class UserSessionPage(list[UserSession]):
    """A list of a user's sessions, the newest sign-in first."""

    after: str | None
    """Where the next page begins, to pass to `list(after=…)`; None: this is the last page. It may be part of a URL."""

    def __init__(self, sessions: Iterable[UserSession] = (), is_last: bool = True) -> None:
        super().__init__(sessions)
        self.after = None if is_last else f"{int(self[-1].signed_in_at.timestamp())}.{self[-1].handle}"


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
        self._names = session_cookie, app_name
        self._given: Backend = adapt(backend)
        if self._given.user_index is None:
            raise ImproperlyConfigured(
                "This backend cannot list a user's sessions. Keep sessions in a store, or pass revocations=<store> to "
                "the cookie backend."
            )

    def _bound(self) -> Backend:
        """Return the backend that was bound for the middleware."""
        return bound_as(self._given, *self._names)

    def _opened(self) -> tuple[UserIndex, int]:
        """Return the entries of users in that backend, and the time."""
        bound = self._bound()
        assert bound.user_index is not None
        return bound.user_index, int(bound.clock())

    async def list(
        self, user_id: str, current: SessionSource | None = None, *, limit: int = PAGE, after: str | None = None
    ) -> UserSessionPage:
        """Return the user's live sessions, the newest sign-in first. The cost is that of the sessions on the page.

        Args:
            user_id: the user's id.
            current: the request or session to mark with `is_current`.
            limit: the most sessions to return, 1 or more.
            after: the `after` of the page before; None, or what no page had: begin with the newest sign-in.

        >>> import asyncio
        >>> from starsessions import InMemoryBackend
        >>> async def main():
        ...     sessions = UserSessions(InMemoryBackend(), session_cookie="session")
        ...     page = await sessions.list("ann", limit=50)
        ...     while page.after is not None:
        ...         page = await sessions.list("ann", limit=50, after=page.after)
        ...     return page
        >>> asyncio.run(main())
        []
        """
        if limit < 1:
            raise ValueError("list() takes a limit of 1 or more.")
        index, now = self._opened()
        since, last = _position(after)
        cursor = None if since is None else Cursor(since + 1, "")
        live: dict[str, UserSession] = {}
        mine = None if current is None else get_handle(current)
        epochs = await index.epochs.both(user_id, now) if index.checks_epoch else b""  # what they refuse opens nothing
        while True:
            entries, cursor = await index.page(user_id, limit + 1, now, cursor)
            for one in entries:
                if one.record is None or one.identity is None:
                    continue
                if index.is_live(one.record, now) and carries(one.identity, epochs):
                    live.setdefault(one.identity.handle, _shown(one.record, one.identity, mine))
            shown = [*live.values()]
            if last in live:  # of the same second as the first of this page
                shown = shown[shown.index(live[last]) + 1 :]
            elif since is not None and cursor is not None and cursor.since >= since:
                continue  # it may still come: more of that second than one page has
            if len(shown) > limit or cursor is None:
                return UserSessionPage(shown[:limit], is_last=len(shown) <= limit)

    async def revoke(self, user_id: str, handle: str) -> bool:
        """End one of the user's sessions. Return False if the user has none with this handle."""
        index, now = self._opened()

        async def end_one(ended: _Ended) -> None:
            await _end(index, user_id, now, ended, lambda one: one is not None and one.handle == handle)

        return await self._in_time(end_one, 30) > 0

    async def revoke_all(
        self, user_id: str, *, timeout: float | timedelta = 30, on_page: Callable[[int], object] | None = None
    ) -> int:
        """End all sessions of the user, and return how many ended.

        Call it when a password was changed, or an account is closed (ASVS 7.4.2, 7.4.3). Sessions that are being signed
        in at that moment end, too. So does, at its next renewal, a session that the store has lost from its listing.

        Args:
            user_id: the user's id.
            timeout: the limit of time, in seconds or as a `timedelta`.
            on_page: called now and then with the number of sessions that have ended so far.

        Raises:
            BackendUnavailable: the limit was reached. The message says how many have ended by then. The others are
                refused at their next renewal; call it again to end them at once.
        """
        index, now = self._opened()

        async def end_all(ended: _Ended) -> None:
            epoch = await index.epochs.begin(user_id, now)
            await index.announce(index.owner_name(user_id))  # open streams compare the epoch
            while await _end(index, user_id, now, ended, lambda one: one is None or epoch not in one.epoch):
                pass

        return await self._in_time(end_all, timeout, "the rest are refused at their next renewal; ", on_page=on_page)

    async def revoke_everyone(self, *, timeout: float | timedelta = 30) -> None:
        """End the sessions of all signed-in users, your own included. Anonymous sessions live on.

        Call it when a secret or a copy of the store may have been stolen. It is one write, however many sessions there
        are. Each is refused when it is next written, and where the backend has `check_epoch=True`, when it is next
        loaded. Open streams and WebSockets that end with their session end at once. No `Revoked` is reported.

        Args:
            timeout: the limit of time, in seconds or as a `timedelta`.

        Raises:
            BackendUnavailable: the limit was reached, or the store failed. Call it again.

        >>> import asyncio
        >>> from starsessions import InMemoryBackend
        >>> asyncio.run(UserSessions(InMemoryBackend(), session_cookie="session").revoke_everyone())
        """
        index, now = self._opened()
        limit = time_limit("timeout", timeout)
        with anyio.move_on_after(limit) as scope:
            await index.begin_epoch_of_all(now)
        if scope.cancelled_caught:
            raise BackendUnavailable(
                f"The sessions of all users may not have ended in {limit:g} seconds: call it again."
            )

    async def revoke_others(self, current: SessionSource, *, timeout: float | timedelta = 30) -> int:
        """End all sessions of the signed-in user except this one, which gets a new id. Return how many ended.

        If no user is signed in, do nothing and return 0.

        Args:
            current: a request, a WebSocket, or a session.
            timeout: the limit of time, in seconds or as a `timedelta`.

        Raises:
            BackendUnavailable: the limit was reached. The message says how many have ended by then.
        """
        session = get_session(current)
        user_id, handle = get_user_id(session), get_handle(session)
        if user_id is None:
            return 0
        index, now = self._opened()

        async def end_others(ended: _Ended) -> None:
            await _end(index, user_id, now, ended, lambda one: one is None or one.handle != handle)

        count = await self._in_time(end_others, timeout)
        await session.regenerate_id()
        return count

    async def revoke_linked(
        self, provider: str, *, session: str = "", subject: str = "", timeout: float | timedelta = 30
    ) -> int:
        """End the sessions that were signed in with an identity provider's session or subject. Return how many ended.

        The receivers in `starsessions.oidc` call it. Call it yourself for a sign-out that arrives in another way. If
        both are given, the session is meant, and besides it those sessions of the subject whose sign-in did not name
        the provider's session. A sign-in with that session which is under way is not saved. A sign-in with that subject
        which begins later is.

        Args:
            provider: the `provider` of `sign_in()`.
            session: the `provider_session` of `sign_in()`.
            subject: the `provider_subject` of `sign_in()`.
            timeout: the limit of time, in seconds or as a `timedelta`.

        Raises:
            BackendUnavailable: the limit was reached. The message says how many have ended by then; call it again.
        """
        index, now = self._opened()
        owners = index.links.owners(provider, session, subject)

        async def end_linked(ended: _Ended) -> None:
            links = await index.links.end(owners, now)
            for user_id, handles in handles_by_user(links).items():
                await _end(index, user_id, now, ended, _one_of(handles))
            await index.links.remove(links)

        return await self._in_time(end_linked, timeout, by="provider")

    def provider_links(self) -> tuple[ProviderLinks, int]:
        """Return the links from identity providers to these sessions, and the time: for `starsessions.oidc`."""
        index, now = self._opened()
        return index.links, now

    async def _in_time(
        self,
        end: "Callable[[_Ended], Awaitable[None]]",
        timeout: float | timedelta,
        rest: str = "",
        by: By = "application",
        on_page: Callable[[int], object] | None = None,
    ) -> int:
        """Run `end`, which notes the sessions that it has ended, and return their number. Report each of them.

        Args:
            end: ends sessions.
            timeout: the limit of time, without that of `on_event`.
            rest: what becomes of those that are left when it is reached.
            by: what ends them, for a tool that measures sessions.
            on_page: told of the number so far.
        """
        limit, observer = time_limit("timeout", timeout), self._bound().observer

        async def report(new: Collection[Revoked]) -> None:
            left, scope.deadline = scope.deadline - anyio.current_time(), inf
            observer.revoked(len(new), by)
            await dispatch(new, self._on_event)
            scope.deadline = anyio.current_time() + left
            if on_page is not None:
                on_page(ended.count)

        ended, scope = _Ended(report), anyio.CancelScope(deadline=anyio.current_time() + limit)
        try:
            with scope:
                await end(ended)
        finally:
            await ended.tell()
        if scope.cancelled_caught:
            raise BackendUnavailable(
                f"Only {ended.count} of the user's sessions ended in {limit:g} seconds: {rest}call it again."
            )
        return ended.count


class _Ended:
    """The sessions of a user that have ended. They are reported in pages, so that a million need little memory.

    Args:
        report: is given those of a page.
    """

    def __init__(self, report: Callable[[Collection[Revoked]], Awaitable[None]]) -> None:
        self.count = 0
        self._report = report
        self._new: dict[str, Revoked] = {}
        self._before: Container[str] = ()
        """Those of the page before: an interrupted rotation leaves a session twice, in neighbouring places."""

    def note(self, one: Revoked) -> None:
        if one.handle not in self._before:
            self._new[one.handle] = one

    async def tell(self) -> None:
        """Report those that were noted."""
        new, self._new = self._new, {}
        if new:
            self._before = new
            self.count += len(new)
            await self._report(new.values())


def _one_of(handles: set[str]) -> Callable[[Identity | None], bool]:
    return lambda one: one is not None and one.handle in handles


async def _end(
    index: UserIndex, user_id: str, now: int, ended: _Ended, is_meant: Callable[[Identity | None], bool]
) -> int:
    """End the sessions of a user that are meant, whatever the clock says. Return how many entries that were.

    Args:
        index: the entries of users.
        user_id: the user.
        now: the current time.
        ended: takes the sessions that were live.
        is_meant: says so of an identity; None: the entry cannot be read.
    """

    def note(one: Owned) -> None:
        user = one.identity
        if user is not None and index.has_lived(one, now):
            ended.note(Revoked(user.handle, user_id, user.agent, user.address))

    count, limit = 0, PAGE
    after: Cursor | None = None
    while True:
        page, end = await index.page(user_id, limit, 0, after)
        meant = [one for one in page if is_meant(one.identity)]
        count += len(meant)
        await index.end_each(meant, note)
        # The limit of time is noticed here, not in `on_event`, also if the store never waits, or it was announced last.
        await checkpoint()
        await ended.tell()
        if end is None:
            return count
        after, limit = next_page(end, after, limit, PAGE, is_shorter=bool(meant))


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


def _position(after: str | None) -> tuple[int | None, str]:
    """Return the second and the handle of a page's last session. Anybody may have sent the text."""
    since, _, handle = (after or "").partition(".")
    is_instant = since.isascii() and since.isdecimal() and len(since) <= len(str(LAST_INSTANT))
    return (int(since), handle) if is_instant else (None, "")


def _moment(instant: int) -> datetime:
    return datetime.fromtimestamp(instant, UTC)
