"""What one stranger or one user can make the store hold, with the defaults and with other limits."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from starsessions import (
    CookieBackend,
    ImproperlyConfigured,
    Session,
    SessionBackend,
    SessionTooLarge,
    csrf,
    get_created_at,
    get_remaining,
    set_expiry,
    users,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.stores.memory import MemoryStore
from tests.kinds import each_backend, each_store_backend
from tests.rows import rows
from tests.shell.people import sign_in
from tests.site import KEY, Browser, Clock, Site

pytestmark = pytest.mark.anyio

DAY, TWO_WEEKS = 86_400, 14 * 86_400


def token(session: Session) -> None:
    from starlette.requests import HTTPConnection

    csrf.csrf_token(HTTPConnection({"type": "http", "session": session}))


def cart(session: Session) -> None:
    session["cart"] = 1


def both(session: Session) -> None:
    token(session)
    cart(session)


def long(session: Session) -> None:
    cart(session)
    set_expiry(session, TWO_WEEKS)


LIFETIMES: list[tuple[dict[str, Any], Callable[[Session], Any], int]] = [
    ({}, token, DAY),
    ({}, cart, TWO_WEEKS),
    ({}, both, TWO_WEEKS),
    ({}, sign_in(), TWO_WEEKS),
    ({"max_age": 100}, token, 100),
    ({"anonymous_max_age": 60}, token, 60),
    ({"anonymous_max_age": timedelta(minutes=1)}, cart, 60),
    ({"anonymous_max_age": 60}, long, 60),
    ({"anonymous_max_age": 60}, sign_in(), TWO_WEEKS),
    ({"anonymous_max_age": 2 * DAY}, token, 2 * DAY),
    ({"anonymous_max_age": 60, "max_age": 50}, cart, 50),
]


@rows(("settings", "act", "lasts"), LIFETIMES)
async def test_a_session_without_a_user_lasts_only_as_long_as_it_may(
    site_of: Callable[..., Site], clock: Clock, settings: dict[str, Any], act: Any, lasts: int
) -> None:
    site, browser = site_of(backend=StoreBackend(MemoryStore(), clock=clock), **settings), Browser()
    reply = await site.visit(act, browser)
    assert f"; Max-Age={lasts};" in reply.set_cookie

    clock.advance(lasts - 1)
    assert (await site.visit(lambda session: session.session_id, browser)).result is not None
    clock.advance(1)
    assert (await site.visit(lambda session: session.session_id, browser)).result is None


@rows(
    "remove",
    [lambda s: s.pop("cart"), lambda s: s.popitem(), lambda s: s.__delitem__("cart")],
    ids=["pop", "popitem", "del"],
)
async def test_a_session_that_loses_its_last_key_of_the_application_lasts_a_day_from_then_on(
    site_of: Callable[..., Site], clock: Clock, remove: Any
) -> None:
    site = site_of(backend=StoreBackend(MemoryStore(), clock=clock))
    await site.visit(both)
    await site.visit(remove)
    clock.advance(DAY - 1)
    assert (await site.visit(len)).result == 1
    clock.advance(1)
    assert (await site.visit(len)).result == 0


@rows("kind", ["in a store", "signed"])
async def test_a_limit_for_visitors_also_ends_sessions_that_began_before_it_was_set(
    site_of: Callable[..., Site], clock: Clock, kind: str
) -> None:
    """Neither the entry in the store nor the cookie has expired."""
    backend = StoreBackend(MemoryStore(), clock=clock) if kind == "in a store" else CookieBackend(KEY, clock=clock)
    before, since = site_of(backend=backend), site_of(backend=backend, anonymous_max_age=60)
    await before.visit(cart)
    clock.advance(59)
    assert await since.data(before.browser) == {"cart": 1}
    clock.advance(1)
    assert await since.data(before.browser) == {}
    assert await before.data() == {"cart": 1}


async def test_with_rolling_a_session_of_a_day_is_renewed_by_use(site_of: Callable[..., Site], clock: Clock) -> None:
    site = site_of(backend=StoreBackend(MemoryStore(), clock=clock), rolling=True)
    await site.visit(token)
    for _ in range(30):
        clock.advance(DAY // 2)
        assert (await site.visit(len)).result == 1


async def test_use_renews_a_visitors_session_in_time_however_seldom_others_are_renewed(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    backend = StoreBackend(MemoryStore(), clock=clock)
    site = site_of(backend=backend, rolling=True, renew_every=DAY, anonymous_max_age=60)
    await site.visit(cart)
    for _ in range(5):
        clock.advance(40)
        assert (await site.visit(len)).result == 1


async def test_what_the_application_stores_by_hand_makes_the_session_last(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    backend = StoreBackend(MemoryStore(), clock=clock)
    site = site_of(backend=backend)
    await site.visit(token)
    await backend.write({"cart": 1}, site.browser.cookies["session"])
    clock.advance(TWO_WEEKS - 1)
    assert await site.data() == {"cart": 1}


async def test_a_cookie_is_not_bounded_by_what_a_store_may_hold(site_of: Callable[..., Site]) -> None:
    reply = await site_of(max_size=10).visit(token)
    assert f"; Max-Age={TWO_WEEKS};" in reply.set_cookie


@each_store_backend
@rows(("settings", "most"), [({}, 1024 * 1024), ({"max_size": 1000}, 1000)])
async def test_a_session_over_max_size_is_not_saved(
    site_of: Callable[..., Site], store_backend: SessionBackend, settings: dict[str, int], most: int
) -> None:
    site = site_of(backend=store_backend, **settings)
    await site.visit(lambda session: session.update(big="x" * (most - 20)))
    with pytest.raises(SessionTooLarge, match=rf"max_size allows {most}\. Largest keys: 'big' \(\d+ bytes\)"):
        await site.visit(lambda session: session.update(big="x" * most))
    assert len((await site.data())["big"]) == most - 20
    await site_of(backend=store_backend, max_size=None).visit(lambda session: session.update(big="x" * 2 * most))


@each_store_backend
async def test_a_user_has_a_hundred_sessions_at_most_unless_it_is_said_otherwise(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    sessions = users.UserSessions(store_backend)
    for _ in range(101):
        await site_of(backend=store_backend).visit(sign_in(), Browser())
    assert len(await sessions.list("ann")) == 100
    await site_of(backend=store_backend, max_sessions_per_user=None).visit(sign_in(), Browser())
    assert len(await sessions.list("ann")) == 101


@rows(
    "settings",
    [{"max_size": 0}, {"max_size": True}, {"max_size": "1 MB"}, {"anonymous_max_age": 0}, {"anonymous_max_age": -1}],
)
def test_a_limit_that_limits_nothing_is_refused(site_of: Callable[..., Site], settings: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=next(iter(settings))):
        site_of(secret_key=KEY, **settings)


@each_backend
async def test_a_session_says_when_it_began_and_how_long_it_has_left(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site, began = site_of(backend=backend, max_age=100), datetime.fromtimestamp(int(clock()), UTC)

    def seen(session: Session) -> Any:
        return get_created_at(session), get_remaining(session)

    assert (await site.visit(seen)).result == (None, None)
    await site.visit(sign_in())
    clock.advance(30)
    assert (await site.visit(seen)).result == (began, 70)
    await site.visit(lambda session: session.update(n=1))
    assert (await site.visit(seen)).result == (began, 100)
