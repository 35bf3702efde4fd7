"""The contents of a store: hashes of ids, records marked with their keys, and pointers left by rotations."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from starsessions import MissReason, Session, stores
from starsessions.backends.adapter import adapt
from starsessions.backends.base import Conflict
from starsessions.backends.server_side import MAX_HOPS, Location, Pointer, StoreBackend
from starsessions.backends.together import MOVING_FOR
from starsessions.core.record import Found, Identity, Record
from starsessions.exceptions import BackendUnavailable
from starsessions.stores.memory import MemoryStore
from tests.keys import key_for
from tests.rows import rows
from tests.site import Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
END = NOW + 1000


@pytest.fixture
def backend(clock: Clock) -> StoreBackend:
    return StoreBackend(MemoryStore(), clock=clock)


def stored_in(store: MemoryStore) -> bytes:
    """Return all that the store holds of its entries."""
    return b"".join(value for part in store._entries for value in part.values())


def held(backend: StoreBackend) -> MemoryStore:
    assert isinstance(backend.store, MemoryStore)
    return backend.store


def record(payload: bytes = b"\x80") -> Record:
    return Record(payload, NOW, NOW)


async def begin(backend: StoreBackend, session_id: str = "first", payload: bytes = b"\x80") -> Found:
    return await backend.create(record(payload), session_id, END, NOW)


async def test_an_id_that_was_not_replaced_leads_to_no_data_of_an_earlier_session(backend: StoreBackend) -> None:
    await begin(backend)
    assert [await backend.data_before_sign_in(token, None, NOW) for token in ("first", "unknown")] == [None, None]


@pytest.mark.guarantee(14)
async def test_what_is_to_end_is_found_by_an_id_in_its_grace_although_it_is_expired_by_this_clock(
    backend: StoreBackend,
) -> None:
    found = await begin(backend)
    await backend.rotate(found, record(), "second", NOW + 10, NOW, usable_until=NOW + 60)

    assert await backend.fetch("first", NOW + 20) is MissReason.UNKNOWN
    assert isinstance(await backend.fetch_to_end("first", NOW + 20), Found)
    assert await backend.fetch_to_end("first", NOW + 60) is MissReason.ROTATED  # it entitles to nothing any more


@pytest.mark.requirement("NIST 5.1.1(7)")
@pytest.mark.guarantee(17)
async def test_a_dump_of_the_store_reveals_no_session_id(site_of: Callable[..., Site], backend: StoreBackend) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(user="ann"))
    session_id = site.browser.cookies["session"]
    [key] = held(backend).all_keys()

    assert key == key_for(session_id)
    assert session_id.encode() not in stored_in(held(backend))
    # A key looks like an id, and is hashed like one.
    assert await site.data(Browser({"session": key})) == {}
    assert await site.data() == {"user": "ann"}


@rows("garbage", [b"", b"\x80", b"\xc1", b"x" * 100, b"short"])
async def test_garbage_under_a_key_is_undecodable_and_can_be_removed(backend: StoreBackend, garbage: bytes) -> None:
    for value in (garbage, key_for("an-id")[:8].encode() + garbage):
        await backend.store.create(key_for("an-id"), value, expires_at=END, now=NOW)
        assert await backend.fetch("an-id", NOW) is MissReason.UNDECODABLE
        await backend.remove("an-id")
        assert await backend.fetch("an-id", NOW) is MissReason.UNKNOWN


@pytest.mark.guarantee(17)
async def test_a_record_copied_to_another_key_is_rejected(backend: StoreBackend) -> None:
    await begin(backend, "ann", b"\x81\xa1a\x01")
    entry = await backend.store.get(key_for("ann"), now=NOW)
    assert entry is not None
    await backend.store.create(key_for("eve"), entry.value, expires_at=END, now=NOW)
    assert await backend.fetch("eve", NOW) is MissReason.UNDECODABLE
    assert isinstance(await backend.fetch("ann", NOW), Found)


async def test_an_old_id_is_known_as_rotated_while_its_session_would_have_lasted(backend: StoreBackend) -> None:
    found = await begin(backend)
    await backend.rotate(found, record(), "second", END, NOW)
    assert await backend.fetch("first", NOW + 29) is MissReason.JUST_ROTATED
    assert await backend.fetch("first", NOW + 30) is MissReason.ROTATED
    assert await backend.fetch("first", END - 1) is MissReason.ROTATED
    assert await backend.fetch("first", END) is MissReason.UNKNOWN


async def test_an_old_id_finds_the_new_session_exactly_until_its_grace_ends(
    backend: StoreBackend,
) -> None:
    found = await begin(backend)
    await backend.rotate(found, record(b"\x81\xa1a\x01"), "second", END, NOW, NOW + 60)
    alias = await backend.fetch("first", NOW + 59)
    assert isinstance(alias, Found)
    assert (alias.token, alias.is_alias, alias.record.payload) == ("first", True, b"\x81\xa1a\x01")
    assert await backend.fetch("first", NOW + 60) is MissReason.ROTATED


async def test_a_write_through_an_old_id_reaches_the_new_session(backend: StoreBackend) -> None:
    found = await begin(backend)
    await backend.rotate(found, record(), "second", END, NOW, NOW + 10)
    alias = await backend.fetch("first", NOW)
    assert isinstance(alias, Found)
    written = await backend.replace(alias, record(b"\x81\xa1b\x02"), END, NOW)
    assert written.is_alias
    renewed = await backend.fetch("second", NOW)
    assert isinstance(renewed, Found)
    assert renewed.record.payload == b"\x81\xa1b\x02"
    assert not renewed.is_alias


async def test_a_late_write_with_the_old_id_gets_the_current_session(backend: StoreBackend) -> None:
    found = await begin(backend)
    await backend.rotate(found, record(), "second", END, NOW, NOW + 10)
    with pytest.raises(Conflict) as conflict:
        await backend.replace(found, record(), END, NOW)
    assert conflict.value.current is not None
    assert conflict.value.current.is_alias
    with pytest.raises(Conflict) as gone:
        await backend.replace(found, record(), END, NOW + 10)
    assert gone.value.current is None


async def test_a_rotation_that_loses_a_race_leaves_no_entry(backend: StoreBackend) -> None:
    found = await begin(backend)
    await backend.rotate(found, record(), "second", END, NOW)
    with pytest.raises(Conflict) as gone:
        await backend.rotate(found, record(), "third", END, NOW)
    assert gone.value.current is None
    assert await backend.fetch("third", NOW) is MissReason.UNKNOWN
    assert set(held(backend).all_keys()) == {key_for("first"), key_for("second")}


@pytest.mark.guarantee(14)
@pytest.mark.parametrize("grace", [0, 10])
async def test_a_logout_during_a_rotation_ends_the_new_session(backend: StoreBackend, grace: int) -> None:
    found = await begin(backend)
    second = await backend.rotate(found, record(), "second", END, NOW, NOW + grace if grace else 0)
    await backend.rotate(second, record(), "third", END, NOW)
    await backend.delete(found, NOW)
    assert not isinstance(await backend.fetch("third", NOW), Found)
    await backend.delete(found, NOW)  # and once more is no error


def of_ann(payload: bytes = b"\x80") -> Record:
    return Record(payload, NOW, NOW, identity=Identity("ann", NOW, "handle"))


class Interrupted(MemoryStore):
    """`then` is awaited once, after a pointer was written, step by step."""

    write_together: Any = None
    then: Callable[[], Awaitable[None]] | None = None

    async def replace(self, key: str, *args: Any, **more: Any) -> Any:
        version = await super().replace(key, *args, **more)
        if self.then is not None and more.get("owner") is None:
            then, self.then = self.then, None
            await then()
        return version


async def test_the_id_of_a_sign_in_that_is_not_saved_yet_opens_nothing(backend: StoreBackend) -> None:
    await backend.user_index.begin(key_for("first"), Identity("ann", NOW, "handle"), NOW + 60, NOW)
    assert await backend.fetch("first", NOW) is MissReason.UNKNOWN


@pytest.mark.guarantee(21)
async def test_what_an_interrupted_rotation_leaves_is_listed_for_a_minute() -> None:
    """No one knows its id, so a sign-out could not end it."""
    store = Interrupted()
    backend = StoreBackend(store)

    async def die() -> None:
        raise BackendUnavailable("the store fails from here on")

    found = await backend.create(of_ann(), "first", END, NOW)
    store.then = die
    with pytest.raises(BackendUnavailable):
        await backend.rotate(found, of_ann(), "second", END, NOW)
    index = backend.user_index
    assert [len((await index.page("ann", 10, now))[0]) for now in (NOW + MOVING_FOR - 1, NOW + MOVING_FOR)] == [1, 0]

    found = await backend.create(of_ann(), "third", END, NOW)
    await backend.rotate(found, of_ann(), "fourth", END, NOW)
    assert len((await index.page("ann", 10, END - 1))[0]) == 1


async def test_a_change_by_the_old_id_within_a_rotation_is_kept_and_merged() -> None:
    store = Interrupted()
    backend = StoreBackend(store)

    async def change() -> None:
        alias = await backend.fetch("first", NOW)
        assert isinstance(alias, Found)
        await backend.replace(alias, of_ann(b"\x81\xa1a\x01"), END, NOW)

    found = await backend.create(of_ann(), "first", END, NOW)
    store.then = change
    renewed = await backend.rotate(found, of_ann(), "second", END, NOW, NOW + 60)
    with pytest.raises(Conflict) as conflict:  # so that the next save merges
        await backend.replace(renewed, of_ann(), END, NOW)
    assert conflict.value.current is not None
    assert conflict.value.current.record.payload == b"\x81\xa1a\x01"


async def test_a_session_that_is_revoked_within_its_rotation_stays_ended() -> None:
    store = Interrupted()
    backend = StoreBackend(store)
    found = await backend.create(of_ann(), "first", END, NOW)

    async def revoke() -> None:
        await backend.delete(found, NOW)

    store.then = revoke
    with pytest.raises(Conflict) as conflict:
        await backend.rotate(found, of_ann(), "second", END, NOW)
    assert conflict.value.current is None
    assert await backend.fetch("second", NOW) is MissReason.UNKNOWN


@pytest.mark.guarantee(14)
async def test_a_logout_ends_a_session_that_was_changed_meanwhile(backend: StoreBackend) -> None:
    found = await begin(backend)
    await backend.replace(found, record(b"\x81\xa1a\x01"), END, NOW)
    await backend.delete(found, NOW)
    assert await backend.fetch("first", NOW) is MissReason.UNKNOWN


async def test_a_logout_that_always_conflicts_deletes_unconditionally() -> None:
    """Another request writes between each read and each delete, endlessly."""

    class Contended(MemoryStore):
        write_together: Any = None
        refused = 0

        async def delete(self, key: str, version: Any = None, *, now: int) -> bool:
            if version is not None:
                self.refused += 1
                raise stores.Conflict(self.peek(key, now))
            return await super().delete(key, version, now=now)

    store = Contended()
    contended = StoreBackend(store)
    found = await begin(contended)
    await contended.delete(found, NOW)
    assert (store.refused, len(store)) == (100, 0)


async def test_a_conditional_delete_gets_the_current_session(backend: StoreBackend) -> None:
    found = await begin(backend)
    await backend.replace(found, record(b"\x81\xa1a\x01"), END, NOW)
    with pytest.raises(Conflict) as conflict:
        await backend.delete(found, NOW, if_unchanged=True)
    assert conflict.value.current is not None
    assert conflict.value.current.record.payload == b"\x81\xa1a\x01"


async def test_a_cycle_of_pointers_is_followed_only_so_far(backend: StoreBackend) -> None:
    for here, there in (("one", "two"), ("two", "one")):
        pointer = key_for(here)[:8].encode() + msgspec.msgpack.encode(Pointer(key_for(there), NOW, END))
        await backend.store.create(key_for(here), pointer, expires_at=END, now=NOW)
    assert await backend.fetch("one", NOW) is MissReason.UNDECODABLE
    assert MAX_HOPS == 16
    await backend.delete(Found("one", record(), Location(key_for("one"), "another version")), NOW)


async def test_the_pointer_of_a_rotated_session_can_be_removed_by_hand(backend: StoreBackend) -> None:
    found = await begin(backend)
    await backend.rotate(found, record(), "second", END, NOW)
    await backend.remove("first")
    assert await backend.fetch("first", NOW) is MissReason.UNKNOWN
    assert await backend.exists("second")


async def test_an_old_id_in_its_grace_reads_and_ends_the_new_session_by_hand(backend: StoreBackend) -> None:
    found = await begin(backend)
    await backend.rotate(found, record(b"\x81\xa1a\x01"), "second", END, NOW, NOW + 10)
    assert await backend.read("first") == {"a": 1}
    await backend.write({"b": 2}, "first")
    assert await backend.read("second") == {"b": 2}
    await backend.remove("first")
    assert not await backend.exists("second")


async def test_any_text_can_be_an_id_when_used_by_hand(backend: StoreBackend) -> None:
    for session_id in ("", "é", "\udc80", "a" * 10_000, "../x y"):
        if session_id:
            await backend.write({"id": 1}, session_id)
            assert await backend.read(session_id) == {"id": 1}


async def test_a_session_that_another_user_signs_in_to_leaves_the_list_of_the_first(backend: StoreBackend) -> None:
    def of(user_id: str, handle: str) -> Record:
        return Record(b"\x80", NOW, NOW, identity=Identity(user_id, NOW, handle))

    async def keys_of(user_id: str) -> list[str]:
        return [one.key for one in (await backend.user_index.page(user_id, 10, NOW))[0]]

    found = await backend.create(of("ann", "one"), "first", END, NOW)
    assert await keys_of("ann") == [key_for("first")]
    for user_id, handle, token in (("eve", "two", "second"), ("eve", "three", "third")):
        found = await backend.rotate(found, of(user_id, handle), token, END, NOW)
    assert await keys_of("ann") == []
    assert await keys_of("eve") == [key_for("third")]
    # The same session under another id stays where it is.
    await backend.rotate(found, found.record, "fourth", END, NOW)
    assert await keys_of("eve") == [key_for("fourth")]


async def test_a_session_that_was_rotated_meanwhile_is_still_that_of_the_old_id(backend: StoreBackend) -> None:
    found = await begin(backend)
    await backend.rotate(found, record(b"\x81\xa1a\x01"), "second", END, NOW, NOW + 10)
    again = await backend.refetch(found, NOW)
    assert isinstance(again, Found)
    assert (again.token, again.is_alias, again.record.payload) == ("first", True, b"\x81\xa1a\x01")
    alias = await backend.fetch("first", NOW)
    assert isinstance(alias, Found)
    assert isinstance(still := await backend.refetch(alias, NOW), Found)
    assert still.is_alias
    second = await backend.fetch("second", NOW)
    assert isinstance(second, Found)
    assert isinstance(direct := await backend.refetch(second, NOW), Found)
    assert not direct.is_alias


# Encryption at rest

KEY, NEW_KEY = "0123456789abcdefghijklmnopqrstuv", "a new key that is as long as a key must be"


def encrypted(store: MemoryStore, clock: Clock, *keys: str) -> StoreBackend:
    return StoreBackend(store, encrypt_with=list(keys), clock=clock)


@pytest.mark.guarantee(17)
async def test_an_encrypted_record_reveals_nothing_in_the_store_and_is_read_back(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    store = MemoryStore()
    site = site_of(backend=encrypted(store, clock, KEY))
    await site.visit(lambda session: session.update(user="a user with a name"))
    await site.visit(lambda session: session.regenerate_id(grace=30))
    assert await site.data() == {"user": "a user with a name"}
    assert b"with a name" not in stored_in(store)
    # The pointer of the rotation is encrypted, too.
    assert not any(key.encode() in stored_in(store) for key in store.all_keys())


@pytest.mark.guarantee(17)
async def test_an_encrypted_record_is_rejected_under_another_key_even_with_a_forged_owner(clock: Clock) -> None:
    store = MemoryStore()
    backend = encrypted(store, clock, KEY)
    await begin(backend, "ann")
    entry = await store.get(key_for("ann"), now=NOW)
    assert entry is not None
    forged = key_for("eve")[:8].encode() + entry.value[8:]
    await store.create(key_for("eve"), forged, expires_at=END, now=NOW)
    assert await backend.fetch("eve", NOW) is MissReason.BAD_SIGNATURE


@pytest.mark.guarantee(17)
@rows("cut", [0, 8, 20, 39, -1])
async def test_a_record_that_is_cut_or_not_encrypted_with_the_key_is_rejected(clock: Clock, cut: int) -> None:
    store = MemoryStore()
    backend = encrypted(store, clock, KEY)
    found = await begin(backend, "ann")
    entry = await store.get(key_for("ann"), now=NOW)
    assert entry is not None
    await store.replace(key_for("ann"), entry.value[:cut], found.version.version, expires_at=END, now=NOW)
    assert await backend.fetch("ann", NOW) in (MissReason.BAD_SIGNATURE, MissReason.UNDECODABLE)

    await begin(StoreBackend(store, clock=clock), "plain")
    assert await backend.fetch("plain", NOW) is MissReason.BAD_SIGNATURE
    await begin(encrypted(store, clock, NEW_KEY), "other")
    assert await backend.fetch("other", NOW) is MissReason.BAD_SIGNATURE


@pytest.mark.guarantee(17)
async def test_a_record_moves_to_the_first_key_when_it_is_next_written(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    store = MemoryStore()
    site = site_of(backend=encrypted(store, clock, KEY))
    await site.visit(lambda session: session.update(n=1))
    both = site_of(backend=encrypted(store, clock, NEW_KEY, KEY))
    both.browser = site.browser
    assert await both.data() == {"n": 1}
    await both.visit(lambda session: session.update(n=2))
    new = site_of(backend=encrypted(store, clock, NEW_KEY))
    assert await new.data(site.browser) == {"n": 2}


def test_no_repr_shows_the_key_of_a_session() -> None:
    """In memory, that is its id, and tools print local variables."""
    for one in (Location("an-id", 1), Pointer("an-id", 1, 2)):
        assert repr(one) == f"<{type(one).__name__}>"
        assert one.__rich_repr__() == []


async def test_the_rules_hold_for_a_session_by_hand_too(backend: StoreBackend) -> None:
    session = Session(backend, "by-hand")
    await session.load()
    session["a"] = 1
    await session.persist()
    assert await backend.read("by-hand") == {"a": 1}


@pytest.mark.both_loops
async def test_peek_on_a_store_that_waits_raises() -> None:
    import anyio

    from starsessions.backends.base import in_one_step

    async def waits() -> Any:
        await anyio.lowlevel.checkpoint()

    with pytest.raises(RuntimeError, match="suspended"):
        in_one_step(waits())


def test_a_backend_that_waits_for_its_store_answers_nothing_at_once(backend: StoreBackend) -> None:
    waits = StoreBackend(backend.store)
    assert not waits.never_waits
    with pytest.raises(NotImplementedError):
        waits.peek("id", NOW)
    with pytest.raises(NotImplementedError):
        waits.seal(record())


def test_a_backend_without_entries_of_users_has_no_key_for_a_sign_in() -> None:
    with pytest.raises(NotImplementedError):
        adapt(DictBackend()).sign_in_key(Identity("ann", NOW, "a-handle"), "an-id")
