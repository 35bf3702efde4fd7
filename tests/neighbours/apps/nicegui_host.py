"""NiceGUI in a FastAPI application whose session its pages share."""

import os
from typing import Any

import nicegui
from fastapi import FastAPI, Request
from nicegui import ui
from nicegui.storage import RequestTrackingMiddleware
from sessions import KEY, OURS, SessionMiddleware

app = FastAPI()


@app.get("/count")
async def count(request: Request) -> Any:
    request.session["count"] = request.session.get("count", 0) + 1
    return request.session["count"]


@ui.page("/")
def page(request: Request) -> None:
    visits = nicegui.app.storage.user.get("visits", 0) + 1
    nicegui.app.storage.user["visits"] = visits
    ui.label(f"count={request.session.get('count')}; visits={visits}")
    request.session["seen"] = visits


@app.get("/seen")
async def seen(request: Request) -> Any:
    return request.session.get("seen")


app.add_middleware(SessionMiddleware, secret_key=KEY)
match os.environ.get("HOW", "shared"):
    case "shared" if OURS:
        nicegui.app.add_middleware(RequestTrackingMiddleware)  # NiceGUI does this itself for Starlette's middleware
        ui.run_with(app, mount_path="/gui")
    case "apart":
        ui.run_with(app, mount_path="/gui", storage_secret=KEY, session_middleware_kwargs={"session_cookie": "gui"})
    case _:
        ui.run_with(app, mount_path="/gui", storage_secret=KEY)
