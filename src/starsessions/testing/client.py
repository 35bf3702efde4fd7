"""The session of a test client, for a test to read and write directly.

    client = TestClient(app)
    with session_of(client) as session:
        session["user"] = "ann"
    assert client.get("/me").text == "ann"
    sign_in(client, "42")

It works like one more request of that client: it sends the client's cookies through the application's own middleware,
backend and clock, and the client keeps the cookie of the response.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from copy import copy
from email.message import Message as Headers
from http.cookiejar import CookieJar
from types import TracebackType
from typing import Any, NamedTuple, Protocol, overload
from urllib.parse import urlsplit
from urllib.request import Request

from anyio import Event, create_task_group, sleep_forever
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.applications import Starlette
from starlette.routing import BaseRoute, Host, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starsessions import users
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.lifecycle.startup import Misconfigured
from starsessions.middleware import SessionMiddleware
from starsessions.session import Session

_MOST_LAYERS = 100


class Client(Protocol):
    """A `TestClient` of Starlette or FastAPI, or an httpx `AsyncClient` with an `ASGITransport`."""

    @property
    def cookies(self) -> Any:
        """Its cookies, with a `jar` from the standard library."""

    @property
    def base_url(self) -> Any:
        """The URL that relative request URLs are resolved against."""


def session_of(client: Client, *, session_cookie: str | None = None, app: ASGIApp | None = None) -> "SessionOf":
    """Open the session of a client: use `with` for a test client, and `async with` for an asynchronous one.

    Changes are saved at the end of the block, unless it raises.

    Args:
        client: a `TestClient`, or an httpx `AsyncClient` with an `ASGITransport`.
        session_cookie: the name of the session's cookie, if the application has several sessions. None: the only one.
        app: the application, if the client does not reveal it. None: the client's application.

    Raises:
        ImproperlyConfigured: the application has no session middleware, or several.
        TypeError: the client's application is unknown.

    >>> from starlette.applications import Starlette
    >>> from starlette.middleware import Middleware
    >>> from starlette.testclient import TestClient
    >>> app = Starlette(middleware=[Middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more")])
    >>> client = TestClient(app)
    >>> with session_of(client) as session:
    ...     session["user"] = "ann"
    >>> with session_of(client) as session:
    ...     session["user"]
    'ann'
    """
    application: Any = app if app is not None else _app_of(client)
    installed = list(_installed_in(application, _root_path_of(client)))
    if session_cookie is not None:
        found = [one for one in installed if one.middleware.config.cookie.name == session_cookie]
    else:  # the application's own middlewares take precedence over those of mounted applications
        found = [one for one in installed if not one.is_mounted] or installed
    if len(found) != 1:
        names = ", ".join(repr(one.middleware.config.cookie.name) for one in installed) or "none"
        raise ImproperlyConfigured(
            f"session_of() needs one SessionMiddleware, but found {len(found)} (all cookies: {names}): choose one with "
            "session_cookie=…, and pass app=… if the client does not reveal the application."
        )
    return SessionOf(client, found[0])


class _AsyncClient(Client, Protocol):
    def aclose(self) -> Any:
        """Close the client. Only an asynchronous client has this method."""


class _TestClient(Client, Protocol):
    @property
    def portal(self) -> Any:
        """The portal to the event loop. Only a test client has this attribute."""


@overload
def sign_in(
    client: _AsyncClient,
    user_id: str,
    *,
    remember: bool | None = None,
    keep_data: bool = True,
    method: str = "",
    session_cookie: str | None = None,
    app: ASGIApp | None = None,
) -> Coroutine[Any, Any, None]: ...
@overload
def sign_in(
    client: _TestClient,
    user_id: str,
    *,
    remember: bool | None = None,
    keep_data: bool = True,
    method: str = "",
    session_cookie: str | None = None,
    app: ASGIApp | None = None,
) -> None: ...
def sign_in(
    client: Client,
    user_id: str,
    *,
    remember: bool | None = None,
    keep_data: bool = True,
    method: str = "",
    session_cookie: str | None = None,
    app: ASGIApp | None = None,
) -> Coroutine[Any, Any, None] | None:
    """Sign a user in with this client, as `users.sign_in(session)` does in a handler. Await it for an async client.

    Args:
        client: a `TestClient`, or an httpx `AsyncClient` with an `ASGITransport`.
        user_id: the id of the user.
        remember: as for `users.sign_in`.
        keep_data: keep the session's data; otherwise it is cleared.
        method: how the user signed in, for the list of sessions.
        session_cookie: the name of the session's cookie, if the application has several sessions. None: the only one.
        app: the application, if the client does not reveal it. None: the client's application.

    >>> from starlette.applications import Starlette
    >>> from starlette.middleware import Middleware
    >>> from starlette.testclient import TestClient
    >>> from starsessions import InMemoryBackend
    >>> app = Starlette(middleware=[Middleware(SessionMiddleware, backend=InMemoryBackend())])
    >>> client = TestClient(app)
    >>> sign_in(client, "42")
    >>> with session_of(client) as session:
    ...     users.get_user_id(session)
    '42'
    """
    opened = session_of(client, session_cookie=session_cookie, app=app)
    return opened.run(
        lambda session: users.sign_in(session, user_id, remember=remember, keep_data=keep_data, method=method)
    )


class SessionOf:
    """The context manager that `session_of()` returns. It yields the loaded session, and saves it on exit."""

    def __init__(self, client: Client, installed: "_Installed") -> None:
        self._client = client
        self._installed = installed
        self._is_sync = hasattr(client, "async_backend")

    def __enter__(self) -> Session:
        if not self._is_sync:
            raise TypeError("This client is asynchronous: use `async with session_of(client) as session`.")
        with ExitStack() as stack:
            portal = stack.enter_context(self._portal())
            session: Session = stack.enter_context(portal.wrap_async_context_manager(self._visit()))
            self._open = stack.pop_all()
        return session

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Session:
        if self._is_sync:
            raise TypeError("This client is not asynchronous: use `with session_of(client) as session`.")
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(self._visit())
            self._open_async = stack.pop_all()
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open_async.__aexit__(kind, error, traceback)

    def run(self, act: Callable[[Session], Awaitable[object]]) -> Coroutine[Any, Any, None] | None:
        """Run `act` with the open session: at once, or as a coroutine if the client is asynchronous."""

        async def do() -> None:
            async with self._visit() as session:
                await act(session)

        if not self._is_sync:
            return do()
        with self._portal() as portal:
            portal.call(do)
        return None

    @contextmanager
    def _portal(self) -> Iterator[BlockingPortal]:
        """Open a portal to the application's event loop if it runs, because a backend's connections belong to it."""
        client: Any = self._client
        if client.portal is not None:
            yield client.portal
        else:
            with start_blocking_portal(**client.async_backend) as portal:
                yield portal

    @asynccontextmanager
    async def _visit(self) -> AsyncIterator[Session]:
        middleware, root_path, _ = self._installed
        jar: CookieJar = self._client.cookies.jar
        base = urlsplit(str(self._client.base_url))
        url = f"{base.scheme}://{base.netloc}{middleware.config.cookie.path}"
        request = {
            "scheme": base.scheme,
            "root_path": root_path,
            "path": root_path + "/",
            "headers": _sent_to(url, jar),
        }
        visit = _Visit(middleware, request)
        async with visit.open() as session:
            yield session
        _keep(jar, url, visit.headers)
        if session.session_id is not None and not _sent_to(url, jar):
            raise ImproperlyConfigured(
                f"The session was saved, but the client does not send its cookie to {url}: for a Secure cookie, use "
                'base_url="https://testserver"; for a cookie with a domain, a base_url in that domain.'
            )


class _Visit:
    """A request to the installed middleware, whose handler waits while the session is open."""

    def __init__(self, middleware: SessionMiddleware, request: dict[str, Any]) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        """The headers of the response."""
        self._middleware = copy(middleware)
        self._middleware.app = self._handle
        self._scope: Scope = {"type": "http", "method": "GET", "query_string": b"", **request}
        self._session: Session | None = None
        self._error: BaseException | None = None
        self._is_open, self._may_end = Event(), Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Session]:
        async with create_task_group() as tasks:
            tasks.start_soon(self._run)
            await self._is_open.wait()
            if self._session is not None:
                try:
                    yield self._session
                except BaseException as error:  # raised below, since a task group would wrap it in an exception group
                    self._error = error
                    tasks.cancel_scope.cancel()
                self._may_end.set()
        if self._error is not None:
            raise self._error

    async def _run(self) -> None:
        receive: Any = sleep_forever  # there are no messages
        try:
            await self._middleware(self._scope, receive, self._send)
        except Exception as error:
            self._error = self._error or error
        finally:
            self._is_open.set()

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        session: Session = next(value for value in scope.values() if isinstance(value, Session))
        await session.load()
        self._session = session
        self._is_open.set()
        await self._may_end.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.headers = list(message["headers"])
            if message["status"] != 200:
                raise BackendUnavailable("The session store failed: the middleware responded 503.")


class _Installed(NamedTuple):
    """A middleware, and where its application is mounted."""

    middleware: SessionMiddleware
    root_path: str
    is_mounted: bool


def _app_of(client: object) -> object:
    for holder in (client, getattr(client, "_transport", None)):
        app = getattr(holder, "app", None)
        if app is not None:
            return app
    raise TypeError("session_of() cannot find the application of this client: pass it with app=….")


def _root_path_of(client: object) -> str:
    root_path: str = getattr(getattr(client, "_transport", None), "root_path", "")
    return root_path


def _installed_in(app: Any, root_path: str, is_mounted: bool = False) -> Iterator[_Installed]:
    """Yield the session middlewares of an application and of the applications mounted in it, from the outside in."""
    for _ in range(_MOST_LAYERS):
        if isinstance(app, Starlette):
            if app.middleware_stack is None:  # build it, as the first request would
                app.middleware_stack = app.build_middleware_stack()
            app = app.middleware_stack
        if isinstance(app, Misconfigured):
            raise app.error
        if isinstance(app, SessionMiddleware):
            yield _Installed(app, root_path, is_mounted)
        for route in _routes_of(app):
            if isinstance(route, (Mount, Host)):
                yield from _installed_in(route.app, root_path + getattr(route, "path", ""), is_mounted=True)
        app = getattr(app, "app", None)


def _routes_of(app: object) -> list[BaseRoute]:
    routes = getattr(app, "routes", None)
    return routes if isinstance(routes, list) else []


def _sent_to(url: str, jar: CookieJar) -> list[tuple[bytes, bytes]]:
    """Return the `Cookie` header of a request to this URL, or no header if no cookie matches."""
    request = Request(url)  # noqa: S310 - it is never sent
    jar.add_cookie_header(request)
    header = request.get_header("Cookie")
    return [] if header is None else [(b"cookie", header.encode("latin-1"))]


def _keep(jar: CookieJar, url: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Store the cookies of a response, as a browser does."""
    answer = _Answer()
    for name, value in headers:
        if name == b"set-cookie":
            answer.headers["Set-Cookie"] = value.decode("latin-1")
    jar.extract_cookies(answer, Request(url))  # type: ignore[arg-type]  # noqa: S310 - it is never sent


class _Answer:
    """The part of a response that a cookie jar reads."""

    def __init__(self) -> None:
        self.headers = Headers()

    def info(self) -> Headers:
        return self.headers
