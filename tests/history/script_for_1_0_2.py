"""Runs in a separate process, in which `starsessions` is version 1.0.2: its directory is the first argument.

Reads from standard input a list of jobs, as JSON, and prints the list of their results.

    ["seal", secret, max_age, data]     the cookie that CookieBackend makes of the data
    ["open", secret, max_age, cookie]   the data that CookieBackend finds in the cookie
    ["visit", secret, cookie, update]   what SessionMiddleware does with a request that has the cookie (or null),
                                        and whose handler updates the session (or clears it: null):
                                        [the session before, the Set-Cookie headers]
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

directory = Path(sys.argv[1]).resolve()
sys.path.insert(0, str(directory))

import starsessions  # noqa: E402
from starsessions import CookieBackend, SessionMiddleware  # noqa: E402

assert Path(starsessions.__file__).is_relative_to(directory), starsessions.__file__


async def seal(secret: str, max_age: int, data: dict[str, Any]) -> str:
    return await CookieBackend(secret, max_age).write(data)


async def unseal(secret: str, max_age: int, cookie: str) -> dict[str, Any]:
    return await CookieBackend(secret, max_age).read(cookie)


async def visit(secret: str, cookie: str | None, update: dict[str, Any] | None) -> list[Any]:
    before: dict[str, Any] = {}
    set_cookies: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        before.update(scope["session"].data)
        if update is None:
            scope["session"].clear()
        elif update:
            scope["session"].update(update)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        raise AssertionError("must not be called")

    async def send(message: Any) -> None:
        set_cookies.extend(value.decode() for name, value in message["headers"] if name == b"set-cookie")

    headers = [] if cookie is None else [(b"cookie", f"session={cookie}".encode())]
    middleware = SessionMiddleware(app, secret_key=secret, autoload=True)
    await middleware({"type": "http", "path": "/", "headers": headers}, receive, send)
    return [before, set_cookies]


async def main() -> None:
    do: dict[str, Any] = {"seal": seal, "open": unseal, "visit": visit}
    json.dump([await do[job](*arguments) for job, *arguments in json.load(sys.stdin)], sys.stdout)


asyncio.run(main())
