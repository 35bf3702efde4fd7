"""A TCP proxy between a client and a server of the same machine, which a test can have lose things."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.servers.process import free_port


class Proxy:
    """Passes bytes on. A test may hold replies back, cut connections, or lead new ones to another port."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.lose_replies = 0
        """So many replies are lost, together with their connections, after the server has sent them."""
        self.lose_requests = 0
        """This number of requests is lost, with their connections, before the server has seen them."""
        self.flows = asyncio.Event()
        """Whether replies are passed on; they are late, otherwise."""
        self.flows.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._handlers: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def reset(self) -> None:
        """Reset all connections: the clients learn it by a RST, not by an end of the stream."""
        for writer in self._writers:
            connection = writer.get_extra_info("socket")
            if connection.fileno() != -1:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._writers.clear()

    def half_close(self) -> None:
        """End one direction of all connections: each peer reads an end, and may still write."""
        for writer in self._writers:
            if not writer.is_closing():
                writer.write_eof()

    def silence(self) -> None:
        """Let no reply arrive any more by the connections that are open, as after the loss of a network."""
        self.flows.clear()
        self.flows = asyncio.Event()
        self.flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        with suppress(OSError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers |= {writer, to_server}
            there = asyncio.create_task(self._requests(reader, to_server))
            back = asyncio.create_task(self._replies(from_server, writer))
            try:
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for one in (there, back):
                    one.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
                to_server.close()
        writer.close()
        self._handlers.discard(task)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(2**16):
            if self.lose_requests:
                self.lose_requests -= 1
                return
            writer.write(data)

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        flows = self.flows
        while data := await reader.read(2**16):
            await flows.wait()
            if self.lose_replies:
                self.lose_replies -= 1
                return
            writer.write(data)


@asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    running = Proxy(target)
    server = await asyncio.start_server(running._serve, "127.0.0.1", running.port)
    try:
        yield running
    finally:
        server.close()
        running.flows.set()
        for writer in running._writers:
            writer.close()
        await asyncio.gather(*running._handlers)
