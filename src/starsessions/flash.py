"""Messages for the next page, in templates.

A handler calls `add_flash(request, "Saved", "success")` and redirects. The next page shows the message, once:

    templates = Jinja2Templates("templates", context_processors=[starsessions.flash.context_processor])

    {% for message in flashes() %}
      <p class="{{ message.category }}">{{ message.text }}</p>
    {% endfor %}

The messages wait in the session, at most 10 and 2000 bytes of them; the oldest make room. They are text: a template
escapes them.
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
    """Show a message on the next page, once. The oldest messages make room for new ones.

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
    """Return the waiting messages, the oldest first, and remove them: call it where a page is rendered.

    A background request (`fetch()`, an image, a prefetch) gets none and leaves them in place, unless `background=True`
    says that its response is shown: for fragments that a script fetches, with htmx for example.
    """
    session = get_session(source)
    return flash.take_flashes(session) if background or _shows_a_page(session) else []


async def claim_flashes(source: SessionSource, *, background: bool = False) -> list[Flash]:
    """Do what `pop_flashes` does, at once and for this request alone.

    Of two pages that are rendered at the same moment, one gets a message and the other does not. If the page then
    fails, its messages are lost.
    """
    session = await load_session(source)
    if not flash.keys_of_flashes(session) or not (background or _shows_a_page(session)):
        return []
    try:
        return await update_atomically(session, flash.take_flashes)
    except SessionGone:
        return []


def _shows_a_page(session: Session) -> bool:
    return flash.is_page_navigation(session.__starsessions__.headers)


def context_processor(request: HTTPConnection) -> dict[str, Callable[..., list[Flash]]]:
    """For `Jinja2Templates(…, context_processors=[…])`: `flashes()`. A template that does not call it shows nothing and
    removes nothing.

    >>> list(context_processor(HTTPConnection({"type": "http"})))
    ['flashes']
    """
    return {"flashes": partial(pop_flashes, request)}
