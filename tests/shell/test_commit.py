"""Guarantee 11: saved before the first header leaves; afterwards nothing is lost in silence."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from starsessions import (
    CookieBackend,
    InMemoryBackend,
    ResponseStarted,
    Session,
    SessionBackend,
    SessionGone,
    SessionMiddleware,
    SessionNotLoaded,
    set_expiry,
    update_atomically,
)
from tests.kinds import each_backend, each_server_backend
from tests.rows import rows
from tests.site import KEY, Browser, DictBackend, Site, call

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]


def sign_in(session: Session) -> None:
    session["user"] = "ann"


async def one_piece(text: str) -> AsyncIterator[str]:
    yield text


RESPONSES: dict[str, Callable[[], Response]] = {
    "redirect": lambda: RedirectResponse("/elsewhere", 303),
    "stream": lambda: StreamingResponse(one_piece("part")),
    "server-sent events": lambda: StreamingResponse(one_piece("data: 1\n\n"), media_type="text/event-stream"),
    "not modified": lambda: Response(status_code=304),
    "no content": lambda: Response(status_code=204),
    "client error": lambda: Response(status_code=422),
}


@pytest.mark.guarantee(11)
@rows("kind", RESPONSES)
@rows("method", ["GET", "HEAD"])
def test_the_session_is_saved_with_every_kind_of_response(kind: str, method: str) -> None:
    async def endpoint(request: Request) -> Response:
        sign_in(request.session)  # type: ignore[arg-type]
        return RESPONSES[kind]()

    async def show(request: Request) -> Response:
        return JSONResponse(request.session)

    app = Starlette(
        routes=[Route("/", endpoint), Route("/show", show)],
        middleware=[Middleware(SessionMiddleware, backend=InMemoryBackend(), autoload=True)],
    )
    client = TestClient(app, follow_redirects=False)
    response = client.request(method, "/")
    assert "session=" in response.headers["set-cookie"]
    assert client.get("/show").json() == {"user": "ann"}


class Broken(DictBackend):
    def __init__(self, call: str) -> None:
        super().__init__()
        self.call = call
        self.broken = False

    async def _fail(self, call: str) -> None:
        await anyio.lowlevel.checkpoint()
        if self.broken and call == self.call:
            raise ConnectionError("the store is down")

    async def read(self, session_id: str) -> dict[str, Any]:
        await self._fail("read")
        return await super().read(session_id)

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        await self._fail("write")
        return await super().write(data, session_id)

    async def remove(self, session_id: str) -> None:
        await self._fail("remove")
        await super().remove(session_id)


@pytest.mark.guarantee(11)
@rows("failing", ["read", "write"])
async def test_a_failing_backend_is_one_clean_error_before_anything_is_sent(
    site_of: Callable[..., Site], failing: str
) -> None:
    backend = Broken(failing)
    site = site_of(backend=backend)
    await site.visit(sign_in)
    backend.broken = True
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    site.act = lambda session: session.update(n=1)
    with pytest.raises(ConnectionError):
        await site.app({"type": "http", "headers": site.browser.header()}, None, send)  # type: ignore[arg-type]
    assert sent == []

    backend.broken = False
    assert await site.data() == {"user": "ann"}


def test_a_failing_backend_becomes_a_500_that_sets_no_cookie() -> None:
    backend = Broken("write")
    backend.broken = True

    async def endpoint(request: Request) -> Response:
        request.session["user"] = "ann"
        return Response("fine")

    app = Starlette(
        routes=[Route("/", endpoint)], middleware=[Middleware(SessionMiddleware, backend=backend, autoload=True)]
    )
    response = TestClient(app, raise_server_exceptions=False).get("/")
    assert response.status_code == 500
    assert "set-cookie" not in response.headers


async def test_an_application_that_catches_the_error_can_still_answer(site_of: Callable[..., Site]) -> None:
    backend = Broken("write")
    backend.broken = True
    site = site_of(backend=backend)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["cart"] = ["tea"]  # a value that is compared again at the end of the request
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        except ConnectionError:
            await send({"type": "http.response.start", "status": 503, "headers": []})

    site.app.app = app
    reply = await site.visit()
    assert [message["status"] for message in reply.messages] == [503]
    assert reply.headers == []


@rows("kind", ["http", "websocket"])
@rows("save", [Session.persist, lambda session: update_atomically(session, len)], ids=["persist", ""])
async def test_saving_by_hand_after_the_save_failed_is_an_error_and_does_not_wait_for_ever(
    site_of: Callable[..., Site], save: Callable[[Session], Any], kind: str
) -> None:
    begins = {"http": "http.response.start", "websocket": "websocket.accept"}[kind]
    backend = Broken("write")
    values: list[Any] = [object(), "the backend fails"]  # before anything is waited for, and while it is
    for value in values if kind == "http" else values[1:]:
        site = site_of(backend=InMemoryBackend() if value is values[0] else backend)
        backend.broken = False
        await site.visit(sign_in)
        backend.broken = True

        async def app(scope: Any, receive: Any, send: Any, value: Any = value) -> None:
            scope["session"]["value"] = value
            with pytest.raises((TypeError, ConnectionError)):
                await send({"type": begins, "status": 200, "headers": []})
            with anyio.fail_after(60), pytest.raises(ResponseStarted, match="failed"):
                await save(scope["session"])

        site.app.app = app
        await call(site.app, {"type": kind, "headers": site.browser.header()})


async def test_a_handler_that_never_answers_has_changed_nothing_too_late(site_of: Callable[..., Site]) -> None:
    """The client has gone away, say: there is no response that the change could have missed."""
    site = site_of(backend=DictBackend())

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["cart"] = ["tea"]

    site.app.app = app
    assert (await site.visit()).messages == []


@each_server_backend
async def test_an_id_that_could_not_be_sent_is_not_taken_from_the_browser_by_a_late_save(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        session = scope["session"]
        await session.regenerate_id()
        session["value"] = (value for value in "abc")  # no backend keeps that
        with pytest.raises(TypeError):
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.start", "status": 500, "headers": []})
        dict.pop(session, "value")
        with pytest.raises(ResponseStarted, match="failed"):
            await session.persist()

    site.app.app, handle = app, site.app.app
    await site.visit()
    site.app.app = handle
    assert await site.data() == {"user": "ann"}


@each_server_backend
async def test_a_handler_that_fails_saves_nothing(site_of: Callable[..., Site], server_backend: SessionBackend) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    def act(session: Session) -> None:
        session["user"] = "bob"
        raise LookupError

    with pytest.raises(LookupError):
        await site.visit(act)
    assert await site.data() == {"user": "ann"}


@pytest.mark.guarantee(11)
def test_a_handler_of_an_error_can_change_the_session_unless_it_is_outside_of_all_middleware(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Starlette runs the handler of `Exception` (or of 500) around all middleware, where nothing can be saved."""

    async def fails(request: Request) -> Response:
        raise ValueError if "expected" in request.query_params else LookupError

    async def answer(request: Request, error: Exception) -> Response:
        return Response(f"user: {request.session.setdefault('user', type(error).__name__)}", 500)

    app = Starlette(
        routes=[Route("/", fails), Route("/show", lambda request: JSONResponse(request.session))],
        exception_handlers={ValueError: answer, Exception: answer},
        middleware=[Middleware(SessionMiddleware, backend=InMemoryBackend(), autoload=True)],
    )
    client = TestClient(app, raise_server_exceptions=False)
    unexpected = client.get("/")
    assert unexpected.text == "user: LookupError"
    assert "set-cookie" not in unexpected.headers
    client.get("/")
    assert client.get("/show").json() == {}
    assert caplog.text.count("error handler for Exception or 500") == 1
    assert client.get("/?expected").text == "user: ValueError"
    assert client.get("/show").json() == {"user": "ValueError"}
    assert client.get("/").text == "user: ValueError", "what is there can be read"


# After the response has started

LATE_CHANGES: list[Callable[[Session], object]] = [
    lambda session: session.__setitem__("late", 1),
    lambda session: session.__delitem__("user"),
    lambda session: session.update(late=1),
    lambda session: session.pop("user"),
    lambda session: session.clear(),
    lambda session: session.setdefault("late", 1),
    lambda session: session.popitem(),
    lambda session: session.__ior__({"late": 1}),
    lambda session: set_expiry(session, 5),
]


@pytest.mark.guarantee(11)
@each_server_backend
@rows("change", range(len(LATE_CHANGES)))
async def test_changing_the_session_after_the_response_started_raises_and_names_the_cure(
    site_of: Callable[..., Site], server_backend: SessionBackend, change: int
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    def late(session: Session) -> None:
        with pytest.raises(ResponseStarted, match=r"`await session\.persist\(\)`"):
            LATE_CHANGES[change](session)

    await site.visit(lambda session: session["user"], after=late)
    assert await site.data() == {"user": "ann"}


@each_backend
async def test_a_session_that_was_untouched_when_the_response_started_is_guarded_too(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in)

    def late(session: Session) -> None:
        assert session["user"] == "ann"
        with pytest.raises(ResponseStarted):
            session["late"] = 1

    await site.visit(after=late)


@pytest.mark.guarantee(11)
@each_server_backend
async def test_persist_saves_after_the_response_started(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(lambda session: session.update(cart=[1]))

    async def late(session: Session) -> None:
        session["cart"].append(2)
        await session.persist()
        session["progress"] = 50
        await session.persist()

    await site.visit(lambda session: session["cart"], after=late)
    assert await site.data() == {"cart": [1, 2], "progress": 50}


@pytest.mark.guarantee(11)
@each_server_backend
async def test_a_late_change_that_is_never_saved_raises(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(lambda session: session.update(cart=[1]))

    with pytest.raises(ResponseStarted, match=r"persist\(\)"):
        await site.visit(after=lambda session: session["cart"].append(2))

    async def by_hand(session: Session) -> None:
        await session.persist()
        session["cart"].append(2)

    with pytest.raises(ResponseStarted, match=r"persist\(\)"):
        await site.visit(lambda session: session["cart"], after=by_hand)
    assert await site.data() == {"cart": [1]}


@each_server_backend
async def test_a_cancelled_persist_raises_no_error_for_the_unsaved_change(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    """As Starlette does when the client leaves a stream: it cancels, and then returns as if all were well."""
    site = site_of(backend=server_backend)
    await site.visit(lambda session: session.update(cart=[1]))

    async def cancelled(session: Session) -> None:
        await session.persist()
        session["cart"].append(2)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await session.persist()

    await site.visit(after=cancelled)
    assert await site.data() == {"cart": [1]}

    async def changed_again(session: Session) -> None:
        await cancelled(session)
        await session.persist()
        session["cart"].append(3)

    with pytest.raises(ResponseStarted, match=r"persist\(\)"):
        await site.visit(after=changed_again)
    assert await site.data() == {"cart": [1, 2]}


@each_backend
async def test_reading_after_the_response_started_is_no_error(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in)
    reply = await site.visit(after=lambda session: session["user"])
    assert reply.headers == [(b"content-type", b"text/plain")]


@each_backend
async def test_a_change_that_needs_a_cookie_raises_after_the_headers_are_sent(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)

    async def late(session: Session) -> None:
        with pytest.raises(ResponseStarted, match="cookie"):
            session["new"] = 1
        with pytest.raises(ResponseStarted, match="cookie"):
            await session.persist()
        with pytest.raises(ResponseStarted, match="new id"):
            await session.regenerate_id()

    await site.visit(load, after=late)


async def load(session: Session) -> None:
    await session.load()


async def test_a_cookie_session_cannot_be_changed_or_ended_after_the_headers(site_of: Callable[..., Site]) -> None:
    site = site_of()
    await site.visit(sign_in)

    async def late(session: Session) -> None:
        for action in (session.persist, session.delete, session.flush):
            with pytest.raises(ResponseStarted):
                await action()

    await site.visit(lambda session: session["user"], after=late)
    assert await site.data() == {"user": "ann"}


@each_server_backend
async def test_a_logout_after_the_response_started_still_ends_the_session(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)
    await site.visit(after=Session.delete)
    assert await site.data() == {}


@each_server_backend
async def test_a_logout_after_the_response_started_of_a_visitor_without_a_session_is_no_error(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    async def twice(session: Session) -> None:
        await session.delete()
        await session.delete()

    site = site_of(backend=server_backend)
    await site.visit(after=Session.delete)
    await site.visit(sign_in)
    await site.visit(after=twice)
    assert await site.data() == {}


@each_backend
async def test_persist_before_the_response_saves_at_once_and_the_cookie_follows(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site, elsewhere = site_of(backend=backend), site_of(backend=backend)

    async def act(session: Session) -> dict[str, Any]:
        session["user"] = "ann"
        token = await session.persist()
        return await elsewhere.data(Browser({"session": token}))

    assert (await site.visit(act)).result == {"user": "ann"}
    assert await site.data() == {"user": "ann"}


@each_server_backend
async def test_persist_of_a_session_that_was_ended_meanwhile_raises_and_writes_nothing(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)

    async def act(session: Session) -> None:
        session["n"] = 1
        await server_backend.remove(site.browser.cookies["session"])
        with pytest.raises(SessionGone):
            await session.persist()

    reply = await site.visit(act)
    assert reply.set_cookies == []
    assert await site.data() == {}


@each_backend
async def test_without_loading_the_session_says_how_to_load(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend, autoload=False)
    for act in (
        dict,
        len,
        lambda session: session["a"],
        lambda session: session.update(a=1),
        lambda session: session.data,
    ):
        with pytest.raises(SessionNotLoaded, match=r"await session\.load\(\)"):
            await site.visit(act)
    with pytest.raises(SessionNotLoaded):
        await site.visit(Session.persist)


@each_backend
async def test_loading_twice_keeps_changes(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend, autoload=False)

    async def act(session: Session) -> None:
        await session.load()
        session["user"] = "ann"
        await session.load()

    await site.visit(act)
    assert await site.data() == {"user": "ann"}


async def test_background_tasks_may_save_by_hand() -> None:
    backend = InMemoryBackend()

    async def task(session: Session) -> None:
        await session.persist()
        session["done"] = True
        await session.persist()

    async def endpoint(request: Request) -> Response:
        session = request.session
        session["user"] = "ann"
        return Response(background=BackgroundTask(task, session))

    app = Starlette(
        routes=[Route("/", endpoint)], middleware=[Middleware(SessionMiddleware, backend=backend, autoload=True)]
    )
    await call(app, {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b""})
    assert list(backend.data.values()) == [{"user": "ann", "done": True}]


@pytest.mark.guarantee(11)
async def test_a_request_that_is_cancelled_while_it_saves_leaves_the_old_session_or_the_new_one(
    site_of: Callable[..., Site],
) -> None:
    class Slow(DictBackend):
        async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
            if "n" in data:
                scope.cancel()
                await anyio.lowlevel.checkpoint()
            return await super().write(data, session_id)

    site = site_of(backend=Slow())
    await site.visit(sign_in)
    with anyio.CancelScope() as scope:
        await site.visit(lambda session: session.update(n=1))
    assert scope.cancelled_caught
    assert await site.data() == {"user": "ann"}


@each_backend
async def test_def_endpoints_in_threads_use_the_session(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    from anyio.to_thread import run_sync

    site = site_of(backend=backend)
    await site.visit(lambda session: run_sync(sign_in, session))
    assert (await site.visit(lambda session: run_sync(dict, session))).result == {"user": "ann"}


async def test_copies_and_pickles_of_a_session_are_plain_data(site_of: Callable[..., Site]) -> None:
    import copy
    import pickle

    def act(session: Session) -> list[Any]:
        session["cart"] = [1]
        return [copy.copy(session), copy.deepcopy(session), pickle.loads(pickle.dumps(session))]

    for plain in (await site_of().visit(act)).result:
        assert type(plain) is dict
        assert plain == {"cart": [1]}


async def test_a_session_is_made_by_the_middleware_and_not_from_keys() -> None:
    with pytest.raises(TypeError, match=r"dict\.fromkeys"):
        Session.fromkeys(["a"])


async def test_two_sessions_of_one_browser_do_not_meet_in_one_cookie(site_of: Callable[..., Site]) -> None:
    one = site_of(backend=CookieBackend(KEY), session_cookie="one")
    two = site_of(backend=CookieBackend(KEY), session_cookie="two")
    two.browser = one.browser = Browser()
    await one.visit(lambda session: session.update(n=1))
    await two.visit(lambda session: session.update(n=2))
    assert (await one.data(), await two.data()) == ({"n": 1}, {"n": 2})


@each_backend
async def test_a_late_change_of_something_the_handler_held_is_an_error(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(cart=[1]))
    held: list[Any] = []
    with pytest.raises(ResponseStarted, match=r"persist\(\)"):
        await site.visit(lambda session: held.append(session["cart"]), after=lambda session: held[0].append(2))

    given: list[Any] = []

    def replace(session: Session) -> None:
        session.data = {"cart": given}

    with pytest.raises(ResponseStarted, match=r"persist\(\)"):
        await site.visit(replace, after=lambda session: given.append(1))


@each_server_backend
async def test_after_persist_a_change_or_an_expiry_that_is_not_saved_is_an_error(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)
    changes: list[Callable[[Session], object]] = [
        lambda session: session.update(n=1),
        lambda session: session.__setitem__("n", 1),
        lambda session: set_expiry(session, 60),
    ]
    for change in changes:

        async def late(session: Session, change: Callable[[Session], object] = change) -> None:
            await session.persist()
            change(session)

        with pytest.raises(ResponseStarted, match=r"persist\(\)"):
            await site.visit(lambda session: session["user"], after=late)
    assert await site.data() == {"user": "ann"}


async def test_a_dict_put_into_the_scope_after_the_response_started_is_an_error(site_of: Callable[..., Site]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope["session"] = {"late": True}

    site = site_of()
    site.app.app = app
    with pytest.raises(ResponseStarted):
        await site.visit()


@each_backend
async def test_a_dict_of_another_kind_is_taken_over_too(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    from collections import OrderedDict

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = OrderedDict(user="ann")
        await send({"type": "http.response.start", "status": 200, "headers": []})

    site = site_of(backend=backend)
    handle, site.app.app = site.app.app, app
    await site.visit()
    site.app.app = handle
    assert await site.data() == {"user": "ann"}


async def test_persist_of_a_session_that_autoload_fetched_sends_its_cookie(site_of: Callable[..., Site]) -> None:
    site = site_of(backend=DictBackend())
    reply = await site.visit(Session.persist)
    assert site.browser.cookies == {"session": reply.result}
