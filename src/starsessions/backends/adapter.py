"""Adapt the application's `SessionBackend`, which works with ids and dicts, to the `Backend` interface.

Four methods without versions can give some guarantees: sessions expire on time, because their times are stored in the
dict; an unknown id is never adopted; no objects are shared with the application's storage. A late write reads again
before it writes, merges changes by key, and writes nothing if the session was deleted. But there is a race window
between that read and the write, in which another request can still lose an update or undo a sign-out. A `Store` has no
such window (`stores/base.py`).
"""

from contextlib import suppress
from copy import deepcopy
from typing import Any, Self
from weakref import WeakValueDictionary

from msgspec import ValidationError, convert, to_builtins
from msgspec.structs import replace

from starsessions.backends.base import Backend, Conflict, SessionBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import PendingSignIn
from starsessions.core.binding import Binding, Purpose
from starsessions.core.durations import Clock
from starsessions.core.encoding import key_under
from starsessions.core.merge import same, same_items
from starsessions.core.record import Found, MissReason, Policy, Record, expiry_of, why_expired
from starsessions.core.serializer import Serializer
from starsessions.exceptions import ImproperlyConfigured, UnsupportedValue
from starsessions.stores.base import WHAT_A_STORE_IS, Store, is_store

TIMES = "__starsessions__"
"""The reserved key under which an adapted backend's dict carries the session's times.

They are a record in which the data is replaced by a mark: for which cookie of which application the session is, and
empty for any. The mark is also the `version` of what was found.
"""


class _Copy:
    """A private copy of the data, used in place of encoded bytes. Copies never compare equal: compare their `data`."""

    __slots__ = ("data",)

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data


class _Copying:
    """The serializer of an adapted backend. It copies the data: the backend decides which types it can store."""

    def dumps(self, data: dict[str, Any], /) -> _Copy:
        try:
            return _Copy(deepcopy(dict(dict.items(data))))
        except (TypeError, RecursionError) as error:
            raise UnsupportedValue("something in the session", "value that cannot be copied", str(error)) from error

    def loads(self, payload: _Copy, /) -> dict[str, Any]:
        return deepcopy(payload.data)

    def matches(self, payload: _Copy, data: dict[str, Any], /) -> bool:
        return same_items(payload.data, dict(dict.items(data)))


class AdaptedBackend(Backend):
    """The `Backend` that wraps the application's `SessionBackend`."""

    serializer: Serializer = _Copying()

    def __init__(self, inner: SessionBackend) -> None:
        self.inner = inner
        self._mark = ""
        self.clock: Clock = inner.clock

    @property
    def place(self) -> object:
        return self.inner

    def prepare(self, binding: Binding, policy: Policy) -> None:
        # Under a middleware, sessions expire, so their times are stored. A Session used by hand stores only its data.
        super().prepare(binding, policy)
        self._mark = key_under(binding.label(Purpose.CUSTOM_RECORD), "")[:16]

    def bound_or_default(self) -> Self:
        return self  # a session that is used by hand reads and writes the application's own backend

    async def new_id(self) -> str:
        return await self.inner.generate_id()  # the id that write() returns is the one used and checked: see _write

    def is_well_formed(self, session_id: str) -> bool:
        return self.inner.is_well_formed(session_id)

    async def fetch(self, token: str, now: int) -> Found | MissReason:
        data = await self.inner.read(token)
        if not data:
            return MissReason.UNKNOWN
        if not isinstance(data, dict):
            return MissReason.UNDECODABLE
        data = deepcopy(dict(data.items()))
        times = data.pop(TIMES, None)
        if times is None:  # written by hand, or by version 1.x
            return Found(token, Record(_Copy(data), now, now)) if data else MissReason.UNKNOWN
        try:
            kept = convert(times, Record)
        except ValidationError:
            return MissReason.UNDECODABLE
        mark = kept.payload
        if not isinstance(mark, str):
            return MissReason.UNDECODABLE
        if self._mark and mark and mark != self._mark:
            return MissReason.UNKNOWN  # the session of another cookie or application
        return Found(token, replace(kept, payload=_Copy(data)), mark)

    async def create(
        self, record: Record, session_id: str | None, ends_at: int, now: int, pending: PendingSignIn | None = None
    ) -> Found:
        token = session_id or await self.new_id()
        return await self._write(token, record)

    async def replace(self, found: Found, record: Record, ends_at: int, now: int) -> Found:
        await self._look_again(found, now)
        return await self._write(found.token, record, found)

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
        await self._look_again(found, now)
        renewed = await self._write(session_id, record, found)
        await self.delete(found, now)
        return renewed

    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        if if_unchanged:
            await self._look_again(found, now)
        if await self.inner.exists(found.token):
            with suppress(KeyError):  # from `del self.storage[session_id]`, if another request has deleted it first
                await self.inner.remove(found.token)

    async def _look_again(self, found: Found, now: int) -> None:
        current = await self.fetch(found.token, now)
        if not isinstance(current, Found) or why_expired(current.record, self.policy, now):
            raise Conflict(None)
        ours, theirs = found.record, current.record
        if expiry_of(ours) != expiry_of(theirs) or not same(ours.payload.data, theirs.payload.data):
            raise Conflict(current)

    async def _write(self, token: str, record: Record, before: Found | None = None) -> Found:
        data = deepcopy(record.payload.data)
        if TIMES in data:
            raise ImproperlyConfigured(f"The session key {TIMES!r} is reserved: use another key.")
        mark = None if before is None else before.version
        if self._mark or record.identity is not None:
            mark = self._mark or mark or ""
        if mark is not None:
            data[TIMES] = to_builtins(replace(record, payload=mark))
        written = await self.inner.write(data, token)
        if not isinstance(written, str) or not self.inner.is_well_formed(written):
            raise ImproperlyConfigured(
                f"{type(self.inner).__name__}.write() must return an id that its is_well_formed() accepts "
                "(by default 1 to 128 of A-Z a-z 0-9 - _): override is_well_formed() if your ids look different."
            )
        return Found(written, record, mark)


_backends: WeakValueDictionary[int, StoreBackend] = WeakValueDictionary()
"""The backends made from stores, by the id of the store. Every use of a store shares one backend and its bindings."""


def adapt(backend: SessionBackend | Store) -> Backend:
    """Return a `Backend`: the argument if it is one, or a wrapper around a store or the application's own backend.

    Raises:
        ImproperlyConfigured: the argument is neither a backend nor a store.
    """
    if isinstance(backend, SessionBackend):
        kind = type(backend)
        calls = ("read", "write", "remove", "exists")
        if isinstance(backend, Backend) and all(getattr(kind, call) is getattr(Backend, call) for call in calls):
            return backend
        return AdaptedBackend(backend)
    if isinstance(backend, str):
        raise ImproperlyConfigured(
            "backend is a str: pass RedisBackend(url), SQLAlchemyBackend(url) or another backend. (For the name of the "
            "cookie, as the third argument of Starlette's SessionMiddleware, write session_cookie=….)"
        )
    if isinstance(backend, type):
        raise ImproperlyConfigured(f"backend is a class: use an instance, {backend.__name__}(…).")
    if not is_store(backend):
        raise ImproperlyConfigured(
            f"backend must be an instance of a subclass of starsessions.SessionBackend, or a store, not "
            f"{type(backend).__name__}. {WHAT_A_STORE_IS}"
        )
    made = _backends.get(id(backend))
    if made is None:
        made = _backends[id(backend)] = StoreBackend(backend)
    return made


def bound_as(given: Backend, session_cookie: str | None, app_name: str | None) -> Backend:
    """Return a backend as it was bound for the middleware that these names mean.

    Args:
        given: the backend.
        session_cookie: the name of the cookie; None, as `app_name`: that of the only middleware.
        app_name: the name of the application.

    Raises:
        ImproperlyConfigured: no middleware has been built with it yet.
    """
    if session_cookie is None and app_name is None:
        bound = given.bound_once()
    else:
        bound = given.bound_for(session_cookie or "session", app_name)
    if bound is None:
        raise ImproperlyConfigured(
            "No SessionMiddleware has been built with this backend yet, so it is unknown whose sessions are meant: "
            "build the application first, or pass session_cookie=…."
        )
    return bound
