"""The shelf and the cart: a list of dicts in the session, for visitors and signed-in users."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from pages import CurrentSession, go_to, meant, show
from settings import BACKEND, COOKIE

from starsessions import flash, users

router = APIRouter(dependencies=[Depends(meant)])


@dataclass(frozen=True)
class Product:
    name: str
    note: str
    cents: int


SHELF = {
    "tea": Product("Darjeeling tea", "First flush, 100 g", 890),
    "bread": Product("Sourdough loaf", "Baked this morning", 540),
    "pears": Product("Six pears", "From the garden behind", 420),
    "honey": Product("Lime honey", "Jar of 250 g", 760),
}


@router.get("/")
async def page(request: Request, session: CurrentSession) -> Response:
    # Visitors who only look, and bots, are not counted: without a write there is no stored session and no cookie.
    visits = None
    if users.get_user_id(session) is not None or "cart" in session:
        visits = session["visits"] = session.get("visits", 0) + 1
    cart = [{**line, "product": SHELF[line["sku"]]} for line in session.get("cart", []) if line["sku"] in SHELF]
    total = sum(line["quantity"] * line["product"].cents for line in cart)
    return show(
        request, "shop.html", shelf=SHELF, cart=cart, total=total, visits=visits, backend=BACKEND, cookie=COOKIE
    )


@router.post("/cart")
def add_to_cart(request: Request, session: CurrentSession, sku: Annotated[str, Form()]) -> Response:
    """Add to the cart. A plain ``def`` endpoint runs in a thread, and the session works there as well."""
    if sku not in SHELF:
        raise HTTPException(404, "This is not on the shelf")
    cart = session.setdefault("cart", [])
    for line in cart:
        if line["sku"] == sku:
            line["quantity"] = min(line["quantity"] + 1, 99)
            break
    else:
        cart.append({"sku": sku, "quantity": 1})
    # No `session["cart"] = cart` and no `session.mark_modified()`: nested changes are detected.
    flash.add_flash(session, f"In your cart: {SHELF[sku].name}.", "success")
    return go_to(request, "page")


@router.post("/cart/{sku}")
def change_quantity(
    request: Request, session: CurrentSession, sku: str, quantity: Annotated[int, Form(ge=0, le=99)]
) -> Response:
    """Set the quantity. It is no increment, so sending it twice does no harm. Zero removes the line."""
    cart = session.get("cart", [])
    for line in [line for line in cart if line["sku"] == sku]:
        line["quantity"] = quantity
        if not quantity:
            cart.remove(line)
    return go_to(request, "page")
