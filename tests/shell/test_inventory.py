"""What is stored: live sessions page by page, and statistics, for each kind of backend that can be listed."""

import tracemalloc
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    Session,
    SessionBackend,
    SessionMiddleware,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.inventory import _PAGE, LiveSession, live_sessions, stats
from starsessions.stores import MemoryStore, ScanPage
from starsessions.stores.listed import ListedStore
from starsessions.testing.conformance.right_stores import Entries, Right
from starsessions.users import UserSessions
from tests.kinds import on_each
from tests.rows import rows
from tests.shell.people import LISTING, each_listing, sign_in, signed_in
from tests.site import KEY, Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio

DAY = 24 * 60 * 60

each_stored = on_each({name: LISTING[name] for name in ("memory", "stored", "encrypted store")}, "stored")


def writes(session: Session) -> None:
    session["cart"] = ["tea"]


async def rotates(session: Session) -> None:
    await session.regenerate_id()


async def all_live(backend: SessionBackend, **names: str) -> list[LiveSession]:
    return [one async for page in live_sessions(backend, **names) for one in page.sessions]


async def counted(backend: SessionBackend, **names: str) -> dict[str, int]:
    """The counts that are not zero, without bytes and sizes."""
    found = asdict(await stats(backend, **names))
    return {name: number for name, number in found.items() if number and "size" not in name and name != "bytes"}


@each_listing
async def test_signed_in_sessions_are_counted_and_shown_with_their_users(listing: SessionBackend, clock: Clock) -> None:
    site = Site(backend=listing, autoload=True, clock=clock)
    began_at = datetime.fromtimestamp(int(clock()), UTC)
    assert await counted(listing) == {}
    for user in ("ann", "ann", "bob"):
        await signed_in(site, user)
    assert await counted(listing) == {"sessions": 3, "signed_in": 3, "users": 2}
    shown = await all_live(listing)
    assert sorted(str(one.user_id) for one in shown) == ["ann", "ann", "bob"]
    assert {(one.began_at, one.signed_in_at, one.last_used_at) for one in shown} == {(began_at, began_at, began_at)}
    listed = [one.handle for one in await UserSessions(listing).list("ann")]
    assert sorted(listed) == sorted(str(one.handle) for one in shown if one.user_id == "ann")
    assert await UserSessions(listing).revoke_all("ann") == 2
    found = await counted(listing)
    assert found.pop("others") == 1  # the epoch
    assert found == {"sessions": 1, "signed_in": 1, "users": 1}


@each_stored
async def test_anonymous_sessions_and_what_a_rotation_leaves_are_counted(stored: SessionBackend, clock: Clock) -> None:
    site, browser = Site(backend=stored, autoload=True, clock=clock), Browser()
    await site.visit(writes, browser)
    [one] = await all_live(stored)
    assert (one.handle, one.user_id, one.signed_in_at) == (None, None, None)
    await site.visit(rotates, browser)
    assert await counted(stored) == {"sessions": 1, "anonymous": 1, "pointers": 1}
    await site.visit(sign_in("ann"), browser)  # it moves the session, and keeps the data before for a moment
    assert await counted(stored) == {"sessions": 1, "signed_in": 1, "users": 1, "pointers": 3}


async def test_sizes_are_those_of_the_values_of_live_sessions(clock: Clock) -> None:
    store = MemoryStore()
    backend = StoreBackend(store, clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)

    def writes_much(session: Session) -> None:
        session["cart"] = "a" * 5000

    for act in (writes, writes, writes_much):
        await site.visit(act, Browser())
    await signed_in(site)
    found, shown = await stats(backend), await all_live(backend)
    values = [len(entry.value) for _, entry, _ in (await store.scan(limit=9, now=0)).entries]
    assert sorted(one.size for one in shown) == sorted(values)
    assert (found.bytes, found.size_max) == (sum(values), max(values))
    assert found.size_p50 in values
    assert 0.99 * found.size_max <= found.size_p99 <= found.size_max


@each_stored
async def test_what_has_expired_is_counted_as_such_until_it_is_removed(stored: SessionBackend, clock: Clock) -> None:
    site = Site(backend=stored, autoload=True, clock=clock, max_age=10 * DAY)
    for act in (writes, sign_in("ann")):
        await site.visit(act, Browser())
    clock.now += 10 * DAY - 1
    assert await counted(stored) == {"sessions": 2, "anonymous": 1, "signed_in": 1, "users": 1}
    Site(backend=stored, clock=clock, max_age=DAY)  # a shorter one applies to existing sessions, too
    assert await counted(stored) == {"expired": 2}
    assert await all_live(stored) == []
    Site(backend=stored, clock=clock, max_age=10 * DAY)
    clock.now += 1
    assert await counted(stored) == {"expired": 2}


async def test_a_process_without_the_middleware_counts_what_lives_by_the_settings_of_the_others(clock: Clock) -> None:
    store = MemoryStore()
    site = Site(backend=StoreBackend(store, clock=clock), autoload=True, clock=clock, max_age=30 * DAY)
    for act in (writes, sign_in("ann")):
        await site.visit(act, Browser())
    clock.now += 30 * DAY - 1
    script = StoreBackend(store, clock=clock)
    assert (await stats(script, session_cookie="session")).sessions == 2
    clock.now += 1
    assert (await stats(script, session_cookie="session")).sessions == 0


async def test_a_sign_in_that_is_not_saved_yet_does_not_count(clock: Clock) -> None:
    backend = StoreBackend(MemoryStore(), clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    found = []

    async def looks(session: Session) -> None:
        await sign_in("ann")(session)
        found.append(await counted(backend))

    await site.visit(looks)
    assert found == [{"others": 1}]


@pytest.mark.both_loops
@each_listing
async def test_what_the_end_of_everyone_refuses_is_counted_apart(listing: SessionBackend, clock: Clock) -> None:
    site = Site(backend=listing, autoload=True, clock=clock)
    for user in ("ann", "ann", "bob"):
        await signed_in(site, user)
    await UserSessions(listing).revoke_everyone()
    assert await counted(listing) == {"revoked": 3, "others": 1}
    assert await all_live(listing) == []
    await signed_in(site, "ann")
    assert await counted(listing) == {"sessions": 1, "signed_in": 1, "users": 1, "revoked": 3, "others": 1}
    assert [one.user_id for one in await all_live(listing)] == ["ann"]


@each_listing
async def test_links_of_an_identity_provider_do_not_count(listing: SessionBackend, clock: Clock) -> None:
    site = Site(backend=listing, autoload=True, clock=clock)
    await site.visit(sign_in("ann", provider="https://id", provider_session="s", provider_subject="sub"), Browser())
    assert await counted(listing) == {"sessions": 1, "signed_in": 1, "users": 1, "others": 2}
    assert len(await all_live(listing)) == 1


@pytest.mark.parametrize("key", [None, KEY], ids=["as it is", "encrypted"])
async def test_the_sessions_of_another_cookie_in_the_same_store_are_not_counted(key: Any, clock: Clock) -> None:
    backend = StoreBackend(MemoryStore(), encrypt_with=key or False, clock=clock)
    for name in ("session", "admin"):
        site = Site(backend=backend, autoload=True, clock=clock, session_cookie=name)
        await signed_in(site, f"of-{name}")
    CookieBackend(KEY, revocations=backend, clock=clock)
    cookies = Site(backend=CookieBackend(KEY, revocations=backend, clock=clock), autoload=True, clock=clock)
    await signed_in(cookies, "of-cookies")
    wanted = {"sessions": 1, "signed_in": 1, "users": 1, ("others" if key is None else "unreadable"): 2}
    for name in ("session", "admin"):
        assert await counted(backend, session_cookie=name) == wanted
        assert [one.user_id for one in await all_live(backend, session_cookie=name)] == [f"of-{name}"]
    with pytest.raises(ImproperlyConfigured, match="several cookies"):
        await stats(backend)


async def test_an_application_has_a_name(clock: Clock) -> None:
    backend = StoreBackend(MemoryStore(), clock=clock)
    for name in ("shop", "forum"):
        await signed_in(Site(backend=backend, autoload=True, clock=clock, app_name=name), name)
    assert [one.user_id for one in await all_live(backend, app_name="forum")] == ["forum"]


async def test_garbage_is_counted_and_skipped(clock: Clock) -> None:
    store = MemoryStore()
    backend = StoreBackend(store, clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    await signed_in(site)
    now = int(clock())
    for n, value in enumerate((b"", b"\x00" * 9, b"key-2\xff\xff\xff\xc1", b"{}" * 100)):
        await store.create(f"key-{n}", value, expires_at=now + 9, now=now)
    assert await counted(backend) == {"sessions": 1, "signed_in": 1, "users": 1, "others": 1, "unreadable": 3}
    [page] = [page async for page in live_sessions(backend)]
    assert (len(page.sessions), page.unreadable) == (1, 3)
    other = StoreBackend(store, encrypt_with=KEY, clock=clock)
    Site(backend=other, clock=clock)
    assert await counted(other) == {"others": 1, "unreadable": 4}


@pytest.mark.both_loops
async def test_many_sessions_come_in_pages(clock: Clock) -> None:
    backend, pages = StoreBackend(ListedStore(Right(Entries())), clock=clock), list[int]()
    SessionMiddleware(lambda *_: None, backend=backend)  # type: ignore[arg-type]
    bound = backend.bound_for()
    for n in range(2 * _PAGE + 1):
        await bound.write({"n": n})
    found = await stats(backend, on_page=pages.append)
    assert pages == [_PAGE, 2 * _PAGE, 2 * _PAGE + 1]
    assert (found.sessions, found.anonymous) == (2 * _PAGE + 1, 2 * _PAGE + 1)
    lengths = [len(page.sessions) async for page in live_sessions(backend)]
    assert lengths == [_PAGE, _PAGE, 1]


@pytest.mark.once
async def test_the_memory_that_is_needed_does_not_grow_with_the_sessions(clock: Clock) -> None:
    class Endless(MemoryStore):
        """Its one page comes again and again."""

        pages = 1

        async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
            page = await super().scan(limit=limit, now=now)
            self.pages -= 1
            return page._replace(after="0" if self.pages else None)

    store = Endless()
    backend = StoreBackend(store, clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    for n in range(_PAGE // 5):
        await signed_in(site, f"user-{n}")

    async def peak_of(pages: int) -> int:
        store.pages = pages
        tracemalloc.start()
        try:
            assert (await stats(backend)).sessions == pages * _PAGE // 5
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = await peak_of(3), await peak_of(60)
    assert many - few < 20_000  # bytes; a number kept of each session would be more


async def test_a_scan_that_fails_half_way_is_no_result(clock: Clock) -> None:
    class Fails(MemoryStore):
        async def scan(self, *, limit: int, now: int, after: str | None = None) -> ScanPage:
            if after is not None:
                raise BackendUnavailable("The store failed.")
            return (await super().scan(limit=1, now=now))._replace(after="1")

    backend = StoreBackend(Fails(), clock=clock)
    await signed_in(Site(backend=backend, autoload=True, clock=clock))
    with pytest.raises(BackendUnavailable):
        await stats(backend)
    pages = live_sessions(backend)
    assert len((await anext(pages)).sessions) == 1
    with pytest.raises(BackendUnavailable):
        await anext(pages)


class FourVerbs(Right):
    """It cannot scan."""

    scan = None  # type: ignore[assignment]


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "cookies without a store": (lambda: CookieBackend(KEY), "revocations="),
    "a store that cannot scan": (lambda: StoreBackend(FourVerbs(Entries())), r"needs the method scan\(\)"),
    "an adapted backend": (DictBackend, r"needs the method scan\(\)"),
}


@rows("name", WRONG)
async def test_what_cannot_be_scanned_is_refused_with_the_cure(name: str) -> None:
    make, cure = WRONG[name]
    backend = make()
    SessionMiddleware(lambda *_: None, backend=backend)  # type: ignore[arg-type]
    for work in (stats(backend, session_cookie="session"), all_live(backend, session_cookie="session")):
        with pytest.raises(ImproperlyConfigured, match=cure):
            await work


async def test_without_a_middleware_the_cookie_has_to_be_named() -> None:
    backend = InMemoryBackend()
    with pytest.raises(ImproperlyConfigured, match="No SessionMiddleware has been built"):
        await stats(backend)
    assert (await stats(backend, session_cookie="session")).sessions == 0


@each_stored
async def test_nothing_that_is_shown_opens_a_session(stored: SessionBackend, clock: Clock) -> None:
    site = Site(backend=stored, autoload=True, clock=clock)
    browser = await signed_in(site)
    [one] = await all_live(stored)
    assert browser.cookies["session"] not in repr(one)
    assert await site.data(Browser({"session": str(one.handle)})) == {}
