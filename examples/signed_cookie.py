"""The shortest way to a session: a signed cookie, and no storage at all.

    python -m uvicorn signed_cookie:app --app-dir examples

The browser holds the data. It can read them, it cannot change them, and it can bring back an older state; so keep
nothing secret in there, and choose a backend with storage where signing out must be final.
"""

import os
import secrets

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starsessions import SessionMiddleware

# A key that is made up here ends all sessions at the next start. Yours comes from where you keep your secrets.
SECRET_KEY = os.environ.get("SECRET_KEY") or secrets.token_urlsafe(32)


async def count(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(f"Visit {request.session['visits']}\n")


app = Starlette(
    routes=[Route("/", count)],
    middleware=[Middleware(SessionMiddleware, secret_key=SECRET_KEY, autoload=True)],
)
