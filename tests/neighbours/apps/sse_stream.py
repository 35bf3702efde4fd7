"""sse-starlette: a stream that reads the session, and that changes it after the response has started."""

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from sessions import ON_THE_SERVER, OURS, SessionMiddleware
from sse_starlette import EventSourceResponse

app = FastAPI()
app.add_middleware(SessionMiddleware, **ON_THE_SERVER)


@app.get("/stream")
async def stream(request: Request, persist: bool = False) -> Any:
    request.session["streams"] = request.session.get("streams", 0) + 1
    session = request.session

    async def events() -> AsyncIterator[dict[str, Any]]:
        yield {"data": session["streams"]}
        if persist and OURS:
            await session.persist()
        session["late"] = True
        if persist and OURS:
            await session.persist()
        yield {"data": "end"}

    return EventSourceResponse(events())


@app.get("/")
async def home(request: Request) -> Any:
    return dict(request.session)
