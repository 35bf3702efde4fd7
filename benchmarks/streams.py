"""Measure open streams: how soon they end with their sessions, what an idle one costs, and how often it looks.

    python -m benchmarks.streams                      # Redis and PostgreSQL, two processes, 1,000 streams
    python -m benchmarks.streams --only redis,valkey --streams 200 --rounds 5 --idle 0
    python -m benchmarks.streams --without-bus        # while the server closes and refuses subscriptions

Two processes of uvicorn hold the streams, each with a session of its own, all of one user. A third one ends them with
`revoke_all`. The time is counted from the beginning of that call to the moment at which a client, in a fourth one, has
read the end.
"""

import argparse
import asyncio
import json
import random
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from secrets import token_hex
from statistics import quantiles
from typing import Any, NamedTuple

import anyio
import asyncpg
import uvicorn
from redis.asyncio import Redis
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

EndAll = Callable[[], Awaitable[tuple[int, float, float]]]
"""Ends all sessions, and returns how many there were, when the call began, and for how long it took."""

PROCESSES = 2
LOOKS_EVERY = 10
"""After how many seconds a stream looks at the store, where nothing is announced."""
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
    return PlainTextResponse(f"{memory()} {looks[0]} {time.process_time()}")


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


# A process that ends the sessions


async def end(url: str, name: str) -> None:
    """End all sessions whenever a line comes in, and say how many there were, and when."""
    backend = backend_at(url, name)
    sessions = UserSessions(backend, session_cookie="session")
    for _ in sys.stdin:
        await sessions.list(USER, limit=1)  # it is connected, as a process that serves is
        began = time.monotonic()
        ended = await sessions.revoke_all(USER)
        print(json.dumps([ended, began, time.monotonic() - began]), flush=True)


@contextmanager
def ending(url: str, name: str) -> Iterator[EndAll]:
    command = [sys.executable, "-m", "benchmarks.streams", "--end", url, name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        asked, said = process.stdin, process.stdout

        async def end_all() -> tuple[int, float, float]:
            print("end", file=asked, flush=True)
            ended, began, called = json.loads(await asyncio.to_thread(said.readline))
            return ended, began, called

        yield end_all


# The bus


@asynccontextmanager
async def without_bus(url: str) -> AsyncIterator[None]:
    """Close all subscriptions, and refuse others. In PostgreSQL, which cannot refuse them, close them again at once."""
    if url.startswith("redis"):
        async with Redis.from_url(url) as client:
            await client.acl_setuser("default", enabled=True, reset_channels=True)
            yield
            await client.acl_setuser("default", enabled=True, channels=["*"])
        return

    async def close() -> None:
        while True:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
            )
            await asyncio.sleep(0.02)

    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        yield
        tasks.cancel_scope.cancel()
    await connection.close()


# The clients


def request(path: str, session_id: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: localhost\r\ncookie: session={session_id}\r\n\r\n".encode()


class State(NamedTuple):
    memory: int
    looks: int
    seconds: float
    """What the process has computed for."""


async def state_of(port: int) -> State:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request("/state"))
    answer = await reader.readuntil(b"\r\n\r\n")
    length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    memory, looks, seconds = (await reader.readexactly(length)).split()
    writer.close()
    return State(int(memory), int(looks), float(seconds))


async def signed_in(backend: StoreBackend) -> str:
    session = Session(backend)
    await session.load()
    await users.sign_in(session, USER)
    return await session.persist()


class Client(asyncio.Protocol):
    """A client that reads as little as it can: a thousand of them share one process."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed_at: asyncio.Future[float] = loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if b"data: open" in data:
            self.opened.set_result(None)
        if data.endswith(b"0\r\n\r\n"):
            self.closed_at.set_result(time.monotonic())


class Streams:
    def __init__(self, ports: list[int], ids: list[str], watched: bool) -> None:
        self._ports, self._ids = ports, ids
        self._path = "/stream?watched=1" if watched else "/stream"
        self._clients: list[Client] = []

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        for n, session_id in enumerate(self._ids):
            client = Client(request(self._path, session_id))
            await loop.create_connection(lambda client=client: client, "127.0.0.1", self._ports[n % PROCESSES])
            self._clients.append(client)
            await client.opened

    async def closed_at(self, within: float) -> list[float]:
        """Wait until all are closed, and return when they were."""
        await asyncio.wait([client.closed_at for client in self._clients], timeout=within)
        return sorted(client.closed_at.result() for client in self._clients if client.closed_at.done())

    async def computed_for(self) -> float:
        return sum([(await state_of(port)).seconds for port in self._ports])

    def leave(self) -> None:
        for client in self._clients:
            client.transport.close()


async def cost(kind: str, ports: list[int], ids: list[str], watched: bool, idle: float) -> None:
    warm = Streams(ports, ids[:20], watched)
    await warm.open()
    before = [await state_of(port) for port in ports]
    streams = Streams(ports, ids, watched)
    await streams.open()
    await asyncio.sleep(2)
    after = [await state_of(port) for port in ports]
    held = sum(b.memory - a.memory for a, b in zip(before, after, strict=True)) / len(ids)
    print(f"{kind}: {held / 1000:.1f} kB per open stream, watched: {watched}")
    if watched and idle:
        await asyncio.sleep(idle)
        reads = sum(b.looks - a.looks for a, b in zip(after, [await state_of(port) for port in ports], strict=True))
        print(f"{kind}: {reads / (len(ids) + 20) / idle * 60:.2f} keys read per idle stream and minute")
    streams.leave()
    warm.leave()


async def measure(kind: str, url: str, given: argparse.Namespace) -> None:
    name = f"b{token_hex(6)}"
    backend = backend_at(url, name)
    if isinstance(backend, SQLAlchemyBackend):
        await backend.create_table()
    ids = [await signed_in(backend) for _ in range(given.streams)]
    for watched in (False, True) if given.idle else ():  # new processes, whose heap has never been larger
        with serving(url, name) as ports:
            await cost(kind, ports, ids, watched, given.idle)
    with serving(url, name) as ports, ending(url, name) as end_all:
        for _ in range(given.rounds):
            await ended(kind, url, Streams(ports, ids, watched=True), end_all, given.without_bus)
            ids = [await signed_in(backend) for _ in range(given.streams)]
    await backend.store.aclose()  # type: ignore[attr-defined]


async def ended(kind: str, url: str, streams: Streams, end_all: EndAll, is_without_bus: bool) -> None:
    """End all sessions while their streams are open, and print when the streams were closed."""
    await streams.open()
    await asyncio.sleep(2)
    before = await streams.computed_for()
    async with without_bus(url) if is_without_bus else nullcontext():
        await asyncio.sleep(3 * random.random() if is_without_bus else 0)
        count, began, called = await end_all()
        took = [at - began for at in await streams.closed_at(65)]
    streams.leave()
    computed = (await streams.computed_for() - before) / PROCESSES
    if len(took) < 2:
        print(f"{kind}: {len(took)} of {count} streams were closed")
        return
    cuts = quantiles(took, n=100)
    most = LOOKS_EVERY + 1 if is_without_bus else 0.25
    found = took[-1] if is_without_bus else cuts[98]
    is_met = found <= most and len(took) == count
    print(
        f"{kind}: {count} sessions ended in {called * 1000:.0f} ms; {len(took)} streams closed; "
        f"p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms, last {took[-1] * 1000:.0f} ms; "
        f"a process computed for {computed * 1000:.0f} ms" + ("" if is_met else f": MISSED, {most:g} s wanted"),
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="redis,postgres")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--idle", type=float, default=60, help="seconds for which the looks of idle streams are counted"
    )
    parser.add_argument("--serve", nargs=3, metavar=("URL", "NAME", "PORT"), help=argparse.SUPPRESS)
    parser.add_argument("--without-bus", action="store_true", help="close and refuse all subscriptions")
    parser.add_argument("--end", nargs=2, metavar=("URL", "NAME"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.end:
        asyncio.run(end(*given.end))
        return
    if given.serve:
        serve(given.serve[0], given.serve[1], int(given.serve[2]))
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8192)), hard))
    left_out: list[str] = []
    with started(given.only.split(","), left_out) as urls:
        for kind, url in urls.items():
            asyncio.run(measure(kind, url, given))
    print(*left_out, sep="\n")


if __name__ == "__main__":
    main()
