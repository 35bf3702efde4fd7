"""FastAPI dependencies that inject the session, reject unauthenticated requests, and document the cookie in OpenAPI.

    @app.get("/cart")
    def cart(session: CurrentSession) -> list[str]: ...

    @app.get("/account")
    def account(user_id: UserId) -> Account: ...

    @app.get("/orders")
    def orders(session: Annotated[Session, Depends(signed_in(redirect_to="/login"))]) -> HTMLResponse: ...

    @app.post("/email")
    def email(session: Annotated[Session, Depends(fresh(within=timedelta(minutes=10)))]) -> None: ...

    @app.websocket("/chat")
    async def chat(websocket: WebSocket, session: WatchedSession) -> None: ...

They load the session, so neither `async def` nor `def` endpoints need `autoload`, and endpoints without them do not
load it. They all work for HTTP and for WebSockets. For a session cookie that is not called "session", make them with
`SessionCookie`.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import update_wrapper
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, NoReturn, TypeVar, cast
from urllib.parse import quote

from fastapi import Depends, HTTPException, WebSocketException, params
from fastapi.openapi.models import APIKey
from fastapi.security import APIKeyCookie
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection
from starlette.routing import NoMatchFound

from starsessions import get_miss_reason, users
from starsessions.core.durations import Duration, seconds
from starsessions.core.record import MissReason
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.notices import Notices
from starsessions.session import Session, get_session
from starsessions.typed import TypedSession
from starsessions.watch import move_on_when_ended

__all__ = [
    "CurrentSession",
    "SessionCookie",
    "SignedInSession",
    "UserId",
    "WatchedSession",
    "fresh",
    "safe_next",
    "signed_in",
    "typed",
    "user_id",
    "watched",
]

M = TypeVar("M")
F = TypeVar("F", bound=Callable[..., Any])

_NOT_SIGNED_IN = "Not signed in."
_OTHER_NAME = (
    "The OpenAPI document calls the session cookie %r, and the middleware %r. Sessions work, but the document is "
    "wrong: make the dependencies with SessionCookie(%r)."
)
_OUTSIDE = (
    "{name} checks nothing outside of Depends: FastAPI would read the parameter from the request. Write "
    "Depends({example})."
)
_ENDED = "Your session has ended."
_NOT_FRESH = "You signed in too long ago for this. Sign in again."
_SAFE_PATH = re.compile(r"/(?![/\\])[^\\\x00-\x20\x7f]*")
_LONGEST_NEXT = 2000
_REDIRECTS = ("/", "https://", "http://")
_NOT_IN_A_SCHEME_NAME = re.compile(r"[^A-Za-z0-9._-]")


class _NoParameter:
    """Makes FastAPI refuse to read a parameter from the request, with a message that names the cure.

    In `Depends(signed_in)`, without parentheses, FastAPI would call the function that makes the dependency with values
    from the query, and never the dependency: the route would be open to all.
    """

    def __init__(self, message: str) -> None:
        self._message = message

    def __repr__(self) -> str:
        return "no parameter of a request"  # part of the signature that `help` shows

    def __get_pydantic_core_schema__(self, *_: object) -> NoReturn:
        raise ImproperlyConfigured(self._message)


class _OnlyInDepends:
    """A callable that FastAPI refuses, unless it is in a `Depends`.

    As a default or in an `Annotated`, FastAPI would ignore it and read the parameter from the query: the request would
    say who the user is.
    """

    __class__: Any = params.Depends  # FastAPI asks a default of this class for its `dependency`

    def __init__(self, call: Callable[..., Any], message: str) -> None:
        self._call = call
        self._message = message
        update_wrapper(cast(Any, self), call)

    @property
    def dependency(self) -> NoReturn:
        raise ImproperlyConfigured(self._message)

    def __get_pydantic_core_schema__(self, *_: object) -> NoReturn:
        raise ImproperlyConfigured(self._message)


class _Dependency(_OnlyInDepends):
    """What a factory made."""

    @property  # and no method: the function itself tells whether it has to be awaited
    def __call__(self) -> Callable[..., Any]:
        return self._call


class _Factory(_OnlyInDepends):
    """A function or method that makes a dependency, and is refused as one."""

    def __init__(self, make: Callable[..., Any], name: str, example: str) -> None:
        super().__init__(make, _OUTSIDE.format(name=name, example=example))
        self._names = name, example
        self.__signature__ = _refusing(make, name, example)

    def __get__(self, cookie: Any, owner: type) -> Any:
        return self if cookie is None else _Factory(self._call.__get__(cookie), *self._names)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        made = self._call(*args, **kwargs)
        return made if isinstance(made, _Dependency) else _Dependency(made, self._message)


def _makes_dependency(example: str) -> Callable[[F], F]:
    def decorate(make: F) -> F:
        return cast(F, _Factory(make, make.__qualname__, example))

    return decorate


def _refusing(make: Callable[..., Any], name: str, example: str) -> Signature:
    """Return the signature of what makes a dependency, with which FastAPI refuses it as a dependency."""
    refusal = _NoParameter(
        f"Depends({name}) would check nothing, because {name} only makes a dependency. Call it: Depends({example})."
    )
    found = signature(make)
    parameters = [one.replace(annotation=Annotated[one.annotation, refusal]) for one in found.parameters.values()]
    if parameters[-1].kind is not Parameter.KEYWORD_ONLY:  # a partial may bind all of them, and is refused as well
        parameters.append(Parameter("_", Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[None, refusal]))
    return found.replace(parameters=parameters)


class SessionCookie(SecurityBase):
    """The cookie of a `SessionMiddleware` as FastAPI's security scheme, and its dependencies.

    It is a dependency itself, and injects the loaded session.

    Args:
        name: the middleware's `session_cookie`. OpenAPI documents are generated without the middleware, so repeat it
            here.
        scope_key: the middleware's `scope_key`, for a second session in one application.
        scheme_name: the name of the security scheme in the OpenAPI document. Default: the cookie's name.
        description: the description of the security scheme.

    >>> cookie = SessionCookie("__Host-session")
    >>> HostSession = Annotated[Session, Depends(cookie)]
    >>> SignedInAtHost = Annotated[Session, Depends(cookie.signed_in())]
    """

    def __init__(
        self,
        name: str = "session",
        *,
        scope_key: str = "session",
        scheme_name: str | None = None,
        description: str | None = "The browser sends it automatically.",
    ) -> None:
        self.model: APIKey = APIKeyCookie(name=name, description=description).model
        self.scheme_name: str = scheme_name or _NOT_IN_A_SCHEME_NAME.sub("_", name)
        self._name = name
        self._scope_key = scope_key
        self._notices = Notices()

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> NoReturn:
        raise ImproperlyConfigured(_OUTSIDE.format(name="SessionCookie", example="SessionCookie()"))

    async def __call__(self, connection: HTTPConnection) -> Session:
        session = get_session(connection, self._scope_key)
        await session.load()
        name = session.__starsessions__.config.cookie.name
        if name != self._name:
            self._notices.warn("name", _OTHER_NAME, self._name, name, name)
        return session

    @_makes_dependency("signed_in()")
    def signed_in(self, redirect_to: str | None = None) -> Callable[..., Awaitable[Session]]:
        """Return a dependency that injects the session of a signed-in user, and otherwise responds 401.

        Args:
            redirect_to: where to redirect (303) a browser that navigates, with the wanted page as `next`: see
                `safe_next`. A path of this application ("/login", without the root path), the name of a route
                ("login_page"), or a URL. A script that fetches still gets the 401. A WebSocket is rejected.
        """
        _check_redirect(redirect_to)

        async def signed_in_session(connection: HTTPConnection, session: Annotated[Session, Depends(self)]) -> Session:
            _user_of(session, connection, redirect_to)
            return session

        return signed_in_session

    @_makes_dependency("user_id()")
    def user_id(self, redirect_to: str | None = None) -> Callable[..., Awaitable[str]]:
        """Return a dependency that injects the id of the signed-in user. `redirect_to` is that of `signed_in`."""
        _check_redirect(redirect_to)

        async def id_of_the_user(connection: HTTPConnection, session: Annotated[Session, Depends(self)]) -> str:
            return _user_of(session, connection, redirect_to)

        return id_of_the_user

    @_makes_dependency("fresh(within=600)")
    def fresh(self, within: Duration, redirect_to: str | None = None) -> Callable[..., Awaitable[Session]]:
        """Return a dependency that injects the session of a user who signed in recently, for sensitive changes.

        It responds 401 if no user is signed in, and 403 if the sign-in is too old.

        Args:
            within: the maximum age of the sign-in, in seconds or as a `timedelta`.
            redirect_to: as in `signed_in`.
        """
        _check_redirect(redirect_to)
        within = seconds("within", within)

        async def fresh_session(connection: HTTPConnection, session: Annotated[Session, Depends(self)]) -> Session:
            _user_of(session, connection, redirect_to)
            if not users.is_fresh(session, within):
                raise _refusal(connection, 403, _NOT_FRESH, redirect_to)
            return session

        return fresh_session

    @_makes_dependency('watched(), scope="function"')
    def watched(self, check_every: Duration | None = None) -> Callable[..., AsyncIterator[Session]]:
        """Return a dependency that injects the session, and cancels the endpoint when it has ended.

        A WebSocket is closed with 1008 then, and another request gets a 401. A streaming response is not cancelled: see
        `starsessions.watch.until_ended`.

        Args:
            check_every: as in `starsessions.watch.move_on_when_ended`.

        >>> Watched = Annotated[Session, Depends(SessionCookie().watched(), scope="function")]
        """

        async def watched_session(
            connection: HTTPConnection, session: Annotated[Session, Depends(self)]
        ) -> AsyncIterator[Session]:
            async with move_on_when_ended(session, check_every) as scope:
                yield session  # FastAPI runs the endpoint here, in the same task
            if scope.cancelled_caught:
                raise _refusal(connection, 401, _ENDED, None)

        return watched_session

    @_makes_dependency("typed(Model)")
    def typed(self, model: type[M] | TypedSession[M]) -> Callable[..., Awaitable[M]]:
        """Return a dependency that injects the session as a model: see `starsessions.typed`."""
        seen: TypedSession[M] = model if isinstance(model, TypedSession) else TypedSession(model)

        async def typed_session(session: Annotated[Session, Depends(self)]) -> M:
            return await seen.load(session)

        return typed_session


def safe_next(target: str | None, default: str = "/") -> str:
    """Return where to redirect after sign-in: `target` if it is a path of this site, otherwise `default`.

    `target` is usually the query parameter `next`, and an attacker can put any URL into a link (open redirect).
    | target             | goes to            | because                                       |
    |--------------------|--------------------|-----------------------------------------------|
    | /cart?page=2#total | /cart?page=2#total | a path, with query and fragment               |
    | /                  | /                  |                                               |
    |                    | default            | no target                                     |
    | cart               | default            | a relative path: its base is unknown          |
    | https://evil.test/ | default            | another site                                  |
    | //evil.test/       | default            | another site, with the scheme of this one     |
    | /\\evil.test/       | default            | a browser reads / for \\                       |
    | /\\t/evil.test/     | default            | a browser removes the tab                     |
    | javascript:alert() | default            | not a page                                    |
    """
    if target and len(target) <= _LONGEST_NEXT and _SAFE_PATH.fullmatch(target):
        return target
    return default


def _user_of(session: Session, connection: HTTPConnection, redirect_to: str | None) -> str:
    user_id = users.get_user_id(session)
    if user_id is not None:
        return user_id
    if get_miss_reason(session) is MissReason.UNAVAILABLE:  # an outage must not sign users out
        raise BackendUnavailable("The store failed, so the session and its user could not be loaded.")
    raise _refusal(connection, 401, _NOT_SIGNED_IN, redirect_to)


def _refusal(connection: HTTPConnection, status: int, detail: str, redirect_to: str | None) -> Exception:
    if connection.scope["type"] == "websocket":
        return WebSocketException(1008, detail)
    headers = connection.headers
    # Firefox hides the mode of a navigation that a service worker passes on, and leaves the other header.
    navigates = headers.get("sec-fetch-mode", "navigate") == "navigate" or "upgrade-insecure-requests" in headers
    if redirect_to is not None and navigates:
        return HTTPException(303, headers={"location": _with_next(redirect_to, connection)})
    # No WWW-Authenticate: cookies have no scheme, and some schemes make the browser ask for a password.
    return HTTPException(status, detail)


def _with_next(redirect_to: str, connection: HTTPConnection) -> str:
    """Return the sign-in page's URL with the wanted page as `next`, unless the request was a form that was sent."""
    location, _, fragment = quote(_url_of(redirect_to, connection), safe=":/%#?=@[]!$&'()*+,;").partition("#")
    fragment = f"#{fragment}" if fragment else ""
    if connection.scope["method"] not in ("GET", "HEAD"):
        return location + fragment
    wanted = safe_next(_wanted(connection), default="")
    if not wanted:
        return location + fragment
    return f"{location}{'&' if '?' in location else '?'}next={quote(wanted, safe='/')}{fragment}"


def _url_of(redirect_to: str, connection: HTTPConnection) -> str:
    """Return a path from the root of the host, or the URL."""
    if redirect_to.startswith("/"):
        return _root_of(connection) + redirect_to
    if "/" in redirect_to:
        return redirect_to
    try:
        return _root_of(connection) + str(connection.scope["router"].url_path_for(redirect_to))
    except NoMatchFound:
        raise ImproperlyConfigured(
            f"redirect_to={redirect_to!r} is not the name of a route without parameters. Pass such a name, or a path "
            'that starts with a slash, such as "/login".'
        ) from None


def _root_of(connection: HTTPConnection) -> str:
    """Return the path under which a proxy serves the application, without that of a mount."""
    root: str = connection.scope.get("app_root_path", connection.scope.get("root_path", ""))
    return root.rstrip("/")


def _wanted(connection: HTTPConnection) -> str:
    """Return the path and query that the browser requested, from the root of the host."""
    scope, root = connection.scope, _root_of(connection)
    path: str = scope["path"]
    if path != root and not path.startswith(f"{root}/"):  # some servers leave the root path out
        path = root + path
    query = scope.get("query_string", b"").decode("latin-1")
    return quote(path, safe="/:@!$&'()*+,;=") + (f"?{query}" if query else "")


def _check_redirect(redirect_to: str | None) -> None:
    if redirect_to is None:
        return
    is_str = isinstance(redirect_to, str)
    if not is_str or not redirect_to or ("/" in redirect_to and not redirect_to.startswith(_REDIRECTS)):
        raise ImproperlyConfigured(
            'redirect_to must be a path that starts with a slash, such as "/login", the name of a route, such as '
            '"login_page", or a URL that starts with https:// or http://.'
        )


_cookie = SessionCookie()


@_makes_dependency("signed_in()")
def signed_in(redirect_to: str | None = None) -> Callable[..., Awaitable[Session]]:
    """Return `SessionCookie("session").signed_in(redirect_to)`."""
    return _cookie.signed_in(redirect_to)


@_makes_dependency("user_id()")
def user_id(redirect_to: str | None = None) -> Callable[..., Awaitable[str]]:
    """Return `SessionCookie("session").user_id(redirect_to)`."""
    return _cookie.user_id(redirect_to)


@_makes_dependency("fresh(within=600)")
def fresh(within: Duration, redirect_to: str | None = None) -> Callable[..., Awaitable[Session]]:
    """Return `SessionCookie("session").fresh(within, redirect_to)`."""
    return _cookie.fresh(within, redirect_to)


@_makes_dependency("typed(Model)")
def typed(model: type[M] | TypedSession[M]) -> Callable[..., Awaitable[M]]:
    """Return `SessionCookie("session").typed(model)`."""
    return _cookie.typed(model)


@_makes_dependency('watched(), scope="function"')
def watched(check_every: Duration | None = None) -> Callable[..., AsyncIterator[Session]]:
    """Return `SessionCookie("session").watched(check_every)`."""
    return _cookie.watched(check_every)


def _whole(name: str, parameter: str) -> _NoParameter:
    """Refuse an annotated type as a part of another type, where FastAPI ignores its `Depends`."""
    return _NoParameter(
        f"{name} injects only as the whole type of a parameter, {parameter}: {name}. As a part of another type, "
        "FastAPI would read it from the request. For a user who may be missing, use CurrentSession and "
        "get_user_id(session)."
    )


CurrentSession = Annotated[Session, Depends(_cookie), _whole("CurrentSession", "session")]
"""The session of this request, loaded."""

SignedInSession = Annotated[Session, Depends(signed_in()), _whole("SignedInSession", "session")]
"""The session of a signed-in user; otherwise a 401."""

UserId = Annotated[str, Depends(user_id()), _whole("UserId", "user_id")]
"""The id of the signed-in user; a 401 if no user is signed in."""

WatchedSession = Annotated[Session, Depends(watched(), scope="function"), _whole("WatchedSession", "session")]
"""The session of this request, loaded. When it has ended, the endpoint is cancelled: a WebSocket is closed with 1008,
and another request gets a 401."""


def _refuse_in_depends(annotated: Any, name: str, parameter: str, example: str) -> None:
    """Give an annotated type a signature with which FastAPI refuses it as a dependency."""
    refusal = _NoParameter(
        f"Depends({name}) cannot work, because {name} has a Depends of its own. Make it the type of a parameter, "
        f"{parameter}: {name}, or in a list of dependencies write Depends({example})."
    )
    annotated.__signature__ = Signature([Parameter("_", Parameter.KEYWORD_ONLY, annotation=Annotated[str, refusal])])


_refuse_in_depends(CurrentSession, "CurrentSession", "session", "SessionCookie()")
_refuse_in_depends(SignedInSession, "SignedInSession", "session", "signed_in()")
_refuse_in_depends(UserId, "UserId", "user_id", "user_id()")
_refuse_in_depends(WatchedSession, "WatchedSession", "session", 'watched(), scope="function"')

cast(Any, SessionCookie.__init__).__signature__ = _refusing(SessionCookie.__init__, "SessionCookie", "SessionCookie()")
