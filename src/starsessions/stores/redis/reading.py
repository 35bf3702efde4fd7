"""How the entries of an owner are read, page by page, and an entry with that of its owner.

On one server, one script reads the members of a listing and their entries. In a Cluster, the members are read first,
and then their entries, at once. What counts is the entry: only one that says that it has this place is on the page.
"""

from asyncio import gather
from typing import Any

from starsessions.stores.base import Cursor, Joined, Page
from starsessions.stores.redis.commands import Commands
from starsessions.stores.redis.layout import below, cursor, listing, owner_of, parsed, place_of
from starsessions.stores.redis.scripts import JOIN, LIST, Script

_ELSEWHERE = (b"{a}", b"{b}")
"""Parts of keys in two different slots of a Cluster, of which none is used. A server that accepts them together has
no slots, so that an entry and its place are written at once; only then may a reader of a listing repair it."""


MOST_READS = 8
"""The times that one page is read in a Cluster, if other requests change the listing meanwhile."""

_Found = tuple[list[tuple[bytes, bytes | None]], bytes | None]
"""The members of a page, and what is stored under their keys; and the last member if others follow."""


class Reader:
    """Read listings.

    Args:
        commands: how to reach Redis.
        prefix: the prefix of all keys.
    """

    def __init__(self, commands: Commands, prefix: bytes) -> None:
        self._commands = commands
        self._prefix = prefix
        self._finds_keys = True
        """Whether scripts may use keys that they find in a value. Dragonfly, for one, permits that by a setting."""

    async def page(self, name: str, limit: int, now: int, after: Cursor | None) -> Page:
        """Return a page of a listing. At the time 0, the caller ends all that is listed: the rest has ended durably."""
        key = listing(self._prefix, name)
        answer = await self._at_once(key, name, limit, after)
        if answer is not None:
            page, others = self._shown(key, answer, now), [key]
        else:
            page, members = await self._in_turn(key, limit, now, after)
            listed, shown = {cursor(one).key for one in members}, {key for key, _ in page.entries}
            others = [self._prefix + one.encode() for one in listed - shown]
        if now == 0:
            await self._commands.confirm(*others)
        return page

    async def joined(self, key: str, other: str, now: int) -> Joined:
        """Return an entry, that of its owner, and another one. What comes with an entry is not read before it."""
        name, beside = self._prefix + key.encode(), self._prefix + other.encode()
        found = await self._in_one_script(JOIN, [name, beside], self._prefix, now)
        stored = await self._commands.read(name) if found is None else found[0]
        entry = parsed(stored, now)
        owner = None if entry is None else owner_of(entry.version)
        if owner is None:
            return Joined(entry)
        if found is None:
            found = [stored, *await gather(*map(self._commands.read, (self._prefix + owner.encode(), beside)))]
        return Joined(entry, owner, *(parsed(one, now) for one in found[1:]))

    async def _in_turn(self, key: bytes, limit: int, now: int, after: Cursor | None) -> tuple[Page, list[bytes]]:
        """Read the members, then the entries. Return the page, and the members on it."""
        # An entry that was moved to another key since the members were read has left its place, and has another one,
        # which was there before. So what was found counts only if the members are still the same, or all was found.
        members = await self._members(key, limit, after)
        page = self._shown(key, await self._entries(members, limit), now)
        for _ in range(MOST_READS):
            is_whole = len(page.entries) == len(members[:limit])
            seen, members = members, members if is_whole else await self._members(key, limit, after)
            if members == seen:
                break
            page = self._shown(key, await self._entries(members, limit), now)
        return page, members[:limit]

    def _shown(self, key: bytes, answer: _Found, now: int) -> Page:
        members, last = answer
        found = []
        for member, stored in members:
            entry, position = parsed(stored, now), cursor(member)
            place = place_of(self._prefix, position.key, entry.version) if entry else None
            if entry and place and place.listing == key and member.startswith(place.start):
                found.append((position.key, entry))
        return Page(found, cursor(last) if last else None)

    async def _at_once(self, key: bytes, name: str, limit: int, after: Cursor | None) -> _Found | None:
        """Read members and entries with one script; None: this server does not permit that."""
        answer = await self._in_one_script(LIST, [key], self._prefix, name.encode(), below(after), limit)
        if answer is None:
            return None
        last, *found = answer
        return list(zip(found[::2], found[1::2], strict=True)), last

    async def _in_one_script(self, script: Script, keys: list[bytes], *arguments: Any) -> list[Any] | None:
        """Return what a script returns that uses keys which it finds; None: this server does not permit that."""
        if not self._finds_keys or self._commands.is_spread:
            return None
        elsewhere = (self._prefix + one for one in _ELSEWHERE)
        try:
            answer: list[Any]
            answer, _ = await self._commands.run(script, [*keys, *elsewhere], *arguments)
        except self._commands.refusal as refusal:
            if not self._commands.has_found_slots(refusal):
                if "undeclared" not in str(refusal):
                    raise
                self._finds_keys = False
            return None
        return answer

    async def _members(self, key: bytes, limit: int, after: Cursor | None) -> list[bytes]:
        """Return the members of a page, and one more if others follow."""
        members: list[bytes] = await self._commands.ask("ZREVRANGEBYLEX", key, below(after), "-", "LIMIT", 0, limit + 1)
        return members

    async def _entries(self, members: list[bytes], limit: int) -> _Found:
        """Return what is stored under the keys of the members."""
        shown = members[:limit]
        stored = await gather(*(self._commands.read(self._prefix + cursor(one).key.encode()) for one in shown))
        return list(zip(shown, stored, strict=True)), shown[-1] if len(members) > limit else None
