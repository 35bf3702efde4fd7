"""Settings from the environment: the backend and the cookie.

All variables are optional:

====================  ======================  ================================================================
``DEMO_BACKEND``      sqlite (the default)    an id in the browser, the data in a file; survives a restart
                      memory                  an id in the browser, the data in the process
                      cookie                  the data in the browser, signed
                      encrypted               the data in the browser, encrypted
                      the URL of a store      redis://…, postgresql+asyncpg://…, mysql+asyncmy://…, and so on
``DEMO_SECRET``       new at every start      the key that signs or encrypts the cookies
``DEMO_COOKIE``       session                 the cookie's name; try ``__Host-session``
``DEMO_HTTPS_ONLY``   follows the request     1 or 0: the cookie is always or never ``Secure``
``DEMO_PARTITIONED``  0                       1: the cookie is ``Partitioned``
``DEMO_FRESH_FOR``    300                     seconds after which closing the account needs a new sign-in
``DEMO_OPERATORS``    Olga                    the names of operators, with commas between them
``DEMO_URL``          http://127.0.0.1:8000   where browsers find the demo: the way back from the identity provider
====================  ======================  ================================================================
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starsessions import CookieBackend, EncryptedCookieBackend, InMemoryBackend
from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.history import SignInHistory
from starsessions.users import UserSessions

FILE = Path(__file__).parents[2] / ".demo" / "sessions.db"

# A key generated at startup is safe, but every restart ends all sessions, and two worker processes cannot read each
# other's cookies. In production, set DEMO_SECRET from your secret store.
SECRET = os.environ.get("DEMO_SECRET") or secrets.token_urlsafe(32)


def sqlite() -> SQLAlchemyBackend:
    FILE.parent.mkdir(exist_ok=True)
    return SQLAlchemyBackend(f"sqlite+aiosqlite:///{FILE}", sweep_every=600)


BACKENDS: dict[str, Callable[[], Any]] = {
    "sqlite": sqlite,
    "memory": InMemoryBackend,
    # A cookie by itself cannot be revoked. With `revocations`, a store lists the valid ones: that makes sign-out final
    # and the page of devices possible. In memory they work for one process, and its restart signs everyone out; use a
    # database in production.
    "cookie": lambda: CookieBackend(SECRET, revocations=InMemoryBackend()),
    "encrypted": lambda: EncryptedCookieBackend(SECRET, revocations=InMemoryBackend()),
}


def backend_for(choice: str) -> Any:
    """Return a backend by its name in `BACKENDS`, or by the URL of a store."""
    if choice in BACKENDS:
        return BACKENDS[choice]()
    if choice.startswith(("redis://", "rediss://", "unix://")):
        return RedisBackend(choice)
    if "://" in choice:
        return SQLAlchemyBackend(choice, sweep_every=600)
    raise ValueError(f"DEMO_BACKEND is {choice!r}; choose one of {', '.join(BACKENDS)}, or pass a store's URL")


def flag(name: str) -> bool | None:
    """Return the variable as a bool; None if it is not set."""
    value = os.environ.get(name, "").lower()
    if value not in {"", "0", "1", "false", "true", "no", "yes"}:
        raise ValueError(f"{name} is {value!r}; write 1 or 0")
    return value in {"1", "true", "yes"} if value else None


def seconds(name: str, default: int) -> int:
    value = os.environ.get(name) or str(default)
    if not value.isdecimal():
        raise ValueError(f"{name} is {value!r}; write a number of seconds")
    return int(value)


CHOICE = os.environ.get("DEMO_BACKEND") or "sqlite"
BACKEND = CHOICE.partition("://")[0]  # shown on the page, so without the password of a URL
COOKIE = os.environ.get("DEMO_COOKIE") or "session"
HTTPS_ONLY = flag("DEMO_HTTPS_ONLY")
PARTITIONED = flag("DEMO_PARTITIONED") or False
FRESH_FOR = seconds("DEMO_FRESH_FOR", 300)
OPERATORS = set((os.environ.get("DEMO_OPERATORS") or "Olga").split(","))
URL = (os.environ.get("DEMO_URL") or "http://127.0.0.1:8000").rstrip("/")

backend = backend_for(CHOICE)
# The history of sign-ins is in the same database, if the sessions are in one, and otherwise in memory.
history = SignInHistory(backend.engine if isinstance(backend, SQLAlchemyBackend) else "sqlite+aiosqlite://")
user_sessions = UserSessions(backend, on_event=history.record)
