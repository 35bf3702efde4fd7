"""One request's session, without a loop: every fact, request and command of `core/state.py`.

Each rule of the essay in that module has a test here. What several machines do to each other is in
`test_state_races.py`.
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from copy import copy, deepcopy
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from starsessions.core.decision import Cookie
from starsessions.core.merge import same_items
from starsessions.core.record import Expiry, Found, Identity, MissReason, Policy
from starsessions.core.serializer import PlainJson
from starsessions.core.snapshot import snapshot
from starsessions.core.state import (
    DISCARD,
    NOTHING,
    Command,
    Create,
    Delete,
    Nothing,
    Phase,
    Replace,
    Rotate,
    SessionState,
)
from starsessions.exceptions import BackendUnavailable, ResponseStarted, SessionConflict, SessionTooLarge
from starsessions.lifecycle.request_state import RequestState
from tests.core.machines import FOREVER, MSGPACK, NOW, RULES, found_with, machine, record_of, rules
from tests.rows import rows

ANN = Identity("ann", NOW, "ann's-handle")
BOB = Identity("bob", NOW, "bob's-handle")
LATER = NOW + 100
DAY = 24 * 60 * 60

ROLLING = rules(Policy(max_age=1000, rolling=True))
ROTATING = rules(Policy(max_age=10_000, rotate_every=100, rotate_grace=30))


# Facts: loaded


@rows("kind", [SessionState, RequestState])
def test_no_id_and_no_cookie_is_in_what_a_tool_prints_of_local_variables(kind: type[SessionState]) -> None:
    state = kind(config=RULES, explicit_id="by-hand", next_id="secret", found=found_with({"a": 1}, "secret"))
    if isinstance(state, RequestState):
        state.headers = [(b"cookie", b"session=secret")]
    create, rotate = Create(record_of({}), "secret"), Rotate(found_with({}), record_of({}), "secret", 0)
    assert repr([state, create, rotate]) == f"[<{kind.__name__}>, <Create>, <Rotate>]"
    assert state.__rich_repr__() == create.__rich_repr__() == rotate.__rich_repr__() == []


def test_what_was_found_is_the_data() -> None:
    found = found_with({"a": [1]})
    state = SessionState(config=RULES)

    assert state.loaded(found) == {"a": [1]}
    assert (state.is_loaded, state.found, state.miss_reason) == (True, found, None)


@rows("why", MissReason)
def test_where_nothing_was_found_the_session_is_empty_and_knows_why(why: MissReason) -> None:
    state = SessionState(config=RULES)

    assert state.loaded(why) == {}
    assert (state.is_loaded, state.found, state.miss_reason) == (True, None, why)


class Whatever:
    """A serializer of the application, whose `loads` does anything."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def loads(self, payload: Any) -> Any:
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def dumps(self, data: dict[str, Any]) -> Any:
        return b""


UNREADABLE = [ZeroDivisionError(), None, [1], "text", OrderedDict(a=1)]


@rows("result", UNREADABLE, ids=repr)
def test_a_record_that_cannot_be_read_is_ignored(result: Any) -> None:
    state = SessionState(config=rules(serializer=Whatever(result)))

    assert state.loaded(found_with(b"")) == {}
    assert (state.found, state.miss_reason) == (None, MissReason.UNDECODABLE)


# Facts: saved

TOLD = found_with({"a": 1}, told=LATER)
SAVES: list[tuple[str, Found, type, Found, Cookie]] = [
    # what, what was found, the command, what is kept, the cookie
    ("with the same end", TOLD, Replace, found_with({"a": 2}, version=2, told=LATER), Cookie.LEAVE),
    ("with another end", TOLD, Replace, found_with({"a": 2}, version=2, told=LATER + 99), Cookie.SET),
    ("until the browser is closed", TOLD, Replace, found_with({"a": 1}, version=2, told=0), Cookie.SET),
    ("with a new token", TOLD, Replace, found_with({"a": 2}, "sealed-anew", told=LATER), Cookie.SET),
    ("under a new id", TOLD, Rotate, found_with({"a": 1}, "new", told=LATER), Cookie.SET),
    ("under the same id, anew", TOLD, Rotate, TOLD, Cookie.SET),
]


def carried_out(kind: type, found: Found, kept: Found) -> Replace | Rotate:
    return Replace(found, kept.record) if kind is Replace else Rotate(found, kept.record, kept.token, 0)


@rows(("what", "found", "kind", "kept", "cookie"), SAVES, ids=[row[0] for row in SAVES])
def test_a_save_sets_the_cookie_only_if_the_browser_has_another_one(
    what: str, found: Found, kind: type, kept: Found, cookie: Cookie
) -> None:
    state, _ = machine(found)

    state.saved(carried_out(kind, found, kept), kept)

    assert state.cookie is cookie
    assert state.found == kept


def test_a_new_session_sets_the_cookie() -> None:
    state, _ = machine()
    kept = found_with({"a": 1})

    state.saved(Create(kept.record, None), kept)

    assert (state.cookie, state.found) == (Cookie.SET, kept)


def test_a_cookie_that_is_due_stays_due_when_the_next_save_needs_none() -> None:
    state, _ = machine()
    first, second = found_with({"a": 1}), found_with({"a": 2}, version=2)

    state.saved(Create(first.record, None), first)
    state.saved(Replace(first, second.record), second)

    assert (state.cookie, state.found) == (Cookie.SET, second)


@rows("note", [{"next_id": "new"}, {"expiry": Expiry(60)}, {"identity": ANN}], ids=str)
def test_what_was_asked_for_is_forgotten_when_it_is_saved(note: dict[str, Any]) -> None:
    state, data = machine({"a": 1}, **note)
    kept = found_with({"a": 1}, "new", lifetime=60, identity=ANN)

    state.saved(Rotate(found_with({"a": 1}), kept.record, "new", 0), kept)

    assert (state.next_id, state.expiry, state.identity) == (None, None, None)
    assert state.command(data, NOW) == NOTHING


def test_what_another_task_asked_for_since_the_decision_is_still_to_be_done() -> None:
    found = found_with({"a": 1})
    state, data = machine(found)
    data["a"] = 2
    state.touched = {"a": None}
    decided = state.command(data, NOW)
    assert isinstance(decided, Replace)

    state.sign_in(ANN, "new", Expiry(60))  # while the store is waited for
    state.saved(decided, Found("id", decided.record, 2))

    rotation = state.command(data, NOW)
    assert isinstance(rotation, Rotate)
    assert (rotation.session_id, rotation.record.identity, rotation.record.lifetime) == ("new", ANN, 60)
    state.saved(rotation, Found("new", rotation.record, 3))
    assert state.command(data, NOW) == NOTHING


def test_a_session_that_is_found_at_a_second_look_is_neither_missing_nor_lost() -> None:
    state, data = machine(MissReason.UNAVAILABLE)
    state.lost(data)

    data = state.loaded(found_with({"a": 1}))

    assert (data, state.miss_reason, state.is_lost) == ({"a": 1}, None, False)
    state.check_known()


ENDS_AT = NOW + 10**6  # by the policy of these tests
TO_TELL: list[tuple[str, dict[str, Any], dict[str, Any], int]] = [
    # what, the record, the state, and until when the browser keeps its cookie by what is stored
    ("told of nearly this end", {"told": ENDS_AT - 99_999}, {}, ENDS_AT - 99_999),
    ("told of a much earlier end", {"told": ENDS_AT - 100_000}, {}, ENDS_AT),
    ("told of a later end", {"told": ENDS_AT + 100_000}, {}, ENDS_AT),
    ("told by another release", {}, {}, ENDS_AT),
    ("told that it ends with the browser", {"told": 0}, {}, ENDS_AT),
    ("told of an end, and now it ends with the browser", {"told": ENDS_AT}, {"expiry": Expiry(browser=True)}, 0),
    ("told that it ends with the browser, as it does", {"told": 0, "browser": True}, {}, 0),
    ("asked for a little more", {"told": ENDS_AT}, {"expiry": Expiry(10**6 + 9)}, ENDS_AT),
    ("asked for much less", {"told": ENDS_AT}, {"expiry": Expiry(60)}, NOW + 60),
    ("the headers are sent", {}, {"phase": Phase.BY_HAND}, -1),
]


@rows(("what", "record", "fields", "told"), TO_TELL)
def test_a_write_notes_until_when_the_browser_keeps_its_cookie(
    what: str, record: dict[str, Any], fields: dict[str, Any], told: int
) -> None:
    state, data = machine(found_with({"a": 1}, **record), rules(FOREVER, sends_ids=True), **fields)
    data["a"] = 2
    state.touched = {"a": None}

    command = state.command(data, NOW)

    assert isinstance(command, Replace)
    assert command.record.told == told, what


def test_a_new_id_is_always_told_and_an_old_one_in_its_grace_never() -> None:
    state, data = machine(found_with({"a": 1}, told=ENDS_AT + 1), rules(FOREVER, sends_ids=True), next_id="new")
    command = state.command(data, NOW)
    assert isinstance(command, Rotate)
    assert command.record.told == ENDS_AT

    state, data = machine(
        found_with({"a": 1}, is_alias=True), rules(FOREVER, sends_ids=True), modified=True, exposed=True
    )
    data["a"] = 2
    late = state.command(data, NOW)
    assert isinstance(late, Replace)
    assert late.record.told == -1


@rows(
    ("before", "after", "identity", "is_bare"),
    [
        ({}, {"__csrf__x": "a"}, None, True),
        ({}, {"__csrf__x": "a", "__flash__1.x": ["a"]}, None, True),
        ({}, {"__csrf__x": "a", "cart": 1}, None, False),
        ({}, {"__csrf__x": "a"}, ANN, False),
        ({"__csrf__x": "a"}, {"__csrf__x": "b"}, None, True),
        ({"__csrf__x": "a"}, {"__csrf__x": "a", "cart": 1}, None, False),
        ({"__csrf__x": "a", "cart": 1}, {"__csrf__x": "a"}, None, True),
        ({"__csrf__x": "a", 1: 1}, {"__csrf__x": "a", 1: 2}, None, False),
        ({"cart": 1}, {}, None, False),
    ],
)
def test_a_session_with_nothing_but_the_librarys_own_keys_is_bare(
    before: dict[str, Any], after: dict[str, Any], identity: Identity | None, is_bare: bool
) -> None:
    bare = bool(before) and all(str(key).startswith("__") for key in before)
    loads = found_with(before, is_bare=bare) if before else None
    state, data = machine(loads, rules(FOREVER, sends_ids=True), modified=True)
    if identity is not None:
        state.sign_in(identity, "new", None)
    state.removed = bool(before.keys() - after.keys())
    state.touched = dict.fromkeys(before | after)
    data.clear()
    data |= after

    command = state.command(data, NOW, by_hand=True)

    assert isinstance(command, Create | Replace)
    assert command.record.is_bare is is_bare


def test_a_session_in_a_cookie_is_not_marked_as_bare() -> None:
    state, data = machine(None, rules(FOREVER, sends_ids=False), modified=True)
    data["__csrf__x"] = "a"

    command = state.command(data, NOW, by_hand=True)

    assert isinstance(command, Create)
    assert command.record.is_bare is False


@rows("loads", [None, {"cart": "small"}])
def test_a_session_over_the_maximum_is_not_saved_and_its_largest_keys_are_named(loads: Any) -> None:
    state, data = machine(loads, rules(FOREVER, max_size=100), modified=True, exposed=True)
    data |= {"cart": "x" * 90, "user": "ann"}
    with pytest.raises(
        SessionTooLarge, match=r"would take \d+ bytes; max_size allows 100\. Largest keys: 'cart' \(\d+ "
    ):
        state.command(data, NOW)
    del data["user"]
    assert isinstance(state.command(data, NOW), Create | Replace)


# Facts: deleted, lost


def with_notes(**fields: Any) -> tuple[SessionState, dict[str, Any]]:
    """A machine of which everything has been asked for, and the data."""
    notes = {"explicit_id": "by-hand", "next_id": "new", "expiry": Expiry(60), "identity": ANN, "models": [print]}
    return machine({"a": 1}, **notes, cookie=Cookie.SET, **fields)


def test_a_request_that_lost_its_session_begins_another_one_only_if_it_asks_for_an_id() -> None:
    """The browser has been told of the other request's id, and a new session would push that one out."""
    state, data = machine({"a": 1}, modified=True)
    state.lost(data)
    data["flash"] = "too late"
    assert state.command(data, NOW) == state.command(data, NOW, True) == DISCARD

    state.sign_in(ANN, "new", None)
    command = state.command(data, NOW)
    assert isinstance(command, Create)
    kept = Found("new", command.record)
    state.saved(command, kept)

    assert (state.found, state.is_lost, state.cookie) == (kept, False, Cookie.SET)


def lose(state: SessionState, data: dict[str, Any]) -> None:
    """Lose the session when no sign-in is pending."""
    state.identity = None
    assert not state.lost(data)


ENDS = {"deleted": SessionState.deleted, "lost": lose, "forget": SessionState.forget}


@rows("ends", ENDS)
def test_nothing_that_was_known_or_asked_for_holds_for_the_session_that_follows(ends: str) -> None:
    state, data = with_notes()

    ENDS[ends](state, data)

    assert data == {}
    assert (state.found, state.explicit_id, state.next_id, state.expiry, state.identity) == (None,) * 5
    assert (state.session_id, state.user, state.stored(), list(state.models)) == (None, None, {}, [])
    data["b"] = 2
    state.is_lost = False  # or what follows would be dropped
    assert state.command(data, LATER) == Create(record_of({"b": 2}, LATER), None)


def test_a_session_that_this_request_ended_clears_the_cookie() -> None:
    state, data = with_notes()

    state.deleted(data)

    assert (state.cookie, state.has_ended, state.is_lost, state.modified) == (Cookie.CLEAR, True, False, True)
    assert state.command(data, NOW) == Nothing(Cookie.CLEAR)


def test_a_session_that_was_ended_elsewhere_leaves_the_cookie_alone() -> None:
    state, data = with_notes()

    lose(state, data)

    assert (state.cookie, state.has_ended, state.is_lost) == (Cookie.LEAVE, False, True)
    assert state.command(data, NOW) == NOTHING


OF_ANN, OF_BOB = found_with({"b": 5}, "other", identity=ANN), found_with({"b": 5}, "other", identity=BOB)


@rows(
    ("moved_to", "kept"),
    [
        (None, {"new": 3}),  # ended
        (OF_ANN, {"a": 2, "new": 3}),  # the same form, sent twice
        (OF_BOB, {"new": 3}),  # another person
        (found_with({"b": 5}, "other"), {"a": 2, "new": 3}),  # only its id has changed
    ],
)
def test_a_pending_sign_in_gets_a_session_of_its_own_when_the_one_that_it_was_to_replace_is_lost(
    moved_to: Found | None, kept: dict[str, Any]
) -> None:
    """What was stored under another id since then is in none of them: the holder of an old id gains nothing."""
    state, data = machine({"a": 1}, cookie=Cookie.SET, models=[print])
    state.sign_in(ANN, "new id", Expiry(60))
    data |= {"a": 2, "new": 3}

    assert state.conflict(None, data, NOW, moved_to) == kept
    assert (state.found, state.cookie, state.is_lost) == (None, Cookie.LEAVE, True)
    assert bool(state.models) is ("a" in kept)
    created = state.command(data, LATER)
    assert created == Create(record_of(kept, LATER, lifetime=60, identity=ANN), "new id")
    state.saved(created, Found("new id", created.record))
    assert (state.cookie, state.is_lost, state.identity, state.next_id) == (Cookie.SET, False, None, None)


@rows(("asks", "command"), [(False, DISCARD), (True, Create(record_of({"a": 1}, LATER, identity=ANN), "new id"))])
def test_an_id_in_its_grace_period_rotates_nothing_and_a_sign_in_with_it_is_another_session(
    asks: bool, command: Command
) -> None:
    state, data = machine(found_with({"a": 1}, is_alias=True, identity=ANN, began_at=NOW - 5), ROTATING)
    if asks:
        state.sign_in(ANN, "new id", None)
    else:
        state.rotate("new id", grace=60)

    assert state.command(data, LATER) == state.command(data, LATER, True) == command


def test_the_data_of_the_session_that_the_same_form_has_replaced_is_added_to_what_is_there() -> None:
    state, data = machine(MissReason.JUST_ROTATED)
    data["a"] = 2

    state.take_along(MSGPACK.dumps({"a": 1, "b": 1}), data)
    assert data == {"a": 2, "b": 1}

    for garbage in (b"\xc1", MSGPACK.dumps({"c": 1})[1:]):
        state.take_along(garbage, data)
    assert data == {"a": 2, "b": 1}


def test_forgetting_alone_says_nothing_to_the_browser() -> None:
    state, data = with_notes()

    state.forget(data)

    assert (state.cookie, state.has_ended, state.is_lost) == (Cookie.SET, False, False)


# Facts: conflict

NOT_ALIVE = {
    "nothing is stored": None,
    "it has expired": found_with({"a": 2}, at=NOW - FOREVER.max_age),
    "it is from the future": found_with({"a": 2}, at=NOW + DAY),
    "it cannot be read": found_with(b"\xc1"),
    "it is no dict": found_with(b"\x93\x01\x02\x03"),
}


@rows("what", NOT_ALIVE)
def test_a_conflict_with_nothing_that_lives_is_a_lost_session(what: str) -> None:
    state, data = machine({"a": 1}, cookie=Cookie.SET, next_id="new")
    data["b"] = 1

    assert state.conflict(NOT_ALIVE[what], data, NOW) is None
    assert (state.is_lost, state.found, state.cookie, data) == (True, None, Cookie.LEAVE, {})
    assert (state.identity, state.next_id) == (None, None)


MERGES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], bool]] = [
    # what was done to {"a": 1, "b": [1]}, its data, the stored data, the result, whether both have changed a key
    ("set another key", {"a": 1, "b": [1], "c": 3}, {"a": 2, "b": [1]}, {"a": 2, "b": [1], "c": 3}, False),
    ("delete another key", {"b": [1]}, {"a": 1, "b": [2]}, {"b": [2]}, False),
    ("changed inside", {"a": 1, "b": [1, 2]}, {"a": 2, "b": [1]}, {"a": 2, "b": [1, 2]}, False),
    ("changed the type", {"a": True, "b": [1]}, {"a": 1, "b": [2]}, {"a": True, "b": [2]}, False),
    ("nothing", {"a": 1, "b": [1]}, {"c": 1}, {"c": 1}, False),
    ("the same", {"a": 2, "b": [1]}, {"a": 2, "b": [1]}, {"a": 2, "b": [1]}, False),
    ("set the same key", {"a": 2, "b": [1]}, {"a": 3, "b": [1]}, {"a": 2, "b": [1]}, True),
    ("set what they deleted", {"a": 2, "b": [1]}, {"b": [1]}, {"a": 2, "b": [1]}, True),
    ("deleted what they set", {"b": [1]}, {"a": 2, "b": [1]}, {"b": [1]}, True),
    ("cleared", {}, {"a": 1, "b": [1], "c": 1}, {"c": 1}, False),
]


@rows(("what", "ours", "theirs", "merged", "both"), MERGES, ids=[row[0] for row in MERGES])
@rows("raises", [False, True], ids=["merge", "raise"])
def test_a_conflict_applies_what_was_set_and_deleted_to_what_is_stored_now(
    raises: bool, what: str, ours: dict[str, Any], theirs: dict[str, Any], merged: dict[str, Any], both: bool
) -> None:
    before, current = found_with({"a": 1, "b": [1]}), found_with(theirs, version=2, identity=BOB)
    state, _ = machine(before, rules(raises_on_conflict=raises), cookie=Cookie.SET, expiry=Expiry(60))

    if raises and both:
        with pytest.raises(SessionConflict):
            state.conflict(current, ours, NOW)
        assert state.found == before
        return
    assert state.conflict(current, ours, NOW) == merged
    assert (state.found, state.is_lost, state.cookie, state.expiry) == (current, False, Cookie.SET, Expiry(60))


@rows("is_alias", [False, True])
@rows("said", [Cookie.SET, Cookie.LEAVE])
def test_a_request_that_was_overtaken_by_a_rotation_does_not_bring_the_old_id_back(
    is_alias: bool, said: Cookie
) -> None:
    current = found_with({"a": 1}, version=2, is_alias=is_alias)
    merging, ours = machine({"a": 1}, cookie=said)
    updating, data = machine({"a": 1}, cookie=said)

    merging.conflict(current, ours, NOW)
    assert updating.rebase(current, data, NOW)

    for state in (merging, updating):
        assert (state.found, state.cookie) == (current, Cookie.LEAVE if is_alias else said)


@rows("what", NOT_ALIVE)
def test_a_change_that_is_to_be_made_anew_is_lost_where_nothing_lives(what: str) -> None:
    state, data = machine({"a": 1}, cookie=Cookie.SET, next_id="new")

    assert not state.rebase(NOT_ALIVE[what], data, NOW)
    assert (state.is_lost, state.found, state.cookie, state.next_id, data) == (True, None, Cookie.LEAVE, None, {})

    state, data = machine({"a": 1}, identity=ANN, next_id="new")
    assert state.rebase(NOT_ALIVE[what], data, NOW)
    assert (state.is_lost, state.found, state.identity, data) == (True, None, ANN, {})


def test_a_change_that_is_to_be_made_anew_keeps_what_was_asked_for() -> None:
    state, data = machine({"a": 1}, expiry=Expiry(60))

    assert state.rebase(found_with({"b": 2}, version=2), data, NOW)
    assert (state.stored(), state.expiry, data) == ({"b": 2}, Expiry(60), {"a": 1})


def test_after_a_conflict_the_decision_is_made_on_what_is_stored_now() -> None:
    state, data = machine({"flash": 1}, modified=True, exposed=True)
    del data["flash"]
    assert state.command(data, NOW) == Delete(found_with({"flash": 1}))
    current = found_with({"flash": 1, "b": 1}, version=2, identity=BOB, began_at=NOW - 5)

    merged = state.conflict(current, data, NOW)

    assert merged == {"b": 1}
    assert state.command(merged, LATER) == Replace(current, replace(current.record, payload=MSGPACK.dumps({"b": 1}),
                                                                    renewed_at=LATER))  # fmt: skip


def test_an_id_that_the_application_chose_and_that_was_filled_meanwhile_is_merged_with() -> None:
    state, data = machine(MissReason.UNKNOWN, explicit_id="by-hand")
    data["a"] = 1
    assert state.command(data, NOW) == Create(record_of({"a": 1}), "by-hand")

    assert state.conflict(found_with({"b": 2}, "by-hand"), data, NOW) == {"a": 1, "b": 2}


# Commands: values

COMMANDS = [
    NOTHING,
    DISCARD,
    Create(record_of({}), None),
    Replace(found_with({}), record_of({})),
    Rotate(found_with({}), record_of({}), None, 0),
    Delete(found_with({})),
]


def test_commands_and_rules_are_values_that_cannot_be_changed() -> None:
    """All requests share some of them: one that could be changed would change what another request does."""
    assert {type(command) for command in COMMANDS} == set(get_args(Command))
    for value in [*COMMANDS, RULES]:
        for field in [*value.__struct_fields__, "another"]:
            with pytest.raises(AttributeError):
                setattr(value, field, None)


# Commands: where nothing lives

BEGINNINGS: list[tuple[str, MissReason, dict[str, Any], dict[str, Any], Any]] = [
    # what, why nothing lives, the machine's fields, the data, the command
    ("a visitor who leaves no data", MissReason.NO_COOKIE, {}, {}, NOTHING),
    ("a visitor with data", MissReason.NO_COOKIE, {}, {"a": 1}, Create(record_of({"a": 1}), None)),
    ("an id and no data", MissReason.NO_COOKIE, {"next_id": "new"}, {}, NOTHING),
    ("an expiry and no data", MissReason.EXPIRED, {"expiry": Expiry(60)}, {}, NOTHING),
    ("by hand", MissReason.NO_COOKIE, {"by_hand": True}, {}, Create(record_of({}), None)),
    ("a user", MissReason.NO_COOKIE, {"identity": ANN, "next_id": "new"}, {},
     Create(record_of({}, identity=ANN), "new")),
    ("an expiry", MissReason.UNKNOWN, {"expiry": Expiry(None, LATER)}, {"a": 1},
     Create(record_of({"a": 1}, until=LATER), None)),
    ("a browser session", MissReason.UNKNOWN, {"expiry": Expiry(browser=True)}, {"a": 1},
     Create(record_of({"a": 1}, browser=True), None)),
    ("an id of the application's", MissReason.UNKNOWN, {"explicit_id": "mine"}, {"a": 1},
     Create(record_of({"a": 1}), "mine")),
    ("a new id in its place", MissReason.UNKNOWN, {"explicit_id": "mine", "next_id": "new"}, {"a": 1},
     Create(record_of({"a": 1}), "new")),
    ("a logout", MissReason.UNKNOWN, {"has_ended": True}, {}, Nothing(Cookie.CLEAR)),
    ("a logout and a message", MissReason.UNKNOWN, {"has_ended": True}, {"a": 1}, Create(record_of({"a": 1}), None)),
    ("an id that was just rotated", MissReason.JUST_ROTATED, {}, {}, NOTHING),
    ("an id that was just rotated, and data", MissReason.JUST_ROTATED, {}, {"a": 1}, DISCARD),
    ("an id that was just rotated, by hand", MissReason.JUST_ROTATED, {"by_hand": True}, {}, DISCARD),
    ("an id that was just rotated, and a new one", MissReason.JUST_ROTATED, {"next_id": "new"}, {"a": 1},
     Create(record_of({"a": 1}), "new")),
    ("a session that was lost", MissReason.UNKNOWN, {"is_lost": True}, {}, NOTHING),
    ("a session that was lost, and data", MissReason.UNKNOWN, {"is_lost": True}, {"a": 1}, DISCARD),
    ("a session that was lost, by hand", MissReason.UNKNOWN, {"is_lost": True, "by_hand": True}, {}, DISCARD),
    ("a session that was lost, and a new id", MissReason.UNKNOWN, {"is_lost": True, "next_id": "new"}, {"a": 1},
     Create(record_of({"a": 1}), "new")),
    ("an id that was rotated long ago", MissReason.ROTATED, {}, {"a": 1}, Create(record_of({"a": 1}), None)),
]  # fmt: skip


@rows(("what", "why", "fields", "put_in", "expected"), BEGINNINGS, ids=[b[0] for b in BEGINNINGS])
def test_a_session_begins_when_there_is_something_to_keep(
    what: str, why: MissReason, fields: dict[str, Any], put_in: dict[str, Any], expected: Any
) -> None:
    by_hand = fields.get("by_hand", False)
    state, data = machine(why, **{name: value for name, value in fields.items() if name != "by_hand"})
    data |= put_in

    command = state.command(data, NOW, by_hand)

    assert command == expected
    # Only the empty command is recognized by being the same object: see lifecycle/saving.py.
    assert (command is NOTHING) == (expected is NOTHING)


# Commands: where a session lives


def test_a_session_that_was_only_read_is_left_alone() -> None:
    state, data = machine({"a": [1]}, exposed=True)

    assert state.command(data, LATER) is NOTHING


@rows("seen", [{"touched": {"b": None}}, {"exposed": True}], ids=str)
def test_a_change_is_a_replacement_that_renews(seen: dict[str, Any]) -> None:
    found = found_with({"a": [1]}, identity=ANN, lifetime=DAY, rotated_at=NOW)
    state, data = machine(found, **seen)
    data["b"] = 1

    expected = record_of({"a": [1], "b": 1}, began_at=NOW, renewed_at=LATER, identity=ANN, lifetime=DAY, rotated_at=NOW)
    assert state.command(data, LATER) == Replace(found, expected)


@rows("seen", [{"touched": {"a": None}}, {"exposed": True}], ids=str)
def test_the_keys_of_the_session_in_another_order_are_no_change(seen: dict[str, Any]) -> None:
    state, data = machine({"a": 1, "b": 2}, **seen)
    data["a"] = data.pop("a")
    assert list(data) == ["b", "a"]

    assert state.command(data, LATER) is NOTHING


@rows(("before", "after"), [(1, True), (1, 1.0), ((1,), [1]), (Decimal("1.0"), Decimal("1.00"))])
def test_an_equal_value_of_another_type_is_a_change(before: Any, after: Any) -> None:
    state, data = machine({"a": before}, modified=True, touched={"a": None})
    data["a"] = after

    assert isinstance(state.command(data, NOW), Replace)


def test_what_was_handed_out_is_compared_only_then() -> None:
    state, data = machine({"a": [1]})
    data["a"].append(2)
    assert state.command(data, NOW) is NOTHING  # it was not handed out, so that it cannot have changed

    state.exposed = True

    assert isinstance(state.command(data, NOW), Replace)


def test_a_default_that_was_handed_out_is_no_part_of_the_session() -> None:
    state, data = machine({"a": 1})

    state.hand_out("b", data)

    assert state.is_settled


def test_nothing_is_remembered_where_all_is_compared() -> None:
    state, data = machine({"a": [1]})
    state.expose()

    state.hand_out("a", data)

    assert state.touched is None
    assert state.holds


def test_keys_that_are_equal_and_stored_differently_are_a_change() -> None:
    # The text makes the payload look as if Python's json had written it, so that all of it has to be compared.
    state, data = machine({1: "x", "text": "a: b"}, touched={True: None})
    del data[1]  # type: ignore[arg-type]
    data[True] = "x"  # type: ignore[index]

    assert isinstance(state.command(data, NOW), Replace)


def test_a_list_that_another_thread_takes_while_the_session_is_saved_is_no_error() -> None:
    def takes_another(value: Any) -> bytes | None:
        state.config = RULES
        state.hand_out("b", data)
        return snapshot(value)

    state, data = machine({"a": [1], "b": [1]})
    state.hand_out("a", data)
    state.config = replace(RULES, snapshot=takes_another)

    assert state.command(data, NOW) is NOTHING

    data["b"].append(2)
    assert isinstance(state.command(data, NOW), Replace)


def test_the_data_of_the_session_before_is_saved_also_if_this_one_is_saved_already() -> None:
    state, data = machine({"a": 1})

    state.take_along(MSGPACK.dumps({"cart": [1]}), data)

    assert isinstance(state.command(data, NOW), Replace)


def test_a_session_over_the_maximum_can_be_read() -> None:
    state, data = machine({"cart": ["x" * 90]}, rules(max_size=50))

    state.hand_out("cart", data)

    assert state.command(data, NOW) is NOTHING


def test_what_changes_after_a_save_by_hand_is_compared_key_by_key() -> None:
    state, data = machine({"a": 1, "b": 1}, phase=Phase.BY_HAND)
    state.check_change()
    state.touched = {"a": None}
    data["a"], data["b"] = 2, "changed without a word"

    command = state.command(data, NOW)

    assert isinstance(command, Replace)
    assert state.config.loads(command.record.payload) == {"a": 2, "b": 1}


def test_an_anonymous_session_that_was_emptied_ends() -> None:
    found = found_with({"a": 1})
    state, data = machine(found, modified=True, exposed=True, next_id="new", expiry=Expiry(60))
    data.clear()

    assert state.command(data, LATER) == Delete(found)


@rows("who", ["was signed in before", "signs in now"])
def test_a_session_of_a_user_that_was_emptied_stays(who: str) -> None:
    if who == "signs in now":
        state, data = machine({"a": 1}, modified=True, exposed=True)
        state.sign_in(ANN, "new", None)
    else:
        state, data = machine(found_with({"a": 1}, identity=ANN), modified=True, exposed=True)
    data.clear()

    command = state.command(data, NOW)

    assert isinstance(command, Replace | Rotate)
    assert (command.record.payload, command.record.identity) == (MSGPACK.dumps({}), ANN)


def test_an_empty_session_that_is_stored_stays_if_nothing_changed() -> None:
    state, data = machine({}, modified=True)

    assert state.command(data, LATER) is NOTHING


def test_by_hand_everything_is_saved_whether_or_not_it_changed() -> None:
    for before, after in [({"a": 1}, {"a": 1}), ({"a": 1}, {}), ({}, {})]:
        found = found_with(before)
        state, data = machine(found, exposed=True)
        data.clear()
        data |= after

        assert state.command(data, LATER, True) == Replace(found, record_of(after, began_at=NOW, renewed_at=LATER))


def test_by_hand_a_rotation_that_was_asked_for_is_one() -> None:
    state, data = machine({"a": 1}, next_id="new")

    assert isinstance(state.command(data, NOW, True), Rotate)


@rows(
    ("expiry", "changes"),
    [
        (Expiry(60), False),
        (Expiry(), True),
        (Expiry(61), True),
        (Expiry(None, LATER), True),
        (Expiry(browser=True), True),
    ],
)
def test_an_expiry_that_was_asked_for_is_written_if_it_is_another(expiry: Expiry, changes: bool) -> None:
    found = found_with({"a": 1}, lifetime=60)
    state, data = machine(found, modified=True, expiry=expiry)

    expected = Replace(found, record_of({"a": 1}, **expiry._asdict())) if changes else NOTHING
    assert state.command(data, NOW) == expected


def test_a_renewal_that_is_due_is_a_replacement_by_the_same_data() -> None:
    found = found_with({"a": 1})
    state, data = machine(found, ROLLING)

    assert state.command(data, NOW + 99) is NOTHING
    assert state.command(data, NOW + 100) == Replace(found, replace(found.record, renewed_at=NOW + 100))


def test_use_alone_renews_nothing_where_sessions_do_not_roll() -> None:
    state, data = machine({"a": 1}, rules(Policy(max_age=1000)))

    assert state.command(data, NOW + 999) is NOTHING


# Commands: rotation


def test_a_rotation_that_was_asked_for_keeps_the_data() -> None:
    found = found_with({"a": 1}, identity=ANN, lifetime=60)
    state, data = machine(found)

    state.rotate("new")

    record = record_of({"a": 1}, began_at=NOW, renewed_at=LATER, rotated_at=LATER, identity=ANN, lifetime=60)
    assert (state.session_id, state.modified) == ("new", True)
    assert state.command(data, LATER) == Rotate(found, record, "new", 0)


def test_a_rotation_carries_what_was_changed_before_it() -> None:
    state, data = machine({"a": 1}, modified=True, exposed=True)
    data["a"] = 2
    state.rotate("new")

    command = state.command(data, NOW)

    assert isinstance(command, Rotate)
    assert command.record.payload == MSGPACK.dumps({"a": 2})


def test_the_last_rotation_that_was_asked_for_counts() -> None:
    state, data = machine({"a": 1}, ROTATING)

    state.rotate("one", grace=10)
    command = state.command(data, NOW)
    assert isinstance(command, Rotate)
    assert (command.session_id, command.usable_until) == ("one", NOW + 10)

    state.rotate("other")
    command = state.command(data, NOW + 100)
    assert isinstance(command, Rotate)
    assert (command.session_id, command.usable_until) == ("other", 0), "the grace of another rotation, or the policy's"


DUE: list[tuple[str, dict[str, Any], Phase, int, bool]] = [
    # what, fields of what was found, the phase, seconds later, whether it is rotated
    ("the id is young", {}, Phase.OPEN, 99, False),
    ("the id is old", {}, Phase.OPEN, 100, True),
    ("the id is old, while saving", {}, Phase.SAVING, 100, True),
    ("it was rotated since it began", {"began_at": NOW - 100}, Phase.OPEN, 100, True),
    ("it was rotated a moment ago", {"began_at": NOW - 100, "rotated_at": NOW}, Phase.OPEN, 99, False),
    ("the request brought the id before it", {"is_alias": True}, Phase.OPEN, 100, False),
    ("the headers have been sent", {}, Phase.CLOSED, 100, False),
    ("the headers have been sent, by hand", {}, Phase.BY_HAND, 100, False),
    ("saving has failed", {}, Phase.FAILED, 100, False),
]


@rows(("what", "fields", "phase", "after", "rotates"), DUE, ids=[row[0] for row in DUE])
def test_an_old_id_is_rotated_while_the_browser_can_be_told(
    what: str, fields: dict[str, Any], phase: Phase, after: int, rotates: bool
) -> None:
    found = found_with({"a": 1}, **fields)
    state, data = machine(found, ROTATING, phase=phase)
    now = NOW + after

    if rotates:
        record = replace(found.record, renewed_at=now, rotated_at=now)
        assert state.command(data, now) == Rotate(found, record, None, now + 30)
    else:
        assert state.command(data, now) is NOTHING


def test_without_a_grace_in_the_policy_an_old_id_ends_at_once() -> None:
    state, data = machine({"a": 1}, rules(Policy(rotate_every=100)))

    command = state.command(data, LATER)

    assert isinstance(command, Rotate)
    assert command.usable_until == 0


# Requests: sign in

SIGN_INS: list[tuple[str, Expiry, Expiry | None, Expiry | None, Expiry]] = [
    # what, how it expires, what the handler has asked for, what the sign-in asks for, how it expires then
    ("what was promised at the last sign-in ends", Expiry(DAY), None, None, Expiry()),
    ("the sign-in asks to be remembered", Expiry(), None, Expiry(DAY), Expiry(DAY)),
    ("what the handler asked for stays", Expiry(), Expiry(60), None, Expiry(60)),
    ("the sign-in has the last word", Expiry(), Expiry(60), Expiry(DAY), Expiry(DAY)),
]


@rows(("what", "before", "asked", "wanted", "then"), SIGN_INS, ids=[row[0] for row in SIGN_INS])
def test_a_sign_in_is_a_rotation_that_starts_the_lifetime_anew(
    what: str, before: Expiry, asked: Expiry | None, wanted: Expiry | None, then: Expiry
) -> None:
    found = found_with({"a": 1}, identity=BOB, **before._asdict())
    state, data = machine(found, expiry=asked, grace=60)

    state.sign_in(ANN, "new", wanted)

    record = record_of({"a": 1}, LATER, rotated_at=LATER, identity=ANN, **then._asdict())
    assert (state.user, state.session_id, state.is_settled) == (ANN, "new", False)
    assert state.command(data, LATER) == Rotate(found, record, "new", 0)


def test_only_a_sign_in_starts_the_lifetime_anew() -> None:
    state, data = machine(found_with({"a": 1}, identity=ANN), modified=True, expiry=Expiry(60), next_id="new")
    data["a"] = 2

    command = state.command(data, LATER)

    assert isinstance(command, Rotate)
    assert (command.record.began_at, command.record.identity) == (NOW, ANN)


# Settled


UNSETTLED: list[dict[str, Any]] = [
    {"modified": True},
    {"touched": {}},
    {"exposed": True},
    {"config": ROLLING},
    {"config": ROTATING},
]


def test_a_session_that_was_not_touched_is_settled() -> None:
    state, _ = machine({"a": [1]}, rules(Policy(absolute_timeout=DAY)), accessed=True)

    assert state.is_settled


@rows("fields", UNSETTLED, ids=lambda fields: next(iter(fields)))
def test_a_session_that_may_need_a_write_is_not_settled(fields: dict[str, Any]) -> None:
    state, _ = machine({"a": 1}, **{"config": RULES, **fields})

    assert not state.is_settled


@rows(
    "ask",
    [
        lambda state: state.rotate("new"),
        lambda state: state.expire(Expiry()),
        lambda state: state.sign_in(ANN, "new", None),
    ],
)
def test_a_session_that_was_asked_for_something_is_not_settled(ask: Callable[[SessionState], None]) -> None:
    state, _ = machine({"a": 1})
    ask(state)

    assert not state.is_settled
    assert state.has_requests


def test_where_nothing_lives_nothing_is_settled() -> None:
    state, _ = machine()

    assert not state.is_settled


# Unsaved


def test_unsaved_is_what_differs_from_the_last_save() -> None:
    rows: list[tuple[dict[str, Any] | None, dict[str, Any], Expiry | None, bool]] = [
        (None, {}, None, False),
        (None, {}, Expiry(60), False),
        (None, {"a": 1}, None, True),
        ({"a": 1}, {"a": 1}, None, False),
        ({"a": 1}, {"a": 1}, Expiry(), False),
        ({"a": 1}, {"a": 1}, Expiry(60), True),
        ({"a": 1}, {"a": 2}, None, True),
        ({"a": 1}, {"a": True}, None, True),
        ({"a": 1}, {}, None, True),
        ({"a": [1], "b": 2}, {"b": 2, "a": [1]}, None, False),
        ({"a": {1, 2}}, {"a": {2, 1}}, None, False),
    ]
    for before, after, expiry, unsaved in rows:
        state, data = machine(before, expiry=expiry, exposed=True)
        data.clear()
        data |= after
        assert state.has_unsaved(data) is unsaved, (before, after, expiry)


# What may be done now

LIVES, SEALED, NEW = "lives in a store", "lives in the cookie", "is new"
REACHABLE: dict[str, bool] = {LIVES: True, SEALED: False, NEW: False}


def a_machine_that(what: str, **fields: Any) -> SessionState:
    state, _ = machine(None if what == NEW else {"a": 1}, rules(is_client_side=what == SEALED), **fields)
    return state


@rows("what", REACHABLE)
def test_a_session_in_a_store_can_be_saved_without_a_new_cookie(what: str) -> None:
    state = a_machine_that(what)

    assert state.is_reachable is REACHABLE[what]
    if REACHABLE[what]:
        state.check_reachable()
    else:
        with pytest.raises(ResponseStarted, match="needs a new cookie"):
            state.check_reachable()


@rows("what", REACHABLE)
@rows("phase", Phase)
def test_a_change_is_refused_when_it_could_not_be_saved(phase: Phase, what: str) -> None:
    state = a_machine_that(what, phase=phase)
    if phase is Phase.OPEN:
        error = None
    elif not REACHABLE[what]:
        error = "needs a new cookie"
    else:
        error = None if phase is Phase.BY_HAND else "save by hand"

    if error is None:
        state.check_change()
    else:
        with pytest.raises(ResponseStarted, match=error):
            state.check_change()

    # What is changed by hand is compared again when the application has returned.
    assert state.holds is (phase is Phase.BY_HAND and REACHABLE[what])


@rows("phase", Phase)
def test_a_new_id_is_refused_once_the_headers_are_on_their_way(phase: Phase) -> None:
    state = a_machine_that(LIVES, phase=phase)

    if phase is Phase.OPEN:
        state.check_sendable()
    else:
        with pytest.raises(ResponseStarted, match="can no longer reach the browser"):
            state.check_sendable()


CHECKS = {
    "known": SessionState.check_known,
    "change": SessionState.check_change,
    "sendable": SessionState.check_sendable,
}


@rows("check", CHECKS)
@rows("phase", Phase)
@rows("why", MissReason)
def test_a_session_that_may_well_exist_is_not_changed(why: MissReason, phase: Phase, check: str) -> None:
    state, _ = machine(why, phase=phase)

    if why is MissReason.UNAVAILABLE:
        with pytest.raises(BackendUnavailable):
            CHECKS[check](state)
    elif phase is Phase.OPEN:
        CHECKS[check](state)


# What is known


def test_the_id_is_the_one_that_was_asked_for_or_that_it_has_or_that_the_application_chose() -> None:
    assert machine()[0].session_id is None
    assert machine(explicit_id="mine")[0].session_id == "mine"
    assert machine({}, explicit_id="mine")[0].session_id == "id"
    assert machine({}, explicit_id="mine", next_id="new")[0].session_id == "new"


def test_the_user_is_the_one_who_signs_in_or_who_is_signed_in() -> None:
    assert machine()[0].user is None
    assert machine({})[0].user is None
    assert machine(found_with({}, identity=BOB))[0].user is BOB
    assert machine(found_with({}, identity=BOB), identity=ANN)[0].user is ANN
    assert machine(identity=ANN)[0].user is ANN


def test_what_is_stored_is_a_copy() -> None:
    state, data = machine({"a": [1]})

    state.stored()["a"].append(2)

    assert state.stored() == data == {"a": [1]}
    assert machine()[0].stored() == {}


def test_a_session_is_alive_until_its_deadline() -> None:
    state, _ = machine(config=rules(Policy(max_age=100, absolute_timeout=150)))

    assert state.rebase(found_with({}), {}, NOW + 99)
    assert not state.rebase(found_with({}), {}, NOW + 100)
    assert not state.rebase(found_with({}, began_at=NOW, renewed_at=NOW + 100), {}, NOW + 150)


# Properties

plain = st.sampled_from([None, False, True, 0, 1, 2, "", "1", "\xc7"])
others = st.sampled_from([1.0, b"1", Decimal(1), (1,), {1, 2}, [], [1], {"a": 1}, {"b": [{}]}])
sessions = st.dictionaries(st.sampled_from("abcd"), plain | others, max_size=4)
json_sessions = st.dictionaries(
    st.sampled_from("abcd"), plain | st.sampled_from([1.5, [], [1], {"a": 1}, "NaN"]), max_size=4
)
SERIALIZERS = [MSGPACK, PlainJson()]


@st.composite
def stored_payloads(draw: st.DrawFn) -> bytes:
    """Bytes as we, or Starlette, have written them."""
    how = draw(st.sampled_from(["ours", "the library's as JSON", "Starlette's"]))
    if how == "ours":
        return MSGPACK.dumps(draw(sessions))
    data = draw(json_sessions)
    return PlainJson().dumps(data) if how == "the library's as JSON" else json.dumps(data).encode()


MISSING = object()


def set_item(state: SessionState, data: dict[str, Any], key: str, value: Any) -> None:
    """Set or delete an item, tracked as TrackedDict does."""
    state.modified = True
    state.touched = {**(state.touched or {}), key: None}
    if value is MISSING:
        state.removed = True
        data.pop(key, None)
        return
    state.holds = state.holds or type(value) not in (str, int, bool, type(None))
    data[key] = value


def change_inside(value: Any, item: Any) -> None:
    """Change a list or dict in one of several ways, some of which leave it equal, or in another order."""
    if type(value) is dict:
        first = next(iter(value), "a")
        value[first] = value.pop(first, item) if item is None else item
    elif value:
        value[0] = item
    else:
        value.append(item)


@st.composite
def changed_machines(draw: st.DrawFn) -> tuple[SessionState, dict[str, Any]]:
    """A machine that has loaded a session, and what a handler has made of the data, tracked as TrackedDict does."""
    identity = draw(st.none() | st.just(ANN))
    found = found_with(draw(stored_payloads()), identity=identity)
    state, data = machine(found, rules(serializer=draw(st.sampled_from(SERIALIZERS))))
    for _ in range(draw(st.integers(0, 5))):
        key = draw(st.sampled_from("abcd"))
        match draw(st.sampled_from(["set", "delete", "put back", "look inside", "change inside", "alias"])):
            case "set":
                set_item(state, data, key, deepcopy(draw(plain | others)))
            case "delete":
                set_item(state, data, key, MISSING)
            case "put back" if key in data:
                value = data[key]
                set_item(state, data, key, MISSING)
                set_item(state, data, key, value)
            case "look inside":
                state.hand_out(key, data)
            case "change inside" if type(data.get(key)) in (list, dict):
                state.hand_out(key, data)
                change_inside(data[key], deepcopy(draw(plain | others)))
            case "alias" if type(data.get(key)) in (list, dict):
                state.hand_out(key, data)
                set_item(state, data, "a", data[key])
            case _:
                pass
    return state, data


@given(changed_machines())
def test_the_quick_comparisons_decide_as_the_plain_one_does(changed: tuple[SessionState, dict[str, Any]]) -> None:
    state, data = changed
    slow = copy(state)
    slow.modified = slow.exposed = True
    slow.config = replace(state.config, differs_for_sure=lambda payload, base: False)

    command = state.command(data, LATER)

    slowly = slow.command(data, LATER)
    assert type(command) is type(slowly)
    assert state.found is not None
    if same_items(state.stored(), data):
        assert command is NOTHING
    elif not data and state.found.record.identity is None:
        assert command == Delete(state.found)
    else:
        assert isinstance(command, Replace)
        assert same_items(state.config.loads(command.record.payload), data)
    assert state.has_unsaved(data) is (command is not NOTHING)


@st.composite
def any_machines(draw: st.DrawFn) -> tuple[SessionState, dict[str, Any]]:
    """A machine in any condition."""
    policy = Policy(
        max_age=draw(st.sampled_from([100, 1000])),
        rolling=draw(st.booleans()),
        rotate_every=draw(st.none() | st.just(50)),
        rotate_grace=draw(st.sampled_from([0, 10])),
    )
    config = rules(policy, is_client_side=draw(st.booleans()), raises_on_conflict=draw(st.booleans()))
    loads: Found | MissReason = draw(
        st.sampled_from(MissReason)
        | st.builds(
            found_with,
            sessions,
            is_alias=st.booleans(),
            identity=st.none() | st.just(BOB),
            lifetime=st.none() | st.just(60),
        )
    )
    flags = ["modified", "exposed", "removed", "has_ended", "is_lost"]
    fields: dict[str, Any] = {flag: draw(st.booleans()) for flag in flags}
    state, _ = machine(loads, config, **fields)
    state.phase = draw(st.sampled_from(Phase))
    state.explicit_id, state.next_id = draw(st.none() | st.just("mine")), draw(st.none() | st.just("new"))
    state.grace = draw(st.sampled_from([0, 10]))
    state.expiry = draw(st.none() | st.just(Expiry()) | st.just(Expiry(60)))
    state.identity = draw(st.none() | st.just(ANN))
    return state, draw(sessions)


@given(any_machines(), st.integers(0, 120), st.booleans())
def test_a_command_comes_of_the_state_and_the_data_and_the_time_and_changes_none_of_them(
    any_machine: tuple[SessionState, dict[str, Any]], seconds: int, by_hand: bool
) -> None:
    state, data = any_machine
    before, twin = asdict(state), SessionState(**asdict(state))
    now, data_before = NOW + seconds, deepcopy(data)

    command = state.command(data, now, by_hand)

    assert asdict(state) == before
    assert same_items(data, data_before)
    assert state.command(data, now, by_hand) == command
    assert twin.command(data_before, now, by_hand) == command
    if isinstance(command, Create | Replace | Rotate):
        assert command.record.renewed_at == now
    if isinstance(command, Replace | Rotate | Delete):
        assert command.found is state.found
