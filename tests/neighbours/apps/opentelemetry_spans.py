"""OpenTelemetry: what is in the spans of requests with a session."""

from typing import Any

from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from watched import watched

exported = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exported))

app = watched()


@app.get("/spans")
async def spans() -> Any:
    return [span.to_json() for span in exported.get_finished_spans()]


FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, excluded_urls="spans")
