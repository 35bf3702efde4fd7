"""fastapi-cache2: a page kept under its URL, and one kept under its URL and the user."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi_cache import FastAPICache, default_key_builder
from fastapi_cache.backends.inmemory import InMemoryBackend
from fastapi_cache.decorator import cache
from sessions import KEY, SessionMiddleware


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    FastAPICache.init(InMemoryBackend())
    yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, secret_key=KEY)


def by_user(function: Callable[..., Any], namespace: str = "", *, request: Request, **rest: Any) -> str:
    return f"{default_key_builder(function, namespace, request=request, **rest)}:{request.session.get('user')}"


@app.post("/login/{name}")
async def login(request: Request, name: str) -> None:
    request.session["user"] = name


@app.get("/by-url")
@cache(expire=60)
async def page_by_url(request: Request) -> Any:
    return request.session.get("user")


@app.get("/by-user")
@cache(expire=60, key_builder=by_user)
async def page_by_user(request: Request) -> Any:
    return request.session.get("user")
