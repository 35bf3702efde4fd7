"""How ids and binary tokens are spelled: base64url without padding, one spelling for each value (RFC 4648, 3.5)."""

import re
from binascii import b2a_base64

from msgspec import DecodeError
from msgspec.json import Decoder

TO_URL = bytes.maketrans(b"+/", b"-_")
FROM_URL = bytes.maketrans(b'-_+/="\\', b"+/!!!!!")  # what only standard base64, or JSON, uses becomes invalid

# As a JSON string, because msgspec decodes base64 four times as fast as binascii, and is as strict (but for JSON's own
# escapes, which begin with a backslash).
_decode = Decoder(bytes).decode

# How a text ends, by its length modulo four: the last character of one that is no multiple of four has bits to spare,
# which are zero in the one spelling. And the padding that standard base64 adds.
_ENDS = (("", b""), (None, b""), ("AQgw", b"=="), ("AEIMQUYcgkosw048", b"="))
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

ID_BYTES = 32


def to_base64url(raw: bytes) -> str:
    """
    >>> to_base64url(bytes(3) + b"?")
    'AAAAPw'
    """
    return b2a_base64(raw, newline=False).translate(TO_URL).rstrip(b"=").decode("ascii")


def decode_base64(encoded: bytes) -> bytes:
    """Standard base64 with padding, of bytes that hold no backslash; ValueError for anything else."""
    try:
        return _decode(b'"%b"' % encoded)
    except DecodeError:  # no ValueError before msgspec 0.20
        raise ValueError("not base64") from None


def from_base64url(text: str) -> bytes:
    """The inverse of `to_base64url`; ValueError for anything that it would not have written.

    >>> from_base64url("AAAAPw")
    b'\\x00\\x00\\x00?'
    """
    last, padding = _ENDS[len(text) % 4]
    # "AA" and "AB" decode alike: whoever compares or revokes a token by its text must not be fooled by the second.
    if last is None or (last and text[-1] not in last):
        raise ValueError("not the one spelling")
    return decode_base64(text.encode("ascii").translate(FROM_URL) + padding)


def looks_like_id(text: str) -> bool:
    """Whether a string from a browser may be shown to a backend as an id: nothing that anybody has to escape."""
    return _SESSION_ID.fullmatch(text) is not None
