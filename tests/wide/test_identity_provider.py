"""Sign-ins and sign-outs with identity providers that others wrote, each in a process of its own.

They are node-oidc-provider, and better-auth with its OAuth provider.

The application signs in with Authlib. Its users sign out at the provider, whose logout tokens end their sessions here.
"""

import re
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import uvicorn
from authlib.integrations.starlette_client import OAuth
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from starsessions import InMemoryBackend, SessionMiddleware
from starsessions.oidc import BackchannelLogout
from starsessions.users import UserSessions, get_user_id, sign_in
from tests.missing import missing
from tests.servers.process import free_port, new_folder, remove_folder
from tests.wide.programs import Proxy

pytestmark = pytest.mark.wide

PACKAGES = Path(__file__).parents[2] / ".wide" / "node"


class IdentityProvider(Proxy):
    """The provider of this package and program, whose only client is the application at this address."""

    path = ""
    """Where the issuer is."""

    def __init__(self, package: str, program: str, folder: Path, application: str) -> None:
        node = shutil.which("node")
        if node is None or not (PACKAGES / "node_modules" / package).exists():
            missing(f"{package} is not there: install Node.js, and run scripts/wide-servers")
        port = free_port()
        script = shutil.copy(Path(__file__).with_name(program), PACKAGES)  # it imports what is beside it
        super().__init__(package, [node, script, str(port), application], folder, port, user=None)

    @property
    def issuer(self) -> str:
        return self.url + self.path

    def client(self) -> tuple[str, str]:
        """Return the id and the secret of the application."""
        return "shop", "a-secret-of-the-shop-and-the-provider"


class BetterAuth(IdentityProvider):
    path = "/api/auth"

    def client(self) -> tuple[str, str]:
        client = httpx2.get(self.url + "/client", trust_env=False).json()
        return client["client_id"], client["client_secret"]


def application(issuer: str, client_id: str, client_secret: str) -> Starlette:
    """A shop, whose users sign in at the provider."""
    oauth, backend = OAuth(), InMemoryBackend()
    oauth.register(
        "idp",
        client_id=client_id,
        client_secret=client_secret,
        server_metadata_url=f"{issuer}/.well-known/openid-configuration",
        client_kwargs={"scope": "openid", "code_challenge_method": "S256"},
    )

    async def login(request: Request) -> Response:
        response: Response = await oauth.idp.authorize_redirect(request, request.url_for("callback"))
        return response

    async def callback(request: Request) -> Response:
        token = await oauth.idp.authorize_access_token(request)
        claims = token["userinfo"]
        names = {"provider_session": claims["sid"], "provider_subject": claims["sub"]}
        await sign_in(request, claims.get("name", claims["sub"]), provider=claims["iss"], **names)
        request.session["id_token"] = token["id_token"]
        return RedirectResponse("/", 303)

    async def home(request: Request) -> Response:
        return JSONResponse({"user": get_user_id(request), "id_token": request.session.get("id_token")})

    async def signed_out(request: Request) -> Response:
        return JSONResponse({"state": request.query_params.get("state")})

    routes = [
        Route("/", home),
        Route("/login", login),
        Route("/callback", callback, name="callback"),
        Route("/signed-out", signed_out),
        Route("/backchannel-logout", BackchannelLogout(UserSessions(backend), issuer=issuer, client_id=client_id)),
    ]
    return Starlette(routes=routes, middleware=[Middleware(SessionMiddleware, backend=backend, autoload=True)])


class Place:
    """The provider and the application, and how people use both."""

    def __init__(self, provider: IdentityProvider, shop: str) -> None:
        self.provider = provider
        self.shop = shop
        self.browsers = ExitStack()

    def sign_in(self, name: str, browser: httpx2.Client | None = None) -> httpx2.Client:
        """Sign in at the provider, if that does not know this browser yet, and come back to the shop."""
        browser = browser or self.browsers.enter_context(
            httpx2.Client(follow_redirects=True, timeout=60, trust_env=False)
        )
        page = browser.get(self.shop + "/login")
        while "<form" in page.text:  # one for the name, one for the consent
            page = submit(browser, page, login=name, password="any")
        assert page.json()["user"] == name
        return browser

    def user(self, browser: httpx2.Client) -> Any:
        return browser.get(self.shop + "/").json()["user"]


def submit(browser: httpx2.Client, page: httpx2.Response, **fields: str) -> httpx2.Response:
    [action] = re.findall(r'<form[^>]* action="([^"]+)"', page.text)
    hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page.text)
    return browser.post(unescape(action), data={**dict(hidden), **fields})


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with beside(IdentityProvider, "oidc-provider", "identity_provider.mjs") as place:
        yield place


@pytest.fixture(scope="module")
def better_auth() -> Iterator[Place]:
    with beside(BetterAuth, "better-auth", "better_auth.mjs") as place:
        yield place


@contextmanager
def beside(kind: type[IdentityProvider], package: str, program: str) -> Iterator[Place]:
    """The application beside this provider."""
    listening = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    folder = new_folder()
    with kind(package, program, folder, address) as provider:
        provider.start()
        config = uvicorn.Config(application(provider.issuer, *provider.client()), log_level="warning", lifespan="on")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        place = Place(provider, address)
        with place.browsers:
            yield place
        server.should_exit = True
        thread.join(10)
    listening.close()
    remove_folder(folder)


def test_a_sign_out_at_the_provider_ends_the_session_here_and_no_other(place: Place) -> None:
    ann, same_ann, bob = place.sign_in("ann"), place.sign_in("ann"), place.sign_in("bob")

    page = ann.get(place.provider.url + "/session/end")
    submit(ann, page, logout="yes")

    assert place.user(ann) is None
    assert (place.user(same_ann), place.user(bob)) == ("ann", "bob")
    assert "backchannel.success" in place.provider.log.read_text()
    assert place.user(place.sign_in("ann", ann)) == "ann"  # and may come back


def test_the_whole_round_of_a_sign_out_that_begins_here(place: Place) -> None:
    ann = place.sign_in("ann")
    id_token = ann.get(place.shop + "/").json()["id_token"]
    asked = {"id_token_hint": id_token, "post_logout_redirect_uri": place.shop + "/signed-out", "state": "a-state"}

    page = ann.get(place.provider.url + "/session/end", params=asked)
    page = submit(ann, page, logout="yes")

    assert parse_qs(urlsplit(str(page.url)).query) == {"state": ["a-state"]}
    assert page.json() == {"state": "a-state"}
    assert place.user(ann) is None


def test_a_sign_out_at_better_auth_ends_the_session_here_and_no_other(better_auth: Place) -> None:
    ann, same_ann, bob = better_auth.sign_in("ann"), better_auth.sign_in("ann"), better_auth.sign_in("bob")

    url = better_auth.provider.url
    answer = ann.post(url + "/api/auth/sign-out", json={}, headers={"origin": url})
    assert answer.json() == {"success": True}

    assert better_auth.user(ann) is None
    assert (better_auth.user(same_ann), better_auth.user(bob)) == ("ann", "bob")
    assert "logout token 200" in better_auth.provider.log.read_text()
    assert better_auth.user(better_auth.sign_in("ann", ann)) == "ann"  # and may come back


def test_all_sessions_that_better_auth_revokes_end_here(better_auth: Place) -> None:
    ann, same_ann, bob = better_auth.sign_in("ann"), better_auth.sign_in("ann"), better_auth.sign_in("bob")

    url = better_auth.provider.url
    answer = ann.post(url + "/api/auth/revoke-sessions", json={}, headers={"origin": url})
    assert answer.json() == {"status": True}

    assert (better_auth.user(ann), better_auth.user(same_ann), better_auth.user(bob)) == (None, None, "bob")
