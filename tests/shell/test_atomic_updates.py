"""`update_atomically()` and `on_conflict=`: what merging key by key cannot do."""

from collections.abc import Callable
from typing import Any

import pytest

from starsessions import (
    ImproperlyConfigured,
    ResponseStarted,
    Session,
    SessionBackend,
    SessionConflict,
    SessionError,
    SessionGone,
    UnsupportedValue,
    update_atomically,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.core.serializer import Msgpack
from starsessions.stores.memory import MemoryStore
from tests.kinds import each_backend, each_server_backend, each_store_backend
from tests.site import Browser, Clock, Site

pytestmark = pytest.mark.anyio

Data = dict[str, Any]


def count(data: Data) -> int:
    data["n"] = data.get("n", 0) + 1
    number: int = data["n"]
    return number


@pytest.mark.guarantee(15)
@each_server_backend
async def test_a_hundred_increments_that_all_loaded_before_any_wrote_make_a_hundred(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    sites = [site_of(backend=server_backend) for _ in range(101)]
    await sites[0].visit(lambda session: session.update(n=0))
    cookies = sites[0].browser.cookies

    def nested(n: int) -> Callable[[Session], Any]:
        async def act(session: Session) -> int:
            await session.load()
            if n < 100:
                await sites[n + 1].visit(nested(n + 1), Browser(dict(cookies)))
            return await update_atomically(session, count)

        return act

    await sites[1].visit(nested(1), Browser(dict(cookies)))
    assert await sites[0].data() == {"n": 100}


@each_backend
async def test_it_returns_what_the_function_returns_and_shows_what_was_stored(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)

    async def act(session: Session) -> tuple[int, int]:
        return await update_atomically(session, count), session["n"]

    for number in (1, 2):
        assert (await site.visit(act)).result == (number, number)
    assert await site.data() == {"n": 2}


@each_backend
async def test_a_session_that_was_updated_counts_as_modified(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    """What Starlette's own flag says, for code that asks it."""

    async def act(session: Session) -> tuple[bool, bool]:
        before = session.modified
        await update_atomically(session, count)
        return before, session.modified

    assert (await site_of(backend=backend).visit(act)).result == (False, True)


@each_server_backend
async def test_earlier_changes_of_the_request_are_saved_with_it(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site, elsewhere = site_of(backend=server_backend), site_of(backend=server_backend)
    await site.visit(lambda session: session.update(n=1, gone=1, cart=[1]))
    browser = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> None:
        session["mine"] = [1]
        session["cart"].append(2)
        del session["gone"]
        held = session["mine"]
        await elsewhere.visit(lambda other: other.update(n=5, theirs=1), browser)
        await update_atomically(session, count)
        held.append(2)  # a handler's own object is still the one in the session

    await site.visit(act)
    assert await site.data() == {"n": 6, "mine": [1, 2], "cart": [1, 2], "theirs": 1}


@each_server_backend
async def test_each_run_starts_from_what_is_stored_and_not_from_the_last_try(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site, elsewhere = site_of(backend=server_backend), site_of(backend=server_backend)
    await site.visit(lambda session: session.update(log=[]))
    browser = Browser(dict(site.browser.cookies))
    seen: list[list[str]] = []

    def append(data: Data) -> None:
        seen.append(list(data["log"]))
        data["log"].append("slow")

    async def act(session: Session) -> None:
        await session.load()
        await elsewhere.visit(lambda other: other["log"].append("fast"), browser)
        await update_atomically(session, append)

    await site.visit(act)
    assert await site.data() == {"log": ["fast", "slow"]}
    assert seen == [[], ["fast"]]


@each_store_backend
async def test_values_set_by_the_function_keep_their_types_or_are_rejected(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    """Encoding takes a tuple for a list where it need not look: here it has to look."""
    site = site_of(backend=store_backend)
    await site.visit(lambda session: session.update(n=1))

    async def act(session: Session) -> None:
        await update_atomically(session, lambda data: data.update(nested=[(1, {2})]))
        with pytest.raises(UnsupportedValue, match=r'session\["nested"\]\[0\]'):
            await update_atomically(session, lambda data: data.update(nested=[object()]))

    await site.visit(act)
    assert await site.data() == {"n": 1, "nested": [(1, {2})]}


@each_backend
async def test_nothing_is_changed_if_the_function_raises(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(n=1))

    def fails(data: Data) -> None:
        data["n"] = 2
        raise LookupError

    async def act(session: Session) -> None:
        with pytest.raises(LookupError):
            await update_atomically(session, fails)
        assert session["n"] == 1

    await site.visit(act)
    assert await site.data() == {"n": 1}


@each_backend
async def test_a_function_that_waits_is_refused(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    async def waits(data: Data) -> None:
        raise AssertionError("it must not run")

    site = site_of(backend=backend)
    with pytest.raises(TypeError, match="plain function"):
        await site.visit(lambda session: update_atomically(session, waits))


@each_server_backend
async def test_a_session_ended_meanwhile_raises_session_gone(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site, elsewhere = site_of(backend=server_backend), site_of(backend=server_backend)
    await site.visit(lambda session: session.update(n=1))
    browser = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> None:
        await session.load()
        await elsewhere.visit(Session.flush, Browser(dict(browser.cookies)))
        with pytest.raises(SessionGone):
            await update_atomically(session, count)

    assert (await site.visit(act)).set_cookies == []
    assert await site.data(browser) == {}


@each_server_backend
async def test_after_the_response_started_it_saves_like_persist(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(lambda session: session.update(n=1))
    await site.visit(Session.load, after=lambda session: update_atomically(session, count))
    assert await site.data() == {"n": 2}
    with pytest.raises(ResponseStarted):
        await site.visit(browser=Browser(), after=lambda session: update_atomically(session, count))


async def test_a_function_that_changes_nothing_writes_nothing(clock: Clock, site_of: Callable[..., Site]) -> None:
    from starsessions.backends.server_side import StoreBackend
    from starsessions.stores.memory import MemoryStore

    class Counted(MemoryStore):
        writes = 0

        async def create(self, *args: Any, **instants: int) -> Any:
            self.writes += 1
            return await super().create(*args, **instants)

        async def replace(self, *args: Any, **instants: int) -> Any:
            self.writes += 1
            return await super().replace(*args, **instants)

    store = Counted()
    site = site_of(backend=StoreBackend(store, clock=clock))
    await site.visit(lambda session: session.update(n=1))
    reply = await site.visit(lambda session: update_atomically(session, lambda data: data["n"]))
    assert (reply.result, store.writes) == (1, 1)


async def test_an_update_that_always_conflicts_gives_up_with_an_error(
    site_of: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    from starsessions import InMemoryBackend
    from starsessions.backends.base import Conflict
    from starsessions.lifecycle import saving

    class Contended(InMemoryBackend):
        async def replace(self, found: Any, *args: Any) -> Any:
            raise Conflict(found)

    monkeypatch.setattr(saving, "MAX_ATTEMPTS", 3)
    site = Site(backend=Contended(), autoload=True)
    await site.visit(lambda session: session.update(n=1))

    async def act(session: Session) -> None:
        with pytest.raises(SessionError, match="on every attempt"):
            await update_atomically(session, count)
        assert session == {"n": 1}, "nothing of it is left to be saved with the response"

    await site.visit(act)


@pytest.mark.guarantee(15)
@each_server_backend
async def test_a_change_that_fails_at_the_second_attempt_leaves_what_the_other_request_wrote(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    """A handler that catches the error must not save what the first attempt had made of older data."""
    site, elsewhere = site_of(backend=server_backend), site_of(backend=server_backend)
    await site.visit(lambda session: session.update(stock=1))
    browser = Browser(dict(site.browser.cookies))

    def take_one(data: Data) -> None:
        if data["stock"] == 0:
            raise LookupError("sold out")
        data.update(stock=data["stock"] - 1, bought=True)

    async def act(session: Session) -> None:
        await session.load()
        session["mine"] = 1
        await elsewhere.visit(lambda other: other.update(stock=0, theirs=1), browser)
        with pytest.raises(LookupError):
            await update_atomically(session, take_one)
        assert session == {"stock": 0, "theirs": 1, "mine": 1}

    await site.visit(act)
    assert await site.data() == {"stock": 0, "theirs": 1, "mine": 1}


# The same key, changed by two


async def race(site_of: Callable[..., Site], backend: SessionBackend, slow: Any, fast: Any, **settings: Any) -> Site:
    site, elsewhere = site_of(backend=backend, **settings), site_of(backend=backend, **settings)
    await site.visit(lambda session: session.update(n=1, other=1))
    browser = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> None:
        await session.load()
        await elsewhere.visit(fast, browser)
        slow(session)

    await site.visit(act)
    return site


@pytest.mark.guarantee(15)
@each_server_backend
async def test_on_conflict_raise_refuses_to_overwrite_what_another_request_changed(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    for slow, fast in (
        (lambda session: session.update(n=2), lambda session: session.update(n=3)),
        (lambda session: session.update(n=2), lambda session: session.pop("n")),
        (lambda session: session.pop("n"), lambda session: session.update(n=3)),
    ):
        with pytest.raises(SessionConflict):
            await race(site_of, server_backend, slow, fast, on_conflict="raise")


@each_server_backend
async def test_on_conflict_raise_merges_different_keys_and_takes_equal_changes_for_one(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = await race(
        site_of,
        server_backend,
        lambda session: session.update(n=2, mine=1),
        lambda session: session.update(n=2, theirs=1),
        on_conflict="raise",
    )
    assert await site.data() == {"n": 2, "other": 1, "mine": 1, "theirs": 1}


def test_an_unknown_on_conflict_is_rejected(site_of: Callable[..., Site]) -> None:
    with pytest.raises(ImproperlyConfigured, match="on_conflict must be"):
        site_of(on_conflict="theirs")


async def test_a_session_that_another_release_has_made_unreadable_has_ended(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    class Unreadable(Msgpack):
        def dumps(self, data: Data, /) -> bytes:
            return b"\xc1"

    store = MemoryStore()
    site = site_of(backend=StoreBackend(store, clock=clock))
    elsewhere = site_of(backend=StoreBackend(store, clock=clock, serializer=Unreadable()))
    await site.visit(lambda session: session.update(n=1))
    browser = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> None:
        await session.load()
        await elsewhere.visit(lambda other: other.update(n=2), browser)
        with pytest.raises(SessionGone):
            await update_atomically(session, count)

    assert (await site.visit(act)).set_cookies == []
