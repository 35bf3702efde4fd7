"""OpenID Connect Back-Channel Logout 1.0, the part of the application."""

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from starsessions.core.durations import Duration, seconds
from starsessions.core.issued import Refused, Trust
from starsessions.core.logout_token import LOGOUT_TYPES, judge_logout
from starsessions.oidc.endpoint import Endpoint, media_type
from starsessions.oidc.keys import openid_configuration
from starsessions.oidc.tokens import KINDS
from starsessions.users import UserSessions


class BackchannelLogout(Endpoint):
    """Receives the logout tokens of an OpenID provider, and ends the sessions that they name.

    Register its address with the provider as `backchannel_logout_uri`. It ends sessions that were signed in with
    `sign_in(…, provider=…)`.

    >>> from starlette.routing import Route
    >>> from starsessions import InMemoryBackend
    >>> from starsessions.users import UserSessions
    >>> backend = InMemoryBackend()
    >>> logout = BackchannelLogout(UserSessions(backend), issuer="https://login.example.com", client_id="shop")
    >>> route = Route("/backchannel-logout", logout)
    """

    types: ClassVar[Collection[str]] = LOGOUT_TYPES

    def __init__(
        self,
        sessions: UserSessions,
        *,
        issuer: str,
        client_id: str,
        keys: Mapping[str, Any] | None = None,
        algorithms: Collection[str] = tuple(KINDS),
        trusted_audiences: Collection[str] = (),
        max_age: Duration = 600,
    ) -> None:
        """Make it for one provider and one client.

        Args:
            sessions: the sessions of the application.
            issuer: the provider, as its ID tokens spell it in `iss`.
            client_id: this application's id at the provider.
            keys: the provider's keys, a JSON Web Key Set. None: they are found by discovery, and kept for an hour.
            algorithms: the accepted signature algorithms.
            trusted_audiences: other clients that a token may name beside this one.
            max_age: how old a token may be, in seconds or as a `timedelta`.
        """
        trust = Trust(issuer, client_id, seconds("max_age", max_age), trusted_audiences)
        super().__init__(sessions, trust, keys, openid_configuration, algorithms)

    async def answer(self, request: Request, body: bytes) -> Response:
        text = _logout_token(request, body)
        token = await self.opened(text) if text else Refused("invalid_request", "There is no logout_token in the form.")
        ending = token if isinstance(token, Refused) else judge_logout(token.claims, self.trust, self.now())
        if isinstance(ending, Refused):
            return self.refuse(ending)
        if not await self.once(ending.issued, partial(self.end, ending)):
            return self.refuse(Refused("invalid_request", "The token was received before."))
        return Response(status_code=200)

    def refuse(self, refused: Refused) -> Response:
        # The codes of OAuth have one for all of this (RFC 6749, 5.2).
        return self.refusal(("error", "error_description"), Refused("invalid_request", refused.why))

    def fail(self) -> Response:
        # Section 2.8 wants a 400 for a failed logout, too. The code is that of OAuth.
        return self.refusal(
            ("error", "error_description"), Refused("temporarily_unavailable", "The logout failed: send it again.")
        )


def _logout_token(request: Request, body: bytes) -> str:
    """Return the token in the form; "" unless there is exactly one."""
    if media_type(request) != "application/x-www-form-urlencoded":
        return ""
    try:
        fields = parse_qsl(body.decode("ascii"), max_num_fields=16)
    except ValueError:
        return ""
    found = [value for name, value in fields if name == "logout_token"]
    return found[0] if len(found) == 1 else ""
