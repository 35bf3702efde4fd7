"""What lasts longer than a request: two WebSockets, one that ends with its session and one that talks."""

from fastapi import APIRouter, WebSocket
from pages import CurrentSession
from starlette.status import WS_1008_POLICY_VIOLATION

from starsessions import users
from starsessions.watch import move_on_when_ended

router = APIRouter()


@router.websocket("/live")
async def live(websocket: WebSocket, session: CurrentSession) -> None:
    """Open for as long as somebody is signed in: how the page hears at once that it was signed out elsewhere."""
    await websocket.accept()  # a stranger, too: a script cannot read why a handshake was refused, but this it can
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
    # A handshake is a request like any other: it brings the cookie, and its answer can set one. Therefore the
    # session may be changed before `accept`, whatever the backend.
    if session:
        session["sockets"] = session.get("sockets", 0) + 1
    name, sockets = users.get_user_id(session), session.get("sockets", 0)
    await websocket.accept()
    # From here on no header can be sent any more, so a session that lives in the cookie can't change. We count in a
    # variable. With a backend on the server: `session[...] = ...; await session.persist()`, see ../websocket.py.
    messages = 0
    async for text in websocket.iter_text():
        messages += 1
        await websocket.send_json({"name": name, "sockets": sockets, "messages": messages, "text": text})
