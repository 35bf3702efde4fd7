"""Shared by all pages: the session, the templates, and the check of forms."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates
from pydantic import StringConstraints
from settings import COOKIE, OPERATORS

from starsessions import Session, csrf, flash, get_session, users
from starsessions.csrf import CsrfFailed, WhyRefused
from starsessions.fastapi import SessionCookie

HERE = Path(__file__).parent

HEADERS = {
    # Nothing inline or from other sites, no framing, and no cached pages after sign-out.
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
}

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=40)]

# --- the session -----------------------------------------------------------------------------------------------------

cookie = SessionCookie(COOKIE)

CurrentSession = Annotated[Session, Depends(cookie)]
User = Annotated[str, Depends(cookie.user_id(redirect_to="/"))]

# --- the check of forms ----------------------------------------------------------------------------------------------


async def meant(request: Request, session: CurrentSession) -> None:
    """Reject forms that the user did not intend: the token must be that of this session.

    Visitors' forms have no token, because the first token would create a session and a cookie for everyone who only
    looks. For them `CsrfMiddleware` is enough: it rejects what another site sends. So a form that was opened
    before the sign-in has no token, one that was opened before the sign-out a stale one. `refused` responds to both.
    """
    if users.get_user_id(session) is not None or "csrf_token" in await request.form():
        await csrf.verify(request)


async def refused(request: Request, error: CsrfFailed) -> Response:
    """Return a page that says what happened, instead of a bare 403."""
    await get_session(request).load()  # no dependency ran, if the middleware rejected the request
    is_stale = error.why in (WhyRefused.NO_TOKEN, WhyRefused.STALE_TOKEN)
    return show(request, "refused.html", error.status_code, is_stale=is_stale)


# --- the templates ---------------------------------------------------------------------------------------------------


def ago(moment: datetime) -> str:
    """
    >>> from datetime import timedelta
    >>> ago(datetime.now(UTC) - timedelta(minutes=90))
    'an hour ago'
    """
    minutes = int((datetime.now(UTC) - moment).total_seconds()) // 60
    hours, days = minutes // 60, minutes // (24 * 60)
    if minutes < 1:
        return "just now"
    if hours < 1:
        return "a minute ago" if minutes == 1 else f"{minutes} minutes ago"
    if days < 1:
        return "an hour ago" if hours == 1 else f"{hours} hours ago"
    return "yesterday" if days == 1 else f"{days} days ago"


templates = Jinja2Templates(
    HERE / "templates",
    # They provide `csrf_input()` and `flashes()`. A template that calls neither leaves the session unchanged.
    context_processors=[csrf.context_processor, flash.context_processor],
)
templates.env.filters["ago"] = ago
templates.env.trim_blocks = templates.env.lstrip_blocks = True


def show(request: Request, template: str, status_code: int = 200, **context: Any) -> Response:
    session = get_session(request)
    user = users.get_user_id(session)
    context |= {"session": session, "user": user, "signed_in_at": users.get_signed_in_at(session)}
    context["is_operator"] = user in OPERATORS
    return templates.TemplateResponse(request, template, context, status_code=status_code, headers=HEADERS)


def go_to(request: Request, name: str) -> Response:
    # 303 turns the POST into a GET, so that "reload" shows the page again and does not send the form again.
    return RedirectResponse(request.url_for(name).path, status_code=303)
