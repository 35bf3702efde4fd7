"""How several entries are written at once, with their places in listings and an announcement: by one script, which also
answers what has to be known after that.

In a Cluster, entries are on different servers, so several cannot be written at once. A single one can, and while it is
announced, the place that it leaves is removed.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from starsessions.exceptions import BackendUnavailable
from starsessions.notices import Notices
from starsessions.stores.announce import NOT_ANNOUNCED, in_parts, try_to_announce
from starsessions.stores.base import Announcing, BatchConflict, Conflict
from starsessions.stores.redis.announce import MOST_TOPICS, channel_of
from starsessions.stores.redis.commands import Commands
from starsessions.stores.redis.layout import as_stored, parsed
from starsessions.stores.redis.scripts import WRITE_TOGETHER
from starsessions.stores.redis.writing import Change, Writer, moves_of

_REFUSED, _DONE = 0, 1


class Done(NamedTuple):
    """What was written, and what was answered."""

    versions: Sequence[bytes | None]
    answers: Sequence[Any]


class Batches:
    """Carry out several changes at once.

    Args:
        commands: how to reach Redis.
        prefix: the prefix of all keys.
        writer: carries out one change.
        announcer: announces to all who use this server and prefix.
    """

    def __init__(self, commands: Commands, prefix: bytes, writer: Writer, announcer: Announcing) -> None:
        self._commands = commands
        self._prefix = prefix
        self._writer = writer
        self._announcer = announcer
        self._channel = channel_of(prefix)
        self._notices = Notices()

    async def carry_out(
        self, changes: Sequence[Change], topics: Sequence[str], now: int
    ) -> Sequence[bytes | None] | None:
        """Carry out the changes, announce the topics, and return the new versions, with None for a deletion.

        In a Cluster, return None, and do nothing, if there are several changes.

        Raises:
            BatchConflict: an entry does not have the expected version.
            BackendUnavailable: Redis failed, or it is unknown whether the changes were carried out.
        """
        done = await self.answered(changes, topics, now)
        if done is not None:
            return done.versions
        return [await self._alone(changes[0], topics)] if len(changes) == 1 else None

    async def answered(
        self, changes: Sequence[Change], topics: Sequence[str], now: int, asked: Sequence[bytes] = ()
    ) -> Done | None:
        """Carry out the changes, announce the topics, and answer what is asked. In a Cluster, return None.

        Args:
            changes: what to do.
            topics: what to announce.
            now: the current time.
            asked: the keys of two entries to read, and of a listing to count; or nothing.

        Raises:
            BatchConflict: as in `carry_out`.
            BackendUnavailable: as in `carry_out`.
        """
        sent = None
        if not self._commands.is_spread:
            sent = await self._commands.finish(self._send, changes, topics, now, asked)
        if sent is None:
            return None
        (outcome, *answers), twice = sent
        versions = [change.version or None for change in changes]
        if outcome != _REFUSED:
            if outcome != _DONE:
                self._notices.warn("announce", NOT_ANNOUNCED, "Redis refused it.", every=600)
            return Done(versions, answers)
        index, stored = answers
        current = parsed(stored, now)
        is_missing = current is None and len(changes) == 1
        if not twice or (is_missing and changes[0].version and asked):  # whether or not it was written: it is missing
            raise BatchConflict(index, current)
        if is_missing and not (changes[0].version or asked):
            return Done(versions, [])  # it was to be deleted, and it is
        raise BackendUnavailable("The reply to a write was lost, and its result is unknown.")

    async def _alone(self, change: Change, topics: Sequence[str]) -> bytes | None:
        """Carry out one change in a Cluster."""
        try:
            announce = partial(try_to_announce, self._announcer, topics, self._notices)
            return await self._writer.carry_out(change, announce) or None
        except Conflict as conflict:
            raise BatchConflict(0, conflict.current) from None

    async def _send(
        self, changes: Sequence[Change], topics: Sequence[str], now: int, asked: Sequence[bytes]
    ) -> tuple[Any, bool] | None:
        """Return the reply, and whether the script was sent twice; None: this is a Cluster."""
        keys: list[bytes] = []
        said: list[Any] = [now, self._channel, len(changes)]
        for change in changes:
            key, moves = self._prefix + change.key.encode(), moves_of(self._prefix, change)
            places = (moves.into, moves.out_of)
            keys += [key, *(place.listing if place else key for place in places)]
            said += [
                change.entry,
                as_stored(change.expected),
                change.milliseconds,
                *(place.start if place else b"" for place in places),
            ]
        try:
            return await self._commands.run_durably(
                WRITE_TOGETHER, [*keys, *asked], *said, *in_parts(topics, MOST_TOPICS)
            )
        except self._commands.refusal as refusal:
            if not self._commands.has_found_slots(refusal):
                raise
            return None
