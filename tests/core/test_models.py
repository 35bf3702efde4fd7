"""Models and plain data: what goes in comes out, for each kind of model."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict
from uuid import UUID

import msgspec
import pydantic
import pytest
from pydantic import AnyUrl, BaseModel, Field, RootModel, SecretStr, ValidationError

from starsessions.core.merge import same
from starsessions.core.models import copied, field_of, shape_of
from starsessions.core.serializer import Msgpack
from starsessions.exceptions import ImproperlyConfigured
from tests.rows import rows


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Point(NamedTuple):
    x: int
    y: int


ORIGIN, ONE = Point(0, 0), UUID(int=1)


class Item(BaseModel):
    name: str
    count: int = 1


@dataclass
class Line:
    name: str
    count: int = 1


class Card(msgspec.Struct, tag="card"):
    number: str


class Cash(msgspec.Struct, tag="cash"):
    amount: Decimal


class Pair(msgspec.Struct, array_like=True):
    one: int
    two: int = 2


class Renamed(msgspec.Struct, rename="camel"):
    first_name: str


class PydanticModel(BaseModel):
    items: list[Item] = []
    by_name: dict[str, Item] = {}
    color: Color = Color.RED
    level: Level = Level.LOW
    numbers: set[int] = set()
    pair: tuple[int, str] = (1, "a")
    frozen: frozenset[str] = frozenset()
    point: Point = Point(0, 0)
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    day: date = date(2026, 1, 1)
    hour: time = time(12)
    lasts: timedelta = timedelta(minutes=1)
    price: Decimal = Decimal("1.00")
    key: UUID = UUID(int=1)
    raw: bytes = b"\xff"
    url: AnyUrl | None = None
    path: Path = Path("/")
    address: IPv4Address = IPv4Address("127.0.0.1")
    ratio: float = float("nan")
    aliased: int = Field(1, alias="somethingElse")
    anything: Any = None


@dataclass
class Dataclass:
    items: list[Line] = field(default_factory=list)
    by_name: dict[str, Line] = field(default_factory=dict)
    color: Color = Color.RED
    level: Level = Level.LOW
    numbers: set[int] = field(default_factory=set)
    pair: tuple[int, str] = (1, "a")
    point: Point = ORIGIN
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    price: Decimal = Decimal("1.00")
    key: UUID = ONE
    raw: bytes = b"\xff"
    ratio: float = float("nan")
    anything: Any = None


class StructModel(msgspec.Struct, rename="camel"):
    paid_with: Card | Cash | None = None
    pair: Pair | None = None
    renamed: Renamed | None = None
    line: Line | None = None
    color: Color = Color.RED


class Dict(TypedDict, total=False):
    items: list[Line]
    color: Literal["red", "blue"]


@pydantic.dataclasses.dataclass
class PydanticDataclass:
    items: list[Item] = field(default_factory=list)
    color: Color = Color.RED


MODELS: list[Any] = [
    PydanticModel(),
    PydanticModel(
        items=[Item(name="tea", count=2)],
        by_name={"tea": Item(name="tea")},
        color=Color.BLUE,
        numbers={3, 1},
        pair=(2, "b"),
        frozen=frozenset({"x"}),
        point=Point(1, 2),
        url=AnyUrl("https://example.test/"),
        path=Path("/tmp"),
        somethingElse=5,
        anything=[{"deep": (1, {2})}],
    ),
    Dataclass(),
    Dataclass(
        items=[Line("tea", 2)],
        by_name={"tea": Line("tea")},
        color=Color.BLUE,
        numbers={3, 1},
        pair=(2, "b"),
        point=Point(1, 2),
        anything=[{"deep": (1, {2})}],
    ),
    StructModel(),
    StructModel(Cash(Decimal("1.50")), Pair(1, 3), Renamed("Ann"), Line("tea"), Color.BLUE),
    StructModel(Card("4111")),
    PydanticDataclass(),
    PydanticDataclass([Item(name="tea")], Color.BLUE),
]


def kind(model: Any) -> str:
    return type(model).__name__


@rows("model", MODELS, ids=kind)
def test_a_model_comes_back_as_it_was_and_can_be_stored(model: Any) -> None:
    shape = shape_of(type(model))
    plain = shape.plain(model)
    again = shape.load(Msgpack().loads(Msgpack().dumps(plain)))
    assert type(again) is type(model)
    assert same(shape.plain(again), plain)
    assert same(shape.parts(shape.load(plain)), shape.parts(model))
    assert shape.fields == plain.keys()


def test_a_typed_dict_comes_back_as_it_was() -> None:
    shape = shape_of(Dict)
    data: Dict = {"items": [Line("tea")], "color": "blue"}
    assert shape.plain(data) == {"items": [{"name": "tea", "count": 1}], "color": "blue"}
    assert shape.load(shape.plain(data)) == data
    assert shape.load({}) == {}
    assert shape.fields == {"items", "color"}


def test_what_is_plain_has_no_object_of_the_model() -> None:
    model = Dataclass(anything=[1])
    plain = shape_of(Dataclass).plain(model)
    model.anything.append(2)
    assert plain["anything"] == [1]
    data = {"a": [{1}, (2,)]}
    copy = copied(data)
    assert same(copy, data)
    assert copy["a"] is not data["a"]


@pytest.mark.parametrize("value", [Color.RED, Line("tea"), Pair(1), Point(1, 2)], ids=kind)
def test_what_would_lose_its_type_is_told_apart_by_its_parts(value: Any) -> None:
    shape = shape_of(Dataclass)
    model = Dataclass(anything=value)
    assert not same(shape.parts(shape.load(shape.plain(model))), shape.parts(model))


def test_a_secret_is_told_apart_too() -> None:
    class Model(BaseModel):
        secret: SecretStr | None = None

    shape = shape_of(Model)
    model = Model(secret=SecretStr("xyzzy"))
    assert not same(shape.parts(shape.load(shape.plain(model))), shape.parts(model))


def test_what_nobody_can_write_stays_as_it_is() -> None:
    thing = object()
    assert shape_of(Dataclass).plain(Dataclass(anything=thing))["anything"] is thing
    assert shape_of(PydanticModel).plain(PydanticModel(anything=thing))["anything"] is thing


def test_computed_fields_are_not_stored() -> None:
    class Model(BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        count: int = 1

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return self.count * 2

    shape = shape_of(Model)
    assert shape.plain(Model()) == {"count": 1}
    assert shape.load({"count": 2}).double == 4


def test_a_strict_model_reads_what_was_stored() -> None:
    class Model(BaseModel):
        model_config = pydantic.ConfigDict(strict=True)
        color: Color = Color.RED

    shape = shape_of(Model)
    assert shape.load(shape.plain(Model(color=Color.BLUE))).color is Color.BLUE


class Root(RootModel[dict[str, int]]):
    pass


@pytest.mark.parametrize("model", [int, list[int], Point, Root])
def test_a_class_without_named_fields_is_no_model(model: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="is no model: take a pydantic model"):
        shape_of(model)


# One field at a time


@dataclasses.dataclass(frozen=True)
class Frozen:
    count: int = 0


class FrozenStruct(msgspec.Struct, frozen=True, rename={"count": "n"}):
    count: int = 0


class FrozenModel(BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    count: int = 0


@pytest.mark.parametrize(("model", "name"), [(Frozen, "count"), (FrozenStruct, "n"), (FrozenModel, "count")], ids=str)
def test_a_field_can_be_set_though_the_model_is_frozen(model: Callable[..., Any], name: str) -> None:
    one, other = model(), model(count=3)
    shape_of(type(one)).set(one, name, other)
    assert one == other


def test_a_key_of_a_typed_dict_can_be_set_and_taken_away() -> None:
    data: Dict = {"color": "red"}
    shape = shape_of(Dict)
    shape.set(data, "color", {"color": "blue"})
    assert data == {"color": "blue"}
    shape.set(data, "color", {})
    shape.set(data, "color", {})
    assert data == {}


# What is wrong


def error_of(model: type[Any], data: dict[str, Any]) -> Exception:
    with pytest.raises((ValidationError, msgspec.ValidationError)) as caught:
        shape_of(model).load(data)
    return caught.value


def test_an_error_names_the_field_and_shows_no_value() -> None:
    class Checked(BaseModel):
        count: int = 1

        @pydantic.model_validator(mode="after")
        def check(self) -> "Checked":
            raise ValueError("xyzzy")

    @dataclass
    class CheckedDataclass:
        count: int = 1

        def __post_init__(self) -> None:
            raise ValueError("xyzzy")

    assert field_of(error_of(PydanticModel, {"by_name": {"xyzzy": 5}})) == "by_name"
    assert field_of(error_of(Dataclass, {"by_name": {"xyzzy": {"name": 1}}})) == "by_name"
    assert field_of(error_of(Dataclass, {"items": [1]})) == "items"
    assert field_of(error_of(Dataclass, {"color": "xyzzy"})) == "color"
    assert field_of(error_of(Checked, {})) == ""
    assert field_of(error_of(CheckedDataclass, {})) == ""
    assert field_of(ValueError("`$.xyzzy`")) == ""
