"""The clients of a store in Redis: one for each event loop."""

from collections.abc import Callable
from contextlib import suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Union

from starsessions.exceptions import ImproperlyConfigured
from starsessions.stores.loops import PerLoop
from starsessions.stores.redis.connection import CHECKED, CONNECTIONS, Transport, transport_for

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

Client = Union["Redis", "RedisCluster"]
ClientOrUrl = Client | str | Callable[[], Client]


def clients_for(given: ClientOrUrl, seconds: float) -> PerLoop[Transport]:
    """Return the source of a client for each event loop, from a client, a function that makes one, or a URL.

    Raises:
        ImproperlyConfigured: the URL is invalid, or the client is of another kind or reads from replicas.
    """
    is_owner = True
    if isinstance(given, str):
        _check_url(given)
        make: Callable[[], Client] = partial(_client_from, given, seconds)
    elif callable(given):
        make = given
    else:
        make, is_owner = _given(_checked(given)), False
    return PerLoop(lambda: transport_for(_checked(make()), seconds), _close, is_owner=is_owner)


def _given(client: Client) -> Callable[[], Client]:
    """Return a function that gives the application's client to the event loop that asks first, and copies to others."""
    free = [client]

    def given() -> Client:
        with suppress(IndexError):  # one thread at a time can take it
            return free.pop()
        return _copy(client)

    return given


def _copy(client: Client) -> Client:
    from redis.asyncio import ConnectionPool

    copied: Any = copy(client)
    if not hasattr(copied, "connection_pool") or _sentinels(copied):
        raise ImproperlyConfigured(
            "This client of a Cluster or a Sentinel was used in another event loop, and its connections belong to "
            "that loop: pass RedisBackend a function that makes the client. It is called once in each event loop."
        )
    pool: Any = ConnectionPool(max_connections=copied.connection_pool.max_connections)
    pool.make_connection = copied.connection_pool.make_connection
    copied.connection_pool = pool
    copied.connection, copied.single_connection_client = None, False
    return copied  # type: ignore[no-any-return]


async def _close(transport: Transport) -> None:
    client: Any = transport.client
    await transport.release()
    if not hasattr(client, "connection_pool"):  # a Cluster
        await client.aclose()
        return
    for one in (client, *_sentinels(client)):
        await one.aclose(close_connection_pool=True)


def _sentinels(client: Any) -> "list[Redis]":
    """Return the clients that ask where the primary is."""
    return getattr(getattr(client.connection_pool, "sentinel_manager", None), "sentinels", [])


def _client_from(url: str, seconds: float) -> "Redis":
    from redis.asyncio import ConnectionPool, Redis, SSLConnection

    # No timeout for single reads and writes: each operation has one for everything that it does.
    pool = ConnectionPool.from_url(
        url, max_connections=CONNECTIONS, socket_timeout=None, socket_connect_timeout=seconds
    )
    options = pool.connection_kwargs
    # A URL that has no certificate checked on purpose leaves no name to check either.
    if issubclass(pool.connection_class, SSLConnection) and options.get("ssl_cert_reqs") != "none":
        pool.connection_kwargs = {**CHECKED, **options}
    return Redis.from_pool(pool)


def _check_url(url: str) -> None:
    try:
        pool: Any = _client_from(url, 1).connection_pool
        pool.make_connection()  # it connects on first use
    except Exception as error:
        # The message of the error may contain a password.
        raise ImproperlyConfigured(
            f"The Redis URL is invalid ({type(error).__name__}): pass redis://[user:password@]host:port/db, the same "
            "with rediss://, or unix://[user:password@]/path?db=0. For a Cluster or a Sentinel, pass a client."
        ) from None


def _checked(client: Client) -> Client:
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.client import Pipeline

    if isinstance(client, RedisCluster):
        primary = not (client.read_from_replicas or client.load_balancing_strategy)
    elif isinstance(client, Redis) and not isinstance(client, Pipeline):
        primary = getattr(client.connection_pool, "is_master", True)
    else:
        kind = f"a {type(client).__module__}.{type(client).__qualname__}."
        if client is None:
            kind = "NoneType: is the variable that holds the URL set?"
        raise ImproperlyConfigured(
            f"RedisBackend takes a URL, or a Redis or RedisCluster client from redis.asyncio, not {kind}"
        )
    if not primary:
        raise ImproperlyConfigured(
            "RedisBackend must not read from replicas: they may still hold a session that was ended. "
            "Pass a client of the primary (`master_for()` of a Sentinel, or a RedisCluster without load balancing)."
        )
    return client
