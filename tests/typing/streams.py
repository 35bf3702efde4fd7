"""Read by mypy, pyright and ty, never run: streams and WebSockets that end with their session."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import timedelta
from typing import Annotated, assert_type

from fastapi import Depends, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

from starsessions import Session
from starsessions.fastapi import CurrentSession, SessionCookie, WatchedSession, watched
from starsessions.watch import announce_change, changes, until_ended

app = FastAPI()
Watched = Annotated[Session, Depends(watched(timedelta(seconds=5)), scope="function")]
assert_type(SessionCookie("__Host-session").watched(), Callable[..., AsyncIterator[Session]])


@app.websocket("/chat")
async def chat(websocket: WebSocket, session: WatchedSession) -> None:
    assert_type(session, Session)
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


@app.get("/long")
async def long(session: Watched) -> int:
    return len(session)


async def numbers() -> AsyncIterator[int]:
    yield 1


async def events(request: Request) -> AsyncIterator[str]:
    assert_type(until_ended(request, numbers()), AsyncGenerator[int])
    async for number in until_ended(request, numbers(), check_every=timedelta(minutes=1)):
        yield f"data: {number}\n\n"


@app.get("/events")
async def stream(request: Request) -> StreamingResponse:
    return StreamingResponse(events(request), media_type="text/event-stream")


@app.websocket("/language")
async def languages(websocket: WebSocket) -> None:
    await websocket.accept()
    async for session in changes(websocket, check_every=30):
        assert_type(session, Session)
        await websocket.send_text(session["language"])


@app.post("/language")
async def choose(session: CurrentSession, language: str) -> None:
    session["language"] = language
    await announce_change(session)
