"""The rules of a server-side backend, checked with requests through the middleware.

Concurrent requests are run in every order of their calls to the store.
"""

import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from anyio import Event, create_task_group

from starsessions import set_expiry, update_atomically
from starsessions.backends.base import SessionBackend
from starsessions.exceptions import SessionGone
from starsessions.session import Session
from starsessions.testing.clock import Clock
from starsessions.testing.conformance.app import Act, Answer, Site
from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.interleaving import REFUSED, Schedule, in_every_order, stepped

MAX_AGE, GRACE = 200, 20
START: dict[str, Any] = {"a": 1, "b": [1, {"c": 2}], "gone-1": 0, "gone-2": 0, "gone-3": 0}
MANY = 32


class _HasLearned(Exception):
    """The backend has found out what its store cannot do, and will not ask again: the next steps are other ones."""


class BackendFixture:
    """A backend, and a clock that the rules advance."""

    def __init__(self, backend: SessionBackend) -> None:
        self.backend: SessionBackend = backend
        self.clock: Clock = Clock(int(time.time()))
        self.backend_with_steps: SessionBackend
        self.calls: list[str]
        self.backend_with_steps, self.calls = stepped(backend)
        self.site: Site = Site(backend, self.clock, max_age=MAX_AGE)
        self.rolling: Site = Site(self.backend_with_steps, self.clock, max_age=MAX_AGE, rolling=True, renew_every=1)
        """The same sessions, for requests that run step by step and renew the sessions that they use."""

    async def new_session(self, data: dict[str, Any] | None = None) -> str:
        """Return the token of a new session with this data, which is due for renewal."""
        answer = await self.site.visit(None, _changing(data or START))
        self.clock.advance(2)
        assert answer.token, "a new session began, but no cookie was set"
        return answer.token

    async def in_every_order(self, scenario: Callable[[Schedule], Awaitable[None]]) -> None:
        """Run a scenario in every order, and begin again when the backend has learned something of its store."""
        learned: set[str] = set()

        async def run(schedule: Schedule) -> None:
            self.calls.clear()
            await scenario(schedule)
            refused = {call for call in self.calls if call.endswith(REFUSED)}
            if refused - learned:
                learned.update(refused)
                raise _HasLearned

        orders = 0
        while not orders:
            with suppress(_HasLearned):
                orders = await in_every_order(run)
        assert orders > 1, "the requests made no calls to the store, so they cannot be interleaved"

    async def living(self, tokens: Iterable[str | None]) -> dict[str, dict[str, Any]]:
        """Return the tokens that are valid, with the data of their sessions."""
        seen = {token: await self.site.data(token) for token in tokens if token}
        return {token: data for token, data in seen.items() if data}


BACKEND: Contract[BackendFixture] = Contract(
    {
        "atomic": "concurrent requests have the same effect as requests one after the other",
        "grace": "a replaced id can keep working for a grace period",
    }
)
"""The contract of a server-side backend."""


# One request after the other


@BACKEND.rule()
async def a_session_keeps_its_data(place: BackendFixture) -> None:
    """A request finds the data that the browser's last request stored, and a request without a cookie finds none."""
    token = await place.new_session()
    await place.new_session({"a": "another browser's"})
    assert await place.site.data(token) == START, "the session does not hold the stored data"
    assert await place.site.data(None) == {}, "a request without a cookie found a session"
    await place.site.visit(token, _changing({"a": 2}, "b"))
    expected = {key: value for key, value in START.items() if key != "b"} | {"a": 2}
    assert await place.site.data(token) == expected, "the session does not hold the data of the last request"


@BACKEND.rule()
async def an_unused_session_costs_nothing(place: BackendFixture) -> None:
    """A request that does not use its session makes no call to the store, a read makes one. Neither sets a cookie."""
    token, calm = await place.new_session(), Site(place.backend_with_steps, place.clock, max_age=MAX_AGE)
    answer = await calm.visit(token, _do_nothing)
    assert (place.calls, answer.token) == ([], None), f"a request without access made the calls {place.calls}"
    answer = await calm.visit(token, _read)
    assert (len(place.calls), answer.token) == (1, None), f"a request that only read made the calls {place.calls}"


@BACKEND.rule()
async def a_session_expires_at_its_deadline(place: BackendFixture) -> None:
    """A session expires exactly `max_age` after its last change, by the middleware's clock."""
    token = await place.new_session()
    await place.site.visit(token, _changing({"a": 2}))
    place.clock.advance(MAX_AGE - 1)
    assert (await place.site.data(token)).get("a") == 2, "a session expired before its deadline"
    place.clock.advance(1)
    assert await place.site.data(token) == {}, "a session had not expired at its deadline"
    answer = await place.site.visit(token, _changing({"new": 1}))
    assert await place.living([token, answer.token]) == {answer.token: {"new": 1}}, "an expired session came back"
    assert answer.token != token, "the id of an expired session was reused"


@BACKEND.rule()
async def a_session_that_expires_during_a_request_stays_expired(place: BackendFixture) -> None:
    """If a session expires between a request's load and save, the request does not bring it back."""
    token = await place.new_session()

    async def act(session: Session) -> None:
        await session.load()
        place.clock.advance(MAX_AGE)
        session["new"] = 1

    answer = await place.site.visit(token, act)
    assert answer.token is None, "a cookie was set for an expired session"
    assert await place.site.data(token) == {}, "an expired session was brought back by a change"


@BACKEND.rule()
async def use_renews_a_rolling_session(place: BackendFixture) -> None:
    """With `rolling`, a request that only reads renews the session."""
    token = await place.new_session()
    place.clock.advance(MAX_AGE - 10)
    await place.rolling.visit(token, _read)
    place.clock.advance(MAX_AGE - 10)
    assert await place.site.data(token) == START, "a session that was used expired at its old deadline"


@BACKEND.rule()
async def an_unknown_id_is_not_adopted(place: BackendFixture) -> None:
    """A new session never gets the id that the browser sent, whether that is invented or from an ended session."""
    dead = await place.new_session()
    answer = await place.site.visit(dead, _log_out)
    assert answer.token == "", "a logout did not clear the cookie"
    for token in ("A" * 43, "x", dead):
        assert (await place.site.visit(token, _read)).token is None, "a cookie was set for a missing session"
        answer = await place.site.visit(token, _changing({"new": 1}))
        living = await place.living([token, answer.token])
        assert living == {answer.token: {"new": 1}}, "an id that a browser sent was adopted"
        assert answer.token != token, "an id that a browser sent was adopted"


@BACKEND.rule()
async def a_rotation_moves_the_session_to_a_new_id(place: BackendFixture) -> None:
    """After `regenerate_id()`, the data is under the new id only."""
    old = await place.new_session()
    new = (await place.site.visit(old, _rotate)).token
    assert new != old, "a rotation kept the id"
    assert await place.living([old, new]) == {new: START}, "the session is not under the new id only"


# The handlers of requests. They return whether they found a session.


async def _do_nothing(session: Session) -> None:
    pass


async def _read(session: Session) -> bool:
    await session.load()
    return not session.is_empty


def _changing(new: dict[str, Any], *gone: str) -> Act:
    async def change(session: Session) -> bool:
        lives = await _read(session)
        session.update(new)
        for key in gone:
            session.pop(key, None)
        return lives

    return change


async def _clear(session: Session) -> bool:
    lives = await _read(session)
    session.clear()
    return lives


async def _set_expiry(session: Session) -> bool:
    lives = await _read(session)
    set_expiry(session, 3 * MAX_AGE)
    return lives


async def _rotate(session: Session) -> bool:
    lives = await _read(session)
    await session.regenerate_id()
    return lives


async def _log_out(session: Session) -> bool:
    lives = await _read(session)
    await session.flush()
    return lives


async def _save_at_once(session: Session) -> bool | None:
    """Save a change, and return whether that was confirmed; None if there was no session."""
    if not await _read(session):
        return None
    session["saved"] = True
    try:
        await session.persist()
    except SessionGone:
        return False
    return True


# In every order


def _logout_against(name: str, other: Act) -> None:
    """Add a rule: a logout, and a concurrent request."""

    async def rule(place: BackendFixture) -> None:
        async def scenario(schedule: Schedule) -> None:
            old = await place.new_session()
            answers: dict[str, Answer] = await schedule.together(
                logout=lambda: place.rolling.visit(old, _log_out), other=lambda: place.rolling.visit(old, other)
            )
            logout, late = answers["logout"], answers["other"]
            living = await place.living([old, logout.token, late.token])
            assert old not in living, "the id of an ended session is valid"
            with_old_data = [data for data in living.values() if "a" in data]
            if not logout.result:  # the other one came first; after a rotation, the session is under its new id
                assert len(with_old_data) == (1 if other is _rotate else 0), (
                    "the logout changed a session that it had not found"
                )
                return
            assert logout.token == "", "a logout did not clear the cookie"
            assert not with_old_data, "the data of an ended session is still valid"
            if late.result:
                assert not living, "a request that found the session before it was ended began another one"
                if list(answers) == ["logout", "other"]:
                    assert late.token in (None, ""), "a late response set a cookie for an ended session"

        await place.in_every_order(scenario)

    rule.__name__ = f"a_logout_is_final_against_a_request_that_{name.replace(' ', '_')}"
    rule.__doc__ = f"After a logout the session is ended, in every order, if a concurrent request {name}."
    BACKEND.rule("atomic")(rule)


_logout_against("reads", _read)
_logout_against("writes", _changing({"new": 1}))
_logout_against("deletes a key", _changing({}, "a"))
_logout_against("saves at once", _save_at_once)
_logout_against("sets an expiry", _set_expiry)
_logout_against("empties the session", _clear)
_logout_against("rotates", _rotate)
_logout_against("logs out", _log_out)


@BACKEND.rule("atomic")
async def a_logout_is_final_against_a_rotation_and_a_write(place: BackendFixture) -> None:
    """After a logout that found the session, it is ended under every id, in every order of three requests."""

    async def scenario(schedule: Schedule) -> None:
        old = await place.new_session()
        answers: dict[str, Answer] = await schedule.together(
            logout=lambda: place.rolling.visit(old, _log_out),
            rotation=lambda: place.rolling.visit(old, _rotate),
            write=lambda: place.rolling.visit(old, _save_at_once),
        )
        living = await place.living([old, *(answer.token for answer in answers.values())])
        if answers["logout"].result:
            assert not living, "the data of an ended session is still valid"
        else:
            assert list(living) == [answers["rotation"].token], "the session is not under its new id only"

    await place.in_every_order(scenario)


@BACKEND.rule("atomic")
async def a_logout_is_final_against_two_rotations(place: BackendFixture) -> None:
    """After a logout that found the session, it is ended under every id, even if it was rotated twice meanwhile."""

    async def scenario(schedule: Schedule) -> None:
        old = await place.new_session()
        tokens = [old]

        async def rotate_twice() -> None:
            for _ in range(2):
                tokens.append((await place.rolling.visit(tokens[-1], _rotate)).token or old)

        answers = await schedule.together(logout=lambda: place.rolling.visit(old, _log_out), rotations=rotate_twice)
        living = await place.living(tokens)
        if answers["logout"].result:
            assert not living, "the data of an ended session is still valid"
        else:
            assert living == {tokens[-1]: START}, "the session is not under its newest id only"

    await place.in_every_order(scenario)


@BACKEND.rule("atomic")
async def a_change_during_a_rotation_is_kept_or_refused(place: BackendFixture) -> None:
    """A change during a rotation is kept if it was confirmed, and lost completely if it was not."""

    async def scenario(schedule: Schedule) -> None:
        old = await place.new_session()
        answers: dict[str, Answer] = await schedule.together(
            rotation=lambda: place.rolling.visit(old, _rotate), write=lambda: place.rolling.visit(old, _save_at_once)
        )
        new, is_saved = answers["rotation"].token, answers["write"].result
        living = await place.living([old, new, answers["write"].token])
        expected = {**START, "saved": True} if is_saved else START
        assert living == {new: expected}, "a rotation lost a confirmed change, or left the old id valid"

    await place.in_every_order(scenario)


@BACKEND.rule("atomic")
async def of_two_rotations_one_wins(place: BackendFixture) -> None:
    """Two concurrent rotations leave one session under one new id, and only one response sets the cookie."""

    async def scenario(schedule: Schedule) -> None:
        old = await place.new_session()
        answers: dict[str, Answer] = await schedule.together(
            one=lambda: place.rolling.visit(old, _rotate), other=lambda: place.rolling.visit(old, _rotate)
        )
        told = [answer.token for answer in answers.values() if answer.token]
        assert len(told) == 1, f"{len(told)} of two rotations set a cookie"
        assert await place.living([old, *told]) == {told[0]: START}, "the session is not under its new id only"

    await place.in_every_order(scenario)


def _writers(count: int) -> None:
    """Add a rule: `count` concurrent requests that write."""

    async def rule(place: BackendFixture) -> None:
        async def scenario(schedule: Schedule) -> None:
            token = await place.new_session()
            writes = {str(n): _changing({f"new-{n}": n, "last": n}, f"gone-{n}") for n in range(1, count + 1)}
            answers = await schedule.together(
                **{n: lambda act=act: place.rolling.visit(token, act) for n, act in writes.items()}
            )
            data = await place.site.data(token)
            for n in writes:
                assert f"new-{n}" in data, "an update was lost: a key that was added"
                assert f"gone-{n}" not in data, "an update was lost: a key that was deleted"
            assert data["last"] == int(list(answers)[-1]), "a key that all requests changed lost the last value"
            assert data["b"] == START["b"], "a key that no request changed has another value"

        await place.in_every_order(scenario)

    rule.__name__ = f"{count}_writers_lose_no_update"
    rule.__doc__ = f"The changes of {count} concurrent requests are all kept, in every order."
    BACKEND.rule("atomic")(rule)


_writers(2)
_writers(3)


@BACKEND.rule("atomic")
async def atomic_updates_all_count(place: BackendFixture) -> None:
    """Three concurrent requests that each add one with `update_atomically()` make three, in every order.

    Each of them returns a different number.
    """

    async def add_one(session: Session) -> int:
        await session.load()
        return await update_atomically(session, _add_one)

    async def scenario(schedule: Schedule) -> None:
        token = await place.new_session({"count": 0})
        visit = partial(place.rolling.visit, token, add_one)
        answers: dict[str, Answer] = await schedule.together(one=visit, two=visit, three=visit)
        assert (await place.site.data(token))["count"] == 3, "an atomic update was lost"
        returned = sorted(answer.result for answer in answers.values())
        assert returned == [1, 2, 3], f"three atomic updates returned {returned}"

    await place.in_every_order(scenario)


@BACKEND.rule("grace")
async def within_its_grace_the_old_id_opens_the_new_session(place: BackendFixture) -> None:
    """With `regenerate_id(grace=…)`, a change by a request with the old id is in the new session until the grace ends.

    In every order it is confirmed, and its response does not restore the old id.
    """

    async def rotate(session: Session) -> None:
        await session.load()
        await session.regenerate_id(grace=GRACE)

    async def scenario(schedule: Schedule) -> None:
        old = await place.new_session()
        answers: dict[str, Answer] = await schedule.together(
            rotation=lambda: place.rolling.visit(old, rotate), write=lambda: place.rolling.visit(old, _save_at_once)
        )
        new = answers["rotation"].token
        assert answers["write"].result is True, "a change during a rotation with a grace was lost"
        if list(answers) == ["rotation", "write"]:
            assert answers["write"].token is None, "a request with the old id set a cookie"
        expected = {**START, "saved": True}
        assert await place.living([old, new]) == {old: expected, new: expected}, (
            "the old id does not find the new session"
        )
        place.clock.advance(GRACE)
        assert await place.living([old, new]) == {new: expected}, "the old id is valid after its grace"

    await place.in_every_order(scenario)
    old = await place.new_session()
    new = (await place.site.visit(old, rotate)).token
    await place.site.visit(old, _log_out)
    assert await place.living([old, new]) == {}, "a logout with the old id, within its grace, did not end the session"


def _add_one(data: dict[str, Any]) -> int:
    data["count"] += 1
    count: int = data["count"]
    return count


@BACKEND.rule("atomic")
async def emptying_a_session_keeps_a_parallel_change(place: BackendFixture) -> None:
    """A request that removes the last key ends the session, unless a concurrent request has added one."""

    async def scenario(schedule: Schedule) -> None:
        token = await place.new_session({"flash": "hello"})
        answers: dict[str, Answer] = await schedule.together(
            empties=lambda: place.rolling.visit(token, _changing({}, "flash")),
            saves=lambda: place.rolling.visit(token, _save_at_once),
        )
        expected = {token: {"saved": True}} if answers["saves"].result else {}
        assert await place.living([token]) == expected, "emptying a session lost a confirmed change"

    await place.in_every_order(scenario)


@BACKEND.rule("atomic")
async def many_writers_lose_no_update(place: BackendFixture) -> None:
    """The changes of 32 concurrent requests are all kept, though all of them read before the first one writes."""
    token = await place.new_session({"start": True})
    have_read: list[int] = []
    all_have_read = Event()

    async def write(n: int) -> None:
        async def act(session: Session) -> None:
            await session.load()
            have_read.append(n)
            if len(have_read) == MANY:
                all_have_read.set()
            await all_have_read.wait()
            session[f"new-{n}"] = n

        await place.site.visit(token, act)

    async with create_task_group() as tasks:
        for n in range(MANY):
            tasks.start_soon(write, n)
    data = await place.site.data(token)
    expected = {f"new-{n}" for n in range(MANY)} | {"start"}
    assert set(data) == expected, f"of {MANY} updates, {len(set(data) & expected) - 1} were kept"
