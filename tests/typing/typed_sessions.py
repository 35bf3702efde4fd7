"""Read by mypy, pyright and ty, never run: sessions seen through a model."""

from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict, assert_type

from fastapi import Depends, FastAPI
from msgspec import Struct
from pydantic import BaseModel
from starlette.requests import Request

from starsessions import InMemoryBackend, Session
from starsessions.fastapi import SessionCookie, typed
from starsessions.typed import TypedSession


class Cart(BaseModel):
    items: list[str] = []


class Shop(BaseModel):
    cart: Cart = Cart()
    theme: str = "light"


@dataclass
class Settings:
    columns: list[str] = field(default_factory=list[str])


class Seen(Struct):
    pages: int = 0


class Wizard(TypedDict, total=False):
    step: int


def from_basket(version: int, data: dict[str, Any]) -> dict[str, Any]:
    data["cart"] = {"items": data.pop("basket", [])}
    return data


SHOP = TypedSession(Shop, version=2, migrate=from_basket)
WIZARD = TypedSession(Wizard, prefix="wizard.", new=lambda: Wizard(step=1))
assert_type(SHOP, TypedSession[Shop])

app = FastAPI()

CurrentShop = Annotated[Shop, Depends(typed(SHOP))]
CurrentSettings = Annotated[Settings, Depends(typed(Settings))]
CurrentSeen = Annotated[Seen, Depends(SessionCookie("__Host-session").typed(Seen))]
CurrentWizard = Annotated[Wizard, Depends(typed(WIZARD))]


@app.post("/cart")
def add(shop: CurrentShop, settings: CurrentSettings, seen: CurrentSeen, wizard: CurrentWizard, item: str) -> list[str]:
    shop.cart.items.append(item)
    settings.columns.append(item)
    seen.pages += 1
    wizard["step"] = 2
    assert_type(shop.cart.items, list[str])
    return shop.cart.items


async def by_hand(request: Request) -> None:
    assert_type(await SHOP.load(request.session), Shop)
    assert_type(SHOP.of(Session(InMemoryBackend())), Shop)
    assert_type((await WIZARD.load(request.session)).get("step"), int | None)
    assert_type(await TypedSession(Seen).load(request.session), Seen)
    assert_type(await TypedSession(Settings).load(request.session), Settings)


def mistakes(shop: Shop) -> None:
    shop.cart.items.append(5)  # type: ignore[arg-type]  # ty: ignore[invalid-argument-type]  # pyright: ignore[reportArgumentType]
    shop.kart  # type: ignore[attr-defined]  # ty: ignore[missing-attribute]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnusedExpression]  # noqa: B018
