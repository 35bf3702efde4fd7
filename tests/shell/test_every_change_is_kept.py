"""Guarantees 2 and 3: every change is saved, nothing else is written, and what goes in comes out."""

from collections.abc import Callable
from copy import copy
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import msgspec
import pytest
from authlib.oidc.core import UserInfo

from starsessions import EncryptedCookieBackend, InMemoryBackend, Session, SessionBackend, UnsupportedValue
from tests.kinds import each_backend, each_server_backend
from tests.rows import rows
from tests.site import KEY, Clock, Site

pytestmark = pytest.mark.anyio

START: dict[str, Any] = {"cart": [{"sku": "a", "n": 1}], "a": {"b": 0, "c": {"d": [1, [2]]}}, "n": 1, "gone": True}


def nested_append(session: Session) -> None:
    session["cart"].append({"sku": "b", "n": 2})


def nested_set(session: Session) -> None:
    session["a"]["b"] = 1


def deep_append(session: Session) -> None:
    session["a"]["c"]["d"][1].append(3)


def merged(session: Session) -> None:
    session |= {"more": 1}


def popped_item(session: Session) -> None:
    session.popitem()


def popped(session: Session) -> None:
    assert session.pop("gone") is True


def deleted(session: Session) -> None:
    del session["gone"]


def set_default(session: Session) -> None:
    session.setdefault("list", []).append(1)


def true_for_one(session: Session) -> None:
    session["n"] = True


def tuple_for_list(session: Session) -> None:
    session["a"]["c"]["d"][1] = (2,)


def moved_and_changed(session: Session) -> None:
    session["a"] = session.pop("a")
    session["n"] = 2


def data_replaced(session: Session) -> None:
    session.data = {"only": 1}


def removed_inside(session: Session) -> None:
    session["cart"].clear()


CHANGES = [
    nested_append,
    nested_set,
    deep_append,
    merged,
    popped_item,
    popped,
    deleted,
    set_default,
    true_for_one,
    tuple_for_list,
    moved_and_changed,
    data_replaced,
    removed_inside,
]


@pytest.mark.guarantee(2)
@each_backend
@rows("change", CHANGES)
async def test_this_change_is_saved(
    site_of: Callable[..., Site], backend: SessionBackend, change: Callable[[Session], None]
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(START))

    def act(session: Session) -> dict[str, Any]:
        change(session)
        return session.copy()

    expected = (await site.visit(act)).result
    assert expected != START or change is true_for_one

    found = await site.data()
    assert found == expected
    assert repr(found) == repr(expected)


def matched(session: Session) -> Any:
    match session:
        case {"cart": cart}:
            return cart


WAYS_TO_A_LIST: dict[str, Callable[[Session], Any]] = {
    "[]": lambda session: session["cart"],
    "get": lambda session: session.get("cart"),
    "setdefault": lambda session: session.setdefault("cart", []),
    "values": lambda session: list(session.values())[1],
    "items": lambda session: dict(session.items())["cart"],
    "copy": lambda session: session.copy()["cart"],
    "copy.copy": lambda session: copy(session)["cart"],
    "data": lambda session: session.data["cart"],
    "dict": lambda session: dict(session)["cart"],
    "**": lambda session: {**session}["cart"],
    "|": lambda session: (session | {})["cart"],
    "| on the right": lambda session: ({} | session)["cart"],
    "match": matched,
}


@pytest.mark.guarantee(2)
@each_backend
@rows("way", list(WAYS_TO_A_LIST))
async def test_a_list_is_saved_whichever_way_the_handler_has_come_to_it(
    site_of: Callable[..., Site], backend: SessionBackend, way: str
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(n=1, cart=["tea"], text="a"))
    await site.visit(lambda session: WAYS_TO_A_LIST[way](session).append("milk"))
    assert await site.data() == {"n": 1, "cart": ["tea", "milk"], "text": "a"}


def overwritten_alike(session: Session) -> None:
    session["n"] = 1


def there_and_back(session: Session) -> None:
    session["cart"].append(1)
    session["cart"].pop()


def reordered(session: Session) -> None:
    session["cart"] = session.pop("cart")


def cleared_and_refilled(session: Session) -> None:
    data = session.copy()
    session.clear()
    session.update(data)


def marked(session: Session) -> None:
    session.mark_modified()


def looked_at(session: Session) -> None:
    assert dict(session) == session.data == {**session}
    assert list(session) == list(session.keys())
    assert len(session.values()) == len(session.items()) == len(session)


NO_CHANGES = [overwritten_alike, there_and_back, reordered, cleared_and_refilled, marked, looked_at]


@pytest.mark.guarantee(2)
@each_backend
@rows("change", NO_CHANGES)
async def test_a_session_that_ends_as_it_was_is_not_written(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock, change: Callable[[Session], None]
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(START))
    cookies = dict(site.browser.cookies)
    clock.advance(5)  # a write would renew, and a new cookie would show it

    reply = await site.visit(change)

    assert reply.set_cookies == []
    assert site.browser.cookies == cookies


def taken_out_and_put_back(session: Session) -> None:
    session["a"] = session.pop("a")


def deleted_and_put_back(session: Session) -> None:
    value = session["a"]
    del session["a"]
    session["a"] = value


def the_last_two_swapped(session: Session) -> None:
    for key, value in (session.popitem(), session.popitem()):
        session[key] = value


def cleared_and_put_back_in_another_order(session: Session) -> None:
    values = {key: session[key] for key in ("c", "b", "a")}
    session.clear()
    for key, value in values.items():
        session[key] = value


@each_backend
@rows(
    "change",
    [taken_out_and_put_back, deleted_and_put_back, the_last_two_swapped, cleared_and_put_back_in_another_order],
)
async def test_keys_of_the_session_in_another_order_are_not_written(
    site_of: Callable[..., Site], backend: SessionBackend, clock: Clock, change: Callable[[Session], None]
) -> None:
    """No value was handed out, so the session must detect by its own methods that the order may have changed."""
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(a=1, b="x", c=True))
    clock.advance(5)

    reply = await site.visit(change)

    assert reply.set_cookies == []


def moved_to_the_end(session: Session) -> None:
    session["seen"]["a"] = session["seen"].pop("a")


def put_back_in_another_order(session: Session) -> None:
    session["seen"] = dict(reversed(session["seen"].items()))


def moved_to_the_end_deep_inside(session: Session) -> None:
    session["lists"][0]["b"] = session["lists"][0].pop("b")


@pytest.mark.guarantee(2)
@rows("change", [moved_to_the_end, put_back_in_another_order, moved_to_the_end_deep_inside])
async def test_a_dict_inside_is_kept_in_its_new_order(
    site_of: Callable[..., Site], backend: SessionBackend, change: Callable[[Session], None]
) -> None:
    """As with Starlette: programs keep what was seen last at the end of a dict."""
    site = site_of(backend=backend)
    start = {"seen": {"a": 1, "b": 2}, "lists": [{"b": 1, "c": 2}]}
    await site.visit(lambda session: session.update(start))

    await site.visit(change)

    expected = Session(InMemoryBackend())
    await expected.load()
    expected.update(start)
    change(expected)
    assert repr(await site.data()) == repr(dict(expected))


@pytest.mark.guarantee(2)
@each_backend
async def test_a_plain_dict_put_into_the_scope_is_saved(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(START))
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = {"user": "ann"}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scopes.append(scope)

    handle, site.app.app = site.app.app, app
    await site.visit()
    site.app.app = handle

    assert await site.data() == {"user": "ann"}
    assert isinstance(scopes[0]["session"], Session)


@each_server_backend
async def test_an_empty_dict_put_into_the_scope_ends_the_session(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend, autoload=False)

    async def act(session: Session) -> None:
        await session.load()
        session["user"] = "ann"

    await site.visit(act)
    old = dict(site.browser.cookies)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"] = {}
        await send({"type": "http.response.start", "status": 200, "headers": []})

    handle, site.app.app = site.app.app, app
    await site.visit()
    site.app.app = handle

    assert site.browser.cookies == {}
    site.browser.cookies = old
    assert await site.data() == {}


VALUES: list[Any] = [
    datetime(2026, 11, 24, 10, 30, tzinfo=UTC),
    datetime(2026, 11, 24, 10, 30),  # noqa: DTZ001 - a naive one stays naive
    date(2026, 11, 24),
    time(10, 30),
    timedelta(days=1, microseconds=5),
    UUID(int=7),
    Decimal("1.10"),
    b"\x00bytes",
    {1, 2},
    frozenset({"a"}),
    (1, ("two", [3])),
    {"nested": [{"deep": (1, {2})}]},
    {1: "int key"},
    2**80,
    -0.5,
    float("inf"),
    None,
    "zażółć \U0001f600",
]


@pytest.mark.guarantee(3)
@each_backend
@rows("value", VALUES, ids=repr)
async def test_a_value_reads_back_equal_and_of_its_type(
    site_of: Callable[..., Site], backend: SessionBackend, value: Any
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(value=value, inside=[{"x": value}]))
    data = await site.data()
    assert data == {"value": value, "inside": [{"x": value}]}
    assert repr(data["value"]) == repr(value)
    assert type(data["value"]) is type(value)


class Field(StrEnum):
    USER = "user"


class Paris(tzinfo):
    """A zone without a name, which is stored as its offset."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=2)


@pytest.mark.guarantee(3)
@each_backend
async def test_a_value_and_a_key_of_a_subclass_are_kept_in_every_backend(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    """The line of many programs with Authlib: `request.session["user"] = token["userinfo"]`."""
    site = site_of(backend=backend, autoload=True)
    user = UserInfo(sub="1", roles=[Field.USER])
    at = datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=Paris())

    async def store(session: Session) -> None:
        session[Field.USER] = user
        session["at"] = at
        session["inside"] = [{Field.USER: at}]

    async def store_and_go_on(session: Session) -> None:
        await store(session)
        await session.persist()
        assert session["user"] is user
        assert session["at"] is at

    for act in (store_and_go_on, store):
        await site.visit(act)
        data = await site.data()
        assert data["user"] == {"sub": "1", "roles": ["user"]}
        assert (data["at"].replace(tzinfo=None), data["at"].utcoffset()) == (at.replace(tzinfo=None), at.utcoffset())
        assert {type(key) for key in data["inside"][0]} <= {str, Field}

    assert (await site.visit(store)).set_cookies == []  # the same values again are no change


async def test_what_equals_nothing_is_no_change_that_comes_too_late(site_of: Callable[..., Site]) -> None:
    site = site_of(backend=InMemoryBackend(), autoload=True)
    nan_as_a_key = {float("nan"): 1}

    await site.visit(lambda session: session.update(odd=[nan_as_a_key, datetime(2024, 5, 6, tzinfo=Paris())]))

    assert "odd" in await site.data()


@each_backend
@rows("tell", [Session.mark_modified, lambda session: setattr(session, "modified", True)])
@rows("change", ["tea", ("tea", 1)])
async def test_a_list_that_code_in_c_handed_out_is_saved_if_the_session_is_told(
    site_of: Callable[..., Site], backend: SessionBackend, change: Any, tell: Callable[[Session], None]
) -> None:
    class Basket(msgspec.Struct):
        cart: Any

    site = site_of(backend=backend, autoload=True)
    await site.visit(lambda session: session.update(cart=[]))

    def act(session: Session) -> None:
        session.mark_accessed()
        len(session)
        msgspec.convert(session, Basket).cart.append(change)
        tell(session)

    await site.visit(act)
    assert await site.data() == {"cart": [change]}


class Colour(Enum):
    RED = 1


@pytest.mark.guarantee(3)
@rows("make", [InMemoryBackend, lambda: EncryptedCookieBackend(KEY)])
async def test_a_value_that_would_change_its_type_raises_before_any_header_is_sent(
    site_of: Callable[..., Site], make: Callable[[], SessionBackend]
) -> None:
    site = site_of(backend=make())

    def act(session: Session) -> None:
        session["cart"] = [{}, {}, {"price": Colour.RED}]

    with pytest.raises(UnsupportedValue, match=r'^session\["cart"\]\[2\]\["price"\] is a Colour, '):
        await site.visit(act)


@pytest.mark.guarantee(3)
async def test_the_signed_cookie_refuses_the_same_value(site_of: Callable[..., Site]) -> None:
    with pytest.raises(UnsupportedValue, match=r'^session\["colour"\] is a Colour, '):
        await site_of().visit(lambda session: session.update(colour=Colour.RED))


@pytest.mark.guarantee(3)
async def test_another_serializer_takes_over(site_of: Callable[..., Site]) -> None:
    class Texts:
        def dumps(self, data: dict[str, Any], /) -> bytes:
            return repr(dict(data)).encode()

        def loads(self, payload: bytes, /) -> dict[str, Any]:
            return dict([payload.decode().strip("{}").replace("'", "").split(": ")])

    backend = InMemoryBackend(serializer=Texts())
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(user="ann"))
    assert await site.data() == {"user": "ann"}
    assert list(backend.data.values()) == [{"user": "ann"}]
    assert (await site.visit(lambda session: session["user"])).set_cookies == []


@each_backend
@rows("value", [1.5, float("inf"), b"a", 2**70, "\ud800", (1,), {1}, date(2024, 5, 6), UUID(int=1), {"a": (1,)}])
@rows("before", [{"a": 1}, {"a": [1.5]}, {"a": [float("nan")]}, {"a": (1,)}])
async def test_a_value_of_any_type_under_one_key_is_kept(
    site_of: Callable[..., Site], backend: SessionBackend, before: dict[str, Any], value: Any
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(before))

    await site.visit(lambda session: session.__setitem__("b", value))

    assert repr(await site.data()) == repr({**before, "b": value})


@each_backend
async def test_a_key_that_is_no_text_is_kept_as_it_is(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(a=1))

    await site.visit(lambda session: session.__setitem__(2, "b"))  # type: ignore[call-overload]

    assert await site.data() == {"a": 1, 2: "b"}
