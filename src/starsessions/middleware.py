"""The ASGI shell: gives each request its session, and brings it home when the response starts."""

# A function inside of a function is made once per request: its annotations are not to be worked out each time.
from __future__ import annotations

import logging
import re
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any, Literal

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starsessions.backends.adapter import adapt
from starsessions.backends.base import SessionBackend, wall_clock
from starsessions.backends.cookie import CookieBackend
from starsessions.core.binding import binding_for
from starsessions.core.caching import RawHeaders, make_private
from starsessions.core.chunking import MIN_ROOM, cookies_for, room_for, split
from starsessions.core.cookies import MAX_COOKIE, CookieSpec, SameSite
from starsessions.core.durations import Clock, Duration
from starsessions.core.record import DEFAULT_MAX_AGE, MissReason, cookie_max_age
from starsessions.events import OnEvent, StoreFailed, dispatch
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured, ResponseStarted, SessionTooLarge
from starsessions.lifecycle.config import OnConflict, Setting, setting_for
from starsessions.lifecycle.loading import CLOSED, NOTHING_TO_SAY, OPEN, SAVING, Phase
from starsessions.lifecycle.saving import SETTLED, Plan
from starsessions.lifecycle.validation import (
    ANOTHER,
    check_choices,
    check_stack,
    check_starlette_keys,
    layers,
    policy_from,
    user_rules,
    writes,
)
from starsessions.sealing.keys import Keys
from starsessions.session import Session
from starsessions.stores.base import Store
from starsessions.timeouts import Limits

_log = logging.getLogger("starsessions")
_new_session = Session.__new__
_COOKIE_VALUE = re.compile(r"[!#-+\--:<-\[\]-~]+")  # cookie-octets: RFC 6265bis, 4.1.1
_SENT = (CLOSED, Phase.BY_HAND)
_NOT_SENT = (OPEN, SAVING)
_NOTHING_REFUSED = (None, MissReason.NO_COOKIE)


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
    `SessionConflict`; or a function of the data as it was loaded, as the other request left it, and as this one has it:
    what it returns decides about the keys that both have changed. (All others are merged in any case.)
    `on_unavailable`: when the store fails: "error", which is a 503 unless the application handles `BackendUnavailable`;
    or "anonymous": the request goes on with an empty session, and a 503 comes only if it is changed.
    `on_event`: called after the response with what the application may want to hear of: see `starsessions.events`.
    `limits`: how long a session may last, idle and overall, from the standards: see `starsessions.timeouts`.
    `remember_for`: how long one lasts whose person asked to be remembered. `max_sessions_per_user`, `on_too_many`: one
    more ends the oldest ("evict"), or is refused ("refuse"): `TooManySessions`.
    `app_name`: an id or a cookie of one application is worth nothing in another one; the cookie's name by default.
    `clock`: seconds since 1970, for tests. `scope_key`: where in the ASGI scope the session stands, for a second one.

    >>> from starlette.applications import Starlette
    >>> from starlette.middleware import Middleware
    >>> app = Starlette(middleware=[Middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more")])
    """

    def __init__(
        self,
        app: ASGIApp,
        secret_key: Keys | None = None,
        backend: SessionBackend | Store | None = None,
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
        limits: Limits | None = None,
        remember_for: Duration = 30 * 24 * 60 * 60,
        max_sessions_per_user: int | None = None,
        on_too_many: Literal["evict", "refuse"] = "evict",
        clock: Clock | None = None,
        scope_key: str = "session",
        app_name: str | None = None,
    ) -> None:
        cookie = CookieSpec(session_cookie, same_site, https_only, path, domain, partitioned)
        if backend is None:
            if secret_key is None:
                raise ImproperlyConfigured("SessionMiddleware needs secret_key=… or backend=….")
            backend = CookieBackend(secret_key, clock=clock or wall_clock)
        elif secret_key is not None:
            _log.warning("SessionMiddleware uses the backend it was given, and not its secret_key: drop one of them.")
        check_choices(
            app_name=app_name,
            clock=clock,
            scope_key=scope_key,
            on_conflict=on_conflict,
            on_event=on_event,
            on_unavailable=on_unavailable,
        )
        lifted = adapt(backend)
        policy = policy_from(
            lifted, limits, max_age, absolute_timeout, rolling, renew_every, rotate_every, rotate_grace
        )
        check_stack(app, cookie, scope_key)

        self.app = app
        self.setting: Setting = setting_for(
            backend=lifted.bind(binding_for(cookie.name, app_name), policy),
            policy=policy,
            cookie=cookie,
            clock=clock or lifted.clock,
            autoload=autoload,
            on_conflict=on_conflict,
            anonymous_if_unavailable=on_unavailable == "anonymous",
            on_event=on_event,
            users=user_rules(lifted, limits, remember_for, max_sessions_per_user, on_too_many),
        )
        check_starlette_keys(app, self.setting.backend)
        self._eager = autoload and self.setting.look is None
        self.scope_key = scope_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind != "http" and kind != "websocket":
            await (self._lifespan if kind == "lifespan" else self.app)(scope, receive, send)
            return

        key = self.scope_key
        if key in scope:
            self._check_outer(scope[key], scope)
        scope[key] = session = _new_session(Session)
        session._begin(self.setting, scope)
        if kind == "websocket":
            await self._websocket(session, scope, receive, send)
            return

        def send_with_session(message: Message) -> Awaitable[None]:
            # No coroutine of its own: messages that are not ours to change cost next to nothing.
            if message["type"] == "http.response.start" and session._phase in _NOT_SENT:
                replaced = scope.get(key) is not session and self._is_replaced(session, scope)
                if replaced or session.accessed:
                    return self._start(session, replaced, scope, message, send)
                session._phase = CLOSED
            return send(message)

        try:
            if self._eager:
                session._take(await session._find())
            await self.app(scope, receive, send_with_session)
        except BackendUnavailable as error:
            if not self._may_still_answer(session, error):
                raise
            await _send_unavailable(send, "http.response")
            return
        finally:
            if session._events:
                await dispatch(session._events, self.setting.on_event)
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
        if plan is not SETTLED and (plan is None or not session._commit_now(plan)):
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
        cookies = self._cookies(session, scope) if session._cookie is not NOTHING_TO_SAY else []
        headers, invited = make_private(message.get("headers", ()), cookies)
        if invited:
            _log.warning("A response that sets the session cookie said Cache-Control: public; it now says no-store.")
        if cookies and session._clears_site_data:
            # A session that began since then (a message for the next page) has its cookie in this very response.
            what = b'"cookies", ' if session._found is None else b""
            headers.append((b"clear-site-data", b'"cache", ' + what + b'"storage"'))
        return {**message, "headers": headers}

    def _may_still_answer(self, session: Session, error: BackendUnavailable) -> bool:
        """Whether nothing has been sent, so that the answer can be that the store fails. Then somebody hears of it."""
        if session._phase not in _NOT_SENT:
            return False
        _log.error("Refused a request, since the store of the sessions fails.", exc_info=error)
        session._note(StoreFailed(str(error)))
        return True

    async def _adopt(self, session: Session, scope: Scope) -> None:
        """If the application has put a plain dict in our place, its content is the session."""
        if self._is_replaced(session, scope):
            await session._replace_by(scope[self.scope_key])
            scope[self.scope_key] = session

    def _is_replaced(self, session: Session, scope: Scope) -> bool:
        """Whether the application has put a dict of its own in our place, which is not another middleware's session."""
        current = scope.get(self.scope_key)
        return current is not session and isinstance(current, dict) and not hasattr(current, "mark_accessed")

    def _cookies(self, session: Session, scope: Scope) -> RawHeaders:
        setting, found = self.setting, session._found
        spec, root_path, scheme = setting.cookie, session._root_path, scope.get("scheme", "http")
        parts: list[str] = []
        max_age: int | None = 0
        if found is not None:
            token = found.token
            if not setting.is_client_side and _COOKIE_VALUE.fullmatch(token) is None:
                raise ImproperlyConfigured("The backend gave an id that cannot stand in a cookie.")
            max_age = cookie_max_age(found.record, setting.policy, int(setting.clock()))
            # A refused cookie may be the first of several, from when max_cookies was more: the others have to go.
            if len(token) <= setting.room_in_one and session.miss_reason in _NOTHING_REFUSED:  # nearly always
                cookie = b"set-cookie", f"{spec.name}={token}{setting.attributes(root_path, scheme, max_age)}".encode()
                return [cookie] if not root_path else [cookie, *self._cookie_of_starlette(session, scheme)]
            parts = self._parts(session, token, max_age, scheme)
        path, secure = spec.path_under(root_path), spec.is_secure(scheme)
        cookies = cookies_for(spec, parts, max_age, path, secure, setting.max_cookies, session._headers)
        return cookies + self._cookie_of_starlette(session, scheme)

    def _parts(self, session: Session, token: str, max_age: int | None, scheme: str) -> list[str]:
        """The token, over as many cookies as it takes; SessionTooLarge if those are too many."""
        setting = self.setting
        spec, most = setting.cookie, setting.max_cookies
        room = room_for(spec, most, max_age, spec.path_under(session._root_path), spec.is_secure(scheme))
        parts = split(token, max(room, 1))
        if len(parts) > most or room < MIN_ROOM:
            raise SessionTooLarge(len(spec.name) + len(token), most * MAX_COOKIE, session._weights())
        return parts

    def _cookie_of_starlette(self, session: Session, scheme: str) -> RawHeaders:
        """What takes a cookie of Starlette's away. It has the path "/", ours the root path: both would be sent, and two
        that are good are none."""
        spec, replaced = self.setting.cookie, session._replaced
        if spec.path is not None or replaced is None or spec.path_under(session._root_path) == "/":
            return []
        if self.setting.backend.was_written_by_us(replaced):
            return []
        return [spec.set(spec.name, "null", 0, "/", spec.is_secure(scheme))]

    async def _websocket(self, session: Session, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_session(message: Message) -> None:
            kind = message["type"]
            if session._phase is OPEN and kind in ("websocket.accept", "websocket.http.response.start"):
                session._phase = SAVING
                if session.accessed or self._is_replaced(session, scope):
                    await self._adopt(session, scope)
                    await session._save_for_headers()
                    message = self._answering(message, session, scope)
                session._phase = Phase.BY_HAND
            elif kind == "websocket.close":
                await self._save_late(session, scope)
            await send(message)

        try:
            if self._eager:
                session._take(await session._find())
            await self.app(scope, receive, send_with_session)
        except BackendUnavailable as error:
            if not self._may_still_answer(session, error):
                raise
            if "websocket.http.response" in scope.get("extensions", ()):
                await _send_unavailable(send, "websocket.http.response")
            else:
                await send({"type": "websocket.close", "code": 1013})  # try again later
        finally:
            # However the connection ended: the peer left, the handler failed, or the server shuts down and cancels us.
            # What was changed on an open connection is not lost with it.
            try:
                if session._phase is Phase.BY_HAND:
                    with anyio.CancelScope(shield=True):
                        await self._save_late(session, scope)
            finally:
                if session._events:
                    await dispatch(session._events, self.setting.on_event)

    def _answering(self, message: Message, session: Session, scope: Scope) -> Message:
        """The answer to a handshake, with what it has to say about the session."""
        if message["type"] != "websocket.accept":  # it is refused with an HTTP response
            return self._with_session(message, session, scope)
        if session._cookie is NOTHING_TO_SAY:
            return message
        return {**message, "headers": [*message.get("headers", ()), *self._cookies(session, scope)]}

    async def _save_late(self, session: Session, scope: Scope) -> None:
        """Save what was changed since the handshake, or before a handshake that is refused: no cookie can be sent."""
        await self._adopt(session, scope)
        if session._phase is OPEN:
            # Nobody would get to know the id; and under the one from before nobody is signed in.
            session._next_id = session._identity = None
        if not session._loaded or not session._has_unsaved():
            return
        if session._phase is OPEN and not session._is_reachable:
            _log.warning("The WebSocket was refused, so what its handler put into the session is not kept.")
            return
        session._check_reachable()
        async with session._turn():
            await session._commit()

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
                else:  # it has ended, or could not start
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
        elif any(writes(layer, name) for layer in layers(getattr(scope.get("app"), "middleware_stack", None))):
            raise ImproperlyConfigured(ANOTHER.format(name))


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
