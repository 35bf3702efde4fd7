"""Announce to all who watch a session that it has ended, by means of a store that is `Announcing`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from starsessions.notices import Notices
from starsessions.stores.announce import try_to_announce
from starsessions.stores.base import Announcing

if TYPE_CHECKING:
    from starsessions.backends.bus import Bus


class Announcements:
    """How to announce something by one store, and a `Bus` for each event loop that hears it."""

    def __init__(self, store: Announcing) -> None:
        self._store = store
        self._notices = Notices()
        self._buses: WeakKeyDictionary[Any, Bus] = WeakKeyDictionary()

    def bus(self) -> "Bus":
        """Return the bus of the running event loop."""
        from starsessions.backends.bus import Bus, is_closed, running_loop  # only a listener needs an event loop

        loop = running_loop()
        bus = self._buses.get(loop)
        if bus is None:
            for other in [one() for one in self._buses.keyrefs()]:  # a copy, since another thread may add a loop
                if is_closed(other):
                    self._buses.pop(other, None)
            bus = self._buses[loop] = Bus(self._store, self._notices)
        return bus

    async def announce(self, topics: Sequence[str]) -> None:
        """Tell all who listen to one of the topics to look. It does not fail, and takes no longer than a moment."""
        await try_to_announce(self._store, topics, self._notices)

    async def aclose(self) -> None:
        """End the subscription of the running event loop."""
        if self._buses:
            await self.bus().aclose()


_announcements: WeakValueDictionary[int, Announcements] = WeakValueDictionary()
"""Those of each store, by its id: all backends that use a store share one."""


def announcements_of(store: object) -> Announcements | None:
    """Return the announcements of a store; None if it has not this power."""
    if not isinstance(store, Announcing):
        return None
    found = _announcements.get(id(store))
    if found is None:
        found = _announcements[id(store)] = Announcements(store)
    return found
