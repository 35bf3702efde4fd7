"""starlette-flash: messages for the next page."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse
from sessions import KEY, SessionMiddleware
from starlette_flash import flash

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=KEY)


@app.post("/say")
async def say(request: Request) -> Any:
    flash(request).success("Saved")
    return RedirectResponse("/", status_code=303)


@app.get("/")
async def home(request: Request) -> Any:
    return list(flash(request))
