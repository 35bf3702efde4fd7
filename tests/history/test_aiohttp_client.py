"""Cookies as aiohttp's client sends them: it puts a value with `/` or `=` in double quotes (RFC 6265, 4.1.1)."""

import asyncio
import importlib.util
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from threading import Thread
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from starsessions import CookieBackend, EncryptedCookieBackend, InMemoryBackend, SessionMiddleware
from tests.missing import missing
from tests.rows import rows
from tests.site import KEY

pytestmark = [pytest.mark.anyio, pytest.mark.once]

FORMS: dict[str, tuple[Callable[[], Any], bool]] = {
    "Starlette's": (lambda: CookieBackend(KEY), True),
    "s1": (lambda: CookieBackend(KEY, starlette_format=False), False),
    "x1": (lambda: EncryptedCookieBackend(KEY), True),
    "Starlette's, split": (lambda: CookieBackend(KEY, max_cookies=3), True),
    "x1, split": (lambda: EncryptedCookieBackend(KEY, max_cookies=3), True),
    "an id": (InMemoryBackend, False),
}


async def count(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    request.session["pad"] = "/+=" * int(request.query_params.get("pad", 20))
    return JSONResponse({"n": request.session["n"], "cookie": request.headers.get("cookie", "")})


@asynccontextmanager
async def served(backend: Any) -> AsyncIterator[str]:
    """Serve in a thread. With the client in one event loop, a connection once waited for ever to be accepted."""
    app = Starlette(routes=[Route("/", count)])
    app.add_middleware(SessionMiddleware, backend=backend, autoload=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://localhost:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            await asyncio.to_thread(thread.join)


@rows("form", FORMS)
async def test_each_form_of_cookie_comes_back_from_aiohttps_client(form: str) -> None:
    if importlib.util.find_spec("aiohttp") is None:
        missing("The package aiohttp is not installed.")
    import aiohttp

    make, has_quotes = FORMS[form]
    # So long that an encrypted value has a slash, as good as surely.
    pad = {"pad": "2000" if "split" in form else "200"}
    async with served(make()) as url, aiohttp.ClientSession() as client:
        for n in (1, 2, 3):
            async with client.get(url, params=pad) as response:
                answer = await response.json()
            assert answer["n"] == n
        assert ('="' in answer["cookie"]) is has_quotes, "the client does not do what this test is about"
        assert ("session-1=" in answer["cookie"]) is ("split" in form)

        held = {cookie.key: cookie.value for cookie in client.cookie_jar}
        async with aiohttp.ClientSession(cookies=held) as other, other.get(url, params=pad) as response:
            assert (await response.json())["n"] == 4
