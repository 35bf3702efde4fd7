"""Data loads equal and with its types, or is rejected with the path and type."""

import array
import copy
import enum
import json
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from http import HTTPStatus
from importlib.resources import files
from ipaddress import IPv4Address
from math import inf, isfinite, nan
from pathlib import Path, PurePosixPath
from time import gmtime
from types import MappingProxyType
from typing import Any, NoReturn
from uuid import UUID
from zoneinfo import TZPATH, ZoneInfo

import asyncpg.pgproto.pgproto
import msgspec
import pytest
from authlib.oidc.core import UserInfo
from hypothesis import assume, example, given
from hypothesis import strategies as st
from markupsafe import Markup
from sqlalchemy.sql.elements import quoted_name

from starsessions.core.merge import same, same_items
from starsessions.core.serializer import (
    Msgpack,
    PlainJson,
    differs_for_sure,
    is_builtin,
    matcher,
    patcher,
)
from starsessions.core.wrapping import MAX_DEPTH
from starsessions.exceptions import UnsupportedValue
from tests.rows import rows

SERIALIZERS = [Msgpack(), PlainJson()]
both = rows("serializer", SERIALIZERS, ids=["msgpack", "json"])


def exact(value: Any) -> Any:
    """A value with everything spelled out that `==` ignores: types, NaN, folds, zones, digits, order."""
    kind = type(value)
    if kind is dict:
        return kind, tuple((exact(key), exact(item)) for key, item in value.items())
    if kind in (list, tuple):
        return kind, tuple(map(exact, value))
    if kind in (set, frozenset):
        return kind, frozenset(map(exact, value))
    if kind is float:
        return kind, "NaN" if value != value else struct.pack(">d", value)
    if kind is Decimal:
        return kind, value.as_tuple()
    if kind in (datetime, time):
        return kind, value.replace(tzinfo=None).isoformat(), value.fold, zone_of(value)
    return kind, value


def zone_of(value: Any) -> Any:
    zone = value.tzinfo
    return (ZoneInfo, zone.key) if isinstance(zone, ZoneInfo) else value.utcoffset()


def kept_or_refused(serializer: Msgpack, data: dict[str, Any], path: str) -> bytes | None:
    """The payload; None if the data was rejected, with a path that begins like this one."""
    try:
        return serializer.dumps(data)
    except UnsupportedValue as error:
        refused_at = error.path
    assert refused_at.startswith(path)
    return None


# Everything that a session can hold

texts = st.text(st.characters(exclude_categories=()), max_size=8)  # lone surrogates, too
offsets = st.timedeltas(timedelta(hours=-24, microseconds=1), timedelta(hours=24, microseconds=-1)).map(timezone)
zones = (
    st.none() | st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]).map(ZoneInfo) | offsets
)
clocks = st.tuples(st.datetimes(), st.integers(0, 1), zones)
datetimes = clocks.map(lambda parts: parts[0].replace(fold=parts[1], tzinfo=parts[2]))
times = clocks.map(lambda parts: parts[0].time().replace(fold=parts[1], tzinfo=parts[2]))
integers = st.integers() | st.integers(-(1 << 70), 1 << 70) | st.integers(1 << 63, 1 << 65) | st.integers(-(1 << 2000))
keys = st.text(max_size=4) | st.integers(-(1 << 63), (1 << 64) - 1) | st.booleans() | st.none() | st.binary(max_size=3)
hashable_scalars = st.one_of(
    st.none(),
    st.booleans(),
    integers,
    st.floats(),
    texts,
    st.binary(max_size=8),
    st.dates(),
    times,
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.datetimes(),
)
scalars = hashable_scalars | datetimes | st.decimals().filter(lambda number: not number.is_snan())
hashables = st.recursive(
    hashable_scalars,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
values = st.recursive(
    scalars | st.sets(hashables, max_size=3) | st.frozensets(hashables, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)
sessions = st.dictionaries(st.text(max_size=4), values, max_size=4)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
json_sessions = st.dictionaries(texts, json_values, max_size=4)

naive = datetime
"""Deliberately without a zone."""

EVERY_TYPE: dict[str, Any] = {
    "none": None,
    "bool": [True, False],
    "int": [0, -1, 1, 2**63 - 1, -(2**63), 2**64 - 1],
    "big int": [2**64, -(2**63) - 1, 10**5000, -(10**5000), 2**71 - 1, -(2**71), 2**127, -(2**127)],
    "float": [0.0, -0.0, 1.0, 1e300, 5e-324, inf, -inf, nan],
    "str": ["", "é", "😀", "\0", '"\\', "\ud800", "a\udfffb", "\udc80\ud83d"],
    "bytes": [b"", b"\0\xff"],
    "containers": [[], {}, (), set(), frozenset(), [()], ([],), ({},), {"a": {}}, [[[]]]],
    "tuple": (1, (2, [3, (4,)])),
    "set": {1, "a", (2, 3), frozenset({(4, "b")})},
    "frozenset": frozenset({(), frozenset()}),
    "keys": {"1": 0, 1: 0, None: 0, b"1": 0, "": 0, -5: 0, 2.5: 0, nan: 0},
    "other keys": {(1, (2,)): 0, frozenset({1}): 0, date(2024, 1, 1): 0, UUID(int=1): 0, 2**64: 0, "\ud800": 0},
    "huge key": {10**5000: 0},
    "bool keys": {True: 0, False: 0},
    "date": [date.min, date.max],
    "datetime": [naive(1, 1, 1), naive(9999, 12, 31, 23, 59, 59, 999999), naive(2024, 10, 27, 2, 30, fold=1)],
    "aware": [
        datetime(2024, 5, 6, tzinfo=UTC),
        datetime(2024, 5, 6, tzinfo=UTC, fold=1),
        datetime(2024, 5, 6, tzinfo=timezone(timedelta(hours=-5, minutes=30))),
        datetime(2024, 5, 6, tzinfo=timezone(timedelta(seconds=1, microseconds=1))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
    ],
    "zone": [
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime.max.replace(tzinfo=ZoneInfo("UTC")),
    ],
    "time": [time(), time.max, time(1, 2, fold=1), time(1, tzinfo=UTC), time(1, fold=1, tzinfo=UTC)],
    "offset of a microsecond": [
        datetime(2024, 5, 6, tzinfo=timezone(timedelta(microseconds=1))),
        time(1, tzinfo=timezone(timedelta(microseconds=-1))),
    ],
    "zoned time": [
        time(2, 30, tzinfo=ZoneInfo("Europe/Berlin")),
        time(2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    ],
    "timedelta": [timedelta(), timedelta.min, timedelta.max, timedelta(microseconds=-1)],
    "UUID": UUID("12345678-1234-5678-1234-567812345678"),
    "Decimal": [Decimal(text) for text in ("1.50", "-0", "0E-9", "1E+999999", "Infinity", "-Infinity", "NaN", "-NaN7")],
}


@both
@rows("name", EVERY_TYPE)
def test_every_documented_type_loads_unchanged(serializer: Msgpack, name: str) -> None:
    data = {"value": EVERY_TYPE[name], "nested": [{"deep": (EVERY_TYPE[name],)}]}

    assert exact(serializer.loads(serializer.dumps(data))) == exact(data)


@pytest.mark.guarantee(3)
@both
@given(sessions)
def test_data_loads_as_it_was_stored(serializer: Msgpack, data: dict[str, Any]) -> None:
    assert exact(serializer.loads(serializer.dumps(data))) == exact(data)


@both
@given(json_sessions)
def test_plain_data_loads_unchanged_unless_a_key_is_not_text(serializer: Msgpack, data: dict[str, Any]) -> None:
    payload = kept_or_refused(serializer, data, "a key of ")

    assert payload is None or exact(serializer.loads(payload)) == exact(data)


@both
@given(sessions)
def test_storing_leaves_the_data_alone(serializer: Msgpack, data: dict[str, Any]) -> None:
    before = exact(copy.deepcopy(data))

    serializer.dumps(data)

    assert exact(data) == before


@both
@given(sessions)
def test_the_same_data_makes_the_same_bytes(serializer: Msgpack, data: dict[str, Any]) -> None:
    """Without sets, whose order depends on the process: equal bytes mean "nothing has changed"."""
    data = {key: value for key, value in data.items() if "set" not in repr(exact(value))}

    assert serializer.dumps(data) == serializer.dumps(serializer.loads(serializer.dumps(data)))


@both
def test_a_session_is_encoded_without_calling_its_hooks(serializer: Msgpack) -> None:
    """`request.session` overrides the reading methods, and would record an access by mistake."""

    class Asking(dict[str, Any]):
        def _refuse(self, *args: object) -> NoReturn:
            raise AssertionError("it was asked")

        __iter__ = __len__ = __contains__ = __getitem__ = keys = values = items = get = _refuse  # type: ignore[assignment]

    for value in (1, (1,), nan, {"deep": ()}):
        assert exact(serializer.loads(serializer.dumps(Asking(a=value)))) == exact({"a": value})


# Rejected data


class Colour(enum.Enum):
    RED = 1


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    A = "a"


class Right(enum.Flag):
    READ = 1


class IntRight(enum.IntFlag):
    READ = 1


class Dict(dict[Any, Any]):
    pass


class List(list[Any]):
    pass


class Tuple(tuple[Any, ...]):
    __slots__ = ()


class Set(set[Any]):
    pass


class Str(str):
    __slots__ = ()


class Int(int):
    pass


class Float(float):
    pass


class Bytes(bytes):
    pass


class Datetime(datetime):
    pass


class Money(Decimal):
    pass


@dataclass
class Data:
    a: int = 1


class Struct(msgspec.Struct):
    a: int = 1


class Nowhere(tzinfo):
    """A zone of the application's own that does not return its offset from UTC."""

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        return None


class Unfinished(tzinfo):
    """A zone that raises."""


Point = namedtuple("Point", "x y")


class Unequal(str):
    """What would not come back equal."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other is self

    __hash__ = str.__hash__


class Rude(Str):
    """A class that raises where it is compared."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise ValueError

    __hash__ = str.__hash__


class Colours(str, enum.Enum):  # noqa: UP042 - as it was spelled before StrEnum
    RED = "r"


class Folded(str):
    """As the name of a header: equal in any case, and under a hash that no str has."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self.lower() == str(other).lower()

    def __hash__(self) -> int:
        return hash(("folded", self.lower()))


class Between(timedelta):
    """As pendulum's Duration and Interval: its parts are spelled otherwise, and it has another hash."""

    @property
    def days(self) -> int:  # type: ignore[override]
        return 99

    def __hash__(self) -> int:
        return hash(("between", timedelta.__hash__(self)))


class Nanoseconds(datetime):
    """As pandas' Timestamp: finer than its base type."""

    def __eq__(self, other: object) -> bool:
        return type(other) is Nanoseconds

    __hash__ = datetime.__hash__


SUBCLASSES: dict[str, tuple[Any, Any]] = {
    "IntEnum": (Number.ONE, 1),
    "StrEnum": (Word.A, "a"),
    "str and Enum": (Colours.RED, "r"),
    "IntFlag": (IntRight.READ, 1),
    "http status": (HTTPStatus.OK, 200),
    "dict": (Dict(a=Dict(b=Str("c"))), {"a": {"b": "c"}}),
    "OrderedDict": (OrderedDict(a=1), {"a": 1}),
    "defaultdict": (defaultdict(list, a=[1]), {"a": [1]}),
    "Counter": (Counter("aab"), {"a": 2, "b": 1}),
    "list": (List([Int(1)]), [1]),
    "tuple": (Tuple((1,)), (1,)),
    "NamedTuple": (Point(1, Point(2, 3)), (1, (2, 3))),
    "struct_time": (gmtime(0), (1970, 1, 1, 0, 0, 0, 3, 1, 0)),
    "set": (Set({Str("a")}), {"a"}),
    "frozenset": (type("Frozen", (frozenset,), {})({1}), frozenset({1})),
    "str": (Str("é"), "é"),
    "half a character": (Str("\ud800"), "\ud800"),
    "Markup": (Markup("<b>"), "<b>"),
    "quoted_name": (quoted_name("a", quote=True), "a"),
    "int": (Int(2**70), 2**70),
    "float": (Float(1.5), 1.5),
    "NaN": (Float("nan"), nan),
    "bytes": (Bytes(b"a"), b"a"),
    "datetime": (Datetime(2024, 1, 1, 2, 3, 4, 5, fold=1), naive(2024, 1, 1, 2, 3, 4, 5, fold=1)),
    "aware": (Datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=UTC)),
    "date": (type("Date", (date,), {})(2024, 1, 2), date(2024, 1, 2)),
    "time": (type("Time", (time,), {})(1, 2, 3, 4, UTC, fold=1), time(1, 2, 3, 4, UTC, fold=1)),
    "timedelta": (type("Delta", (timedelta,), {})(1, 2, 3), timedelta(1, 2, 3)),
    "Interval": ([Between(-1, 2, 3)], [timedelta(-1, 2, 3)]),
    "UUID": (asyncpg.pgproto.pgproto.UUID(str(UUID(int=7))), UUID(int=7)),
    "Decimal": (Money("1.50"), Decimal("1.50")),
    "Decimal NaN": (Money("NaN"), Decimal("NaN")),
    "UserInfo": (UserInfo(sub="1", address={"country": "PT"}), {"sub": "1", "address": {"country": "PT"}}),
}


@pytest.mark.guarantee(3)
@both
@rows("name", SUBCLASSES)
def test_a_value_of_a_subclass_is_kept_as_its_base_type(serializer: Msgpack, name: str) -> None:
    value, base = SUBCLASSES[name]
    data: dict[str, Any] = {"value": value, "nested": [{"deep": (value,)}]}
    if value == value and not isinstance(value, (dict, list, set)):
        data["key"] = {value: 1}

    kept = serializer.loads(serializer.dumps(data))

    as_base = {"value": base, "nested": [{"deep": (base,)}]} | ({"key": {base: 1}} if "key" in data else {})
    assert exact(kept) == exact(as_base)
    assert data["value"] is value
    assert value != value or kept == data
    assert same_items(kept, data)
    assert same_items(data, kept)


@rows("value", [UserInfo(sub="1"), Word.A, {Word.A: Number.ONE}, OrderedDict(a=[List([1])])])
def test_a_value_of_a_subclass_that_json_supports_is_written_as_json(value: Any) -> None:
    """Authlib's `session["user"] = token["userinfo"]` leaves a cookie that Starlette reads."""
    assert json.loads(PlainJson().dumps({"a": value})) == {"a": value}


REFUSED: dict[str, Any] = {
    "Unequal": Unequal("a"),
    "Rude": Rude("a"),
    "Nanoseconds": Nanoseconds(2024, 1, 1),
    "Colour": Colour.RED,
    "Right": Right.READ,
    "mappingproxy": MappingProxyType({"a": 1}),
    "deque": deque([1]),
    "range": range(3),
    "array": array.array("i", [1]),
    "dict_keys": {"a": 1}.keys(),
    "complex": 1 + 2j,
    "Fraction": Fraction(1, 2),
    "bytearray": bytearray(b"a"),
    "memoryview": memoryview(b"a"),
    "datetime": datetime(2024, 1, 1, tzinfo=Nowhere()),
    "time": time(1, tzinfo=Unfinished()),
    "ZoneInfo": ZoneInfo("UTC"),
    "timezone": UTC,
    "Data": Data(),
    "Struct": Struct(),
    "Ext": msgspec.msgpack.Ext(1, b"\x90"),
    "Raw": msgspec.Raw(b"1"),
    "UnsetType": msgspec.UNSET,
    "IPv4Address": IPv4Address("127.0.0.1"),
    "PurePosixPath": PurePosixPath("/"),
    "ValueError": ValueError("a secret"),
    "object": object(),
    "type": int,
    "function": exact,
    "generator": (item for item in [1]),
    "ellipsis": ...,
    "NotImplementedType": NotImplemented,
}


@pytest.mark.guarantee(3)
@both
@rows("kind", REFUSED)
@rows("neighbour", [1, (), nan], ids=["plain", "wrapped", "nan"])
def test_any_other_type_is_rejected_with_its_path_and_type(serializer: Msgpack, kind: str, neighbour: Any) -> None:
    data = {"user": neighbour, "cart": [1, "two", {"count": neighbour, "price": REFUSED[kind]}]}

    with pytest.raises(UnsupportedValue) as caught:
        serializer.dumps(data)

    assert caught.value.path == 'session["cart"][2]["price"]'
    assert caught.value.kind == kind
    assert str(caught.value).startswith('session["cart"][2]["price"] is a')
    assert f" {kind}, which a session cannot hold. " in str(caught.value)


@pytest.mark.guarantee(3)
@both
@rows("of", [lambda a, b: {a: 1, b: 2}, lambda a, b: {a, b}, lambda a, b: {(a,): 1, (b,): 2}, lambda a, b: {a: 1}])
def test_keys_and_items_that_would_become_one_are_rejected(serializer: Msgpack, of: Callable[[Any, Any], Any]) -> None:
    with pytest.raises(UnsupportedValue, match="Folded"):
        serializer.dumps({"a": of(Folded("A"), "A")})


@both
@rows(
    ("data", "path"),
    [
        ({"a": object()}, 'session["a"]'),
        ({"a": (1, object())}, 'session["a"][1]'),
        ({"a": [(1, [object()])]}, 'session["a"][0][1][0]'),
        ({"a": {object()}}, 'session["a"][0]'),
        ({"a": frozenset({object()})}, 'session["a"][0]'),
        ({"a": {1: {b"x": {None: object()}}}}, "session[\"a\"][1][b'x'][None]"),
        ({'a"b\n': object()}, r'session["a\"b\n"]'),
        ({"é": object()}, r'session["\u00e9"]'),
    ],
)
def test_the_path_is_written_as_in_python(serializer: Msgpack, data: dict[str, Any], path: str) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        serializer.dumps(data)

    assert caught.value.path == path


def test_an_error_does_not_reveal_the_rejected_value() -> None:
    with pytest.raises(UnsupportedValue) as caught:
        Msgpack().dumps({"a": REFUSED["ValueError"], "password": "another secret"})

    assert "secret" not in str(caught.value)


@both
@rows(
    ("data", "text"),
    [
        ({"a": Fraction(1, 2)}, r"tuple, set, .*, datetime, date, time, .* made from it\.$"),
        ({"a": Colour.RED}, r"is a Colour, which a session cannot hold\. Store its value\.$"),
        ({Colour.RED: 1}, r"^a key of session is a Colour, .* Use a str or an int\.$"),
        ({"a": Nanoseconds(2024, 1, 1)}, r"It would not come back equal: store a datetime made from it\.$"),
        ({"a": datetime(2024, 1, 1, tzinfo=Nowhere())}, r"no offset from UTC: store it in UTC"),
        ({"a": Decimal("sNaN")}, r"It cannot be compared\.$"),
        ({"a": type("bool", (), {"__module__": "numpy"})()}, r"is a numpy\.bool, which"),
    ],
)
def test_an_error_says_what_to_store_instead(serializer: Msgpack, data: dict[Any, Any], text: str) -> None:
    with pytest.raises(UnsupportedValue, match=text):
        serializer.dumps(data)


@both
@rows("key", [Colour.RED, Fraction(1, 2), (1, Colour.RED), frozenset({Data}), Unequal("a")], ids=str)
def test_a_key_that_would_not_load_unchanged_is_rejected(serializer: Msgpack, key: Any) -> None:
    for data, path in [({key: 1}, "a key of session"), ({"a": [{key: ()}]}, 'a key of session["a"][0]')]:
        assert kept_or_refused(serializer, data, path) is None


@pytest.mark.guarantee(3)
@both
def test_keys_are_never_turned_into_text(serializer: Msgpack) -> None:
    data: dict[Any, Any] = {1: "int", "1": "str", "deep": {2: {True: 0, None: 0, 1.5: 0}}}

    assert exact(serializer.loads(serializer.dumps(data))) == exact(data)


@both
def test_a_number_that_cannot_be_compared_is_rejected(serializer: Msgpack) -> None:
    """`==` on a signaling NaN raises, so a later comparison with the stored data would fail."""
    with pytest.raises(UnsupportedValue) as caught:
        serializer.dumps({"cart": [Decimal("sNaN")]})

    assert caught.value.path == 'session["cart"][0]'


# A time in an unnamed zone loads equal, or is rejected


def zone_from_a_file(key: str | None = None) -> ZoneInfo:
    """Berlin's rules, as an application may load them from its own file."""
    for place in TZPATH:
        if Path(place, "Europe/Berlin").is_file():
            with Path(place, "Europe/Berlin").open("rb") as file:
                return ZoneInfo.from_file(file, key=key)
    with files("tzdata.zoneinfo.Europe").joinpath("Berlin").open("rb") as file:
        return ZoneInfo.from_file(file, key=key)


class RuleBased(tzinfo):
    """A zone class of its own that knows the fold, as dateutil's and tzlocal's do."""

    def utcoffset(self, when: datetime | None) -> timedelta | None:
        return None if when is None else when.replace(tzinfo=ZoneInfo("Europe/Berlin")).utcoffset()

    def dst(self, when: datetime | None) -> timedelta | None:
        return None


ZONES = [UTC, timezone(timedelta(hours=5, minutes=45)), ZoneInfo("Europe/Berlin"), zone_from_a_file(), RuleBased()]


@both
@given(st.datetimes(naive(2024, 1, 1), naive(2025, 1, 1)), st.sampled_from([0, 1]), st.sampled_from(ZONES))
@example(naive(2024, 10, 27, 2, 30), 0, ZONES[3])
@example(naive(2024, 10, 27, 2, 30), 1, ZONES[3])
@example(naive(2024, 10, 27, 2, 30), 0, ZONES[4])
@example(naive(2024, 10, 27, 2, 30), 1, ZONES[4])
@example(naive(2024, 3, 31, 2, 30), 0, ZONES[4])
def test_an_aware_datetime_keeps_its_local_time_offset_and_fold_in_every_hour(
    serializer: Msgpack, when: datetime, fold: int, zone: tzinfo
) -> None:
    """In the hour that clocks repeat, Python considers it unequal to any time in another zone (PEP 495)."""
    value = when.replace(fold=fold, tzinfo=zone)

    kept = serializer.loads(serializer.dumps({"at": value}))["at"]

    assert (kept.replace(tzinfo=None), kept.fold, kept.utcoffset()) == (when, fold, value.utcoffset())
    assert same(kept, value)


@both
def test_a_zone_unknown_on_this_machine_does_not_lose_the_session(serializer: Msgpack) -> None:
    value = datetime(2024, 5, 6, tzinfo=zone_from_a_file(key="My/Own"))

    payload = kept_or_refused(serializer, {"at": value}, 'session["at"]')

    assert payload is None or serializer.loads(payload)["at"] == value


@both
def test_a_zone_with_other_rules_here_loads_as_the_same_instant(serializer: Msgpack) -> None:
    value = datetime(2024, 5, 6, tzinfo=zone_from_a_file(key="Asia/Kathmandu"))

    assert serializer.loads(serializer.dumps({"at": value}))["at"] == value


# Data that contains itself, or is nested too deeply


def nested(levels: int, wrap: Callable[[Any], Any], value: Any = 1) -> Any:
    for _ in range(levels):
        value = wrap(value)
    return value


WRAPS: dict[str, Callable[[Any], Any]] = {
    "list": lambda value: [value],
    "dict": lambda value: {"k": value},
    "tuple": lambda value: (value,),
    "frozenset": lambda value: frozenset([value]),
    "mixed": lambda value: [{"k": (value,)}],
}


@pytest.mark.guarantee(3)
@both
@rows("wrap", ["list", "dict", "tuple", "frozenset"])
@rows("leaf", [1, (), 2**64, 1.5, nan], ids=str)
def test_a_hundred_levels_of_any_container_are_the_limit(serializer: Msgpack, wrap: str, leaf: Any) -> None:
    deepest = {"a": nested(MAX_DEPTH - 1, WRAPS[wrap], leaf)}
    assert exact(serializer.loads(serializer.dumps(deepest))) == exact(deepest)

    with pytest.raises(UnsupportedValue, match="too deep"):
        serializer.dumps({"a": nested(MAX_DEPTH, WRAPS[wrap], leaf)})


@both
@rows("levels", [MAX_DEPTH, 1_000, 50_000])
@rows("wrap", ["list", "dict", "tuple", "mixed"])
def test_data_that_is_too_deep_is_rejected_with_its_key(serializer: Msgpack, wrap: str, levels: int) -> None:
    with pytest.raises(UnsupportedValue, match="too deep, or contains itself") as caught:
        serializer.dumps({"fine": 1, "cart": nested(levels, WRAPS[wrap])})

    assert caught.value.path == 'session["cart"]'


@both
def test_data_that_contains_itself_is_rejected(serializer: Msgpack) -> None:
    some_list: list[Any] = []
    some_list.append(some_list)
    some_dict: dict[str, Any] = {}
    some_dict["self"] = some_dict
    through_a_tuple: list[Any] = []
    through_a_tuple.append((through_a_tuple, through_a_tuple))
    session: dict[str, Any] = {}
    session["session"] = session

    for data in ({"a": some_list}, {"a": some_dict}, {"a": through_a_tuple}, session):
        with pytest.raises(UnsupportedValue, match="contains itself"):
            serializer.dumps(data)


@both
def test_the_error_does_not_name_the_type_of_what_is_far_inside(serializer: Msgpack) -> None:
    cycle: dict[str, Any] = {"name": "a str"}
    cycle["self"] = cycle

    with pytest.raises(UnsupportedValue) as caught:
        serializer.dumps({"v": cycle})

    assert str(caught.value) == (
        'session["v"] is a nested value, which a session cannot hold. It is too deep, or contains itself.'
    )


@both
def test_a_key_with_a_bracket_is_named_in_full(serializer: Msgpack) -> None:
    with pytest.raises(UnsupportedValue, match="too deep") as caught:
        serializer.dumps({"a]b": nested(MAX_DEPTH, WRAPS["list"])})

    assert caught.value.path == 'session["a]b"]'


@both
def test_one_value_in_two_places_is_not_a_cycle(serializer: Msgpack) -> None:
    shared = [1, (2,)]

    assert serializer.loads(serializer.dumps({"a": shared, "b": [shared, shared]})) == {"a": shared, "b": [shared] * 2}


# Garbage

every_type = Msgpack().dumps(EVERY_TYPE | {"big int": 2**70, "Decimal": Decimal("1.5")})


@given(
    st.binary(max_size=40) | st.binary(max_size=40).map(b"{".__add__) | st.binary(max_size=20).map(b"\x81\xa1a".__add__)
)
@example(b"")
@example(b"{")
@example(b"\x81\xa1a\xdd\xff\xff\xff\xff")
@example(b"\x81\xa1a\xc9\xff\xff\xff\xff\x0a")
@example(b'{"a":' + b"[" * 100_000)
@example(b'{"a":' + b"9" * 100_000 + b"}")
@example(b"\x81\xa1a" + b"\x91" * 100_000)
@example(b"\x81\xa1a\xc7\x01\x63\x00")
def test_garbage_raises_or_decodes_to_a_dict(payload: bytes) -> None:
    for serializer in SERIALIZERS:
        try:
            data = serializer.loads(payload)
        except Exception:
            continue
        assert type(data) is dict
        assert exact(serializer.loads(serializer.dumps(data))) == exact(data)


@rows(
    "payload",
    [
        b'{"a":' + b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH + b"}",
        b'{"a":' * MAX_DEPTH + b'{"a":1}' + b"}" * MAX_DEPTH,
        b'{"a":NaN,"b":' + b"[" * MAX_DEPTH + b"1" + b"]" * MAX_DEPTH + b"}",
        b"\x81\xa1a" + b"\x91" * MAX_DEPTH + b"\x01",
        b"\x81\xa1a" + b"\x81\xa1a" * MAX_DEPTH + b"\x01",
        b"\x81" + b"\x91" * MAX_DEPTH + b"\x01" + b"\x01",
        b"\x81\xa1a\xd6\x09sNaN",
    ],
    ids=lambda payload: str(payload[:20]),
)
def test_what_could_not_be_written_again_is_not_read(payload: bytes) -> None:
    """Otherwise each request that changes the session would fail, until the cookie ends."""
    with pytest.raises(ValueError, match=r"too deep|signaling"):
        PlainJson().loads(payload)


@both
def test_any_key_that_can_be_read_can_be_written(serializer: Msgpack) -> None:
    """MessagePack may have an array as a key."""
    read = serializer.loads(b"\x81\x92\x01\x91\x02\x01")

    assert read == {(1, (2,)): 1}
    assert serializer.loads(serializer.dumps(read)) == read


@given(st.data())
def test_a_damaged_payload_raises_or_decodes_to_a_dict(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(every_type) - 1))
    damaged = every_type[:at] + data.draw(st.binary(max_size=3)) + every_type[at + data.draw(st.integers(0, 3)) :]

    try:
        read = Msgpack().loads(damaged)
    except Exception:
        return
    assert type(read) is dict
    assert exact(Msgpack().loads(Msgpack().dumps(read))) == exact(read)


@both
@rows("content", [None, True, 1, 1.5, "text", b"bytes", [1], []])
def test_a_payload_that_is_not_an_object_raises(serializer: Msgpack, content: Any) -> None:
    with pytest.raises(msgspec.ValidationError, match="Expected `object`"):
        serializer.loads(msgspec.msgpack.encode(content))


@both
def test_an_unknown_extension_type_raises(serializer: Msgpack) -> None:
    with pytest.raises(Exception, match="99"):
        serializer.loads(msgspec.msgpack.encode({"a": msgspec.msgpack.Ext(99, b"")}))


# Matching data with a payload: never a wrong yes, because a yes means that nothing is written


def retyped(draw: st.DrawFn, value: Any) -> Any:
    """The same value, with a few types replaced by others that look or compare alike."""
    kind = type(value)
    if kind is dict:
        value = {draw(alike(key)): retyped(draw, item) for key, item in value.items()}
    elif kind in (list, tuple):
        value = kind(retyped(draw, item) for item in value)
    return draw(alike(value))


def alike(value: Any) -> st.SearchStrategy[Any]:
    kind = type(value)
    others: list[Any] = [value, value, value]
    if kind in (bool, int, float) and value == 1:
        others += [True, 1, 1.0, "1", Decimal(1)]
    elif kind is str:
        others += [value.encode("utf-8", "surrogatepass")]
    elif kind is list:
        others += [tuple(value)]
    elif kind is tuple:
        others += [list(value)]
    elif kind is bytes:
        others += [value.hex()]
    elif kind is float and value == 0:
        others += [0.0, -0.0, 0]
    return st.sampled_from(others)


@st.composite
def twins(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    few = st.sampled_from([None, False, True, 0, 1, 0.0, 1.0, "", "1", b"1", nan, Decimal(1), 2**64, (), 2.5])
    tree = st.recursive(
        few,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.sampled_from("ab"), inner)
        ),
        max_leaves=6,
    )
    one = draw(st.dictionaries(st.sampled_from("abc"), tree, max_size=3))
    return one, {key: retyped(draw, value) for key, value in one.items()}


@both
@given(twins())
def test_data_never_matches_what_differs_from_it_in_a_type(
    serializer: Msgpack, pair: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    stored, data = pair

    if serializer.matches(serializer.dumps(stored), data):
        assert exact(stored) == exact(data)


@both
@given(sessions, sessions)
def test_data_never_matches_other_data(serializer: Msgpack, stored: dict[str, Any], data: dict[str, Any]) -> None:
    assert not serializer.matches(serializer.dumps(stored), data) or exact(stored) == exact(data)


@both
@rows("where", ["value", "item", "key"])
@rows(
    ("plain", "other"),
    [
        (1, Number.ONE),
        (1, IntRight.READ),
        (1, Int(1)),
        ("a", Word.A),
        ("a", Str("a")),
        (1.5, Float(1.5)),
        (b"a", bytearray(b"a")),
        (b"a", Bytes(b"a")),
        ({"a": 1}, Dict(a=1)),
        ({"a": 1}, OrderedDict(a=1)),
        ({"a": [1]}, defaultdict(list, a=[1])),
        ([1], List([1])),
        ([1], (1,)),
        ([1], Tuple((1,))),
        ([1], {1}),
        ([1], frozenset({1})),
        ([1, 2], Point(1, 2)),
        ({"a": 1}, Data()),
        ({"a": 1}, Struct()),
        ("12345678-1234-5678-1234-567812345678", UUID("12345678-1234-5678-1234-567812345678")),
        ("2024-05-06", date(2024, 5, 6)),
        ("2024-05-06T00:00:00", naive(2024, 5, 6)),
        ("1.5", Decimal("1.5")),
        ((1,), msgspec.msgpack.Ext(1, msgspec.msgpack.encode([1]))),
    ],
)
def test_data_never_matches_a_payload_that_only_resembles_it(
    serializer: Msgpack, plain: Any, other: Any, where: str
) -> None:
    """It would work in this request, and be another value or an error in the next one."""
    try:
        stored, data = {
            "value": lambda: ({"a": plain}, {"a": other}),
            "item": lambda: ({"a": [{"b": plain}]}, {"a": [{"b": other}]}),
            "key": lambda: ({"a": {plain: 1}}, {"a": {other: 1}}),
        }[where]()
    except TypeError:
        return  # not hashable, so it cannot be a key
    try:
        payload = serializer.dumps(stored)
    except UnsupportedValue:
        return  # not a supported key

    assert not serializer.matches(payload, data)


@both
@rows(
    "data",
    [
        {},
        {"a": 1, "b": [True, None, "x", {"c": 1.5}]},
        {"a": {"b": {"c": []}}},
    ],
)
def test_plain_data_matches_itself(serializer: Msgpack, data: dict[str, Any]) -> None:
    """Otherwise every request would pay for a full comparison."""
    assert serializer.matches(serializer.dumps(data), copy.deepcopy(data))


@both
@rows("value", [object(), "\ud800", 2**64, nested(2000, WRAPS["list"]), 1j])
def test_data_that_cannot_be_encoded_does_not_match_and_raises_nothing(serializer: Msgpack, value: Any) -> None:
    assert not serializer.matches(serializer.dumps({"a": 1}), {"a": value})


@rows("payload", [b"", b"{", b"\xc1", b"{}x", b"\x80\x80"])
def test_garbage_matches_no_data(payload: bytes) -> None:
    assert not Msgpack().matches(payload, {})


def test_a_serializers_own_matches_is_used() -> None:
    serializer = Msgpack()

    assert matcher(serializer) == serializer.matches


def test_the_bytes_of_any_other_serializer_are_compared() -> None:
    class Json:
        def dumps(self, data: dict[str, Any], /) -> bytes:
            return json.dumps(data).encode()

        def loads(self, payload: bytes, /) -> dict[str, Any]:
            return dict(json.loads(payload))

    matches = matcher(Json())

    assert matches(b'{"a": 1}', {"a": 1})
    assert not matches(b'{"a": 1}', {"a": 2})


# Encoding loaded data again


plain_items = st.dictionaries(
    st.text(max_size=4),
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(st.characters(codec=None), max_size=4),
    max_size=2,
)


any_items = st.dictionaries(st.sampled_from("abcd"), sessions | plain_items, max_size=2)


def check_patched(serializer: Msgpack, payload: bytes, changed: dict[str, Any], removed: set[str]) -> bytes | None:
    """Change the data of a payload, and check that only what has changed is other data afterwards."""
    before = serializer.loads(payload)
    now = {**{key: value for key, value in before.items() if key not in removed}, **changed}
    try:
        patched = serializer.patched(payload, now, [*removed, *changed])
    except UnsupportedValue:
        with pytest.raises(UnsupportedValue):
            serializer.dumps(now)
        return None
    if patched is not None:
        if patched is payload:
            assert same_items(before, now)
        else:
            again = serializer.loads(serializer.dumps(now))
            assert exact([*serializer.loads(patched).items()]) == exact([*again.items()])
            assert not same_items(before, again)
    return patched


@both
@given(sessions, plain_items | any_items, st.sets(st.sampled_from("abcd")))
def test_what_has_changed_is_encoded_alone(
    serializer: Msgpack, data: dict[str, Any], changed: dict[str, Any], removed: set[str]
) -> None:
    try:
        payload = serializer.dumps(data)
    except UnsupportedValue:
        assume(False)
    check_patched(serializer, payload, changed, removed)


@both
@given(json_sessions, plain_items | any_items, st.sets(st.sampled_from("abcd")))
def test_what_has_changed_in_pythons_json_is_encoded_alone(
    serializer: Msgpack, data: dict[str, Any], changed: dict[str, Any], removed: set[str]
) -> None:
    check_patched(serializer, json.dumps(data).encode(), changed, removed)


@both
@rows("inside", [(1,), {1}, 2**70, date(2024, 5, 6), "\ud800", nan, inf, -inf, b"a"])
def test_what_has_not_changed_is_copied_whatever_its_type(serializer: Msgpack, inside: Any) -> None:
    data = {"a": [{"b": inside}], "n": 1}
    payload = Msgpack().dumps(data)

    patched = Msgpack().patched(payload, {"a": "not looked at", "n": 2}, ["n"])

    assert patched is not None
    assert exact(serializer.loads(patched)) == exact({**data, "n": 2})


@both
@rows("value", [2, "x", None, [1], {"a": [{}]}, (1,), {1}, 2**70, date(2024, 5, 6), "\ud800", nan, b"a", {1: 2}])
def test_any_value_may_be_what_has_changed(serializer: Msgpack, value: Any) -> None:
    payload = serializer.dumps({"n": 1})

    patched = check_patched(serializer, payload, {"n": value}, set())

    # Where a part of JSON would no longer be plain JSON, all of it has to become MessagePack.
    is_same_format = serializer.dumps({"n": value})[:1] == payload[:1]
    assert is_same_format or patched is None
    assert patched is not None or not is_same_format or value in (2**70, "\ud800")


@rows(
    ("serializer", "base", "data", "changed"),
    [
        (Msgpack(), b'{"n":1}', {"n": 2}, ["n"]),
        (Msgpack(), Msgpack().dumps({"n": 1}), {"n": [object()]}, ["n"]),
        (PlainJson(), b'{"n":1}', {"n": [object()]}, ["n"]),
        (PlainJson(), Msgpack().dumps({"n": 1}), {"n": 2}, ["n"]),
        (PlainJson(), b'{"a":[NaN],"n":1}', {"a": [nan], "n": 2}, ["n"]),
        (PlainJson(), b'{"n": 1}', {"n": 2}, ["n"]),  # Python's json may have written other bytes for the same data
        (Msgpack(), Msgpack().dumps({"n": [1, 2]}), {"n": [2, 1]}, ["n"]),  # or a dict in another order
        (Msgpack(), Msgpack().dumps({"n": 1, "m": 1}), {"m": 1, "n": 2}, ["n"]),
        (Msgpack(), Msgpack().dumps({"n": 1}), {"n": 2, "unknown": 1}, ["n"]),
        (Msgpack(), Msgpack().dumps({1: 1}), {True: 2}, [True]),
        (Msgpack(), Msgpack().dumps({(1,): 1, "n": 1}), {(1,): 1, "n": 2}, ["n"]),
        (Msgpack(), Msgpack().dumps({"n": 1}), {"n": 1, "\ud800": 1}, ["\ud800"]),
        (Msgpack(), Msgpack().dumps({str(key): 1 for key in range(101)}), {str(key): 1 for key in range(101)}, ["1"]),
        (
            PlainJson(),
            PlainJson().dumps({str(key): 1 for key in range(101)}),
            {str(key): 1 for key in range(101)},
            ["1"],
        ),
    ],
)
def test_all_is_encoded_where_a_part_cannot_be_or_would_take_longer(
    serializer: Msgpack, base: bytes, data: dict[Any, Any], changed: list[Any]
) -> None:
    assert serializer.patched(base, data, changed) is None


@both
def test_many_values_that_hold_others_are_copied(serializer: Msgpack) -> None:
    data: dict[str, Any] = {str(key): [key] for key in range(101)}

    assert check_patched(serializer, serializer.dumps(data), {"1": 2}, set()) is not None


def test_only_the_builtin_serializers_encode_parts() -> None:
    class Json:
        def dumps(self, data: dict[str, Any], /) -> bytes:
            return json.dumps(data).encode()

        def loads(self, payload: bytes, /) -> dict[str, Any]:
            return dict(json.loads(payload))

    assert patcher(Json())(b'{"a":1}', {"a": 2}, ["a"]) is None
    assert patcher(PlainJson())(b'{"a":1}', {"a": 2}, ["a"]) == b'{"a":2}'


@rows("parent", [Msgpack, PlainJson])
def test_a_subclass_with_another_format_inherits_no_shortcut(parent: type[Msgpack]) -> None:
    class Reversed(parent):  # type: ignore[misc, valid-type]
        def dumps(self, data: dict[str, Any], /) -> bytes:
            return bytes(super().dumps(data)[::-1])

        def loads(self, payload: bytes, /) -> dict[str, Any]:
            return dict(super().loads(payload[::-1]))

    serializer = Reversed()
    base = serializer.dumps({"n": 1})

    assert patcher(serializer)(base, {"n": 2}, ["n"]) is None
    assert matcher(serializer)(base, {"n": 1})
    assert not is_builtin(serializer)


# JSON, as Starlette writes and reads it


@given(json_sessions, st.sampled_from([None, 0, 2]), st.booleans())
def test_pythons_json_is_read(data: dict[str, Any], indent: int | None, ensure_ascii: bool) -> None:
    text = json.dumps(data, indent=indent, ensure_ascii=ensure_ascii)
    payload = text.encode(errors="replace")  # a lone surrogate can only be written as an escape

    assert exact(PlainJson().loads(payload)) == exact(json.loads(payload)) == exact(Msgpack().loads(payload))


@rows(
    "text",
    [
        '{"a": NaN, "b": -Infinity}',
        '{"a": "\\ud800"}',
        '{"\\udc00": 1}',
        '{ "a" : [ 1 , 2 ] }\r\n\t ',
        '{"a": 1, "a": 2}',
        '{"a": 123456789012345678901234567890}',
        '{"a": 1e400}',
        '{"a": -0.0, "b": -0, "c": 1E2, "d": 1.0}',
        "{}",
    ],
)
def test_json_is_decoded_as_python_decodes_it(text: str) -> None:
    assert exact(PlainJson().loads(text.encode())) == exact(json.loads(text))


def can_be_said_in_json(value: Any) -> bool:
    """RFC 8259 supports neither NaN nor infinity, nor lone surrogates."""
    if type(value) is dict:
        return all(map(can_be_said_in_json, [*value.keys(), *value.values()]))
    if type(value) is list:
        return all(map(can_be_said_in_json, value))
    if type(value) is float:
        return isfinite(value)
    return type(value) is not str or not any("\ud800" <= character <= "\udfff" for character in value)


@given(json_sessions)
def test_python_reads_plain_data_as_json(data: dict[str, Any]) -> None:
    try:
        payload = PlainJson().dumps(data)
    except UnsupportedValue:
        return
    if can_be_said_in_json(data):
        assert exact(json.loads(payload)) == exact(data)
    else:
        assert payload == Msgpack().dumps(data)


@rows("value", [None, True, 1, -5, 2**53, 1.5, "text", "é", [], {}, [{"a": [None]}]])
def test_data_that_json_supports_is_written_as_json(value: Any) -> None:
    payload = PlainJson().dumps({"a": value})

    assert payload[:1] == b"{"
    assert exact(json.loads(payload)) == exact({"a": value})


@rows("value", [(), {1}, b"", nan, inf, "\ud800", {1: 2}, UUID(int=0), date(2024, 1, 1), Decimal(1)])
def test_data_that_json_lacks_is_written_as_messagepack(value: Any) -> None:
    payload = PlainJson().dumps({"a": value})

    assert payload == Msgpack().dumps({"a": value})
    assert payload[:1] != b"{"


def test_no_messagepack_object_begins_like_json() -> None:
    for size in (0, 1, 15, 16, 70_000):
        assert Msgpack().dumps({str(key): None for key in range(size)})[:1] != b"{"


def test_the_codes_on_the_wire_are_those_of_the_table() -> None:
    """They exist in cookies and stores: a code is never reused for another type."""
    ext: Any = msgspec.msgpack.decode(
        Msgpack().dumps(
            {
                "1": (1,),
                "2": {1},
                "3": frozenset({1}),
                "4": naive(2024, 5, 6, 7, 8, 9),
                "4z": datetime(2024, 5, 6, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
                "5": date(2024, 5, 6),
                "6": time(7, 8),
                "7": timedelta(1, 2, 3),
                "8": UUID(int=1),
                "9": Decimal("1.50"),
                "10": 2**64,
                "11": "\ud800",
            }
        )
    )
    encode = msgspec.msgpack.encode

    assert {name: (value.code, bytes(value.data)) for name, value in ext.items()} == {
        "1": (1, encode([1])),
        "2": (2, encode([1])),
        "3": (3, encode([1])),
        "4": (4, encode("2024-05-06T07:08:09")),
        "4z": (4, encode(["2024-05-06T00:00:00", 1, "Europe/Berlin", 7_200_000_000])),
        "5": (5, b"2024-05-06"),
        "6": (6, encode("07:08:00")),
        "7": (7, encode([1, 2, 3])),
        "8": (8, UUID(int=1).bytes),
        "9": (9, b"1.50"),
        "10": (10, b"\x01" + bytes(8)),
        "11": (11, b"\xed\xa0\x80"),
    }


def test_a_set_in_another_order_is_no_change() -> None:
    """Although nothing was moved: another process may write the same set in another order."""
    here, there = (
        msgspec.msgpack.encode({"s": msgspec.msgpack.Ext(2, msgspec.msgpack.encode(members)), "n": 1})
        for members in (["a", "b", "c"], ["c", "a", "b"])
    )
    assert Msgpack().loads(here) == Msgpack().loads(there)

    assert not differs_for_sure(here, there)


def test_other_plain_data_certainly_differs() -> None:
    assert differs_for_sure(b'{"n":2}', b'{"n":1}')


def test_json_and_messagepack_may_hold_the_same_data() -> None:
    json_bytes, msgpack_bytes = PlainJson().dumps({"n": 1}), Msgpack().dumps({"n": 1})

    assert not differs_for_sure(json_bytes, msgpack_bytes)
    assert not differs_for_sure(msgpack_bytes, json_bytes)


def test_bytes_in_another_order_may_be_items_in_another_order() -> None:
    assert not differs_for_sure(b'{"n":1,"m":2}', b'{"m":2,"n":1}')
