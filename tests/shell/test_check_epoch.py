"""Where it is asked for, each load compares the epochs: what was ended opens nothing, whatever the store has lost."""

from typing import Any

import pytest

from starsessions import (
    CookieBackend,
    EncryptedCookieBackend,
    InMemoryBackend,
    Session,
    SessionBackend,
    set_expiry,
    users,
    watch,
)
from starsessions.backends.redis import RedisBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.exceptions import ImproperlyConfigured
from starsessions.stores.base import Owner
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from tests.rows import rows
from tests.shell.people import Recorded, sign_in, signed_in, user_of
from tests.shell.test_ends_everywhere import Far, FarJoining, Forgets, change
from tests.site import KEY, Browser, Clock, Site

pytestmark = pytest.mark.anyio

KINDS: dict[str, Any] = {
    "stored": lambda store, clock: StoreBackend(store, check_epoch=True, clock=clock),
    "signed": lambda store, clock: CookieBackend(KEY, revocations=store, check_epoch=True, clock=clock),
    "encrypted": lambda store, clock: EncryptedCookieBackend(
        KEY, revocations=StoreBackend(store, clock=clock), check_epoch=True, clock=clock
    ),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


@pytest.mark.guarantee(21)
@rows("whose", ["ann's", "all"])
async def test_what_was_ended_and_is_on_no_list_opens_nothing(kind: Any, clock: Clock, whose: str) -> None:
    store = Forgets()
    backend = kind(store, clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    ann, bob, cart = await signed_in(site), await signed_in(site, "bob"), Browser()
    await site.visit(change, cart)
    rotated = Browser(dict((await signed_in(site)).cookies))
    await site.visit(Session.regenerate_id, rotated)
    store.forgets = True

    await (sessions.revoke_all("ann") if whose == "ann's" else sessions.revoke_everyone())

    assert [await user_of(site, one) for one in (ann, rotated)] == [None, None]
    assert await user_of(site, bob) == ("bob" if whose == "ann's" else None)
    assert await site.data(cart) == {"n": 1}
    again = await signed_in(site)
    assert await user_of(site, again) == "ann"
    await site.visit(sign_in(), ann)
    assert await user_of(site, ann) == "ann"


@rows("owner", [None, "bob"])
async def test_a_session_whose_entry_has_another_owner_is_compared_with_the_epoch_of_its_user(
    clock: Clock, owner: str | None
) -> None:
    """As in a copy of the database that lacks the owners. No listing of the user has it, so only the epoch ends it."""
    store = MemoryStore()
    backend = StoreBackend(store, check_epoch=True, clock=clock)
    site, now = Site(backend=backend, clock=clock, autoload=True), int(clock())
    browser = await signed_in(site)
    [listed] = (await store.scan(limit=9, now=now)).entries
    bound = backend.bound_once()
    assert bound is not None
    other = None if owner is None else Owner(bound.user_index.owner_name(owner), now)
    key, entry, _ = listed
    await store.replace(key, entry.value, entry.version, expires_at=entry.expires_at, now=now, owner=other)
    assert await user_of(site, browser) == "ann"
    assert await UserSessions(backend).revoke_all("ann") == 0
    assert await user_of(site, browser) is None


async def test_what_opens_nothing_is_not_listed(kind: Any, clock: Clock) -> None:
    backend = kind(MemoryStore(), clock)
    site, sessions = Site(backend=backend, clock=clock, autoload=True), UserSessions(backend)
    await signed_in(site)
    assert len(await sessions.list("ann")) == 1
    await sessions.revoke_everyone()
    assert await sessions.list("ann") == []
    browser = await signed_in(site)
    [listed] = await sessions.list("ann")
    assert listed.handle == (await site.visit(users.get_handle, browser)).result


async def test_a_grace_period_opens_nothing_that_was_ended(clock: Clock) -> None:
    backend = StoreBackend(MemoryStore(), check_epoch=True, clock=clock)
    site = Site(backend=backend, clock=clock, autoload=True)
    browser = await signed_in(site)
    before = Browser(dict(browser.cookies))
    await site.visit(lambda session: session.regenerate_id(grace=60), browser)
    assert await user_of(site, before) == "ann"
    await UserSessions(backend).revoke_everyone()
    assert await user_of(site, before) is None


async def test_a_sign_out_ends_what_is_refused_already(kind: Any, clock: Clock) -> None:
    store = MemoryStore()
    backend = kind(store, clock)
    site = Site(backend=backend, clock=clock, autoload=True)
    browser = await signed_in(site)
    await UserSessions(backend).revoke_everyone()
    entries = len(store)
    reply = await site.visit(users.sign_out, browser)
    assert "Max-Age=0" in reply.set_cookie
    assert len(store) == entries - 1


async def test_a_stream_that_loads_its_session_learns_that_everyone_is_out(kind: Any, clock: Clock) -> None:
    backend = kind(MemoryStore(), clock)
    site = Site(backend=backend, clock=clock, autoload=True)
    browser = await signed_in(site)

    async def act(session: Session) -> tuple[bool, bool]:
        before = await watch.revalidate(session)
        await UserSessions(backend).revoke_everyone()
        return before, await watch.revalidate(session)

    assert (await site.visit(act, browser)).result == (True, False)


@rows(("far", "expected"), [(Far, 2), (FarJoining, 1)])
async def test_a_load_compares_in_the_same_round_trip_if_the_store_can_and_a_signed_cookie_always(
    clock: Clock, far: type[Far], expected: int
) -> None:
    trips = {}
    for name, make in KINDS.items():
        store = far()
        site = Site(backend=make(store, clock), clock=clock, autoload=True)
        browser = await signed_in(site)
        before = store.trips
        assert await user_of(site, browser) == "ann"
        trips[name] = store.trips - before
    assert trips == {"stored": expected, "signed": 1, "encrypted": 1}


async def test_an_anonymous_session_and_one_without_the_setting_cost_one_read(kind: Any, clock: Clock) -> None:
    store = Recorded()
    site, browser = (
        Site(backend=StoreBackend(store, check_epoch=True, clock=clock), clock=clock, autoload=True),
        Browser(),
    )
    await site.visit(change, browser)
    store.calls.clear()
    await site.data(browser)
    assert store.calls == ["get"]
    for make in (
        lambda: StoreBackend(store, clock=clock),
        lambda: CookieBackend(KEY, revocations=store, clock=clock),
    ):
        site = Site(backend=make(), clock=clock, autoload=True)  # type: ignore[no-untyped-call]
        browser = await signed_in(site)
        store.calls.clear()
        assert await user_of(site, browser) == "ann"
        assert store.calls == ["get"]


async def test_in_memory_it_is_compared_as_well(clock: Clock) -> None:
    backend = InMemoryBackend(check_epoch=True, clock=clock)
    site = Site(backend=backend, clock=clock, autoload=True)
    browser = await signed_in(site)
    assert await user_of(site, browser) == "ann"
    await UserSessions(backend).revoke_everyone()
    assert await user_of(site, browser) is None


def test_each_backend_takes_the_setting() -> None:
    backends: list[SessionBackend] = [
        RedisBackend("redis://localhost", check_epoch=True),
        SQLAlchemyBackend("sqlite+aiosqlite://", check_epoch=True),
        InMemoryBackend(check_epoch=True),
    ]
    assert [one.user_index.checks_epoch for one in backends] == [True] * 3  # type: ignore[attr-defined]


@rows("make", [CookieBackend, EncryptedCookieBackend])
def test_a_revocable_cookie_has_an_epoch_to_compare_only_with_revocations(make: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="check_epoch needs revocations=<store>"):
        make(KEY, check_epoch=True)


async def test_an_epoch_that_has_expired_refuses_nothing(kind: Any, clock: Clock) -> None:
    backend = kind(MemoryStore(), clock)
    site = Site(backend=backend, clock=clock, autoload=True)
    await UserSessions(backend).revoke_all("ann")

    async def for_years(session: Session) -> None:
        await users.sign_in(session, "ann")
        set_expiry(session, 3 * 400 * 86400)

    browser = Browser()
    await site.visit(for_years, browser)
    clock.advance(401 * 86400)
    assert await user_of(site, browser) == "ann"
