"""Our store in memory keeps the contract, on both event loops; and so does one that is its only connection."""

from collections import defaultdict
from typing import ClassVar

import pytest

from starsessions.stores.memory import MemoryStore
from starsessions.testing import OpenStore, StoreSuite
from tests.backends import part
from tests.contracts import WholeStore


class TestMemoryStore(StoreSuite):
    declines: ClassVar = {
        "durable": "the memory of a process ends with it",
        "sweeps": "each put drops two entries that are over",
    }

    @pytest.fixture
    def open_store(self) -> OpenStore:
        places: dict[str, MemoryStore] = defaultdict(MemoryStore)
        return places.__getitem__

    def test_a_suite_may_contain_other_tests(self, open_store: OpenStore) -> None:
        assert isinstance(open_store("place"), MemoryStore)


class TestMemoryStoreOnTrio(WholeStore, TestMemoryStore):
    event_loops = ("trio",)


class TestMemoryOfAConnection(WholeStore):
    """A store that cannot be opened twice, and is told so by its suite."""

    contract = part.DRIVERS
    declines: ClassVar = TestMemoryStore.declines | {"several_connections": "each connection has a memory of its own"}

    @pytest.fixture
    def open_store(self) -> OpenStore:
        return lambda name: MemoryStore()
