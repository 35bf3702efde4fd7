"""The types that a session holds, and values of their subclasses as values of these types.

A driver's own UUID, an `IntEnum`, an `OrderedDict` or a datetime of a frozen clock is kept as its base type, if the
result is equal to it. What is kept would not come back as a class that the data names: that would be pickle.
"""

from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

T = TypeVar("T")


def _real(kind: type[T]) -> type[T]:
    """Return the type of `datetime` itself. While freezegun freezes the time, the names are subclasses of its own."""
    return next(parent for parent in kind.__mro__ if parent.__module__ == "datetime")


def _of_parts(kind: type[Any], names: str) -> Callable[[Any], Any]:
    parts = names.split()
    return lambda value: kind(*[getattr(value, part) for part in parts])


def _with_fold(kind: type[Any], names: str) -> Callable[[Any], Any]:
    make = _of_parts(kind, names)
    return lambda value: make(value).replace(fold=value.fold)


CLOCKS = (_real(datetime), _real(date), time)
"""datetime, date and time. freezegun replaces the names of a module, and leaves tuples alone."""

_AS_BASE: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes(memoryview(value)),
    dict: dict,
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    CLOCKS[0]: _with_fold(CLOCKS[0], "year month day hour minute second microsecond tzinfo"),
    CLOCKS[1]: _of_parts(CLOCKS[1], "year month day"),
    time: _with_fold(time, "hour minute second microsecond tzinfo"),
    timedelta: timedelta.__pos__,  # what an overridden `days` says (pendulum) need not be what it is
    UUID: lambda value: UUID(int=value.int),
    Decimal: Decimal,
}

CONTAINERS: frozenset[type] = frozenset({dict, list, tuple, set, frozenset})
HELD: frozenset[type] = frozenset(_AS_BASE) | {bool, type(None)}
SCALARS: frozenset[type] = HELD - CONTAINERS
"""Types whose values cannot be changed in place, and hold no others."""


def as_base(value: Any, otherwise: Any = None) -> Any:
    """Return an equal value of a type that a session holds. A container's items stay as they are.

    Args:
        value: any object.
        otherwise: returned if there is no such value.

    >>> from collections import OrderedDict
    >>> as_base(OrderedDict(a=1))
    {'a': 1}
    """
    if type(value) in HELD:
        return value
    for kind in type(value).__mro__:
        if kind in _AS_BASE:
            try:
                made = _AS_BASE[kind](value)
                is_equal = value == made or (value != value and made != made)  # NaN is unequal to itself
            except Exception:  # the class does as it likes
                return otherwise
            return made if is_equal else otherwise
    return otherwise


def zone_name(zone: tzinfo | None) -> str | None:
    """Return the name by which the zone can be loaded again; None if it has none."""
    if zone is None or isinstance(zone, timezone):
        return None
    from zoneinfo import ZoneInfo  # here, because the import is slow and few sessions contain such a zone

    return zone.key if isinstance(zone, ZoneInfo) else None
