"""What lasts longer than a request: looking again whether the session still exists, and stopping if not."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from starsessions import (
    BackendUnavailable,
    Session,
    SessionBackend,
    users,
    watch,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.core.serializer import Msgpack
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from starsessions.watch import _MAX_FAILURES
from tests.kinds import each_backend, each_store_backend
from tests.shell.people import each_listing, sign_in
from tests.site import Browser, Clock, Site, settled

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]


@each_listing
async def test_revalidate_merges_the_changes_of_others_with_unsaved_ones(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site, elsewhere = site_of(backend=listing), site_of(backend=listing)
    await site.visit(sign_in())
    await site.visit(lambda session: session.update(n=1))
    browser = site.browser

    async def act(session: Session) -> None:
        session["mine"] = 1
        await elsewhere.visit(lambda other: other.update(theirs=1), browser)
        assert await watch.revalidate(session) is True
        assert session["mine"] == 1

    await site.visit(act)
    data = await site.data()
    assert data["mine"] == 1


@each_listing
async def test_revalidate_returns_false_when_the_session_has_ended(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    async def end(session: Session) -> None:
        await UserSessions(listing).revoke_all("ann")

    async def again(session: Session) -> None:
        await users.sign_in(session, "ann")

    async def time_passes(session: Session) -> None:
        clock.advance(14 * 86400)

    for ends in (end, users.sign_out, again, time_passes):
        site, elsewhere = site_of(backend=listing), site_of(backend=listing)
        await site.visit(sign_in())

        async def act(
            session: Session, ends: Any = ends, elsewhere: Site = elsewhere, site: Site = site
        ) -> tuple[bool, bool]:
            before = await watch.revalidate(session)
            await elsewhere.visit(ends, Browser(dict(site.browser.cookies)))
            return before, await watch.revalidate(session)

        reply = await site.visit(act)
        assert reply.result == (True, False)
        assert reply.set_cookies == []


@each_store_backend
async def test_revalidate_follows_a_rotation(site_of: Callable[..., Site], store_backend: SessionBackend) -> None:
    site, elsewhere = site_of(backend=store_backend), site_of(backend=store_backend)
    await site.visit(sign_in())
    browser = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> bool:
        await session.load()
        await elsewhere.visit(Session.regenerate_id, browser)
        await elsewhere.visit(lambda other: other.update(n=1), browser)
        alive = await watch.revalidate(session)
        assert session["n"] == 1
        return alive

    reply = await site.visit(act)
    assert (reply.result, reply.set_cookies) == (True, [])


@each_backend
async def test_there_is_nothing_to_revalidate_without_a_session(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    assert (await site_of(backend=backend).visit(watch.revalidate)).result is False


class Ticks:
    """Waits until something happens, or the test says that it has waited long enough."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._send, self._receive = anyio.create_memory_object_stream[None](100)

    async def __call__(self, something: Callable[[], Awaitable[None]], limit: float) -> None:
        self.asked.append(limit)
        async with anyio.create_task_group() as tasks:

            async def happens() -> None:
                await something()
                tasks.cancel_scope.cancel()

            tasks.start_soon(happens)
            await self._receive.receive()
            tasks.cancel_scope.cancel()

    async def tick(self) -> None:
        await self._send.send(None)
        await settled()

    def close(self) -> None:
        self._send.close()
        self._receive.close()


@pytest.mark.guarantee(21)
@each_listing
async def test_the_block_is_cancelled_when_the_session_has_ended(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site = site_of(backend=listing)
    index = site.app.config.backend.user_index
    assert index is not None
    index.announcements = None
    await site.visit(sign_in())
    ticks = Ticks()
    log: list[str] = []

    async def act(session: Session) -> None:
        await session.load()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(revoke)
            async with watch.move_on_when_ended(session, check_every=7, wait=ticks) as scope:
                log.append("open")
                await anyio.sleep_forever()
            log.append(f"ended: {scope.cancelled_caught}")

    async def revoke() -> None:
        await settled()
        await ticks.tick()
        assert log == ["open"]
        await UserSessions(listing).revoke_all("ann")
        await ticks.tick()

    await site.visit(act)
    assert log == ["open", "ended: True"]
    assert ticks.asked == [7, 7]
    ticks.close()


@each_store_backend
async def test_a_block_that_finishes_is_not_reported_as_cancelled(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    site, ticks = site_of(backend=store_backend), Ticks()
    await site.visit(sign_in())

    async def act(session: Session) -> bool:
        async with watch.move_on_when_ended(session, wait=ticks) as scope:
            pass
        return scope.cancelled_caught

    assert (await site.visit(act)).result is False
    ticks.close()


@each_store_backend
async def test_an_error_in_the_block_is_raised_unchanged(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    """A `WebSocketDisconnect` is to be caught outside of the block, too."""
    site, ticks = site_of(backend=store_backend), Ticks()
    await site.visit(sign_in())

    async def act(session: Session) -> None:
        async with watch.move_on_when_ended(session, wait=ticks):
            raise LookupError("of the application")

    with pytest.raises(LookupError, match="of the application"):
        await site.visit(act)
    ticks.close()


@each_store_backend
async def test_on_conflict_raise_raises_when_a_session_is_saved_and_not_when_it_is_watched(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    site, elsewhere = site_of(backend=store_backend, on_conflict="raise"), site_of(backend=store_backend)
    await site.visit(sign_in())
    ticks, log = Ticks(), []

    async def act(session: Session) -> None:
        session["n"] = 1
        await elsewhere.visit(lambda other: other.update(n=2), site.browser)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            async with watch.move_on_when_ended(session, wait=ticks) as scope:
                await anyio.sleep_forever()
            log.append(f"ended: {scope.cancelled_caught}")

    async def look() -> None:
        await settled()
        await ticks.tick()
        assert log == []
        await UserSessions(store_backend).revoke_all("ann")
        await ticks.tick()

    await site.visit(act)
    assert log == ["ended: True"]
    ticks.close()


async def test_a_store_that_fails_for_long_cancels_the_block(site_of: Callable[..., Site], clock: Clock) -> None:
    class Failing(MemoryStore):
        fails = 0

        async def get(self, key: str, *, now: int) -> Any:
            if self.fails:
                self.fails -= 1
                raise BackendUnavailable("The store failed: ConnectionError.")
            return await super().get(key, now=now)

    store, ticks = Failing(), Ticks()
    site = site_of(backend=StoreBackend(store, clock=clock))
    await site.visit(sign_in())

    async def act(session: Session) -> bool:
        await session.load()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            async with watch.move_on_when_ended(session, wait=ticks) as scope:
                await anyio.sleep_forever()
        return scope.cancelled_caught

    async def fail() -> None:
        await settled()
        store.fails = _MAX_FAILURES - 1
        for _ in range(_MAX_FAILURES):
            await ticks.tick()
        store.fails = 100
        for _ in range(_MAX_FAILURES):
            await ticks.tick()
        store.fails = 0

    assert (await site.visit(act)).result is True
    ticks.close()


async def test_revalidate_returns_false_when_what_is_stored_now_cannot_be_read(clock: Clock) -> None:
    """Another release of the application has written it, with types that this one does not know."""

    class OfThisRelease(Msgpack):
        knows_it = True

        def loads(self, payload: bytes, /) -> dict[str, Any]:
            if not self.knows_it:
                raise ValueError
            return super().loads(payload)

    serializer = OfThisRelease()
    backend = StoreBackend(MemoryStore(), serializer=serializer, clock=clock)
    site, elsewhere = (Site(backend=backend, autoload=True) for _ in range(2))
    await site.visit(lambda session: session.update(n=1))
    browser = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> None:
        await session.load()
        await elsewhere.visit(lambda other: other.update(theirs=1), browser)
        serializer.knows_it = False
        assert await watch.revalidate(session) is False
        assert session == {}
        serializer.knows_it = True

    assert (await site.visit(act)).set_cookies == []
