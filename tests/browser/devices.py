"""The pages of the library, as an application mounts them: with people, operators and a history."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from starsessions import InMemoryBackend, SessionMiddleware
from starsessions.history import SignInHistory
from starsessions.pages import DevicesPages, OperatorPages
from starsessions.users import UserSessions, get_user_id, sign_in

backend = InMemoryBackend()
history = SignInHistory("sqlite+aiosqlite://")
users = UserSessions(backend, on_event=history.record)


async def login(request: Request) -> Response:
    """Sign in with a link, since the tests begin here."""
    user = request.query_params.get("user")
    if user is None:
        return HTMLResponse("Sign in")
    history.sign_in_failed(request, user, method="password")
    await sign_in(request, user, method="password")
    return RedirectResponse("/account/devices/", 303)


async def home(request: Request) -> Response:
    return HTMLResponse("home")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    await history.create_table()
    async with history.lifespan():
        yield


pages = DevicesPages(users, sign_in_url="/login", history=history)


async def counts() -> dict[str, int]:
    return {"Live sessions": 12345, "Users": 678}


operators = OperatorPages(users, guard=get_user_id, history=history, counts=counts, on_event=history.record)
routes = [
    Route("/", home),
    Route("/login", login),
    Mount("/account/devices", pages),
    Mount("/operators", operators),
]
app = Starlette(routes=routes, lifespan=lifespan)
app.add_middleware(SessionMiddleware, backend=backend, on_event=history.record)
