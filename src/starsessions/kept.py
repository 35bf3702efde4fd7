"""A dict that knows as what it was found, and how it is brought home: the machinery below `Session`.

Finding: the headers, then the backend, then the deadlines. Saving: `_plan` decides and waits for nothing, `_carry_out`
does it, and `_commit` does both again when another request was faster.
"""

# Annotations are not to be worked out: what they name of anyio is imported when it is asked for, which takes long.
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from inspect import iscoroutine
from typing import Any, TypeVar

import anyio
from msgspec.structs import replace
from starlette.types import Scope

from starsessions.backends.base import Conflict, Found
from starsessions.backends.owners import PENDING, Index, listed_as, listing_end, new_handle
from starsessions.core import changes
from starsessions.core.client import agent_in_words, shortened
from starsessions.core.decision import LEAVE, Action, Cookie, Decision, decide_live, decide_new
from starsessions.core.record import (
    Expiry,
    Identity,
    Record,
    WhyNew,
    cookie_max_age,
    deadline,
    expiry_of,
    rotation_due,
    touch_due,
    why_over,
)
from starsessions.core.serializer import Msgpack
from starsessions.events import ConflictResolved, Event, Revoked, StoreFailed, handle_of, of_keeping, of_refusal
from starsessions.exceptions import (
    BackendUnavailable,
    ResponseStarted,
    SessionConflict,
    SessionError,
    SessionGone,
    SessionNotLoaded,
    TooManySessions,
    UnsupportedValue,
)
from starsessions.mapping import AskingDict
from starsessions.setting import Headers, Setting, judged, the_only

_log = logging.getLogger("starsessions")

MAX_ATTEMPTS = 1000
"""Writes that may lose against other requests before we give up. Each loss is somebody else's success."""

_CONTENDED = "The session was changed by others so often while it was being saved that we gave up."

T = TypeVar("T")


class Phase(Enum):
    """How far the response is."""

    OPEN = auto()
    """The headers have not left: changes are saved when they do."""
    SAVING = auto()
    """Being saved; it stays like that if saving failed, of which somebody was told."""
    FAILED = auto()
    """Saving failed, and the application has answered something else."""
    CLOSED = auto()
    """The headers have left, and nothing saves by itself any more."""
    BY_HAND = auto()
    """The headers have left, and `persist()` saves; for a WebSocket, so does the end of the connection."""


OPEN, SAVING, CLOSED = Phase.OPEN, Phase.SAVING, Phase.CLOSED  # names that the hot path need not look up twice


NOTHING_TO_SAY, _SET = Cookie.LEAVE, Cookie.SET
_NO_ACTION, _DROP, _DELETE, _ROTATE = Action.NOTHING, Action.DROP, Action.DELETE, Action.ROTATE


Plan = tuple[Decision, Any]
"""What was decided, and the data encoded if that was needed to say it."""

SETTLED: Plan = (LEAVE, None)
"""There is nothing to do, and was nothing to look at."""


class KeptDict(AskingDict):
    """What `Session` is made of, and what the middleware works with."""

    # What every request has: slots, set when it begins.

    accessed: bool
    modified: bool
    why_new: WhyNew | None
    """Why the request has no session that lives; None if it has one, or nobody has looked yet."""

    _client: tuple[str, int] | None
    """The peer's address. (Not the whole scope: it holds the session, and neither would be freed at once.)"""
    _cookie: Cookie
    """What the browser is still to be told."""
    _events: Sequence[Event]
    """What the application is to hear of when the response is done."""
    _expiry: Expiry | None
    """What `set_expiry()` asked for and is not saved yet."""
    _found: Found | None
    """The live session that this one stands for, as it was last read or written."""
    _headers: Headers
    _identity: Identity | None
    """Who has signed in and is not saved yet."""
    _loaded: bool
    _next_id: str | None
    """The id that the session is to have from its next save on."""
    _phase: Phase
    _replaced: Found | None
    """What stood in the place of `_found` before it was saved."""
    _root_path: str
    """The application's, when the request came in."""
    _setting: Setting
    _views: Sequence[Callable[[], None]]
    """What stands for a part of the data, and puts it in when it is called: the models of `starsessions.typed`."""

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_client",
        "_cookie",
        "_events",
        "_expiry",
        "_found",
        "_headers",
        "_identity",
        "_loaded",
        "_next_id",
        "_phase",
        "_replaced",
        "_root_path",
        "_setting",
        "_views",
        "accessed",
        "modified",
        "why_new",
    )

    # What few requests have: it costs the others nothing.

    _clears_site_data: bool = False
    """Whether the response tells the browser to forget everything."""
    _ended: bool = False
    """Whether this request has ended a session that lived."""
    _given: str | None = None
    """The id that the application gave."""
    _given_up: bool = False
    """Whether the last `persist()` was cancelled: who did that, or left, need not be told that nothing was saved."""
    _gone: bool = False
    """Whether somebody else has ended the session since it was loaded."""
    _grace: int = 0
    """For how many seconds the id that `_next_id` replaces stays usable."""
    _lock: anyio.Lock | None = None
    """Lets one task at a time save, from the first `persist()` on."""
    _saved: anyio.Event | None = None
    """Set when what the headers wait for is saved; made by the first task that waits for that, too."""

    def _begin(self, setting: Setting, scope: Scope) -> None:
        """A session that nobody has looked at yet. Once per request, so: as little as can be."""
        self._setting = setting
        self._headers = scope["headers"]
        self._client = scope.get("client")
        # Now, because a mounted application changes the scope that it shares with us.
        self._root_path = scope.get("root_path", "")
        self._ready = self._handed_out = self._loaded = self.accessed = self.modified = False
        self._only_plain = self._in_order = True
        self._found = self._replaced = self._next_id = self._expiry = self._identity = self.why_new = None
        self._events = self._views = ()
        self._phase = OPEN
        self._cookie = NOTHING_TO_SAY

    # Reading and changing

    def _before_read(self) -> None:
        if not self._loaded:
            look = self._setting.look
            if look is None:
                raise SessionNotLoaded("Call `await session.load()` first, or pass autoload=True to the middleware.")
            self._take(look(self._headers))
        self.accessed = self._ready = True

    def _before_change(self) -> None:
        if not self._ready:
            self._before_read()
        if self.why_new is not None:
            self._check_known()
        if self._phase is not OPEN:
            self._check_reachable()
            if self._phase is not Phase.BY_HAND:
                raise ResponseStarted(
                    "The response has started and the session was saved. To change it from here on, save by hand: "
                    "call `await session.persist()` first, and again after each change."
                )
            self._handed_out = True  # so that it is looked at again when the application is done
        self.modified = True

    def clear(self) -> None:
        super().clear()
        self._views = ()  # or a model that was changed before would put itself in again

    def _check_known(self) -> None:
        """Refuse to change a session that may well exist: what is there would be lost, and a logout would be none."""
        if self.why_new is WhyNew.UNAVAILABLE:
            raise BackendUnavailable(
                "The session could not be loaded, since the store fails: it cannot be changed now."
            )

    @property
    def _is_reachable(self) -> bool:
        """Whether the session can be saved without sending a cookie."""
        return self._found is not None and not self._setting.backend.holds_data

    def _check_reachable(self) -> None:
        if not self._is_reachable:
            raise ResponseStarted(
                "The headers have left, and saving this session needs a new cookie: change it, or call "
                "`await session.persist()`, before the response starts (a WebSocket: before accept)."
            )

    def _take(self, found: Found | WhyNew) -> None:
        """Fill the dict with what was found, or note why nothing was."""
        self._loaded = True
        if not isinstance(found, Found):
            self._refuse(found)
            return
        try:
            data = self._setting.loads(found.record.payload)
        except Exception:  # whatever an older release of the application has left there
            data = None
        if type(data) is not dict:
            self._refuse(WhyNew.UNDECODABLE)
            return
        dict.update(self, data)
        self._found = found

    def _refuse(self, why: WhyNew) -> None:
        self.why_new = why
        if why is WhyNew.ROTATED:
            _log.warning("An id was used that had been rotated away, and that is past its grace.")
        if self._setting.on_event is not None:
            tokens = self._setting.tokens_in(self._headers)
            self._note(*of_refusal(why, tokens if isinstance(tokens, list) else ()))

    def _note(self, *events: Event) -> None:
        """Keep in mind what the application is to hear of when the response is done, if it listens."""
        if self._setting.on_event is not None:
            self._events = [*self._events, *events]

    def _fill_with(self, data: Mapping[str, Any]) -> None:
        dict.clear(self)
        dict.update(self, data)
        self._handed_out = True

    def _forget(self) -> None:
        """Nothing that was known is true any more: what follows is another session."""
        dict.clear(self)
        self._replaced = self._found or self._replaced
        self._found = self._given = self._next_id = self._expiry = self._identity = None
        self._views = ()

    async def _replace_by(self, data: Mapping[str, Any]) -> None:
        """Take over a plain dict that the application has put in our place in the scope."""
        await self._load()
        self._check_known()
        self._fill_with(data)
        self.modified = True

    # Finding

    async def _load(self) -> None:
        if not self._loaded:
            found = await self._find()
            if not self._loaded:  # another task of this request may have been faster
                self._take(found)
        if not self._ready:
            self._before_read()

    async def _find(self) -> Found | WhyNew:
        try:
            return await self._look()
        except BackendUnavailable as error:
            if not self._setting.anonymous_if_unavailable:
                raise
            _log.warning("A request goes on without its session, since the store fails: %s", error)
            self._note(StoreFailed(str(error)))
            return WhyNew.UNAVAILABLE

    async def _look(self) -> Found | WhyNew:
        setting = self._setting
        now = int(setting.clock())
        if self._given is not None:
            return judged(await setting.backend.fetch(self._given, now), setting.policy, now)
        tokens = setting.tokens_in(self._headers)
        if not isinstance(tokens, list):
            return tokens
        return the_only([judged(await setting.backend.fetch(token, now), setting.policy, now) for token in tokens])

    # Saving

    def _plan(self, by_hand: bool = False) -> Plan:
        """What has to be done: decided here, without waiting for anything, and done by `_carry_out`."""
        found, setting = self._found, self._setting
        modified, handed_out = self.modified or by_hand, self._handed_out
        rotate, expiry = self._next_id is not None, self._expiry
        if found is not None and not (modified or handed_out or rotate or expiry is not None or setting.keeps_going):
            return SETTLED  # nobody had the means to change anything
        if self._views:
            self._gather()
        if found is None:
            empty = self._identity is None and not by_hand and not dict.__len__(self)
            return decide_new(self._ended, self.why_new is WhyNew.JUST_ROTATED, empty, rotate), None
        record = found.record
        payload, emptied, changed, due = None, False, by_hand, False
        if modified or (handed_out and not setting.matches(record.payload, self)):
            base = record.payload
            if handed_out or not self._only_plain:
                payload, sure = setting.dumps(self), False
            else:
                payload, sure = setting.dumps_again(self, base, self._in_order)
            if payload != base and (sure or setting.differs_for_sure(payload, base) or self._differs(base)):
                changed = True
                # Somebody who is signed in has a session, whether or not there is data in it.
                signed_in = self._identity is not None or record.identity is not None
                emptied = not (dict.__len__(self) or by_hand or signed_in)
        if expiry is not None and expiry != expiry_of(record):
            changed = True
        if setting.keeps_going:
            now = int(setting.clock())
            due = touch_due(record, setting.policy, now)
            # Only while the browser can still be told, and not for somebody who brought the id from before.
            sendable = self._phase is OPEN or self._phase is SAVING
            rotate = rotate or (sendable and not found.is_alias and rotation_due(record, setting.policy, now))
        return decide_live(emptied, rotate, changed, due), payload

    def _gather(self) -> None:
        """Have everything in the dict that belongs there, before it is compared or written."""
        for view in self._views:
            view()

    def _differs(self, base: Any) -> bool:
        """Whether other bytes than these are other data, and not only another order."""
        return not changes.same_items(self._setting.loads(base), self._items())

    def _items(self) -> dict[str, Any]:
        """The data as a plain dict, whatever state the session is in."""
        return dict(dict.items(self))

    async def _commit(self, plan: Plan | None = None, by_hand: bool = False) -> None:
        """Bring the backend in line with the dict, and note in `_cookie` what the browser must be told."""
        for _ in range(MAX_ATTEMPTS):
            plan = plan or self._plan(by_hand)
            if self._commit_now(plan):
                return
            try:
                await self._carry_out(plan)
                return
            except Conflict as conflict:
                if conflict.current is None or not self._lives(conflict.current):
                    self._end_quietly()
                    return
                self._rebase(conflict.current)
                self._note(ConflictResolved(handle_of(conflict.current)))
                plan = None
        raise SessionError(_CONTENDED)

    def _turn(self) -> anyio.Lock:
        """Lets one task of this request at a time save: two at once would store a new session twice."""
        if self._lock is None:
            self._lock = anyio.Lock()
        return self._lock

    async def _save_for_headers(self, plan: Plan | None = None) -> None:
        """Save, after a task of this request that is at it, and before those that come while we are at it."""
        try:
            if self._lock is None:
                await self._commit(plan)
            else:
                async with self._lock:
                    await self._commit()
        finally:
            if self._saved is not None:
                self._saved.set()

    def _commit_now(self, plan: Plan) -> bool:
        """`_commit`, where there is nothing to wait for: False, and nothing is done, where there is."""
        (action, cookie), payload = plan
        if action is _NO_ACTION:
            if cookie is not NOTHING_TO_SAY:
                self._cookie = cookie
            return True
        if action is _DROP:
            self._end_quietly()
            return True
        setting, found = self._setting, self._found
        keep = setting.keep
        if keep is None or action not in setting.at_once:
            return False
        now = int(setting.clock())
        record = self._renewed(payload, now, False)
        try:
            kept = keep(found, record, now)
        except Conflict:
            return False  # it is tried once more by those who can tell
        if setting.on_event is not None:
            self._note(*of_keeping(found, kept, action is _ROTATE, self._identity))
        self._kept(kept)
        if cookie is _SET or found is None or kept.token != found.token or self._moved(found, kept, now):
            self._cookie = _SET
        return True

    async def _carry_out(self, plan: Plan) -> None:
        (action, cookie), payload = plan
        backend, policy, found = self._setting.backend, self._setting.policy, self._found
        now = int(self._setting.clock())
        if found is not None and action is _DELETE:
            await backend.delete(found, now, if_unchanged=True)
            self._forget()
            self._cookie = cookie
            return
        record = self._renewed(payload, now, action is _ROTATE)
        ends_at = deadline(record, policy)
        if found is None:
            kept = await self._create(record, ends_at, now)
        elif action is _ROTATE:
            new_id, grace = self._next_id, self._grace
            if new_id is None:  # it was due
                new_id, grace = await backend.new_id(), policy.rotate_grace
            kept = await backend.rotate(found, record, new_id, ends_at, now, now + grace if grace else 0)
        else:
            kept = await backend.replace(found, record, ends_at, now)
        signed_in = self._identity
        self._kept(kept)
        if (
            signed_in is not None
            and backend.owners is not None
            and not await backend.owners.is_listed(kept.record.identity or signed_in, now)
        ):
            # All sessions of this user were ended while this one was on its way.
            await backend.delete(kept, now)
            self._end_quietly()
            return
        if self._setting.on_event is not None:
            self._note(*of_keeping(found, kept, action is _ROTATE, signed_in))
        if cookie is _SET or found is None or self._moved(found, kept, now):
            self._cookie = _SET

    def _renewed(self, payload: Any, now: int, rotated: bool) -> Record:
        """The record to keep: it began when it began."""
        if payload is None:
            payload = self._setting.dumps(self)
        found, expiry, identity = self._found, self._expiry, self._identity
        if found is None:
            return Record(payload, now, now, *(expiry or Expiry()), None, identity)
        record = replace(found.record, payload=payload, renewed_at=now)
        if expiry is not None:
            record = replace(record, **expiry._asdict())
        if identity is not None:
            # A sign in begins the time that a session may last (NIST SP 800-63B-4, 5.2: reauthentication resets both).
            record = replace(record, began_at=now, identity=identity)
        return replace(record, rotated_at=now) if rotated else record

    def _kept(self, found: Found) -> None:
        self._replaced = self._found or self._replaced
        self._found = found
        self._next_id = self._expiry = self._identity = None

    async def _create(self, record: Record, ends_at: int, now: int) -> Found:
        session_id = self._next_id or self._given
        try:
            return await self._setting.backend.create(record, session_id, ends_at, now)
        except Conflict:
            if self._given is None or self._next_id is not None:
                raise SessionError("generate_id() gave an id that is in use.") from None
            raise  # an id of the application's own, which somebody else has filled meanwhile

    def _moved(self, old: Found, new: Found, now: int) -> bool:
        """Whether the browser holds something else than it should, or for another time."""
        policy = self._setting.policy
        if new.token != old.token:
            return True
        if new.is_alias:
            return False  # the browser has been given another id since
        return cookie_max_age(new.record, policy, now) != cookie_max_age(old.record, policy, now)

    def _lives(self, found: Found) -> bool:
        return why_over(found.record, self._setting.policy, int(self._setting.clock())) is None

    def _rebase(self, current: Found) -> None:
        """Do to what is stored now what this request did to what it found."""
        self._gather()
        base, theirs, mine = self._stored(), self._setting.loads(current.record.payload), self._items()
        ours = changes.diff(base, mine)
        merged = changes.apply(ours, theirs)
        on_conflict = self._setting.on_conflict
        if on_conflict != "merge" and (keys := changes.clashing(ours, changes.diff(base, theirs))):
            if on_conflict == "raise":
                raise SessionConflict("Another request has changed the same key of the session since it was loaded.")
            merged = changes.settle(merged, keys, on_conflict(base, theirs, self._copy_of(mine)))
        self._become(merged)
        self._found = current

    def _stored(self) -> dict[str, Any]:
        """The data as it was last read or written, in objects of its own."""
        found = self._found
        return {} if found is None else self._setting.loads(found.record.payload)

    def _copy_of(self, data: dict[str, Any]) -> dict[str, Any]:
        """The same data, in objects of its own."""
        return self._setting.loads(self._setting.dumps(data))

    def _become(self, data: Mapping[str, Any]) -> None:
        """Hold this data, in our own objects where they are equal: the handler may hold them, and change them on."""
        mine = self._items()
        self._handed_out = True  # nobody has looked at what is new in it
        dict.clear(self)
        for key, value in data.items():
            dict.__setitem__(self, key, mine[key] if key in mine and changes.same(mine[key], value) else value)

    async def _change_atomically(self, change: Callable[[dict[str, Any]], T]) -> T:
        """Run `change` on what is stored now, and again, until nobody else was faster."""
        self._gather()
        before = self._items()
        pending = changes.diff(self._stored(), before)  # what this request did before is saved with it
        for _ in range(MAX_ATTEMPTS):
            data = self._copy_of(changes.apply(pending, self._stored()))
            result = change(data)
            if iscoroutine(result):
                result.close()
                raise TypeError("update_atomically() takes a plain function: it may run several times.")
            self._become(data)
            self.modified = True
            try:
                plan = self._plan()
                if not self._commit_now(plan):
                    await self._carry_out(plan)
            except Conflict as conflict:
                if conflict.current is not None and self._lives(conflict.current):
                    self._found = conflict.current
                    self._note(ConflictResolved(handle_of(conflict.current)))
                    continue
                self._end_quietly()
            except BaseException:
                self._become(before)
                raise
            if self._gone:
                raise SessionGone("The session was ended since it was loaded, so nothing was saved.")
            return result
        raise SessionError(_CONTENDED)

    async def _listed_as(self, user_id: str, method: str, new_id: str) -> Identity:
        """Put the session that is about to be on its user's list, and end those that are too many.

        The one in whose place it comes stays on the list until it is replaced, and is not one too many.
        """
        backend, rules, now = self._setting.backend, self._setting.users, int(self._setting.clock())
        agent = next((value for name, value in self._headers if name == b"user-agent"), b"")
        identity = Identity(
            user_id,
            now,
            new_handle(),
            method,
            agent_in_words(agent.decode("latin-1")),
            shortened(self._client[0]) if self._client else "",
        )
        owners = backend.owners
        if owners is None:
            if backend.holds_data and not backend.has_said_so:
                backend.has_said_so = True
                _log.warning(
                    "Somebody signs in with a sealed cookie that cannot be called back: a copy of it outlives the sign "
                    "out. Give the backend revocations=… (a store), or keep sessions in a store."
                )
            return identity
        longest = max(self._setting.policy.max_age, rules.remember_for)
        # A sealed cookie lives while it is listed, and nobody can look whether it came to be: it has to say so.
        until = now + PENDING if backend.holds_data else listing_end(now + longest, now)
        identity = replace(identity, listed_until=until)
        listed = listed_as(identity, backend.place_of(new_id), now, is_sealed=backend.holds_data)
        seen = await owners.look(user_id, now)
        gone = await backend.gone(seen.listed, now)
        if self._identity is not None:  # signed in already, in this request
            gone |= {self._identity.handle}
        replaced = None if self._found is None else self._found.record.identity
        evicted: Index = ()

        def add(index: Index) -> Index:
            nonlocal evicted
            others = tuple(one for one in index if one.handle not in gone)
            rivals = tuple(one for one in others if replaced is None or one.handle != replaced.handle)
            too_many = 0 if rules.max_sessions is None else max(0, len(rivals) + 1 - rules.max_sessions)
            if too_many and not rules.evicts:
                raise TooManySessions("This user has as many sessions as are allowed.")
            evicted = rivals[:too_many]
            return (*(one for one in others if one not in evicted), listed)

        await owners.change(user_id, add, identity.listed_until, now, seen)
        for one in evicted:
            await backend.end(one, now)
            self._note(Revoked(one.handle, user_id))
        return identity

    def _end_quietly(self) -> None:
        """The session was ended, or rotated, by somebody else, whose response told the browser what there is now."""
        self._forget()
        self._gone = True
        self._cookie = Cookie.LEAVE

    def _has_unsaved(self) -> bool:
        """Whether something was changed since it was last saved."""
        self._gather()
        found, setting = self._found, self._setting
        if found is None:
            return dict.__len__(self) > 0
        if self._expiry is not None and self._expiry != expiry_of(found.record):
            return True
        base = found.record.payload
        return not setting.matches(base, self) and (
            setting.differs_for_sure(setting.dumps(self), base) or self._differs(base)
        )

    def _weights(self) -> list[tuple[str, int]]:
        """The heaviest keys, and about how many bytes each of them takes before it is sealed."""
        weights = [(str(key), _weight(value)) for key, value in dict.items(self)]
        return sorted(weights, key=lambda weight: weight[1], reverse=True)[:3]


def _weight(value: Any) -> int:
    try:
        return len(Msgpack().dumps({"": value}))
    except UnsupportedValue:  # another serializer, or a backend of the user's own, takes more types than ours
        return 0
