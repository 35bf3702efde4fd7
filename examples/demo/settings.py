"""What the environment decides: where the sessions are kept, and what their cookie looks like.

Every variable may be missing:

====================  ======================  ================================================================
``DEMO_BACKEND``      sqlite (the default)    the browser holds an id, a file the data; it survives a restart
                      memory                  the browser holds an id, the process the data
                      cookie                  the browser holds the data, signed
                      encrypted               the browser holds the data, sealed
                      the URL of a store      redis://…, postgresql+asyncpg://…, mysql+asyncmy://…, and so on
``DEMO_SECRET``       made up at every start  the key that the cookies are signed or sealed with
``DEMO_COOKIE``       session                 the cookie's name; try ``__Host-session``
``DEMO_HTTPS_ONLY``   follows the request     1 or 0: the cookie is always or never ``Secure``
``DEMO_PARTITIONED``  0                       1: the cookie is ``Partitioned``, to see what the browser makes of it
``DEMO_FRESH_FOR``    300                     seconds after which closing the account asks to sign in again
====================  ======================  ================================================================
"""

import os
import secrets
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from starsessions import CookieBackend, EncryptedCookieBackend, InMemoryBackend
from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.users import UserSessions

FILE = Path(__file__).parents[2] / ".cache" / "demo-sessions.db"
REMEMBER_FOR = timedelta(days=30)

# A key that is made up at start is safe, but it ends every session at the next start, and two worker processes
# would not understand each other's cookies. A real application reads its key from where it keeps its secrets.
SECRET = os.environ.get("DEMO_SECRET") or secrets.token_urlsafe(32)


def sqlite() -> SQLAlchemyBackend:
    FILE.parent.mkdir(exist_ok=True)
    return SQLAlchemyBackend(f"sqlite+aiosqlite:///{FILE}", sweep_every=600)


BACKENDS: dict[str, Callable[[], Any]] = {
    "sqlite": sqlite,
    "memory": InMemoryBackend,
    # A cookie by itself cannot be called back. The revocations know which ones are still good: that makes signing out
    # final, and the page of devices possible. In memory they do for one process, and everybody signs in again when it
    # starts; an application gives them a store.
    "cookie": lambda: CookieBackend(SECRET, revocations=InMemoryBackend()),
    "encrypted": lambda: EncryptedCookieBackend(SECRET, revocations=InMemoryBackend()),
}


def backend_for(choice: str) -> Any:
    """A backend by its name in `BACKENDS`, or a store by its URL."""
    if choice in BACKENDS:
        return BACKENDS[choice]()
    if choice.startswith(("redis://", "rediss://", "unix://")):
        return RedisBackend(choice)
    if "://" in choice:
        return SQLAlchemyBackend(choice, sweep_every=600)
    raise ValueError(f"DEMO_BACKEND is {choice!r}; choose one of {', '.join(BACKENDS)}, or give a store's URL")


def flag(name: str) -> bool | None:
    """Whether the variable says yes or no; None if it says nothing."""
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
BACKEND = CHOICE.partition("://")[0]  # for the page, which must not show a password
COOKIE = os.environ.get("DEMO_COOKIE") or "session"
HTTPS_ONLY = flag("DEMO_HTTPS_ONLY")
PARTITIONED = flag("DEMO_PARTITIONED") or False
FRESH_FOR = seconds("DEMO_FRESH_FOR", 300)

backend = backend_for(CHOICE)
user_sessions = UserSessions(backend)
