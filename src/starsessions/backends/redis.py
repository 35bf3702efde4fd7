"""Sessions in Redis, or Valkey: one server, the primary of a Sentinel set, or a Cluster.

An entry is one string under one key:

    0x01 | version, 8 random bytes | expires_at, 8 bytes, big-endian | value

Whatever else stands under our key (another type, something shorter, another first byte) is nothing: `get` does not see
it, `put` takes its place, `delete` removes it. Reading is one GET. Writing is one script that looks and writes in one
step; it touches one key, so that a Cluster knows where to run it, and it is sent whole to a server that does not know
it (any more).

The version is made by the writer and is random. So a script that is sent a second time, because the answer to the
first was lost, finds its own version and says yes. If somebody else has written between the two, nobody can tell
whether the first one was carried out, and the write has failed. (A Cluster's client repeats commands by itself, and
does not tell: there, what is computed from the old value may then be computed twice.)

Redis counts the time to live by its own clock, from now on. What is over is over by the clock of the caller.
"""

from asyncio import AbstractEventLoop, Future, Semaphore, Task, get_running_loop, timeout
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha1
from os import urandom
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from starsessions.backends.base import Clock, wall_clock
from starsessions.backends.store import Entry, Refused, Version
from starsessions.backends.stored import StoredBackend
from starsessions.core.serializer import Serializer
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.sealing.keys import Keys

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool, Redis, RedisCluster

T = TypeVar("T")

_LAYOUT = 1
_HEAD = Struct(">B8sQ")

_LONGEST = 10**15
"""Milliseconds, some 30,000 years: Redis adds the time of day, and would refuse what does not fit into 63 bits then."""

_SCRIPT = b"""
local entry, expect, now, milliseconds = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local there = redis.pcall('GET', KEYS[1])
if type(there) == 'table' then
    if not string.find(there.err, 'WRONGTYPE', 1, true) then return there end
    there = false
elseif there and (#there < 17 or string.byte(there) ~= 1 or struct.unpack('>I8', there, 10) <= now) then
    there = false
end

if expect == '*' then
    redis.call('DEL', KEYS[1])
    return there and 1
end

local version = there and string.sub(there, 2, 9) or ''
if version ~= expect then
    if there and version == string.sub(entry, 2, 9) then return 1 end
    return there
end
if milliseconds > 0 then
    redis.call('SET', KEYS[1], entry, 'PX', ARGV[4])
else
    redis.call('DEL', KEYS[1])
end
return 1
"""
"""Puts an entry (none: removes) where the version is `expect`; none: where nothing is. With `*` it removes whatever is
there. The answer is 1 if it was done, also if it was done before, and otherwise what is there: nil if nothing is."""

_CONNECTIONS = 50
"""Of one process, if we make the client: who comes when all are in use waits."""

_MOMENT = 0.1
"""Seconds for which a connection may be kept out of its pool, from when it was taken."""

_SHA = sha1(_SCRIPT, usedforsecurity=False).hexdigest()

Send = Callable[..., Awaitable[Any]]
"""Sends one command and gives its answer, in bytes."""


Read = Callable[[bytes], Awaitable[Any]]
"""Gives what stands under a name, in bytes."""


class _Way(NamedTuple):
    """How commands go to the server."""

    send: Send
    read: Read


class _Taken(NamedTuple):
    """A connection that was taken from its pool."""

    connection: Any
    loop: AbstractEventLoop
    until: float
    """For so long, by the clock of the loop, it may be kept."""


class _Opened(NamedTuple):
    """A client that we made, and the event loop in which its connections live."""

    loop: AbstractEventLoop
    client: "Redis"
    way: _Way


class RedisStore:
    """The store contract in Redis. Each verb takes at most `timeout` seconds, whatever happens.

    From a URL it makes a client of its own in each event loop; `aclose` closes it. A client that was given stays open.
    """

    def __init__(self, client_or_url: "Redis | RedisCluster | str", prefix: str, *, timeout: float) -> None:
        try:
            from redis import exceptions
        except ImportError as missing:
            raise ImproperlyConfigured(
                "Sessions in Redis need the package redis: install the extra starsessions[redis]."
            ) from missing
        if not timeout > 0:
            raise ImproperlyConfigured("timeout must be more than 0 seconds.")
        self._prefix = prefix.encode()
        self._timeout = timeout
        self._failures = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
        self._refusal, self._unknown_script = exceptions.ResponseError, exceptions.NoScriptError
        # After these a command is sent a second time. Who is read-only was the primary before, and another one is now.
        self._lost = (exceptions.ConnectionError, exceptions.ReadOnlyError)
        self._given: _Way | None = None
        self._opened: _Opened | None = None
        if isinstance(client_or_url, str):
            self._url = client_or_url
            _check_url(client_or_url)
        else:
            self._given = _way_of(client_or_url, timeout)

    async def get(self, key: str, now: int) -> Entry | None:
        return _entry(await within(self._timeout, self._read(key), self._failures), now)

    async def put(self, key: str, value: bytes, expires_at: int, expect: Version | None, now: int) -> Version:
        version = urandom(8)
        entry = _HEAD.pack(_LAYOUT, version, max(0, expires_at)) + value
        await self._swap(key, entry, expect or b"", now, min((expires_at - now) * 1000, _LONGEST))
        return version

    async def delete(self, key: str, expect: Version | None, now: int) -> bool:
        try:
            await self._swap(key, b"", expect or b"*", now, 0)
        except Refused:
            if expect is not None:
                raise
            return False
        return True

    async def aclose(self) -> None:
        """Close the client that was made from a URL. The store can be used again, and makes a new one."""
        opened, self._opened = self._opened, None
        if opened is not None and opened.loop is get_running_loop():
            await opened.client.aclose()

    async def _read(self, key: str) -> bytes | None:
        read, name = self._way().read, self._name(key)
        try:
            try:
                stored: bytes | None = await read(name)
            except self._lost:
                stored = await read(name)
        except self._refusal as refusal:
            if not str(refusal).startswith("WRONGTYPE"):
                raise
            return None
        return stored

    async def _swap(self, key: str, entry: bytes, expect: bytes, now: int, milliseconds: int) -> None:
        """Put `entry` in the place of what has the version `expect`, or raise `Refused`."""
        work = self._run_script(self._name(key), entry, expect, now, milliseconds)
        answer, twice = await within(self._timeout, work, self._failures)
        if answer == 1:
            return
        current = _entry(answer, now)
        if twice and current is not None:
            raise BackendUnavailable("The answer to a write was lost, and somebody else has written since.")
        if twice and not entry:
            return  # it was to be removed, and it is
        raise Refused(current)

    async def _run_script(self, *arguments: Any) -> tuple[Any, bool]:
        """The script's answer, and whether it was sent twice."""
        send = self._way().send
        try:
            return await self._run_script_once(send, arguments), False
        except self._lost:
            return await self._run_script_once(send, arguments), True

    async def _run_script_once(self, send: Send, arguments: tuple[Any, ...]) -> Any:
        try:
            return await send("EVALSHA", _SHA, 1, *arguments)
        except self._unknown_script:
            return await send("EVAL", _SCRIPT, 1, *arguments)

    def _name(self, key: str) -> bytes:
        return self._prefix + key.encode()

    def _way(self) -> _Way:
        if self._given is not None:
            return self._given
        opened, loop = self._opened, get_running_loop()
        if opened is None or opened.loop is not loop:
            client = _client_from(self._url, self._timeout)
            self._opened = opened = _Opened(loop, client, _way_of(client, self._timeout))
        return opened.way


class RedisBackend(StoredBackend):
    """Sessions in Redis (6.2 and newer) or Valkey, which forgets them by itself when they are over.

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
        timeout: float = 5,
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


def _entry(stored: bytes | None, now: int) -> Entry | None:
    if stored is None or len(stored) < _HEAD.size or stored[0] != _LAYOUT:
        return None
    _, version, expires_at = _HEAD.unpack_from(stored)
    return Entry(stored[_HEAD.size :], expires_at, version) if now < expires_at else None


def _way_of(client: "Redis | RedisCluster", seconds: float) -> _Way:
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
    return _Way(send, partial(send, "GET") if isinstance(client, RedisCluster) else _Reads(send, seconds).read)


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
        self._kept: _Taken | None = None
        self._current: _Taken | None = None
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
            # If this is cancelled it closes the connection, so that nobody reads an answer which is not theirs.
            answer = await taken.connection.read_response(disable_decoding=True)
            works = True
            return answer
        except self._demoted:
            await taken.connection.disconnect()  # the name of the primary may lead somewhere else by now
            raise
        finally:
            if works and self._keeps and self._kept is None and self._may_stay(taken, is_new=kept is None):
                self._kept = taken
            else:
                await self._give_back(taken)

    async def _take(self) -> _Taken:
        loop = get_running_loop()
        await self._free.acquire()
        try:
            return _Taken(await self._pool.get_connection(), loop, loop.time() + _MOMENT)
        except BaseException:
            self._free.release()
            raise

    async def _give_back(self, taken: _Taken) -> None:
        try:
            await self._pool.release(taken.connection)
        finally:
            self._free.release()

    def _may_stay(self, taken: _Taken, is_new: bool) -> bool:
        if is_new and taken.loop.time() < taken.until:
            self._current = taken
            taken.loop.call_at(taken.until, self._end, taken)
        return self._current is taken

    def _end(self, taken: _Taken) -> None:
        """The moment is over. If the connection is in use, it is given back after that."""
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


def _client_from(url: str, timeout: float) -> "Redis":
    from redis.asyncio import ConnectionPool, Redis

    # No timeout for each read and write: each verb has one for all that it does.
    pool = ConnectionPool.from_url(
        url, max_connections=_CONNECTIONS, socket_timeout=None, socket_connect_timeout=timeout
    )
    return Redis.from_pool(pool)


def _check_url(url: str) -> None:
    try:
        pool: Any = _client_from(url, 1).connection_pool
        pool.make_connection()  # it connects when it is used
    except Exception as error:
        # The error itself may show a password.
        raise ImproperlyConfigured(
            f"The URL of Redis cannot be used ({type(error).__name__}): give redis://[user:password@]host:port/db, "
            "the same with rediss://, or unix://[user:password@]/path?db=0. For a Cluster or a Sentinel pass a client."
        ) from None
