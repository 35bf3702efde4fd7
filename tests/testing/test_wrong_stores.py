"""The rules prove themselves: each broken store makes a mistake, and fails exactly what it must."""

from typing import Any, cast

import pytest

from starsessions.stores.base import Store
from starsessions.stores.listed import ListedStore
from starsessions.testing import RulesSuite, StoreFixture
from starsessions.testing.conformance import announcing_rules as a
from starsessions.testing.conformance import batching_rules as b
from starsessions.testing.conformance import fixtures
from starsessions.testing.conformance import indexing_rules as i
from starsessions.testing.conformance import joining_rules as j
from starsessions.testing.conformance import scanning_rules as s
from starsessions.testing.conformance import store_rules as r
from starsessions.testing.conformance.broken_announcements import SubscribesWhenItIsRead
from starsessions.testing.conformance.broken_stores import (
    SWEEPS,
    WRONG,
    CutsValues,
    FourMethods,
    HasAnIndex,
    RefusesWhatIsTooLarge,
    TakesAThousandBytes,
    failing_rules,
    opener,
)
from starsessions.testing.conformance.contract import Rule
from starsessions.testing.conformance.right_stores import (
    LEGAL,
    LEGAL_ANNOUNCEMENTS,
    LEGAL_LISTINGS,
    LEGAL_SCANS,
    KeepsListsBesideEntries,
    Kind,
    Right,
)
from tests.rows import rows

pytestmark = pytest.mark.once


# On one event loop, because trio shuffles what goes at once, and some mistakes show in one order only.


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@rows(
    "store",
    [*LEGAL, *LEGAL_LISTINGS, *LEGAL_SCANS, *LEGAL_ANNOUNCEMENTS, HasAnIndex],
    ids=lambda store: store.__name__,
)
@pytest.mark.anyio
async def test_an_unusual_but_correct_store_follows_all_rules(store: Kind) -> None:
    lacks = (*b.BATCHING, *j.JOINING) if store is KeepsListsBesideEntries else ()
    declined = frozenset(rule.__name__ for rule in lacks)
    assert await failing_rules(store) == declined


class TestTheRules(RulesSuite):
    """A wrong store fails exactly the rules that its mistake breaks."""

    def test_each_rule_catches_a_mistake(self) -> None:
        caught = set().union(*WRONG.values())
        assert [rule.__name__ for rule in r.STORE if rule not in caught] == []


# A size limit is a number that is stated, and checked on both sides.


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@rows(
    ("store", "stated", "is_kept"),
    [
        (TakesAThousandBytes, 1000, True),
        (TakesAThousandBytes, 1001, False),
        (TakesAThousandBytes, 999, False),
        (TakesAThousandBytes, None, False),
        (RefusesWhatIsTooLarge, 1000, False),
        (Right, 1000, False),
        (CutsValues, 65_535, False),
    ],
)
@pytest.mark.anyio
async def test_a_limit_is_neither_higher_nor_lower_than_what_is_stated(
    store: Kind, stated: int | None, is_kept: bool
) -> None:
    rule = r.the_largest_value_is_kept_and_a_larger_one_is_refused_whole
    assert (rule.__name__ not in await failing_rules(store, stated)) == is_kept


# What is declined


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@rows(
    ("rule", "capability"),
    [
        (r.sweep_removes_expired_entries_only, "sweeps"),
        (i.an_owned_entry_is_listed_at_once, "owners"),
        (i.parallel_creates_of_one_owner_lose_none, "owners"),
        (b.writes_together_are_all_carried_out, "batches"),
        (b.of_parallel_batches_one_wins, "batches"),
        (s.a_scan_has_each_entry_as_it_is, "scan"),
        (a.announcing_is_no_error_if_no_one_listens, "announcements"),
        (j.an_entry_comes_with_that_of_its_owner_and_another, "joins"),
    ],
)
@pytest.mark.anyio
async def test_a_store_without_an_optional_power_has_to_say_so(rule: Rule[StoreFixture], capability: str) -> None:
    async with StoreFixture(lambda name: cast(Store, FourMethods())) as place:
        with pytest.raises(AssertionError, match=f"or decline '{capability}' with a reason"):
            await rule(place)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_store_that_lists_but_does_not_sweep_has_to_say_so() -> None:
    async with StoreFixture(lambda name: ListedStore(cast(Store, FourMethods()))) as place:
        with pytest.raises(AssertionError, match="or decline 'sweeps' with a reason"):
            await i.a_swept_entry_leaves_the_listing(place)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_store_that_scans_but_does_not_know_owners_has_to_say_so() -> None:
    class ScansFourMethods(FourMethods):
        async def scan(self, **_: object) -> None: ...

    async with StoreFixture(lambda name: cast(Store, ScansFourMethods())) as place:
        with pytest.raises(AssertionError, match="or decline 'owners' with a reason"):
            await s.a_scan_has_the_owner_of_each_entry(place)


def test_a_capability_is_declined_with_a_reason_and_its_rules_only() -> None:
    for capability, rules in {
        "sweeps": SWEEPS | {i.a_swept_entry_leaves_the_listing},
        "owners": {*i.INDEXING, b.writes_together_change_the_listings, s.a_scan_has_the_owner_of_each_entry},
        "batches": {*b.BATCHING},
        "scan": {*s.SCANNING},
        "announcements": {*a.ANNOUNCING},
        "joins": {*j.JOINING},
    }.items():
        declined = {
            rule for rule in r.STORE if r.STORE.why_declined(rule, {capability: "it is small"}) == "it is small"
        }
        assert declined == rules
    for wrong in ({"sweeps": ""}, {"sweeps": True}, {"expiry": "it is slow"}):
        with pytest.raises(
            ValueError, match=r"Decline 'sweeps' with|Unknown capability 'expiry': decline one of several"
        ):
            r.STORE.why_declined(r.a_value_is_immutable_bytes, cast(Any, wrong))


def test_each_rule_of_scans_joins_and_announcements_catches_a_mistake_that_no_other_rule_catches() -> None:
    """So none of them can be left out."""
    alone = {rule for rules in WRONG.values() if len(rules) == 1 for rule in rules}
    assert [rule.__name__ for rule in (*s.SCANNING, *j.JOINING, *a.ANNOUNCING) if rule not in alone] == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_an_announcement_that_has_not_arrived_counts_as_lost_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fixtures, "PATIENCE", 0)
    async with StoreFixture(opener(SubscribesWhenItIsRead)) as place:
        with pytest.raises(AssertionError, match="1 of 1 topics did not arrive"):
            await a.what_is_announced_from_then_on_arrives(place)


def test_each_rule_has_a_docstring() -> None:
    assert [rule.__name__ for rule in r.STORE if not (rule.__doc__ or "").strip().endswith(".")] == []
