"""What we know of a session besides who holds it: its data (encoded) and its times.

All instants are whole seconds since 1970 and all durations whole seconds, as in a cookie's `Max-Age` and in the
timestamps of itsdangerous. At the limit is over: a session that may last 60 seconds is dead when 60 have passed.
"""

from enum import StrEnum
from typing import Any, NamedTuple

from msgspec import Struct

DEFAULT_MAX_AGE = 14 * 24 * 60 * 60

# Two servers never agree on the time to the second. A record from further in the future than this was written by a
# clock that has since gone back, and believing it would make the session live longer than anybody allowed.
CLOCK_SKEW = 60


class MissReason(StrEnum):
    """Why a request found no session: for logs and tests, never for the person in front of the browser.

    >>> MissReason.EXPIRED == "expired"
    True
    """

    NO_COOKIE = "no cookie"
    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad signature"
    UNKNOWN = "unknown"
    ROTATED = "rotated away"
    JUST_ROTATED = "rotated a moment ago"
    EXPIRED = "expired"
    OVER_ABSOLUTE = "over the absolute limit"
    UNDECODABLE = "undecodable"
    UNAVAILABLE = "unavailable"


class Identity(Struct, frozen=True, array_like=True):
    """Whose session it is, since when, and how they came. Kept beside the data, where nobody writes by accident.

    Fields are only ever added at the end, with a default.
    """

    user_id: str

    signed_in_at: int

    handle: str
    """The session's public name, which stays when its id is rotated."""

    method: str = ""
    """How the person signed in, in the application's words."""

    agent: str = ""
    address: str = ""
    listed_until: int = 0
    """How long the user's list of sessions is sure to be there: whoever renews beyond that has to list itself again."""

    generation: int = 0
    """Of a sealed cookie that can be called back: how often its session was rotated. Only the latest turn is good."""

    def __repr__(self) -> str:
        return "<Identity>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Record(Struct, frozen=True, array_like=True):
    """One session, as it is sealed or stored. Fields are only ever added at the end, with a default."""

    payload: Any
    """What the serializer made of the data: bytes (a lifted 1.x backend keeps a private copy instead)."""

    began_at: int
    """When the session began. Nothing that happens to the session moves it."""

    renewed_at: int
    """When it was last written, or touched."""

    lifetime: int | None = None
    """Seconds from `renewed_at`, in place of the policy's `max_age`: `set_expiry(seconds)`."""

    until: int | None = None
    """A fixed end that nothing renews: `set_expiry(datetime)`."""

    browser: bool = False
    """The cookie carries no `Max-Age`: `set_expiry(None)`. The server side ends all the same."""

    rotated_at: int | None = None
    """When it last got a new id; None: it has the one that it began with."""

    identity: Identity | None = None
    """Who is signed in; None: nobody is."""

    def __repr__(self) -> str:
        return "<Record>"  # tools that print local variables must not print what is in a session

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Found(Struct, frozen=True):
    """A live session as a backend holds it. `token` is what the browser holds; `version` is the backend's business."""

    token: str
    record: Record
    version: Any = None

    is_alias: bool = False
    """The token was rotated away and is in its grace: the browser has been given, or is being given, another one."""

    def __repr__(self) -> str:
        return "<Found>"  # tools that print local variables must not print ids

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Expiry(NamedTuple):
    """What `set_expiry()` asks for: the three fields of a record that say so."""

    lifetime: int | None = None
    until: int | None = None
    browser: bool = False


def expiry_of(record: Record) -> Expiry:
    """How this session's end was set, if it was."""
    return Expiry(record.lifetime, record.until, record.browser)


class Policy(Struct, frozen=True):
    """For how long a session lives, and its id. Seconds."""

    max_age: int = DEFAULT_MAX_AGE
    absolute_timeout: int | None = None
    rolling: bool = False
    renew_every: int | None = None
    browser_session: bool = False
    rotate_every: int | None = None
    rotate_grace: int = 0
    """How long an id that `rotate_every` took away stays usable, for requests that were on their way."""


def deadline(record: Record, policy: Policy) -> int:
    """The instant at which the session is over, by today's policy: shortening `max_age` shortens what is out there."""
    end = record.until
    if end is None:
        end = record.renewed_at + (record.lifetime or policy.max_age)
    if policy.absolute_timeout is not None:
        end = min(end, record.began_at + policy.absolute_timeout)
    return end


def why_expired(record: Record, policy: Policy, now: int) -> MissReason | None:
    """Why this session is over at `now`, or None while it lives."""
    absolute = policy.absolute_timeout
    if absolute is not None and now >= record.began_at + absolute:
        return MissReason.OVER_ABSOLUTE
    end = record.until
    if end is None:
        end = record.renewed_at + (record.lifetime or policy.max_age)
    return None if record.renewed_at - CLOCK_SKEW <= now < end else MissReason.EXPIRED


def touch_due(record: Record, policy: Policy, now: int) -> bool:
    """With `rolling`, whether use alone should renew the session now.

    At most once per `renew_every` (default: a tenth of the lifetime), so that reading costs no write per request. A
    session with a shorter life of its own is renewed at half of it, or it could never be renewed at all.
    """
    if not policy.rolling or record.until is not None:
        return False
    interval = policy.renew_every or (record.lifetime or policy.max_age) // 10
    if record.lifetime is not None:
        interval = min(interval, record.lifetime // 2)
    return now - record.renewed_at >= max(1, interval)


def rotation_due(record: Record, policy: Policy, now: int) -> bool:
    """Whether the id is so old that the session should get a new one."""
    since = record.began_at if record.rotated_at is None else record.rotated_at
    return policy.rotate_every is not None and now - since >= policy.rotate_every


def cookie_max_age(record: Record, policy: Policy, now: int) -> int | None:
    """`Max-Age` for the cookie: what the server will honour and not a second more; None ends with the browser."""
    if record.browser or (policy.browser_session and record.lifetime is None and record.until is None):
        return None
    return max(0, deadline(record, policy) - now)
