"""In a Cluster, a sign-in takes several steps. Between any two of them, the worker may die, and others may act.

A pending entry is written at the same time as its place, so that a worker that dies may leave one on no list. It opens
nothing, and no one will complete it. The new entry of a rotation is like that for a minute: no one knows its id.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from itertools import count
from typing import Any

import pytest
from redis import exceptions

from starsessions import CookieBackend, Session, SessionBackend, SessionGone, users
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import COUNTS_FOR
from starsessions.core.record import Found
from starsessions.stores.base import Entry
from starsessions.stores.redis.store import RedisStore
from starsessions.users import UserSessions
from tests.backends.test_redis_steps import Client, Dead
from tests.rows import rows
from tests.servers.process import Address
from tests.shell.people import sign_in, user_of
from tests.site import KEY, Browser, Site

pytestmark = pytest.mark.anyio

MOST = 2

KINDS: dict[str, Callable[[RedisStore], SessionBackend]] = {
    "stored": StoreBackend,
    "signed": lambda store: CookieBackend(KEY, revocations=store),
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the one that redis-py knows


class Mortal(Client):
    """Says when its process has died. Nothing that it sends from then on arrives, and nothing is answered."""

    def begin(self, **settings: Any) -> None:
        super().begin(**settings)
        self.died, self.buried = asyncio.Event(), asyncio.Event()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().execute_command(*args, **options)
        except Dead:
            self.died.set()
            await self.buried.wait()
            raise exceptions.ConnectionError from None

    async def die_in(self, act: Awaitable[Any]) -> bool:
        """Let a request run until the process dies. Return False if it does not."""
        acting, dying = asyncio.ensure_future(act), asyncio.ensure_future(self.died.wait())
        await asyncio.wait([acting, dying], return_when=asyncio.FIRST_COMPLETED)
        for task in (acting, dying):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self.buried.set()
        return self.died.is_set()


class Workers:
    """Two workers, of which one may die between two commands, or be held up there."""

    def __init__(self, url: str, kind: str, closing: AsyncExitStack) -> None:
        self.client, prefix = Mortal.from_url(url), f"{secrets.token_hex(8)}:"
        self.client.begin()
        closing.push_async_callback(self.client.aclose)
        self.dying, self.store = RedisStore(self.client, prefix, timeout=30), RedisStore(url, prefix, timeout=30)
        closing.push_async_callback(self.store.aclose)
        backends = [KINDS[kind](store) for store in (self.dying, self.store)]
        self.site, self.other = (
            Site(backend=backend, autoload=True, max_sessions_per_user=MOST) for backend in backends
        )
        self.users = UserSessions(backends[1])
        self.index = backends[1].bound_for().user_index  # type: ignore[attr-defined]

    async def warm(self) -> None:
        """Let the stores learn what kind of server this is, and the server learn the scripts."""
        for site in (self.site, self.other):
            browser = Browser()
            for act in (sign_in(), sign_in(), Session.regenerate_id, users.sign_out):
                await site.visit(act, browser)

    async def saved(self, user: str) -> list[tuple[Entry, str]]:
        """Return the entries of the user's sessions that are stored, with their handles, on a list or not."""
        found, after = {}, None
        while True:
            page = await self.store.scan(limit=1000, now=0, after=after)
            for key, entry, _ in page.entries:
                read = self.index.read(key, entry)
                if isinstance(read, Found) and read.record.payload is not None:
                    identity = read.record.identity
                    if identity is not None and identity.user_id == user:
                        found[key] = entry, identity.handle
            after = page.after
            if after is None:
                return list(found.values())

    async def check_listed(self, user: str) -> None:
        listed = {one.handle for one in await self.users.list(user)}
        assert {handle for _, handle in await self.saved(user)} <= listed, "a session is on no list"


@pytest.fixture(params=KINDS)
async def workers(request: pytest.FixtureRequest, redis_with_slots: Address) -> AsyncIterator[Workers]:
    async with AsyncExitStack() as closing:
        workers = Workers(redis_with_slots.url, request.param, closing)
        await workers.warm()
        yield workers


class Ann:
    """A user who is signed in at one browser, and has a cart at another."""

    def __init__(self, workers: Workers, name: str) -> None:
        self.workers, self.name = workers, name
        self.signed_in, self.cart = Browser(), Browser()

    async def begin(self) -> "Ann":
        await self.workers.other.visit(sign_in(self.name), self.signed_in)
        await self.workers.other.visit(lambda session: session.update(cart=[1]), self.cart)
        self.before = [Browser(dict(one.cookies)) for one in (self.signed_in, self.cart)]
        return self

    async def user(self, browser: Browser) -> str | None:
        return await user_of(self.workers.other, browser)

    async def check(self) -> None:
        workers, fresh = self.workers, Browser()
        await workers.check_listed(self.name)
        await workers.other.visit(sign_in(self.name), fresh)
        assert await self.user(fresh) == self.name
        assert len(await workers.users.list(self.name)) <= MOST
        await workers.check_listed(self.name)
        await workers.users.revoke_all(self.name)
        assert await workers.users.list(self.name) == []
        for browser in (fresh, self.signed_in, self.cart, *self.before):
            assert await self.user(browser) is None
        now = await workers.store.time()
        assert all(entry.expires_at <= now + COUNTS_FOR + 60 for entry, _ in await workers.saved(self.name))


Act = Callable[[Ann], Awaitable[Any]]


async def signs_in(ann: Ann) -> None:
    await ann.workers.site.visit(sign_in(ann.name), Browser())


async def signs_in_with_a_cart(ann: Ann) -> None:
    await ann.workers.site.visit(sign_in(ann.name), ann.cart)


async def signs_in_again(ann: Ann) -> None:
    await ann.workers.site.visit(sign_in(ann.name), ann.signed_in)


async def rotates(ann: Ann) -> None:
    await ann.workers.site.visit(Session.regenerate_id, ann.signed_in)


async def signs_out(ann: Ann) -> None:
    await ann.workers.site.visit(users.sign_out, ann.signed_in)


ACTS: list[Act] = [signs_in, signs_in_with_a_cart, signs_in_again, rotates, signs_out]


@rows("act", ACTS)
async def test_in_a_cluster_each_promise_is_kept_wherever_a_worker_dies(workers: Workers, act: Act) -> None:
    for step in count(1):
        for when in ("dies_before", "dies_after"):
            ann = await Ann(workers, f"{act.__name__}-{when}-{step}").begin()
            workers.client.begin(**{when: step})
            has_died = await workers.client.die_in(act(ann))
            await ann.check()
            if not has_died:
                assert step > 1
                return


async def all_end(ann: Ann) -> None:
    await ann.workers.users.revoke_all(ann.name)
    assert [await ann.user(one) for one in ann.before] == [None, None]


async def others_end(ann: Ann) -> None:
    """Those that the browser does not have which is signed in."""
    await ann.workers.other.visit(ann.workers.users.revoke_others, Browser(dict(ann.before[0].cookies)))


async def another_signs_in(ann: Ann) -> None:
    await ann.workers.other.visit(sign_in(ann.name), Browser())


@pytest.mark.once
@rows("act", [signs_in_with_a_cart, signs_in_again, rotates])
@rows("meanwhile", [all_end, others_end, another_signs_in])
async def test_in_a_cluster_each_promise_is_kept_whatever_happens_between_two_steps(
    workers: Workers, act: Act, meanwhile: Act
) -> None:
    for step in count(1):
        ann = await Ann(workers, f"{act.__name__}-{meanwhile.__name__}-{step}").begin()
        workers.client.begin()
        held = workers.client.hold(step)
        acting = asyncio.ensure_future(_unless_gone(act(ann)))
        reaching = asyncio.ensure_future(held.reached())
        await asyncio.wait([acting, reaching], return_when=asyncio.FIRST_COMPLETED)
        is_held = reaching.done()
        reaching.cancel()
        await meanwhile(ann)
        held.release()
        await acting
        await ann.check()
        if not is_held:
            assert step > 1
            return


async def _unless_gone(act: Awaitable[Any]) -> None:
    with suppress(SessionGone):
        await act


async def test_a_sign_in_is_overtaken_whichever_of_its_steps_waits_for_the_end_of_all(workers: Workers) -> None:
    """Its pending entry is found from the moment at which `sign_in()` has returned, or it finds the other epoch."""
    for step in count(1):
        ann, browser, began = await Ann(workers, f"overtaken-{step}").begin(), Browser(), []

        async def act(session: Session) -> None:
            await users.sign_in(session, ann.name)  # noqa: B023
            began.append(True)  # noqa: B023

        workers.client.begin()
        held = workers.client.hold(step)
        acting = asyncio.ensure_future(_unless_gone(workers.site.visit(act, browser)))
        reaching = asyncio.ensure_future(held.reached())
        await asyncio.wait([acting, reaching], return_when=asyncio.FIRST_COMPLETED)
        if acting.done():
            reaching.cancel()
            assert step > 5
            return
        await reaching
        had_begun = bool(began)
        await ann.workers.users.revoke_all(ann.name)
        held.release()
        await acting
        if had_begun:
            assert await ann.user(browser) is None
        await workers.check_listed(ann.name)
