"""The suites of the kit with all their rules in one test. What fails is named after its rule.

A suite of the kit is one test for each rule, as its users see it: tests/testing has one of each kind. Here the rules
are rows. Each rule of a store has a storage of its own. If all that `open_backend` opens is one storage, the rules of a
backend share it, unless the suite makes one for each in `anew`.
"""

from typing import Any

import pytest

from starsessions.testing import BackendSuite, CookieBackendSuite, OpenBackend, OpenStore, StoreSuite
from tests.rows import collected


class _InOneTest:
    contract: Any
    declines: Any
    event_loops: Any

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "anyio_backend" in metafunc.fixturenames:
            metafunc.parametrize("anyio_backend", self.event_loops, scope="module")

    async def each_rule(self, suite: Any, opens: Any) -> None:
        rules = [rule for rule in self.contract if not self.contract.why_declined(rule, self.declines)]
        assert rules, "no rule is left"
        with collected() as failed:
            for rule in rules:
                with failed(rule.__name__):
                    await suite(self, rule, self.anew(opens))

    def anew(self, opens: Any) -> Any:
        """Return what opens the storage of the next rule."""
        return opens


class WholeStore(_InOneTest, StoreSuite):
    test_the_store_keeps_the_rule = None  # type: ignore[assignment]

    @pytest.mark.anyio
    async def test_the_store_keeps_the_rules(self, open_store: OpenStore) -> None:
        await self.each_rule(StoreSuite.test_the_store_keeps_the_rule, open_store)


class WholeBackend(_InOneTest, BackendSuite):
    test_the_backend_keeps_the_rule = None  # type: ignore[assignment]

    @pytest.mark.anyio
    async def test_the_backend_keeps_the_rules(self, open_backend: OpenBackend) -> None:
        await self.each_rule(BackendSuite.test_the_backend_keeps_the_rule, open_backend)


class WholeCookieBackend(_InOneTest, CookieBackendSuite):
    test_the_backend_keeps_the_rule = None  # type: ignore[assignment]

    @pytest.mark.anyio
    async def test_the_backend_keeps_the_rules(self, open_backend: OpenBackend) -> None:
        await self.each_rule(CookieBackendSuite.test_the_backend_keeps_the_rule, open_backend)
