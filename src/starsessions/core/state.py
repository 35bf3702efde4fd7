"""One request's session as a state machine: facts and requests go in, one command comes out. Nothing here waits.

How a session moves
-------------------

A request has one `SessionState`. It knows what was loaded, what the handler asked for, and how far the response is. It
does not know a backend, an event loop, a clock or a header. Its drivers (`lifecycle/loading.py` and
`lifecycle/saving.py`, the only two places that wait) tell it what happened, and ask it what to do next. So every
order of events can be tried without a loop, thousands of them in a second (`tests/core/test_state_races.py`).

                   loaded(Found)                        command()
    ┌────────┐ ─────────────────► ┌──────┐ ──► Nothing     ─────────────────────────► done
    │  new   │                    │ live │ ──► Replace     ── saved(kept) ──────────► live
    └────────┘ ◄───────────────── └──────┘ ──► Rotate      ── saved(kept) ──────────► live, under a new id
      │    ▲    deleted(), lost()       │ ──► Delete       ── deleted() ────────────► new
      │    └───────────────────────────┘                   ── conflict(current) ────► live: merged, decide again
      │ command()                                          ── conflict(None) ───────► lost: nothing is written
      └──► Nothing | Discard | Create ── saved(kept) ──► live

*Facts* are what happened: `loaded`, `saved`, `deleted`, `lost`, `conflict`. *Requests* are what the handler wants:
`rotate`, `expire`, `sign_in`, and the changes that it makes to the data. A request writes nothing. It is a note, and
`command` reads all notes at once, when the response starts or `persist()` is called.

A *command* is the row of the decision table (`core/decision.py`) together with its arguments: which record, under which
id, until when, in the place of what. It is a value. It can be compared, logged and carried out twice, and it is wrong
to carry it out after another fact has come in: ask again.

Three rules hold everything together.

1. **No command overwrites.** `Replace`, `Rotate` and `Delete` name what they were decided on (`found`, with its
   version). If the backend has something else by then, it refuses, and `conflict` merges: the keys that this request
   set or deleted are applied to what is stored now, and `command` is asked again. If nothing is stored any more, the
   session was ended or rotated elsewhere. Then it is `lost`, and nothing that this request did can bring it back: that
   is why a logout is final. Nor does the request begin another session, unless it asks for a new id, as a sign-in does.
2. **What was asked for is forgotten when it is done.** `saved` clears the notes (`next_id`, `expiry`, `identity`) that
   its command carried out: another task of this request may have asked for something since the decision, and that is
   still to be done. `deleted` and `lost` clear all of them. A note that outlived its session would be done to the next
   one: a user who signs in and out again within one request would be signed in by the data that the handler stores
   afterwards.
3. **The browser is told the truth or nothing.** `cookie` says what the response has to say. Only this request's own
   success sets or clears it. A session that was ended or rotated by another request leaves the cookie alone, because
   that request's response has told the browser what holds now, and ours may arrive later. That is also so where the old
   id still works: a cookie that this request had set before is not sent then.

Why a payload is compared, and when
-----------------------------------

Python code can change a list inside of the session without asking anyone. So `exposed` remembers that such a value
was handed out, and then the data is encoded and compared with the bytes that were loaded. Where nothing was handed out
and no changing method was called, there is nothing to compare, and the request costs nothing (`is_settled`).

The phase
---------

The shell moves `phase` as the response goes on: `OPEN` until the headers wait for the session, `SAVING` while they do,
then `CLOSED`. From there on only `persist()` saves. Its first call moves to `BY_HAND`, which is also where a WebSocket
is once it was accepted. A change in `CLOSED` raises, because it could not be saved, and to lose it silently is the
worst answer. `FAILED` is a save that raised, after which the application has sent another response.
"""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from starsessions.core import merge
from starsessions.core.decision import Action, Cookie, decide_live, decide_new
from starsessions.core.record import (
    Expiry,
    Found,
    Identity,
    MissReason,
    Opaque,
    Policy,
    Record,
    cookie_max_age,
    expiry_of,
    rotation_due,
    touch_due,
    why_expired,
)
from starsessions.exceptions import BackendUnavailable, ResponseStarted, SessionConflict


class Phase(Enum):
    """How far the response is."""

    OPEN = auto()
    """The headers have not been sent. Changes are saved when they are."""
    SAVING = auto()
    """The session is being saved. It stays like that if saving failed: the error was raised to somewhere."""
    FAILED = auto()
    """Saving failed, and the application has sent another response."""
    CLOSED = auto()
    """The headers have been sent. Nothing is saved automatically."""
    BY_HAND = auto()
    """The headers have been sent, and `persist()` saves. For a WebSocket, so does the end of the connection."""


OPEN, SAVING, CLOSED, BY_HAND = Phase.OPEN, Phase.SAVING, Phase.CLOSED, Phase.BY_HAND  # the hot path looks them up once


class Nothing(Struct, frozen=True):
    """Leave the stored session as it is."""

    cookie: Cookie = Cookie.LEAVE


class Discard(Struct, frozen=True):
    """Drop what the handler put in: a new session could push the one that was rotated out of the browser."""


class Create(Opaque, Struct, frozen=True):
    """Store a new session."""

    record: Record
    session_id: str | None
    """The id that was asked for; None: a new one from the backend."""

    def __repr__(self) -> str:
        return "<Create>"  # tools that print local variables must not reveal ids

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Replace(Struct, frozen=True):
    """Store `record` in the place of `found`. A renewal without a change is one, too: the record says when it was."""

    found: Found
    record: Record


class Rotate(Opaque, Struct, frozen=True):
    """Store `record` under a new id, and end the id of `found`."""

    found: Found
    record: Record
    session_id: str | None
    """The new id; None: a new one from the backend, because the old one is due."""
    usable_until: int
    """The instant until which the old id still works; 0: it does not."""

    def __repr__(self) -> str:
        return "<Rotate>"  # tools that print local variables must not reveal ids

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


class Delete(Struct, frozen=True):
    """End the session, if it is still what was found."""

    found: Found


Command = Nothing | Discard | Create | Replace | Rotate | Delete

NOTHING, DISCARD = Nothing(), Discard()
_CLEAR = Nothing(Cookie.CLEAR)


class Rules(Struct, frozen=True):
    """What the machine has to know of its middleware: the policy, and how data is encoded."""

    policy: Policy
    is_client_side: bool
    """Whether the token itself is the data, so that every change needs a new cookie."""
    raises_on_conflict: bool
    keeps_going: bool
    """Whether use alone can renew or rotate a session."""
    loads: Callable[[Any], dict[str, Any]]
    dumps: Callable[[dict[str, Any]], Any]
    dumps_again: Callable[[dict[str, Any], Any, bool], tuple[Any, bool]]
    """`dumps`, for data whose lists and dicts are as this payload was decoded: see `Msgpack.dumps_again`."""
    matches: Callable[[Any, dict[str, Any]], bool]
    """Whether data is, for certain and cheaply, what a payload holds."""
    differs_for_sure: Callable[[Any, Any], bool]
    """Whether other bytes are other data, as far as that can be told without decoding them."""


class SessionState(Opaque, Struct, eq=False):
    """One request's session. `data` is the session itself, as a dict, in every method that takes it.

    It is a struct because each request makes one: its fields are filled in C, all of them in the time of four lines of
    `__init__`.
    """

    config: Rules
    phase: Phase = OPEN
    is_loaded: bool = False
    ready: bool = False
    """Whether the data was loaded and asked for, so that it may be read without another look here."""
    accessed: bool = False
    modified: bool = False
    """Whether a method was called that changes."""
    exposed: bool = False
    """Whether the handler may hold a value that can be changed without a call to the session."""
    only_plain: bool = True
    """Whether all that was put in is a str, an int, a bool or None under a str, and nothing was exposed."""
    in_order: bool = True
    """Whether nothing was taken out, so that nothing can have come back in another position."""
    found: Found | None = None
    """The live session, as it was last read or written."""
    miss_reason: MissReason | None = None
    """Why there is no live session; None if there is one, or if nothing was loaded yet."""
    explicit_id: str | None = None
    """The id that the application chose for a session used by hand."""
    next_id: str | None = None
    """The id that was asked for, until it is saved."""
    grace: int = 0
    """The number of seconds for which the id that `next_id` replaces still works."""
    expiry: Expiry | None = None
    """The expiry that was asked for, until it is saved."""
    identity: Identity | None = None
    """The user who has signed in, until that is saved."""
    has_ended: bool = False
    """Whether this request ended a live session."""
    is_lost: bool = False
    """Whether the session was ended elsewhere since it was loaded, and no other one has begun since then."""
    cookie: Cookie = Cookie.LEAVE
    """What the response has to tell the browser."""
    models: Sequence[Callable[[], None]] = ()
    """The models of `starsessions.typed`: each writes its changes into the data when it is called."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"  # tools that print local variables must not reveal ids and cookies

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []

    # Facts

    def loaded(self, result: Found | MissReason) -> dict[str, Any]:
        """The backend has answered. Return the data."""
        self.is_loaded = True
        if isinstance(result, Found):
            data = self._read(result)
            if data is not None:
                self.found, self.miss_reason, self.is_lost = result, None, False
                return data
            result = MissReason.UNDECODABLE
        self.miss_reason = result
        return {}

    def saved(self, command: Create | Replace | Rotate, kept: Found, now: int) -> None:
        """The backend has carried the command out, and `kept` is what it holds now."""
        found = self.found
        # The browser may have another token than it should have, or the same one for another time.
        if (
            found is None
            or kept.token != found.token
            or type(command) is not Replace
            or (not kept.is_alias and self._lasts_otherwise(found, kept, now))
        ):
            self.cookie = Cookie.SET
        self.found = kept
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

    def deleted(self, data: dict[str, Any]) -> None:
        """The session was ended by this request."""
        self.forget(data)
        self.has_ended = self.modified = True
        self.cookie = Cookie.CLEAR

    def lost(self, data: dict[str, Any]) -> None:
        """The session was ended or rotated elsewhere, and that response has told the browser what holds now."""
        self.forget(data)
        self.is_lost = True
        self.cookie = Cookie.LEAVE

    def conflict(self, current: Found | None, data: dict[str, Any], now: int) -> dict[str, Any] | None:
        """The backend holds something else than was loaded. Return the merged data; None: the session is lost.

        The keys that this request set or deleted are applied to what is stored now. Where both have changed a key, this
        request wins, because it is later; with `on_conflict="raise"` that is a `SessionConflict`.
        """
        if current is None or (theirs := self._read_alive(current, now)) is None:
            self.lost(data)
            return None
        base = self.stored()
        ours = merge.diff(base, dict(dict.items(data)))
        if self.config.raises_on_conflict and merge.conflicting_keys(ours, merge.diff(base, theirs)):
            raise SessionConflict("Another request has changed the same key of the session since it was loaded.")
        self._adopt(current)
        return merge.apply(ours, theirs)

    def overtaken(self, current: Found | None, data: dict[str, Any], now: int) -> bool:
        """The same for a change that will be made anew on what is stored now. False: the session is lost."""
        if current is None or self._read_alive(current, now) is None:
            self.lost(data)
            return False
        self._adopt(current)
        return True

    def _adopt(self, current: Found) -> None:
        self.found = current
        if current.is_alias:
            self.cookie = Cookie.LEAVE  # the browser is being given another id, which ours must not replace

    def forget(self, data: dict[str, Any]) -> None:
        """What follows is another session: nothing that was known or asked for holds for it."""
        dict.clear(data)
        self.found = self.explicit_id = self.next_id = self.expiry = self.identity = None
        self.models = ()

    # Requests

    def rotate(self, new_id: str, grace: int = 0) -> None:
        """Give the session a new id. The old one still works for `grace` seconds."""
        self.next_id, self.grace, self.modified = new_id, grace, True

    def expire(self, expiry: Expiry) -> None:
        """Give the session an expiry of its own."""
        self.expiry, self.modified = expiry, True

    def sign_in(self, identity: Identity, new_id: str, expiry: Expiry | None) -> None:
        """Make the session that of a user, under a new id."""
        self.identity = identity
        self.rotate(new_id)
        # What was promised at the last sign-in is not promised now.
        self.expiry = expiry or self.expiry or Expiry()

    # The decision

    @property
    def is_settled(self) -> bool:
        """Whether nothing can have changed, so that there is nothing to decide."""
        return self.found is not None and not (
            self.modified
            or self.exposed
            or self.next_id is not None
            or self.expiry is not None
            or self.config.keeps_going
        )

    def command(self, data: dict[str, Any], now: int, by_hand: bool = False) -> Command:
        """Return what the driver has to do. `by_hand`: `persist()` was called, and saves whatever has changed."""
        found, config = self.found, self.config
        if found is None:
            return self._begin(data, now, by_hand)
        record = found.record
        payload, emptied, changed, due = None, False, by_hand, False
        if self.modified or (self.exposed and not config.matches(record.payload, data)):
            payload, differs = self._encode(data, record.payload)
            if differs:
                changed = True
                # A signed-in user has a session, whether or not there is data in it.
                signed_in = self.identity is not None or record.identity is not None
                emptied = not (dict.__len__(data) or by_hand or signed_in)
        if self.expiry is not None and self.expiry != expiry_of(record):
            changed = True
        rotate = self.next_id is not None
        if config.keeps_going:
            due = touch_due(record, config.policy, now)
            rotate = rotate or self._is_rotation_due(found, now)
        action, _ = decide_live(emptied, rotate, changed, due)
        if action is Action.NOTHING:
            return NOTHING
        if action is Action.DELETE:
            return Delete(found)
        renewed = self._renewed(record, config.dumps(data) if payload is None else payload, now)
        if action is Action.ROTATE:
            return self._rotate(found, replace(renewed, rotated_at=now), now)
        return Replace(found, renewed)

    def _begin(self, data: dict[str, Any], now: int, by_hand: bool) -> Command:
        is_empty = self.identity is None and not by_hand and not dict.__len__(data)
        stale = self.is_lost or self.miss_reason is MissReason.JUST_ROTATED
        action, cookie = decide_new(self.has_ended, stale, is_empty, self.next_id is not None)
        if action is Action.NOTHING:
            return NOTHING if cookie is Cookie.LEAVE else _CLEAR
        if action is Action.DISCARD:
            return DISCARD
        config = self.config
        record = Record(config.dumps(data), now, now, *(self.expiry or Expiry()), None, self.identity)
        return Create(record, self.next_id or self.explicit_id)

    def _rotate(self, found: Found, record: Record, now: int) -> Rotate:
        grace = self.grace if self.next_id is not None else self.config.policy.rotate_grace
        return Rotate(found, record, self.next_id, now + grace if grace else 0)

    def _is_rotation_due(self, found: Found, now: int) -> bool:
        # Only while the browser can still be told, and not for a request that brought the previous id.
        can_tell = self.phase is OPEN or self.phase is SAVING
        return can_tell and not found.is_alias and rotation_due(found.record, self.config.policy, now)

    def _encode(self, data: dict[str, Any], base: Any) -> tuple[Any, bool]:
        """The payload, and whether it is other data than `base`, not only other bytes or another order."""
        config = self.config
        if self.exposed or not self.only_plain:
            payload, sure = config.dumps(data), False
        else:
            payload, sure = config.dumps_again(data, base, self.in_order)
        return payload, payload != base and (sure or self._is_other(payload, base, data))

    def _is_other(self, payload: Any, base: Any, data: dict[str, Any]) -> bool:
        return self.config.differs_for_sure(payload, base) or not merge.same_items(
            self.config.loads(base), dict(dict.items(data))
        )

    def _renewed(self, record: Record, payload: Any, now: int) -> Record:
        """The record to store. The session began when it began."""
        record = replace(record, payload=payload, renewed_at=now)
        if self.expiry is not None:
            record = replace(record, **self.expiry._asdict())
        if self.identity is not None:
            # A sign-in starts the lifetime anew (NIST SP 800-63B-4, 5.2: reauthentication resets both limits).
            record = replace(record, began_at=now, identity=self.identity)
        return record

    def has_unsaved(self, data: dict[str, Any]) -> bool:
        """Return whether anything has changed since the session was last saved."""
        found, config = self.found, self.config
        if found is None:
            return dict.__len__(data) > 0
        if self.expiry is not None and self.expiry != expiry_of(found.record):
            return True
        base = found.record.payload
        return not config.matches(base, data) and self._is_other(config.dumps(data), base, data)

    # What may be done now

    def check_known(self) -> None:
        """Refuse to change a session that may well exist: its data would be lost, and a logout would not be one."""
        if self.miss_reason is MissReason.UNAVAILABLE:
            raise BackendUnavailable("The session could not be loaded because the store failed: it cannot be changed.")

    def check_change(self) -> None:
        """Refuse a change that could not be saved."""
        self.check_known()
        if self.phase is OPEN:
            return
        self.check_reachable()
        if self.phase is not BY_HAND:
            raise ResponseStarted(
                "The response has started and the session was saved. To change it from here on, save by hand: "
                "call `await session.persist()` first, and again after each change."
            )
        self.exposed = True  # so that it is compared again when the application has returned

    def check_reachable(self) -> None:
        """Refuse what would need a cookie that can no longer be sent."""
        if not self.is_reachable:
            raise ResponseStarted(
                "The headers have been sent, and saving this session needs a new cookie: change it, or call "
                "`await session.persist()`, before the response starts (a WebSocket: before it is accepted)."
            )

    @property
    def is_reachable(self) -> bool:
        """Whether the session can be saved without a new cookie."""
        return self.found is not None and not self.config.is_client_side

    def check_sendable(self) -> None:
        """Refuse a new id that can no longer reach the browser."""
        self.check_known()
        if self.phase is not OPEN:
            raise ResponseStarted(
                "The headers have been sent, so the new id can no longer reach the browser: "
                "sign in, or call regenerate_id(), before the response starts."
            )

    # What is known

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
        return None if self.found is None else self.found.record.identity

    def stored(self) -> dict[str, Any]:
        """The data as it was last read or written, in objects of its own."""
        return {} if self.found is None else self.config.loads(self.found.record.payload)

    def _read_alive(self, found: Found, now: int) -> dict[str, Any] | None:
        if why_expired(found.record, self.config.policy, now) is not None:
            return None
        return self._read(found)

    def _read(self, found: Found) -> dict[str, Any] | None:
        """The data of a record; None if it cannot be read, whatever another release of the application has stored."""
        try:
            data = self.config.loads(found.record.payload)
        except Exception:
            return None
        return data if type(data) is dict else None

    def _lasts_otherwise(self, old: Found, new: Found, now: int) -> bool:
        policy = self.config.policy
        return cookie_max_age(new.record, policy, now) != cookie_max_age(old.record, policy, now)
