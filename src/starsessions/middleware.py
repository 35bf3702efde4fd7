"""The ASGI shell: gives each request its session, and brings it home when the response starts."""

# A function inside of a function is made once per request: its annotations are not to be worked out each time.
from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any, Literal

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starsessions.backends.base import Clock, SessionBackend, wall_clock
from starsessions.backends.cookie import CookieBackend
from starsessions.backends.legacy import lift
from starsessions.core.carrier import MIN_ROOM, cookies_for, room_for, split
from starsessions.core.cookies import MAX_COOKIE, CookieSpec, SameSite
from starsessions.core.durations import Duration, seconds
from starsessions.core.headers import RawHeaders, forbid_storing, vary_by_cookie
from starsessions.core.record import DEFAULT_MAX_AGE, Policy, WhyNew, cookie_max_age
from starsessions.events import OnEvent, report
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured, ResponseStarted, SessionTooLarge
from starsessions.kept import CLOSED, NOTHING_TO_SAY, OPEN, SAVING, Phase, Plan
from starsessions.sealing.keys import Keys
from starsessions.session import Session
from starsessions.setting import OnConflict, Setting, setting_for

_log = logging.getLogger("starsessions")
_new_session = Session.__new__
_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # cookie-octets: RFC 6265bis, 4.1.1
_ASGI_KEYS = frozenset(
    {"type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers"}
    | {"client", "server", "extensions", "subprotocols", "state", "app", "router", "endpoint", "path_params"}
    | {"user", "auth"}
)
_SENT = (CLOSED, Phase.BY_HAND)
_NOT_SENT = (OPEN, SAVING)
_END_OF_LIFE = ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")
_NOTHING_REFUSED = (None, WhyNew.NO_COOKIE)
_MOST_LAYERS = 100
_OTHERS = (
    "Another SessionMiddleware, Starlette's own perhaps, writes the cookie {!r} too: "
    "remove it, or give one of them another session_cookie=…."
)


class SessionMiddleware:
    """Sessions for Starlette and FastAPI: `request.session` in every HTTP and WebSocket handler.

    `secret_key`: sign the session into a cookie with this key; a list: the first signs, all verify.
    `backend`: keep it elsewhere instead. `autoload`: no `await request.session.load()` needed.
    `session_cookie`, `same_site`, `https_only` (None: `Secure` when the request came over https), `path` (None: the
    app's root path), `domain`, `partitioned`: the cookie.
    `max_age`: how long an unused session lasts, in seconds or as a timedelta; None or 0: the cookie ends with the
    browser, the session on the server after 14 days. `absolute_timeout`: how long any session lasts, whatever happens.
    `rolling`: use renews a session, and not only a write; at most once per `renew_every` (a tenth of `max_age`).
    `rotate_every`: give a session a new id when its id is that old; the old one stays usable for `rotate_grace`.
    `on_conflict`: when two requests at once have changed the same key: "merge", so that the later one wins; "raise"
    `SessionConflict`; or a function of the whole data as it was loaded, as the other request left it, and as this one
    has it, which returns what is stored. (Different keys are merged in any case.)
    `on_unavailable`: when the store fails: "error", which is a 503 unless the application handles `BackendUnavailable`;
    or "anonymous": the request goes on with an empty session, and a 503 comes only if it is changed.
    `on_event`: called after the response with what the application may want to hear of: see `starsessions.events`.
    `clock`: seconds since 1970, for tests. `scope_key`: where in the ASGI scope the session stands, for a second one.

    >>> from starlette.applications import Starlette
    >>> from starlette.middleware import Middleware
    >>> app = Starlette(middleware=[Middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more")])
    """

    def __init__(
        self,
        app: ASGIApp,
        secret_key: Keys | None = None,
        backend: SessionBackend | None = None,
        autoload: bool = False,
        session_cookie: str = "session",
        max_age: Duration | None = DEFAULT_MAX_AGE,
        same_site: SameSite = "lax",
        https_only: bool | None = None,
        path: str | None = None,
        domain: str | None = None,
        partitioned: bool = False,
        *,
        absolute_timeout: Duration | None = None,
        rolling: bool = False,
        renew_every: Duration | None = None,
        rotate_every: Duration | None = None,
        rotate_grace: Duration = 60,
        on_conflict: OnConflict = "merge",
        on_unavailable: Literal["error", "anonymous"] = "error",
        on_event: OnEvent | None = None,
        clock: Clock | None = None,
        scope_key: str = "session",
    ) -> None:
        cookie = CookieSpec(session_cookie, same_site, https_only, path, domain, partitioned)
        if backend is None:
            if secret_key is None:
                raise ImproperlyConfigured("SessionMiddleware needs secret_key=… or backend=….")
            backend = CookieBackend(secret_key, clock=clock or wall_clock)
        elif not isinstance(backend, SessionBackend):
            raise ImproperlyConfigured("backend must be an object of a class derived from starsessions.SessionBackend.")
        elif secret_key is not None:
            _log.warning("SessionMiddleware uses the backend it was given, and not its secret_key: drop one of them.")
        lifted = lift(backend)
        if clock is not None and not callable(clock):
            raise ImproperlyConfigured("clock must be callable and return seconds since 1970, as time.time does.")
        if not isinstance(scope_key, str) or scope_key in _ASGI_KEYS:
            raise ImproperlyConfigured(f"scope_key={scope_key!r} cannot be used: the scope needs that key itself.")
        if on_conflict not in ("merge", "raise") and not callable(on_conflict):
            raise ImproperlyConfigured('on_conflict must be "merge", "raise", or a function of base, theirs and ours.')
        if on_event is not None and not callable(on_event):
            raise ImproperlyConfigured("on_event must be a function, or a coroutine function, of one event.")
        if on_unavailable not in ("error", "anonymous"):
            raise ImproperlyConfigured('on_unavailable must be "error" or "anonymous".')
        if rotate_every is not None and not lifted.has_grace:
            raise ImproperlyConfigured("rotate_every needs a backend that keeps sessions in a store: leave it out.")
        policy = _policy(max_age, lifted.max_age, absolute_timeout, rolling, renew_every, rotate_every, rotate_grace)
        _check_stack(app, cookie, scope_key)

        self.app = app
        self.setting: Setting = setting_for(
            backend=lifted.bind(cookie.name, policy),
            policy=policy,
            cookie=cookie,
            clock=clock or lifted.clock,
            autoload=autoload,
            on_conflict=on_conflict,
            anonymous_if_unavailable=on_unavailable == "anonymous",
            on_event=on_event,
        )
        self._eager = autoload and self.setting.look is None
        self._key = scope_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind != "http" and kind != "websocket":
            await (self._lifespan if kind == "lifespan" else self.app)(scope, receive, send)
            return

        key = self._key
        if key in scope:
            self._check_outer(scope[key], scope)
        session = _new_session(Session)
        # The root path now, because a mounted application changes the scope that it shares with us.
        session._begin(self.setting, scope["headers"], scope.get("root_path", ""))
        scope[key] = session
        if kind == "websocket":
            await self._websocket(session, scope, receive, send)
            return

        def send_with_session(message: Message) -> Awaitable[None]:
            # No coroutine of its own: messages that are not ours to change cost next to nothing.
            if message["type"] == "http.response.start" and session._phase in _NOT_SENT:
                replaced = scope.get(self._key) is not session and self._is_replaced(session, scope)
                if replaced or session.accessed:
                    return self._start(session, replaced, scope, message, send)
                session._phase = CLOSED
            return send(message)

        try:
            if self._eager:
                session._take(await session._find())
            await self.app(scope, receive, send_with_session)
        except BackendUnavailable as error:
            if session._phase not in _NOT_SENT:
                raise
            _log.error("Answered 503, since the store of the sessions fails.", exc_info=error)
            await _send_unavailable(send, "http.response")
            return
        finally:
            if session._events:
                await self._report(session)
        if session._phase in _SENT and (
            (session._handed_out and not session._given_up and session._has_unsaved())
            or (scope.get(key) is not session and self._is_replaced(session, scope))
        ):
            raise ResponseStarted(
                "The session was changed after the response had started, and not saved: "
                "call `await session.persist()` after the change."
            )

    def _start(self, session: Session, replaced: bool, scope: Scope, message: Message, send: Send) -> Awaitable[None]:
        """Let the headers leave, with what they have to say about the session."""
        if session._phase is SAVING:  # it was not saved, and the application says so
            session._phase = Phase.FAILED
            return send(message)
        session._phase = SAVING
        plan = None if replaced else session._plan()
        if plan is None or not session._commit_now(plan):
            return self._start_saving(plan, session, scope, message, send)
        session._phase = CLOSED
        return send(self._with_session(message, session, scope))

    async def _start_saving(
        self, plan: Plan | None, session: Session, scope: Scope, message: Message, send: Send
    ) -> None:
        """Save first: if that fails, nothing has been sent and the error is a clean one."""
        if plan is None:
            await self._adopt(session, scope)
        await session._save_for_headers(plan)
        session._phase = CLOSED
        await send(self._with_session(message, session, scope))

    def _with_session(self, message: Message, session: Session, scope: Scope) -> Message:
        """What an HTTP response has to say about the session that it was made with.

        A new message with a new list: an application may send the same ones to everybody.
        """
        headers = list(message.get("headers", ()))
        vary_by_cookie(headers)
        if session._cookie is not NOTHING_TO_SAY:
            if forbid_storing(headers):
                _log.warning(
                    "A response that sets the session cookie said Cache-Control: public; it now says no-store."
                )
            headers += self._cookies(session, scope)
        return {**message, "headers": headers}

    async def _adopt(self, session: Session, scope: Scope) -> None:
        """If the application has put a plain dict in our place, its content is the session."""
        if self._is_replaced(session, scope):
            await session._replace_by(scope[self._key])
            scope[self._key] = session

    def _is_replaced(self, session: Session, scope: Scope) -> bool:
        """Whether the application has put a dict of its own in our place, which is not another middleware's session."""
        current = scope.get(self._key)
        return current is not session and isinstance(current, dict) and not hasattr(current, "mark_accessed")

    def _cookies(self, session: Session, scope: Scope) -> RawHeaders:
        if session._cookie is NOTHING_TO_SAY:
            return []
        setting, found = self.setting, session._found
        spec, most = setting.cookie, setting.backend.max_cookies
        path = spec.path_under(session._root_path)
        secure = spec.is_secure(scope.get("scheme", "http"))
        if found is None:
            cookies = cookies_for(spec, [], 0, path, secure, most, session._headers)
        else:
            if setting.seal is None and _COOKIE_VALUE.fullmatch(found.token) is None:
                raise ImproperlyConfigured("The backend gave an id that cannot stand in a cookie.")
            max_age = cookie_max_age(found.record, setting.policy, int(setting.clock()))
            # A refused cookie may be the first of several, from when max_cookies was more: the others have to go.
            alone = most == 1 and session.why_new in _NOTHING_REFUSED
            if alone and path == "/" and len(spec.name) + len(found.token) <= MAX_COOKIE:
                return [spec.set(spec.name, found.token, max_age, path, secure)]  # nearly always
            room = room_for(spec, most, max_age, path, secure)
            parts = split(found.token, max(room, 1))
            if len(parts) > most or room < MIN_ROOM:
                raise SessionTooLarge(len(spec.name) + len(found.token), most * MAX_COOKIE, session._weights())
            cookies = cookies_for(spec, parts, max_age, path, secure, most, session._headers)
        replaced = session._replaced
        if path != "/" and spec.path is None and replaced and not setting.backend.was_written_by_us(replaced):
            # Starlette's cookie has the path "/", ours the root path. Both would be sent, and two that are good are
            # none: take the old one away.
            cookies.append(spec.set(spec.name, "null", 0, "/", secure))
        return cookies

    async def _websocket(self, session: Session, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_session(message: Message) -> None:
            kind = message["type"]
            if session._phase is OPEN and kind in ("websocket.accept", "websocket.http.response.start"):
                session._phase = SAVING
                if session.accessed or self._is_replaced(session, scope):
                    await self._adopt(session, scope)
                    await session._save_for_headers()
                    if kind == "websocket.accept":
                        headers = list(message.get("headers", ())) + self._cookies(session, scope)
                        message = {**message, "headers": headers}
                    else:  # the handshake is refused with an HTTP response
                        message = self._with_session(message, session, scope)
                session._phase = Phase.BY_HAND
            elif kind == "websocket.close":
                await self._save_late(session, scope)
            await send(message)

        try:
            if self._eager:
                session._take(await session._find())
            await self.app(scope, receive, send_with_session)
        except BackendUnavailable as error:
            if session._phase not in _NOT_SENT:
                raise
            _log.error("Refused a WebSocket, since the store of the sessions fails.", exc_info=error)
            if "websocket.http.response" in scope.get("extensions", ()):
                await _send_unavailable(send, "websocket.http.response")
            else:
                await send({"type": "websocket.close", "code": 1013})  # try again later
        finally:
            if session._events:
                await self._report(session)
            # However the connection ended: the peer left, the handler failed, or the server shuts down and cancels us.
            # What was changed on an open connection is not lost with it.
            if session._phase is Phase.BY_HAND:
                with CancelScope(shield=True):
                    await self._save_late(session, scope)

    async def _save_late(self, session: Session, scope: Scope) -> None:
        """Save what was changed since the handshake, or before a handshake that is refused: no cookie can be sent."""
        await self._adopt(session, scope)
        if session._phase is OPEN:
            session._next_id = None  # nobody would get to know it
        if not session._loaded or not session._has_unsaved():
            return
        if session._phase is OPEN and not session._is_reachable:
            _log.warning("The WebSocket was refused, so what its handler put into the session is not kept.")
            return
        session._check_reachable()
        async with session._turn():
            await session._commit()

    async def _report(self, session: Session) -> None:
        if self.setting.on_event is not None:
            await report(session._events, self.setting.on_event)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The life of the backend, within that of the application.

        It begins when the application has started, which may just have created a table, and ends when the application
        has ended, before the server is told: servers may stop everything then.
        """
        answered = False
        async with AsyncExitStack() as stack:

            async def send_in_time(message: Message) -> None:
                nonlocal answered
                if message["type"] == "lifespan.startup.complete":
                    # If this raises, Starlette ends what it has started, and says that it failed.
                    await stack.enter_async_context(self.setting.backend.lifespan())
                elif message["type"] in _END_OF_LIFE:
                    await stack.aclose()
                answered = True
                await send(message)

            try:
                await self.app(scope, receive, send_in_time)
            except ImproperlyConfigured as error:
                if not answered:  # a server that hears nothing takes it for an application without a lifespan
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise

    def _check_outer(self, outer: Any, scope: Scope) -> None:
        name = self.setting.cookie.name
        if isinstance(outer, Session):
            if outer._setting.cookie.name == name:
                raise ImproperlyConfigured(
                    f"Two SessionMiddlewares, one inside of the other, use the cookie {name!r}: "
                    "give one of them another session_cookie=…, or leave it out."
                )
        elif any(_writes(layer, name) for layer in _layers(getattr(scope.get("app"), "middleware_stack", None))):
            raise ImproperlyConfigured(_OTHERS.format(name))


async def _send_unavailable(send: Send, kind: str) -> None:
    """A clean answer in the place of half of one: nobody is signed in or out by an outage."""
    body = b"Service Unavailable"
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (b"retry-after", b"5"),
    ]
    await send({"type": f"{kind}.start", "status": 503, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


def _policy(
    max_age: Duration | None,
    backend_max_age: int | None,
    absolute_timeout: Duration | None,
    rolling: bool,
    renew_every: Duration | None,
    rotate_every: Duration | None,
    rotate_grace: Duration,
) -> Policy:
    if max_age is None or max_age == 0 or max_age == timedelta(0):
        lifetime, browser_session = backend_max_age or DEFAULT_MAX_AGE, True
    else:
        # Two settings, one deadline: the shorter one, so that the cookie never promises what the backend refuses.
        lifetime, browser_session = seconds("max_age", max_age), False
        lifetime = min(lifetime, backend_max_age or lifetime)
    interval = None if renew_every is None else seconds("renew_every", renew_every)
    if interval is not None and not rolling:
        raise ImproperlyConfigured("renew_every has no effect without rolling=True.")
    if interval is not None and interval >= lifetime:
        raise ImproperlyConfigured("renew_every must be shorter than max_age, or use comes too late to renew.")
    return Policy(
        max_age=lifetime,
        absolute_timeout=None if absolute_timeout is None else seconds("absolute_timeout", absolute_timeout),
        rolling=rolling,
        renew_every=interval,
        browser_session=browser_session,
        rotate_every=None if rotate_every is None else seconds("rotate_every", rotate_every),
        rotate_grace=seconds("rotate_grace", rotate_grace),
    )


def _check_stack(app: object, cookie: CookieSpec, scope_key: str) -> None:
    """Refuse to be built around another middleware that would write the same cookie."""
    for inner in _layers(app):
        if isinstance(inner, SessionMiddleware):
            if inner.setting.cookie.name == cookie.name:
                raise ImproperlyConfigured(
                    f"SessionMiddleware is installed twice with the cookie {cookie.name!r}: "
                    "remove one, or give it another session_cookie=… and scope_key=…."
                )
            if inner._key == scope_key:
                _log.warning(
                    "Two SessionMiddlewares put their sessions into scope[%r]: handlers see that of the cookie %r "
                    "only, and not that of %r. Give one of them another scope_key=….",
                    scope_key,
                    inner.setting.cookie.name,
                    cookie.name,
                )
        if _writes(inner, cookie.name):
            raise ImproperlyConfigured(_OTHERS.format(cookie.name))


def _layers(app: object) -> Iterator[object]:
    """The applications that are wrapped in one another, from the outside in; a mock has no end of them."""
    for _ in range(_MOST_LAYERS):
        yield app
        app = getattr(app, "app", None)


def _writes(layer: object, cookie_name: str) -> bool:
    """Whether it is Starlette's own SessionMiddleware, or one like it, with this cookie."""
    name = getattr(layer, "session_cookie", None)
    return isinstance(name, str) and name == cookie_name
