"""An application of one handler and the browsers that visit it, without a server: what the tests of the shell need."""

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.lowlevel

from starsessions import CookieBackend, Session, SessionBackend, SessionMiddleware
from starsessions.testing import Clock

Act = Callable[[Session], Any]
Headers = list[tuple[bytes, bytes]]

KEY = "0123456789abcdefghijklmnopqrstuvwxyzABCDEF"


class DictBackend(SessionBackend):
    """The twenty lines of the README."""

    def __init__(self) -> None:
        self._storage: dict[str, dict[str, Any]] = {}

    async def read(self, session_id: str) -> dict[str, Any]:
        return self._storage.get(session_id, {})

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        session_id = session_id or await self.generate_id()
        self._storage[session_id] = data
        return session_id

    async def remove(self, session_id: str) -> None:
        del self._storage[session_id]

    async def exists(self, session_id: str) -> bool:
        return session_id in self._storage


@dataclass
class Reply:
    messages: list[MutableMapping[str, Any]]
    result: Any = None

    @property
    def headers(self) -> Headers:
        return list(self.messages[0].get("headers", ())) if self.messages else []

    def all(self, name: str) -> list[str]:
        return [value.decode() for key, value in self.headers if key.decode().lower() == name]

    @property
    def set_cookies(self) -> list[str]:
        return self.all("set-cookie")

    @property
    def set_cookie(self) -> str:
        [only] = self.set_cookies
        return only


@dataclass
class Browser:
    """Holds cookies. Takes what it is given, and forgets what it is told to forget."""

    cookies: dict[str, str] = field(default_factory=dict)
    scheme: str = "http"

    def header(self) -> Headers:
        text = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return [(b"cookie", text.encode())] if text else []

    def take(self, reply: Reply) -> None:
        for cookie in reply.set_cookies:
            name, _, rest = cookie.partition("=")
            if "; Max-Age=0;" in cookie:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = rest.partition(";")[0]


def by_the_clock(clock: Clock | None = None, **settings: Any) -> dict[str, Any]:
    """The settings of a middleware whose backend has this clock."""
    if clock is not None:
        if settings.get("backend") is None:
            settings["backend"] = CookieBackend(settings.pop("secret_key"))
        settings["backend"].clock = clock
    return settings


def _nothing(session: Session) -> None:
    pass


@dataclass
class _Visit:
    act: Act
    after: Act = _nothing
    result: Any = None


class Site:
    """`await site.visit(act)`: one request, whose handler calls `act(session)` before it answers.

    Several visits can be made at once. For requests that are made in another way, `act` says what the handler does.
    """

    def __init__(self, **settings: Any) -> None:
        self.browser = Browser()
        self.act: Act = _nothing
        self.response: Headers = [(b"content-type", b"text/plain")]
        self.app = SessionMiddleware(self.handle, **by_the_clock(**settings))

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        visit = scope.get("visit") or _Visit(self.act)
        result = await _called(visit.act, session)
        await send({"type": "http.response.start", "status": 200, "headers": list(self.response)})
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await _called(visit.after, session)
        await send({"type": "http.response.body", "body": b""})
        visit.result = result

    async def visit(
        self, act: Act | None = None, browser: Browser | None = None, after: Act | None = None, **scope: Any
    ) -> Reply:
        browser = browser or self.browser
        visit = _Visit(act or _nothing, after or _nothing)
        scope = {
            "visit": visit,
            "type": "http",
            "method": "GET",
            "path": "/",
            "root_path": "",
            "scheme": browser.scheme,
            "headers": browser.header(),
            **scope,
        }
        reply = await call(self.app, scope)
        reply.result = visit.result
        browser.take(reply)
        return reply

    async def data(self, browser: Browser | None = None) -> dict[str, Any]:
        """What the session holds for this browser: read in a request of its own."""
        reply = await self.visit(load_copy, browser)
        assert isinstance(reply.result, dict)
        return reply.result


async def settled() -> None:
    """Wait until all tasks wait for something.

    On asyncio, anyio looks ten times a second whether they do. So they have their turns before it looks.
    """
    for _ in range(20):
        await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()


async def load_copy(session: Session) -> dict[str, Any]:
    await session.load()
    return session.copy()


async def _called(act: Act, session: Session) -> Any:
    result = act(session)
    return await result if inspect.isawaitable(result) else result


async def call(app: Callable[..., Awaitable[None]], scope: MutableMapping[str, Any]) -> Reply:
    messages: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: MutableMapping[str, Any]) -> None:
        messages.append(message)

    await app(scope, receive, send)
    return Reply(messages)
