"""The store contract in Redis or Valkey: a single server, the primary of a Sentinel set, or a Cluster.

An entry is one string under one key, and an owner's listing is one sorted set: `layout.py` says what they hold. Any
other value under the key of an entry (another type, too short, another first byte) is treated as missing: `get`
ignores it, `create` replaces it, `delete` removes it. A read is one GET, and with `check_epoch` one script. A write is
one script that compares and writes atomically; in a Cluster, a listing takes another one. If the server does not have a
script (any more), it is sent in full.

The writer chooses the version at random. So if a script is sent again because the first reply was lost, it finds its
own version and reports success. If another writer came in between, it is unknown whether the first attempt was carried
out, and the write fails. (The Cluster client retries commands without reporting it. There, a value computed from the
old one may be computed twice.)

Redis counts the time to live by its own clock. The caller's clock decides whether an entry has expired.
"""

from collections.abc import Sequence
from datetime import timedelta
from os import urandom

from starsessions.core.durations import time_limit
from starsessions.exceptions import ImproperlyConfigured
from starsessions.stores.announce import Announces
from starsessions.stores.base import (
    Announcing,
    Conflict,
    Creation,
    Cursor,
    Deletion,
    Entry,
    Joined,
    Owner,
    Page,
    Provisional,
    ScanPage,
    Version,
    Write,
    Written,
)
from starsessions.stores.loops import PerLoop
from starsessions.stores.redis.announce import RedisAnnouncer
from starsessions.stores.redis.batches import Batches
from starsessions.stores.redis.clients import ClientOrUrl, clients_for
from starsessions.stores.redis.commands import Commands
from starsessions.stores.redis.connection import Transport
from starsessions.stores.redis.eviction import EvictionCheck, evicting_policy, persists
from starsessions.stores.redis.layout import listing, new_version, parsed
from starsessions.stores.redis.reading import Reader
from starsessions.stores.redis.scanning import Scanner
from starsessions.stores.redis.scripts import CLOCK
from starsessions.stores.redis.writing import ANY, Change, Writer
from starsessions.stores.survey import Survey

_NO_SESSION = "starsessions-survey"
"""A key under which nothing is stored."""


class RedisStore(Announces):
    """The store contract in Redis.

    Args:
        client_or_url: a client, which the caller closes; or a URL or a function, from which the store makes a client
            for each event loop. `aclose` closes that one.
        prefix: the prefix of all keys in Redis.
        timeout: the seconds after which any operation raises `BackendUnavailable`.
        wait_for_replicas: how many replicas must have a write before it is confirmed.

    Raises:
        ImproperlyConfigured: the client or URL cannot be used, or the package redis is missing.
    """

    def __init__(
        self, client_or_url: ClientOrUrl, prefix: str, *, timeout: float | timedelta, wait_for_replicas: int = 0
    ) -> None:
        try:
            import redis  # noqa: F401
        except ImportError as missing:
            raise ImproperlyConfigured(
                "Sessions in Redis need the package redis: install the extra starsessions[redis]."
            ) from missing
        if not isinstance(prefix, str):
            raise ImproperlyConfigured(f"prefix must be a str, not {type(prefix).__name__}.")
        if type(wait_for_replicas) is not int or wait_for_replicas < 0:
            raise ImproperlyConfigured("wait_for_replicas is a number of replicas: 0, 1 or more.")
        self._prefix = prefix.encode()
        seconds = time_limit("timeout", timeout)
        self.clients: PerLoop[Transport] = clients_for(client_or_url, seconds)
        self.announcer: Announcing = RedisAnnouncer(self.clients, self._prefix, seconds)
        self._commands = Commands(self.clients, seconds, wait_for_replicas)
        self._writer = Writer(self._commands, self._prefix)
        self._batches = Batches(self._commands, self._prefix, self._writer, self.announcer)
        self._reader = Reader(self._commands, self._prefix)
        self._scanner = Scanner(self._commands, self._prefix)
        self._eviction = EvictionCheck()

    async def get(self, key: str, *, now: int) -> Entry | None:
        name = self._prefix + key.encode()
        entry = parsed(await self._commands.finish(self._commands.read, name), now)
        if entry is None and now == 0 and self._commands.waits:
            # It was to be ended, whatever the clock says. The request that ended it may have failed to confirm that.
            await self._commands.finish(self._commands.confirm, name)
        return entry

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        return await self._put(key, value, b"", expires_at, now, owner)

    async def replace(
        self, key: str, value: bytes, version: Version, *, expires_at: int, now: int, owner: Owner | None = None
    ) -> Version:
        return await self._put(key, value, version, expires_at, now, owner)

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        try:
            await self._writer.carry_out(Change(key, now, version or ANY))
        except Conflict:
            if version is not None:
                raise
            return False
        return True

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        return await self._commands.finish(self._reader.page, name, limit, now, after)

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        count: int = await self._commands.finish(self._commands.ask, "ZCARD", listing(self._prefix, name))
        return count

    async def get_joined(self, key: str, other: str, *, now: int) -> Joined:
        return await self._commands.finish(self._reader.joined, key, other, now)

    async def write_together(
        self, writes: Sequence[Write], *, now: int, topics: Sequence[str] = ()
    ) -> Sequence[Version | None] | None:
        versions = await self._batches.carry_out([_change(write, now) for write in writes], topics, now)
        if versions is not None:
            await self._eviction.once(self._commands)
        return versions

    async def write_joined(
        self, writes: Sequence[Write], *, owner: str, other: str, now: int, topics: Sequence[str] = ()
    ) -> Written | None:
        asked = [*(self._prefix + key.encode() for key in (owner, other)), listing(self._prefix, owner)]
        done = await self._batches.answered([_change(write, now) for write in writes], topics, now, asked)
        if done is None:
            return None
        await self._eviction.once(self._commands)
        of_owner, of_other, count = done.answers
        return Written(done.versions, parsed(of_owner, now), parsed(of_other, now), count)

    async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
        return await self._commands.finish(self._scanner.page, limit, now, after)

    async def time(self) -> float:
        """Return the seconds since 1970 by the clock of the server; in a Cluster, by that of one of the primaries."""
        (seconds, microseconds), _ = await self._commands.finish(self._commands.run, CLOCK, [self._prefix])
        return int(seconds) + int(microseconds) / 1_000_000

    async def survey(self) -> Survey:
        """Return what the server says about itself; in a Cluster, what one of the nodes says."""
        await self.get(_NO_SESSION, now=0)  # the questions below may remain unanswered
        return Survey(evicts=await evicting_policy(self._commands), persists=await persists(self._commands))

    async def aclose(self) -> None:
        """Close the client that the store made for this event loop. The store can be used again: it makes a new one."""
        if self.clients.is_owner:
            await self.clients.aclose()

    async def _put(
        self, key: str, value: bytes, expected: Version, expires_at: int, now: int, owner: Owner | None
    ) -> Version:
        change = _new_entry(key, value, expected, expires_at, now, owner)
        version = await self._writer.carry_out(change)
        await self._eviction.once(self._commands)
        return version


def _new_entry(key: str, value: bytes, expected: Version, expires_at: int, now: int, owner: Owner | None) -> Change:
    version = new_version(urandom(8), expires_at, owner)
    kept_until = owner.until if isinstance(owner, Provisional) else 0
    return Change(key, now, expected, version, value, expires_at, kept_until)


def _change(write: Write, now: int) -> Change:
    if isinstance(write, Deletion):
        return Change(write.key, now, write.version)
    expected = b"" if isinstance(write, Creation) else write.version
    return _new_entry(write.key, write.value, expected, write.expires_at, now, write.owner)
