"""Report what happens to sessions to the application: which events, with which handles."""

import logging
from collections.abc import Iterable, Iterator
from inspect import isawaitable

from starsessions.core.encoding import key_under
from starsessions.core.record import Found, Identity, MissReason
from starsessions.events import (
    Created,
    Event,
    Expired,
    InvalidCookie,
    OnEvent,
    Planted,
    Renewed,
    Rotated,
    RotatedIdReused,
    SignedIn,
    UnknownId,
)

_log = logging.getLogger("starsessions")


def handle_for(token: str) -> str:
    """Return the public name of the session with this id: 16 characters that do not reveal the id.

    >>> len(handle_for("an-id")), handle_for("an-id") == handle_for("an-id")
    (16, True)
    """
    return key_under(b"starsessions/v1/handle/", token)[:16]


def handle_of(found: Found) -> str:
    """Return the public name of a session that was found."""
    identity = found.record.identity
    return handle_for(found.token) if identity is None else identity.handle


def events_for_save(
    before: Found | None, after: Found, is_rotated: bool, signed_in: Identity | None
) -> Iterator[Event]:
    """Yield the events of a save. `signed_in`: the user who has just signed in."""
    handle = handle_of(after)
    if before is None:
        yield Created(handle)
    elif is_rotated:
        yield Rotated(handle, handle_for(before.token))
    else:
        yield Renewed(handle)
    if signed_in is not None:
        yield SignedIn(handle, signed_in.user_id, signed_in.method, signed_in.agent, signed_in.address)


def events_for_miss(why: MissReason, tokens: Iterable[str]) -> Iterator[Event]:
    """Yield the events of a cookie that opens no session. `tokens`: those in the cookie, as far as they can be read."""
    if why in (MissReason.MALFORMED, MissReason.BAD_SIGNATURE, MissReason.UNDECODABLE):
        handles: list[str | None] = [handle_for(token) for token in tokens]
        for handle in handles or [None]:
            yield InvalidCookie(handle, why)
    if why is MissReason.SEVERAL:
        yield Planted(tuple(handle_for(token) for token in tokens))
    for token in tokens:
        if why is MissReason.ROTATED:
            yield RotatedIdReused(handle_for(token))
        elif why is MissReason.UNKNOWN:
            yield UnknownId(handle_for(token))
        elif why in (MissReason.EXPIRED, MissReason.OVER_ABSOLUTE):
            yield Expired(handle_for(token), why)


async def dispatch(events: Iterable[Event], on_event: OnEvent | None) -> None:
    """Call `on_event` with each event, in order."""
    for event in events:
        try:
            outcome = on_event(event) if on_event is not None else None
            if isawaitable(outcome):
                await outcome
        except Exception:
            _log.exception("on_event raised an exception. The request is not affected.")
