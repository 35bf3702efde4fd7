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
BARE_MAX_AGE = 24 * 60 * 60
"""How long a session lasts that holds nothing but what the library itself has put there."""

NEVER = 10**15
"""More seconds than any session lasts."""

OWN_KEYS = ("__csrf__", "__flash__")
"""How the keys of the library begin: CSRF secrets and flash messages."""

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
    epoch: bytes = b""
    """The epoch of all users at the sign-in, and then that of the user: see `backends/user_index.py`. Where there was
    none, there is nothing."""

    stamp: str = ""
    """The hashed fingerprint of the user's credentials at the sign-in."""

    later: Instant = 0
    """Seconds by which this sign-in comes later than `signed_in_at`, in the order in which sessions are evicted."""

    generation: Instant = 0
    """For a cookie that can be revoked: how often the session was rotated. Only the latest generation is valid."""

    provider_session: str = ""
    """The owner of the link from the identity provider's session: see `backends/provider_links.py`. Empty: none."""

    provider_subject: str = ""
    """The owner of the link from the provider's subject. Empty: none."""

    is_confirmed: bool = True
    """Whether a request has presented the cookie of this sign-in. One begins without that where a user may have a
    maximum of sessions: see `lifecycle/limits.py`.
    """

    @property
    def has_provider(self) -> bool:
        """Whether an identity provider can end the session."""
        return bool(self.provider_session or self.provider_subject)


class Record(Opaque, frozen=True, array_like=True):
    """One session, as a cookie or a store holds it. New fields are added at the end only, with a default."""

    payload: Any
    """The data, encoded by the serializer: bytes. (An adapted 1.x backend has a private copy of the data instead.)
    None: a sign-in that is not saved yet.
    """

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

    told: int = -1
    """When the cookie expires, as the browser was last told; 0: with the browser; -1: unknown. Only ids need it.
    """

    is_bare: bool = False
    """Whether the data is only the library's own, and no user is signed in: such a session is short. Only in stores."""


def readable(payload: Any, loads: Callable[[Any], dict[str, Any]]) -> dict[str, Any] | None:
    """Return the data of a payload from a store or a cookie; None if this application cannot read it.

    Everything from outside is read here, after its decoder has checked the types and times.
    """
    try:
        data = loads(payload)
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
    anonymous_max_age: int | None = None
    """How long a session lasts without use in which no user is signed in. None: a day if it `is_bare`."""


def deadline(record: Record, policy: Policy) -> int:
    """Return when the session expires by the current policy: shortening `max_age` also shortens existing sessions."""
    end = record.until
    if end is None:
        end = record.renewed_at + (record.lifetime or policy.max_age)
    if record.is_bare or policy.anonymous_max_age is not None:
        end = min(end, record.renewed_at + _idle(record, policy))
    if policy.absolute_timeout is not None:
        end = min(end, record.began_at + policy.absolute_timeout)
    return end


def _idle(record: Record, policy: Policy) -> int:
    """Return how long the session may last without use for want of a user."""
    if record.identity is not None:
        return NEVER
    return policy.anonymous_max_age or (BARE_MAX_AGE if record.is_bare else NEVER)


def why_expired(record: Record, policy: Policy, now: int) -> MissReason | None:
    """Return why the session is expired at `now`; None if it is alive."""
    absolute = policy.absolute_timeout
    if absolute is not None and now >= record.began_at + absolute:
        return MissReason.OVER_ABSOLUTE
    end = record.until
    if end is None:
        end = record.renewed_at + (record.lifetime or policy.max_age)
    if record.is_bare or policy.anonymous_max_age is not None:
        end = min(end, record.renewed_at + _idle(record, policy))
    return None if record.renewed_at - CLOCK_SKEW <= now < end else MissReason.EXPIRED


def has_lived(record: Record, policy: Policy, now: int) -> bool:
    """Return whether a session that was ended at `now` was alive, by this server's clock or by the one that wrote it.

    A record from the future has not expired: another server has a clock that is fast.
    """
    return why_expired(record, policy, max(now, record.renewed_at)) is None


def touch_due(record: Record, policy: Policy, now: int) -> bool:
    """Return whether use alone should renew the session now (`rolling`).

    At most once per `renew_every` (default: a tenth of the lifetime), so that reads do not cause a write per request. A
    session with a shorter lifetime of its own is renewed at half of it, since it would otherwise never be renewed.
    """
    if not policy.rolling or record.until is not None:
        return False
    idle = min(record.lifetime or policy.max_age, _idle(record, policy))
    interval = policy.renew_every or idle // 10
    if record.lifetime is not None or idle < policy.max_age:
        interval = min(interval, idle // 2)
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


def to_tell(record: Record, policy: Policy, now: int) -> int:
    """Return `Record.told` for a record that is about to be stored: another number means that its cookie must be set.

    A response may arrive after a later one, which has set another id: the browser would go back to the old one, which
    opens nothing any more. So an unchanged id is sent only if what is left of its lifetime moves by a tenth or more.

    >>> [to_tell(Record(b"", 0, now, told=1_000), Policy(max_age=1_000), now) for now in (0, 99, 100, 112)]
    [1000, 1000, 1100, 1112]
    """
    left, told = cookie_max_age(record, policy, now), record.told
    if left is None:
        return 0
    end = now + left
    return told if told > 0 and abs(end - told) * 10 < left else end


def is_bare(data: dict[str, Any]) -> bool:
    """Return whether the data is only what the library itself has put there.

    >>> is_bare({"__csrf__x": "…"}), is_bare({"__csrf__x": "…", "cart": []}), is_bare({})
    (True, False, False)
    """
    for key in dict.keys(data):
        if not isinstance(key, str) or not key.startswith(OWN_KEYS):
            return False
    return dict.__len__(data) > 0
