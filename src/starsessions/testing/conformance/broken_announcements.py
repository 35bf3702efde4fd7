"""Stores with typical mistakes in the optional power to announce, and the rules that must reject each of them.

As with the other broken stores, the sets of rules are written by hand.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar, Self

from anyio import create_memory_object_stream, sleep_forever

from starsessions.backends.bus import spawn
from starsessions.exceptions import BackendUnavailable
from starsessions.stores.announce import InProcess
from starsessions.testing.conformance import announcing_rules as a
from starsessions.testing.conformance.contract import Rule
from starsessions.testing.conformance.fixtures import StoreFixture
from starsessions.testing.conformance.right_stores import EndsWithItsConnection, Entries, Right, Topics

# What arrives


class SubscribesWhenItIsRead(Right):
    """An asynchronous generator that sends `SUBSCRIBE` at the first `anext`."""

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Topics]:
        listen = super().listen

        async def topics() -> Topics:
            async with listen() as announced:
                async for one in announced:
                    yield one

        yield topics()

    def listen(self) -> AbstractAsyncContextManager[Topics]:
        return self._listen()


class AnnouncesTheFirst(Right):
    """`NOTIFY … topics[0]`."""

    async def announce(self, topics: Sequence[str]) -> None:
        await super().announce(topics[:1])


class CutsTopics(Right):
    """`VARCHAR(64)`, which truncates silently."""

    async def announce(self, topics: Sequence[str]) -> None:
        await super().announce([topic[:64] for topic in topics])


class LowersTopics(Right):
    """It compares topics without case."""

    async def announce(self, topics: Sequence[str]) -> None:
        await super().announce([topic.lower() for topic in topics])


class SendsEightThousandBytes(Right):
    """One `NOTIFY` for all topics: PostgreSQL refuses 8000 bytes."""

    async def announce(self, topics: Sequence[str]) -> None:
        if len(" ".join(topics)) >= 8000:
            raise BackendUnavailable("The store failed: payload string too long.")
        await super().announce(topics)


class LosesWhatIsTooLong(Right):
    """It sends what fits into a datagram."""

    async def announce(self, topics: Sequence[str]) -> None:
        await super().announce(" ".join(topics)[:8000].split())


# Who hears it


class SharesASocket(Right):
    """All listeners of a connection read from one socket, and the first one takes what arrives."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(entries)
        self.took: int = -1

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Topics]:
        async with super().listen() as announced:
            yield self._not_taken(announced)

    async def _not_taken(self, announced: Topics) -> Topics:
        async for topics in announced:
            number = self.entries.notes["said"].index(topics)
            if number > self.took:
                self.took = number
                yield topics

    def listen(self) -> AbstractAsyncContextManager[Topics]:
        return self._listen()

    async def announce(self, topics: Sequence[str]) -> None:
        self.entries.notes.setdefault("said", []).append(tuple(topics))
        await super().announce(topics)


class AnnouncesInItsProcess(EndsWithItsConnection):
    """It says that it reaches all processes, and reaches its own."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(entries)
        self.announcer = InProcess(reaches_all=True)

    async def until_closed(self, announced: Topics) -> Topics:
        async for topics in super().until_closed(announced):
            yield topics
        raise BackendUnavailable("The connection was closed.")


class KeepsWhatWasSaid(Right):
    """A stream that is read from its beginning."""

    async def announce(self, topics: Sequence[str]) -> None:
        self.entries.notes.setdefault("said", []).append(topics)
        await super().announce(topics)

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Topics]:
        async with super().listen() as announced:
            yield self._from_the_beginning([*self.entries.notes.get("said", ())], announced)

    async def _from_the_beginning(self, said: list[Sequence[str]], announced: Topics) -> Topics:
        for topics in said:
            yield topics
        async for topics in announced:
            yield topics

    def listen(self) -> AbstractAsyncContextManager[Topics]:
        return self._listen()


class UnsubscribesAll(Right):
    """All listeners share a connection, and `UNSUBSCRIBE` at the end of one is sent by it."""

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Topics]:
        self.entries.notes["subscribed"] = True
        try:
            async with super().listen() as announced:
                yield announced
        finally:
            self.entries.notes["subscribed"] = False

    def listen(self) -> AbstractAsyncContextManager[Topics]:
        return self._listen()

    async def announce(self, topics: Sequence[str]) -> None:
        if self.entries.notes.get("subscribed"):
            await super().announce(topics)


class NeedsAnAudience(Right):
    """It takes "0 receivers" for a failure."""

    async def announce(self, topics: Sequence[str]) -> None:
        if not self.entries.notes.get("listeners"):
            raise BackendUnavailable("The store failed: no one has received it.")
        await super().announce(topics)

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Topics]:
        listeners = self.entries.notes.setdefault("listeners", [])
        async with super().listen() as announced:
            listeners.append(announced)
            try:
                yield announced
            finally:
                listeners.remove(announced)

    def listen(self) -> AbstractAsyncContextManager[Topics]:
        return self._listen()


# Waiting, and what is left


class WaitsForReaders(Right):
    """A queue with a limit between the announcer and each listener."""

    async def announce(self, topics: Sequence[str]) -> None:
        for inbox in [*self.entries.notes.get("inboxes", ())]:
            await inbox.send(topics)

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Topics]:
        sender, receiver = create_memory_object_stream[Sequence[str]](16)
        inboxes = self.entries.notes.setdefault("inboxes", [])
        with sender, receiver:
            inboxes.append(sender)
            try:
                yield receiver
            finally:
                inboxes.remove(sender)

    def listen(self) -> AbstractAsyncContextManager[Topics]:
        return self._listen()


class KeepsTheConnectionsOfTheCancelled(Right):
    """It returns the connection to the pool after the `yield`, without `finally`."""

    most: ClassVar[int] = 20

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Topics]:
        taken: int = self.entries.notes.get("taken", 0)
        if taken == self.most:
            raise BackendUnavailable("There are no more connections.")
        self.entries.notes["taken"] = taken + 1
        async with super().listen() as announced:
            yield announced
        self.entries.notes["taken"] -= 1

    def listen(self) -> AbstractAsyncContextManager[Topics]:
        return self._listen()


class LeavesATask(Right):
    """It reads in a background task, which goes on when the listener has left."""

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Topics]:
        async with super().listen() as announced:
            spawn(sleep_forever)
            yield announced

    def listen(self) -> AbstractAsyncContextManager[Topics]:
        return self._listen()


class IsDeafOnceClosed(Right):
    """`close` cancels the task that reads, and the listeners wait for it for ever."""

    is_closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.is_closed = True

    @asynccontextmanager
    async def _listen(self) -> AsyncIterator[Topics]:
        async with super().listen() as announced:
            yield self._until_deaf(announced)

    async def _until_deaf(self, announced: Topics) -> Topics:
        async for topics in announced:
            if not self.is_closed:
                yield topics

    def listen(self) -> AbstractAsyncContextManager[Topics]:
        return self._listen()


# The broken announcements, and the rules that must reject them

WRONG_ANNOUNCEMENTS: dict[type[Right], set[Rule[StoreFixture]]] = {
    SubscribesWhenItIsRead: {a.what_is_announced_from_then_on_arrives},
    AnnouncesTheFirst: {a.topics_arrive_whole_and_unchanged},
    CutsTopics: {a.topics_arrive_whole_and_unchanged},
    LowersTopics: {a.topics_arrive_whole_and_unchanged},
    SendsEightThousandBytes: {a.topics_arrive_whole_and_unchanged},
    LosesWhatIsTooLong: {a.topics_arrive_whole_and_unchanged},
    SharesASocket: {a.all_who_listen_hear_it},
    AnnouncesInItsProcess: {a.a_store_that_reaches_all_is_heard_by_every_connection},
    KeepsWhatWasSaid: {a.one_hears_only_what_is_announced_while_one_listens},
    UnsubscribesAll: {a.those_who_stay_hear_on_when_another_one_leaves},
    NeedsAnAudience: {a.announcing_is_no_error_if_no_one_listens},
    WaitsForReaders: {a.an_announcement_does_not_wait_for_those_who_do_not_read},
    KeepsTheConnectionsOfTheCancelled: {a.a_cancelled_listener_leaves_nothing_behind},
    LeavesATask: {a.a_cancelled_listener_leaves_nothing_behind},
    IsDeafOnceClosed: {a.the_end_of_a_connection_is_not_silent},
}
