"""Typed sessions: a session as a model with typed attributes, validated when read and saved with the session.

Each field of the model is a key of the session, so concurrent requests are merged field by field. A field is stored
when it is changed; until then the model's default applies, and a visitor who changes nothing gets no session.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from starsessions.core.merge import same
from starsessions.core.models import ModelAdapter, adapter_for, copy_of, field_of
from starsessions.events import SchemaMismatch
from starsessions.exceptions import ImproperlyConfigured, UnsupportedValue
from starsessions.reporting import handle_of
from starsessions.session import Session, SessionSource, get_session, load_session

__all__ = ["TypedSession"]

_log = logging.getLogger("starsessions")

M = TypeVar("M")

_Migrate = Callable[[int, dict[str, Any]], dict[str, Any]]
"""Converts data of an older version: takes the version it was stored with and the data, returns the data as it is now.
"""

_VERSION = "__version__"
_NOTHING = object()


class TypedSession(Generic[M]):
    """Reads and writes sessions as a model: a pydantic model, a dataclass, a msgspec struct or a TypedDict.

    Data that does not fit (no migration, one that fails, data that does not validate) is never an error: the model is a
    fresh one, the log and `on_event` report it, and the stored data is replaced when the model is changed.

    Args:
        model: the class.
        prefix: precedes the names of the fields in the session, so that two models, or a model and other code, do not
            share a key.
        version: raise it when stored data must be converted to fit. Data without a version has version 1.
        migrate: called with the version of older data and the data; returns the converted data. A key that it pops from
            the dict it is given is removed from the session. Fields that were never changed are missing.
        new: makes a fresh model, if some fields have no default.

    Raises:
        ImproperlyConfigured: `model` is not the class of a model, or a fresh model cannot be made.

    >>> import asyncio
    >>> from dataclasses import dataclass, field
    >>> from starsessions import InMemoryBackend, Session
    >>> @dataclass
    ... class Shop:
    ...     cart: list[str] = field(default_factory=list)
    >>> typed = TypedSession(Shop)
    >>> async def visit(backend, session_id=None):
    ...     session = Session(backend, session_id)
    ...     shop = await typed.load(session)
    ...     shop.cart.append("tea")
    ...     return await session.persist(), shop
    >>> backend = InMemoryBackend()
    >>> session_id, _ = asyncio.run(visit(backend))
    >>> asyncio.run(visit(backend, session_id))[1]
    Shop(cart=['tea', 'tea'])
    """

    def __init__(
        self,
        model: type[M],
        *,
        prefix: str = "",
        version: int = 1,
        migrate: Callable[[int, dict[str, Any]], dict[str, Any]] | None = None,
        new: Callable[[], M] | None = None,
    ) -> None:
        self._schema: _Schema[M] = _Schema(model, prefix, version, migrate, new)

    async def load(self, source: SessionSource) -> M:
        """Load the session and return its model: the same object on each call, with the session's latest changes.

        The model is saved with the session: when the response starts, by `persist()`, or at the end of a WebSocket.
        After `clear()`, `delete()` or `flush()` it no longer belongs to a session: load it again.

        Args:
            source: a request, a WebSocket, or a session.
        """
        return self.of(await load_session(source))

    def of(self, source: SessionSource) -> M:
        """Return the model of a session that is loaded, or that loads itself (`autoload`): for `def` endpoints."""
        session = get_session(source)
        bool(session)  # loads it, or raises SessionNotLoaded
        state = session.__starsessions__
        for view in state.models:
            if isinstance(view, _View) and view.schema is self._schema:
                view.refresh()
                return cast(M, view.model)
        made = _View(self._schema, session, self._schema.read(session))
        state.attach(made)
        return made.model


class _Schema(Generic[M]):
    """What a session has to look like for a model, and how one is made of the other."""

    def __init__(
        self, model: type[M], prefix: str, version: int, migrate: _Migrate | None, new: Callable[[], M] | None
    ) -> None:
        if type(version) is not int or version < 1:
            raise ImproperlyConfigured("version must be an int of at least 1.")
        if migrate is not None and version == 1:
            raise ImproperlyConfigured("migrate is never called at version=1, the oldest version: raise version.")
        self.name: str = model.__name__
        self.adapter: ModelAdapter[M] = adapter_for(model)
        self.prefix = prefix
        self.version = version
        self.migrate = migrate
        self.new = new
        try:
            self.read_fields({})
        except Exception as error:
            raise ImproperlyConfigured(
                f"Cannot make a fresh {self.name}: give each field a default, or pass new=…. ({error})"
            ) from error

    def read(self, session: Session) -> "_Read[M]":
        held = self.held(session)
        stored = held.pop(_VERSION, 1)
        version = stored if type(stored) is int else 1
        try:
            return self.read_version(version, held)
        except Exception as error:  # anything: the data may come from an older release, and migrate is user code
            why = field_of(error) or type(error).__name__
        _log.warning("The data of a session does not fit %s (%s), so a fresh one is used.", self.name, why)
        state = session.__starsessions__
        handle = None if state.found is None else handle_of(state.found)
        state.note(SchemaMismatch(handle, self.name, version, why))
        return _Read(self.read_fields({}), frozenset(), self.adapter.fields & held.keys(), is_moved=True)

    def held(self, session: Session) -> dict[str, Any]:
        """Return the session's data under the prefix."""
        skip = len(self.prefix)
        return {
            key[skip:]: value
            for key, value in dict.items(session)
            if isinstance(key, str) and key.startswith(self.prefix)
        }

    def read_version(self, version: int, held: dict[str, Any]) -> "_Read[M]":
        """Read data of any version. A newer one comes from a release that was rolled back, and may fit."""
        if version >= self.version or not held:
            return self.read_data(held)
        if self.migrate is not None:
            given = copy_of(held)
            migrated = self.migrate(version, given)
            return self.read_data(migrated, held.keys() - given.keys(), is_moved=True)
        if self.adapter.fields.isdisjoint(held):
            return self.read_data({})  # only other code has stored data
        raise LookupError("no migrate=… was passed")

    def read_data(
        self, data: dict[str, Any], taken: frozenset[str] | set[str] = frozenset(), is_moved: bool = False
    ) -> "_Read[M]":
        fields = {name: value for name, value in data.items() if name in self.adapter.fields}
        return _Read(self.read_fields(fields), frozenset(fields), frozenset(taken), is_moved)

    def read_fields(self, fields: dict[str, Any]) -> M:
        if self.new is not None:
            fields = self.adapter.plain(self.new()) | fields
        return self.adapter.load(fields)

    def check(self, model: M, plain: dict[str, Any]) -> None:
        """Reject a value that could not be read back: better an error now than a fresh model at the next request."""
        try:
            again = self.read_data(plain).model
        except Exception as error:
            place = field_of(error)
            kind = type(plain[place]).__qualname__ if place in plain else self.name
            hint = f"It does not fit {self.name}, so it could not be read back."
            raise UnsupportedValue(self.path(place), kind, hint) from None  # the original error may reveal a value
        before, after = self.adapter.parts(model), self.adapter.parts(again)
        for name in [*before, *after]:
            if not same(before.get(name, _NOTHING), after.get(name, _NOTHING)):
                kind = type(before.get(name)).__qualname__
                raise UnsupportedValue(self.path(name), kind, f"{self.name} would not read it back unchanged.")

    def path(self, name: str) -> str:
        return f'session["{self.prefix}{name}"]' if name else "session"


@dataclass(frozen=True, slots=True)
class _Read(Generic[M]):
    """The model that was read from a session, and what the session has of it."""

    model: M
    stored: frozenset[str]
    """The stored fields; if `is_moved`, those that are about to be stored."""
    obsolete: frozenset[str]
    """The keys to remove when the model is written."""
    is_moved: bool
    """Whether the stored data has another version, or could not be used."""


class _View(Generic[M]):
    """A model that mirrors a part of a session."""

    def __init__(self, schema: _Schema[M], session: Session, read: _Read[M]) -> None:
        self.schema = schema
        self.model = read.model
        self._session = session
        self._read = read
        self._was = schema.adapter.plain(read.model)

    def __call__(self) -> None:
        """Write to the session what was changed in the model since it was last read or written."""
        now = self.schema.adapter.plain(self.model)
        changed = {name for name in now.keys() | self._was.keys() if _differ(name, now, self._was)}
        if not changed:
            return
        self._session.__starsessions__.check_known()
        self.schema.check(self.model, now)
        self._write(now, changed)
        self._was = self.schema.adapter.plain(self.model)  # a second copy: the session owns the first

    def _write(self, now: dict[str, Any], changed: set[str]) -> None:
        schema, session, read = self.schema, self._session, self._read
        for name in read.obsolete | changed:
            dict.pop(session, schema.prefix + name, None)
        # A default that differs each time (the time, a random number) is stored with the first change.
        defaults = schema.adapter.plain(schema.read_fields({}))
        for name, value in now.items():
            is_due = read.is_moved if name in read.stored else _differ(name, now, defaults)
            if name in changed or is_due:
                dict.__setitem__(session, schema.prefix + name, value)
        version_key = schema.prefix + _VERSION
        if read.is_moved or not dict.__contains__(session, version_key):
            dict.pop(session, version_key, None)
            if schema.version > 1:
                dict.__setitem__(session, version_key, schema.version)
        stored = schema.adapter.fields & schema.held(session).keys()
        self._read = _Read(self.model, stored, frozenset(), is_moved=False)

    def refresh(self) -> None:
        """Update the model with changes of the session from elsewhere: a merge, or code that uses it as a dict."""
        self()
        schema = self.schema
        if self._read.is_moved:
            return  # the stored data is not in use any more
        stored = schema.adapter.fields & schema.held(self._session).keys()
        again = schema.read(self._session)
        fresh = schema.adapter.plain(again.model)
        for name in stored | self._read.stored:
            if _differ(name, fresh, self._was):
                schema.adapter.set(self.model, name, again.model)
        self._read = again
        self._was = schema.adapter.plain(self.model)


def _differ(name: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    return not same(one.get(name, _NOTHING), other.get(name, _NOTHING))
