"""A table that is one test: each row runs, each that fails is named, and each kind of backend has its own clock."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from starsessions import SessionBackend
from starsessions.inventory import stats
from starsessions.stores import MemoryStore, StoreBackend
from starsessions.testing import Contract, OpenBackend, StoreFixture
from starsessions.testing.conformance.backend_rules import BackendFixture
from tests.contracts import WholeBackend, WholeStore
from tests.kinds import BACKENDS, each_backend
from tests.rows import RowsFailed, rows
from tests.site import Clock, Site, load_copy

pytestmark = pytest.mark.once


def notes_of(failure: pytest.ExceptionInfo[Any]) -> list[list[str]]:
    return [error.__notes__ for error in failure.value.exceptions]


def test_all_rows_run_and_each_that_fails_is_named() -> None:
    seen = []

    @rows("number", [1, 2, 3, 4])
    def test(number: int) -> None:
        seen.append(number)
        if number == 2:
            pytest.fail("as `pytest.raises` does")
        assert number != 3

    with pytest.raises(RowsFailed, match="failed in 2 rows") as failure:
        test()
    assert seen == [1, 2, 3, 4]
    assert notes_of(failure) == [["in the row number=2"], ["in the row number=3"]]


def test_a_row_that_is_skipped_hides_no_failure_and_stops_no_other_row() -> None:
    @rows("number", [1, 2, 3])
    def test(number: int) -> None:
        if number == 2:
            pytest.skip("no server")
        raise ValueError(number)

    with pytest.raises((RowsFailed, pytest.skip.Exception)) as failure:  # a skip would skip this test
        test()
    assert isinstance(failure.value, RowsFailed)
    assert notes_of(failure) == [["in the row number=1"], ["in the row number=3"]]


def test_a_table_with_a_row_that_is_skipped_is_skipped_visibly() -> None:
    seen = []

    @rows("number", [1, 2])
    def test(number: int) -> None:
        seen.append(number)
        if number == 1:
            pytest.skip("no server")

    with pytest.raises(pytest.skip.Exception, match="no server"):
        test()
    assert seen == [1, 2]


def test_an_interrupted_table_stays_interrupted() -> None:
    @rows("number", [1, 2])
    def test(number: int) -> None:
        raise ValueError if number == 1 else KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        test()


@pytest.mark.anyio
async def test_each_kind_of_backend_has_a_clock_and_a_site_of_its_own() -> None:
    seen: list[tuple[SessionBackend, Clock]] = []

    @each_backend
    @rows("number", [1, 2])
    async def test(backend: SessionBackend, clock: Clock, site_of: Callable[..., Site], number: int) -> None:
        seen.append((backend, clock))
        site = site_of(backend=backend)
        assert await site.data() == {}, "another kind has been here"
        assert site.app.config.clock() == clock.now == Clock().now + number - 1
        clock.advance(1)
        await site.visit(load_copy)

    await test()
    assert [type(backend) for backend, _ in seen[::2]] == [type(make(Clock())) for make in BACKENDS.values()]
    assert len({id(clock) for _, clock in seen}) == len(BACKENDS)


@pytest.mark.anyio
async def test_a_kind_on_which_a_test_fails_is_named_with_its_row() -> None:
    @each_backend
    @rows("number", [1, 2])
    async def test(backend: SessionBackend, number: int) -> None:
        assert type(backend).__name__ != "DictBackend" or number == 1

    with pytest.raises(RowsFailed) as failure:
        await test()
    assert notes_of(failure) == [["in the row number=2", "in the row custom"]]


CONTRACT = Contract[StoreFixture]({"sweeps": "removes what has expired"})


@CONTRACT.rule()
async def it_is_kept(place: StoreFixture) -> None:
    """It is kept."""


@CONTRACT.rule()
async def it_is_broken(place: StoreFixture) -> None:
    """It is broken."""
    raise ValueError("broken")


@CONTRACT.rule("sweeps")
async def it_is_declined(place: StoreFixture) -> None:
    """It is declined."""
    raise ValueError("not asked")


class Suite(WholeStore):
    __test__ = False
    contract: ClassVar[Any] = CONTRACT
    declines: ClassVar = {"sweeps": "it is small"}


@pytest.mark.anyio
async def test_each_rule_that_a_store_breaks_is_named_and_what_it_declines_is_left_out() -> None:
    with pytest.raises(RowsFailed) as failure:
        await Suite().test_the_store_keeps_the_rules(lambda name: MemoryStore())
    assert notes_of(failure) == [["in the row it_is_broken"]]


class Nothing(Suite):
    __test__ = False
    contract: ClassVar[Any] = Contract[StoreFixture]({"sweeps": "removes what has expired"})


@pytest.mark.anyio
async def test_a_suite_without_a_rule_fails() -> None:
    with pytest.raises(AssertionError, match="no rule"):
        await Nothing().test_the_store_keeps_the_rules(lambda name: MemoryStore())


ON_BACKENDS = Contract[BackendFixture]({})


@ON_BACKENDS.rule()
async def it_finds_no_session(place: BackendFixture) -> None:
    """It finds no session."""
    assert (await stats(place.backend)).sessions == 0
    await place.new_session()


@ON_BACKENDS.rule()
async def it_finds_none_either(place: BackendFixture) -> None:
    """It finds none either."""
    await it_finds_no_session(place)


class InOneStore(WholeBackend):
    __test__ = False
    contract: ClassVar[Any] = ON_BACKENDS


class InAStoreForEach(InOneStore):
    def anew(self, opens: OpenBackend) -> OpenBackend:
        store = MemoryStore()
        return lambda: StoreBackend(store)


@pytest.mark.anyio
async def test_each_rule_has_a_storage_of_its_own_where_a_suite_makes_one() -> None:
    store = MemoryStore()
    await InAStoreForEach().test_the_backend_keeps_the_rules(lambda: StoreBackend(store))
    with pytest.raises(RowsFailed) as failure:
        await InOneStore().test_the_backend_keeps_the_rules(lambda: StoreBackend(store))
    assert notes_of(failure) == [["in the row it_finds_none_either"]]
