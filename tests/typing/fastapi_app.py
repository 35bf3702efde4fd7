"""Read by mypy, pyright and ty, never run: FastAPI."""

from typing import Annotated, Any, assert_type

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, WebSocket
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection

from starsessions import EncryptedCookieBackend, InMemoryBackend, Session, SessionMiddleware, load_session, set_expiry

app = FastAPI(middleware=[Middleware(SessionMiddleware, secret_key="TOP SECRET", autoload=True)])
app.add_middleware(
    SessionMiddleware, backend=EncryptedCookieBackend("TOP SECRET"), session_cookie="inner", scope_key="inner"
)

mounted = FastAPI()
mounted.add_middleware(SessionMiddleware, backend=InMemoryBackend(), session_cookie="mounted")
app.mount("/mounted", mounted)

router = APIRouter(prefix="/shop")


async def loaded_session(connection: HTTPConnection) -> Session:
    return await load_session(connection)


LoadedSession = Annotated[Session, Depends(loaded_session)]


def current_user(session: LoadedSession) -> str:
    user: str | None = session.get("user")
    if user is None:
        raise HTTPException(401)
    return user


@router.post("/login")
async def login(session: LoadedSession, user: str, remember: bool = False) -> dict[str, str]:
    session["user"] = user
    set_expiry(session, 30 * 86400 if remember else None)
    assert_type(await session.regenerate_id(), str)
    return {"user": user}


@router.get("/whoami")
def whoami(user: Annotated[str, Depends(current_user)]) -> str:
    return user


@router.get("/visits")
def visits(request: Request) -> dict[str, Any]:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return request.session


@router.post("/logout")
async def logout(session: LoadedSession) -> None:
    await session.delete()


@router.websocket("/ws")
async def talk(websocket: WebSocket, session: LoadedSession) -> None:
    await websocket.accept()
    session["connected"] = True
    await session.persist()


app.include_router(router)
