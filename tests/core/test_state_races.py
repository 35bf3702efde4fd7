"""Two and three requests of one browser in every order, thousands of orders a second: see `races.py`.

The same promises are held on real stores, through the middleware, by `starsessions.testing` (the rules of a backend)
and `tests/backends/test_races.py`: these show that the drivers and the stores add nothing.
"""

from collections.abc import Iterable
from contextlib import suppress
from itertools import combinations_with_replacement
from typing import Any

import pytest
from msgspec.structs import replace

from starsessions.core.decision import Cookie
from starsessions.core.record import Expiry, Found, MissReason, Record, deadline, readable
from starsessions.core.state import NOTHING, Command, Create, Nothing, Replace, Rotate, SessionState
from tests.core.races import (
    A_LOGOUT_IS_FINAL,
    CONFIRMED,
    COUNTED,
    EXPIRED_STAYS,
    GRACE,
    IN_ORDER,
    IT_ENDS,
    ITS_USER,
    LATE,
    NEW_IDS,
    NO_OTHER,
    NO_UPDATE_IS_LOST,
    NONE_SIGNED_OUT,
    PROMISES,
    RAISING,
    REPORTED,
    ROLLING,
    ROTATED_AWAY,
    ROTATING,
    SIGNED_IN,
    THE_LOST_ARE_SILENT,
    TOLD,
    Action,
    Machine,
    Place,
    Race,
    Request,
    SessionGone,
    Steps,
    run,
)
from tests.rows import rows

pytestmark = pytest.mark.exhaustive

# What handlers do


def sets(**items: Any) -> Action:
    return lambda request: request.change(lambda data: data.update(items))


def deletes(key: str) -> Action:
    return lambda request: request.change(lambda data: data.pop(key, None)) and None


def appends(request: Request) -> None:
    request.change(lambda data: data.setdefault("b", []).append(2))


def add_one(data: dict[str, Any]) -> int:
    data["count"] = data.get("count", 0) + 1
    return int(data["count"])


def counts(request: Request) -> None:
    request.change(add_one)


def adds(number: int) -> Action:
    return lambda request: request.change(lambda data: data.update(count=data["count"] + number))


def counts_atomically(request: Request) -> Steps:
    return request.update_atomically(add_one)


def clears(request: Request) -> None:
    request.change(lambda data: data.clear())


def saves(request: Request) -> Steps:
    return request.persist()


def saves_and_goes_on(request: Request) -> Steps:
    with suppress(SessionGone):
        yield from request.persist()


def rotates(request: Request) -> None:
    request.rotate()


def rotates_with_a_grace(request: Request) -> None:
    request.rotate(GRACE)


def logs_out(request: Request) -> Steps:
    return request.end()


def signs_in(request: Request) -> Steps:
    return request.sign_in("ann")


def takes_a_second(request: Request) -> None:
    request.place.now += 1


def is_remembered(request: Request) -> Steps:
    return request.sign_in("ann", Expiry(5000))


def expires(request: Request) -> None:
    request.expire(Expiry(3000))


HANDLERS: dict[str, tuple[Action, ...]] = {
    "reads": (),
    "sets a key": (sets(a=2),),
    "sets another key": (sets(d=3),),
    "deletes a key": (deletes("c"),),
    "changes inside": (appends,),
    "counts": (counts,),
    "clears": (clears,),
    "saves at once": (sets(saved=True), saves),
    "saves and goes on": (sets(saved=True), saves_and_goes_on, sets(more=True)),
    "rotates": (rotates, sets(rotated=True)),
    "rotates with a grace": (rotates_with_a_grace,),
    "rotates, saves and goes on": (rotates, saves, sets(e=1)),
    "logs out": (logs_out,),
    "logs out and leaves a message": (logs_out, sets(message="bye")),
    "signs in": (signs_in, sets(hello="ann")),
    "signs in, saves and goes on": (signs_in, saves, takes_a_second, sets(e=1)),
    "is remembered": (is_remembered,),
    "signs in and out and leaves a message": (is_remembered, saves, logs_out, sets(message="bye")),
    "signs in, is refused and leaves a message": (is_remembered, logs_out, sets(message="bye")),
    "sets an expiry": (expires,),
    "sets an expiry, saves and goes on": (expires, saves, sets(e=1)),
}


def races(names: Iterable[str], count: int, **settings: Any) -> list[Race]:
    """Pairs of concurrent requests: each of these handlers with itself and with the others."""
    chosen = combinations_with_replacement([HANDLERS[name] for name in names], count)
    return [Race(handlers, **settings) for handlers in chosen]


FEW = [
    "sets a key",
    "deletes a key",
    "clears",
    "saves at once",
    "rotates",
    "rotates with a grace",
    "logs out",
    "signs in",
]

# How many orders there are at least: a new handler makes more, and an enumeration that shrinks is noticed.
EVERY_ORDER: dict[str, tuple[list[Race], int]] = {
    "two requests": (races(HANDLERS, 2), 1841),
    "two requests of a user": (races(HANDLERS, 2, user="bob"), 2667),
    "two requests while the session expires": (races(HANDLERS, 2, time_passes=True), 9931),
    "two requests that renew the session": (races(HANDLERS, 2, config=ROLLING), 1916),
    "two requests that renew the session while it expires": (
        races(HANDLERS, 2, config=ROLLING, time_passes=True),
        10301,
    ),
    "two requests that rotate the session": (races(HANDLERS, 2, config=ROTATING, user="bob"), 2739),
    "three requests that renew the session": (races(FEW, 3, config=ROLLING), 14038),
    "one request, and two that follow each other": (
        [Race([HANDLERS["rotates"], other], ROLLING, again=HANDLERS["rotates"]) for other in HANDLERS.values()],
        366,
    ),
}


@rows("name", EVERY_ORDER)
def test_all_promises_are_kept_in_every_order_of(name: str) -> None:
    every, least = EVERY_ORDER[name]

    orders, broken = run(every)

    assert broken == set()
    assert orders >= least


def all_count(place: Place) -> None:
    """What each request has returned is its own number, and the last one is what is stored."""
    returned = sorted(request.returned for request in place.answered if request.returned is not None)
    place.promise(COUNTED, returned == list(range(1, len(returned) + 1)))
    place.promise(COUNTED, place.truths["start"].data.get("count", 0) == len(returned))


def the_rest_have_raised(place: Place) -> None:
    """Where conflicts raise, what a request has added is in the sum if it has not raised."""
    total = place.truths["start"].data["count"]
    raised = sum(request.has_raised for request in place.answered)
    place.promise(REPORTED, total > 0 and str(total).count("1") + raised == len(place.answered))


def none_has_raised(place: Place) -> None:
    place.promise(REPORTED, not any(request.has_raised for request in place.answered))


ATOMIC = (counts_atomically,)
COUNTERS: dict[str, tuple[Race, int]] = {
    "three atomic updates": (Race([ATOMIC] * 3, check=all_count), 198),
    "atomic updates and a rotation with a grace": (
        Race([ATOMIC, ATOMIC, HANDLERS["rotates with a grace"]], check=all_count),
        198,
    ),
    "atomic updates and a rotation": (Race([ATOMIC, ATOMIC, (rotates,)], check=all_count), 154),
    "atomic updates and a logout": (Race([ATOMIC, ATOMIC, (logs_out,)], ROLLING), 114),
    "an atomic update after persist(), and a rotation with a grace": (
        Race([(saves, counts_atomically), HANDLERS["rotates with a grace"]], ROLLING),
        12,
    ),
    "three that read, add and write": (
        Race([(adds(1),), (adds(10),), (adds(100),)], RAISING, check=the_rest_have_raised),
        90,
    ),
    "three that write other keys": (
        Race([(sets(d=1),), (sets(e=1),), (deletes("c"),)], RAISING, check=none_has_raised),
        198,
    ),
}


@rows("name", COUNTERS)
def test_counters_are_exact_in_every_order_of(name: str) -> None:
    race, least = COUNTERS[name]

    orders, broken = run([race])

    assert broken == set()
    assert orders >= least


# Wrong machines, and what each of them breaks


class OverwritesOnConflict(SessionState, eq=False):
    """Takes what it has for what is stored."""

    def conflict(
        self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None
    ) -> dict[str, Any] | None:
        if current is None:
            return super().conflict(current, data, now, moved_to)
        self.found = current
        return dict(data)


class MergesNoDeletions(SessionState, eq=False):
    def conflict(
        self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None
    ) -> dict[str, Any] | None:
        ours = dict(data)
        merged = super().conflict(current, data, now, moved_to)
        return None if merged is None else self.stored() | ours


class DropsItsOwnChanges(SessionState, eq=False):
    def conflict(
        self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None
    ) -> dict[str, Any] | None:
        merged = super().conflict(current, data, now, moved_to)
        return None if merged is None else self.stored()


class RevivesTheLost(SessionState, eq=False):
    """Begins a new session with the data of one that was ended."""

    def conflict(
        self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None
    ) -> dict[str, Any] | None:
        ours, merged = dict(data), super().conflict(current, data, now, moved_to)
        if merged is None:
            self.is_lost = False
            return ours
        return merged


class BelievesTheExpired(SessionState, eq=False):
    def _read_alive(self, current: Found | None, now: int) -> dict[str, Any] | None:
        return None if current is None else readable(current.record.payload, self.config.loads)


class KeepsTheOldRecord(SessionState, eq=False):
    """Merges the data, and not whose session it is and how long it lasts."""

    def conflict(
        self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None
    ) -> dict[str, Any] | None:
        before = self.found
        merged = super().conflict(current, data, now, moved_to)
        if merged is not None and before is not None and self.found is not None:
            record = replace(before.record, payload=self.found.record.payload)
            self.found = replace(self.found, record=record)
        return merged


class AdoptsNothing(SessionState, eq=False):
    """Tries again what was refused."""

    def conflict(
        self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None
    ) -> dict[str, Any] | None:
        before, merged = self.found, super().conflict(current, data, now, moved_to)
        if merged is not None:
            self.found = before
        return merged


class CountsOnWhatItHas(SessionState, eq=False):
    """Makes a change anew on the data that it has loaded, in the place of what is stored now."""

    def rebase(self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None) -> bool:
        before, goes_on = self.found, super().rebase(current, data, now, moved_to)
        if goes_on and before is not None and self.found is not None:
            self.found = replace(self.found, record=before.record)
        return goes_on


class NeverRaises(SessionState, eq=False):
    def conflict(
        self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None
    ) -> dict[str, Any] | None:
        self.config = replace(self.config, raises_on_conflict=False)
        return super().conflict(current, data, now, moved_to)


class SavedKeepsTheNotes(SessionState, eq=False):
    def saved(self, command: Create | Replace | Rotate, kept: Found) -> None:
        notes = self.next_id, self.expiry, self.identity
        super().saved(command, kept)
        self.next_id, self.expiry, self.identity = notes


class SavedKeepsTheUser(SessionState, eq=False):
    """Signs the user in again with each save, so that the session never reaches its end."""

    def saved(self, command: Create | Replace | Rotate, kept: Found) -> None:
        identity = self.identity
        super().saved(command, kept)
        self.identity = identity


class ForgetsNoIdentity(SessionState, eq=False):
    def forget(self, data: dict[str, Any]) -> None:
        identity = self.identity
        super().forget(data)
        self.identity = identity


class ForgetsNoExpiry(SessionState, eq=False):
    def forget(self, data: dict[str, Any]) -> None:
        expiry = self.expiry
        super().forget(data)
        self.expiry = expiry


class ForgetsNoData(SessionState, eq=False):
    def forget(self, data: dict[str, Any]) -> None:
        before = dict(data)
        super().forget(data)
        data |= before


class LostClearsTheCookie(SessionState, eq=False):
    def lost(self, data: dict[str, Any], moved_to: Found | None = None) -> bool:
        goes_on = super().lost(data, moved_to)
        self.cookie = Cookie.CLEAR
        return goes_on


class LostKeepsTheCookie(SessionState, eq=False):
    """Has set a cookie before it lost the session, and says so still."""

    def lost(self, data: dict[str, Any], moved_to: Found | None = None) -> bool:
        cookie, goes_on = self.cookie, super().lost(data, moved_to)
        self.cookie = cookie
        return goes_on


class BeginsAfterALoss(SessionState, eq=False):
    """Stores what was put in after the session was lost."""

    def lost(self, data: dict[str, Any], moved_to: Found | None = None) -> bool:
        goes_on = super().lost(data, moved_to)
        self.is_lost = False
        return goes_on


class BeginsForTheLate(SessionState, eq=False):
    """Begins a session for an id that was rotated a moment ago."""

    def loaded(self, result: Found | MissReason) -> dict[str, Any]:
        data = super().loaded(result)
        self.miss_reason = None
        return data


class BringsTheOldIdBack(SessionState, eq=False):
    """Was overtaken by a rotation with a grace, and sets the cookie that it has."""

    def conflict(
        self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None
    ) -> dict[str, Any] | None:
        cookie, merged = self.cookie, super().conflict(current, data, now, moved_to)
        if merged is not None:
            self.cookie = cookie
        return merged

    def rebase(self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None) -> bool:
        cookie, goes_on = self.cookie, super().rebase(current, data, now, moved_to)
        if goes_on:
            self.cookie = cookie
        return goes_on


class SetsTheCookieOfAnAlias(SessionState, eq=False):
    def saved(self, command: Create | Replace | Rotate, kept: Found) -> None:
        super().saved(command, kept)
        self.cookie = Cookie.SET


class TellsNoBrowser(SessionState, eq=False):
    def saved(self, command: Create | Replace | Rotate, kept: Found) -> None:
        super().saved(command, kept)
        self.cookie = Cookie.LEAVE


class LogsOutOnTheServerOnly(SessionState, eq=False):
    def deleted(self, data: dict[str, Any]) -> None:
        super().deleted(data)
        self.has_ended, self.cookie = False, Cookie.LEAVE


class Decides(SessionState, eq=False):
    """Decides as it should, and then turns the command into another one."""

    def command(self, data: dict[str, Any], now: int, by_hand: bool = False) -> Command:
        return self.instead_of(super().command(data, now, by_hand), by_hand)

    def instead_of(self, command: Command, by_hand: bool) -> Command:
        raise NotImplementedError


class KeepsTheOldId(Decides, eq=False):
    def instead_of(self, command: Command, by_hand: bool) -> Command:
        return replace(command, usable_until=10**9) if isinstance(command, Rotate) else command


class RotatesByCopying(Decides, eq=False):
    def instead_of(self, command: Command, by_hand: bool) -> Command:
        return Create(command.record, command.session_id) if isinstance(command, Rotate) else command


class DoesNotRotate(Decides, eq=False):
    def instead_of(self, command: Command, by_hand: bool) -> Command:
        return Replace(command.found, command.record) if isinstance(command, Rotate) else command


class SavesAtTheEndOnly(Decides, eq=False):
    def instead_of(self, command: Command, by_hand: bool) -> Command:
        return NOTHING if by_hand and isinstance(command, Replace) else command


class SeesNoChangeInside(SessionState, eq=False):
    def command(self, data: dict[str, Any], now: int, by_hand: bool = False) -> Command:
        same_keys = self.found is not None and self.stored().keys() == data.keys()
        return NOTHING if same_keys and self.next_id is None and not by_hand else super().command(data, now, by_hand)


class ClearsForTheDead(Decides, eq=False):
    """Tells a browser whose id leads nowhere to forget it, which may be a newer one by then."""

    def instead_of(self, command: Command, by_hand: bool) -> Command:
        return Nothing(Cookie.CLEAR) if command is NOTHING and self.found is None else command


class DropsTheSignIn(SessionState, eq=False):
    """Takes a sign-in for any other change that came too late, and says that it went well."""

    def lost(self, data: dict[str, Any], moved_to: Found | None = None) -> bool:
        self.identity = None
        return super().lost(data, moved_to)


class KeepsWhatWasEnded(SessionState, eq=False):
    """Signs in with the data that it has, whatever has become of the session."""

    def lost(self, data: dict[str, Any], moved_to: Found | None = None) -> bool:
        return super().lost(data, self.found)


class SignsInWithoutTheCart(SessionState, eq=False):
    def lost(self, data: dict[str, Any], moved_to: Found | None = None) -> bool:
        return super().lost(data)


class RotatesForTheOldId(SessionState, eq=False):
    """Gives the holder of an id in its grace period the session for good."""

    def command(self, data: dict[str, Any], now: int, by_hand: bool = False) -> Command:
        if self.found is not None and self.next_id is not None:
            self.found = replace(self.found, is_alias=False)
        return super().command(data, now, by_hand)


class SendsAnUnchangedId(SessionState, eq=False):
    """Sets the cookie whenever the session is renewed, and perhaps after another response has replaced the id."""

    def _told(self, record: Record, now: int) -> Record:
        return replace(record, told=deadline(record, self.config.policy))


USUAL = (
    races([*FEW, "rotates, saves and goes on", "signs in and out and leaves a message"], 2, config=ROLLING)
    + races(["reads", "sets a key", "clears", "changes inside", "logs out and leaves a message"], 2)
    + races(["saves and goes on", "rotates", "rotates with a grace", "logs out"], 2, config=ROLLING)
    + races(
        [
            "sets a key",
            "signs in, saves and goes on",
            "is remembered",
            "sets an expiry",
            "signs in, is refused and leaves a message",
        ],
        2,
    )
    + races(["sets a key", "rotates", "saves at once"], 2, time_passes=True)
    + races(["sets an expiry, saves and goes on", "rotates with a grace"], 2)
    + races(["reads", "rotates with a grace", "sets a key"], 2, config=ROTATING)
    + [race for race, _ in COUNTERS.values()]
)

WRONG: dict[Machine, set[str]] = {
    OverwritesOnConflict: {COUNTED, IN_ORDER, IT_ENDS, LATE, NO_UPDATE_IS_LOST, REPORTED, TOLD},
    MergesNoDeletions: {COUNTED, NO_UPDATE_IS_LOST},
    DropsItsOwnChanges: {NO_UPDATE_IS_LOST},
    RevivesTheLost: {A_LOGOUT_IS_FINAL, EXPIRED_STAYS, IN_ORDER, NO_OTHER, NO_UPDATE_IS_LOST},
    BelievesTheExpired: {IT_ENDS},
    KeepsTheOldRecord: {ITS_USER, TOLD},
    AdoptsNothing: {IT_ENDS},
    CountsOnWhatItHas: {COUNTED},
    NeverRaises: {REPORTED},
    SavedKeepsTheNotes: {NEW_IDS},
    SavedKeepsTheUser: {ITS_USER},
    ForgetsNoIdentity: {ITS_USER},
    ForgetsNoExpiry: {ITS_USER},
    ForgetsNoData: {NO_UPDATE_IS_LOST},
    LostClearsTheCookie: {IN_ORDER, THE_LOST_ARE_SILENT},
    LostKeepsTheCookie: {IN_ORDER, THE_LOST_ARE_SILENT},
    BeginsAfterALoss: {A_LOGOUT_IS_FINAL, COUNTED, IN_ORDER, NO_OTHER},
    BeginsForTheLate: {COUNTED, IN_ORDER},
    BringsTheOldIdBack: {IN_ORDER, LATE, TOLD},
    SetsTheCookieOfAnAlias: {IN_ORDER, LATE, TOLD},
    TellsNoBrowser: {IN_ORDER, TOLD},
    LogsOutOnTheServerOnly: {TOLD},
    KeepsTheOldId: {ROTATED_AWAY},
    RotatesByCopying: {A_LOGOUT_IS_FINAL, EXPIRED_STAYS, IN_ORDER, ITS_USER, NO_OTHER, NO_UPDATE_IS_LOST, ROTATED_AWAY},
    DoesNotRotate: {ROTATED_AWAY, TOLD},
    SavesAtTheEndOnly: {CONFIRMED},
    ClearsForTheDead: {IN_ORDER, THE_LOST_ARE_SILENT, TOLD},
    SeesNoChangeInside: {COUNTED, NO_UPDATE_IS_LOST, REPORTED},
    DropsTheSignIn: {SIGNED_IN},
    KeepsWhatWasEnded: {NO_UPDATE_IS_LOST},
    SignsInWithoutTheCart: {NO_UPDATE_IS_LOST},
    RotatesForTheOldId: {NONE_SIGNED_OUT},
    SendsAnUnchangedId: {TOLD},
}


@rows("machine", WRONG, ids=lambda machine: machine.__name__)
def test_a_wrong_machine_breaks_exactly_the_promises_that_its_mistake_concerns(machine: Machine) -> None:
    assert run(USUAL, machine)[1] == WRONG[machine]


def test_the_right_machine_keeps_all_promises_where_the_wrong_ones_are_tried() -> None:
    assert run(USUAL)[1] == set()


def test_each_promise_is_broken_by_a_wrong_machine() -> None:
    assert set().union(*WRONG.values()) == PROMISES
