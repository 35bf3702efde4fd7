"""A worker whose clock differs from that of the store is told, when it starts and while it runs."""

import logging
from asyncio import Event
from collections.abc import Callable
from typing import Any

import pytest

from starsessions import BackendUnavailable, SessionMiddleware
from starsessions.backends.clocks import AGAIN, comparing
from starsessions.backends.cookie import EncryptedCookieBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.stores import MemoryStore
from starsessions.testing import Clock
from tests.rows import rows

pytestmark = [pytest.mark.anyio, pytest.mark.once]


Said = Callable[[], list[tuple[str, str]]]


class TimedStore(MemoryStore):
    """Its clock is `ahead` of the worker's; each look at it takes `takes` seconds, half of them each way."""

    def __init__(self, clock: Clock, ahead: float = 0, takes: float = 0) -> None:
        super().__init__()
        self.clock, self.ahead, self.takes = clock, ahead, takes
        self.looks = 0

    async def time(self) -> float:
        self.looks += 1
        self.clock.advance(self.takes / 2)
        there = self.clock() + self.ahead
        self.clock.advance(self.takes / 2)
        return there


class DeadStore(MemoryStore):
    async def time(self) -> float:
        raise BackendUnavailable("The database does not answer.")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Said:
    """Return the level and the text of what was logged since the call before."""
    caplog.set_level(logging.INFO, "starsessions")

    def said() -> list[tuple[str, str]]:
        records = [(record.levelname, record.getMessage()) for record in caplog.records]
        caplog.clear()
        return records

    return said


@pytest.mark.both_loops
@rows(
    ("ahead", "takes", "warning"),
    [
        (0, 0, None),
        (30, 0, None),
        (-30, 0, None),
        (31, 0, "The clock of this server is 31 s behind that of the session store."),
        (-30.5, 0, "The clock of this server is 30 s ahead of that of the session store."),
        (-7200, 4, "The clock of this server is 7200 s ahead of that of the session store."),
        (10, 58, None),
        (-10, 58, None),
    ],
)
async def test_clocks_that_are_more_than_30_seconds_apart_are_reported(
    ahead: float, takes: float, warning: str | None, said: Said
) -> None:
    clock = Clock()
    store = TimedStore(clock, ahead, takes)
    async with StoreBackend(store, clock=clock).lifespan():
        assert store.looks == 1
    cure = (
        " If the clocks of two servers differ by more than 60 s, sessions that one has stored count as expired on the "
        "other: synchronize the clocks of all servers, for instance with NTP."
    )
    assert said() == ([] if warning is None else [("WARNING", warning + cure)])


async def test_nothing_is_compared_without_a_lifespan_and_without_a_clock() -> None:
    clock = Clock()
    store = TimedStore(clock, 1000)
    backend = StoreBackend(store, clock=clock)
    await backend.write({"a": 1})
    assert store.looks == 0
    async with StoreBackend(MemoryStore()).lifespan():
        pass


async def test_the_clock_is_that_of_the_backend_when_it_looks() -> None:
    store = TimedStore(Clock())
    backend = StoreBackend(store)
    backend.clock = store.clock  # as a test does, and `Site`
    async with backend.lifespan():
        assert store.looks == 1


async def test_the_middleware_compares_for_sessions_and_for_revocations(said: Said) -> None:
    clock = Clock()
    key = "a key of 32 random bytes or more"
    for backend in (
        StoreBackend(TimedStore(clock, 99), clock=clock),
        EncryptedCookieBackend(key, revocations=StoreBackend(TimedStore(clock, 99), clock=clock)),
    ):
        await lived(SessionMiddleware(served, backend=backend))
        assert [level for level, text in said() if "The clock of this server is 99 s behind" in text] == ["WARNING"]


async def test_a_store_that_fails_does_not_keep_the_application_from_starting(said: Said) -> None:
    async with StoreBackend(DeadStore()).lifespan():
        pass
    assert said() == [("INFO", "The clock of the session store could not be read: The database does not answer.")]


async def test_the_clocks_are_compared_again_each_hour_and_a_drift_is_reported(said: Said) -> None:
    clock = Clock()
    store = TimedStore(clock)
    hours = Hours()
    async with comparing(store, clock, sleep=hours.sleep):
        await hours.pass_one()
        assert (store.looks, said()) == (2, [])
        store.ahead = 45
        await hours.pass_one()
        assert store.looks == 3
        [(level, text)] = said()
        assert (level, text.partition(" that of")[0]) == ("WARNING", "The clock of this server is 45 s behind")
        await hours.pass_one()
        assert (store.looks, said()) == (4, []), "it is reported twice in an hour"
    assert hours.waits == [AGAIN] * 4
    assert hours.was_cancelled, "it goes on after the shutdown"


class Hours:
    """A sleep that ends when the test says so."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.was_cancelled = False
        self._sleeps, self._ends = Event(), Event()

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._sleeps.set()
        try:
            await self._ends.wait()
        except BaseException:
            self.was_cancelled = True
            raise
        self._ends.clear()

    async def pass_one(self) -> None:
        await self._sleeps.wait()
        self._sleeps.clear()
        self._ends.set()
        await self._sleeps.wait()


async def served(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "lifespan"
    for kind in ("startup", "shutdown"):
        assert (await receive())["type"] == f"lifespan.{kind}"
        await send({"type": f"lifespan.{kind}.complete"})


async def lived(app: Any) -> None:
    """Start an application and end it."""
    incoming = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]

    async def receive() -> Any:
        return incoming.pop()

    async def send(message: Any) -> None:
        assert message["type"].endswith(".complete")

    await app({"type": "lifespan"}, receive, send)
