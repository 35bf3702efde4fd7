"""What the pages show and the code has not got yet. Delete an entry, and in the end this file, when it is there."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any


def _has(module: str, name: str) -> Callable[[], bool]:
    def has() -> bool:
        try:
            return hasattr(importlib.import_module(module), name)
        except ImportError:
            return False

    return has


def _store_is_a_backend() -> bool:
    backend = importlib.import_module("starsessions.lifecycle.validation")
    return "app_name" in _keywords() and _has("starsessions.stores", "Conflict")() and backend is not None


def _keywords() -> Any:
    return inspect.signature(importlib.import_module("starsessions").SessionMiddleware).parameters


PENDING: dict[str, Callable[[], bool]] = {
    "**AAL": lambda: isinstance(importlib.import_module("starsessions.timeouts").AAL2, dict),
    "from starsessions.stores import": _has("starsessions.stores", "Conflict"),
    "from starsessions.testing import StoreSuite": _has("starsessions.testing", "StoreSuite"),
    "from starsessions.testing import BackendSuite": _has("starsessions.testing", "BackendSuite"),
    "app_name": lambda: "app_name" in _keywords(),
}
"""What occurs in a block that needs it, and whether it is there."""


def pending(code: str) -> str | None:
    """Return why a block cannot run yet; None if it can."""
    missing = [mark for mark, is_there in PENDING.items() if mark in code and not is_there()]
    return f"not built yet: {', '.join(missing)}" if missing else None
