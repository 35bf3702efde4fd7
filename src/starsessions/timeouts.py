"""Session timeouts from the standards: values for the middleware's `limits`.

NIST SP 800-63B-4 has three levels of assurance (2.1.3, 2.2.3, 2.3.3). The overall timeout counts from the sign-in, and
a new sign-in restarts it; the idle timeout counts from the last use. The server enforces both.
"""

from msgspec import Struct

_MINUTE, _HOUR, _DAY = 60, 60 * 60, 24 * 60 * 60


class Limits(Struct, frozen=True):
    """Two timeouts in seconds. Pass your own pair, or one of the named ones.

    >>> from starsessions import SessionMiddleware
    >>> from starlette.applications import Starlette
    >>> app = Starlette()
    >>> app.add_middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more", limits=AAL2)
    >>> app.add_middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more", limits=Limits(3600, 28800))
    """

    idle: int
    """The session expires after this many seconds without use."""
    overall: int
    """The session expires after this many seconds, even if it is in use."""


AAL1 = Limits(idle=14 * _DAY, overall=30 * _DAY)
"""Some assurance: at most 30 days. (The level requires no idle timeout; this one is the library's default.)"""

AAL2 = Limits(idle=_HOUR, overall=24 * _HOUR)
"""High assurance, two factors: at most 24 hours, and at most one hour without use."""

AAL3 = Limits(idle=15 * _MINUTE, overall=12 * _HOUR)
"""Very high assurance, a hardware key: at most 12 hours, and at most 15 minutes without use."""
