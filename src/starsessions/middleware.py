"""The ASGI middleware: creates the session of each request, and saves it when the response starts."""

# Nested functions are created once per request, and their annotations must not be evaluated each time.
from __future__ import annotations

import logging
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from secrets import token_bytes
from typing import Literal

import anyio
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starsessions.backends.adapter import adapt
from starsessions.backends.base import SessionBackend
from starsessions.backends.cookie import CookieBackend
from starsessions.backends.observer import Telemetry
from starsessions.core.binding import binding_for
from starsessions.core.cookies import CookieSpec, SameSite
from starsessions.core.durations import Duration
from starsessions.core.record import DEFAULT_MAX_AGE
from starsessions.core.state import AFTER_YIELD, BY_HAND, CLOSED, NOTHING, OPEN, SAVING, Command, Phase
from starsessions.events import OnEvent, StoreFailed
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured, ResponseStarted, SessionError
from starsessions.lifecycle import validation
from starsessions.lifecycle.at_once import load_now, save_now, storing_now
from starsessions.lifecycle.config import Config
from starsessions.lifecycle.loading import load
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.response import look_closer, unavailable, with_session, with_session_cookie
from starsessions.lifecycle.saving import decide, save, save_for_headers
from starsessions.lifecycle.startup import Misconfigured, fails_at_startup
from starsessions.lifecycle.tracked_dict import NOT_LOADED
from starsessions.reporting import dispatch
from starsessions.sealing.keys import Keys
from starsessions.session import Session
from starsessions.stores.base import Store

_log = logging.getLogger("starsessions")

_new, _fill = Session.__new__, dict.update
_SENT = (CLOSED, BY_HAND)
_NOT_SENT = (OPEN, SAVING)


class SessionMiddleware:
    """Sessions for Starlette and FastAPI: `request.session` in every HTTP and WebSocket handler.

    Args:
        app: the ASGI application.
        secret_key: the key that signs the session cookie. A list: the first key signs, all keys verify.
        backend: a backend or a store that keeps the sessions. None: sessions are kept in signed cookies.
        autoload: load the session on first access, so that `await request.session.load()` is not needed.
        session_cookie: the name of the cookie.
        max_age: how long a session lasts without use, in seconds or as a `timedelta`. None or 0: the cookie lasts until
            the browser is closed, and the session on the server for 14 days.
        same_site: the `SameSite` attribute of the cookie.
        https_only: the `Secure` attribute. None: set it on responses to requests that arrived over https.
        path: the `Path` attribute.
        domain: the `Domain` attribute. None: the browser sends the cookie to this host only.
        partitioned: the `Partitioned` attribute, for pages that another site embeds in an iframe.
        absolute_timeout: the longest that any session lasts, in seconds or as a `timedelta`. None: no such limit.
        rolling: renew a session whenever it is used. Otherwise only a change renews it.
        renew_every: with `rolling`, renew at most once in this time (seconds or a `timedelta`). None: a tenth of
            `max_age`.
        rotate_every: replace a session id that is this old (seconds or a `timedelta`) with a new one. The old id works
            for 60 more seconds. None: never.
        on_conflict: what happens if two concurrent requests change the same key: "merge" keeps the later change,
            "raise" raises `SessionConflict`. Changes to different keys are always merged.
        on_unavailable: what happens if the store fails: "error" responds 503 unless the application handles
            `BackendUnavailable`; "anonymous" continues with an empty session, and responds 503 only if it is changed.
        on_event: a function or coroutine function, called after the response with each event: see
            `starsessions.events`.
        no_store: True sends `Cache-Control: no-store` with every response that has read an existing session, so that
            the browser asks the server again after a sign-out, when the user presses "Back".
        anonymous_max_age: the longest that a session lasts without use in which no user has signed in, in seconds or as
            a `timedelta`. None: `max_age`, or one day if it holds nothing but CSRF secrets and flash messages.
        max_size: the largest encoded session that is kept on the server, in bytes; a larger one raises
            `SessionTooLarge` when it is saved. None: any size. Cookies have limits of their own.
        max_sessions_per_user: how many sessions a user may have. None: any number.
        on_too_many: what happens at one sign-in more: "evict" ends the oldest session, "refuse" raises
            `TooManySessions`.
        scope_key: the key of the session in the ASGI scope. A second middleware needs another one.
        app_name: the application that the sessions belong to. A cookie or record of one application, cookie name or
            purpose is invalid for any other. None: the name of the cookie.
        telemetry: records metrics and spans: `starsessions.opentelemetry.OpenTelemetry()`. None: nothing is recorded.

    Raises:
        ImproperlyConfigured: a setting is missing, malformed or contradicts another one. The message says how to fix
            it.

    >>> from starlette.applications import Starlette
    >>> from starlette.middleware import Middleware
    >>> app = Starlette(middleware=[Middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more")])
    """

    @fails_at_startup(secret_key=token_bytes())
    @validation.names_keywords
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
        path: str = "/",
        domain: str | None = None,
        partitioned: bool = False,
        *,
        absolute_timeout: Duration | None = None,
        rolling: bool = False,
        renew_every: Duration | None = None,
        rotate_every: Duration | None = None,
        on_conflict: Literal["merge", "raise"] = "merge",
        on_unavailable: Literal["error", "anonymous"] = "error",
        on_event: OnEvent | None = None,
        no_store: bool = False,
        anonymous_max_age: Duration | None = None,
        max_size: int | None = validation.DEFAULT_MAX_SIZE,
        max_sessions_per_user: int | None = validation.DEFAULT_MAX_SESSIONS,
        on_too_many: Literal["evict", "refuse"] = "evict",
        scope_key: str = "session",
        app_name: str | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        cookie = CookieSpec(session_cookie, same_site, https_only, path, domain, partitioned)
        if backend is None:
            if secret_key is None:
                raise ImproperlyConfigured(
                    "SessionMiddleware needs secret_key=… or backend=…. (None counts as missing: is the variable that "
                    "holds the key set?)"
                )
            backend = CookieBackend(secret_key)
        elif secret_key is not None:
            _log.warning("SessionMiddleware uses its backend and ignores its secret_key: remove one of them.")
        adapted = adapt(backend)
        validation.check_flags(autoload=autoload, no_store=no_store, partitioned=partitioned, rolling=rolling)
        validation.check_choices(app_name, scope_key, on_conflict, on_event, on_unavailable)
        policy = validation.policy_from(
            adapted, max_age, absolute_timeout, rolling, renew_every, rotate_every, anonymous_max_age
        )

        bound = adapted.bind(binding_for(cookie.name, app_name), policy)
        if telemetry is not None:
            bound.observer = validation.observer_from(telemetry, backend, adapted)

        self.app = app
        self.config: Config = Config.build(
            backend=bound,
            cookie=cookie,
            autoload=autoload,
            load_now=load_now,
            storing=storing_now(bound),
            raises_on_conflict=on_conflict == "raise",
            anonymous_if_unavailable=on_unavailable == "anonymous",
            on_event=on_event,
            users=validation.user_rules(adapted, max_sessions_per_user, on_too_many),
            no_store=no_store,
            max_size=validation.size_limit(adapted, max_size),
        )
        self.config.advice.on_settings(adapted.max_cookies)
        validation.check_stack(app, self.config, scope_key)
        validation.check_effect(self.config)
        self._autoload = autoload
        self._loads_first = autoload and self.config.peek is None
        self.scope_key = scope_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._serve_other(scope, receive, send)
            return
        key = self.scope_key
        if key in scope and await self._is_served_by_outer(scope):
            await self.app(scope, receive, send)
            return
        scope[key] = session = _new(Session)
        _fill(session, NOT_LOADED)
        state = RequestState(self.config, scope["headers"], scope.get("method"), scope.get("client"))
        session.__starsessions__ = state

        def send_with_session(message: Message) -> Awaitable[None]:
            # Not a coroutine function, so that messages which stay unchanged cost next to nothing.
            if message["type"] == "http.response.start" and state.phase in _NOT_SENT:
                if state.ready or state.accessed or scope.get(key) is not session:
                    return self._start(session, scope, message, send)
                state.phase = CLOSED
            return send(message)

        try:
            if self._loads_first:
                await load(session)
            await self.app(scope, receive, send_with_session)
        except Exception as error:
            await self._refuse(session, error, scope, receive, send)
            return
        finally:
            if state.events:
                await dispatch(state.events, self.config.on_event)
        if state.phase in _SENT and (state.holds or scope.get(key) is not session):
            self._check_saved(session, scope)

    def _start(self, session: Session, scope: Scope, message: Message, send: Send) -> Awaitable[None]:
        """Save the session and send the start of the response."""
        state = session.__starsessions__
        if state.phase is SAVING:  # saving failed, and this is the application's error response
            state.phase = Phase.FAILED
            return send(message)
        if scope.get(self.scope_key) is not session:
            if self._is_replaced(session, scope):
                return self._start_saving(None, session, scope, message, send)
            if not session.accessed:  # another middleware's session is in the place of this one
                look_closer(message.get("headers", ()), False, state, scope)
                state.phase = CLOSED
                return send(message)
        try:
            if not state.is_settled:
                command = decide(session)
                if command is not NOTHING and not save_now(session, command):
                    return self._start_saving(command, session, scope, message, send)
                if not state.is_loaded and message["status"] < 300:
                    self.config.advice.on_not_loaded(scope.get("path", ""), self.config.tokens_in(state.headers))
            message = with_session(message, session, scope)
        except BaseException:
            state.phase = SAVING
            raise
        state.phase = CLOSED
        return send(message)

    async def _start_saving(
        self, command: Command | None, session: Session, scope: Scope, message: Message, send: Send
    ) -> None:
        """Save before sending: if saving fails, nothing has been sent, and the error response is complete."""
        state = session.__starsessions__
        await self._save_for_headers(session, scope, command)
        message = with_session(message, session, scope)
        state.phase = CLOSED
        if state.is_withheld and state.is_lost:
            path = scope.get("path", "")
            self.config.notices.warn(("withheld", path), validation.WITHHELD, path)
        await send(message)

    def _check_saved(self, session: Session, scope: Scope) -> None:
        """Raise if a change came too late to be saved with the response: losing it silently would be worse."""
        state = session.__starsessions__
        if (not state.save_was_cancelled and _has_unsaved(session)) or (
            scope.get(self.scope_key) is not session and self._is_replaced(session, scope)
        ):
            raise ResponseStarted(
                "The session was changed after the response had started, and not saved: "
                f"call `await session.persist()` after the change. {AFTER_YIELD}"
            )

    async def _refuse(self, session: Session, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond 503 because the store failed. Re-raise any other error, and if part of a response has been sent."""
        state = session.__starsessions__
        failure = error.__cause__
        if state.phase is SAVING and isinstance(error, RuntimeError) and isinstance(failure, SessionError):
            # Starlette has a handler for it, but takes the response for started. Nothing has been sent yet.
            if await _is_handled(failure, scope, receive, send):
                return
            error = failure
        if not isinstance(error, BackendUnavailable):
            if state.phase is OPEN:
                state.phase = Phase.LEFT
            raise error
        if state.phase not in _NOT_SENT:
            raise error
        self.config.outage.failed("Requests that need their session are answered 503.", error)
        state.note(StoreFailed(str(error)))
        for message in unavailable(scope["type"], "websocket.http.response" in scope.get("extensions", ())):
            await send(message)

    async def _take_replacement(self, session: Session, scope: Scope) -> None:
        """Take over the content of a plain dict that the application has put in the session's place."""
        if self._is_replaced(session, scope):
            content = scope[self.scope_key]
            await session.load()
            state = session.__starsessions__
            state.check_known()
            dict.clear(session)
            dict.update(session, content)
            state.modified = True
            state.replaced(content)
            scope[self.scope_key] = session

    def _is_replaced(self, session: Session, scope: Scope) -> bool:
        """Return whether the application has replaced the session with a dict that is no other middleware's session."""
        current = scope.get(self.scope_key)
        return current is not session and isinstance(current, dict) and not hasattr(current, "mark_accessed")

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        serve = {"websocket": self._websocket, "lifespan": self._lifespan}.get(scope["type"], self.app)
        await serve(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.scope_key in scope and await self._is_served_by_outer(scope):
            await self.app(scope, receive, send)
            return
        scope[self.scope_key] = session = _new(Session)
        _fill(session, NOT_LOADED)
        state = RequestState(self.config, headers=scope["headers"], client=scope.get("client"))
        session.__starsessions__ = state

        async def send_with_session(message: Message) -> None:
            kind = message["type"]
            if state.phase is OPEN and kind in ("websocket.accept", "websocket.http.response.start"):
                if session.accessed or self._is_replaced(session, scope):
                    await self._save_for_headers(session, scope)
                    message = with_session_cookie(message, session, scope)
                state.phase = BY_HAND
            elif kind == "websocket.close":
                await self._save_late(session, scope)
            await send(message)

        try:
            if self._loads_first:
                await load(session)
            await self.app(scope, receive, send_with_session)
        except BackendUnavailable as error:
            await self._refuse(session, error, scope, receive, send)
        finally:
            # Changes are saved however the connection ended: the peer disconnected, the handler failed, or the server
            # is shutting down and cancelled this task.
            try:
                if state.phase is BY_HAND:
                    with anyio.CancelScope(shield=True):
                        await self._save_late(session, scope)
            finally:
                if state.events:
                    await dispatch(state.events, self.config.on_event)

    async def _save_for_headers(self, session: Session, scope: Scope, command: Command | None = None) -> None:
        """Save while the headers wait. If that raises, the phase stays `SAVING`."""
        state = session.__starsessions__
        state.phase, state.is_saving = SAVING, True
        try:
            await self._take_replacement(session, scope)
            await save_for_headers(session, command)
        finally:
            state.finish_saving()

    async def _save_late(self, session: Session, scope: Scope) -> None:
        """Save changes made after the handshake, or before a rejected one. No cookie can be sent."""
        await self._take_replacement(session, scope)
        state = session.__starsessions__
        if state.phase is OPEN:
            # The browser would not learn the new id, and the sign-in must not apply to the old one (session fixation).
            state.next_id = state.identity = None
        if not state.is_loaded or not _has_unsaved(session):
            return
        ends = state.signs_out and self.config.backend.user_index is not None
        if state.phase is OPEN and not state.is_reachable and not ends:
            _log.warning("The WebSocket was rejected, so the changes that its handler made to the session are lost.")
            return
        if not ends:
            state.check_reachable()
        state.phase = BY_HAND  # a rejected handshake sends no cookie either
        async with state.save_lock():
            await save(session)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start and stop the backend with the application.

        The backend starts after the application, which may just have created the table, and stops after the
        application has, but before the server is told: servers may stop the process then.
        """
        answered = False
        async with AsyncExitStack() as stack:

            async def send_in_time(message: Message) -> None:
                nonlocal answered
                if message["type"] == "lifespan.startup.complete":
                    # If this raises, Starlette shuts down what it has started, and reports the failure.
                    backend = self.config.backend
                    await stack.enter_async_context(backend.lifespan())
                    if backend.announcements is not None:
                        stack.push_async_callback(backend.announcements.aclose)
                else:  # the application has shut down, or could not start
                    await stack.aclose()
                answered = True
                await send(message)

            try:
                await self.app(scope, receive, send_in_time)
            except ImproperlyConfigured as error:
                if not answered:  # without an answer, a server assumes that the application has no lifespan
                    await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise

    async def _is_served_by_outer(self, scope: Scope) -> bool:
        """Return whether an outer middleware has the same sessions, as around a mounted application: then it serves.

        Two sessions of one request would overwrite each other's cookie.
        """
        name, outer = self.config.cookie.name, scope[self.scope_key]
        if isinstance(self.app, Misconfigured):  # which says what is wrong; these settings only hold its place
            return True
        if not isinstance(outer, Session):
            stack = getattr(scope.get("app"), "middleware_stack", None)
            if any(validation.writes(layer, name) for layer in validation.layers(stack)):
                raise ImproperlyConfigured(validation.ANOTHER.format(name))
            return False
        theirs, phase = outer.__starsessions__.config, outer.__starsessions__.phase
        if theirs.cookie.name != name or phase is not OPEN:  # its middleware has finished: the request is tried again
            return False
        if self.config.backend.place != theirs.backend.place:
            raise ImproperlyConfigured(validation.NESTED.format(name))
        self.config.notices.warn("nested", validation.SERVED_BY_OUTER, name)
        if self._autoload:
            await load(outer)
        return True


async def _is_handled(failure: SessionError, scope: Scope, receive: Receive, send: Send) -> bool:
    """Let the application's handler of this error respond. Return False if there is none to be found."""

    async def fails(*_: object) -> None:
        raise failure

    by_class, by_status = scope.get("starlette.exception_handlers", ({}, {}))
    try:
        await ExceptionMiddleware(fails, {**by_class, **by_status})(scope, receive, send)
    except SessionError as error:
        if error is not failure:
            raise
        return False
    return True


def _has_unsaved(session: Session) -> bool:
    state = session.__starsessions__
    state.sync_models()
    return state.has_unsaved(session)
