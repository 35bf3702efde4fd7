"""Comparing what a session holds with what it held, key by key, deletions included."""

from collections.abc import Mapping
from datetime import datetime, time
from decimal import Decimal
from typing import Any, NamedTuple

_TOLD_APART_BY_REPR = (float, Decimal, datetime, time)


class Changes(NamedTuple):
    """What one request did to the data: keys that it set, and keys that it took away."""

    written: dict[str, Any]
    deleted: frozenset[str]


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of the same types all the way down.

    `==` is not enough: `1 == True == 1.0`, and a session that turned one into the other has changed. Nor is it for
    `Decimal("1.0")` and `Decimal("1.00")`, or for one moment in two zones.
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, _TOLD_APART_BY_REPR):
        return repr(one) == repr(other)
    if isinstance(one, dict):
        return same_items(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (set, frozenset)):
        return set(map(_typed, one)) == set(map(_typed, other))
    compares: object = type(one).__eq__
    if compares is object.__eq__:  # an object of a custom backend's own, which does not say what equal means
        return one is other or _same_parts(one, other)
    return bool(one == other)


def _same_parts(one: Any, other: Any) -> bool:
    """Whether a copy of one object would be made of the same parts as a copy of the other, slots included."""
    try:
        return same(one.__reduce_ex__(4), other.__reduce_ex__(4))
    except TypeError:  # it cannot be taken apart
        return False


def _typed(item: Any) -> tuple[type, Any]:
    """An item of a set with its type, all the way down: `{(0,)} == {(False,)}`."""
    if isinstance(item, (tuple, frozenset)):
        return type(item), type(item)(map(_typed, item))
    return type(item), repr(item) if isinstance(item, _TOLD_APART_BY_REPR) else item


def same_items(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """`same` for two mappings, whatever their own types and whatever the order of their keys."""
    if len(one) != len(other):
        return False
    spelling = {key: key for key in other}
    return all(key in spelling and same(key, spelling[key]) and same(value, other[key]) for key, value in one.items())


def diff(base: Mapping[str, Any], mine: Mapping[str, Any]) -> Changes:
    """What was done to `base` to arrive at `mine`.

    >>> diff({"a": 1, "b": 2}, {"a": 1, "c": 3})
    Changes(written={'c': 3}, deleted=frozenset({'b'}))
    """
    return Changes(
        {key: value for key, value in mine.items() if key not in base or not same(value, base[key])},
        frozenset(key for key in base if key not in mine),
    )


def apply(changes: Changes, theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Do the same to what is stored now: a key that we left alone is theirs, one that we touched is ours.

    >>> apply(Changes({"c": 3}, frozenset({"b"})), {"a": 9, "b": 2})
    {'a': 9, 'c': 3}
    """
    kept = {key: value for key, value in theirs.items() if key not in changes.deleted}
    return kept | changes.written


def conflicting_keys(ours: Changes, theirs: Changes) -> frozenset[str]:
    """The keys to which both did something, and not the same.

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
