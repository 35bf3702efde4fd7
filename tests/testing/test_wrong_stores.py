"""The rules prove themselves: each wrong store makes a mistake that somebody has made, and fails exactly what it must.

The sets are written by hand, from what the rule says and what the mistake does. A set that is copied from a result
would prove nothing.
"""

from collections import defaultdict
from typing import Any, cast

import pytest
from anyio import fail_after

from starsessions.stores.base import Store
from starsessions.testing import StoreFixture
from starsessions.testing.conformance import store_rules as r
from starsessions.testing.conformance.broken_stores import (
    LEGAL,
    CannotSweep,
    ChecksThenDeletes,
    ChecksThenWrites,
    CountsEachConnection,
    CountsEachEntry,
    CountsRowsThatAreOver,
    CreatesWhenItShouldChange,
    CutsKeys,
    CutsValues,
    DeletesAndLeavesTheIndex,
    DeletesAndSaysNothing,
    DeletesAndSaysYes,
    DeletesWhatBeginsAlike,
    DeletesWithoutAVersion,
    Entries,
    ForgetsWithItsConnection,
    HandsOutItsOwn,
    HasAnIndex,
    HashesValues,
    KeepsText,
    KeepsTheFirstDeadline,
    KnowsNoPrefix,
    LivesASecondTooLong,
    LivesThirtyDaysAtMost,
    LowersKeys,
    Opened,
    ReadsWhatIsOver,
    RefusesAndDoesNotSayWhy,
    RefusesWhatIsTooLarge,
    RefusesWithTheDead,
    RenewsAndLeavesTheIndex,
    RenewsWhatIsRead,
    ReplacesInsteadOfCreating,
    RevivesWhatIsOver,
    Right,
    RoundsDownToTens,
    RoundsUpToMinutes,
    StripsNuls,
    StumblesOverWhatIsOver,
    SweepsAndSaysTheLimit,
    SweepsASecondLate,
    SweepsEverything,
    SweepsWhatItSawBefore,
    SweepsWithoutLimit,
    TakesAThousandBytes,
    Upserts,
    VersionsByTheClock,
    WantsATimeToLive,
    WritesInTwoSteps,
)
from starsessions.testing.conformance.contract import Rule

SWEEPS = {
    r.sweep_removes_expired_entries_only,
    r.sweep_removes_at_most_its_limit,
    r.sweep_goes_by_the_latest_deadline,
    r.sweep_leaves_entries_that_are_created_meanwhile,
    r.parallel_sweeps_count_each_entry_once,
}

REFUSALS_THAT_CARRY = {
    r.a_value_is_immutable_bytes,
    r.the_key_of_an_expired_entry_is_free,
    r.create_refuses_a_key_that_is_in_use,
    r.replace_with_an_older_version_is_refused,
    r.a_version_that_the_key_never_had_is_refused,
    r.a_version_from_before_a_delete_does_not_fit_a_later_entry,
    r.of_parallel_creates_one_wins,
    r.of_parallel_replaces_one_wins,
    r.writers_that_retry_lose_no_update,
    r.one_connection_sees_what_another_writes,
}

WRONG: dict[Opened, set[Rule[StoreFixture]]] = {
    Upserts: REFUSALS_THAT_CARRY
    | {
        r.the_version_of_an_expired_entry_is_refused,
        r.replace_never_revives_a_deleted_entry,
        r.a_delete_is_final_against_a_parallel_replace,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.another_storage_is_separate,
        r.entries_outlive_their_connections,
    },
    ReplacesInsteadOfCreating: {
        r.a_value_is_immutable_bytes,
        r.create_refuses_a_key_that_is_in_use,
        r.of_parallel_creates_one_wins,
    },
    CreatesWhenItShouldChange: {
        r.the_version_of_an_expired_entry_is_refused,
        r.a_version_that_the_key_never_had_is_refused,
        r.replace_never_revives_a_deleted_entry,
        r.a_delete_is_final_against_a_parallel_replace,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.another_storage_is_separate,
        r.entries_outlive_their_connections,
    },
    RevivesWhatIsOver: {r.the_version_of_an_expired_entry_is_refused},
    StumblesOverWhatIsOver: {
        r.a_write_with_a_deadline_that_has_passed_leaves_nothing,
        r.the_key_of_an_expired_entry_is_free,
        r.versions_never_repeat,
        r.sweep_leaves_entries_that_are_created_meanwhile,
    },
    ChecksThenWrites: {
        r.of_parallel_creates_one_wins,
        r.of_parallel_replaces_one_wins,
        r.a_delete_is_final_against_a_parallel_replace,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.writers_that_retry_lose_no_update,
    },
    ChecksThenDeletes: {
        r.of_parallel_deletes_one_removes,
        r.of_a_parallel_replace_and_delete_one_wins,
    },
    WritesInTwoSteps: {
        r.of_parallel_replaces_one_wins,
        r.a_delete_is_final_against_a_parallel_replace,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.writers_that_retry_lose_no_update,
        r.a_cancelled_call_is_done_whole_or_not_at_all,
    },
    CountsEachEntry: {
        r.the_key_of_an_expired_entry_is_free,
        r.versions_never_repeat,
        r.a_version_from_before_a_delete_does_not_fit_a_later_entry,
        r.entries_outlive_their_connections,
    },
    CountsEachConnection: {
        r.writers_that_retry_lose_no_update,
        r.one_connection_sees_what_another_writes,
        r.entries_outlive_their_connections,
    },
    HashesValues: {r.versions_never_repeat},
    VersionsByTheClock: {
        r.replace_with_the_current_version_writes,
        r.replace_with_an_older_version_is_refused,
        r.a_version_that_the_key_never_had_is_refused,
        r.versions_never_repeat,
        r.a_version_from_before_a_delete_does_not_fit_a_later_entry,
        r.delete_with_an_older_version_is_refused,
        r.of_parallel_replaces_one_wins,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.writers_that_retry_lose_no_update,
        r.a_cancelled_call_is_done_whole_or_not_at_all,
        r.one_connection_sees_what_another_writes,
        r.entries_outlive_their_connections,
    },
    ReadsWhatIsOver: {
        r.an_entry_expires_exactly_at_its_deadline,
        r.each_write_sets_the_deadline,
        r.a_write_with_a_deadline_that_has_passed_leaves_nothing,
        r.the_version_of_an_expired_entry_is_refused,
    },
    LivesASecondTooLong: SWEEPS
    | {
        r.an_entry_expires_exactly_at_its_deadline,
        r.each_write_sets_the_deadline,
        r.a_write_with_a_deadline_that_has_passed_leaves_nothing,
        r.the_key_of_an_expired_entry_is_free,
        r.the_version_of_an_expired_entry_is_refused,
        r.deleting_an_expired_entry_returns_false,
        r.versions_never_repeat,
    },
    KeepsTheFirstDeadline: {
        r.each_write_sets_the_deadline,
        r.a_write_with_a_deadline_that_has_passed_leaves_nothing,
        r.a_cancelled_call_is_done_whole_or_not_at_all,
        r.one_connection_sees_what_another_writes,
        r.sweep_goes_by_the_latest_deadline,
    },
    # Whatever compares a deadline, or wants a key to be free at its deadline.
    RoundsUpToMinutes: SWEEPS
    | REFUSALS_THAT_CARRY - {r.a_value_is_immutable_bytes, r.writers_that_retry_lose_no_update}
    | {
        r.get_returns_what_create_has_stored,
        r.an_entry_expires_exactly_at_its_deadline,
        r.a_deadline_is_kept_to_the_second,
        r.each_write_sets_the_deadline,
        r.the_version_of_an_expired_entry_is_refused,
        r.deleting_an_expired_entry_returns_false,
        r.replace_with_the_current_version_writes,
        r.versions_never_repeat,
        r.delete_with_an_older_version_is_refused,
        r.a_cancelled_call_is_done_whole_or_not_at_all,
        r.another_storage_is_separate,
        r.entries_outlive_their_connections,
    },
    RoundsDownToTens: {r.a_deadline_is_kept_to_the_second},
    LivesThirtyDaysAtMost: {r.a_deadline_is_kept_to_the_second},
    WantsATimeToLive: {r.a_write_with_a_deadline_that_has_passed_leaves_nothing},
    RenewsWhatIsRead: {
        r.an_entry_expires_exactly_at_its_deadline,
        r.a_deadline_is_kept_to_the_second,
        r.each_write_sets_the_deadline,
    },
    DeletesWithoutAVersion: {
        r.the_version_of_an_expired_entry_is_refused,
        r.a_version_that_the_key_never_had_is_refused,
        r.delete_with_an_older_version_is_refused,
        r.delete_with_the_version_of_a_deleted_entry_is_refused,
        r.of_parallel_deletes_one_removes,
        r.of_a_parallel_replace_and_delete_one_wins,
    },
    DeletesAndSaysNothing: {
        r.deleting_an_expired_entry_returns_false,
        r.delete_removes_the_entry_and_returns_whether_there_was_one,
        r.delete_with_the_current_version_removes,
        r.of_parallel_deletes_one_removes,
        r.one_connection_sees_what_another_writes,
        r.another_storage_is_separate,
    },
    DeletesAndSaysYes: {
        r.deleting_an_expired_entry_returns_false,
        r.delete_removes_the_entry_and_returns_whether_there_was_one,
        r.of_parallel_deletes_one_removes,
        r.another_storage_is_separate,
    },
    CountsRowsThatAreOver: {r.deleting_an_expired_entry_returns_false},
    DeletesWhatBeginsAlike: {r.delete_removes_no_other_key},
    RefusesAndDoesNotSayWhy: REFUSALS_THAT_CARRY | {r.delete_with_an_older_version_is_refused},
    RefusesWithTheDead: {r.the_version_of_an_expired_entry_is_refused},
    LowersKeys: {r.keys_that_differ_in_case_are_different, r.keys_of_1_to_128_characters_are_kept_apart},
    CutsKeys: {r.keys_of_1_to_128_characters_are_kept_apart},
    KeepsText: {r.every_byte_of_a_value_comes_back},
    StripsNuls: {r.every_byte_of_a_value_comes_back},
    CutsValues: {
        r.every_byte_of_a_value_comes_back,
        r.the_largest_value_is_kept_and_a_larger_one_is_refused_whole,
    },
    HandsOutItsOwn: {r.a_value_is_immutable_bytes},
    KnowsNoPrefix: {r.another_storage_is_separate},
    ForgetsWithItsConnection: {
        r.of_parallel_creates_one_wins,
        r.of_parallel_replaces_one_wins,
        r.of_a_parallel_replace_and_delete_one_wins,
        r.writers_that_retry_lose_no_update,
        r.one_connection_sees_what_another_writes,
        r.entries_outlive_their_connections,
    },
    SweepsEverything: {
        r.sweep_removes_expired_entries_only,
        r.sweep_goes_by_the_latest_deadline,
        r.sweep_leaves_entries_that_are_created_meanwhile,
    },
    SweepsWithoutLimit: {r.sweep_removes_at_most_its_limit},
    SweepsASecondLate: SWEEPS - {r.sweep_leaves_entries_that_are_created_meanwhile},
    SweepsAndSaysTheLimit: SWEEPS - {r.sweep_leaves_entries_that_are_created_meanwhile},
    SweepsWhatItSawBefore: {
        r.sweep_leaves_entries_that_are_created_meanwhile,
        r.parallel_sweeps_count_each_entry_once,
    },
    DeletesAndLeavesTheIndex: {r.sweep_removes_expired_entries_only},
    RenewsAndLeavesTheIndex: {r.sweep_goes_by_the_latest_deadline},
}


async def broken_by(open_store: Opened, largest_value: int | None = None) -> set[str]:
    """The rules that a store does not keep."""
    broken = set()
    for rule in r.STORE:
        KnowsNoPrefix.everything = Entries()
        world: dict[str, Entries] = defaultdict(Entries)
        async with StoreFixture(lambda name: open_store(world[name]), largest_value=largest_value) as place:  # noqa: B023
            try:
                with fail_after(10):
                    await rule(place)
            except Exception:
                broken.add(rule.__name__)
    return broken


# On one event loop, because trio shuffles what goes at once, and some mistakes show in one order only.


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("store", [*LEGAL, HasAnIndex], ids=lambda store: store.__name__)
@pytest.mark.anyio
async def test_a_store_that_is_legal_and_different_keeps_all_rules(store: Opened) -> None:
    assert await broken_by(store) == set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("store", WRONG, ids=lambda store: store.__name__)
@pytest.mark.anyio
async def test_a_wrong_store_fails_exactly_the_rules_that_its_mistake_breaks(store: Opened) -> None:
    assert await broken_by(store) == {rule.__name__ for rule in WRONG[store]}


def test_each_rule_catches_something() -> None:
    caught = set().union(*WRONG.values())
    assert [rule.__name__ for rule in r.STORE if rule not in caught] == []


# A size limit is a number that is stated, and checked on both sides.


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize(
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
    store: Opened, stated: int | None, is_kept: bool
) -> None:
    rule = r.the_largest_value_is_kept_and_a_larger_one_is_refused_whole
    assert (rule.__name__ not in await broken_by(store, stated)) == is_kept


# What is declined


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_a_store_without_a_sweep_has_to_say_so() -> None:
    async with StoreFixture(lambda name: cast(Store, CannotSweep())) as place:
        with pytest.raises(AssertionError, match="decline 'sweeps' with a reason"):
            await r.sweep_removes_expired_entries_only(place)


def test_a_capability_is_declined_with_a_reason_and_its_rules_only() -> None:
    declines = {"sweeps": "it forgets by itself"}
    assert {rule for rule in r.STORE if r.STORE.why_declined(rule, declines) == "it forgets by itself"} == SWEEPS
    for wrong in ({"sweeps": ""}, {"sweeps": True}, {"expiry": "it is slow"}):
        with pytest.raises(ValueError, match=r"Decline 'sweeps' with|no 'expiry' to decline, only several"):
            r.STORE.why_declined(r.a_value_is_immutable_bytes, cast(Any, wrong))


def test_each_rule_has_a_sentence() -> None:
    assert [rule.__name__ for rule in r.STORE if not (rule.__doc__ or "").strip().endswith(".")] == []
