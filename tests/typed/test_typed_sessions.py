"""Typed sessions: saved like any data, merged field by field, and never an error after a deployment."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from starsessions import (
    BackendUnavailable,
    ImproperlyConfigured,
    InMemoryBackend,
    ResponseStarted,
    Session,
    SessionBackend,
    SessionConflict,
    SessionGone,
    UnsupportedValue,
    update_atomically,
    users,
    watch,
)
from starsessions.events import SchemaMismatch
from starsessions.reporting import handle_for
from starsessions.typed import TypedSession
from tests.kinds import each_backend, each_server_backend, each_store_backend
from tests.rows import rows
from tests.site import Browser, Site

pytestmark = pytest.mark.anyio

SiteOf = Callable[..., Site]


# The same model, written in four ways


class Cart(pydantic.BaseModel):
    items: list[str] = []


class Shop(pydantic.BaseModel):
    cart: Cart = Cart()
    theme: str = "light"


@dataclass
class CartClass:
    items: list[str] = field(default_factory=list)


@dataclass
class ShopClass:
    cart: CartClass = field(default_factory=CartClass)
    theme: str = "light"


class CartStruct(msgspec.Struct):
    items: list[str] = []


class ShopStruct(msgspec.Struct):
    cart: CartStruct = msgspec.field(default_factory=CartStruct)
    theme: str = "light"


class ShopDict(TypedDict):
    cart: CartClass
    theme: str


def new_shop_dict() -> ShopDict:
    return {"cart": CartClass(), "theme": "light"}


SHOP = TypedSession(Shop)
CLASSES = [SHOP, TypedSession(ShopClass), TypedSession(ShopStruct)]
DICT = TypedSession(ShopDict, new=new_shop_dict)
NAMES = ["pydantic", "dataclass", "struct"]


def of_shop(change: Callable[[Any], object], typed: TypedSession[Any] = SHOP) -> Callable[[Session], Any]:
    async def act(session: Session) -> Any:
        return change(await typed.load(session))

    return act


def put(item: str) -> Callable[[Any], None]:
    return lambda shop: shop.cart.items.append(item)


def paint(shop: Any) -> None:
    shop.theme = "dark"


def stored(**data: Any) -> Callable[[Session], Any]:
    """A handler that stores this data, as an older release would."""

    async def act(session: Session) -> None:
        await session.load()
        session.update(data)

    return act


# Saved like everything else


@each_backend
@rows("typed", CLASSES, ids=NAMES)
async def test_a_nested_change_of_a_model_is_saved(
    site_of: SiteOf, backend: SessionBackend, typed: TypedSession[Any]
) -> None:
    site = site_of(backend=backend, autoload=False)
    await site.visit(of_shop(put("tea"), typed))
    await site.visit(of_shop(put("milk"), typed))
    await site.visit(of_shop(paint, typed))
    assert await site.data() == {"cart": {"items": ["tea", "milk"]}, "theme": "dark"}
    shop = (await site.visit(of_shop(lambda shop: shop, typed))).result
    assert type(shop).__name__ == typed._schema.name
    assert (shop.cart.items, shop.theme) == (["tea", "milk"], "dark")


@each_backend
async def test_a_change_of_a_typed_dict_is_saved(site_of: SiteOf, backend: SessionBackend) -> None:
    async def act(session: Session) -> None:
        shop = await DICT.load(session)
        shop["cart"].items.append("tea")

    site = site_of(backend=backend)
    await site.visit(act)
    await site.visit(act)
    assert await site.data() == {"cart": {"items": ["tea", "tea"]}}


async def test_a_key_removed_from_a_typed_dict_is_removed_from_the_session(site_of: SiteOf) -> None:
    class Part(TypedDict, total=False):
        theme: str

    typed = TypedSession(Part)

    async def act(session: Session) -> None:
        part = await typed.load(session)
        if part.pop("theme", None) is None:
            part["theme"] = "dark"

    site = site_of()
    await site.visit(act)
    assert await site.data() == {"theme": "dark"}
    reply = await site.visit(act)
    assert "Max-Age=0" in reply.set_cookie  # the session is empty, and an empty session is never kept


@each_backend
@rows("typed", CLASSES, ids=NAMES)
async def test_reading_a_model_creates_and_writes_no_session(
    site_of: SiteOf, backend: SessionBackend, typed: TypedSession[Any]
) -> None:
    def changed_and_back(shop: Any) -> None:
        shop.theme = "dark"
        shop.theme = "light"

    site = site_of(backend=backend)
    reply = await site.visit(of_shop(changed_and_back, typed))
    assert (reply.set_cookies, reply.all("vary")) == ([], ["Cookie"])
    await site.visit(of_shop(put("tea"), typed))
    site.app.config.backend.replace = None  # type: ignore[method-assign,assignment]
    assert (await site.visit(of_shop(lambda shop: shop.cart.items, typed))).set_cookies == []


async def test_only_the_fields_that_were_changed_are_stored(site_of: SiteOf) -> None:
    site = site_of()
    await site.visit(of_shop(paint))
    assert await site.data() == {"theme": "dark"}


async def test_a_default_that_varies_is_stored_with_the_first_change(site_of: SiteOf) -> None:
    numbers = count()

    class Numbered(pydantic.BaseModel):
        number: int = pydantic.Field(default_factory=numbers.__next__)
        theme: str = "light"
        cart: list[str] = []

    typed = TypedSession(Numbered)
    site = site_of()
    await site.visit(of_shop(lambda numbered: numbered, typed))
    assert await site.data() == {}
    number = (await site.visit(of_shop(lambda numbered: paint(numbered) or numbered.number, typed))).result  # type: ignore[func-returns-value]
    assert await site.data() == {"number": number, "theme": "dark"}
    assert (await site.visit(of_shop(lambda numbered: numbered.number, typed))).result == number


async def test_data_of_other_code_in_the_session_is_left_alone(site_of: SiteOf) -> None:
    site = site_of()
    await site.visit(stored(user="ann", theme="dark", _state_github={"data": 1}))
    assert (await site.visit(of_shop(lambda shop: shop.theme))).result == "dark"
    await site.visit(of_shop(put("tea")))
    assert await site.data() == {
        "user": "ann",
        "theme": "dark",
        "_state_github": {"data": 1},
        "cart": {"items": ["tea"]},
    }


async def test_a_prefix_keeps_two_models_apart(site_of: SiteOf) -> None:
    one, other = (
        TypedSession(Shop, prefix="one."),
        TypedSession(Shop, prefix="other.", version=2, migrate=lambda v, d: d),
    )

    async def act(session: Session) -> None:
        (await one.load(session)).theme = "dark"
        (await other.load(session)).theme = "blue"

    site = site_of()
    await site.visit(stored(theme="ours", **{"7": 1}))
    await site.visit(act)
    assert await site.data() == {
        "theme": "ours",
        "7": 1,
        "one.theme": "dark",
        "other.theme": "blue",
        "other.__version__": 2,
    }


async def test_keys_that_are_not_text_are_not_fields(site_of: SiteOf) -> None:
    async def act(session: Session) -> None:
        await session.load()
        session.update({1: "one"})  # type: ignore[dict-item]
        (await SHOP.load(session)).theme = "dark"

    site = site_of()
    await site.visit(act)
    assert await site.data() == {1: "one", "theme": "dark"}


async def test_each_call_returns_the_same_model_object(site_of: SiteOf) -> None:
    async def act(session: Session) -> bool:
        shop = await SHOP.load(session)
        put("tea")(shop)
        return await SHOP.load(session) is shop and SHOP.of(session).cart.items == ["tea"]

    site = site_of()
    assert (await site.visit(act)).result
    assert await site.data() == {"cart": {"items": ["tea"]}}


async def test_a_session_that_loads_itself_needs_no_await(site_of: SiteOf) -> None:
    site = site_of(autoload=True)
    await site.visit(lambda session: paint(SHOP.of(session)))
    assert await site.data() == {"theme": "dark"}


async def test_changes_to_the_dict_reach_the_model(site_of: SiteOf) -> None:
    async def act(session: Session) -> Any:
        shop = await SHOP.load(session)
        cart = shop.cart
        session["theme"] = "dark"
        session["cart"] = {"items": ["milk"]}
        again = await SHOP.load(session)
        session.pop("theme")
        once_more = await SHOP.load(session)
        return again is shop, once_more is shop, shop.cart is not cart, shop.cart.items, shop.theme

    assert (await site_of().visit(act)).result == (True, True, True, ["milk"], "light")


async def test_the_session_and_the_model_share_no_object(site_of: SiteOf) -> None:
    async def act(session: Session) -> Any:
        shop = await SHOP.load(session)
        put("tea")(shop)
        await session.persist()
        session["cart"]["items"].append("milk")
        assert shop.cart.items == ["tea"]
        return (await SHOP.load(session)).cart.items

    site = site_of()
    assert (await site.visit(act)).result == ["tea", "milk"]
    assert await site.data() == {"cart": {"items": ["tea", "milk"]}}


# The life of a session


@each_server_backend
async def test_a_new_id_keeps_the_changes_of_the_model(site_of: SiteOf, server_backend: SessionBackend) -> None:
    async def act(session: Session) -> None:
        shop = await SHOP.load(session)
        put("tea")(shop)
        await session.regenerate_id()
        put("milk")(shop)

    site = site_of(backend=server_backend)
    await site.visit(of_shop(put("water")))
    before = Browser(dict(site.browser.cookies))
    await site.visit(act)
    assert await site.data() == {"cart": {"items": ["water", "tea", "milk"]}}
    assert await site.data(before) == {}


@each_backend
async def test_a_logout_wins_over_changes_of_the_model(site_of: SiteOf, backend: SessionBackend) -> None:
    async def act(session: Session) -> None:
        shop = await SHOP.load(session)
        put("tea")(shop)
        await session.delete()
        put("milk")(shop)

    site = site_of(backend=backend)
    await site.visit(of_shop(put("water")))
    assert "Max-Age=0" in (await site.visit(act)).set_cookie
    assert await site.data() == {}


async def test_after_a_session_ends_the_next_model_is_fresh(site_of: SiteOf) -> None:
    async def act(session: Session) -> None:
        await SHOP.load(session)
        await session.flush()
        paint(await SHOP.load(session))

    site = site_of()
    await site.visit(of_shop(put("tea")))
    await site.visit(act)
    assert await site.data() == {"theme": "dark"}


async def test_a_session_that_is_loaded_again_has_a_new_model(site_of: SiteOf) -> None:
    async def act(session: Session) -> Any:
        paint(await SHOP.load(session))
        session.is_loaded = False
        return (await SHOP.load(session)).theme

    assert (await site_of().visit(act)).result == "light"


async def test_clearing_a_session_wins_over_changes_of_the_model(site_of: SiteOf) -> None:
    async def act(session: Session) -> None:
        put("milk")(await SHOP.load(session))
        session.clear()

    site = site_of()
    await site.visit(of_shop(put("tea")))
    assert "Max-Age=0" in (await site.visit(act)).set_cookie


@each_server_backend
async def test_sign_in_keeps_or_drops_the_anonymous_model(site_of: SiteOf, server_backend: SessionBackend) -> None:
    async def sign_in(session: Session) -> None:
        put("milk")(await SHOP.load(session))
        await users.sign_in(session, "ann")

    async def sign_in_afresh(session: Session) -> None:
        put("milk")(await SHOP.load(session))
        await users.sign_in(session, "ann", keep_data=False)

    def items(session: Session) -> list[str]:
        return SHOP.of(session).cart.items

    for act, kept in ((sign_in, ["tea", "milk"]), (sign_in_afresh, [])):
        site = site_of(backend=server_backend)
        await site.visit(of_shop(put("tea")))
        await site.visit(act)
        assert (await site.visit(items)).result == kept


@each_store_backend
async def test_a_revalidated_session_has_the_changes_of_both_requests(
    site_of: SiteOf, store_backend: SessionBackend
) -> None:
    site, other = site_of(backend=store_backend), site_of(backend=store_backend)
    await site.visit(of_shop(put("tea")))
    other.browser = site.browser

    async def act(session: Session) -> Any:
        shop = await SHOP.load(session)
        put("milk")(shop)
        await other.visit(of_shop(paint))
        assert await watch.revalidate(session)
        assert session["cart"] == {"items": ["tea", "milk"]}
        await SHOP.load(session)
        return shop.cart.items, shop.theme

    assert (await site.visit(act)).result == (["tea", "milk"], "dark")
    assert await site.data() == {"cart": {"items": ["tea", "milk"]}, "theme": "dark"}


@each_server_backend
async def test_a_change_after_the_response_raises_unless_it_is_persisted(
    site_of: SiteOf, server_backend: SessionBackend
) -> None:
    shops: list[Shop] = []

    async def save(session: Session) -> None:
        await session.persist()
        put("milk")(shops[-1])
        await session.persist()

    site = site_of(backend=server_backend)
    keep = of_shop(shops.append)
    await site.visit(of_shop(put("tea")))
    with pytest.raises(ResponseStarted, match="persist"):
        await site.visit(keep, after=lambda session: put("lost")(shops[-1]))
    await site.visit(keep, after=save)
    assert await site.data() == {"cart": {"items": ["tea", "milk"]}}


@each_server_backend
async def test_persist_of_a_session_by_hand_saves_the_model(server_backend: SessionBackend) -> None:
    session = Session(server_backend)
    paint(await SHOP.load(session))
    session_id = await session.persist()
    again = Session(server_backend, session_id)
    assert (await SHOP.load(again)).theme == "dark"


async def test_an_atomic_update_sees_and_saves_changes_of_the_model(site_of: SiteOf) -> None:
    def add(data: dict[str, Any]) -> str:
        data["theme"] += "er"
        return str(data["theme"])

    async def act(session: Session) -> Any:
        shop = await SHOP.load(session)
        paint(shop)
        updated = await update_atomically(session, add)
        put("tea")(await SHOP.load(session))
        return updated, shop.theme

    site = site_of(backend=InMemoryBackend())
    assert (await site.visit(act)).result == ("darker", "darker")
    assert await site.data() == {"theme": "darker", "cart": {"items": ["tea"]}}


# Two requests at once


@each_server_backend
async def test_two_requests_that_change_different_fields_both_survive(
    site_of: SiteOf, server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(of_shop(put("tea")))

    async def slow(session: Session) -> None:
        shop = await SHOP.load(session)
        await other.visit(of_shop(paint))
        put("milk")(shop)

    other = site_of(backend=server_backend)
    other.browser = site.browser
    await site.visit(slow)
    assert await site.data() == {"cart": {"items": ["tea", "milk"]}, "theme": "dark"}


@each_store_backend
async def test_after_a_merge_loading_the_model_again_shows_the_merged_data(
    site_of: SiteOf, store_backend: SessionBackend
) -> None:
    site, other = site_of(backend=store_backend), site_of(backend=store_backend)
    await site.visit(of_shop(put("tea")))
    other.browser = site.browser

    async def act(session: Session) -> Any:
        shop = await SHOP.load(session)
        await other.visit(of_shop(paint))
        put("milk")(shop)
        await session.persist()
        await SHOP.load(session)
        return shop.cart.items, shop.theme

    assert (await site.visit(act)).result == (["tea", "milk"], "dark")


@each_store_backend
async def test_changing_the_same_field_twice_raises_with_on_conflict_raise(
    site_of: SiteOf, store_backend: SessionBackend
) -> None:
    site, other = site_of(backend=store_backend, on_conflict="raise"), site_of(backend=store_backend)
    await site.visit(of_shop(put("tea")))
    other.browser = site.browser

    async def act(session: Session) -> None:
        shop = await SHOP.load(session)
        await other.visit(of_shop(put("water")))
        put("milk")(shop)

    with pytest.raises(SessionConflict):
        await site.visit(act)


@each_store_backend
async def test_a_model_does_not_restore_a_session_that_another_request_ended(
    site_of: SiteOf, store_backend: SessionBackend
) -> None:
    site, other = site_of(backend=store_backend), site_of(backend=store_backend)
    await site.visit(of_shop(put("tea")))
    other.browser = site.browser
    mine = Browser(dict(site.browser.cookies))

    async def act(session: Session) -> None:
        shop = await SHOP.load(session)
        await other.visit(lambda session: session.delete())
        put("milk")(shop)
        with pytest.raises(SessionGone):
            await session.persist()

    await site.visit(act, mine)
    assert await site.data(mine) == {}


async def test_in_an_outage_a_model_can_be_read_but_not_changed(site_of: SiteOf) -> None:
    site = site_of(backend=InMemoryBackend(), on_unavailable="anonymous")
    await site.visit(of_shop(put("tea")))

    async def fail(token: str, now: int) -> Any:
        raise BackendUnavailable("The store does not answer.")

    site.app.config.backend.fetch = fail  # type: ignore[method-assign]
    assert (await site.visit(of_shop(lambda shop: shop.theme))).result == "light"
    assert (await site.visit(of_shop(paint))).messages[0]["status"] == 503


# Data that does not fit


class Numbers(pydantic.BaseModel):
    theme: int = 0
    size: int = 0


NUMBERS = TypedSession(Numbers)


@rows(
    ("typed", "change", "message"),
    [
        (SHOP, lambda shop: setattr(shop, "theme", 5), 'session["theme"] is an int'),
        (SHOP, lambda shop: shop.cart.items.append(object()), 'session["cart"] is a dict'),
        (CLASSES[1], lambda shop: setattr(shop, "theme", 5), 'session["theme"] is an int'),
        (CLASSES[2], lambda shop: shop.cart.items.append(5), 'session["cart"] is a dict'),
        (TypedSession(Shop, prefix="a."), lambda shop: setattr(shop, "cart", None), 'session["a.cart"] is a NoneType'),
    ],
)
async def test_a_value_that_could_not_be_read_back_raises_before_the_headers(
    site_of: SiteOf, typed: TypedSession[Any], change: Callable[[Any], None], message: str
) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        await site_of().visit(of_shop(change, typed))
    assert str(caught.value).startswith(f"{message}, which a session cannot hold. It does not fit Shop")
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None  # it would reveal the value


async def test_a_value_that_would_change_raises_and_names_the_field(site_of: SiteOf) -> None:
    class Account(pydantic.BaseModel):
        token: pydantic.SecretStr | None = None

    with pytest.raises(UnsupportedValue, match=r'session\["token"\] is a SecretStr.* Account would not read it back'):
        await site_of().visit(of_shop(lambda a: setattr(a, "token", pydantic.SecretStr("x")), TypedSession(Account)))


async def test_a_value_that_cannot_be_stored_raises_and_names_the_path(site_of: SiteOf) -> None:
    @dataclass
    class Loose:
        things: dict[str, Any] = field(default_factory=dict)

    with pytest.raises(UnsupportedValue, match=r'session\["things"\]\["a"\]\[0\] is an object'):
        await site_of().visit(of_shop(lambda loose: loose.things.update(a=[object()]), TypedSession(Loose)))


async def test_a_model_that_is_invalid_as_a_whole_raises(site_of: SiteOf) -> None:
    class Checked(pydantic.BaseModel):
        low: int = 0
        high: int = 0

        @pydantic.model_validator(mode="after")
        def check(self) -> "Checked":
            if self.low > self.high:
                raise ValueError("low exceeds high")
            return self

    with pytest.raises(UnsupportedValue, match="session is a Checked, which"):
        await site_of().visit(of_shop(lambda checked: setattr(checked, "low", 1), TypedSession(Checked)))


async def test_invalid_data_gives_a_fresh_model_a_warning_and_an_event(
    site_of: SiteOf, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Any] = []
    site = site_of(backend=InMemoryBackend(), on_event=events.append)
    await site.visit(stored(theme="xyzzy", size=5, user="ann"))
    assert (await site.visit(of_shop(lambda n: (n.theme, n.size), NUMBERS))).result == (0, 0)
    [handle] = map(handle_for, site.browser.cookies.values())
    assert events[1:] == [SchemaMismatch(handle, "Numbers", 1, "theme")]
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "The data of a session does not fit Numbers (theme), so a fresh one is used."
    assert await site.data() == {"theme": "xyzzy", "size": 5, "user": "ann"}  # without a change, nothing is lost


@each_backend
async def test_invalid_data_is_replaced_by_the_first_change(site_of: SiteOf, backend: SessionBackend) -> None:
    def grow(numbers: Any) -> None:
        numbers.size += 1

    site = site_of(backend=backend)
    await site.visit(stored(theme="xyzzy", size=5, user="ann"))
    await site.visit(of_shop(grow, NUMBERS))
    assert await site.data() == {"size": 1, "user": "ann"}
    await site.visit(of_shop(grow, NUMBERS))
    assert await site.data() == {"size": 2, "user": "ann"}


async def test_invalid_data_without_an_id_is_reported_without_a_handle(site_of: SiteOf) -> None:
    events: list[Any] = []

    async def act(session: Session) -> tuple[int, int]:
        await session.load()
        session["theme"] = "xyzzy"
        one = await NUMBERS.load(session)
        return one.theme, (await NUMBERS.load(session)).theme

    assert (await site_of(on_event=events.append).visit(act)).result == (0, 0)
    assert events[0] == SchemaMismatch(None, "Numbers", 1, "theme")


# Versions and migrations


def from_basket(version: int, data: dict[str, Any]) -> dict[str, Any]:
    assert version == 1
    data["cart"] = {"items": data.pop("basket", [])}
    return data


MOVED = TypedSession(Shop, version=2, migrate=from_basket)


@each_backend
async def test_older_data_is_migrated_and_written_with_the_first_change(
    site_of: SiteOf, backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(stored(basket=["tea"], theme="dark", user="ann"))
    before = await site.data()
    assert (await site.visit(of_shop(lambda shop: shop.cart.items, MOVED))).result == ["tea"]
    assert await site.data() == before
    await site.visit(of_shop(put("milk"), MOVED))
    after = {"cart": {"items": ["tea", "milk"]}, "theme": "dark", "user": "ann", "__version__": 2}
    assert await site.data() == after
    await site.visit(of_shop(put("water"), MOVED))
    assert (await site.data())["cart"] == {"items": ["tea", "milk", "water"]}


async def test_migrated_data_is_written_with_a_change_of_any_field(site_of: SiteOf) -> None:
    site = site_of()
    await site.visit(stored(basket=["tea"]))
    await site.visit(of_shop(paint, MOVED))
    assert await site.data() == {"cart": {"items": ["tea"]}, "theme": "dark", "__version__": 2}


async def test_a_migration_that_returns_a_new_dict_keeps_data_of_other_code(site_of: SiteOf) -> None:
    typed = TypedSession(Shop, version=2, migrate=lambda version, data: {"theme": data["color"]})
    site = site_of()
    await site.visit(stored(color="dark", user="ann"))
    await site.visit(of_shop(put("tea"), typed))
    assert await site.data() == {
        "color": "dark",
        "user": "ann",
        "theme": "dark",
        "cart": {"items": ["tea"]},
        "__version__": 2,
    }


async def test_a_new_session_has_the_current_version(site_of: SiteOf) -> None:
    site = site_of()
    await site.visit(of_shop(put("tea"), MOVED))
    assert await site.data() == {"cart": {"items": ["tea"]}, "__version__": 2}


async def test_the_model_is_the_same_before_and_after_migrated_data_is_written(site_of: SiteOf) -> None:
    async def act(session: Session) -> bool:
        shop = await MOVED.load(session)
        again = await MOVED.load(session)
        paint(shop)
        return shop is again is await MOVED.load(session) and shop.cart.items == ["tea"]

    site = site_of()
    await site.visit(stored(basket=["tea"]))
    assert (await site.visit(act)).result


def broken(version: int, data: dict[str, Any]) -> dict[str, Any]:
    raise KeyError("xyzzy")


@rows(
    ("migrate", "why"),
    [
        (broken, "KeyError"),
        (lambda version, data: None, "AttributeError"),
        (lambda version, data: {"theme": ["xyzzy"]}, "theme"),
        (None, "LookupError"),
    ],
)
async def test_a_migration_that_fails_gives_a_fresh_model(
    site_of: SiteOf, caplog: pytest.LogCaptureFixture, migrate: Any, why: str
) -> None:
    caplog.clear()
    typed = TypedSession(Shop, version=2, migrate=migrate)
    site = site_of()
    await site.visit(stored(theme="dark", user="ann"))
    assert (await site.visit(of_shop(lambda shop: shop.theme, typed))).result == "light"
    assert f"({why})" in caplog.text
    assert "xyzzy" not in caplog.text
    await site.visit(of_shop(put("tea"), typed))
    assert await site.data() == {"user": "ann", "cart": {"items": ["tea"]}, "__version__": 2}


async def test_a_session_without_fields_of_the_model_needs_no_migration(
    site_of: SiteOf, caplog: pytest.LogCaptureFixture
) -> None:
    typed = TypedSession(Shop, version=2)
    site = site_of()
    await site.visit(stored(user="ann"))
    await site.visit(of_shop(paint, typed))
    assert await site.data() == {"user": "ann", "theme": "dark", "__version__": 2}
    assert caplog.records == []


async def test_data_of_a_newer_release_is_used_if_it_fits(site_of: SiteOf) -> None:
    site = site_of()
    await site.visit(of_shop(put("tea"), TypedSession(Shop, version=3)))
    await site.visit(of_shop(put("milk")))
    assert await site.data() == {"cart": {"items": ["tea", "milk"]}, "__version__": 3}


async def test_invalid_data_of_a_newer_release_is_kept_until_a_change(site_of: SiteOf) -> None:
    site = site_of()
    newer = {"theme": ["dark"], "cart": {"items": ["tea"]}, "__version__": 3}
    await site.visit(stored(**newer))
    assert (await site.visit(of_shop(lambda shop: shop.theme))).result == "light"
    assert await site.data() == newer
    await site.visit(of_shop(put("milk")))
    assert await site.data() == {"cart": {"items": ["milk"]}}


async def test_a_version_that_is_not_a_number_is_ignored(site_of: SiteOf) -> None:
    site = site_of()
    await site.visit(stored(basket=["tea"], __version__="x"))
    assert (await site.visit(of_shop(lambda shop: shop.cart.items, MOVED))).result == ["tea"]


# Misuse


async def test_a_class_whose_fields_lack_defaults_is_rejected_with_the_cure() -> None:
    class Strict(pydantic.BaseModel):
        name: str

    with pytest.raises(
        ImproperlyConfigured, match="Cannot make a fresh Strict: give each field a default, or pass new"
    ):
        TypedSession(Strict)
    TypedSession(Strict, new=lambda: Strict(name="Ann"))


@rows("version", [0, True, "2"])
async def test_a_version_is_an_int_of_at_least_one(version: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="version must be an int"):
        TypedSession(Shop, version=version)


async def test_a_migration_without_a_version_is_rejected() -> None:
    with pytest.raises(ImproperlyConfigured, match="migrate is never called at version=1"):
        TypedSession(Shop, migrate=from_basket)


async def test_a_foreign_session_is_rejected_with_the_cure() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"no session of this package: add starsessions\.SessionMiddleware"):
        await SHOP.load({})
    with pytest.raises(ImproperlyConfigured, match="in place of Starlette's own"):
        SHOP.of({})
