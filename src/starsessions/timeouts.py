"""How long a session may last, as the standards say: values for the middleware's `limits`.

NIST SP 800-63B-4 has three levels of assurance (2.1.3, 2.2.3, 2.3.3). The overall limit counts from the sign in, and a
new sign in begins it anew; the idle limit counts from the last use. Both are kept by the server.
"""

from msgspec import Struct

_MINUTE, _HOUR, _DAY = 60, 60 * 60, 24 * 60 * 60


class Limits(Struct, frozen=True):
    """Seconds. A pair of your own is as good as the named ones.

    >>> from starsessions import SessionMiddleware
    >>> from starlette.applications import Starlette
    >>> app = Starlette()
    >>> app.add_middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more", limits=AAL2)
    >>> app.add_middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more", limits=Limits(3600, 28800))
    """

    idle: int
    """Without use for so long, it is over."""
    overall: int
    """It is over then, whatever happens."""


AAL1 = Limits(idle=14 * _DAY, overall=30 * _DAY)
"""Some assurance: at most 30 days. (An idle limit is not asked for; ours is the usual one.)"""

AAL2 = Limits(idle=_HOUR, overall=24 * _HOUR)
"""High assurance, two factors: at most 24 hours, and an hour idle."""

AAL3 = Limits(idle=15 * _MINUTE, overall=12 * _HOUR)
"""Very high assurance, a hardware key: at most 12 hours, and 15 minutes idle."""
