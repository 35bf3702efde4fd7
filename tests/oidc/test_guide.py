"""The application of the guide, with a provider that is an application, too: the whole round, from both ends."""

import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from starsessions.core.encoding import from_base64url
from starsessions.oidc.keys import DiscoveredKeys, openid_configuration
from tests.docs.pages import story_of, tell
from tests.oidc.provider import ISSUER, KEYS, logout_claims, signed

# Either httpx or httpx2, whichever this version of Authlib uses.
httpx: Any = import_module(
    next(kind for kind in AsyncOAuth2Client.__mro__ if kind.__name__ == "AsyncClient").__module__.partition(".")[0]
)


class Provider:
    """It signs everyone in as ann, and shows what it is asked at the end."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.nonces: dict[str, str] = {}
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.metadata),
                Route("/keys", lambda _: JSONResponse(KEYS)),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
                Route("/logout", self.logout),
            ]
        )

    async def metadata(self, request: Request) -> Response:
        ends = {"authorization": "authorize", "token": "token", "end_session": "logout"}
        return JSONResponse(
            {
                "issuer": ISSUER,
                "jwks_uri": f"{ISSUER}/keys",
                "id_token_signing_alg_values_supported": ["RS256"],
                **{f"{name}_endpoint": f"{ISSUER}/{path}" for name, path in ends.items()},
            }
        )

    async def authorize(self, request: Request) -> Response:
        asked = request.query_params
        code = f"code-{len(self.nonces)}"
        self.nonces[code] = asked["nonce"]
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}")

    async def token(self, request: Request) -> Response:
        [code] = parse_qs((await request.body()).decode())["code"]
        times = {"iat": self.now, "exp": self.now + 60}
        claims = {"iss": ISSUER, "sub": "ann", "sid": "sid-1", "aud": "shop", "nonce": self.nonces[code], **times}
        return JSONResponse({"access_token": "x", "token_type": "Bearer", "id_token": signed(claims, typ="JWT")})

    async def logout(self, request: Request) -> Response:
        asked = request.query_params
        assert asked["client_id"] == "shop"
        payload = json.loads(from_base64url(asked["id_token_hint"].split(".")[1]))
        assert (payload["sub"], payload["sid"]) == ("ann", "sid-1")
        return RedirectResponse(f"{asked['post_logout_redirect_uri']}?{urlencode({'state': asked['state']})}", 303)

    async def fetch(self, url: str) -> Mapping[str, Any]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app)) as client:
            document: Mapping[str, Any] = (await client.get(url)).json()
            return document


@pytest.fixture
def guide() -> dict[str, Any]:
    """What is defined in the guide, with the provider in the place of that on the Internet."""
    told = tell(story_of("guides/users/provider-logout.md"))
    provider = Provider(int(told["backend"].clock()))
    told["oauth"].idp.client_secret = "a-secret"  # the guide has an ellipsis
    told["oauth"].idp.client_kwargs["transport"] = httpx.ASGITransport(app=provider.app)
    told["logout_tokens"].keys = DiscoveredKeys(ISSUER, openid_configuration, provider.fetch)
    return {**told, "provider": provider}


class Browser:
    """A browser that is redirected between the two."""

    def __init__(self, guide: dict[str, Any]) -> None:
        self.here = TestClient(guide["app"], base_url="https://shop.example.com", follow_redirects=False)
        self.there = TestClient(guide["provider"].app, base_url=ISSUER, follow_redirects=False)

    def follow(self, response: Any) -> Any:
        """Go where the response leads, until a page is shown."""
        while response.is_redirect:
            url = response.headers["location"]
            response = (self.there if url.startswith(ISSUER) else self.here).get(url)
        return response

    def sign_in(self) -> None:
        self.follow(self.here.get("/login"))


async def devices(guide: dict[str, Any]) -> int:
    return len(await guide["sessions"].list("ann"))


@pytest.mark.anyio
async def test_a_sign_out_that_begins_here_goes_through_the_provider_and_comes_back(guide: dict[str, Any]) -> None:
    browser = Browser(guide)
    browser.sign_in()
    assert await devices(guide) == 1

    left = browser.here.post("/logout")
    assert await devices(guide) == 0
    assert urlsplit(left.headers["location"]).netloc == "login.example.com"
    back = browser.follow(left)

    assert back.text == "You are signed out, here and at the provider."
    assert browser.here.get(back.url).headers["location"] == "/"  # a state works only once


@pytest.mark.anyio
async def test_the_end_of_a_sign_out_that_did_not_begin_here_is_not_believed(guide: dict[str, Any]) -> None:
    browser = Browser(guide)
    browser.sign_in()
    for url in ("/signed-out?state=x", "/signed-out"):
        assert browser.here.get(url).headers["location"] == "/"
    assert await devices(guide) == 1


@pytest.mark.anyio
async def test_a_logout_token_ends_the_session_that_was_signed_in_with_authlib(guide: dict[str, Any]) -> None:
    browser = Browser(guide)
    browser.sign_in()
    now = guide["provider"].now

    token = signed(logout_claims(iat=now, exp=now + 60))
    answer = TestClient(guide["app"]).post("/backchannel-logout", data={"logout_token": token})

    assert answer.status_code == 200
    assert await devices(guide) == 0
