"""What an application may want to hear of, besides its log: values, handed to the middleware's `on_event`.

They hold handles and never ids: a handle names a session and does not open it.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256
from inspect import isawaitable

from starsessions.core.tokens import to_base64url

_log = logging.getLogger("starsessions")

_HANDLE_BYTES = 12


@dataclass(frozen=True, slots=True)
class RotatedIdUsed:
    """Somebody brought an id that was rotated away, after its grace: the session is not opened.

    One browser never does that for long. A cookie that was copied looks like this: two parties held one id, and only
    one of them was given the new one. `handle` is the same each time that the id is used.
    """

    handle: str


@dataclass(frozen=True, slots=True)
class OutdatedData:
    """What a session holds does not fit its model any more (`starsessions.typed`): the handler was given a fresh one.

    `handle` is that of the session, None for one without an id; `model` is the name of the class; `version` is that of
    the data; `why` names the field, or the error, and no value.
    """

    handle: str | None
    model: str
    version: int
    why: str


Event = RotatedIdUsed | OutdatedData

OnEvent = Callable[[Event], Awaitable[object] | object]
"""What is called with each event, after the response: a function, or a coroutine function. It cannot break a request:
what it raises is logged."""


def handle_for(token: str) -> str:
    """The public name of the session with this id: 16 characters, from which nobody can tell the id.

    >>> len(handle_for("an-id")), handle_for("an-id") == handle_for("an-id")
    (16, True)
    """
    digest = sha256(b"starsessions/v1/handle/" + token.encode("utf-8", "surrogatepass")).digest()
    return to_base64url(digest[:_HANDLE_BYTES])


async def report(events: Iterable[Event], on_event: OnEvent | None) -> None:
    """Hand them over, one after the other, if anybody listens."""
    for event in events:
        try:
            outcome = on_event(event) if on_event is not None else None
            if isawaitable(outcome):
                await outcome
        except Exception:
            _log.exception("on_event failed.")
