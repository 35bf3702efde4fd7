"""Open connections: a stream that ends with its session, and a WebSocket that echoes."""

from collections.abc import AsyncIterator

import anyio
from fastapi import APIRouter, WebSocket
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pages import CurrentSession

from starsessions import users
from starsessions.watch import until_ended

router = APIRouter()


@router.get("/live", response_class=EventSourceResponse)
async def live(session: CurrentSession) -> AsyncIterator[ServerSentEvent]:
    """Stay open while the user is signed in, so that the page notices at once that it was signed out elsewhere.

    The store announces the end of a session, so an open stream costs next to nothing.
    """
    async for event in until_ended(session, who(users.get_user_id(session) or "")):
        yield event


async def who(user: str) -> AsyncIterator[ServerSentEvent]:
    # When the stream ends, the browser opens it again by itself, and learns who is signed in now.
    yield ServerSentEvent(data=user, retry=500)
    if user:
        await anyio.sleep_forever()


@router.websocket("/ws")
async def talk(websocket: WebSocket, session: CurrentSession) -> None:
    # A handshake is a request like any other: it has the cookie, and its response can set one. So the session may be
    # changed before `accept` with any backend.
    if session:
        session["sockets"] = session.get("sockets", 0) + 1
    name, sockets = users.get_user_id(session), session.get("sockets", 0)
    await websocket.accept()
    # From here on no header can be sent, so a session that is stored in the cookie can't change. This counts in a
    # variable. With a server-side backend: `session[...] = ...; await session.persist()`, see ../websocket.py.
    messages = 0
    async for text in websocket.iter_text():
        messages += 1
        await websocket.send_json({"name": name, "sockets": sockets, "messages": messages, "text": text})
