"""The backend in memory follows all rules. A backend of four methods does, too, except for the races."""

from typing import Any, ClassVar

import pytest

from starsessions import InMemoryBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.stores import MemoryStore
from starsessions.testing import BackendSuite, OpenBackend
from tests.contracts import WholeBackend
from tests.site import DictBackend


class TestInMemoryBackend(BackendSuite):
    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return InMemoryBackend


class TestInMemoryBackendOnTrio(WholeBackend, TestInMemoryBackend):
    event_loops = ("trio",)


class OneAtATime(MemoryStore):
    """Like a Cluster, it says only when it is asked that it cannot do several writes at once."""

    async def write_together(self, writes: Any, **how: Any) -> Any:
        return await super().write_together(writes, **how) if len(writes) == 1 else None


class TestBackendThatFindsOutWhatItsStoreCannotDo(WholeBackend):
    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return lambda: StoreBackend(OneAtATime())


class TestBackendOfFourCalls(WholeBackend):
    declines: ClassVar = {
        "atomic": "four calls without versions leave a gap between looking and writing",
        "grace": "four calls know no second id of a session",
    }

    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return DictBackend
