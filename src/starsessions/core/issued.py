"""What an identity provider's tokens have in common: who issued it, for whom, when, and its number.

Claims come in, a decision comes out. The signature was verified before.
"""

from collections.abc import Collection, Mapping
from math import isfinite
from typing import Any

from msgspec import Struct

from starsessions.core.record import CLOCK_SKEW, Opaque

LONGEST_ID = 1_000
"""The characters that a token's number, a session or a subject has at most."""


class Refused(Struct, frozen=True):
    """Why a token is refused: a code of the specification, and the rule in words."""

    code: str
    why: str


class Trust(Struct, frozen=True):
    """Whose tokens are accepted, for whom, and for how long."""

    issuer: str
    audience: str
    max_age: int
    """The seconds after which a token is refused, whatever it says."""
    other_audiences: Collection[str] = ()
    """Who else may be named as an audience."""


class Issued(Opaque, frozen=True):
    """What identifies an acceptable token."""

    number: str
    """The claim `jti`. An issuer never uses one twice."""
    until: int
    """The token is refused from this instant on."""


class Ending(Opaque, frozen=True):
    """An acceptable token that ends sessions."""

    issued: Issued
    issuer: str
    """The provider that the session and the subject belong to."""
    session: str = ""
    """The provider's id of one session; empty: all sessions of the subject."""
    subject: str = ""
    """The provider's id of the user; empty if only the session is known."""


def judge_issued(claims: Mapping[str, Any], trust: Trust, now: int, *, must_expire: bool) -> Issued | Refused:
    """Return what identifies the token, or the rule that it breaks.

    Args:
        claims: the claims.
        trust: whose tokens are accepted.
        now: the current time.
        must_expire: whether the claim `exp` is required.
    """
    if claims.get("iss") != trust.issuer:
        return Refused("invalid_issuer", "The token was issued by another provider.")
    refused = _judge_audience(claims.get("aud"), trust)
    if refused is not None:
        return refused
    issued_at, expires_at, not_before = (_instant(claims.get(name)) for name in ("iat", "exp", "nbf"))
    if issued_at is None or issued_at > now + CLOCK_SKEW:
        return Refused("invalid_request", "The claim iat is missing, malformed, or in the future.")
    if "nbf" in claims and (not_before is None or not_before > now + CLOCK_SKEW):
        return Refused("invalid_request", "The token is not valid yet.")
    if expires_at is None and must_expire:
        return Refused("invalid_request", "The claim exp is missing or malformed.")
    until = issued_at + trust.max_age if expires_at is None else min(expires_at, issued_at + trust.max_age)
    if now >= until + CLOCK_SKEW:
        return Refused("invalid_request", "The token has expired.")
    number = text_in(claims, "jti")
    if not number:
        return Refused("invalid_request", "The claim jti is missing or malformed.")
    return Issued(number, until + CLOCK_SKEW)


def text_in(claims: Mapping[str, Any], name: str) -> str | None:
    """Return a claim that is a text of a reasonable length; "" if it is missing, None if it is anything else."""
    value = claims.get(name, "")
    usable = isinstance(value, str) and len(value) <= LONGEST_ID and (bool(value) or name not in claims)
    return value if usable else None


def _judge_audience(audience: object, trust: Trust) -> Refused | None:
    named = audience if isinstance(audience, list) else [audience]
    if trust.audience not in named:
        return Refused("invalid_audience", "The token is for another audience.")
    if any(one != trust.audience and one not in trust.other_audiences for one in named):
        return Refused("invalid_audience", "The token names an audience that is not trusted.")
    return None


def _instant(value: object) -> int | None:
    """Return a NumericDate (RFC 7519, 2) in whole seconds; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return int(value) if 0 <= value < 2**53 else None
