"""One release of an application: SETTINGS are those of its session cookie."""

import json
import os
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse

from starsessions import CookieBackend, SessionMiddleware

BACKEND = CookieBackend("0123456789abcdefghijklmnopqrstuvwxyzABCDEF")


async def handler(scope: Any, receive: Any, send: Any) -> None:
    """Do what the last segment of the path says, and answer who was signed in before."""
    session = Request(scope).session
    user = session.get("user", "")
    match scope["path"].rpartition("/")[2]:
        case "write":
            session["n"] = session.get("n", 0) + 1
        case "put":
            session["user"] = "ann"
        case "sign-in":
            session["user"] = "ann"
            await session.regenerate_id()
        case "sign-out":
            session.clear()
    await PlainTextResponse(f"user={user}")(scope, receive, send)


app = SessionMiddleware(handler, backend=BACKEND, autoload=True, **json.loads(os.environ["SETTINGS"]))
