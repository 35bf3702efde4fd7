"""A simple model of sessions, and a Hypothesis search for requests where a backend differs from it.

Requests overlap: each begins, loads, changes, rotates, logs out and ends on command, while others do the same and the
clock advances. The model predicts the session of every token that was ever issued.
"""

from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from anyio import Event
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from starsessions.backends.adapter import adapt
from starsessions.backends.together import MOMENT
from starsessions.session import Session
from starsessions.testing.clock import Clock
from starsessions.testing.conformance.app import Act, Answer, Site
from starsessions.testing.conformance.fixtures import OpenBackend, opened

MAX_AGE, RENEW_EVERY, GRACE = 100, 10, 40  # seconds
BROWSERS = 2


SETTINGS = settings_of_hypothesis(max_examples=100, stateful_step_count=30, deadline=None)


def check_against_model(
    open_backend: OpenBackend,
    *,
    rolling: bool = False,
    event_loop: str = "asyncio",
    settings: settings_of_hypothesis = SETTINGS,
) -> None:
    """Compare a server-side backend with the model. Raise with the shortest sequence of steps that differs.

    Args:
        open_backend: creates a backend.
        rolling: test with the `rolling` setting of the middleware.
        event_loop: "asyncio" or "trio".
        settings: the settings of Hypothesis, such as the number of examples.

    Raises:
        AssertionError: the backend differs from the model.

    >>> from starsessions import InMemoryBackend
    >>> check_against_model(InMemoryBackend, settings=settings_of_hypothesis(SETTINGS, max_examples=3))
    """

    class Machine(SessionMachine):
        def __init__(self) -> None:
            super().__init__(open_backend, rolling, event_loop)

    run_state_machine_as_test(Machine, settings=settings)


# The model


@dataclass(eq=False)
class _Kept:
    """A session on the server."""

    data: dict[str, Any]
    renewed_at: int
    has_ended: bool = False
    went: "_Rotation | None" = None

    def lives(self, now: int) -> bool:
        return not self.has_ended and self.went is None and now < self.renewed_at + MAX_AGE

    def as_seen(self, now: int) -> "_Kept | None":
        """Return the session that a request with this session's id finds."""
        if self.went is not None and now < self.went.usable_until:
            return self.went.to.as_seen(now)
        return self if self.lives(now) else None

    def end(self, now: int) -> None:
        """End this session, and its successors."""
        self.has_ended = True
        if self.went is not None and now < self.went.traced_until:
            self.went.to.end(now)


@dataclass(frozen=True, eq=False)
class _Rotation:
    """The successor of a rotated session. The old id is remembered for as long as the session would have lasted."""

    to: _Kept
    at: int
    usable_until: int
    traced_until: int


@dataclass(eq=False)
class _Request:
    """A request in progress: the session that it found, its data now, and the real request."""

    browser: int
    token: str | None
    visit: "_Visit"
    is_loaded: bool = False
    found: _Kept | None = None
    base: dict[str, Any] = field(default_factory=dict)
    renewed_at: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    rotates: bool = False
    grace: int = 0
    comes_late: bool = False
    """Whether it sent an id that was replaced moments before, so that it must not begin a session."""
    has_ended_one: bool = False

    def applied_to(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the stored data with this request's changes applied key by key."""
        now_there = deepcopy(data)
        for key in self.base.keys() | self.data.keys():
            if key not in self.data:
                now_there.pop(key, None)
            elif key not in self.base or self.data[key] != self.base[key]:
                now_there[key] = self.data[key]
        return now_there


class _Visit:
    """A real request, whose handler carries out one command after the other."""

    def __init__(self, site: Site, token: str | None) -> None:
        self._site, self._token = site, token
        self._act: Act | None = None
        self._is_told, self._has_done = Event(), Event()
        self._outcome: Any = None
        self._failure: Exception | None = None

    async def run(self) -> Answer:
        try:
            return await self._site.visit(self._token, self._handle)
        except Exception as error:
            self._failure = error
            self._has_done.set()  # or `do` would wait for a handler that never answers
            raise

    async def _handle(self, session: Session) -> None:
        while True:
            await self._is_told.wait()
            self._is_told = Event()
            if self._act is None:
                return
            try:
                self._outcome = await self._act(session)
            except Exception as error:
                self._outcome = error
            self._has_done.set()

    async def do(self, act: Act) -> Any:
        self._act, self._has_done = act, Event()
        if self._failure is None:
            self._is_told.set()
            await self._has_done.wait()
        outcome = self._failure or self._outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def end(self) -> None:
        self._act = None
        self._is_told.set()


A_BROWSER = st.integers(0, BROWSERS - 1)
KEYS = st.sampled_from("ab")
VALUES = st.one_of(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=2), st.dictionaries(KEYS, st.integers(0, 9)))


class SessionMachine(RuleBasedStateMachine):
    """All possible events as Hypothesis rules, applied to the backend and to the model."""

    requests: Bundle[_Request] = Bundle("requests")

    def __init__(self, open_backend: OpenBackend, rolling: bool, event_loop: str) -> None:
        super().__init__()
        self._open_backend, self._rolling, self._event_loop = open_backend, rolling, event_loop
        self._closing = ExitStack()
        self._running: dict[_Request, Any] = {}
        self._kept: dict[str, _Kept] = {}
        self._cookies: list[str | None] = [None] * BROWSERS
        self._clock = Clock()

    @initialize()
    def open(self) -> None:
        self._portal: BlockingPortal = self._closing.enter_context(start_blocking_portal(self._event_loop))
        backend = self._closing.enter_context(self._portal.wrap_async_context_manager(opened(self._open_backend())))
        self._knows_rotations = adapt(backend).has_grace
        rolling = {"rolling": True, "renew_every": RENEW_EVERY} if self._rolling else {}
        self._site = Site(backend, self._clock, max_age=MAX_AGE, **rolling)
        self._reader = Site(backend, self._clock, max_age=MAX_AGE)
        for browser in range(BROWSERS):
            self.do_it_all_at_once(browser, "put", "a", 0)

    def teardown(self) -> None:
        for request, running in self._running.items():
            self._portal.call(request.visit.end)
            running.exception()
        self._closing.close()

    @property
    def _now(self) -> int:
        return int(self._clock())

    # What happens

    @rule(target=requests, browser=A_BROWSER)
    def begin(self, browser: int) -> _Request:
        token = self._cookies[browser]
        visit = self._portal.call(_Visit, self._site, token)
        request = _Request(browser, token, visit)
        self._running[request] = self._portal.start_task_soon(visit.run)
        return request

    @rule(request=requests)
    def load(self, request: _Request) -> None:
        self._do(request, lambda session: None)

    @rule(request=requests, key=KEYS, value=VALUES)
    def put(self, request: _Request, key: str, value: Any) -> None:
        self._do(request, lambda session: session.__setitem__(key, deepcopy(value)))

    @rule(request=requests, key=KEYS, value=st.integers(0, 9))
    def change_within(self, request: _Request, key: str, value: int) -> None:
        self._do(request, lambda session: _change_within(session, key, value))

    @rule(request=requests, key=KEYS)
    def take_out(self, request: _Request, key: str) -> None:
        self._do(request, lambda session: session.pop(key, None))

    @rule(request=requests, grace=st.sampled_from([0, 0, GRACE]))
    def rotate(self, request: _Request, grace: int) -> None:
        self.load(request)
        request.rotates, request.grace = True, grace if self._knows_rotations else 0
        self._portal.call(request.visit.do, lambda session: session.regenerate_id(grace=request.grace or None))

    @rule(request=requests)
    def log_out(self, request: _Request) -> None:
        self.load(request)
        self._portal.call(request.visit.do, Session.flush)
        request.rotates = True
        if request.found is not None:
            request.found.end(self._now)
            request.has_ended_one = True
        request.found, request.base, request.data = None, {}, {}

    @rule(
        browser=A_BROWSER,
        act=st.sampled_from(["put", "take_out", "rotate", "log_out"]),
        key=KEYS,
        grace=st.sampled_from([0, GRACE]),
    )
    def do_it_all_at_once(self, browser: int, act: str, key: str, grace: int) -> None:
        """Run a short request from begin to end, while others are in progress."""
        request = self.begin(browser)
        if act == "put":
            self.put(request, key, 0)
        elif act == "take_out":
            self.take_out(request, key)
        elif act == "rotate":
            self.rotate(request, grace)
        else:
            self.log_out(request)
        self.end(request)

    @rule(seconds=st.sampled_from([1, RENEW_EVERY, MAX_AGE // 2, MAX_AGE - 1, MAX_AGE]))
    def wait(self, seconds: int) -> None:
        self._clock.advance(seconds)

    @rule(request=consumes(requests))
    def end(self, request: _Request) -> None:
        self._portal.call(request.visit.end)
        answer: Answer = self._running.pop(request).result()
        self._check_cookie(request, answer.token, self._expected(request))
        if answer.token is not None:
            self._cookies[request.browser] = answer.token or None

    # The model's predictions

    def _do(self, request: _Request, change: Callable[[dict[str, Any]], Any]) -> None:
        """Load, and make the same change in the model and in the handler. Both must agree before and after it."""
        if not request.is_loaded:
            request.is_loaded = True
            self._find(request, self._now)

        async def act(session: Session) -> tuple[dict[str, Any], dict[str, Any]]:
            await session.load()
            before = deepcopy(session.copy())
            change(session)
            return before, deepcopy(session.copy())

        before, after = self._portal.call(request.visit.do, act)
        assert before == request.data, f"a handler found {before} instead of {request.data}"
        change(request.data)
        assert after == request.data, f"a handler found {after} instead of {request.data} after its change"

    def _find(self, request: _Request, now: int) -> None:
        kept = self._kept.get(request.token or "")
        found = kept.as_seen(now) if kept else None
        if found is not None:
            request.found, request.base, request.renewed_at = found, deepcopy(found.data), found.renewed_at
            request.data = deepcopy(found.data)
        elif kept is not None and kept.went is not None and now < kept.went.traced_until and self._knows_rotations:
            request.comes_late = now < kept.went.at + MOMENT

    def _expected(self, request: _Request) -> "_Kept | str | None":
        """Return what the response must do: set a session's cookie, clear it (""), or leave it alone (None)."""
        now, found = self._now, request.found
        if found is None:
            if request.data:
                return None if request.comes_late and not request.rotates else _Kept(request.data, now)
            return "" if request.has_ended_one else None
        is_due = self._rolling and now - request.renewed_at >= RENEW_EVERY
        if request.data == request.base and not request.rotates and not is_due:
            return None  # the session is not read again
        there = found.as_seen(now)
        if there is None:
            return None  # an ended session stays ended
        merged = request.applied_to(there.data)
        if not merged:
            there.end(now)
            return ""
        if request.rotates and self._kept.get(request.token or "") is not there:
            return None  # the id was rotated, and is in its grace period: its holder gets no new one, and saves nothing
        if request.rotates:
            new = _Kept(merged, now)
            there.went = _Rotation(new, now, now + request.grace, now + MAX_AGE if self._knows_rotations else 0)
            return new
        if merged == there.data and not (self._rolling and now - there.renewed_at >= RENEW_EVERY):
            return None
        there.data, there.renewed_at = merged, now
        return there

    def _check_cookie(self, request: _Request, said: str | None, expected: "_Kept | str | None") -> None:
        if not isinstance(expected, _Kept):
            assert said == expected, "the response set, cleared or left the cookie unlike the model"
        elif request.token and self._kept.get(request.token) is expected:
            assert said in (None, request.token), "a renewed session got a new token"
        elif expected in self._kept.values():
            assert said is None, "a request with a rotated id set a cookie"
        else:
            assert said, "a session has a new token, but no cookie was set"
            assert said not in self._kept, "a token was issued twice"
            self._kept[said] = expected

    @invariant()
    def each_token_shows_what_it_should(self) -> None:
        for token, kept in self._kept.items():
            seen = self._portal.call(self._reader.data, token)
            there = kept.as_seen(self._now)
            expected = there.data if there else {}
            assert seen == expected, f"a request with a token found {seen} instead of {expected}"


def _change_within(session: dict[str, Any], key: str, value: int) -> None:
    held = session.get(key)
    if isinstance(held, list):
        held.append(value)
    elif isinstance(held, dict):
        held[key] = value
    else:
        session[key] = [value]
