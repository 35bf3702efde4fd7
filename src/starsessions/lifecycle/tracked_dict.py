"""A dict that asks before it is read and before it is changed.

It is a real dict, because code written for Starlette asks `isinstance(session, dict)`. C code may read a dict without
asking (`json.dumps`, msgspec); `dict(session)` and `**session` do ask, because `__iter__` is overridden.
"""

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NoReturn, Self
from uuid import UUID

# What cannot be changed from within once it was handed out. A tuple can: it may hold a list.
_UNCHANGEABLE = frozenset({str, int, float, bool, type(None), bytes, datetime, date, time, timedelta, UUID, Decimal})

# What every serializer of ours takes as it is.
_PLAIN = frozenset({str, int, bool, type(None)})

_MISSING = object()


class TrackedDict(dict[str, Any]):
    """What a subclass fills in: `_before_read`, which sets `_ready`, and `_before_change`.

    `_handed_out` says whether somebody else may hold a value that can be changed without asking us. Until then, and
    until `_before_change` is called, the data is as it was filled in. `_only_plain` says whether all that was put in
    since is a str, an int, a bool or None under a str, as far as nothing was handed out; `_in_order`, whether nothing
    was taken out, which could have come back in another place.
    """

    _ready: bool
    _handed_out: bool
    _only_plain: bool
    _in_order: bool

    __slots__ = ("_handed_out", "_in_order", "_only_plain", "_ready")

    def _before_read(self) -> None:
        """Somebody is about to look at the data."""

    def _before_change(self) -> None:
        """Somebody is about to change the data."""

    def __getitem__(self, key: str, /) -> Any:
        if not self._ready:
            self._before_read()
        value = dict.__getitem__(self, key)
        if type(value) not in _UNCHANGEABLE:
            self._handed_out = True
        return value

    def __contains__(self, key: object, /) -> bool:
        if not self._ready:
            self._before_read()
        return dict.__contains__(self, key)

    def __iter__(self) -> Iterator[str]:
        if not self._ready:
            self._before_read()
        return dict.__iter__(self)

    def __reversed__(self) -> Iterator[str]:
        if not self._ready:
            self._before_read()
        return dict.__reversed__(self)

    def __len__(self) -> int:
        if not self._ready:
            self._before_read()
        return dict.__len__(self)

    def __eq__(self, other: object, /) -> bool:
        if not self._ready:
            self._before_read()
        return dict.__eq__(self, other)

    def __ne__(self, other: object, /) -> bool:
        return not self == other

    __hash__ = None  # as every dict

    def get(self, key: str, default: Any = None) -> Any:
        if not self._ready:
            self._before_read()
        value = dict.get(self, key, default)
        if type(value) not in _UNCHANGEABLE:
            self._handed_out = True
        return value

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        if not self._ready:
            self._before_read()
        return dict.keys(self)

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        if not self._ready:
            self._before_read()
        self._handed_out = True
        return dict.values(self)

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        if not self._ready:
            self._before_read()
        self._handed_out = True
        return dict.items(self)

    def copy(self) -> dict[str, Any]:
        """The data, as a plain dict."""
        if not self._ready:
            self._before_read()
        self._handed_out = True
        return dict(dict.items(self))

    def __or__(self, other: Any, /) -> Any:
        return self.copy() | other

    def __ror__(self, other: Any, /) -> Any:
        return other | self.copy()

    # Copies and pickles of a session are plain data: they must not drag the store along.

    def __copy__(self) -> dict[str, Any]:
        return self.copy()

    def __reduce_ex__(self, protocol: object, /) -> Any:
        return dict, (self.copy(),)

    @classmethod
    def fromkeys(cls, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("A session comes from the middleware: use dict.fromkeys().")

    def __setitem__(self, key: str, value: Any, /) -> None:
        self._before_change()
        kind = type(value)
        if kind not in _PLAIN or type(key) is not str:
            self._only_plain = False
            if kind not in _UNCHANGEABLE:
                self._handed_out = True
        dict.__setitem__(self, key, value)

    def __delitem__(self, key: str, /) -> None:
        self._before_change()
        self._in_order = False
        dict.__delitem__(self, key)

    def __ior__(self, other: Any, /) -> Self:  # type: ignore[override]
        self._before_change()
        self._handed_out = True
        dict.update(self, other)
        return self

    def clear(self) -> None:
        self._before_change()
        self._in_order = False
        dict.clear(self)

    def pop(self, key: str, default: Any = _MISSING) -> Any:
        self._before_change()
        self._in_order = False
        return dict.pop(self, key) if default is _MISSING else dict.pop(self, key, default)

    def popitem(self) -> tuple[str, Any]:
        self._before_change()
        self._in_order = False
        return dict.popitem(self)

    def setdefault(self, key: str, default: Any = None) -> Any:
        self._before_change()
        self._handed_out = True
        return dict.setdefault(self, key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._before_change()
        self._handed_out = True
        dict.update(self, *args, **kwargs)
