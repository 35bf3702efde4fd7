"""Read by mypy, pyright and ty, never run: what an application needs in production, beside its pages."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, assert_type

import anyio
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider
from sqlalchemy import MetaData, Table
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from starsessions import BackendUnavailable, SessionMiddleware
from starsessions.backends.sqlalchemy import SQLAlchemyBackend, session_table
from starsessions.check import CHECKS, Check, Severity
from starsessions.health import HealthCheck, check_health
from starsessions.history import HistoryPage, SignInHistory, history_table
from starsessions.inventory import LivePage, LiveSession, Stats, live_sessions, stats
from starsessions.oidc import BackchannelLogout, CaepReceiver
from starsessions.opentelemetry import METHODS, OpenTelemetry
from starsessions.personal import ErasedUser, History, StoredSession, UserData, as_json, erase_user, export_user
from starsessions.stores import MemoryStore, Sweeping, Swept, sweep_all
from starsessions.timeouts import AAL1, AAL3, Timeouts
from starsessions.users import UserSessions

# The tables, as part of the metadata of the application's models.

metadata = MetaData()
assert_type(session_table(metadata, "web_sessions"), Table)
assert_type(history_table(metadata), Table)

backend = SQLAlchemyBackend("postgresql+asyncpg://db.example/app", "web_sessions", metadata=metadata)
history = SignInHistory(backend.engine, metadata=metadata)
sessions = UserSessions(backend, on_event=history.record)

# Sign-outs from an identity provider.


async def users_of(subject: Mapping[str, Any]) -> Iterable[str]:
    return [subject["email"]] if subject.get("format") == "email" else []


async def token() -> str:
    return "Bearer …"


logout = BackchannelLogout(
    sessions, issuer="https://idp.example", client_id="shop", algorithms=["RS256"], max_age=timedelta(minutes=5)
)
receiver = CaepReceiver(
    sessions,
    issuer="https://idp.example",
    audience="https://shop.example",
    users_of=users_of,
    state=lambda state: state == "1",
    keys={"keys": []},
)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    async with backend.lifespan(), anyio.create_task_group() as tasks:
        tasks.start_soon(receiver.poll, "https://idp.example/streams/1/events")
        yield
        tasks.cancel_scope.cancel()


async def fetch_events() -> None:
    await receiver.poll("https://idp.example/streams/1/events", authorization=token, pause=timedelta(seconds=5))


# Metrics, spans and probes.

telemetry = OpenTelemetry(store="main", methods=[*METHODS, "badge"], handles=True)


def telemetry_of(meters: MeterProvider, tracers: TracerProvider) -> OpenTelemetry:
    return OpenTelemetry(user_ids=True, meter_provider=meters, tracer_provider=tracers)


strict: Timeouts = AAL3
lax: Timeouts = {**AAL1, "rolling": False}

app = Starlette(
    routes=[
        Route("/readyz", HealthCheck(backend)),
        Route("/backchannel-logout", logout, methods=["POST"]),
        Route("/security-events", receiver, methods=["POST"]),
    ],
    middleware=[Middleware(SessionMiddleware, backend=backend, telemetry=telemetry, **strict)],
    lifespan=lifespan,
)


async def is_ready() -> bool:
    try:
        await check_health(backend)
        await check_health(MemoryStore())
    except BackendUnavailable:
        return False
    return True


# Jobs.


async def count() -> int:
    counted = await stats(backend, session_cookie="session", app_name="shop", on_page=print)
    assert_type(counted, Stats)
    telemetry.record_active(counted.sessions)
    return counted.signed_in + counted.anonymous - counted.users + counted.bytes // counted.size_p99


def shown(one: LiveSession) -> str:
    assert_type(one.signed_in_at, datetime | None)
    return f"{one.user_id or 'anonymous'}: {one.handle}, {one.began_at:%Y}, {one.last_used_at:%Y}, {one.size} bytes"


async def list_all() -> list[str]:
    told: list[str] = []
    async for page in live_sessions(backend):
        assert_type(page, LivePage)
        told += [shown(one) for one in page.sessions if one.user_id is not None]
        told.append(f"{page.unreadable} unreadable")
    return told


async def sweep(store: Sweeping) -> int:
    swept = await sweep_all(store, share=0.5, timeout=timedelta(minutes=10), on_batch=print)
    assert_type(swept, Swept)
    return 0 if swept.timed_out else swept.removed


def explain(number: str) -> str:
    check: Check = CHECKS[number]
    return check.cure if check.severity is Severity.ERROR else check.sentence


# What is stored of a user.


class Visits:
    async def export(self, user_id: str, /) -> AsyncIterator[str]:
        yield f"{user_id} was here"

    async def erase(self, user_id: str, /) -> int:
        return 1


visits: History = Visits()
sign_ins: History = history


async def export(user_id: str) -> str:
    data = await export_user(backend, user_id, history=sign_ins)
    assert_type(data, UserData)
    newest: StoredSession = data.sessions[0]
    assert_type(newest.data, dict[str, Any] | None)
    assert_type(newest.expires_at, datetime)
    return json.dumps(as_json(data if newest.is_live else data.history))


async def erase(user_id: str) -> int:
    found = await erase_user(backend, user_id, history=visits, dry_run=True)
    erased = await erase_user(backend, user_id, history=visits, on_event=print, on_page=print)
    assert_type(erased, ErasedUser)
    return erased.sessions + erased.entries + erased.history + erased.unreadable - found.sessions


async def sign_ins_of(user_id: str) -> list[str]:
    page = await history.list(user_id)
    assert_type(page, HistoryPage)
    return [one.method for one in page]
