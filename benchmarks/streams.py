"""Measure open streams: how soon they end with their sessions, what an idle one costs, and how often it looks.

    python -m benchmarks.streams                      # Redis and PostgreSQL, two processes, 1,000 streams
    python -m benchmarks.streams --only redis --streams 200 --rounds 5 --idle 0

Two processes of uvicorn hold the streams, each with a session of its own, all of one user. A third one ends them with
`revoke_all`. The time is counted from the beginning of that call to the moment at which a client has read the end.
"""

import argparse
import asyncio
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from statistics import quantiles
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from benchmarks.servers import started
from starsessions import Session, SessionMiddleware, load_session, users
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.users import UserSessions
from starsessions.watch import until_ended
from tests.servers.process import free_port

PROCESSES = 2
USER = "ann"


def backend_at(url: str, name: str) -> StoreBackend:
    if url.startswith("redis"):
        return RedisBackend(url, f"{name}:", timeout=30)
    return SQLAlchemyBackend(url, name, timeout=30)


# A process that holds streams


async def events() -> AsyncIterator[str]:
    yield "data: open\n\n"
    await anyio.sleep_forever()


async def stream(request: Request) -> StreamingResponse:
    session = await load_session(request)
    items = until_ended(session, events()) if request.query_params.get("watched") else events()
    return StreamingResponse(items, media_type="text/event-stream")


async def state(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{memory()} {looks[0]}")


def memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


looks = [0]


def serve(url: str, name: str, port: int) -> None:
    backend = backend_at(url, name)
    store: Any = backend.store
    usual = store.get

    async def get(key: str, *, now: int) -> Any:
        looks[0] += 1
        return await usual(key, now=now)

    store.get = get
    app = Starlette(
        routes=[Route("/stream", stream), Route("/state", state)],
        middleware=[Middleware(SessionMiddleware, backend=backend)],
    )
    uvicorn.run(app, port=port, log_level="warning", backlog=4096)


@contextmanager
def serving(url: str, name: str) -> Iterator[list[int]]:
    ports = [free_port() for _ in range(PROCESSES)]
    with ExitStack() as stack:
        for port in ports:
            command = [sys.executable, "-m", "benchmarks.streams", "--serve", url, name, str(port)]
            process = stack.enter_context(subprocess.Popen(command))
            stack.callback(process.terminate)
        for port in ports:
            while socket.socket().connect_ex(("127.0.0.1", port)):
                time.sleep(0.05)
        yield ports


# The clients


async def opened(port: int, path: str, session_id: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nhost: localhost\r\ncookie: session={session_id}\r\n\r\n".encode())
    return reader, writer


async def state_of(port: int) -> tuple[int, int]:
    """Return the memory and the number of reads of a process."""
    reader, writer = await opened(port, "/state")
    answer = await reader.readuntil(b"\r\n\r\n")
    length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    memory, reads = (await reader.readexactly(length)).split()
    writer.close()
    return int(memory), int(reads)


async def signed_in(backend: StoreBackend) -> str:
    session = Session(backend)
    await session.load()
    await users.sign_in(session, USER)
    return await session.persist()


class Streams:
    def __init__(self, ports: list[int], ids: list[str], watched: bool) -> None:
        self._ports, self._ids, self._watched = ports, ids, watched
        self.closed_at: list[float] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        path = "/stream?watched=1" if self._watched else "/stream"
        for n, session_id in enumerate(self._ids):
            reader, writer = await opened(self._ports[n % PROCESSES], path, session_id)
            await reader.readuntil(b"data: open")
            self._tasks.append(asyncio.create_task(self._until_closed(reader, writer)))

    async def _until_closed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"0\r\n\r\n")
            self.closed_at.append(time.monotonic())
        finally:
            writer.close()

    async def all_closed(self, within: float) -> None:
        await asyncio.wait(self._tasks, timeout=within)

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def cost(kind: str, ports: list[int], ids: list[str], watched: bool, idle: float) -> None:
    warm = Streams(ports, ids[:20], watched)
    await warm.open()
    before = [await state_of(port) for port in ports]
    streams = Streams(ports, ids, watched)
    await streams.open()
    await asyncio.sleep(2)
    after = [await state_of(port) for port in ports]
    held = sum(b[0] - a[0] for a, b in zip(before, after, strict=True)) / len(ids)
    print(f"{kind}: {held / 1000:.1f} kB per open stream, watched: {watched}")
    if watched and idle:
        await asyncio.sleep(idle)
        reads = sum(b[1] - a[1] for a, b in zip(after, [await state_of(port) for port in ports], strict=True))
        print(f"{kind}: {reads / (len(ids) + 20) / idle * 60:.2f} keys read per idle stream and minute")
    await streams.leave()
    await warm.leave()


async def measure(kind: str, url: str, count: int, rounds: int, idle: float) -> None:
    name = f"b{token_hex(6)}"
    backend = backend_at(url, name)
    if isinstance(backend, SQLAlchemyBackend):
        await backend.create_table()
    ids = [await signed_in(backend) for _ in range(count)]
    for watched in (False, True):  # new processes, whose heap has never been larger
        with serving(url, name) as ports:
            await cost(kind, ports, ids, watched, idle)
    with serving(url, name) as ports:
        for _ in range(rounds):
            streams = Streams(ports, ids, watched=True)
            await streams.open()
            await asyncio.sleep(2)
            began = time.monotonic()
            ended = await UserSessions(backend, session_cookie="session").revoke_all(USER)
            called = time.monotonic() - began
            await streams.all_closed(65)
            took = sorted(at - began for at in streams.closed_at)
            await streams.leave()
            if len(took) < 2:
                print(f"{kind}: {len(took)} of {count} streams were closed")
                continue
            cuts = quantiles(took, n=100)
            print(
                f"{kind}: {ended} sessions ended in {called * 1000:.0f} ms; {len(took)} of {count} streams closed; "
                f"p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms, last {took[-1] * 1000:.0f} ms"
            )
            ids = [await signed_in(backend) for _ in range(count)]
    await backend.store.aclose()  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="redis,postgres")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--idle", type=float, default=60, help="seconds for which the looks of idle streams are counted"
    )
    parser.add_argument("--serve", nargs=3, metavar=("URL", "NAME", "PORT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve[0], given.serve[1], int(given.serve[2]))
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    left_out: list[str] = []
    with started(given.only.split(","), left_out) as urls:
        for kind, url in urls.items():
            asyncio.run(measure(kind, url, given.streams, given.rounds, given.idle))
    print(*left_out, sep="\n")


if __name__ == "__main__":
    main()
