"""Delete entries with one statement where several requests, or one that ends many sessions, delete at once.

Each commit waits for the disk, so that ten thousand deletes would take a minute on SQLite. Those that are asked for in
the same turn of the event loop share a statement, which says which entries it has deleted.
"""

import asyncio
from typing import Any, NamedTuple

from sqlalchemy import Dialect

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import Version
from starsessions.stores.sqlalchemy.connection import Database
from starsessions.stores.sqlalchemy.table import Statements

MOST = 500
"""The number of entries that a statement deletes at most."""


class Deleted(NamedTuple):
    keys: frozenset[str]

    in_doubt: bool
    """Whether an earlier attempt failed and may have been carried out."""


class _Batch(NamedTuple):
    versions: dict[str, Version]
    outcome: asyncio.Future[Deleted]


class Deletes:
    """Deletes of entries that have an expected version.

    Args:
        database: executes the statements.
        statements: the statements.
        dialect: the kind of database. MySQL cannot say what a statement has deleted, and gets one for each entry.
    """

    def __init__(self, database: Database, statements: Statements, dialect: Dialect) -> None:
        self._database, self._statements, self._dialect = database, statements, dialect
        self._open: dict[tuple[asyncio.AbstractEventLoop, int], _Batch] = {}

    async def delete(self, key: str, version: Version, now: int) -> Deleted:
        """Delete an entry if it has this version, with those that others delete at the same time and by the same clock.

        Return all that were deleted.
        """
        place = asyncio.get_running_loop(), now
        batch = self._open.get(place)
        if batch is None or key in batch.versions or len(batch.versions) == MOST:
            batch = self._open[place] = _Batch({key: version}, place[0].create_future())
            await self._carry_out(batch, place)
        else:
            batch.versions[key] = version
            await asyncio.wait({batch.outcome})  # if this one is cancelled, the others are not
        return batch.outcome.result()

    async def _carry_out(self, batch: _Batch, place: tuple[asyncio.AbstractEventLoop, int]) -> None:
        failure = BackendUnavailable("The store did not answer.")  # if this one is cancelled
        try:
            if self._dialect.delete_returning:
                await asyncio.sleep(0)
            self._close(batch, place)
            batch.outcome.set_result(await self._execute(batch.versions, place[1]))
        except BackendUnavailable as error:
            failure = error
        finally:
            self._close(batch, place)
            if not batch.outcome.done():
                batch.outcome.set_exception(failure)
                batch.outcome.exception()  # asked for, although no one may be waiting for it any more

    def _close(self, batch: _Batch, place: tuple[asyncio.AbstractEventLoop, int]) -> None:
        if self._open.get(place) is batch:
            del self._open[place]

    async def _execute(self, versions: dict[str, Version], now: int) -> Deleted:
        parameters: dict[str, Any] = {"p_now": now}
        if len(versions) == 1:
            [(parameters["p_key"], parameters["p_expect"])] = versions.items()
            answer = await self._database.execute(self._statements.delete_expected, parameters)
            return Deleted(frozenset(versions if answer.written else ()), answer.in_doubt)
        parameters |= {"p_keys": [*versions], "p_versions": [*versions.values()]}
        answer = await self._database.execute(self._statements.delete_together, parameters)
        return Deleted(frozenset(row.key for row in answer.rows), answer.in_doubt)
