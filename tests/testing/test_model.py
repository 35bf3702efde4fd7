"""Hypothesis and the model find nothing wrong with our backends, and find what is wrong with others."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import anyio
import pytest
from hypothesis import Phase, settings

from starsessions import BackendUnavailable, InMemoryBackend, Session, SessionBackend
from starsessions.testing.conformance import broken_stores as stores
from starsessions.testing.conformance import right_stores
from starsessions.testing.conformance.app import Site
from starsessions.testing.conformance.model import GRACE, MAX_AGE, SETTINGS, SessionMachine, _Visit, check_against_model
from tests.rows import rows
from tests.site import Clock, DictBackend
from tests.testing import test_wrong_backends
from tests.testing.test_wrong_backends import in_store

# In the same order on every run. To look for something new, take more examples and other ones.
HERE = settings(SETTINGS, max_examples=50, derandomize=True, database=None)


@pytest.mark.parametrize("rolling", [False, True], ids=["", "rolling"])
@pytest.mark.parametrize("event_loop", ["asyncio", "trio"])
def test_the_backend_in_memory_agrees_with_the_model(rolling: bool, event_loop: str) -> None:
    check_against_model(InMemoryBackend, rolling=rolling, event_loop=event_loop, settings=HERE)


@pytest.mark.parametrize("rolling", [False, True], ids=["", "rolling"])
def test_a_backend_of_four_methods_agrees_with_the_model(rolling: bool) -> None:
    """As long as no request comes between the calls of one response: the model's requests respond in turn."""
    check_against_model(DictBackend, rolling=rolling, settings=HERE)


def test_a_backend_over_a_store_agrees_with_the_model() -> None:
    check_against_model(in_store(right_stores.Waits), settings=HERE)


class NeverReachesItsHandler(Site):
    async def visit(self, token: str | None, act: Any) -> Any:
        raise RuntimeError("broken")


@pytest.mark.anyio
async def test_a_request_that_fails_before_its_handler_ends_the_run() -> None:
    site = NeverReachesItsHandler(InMemoryBackend(), Clock())
    early, late = _Visit(site, None), _Visit(site, None)

    async def wait_for_it() -> None:
        with pytest.raises(RuntimeError, match="broken"):
            await early.do(Session.load)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait_for_it)
        await anyio.lowlevel.checkpoint()
        for visit in (early, late):
            with pytest.raises(RuntimeError, match="broken"):
                await visit.run()
    with pytest.raises(RuntimeError, match="broken"):
        await late.do(Session.load)


def test_a_new_id_that_was_asked_for_with_an_id_in_its_grace_period_is_no_difference() -> None:
    machine = SessionMachine(InMemoryBackend, False, "asyncio")
    machine.open()
    try:
        request = machine.begin(browser=0)
        machine.rotate(request=request, grace=0)
        machine.do_it_all_at_once(browser=0, act="rotate", key="a", grace=GRACE)
        machine.end(request=request)
        machine.each_token_shows_what_it_should()
    finally:
        machine.teardown()


class Fails(DictBackend):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    async def read(self, session_id: str) -> dict[str, Any]:
        raise self.error


@rows(
    ("error", "comes_out"),
    [
        (ValueError("broken"), pytest.raises(ValueError, match="broken")),
        (BackendUnavailable("away"), pytest.raises(AssertionError, match="response to a request was 503")),
    ],
    ids=["broken", "unavailable"],
)
def test_the_error_of_a_backend_comes_out_and_leaves_nothing_running(
    error: Exception, comes_out: AbstractContextManager[Any]
) -> None:
    with comes_out:
        check_against_model(lambda: Fails(error), settings=HERE)


@pytest.mark.anyio
async def test_a_request_that_is_answered_with_an_error_is_a_failure() -> None:
    site = Site(Fails(BackendUnavailable("away")), Clock())
    with pytest.raises(AssertionError, match="response to a request was 503, because the backend failed"):
        await site.data("A" * 43)


# Stories that Hypothesis comes to in its time


@pytest.fixture(params=[InMemoryBackend, DictBackend])
def machine(request: pytest.FixtureRequest) -> Iterator[SessionMachine]:
    machine = SessionMachine(request.param, rolling=False, event_loop="asyncio")
    machine.open()
    yield machine
    machine.each_token_shows_what_it_should()
    machine.teardown()


def test_a_late_request_after_a_rotation_begins_no_session(machine: SessionMachine) -> None:
    late = machine.begin(0)
    machine.do_it_all_at_once(0, "rotate", "a", 0)
    machine.put(late, "a", 1)
    machine.end(late)


def test_a_request_that_comes_late_in_a_grace_writes_the_new_session(machine: SessionMachine) -> None:
    late, loaded = machine.begin(0), machine.begin(0)
    machine.load(loaded)
    machine.do_it_all_at_once(0, "rotate", "a", GRACE)
    for request in (late, loaded):
        machine.put(request, "a", 1)
        machine.end(request)


def test_a_logout_follows_a_rotation_that_has_come_between(machine: SessionMachine) -> None:
    request = machine.begin(0)
    machine.load(request)
    machine.do_it_all_at_once(0, "rotate", "a", 0)
    machine.log_out(request)
    machine.end(request)


def test_requests_that_do_the_same_write_once(machine: SessionMachine) -> None:
    requests = [machine.begin(0) for _ in range(3)]
    for request in requests:
        machine.change_within(request, "a", 1)
        machine.change_within(request, "a", 2)
        machine.change_within(request, "b", 2)
    for request in requests:
        machine.end(request)


def test_a_session_ended_meanwhile_stays_ended(machine: SessionMachine) -> None:
    requests = [machine.begin(0) for _ in range(3)]
    for request in requests:
        machine.put(request, "a", {"b": 1})
        machine.change_within(request, "a", 1)
    machine.do_it_all_at_once(0, "log_out", "a", 0)
    machine.end(requests[0])
    machine.wait(MAX_AGE)
    machine.end(requests[1])


def test_an_error_in_a_handler_is_raised(machine: SessionMachine) -> None:
    request = machine.begin(0)
    with pytest.raises(ZeroDivisionError):
        machine._do(request, lambda session: 1 // 0)
    machine.put(request, "a", 1)
    machine.end(request)


def test_an_emptied_session_ends(machine: SessionMachine) -> None:
    machine.do_it_all_at_once(1, "take_out", "a", 0)


WRONG: dict[str, Callable[[], SessionBackend]] = {
    "leaves the old id": test_wrong_backends.LeavesTheOldId,
    "leaves no pointer": test_wrong_backends.LeavesNoPointer,
    "removes nothing": test_wrong_backends.RemovesNothing,
    "forgets the times": test_wrong_backends.ForgetsTheTimes,
    "upserts": in_store(stores.Upserts),
}


@pytest.mark.once
@rows("name", WRONG)
def test_the_model_finds_wrong_backends(name: str) -> None:
    looking = settings(HERE, max_examples=1000, phases=[Phase.generate])  # and no time for a shorter story
    with pytest.raises(Exception, match=r"should have seen|should show|against the model|cookie|token"):
        check_against_model(WRONG[name], settings=looking)
