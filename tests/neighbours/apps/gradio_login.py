"""Gradio in a FastAPI application, open to users who have signed in."""

from typing import Any

import gradio
from fastapi import FastAPI, Request
from sessions import KEY, SessionMiddleware

app = FastAPI()
app.add_middleware(SessionMiddleware, secret_key=KEY)


@app.post("/login/{name}")
async def login(request: Request, name: str) -> None:
    request.session["user"] = name


@app.post("/logout")
async def logout(request: Request) -> None:
    request.session.clear()


def user(request: Request) -> Any:
    return request.session.get("user")


with gradio.Blocks() as blocks:
    gradio.Markdown("Hello")

gradio.mount_gradio_app(app, blocks, path="/gui", auth_dependency=user)
