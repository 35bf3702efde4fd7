"""What both receivers have in common: a POST with a token comes in, is judged, ends sessions, and is answered.

A token's number is remembered after its sessions have ended, not before: if that is interrupted, the provider sends the
token again, and it must not be refused as a replay. Two deliveries at once do the same work twice, which is harmless.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, ClassVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from starsessions.core.issued import Ending, Issued, Refused, Trust
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.notices import Notices
from starsessions.oidc.documents import DocumentUnavailable
from starsessions.oidc.keys import DiscoveredKeys, GivenKeys
from starsessions.oidc.tokens import KINDS, MOST_BYTES, Token, is_signed_by, read
from starsessions.users import UserSessions

MOST_BODY = 2 * MOST_BYTES
"""The bytes of a request's body that are read."""

NO_STORE = {"cache-control": "no-store"}


class Endpoint(ABC):
    """An ASGI application that receives tokens."""

    types: ClassVar[Collection[str]]
    """The accepted values of the header `typ`."""

    def __init__(
        self,
        sessions: UserSessions,
        trust: Trust,
        keys: Mapping[str, Any] | None,
        document_of: Callable[[str], str],
        algorithms: Collection[str],
    ) -> None:
        if not trust.issuer or not trust.audience:
            raise ImproperlyConfigured(
                "The issuer, or the client_id or audience, is missing: pass both, exactly as they are in the tokens."
            )
        unknown = sorted(set(algorithms) - set(KINDS))
        if unknown or not algorithms:
            raise ImproperlyConfigured(
                f"algorithms may contain {', '.join(KINDS)}: algorithms without a signature or with a shared secret "
                "are not accepted."
            )
        self.sessions: UserSessions = sessions
        self.trust = trust
        self.algorithms = algorithms
        self.notices: Notices = Notices()
        self.keys: DiscoveredKeys | GivenKeys = (
            DiscoveredKeys(trust.issuer, document_of) if keys is None else GivenKeys(keys)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        request = Request(scope, receive)
        if request.method != "POST":
            answer = Response(status_code=405, headers={"allow": "POST"})
        else:
            answer = await self._answer_to(request)
        answer.headers.update(NO_STORE)
        await answer(scope, receive, send)

    @abstractmethod
    async def answer(self, request: Request, body: bytes) -> Response:
        """Do what the request asks for, and answer it."""

    @abstractmethod
    def refuse(self, refused: Refused) -> Response:
        """Say why the token is refused."""

    @abstractmethod
    def fail(self) -> Response:
        """Say that it cannot be done now."""

    async def opened(self, text: str) -> Token | Refused:
        """Return a token that the provider has signed.

        Raises:
            DocumentUnavailable: the provider's keys cannot be had.
        """
        token = read(text, self.types, self.algorithms)
        if isinstance(token, Refused):
            return token
        if token.claims.get("iss") != self.trust.issuer:  # before anything is fetched
            return Refused("invalid_issuer", "The token was issued by another provider.")
        candidates = await self.keys.matching(token.header, self.now())
        if not candidates:
            return Refused("invalid_key", "The provider has no key that may have signed the token.")
        if not any(is_signed_by(token, key) for key in candidates):
            return Refused("invalid_key", "The signature of the token is invalid.")
        return token

    def now(self) -> int:
        """Return the current time, by the clock of the sessions."""
        return self.sessions.provider_links()[1]

    async def once(self, issued: Issued, work: Callable[[], Awaitable[object]]) -> bool:
        """Do what a token asks for. Return False if it has been done before."""
        links, now = self.sessions.provider_links()
        if await links.was_received(self.trust.issuer, issued.number, now):
            return False
        await work()
        await links.received(self.trust.issuer, issued.number, issued.until, self.now())
        return True

    async def end(self, ending: Ending) -> None:
        """End the sessions that a token names."""
        await self.sessions.revoke_linked(ending.issuer, session=ending.session, subject=ending.subject)

    async def _answer_to(self, request: Request) -> Response:
        try:
            body = await _body_of(request)
            if body is None:
                return Response(status_code=413)
            return await self.answer(request, body)
        except ClientDisconnect:
            return Response(status_code=400)
        except (BackendUnavailable, DocumentUnavailable) as error:
            self.notices.warn(
                type(error).__name__,
                "A sign-out by the provider failed, and it has to send it again: %s",
                error,
                every=60,
            )
            return self.fail()

    def note(self, refused: Refused) -> None:
        """Log why a token is refused."""
        self.notices.warn((refused.code, refused.why), "A token of the provider was refused: %s", refused.why, every=60)

    def refusal(self, names: tuple[str, str], refused: Refused) -> Response:
        """Return a response with an error in JSON, and log why.

        Args:
            names: the names of the code and of the description.
            refused: why.
        """
        self.note(refused)
        return JSONResponse(dict(zip(names, (refused.code, refused.why), strict=True)), status_code=400)


async def _body_of(request: Request) -> bytes | None:
    """Return the body; None if it is too large."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BODY:
            return None
    return bytes(body)


def media_type(request: Request) -> str:
    """Return the media type of the body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
