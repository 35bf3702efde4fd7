"""Flash messages: messages that the next page shows once.

A handler calls `add_flash(request, "Saved", "success")` and redirects. The template of the next page shows the message:

    templates = Jinja2Templates("templates", context_processors=[starsessions.flash.context_processor])

    {% for message in flashes() %}
      <p class="{{ message.category }}">{{ message.text }}</p>
    {% endfor %}

The messages are kept in the session: at most 10, and at most 2000 bytes in total; the oldest are dropped first. They
are plain text, which templates escape.
"""

from collections.abc import Callable
from functools import partial
from os import urandom

from starlette.requests import HTTPConnection

from starsessions.core import flash
from starsessions.core.encoding import to_base64url
from starsessions.core.flash import Flash
from starsessions.exceptions import SessionGone
from starsessions.session import Session, SessionSource, get_session, load_session, update_atomically

__all__ = ["Flash", "add_flash", "claim_flashes", "context_processor", "pop_flashes"]


def add_flash(source: SessionSource, text: str, category: str = "info") -> None:
    """Show a message on the next page, once. If there are too many messages, the oldest are dropped.

    Args:
        source: a request, a WebSocket, or a session.
        text: the message. It is cut at 1000 bytes.
        category: for templates, such as `"success"` or `"error"`.

    >>> import asyncio
    >>> from starsessions import InMemoryBackend, Session
    >>> session = Session(InMemoryBackend())
    >>> asyncio.run(session.load())
    >>> add_flash(session, "Saved", "success")
    >>> pop_flashes(session)
    [Flash(text='Saved', category='success')]
    """
    flash.add_flash(get_session(source), Flash(text, category), to_base64url(urandom(6)))


def pop_flashes(source: SessionSource, *, background: bool = False) -> list[Flash]:
    """Return the waiting messages, the oldest first, and remove them. Call it where a page is rendered.

    A background request (`fetch()`, an image, a prefetch) gets none and leaves them in place. So does HEAD.

    Args:
        source: a request, a WebSocket, or a session.
        background: return them to a background request, too: for fragments that a script shows, with htmx for example.
    """
    session = get_session(source)
    return flash.take_flashes(session) if _shows_them(session, background) else []


async def claim_flashes(source: SessionSource, *, background: bool = False) -> list[Flash]:
    """Return and remove the waiting messages at once, for this request only.

    If two pages are rendered at the same moment, only one of them gets a message. If that page then fails, its messages
    are lost. The arguments are those of `pop_flashes`.
    """
    session = await load_session(source)
    if not flash.keys_of_flashes(session) or not _shows_them(session, background):
        return []
    try:
        return await update_atomically(session, flash.take_flashes)
    except SessionGone:
        return []


def _shows_them(session: Session, background: bool) -> bool:
    request = session.__starsessions__
    if request.method == "HEAD":  # Starlette calls the handler of GET, and what that renders is not sent
        return False
    return background or flash.is_page_navigation(request.headers)


def context_processor(request: HTTPConnection) -> dict[str, Callable[..., list[Flash]]]:
    """Return `flashes()` for templates: `Jinja2Templates(…, context_processors=[…])`.

    A template that does not call it shows no message and removes none.

    >>> list(context_processor(HTTPConnection({"type": "http"})))
    ['flashes']
    """
    return {"flashes": partial(pop_flashes, request)}
