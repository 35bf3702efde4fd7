"""What all sessions of one middleware have in common, prepared once, and how one of them is found in the headers."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

from msgspec import Struct

from starsessions.backends.base import Backend, Peeking, Sealing, in_one_step
from starsessions.core.chunking import tokens_of
from starsessions.core.cookies import MAX_COOKIE, CookieSpec, Values
from starsessions.core.decision import Action
from starsessions.core.durations import Clock
from starsessions.core.record import Found, MissReason, Policy, Record, deadline, why_expired
from starsessions.core.serializer import differs_for_sure, dumper_again, is_builtin, matcher
from starsessions.events import OnEvent

OnConflict = Literal["merge", "raise"] | Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], dict[str, Any]]
"""What happens when two requests have changed the same key: see `SessionMiddleware`."""


Headers = Sequence[tuple[bytes, bytes]]


class UserRules(Struct, frozen=True):
    """What holds for people who are signed in."""

    remember_for: int = 30 * 24 * 60 * 60
    """Seconds that a session lasts from its last renewal if the person asked to be remembered."""
    max_sessions: int | None = None
    evicts: bool = True
    """Whether one session too many ends the oldest one, and is not refused."""


_USUAL_RULES = UserRules()


class Setting(Struct, frozen=True):
    """What all sessions of one middleware have in common, prepared once."""

    backend: Backend
    policy: Policy
    cookie: CookieSpec
    clock: Clock
    look: Callable[[Headers], Found | MissReason] | None
    """Finds the session in the headers, if the first access may do that by itself: `autoload`, and no I/O to do."""
    keep: Callable[[Found | None, Record, int], Found] | None
    """Keeps a record in the place of what was found, if that waits for nothing. Raises `Conflict`."""
    at_once: Sequence[Action]
    """What `keep` can do."""
    loads: Callable[[Any], dict[str, Any]]
    dumps: Callable[[dict[str, Any]], Any]
    dumps_again: Callable[[dict[str, Any], Any, bool], tuple[Any, bool]]
    """`dumps`, for data whose lists and dicts are as this payload was decoded: see `Msgpack.dumps_again`."""
    tokens_in: Callable[[Headers], Values]
    max_cookies: int
    room_in_one: int
    """Characters of a token for which one cookie is enough; -1: it is to be counted each time."""
    attributes: Callable[[str, str, int | None], str]
    """The cookie's, by root path, scheme and `Max-Age`: see `CookieSpec`."""
    is_client_side: bool
    """Whether the token itself is the data, sealed."""
    matches: Callable[[Any, dict[str, Any]], bool]
    """Whether data is, for certain and cheaply, what a payload holds."""
    on_conflict: OnConflict
    on_event: OnEvent | None
    users: UserRules
    anonymous_if_unavailable: bool
    """Whether a request goes on without its session when the store fails."""
    keeps_going: bool
    """Whether use alone can renew or rotate a session."""
    differs_for_sure: Callable[[Any, Any], bool]
    """Whether other bytes are other data, as far as it can be told without decoding them."""


def setting_for(
    backend: Backend,
    policy: Policy,
    cookie: CookieSpec,
    clock: Clock,
    autoload: bool,
    on_conflict: OnConflict = "merge",
    anonymous_if_unavailable: bool = False,
    on_event: OnEvent | None = None,
    users: UserRules = _USUAL_RULES,
) -> Setting:
    serializer = backend.serializer
    # Whether a token may be shown to the backend; None where a seal is all the form that it has.
    is_well_formed = None if backend.is_client_side else backend.is_well_formed
    tokens_in = tokens_of(cookie, backend.max_cookies, is_well_formed)
    # A sealed cookie that can be revoked is no longer all that there is to look at.
    waits = backend.is_client_side and backend.user_index is not None
    peek = backend.peek if autoload and isinstance(backend, Peeking) and not waits else None
    keep, at_once = (None, ()) if waits else keeping(backend, policy)
    return Setting(
        backend=backend,
        policy=policy,
        cookie=cookie,
        clock=clock,
        tokens_in=tokens_in,
        max_cookies=backend.max_cookies,
        room_in_one=MAX_COOKIE - len(cookie.name) if backend.max_cookies == 1 else -1,
        attributes=lru_cache(maxsize=64)(cookie.attributes),  # nearly always the same ones
        is_client_side=backend.is_client_side,
        look=None if peek is None else looking(tokens_in, peek, policy, clock),
        keep=keep,
        at_once=at_once,
        loads=serializer.loads,
        dumps=serializer.dumps,
        dumps_again=dumper_again(serializer),
        matches=matcher(serializer),
        on_conflict=on_conflict,
        on_event=on_event,
        users=users,
        anonymous_if_unavailable=anonymous_if_unavailable,
        keeps_going=policy.rolling or policy.rotate_every is not None,
        differs_for_sure=differs_for_sure if is_builtin(serializer) else _who_knows,
    )


def keeping(
    backend: Backend, policy: Policy
) -> tuple[Callable[[Found | None, Record, int], Found] | None, Sequence[Action]]:
    """How a session is kept in a backend that has nothing to wait for, and what of it."""
    if isinstance(backend, Sealing):
        seal = backend.seal
        actions = (Action.CREATE, Action.ROTATE, Action.REPLACE, Action.TOUCH)
        return lambda found, record, now: Found(seal(record), record), actions
    if backend.never_waits:

        def keep(found: Found | None, record: Record, now: int) -> Found:
            assert found is not None
            return in_one_step(backend.replace(found, record, deadline(record, policy), now))

        return keep, (Action.REPLACE, Action.TOUCH)
    return None, ()


def _who_knows(payload: Any, base: Any) -> bool:
    return False


def looking(
    tokens_in: Callable[[Headers], Values],
    peek: Callable[[str, int], Found | MissReason],
    policy: Policy,
    clock: Clock,
) -> Callable[[Headers], Found | MissReason]:
    """How a session is found in a backend that has nothing to wait for."""

    def look(headers: Headers) -> Found | MissReason:
        tokens = tokens_in(headers)
        if not isinstance(tokens, list):
            return tokens
        now = int(clock())
        if len(tokens) == 1:
            found = peek(tokens[0], now)
            return (why_expired(found.record, policy, now) or found) if isinstance(found, Found) else found
        return only_valid([check_deadline(peek(token, now), policy, now) for token in tokens])

    return look


def check_deadline(found: Found | MissReason, policy: Policy, now: int) -> Found | MissReason:
    if isinstance(found, Found):
        return why_expired(found.record, policy, now) or found
    return found


def only_valid(results: list[Found | MissReason]) -> Found | MissReason:
    """Of several cookies of our name, from other paths or domains, one counts if it alone is good.

    If two are, one of them was planted, and nobody can say which (RFC 6265bis, 4.2.2 and 8.6).
    """
    live = [result for result in results if isinstance(result, Found)]
    if len(live) == 1:
        return live[0]
    return MissReason.MALFORMED if live else results[0]
