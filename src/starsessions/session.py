"""The session: what handlers see of it, and how a request leads to it."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeVar

from starlette.requests import HTTPConnection

from starsessions.backends.adapter import adapt
from starsessions.backends.base import SessionBackend
from starsessions.core.cookies import CookieSpec
from starsessions.core.durations import Duration, expiry, seconds
from starsessions.core.record import MissReason
from starsessions.core.state import OPEN
from starsessions.exceptions import ImproperlyConfigured
from starsessions.lifecycle import loading, saving
from starsessions.lifecycle import sign_in as signing_in
from starsessions.lifecycle.config import Config
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.tracked_dict import TrackedDict
from starsessions.stores.base import Store

T = TypeVar("T")


class Session(TrackedDict):
    """`request.session`: use it as a dict. Every change is kept, nested ones too.

    Its attributes are those of version 1.0.2 and of Starlette's own session, and no others, so that a template which
    asks for `request.session.user_id` gets the application's key. Everything else is a function of the request or
    the session: `load_session`, `set_expiry`, `users.sign_in`, `flash.add_flash` and so on.

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

    __slots__ = ()

    def __init__(self, backend: SessionBackend | Store, session_id: str | None = None) -> None:
        """Make a session to use by hand. The id is trusted: do not pass one that a browser sent."""
        super().__init__()
        adapted = adapt(backend).bound_or_default()
        config = Config.build(adapted, CookieSpec(), autoload=False)
        self.__starsessions__ = RequestState(config, explicit_id=session_id)

    # The hooks of TrackedDict

    def _before_read(self) -> None:
        state = self.__starsessions__
        if not state.is_loaded:
            loading.load_now(self)
        state.accessed = state.ready = True

    def _before_change(self) -> None:
        state = self.__starsessions__
        if not state.ready:
            self._before_read()
        if state.miss_reason is not None or state.phase is not OPEN:
            state.check_change()
        state.modified = True

    def clear(self) -> None:
        super().clear()
        self.__starsessions__.models = ()  # or a model that was changed before would put itself in again

    # Starlette's own session has these

    @property
    def accessed(self) -> bool:
        """Whether the session was used in this request."""
        return self.__starsessions__.accessed

    @accessed.setter
    def accessed(self, value: bool) -> None:
        self.__starsessions__.accessed = value

    @property
    def modified(self) -> bool:
        """Whether a method that changes was called. What is written is decided by comparing, not by this."""
        return self.__starsessions__.modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self.__starsessions__.modified = value

    def mark_accessed(self) -> None:
        """Called by Starlette when a handler reads `request.session`."""
        state = self.__starsessions__
        if not state.ready and (state.is_loaded or state.config.loads_at_once):
            self._before_read()
        else:
            state.accessed = True

    def mark_modified(self) -> None:
        """For code written for Starlette. Changes are found without it."""
        self.mark_accessed()
        self.__starsessions__.modified = True

    # Version 1.0.2 has these

    async def load(self) -> None:
        """Fetch the data, once. Without it (or `autoload=True`) the session raises `SessionNotLoaded`."""
        await loading.load(self)
        if not self.__starsessions__.ready:
            self._before_read()

    async def persist(self) -> str:
        """Save now, whatever has changed, and return the id.

        This is how to save after the response has started: from the first call on, the session may be changed again,
        and each call saves.

        Raises:
            SessionGone: the session was ended since it was loaded.
            ResponseStarted: a cookie would be needed that can no longer be sent.
        """
        self._before_read()
        return await saving.persist(self)

    async def delete(self) -> None:
        """End the session for good: its data, its id, and the cookie. What is put in afterwards is a new session."""
        await self.load()
        await saving.end(self)

    async def flush(self) -> str:
        """End the session as `delete()` does, and return the id of the session that begins if anything is put in."""
        await self.delete()
        state = self.__starsessions__
        new_id = await state.config.backend.new_id()
        state.rotate(new_id)
        return new_id

    async def regenerate_id(self, grace: Duration | None = None) -> str:
        """Keep the data under a new id, which is returned. The old id stops working: call it whenever rights change.

        Args:
            grace: for so long (seconds or a `timedelta`) the old id still works, for requests that are on their way.
                They see and write the new session, and their responses do not bring the old id back.

        Raises:
            ResponseStarted: the headers have been sent.
            ImproperlyConfigured: `grace` was given, and the backend cannot keep an old id usable.
        """
        await self.load()
        state = self.__starsessions__
        state.check_sendable()
        if grace is not None and not state.config.backend.has_grace:
            raise ImproperlyConfigured("This backend cannot keep an old id usable: remove grace=…, or use a store.")
        return await signing_in.regenerate_id(self, 0 if grace is None else seconds("grace", grace))

    @property
    def session_id(self) -> str | None:
        """The id, once it is known to be valid; None without one. It is a secret: do not show or log it."""
        return self.__starsessions__.session_id

    @property
    def is_loaded(self) -> bool:
        """Whether the data has been loaded."""
        return self.__starsessions__.is_loaded

    @is_loaded.setter
    def is_loaded(self, value: bool) -> None:
        state = self.__starsessions__
        state.is_loaded = value
        if not value:  # the next load() starts afresh
            dict.clear(self)
            state.ready = False
            state.found = None
            state.models = ()

    @property
    def is_modified(self) -> bool:
        """The same as `modified`."""
        return self.__starsessions__.modified

    @property
    def is_empty(self) -> bool:
        """Whether the session holds no data."""
        return len(self) == 0

    @property
    def data(self) -> dict[str, Any]:
        """The data: the session itself."""
        self._before_read()
        return self

    @data.setter
    def data(self, value: Mapping[str, Any]) -> None:
        self._before_change()
        self.__starsessions__.exposed = True
        dict.clear(self)
        dict.update(self, value)

    def __repr__(self) -> str:
        state = self.__starsessions__
        if not state.is_loaded:
            return "<Session: not loaded>"
        return f"<Session: {dict.__len__(self)} keys{', modified' if state.modified else ''}>"


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
starsessions.SessionMiddleware to the application, in place of Starlette's own, and outside of other middleware that \
reads the session.
    """
    session = source.scope.get(scope_key) if isinstance(source, HTTPConnection) else source
    if not isinstance(session, Session):
        raise ImproperlyConfigured(
            "This request has no session of this package: add starsessions.SessionMiddleware to the application, "
            "in place of Starlette's own, and outside of other middleware that reads the session."
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
    session = get_session(source)
    state = session.__starsessions__
    wanted = expiry(value, int(state.config.clock()))
    bool(session)  # loads it, or says that it is not loaded
    state.check_change()
    state.expire(wanted)


async def update_atomically(source: SessionSource, change: Callable[[dict[str, Any]], T]) -> T:
    """Read, change and write as one step, also against other requests. Return what `change` returns.

    `change` gets the data as a plain dict and changes it in place. It runs on what is stored now, and runs again if
    another request wrote first, so it must have no side effects. The result is saved immediately, together with what
    this request has changed before.

    Raises:
        SessionGone: the session was ended since it was loaded.
        ResponseStarted: a cookie would be needed that can no longer be sent.
    """
    session = await load_session(source)
    return await saving.update_atomically(session, change)


def get_miss_reason(source: SessionSource) -> MissReason | None:
    """Return why the request has no live session; None if it has one, or if nothing has been loaded yet.

    It is for logs and tests. Do not show it to the user.
    """
    return get_session(source).__starsessions__.miss_reason
