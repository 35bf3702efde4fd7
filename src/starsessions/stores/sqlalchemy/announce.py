"""Announcements in SQL: by LISTEN and NOTIFY in PostgreSQL, and in this process elsewhere."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from anyio import CancelScope

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.announce import InProcess, in_parts
from starsessions.stores.base import Announcing
from starsessions.stores.sqlalchemy.connection import Database

MOST_TOPICS = 60
"""The topics in one message, which has less than 8000 bytes."""

_CLOSE_WITHIN = 1.0  # seconds

_NOTIFY = sa.select(sa.func.pg_notify(sa.bindparam("p_channel"), sa.bindparam("p_message")))


def channel_of(table: str) -> str:
    """Return the channel of all who use the table of this name."""
    return f"starsessions_{sha256(table.encode()).hexdigest()[:16]}"


def announcer_for(database: Database, table: str) -> Announcing:
    """Return what announces for the sessions in this table."""
    return PostgresAnnouncer(database, table) if database.name == "postgresql" else InProcess(reaches_all=False)


class PostgresAnnouncer:
    """Announces to all processes that use this table.

    A notification is sent to all who listen in the same database. A transaction that sends one waits for others that do
    while it is committed, so there is one for an end or a new id of a session, and none for a write.

    Args:
        database: the connections by which to announce. Each subscription makes one of its own, outside of the pool.
        table: the name of the table.
    """

    reaches_all = True

    def __init__(self, database: Database, table: str) -> None:
        self._database = database
        self._channel = channel_of(table)

    async def announce(self, topics: Sequence[str]) -> None:
        for message in in_parts(topics, MOST_TOPICS):
            parameters = {"p_channel": self._channel, "p_message": message}
            await self._database.with_timeout(self._database.execute(_NOTIFY, parameters))

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[Sequence[str]]]:
        connection: Any = await self._database.with_timeout(self._database.new_connection())
        try:
            messages = await self._database.with_timeout(_subscribed(connection, self._channel))
            async with aclosing(messages):
                yield _topics(messages)
        finally:
            await _close(connection)


async def _subscribed(connection: Any, channel: str) -> AsyncGenerator[str]:
    """Subscribe by a connection of asyncpg or psycopg, and return the messages."""
    try:
        if hasattr(connection, "add_listener"):
            queue: asyncio.Queue[str | None] = asyncio.Queue()
            connection.add_termination_listener(lambda _: queue.put_nowait(None))
            await connection.add_listener(channel, lambda *said: queue.put_nowait(said[-1]))
            return _of_asyncpg(queue)
        await connection.rollback()
        await connection.set_autocommit(True)
        await connection.execute(f'LISTEN "{channel}"')
        return _of_psycopg(connection)
    except Exception as error:
        raise BackendUnavailable(f"The store failed: {type(error).__name__}.") from error


async def _of_asyncpg(queue: "asyncio.Queue[str | None]") -> AsyncGenerator[str]:
    while (message := await queue.get()) is not None:
        yield message


async def _of_psycopg(connection: Any) -> AsyncGenerator[str]:
    async for notification in connection.notifies():
        yield notification.payload


async def _topics(messages: AsyncIterator[str]) -> AsyncIterator[Sequence[str]]:
    try:
        async for message in messages:
            yield message.split()
    except Exception as error:
        raise BackendUnavailable(f"The store failed: {type(error).__name__}.") from error
    raise BackendUnavailable("The store failed: the connection was closed.")


async def _close(connection: Any) -> None:
    with CancelScope(shield=True), suppress(Exception):
        # A server that does not answer must not hold up the end of the application.
        await asyncio.wait_for(connection.close(), _CLOSE_WITHIN)
