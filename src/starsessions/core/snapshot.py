"""Remember what a list or dict of the session holds, to tell later whether it has changed inside.

Python code can change a list inside the session without calling the session. So before a handler gets one, it is
written down, and compared when the response starts. The cost follows what a request touches, not what is stored.

`marshal` writes a value in C, and is exact: it names the type at each level (`True`, `1` and `1.0`; tuple and list; the
sign of zero), and refuses subclasses and nearly all other classes. Those that a session can hold are written as a
payload has them, which is as exact, and slower. So equal snapshots are of values that are stored alike. Different ones
may be, too: the order of a set means nothing. Nothing is ever read back from a snapshot.

(A buffer is written as its bytes. So a bytearray in the place of the same bytes is not refused: it is no change.)
"""

from marshal import dumps
from typing import Any

from starsessions.core.wrapping import wrapped
from starsessions.exceptions import UnsupportedValue

_VERSION = 2
"""The last version that writes the same bytes for the same value, also if another one shares a part of it."""

_WRAPPED = b"\0"


def snapshot(value: Any) -> bytes | None:
    """Return bytes that are equal only for values that are stored alike; None if a session cannot hold the value.

    >>> snapshot([1]) == snapshot([1]), snapshot([1]) == snapshot([True]), snapshot([1]) == snapshot((1,))
    (True, False, False)
    """
    try:
        return dumps(value, _VERSION)
    except ValueError:
        pass
    try:
        return _WRAPPED + wrapped(value)
    except UnsupportedValue:  # encoding it says where it is
        return None
