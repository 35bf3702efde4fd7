"""Sign out what an identity provider signs out: OIDC back-channel logout, and CAEP events.

Both are ASGI applications to add as a route. They need the extra `starsessions[oidc]`, and sessions that were signed in
with `sign_in(…, provider=…)`.
"""

from importlib import import_module

from starsessions.exceptions import ImproperlyConfigured

try:
    import_module("httpx2")
    import_module("joserfc")
except ImportError as _missing:
    raise ImproperlyConfigured(
        "Sign-outs from an identity provider need joserfc and httpx2: install the extra starsessions[oidc]."
    ) from _missing

from starsessions.oidc.backchannel import BackchannelLogout
from starsessions.oidc.caep import CaepReceiver

__all__ = ["BackchannelLogout", "CaepReceiver"]
