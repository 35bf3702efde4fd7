"""Warns of a server that evicts keys."""

import logging
from contextlib import suppress
from re import search

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.redis.commands import Commands

_log = logging.getLogger("starsessions")

_EVICTS = (
    "Redis evicts keys when its memory is full (maxmemory-policy %s): sessions, and listings of users' sessions. "
    "`revoke_all` and the list of devices miss a session whose listing was evicted, until it is next saved. "
    "Set `maxmemory-policy noeviction`."
)


class EvictionCheck:
    """Look at the policy of the server once, so that what is wrong is logged once."""

    def __init__(self) -> None:
        self._is_known = False

    async def once(self, commands: Commands) -> None:
        if not self._is_known:
            self._is_known = True
            with suppress(BackendUnavailable):  # it may forbid the question, for instance by an ACL
                said = repr(await commands.finish(commands.ask, "INFO", "memory"))
                limit, policy = search(r"maxmemory\W+([0-9]+)", said), search(r"maxmemory_policy\W+([a-z-]+)", said)
                if limit and policy and limit[1] != "0" and policy[1] != "noeviction":
                    _log.warning(_EVICTS, policy[1])
