"""Writes that belong together, where the store carries them out at once: what ends a session meanwhile, and conflicts.

`tests/shell/test_interrupted.py` interrupts them, and `tests/backends/test_round_trips.py` counts them.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from starsessions import CookieBackend, MissReason
from starsessions.backends.base import Conflict, IdInUse
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.together import Move
from starsessions.backends.user_index import COUNTS_FOR, Overtaken, PendingSignIn, UserIndex
from starsessions.core.record import Found, Identity, Record
from starsessions.stores import base as contract
from starsessions.stores.base import Creation, Deletion, Entry, Joined, Replacement, Write, Written
from starsessions.stores.memory import MemoryStore
from tests.rows import rows
from tests.shell.people import OneByOne
from tests.site import KEY

pytestmark = pytest.mark.anyio

NOW, END = 1_800_000_000, 1_800_000_000 + 100_000


class Busy(MemoryStore):
    """`then` is awaited once, before or after several writes."""

    def __init__(self) -> None:
        super().__init__()
        self.before: Callable[[], Awaitable[Any]] | None = None
        self.after: Callable[[], Awaitable[Any]] | None = None
        self.calls: list[int] = []

    async def write_together(self, writes: Sequence[Write], **how: Any) -> Any:
        before, self.before = self.before, None
        if before is not None:
            await before()
        self.calls.append(len(writes))
        versions = await super().write_together(writes, **how)
        after, self.after = self.after, None
        if after is not None:
            await after()
        return versions


def of(user: str = "ann", handle: str = "new", payload: bytes | None = b"\x80", generation: int = 0) -> Record:
    return Record(payload, NOW, NOW, identity=Identity(user, NOW, handle, generation=generation))


ANONYMOUS = Record(b"\x81\xa4cart\x01", NOW, NOW)


async def begun(backend: StoreBackend, before: Record) -> tuple[Found, PendingSignIn]:
    found = await backend.create(before, "before", END, NOW)
    pending = await backend.user_index.begin(backend.key_of("after"), of().identity, NOW + 60, NOW)  # type: ignore[arg-type]
    return found, pending


async def payload_of(backend: StoreBackend, token: str) -> Any:
    found = await backend.fetch(token, NOW)
    return found.record.payload if isinstance(found, Found) else found


@rows("before", [ANONYMOUS, of(handle="old")])
async def test_a_sign_in_that_is_overtaken_while_it_is_written_leaves_an_anonymous_session(before: Record) -> None:
    """A signed-in one was to be ended as well, by that which has ended the sign-in."""
    store = Busy()
    backend = StoreBackend(store)
    found, pending = await begun(backend, before)
    store.after = lambda: backend.user_index.epochs.begin("ann", NOW)
    with pytest.raises(Overtaken):
        await backend.rotate(found, of(), "after", END, NOW, pending=pending)
    assert await payload_of(backend, "after") is MissReason.UNKNOWN
    expected = before.payload if before.identity is None else MissReason.UNKNOWN
    assert await payload_of(backend, "before") == expected


class Answers(Busy):
    """Says with its writes what is there after them, if it can, and notes what else it is asked."""

    def __init__(self, can: bool = True) -> None:
        super().__init__()
        self.can = can
        self.asked: list[str] = []

    async def get(self, key: str, *, now: int) -> Entry | None:
        self.asked.append("get")
        return await super().get(key, now=now)

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        self.asked.append("count")
        return await super().count_owned(name, most=most, now=now)

    async def write_joined(self, writes: Sequence[Write], *, owner: str, other: str, **how: Any) -> Written | None:
        self.asked.append("answer")
        if not self.can:
            return None
        versions, now = await self.write_together(writes, **how), how["now"]
        count = await super().count_owned(owner, most=9, now=now)
        return Written(versions, self.peek(owner, now), self.peek(other, now), count)


ENDS: dict[str, Callable[[UserIndex], Awaitable[Any]]] = {
    "the user's sessions": lambda index: index.epochs.begin("ann", NOW),
    "all sessions": lambda index: index.begin_epoch_of_all(NOW),
}


ACTS: dict[str, Callable[[StoreBackend, Found], Awaitable[Any]]] = {
    "a write": lambda backend, found: backend.replace(found, of(payload=b"\x81"), END, NOW),
    "a rotation": lambda backend, found: backend.rotate(found, of(), "next", END, NOW),
}


@pytest.mark.guarantee(18)
async def test_a_store_that_answers_with_its_writes_is_asked_nothing_else() -> None:
    store = Answers()
    backend = StoreBackend(store)
    found = await backend.create(ANONYMOUS, "before", END, NOW)
    identity = of().identity
    assert identity is not None
    pending = await backend.user_index.begin(backend.key_of("after"), identity, NOW + 60, NOW, most=9)
    assert (pending.count, pending.epochs) == (1, b"")
    found = await backend.rotate(found, of(), "after", END, NOW, pending=pending)
    for act in ACTS.values():
        found = await act(backend, found)
    assert store.asked == ["answer"] * 4


@rows("ends", ENDS.values(), ids=ENDS)
@rows("act", ACTS.values(), ids=ACTS)
async def test_what_a_store_answers_with_its_writes_ends_what_an_epoch_has_refused(
    act: Callable[[StoreBackend, Found], Awaitable[Any]], ends: Callable[[UserIndex], Awaitable[Any]]
) -> None:
    store = Answers()
    backend = StoreBackend(store)
    found = await backend.create(of(), "before", END, NOW)
    store.after = lambda: ends(backend.user_index)
    with pytest.raises(Conflict) as conflict:
        await act(backend, found)
    assert conflict.value.current is None
    assert [await payload_of(backend, one) for one in ("before", "next")] == [MissReason.UNKNOWN] * 2


async def test_what_a_user_has_is_counted_again_when_the_session_is_saved() -> None:
    store = Answers()
    backend = StoreBackend(store)
    found, pending = await begun(backend, ANONYMOUS)
    await backend.create(of(handle="other"), "other", END, NOW)
    await backend.rotate(found, of(), "after", END, NOW, pending=pending)
    assert pending.count == 2


async def test_a_store_that_cannot_answer_is_not_asked_again() -> None:
    store = Answers(can=False)
    backend = StoreBackend(store)
    found, pending = await begun(backend, ANONYMOUS)
    await backend.rotate(found, of(), "after", END, NOW, pending=pending)
    assert store.asked == ["answer", "get", "get", "get", "get"]
    assert await payload_of(backend, "after") == b"\x80"


async def test_what_was_overtaken_is_not_put_back_in_a_place_that_another_request_has_taken() -> None:
    store = Busy()
    backend = StoreBackend(store)
    found, pending = await begun(backend, ANONYMOUS)

    async def meanwhile() -> None:
        await backend.user_index.epochs.begin("ann", NOW)
        await store.delete(backend.key_of("before"), now=NOW)

    store.after = meanwhile
    with pytest.raises(Overtaken):
        await backend.rotate(found, of(), "after", END, NOW, pending=pending)
    assert [await payload_of(backend, one) for one in ("before", "after")] == [MissReason.UNKNOWN] * 2


async def test_a_rotation_of_a_user_whose_sessions_are_ended_meanwhile_is_a_conflict() -> None:
    store = Busy()
    backend = StoreBackend(store)
    found = await backend.create(of(), "before", END, NOW)
    store.after = lambda: backend.user_index.epochs.begin("ann", NOW)
    with pytest.raises(Conflict) as conflict:
        await backend.rotate(found, of(), "after", END, NOW)
    assert conflict.value.current is None
    assert [await payload_of(backend, one) for one in ("before", "after")] == [MissReason.UNKNOWN] * 2


@pytest.mark.guarantee(12)
async def test_a_session_that_has_changed_meanwhile_is_not_moved_and_nothing_is_written() -> None:
    store = Busy()
    backend = StoreBackend(store)
    found, pending = await begun(backend, ANONYMOUS)
    changed = Record(b"\x81\xa4cart\x02", NOW, NOW)
    store.before = lambda: backend.replace(found, changed, END, NOW)
    with pytest.raises(Conflict) as conflict:
        await backend.rotate(found, of(), "after", END, NOW, pending=pending)
    assert conflict.value.current is not None
    assert conflict.value.current.record.payload == changed.payload
    assert (store.calls, len(store)) == ([3], 2)
    moved = await backend.rotate(conflict.value.current, of(), "after", END, NOW, pending=pending)
    assert await payload_of(backend, moved.token) == b"\x80"


async def test_a_new_id_that_is_in_use_is_refused() -> None:
    backend = StoreBackend(MemoryStore())
    found = await backend.create(ANONYMOUS, "before", END, NOW)
    await backend.create(ANONYMOUS, "after", END, NOW)
    with pytest.raises(IdInUse):
        await backend.rotate(found, ANONYMOUS, "after", END, NOW)
    assert await payload_of(backend, "before") == ANONYMOUS.payload


async def test_a_sign_in_whose_pending_entry_has_expired_is_stored_anew() -> None:
    store = Busy()
    backend = StoreBackend(store)
    found, pending = await begun(backend, ANONYMOUS)
    then = NOW + COUNTS_FOR
    await backend.rotate(found, of(), "after", END, then, pending=pending)
    assert store.calls == [3]
    assert await payload_of(backend, "after") == b"\x80"
    assert await payload_of(backend, "before") is MissReason.JUST_ROTATED


async def test_a_rotation_at_once_leaves_one_entry_on_the_list_for_as_long_as_the_session_lasts() -> None:
    store = Busy()
    backend = StoreBackend(store)
    found = await backend.create(of(), "before", END, NOW)
    await backend.rotate(found, of(), "after", END, NOW)
    assert store.calls == [2]
    assert len((await backend.user_index.page("ann", 10, END - 1))[0]) == 1


class CannotYet(MemoryStore):
    """As a Redis Cluster behind an ordinary client: that it cannot do it, it finds out when it is asked."""

    asked = 0

    async def write_together(self, writes: Sequence[Write], **how: Any) -> Any:
        self.asked += 1


async def test_a_store_that_says_that_it_cannot_is_not_asked_again() -> None:
    store = CannotYet()
    backend = StoreBackend(store)
    found = await backend.create(of(), "a", END, NOW)
    for token in "bcd":
        found = await backend.rotate(found, of(), token, END, NOW)
    await backend.delete(found, NOW)
    assert await payload_of(backend, "d") is MissReason.UNKNOWN
    assert store.asked == 2  # for several writes, and for a single one, which a Cluster can do


@rows("before", [ANONYMOUS, of(handle="old")])
async def test_step_by_step_a_session_that_has_changed_is_not_moved_either(before: Record) -> None:
    backend = StoreBackend(OneByOne(MemoryStore()))
    found, pending = await begun(backend, before)
    changed = replace(before, payload=b"\x81\xa4cart\x02")
    await backend.replace(found, changed, END, NOW)
    for one in (pending, None):
        with pytest.raises(Conflict) as conflict:
            await backend.rotate(found, of(), "after" if one else "other", END, NOW, pending=one)
        assert conflict.value.current is not None
        assert conflict.value.current.record.payload == changed.payload
    assert [await payload_of(backend, one) for one in ("after", "other")] == [MissReason.UNKNOWN] * 2
    await backend.rotate(conflict.value.current, of(), "after", END, NOW, pending=pending)
    assert await payload_of(backend, "after") == b"\x80"


# Cookies


async def signed_in(backend: CookieBackend, handle: str = "old") -> tuple[Found, UserIndex]:
    index = backend.user_index
    assert index is not None
    identity = of(handle=handle).identity
    assert identity is not None
    pending = await index.begin(backend.sign_in_key(identity, ""), identity, NOW + 60, NOW)
    return await backend.create(of(handle=handle), None, END, NOW, pending), index


async def begin_again(backend: CookieBackend, index: UserIndex) -> PendingSignIn:
    identity = of().identity
    assert identity is not None
    return await index.begin(backend.sign_in_key(identity, ""), identity, NOW + 60, NOW)


async def test_a_sign_in_again_ends_the_one_before_at_once() -> None:
    store = Busy()
    backend = CookieBackend(KEY, revocations=store)
    found, index = await signed_in(backend)
    renewed = await backend.rotate(found, of(), "", END, NOW, pending=await begin_again(backend, index))
    assert store.calls == [2]
    assert isinstance(await backend.fetch(renewed.token, NOW), Found)
    assert await backend.fetch(found.token, NOW) is MissReason.UNKNOWN


async def test_a_sign_in_again_ends_one_that_was_renewed_meanwhile() -> None:
    store = Busy()
    backend = CookieBackend(KEY, revocations=store)
    found, index = await signed_in(backend)
    pending = await begin_again(backend, index)
    store.before = lambda: backend.replace(found, of(handle="old"), END * 2, NOW)
    renewed = await backend.rotate(found, of(), "", END, NOW, pending=pending)
    assert isinstance(await backend.fetch(renewed.token, NOW), Found)
    assert await backend.fetch(found.token, NOW) is MissReason.UNKNOWN


async def test_a_sign_in_again_that_is_overtaken_opens_nothing() -> None:
    store = Busy()
    backend = CookieBackend(KEY, revocations=store)
    found, index = await signed_in(backend)
    pending = await begin_again(backend, index)
    store.after = lambda: index.epochs.begin("ann", NOW)
    with pytest.raises(Overtaken):
        await backend.rotate(found, of(), "", END, NOW, pending=pending)
    assert (await index.page("ann", 10, NOW))[0] == []


async def test_a_rotation_of_a_sign_in_is_one_write() -> None:
    store = Busy()
    backend = CookieBackend(KEY, revocations=store)
    found, _ = await signed_in(backend)
    renewed = await backend.rotate(found, found.record, "", END, NOW)
    assert store.calls == [1]
    assert isinstance(await backend.fetch(renewed.token, NOW), Found)
    assert await backend.fetch(found.token, NOW) is MissReason.UNKNOWN


async def test_a_rotation_of_a_sign_in_that_is_ended_meanwhile_is_a_conflict() -> None:
    store = Busy()
    backend = CookieBackend(KEY, revocations=store)
    found, index = await signed_in(backend)
    store.after = lambda: index.epochs.begin("ann", NOW)
    with pytest.raises(Conflict):
        await backend.rotate(found, found.record, "", END, NOW)
    assert (await index.page("ann", 10, NOW))[0] == []


async def test_a_store_that_lists_nothing_does_not_write_past_the_lists_that_the_library_keeps() -> None:
    class Lists(Busy):
        """The library keeps the lists, because the store has no method for it."""

        list_owned = count_owned = None  # type: ignore[assignment]

    store = Lists()
    backend = StoreBackend(store)
    found = await backend.create(of(), "before", END, NOW)
    rotated = await backend.rotate(found, found.record, "after", END, NOW)
    [listed], _ = await backend.user_index.page("ann", 10, NOW)
    assert (listed.key, store.calls) == (backend.key_of("after"), [])
    await backend.user_index.end(listed.key, listed.version)
    assert await backend.fetch(rotated.token, NOW) is MissReason.UNKNOWN


async def test_step_by_step_a_sign_in_is_rotated_and_replaced_as_well() -> None:
    backend = CookieBackend(KEY, revocations=OneByOne(MemoryStore()))
    found, index = await signed_in(backend)
    rotated = await backend.rotate(found, found.record, "", END, NOW)
    renewed = await backend.rotate(rotated, of(), "", END, NOW, pending=await begin_again(backend, index))
    opened = [await backend.fetch(one.token, NOW) for one in (found, rotated, renewed)]
    assert [isinstance(one, Found) for one in opened] == [False, False, True]


def test_what_debuggers_print_of_an_entry_or_a_write_shows_nothing_of_it() -> None:
    move = Move(Found("token", of()), "key", of(), END, NOW, 0, None)
    assert repr(move) == "<Move>"
    writes = [Creation("key", b"value", 1), Replacement("key", b"value", 1, 2), Deletion("key", 1)]
    assert [repr(one) for one in writes] == ["<Creation>", "<Replacement>", "<Deletion>"]
    assert repr(Joined(Entry(b"secret", 1, 2), "ann")) == "<Joined>"


async def test_an_entry_of_any_version_is_ended() -> None:
    backend = StoreBackend(MemoryStore())
    await backend.create(of(), "a", END, NOW)
    index, key = backend.user_index, backend.key_of("a")
    assert [await index.end(key), await index.end(key)] == [True, False]


@rows("make", [MemoryStore, lambda: OneByOne(MemoryStore())], ids=["together", "one by one"])
async def test_an_entry_ends_if_it_has_the_version_that_is_named(make: Callable[[], Any]) -> None:
    backend = StoreBackend(make())
    found = await backend.create(of(), "a", END, NOW)
    index, key, version = backend.user_index, backend.key_of("a"), found.version.version
    await backend.store.replace(key, b"changed", version, expires_at=END, now=NOW)
    with pytest.raises(contract.Conflict):
        await index.end_unchanged(key, version, NOW)
    entry = await backend.store.get(key, now=NOW)
    await index.end_unchanged(key, entry.version, NOW)
    assert await backend.store.get(key, now=NOW) is None
