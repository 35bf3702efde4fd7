"""Authlib's Starlette client stores its state in `request.session`: a whole sign-in works unchanged."""

import json
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import anyio
import pytest
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.integrations.starlette_client import OAuth, OAuthError
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from starsessions import SessionBackend, SessionMiddleware, users
from starsessions.core.encoding import to_base64url
from tests.history.pages import BrowserOf
from tests.kinds import each_backend, each_server_backend
from tests.rows import rows

# Either httpx or httpx2, whichever this version of Authlib uses.
httpx: Any = import_module(
    next(kind for kind in AsyncOAuth2Client.__mro__ if kind.__name__ == "AsyncClient").__module__.partition(".")[0]
)

ISSUER = "https://idp.test"
KEY_OF_THE_PROVIDER = generate_private_key(65537, 2048)


def encoded(value: Any) -> str:
    return to_base64url(value if isinstance(value, bytes) else json.dumps(value).encode())


class Provider:
    """A small provider of OpenID Connect, with PKCE: `/authorize` sends the browser back at once, `/token` redeems the
    code for an id token, with the nonce that came with the authorization request."""

    def __init__(self) -> None:
        self.asked: dict[str, dict[str, str]] = {}
        """By code: the parameters of the browser's request."""
        self.nonce: str | None = None
        """Replaces the correct nonce in the next id token."""
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.metadata),
                Route("/keys", self.keys),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
            ]
        )

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": ISSUER,
                "authorization_endpoint": f"{ISSUER}/authorize",
                "token_endpoint": f"{ISSUER}/token",
                "jwks_uri": f"{ISSUER}/keys",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def keys(self, request: Request) -> Response:
        numbers = KEY_OF_THE_PROVIDER.public_key().public_numbers()
        key = {"kty": "RSA", "kid": "1", "n": encoded(numbers.n.to_bytes(256, "big")), "e": encoded(b"\1\0\1")}
        return JSONResponse({"keys": [key]})

    async def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert (asked["client_id"], asked["response_type"], asked["scope"]) == ("shop", "code", "openid")
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(self.asked)}"
        self.asked[code] = asked
        return RedirectResponse(asked["redirect_uri"] + "?" + urlencode({"code": code, "state": asked["state"]}))

    async def token(self, request: Request) -> Response:
        form = {key: value for key, [value] in parse_qs((await request.body()).decode()).items()}
        asked = self.asked.pop(form["code"])
        assert form["redirect_uri"] == asked["redirect_uri"]
        assert encoded(sha256(form["code_verifier"].encode()).digest()) == asked["code_challenge"]
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": "ann", "aud": "shop", "iat": now, "exp": now + 60}
        signed = f"{encoded({'alg': 'RS256', 'kid': '1'})}.{encoded(claims | {'nonce': self.nonce or asked['nonce']})}"
        signature = KEY_OF_THE_PROVIDER.sign(signed.encode(), PKCS1v15(), SHA256())
        token = {"access_token": "a-token", "token_type": "Bearer", "expires_in": 3600}
        return JSONResponse({**token, "id_token": f"{signed}.{encoded(signature)}"})


async def at_once() -> None:
    """Returns at once."""


def shop(
    provider: Provider, backend: SessionBackend, in_login: Callable[[], Awaitable[None]] = at_once, **settings: Any
) -> Starlette:
    """An application that signs users in at the provider. `in_login` runs while a user is redirected there."""
    oauth = OAuth()
    oauth.register(
        "idp",
        client_id="shop",
        client_secret="shops-secret",
        server_metadata_url=f"{ISSUER}/.well-known/openid-configuration",
        client_kwargs={
            "scope": "openid",
            "code_challenge_method": "S256",
            "transport": httpx.ASGITransport(app=provider.app),
        },
    )

    async def login(request: Request) -> Response:
        response: Response = await oauth.idp.authorize_redirect(request, request.url_for("callback"))
        await in_login()
        return response

    async def callback(request: Request) -> Response:
        try:
            token = await oauth.idp.authorize_access_token(request)
        except OAuthError as error:
            return JSONResponse({"error": error.error}, status_code=400)
        await users.sign_in(request.session, token["userinfo"]["sub"], method="idp")
        request.session["token"] = token["access_token"]
        return RedirectResponse("/")

    async def add(request: Request) -> Response:
        request.session.setdefault("cart", []).append("tea")
        return Response()

    async def home(request: Request) -> Response:
        return JSONResponse({"user": users.get_user_id(request.session), **request.session})

    routes = [
        Route("/login", login),
        Route("/callback", callback, name="callback"),
        Route("/add", add, methods=["POST"]),
        Route("/", home),
    ]
    middleware = [Middleware(SessionMiddleware, backend=backend, autoload=True, **settings)]
    return Starlette(routes=routes, middleware=middleware)


@pytest.fixture
def provider() -> Provider:
    return Provider()


def through_the_provider(location: str, provider: Provider) -> str:
    """The URL to which the provider redirects the browser."""
    assert location.startswith(f"{ISSUER}/authorize?")
    at_the_provider = TestClient(provider.app, base_url=ISSUER, follow_redirects=False)
    return str(at_the_provider.get(location).headers["location"])


def sent_back(browser: TestClient, provider: Provider) -> str:
    return through_the_provider(browser.get("/login", follow_redirects=False).headers["location"], provider)


SIGNED_IN = {"user": "ann", "token": "a-token"}


@pytest.mark.requirement("NIST 5.1.2")
@each_backend
def test_a_login_at_the_provider_signs_the_user_in(
    provider: Provider, backend: SessionBackend, browser_of: BrowserOf
) -> None:
    browser = browser_of(shop(provider, backend))
    browser.post("/add")
    callback = sent_back(browser, provider)
    before = dict(browser.cookies)
    [state] = [key for key in browser.get("/").json() if key.startswith("_state_idp_")]
    assert state
    assert browser.get(callback).json() == {"cart": ["tea"], **SIGNED_IN}
    assert dict(browser.cookies) != before
    assert browser.get(callback).json() == {"error": "mismatching_state"}  # a state works only once
    assert browser.get("/").json() == {"cart": ["tea"], **SIGNED_IN}


@each_backend
def test_the_second_login_in_a_row_is_the_one_that_counts(
    provider: Provider, backend: SessionBackend, browser_of: BrowserOf
) -> None:
    browser = browser_of(shop(provider, backend))
    given_up = sent_back(browser, provider)
    callback = sent_back(browser, provider)
    assert browser.get(callback).json() == SIGNED_IN
    assert browser.get(given_up).json() == {"error": "mismatching_state"}


@each_backend
@rows("forged", ["another browser", "another state"])
def test_a_callback_that_this_browser_did_not_request_is_rejected(
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
    assert browser.get("/").json()["user"] is None


@each_backend
def test_an_id_token_with_a_foreign_nonce_is_rejected(
    provider: Provider, backend: SessionBackend, browser_of: BrowserOf
) -> None:
    browser = browser_of(shop(provider, backend))
    callback = sent_back(browser, provider)
    provider.nonce = "of another login"
    with pytest.raises(Exception, match="nonce"):
        browser.get(callback)
    assert browser.get("/").json()["user"] is None


class Tabs:
    """Two tabs of one browser whose logins overlap (authlib/authlib#285)."""

    def __init__(self, provider: Provider, backend: SessionBackend) -> None:
        self._waiting = 0
        self._both = anyio.Event()
        self._provider = provider
        self.app = shop(provider, backend, self._wait_for_both)

    async def _wait_for_both(self) -> None:
        self._waiting += 1
        if self._waiting == 2:
            self._both.set()
        await self._both.wait()

    async def log_in(self, browser: Any) -> list[str]:
        """The two callbacks."""
        locations: list[str] = []

        async def tab() -> None:
            locations.append((await browser.get("/login")).headers["location"])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tab)
            tasks.start_soon(tab)
        provider = httpx.AsyncClient(transport=httpx.ASGITransport(app=self._provider.app), base_url=ISSUER)
        async with provider:
            return [(await provider.get(location)).headers["location"] for location in locations]


@pytest.mark.anyio
@each_server_backend
async def test_logins_in_two_tabs_at_once_do_not_clobber_each_other(
    provider: Provider, server_backend: SessionBackend
) -> None:
    tabs = Tabs(provider, server_backend)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=tabs.app), base_url="http://testserver") as browser:
        await browser.post("/add")
        callbacks = await tabs.log_in(browser)
        for callback in callbacks:
            assert (await browser.get(callback)).status_code == 307
        assert (await browser.get("/")).json() == {"cart": ["tea"], **SIGNED_IN}


@pytest.mark.anyio
@pytest.mark.parametrize("backend", ["signed", "encrypted"], indirect=True)
async def test_in_a_signed_or_encrypted_cookie_the_last_response_wins(
    provider: Provider, backend: SessionBackend
) -> None:
    """Nothing can merge them: the browser keeps one of two cookies. The other tab gets an error."""
    tabs = Tabs(provider, backend)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=tabs.app), base_url="http://testserver") as browser:
        await browser.post("/add")
        overwritten, kept = await tabs.log_in(browser)
        assert (await browser.get(overwritten)).json() == {"error": "mismatching_state"}
        assert (await browser.get(kept)).status_code == 307
        assert (await browser.get("/")).json() == {"cart": ["tea"], **SIGNED_IN}
