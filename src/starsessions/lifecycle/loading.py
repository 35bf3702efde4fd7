"""A dict that knows as what it was found: read from the headers and the backend, checked against the deadlines."""

# Annotations are not to be worked out: what they name of anyio is imported when it is asked for, which takes long.
from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from enum import Enum, auto
from typing import Any

import anyio
from starlette.types import Scope

from starsessions.core.decision import Cookie
from starsessions.core.record import Expiry, Found, Identity, MissReason
from starsessions.events import Event, StoreFailed, events_for_miss
from starsessions.exceptions import BackendUnavailable, ResponseStarted, SessionNotLoaded
from starsessions.lifecycle.config import Headers, Setting, check_deadline, only_valid
from starsessions.lifecycle.tracked_dict import TrackedDict

_log = logging.getLogger("starsessions")


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

NOTHING_TO_SAY = Cookie.LEAVE


class FoundDict(TrackedDict):
    """What of a session is there before anything is saved."""

    # What every request has: slots, set when it begins.

    accessed: bool
    modified: bool
    miss_reason: MissReason | None
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
        "miss_reason",
        "modified",
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
        self._found = self._replaced = self._next_id = self._expiry = self._identity = self.miss_reason = None
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
        if self.miss_reason is not None:
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
        if self.miss_reason is MissReason.UNAVAILABLE:
            raise BackendUnavailable(
                "The session could not be loaded, since the store fails: it cannot be changed now."
            )

    @property
    def _is_reachable(self) -> bool:
        """Whether the session can be saved without sending a cookie."""
        return self._found is not None and not self._setting.backend.is_client_side

    def _check_reachable(self) -> None:
        if not self._is_reachable:
            raise ResponseStarted(
                "The headers have left, and saving this session needs a new cookie: change it, or call "
                "`await session.persist()`, before the response starts (a WebSocket: before accept)."
            )

    def _take(self, found: Found | MissReason) -> None:
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
            self._refuse(MissReason.UNDECODABLE)
            return
        dict.update(self, data)
        self._found = found

    def _refuse(self, why: MissReason) -> None:
        self.miss_reason = why
        if why is MissReason.ROTATED:
            _log.warning("An id was used that had been rotated away, and that is past its grace.")
        if self._setting.on_event is not None:
            tokens = self._setting.tokens_in(self._headers)
            self._note(*events_for_miss(why, tokens if isinstance(tokens, list) else ()))

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

    async def _find(self) -> Found | MissReason:
        try:
            return await self._look()
        except BackendUnavailable as error:
            if not self._setting.anonymous_if_unavailable:
                raise
            _log.warning("A request goes on without its session, since the store fails: %s", error)
            self._note(StoreFailed(str(error)))
            return MissReason.UNAVAILABLE

    async def _look(self) -> Found | MissReason:
        setting = self._setting
        now = int(setting.clock())
        if self._given is not None:
            return check_deadline(await setting.backend.fetch(self._given, now), setting.policy, now)
        tokens = setting.tokens_in(self._headers)
        if not isinstance(tokens, list):
            return tokens
        return only_valid(
            [check_deadline(await setting.backend.fetch(token, now), setting.policy, now) for token in tokens]
        )
