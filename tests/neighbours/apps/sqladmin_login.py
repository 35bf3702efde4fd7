"""sqladmin: its login in the application's session, instead of the middleware that it brings."""

from typing import Any

from sessions import KEY, SessionMiddleware
from sqladmin import Admin
from sqladmin.authentication import AuthenticationBackend
from sqlalchemy import create_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


class Login(AuthenticationBackend):
    def __init__(self) -> None:
        super().__init__(secret_key=KEY)
        self.middlewares: list[Any] = []

    async def login(self, request: Request) -> bool:
        request.session["admin"] = (await request.form())["username"]
        return True

    async def logout(self, request: Request) -> bool:
        request.session.pop("admin", None)
        return True

    async def authenticate(self, request: Request) -> bool:
        return "admin" in request.session


async def home(request: Request) -> JSONResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(dict(request.session))


app = Starlette(routes=[Route("/", home)], middleware=[Middleware(SessionMiddleware, secret_key=KEY)])
Admin(app, create_engine("sqlite://"), authentication_backend=Login())
