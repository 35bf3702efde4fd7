"""The session: what handlers see of it."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from os import urandom
from typing import Any, TypeVar

import anyio
from starlette.requests import HTTPConnection

from starsessions.backends.adapter import adapt
from starsessions.backends.base import SessionBackend
from starsessions.backends.user_index import PENDING
from starsessions.core.cookies import CookieSpec
from starsessions.core.csrf import SECRET_BYTES, renew_secrets
from starsessions.core.decision import Cookie
from starsessions.core.durations import Duration, expiry, seconds
from starsessions.core.encoding import to_base64url
from starsessions.core.flash import Flash, add_flash, is_page_navigation, keys_of_flashes, take_flashes
from starsessions.core.record import Expiry, Found, Identity, MissReason
from starsessions.core.serializer import is_unicode
from starsessions.events import SignedOut, handle_of
from starsessions.exceptions import ImproperlyConfigured, ResponseStarted, SessionGone, UnsupportedValue
from starsessions.lifecycle.config import check_deadline, setting_for
from starsessions.lifecycle.loading import OPEN, SAVING, Phase
from starsessions.lifecycle.saving import KeptDict
from starsessions.lifecycle.sign_in import identity_of, register
from starsessions.stores.base import Store

T = TypeVar("T")


class Session(KeptDict):
    """`request.session`. Use it as the dict that it is; every change is kept, nested ones too.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend
    >>> async def visit(backend, session_id=None):
    ...     session = Session(backend, session_id)
    ...     await session.load()
    ...     session.setdefault("visits", []).append("now")
    ...     return await session.persist(), len(session["visits"])
    >>> backend = InMemoryBackend()
    >>> session_id, visits = asyncio.run(visit(backend))
    >>> asyncio.run(visit(backend, session_id))[1]
    2
    """

    modified: bool

    __slots__ = ()

    def __init__(self, backend: SessionBackend | Store, session_id: str | None = None) -> None:
        """A session to use by hand. An id that is given here is trusted; one from a browser never should be."""
        super().__init__()
        lifted = adapt(backend).bound_or_default()
        self._begin(setting_for(lifted, lifted.policy, CookieSpec(), lifted.clock, autoload=False), {"headers": ()})
        self._given = session_id

    # What it is

    @property
    def is_loaded(self) -> bool:
        """Whether the data is here."""
        return self._loaded

    @is_loaded.setter
    def is_loaded(self, value: bool) -> None:
        self._loaded = value
        if not value:  # the next load() starts afresh
            dict.clear(self)
            self._ready = False
            self._found = None
            self._views = ()

    @property
    def is_modified(self) -> bool:
        """Whether anything that changes was called. What is written is decided by comparing, not by this."""
        return self.modified

    @property
    def is_empty(self) -> bool:
        """Whether it holds no data."""
        return len(self) == 0

    @property
    def data(self) -> dict[str, Any]:
        """The data: the session itself."""
        if not self._ready:
            self._before_read()
        return self

    @data.setter
    def data(self, value: Mapping[str, Any]) -> None:
        self._before_change()
        self._fill_with(value)

    @property
    def session_id(self) -> str | None:
        """The id, once it is known to be ours: a secret, not to be shown or logged. None for a session without one."""
        if self._next_id is not None:
            return self._next_id
        return self._found.token if self._found is not None else self._given

    @property
    def user_id(self) -> str | None:
        """Who is signed in; None: nobody."""
        identity = self._who()
        return None if identity is None else identity.user_id

    @property
    def signed_in_at(self) -> datetime | None:
        """When that was, or when it was last confirmed by signing in again."""
        identity = self._who()
        return None if identity is None else datetime.fromtimestamp(identity.signed_in_at, UTC)

    @property
    def handle(self) -> str | None:
        """The session's public name on its user's list of devices (see `UserSessions`); None: nobody is signed in."""
        identity = self._who()
        return None if identity is None else identity.handle

    def is_fresh(self, within: Duration) -> bool:
        """Whether the person has signed in within so many seconds: ask it before what must not be done by a passer-by.

        If not, let them sign in again (ASVS 7.5.1: full authentication before changes to an account).
        """
        identity = self._who()
        return identity is not None and int(self._setting.clock()) < identity.signed_in_at + seconds("within", within)

    def _who(self) -> Identity | None:
        if not self._ready:
            self._before_read()
        if self._identity is not None:
            return self._identity
        return None if self._found is None else self._found.record.identity

    def __repr__(self) -> str:
        if not self._loaded:
            return "<Session: not loaded>"
        return f"<Session: {dict.__len__(self)} keys{', modified' if self.modified else ''}>"

    def mark_accessed(self) -> None:
        """Starlette calls this when a handler reads `request.session`."""
        self.accessed = True
        if not self._ready and (self._loaded or self._setting.look is not None):
            self._before_read()

    def mark_modified(self) -> None:
        """Kept for code written for Starlette: changes are found without it."""
        self.mark_accessed()
        self.modified = True

    # What it can do

    async def load(self) -> None:
        """Fetch the data, once. Without it (or `autoload=True`) the session raises `SessionNotLoaded`."""
        await self._load()

    async def persist(self) -> str:
        """Save now, whatever has changed, and return the id.

        The way to save after the response has started: from the first such call on, the session may be changed again,
        and each call saves. Raises `SessionGone` if the session was ended meanwhile, and `ResponseStarted` if a cookie
        would be needed that can no longer be sent.
        """
        async with self._saving_by_hand():
            await self._commit(by_hand=True)
        if self._gone or self._found is None:
            raise SessionGone("The session was ended since it was loaded, so nothing was saved.")
        return self._found.token

    async def update_atomically(self, change: Callable[[dict[str, Any]], T]) -> T:
        """Read, change and write as one step, also against other requests. Returns what `change` returns.

        `change` is given the data as a plain dict and changes it in place. It runs on what is stored now, and again if
        somebody else was faster, so it should do nothing else. What it did is saved at once, with what this request had
        changed before. Raises like `persist()`; if `change` raises, nothing has happened.

        >>> import asyncio
        >>> from starsessions import InMemoryBackend
        >>> def take_a_number(data):
        ...     data["number"] = data.get("number", 0) + 1
        ...     return data["number"]
        >>> async def visit():
        ...     session = Session(InMemoryBackend())
        ...     await session.load()
        ...     return await session.update_atomically(take_a_number), await session.update_atomically(take_a_number)
        >>> asyncio.run(visit())
        (1, 2)
        """
        await self._load()
        async with self._saving_by_hand():
            return await self._change_atomically(change)

    @asynccontextmanager
    async def _saving_by_hand(self) -> AsyncIterator[None]:
        if not self._ready:
            self._before_read()
        self._check_known()
        if self._phase is SAVING:
            self._saved = self._saved or anyio.Event()
            await self._saved.wait()
        if self._phase is not OPEN:
            self._check_reachable()
            self._phase = Phase.BY_HAND
        try:
            async with self._turn():
                yield
        except anyio.get_cancelled_exc_class():
            self._given_up = self._phase is Phase.BY_HAND
            raise
        self._given_up = False

    async def delete(self) -> None:
        """End the session for good: its data, its id, and the cookie. What is put in afterwards is a new session."""
        await self._load()
        self._check_known()
        if self._phase is not OPEN and self._setting.backend.is_client_side:
            self._check_reachable()
        found = self._found
        if found is None and self._given is not None:  # told that it is loaded, and never looked
            looked = await self._find()
            found = looked if isinstance(looked, Found) else None
        now, user_index, who = int(self._setting.clock()), self._setting.backend.user_index, self._who()
        if found is not None:
            await self._setting.backend.delete(found, now)
            if found.record.identity is not None:
                self._note(SignedOut(handle_of(found), found.record.identity.user_id))
            self._ended = self.modified = True
            self._cookie = Cookie.CLEAR
        if user_index is not None and who is not None and now < who.signed_in_at + PENDING:
            await user_index.forget(who, now)  # or it would count as one that is about to be stored
        self._forget()

    async def flush(self) -> str:
        """`delete()`, and the id of the session that begins if anything is put in: returned."""
        await self.delete()
        self.modified = True
        self._next_id = await self._setting.backend.new_id()
        return self._next_id

    async def regenerate_id(self, grace: Duration | None = None) -> str:
        """Keep the data under a new id, which is returned, and kill the old one: call it whenever rights change.

        `grace`: for so long (seconds or a timedelta) the old id stays usable, for requests that are on their way. They
        see and write the new session, and their answers do not bring the old id back. Nobody gets a grace who does not
        ask for it: after a sign in the id from before must be nobody.
        """
        await self._load()
        self._check_known()
        if self._phase is not OPEN:
            raise ResponseStarted("The headers have left, so a new id can no longer be sent: regenerate it before.")
        if self._identity is not None and self._next_id is not None:
            return self._next_id  # a sign in asked for a new id, which its list knows, and allows the old one no grace
        if grace is not None and not self._setting.backend.has_grace:
            raise ImproperlyConfigured("This backend cannot keep an old id usable: leave grace=… out, or use a store.")
        self._grace = 0 if grace is None else seconds("grace", grace)
        self._next_id = await self._setting.backend.new_id()
        self.modified = True
        if not self._grace:  # with a grace, what is on its way shall still arrive, and forms are
            self._end_open_forms()
        return self._next_id

    async def sign_in(self, user_id: str, *, remember: bool = False, keep: bool = True, method: str = "") -> str:
        """This session is from now on that of a user, under a new id, which is returned. The old id is nobody.

        Call it when a password or the like was found right, also if the person was signed in already: a new id each
        time, and the time that the session may last begins anew (ASVS 7.2.4). `keep`: what the anonymous session holds
        stays; what another user's holds never does. `remember`: for the middleware's `remember_for`, also when the
        browser was closed. `method`: how they signed in, in your words, for the list of devices.

        The user's list knows the session at once, and the session is saved with the response. Raises `TooManySessions`
        if one more is refused.
        """
        if not isinstance(user_id, str) or not user_id:
            raise TypeError("sign_in() takes the id of a user as a str that is not empty: pass str(user.id).")
        if not is_unicode(user_id) or not is_unicode(method):
            raise UnsupportedValue("what sign_in() was given", "str with half of a character", "No text has that.")
        await self._load()
        self._check_known()
        if self._phase is not OPEN:
            raise ResponseStarted("The headers have left, so a new id can no longer be sent: sign in before.")
        setting, old, now = self._setting, self._who(), int(self._setting.clock())
        new_id = await setting.backend.new_id()
        identity = identity_of(user_id, method, self._headers, self._client, now)
        replaced = None if self._found is None else self._found.record.identity
        identity = await register(identity, new_id, setting, self._identity, replaced, now, self._note)
        if old is not None and old.user_id != user_id:
            await self.delete()
        elif not keep:
            self.clear()
        self._identity = identity
        self._next_id, self._grace = new_id, 0
        self.modified = True
        self._end_open_forms()
        if remember:
            self._expiry = Expiry(lifetime=self._setting.users.remember_for)
        elif self._expiry is None:
            self._expiry = Expiry()  # what was promised at the sign in before is not promised now
        return new_id

    async def revalidate(self) -> bool:
        """Look again whether the session lives, and take over what others have changed in it. False: it has ended.

        For what lasts longer than a request, a WebSocket or a stream; `starsessions.watch` does it from time to time.
        It has ended, too, if somebody else has signed in, or signed in again, since it was loaded.
        """
        await self._load()
        self._check_known()
        found, setting = self._found, self._setting
        if found is None:
            return False
        now = int(setting.clock())
        current = check_deadline(await setting.backend.refetch(found, now), setting.policy, now)
        if not isinstance(current, Found) or _handle(current) != _handle(found):
            self._end_quietly()
            return False
        if current.version != found.version:
            self._rebase(current)
        return True

    async def sign_out(self, clear_site_data: bool = False) -> None:
        """End the session for good, as `delete()` does.

        `clear_site_data`: tell the browser to forget all that it has of this site, its cache included (ASVS 14.3.1).
        """
        await self.delete()
        self._clears_site_data = clear_site_data

    def _end_open_forms(self) -> None:
        """No token against CSRF from before is good any more: see `starsessions.csrf`."""
        renew_secrets(self, to_base64url(urandom(6)), urandom(SECRET_BYTES))

    def set_expiry(self, value: int | timedelta | datetime | None) -> None:
        """How long this one session lasts, in place of the middleware's `max_age`.

        Seconds or a timedelta: from its last renewal. A datetime (without a zone: local time): until then, whatever
        happens. None or 0: until the browser is closed, and no longer than `max_age` on the server. `absolute_timeout`
        holds in any case.
        """
        wanted = expiry(value, int(self._setting.clock()))
        self._before_change()
        self._expiry = wanted

    # Messages for the next page

    def flash(self, text: str, category: str = "info") -> None:
        """Say something on the next page, once: see `starsessions.flash`. The oldest messages make room for new ones.

        >>> import asyncio
        >>> from starsessions import InMemoryBackend
        >>> session = Session(InMemoryBackend())
        >>> asyncio.run(session.load())
        >>> session.flash("Saved", "success")
        >>> session.pop_flashes()
        [Flash(text='Saved', category='success')]
        """
        add_flash(self, Flash(text, category), to_base64url(urandom(6)))

    def pop_flashes(self, *, background: bool = False) -> list[Flash]:
        """The messages that wait, the oldest first, which are gone then: call it where a page is made.

        A request in the background (`fetch()`, an image, a prefetch) gets none and leaves them where they are, unless
        `background=True` says that its answer is shown: pages that a script fetches, with htmx for example.
        """
        return take_flashes(self) if background or is_page_navigation(self._headers) else []

    async def claim_flashes(self, *, background: bool = False) -> list[Flash]:
        """`pop_flashes()`, at once and for this request alone: of two pages that are made at the same moment, one gets
        a message and the other does not. If the page then fails, its messages are gone."""
        await self._load()
        if not keys_of_flashes(self) or not (background or is_page_navigation(self._headers)):
            return []
        try:
            return await self.update_atomically(take_flashes)
        except SessionGone:
            return []


def _handle(found: Found) -> str | None:
    identity = found.record.identity
    return None if identity is None else identity.handle


# How a request or a WebSocket leads to its session, and what there is to do besides using it as a dict.
#
# These are functions, and not methods, because a template asks for attributes before keys: with a method or property
# of that name on the session, `{{ request.session.user_id }}` would no longer show what the application has stored.

SessionSource = HTTPConnection | dict[str, Any]
"""A request, a WebSocket, or the session itself (`request.session`)."""


def get_session(source: SessionSource, scope_key: str = "session") -> Session:
    """Return the session of a request or a WebSocket, typed. It is not loaded by this: see `load_session`.

    Args:
        source: a `Request`, a `WebSocket`, or a session, which is returned as it is.
        scope_key: the `scope_key` of the middleware, for a second session in one application.

    Raises:
        ImproperlyConfigured: there is no session of this package.

    >>> get_session(HTTPConnection({"type": "http", "session": {}}))
    Traceback (most recent call last):
    starsessions.exceptions.ImproperlyConfigured: This request has no session of this package: add \
starsessions.SessionMiddleware to the application, and remove Starlette's own.
    """
    session = source.scope.get(scope_key) if isinstance(source, HTTPConnection) else source
    if not isinstance(session, Session):
        raise ImproperlyConfigured(
            "This request has no session of this package: add starsessions.SessionMiddleware to the application, "
            "and remove Starlette's own."
        )
    return session


async def load_session(source: SessionSource, scope_key: str = "session") -> Session:
    """Return the session of a request or a WebSocket, loaded. Loading twice costs nothing.

    Raises:
        ImproperlyConfigured: there is no session of this package.
        BackendUnavailable: the store failed or did not answer in time.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend
    >>> request = HTTPConnection({"type": "http", "session": Session(InMemoryBackend())})
    >>> asyncio.run(load_session(request))
    <Session: 0 keys>
    """
    session = get_session(source, scope_key)
    await session.load()
    return session


def set_expiry(source: SessionSource, value: int | timedelta | datetime | None) -> None:
    """Set how long this one session lasts, in place of the middleware's `max_age`.

    Args:
        source: a request, a WebSocket, or a loaded session.
        value: seconds or a `timedelta`, counted from the last renewal; a `datetime` (naive: local time), a fixed end;
            None or 0: until the browser is closed, and no longer than `max_age` on the server.

    `absolute_timeout` holds in any case.

    Raises:
        TypeError, ValueError: the value has another type, or is negative, too long, or in the past.
    """
    get_session(source).set_expiry(value)


async def update_atomically(source: SessionSource, change: Callable[[dict[str, Any]], T]) -> T:
    """Read, change and write as one step, also against other requests. Return what `change` returns.

    `change` gets the data as a plain dict and changes it in place. It runs on what is stored now, and runs again if
    another request wrote first, so it must have no side effects. The result is saved immediately, together with what
    this request has changed before.

    Raises:
        SessionGone: the session was ended since it was loaded.
        ResponseStarted: a cookie would be needed that can no longer be sent.
    """
    return await get_session(source).update_atomically(change)


def get_miss_reason(source: SessionSource) -> MissReason | None:
    """Return why the request has no live session; None if it has one, or if nothing has been loaded yet.

    It is for logs and tests. Do not show it to the user.
    """
    return get_session(source).miss_reason
