"""A shop with one page, to watch a session at work.

Whoever comes may fill a cart, sign in under any name, see the visits being counted, and sign out.
Everything that the shop knows about them is in ``request.session``.

    python -m uvicorn app:app --app-dir examples/demo

The environment decides how the session is kept. Every variable may be missing:

====================  ======================  ================================================================
``DEMO_BACKEND``      sqlite (the default)    the browser holds an id, a file the data; it survives a restart
                      memory                  the browser holds an id, the process the data
                      cookie                  the browser holds the data, signed
                      encrypted               the browser holds the data, sealed
                      the URL of a store      redis://…, postgresql+asyncpg://…, mysql+asyncmy://…, and so on
``DEMO_SECRET``       made up at every start  the key that the cookies are signed or sealed with
``DEMO_COOKIE``       session                 the cookie's name; try ``__Host-session``
``DEMO_HTTPS_ONLY``   follows the request     1 or 0: the cookie is always or never ``Secure``
``DEMO_PARTITIONED``  0                       1: the cookie is ``Partitioned``, to see what the browser makes of it
====================  ======================  ================================================================
"""

import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response, WebSocket
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from pydantic import StringConstraints
from starlette.requests import HTTPConnection

from starsessions import CookieBackend, EncryptedCookieBackend, InMemoryBackend, Session, SessionMiddleware
from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend

HERE = Path(__file__).parent
FILE = HERE.parents[1] / ".cache" / "demo-sessions.db"
REMEMBER_FOR = timedelta(days=30)


@dataclass(frozen=True)
class Product:
    name: str
    note: str
    cents: int


SHELF = {
    "tea": Product("Darjeeling tea", "First flush, 100 g", 890),
    "bread": Product("Sourdough loaf", "Baked this morning", 540),
    "pears": Product("Six pears", "From the garden behind", 420),
    "honey": Product("Lime honey", "Jar of 250 g", 760),
}

# --- settings --------------------------------------------------------------------------------------------------------

# A key that is made up at start is safe, but it ends every session at the next start, and two worker processes
# would not understand each other's cookies. A real application reads its key from where it keeps its secrets.
SECRET = os.environ.get("DEMO_SECRET") or secrets.token_urlsafe(32)


def sqlite() -> SQLAlchemyBackend:
    FILE.parent.mkdir(exist_ok=True)
    return SQLAlchemyBackend(f"sqlite+aiosqlite:///{FILE}", sweep_every=600)


BACKENDS: dict[str, Callable[[], Any]] = {
    "sqlite": sqlite,
    "memory": InMemoryBackend,
    "cookie": lambda: CookieBackend(SECRET),
    "encrypted": lambda: EncryptedCookieBackend(SECRET),
}


def backend_for(choice: str) -> Any:
    """A backend by its name in `BACKENDS`, or a store by its URL."""
    if choice in BACKENDS:
        return BACKENDS[choice]()
    if choice.startswith(("redis://", "rediss://", "unix://")):
        return RedisBackend(choice)
    if "://" in choice:
        return SQLAlchemyBackend(choice, sweep_every=600)
    raise ValueError(f"DEMO_BACKEND is {choice!r}; choose one of {', '.join(BACKENDS)}, or give a store's URL")


CHOICE = os.environ.get("DEMO_BACKEND") or "sqlite"
backend = backend_for(CHOICE)
BACKEND = CHOICE.partition("://")[0]  # for the page, which must not show a password

COOKIE = os.environ.get("DEMO_COOKIE") or "session"


def flag(name: str) -> bool | None:
    """Whether the variable says yes or no; None if it says nothing."""
    value = os.environ.get(name, "").lower()
    if value not in {"", "0", "1", "false", "true", "no", "yes"}:
        raise ValueError(f"{name} is {value!r}; write 1 or 0")
    return value in {"1", "true", "yes"} if value else None


# --- the application -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # An application with migrations has its table from them; ours makes it when it starts.
    if isinstance(backend, SQLAlchemyBackend):
        await backend.create_table()
    yield


app = FastAPI(title="The corner shop", lifespan=lifespan)
app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
app.add_middleware(
    SessionMiddleware,
    backend=backend,
    session_cookie=COOKIE,
    https_only=flag("DEMO_HTTPS_ONLY"),
    partitioned=flag("DEMO_PARTITIONED") or False,
    # Without this, each endpoint would begin with `await request.session.load()`. A cookie and memory are asked where
    # the session is first used; a store in a file or on a server, at the start of each request that brings a cookie.
    autoload=True,
)
# The default same_site="lax" is what keeps other sites from posting our forms, and from opening our WebSocket, in the
# name of somebody who is signed in here.

templates = Jinja2Templates(directory=HERE / "templates")


async def current_session(connection: HTTPConnection) -> Session:
    """The session with its own type; Starlette only promises a dict."""
    return cast(Session, connection.session)


CurrentSession = Annotated[Session, Depends(current_session)]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]


def back_to_the_page(request: Request) -> Response:
    # 303 turns the POST into a GET, so that "reload" shows the page again and does not send the form again.
    return RedirectResponse(request.url_for("page").path, status_code=303)


@app.get("/")
async def page(request: Request, session: CurrentSession) -> Response:
    # Only somebody who has a session is counted. A visitor who just looks, and every bot, writes nothing here,
    # and what is not written costs no storage and sets no cookie.
    if session:
        session["visits"] = session.get("visits", 0) + 1
    cart = [{**line, "product": SHELF[line["sku"]]} for line in session.get("cart", []) if line["sku"] in SHELF]
    return templates.TemplateResponse(
        request,
        "page.html",
        {
            "shelf": SHELF,
            "cart": cart,
            "total": sum(line["quantity"] * line["product"].cents for line in cart),
            "session": session,
            "backend": BACKEND,
            "cookie": COOKIE,
        },
    )


@app.post("/sign-in")
async def sign_in(
    request: Request, session: CurrentSession, name: Annotated[Name, Form()], remember: Annotated[bool, Form()] = False
) -> Response:
    # A real application checks a password first.
    if session.get("name") not in (None, name):
        session.clear()  # somebody else sat here before, and their cart is not for the next one
    # The id from before signing in may be known to somebody else, who planted it or saw it pass by. It must not become
    # the id of a signed-in person. The data stays, so the cart that was filled before is still there.
    await session.regenerate_id()
    session["name"] = name
    session["remember"] = remember
    # None: the cookie goes when the browser is closed. The server ends the session on time in either case.
    session.set_expiry(REMEMBER_FOR if remember else None)
    return back_to_the_page(request)


@app.post("/sign-out")
async def sign_out(request: Request, session: CurrentSession) -> Response:
    # POST, because a link could be followed by a prefetching browser, or be an <img> on somebody else's page.
    await session.flush()  # the data, the id and the cookie
    return back_to_the_page(request)


@app.post("/cart")
def add_to_cart(request: Request, session: CurrentSession, sku: Annotated[str, Form()]) -> Response:
    """A plain ``def``: it runs in a thread, and the session works there as well."""
    if sku not in SHELF:
        raise HTTPException(404, "This is not on the shelf")
    cart = session.setdefault("cart", [])
    for line in cart:
        if line["sku"] == sku:
            line["quantity"] = min(line["quantity"] + 1, 99)
            break
    else:
        cart.append({"sku": sku, "quantity": 1})
    # No `session["cart"] = cart` and no `session.mark_modified()`: changes deep inside are noticed.
    return back_to_the_page(request)


@app.post("/cart/{sku}")
def change_quantity(
    request: Request, session: CurrentSession, sku: str, quantity: Annotated[int, Form(ge=0, le=99)]
) -> Response:
    """The new quantity, not a step up or down: sent twice, it is still right. Nought takes the line out."""
    cart = session.get("cart", [])
    for line in [line for line in cart if line["sku"] == sku]:
        line["quantity"] = quantity
        if not quantity:
            cart.remove(line)
    return back_to_the_page(request)


@app.websocket("/ws")
async def talk(websocket: WebSocket, session: CurrentSession) -> None:
    # A handshake is a request like any other: it brings the cookie, and its answer can set one. Therefore the
    # session may be changed before `accept`, whatever the backend.
    if session:
        session["sockets"] = session.get("sockets", 0) + 1
    name, sockets = session.get("name"), session.get("sockets", 0)
    await websocket.accept()
    # From here on no header can be sent any more, so a session that lives in the cookie can't change. We count in a
    # variable. With a backend on the server: `session[...] = ...; await session.persist()`, see ../websocket.py.
    messages = 0
    async for text in websocket.iter_text():
        messages += 1
        await websocket.send_json({"name": name, "sockets": sockets, "messages": messages, "text": text})
