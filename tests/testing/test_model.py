"""Hypothesis and the model find nothing wrong with our backends, and find what is wrong with others."""

from collections.abc import Callable

import pytest
from hypothesis import Phase, settings

from starsessions import InMemoryBackend, SessionBackend
from starsessions.testing.model import SETTINGS, check_against_model
from tests.site import DictBackend
from tests.testing import stores, test_wrong_backends
from tests.testing.test_wrong_backends import in_store

# In the same order on every run. To look for something new, take more examples and other ones.
HERE = settings(SETTINGS, derandomize=True, database=None)


@pytest.mark.parametrize("rolling", [False, True], ids=["", "rolling"])
@pytest.mark.parametrize("event_loop", ["asyncio", "trio"])
def test_our_backend_in_memory_does_what_the_model_says(rolling: bool, event_loop: str) -> None:
    check_against_model(InMemoryBackend, rolling=rolling, event_loop=event_loop, settings=HERE)


@pytest.mark.parametrize("rolling", [False, True], ids=["", "rolling"])
def test_a_backend_of_four_calls_does_what_the_model_says(rolling: bool) -> None:
    """As long as nobody comes between the calls of one response: the model's requests answer one after the other."""
    check_against_model(DictBackend, rolling=rolling, settings=HERE)


def test_a_backend_over_a_store_does_what_the_model_says() -> None:
    check_against_model(in_store(stores.Waits), settings=HERE)


WRONG: dict[str, Callable[[], SessionBackend]] = {
    "leaves the old id": test_wrong_backends.LeavesTheOldId,
    "leaves no pointer": test_wrong_backends.LeavesNoPointer,
    "removes nothing": test_wrong_backends.RemovesNothing,
    "forgets the times": test_wrong_backends.ForgetsTheTimes,
    "upserts": in_store(stores.Upserts),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_model_finds_what_is_wrong(name: str) -> None:
    looking = settings(HERE, max_examples=1000, phases=[Phase.generate])  # and no time for a shorter story
    with pytest.raises(Exception, match=r"should have seen|should show|against the model|cookie|token"):
        check_against_model(WRONG[name], settings=looking)
