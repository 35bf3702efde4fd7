"""Which rules of the contracts run on which server.

All rules run on one server of each kind. On a second driver, or on another setup of the same server, run those that
depend on the driver and its connections. The others are marked `wide` there. An older version of a driver is such
a second driver: the others are marked `once`, and the oldest environment leaves them out.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from starsessions.testing.conformance.announcing_rules import ANNOUNCING
from starsessions.testing.conformance.backend_rules import BACKEND
from starsessions.testing.conformance.contract import Contract, Rule
from starsessions.testing.conformance.indexing_rules import INDEXING
from starsessions.testing.conformance.joining_rules import JOINING
from starsessions.testing.conformance.scanning_rules import SCANNING
from starsessions.testing.conformance.store_rules import STORE


class Part(Contract[Any]):
    """Some rules of a contract; `others`: all but these."""

    def __init__(self, whole: Contract[Any], names: str, *, others: bool = False) -> None:
        super().__init__(whole.capabilities)
        self._whole, self._names, self._others = whole, names.split(), others
        assert set(self._names) <= {rule.__name__ for rule in whole}, "a rule has another name now"

    def __iter__(self) -> Iterator[Rule[Any]]:
        return (rule for rule in self._whole if (rule.__name__ in self._names) != self._others)

    def why_declined(self, rule: Rule[Any], declines: Mapping[str, str]) -> str | None:
        return self._whole.why_declined(rule, declines)


_OF_ANNOUNCEMENTS = " ".join(rule.__name__ for rule in ANNOUNCING)
_OF_CONNECTIONS = f"""
    {_OF_ANNOUNCEMENTS}
    get_returns_what_create_has_stored
    one_connection_sees_what_another_writes
    entries_outlive_their_connections
    writers_that_retry_lose_no_update
    a_cancelled_call_is_done_whole_or_not_at_all
    one_connection_lists_what_another_writes
"""
_OF_DRIVERS = f"""
    {_OF_CONNECTIONS}
    every_byte_of_a_value_comes_back
    the_largest_value_is_kept_and_a_larger_one_is_refused_whole
    a_deadline_is_kept_to_the_second
    the_key_of_an_expired_entry_is_free
    replace_with_an_older_version_is_refused
    versions_never_repeat
    delete_with_an_older_version_is_refused
    of_parallel_creates_one_wins
    a_delete_is_final_against_a_parallel_replace
    of_a_parallel_replace_and_delete_one_wins
    parallel_sweeps_count_each_entry_once
    an_owned_entry_is_listed_at_once
    the_newest_entries_come_first
    pages_are_complete_and_disjoint
    parallel_creates_of_one_owner_lose_none
    creating_and_deleting_commute
    a_cancelled_write_leaves_no_entry_unlisted
    writes_together_are_all_carried_out
    a_refused_write_refuses_all_of_them
    of_parallel_batches_one_wins
    a_cancelled_batch_is_carried_out_whole_or_not_at_all
    the_pages_of_a_scan_are_complete
    another_connection_goes_on_with_a_scan
    an_entry_comes_with_that_of_its_owner_and_another
    names_of_owners_are_joined_whole_and_with_case
    what_comes_with_an_entry_is_not_older
"""
# What requests do in every order, one call to the store after the other, depends on the rules of the store only.
_OF_REQUESTS = """
    a_session_keeps_its_data
    a_session_expires_at_its_deadline
    a_logout_is_final_against_a_request_that_rotates
    within_its_grace_the_old_id_opens_the_new_session
    many_writers_lose_no_update
"""

_OF_MANY_ORDERS = """
    a_logout_is_final_against_a_rotation_and_a_write
    a_logout_is_final_against_two_rotations
    3_writers_lose_no_update
    atomic_updates_all_count
"""

CONNECTIONS, WITHOUT_CONNECTIONS = Part(STORE, _OF_CONNECTIONS), Part(STORE, _OF_CONNECTIONS, others=True)
LISTINGS = Part(STORE, " ".join(rule.__name__ for rule in (*INDEXING, *JOINING, *SCANNING)))
DRIVERS, WITHOUT_DRIVERS = Part(STORE, _OF_DRIVERS), Part(STORE, _OF_DRIVERS, others=True)
REQUESTS, WITHOUT_REQUESTS = Part(BACKEND, _OF_REQUESTS), Part(BACKEND, _OF_REQUESTS, others=True)
MANY_ORDERS, FEW_ORDERS = Part(BACKEND, _OF_MANY_ORDERS), Part(BACKEND, _OF_MANY_ORDERS, others=True)
