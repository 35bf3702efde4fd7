"""Compare two versions of a session's data, and merge the changes of two requests.

Two requests of one browser often run at the same time, and both load, change and save the session. Without a merge, the
second save would overwrite the first: an item that was put into the cart would vanish. So a write names the version
that it expects, a store rejects it if another request wrote first, and the changes are applied again, to the new data.

The unit of a merge is one key of the session, not a value within it. A key that only one request changed has that
request's value. If both changed it, the later write wins, or `SessionConflict` is raised with `on_conflict="raise"`. A
deletion is a change like any other: a key that one request removed does not come back because the other one still has
it. Three dicts are enough for all of this: `base`, as loaded; `mine`, as this request has it; `theirs`, as stored now.
`diff(base, mine)` is what this request did, and `apply` does the same to `theirs`.

Everything depends on telling a change from none. `==` is too generous: `True == 1 == 1.0`, and two times in different
zones are equal. `same` compares types as well, and their text where two equal values still differ. A value of a
subclass is compared as the base type that is stored.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from starsessions.core.kinds import CLOCKS, as_base, zone_name

_COMPARED_BY_REPR = frozenset({float, Decimal})
_CLOCKS = frozenset({CLOCKS[0], CLOCKS[2]})  # datetime and time


class Changes(NamedTuple):
    """The changes of one request: the keys that it set, and the keys that it deleted."""

    written: dict[str, Any]
    deleted: frozenset[str]


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and have the same types at every level. A subclass counts as its base type.

    `==` is not enough: `1 == True == 1.0`, and a session that turned one into another has changed. Nor is it for
    `Decimal("1.0")` and `Decimal("1.00")`, for one instant in two time zones, or for a dict in another order: a program
    may keep what was seen last at its end.
    """
    one, other = as_base(one, one), as_base(other, other)
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _COMPARED_BY_REPR:
        return repr(one) == repr(other)
    if kind in _CLOCKS:
        return _spelled(one) == _spelled(other)
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(same, one, other)) and all(map(same, one.values(), other.values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (set, frozenset)):
        return set(map(_typed, one)) == set(map(_typed, other))
    return _equal(one, other)


def _spelled(clock: Any) -> tuple[Any, ...]:
    """Return what a session keeps of a datetime or a time: any zone without a name is its offset."""
    return repr(clock.replace(tzinfo=None)), clock.tzinfo is None, clock.utcoffset(), zone_name(clock.tzinfo)


def _equal(one: Any, other: Any) -> bool:
    compares: object = type(one).__eq__
    if compares is object.__eq__:  # an object that only a custom backend can store, and that defines no equality
        return one is other or _same_parts(one, other)
    return bool(one == other)


def _same_parts(one: Any, other: Any) -> bool:
    """Return whether copies of the two objects would be made of the same parts, slots included."""
    try:
        return same(one.__reduce_ex__(4), other.__reduce_ex__(4))
    except TypeError:  # it cannot be copied
        return False


def _typed(item: Any) -> tuple[type, Any]:
    """Return an item of a set with its type at every level: `{(0,)} == {(False,)}`."""
    item = as_base(item, item)
    kind = type(item)
    if kind is tuple or kind is frozenset:
        return kind, kind(map(_typed, item))
    if kind in _CLOCKS:
        return kind, _spelled(item)
    return kind, repr(item) if kind in _COMPARED_BY_REPR else item


def same_items(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Return whether two sessions have the `same` items, in any order and whatever types the mappings have."""
    if len(one) != len(other):
        return False
    spelling = {key: key for key in other}
    return all(key in spelling and same(key, spelling[key]) and same(value, other[key]) for key, value in one.items())


def diff(base: Mapping[str, Any], mine: Mapping[str, Any]) -> Changes:
    """Return the changes that turn `base` into `mine`.

    >>> diff({"a": 1, "b": 2}, {"a": 1, "c": 3})
    Changes(written={'c': 3}, deleted=frozenset({'b'}))
    """
    return Changes(
        {key: value for key, value in mine.items() if key not in base or not same(value, base[key])},
        frozenset(key for key in base if key not in mine),
    )


def apply(changes: Changes, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Apply changes to the data that is stored now. Keys that the changes do not name keep their stored value.

    >>> apply(Changes({"c": 3}, frozenset({"b"})), {"a": 9, "b": 2})
    {'a': 9, 'c': 3}
    """
    kept = {key: value for key, value in theirs.items() if key not in changes.deleted}
    return kept | changes.written


def conflicting_keys(ours: Changes, theirs: Changes) -> frozenset[str]:
    """Return the keys that both sides changed, and not in the same way.

    >>> conflicting_keys(Changes({"n": 1}, frozenset()), Changes({"n": 2}, frozenset()))
    frozenset({'n'})
    >>> conflicting_keys(Changes({"n": 1}, frozenset()), Changes({"m": 2}, frozenset({"n"})))
    frozenset({'n'})
    >>> conflicting_keys(Changes({"n": 1}, frozenset({"m"})), Changes({"n": 1}, frozenset({"m"})))
    frozenset()
    """
    both = {
        key for key, value in ours.written.items() if key in theirs.written and not same(value, theirs.written[key])
    }
    return frozenset(both | (ours.written.keys() & theirs.deleted) | (ours.deleted & theirs.written.keys()))
