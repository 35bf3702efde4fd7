"""The contestants: how each library is configured, and how handlers use it.

Each contestant has its own environment in `.venv/bench/`, because two of them have the same import name. All of these
environments import this module, so it imports contestants only when they are used.

Left out: starlette-session and starlette-session-middleware need Starlette below 1.0; fastapi-sessions is of 2021 and
keeps sessions in memory only; fastapi-redis-session is not a middleware: it has no session object per request to
change, and opens a connection for each request.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Any

from benchmarks.asgi import App, Scope

KEY = "0123456789abcdef0123456789ABCDEF"
USERS = count(1000)  # each signs in once, so that no user has many sessions
COOKIES = ("signed", "encrypted")
KINDS = (*COOKIES, "memory", "redis", "sqlite", "postgres")


class Contestant:
    """One library with one kind of storage."""

    name: str
    environment = "ours"
    kinds: tuple[str, ...]
    is_a_library = True
    """False for the bare client, which only shows the cost of the storage itself."""

    def __init__(self, kind: str, urls: dict[str, str]) -> None:
        self.kind = kind
        self.url = urls.get(kind, "")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        yield

    def wrap(self, app: App) -> App:
        raise NotImplementedError

    async def prepare(self, data: dict[str, Any], sessions: int) -> None:
        """Create a session directly, for a contestant that is not a library and cannot be visited."""

    # What a handler does.

    async def load(self, scope: Scope) -> Any:
        return scope["session"]

    def notice(self, session: Any) -> None:
        """Report a nested change, where the library needs that."""

    async def sign_in(self, scope: Scope) -> None:
        (await self.load(scope))["user_id"] = next(USERS)

    async def sign_out(self, scope: Scope) -> None:
        (await self.load(scope)).clear()


class Ours(Contestant):
    name = "ours"
    kinds = KINDS

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        from starsessions import CookieBackend, EncryptedCookieBackend, InMemoryBackend

        async with AsyncExitStack() as stack:
            if self.kind == "redis":
                from redis.asyncio import Redis

                from starsessions.backends.redis import RedisBackend

                self.client = await stack.enter_async_context(Redis.from_url(self.url))
                self.backend: Any = RedisBackend(self.client)
            elif self.kind in ("sqlite", "postgres"):
                from starsessions.backends.sqlalchemy import SQLAlchemyBackend

                self.backend = SQLAlchemyBackend(self.url)
                await self.backend.create_table()
            elif self.kind == "memory":
                self.backend = InMemoryBackend()
            else:
                kind = {"signed": CookieBackend, "encrypted": EncryptedCookieBackend}[self.kind]
                self.backend = kind(KEY, allow_unrevocable=True)
            if self.url:
                await stack.enter_async_context(self.backend.lifespan())
            yield

    def wrap(self, app: App) -> App:
        from starsessions import SessionMiddleware

        return SessionMiddleware(app, backend=self.backend, autoload=not self.url)

    async def load(self, scope: Scope) -> Any:
        session = scope["session"]
        if self.url:
            await session.load()
        return session

    async def sign_in(self, scope: Scope) -> None:
        from starsessions import users

        await users.sign_in(scope["session"], str(next(USERS)))

    async def sign_out(self, scope: Scope) -> None:
        from starsessions import users

        await users.sign_out(scope["session"])


class Starlettes(Contestant):
    name = "Starlette"
    kinds = ("signed",)

    def wrap(self, app: App) -> App:
        from starlette.middleware.sessions import SessionMiddleware

        return SessionMiddleware(app, KEY)

    async def load(self, scope: Scope) -> Any:
        session = scope["session"]
        session.mark_accessed()  # as `request.session` does
        return session

    def notice(self, session: Any) -> None:
        session.mark_modified()


class Starsessions2(Contestant):
    name = "starsessions 2.2.1"
    environment = "starsessions-2"
    kinds = ("signed", "memory", "redis")

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        from starsessions import CookieStore, InMemoryStore

        async with AsyncExitStack() as stack:
            if self.kind == "redis":
                from redis.asyncio import Redis

                from starsessions.stores.redis import RedisStore

                self.client = await stack.enter_async_context(Redis.from_url(self.url))
                self.store: Any = RedisStore(connection=self.client)
            else:
                self.store = CookieStore(KEY) if self.kind == "signed" else InMemoryStore()
            yield

    def wrap(self, app: App) -> App:
        from starsessions import SessionMiddleware

        return SessionMiddleware(app, self.store, lifetime=1_209_600)

    async def load(self, scope: Scope) -> Any:
        await scope["session_handler"].load()  # what `load_session(request)` does
        return scope["session"]

    async def sign_in(self, scope: Scope) -> None:
        (await self.load(scope))["user_id"] = next(USERS)
        scope["session_handler"].regenerate_id()  # what `regenerate_session_id(request)` does


class RedisSDK(Contestant):
    """The middleware of fastapi-redis-sdk, with a new store for each request, as in its own setup.

    It needs a server with expiring hash fields: Redis 7.4 or Valkey 9.
    """

    name = "fastapi-redis-sdk"
    environment = "fastapi-redis-sdk"
    kinds = ("redis",)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        from redis.asyncio import Redis
        from redis.exceptions import ResponseError
        from redis_fastapi.session_backend import _StoreCapabilities  # noqa: PLC2701 - its version is pinned

        async with Redis.from_url(self.url) as self.client:
            try:
                await self.client.execute_command("HEXPIRE", "no such key", 1, "FIELDS", 1, "field")
            except ResponseError:
                raise RuntimeError("it needs Redis 7.4 or Valkey 9: this server does not know HEXPIRE") from None
            self.capabilities = _StoreCapabilities()
            yield

    def wrap(self, app: App) -> App:
        from redis_fastapi import RedisSessionStore, SessionMiddleware

        async def store(request: Any) -> Any:
            return RedisSessionStore(self.client, capabilities=self.capabilities)

        return SessionMiddleware(app, store_factory=store)

    async def load(self, scope: Scope) -> Any:
        session = scope["session"]
        session.mark_accessed()
        return session

    def notice(self, session: Any) -> None:
        session.mark_modified()


class AsgiSessions(Contestant):
    """asgi-sessions with a JWT, which is signed, or Fernet, which is encrypted."""

    name = "asgi-sessions"
    environment = "asgi-sessions"
    kinds = COOKIES

    def wrap(self, app: App) -> App:
        from asgi_sessions import SessionMiddleware

        return SessionMiddleware(app, KEY, session_type={"signed": "jwt", "encrypted": "fernet"}[self.kind])

    def notice(self, session: Any) -> None:
        session.modified = True


class Client(Contestant):
    """No sessions: the same bytes through the same client, GET to read, GET and a script to write, two to sign in."""

    name = "bare client"
    kinds = ("redis", "sqlite", "postgres")
    is_a_library = False

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        from benchmarks import client

        async with client.opened(self.kind, self.url) as self.through:
            yield

    def wrap(self, app: App) -> App:
        return self.through.wrap(app)

    async def prepare(self, data: dict[str, Any], sessions: int) -> None:
        await self.through.prepare(data, sessions)

    async def load(self, scope: Scope) -> Any:
        return await self.through.load(scope)

    async def sign_in(self, scope: Scope) -> None:
        await self.through.sign_in(scope)


class Bare(Contestant):
    """The application alone: its handlers use a plain dict."""

    name = "bare"
    kinds = KINDS
    is_a_library = False
    data: dict[str, Any]

    async def prepare(self, data: dict[str, Any], sessions: int) -> None:
        self.data = data

    async def load(self, scope: Scope) -> Any:
        return self.data

    async def sign_in(self, scope: Scope) -> None:
        self.data["user_id"] = next(USERS)


CONTESTANTS: tuple[type[Contestant], ...] = (Ours, Starlettes, Starsessions2, RedisSDK, AsgiSessions, Client)
