"""The measured cases: data, handlers, and requests to them, without a server."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from json import dumps
from typing import Any

from benchmarks.asgi import App, Scope
from benchmarks.contestants import Contestant

Headers = list[tuple[bytes, bytes]]
Act = Callable[[Contestant, Scope], Awaitable[Any]]

AT_ONCE = 50
SIZES = {"signed": (150, 2048), "encrypted": (150, 2048)}
"""Sizes of a session in bytes of JSON. A cookie has to fit into 4096 bytes, including base64."""
SIZES_ON_A_SERVER = (150, 4096, 65536)

BODY = {"type": "http.response.body", "body": b"ok"}
BROWSER = [
    (b"host", b"example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"),
    (b"accept", b"text/html,application/xhtml+xml"),
    (b"accept-language", b"en-US,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate"),
]


def data_of(size: int) -> dict[str, Any]:
    """Return a session of about `size` bytes: a user, and a cart with as many lines as needed."""
    chance = random.Random(size)
    cart: list[dict[str, Any]] = [{"sku": "abc", "n": 1}, {"sku": "def", "n": 2}]
    data = {"user_id": 42, "cart": cart, "csrf": "x" * 40, "visits": 3, "theme": "dark"}
    missing = size - len(dumps(data, separators=(",", ":")))
    while missing > 40:
        title = f"{chance.randbytes(min(30, (missing - 36) // 2)).hex()}"
        cart.append({"sku": f"{chance.randrange(10**6):06}", "n": 1, "title": title})
        missing -= len(dumps(cart[-1], separators=(",", ":"))) + 1
    return data


# --- handlers ---------------------------------------------------------------------------------------------------------


async def untouched(contestant: Contestant, scope: Scope) -> None:
    pass


async def read(contestant: Contestant, scope: Scope) -> None:
    session = await contestant.load(scope)
    assert session["user_id"] == 42


async def write(contestant: Contestant, scope: Scope) -> None:
    session = await contestant.load(scope)
    session["visits"] = session["visits"] + 1


async def nested_write(contestant: Contestant, scope: Scope) -> None:
    session = await contestant.load(scope)
    session["cart"][0]["n"] += 1
    contestant.notice(session)


async def sign_in(contestant: Contestant, scope: Scope) -> None:
    await contestant.sign_in(scope)


@dataclass(frozen=True)
class Case:
    name: str
    act: Act
    cookie: str = "known"
    """Who sends the requests: no session ("none"), a signed-in user ("known"), or a new visitor each time ("new")."""


CASES = {
    case.name: case
    for case in (
        Case("no cookie", untouched, "none"),
        Case("untouched", untouched),
        Case("read", read),
        Case("write", write),
        Case("nested write", nested_write),
        Case("sign in", sign_in, "new"),
    )
}


def fill_with(data: dict[str, Any]) -> Act:
    async def fill(contestant: Contestant, scope: Scope) -> None:
        session = await contestant.load(scope)
        for key, value in data.items():
            session[key] = value

    return fill


# --- requests ---------------------------------------------------------------------------------------------------------


def handled_by(contestant: Contestant, act: Act) -> App:
    async def handle(scope: Scope, receive: Any, send: Any) -> None:
        await act(contestant, scope)
        # A new list each time: some middlewares append to the list that they get.
        headers = [(b"content-length", b"2"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(BODY)

    return handle


def scope_with(headers: Headers) -> Scope:
    return {
        "type": "http",
        "method": "GET",
        "path": "/",
        "root_path": "",
        "scheme": "https",
        "query_string": b"",
        "headers": headers,
    }


async def receive() -> Any:
    return {"type": "http.request", "body": b""}


async def swallow(message: Any) -> None:
    pass


@dataclass
class Browser:
    """A browser: stores the cookies that responses set, and removes those that they clear."""

    cookies: dict[bytes, bytes] = field(default_factory=dict)
    told: int = 0
    """The number of `Set-Cookie` headers received, and their bytes."""
    bytes_told: int = 0

    @property
    def headers(self) -> Headers:
        text = b"; ".join(b"%s=%s" % pair for pair in self.cookies.items())
        return [*BROWSER, (b"cookie", b"lang=en; " + text)] if text else list(BROWSER)

    async def take(self, message: Any) -> None:
        for name, value in message.get("headers", ()) if message["type"] == "http.response.start" else ():
            if name.lower() == b"set-cookie":
                self.told += 1
                self.bytes_told += len(value)
                key, _, rest = value.partition(b"=")
                lower = rest.lower()
                if b"max-age=0" in lower or b"01 jan 1970" in lower:
                    self.cookies.pop(key, None)
                else:
                    self.cookies[key] = rest.partition(b";")[0]


def drive(coroutine: Any) -> None:
    """Run a coroutine that never waits, to its end."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("waited for something")


async def timed(app: App, requests: Iterable[Headers], at_once: int, by_hand: bool) -> float:
    """Return the seconds for all requests. Each scope is made for its request, and then freed, as in a server."""
    started = time.perf_counter()
    if at_once > 1:
        requests = iter(requests)
        while batch := list(islice(requests, at_once)):
            await asyncio.gather(*[app(scope_with(headers), receive, swallow) for headers in batch])
    elif by_hand:
        for headers in requests:
            drive(app(scope_with(headers), receive, swallow))
    else:
        for headers in requests:
            await app(scope_with(headers), receive, swallow)
    return time.perf_counter() - started


class Stage:
    """A contestant that is ready, and the browsers that visit it."""

    def __init__(self, contestant: Contestant, size: int) -> None:
        self.contestant = contestant
        self.data = data_of(size)
        self.known: list[Browser] = []

    async def visit(self, act: Act, browser: Browser | None = None) -> Browser:
        browser = browser or Browser()
        app = self.contestant.wrap(handled_by(self.contestant, act))
        await app(scope_with(browser.headers), receive, browser.take)
        return browser

    async def prepare(self) -> None:
        if self.contestant.is_a_library:
            self.known = [await self.visit(fill_with(self.data)) for _ in range(AT_ONCE)]
        else:
            await self.contestant.prepare(self.data, AT_ONCE)
            self.known = [Browser()]

    async def requests(self, case: Case, times: int) -> Iterator[Headers]:
        """Return the headers of `count` requests."""
        if case.cookie == "none":
            return islice(cycle([list(BROWSER)]), times)
        if case.cookie == "known":
            return islice(cycle([browser.headers for browser in self.known]), times)
        anonymous = fill_with({key: value for key, value in self.data.items() if key != "user_id"})
        holds_nothing = self.contestant.kind in SIZES  # a cookie can be used repeatedly
        return islice(
            cycle([(await self.visit(anonymous)).headers for _ in range(1 if holds_nothing else times)]), times
        )
