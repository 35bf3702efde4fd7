"""The scripts that the store has Redis run. Each of them is atomic."""

from hashlib import sha1
from typing import NamedTuple


class Script(NamedTuple):
    """A script, and the name under which Redis remembers it."""

    source: bytes
    sha: str


def _script(*parts: bytes) -> Script:
    source = b"".join(parts)
    return Script(source, sha1(source, usedforsecurity=False).hexdigest())


_PLACES = b"""
-- The member that begins with a place, if there is one.
local function find(listing, start)
    local stop = string.sub(start, 1, -2) .. '\\1'
    return redis.call('ZRANGEBYLEX', listing, '[' .. start, '(' .. stop, 'LIMIT', 0, 1)[1]
end

-- Entry and place are atomic if the entry is given, too. Otherwise, `who` tells whether another write has renewed it.
local function remove(listing, start, who, entry)
    local member = find(listing, start)
    if not member then return end
    if entry and redis.call('GET', entry) then return end
    if not entry and string.sub(member, -4) ~= who then return end
    redis.call('ZREM', listing, member)
end
"""

_ADD = b"""
local GRACE = 60 -- minutes for which a place is kept after its entry has expired
local MOST = 8   -- members that one call looks at

-- Not every server has `struct`.
local function pack(number)
    local bytes = ''
    for _ = 1, 4 do
        bytes = string.char(number % 256) .. bytes
        number = math.floor(number / 256)
    end
    return bytes
end

local function last_minute(member)
    local a, b, c, d = string.byte(member, -8, -5)
    return ((a * 256 + b) * 256 + c) * 256 + d
end

-- Look at a few members, from any on, and remove those whose entries have expired. So at most an eighth of a long
-- listing has.
local function sweep(listing, minute, random)
    local count = redis.call('ZCARD', listing)
    local first = count > MOST and random % count or 0
    for _, member in ipairs(redis.call('ZRANGE', listing, first, first + MOST - 1)) do
        if last_minute(member) + GRACE < minute then redis.call('ZREM', listing, member) end
    end
end

local function add(listing, start, who, milliseconds, seed)
    local minute = math.floor(redis.call('TIME')[1] / 60)
    local last = math.min(minute + math.ceil(milliseconds / 60000) + 1, 4294967295)
    local former = find(listing, start)
    if former then
        last = math.max(last, last_minute(former)) -- another write may have prolonged the entry meanwhile
    else
        local a, b, c = string.byte(seed, 2, 4)
        sweep(listing, minute, (a * 256 + b) * 256 + c)
    end
    local member = start .. pack(last) .. who
    if member ~= former then
        redis.call('ZADD', listing, 0, member)
        if former then redis.call('ZREM', listing, former) end
    end
    local enough = milliseconds + GRACE * 60000
    if redis.call('PTTL', listing) < enough then
        redis.call('PEXPIRE', listing, string.format('%.0f', enough + GRACE * 60000))
    end
end
"""

_ENTRIES = b"""
local function deadline(stored)
    local seconds = 0
    for byte = 10, 17 do seconds = seconds * 256 + string.byte(stored, byte) end
    return seconds
end

local function head(stored)
    local size = string.byte(stored, 18)
    return string.sub(stored, 2, size == 0 and 18 or 26 + size)
end

-- What is stored under a key, if it is an entry that has not expired; or the error that the server returned.
local function look(key, now)
    local there = redis.pcall('GET', key)
    if type(there) == 'table' then
        if string.find(there.err, 'WRONGTYPE', 1, true) then return false end
    elseif there and (#there < 18 or string.byte(there) ~= 2 or deadline(there) <= now) then
        return false
    end
    return there
end

-- Whether an earlier attempt has written this entry, and its reply was lost.
local function is_same(there, entry)
    return there and string.sub(there, 2, 9) == string.sub(entry, 2, 9)
end

local function put(key, entry, milliseconds)
    if tonumber(milliseconds) > 0 then
        redis.call('SET', key, entry, 'PX', milliseconds)
    else
        redis.call('DEL', key)
    end
end
"""

WRITE = _script(
    _PLACES,
    _ADD,
    _ENTRIES,
    b"""
local entry, expected, now, milliseconds = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local start, former = ARGV[5], ARGV[6]

local there = look(KEYS[1], now)
if type(there) == 'table' then return there end

if expected == '*' then
    redis.call('DEL', KEYS[1])
    return there and {head(there)}
end

if (there and head(there) or '') ~= expected then
    return is_same(there, entry) and 1 or there
end
-- If one of these fails, the others are not undone. So the order is that an entry is never without its place.
if start ~= '' then add(KEYS[2], start, '\\0\\0\\0\\0', milliseconds, entry) end
put(KEYS[1], entry, ARGV[4])
if former ~= '' then remove(KEYS[#KEYS], former, '\\0\\0\\0\\0') end
return 1
""",
)
"""Write an entry if the stored version is `expected`. An empty entry deletes; an empty `expected` requires a missing
entry; `*` deletes any version. The reply is 1 if this was done, now or by an earlier attempt, and for `*` the version
in a list; otherwise the stored entry, or nil if it is missing.

KEYS: the entry; the listing in which it gets a place, and the one in which it loses one. ARGV: the entry, `expected`,
now, the milliseconds to live, and the two places, empty if they are to stay as they are.
"""

WRITE_TOGETHER = _script(
    _PLACES,
    _ADD,
    _ENTRIES,
    b"""
local now, channel, count = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])

-- The keys and arguments of one write: as for the script of one.
local function write(n)
    local k, a = 3 * n, 5 * n - 1
    return KEYS[k - 2], KEYS[k - 1], KEYS[k], ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
end

-- What is asked is answered last, so that it is not older than what was written.
local function reply(done)
    local owner, other, listing = KEYS[3 * count + 1], KEYS[3 * count + 2], KEYS[3 * count + 3]
    if not listing then return {done} end
    local one, two = look(owner, now), look(other, now)
    if type(one) == 'table' then return one end
    if type(two) == 'table' then return two end
    return {done, one, two, redis.call('ZCARD', listing)}
end

for n = 1, count do
    local key, _, _, entry, expected = write(n)
    local there = look(key, now)
    if type(there) == 'table' then return there end
    if (there and head(there) or '') ~= expected then
        return is_same(there, entry) and reply(1) or {0, n - 1, there}
    end
end
-- If one of these fails, the others are not undone. So what can fail, at a key that is no listing, comes first.
for n = 1, count do
    local _, listing, _, entry, _, milliseconds, start = write(n)
    if start ~= '' then add(listing, start, '\\0\\0\\0\\0', tonumber(milliseconds), entry) end
end
for n = 1, count do
    local key, _, _, entry, _, milliseconds = write(n)
    put(key, entry, milliseconds)
end
for n = 1, count do
    local _, _, listing, _, _, _, _, former = write(n)
    if former ~= '' then pcall(remove, listing, former, '\\0\\0\\0\\0') end
end
local done = 1
for n = 4 + 5 * count, #ARGV do
    if type(redis.pcall('PUBLISH', channel, ARGV[n])) == 'table' then done = 2 end
end
return reply(done)
""",
)
"""Carry out several writes if each finds the version that it expects, publish messages, and answer what is asked. The
reply begins with 1 if this was done, now or by an earlier attempt, and with 2 if it was, but could not be published;
what is asked follows. Otherwise it is 0, the index of the first write that does not, and the stored entry.

KEYS: for each write the entry, the listing in which it gets a place, and the one in which it loses one; the entry again
in place of a listing that is not needed. Then, if that is asked, two other entries to return, and a listing to count.
ARGV: now; the channel; the number of writes; for each write the entry, the expected version, the milliseconds to live,
and the two places; and the messages.
"""

ADD = _script(_PLACES, _ADD, b"add(KEYS[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[1])")
"""Add a place to a listing, or renew it. KEYS: the listing. ARGV: random bytes as in an entry, the place, who adds it,
and the milliseconds for which its entry lives."""

REMOVE = _script(_PLACES, b"remove(KEYS[1], ARGV[1], ARGV[2], KEYS[2])")
"""Remove the place of an entry that was deleted. KEYS: the listing, and the entry if it is on the same server. ARGV:
the place, and who has added it."""

LIST = _script(
    b"""
local prefix, owner, below, limit = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local members = redis.call('ZREVRANGEBYLEX', KEYS[1], below, '-', 'LIMIT', 0, limit + 1)
local found = {members[limit + 1] and members[limit] or ''}
for n = 1, math.min(limit, #members) do
    local member = members[n]
    local stored = redis.pcall('GET', prefix .. string.sub(member, 9, -10))
    if type(stored) == 'table' then
        if not string.find(stored.err, 'WRONGTYPE', 1, true) then return stored end
        stored = ''
    end
    if stored and string.byte(stored) == 2 and string.sub(stored, 18, 26 + #owner)
        == string.char(#owner) .. string.sub(member, 1, 8) .. owner then
        table.insert(found, member)
        table.insert(found, stored)
    else
        redis.call('ZREM', KEYS[1], member)
    end
end
return found
"""
)
"""Return the last member of this page if others follow, and the members and entries of the page. Places whose entries
are missing are removed: so this is for one server, where a place and its entry are written together.

KEYS: the listing, and keys that a Cluster has elsewhere, so that it refuses the script. ARGV: the prefix, the owner,
where to begin, and the most members to look at.
"""

JOIN = _script(
    _ENTRIES,
    b"""
local now = tonumber(ARGV[2])
local found = {look(KEYS[1], now)}
local size = type(found[1]) == 'string' and string.byte(found[1], 18) or 0
if size > 0 then
    found[2] = look(ARGV[1] .. string.sub(found[1], 27, 26 + size), now)
    found[3] = look(KEYS[2], now)
end
for _, stored in ipairs(found) do
    if type(stored) == 'table' then return stored end
end
return found
""",
)
"""Return an entry and, if it has an owner, the one whose key is the name of that owner, and another one. What is
missing or expired is nil. KEYS: the entry, the other one, and keys as for LIST. ARGV: the prefix, and now."""

SCAN = _script(
    b"""
-- A server without the command, or without a Cluster, has nothing to say. One that may not say it does not lack it.
local function ask(...)
    local said = redis.pcall(...)
    if type(said) == 'string' then return said end
    local why = tostring(said.err)
    if string.find(why, 'nknown', 1, true) or string.find(why, 'support disabled', 1, true) then return '' end
    error(why)
end

local nodes = ask('CLUSTER', 'NODES')
local run = string.match(ask('INFO', 'server'), 'run_id:(%w+)')
local cursor, keys = ARGV[1], {}
for _ = 1, math.max(1, math.floor(10000 / tonumber(ARGV[3]))) do  -- past other data, as far as that takes no time
    cursor, keys = unpack(redis.call('SCAN', cursor, 'MATCH', ARGV[2], 'COUNT', ARGV[3], 'TYPE', 'string'))
    if #keys > 0 or cursor == '0' then break end
end
local found = {cursor, run or '', nodes}
for _, key in ipairs(keys) do
    local stored = redis.call('GET', key)
    if stored then
        table.insert(found, key)
        table.insert(found, stored)
    end
end
return found
"""
)
"""Return where the next page of a scan begins, which server this is, how it sees its Cluster, and keys and their
values. ARGV: where this page begins, a pattern, and about how many keys to return."""
MARK = _script(
    b"""
local left = redis.call('PTTL', KEYS[1])
if left == -2 then
    redis.call('SET', KEYS[1], '', 'PX', 1000)
    redis.call('DEL', KEYS[1])
elseif left > 0 then
    redis.call('PEXPIRE', KEYS[1], left)
end
"""
)
"""Write something that changes nothing. WAIT waits for what its connection has written, and for nothing at all where a
command found that what it should do was done already. KEYS: the entry or listing."""

CLOCK = _script(b"return redis.call('TIME')")
"""Return seconds and microseconds. KEYS: any key, by which a Cluster chooses the server."""
