"""FastAPI: `async def` and `def` endpoints, dependencies, routers, mounted applications, WebSockets."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.responses import RedirectResponse, StreamingResponse

from starsessions import InMemoryBackend, Session, SessionBackend, SessionMiddleware
from tests.history.pages import BrowserOf, said, take_cookies
from tests.kinds import each_backend, each_server_backend
from tests.rows import rows
from tests.site import KEY


@pytest.fixture
def app(backend: SessionBackend) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=backend, autoload=True)
    return app


def show(request: Request) -> dict[str, Any]:
    return dict(request.session)


def count(session: dict[str, Any], name: str) -> None:
    session[name] = session.get(name, 0) + 1


# Endpoints


@pytest.mark.both_loops
def test_async_def_and_def_endpoints_share_the_session(app: FastAPI, browser_of: BrowserOf) -> None:
    @app.get("/async")
    async def in_the_loop(request: Request) -> dict[str, Any]:
        count(request.session, "async")
        return request.session

    @app.get("/def")
    def in_a_thread(request: Request) -> dict[str, Any]:
        count(request.session, "def")
        return request.session

    browser = browser_of(app)
    assert browser.get("/async").json() == {"async": 1}
    assert browser.get("/def").json() == {"async": 1, "def": 1}
    assert browser.get("/async").json() == {"async": 2, "def": 1}


def test_nested_changes_in_a_def_endpoint_are_kept(app: FastAPI, browser_of: BrowserOf) -> None:
    app.get("/")(show)

    @app.post("/cart/{item}")
    def put(item: str, request: Request) -> None:
        request.session.setdefault("cart", []).append({"item": item, "count": 1})

    @app.put("/cart/{index}")
    def change(index: int, request: Request) -> None:
        request.session["cart"][index]["count"] += 1

    browser = browser_of(app)
    browser.post("/cart/apple")
    browser.post("/cart/pear")
    browser.put("/cart/1")
    assert browser.get("/").json() == {"cart": [{"item": "apple", "count": 1}, {"item": "pear", "count": 2}]}


@pytest.mark.both_loops
def test_a_session_is_saved_with_redirects_streams_and_custom_responses(app: FastAPI, browser_of: BrowserOf) -> None:
    app.get("/")(show)

    @app.get("/redirect")
    async def redirect(request: Request) -> RedirectResponse:
        count(request.session, "redirect")
        return RedirectResponse("/")

    @app.get("/stream")
    def stream(request: Request) -> StreamingResponse:
        count(request.session, "stream")
        return StreamingResponse(iter(["a", "b"]))

    @app.get("/empty", status_code=204)
    def empty(request: Request) -> Response:
        count(request.session, "empty")
        return Response(status_code=204)

    browser = browser_of(app)
    assert browser.get("/redirect").json() == {"redirect": 1}
    assert browser.get("/stream").text == "ab"
    assert browser.get("/empty").status_code == 204
    assert browser.get("/").json() == {"redirect": 1, "stream": 1, "empty": 1}


def test_changes_before_an_http_exception_are_saved(app: FastAPI, browser_of: BrowserOf) -> None:
    app.get("/")(show)

    @app.post("/login")
    def login(request: Request) -> None:
        count(request.session, "failures")
        raise HTTPException(403)

    browser = browser_of(app)
    assert browser.post("/login").status_code == 403
    assert browser.get("/").json() == {"failures": 1}


def test_background_tasks_may_read_the_session(app: FastAPI, browser_of: BrowserOf) -> None:
    seen: list[dict[str, Any]] = []

    @app.get("/")
    def endpoint(request: Request, tasks: BackgroundTasks) -> None:
        count(request.session, "visits")
        tasks.add_task(lambda: seen.append(dict(request.session)))

    browser_of(app).get("/")
    assert seen == [{"visits": 1}]


def test_a_background_task_may_change_a_server_side_session_and_persist_it(browser_of: BrowserOf) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=InMemoryBackend(), autoload=True)
    app.get("/")(show)

    async def later(session: Any) -> None:
        await session.persist()
        session["sent"] = True
        await session.persist()

    @app.post("/mail")
    def mail(request: Request, tasks: BackgroundTasks) -> None:
        count(request.session, "mails")
        tasks.add_task(later, request.session)

    browser = browser_of(app)
    browser.post("/mail")
    assert browser.get("/").json() == {"mails": 1, "sent": True}


# Dependencies


async def loaded(request: Request) -> Session:
    session = request.session
    assert isinstance(session, Session)
    await session.load()
    return session


LoadedSession = Annotated[Session, Depends(loaded)]


def user_of(session: LoadedSession) -> str:
    if "user" not in session:
        raise HTTPException(401)
    user: str = session["user"]
    return user


@each_backend
@rows("autoload", [True, False])
def test_a_dependency_loads_the_session_for_async_def_and_def_endpoints(
    backend: SessionBackend, browser_of: BrowserOf, autoload: bool
) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=backend, autoload=autoload)

    @app.post("/login/{user}")
    async def login(user: str, session: LoadedSession) -> str:
        session["user"] = user
        return await session.regenerate_id()

    @app.get("/whoami")
    def whoami(user: Annotated[str, Depends(user_of)]) -> str:
        return user

    @app.post("/logout")
    async def logout(session: LoadedSession) -> None:
        await session.delete()

    browser = browser_of(app)
    assert browser.get("/whoami").status_code == 401
    browser.post("/login/ann")
    assert browser.get("/whoami").json() == "ann"
    browser.post("/logout")
    assert not browser.cookies
    assert browser.get("/whoami").status_code == 401


def test_dependencies_with_yield_change_the_session_before_the_endpoint_runs(
    app: FastAPI, browser_of: BrowserOf
) -> None:
    def in_a_thread(request: Request) -> Iterator[None]:
        count(request.session, "def")
        yield

    async def in_the_loop(request: Request) -> AsyncIterator[None]:
        count(request.session, "async")
        yield

    app.get("/", dependencies=[Depends(in_a_thread), Depends(in_the_loop)])(show)
    browser = browser_of(app)
    assert browser.get("/").json() == {"def": 1, "async": 1}
    assert browser.get("/").json() == {"def": 2, "async": 2}


# Routers and mounted applications


def test_a_router_shares_the_session(app: FastAPI, browser_of: BrowserOf) -> None:
    router = APIRouter(prefix="/shop", dependencies=[Depends(loaded)])

    @router.post("/visit")
    def visit(session: LoadedSession) -> None:
        count(session, "visits")

    app.include_router(router)
    app.get("/")(show)
    browser = browser_of(app)
    response = browser.post("/shop/visit")
    assert said(response.headers["set-cookie"])["path"] == "/"
    assert browser.get("/").json() == {"visits": 1}


def test_a_mounted_application_shares_the_session_of_the_outer_one(app: FastAPI, browser_of: BrowserOf) -> None:
    mounted = FastAPI()

    @mounted.post("/visit")
    def visit(request: Request) -> None:
        count(request.session, "visits")

    app.mount("/mounted", mounted)
    app.get("/")(show)
    browser = browser_of(app)
    response = browser.post("/mounted/visit")
    assert said(response.headers["set-cookie"])["path"] == "/"
    assert browser.get("/").json() == {"visits": 1}


def test_a_mounted_application_with_its_own_middleware_has_its_own_session(app: FastAPI, browser_of: BrowserOf) -> None:
    mounted = FastAPI()
    mounted.add_middleware(SessionMiddleware, secret_key=KEY, session_cookie="mounted", autoload=True)

    @mounted.post("/visit")
    def visit(request: Request) -> dict[str, Any]:
        count(request.session, "mounted")
        return request.session

    @app.post("/visit")
    def outer_visit(request: Request) -> dict[str, Any]:
        count(request.session, "outer")
        return request.session

    app.mount("/mounted", mounted)
    browser = browser_of(app)
    assert browser.post("/visit").json() == {"outer": 1}
    response = browser.post("/mounted/visit")
    assert response.json() == {"mounted": 1}
    assert said(response.headers["set-cookie"])["path"] == "/"
    assert browser.post("/mounted/visit").json() == {"mounted": 2}
    assert browser.post("/visit").json() == {"outer": 2}


def test_the_root_path_does_not_change_the_path_of_the_cookie(app: FastAPI, browser_of: BrowserOf) -> None:
    @app.get("/visit")
    def visit(request: Request) -> dict[str, Any]:
        count(request.session, "visits")
        return request.session

    browser = browser_of(app, root_path="/api")
    assert said(browser.get("/visit").headers["set-cookie"])["path"] == "/"


# WebSockets


def socket_of(app: FastAPI) -> Callable[..., Any]:
    app.get("/")(show)

    @app.post("/login")
    def login(session: LoadedSession) -> None:
        session["user"] = "ann"

    return app.websocket("/ws")


async def over_a_socket(websocket: WebSocket) -> Session:
    session = websocket.session
    assert isinstance(session, Session)
    await session.load()
    return session


@each_backend
@rows("autoload", [True, False])
def test_a_websocket_reads_the_session_of_the_page(
    backend: SessionBackend, browser_of: BrowserOf, autoload: bool
) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=backend, autoload=autoload)

    @socket_of(app)
    async def talk(websocket: WebSocket, session: Annotated[Session, Depends(over_a_socket)]) -> None:
        await websocket.accept()
        await websocket.send_text(session["user"])
        await websocket.close()

    browser = browser_of(app)
    browser.post("/login")
    with browser.websocket_connect("/ws") as websocket:
        assert websocket.receive_text() == "ann"


def test_a_websocket_begins_a_session_before_it_accepts(app: FastAPI, browser_of: BrowserOf) -> None:
    @socket_of(app)
    async def talk(websocket: WebSocket) -> None:
        websocket.session["connected"] = True
        await websocket.accept()
        await websocket.close()

    browser = browser_of(app)
    with browser.websocket_connect("/ws") as websocket:
        take_cookies(browser, websocket)
    assert browser.get("/").json() == {"connected": True}


@each_server_backend
def test_changes_on_an_open_websocket_are_saved(server_backend: SessionBackend, browser_of: BrowserOf) -> None:
    app = FastAPI()
    app.add_middleware(SessionMiddleware, backend=server_backend, autoload=True)

    @socket_of(app)
    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            websocket.session.setdefault("said", []).append(text)

    browser = browser_of(app)
    browser.post("/login")
    with browser.websocket_connect("/ws") as websocket:
        websocket.send_text("hello")
        websocket.send_text("goodbye")
    assert browser.get("/").json() == {"user": "ann", "said": ["hello", "goodbye"]}
