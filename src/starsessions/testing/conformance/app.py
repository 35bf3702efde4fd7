"""An application with one handler, called without a server, to observe a backend as a browser does."""

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from starsessions.backends.base import SessionBackend
from starsessions.middleware import SessionMiddleware
from starsessions.session import Session
from starsessions.testing.clock import Clock

Act = Callable[[Session], Awaitable[Any]]
"""The work of a handler before it responds."""


@dataclass(frozen=True)
class Answer:
    """The outcome of a request."""

    result: Any
    """The return value of the handler."""

    token: str | None
    """The new value of the cookie; "" if it was cleared, and None if it was left alone."""


class Site:
    """An application. `await site.visit(token, act)` sends a request with this cookie; its handler runs `act(session)`.

    >>> import anyio
    >>> from starsessions import InMemoryBackend
    >>> async def count(session):
    ...     await session.load()
    ...     session["visits"] = session.get("visits", 0) + 1
    >>> async def main():
    ...     site = Site(InMemoryBackend(), Clock())
    ...     answer = await site.visit(None, count)
    ...     return await site.data(answer.token)
    >>> anyio.run(main)
    {'visits': 1}
    """

    def __init__(self, backend: SessionBackend, clock: Clock, **settings: Any) -> None:
        self._cookie_name: str = settings.get("session_cookie", "session")
        backend.clock = clock
        self.app: SessionMiddleware = SessionMiddleware(_handle, backend=backend, **settings)

    async def visit(self, token: str | None, act: Act) -> Answer:
        """Send a request with this cookie, and return its outcome."""
        cookie = [] if token is None else [(b"cookie", f"{self._cookie_name}={token}".encode())]
        messages: list[MutableMapping[str, Any]] = []
        results: list[Any] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            messages.append(message)

        async def handle(session: Session) -> None:
            results.append(await act(session))

        scope = {"type": "http", "scheme": "http", "headers": cookie, "starsessions.testing.handle": handle}
        await self.app(scope, _nothing, send)
        status = messages[0]["status"]
        assert status == 200, f"the response to a request was {status}, because the backend failed"
        [said] = [value for name, value in messages[0]["headers"] if name == b"set-cookie"] or [None]
        return Answer(results[0], _token(said))

    async def data(self, token: str | None) -> dict[str, Any]:
        """Return the session data that a request with this token finds."""
        seen: dict[str, Any] = (await self.visit(token, _copied)).result
        return seen


async def _copied(session: Session) -> dict[str, Any]:
    await session.load()
    return session.copy()


async def _handle(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await scope["starsessions.testing.handle"](scope["session"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _nothing() -> MutableMapping[str, Any]:
    return {"type": "http.request", "body": b""}


def _token(set_cookie: bytes | None) -> str | None:
    if set_cookie is None:
        return None
    value, *attributes = set_cookie.decode().partition("=")[2].split("; ")
    return "" if "Max-Age=0" in attributes else value
