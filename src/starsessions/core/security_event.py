"""The rules of a security event that a transmitter pushes: SSF 1.0 and the CAEP Interoperability Profile 1.0.

An event is a SET (RFC 8417) whose subject is in `sub_id` (RFC 9493). It has neither `exp` nor `sub`, so that it cannot
be confused with other tokens. It contains exactly one event.

| the subject of a `session-revoked` | what ends |
|---|---|
| `opaque` | the session with this `sid` |
| `iss_sub` | all sessions of this subject |
| `complex` with an opaque `session` | that session |
| `complex` with a `user` | all sessions of that user: the library knows no devices, and ends rather too many |
| `email` and all others | what the application's own function says |
"""

from collections.abc import Collection, Mapping
from typing import Any

from starsessions.core.issued import Ending, Issued, Refused, Trust, judge_issued, text_in
from starsessions.core.record import Opaque

SESSION_REVOKED = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
VERIFICATION = "https://schemas.openid.net/secevent/ssf/event-type/verification"
STREAM_UPDATED = "https://schemas.openid.net/secevent/ssf/event-type/stream-updated"

EVENT_TYPES = ("secevent+jwt", "application/secevent+jwt")
"""The header `typ`."""

KNOWN_MEMBERS = ("format", "session", "user")
"""The members of a complex subject that are understood."""


class Noted(Opaque, frozen=True):
    """An acceptable event that ends nothing."""

    issued: Issued
    state: str | None = None
    """What a verification event repeats; None: it is another event."""
    has_stopped: bool = False
    """Whether the transmitter has paused or disabled the stream."""


class OfUser(Opaque, frozen=True):
    """A revocation of all sessions of a user whom only the application can find."""

    issued: Issued
    subject: Mapping[str, Any]
    """The subject identifier, as in RFC 9493."""


Judged = Ending | OfUser | Noted | Refused


def judge_event(
    claims: Mapping[str, Any], trust: Trust, now: int, issuers: Collection[str], critical: Collection[str]
) -> Judged:
    """Return what the event ends, or the rule that it breaks.

    Args:
        claims: the claims.
        trust: whose events are accepted.
        now: the current time.
        issuers: the providers whose subjects the transmitter may name.
        critical: the members of a complex subject that must be understood, according to the transmitter.
    """
    issued = judge_issued(claims, trust, now, must_expire=False)
    if isinstance(issued, Refused):
        return issued
    if "exp" in claims or "sub" in claims:
        return Refused("invalid_request", "An event has neither the claim exp nor the claim sub.")
    events, subject = claims.get("events"), claims.get("sub_id")
    if not isinstance(events, dict) or len(events) != 1:
        return Refused("invalid_request", "The claim events does not contain exactly one event.")
    [(kind, event)] = events.items()
    if not isinstance(event, dict) or not isinstance(subject, dict) or not text_in(subject, "format"):
        return Refused("invalid_request", "The event or its subject in sub_id is not an object, or has no format.")
    if kind == SESSION_REVOKED:
        return _judge_subject(subject, issued, trust, issuers, critical)
    if kind == VERIFICATION:
        return Noted(issued, text_in(event, "state") or "")
    if kind == STREAM_UPDATED:
        return Noted(issued, has_stopped=event.get("status") != "enabled")
    return Noted(issued)


def _judge_subject(
    subject: Mapping[str, Any], issued: Issued, trust: Trust, issuers: Collection[str], critical: Collection[str]
) -> Judged:
    parts = _parts_of(subject, critical)
    if isinstance(parts, Refused):
        return parts
    session, user = parts
    if not user:
        return Ending(issued, trust.issuer, session) if session else Noted(issued)
    if user["format"] != "iss_sub":
        return Ending(issued, trust.issuer, session) if session else OfUser(issued, user)
    issuer, name = text_in(user, "iss"), text_in(user, "sub")
    if not issuer or not name:
        return Refused("invalid_request", "The subject has no iss or no sub.")
    if issuer not in issuers:
        return Refused("access_denied", "The transmitter may not name subjects of this provider.")
    return Ending(issued, issuer, session, name)


def _parts_of(subject: Mapping[str, Any], critical: Collection[str]) -> tuple[str, Mapping[str, Any]] | Refused:
    """Return the id of the session, or "", and the subject identifier of the user, which may be empty."""
    if subject["format"] == "opaque":
        session = _opaque(subject)
        return (session, {}) if session else Refused("invalid_request", "The subject has no id.")
    if subject["format"] != "complex":
        return "", subject
    if any(name in critical for name in subject if name not in KNOWN_MEMBERS):
        return Refused("invalid_request", "The subject has a critical member that is not understood.")
    user = subject.get("user", {})
    if not isinstance(user, dict) or (user and not text_in(user, "format")):
        return Refused("invalid_request", "The user in the subject is not an object, or has no format.")
    return _opaque(subject.get("session")), user


def _opaque(subject: object) -> str:
    """Return the id of an opaque subject; "" if it is none."""
    return (text_in(subject, "id") or "") if isinstance(subject, dict) and subject.get("format") == "opaque" else ""
