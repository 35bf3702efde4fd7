"""starlette-admin: login and logout."""

from sessions import KEY, SessionMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette_admin import BaseAdmin
from starlette_admin.auth import AdminUser, AuthProvider, LoginFailed


class Login(AuthProvider):
    async def login(self, username: str, password: str, remember_me: bool, request: Request) -> None:
        if password != "right":
            raise LoginFailed("Wrong password")
        request.session["admin"] = username

    async def authenticate(self, request: Request) -> AdminUser | None:
        name = request.session.get("admin")
        return AdminUser(username=name) if name else None

    async def logout(self, request: Request) -> None:
        request.session.clear()


async def home(request: Request) -> JSONResponse:
    return JSONResponse(dict(request.session))


app = Starlette(routes=[Route("/", home)], middleware=[Middleware(SessionMiddleware, secret_key=KEY)])
BaseAdmin(auth_provider=Login(), secret_key=KEY).mount_to(app)
