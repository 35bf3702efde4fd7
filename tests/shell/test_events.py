"""`on_event`: told after the response, with a handle and never an id, and unable to break a request."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    EncryptedCookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    MissReason,
    Session,
    SessionBackend,
    update_atomically,
    users,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.events import (
    ConflictResolved,
    Created,
    Event,
    Expired,
    InvalidCookie,
    Renewed,
    Revoked,
    Rotated,
    RotatedIdReused,
    SignedIn,
    SignedOut,
    StoreFailed,
    UnknownId,
)
from starsessions.reporting import handle_for
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from tests.kinds import each_backend, each_store_backend
from tests.rows import rows
from tests.shell.people import sign_in, signed_in
from tests.shell.test_websocket import connect
from tests.site import KEY, Browser, Clock, Site

pytestmark = pytest.mark.anyio


async def reuse_a_rotated_id(site: Site, clock: Clock) -> Browser:
    """A cookie that was copied before the id was rotated, and is used after the grace."""
    await site.visit(lambda session: session.update(user="ann"))
    thief = Browser(dict(site.browser.cookies))
    await site.visit(lambda session: session.regenerate_id(grace=30))
    clock.advance(30)
    await site.visit(Session.load, thief)
    return thief


@pytest.mark.requirement("NIST 5.3")
@pytest.mark.guarantee(16)
@each_store_backend
@rows("waits", [False, True])
async def test_reuse_of_a_rotated_id_is_reported_with_its_handle(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock, waits: bool
) -> None:
    heard: list[Event] = []

    async def hear(event: Event) -> None:
        heard.append(event)

    site = site_of(backend=store_backend, on_event=hear if waits else heard.append)
    thief = await reuse_a_rotated_id(site, clock)
    await site.visit(Session.load, thief)

    created, rotated, *heard = heard
    assert isinstance(created, Created)
    assert isinstance(rotated, Rotated)
    assert len(heard) == 2
    assert rotated.before == heard[0].handle  # type: ignore[union-attr]
    assert heard[0] == heard[1]
    assert isinstance(heard[0], RotatedIdReused)
    [session_id] = thief.cookies.values()
    assert len(heard[0].handle) == 16
    assert heard[0].handle not in session_id
    assert session_id not in repr(heard[0])


@each_store_backend
async def test_within_the_grace_there_is_nothing_to_report(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    heard: list[Event] = []
    site = site_of(backend=store_backend, on_event=heard.append)
    await site.visit(lambda session: session.update(user="ann"))
    old = Browser(dict(site.browser.cookies))
    await site.visit(lambda session: session.regenerate_id(grace=30))
    heard.clear()
    await site.visit(Session.load, old)
    assert heard == []


@each_store_backend
async def test_reuse_of_a_rotated_id_is_logged_without_on_event(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    site = site_of(backend=store_backend)
    thief = await reuse_a_rotated_id(site, clock)
    for _ in range(3):  # as often as they like: they must not fill the log
        await site.visit(Session.load, Browser(dict(thief.cookies)))
    assert caplog.text.count("was replaced by a newer one") == 1
    assert thief.cookies["session"] not in caplog.text


@pytest.mark.guarantee(16, 24)
@each_store_backend
async def test_an_error_in_on_event_is_logged_and_fails_no_request(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(event: Event) -> None:
        raise LookupError("a mistake of the application's")

    await reuse_a_rotated_id(site_of(backend=store_backend, on_event=fails), clock)
    assert "on_event raised an exception" in caplog.text


@each_store_backend
async def test_it_is_told_of_a_request_that_fails_and_of_a_websocket_too(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    heard: list[Event] = []
    site = site_of(backend=store_backend, on_event=heard.append)
    thief = await reuse_a_rotated_id(site, clock)

    def fails(session: Session) -> None:
        assert not session
        raise LookupError

    with pytest.raises(LookupError):
        await site.visit(fails, thief)

    async def handler(session: Session, send: Any) -> None:
        await session.load()
        await send({"type": "websocket.close"})

    site.browser = thief
    await connect(site, handler)
    assert [type(event) for event in heard] == [Created, Rotated, RotatedIdReused, RotatedIdReused, RotatedIdReused]


def test_an_on_event_that_is_not_callable_is_rejected(site_of: Callable[..., Site]) -> None:
    with pytest.raises(ImproperlyConfigured, match="on_event"):
        site_of(on_event="log")


# The life of a session


def cookie_of(site: Site) -> str:
    [value] = site.browser.cookies.values()
    return value


@pytest.mark.requirement("NIST 5.3")
@pytest.mark.guarantee(24)
@each_backend
async def test_the_events_of_a_session_carry_its_handle(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    heard: list[Event] = []
    site = site_of(backend=backend, on_event=heard.append)

    await site.visit(lambda session: session.update(n=1))
    anonymous = handle_for(cookie_of(site))
    assert heard == [Created(anonymous)]
    await site.visit(lambda session: session.update(n=2))
    changed = handle_for(cookie_of(site))
    await site.visit(sign_in("ann", method="passkey"))
    handle = (await site.visit(users.get_handle)).result
    assert heard[1:] == [Renewed(changed), Rotated(handle, changed), SignedIn(handle, "ann", "passkey")]
    await site.visit(lambda session: session.update(n=3))
    before = handle_for(cookie_of(site))
    await site.visit(sign_in("ann"))
    again = (await site.visit(users.get_handle)).result
    assert heard[4:] == [Renewed(handle), Rotated(again, before), SignedIn(again, "ann", "")]
    await site.visit(users.sign_out)
    assert heard[7:] == [SignedOut(again, "ann")]


@pytest.mark.guarantee(24)
@each_backend
async def test_a_request_that_only_reads_sends_no_event(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    heard: list[Event] = []
    site = site_of(backend=backend, on_event=heard.append)
    await site.visit(Session.load)
    await site.visit(lambda session: session.update(n=1))
    heard.clear()
    await site.visit(lambda session: session["n"])
    await site.visit()
    assert heard == []


@each_backend
async def test_deleting_an_anonymous_session_is_no_sign_out(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    heard: list[Event] = []
    site = site_of(backend=backend, on_event=heard.append)
    await site.visit(lambda session: session.update(n=1))
    await site.visit(Session.delete)
    assert [type(event) for event in heard] == [Created]


@pytest.mark.guarantee(24)
@each_store_backend
async def test_a_revocation_is_reported_by_the_request_that_revokes(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    heard: list[Event] = []
    revoked: list[Event] = []
    site = site_of(backend=store_backend, on_event=heard.append, max_sessions_per_user=2)
    for _ in range(3):
        await signed_in(site)
    signed = [event.handle for event in heard if isinstance(event, SignedIn)]
    assert [event for event in heard if isinstance(event, Revoked)] == [Revoked(signed[0], "ann")]

    sessions = UserSessions(store_backend, on_event=revoked.append)
    assert await sessions.revoke("ann", "made up") is False
    assert revoked == []
    assert await sessions.revoke("ann", signed[1]) is True
    assert await sessions.revoke_all("ann") == 1
    assert revoked == [Revoked(signed[1], "ann"), Revoked(signed[2], "ann")]


@each_store_backend
async def test_the_events_of_a_sign_in_and_of_its_end_describe_the_device(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    heard: list[Event] = []
    site = site_of(backend=store_backend, on_event=heard.append, max_sessions_per_user=1)
    sessions = UserSessions(store_backend, on_event=heard.append)
    device = {"client": ("203.0.113.77", 1), "headers": [(b"user-agent", b"curl/8")]}
    for _ in range(3):  # each signs out the one before
        await site.visit(sign_in("ann"), Browser(), **device)
    await sessions.revoke_all("ann")
    browser = Browser()
    await site.visit(sign_in("ann"), browser, **device)
    await site.visit(users.sign_out, browser)
    told = [event for event in heard if isinstance(event, SignedIn | SignedOut | Revoked)]
    assert [type(event) for event in told].count(Revoked) == 3
    assert {(event.agent, event.address) for event in told} == {("curl", "203.0.113.0/24")}


@pytest.mark.guarantee(24)
@each_store_backend
@rows("atomically", [False, True])
async def test_a_resolved_conflict_is_reported(
    site_of: Callable[..., Site], store_backend: SessionBackend, atomically: bool
) -> None:
    heard: list[Event] = []
    site = site_of(backend=store_backend, on_event=heard.append)
    elsewhere = site_of(backend=store_backend)
    await site.visit(lambda session: session.update(n=1))
    heard.clear()

    async def act(session: Session) -> None:
        await session.load()
        await elsewhere.visit(lambda other: other.update(theirs=1), site.browser)
        if atomically:
            await update_atomically(session, lambda data: data.update(mine=1))
        else:
            session["mine"] = 1

    await site.visit(act)
    handle = handle_for(cookie_of(site))
    assert heard == [ConflictResolved(handle), Renewed(handle)]


# What a browser brings


@pytest.mark.guarantee(24)
async def test_an_invalid_cookie_is_reported_with_its_reason(site_of: Callable[..., Site], clock: Clock) -> None:
    heard: list[Event] = []

    async def bring(backend: SessionBackend, cookie: str) -> Event:
        heard.clear()
        await site_of(backend=backend, on_event=heard.append).visit(Session.load, Browser({"session": cookie}))
        [event] = heard
        return event

    stored, sealed = InMemoryBackend(clock=clock), EncryptedCookieBackend(KEY, clock=clock)
    made_up = "made-up"
    assert await bring(stored, made_up) == UnknownId(handle_for(made_up))
    assert await bring(stored, "no/id") == InvalidCookie(None, MissReason.MALFORMED)
    site = site_of(backend=CookieBackend(KEY[::-1], clock=clock))  # with another key
    await site.visit(lambda session: session.update(n=1))
    cookie = cookie_of(site)
    assert await bring(CookieBackend(KEY, clock=clock), cookie) == InvalidCookie(
        handle_for(cookie), MissReason.BAD_SIGNATURE
    )
    await stored.store.create("garbage", b"garbage", expires_at=int(clock()) + 100, now=int(clock()))
    assert await bring(stored, "garbage") == InvalidCookie(handle_for("garbage"), MissReason.UNDECODABLE)
    site = site_of(backend=sealed)
    await site.visit(lambda session: session.update(n=1))
    clock.advance(14 * 86400)
    assert await bring(sealed, cookie_of(site)) == Expired(handle_for(cookie_of(site)), MissReason.EXPIRED)
    site = site_of(backend=sealed, absolute_timeout=100)
    await site.visit(lambda session: session.update(n=1))
    clock.advance(100)
    heard.clear()
    await site_of(backend=sealed, absolute_timeout=100, on_event=heard.append).visit(Session.load, site.browser)
    assert heard == [Expired(handle_for(cookie_of(site)), MissReason.OVER_ABSOLUTE)]


async def test_undecodable_data_is_reported(site_of: Callable[..., Site], clock: Clock) -> None:
    heard: list[Event] = []
    backend = InMemoryBackend(clock=clock)
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(n=1))

    class Broken(type(backend.serializer)):  # type: ignore[misc]
        def loads(self, payload: bytes) -> dict[str, Any]:
            raise ValueError

    backend.serializer = Broken()
    await site_of(backend=backend, on_event=heard.append).visit(Session.load, site.browser)
    assert heard == [InvalidCookie(handle_for(cookie_of(site)), MissReason.UNDECODABLE)]


class Failing(MemoryStore):
    async def get(self, key: str, *, now: int) -> Any:
        raise BackendUnavailable("The store failed: ConnectionError.")


@pytest.mark.guarantee(24)
@rows("on_unavailable", ["error", "anonymous"])
async def test_a_failing_store_is_reported(site_of: Callable[..., Site], clock: Clock, on_unavailable: str) -> None:
    heard: list[Event] = []
    backend = StoreBackend(Failing(), clock=clock)
    site = site_of(backend=backend, on_event=heard.append, on_unavailable=on_unavailable)
    await site.visit(Session.load, Browser({"session": "an-id"}))
    assert heard == [StoreFailed("The store failed: ConnectionError.")]

    async def handler(session: Session, send: Any) -> None:
        await session.load()
        await send({"type": "websocket.close"})

    site.browser = Browser({"session": "an-id"})
    await connect(site, handler)
    assert len(heard) == 2


@each_store_backend
async def test_a_save_at_the_end_of_a_websocket_is_reported(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    heard: list[Event] = []
    site = site_of(backend=store_backend, on_event=heard.append)
    await site.visit(lambda session: session.update(n=1))
    heard.clear()

    async def handler(session: Session, send: Any) -> None:
        await session.load()
        await send({"type": "websocket.accept"})
        session["n"] = 2

    await connect(site, handler)
    assert heard == [Renewed(handle_for(cookie_of(site)))]


@pytest.mark.guarantee(24)
@each_backend
async def test_without_on_event_no_events_are_recorded(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)

    async def act(session: Session) -> Session:
        await users.sign_in(session, "ann")
        await session.persist()
        await users.sign_out(session)
        return session

    assert (await site.visit(act)).result.__starsessions__.events == ()


@pytest.mark.guarantee(24)
def test_an_event_is_a_value() -> None:
    event = SignedIn("a-handle", "ann", "password")
    assert event == SignedIn(handle="a-handle", user_id="ann", method="password")
    assert Created("a-handle") != Renewed("a-handle")
    assert len({event, SignedIn("a-handle", "ann", "password")}) == 1
    values = {"handle": "a-handle", "user_id": "ann", "method": "password", "agent": "", "address": ""}
    assert msgspec.structs.asdict(event) == values
    with pytest.raises(AttributeError):
        event.user_id = "eve"  # type: ignore[misc]
