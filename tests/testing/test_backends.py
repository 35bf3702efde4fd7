"""The backend in memory follows all rules. A backend of four methods does, too, except for the races."""

from typing import ClassVar

import pytest

from starsessions import InMemoryBackend
from starsessions.testing import BackendSuite, OpenBackend
from tests.contracts import WholeBackend
from tests.site import DictBackend


class TestInMemoryBackend(BackendSuite):
    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return InMemoryBackend


class TestInMemoryBackendOnTrio(WholeBackend, TestInMemoryBackend):
    event_loops = ("trio",)


class TestBackendOfFourCalls(WholeBackend):
    declines: ClassVar = {
        "atomic": "four calls without versions leave a gap between looking and writing",
        "grace": "four calls know no second id of a session",
    }

    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return DictBackend
