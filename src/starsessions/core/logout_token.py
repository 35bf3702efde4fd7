"""The rules of a logout token: OpenID Connect Back-Channel Logout 1.0, sections 2.4 and 2.6.

| the rule | checked by |
|---|---|
| the issuer, the audience, the times, the number (steps 4 and 8) | `issued` |
| `sid`, `sub`, or both (step 5) | here |
| the event of a back-channel logout, whose value is an object (step 6) | here |
| no `nonce`, or it would pass for an ID token (step 7) | here |
| the type, the algorithm and the signature (steps 1 to 3) | `oidc.tokens` |
"""

from collections.abc import Mapping
from typing import Any

from starsessions.core.issued import Ending, Refused, Trust, judge_issued, text_in

LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"

LOGOUT_TYPES = ("", "jwt", "logout+jwt", "application/logout+jwt")
"""The header `typ`. Other tokens of the provider say what they are; a missing type is allowed for older providers."""


def judge_logout(claims: Mapping[str, Any], trust: Trust, now: int) -> Ending | Refused:
    """Return the sessions that the token ends, or the rule that it breaks."""
    issued = judge_issued(claims, trust, now, must_expire=True)
    if isinstance(issued, Refused):
        return issued
    session, subject = text_in(claims, "sid"), text_in(claims, "sub")
    if session is None or subject is None or not (session or subject):
        return Refused("invalid_request", "The token has neither a sid nor a sub, or one of them is malformed.")
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        return Refused("invalid_request", "The claim events does not contain a back-channel logout.")
    if "nonce" in claims:
        return Refused("invalid_request", "The token has a nonce, so it may be an ID token.")
    return Ending(issued, trust.issuer, session, subject)
