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
    Joined,
    Joining,
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
    from starsessions.stores.sweeper import Swept, sweep_all

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
    "Joined",
    "Joining",
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
    "Swept",
    "Timed",
    "Version",
    "Write",
    "sweep_all",
]


def __getattr__(name: str) -> Any:
    if name == "StoreBackend":
        # Backends import stores, so this import must be late. So authors of stores find all names together.
        from starsessions.backends.server_side import StoreBackend

        return StoreBackend
    if name in {"Swept", "sweep_all"}:
        from starsessions.stores import sweeper  # few applications need it

        return getattr(sweeper, name)
    from starsessions.moved import missing  # nearly no one asks

    raise missing(__name__, name)
