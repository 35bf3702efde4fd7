"""Models <-> plain data: pydantic models, dataclasses, msgspec structs and TypedDicts, field by field.

Plain data is what a serializer of ours keeps. A field's value becomes plain by taking models apart into dicts, an Enum
into its value and, of what only pydantic knows (a URL, a path), the text. `parts` still shows those types, so that
comparing it before and after says whether a value comes back as it was.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.inspect import DataclassType, StructType, TypedDictType, type_info
from msgspec.structs import force_setattr

from starsessions.exceptions import ImproperlyConfigured

M = TypeVar("M")

_NATIVE = (bytes, datetime, date, time, timedelta, UUID, Decimal)
_LEAVES: frozenset[type] = frozenset({str, int, float, bool, type(None), *_NATIVE})
_CONTAINERS: frozenset[type] = frozenset({list, tuple, set, frozenset})

_MSGSPEC_PATH = re.compile(r"`\$\.?(?P<path>[^`]*)`$")
"""Where msgspec says what is wrong. Keys of dicts and items of lists are `[...]` there, so it shows no value."""


class ModelAdapter(Protocol[M]):
    """What is known of a model class."""

    fields: frozenset[str]
    """The names under which the values of a model are stored."""

    def load(self, data: dict[str, Any], /) -> M:
        """A model of these fields, validated; the others have their defaults. Raises whatever a validation raises."""

    def parts(self, model: M, /) -> dict[str, Any]:
        """The fields in objects of their own, with every type still to be seen."""

    def plain(self, model: M, /) -> dict[str, Any]:
        """The fields in objects of their own, plain as far as this can be done."""

    def set(self, model: M, name: str, other: M, /) -> None:
        """Let a field of the model be as in the other one, frozen or not."""


class Taken(NamedTuple):
    """A model that was taken apart."""

    kind: type
    content: dict[str, Any] | list[Any]


def shape_of(model: type[M]) -> ModelAdapter[M]:
    """How models of this class are read and written; ImproperlyConfigured if it is no class of models.

    >>> from typing import TypedDict
    >>> class Shop(TypedDict, total=False):
    ...     cart: list[str]
    >>> shape_of(Shop).load({"cart": ["tea"]})
    {'cart': ['tea']}
    """
    if hasattr(model, "__pydantic_fields__") and not getattr(model, "__pydantic_root_model__", False):
        return _Pydantic(model)
    return _Msgspec(model)


def copied(value: Any) -> Any:
    """Plain data in objects of its own."""
    return _plain(value, _as_it_is)


def field_of(error: Exception) -> str:
    """The field that did not validate, as far as an error says it, and nothing of its value."""
    errors: Callable[..., list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if errors is not None:  # pydantic
        location = errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
        return str(location[0]) if location else ""
    found = _MSGSPEC_PATH.search(str(error)) if isinstance(error, msgspec.ValidationError) else None
    return re.split(r"[.\[]", found["path"])[0] if found else ""


class _Msgspec:
    """Dataclasses, structs and TypedDicts: msgspec knows all three, and we need it anyway."""

    def __init__(self, model: type[Any]) -> None:
        info = type_info(model)
        if not isinstance(info, (StructType, DataclassType, TypedDictType)):
            raise ImproperlyConfigured(
                f"{model!r} is no model: take a pydantic model, a dataclass, a msgspec.Struct or a TypedDict."
            )
        self._model = model
        self._names = {field.encode_name: field.name for field in info.fields}
        self._is_dict = isinstance(info, TypedDictType)
        self.fields = frozenset(self._names)

    def load(self, data: dict[str, Any], /) -> Any:
        return msgspec.convert(data, self._model, builtin_types=_NATIVE)

    def parts(self, model: Any, /) -> dict[str, Any]:
        if self._is_dict:
            return {name: _taken(value) for name, value in model.items()}
        return {stored: _taken(getattr(model, name)) for stored, name in self._names.items()}

    def plain(self, model: Any, /) -> dict[str, Any]:
        return {name: copied(value) for name, value in self.parts(model).items()}

    def set(self, model: Any, name: str, other: Any, /) -> None:
        if not self._is_dict:
            name = self._names[name]
            (force_setattr if isinstance(model, Struct) else object.__setattr__)(model, name, getattr(other, name))
        elif name in other:
            model[name] = other[name]
        else:
            model.pop(name, None)


class _Pydantic:
    """Pydantic's models and dataclasses, by the names of their fields and not by aliases."""

    def __init__(self, model: type[Any]) -> None:
        from pydantic import TypeAdapter

        self._adapter: TypeAdapter[Any] = TypeAdapter(model)
        self.fields = frozenset(model.__pydantic_fields__)

    def load(self, data: dict[str, Any], /) -> Any:
        # Not strict: what a model asks of strangers need not be asked of what was stored. An Enum comes as its value.
        return self._adapter.validate_python(data, strict=False, by_alias=False, by_name=True)

    def parts(self, model: Any, /) -> dict[str, Any]:
        # What does not fit its field is found by reading it back: a warning would only come in between.
        taken: dict[str, Any] = self._adapter.dump_python(model, round_trip=True, by_alias=False, warnings=False)
        return taken

    def plain(self, model: Any, /) -> dict[str, Any]:
        return {name: _plain(value, _as_text) for name, value in self.parts(model).items()}

    def set(self, model: Any, name: str, other: Any, /) -> None:
        object.__setattr__(model, name, getattr(other, name))


def _plain(value: Any, other: Callable[[Any], Any]) -> Any:
    """Plain data, as far as it goes: `other` is asked for the rest, and a serializer refuses what is left."""
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return {_plain(key, other): _plain(item, other) for key, item in value.items()}
    if kind in _CONTAINERS:
        return kind(_plain(item, other) for item in value)
    if kind is Taken:
        return _plain(value.content, other)
    if isinstance(value, Enum):
        return _plain(value.value, other)
    if isinstance(value, tuple):  # a NamedTuple
        return tuple(_plain(item, other) for item in value)
    return other(value)


def _as_it_is(value: Any) -> Any:
    return value


def _as_text(value: Any) -> Any:
    """What pydantic would write into JSON."""
    from pydantic_core import to_jsonable_python

    try:
        return to_jsonable_python(value, by_alias=False, round_trip=True)
    except ValueError:  # it would not write it either
        return value


def _taken(value: Any) -> Any:
    """The same, in containers of its own, with models taken apart."""
    kind = type(value)
    if kind is dict:
        return {_taken(key): _taken(item) for key, item in value.items()}
    if kind in _CONTAINERS:
        return kind(_taken(item) for item in value)
    if isinstance(value, Struct):
        return Taken(kind, _taken_struct(value))
    if dataclasses.is_dataclass(kind):
        return Taken(kind, {field.name: _taken(getattr(value, field.name)) for field in dataclasses.fields(kind)})
    return value


def _taken_struct(value: Struct) -> dict[str, Any] | list[Any]:
    """As msgspec would encode it, with its tag if it has one."""
    config = value.__struct_config__
    items = list(_struct_items(value))
    if config.tag is not None:
        items.insert(0, (str(config.tag_field), config.tag))
    return [item for _, item in items] if config.array_like else dict(items)


def _struct_items(value: Struct) -> Iterator[tuple[str, Any]]:
    for name, stored in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
        yield stored, _taken(getattr(value, name))
