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

import logging
from contextlib import suppress
from datetime import timedelta
from hashlib import sha1
from os import urandom
from re import search
from struct import Struct
from typing import Any

from starsessions.core.durations import time_limit
from starsessions.exceptions import BackendUnavailable, ImproperlyConfigured
from starsessions.stores.base import Conflict, Entry, Version
from starsessions.stores.loops import PerLoop
from starsessions.stores.redis.clients import ClientOrUrl, clients_for
from starsessions.stores.redis.connection import Read, Send, Transport, within

_log = logging.getLogger("starsessions")

_EVICTS = (
    "Redis evicts keys when its memory is full (maxmemory-policy %s): sessions, and perhaps the list of a user's "
    "sessions before the sessions, so that `revoke_all` would miss some. Set `maxmemory-policy noeviction`."
)

LAYOUT = 1
HEAD = Struct(">B8sQ")

_LONGEST = 10**15
"""The longest time to live in milliseconds, 30,000 years. Redis adds the current time, and rejects an overflow."""

SCRIPT = b"""
local entry, expected, now, milliseconds = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

-- Not every server has `struct`.
local function deadline(stored)
    local seconds = 0
    for place = 10, 17 do seconds = seconds * 256 + string.byte(stored, place) end
    return seconds
end

local there = redis.pcall('GET', KEYS[1])
if type(there) == 'table' then
    if not string.find(there.err, 'WRONGTYPE', 1, true) then return there end
    there = false
elseif there and (#there < 17 or string.byte(there) ~= 1 or deadline(there) <= now) then
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
        client_or_url: a client, which the caller closes; or a URL or a function, from which the store makes a client
            for each event loop. `aclose` closes that one.
        prefix: the prefix of all keys in Redis.
        timeout: the seconds after which any operation raises `BackendUnavailable`.

    Raises:
        ImproperlyConfigured: the client or URL cannot be used, or the package redis is missing.
    """

    def __init__(self, client_or_url: ClientOrUrl, prefix: str, *, timeout: float | timedelta) -> None:
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
        self._failures = (exceptions.RedisError,)
        self._refusal, self._unknown_script = exceptions.ResponseError, exceptions.NoScriptError
        # After these errors a command is retried. A read-only error means a failover: another node is the primary now.
        self._lost = (exceptions.ConnectionError, exceptions.ReadOnlyError)
        self.clients: PerLoop[Transport] = clients_for(client_or_url, self._timeout)
        self._policy_is_known = False  # it is asked for once, so that what is wrong is logged once

    async def get(self, key: str, *, now: int) -> Entry | None:
        read = self.clients.get().read
        return _entry(await within(self._timeout, self._read(read, self._prefix + key.encode()), self._failures), now)

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
        """Close the client that the store made for this event loop. The store can be used again: it makes a new one."""
        if self.clients.is_owner:
            await self.clients.aclose()

    async def _read(self, read: Read, name: bytes) -> bytes | None:
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
        if not self._policy_is_known:
            self._policy_is_known = True
            await self._check_policy()
        return version

    async def _check_policy(self) -> None:
        """Warn of a server that evicts sessions. It may forbid the question, for instance by an ACL."""
        with suppress(BackendUnavailable):
            said = repr(await within(self._timeout, self.clients.get().send("INFO", "memory"), self._failures))
            limit, policy = search(r"maxmemory\W+([0-9]+)", said), search(r"maxmemory_policy\W+([a-z-]+)", said)
            if limit and policy and limit[1] != "0" and policy[1] != "noeviction":
                _log.warning(_EVICTS, policy[1])

    async def _swap(self, key: str, entry: bytes, expected: bytes, now: int, milliseconds: int) -> None:
        """Replace the entry that has the version `expected` with `entry`, or raise `Conflict`."""
        send = self.clients.get().send
        work = self._run_script(send, self._prefix + key.encode(), entry, expected, now, milliseconds)
        answer, twice = await within(self._timeout, work, self._failures)
        if answer == 1:
            return
        current = _entry(answer, now)
        if twice and current is not None:
            raise BackendUnavailable("The reply to a write was lost, and its result is unknown: another one followed.")
        if twice and not entry:
            return  # it was to be deleted, and it is
        raise Conflict(current)

    async def _run_script(self, send: Send, *arguments: Any) -> tuple[Any, bool]:
        """Return the reply to the script, and whether it was sent twice."""
        try:
            return await self._run_script_once(send, arguments), False
        except self._lost:
            return await self._run_script_once(send, arguments), True

    async def _run_script_once(self, send: Send, arguments: tuple[Any, ...]) -> Any:
        try:
            return await send("EVALSHA", SHA, 1, *arguments)
        except self._unknown_script:
            return await send("EVAL", SCRIPT, 1, *arguments)


def _entry(stored: bytes | None, now: int) -> Entry | None:
    if stored is None or len(stored) < HEAD.size or stored[0] != LAYOUT:
        return None
    _, version, expires_at = HEAD.unpack_from(stored)
    return Entry(stored[HEAD.size :], expires_at, version) if now < expires_at else None
