"""A page as a value, and what it looks like if the application has no template for it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from starsessions.pages.html import Html, element, joined

STYLE: bytes = Path(__file__).with_name("style.css").read_bytes()
"""The stylesheet. A file, and no `<style>`: so `style-src 'self'` of a Content-Security-Policy allows it."""

STYLE_VERSION: str = sha256(STYLE).hexdigest()[:12]

STYLE_URL: str = f"style.css?v={STYLE_VERSION}"
"""Relative to the page, as all links are: so they are right below any mount, and behind any proxy."""

HEADERS = {
    # `form-action` is left out: Chromium applies it to redirects, and a form may lead to a sign-in at a provider.
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


@dataclass(frozen=True)
class Page:
    """What a template shows.

    >>> Page("devices", "Your devices", element("p", "…")).body
    '<p>…</p>'
    """

    name: str
    """Which page it is: "devices", "history", "operators", or "expired" for a form that was out of date."""

    title: str

    body: Html
    """The content, without `<main>`. Templates do not escape it."""

    status: int = 200

    language: str = "en"

    direction: str = "ltr"

    context: Mapping[str, Any] = field(default_factory=dict)
    """What the content was made of, for a template that makes its own."""

    style: str = STYLE_URL
    """The URL of the stylesheet, relative to the page."""


Render = Callable[[Request, Page], Response | Awaitable[Response]]
"""Responds with a page, in the application's own template."""


def built_in(request: Request, page: Page) -> Response:
    """Respond with a page in a layout of its own."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", page.title),
        element("link", rel="icon", href="data:,"),
        element("link", rel="stylesheet", href=page.style),
    )
    body = element("body", element("main", page.body), class_="starsessions")
    html = element("html", head, body, lang=page.language, dir=page.direction)
    return HTMLResponse(joined([Html("<!doctype html>\n"), html]), page.status, HEADERS)
