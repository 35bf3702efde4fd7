"""Wrap the values that MessagePack lacks in its extension types, and unwrap them: equal, and of their types.

MessagePack (msgspec, in C) would also accept a tuple, a set, a datetime or an Enum, and silently return something else.
So the type of every value is checked: a type of this table is wrapped, a value of a subclass is kept as its base type
if the two are equal, and everything else is rejected, with its path.

    code  type            content
    1     tuple           array
    2     set             array
    3     frozenset       array
    4     datetime        ISO 8601, or [ISO 8601, fold, name of the zone or nil, offset in microseconds or nil]
    5     date            ISO 8601
    6     time            as datetime
    7     timedelta       [days, seconds, microseconds]
    8     UUID            16 bytes
    9     Decimal         text
    10    int             big-endian two's complement, beyond 64 bits
    11    str             UTF-8 with surrogates
"""

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from msgspec.msgpack import Decoder, Encoder, Ext

from starsessions.core.kinds import CLOCKS, HELD, as_base, zone_name
from starsessions.exceptions import UnsupportedValue

MAX_DEPTH = 100

_FIRST_STEP = re.compile(r"""session\[("(?:[^"\\]|\\.)*"|[^\]]*)\]""")
_HINT = (
    "Store a dict, list, tuple, set, str, number, bytes, datetime, date, time, timedelta, UUID or Decimal made from it."
)
_KEY_HINT = "Use a str or an int."
_ZONE_HINT = "Its zone gives no offset from UTC: store it in UTC, or without a zone."


def wrapped(value: Any) -> bytes:
    """Return a value as a payload has it, whatever its type. Raises UnsupportedValue if a session cannot hold it."""
    return wrapped_to_msgpack(_wrap(value, "session", 1))


class _Key:
    """A key that MessagePack lacks. (An Ext is not hashable.)"""

    __slots__ = ("ext",)

    def __init__(self, ext: Ext) -> None:
        self.ext = ext

    def __repr__(self) -> str:
        return "…"


def wrap_items(mapping: dict[Any, Any], path: str, depth: int) -> dict[Any, Any]:
    """Return the mapping with its keys and values wrapped. `path` is where it is in the session, for the error."""
    items = {}
    for key, value in dict.items(mapping):
        key = _wrap_key(key, f"a key of {path}", depth)
        items[key] = _wrap(value, path + _step(key), depth)
    return items


def _wrap_key(key: Any, path: str, depth: int) -> Any:
    wrapped = _wrap(key, path, depth, is_hashed=True)
    return _Key(wrapped) if type(wrapped) is Ext else wrapped


def _step(key: Any) -> str:
    return f"[{json.dumps(key) if type(key) is str else repr(key)}]"


def _first_step(path: str) -> str:
    found = _FIRST_STEP.search(path)
    return found[0] if found else path


def _wrap(value: Any, path: str, depth: int, is_hashed: bool = False) -> Any:
    """Return the same tree with all types wrapped that MessagePack lacks. Raises UnsupportedValue for other types.

    A key, or an item of a set, (`is_hashed`) must have the hash of its base type: two could become one.
    """
    kind = type(value)
    if depth > MAX_DEPTH:
        raise UnsupportedValue(_first_step(path), "nested value", "It is too deep, or contains itself.")
    if kind is dict:
        return wrap_items(value, path, depth + 1)
    if kind in _ARRAYS:
        return _wrap_sequence(value, path, depth, _ARRAYS[kind], is_hashed)
    if kind in _WRAPPERS:
        wrapped = _WRAPPERS[kind](value)
        if wrapped is not None:
            return wrapped
    elif kind in _NATIVE:
        return value
    else:
        base = as_base(value)
        if base is not None and (not is_hashed or hash(base) == hash(value)):
            return _wrap(base, path, depth, is_hashed)
    raise UnsupportedValue(path, _name(kind), _hint(value, path))


def _name(kind: type) -> str:
    """Return the type's name, with its module if it could be taken for a type that a session holds (numpy's bool)."""
    name = kind.__qualname__
    taken = any(name == held.__name__ for held in HELD if held is not kind)
    return f"{kind.__module__}.{name}" if taken else name


def _hint(value: Any, path: str) -> str:
    if path.startswith("a key of"):
        return _KEY_HINT
    if isinstance(value, Enum):
        return "Store its value."
    kind = type(value)
    base = next((parent for parent in kind.__mro__ if parent in HELD), None)
    if base is None:
        return _HINT
    return _HINTS.get(kind, f"It would not come back equal: store a {base.__name__} made from it.")


def _wrap_sequence(values: Iterable[Any], path: str, depth: int, code: int | None, is_hashed: bool) -> Any:
    is_hashed = is_hashed or code in (_SET, _FROZENSET)
    wrapped = [_wrap(item, f"{path}[{index}]", depth + 1, is_hashed) for index, item in enumerate(values)]
    return wrapped if code is None else Ext(code, wrapped_to_msgpack(wrapped))


def is_unicode(text: str) -> bool:
    """Return whether the text can be encoded: a str can hold half of a surrogate pair, and text cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrap_int(value: int) -> int | Ext:
    if -(1 << 63) <= value < 1 << 64:
        return value
    return Ext(10, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def _wrap_clock(code: int) -> Callable[[Any], Ext | None]:
    def wrap(value: datetime | time) -> Ext | None:
        zone = value.tzinfo
        if zone is None and not value.fold:
            return Ext(code, to_msgpack(value.isoformat()))
        # A zone without a name, or whose name has other rules on other machines, is stored as its offset. (The result
        # has the same local time, offset and fold. `==` does not tell: in the hour that clocks repeat, a time equals
        # none in another zone, PEP 495.)
        name = zone_name(zone)
        try:
            offset = value.utcoffset()
        except Exception:  # a class of the application's own
            return None
        naive = value.replace(tzinfo=None).isoformat()
        microseconds = None if offset is None else offset // timedelta(microseconds=1)
        for kept_name in (name, None):
            wrapped = Ext(code, to_msgpack([naive, value.fold, kept_name, microseconds]))
            if _is_itself(value, unwrap(code, memoryview(wrapped.data))):
                return wrapped
        return None

    return wrap


def _is_itself(value: datetime | time, read: Any) -> bool:
    return (value.tzinfo is None) == (read.tzinfo is None) and bool(value.utcoffset() == read.utcoffset())


def _unwrap_clock(kind: type[datetime] | type[time]) -> Callable[[memoryview], datetime | time]:
    def read(raw: memoryview) -> datetime | time:
        content = _from_msgpack(raw)
        if type(content) is str:
            return kind.fromisoformat(content)
        naive, fold, name, microseconds = content
        value = kind.fromisoformat(naive).replace(fold=fold)
        if name is not None:
            from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # here, as in zone_name

            with suppress(ZoneInfoNotFoundError, ValueError):  # this machine lacks the zone: use the offset
                return value.replace(tzinfo=ZoneInfo(name))
        if microseconds is not None:
            return value.replace(tzinfo=timezone(timedelta(microseconds=microseconds)))
        return value

    return read


def _unwrap_date(kind: type[date]) -> Callable[[memoryview], date]:
    return lambda raw: kind.fromisoformat(str(raw, "ascii"))


def _unwrap_decimal(raw: memoryview) -> Decimal:
    number = Decimal(str(raw, "ascii"))
    if number.is_snan():
        raise ValueError("a signaling NaN")
    return number


def unwrap(code: int, raw: memoryview) -> Any:
    return _UNWRAPPERS[code](raw)


to_msgpack: Callable[[Any], bytes] = Encoder().encode
"""Encodes plain data."""

wrapped_to_msgpack: Callable[[Any], bytes] = Encoder(enc_hook=lambda key: key.ext).encode
"""Encodes what `wrap_items` returned."""

_from_msgpack = Decoder(ext_hook=unwrap).decode

_NATIVE: frozenset[type] = frozenset({type(None), bool, float, bytes})
"""What MessagePack has. Of int and str it has most."""

_DATETIME, _DATE, _TIME = CLOCKS
_SET, _FROZENSET = 2, 3
_ARRAYS: dict[type, int | None] = {list: None, tuple: 1, set: _SET, frozenset: _FROZENSET}
_WRAPPERS: dict[type, Callable[[Any], Any]] = {
    int: _wrap_int,
    str: lambda value: value if is_unicode(value) else Ext(11, value.encode("utf-8", "surrogatepass")),
    _DATETIME: _wrap_clock(4),
    _DATE: lambda value: Ext(5, value.isoformat().encode()),
    _TIME: _wrap_clock(6),
    timedelta: lambda value: Ext(7, to_msgpack([value.days, value.seconds, value.microseconds])),
    UUID: lambda value: Ext(8, value.bytes),
    # A signaling NaN raises when it is compared, and changes are detected by comparison.
    Decimal: lambda value: None if value.is_snan() else Ext(9, str(value).encode()),
}
_HINTS: dict[type, str] = {_DATETIME: _ZONE_HINT, _TIME: _ZONE_HINT, Decimal: "It cannot be compared."}
_UNWRAPPERS: dict[int, Callable[[memoryview], Any]] = {
    1: lambda raw: tuple(_from_msgpack(raw)),
    2: lambda raw: set(_from_msgpack(raw)),
    3: lambda raw: frozenset(_from_msgpack(raw)),
    4: _unwrap_clock(_DATETIME),
    5: _unwrap_date(_DATE),
    6: _unwrap_clock(_TIME),
    7: lambda raw: timedelta(*_from_msgpack(raw)),
    8: lambda raw: UUID(bytes=bytes(raw)),
    9: _unwrap_decimal,
    10: lambda raw: int.from_bytes(raw, "big", signed=True),
    11: lambda raw: str(raw, "utf-8", "surrogatepass"),
}
