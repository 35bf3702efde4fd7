"""Encode a session's data as bytes, and decode it to equal values of the same types.

Plain data is None, bool, int, float, str, bytes, list and dict, which MessagePack has: it goes straight to C (msgspec).
All other data is wrapped first (`core/wrapping.py`), or rejected. There is no pickle, and decoding never builds an
object of a class that the data names. What can be decoded can be encoded again, whatever its bytes.

A payload that starts with `{` is JSON: no MessagePack map starts with that byte. Starlette's cookies are JSON, and
`PlainJson` writes JSON as long as the data is plain JSON.

Nearly all requests change nothing, or a value or two. So there are three shortcuts, each of which may only err towards
more work:

* `patched` encodes only the values that have changed, and copies the bytes of all others. It is what makes a small
  change of a large session cheap. (`core/snapshot.py` tells what has changed.)
* `matches` tells whether data has not changed, where it is not known what may have. It encodes without the check first,
  and compares bytes. Equal bytes of plain data are equal data.
* `differs_for_sure` says that two payloads differ without decoding them. If it cannot tell, the caller decodes the
  old one and compares, since the same set, or the session's own keys, in another order are other bytes and no change.
"""

import json
from collections.abc import Callable, Collection, Iterable
from gc import get_referents
from math import isfinite
from typing import Any, NamedTuple, Protocol, TypeVar
from zlib import adler32

from msgspec import DecodeError, Raw
from msgspec.json import Decoder as JsonDecoder
from msgspec.json import Encoder as JsonEncoder
from msgspec.msgpack import Decoder as MsgpackDecoder

from starsessions.core.kinds import CONTAINERS
from starsessions.core.wrapping import MAX_DEPTH, to_msgpack, unwrap, wrap_items, wrapped, wrapped_to_msgpack

T = TypeVar("T")

_MISSING = object()

_NOT_ALONE = (TypeError, ValueError, OverflowError, RecursionError, DecodeError)
"""What is raised for a value that cannot be encoded alone, and for a payload that cannot be taken apart.

Examples: a set in JSON, a lone surrogate (a ValueError); NaN in JSON, a key that is no text.
"""

_MANY = 100
"""The number of keys beyond which it matters that values without any inside are encoded faster than copied."""


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
    """Return whether one may be a reordering of the other: same length, same byte sum (low half of Adler-32)."""
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
        payload = _if_plain(data, to_msgpack, _MSGPACK_SCALARS, _MSGPACK_KEYS)
        return wrapped_to_msgpack(wrap_items(data, "session", 1)) if payload is None else payload

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
            return to_msgpack(data) == payload and _is_plain(data, _MSGPACK_SCALARS, _MSGPACK_KEYS)
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
            payload = _if_plain(data, to_msgpack, _MSGPACK_SCALARS, _MSGPACK_KEYS)
        if payload is None:
            data = wrap_items(data, "session", 1)  # with values of subclasses as their base types, it may be plain
            payload = _if_plain(data, _to_json, _JSON_SCALARS, _JSON_KEYS)
        return wrapped_to_msgpack(data) if payload is None else payload

    def patched(self, base: bytes, data: dict[str, Any], changed: Collection[Any], /) -> bytes | None:
        if not base.startswith(b"{") or (dict.__len__(data) > _MANY and _is_flat(base, data)):
            return None
        if not _is_compact(base):
            return None  # the same value may have other bytes in it
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


_dict_from_json = JsonDecoder(dict).decode
_parts_of_json = JsonDecoder(dict[str, Raw]).decode
_to_json = JsonEncoder().encode
_dict_from_msgpack = MsgpackDecoder(dict, ext_hook=unwrap).decode
_parts_of_msgpack = MsgpackDecoder(dict[str, Raw]).decode

_JSON_SCALARS: frozenset[type] = frozenset({type(None), bool, int, str})
_JSON_KEYS: frozenset[type] = frozenset({str})
_MSGPACK_SCALARS: frozenset[type] = _JSON_SCALARS | {float, bytes}
_MSGPACK_KEYS: frozenset[type] = _MSGPACK_SCALARS - {float}  # a float may be NaN, which is checked item by item
_MSGPACK = _Format(_parts_of_msgpack, to_msgpack, _MSGPACK_SCALARS, _MSGPACK_KEYS, wrapped)
_JSON = _Format(_parts_of_json, _to_json, _JSON_SCALARS, _JSON_KEYS, _refused)
_EXT = b"\xc7\xc8\xc9\xd4\xd5\xd6\xd7\xd8"
_OPENS = b"[{" + bytes(range(0x80, 0xA0)) + b"\xdc\xdd\xde\xdf" + _EXT
"""The first bytes of all containers, in JSON and in MessagePack. Text may contain them as well."""
