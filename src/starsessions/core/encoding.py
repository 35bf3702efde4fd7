"""Ids and binary tokens as text, with exactly one spelling for each value (RFC 4648, 3.5).

base64url without padding is also valid in URLs, forms and keys. Standard base64 takes half the time.
"""

import re
from binascii import b2a_base64
from collections.abc import Callable
from hashlib import sha256

from msgspec import DecodeError
from msgspec.json import Decoder

TO_URL = bytes.maketrans(b"+/", b"-_")
FROM_URL = bytes.maketrans(b'-_+/="\\', b"+/!!!!!")  # characters of standard base64 and of JSON only become invalid

decode_quoted: Callable[[bytes | str], bytes] = Decoder(bytes).decode
"""Decodes base64 with padding, given as a JSON string: four times as fast as binascii, and as strict, except that it
accepts JSON's escapes, which begin with a backslash. Raises msgspec's DecodeError, no ValueError before 0.20.
"""

# The possible last characters of a text with two or three characters more than a multiple of four: in the one accepted
# spelling, the unused bits are zero.
_LAST_OF_TWO, _LAST_OF_THREE = "AQgw", "AEIMQUYcgkosw048"

# By the length modulo four: the last character, if it matters, and the padding that standard base64 adds.
_ENDS = (("", b""), (None, b""), (_LAST_OF_TWO, b"=="), (_LAST_OF_THREE, b"="))
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

ID_BYTES = 32


def to_base64url(raw: bytes) -> str:
    """Return base64url without padding.

    >>> to_base64url(bytes(3) + b"?")
    'AAAAPw'
    """
    return b2a_base64(raw, newline=False).translate(TO_URL).rstrip(b"=").decode("ascii")


def key_under(label: bytes, text: str) -> str:
    """Return the hash of a label and a text, by which something is known that must not show the text.

    >>> key_under(b"label/", "text") != key_under(b"label/", "Text"), len(key_under(b"label/", "text"))
    (True, 43)
    """
    return to_base64url(sha256(label + text.encode("utf-8", "surrogatepass")).digest())


def to_base64(raw: bytes) -> str:
    """Return standard base64 with padding.

    >>> to_base64(bytes(3) + b"?")
    'AAAAPw=='
    """
    return b2a_base64(raw, newline=False).decode("ascii")


def from_base64(text: str) -> bytes:
    """Decode what `to_base64` returned.

    Raises:
        ValueError: `to_base64` would not have written this text.

    >>> from_base64("AAAAPw==")
    b'\\x00\\x00\\x00?'
    """
    if "\\" in text:
        raise ValueError("not base64")
    try:
        raw = decode_quoted(f'"{text}"')
    except DecodeError:
        raise ValueError("not base64") from None
    if text[-1:] == "=" and text[-2] not in _LAST_OF_THREE and (text[-2] != "=" or text[-3] not in _LAST_OF_TWO):
        raise ValueError("not canonical base64")
    return raw


def from_base64url(text: str) -> bytes:
    """Decode what `to_base64url` returned.

    Raises:
        ValueError: `to_base64url` would not have written this text.

    >>> from_base64url("AAAAPw")
    b'\\x00\\x00\\x00?'
    """
    last, padding = _ENDS[len(text) % 4]
    # "AA" and "AB" decode alike: where tokens are compared or revoked by their text, the second must not pass.
    if last is None or (last and text[-1] not in last):
        raise ValueError("not canonical base64")
    try:
        return decode_quoted(b'"%b%b"' % (text.encode("ascii").translate(FROM_URL), padding))
    except DecodeError:
        raise ValueError("not base64") from None


def is_valid_id(text: str) -> bool:
    """Return whether a string from a browser may reach a backend as an id: no character in it ever needs escaping."""
    return _SESSION_ID.fullmatch(text) is not None
