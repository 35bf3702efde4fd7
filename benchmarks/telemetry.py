"""Measure what telemetry adds to a request: without an SDK in microseconds, and with one in per cent of a request.

    python benchmarks/telemetry.py

Without an SDK, the middleware is driven by hand, with and without `telemetry=`, in turns. With an SDK, uvicorn serves a
FastAPI application with the instrumentation that OpenTelemetry has for it (opentelemetry-instrumentation-fastapi must
be installed): it makes the spans of the server, without which there are none of sessions. Counted is the time of the
processor that the server's thread takes, so clients cost nothing, and other work on the machine little. Spans go
nowhere, in batches, from a thread of their own.
"""

import argparse
import sys
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that it can be started by its path

import uvicorn
from fastapi import FastAPI, Request
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.overhead import KEY, App, Message, cookie_of, fill, in_turns, ours, read, run, timed, untouched, write
from starsessions import InMemoryBackend, SessionMiddleware
from starsessions.backends.redis import RedisBackend
from starsessions.opentelemetry import OpenTelemetry
from tests.servers import redis

BACKENDS: dict[str, dict[str, Any]] = {
    "signed": {"secret_key": KEY},
    "memory": {"backend": InMemoryBackend()},
}


class Nowhere(SpanExporter):
    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


def without_sdk(rounds: int, times: int) -> None:
    print("without an SDK, microseconds a request:")
    for kind, settings in BACKENDS.items():
        for handler in (untouched, read, write):
            contestants = {}
            for name, more in {"off": {}, "on": {"telemetry": OpenTelemetry()}}.items():
                wrap = ours(**settings, **more)
                contestants[name] = timed(wrap(handler), cookie_of(run(wrap(fill), None)))
            took = in_turns(contestants, rounds, times)
            print(f"  {kind}, {handler.__name__:9}  {took['off']:6.2f}  + {took['on'] - took['off']:5.2f}")


class Served:
    """An application on uvicorn, in a thread of its own, and a client that keeps its connection."""

    def __init__(self, app: App) -> None:
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", timeout_keep_alive=600)
        self._server = uvicorn.Server(config)
        self._socket = config.bind_socket()
        self._socket.listen()
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        self._client = HTTPConnection("127.0.0.1", self._socket.getsockname()[1])
        self._headers: dict[str, str] = {}

    def get(self, path: str) -> None:
        self._client.request("GET", path, headers=self._headers)
        response = self._client.getresponse()
        response.read()
        cookie = response.getheader("set-cookie")
        if cookie is not None:
            self._headers = {"cookie": cookie.partition(";")[0]}

    def timed(self, path: str) -> Callable[[int], float]:
        def measure(times: int) -> float:
            clock = time.pthread_getcpuclockid(self._thread.ident or 0)
            began = time.clock_gettime(clock)
            for _ in range(times):
                self.get(path)
            return (time.clock_gettime(clock) - began) / times * 1e6

        return measure

    def stop(self) -> None:
        self._client.close()
        self._server.should_exit = True
        self._thread.join()


def with_sdk(rounds: int, times: int, url: str) -> None:
    tracers, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    tracers.add_span_processor(BatchSpanProcessor(Nowhere(), max_queue_size=10_000))
    telemetry = OpenTelemetry(tracer_provider=tracers, meter_provider=meters)

    def instrumented(app: FastAPI) -> FastAPI:
        FastAPIInstrumentor.instrument_app(app, tracer_provider=tracers, meter_provider=meters)
        return app

    print("with an SDK, microseconds of the processor for a request to uvicorn and FastAPI:")
    for kind, settings in {**BACKENDS, "redis": {"backend": RedisBackend(url)}}.items():
        off = Served(instrumented(_application(**settings)))
        on = Served(instrumented(_application(**settings, telemetry=telemetry)))
        for path in ("/untouched", "/read", "/write"):
            for one in (off, on):
                one.get("/write")
            took = in_turns({"off": off.timed(path), "on": on.timed(path)}, rounds, times)
            added = took["on"] - took["off"]
            print(f"  {kind}, {path[1:]:9}  {took['off']:6.1f}  + {added:5.1f} = {100 * added / took['off']:4.1f} %")
        off.stop()
        on.stop()


def _application(**settings: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/untouched")
    async def untouched() -> dict[str, int]:
        return {}

    @app.get("/read")
    async def read(request: Request) -> dict[str, int]:
        return {"visits": request.session.get("visits", 0)}

    @app.get("/write")
    async def write(request: Request) -> dict[str, int]:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return {"visits": request.session["visits"]}

    app.add_middleware(SessionMiddleware, autoload=True, **settings)
    return app


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--times", type=int, default=1000)
    options = parser.parse_args()
    without_sdk(options.rounds, options.times)
    with redis.standalone() as server:
        with_sdk(options.rounds, options.times // 5, server.url)


if __name__ == "__main__":
    main()
