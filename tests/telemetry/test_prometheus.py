"""What Prometheus scrapes, and what the dashboard for Grafana and the alerts of the guide ask of it."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from starsessions import InMemoryBackend
from starsessions.opentelemetry import OpenTelemetry
from tests.docs.pages import DOCS
from tests.rows import rows
from tests.shell.people import sign_in
from tests.site import Clock, Site

pytestmark = pytest.mark.anyio

GUIDE = DOCS / "guides" / "production" / "logs-and-metrics.md"
DASHBOARD = json.loads((DOCS / "guides" / "production" / "grafana-dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
ALERTS = re.findall(r"expr: (.+)", GUIDE.read_text(encoding="utf-8"))
ALARMS = [
    *ALERTS,
    *(
        target["expr"]
        for panel in PANELS
        for target in panel["targets"]
        if len(panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ())) > 1
    ),
]
LABELS = {f"starsessions_{name}" for name in ("by", "limit", "method", "operation", "outcome", "reason", "store")}

Page = Callable[[], str]


@pytest.fixture
def page_of_prometheus() -> Iterator[tuple[OpenTelemetry, Page]]:
    """Telemetry, and the page that Prometheus scrapes."""
    reader = PrometheusMetricReader()
    registry = CollectorRegistry()
    registry.register(reader._collector)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield OpenTelemetry(meter_provider=provider), lambda: generate_latest(registry).decode()
    provider.shutdown()


async def test_prometheus_scrapes_the_metrics_under_their_names(
    page_of_prometheus: tuple[OpenTelemetry, Page], clock: Clock
) -> None:
    telemetry, page = page_of_prometheus
    site = Site(clock=clock, backend=InMemoryBackend(), autoload=True, telemetry=telemetry)
    await site.visit(sign_in("ann", method="password"))
    telemetry.record_active(1)
    lines = page().splitlines()
    assert any(
        line.startswith("starsessions_load_duration_seconds_bucket{") and 'starsessions_outcome="none"' in line
        for line in lines
    )
    assert any(line.startswith("starsessions_created_total{") and line.endswith(" 1.0") for line in lines)
    assert any(line.startswith("starsessions_active{") and line.endswith(" 1.0") for line in lines)
    assert any('starsessions_method="password"' in line for line in lines)


def names_in(query: str) -> set[str]:
    return {*re.findall(r"starsessions_\w+", query)} - LABELS


def names_on(page: Page) -> set[str]:
    return {line.partition("{")[0] for line in page().splitlines() if line.startswith("starsessions_")}


async def test_the_dashboard_shows_every_metric_under_the_name_that_prometheus_has(
    page_of_prometheus: tuple[OpenTelemetry, Page],
) -> None:
    telemetry, page = page_of_prometheus
    for instrument in vars(telemetry._metrics).values():
        for record in ("record", "set", "add"):
            getattr(instrument, record, lambda value: None)(1)
    exported = names_on(page)
    asked = {name for query in QUERIES for name in names_in(query)}
    assert asked <= exported
    assert {_stem(name) for name in asked} == {_stem(name) for name in exported}


def _stem(name: str) -> str:
    return re.sub("_(bucket|count|sum)$", "", name)


async def test_what_alarms_is_there_before_it_happens_for_the_first_time(
    page_of_prometheus: tuple[OpenTelemetry, Page], clock: Clock
) -> None:
    """A counter that Prometheus first sees as 1 has no increase: the first stolen cookie would go unnoticed."""
    telemetry, page = page_of_prometheus
    Site(backend=InMemoryBackend(), clock=clock, telemetry=telemetry)
    assert len(ALERTS) == 2
    assert len(ALARMS) == 6
    assert {name for query in ALARMS for name in names_in(query)} <= names_on(page)


@rows("query", QUERIES)
def test_each_query_is_about_the_applications_and_stores_that_were_chosen(query: str) -> None:
    choices = re.findall(r"starsessions_\w+\{(.*?)\}", query)
    assert choices
    for choice in choices:
        assert 'job=~"$job"' in choice
        assert 'starsessions_store=~"$store"' in choice or "starsessions_active" in query


@rows("query", QUERIES)
def test_no_query_shows_a_counter_as_it_is(query: str) -> None:
    counters = {name for name in names_in(query) if re.search("_(total|bucket|count)$", name)}
    assert counters == {*re.findall(r"(?:rate|increase)\((\w+)\{", query)}


def test_no_two_panels_lie_over_each_other_or_have_one_id() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for one, other in combinations([panel["gridPos"] for panel in PANELS], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
