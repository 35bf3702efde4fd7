"""The two interfaces of a backend: `SessionBackend` for applications, and `Backend`, which the session works with.

`SessionBackend` has four methods, which work with ids and dicts. `Backend` works with records, expiries and versions,
and none of its methods overwrites unconditionally. The built-in backends implement it, and `adapter.py` wraps the
application's own `SessionBackend` in it. (`write`, for use by hand, does overwrite: its caller decides what is stored.)
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from copy import copy
from os import urandom
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from msgspec.structs import replace

from starsessions.backends.announcements import Announcements
from starsessions.backends.entries import Location
from starsessions.backends.observer import UNOBSERVED, Observer
from starsessions.backends.user_index import PendingSignIn, UserIndex
from starsessions.core.binding import DEFAULT_BINDING, Binding, binding_for
from starsessions.core.durations import Clock
from starsessions.core.encoding import ID_BYTES, is_valid_id, to_base64url
from starsessions.core.record import Found, Identity, MissReason, Policy, Record, deadline, readable, why_expired
from starsessions.core.serializer import Serializer
from starsessions.exceptions import ImproperlyConfigured, SessionError

if TYPE_CHECKING:
    from starsessions.sealing.strength import KeyFact
    from starsessions.stores.base import Store

T = TypeVar("T")


def wall_clock() -> float:
    """Return the seconds since 1970. `time.time` is looked up at each call, so that tools can patch it."""
    return time.time()


class SessionBackend(ABC):
    """Base class for a backend of your own: four methods that work with ids and dicts.

    The ids passed to these methods come from the application, or from a browser; then `is_well_formed` has accepted
    them. You may keep `data` without copying it: nothing else refers to it. Under the middleware, the dict has an
    additional key, `"__starsessions__"`, with the session's times and the cookie that it belongs to (plain JSON). Store
    it: without it sessions would not expire on time, and one cookie's session would be valid in another cookie.

    Four methods without versions leave a race window, in which an update can be lost or a sign-out undone. A
    `starsessions.stores.Store` has none.

    >>> class DictBackend(SessionBackend):
    ...     def __init__(self):
    ...         self._storage = {}
    ...
    ...     async def read(self, session_id):
    ...         return self._storage.get(session_id, {})
    ...
    ...     async def write(self, data, session_id=None):
    ...         session_id = session_id or await self.generate_id()
    ...         self._storage[session_id] = data
    ...         return session_id
    ...
    ...     async def remove(self, session_id):
    ...         del self._storage[session_id]
    ...
    ...     async def exists(self, session_id):
    ...         return session_id in self._storage
    """

    clock: Clock = staticmethod(wall_clock)
    """Returns the seconds since 1970. The middleware decides by it whether a session has expired; tests replace it."""

    @abstractmethod
    async def read(self, session_id: str) -> dict[str, Any]:
        """Return the data stored under an id; an empty dict if there is none."""

    @abstractmethod
    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        """Store the data, and return the id that the browser gets.

        Args:
            data: the data to store, replacing what is stored under this id.
            session_id: the id to store it under. None: a new one, from `generate_id()`.
        """

    @abstractmethod
    async def remove(self, session_id: str) -> None:
        """Delete the data stored under an id."""

    @abstractmethod
    async def exists(self, session_id: str) -> bool:
        """Return whether data is stored under an id."""

    async def generate_id(self) -> str:
        """Return a new id: 256 random bits from the operating system, as 43 characters (ASVS 7.2.3).

        Every new id comes from this method. Override it to use ids of another form.

        >>> import asyncio
        >>> from starsessions import InMemoryBackend
        >>> len(asyncio.run(InMemoryBackend().generate_id()))
        43
        """
        return to_base64url(urandom(ID_BYTES))

    def is_well_formed(self, session_id: str) -> bool:
        """Return whether a string that a browser sent may be looked up as an id.

        By default, it must consist of 1 to 128 of the characters A-Z a-z 0-9 - _, so that there is nothing to escape.
        Override it if your ids look different.

        >>> from starsessions import InMemoryBackend
        >>> InMemoryBackend().is_well_formed("../../etc/passwd")
        False
        """
        return is_valid_id(session_id)


class Conflict(Exception):
    """The session has changed since it was read. `current` is what is stored now; None: the session has ended."""

    def __init__(self, current: Found | None) -> None:
        super().__init__("changed meanwhile" if current else "ended")
        self.current = current


class IdInUse(SessionError):
    """A new session was to be stored under an id that is taken."""

    def __init__(self) -> None:
        super().__init__("generate_id() returned an id that is in use: let it return a new random id at each call.")


class Backend(SessionBackend):
    """The interface that the session works with. No method writes unconditionally, which makes a sign-out final.

    In all methods, `now` is the current time, and `ends_at` is when the record expires, for stores that remove expired
    entries themselves. Both are in seconds since 1970.
    """

    serializer: Serializer
    """Converts the data to `Record.payload` and back."""

    max_age: int | None = None
    """The backend's own `max_age` in seconds; None: it has none. The shorter of this and the middleware's applies."""

    policy: Policy = Policy()
    """How long sessions last. Without a middleware, when they are used by hand, this default applies."""

    is_client_side: ClassVar[bool] = False
    """Whether the token contains the session, signed or encrypted, so that every change needs a new cookie."""

    has_grace: ClassVar[bool] = False
    """Whether a replaced id can keep working for a grace period."""

    never_waits: bool = False
    """Whether the backend does no I/O: `peek` works in place of `fetch`, and `replace` never suspends. Then the session
    is loaded on first access, and saved without a coroutine of its own."""

    user_index: UserIndex | None = None
    """The entries of users; None: this backend cannot list or revoke sessions."""

    allow_unrevocable: bool = False
    """Whether users may sign in although the token cannot be revoked, because the browser holds the session."""

    max_cookies: int = 1
    """The number of cookies that a token may be split over."""

    binding: Binding = DEFAULT_BINDING
    """The application and the cookie whose sessions this backend keeps."""

    original: Self | None = None
    """The backend that this one was copied from, which the application holds; None: this is no copy."""

    observer: Observer = UNOBSERVED
    """Measures the sessions of the middleware that this copy was bound for."""

    starlette_keys: Collection[bytes] = ()
    """Digests of the keys for which it reads cookies in Starlette's format, which are bound to nothing but the key."""

    @property
    def stores(self) -> "Sequence[Store]":
        """The stores that it reads and writes. A `SessionBackend` of the application does not say."""
        return ()

    @property
    def key_facts(self) -> "Sequence[KeyFact]":
        """What can be said about its keys without showing them."""
        return ()

    # Binding

    def bind(self, binding: Binding, policy: Policy) -> Self:
        """Return a copy that is bound to one cookie of one application. This object and other copies do not change.

        The middleware calls it once, when the application is built.

        Args:
            binding: the application and its cookie.
            policy: how long sessions last.

        Raises:
            ImproperlyConfigured: this backend is itself a copy for another cookie or application.
        """
        original = self if self.original is None else self.original
        if original is not self and binding != self.binding:
            raise ImproperlyConfigured(
                f"This backend is bound to the cookie {self.binding.cookie_name!r} of {self.binding.app_name!r}: pass "
                "SessionMiddleware the same session_cookie and app_name, or the backend that bound_for() was called on."
            )
        bound = copy(self)
        bound.original = original
        bound.prepare(binding, policy)
        self._copies()[binding] = bound
        return bound

    def prepare(self, binding: Binding, policy: Policy) -> None:
        """Derive keys, and everything else that depends on the binding. `bind` calls it on the copy."""
        self.binding = binding
        self.policy = policy

    def bound_for(self, session_cookie: str = "session", app_name: str | None = None) -> Self:
        """Return the copy for the sessions of the middleware with this `session_cookie` and `app_name`.

        Args:
            session_cookie: the name of the middleware's cookie.
            app_name: the middleware's `app_name`. None: the name of the cookie.

        >>> import asyncio
        >>> from starsessions import InMemoryBackend
        >>> backend = InMemoryBackend()
        >>> asyncio.run(backend.bound_for("admin").write({"user": "ann"}, "some-id"))
        'some-id'
        >>> asyncio.run(backend.bound_for("shop").read("some-id"))
        {}
        """
        binding = binding_for(session_cookie, app_name)
        bound = self._copies().get(binding)
        return self.bind(binding, self.policy) if bound is None else bound

    def bound_once(self) -> Self | None:
        """Return the only bound copy, or this object if it is one; None if there is none.

        Raises:
            ImproperlyConfigured: there are several copies, and the right one is unknown.
        """
        if self.original is not None:
            return self
        copies = list(self._copies().values())
        if len(copies) > 1:
            names = ", ".join(repr(one.binding.cookie_name) for one in copies)
            raise ImproperlyConfigured(
                f"This backend is used for several cookies or applications ({names}): choose one with "
                "backend.bound_for(session_cookie, app_name), or give each SessionMiddleware its own backend."
            )
        return copies[0] if copies else None

    def bound_or_default(self) -> Self:
        """Return the only bound copy; if there is none yet, one for the default cookie.

        Raises:
            ImproperlyConfigured: there are several copies, and the right one is unknown.
        """
        bound = self.bound_once()
        return self.bound_for() if bound is None else bound

    @property
    @abstractmethod
    def place(self) -> object:
        """Where the sessions are: equal for two backends that find the same sessions by the same cookie."""

    def by_hand(self) -> Self:
        """Return the copy that `read`, `write`, `remove` and `exists` work on."""
        return self.bound_or_default()

    def _copies(self) -> dict[Binding, Self]:
        """Return the latest copy for each binding. All copies share this dict."""
        copies: dict[Binding, Self] = self.__dict__.setdefault("_bound_copies", {})
        return copies

    @abstractmethod
    async def fetch(self, token: str, now: int) -> Found | MissReason:
        """Return the session that the token names, or the reason why there is none.

        It raises for no token, since an attacker can send any.

        Raises:
            BackendUnavailable: the store failed or did not answer in time.
        """

    def peek(self, token: str, now: int) -> Found | MissReason:
        """Do the same as `fetch`, without a coroutine. Only for backends that do no I/O."""
        raise NotImplementedError

    def seal(self, record: Record) -> str:
        """Return the token for a record. For backends on the client's side: their writes do nothing else."""
        raise NotImplementedError

    @abstractmethod
    async def create(
        self, record: Record, session_id: str | None, ends_at: int, now: int, pending: PendingSignIn | None = None
    ) -> Found:
        """Store a new session.

        Args:
            record: the record to store.
            session_id: the id that the application has chosen. None: a new one.
            ends_at: when the record expires.
            now: the current time.
            pending: the entry of the sign-in that begins the session, for backends with a `user_index`.

        Raises:
            Conflict: the id is in use. (An adapted `SessionBackend` does not check.)
            Overtaken: the sign-in was ended meanwhile.
        """

    @abstractmethod
    async def replace(self, found: Found, record: Record, ends_at: int, now: int) -> Found:
        """Replace the session `found` with `record`, atomically.

        Raises:
            Conflict: the session has changed or ended since it was found.
        """

    @abstractmethod
    async def rotate(
        self,
        found: Found,
        record: Record,
        session_id: str,
        ends_at: int,
        now: int,
        usable_until: int = 0,
        pending: PendingSignIn | None = None,
    ) -> Found:
        """Store `record` under a new id, and end the old id.

        Args:
            found: the session to move.
            record: the record to store.
            session_id: the new id.
            ends_at: when the record expires.
            now: the current time.
            usable_until: the time until which the old id still finds the new session, if the backend `has_grace`; 0:
                the old id stops working at once.
            pending: the entry of a sign-in that moves the session, for backends with a `user_index`.

        Raises:
            Conflict: the session has changed or ended since it was found; nothing was done.
            Overtaken: the sign-in was ended meanwhile; nothing was done.
        """

    @abstractmethod
    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        """End the session. Ending it twice is not an error.

        Args:
            found: the session to end.
            now: the current time.
            if_unchanged: end it only if it has not changed since it was found.

        Raises:
            Conflict: `if_unchanged` is true, and the session has changed or ended; nothing was done.
        """

    def sign_in_key(self, identity: Identity, session_id: str) -> str:
        """Return the key of a sign-in's entry, for backends with a `user_index`."""
        raise NotImplementedError

    def sign_in_end(self, ends_at: int, now: int) -> int:
        """Return when a sign-in's entry expires that is written now for a session until `ends_at`."""
        return ends_at

    async def fetch_to_end(self, token: str, now: int) -> Found | MissReason:
        """Do the same as `fetch`, to end what is found: also if the store calls it expired by this server's clock."""
        return await self.fetch(token, now)

    @property
    def announcements(self) -> Announcements | None:
        """How to tell all who watch a session that it has ended; None: this backend cannot tell them."""
        return None if self.user_index is None else self.user_index.announcements

    def topics_of(self, found: Found) -> Sequence[str]:
        """Return what those who watch this session listen to: its own topic first, that of its user, and of all."""
        location, identity, index = found.version, found.record.identity, self.user_index
        if index is None or not isinstance(location, Location):
            return ()
        key = location.key
        return (key,) if identity is None else (key, index.owner_name(identity.user_id), index.everyone)

    async def refetch(self, found: Found, now: int) -> Found | MissReason:
        """Read a session again that was found earlier, following rotations."""
        return await self.fetch(found.token, now)

    async def data_before_sign_in(self, token: str, user_id: str | None, now: int) -> Any | None:
        """Return the payload of the session that a sign-in has replaced a moment ago; None: there is none.

        It is what the holder of the old id could read anyway, and nothing that was added since.

        Args:
            token: the old id.
            user_id: the user who must be signed in in the new session. None: any.
            now: the current time.
        """
        return None

    async def discard(self, token: str, now: int) -> None:
        """Delete an entry that holds no session: garbage, or the pointer that a rotation has left."""

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        """Return a context manager that is entered at the application's startup and exited at its shutdown."""
        return nullcontext()

    async def new_id(self) -> str:
        """Return an id from `generate_id()`, after checking that it will be accepted when the browser sends it."""
        # The application may have overridden it on its own object, or count its calls there.
        new_id = await (self if self.original is None else self.original).generate_id()
        if not self.is_well_formed(new_id):
            raise ImproperlyConfigured(
                "generate_id() returned an id that is_well_formed() would reject when the browser sends it "
                "(by default it accepts 1 to 128 of A-Z a-z 0-9 - _): override is_well_formed() as well."
            )
        return new_id

    # The methods of `SessionBackend`, for applications that use a backend by hand: any string can be an id here.

    async def read(self, session_id: str) -> dict[str, Any]:
        backend = self.by_hand()
        found = await _live(backend, session_id)
        return (found and readable(found.record.payload, backend.serializer.loads)) or {}

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        backend = self.by_hand()
        payload = backend.serializer.dumps(data)
        found = await _live(backend, session_id) if session_id else None
        while True:
            now = int(backend.clock())
            try:
                if found is None:
                    record = Record(payload, now, now)
                    return (await backend.create(record, session_id, deadline(record, backend.policy), now)).token
                record = replace(found.record, payload=payload, renewed_at=now, is_bare=False)
                return (await backend.replace(found, record, deadline(record, backend.policy), now)).token
            except Conflict as conflict:
                if found is None and conflict.current is None:
                    raise SessionError(
                        "The entry stored under this id is not a session: delete it with `await backend.remove(id)`."
                    ) from None
                found = conflict.current

    async def remove(self, session_id: str) -> None:
        backend = self.by_hand()
        now = int(backend.clock())
        found = await backend.fetch(session_id, now)
        if isinstance(found, Found):
            await backend.delete(found, now)
        else:
            await backend.discard(session_id, now)

    async def exists(self, session_id: str) -> bool:
        return await _live(self.by_hand(), session_id) is not None


async def _live(backend: Backend, session_id: str) -> Found | None:
    """Return the session with this id. Stores check its expiry; that of a signed or encrypted token is checked here."""
    now = int(backend.clock())
    found = await backend.fetch(session_id, now)
    if not isinstance(found, Found) or (backend.is_client_side and why_expired(found.record, backend.policy, now)):
        return None
    return found


def in_one_step(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, and return its result."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("The coroutine suspended: await it instead.")
