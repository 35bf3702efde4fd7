"""The store contract in Redis or Valkey: a single server, the primary of a Sentinel set, or a Cluster.

An entry is one string under one key:

    0x01 | version, 8 random bytes | expires_at, 8 bytes, big-endian | value

Any other value under a key of the store (another type, too short, another first byte) is treated as missing: `get`
ignores it, `create` replaces it, `delete` removes it. A read is one GET. A write is one script that compares and writes
atomically. It uses one key, so that a Cluster can route it. If the server does not have the script (any more), it is
sent in full.

The writer chooses the version at random. So if a script is sent again because the first reply was lost, it finds its
own version and reports success. If another writer came in between, it is unknown whether the first attempt was carried
out, and the write fails. (The Cluster client retries commands without reporting it. There, a value computed from the
old one may be computed twice.)

Redis counts the time to live by its own clock. The caller's clock decides whether an entry has expired.
"""

from asyncio import get_running_loop
from datetime import timedelta
from hashlib import sha1
from os import urandom
from struct import Struct
from typing import TYPE_CHECKING, Any

from starsessions.core.durations import time_limit
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.stores.base import Conflict, Entry, Version
from starsessions.stores.redis.connection import Opened, Send, Transport, check_url, client_from, transport_for, within

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

LAYOUT = 1
HEAD = Struct(">B8sQ")

_LONGEST = 10**15
"""The longest time to live in milliseconds, 30,000 years. Redis adds the current time, and rejects an overflow."""

SCRIPT = b"""
local entry, expected, now, milliseconds = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local there = redis.pcall('GET', KEYS[1])
if type(there) == 'table' then
    if not string.find(there.err, 'WRONGTYPE', 1, true) then return there end
    there = false
elseif there and (#there < 17 or string.byte(there) ~= 1 or struct.unpack('>I8', there, 10) <= now) then
    there = false
end

if expected == '*' then
    redis.call('DEL', KEYS[1])
    return there and 1
end

local version = there and string.sub(there, 2, 9) or ''
if version ~= expected then
    if there and version == string.sub(entry, 2, 9) then return 1 end
    return there
end
if milliseconds > 0 then
    redis.call('SET', KEYS[1], entry, 'PX', ARGV[4])
else
    redis.call('DEL', KEYS[1])
end
return 1
"""
"""Write an entry if the stored version is `expected`. An empty entry deletes; an empty `expected` requires a missing
entry; `*` deletes any version. The reply is 1 if this was done, now or by an earlier attempt; otherwise the stored
entry, or nil if it is missing."""

SHA = sha1(SCRIPT, usedforsecurity=False).hexdigest()


class RedisStore:
    """The store contract in Redis.

    Args:
        client_or_url: a client, which the caller closes; or a URL, from which the store creates a client for each event
            loop. `aclose` closes that one.
        prefix: the prefix of all keys in Redis.
        timeout: the seconds after which any operation raises `BackendUnavailable`.

    Raises:
        ImproperlyConfigured: the client or URL cannot be used, or the package redis is missing.
    """

    def __init__(self, client_or_url: "Redis | RedisCluster | str", prefix: str, *, timeout: float | timedelta) -> None:
        try:
            from redis import exceptions
        except ImportError as missing:
            raise ImproperlyConfigured(
                "Sessions in Redis need the package redis: install the extra starsessions[redis]."
            ) from missing
        if not isinstance(prefix, str):
            raise ImproperlyConfigured(f"prefix must be a str, not {type(prefix).__name__}.")
        self._prefix = prefix.encode()
        self._timeout = time_limit("timeout", timeout)
        self._failures = (exceptions.RedisError, exceptions.RedisClusterException, OSError)
        self._refusal, self._unknown_script = exceptions.ResponseError, exceptions.NoScriptError
        # After these errors a command is retried. A read-only error means a failover: another node is the primary now.
        self._lost = (exceptions.ConnectionError, exceptions.ReadOnlyError)
        self._given: Transport | None = None
        self._opened: Opened | None = None
        if isinstance(client_or_url, str):
            self._url = client_or_url
            check_url(client_or_url)
        else:
            self._given = transport_for(client_or_url, self._timeout)

    async def get(self, key: str, *, now: int) -> Entry | None:
        return _entry(await within(self._timeout, self._read(key), self._failures), now)

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int) -> Version:
        return await self._put(key, value, b"", expires_at, now)

    async def replace(self, key: str, value: bytes, version: Version, *, expires_at: int, now: int) -> Version:
        return await self._put(key, value, version, expires_at, now)

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        try:
            await self._swap(key, b"", version or b"*", now, 0)
        except Conflict:
            if version is not None:
                raise
            return False
        return True

    async def aclose(self) -> None:
        """Close the client made from a URL. The store can be used again: it then creates a new client."""
        opened, self._opened = self._opened, None
        if opened is not None and opened.loop is get_running_loop():
            await opened.client.aclose()

    async def _read(self, key: str) -> bytes | None:
        read, name = self._way().read, self._name(key)
        try:
            try:
                stored: bytes | None = await read(name)
            except self._lost:
                stored = await read(name)
        except self._refusal as refusal:
            if not str(refusal).startswith("WRONGTYPE"):
                raise
            return None
        return stored

    async def _put(self, key: str, value: bytes, expected: Version, expires_at: int, now: int) -> Version:
        version = urandom(8)
        entry = HEAD.pack(LAYOUT, version, max(0, expires_at)) + value
        await self._swap(key, entry, expected, now, min((expires_at - now) * 1000, _LONGEST))
        return version

    async def _swap(self, key: str, entry: bytes, expected: bytes, now: int, milliseconds: int) -> None:
        """Replace the entry that has the version `expected` with `entry`, or raise `Conflict`."""
        work = self._run_script(self._name(key), entry, expected, now, milliseconds)
        answer, twice = await within(self._timeout, work, self._failures)
        if answer == 1:
            return
        current = _entry(answer, now)
        if twice and current is not None:
            raise BackendUnavailable("The reply to a write was lost, and its result is unknown: another one followed.")
        if twice and not entry:
            return  # it was to be deleted, and it is
        raise Conflict(current)

    async def _run_script(self, *arguments: Any) -> tuple[Any, bool]:
        """Return the reply to the script, and whether it was sent twice."""
        send = self._way().send
        try:
            return await self._run_script_once(send, arguments), False
        except self._lost:
            return await self._run_script_once(send, arguments), True

    async def _run_script_once(self, send: Send, arguments: tuple[Any, ...]) -> Any:
        try:
            return await send("EVALSHA", SHA, 1, *arguments)
        except self._unknown_script:
            return await send("EVAL", SCRIPT, 1, *arguments)

    def _name(self, key: str) -> bytes:
        return self._prefix + key.encode()

    def _way(self) -> Transport:
        if self._given is not None:
            return self._given
        opened, loop = self._opened, get_running_loop()
        if opened is None or opened.loop is not loop:
            client = client_from(self._url, self._timeout)
            self._opened = opened = Opened(loop, client, transport_for(client, self._timeout))
        return opened.way


def _entry(stored: bytes | None, now: int) -> Entry | None:
    if stored is None or len(stored) < HEAD.size or stored[0] != LAYOUT:
        return None
    _, version, expires_at = HEAD.unpack_from(stored)
    return Entry(stored[HEAD.size :], expires_at, version) if now < expires_at else None
