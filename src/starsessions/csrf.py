"""Protection against cross-site request forgery: requests that another site makes the browser send, with its cookies.

`CsrfMiddleware` checks where a request comes from. It needs neither a session nor a change to any form. A token checks
what the sender knows: put `csrf_input(request)` into the form, and call `await csrf.verify(request)` where it arrives.

    app.add_middleware(CsrfMiddleware, trusted_origins=["https://admin.example.com"])
    app.add_middleware(SessionMiddleware, backend=backend)

    @app.post("/transfer", dependencies=[Depends(csrf.verify)])

Both reject a request with `CsrfFailed`, a 403. The rules and their reasons are in `core/csrf.py`.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from html import escape
from importlib.util import find_spec
from os import urandom
from re import Pattern
from typing import Any, TypeGuard

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from starsessions.core import csrf as rules
from starsessions.core.csrf import WhyRefused
from starsessions.core.encoding import to_base64url
from starsessions.exceptions import ImproperlyConfigured, SessionError
from starsessions.lifecycle.config import Config
from starsessions.lifecycle.sign_in import take_along
from starsessions.lifecycle.startup import fails_at_startup
from starsessions.lifecycle.validation import layers
from starsessions.session import Session, get_session, load_session

__all__ = ["CsrfFailed", "CsrfMiddleware", "WhyRefused", "context_processor", "csrf_input", "csrf_token", "verify"]

_FIELD = "csrf_token"
_HEADER = "x-csrf-token"

_log = logging.getLogger("starsessions")
_ORIGIN_WAS_CHECKED = "starsessions.origin_was_checked"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_PARSERS = ("python_multipart", "multipart")
"""What Starlette reads forms with: the module's name, and the one that it had before."""

_CURES = {
    WhyRefused.CROSS_SITE: "Rejected: a page of another origin sent this request. If that origin is trusted, add it to "
    "trusted_origins=[…] of CsrfMiddleware. If this is the callback of a payment service or identity provider, add its "
    "path to bypass=[…].",
    WhyRefused.FOREIGN_ORIGIN: "Rejected: the Origin of this request differs from its Host. If that origin is trusted, "
    "add it to trusted_origins=[…] of CsrfMiddleware. If a proxy changes Host, configure it to forward the browser's "
    "value, with the port (nginx: proxy_set_header Host $http_host).",
    WhyRefused.NULL_ORIGIN: "Rejected: the page that sent this request has the origin null. If it is your own page in "
    "a sandboxed frame, add allow-same-origin to the frame's sandbox attribute. If it has Referrer-Policy: "
    "no-referrer, use same-origin.",
    WhyRefused.NO_TOKEN: "Rejected: this request has no CSRF token. Put {{ csrf_input() }} into the form, or send the "
    "token in the header X-CSRF-Token.",
    WhyRefused.STALE_TOKEN: "This page is out of date: you have signed in or out since you opened it, or your session "
    "has ended. Reload the page and send the form again.",
}
_SIGNED_IN = (
    "You are signed in already, and this page is out of date, so what you sent was not done. "
    "Go on, or reload the page and send it again."
)


class CsrfFailed(SessionError, HTTPException):
    """The request was rejected: a 403 whose text names the cure.

    Args:
        why: the reason.
        signed_in: whether the user is signed in by now: the login form was sent twice, or another tab has signed in.

    >>> error = CsrfFailed(WhyRefused.STALE_TOKEN)
    >>> error.status_code, error.detail[:25]
    (403, 'This page is out of date:')
    >>> CsrfFailed(WhyRefused.STALE_TOKEN, signed_in=True).detail[:26]
    'You are signed in already,'
    """

    def __init__(self, why: WhyRefused, *, signed_in: bool = False) -> None:
        HTTPException.__init__(self, 403, _SIGNED_IN if signed_in and why is WhyRefused.STALE_TOKEN else _CURES[why])
        self.why = why
        self.signed_in = signed_in


class CsrfMiddleware:
    """Rejects what a page of another origin makes a browser send: POST, PUT, PATCH, DELETE, and WebSockets.

    It reads `Sec-Fetch-Site` and `Origin`, which browsers set. A request without both is not from a browser, and
    passes. GET, HEAD and OPTIONS pass, so they must not change anything. A rejected WebSocket is closed with 1008.

    Args:
        app: the ASGI application.
        trusted_origins: origins whose pages may send requests, such as `"https://admin.example.com"`.
        bypass: paths that pages of any origin may send to, in the syntax of routes, `"/hooks/{name}"`. A pattern must
            match the whole path.
        refuse: returns the response to a rejected request, instead of the 403 with a text: `refuse(request, error)`. It
            can use the session, because this middleware is inside `SessionMiddleware`: `add_middleware` adds it before.

    Raises:
        ImproperlyConfigured: an origin, a path or `refuse` is malformed, or `refuse` could not use the session.

    >>> from starlette.applications import Starlette
    >>> from starlette.middleware import Middleware
    >>> app = Starlette(middleware=[Middleware(CsrfMiddleware, trusted_origins=["https://admin.example.com"])])
    """

    @fails_at_startup()
    def __init__(
        self,
        app: ASGIApp,
        *,
        trusted_origins: Sequence[str] = (),
        bypass: Sequence[str] = (),
        refuse: Callable[[Request, CsrfFailed], Response | Awaitable[Response]] | None = None,
    ) -> None:
        if refuse is not None and not callable(refuse):
            raise ImproperlyConfigured("refuse must be a function: refuse(request, error) returns a response.")
        if refuse is not None and any(isinstance(getattr(layer, "config", None), Config) for layer in layers(app)):
            raise ImproperlyConfigured(
                "refuse could not use the session, because CsrfMiddleware is outside SessionMiddleware: call "
                "add_middleware(CsrfMiddleware, …) before add_middleware(SessionMiddleware, …); in a list, put "
                "SessionMiddleware first."
            )
        self.app = app
        self._trusted: frozenset[str] = frozenset(map(_trusted, _list_of_str("trusted_origins", trusted_origins)))
        self._bypass: list[Pattern[str]] = [_pattern(path) for path in _list_of_str("bypass", bypass)]
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        why = rules.why_foreign(_kind(scope), scope["headers"], self._trusted)
        if why is None:
            scope[_ORIGIN_WAS_CHECKED] = True
        if why is None or any(pattern.fullmatch(_route_path(scope)) for pattern in self._bypass):
            await self.app(scope, receive, send)
            return
        error = _refused(scope, why)
        _log.warning(
            "%s (%s, Sec-Fetch-Site %.40r, Origin %.200r, Host %.200r)",
            error.detail,
            scope.get("method", "WebSocket"),
            *(rules.header_of(scope["headers"], name) for name in (b"sec-fetch-site", b"origin", b"host")),
        )
        if scope["type"] == "websocket":
            # The server turns this into a 403. No page can read the body of a response to a handshake.
            await send({"type": "websocket.close", "code": 1008})
            return
        response: Response = PlainTextResponse(error.detail, error.status_code)
        if self._refuse is not None:
            answer = self._refuse(Request(scope, receive, send), error)
            response = answer if isinstance(answer, Response) else await answer
        await response(scope, receive, send)


async def verify(request: HTTPConnection) -> None:
    """Raise `CsrfFailed` unless the request has a token of this session.

    The token is in the form field `csrf_token` or in the header `X-CSRF-Token`. As a dependency of a FastAPI
    application or router, `Depends(csrf.verify)`, it covers all endpoints of FastAPI below, and neither mounted
    applications nor routes of Starlette: GET, HEAD and OPTIONS pass. A WebSocket has no form, so its origin must be the
    application's own, unless `CsrfMiddleware` has checked it.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend, Session
    >>> scope = {"type": "http", "method": "POST", "headers": [], "session": Session(InMemoryBackend())}
    >>> asyncio.run(verify(Request(scope)))
    Traceback (most recent call last):
    starsessions.csrf.CsrfFailed: 403: Rejected: this request has no CSRF token. Put {{ csrf_input() }} into the \
form, or send the token in the header X-CSRF-Token.
    """
    kind = _kind(request.scope)
    if kind == "unsafe":
        await _verify_token(request)
    elif _ORIGIN_WAS_CHECKED not in request.scope:
        why = rules.why_foreign(kind, request.scope["headers"], ())
        if why is not None:
            raise _refused(request.scope, why)


def csrf_token(request: HTTPConnection) -> str:
    """Return a token for one page: 64 characters that need no escaping, different on each call.

    The first token stores a secret in the session, and so creates a session for a visitor who has none: a token that is
    bound to nothing protects nothing. Pages without a token do not create a session.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend, Session
    >>> session = Session(InMemoryBackend())
    >>> asyncio.run(session.load())
    >>> request = HTTPConnection({"type": "http", "session": session})
    >>> csrf_token(request) != csrf_token(request)
    True
    """
    session = get_session(request)
    secrets = rules.secrets_in(session)
    secret = secrets[0] if secrets else rules.put_secret(session, to_base64url(urandom(6)), urandom(rules.SECRET_BYTES))
    return rules.token_for(secret, urandom(rules.NONCE_BYTES))


def csrf_input(request: HTTPConnection) -> str:
    """Return the hidden form field with a token. Templates do not escape it.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend, Session
    >>> session = Session(InMemoryBackend())
    >>> asyncio.run(session.load())
    >>> csrf_input(HTTPConnection({"type": "http", "session": session}))[:46]
    '<input type="hidden" name="csrf_token" value="'
    """
    return _Markup(f'<input type="hidden" name="{_FIELD}" value="{escape(csrf_token(request))}">')


def context_processor(request: HTTPConnection) -> dict[str, Callable[..., Any]]:
    """Return `csrf_token()` and `csrf_input()` for templates: `Jinja2Templates(…, context_processors=[…])`.

    >>> list(context_processor(HTTPConnection({"type": "http"})))
    ['csrf_token', 'csrf_input']
    """
    return {"csrf_token": partial(csrf_token, request), "csrf_input": partial(csrf_input, request)}


class _Markup(str):
    """HTML that Jinja2 and MarkupSafe do not escape: they look for `__html__`."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


async def _verify_token(request: HTTPConnection) -> None:
    session = await load_session(request)
    secrets, signed_in = rules.secrets_in(session), session.__starsessions__.user is not None
    # Of a form that was sent twice, the first one has signed in and renewed the secrets, and its response may be lost.
    earlier = rules.secrets_in(await take_along(session, {}))
    token = request.headers.get(_HEADER)
    if token is None and _has_form(request):
        if not (secrets or earlier):  # no token would be good: do not parse the form of a stranger
            error = _refused(request.scope, WhyRefused.STALE_TOKEN, signed_in=signed_in)
            error.detail += " If that does not help, the form has no token: put {{ csrf_input() }} into it."
            raise error
        token = await _token_in_form(request)
    if token and (rules.is_good(token, secrets) or rules.is_good(token, earlier)):
        return
    if isinstance(request, Request):
        await request.close()  # the form was read above, and nothing else closes its files
    why = WhyRefused.STALE_TOKEN if token else WhyRefused.NO_TOKEN
    raise _refused(request.scope, why, signed_in=signed_in)


def _refused(scope: Scope, why: WhyRefused, *, signed_in: bool = False) -> CsrfFailed:
    """Return the error for a request that is rejected. Count it, if its sessions are measured."""
    session = scope.get("session")
    if isinstance(session, Session):  # CsrfMiddleware may be outside of SessionMiddleware
        session.__starsessions__.config.observer.csrf_refused(why)
    return CsrfFailed(why, signed_in=signed_in)


def _has_form(request: HTTPConnection) -> TypeGuard[Request]:
    """Return whether the body is a form that can be read."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _FORMS or not isinstance(request, Request):
        return False
    if not any(find_spec(name) for name in _PARSERS):
        get_session(request).__starsessions__.config.notices.warn(
            "python-multipart",
            "A form was rejected, because its CSRF token cannot be read without python-multipart: run "
            "`pip install python-multipart`, or send the token in the header X-CSRF-Token.",
        )
        return False
    return True


async def _token_in_form(request: Request) -> str:
    value = (await request.form()).get(_FIELD)  # Starlette caches the form: the endpoint gets the same one
    return value if isinstance(value, str) else ""


def _kind(scope: Scope) -> rules.Kind:
    if scope["type"] == "websocket":
        return "handshake"
    return "safe" if scope["method"] in rules.SAFE_METHODS else "unsafe"


def _route_path(scope: Scope) -> str:
    """Return the path that routes are matched against."""
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    rest = path.removeprefix(root_path)
    return rest if rest[:1] in ("", "/") else path


def _list_of_str(setting: str, values: object) -> Sequence[str]:
    if isinstance(values, str) or not isinstance(values, Sequence) or not all(isinstance(one, str) for one in values):
        raise ImproperlyConfigured(f"{setting} must be a list of str.")
    return values


def _trusted(origin: str) -> str:
    try:
        return rules.as_origin(origin)
    except ValueError:
        raise ImproperlyConfigured(
            f"trusted_origins: no browser sends the origin {origin!r}. Write scheme://host or scheme://host:port, "
            "without a path, a trailing slash or wildcards: list each origin. Write a name in Unicode as xn--…, and "
            "https:// in place of wss://."
        ) from None


def _pattern(path: str) -> Pattern[str]:
    if not path.startswith("/"):
        raise ImproperlyConfigured(f"bypass: {path!r} is not a path. Start it with a slash.")
    return compile_path(path)[0]
