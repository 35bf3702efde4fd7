"""Sessions in Redis or Valkey."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from starsessions.backends.base import wall_clock
from starsessions.backends.server_side import StoreBackend
from starsessions.core.durations import Clock
from starsessions.core.serializer import Serializer
from starsessions.sealing.keys import OptionalKeys
from starsessions.stores.redis.clients import ClientOrUrl
from starsessions.stores.redis.store import RedisStore

__all__ = ["RedisBackend"]


class RedisBackend(StoreBackend):
    """Sessions in Redis (6.2 or newer) or Valkey, which removes expired sessions itself.

    The keys in Redis are `prefix` and a hash of the session's id. If the server fails or does not answer in time,
    methods raise `BackendUnavailable`.

    Args:
        client_or_url: a URL, or a client from `redis.asyncio`: a `Redis`, a `RedisCluster`, or what `master_for()` of a
            `Sentinel` returns; or a function that returns a client, called once in each event loop. The backend closes
            a client that it makes from a URL or by a function when the application shuts down. You close your own
            client, and its settings are not changed.
        prefix: the prefix of all keys in Redis. Applications that share a database need different ones.
        timeout: the seconds after which an operation raises `BackendUnavailable`.
        wait_for_replicas: how many replicas must have a write before it is confirmed. If they do not say so within a
            third of `timeout`, methods raise `BackendUnavailable`. 0: a failover can take back what was just confirmed.
        encrypt_with: a key of 32 bytes or more that encrypts what is stored, bound to its place. A list: the first key
            encrypts, all decrypt, and a record moves to the first key when it is next written. Sessions that are not
            encrypted are ignored then. False: no encryption.
        serializer: converts the data to bytes. None: MessagePack.
        check_epoch: ask at each load of a signed-in session, and not only when it is written, whether all sessions of
            the user or of all users were ended. In a Cluster, that is a second round trip.
        clock: returns the seconds since 1970; for tests.

    Raises:
        ImproperlyConfigured: the client or URL cannot be used, or the package redis is missing.

    >>> from starsessions import SessionMiddleware
    >>> from starlette.applications import Starlette
    >>> app = Starlette()
    >>> app.add_middleware(SessionMiddleware, backend=RedisBackend("redis://localhost:6379/0"))
    """

    def __init__(
        self,
        client_or_url: ClientOrUrl,
        prefix: str = "starsessions:",
        *,
        timeout: float | timedelta = 5,
        wait_for_replicas: int = 0,
        encrypt_with: OptionalKeys = False,
        serializer: Serializer | None = None,
        check_epoch: bool = False,
        clock: Clock = wall_clock,
    ) -> None:
        self.store: RedisStore
        store = RedisStore(client_or_url, prefix, timeout=timeout, wait_for_replicas=wait_for_replicas)
        super().__init__(store, encrypt_with=encrypt_with, serializer=serializer, check_epoch=check_epoch, clock=clock)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.store.clients.get()  # it raises what is wrong with the settings, and connects at the first command
        try:
            async with super().lifespan():
                yield
        finally:
            await self.store.aclose()
