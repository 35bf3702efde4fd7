"""A dict that knows as what it was found, and how it is brought home: the machinery below `Session`.

Finding: the headers, then the backend, then the deadlines. Saving: `_plan` decides and waits for nothing, `_carry_out`
does it, and `_commit` does both again when another request was faster.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from anyio import Lock

from starsessions.backends.base import Backend, Clock, Conflict, Found, Peeking, Sealing
from starsessions.core import changes
from starsessions.core.carrier import tokens_of
from starsessions.core.cookies import CookieSpec
from starsessions.core.decision import LEAVE, Action, Cookie, Decision, decide
from starsessions.core.record import (
    Expiry,
    Policy,
    Record,
    WhyNew,
    cookie_max_age,
    deadline,
    expiry_of,
    touch_due,
    why_over,
)
from starsessions.core.serializer import Msgpack, differs_for_sure, dumper_again, matcher
from starsessions.exceptions import (
    ResponseStarted,
    SessionError,
    SessionNotLoaded,
    UnsupportedValue,
)
from starsessions.mapping import AskingDict

MAX_ATTEMPTS = 1000
"""Writes that may lose against other requests before we give up. Each loss is somebody else's success."""


Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all sessions of one middleware have in common, prepared once."""

    backend: Backend
    policy: Policy
    cookie: CookieSpec
    clock: Clock
    look: Callable[[Headers], Found | WhyNew] | None
    """Finds the session in the headers, if the first access may do that by itself: `autoload`, and no I/O to do."""
    seal: Callable[[Record], str] | None
    """Makes the token, if that is all that is to be done to keep a session."""
    loads: Callable[[Any], dict[str, Any]]
    dumps: Callable[[dict[str, Any]], Any]
    dumps_again: Callable[[dict[str, Any], Any], Any]
    """`dumps`, for data whose lists and dicts are as this payload was decoded."""
    tokens_in: Callable[[Headers], list[str] | WhyNew]
    matches: Callable[[Any, dict[str, Any]], bool]
    """Whether data is, for certain and cheaply, what a payload holds."""
    ours: bool
    """Whether the serializer is one of ours, whose payloads can be compared without decoding them."""


def setting_for(backend: Backend, policy: Policy, cookie: CookieSpec, clock: Clock, autoload: bool) -> Setting:
    serializer = backend.serializer
    # Whether a token may be shown to the backend; None where a seal is all the form that it has.
    is_well_formed = None if backend.holds_data else backend.is_well_formed
    tokens_in = tokens_of(cookie, backend.max_cookies, is_well_formed)
    peek = backend.peek if autoload and isinstance(backend, Peeking) else None
    return Setting(
        backend=backend,
        policy=policy,
        cookie=cookie,
        clock=clock,
        tokens_in=tokens_in,
        look=None if peek is None else looking(tokens_in, peek, policy, clock),
        seal=backend.seal if isinstance(backend, Sealing) else None,
        loads=serializer.loads,
        dumps=serializer.dumps,
        dumps_again=dumper_again(serializer),
        matches=matcher(serializer),
        ours=isinstance(serializer, Msgpack),
    )


def looking(
    tokens_in: Callable[[Headers], list[str] | WhyNew],
    peek: Callable[[str, int], Found | WhyNew],
    policy: Policy,
    clock: Clock,
) -> Callable[[Headers], Found | WhyNew]:
    """How a session is found in a backend that has nothing to wait for."""

    def look(headers: Headers) -> Found | WhyNew:
        tokens = tokens_in(headers)
        if not isinstance(tokens, list):
            return tokens
        now = int(clock())
        if len(tokens) == 1:
            return _judged(peek(tokens[0], now), policy, now)
        return _the_only([_judged(peek(token, now), policy, now) for token in tokens])

    return look


class Phase(Enum):
    """How far the response is."""

    OPEN = auto()
    """The headers have not left: changes are saved when they do."""
    SAVING = auto()
    """Being saved; it stays like that if saving failed, of which somebody was told."""
    CLOSED = auto()
    """The headers have left, and nothing saves by itself any more."""
    BY_HAND = auto()
    """The headers have left, and `persist()` saves; for a WebSocket, so does the end of the connection."""


OPEN, SAVING, CLOSED = Phase.OPEN, Phase.SAVING, Phase.CLOSED  # names that the hot path need not look up twice


NOTHING_TO_SAY, _SET = Cookie.LEAVE, Cookie.SET
_NO_ACTION, _DELETE = Action.NOTHING, Action.DELETE


Plan = tuple[Decision, Any]
"""What `decide` said, and the data encoded if that was needed to say it."""

_SETTLED: Plan = (LEAVE, None)


class KeptDict(AskingDict):
    """What `Session` is made of, and what the middleware works with."""

    # What every request has: slots, set when it begins.

    accessed: bool
    modified: bool

    _cookie: Cookie
    """What the browser is still to be told."""
    _expiry: Expiry | None
    """What `set_expiry()` asked for and is not saved yet."""
    _found: Found | None
    """The live session that this one stands for, as it was last read or written."""
    _headers: Headers
    _loaded: bool
    _next_id: str | None
    """The id that the session is to have from its next save on."""
    _phase: Phase
    _replaced: Found | None
    """What stood in the place of `_found` before it was saved."""
    _root_path: str
    """The application's, when the request came in."""
    _setting: Setting

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_cookie",
        "_expiry",
        "_found",
        "_headers",
        "_loaded",
        "_next_id",
        "_phase",
        "_replaced",
        "_root_path",
        "_setting",
        "accessed",
        "modified",
    )

    # What few requests have: it costs the others nothing.

    why_new: WhyNew | None = None
    """Why the request has no session that lives; None if it has one, or nobody has looked yet."""

    _ended: bool = False
    """Whether this request has ended a session that lived."""
    _given: str | None = None
    """The id that the application gave."""
    _gone: bool = False
    """Whether somebody else has ended the session since it was loaded."""
    _lock: Lock | None = None
    """Lets one `persist()` at a time through, from the first one on."""

    def _begin(self, setting: Setting, headers: Headers, root_path: str) -> None:
        """A session that nobody has looked at yet. Once per request, so: as little as can be."""
        self._setting = setting
        self._headers = headers
        self._root_path = root_path
        self._ready = self._handed_out = self._loaded = self.accessed = self.modified = False
        self._found = self._replaced = self._next_id = self._expiry = None
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
        if self._phase is not OPEN:
            self._check_reachable()
            if self._phase is not Phase.BY_HAND:
                raise ResponseStarted(
                    "The response has started and the session was saved. To change it from here on, save by hand: "
                    "call `await session.persist()` first, and again after each change."
                )
            self._handed_out = True  # so that it is looked at again when the application is done
        self.modified = True

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
            self.why_new = found
            return
        try:
            data = self._setting.loads(found.record.payload)
        except Exception:  # whatever an older release of the application has left there
            data = None
        if type(data) is not dict:
            self.why_new = WhyNew.UNDECODABLE
            return
        dict.update(self, data)
        self._found = found

    def _fill_with(self, data: Mapping[str, Any]) -> None:
        dict.clear(self)
        dict.update(self, data)
        self._handed_out = True

    def _forget(self) -> None:
        """Nothing that was known is true any more: what follows is another session."""
        dict.clear(self)
        self._replaced = self._found or self._replaced
        self._found = self._given = self._next_id = self._expiry = None

    async def _replace_by(self, data: Mapping[str, Any]) -> None:
        """Take over a plain dict that the application has put in our place in the scope."""
        await self._load()
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
        setting = self._setting
        now = int(setting.clock())
        if self._given is not None:
            return _judged(await setting.backend.fetch(self._given, now), setting.policy, now)
        tokens = setting.tokens_in(self._headers)
        if not isinstance(tokens, list):
            return tokens
        return _the_only([_judged(await setting.backend.fetch(token, now), setting.policy, now) for token in tokens])

    # Saving

    def _plan(self, by_hand: bool = False) -> Plan:
        """What has to be done: decided here, without waiting for anything, and done by `_carry_out`."""
        setting, found = self._setting, self._found
        if found is not None and not (
            self.modified or self._handed_out or self._next_id or self._expiry or by_hand or setting.policy.rolling
        ):
            return _SETTLED  # nobody had the means to change anything
        payload, differs, expires, due = None, False, False, False
        if found is not None:
            record = found.record
            if self.modified or by_hand or (self._handed_out and not setting.matches(record.payload, self)):
                payload = setting.dumps(self) if self._handed_out else setting.dumps_again(self, record.payload)
                differs = payload != record.payload and self._differs(record, payload)
            expires = self._expiry is not None and self._expiry != expiry_of(record)
            due = setting.policy.rolling and touch_due(record, setting.policy, int(setting.clock()))
        empty = not dict.__len__(self)
        decision = decide(
            live=found is not None,
            ended=self._ended,
            empty=empty and not by_hand,
            emptied=empty and differs and not by_hand,
            rotate=self._next_id is not None,
            changed=differs or expires or by_hand,
            due=due,
        )
        return decision, payload

    def _differs(self, record: Record, payload: Any) -> bool:
        """Whether other bytes than were found are other data, and not only another order."""
        if self._setting.ours and differs_for_sure(payload, record.payload):
            return True
        base = self._setting.loads(record.payload)
        # In C first; what is equal there may still have turned 1 into True.
        return not (dict.__eq__(self, base) and changes.same_items(base, self._items()))

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
                current = conflict.current
                if current is None or not self._lives(current):
                    self._end_quietly()
                    return
                self._rebase(current)
                plan = None
        raise SessionError(f"The session was changed by others {MAX_ATTEMPTS} times while it was being saved.")

    def _commit_now(self, plan: Plan) -> bool:
        """`_commit`, where there is nothing to wait for: False, and nothing is done, where there is."""
        (action, cookie), payload = plan
        if action is _NO_ACTION:
            if cookie is not NOTHING_TO_SAY:
                self._cookie = cookie
            return True
        seal = self._setting.seal
        if seal is None or action is _DELETE:
            return False
        record = self._renewed(payload, int(self._setting.clock()))
        self._kept(Found(seal(record), record))
        self._cookie = _SET  # another seal is another token
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
        record = self._renewed(payload, now)
        ends_at = deadline(record, policy)
        if found is None:
            kept = await self._create(record, ends_at, now)
        elif self._next_id is None:
            kept = await backend.replace(found, record, ends_at, now)
        else:
            kept = await backend.rotate(found, record, self._next_id, ends_at, now)
        self._kept(kept)
        if cookie is _SET or found is None or self._moved(found, kept, now):
            self._cookie = _SET

    def _renewed(self, payload: Any, now: int) -> Record:
        """The record to keep: it began when it began."""
        if payload is None:
            payload = self._setting.dumps(self)
        if self._found is None:
            return Record(payload, now, now, *(self._expiry or ()))
        old = self._found.record
        lifetime, until, browser = self._expiry or (old.lifetime, old.until, old.browser)
        return Record(payload, old.began_at, now, lifetime, until, browser)

    def _kept(self, found: Found) -> None:
        self._replaced = self._found or self._replaced
        self._found = found
        self._next_id = self._expiry = None

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
        return cookie_max_age(new.record, policy, now) != cookie_max_age(old.record, policy, now)

    def _lives(self, found: Found) -> bool:
        return why_over(found.record, self._setting.policy, int(self._setting.clock())) is None

    def _rebase(self, current: Found) -> None:
        """Do to what is stored now what this request did to what it found."""
        loads = self._setting.loads
        base = {} if self._found is None else loads(self._found.record.payload)
        mine = self._items()
        merged = changes.apply(changes.diff(base, mine), loads(current.record.payload))
        dict.clear(self)
        for key, value in merged.items():
            # Our own object where it is equal: the handler may hold it, and go on changing it.
            dict.__setitem__(self, key, mine[key] if key in mine and changes.same(mine[key], value) else value)
        self._found = current

    def _end_quietly(self) -> None:
        """The session was ended by somebody else: gone means gone, and their response told the browser so."""
        self._forget()
        self._gone = True
        self._cookie = Cookie.LEAVE

    def _has_unsaved(self) -> bool:
        """Whether something was changed since it was last saved."""
        found, setting = self._found, self._setting
        if found is None:
            return dict.__len__(self) > 0
        if self._expiry is not None and self._expiry != expiry_of(found.record):
            return True
        return not setting.matches(found.record.payload, self) and self._differs(found.record, setting.dumps(self))

    def _weights(self) -> list[tuple[str, int]]:
        """The heaviest keys, and about how many bytes each of them takes before it is sealed."""
        weights = [(str(key), _weight(value)) for key, value in dict.items(self)]
        return sorted(weights, key=lambda weight: weight[1], reverse=True)[:3]


def _weight(value: Any) -> int:
    try:
        return len(Msgpack().dumps({"": value}))
    except UnsupportedValue:  # another serializer, or a backend of the user's own, takes more types than ours
        return 0


def _judged(found: Found | WhyNew, policy: Policy, now: int) -> Found | WhyNew:
    if isinstance(found, Found):
        return why_over(found.record, policy, now) or found
    return found


def _the_only(results: list[Found | WhyNew]) -> Found | WhyNew:
    """Of several cookies of our name, from other paths or domains, one counts if it alone is good.

    If two are, one of them was planted, and nobody can say which (RFC 6265bis, 4.2.2 and 8.6).
    """
    live = [result for result in results if isinstance(result, Found)]
    if len(live) == 1:
        return live[0]
    return WhyNew.MALFORMED if live else results[0]
