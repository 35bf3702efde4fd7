"""How a command reaches Redis and its answer comes back: the client, its pool, and the time that a verb may take."""

from asyncio import AbstractEventLoop, Future, Semaphore, Task, get_running_loop, timeout
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool, Redis, RedisCluster

T = TypeVar("T")

_CONNECTIONS = 50
"""Of one process, if we make the client: who comes when all are in use waits."""

_MOMENT = 0.1
"""Seconds for which a connection may be kept out of its pool, from when it was taken."""

Send = Callable[..., Awaitable[Any]]
"""Sends one command and gives its answer, in bytes."""


Read = Callable[[bytes], Awaitable[Any]]
"""Gives what stands under a name, in bytes."""


class Transport(NamedTuple):
    """How commands go to the server."""

    send: Send
    read: Read


class _Lease(NamedTuple):
    """A connection that was taken from its pool."""

    connection: Any
    loop: AbstractEventLoop
    until: float
    """For so long, by the clock of the loop, it may be kept."""


class Opened(NamedTuple):
    """A client that we made, and the event loop in which its connections live."""

    loop: AbstractEventLoop
    client: "Redis"
    way: Transport


def transport_for(client: "Redis | RedisCluster", seconds: float) -> Transport:
    """How to send commands by this client. Refuses what is no client of the right kind."""
    from redis.asyncio import Redis, RedisCluster
    from redis.asyncio.client import Pipeline
    from redis.client import NEVER_DECODE

    pool: ConnectionPool | None = None
    if isinstance(client, RedisCluster):
        primary = not (client.read_from_replicas or client.load_balancing_strategy)
    elif isinstance(client, Redis) and not isinstance(client, Pipeline):
        primary = getattr(client.connection_pool, "is_master", True)
        # Who overrides execute_command wants to see each command.
        if type(client).execute_command is Redis.execute_command and not client.single_connection_client:
            pool = client.connection_pool
    else:
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        raise ImproperlyConfigured(
            f"RedisBackend takes a URL, or a Redis or RedisCluster of redis.asyncio; this is a {kind}."
        )
    if not primary:
        raise ImproperlyConfigured(
            "RedisBackend must not read from replicas: they may still hold a session that was ended. "
            "Pass a client of the primary (`master_for()` of a Sentinel, a RedisCluster without load balancing)."
        )
    send = _Pooled(pool).send if pool else partial(client.execute_command, **{NEVER_DECODE: True})
    # Keys that are read together may be on different nodes of a Cluster.
    return Transport(send, partial(send, "GET") if isinstance(client, RedisCluster) else _Reads(send, seconds).read)


class _Pooled:
    """Sends commands by connections of a pool, each command once; waits if all of them are in use.

    (`Redis.execute_command` repeats commands when the client is set up so, and does not tell.)

    To take a connection and to give it back costs nearly half of what is done with it. So one that has just worked is
    kept for the next command. After a moment it is given back all the same: the pool knows whether the server still
    answers, who is the primary now, and when to log in again. A small pool may need each of its connections for others,
    so nothing is kept of it.
    """

    def __init__(self, pool: Any) -> None:
        from redis.exceptions import ReadOnlyError

        self._pool = pool
        self._free = Semaphore(pool.max_connections)
        self._demoted = ReadOnlyError
        self._keeps = pool.max_connections >= _CONNECTIONS
        self._kept: _Lease | None = None
        self._current: _Lease | None = None
        """The one that may be kept: a timer runs that ends its moment."""
        self._tasks: set[Task[None]] = set()

    async def send(self, *command: Any) -> Any:
        kept, self._kept = self._kept, None
        if kept is not None and not kept.connection.is_connected:  # the client was closed
            await self._give_back(kept)
            kept = None
        taken = kept or await self._take()
        works = False
        try:
            await taken.connection.send_command(*command)
            # If this is cancelled it closes the connection, so that no other command reads its answer.
            answer = await taken.connection.read_response(disable_decoding=True)
            works = True
            return answer
        except self._demoted:
            await taken.connection.disconnect()  # the name of the primary may lead somewhere else by now
            raise
        finally:
            if works and self._keeps and self._kept is None and self._may_hold(taken, is_new=kept is None):
                self._kept = taken
            else:
                await self._give_back(taken)

    async def _take(self) -> _Lease:
        loop = get_running_loop()
        await self._free.acquire()
        try:
            return _Lease(await self._pool.get_connection(), loop, loop.time() + _MOMENT)
        except BaseException:
            self._free.release()
            raise

    async def _give_back(self, taken: _Lease) -> None:
        try:
            await self._pool.release(taken.connection)
        finally:
            self._free.release()

    def _may_hold(self, taken: _Lease, is_new: bool) -> bool:
        if is_new and taken.loop.time() < taken.until:
            self._current = taken
            taken.loop.call_at(taken.until, self._end, taken)
        return self._current is taken

    def _end(self, taken: _Lease) -> None:
        """The moment has passed. If the connection is in use, it is given back after that."""
        if self._current is taken:
            self._current = None
        if self._kept is taken:
            self._kept = None
            task = taken.loop.create_task(self._give_back(taken))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


class _Reads:
    """GET. Those that come in one turn of the event loop, while others are under way, share an MGET.

    The shared one is a task of its own, so that it goes on when one of those who wait for it is cancelled.
    """

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._under_way = 0
        self._next: list[tuple[bytes, Future[Any]]] = []
        self._tasks: set[Task[None]] = set()

    async def read(self, name: bytes) -> Any:
        if not self._under_way:
            self._under_way += 1
            try:
                return await self._send("GET", name)
            finally:
                self._under_way -= 1
        loop = get_running_loop()
        answer = loop.create_future()
        self._next.append((name, answer))
        if len(self._next) == 1:
            task = loop.create_task(self._read_next())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _read_next(self) -> None:
        waiting, self._next = self._next, []
        self._under_way += 1
        try:
            async with timeout(self._seconds):
                found = await self._send("MGET", *[name for name, _ in waiting])
        except Exception as error:
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(error)
        else:
            for (_, answer), stored in zip(waiting, found, strict=True):
                if not answer.done():  # cancelled
                    answer.set_result(stored)
        finally:
            self._under_way -= 1


async def within(seconds: float, work: Awaitable[T], failures: tuple[type[Exception], ...]) -> T:
    """What a store's work comes to; `BackendUnavailable` for the failures that are named, and when time is up.

    The message names the kind of the failure only: what a driver says may hold keys and values.
    """
    try:
        async with timeout(seconds):  # asyncio's own, like the drivers; anyio's costs four times as much
            return await work
    except TimeoutError:
        raise BackendUnavailable(f"The store did not answer within {seconds:g} seconds.") from None
    except failures as error:
        raise BackendUnavailable(f"The store failed: {type(error).__name__}.") from error


def client_from(url: str, timeout: float) -> "Redis":
    from redis.asyncio import ConnectionPool, Redis

    # No timeout for each read and write: each verb has one for all that it does.
    pool = ConnectionPool.from_url(
        url, max_connections=_CONNECTIONS, socket_timeout=None, socket_connect_timeout=timeout
    )
    return Redis.from_pool(pool)


def check_url(url: str) -> None:
    try:
        pool: Any = client_from(url, 1).connection_pool
        pool.make_connection()  # it connects when it is used
    except Exception as error:
        # The error itself may show a password.
        raise ImproperlyConfigured(
            f"The URL of Redis cannot be used ({type(error).__name__}): give redis://[user:password@]host:port/db, "
            "the same with rediss://, or unix://[user:password@]/path?db=0. For a Cluster or a Sentinel pass a client."
        ) from None
