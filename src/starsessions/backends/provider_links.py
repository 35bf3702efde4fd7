"""Which sessions an identity provider's sign-out ends: found by its issuer, and its id of a session or of a subject.

Each sign-in with a provider writes *links* to the store: one that the provider's session owns, and one that its subject
owns. A link names the user and the session's handle. The record of the session stays the truth: a link only finds it,
and one that leads nowhere is harmless.

A sign-out may arrive while a session is being stored. In no order of these steps does the session live:

| the sign-in | the sign-out |
|---|---|
| L write the links; P store the pending entry | T say that the provider's session has ended |
| S save the session | Q list the links, and M mark each as ended |
| C look at the links and at what T wrote | R end the sessions that the links name |
| D delete the session, if it has ended | X remove the links |

L and P may come in any order, and so may S and C; but L and P come before both. The sign-out has one order.

* If Q comes before L, then T comes before C, which finds what it wrote.
* If L comes before Q, and M before C, then C finds the mark, or no link after X.
* If L comes before Q, and C before M, then P and C come before R, which finds the entry that P stored, or S in its
  place. If it was P, then S finds that it has been ended. (This is also why M need not be repeated where C has just
  extended the link.)

A sign-out of a subject has no T, because the subject may sign in again. A sign-in whose links come after Q is such a
later one, and lives.

A sign-out that is interrupted is sent again. Until the sessions have ended, it finds the links: so X comes last.

C is done at each later write of the session, too. So a session whose links the store has lost ends at its next renewal
and not at the provider's next sign-out, which could not find it. There, links that would expire before the session are
extended.
"""

from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from starsessions.backends.entries import Entries, Location
from starsessions.core.binding import Binding, Purpose
from starsessions.core.encoding import key_under
from starsessions.core.record import Found, Identity, Record
from starsessions.stores.base import Conflict, Cursor, Entry, Indexing, Owner

REMEMBERED_FOR = 15 * 60
"""Seconds for which the end of a provider's session is remembered: longer than a sign-in takes."""

PAGE = 1000
"""Links that are listed at once."""

CHUNK = 50
"""Links that are written at once."""

# What a link says, as the payload of its record.
_OF_SESSION, _OF_SUBJECT, _ENDED = b"session", b"subject", b"ended"


class Link(NamedTuple):
    """A link to a session, and where it is stored."""

    key: str
    owner: str
    record: Record
    location: Location

    def __repr__(self) -> str:
        return "<Link>"

    @property
    def identity(self) -> Identity:
        """The user and the handle of the session."""
        assert self.record.identity is not None
        return self.record.identity


class ProviderLinks:
    """The links from what providers say to sessions, for one cookie of one application and one kind of backend.

    Args:
        store: the store of the sessions.
        binding: the application and its cookie.
        label: the label of the listing of users.
        entries: encodes and decodes the entries.
        concurrently: waits for several coroutines together.
    """

    def __init__(
        self,
        store: Indexing,
        binding: Binding,
        label: bytes,
        entries: Entries,
        concurrently: Callable[..., Coroutine[Any, Any, list[Any]]],
    ) -> None:
        self._store = store
        self._binding = binding
        self._label = label
        self._entries = entries
        self._concurrently = concurrently

    def owners(self, issuer: str, session: str, subject: str) -> tuple[str, str]:
        """Return the owners of the links for a provider's session and subject; "" for what is empty."""
        return (
            self._key(Purpose.PROVIDER_SESSION, f"{len(issuer)}:{issuer}{session}") if session else "",
            self._key(Purpose.PROVIDER_SUBJECT, f"{len(issuer)}:{issuer}{subject}") if subject else "",
        )

    def is_link(self, key: str, owner: str, identity: Identity) -> bool:
        """Return whether an entry is a link of this cookie and application, from this owner to the session."""
        return key == self._link_key(owner, identity.handle)

    # The sign-in

    async def write(self, identity: Identity, until: int, now: int) -> None:
        """Write the links of a session that is about to be stored (L)."""
        payload = _OF_SESSION if identity.provider_session else _OF_SUBJECT
        await self._concurrently(*(self._create(one, identity, payload, until, now) for one in _owners_of(identity)))

    async def are_open(self, identity: Identity, ends_at: int, now: int) -> bool:
        """Return whether the provider has not signed out a session that was stored (C). Extend its links if needed.

        Args:
            identity: the identity in the session.
            ends_at: when the session expires.
            now: the current time.
        """
        owners = _owners_of(identity)
        ended, *links = await self._concurrently(
            self._has_ended(identity.provider_session, now), *(self._find(one, identity.handle, now) for one in owners)
        )
        if ended or any(link is None or link.record.payload == _ENDED for link in links):
            return False
        for link in links:
            if link.location.until < ends_at:  # for twice as long, so that most renewals write no link
                await self._rewrite(link, link.record.payload, ends_at + (ends_at - now), now)
        return True

    async def forget(self, identity: Identity) -> None:
        """Remove the links of a session that has ended."""
        keys = [self._link_key(one, identity.handle) for one in _owners_of(identity)]
        await self._concurrently(*(self._store.delete(key, now=0) for key in keys))

    # The sign-out

    async def end(self, owners: tuple[str, str], now: int) -> list[Link]:
        """Do all that comes before the sessions are ended (T, Q and M), and return the links to them.

        Args:
            owners: the provider's session and subject. If both are given, the session is meant, and besides it those
                sessions of the subject whose sign-in did not name the provider's session.
            now: the current time.
        """
        session, subject = owners
        if session:
            await self._remember(self._ended_key(session), now + REMEMBERED_FOR, now)
        links = await self._listed(session) if session else []
        if subject:
            of_subject = await self._listed(subject)
            links += [link for link in of_subject if not session or link.record.payload != _OF_SESSION]
        for begin in range(0, len(links), CHUNK):
            some = links[begin : begin + CHUNK]
            await self._concurrently(*(self._rewrite(link, _ENDED, link.location.until, 0) for link in some))
        return links

    async def remove(self, links: Sequence[Link]) -> None:
        """Remove links whose sessions have ended (X)."""
        for begin in range(0, len(links), CHUNK):
            await self._concurrently(*(self._store.delete(link.key, now=0) for link in links[begin : begin + CHUNK]))

    # The tokens of a sign-out

    async def was_received(self, issuer: str, number: str, now: int) -> bool:
        """Return whether a token of this number has done its work."""
        return await self._store.get(self._token_key(issuer, number), now=now) is not None

    async def received(self, issuer: str, number: str, until: int, now: int) -> None:
        """Remember until then that a token of this number has done its work."""
        await self._remember(self._token_key(issuer, number), until, now)

    # How

    async def _create(self, owner: str, identity: Identity, payload: bytes, until: int, now: int) -> None:
        key = self._link_key(owner, identity.handle)
        value = self._entries.value(key, Record(payload, now, now, identity=_named(identity)))
        with suppress(Conflict):  # the answer to an earlier attempt was lost
            await self._store.create(key, value, expires_at=until, now=now, owner=Owner(owner, identity.signed_in_at))

    async def _find(self, owner: str, handle: str, now: int) -> Link | None:
        key = self._link_key(owner, handle)
        return self._read(key, owner, await self._store.get(key, now=now))

    def _read(self, key: str, owner: str, entry: Entry | None) -> Link | None:
        read = self._entries.read("", key, entry)
        if not isinstance(read, Found) or read.record.identity is None:
            return None
        return Link(key, owner, read.record, read.version)

    async def _listed(self, owner: str) -> list[Link]:
        links: list[Link] = []
        after: Cursor | None = None
        while True:
            # Whether an entry has expired by the clock of this server does not matter to what is to be ended.
            page = await self._store.list_owned(owner, limit=PAGE, now=0, after=after)
            found = [self._read(key, owner, entry) for key, entry in page.entries]
            links += [link for link in found if link is not None]
            after = page.after
            if after is None:
                return links

    async def _rewrite(self, link: Link, payload: bytes, until: int, now: int) -> None:
        """Replace a link, unless another request has changed it meanwhile."""
        identity, location = link.identity, link.location
        value = self._entries.value(link.key, Record(payload, link.record.began_at, now, identity=identity))
        owner = Owner(link.owner, identity.signed_in_at)
        with suppress(Conflict):
            await self._store.replace(link.key, value, location.version, expires_at=until, now=now, owner=owner)

    async def _has_ended(self, session: str, now: int) -> bool:
        return bool(session) and await self._store.get(self._ended_key(session), now=now) is not None

    async def _remember(self, key: str, until: int, now: int) -> None:
        """Store that something has happened. A second time extends it."""
        version = None
        while True:
            try:
                if version is None:
                    await self._store.create(key, b"1", expires_at=until, now=now)
                else:
                    await self._store.replace(key, b"1", version, expires_at=until, now=now)
                return
            except Conflict as conflict:
                version = None if conflict.current is None else conflict.current.version

    def _link_key(self, owner: str, handle: str) -> str:
        return self._key(Purpose.PROVIDER_LINK, owner + handle)

    def _ended_key(self, session: str) -> str:
        return self._key(Purpose.PROVIDER_SIGN_OUT, session)

    def _token_key(self, issuer: str, number: str) -> str:
        return self._key(Purpose.PROVIDER_NUMBER, f"{len(issuer)}:{issuer}{number}")

    def _key(self, purpose: Purpose, text: str) -> str:
        return key_under(self._binding.label(purpose) + self._label, text)


def handles_by_user(links: Iterable[Link]) -> dict[str, set[str]]:
    """Return the handles of the sessions that the links name, by user."""
    handles: dict[str, set[str]] = {}
    for link in links:
        handles.setdefault(link.identity.user_id, set()).add(link.identity.handle)
    return handles


def _owners_of(identity: Identity) -> list[str]:
    return [owner for owner in (identity.provider_session, identity.provider_subject) if owner]


def _named(identity: Identity) -> Identity:
    """Return what a link needs of an identity."""
    return Identity(identity.user_id, identity.signed_in_at, identity.handle)
