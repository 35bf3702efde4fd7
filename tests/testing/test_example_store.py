"""The store of the example, which a user could have written, keeps the contract: this is how its author shows it."""

import importlib.util
import itertools
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings

from starsessions import SessionBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.stores.listed import ListedStore
from starsessions.testing import OpenBackend, OpenStore
from starsessions.testing.conformance.model import SETTINGS, check_against_model
from tests.contracts import WholeBackend, WholeStore

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom_store.py"
spec = importlib.util.spec_from_file_location("custom_store", EXAMPLE)
assert spec
assert spec.loader
custom_store: Any = importlib.util.module_from_spec(spec)
spec.loader.exec_module(custom_store)


class TestFileStore(WholeStore):
    event_loops = ("asyncio", "trio")
    declines: ClassVar = {
        "owners": "it has four methods, and the library adds a list for each owner",
        "batches": "it has four methods",
        "joins": "it has four methods",
        "scan": "it has four methods",
        "announcements": "it has four methods, and the library looks from time to time",
    }

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return lambda name: custom_store.FileStore(tmp_path / name)


@pytest.mark.once
class TestListedFileStore(WholeStore):
    """The same store, as the library uses it. It adds nothing that depends on the event loop."""

    declines: ClassVar = {
        "sweeps": "the store below does",
        **dict.fromkeys(("batches", "joins", "scan", "announcements"), "the store below has four methods"),
    }

    @pytest.fixture
    def open_store(self, tmp_path: Path) -> OpenStore:
        return lambda name: ListedStore(custom_store.FileStore(tmp_path / name))


@pytest.mark.once
class TestFileBackend(WholeBackend):
    @pytest.fixture
    def open_backend(self, tmp_path: Path) -> OpenBackend:
        folders = itertools.count()
        return lambda: StoreBackend(custom_store.FileStore(tmp_path / str(next(folders))))


def test_the_model_closes_backends_that_need_closing(tmp_path: Path) -> None:
    steps = []

    def open_backend() -> AbstractAsyncContextManager[SessionBackend]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[SessionBackend]:
            steps.append("open")
            yield StoreBackend(custom_store.FileStore(tmp_path / "sessions"))
            steps.append("close")

        return opened()

    check_against_model(open_backend, settings=settings(SETTINGS, max_examples=2, derandomize=True, database=None))
    assert steps[:2] == ["open", "close"]
    assert len(steps) % 2 == 0
