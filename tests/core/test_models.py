"""Models and plain data: each kind of model loads unchanged."""

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
from starsessions.core.models import adapter_for, copy_of, field_of
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
    renamed: Renamed | None = None
    line: Line | None = None
    color: Color = Color.RED


class Tagged(msgspec.Struct):
    paid_with: Card | Cash | None = None


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
    StructModel(Renamed("Ann"), Line("tea"), Color.BLUE),
    PydanticDataclass(),
    PydanticDataclass([Item(name="tea")], Color.BLUE),
]


def kind(model: Any) -> str:
    return type(model).__name__


@rows("model", MODELS, ids=kind)
def test_a_model_can_be_stored_and_loads_unchanged(model: Any) -> None:
    adapter = adapter_for(type(model))
    plain = adapter.plain(model)
    again = adapter.load(Msgpack().loads(Msgpack().dumps(plain)))
    assert type(again) is type(model)
    assert same(adapter.plain(again), plain)
    assert same(adapter.parts(adapter.load(plain)), adapter.parts(model))
    assert adapter.fields == plain.keys()


def test_a_typed_dict_loads_unchanged() -> None:
    adapter = adapter_for(Dict)
    data: Dict = {"items": [Line("tea")], "color": "blue"}
    assert adapter.plain(data) == {"items": [{"name": "tea", "count": 1}], "color": "blue"}
    assert adapter.load(adapter.plain(data)) == data
    assert adapter.load({}) == {}
    assert adapter.fields == {"items", "color"}


def test_plain_data_shares_no_object_with_the_model() -> None:
    model = Dataclass(anything=[1])
    plain = adapter_for(Dataclass).plain(model)
    model.anything.append(2)
    assert plain["anything"] == [1]
    data = {"a": [{1}, (2,)]}
    copy = copy_of(data)
    assert same(copy, data)
    assert copy["a"] is not data["a"]


@rows("value", [Color.RED, Line("tea"), Renamed("Ann")], ids=kind)
def test_parts_reveal_a_value_that_would_lose_its_type(value: Any) -> None:
    adapter = adapter_for(Dataclass)
    model = Dataclass(anything=value)
    assert not same(adapter.parts(adapter.load(adapter.plain(model))), adapter.parts(model))


def test_parts_reveal_a_secret_that_would_be_masked() -> None:
    class Model(BaseModel):
        secret: SecretStr | None = None

    adapter = adapter_for(Model)
    model = Model(secret=SecretStr("xyzzy"))
    assert not same(adapter.parts(adapter.load(adapter.plain(model))), adapter.parts(model))


def test_a_value_that_nothing_can_convert_is_left_alone() -> None:
    thing = object()
    assert adapter_for(Dataclass).plain(Dataclass(anything=thing))["anything"] is thing
    assert adapter_for(PydanticModel).plain(PydanticModel(anything=thing))["anything"] is thing


def test_tags_of_structs_are_not_stored_so_such_a_union_does_not_load_again() -> None:
    adapter = adapter_for(Tagged)
    with pytest.raises(msgspec.ValidationError, match=r"paidWith|paid_with|type"):
        adapter.load(adapter.plain(Tagged(Cash(Decimal("1.50")))))


def test_computed_fields_are_not_stored() -> None:
    class Model(BaseModel):
        model_config = pydantic.ConfigDict(extra="forbid")
        count: int = 1

        @pydantic.computed_field  # type: ignore[prop-decorator]
        @property
        def double(self) -> int:
            return self.count * 2

    adapter = adapter_for(Model)
    assert adapter.plain(Model()) == {"count": 1}
    assert adapter.load({"count": 2}).double == 4


def test_a_strict_model_loads_its_stored_data() -> None:
    class Model(BaseModel):
        model_config = pydantic.ConfigDict(strict=True)
        color: Color = Color.RED

    adapter = adapter_for(Model)
    assert adapter.load(adapter.plain(Model(color=Color.BLUE))).color is Color.BLUE


class Root(RootModel[dict[str, int]]):
    pass


@rows("model", [int, list[int], Point, Root])
def test_a_class_without_named_fields_is_rejected(model: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="is not a model: pass a pydantic model"):
        adapter_for(model)


# One field at a time


@dataclasses.dataclass(frozen=True)
class Frozen:
    count: int = 0


class FrozenStruct(msgspec.Struct, frozen=True, rename={"count": "n"}):
    count: int = 0


class FrozenModel(BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    count: int = 0


@rows(("model", "name"), [(Frozen, "count"), (FrozenStruct, "n"), (FrozenModel, "count")], ids=str)
def test_a_field_of_a_frozen_model_can_be_set(model: Callable[..., Any], name: str) -> None:
    one, other = model(), model(count=3)
    adapter_for(type(one)).set(one, name, other)
    assert one == other


def test_a_key_of_a_typed_dict_can_be_set_and_removed() -> None:
    data: Dict = {"color": "red"}
    adapter = adapter_for(Dict)
    adapter.set(data, "color", {"color": "blue"})
    assert data == {"color": "blue"}
    adapter.set(data, "color", {})
    adapter.set(data, "color", {})
    assert data == {}


# Errors


def error_of(model: type[Any], data: dict[str, Any]) -> Exception:
    with pytest.raises((ValidationError, msgspec.ValidationError)) as caught:
        adapter_for(model).load(data)
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
