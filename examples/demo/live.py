"""What lasts longer than a request: two WebSockets, one that ends with its session and one that talks."""

from fastapi import APIRouter, WebSocket
from pages import CurrentSession
from starlette.status import WS_1008_POLICY_VIOLATION

from starsessions.watch import ends_with

router = APIRouter()


@router.websocket("/live")
async def live(websocket: WebSocket, session: CurrentSession) -> None:
    """Open for as long as somebody is signed in: how the page hears at once that it was signed out elsewhere."""
    await websocket.accept()  # a stranger, too: a script cannot read why a handshake was refused, but this it can
    if session.user_id is not None:
        await websocket.send_text(session.user_id)
        async with ends_with(session, every=1) as watch:
            async for _ in websocket.iter_text():  # until the page is closed
                pass
        if not watch.ended:
            return
    await websocket.close(WS_1008_POLICY_VIOLATION)


@router.websocket("/ws")
async def talk(websocket: WebSocket, session: CurrentSession) -> None:
    # A handshake is a request like any other: it brings the cookie, and its answer can set one. Therefore the
    # session may be changed before `accept`, whatever the backend.
    if session:
        session["sockets"] = session.get("sockets", 0) + 1
    name, sockets = session.user_id, session.get("sockets", 0)
    await websocket.accept()
    # From here on no header can be sent any more, so a session that lives in the cookie can't change. We count in a
    # variable. With a backend on the server: `session[...] = ...; await session.persist()`, see ../websocket.py.
    messages = 0
    async for text in websocket.iter_text():
        messages += 1
        await websocket.send_json({"name": name, "sockets": sockets, "messages": messages, "text": text})
