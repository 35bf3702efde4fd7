"""Sentry: what is in its reports of requests with a session."""

from typing import Any

import sentry_sdk
from fastapi import FastAPI, Request
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport
from sessions import KEY, SessionMiddleware

kept: list[str] = []


class Kept(Transport):
    def capture_envelope(self, envelope: Envelope) -> None:
        kept.append(envelope.serialize().decode())


sentry_sdk.init(
    dsn="http://key@127.0.0.1:9/1",
    transport=Kept,
    traces_sample_rate=1.0,
    include_local_variables=False,
)

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


@app.get("/reports")
async def reports() -> Any:
    sentry_sdk.flush()
    return kept
