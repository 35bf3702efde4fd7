"""A dict that calls a hook before every read and every change.

It is a real dict, because code written for Starlette checks `isinstance(session, dict)`. Some C code reads a dict
without calling its methods (orjson, msgspec, pydantic), so a session that is not loaded is not empty: see `NOT_LOADED`.
`dict(session)` and `**session` do call them, because `__iter__` is overridden.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, Mapping, ValuesView
from typing import Any, NoReturn, Self

from starsessions.core import merge
from starsessions.core.kinds import SCALARS
from starsessions.exceptions import SessionNotLoaded
from starsessions.lifecycle.request_state import RequestState

_UNCHANGEABLE = SCALARS  # a tuple may hold a list

_MISSING = object()

_ERROR = SessionNotLoaded("Call `await session.load()` first, or pass autoload=True to SessionMiddleware.")
NOT_LOADED: dict[Any, Any] = {"SessionNotLoaded": _ERROR, _ERROR: None}
"""What a session holds until it is loaded. No method shows it, but C code that reads a dict without calling its methods
would take an empty one for an empty session. No encoder knows the value, and no converter a key that is no str.
"""


class TrackedDict(dict[str, Any]):
    """The data of a session, and the state that tracks it.

    The state has a dunder name because a template looks up attributes before keys: any other name could hide a key of
    the application.
    """

    # No `__dict__`: `session.user = …`, where `session["user"] = …` was meant, raises and is not silently lost.
    __slots__ = ("__starsessions__", "__weakref__")

    __starsessions__: RequestState

    def _before_read(self) -> None:
        """Prepare for a read. Called before each read until the state is `ready`."""

    def _before_change(self) -> None:
        """Prepare for a change. Called before each one."""

    def __getitem__(self, key: str, /) -> Any:
        if not self.__starsessions__.ready:
            self._before_read()
        value = dict.__getitem__(self, key)
        if type(value) not in _UNCHANGEABLE:
            self.__starsessions__.hand_out(key, self)
        return value

    def __contains__(self, key: object, /) -> bool:
        if not self.__starsessions__.ready:
            self._before_read()
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        if not self.__starsessions__.ready:
            self._before_read()
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[str]:
        if not self.__starsessions__.ready:
            self._before_read()
        return dict.__reversed__(self)

    def __len__(self) -> int:
        if not self.__starsessions__.ready:
            self._before_read()
        return dict.__len__(self)

    def __eq__(self, other: object, /) -> bool:
        if not self.__starsessions__.ready:
            self._before_read()
        return dict.__eq__(self, other)

    def __ne__(self, other: object, /) -> bool:
        return not self == other

    __hash__ = None  # like every dict

    def get(self, key: str, default: Any = None) -> Any:
        if not self.__starsessions__.ready:
            self._before_read()
        value = dict.get(self, key, default)
        if type(value) not in _UNCHANGEABLE:
            self.__starsessions__.hand_out(key, self)
        return value

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        if not self.__starsessions__.ready:
            self._before_read()
        return dict.keys(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        if not self.__starsessions__.ready:
            self._before_read()
        self._touch_containers()
        return dict.values(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        if not self.__starsessions__.ready:
            self._before_read()
        self._touch_containers()
        return dict.items(self)

    def _touch_containers(self) -> None:
        if not _UNCHANGEABLE.issuperset(map(type, dict.values(self))):
            for key, value in dict.items(self):
                if type(value) not in _UNCHANGEABLE:
                    self.__starsessions__.hand_out(key, self)

    def copy(self) -> dict[str, Any]:
        """Return the data as a plain dict (a shallow copy)."""
        return dict(self.items())

    def __or__(self, other: Any, /) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any, /) -> Any:
        return other | self.copy()

    # Copies and pickles of a session are plain dicts: they must not include the store.

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __reduce_ex__(self, protocol: object, /) -> Any:
        return dict, (self.copy(),)

    @classmethod
    def fromkeys(cls, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("Only the middleware creates sessions: use dict.fromkeys().")

    def __setitem__(self, key: str, value: Any, /) -> None:
        self._before_change()
        state = self.__starsessions__
        if type(value) not in _UNCHANGEABLE:
            state.holds = True
        if state.touched is None:
            state.touched = {key: None}
        else:
            state.touched[key] = None
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str, /) -> None:
        self._before_change()
        self._remove(key)
        dict.__delitem__(self, key)

    def _remove(self, key: Any) -> None:
        state = self.__starsessions__
        if state.touched is None:
            state.touched = {}
        state.touched[key] = None
        state.removed = True

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override]
        self.update(other)
        return self

    def clear(self) -> None:
        self._before_change()
        self.__starsessions__.replaced({})
        dict.clear(self)

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        self._before_change()
        self._remove(key)
        return dict.pop(self, key) if default is _MISSING else dict.pop(self, key, default)

    def popitem(self) -> tuple[str, Any]:
        self._before_change()
        key, value = dict.popitem(self)
        self._remove(key)
        return key, value

    def setdefault(self, key: str, default: Any = None) -> Any:
        self._before_change()
        if not dict.__contains__(self, key):
            self[key] = default
        return self[key]

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._before_change()
        items: dict[Any, Any] = dict(*args, **kwargs)
        state = self.__starsessions__
        if not _UNCHANGEABLE.issuperset(map(type, items.values())):
            state.holds = True
        state.touched = {**(state.touched or {}), **dict.fromkeys(items)}
        dict.update(self, items)


def replace_items(session: TrackedDict, data: Mapping[str, Any]) -> None:
    """Replace the session's items with `data`, without calling the hooks.

    Values that are equal keep their identity, because the handler may hold a reference and change the value in place.
    """
    held = dict(dict.items(session))
    session.__starsessions__.expose()  # the new data has not been compared yet
    dict.clear(session)
    for key, value in data.items():
        dict.__setitem__(session, key, held[key] if key in held and merge.same(held[key], value) else value)
