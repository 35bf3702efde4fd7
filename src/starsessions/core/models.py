"""Convert models to plain data and back: pydantic models, dataclasses, msgspec structs and TypedDicts, field by field.

Plain data is what the built-in serializer stores. A value becomes plain by turning models into dicts, an Enum into its
value, and types that only pydantic knows (a URL, a path) into text. `parts` keeps those types, so comparing it before
and after a round trip shows whether a value would come back unchanged.
"""

import dataclasses
import re
from collections.abc import Callable
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Struct
from msgspec.inspect import DataclassType, StructType, TypedDictType, type_info
from msgspec.structs import force_setattr

from starsessions.core.kinds import CONTAINERS, SCALARS, as_base
from starsessions.exceptions import ImproperlyConfigured

M = TypeVar("M")

_NATIVE = SCALARS - {str, int, float, bool, type(None)}
_SEQUENCES = CONTAINERS - {dict}

_MSGSPEC_PATH = re.compile(r"`\$\.?(?P<path>[^`]*)`$")
"""Where msgspec reports an error. Keys of dicts and items of lists are `[...]` there, so it reveals no value."""


class ModelAdapter(Protocol[M]):
    """How models of one class are read and written."""

    fields: frozenset[str]
    """The names under which a model's values are stored."""

    def load(self, data: dict[str, Any], /) -> M:
        """Return a validated model with these fields, and defaults for the others. Raises on invalid data."""

    def parts(self, model: M, /) -> dict[str, Any]:
        """Return copies of the fields, with every type still visible."""

    def plain(self, model: M, /) -> dict[str, Any]:
        """Return copies of the fields, as plain as they can be made."""

    def set(self, model: M, name: str, other: M, /) -> None:
        """Copy one field from the other model, even if the model is frozen."""


class Unpacked(NamedTuple):
    """A nested model, as its class and its content."""

    kind: type
    content: dict[str, Any]


def adapter_for(model: type[M]) -> ModelAdapter[M]:
    """Return the adapter for a model class.

    Raises:
        ImproperlyConfigured: it is not the class of a model.

    >>> from typing import TypedDict
    >>> class Shop(TypedDict, total=False):
    ...     cart: list[str]
    >>> adapter_for(Shop).load({"cart": ["tea"]})
    {'cart': ['tea']}
    """
    if hasattr(model, "__pydantic_fields__") and not getattr(model, "__pydantic_root_model__", False):
        return _Pydantic(model)
    return _Msgspec(model)


def copy_of(value: Any) -> Any:
    """Return a copy of plain data."""
    return _plain(value)


def field_of(error: Exception) -> str:
    """Return the field that failed validation, as far as the error names it, and nothing of its value."""
    errors: Callable[..., list[dict[str, Any]]] | None = getattr(error, "errors", None)
    if errors is not None:  # pydantic
        location = errors(include_url=False, include_context=False, include_input=False)[0]["loc"]
        return str(location[0]) if location else ""
    found = _MSGSPEC_PATH.search(str(error)) if isinstance(error, msgspec.ValidationError) else None
    return re.split(r"[.\[]", found["path"])[0] if found else ""


class _Msgspec:
    """Dataclasses, structs and TypedDicts. msgspec supports all three, and is a dependency already."""

    def __init__(self, model: type[Any]) -> None:
        info = type_info(model)
        if not isinstance(info, (StructType, DataclassType, TypedDictType)):
            raise ImproperlyConfigured(
                f"{model!r} is not a model: pass a pydantic model, a dataclass, a msgspec.Struct or a TypedDict."
            )
        self._model = model
        self._names = {field.encode_name: field.name for field in info.fields}
        self._is_dict = isinstance(info, TypedDictType)
        self.fields = frozenset(self._names)

    def load(self, data: dict[str, Any], /) -> Any:
        return msgspec.convert(data, self._model, builtin_types=_NATIVE)

    def parts(self, model: Any, /) -> dict[str, Any]:
        if self._is_dict:
            return {name: _unpack(value) for name, value in model.items()}
        return {stored: _unpack(getattr(model, name)) for stored, name in self._names.items()}

    def plain(self, model: Any, /) -> dict[str, Any]:
        return {name: copy_of(value) for name, value in self.parts(model).items()}

    def set(self, model: Any, name: str, other: Any, /) -> None:
        if not self._is_dict:
            name = self._names[name]
            (force_setattr if isinstance(model, Struct) else object.__setattr__)(model, name, getattr(other, name))
        elif name in other:
            model[name] = other[name]
        else:
            model.pop(name, None)


class _Pydantic:
    """Pydantic models and dataclasses, by the names of their fields and not by aliases."""

    def __init__(self, model: type[Any]) -> None:
        from pydantic import TypeAdapter

        self._adapter: TypeAdapter[Any] = TypeAdapter(model)
        self.fields = frozenset(model.__pydantic_fields__)

    def load(self, data: dict[str, Any], /) -> Any:
        # Not strict: strictness is for input, and stored data was validated before. An Enum is stored as its value.
        return self._adapter.validate_python(data, strict=False, by_alias=False, by_name=True)

    def parts(self, model: Any, /) -> dict[str, Any]:
        # No warnings: a value that does not fit its field is detected when it is read back.
        parts: dict[str, Any] = self._adapter.dump_python(model, round_trip=True, by_alias=False, warnings=False)
        return parts

    def plain(self, model: Any, /) -> dict[str, Any]:
        return {name: _plain(value, _as_text) for name, value in self.parts(model).items()}

    def set(self, model: Any, name: str, other: Any, /) -> None:
        object.__setattr__(model, name, getattr(other, name))


def _plain(value: Any, convert: Callable[[Any], Any] | None = None) -> Any:
    """Return plain data. `convert` handles values of unknown types; a serializer rejects whatever is left of them."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if kind is dict:
        return {_plain(key, convert): _plain(item, convert) for key, item in value.items()}
    if kind in _SEQUENCES:
        return kind(_plain(item, convert) for item in value)
    if kind is Unpacked:
        return _plain(value.content, convert)
    if isinstance(value, Enum):
        return _plain(value.value, convert)
    base = as_base(value)
    if base is not None:
        return _plain(base, convert)
    return value if convert is None else convert(value)


def _as_text(value: Any) -> Any:
    """Return what pydantic would write into JSON."""
    from pydantic_core import to_jsonable_python

    try:
        return to_jsonable_python(value, by_alias=False, round_trip=True)
    except ValueError:  # pydantic cannot write it either
        return value


def _unpack(value: Any) -> Any:
    """Return a copy with nested models turned into `Unpacked`."""
    kind = type(value)
    if kind is dict:
        return {_unpack(key): _unpack(item) for key, item in value.items()}
    if kind in _SEQUENCES:
        return kind(_unpack(item) for item in value)
    if isinstance(value, Struct):
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        return Unpacked(kind, {stored: _unpack(getattr(value, name)) for name, stored in names})
    if dataclasses.is_dataclass(kind):
        return Unpacked(kind, {field.name: _unpack(getattr(value, field.name)) for field in dataclasses.fields(kind)})
    return value
