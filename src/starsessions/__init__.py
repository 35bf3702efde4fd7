"""Sessions for Starlette and FastAPI."""

from typing import TYPE_CHECKING

from starsessions.backends.base import SessionBackend
from starsessions.backends.cookie import CookieBackend, EncryptedCookieBackend
from starsessions.backends.memory import InMemoryBackend
from starsessions.core.record import MissReason
from starsessions.core.serializer import Serializer
from starsessions.exceptions import (
    BackendUnavailable,
    ImproperlyConfigured,
    ResponseStarted,
    SessionConflict,
    SessionError,
    SessionGone,
    SessionNotLoaded,
    SessionTooLarge,
    TooManySessions,
    UnsupportedValue,
)
from starsessions.middleware import SessionMiddleware
from starsessions.session import (
    Session,
    get_created_at,
    get_miss_reason,
    get_remaining,
    get_session,
    load_session,
    set_expiry,
    update_atomically,
)

__version__ = "3.0.0.dev0"

if TYPE_CHECKING:
    pass  # with a `__getattr__`, a type checker would accept any name
else:

    def __getattr__(name: str) -> object:
        from starsessions.moved import missing  # nearly no one asks

        raise missing(__name__, name)


__all__ = [
    "BackendUnavailable",
    "CookieBackend",
    "EncryptedCookieBackend",
    "ImproperlyConfigured",
    "InMemoryBackend",
    "MissReason",
    "ResponseStarted",
    "Serializer",
    "Session",
    "SessionBackend",
    "SessionConflict",
    "SessionError",
    "SessionGone",
    "SessionMiddleware",
    "SessionNotLoaded",
    "SessionTooLarge",
    "TooManySessions",
    "UnsupportedValue",
    "get_created_at",
    "get_miss_reason",
    "get_remaining",
    "get_session",
    "load_session",
    "set_expiry",
    "update_atomically",
]
