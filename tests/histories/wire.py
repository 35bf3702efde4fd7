"""A small HTTP client that tells whether a request without an answer can have reached the server."""

import asyncio
import json
import re
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlencode

COOKIE = re.compile(r"session=([^;]*)(.*)")


class NotSent(Exception):
    """The server does not listen: the request certainly did nothing."""


class NoAnswer(Exception):
    """The request was sent, and its answer did not arrive."""


class Reply(NamedTuple):
    status: int
    token: str | None
    """The cookie that the answer sets; "": it deletes it."""
    body: Any


class Connection:
    """One connection to a server, opened when it is needed."""

    def __init__(self, port: int, patience: float) -> None:
        self.port = port
        self.patience = patience
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, kind: str, token: str, arguments: dict[str, Any], leave_after: float | None = None) -> Reply:
        """Send a request and return the answer.

        Args:
            kind: the path.
            token: the session's cookie; "": none.
            arguments: the query.
            leave_after: close the connection after this number of seconds, whether or not the answer has arrived.
        """
        reader, writer = await self._open()
        cookie = f"Cookie: session={token}\r\n" if token else ""
        head = f"POST /{kind}?{urlencode(arguments)} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n{cookie}\r\n"
        try:
            async with asyncio.timeout(self.patience if leave_after is None else leave_after):
                writer.write(head.encode())
                await writer.drain()
                return await _read(reader)
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            raise NoAnswer from error
        except BaseException:
            self.close()
            raise

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None or self._streams[0].at_eof():
            self.close()
            try:
                self._streams = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError as error:
                raise NotSent from error
        return self._streams

    def close(self) -> None:
        if self._streams is not None:
            with suppress(OSError, RuntimeError):
                self._streams[1].close()
            self._streams = None


async def _read(reader: asyncio.StreamReader) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    length, token = 0, None
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "content-length":
            length = int(value)
        elif name.lower() == "set-cookie" and (found := COOKIE.match(value.strip())):
            token = "" if "max-age=0" in found[2].lower() else found[1]
    body = await reader.readexactly(length)
    status = int(first.split(" ")[1])
    return Reply(status, token, json.loads(body) if status == 200 else body.decode("latin-1"))
