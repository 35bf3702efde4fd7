"""CAEP `session-revoked` of a transmitter of the Shared Signals Framework, pushed or fetched: the receiver's part."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from hmac import compare_digest
from typing import Any, ClassVar

from anyio import sleep
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from starsessions.core.durations import Duration, seconds
from starsessions.core.issued import Ending, Refused, Trust
from starsessions.core.security_event import EVENT_TYPES, Noted, OfUser, judge_event
from starsessions.exceptions import ImproperlyConfigured
from starsessions.oidc.documents import is_loopback, is_safe, post
from starsessions.oidc.endpoint import Endpoint, media_type
from starsessions.oidc.keys import ssf_configuration
from starsessions.oidc.polling import Authorization, Polling
from starsessions.users import UserSessions

UsersOf = Callable[[Mapping[str, Any]], Awaitable[Iterable[str]]]


class CaepReceiver(Endpoint):
    """Receives the security events of a transmitter, and ends the sessions that a `session-revoked` names.

    With push delivery (RFC 8935), give its address to the transmitter as the stream's `endpoint_url`. With poll
    delivery (RFC 8936), run `poll()`. Other events are accepted and ignored.

    >>> from starlette.routing import Route
    >>> from starsessions import InMemoryBackend
    >>> from starsessions.users import UserSessions
    >>> sessions = UserSessions(InMemoryBackend())
    >>> receiver = CaepReceiver(sessions, issuer="https://login.example.com", audience="https://shop.example.com")
    >>> route = Route("/security-events", receiver)
    """

    types: ClassVar[Collection[str]] = EVENT_TYPES

    def __init__(
        self,
        sessions: UserSessions,
        *,
        issuer: str,
        audience: str,
        authorization: str | None = None,
        users_of: UsersOf | None = None,
        state: Callable[[str], bool] | None = None,
        subject_issuers: Collection[str] | None = None,
        keys: Mapping[str, Any] | None = None,
        algorithms: Collection[str] = ("RS256",),
        trusted_audiences: Collection[str] = (),
        max_age: Duration = 7 * 24 * 60 * 60,
    ) -> None:
        """Make it for one transmitter.

        Args:
            sessions: the sessions of the application.
            issuer: the transmitter, as its events spell it in `iss`.
            audience: how the events name this application in `aud`.
            authorization: the `authorization_header` of the stream. None: it has none.
            users_of: finds the ids of the users that a subject means which is not known from `sign_in(…, provider=…)`,
                such as `{"format": "email", "email": "ann@example.com"}`. All their sessions end. None: such events end
                nothing, and a warning says so.
            state: whether the `state` of a verification event is what was asked for. None: any is.
            subject_issuers: the providers whose subjects the transmitter may name. None: itself.
            keys: the transmitter's keys, a JSON Web Key Set. None: they are found by discovery, and kept for an hour.
            algorithms: the accepted signature algorithms. The interoperability profile allows this one only.
            trusted_audiences: other receivers that an event may name beside this one.
            max_age: how old an event may be, in seconds or as a `timedelta`. A stream that was paused delivers late.
        """
        trust = Trust(issuer, audience, seconds("max_age", max_age), trusted_audiences)
        super().__init__(sessions, trust, keys, ssf_configuration, algorithms)
        self._authorization = None if authorization is None else authorization.encode()
        self._users_of = users_of
        self._state = state
        self._issuers = (issuer,) if subject_issuers is None else subject_issuers

    async def answer(self, request: Request, body: bytes) -> Response:
        if not self._is_authorized(request):
            answer = self.refuse(
                Refused("authentication_failed", "The Authorization header is not that of the stream.")
            )
            answer.status_code = 401
            return answer
        if media_type(request) != "application/secevent+jwt":
            return self.refuse(Refused("invalid_request", "The media type is not application/secevent+jwt."))
        refused = await self._receive(body.decode("latin-1"))
        return Response(status_code=202) if refused is None else self.refuse(refused)

    async def poll(self, endpoint_url: str, *, authorization: Authorization | None = None, pause: Duration = 1) -> None:
        """Fetch the events of a stream with poll delivery (RFC 8936), and act on them, until it is cancelled.

        Run it while the application runs. A transmitter or a store that fails is asked again, at most a minute later,
        and a warning is logged.

        Args:
            endpoint_url: the `endpoint_url` in the `delivery` of the stream.
            authorization: returns the value of the header `Authorization`, such as `Bearer …`. It is called before each
                request, since access tokens are short-lived.
            pause: how long to wait after an answer without events, in seconds or as a `timedelta`. The transmitter is
                expected to hold the request until there is one, for 90 seconds at most.

        >>> from contextlib import asynccontextmanager
        >>> import anyio
        >>> from starsessions import InMemoryBackend
        >>> from starsessions.users import UserSessions
        >>> sessions = UserSessions(InMemoryBackend())
        >>> receiver = CaepReceiver(sessions, issuer="https://login.example.com", audience="https://shop.example.com")
        >>> @asynccontextmanager
        ... async def lifespan(app):
        ...     async with anyio.create_task_group() as tasks:
        ...         tasks.start_soon(receiver.poll, "https://login.example.com/streams/1/events")
        ...         yield
        ...         tasks.cancel_scope.cancel()
        """
        if not is_safe(endpoint_url, allow_loopback=is_loopback(self.trust.issuer)):
            raise ImproperlyConfigured(
                "The address from which security events are fetched is a URL with https (or http on this machine, for "
                "tests): pass the endpoint_url of the stream."
            )
        stream = Polling(endpoint_url, self._receive_fetched, self.notices, authorization, post)
        await stream.run(seconds("pause", pause), sleep)

    async def _receive_fetched(self, text: str) -> Refused | None:
        refused = await self._receive(text)
        if refused is not None:
            self.note(refused)
        return refused

    async def _receive(self, text: str) -> Refused | None:
        """Do what an event asks for. Return why it is refused, or None."""
        token = await self.opened(text)
        if isinstance(token, Refused):
            return token
        critical = self.keys.critical_members
        judged = judge_event(token.claims, self.trust, self.now(), self._issuers, critical)
        if isinstance(judged, Refused):
            return judged
        if isinstance(judged, Noted) and judged.state is not None and self._state and not self._state(judged.state):
            return Refused("invalid_state", "The state is not the one that was asked for.")
        # A transmitter repeats what it got no answer for, so a repeated event is acknowledged like the first.
        await self.once(judged.issued, partial(self._end, judged))
        return None

    def refuse(self, refused: Refused) -> Response:
        answer = self.refusal(("err", "description"), refused)
        answer.headers["content-language"] = "en"
        return answer

    def fail(self) -> Response:
        return JSONResponse({}, status_code=503, headers={"retry-after": "5"})

    def _is_authorized(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").encode("latin-1")
        return self._authorization is None or compare_digest(given, self._authorization)

    async def _end(self, judged: Ending | OfUser | Noted) -> None:
        if isinstance(judged, Ending):
            await self.end(judged)
        elif isinstance(judged, OfUser):
            if self._users_of is None:
                self.notices.warn(
                    "users_of",
                    "A session-revoked event ended nothing, because its subject has a format that only the application "
                    "understands: pass CaepReceiver users_of=….",
                )
                return
            for user_id in await self._users_of(judged.subject):
                await self.sessions.revoke_all(user_id)
        elif judged.has_stopped:
            self.notices.warn(
                "stream",
                "The transmitter of security events has paused or disabled the stream: until it enables it again, a "
                "sign-out there does not arrive here.",
                every=60,
            )
