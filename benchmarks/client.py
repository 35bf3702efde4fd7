"""The minimum cost of a session: its bytes, read and written through the same client, without a library.

Reading is one GET, or one SELECT through SQLAlchemy Core. Writing is a read, and a script or UPDATE that writes only if
no other request wrote in between. To sign in, in Redis, is a read and the two scripts of this library. The bytes
are those that this library's backend stores.
"""

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain, cycle
from typing import Any

from redis.asyncio import Redis
from sqlalchemy import select

from benchmarks.asgi import App, Scope
from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.stores.base import Owner
from starsessions.stores.redis.layout import entry_of, new_version, parsed, place_of
from starsessions.stores.redis.scripts import WRITE, WRITE_TOGETHER

DAYS_14 = 1_209_600
PREFIX = "bare:"


class Noting(dict[str, Any]):
    """A dict that records whether it was changed."""

    changed = False

    def __setitem__(self, key: str, value: Any) -> None:
        self.changed = True
        super().__setitem__(key, value)


class Through:
    """One client."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend

    async def prepare(self, data: dict[str, Any], sessions: int) -> None:
        await self.clear()
        self.data = data
        for _ in range(sessions):
            await self.backend.write(data)
        self.keys = cycle(await self.all_keys())

    async def load(self, scope: Scope) -> Noting:
        key = next(self.keys)
        scope["found"] = key, await self.read(key)
        scope["session"] = session = Noting(self.data)
        return session

    def wrap(self, app: App) -> App:
        async def with_statements(scope: Scope, receive: Any, send: Any) -> None:
            await app(scope, receive, send)
            if scope["session"].changed:
                await self.write(*scope["found"])

        return with_statements

    async def clear(self) -> None:
        raise NotImplementedError

    async def all_keys(self) -> list[Any]:
        raise NotImplementedError

    async def read(self, key: Any) -> Any:
        raise NotImplementedError

    async def write(self, key: Any, found: Any) -> None:
        raise NotImplementedError

    async def sign_in(self, scope: Scope) -> None:
        raise NotImplementedError


class ThroughRedis(Through):
    def __init__(self, client: Redis) -> None:
        super().__init__(RedisBackend(client, PREFIX))
        self.client = client

    async def clear(self) -> None:
        for key in await self.all_keys():
            await self.client.delete(key)
        for script in (WRITE, WRITE_TOGETHER):
            await self.client.script_load(script.source)

    async def all_keys(self) -> list[Any]:
        return [key async for key in self.client.scan_iter(PREFIX + "*")]

    async def read(self, key: bytes) -> bytes:
        found: bytes = await self.client.get(key)
        return found

    async def write(self, key: bytes, found: bytes) -> None:
        now = int(time.time())
        current = parsed(found, now)
        assert current is not None
        entry = entry_of(new_version(os.urandom(8), current.expires_at, None), current.value)
        answer = await self.client.evalsha(WRITE.sha, 1, key, entry, current.version, now, DAYS_14 * 1000, b"", b"")
        assert answer == 1

    async def sign_in(self, scope: Scope) -> None:
        """Read the session. Store a pending entry. Then replace it, keep the data, leave a pointer, and announce it."""
        await self.load(scope)
        key, found = scope["found"]
        now, name = int(time.time()), os.urandom(32).hex()[:43]
        new, data_before = (PREFIX.encode() + one.encode() for one in (name, name[1:]))
        current = parsed(found, now)
        assert current is not None
        pending, version = (new_version(os.urandom(8), now + DAYS_14, Owner(name, now)) for _ in range(2))
        place = place_of(PREFIX.encode(), name, version)
        assert place is not None
        asked = [PREFIX.encode() + one for one in (name[2:].encode(), b"everyone")] + [place.listing]
        await self._together(
            [[new, place.listing, new]],
            [[entry_of(pending, current.value), b"", 3_600_000, place.start, b""]],
            asked,
        )
        bare = new_version(os.urandom(8), now + DAYS_14, None)
        await self._together(
            [[new, place.listing, new], [data_before] * 3, [key] * 3],
            [
                [entry_of(version, current.value), pending, DAYS_14 * 1000, place.start, b""],
                [entry_of(bare, current.value), b"", 30_000, b"", b""],
                [entry_of(bare, current.value), current.version, DAYS_14 * 1000, b"", b""],
            ],
            asked,
            name,
        )

    async def _together(self, keys: list[list[bytes]], said: list[list[Any]], asked: Any, *topics: str) -> None:
        names, now = [*chain(*keys), *asked], int(time.time())
        arguments = [now, b"bare:channel", len(keys), *chain(*said), *topics]
        [answer, *_] = await self.client.evalsha(WRITE_TOGETHER.sha, len(names), *names, *arguments)
        assert answer == 1


class ThroughSQL(Through):
    def __init__(self, backend: SQLAlchemyBackend) -> None:
        super().__init__(backend)
        self.engine, self.table, self.say = backend.engine, backend.table, backend.store.statements

    async def clear(self) -> None:
        await self.backend.create_table()
        async with self.engine.connect() as connection:
            await connection.execute(self.table.delete())

    async def all_keys(self) -> list[Any]:
        async with self.engine.connect() as connection:
            return list((await connection.execute(select(self.table.c.key))).scalars())

    async def read(self, key: str) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(self.say.get, {"p_key": key, "p_now": int(time.time())})).one()

    async def write(self, key: str, found: Any) -> None:
        now = int(time.time())
        # The expiry changes, as with every write: PostgreSQL updates a row with unchanged indexed columns more cheaply.
        row = {"p_value": found.value, "p_expires_at": now + DAYS_14, "p_expect": found.version}
        row |= {"p_key": key, "p_version": int.from_bytes(os.urandom(8)) >> 1, "p_now": now}
        row |= {"p_owner": None, "p_since": None}
        async with self.engine.connect() as connection:
            result = await connection.execute(self.say.replace, row)
        assert result.rowcount == 1


@asynccontextmanager
async def opened(kind: str, url: str) -> AsyncIterator[Through]:
    if kind == "redis":
        async with Redis.from_url(url) as client:
            yield ThroughRedis(client)
    else:
        backend = SQLAlchemyBackend(url, "bare_sessions")
        try:
            yield ThroughSQL(backend)
        finally:
            await backend.engine.dispose()
