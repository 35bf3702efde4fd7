"""A backend of your own: say how to read, write, remove and look for a session, and the library does the rest.

    python -m uvicorn custom_backend:app --app-dir examples

Here the sessions live in a dict. They are gone at the next start, and they pile up, since nobody removes those that
have ended: `starsessions.InMemoryBackend` does better, this one is for reading.

The `data` that comes to `write` holds one key more than the handlers see: the times of the session. Keep it, and the
middleware keeps the deadlines.
"""

from typing import Any, cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starsessions import Session, SessionBackend, SessionMiddleware


class DictBackend(SessionBackend):
    def __init__(self) -> None:
        self.sessions: dict[str, dict[str, Any]] = {}

    async def read(self, session_id: str) -> dict[str, Any]:
        return self.sessions.get(session_id, {})

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        session_id = session_id or await self.generate_id()
        self.sessions[session_id] = data
        return session_id

    async def remove(self, session_id: str) -> None:
        self.sessions.pop(session_id, None)

    async def exists(self, session_id: str) -> bool:
        return session_id in self.sessions


async def count(request: Request) -> Response:
    # Storage may have to be waited for. Without autoload it is asked only where somebody awaits the answer.
    session = cast(Session, request.session)  # Starlette only promises a dict
    await session.load()
    session["visits"] = session.get("visits", 0) + 1
    return PlainTextResponse(f"Visit {session['visits']}\n")


app = Starlette(routes=[Route("/", count)], middleware=[Middleware(SessionMiddleware, backend=DictBackend())])
