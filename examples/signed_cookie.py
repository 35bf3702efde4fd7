"""A session in a signed cookie, without any storage.

    python -m uvicorn signed_cookie:app --app-dir examples

The browser stores the data. It can read the data and replay an older version, but cannot change it. So store no
secrets in the session, and use a server-side backend if sign-out must be final.
"""

import os
import secrets

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starsessions import SessionMiddleware

# A key generated here changes at every restart and signs everyone out. In production, set SECRET_KEY.
SECRET_KEY = os.environ.get("SECRET_KEY") or secrets.token_urlsafe(32)


async def count(request: Request) -> Response:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return PlainTextResponse(f"Visit {request.session['visits']}\n")


app = Starlette(
    routes=[Route("/", count)],
    middleware=[Middleware(SessionMiddleware, secret_key=SECRET_KEY, autoload=True)],
)
