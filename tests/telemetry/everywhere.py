"""A plugin for pytest: all middlewares have telemetry, all requests a span of the server, and what is exported is read.

`python -m pytest -p tests.telemetry.everywhere tests/shell`. Where secrets are as short as in most tests, looking for
them proves nothing. So all texts that are exported have to be words of this library, or classes and spans of the tests.
"""

import re
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from starsessions import SessionMiddleware
from starsessions.backends.observer import By, Limit
from starsessions.core.csrf import WhyRefused
from starsessions.opentelemetry import _OTHER, METHODS, OpenTelemetry, _Operation
from tests.telemetry.recorder import Recorder

OUTCOMES = {
    *("found", "none", "expired", "unknown", "rotated", "invalid", "several", "undecodable", "unavailable"),
    *("created", "replaced", "deleted", "conflict", "ended", "failed", "cancelled"),
}
WORDS = {
    "starsessions.outcome": OUTCOMES,
    "starsessions.method": {*METHODS, _OTHER},
    "starsessions.by": {*get_args(By)},
    "starsessions.limit": {*get_args(Limit)},
    "starsessions.operation": {*get_args(_Operation)},
    "starsessions.reason": {*WhyRefused},
}
CLASSES = {"error.type", "starsessions.store"}
CLASS = re.compile(r"([A-Za-z_]\w*(\.<locals>)?\.)*[A-Za-z_]\w{0,60}")

_recorder = Recorder()


@pytest.fixture(autouse=True)
def telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    before, call = SessionMiddleware.__init__, SessionMiddleware.__call__

    def init(self: Any, *args: Any, telemetry: OpenTelemetry | None = None, **settings: Any) -> None:
        before(self, *args, telemetry=telemetry or _recorder.telemetry(), **settings)

    async def within_a_span(self: Any, scope: Any, *args: Any) -> None:
        with _recorder.server.start_as_current_span("server", record_exception=False):
            await call(self, scope, *args)

    monkeypatch.setattr(SessionMiddleware, "__init__", init)
    monkeypatch.setattr(SessionMiddleware, "__call__", within_a_span)


def pytest_sessionfinish(session: pytest.Session) -> None:
    told = list(_told())
    wrong = {f"{key}={value}" for key, value in told if not is_known(key, value)}
    sys.stdout.write(f"\n{len(told)} texts were exported. These are not known: {sorted(wrong)[:20]}\n")
    sys.stdout.write(f"outcomes: {sorted({str(value) for key, value in told if key == 'starsessions.outcome'})}\n")
    if wrong:
        session.exitstatus = 1


def _told() -> Iterator[tuple[str, Any]]:
    """Each attribute, and everything else that could be text."""
    for span in _recorder.spans:
        yield from (span.attributes or {}).items()
        yield from (("an event", event.name) for event in (*span.events, *span.links))
        if span.status.description is not None:
            yield "a description", span.status.description
        if span.name not in ("starsessions.load", "starsessions.commit"):
            yield "a name", span.name
    for metric in _recorder.metrics().values():
        for point in metric.data.data_points:
            yield from point.attributes.items()
            for exemplar in point.exemplars:
                yield from exemplar.filtered_attributes.items()


def is_known(key: str, value: Any) -> bool:
    return value in WORDS.get(key, ()) or (key in CLASSES and CLASS.fullmatch(value) is not None)
