"""Announcements in Redis: one channel for each prefix. In a Cluster it belongs to one of the primaries (Redis 7).

The subscription has a connection of its own, outside of the client's pool. The client's own way to subscribe connects
again without saying so, and what was announced meanwhile would be missed.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.announce import in_parts
from starsessions.stores.loops import PerLoop
from starsessions.stores.redis.connection import Transport, within

MOST_TOPICS = 1000
"""The topics in one message."""

_MESSAGES = (b"message", b"smessage")


def channel_of(prefix: bytes) -> bytes:
    """Return the channel of all who use this prefix."""
    return prefix + b"announcements"


class RedisAnnouncer:
    """Announces to all processes that use this server and prefix.

    Args:
        clients: the clients by which to announce. Each subscription makes a connection with the settings of one.
        prefix: the prefix of the channel's name.
        seconds: the limit of time of an operation.
    """

    reaches_all = True

    def __init__(self, clients: PerLoop[Transport], prefix: bytes, seconds: float) -> None:
        from redis.exceptions import RedisError, ResponseError

        self._clients = clients
        self._channel = channel_of(prefix)
        self._seconds = seconds
        self._failures = (RedisError,)
        self._refusal = ResponseError
        self._has_shards = True  # until a Cluster says that it is older than Redis 7

    async def announce(self, topics: Sequence[str]) -> None:
        transport = self._clients.get()
        for message in in_parts(topics, MOST_TOPICS):
            await within(self._seconds, self._publish(transport, message), self._failures)

    async def _publish(self, transport: Transport, message: str) -> None:
        if transport.is_cluster and self._has_shards:
            try:
                await transport.send("SPUBLISH", self._channel, message)
                return
            except self._refusal as refusal:
                if "unknown command" not in str(refusal):
                    raise
                self._has_shards = False
        await transport.send("PUBLISH", self._channel, message)

    @asynccontextmanager
    async def listen(self) -> AsyncIterator[AsyncIterator[Sequence[str]]]:
        # Whatever the driver raises, the subscription is lost: on uvloop it may be a RuntimeError, for instance.
        connection = await within(self._seconds, self._subscribed(), (Exception,))
        try:
            async with aclosing(_topics(connection)) as topics:
                yield topics
        finally:
            await connection.disconnect(nowait=True)

    async def _subscribed(self) -> Any:
        transport = self._clients.get()
        connection = await self._new_connection(transport)
        try:
            await connection.connect()
            connection.socket_timeout = None  # messages may be rare
            shards = b"S" if transport.is_cluster and self._has_shards else b""
            await connection.send_command(shards + b"SUBSCRIBE", self._channel)
            await _next_reply(connection)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _new_connection(self, transport: Transport) -> Any:
        client: Any = transport.client
        if not transport.is_cluster:
            return client.connection_pool.make_connection()
        await self._publish(transport, "")  # the client learns where the channel is
        node = client.get_node_from_key(self._channel)
        return node.connection_class(**node.connection_kwargs)


async def _next_reply(connection: Any) -> list[Any]:
    reply: list[Any] = await connection.read_response(disable_decoding=True, push_request=True)
    return reply


async def _topics(connection: Any) -> AsyncGenerator[Sequence[str]]:
    while True:
        try:
            kind, _, content = await _next_reply(connection)
        except Exception as error:
            raise BackendUnavailable(f"The store failed: {type(error).__name__}.") from error
        if kind not in _MESSAGES:  # the channel has moved to another node of the Cluster
            raise BackendUnavailable("The channel has moved to another node.")
        yield content.decode(errors="replace").split()
