"""`Session`, and the functions that find and use the session of a request."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from inspect import currentframe
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import HTTPConnection

from starsessions.backends.adapter import adapt
from starsessions.backends.base import SessionBackend
from starsessions.core.cookies import CookieSpec
from starsessions.core.durations import Duration, expiry, seconds
from starsessions.core.record import Found, MissReason, deadline
from starsessions.core.state import CLOSED, OPEN
from starsessions.exceptions import ImproperlyConfigured
from starsessions.lifecycle import loading, saving
from starsessions.lifecycle import sign_in as signing_in
from starsessions.lifecycle.at_once import load_now
from starsessions.lifecycle.config import Config
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.tracked_dict import NOT_LOADED, TrackedDict
from starsessions.stores.base import Store

T = TypeVar("T")


class Session(TrackedDict):
    """The session of a request, `request.session`: a dict that saves every change, nested changes included.

    Its attributes are those of version 1.0.2 and of Starlette's own session, and no others, so that
    `request.session.user_id` in a template finds the application's key. Everything else is a function that takes the
    request or the session: `load_session`, `set_expiry`, `users.sign_in`, `flash.add_flash` and so on.

    Args:
        backend: a backend or a store, for a session that is used by hand, without the middleware.
        session_id: the id of an existing session, or the id that a new one gets. It is trusted: never pass an id that
            a browser sent (session fixation). None: a new session with a new id.

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
        """Create a session to use by hand."""
        super().__init__(NOT_LOADED)
        adapted = adapt(backend).bound_or_default()
        config = Config.build(adapted, CookieSpec(), autoload=False, load_now=load_now, sends_cookies=False)
        self.__starsessions__: RequestState = RequestState(config, explicit_id=session_id)

    # The hooks of TrackedDict

    def _before_read(self) -> None:
        state = self.__starsessions__
        if not state.is_loaded:
            state.config.load_now(self)
        if state.phase is CLOSED and not state.accessed:
            state.config.advice.on_late_read()
        state.ready = True

    def _before_change(self) -> None:
        state = self.__starsessions__
        if not state.ready:
            self._before_read()
        if state.miss_reason is not None or state.phase is not OPEN:
            state.check_change()
        state.modified = True

    # Part of Starlette's own session

    @property
    def accessed(self) -> bool:
        """Whether the session was used in this request."""
        state = self.__starsessions__
        return state.ready or state.accessed

    @accessed.setter
    def accessed(self, value: bool) -> None:
        state = self.__starsessions__
        state.accessed, state.ready = value, False

    @property
    def modified(self) -> bool:
        """Whether a method that changes the data was called. Saving compares the data and does not rely on this."""
        return self.__starsessions__.modified

    @modified.setter
    def modified(self, value: bool) -> None:
        state = self.__starsessions__
        state.modified = value or state.has_requests
        if value:
            state.expose()

    def mark_accessed(self) -> None:
        """Record an access. Starlette calls this when a handler reads `request.session`."""
        state = self.__starsessions__
        if state.ready:
            return
        if state.is_loaded or state.config.peek is not None:
            self._before_read()
        else:
            if state.phase is CLOSED and not state.accessed:
                state.config.advice.on_late_read()
            state.accessed = True

    def mark_modified(self) -> None:
        """Record a change, for code written for Starlette. Changes are detected without it."""
        self.mark_accessed()
        state = self.__starsessions__
        state.modified = True
        state.expose()  # C code may have handed out a list

    # Part of version 1.0.2

    async def load(self) -> None:
        """Load the data from the backend, once. Without this or `autoload=True`, access raises `SessionNotLoaded`.

        Raises:
            BackendUnavailable: the store failed or did not answer in time.
        """
        await loading.load(self)
        if not self.__starsessions__.ready:
            self._before_read()

    async def persist(self) -> str:
        """Save the session now, changed or not, and return its id.

        Use this to save after the response has started. After the first call the session can be changed again, and
        each further call saves.

        Raises:
            SessionGone: the session was ended by another request after it was loaded.
            ResponseStarted: saving needs a new cookie, and the headers have been sent.
            BackendUnavailable: the store failed or did not answer in time.
        """
        self._before_read()
        return await saving.persist(self)

    async def delete(self) -> None:
        """End the session now: delete its data and its id, and clear the cookie. Later changes begin a new session.

        The session is ended at once and not with the response, so a sign-out holds even if the response fails.

        Raises:
            BackendUnavailable: the store failed or did not answer in time.
        """
        await self.load()
        await saving.end(self)

    async def flush(self) -> str:
        """End the session as `delete()` does, and return the id of the new session that the next change begins."""
        await self.delete()
        state = self.__starsessions__
        new_id = await state.config.backend.new_id()
        state.rotate(new_id)
        return new_id

    async def regenerate_id(self, grace: Duration | None = None) -> str:
        """Move the data to a new id, and return that id. The old id stops working.

        Call it whenever the user's rights change, to prevent session fixation. (`users.sign_in` does it for you.)

        Args:
            grace: how long the old id keeps working, in seconds or as a `timedelta`, for requests already in flight.
                They read and write the new session, and their responses do not restore the old id. None: not at all.

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
        """The id of a loaded or new session; None if there is none. It is a secret: do not display or log it.

        In a Jinja template, `session.session_id` is the application's key of that name, as with Starlette's session.
        """
        frame = currentframe()
        caller = frame and frame.f_back
        if caller is not None and caller.f_globals.get("__name__", "").startswith("jinja2."):
            raise AttributeError("session_id")  # Jinja looks for the key then
        return self.__starsessions__.session_id

    @property
    def is_loaded(self) -> bool:
        """Whether the data has been loaded."""
        return self.__starsessions__.is_loaded

    @is_loaded.setter
    def is_loaded(self, value: bool) -> None:
        state = self.__starsessions__
        if not value or not state.is_loaded:
            dict.clear(self)
        state.is_loaded = value
        if not value:  # the next load() starts over
            dict.update(self, NOT_LOADED)
            state.ready = False
            state.found = None
            state.signs_out = False
            state.models = ()
            state.expose()  # what the handler holds is not what will be stored

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
        """The session itself, as a dict. Assigning a dict replaces all data."""
        self._before_read()
        return self

    @data.setter
    def data(self, value: Mapping[str, Any]) -> None:
        self._before_change()
        self.__starsessions__.replaced(value)
        dict.clear(self)
        dict.update(self, value)

    def __repr__(self) -> str:
        state = self.__starsessions__
        if not state.is_loaded:
            return "<Session: not loaded>"
        return f"<Session: {dict.__len__(self)} keys{', modified' if state.modified else ''}>"


# Operations on a session that a dict does not have.
#
# They are functions and not methods, because a template looks up attributes before keys: if the session had a method or
# property called `user_id`, `{{ request.session.user_id }}` would no longer show the application's own value.

SessionSource = HTTPConnection | dict[str, Any]
"""A request, a WebSocket, or the session itself (`request.session`)."""


def get_session(source: SessionSource, scope_key: str = "session") -> Session:
    """Return the session of a request or a WebSocket, with its type. This does not load it: see `load_session`.

    Args:
        source: a `Request`, a `WebSocket`, or a session, which is returned unchanged.
        scope_key: the `scope_key` of the middleware, for a second session in one application.

    Raises:
        ImproperlyConfigured: the request has no session of this package.

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
            if scope_key == "session"
            else f"This request has no session of this package under {scope_key=}: pass the scope_key of a "
            "starsessions.SessionMiddleware that is outside of what reads the session."
        )
    return session


async def load_session(source: SessionSource, scope_key: str = "session") -> Session:
    """Load the session of a request or a WebSocket, and return it. Loading it again costs nothing.

    Args:
        source: a `Request`, a `WebSocket`, or a session.
        scope_key: the `scope_key` of the middleware, for a second session in one application.

    Raises:
        ImproperlyConfigured: the request has no session of this package.
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
    """Set how long this session lasts, overriding the middleware's `max_age`.

    `absolute_timeout` still applies.

    Args:
        source: a request, a WebSocket, or a session; it must be loaded.
        value: seconds or a `timedelta`, counted from the last renewal; or a `datetime` (naive: local time), at which
            the session expires. None or 0: until the browser is closed, but no longer than `max_age` on the server.

    Raises:
        TypeError: the value has another type.
        ValueError: the value is negative, too long, or in the past.
        SessionNotLoaded: the session is not loaded.
        ResponseStarted: the headers have been sent, and the change could not be saved.
    """
    session = get_session(source)
    state = session.__starsessions__
    wanted = expiry(value, int(state.config.clock()))
    bool(session)  # loads it, or raises SessionNotLoaded
    state.check_change()
    state.expire(wanted)


async def update_atomically(source: SessionSource, change: Callable[[dict[str, Any]], T]) -> T:
    """Read, change and write the session in one atomic step, even across processes. Return what `change` returns.

    The result is saved immediately, together with the earlier changes of this request.

    Args:
        source: a request, a WebSocket, or a session. It is loaded if necessary.
        change: a plain function that gets the stored data as a dict and changes it in place. It runs again if another
            request writes first, so it must have no side effects.

    Raises:
        SessionGone: the session was ended by another request after it was loaded.
        ResponseStarted: saving needs a new cookie, and the headers have been sent.
        BackendUnavailable: the store failed or did not answer in time.
        TypeError: `change` is a coroutine function.
    """
    session = await load_session(source)
    return await saving.update_atomically(session, change)


def get_created_at(source: SessionSource) -> datetime | None:
    """Return when the session began, or when its user last signed in; None without a session."""
    found = _found(source)
    return None if found is None else datetime.fromtimestamp(found.record.began_at, UTC)


def get_remaining(source: SessionSource) -> float | None:
    """Return in how many seconds the session expires if it is not used again; None without a session.

    It is the session as it is stored: `set_expiry` in this request counts from the next save on.
    """
    found = _found(source)
    if found is None:
        return None
    config = get_session(source).__starsessions__.config
    return max(0.0, deadline(found.record, config.policy) - config.clock())


def _found(source: SessionSource) -> Found | None:
    session = get_session(source)
    bool(session)  # loads it, or raises SessionNotLoaded
    return session.__starsessions__.found


def get_miss_reason(source: SessionSource) -> MissReason | None:
    """Return why the request has no valid session; None if it has one, or if it is not loaded yet.

    Use it in logs and tests. Do not show it to the user: it helps an attacker who is guessing cookies.
    """
    return get_session(source).__starsessions__.miss_reason


if TYPE_CHECKING:
    pass  # with a `__getattr__`, a type checker would accept any name
else:

    def __getattr__(name: str) -> object:
        from starsessions.moved import missing  # nearly no one asks

        raise missing(__name__, name)
