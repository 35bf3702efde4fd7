"""Read by mypy, pyright and ty, never run: the dependencies for FastAPI."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, assert_type

from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.responses import HTMLResponse, RedirectResponse

from starsessions import InMemoryBackend, Session, SessionMiddleware
from starsessions.fastapi import (
    CurrentSession,
    SessionCookie,
    SignedInSession,
    UserId,
    fresh,
    safe_next,
    signed_in,
    user_id,
)

app = FastAPI()
app.add_middleware(SessionMiddleware, backend=InMemoryBackend(), session_cookie="__Host-session")

cookie = SessionCookie("__Host-session", scope_key="session", scheme_name="Session", description="…")
HostSession = Annotated[Session, Depends(cookie)]
Customer = Annotated[str, Depends(cookie.user_id(redirect_to="/login"))]
SignedInPage = Annotated[Session, Depends(signed_in(redirect_to="/login"))]
Fresh = Annotated[Session, Depends(fresh(within=timedelta(minutes=10), redirect_to="/login"))]

assert_type(cookie.signed_in(), Callable[..., Awaitable[Session]])
assert_type(user_id(), Callable[..., Awaitable[str]])
assert_type(cookie.fresh(600), Callable[..., Awaitable[Session]])

router = APIRouter(dependencies=[Depends(signed_in())])


@app.post("/sign-in")
async def sign_in(session: CurrentSession, name: str, target: str | None = None) -> RedirectResponse:
    assert_type(session, Session)
    return RedirectResponse(safe_next(target), 303)


@app.get("/account")
def account(session: SignedInSession, user: UserId) -> str:
    assert_type(session, Session)
    assert_type(user, str)
    return user


@app.get("/orders")
def orders(session: SignedInPage, customer: Customer, host: HostSession) -> HTMLResponse:
    return HTMLResponse(customer)


@app.post("/email")
async def email(session: Fresh) -> None:
    await session.regenerate_id()


@app.websocket("/ws")
async def talk(websocket: WebSocket, session: SignedInSession) -> None:
    await websocket.accept()


async def by_hand(request: Request) -> None:
    assert_type(await cookie(request), Session)
