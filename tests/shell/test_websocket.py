"""Guarantee 11 for WebSockets: read and write before and after the handshake, and nothing is lost in silence."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from starsessions import (
    CookieBackend,
    InMemoryBackend,
    ResponseStarted,
    Session,
    SessionBackend,
    SessionMiddleware,
    set_expiry,
    users,
)
from tests.kinds import each_backend, each_server_backend
from tests.rows import rows
from tests.site import KEY, Browser, Clock, Reply, Site, call

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]

Handler = Callable[[Session, Any], Any]


def sign_in(session: Session) -> None:
    session["user"] = "ann"


async def connect(site: Site, handler: Handler) -> Reply:
    """One WebSocket whose handler is `handler(session, send)`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await handler(scope["session"], send)

    usual, site.app.app = site.app.app, app
    try:
        reply = await call(
            site.app,
            {"type": "websocket", "path": "/", "root_path": "", "scheme": "ws", "headers": site.browser.header()},
        )
    finally:
        site.app.app = usual
    site.browser.take(reply)
    return reply


ACCEPT, CLOSE = {"type": "websocket.accept"}, {"type": "websocket.close"}


@pytest.mark.guarantee(11)
@each_backend
async def test_the_cookie_is_sent_with_accept(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)

    async def handler(session: Session, send: Any) -> None:
        sign_in(session)
        await send({"type": "websocket.accept", "headers": [(b"x-other", b"1")], "subprotocol": "chat"})
        await send(CLOSE)

    reply = await connect(site, handler)
    assert reply.messages[0]["subprotocol"] == "chat"
    assert reply.all("x-other") == ["1"]
    assert reply.set_cookie.startswith("session=")
    assert await site.data() == {"user": "ann"}


@each_backend
async def test_an_untouched_websocket_passes_through(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in)

    async def handler(session: Session, send: Any) -> None:
        await send(ACCEPT)
        await send(CLOSE)

    reply = await connect(site, handler)
    assert reply.messages[0] is ACCEPT


@each_server_backend
async def test_later_changes_are_saved_at_the_close(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(lambda session: session.update(cart=[1]))

    async def handler(session: Session, send: Any) -> None:
        await send(ACCEPT)
        session["cart"].append(2)
        session["n"] = 1
        await send(CLOSE)

    await connect(site, handler)
    assert await site.data() == {"cart": [1, 2], "n": 1}


@pytest.mark.guarantee(11)
@each_server_backend
@rows("end", [None, WebSocketDisconnect(1001), RuntimeError("the handler failed")], ids=repr)
async def test_later_changes_are_saved_however_the_connection_ends(
    site_of: Callable[..., Site], server_backend: SessionBackend, end: Exception | None
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    async def handler(session: Session, send: Any) -> None:
        await send(ACCEPT)
        session["n"] = 1
        if end:
            raise end

    with nullcontext() if end is None else pytest.raises(type(end)):
        await connect(site, handler)
    assert await site.data() == {"user": "ann", "n": 1}


@each_server_backend
async def test_later_changes_survive_a_server_that_cancels_its_connections(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    async def handler(session: Session, send: Any) -> None:
        await send(ACCEPT)
        session["n"] = 1
        scope.cancel()
        await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        await connect(site, handler)
    assert await site.data() == {"user": "ann", "n": 1}


@each_server_backend
async def test_persist_saves_at_once(site_of: Callable[..., Site], server_backend: SessionBackend) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    async def handler(session: Session, send: Any) -> None:
        await send(ACCEPT)
        for n in range(3):
            session["n"] = n
            await session.persist()
            assert await elsewhere.data() == {"user": "ann", "n": n}
        await send(CLOSE)

    elsewhere = site_of(backend=server_backend)
    elsewhere.browser = site.browser
    await connect(site, handler)


@each_server_backend
async def test_a_websocket_that_outlives_a_logout_does_not_undo_it(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site, elsewhere = site_of(backend=server_backend), site_of(backend=server_backend)
    await site.visit(sign_in)
    cookies = dict(site.browser.cookies)

    async def handler(session: Session, send: Any) -> None:
        await send(ACCEPT)
        assert session["user"] == "ann"
        await elsewhere.visit(Session.flush, Browser(cookies))
        session["n"] = 1
        await send(CLOSE)

    await connect(site, handler)
    assert await site.data(Browser(cookies)) == {}


@pytest.mark.guarantee(11)
@each_backend
async def test_a_session_that_begins_after_accept_raises(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)

    async def handler(session: Session, send: Any) -> None:
        await send(ACCEPT)
        with pytest.raises(ResponseStarted, match="before it is accepted"):
            session["user"] = "ann"
        await send(CLOSE)

    await connect(site, handler)


async def test_changing_a_cookie_session_after_accept_raises(site_of: Callable[..., Site]) -> None:
    site = site_of()
    await site.visit(lambda session: session.update(cart=[1]))

    async def handler(session: Session, send: Any) -> None:
        await send(ACCEPT)
        with pytest.raises(ResponseStarted, match="cookie"):
            session["n"] = 1
        session["cart"].append(2)
        await send(CLOSE)

    with pytest.raises(ResponseStarted, match="cookie"):
        await connect(site, handler)
    assert await site.data() == {"cart": [1]}


@each_server_backend
async def test_a_rejected_handshake_saves_an_existing_session(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    async def handler(session: Session, send: Any) -> None:
        session["refused"] = session.get("refused", 0) + 1
        await send(CLOSE)

    await connect(site, handler)
    assert await site.data() == {"user": "ann", "refused": 1}


@pytest.mark.guarantee(11)
@each_backend
async def test_a_refused_handshake_that_began_a_session_is_logged(
    site_of: Callable[..., Site], backend: SessionBackend, caplog: pytest.LogCaptureFixture
) -> None:
    site = site_of(backend=backend)

    async def handler(session: Session, send: Any) -> None:
        sign_in(session)
        await send(CLOSE)

    with caplog.at_level(logging.WARNING, "starsessions"):
        reply = await connect(site, handler)
    assert reply.messages == [CLOSE]
    assert "rejected" in caplog.text


@each_backend
async def test_a_denial_response_carries_the_cookie(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)

    async def handler(session: Session, send: Any) -> None:
        sign_in(session)
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
        await send({"type": "websocket.http.response.body", "body": b""})

    assert (await connect(site, handler)).set_cookie.startswith("session=")
    assert await site.data() == {"user": "ann"}


@each_backend
async def test_a_plain_dict_put_into_the_scope_is_saved(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = {"user": "ann"}
        await send(ACCEPT)

    usual, site.app.app = site.app.app, app
    site.browser.take(await call(site.app, {"type": "websocket", "headers": []}))
    site.app.app = usual
    assert await site.data() == {"user": "ann"}


def test_starlettes_client_and_websocket_see_the_same_session() -> None:
    async def endpoint(websocket: WebSocket) -> None:
        websocket.session["seen"] = websocket.session.get("seen", 0) + 1
        await websocket.accept()
        await websocket.send_json(websocket.session)
        await websocket.close()

    for backend in (CookieBackend(KEY), InMemoryBackend()):
        app = Starlette(
            routes=[WebSocketRoute("/", endpoint)],
            middleware=[Middleware(SessionMiddleware, backend=backend, autoload=True)],
        )
        client = TestClient(app)
        for n in (1, 2, 3):
            with client.websocket_connect("/") as websocket:
                assert websocket.receive_json() == {"seen": n}
                # Starlette's client takes no cookies from a handshake.
                for name, value in websocket.extra_headers or ():
                    if name == b"set-cookie":
                        client.cookies.set("session", value.decode().partition(";")[0].partition("=")[2])


@each_server_backend
async def test_an_expiry_that_is_set_after_accept_is_saved(
    site_of: Callable[..., Site], server_backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    async def handler(session: Session, send: Any) -> None:
        await send(ACCEPT)
        set_expiry(session, 60)
        await send(CLOSE)

    await connect(site, handler)
    clock.advance(60)
    assert await site.data() == {}


@each_backend
async def test_a_rejected_handshake_signs_no_user_in_under_the_old_id(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(n=1))

    async def handler(session: Session, send: Any) -> None:
        await users.sign_in(session, "ann")
        session["n"] = 2
        await send(CLOSE)

    await connect(site, handler)

    assert (await site.visit(users.get_user_id)).result is None
    assert await site.data() == {"n": 1 if getattr(site.app.config.backend, "is_client_side", False) else 2}


@each_server_backend
async def test_a_refused_handshake_rotates_nothing(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    async def handler(session: Session, send: Any) -> None:
        await session.regenerate_id()
        session["n"] = 1
        await send(CLOSE)

    await connect(site, handler)
    assert await site.data() == {"user": "ann", "n": 1}


async def test_a_failing_backend_at_accept_is_the_error_that_is_raised(
    site_of: Callable[..., Site],
) -> None:
    class Broken(InMemoryBackend):
        async def create(self, *args: Any) -> Any:
            raise ConnectionError("the store is down")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["user"] = "ann"
        await send(ACCEPT)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    site = Site(backend=Broken(), autoload=True)
    site.app.app = app
    with pytest.raises(ConnectionError, match="the store is down"):
        await site.app({"type": "websocket", "headers": []}, None, send)  # type: ignore[arg-type]
    assert sent == []


async def test_a_denial_response_is_kept_out_of_caches_too(site_of: Callable[..., Site]) -> None:
    site = site_of()

    async def handler(session: Session, send: Any) -> None:
        sign_in(session)
        headers = [(b"cache-control", b"public, max-age=60")]
        await send({"type": "websocket.http.response.start", "status": 403, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": b""})

    reply = await connect(site, handler)
    assert reply.all("cache-control") == ["no-store"]
    assert reply.all("vary") == ["Cookie"]


@each_server_backend
async def test_a_plain_dict_put_into_the_scope_after_accept_is_saved(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        scope["session"] = {"user": "bob"}

    usual, site.app.app = site.app.app, app
    await call(site.app, {"type": "websocket", "headers": site.browser.header()})
    site.app.app = usual
    assert await site.data() == {"user": "bob"}
