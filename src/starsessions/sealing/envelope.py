"""A record <-> the bytes that are signed or encrypted: MessagePack, with a byte in front if there is more to say.

bit 0   compressed (zlib)
bit 1   padded: one byte 0x80, then zeros, up to a multiple of the block

A record in MessagePack is an array, and no array begins with a byte as small as these flags.
"""

import zlib
from collections.abc import Callable

from msgspec.msgpack import Decoder, Encoder

from starsessions.core.record import Record

MAX_UNPACKED = 1 << 20

_COMPRESSED, _PADDED = 1, 2
_encode = Encoder().encode
_decode = Decoder(Record).decode


def packer(compress: bool, pad_to: int = 0) -> Callable[[Record], bytes]:
    """`pack` with these settings. Without any it is the encoder itself."""
    if not compress and not pad_to:
        return _encode
    return lambda record: pack(record, compress, pad_to)


def pack(record: Record, compress: bool = False, pad_to: int = 0) -> bytes:
    """With `compress`, compressed if that is shorter; with `pad_to`, as long as the next multiple of it (bytes)."""
    body = _encode(record)
    flags = 0
    if compress and len(body) <= MAX_UNPACKED and len(smaller := zlib.compress(body, 9)) < len(body):
        flags, body = _COMPRESSED, smaller
    if pad_to:
        flags |= _PADDED
        body += b"\x80" + bytes(-(len(body) + 2) % pad_to)
    return bytes((flags,)) + body if flags else body


def unpack(raw: bytes) -> Record:
    """The inverse of `pack`. ValueError (or a msgspec or zlib error) for what it would not have written.

    Call it only with bytes whose seal was verified; even so what it inflates is bounded.
    """
    flags = raw[0]
    if flags > _COMPRESSED | _PADDED:
        return _decode(raw)
    body = raw[1:]
    if flags & _PADDED:
        body = body.rstrip(b"\0")[:-1]
    if flags & _COMPRESSED:
        inflate = zlib.decompressobj()
        body = inflate.decompress(body, MAX_UNPACKED + 1)
        if len(body) > MAX_UNPACKED:
            raise ValueError("too large when inflated")
    return _decode(body)
