"""How a session is brought home: the machinery below `Session`.

`_plan` decides and waits for nothing, `_carry_out` does it, and `_commit` does both again when another request was
faster.
"""

# Annotations are not to be worked out: what they name of anyio is imported when it is asked for, which takes long.
from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import iscoroutine
from typing import Any, TypeVar

import anyio
from msgspec.structs import replace

from starsessions.backends.base import Conflict
from starsessions.core import merge
from starsessions.core.decision import LEAVE, Action, Cookie, Decision, decide_live, decide_new
from starsessions.core.record import (
    Expiry,
    Found,
    MissReason,
    Record,
    cookie_max_age,
    deadline,
    expiry_of,
    rotation_due,
    touch_due,
    why_expired,
)
from starsessions.core.serializer import Msgpack
from starsessions.events import ConflictResolved, events_for_save, handle_of
from starsessions.exceptions import SessionConflict, SessionError, SessionGone, UnsupportedValue
from starsessions.lifecycle.loading import NOTHING_TO_SAY, OPEN, SAVING, FoundDict

MAX_ATTEMPTS = 1000
"""Writes that may lose against other requests before we give up. Each loss is somebody else's success."""

_CONTENDED = "The session was changed by others so often while it was being saved that we gave up."

T = TypeVar("T")

_SET = Cookie.SET
_NO_ACTION, _DISCARD, _DELETE, _ROTATE = Action.NOTHING, Action.DISCARD, Action.DELETE, Action.ROTATE


Plan = tuple[Decision, Any]
"""What was decided, and the data encoded if that was needed to say it."""

SETTLED: Plan = (LEAVE, None)
"""There is nothing to do, and was nothing to look at."""


class KeptDict(FoundDict):
    """What `Session` is made of, and what the middleware works with."""

    __slots__ = ()

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
            return decide_new(self._ended, self.miss_reason is MissReason.JUST_ROTATED, empty, rotate), None
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
        return not merge.same_items(self._setting.loads(base), self._items())

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
        if action is _DISCARD:
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
            self._note(*events_for_save(found, kept, action is _ROTATE, self._identity))
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
            and backend.user_index is not None
            and not await backend.user_index.is_indexed(kept.record.identity or signed_in, now)
        ):
            # All sessions of this user were ended while this one was on its way.
            await backend.delete(kept, now)
            self._end_quietly()
            return
        if self._setting.on_event is not None:
            self._note(*events_for_save(found, kept, action is _ROTATE, signed_in))
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
        return why_expired(found.record, self._setting.policy, int(self._setting.clock())) is None

    def _rebase(self, current: Found) -> None:
        """Do to what is stored now what this request did to what it found."""
        self._gather()
        base, theirs, mine = self._stored(), self._setting.loads(current.record.payload), self._items()
        ours = merge.diff(base, mine)
        merged = merge.apply(ours, theirs)
        on_conflict = self._setting.on_conflict
        if on_conflict != "merge" and (keys := merge.conflicting_keys(ours, merge.diff(base, theirs))):
            if on_conflict == "raise":
                raise SessionConflict("Another request has changed the same key of the session since it was loaded.")
            merged = merge.settle(merged, keys, on_conflict(base, theirs, self._copy_of(mine)))
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
            dict.__setitem__(self, key, mine[key] if key in mine and merge.same(mine[key], value) else value)

    async def _change_atomically(self, change: Callable[[dict[str, Any]], T]) -> T:
        """Run `change` on what is stored now, and again, until nobody else was faster."""
        self._gather()
        before = self._items()
        pending = merge.diff(self._stored(), before)  # what this request did before is saved with it
        for _ in range(MAX_ATTEMPTS):
            data = self._copy_of(merge.apply(pending, self._stored()))
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
