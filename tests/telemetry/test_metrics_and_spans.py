"""What is recorded of loads, commits, sign-ins and ends, and that it neither tells secrets nor fails a request."""

import importlib
import json
import re
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    EncryptedCookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    Session,
    SessionBackend,
    SessionGone,
    SessionMiddleware,
    SessionTooLarge,
    TooManySessions,
    update_atomically,
    users,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.opentelemetry import METHODS, OpenTelemetry
from starsessions.stores.memory import MemoryStore
from starsessions.stores.sweeper import sweep_forever
from starsessions.users import UserSessions
from tests.docs.pages import DOCS
from tests.docs.pages import rows as rows_of
from tests.kinds import each_backend
from tests.rows import rows
from tests.shell.people import sign_in, signed_in
from tests.shell.test_websocket import connect
from tests.site import KEY, Browser, Clock, DictBackend, Site
from tests.telemetry.recorder import Recorder, instruments

pytestmark = pytest.mark.anyio

REFERENCE = DOCS / "reference" / "opentelemetry.md"
STORES = {
    CookieBackend: "CookieBackend",
    EncryptedCookieBackend: "EncryptedCookieBackend",
    InMemoryBackend: "MemoryStore",
    StoreBackend: "MemoryStore",
    DictBackend: "DictBackend",
}
SECRETS = {
    "user": "user-Zq81xW",
    "value": "value-Kp44mT",
    "key": "key-Vb92sL",
    "method": "method-Rt73nD",
    "message": "message-Hc56yE",
}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


class Observed(Site):
    """A site whose server records a span for each request."""

    def __init__(self, recorder: Recorder, clock: Clock, **settings: Any) -> None:
        how = settings.pop("how", {})
        settings.setdefault("autoload", True)
        super().__init__(clock=clock, telemetry=recorder.telemetry(**how), **settings)
        self.recorder = recorder

    async def visit(self, *args: Any, **how: Any) -> Any:
        with self.recorder.server.start_as_current_span("GET /", record_exception=False):
            return await super().visit(*args, **how)


class Failing(MemoryStore):
    """A store whose driver fails on command, with a message that must not be told."""

    fails = False

    def _check_up(self) -> None:
        if self.fails:
            raise BackendUnavailable("The store failed: OSError.") from OSError(SECRETS["message"])

    async def get(self, key: str, *, now: int) -> Any:
        self._check_up()
        return await super().get(key, now=now)

    async def replace(self, key: str, value: bytes, version: Any, **how: Any) -> Any:
        self._check_up()
        return await super().replace(key, value, version, **how)


def change(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


# Loads and commits


@pytest.mark.both_loops
@each_backend
async def test_loads_and_commits_are_measured_with_their_outcome(backend: SessionBackend, clock: Clock) -> None:
    recorder = Recorder()
    site = Observed(recorder, clock, backend=backend)
    await site.visit(change)
    await site.visit(change)
    await site.visit(lambda session: session["n"])
    await site.visit(Session.delete)

    assert recorder.points("starsessions.load.duration") == {"none": 1, "found": 3}
    assert recorder.points("starsessions.commit.duration") == {"created": 1, "replaced": 1, "deleted": 1}
    assert recorder.points("starsessions.created") == {"": 1}
    [point, *_] = recorder.metrics()["starsessions.created"].data.data_points
    assert point.attributes == {"starsessions.store": STORES[type(backend)]}


@pytest.mark.both_loops
async def test_loads_and_commits_that_do_io_have_spans(clock: Clock) -> None:
    recorder = Recorder()
    site = Observed(recorder, clock, backend=StoreBackend(MemoryStore()))
    await site.visit(change)
    await site.visit(change)
    await site.visit(Session.delete)
    assert [(span.name, span.attributes) for span in recorder.spans] == [
        (f"starsessions.{name}", {"starsessions.store": "MemoryStore", "starsessions.outcome": outcome})
        for name, outcome in [
            ("load", "none"),
            ("commit", "created"),
            ("load", "found"),
            ("commit", "replaced"),
            ("load", "found"),
            ("commit", "deleted"),
        ]
    ]


@rows("backend", [CookieBackend(KEY), InMemoryBackend()])
async def test_a_session_that_is_read_and_changed_without_io_has_no_span(clock: Clock, backend: SessionBackend) -> None:
    recorder = Recorder()
    site = Observed(recorder, clock, backend=backend)
    await site.visit(change)
    before = len(recorder.spans)
    await site.visit(change)
    assert len(recorder.spans) == before
    assert recorder.points("starsessions.commit.duration") == {"created": 1, "replaced": 1}


async def test_a_request_that_does_not_use_its_session_records_nothing(
    recorder: Recorder, server_backend: SessionBackend, clock: Clock
) -> None:
    await Observed(recorder, clock, backend=server_backend, autoload=False).visit()
    assert recorder.spans == []
    assert recorder.metrics() == {}


@rows("autoload", [False, True])
async def test_the_spans_are_children_of_the_servers_and_parents_of_the_drivers(clock: Clock, autoload: bool) -> None:
    recorder = Recorder()

    class Traced(MemoryStore):
        async def get(self, key: str, *, now: int) -> Any:
            with recorder.server.start_as_current_span("GET of the driver"):
                return await super().get(key, now=now)

    site = Observed(recorder, clock, backend=StoreBackend(Traced()), autoload=autoload)
    await site.visit(Session.load, Browser({"session": "an-id"}))
    driver, load, server = recorder.all_spans
    assert [driver.name, load.name, server.name] == ["GET of the driver", "starsessions.load", "GET /"]
    assert driver.parent.span_id == load.context.span_id
    assert load.parent.span_id == server.context.span_id


async def test_an_exemplar_leads_from_a_measurement_to_its_span(
    recorder: Recorder, backend: SessionBackend, clock: Clock
) -> None:
    """What waits for nothing has neither: they would take longer than what they show."""
    await Observed(recorder, clock, backend=backend).visit(change)
    metrics = recorder.metrics()
    for name in ("load", "commit"):
        [point] = metrics[f"starsessions.{name}.duration"].data.data_points
        spans = [span.context.span_id for span in recorder.spans if span.name == f"starsessions.{name}"]
        assert [one.span_id for one in point.exemplars] == (spans or [None])


async def test_without_a_recorded_span_of_the_server_there_are_metrics_only(recorder: Recorder, clock: Clock) -> None:
    site = Site(backend=InMemoryBackend(), clock=clock, autoload=True, telemetry=recorder.telemetry())
    await site.visit(change)
    await site.visit(Session.delete)
    assert recorder.spans == []
    assert recorder.points("starsessions.load.duration") == {"none": 1, "found": 1}


async def misses(recorder: Recorder, backend: SessionBackend, clock: Clock) -> None:
    """One request for each reason why a session is not found."""
    site = Observed(recorder, clock, backend=backend)
    await site.visit(change)
    thief = Browser(dict(site.browser.cookies))
    await site.visit(lambda session: session.regenerate_id(grace=30))
    await site.visit(bool, Browser({"session": "no such id"}))
    await site.visit(bool, Browser({"session": "Unknown"}))
    clock.advance(30)
    await site.visit(bool, thief)
    clock.advance(15 * 86400)
    await site.visit(bool)


async def test_each_reason_for_a_miss_is_an_outcome_and_a_rotated_id_is_counted(
    recorder: Recorder, store_backend: SessionBackend, clock: Clock
) -> None:
    await misses(recorder, store_backend, clock)
    loads = recorder.points("starsessions.load.duration")
    assert loads == {"none": 1, "found": 1, "invalid": 1, "unknown": 2, "rotated": 1}
    assert recorder.points("starsessions.rotations") == {"": 1}
    assert recorder.points("starsessions.rotated_ids_used") == {"": 1}


async def test_an_expired_cookie_is_an_outcome(recorder: Recorder, clock: Clock) -> None:
    site = Observed(recorder, clock, backend=CookieBackend(KEY))
    await site.visit(change)
    clock.advance(15 * 86400)
    await site.visit(bool)
    assert recorder.points("starsessions.load.duration") == {"none": 1, "expired": 1}


@rows(
    ("on_unavailable", "error_type"),
    [("error", "OSError"), ("anonymous", "starsessions.exceptions.BackendUnavailable")],
)
async def test_a_store_that_fails_is_an_outcome_with_the_type_of_the_error(
    clock: Clock, on_unavailable: str, error_type: str
) -> None:
    recorder, store = Recorder(), Failing()
    site = Observed(recorder, clock, backend=StoreBackend(store), on_unavailable=on_unavailable)
    await site.visit(change)
    store.fails = True
    await site.visit(Session.load)

    assert recorder.points("starsessions.load.duration") == {"none": 1, f"{error_type} unavailable": 1}
    *_, load = recorder.spans
    assert load.attributes["error.type"] == error_type  # type: ignore[index]
    assert load.status.status_code is trace.StatusCode.ERROR
    assert load.status.description is None
    assert load.events == ()


async def test_a_commit_that_fails_for_any_other_reason_has_the_type_of_the_error(
    recorder: Recorder, clock: Clock
) -> None:
    class Wrong(MemoryStore):
        async def create(self, key: str, value: bytes, **how: Any) -> Any:
            raise json.JSONDecodeError(SECRETS["message"], "", 0)

    with pytest.raises(json.JSONDecodeError):
        await Observed(recorder, clock, backend=StoreBackend(Wrong())).visit(change)
    assert recorder.points("starsessions.commit.duration") == {"json.decoder.JSONDecodeError failed": 1}
    assert recorder.points("starsessions.created") == {}


@pytest.mark.both_loops
async def test_a_load_that_is_cancelled_is_an_outcome_and_no_error(clock: Clock) -> None:
    recorder = Recorder()

    class Slow(MemoryStore):
        async def get(self, key: str, *, now: int) -> Any:
            scope.cancel()
            await anyio.sleep_forever()

    site = Observed(recorder, clock, backend=StoreBackend(Slow()))
    with anyio.CancelScope() as scope:
        await site.visit(Session.load, Browser({"session": "an-id"}))
    assert recorder.points("starsessions.load.duration") == {"cancelled": 1}
    [load] = recorder.spans
    assert load.status.status_code is trace.StatusCode.UNSET


@pytest.mark.parametrize("atomically", [False, True])
async def test_a_conflict_is_counted_once_with_both_commits(
    recorder: Recorder, store_backend: SessionBackend, clock: Clock, atomically: bool
) -> None:
    site = Observed(recorder, clock, backend=store_backend)
    elsewhere = Site(clock=clock, backend=store_backend, autoload=True)
    await site.visit(change)

    async def act(session: Session) -> None:
        await session.load()
        await elsewhere.visit(lambda other: other.update(theirs=1), site.browser)
        if atomically:
            await update_atomically(session, lambda data: data.update(mine=1))
        else:
            session["mine"] = 1

    await site.visit(act)
    assert recorder.points("starsessions.conflicts") == {"": 1}
    assert recorder.points("starsessions.commit.duration") == {"created": 1, "conflict": 1, "replaced": 1}


async def test_a_session_that_has_ended_meanwhile_is_no_conflict(
    recorder: Recorder, store_backend: SessionBackend, clock: Clock
) -> None:
    site = Observed(recorder, clock, backend=store_backend)
    await site.visit(sign_in())

    async def act(session: Session) -> None:
        await session.load()
        await UserSessions(store_backend).revoke_all("ann")
        session["n"] = 1

    await site.visit(act)
    assert recorder.points("starsessions.conflicts") == {}
    assert recorder.points("starsessions.commit.duration") == {"created": 1, "ended": 1}


async def test_a_sign_in_that_was_revoked_before_it_was_saved_is_not_counted(
    recorder: Recorder, store_backend: SessionBackend, clock: Clock
) -> None:
    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        await UserSessions(store_backend).revoke_all("ann")

    with pytest.raises(SessionGone):
        await Observed(recorder, clock, backend=store_backend).visit(act)
    assert recorder.points("starsessions.sign_ins") == {}
    assert recorder.points("starsessions.commit.duration") == {"ended": 1}


async def test_websockets_and_streams_are_measured_as_requests_are(
    recorder: Recorder, store_backend: SessionBackend, clock: Clock
) -> None:
    site = Observed(recorder, clock, backend=store_backend)
    await site.visit(change)

    async def handler(session: Session, send: Any) -> None:
        await session.load()
        await send({"type": "websocket.accept"})
        session["n"] = 10

    async def after(session: Session) -> None:
        await session.persist()
        session["n"] = 20
        await session.persist()

    with recorder.server.start_as_current_span("WebSocket /"):
        await connect(site, handler)
    await site.visit(Session.load, after=after)
    assert recorder.points("starsessions.commit.duration") == {"created": 1, "replaced": 3}
    assert {span.parent is not None for span in recorder.spans} == {True}


# What happens to users


async def test_sign_ins_and_sign_outs_are_counted(recorder: Recorder, backend: SessionBackend, clock: Clock) -> None:
    site = Observed(recorder, clock, backend=backend)
    await site.visit(sign_in("ann", method="password"))
    await site.visit(change)
    await site.visit(Session.regenerate_id)
    await site.visit(sign_in("ann", method="passkey"))  # again, to confirm
    await site.visit(users.sign_out)
    await site.visit(change)
    await site.visit(sign_in("bob"))
    await site.visit(Session.delete)
    await site.visit(Session.delete)
    assert recorder.points("starsessions.sign_ins") == {"password": 1, "passkey": 1, "": 1}
    assert recorder.points("starsessions.sign_outs") == {"": 2}
    assert recorder.points("starsessions.rotations") == {"": 3}


async def test_a_method_that_is_not_on_the_list_is_counted_as_other(
    recorder: Recorder, store_backend: SessionBackend, clock: Clock
) -> None:
    for how, counted in [({}, "_OTHER"), ({"methods": [*METHODS, "impersonated"]}, "impersonated")]:
        recorder = Recorder()
        site = Observed(recorder, clock, backend=store_backend, how=how)
        for number in range(3):
            await signed_in(site, method="impersonated")
            await signed_in(site, method=f"by {number}")
        points = recorder.points("starsessions.sign_ins")
        assert points == ({"_OTHER": 6} if counted == "_OTHER" else {"impersonated": 3, "_OTHER": 3})


async def test_revocations_are_counted_by_who_has_ended_the_session(
    recorder: Recorder, store_backend: SessionBackend, clock: Clock
) -> None:
    site = Observed(recorder, clock, backend=store_backend, max_sessions_per_user=2)
    sessions = UserSessions(store_backend)
    for _ in range(3):
        await signed_in(site)
    await sessions.revoke("ann", "made up")
    await sessions.revoke_all("ann")
    await signed_in(site, "bob", provider="https://id.example", provider_session="s1")
    await sessions.revoke_linked("https://id.example", session="s1")
    assert recorder.points("starsessions.revocations") == {"limit": 1, "application": 2, "provider": 1}


async def test_what_a_limit_refuses_is_counted(recorder: Recorder, clock: Clock) -> None:
    def grow(session: Session) -> None:
        session["text"] = "x" * 5000

    signed = Observed(recorder, clock, backend=CookieBackend(KEY))
    stored = Observed(
        recorder,
        clock,
        backend=InMemoryBackend(clock=clock),
        max_size=1000,
        max_sessions_per_user=1,
        on_too_many="refuse",
    )
    for site in (signed, stored):
        with pytest.raises(SessionTooLarge):
            await site.visit(grow)
    await signed_in(stored)
    with pytest.raises(TooManySessions):
        await signed_in(stored)
    assert recorder.points("starsessions.refused") == {"cookie size": 1, "max_size": 1, "max_sessions_per_user": 1}


async def test_what_a_sweep_removes_is_counted(recorder: Recorder) -> None:
    observer, found = recorder.telemetry().observer("SQLAlchemyStore"), iter([1000, 7, 0])

    class Ends(Exception):
        pass

    class Store:
        async def sweep(self, limit: int, *, now: int) -> int:
            return next(found)

    rounds = iter(range(4))

    async def sleep(seconds: float) -> None:
        if next(rounds) == 3:
            raise Ends

    with pytest.raises(Ends):
        await sweep_forever(Store(), 60, lambda: 0, told=observer.swept, sleep=sleep, chance=lambda: 0)
    assert recorder.points("starsessions.sweep.removed") == {"": 1007}


async def test_the_application_may_record_how_many_sessions_are_active(recorder: Recorder) -> None:
    telemetry = recorder.telemetry()
    telemetry.record_active(12)
    telemetry.record_active(11)
    assert recorder.points("starsessions.active") == {"": 11}


# What it does not tell


async def every_scenario(recorder: Recorder, clock: Clock, **how: Any) -> set[str]:
    """Do all that is recorded, with what must not be told. Return the secrets: all cookies, ids and handles, too."""
    secrets = set(SECRETS.values())
    user = SECRETS["user"]
    store = Failing()
    backends = [CookieBackend(KEY, allow_unrevocable=True), InMemoryBackend(), StoreBackend(store)]
    for backend in backends:
        most = {} if backend is backends[0] else {"max_sessions_per_user": 1}
        site = Observed(recorder, clock, backend=backend, how=how, **most)

        async def act(session: Session) -> str | None:
            session[SECRETS["key"]] = [SECRETS["value"]]
            await users.sign_in(session, user, method=SECRETS["method"])
            return users.get_handle(session)

        for browser in (Browser(), Browser(), site.browser):
            secrets.add((await site.visit(act, browser)).result)
            secrets.update(browser.cookies.values())
            await site.visit(lambda session: session.pop(SECRETS["key"]), browser)
            secrets.update(browser.cookies.values())
        await site.visit(Session.load, Browser({"session": SECRETS["value"]}))
        if backend is backends[2]:
            store.fails = True
            await site.visit(change)
            store.fails = False
        else:
            await site.visit(users.sign_out)

        def fail(session: Session) -> None:
            raise LookupError(SECRETS["message"])

        with pytest.raises(LookupError):
            await site.visit(fail)
    await misses(recorder, StoreBackend(MemoryStore(), clock=clock), clock)
    return {secret for secret in secrets if secret}


@pytest.mark.guarantee(28)
async def test_no_id_handle_user_key_value_or_message_is_in_what_is_exported(recorder: Recorder, clock: Clock) -> None:
    secrets = await every_scenario(recorder, clock)
    exported = recorder.exported()
    assert len(secrets) > 12
    assert b"starsessions.load" in exported
    assert b"OSError" in exported
    assert [secret for secret in secrets if secret.encode() in exported] == []


@pytest.mark.guarantee(28)
async def test_handles_and_users_are_on_spans_and_on_nothing_else_if_they_are_asked_for(
    recorder: Recorder, clock: Clock
) -> None:
    await every_scenario(recorder, clock, handles=True, user_ids=True)
    told = [span.attributes for span in recorder.spans if "user.id" in span.attributes]  # type: ignore[operator]
    assert {one["user.id"] for one in told if one} == {SECRETS["user"]}
    assert all(one and len(str(one["starsessions.handle"])) == 16 for one in told)
    assert {one["starsessions.outcome"] for one in told if one} >= {"found", "created", "replaced", "deleted"}
    metrics = str([metric.to_json() for metric in recorder.metrics().values()])
    assert "user.id" not in metrics
    assert "handle" not in metrics


# That it fails no request


class Broken(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if span.name == self.breaks:
            raise LookupError(SECRETS["message"])

    def on_end(self, span: Any) -> None:
        if span.name == "starsessions.commit":
            raise LookupError(SECRETS["message"])

    breaks = "starsessions.load"


@pytest.mark.guarantee(28)
async def test_an_sdk_that_fails_is_logged_once_and_fails_no_request(
    recorder: Recorder, backend: SessionBackend, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.tracers.add_span_processor(Broken())
    site = Observed(recorder, clock, backend=backend)
    for _ in range(2):
        await site.visit(change)
    assert await site.data() == {"n": 2}
    assert caplog.text.count("OpenTelemetry raised LookupError") == 1
    assert SECRETS["message"] not in caplog.text


async def test_a_counter_that_fails_fails_no_request(
    recorder: Recorder, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry = recorder.telemetry()

    def fail(*args: Any) -> None:
        raise LookupError

    monkeypatch.setattr(telemetry._metrics, "created", SimpleNamespace(add=fail))
    site = Site(clock=clock, backend=InMemoryBackend(), autoload=True, telemetry=telemetry)
    await site.visit(change)
    assert await site.data() == {"n": 1}
    assert "OpenTelemetry raised LookupError" in caplog.text


@each_backend
async def test_without_an_sdk_everything_works(backend: SessionBackend, clock: Clock) -> None:
    site = Site(clock=clock, backend=backend, autoload=True, telemetry=OpenTelemetry())
    await site.visit(sign_in())
    await site.visit(change)
    assert await site.data() == {"n": 1}
    await site.visit(users.sign_out)


# How it is switched on


@rows("wrong", [True, OpenTelemetry, "opentelemetry"])
def test_anything_else_than_telemetry_is_rejected(site_of: Callable[..., Site], wrong: object) -> None:
    with pytest.raises(ImproperlyConfigured, match="telemetry must be"):
        site_of(telemetry=wrong)


def test_without_the_api_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "starsessions.opentelemetry")
    with pytest.raises(ImproperlyConfigured, match=re.escape("starsessions[opentelemetry]")):
        importlib.import_module("starsessions.opentelemetry")


async def test_two_middlewares_are_told_apart_by_the_names_of_their_stores(recorder: Recorder, clock: Clock) -> None:
    for name in ("shop", "admin"):
        site = Observed(recorder, clock, backend=InMemoryBackend(), how={"store": name})
        await site.visit(change)
    created = recorder.metrics()["starsessions.created"].data.data_points
    assert {point.attributes["starsessions.store"] for point in created} == {"shop", "admin"}


async def test_a_session_by_hand_is_measured_as_those_of_its_middleware(recorder: Recorder, clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    Observed(recorder, clock, backend=backend)
    session = Session(backend)
    await session.load()
    session["n"] = 1
    await session.persist()
    assert recorder.points("starsessions.created") == {"": 1}


# What the documents say


async def test_the_names_in_the_reference_are_those_of_the_metrics(recorder: Recorder) -> None:
    told = rows_of(REFERENCE, "| metric | kind | unit | attributes | what it counts |")
    names = {(name.strip("`"), unit.strip("`"), kind) for name, kind, unit, *_ in told}
    assert names == instruments(recorder.telemetry())


def test_the_middleware_knows_nothing_of_opentelemetry() -> None:
    assert SessionMiddleware.__init__.__annotations__["telemetry"] == "Telemetry | None"
