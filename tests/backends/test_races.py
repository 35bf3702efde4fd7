"""Two requests of one browser, one paused in the middle of its handler: schedules, not sleeps.

`pause` is where the first request waits while the second runs from beginning to end.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from starsessions import ResponseStarted, Session, SessionBackend, set_expiry
from tests.kinds import each_server_backend
from tests.rows import rows
from tests.site import Browser, Clock, DictBackend, Site, call, settled

pytestmark = pytest.mark.anyio

Change = Callable[[Session], Any]


async def run_inside(
    site_of: Callable[..., Site], backend: SessionBackend, start: dict[str, Any], slow: Change, fast: Change
) -> tuple[Site, Browser, list[str]]:
    """The slow request loads, the fast one runs, the slow one changes and answers. What it said to the browser."""
    site, elsewhere = site_of(backend=backend), site_of(backend=backend)
    await site.visit(lambda session: session.update(start))
    browser = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> None:
        await session.load()
        reply = await elsewhere.visit(fast, Browser(dict(browser.cookies)))
        answers.append(reply)
        outcome = slow(session)
        if isinstance(outcome, Awaitable):
            await outcome

    answers: list[Any] = []
    reply = await site.visit(act, Browser(dict(browser.cookies)))
    browser.take(answers[0])
    browser.take(reply)
    return site, browser, reply.set_cookies


SLOW: dict[str, Change] = {
    "reads": lambda session: session.get("a"),
    "writes": lambda session: session.update(a=2),
    "deletes a key": lambda session: session.pop("a"),
    "rotates": Session.regenerate_id,
    "clears": Session.clear,
    "logs out": Session.flush,
    "sets an expiry": lambda session: set_expiry(session, 1000),
}


@pytest.mark.requirement("ASVS 7.4.1", "NIST 5.1(3)")
@pytest.mark.guarantee(14)
@each_server_backend
@rows("slow", SLOW)
async def test_a_logout_is_final_whatever_a_slow_request_does(
    site_of: Callable[..., Site], server_backend: SessionBackend, slow: str
) -> None:
    site, browser, said = await run_inside(site_of, server_backend, {"a": 1}, SLOW[slow], Session.flush)
    assert [cookie for cookie in said if "Max-Age=0" not in cookie] == []
    assert browser.cookies == {}
    old = Browser(dict(site.browser.cookies))
    assert await site.data(old) == {}


@pytest.mark.guarantee(14)
@each_server_backend
@rows("slow", SLOW)
async def test_a_rotation_is_final_whatever_a_slow_request_does(
    site_of: Callable[..., Site], server_backend: SessionBackend, slow: str
) -> None:
    start = {"a": 1, "b": 1}
    site, browser, _ = await run_inside(site_of, server_backend, start, SLOW[slow], Session.regenerate_id)
    assert await site.data(Browser(dict(site.browser.cookies))) == {}
    # A user who logs out wants to be out, so their browser forgets the new id, too.
    assert await site.data(browser) == ({} if slow == "logs out" else start)


@each_server_backend
@rows(
    "slow", ["writes", "deletes a key", "rotates", "clears", "sets an expiry"], ids=lambda slow: slow.replace(" ", "_")
)
async def test_a_slow_request_does_not_bring_back_an_expired_session(
    site_of: Callable[..., Site], server_backend: SessionBackend, clock: Clock, slow: str
) -> None:
    site = site_of(backend=server_backend, max_age=100)
    await site.visit(lambda session: session.update(a=1))
    old = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> None:
        await session.load()
        clock.advance(100)
        outcome = SLOW[slow](session)
        if isinstance(outcome, Awaitable):
            await outcome

    reply = await site.visit(act)
    assert reply.set_cookies == []
    assert await site.data(old) == await site.data() == {}


@pytest.mark.guarantee(15)
@each_server_backend
async def test_requests_that_change_different_keys_all_survive(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    def slow(session: Session) -> None:
        session["mine"] = 1
        del session["gone"]

    site, browser, _ = await run_inside(
        site_of, server_backend, {"a": 1, "gone": 1, "b": [1]}, slow, lambda session: session["b"].append(2)
    )
    assert await site.data(browser) == {"a": 1, "b": [1, 2], "mine": 1}


@pytest.mark.guarantee(16)
@each_server_backend
async def test_a_change_made_during_a_rotation_is_in_the_new_session(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site, browser, _ = await run_inside(
        site_of, server_backend, {"a": 1}, Session.regenerate_id, lambda session: session.update(b=2)
    )
    assert await site.data(browser) == {"a": 1, "b": 2}


@pytest.mark.guarantee(15)
@each_server_backend
async def test_the_later_commit_wins_if_both_change_one_key(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site, browser, _ = await run_inside(
        site_of,
        server_backend,
        {"a": 1},
        lambda session: session.update(a="slow"),
        lambda session: session.update(a="fast"),
    )
    assert await site.data(browser) == {"a": "slow"}


@pytest.mark.guarantee(15)
@each_server_backend
async def test_thirty_two_requests_that_all_loaded_before_any_wrote_lose_no_key(
    site_of: Callable[..., Site], server_backend: SessionBackend, clock: Clock
) -> None:
    sites = [site_of(backend=server_backend) for _ in range(33)]
    await sites[0].visit(lambda session: session.update(start=True))
    cookies = sites[0].browser.cookies

    def nested(n: int) -> Change:
        async def act(session: Session) -> None:
            await session.load()
            if n < 32:
                await sites[n + 1].visit(nested(n + 1), Browser(dict(cookies)))
            session[f"key-{n}"] = n

        return act

    await sites[1].visit(nested(1), Browser(dict(cookies)))
    assert await sites[0].data() == {"start": True} | {f"key-{n}": n for n in range(1, 33)}


@each_server_backend
async def test_a_rolling_read_does_not_lose_a_concurrent_write(
    site_of: Callable[..., Site], server_backend: SessionBackend, clock: Clock
) -> None:
    site, elsewhere = (site_of(backend=server_backend, rolling=True, max_age=100) for _ in range(2))
    await site.visit(lambda session: session.update(cart=[1]))
    cookies = dict(site.browser.cookies)
    clock.advance(50)

    async def act(session: Session) -> None:
        assert session["cart"] == [1]
        await elsewhere.visit(lambda other: other.update(paid=True), Browser(dict(cookies)))

    await site.visit(act)
    assert await site.data() == {"cart": [1], "paid": True}


@pytest.mark.guarantee(14)
@each_server_backend
async def test_emptying_a_session_keeps_what_another_request_has_added(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site, browser, said = await run_inside(
        site_of,
        server_backend,
        {"flash": "hello"},
        lambda session: session.pop("flash"),
        lambda s: s.update(user="ann"),
    )
    assert said == []
    assert await site.data(browser) == {"user": "ann"}


@each_server_backend
async def test_emptying_a_session_leaves_the_cookie_of_a_parallel_sign_in_alone(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    async def sign_in(session: Session) -> None:
        await session.regenerate_id()
        session["user"] = "ann"

    site, browser, said = await run_inside(
        site_of, server_backend, {"flash": "hello"}, lambda session: session.pop("flash"), sign_in
    )
    assert said == []
    assert await site.data(browser) == {"flash": "hello", "user": "ann"}


@each_server_backend
async def test_objects_that_a_handler_holds_stay_in_the_session_after_a_merge(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    async def slow(session: Session) -> None:
        cart = session["cart"]
        session["a"] = 1
        await session.persist()
        cart.append(2)

    site, browser, _ = await run_inside(site_of, server_backend, {"cart": [1]}, slow, lambda s: s.update(other=1))
    assert await site.data(browser) == {"cart": [1, 2], "a": 1, "other": 1}


@pytest.mark.both_loops
async def test_two_tasks_of_a_request_that_load_at_once_keep_what_the_first_one_changed(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    import anyio

    from tests.site import DictBackend

    may_answer = [anyio.Event(), anyio.Event()]

    class Slow(DictBackend):
        waiting = 0

        async def read(self, session_id: str) -> dict[str, Any]:
            data = dict(await super().read(session_id))
            if self.waiting < 2:
                self.waiting += 1
                await may_answer[self.waiting - 1].wait()
            return data

    backend = Slow()
    backend._storage["some-id"] = {"a": 1}
    site = site_of(backend=backend, autoload=False)
    site.browser.cookies["session"] = "some-id"

    async def act(session: Session) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.load)
            tasks.start_soon(session.load)
            await settled()
            may_answer[0].set()
            await settled()
            session["a"] = 2
            may_answer[1].set()

    await site.visit(act)
    assert await site.data() == {"a": 2}


class Waits(DictBackend):
    """Writes when everybody who can run has run: the first write and whatever it is in a race with."""

    def __init__(self) -> None:
        super().__init__()
        self.writing = anyio.Event()

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        self.writing.set()
        await settled()
        return await super().write(data, session_id)


@pytest.mark.both_loops
async def test_two_tasks_of_a_request_that_persist_at_once_store_one_session(site_of: Callable[..., Site]) -> None:
    backend = Waits()
    site = site_of(backend=backend)

    async def act(session: Session) -> None:
        session["a"] = 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.persist)
            tasks.start_soon(session.persist)

    await site.visit(act)
    assert list(backend._storage) == [site.browser.cookies["session"]]


@pytest.mark.both_loops
async def test_a_persist_while_the_headers_are_sent_stores_the_session_in_the_cookie(
    site_of: Callable[..., Site],
) -> None:
    backend = Waits()
    site = site_of(backend=backend)

    async def act(session: Session) -> None:
        session["a"] = 1
        tasks.start_soon(session.persist)
        await backend.writing.wait()

    async def later(session: Session) -> None:
        await session.persist()
        session["b"] = 2
        await session.persist()

    async with anyio.create_task_group() as tasks:
        await site.visit(act, after=later)
    assert list(backend._storage) == [site.browser.cookies["session"]]
    assert await site_of(backend=backend).data(site.browser) == {"a": 1, "b": 2}


@pytest.mark.both_loops
@pytest.mark.parametrize("fails", [False, True])
async def test_a_persist_during_a_save_waits_for_its_end(site_of: Callable[..., Site], fails: bool) -> None:
    class Full(Exception):
        pass

    class Interrupted(DictBackend):
        writes = 0

        async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
            self.writes += 1
            if self.writes == 1:
                tasks.start_soon(persist)
                await settled()
                if fails:
                    raise Full
            return await super().write(data, session_id)

    sessions: list[Session] = []
    outcomes: list[object] = []

    async def persist() -> None:
        try:
            outcomes.append(await sessions[0].persist())
        except ResponseStarted as error:
            outcomes.append(error)

    def act(session: Session) -> None:
        session["a"] = 1
        sessions.append(session)

    backend = Interrupted()
    site = site_of(backend=backend)
    failures = []
    async with anyio.create_task_group() as tasks:
        try:
            await site.visit(act)
        except Full as error:
            failures.append(error)
    assert len(failures) == fails
    if fails:
        assert [type(outcome) for outcome in outcomes] == [ResponseStarted]
    else:
        assert outcomes == [site.browser.cookies["session"]] == list(backend._storage)


@pytest.mark.both_loops
async def test_a_persist_while_a_websocket_is_accepted_stores_the_session_in_the_cookie(
    site_of: Callable[..., Site],
) -> None:
    backend = Waits()
    site = site_of(backend=backend)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["a"] = 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scope["session"].persist)
            await backend.writing.wait()
            await send({"type": "websocket.accept"})
        scope["session"]["b"] = 2

    site.app.app = app
    site.browser.take(await call(site.app, {"type": "websocket", "headers": []}))
    assert list(backend._storage) == [site.browser.cookies["session"]]
    assert await site_of(backend=backend).data(site.browser) == {"a": 1, "b": 2}


@pytest.mark.guarantee(16)
@each_server_backend
async def test_a_late_response_does_not_bring_back_an_id_that_was_replaced(
    site_of: Callable[..., Site], server_backend: SessionBackend, clock: Clock
) -> None:
    """A write is saved, then the id is replaced; the response to the write arrives last."""
    site = site_of(backend=server_backend, max_age=100)
    await site.visit(lambda session: session.update(a=1))
    clock.advance(9)
    writing, rotating = Browser(dict(site.browser.cookies)), Browser(dict(site.browser.cookies))
    late = await site.visit(lambda session: session.update(a=2), writing)
    early = await site.visit(Session.regenerate_id, rotating)

    site.browser.take(early)
    site.browser.take(late)

    assert late.set_cookies == []
    assert await site.data() == {"a": 2}


@each_server_backend
async def test_the_cookie_is_sent_again_when_a_tenth_of_its_lifetime_has_passed(
    site_of: Callable[..., Site], server_backend: SessionBackend, clock: Clock
) -> None:
    site = site_of(backend=server_backend, max_age=100)
    sent = []
    for n in range(25):
        sent.append(len((await site.visit(lambda session, n=n: session.update(n=n))).set_cookies))  # type: ignore[misc]
        clock.advance(1)
    assert [n for n, count in enumerate(sent) if count] == [0, 10, 20]


@pytest.mark.both_loops
async def test_a_delete_ends_what_another_task_of_the_request_is_saving(site_of: Callable[..., Site]) -> None:
    backend = Waits()
    site = site_of(backend=backend)

    async def act(session: Session) -> None:
        session["a"] = 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.persist)
            await backend.writing.wait()
            await session.delete()

    await site.visit(act)
    assert (backend._storage, site.browser.cookies) == ({}, {})


@pytest.mark.both_loops
async def test_a_delete_while_the_headers_are_sent_ends_what_is_being_saved(site_of: Callable[..., Site]) -> None:
    backend = Waits()
    site = site_of(backend=backend)

    async def sign_out(session: Session) -> None:
        await backend.writing.wait()
        await session.delete()

    async def act(session: Session) -> None:
        session["a"] = 1
        tasks.start_soon(sign_out, session)

    async with anyio.create_task_group() as tasks:
        await site.visit(act)
    assert backend._storage == {}
