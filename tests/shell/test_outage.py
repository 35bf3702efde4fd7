"""A store that fails: one clean answer before any header, or a request without a session if that is preferred.

The store here fails on command, so that each moment of a request can be looked at; real servers that are killed,
stopped and restarted are in tests/backends.
"""

import errno
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from starsessions import (
    BackendUnavailable,
    ImproperlyConfigured,
    InMemoryBackend,
    MissReason,
    Session,
    SessionMiddleware,
    get_miss_reason,
    set_expiry,
    update_atomically,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.lifecycle.outage import Outage, cause_of
from starsessions.stores.memory import MemoryStore
from starsessions.watch import revalidate
from tests.rows import rows
from tests.shell.test_websocket import connect
from tests.site import Clock, Reply, Site, call

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]


class Failing(MemoryStore):
    """Fails for as long as `fails` says so."""

    fails = False

    def _check_up(self) -> None:
        if self.fails:
            error = ConnectionError("SECRET")
            error.__context__ = ConnectionRefusedError(errno.ECONNREFUSED, "SECRET")
            raise BackendUnavailable("The store failed: ConnectionError.") from error

    async def get(self, *args: Any, **instants: int) -> Any:
        self._check_up()
        return await super().get(*args, **instants)

    async def create(self, *args: Any, **instants: int) -> Any:
        self._check_up()
        return await super().create(*args, **instants)

    async def replace(self, *args: Any, **instants: int) -> Any:
        self._check_up()
        return await super().replace(*args, **instants)

    async def delete(self, *args: Any, **instants: int) -> Any:
        self._check_up()
        return await super().delete(*args, **instants)


@pytest.fixture
def store() -> Failing:
    return Failing()


@pytest.fixture
def backend(store: Failing, clock: Clock) -> StoreBackend:
    return StoreBackend(store, clock=clock)


def sign_in(session: Session) -> None:
    session["user"] = "ann"


def status(reply: Reply) -> int:
    assert [message["type"] for message in reply.messages] == ["http.response.start", "http.response.body"]
    code: int = reply.messages[0]["status"]
    return code


@pytest.mark.guarantee(20)
@pytest.mark.parametrize("autoload", [True, False])
async def test_a_request_that_needs_its_session_is_answered_with_one_clean_503(
    site_of: Callable[..., Site],
    backend: StoreBackend,
    store: Failing,
    autoload: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = site_of(backend=backend, autoload=autoload)
    await site.visit(load_and(sign_in))
    store.fails = True
    reply = await site.visit(Session.load)
    assert status(reply) == 503
    assert reply.set_cookies == []
    assert reply.all("cache-control") == ["no-store"]
    assert reply.all("retry-after") == ["5"]
    assert "The session store failed" in caplog.text
    store.fails = False
    assert await site.data() == {"user": "ann"}


def load_and(act: Callable[[Session], None]) -> Callable[[Session], Any]:
    async def loaded(session: Session) -> None:
        await session.load()
        act(session)

    return loaded


@pytest.mark.guarantee(20)
async def test_a_session_that_cannot_be_saved_is_a_503_and_not_half_an_answer(
    site_of: Callable[..., Site], backend: StoreBackend, store: Failing
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in)

    def act(session: Session) -> None:
        session["cart"] = [1]
        store.fails = True

    assert status(await site.visit(act)) == 503
    store.fails = False
    assert await site.data() == {"user": "ann"}


@pytest.mark.guarantee(20)
async def test_a_failed_logout_is_not_reported_as_done(
    site_of: Callable[..., Site], backend: StoreBackend, store: Failing
) -> None:
    for settings in ({}, {"on_unavailable": "anonymous"}):
        site = site_of(backend=backend, **settings)
        await site.visit(sign_in)
        store.fails = True
        reply = await site.visit(Session.flush)
        assert (status(reply), reply.set_cookies) == (503, [])
        store.fails = False
        assert await site.data() == {"user": "ann"}


async def test_a_request_that_does_not_use_its_session_does_not_notice(
    site_of: Callable[..., Site], backend: StoreBackend, store: Failing
) -> None:
    site = site_of(backend=backend, autoload=False)
    await site.visit(load_and(sign_in))
    store.fails = True
    assert (await site.visit()).messages[0]["status"] == 200


@pytest.mark.guarantee(20)
async def test_anonymous_continues_without_the_session_and_leaves_its_cookie_alone(
    site_of: Callable[..., Site], backend: StoreBackend, store: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    site = site_of(backend=backend, on_unavailable="anonymous")
    await site.visit(sign_in)
    store.fails = True
    reply = await site.visit(lambda session: (dict(session), get_miss_reason(session)))
    assert reply.result == ({}, MissReason.UNAVAILABLE)
    assert reply.set_cookies == []
    assert "Requests continue with an empty session" in caplog.text
    store.fails = False
    assert await site.data() == {"user": "ann"}


async def test_a_session_that_could_not_be_loaded_is_not_taken_for_one_that_has_ended(
    site_of: Callable[..., Site], backend: StoreBackend, store: Failing
) -> None:
    """A WebSocket that asks would be closed as signed out, because of an outage that may last a moment."""
    site = site_of(backend=backend, on_unavailable="anonymous")
    await site.visit(sign_in)

    async def act(session: Session) -> None:
        await session.load()
        with pytest.raises(BackendUnavailable):
            await revalidate(session)

    store.fails = True
    await site.visit(act)


CHANGES: dict[str, Callable[[Session], Any]] = {
    "an item": sign_in,
    "clear": lambda session: session.clear(),
    "set_expiry": lambda session: set_expiry(session, 60),
    "delete": Session.delete,
    "flush": Session.flush,
    "regenerate_id": Session.regenerate_id,
    "persist": Session.persist,
    "update_atomically": lambda session: update_atomically(session, lambda data: data.update(n=1)),
}


@pytest.mark.guarantee(20)
@rows("change", CHANGES)
async def test_a_session_that_could_not_be_loaded_is_never_replaced_by_a_new_one(
    site_of: Callable[..., Site], backend: StoreBackend, store: Failing, change: str
) -> None:
    """Even if the store is back by the time of the change: it would end the session that was there."""
    site = site_of(backend=backend, on_unavailable="anonymous")
    await site.visit(sign_in)

    async def act(session: Session) -> None:
        assert len(session) == 0
        store.fails = False
        outcome = CHANGES[change](session)
        if outcome is not None:
            await outcome

    store.fails = True
    reply = await site.visit(act)
    assert (status(reply), reply.set_cookies) == (503, [])
    assert await site.data() == {"user": "ann"}


async def test_a_plain_dict_in_the_scope_does_not_replace_it_either(backend: StoreBackend, store: Failing) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = {"user": "eve"}
        await send({"type": "http.response.start", "status": 200, "headers": []})

    store.fails = True
    scope = {"type": "http", "headers": [(b"cookie", b"session=some-id")]}
    middleware = SessionMiddleware(app, backend=backend, autoload=True, on_unavailable="anonymous")
    assert status(await call(middleware, scope)) == 503
    assert len(store) == 0


async def test_an_outage_after_the_response_has_started_is_an_error(
    site_of: Callable[..., Site], backend: StoreBackend, store: Failing
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in)

    async def late(session: Session) -> None:
        store.fails = True
        await session.persist()

    with pytest.raises(BackendUnavailable):
        await site.visit(Session.load, after=late)


# What is logged


@pytest.mark.parametrize("outcome", ["error", "anonymous"])
async def test_an_outage_is_one_line_each_minute_and_one_at_its_end(
    site_of: Callable[..., Site],
    backend: StoreBackend,
    store: Failing,
    outcome: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hundreds of requests fail at once, and each traceback has a hundred lines."""
    minutes = Clock()
    monkeypatch.setattr("starsessions.lifecycle.config.Outage", partial(Outage, minutes))
    site = site_of(backend=backend, on_unavailable=outcome)
    await site.visit(sign_in)
    caplog.set_level(logging.INFO)

    async def requests(number: int) -> list[str]:
        caplog.clear()
        for _ in range(number):
            await site.visit(Session.load)
        assert all(record.exc_info is None for record in caplog.records)
        return [f"{record.levelname}: {record.getMessage()}" for record in caplog.records]

    means = {
        "error": "Requests that need their session are answered 503.",
        "anonymous": "Requests continue with an empty session.",
    }[outcome]
    why = "ConnectionError, ConnectionRefusedError, Connection refused."
    store.fails = True
    assert await requests(10) == [f"ERROR: The session store failed: {why} {means}"]
    minutes.advance(59)
    assert await requests(2) == []
    minutes.advance(1)
    assert await requests(3) == [
        f"ERROR: The session store still fails: {why} {means} Failed requests since the last message: 11."
    ]
    store.fails = False
    assert await requests(3) == ["WARNING: The session store works again. Failed requests since the last message: 2."]
    store.fails = True  # it comes and goes: no two lines for each time
    assert await requests(3) == []
    minutes.advance(60)
    assert await requests(1) == [
        f"ERROR: The session store failed: {why} {means} Failed requests since the last message: 3."
    ]
    store.fails = False
    assert await requests(3) == ["WARNING: The session store works again."]
    caplog.set_level(logging.DEBUG)
    store.fails = True
    await site.visit(Session.load)
    assert "Traceback" in caplog.text


@rows("link", ["__cause__", "__context__"])
def test_the_cause_of_an_outage_names_the_root_and_quotes_no_driver(link: str) -> None:
    for first, root, says in [
        (LookupError("SECRET"), None, "LookupError."),
        (LookupError("SECRET"), ValueError("SECRET"), "LookupError, ValueError."),
        (LookupError("SECRET"), OSError("SECRET"), "LookupError, OSError."),
    ]:
        error = BackendUnavailable("The store failed: LookupError.")
        error.__cause__ = first
        setattr(first, link, root)
        assert cause_of(error) == says


# What the application makes of it


def test_the_application_can_answer_by_itself(backend: StoreBackend, store: Failing) -> None:
    async def page(request: Request) -> PlainTextResponse:
        await request.session.load()  # type: ignore[attr-defined]
        return PlainTextResponse("never")

    async def sorry(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "come back later"}, 503)

    app = Starlette(
        routes=[Route("/", page)],
        middleware=[Middleware(SessionMiddleware, backend=backend)],
        exception_handlers={BackendUnavailable: sorry},
    )
    store.fails = True
    reply = TestClient(app).get("/", headers={"cookie": "session=some-id"})
    assert (reply.status_code, reply.json()) == (503, {"error": "come back later"})


async def test_an_applications_own_error_response_after_a_failed_save_is_sent(
    backend: StoreBackend, store: Failing
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["n"] = 1
        store.fails = True
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        except BackendUnavailable:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            raise

    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    middleware = SessionMiddleware(app, backend=backend, autoload=True)
    with pytest.raises(BackendUnavailable):
        await middleware({"type": "http", "headers": []}, None, send)  # type: ignore[arg-type]
    assert [message.get("status") for message in messages] == [500, None]


def test_a_mounted_application_that_answers_with_its_own_500_is_not_answered_twice(
    backend: StoreBackend, store: Failing
) -> None:
    async def page(request: Request) -> PlainTextResponse:
        await request.session.load()  # type: ignore[attr-defined]
        return PlainTextResponse("never")

    app = Starlette(
        routes=[Mount("/", app=Starlette(routes=[Route("/", page)]))],
        middleware=[Middleware(SessionMiddleware, backend=backend)],
    )
    store.fails = True
    client = TestClient(app, raise_server_exceptions=False)
    assert client.get("/", headers={"cookie": "session=some-id"}).status_code == 500


# WebSockets


async def test_a_websocket_that_needs_its_session_is_refused(
    site_of: Callable[..., Site], backend: StoreBackend, store: Failing, caplog: pytest.LogCaptureFixture
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in)
    store.fails = True

    async def handler(session: Session, send: Any) -> None:
        raise AssertionError("it is not called")

    reply = await connect(site, handler)
    assert reply.messages == [{"type": "websocket.close", "code": 1013}]
    assert "The session store failed" in caplog.text


async def test_a_websocket_is_refused_with_a_503_where_the_server_can_say_so(
    backend: StoreBackend, store: Failing
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await scope["session"].load()

    store.fails = True
    scope = {
        "type": "websocket",
        "headers": [(b"cookie", b"session=some-id")],
        "extensions": {"websocket.http.response": {}},
    }
    reply = await call(SessionMiddleware(app, backend=backend), scope)
    assert [message["type"] for message in reply.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert reply.messages[0]["status"] == 503


async def test_an_open_websocket_gets_an_error_for_an_unsaved_change(
    site_of: Callable[..., Site], backend: StoreBackend, store: Failing
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in)

    async def handler(session: Session, send: Any) -> None:
        await send({"type": "websocket.accept"})
        store.fails = True
        session["n"] = 1
        await session.persist()

    with pytest.raises(BackendUnavailable):
        await connect(site, handler)


# The life of the application


class Living(InMemoryBackend):
    """Says when it starts and ends; fails to start if it is told to."""

    def __init__(self, log: list[str], error: Exception | None = None) -> None:
        super().__init__()
        self.log = log
        self.error = error

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        return self._life()

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        if self.error:
            raise self.error
        self.log.append("backend starts")
        yield
        self.log.append("backend ends")


def test_the_backend_starts_and_stops_with_the_application() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        log.append("application starts")
        yield
        log.append("application ends")

    app = Starlette(lifespan=lifespan, middleware=[Middleware(SessionMiddleware, backend=Living(log))])
    with TestClient(app):
        log.append("serves")
    assert log == ["application starts", "backend starts", "serves", "application ends", "backend ends"]


async def test_the_backend_stops_before_the_server_is_told() -> None:
    log: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    async def send(message: Any) -> None:
        log.append(message["type"])

    await SessionMiddleware(app, backend=Living(log))({"type": "lifespan"}, None, send)  # type: ignore[arg-type]
    assert log == ["backend starts", "lifespan.startup.complete", "backend ends", "lifespan.shutdown.complete"]


def test_a_backend_that_cannot_start_stops_the_server_with_its_message() -> None:
    app = Starlette(middleware=[Middleware(SessionMiddleware, backend=Living([], ImproperlyConfigured("no table")))])
    with pytest.raises(ImproperlyConfigured, match="no table"), TestClient(app):
        raise AssertionError("it did start")


@rows("says_so", [False, True])
async def test_a_backend_that_cannot_start_reports_it_once_in_the_protocol(says_so: bool) -> None:
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "lifespan.startup.complete"})
        except ImproperlyConfigured:
            if says_so:
                await send({"type": "lifespan.startup.failed", "message": "in its own words"})
            raise

    async def send(message: Any) -> None:
        sent.append(message)

    middleware = SessionMiddleware(app, backend=Living([], ImproperlyConfigured("no table")))
    with pytest.raises(ImproperlyConfigured):
        await middleware({"type": "lifespan"}, None, send)  # type: ignore[arg-type]
    assert sent == [{"type": "lifespan.startup.failed", "message": "in its own words" if says_so else "no table"}]


def test_a_setting_that_does_not_exist_is_refused(site_of: Callable[..., Site]) -> None:
    with pytest.raises(ImproperlyConfigured, match="on_unavailable"):
        site_of(on_unavailable="ignore")
