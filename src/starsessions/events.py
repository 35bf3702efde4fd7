"""What an application may want to hear of, besides its log: values, handed to the middleware's `on_event`.

They hold handles and never ids: a handle names a session and does not open it. That of somebody who is signed in is
the one on the list of devices, and stays. Any other is made from the id or the sealed cookie, and changes with it.

The life of a session is `Created`, `SignedIn`, `Renewed`, `Rotated`, `SignedOut` or `Revoked`. What a browser brought
that was no session (any more) is `Expired`, `UnknownId`, `RotatedIdReused` or `InvalidCookie`.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from hashlib import sha256
from inspect import isawaitable

from msgspec import Struct

from starsessions.core.encoding import to_base64url
from starsessions.core.record import Found, Identity, MissReason

_log = logging.getLogger("starsessions")

_HANDLE_BYTES = 12


class Created(Struct, frozen=True):
    """A session began: something was put into it, or somebody signed in."""

    handle: str


class Renewed(Struct, frozen=True):
    """A session was written, by a change or (with `rolling`) by use, and its deadline moved."""

    handle: str


class Rotated(Struct, frozen=True):
    """A session got a new id. `before` is what `RotatedIdReused` calls the old one, if somebody brings it later."""

    handle: str
    before: str


class SignedIn(Struct, frozen=True):
    """Somebody signed in, or confirmed by signing in again who they are. `method`: how, in the application's words."""

    handle: str
    user_id: str
    method: str


class SignedOut(Struct, frozen=True):
    """The session of somebody who was signed in was ended by its own browser."""

    handle: str
    user_id: str


class Revoked(Struct, frozen=True):
    """The session of somebody was ended from elsewhere: by `UserSessions`, or since one more was too many."""

    handle: str
    user_id: str


class Expired(Struct, frozen=True):
    """Somebody brought the cookie of a session that is over. (What a store has forgotten meanwhile is an `UnknownId`.)

    `why`: whether it was idle for too long, or over its absolute limit.
    """

    handle: str
    why: MissReason


class ConflictResolved(Struct, frozen=True):
    """Two requests changed a session at once, and this one did what it did on top of what the other one had left."""

    handle: str


class RotatedIdReused(Struct, frozen=True):
    """Somebody brought an id that was rotated away, after its grace: the session is not opened.

    One browser never does that for long. A cookie that was copied looks like this: two parties held one id, and only
    one of them was given the new one. `handle` is the same each time that the id is used.
    """

    handle: str


class UnknownId(Struct, frozen=True):
    """Somebody brought an id that is nobody's: ended, forgotten, or made up. Many in a row: somebody guesses."""

    handle: str


class InvalidCookie(Struct, frozen=True):
    """Somebody brought what is no cookie of ours, or what is stored under an id is no session.

    `handle`: None if there was nothing that could be looked up. `why`: malformed, a bad signature, or undecodable.
    """

    handle: str | None
    why: MissReason


class StoreFailed(Struct, frozen=True):
    """The store of the sessions failed, so the request was answered 503, or went on without its session.

    `why` is the message of the `BackendUnavailable`, with the kind of the failure.
    """

    why: str


class SchemaMismatch(Struct, frozen=True):
    """What a session holds does not fit its model any more (`starsessions.typed`): the handler was given a fresh one.

    `handle` is that of the session, None for one without an id; `model` is the name of the class; `version` is that of
    the data; `why` names the field, or the error, and no value.
    """

    handle: str | None
    model: str
    version: int
    why: str


Event = (
    Created
    | Renewed
    | Rotated
    | SignedIn
    | SignedOut
    | Revoked
    | Expired
    | ConflictResolved
    | RotatedIdReused
    | UnknownId
    | InvalidCookie
    | StoreFailed
    | SchemaMismatch
)

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


def handle_of(found: Found) -> str:
    """The public name of a session that was found."""
    identity = found.record.identity
    return handle_for(found.token) if identity is None else identity.handle


def events_for_save(
    before: Found | None, after: Found, is_rotated: bool, signed_in: Identity | None
) -> Iterator[Event]:
    """What there is to say when a session was kept. `signed_in`: who has just done so."""
    handle = handle_of(after)
    if before is None:
        yield Created(handle)
    elif is_rotated:
        yield Rotated(handle, handle_for(before.token))
    else:
        yield Renewed(handle)
    if signed_in is not None:
        yield SignedIn(handle, signed_in.user_id, signed_in.method)


def events_for_miss(why: MissReason, tokens: Iterable[str]) -> Iterator[Event]:
    """What there is to say of a cookie that opens no session. `tokens`: those that it holds, if they can be told."""
    if why in (MissReason.MALFORMED, MissReason.BAD_SIGNATURE, MissReason.UNDECODABLE):
        handles: list[str | None] = [handle_for(token) for token in tokens]
        for handle in handles or [None]:
            yield InvalidCookie(handle, why)
    for token in tokens:
        if why is MissReason.ROTATED:
            yield RotatedIdReused(handle_for(token))
        elif why is MissReason.UNKNOWN:
            yield UnknownId(handle_for(token))
        elif why in (MissReason.EXPIRED, MissReason.OVER_ABSOLUTE):
            yield Expired(handle_for(token), why)


async def dispatch(events: Iterable[Event], on_event: OnEvent | None) -> None:
    """Hand them over, one after the other, if anybody listens."""
    for event in events:
        try:
            outcome = on_event(event) if on_event is not None else None
            if isawaitable(outcome):
                await outcome
        except Exception:
            _log.exception("on_event failed.")
