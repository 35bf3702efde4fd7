"""How all entries are read, page by page: with SCAN, on one server after the other.

A page is one script, which also says which server has answered, and how that one sees its Cluster. The position of a
SCAN means something to this server only, until it is restarted; and an entry that moves to a server that was scanned
before is missed. So if the next page finds another server under the name, or slots that have moved or are moving, the
scan ends with an error. Nothing else can lose an entry, because each page of a server is compared with what the first
page of the scan has seen.
"""

from hashlib import sha256
from typing import Any, NamedTuple

from starsessions.core.encoding import is_valid_id, to_base64url
from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import ScanPage
from starsessions.stores.redis.commands import Commands
from starsessions.stores.redis.layout import owner_of, parsed
from starsessions.stores.redis.scripts import SCAN

_CHANGED = (
    "The servers of this Redis changed during the scan (one was replaced or restarted, or slots were moved), so that "
    "entries might be missed: begin the scan again."
)

_SPECIAL = {byte: b"\\" + bytes([byte]) for byte in b"\\*?[]"}


class _Position(NamedTuple):
    """Where a page ends. As text, it is what `scan` returns."""

    cursor: str
    """Of the server that comes next; "0": begin with it."""

    run: str
    """The run of that server to which the cursor belongs."""

    slots: str
    """Which primary has which slots."""

    server: str
    """The name of the server that comes next."""


class Scanner:
    """Read all entries.

    Args:
        commands: how to reach Redis.
        prefix: the prefix of all keys.
    """

    def __init__(self, commands: Commands, prefix: bytes) -> None:
        self._commands = commands
        self._prefix = prefix
        self._pattern = b"".join(_SPECIAL.get(byte, bytes([byte])) for byte in prefix) + b"*"

    async def page(self, limit: int, now: int, after: str | None) -> ScanPage:
        """Return a page of the scan."""
        before = None if after is None else _Position(*after.split(" ", 3))
        servers = await self._commands.servers(anew=before is None)
        server = min(servers) if before is None else before.server
        if server not in servers:
            raise BackendUnavailable(_CHANGED)
        begin = "0" if before is None else before.cursor
        reply, _ = await self._commands.run(SCAN, (), begin, self._pattern, limit, send=servers[server])
        cursor, run, nodes = (part.decode() for part in reply[:3])
        here = _Position(cursor, run, _slots(nodes, len(servers)), server)
        if before is not None and (here.slots != before.slots or (begin != "0" and here.run != before.run)):
            raise BackendUnavailable(_CHANGED)
        return ScanPage(self._entries(reply[3:], now), _after(here, sorted(servers)))

    def _entries(self, found: list[Any], now: int) -> list[Any]:
        entries = []
        for name, stored in zip(found[::2], found[1::2], strict=True):
            key, entry = name[len(self._prefix) :].decode(errors="replace"), parsed(stored, now)
            if entry is not None and is_valid_id(key):
                entries.append((key, entry, owner_of(entry.version)))
        return entries


def _after(here: _Position, servers: list[str]) -> str | None:
    """Return where the next page begins, on this server or on the next one."""
    if here.cursor == "0":
        left = servers[servers.index(here.server) + 1 :]
        if not left:
            return None
        here = here._replace(server=left[0])
    return " ".join(here)


def _slots(nodes: str, count: int) -> str:
    """Return a digest of which primary has which slots, and which are about to move; empty: this is no Cluster.

    Args:
        nodes: the reply to CLUSTER NODES of the server that was read. It says of its own slots which are moving.
        count: the number of primaries that are read.

    Raises:
        BackendUnavailable: the server is no primary, or there are other primaries.
    """
    lines = [line.split() for line in nodes.splitlines()]
    primaries = [(line[0], line[6], *line[8:]) for line in lines if "master" in line[2].split(",") and len(line) > 8]
    if not lines:
        return ""
    if len(primaries) != count or not any("myself,master" in line[2] for line in lines):
        raise BackendUnavailable(_CHANGED)
    return to_base64url(sha256(repr(sorted(primaries)).encode()).digest()[:12])
