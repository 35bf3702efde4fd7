"""Requests of one browser, in every order, on a dict of versions: pure functions, no event loop, no thread.

A request is a generator. It waits before each of its calls to the store, and one request at a time goes on.
Between two calls it shares nothing with the others, so these orders are all that can happen.

The machines decide. What they should have decided is known here without them: each change that a handler makes is
noted when it is made, and applied to the `Truth` when its write is carried out. If that is not what is stored then, a
promise is broken, and `Broken` says which one.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import permutations
from typing import Any, NamedTuple

from msgspec import Struct

from starsessions.core.decision import Cookie
from starsessions.core.record import Expiry, Found, Identity, MissReason, Policy, Record, deadline, why_expired
from starsessions.core.state import NOTHING, Create, Delete, Discard, Nothing, Replace, Rotate, Rules, SessionState
from starsessions.exceptions import SessionConflict
from tests.core.machines import MSGPACK, NOW, rules

MAX_AGE, GRACE, MOMENT = 200, 20, 30
MOST_TRIES = 10

CALM = rules(Policy(max_age=MAX_AGE), sends_ids=True)
ROLLING = rules(Policy(max_age=MAX_AGE, rolling=True, renew_every=1), sends_ids=True)
ROTATING = rules(Policy(max_age=MAX_AGE, rotate_every=1, rotate_grace=GRACE), sends_ids=True)
RAISING = rules(Policy(max_age=MAX_AGE), raises_on_conflict=True, sends_ids=True)

START: dict[str, Any] = {"a": 1, "b": [1], "c": 1, "count": 0}

# The promises

NO_UPDATE_IS_LOST = "what is stored is what all writes have made of it, one after the other"
ITS_USER = "who is signed in, since when and for how long is what the last sign-in has said"
A_LOGOUT_IS_FINAL = "nothing of a session that was ended is ever stored again"
EXPIRED_STAYS = "a session that has expired is not brought back"
ROTATED_AWAY = "an id that was rotated away opens nothing, or the new session for as long as its grace lasts"
NO_OTHER = "a request that found a session begins another one only if it has ended that one, or asks for a new id"
THE_LOST_ARE_SILENT = "a request that has lost its session leaves the cookie alone"
TOLD = "a response sets the token of the session that the request has stored, if the browser has another one"
IN_ORDER = "if responses arrive in the order in which they were made, the browser can open the session that lives"
"""Or one that a request has asked for by a new id, which came too late for the other one."""
LATE = "in any other order its cookie is dead only if the session was rotated or ended after that response was made"
CONFIRMED = "a change that persist() has confirmed is stored"
COUNTED = "atomic updates all count"
REPORTED = "where conflicts raise, no change of another request is overwritten"
IT_ENDS = "a request that was refused succeeds, or learns that its session has ended"
NEW_IDS = "an id is given to one session, once"
SIGNED_IN = "a sign-in is stored and its cookie sent, or the handler learns that it is not; it is never dropped"
NONE_SIGNED_OUT = "the holder of an old id, in its grace period, takes the session from no holder of the current one"

PROMISES = frozenset(
    {NO_UPDATE_IS_LOST, ITS_USER, A_LOGOUT_IS_FINAL, EXPIRED_STAYS, ROTATED_AWAY, NO_OTHER, THE_LOST_ARE_SILENT, TOLD}
    | {IN_ORDER, LATE, CONFIRMED, COUNTED, REPORTED, IT_ENDS, NEW_IDS, SIGNED_IN, NONE_SIGNED_OUT}
)


class Broken(AssertionError):
    """A promise that was not kept, and that nothing can go on from."""

    def __init__(self, promise: str) -> None:
        super().__init__(promise)
        self.promise = promise


# The store


class Refused(Exception):
    """The store has something else than the command names."""

    def __init__(self, current: Found | None) -> None:
        self.current = current


class Pointer(NamedTuple):
    """Where a session is that was rotated."""

    to: str
    at: int
    usable_until: int


class Truth(Struct):
    """What must be stored of a session: each successful write was applied to it."""

    data: dict[str, Any]
    user: str | None = None
    expiry: Expiry = Expiry()
    began_at: int = NOW
    has_ended: bool = False
    told: int = NOW + MAX_AGE
    """Until when the browser keeps its cookie."""


class Place:
    """The store: a dict of versions. What has expired is refused, and shown with the refusal."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[Record | Pointer, int]] = {}
        self.now = NOW
        self.versions = self.ids = 0
        self.truths: dict[str, Truth] = {}
        """By token. A rotation shares it between the old token and the new one."""
        self.ended_by: dict[str, int] = {}
        """The write that rotated a token away, or deleted its session."""
        self.dead: set[str] = set()
        """Ids that a handler has replaced without a grace."""
        self.answered: list[Request] = []
        """In the order in which their responses were made."""
        self.broken: set[str] = set()

    def promise(self, promise: str, kept: bool) -> None:
        if not kept:
            self.broken.add(promise)

    def new_id(self) -> str:
        self.ids += 1
        return f"id-{self.ids}"

    def _put(self, token: str, content: Record | Pointer) -> int:
        self.versions += 1
        self.entries[token] = content, self.versions
        return self.versions

    def fetch(self, token: str, *, grace: bool = True) -> Found | MissReason:
        """The session of a token. `grace`: whether an old id that may not be used any more leads nowhere."""
        key = token
        while True:
            if key not in self.entries:
                return MissReason.UNKNOWN
            content, version = self.entries[key]
            if isinstance(content, Record):
                return Found(token, content, (key, version), is_alias=key != token)
            if grace and self.now >= content.usable_until:
                return MissReason.JUST_ROTATED if self.now < content.at + MOMENT else MissReason.ROTATED
            key = content.to

    def _check(self, found: Found) -> str:
        key, version = found.version
        current = self.fetch(found.token)
        if key not in self.entries or self.entries[key][1] != version or not self.is_alive(current):
            raise Refused(current if isinstance(current, Found) else None)
        return str(key)

    def _remove(self, key: str) -> None:
        del self.entries[key]
        self.versions += 1
        self.ended_by.setdefault(key, self.versions)

    def is_alive(self, found: Found | MissReason) -> bool:
        return isinstance(found, Found) and why_expired(found.record, CALM.policy, self.now) is None

    def create(self, command: Create) -> Found:
        token = command.session_id or self.new_id()
        if token in self.entries:
            raise Broken(NEW_IDS)
        return Found(token, command.record, (token, self._put(token, command.record)))

    def replace(self, command: Replace) -> Found:
        key = self._check(command.found)
        return Found(command.found.token, command.record, (key, self._put(key, command.record)), command.found.is_alias)

    def rotate(self, command: Rotate) -> Found:
        key, token = self._check(command.found), command.session_id or self.new_id()
        if token in self.entries:
            raise Broken(NEW_IDS)
        version = self._put(token, command.record)
        self.ended_by.setdefault(key, self._put(key, Pointer(token, self.now, command.usable_until)))
        return Found(token, command.record, (token, version))

    def delete(self, found: Found, *, if_unchanged: bool) -> None:
        if if_unchanged:
            self._remove(self._check(found))
            return
        current = self.fetch(found.token, grace=False)
        if isinstance(current, Found):
            self._remove(current.version[0])

    def check_the_dead(self) -> None:
        for token in self.dead:
            self.promise(ROTATED_AWAY, not self.opens(token))

    def opens(self, token: str | None) -> bool:
        """Whether a browser with this cookie has a session."""
        return token is not None and self.is_alive(self.fetch(token))


# Requests


def copied(value: Any) -> Any:
    """What `deepcopy` does, for what these handlers put in, and in a fifth of the time."""
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    return [copied(one) for one in value] if isinstance(value, list) else value


MISSING = object()
Machine = Callable[[Rules], SessionState]
Steps = Iterator[None]


class SessionGone(Exception):
    """What `persist()` and `update_atomically()` raise."""


class Wishes:
    """What a handler has done and asked for, and what is not stored yet."""

    def __init__(self) -> None:
        self.data: dict[str, Any] = {}
        """Key by key; `MISSING`: it took the key out."""
        self.identity: Identity | None = None
        self.expiry: Expiry | None = None
        self.grace: int | None = None
        """The seconds that the old id shall still work; None: no new id was asked for."""

    def apply(self, truth: Truth, at: int) -> Truth:
        data = {key: value for key, value in (truth.data | self.data).items() if value is not MISSING}
        expiry = truth.expiry if self.expiry is None else self.expiry
        if self.identity is None:
            return Truth(data, truth.user, expiry, truth.began_at)  # the rest is not compared
        return Truth(data, self.identity.user_id, expiry, at)


class Request:
    """One request: a machine, its data, and what its handler has wished for."""

    def __init__(self, place: Place, machine: Machine, config: Rules, token: str) -> None:
        self.place = place
        self.token = token
        self.state = machine(config=config)
        self.data: dict[str, Any] = {}
        self.wishes = Wishes()
        self.known: dict[str, Any] = {}
        """The data as it was last read or stored."""
        self.takes_along: dict[str, Any] = {}
        """What a sign-in takes into a session of its own."""
        self.session: Truth | None = None
        """The session that it knows of, until it ends it."""
        self.stored: list[Found] = []
        self.tells = False
        """Whether the browser has to be told of what was stored."""
        self.has_ended = self.is_lost = self.has_raised = self.asked_for_id = False
        self.signs_in: Identity | None = None
        """The user whom the handler has signed in, until it ends the session."""
        self.returned: Any = None
        self.last_write = 0
        self.answer: tuple[Cookie, str | None] = Cookie.LEAVE, None

    def run(self, actions: Iterable[Callable[["Request"], Steps | None]]) -> Steps:
        """The handler, and then the response."""
        yield from self.load()
        try:
            for action in actions:
                yield from action(self) or ()
        except SessionGone:
            pass  # the application answers with an error page
        try:
            yield from self.save()
        except SessionConflict:
            self.has_raised = True
        else:
            self._answer()
        self.place.answered.append(self)

    # What handlers do

    def load(self) -> Steps:
        yield
        found = self.place.fetch(self.token)
        if isinstance(found, Found):
            found = why_expired(found.record, self.state.config.policy, self.place.now) or found
        if isinstance(found, Found):
            self.session = self.place.truths[found.token]
        self.data = self.state.loaded(found)
        self.known = copied(self.data)

    def change(self, change: Callable[[dict[str, Any]], Any]) -> Any:
        """Change the data, and note what was changed. Everything was handed out, so that it is compared."""
        before = copied(self.data)
        result = change(self.data)
        self.state.modified = self.state.exposed = True
        for key in before.keys() | self.data.keys():
            after = self.data.get(key, MISSING)
            if before.get(key, MISSING) != after:
                self.wishes.data[key] = after if after is MISSING else copied(after)
        return result

    def rotate(self, grace: int = 0) -> None:
        if self.state.identity is None or self.state.next_id is None:  # or a sign-in has asked for an id
            self.wishes.grace, self.asked_for_id = grace, True
            self.state.rotate(self.place.new_id(), grace)

    def sign_in(self, user: str, expiry: Expiry | None = None) -> Steps:
        before, new_id = self.state.user, self.place.new_id()
        if before is not None and before.user_id != user:
            yield from self.end()
        identity = Identity(user, self.place.now, f"handle-{user}")
        wishes = self.wishes
        wishes.grace, wishes.identity, wishes.expiry = 0, identity, expiry or wishes.expiry or Expiry()
        self.asked_for_id, self.signs_in = True, identity
        self.state.sign_in(identity, new_id, expiry)

    def expire(self, expiry: Expiry) -> None:
        self.state.expire(expiry)
        self.wishes.expiry = expiry

    def end(self) -> Steps:
        found = self.state.found
        self.wishes, self.signs_in = Wishes(), None
        if found is None:
            self.state.forget(self.data)
            return
        yield
        self.place.delete(found, if_unchanged=False)
        self._has_ended(found)

    def persist(self) -> Steps:
        yield from self.save(by_hand=True)
        if self.state.is_lost or self.state.found is None:
            raise SessionGone
        stored = self.place.fetch(self.state.found.token)
        self.place.promise(CONFIRMED, isinstance(stored, Found) and MSGPACK.loads(stored.record.payload) == self.data)

    def update_atomically(self, change: Callable[[dict[str, Any]], Any]) -> Steps:
        """As in `lifecycle/saving.py`: on what is stored now, and again until no other request was faster."""
        state = self.state
        for _ in range(MOST_TRIES):
            self.data.clear()
            self.data |= state.stored()
            result = self.change(change)
            try:
                yield from self.carry_out()
            except Refused as refused:
                moved_to = self._look_at(refused.current)
                if state.rebase(refused.current, self.data, self.place.now, moved_to):
                    continue
            if state.is_lost:
                raise SessionGone
            self.returned = result
            return
        raise Broken(IT_ENDS)

    # The driver

    def save(self, by_hand: bool = False) -> Steps:
        for _ in range(MOST_TRIES):
            try:
                yield from self.carry_out(by_hand)
                return
            except Refused as refused:
                moved_to = self._look_at(refused.current)
                merged = self.state.conflict(refused.current, self.data, self.place.now, moved_to)
                if merged is None:
                    return
                self.data.clear()
                self.data |= merged
                self.state.exposed = True
        raise Broken(IT_ENDS)

    def carry_out(self, by_hand: bool = False) -> Steps:
        state, place = self.state, self.place
        command = state.command(self.data, place.now, by_hand)
        if isinstance(command, Nothing):
            if command is not NOTHING:
                state.cookie = command.cookie
            return
        if isinstance(command, Discard):
            self._is_lost()
            state.lost(self.data)
            return
        yield
        if isinstance(command, Delete):
            place.delete(command.found, if_unchanged=True)
            self.place.promise(
                NO_UPDATE_IS_LOST, not self.wishes.apply(place.truths[command.found.token], place.now).data
            )
            self._has_ended(command.found)
            return
        kept = self._carried_out(command)
        self._compare(kept, command.record.renewed_at)
        state.saved(command, kept)

    def _carried_out(self, command: Create | Replace | Rotate) -> Found:
        place = self.place
        if isinstance(command, Create):
            kept = place.create(command)
            is_alias = self.state.found is not None and self.state.found.is_alias
            may_begin = self.wishes.identity is not None if is_alias else self.is_lost and self.wishes.grace is not None
            if self.session is not None and not may_begin:
                self.place.promise(EXPIRED_STAYS, place.now < NOW + MAX_AGE)
                self.place.promise(A_LOGOUT_IS_FINAL, not self.session.has_ended)
                self.place.promise(NO_OTHER, False)
            if is_alias and self.state.found is not None:
                self.takes_along = MSGPACK.loads(self.state.found.record.payload)
            place.truths[kept.token] = Truth(self.takes_along, began_at=command.record.renewed_at)
            self.takes_along = {}
            place.truths[kept.token].told = deadline(kept.record, CALM.policy)
            self.is_lost, self.tells = False, True
            return kept
        kept = place.replace(command) if isinstance(command, Replace) else place.rotate(command)
        self.place.promise(
            NONE_SIGNED_OUT, not (isinstance(command, Rotate) and command.found.token != command.found.version[0])
        )
        place.truths[kept.token] = place.truths[command.found.token]
        ends, truth = deadline(kept.record, CALM.policy), place.truths[kept.token]
        moves = abs(ends - truth.told) * 10 >= ends - kept.record.renewed_at
        if kept.token != command.found.token or (moves and not kept.is_alias):
            self.tells, truth.told = True, ends
        self.tells = self.tells and not kept.is_alias
        return kept

    def _compare(self, kept: Found, at: int) -> None:
        """Look whether what is stored now is what should have come of it."""
        place, record, old = self.place, kept.record, self.state.found
        truth = place.truths[kept.token]
        expected = self.wishes.apply(truth, at)
        self.place.promise(NO_UPDATE_IS_LOST, MSGPACK.loads(record.payload) == expected.data)
        user = None if record.identity is None else record.identity.user_id
        expiry = Expiry(record.lifetime, record.until, record.browser)
        self.place.promise(
            ITS_USER, (user, expiry, record.began_at) == (expected.user, expected.expiry, expected.began_at)
        )
        truth.data, truth.user, truth.expiry, truth.began_at = expected.data, user, expiry, record.began_at
        if old is not None and self.wishes.grace == 0 and not old.is_alias:
            place.dead |= {old.token, old.version[0]}
        place.check_the_dead()
        self.wishes, self.session, self.known = Wishes(), truth, copied(expected.data)
        self.stored.append(kept)
        self.last_write = place.versions

    def _has_ended(self, found: Found) -> None:
        self.place.truths[found.token].has_ended = True
        self.session, self.wishes = None, Wishes()
        self.has_ended, self.tells = True, False
        self.stored.clear()
        self.last_write = self.place.versions
        self.state.deleted(self.data)

    def _look_at(self, current: Found | None) -> Found | None:
        """Note what a refusal means. Return where the session is that a pending sign-in has lost."""
        if current is None or not self.place.is_alive(current):
            moved_to = self._moved_to() if current is None and self.wishes.identity is not None else None
            self._is_lost(moved_to)
            return moved_to
        stored = MSGPACK.loads(current.record.payload)
        for key in [key for key, value in self.wishes.data.items() if stored.get(key, MISSING) == value]:
            del self.wishes.data[key]  # another request has done the same, and so this one need not
        if current.is_alias:
            self.tells = False  # the browser is being given another id
        self.known = stored
        return None

    def _moved_to(self) -> Found | None:
        if self.state.found is None:
            return None
        found = self.place.fetch(self.state.found.token, grace=False)
        return found if isinstance(found, Found) and self.place.is_alive(found) else None

    def _is_lost(self, moved_to: Found | None = None) -> None:
        self.is_lost, self.tells = True, False
        if self.wishes.identity is None:
            self.wishes = Wishes()
            return
        # The sign-in goes on: with what the browser had if no other user has it by now, or with what is new.
        if moved_to is not None and self.place.truths[moved_to.token].user in (None, self.wishes.identity.user_id):
            self.takes_along = self.known
        else:
            self.wishes.data = {key: value for key, value in self.wishes.data.items() if key not in self.known}

    def _answer(self) -> None:
        cookie, found = self.state.cookie, self.state.found
        if self.signs_in is not None:
            self.place.promise(SIGNED_IN, any(one.record.identity is self.signs_in for one in self.stored))
        self.answer = cookie, found.token if found is not None and cookie is Cookie.SET else None
        if self.is_lost:
            self.place.promise(THE_LOST_ARE_SILENT, cookie is Cookie.LEAVE)
            return
        if self.session is not None:  # what is not stored must be there already, because another request did the same
            self.place.promise(NO_UPDATE_IS_LOST, self.wishes.apply(self.session, 0).data == self.session.data)
        if self.tells:
            self.place.promise(TOLD, self.answer == (Cookie.SET, self.stored[-1].token))
        else:
            self.place.promise(TOLD, cookie is (Cookie.CLEAR if self.has_ended and not self.stored else Cookie.LEAVE))


# Every order

Action = Callable[[Request], Steps | None]


class Race(NamedTuple):
    """Requests that begin with the same cookie, and what must come of them."""

    handlers: Sequence[Sequence[Action]]
    config: Rules = CALM
    user: str | None = None
    """Who is signed in when they begin."""
    time_passes: bool = False
    """Whether the session expires meanwhile: one more step, which can be anywhere."""
    again: Sequence[Action] | None = None
    """What the browser of the first request does when it has its response."""
    check: Callable[[Place], None] = lambda place: None

    def orders(self, machine: Machine = SessionState) -> Iterator[Place]:
        """Run it in every order."""
        choices: list[int] = []
        while True:
            place = _start(self.user)
            taken: list[tuple[int, int]] = []
            try:
                self._run(place, machine, choices, taken)
            except Broken as broken:
                place.broken.add(broken.promise)
                yield place
                return  # or a machine that tries for ever would have orders without end
            _check(place)
            self.check(place)
            yield place
            while taken and taken[-1][0] + 1 == taken[-1][1]:
                taken.pop()
            if not taken:
                return
            choices = [choice for choice, _ in taken]
            choices[-1] += 1

    def _run(self, place: Place, machine: Machine, choices: list[int], taken: list[tuple[int, int]]) -> None:
        """Take the first steps as `choices` says, and note what was chosen of how many."""
        going = [
            self._visit(Request(place, machine, self.config, "start"), actions, self.again if n == 0 else None)
            for n, actions in enumerate(self.handlers)
        ]
        if self.time_passes:
            going.append(_time_passes(place))
        for steps in going:
            next(steps)
        while going:
            choice = choices[len(taken)] if len(taken) < len(choices) else 0
            taken.append((choice, len(going)))
            if next(going[choice], MISSING) is MISSING:
                del going[choice]

    def _visit(self, request: Request, actions: Sequence[Action], again: Sequence[Action] | None) -> Steps:
        yield from request.run(actions)
        token, _ = _browser_after([request])
        if again is not None and token is not None:
            yield from Request(request.place, type(request.state), self.config, token).run(again)


def run(races: Iterable[Race], machine: Machine = SessionState) -> tuple[int, set[str]]:
    """How many orders there were in all, and which promises were not kept in them."""
    count, broken = 0, set[str]()
    for race in races:
        for place in race.orders(machine):
            count += 1
            broken |= place.broken
    return count, broken


def _start(user: str | None) -> Place:
    place = Place()
    identity = None if user is None else Identity(user, NOW, f"handle-{user}")
    place.create(Create(Record(MSGPACK.dumps(START), NOW, NOW, identity=identity, told=NOW + MAX_AGE), "start"))
    place.truths["start"] = Truth(copied(START), user)
    place.now += 2  # with ROLLING it is time to renew the session, with ROTATING to rotate it
    return place


def _time_passes(place: Place) -> Steps:
    yield
    place.now += MAX_AGE


def _check(place: Place) -> None:
    """What must hold after any race: who can open what, and what the browser can open."""
    has_expired = place.now >= NOW + MAX_AGE
    for token, truth in place.truths.items():
        place.promise(A_LOGOUT_IS_FINAL, not (truth.has_ended and place.opens(token)))
    place.now += GRACE
    for order in permutations(place.answered):
        cookie, told_by = _browser_after(order)
        if cookie is not None and told_by is not None and not place.opens(cookie):
            place.promise(LATE, place.ended_by.get(cookie, 0) > told_by.last_write or has_expired)
    for token in place.truths:
        content, _ = place.entries.get(token, (None, 0))
        place.promise(ROTATED_AWAY, not (isinstance(content, Pointer) and place.opens(token)))
    original = place.truths["start"]
    lives = any(place.opens(token) for token, one in place.truths.items() if one is original)
    if lives and not has_expired:
        cookie, told_by = _browser_after(place.answered)
        place.promise(IN_ORDER, place.opens(cookie))
        asked = told_by is not None and told_by.asked_for_id  # so that it has begun one of its own, if it came too late
        place.promise(IN_ORDER, asked or (cookie is not None and place.truths[cookie] is original))


def _browser_after(answered: Iterable[Request]) -> tuple[str | None, Request | None]:
    """The cookie after these responses have arrived, and the request that it is of; None: the first one still."""
    token: str | None = "start"
    told_by = None
    for request in answered:
        cookie, said = request.answer
        if cookie is not Cookie.LEAVE:
            token, told_by = said, request
    return token, told_by
