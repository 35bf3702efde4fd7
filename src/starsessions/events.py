"""Events that the middleware passes to `on_event`, for applications that need more than the log.

They contain handles and never ids: a handle names a session and does not open it. A signed-in session has the handle
that is on the user's list of devices, and keeps it. Any other handle is made from the id or the cookie, and changes
with it.

The life of a session: `Created`, `SignedIn`, `Renewed`, `Rotated`, `SignedOut`, `Revoked`, `EndedByOperator`. A cookie
that did not open a session: `Expired`, `UnknownId`, `RotatedIdReused`, `InvalidCookie`, `Planted`.
"""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from starsessions.core.record import MissReason

__all__ = [
    "ConflictResolved",
    "Created",
    "EndedByOperator",
    "Event",
    "Expired",
    "InvalidCookie",
    "OnEvent",
    "Planted",
    "Renewed",
    "Revoked",
    "Rotated",
    "RotatedIdReused",
    "SchemaMismatch",
    "SignedIn",
    "SignedOut",
    "StoreFailed",
    "UnknownId",
]


class Event(Struct, frozen=True):
    """Any event. A later release may add others."""


class Created(Event, frozen=True):
    """A session began: a value was stored in it, or a user signed in."""

    handle: str


class Renewed(Event, frozen=True):
    """A session was written, after a change or (with `rolling`) after use, and its deadline moved."""

    handle: str


class Rotated(Event, frozen=True):
    """A session got a new id. `before` is the handle of the old id, as in a later `RotatedIdReused`."""

    handle: str
    before: str


class SignedIn(Event, frozen=True):
    """A user signed in, maybe again, to confirm their identity. `method` is the value passed to `sign_in()`.

    `agent` and `address` describe the device, as the list of devices does.
    """

    handle: str
    user_id: str
    method: str
    agent: str = ""
    address: str = ""


class SignedOut(Event, frozen=True):
    """A signed-in session was ended by its own browser. `agent` and `address` are those of its sign-in."""

    handle: str
    user_id: str
    agent: str = ""
    address: str = ""


class Revoked(Event, frozen=True):
    """A user's session was ended from elsewhere: by `UserSessions`, or by the limit `max_sessions_per_user`.

    `agent` and `address` are those of its sign-in.
    """

    handle: str
    user_id: str
    agent: str = ""
    address: str = ""


class EndedByOperator(Event, frozen=True):
    """An operator has ended a session of a user, or all of them (`starsessions.pages.OperatorPages`).

    `operator` is what the guard of the pages returned. `handle` is that of the session; "": all. `ended` is how many;
    None: the store failed, and some may have ended.
    """

    operator: str
    user_id: str
    handle: str
    ended: int | None


class Expired(Event, frozen=True):
    """A request had the cookie of an expired session. (If the store has removed it already, this is an `UnknownId`.)

    `why`: whether the session was idle for too long, or reached its absolute limit.
    """

    handle: str
    why: MissReason


class ConflictResolved(Event, frozen=True):
    """Two requests changed a session at the same time, and the changes of this one were merged in."""

    handle: str


class RotatedIdReused(Event, frozen=True):
    """A request had an id that was rotated, after its grace period. The session is not opened.

    A browser does not do this for long, and a copied cookie looks like this: two parties used one id, and only one of
    them received the new one. `handle` is the same each time that the id is used.
    """

    handle: str


class UnknownId(Event, frozen=True):
    """A request had an id without a session: ended, removed or made up. Many in a row suggest guessing."""

    handle: str


class InvalidCookie(Event, frozen=True):
    """A request had a cookie that the library did not write, or the stored value under its id could not be decoded.

    Args:
        handle: None if there was nothing to look up.
        why: malformed, a bad signature, or undecodable.
    """

    handle: str | None
    why: MissReason


class Planted(Event, frozen=True):
    """A request had several cookies of the session's name, and more than one was valid (or there were too many to try).

    None was used. Either another host of the domain planted one, or `domain`, `path` or `partitioned` has changed. The
    next response that begins or ends a session removes the others.

    Args:
        handles: those of all the cookies; empty if there were too many.
    """

    handles: tuple[str, ...]


class StoreFailed(Event, frozen=True):
    """The store failed, so the response was a 503, or the request went on without its session.

    `why` is the message of the `BackendUnavailable`, which names the kind of failure.
    """

    why: str


class SchemaMismatch(Event, frozen=True):
    """A session's data no longer fits its model (`starsessions.typed`), and the handler got a fresh model.

    Args:
        handle: the session's handle; None if it has no id yet.
        model: the name of the model's class.
        version: the version of the data.
        why: the field that does not fit, or the type of the error. Never a value.
    """

    handle: str | None
    model: str
    version: int
    why: str


OnEvent = Callable[[Event], Awaitable[object] | object]
"""A function or coroutine function that is called with each event, after the response. It cannot break a request: an
exception that it raises is logged.
"""
