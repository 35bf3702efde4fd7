"""OpenTelemetry: what is in the spans of requests with a session."""

from typing import Any

from fastapi import FastAPI, Request
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sessions import KEY, SessionMiddleware

exported = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exported))

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


@app.get("/spans")
async def spans() -> Any:
    return [span.to_json() for span in exported.get_finished_spans()]


FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls="spans")
