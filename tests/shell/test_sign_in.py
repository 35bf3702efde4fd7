"""Signing in and out: a new id each time, who and since when kept apart from the data, lists of devices, limits."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    EncryptedCookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    MissReason,
    ResponseStarted,
    Session,
    SessionBackend,
    TooManySessions,
    UnsupportedValue,
    flash,
    get_miss_reason,
    set_expiry,
    users,
    watch,
)
from starsessions.backends.adapter import adapt
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import MAX_TRIES, PENDING, Index, IndexedSession, index_key
from starsessions.stores.base import Refused
from starsessions.stores.memory import MemoryStore
from starsessions.timeouts import AAL1, AAL2, AAL3, Limits
from starsessions.users import UserSession, UserSessions
from starsessions.watch import MAX_FAILURES
from tests.shell.test_websocket import connect
from tests.site import KEY, Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio

LISTING: dict[str, Callable[[Clock], SessionBackend]] = {
    "memory": lambda clock: InMemoryBackend(clock=clock),
    "stored": lambda clock: StoreBackend(MemoryStore(), clock=clock),
    "sealed store": lambda clock: StoreBackend(MemoryStore(), encrypt_with=KEY, clock=clock),
    "signed": lambda clock: CookieBackend(KEY, revocations=MemoryStore(), clock=clock),
    "encrypted": lambda clock: EncryptedCookieBackend(KEY, revocations=InMemoryBackend(clock=clock), clock=clock),
}


@pytest.fixture(params=list(LISTING))
def listing(request: pytest.FixtureRequest, clock: Clock) -> SessionBackend:
    """The kinds of backend that can list the sessions of a user."""
    return LISTING[request.param](clock)


def sign_in(user: str = "ann", **how: Any) -> Callable[[Session], Any]:
    async def act(session: Session) -> None:
        await users.sign_in(session, user, **how)

    return act


def who(session: Session) -> str | None:
    return users.get_user_id(session)


async def signed_in(site: Site, user: str = "ann", **how: Any) -> Browser:
    browser = Browser()
    await site.visit(sign_in(user, **how), browser)
    return browser


async def user_of(site: Site, browser: Browser) -> str | None:
    reply = await site.visit(who, Browser(dict(browser.cookies)))
    assert reply.result is None or isinstance(reply.result, str)
    return reply.result


# Signing in


@pytest.mark.requirement("NIST 5.1(1)")
async def test_a_sign_in_is_seen_at_once_and_at_the_next_request(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend)

    async def act(session: Session) -> tuple[str | None, datetime | None]:
        assert (users.get_user_id(session), users.get_signed_in_at(session), users.get_handle(session)) == (
            None,
            None,
            None,
        )
        await users.sign_in(session, "ann")
        return users.get_user_id(session), users.get_signed_in_at(session)

    at = datetime.fromtimestamp(clock(), UTC)
    assert (await site.visit(act)).result == ("ann", at)
    clock.advance(5)
    assert (await site.visit(lambda session: (users.get_user_id(session), users.get_signed_in_at(session)))).result == (
        "ann",
        at,
    )


async def test_a_sign_in_without_any_data_is_a_session_and_clearing_its_data_does_not_end_it(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in())
    await site.visit(lambda session: session.update(n=1))
    await site.visit(Session.clear)
    assert (await site.visit(lambda session: (users.get_user_id(session), dict(session)))).result == ("ann", {})


@pytest.mark.requirement("ASVS 7.2.4", "NIST 5.1")
@pytest.mark.guarantee(21)
async def test_each_sign_in_gives_a_new_id_and_the_one_from_before_is_nobody(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    """ASVS 7.2.4: a new token at authentication, and at re-authentication; the current one is terminated."""
    site = site_of(backend=server_backend)
    await site.visit(lambda session: session.update(cart=[1]))
    ids = [dict(site.browser.cookies)]
    for _ in range(2):
        await site.visit(sign_in())
        ids.append(dict(site.browser.cookies))
    assert len({tuple(one.items()) for one in ids}) == 3
    for old in ids[:2]:
        assert await site.data(Browser(old)) == {}
    assert await site.data() == {"cart": [1]}


async def test_what_the_anonymous_session_held_is_kept_or_dropped_by_choice(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    for keep in (True, False):
        site = site_of(backend=backend)
        await site.visit(lambda session: session.update(cart=[1]))
        await site.visit(sign_in(keep_data=keep))
        assert await site.data() == ({"cart": [1]} if keep else {})
        assert await user_of(site, site.browser) == "ann"


@pytest.mark.guarantee(21)
async def test_what_another_user_left_is_never_handed_on(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in("ann"))
    await site.visit(lambda session: session.update(secret="of Ann"))
    await site.visit(sign_in("eve"))
    assert (await site.visit(lambda session: (users.get_user_id(session), dict(session)))).result == ("eve", {})


@pytest.mark.requirement("NIST 5.1")
@pytest.mark.guarantee(21)
async def test_the_user_cannot_be_overwritten_through_the_data(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in())
    await site.visit(lambda session: session.update(user_id="eve", identity="eve"))
    assert await user_of(site, site.browser) == "ann"
    with pytest.raises(AttributeError):
        await site.visit(lambda session: setattr(session, "user_id", "eve"))


@pytest.mark.parametrize("user", ["", None, 42, b"ann"])
async def test_a_user_id_that_is_no_text_is_refused(
    site_of: Callable[..., Site], backend: SessionBackend, user: Any
) -> None:
    with pytest.raises(TypeError, match=r"str\(user\.id\)"):
        await site_of(backend=backend).visit(sign_in(user))


async def test_after_the_headers_nobody_can_sign_in(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    with pytest.raises(ResponseStarted, match="sign in before"):
        await site_of(backend=backend).visit(after=sign_in())


@pytest.mark.requirement("ASVS 7.5.1", "ASVS 7.5.3")
async def test_somebody_is_fresh_until_the_time_is_up_and_again_after_signing_in_again(
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


async def test_who_asks_to_be_remembered_is_remembered_for_longer(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=backend, max_age=100, remember_for=timedelta(days=30))
    assert "Max-Age=2592000" in (await site.visit(sign_in(remember=True))).set_cookie
    clock.advance(30 * 86400 - 1)
    assert await user_of(site, site.browser) == "ann"


@pytest.mark.requirement("ASVS 7.2.4")
async def test_after_a_sign_in_a_rotation_has_nothing_left_to_do_and_gives_no_grace(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    """The id from before the sign in is nobody, whatever is asked for: somebody may have planted it."""
    site, sessions = site_of(backend=store_backend), UserSessions(store_backend)
    await site.visit(lambda session: session.update(n=1))
    planted = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> bool:
        new_id = await users.sign_in(session, "ann")
        return new_id == await session.regenerate_id(grace=60)

    assert (await site.visit(act)).result is True
    assert await user_of(site, planted) is None
    assert await user_of(site, site.browser) == "ann"
    assert await sessions.revoke_all("ann") == 1
    assert await user_of(site, site.browser) is None


@pytest.mark.parametrize("more", [{}, {"m": 1}])
async def test_a_sign_in_in_a_websocket_that_is_refused_is_none(
    site_of: Callable[..., Site], server_backend: SessionBackend, more: dict[str, int]
) -> None:
    """Nobody gets to know the new id, and the old one must not become that of somebody who is signed in."""
    site = site_of(backend=server_backend)
    await site.visit(lambda session: session.update(n=1))

    async def handler(session: Session, send: Any) -> None:
        await users.sign_in(session, "ann")
        session.update(more)
        await send({"type": "websocket.close"})

    await connect(site, handler)
    assert (await site.visit(lambda session: (users.get_user_id(session), dict(session)))).result == (
        None,
        {"n": 1, **more},
    )


@pytest.mark.parametrize(("user", "method"), [("\ud800", ""), ("ann", "\ud800")])
async def test_half_of_a_character_is_refused_before_anything_is_listed(
    site_of: Callable[..., Site], backend: SessionBackend, user: str, method: str
) -> None:
    site = site_of(backend=backend)
    with pytest.raises(UnsupportedValue, match="half of a character"):
        await site.visit(sign_in(user, method=method))
    assert await user_of(site, site.browser) is None


@pytest.mark.requirement("ASVS 7.5.2")
@pytest.mark.parametrize("user", ["a\0b", "ann/../bob", "'; --", "\u00e9", "e\u0301", "x" * 2000])
async def test_any_other_text_names_a_user_and_no_second_one(
    site_of: Callable[..., Site], listing: SessionBackend, user: str
) -> None:
    site, sessions = site_of(backend=listing), UserSessions(listing)
    await site.visit(sign_in(user))
    [listed] = await sessions.list(user)
    assert await user_of(site, site.browser) == user
    for stranger in ("a", "ann", "bob", user + " ", user.upper() + "x", "\ud800"):
        assert await sessions.revoke(stranger, listed.handle) is False
    for handle in ("", "\0", "\ud800", listed.handle.lower() + "x", index_key(user), "h" * 100_000):
        assert await sessions.revoke(user, handle) is False
    assert await user_of(site, site.browser) == user


async def test_a_session_by_hand_and_a_write_by_hand_keep_who_is_signed_in(backend: SessionBackend) -> None:
    session = Session(backend)
    await session.load()
    await users.sign_in(session, "ann")
    session_id = await session.persist()
    if not isinstance(backend, DictBackend):  # which knows nothing of people, and writes what it is told to
        session_id = await backend.write({"n": 1}, session_id)
    again = Session(backend, session_id)
    await again.load()
    assert users.get_user_id(again) == "ann"


async def test_who_signs_in_again_without_asking_for_it_is_not_remembered(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend, max_age=100, remember_for=timedelta(days=30))
    await site.visit(sign_in(remember=True))
    assert "Max-Age=100" in (await site.visit(sign_in(remember=False))).set_cookie


# Signing out


@pytest.mark.requirement("ASVS 7.4.1", "NIST 5.1")
@pytest.mark.guarantee(21)
async def test_signing_out_ends_the_session_and_the_copy_of_its_cookie(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    """ASVS 7.4.1: also of a self-contained token, given a list of those that live."""
    site = site_of(backend=listing)
    await site.visit(sign_in())
    copy = Browser(dict(site.browser.cookies))
    reply = await site.visit(users.sign_out)
    assert "Max-Age=0" in reply.set_cookie
    assert reply.all("clear-site-data") == []
    assert await user_of(site, copy) is None
    assert await UserSessions(listing).list("ann") == []


@pytest.mark.requirement("NIST 5.1")
async def test_signing_out_can_tell_the_browser_to_forget_the_site(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in())
    reply = await site.visit(lambda session: users.sign_out(session, clear_site_data=True))
    assert reply.all("clear-site-data") == ['"cache", "cookies", "storage"']


async def test_who_was_not_signed_in_keeps_the_site(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    """Such an answer may be stored by a cache, and says nothing about anybody."""
    reply = await site_of(backend=backend).visit(lambda session: users.sign_out(session, clear_site_data=True))

    assert reply.all("clear-site-data") == reply.all("set-cookie") == []


async def test_a_message_said_after_signing_out_is_not_wiped_with_the_site(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    """The browser would forget the cookie that came in the same response (found in Chromium)."""
    site = site_of(backend=backend)
    await site.visit(sign_in())

    async def act(session: Session) -> None:
        await users.sign_out(session, clear_site_data=True)
        flash.add_flash(session, "You are signed out.")

    reply = await site.visit(act)
    assert reply.all("clear-site-data") == ['"cache", "storage"']
    assert len((await site.visit(lambda session: flash.pop_flashes(session, background=True))).result) == 1


@pytest.mark.requirement("ASVS 7.2.4")
@pytest.mark.parametrize("kind", ["rotated", "signed in again"])
async def test_a_copy_of_a_sealed_cookie_from_before_is_nobody(
    site_of: Callable[..., Site], clock: Clock, kind: str
) -> None:
    site = site_of(backend=LISTING["encrypted"](clock))
    await site.visit(sign_in())
    copy = Browser(dict(site.browser.cookies))
    await site.visit(Session.regenerate_id if kind == "rotated" else sign_in())
    assert await user_of(site, copy) is None
    assert await user_of(site, site.browser) == "ann"


@pytest.mark.requirement("ASVS 7.4.1")
async def test_a_sealed_cookie_that_cannot_be_called_back_says_so_once(
    site_of: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    site = site_of()
    for _ in range(2):
        await site.visit(sign_in())
    assert caplog.text.count("revocations=") == 1
    with pytest.raises(ImproperlyConfigured, match="revocations="):
        UserSessions(CookieBackend(KEY))


# The list


@pytest.mark.requirement("ASVS 7.5.2")
@pytest.mark.guarantee(21)
async def test_the_list_shows_what_a_person_recognises_and_nothing_that_opens_a_session(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=listing)
    began = datetime.fromtimestamp(clock(), UTC)
    agent = b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0"
    reply = await site.visit(
        sign_in(method="passkey"), headers=[(b"user-agent", agent)], client=("203.0.113.77", 50_000)
    )
    assert reply.set_cookies
    clock.advance(60)
    await signed_in(site, method="password")

    async def listed(session: Session) -> list[UserSession]:
        return await UserSessions(listing).list("ann", current=session)

    newest, oldest = (await site.visit(listed)).result
    assert oldest == UserSession(
        handle=oldest.handle,
        began_at=began,
        signed_in_at=began,
        last_used_at=began,
        method="passkey",
        agent="Edge on Windows",
        address="203.0.113.0/24",
        is_current=True,
    )
    assert (newest.method, newest.agent, newest.address, newest.is_current) == ("password", "", "", False)
    assert newest.signed_in_at == began + timedelta(seconds=60)
    cookie = site.browser.cookies["session"]
    assert oldest.handle not in cookie
    assert cookie not in repr([newest, oldest])
    assert await site.data(Browser({"session": oldest.handle})) == {}


async def test_the_list_is_of_one_user_only(site_of: Callable[..., Site], listing: SessionBackend) -> None:
    site = site_of(backend=listing)
    for user in ("ann", "bob", "ann", "Ann"):
        await signed_in(site, user)
    sessions = UserSessions(listing)
    assert [len(await sessions.list(user)) for user in ("ann", "bob", "Ann", "eve")] == [2, 1, 1, 0]


@pytest.mark.requirement("ASVS 7.5.2")
@pytest.mark.guarantee(21)
async def test_one_session_is_ended_by_its_handle_and_no_other(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site, sessions = site_of(backend=listing), UserSessions(listing)
    first, second, other = [await signed_in(site, user) for user in ("ann", "ann", "bob")]
    newest, oldest = await sessions.list("ann")
    assert await sessions.revoke("bob", oldest.handle) is False
    assert await sessions.revoke("ann", "made up") is False
    assert await sessions.revoke("ann", oldest.handle) is True
    assert await sessions.revoke("ann", oldest.handle) is False
    assert [await user_of(site, browser) for browser in (first, second, other)] == [None, "ann", "bob"]
    assert [one.handle for one in await sessions.list("ann")] == [newest.handle]


@pytest.mark.requirement("ASVS 7.4.3")
@pytest.mark.guarantee(21)
async def test_all_others_are_ended_and_the_one_that_asks_gets_a_new_id(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    """ASVS 7.4.3: the option to terminate all other sessions after a change of the password."""
    site = site_of(backend=listing)
    others = [await signed_in(site) for _ in range(2)]
    mine = await signed_in(site)
    before = Browser(dict(mine.cookies))

    async def end_others(session: Session) -> int:
        return await UserSessions(listing).revoke_others(session)

    assert (await site.visit(end_others, mine)).result == 2
    assert [await user_of(site, browser) for browser in (*others, before, mine)] == [None, None, None, "ann"]
    assert len(await UserSessions(listing).list("ann")) == 1


@pytest.mark.parametrize("late", ["rotates", "renews", "writes", "signs in"])
async def test_a_session_that_was_ended_stays_ended_whatever_a_slow_request_does(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock, late: str
) -> None:
    """The list says who lives of sealed cookies: a late request must not put itself back on it."""
    site = site_of(backend=listing, max_age=1000, remember_for=1000)
    browser = await signed_in(site)
    old = Browser(dict(browser.cookies))

    async def act(session: Session) -> None:
        await session.load()
        await UserSessions(listing).revoke_all("ann")
        if late == "rotates":
            await session.regenerate_id()
        elif late == "signs in":
            await users.sign_in(session, "ann")
        else:
            if late == "renews":
                set_expiry(session, 100_000)
            session["n"] = 1

    await site.visit(act, browser)
    if late == "signs in" and await user_of(site, browser) == "ann":
        assert len(await UserSessions(listing).list("ann")) == 1  # somebody who knows the password is in again
    else:
        assert await user_of(site, browser) is None
        assert await UserSessions(listing).list("ann") == []
    assert await user_of(site, old) is None


@pytest.mark.requirement("ASVS 7.4.2", "ASVS 7.4.5")
async def test_all_sessions_of_a_user_are_ended(site_of: Callable[..., Site], listing: SessionBackend) -> None:
    site = site_of(backend=listing)
    browsers = [await signed_in(site) for _ in range(3)]
    assert await UserSessions(listing).revoke_all("ann") == 3
    assert [await user_of(site, browser) for browser in browsers] == [None] * 3
    assert await UserSessions(listing).revoke_all("ann") == 0


async def test_a_session_stays_on_the_list_wherever_it_is_rotated_to(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site, sessions = site_of(backend=listing), UserSessions(listing)
    await site.visit(sign_in())
    for _ in range(3):
        await site.visit(Session.regenerate_id)
    [listed] = await sessions.list("ann")
    assert await sessions.revoke("ann", listed.handle) is True
    assert await user_of(site, site.browser) is None


async def test_the_newest_sign_in_is_the_first_of_the_list_whoever_was_rotated_since(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site, sessions = site_of(backend=listing), UserSessions(listing)
    first = await signed_in(site, method="first")
    clock.advance(10)
    await signed_in(site, method="second")
    clock.advance(10)
    await site.visit(Session.regenerate_id, first)
    assert [one.method for one in await sessions.list("ann")] == ["second", "first"]


async def test_who_signs_in_while_another_device_does_takes_nobody_from_the_list(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    class Slow(StoreBackend):
        meanwhile: Callable[[], Any] | None = None

        async def dead_handles(self, index: Index, now: int) -> frozenset[str]:
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                await meanwhile()
            return await super().dead_handles(index, now)

    backend = Slow(MemoryStore(), clock=clock)
    site = site_of(backend=backend)
    await signed_in(site)
    backend.meanwhile = lambda: signed_in(site)
    await signed_in(site)
    assert len(await UserSessions(backend).list("ann")) == 3


async def test_a_session_that_is_used_for_ever_stays_on_the_list(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=listing, max_age=1000, remember_for=1000, rolling=True)
    await site.visit(sign_in())
    for n in range(50):
        clock.advance(900)
        await site.visit(lambda session, n=n: session.update(n=n))
    assert len(await UserSessions(listing).list("ann")) == 1


@pytest.mark.guarantee(21)
async def test_the_list_forgets_what_is_over_and_never_grows_beyond_what_lives(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=listing, max_age=1000, remember_for=1000)
    for _ in range(5):
        await signed_in(site)
        clock.advance(2100)
        assert await UserSessions(listing).list("ann") == []
    user_index = listing.user_index  # type: ignore[attr-defined]
    await signed_in(site)
    assert len(await user_index.of("ann", int(clock()))) == 1
    assert len(await UserSessions(listing).list("ann")) == 1


async def test_a_sign_in_that_comes_to_nothing_is_forgotten(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=store_backend)

    async def fails(session: Session) -> None:
        await users.sign_in(session, "ann")
        raise LookupError

    for _ in range(3):
        with pytest.raises(LookupError):
            await site.visit(fails, Browser())
    assert await UserSessions(store_backend).list("ann") == []
    clock.advance(PENDING)
    await signed_in(site)
    user_index = store_backend.user_index  # type: ignore[attr-defined]
    assert len(await user_index.of("ann", int(clock()))) == 1


async def test_who_is_not_signed_in_is_on_no_list(site_of: Callable[..., Site], listing: SessionBackend) -> None:
    site = site_of(backend=listing)
    await site.visit(lambda session: session.update(n=1))
    await site.visit(Session.regenerate_id)
    assert await site.data() == {"n": 1}
    await site.visit(Session.flush)
    assert await site.data() == {}


async def test_a_backend_without_lists_knows_of_none() -> None:
    backend = adapt(DictBackend())
    listed = IndexedSession("handle", "key", 1, 2)
    assert backend.key_of("an-id") == ""
    assert await backend.look_up(listed, 1) is None
    await backend.revoke(listed, 1)


async def test_garbage_where_the_list_should_be_ends_no_session_and_is_replaced(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    for value in (b"", b"garbage", b"u1.garbage", b"u1."):
        store = MemoryStore()
        backend = StoreBackend(store, clock=clock)
        await store.put(index_key("ann"), value, int(clock()) + 1000, None, int(clock()))
        site = site_of(backend=backend)
        await site.visit(sign_in())
        assert await user_of(site, site.browser) == "ann"
        assert len(await UserSessions(backend).list("ann")) == 1


async def test_a_list_is_no_session_whatever_id_is_made_up(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    site = site_of(backend=store_backend)
    await site.visit(sign_in())
    assert await site.data(Browser({"session": index_key("ann")})) == {}


@pytest.mark.guarantee(21)
async def test_a_sign_in_that_fails_leaves_the_session_from_before_on_the_list(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site, sessions = site_of(backend=listing), UserSessions(listing)
    await site.visit(sign_in())
    handle = (await site.visit(users.get_handle)).result

    async def fails(session: Session) -> None:
        await users.sign_in(session, "ann")
        raise LookupError

    with pytest.raises(LookupError):
        await site.visit(fails)
    assert await user_of(site, site.browser) == "ann"
    assert handle in [one.handle for one in await sessions.list("ann")]
    clock.advance(PENDING)
    assert [one.handle for one in await sessions.list("ann")] == [handle]
    await sessions.revoke_all("ann")
    assert await user_of(site, site.browser) is None


async def test_the_newest_sign_in_is_the_first_and_a_session_keeps_its_name_when_it_is_rotated(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site, sessions = site_of(backend=listing, max_age=1000, remember_for=1000), UserSessions(listing)
    first = await signed_in(site)
    clock.advance(1)
    await signed_in(site)
    clock.advance(1)
    before = [one.handle for one in await sessions.list("ann")]
    await site.visit(Session.regenerate_id, first)
    assert [one.handle for one in await sessions.list("ann")] == before
    clock.advance(900)
    for _ in range(3):
        await site.visit(lambda session: session.update(n=session.get("n", 0) + 1), first)
        clock.advance(900)
        assert before[1] in [one.handle for one in await sessions.list("ann")]


@pytest.mark.parametrize("seal", [None, KEY])
async def test_revocations_are_sealed_as_the_store_seals_its_sessions(
    site_of: Callable[..., Site], clock: Clock, seal: str | None
) -> None:
    store = MemoryStore()
    revocations = StoreBackend(store, encrypt_with=seal, clock=clock)
    site = site_of(backend=CookieBackend(KEY, revocations=revocations, clock=clock))
    await site.visit(sign_in("the-name-of-ann"))
    [entry] = [store.peek(key, int(clock())) for key in store.all_keys()]
    assert entry is not None
    assert (b"the-name-of-ann" in entry.value) is (seal is None)


async def test_the_store_of_revocations_lives_as_long_as_the_application(clock: Clock) -> None:
    log: list[str] = []

    class Opened(StoreBackend):
        @asynccontextmanager
        async def lifespan(self) -> AsyncIterator[None]:
            log.append("opened")
            yield
            log.append("closed")

    async with CookieBackend(KEY, revocations=Opened(MemoryStore(), clock=clock)).lifespan():
        log.append("served")
    assert log == ["opened", "served", "closed"]


# Ending all of them while somebody signs in


@pytest.mark.requirement("ASVS 7.4.2")
@pytest.mark.guarantee(21)
async def test_a_sign_in_that_is_under_way_is_ended_with_all_the_others(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site = site_of(backend=listing)
    browser = Browser()

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        await UserSessions(listing).revoke_all("ann")

    reply = await site.visit(act, browser)
    assert [cookie for cookie in reply.set_cookies if "Max-Age=0" not in cookie] == []
    assert await UserSessions(listing).list("ann") == []
    assert await user_of(site, browser) is None


async def test_whoever_is_stored_between_the_two_looks_is_ended_too(clock: Clock, site_of: Callable[..., Site]) -> None:
    """The list is read, nothing is stored yet; then it is stored and still listed; then the list is changed."""
    inside: list[Any] = []

    class Interrupted(MemoryStore):
        async def delete(self, key: str, expect: Any, now: int) -> bool:
            while inside:
                await inside.pop()()
            return await super().delete(key, expect, now)

    store = Interrupted()
    backend = StoreBackend(store, clock=clock)
    site, browser = site_of(backend=backend), Browser()

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")

        async def save() -> None:
            await session.persist()

        inside.append(save)  # in the middle of end_all, before the list is changed
        await UserSessions(backend).revoke_all("ann")

    await site.visit(act, browser)
    assert await UserSessions(backend).list("ann") == []
    assert await user_of(site, browser) is None


async def test_a_list_that_others_change_without_end_is_an_error_and_not_a_loop(clock: Clock) -> None:
    class Contended(MemoryStore):
        tries = 0

        async def put(self, key: str, value: bytes, expires_at: int, expect: Any, now: int) -> Any:
            if key == index_key("ann"):
                self.tries += 1
                raise Refused(self.peek(key, now))
            return await super().put(key, value, expires_at, expect, now)

    store = Contended()
    session = Session(StoreBackend(store, clock=clock))
    await session.load()
    with pytest.raises(BackendUnavailable, match="too often"):
        await users.sign_in(session, "ann")
    assert store.tries == MAX_TRIES


# How many


@pytest.mark.requirement("ASVS 7.1.2")
async def test_one_session_too_many_ends_the_oldest(site_of: Callable[..., Site], listing: SessionBackend) -> None:
    """ASVS 7.1.2."""
    site = site_of(backend=listing, max_sessions_per_user=2)
    browsers = [await signed_in(site) for _ in range(4)]
    await signed_in(site, "bob")
    assert [await user_of(site, browser) for browser in browsers] == [None, None, "ann", "ann"]
    assert len(await UserSessions(listing).list("ann")) == 2


@pytest.mark.requirement("ASVS 7.1.2")
async def test_one_session_too_many_is_refused_if_that_is_asked_for(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=listing, max_sessions_per_user=1, on_too_many="refuse")
    first = await signed_in(site)
    with pytest.raises(TooManySessions):
        await signed_in(site)
    assert await user_of(site, first) == "ann"
    await site.visit(sign_in(), first)  # again, on the same device: that is not one more
    clock.advance(PENDING)
    await site.visit(users.sign_out, first)
    await signed_in(site)


@pytest.mark.guarantee(21)
async def test_who_signs_in_and_out_again_and_again_is_one_at_a_time(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    """Also within the time in which a session that is listed may not be stored yet."""
    site = site_of(backend=listing, max_sessions_per_user=1, on_too_many="refuse")

    async def back_and_forth(session: Session) -> None:
        for user in ("ann", "ann", "bob", "ann"):
            await users.sign_in(session, user)
        await session.delete()
        await users.sign_in(session, "ann")

    for act in (sign_in(), users.sign_out, sign_in(), Session.delete, back_and_forth, sign_in()):
        await site.visit(act)
    assert await user_of(site, site.browser) == "ann"
    assert len(await UserSessions(listing).list("ann")) == 1


async def test_who_is_refused_keeps_what_the_anonymous_session_held(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site = site_of(backend=listing, max_sessions_per_user=1, on_too_many="refuse")
    await signed_in(site)
    await site.visit(lambda session: session.update(n=1))

    async def refused(session: Session) -> None:
        with pytest.raises(TooManySessions):
            await users.sign_in(session, "ann", keep_data=False)

    await site.visit(refused)
    assert await site.data() == {"n": 1}


@pytest.mark.guarantee(21)
async def test_parallel_sign_ins_are_never_more_than_allowed(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site = site_of(backend=listing, max_sessions_per_user=3)
    browsers = [Browser() for _ in range(8)]

    def nested(n: int) -> Callable[[Session], Any]:
        async def act(session: Session) -> None:
            await session.load()
            if n + 1 < len(browsers):
                other = site_of(backend=listing, max_sessions_per_user=3)
                await other.visit(nested(n + 1), browsers[n + 1])
            await users.sign_in(session, "ann")

        return act

    await site.visit(nested(0), browsers[0])
    assert len(await UserSessions(listing).list("ann")) == 3
    alive = [await user_of(site, browser) for browser in browsers]
    assert alive.count("ann") == 3


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"max_sessions_per_user": 0}, "1 or more"),
        ({"max_sessions_per_user": True}, "1 or more"),
        ({"max_sessions_per_user": "3"}, "1 or more"),
        ({"on_too_many": "ask"}, "on_too_many"),
        ({"remember_for": 0}, "remember_for"),
        ({"limits": AAL1, "max_age": 60}, "leave these out"),
        ({"limits": AAL1, "rolling": True}, "leave these out"),
    ],
)
def test_a_rule_that_cannot_be_kept_is_refused(
    site_of: Callable[..., Site], settings: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=complaint):
        site_of(backend=InMemoryBackend(), **settings)


def test_a_limit_without_a_list_is_refused(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    if getattr(backend, "user_index", None) is None:
        with pytest.raises(ImproperlyConfigured, match="whose sessions there are"):
            site_of(backend=backend, max_sessions_per_user=2)


# Limits of the standards


@pytest.mark.requirement("ASVS 7.1.1", "NIST 5.1(5)", "NIST 5.2")
@pytest.mark.guarantee(21)
@pytest.mark.parametrize("limits", [AAL1, AAL2, AAL3, Limits(idle=100, overall=1000)])
@pytest.mark.parametrize("remember", [False, True])
async def test_the_limits_of_the_standards_are_kept(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock, limits: Limits, remember: bool
) -> None:
    """NIST SP 800-63B-4, 2.1.3, 2.2.3 and 2.3.3."""
    site = site_of(backend=store_backend, limits=limits)
    idle = await signed_in(site, remember=remember)
    clock.advance(limits.idle)
    assert await user_of(site, idle) is None

    used = await signed_in(site, remember=remember)
    step, passed = limits.idle // 2, 0
    while passed + step < limits.overall:
        clock.advance(step)
        passed += step
        reply = await site.visit(who, used)
        assert reply.result == "ann"
    clock.advance(limits.overall - passed)
    user, why = (await site.visit(lambda session: (users.get_user_id(session), get_miss_reason(session)), used)).result
    assert user is None
    assert why in (MissReason.OVER_ABSOLUTE, MissReason.UNKNOWN)  # a store may have forgotten it


# What lasts longer than a request


async def test_revalidate_takes_over_what_others_changed_and_keeps_what_is_not_saved(
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


async def test_revalidate_says_when_the_session_has_ended(
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


async def test_there_is_nothing_to_revalidate_without_a_session(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    assert (await site_of(backend=backend).visit(watch.revalidate)).result is False


class Ticks:
    """A sleep that ends when the test says so."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._send, self._receive = anyio.create_memory_object_stream[None](100)

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        await self._receive.receive()

    async def tick(self) -> None:
        await self._send.send(None)
        await anyio.wait_all_tasks_blocked()

    def close(self) -> None:
        self._send.close()
        self._receive.close()


@pytest.mark.guarantee(21)
async def test_what_is_watched_is_cancelled_when_the_session_has_ended(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site = site_of(backend=listing)
    await site.visit(sign_in())
    ticks = Ticks()
    log: list[str] = []

    async def act(session: Session) -> None:
        await session.load()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(revoke)
            async with watch.move_on_when_ended(session, check_every=7, sleep=ticks) as scope:
                log.append("open")
                await anyio.sleep_forever()
            log.append(f"ended: {scope.cancelled_caught}")

    async def revoke() -> None:
        await anyio.wait_all_tasks_blocked()
        await ticks.tick()
        assert log == ["open"]
        await UserSessions(listing).revoke_all("ann")
        await ticks.tick()

    await site.visit(act)
    assert log == ["open", "ended: True"]
    assert ticks.asked == [7, 7]
    ticks.close()


async def test_what_ends_by_itself_is_not_said_to_have_been_ended(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    site, ticks = site_of(backend=store_backend), Ticks()
    await site.visit(sign_in())

    async def act(session: Session) -> bool:
        async with watch.move_on_when_ended(session, sleep=ticks) as scope:
            pass
        return scope.cancelled_caught

    assert (await site.visit(act)).result is False
    ticks.close()


async def test_what_is_raised_in_what_is_watched_comes_out_as_it_is(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    """A `WebSocketDisconnect` is to be caught outside of the block, too."""
    site, ticks = site_of(backend=store_backend), Ticks()
    await site.visit(sign_in())

    async def act(session: Session) -> None:
        async with watch.move_on_when_ended(session, sleep=ticks):
            raise LookupError("of the application")

    with pytest.raises(LookupError, match="of the application"):
        await site.visit(act)
    ticks.close()


async def test_a_conflict_that_is_to_be_an_error_is_one_when_it_is_saved_and_not_when_it_is_looked_at(
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
            async with watch.move_on_when_ended(session, sleep=ticks) as scope:
                await anyio.sleep_forever()
            log.append(f"ended: {scope.cancelled_caught}")

    async def look() -> None:
        await anyio.wait_all_tasks_blocked()
        await ticks.tick()
        assert log == []
        await UserSessions(store_backend).revoke_all("ann")
        await ticks.tick()

    await site.visit(act)
    assert log == ["ended: True"]
    ticks.close()


async def test_a_store_that_fails_for_long_ends_what_nobody_can_vouch_for(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    class Failing(MemoryStore):
        fails = 0

        async def get(self, key: str, now: int) -> Any:
            if self.fails:
                self.fails -= 1
                raise BackendUnavailable("The store failed: ConnectionError.")
            return await super().get(key, now)

    store, ticks = Failing(), Ticks()
    site = site_of(backend=StoreBackend(store, clock=clock))
    await site.visit(sign_in())

    async def act(session: Session) -> bool:
        await session.load()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fail)
            async with watch.move_on_when_ended(session, sleep=ticks) as scope:
                await anyio.sleep_forever()
        return scope.cancelled_caught

    async def fail() -> None:
        await anyio.wait_all_tasks_blocked()
        store.fails = MAX_FAILURES - 1
        for _ in range(MAX_FAILURES):
            await ticks.tick()
        store.fails = 100
        for _ in range(MAX_FAILURES):
            await ticks.tick()
        store.fails = 0

    assert (await site.visit(act)).result is True
    ticks.close()
