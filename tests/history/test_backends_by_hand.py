"""`read`, `write`, `remove`, `exists` and `generate_id`, called directly as in 1.0.2: any string is an id."""

from collections.abc import Callable
from typing import Any

import pytest
from starlette.datastructures import Secret

from starsessions import CookieBackend, EncryptedCookieBackend, InMemoryBackend, SessionBackend
from tests.rows import rows
from tests.site import KEY

pytestmark = pytest.mark.anyio

BUILT_IN: dict[str, Callable[[], SessionBackend]] = {
    "memory": InMemoryBackend,
    "signed": lambda: CookieBackend(KEY, 14),
    "encrypted": lambda: EncryptedCookieBackend(KEY, 14),
}

IDS = {
    "as in its tests": "session_id",
    "with a space": "other id",
    "empty": "",
    "a path": "../../etc/passwd",
    "not ASCII": "sitzung-ä-会话",
    "with control characters": "a\0b\r\nset-cookie: c=d",
    "long": "x" * 10_000,
    "dots": "...",
    "like a token of Starlette": "eyJhIjoxfQ==.aaaaaa.bbbbbbbbbbbbbbbbbbbbbbbbbbb",
    "like a signed token": "s1.AAAA",
    "like an encrypted token": "x1.AAAA",
    "a token that is not ASCII": "s1.ä",
    "an encrypted one that is not ASCII": "x1.ä",
    "what a cleared cookie says": "null",
}


@pytest.fixture(params=list(BUILT_IN))
def built_in(request: pytest.FixtureRequest) -> SessionBackend:
    return BUILT_IN[request.param]()


@rows("session_id", IDS.values(), ids=IDS)
async def test_any_string_can_be_read(built_in: SessionBackend, session_id: str) -> None:
    assert await built_in.exists(session_id) is False
    assert await built_in.read(session_id) == {}
    await built_in.remove(session_id)


@rows("session_id", IDS.values(), ids=IDS)
async def test_a_write_under_any_string_is_read_under_the_returned_id(
    built_in: SessionBackend, session_id: str
) -> None:
    new_id = await built_in.write({"key": "value"}, session_id)
    assert isinstance(new_id, str)
    assert await built_in.exists(new_id) is True
    assert await built_in.read(new_id) == {"key": "value"}


@rows("session_id", [value for value in IDS.values() if value])
async def test_memory_keeps_the_id_that_it_is_given(session_id: str) -> None:
    backend = InMemoryBackend()
    assert await backend.write({"key": "value"}, session_id) == session_id
    assert backend.data == {session_id: {"key": "value"}}
    assert await backend.exists(session_id) is True
    await backend.remove(session_id)
    assert await backend.exists(session_id) is False
    assert backend.data == {}


async def test_write_makes_an_id_if_it_is_given_none(built_in: SessionBackend) -> None:
    assert await built_in.read(await built_in.write({"key": "value"})) == {"key": "value"}
    assert await built_in.read(await built_in.write({"key": "value"}, session_id=None)) == {"key": "value"}


async def test_a_second_write_replaces_the_first() -> None:
    backend = InMemoryBackend()
    await backend.write({"key": "value", "old": True}, "session_id")
    await backend.write({"key": "other"}, "session_id")
    assert backend.data == {"session_id": {"key": "other"}}


async def test_write_keeps_an_empty_dict(built_in: SessionBackend) -> None:
    new_id = await built_in.write({}, "session_id")
    assert await built_in.read(new_id) == {}
    assert await built_in.exists(new_id) is True


async def test_remove_of_one_leaves_the_others() -> None:
    backend = InMemoryBackend()
    await backend.write({"key": 1}, "one")
    await backend.write({"key": 2}, "two")
    await backend.remove("one")
    assert backend.data == {"two": {"key": 2}}


async def test_removing_a_cookie_is_no_error(built_in: SessionBackend) -> None:
    await built_in.remove(await built_in.write({"key": "value"}))


async def test_generate_id_makes_a_new_string_each_time(built_in: SessionBackend) -> None:
    ids = {await built_in.generate_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(isinstance(one, str) and len(one) >= 32 for one in ids)


async def test_the_keys_and_durations_of_1_0_2_are_accepted() -> None:
    by_position = CookieBackend("key", 14)
    by_keyword = CookieBackend(secret_key=Secret("key"), max_age=14)
    assert await by_keyword.read(await by_position.write({"key": "value"})) == {"key": "value"}


@rows("kind", [CookieBackend, EncryptedCookieBackend])
async def test_a_cookie_expires_when_max_age_has_passed(
    kind: Callable[..., SessionBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.0)
    backend = kind(KEY, 14)
    token = await backend.write({"key": "value"})
    monkeypatch.setattr("time.time", lambda: 1_800_000_013.0)
    assert await backend.read(token) == {"key": "value"}
    monkeypatch.setattr("time.time", lambda: 1_800_000_014.0)
    assert await backend.read(token) == {}


async def test_memory_neither_keeps_nor_hands_out_the_callers_objects() -> None:
    backend = InMemoryBackend()
    mine: dict[str, Any] = {"cart": ["apple"]}
    await backend.write(mine, "session_id")
    mine["cart"].append("pear")
    (await backend.read("session_id"))["cart"].append("plum")
    assert backend.data == {"session_id": {"cart": ["apple"]}}
