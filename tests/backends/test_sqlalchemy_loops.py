"""One backend in several event loops, in turn and at once, and in processes that were forked after its first use."""

import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

from starsessions.backends.sqlalchemy import session_table
from tests.backends.sql import DATABASES, database

PROGRAM = """
import asyncio, concurrent.futures, gc, os, sys
from starsessions.backends.sqlalchemy import SQLAlchemyBackend

async def use(backend, n):
    async def visit(i):
        session_id = await backend.write({"of": [n, i]})
        assert await backend.read(session_id) == {"of": [n, i]}
    for _ in range(5):
        await asyncio.gather(*(visit(i) for i in range(8)))

def in_turn(backend):
    for n in range(4):
        asyncio.run(use(backend, n))

def at_once(backend):
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: asyncio.run(use(backend, n)), range(8)))

def forked(backend):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use(backend, 0))  # its connections are open during the fork
    children = []
    for n in range(3):
        if not (child := os.fork()):
            asyncio.run(use(backend, n))
            gc.collect()
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    loop.run_until_complete(use(backend, 4))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()

asyncio.run(SQLAlchemyBackend(*sys.argv[1:], timeout=30).create_table())
for way in (in_turn, at_once, forked):
    way(SQLAlchemyBackend(*sys.argv[1:], timeout=30))
    gc.collect()
"""


@pytest.mark.anyio
@pytest.mark.parametrize("name", list(DATABASES))
async def test_loops_and_processes_share_no_connection_and_leave_none_open(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, table = database(name, request, tmp_path).url, f"t_{secrets.token_hex(8)}"
    forks = "ignore:This process:DeprecationWarning"  # "is multi-threaded", by the connections to SQLite
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-W", forks, "-c", PROGRAM, url, table]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: ASYNC221
    assert (ended.returncode, ended.stderr) == (0, "")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(session_table(MetaData(), table).drop)
    await engine.dispose()
