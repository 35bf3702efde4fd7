"""How long a sign-in lasts: freshness, remembered devices, and the limits of the standards."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from starsessions import (
    InMemoryBackend,
    MissReason,
    SessionBackend,
    get_miss_reason,
    users,
)
from starsessions.timeouts import AAL1, AAL2, AAL3, Timeouts
from tests.kinds import each_backend, each_store_backend
from tests.rows import rows
from tests.shell.people import sign_in, signed_in, user_of, who
from tests.site import Clock, Site

pytestmark = pytest.mark.anyio


@pytest.mark.requirement("ASVS 7.5.1", "ASVS 7.5.3")
@each_backend
async def test_a_session_is_fresh_until_the_time_is_up_and_after_another_sign_in(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    """ASVS 7.5.1: full re-authentication before sensitive changes."""
    site = site_of(backend=backend)

    async def fresh() -> Any:
        return (await site.visit(lambda session: users.is_fresh(session, timedelta(minutes=5)))).result

    assert await fresh() is False
    await site.visit(sign_in())
    clock.advance(299)
    assert await fresh() is True
    clock.advance(1)
    assert await fresh() is False
    await site.visit(sign_in())
    assert await fresh() is True


@pytest.mark.requirement("ASVS 7.3.2", "NIST 5.2")
@each_backend
async def test_a_sign_in_begins_the_time_that_a_session_may_last(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    """NIST SP 800-63B-4, 5.2: a successful reauthentication resets both limits."""
    site = site_of(backend=backend, absolute_timeout=100)
    await site.visit(sign_in())
    clock.advance(99)
    await site.visit(sign_in())
    clock.advance(99)
    assert await user_of(site, site.browser) == "ann"
    clock.advance(1)
    assert await user_of(site, site.browser) is None


@each_backend
async def test_a_remembered_session_lasts_longer(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=100)
    assert "Max-Age=2592000" in (await site.visit(sign_in(remember=True))).set_cookie
    clock.advance(30 * 86400 - 1)
    assert await user_of(site, site.browser) == "ann"


@each_backend
async def test_who_asks_to_be_remembered_is_never_signed_out_sooner(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend, max_age=timedelta(days=90))
    for remember in (None, True):
        assert f"Max-Age={90 * 86400};" in (await site.visit(sign_in(remember=remember))).set_cookie


@rows("remember", ["on", "", 1, timedelta(days=30)], ids=repr)
async def test_the_value_of_a_check_box_is_not_taken_for_the_answer(
    site_of: Callable[..., Site], remember: Any
) -> None:
    """`form.get("remember")` is "on", or None if the box was not ticked, which would mean that there was no box."""
    with pytest.raises(TypeError, match=r"pass bool\(form\.get\(\"remember\"\)\)"):
        await site_of(backend=InMemoryBackend()).visit(sign_in(remember=remember))


@each_backend
@rows(("remember", "max_age"), [(True, "2592000"), (None, "100"), (False, "")])
async def test_a_user_is_remembered_as_they_have_said_last(
    site_of: Callable[..., Site], backend: SessionBackend, remember: bool | None, max_age: str
) -> None:
    """True: for 30 days. False, the box was not ticked: until the browser is closed. None: there was no box."""
    for before in (True, None, False):
        site = site_of(backend=backend, max_age=100)
        await site.visit(sign_in(remember=before))
        _, _, lasts = (await site.visit(sign_in(remember=remember))).set_cookie.partition("; Max-Age=")
        assert lasts.partition(";")[0] == max_age


@rows(("settings", "logged"), [(AAL2, 1), ({"absolute_timeout": 30 * 86400}, 1), ({"absolute_timeout": 31 * 86400}, 0)])
async def test_remember_me_that_has_no_effect_is_logged_once(
    site_of: Callable[..., Site], clock: Clock, caplog: pytest.LogCaptureFixture, settings: Any, logged: int
) -> None:
    caplog.clear()
    site = site_of(backend=InMemoryBackend(clock=clock), **settings)
    for _ in range(2):
        await site.visit(sign_in(remember=True))
    assert caplog.text.count("sign_in(remember=True) has no effect") == logged


@pytest.mark.requirement("ASVS 7.1.1", "NIST 5.1(5)", "NIST 5.2")
@pytest.mark.guarantee(21)
@each_store_backend
@rows("limits", [AAL1, AAL2, AAL3])
@rows("remember", [False, True])
async def test_the_limits_of_the_standards_are_kept(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock, limits: Timeouts, remember: bool
) -> None:
    """NIST SP 800-63B-4, 2.1.3, 2.2.3 and 2.3.3."""
    site = site_of(backend=store_backend, **limits)
    idle = await signed_in(site, remember=remember)
    clock.advance(limits["max_age"])
    assert await user_of(site, idle) is None

    used = await signed_in(site, remember=remember)
    step, passed = limits["max_age"] // 2, 0
    while passed + step < limits["absolute_timeout"]:
        clock.advance(step)
        passed += step
        reply = await site.visit(who, used)
        assert reply.result == "ann"
    clock.advance(limits["absolute_timeout"] - passed)
    user, why = (await site.visit(lambda session: (users.get_user_id(session), get_miss_reason(session)), used)).result
    assert user is None
    assert why in (MissReason.OVER_ABSOLUTE, MissReason.UNKNOWN)  # a store may have forgotten it
