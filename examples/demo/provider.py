"""A toy identity provider, so that the demo can show what a real one does. Do not copy it.

It lets any name sign in. It has one client, the shop, and it knows neither passwords nor consent nor PKCE. What it
sends is real: ID tokens, its keys, and a logout token when a user signs out everywhere.
"""

import secrets
import time
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

import httpx2
from fastapi import Depends, FastAPI, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from joserfc import jwt
from joserfc.jwk import RSAKey
from pages import HEADERS, Name, go_to, templates
from settings import URL

from starsessions import InMemoryBackend, Session, SessionMiddleware, users
from starsessions.fastapi import SessionCookie, safe_next
from starsessions.users import UserSessions

ISSUER = f"{URL}/provider"
CLIENT_ID, CLIENT_SECRET = "shop", secrets.token_urlsafe()
REDIRECT_URI = f"{URL}/sign-in/callback"
LOGOUT_URI = f"{URL}/oidc/backchannel-logout"
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"

key = RSAKey.generate_key(2048, {"kid": secrets.token_hex(8), "use": "sig", "alg": "RS256"})
codes: dict[str, Mapping[str, Any]] = {}

backend = InMemoryBackend()
browsers = UserSessions(backend)
cookie = SessionCookie("provider", scope_key="provider")
CurrentSession = Annotated[Session, Depends(cookie)]
User = Annotated[str, Depends(cookie.user_id(redirect_to="/"))]

app = FastAPI(title="A toy identity provider")
# Beside the session of the shop, in which it is mounted.
app.add_middleware(
    SessionMiddleware, backend=backend, session_cookie="provider", path="/provider", scope_key="provider"
)


def signed(kind: str, **claims: Any) -> str:
    times = {"iat": int(time.time()), "exp": int(time.time()) + 120}
    header = {"typ": kind, "alg": "RS256", "kid": key.kid}
    return jwt.encode(header, {"iss": ISSUER, "aud": CLIENT_ID, **times, **claims}, key)


@app.get("/.well-known/openid-configuration")
async def configuration() -> Mapping[str, Any]:
    return {
        "issuer": ISSUER,
        "jwks_uri": f"{ISSUER}/keys",
        "authorization_endpoint": f"{ISSUER}/authorize",
        "token_endpoint": f"{ISSUER}/token",
        "id_token_signing_alg_values_supported": ["RS256"],
        "backchannel_logout_supported": True,
        "backchannel_logout_session_supported": True,
    }


@app.get("/keys")
async def keys() -> Mapping[str, Any]:
    return {"keys": [key.as_dict(private=False)]}


@app.get("/authorize")
async def authorize(request: Request, session: CurrentSession, redirect_uri: str, state: str, nonce: str) -> Response:
    if redirect_uri != REDIRECT_URI:
        raise HTTPException(400, "That is not the shop")
    user = users.get_user_id(session)
    if user is None:
        return RedirectResponse(f"{ISSUER}/?{urlencode({'next': f'{request.url.path}?{request.url.query}'})}", 303)
    code = secrets.token_urlsafe()
    codes[code] = {"sub": user, "sid": users.get_handle(session), "nonce": nonce}
    return RedirectResponse(f"{redirect_uri}?{urlencode({'code': code, 'state': state})}", 303)


@app.post("/token")
async def token(client: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())], code: Annotated[str, Form()]) -> Any:
    if not secrets.compare_digest(client.password.encode(), CLIENT_SECRET.encode()) or code not in codes:
        raise HTTPException(400, "invalid_grant")
    return {"access_token": "none", "token_type": "Bearer", "id_token": signed("JWT", **codes.pop(code))}


@app.get("/")
async def account(request: Request, session: CurrentSession) -> Response:
    user = users.get_user_id(session)
    count = 0 if user is None else len(await browsers.list(user))
    return templates.TemplateResponse(request, "provider.html", {"user": user, "count": count}, headers=HEADERS)


@app.post("/sign-in")
async def sign_in(
    request: Request,
    session: CurrentSession,
    name: Annotated[Name, Form()],
    next: Annotated[str | None, Form()] = None,  # noqa: A002 - as in account.py
) -> Response:
    await users.sign_in(session, name)
    return RedirectResponse(safe_next(next, default=request.url_for("provider:account").path), 303)


@app.post("/sign-out-everywhere")
async def sign_out_everywhere(request: Request, session: CurrentSession, user: User) -> Response:
    """End all sessions of the user here, and tell the shop to do the same."""
    await browsers.revoke_all(user)
    await users.sign_out(session)
    logout_token = signed("logout+jwt", sub=user, jti=secrets.token_urlsafe(), events={LOGOUT_EVENT: {}})
    async with httpx2.AsyncClient() as client:
        (await client.post(LOGOUT_URI, data={"logout_token": logout_token})).raise_for_status()
    return go_to(request, "provider:account")
