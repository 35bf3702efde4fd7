"""The ASGI shell: gives each request its session, and brings it home when the response starts."""

# A function inside of a function is made once per request: its annotations are not to be worked out each time.
from __future__ import annotations

import logging
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any, Literal

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from starsessions.backends.adapter import adapt
from starsessions.backends.base import SessionBackend
from starsessions.backends.cookie import CookieBackend
from starsessions.core.binding import binding_for
from starsessions.core.cookies import CookieSpec, SameSite
from starsessions.core.durations import Duration
from starsessions.core.record import DEFAULT_MAX_AGE
from starsessions.core.state import BY_HAND, CLOSED, NOTHING, OPEN, SAVING, Command, Phase
from starsessions.events import OnEvent, StoreFailed, dispatch
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured, ResponseStarted
from starsessions.lifecycle.config import Config
from starsessions.lifecycle.loading import load
from starsessions.lifecycle.request_state import RequestState
from starsessions.lifecycle.response import unavailable, with_session, with_session_cookie
from starsessions.lifecycle.saving import decide, save, save_for_headers, save_now
from starsessions.lifecycle.validation import (
    ANOTHER,
    check_choices,
    check_stack,
    layers,
    names_keywords,
    policy_from,
    user_rules,
    writes,
)
from starsessions.sealing.keys import Keys
from starsessions.session import Session
from starsessions.stores.base import Store

_log = logging.getLogger("starsessions")

_new = Session.__new__
_SENT = (CLOSED, BY_HAND)
_NOT_SENT = (OPEN, SAVING)


class SessionMiddleware:
    """Sessions for Starlette and FastAPI: `request.session` in every HTTP and WebSocket handler.

    Args:
        app: the ASGI application.
        secret_key: signs the session into a cookie. A list: the first key signs, all verify.
        backend: keeps sessions elsewhere instead: a backend, or a store as it is.
        autoload: load the session at its first use; no `await request.session.load()` is needed.
        session_cookie: the name of the cookie.
        max_age: how long a session lasts without use, in seconds or as a `timedelta`. None or 0: the cookie ends with
            the browser, and the session on the server after 14 days.
        same_site: the `SameSite` attribute.
        https_only: the `Secure` attribute. None: set it on responses to requests that came over https.
        path: the `Path` attribute.
        domain: the `Domain` attribute. None: the cookie is for this host only.
        partitioned: the `Partitioned` attribute, for pages in an iframe of another site.
        absolute_timeout: how long any session lasts, whatever happens; seconds or a `timedelta`.
        rolling: use renews a session, and not only a write.
        renew_every: with `rolling`, renew at most once in this time; a tenth of `max_age` by default.
        rotate_every: give a session a new id when its id is this old. The old one works for 60 seconds more.
        on_conflict: when two requests at once have changed the same key: "merge", so that the later one wins, or
            "raise" `SessionConflict`. All other keys are merged in any case.
        on_unavailable: when the store fails: "error", a 503 unless the application handles `BackendUnavailable`; or
            "anonymous": the request continues with an empty session, and a 503 follows only if it is changed.
        on_event: called after the response with what happened: see `starsessions.events`.
        max_sessions_per_user: how many sessions a user may have.
        on_too_many: one more ends the oldest ("evict"), or raises `TooManySessions` ("refuse").
        scope_key: the key of the session in the ASGI scope, for a second middleware.
        app_name: the application that the sessions belong to. What one application, cookie and purpose has written is
            worth nothing elsewhere. None: the name of the cookie.

    Raises:
        ImproperlyConfigured: a setting is missing, malformed or contradicts another one. The message names the cure.

    >>> from starlette.applications import Starlette
    >>> from starlette.middleware import Middleware
    >>> app = Starlette(middleware=[Middleware(SessionMiddleware, secret_key="a key of 32 random bytes or more")])
    """

    @names_keywords
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
        max_sessions_per_user: int | None = None,
        on_too_many: Literal["evict", "refuse"] = "evict",
        scope_key: str = "session",
        app_name: str | None = None,
    ) -> None:
        cookie = CookieSpec(session_cookie, same_site, https_only, path, domain, partitioned)
        if backend is None:
            if secret_key is None:
                raise ImproperlyConfigured("SessionMiddleware needs secret_key=… or backend=….")
            backend = CookieBackend(secret_key)
        elif secret_key is not None:
            _log.warning("SessionMiddleware uses its backend and ignores its secret_key: remove one of them.")
        check_choices(
            app_name=app_name,
            scope_key=scope_key,
            on_conflict=on_conflict,
            on_event=on_event,
            on_unavailable=on_unavailable,
        )
        adapted = adapt(backend)
        policy = policy_from(adapted, max_age, absolute_timeout, rolling, renew_every, rotate_every)

        self.app = app
        self.config: Config = Config.build(
            backend=adapted.bind(binding_for(cookie.name, app_name), policy),
            cookie=cookie,
            autoload=autoload,
            raises_on_conflict=on_conflict == "raise",
            anonymous_if_unavailable=on_unavailable == "anonymous",
            on_event=on_event,
            users=user_rules(adapted, max_sessions_per_user, on_too_many),
        )
        check_stack(app, self.config, scope_key)
        self._loads_first = autoload and not self.config.loads_at_once
        self.scope_key = scope_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._serve_other(scope, receive, send)
            return
        key = self.scope_key
        if key in scope:
            self._check_outer(scope[key], scope)
        scope[key] = session = _new(Session)
        state = RequestState(self.config, headers=scope["headers"], client=scope.get("client"))
        session.__starsessions__ = state

        def send_with_session(message: Message) -> Awaitable[None]:
            # No coroutine of its own: messages that are not ours to change cost next to nothing.
            if message["type"] == "http.response.start" and state.phase in _NOT_SENT:
                replaced = scope.get(key) is not session and self._is_replaced(session, scope)
                if replaced or state.accessed:
                    return self._start(session, replaced, scope, message, send)
                state.phase = CLOSED
            return send(message)

        try:
            if self._loads_first:
                await load(session)
            await self.app(scope, receive, send_with_session)
        except BackendUnavailable as error:
            await self._refuse(session, error, scope, send)
            return
        finally:
            if state.events:
                await dispatch(state.events, self.config.on_event)
        if state.phase in _SENT and (state.exposed or scope.get(key) is not session):
            self._check_saved(session, scope)

    def _start(self, session: Session, replaced: bool, scope: Scope, message: Message, send: Send) -> Awaitable[None]:
        """Let the headers leave, with what they have to say about the session."""
        state = session.__starsessions__
        if state.phase is SAVING:  # saving failed, and the application says so
            state.phase = Phase.FAILED
            return send(message)
        state.phase = SAVING
        command = None if replaced else NOTHING if state.is_settled else decide(session)
        if command is not NOTHING and (command is None or not save_now(session, command)):
            return self._start_saving(command, session, scope, message, send)
        state.phase = CLOSED
        return send(with_session(message, session, scope.get("scheme", "http")))

    async def _start_saving(
        self, command: Command | None, session: Session, scope: Scope, message: Message, send: Send
    ) -> None:
        """Save first: if that fails, nothing has been sent and the error is a clean one."""
        state = session.__starsessions__
        state.is_saving = True
        try:
            if command is None:
                await self._adopt(session, scope)
            await save_for_headers(session, command)
            state.phase = CLOSED
        finally:
            state.saving_is_over()
        await send(with_session(message, session, scope.get("scheme", "http")))

    def _check_saved(self, session: Session, scope: Scope) -> None:
        """Raise for a change that came too late to be saved with the response: to lose it silently is worse."""
        state = session.__starsessions__
        if (state.exposed and not state.save_was_cancelled and _has_unsaved(session)) or (
            scope.get(self.scope_key) is not session and self._is_replaced(session, scope)
        ):
            raise ResponseStarted(
                "The session was changed after the response had started, and not saved: "
                "call `await session.persist()` after the change."
            )

    async def _refuse(self, session: Session, error: BackendUnavailable, scope: Scope, send: Send) -> None:
        """Answer that the store failed, if nothing has been sent: a clean response in the place of half of one."""
        state = session.__starsessions__
        if state.phase not in _NOT_SENT:
            raise error
        _log.error("Refused a request because the store of the sessions failed.", exc_info=error)
        state.note(StoreFailed(str(error)))
        for message in unavailable(scope["type"], "websocket.http.response" in scope.get("extensions", ())):
            await send(message)

    async def _adopt(self, session: Session, scope: Scope) -> None:
        """If the application has put a plain dict in the session's place, its content is the session."""
        if self._is_replaced(session, scope):
            content = scope[self.scope_key]
            await session.load()
            state = session.__starsessions__
            state.check_known()
            dict.clear(session)
            dict.update(session, content)
            state.exposed = state.modified = True
            scope[self.scope_key] = session

    def _is_replaced(self, session: Session, scope: Scope) -> bool:
        """Whether the application has put a dict in the session's place that is not another middleware's session."""
        current = scope.get(self.scope_key)
        return current is not session and isinstance(current, dict) and not hasattr(current, "mark_accessed")

    async def _serve_other(self, scope: Scope, receive: Receive, send: Send) -> None:
        serve = {"websocket": self._websocket, "lifespan": self._lifespan}.get(scope["type"], self.app)
        await serve(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.scope_key in scope:
            self._check_outer(scope[self.scope_key], scope)
        scope[self.scope_key] = session = _new(Session)
        state = RequestState(self.config, headers=scope["headers"], client=scope.get("client"))
        session.__starsessions__ = state

        async def send_with_session(message: Message) -> None:
            kind = message["type"]
            if state.phase is OPEN and kind in ("websocket.accept", "websocket.http.response.start"):
                if state.accessed or self._is_replaced(session, scope):
                    await self._save_for_handshake(session, scope)
                    message = with_session_cookie(message, session, scope.get("scheme", "ws"))
                state.phase = BY_HAND
            elif kind == "websocket.close":
                await self._save_late(session, scope)
            await send(message)

        try:
            if self._loads_first:
                await load(session)
            await self.app(scope, receive, send_with_session)
        except BackendUnavailable as error:
            await self._refuse(session, error, scope, send)
        finally:
            # However the connection ended: the peer left, the handler failed, or the server shuts down and cancels us.
            # What was changed on an open connection is not lost with it.
            try:
                if state.phase is BY_HAND:
                    with anyio.CancelScope(shield=True):
                        await self._save_late(session, scope)
            finally:
                if state.events:
                    await dispatch(state.events, self.config.on_event)

    async def _save_for_handshake(self, session: Session, scope: Scope) -> None:
        state = session.__starsessions__
        state.phase, state.is_saving = SAVING, True
        try:
            await self._adopt(session, scope)
            await save_for_headers(session)
        finally:
            state.saving_is_over()

    async def _save_late(self, session: Session, scope: Scope) -> None:
        """Save what was changed since the handshake, or before a handshake that is refused: no cookie can be sent."""
        await self._adopt(session, scope)
        state = session.__starsessions__
        if state.phase is OPEN:
            # The browser would not get to know the new id, and nobody is signed in under the old one.
            state.next_id = state.identity = None
        if not state.is_loaded or not _has_unsaved(session):
            return
        if state.phase is OPEN and not state.is_reachable:
            _log.warning("The WebSocket was refused, so what its handler put into the session is not saved.")
            return
        state.check_reachable()
        async with state.save_lock():
            await save(session)

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
                    await stack.enter_async_context(self.config.backend.lifespan())
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
        name = self.config.cookie.name
        if isinstance(outer, Session):
            if outer.__starsessions__.config.cookie.name == name:
                raise ImproperlyConfigured(
                    f"Two SessionMiddlewares, one inside of the other, use the cookie {name!r}: "
                    "give one of them another session_cookie=…, or leave it out."
                )
        elif any(writes(layer, name) for layer in layers(getattr(scope.get("app"), "middleware_stack", None))):
            raise ImproperlyConfigured(ANOTHER.format(name))


def _has_unsaved(session: Session) -> bool:
    state = session.__starsessions__
    state.sync_models()
    return state.has_unsaved(session)
