"""How an entry is written together with its place in a listing.

On one server, one script does both. In a Cluster, the entry and the listing are on different servers, and each gets a
script of its own: the listing before an entry begins or is prolonged, then the entry, and last the place that it
leaves. So an entry that exists is always listed, whatever is interrupted. A place without an entry is harmless: who
reads the listing looks at the entries, and places whose time has passed are removed when others are added.

What is removed last may be a place that another write of the same key has renewed meanwhile. So a place knows which
version put it there, and is removed only if that is the one that ended.
"""

from asyncio import gather
from contextlib import suppress
from typing import Any, NamedTuple

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import Conflict, Version
from starsessions.stores.redis.commands import Commands
from starsessions.stores.redis.layout import Place, entry_of, parsed, place_of
from starsessions.stores.redis.scripts import ADD, REMOVE, WRITE

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
    milliseconds: int = 0
    """How long the new entry lives."""


class _Moves(NamedTuple):
    """What a change does to listings."""

    into: Place | None = None
    """Where the entry is listed from now on."""

    out_of: Place | None = None
    """Where it was listed, if not there."""

    comes_first: bool = False
    """Whether the entry would live without being listed if it was written before its place."""


_NONE = _Moves()


class Writer:
    """Carry out changes.

    Args:
        commands: how to reach Redis.
        prefix: the prefix of all keys.
    """

    def __init__(self, commands: Commands, prefix: bytes) -> None:
        self._commands = commands
        self._prefix = prefix

    async def carry_out(self, change: Change) -> None:
        """Carry out a change.

        Raises:
            Conflict: the entry does not have the expected version.
            BackendUnavailable: Redis failed, or it is unknown whether the change was carried out.
        """
        replies: list[tuple[Any, bool]] = []
        try:
            await self._commands.finish(self._take_steps, change, replies)
        except BackendUnavailable:  # if it is only that a place could not be removed, it stays, which is harmless
            if not replies:
                raise
        [(answer, twice)] = replies
        if answer == 1 or type(answer) is list:
            return
        current = parsed(answer, change.now)
        if twice and current is not None:
            raise BackendUnavailable("The reply to a write was lost, and its result is unknown: another one followed.")
        if twice and not change.version:
            return  # it was to be deleted, and it is
        raise Conflict(current)

    async def _take_steps(self, change: Change, replies: list[tuple[Any, bool]]) -> None:
        """Carry out a change, and note the reply to the script for the entry, and whether that was sent twice."""
        moves = self._moves(change)
        replies.append(await self._send(change, moves))
        stale = self._stale(change, moves, replies[0][0])
        if stale is not None:
            entry = () if self._commands.is_spread else (self._prefix + change.key.encode(),)
            await self._commands.run(REMOVE, [stale.listing, *entry], stale.start, stale.who)

    def _moves(self, change: Change) -> _Moves:
        former = place_of(self._prefix, change.key, change.expected)
        into = place_of(self._prefix, change.key, change.version) if change.milliseconds > 0 else None
        if into is None or former is None or not into.is_same(former):
            return _Moves(into, former, comes_first=True)
        return _Moves(into, None, comes_first=into.expires_at > former.expires_at)

    async def _send(self, change: Change, moves: _Moves) -> tuple[Any, bool]:
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
        # The place is there, unless its listing was evicted.
        written: tuple[Any, bool]
        written, _ = await gather(self._write(change, _NONE), self._heal(change, moves.into))
        return written

    async def _heal(self, change: Change, place: Place) -> None:
        with suppress(*self._commands.failures):
            await self._add(change, place)

    async def _write(self, change: Change, moves: _Moves) -> tuple[Any, bool]:
        places = (moves.into, moves.out_of)
        return await self._commands.run_durably(
            WRITE,
            [self._prefix + change.key.encode(), *(place.listing for place in places if place)],
            entry_of(change.version, change.value) if change.version else b"",
            change.expected,
            change.now,
            change.milliseconds,
            *(place.start if place else b"" for place in places),
        )

    async def _add(self, change: Change, place: Place) -> None:
        await self._commands.run_durably(
            ADD, [place.listing], change.version, place.start, place.who, change.milliseconds
        )

    def _stale(self, change: Change, moves: _Moves, answer: Any) -> Place | None:
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
