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
from starsessions.testing.conformance.contract import Rule
from tests.testing.stores import (
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

SWEEPS = {
    r.sweep_removes_what_is_over_and_nothing_else,
    r.sweep_removes_no_more_than_it_may,
    r.sweep_leaves_what_was_renewed,
    r.sweep_takes_nothing_that_begins_meanwhile,
    r.sweeps_at_once_count_each_entry_once,
}

REFUSALS_THAT_CARRY = {
    r.a_value_is_immutable_bytes,
    r.the_key_of_what_is_over_is_free,
    r.a_key_that_is_taken_is_not_free,
    r.put_with_an_older_version_is_refused,
    r.a_version_that_the_key_never_had_is_refused,
    r.put_never_finds_its_version_in_what_came_after_a_delete,
    r.of_writers_that_create_at_once_one_wins,
    r.of_writers_that_replace_at_once_one_wins,
    r.writers_that_try_again_lose_no_update,
    r.what_one_connection_writes_the_other_sees,
}

WRONG: dict[Opened, set[Rule[StoreFixture]]] = {
    Upserts: REFUSALS_THAT_CARRY
    | {
        r.the_version_of_what_is_over_is_nobodys,
        r.put_never_brings_back_what_was_deleted,
        r.a_delete_wins_against_writes_at_the_same_time,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.nothing_of_another_place_is_seen,
        r.what_is_stored_outlives_its_connections,
    },
    ReplacesInsteadOfCreating: {
        r.a_value_is_immutable_bytes,
        r.a_key_that_is_taken_is_not_free,
        r.of_writers_that_create_at_once_one_wins,
    },
    CreatesWhenItShouldChange: {
        r.the_version_of_what_is_over_is_nobodys,
        r.a_version_that_the_key_never_had_is_refused,
        r.put_never_brings_back_what_was_deleted,
        r.a_delete_wins_against_writes_at_the_same_time,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.nothing_of_another_place_is_seen,
        r.what_is_stored_outlives_its_connections,
    },
    RevivesWhatIsOver: {r.the_version_of_what_is_over_is_nobodys},
    StumblesOverWhatIsOver: {
        r.what_is_put_with_a_deadline_that_has_passed_is_not_there,
        r.the_key_of_what_is_over_is_free,
        r.a_version_is_never_the_same_twice,
        r.sweep_takes_nothing_that_begins_meanwhile,
    },
    ChecksThenWrites: {
        r.of_writers_that_create_at_once_one_wins,
        r.of_writers_that_replace_at_once_one_wins,
        r.a_delete_wins_against_writes_at_the_same_time,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.writers_that_try_again_lose_no_update,
    },
    ChecksThenDeletes: {
        r.of_deletes_at_once_one_has_removed,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
    },
    WritesInTwoSteps: {
        r.of_writers_that_replace_at_once_one_wins,
        r.a_delete_wins_against_writes_at_the_same_time,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.writers_that_try_again_lose_no_update,
        r.a_call_that_is_cancelled_is_done_or_not_and_does_no_harm,
    },
    CountsEachEntry: {
        r.the_key_of_what_is_over_is_free,
        r.a_version_is_never_the_same_twice,
        r.put_never_finds_its_version_in_what_came_after_a_delete,
        r.what_is_stored_outlives_its_connections,
    },
    CountsEachConnection: {
        r.writers_that_try_again_lose_no_update,
        r.what_one_connection_writes_the_other_sees,
        r.what_is_stored_outlives_its_connections,
    },
    HashesValues: {r.a_version_is_never_the_same_twice},
    VersionsByTheClock: {
        r.put_replaces_what_has_the_expected_version,
        r.put_with_an_older_version_is_refused,
        r.a_version_that_the_key_never_had_is_refused,
        r.a_version_is_never_the_same_twice,
        r.put_never_finds_its_version_in_what_came_after_a_delete,
        r.delete_with_an_older_version_is_refused,
        r.of_writers_that_replace_at_once_one_wins,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.writers_that_try_again_lose_no_update,
        r.a_call_that_is_cancelled_is_done_or_not_and_does_no_harm,
        r.what_one_connection_writes_the_other_sees,
        r.what_is_stored_outlives_its_connections,
    },
    ReadsWhatIsOver: {
        r.an_entry_is_over_exactly_at_its_deadline,
        r.each_put_moves_the_deadline,
        r.what_is_put_with_a_deadline_that_has_passed_is_not_there,
        r.the_version_of_what_is_over_is_nobodys,
    },
    LivesASecondTooLong: SWEEPS
    | {
        r.an_entry_is_over_exactly_at_its_deadline,
        r.each_put_moves_the_deadline,
        r.what_is_put_with_a_deadline_that_has_passed_is_not_there,
        r.the_key_of_what_is_over_is_free,
        r.the_version_of_what_is_over_is_nobodys,
        r.deleting_what_is_over_finds_nothing,
        r.a_version_is_never_the_same_twice,
    },
    KeepsTheFirstDeadline: {
        r.each_put_moves_the_deadline,
        r.what_is_put_with_a_deadline_that_has_passed_is_not_there,
        r.a_call_that_is_cancelled_is_done_or_not_and_does_no_harm,
        r.what_one_connection_writes_the_other_sees,
        r.sweep_leaves_what_was_renewed,
    },
    # Whatever compares a deadline, or wants a key to be free at its deadline.
    RoundsUpToMinutes: SWEEPS
    | REFUSALS_THAT_CARRY - {r.a_value_is_immutable_bytes, r.writers_that_try_again_lose_no_update}
    | {
        r.what_was_put_is_read_back_with_its_version,
        r.an_entry_is_over_exactly_at_its_deadline,
        r.a_deadline_is_kept_to_the_second,
        r.each_put_moves_the_deadline,
        r.the_version_of_what_is_over_is_nobodys,
        r.deleting_what_is_over_finds_nothing,
        r.put_replaces_what_has_the_expected_version,
        r.a_version_is_never_the_same_twice,
        r.delete_with_an_older_version_is_refused,
        r.a_call_that_is_cancelled_is_done_or_not_and_does_no_harm,
        r.nothing_of_another_place_is_seen,
        r.what_is_stored_outlives_its_connections,
    },
    RoundsDownToTens: {r.a_deadline_is_kept_to_the_second},
    LivesThirtyDaysAtMost: {r.a_deadline_is_kept_to_the_second},
    WantsATimeToLive: {r.what_is_put_with_a_deadline_that_has_passed_is_not_there},
    RenewsWhatIsRead: {
        r.an_entry_is_over_exactly_at_its_deadline,
        r.a_deadline_is_kept_to_the_second,
        r.each_put_moves_the_deadline,
    },
    DeletesWithoutAVersion: {
        r.the_version_of_what_is_over_is_nobodys,
        r.a_version_that_the_key_never_had_is_refused,
        r.delete_with_an_older_version_is_refused,
        r.delete_with_a_version_of_what_is_gone_is_refused,
        r.of_deletes_at_once_one_has_removed,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
    },
    DeletesAndSaysNothing: {
        r.deleting_what_is_over_finds_nothing,
        r.delete_removes_what_is_there_and_says_whether_it_did,
        r.delete_removes_what_has_the_expected_version,
        r.of_deletes_at_once_one_has_removed,
        r.what_one_connection_writes_the_other_sees,
        r.nothing_of_another_place_is_seen,
    },
    DeletesAndSaysYes: {
        r.deleting_what_is_over_finds_nothing,
        r.delete_removes_what_is_there_and_says_whether_it_did,
        r.of_deletes_at_once_one_has_removed,
        r.nothing_of_another_place_is_seen,
    },
    CountsRowsThatAreOver: {r.deleting_what_is_over_finds_nothing},
    DeletesWhatBeginsAlike: {r.delete_takes_nothing_but_its_key},
    RefusesAndDoesNotSayWhy: REFUSALS_THAT_CARRY | {r.delete_with_an_older_version_is_refused},
    RefusesWithTheDead: {r.the_version_of_what_is_over_is_nobodys},
    LowersKeys: {r.keys_that_differ_in_case_are_two, r.keys_of_1_to_128_characters_are_kept_apart},
    CutsKeys: {r.keys_of_1_to_128_characters_are_kept_apart},
    KeepsText: {r.every_byte_of_a_value_comes_back},
    StripsNuls: {r.every_byte_of_a_value_comes_back},
    CutsValues: {
        r.every_byte_of_a_value_comes_back,
        r.the_largest_value_is_kept_and_a_larger_one_is_refused_whole,
    },
    HandsOutItsOwn: {r.a_value_is_immutable_bytes},
    KnowsNoPrefix: {r.nothing_of_another_place_is_seen},
    ForgetsWithItsConnection: {
        r.of_writers_that_create_at_once_one_wins,
        r.of_writers_that_replace_at_once_one_wins,
        r.of_a_put_and_a_delete_of_one_version_at_once_one_wins,
        r.writers_that_try_again_lose_no_update,
        r.what_one_connection_writes_the_other_sees,
        r.what_is_stored_outlives_its_connections,
    },
    SweepsEverything: {
        r.sweep_removes_what_is_over_and_nothing_else,
        r.sweep_leaves_what_was_renewed,
        r.sweep_takes_nothing_that_begins_meanwhile,
    },
    SweepsWithoutLimit: {r.sweep_removes_no_more_than_it_may},
    SweepsASecondLate: SWEEPS - {r.sweep_takes_nothing_that_begins_meanwhile},
    SweepsAndSaysTheLimit: SWEEPS - {r.sweep_takes_nothing_that_begins_meanwhile},
    SweepsWhatItSawBefore: {
        r.sweep_takes_nothing_that_begins_meanwhile,
        r.sweeps_at_once_count_each_entry_once,
    },
    DeletesAndLeavesTheIndex: {r.sweep_removes_what_is_over_and_nothing_else},
    RenewsAndLeavesTheIndex: {r.sweep_leaves_what_was_renewed},
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
            await r.sweep_removes_what_is_over_and_nothing_else(place)


def test_a_capability_is_declined_with_a_reason_and_its_rules_only() -> None:
    declines = {"sweeps": "it forgets by itself"}
    assert {rule for rule in r.STORE if r.STORE.why_declined(rule, declines) == "it forgets by itself"} == SWEEPS
    for wrong in ({"sweeps": ""}, {"sweeps": True}, {"expiry": "it is slow"}):
        with pytest.raises(ValueError, match=r"Decline 'sweeps' with|no 'expiry' to decline, only several"):
            r.STORE.why_declined(r.a_value_is_immutable_bytes, cast(Any, wrong))


def test_each_rule_has_a_sentence() -> None:
    assert [rule.__name__ for rule in r.STORE if not (rule.__doc__ or "").strip().endswith(".")] == []
