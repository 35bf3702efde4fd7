"""Read by mypy, pyright and ty, never run: a backend, an id format and a serializer of one's own."""

import json
import uuid
from typing import Any, assert_type

from starlette.applications import Starlette
from starlette.middleware import Middleware

from starsessions import CookieBackend, InMemoryBackend, Serializer, Session, SessionBackend, SessionMiddleware


class DictBackend(SessionBackend):
    def __init__(self) -> None:
        self._storage: dict[str, dict[str, Any]] = {}

    async def read(self, session_id: str) -> dict[str, Any]:
        return self._storage.get(session_id, {})

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        session_id = session_id or await self.generate_id()
        assert_type(session_id, str)
        self._storage[session_id] = data
        return session_id

    async def remove(self, session_id: str) -> None:
        del self._storage[session_id]

    async def exists(self, session_id: str) -> bool:
        return session_id in self._storage


class WithUuids(DictBackend):
    async def generate_id(self) -> str:
        return str(uuid.uuid4())

    def is_well_formed(self, session_id: str) -> bool:
        return super().is_well_formed(session_id) and len(session_id) == 36


class MemoryWithUuids(InMemoryBackend):
    async def generate_id(self) -> str:
        return str(uuid.uuid4())


class Json:
    def dumps(self, data: dict[str, Any], /) -> bytes:
        return json.dumps(data).encode()

    def loads(self, payload: bytes, /) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(payload)
        return data


serializer: Serializer = Json()

app = Starlette(
    middleware=[
        Middleware(SessionMiddleware, backend=DictBackend(), autoload=True),
        Middleware(SessionMiddleware, backend=WithUuids(), session_cookie="other"),
        Middleware(SessionMiddleware, backend=MemoryWithUuids(serializer=Json()), session_cookie="third"),
        Middleware(SessionMiddleware, backend=CookieBackend("a key", serializer=serializer), session_cookie="fourth"),
    ]
)


async def by_hand() -> str:
    session = Session(DictBackend(), "session_id")
    await session.load()
    session["key"] = "value"
    return await session.persist()
