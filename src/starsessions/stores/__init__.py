"""The contract of a store (bytes under a key, with a version), `MemoryStore`, and `StoreBackend`, which uses any store.

`starsessions.testing` provides the rules of the contract as a test suite.
"""

from typing import TYPE_CHECKING, Any

from starsessions.stores.base import (
    Announcing,
    BatchConflict,
    Batching,
    Conflict,
    Creation,
    Cursor,
    Deletion,
    Entry,
    Indexing,
    Owner,
    Page,
    Provisional,
    Replacement,
    Scanning,
    ScanPage,
    Store,
    Sweeping,
    Timed,
    Version,
    Write,
)
from starsessions.stores.memory import MemoryStore

if TYPE_CHECKING:
    from starsessions.backends.server_side import StoreBackend

__all__ = [
    "Announcing",
    "BatchConflict",
    "Batching",
    "Conflict",
    "Creation",
    "Cursor",
    "Deletion",
    "Entry",
    "Indexing",
    "MemoryStore",
    "Owner",
    "Page",
    "Provisional",
    "Replacement",
    "ScanPage",
    "Scanning",
    "Store",
    "StoreBackend",
    "Sweeping",
    "Timed",
    "Version",
    "Write",
]


def __getattr__(name: str) -> Any:
    if name != "StoreBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Backends import stores, so this import must be late. It is here so that authors of stores find all names together.
    from starsessions.backends.server_side import StoreBackend

    return StoreBackend
