"""An application whose sessions must not show in what a tool of observation sends."""

from typing import Any

from fastapi import FastAPI, Request
from sessions import KEY, SessionMiddleware


def watched() -> FastAPI:
    """Return the application. Call it after the tool has been started: Sentry's looks at each route as it is added."""
    app = FastAPI()
    app.add_middleware(SessionMiddleware, secret_key=KEY)

    @app.post("/login")
    async def login(request: Request) -> None:
        request.session["user"] = "a-name-in-the-session"

    @app.get("/")
    async def home(request: Request) -> Any:
        return dict(request.session)

    @app.get("/fails")
    async def fails(request: Request) -> None:
        raise ValueError(len(request.session))

    @app.get("/refused")
    async def refused(request: Request) -> None:
        request.session["what"] = object()

    return app
