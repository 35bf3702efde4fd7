"""`Session(backend, session_id=None)` used directly, as in 1.0.2: without middleware, and with ids of its caller."""

from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import AsyncMock

import pytest

from starsessions import CookieBackend, InMemoryBackend, Session, SessionBackend, SessionError, SessionNotLoaded
from tests.kinds import each_backend
from tests.rows import rows
from tests.site import DictBackend

pytestmark = pytest.mark.anyio


@pytest.fixture
def memory() -> InMemoryBackend:
    return InMemoryBackend()


@pytest.fixture
def session(memory: InMemoryBackend) -> Session:
    """As in users' tests: without a request, and with `is_loaded` set by hand."""
    session = Session(memory)
    session.is_loaded = True
    return session


# load


async def test_load_fetches_the_data_stored_under_the_id(memory: InMemoryBackend) -> None:
    await memory.write({"key": "value"}, "session_id")
    session = Session(memory, "session_id")
    assert session.is_loaded is False
    await session.load()
    assert session.is_loaded is True
    assert session.items() == {"key": "value"}.items()
    assert session.session_id == "session_id"
    assert session.is_modified is False


async def test_the_id_may_be_given_by_keyword(memory: InMemoryBackend) -> None:
    await memory.write({"key": "value"}, "session_id")
    session = Session(backend=memory, session_id="session_id")
    await session.load()
    assert session == {"key": "value"}


async def test_a_session_without_an_id_loads_as_an_empty_one(memory: InMemoryBackend) -> None:
    session = Session(memory)
    await session.load()
    assert session.is_empty is True
    assert session.session_id is None
    assert session.is_modified is False


async def test_an_unknown_id_loads_as_an_empty_session(memory: InMemoryBackend) -> None:
    session = Session(memory, "session_id")
    await session.load()
    assert session.is_empty is True


async def test_a_second_load_changes_nothing(memory: InMemoryBackend) -> None:
    await memory.write({"key": "value"}, "session_id")
    session = Session(memory, "session_id")
    await session.load()
    session["key2"] = "value2"
    await session.load()
    assert session == {"key": "value", "key2": "value2"}


async def test_is_loaded_set_to_false_makes_load_fetch_again(memory: InMemoryBackend) -> None:
    await memory.write({"key": "value", "old": True}, "session_id")
    session = Session(memory, "session_id")
    await session.load()
    await memory.write({"key": "other"}, "session_id")
    session.is_loaded = False
    with pytest.raises(SessionNotLoaded):
        session.get("key")
    await session.load()
    assert session == {"key": "other"}


async def test_what_a_list_held_before_it_was_fetched_again_is_a_change_by_now(memory: InMemoryBackend) -> None:
    await memory.write({"cart": []}, "session_id")
    session = Session(memory, "session_id")
    await session.load()
    assert session["cart"] == []
    await memory.write({"cart": ["tea"]}, "session_id")
    session.is_loaded = False
    await session.load()

    session["cart"].remove("tea")
    await session.persist()

    assert await memory.read("session_id") == {"cart": []}


USES: dict[str, Any] = {
    "data": lambda session: session.data,
    "data =": lambda session: setattr(session, "data", {}),
    "is_empty": lambda session: session.is_empty,
    "[]": lambda session: session["key"],
    "[] =": lambda session: session.__setitem__("key", "value"),
    "del []": lambda session: session.__delitem__("key"),
    "in": lambda session: "key" in session,
    "iter": list,
    "reversed": lambda session: list(reversed(session)),
    "len": len,
    "bool": bool,
    "==": lambda session: session == {},
    "dict": dict,
    "**": lambda session: dict(**session),
    "|": lambda session: session | {},
    "|=": lambda session: session.__ior__({}),
    "get": lambda session: session.get("key"),
    "keys": lambda session: session.keys(),
    "values": lambda session: session.values(),
    "items": lambda session: session.items(),
    "pop": lambda session: session.pop("key", None),
    "popitem": lambda session: session.popitem(),
    "setdefault": lambda session: session.setdefault("key", "value"),
    "update": lambda session: session.update(key="value"),
    "clear": lambda session: session.clear(),
    "copy": lambda session: session.copy(),
}


@rows("use", USES.values(), ids=USES)
def test_before_load_every_use_raises_session_not_loaded(memory: InMemoryBackend, use: Any) -> None:
    session = Session(memory, "session_id")
    with pytest.raises(SessionNotLoaded, match=r"await session\.load\(\)") as raised:
        use(session)
    assert isinstance(raised.value, SessionError)
    assert session.is_modified is False


async def test_persist_before_load_raises_session_not_loaded(memory: InMemoryBackend) -> None:
    with pytest.raises(SessionNotLoaded):
        await Session(memory, "session_id").persist()


# persist


async def test_persist_keeps_an_id_that_was_given_by_hand(memory: InMemoryBackend) -> None:
    session = Session(memory, "session_id")
    await session.load()
    session["key"] = "value"
    assert await session.persist() == "session_id"
    assert session.session_id == "session_id"
    assert memory.data == {"session_id": {"key": "value"}}


async def test_persist_makes_an_id_for_a_session_without_one(memory: InMemoryBackend, session: Session) -> None:
    session["key"] = "value"
    new_id = await session.persist()
    assert isinstance(new_id, str)
    assert session.session_id == new_id
    assert memory.data == {new_id: {"key": "value"}}


async def test_persist_writes_even_an_empty_unchanged_session(memory: InMemoryBackend) -> None:
    session = Session(memory, "session_id")
    await session.load()
    assert await session.persist() == "session_id"
    assert memory.data == {"session_id": {}}
    assert await memory.exists("session_id") is True


async def test_persist_calls_write_even_if_nothing_has_changed() -> None:
    backend = DictBackend()
    await backend.write({"key": "value"}, "session_id")
    session = Session(backend, "session_id")
    await session.load()
    backend.write = AsyncMock(wraps=backend.write)  # type: ignore[method-assign]
    assert await session.persist() == "session_id"
    backend.write.assert_awaited_once_with({"key": "value"}, "session_id")


async def test_repeated_persist_keeps_the_id(memory: InMemoryBackend, session: Session) -> None:
    first = await session.persist()
    session["key"] = "value"
    assert await session.persist() == first
    del session["key"]
    assert await session.persist() == first
    assert memory.data == {first: {}}


@each_backend
async def test_data_persisted_by_one_session_is_loaded_by_another(backend: SessionBackend) -> None:
    session = Session(backend)
    await session.load()
    session["cart"] = [{"item": "apple", "count": 2}]
    session_id = await session.persist()

    again = Session(backend, session_id)
    await again.load()
    assert again == {"cart": [{"item": "apple", "count": 2}]}


async def test_on_a_cookie_backend_the_id_is_the_data() -> None:
    backend = CookieBackend("key", 14)
    session = Session(backend)
    await session.load()
    session["key"] = "value"
    token = await session.persist()
    assert session.session_id == token
    assert await backend.read(token) == {"key": "value"}


# generate_id


async def test_a_patched_generate_id_makes_the_id(memory: InMemoryBackend, session: Session) -> None:
    async def generate_id() -> str:
        return "new_session_id"

    memory.generate_id = generate_id  # type: ignore[method-assign]
    assert await session.persist() == "new_session_id"
    assert session.session_id == "new_session_id"
    assert memory.data == {"new_session_id": {}}


async def test_every_new_id_comes_from_an_overridden_generate_id() -> None:
    class Counting(InMemoryBackend):
        count = 0

        async def generate_id(self) -> str:
            self.count += 1
            return f"id-{self.count}"

    backend = Counting()
    assert await backend.write({}) == "id-1"
    session = Session(backend)
    await session.load()
    assert await session.persist() == "id-2"
    assert await session.regenerate_id() == "id-3"
    assert await session.persist() == "id-3"
    assert await session.flush() == "id-4"
    assert backend.data == {"id-1": {}}


async def test_an_overridden_generate_id_serves_a_custom_backend_too() -> None:
    class Named(DictBackend):
        async def generate_id(self) -> str:
            return "made-by-hand"

    session = Session(Named())
    await session.load()
    assert await session.persist() == "made-by-hand"


# delete, flush, regenerate_id


async def test_delete_ends_the_session_and_empties_it(memory: InMemoryBackend) -> None:
    await memory.write({}, "session_id")
    session = Session(memory, "session_id")
    await session.load()
    session["key"] = "value"
    await session.delete()
    assert await memory.exists("session_id") is False
    assert session.is_modified is True
    assert session.is_empty is True


async def test_delete_works_without_load(memory: InMemoryBackend) -> None:
    await memory.write({"key": "value"}, "session_id")
    await Session(memory, "session_id").delete()
    assert memory.data == {}


@rows("end", [Session.delete, Session.flush])
async def test_deleting_a_session_with_is_loaded_set_by_hand_ends_it(
    memory: InMemoryBackend, end: Callable[[Session], Awaitable[object]]
) -> None:
    await memory.write({"key": "value"}, "session_id")
    session = Session(memory, "session_id")
    session.is_loaded = True
    await end(session)
    assert memory.data == {}


async def test_delete_of_a_session_that_was_never_stored_does_nothing(memory: InMemoryBackend) -> None:
    session = Session(memory)
    await session.load()
    await session.delete()
    assert session.is_empty is True
    assert session.is_modified is False


async def test_flush_ends_the_session_and_returns_the_id_of_the_next_one(memory: InMemoryBackend) -> None:
    await memory.write({"key": "value"}, "session_id")
    session = Session(memory, "session_id")
    await session.load()
    new_id = await session.flush()
    assert new_id == session.session_id != "session_id"
    assert session.is_modified is True
    assert session.is_empty is True
    assert memory.data == {}

    session["key"] = "new"
    assert await session.persist() == new_id
    assert memory.data == {new_id: {"key": "new"}}


async def test_flush_of_a_session_that_was_never_stored_is_no_error(memory: InMemoryBackend) -> None:
    session = Session(memory)
    await session.load()
    new_id = await session.flush()
    assert new_id == session.session_id
    assert session.is_modified is True
    assert session.is_empty is True


async def test_regenerate_id_works_without_load(memory: InMemoryBackend) -> None:
    session = Session(memory, "session_id")
    new_id = await session.regenerate_id()
    assert new_id == session.session_id != "session_id"
    assert session.is_modified is True


@pytest.mark.parametrize("load", [True, False], ids=["loaded", "not loaded"])
async def test_regenerate_id_keeps_the_data_and_kills_the_old_id(memory: InMemoryBackend, load: bool) -> None:
    await memory.write({"key": "value"}, "session_id")
    session = Session(memory, "session_id")
    if load:
        await session.load()
    new_id = await session.regenerate_id()
    assert await session.persist() == new_id
    assert memory.data == {new_id: {"key": "value"}}


@each_backend
async def test_the_coroutines_work_on_every_backend(backend: SessionBackend) -> None:
    session = Session(backend)
    await session.load()
    session["key"] = "value"
    assert isinstance(await session.persist(), str)
    assert isinstance(await session.regenerate_id(), str)
    assert isinstance(await session.persist(), str)
    assert session == {"key": "value"}
    assert isinstance(await session.flush(), str)
    session["key"] = "other"
    assert isinstance(await session.persist(), str)
    await session.delete()
    assert session.is_empty


# data, and the mapping


def test_data_returns_the_sessions_items(session: Session) -> None:
    session["key"] = "value"
    assert session.data == {"key": "value"}
    session.data["other"] = 1
    assert session == {"key": "value", "other": 1}


async def test_data_can_be_replaced(memory: InMemoryBackend, session: Session) -> None:
    session["key"] = "value"
    session.data = {"other": 1}
    assert session == {"other": 1}
    session_id = await session.persist()
    assert memory.data == {session_id: {"other": 1}}


def test_a_session_is_empty_until_a_value_is_stored(session: Session) -> None:
    assert session.is_empty is True
    session["key"] = "value"
    assert session.is_empty is False


CHANGES: dict[str, Any] = {
    "[] =": lambda session: session.__setitem__("key", "value"),
    "del []": lambda session: session.__delitem__("key"),
    "pop": lambda session: session.pop("key"),
    "pop a default": lambda session: session.pop("missing", None),
    "popitem": lambda session: session.popitem(),
    "setdefault": lambda session: session.setdefault("key", "value"),
    "clear": lambda session: session.clear(),
    "update": lambda session: session.update({"key": "value"}),
    "update by keyword": lambda session: session.update(key="value"),
    "|=": lambda session: session.__ior__({"key": "value"}),
    "data =": lambda session: setattr(session, "data", {"key": "value"}),
}


@rows("change", CHANGES.values(), ids=CHANGES)
async def test_is_modified_is_true_after_any_mutating_call(memory: InMemoryBackend, change: Any) -> None:
    await memory.write({"key": "value"}, "session_id")
    session = Session(memory, "session_id")
    await session.load()
    assert session.is_modified is False
    change(session)
    assert session.is_modified is True


async def test_reading_does_not_modify(memory: InMemoryBackend) -> None:
    await memory.write({"key": "value"}, "session_id")
    session = Session(memory, "session_id")
    await session.load()
    assert "key" in session
    assert "missing" not in session
    assert session["key"] == session.get("key") == session.get("missing", "value") == "value"
    assert session.get("missing") is None
    assert list(session) == list(reversed(session)) == list(session.keys()) == ["key"]
    assert list(session.values()) == ["value"]
    assert list(session.items()) == [("key", "value")]
    assert len(session) == 1
    assert dict(session) == {**session} == session.copy() == session.data == {"key": "value"}
    assert session | {"other": 1} == {"key": "value", "other": 1}
    assert {"other": 1} | session == {"key": "value", "other": 1}
    assert session.is_modified is False


def test_the_mutating_methods_behave_as_those_of_a_dict(session: Session) -> None:
    session["one"] = 1
    session.update({"two": 2}, three=3)
    session.update([("four", 4)])
    session |= {"five": 5}
    assert session.setdefault("five", 6) == 5
    assert session.setdefault("six", 6) == 6
    assert session.setdefault("seven") is None
    assert session.popitem() == ("seven", None)
    assert session.pop("six") == 6
    assert session.pop("six", "default") == "default"
    del session["five"]
    assert session == {"one": 1, "two": 2, "three": 3, "four": 4}
    with pytest.raises(KeyError):
        session["five"]
    with pytest.raises(KeyError):
        del session["five"]
    session.clear()
    assert session == {}


def test_a_session_equals_what_a_dict_with_its_items_equals(session: Session) -> None:
    session["key"] = "value"
    for other, is_equal in [({"key": "value"}, True), ({"key": "other"}, False), ({}, False), (None, False)]:
        assert (session == other) is (other == session) is is_equal
        assert (session != other) is (other != session) is not is_equal


def test_a_session_is_a_real_dict(session: Session) -> None:
    assert isinstance(session, dict)
