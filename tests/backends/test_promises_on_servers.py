"""On real servers: the lists of users' sessions, and a hundred increments that make a hundred.

What tests/shell shows in memory holds there, too.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis.asyncio import Redis, RedisCluster

from starsessions import EncryptedCookieBackend, SessionBackend, update_atomically
from starsessions.backends.redis import RedisBackend
from starsessions.stores.base import Replacement
from starsessions.users import UserSessions
from tests.backends.sql import database, opened
from tests.kinds import on_another
from tests.rows import rows
from tests.servers.process import Address
from tests.shell import test_atomic_updates as atomic
from tests.shell import test_double_sign_in, test_sign_in, test_users
from tests.shell.people import sign_in, user_of
from tests.site import KEY, Browser, Clock, Site

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("anyio_backend", ["asyncio"])]

Open = Callable[[Clock], AbstractAsyncContextManager[Any]]

SCENARIOS = [
    test_users.test_one_session_is_ended_by_its_handle_and_no_other,
    test_users.test_all_other_sessions_are_revoked_and_the_current_one_gets_a_new_id,
    test_users.test_a_session_stays_on_the_list_wherever_it_is_rotated_to,
    test_users.test_a_sign_in_in_progress_is_revoked_with_all_others,
    test_users.test_one_session_too_many_ends_the_oldest,
    test_users.test_parallel_sign_ins_are_never_more_than_allowed,
    test_users.test_the_list_is_of_one_user_only,
    test_users.test_anonymous_sessions_are_not_listed,
    test_double_sign_in.test_a_form_that_is_sent_twice_signs_in_with_the_cart,
]


WIDE = [pytest.param(name, marks=pytest.mark.wide) for name in ("redis cluster", "postgres-psycopg")]


@pytest.fixture(params=["redis", "sqlite", "postgres-asyncpg", "mariadb", *WIDE])
def open_backend(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param.startswith("redis"):
        clustered = request.param == "redis cluster"
        address: Address = request.getfixturevalue("redis_cluster" if clustered else "redis_server")

        @asynccontextmanager
        async def on_redis(clock: Clock) -> AsyncIterator[RedisBackend]:
            kind = RedisCluster if clustered else Redis
            async with kind.from_url(address.url) as client:
                yield RedisBackend(client, f"{secrets.token_hex(8)}:", timeout=30, clock=clock)

        return on_redis
    db = database(request.param, request, tmp_path)
    return lambda clock: opened(db.url, timeout=30, clock=clock)


@pytest.mark.guarantee(21)
@rows("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_list_on_a_server(
    open_backend: Open, site_of: Callable[..., Site], clock: Clock, scenario: Callable[..., Any]
) -> None:
    test = on_another(scenario)
    async with open_backend(clock) as backend:
        await test(site_of, backend, *([clock] if "clock" in signature(test).parameters else []))


async def test_a_hundred_increments_at_once_make_a_hundred(
    open_backend: Open, site_of: Callable[..., Site], clock: Clock
) -> None:
    async with open_backend(clock) as backend:
        at_once = on_another(atomic.test_a_hundred_increments_that_all_loaded_before_any_wrote_make_a_hundred)
        await at_once(site_of, backend)

        site = site_of(backend=backend)
        await site.visit(lambda session: session.update(n=0))
        cookies = site.browser.cookies
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                request = partial(site_of(backend=backend).visit, browser=Browser(dict(cookies)))
                tasks.start_soon(request, lambda session: update_atomically(session, atomic.count))
        assert await site.data() == {"n": 100}


@pytest.mark.guarantee(21)
async def test_of_many_sign_ins_of_one_user_at_once_none_is_lost_and_all_are_ended(
    open_backend: Open, site_of: Callable[..., Site], clock: Clock
) -> None:
    async with open_backend(clock) as backend:
        browsers = [Browser() for _ in range(60)]
        async with anyio.create_task_group() as tasks:
            for browser in browsers:
                site = site_of(backend=backend, max_sessions_per_user=None)
                tasks.start_soon(site.visit, sign_in(), browser)
        sessions = UserSessions(backend)
        assert len(await sessions.list("ann")) == 60
        assert await sessions.revoke_all("ann") == 60
        assert await sessions.list("ann") == []
        assert {await user_of(site, browser) for browser in browsers} == {None}


async def test_cookies_are_revoked_through_a_store_on_a_server(
    open_backend: Open, site_of: Callable[..., Site], clock: Clock
) -> None:
    async with open_backend(clock) as store:
        backend: SessionBackend = EncryptedCookieBackend(KEY, revocations=store, clock=clock)
        await on_another(test_sign_in.test_signing_out_ends_the_session_and_the_copy_of_its_cookie)(site_of, backend)


@pytest.mark.guarantee(21)
async def test_a_sign_in_that_was_counted_before_others_and_written_after_them_keeps_the_maximum(
    open_backend: Open, site_of: Callable[..., Site], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_backend(clock) as backend:
        site, slow = site_of(backend=backend, max_sessions_per_user=3), Browser()
        replace, count = backend.store.replace, backend.store.count_owned
        write_joined = getattr(backend.store, "write_joined", None)
        waits, counted, goes_on = anyio.Event(), anyio.Event(), anyio.Event()

        async def replace_late(*what: Any, **how: Any) -> Any:
            if not waits.is_set():
                waits.set()
                await goes_on.wait()
            return await replace(*what, **how)

        async def count_early(*what: Any, **how: Any) -> int:
            number: int = await count(*what, **how)
            if waits.is_set():
                counted.set()
            return number

        async def answer_late(writes: Any, **how: Any) -> Any:
            if isinstance(writes[0], Replacement) and not waits.is_set():  # Redis counts with the write, and not before
                waits.set()
                counted.set()
                await goes_on.wait()
            return await write_joined(writes, **how)

        async def one_more() -> Browser:
            clock.advance(1)
            browser = Browser()
            await site.visit(sign_in(), browser)
            return browser

        old = await one_more()
        clock.advance(1)
        monkeypatch.setattr(backend.store, "replace", replace_late)
        monkeypatch.setattr(backend.store, "count_owned", count_early)
        if write_joined is not None:
            monkeypatch.setattr(backend.store, "write_joined", answer_late)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(site.visit, sign_in(), slow)
            await counted.wait()
            later = [await one_more(), await one_more()]
            goes_on.set()
        assert [await user_of(site, one) for one in (old, slow, *later)] == [None, "ann", "ann", "ann"]
        assert len(await UserSessions(backend).list("ann")) == 3
