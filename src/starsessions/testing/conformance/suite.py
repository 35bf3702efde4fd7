"""The contracts as pytest tests: subclass a suite, say how yours is opened, and run pytest."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest

from starsessions.testing.conformance.backend_rules import BACKEND, BackendFixture
from starsessions.testing.conformance.broken_stores import BrokenStore, broken_stores
from starsessions.testing.conformance.contract import Contract, Rule
from starsessions.testing.conformance.cookie_rules import COOKIE, CookieFixture, cookie_fixture
from starsessions.testing.conformance.fixtures import OpenBackend, OpenStore, StoreFixture, opened
from starsessions.testing.conformance.store_rules import STORE
from starsessions.testing.conformance.verdict import ends


class _Suite:
    contract: ClassVar[Contract[Any]]

    declines: ClassVar[Mapping[str, str]] = {}
    """What yours cannot do, and why: the rules that need it are skipped, and pytest shows the reason."""

    event_loops: ClassVar[Sequence[str]] = ("asyncio",)
    """The event loops that yours works on: "asyncio", "trio"."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Makes a test of each rule."""
        if "rule" in metafunc.fixturenames:
            metafunc.parametrize("rule", [self._as_parameter(rule) for rule in self.contract])
            metafunc.parametrize("anyio_backend", self.event_loops, scope="module")

    def _as_parameter(self, rule: Rule[Any]) -> Any:
        why = self.contract.why_declined(rule, self.declines)
        return pytest.param(rule, id=rule.__name__, marks=[pytest.mark.skip(reason=why)] if why else [])


class StoreSuite(_Suite):
    """Shows whether a `Store` keeps its contract. In a file of tests, with a fixture that says how one is opened:

    class TestFileStore(StoreSuite):
        @pytest.fixture
        def open_store(self, tmp_path):
            return lambda name: FileStore(tmp_path / name)

    What the fixture returns is an `OpenStore`: it is called with the name of a place, several times for the same one.
    """

    contract = STORE

    largest_value: ClassVar[int | None] = None
    """How many bytes a value may have, if there is a limit: checked on both sides."""

    @pytest.mark.anyio
    async def test_the_store_keeps_the_rule(self, rule: Rule[StoreFixture], open_store: OpenStore) -> None:
        """The sentence is the rule's docstring."""
        place = StoreFixture(
            open_store, one_connection_only="several_connections" in self.declines, largest_value=self.largest_value
        )
        async with place:
            await ends(rule(place))


class BackendSuite(_Suite):
    """Shows whether any backend that keeps sessions on a server does what users are promised, also where they race.

    class TestMyBackend(BackendSuite):
        @pytest.fixture
        def open_backend(self):
            return MyBackend
    """

    contract = BACKEND

    @pytest.mark.anyio
    async def test_the_backend_keeps_the_rule(self, rule: Rule[BackendFixture], open_backend: OpenBackend) -> None:
        """The sentence is the rule's docstring."""
        async with opened(open_backend()) as backend:
            await ends(rule(BackendFixture(backend)))


class CookieBackendSuite(_Suite):
    """Shows whether a backend whose cookie is the session, signed or encrypted, does what users are promised.

    class TestMyCookies(CookieBackendSuite):
        @pytest.fixture
        def open_backend(self):
            return lambda: MyCookies("a key of 32 random bytes or more")

    The function is called twice in each test: what it makes has one secret, as in two processes of an application.
    """

    contract = COOKIE

    @pytest.mark.anyio
    async def test_the_backend_keeps_the_rule(self, rule: Rule[CookieFixture], open_backend: OpenBackend) -> None:
        """The sentence is the rule's docstring."""
        async with cookie_fixture(open_backend) as place:
            await ends(rule(place))


class RulesSuite:
    """Shows that the rules of a store reject broken stores, for those who change the rules, or want to see it:

    class TestTheRules(RulesSuite):
        pass
    """

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Makes a test of each broken store."""
        if "broken_store" in metafunc.fixturenames:
            metafunc.parametrize("broken_store", broken_stores(), ids=lambda store: store.name)
            # On this event loop, because trio shuffles what goes at once, and some mistakes show in one order only.
            metafunc.parametrize("anyio_backend", ["asyncio"], scope="module")

    @pytest.mark.anyio
    async def test_the_rules_reject_the_broken_store(self, broken_store: BrokenStore) -> None:
        """Exactly the rules that its mistake breaks."""
        assert await broken_store.failing_rules() == broken_store.rejected_by
