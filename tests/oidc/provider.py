"""An identity provider and transmitter of our own: it signs what it is told to, right or wrong."""

import json
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry, serialize_compact
from starlette.types import ASGIApp

from starsessions import Session, SessionBackend
from starsessions.core.logout_token import LOGOUT_EVENT
from starsessions.core.security_event import SESSION_REVOKED
from starsessions.oidc import BackchannelLogout, CaepReceiver
from starsessions.users import UserSessions, get_user_id
from tests.shell.people import LISTING, sign_in
from tests.site import Browser, Clock, Site

ISSUER = "https://login.example.com"
CLIENT = "shop"
NOW = 1_800_000_000

RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
OTHER_RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
OKP = OKPKey.generate_key("Ed25519", {"kid": "okp"})
KEYS = {"keys": [key.as_dict(private=False) for key in (RSA, EC, OKP)]}


class _Unchecked(JWSRegistry):
    """Signs everything."""

    def check_header(self, header: Any) -> None:
        pass


_registry = _Unchecked(algorithms=[*JWSRegistry.algorithms])

Claims = dict[str, Any]


def logout_claims(**changes: Any) -> Claims:
    """The claims of a good logout token, with these changes; `...` removes a claim."""
    claims = {
        "iss": ISSUER,
        "aud": CLIENT,
        "iat": NOW,
        "exp": NOW + 120,
        "jti": "1",
        "sid": "sid-1",
        "events": {LOGOUT_EVENT: {}},
    }
    return changed(claims, changes)


def event_claims(**changes: Any) -> Claims:
    """The claims of a good `session-revoked` event."""
    claims = {
        "iss": ISSUER,
        "aud": CLIENT,
        "iat": NOW,
        "jti": "1",
        "sub_id": {"format": "opaque", "id": "sid-1"},
        "events": {SESSION_REVOKED: {"event_timestamp": NOW, "reason_admin": {"en": "test"}}},
    }
    return changed(claims, changes)


def changed(claims: Claims, changes: Claims) -> Claims:
    return {name: value for name, value in {**claims, **changes}.items() if value is not ...}


def signed(claims: Any, key: Any = RSA, **header: Any) -> str:
    """The token. What a header does not say is that of a good logout token; `...` removes it."""
    protected = changed({"alg": "RS256", "typ": "logout+jwt", "kid": key.kid}, header)
    payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    return serialize_compact(protected, payload, key, registry=_registry)


def event(claims: Any, key: Any = RSA, **header: Any) -> str:
    return signed(claims, key, **{"typ": "secevent+jwt", **header})


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def send(
    app: ASGIApp, body: bytes, media_type: str, method: str = "POST", chunks: int = 1, **headers: str
) -> Answer:
    """Visit an endpoint without a server."""
    size = max(1, -(-len(body) // chunks))
    parts = [body[begin : begin + size] for begin in range(0, len(body), size)] or [b""]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def take(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    raw = [(b"content-type", media_type.encode()), *((k.encode(), v.encode()) for k, v in headers.items())]
    scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "headers": raw}
    await app(scope, receive, take)
    start, rest = sent
    return Answer(start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, rest["body"])


async def log_out(app: ASGIApp, token: str, **more: str) -> Answer:
    body = urlencode({"logout_token": token, **more}).encode()
    return await send(app, body, "application/x-www-form-urlencoded")


async def push(app: ASGIApp, token: str, **headers: str) -> Answer:
    return await send(app, token.encode(), "application/secevent+jwt", **headers)


class World:
    """An application, its receivers, and its people."""

    def __init__(self, make: Callable[[Clock], SessionBackend] = LISTING["memory"], **settings: Any) -> None:
        self.clock = Clock(NOW)
        self.backend = make(self.clock)
        self.site = Site(backend=self.backend, **settings)
        self.sessions = UserSessions(self.backend)

    @cached_property
    def logout(self) -> BackchannelLogout:
        return BackchannelLogout(self.sessions, issuer=ISSUER, client_id=CLIENT, keys=KEYS)

    @cached_property
    def events(self) -> CaepReceiver:
        return CaepReceiver(self.sessions, issuer=ISSUER, audience=CLIENT, keys=KEYS)

    async def sign_in(self, user_id: str = "ann", session: str = "sid-1", subject: str = "sub-1") -> Browser:
        browser = Browser()
        names = {"provider": ISSUER, "provider_session": session, "provider_subject": subject}
        await self.site.visit(sign_in(user_id, **names), browser)
        return browser

    async def user(self, browser: Browser) -> str | None:
        reply = await self.site.visit(who, browser)
        user_id: str | None = reply.result
        return user_id


async def who(session: Session) -> str | None:
    await session.load()
    return get_user_id(session)
