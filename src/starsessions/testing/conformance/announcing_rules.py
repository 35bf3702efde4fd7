"""The contract of `Announcing`, the optional power of a store, as one rule for each of its guarantees.

An announcement may be lost, but only with its connection. Here no connection is lost unless a rule closes it, so all
that is announced has to arrive. `StoreFixture.wait` decides how long a rule waits for it.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from anyio import TASK_STATUS_IGNORED, Event, create_task_group, get_current_task, get_running_tasks, sleep
from anyio.abc import TaskStatus

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import Announcing, Store
from starsessions.testing.conformance.checks import ALPHABET
from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import StoreFixture

ANNOUNCING: Contract[StoreFixture] = Contract(
    {
        "announcements": "the store tells all who listen to look at once: `announce`, `listen`, and `reaches_all`",
    }
)
"""The contract of a store that is `Announcing`."""

MANY = 300
"""More topics than PostgreSQL's NOTIFY takes in one message, which has less than 8000 bytes."""

OFTEN = 32
"""More than the usual number of connections."""


@ANNOUNCING.rule("announcements")
async def what_is_announced_from_then_on_arrives(place: StoreFixture) -> None:
    """One who has entered `listen` hears all that is announced from then on, also before it begins to read."""
    store = await _announcing(place)
    async with _listening(place, store, reads=False) as listener:
        await store.announce(["early"])
        listener.reads.set()
        await listener.has_to_hear("early")
        await store.announce(["late"])
        await listener.has_to_hear("early", "late")


@ANNOUNCING.rule("announcements")
async def topics_arrive_whole_and_unchanged(place: StoreFixture) -> None:
    """Topics have 1 to 128 of the characters A-Z a-z 0-9 - _, and any number of them is announced together."""
    store = await _announcing(place)
    long = ALPHABET * 2
    many = [f"{n:03}{long}"[:128] for n in range(MANY)]
    topics = ["a", "A", "-", "_", "0", long, long[:-1], long[:-1].lower(), *many]
    async with _listening(place, store) as listener:
        await store.announce(topics)
        await listener.has_to_hear(*topics)
        unknown = set(listener.heard) - set(topics)
        assert not unknown, f"{len(unknown)} topics arrived that were not announced, or have changed"


@ANNOUNCING.rule("announcements")
async def all_who_listen_hear_it(place: StoreFixture) -> None:
    """Each of several listeners hears each announcement."""
    store = await _announcing(place)
    async with _listening(place, store) as one, _listening(place, store) as other:
        for n in range(4):
            await store.announce([f"topic-{n}"])
        for listener in (one, other):
            await listener.has_to_hear("topic-0", "topic-1", "topic-2", "topic-3")


@ANNOUNCING.rule("announcements", "several_connections")
async def a_store_that_reaches_all_is_heard_by_every_connection(place: StoreFixture) -> None:
    """If `reaches_all` is true, what one connection announces is heard by all connections."""
    one, other = await _announcing(place), await _announcing(place)
    if one.reaches_all:
        async with _listening(place, one) as first, _listening(place, other) as second:
            await one.announce(["of-one"])
            await other.announce(["of-other"])
            await first.has_to_hear("of-one", "of-other")
            await second.has_to_hear("of-one", "of-other")


@ANNOUNCING.rule("announcements")
async def one_hears_only_what_is_announced_while_one_listens(place: StoreFixture) -> None:
    """What was announced before, or after the listener before has left, does not arrive later."""
    store, other = await _announcing(place), await _announcing(place)
    async with _listening(place, other):  # so that there is always someone who hears it
        for n in range(2):
            await store.announce([f"before-{n}"])
            async with _listening(place, store) as listener:
                await store.announce([f"meanwhile-{n}"])
                await listener.has_to_hear(f"meanwhile-{n}")
                assert set(listener.heard) == {f"meanwhile-{n}"}, "a listener heard what was announced before it came"


@ANNOUNCING.rule("announcements")
async def those_who_stay_hear_on_when_another_one_leaves(place: StoreFixture) -> None:
    """The end of one subscription ends no other."""
    store = await _announcing(place)
    async with _listening(place, store) as stays:
        async with store.listen():
            pass
        async with _listening(place, store):
            pass
        await store.announce(["topic"])
        await stays.has_to_hear("topic")


@ANNOUNCING.rule("announcements")
async def announcing_is_no_error_if_no_one_listens(place: StoreFixture) -> None:
    """An announcement that no one hears is no error."""
    store = await _announcing(place)
    await store.announce(["topic"])


@ANNOUNCING.rule("announcements")
async def an_announcement_does_not_wait_for_those_who_do_not_read(place: StoreFixture) -> None:
    """A listener that reads nothing for a while delays no announcement."""
    store = await _announcing(place)

    async def announce() -> None:
        for n in range(100):
            await store.announce([f"topic-{n}-{m}" for m in range(20)])

    async with store.listen():
        assert await _ends(place, announce), "announce() waits until what was announced is read"


@ANNOUNCING.rule("announcements")
async def a_cancelled_listener_leaves_nothing_behind(place: StoreFixture) -> None:
    """A listener that is cancelled while it waits leaves no task and no connection."""
    store = await _announcing(place)

    async def come_and_go() -> None:
        async with _listening(place, store):
            pass

    async def no_task_is_left() -> None:
        while {task.id for task in get_running_tasks()} - before - {get_current_task().id}:  # noqa: ASYNC110 - no event
            await sleep(0.01)

    await come_and_go()  # what the store keeps for good is made once
    before = {task.id for task in get_running_tasks()}
    for _ in range(OFTEN):
        await come_and_go()
    assert await _ends(place, no_task_is_left), "a listener that was cancelled has left a task that runs on"
    async with _listening(place, store) as listener:
        await store.announce(["topic"])
        await listener.has_to_hear("topic")


@ANNOUNCING.rule("announcements", "several_connections")
async def the_end_of_a_connection_is_not_silent(place: StoreFixture) -> None:
    """When the connections are closed, a listener hears what others announce, or ends, or raises an error."""
    store = await _announcing(place)
    if store.reaches_all:
        async with _listening(place, store) as listener:
            await place.disconnect()
            await (await _announcing(place)).announce(["topic"])
            await listener.listens_until("topic")
            assert listener.has_ended or "topic" in listener.heard, "a listener waits in vain after its store is closed"


# Helpers


async def _announcing(place: StoreFixture) -> Announcing:
    store: Store = await place.connect()
    assert isinstance(store, Announcing), (
        "the store does not announce: add announce(), listen() and reaches_all, or decline 'announcements' with a "
        "reason"
    )
    return store


class _Listener:
    """One who listens, and what it has heard."""

    def __init__(self, place: StoreFixture, store: Announcing) -> None:
        self.heard: list[str] = []
        self.has_ended = False
        self.reads = Event()
        self._place = place
        self._store = store
        self._changed = Event()

    async def listen(self, *, task_status: TaskStatus[None] = TASK_STATUS_IGNORED) -> None:
        async with self._store.listen() as announced:
            task_status.started()
            if not self.reads.is_set():
                await self.reads.wait()
            try:
                async for topics in announced:
                    self.heard += topics
                    self._changed.set()
            except BackendUnavailable:
                pass
            self.has_ended = True
            self._changed.set()

    async def listens_until(self, *topics: str) -> None:
        """Wait until all these topics have arrived, listening has ended, or nothing arrives any more."""
        while not (self.has_ended or set(topics) <= set(self.heard)):
            changed = self._changed = Event()
            await self._place.wait(changed)
            if not changed.is_set():
                break

    async def has_to_hear(self, *topics: str) -> None:
        """Wait for these topics, and fail if one of them does not arrive."""
        await self.listens_until(*topics)
        missing = set(topics) - set(self.heard)
        assert not missing, f"{len(missing)} of {len(topics)} topics did not arrive"


@asynccontextmanager
async def _listening(place: StoreFixture, store: Announcing, *, reads: bool = True) -> AsyncIterator[_Listener]:
    """Listen within the block. At its end, the listener is cancelled."""
    listener = _Listener(place, store)
    if reads:
        listener.reads.set()
    try:
        async with create_task_group() as tasks:
            await tasks.start(listener.listen)
            yield listener
            tasks.cancel_scope.cancel()
    except ExceptionGroup as group:  # of a rule that is broken: its message is the reason
        raise group.exceptions[0] from None


async def _ends(place: StoreFixture, work: Callable[[], Awaitable[None]]) -> bool:
    """Return whether this ends in time."""
    done = Event()

    async def do() -> None:
        await work()
        done.set()

    async with create_task_group() as tasks:
        tasks.start_soon(do)
        await place.wait(done)
        tasks.cancel_scope.cancel()
    return done.is_set()
