"""A session as a value: its encoded data, its times and its user. Everything except who holds its id.

All instants are whole seconds since 1970 and all durations whole seconds, as in a cookie's `Max-Age` and in the
timestamps of itsdangerous. A session expires exactly at its limit: one that lasts 60 seconds is expired when 60 seconds
have passed.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

from msgspec import Meta, Struct

DEFAULT_MAX_AGE = 14 * 24 * 60 * 60

# The clocks of two servers never agree to the second. A record from further in the future than this was written by a
# clock that has been set back since, and trusting it would let the session outlive its limits.
CLOCK_SKEW = 60


LAST_INSTANT = 253_402_300_799
"""The last second of the year 9999. Python has no datetime after it."""

# A record from outside is read by these types only, so no later arithmetic or conversion of a time can fail.
Instant = Annotated[int, Meta(ge=0, le=LAST_INSTANT)]
Key = Annotated[str, Meta(pattern=r"^[\x20-\x7e]*\Z")]
"""A key of a store (in memory that is the id, as the application spells it), or nothing."""


class MissReason(StrEnum):
    """Why a request has no session: for logs and tests, never for the user.

    >>> MissReason.EXPIRED == "expired"
    True
    """

    NO_COOKIE = "no cookie"
    MALFORMED = "malformed"
    SEVERAL = "several cookies of one name"
    """Several are valid, or there are too many: one was planted, or left by another `domain` or `path`."""
    BAD_SIGNATURE = "bad signature"
    UNKNOWN = "unknown"
    ROTATED = "rotated away"
    JUST_ROTATED = "rotated a moment ago"
    EXPIRED = "expired"
    OVER_ABSOLUTE = "over the absolute limit"
    UNDECODABLE = "undecodable"
    UNAVAILABLE = "unavailable"


class Opaque(Struct, frozen=True):
    """Keeps a struct out of what tools print that show local variables: it holds ids, or what is in a session.

    >>> Record(b"a secret", 1, 2)
    <Record>
    """

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Identity(Opaque, frozen=True, array_like=True):
    """The signed-in user of a session. It is kept apart from the data, where no handler overwrites it by accident.

    New fields are added at the end only, with a default.
    """

    user_id: str

    signed_in_at: Instant

    handle: str
    """The session's public name. It stays the same when the id is rotated."""

    method: str = ""
    """How the user signed in, in the application's words."""

    agent: str = ""
    address: str = ""
    listed_until: Instant = 0
    """The instant until which the user's list is certain to exist. A renewal beyond it has to list the session again.
    """

    generation: int = 0
    """For a cookie that can be revoked: how often the session was rotated. Only the latest generation is valid."""


class Record(Opaque, frozen=True, array_like=True):
    """One session, as a cookie or a store holds it. New fields are added at the end only, with a default."""

    payload: Any
    """The data, encoded by the serializer: bytes. (An adapted 1.x backend has a private copy of the data instead.)"""

    began_at: Instant
    """When the session began, or last signed in. Writes and renewals leave it alone."""

    renewed_at: Instant
    """When the session was last written or touched."""

    lifetime: Instant | None = None
    """Seconds from `renewed_at`, instead of the policy's `max_age`: set by `set_expiry(seconds)`."""

    until: Instant | None = None
    """A fixed expiry time that no renewal moves: set by `set_expiry(datetime)`."""

    browser: bool = False
    """Whether the cookie has no `Max-Age`: set by `set_expiry(None)`. The session still expires on the server."""

    rotated_at: Instant | None = None
    """When the session last got a new id. None: it still has its first one."""

    identity: Identity | None = None
    """The signed-in user. None: the session is anonymous."""


def readable(record: Record, loads: Callable[[Any], dict[str, Any]]) -> dict[str, Any] | None:
    """Return the data of a record from a store or a cookie; None if it holds none that this application can read.

    Everything from outside is read here, after its decoder has checked the types and times.
    """
    try:
        data = loads(record.payload)
    except Exception:  # garbage, or the data of another release
        return None
    return data if type(data) is dict else None


class Found(Opaque, frozen=True):
    """A live session from a backend. `token` is what the browser has; only the backend interprets `version`."""

    token: str
    record: Record
    version: Any = None

    is_alias: bool = False
    """Whether the token was rotated and is in its grace period: the browser has got, or is about to get, another one.
    """


class Expiry(NamedTuple):
    """The argument of `set_expiry()`, as the three fields of a record."""

    lifetime: int | None = None
    until: int | None = None
    browser: bool = False


def expiry_of(record: Record) -> Expiry:
    """Return the expiry that was set for this session."""
    return Expiry(record.lifetime, record.until, record.browser)


class Policy(Struct, frozen=True):
    """How long a session lives, and how long its id does. All durations are seconds."""

    max_age: int = DEFAULT_MAX_AGE
    absolute_timeout: int | None = None
    rolling: bool = False
    renew_every: int | None = None
    browser_session: bool = False
    rotate_every: int | None = None
    rotate_grace: int = 0
    """How long an id that `rotate_every` replaced keeps working, for requests that were already on their way."""


def deadline(record: Record, policy: Policy) -> int:
    """Return when the session expires by the current policy: shortening `max_age` also shortens existing sessions."""
    end = record.until
    if end is None:
        end = record.renewed_at + (record.lifetime or policy.max_age)
    if policy.absolute_timeout is not None:
        end = min(end, record.began_at + policy.absolute_timeout)
    return end


def why_expired(record: Record, policy: Policy, now: int) -> MissReason | None:
    """Return why the session is expired at `now`; None if it is alive."""
    absolute = policy.absolute_timeout
    if absolute is not None and now >= record.began_at + absolute:
        return MissReason.OVER_ABSOLUTE
    end = record.until
    if end is None:
        end = record.renewed_at + (record.lifetime or policy.max_age)
    return None if record.renewed_at - CLOCK_SKEW <= now < end else MissReason.EXPIRED


def touch_due(record: Record, policy: Policy, now: int) -> bool:
    """Return whether use alone should renew the session now (`rolling`).

    At most once per `renew_every` (default: a tenth of the lifetime), so that reads do not cause a write per request. A
    session with a shorter lifetime of its own is renewed at half of it, since it would otherwise never be renewed.
    """
    if not policy.rolling or record.until is not None:
        return False
    interval = policy.renew_every or (record.lifetime or policy.max_age) // 10
    if record.lifetime is not None:
        interval = min(interval, record.lifetime // 2)
    return now - record.renewed_at >= max(1, interval)


def rotation_due(record: Record, policy: Policy, now: int) -> bool:
    """Return whether the id is old enough to be replaced."""
    since = record.began_at if record.rotated_at is None else record.rotated_at
    return policy.rotate_every is not None and now - since >= policy.rotate_every


def cookie_max_age(record: Record, policy: Policy, now: int) -> int | None:
    """Return the cookie's `Max-Age`: until the server's deadline and not a second more. None ends with the browser."""
    if record.browser or (policy.browser_session and record.lifetime is None and record.until is None):
        return None
    return max(0, deadline(record, policy) - now)
