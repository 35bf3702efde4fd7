"""The contract of a store: bytes under a key, with a version. The store in memory, and what makes a backend of any.

`starsessions.testing` has the rules of the contract, as a suite that shows whether a store keeps them.
"""

from typing import TYPE_CHECKING, Any

from starsessions.stores.base import Conflict, Entry, Store, Sweeping, Version
from starsessions.stores.memory import MemoryStore

if TYPE_CHECKING:
    from starsessions.backends.server_side import StoreBackend

__all__ = ["Conflict", "Entry", "MemoryStore", "Store", "StoreBackend", "Sweeping", "Version"]


def __getattr__(name: str) -> Any:
    if name != "StoreBackend":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Backends are built upon stores. Only the name is here, so that the author of a store finds all in one place.
    from starsessions.backends.server_side import StoreBackend

    return StoreBackend
