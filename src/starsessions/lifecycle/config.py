"""What all sessions of one middleware have in common, prepared once."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Self

from msgspec import Struct

from starsessions.backends.base import Backend, in_one_step
from starsessions.core.chunking import tokens_of
from starsessions.core.cookies import MAX_COOKIE, CookieSpec, Values
from starsessions.core.durations import Clock
from starsessions.core.record import Found, deadline
from starsessions.core.serializer import differs_for_sure, dumper_again, is_builtin, matcher
from starsessions.core.state import Create, Replace, Rotate, Rules
from starsessions.events import OnEvent

Headers = Sequence[tuple[bytes, bytes]]


class UserRules(Struct, frozen=True):
    """What holds for signed-in users."""

    max_sessions: int | None = None
    evicts: bool = True
    """Whether one session too many ends the oldest one, and is not refused."""


class Config(Rules, frozen=True):
    """What a middleware was told, and what follows from it."""

    backend: Backend
    cookie: CookieSpec
    clock: Clock
    tokens_in: Callable[[Headers], Values]
    loads_at_once: bool
    """Whether the first access may load the session: `autoload`, with a backend that waits for nothing."""
    store_now: Callable[[Any], Found] | None
    """Carries out those commands that the backend need not wait for."""
    stored_now: tuple[type[Create | Replace | Rotate], ...]
    """Which commands these are."""
    room_in_one: int
    """Characters of a token for which one cookie is enough; -1: it is to be counted each time."""
    attributes: Callable[[str, int | None], str]
    """The cookie's, by scheme and `Max-Age`: see `CookieSpec`."""
    on_event: OnEvent | None
    users: UserRules
    anonymous_if_unavailable: bool
    """Whether a request goes on without its session when the store fails."""

    @classmethod
    def build(
        cls,
        backend: Backend,
        cookie: CookieSpec,
        autoload: bool,
        raises_on_conflict: bool = False,
        anonymous_if_unavailable: bool = False,
        on_event: OnEvent | None = None,
        users: UserRules = UserRules(),  # noqa: B008 - it is frozen
    ) -> Self:
        """Prepare what follows from the backend, its serializer and the cookie."""
        serializer, policy = backend.serializer, backend.policy
        # Whether a token may be shown to the backend; None where a seal is all the form that it has.
        is_well_formed = None if backend.is_client_side else backend.is_well_formed
        store_now, stored_now = _storing_now(backend)
        return cls(
            policy=policy,
            is_client_side=backend.is_client_side,
            raises_on_conflict=raises_on_conflict,
            keeps_going=policy.rolling or policy.rotate_every is not None,
            loads=serializer.loads,
            dumps=serializer.dumps,
            dumps_again=dumper_again(serializer),
            matches=matcher(serializer),
            differs_for_sure=differs_for_sure if is_builtin(serializer) else lambda payload, base: False,
            backend=backend,
            cookie=cookie,
            clock=backend.clock,
            tokens_in=tokens_of(cookie, backend.max_cookies, is_well_formed),
            loads_at_once=autoload and backend.never_waits,
            store_now=store_now,
            stored_now=stored_now,
            room_in_one=MAX_COOKIE - len(cookie.name) if backend.max_cookies == 1 else -1,
            attributes=lru_cache(maxsize=64)(cookie.attributes),  # nearly always the same ones
            on_event=on_event,
            users=users,
            anonymous_if_unavailable=anonymous_if_unavailable,
        )


def _storing_now(
    backend: Backend,
) -> tuple[Callable[[Any], Found] | None, tuple[type[Create | Replace | Rotate], ...]]:
    """How the backend carries out a command without waiting for anything, and which commands it does that for."""
    if not backend.never_waits:
        return None, ()
    if backend.is_client_side:
        seal = backend.seal

        def store_sealed(command: Create | Replace | Rotate) -> Found:
            return Found(seal(command.record), command.record)

        return store_sealed, (Replace, Create, Rotate)

    policy = backend.policy

    def store(command: Replace) -> Found:
        record = command.record
        return in_one_step(backend.replace(command.found, record, deadline(record, policy), record.renewed_at))

    # A new id comes from `generate_id()`, which an application may override with one that waits.
    return store, (Replace,)
