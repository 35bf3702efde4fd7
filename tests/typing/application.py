"""Read by mypy, pyright and ty, never run: one application that uses every feature, without a cast."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, assert_type

from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import HTMLResponse
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.templating import Jinja2Templates
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    InMemoryBackend,
    MissReason,
    Session,
    SessionMiddleware,
    csrf,
    flash,
    get_miss_reason,
    get_session,
    load_session,
    set_expiry,
    update_atomically,
    users,
)
from starsessions.backends.redis import RedisBackend
from starsessions.events import Event, Revoked, SignedIn
from starsessions.fastapi import CurrentSession, SignedInSession, UserId, fresh, safe_next, typed
from starsessions.stores import MemoryStore, Store, StoreBackend
from starsessions.testing import Clock, SessionOf, session_of
from starsessions.testing import sign_in as sign_in_client
from starsessions.timeouts import AAL2
from starsessions.typed import TypedSession
from starsessions.watch import move_on_when_ended, revalidate


@dataclass
class Shop:
    cart: list[str] = field(default_factory=list[str])
    theme: str = "light"


SHOP = TypedSession(Shop, prefix="shop_")
store: Store = MemoryStore()
backend = StoreBackend(store, encrypt_with="a key of 32 random bytes or more")
devices = users.UserSessions(backend)
templates = Jinja2Templates("templates", context_processors=[csrf.context_processor, flash.context_processor])


async def heard(event: Event) -> None:
    match event:
        case SignedIn(handle=handle, user_id=user_id):
            assert_type((handle, user_id), tuple[str, str])
        case Revoked():
            pass
        case _:
            pass


app = FastAPI(dependencies=[Depends(csrf.verify)])
app.add_middleware(
    SessionMiddleware,
    backend=backend,
    on_event=heard,
    max_sessions_per_user=10,
    app_name="shop",
    https_only=True,
    **AAL2,
)
app.add_middleware(
    SessionMiddleware, backend=store, session_cookie="admin", scope_key="admin", rotate_every=timedelta(1)
)
app.add_middleware(
    SessionMiddleware, secret_key=["new", "old"], autoload=True, max_age=timedelta(hours=1), rolling=True
)
app.add_middleware(SessionMiddleware, backend=CookieBackend("TOP SECRET", revocations=store))
app.add_middleware(SessionMiddleware, backend=RedisBackend("redis://localhost", timeout=timedelta(seconds=1)))
app.add_middleware(csrf.CsrfMiddleware, trusted_origins=["https://admin.example"])


@app.exception_handler(BackendUnavailable)
async def down(request: Request, error: Exception) -> Response:
    return PlainTextResponse("Come back in a moment.", 503)


@app.post("/login")
async def login(session: CurrentSession, name: str, wanted: str = "/") -> Response:
    assert_type(await users.sign_in(session, name, remember=True, method="password", stamp="hash"), str)
    await users.sign_in(session, name, provider="https://idp", provider_session="1", provider_subject="2")
    flash.add_flash(session, "Welcome.", "success")
    return PlainTextResponse(safe_next(wanted))


@app.get("/me")
def me(session: SignedInSession, user: UserId, request: Request) -> str:
    assert_type(session, Session)
    assert_type(user, str)
    assert_type(users.get_user_id(request), str | None)
    assert_type(get_miss_reason(request.session), MissReason | None)
    return str(session.get("visits", 0))


@app.post("/email")
async def email(session: Annotated[Session, Depends(fresh(within=timedelta(minutes=10)))]) -> int:
    assert_type(users.is_fresh(session, within=600), bool)
    return await devices.revoke_others(session)


@app.get("/devices")
async def list_devices(session: SignedInSession, user: UserId, after: str | None = None) -> list[str]:
    page = await devices.list(user, current=session, limit=20, after=after)
    assert_type(page, users.UserSessionPage)
    assert_type(page.after, str | None)
    return [label(device) for device in page if not device.is_current]


def label(device: users.UserSession) -> str:
    return f"{device.agent}, {device.address}, since {device.signed_in_at:%d %B}, last used {device.last_used_at:%d %B}"


@app.post("/devices")
async def end_device(user: UserId, handle: str) -> bool:
    return await devices.revoke(user, handle)


@app.get("/account")
async def account(session: SignedInSession) -> str:
    if not await users.check_stamp(session, "hash of the password"):
        raise HTTPException(401)
    assert_type(users.get_signed_in_at(session), datetime | None)
    assert_type(users.get_handle(session), str | None)
    return f"signed in at {users.get_signed_in_at(session)}"


@app.get("/shop")
async def shop(shop: Annotated[Shop, Depends(typed(SHOP))], request: Request) -> HTMLResponse:
    shop.cart.append("tea")
    assert_type((await SHOP.load(request)).theme, str)
    return templates.TemplateResponse(request, "shop.html", {"messages": flash.pop_flashes(request)})


async def by_request(request: Request) -> Response:
    session = await load_session(request)
    assert_type(session, Session)
    assert_type(get_session(request, "admin"), Session)
    set_expiry(request, timedelta(days=1))

    def count(data: dict[str, Any]) -> int:
        data["n"] = data.get("n", 0) + 1
        return len(data)

    assert_type(await update_atomically(request, count), int)
    assert_type(await session.regenerate_id(), str)
    await users.sign_out(request, clear_site_data=True)
    return Response()


@app.websocket("/live")
async def live(websocket: WebSocket) -> None:
    await websocket.accept()
    async with move_on_when_ended(websocket, check_every=timedelta(seconds=5)) as scope:
        async for text in websocket.iter_text():
            await websocket.send_text(text)
    if scope.cancelled_caught or not await revalidate(websocket):
        await websocket.close(1008)


def test_the_page() -> None:
    InMemoryBackend(clock=Clock())
    client = TestClient(app)
    sign_in_client(client, "42")
    one: SessionOf = session_of(client)
    with one as session:
        assert_type(session, Session)
