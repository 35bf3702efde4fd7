"""WebSockets: one that ends with its session, and one that echoes."""

from fastapi import APIRouter, WebSocket
from pages import CurrentSession
from starlette.status import WS_1008_POLICY_VIOLATION

from starsessions import users
from starsessions.watch import move_on_when_ended

router = APIRouter()


@router.websocket("/live")
async def live(websocket: WebSocket, session: CurrentSession) -> None:
    """Stay open while the user is signed in, so that the page notices at once that it was signed out elsewhere."""
    await websocket.accept()  # for everyone: a script can read a close code, but not why a handshake was rejected
    if users.get_user_id(session) is not None:
        await websocket.send_text(users.get_user_id(session))
        async with move_on_when_ended(session, check_every=1) as scope:
            async for _ in websocket.iter_text():  # until the page is closed
                pass
        if not scope.cancelled_caught:
            return
    await websocket.close(WS_1008_POLICY_VIOLATION)


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
