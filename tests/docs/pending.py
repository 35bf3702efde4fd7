"""What the pages show and the code has not got yet. Delete an entry, and in the end this file, when it is there."""

import importlib
import inspect
from collections.abc import Callable

from starsessions import SessionMiddleware
from starsessions.users import UserSessions


def _has(module: str, name: str) -> Callable[[], bool]:
    def has() -> bool:
        try:
            return hasattr(importlib.import_module(module), name)
        except ImportError:
            return False

    return has


def has_keywords() -> bool:
    """Whether the middleware has the keywords of the table, and no others."""
    return "app_name" in inspect.signature(SessionMiddleware).parameters and not has_old_keywords()


def has_old_keywords() -> bool:
    return "limits" in inspect.signature(SessionMiddleware).parameters


PENDING: dict[str, Callable[[], bool]] = {
    "**AAL": lambda: isinstance(importlib.import_module("starsessions.timeouts").AAL2, dict),
    "from starsessions.stores import": _has("starsessions.stores", "Conflict"),
    "from starsessions.testing import StoreSuite": _has("starsessions.testing", "StoreSuite"),
    "from starsessions.testing import BackendSuite": _has("starsessions.testing", "BackendSuite"),
    "backend=DictStore()": has_keywords,
    "app_name": has_keywords,
    "UserSessions(InMemoryBackend(), session_cookie": lambda: (
        "session_cookie" in inspect.signature(UserSessions).parameters
    ),
}
"""What occurs in a block that needs it, and whether it is there."""

PENDING_MODULES = {
    "core/binding.py",
    "core/state.py",
    "lifecycle/request_state.py",
    "lifecycle/response.py",
    "testing/__main__.py",
    "testing/conformance/broken_stores.py",
    "testing/conformance/cookie_rules.py",
    "testing/conformance/verdict.py",
}
"""Modules that the page of the architecture names already."""


def pending(code: str) -> str | None:
    """Return why a block cannot run yet; None if it can."""
    missing = [mark for mark, is_there in PENDING.items() if mark in code and not is_there()]
    return f"not built yet: {', '.join(missing)}" if missing else None
