"""The contracts as pytest test suites: subclass one, add a fixture that opens your store or backend, and run pytest."""

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
    """The capabilities that yours lacks, and the reasons. Their rules are skipped, and pytest shows the reason."""

    event_loops: ClassVar[Sequence[str]] = ("asyncio",)
    """The event loops that your implementation supports: "asyncio", "trio"."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Generate a test for each rule."""
        if "rule" in metafunc.fixturenames:
            metafunc.parametrize("rule", [self._as_parameter(rule) for rule in self.contract])
            metafunc.parametrize("anyio_backend", self.event_loops, scope="module")

    def _as_parameter(self, rule: Rule[Any]) -> Any:
        why = self.contract.why_declined(rule, self.declines)
        return pytest.param(rule, id=rule.__name__, marks=[pytest.mark.skip(reason=why)] if why else [])


class StoreSuite(_Suite):
    """Test whether a `Store` follows the contract. Subclass it in a test file, with a fixture that opens your store:

    class TestFileStore(StoreSuite):
        @pytest.fixture
        def open_store(self, tmp_path):
            return lambda name: FileStore(tmp_path / name)

    The fixture returns an `OpenStore`, which is called with the name of a storage, and several times for the same name.
    """

    contract = STORE

    largest_value: ClassVar[int | None] = None
    """The largest value in bytes that the store accepts. A larger one must be rejected. None: there is no limit."""

    @pytest.mark.anyio
    async def test_the_store_keeps_the_rule(self, rule: Rule[StoreFixture], open_store: OpenStore) -> None:
        """Check the statement in the rule's docstring."""
        place = StoreFixture(
            open_store, one_connection_only="several_connections" in self.declines, largest_value=self.largest_value
        )
        async with place:
            await ends(rule(place))


class BackendSuite(_Suite):
    """Test whether a server-side backend keeps the library's guarantees, including under concurrent requests.

    class TestMyBackend(BackendSuite):
        @pytest.fixture
        def open_backend(self):
            return MyBackend
    """

    contract = BACKEND

    @pytest.mark.anyio
    async def test_the_backend_keeps_the_rule(self, rule: Rule[BackendFixture], open_backend: OpenBackend) -> None:
        """Check the statement in the rule's docstring."""
        async with opened(open_backend()) as backend:
            await ends(rule(BackendFixture(backend)))


class CookieBackendSuite(_Suite):
    """Test whether a backend that keeps the session in a signed or encrypted cookie keeps the library's guarantees.

    class TestMyCookies(CookieBackendSuite):
        @pytest.fixture
        def open_backend(self):
            return lambda: MyCookies("a key of 32 random bytes or more")

    The function is called twice in each test. Both backends must have the same secret, like two processes of one
    application.
    """

    contract = COOKIE

    @pytest.mark.anyio
    async def test_the_backend_keeps_the_rule(self, rule: Rule[CookieFixture], open_backend: OpenBackend) -> None:
        """Check the statement in the rule's docstring."""
        async with cookie_fixture(open_backend) as place:
            await ends(rule(place))


class RulesSuite:
    """Test that the store rules reject broken stores. Use it if you change the rules:

    class TestTheRules(RulesSuite):
        pass
    """

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Generate a test for each broken store."""
        if "broken_store" in metafunc.fixturenames:
            metafunc.parametrize("broken_store", broken_stores(), ids=lambda store: store.name)
            # On asyncio only, because trio shuffles concurrent tasks, and some mistakes show in one order only.
            metafunc.parametrize("anyio_backend", ["asyncio"], scope="module")

    @pytest.mark.anyio
    async def test_the_rules_reject_the_broken_store(self, broken_store: BrokenStore) -> None:
        """Check that exactly the rules which its mistake breaks reject it."""
        assert await broken_store.failing_rules() == broken_store.rejected_by
