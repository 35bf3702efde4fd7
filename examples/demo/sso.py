"""Signing in with an identity provider, and being signed out by it. Here it is the toy of `provider.py`."""

from authlib.integrations.starlette_client import OAuth, OAuthError
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pages import CurrentSession, go_to
from provider import CLIENT_ID, CLIENT_SECRET, ISSUER, REDIRECT_URI
from settings import URL, user_sessions

from starsessions import flash, users
from starsessions.oidc import BackchannelLogout

oauth = OAuth()
oauth.register(
    "provider",
    client_id=CLIENT_ID,
    client_secret=CLIENT_SECRET,
    server_metadata_url=f"{ISSUER}/.well-known/openid-configuration",
    client_kwargs={"scope": "openid", "code_challenge_method": "S256"},
)

# Receives the provider's logout tokens, and ends the sessions that they mean, with their open streams.
logout_tokens = BackchannelLogout(user_sessions, issuer=ISSUER, client_id=CLIENT_ID)

router = APIRouter()


@router.get("/sign-in/provider")
async def sign_in_with_provider(request: Request, session: CurrentSession) -> Response:
    if not str(request.url).startswith(f"{URL}/"):  # the way back leads there, and so does the cookie
        return RedirectResponse(f"{URL}{request.url.path}")
    response: Response = await oauth.provider.authorize_redirect(request, REDIRECT_URI)
    return response


@router.get("/sign-in/callback")
async def callback(request: Request, session: CurrentSession) -> Response:
    try:
        token = await oauth.provider.authorize_access_token(request)
    except OAuthError:
        flash.add_flash(session, "The provider did not sign you in.")
        return go_to(request, "page")
    claims = token["userinfo"]
    # In this demo a name is a user, and any provider may say it. Look yours up by `iss` and `sub` together.
    await users.sign_in(
        session,
        claims["sub"],
        remember=False,
        method="the demo's provider",
        provider=claims["iss"],
        provider_session=claims["sid"],
        provider_subject=claims["sub"],
    )
    session["provider"] = True
    flash.add_flash(session, f"Welcome, {claims['sub']}.", "success")
    return go_to(request, "page")
