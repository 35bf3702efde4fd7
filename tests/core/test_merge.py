"""Comparing and merging: `diff` and `apply` undo each other, and types count."""

from collections import OrderedDict
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from http import HTTPStatus
from math import nan
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from starsessions.core.merge import Changes, apply, diff, same, same_items
from starsessions.core.record import MissReason
from tests.rows import rows


class Berlin(tzinfo):
    """An unnamed zone, which is stored as its offset."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=2)


# Few scalars, so that two drawn values are often equal, and often equal except for a type.
scalars = st.sampled_from([None, False, True, 0, 1, 2, 0.0, 1.0, nan, "", "1", b"", b"1", Decimal(1), Decimal("NaN")])
hashables = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2).map(tuple) | st.frozensets(inner), max_leaves=4
)
values = st.recursive(
    scalars | st.sets(hashables, max_size=2),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.lists(inner, max_size=2).map(tuple)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=2)
    ),
    max_leaves=6,
)
sessions = st.dictionaries(st.sampled_from("abcdef"), values, max_size=5)


@st.composite
def twins(draw: st.DrawFn) -> tuple[Any, Any]:
    """Two values that do not differ, or differ only in types that compare as equal."""

    def retyped(value: Any) -> Any:
        if type(value) is dict:
            return {key: retyped(item) for key, item in value.items()}
        if type(value) in (list, tuple, set, frozenset):
            return type(value)(map(retyped, value))
        alike = [other for other in (False, True, 0, 1, 0.0, 1.0, Decimal(1)) if other == value]
        return draw(st.sampled_from(alike)) if alike and draw(st.booleans()) else value

    one = draw(values)
    return one, retyped(one)


def typed(value: Any) -> Any:
    """A value with its types spelled out, so that `==` is enough: slow, and obviously correct."""
    if isinstance(value, dict):
        return type(value), frozenset((typed(key), typed(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return type(value), tuple(map(typed, value))
    if isinstance(value, (set, frozenset)):
        return type(value), frozenset(map(typed, value))
    return type(value), "not a number" if value != value else value


@given(sessions, sessions)
def test_applying_a_diff_to_its_base_gives_the_changed_data(base: dict[str, Any], mine: dict[str, Any]) -> None:
    assert typed(apply(diff(base, mine), base)) == typed(mine)


@given(sessions)
def test_unchanged_data_has_an_empty_diff(base: dict[str, Any]) -> None:
    assert diff(base, dict(base)) == Changes({}, frozenset())


@given(sessions, sessions)
def test_a_diff_names_exactly_the_keys_that_differ(base: dict[str, Any], mine: dict[str, Any]) -> None:
    changes = diff(base, mine)

    assert changes.deleted == base.keys() - mine.keys()
    for key, value in mine.items():
        assert (key in changes.written) == (key not in base or typed(base[key]) != typed(value))


@given(sessions, sessions, sessions)
def test_changes_to_different_keys_commute(base: dict[str, Any], one: dict[str, Any], other: dict[str, Any]) -> None:
    mine = diff(base, base | {key: value for key, value in one.items() if key in "abc"})
    kept = {key: value for key, value in base.items() if key in "abc"}
    theirs = diff(base, kept | {key: value for key, value in other.items() if key not in "abc"})

    assert typed(apply(mine, apply(theirs, base))) == typed(apply(theirs, apply(mine, base)))


@given(sessions, sessions, sessions)
def test_a_merge_takes_our_changes_and_their_other_keys(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    changes = diff(base, mine)

    merged = apply(changes, theirs)

    for key in "abcdef":
        source = mine if key in changes.written or key in changes.deleted else theirs
        assert (key in merged) == (key in source)
        assert key not in merged or merged[key] is source[key]


def test_a_deletion_wins_over_a_change_by_another_request() -> None:
    assert apply(diff({"cart": [1]}, {}), {"cart": [1, 2]}) == {}


def test_a_key_that_another_request_deleted_stays_deleted() -> None:
    assert apply(diff({"a": 1, "b": 1}, {"a": 2, "b": 1}), {"a": 1}) == {"a": 2}


def test_a_change_wins_over_a_deletion_by_another_request() -> None:
    assert apply(diff({"a": 1}, {"a": 2}), {}) == {"a": 2}


def test_a_key_that_turned_into_another_type_is_written() -> None:
    assert diff({"a": 1, "b": (1,)}, {"a": True, "b": [1]}) == Changes({"a": True, "b": [1]}, frozenset())


def test_arguments_are_left_alone() -> None:
    base, mine, theirs = {"a": 1, "b": 2}, {"a": 3}, {"b": 2, "c": 4}

    apply(diff(base, mine), theirs)

    assert (base, mine, theirs) == ({"a": 1, "b": 2}, {"a": 3}, {"b": 2, "c": 4})


# same


@given(st.tuples(values, values) | twins())
def test_same_means_equal_with_all_types_spelled_out(pair: tuple[Any, Any]) -> None:
    one, other = pair

    assert same(one, other) == (typed(one) == typed(other))


@given(st.tuples(values, values) | twins())
def test_same_is_symmetric_and_reflexive(pair: tuple[Any, Any]) -> None:
    one, other = pair

    assert same(one, other) == same(other, one)
    assert same(one, one)


@rows(
    ("one", "other"),
    [
        (1, True),
        (1, 1.0),
        (0, False),
        (1, Decimal(1)),
        ([1], [True]),
        ([1], (1,)),
        ({"a": 1}, {"a": 1.0}),
        ({"a": [1]}, {"a": [True]}),
        ({1: "x"}, {True: "x"}),
        ({1}, {True}),
        ({1}, frozenset({1})),
        ({(1,)}, {(True,)}),
        (frozenset({frozenset({1})}), frozenset({frozenset({1.0})})),
        ("a", b"a"),
        (None, False),
        ("", None),
        ([], ()),
        ([1, 2], [2, 1]),
        ([1], [1, 1]),
        ({"a": None}, {"b": None}),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}),
        ({1: "x", 2: "y"}, {2: "y", 1: "x"}),
        (Decimal("1.0"), Decimal("1.00")),
        ({Decimal("1.0")}, {Decimal("1.00")}),
        ({time(1)}, {time(2)}),
        ({datetime(2024, 5, 6, tzinfo=UTC)}, {datetime(2024, 5, 7, tzinfo=UTC)}),
        (datetime(2024, 5, 6, 12, tzinfo=UTC), datetime(2024, 5, 6, 14, tzinfo=timezone(timedelta(hours=2)))),
        ({datetime(2024, 5, 6, 12, tzinfo=UTC)}, {datetime(2024, 5, 6, 14, tzinfo=timezone(timedelta(hours=2)))}),
        (nan, None),
        (nan, 1.0),
        (lambda: 1, lambda: 2),
        (iter([1]), iter([2])),
    ],
)
def test_values_that_differ_in_type_or_value_are_not_the_same(one: Any, other: Any) -> None:
    assert not same(one, other)
    assert not same(other, one)


@rows(
    ("one", "other"),
    [
        (nan, float("nan")),
        (Decimal("NaN"), Decimal("NaN")),
        ([nan], [float("nan")]),
        ({1, 2}, {2, 1}),
        ({(1, "a"), (2, "b")}, {(2, "b"), (1, "a")}),
        (frozenset({frozenset({1})}), frozenset({frozenset({1})})),
        (object(), object()),
        (iter([1]), iter([1])),
        ({"a": 1}, OrderedDict(a=1)),
        ([MissReason.EXPIRED, {MissReason.EXPIRED: 1}], ["expired", {"expired": 1}]),
        ({(HTTPStatus.OK,)}, {(200,)}),
        ({datetime(2024, 5, 6, tzinfo=Berlin())}, {datetime(2024, 5, 6, tzinfo=timezone(timedelta(hours=2)))}),
        (
            datetime(2024, 10, 27, 2, 30, tzinfo=Berlin()),
            datetime(2024, 10, 27, 2, 30, tzinfo=timezone(timedelta(hours=2))),
        ),
    ],
)
def test_the_order_of_a_set_and_identity_do_not_matter(one: Any, other: Any) -> None:
    assert same(one, other)
    assert same(other, one)


def test_the_types_of_the_mappings_themselves_do_not_matter_to_same_items() -> None:
    assert same_items({"a": 1}, OrderedDict(a=1))
    assert same_items({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same_items({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}})
    assert not same_items({"a": 1}, OrderedDict(a=True))
    assert not same_items({1: "x"}, {True: "x"})
    assert not same_items({"a": 1}, {})
