"""A corner shop that shows sessions at work.

Visitors can fill a cart, sign in with any name on several devices, see these devices and sign them out.
Everything that the shop stores about them is in ``request.session``.

    python -m uvicorn app:app --app-dir examples/demo --timeout-graceful-shutdown 1

The time limit is for Ctrl-C: uvicorn waits for open streams, and pages keep theirs open.

==================  ==========================================================================================
``app.py``          the application
``settings.py``     settings from the environment: the backend and the cookie
``pages.py``        shared by all pages: the session, the templates, the check of forms
``shop.py``         the shelf and the cart
``account.py``      sign-in, sign-out, devices, operators, and changes that need a fresh sign-in
``sso.py``          sign-in with an identity provider, and its sign-outs
``provider.py``     a toy identity provider
``live.py``         a stream that ends with its session, and a WebSocket
==================  ==========================================================================================
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import account
import live
import pages
import provider
import settings
import shop
import sso
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.routing import Route

from starsessions import SessionMiddleware
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.csrf import CsrfFailed, CsrfMiddleware


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Applications with migrations create the table there. This one creates it at startup.
    if isinstance(settings.backend, SQLAlchemyBackend):
        await settings.backend.create_table()
    await settings.history.create_table()
    async with settings.history.lifespan():
        yield


app = FastAPI(
    title="The corner shop",
    lifespan=lifespan,
    routes=[Route("/oidc/backchannel-logout", sso.logout_tokens)],  # a provider POSTs there, without a cookie
)
app.mount("/static", StaticFiles(directory=pages.HERE / "static"), name="static")
app.mount("/devices", account.devices, name="devices")
app.mount("/operators", account.operators, name="operators")
app.mount("/provider", provider.app, name="provider")
for part in (shop, account, sso, live):
    app.include_router(part.router)

# Rejects requests that another site makes a browser send. Like everything that uses the session, it is inside the
# session middleware (the last one added is the outermost): the page for rejected requests shows who is signed in.
app.add_middleware(CsrfMiddleware, refuse=pages.refused)
app.exception_handler(CsrfFailed)(pages.refused)

# No `autoload`: the dependency `CurrentSession` loads the session where it is needed, and the stylesheet is served
# without looking at the cookie.
app.add_middleware(
    SessionMiddleware,
    backend=settings.backend,
    on_event=settings.history.record,
    session_cookie=settings.COOKIE,
    https_only=settings.HTTPS_ONLY,
    partitioned=settings.PARTITIONED,
    # Every visit renews the session, so the page of devices shows the last use to the minute.
    rolling=True,
    renew_every=60,
    # The eleventh sign-in ends the oldest session, so that no list grows forever.
    max_sessions_per_user=10,
)
