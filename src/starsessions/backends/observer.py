"""What is told to a tool that measures sessions, and the observer that measures nothing.

What has to be fast is a function of the configuration: an observer puts its own in the place of it, once, when the
middleware is built. So a request that is not observed costs what it costs without this module.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol, TypeVar

from starsessions.core.csrf import WhyRefused
from starsessions.core.record import Found, MissReason
from starsessions.core.state import Create, Delete, Replace, Rotate

T = TypeVar("T")

By = Literal["application", "limit", "provider"]
"""Who has ended the session of a user: the application, `max_sessions_per_user`, or an identity provider."""

Limit = Literal["cookie size", "max_sessions_per_user", "max_size"]
"""What a sign-in or a save is refused for."""


class Observer:
    """Measures nothing. A subclass measures the sessions of one middleware, and never fails a request."""

    def loading(self, work: Awaitable[Found | MissReason]) -> Awaitable[Found | MissReason]:
        """Return the work that loads a session, measured."""
        return work

    def loading_now(self, load: Callable[[Any], None]) -> Callable[[Any], None]:
        """Return the function that loads a session without I/O, measured."""
        return load

    def committing(self, command: Create | Replace | Rotate | Delete, work: Awaitable[T]) -> Awaitable[T]:
        """Return the work that carries out a command, measured."""
        return work

    def storing_now(self, store: Callable[[Any], Found]) -> Callable[[Any], Found]:
        """Return the function that carries out a command without I/O, measured, except for a `Conflict`."""
        return store

    def signed_out(self) -> None:
        """Count a sign-out."""

    def revoked(self, sessions: int, by: By) -> None:
        """Count sessions of users that were ended from elsewhere."""

    def refused(self, limit: Limit) -> None:
        """Count a sign-in or a save that was refused."""

    def csrf_refused(self, why: WhyRefused) -> None:
        """Count a request that was rejected, because another site may have sent it."""

    def swept(self, entries: int) -> None:
        """Count expired entries that a sweep has removed."""


UNOBSERVED = Observer()


class Telemetry(Protocol):
    """What `SessionMiddleware(telemetry=…)` takes, for instance `starsessions.opentelemetry.OpenTelemetry()`."""

    def observer(self, store: str) -> Observer:
        """Return the observer of one middleware. `store`: the name of the class that keeps its sessions."""
