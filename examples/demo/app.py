"""A corner shop, to watch sessions at work.

Whoever comes may fill a cart, sign in under any name, on several devices, see these and sign them out, and sign out.
Everything that the shop knows about them is in ``request.session``.

    python -m uvicorn app:app --app-dir examples/demo

==================  ==========================================================================================
``app.py``          puts it together
``settings.py``     what the environment decides: the backend, and the cookie
``pages.py``        what all pages share: the session, the templates, which forms are believed
``shop.py``         the shelf and the cart
``account.py``      signing in and out, the devices, what asks to sign in again
``live.py``         the WebSockets
==================  ==========================================================================================
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import account
import live
import pages
import settings
import shop
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from starsessions import SessionMiddleware
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.csrf import CsrfFailed, CsrfMiddleware


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # An application with migrations has its table from them; ours makes it when it starts.
    if isinstance(settings.backend, SQLAlchemyBackend):
        await settings.backend.create_table()
    yield


app = FastAPI(title="The corner shop", lifespan=lifespan)
app.mount("/static", StaticFiles(directory=pages.HERE / "static"), name="static")
for part in (shop, account, live):
    app.include_router(part.router)

# Requests that another site makes a browser send. It stands inside of the sessions (what is added last is outermost),
# because the page that it answers with says who is signed in.
app.add_middleware(CsrfMiddleware, refuse=pages.refused)
app.add_exception_handler(CsrfFailed, pages.refused)

# No `autoload`: the dependency `CurrentSession` loads the session where it is asked for, and the stylesheet is served
# without a glance at the cookie.
app.add_middleware(
    SessionMiddleware,
    backend=settings.backend,
    session_cookie=settings.COOKIE,
    https_only=settings.HTTPS_ONLY,
    partitioned=settings.PARTITIONED,
    # Looking around is use, too, and to the minute the page of devices says when that was.
    rolling=True,
    renew_every=60,
    remember_for=settings.REMEMBER_FOR,
    # The eleventh sign in ends the oldest session, so that no list grows for ever.
    max_sessions_per_user=10,
)
