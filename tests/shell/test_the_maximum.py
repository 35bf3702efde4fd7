"""No order of sign-ins leaves a user more sessions than the maximum, also where a count goes at the time of a write."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from starsessions import CookieBackend, Session, SessionBackend, SessionGone, users
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import CHUNK, UserIndex
from starsessions.core.record import Identity
from starsessions.stores.base import Conflict, Page
from starsessions.stores.memory import MemoryStore
from starsessions.users import UserSessions
from tests.rows import rows
from tests.shell.people import sign_in
from tests.site import KEY, Browser, Clock, Site

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]

KINDS: dict[str, Callable[[Any, Clock], SessionBackend]] = {
    "stored": lambda store, clock: StoreBackend(store, clock=clock),
    "in a cookie": lambda store, clock: CookieBackend(KEY, revocations=store, clock=clock),
}


class Slow:
    """A store of which one write waits, while everything that was sent at the same time goes on."""

    def __init__(self) -> None:
        self._store = store = MemoryStore()
        self.get, self.create, self.delete = store.get, store.create, store.delete
        self.count_owned = store.count_owned
        self.next_waits = False
        self.waits, self.may_go_on, self.has_gone_on = anyio.Event(), anyio.Event(), anyio.Event()
        self.waits_after_list = 0
        """After which list it waits, and lets the write go on; 0: none."""
        self.listed = self.replacing = self.most_replacing = 0
        self.replaced: list[str] = []

    async def list_owned(self, name: str, **how: Any) -> Page:
        self.listed += 1
        page = await self._store.list_owned(name, **how)
        if self.listed == self.waits_after_list:
            self.may_go_on.set()
            await self.has_gone_on.wait()
        return page

    async def _turn(self) -> None:
        if self.next_waits:
            self.next_waits = False
            self.waits.set()
            await self.may_go_on.wait()

    async def replace(self, key: str, value: bytes, version: Any, **how: Any) -> Any:
        self.replaced.append(key)
        self.replacing += 1
        self.most_replacing = max(self.most_replacing, self.replacing)
        await self._turn()
        await anyio.lowlevel.checkpoint()
        self.replacing -= 1
        return await self._store.replace(key, value, version, **how)


class SlowTogether(Slow):
    """It also writes several entries at once."""

    async def write_together(self, writes: Any, **how: Any) -> Any:
        await self._turn()
        return await self._store.write_together(writes, **how)


class Ann:
    """A user who signs in on one device after the other, each a second later."""

    def __init__(self, kind: str, clock: Clock, store: Slow, most: int, too_many: str) -> None:
        self.clock, self.store = clock, store
        self.backend = KINDS[kind](store, clock)
        how: dict[str, Any] = {"max_sessions_per_user": most, "on_too_many": too_many}
        self.site = Site(backend=self.backend, clock=clock, autoload=True, **how)

    async def signs_in(self, browser: Browser | None = None, act: Any = None) -> Browser:
        browser = browser or Browser()
        self.clock.advance(1)
        with suppress(SessionGone):  # a later one has taken its place
            await self.site.visit(act or sign_in(), browser)
        return browser

    async def with_others_meanwhile(self, browser: Browser, others: int) -> list[Browser]:
        """Sign in. When that has been counted, and not yet written, let others sign in from begin to end."""
        async with anyio.create_task_group() as tasks:
            self.store.next_waits = True
            tasks.start_soon(self.signs_in, browser)
            await self.store.waits.wait()
            await anyio.wait_all_tasks_blocked()
            later = [await self.signs_in() for _ in range(others)]
            self.store.may_go_on.set()
        return later

    async def alive(self, *browsers: Browser) -> list[bool]:
        visits = [await self.site.visit(users.get_user_id, Browser(dict(one.cookies))) for one in browsers]
        return [visit.result == "ann" for visit in visits]

    @property
    def index(self) -> UserIndex:
        [bound] = self.backend._copies().values()
        assert bound.user_index is not None
        return bound.user_index

    async def begins(self, count: int, later: int = 0) -> list[str]:
        """Begin sign-ins that will never be saved, on a server whose clock is fast by `later`. Return their keys."""
        keys, now = [f"key-{number}" for number in range(count)], int(self.clock())
        for key in keys:
            await self.index.begin(key, Identity("ann", now + later, f"handle of {key}"), now + 99, now)
        return keys

    async def listed(self) -> int:
        return len(await UserSessions(self.backend).list("ann"))


@pytest.mark.guarantee(21)
@rows("kind", list(KINDS))
@rows("store", [Slow, SlowTogether])
@rows("has_cart", [True, False])
@rows(("before", "others", "expected"), [(1, 2, [False, True, True, True]), (1, 3, [False, False, True, True, True])])
async def test_a_sign_in_that_was_counted_before_others_and_written_after_them_keeps_the_maximum(
    clock: Clock, kind: str, store: type[Slow], has_cart: bool, before: int, others: int, expected: list[bool]
) -> None:
    """The oldest go, and those are the same for all who judge."""
    ann = Ann(kind, clock, store(), 3, "evict")
    old, slow = [await ann.signs_in() for _ in range(before)], Browser()
    if has_cart:
        await ann.site.visit(lambda session: session.update(cart=["tea"]), slow)
    later = await ann.with_others_meanwhile(slow, others)
    assert await ann.alive(*old, slow, *later) == expected
    assert await ann.listed() == 3


@pytest.mark.guarantee(21)
@rows("kind", list(KINDS))
@rows("lists", [1, 2])
@rows("others", [0, 2])
async def test_one_that_is_written_just_before_it_would_be_marked_is_counted(
    clock: Clock, kind: str, lists: int, others: int
) -> None:
    """After the list for the place of the later sign-in, or after the list when that one was saved. Others are marked
    beside it.
    """
    ann = Ann(kind, clock, Slow(), 3, "evict")
    old, slow = await ann.signs_in(), Browser()

    async def signs_in() -> None:
        await ann.signs_in(slow)
        ann.store.has_gone_on.set()

    async with anyio.create_task_group() as tasks:
        ann.store.next_waits = True
        tasks.start_soon(signs_in)
        await ann.store.waits.wait()
        await anyio.wait_all_tasks_blocked()
        later = [await ann.signs_in()]
        await ann.begins(others)
        ann.store.waits_after_list = ann.store.listed + lists
        later.append(await ann.signs_in())
    assert await ann.alive(old, slow, *later) == [False, True, True, True]
    assert await ann.listed() == 3


@rows("kind", list(KINDS))
async def test_a_sign_in_whose_entry_changes_at_each_attempt_gives_up(
    clock: Clock, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ann = Ann(kind, clock, Slow(), 3, "evict")

    async def replace(key: str, value: bytes, version: Any, **how: Any) -> Any:
        raise Conflict(await ann.store.get(key, now=0))

    monkeypatch.setattr(ann.store, "replace", replace)
    with pytest.raises(SessionGone):
        await ann.site.visit(sign_in(), Browser())


@pytest.mark.guarantee(21)
@rows("kind", list(KINDS))
@rows("store", [Slow, SlowTogether])
async def test_where_none_is_evicted_a_sign_in_that_was_written_after_others_is_refused(
    clock: Clock, kind: str, store: type[Slow]
) -> None:
    ann = Ann(kind, clock, store(), 2, "refuse")
    slow = Browser()
    later = await ann.with_others_meanwhile(slow, 1)
    assert await ann.alive(slow, *later) == [True, True]
    await UserSessions(ann.backend).revoke_all("ann")

    ann = Ann(kind, clock, store(), 3, "refuse")
    old, slow = await ann.signs_in(), Browser()
    await ann.site.visit(users.get_user_id, old)  # it is confirmed

    async def slowly(session: Session) -> None:
        """More than a minute: then it takes none of the places any more."""
        await users.sign_in(session, "ann")
        clock.advance(61)

    async with anyio.create_task_group() as tasks:
        ann.store.next_waits = True
        tasks.start_soon(ann.signs_in, slow, slowly)
        await ann.store.waits.wait()
        await anyio.wait_all_tasks_blocked()
        later = [await ann.signs_in(), await ann.signs_in()]
        ann.store.may_go_on.set()
    assert await ann.alive(old, slow, *later) == [True, False, True, True]
    assert await ann.listed() == 3


@rows("kind", list(KINDS))
async def test_where_none_is_evicted_a_sign_in_ends_those_that_began_after_it_and_find_no_room(
    clock: Clock, kind: str
) -> None:
    ann = Ann(kind, clock, Slow(), 3, "refuse")
    old = await ann.signs_in()
    await ann.site.visit(users.get_user_id, old)  # it is confirmed
    keys = await ann.begins(3, later=9)
    new = await ann.signs_in()
    left = [await ann.index.store.get(key, now=int(clock())) is not None for key in keys]
    assert left == [True, False, False]
    assert await ann.alive(old, new) == [True, True]


@rows("kind", list(KINDS))
@rows("most", [2, 3])
async def test_a_sign_in_that_is_given_up_leaves_nothing_also_if_it_was_marked(
    clock: Clock, kind: str, most: int
) -> None:
    ann = Ann(kind, clock, Slow(), most, "evict")
    browsers: list[Browser] = []

    async def and_out(session: Session) -> None:
        await users.sign_in(session, "ann")
        browsers.extend([await ann.signs_in(), await ann.signs_in()])
        await users.sign_out(session)

    await ann.signs_in(act=and_out)
    assert await ann.alive(*browsers) == [True, True]
    assert (
        await ann.index.store.count_owned(ann.index.owner_name("ann"), most=9, now=int(clock()))
        == await ann.listed()
        == 2
    )


@rows("kind", list(KINDS))
async def test_sign_ins_that_are_never_saved_cost_all_later_ones_one_write_each(clock: Clock, kind: str) -> None:
    """They are pending for an hour. So many may be left by handlers that fail after `sign_in()`."""
    ann = Ann(kind, clock, Slow(), 2, "evict")
    await ann.signs_in()
    keys = await ann.begins(CHUNK + 10)
    for _ in range(3):
        await ann.signs_in()
    assert [ann.store.replaced.count(key) for key in keys] == [1] * len(keys)
    assert ann.store.most_replacing == CHUNK


@rows("kind", list(KINDS))
async def test_of_two_that_judge_at_once_none_judges_again_because_of_what_the_other_has_marked(
    clock: Clock, kind: str
) -> None:
    ann = Ann(kind, clock, Slow(), 2, "evict")
    await ann.signs_in()
    keys = await ann.begins(3)

    async def signs_in() -> None:
        await ann.signs_in()

    async with anyio.create_task_group() as tasks:
        ann.store.listed, ann.store.waits_after_list = 0, 2  # the first one is before it is saved
        tasks.start_soon(signs_in)
        await ann.store.may_go_on.wait()
        await ann.signs_in()
        assert [ann.store.replaced.count(key) for key in keys] == [1] * len(keys)
        ann.store.has_gone_on.set()
    assert [ann.store.replaced.count(key) for key in keys] == [2] * len(keys)
    assert ann.store.listed == 4
    assert await ann.listed() == 2
