"""Warns of a server that evicts keys, and says whether it forgets all of them when it is restarted."""

import logging
from contextlib import suppress
from re import findall, search

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.redis.commands import Commands

_log = logging.getLogger("starsessions")

EVICTS = (
    "Redis evicts keys when its memory is full (maxmemory-policy %s): sessions, and listings of users' sessions. "
    "`revoke_all` and the list of devices miss a session whose listing was evicted, until it is next saved. "
    "Set `maxmemory-policy noeviction`."
)


async def evicting_policy(commands: Commands) -> str | None:
    """Return the policy by which the server evicts keys; None if it evicts none, or does not say."""
    with suppress(BackendUnavailable):  # it may forbid the question, for instance by an ACL
        said = repr(await commands.finish(commands.ask, "INFO", "memory"))
        limit, policy = search(r"maxmemory\W+([0-9]+)", said), search(r"maxmemory_policy\W+([a-z-]+)", said)
        if limit and policy and limit[1] != "0" and policy[1] != "noeviction":
            return policy[1]
    return None


async def persists(commands: Commands) -> bool:
    """Return whether the server writes its data to a disk. Hosting services often forbid one of the two questions."""
    try:
        log = findall(r"aof_enabled\W+([01])", repr(await commands.finish(commands.ask, "INFO", "persistence")))
        snapshots = repr(await commands.finish(commands.ask, "CONFIG GET", "save"))
    except BackendUnavailable:
        return True
    return "1" in log or not log or search(r"[0-9]", snapshots) is not None


class EvictionCheck:
    """Look at the policy of the server once, so that what is wrong is logged once."""

    def __init__(self) -> None:
        self._is_known = False

    async def once(self, commands: Commands) -> None:
        if not self._is_known:
            self._is_known = True
            policy = await evicting_policy(commands)
            if policy is not None:
                _log.warning(EVICTS, policy)
