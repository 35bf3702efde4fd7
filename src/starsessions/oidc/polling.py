"""Fetches the events of a stream with poll delivery (RFC 8936), and acknowledges them.

Each request is a long poll, which the transmitter answers when there is an event, and it acknowledges the events of the
answer before (sections 2.2 and 2.4.3). There is always another request at once after an answer with events, so what
`moreAvailable` says of it (2.3) is not needed.

An event is acknowledged after its sessions have ended. What is interrupted before that is delivered again, and a
repeated event does nothing, but is acknowledged again. (Section 2.4 would have it acknowledged before anything is done,
"where possible". It is not: after that, the transmitter may forget the event, and it is kept nowhere else.)

What is wrong with an event is told to the transmitter, and not that the work for it has failed (sections 2 and 2.6).
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starsessions.core.issued import Refused
from starsessions.exceptions import BackendUnavailable
from starsessions.notices import Notices
from starsessions.oidc.documents import DocumentUnavailable

AT_ONCE = 10
"""Events that one answer may contain: so many of the longest fit into a document."""

HELD_FOR = 90
"""Seconds for which the transmitter may hold a request until there is an event (long polling, 2.5)."""

LONGEST_PAUSE = 60
"""Seconds between two attempts, if the transmitter does not answer."""

Post = Callable[[str, Mapping[str, Any], Mapping[str, str], float], Awaitable[Mapping[str, Any]]]
"""Posts a document to an address, with these headers, and returns the answer within this number of seconds."""

Authorization = Callable[[], Awaitable[str]]
"""Returns the value of the header `Authorization` of the next request."""


class Polling:
    """A stream whose events are fetched."""

    def __init__(
        self,
        url: str,
        receive: Callable[[str], Awaitable[Refused | None]],
        notices: Notices,
        authorization: Authorization | None,
        post: Post,
    ) -> None:
        """Fetch events from this address, and have `receive` do what each asks for."""
        self._url = url
        self._receive = receive
        self._notices = notices
        self._authorization = authorization
        self._post = post
        self._done: dict[str, Refused | None] = {}
        """The events to be acknowledged, each with the reason if it was refused."""

    async def run(self, every: float, wait: Callable[[float], Awaitable[None]]) -> None:
        """Fetch until cancelled, with a pause of this number of seconds after an answer without new events."""
        failures = 0
        while True:
            try:
                pause = 0 if await self.fetch() else every
                failures = 0
            except Exception as error:  # also what the application's functions raise: the next sign-out must arrive
                failures += 1
                pause = min(2**failures, LONGEST_PAUSE)
                is_ours = isinstance(error, BackendUnavailable | DocumentUnavailable)
                why = error if is_ours else type(error).__name__
                self._notices.warn("poll", "Security events were not fetched, or not acted on: %s", why, every=60)
            if pause:
                await wait(pause)

    async def fetch(self) -> bool:
        """Fetch and act on some events. Return whether there were new ones, which are to be acknowledged at once."""
        headers = {"content-language": "en"}  # that of the descriptions of errors (2.6)
        if self._authorization is not None:
            headers["authorization"] = await self._authorization()
        told = self._done
        answer = await self._post(self._url, _request(told), headers, HELD_FOR)
        events, failed = answer.get("sets"), None
        if not isinstance(events, dict):  # it is there and empty if there are none (2.3)
            raise DocumentUnavailable("The transmitter's answer has no sets.")
        self._done = {}
        for number, event in events.items():
            try:
                self._done[number] = await self._receive(event if isinstance(event, str) else "")
            except Exception as error:  # the others must not wait for this one, which will be delivered again
                failed = error
        if failed is not None:
            raise failed
        return not self._done.keys() <= told.keys()


def _request(done: Mapping[str, Refused | None]) -> Mapping[str, Any]:
    """Return a request for more events, which acknowledges some. A member that would be empty is omitted (2.4.1)."""
    accepted = [number for number, why in done.items() if why is None]
    refused = {number: {"err": why.code, "description": why.why} for number, why in done.items() if why is not None}
    acknowledged = {"ack": accepted, "setErrs": refused}
    return {"maxEvents": AT_ONCE} | {name: value for name, value in acknowledged.items() if value}
