"""Authlib's Starlette client keeps its state in `request.session`: it runs unchanged."""

from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.integrations.starlette_client import OAuth, OAuthError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from starsessions import SessionBackend, SessionMiddleware
from tests.history.pages import BrowserOf

# The one of httpx and httpx2 that this version of Authlib stands on.
httpx: Any = import_module(
    next(kind for kind in AsyncOAuth2Client.__mro__ if kind.__name__ == "AsyncClient").__module__.partition(".")[0]
)


class Provider:
    """A tiny authorization server with PKCE: `/authorize` sends the browser back at once, `/token` redeems the code."""

    def __init__(self) -> None:
        self.challenges: dict[str, str] = {}
        self.app = Starlette(
            routes=[Route("/authorize", self.authorize), Route("/token", self.token, methods=["POST"])]
        )

    async def authorize(self, request: Request) -> Response:
        asked = request.query_params
        assert (asked["client_id"], asked["response_type"], asked["scope"]) == ("shop", "code", "profile")
        code = f"code-{len(self.challenges)}"
        self.challenges[code] = asked["code_challenge"]
        return RedirectResponse(asked["redirect_uri"] + "?" + urlencode({"code": code, "state": asked["state"]}))

    async def token(self, request: Request) -> Response:
        form = {key: value for key, [value] in parse_qs((await request.body()).decode()).items()}
        assert self.challenges.pop(form["code"])
        assert form["redirect_uri"] == "http://testserver/callback"
        assert form["code_verifier"]
        return JSONResponse({"access_token": "a-token", "token_type": "Bearer", "expires_in": 3600})


def shop(provider: Provider, backend: SessionBackend) -> Starlette:
    oauth = OAuth()
    oauth.register(
        "idp",
        client_id="shop",
        client_secret="shops-secret",
        authorize_url="https://idp.test/authorize",
        access_token_url="https://idp.test/token",
        client_kwargs={
            "scope": "profile",
            "code_challenge_method": "S256",
            "transport": httpx.ASGITransport(app=provider.app),
        },
    )

    async def login(request: Request) -> Response:
        response: Response = await oauth.idp.authorize_redirect(request, request.url_for("callback"))
        return response

    async def callback(request: Request) -> Response:
        try:
            token = await oauth.idp.authorize_access_token(request)
        except OAuthError as error:
            return JSONResponse({"error": error.error}, status_code=400)
        request.session["token"] = token["access_token"]
        return RedirectResponse("/")

    async def home(request: Request) -> Response:
        return JSONResponse(dict(request.session))

    routes = [Route("/login", login), Route("/callback", callback, name="callback"), Route("/", home)]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, backend=backend, autoload=True)])


@pytest.fixture
def provider() -> Provider:
    return Provider()


def sent_back(browser: TestClient, provider: Provider) -> str:
    """Where the browser is sent by the provider, after it was sent there by the shop."""
    location = browser.get("/login", follow_redirects=False).headers["location"]
    assert location.startswith("https://idp.test/authorize?")
    at_the_provider = TestClient(provider.app, base_url="https://idp.test", follow_redirects=False)
    return str(at_the_provider.get(location).headers["location"])


def test_a_login_comes_back_with_a_token(provider: Provider, backend: SessionBackend, browser_of: BrowserOf) -> None:
    browser = browser_of(shop(provider, backend))
    callback = sent_back(browser, provider)
    [state] = browser.get("/").json()
    assert state.startswith("_state_idp_")
    assert browser.get(callback).json() == {"token": "a-token"}


def test_the_second_login_in_a_row_is_the_one_that_counts(
    provider: Provider, backend: SessionBackend, browser_of: BrowserOf
) -> None:
    browser = browser_of(shop(provider, backend))
    given_up = sent_back(browser, provider)
    callback = sent_back(browser, provider)
    assert browser.get(callback).json() == {"token": "a-token"}
    assert browser.get(given_up).json() == {"error": "mismatching_state"}


@pytest.mark.parametrize("forged", ["another browser", "another state"])
def test_a_callback_that_this_browser_did_not_ask_for_is_refused(
    provider: Provider, backend: SessionBackend, browser_of: BrowserOf, forged: str
) -> None:
    app = shop(provider, backend)
    browser = browser_of(app)
    callback = sent_back(browser, provider)
    if forged == "another browser":
        browser = browser_of(app)
    else:
        url = urlsplit(callback)
        callback = url._replace(query=urlencode(dict(parse_qsl(url.query)) | {"state": "forged"})).geturl()
    response = browser.get(callback)
    assert (response.status_code, response.json()) == (400, {"error": "mismatching_state"})
    assert "token" not in browser.get("/").json()
