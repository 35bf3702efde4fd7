"""How ids and binary tokens are spelled: one spelling for each value (RFC 4648, 3.5).

base64url without padding, which stands in URLs, forms and keys as well; or base64, which takes half the time.
"""

import re
from binascii import b2a_base64
from collections.abc import Callable

from msgspec import DecodeError
from msgspec.json import Decoder

TO_URL = bytes.maketrans(b"+/", b"-_")
FROM_URL = bytes.maketrans(b'-_+/="\\', b"+/!!!!!")  # what only standard base64, or JSON, uses becomes invalid

decode_quoted: Callable[[bytes | str], bytes] = Decoder(bytes).decode
"""What base64 with padding holds, as a JSON string: four times as fast as binascii, and as strict, but for JSON's own
escapes, which begin with a backslash. Raises msgspec's DecodeError, which before 0.20 is no ValueError.
"""

# What a text can end with that has two or three characters more than a multiple of four: bits to spare are zero in the
# one spelling.
_LAST_OF_TWO, _LAST_OF_THREE = "AQgw", "AEIMQUYcgkosw048"

# By the length modulo four: the last character, if it matters, and the padding that standard base64 adds.
_ENDS = (("", b""), (None, b""), (_LAST_OF_TWO, b"=="), (_LAST_OF_THREE, b"="))
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")

ID_BYTES = 32


def to_base64url(raw: bytes) -> str:
    """
    >>> to_base64url(bytes(3) + b"?")
    'AAAAPw'
    """
    return b2a_base64(raw, newline=False).translate(TO_URL).rstrip(b"=").decode("ascii")


def to_base64(raw: bytes) -> str:
    """Standard base64 with padding.

    >>> to_base64(bytes(3) + b"?")
    'AAAAPw=='
    """
    return b2a_base64(raw, newline=False).decode("ascii")


def from_base64(text: str) -> bytes:
    """The inverse of `to_base64`; ValueError for anything that it would not have written.

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
        raise ValueError("not the one spelling")
    return raw


def from_base64url(text: str) -> bytes:
    """The inverse of `to_base64url`; ValueError for anything that it would not have written.

    >>> from_base64url("AAAAPw")
    b'\\x00\\x00\\x00?'
    """
    last, padding = _ENDS[len(text) % 4]
    # "AA" and "AB" decode alike: whoever compares or revokes a token by its text must not be fooled by the second.
    if last is None or (last and text[-1] not in last):
        raise ValueError("not the one spelling")
    try:
        return decode_quoted(b'"%b%b"' % (text.encode("ascii").translate(FROM_URL), padding))
    except DecodeError:
        raise ValueError("not base64") from None


def is_valid_id(text: str) -> bool:
    """Whether a string from a browser may be shown to a backend as an id: nothing that anybody has to escape."""
    return _SESSION_ID.fullmatch(text) is not None
