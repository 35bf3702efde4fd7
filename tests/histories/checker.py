"""Decides whether a history keeps what is promised of sessions. Each promise is a function that yields violations."""

from bisect import bisect, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

from tests.histories.history import COUNT, Answer, History, Operation, Quiet, Seen
from tests.histories.registers import Step, miscounted, unexplained

SETS, MOVES = ("set", "delete"), ("rotate", "sign_in")
LATE = 10
"""Seconds that a request may take from its beginning to its last write."""
NEAR = 2
"""Seconds in which another request finds out that the store fails, too."""
WHOLE = 0.1
"""Seconds by which a grace period may be shorter, since the library counts in whole seconds of its clock."""
WITH_COOKIE = ("begin", "get", "replay", *SETS, "increment", *MOVES, "sign_out", "revoke_others")


class Violation(NamedTuple):
    promise: str
    text: str
    shown_by: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join([f"{self.promise}: {self.text}", *map(str, self.shown_by)])


@dataclass(frozen=True)
class Rules:
    """What the application was set to."""

    maximum: int | None = None
    """`max_sessions_per_user`."""
    evicts: bool = True
    """Whether a sign-in at the maximum ends another session. Otherwise it is refused."""
    checks_epoch: bool = False
    """Whether the end of all sessions of all users shows at the next load, and not only at the next write."""
    is_sealed: bool = False
    """Whether the cookie holds the session, and the store only who is signed in."""
    grace: float | None = None
    """The seconds for which an id still works that was replaced without being asked for; None: none is replaced."""
    shown_for: float = 0
    """For how many seconds a list may show the new entry of an interrupted rotation; 0: it is all or nothing."""
    puts_back: bool = False
    """Whether an anonymous session is put back whose sign-in was stored and then overtaken: the store carries out the
    writes of a sign-in at once, and cannot make them depend on the epoch, which is read at the same time."""


def check(history: History, rules: Rules = Rules()) -> list[Violation]:
    """Return all violations, those at quiet times included."""
    found = [Violation("answers are as documented", text) for text in history.broken]
    promises: list[Callable[[History, Rules], Iterator[Violation]]] = [
        registers,
        counters,
        ended_stays_closed,
        ended_is_not_written,
        dead_stays_dead,
        lives_until_ended,
        own_data_only,
    ]
    for promise in promises:
        found += promise(history, rules)
    for quiet in history.quiets:
        found += at_rest(history, quiet, rules)
    return found


# Data


def registers(history: History, rules: Rules) -> Iterator[Violation]:
    """Each key of each session is a linearizable register. (What the cookie holds has as many copies as there are.)"""
    if rules.is_sealed:
        return
    steps: dict[tuple[str, str], list[Step]] = defaultdict(list)
    moves, names = _moves(history), _names(history)
    for one in history.operations:
        name = _name(one, names)
        is_copied = _is_copied(one, moves[name])
        if one.kind in SETS:
            dropped = is_copied or (not one.confirms and any(_overlap(one, move) for move in moves[name]))
            sure = one.answer is not None and one.answer.opened is not None and not dropped
            value = one.value if one.kind == "set" else None
            steps[name, one.key].append(Step(one.began, one.ended if sure else inf, True, value, one.number))
        elif one.kind in ("get", "replay") and one.answer and one.answer.opened and not is_copied:
            for key, value in one.answer.value.items():
                if key != COUNT:
                    steps[name, key].append(Step(one.began, one.ended, False, value, one.number))
    for (name, key), of_register in steps.items():
        if stuck := unexplained(of_register):
            yield Violation("a key is a register", f"{key} of {name}", _around(history, stuck, of_register))


def counters(history: History, rules: Rules) -> Iterator[Violation]:
    """Each counter is exact: every confirmed increment counts once, and one without an answer at most once."""
    if rules.is_sealed:
        return
    steps: dict[str, list[Step]] = defaultdict(list)
    moves, names = _moves(history), _names(history)
    for one in history.operations:
        opened, name = one.answer.opened if one.answer else None, _name(one, names)
        is_copied = _is_copied(one, moves[name])
        if one.kind == "increment":
            value = one.answer.value if one.answer and opened else None
            sure = opened and not is_copied
            steps[name].append(Step(one.began, one.ended if sure else inf, True, value, one.number))
        elif one.kind in ("get", "replay") and one.answer and opened and not is_copied:
            steps[name].append(Step(one.began, one.ended, False, one.answer.value[COUNT], one.number))
    for name, of_counter in steps.items():
        if wrong := miscounted(of_counter):
            yield Violation("counters are exact", name, _around(history, wrong[:1], of_counter))


def _names(history: History) -> dict[str, str]:
    """By token: the session that it has opened."""
    names: dict[str, str] = {}
    for one, answer in history.answered():
        if answer.opened:
            names[one.token] = answer.opened.name
        if answer.left and answer.token:
            names[answer.token] = answer.left.name
    return names


def _name(one: Operation, names: dict[str, str]) -> str:
    """Return the session that a request has changed or read, or may have.

    A client that was told that it has no session forgets its name, and a request without an answer may open it again:
    one that was put back after its sign-in was overtaken.
    """
    if one.answer and one.answer.opened:
        return one.answer.opened.name
    return one.name or names.get(one.token, "")


def _moves(history: History) -> dict[str, list[Operation]]:
    """By session: what may have given it another id."""
    moves: dict[str, list[Operation]] = defaultdict(list)
    names = _names(history)
    for one in history.operations:
        if one.kind in (*MOVES, "revoke_others"):
            moves[_name(one, names)].append(one)
    return moves


def _is_copied(one: Operation, moves: Sequence[Operation]) -> bool:
    """Return whether the data may be a copy: a sign-in, and another request without an answer, gave it a new id each.

    The sign-in then begins a session of its own, with the data as it had loaded them. What such a request reads says
    nothing of the session, and what it writes may be written to the session, or to the copy.
    """
    unanswered = [move for move in moves if move.answer is None]
    return any(
        move.kind == "sign_in"
        and move.began <= one.began
        and any(move is not by and _overlap(move, by) for by in unanswered)
        for move in moves
    )


def _overlap(one: Operation, other: Operation) -> bool:
    return one.began <= other.ended and other.began <= one.ended


def _around(history: History, stuck: Iterable[Step], steps: Iterable[Step]) -> tuple[Operation, ...]:
    """The operations at which it fails, and the writes before them."""
    stuck = list(stuck)
    end = max(min(one.ended, one.began + 1) for one in stuck)
    numbers = {one.number for one in sorted(steps, key=lambda one: one.began) if one.began <= end and one.writes}
    shown = {one.number for one in stuck} | set(sorted(numbers)[-6:])
    return tuple(one for one in history.operations if one.number in shown)


# The ends of sessions


def ended_stays_closed(history: History, rules: Rules) -> Iterator[Violation]:
    """What was ended opens by no cookie that was ever handed out, once the end was answered."""
    closed: dict[tuple[str, str], Operation] = {}
    for what, by in _closed(history, rules):
        if what not in closed or by.ended < closed[what].ended:
            closed[what] = by
    for one, answer in history.answered():
        if (opened := answer.opened) is None:
            continue
        ways = [("token", one.token), ("handle", opened.handle or ""), ("name", opened.name)]
        ends = [closed[way] for way in ways if way in closed and closed[way].ended < one.began]
        by = next((end for end in ends if not _is_undone(history, end, opened, rules)), None)
        if by is not None:
            yield Violation("what is ended stays closed", f"{one.token} of {opened.name}", (by, one))


def ended_is_not_written(history: History, rules: Rules) -> Iterator[Violation]:
    """What was signed in before the sessions of all users were ended is not written any more, if it can be read."""
    _, seen_at, _ = _handles(history)
    ends = [one for one, _ in history.answered("revoke_everyone")]
    for one, answer in history.answered("set", "increment", "rotate"):
        handle = answer.left.handle if answer.left and one.confirms else None
        by = next((by for by in ends if by.ended < one.began and seen_at.get(handle or "", inf) < by.began), None)
        if by is not None:
            yield Violation("what is ended stays closed", f"{one.token} was written", (by, one))


def _closed(history: History, rules: Rules) -> Iterator[tuple[tuple[str, str], Operation]]:
    """Each token, sign-in or anonymous session that may not open any more, and the operation after which it may not."""
    _, seen_at, of_user = _handles(history)
    replaced = _replaced(history, rules)
    for one, answer in history.answered():
        opened = answer.opened
        if rules.is_sealed and opened and not opened.user:
            continue  # the store knows nothing of it
        # An id in its grace period replaces nothing.
        if (
            one.kind in (*MOVES, "revoke_others")
            and opened
            and answer.token
            and replaced.get(one.token, inf) > one.ended
        ):
            yield ("token", one.token), one
        if one.kind == "sign_out":  # with an id that was rotated away, it does not end the session that has the new one
            yield ("token", one.token), one
            if opened is not None:
                yield ("handle", opened.handle) if opened.handle else ("name", opened.name), one
        handles: set[str] = set()
        if one.kind == "revoke":
            handles = {one.handle}
        elif one.kind == "revoke_all":
            handles = of_user[one.user]
        elif one.kind == "revoke_everyone" and rules.checks_epoch:
            handles = set(seen_at)
        elif one.kind == "revoke_others" and opened and opened.user:
            handles = of_user[opened.user] - {opened.handle}
        for handle in handles:
            if seen_at.get(handle, inf) < one.began:
                yield ("handle", handle), one


def _replaced(history: History, rules: Rules) -> dict[str, float]:
    """The tokens that may have been replaced without being asked for, and since when."""
    since: dict[str, float] = {}
    for one in history.operations if rules.grace is not None else ():
        asked = one.kind in (*MOVES, "sign_out") or (one.kind == "revoke_others" and one.answer and _user(one.answer))
        if one.token and one.kind in WITH_COOKIE and not asked and (one.answer is None or one.answer.token):
            since[one.token] = min(since.get(one.token, inf), one.began)
    return since


def _user(answer: Answer) -> str | None:
    return answer.opened.user if answer.opened else None


Handles = tuple[dict[str, set[str]], dict[str, float], dict[str, set[str]]]


def _handles(history: History) -> Handles:
    """The sign-ins that a token has opened, when each sign-in was first seen, and those of a user."""
    of_token: dict[str, set[str]] = defaultdict(set)
    of_user: dict[str, set[str]] = defaultdict(set)
    seen_at: dict[str, float] = {}
    for one, answer in history.answered():
        if answer.opened and answer.opened.handle:
            of_token[one.token].add(answer.opened.handle)
        if answer.left and answer.left.handle and answer.token:
            of_token[answer.token].add(answer.left.handle)
        seen = [(one.handle, one.user) for one in (answer.opened, answer.left) if one]
        seen += [(handle, one.user) for handle in answer.value] if one.kind == "list" else []
        for handle, user in seen:
            if handle and user:
                seen_at[handle] = min(seen_at.get(handle, inf), one.ended)
                of_user[user].add(handle)
    return of_token, seen_at, of_user


def dead_stays_dead(history: History, rules: Rules) -> Iterator[Violation]:
    """A cookie that has once opened nothing never opens a session again."""
    died: dict[str, Operation] = {}
    for one, answer in _looks(history):
        if answer.opened is None and (one.token not in died or one.ended < died[one.token].ended):
            died[one.token] = one
    for one, answer in _looks(history):
        by = died.get(one.token)
        if answer.opened is None or by is None or one.began <= by.ended:
            continue
        if not (rules.puts_back and _is_put_back(history, by, answer.opened)):
            yield Violation("what is dead stays dead", one.token, (by, one))


def _is_undone(history: History, end: Operation, opened: Seen, rules: Rules) -> bool:
    """Return whether a sign-in has found the session replaced by another one, which was overtaken and undone later.

    It has begun a session of its own then, and has ended none.
    """
    return rules.puts_back and end.kind == "sign_in" and _is_put_back(history, end, opened)


def _is_put_back(history: History, died: Operation, opened: Seen) -> bool:
    """Return whether an anonymous session is back, whose sign-in was overtaken by the end of all.

    Until the sign-in is undone, the id that it has replaced opens nothing.
    """
    sign_ins = [one for one in history.unknown("sign_in") if one.token == died.token and _overlap(one, died)]
    ends = [one for one in history.operations if one.kind in ("revoke_all", "revoke_everyone")]
    return opened.user is None and any(
        _overlap(one, end) and end.user in ("", one.user) for one in sign_ins for end in ends
    )


def lives_until_ended(history: History, rules: Rules) -> Iterator[Violation]:
    """A session that nothing can have ended is open."""
    causes, replaced = _causes(history, rules), _replaced(history, rules)
    lived: dict[str, tuple[Operation, Seen]] = {}
    for one, answer in sorted(history.answered(), key=lambda pair: pair[0].ended):
        if answer.left is not None and answer.token:
            lived[answer.token] = one, answer.left
        if one.kind not in WITH_COOKIE or one.token not in lived:
            continue
        if answer.opened is not None:
            before, _ = lived[one.token]
            lived[one.token] = (one if one.began > before.began else before), answer.opened
            continue
        last, seen = lived[one.token]
        if one.ended - replaced.get(one.token, inf) >= (rules.grace or 0) - WHOLE:
            continue
        ways = [("token", one.token), ("name", seen.name), ("user", seen.user or ""), ("handle", seen.handle or "")]
        given = last.number if last.answer and last.answer.token == one.token else None  # what gave it did not end it
        around = (cause for way in ways for cause in causes[way] if cause.number != given)
        if last.ended < one.began and not any(last.began <= by.ended and by.began <= one.ended for by in around):
            yield Violation("what was not ended lives", f"{one.token} of {seen.name}", (last, one))
            del lived[one.token]


def _causes(history: History, rules: Rules) -> dict[tuple[str, str], list[Operation]]:
    """What may have ended the sessions of a token, of a name, of a user, or of a sign-in, answered or not."""
    causes: dict[tuple[str, str], list[Operation]] = defaultdict(list)
    crowding: dict[str, list[Operation]] = defaultdict(list)
    sign_ins: dict[str, list[float]] = defaultdict(list)
    for one in history.operations:
        if one.kind == "sign_in":
            insort(sign_ins[one.user], one.began)
    for one in history.operations:
        opened = one.answer.opened if one.answer else None
        one = _settled(history, one)
        if one.kind in (*MOVES, "sign_out", "revoke_others"):
            causes["token", one.token].append(one)
            causes["name", opened.name if opened else one.name].append(one)
        # Those that began after it may be saved before it, if it takes its time or its client has left.
        if one.kind == "sign_in" and bisect(sign_ins[one.user], one.ended) > (rules.maximum or inf):
            crowding[one.user].append(one)
        if one.kind in ("revoke", "revoke_all", "revoke_others"):
            user = opened.user if opened and one.kind == "revoke_others" else one.user
            causes["user", user or ""].append(one)
    for user, of_user in crowding.items() if rules.evicts else ():
        causes["user", user] += of_user
    writes = _writes(history)
    for (handle, user), since in _refused_since(history).items():
        # A refused session ends when it is written, or when another sign-in needs its place, which may be long after.
        ending = [Operation("revoke_everyone", since)] if rules.checks_epoch else [*writes[handle], *crowding[user]]
        causes["handle", handle] = [one for one in ending if since <= one.ended]
    return causes


def _settled(history: History, one: Operation) -> Operation:
    """Return an operation that ends when all was quiet: what has not happened then, does not happen any more."""
    return replace(one, ended=min([one.ended, *(quiet.began for quiet in history.quiets if quiet.began > one.began)]))


def _refused_since(history: History) -> dict[tuple[str, str], float]:
    """The sign-ins, each with its user, that another epoch may refuse, and since when.

    Where all sessions of a user were to be ended, and no answer says that they were, there may be an epoch, and some
    sessions that were not ended yet.
    """
    began, (_, _, of_user) = _began(history), _handles(history)
    since: dict[tuple[str, str], float] = {}
    for one in history.operations:
        if one.kind == "revoke_everyone" or (one.kind == "revoke_all" and one.answer is None):
            last = _settled(history, one).ended
            for user in of_user if one.kind == "revoke_everyone" else [one.user]:
                for handle in of_user[user]:
                    if began.get(handle, inf) <= last:
                        since[handle, user] = min(since.get((handle, user), inf), one.began)
    return since


def _writes(history: History) -> dict[str, list[Operation]]:
    """By sign-in: the requests that may have written its session. One that only reads it writes it if it is the first,
    which confirms the sign-in."""
    of_token, _, _ = _handles(history)
    confirmed: dict[str, float] = {}
    for one, answer in history.answered(*WITH_COOKIE):
        if answer.opened and answer.opened.handle:
            confirmed[answer.opened.handle] = min(confirmed.get(answer.opened.handle, inf), one.ended)
    writes: dict[str, list[Operation]] = defaultdict(list)
    for one in history.operations:
        only_reads = one.kind in ("get", "replay") and one.answer is not None and one.answer.token is None
        for handle in of_token[one.token] if one.kind in WITH_COOKIE and one.token else ():
            if not only_reads or one.began <= confirmed.get(handle, inf):
                writes[handle].append(_settled(history, one))
    return writes


def _began(history: History) -> dict[str, float]:
    """When the first request began that has seen a sign-in."""
    began: dict[str, float] = {}
    for one, answer in history.answered():
        for seen in filter(None, (answer.opened, answer.left)):
            if seen.handle:
                began[seen.handle] = min(began.get(seen.handle, inf), one.began)
    return began


def _looks(history: History) -> Iterator[tuple[Operation, Answer]]:
    return ((one, answer) for one, answer in history.answered(*WITH_COOKIE) if one.token)


# Whose it is


def own_data_only(history: History, rules: Rules) -> Iterator[Violation]:
    """No one sees the data or the sessions of another user."""
    users: dict[str, str] = {}
    for one, answer in history.answered():
        for seen in filter(None, (answer.opened, answer.left)):
            is_own = seen.owner == (seen.user or one.browser) and seen.name.split("-")[0] == one.browser
            if not is_own or users.setdefault(seen.handle or "", seen.user or "") != (seen.user or ""):
                yield Violation("no one sees the data of another user", str(seen), (one,))
        for handle in answer.value if one.kind == "list" else ():
            if users.setdefault(handle, one.user) != one.user:
                yield Violation("no one sees the data of another user", f"{handle} of {users[handle]}", (one,))


# At quiet points


def at_rest(history: History, quiet: Quiet, rules: Rules) -> Iterator[Violation]:
    """The list of a user is what lives, and no user has more sessions than the maximum."""
    during = [
        (one, answer) for one, answer in history.answered() if quiet.began <= one.began and one.ended <= quiet.ended
    ]
    live = {
        answer.opened.handle: (one, answer.opened)
        for one, answer in during
        if one.kind == "replay" and answer.opened and answer.opened.handle
    }
    ended = {
        handle: by for (what, handle), by in _closed(history, rules) if what == "handle" and by.ended < quiet.began
    }
    shown = _shown(history, quiet, rules)
    for one, answer in during:
        if one.kind == "list":
            for handle in sorted(ended.keys() & set(answer.value) - shown):
                yield Violation("what is ended is not listed", handle, (ended[handle], one))
            yield from _list_at_rest(history, one, answer, live, rules)


def _shown(history: History, quiet: Quiet, rules: Rules) -> set[str]:
    """The sign-ins whose new entry a list may show for a moment, since their rotation was interrupted."""
    of_token, _, _ = _handles(history)
    moves = history.unknown("rotate", "revoke_others", *(WITH_COOKIE if rules.grace else ()))
    tokens = {one.token for one in moves if quiet.began - one.began < rules.shown_for + LATE}
    return {handle for token in tokens if rules.shown_for for handle in of_token[token]}


def _has_failed(history: History, read: Operation) -> bool:
    """Return whether the store may have failed since the user's last sign-in, which then is saved and evicts none.

    The next one makes up for it.
    """
    sign_ins = [one.began for one, _ in history.answered("sign_in") if one.user == read.user]
    since = max((began for began in sign_ins if began < read.began), default=0) - NEAR
    return any(since < one.began < read.began and one.ended == inf for one in history.unknown())


def _list_at_rest(
    history: History,
    read: Operation,
    answer: Answer,
    live: dict[str, tuple[Operation, Seen]],
    rules: Rules,
) -> Iterator[Violation]:
    listed = set(answer.value)
    for handle, (opened, seen) in live.items():
        if seen.user == read.user and handle not in listed:
            yield Violation("what lives is listed", handle, (opened, read))
    if rules.maximum is not None and len(listed) > rules.maximum and not _has_failed(history, read):
        yield Violation("no user has too many sessions", f"{read.user} has {len(listed)}", (read,))
    of_token, _, _ = _handles(history)
    known = {handle for handles in of_token.values() for handle in handles}
    lost = list(history.unknown(*(MOVES if rules.grace is None else WITH_COOKIE), "revoke_others"))
    moved = {handle for one in lost for handle in of_token[one.token]}
    dead = listed & known - set(live) - moved
    if dead:
        yield Violation("what is listed lives", ", ".join(sorted(dead)), (read,))
    unheard = sum(one.kind == "sign_in" and one.user == read.user for one in lost)
    if len(listed - known) > unheard:
        yield Violation("what is listed lives", f"{read.user} has sessions that no sign-in has made", (read,))
