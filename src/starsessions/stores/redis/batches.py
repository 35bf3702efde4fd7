"""How several entries are written at once, with their places in listings and an announcement: by one script.

In a Cluster, entries are on different servers, so it cannot be done.
"""

from collections.abc import Sequence
from typing import Any

from starsessions.exceptions import BackendUnavailable
from starsessions.notices import Notices
from starsessions.stores.announce import NOT_ANNOUNCED, in_parts
from starsessions.stores.base import BatchConflict
from starsessions.stores.redis.announce import MOST_TOPICS
from starsessions.stores.redis.commands import Commands
from starsessions.stores.redis.layout import parsed
from starsessions.stores.redis.scripts import WRITE_TOGETHER
from starsessions.stores.redis.writing import Change, moves_of

_DONE = 1


class Batches:
    """Carry out several changes at once.

    Args:
        commands: how to reach Redis.
        prefix: the prefix of all keys.
        channel: where to announce.
    """

    def __init__(self, commands: Commands, prefix: bytes, channel: bytes) -> None:
        self._commands = commands
        self._prefix = prefix
        self._channel = channel
        self._notices = Notices()

    async def carry_out(self, changes: Sequence[Change], topics: Sequence[str], now: int) -> bool:
        """Carry out the changes, and announce the topics. Return False, and do nothing, if this is a Cluster.

        Raises:
            BatchConflict: an entry does not have the expected version.
            BackendUnavailable: Redis failed, or it is unknown whether the changes were carried out.
        """
        if self._commands.is_spread:
            return False
        sent = await self._commands.finish(self._send, changes, topics, now)
        if sent is None:
            return False
        reply, twice = sent
        if type(reply) is int:
            if reply != _DONE:
                self._notices.warn("announce", NOT_ANNOUNCED, "Redis refused it.", every=600)
            return True
        index, stored = reply
        current = parsed(stored, now)
        if not twice:
            raise BatchConflict(index, current)
        if current is None and len(changes) == 1 and not changes[0].version:
            return True  # it was to be deleted, and it is
        raise BackendUnavailable("The reply to a write was lost, and its result is unknown.")

    async def _send(self, changes: Sequence[Change], topics: Sequence[str], now: int) -> tuple[Any, bool] | None:
        """Return the reply, and whether the script was sent twice; None: this is a Cluster."""
        keys: list[bytes] = []
        said: list[Any] = [now, self._channel]
        for change in changes:
            key, moves = self._prefix + change.key.encode(), moves_of(self._prefix, change)
            places = (moves.into, moves.out_of)
            keys += [key, *(place.listing if place else key for place in places)]
            said += [
                change.entry,
                change.expected,
                change.milliseconds,
                *(place.start if place else b"" for place in places),
            ]
        try:
            return await self._commands.run_durably(WRITE_TOGETHER, keys, *said, *in_parts(topics, MOST_TOPICS))
        except self._commands.refusal as refusal:
            if not self._commands.has_found_slots(refusal):
                raise
            return None
