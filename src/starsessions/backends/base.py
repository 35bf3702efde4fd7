"""The two contracts of a backend: the historical one, which users write, and the one that the session works with.

`SessionBackend` is four calls that know ids and dicts. `Backend` is what our own backends are, and what a user's
`SessionBackend` is adapted to (`adapter.py`): it knows records, deadlines and versions, and none of its own verbs
overwrites. (`write` by hand does: its caller decides what is stored.)
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from copy import copy
from os import urandom
from typing import Any, ClassVar, Self, TypeVar

from msgspec.structs import replace

from starsessions.backends.user_index import PENDING, Index, IndexedSession, UserIndex
from starsessions.core.binding import DEFAULT_BINDING, Binding, binding_for
from starsessions.core.durations import Clock
from starsessions.core.encoding import ID_BYTES, is_valid_id, to_base64url
from starsessions.core.record import Found, MissReason, Policy, Record, deadline, why_expired
from starsessions.core.serializer import Serializer
from starsessions.exceptions import ImproperlyConfigured, SessionError

T = TypeVar("T")


def wall_clock() -> float:
    """Seconds since 1970. Looked up at each call, so that tools which patch `time.time` are obeyed."""
    return time.time()


class SessionBackend(ABC):
    """What to write for a database of your own: four calls, in ids and dicts.

    An id that reaches these calls is one that the application gave, or one that a browser sent and that
    `is_well_formed` let through. `data` is yours to keep: there is no other reference to it. Under the middleware the
    dict carries one key more, `"__starsessions__"`, with the session's times and the cookie that it belongs to (plain
    JSON): keep it, or the middleware cannot keep its deadlines, nor keep two cookies apart.

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
    """Seconds since 1970, by which the middleware judges deadlines. Tests set another one."""

    @abstractmethod
    async def read(self, session_id: str) -> dict[str, Any]:
        """The data stored under an id; an empty dict if there is none."""

    @abstractmethod
    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        """Store the data and return the id that the browser shall hold: the given one, or a new one without one."""

    @abstractmethod
    async def remove(self, session_id: str) -> None:
        """Forget the data stored under an id."""

    @abstractmethod
    async def exists(self, session_id: str) -> bool:
        """Whether data is stored under an id."""

    async def generate_id(self) -> str:
        """A new id: 256 random bits, 43 characters. Every new id comes from here; override it to have others.

        >>> import asyncio
        >>> from starsessions import InMemoryBackend
        >>> len(asyncio.run(InMemoryBackend().generate_id()))
        43
        """
        return to_base64url(urandom(ID_BYTES))

    def is_well_formed(self, session_id: str) -> bool:
        """Whether a string that a browser sent may be looked up at all.

        By default 1 to 128 of the characters A-Z a-z 0-9 - _, so that there is nothing to escape. Override it if your
        ids look different.

        >>> from starsessions import InMemoryBackend
        >>> InMemoryBackend().is_well_formed("../../etc/passwd")
        False
        """
        return is_valid_id(session_id)


class Conflict(Exception):
    """What was to be changed is no longer as it was read. `current` is what there is now; None: the session ended."""

    def __init__(self, current: Found | None) -> None:
        super().__init__("changed meanwhile" if current else "ended")
        self.current = current


class Backend(SessionBackend):
    """What the session works with. There is no unconditional write: that is what makes a logout final.

    `now` is an instant, in seconds; `ends_at` the one at which the record expires, for stores that remove expired
    entries by themselves.
    """

    serializer: Serializer
    """What makes `Record.payload` out of the data."""

    max_age: int | None = None
    """Seconds, if the backend was given a `max_age` of its own; the shorter one of it and the middleware's holds."""

    policy: Policy = Policy()
    """For how long sessions live that are used by hand, without a middleware that says so."""

    is_client_side: ClassVar[bool] = False
    """True: the token *is* the session (a sealed cookie), so that every change needs a new cookie."""

    has_grace: ClassVar[bool] = False
    """Whether an id that was rotated away can stay usable for a while."""

    never_waits: bool = False
    """Whether `peek` can be used in place of `fetch`, and `replace` waits for nothing: then the session is loaded at
    its first access, and saved without a coroutine of its own."""

    user_index: UserIndex | None = None
    """The lists of users' sessions; None: sessions cannot be listed here, or ended from elsewhere."""

    max_cookies: int = 1
    """Over how many cookies a token may be split."""

    binding: Binding = DEFAULT_BINDING
    """The application and the cookie whose sessions it keeps."""

    original: Self | None = None
    """What a copy was made from: the object that the application holds."""

    starlette_keys: Collection[bytes] = ()
    """Digests of the keys whose cookies in Starlette's format it reads: these are bound to nothing but the key."""

    # For whom it works

    def bind(self, binding: Binding, policy: Policy) -> Self:
        """Return a copy that works for one cookie of one application, by this policy. It changes nothing for others.

        The middleware calls it once, when the application is built.

        Raises:
            ImproperlyConfigured: this is such a copy, for another cookie or application.
        """
        original = self if self.original is None else self.original
        if original is not self and binding != self.binding:
            raise ImproperlyConfigured(
                f"This backend works for the cookie {self.binding.cookie_name!r} of {self.binding.app_name!r}: give "
                "SessionMiddleware the same session_cookie and app_name, or the backend that bound_for() was called on."
            )
        bound = copy(self)
        bound.original = original
        bound.prepare(binding, policy)
        self._copies()[binding] = bound
        return bound

    def prepare(self, binding: Binding, policy: Policy) -> None:
        """Derive keys, and whatever else depends on the binding. `bind` calls it, on the copy."""
        self.binding = binding
        self.policy = policy

    def bound_for(self, session_cookie: str = "session", app_name: str | None = None) -> Self:
        """Return the copy that works for the middleware with this `session_cookie` and `app_name`.

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
        """Return the only copy that was bound, or this object if it is one; None if there is none.

        Raises:
            ImproperlyConfigured: there are several, so that one of them has to be named.
        """
        if self.original is not None:
            return self
        copies = list(self._copies().values())
        if len(copies) > 1:
            names = ", ".join(repr(one.binding.cookie_name) for one in copies)
            raise ImproperlyConfigured(
                f"This backend works for several cookies or applications ({names}): say which one with "
                "backend.bound_for(session_cookie, app_name), or give each SessionMiddleware a backend of its own."
            )
        return copies[0] if copies else None

    def bound_or_default(self) -> Self:
        """Return the only copy that was bound; if there is none yet, one for the default cookie.

        Raises:
            ImproperlyConfigured: several were bound.
        """
        bound = self.bound_once()
        return self.bound_for() if bound is None else bound

    def by_hand(self) -> Self:
        """Return the copy whose sessions `read`, `write`, `remove` and `exists` are about."""
        return self.bound_or_default()

    def _copies(self) -> dict[Binding, Self]:
        """The latest copy for each binding. Those copies know it, too."""
        copies: dict[Binding, Self] = self.__dict__.setdefault("_bound_copies", {})
        return copies

    @abstractmethod
    async def fetch(self, token: str, now: int) -> Found | MissReason:
        """What the token stands for. Never raises for what a stranger can send; raises for a failing system."""

    def peek(self, token: str, now: int) -> Found | MissReason:
        """Return what `fetch` returns, at once. For backends that never wait."""
        raise NotImplementedError

    def seal(self, record: Record) -> str:
        """Return the token for a record. For backends on the client's side: their writes do nothing else."""
        raise NotImplementedError

    @abstractmethod
    async def create(self, record: Record, session_id: str | None, ends_at: int, now: int) -> Found:
        """Keep a new session, under this id (given by the application) or a new one.

        Raises `Conflict` if the id is in use; an adapted backend of the user's own does not look.
        """

    @abstractmethod
    async def replace(self, found: Found, record: Record, ends_at: int, now: int) -> Found:
        """Put `record` in the place of what was found; atomic. Raises `Conflict` if that has changed or ended."""

    @abstractmethod
    async def rotate(
        self, found: Found, record: Record, session_id: str, ends_at: int, now: int, usable_until: int = 0
    ) -> Found:
        """Keep `record` under a new id and end the old one. Raises `Conflict` like `replace`, and then did nothing.

        `usable_until`: the instant until which the old id stands for the new session (`has_grace` only); 0: not at all.
        """

    @abstractmethod
    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        """End the session for good. Ending it twice is no error.

        With `if_unchanged`, raises `Conflict` like `replace`, and then did nothing.
        """

    # Whose sessions there are: what a backend with a `user_index` can do.

    def key_of(self, session_id: str) -> str:
        """Where the session with this id stands, as its user's list has it."""
        return ""

    async def look_up(self, listed: IndexedSession, now: int) -> Found | None:
        """The session that is listed, wherever it has been rotated to; None if it has ended, or cannot be looked up."""
        return None

    async def dead_handles(self, index: Index, now: int) -> frozenset[str]:
        """The handles of those that are listed and live no more. Who was listed a moment ago may not be stored yet."""
        return frozenset(
            [
                one.handle
                for one in index
                if now >= one.until or (now >= one.listed_at + PENDING and await self.look_up(one, now) is None)
            ]
        )

    async def revoke(self, listed: IndexedSession, now: int) -> None:
        """End what is listed. (Where the list decides who lives, to be taken from it is the end.)"""

    async def refetch(self, found: Found, now: int) -> Found | MissReason:
        """What has become of a session that was found earlier, wherever it has been rotated to."""
        return await self.fetch(found.token, now)

    async def discard(self, token: str, now: int) -> None:
        """Remove what stands under an id and is no session: garbage, or what is left of one that was rotated."""

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        """What the backend needs around the life of the application: entered at its start, left at its shutdown."""
        return nullcontext()

    async def new_id(self) -> str:
        """An id from `generate_id()` that will be accepted when it comes back."""
        # The application may have replaced it on its object, or count there.
        new_id = await (self if self.original is None else self.original).generate_id()
        if not self.is_well_formed(new_id):
            raise ImproperlyConfigured(
                "generate_id() gave an id that is_well_formed() would refuse when it comes back "
                "(by default it wants 1 to 128 of A-Z a-z 0-9 - _): override is_well_formed(), too."
            )
        return new_id

    # The historical calls, for applications that use a backend by hand: any string is an id here.

    async def read(self, session_id: str) -> dict[str, Any]:
        backend = self.by_hand()
        found = await _live(backend, session_id)
        return backend.serializer.loads(found.record.payload) if found else {}

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
                record = replace(found.record, payload=payload, renewed_at=now)
                return (await backend.replace(found, record, deadline(record, backend.policy), now)).token
            except Conflict as conflict:
                if found is None and conflict.current is None:
                    raise SessionError("What is stored under this id is no session: remove it by hand.") from None
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
    """What the id opens. A store has looked at the deadline that it was given; a signed or encrypted token has none."""
    now = int(backend.clock())
    found = await backend.fetch(session_id, now)
    if not isinstance(found, Found) or (backend.is_client_side and why_expired(found.record, backend.policy, now)):
        return None
    return found


def in_one_step(work: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns that waits for nothing."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise RuntimeError("it waits for something")
