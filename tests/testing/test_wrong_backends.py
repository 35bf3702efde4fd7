"""The rules of a backend prove themselves, like those of a store: what is wrong fails exactly what it must.

The sets are written by hand. A backend of four calls has a gap between looking and writing, as its documents say; here
one sees what falls into it.
"""

from collections.abc import Callable
from typing import Any

import pytest
from anyio.lowlevel import checkpoint

from starsessions import InMemoryBackend, SessionBackend
from starsessions import stores as contract
from starsessions.backends.adapter import TIMES
from starsessions.backends.base import Conflict
from starsessions.backends.server_side import Pointer, StoreBackend
from starsessions.core.record import Found, MissReason, Record
from starsessions.testing.conformance import broken_stores as stores
from starsessions.testing.conformance import right_stores
from starsessions.testing.conformance.backend_rules import BACKEND, BackendFixture
from starsessions.testing.conformance.verdict import NoVerdict, ends
from tests.rows import rows
from tests.site import DictBackend

pytestmark = pytest.mark.once


def in_store(kind: type[right_stores.Right]) -> Callable[[], SessionBackend]:
    """Makes backends that keep their sessions in a store of this kind, with one write after the other: a batch would
    not go through the methods that are wrong.
    """

    async def cannot(*_: Any, **__: Any) -> None:
        return None

    one_by_one: Any = type(kind.__name__, (kind,), {"write_together": cannot})
    return lambda: StoreBackend(one_by_one(right_stores.Entries()))


class WaitsForItsDict(DictBackend):
    """The same backend of four calls with something to wait for, as they all have."""

    async def read(self, session_id: str) -> dict[str, Any]:
        await checkpoint()
        return await super().read(session_id)

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        await checkpoint()
        return await super().write(data, session_id)


class RemovesNothing(DictBackend):
    """A logout that only forgets the cookie."""

    async def remove(self, session_id: str) -> None:
        pass


class ForgetsTheTimes(DictBackend):
    """Keeps only keys that it knows: not the one with the times."""

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        data.pop(TIMES)
        return await super().write(data, session_id)


class MergesIntoWhatIsThere(DictBackend):
    """`UPDATE … SET data = data || …`, by which no key is ever deleted."""

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        return await super().write(self._storage.get(session_id or "", {}) | data, session_id)


class LeavesTheOldId(InMemoryBackend):
    """A rotation that copies: the old id goes on."""

    async def rotate(
        self, found: Found, record: Record, session_id: str, ends_at: int, now: int, usable_until: int = 0, *_: Any
    ) -> Found:
        return await self.create(record, session_id, ends_at, now)


class LeavesNoPointer(InMemoryBackend):
    """A rotation that deletes the old entry, so that the new session cannot be found."""

    async def rotate(
        self, found: Found, record: Record, session_id: str, ends_at: int, now: int, usable_until: int = 0, *_: Any
    ) -> Found:
        renewed = await self.create(record, session_id, ends_at, now)
        try:
            await self.store.delete(found.version.key, found.version.version, now=now)
        except contract.Conflict as refused:
            await self.store.delete(session_id, now=now)
            raise Conflict(await self._current(found.token, found.token, refused.current, now)) from None
        return renewed


class AsksTwice(InMemoryBackend):
    """Looks whether a session is there before it reads it."""

    async def fetch(self, token: str, now: int) -> Found | MissReason:
        if not self.policy.rolling:  # the races are rolling, and would have too many orders
            await super().fetch(token, now)
        return await super().fetch(token, now)


class FollowsOneRotation(InMemoryBackend):
    """A log-out while the session is rotated twice ends the pointer in the middle, and not the session."""

    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        try:
            await self.store.delete(found.version.key, found.version.version, now=now)
        except contract.Conflict as refused:
            read = self._read(found.token, found.version.key, refused.current)
            if if_unchanged or not isinstance(read, Pointer):
                return await super().delete(found, now, if_unchanged)
            await self.store.delete(read.to, now=now)


AGAINST = "a_logout_is_final_against_a_request_that_"

WRITES_LATE = {
    f"{AGAINST}reads",  # and thereby renews
    f"{AGAINST}writes",
    f"{AGAINST}deletes_a_key",
    f"{AGAINST}saves_at_once",
    f"{AGAINST}sets_an_expiry",
}

ROTATES_LATE = {
    f"{AGAINST}rotates",
    "a_logout_is_final_against_two_rotations",
    "a_logout_is_final_against_a_rotation_and_a_write",
}

THE_GAP = (
    WRITES_LATE
    | ROTATES_LATE
    | {
        "a_change_during_a_rotation_is_kept_or_refused",
        "of_two_rotations_one_wins",
        "2_writers_lose_no_update",
        "3_writers_lose_no_update",
        "atomic_updates_all_count",
        "within_its_grace_the_old_id_opens_the_new_session",
        "emptying_a_session_keeps_a_parallel_change",
    }
)

WRONG: dict[str, tuple[Callable[[], SessionBackend], set[str]]] = {
    "four calls": (DictBackend, THE_GAP),
    "four calls that wait": (WaitsForItsDict, THE_GAP | {"many_writers_lose_no_update"}),
    "removes nothing": (
        RemovesNothing,
        THE_GAP
        | {
            "an_unknown_id_is_not_adopted",
            "a_rotation_moves_the_session_to_a_new_id",
            f"{AGAINST}empties_the_session",
            f"{AGAINST}logs_out",
        },
    ),
    # Without times nothing is ever due to be renewed, so that a request which reads does not write.
    "forgets the times": (
        ForgetsTheTimes,
        THE_GAP - {f"{AGAINST}reads"}
        | {"a_session_expires_at_its_deadline", "a_session_that_expires_during_a_request_stays_expired"},
    ),
    "merges": (MergesIntoWhatIsThere, THE_GAP | {"a_session_keeps_its_data"}),
    "asks twice": (AsksTwice, {"an_unused_session_costs_nothing"}),
    "follows one rotation": (FollowsOneRotation, {"a_logout_is_final_against_two_rotations"}),
    "leaves the old id": (
        LeavesTheOldId,
        ROTATES_LATE
        | {
            "a_rotation_moves_the_session_to_a_new_id",
            "a_change_during_a_rotation_is_kept_or_refused",
            "of_two_rotations_one_wins",
            "within_its_grace_the_old_id_opens_the_new_session",
        },
    ),
    "leaves no pointer": (
        LeavesNoPointer,
        ROTATES_LATE | {"within_its_grace_the_old_id_opens_the_new_session"},
    ),
    "revives expired sessions": (
        in_store(stores.RevivesWhatIsOver),
        {"a_session_that_expires_during_a_request_stays_expired"},
    ),
    "upserts": (
        in_store(stores.Upserts),
        THE_GAP | {"many_writers_lose_no_update", "a_session_that_expires_during_a_request_stays_expired"},
    ),
    "deletes without a version": (
        in_store(stores.DeletesWithoutAVersion),
        ROTATES_LATE | {"emptying_a_session_keeps_a_parallel_change"},
    ),
    # A rejected request treats the session as missing, and leaves it alone.
    "refuses and does not say why": (
        in_store(stores.RefusesAndDoesNotSayWhy),
        THE_GAP - {"of_two_rotations_one_wins"} | {"many_writers_lose_no_update"},
    ),
    "keeps the first deadline": (
        in_store(stores.KeepsTheFirstDeadline),
        {"a_session_expires_at_its_deadline", "use_renews_a_rolling_session"},
    ),
    # Wrong stores that users do not notice, because the session looks at its deadline, too, or ids are random.
    "reads expired sessions": (in_store(stores.ReadsWhatIsOver), set()),
    "lowers keys": (in_store(stores.LowersKeys), set()),
}


async def broken_by(make: Callable[[], SessionBackend]) -> set[str]:
    broken = set()
    for rule in BACKEND:
        try:
            await ends(rule(BackendFixture(make())))
        except NoVerdict:
            raise
        except Exception:
            broken.add(rule.__name__)
    return broken


@pytest.mark.exhaustive
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@rows("name", WRONG)
@pytest.mark.anyio
async def test_a_wrong_backend_fails_exactly_the_rules_that_its_mistake_breaks(name: str) -> None:
    make, expected = WRONG[name]
    assert await broken_by(make) == expected


@pytest.mark.exhaustive
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@rows("store", [*right_stores.LEGAL, stores.HasAnIndex], ids=lambda store: store.__name__)
@pytest.mark.anyio
async def test_a_backend_over_an_unusual_but_correct_store_follows_all_rules(
    store: Callable[[right_stores.Entries], Any],
) -> None:
    for make in (in_store(store), lambda: StoreBackend(store(right_stores.Entries()))):
        assert await broken_by(make) == set()


def test_each_rule_catches_a_mistake() -> None:
    caught = set().union(*(expected for _, expected in WRONG.values()))
    assert caught == {rule.__name__ for rule in BACKEND}


def test_each_rule_has_a_docstring() -> None:
    assert [rule.__name__ for rule in BACKEND if not (rule.__doc__ or "").strip().endswith(".")] == []
