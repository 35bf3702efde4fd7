"""The ASGI shell: gives each request its session, and brings it home when the response starts."""

# A function inside of a function is made once per request: its annotations are not to be worked out each time.
from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starsessions.backends.base import Clock, SessionBackend, wall_clock
from starsessions.backends.cookie import CookieBackend
from starsessions.backends.legacy import lift
from starsessions.core.carrier import MIN_ROOM, cookies_for, room_for, split
from starsessions.core.cookies import MAX_COOKIE, CookieSpec, SameSite
from starsessions.core.durations import Duration, seconds
from starsessions.core.headers import RawHeaders, forbid_storing, vary_by_cookie
from starsessions.core.record import DEFAULT_MAX_AGE, Policy, cookie_max_age
from starsessions.exceptions import ImproperlyConfigured, ResponseStarted, SessionTooLarge
from starsessions.kept import CLOSED, NOTHING_TO_SAY, OPEN, SAVING, Phase, Plan, Setting, setting_for
from starsessions.sealing.keys import Keys
from starsessions.session import Session

_log = logging.getLogger("starsessions")
_new_session = Session.__new__
_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # cookie-octets: RFC 6265bis, 4.1.1
_ASGI_KEYS = frozenset(
    {"type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path", "headers"}
    | {"client", "server", "extensions", "subprotocols", "state", "app", "router", "endpoint", "path_params"}
    | {"user", "auth"}
)
_SENT = (CLOSED, Phase.BY_HAND)


class SessionMiddleware:
    """Sessions for Starlette and FastAPI: `request.session` in every HTTP and WebSocket handler.

    `secret_key`: sign the session into a cookie with this key; a list: the first signs, all verify.
    `backend`: keep it elsewhere instead. `autoload`: no `await request.session.load()` needed.
    `session_cookie`, `same_site`, `https_only` (None: `Secure` when the request came over https), `path` (None: the
    app's root path), `domain`, `partitioned`: the cookie.
    `max_age`: how long an unused session lasts, in seconds or as a timedelta; None or 0: the cookie ends with the
    browser, the session on the server after 14 days. `absolute_timeout`: how long any session lasts, whatever happens.
    `rolling`: use renews a session, and not only a write; at most once per `renew_every` (a tenth of `max_age`).
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
        policy = _policy(max_age, lifted.max_age, absolute_timeout, rolling, renew_every)
        _check_stack(app, cookie)

        self.app = app
        self.setting: Setting = setting_for(
            backend=lifted.bind(cookie.name, policy),
            policy=policy,
            cookie=cookie,
            clock=clock or lifted.clock,
            autoload=autoload,
        )
        self._eager = autoload and self.setting.look is None
        self._key = scope_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind != "http" and kind != "websocket":
            await self.app(scope, receive, send)
            return

        key = self._key
        if key in scope:
            self._check_outer(scope[key])
        session = _new_session(Session)
        # The root path now, because a mounted application changes the scope that it shares with us.
        session._begin(self.setting, scope["headers"], scope.get("root_path", ""))
        scope[key] = session
        if self._eager:
            session._take(await session._find())
        if kind == "websocket":
            await self._websocket(session, scope, receive, send)
            return

        def send_with_session(message: Message) -> Awaitable[None]:
            # No coroutine of its own: messages that are not ours to change cost next to nothing.
            if message["type"] == "http.response.start" and session._phase is OPEN:
                replaced = scope.get(self._key) is not session and self._is_replaced(session, scope)
                if replaced or session.accessed:
                    return self._start(session, replaced, scope, message, send)
                session._phase = CLOSED
            return send(message)

        await self.app(scope, receive, send_with_session)
        if session._phase in _SENT and (
            (session._handed_out and session._has_unsaved())
            or (scope.get(key) is not session and self._is_replaced(session, scope))
        ):
            raise ResponseStarted(
                "The session was changed after the response had started, and not saved: "
                "call `await session.persist()` after the change."
            )

    def _start(self, session: Session, replaced: bool, scope: Scope, message: Message, send: Send) -> Awaitable[None]:
        """Let the headers leave, with what they have to say about the session."""
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
        await session._commit(plan)
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
            if most == 1 and path == "/" and len(spec.name) + len(found.token) <= MAX_COOKIE:
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
                    await session._commit()
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
            await self.app(scope, receive, send_with_session)
        finally:
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
        await session._commit()

    def _check_outer(self, outer: Any) -> None:
        if isinstance(outer, Session) and outer._setting.cookie.name == self.setting.cookie.name:
            raise ImproperlyConfigured(
                f"Two SessionMiddlewares, one inside of the other, use the cookie {self.setting.cookie.name!r}: "
                "give one of them another session_cookie=…, or leave it out."
            )


def _policy(
    max_age: Duration | None,
    backend_max_age: int | None,
    absolute_timeout: Duration | None,
    rolling: bool,
    renew_every: Duration | None,
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
    )


def _check_stack(app: object, cookie: CookieSpec) -> None:
    """Refuse to be built around another SessionMiddleware that would write the same cookie."""
    inner: Any = app
    while inner is not None:
        if isinstance(inner, SessionMiddleware) and inner.setting.cookie.name == cookie.name:
            raise ImproperlyConfigured(
                f"SessionMiddleware is installed twice with the cookie {cookie.name!r}: "
                "remove one, or give it another session_cookie=… and scope_key=…."
            )
        inner = getattr(inner, "app", None)
