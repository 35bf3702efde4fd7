"""The checker finds each way to break a promise, and accepts what only looks like one."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from tests.histories.checker import Rules, check
from tests.histories.history import Answer, History, Operation, Quiet, Seen
from tests.rows import rows

pytestmark = pytest.mark.once

GUEST = Seen("b0-1", None, "b0")
ANN = Seen("b0-1", "ann", "ann", "h1")
AGAIN = Seen("b0-1", "ann", "ann", "h2")
OTHER = Seen("b1-1", "ann", "ann", "h3")
BOB = Seen("b2-1", "bob", "bob", "h4")
EMPTY = {"color": None, "count": 0}


def op(kind: str, began: float, opened: Seen | None = None, **more: Any) -> Operation:
    """An operation that was answered one second later, with the session as it was opened."""
    told = {name: more.pop(name) for name in ("left", "value", "cookie") if name in more and kind != "set"}
    left = told.get("left", opened)
    about = left or opened or Seen("b0-1")
    fields = {"browser": about.name.split("-")[0], "name": about.name, "token": "t1", "user": about.user or ""}
    if kind in ("get", "replay"):
        told["value"] = {**EMPTY, **told.get("value", {})}
    answer = Answer(opened, left, told.get("value"), told.get("cookie"))
    return Operation(kind, began, **{"ended": began + 1, "answer": answer, **fields, **more})


def unanswered(kind: str, began: float, seen: Seen, ended: float = inf, **more: Any) -> Operation:
    return op(kind, began, seen, **{"ended": ended, "answer": None, **more})


def listed(began: float, *handles: str, user: str = "ann") -> Operation:
    return op("list", began, value=handles, user=user, token="")


SIGNED_IN = op("sign_in", 0, None, token="", left=ANN, cookie="t1")
ANOTHER = op("sign_in", 0, None, token="", left=OTHER, cookie="t3")
ROTATED = op("rotate", 2, ANN, cookie="t2")
SIGNED_OUT = op("sign_out", 2, ANN, left=None, cookie="")
REVOKED = op("revoke", 2, handle="h1", user="ann", token="", value=True)
REVOKED_ALL = op("revoke_all", 2, user="ann", token="", value=1)
REVOKED_OTHERS = op("revoke_others", 2, OTHER, token="t3", cookie="t4", value=1)

SENT_TWICE = [unanswered("sign_in", 2, GUEST, user="ann"), unanswered("sign_in", 2, GUEST, user="ann")]
"""What is done with the cookie after that may be done to the session or to a copy of it."""
MEANWHILE = {"began": 1.5, "opened": GUEST, "ended": 4}
"""Began before the sign-ins, so it is no copy that it reads."""

WRONG: list[tuple[str, list[Operation]]] = [
    ("a key is a register", [op("set", 0, ANN, key="color", value="v1"), op("get", 2, ANN)]),
    ("a key is a register", [op("get", 0, ANN, value={"color": "of another session"})]),
    (
        "a key is a register",
        [
            op("set", 0, ANN, key="color", value="v1"),
            op("rotate", 0.5, ANN, cookie="t2"),
            op("get", 2, ANN, token="t2"),
        ],
    ),
    ("counters are exact", [op("increment", 0, ANN, value=1), op("increment", 2, ANN, value=1)]),
    ("counters are exact", [op("increment", 0, ANN, value=1), op("get", 2, ANN)]),
    (
        "counters are exact",
        [*SENT_TWICE, op("increment", 2.5, GUEST, value=1), op("get", **MEANWHILE, value={"count": 2})],
    ),
    ("what is ended stays closed", [SIGNED_IN, SIGNED_OUT, op("replay", 4, ANN)]),
    ("what is ended stays closed", [SIGNED_IN, ROTATED, op("replay", 4, ANN)]),
    ("what is ended stays closed", [SIGNED_IN, op("sign_out", 2, ANN, left=None), op("replay", 4, ANN, token="t2")]),
    ("what is ended stays closed", [op("sign_out", 2, GUEST, left=None), op("replay", 4, GUEST, token="t2")]),
    ("what is ended stays closed", [SIGNED_IN, op("sign_in", 2, ANN, left=AGAIN, cookie="t2"), op("replay", 4, ANN)]),
    ("what is ended stays closed", [SIGNED_IN, REVOKED, op("replay", 4, ANN)]),
    ("what is ended stays closed", [SIGNED_IN, REVOKED_ALL, op("get", 4, ANN, token="t2")]),
    ("what is ended stays closed", [listed(0, "h1"), REVOKED_ALL, op("get", 4, ANN)]),
    ("what is ended stays closed", [SIGNED_IN, ANOTHER, REVOKED_OTHERS, op("get", 4, ANN)]),
    ("what is dead stays dead", [op("get", 0), op("get", 2, GUEST)]),
    ("what was not ended lives", [SIGNED_IN, op("get", 2)]),
    ("what was not ended lives", [SIGNED_IN, REVOKED_ALL, op("get", 4, ANN), op("get", 6)]),
    ("no one sees the data of another user", [op("get", 0, Seen("b0-1", "ann", "bob", "h1"))]),
    ("no one sees the data of another user", [op("get", 0, Seen("b1-1", None, "b0"), browser="b0")]),
    ("no one sees the data of another user", [SIGNED_IN, listed(2, "h1", user="bob")]),
    ("what is ended stays closed", [SIGNED_IN, REVOKED, op("set", 4, ANN, key="color", value="v1")]),
]


@rows("promise, operations", WRONG)
def test_a_history_that_breaks_a_promise_is_found(promise: str, operations: list[Operation]) -> None:
    assert promise in {one.promise for one in check(history_of(operations))}


RIGHT: list[list[Operation]] = [
    [op("set", 0, ANN, key="color", value="v1"), op("get", 2, ANN, value={"color": "v1"})],
    [unanswered("set", 0, ANN, key="color", value="v1"), op("get", 2, ANN)],
    [unanswered("set", 0, ANN, key="color", value="v1"), op("get", 2, ANN, value={"color": "v1"})],
    [
        op("set", 0, ANN, key="color", value="v1", confirms=False),
        op("rotate", 0.5, ANN, cookie="t2"),
        op("get", 2, ANN, token="t2"),
    ],
    [unanswered("increment", 0, ANN), op("get", 2, ANN, value={"count": 1})],
    [SIGNED_IN, op("get", 1.5, ANN), ROTATED, op("get", 2.5, ANN), op("get", 4, ANN, token="t2"), op("get", 4)],
    [SIGNED_IN, unanswered("sign_out", 2, ANN), op("get", 4, ANN), op("get", 6), op("get", 8)],
    [SIGNED_IN, SIGNED_OUT, op("get", 2.5, ANN), op("get", 4)],
    [SIGNED_IN, unanswered("rotate", 2, ANN, ended=6), REVOKED_ALL, listed(4, "h1")],  # until the rotation gives up
    [SIGNED_IN, REVOKED_ALL, op("sign_in", 4, left=AGAIN, cookie="t2"), op("get", 6, AGAIN, token="t2"), op("get", 6)],
    [SIGNED_IN, op("sign_in", 2.5, left=OTHER, cookie="t3"), REVOKED_ALL, op("get", 4, OTHER, token="t3")],
    [SIGNED_IN, ANOTHER, REVOKED_OTHERS, op("get", 4, OTHER, token="t4"), op("get", 4)],
    [SIGNED_IN, unanswered("revoke_all", 2, ANN), op("get", 4)],
    [SIGNED_IN, unanswered("rotate", 2, ANN, ended=3), op("get", 2.5)],
    [
        SIGNED_IN,
        unanswered("rotate", 2, ANN),
        op("sign_in", 2, ANN, left=AGAIN, cookie="t2"),
        op("set", 4, AGAIN, token="t2", key="color", value="v1"),
        op("get", 6, AGAIN, token="t2"),
    ],
    [*SENT_TWICE, op("set", 2.5, GUEST, key="color", value="v1"), op("get", **MEANWHILE, value={"color": "v1"})],
    [*SENT_TWICE, op("set", 2.5, GUEST, key="color", value="v1"), op("get", **MEANWHILE)],
    [
        op("set", 0, GUEST, key="color", value="v1"),
        *SENT_TWICE,
        op("delete", 2.5, GUEST, key="color"),
        op("get", **MEANWHILE),
    ],
    [*SENT_TWICE, op("increment", 2.5, GUEST, value=1), op("get", **MEANWHILE, value={"count": 1})],
    [*SENT_TWICE, op("increment", 2.5, GUEST, value=1), op("get", **MEANWHILE)],
    [SIGNED_IN, op("sign_in", 0, token="", left=BOB, cookie="t5"), op("get", 2, BOB, token="t5"), listed(2, "h1")],
]


@rows("operations", RIGHT)
def test_a_history_that_keeps_all_promises_is_accepted(operations: list[Operation]) -> None:
    assert check(history_of(operations)) == []


THREE = [ANN._replace(handle=f"h{at}") for at in range(3)]
SIGNED_IN_THREE_TIMES = [op("sign_in", at, token="", left=seen, cookie=f"t{at}") for at, seen in enumerate(THREE)]
THREE_LIVE = [op("replay", 10, seen, token=f"t{at}") for at, seen in enumerate(THREE)]

AT_REST: list[tuple[str | None, list[Operation]]] = [
    (None, [SIGNED_IN, op("replay", 10, ANN), listed(10, "h1")]),
    (None, [SIGNED_IN, REVOKED, op("replay", 10), listed(10)]),
    ("what lives is listed", [SIGNED_IN, op("replay", 10, ANN), listed(10)]),
    (
        "what is ended is not listed",
        [SIGNED_IN, unanswered("rotate", 2, ANN), REVOKED, op("replay", 10), listed(10, "h1")],
    ),
    ("what is listed lives", [SIGNED_IN, op("replay", 10), listed(10, "h1")]),
    ("what is listed lives", [SIGNED_IN, op("replay", 10, ANN), listed(10, "h1", "h9")]),
    (None, [SIGNED_IN, unanswered("sign_in", 2, AGAIN), op("replay", 10, ANN), listed(10, "h1", "h9")]),
    (None, [SIGNED_IN, unanswered("rotate", 2, ANN), op("replay", 10), listed(10, "h1")]),
    ("no user has too many sessions", [*SIGNED_IN_THREE_TIMES, *THREE_LIVE, listed(10, "h0", "h1", "h2")]),
]


@rows("promise, operations", AT_REST)
def test_when_all_is_quiet_the_list_of_a_user_is_what_lives(promise: str | None, operations: list[Operation]) -> None:
    found = {one.promise for one in check(history_of(operations, quiet=True), Rules(maximum=2))}
    assert found - {"what was not ended lives"} == ({promise} if promise else set())


EVERYONE = op("revoke_everyone", 2, user="", token="")
UNDONE = unanswered("sign_in", 0, GUEST, ended=3, user="ann")
OVERTOOK = op("revoke_all", 1, user="ann", token="", value=0)
COMES_BACK = [op("get", 1, left=None, token="t1"), op("get", 6, GUEST)]
OF_ANOTHER = [op("sign_in", 1, GUEST, left=Seen("b0-2", "bob", "bob", "h4"), cookie="t2"), op("get", 6, GUEST)]
"""A second sign-in with one cookie, which finds that the first has replaced it."""
CHANGED = unanswered("set", 3, GUEST, name="", key="color", value="v1")
"""The client took the session for ended, and has forgotten its name."""
COUNTED = unanswered("increment", 4, GUEST, name="")
SEEN_AGAIN = op("get", 6, GUEST, value={"color": "v1", "count": 1})
READ = op("get", 1.2, ANN, ended=1.8)
"""It has confirmed the sign-in, so that others like it write nothing."""
CROWDED = op("sign_in", 4, token="", left=OTHER, cookie="t3")
SLOW = op("sign_in", -1, token="", left=OTHER, cookie="t3", ended=5)
"""It may be saved after others that began later, and then evict them."""
AFTER = op("sign_in", 1, token="", left=ANN, cookie="t1")
MOVED = op("get", 1.5, ANN, cookie="t2")
"""The id was replaced without being asked for."""

SET: list[tuple[str | None, Rules, list[Operation]]] = [
    (None, Rules(puts_back=True), [UNDONE, OVERTOOK, *COMES_BACK]),
    ("what is dead stays dead", Rules(), [UNDONE, OVERTOOK, *COMES_BACK]),
    ("what is dead stays dead", Rules(puts_back=True), [UNDONE, replace(OVERTOOK, user="bob"), *COMES_BACK]),
    ("what is dead stays dead", Rules(puts_back=True), [UNDONE, *COMES_BACK]),
    (None, Rules(puts_back=True), [UNDONE, OVERTOOK, *OF_ANOTHER]),
    ("what is ended stays closed", Rules(), [UNDONE, OVERTOOK, *OF_ANOTHER]),
    ("what is ended stays closed", Rules(puts_back=True), [UNDONE, *OF_ANOTHER]),
    (None, Rules(puts_back=True), [UNDONE, OVERTOOK, op("get", 1, left=None), CHANGED, COUNTED, SEEN_AGAIN]),
    (None, Rules(), [SIGNED_IN, EVERYONE, op("get", 4, ANN), op("increment", 6)]),
    (None, Rules(), [SIGNED_IN, op("sign_in", 4, left=OTHER, cookie="t3"), EVERYONE, op("set", 6, OTHER, token="t3")]),
    ("what is ended stays closed", Rules(), [SIGNED_IN, EVERYONE, op("increment", 4, ANN, value=1)]),
    ("what is ended stays closed", Rules(checks_epoch=True), [SIGNED_IN, EVERYONE, op("get", 4, ANN)]),
    ("what was not ended lives", Rules(), [EVERYONE, op("sign_in", 4, token="", left=ANN, cookie="t1"), op("get", 6)]),
    (None, Rules(checks_epoch=True), [SIGNED_IN, READ, EVERYONE, op("get", 6)]),
    ("what was not ended lives", Rules(), [SIGNED_IN, READ, EVERYONE, op("get", 4, ANN), op("get", 6)]),
    ("what was not ended lives", Rules(2, evicts=False), [SIGNED_IN, READ, EVERYONE, CROWDED, op("get", 6)]),
    (None, Rules(1, evicts=False), [SIGNED_IN, READ, EVERYONE, CROWDED, op("get", 6)]),
    ("what was not ended lives", Rules(1, evicts=False), [SIGNED_IN, READ, CROWDED, op("get", 6)]),
    (None, Rules(1), [SLOW, SIGNED_IN, op("get", 2, ANN), op("get", 4)]),
    (None, Rules(1), [replace(SLOW, ended=inf, answer=None), SIGNED_IN, op("get", 2, ANN), op("get", 4)]),
    ("what was not ended lives", Rules(2), [SLOW, SIGNED_IN, op("get", 2, ANN), op("get", 4)]),
    ("what was not ended lives", Rules(1), [replace(SLOW, ended=0.5), AFTER, op("get", 4)]),
    (None, Rules(grace=9), [SIGNED_IN, MOVED, op("get", 2, ANN), op("get", 10)]),
    ("what was not ended lives", Rules(grace=9), [SIGNED_IN, MOVED, op("get", 4)]),
    (None, Rules(grace=9), [SIGNED_IN, MOVED, op("rotate", 2, ANN, cookie="t3"), op("get", 4, ANN)]),
    ("what is ended stays closed", Rules(grace=9), [SIGNED_IN, ROTATED, op("get", 4, ANN)]),
    (None, Rules(is_sealed=True), [op("increment", 0, GUEST, value=1), op("increment", 2, GUEST, value=1)]),
    (None, Rules(is_sealed=True), [op("set", 0, GUEST, key="color", value="v1"), op("get", 2, GUEST)]),
    (None, Rules(is_sealed=True), [op("sign_out", 2, GUEST, left=None), op("replay", 4, GUEST)]),
    ("what is ended stays closed", Rules(is_sealed=True), [SIGNED_IN, SIGNED_OUT, op("replay", 4, ANN)]),
]


@rows("promise, rules, operations", SET)
def test_what_the_application_is_set_to_decides_what_is_promised(
    promise: str | None, rules: Rules, operations: list[Operation]
) -> None:
    assert {one.promise for one in check(history_of(operations), rules)} == ({promise} if promise else set())


@rows(
    "promise, began, seconds",
    [(None, 9, 60), ("what is ended is not listed", 9, 0), ("what is ended is not listed", 300, 60)],
)
def test_a_list_shows_what_an_interrupted_rotation_leaves_for_a_minute(
    promise: str | None, began: float, seconds: float
) -> None:
    history = history_of([SIGNED_IN, unanswered("rotate", 2, ANN), REVOKED, listed(began, "h1")])
    history.quiets.append(Quiet(began, began + 2))
    assert {one.promise for one in check(history, Rules(shown_for=seconds))} == ({promise} if promise else set())


def test_a_maximum_that_a_failing_store_has_exceeded_is_kept_by_the_next_sign_in() -> None:
    failed = unanswered("get", 2, BOB)
    excess = [op("replay", 10, THREE[0], token="t0"), listed(10, "h0", "h1", "h2")]

    def promises(*operations: Operation) -> set[str]:
        return {one.promise for one in check(history_of([*operations, *excess], quiet=True), Rules(maximum=2))}

    assert "no user has too many sessions" not in promises(*SIGNED_IN_THREE_TIMES, failed)
    later = op("sign_in", 6, token="", left=ANN, cookie="t9")
    assert "no user has too many sessions" in promises(*SIGNED_IN_THREE_TIMES, failed, later)


AT_QUIET = [op("replay", 10, ANN), listed(10, "h1")]
WROTE = op("increment", 15, ANN, value=1)

QUIET: list[tuple[str | None, list[Operation]]] = [
    ("what was not ended lives", [SIGNED_IN, unanswered("revoke", 2, ANN), *AT_QUIET, WROTE, op("get", 20)]),
    # It may have given the user another epoch, and ended nothing besides.
    (None, [SIGNED_IN, READ, unanswered("revoke_all", 2, ANN), *AT_QUIET, WROTE, op("get", 20)]),
    ("what was not ended lives", [SIGNED_IN, READ, unanswered("revoke_all", 2, ANN), *AT_QUIET, op("get", 20)]),
    ("what was not ended lives", [SIGNED_IN, READ, unanswered("revoke_all", 2, BOB), *AT_QUIET, WROTE, op("get", 20)]),
    (
        "what was not ended lives",
        [SIGNED_IN, READ, op("revoke_all", 0, user="ann", token="", value=0), *AT_QUIET, WROTE, op("get", 20)],
    ),
    (
        "what was not ended lives",
        [
            unanswered("revoke_everyone", 2, ANN, user="", token=""),
            op("sign_in", 13, token="", left=ANN, cookie="t1"),
            WROTE,
            op("get", 20),
        ],
    ),
]


@rows("promise, operations", QUIET)
def test_what_happened_before_a_quiet_time_explains_nothing_after_it_but_an_epoch(
    promise: str | None, operations: list[Operation]
) -> None:
    assert [one.promise for one in check(history_of(operations, quiet=True))] == ([promise] if promise else [])


def test_an_answer_that_no_one_may_get_is_a_violation_that_is_shown() -> None:
    history = history_of([SIGNED_IN])
    history.broken.append("500 to sign_in")
    (found,) = check(history)
    assert str(found) == "answers are as documented: 500 to sign_in"


def test_a_violation_shows_what_was_asked_and_answered() -> None:
    (found,) = check(history_of([SIGNED_IN, SIGNED_OUT, op("replay", 4, ANN)]))
    assert "sign_out b0-1 t1" in str(found)
    assert "opened b0-1 of ann (h1)" in str(found)


def history_of(operations: list[Operation], *, quiet: bool = False) -> History:
    numbered = [Operation(**{**vars(one), "number": number}) for number, one in enumerate(operations)]
    return History(numbered, [Quiet(9, 12)] if quiet else [])
