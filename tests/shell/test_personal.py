"""What a store holds of a user: handed out, and erased so that nothing of it is left."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    Session,
    SessionBackend,
    personal,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.events import Event, Revoked
from starsessions.inventory import stats
from starsessions.personal import ErasedUser, as_json, erase_user, export_user
from starsessions.stores import MemoryStore, Page
from starsessions.stores.base import Cursor
from starsessions.testing.conformance.right_stores import Entries, Right
from starsessions.users import UserSessions
from tests.rows import rows
from tests.shell.people import each_listing, sign_in, signed_in, user_of
from tests.shell.test_sign_in_races import Watched
from tests.site import KEY, Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio

ANN, BOB = "ann@example.com/7f3e9c51", "bob@example.com/0b6d2a84"
PROVIDER = {"provider": "https://idp.example.com", "provider_session": "s-1", "provider_subject": "sub-1"}
DAY = 24 * 60 * 60


class Past:
    """A history of sign-ins in a dict."""

    def __init__(self, **entries: list[Any]) -> None:
        self.entries = {ANN: entries.pop("ann", []), **entries}

    async def export(self, user_id: str) -> AsyncIterator[Any]:
        for entry in self.entries.get(user_id, []):
            yield entry

    async def erase(self, user_id: str) -> int:
        return len(self.entries.pop(user_id, []))


class Forgetful(MemoryStore):
    """A store that has lost its listings, as a Redis that evicts does."""

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        return Page([], None)


class FourVerbs(Right):
    """It cannot scan."""

    scan = None  # type: ignore[assignment]


async def held(backend: Any) -> bytes:
    """All bytes of the store."""
    [store] = backend.stores
    entries, after = [], None
    while True:
        page = await store.scan(limit=100, now=0, after=after)
        entries += [key.encode() + entry.value for key, entry, _ in page.entries]
        after = page.after
        if after is None:
            return b"".join(entries)


def keeps(**data: Any) -> Callable[[Session], None]:
    return lambda session: session.update(data)


@pytest.mark.guarantee(29)
@each_listing
async def test_what_is_stored_of_a_user_is_exported_with_its_data(listing: SessionBackend, clock: Clock) -> None:
    site = Site(backend=listing, autoload=True, clock=clock)
    began_at = datetime.fromtimestamp(int(clock()), UTC)
    browser = await signed_in(site, ANN, method="passkey")
    await site.visit(keeps(cart=["tea"]), browser)
    await signed_in(site, BOB)
    exported = await export_user(listing, ANN, history=Past(ann=[{"what": "signed in"}]))
    [one] = exported.sessions
    [listed] = await UserSessions(listing).list(ANN)
    assert (exported.user_id, exported.history, one.handle) == (ANN, [{"what": "signed in"}], listed.handle)
    assert (one.began_at, one.signed_in_at, one.last_used_at, one.method) == (began_at, began_at, began_at, "passkey")
    assert (one.agent, one.address, one.is_live) == ("", "", True)
    assert one.expires_at > began_at
    in_cookies = isinstance(listing, CookieBackend) or "Cookie" in type(listing).__name__
    assert one.data == (None if in_cookies else {"cart": ["tea"]})
    assert (repr(exported), repr(one)) == ("<UserData>", "<StoredSession>")
    assert json.loads(json.dumps(as_json(exported)))["sessions"][0]["signed_in_at"] == began_at.isoformat()


@pytest.mark.guarantee(29)
async def test_what_has_expired_and_is_still_stored_is_exported_as_such(clock: Clock) -> None:
    backend = StoreBackend(MemoryStore(), clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock, max_age=10 * DAY)
    await signed_in(site, ANN)
    assert [one.is_live for one in (await export_user(backend, ANN)).sessions] == [True]
    Site(backend=backend, clock=clock, max_age=DAY)  # a shorter one applies to existing sessions, too
    clock.now += DAY
    assert [one.is_live for one in (await export_user(backend, ANN)).sessions] == [False]


@pytest.mark.guarantee(29)
async def test_a_session_that_an_interrupted_rotation_has_left_twice_is_exported_once(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personal, "PAGE", 1)
    backend = StoreBackend(MemoryStore(), clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    await signed_in(site, ANN)
    [bound] = backend._copies().values()
    [one] = (await bound.user_index.page(ANN, 9, 0))[0]
    assert one.record is not None
    now = int(clock())
    for key in ("~last", "!first"):  # of the listing
        await bound.user_index.create(key, one.record, now + 1, now)
    clock.now += 1  # these two have expired
    assert [found.is_live for found in (await export_user(backend, ANN)).sessions] == [True]


@pytest.mark.guarantee(29)
async def test_an_entry_that_another_key_encrypts_is_not_exported(clock: Clock) -> None:
    store = MemoryStore()
    await signed_in(Site(backend=StoreBackend(store, encrypt_with=KEY, clock=clock), clock=clock), ANN)
    other = StoreBackend(store, encrypt_with=KEY[::-1], clock=clock)
    assert (await export_user(other, ANN, session_cookie="session")).sessions == []


@pytest.mark.guarantee(29)
@pytest.mark.both_loops
@each_listing
async def test_an_erased_user_is_signed_out_and_not_in_the_store(listing: SessionBackend, clock: Clock) -> None:
    site = Site(backend=listing, autoload=True, clock=clock)
    ann, bob = await signed_in(site, ANN, **PROVIDER), await signed_in(site, BOB, **PROVIDER)
    await signed_in(site, ANN)
    await site.visit(keeps(me=ANN), ann)
    if not isinstance(listing, StoreBackend) or not listing.key_facts:
        assert ANN.encode() in await held(listing) or "Encrypted" in type(listing).__name__
    events: list[Event] = []
    pages: list[int] = []
    past = Past(ann=["signed in"], bob=["signed in"])
    erased = await erase_user(listing, ANN, history=past, on_event=events.append, on_page=pages.append)
    assert erased == ErasedUser(sessions=2, entries=2, history=1, unreadable=0)
    assert [type(event) for event in events] == [Revoked, Revoked]
    assert pages
    assert ANN.encode() not in await held(listing)
    assert past.entries == {"bob": ["signed in"]}
    assert await user_of(site, ann) is None
    assert await user_of(site, bob) == BOB
    assert await erase_user(listing, ANN) == ErasedUser(0, 0, 0, 0)
    found = await stats(listing)
    assert (found.sessions, found.others) == (1, 2)  # Bob's session and his two links; no epoch
    # Bob's provider can still sign him out.
    assert await UserSessions(listing).revoke_linked(PROVIDER["provider"], subject="sub-1") == 1


@pytest.mark.guarantee(29)
async def test_a_dry_run_counts_what_is_listed_and_changes_nothing(clock: Clock) -> None:
    store = MemoryStore()
    backend = StoreBackend(store, clock=clock)
    await signed_in(Site(backend=backend, autoload=True, clock=clock, max_age=10 * DAY), ANN, **PROVIDER)
    site = Site(backend=backend, autoload=True, clock=clock, max_age=DAY)  # applies to existing sessions, too
    clock.now += DAY
    await signed_in(site, ANN)
    await signed_in(site, BOB)
    before, past = await held(backend), Past(ann=["signed in", "signed in"])
    assert await erase_user(backend, ANN, dry_run=True) == ErasedUser(1, 1, 0, 0)
    assert await erase_user(backend, ANN, dry_run=True, history=past) == ErasedUser(1, 1, 2, 0)
    assert await held(backend) == before
    assert len(past.entries[ANN]) == 2


async def test_a_dry_run_counts_each_session_once_although_a_page_begins_with_the_end_of_the_one_before(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personal, "PAGE", 2)
    backend = StoreBackend(MemoryStore(), clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    for _ in range(5):  # within a second
        await signed_in(site, ANN)
    assert await erase_user(backend, ANN, dry_run=True) == ErasedUser(5, 0, 0, 0)


@pytest.mark.guarantee(29)
@pytest.mark.both_loops
async def test_an_erasure_that_was_interrupted_anywhere_is_completed_by_another_one(clock: Clock) -> None:
    for breaks_at in count(1):
        store = Watched()
        backend = StoreBackend(store, clock=clock)
        site = Site(backend=backend, autoload=True, clock=clock)
        visitor = Browser()
        await site.visit(keeps(me=ANN), visitor)
        await site.visit(sign_in(ANN, **PROVIDER), visitor)
        ann, bob = await signed_in(site, ANN, **PROVIDER), await signed_in(site, BOB, **PROVIDER)
        store.calls, store.breaks_at, store.how = 0, breaks_at, "call lost"
        with suppress(BackendUnavailable):
            await erase_user(backend, ANN)
        if store.calls < breaks_at:
            break
        store.how = ""
        await erase_user(backend, ANN)
        assert ANN.encode() not in await held(backend), f"after call {breaks_at}"
        assert (await user_of(site, ann), await user_of(site, bob)) == (None, BOB)
        assert await erase_user(backend, ANN) == ErasedUser(0, 0, 0, 0)
    assert breaks_at > 10


@pytest.mark.guarantee(29)
async def test_the_links_that_an_earlier_sign_out_has_left_are_erased(clock: Clock) -> None:
    backend = StoreBackend(MemoryStore(), clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    await signed_in(site, ANN, **PROVIDER)
    await UserSessions(backend).revoke_all(ANN)
    assert ANN.encode() in await held(backend)
    assert await erase_user(backend, ANN) == ErasedUser(sessions=0, entries=2, history=0, unreadable=0)
    assert await held(backend) == b""


@pytest.mark.guarantee(29)
async def test_what_the_store_has_lost_from_its_listing_is_erased(clock: Clock) -> None:
    backend = StoreBackend(Forgetful(), clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    ann = await signed_in(site, ANN)
    assert await erase_user(backend, ANN) == ErasedUser(sessions=0, entries=1, history=0, unreadable=0)
    assert await held(backend) == b""
    assert await user_of(site, ann) is None


@pytest.mark.guarantee(29)
@pytest.mark.both_loops
async def test_who_signs_in_during_the_erasure_is_signed_out_again(clock: Clock) -> None:
    backend = StoreBackend(MemoryStore(), clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    scan = backend.store.scan  # type: ignore[attr-defined]

    async def with_visitors(**how: Any) -> Any:
        page = await scan(**how)
        await signed_in(site, ANN)
        return page

    backend.store.scan = with_visitors  # type: ignore[attr-defined]
    assert (await erase_user(backend, ANN)).sessions == 1
    backend.store.scan = scan  # type: ignore[attr-defined]
    assert await held(backend) == b""


@pytest.mark.guarantee(29)
async def test_the_data_of_before_a_sign_in_is_erased_with_the_session(clock: Clock) -> None:
    backend = StoreBackend(MemoryStore(), clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    ann, bob = Browser(), Browser()
    for browser, user in ((ann, ANN), (bob, BOB)):
        await site.visit(keeps(typed=user), browser)
        await site.visit(sign_in(user), browser)
    assert (await held(backend)).count(ANN.encode()) == 3  # who it is, the data, and the data before
    assert (await erase_user(backend, ANN)).sessions == 1
    assert ANN.encode() not in await held(backend)
    assert (await held(backend)).count(BOB.encode()) == 3


@pytest.mark.guarantee(29)
async def test_the_user_of_another_cookie_in_the_same_store_is_another_user(clock: Clock) -> None:
    backend = StoreBackend(MemoryStore(), clock=clock)
    shop = Site(backend=backend, autoload=True, clock=clock, session_cookie="shop")
    admin = Site(backend=backend, autoload=True, clock=clock, session_cookie="admin")
    here, there = await signed_in(shop, ANN, **PROVIDER), await signed_in(admin, ANN, **PROVIDER)
    assert len((await export_user(backend, ANN, session_cookie="shop")).sessions) == 1
    erased = await erase_user(backend, ANN, session_cookie="shop")
    assert erased == ErasedUser(sessions=1, entries=2, history=0, unreadable=0)
    assert await user_of(shop, here) is None
    assert await user_of(admin, there) == ANN


@pytest.mark.guarantee(29)
async def test_entries_that_cannot_be_read_are_counted(clock: Clock) -> None:
    store = MemoryStore()
    site = Site(backend=StoreBackend(store, encrypt_with=KEY, clock=clock), autoload=True, clock=clock)
    await signed_in(site, ANN, **PROVIDER)
    await signed_in(site, BOB)
    other = StoreBackend(store, encrypt_with=KEY[::-1], clock=clock)
    erased = await erase_user(other, ANN, session_cookie="session")
    # The session of Ann was in her listing. Her links are among what cannot be read, as is Bob's session.
    assert erased == ErasedUser(sessions=0, entries=0, history=0, unreadable=3)


@pytest.mark.guarantee(29)
@pytest.mark.both_loops
async def test_a_scan_of_many_pages_finds_all(clock: Clock) -> None:
    backend = StoreBackend(Forgetful(), clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    await signed_in(site, ANN)
    store = backend.store
    for number in range(2001):
        await store.create(f"other-{number}", b"x" * 20, expires_at=int(clock()) + DAY, now=int(clock()))
    pages: list[int] = []
    erased = await erase_user(backend, ANN, on_page=pages.append)
    assert (erased.entries, erased.unreadable, len(pages)) == (1, 2001, 3)
    assert pages == sorted(pages)


@pytest.mark.guarantee(29)
@rows(
    "backend, names, cure",
    [
        (InMemoryBackend(), {}, "build the application first, or pass session_cookie"),
        (CookieBackend(KEY, allow_unrevocable=True), {"session_cookie": "session"}, "keeps no list"),
        (DictBackend(), {"app_name": "shop"}, "keeps no list"),
    ],
)
async def test_it_is_said_what_cannot_be_exported_or_erased(backend: Any, names: Any, cure: str) -> None:
    for act in (export_user, erase_user):
        with pytest.raises(ImproperlyConfigured, match=cure):
            await act(backend, ANN, **names)


@pytest.mark.guarantee(29)
async def test_a_store_that_cannot_be_scanned_is_refused_before_anything_is_erased(clock: Clock) -> None:
    backend = StoreBackend(FourVerbs(Entries()), clock=clock)
    site = Site(backend=backend, autoload=True, clock=clock)
    ann = await signed_in(site, ANN)
    with pytest.raises(ImproperlyConfigured, match=r"method scan\(\)"):
        await erase_user(backend, ANN)
    assert await user_of(site, ann) == ANN


@pytest.mark.guarantee(29)
def test_what_json_has_no_form_for_is_spelled_out() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    revoked = Revoked("a-handle", ANN)
    assert as_json([moment, date(2026, 1, 2), b"\xff", {1: float("nan")}, Decimal("1.50"), {2}, None, True, 2**70]) == [
        "2026-01-02T00:00:00+00:00",
        "2026-01-02",
        "/w==",
        {"1": "nan"},
        "1.50",
        [2],
        None,
        True,
        2**70,
    ]
    assert as_json(revoked)["handle"] == "a-handle"
