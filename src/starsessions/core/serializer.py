"""Encode a session's data as bytes, and decode it to equal values of the same types.

MessagePack (msgspec, in C) supports None, bool, int, float, str, bytes, list and dict. It would also accept a tuple, a
set, a datetime or an Enum, and silently return something else. So the type of every value is checked: plain data goes
straight to C, other supported types are wrapped in extension types, a value of a subclass is kept as its base type if
the two are equal, and everything else is rejected, with its path. There is no pickle, and decoding never builds an
object of a class that the data names. What can be decoded can be encoded again, whatever its bytes.

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

A payload that starts with `{` is JSON: no MessagePack map starts with that byte. Starlette's cookies are JSON, and
`PlainJson` writes JSON as long as the data is plain JSON.

Nearly all requests change nothing, or a value or two. So there are three shortcuts, each of which may only err towards
more work:

* `patched` encodes only the values that have changed, and copies the bytes of all others. It is what makes a small
  change of a large session cheap. (`core/snapshot.py` tells what has changed.)
* `matches` tells whether data has not changed, where it is not known what may have. It encodes without the check first,
  and compares bytes. Equal bytes of plain data are equal data.
* `differs_for_sure` says that two payloads differ without decoding them. If it cannot tell, the caller decodes the
  old one and compares, since the same items in another order are other bytes and no change.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from gc import get_referents
from math import isfinite
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID
from zlib import adler32

from msgspec import DecodeError, Raw
from msgspec.json import Decoder as JsonDecoder
from msgspec.json import Encoder as JsonEncoder
from msgspec.msgpack import Decoder as MsgpackDecoder
from msgspec.msgpack import Encoder as MsgpackEncoder
from msgspec.msgpack import Ext

from starsessions.core.kinds import CLOCKS, CONTAINERS, HELD, as_base, zone_name
from starsessions.exceptions import UnsupportedValue

T = TypeVar("T")

MAX_DEPTH = 100

_MISSING = object()

_NOT_ALONE = (TypeError, ValueError, OverflowError, RecursionError, DecodeError)
"""What is raised for a value that cannot be encoded alone, and for a payload that cannot be taken apart.

Examples: a set in JSON, a lone surrogate (a ValueError); NaN in JSON, a key that is no text.
"""

_MANY = 100
"""The number of keys beyond which it matters that values without any inside are encoded faster than copied."""

_FIRST_STEP = re.compile(r"""session\[("(?:[^"\\]|\\.)*"|[^\]]*)\]""")
_HINT = (
    "Store a dict, list, tuple, set, str, number, bytes, datetime, date, time, timedelta, UUID or Decimal made from it."
)
_KEY_HINT = "Use a str or an int."
_ZONE_HINT = "Its zone gives no offset from UTC: store it in UTC, or without a zone."


class Serializer(Protocol):
    """Converts a session's data to bytes and back. `loads(dumps(data))` must be equal to `data`.

    `dumps` raises `UnsupportedValue` (or any TypeError) for data that it cannot store. If `loads` raises anything, the
    session cannot be decoded and the request has no session.

    >>> import json
    >>> class Json:
    ...     def dumps(self, data):
    ...         return json.dumps(data).encode()
    ...
    ...     def loads(self, payload):
    ...         return json.loads(payload)
    >>> from starsessions import InMemoryBackend
    >>> backend = InMemoryBackend(serializer=Json())
    """

    def dumps(self, data: dict[str, Any], /) -> Any: ...

    def loads(self, payload: Any, /) -> dict[str, Any]: ...


def differs_for_sure(payload: bytes, base: bytes) -> bool:
    """Return whether two payloads of built-in serializers hold different data, if that is certain without decoding."""
    is_json = base.startswith(b"{")
    if payload.startswith(b"{") != is_json or _may_be_reordered(payload, base):
        return False
    return not is_json or _is_compact(base)


def _may_be_reordered(one: bytes | Raw, other: bytes | Raw) -> bool:
    """Return whether two encoded values may have the same items in another order: then they have the same bytes.

    (The low half of Adler-32 is a sum of bytes.)
    """
    return len(one) == len(other) and adler32(one) & 0xFFFF == adler32(other) & 0xFFFF


def _is_compact(payload: bytes) -> bool:
    """Return whether Python's own json did not write the payload. It wrote Starlette's cookies, and adds spaces."""
    # find() is four times as fast for one byte as for several, and faster than `in`.
    return payload.find(b" ") < 0 or payload.find(b": ") < 0


def is_builtin(serializer: Serializer) -> bool:
    """Return whether the serializer is exactly a built-in one. A subclass may write other bytes: it may compress."""
    return type(serializer) in (Msgpack, PlainJson)


def _own(serializer: Serializer, name: str, otherwise: T) -> T:
    """Return an optional method of the serializer, but not one that a subclass of a built-in serializer inherited."""
    if isinstance(serializer, Msgpack) and not is_builtin(serializer):
        return otherwise
    own: T = getattr(serializer, name, otherwise)
    return own


def matcher(serializer: Serializer) -> Callable[[Any, dict[str, Any]], bool]:
    """Return a cheap check that data has not changed: the serializer's own `matches`, or a comparison of bytes."""
    return _own(serializer, "matches", lambda payload, data: bool(serializer.dumps(data) == payload))


def patcher(serializer: Serializer) -> Callable[[Any, dict[str, Any], Collection[Any]], Any]:
    """Return a function that encodes only what has changed: the serializer's own `patched`, or one that never can."""
    return _own(serializer, "patched", lambda base, data, changed: None)


class Msgpack:
    """The default serializer. It keeps every type listed above, and as a key each of them that is hashable."""

    def dumps(self, data: dict[str, Any], /) -> bytes:
        payload = _if_plain(data, _to_msgpack, _MSGPACK_SCALARS, _MSGPACK_KEYS)
        return _wrapped_to_msgpack(_wrap_items(data, "session", 1)) if payload is None else payload

    def patched(self, base: bytes, data: dict[str, Any], changed: Collection[Any], /) -> bytes | None:
        """Return the payload of `data`, made from `base` without encoding what has not changed.

        Args:
            base: the payload of earlier data, of any age.
            data: the data, which differs from that in `base` only under these keys.
            changed: the keys that were set, or deleted, or whose values may have changed.

        Returns:
            The payload; `base` itself if nothing has changed; None if `dumps` has to make it, or would be faster.
        """
        if base.startswith(b"{") or (dict.__len__(data) > _MANY and _is_flat(base, data)):
            return None
        return _patched(base, data, changed, _MSGPACK)

    def matches(self, payload: bytes, data: dict[str, Any], /) -> bool:
        """Return whether `payload` certainly holds `data`: it is plain, and the bytes are equal."""
        try:
            if payload.startswith(b"{"):
                return _to_json(data) == payload and _is_plain(data, _JSON_SCALARS, _JSON_KEYS)
            return _to_msgpack(data) == payload and _is_plain(data, _MSGPACK_SCALARS, _MSGPACK_KEYS)
        except Exception:  # as in _if_plain
            return False

    def loads(self, payload: bytes, /) -> dict[str, Any]:
        if not payload.startswith(b"{"):
            data = _dict_from_msgpack(payload)
        else:
            try:
                data = _dict_from_json(payload)
            except DecodeError:
                # Python's own json wrote Starlette's cookies, and also writes NaN, Infinity and lone surrogates.
                data = json.loads(payload)
        if len(payload) > MAX_DEPTH and _most_containers(payload) > MAX_DEPTH:
            _check_depth(data)
        return data


class PlainJson(Msgpack):
    """JSON for data that is plain JSON, as in Starlette's own session cookies; MessagePack for all other data."""

    def dumps(self, data: dict[str, Any], /) -> bytes:
        payload = _if_plain(data, _to_json, _JSON_SCALARS, _JSON_KEYS)
        if payload is None:
            payload = _if_plain(data, _to_msgpack, _MSGPACK_SCALARS, _MSGPACK_KEYS)
        if payload is None:
            data = _wrap_items(data, "session", 1)  # with values of subclasses as their base types, it may be plain
            payload = _if_plain(data, _to_json, _JSON_SCALARS, _JSON_KEYS)
        return _wrapped_to_msgpack(data) if payload is None else payload

    def patched(self, base: bytes, data: dict[str, Any], changed: Collection[Any], /) -> bytes | None:
        if not base.startswith(b"{") or (dict.__len__(data) > _MANY and _is_flat(base, data)):
            return None
        if base.find(b" ") >= 0 and base.find(b": ") >= 0:
            return None  # Python's own json may have written the same value in other bytes
        return _patched(base, data, changed, _JSON)


def _refused(value: Any) -> bytes:
    raise TypeError


class _Format(NamedTuple):
    """How a payload is taken apart, and what an encoder in C writes as it is."""

    parts: Callable[[bytes], dict[str, Raw]]
    encode: Callable[[Any], bytes]
    scalars: frozenset[type]
    keys: frozenset[type]
    other: Callable[[Any], bytes]
    """Encodes all other values, or raises TypeError."""


def _is_flat(base: bytes, data: dict[str, Any]) -> bool:
    """Return whether to encode all of the many values takes less time than to copy them one by one (measured)."""
    return _most_containers(base) < dict.__len__(data) // 3


def _most_containers(payload: bytes) -> int:
    """Return how many containers a payload has at most."""
    return len(payload) - len(payload.translate(None, _OPENS))


def _patched(base: bytes, data: dict[str, Any], changed: Iterable[Any], plain: _Format) -> bytes | None:
    parts, encode, scalars, keys, other = plain
    is_same = True
    try:
        items = parts(base)
        for key in changed:
            before, value = items.get(key), dict.get(data, key, _MISSING)
            if type(key) is not str:
                return None  # 1 and True are one key of a dict, and two when they are stored
            if value is _MISSING:
                is_same = items.pop(key, None) is None and is_same
                continue
            is_scalar = type(value) in scalars
            now = Raw(encode(value) if is_scalar or _is_plain([value], scalars, keys) else other(value))
            if now != before:
                if not is_scalar and before is not None and _may_be_reordered(now, before):
                    return None
                items[key] = now
                is_same = False
        if is_same:
            return base
        # A dict keeps its order. A key that was removed and set again has moved.
        return encode(items) if [*items] == [*dict.keys(data)] else None
    except _NOT_ALONE:
        return None


def wrapped(value: Any) -> bytes:
    """Return a value as a payload has it, whatever its type. Raises UnsupportedValue if a session cannot hold it."""
    return _wrapped_to_msgpack(_wrap(value, "session", 1))


def _if_plain(
    data: dict[Any, Any], encode: Callable[[Any], bytes], scalars: frozenset[type], keys: frozenset[type]
) -> bytes | None:
    """Encode the data in C if it is plain; None if it is not."""
    try:
        payload = encode(data)
    except Exception:  # of the encoder, or of the zone of a datetime
        return None  # a value is not plain: the caller wraps it, or reports its type and path
    return payload if _is_plain(data, scalars, keys) else None


def _is_plain(data: Any, scalars: frozenset[type], keys: frozenset[type], depth: int = MAX_DEPTH) -> bool:
    """Return whether data has only these types, dicts and lists, and is not nested too deeply to be decoded.

    A subclass (an IntEnum, an OrderedDict) is not plain, although it may encode like its parent: it has to be compared.
    """
    values: Any = data
    if type(data) is not list:
        # dict's own methods: `data` may be the session itself, whose methods call hooks first.
        if not keys.issuperset(map(type, dict.keys(data))):
            return False
        values = dict.values(data)
    if depth == 0:
        return False
    if scalars.issuperset(map(type, values)):
        return True  # in C: most lists and dicts contain scalars only
    for value in values:
        kind = type(value)
        if kind in scalars:
            continue
        if kind is dict or kind is list:
            if not _is_plain(value, scalars, keys, depth - 1):
                return False
        elif kind is not float or not isfinite(value):
            return False
    return True


def _check_depth(data: dict[Any, Any]) -> None:
    """Raise for data that is nested too deeply to be encoded again.

    It goes level by level. The garbage collector knows the keys and items of all containers of a level, and lists them
    in C: three times as fast as a walk.
    """
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        inside = get_referents(*level)
        if CONTAINERS.isdisjoint(map(type, inside)):
            return
        level = [value for value in inside if type(value) in CONTAINERS]
    if any(level):
        raise ValueError("too deep")


class _Key:
    """A key that MessagePack lacks. (An Ext is not hashable.)"""

    __slots__ = ("ext",)

    def __init__(self, ext: Ext) -> None:
        self.ext = ext

    def __repr__(self) -> str:
        return "…"


def _wrap_items(mapping: dict[Any, Any], path: str, depth: int) -> dict[Any, Any]:
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
        return _wrap_items(value, path, depth + 1)
    if kind in _ARRAYS:
        return _wrap_sequence(value, path, depth, _ARRAYS[kind], is_hashed)
    if kind in _WRAPPERS:
        wrapped = _WRAPPERS[kind](value)
        if wrapped is not None:
            return wrapped
    elif kind in _MSGPACK_SCALARS:
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
    return wrapped if code is None else Ext(code, _wrapped_to_msgpack(wrapped))


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
            return Ext(code, _to_msgpack(value.isoformat()))
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
            wrapped = Ext(code, _to_msgpack([naive, value.fold, kept_name, microseconds]))
            if _is_itself(value, _unwrap(code, memoryview(wrapped.data))):
                return wrapped
        return None

    return wrap


def _is_itself(value: datetime | time, read: Any) -> bool:
    return (value.tzinfo is None) == (read.tzinfo is None) and bool(value.utcoffset() == read.utcoffset())


def _unwrap_clock(kind: type[datetime] | type[time]) -> Callable[[memoryview], datetime | time]:
    def unwrap(raw: memoryview) -> datetime | time:
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

    return unwrap


def _unwrap_date(kind: type[date]) -> Callable[[memoryview], date]:
    return lambda raw: kind.fromisoformat(str(raw, "ascii"))


def _unwrap_decimal(raw: memoryview) -> Decimal:
    number = Decimal(str(raw, "ascii"))
    if number.is_snan():
        raise ValueError("a signaling NaN")
    return number


def _unwrap(code: int, raw: memoryview) -> Any:
    return _UNWRAPPERS[code](raw)


_dict_from_json = JsonDecoder(dict).decode
_parts_of_json = JsonDecoder(dict[str, Raw]).decode
_to_json = JsonEncoder().encode
_to_msgpack = MsgpackEncoder().encode
_from_msgpack = MsgpackDecoder(ext_hook=_unwrap).decode
_dict_from_msgpack = MsgpackDecoder(dict, ext_hook=_unwrap).decode
_parts_of_msgpack = MsgpackDecoder(dict[str, Raw]).decode
_wrapped_to_msgpack = MsgpackEncoder(enc_hook=lambda key: key.ext).encode

_JSON_SCALARS: frozenset[type] = frozenset({type(None), bool, int, str})
_JSON_KEYS: frozenset[type] = frozenset({str})
_MSGPACK_SCALARS: frozenset[type] = _JSON_SCALARS | {float, bytes}
_MSGPACK_KEYS: frozenset[type] = _MSGPACK_SCALARS - {float}  # a float may be NaN, which is checked item by item
_MSGPACK = _Format(_parts_of_msgpack, _to_msgpack, _MSGPACK_SCALARS, _MSGPACK_KEYS, wrapped)
_JSON = _Format(_parts_of_json, _to_json, _JSON_SCALARS, _JSON_KEYS, _refused)
_EXT = b"\xc7\xc8\xc9\xd4\xd5\xd6\xd7\xd8"
_OPENS = b"[{" + bytes(range(0x80, 0xA0)) + b"\xdc\xdd\xde\xdf" + _EXT
"""The first bytes of all containers, in JSON and in MessagePack. Text may contain them as well."""

_DATETIME, _DATE, _TIME = CLOCKS
_SET, _FROZENSET = 2, 3
_ARRAYS: dict[type, int | None] = {list: None, tuple: 1, set: _SET, frozenset: _FROZENSET}
_WRAPPERS: dict[type, Callable[[Any], Any]] = {
    int: _wrap_int,
    str: lambda value: value if is_unicode(value) else Ext(11, value.encode("utf-8", "surrogatepass")),
    _DATETIME: _wrap_clock(4),
    _DATE: lambda value: Ext(5, value.isoformat().encode()),
    _TIME: _wrap_clock(6),
    timedelta: lambda value: Ext(7, _to_msgpack([value.days, value.seconds, value.microseconds])),
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
