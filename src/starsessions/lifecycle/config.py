"""The settings that all sessions of one middleware share, prepared once."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Self

from msgspec import Struct

from starsessions.backends.base import Backend
from starsessions.backends.observer import Observer
from starsessions.core.chunking import tokens_of
from starsessions.core.cookies import MAX_COOKIE, CookieSpec, Headers, Values
from starsessions.core.durations import Clock
from starsessions.core.record import Found, MissReason
from starsessions.core.serializer import differs_for_sure, is_builtin, matcher, patcher
from starsessions.core.snapshot import snapshot
from starsessions.core.state import Create, Replace, Rotate, Rules
from starsessions.events import OnEvent
from starsessions.lifecycle.advice import CookieAdvice
from starsessions.lifecycle.outage import Outage
from starsessions.notices import Notices

Storing = tuple[Callable[[Any], Found] | None, tuple[type[Create | Replace | Rotate], ...]]
"""The function that carries out commands without I/O, and the commands that it accepts: see `lifecycle/at_once.py`."""


class UserRules(Struct, frozen=True):
    """The rules for sessions of signed-in users."""

    max_sessions: int | None = None
    evicts: bool = True
    """Whether a sign-in over the limit ends the oldest session. Otherwise it raises `TooManySessions`."""
    confirms: bool = False
    """Whether the first request with the cookie of a sign-in confirms it: see `lifecycle/limits.py`."""


class Config(Rules, frozen=True):
    """The settings of a middleware, and the values derived from them."""

    backend: Backend
    cookie: CookieSpec
    clock: Clock
    tokens_in: Callable[[Headers], Values]
    load_now: Callable[[Any], None]
    """Loads the session at its first access, with `peek`."""
    peek: Callable[[str, int], Found | MissReason] | None
    """Reads a token without waiting; None unless `autoload` is on and the backend does no I/O."""
    store_now: Callable[[Any], Found] | None
    """Carries out the commands that need no I/O; None if there are none."""
    stored_now: tuple[type[Create | Replace | Rotate], ...]
    """The commands that `store_now` carries out."""
    room_in_one: int
    """The longest token, in characters, that fits into one cookie; -1: it must be computed for each response."""
    attributes: Callable[[str, int | None], str]
    """Returns the attributes of the cookie for a scheme and a `Max-Age`: see `CookieSpec`."""
    on_event: OnEvent | None
    users: UserRules
    anonymous_if_unavailable: bool
    """Whether a request continues with an empty session when the store fails."""
    no_store: bool
    """Whether responses that have read an existing session are kept out of all caches, the browser's included."""
    notices: Notices
    """What has been logged once for this middleware."""
    advice: CookieAdvice
    outage: Outage
    observer: Observer

    @classmethod
    def build(
        cls,
        backend: Backend,
        cookie: CookieSpec,
        autoload: bool,
        load_now: Callable[[Any], None],
        storing: Storing = (None, ()),
        raises_on_conflict: bool = False,
        anonymous_if_unavailable: bool = False,
        on_event: OnEvent | None = None,
        users: UserRules = UserRules(),  # noqa: B008 - it is frozen
        no_store: bool = False,
        sends_cookies: bool = True,
        max_size: int | None = None,
    ) -> Self:
        """Derive the configuration from the settings, the backend and its serializer."""
        serializer, policy = backend.serializer, backend.policy
        # Checks a token before the backend sees it; None for signed and encrypted tokens, which verify themselves.
        is_well_formed = None if backend.is_client_side else backend.is_well_formed
        store_now, stored_now = storing
        observer = backend.observer
        notices = Notices()
        return cls(
            policy=policy,
            is_client_side=backend.is_client_side,
            sends_ids=sends_cookies and not backend.is_client_side,
            max_size=max_size,
            raises_on_conflict=raises_on_conflict,
            keeps_going=policy.rolling or policy.rotate_every is not None or users.confirms,
            loads=serializer.loads,
            dumps=serializer.dumps,
            patched=patcher(serializer),
            snapshot=snapshot if is_builtin(serializer) else lambda value: None,
            matches=matcher(serializer),
            differs_for_sure=differs_for_sure if is_builtin(serializer) else lambda payload, base: False,
            backend=backend,
            cookie=cookie,
            clock=backend.clock,
            tokens_in=tokens_of(cookie, backend.max_cookies, is_well_formed),
            load_now=observer.loading_now(load_now),
            peek=backend.peek if autoload and backend.never_waits else None,
            store_now=None if store_now is None else observer.storing_now(store_now),
            stored_now=stored_now,
            room_in_one=MAX_COOKIE - len(cookie.name) if backend.max_cookies == 1 else -1,
            attributes=lru_cache(maxsize=64)(cookie.attributes),  # nearly always the same arguments
            on_event=on_event,
            users=users,
            anonymous_if_unavailable=anonymous_if_unavailable,
            no_store=no_store,
            notices=notices,
            advice=CookieAdvice(cookie, notices),
            outage=Outage(),
            observer=observer,
        )
