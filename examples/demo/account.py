"""Sign-in, sign-out, the pages of devices and for operators, and closing the account, which needs a fresh sign-in."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse
from pages import CurrentSession, Name, User, cookie, go_to, meant, show
from settings import FRESH_FOR, OPERATORS, history, user_sessions

from starsessions import Session, flash, set_expiry, users
from starsessions.fastapi import safe_next
from starsessions.pages import DevicesPages, OperatorPages, Page

router = APIRouter(dependencies=[Depends(meant)])

FreshSession = Annotated[Session, Depends(cookie.fresh(within=FRESH_FOR, redirect_to="/devices/"))]


@router.post("/sign-in")
async def sign_in(
    request: Request,
    session: CurrentSession,
    name: Annotated[Name, Form()],
    remember: Annotated[bool, Form()] = False,
    next: Annotated[str | None, Form()] = None,  # noqa: A002 - the library's name in the URL
) -> Response:
    # Check the password or passkey here.
    is_again = users.get_user_id(session) == name
    # A new id: an attacker may know the previous one, having planted it or seen it (session fixation). The cart is
    # kept, unless it is another user's.
    await users.sign_in(session, name, remember=remember, method="name only")
    session["remember"] = remember
    if not remember:
        set_expiry(session, None)  # the cookie ends with the browser; on the server, the session expires as usual
    flash.add_flash(session, "Thank you, it is you." if is_again else f"Welcome, {name}.", "success")
    # The wanted page. An attacker can put any `next` into a link, so only paths of this site are accepted.
    return RedirectResponse(safe_next(next, default=request.url_for("page").path), status_code=303)


@router.post("/sign-out")
async def sign_out(request: Request, session: CurrentSession) -> Response:
    # POST, because a browser may prefetch a link, and another site can put its URL into an <img>.
    await users.sign_out(session)  # the data, the id and the cookie
    flash.add_flash(session, "You are signed out.")  # a new session, which ends when this has been shown
    return go_to(request, "page")


def page_of_account(request: Request, page: Page) -> Response:
    """Show a page of the library in the shop's own template."""
    is_fresh = users.is_fresh(request, within=FRESH_FOR)
    return show(request, "account.html", page.status, page=page, is_fresh=is_fresh)


# What a person sees of their devices and sign-ins, and what an operator sees of all.
devices = DevicesPages(user_sessions, sign_in_url="/", history=history, render=page_of_account, home_url=None)
operators = OperatorPages(
    user_sessions,
    guard=lambda request: user if (user := users.get_user_id(request)) in OPERATORS else None,
    history=history,
    on_event=history.record,
    render=page_of_account,
    home_url=None,
)


@router.post("/close-account")
async def close_account(request: Request, session: FreshSession, user: User) -> Response:
    # After an old sign-in, this may be a passer-by at an unattended screen. The browser is redirected to the page of
    # devices, which then shows a form to sign in again instead of the button.
    await users.sign_out(session)
    await user_sessions.revoke_all(user)
    flash.add_flash(session, "Your account is closed, and all your devices are signed out.")
    return go_to(request, "page")
