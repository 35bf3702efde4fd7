"""A user's sessions, as a page of devices shows them, and the ways to end them from elsewhere."""

from dataclasses import dataclass
from datetime import UTC, datetime

from starsessions.backends.adapter import adapt
from starsessions.backends.base import Backend, SessionBackend
from starsessions.backends.user_index import Index, IndexedSession, UserIndex
from starsessions.events import OnEvent, Revoked, dispatch
from starsessions.exceptions import ImproperlyConfigured
from starsessions.session import Session


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
    >>> from starsessions import InMemoryBackend
    >>> async def main():
    ...     backend = InMemoryBackend()
    ...     session = Session(backend)
    ...     await session.load()
    ...     await session.sign_in("ann", method="password")
    ...     await session.persist()
    ...     sessions = UserSessions(backend)
    ...     listed = await sessions.of("ann")
    ...     ended = await sessions.end_all("ann")
    ...     return [one.method for one in listed], ended, await sessions.of("ann")
    >>> asyncio.run(main())
    (['password'], 1, [])
    """

    def __init__(self, backend: SessionBackend, on_event: OnEvent | None = None) -> None:
        """`on_event`: is told of each session that is ended (`Revoked`), as that of the middleware is of others."""
        self._on_event = on_event
        self._backend: Backend = adapt(backend)
        if self._backend.user_index is None:
            raise ImproperlyConfigured(
                "This backend cannot list the sessions of a user: keep sessions in a store, or give the cookie backend "
                "revocations=… (a store)."
            )
        self._owners: UserIndex = self._backend.user_index

    async def of(self, user_id: str, current: Session | None = None) -> list[UserSession]:
        """The sessions that live, the newest sign in first. `current`: the one to be marked as such."""
        now = int(self._backend.clock())
        index = await self._owners.of(user_id, now)
        handle = None if current is None else current.handle
        listed = [await self._shown(one, handle, now) for one in reversed(index)]
        return [one for one in listed if one is not None]

    async def end(self, user_id: str, handle: str) -> bool:
        """End one of the user's sessions by its handle. False: there is none."""
        index = await self._owners.of(user_id, int(self._backend.clock()))
        return await self._end(user_id, tuple(one for one in index if one.handle == handle)) > 0

    async def end_all(self, user_id: str, but: Session | None = None) -> int:
        """End all of the user's sessions, and say how many that were. `but` stays, and gets a new id.

        Call it when a password was changed, or an account is closed (ASVS 7.4.2, 7.4.3). Sessions that are being
        signed in at this moment end, too.
        """
        handle = None if but is None else but.handle
        index = await self._owners.of(user_id, int(self._backend.clock()))
        ended = await self._end(user_id, tuple(one for one in index if one.handle != handle))
        if but is not None:
            await but.regenerate_id()
        return ended

    async def _end(self, user_id: str, which: Index) -> int:
        now = int(self._backend.clock())
        handles = frozenset(one.handle for one in which)
        # Before it is taken from the list: if we are interrupted, what is left can be ended later.
        ended = [await self._backend.look_up(one, now) is not None for one in which]
        for one in which:
            await self._backend.revoke(one, now)
        await self._owners.change(
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
