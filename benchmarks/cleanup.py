"""Measure what an application feels while expired sessions are removed from PostgreSQL, in turns with and without.

    python -m benchmarks.cleanup                                # 10,000,000 dead rows
    python -m benchmarks.cleanup --rows 2000000 --share 0.1 --phase 10

A process sends requests at a fixed rate, some of which write, to an application with a million live sessions. In turns
with phases without it, another process runs `sweep_all`, as cron would. What counts is the p99 of the requests with it
by the p99 without it, in the middle of all turns. The server is a private one, which waits for its disk; it needs about
600 bytes for a row.
"""

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starsessions import SessionMiddleware
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.stores import Swept, sweep_all
from tests.servers import postgres
from tests.servers.postgres import PostgresServer

SETTINGS = {"shared_buffers": "256MB", "max_wal_size": "2GB", "checkpoint_timeout": "60s"}
LIVE = 1_000_000
VISITORS = 200


def fill(server: PostgresServer, dead: int) -> None:
    """Insert rows whose keys are random, as those of sessions are, and of which a third is signed in.

    They expire about in the order in which they were written: 20 in a second, sooner or later by half an hour.
    """
    rows = """
        INSERT INTO starsessions (key, value, expires_at, version, owner, since)
        SELECT md5('{what}' || n) || md5(n || '{what}') || '-', convert_to(repeat(md5(n::text), 6), 'UTF8'),
            extract(epoch FROM now())::bigint + {expires_at} + (random() * 3600)::bigint, (random() * 9e18)::bigint,
            CASE WHEN n % 3 = 0 THEN md5((n % 100000)::text) END, CASE WHEN n % 3 = 0 THEN n END
        FROM generate_series({first}, {last}) AS n
    """
    with server.client() as client:
        indexes = client.execute("SELECT indexdef FROM pg_indexes WHERE indexname LIKE 'ix_starsessions_%'").fetchall()
        client.execute("ALTER TABLE starsessions DROP CONSTRAINT starsessions_pkey")
        client.execute("DROP INDEX ix_starsessions_expires_at, ix_starsessions_owner")
        for what, count, expires_at in (("dead", dead, f"(n - {dead}) / 20 - 3600"), ("live", LIVE, "86400 + n / 20")):
            for first in range(1, count + 1, 500_000):
                last = min(first + 500_000 - 1, count)
                client.execute(rows.format(what=what, expires_at=expires_at, first=first, last=last))  # type: ignore[call-overload]
        client.execute("SET maintenance_work_mem = '1GB'")
        client.execute("ALTER TABLE starsessions ADD PRIMARY KEY (key)")
        for (index,) in indexes:
            client.execute(index)
        client.execute("VACUUM ANALYZE starsessions")
        client.execute("CHECKPOINT")


async def sweep(url: str, share: float, seconds: float) -> None:
    backend = SQLAlchemyBackend(url, timeout=60)
    print("begins", flush=True)
    async with backend.lifespan():
        done = await sweep_all(backend.store, share=share, timeout=seconds)
    print(done.removed, int(done.timed_out))


@asynccontextmanager
async def sweeping(url: str, share: float, seconds: float) -> AsyncIterator[Callable[[], Awaitable[Swept]]]:
    """Run `sweep` in another process, which has begun. The function waits for its end."""
    command = [sys.executable, "-m", "benchmarks.cleanup", "--sweep", url, "--share", str(share)]
    process = await asyncio.create_subprocess_exec(*command, "--phase", str(seconds), stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await process.stdout.readline()

    async def ended() -> Swept:
        removed, timed_out = (await process.communicate())[0].split()
        return Swept(int(removed), timed_out == b"1")

    yield ended


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/write":
        scope["session"]["n"] = scope["session"].get("n", 0) + 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Visitors:
    """Browsers with a session each."""

    def __init__(self, backend: SQLAlchemyBackend, rate: float) -> None:
        self.app = SessionMiddleware(app, backend=backend, autoload=True)
        self.rate = rate
        self.cookies: list[bytes] = []

    async def visit(self, path: str, cookie: bytes = b"") -> bytes:
        answers: list[Any] = []

        async def send(message: Any) -> None:
            answers.append(message)

        headers = [(b"cookie", cookie)] if cookie else []
        scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "scheme": "http", "headers": headers}
        await self.app(scope, no_body, send)
        return next((value for name, value in answers[0]["headers"] if name == b"set-cookie"), b"").split(b";")[0]

    async def come(self) -> None:
        self.cookies = [await self.visit("/write") for _ in range(VISITORS)]

    async def click(self, seconds: float) -> list[float]:
        """Send requests at the rate, whether or not those before are answered. Return how long each took, in ms."""
        took: list[float] = []

        async def one(n: int, at: float) -> None:
            await asyncio.sleep(at - time.perf_counter())
            await self.visit("/write" if n % 5 == 0 else "/read", self.cookies[n % VISITORS])
            took.append((time.perf_counter() - at) * 1000)

        began = time.perf_counter() + 0.1
        await asyncio.gather(*(one(n, began + n / self.rate) for n in range(int(self.rate * seconds))))
        return took


async def no_body() -> Any:
    return {"type": "http.request", "body": b""}


def p99(took: list[float]) -> float:
    return statistics.quantiles(took, n=100)[98]


def shown(name: str, phases: list[list[float]]) -> str:
    """Return the median over the phases, so that one in which the machine did something else does not decide."""
    p50 = statistics.median(statistics.median(took) for took in phases)
    return f"{name}: p50 {p50:.1f} ms, p99 {statistics.median(map(p99, phases)):.1f} ms"


async def measure(server: PostgresServer, asked: argparse.Namespace) -> None:
    url = server.address.over("asyncpg")
    backend = SQLAlchemyBackend(url, timeout=60)
    await backend.create_table()
    began = time.monotonic()
    await asyncio.to_thread(fill, server, asked.rows)
    print(f"{asked.rows} dead rows and {LIVE} live ones, written in {time.monotonic() - began:.0f} s", flush=True)
    took: dict[float, list[list[float]]] = {share: [] for share in (0, *asked.share)}
    removed: dict[float, int] = dict.fromkeys(asked.share, 0)
    async with backend.lifespan():
        visitors = Visitors(backend, asked.rate)
        await visitors.come()
        await visitors.click(5)
        for _ in range(asked.turns):
            took[0].append(await visitors.click(asked.phase))
            for share in asked.share:
                async with sweeping(url, share, asked.phase) as ended:
                    took[share].append(await visitors.click(asked.phase))
                    swept = await ended()
                removed[share] += swept.removed
                assert swept.timed_out, "take more rows: nothing was left to remove while requests were measured"
    print(shown("without", took[0]))
    for share in asked.share:
        ratios = [p99(with_it) / p99(without) for with_it, without in zip(took[share], took[0], strict=True)]
        rate = removed[share] / asked.turns / asked.phase
        print(f"{shown(f'{share:g} of the time', took[share])}; {rate:.0f} rows a second")
        print(
            f"    p99, by that without: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--share", type=float, default=[0.25, 0.5], nargs="+", help="of the time, to compare")
    parser.add_argument("--phase", type=float, default=10, help="seconds")
    parser.add_argument("--turns", type=int, default=8, help="phases without, and with each share")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--sweep", help="the database, for the process that sweeps")
    asked = parser.parse_args()
    if asked.sweep:
        asyncio.run(sweep(asked.sweep, asked.share[0], asked.phase))
        return
    with postgres.server(durable=True, settings=SETTINGS) as server:
        asyncio.run(measure(server, asked))


if __name__ == "__main__":
    main()
