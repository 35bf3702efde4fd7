"""What the server of a store says about itself, for the checks before a deployment."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from msgspec import Struct


class Survey(Struct, frozen=True):
    """What was found. The defaults mean that nothing is wrong, or that the server does not say."""

    evicts: str | None = None
    """The policy by which Redis removes keys when its memory is full; None: it removes none."""
    persists: bool = True
    """Whether data survives a restart of the server."""
    is_shared: bool = True
    """Whether other processes see the same data."""
    changes_session: bool = False
    """Whether statements of one connection reach several sessions of the server, as behind PgBouncer."""
    wrong_table: str | None = None
    """What is wrong with the table, so that no statement works; None: nothing."""
    is_table_missing: bool = False
    missing_indexes: Sequence[str] = ()
    """The columns of each index that the table lacks."""


@runtime_checkable
class Surveyed(Protocol):
    """A store that can say something about its server: an optional power."""

    async def survey(self) -> Survey:
        """Ask the server. It changes nothing.

        Raises:
            BackendUnavailable: the server failed or did not answer in time.
        """
