"""The sessions of a user: the list of devices, ending them, and how many there may be."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal

import pytest
from markupsafe import Markup
from sqlalchemy.sql.elements import quoted_name

from starsessions import (
    CookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    Session,
    SessionBackend,
    SessionGone,
    TooManySessions,
    set_expiry,
    users,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import COUNTS_FOR
from starsessions.stores.base import Write
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSession, UserSessions
from tests.kinds import each_backend, each_store_backend
from tests.rows import rows
from tests.shell.people import Recorded, each_listing, sign_in, signed_in, user_of
from tests.site import KEY, Browser, Clock, Site

pytestmark = pytest.mark.anyio


class Name(StrEnum):
    ANN = "ann"


# The list


@pytest.mark.requirement("ASVS 7.5.2")
@pytest.mark.guarantee(21)
@each_listing
async def test_the_list_shows_recognisable_devices_and_no_ids_or_keys(
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


@each_listing
@rows("ann", [Markup("ann"), Name.ANN, quoted_name("ann", quote=True)], ids=repr)
async def test_a_user_id_of_a_subclass_is_the_id_as_text(
    site_of: Callable[..., Site], listing: SessionBackend, ann: str
) -> None:
    site = site_of(backend=listing)
    browser = await signed_in(site, ann, method=ann)

    assert type(await user_of(site, browser)) is str
    assert [one.method for one in await UserSessions(listing).list(ann)] == ["ann"]
    assert await UserSessions(listing).revoke_all("ann") == 1


async def test_the_device_is_named_by_the_user_agent_header_wherever_it_is(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    backend = InMemoryBackend(clock=clock)
    site = site_of(backend=backend)
    agent = (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")
    other = (b"accept", b"Mozilla/5.0 (Windows NT 10.0) Chrome/140.0 Safari/537.36")
    for headers, device in (([agent, other], "Firefox on Linux"), ([other, agent], "Firefox on Linux"), ([other], "")):
        clock.advance(1)
        await site.visit(sign_in(), Browser(), headers=headers)
        newest, *_ = await UserSessions(backend).list("ann")
        assert newest.agent == device


@each_listing
async def test_the_list_is_of_one_user_only(site_of: Callable[..., Site], listing: SessionBackend) -> None:
    site = site_of(backend=listing)
    for user in ("ann", "bob", "ann", "Ann"):
        await signed_in(site, user)
    sessions = UserSessions(listing)
    assert [len(await sessions.list(user)) for user in ("ann", "bob", "Ann", "eve")] == [2, 1, 1, 0]


@pytest.mark.requirement("ASVS 7.5.2")
@pytest.mark.guarantee(21)
@each_listing
async def test_one_session_is_ended_by_its_handle_and_no_other(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site, sessions = site_of(backend=listing), UserSessions(listing)
    first = await signed_in(site)
    clock.advance(1)
    second, other = await signed_in(site), await signed_in(site, "bob")
    newest, oldest = await sessions.list("ann")
    assert await sessions.revoke("bob", oldest.handle) is False
    assert await sessions.revoke("ann", "made up") is False
    assert await sessions.revoke("ann", oldest.handle) is True
    assert await sessions.revoke("ann", oldest.handle) is False
    assert [await user_of(site, browser) for browser in (first, second, other)] == [None, "ann", "bob"]
    assert [one.handle for one in await sessions.list("ann")] == [newest.handle]


@pytest.mark.requirement("ASVS 7.4.3")
@pytest.mark.guarantee(21)
@each_listing
async def test_all_other_sessions_are_revoked_and_the_current_one_gets_a_new_id(
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


@each_listing
@rows("late", ["rotates", "renews", "writes", "signs in"])
async def test_a_session_that_was_ended_stays_ended_whatever_a_slow_request_does(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock, late: str
) -> None:
    """A signed or encrypted cookie is valid while it is listed: a late request must not put itself back on it."""
    site = site_of(backend=listing, max_age=1000, absolute_timeout=29 * 86400)
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
        assert len(await UserSessions(listing).list("ann")) == 1  # a new sign-in with the password
    else:
        assert await user_of(site, browser) is None
        assert await UserSessions(listing).list("ann") == []
    assert await user_of(site, old) is None


@pytest.mark.requirement("ASVS 7.4.2", "ASVS 7.4.5")
@each_listing
async def test_all_sessions_of_a_user_are_ended(site_of: Callable[..., Site], listing: SessionBackend) -> None:
    site = site_of(backend=listing)
    browsers = [await signed_in(site) for _ in range(3)]
    assert await UserSessions(listing).revoke_all("ann") == 3
    assert [await user_of(site, browser) for browser in browsers] == [None] * 3
    assert await UserSessions(listing).revoke_all("ann") == 0


@each_listing
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


@each_listing
async def test_the_newest_sign_in_is_first_on_the_list_despite_later_rotations(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site, sessions = site_of(backend=listing), UserSessions(listing)
    first = await signed_in(site, method="first")
    clock.advance(10)
    await signed_in(site, method="second")
    clock.advance(10)
    await site.visit(Session.regenerate_id, first)
    assert [one.method for one in await sessions.list("ann")] == ["second", "first"]


@each_listing
async def test_a_session_that_is_used_for_ever_stays_on_the_list(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=listing, max_age=1000, absolute_timeout=29 * 86400, rolling=True)
    await site.visit(sign_in())
    for n in range(50):
        clock.advance(900)
        await site.visit(lambda session, n=n: session.update(n=n))
    assert len(await UserSessions(listing).list("ann")) == 1


@pytest.mark.guarantee(21)
@each_listing
async def test_the_list_drops_expired_sessions_and_holds_only_valid_ones(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=listing, max_age=1000, absolute_timeout=29 * 86400)
    for _ in range(5):
        await signed_in(site)
        clock.advance(2100)
        assert await UserSessions(listing).list("ann") == []
    await signed_in(site)
    assert len(await UserSessions(listing).list("ann")) == 1


@each_store_backend
async def test_a_sign_in_that_is_never_saved_is_dropped_from_the_list(
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
    clock.advance(COUNTS_FOR)
    await signed_in(site)
    assert len(await UserSessions(store_backend).list("ann")) == 1


@each_listing
async def test_anonymous_sessions_are_not_listed(site_of: Callable[..., Site], listing: SessionBackend) -> None:
    site = site_of(backend=listing)
    await site.visit(lambda session: session.update(n=1))
    await site.visit(Session.regenerate_id)
    assert await site.data() == {"n": 1}
    await site.visit(Session.flush)
    assert await site.data() == {}


@pytest.mark.guarantee(21)
@each_listing
async def test_a_failed_sign_in_leaves_the_previous_session_on_the_list(
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
    clock.advance(COUNTS_FOR)
    assert [one.handle for one in await sessions.list("ann")] == [handle]
    await sessions.revoke_all("ann")
    assert await user_of(site, site.browser) is None


@each_listing
async def test_the_newest_sign_in_is_the_first_and_a_session_keeps_its_name_when_it_is_rotated(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site, sessions = site_of(backend=listing, max_age=1000, absolute_timeout=29 * 86400), UserSessions(listing)
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


async def test_sessions_that_a_shorter_timeout_has_ended_are_not_listed_or_counted(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    """The store still has them: they were saved before the release that shortened it."""
    store = MemoryStore()
    await site_of(backend=StoreBackend(store, clock=clock)).visit(sign_in())
    clock.advance(101)
    backend = StoreBackend(store, clock=clock)
    site_of(backend=backend, absolute_timeout=100)
    assert await UserSessions(backend).list("ann") == []
    assert await UserSessions(backend).revoke_all("ann") == 0


@rows("seal", [False, KEY])
async def test_revocations_are_encrypted_if_the_stores_sessions_are(
    site_of: Callable[..., Site], clock: Clock, seal: str | Literal[False]
) -> None:
    store = MemoryStore()
    revocations = StoreBackend(store, encrypt_with=seal, clock=clock)
    site = site_of(backend=CookieBackend(KEY, revocations=revocations, clock=clock))
    await site.visit(sign_in("the-name-of-ann"))
    [entry] = [store.peek(key, int(clock())) for key in store.all_keys()]
    assert entry is not None
    assert (b"the-name-of-ann" in entry.value) is (seal is False)


async def test_the_store_of_revocations_starts_and_stops_with_the_application(clock: Clock) -> None:
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


# Ending all of them during a sign-in


@pytest.mark.requirement("ASVS 7.4.2")
@pytest.mark.guarantee(21)
@each_listing
async def test_a_sign_in_in_progress_is_revoked_with_all_others(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site = site_of(backend=listing)
    browser = Browser()

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        await UserSessions(listing).revoke_all("ann")

    with pytest.raises(SessionGone):
        await site.visit(act, browser)
    assert await UserSessions(listing).list("ann") == []
    assert await user_of(site, browser) is None


async def test_a_sign_in_that_was_ended_before_it_was_stored_leaves_nothing_in_the_store(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    store = MemoryStore()
    backend = StoreBackend(store, clock=clock)

    async def act(session: Session) -> None:
        session["private"] = 1
        await users.sign_in(session, "ann")
        [listed] = store.all_keys()
        await UserSessions(backend).revoke_all("ann")
        assert listed not in store.all_keys()

    with pytest.raises(SessionGone):
        await site_of(backend=backend).visit(act)
    [epoch] = [store.peek(key, int(clock())) for key in store.all_keys()]
    assert epoch is not None
    assert len(epoch.value) == 8


@rows("before", ["get", "create", "list", "delete"])
async def test_a_session_that_is_saved_while_all_are_ended_is_ended_or_refused(
    clock: Clock, site_of: Callable[..., Site], before: str
) -> None:
    """At the latest, its save finds that the user has another epoch."""
    inside: list[Any] = []

    class Interrupted(Recorded):
        async def list_owned(self, name: str, **how: Any) -> Any:
            await self._interrupt("list")
            return await super().list_owned(name, **how)

        async def get(self, key: str, *, now: int) -> Any:
            await self._interrupt("get")
            return await super().get(key, now=now)

        async def create(self, key: str, value: bytes, **how: Any) -> Any:
            await self._interrupt("create")
            return await super().create(key, value, **how)

        async def delete(self, key: str, version: Any = None, *, now: int) -> bool:
            await self._interrupt("delete")
            return await super().delete(key, version, now=now)

        async def write_together(self, writes: Sequence[Write], **how: Any) -> Any:
            await self._interrupt("delete")
            return await super().write_together(writes, **how)

        async def _interrupt(self, verb: str) -> None:
            while inside and verb == before:
                await inside.pop()()

    store = Interrupted()
    backend = StoreBackend(store, clock=clock)
    site, browser = site_of(backend=backend), Browser()

    async def act(session: Session) -> None:
        await users.sign_in(session, "ann")
        inside.append(session.persist)
        with suppress(SessionGone):
            await UserSessions(backend).revoke_all("ann")
        assert not inside

    await site.visit(act, browser)
    assert await UserSessions(backend).list("ann") == []
    assert await user_of(site, browser) is None


# How many


@pytest.mark.requirement("ASVS 7.1.2")
@each_listing
async def test_one_session_too_many_ends_the_oldest(site_of: Callable[..., Site], listing: SessionBackend) -> None:
    """ASVS 7.1.2."""
    site = site_of(backend=listing, max_sessions_per_user=2)
    browsers = [await signed_in(site) for _ in range(4)]
    await signed_in(site, "bob")
    assert [await user_of(site, browser) for browser in browsers] == [None, None, "ann", "ann"]
    assert len(await UserSessions(listing).list("ann")) == 2


@each_listing
async def test_who_was_signed_in_as_another_user_is_one_more_session_of_this_one(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site = site_of(backend=listing, max_sessions_per_user=1)
    first, other = await signed_in(site), await signed_in(site, "bob")
    await site.visit(sign_in("ann"), other)
    assert [await user_of(site, browser) for browser in (first, other)] == [None, "ann"]


@pytest.mark.requirement("ASVS 7.1.2")
@each_listing
async def test_one_session_too_many_is_refused_if_that_is_asked_for(
    site_of: Callable[..., Site], listing: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=listing, max_sessions_per_user=1, on_too_many="refuse")
    first = await signed_in(site)
    with pytest.raises(TooManySessions):
        await signed_in(site)
    assert await user_of(site, first) == "ann"
    await site.visit(sign_in(), first)  # again, on the same device: that is not one more
    clock.advance(COUNTS_FOR)
    await site.visit(users.sign_out, first)
    await signed_in(site)


@pytest.mark.guarantee(21)
@each_listing
async def test_repeated_sign_ins_and_sign_outs_count_as_one_session(
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


@each_listing
async def test_a_rejected_sign_in_keeps_the_data_of_the_anonymous_session(
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
@each_listing
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


@rows(
    ("settings", "complaint"),
    [
        ({"max_sessions_per_user": 0}, "1 or more"),
        ({"max_sessions_per_user": True}, "1 or more"),
        ({"max_sessions_per_user": "3"}, "1 or more"),
        ({"on_too_many": "ask"}, "on_too_many"),
    ],
)
def test_an_invalid_limit_is_rejected(site_of: Callable[..., Site], settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=complaint):
        site_of(backend=InMemoryBackend(), **settings)


@each_backend
def test_a_limit_without_a_list_is_refused(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    if getattr(backend, "user_index", None) is None:
        with pytest.raises(ImproperlyConfigured, match="lists each user"):
            site_of(backend=backend, max_sessions_per_user=2)


@each_listing
async def test_a_visitor_who_is_not_signed_in_ends_no_other_sessions(
    site_of: Callable[..., Site], listing: SessionBackend
) -> None:
    site = site_of(backend=listing)
    await site.visit(sign_in())
    reply = await site.visit(lambda session: UserSessions(listing).revoke_others(session), Browser())
    assert reply.result == 0
    assert await user_of(site, site.browser) == "ann"
