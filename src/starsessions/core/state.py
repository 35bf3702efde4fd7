"""The session of one request as a state machine: facts and requests go in, one command comes out. It does no I/O.

States and transitions
----------------------

Each request has one `SessionState`. It holds what was loaded, what the handler asked for, and how far the response has
progressed. It knows no backend, event loop, clock or header. Its drivers (`lifecycle/loading.py` and
`lifecycle/saving.py`) do the I/O, report what happened, and ask what to do next. So the tests can run every order of
events without an event loop, thousands per second (`tests/core/test_state_races.py`).

                   loaded(Found)                        command()
    ┌────────┐ ─────────────────► ┌──────┐ ──► Nothing     ─────────────────────────► done
    │  new   │                    │ live │ ──► Replace     ── saved(kept) ──────────► live
    └────────┘ ◄───────────────── └──────┘ ──► Rotate      ── saved(kept) ──────────► live, under a new id
      │    ▲    deleted(), lost()       │ ──► Delete       ── deleted() ────────────► new
      │    └───────────────────────────┘                   ── conflict(current) ────► live: merged, decide again
      │ command()                                          ── conflict(None) ───────► lost: nothing is written,
      │                                                                               unless a sign-in is pending
      └──► Nothing | Discard | Create ── saved(kept) ──► live

*Facts* report what happened: `loaded`, `saved`, `deleted`, `lost`, `conflict`. *Requests* record what the handler
wants: `rotate`, `sign_in`, an `expiry`, and changes to the data. A request writes nothing to the backend. `command`
reads all requests at once, when the response starts or `persist()` is called.

A *command* is a row of the decision table (`core/decision.py`) with its arguments: the record to store, the id, the
expiry, and the record that it replaces. It is a value: it can be compared, logged and carried out twice. It is outdated
once another fact is reported: ask for a new command then.

Three rules keep the state consistent.

1. **No command overwrites unconditionally.** `Replace`, `Rotate` and `Delete` name the record that they are based on
   (`found`, with its version). If the backend holds another one by then, it raises a conflict, and `conflict` merges:
   the keys that this request set or deleted are applied to the stored data, and `command` decides again. If the record
   is missing, the session was ended or rotated elsewhere. Then it is `lost`, and this request cannot bring it back:
   that makes a sign-out final. The request does not begin another session either, unless it asks for a new id, as a
   sign-in does. A pending sign-in outlives the session that it was to replace, because a browser sends a form twice and
   drops the first response: it begins a session of its own. An id within its grace period rotates nothing. Otherwise
   the holder of an old id could take the session from the holder of the current one. There is one exception, because
   a sign-out must not depend on what others write: `delete()`, and `clear()` of a user's session, end whatever is
   stored under the id by then.
2. **A request is cleared once it is done.** `saved` clears those of `next_id`, `expiry` and `identity` that its command
   carried out: another task of this request may have asked for more since the decision. `deleted` clears all of them,
   and so does `lost`, unless a sign-in is pending. Otherwise they would apply to the next session: if a user signed in
   and out within one request, data that the handler stores afterwards would sign the user in again. (After `clear()`,
   they were asked for the next session, and are kept.)
3. **The cookie changes only when this request has succeeded.** `cookie` is what the response tells the browser. If
   another request ended or rotated the session, the cookie is left alone: the response to that request has already told
   the browser the new state, and this response may arrive later. This also applies while the old id still works: a
   cookie that this request was about to set is not sent.

When a payload is compared
--------------------------

Python code can change a list inside the session without calling the session. So `touched` has the keys that the handler
has set or deleted, or whose list or dict it holds, with what was stored under them (`core/snapshot.py`), and only these
keys are compared and encoded. All other keys are as in the payload of `found`. Where that is not certain, because data
was merged or a model writes to it, `exposed` is set, and all of it is compared. If neither is set, nothing is compared,
and the request costs nothing (`is_settled`).

The phase
---------

The middleware advances `phase` with the response: `OPEN` until the headers are ready to be sent, `SAVING` while they
wait for the session, then `CLOSED`. After that only `persist()` saves. Its first call sets `BY_HAND`, which is also the
phase of an accepted WebSocket. A change in `CLOSED` raises, because it could not be saved, and losing it silently would
be worse. `FAILED` means that saving raised, and the application sent another response.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum, auto
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from starsessions.core import merge
from starsessions.core.decision import (
    CLEAR,
    CREATE,
    DELETE,
    LEAVE,
    REPLACE,
    ROTATE,
    Cookie,
    Decision,
    decide_live,
    decide_new,
)
from starsessions.core.decision import DISCARD as DECIDED_DISCARD
from starsessions.core.record import (
    Expiry,
    Found,
    Identity,
    MissReason,
    Opaque,
    Policy,
    Record,
    expiry_of,
    is_bare,
    readable,
    rotation_due,
    to_tell,
    touch_due,
    why_expired,
)
from starsessions.core.sizes import heaviest
from starsessions.exceptions import (
    BackendUnavailable,
    ResponseStarted,
    SessionConflict,
    SessionTooLarge,
)


class Phase(Enum):
    """How far the response has progressed."""

    OPEN = auto()
    """The headers have not been sent. Changes are saved when they are."""
    SAVING = auto()
    """The session is being saved. This stays the phase if saving raises, until the application sends a response."""
    FAILED = auto()
    """Saving failed, and the application has sent another response."""
    CLOSED = auto()
    """The headers have been sent. Nothing is saved automatically."""
    LEFT = auto()
    """An exception has left the middleware: the handler of `Exception` runs outside of it, and nothing is saved."""
    BY_HAND = auto()
    """The headers have been sent, and `persist()` saves. For a WebSocket, so does the end of the connection."""


OPEN, SAVING, CLOSED, BY_HAND = Phase.OPEN, Phase.SAVING, Phase.CLOSED, Phase.BY_HAND  # the hot path looks them up once


Held = dict[Any, bytes | None] | None


class Nothing(Struct, frozen=True):
    """Leave the stored session as it is."""

    cookie: Cookie = Cookie.LEAVE


class Discard(Struct, frozen=True):
    """Drop the handler's data: a new session would replace the one in the browser."""


class Create(Opaque, frozen=True):
    """Store a new session."""

    record: Record
    session_id: str | None
    """The requested id; None: a new one from the backend."""
    held: Held = None
    """What is under the keys that the handler has touched, in this record: see `SessionState.touched`."""


class Replace(Opaque, frozen=True):
    """Store `record` in place of `found`. A renewal without a change is also one: it updates the record's times."""

    found: Found
    record: Record
    held: Held = None


class Rotate(Opaque, frozen=True):
    """Store `record` under a new id, and end the id of `found`."""

    found: Found
    record: Record
    session_id: str | None
    """The new id; None: a new one from the backend, because the old id has reached `rotate_every`."""
    usable_until: int
    """The time until which the old id still works, in seconds since 1970; 0: it stops working at once."""
    held: Held = None


class Delete(Struct, frozen=True):
    """End the session, if the backend still holds `found`; a sign-out ends what it holds instead."""

    found: Found


Command = Nothing | Discard | Create | Replace | Rotate | Delete

NOTHING, DISCARD = Nothing(), Discard()
AFTER_YIELD = 'After the `yield` of a FastAPI dependency: Depends(…, scope="function").'
_WITHOUT_A_SESSION: dict[Decision, Command] = {LEAVE: NOTHING, CLEAR: Nothing(Cookie.CLEAR), DECIDED_DISCARD: DISCARD}


class Rules(Struct, frozen=True):
    """The settings of the middleware that the state machine needs: the policy, and how data is encoded."""

    policy: Policy
    is_client_side: bool
    """Whether the token contains the data, so that every change needs a new cookie."""
    sends_ids: bool
    """Whether the browser gets ids, which stay the same when the data changes: see `Record.told`."""
    max_size: int | None
    """The longest payload in bytes that is saved; None: any."""
    raises_on_conflict: bool
    keeps_going: bool
    """Whether use alone can renew, rotate or confirm a session."""
    loads: Callable[[Any], dict[str, Any]]
    dumps: Callable[[dict[str, Any]], Any]
    patched: Callable[[Any, dict[str, Any], Collection[Any]], Any]
    """Encodes only what has changed, if it can: see `Msgpack.patched`."""
    snapshot: Callable[[Any], bytes | None]
    """Remembers what a value is; None if it cannot, so that the value is always compared."""
    matches: Callable[[Any, dict[str, Any]], bool]
    """Whether a cheap comparison proves that the data equals the payload's."""
    differs_for_sure: Callable[[Any, Any], bool]
    """Whether different payloads hold different data, as far as that shows without decoding them."""


class SessionState(Struct, eq=False, kw_only=True):
    """The state of one request's session. In every method, `data` is the session itself, as a dict.

    It is a struct because each request creates one: C code fills all fields in the time of four lines of `__init__`.
    The fields are for keywords only, so that the few that a request is created with can be passed by position.
    """

    config: Rules
    phase: Phase = OPEN
    is_loaded: bool = False
    ready: bool = False
    """Whether the data is loaded and was accessed, so that reads need no further check."""
    accessed: bool = False
    """Whether the session was accessed before it was `ready`."""
    modified: bool = False
    """Whether a method that changes the data was called."""
    touched: Held = None
    """The keys that may have changed, with a snapshot of the value that is stored; None: it was set or deleted."""
    holds: bool = False
    """Whether the session may change after it is saved: the handler holds a list or dict, or saves by hand."""
    exposed: bool = False
    """Whether anything may have changed, so that all is compared. Then it also `holds`: see `expose`."""
    removed: bool = False
    """Whether a key was removed."""
    found: Found | None = None
    """The valid session, as it was last read or written."""
    miss_reason: MissReason | None = None
    """Why there is no valid session; None if there is one, or if it is not loaded yet."""
    explicit_id: str | None = None
    """The id that the application chose for a session used by hand."""
    next_id: str | None = None
    """The requested new id, until it is saved."""
    grace: int = 0
    """The number of seconds for which the id that `next_id` replaces still works."""
    expiry: Expiry | None = None
    """The requested expiry, until it is saved."""
    identity: Identity | None = None
    """The user who has signed in, until that is saved."""
    has_ended: bool = False
    """Whether this request ended a valid session."""
    signs_out: bool = False
    """Whether the session of a user is to end, because it was cleared: see `replaced`."""
    lost_session: Found | None = None
    """The session that another request has ended or moved: if it lives on, a sign-out has to end it there."""
    is_lost: bool = False
    """Whether another request ended or rotated the session after it was loaded, and no new one has begun."""
    is_withheld: bool = False
    """Whether another site sent the request, and the browser withheld the cookie (SameSite): see `core/arrival.py`."""
    cookie: Cookie = Cookie.LEAVE
    """What the response does to the cookie."""
    wrote: bool = False
    """Whether this request has written the session, ended or lost it: then no cache may keep its response."""
    models: Sequence[Callable[[], None]] = ()
    """The models of `starsessions.typed`: each writes its changes into the data when it is called."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # tools that print local variables must not reveal ids and cookies

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    # Facts

    def loaded(self, result: Found | MissReason) -> dict[str, Any]:
        """Take the backend's answer, and return the data."""
        self.is_loaded = True
        if isinstance(result, Found):
            data = readable(result.record.payload, self.config.loads)
            if data is not None:
                self.found = result
                if self.miss_reason is not None or self.is_lost:  # setting a field costs more than looking at it
                    self.miss_reason, self.is_lost = None, False
                return data
            result = MissReason.UNDECODABLE
        self.miss_reason = result
        return {}

    def saved(self, command: Create | Replace | Rotate, kept: Found) -> None:
        """Record that the backend has carried out the command, and now holds `kept`."""
        found = self.found
        # The cookie must be set if its value or its lifetime differs from what the browser has.
        if (
            found is None
            or kept.token != found.token
            or type(command) is not Replace
            or kept.record.told != found.record.told
        ):
            self.cookie = Cookie.SET
        self.found = kept
        self.wrote = True
        if command.held is not None:  # the handler still holds its values, and may have touched others meanwhile
            self.touched = {**(self.touched or {}), **command.held}
        if self.is_lost:
            self.is_lost = False
        if self.next_id is not None or self.expiry is not None or self.identity is not None:
            self._forget_notes_in(command)

    def _forget_notes_in(self, command: Create | Replace | Rotate) -> None:
        # What another task of this request has asked for since the decision is still to be done.
        if not isinstance(command, Replace) and command.session_id == self.next_id:
            self.next_id = None
        if self.expiry == expiry_of(command.record):
            self.expiry = None
        if self.identity is command.record.identity:
            self.identity = None

    def deleted(self, data: dict[str, Any], keeps: bool = False) -> None:
        """Record that this request has ended the session. `keeps`: the data and all requests are for the next one."""
        if keeps:
            self.found = self.explicit_id = None
            self.signs_out = False
        else:
            self.forget(data)
        self.lost_session = None
        self.has_ended = self.modified = self.wrote = True
        self.cookie = Cookie.CLEAR

    def lost(self, data: dict[str, Any], moved_to: Found | None = None) -> bool:
        """Record that another request ended or rotated the session. Its response has told the browser the new state.

        Return whether a sign-in is pending, which begins a session of its own. It keeps the data only if the lost
        session lives on under another id, `moved_to`, and belongs to no other user. Otherwise it keeps only the keys
        that this request has added.
        """
        identity = self.identity
        self.lost_session = self.found
        if identity is None:
            self.forget(data)
        else:
            if moved_to is None or _is_of_another_user(moved_to, identity):
                for key in self.stored():
                    dict.pop(data, key, None)
                self.models = ()
            self.found = self.explicit_id = None
        self.is_lost = self.wrote = True
        self.cookie = Cookie.LEAVE
        return identity is not None

    def conflict(
        self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None
    ) -> dict[str, Any] | None:
        """Merge this request's changes into `current`, which another request has stored. None: nothing is to be saved.

        The keys that this request set or deleted are applied to the stored data. If both requests changed a key, this
        one wins, because it is later. If the session is lost, only a pending sign-in is saved: see `lost`.

        Raises:
            SessionConflict: both requests changed a key, and `on_conflict` is "raise".
        """
        if current is None or (theirs := self._read_alive(current, now)) is None:
            return dict(dict.items(data)) if self.lost(data, moved_to) else None
        base = self.stored()
        ours = merge.diff(base, dict(dict.items(data)))
        if self.config.raises_on_conflict and merge.conflicting_keys(ours, merge.diff(base, theirs)):
            raise SessionConflict("Another request has changed the same key of the session since it was loaded.")
        self._adopt(current)
        return merge.apply(ours, theirs)

    def rebase(self, current: Found | None, data: dict[str, Any], now: int, moved_to: Found | None = None) -> bool:
        """Take over `current` without merging, because the change will run again on it. False: the session is lost."""
        if current is None or self._read_alive(current, now) is None:
            return self.lost(data, moved_to)
        self._adopt(current)
        return True

    def _adopt(self, current: Found) -> None:
        self.found = current
        if current.is_alias:
            self.cookie = Cookie.LEAVE  # another response is giving the browser a new id, which must not be replaced

    def forget(self, data: dict[str, Any]) -> None:
        """Clear the data and all requests, so that they do not apply to the next session."""
        dict.clear(data)
        self.found = self.explicit_id = self.next_id = self.expiry = self.identity = None
        self.signs_out = False
        self.models = ()

    # What the handler holds

    def hand_out(self, key: Any, data: dict[str, Any]) -> None:
        """Remember what is under a key, before the handler gets this list or dict."""
        if self.exposed or not dict.__contains__(data, key):  # it gets the default of `get`
            return
        self.holds = True
        if self.touched is None:
            self.touched = {}
        if key not in self.touched:
            self.touched[key] = self.config.snapshot(dict.__getitem__(data, key))

    def expose(self) -> None:
        """Compare all data from now on, because it is not known what has changed or may change."""
        self.exposed = self.holds = True

    def _held(self, data: dict[str, Any]) -> Held:
        """Return snapshots of the values that the handler may hold, as they are now."""
        if not self.holds or self.exposed or self.touched is None:
            return None
        snapshot = self.config.snapshot
        return {
            key: snapshot(dict.__getitem__(data, key)) if dict.__contains__(data, key) else None
            for key in [*self.touched]  # a thread of the handler may touch another one meanwhile
        }

    # Requests

    def rotate(self, new_id: str, grace: int = 0) -> None:
        """Give the session a new id. The old one still works for `grace` seconds."""
        self.next_id, self.grace, self.modified = new_id, grace, True

    def expire(self, expiry: Expiry) -> None:
        """Give the session an expiry of its own."""
        self.expiry, self.modified = expiry, True

    def replaced(self, content: Mapping[str, Any]) -> None:
        """Note that the handler has put this in the place of all data.

        If it is nothing, a user who has signed in earlier is signed out: code for Starlette does it by `clear()`. What
        is put in afterwards begins another session.
        """
        self.expose()
        if content:
            return
        self.models = ()  # otherwise a model that was changed earlier would write itself back
        if self.identity is None and self.user is not None:
            self.signs_out = True
            self.next_id = self.expiry = None  # they were asked for the session that ends

    def sign_in(self, identity: Identity, new_id: str, expiry: Expiry | None) -> None:
        """Sign the user in to the session, under a new id."""
        self.identity = identity
        self.signs_out = False  # `keep_data=False` clears the session, which is then replaced
        self.rotate(new_id)
        # Drop the expiry that the previous sign-in set.
        self.expiry = expiry or self.expiry or Expiry()

    def take_along(self, payload: Any, data: dict[str, Any]) -> None:
        """Add the data of the session that a sign-in of this user has just replaced, except keys that are set anew."""
        for key, value in (readable(payload, self.config.loads) or {}).items():
            dict.setdefault(data, key, value)
        self.expose()  # another task may have saved meanwhile

    # The decision

    @property
    def is_settled(self) -> bool:
        """Whether nothing can have changed, so that no decision is needed."""
        return self.found is not None and not (
            self.modified or self.exposed or self.touched is not None or self.config.keeps_going
        )

    @property
    def has_requests(self) -> bool:
        """Whether a new id, an expiry or a sign-in is to be saved."""
        return self.next_id is not None or self.expiry is not None or self.identity is not None

    def command(self, data: dict[str, Any], now: int, by_hand: bool = False) -> Command:
        """Return what the driver has to do. `by_hand`: `persist()` was called, and saves whatever has changed."""
        found, config = self.found, self.config
        if found is None:
            return self._begin(data, now, by_hand)
        if self.signs_out:
            return Delete(found)
        record = found.record
        payload, held, due = record.payload, None, False
        if self.touched is not None or self.exposed:
            payload, held = self._compared(data, payload)
        is_new = payload is not record.payload
        # A signed-in user has a session, whether or not there is data in it.
        emptied = is_new and not (dict.__len__(data) or by_hand or self.user is not None)
        changed = is_new or by_hand or (self.expiry is not None and self.expiry != expiry_of(record))
        rotate = self.next_id is not None
        if config.keeps_going:
            due = touch_due(record, config.policy, now) or self._confirms(record.identity)
            rotate = rotate or self._is_rotation_due(found, now)
        decision = decide_live(emptied, rotate, changed, due, found.is_alias, self.identity is not None)
        if decision is LEAVE:
            return NOTHING
        if decision is not REPLACE:
            return self._instead(decision, found, data, payload, held, now)
        renewed = self._renewed(record, payload, data, now)
        return Replace(found, self._told(renewed, now) if config.sends_ids and not found.is_alias else renewed, held)

    def _begin(self, data: dict[str, Any], now: int, by_hand: bool) -> Command:
        holds = self.is_loaded and dict.__len__(data)
        is_empty = self.identity is None and not by_hand and not holds
        stale = self.is_lost or self.is_withheld or self.miss_reason is MissReason.JUST_ROTATED
        # Code for Starlette signs out with `session.clear()`, also when several cookies made the session unreadable.
        ended = self.has_ended or (self.modified and self.miss_reason is MissReason.SEVERAL)
        decision = decide_new(ended, stale, is_empty, self.next_id is not None)
        return self._create(data, now) if decision is CREATE else _WITHOUT_A_SESSION[decision]

    def _instead(
        self, decision: Decision, found: Found, data: dict[str, Any], payload: Any, held: Held, now: int
    ) -> Command:
        """Return a command that does not store the session under the id that it has."""
        if decision is DELETE:
            return Delete(found)
        if decision is CREATE:
            return self._create(data, now)
        if decision is not ROTATE:
            return DISCARD
        return self._rotate(found, self._renewed(found.record, payload, data, now), held, now)

    def _create(self, data: dict[str, Any], now: int) -> Create:
        config, identity = self.config, self.identity
        payload = config.dumps(data)
        self._check_size(payload, data)
        bare = config.sends_ids and identity is None and is_bare(data)
        record = Record(payload, now, now, *(self.expiry or Expiry()), None, identity, is_bare=bare)
        return Create(self._told(record, now), self.next_id or self.explicit_id, self._held(data))

    def _rotate(self, found: Found, record: Record, held: Held, now: int) -> Rotate:
        grace = self.grace if self.next_id is not None else self.config.policy.rotate_grace
        record = self._told(replace(record, rotated_at=now, told=-1), now)
        return Rotate(found, record, self.next_id, now + grace if grace else 0, held)

    def _told(self, record: Record, now: int) -> Record:
        """Note in the record until when the browser will keep its cookie, if the response has to say so."""
        config = self.config
        if not config.sends_ids or not (self.phase is OPEN or self.phase is SAVING):
            return record
        told = to_tell(record, config.policy, now)
        return record if told == record.told else replace(record, told=told)

    def _is_rotation_due(self, found: Found, now: int) -> bool:
        # Only while the cookie can still be sent, and not for a request that sent the previous id.
        can_tell = self.phase is OPEN or self.phase is SAVING
        return can_tell and not found.is_alias and rotation_due(found.record, self.config.policy, now)

    def _compared(self, data: dict[str, Any], base: Any) -> tuple[Any, Held]:
        """Return the payload, which is `base` itself if nothing has changed, and what the handler holds."""
        held = self._held(data) if self.holds else None
        payload = self._encode(data, base, held)
        if payload is not base and self.config.max_size is not None:
            self._check_size(payload, data)
        return payload, held

    def _encode(self, data: dict[str, Any], base: Any, held: Held) -> Any:
        """Return the payload; `base` itself, the payload of what is stored, if the data is the same."""
        config = self.config
        if self.exposed:
            return base if config.matches(base, data) else self._encode_all(data, base)
        touched = self.touched or {}
        changed: Collection[Any] = touched
        if held is not None:
            changed = [key for key, now in held.items() if now is None or now != touched[key]]
        if not changed:
            return base
        payload = config.patched(base, data, changed)
        return self._encode_all(data, base) if payload is None else payload

    def _encode_all(self, data: dict[str, Any], base: Any) -> Any:
        config = self.config
        payload = config.dumps(data)
        if payload == base:
            return base
        if config.differs_for_sure(payload, base):
            return payload
        return base if merge.same_items(config.loads(base), dict(dict.items(data))) else payload

    def _check_size(self, payload: Any, data: dict[str, Any]) -> None:
        most = self.config.max_size
        if most is not None and len(payload) > most:
            raise SessionTooLarge(len(payload), most, heaviest(data), in_store=True)

    def _renewed(self, record: Record, payload: Any, data: dict[str, Any], now: int) -> Record:
        """Return the record to store. Only a sign-in changes its `began_at`, from which `absolute_timeout` counts."""
        identity = record.identity
        bare = (
            self.config.sends_ids
            and (self.exposed or self.removed or record.is_bare)  # otherwise nothing was removed
            and identity is None
            and is_bare(data)
        )
        if identity is not None and self._confirms(identity):
            identity = replace(identity, is_confirmed=True)
        record = replace(record, payload=payload, renewed_at=now, is_bare=bare, identity=identity)
        if self.expiry is not None:
            record = replace(record, **self.expiry._asdict())
        if self.identity is not None:
            # A sign-in restarts the lifetime (NIST SP 800-63B-4, 5.2: reauthentication resets both limits).
            record = replace(record, began_at=now, identity=self.identity, is_bare=False)
        return record

    def _confirms(self, identity: Identity | None) -> bool:
        """Return whether this request shows that the answer to the sign-in has arrived: it has brought the cookie."""
        return identity is not None and not identity.is_confirmed and not self.wrote

    def has_unsaved(self, data: dict[str, Any]) -> bool:
        """Return whether anything has changed since the session was last saved."""
        found = self.found
        if self.signs_out:
            return True
        if found is None:
            return self.is_loaded and dict.__len__(data) > 0
        if self.expiry is not None and self.expiry != expiry_of(found.record):
            return True
        base = found.record.payload
        return self._encode(data, base, self._held(data)) is not base

    # What is allowed now

    def check_known(self) -> None:
        """Raise if loading failed. The session may exist: a change would lose its data, and a sign-out not end it."""
        if self.miss_reason is MissReason.UNAVAILABLE:
            raise BackendUnavailable(
                "The store failed when the session was loaded, so it can be neither changed nor ended: send the "
                "request again."
            )

    def check_change(self) -> None:
        """Raise `ResponseStarted` for a change that could not be saved."""
        self.check_known()
        if self.phase is OPEN:
            return
        self.check_reachable()
        if self.phase is not BY_HAND:
            raise ResponseStarted(
                "The response has started, and the session is already saved. To change it from now on, save by hand: "
                f"call `await session.persist()` first, and again after each change. {AFTER_YIELD}"
            )
        self.holds = True  # so that it is compared again when the application has returned

    def check_reachable(self) -> None:
        """Raise `ResponseStarted` if saving needs a cookie that can no longer be sent."""
        if not self.is_reachable:
            raise ResponseStarted(
                "The headers have been sent, and saving this session needs a new cookie: change the session, or call "
                "`await session.persist()`, before the response starts (WebSocket: before it is accepted). "
                + AFTER_YIELD
            )

    @property
    def is_reachable(self) -> bool:
        """Whether the session can be saved without a new cookie."""
        return self.found is not None and not self.config.is_client_side

    def check_sendable(self) -> None:
        """Raise `ResponseStarted` if a new id can no longer reach the browser."""
        self.check_known()
        if self.phase is not OPEN:
            raise ResponseStarted(
                "The headers have been sent, so the new id can no longer reach the browser: "
                "sign in, or call regenerate_id(), before the response starts."
            )

    # Queries

    @property
    def session_id(self) -> str | None:
        """The id that the session has, or will have once it is saved."""
        if self.next_id is not None:
            return self.next_id
        return self.found.token if self.found is not None else self.explicit_id

    @property
    def user(self) -> Identity | None:
        """The signed-in user; None if the session is anonymous."""
        if self.identity is not None:
            return self.identity
        return None if self.found is None or self.signs_out else self.found.record.identity

    def stored(self) -> dict[str, Any]:
        """Return the data as it was last read or written, as a new dict."""
        return {} if self.found is None else self.config.loads(self.found.record.payload)

    def _read_alive(self, found: Found, now: int) -> dict[str, Any] | None:
        if why_expired(found.record, self.config.policy, now) is not None:
            return None
        return readable(found.record.payload, self.config.loads)


def _is_of_another_user(found: Found, identity: Identity) -> bool:
    user = found.record.identity
    return user is not None and user.user_id != identity.user_id
