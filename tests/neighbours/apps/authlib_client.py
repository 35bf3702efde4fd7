"""Authlib's client for FastAPI, and the provider of OpenID Connect that it signs in at, in one application."""

import base64
import json
import time
from typing import Any

from authlib.integrations.starlette_client import OAuth
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from fastapi import FastAPI, Form, Request
from fastapi.responses import RedirectResponse
from sessions import KEY, URL, SessionMiddleware

ISSUER = f"{URL}/idp"
PRIVATE = generate_private_key(65537, 2048)
nonces: dict[str, str] = {}

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=KEY)
oauth = OAuth()
oauth.register(
    "idp",
    client_id="shop",
    client_secret="secret",
    server_metadata_url=f"{ISSUER}/.well-known/openid-configuration",
    client_kwargs={"scope": "openid", "code_challenge_method": "S256"},
)


@app.get("/login")
async def login(request: Request) -> Any:
    return await oauth.idp.authorize_redirect(request, request.url_for("callback"))


@app.get("/callback")
async def callback(request: Request) -> Any:
    token = await oauth.idp.authorize_access_token(request)
    request.session["user"] = token["userinfo"]
    return RedirectResponse("/")


@app.get("/")
async def home(request: Request) -> Any:
    user = request.session.get("user")
    return {"keys": sorted(request.session), "name": user and user["name"]}


@app.get("/logout")
async def logout(request: Request) -> Any:
    request.session.pop("user", None)
    return RedirectResponse("/")


def encoded(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@app.get("/idp/.well-known/openid-configuration")
async def metadata() -> Any:
    return {
        "issuer": ISSUER,
        "authorization_endpoint": f"{ISSUER}/authorize",
        "token_endpoint": f"{ISSUER}/token",
        "jwks_uri": f"{ISSUER}/keys",
        "id_token_signing_alg_values_supported": ["RS256"],
    }


@app.get("/idp/keys")
async def keys() -> Any:
    public = PRIVATE.public_key().public_numbers()
    return {"keys": [{"kty": "RSA", "kid": "1", "n": encoded(public.n.to_bytes(256, "big")), "e": encoded(b"\1\0\1")}]}


@app.get("/idp/authorize")
async def authorize(redirect_uri: str, state: str, nonce: str) -> Any:
    code = f"code-{len(nonces)}"
    nonces[code] = nonce
    return RedirectResponse(f"{redirect_uri}?code={code}&state={state}")


@app.post("/idp/token")
async def token(code: str = Form()) -> Any:
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": "1", "aud": "shop", "iat": now, "exp": now + 60, "nonce": nonces.pop(code)}
    signed = f"{encoded({'alg': 'RS256', 'kid': '1'})}.{encoded(claims | {'name': 'Ann'})}"
    signature = PRIVATE.sign(signed.encode(), PKCS1v15(), SHA256())
    return {"access_token": "a", "token_type": "Bearer", "id_token": f"{signed}.{encoded(signature)}"}
