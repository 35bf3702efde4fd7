"""What the rules judge: facts of an application, as values. Collecting them is the shell's work."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from starsessions.core.cookies import CookieSpec
from starsessions.core.record import Policy
from starsessions.sealing.strength import KeyFact
from starsessions.stores.survey import Survey

Kind = Literal["session", "other session", "csrf", "our csrf", "authentication"]


class Layer(Struct, frozen=True):
    """A middleware on the way from the server to a route, if it is of a kind that matters here."""

    number: int
    kind: Kind
    outside: frozenset[int]
    """The numbers of the layers around it."""
    cookie: str = ""
    """The name of the cookie of a session middleware."""


class Way(Struct, frozen=True):
    """A way to a route that may change something."""

    path: str
    layers: frozenset[int]
    """The layers around the route."""
    is_protected: bool
    """Whether a dependency checks it against CSRF."""


class StoreFact(Struct, frozen=True):
    """One store, and what was found when it was asked."""

    identity: int
    is_memory: bool
    error: str | None = None
    """Why it does not work; None: it does."""
    seconds_ahead: float = 0
    """By how much the clock of this server is ahead of that of the store."""
    survey: Survey = Survey()


class SessionFact(Struct, frozen=True):
    """One of our middlewares."""

    layer: int
    cookie: CookieSpec
    scope_key: str
    place: object
    """Equal for middlewares that find the same sessions."""
    backend: int
    """The same for two middlewares that share a backend object."""
    policy: Policy
    max_sessions: int | None
    keys: Sequence[KeyFact]
    stores: Sequence[int]
    """The `identity` of each store."""
    keeps_unencrypted: bool
    clock: str | None
    """What is wrong with its clock; None: it is the wall clock."""


class OtherKey(Struct, frozen=True):
    """A key of something else in the application."""

    fact: KeyFact
    of: str


class Facts(Struct, frozen=True):
    """Everything that is known of a deployment."""

    sessions: Sequence[SessionFact] = ()
    layers: Sequence[Layer] = ()
    ways: Sequence[Way] = ()
    stores: Sequence[StoreFact] = ()
    other_keys: Sequence[OtherKey] = ()
    said: Sequence[tuple[str, str]] = ()
    """What the library itself says of the settings: the template of the message, and the message."""
    error: str | None = None
    """Why the application cannot be built; None: it can."""
    is_debug: bool = False
    workers: int = 1
