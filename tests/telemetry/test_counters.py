"""What is counted besides loads and commits, and that it is counted from 0 on."""

from typing import get_args

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from starsessions import InMemoryBackend, Session, SessionMiddleware, csrf
from starsessions.backends.observer import By, Limit
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.csrf import WhyRefused
from starsessions.opentelemetry import _Operation
from tests.rows import rows
from tests.site import KEY, Clock, Site
from tests.telemetry.recorder import Recorder, instruments
from tests.telemetry.test_metrics_and_spans import Failing, Observed, change

pytestmark = pytest.mark.anyio


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@rows(
    ("headers", "reason"),
    [
        ({"origin": "https://evil.example", "sec-fetch-site": "cross-site"}, "cross-site"),
        ({"origin": "https://evil.example"}, "foreign origin"),
        ({"origin": "null"}, "null origin"),
        ({}, "no token"),
        ({"x-csrf-token": "made up"}, "stale token"),
    ],
)
def test_what_the_protection_against_csrf_rejects_is_counted_by_its_reason(
    headers: dict[str, str], reason: str
) -> None:
    recorder = Recorder()

    async def endpoint(request: Request) -> PlainTextResponse:
        await csrf.verify(request)
        raise AssertionError("the request was not rejected")

    app = Starlette(
        routes=[Route("/", endpoint, methods=["POST"])],
        middleware=[
            Middleware(SessionMiddleware, backend=InMemoryBackend(), telemetry=recorder.telemetry()),
            Middleware(csrf.CsrfMiddleware),
        ],
    )
    assert TestClient(app).post("/", headers=headers).status_code == 403
    assert recorder.points("starsessions.csrf.refused") == {reason: 1}


async def test_a_handshake_that_only_the_token_check_rejects_is_counted(recorder: Recorder, clock: Clock) -> None:
    session = Session(Observed(recorder, clock, backend=InMemoryBackend()).app.config.backend)
    scope = {"type": "websocket", "path": "/", "session": session}
    scope["headers"] = [(b"host", b"shop.example"), (b"origin", b"https://evil.example")]
    with pytest.raises(csrf.CsrfFailed):
        await csrf.verify(HTTPConnection(scope))
    assert recorder.points("starsessions.csrf.refused") == {"foreign origin": 1}


@rows("others", [[], [Middleware(StarlettesMiddleware, secret_key=KEY)]])
def test_what_is_rejected_outside_of_the_sessions_is_not_counted(others: list[Middleware]) -> None:
    recorder = Recorder()
    sessions = Middleware(SessionMiddleware, backend=InMemoryBackend(), telemetry=recorder.telemetry())
    app = Starlette(middleware=[*others, Middleware(csrf.CsrfMiddleware), sessions])
    assert TestClient(app).post("/", headers={"origin": "https://evil.example"}).status_code == 403
    assert recorder.points("starsessions.csrf.refused") == {}


@rows("operation", ["load", "commit"])
async def test_what_fails_is_counted_from_zero_on_by_its_operation(clock: Clock, operation: str) -> None:
    recorder, store = Recorder(), Failing()
    site = Observed(recorder, clock, backend=StoreBackend(store), on_unavailable="anonymous")
    await site.visit(change)
    assert ("starsessions.failures", operation) in recorder.zeros()

    def act(session: Session) -> None:
        store.fails = True
        change(session)

    store.fails = operation == "load"
    await site.visit(act if operation == "commit" else None)
    assert recorder.points("starsessions.failures") == {operation: 1}


async def test_counters_begin_at_zero_so_that_their_first_increment_is_one(recorder: Recorder, clock: Clock) -> None:
    Observed(recorder, clock, backend=InMemoryBackend())
    zeros = recorder.zeros()
    counters = {name for name, _, kind in instruments(recorder.telemetry()) if kind == "counter"}
    assert {name for name, _ in zeros} == counters - {"starsessions.sign_ins"}
    attributes = {*get_args(By), *get_args(Limit), *get_args(_Operation), *WhyRefused}
    assert {told for _, told in zeros if told} == attributes


@pytest.mark.parametrize("names", [[], ["session"], ["session", "admin"]])
async def test_what_a_sweep_by_hand_removes_is_counted_once(recorder: Recorder, clock: Clock, names: list[str]) -> None:
    """However many middlewares share the table, and although the application calls the backend that it made."""
    backend = SQLAlchemyBackend("sqlite+aiosqlite://", timeout=30, clock=clock)
    Site(backend=backend, clock=clock, session_cookie="unmeasured")
    for name in names:
        Observed(recorder, clock, backend=backend, session_cookie=name)
    await backend.create_table()
    async with backend.lifespan():
        await backend.store.create("a-key", b"", expires_at=int(clock()) + 60, now=int(clock()))
        clock.advance(61)
        assert await backend.sweep() == 1
    assert recorder.points("starsessions.sweep.removed") == ({"": 1} if names else {})
