"""Event loops in several threads share a backend, a middleware, and what it logs."""

import asyncio
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from starsessions import InMemoryBackend, SessionBackend, SessionMiddleware, notices, update_atomically
from starsessions.backends import announcements
from starsessions.backends.announcements import Announcements
from starsessions.backends.server_side import StoreBackend
from starsessions.notices import Notices
from starsessions.stores import memory
from starsessions.stores.base import Conflict, Creation, Deletion, Owner, Replacement
from starsessions.stores.memory import MemoryStore
from tests.interrupted import Call, Lock, at_each_line
from tests.kinds import each_backend
from tests.rows import rows
from tests.site import Browser, call

NOW = 1000
OWNER = Owner("ann", NOW)


def run(step: Coroutine[Any, Any, Any]) -> Any:
    """Return what a method of the store in memory returns, which never waits."""
    try:
        step.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def put(store: MemoryStore, key: str, value: bytes) -> Any:
    return run(store.create(key, value, expires_at=NOW + 9, now=NOW, owner=OWNER))


def change(store: MemoryStore, version: Any, value: bytes) -> Call:
    return lambda: run(store.replace("key", value, version, expires_at=NOW + 9, now=NOW, owner=OWNER))


def changed_together(store: MemoryStore, version: Any) -> Call:
    writes = [
        Replacement("key", b"batch", version, NOW + 9, OWNER),
        Creation("second", b"batch", NOW + 9, OWNER),
    ]
    return lambda: run(store.write_together(writes, now=NOW))


ALONE: dict[str, Callable[[MemoryStore, Any], Call]] = {
    "create": lambda store, version: lambda: put(store, "new", b"created"),
    "replace": lambda store, version: change(store, version, b"replaced"),
    "delete": lambda store, version: lambda: run(store.delete("key", version, now=NOW)),
    "together": changed_together,
    "delete together": lambda store, version: lambda: run(store.write_together([Deletion("key", version)], now=NOW)),
}
"""Calls of which one of two succeeds that were made for the same version of an entry."""


def both_of(first: str, second: str, seen: list[MemoryStore]) -> Callable[[], tuple[Call, Call]]:
    def make() -> tuple[Call, Call]:
        store = MemoryStore()
        seen.append(store)
        run(store.create("expired", b"", expires_at=NOW - 1, now=NOW - 9, owner=OWNER))
        version = put(store, "key", b"old")
        put(store, "other", b"other")
        return ALONE[first](store, version), ALONE[second](store, version)

    return make


def what_is_wrong(store: MemoryStore, outcomes: list[Any]) -> str | None:
    """Say how the calls, or what the store lists afterwards, contradict each other."""
    refused = [one for one in outcomes if isinstance(one, Conflict)]
    if [one for one in outcomes if isinstance(one, Exception) and one not in refused]:
        return "an error"
    if len(refused) != 1:
        return "both succeeded"
    entries = {key: entry.value for key, entry, _ in run(store.scan(limit=99, now=NOW)).entries}
    if entries != {key: run(store.get(key, now=NOW)).value for key in entries} or "other" not in entries:
        return "an entry that is listed is missing"
    listed = [key for key, _ in run(store.list_owned("ann", limit=99, now=NOW)).entries]
    return None if sorted(listed) == sorted(entries) else "an owner does not have what is there"


PAIRS = [(first, second) for first in ALONE for second in ALONE if (first == "create") == (second == "create")]


@pytest.mark.guarantee(13)
@rows("first, second", PAIRS)
def test_of_two_threads_that_change_an_entry_one_succeeds_wherever_they_meet(
    first: str, second: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "RLock", Lock)
    stores: list[MemoryStore] = []
    met = [what_is_wrong(stores[-1], two) for two in at_each_line(both_of(first, second, stores), memory)]
    assert len(met) > 5
    assert set(met) == {None}


@rows("verb", ["create", "replace", "delete", "delete together"])
def test_without_its_lock_the_store_would_let_both_succeed(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above could not fail."""
    monkeypatch.setattr(memory, "RLock", nullcontext)
    stores: list[MemoryStore] = []
    met = {what_is_wrong(stores[-1], two) for two in at_each_line(both_of(verb, verb, stores), memory)}
    assert met - {None}


def test_a_thread_that_reads_sees_an_entry_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "RLock", Lock)

    def make() -> tuple[Call, Call]:
        store = MemoryStore()
        version = put(store, "key", b"old")
        return change(store, version, b"new"), lambda: run(store.get("key", now=NOW))

    seen = {found.value for _, found in at_each_line(make, memory)}
    assert seen == {b"old", b"new"}


def test_what_two_threads_notice_at_once_is_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "Lock", Lock)

    def make() -> tuple[Call, Call]:
        shared = Notices(lambda: 0.0)

        def warn() -> bool:
            return shared.warn(("kind", "/"), "A message.", every=60)

        return warn, warn

    met = [sorted(two) for two in at_each_line(make, notices)]
    assert met
    assert all(two == [False, True] for two in met)


def test_threads_that_begin_to_listen_at_once_do_not_disturb_each_other() -> None:
    loops = [asyncio.new_event_loop() for _ in range(3)]

    async def listen(shared: Announcements) -> object:
        return shared.bus()

    def make() -> tuple[Call, Call]:
        shared = Announcements(MemoryStore())
        loops[0].run_until_complete(listen(shared))
        return (
            lambda: loops[1].run_until_complete(listen(shared)),
            lambda: loops[2].run_until_complete(listen(shared)),
        )

    try:
        for two in at_each_line(make, announcements, weakref):
            assert not [one for one in two if isinstance(one, Exception)]
    finally:
        for loop in loops:
            loop.close()


@pytest.fixture
def switching_often() -> Iterator[None]:
    """The interpreter lets another thread run as often as it can. Without a global lock, it does not have to."""
    assert not sysconfig.get_config_var("Py_GIL_DISABLED") or not sys._is_gil_enabled()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(threads: int, main: Callable[[int], Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run a coroutine in an event loop in each of these threads, all at once, and return the outcomes."""
    together = threading.Barrier(threads)
    outcomes: list[Any] = [None] * threads

    def thread(number: int) -> None:
        together.wait()
        try:
            outcomes[number] = asyncio.run(main(number))
        except BaseException as error:
            outcomes[number] = error

    all_of_them = [threading.Thread(target=thread, args=[number]) for number in range(threads)]
    for one in all_of_them:
        one.start()
    for one in all_of_them:
        one.join()
    return outcomes


def increment(data: dict[str, Any]) -> int:
    data["n"] = data.get("n", 0) + 1
    number: int = data["n"]
    return number


async def count(scope: Any, receive: Any, send: Any) -> None:
    number = await update_atomically(scope["session"], increment)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(number).encode()})


async def visit(app: Any, browser: Browser) -> int:
    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "scheme": "http"}
    reply = await call(app, scope | {"headers": browser.header()})
    browser.take(reply)
    return int(reply.messages[1]["body"])


@pytest.mark.guarantee(13)
@pytest.mark.usefixtures("switching_often")
def test_event_loops_in_several_threads_lose_no_update_of_one_session() -> None:
    app, browser = SessionMiddleware(count, backend=InMemoryBackend()), Browser()
    asyncio.run(visit(app, browser))

    async def main(_: int) -> list[int]:
        return [await visit(app, browser) for _ in range(100)]

    counted = [number for numbers in in_threads(4, main) for number in numbers]
    assert sorted(counted) == [*range(2, 402)]


def test_a_store_that_compares_no_versions_would_lose_one() -> None:
    """Otherwise the test above could not fail."""
    together = threading.Barrier(2)

    class Careless(MemoryStore):
        async def replace(self, key: str, value: bytes, version: Any, **times: Any) -> Any:
            together.wait(60)
            current = self.peek(key, times["now"])
            assert current is not None
            return await super().replace(key, value, current.version, **times)

    app, browser = SessionMiddleware(count, backend=StoreBackend(Careless()), autoload=True), Browser()
    asyncio.run(visit(app, browser))
    assert in_threads(2, lambda _: visit(app, browser)) == [2, 2]


@pytest.mark.usefixtures("switching_often")
@each_backend
def test_event_loops_in_several_threads_share_a_middleware_and_mix_no_sessions(backend: SessionBackend) -> None:
    app = SessionMiddleware(count, backend=backend, autoload=True)

    async def main(_: int) -> list[int]:
        browser = Browser()
        return [await visit(app, browser) for _ in range(25)]

    assert in_threads(4, main) == [[*range(1, 26)]] * 4
