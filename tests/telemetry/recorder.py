"""An SDK that keeps in memory what is exported, and reads it as the bytes that OTLP would send."""

from collections.abc import Iterator, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer

from starsessions.opentelemetry import OpenTelemetry

Attributes = frozenset[tuple[str, Any]]


def instruments(telemetry: OpenTelemetry) -> set[tuple[str, str, str]]:
    """The name, the unit and the kind of each metric."""
    return {(one.name, one.unit, type(one).__name__.strip("_").lower()) for one in vars(telemetry._metrics).values()}


class Recorder:
    """Both providers, with a tracer for the spans that a server would make."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader], exemplar_filter=AlwaysOnExemplarFilter(), shutdown_on_exit=False)
        self.server: Tracer = self.tracers.get_tracer("server")

    def telemetry(self, **settings: Any) -> OpenTelemetry:
        return OpenTelemetry(meter_provider=self.meters, tracer_provider=self.tracers, **settings)

    # What was exported

    @property
    def all_spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those of this library."""
        return [span for span in self.all_spans if span.instrumentation_scope.name == "starsessions"]  # type: ignore[union-attr]

    def metrics(self) -> dict[str, Any]:
        """The metrics by name, without counters that are 0."""
        metrics = _metrics_in(self._reader.get_metrics_data())
        return {metric.name: metric for metric in metrics if any(map(_amount, metric.data.data_points))}

    def points(self, name: str) -> dict[str, float]:
        """The value of a counter, or the number of measurements in a histogram, by attributes other than the store.

        What is 0 is left out.
        """
        metric = self.metrics().get(name)
        points = [] if metric is None else metric.data.data_points
        return {_told(point.attributes): _amount(point) for point in points if _amount(point)}

    def zeros(self) -> set[tuple[str, str]]:
        """The counters that are 0, by name and attributes other than the store."""
        return {
            (metric.name, _told(point.attributes))
            for metric in _metrics_in(self._reader.get_metrics_data())
            for point in metric.data.data_points
            if not _amount(point)
        }

    def exported(self) -> bytes:
        """All of it, as OTLP sends it."""
        data = self._reader.get_metrics_data()
        metrics = b"" if data is None else encode_metrics(data).SerializeToString()
        return encode_spans(self.spans).SerializeToString() + metrics


def _metrics_in(data: MetricsData | None) -> Iterator[Any]:
    for resource in () if data is None else data.resource_metrics:
        for scope in resource.scope_metrics:
            yield from scope.metrics


def _amount(point: Any) -> Any:
    return getattr(point, "count", getattr(point, "value", None))


def _told(attributes: Any) -> str:
    return " ".join(str(value) for key, value in sorted(attributes.items()) if key != "starsessions.store")
