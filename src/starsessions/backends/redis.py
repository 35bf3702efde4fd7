"""Sessions in Redis, or Valkey."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from starsessions.backends.base import wall_clock
from starsessions.backends.server_side import StoreBackend
from starsessions.core.durations import Clock
from starsessions.core.serializer import Serializer
from starsessions.sealing.keys import Keys
from starsessions.stores.redis.store import RedisStore

__all__ = ["RedisBackend"]

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster


class RedisBackend(StoreBackend):
    """Sessions in Redis (6.2 and newer) or Valkey, which removes them by itself when they have expired.

    Give it a URL, or your own client of `redis.asyncio`: a `Redis`, a `RedisCluster`, or what `master_for()` of a
    `Sentinel` returns. Your client stays yours, with its settings; one that we make from a URL is closed when the
    application shuts down. Keys are `prefix` and a hash of the session's id.

    A server that does not answer within `timeout` seconds, or fails, is `BackendUnavailable`.

    >>> from starsessions import SessionMiddleware
    >>> from starlette.applications import Starlette
    >>> app = Starlette()
    >>> app.add_middleware(SessionMiddleware, backend=RedisBackend("redis://localhost:6379/0"))
    """

    def __init__(
        self,
        client_or_url: "Redis | RedisCluster | str",
        prefix: str = "starsessions:",
        *,
        timeout: float | timedelta = 5,
        encrypt_with: Keys | None = None,
        serializer: Serializer | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        self.store: RedisStore
        store = RedisStore(client_or_url, prefix, timeout=timeout)
        super().__init__(store, encrypt_with=encrypt_with, serializer=serializer, clock=clock)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await self.store.aclose()
