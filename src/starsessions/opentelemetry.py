"""Metrics and spans of sessions, by the API of OpenTelemetry: `SessionMiddleware(telemetry=OpenTelemetry())`.

Needs `opentelemetry-api`, which FastAPI has installed already; otherwise install the extra
`starsessions[opentelemetry]`. Without an SDK, nothing is recorded.

No id, handle, user, key or value is in what it records, nor the message of an exception.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from time import perf_counter
from typing import Any, Literal, TypeVar, get_args

from starsessions.backends.base import Conflict
from starsessions.backends.observer import By, Limit, Observer
from starsessions.backends.user_index import Overtaken
from starsessions.core.csrf import WhyRefused
from starsessions.core.record import Found, Identity, MissReason
from starsessions.core.state import Create, Delete, Replace, Rotate
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.notices import Notices

try:
    from opentelemetry import context, metrics, trace
except ImportError as _missing:
    raise ImproperlyConfigured(
        "Telemetry needs opentelemetry-api: install the extra starsessions[opentelemetry]."
    ) from _missing

__all__ = ["METHODS", "OpenTelemetry"]

T = TypeVar("T")
_Written = Create | Replace | Rotate | Delete
_Operation = Literal["commit", "load"]

METHODS = (
    *("", "email", "ldap", "magic link", "mfa", "oauth", "oidc", "otp", "passkey", "password", "saml", "sms", "sso"),
    *("totp", "webauthn"),
)
"""The methods of sign-ins that metrics name. An attribute of a metric must not take any value that a request brings."""

_OTHER = "_OTHER"
"""What the semantic conventions call a value that is not on the list."""

_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""The bounds of the histograms, in seconds: signed cookies take microseconds, a store that fails takes its timeout."""

_MISSES = {
    MissReason.NO_COOKIE: "none",
    MissReason.MALFORMED: "invalid",
    MissReason.BAD_SIGNATURE: "invalid",
    MissReason.SEVERAL: "several",
    MissReason.UNKNOWN: "unknown",
    MissReason.ROTATED: "rotated",
    MissReason.JUST_ROTATED: "rotated",
    MissReason.EXPIRED: "expired",
    MissReason.OVER_ABSOLUTE: "expired",
    MissReason.UNDECODABLE: "undecodable",
    MissReason.UNAVAILABLE: "unavailable",
}
_FAILURES = frozenset({"failed", "unavailable"})
_NO_SPAN = context.set_value("starsessions", True, context.Context())  # the SDK takes an empty one for none
"""The context in which what does no I/O is recorded: an exemplar would say nothing, and takes a fifth of the time."""
_COMMITS = {Create: "created", Replace: "replaced", Rotate: "rotated", Delete: "deleted"}


class OpenTelemetry:
    """Records metrics, and a span for each load and each commit of a session, for `SessionMiddleware(telemetry=…)`.

    The spans are children of the server's span, where that is recorded. A session that is loaded or written without I/O
    has metrics only: one in a cookie or in memory.

    Args:
        store: the value of the attribute `starsessions.store`. None: the name of the backend's or store's class.
        methods: the methods of `sign_in()` that metrics name. All others are counted as `_OTHER`.
        handles: set `starsessions.handle` on spans: the handle of a signed-in session.
        user_ids: set `user.id` on spans: the user of a signed-in session.
        meter_provider: makes the metrics. None: the global provider.
        tracer_provider: makes the spans. None: the global provider.

    >>> from starlette.applications import Starlette
    >>> from starlette.middleware import Middleware
    >>> from starsessions import InMemoryBackend, SessionMiddleware
    >>> sessions = Middleware(SessionMiddleware, backend=InMemoryBackend(), telemetry=OpenTelemetry())
    >>> app = Starlette(middleware=[sessions])
    """

    def __init__(
        self,
        *,
        store: str | None = None,
        methods: Collection[str] = METHODS,
        handles: bool = False,
        user_ids: bool = False,
        meter_provider: metrics.MeterProvider | None = None,
        tracer_provider: trace.TracerProvider | None = None,
    ) -> None:
        self._store = store
        self._methods = frozenset(methods)
        self._spans = _Spans(trace.get_tracer("starsessions", tracer_provider=tracer_provider), handles, user_ids)
        self._metrics = _Metrics(metrics.get_meter("starsessions", meter_provider=meter_provider))

    def observer(self, store: str) -> "_Observer":
        """Return what measures the sessions of one middleware, whose backend or store has this name."""
        return _Observer(self._store or store, self._methods, self._spans, self._metrics)

    def record_active(self, sessions: int) -> None:
        """Record how many sessions are live, as the gauge `starsessions.active`.

        Counting costs a query, so the application counts as often as it likes, in one of its processes.

        >>> OpenTelemetry().record_active(12)
        """
        self._metrics.active.set(sessions)


class _Metrics:
    """The instruments."""

    def __init__(self, meter: metrics.Meter) -> None:
        def seconds(name: str, description: str) -> metrics.Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=_BUCKETS)

        self.load: metrics.Histogram = seconds("starsessions.load.duration", "Duration of loading a session.")
        self.commit: metrics.Histogram = seconds(
            "starsessions.commit.duration", "Duration of writing or deleting a session."
        )
        counter = meter.create_counter
        self.created: metrics.Counter = counter("starsessions.created", "{session}", "Sessions that began.")
        self.sign_ins: metrics.Counter = counter("starsessions.sign_ins", "{sign_in}", "Sign-ins that were saved.")
        self.sign_outs: metrics.Counter = counter(
            "starsessions.sign_outs", "{sign_out}", "Sessions that their own browser signed out."
        )
        self.revocations: metrics.Counter = counter(
            "starsessions.revocations", "{session}", "Sessions of users, ended from elsewhere."
        )
        self.rotations: metrics.Counter = counter("starsessions.rotations", "{rotation}", "Sessions that got a new id.")
        self.conflicts: metrics.Counter = counter(
            "starsessions.conflicts", "{conflict}", "Commits that others were faster than."
        )
        self.rotated_ids_used: metrics.Counter = counter(
            "starsessions.rotated_ids_used", "{request}", "Requests with an id that was replaced, after its grace."
        )
        self.refused: metrics.Counter = counter(
            "starsessions.refused", "{refusal}", "Sign-ins and saves that a limit refused."
        )
        self.csrf_refused: metrics.Counter = counter(
            "starsessions.csrf.refused", "{request}", "Requests that another site may have sent, and were rejected."
        )
        self.failures: metrics.Counter = counter(
            "starsessions.failures", "{failure}", "Loads and commits that failed, or had no answer of the store."
        )
        self.removed: metrics.Counter = counter(
            "starsessions.sweep.removed", "{entry}", "Expired entries that a sweep removed."
        )
        # The API has no public name for the type of a gauge.
        self.active: Any = meter.create_gauge("starsessions.active", "{session}", "Live sessions, when last counted.")

    def from_zero(self) -> Iterator[tuple[metrics.Counter, Mapping[str, str]]]:
        """Yield what is counted from 0 on, with its attributes: what appears as 1 has no increase to alert on.

        Sign-ins are missing, because which of the methods an application uses is unknown.
        """
        counters = (self.created, self.sign_outs, self.rotations, self.conflicts, self.rotated_ids_used, self.removed)
        yield from ((counter, {}) for counter in counters)
        yield from ((self.revocations, {"by": by}) for by in get_args(By))
        yield from ((self.refused, {"limit": limit}) for limit in get_args(Limit))
        yield from ((self.csrf_refused, {"reason": why.value}) for why in WhyRefused)
        yield from ((self.failures, {"operation": operation}) for operation in get_args(_Operation))


class _Spans:
    """Makes the spans, where the server's span is recorded."""

    def __init__(self, tracer: trace.Tracer, handles: bool, user_ids: bool) -> None:
        self._tracer = tracer
        self._handles = handles
        self._user_ids = user_ids

    def begin(self, name: str) -> trace.Span | None:
        """Begin a child of the current span, if that is recorded."""
        if not trace.get_current_span().is_recording():
            return None
        # What exceptions say and the stack that they show is no part of a span: it may contain keys and values.
        return self._tracer.start_span(name, record_exception=False, set_status_on_exception=False)

    def end(self, span: trace.Span, attributes: Mapping[str, str], identity: Identity | None) -> None:
        """End a span with what is known now. `identity`: the user of the session."""
        span.set_attributes(attributes)
        if "error.type" in attributes:
            span.set_status(trace.StatusCode.ERROR)
        if identity is not None and self._handles:
            span.set_attribute("starsessions.handle", identity.handle)
        if identity is not None and self._user_ids:
            span.set_attribute("user.id", identity.user_id)
        span.end()


class _Observer(Observer):
    """Measures the sessions of one middleware. If the SDK fails, that is logged once, and the request goes on.

    What does no I/O has no span: that would take several times as long as what it shows.
    """

    def __init__(self, store: str, methods: frozenset[str], spans: _Spans, instruments: _Metrics) -> None:
        self._store = {"starsessions.store": store}
        self._methods = methods
        self._spans = spans
        self._metrics = instruments
        self._notices = Notices()
        self._outcomes: dict[str, Mapping[str, str]] = {}  # the attributes of each outcome, made once
        for counter, attributes in instruments.from_zero():
            self._count(counter, 0, **attributes)

    # Loads

    async def loading(self, work: Awaitable[Found | MissReason]) -> Found | MissReason:
        def told(began: float, span: trace.Span | None, result: Found | MissReason | BaseException) -> None:
            identity = result.record.identity if isinstance(result, Found) else None
            self._record(self._metrics.load, began, _outcome_of_load(result), result, span, identity)
            if result is MissReason.ROTATED:
                self._count(self._metrics.rotated_ids_used)

        return await self._measured("starsessions.load", work, told)

    def loading_now(self, load: Callable[[Any], None]) -> Callable[[Any], None]:
        def load_measured(session: Any) -> None:
            began = perf_counter()
            load(session)
            why = session.__starsessions__.miss_reason
            self._record(self._metrics.load, began, "found" if why is None else _MISSES[why], within=_NO_SPAN)
            if why is MissReason.ROTATED:
                self._count(self._metrics.rotated_ids_used)

        return load_measured

    # Commits

    async def committing(self, command: _Written, work: Awaitable[T]) -> T:
        def told(began: float, span: trace.Span | None, result: object) -> None:
            outcome = _outcome_of(result) if isinstance(result, BaseException) else _COMMITS[type(command)]
            record = command.found.record if isinstance(command, Delete) else command.record
            self._record(self._metrics.commit, began, outcome, result, span, record.identity)
            if outcome == "conflict":
                self._count(self._metrics.conflicts)
            elif not isinstance(result, BaseException):
                self._committed(command)

        return await self._measured("starsessions.commit", work, told)

    def storing_now(self, store: Callable[[Any], Found]) -> Callable[[Any], Found]:
        def store_measured(command: Create | Replace | Rotate) -> Found:
            began = perf_counter()
            kept = store(command)
            self._record(self._metrics.commit, began, _COMMITS[type(command)], within=_NO_SPAN)
            if type(command) is not Replace:
                self._committed(command)
            return kept

        return store_measured

    def _committed(self, command: _Written) -> None:
        """Count what has happened to the session."""
        if isinstance(command, Create):
            self._count(self._metrics.created)
        elif isinstance(command, Rotate):
            self._count(self._metrics.rotations)
        signed_in = _signed_in(command)
        if signed_in is not None:
            method = signed_in.method if signed_in.method in self._methods else _OTHER
            self._count(self._metrics.sign_ins, method=method)

    # What else happens to sessions

    def signed_out(self) -> None:
        self._count(self._metrics.sign_outs)

    def revoked(self, sessions: int, by: By) -> None:
        self._count(self._metrics.revocations, sessions, by=by)

    def refused(self, limit: Limit) -> None:
        self._count(self._metrics.refused, limit=limit)

    def csrf_refused(self, why: WhyRefused) -> None:
        self._count(self._metrics.csrf_refused, reason=why.value)

    def swept(self, entries: int) -> None:
        if entries:
            self._count(self._metrics.removed, entries)

    # The calls on the SDK

    async def _measured(self, name: str, work: Awaitable[T], told: Callable[..., None]) -> T:
        """Await the work, within its span."""
        began, span = perf_counter(), self._begin(name)
        token = None if span is None else context.attach(trace.set_span_in_context(span))
        try:
            result = await work
            told(began, span, result)
            return result
        except BaseException as error:
            told(began, span, error)
            raise
        finally:
            if token is not None:
                context.detach(token)

    def _begin(self, name: str) -> trace.Span | None:
        try:
            return self._spans.begin(name)
        except Exception as error:
            self._failed(error)
            return None

    def _record(
        self,
        histogram: metrics.Histogram,
        began: float,
        outcome: str,
        result: object = None,
        span: trace.Span | None = None,
        identity: Identity | None = None,
        within: context.Context | None = None,
    ) -> None:
        """Record what has taken until now.

        Exemplars name the span of `within`. None: of the current context, which has this span, or that of the server.
        """
        seconds = perf_counter() - began
        try:
            attributes = self._outcomes[outcome]
        except KeyError:
            attributes = self._outcomes[outcome] = {**self._store, "starsessions.outcome": outcome}
        if outcome in _FAILURES:
            attributes = {**attributes, "error.type": _type_of(result)}
            operation: _Operation = "load" if histogram is self._metrics.load else "commit"
            self._count(self._metrics.failures, operation=operation)
        try:
            histogram.record(seconds, attributes, within)
            if span is not None:
                self._spans.end(span, attributes, identity)
        except Exception as error:
            self._failed(error)

    def _count(self, counter: metrics.Counter, number: int = 1, **attributes: str) -> None:
        named = {f"starsessions.{name}": value for name, value in attributes.items()}
        try:
            counter.add(number, {**self._store, **named})
        except Exception as error:
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._notices.warn(
            "telemetry",
            "OpenTelemetry raised %s, so metrics or spans of sessions are missing. Requests are not affected.",
            type(error).__name__,
        )


def _outcome_of_load(result: Found | MissReason | BaseException) -> str:
    if isinstance(result, BaseException):
        return _outcome_of(result)
    return "found" if isinstance(result, Found) else _MISSES[result]


def _outcome_of(error: BaseException) -> str:
    if isinstance(error, BackendUnavailable):
        return "unavailable"
    if isinstance(error, Conflict):
        return "ended" if error.current is None else "conflict"
    if isinstance(error, Overtaken):
        return "ended"
    return "failed" if isinstance(error, Exception) else "cancelled"


def _type_of(result: object) -> str:
    """Return the type of an error, or of the driver's error behind it, as the conventions have it."""
    if isinstance(result, MissReason):  # on_unavailable="anonymous"
        return _named(BackendUnavailable)
    cause = result.__cause__ if isinstance(result, BackendUnavailable) else None
    return _named(type(result if cause is None else cause))


def _named(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _signed_in(command: _Written) -> Identity | None:
    """Return the sign-in that the command stores: a session keeps its handle, and each sign-in has another one."""
    if not isinstance(command, Create | Rotate):
        return None
    before = command.found.record.identity if isinstance(command, Rotate) else None
    after = command.record.identity
    return None if after is None or (before is not None and before.handle == after.handle) else after
