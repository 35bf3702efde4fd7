"""A record <-> the bytes that are signed or encrypted: MessagePack, with a byte 1 in front if compressed (zlib).

A record in MessagePack is an array, and no array begins with a byte as small as that.
"""

import zlib
from collections.abc import Callable

from msgspec.msgpack import Decoder, Encoder

from starsessions.core.record import Record

MAX_UNPACKED = 1 << 20

_COMPRESSED = 1
_encode = Encoder().encode
_decode = Decoder(Record).decode


def packer(compress: bool) -> Callable[[Record], bytes]:
    """Return what packs: without compression it is the encoder itself."""
    return pack if compress else _encode


def pack(record: Record) -> bytes:
    """Encode a record, and compress it if that is shorter."""
    body = _encode(record)
    if len(body) <= MAX_UNPACKED and len(smaller := zlib.compress(body, 9)) < len(body):
        return bytes((_COMPRESSED,)) + smaller
    return body


def unpack(raw: bytes) -> Record:
    """The inverse of `pack`. ValueError (or a msgspec or zlib error) for what it would not have written.

    Call it only with bytes whose seal was verified; even so what it inflates is bounded.
    """
    if raw[0] != _COMPRESSED:
        return _decode(raw)
    inflate = zlib.decompressobj()
    body = inflate.decompress(raw[1:], MAX_UNPACKED + 1)
    if len(body) > MAX_UNPACKED:
        raise ValueError("too large when inflated")
    return _decode(body)
