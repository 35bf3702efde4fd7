"""Compare a request here with the same request in another checkout, in turns: what has a change cost?

    git worktree add --detach ../before 771be14
    python benchmarks/turns.py ../before

Each round runs both in processes of their own, one after the other; the figure is the best round. An application and a
server are left out, so this is the overhead of the middleware alone. On a busy machine take more `--rounds`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEY = "0123456789abcdef0123456789ABCDEF"
DATA = {"user_id": 42, "cart": [{"sku": "abc", "n": 1}], "visits": 3, "theme": "dark"}
BROWSER = [(b"host", b"example.com"), (b"user-agent", b"Mozilla/5.0"), (b"accept", b"text/html")]
HEADERS = [(b"content-length", b"2"), (b"content-type", b"text/plain")]

Handler = Callable[[Any], None]


def untouched(session: Any) -> None:
    pass


def read(session: Any) -> None:
    session.mark_accessed()  # as Starlette's request.session does
    session["user_id"]


def write(session: Any) -> None:
    session.mark_accessed()
    session["visits"] = session["visits"] + 1


def fill(session: Any) -> None:
    session.mark_accessed()
    session.update(DATA)


def middlewares() -> Iterator[tuple[str, Any]]:
    from starsessions import EncryptedCookieBackend, InMemoryBackend, SessionMiddleware

    async def no_app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError

    yield "signed", SessionMiddleware(no_app, secret_key=KEY, autoload=True)
    yield "encrypted", SessionMiddleware(no_app, backend=EncryptedCookieBackend(KEY), autoload=True)
    yield "memory", SessionMiddleware(no_app, backend=InMemoryBackend(), autoload=True)


def request(middleware: Any, handler: Handler, cookie: bytes, sent: list[Any] | None = None) -> Callable[[], None]:
    """Return what drives one request to its end: there is nothing to wait for."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        handler(scope["session"])
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": b"ok"})

    async def send(message: Any) -> None:
        if sent is not None:
            sent.append(message)

    headers = [*BROWSER, (b"cookie", b"theme=dark; " + cookie)]
    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "scheme": "https", "headers": headers}

    def run() -> None:
        middleware.app = app
        work = middleware(dict(scope), None, send)
        while True:
            try:
                work.send(None)
            except StopIteration:
                return

    return run


def measure() -> dict[str, float]:
    """Return the microseconds of each case."""
    figures = {}
    for kind, middleware in middlewares():
        sent: list[Any] = []
        request(middleware, fill, b"", sent)()
        cookie = dict(sent[0]["headers"])[b"set-cookie"].partition(b";")[0]
        for handler in (untouched, read, write):
            run = request(middleware, handler, cookie)
            figures[f"{kind}, {handler.__name__}"] = min(_timed(run) for _ in range(40))
    return figures


def _timed(run: Callable[[], None], times: int = 200) -> float:
    begins = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - begins) / times * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    best: dict[str, dict[str, float]] = {}
    for _ in range(arguments.rounds):
        for side, checkout in (("before", arguments.before), ("now", ROOT)):
            environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src"), "STARSESSIONS_MEASURE": "1"}
            printed = subprocess.run(
                [sys.executable, __file__], env=environment, check=True, capture_output=True, text=True
            ).stdout
            for case, figure in json.loads(printed).items():
                figures = best.setdefault(case, {})
                figures[side] = min(figure, figures.get(side, figure))
    for case, figures in best.items():
        before, now = figures["before"], figures["now"]
        print(f"{case:22} {before:6.2f} µs before, {now:6.2f} now: {now / before:.2f}")


if __name__ == "__main__":
    if os.environ.get("STARSESSIONS_MEASURE"):
        print(json.dumps(measure()))
    else:
        main()
