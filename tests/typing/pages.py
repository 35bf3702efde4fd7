"""The pages and the history, as an application uses them."""

from collections.abc import Callable
from gettext import NullTranslations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from starsessions import InMemoryBackend, SessionMiddleware
from starsessions.events import EndedByOperator, Event
from starsessions.history import HistoryEntry, SignInHistory, What
from starsessions.pages import MESSAGES, DevicesPages, OperatorPages, Page
from starsessions.users import UserSessions, get_user_id

app, backend = Starlette(), InMemoryBackend()
history = SignInHistory("sqlite+aiosqlite://", keep_for=86400)
users = UserSessions(backend, on_event=history.record)
told: list[str] = []


def render(request: Request, page: Page) -> Response:
    return HTMLResponse(page.body, page.status)


async def render_later(request: Request, page: Page) -> Response:
    return render(request, page)


def translate(request: Request) -> Callable[[str], str]:
    return NullTranslations().gettext


async def may(request: Request) -> bool:
    return request.method == "POST"


async def counts() -> dict[str, int]:
    return {"Messages": len(MESSAGES)}


def hear(event: Event) -> None:
    history.record(event)
    match event:
        case EndedByOperator(operator=operator, ended=ended):
            told.append(f"{operator.upper()}: {0 if ended is None else ended + 1}")
        case _:
            pass


async def download(request: Request) -> Response:
    page = await history.list("ann", limit=10)
    first: HistoryEntry = page[0]
    after: str | None = page.after
    times = [entry.at async for entry in history.export("ann")]
    told.append(after or f"{times[0]:%Y} {first.method if first.what is What.FAILED else first.agent}")
    return StreamingResponse(history.csv("ann"))


app.add_middleware(SessionMiddleware, backend=backend, on_event=hear)
app.mount("/a", DevicesPages(users, sign_in_url="/login", history=history, render=render, translate=translate))
app.mount("/b", DevicesPages(users, sign_in_url="/login", step_up=600, confirm_url="/confirm", translate={"a": "b"}))
app.mount("/c", DevicesPages(users, sign_in_url="/login", step_up=may, confirm_url="/confirm", render=render_later))
app.mount("/d", OperatorPages(users, guard=get_user_id, counts=counts, history=history, on_event=hear))
app.mount("/e", OperatorPages(users, guard=lambda request: None))
