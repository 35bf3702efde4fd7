"""Guarantee 4: deadlines are enforced by us, in every backend, and the cookie never promises more."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from starsessions import (
    CookieBackend,
    InMemoryBackend,
    MissReason,
    Session,
    SessionBackend,
    get_miss_reason,
    set_expiry,
)
from tests.kinds import each_backend
from tests.rows import rows
from tests.site import KEY, Clock, DictBackend, Reply, Site

pytestmark = pytest.mark.anyio


def sign_in(session: Session) -> None:
    session["user"] = "ann"


def count(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


def max_age(reply: Reply) -> int | None:
    _, found, rest = reply.set_cookie.partition("; Max-Age=")
    return int(rest.partition(";")[0]) if found else None


async def why(site: Site) -> MissReason | None:
    async def act(session: Session) -> MissReason | None:
        await session.load()
        return get_miss_reason(session)

    result: MissReason | None = (await site.visit(act)).result
    return result


@pytest.mark.requirement("ASVS 7.3.1")
@pytest.mark.guarantee(4)
@each_backend
async def test_a_session_expires_after_max_age(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=100)
    assert max_age(await site.visit(sign_in)) == 100

    clock.advance(99)
    assert await site.data() == {"user": "ann"}

    clock.advance(1)
    assert await site.data() == {}
    assert await why(site) in (MissReason.EXPIRED, MissReason.UNKNOWN)


@pytest.mark.guarantee(4)
@each_backend
async def test_a_write_renews_the_session(site_of: Callable[..., Site], backend: SessionBackend, clock: Clock) -> None:
    site = site_of(backend=backend, max_age=100)
    await site.visit(sign_in)
    clock.advance(60)
    assert max_age(await site.visit(count)) == 100
    clock.advance(99)
    assert await site.data() == {"user": "ann", "n": 1}
    clock.advance(1)
    assert await site.data() == {}


@each_backend
async def test_reading_does_not_renew_without_rolling(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=100)
    await site.visit(sign_in)
    clock.advance(60)
    await site.data()
    clock.advance(40)
    assert await site.data() == {}


@pytest.mark.requirement("NIST 5.2")
@pytest.mark.guarantee(4)
@each_backend
async def test_with_rolling_use_renews_but_at_most_once_per_interval(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=100, rolling=True, renew_every=30)
    await site.visit(sign_in)

    renewals = []
    for second in range(1, 301):
        clock.advance(1)
        reply = await site.visit(lambda session: session["user"])
        if reply.set_cookies:
            renewals.append(second)
            assert max_age(reply) == 100

    assert renewals == list(range(30, 301, 30))


@pytest.mark.requirement("ASVS 7.3.1")
@each_backend
async def test_with_rolling_an_untouched_session_still_ends(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=100, rolling=True)
    await site.visit(sign_in)
    for _ in range(10):
        clock.advance(10)
        assert (await site.visit()).set_cookies == []
    assert await site.data() == {}


@pytest.mark.requirement("ASVS 7.3.2")
@pytest.mark.guarantee(4)
@each_backend
async def test_the_absolute_timeout_holds_whatever_happens_in_between(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=100, absolute_timeout=250, rolling=True)
    began = clock.now
    promised = clock.now + (max_age(await site.visit(sign_in)) or 0)
    for _ in range(4):
        clock.advance(50)
        reply = await site.visit(count)
        if reply.set_cookies:
            promised = clock.now + (max_age(reply) or 0)
        assert promised == min(clock.now + 100, began + 250)
    await site.visit(Session.regenerate_id)
    clock.advance(49)
    await site.visit(lambda session: set_expiry(session, 10_000))
    assert await site.data() == {"user": "ann", "n": 4}
    clock.advance(1)
    assert await site.data() == {}


async def test_why_new_tells_the_absolute_limit_from_the_idle_one(site_of: Callable[..., Site], clock: Clock) -> None:
    site = site_of(max_age=100, absolute_timeout=50)
    await site.visit(sign_in)
    clock.advance(50)
    assert await why(site) is MissReason.OVER_ABSOLUTE


@pytest.mark.guarantee(4)
@each_backend
async def test_set_expiry_in_seconds_counts_from_the_last_renewal(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=100)

    def remember(session: Session) -> None:
        session["user"] = "ann"
        set_expiry(session, timedelta(seconds=1000))

    assert max_age(await site.visit(remember)) == 1000
    clock.advance(900)
    assert max_age(await site.visit(count)) == 1000
    clock.advance(999)
    assert await site.data() == {"user": "ann", "n": 1}
    clock.advance(1)
    assert await site.data() == {}


@pytest.mark.requirement("ASVS 7.6.1", "NIST 5.2")
@pytest.mark.guarantee(4)
@each_backend
async def test_set_expiry_to_a_datetime_is_not_moved_by_renewals(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=100, rolling=True)
    end = datetime.fromtimestamp(clock.now + 500, UTC)

    def until(session: Session) -> None:
        session["user"] = "ann"
        set_expiry(session, end)

    assert max_age(await site.visit(until)) == 500
    clock.advance(400)
    await site.visit(count)
    clock.advance(99)
    assert await site.data() == {"user": "ann", "n": 1}
    clock.advance(1)
    assert await site.data() == {}


@pytest.mark.guarantee(4)
@each_backend
@rows("value", [None, 0, timedelta(0)])
async def test_set_expiry_to_nothing_ends_with_the_browser_and_on_the_server_too(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock, value: Any
) -> None:
    site = site_of(backend=backend, max_age=100)

    def act(session: Session) -> None:
        session["user"] = "ann"
        set_expiry(session, value)

    reply = await site.visit(act)
    assert max_age(reply) is None
    assert "expires" not in reply.set_cookie
    clock.advance(99)
    assert await site.data() == {"user": "ann"}
    clock.advance(1)
    assert await site.data() == {}


@pytest.mark.requirement("NIST 5.1")
@pytest.mark.guarantee(4)
@each_backend
@rows("setting", [None, 0, timedelta(0)])
async def test_without_max_age_the_cookie_ends_with_the_browser_and_the_server_side_ends_too(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock, setting: Any
) -> None:
    site = site_of(backend=backend, max_age=setting)
    assert max_age(await site.visit(sign_in)) is None
    clock.advance(14 * 86400 - 1)
    assert await site.data() == {"user": "ann"}
    clock.advance(1)
    assert await site.data() == {}


@each_backend
async def test_changing_only_the_expiry_is_saved(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=100)
    await site.visit(sign_in)
    assert max_age(await site.visit(lambda session: set_expiry(session, 50))) == 50
    assert (await site.visit(lambda session: set_expiry(session, 50))).set_cookies == []
    clock.advance(50)
    assert await site.data() == {}


async def test_of_two_max_ages_the_shorter_one_holds(site_of: Callable[..., Site], clock: Clock) -> None:
    site = site_of(backend=CookieBackend(KEY, max_age=timedelta(hours=1), clock=clock))
    assert max_age(await site.visit(sign_in)) == 3600
    clock.advance(3600)
    assert await site.data() == {}


@pytest.mark.guarantee(4)
@each_backend
async def test_a_clock_that_goes_back_extends_nothing(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=1000, rolling=True, absolute_timeout=1500)
    await site.visit(sign_in)
    cookies = dict(site.browser.cookies)

    clock.advance(-30)
    assert (await site.visit(lambda session: session["user"])).set_cookies == []
    clock.advance(-31)  # more than two servers differ: this record claims to be from the future
    assert await site.data() == {}
    assert await why(site) is MissReason.EXPIRED

    clock.advance(61 + 1000)
    site.browser.cookies = cookies
    assert await site.data() == {}


@each_backend
async def test_shortening_max_age_shortens_existing_sessions(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=1000)
    await site.visit(sign_in)
    stricter = site_of(backend=backend, max_age=100)
    stricter.browser = site.browser
    clock.advance(100)
    assert await stricter.data() == {}


async def test_set_expiry_rejects_invalid_values(site_of: Callable[..., Site], clock: Clock) -> None:
    site = site_of()
    past = datetime.fromtimestamp(clock.now, UTC)
    for value, error in (
        (-1, ValueError),
        (past, ValueError),
        (timedelta(milliseconds=500), ValueError),
        ("1", TypeError),
        (10**30, ValueError),
        (1.5, TypeError),
        (True, TypeError),
    ):
        with pytest.raises(error, match="set_expiry"):
            await site.visit(lambda session, value=value: set_expiry(session, value))


async def test_set_expiry_needs_a_loaded_session(site_of: Callable[..., Site]) -> None:
    from starsessions import SessionNotLoaded

    with pytest.raises(SessionNotLoaded):
        await site_of(autoload=False).visit(lambda session: set_expiry(session, 5))


async def test_a_browser_session_that_rolls_renews_the_server_and_not_the_cookie(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    backend = InMemoryBackend(clock=clock)
    site = site_of(backend=backend, max_age=None, rolling=True)
    await site.visit(sign_in)
    for _ in range(4):
        clock.advance(10 * 86400)
        assert (await site.visit(lambda session: session["user"])).set_cookies == []
    assert await site.data() == {"user": "ann"}


async def test_a_removal_by_hand_needs_no_deadline(site_of: Callable[..., Site], clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    site = site_of(backend=backend, max_age=60 * 86400)
    await site.visit(sign_in)
    clock.advance(20 * 86400)
    session_id = site.browser.cookies["session"]
    assert await backend.exists(session_id)
    await backend.write({"user": "bob"}, session_id)
    clock.advance(20 * 86400)
    assert await site.data() == {"user": "bob"}
    await backend.remove(session_id)
    assert await site.data() == {}


async def test_saving_a_custom_session_by_hand_keeps_its_deadlines(
    site_of: Callable[..., Site], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", clock)
    backend = DictBackend()
    site = site_of(backend=backend, absolute_timeout=100)
    await site.visit(sign_in)
    clock.advance(90)
    session = Session(backend, site.browser.cookies["session"])
    await session.load()
    session["n"] = 1
    await session.persist()
    assert await site.data() == {"user": "ann", "n": 1}
    clock.advance(10)
    assert await site.data() == {}


async def test_an_expiry_that_another_request_has_set_stays(site_of: Callable[..., Site], clock: Clock) -> None:
    for backend in (DictBackend(), InMemoryBackend(clock=clock)):
        site, elsewhere = site_of(backend=backend), site_of(backend=backend)
        elsewhere.browser = site.browser
        site.browser.cookies.clear()
        await site.visit(sign_in)

        async def act(session: Session, elsewhere: Site = elsewhere) -> None:
            session["n"] = 1
            await elsewhere.visit(lambda other: set_expiry(other, 60))

        await site.visit(act)
        clock.advance(59)
        assert await site.data() == {"user": "ann", "n": 1}
        clock.advance(1)
        assert await site.data() == {}


@pytest.mark.requirement("NIST 5.1.1(4)")
@pytest.mark.guarantee(4)
@each_backend
@rows("rolling", [False, True])
@rows("absolute", [None, 90])
@rows("idle", [100, None])
@rows("expiry", ["not set", 60, timedelta(seconds=300), 0, None, "in 70 seconds"], ids=str)
async def test_every_combination_of_limits_ends_the_session_and_the_cookie_on_time(
    site_of: Callable[..., Site],
    backend: SessionBackend,
    clock: Clock,
    rolling: bool,
    absolute: int | None,
    idle: int | None,
    expiry: Any,
) -> None:
    """Begun at 0, used at 30. Calculated here once more, in other words than in `core/record.py`."""
    settings = {"backend": backend, "max_age": idle, "absolute_timeout": absolute}
    site, onlooker = site_of(**settings, rolling=rolling), site_of(**settings)
    began = int(clock())

    def begin(session: Session) -> None:
        session["user"] = "ann"
        if expiry == "in 70 seconds":
            set_expiry(session, datetime.fromtimestamp(began + 70, UTC))
        elif expiry != "not set":
            set_expiry(session, expiry)

    lifetime = {60: 60, timedelta(seconds=300): 300}.get(expiry, idle or 14 * 24 * 60 * 60)
    until_closed = expiry in (0, None) or (expiry == "not set" and idle is None)

    def end(renewed_at: int) -> int:
        ends = [70] if expiry == "in 70 seconds" else [renewed_at + lifetime]
        return min(ends + ([absolute] if absolute else []))

    promised = max_age(await site.visit(begin))
    assert promised == (None if until_closed else end(0))

    clock.advance(30)
    reply = await site.visit(lambda session: session["user"])
    renewed_at = 30 if rolling and expiry != "in 70 seconds" and lifetime // 10 <= 30 else 0
    if reply.set_cookies:
        assert renewed_at
        assert max_age(reply) == (None if until_closed else end(30) - 30)
    elif not until_closed:
        assert end(renewed_at) == end(0), "the browser was told of the new end"

    clock.now = began + end(renewed_at) - 1
    assert await onlooker.data(site.browser) == {"user": "ann"}
    clock.now = began + end(renewed_at)
    assert await onlooker.data(site.browser) == {}
