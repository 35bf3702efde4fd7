"""Convert a record to the bytes that are signed or encrypted, and back: MessagePack, optionally compressed with zlib.

Compressed bytes begin with a byte 1. A record in MessagePack is an array, which never begins with that byte.
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
    """Return the function that encodes records: without compression, the encoder itself."""
    return pack if compress else _encode


def pack(record: Record) -> bytes:
    """Encode a record, compressed if that is shorter."""
    body = _encode(record)
    if len(body) <= MAX_UNPACKED and len(smaller := zlib.compress(body, 9)) < len(body):
        return bytes((_COMPRESSED,)) + smaller
    return body


def unpack(raw: bytes) -> Record:
    """Decode the output of `pack`.

    Call this only with bytes whose signature or tag was verified. Even so, the decompressed size is limited, against
    decompression bombs.

    Raises:
        ValueError: the bytes are not from `pack`, or too large when decompressed. (msgspec and zlib raise their own
            errors as well.)
    """
    if raw[0] != _COMPRESSED:
        return _decode(raw)
    inflate = zlib.decompressobj()
    body = inflate.decompress(raw[1:], MAX_UNPACKED + 1)
    if len(body) > MAX_UNPACKED:
        raise ValueError("too large when inflated")
    return _decode(body)
