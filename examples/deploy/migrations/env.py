"""Alembic's environment. The table of the sessions is part of the metadata of your models."""

import asyncio
import os

from alembic import context
from sqlalchemy import Connection, MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from starsessions.backends.sqlalchemy import session_table

metadata = MetaData()  # Base.metadata of your models
session_table(metadata)


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run() -> None:
    engine = create_async_engine(os.environ["SESSIONS"])
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(connect_and_run())
