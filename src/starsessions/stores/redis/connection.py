"""How commands reach Redis: by a connection of a pool, alone, shared or together, and within a timeout."""

from asyncio import AbstractEventLoop, Future, Semaphore, Task, get_running_loop, sleep, timeout
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from starsessions.exceptions import BackendUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

T = TypeVar("T")

CONNECTIONS = 50
"""The size of the pool of a client made from a URL, for each process. If all connections are in use, commands wait."""

CHECKED = {"ssl_check_hostname": True}
"""Options of TLS. Before redis-py 6, the certificate of any server of a trusted authority is accepted by default."""

_MOMENT = 0.1
"""Seconds for which a connection may be kept out of its pool after it was taken."""

_PAUSES = (0.02, 0.1, 0.5)
"""Seconds between the attempts at a command of a Cluster."""

Send = Callable[..., Awaitable[Any]]
"""Sends a command, and returns its reply as bytes."""


Read = Callable[[bytes], Awaitable[Any]]
"""Returns the value of a key as bytes."""

Together = Callable[..., Awaitable[list[Any]]]
"""Sends commands at once by one connection, to the server of a key, and returns their replies. Takes the key and the
commands. If some were refused, it raises the first refusal after all replies have been read."""


Release = Callable[[], Awaitable[None]]


class Transport(NamedTuple):
    """A client, and the functions that send commands through it."""

    client: "Redis | RedisCluster"
    send: Send
    read: Read
    together: Together
    is_cluster: bool
    release: Release
    """Returns what is kept out of the pool."""


class _Lease(NamedTuple):
    """A connection taken from its pool."""

    connection: Any
    loop: AbstractEventLoop
    until: float
    """The time, by the event loop's clock, until which the connection may be kept."""


def transport_for(client: "Redis | RedisCluster", seconds: float) -> Transport:
    """Return the functions that send commands through this client. They may be used in one event loop."""
    from redis.asyncio import Redis, RedisCluster
    from redis.client import NEVER_DECODE

    driver = _Driver()
    execute = partial(client.execute_command, **{NEVER_DECODE: True})
    if isinstance(client, RedisCluster):
        free = Semaphore(CONNECTIONS)
        send = _whole(driver, _limited(execute, free), _PAUSES)
        together = _limited(_ToOneNode(driver, client).send, free)
        # The keys of one MGET may be on different nodes.
        return Transport(client, send, partial(send, "GET"), together, True, _nothing)
    # A subclass that overrides execute_command expects to see each command.
    if type(client).execute_command is not Redis.execute_command or client.single_connection_client:
        send, together, release = _whole(driver, execute), partial(_piped, driver, client), _nothing
    else:
        pooled = _Pooled(driver, client.connection_pool)
        send, together, release = pooled.send, pooled.send_together, pooled.release
    return Transport(client, send, _Reads(send, seconds).read, together, False, release)


async def _nothing() -> None:
    """Release nothing: the client itself takes and returns its connections."""


async def primaries_of(client: Any, *, anew: bool) -> dict[str, Send]:
    """Return the functions that send commands to each primary of a Cluster, by the primary's name.

    Args:
        client: the client of the Cluster.
        anew: ask the Cluster which servers these are. Otherwise, they are those that the client knows.
    """
    from redis.client import NEVER_DECODE

    driver = _Driver()
    with driver:
        await (client.nodes_manager if anew else client).initialize()
    targets = [{NEVER_DECODE: True, "target_nodes": node} for node in client.get_primaries()]
    return {
        target["target_nodes"].name: _whole(driver, partial(client.execute_command, **target)) for target in targets
    }


class _Driver:
    """Around each call of the driver: what it raises is a failure of Redis, or a lost connection, whatever its type.

    A write to a connection that was reset is a RuntimeError on uvloop, and a TypeError in asyncio. A RedisCluster
    raises an AttributeError while slots move. Errors of this package are not raised in here, and are not hidden.
    """

    def __init__(self) -> None:
        from redis import exceptions

        self.known = exceptions.RedisError
        self._lost = exceptions.ConnectionError

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, self.known):
            raise self._lost(type(error).__name__) from error

    def check(self, command: tuple[Any, ...], answer: Any) -> None:
        """Raise if the command came back: the socket is connected to itself, as it can be while the server is down.

        (That is TCP's simultaneous open, if the port is one that clients get, such as one that Docker publishes.)
        """
        if type(answer) is list and answer[:1] == [command[0].encode()]:
            raise self._lost("the connection leads to itself")


def _whole(driver: _Driver, execute: Send, pauses: Sequence[float] = ()) -> Send:
    """Return a function that sends each command by a client's `execute_command`.

    The client of a Cluster sends a command again if it lost the connection, but closes connections that other commands
    are about to use. So there, a connection that is lost in another way is also repeated here, after a pause.
    """

    async def once(command: tuple[Any, ...]) -> Any:
        answer = await execute(*command)
        driver.check(command, answer)
        return answer

    async def send(*command: Any) -> Any:
        for pause in pauses:
            try:
                return await once(command)
            except driver.known:
                raise
            except Exception:
                await sleep(pause)
        with driver:
            return await once(command)

    return send


def _limited(execute: Send, free: Semaphore) -> Send:
    """Return a function that sends so many commands at a time. The client of a Cluster refuses more than 100 per node,
    and all that concerns one user's listing goes to the same one.
    """

    async def send(*command: Any) -> Any:
        async with free:
            return await execute(*command)

    return send


def _without_refusals(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


async def _piped(driver: _Driver, client: Any, _: bytes, *commands: tuple[Any, ...]) -> list[Any]:
    """Send commands together by the client's own pipeline."""
    from redis.client import NEVER_DECODE

    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command, **{NEVER_DECODE: True})
    with driver:
        return _without_refusals(await pipeline.execute(raise_on_error=False))


class _ToOneNode:
    """Send commands together to the node of a Cluster that has a key.

    The client itself would send a command that was redirected alone. So commands that it refuses are sent together
    again: where it says, or after a single command by which the client has learned where the key is.
    """

    def __init__(self, driver: _Driver, client: Any) -> None:
        from redis import exceptions

        self._driver = driver
        self._client = client
        self._ask = exceptions.AskError
        self._moved = (
            exceptions.ClusterDownError,
            exceptions.ConnectionError,
            exceptions.MovedError,
            exceptions.TimeoutError,
        )

    async def send(self, key: bytes, *commands: tuple[Any, ...]) -> list[Any]:
        for pause in _PAUSES:
            try:
                return await self._once(key, commands)
            except self._moved:
                await sleep(pause)
            with self._driver:
                await self._client.execute_command("PTTL", key)
        return await self._once(key, commands)

    async def _once(self, key: bytes, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        with self._driver:
            await self._client.initialize()
            try:
                return await self._piped(self._client.get_node_from_key(key), commands)
            except self._moved:  # one of them is a kind of the next
                raise
            except self._ask as said:  # its slot is about to move, and the key is there already
                node = self._client.get_node(said.host, said.port)
            pairs = [one for command in commands for one in (("ASKING",), command)]
            return (await self._piped(node, pairs))[1::2]

    async def _piped(self, node: Any, commands: Iterable[tuple[Any, ...]]) -> list[Any]:
        from redis.client import NEVER_DECODE

        pipeline = self._client.pipeline()
        for command in commands:
            pipeline.execute_command(*command, target_nodes=node, **{NEVER_DECODE: True})
        return _without_refusals(await pipeline.execute(raise_on_error=False, allow_redirections=False))


class _Pooled:
    """Send each command exactly once, over a connection of a pool. Wait if all connections are in use.

    (`Redis.execute_command` may retry a command, depending on the client's settings, without reporting that it did.)

    Taking a connection and returning it costs nearly half as much as the command itself. So a connection that has just
    worked is kept for the next command. After a short time it is returned in any case, because the pool knows whether
    the server still answers, which node is the primary, and when to authenticate again. No connection of a small pool
    is kept, because the application may need each of them.
    """

    def __init__(self, driver: _Driver, pool: Any) -> None:
        from redis import exceptions

        self._driver = driver
        self._pool = pool
        self._free = Semaphore(pool.max_connections)
        self._misled = (exceptions.ConnectionError, exceptions.ReadOnlyError)
        self._refusal = exceptions.ResponseError
        self._keeps = pool.max_connections >= CONNECTIONS
        self._kept: _Lease | None = None
        self._current: _Lease | None = None
        """The lease that may be kept; a timer ends it."""
        self._tasks: set[Task[None]] = set()

    async def send(self, *command: Any) -> Any:
        return await self._lend(self._exchange, command)

    async def send_together(self, _: bytes, *commands: tuple[Any, ...]) -> list[Any]:
        replies: list[Any] = await self._lend(self._exchange_all, commands)
        return replies

    async def _exchange(self, connection: Any, command: tuple[Any, ...]) -> Any:
        await connection.send_command(*command)
        # If this is cancelled it closes the connection, so that no other command reads its answer.
        answer = await connection.read_response(disable_decoding=True)
        self._driver.check(command, answer)
        return answer

    async def _exchange_all(self, connection: Any, commands: tuple[tuple[Any, ...], ...]) -> list[Any]:
        await connection.send_packed_command(connection.pack_commands(commands))
        replies: list[Any] = []
        for command in commands:
            try:
                replies.append(await connection.read_response(disable_decoding=True))
            except self._refusal as refusal:
                replies.append(refusal)
            self._driver.check(command, replies[-1])
        return _without_refusals(replies)

    async def _lend(self, exchange: Callable[[Any, tuple[Any, ...]], Awaitable[Any]], content: tuple[Any, ...]) -> Any:
        """Have a connection used, and return what came of it."""
        kept, self._kept = self._kept, None
        if kept is not None and not kept.connection.is_connected:  # the client was closed
            await self._give_back(kept)
            kept = None
        taken = kept or await self._take()
        works = False
        try:
            with self._driver:
                answer = await exchange(taken.connection, content)
            works = True
            return answer
        except self._misled:
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
            with self._driver:
                connection = await self._pool.get_connection()
            return _Lease(connection, loop, loop.time() + _MOMENT)
        except BaseException:
            self._free.release()
            raise

    async def _give_back(self, taken: _Lease) -> None:
        try:
            with self._driver:
                await self._pool.release(taken.connection)
        finally:
            self._free.release()

    async def release(self) -> None:
        """Keep no connection any more: a loop that ends may not run what the timer begins."""
        kept, self._kept, self._current = self._kept, None, None
        if kept is not None:
            with suppress(self._driver.known):  # it is closed with the client
                await self._give_back(kept)

    def _may_hold(self, taken: _Lease, is_new: bool) -> bool:
        if is_new and taken.loop.time() < taken.until:
            self._current = taken
            taken.loop.call_at(taken.until, self._end, taken)
        return self._current is taken

    def _end(self, taken: _Lease) -> None:
        """End the lease. A connection that is in use is returned after its command."""
        if self._current is taken:
            self._current = None
        if self._kept is taken:
            task = taken.loop.create_task(self._give_back_unused(taken))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _give_back_unused(self, taken: _Lease) -> None:
        # A command that began before this task has taken it, and returns it. Otherwise it would open a new one.
        if self._kept is taken:
            self._kept = None
            await self._give_back(taken)


class _Reads:
    """Read keys with GET. Reads that begin in one turn of the event loop, while another is pending, share an MGET.

    The MGET runs in its own task, so that it continues if one of the waiting requests is cancelled. A server that
    refuses it (a Cluster behind an ordinary client, a proxy, an ACL) is not asked again.
    """

    def __init__(self, send: Send, seconds: float) -> None:
        from redis.exceptions import ResponseError

        self._refusal = ResponseError
        self._shares = True
        self._send = send
        self._seconds = seconds
        self._under_way = 0
        self._next: list[tuple[bytes, Future[Any]]] = []
        self._tasks: set[Task[None]] = set()

    async def read(self, name: bytes) -> Any:
        if not (self._under_way and self._shares):
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
        try:
            return await answer
        except self._refusal:
            self._shares = False
            return await self._send("GET", name)

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
    """Wait for an operation of the store, and return its result.

    Raises:
        BackendUnavailable: the operation raised one of `failures`, or did not finish within `seconds`. The message
            contains only the type of the failure, because a driver's message may contain keys and values.
    """
    try:
        async with timeout(seconds):  # asyncio's own, like the drivers; anyio's costs four times as much
            return await work
    except TimeoutError:
        raise BackendUnavailable(f"The store did not answer within {seconds:g} seconds.") from None
    except failures as error:
        raise BackendUnavailable(f"The store failed: {type(error).__name__}.") from error
