"""Read by mypy, pyright and ty, never run: the public names as an application uses them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    EncryptedCookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    MissReason,
    ResponseStarted,
    Session,
    SessionBackend,
    SessionConflict,
    SessionError,
    SessionGone,
    SessionMiddleware,
    SessionNotLoaded,
    SessionTooLarge,
    TooManySessions,
    UnsupportedValue,
    get_created_at,
    get_miss_reason,
    get_remaining,
    get_session,
    load_session,
    set_expiry,
)
from starsessions.backends.urls import backend_from_url
from starsessions.check import Finding, Severity, check
from starsessions.timeouts import AAL2


# As code that was written for Starlette uses it: a dict.
async def as_a_dict(request: Request) -> Response:
    assert_type(request.session, dict[str, Any])
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(dict(request.session))


async def whole_api(request: Request) -> Response:
    session = get_session(request)

    assert_type(await session.load(), None)
    assert_type(await session.persist(), str)
    assert_type(await session.regenerate_id(), str)
    assert_type(await session.flush(), str)
    assert_type(await session.delete(), None)

    assert_type(session.is_loaded, bool)
    assert_type(session.is_modified, bool)
    assert_type(session.is_empty, bool)
    assert_type(session.session_id, str | None)
    assert_type(session.data, dict[str, Any])
    assert_type(get_miss_reason(session), MissReason | None)
    assert_type(get_created_at(request), datetime | None)
    assert_type(get_remaining(request), float | None)
    session.is_loaded = True
    session.data = {"key": "value"}

    assert_type(set_expiry(session, 3600), None)
    set_expiry(session, timedelta(days=30))
    set_expiry(session, datetime.now(UTC))
    set_expiry(session, 0)
    set_expiry(session, None)
    assert_type(session.mark_accessed(), None)
    assert_type(session.mark_modified(), None)
    return Response()


async def checked(app: Starlette) -> list[str]:
    findings = await check(app, silence=["S203"], timeouts=AAL2)
    assert_type(findings, list[Finding])
    return [one.number for one in findings if one.severity >= Severity.WARNING]


backend: SessionBackend = backend_from_url("memory://", secret_key="a key of 32 random bytes or more")


def mapping_api(session: Session) -> dict[str, Any]:
    assert_type("key" in session, bool)
    assert_type(len(session), int)
    for key in session:
        assert_type(key, str)
    for key in reversed(session):
        assert_type(key, str)
    for item in session.items():
        assert_type(item, tuple[str, Any])
    for key in session.keys():  # noqa: SIM118
        assert_type(key, str)
    assert_type(list(session.values()), list[Any])
    assert_type(session.copy(), dict[str, Any])
    session["key"] = {"nested": [1, 2]}
    session["key"]["nested"].append(3)
    del session["key"]
    session |= {"key": "value"}
    session.update({"key": "value"}, other=1)
    session.update(key="value")
    session.setdefault("cart", []).append("apple")
    count: int = session.get("count", 0)
    session["count"] = count + 1
    text: str = session.pop("text", "")
    popped_key, _ = session.popitem()
    assert_type(popped_key, str)
    session.clear()
    session.update(text=text)
    return session


async def by_hand() -> None:
    session = Session(InMemoryBackend(), "session_id")
    await session.load()
    session = Session(backend=CookieBackend("a key", 3600), session_id=None)
    await session.load()


async def backends() -> None:
    for backend in (
        InMemoryBackend(),
        CookieBackend("a key"),
        CookieBackend(secret_key=["new key", b"old key", Secret("older key")], max_age=timedelta(hours=1)),
        CookieBackend("a key", compress=True, max_cookies=3),
        EncryptedCookieBackend("a key", max_age=3600, accept_signed="old key"),
    ):
        assert_type(await backend.read("session_id"), dict[str, Any])
        assert_type(await backend.write({"key": "value"}), str)
        assert_type(await backend.write({"key": "value"}, "session_id"), str)
        assert_type(await backend.write(data={"key": "value"}, session_id=None), str)
        assert_type(await backend.remove("session_id"), None)
        assert_type(await backend.exists("session_id"), bool)
        assert_type(await backend.generate_id(), str)
    assert_type(InMemoryBackend().data, Mapping[str, dict[str, Any]])


async def errors(session: Session) -> None:
    try:
        session["key"] = object()
        await session.persist()
    except SessionTooLarge as error:
        assert_type(error.size, int)
        assert_type(error.limit, int)
        assert_type(error.largest, list[tuple[str, int]])
    except UnsupportedValue as error:
        assert_type(error.path, str)
        assert_type(error.kind, str)
    except (SessionConflict, SessionGone, TooManySessions):
        pass  # another request was faster
    except (BackendUnavailable, ImproperlyConfigured, ResponseStarted, SessionNotLoaded) as error:
        root: SessionError = error
        raise root from None


def reasons(session: Session) -> str:
    match get_miss_reason(session):
        case None:
            return "lives"
        case MissReason.EXPIRED | MissReason.OVER_ABSOLUTE:
            return "too late"
        case why:
            return why


async def talk(websocket: WebSocket) -> None:
    session = await load_session(websocket)
    await websocket.accept()
    session["connected"] = True
    await session.persist()


app = Starlette(
    routes=[Route("/", as_a_dict), Route("/all", whole_api), WebSocketRoute("/ws", talk)],
    middleware=[
        Middleware(SessionMiddleware, secret_key="TOP SECRET"),
        Middleware(SessionMiddleware, secret_key="TOP SECRET", autoload=True),
        Middleware(SessionMiddleware, backend=CookieBackend(secret_key="secret", max_age=3600)),
        Middleware(
            SessionMiddleware,
            secret_key=["new key", "old key"],
            autoload=True,
            session_cookie="__Host-session",
            max_age=timedelta(days=14),
            same_site="none",
            https_only=True,
            path="/",
            domain=None,
            partitioned=True,
            absolute_timeout=timedelta(days=30),
            rolling=True,
            renew_every=600,
            scope_key="other_session",
        ),
    ],
)
app.add_middleware(SessionMiddleware, backend=InMemoryBackend())
app.add_middleware(SessionMiddleware, secret_key=Secret("TOP SECRET"), max_age=None, autoload=True)
wrapped = SessionMiddleware(app, "TOP SECRET")
