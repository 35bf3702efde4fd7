"""Measure the overhead of a session over the bare ASGI app, next to Starlette's own SessionMiddleware.

    python benchmarks/overhead.py             # the table
    python benchmarks/overhead.py --check     # exit 1 if a mark is missed
    python benchmarks/overhead.py --profile "signed, write"

No server and no event loop: the app's coroutine is driven by hand, so that the numbers are those of the middleware.
Each figure is the best of many rounds in which all contestants take turns; only their ratios count. The
floor is a signed cookie with the same tools and without a middleware's duties: see `benchmarks/floor.py`.
"""

import argparse
import cProfile
import gc
import sys
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.middleware.sessions import SessionMiddleware as StarletteSessions

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it can be started by its path

import starsessions
from benchmarks.floor import Floor
from starsessions import CookieBackend, EncryptedCookieBackend, InMemoryBackend, SessionMiddleware, users

Message = MutableMapping[str, Any]
App = Callable[..., Any]

KEY = "0123456789abcdef0123456789ABCDEF"
BODY = {"type": "http.response.body", "body": b"ok"}
DATA = {
    "user_id": 42,
    "cart": [{"sku": "abc", "n": 1}, {"sku": "def", "n": 2}],
    "csrf": "x" * 40,
    "visits": 3,
    "theme": "dark",
}
BROWSER = [
    (b"host", b"example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
    (b"accept", b"text/html,application/xhtml+xml"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate"),
]


def start() -> Message:
    # A new list each time: Starlette's middleware appends to the list that it gets.
    headers = [(b"content-length", b"2"), (b"content-type", b"text/plain")]
    return {"type": "http.response.start", "status": 200, "headers": headers}


async def untouched(scope: Message, receive: Any, send: Any) -> None:
    await send(start())
    await send(BODY)


async def read(scope: Message, receive: Any, send: Any) -> None:
    session = scope["session"]
    session.mark_accessed()  # as Starlette's request.session does
    assert session["user_id"] == 42
    await send(start())
    await send(BODY)


async def write(scope: Message, receive: Any, send: Any) -> None:
    session = scope["session"]
    session.mark_accessed()
    session["visits"] = session["visits"] + 1
    await send(start())
    await send(BODY)


async def nested_write(scope: Message, receive: Any, send: Any) -> None:
    session = scope["session"]
    session.mark_accessed()
    session["cart"][0]["n"] += 1
    if not isinstance(session, starsessions.Session):
        session.mark_modified()
    await send(start())
    await send(BODY)


async def sign_in(scope: Message, receive: Any, send: Any) -> None:
    session = scope["session"]
    session.mark_accessed()
    if isinstance(session, starsessions.Session):
        await users.sign_in(session, "ann")
    else:
        session["user_id"] = "ann"
    await send(start())
    await send(BODY)


async def fill(scope: Message, receive: Any, send: Any) -> None:
    scope["session"].mark_accessed()
    scope["session"].update(DATA)
    await send(start())
    await send(BODY)


def run(app: App, cookie: bytes | None) -> list[Message]:
    """Run one request to its end, and return the messages that were sent."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [*BROWSER, (b"cookie", b"theme=dark; " + cookie)] if cookie else list(BROWSER)
    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "scheme": "https", "headers": headers}
    drive(app(scope, None, send))
    return sent


def drive(coroutine: Any) -> None:
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("waited for something")


def cookie_of(sent: list[Message]) -> bytes:
    for name, value in sent[0]["headers"]:
        if name.lower() == b"set-cookie":
            return bytes(value.partition(b";")[0])
    raise RuntimeError("no cookie was set")


@dataclass
class Case:
    name: str
    handler: App
    ours: Callable[[App], App]
    with_cookie: bool
    mark: float

    def contestants(self) -> dict[str, Callable[[int], float]]:
        def theirs(app: App) -> App:
            return StarletteSessions(app, KEY)

        def floor(app: App) -> App:
            return Floor(app, KEY)

        cookies = {wrap: cookie_of(run(wrap(fill), None)) if self.with_cookie else None for wrap in (theirs, self.ours)}
        # The handlers of the bare app have a session, too: a dict.
        return {
            "bare": timed(bare(self.handler), cookies[theirs]),
            "theirs": timed(theirs(self.handler), cookies[theirs]),
            "ours": timed(self.ours(self.handler), cookies[self.ours]),
            "floor": timed(floor(self.handler), cookies[theirs]),
        }


class Plain(dict[str, Any]):
    def mark_accessed(self) -> None:
        pass

    def mark_modified(self) -> None:
        pass


def bare(handler: App) -> App:
    if handler is untouched:
        return handler
    ready = Plain(DATA)

    async def app(scope: Message, receive: Any, send: Any) -> None:
        scope["session"] = ready
        await handler(scope, receive, send)

    return app


async def swallow(message: Message) -> None:
    pass


def timed(app: App, cookie: bytes | None) -> Callable[[int], float]:
    headers = [*BROWSER, (b"cookie", b"theme=dark; " + cookie)] if cookie else list(BROWSER)
    base = {"type": "http", "method": "GET", "path": "/", "root_path": "", "scheme": "https", "headers": headers}

    def measure(times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            drive(app(dict(base), None, swallow))  # and then it is freed, as in a server
        return (time.perf_counter() - started) / times * 1e6

    return measure


def ours(**settings: Any) -> Callable[[App], App]:
    def wrap(app: App) -> App:
        return SessionMiddleware(app, autoload=True, **settings)

    return wrap


def encrypted(app: App) -> App:
    return SessionMiddleware(app, backend=EncryptedCookieBackend(KEY), autoload=True)


MEMORY = InMemoryBackend()

CASES = [
    Case("untouched, no cookie", untouched, ours(secret_key=KEY), False, 0.5),
    Case("untouched, cookie", untouched, ours(secret_key=KEY), True, 0.1),
    Case("signed, read", read, ours(secret_key=KEY), True, 0.4),
    Case("signed, write", write, ours(secret_key=KEY), True, 0.35),
    Case("signed, nested write", nested_write, ours(secret_key=KEY), True, 0.9),
    Case("signed, sign in", sign_in, ours(backend=CookieBackend(KEY, allow_unrevocable=True)), True, 1.7),
    Case("encrypted, read", read, encrypted, True, 0.4),
    Case("encrypted, write", write, encrypted, True, 0.35),
    Case("memory, read", read, ours(backend=MEMORY), True, 0.4),
    Case("memory, write", write, ours(backend=MEMORY), True, 0.35),
]


def in_turns(contestants: dict[str, Callable[[int], float]], rounds: int, times: int) -> dict[str, float]:
    """Return the best result of each, in µs."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    gc.collect()
    gc.disable()
    for _ in range(rounds):
        for name, one in contestants.items():
            taken[name].append(one(times))
    gc.enable()
    return {name: min(values) for name, values in taken.items()}


def encrypted_over_signed(handler: App, rounds: int, times: int) -> float:
    """Compare an encrypted cookie with a signed one."""
    signed = ours(secret_key=KEY)
    contestants = {"bare": timed(bare(handler), b"session=x")}
    for name, wrap in {"signed": signed, "encrypted": encrypted}.items():
        contestants[name] = timed(wrap(handler), cookie_of(run(wrap(fill), None)))
    took = in_turns(contestants, rounds, times)
    return (took["encrypted"] - took["bare"]) / (took["signed"] - took["bare"])


def memory_growth(few: int = 1_000, many: int = 1_000_000, rounds: int = 15, times: int = 2_000) -> float:
    """Return how much more an operation (read and write) costs among many sessions than among few."""
    import asyncio
    import random

    async def filled(size: int) -> tuple[InMemoryBackend, list[str]]:
        backend = InMemoryBackend()
        return backend, [await backend.write(DATA) for _ in range(size)]

    pools = {size: asyncio.run(filled(size)) for size in (few, many)}
    chance = random.Random(1)
    taken: dict[int, list[float]] = {few: [], many: []}
    gc.collect()
    gc.freeze()
    for _ in range(rounds):
        for size, (backend, ids) in pools.items():
            app = SessionMiddleware(write, backend=backend, autoload=True)
            scopes = [
                {"type": "http", "root_path": "", "scheme": "http", "headers": [(b"cookie", f"session={one}".encode())]}
                for one in chance.choices(ids, k=times)
            ]
            started = time.perf_counter()
            for scope in scopes:
                drive(app(scope, None, swallow))
            taken[size].append((time.perf_counter() - started) / times * 1e6)
    best = {size: min(values) for size, values in taken.items()}
    print(f"\nmemory backend, read and write: {best[few]:.2f} µs among {few:,}, {best[many]:.2f} µs among {many:,}")
    return best[many] / best[few]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail if a mark is missed")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--times", type=int, default=1000, help="requests per contestant and round")
    parser.add_argument("--profile", metavar="CASE", help="profile one case instead")
    options = parser.parse_args()
    if options.profile:
        [case] = [case for case in CASES if case.name == options.profile]
        one = case.contestants()["ours"]
        with cProfile.Profile() as profile:
            one(50_000)
        profile.print_stats("tottime")
        return 0

    print(
        f"Python {sys.version.split()[0]}, starsessions {starsessions.__version__}. Overhead over the bare app, µs.\n"
    )
    print(f"{'case':24}{'bare':>8}{'theirs':>9}{'floor':>9}{'ours':>9}{'floor':>8}{'ratio':>8}{'mark':>7}")
    missed = 0
    for case in CASES:
        took = in_turns(case.contestants(), options.rounds, options.times)
        theirs, mine, floor = (took[name] - took["bare"] for name in ("theirs", "ours", "floor"))
        ratio = mine / theirs
        missed += ratio > case.mark
        figures = f"{took['bare']:8.2f}{theirs:9.2f}{floor:9.2f}{mine:9.2f}"
        figures += f"{floor / theirs:8.2f}{ratio:8.2f}{case.mark:7.2f}"
        print(f"{case.name:24}{figures}{' MISSED' * (ratio > case.mark)}")
    for kind in (read, write):
        ratio = encrypted_over_signed(kind, options.rounds, options.times)
        missed += ratio > 1
        print(f"encrypted / signed, {kind.__name__}: {ratio:.2f} (mark 1.00){' MISSED' * (ratio > 1)}")
    growth = memory_growth()
    missed += growth > 1.3
    print(f"ratio {growth:.2f} (mark 1.30){' MISSED' * (growth > 1.3)}")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
