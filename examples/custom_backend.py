"""A custom backend: implement read, write, remove and exists, and the library does the rest.

    python -m uvicorn custom_backend:app --app-dir examples

This one stores sessions in a dict. They are lost at a restart, and expired ones are never removed. It is an example
to read: in an application, use `starsessions.InMemoryBackend`.

The `data` passed to `write` has one key more than handlers see: the session's times. Store it, and the middleware
enforces the timeouts.
"""

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starsessions import SessionBackend, SessionMiddleware, load_session


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
    # Loading may need I/O, so it is awaited. Without autoload, only the handlers that call it load the session.
    session = await load_session(request)
    session["visits"] = session.get("visits", 0) + 1
    return PlainTextResponse(f"Visit {session['visits']}\n")


app = Starlette(routes=[Route("/", count)], middleware=[Middleware(SessionMiddleware, backend=DictBackend())])
