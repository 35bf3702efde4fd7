"""How an entry is written together with its place in a listing.

On one server, one script does both. In a Cluster, the entry and the listing are on different servers, and each gets a
script of its own: the listing before an entry begins or is prolonged, then the entry, and last the place that it
leaves. So an entry that exists is always listed, whatever is interrupted. A place without an entry is harmless: a
reader of the listing looks at the entries, and places whose time has passed are removed when others are added.

Two things shorten that. A provisional entry is written at the same time as its place: both are there once the write has
succeeded, and if it has not, the entry counts for nothing. Its place is kept from the start for as long as the entry
that will replace it needs it, and its version says so. Then nothing has to be added before it is replaced. And the
place that an entry leaves is removed while the change is announced.

What is removed last may be a place that another write of the same key has renewed meanwhile. So a place knows which
version put it there, and is removed only if that is the one that ended.
"""

from asyncio import gather
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import Conflict, Version
from starsessions.stores.redis.commands import Commands
from starsessions.stores.redis.layout import Place, as_stored, entry_of, parsed, place_of, with_kept_until
from starsessions.stores.redis.scripts import ADD, REMOVE, WRITE

LONGEST = 10**15
"""The longest time to live in milliseconds, 30,000 years. Redis adds the current time, and rejects an overflow."""

ANY = b"*"
"""In place of the expected version: whatever it is."""


class Change(NamedTuple):
    """What is to be done with the entry under a key."""

    key: str
    now: int
    expected: Version
    """The version that the entry must have; empty: it must be missing."""

    version: bytes = b""
    """The new version; empty: remove the entry."""

    value: bytes = b""
    expires_at: int = 0
    """When the new entry expires."""

    kept_until: int = 0
    """Until when its place is kept, if it is provisional."""

    @property
    def milliseconds(self) -> int:
        """How long the new entry lives; 0 or less: there is none."""
        return min((self.expires_at - self.now) * 1000, LONGEST) if self.version else 0

    @property
    def milliseconds_kept(self) -> int:
        """How long its place is kept."""
        return max(self.milliseconds, min((self.kept_until - self.now) * 1000, LONGEST))

    @property
    def entry(self) -> bytes:
        """The bytes to store; none: remove the entry."""
        return entry_of(self.version, self.value) if self.version else b""


class Moves(NamedTuple):
    """What a change does to listings."""

    into: Place | None = None
    """Where the entry is listed from now on."""

    out_of: Place | None = None
    """Where it was listed, if not there."""

    comes_first: bool = False
    """Whether the entry would live without being listed if it was written before its place."""


class _Reply(NamedTuple):
    """What the script for an entry has answered."""

    answer: Any
    twice: bool
    """Whether it was sent twice."""
    is_apart: bool = False
    """Whether another script has put the entry in a place that is kept for longer."""


_NONE = Moves()


def moves_of(prefix: bytes, change: Change) -> Moves:
    """Return what a change does to listings."""
    former = place_of(prefix, change.key, change.expected)
    into = place_of(prefix, change.key, change.version) if change.milliseconds > 0 else None
    if into is None or former is None or not into.is_same(former):
        return Moves(into, former, comes_first=not change.kept_until)
    return Moves(into, None, comes_first=not change.kept_until and into.kept_until > former.kept_until)


class Writer:
    """Carry out changes.

    Args:
        commands: how to reach Redis.
        prefix: the prefix of all keys.
    """

    def __init__(self, commands: Commands, prefix: bytes) -> None:
        self._commands = commands
        self._prefix = prefix

    async def carry_out(self, change: Change, announce: Callable[[], Awaitable[None]] | None = None) -> bytes:
        """Carry out a change, and return the new version.

        Args:
            change: what to do.
            announce: announces it, once it is done. It must not fail.

        Raises:
            Conflict: the entry does not have the expected version.
            BackendUnavailable: Redis failed, or it is unknown whether the change was carried out.
        """
        replies: list[_Reply] = []
        try:
            await self._commands.finish(self._take_steps, change, announce, replies)
        except BackendUnavailable:  # if it is only that a place could not be removed, it stays, which is harmless
            if not replies:
                raise
        [reply] = replies
        if _is_done(change, reply):
            return with_kept_until(change.version, change.kept_until) if reply.is_apart else change.version
        current = parsed(reply.answer, change.now)
        if reply.twice and current is not None:
            raise BackendUnavailable("The reply to a write was lost, and its result is unknown: another one followed.")
        raise Conflict(current)

    async def _take_steps(
        self, change: Change, announce: Callable[[], Awaitable[None]] | None, replies: list[_Reply]
    ) -> None:
        """Carry out a change, and note the reply to the script for the entry."""
        moves = moves_of(self._prefix, change)
        reply = await self._send(change, moves)
        replies.append(reply)
        stale = self._stale(change, moves, reply.answer)
        rest: list[Awaitable[None]] = [] if stale is None else [self._remove(change, stale)]
        if announce is not None and _is_done(change, reply):
            rest.append(announce())
        if rest:
            await _all(*rest)

    async def _remove(self, change: Change, place: Place) -> None:
        entry = () if self._commands.is_spread else (self._prefix + change.key.encode(),)
        await self._commands.run(REMOVE, [place.listing, *entry], place.start, place.who)

    async def _send(self, change: Change, moves: Moves) -> _Reply:
        if not self._commands.is_spread:
            try:
                return await self._write(change, moves)
            except self._commands.refusal as refusal:
                if not self._commands.has_found_slots(refusal):
                    raise
        if moves.into is None:
            return await self._write(change, _NONE)
        if moves.comes_first:
            await self._add(change, moves.into)
            return await self._write(change, _NONE)
        if change.kept_until:
            reply, _ = await _all(self._write(change, _NONE), self._add(change, moves.into))
            return _Reply(reply.answer, reply.twice, is_apart=True)
        # The place is there, unless its listing was evicted.
        reply, _ = await _all(self._write(change, _NONE), self._heal(change, moves.into))
        return _Reply(*reply)

    async def _heal(self, change: Change, place: Place) -> None:
        with suppress(*self._commands.failures):
            await self._add(change, place)

    async def _write(self, change: Change, moves: Moves) -> _Reply:
        places = (moves.into, moves.out_of)
        return _Reply(
            *await self._commands.run_durably(
                WRITE,
                [self._prefix + change.key.encode(), *(place.listing for place in places if place)],
                change.entry,
                as_stored(change.expected),
                change.now,
                change.milliseconds,
                *(place.start if place else b"" for place in places),
            )
        )

    async def _add(self, change: Change, place: Place) -> None:
        await self._commands.run_durably(
            ADD, [place.listing], change.version, place.start, place.who, change.milliseconds_kept
        )

    def _stale(self, change: Change, moves: Moves, answer: Any) -> Place | None:
        """Return the place that must still be removed after this reply to the script for the entry."""
        if type(answer) is list:
            return place_of(self._prefix, change.key, answer[0])
        if not self._commands.is_spread:
            return None
        if answer == 1 or (answer is None and not change.version):  # it is deleted, now or before
            return moves.out_of
        current = parsed(answer, 0)
        there = place_of(self._prefix, change.key, current.version) if current else None
        return None if moves.into is None or moves.into.is_same(there) else moves.into


def _is_done(change: Change, reply: _Reply) -> bool:
    """Return whether a change was carried out, now or before the reply was lost."""
    if reply.answer == 1 or type(reply.answer) is list:
        return True
    return reply.twice and not change.version and parsed(reply.answer, change.now) is None


async def _all(*work: Awaitable[Any]) -> list[Any]:
    """Wait for all of these together, and return their results. Raise the first error once all ended."""
    results = await gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
