"""FastMCP as an OAuth server: its consent page belongs to the session of one browser."""

import secrets
from typing import Any

from fastmcp import FastMCP
from fastmcp.server.auth.auth import ClientRegistrationOptions
from fastmcp.server.auth.providers.in_memory import InMemoryOAuthProvider
from fastmcp.server.dependencies import get_http_request
from mcp.server.auth.provider import AuthorizationParams
from mcp.shared.auth import OAuthClientInformationFull
from sessions import KEY, URL, SessionMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount

waiting: dict[str, tuple[OAuthClientInformationFull, AuthorizationParams]] = {}


class Provider(InMemoryOAuthProvider):
    """Asks the user first, on /consent."""

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        asked = secrets.token_urlsafe()
        waiting[asked] = client, params
        return f"{URL}/consent?asked={asked}"

    async def grant(self, asked: str) -> str:
        return await super().authorize(*waiting.pop(asked))


provider = Provider(base_url=URL, client_registration_options=ClientRegistrationOptions(enabled=True))
mcp = FastMCP("shop", auth=provider)


@mcp.custom_route("/consent", methods=["GET", "POST"])
async def consent(request: Request) -> Response:
    if request.method == "GET":
        request.session["asked"] = request.query_params["asked"]
        return JSONResponse("Do you agree?")
    asked = str((await request.form())["asked"])
    if request.session.pop("asked", None) != asked:
        return JSONResponse("This was asked in another browser", status_code=403)
    return RedirectResponse(await provider.grant(asked), status_code=303)


@mcp.tool
async def count() -> int:
    session = get_http_request().session
    session["count"] = session.get("count", 0) + 1
    return session["count"]


inner: Any = mcp.http_app(path="/mcp", json_response=True, stateless_http=True)
app = Starlette(
    routes=[Mount("/", inner)],
    middleware=[Middleware(SessionMiddleware, secret_key=KEY)],
    lifespan=inner.lifespan,
)
