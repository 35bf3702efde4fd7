"""How long sessions may last, as the standards say: sets of keywords for `SessionMiddleware`.

NIST SP 800-63B-4 has three levels of assurance (2.1.3, 2.2.3, 2.3.3). The absolute timeout counts from the sign-in, and
signing in again starts it anew. The inactivity timeout counts from the last use. The server keeps both.

>>> from starsessions import SessionMiddleware
>>> from starlette.applications import Starlette
>>> app = Starlette()
>>> app.add_middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more", **AAL2)
"""

from typing import TypedDict

from starsessions.core.durations import Duration

__all__ = ["AAL1", "AAL2", "AAL3", "Timeouts"]

_MINUTE, _HOUR, _DAY = 60, 60 * 60, 24 * 60 * 60


class Timeouts(TypedDict):
    """The keywords of the middleware that say how long a session may last, in seconds or as a `timedelta`."""

    max_age: Duration
    """The inactivity timeout."""
    absolute_timeout: Duration
    rolling: bool
    """Use renews a session, and not only a write: otherwise `max_age` would not be an inactivity timeout."""


AAL1: Timeouts = {"max_age": 14 * _DAY, "absolute_timeout": 30 * _DAY, "rolling": True}
"""Some assurance: at most 30 days. (NIST asks for no inactivity timeout here; 14 days is the default.)"""

AAL2: Timeouts = {"max_age": _HOUR, "absolute_timeout": 24 * _HOUR, "rolling": True}
"""High assurance, two factors: at most 24 hours, and one hour without use."""

AAL3: Timeouts = {"max_age": 15 * _MINUTE, "absolute_timeout": 12 * _HOUR, "rolling": True}
"""Very high assurance, a hardware key: at most 12 hours, and 15 minutes without use."""
