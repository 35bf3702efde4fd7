"""Messages for the next page, in templates.

A handler says `request.session.flash("Saved", "success")` and redirects; the page that comes next shows it, once:

    templates = Jinja2Templates("templates", context_processors=[starsessions.flash.context_processor])

    {% for message in flashes() %}
      <p class="{{ message.category }}">{{ message.text }}</p>
    {% endfor %}

The messages wait in the session, at most 10 and 2000 bytes of them; the oldest make room. They are text: a template
escapes them.
"""

from collections.abc import Callable
from functools import partial

from starlette.requests import HTTPConnection

from starsessions.core.flash import Flash
from starsessions.scope import get_session

__all__ = ["Flash", "context_processor", "flashes"]


def flashes(request: HTTPConnection, *, background: bool = False) -> list[Flash]:
    """`request.session.pop_flashes()`, as a function: for templates, and as a dependency.

    >>> from starsessions import InMemoryBackend, Session
    >>> import asyncio
    >>> session = Session(InMemoryBackend())
    >>> asyncio.run(session.load())
    >>> session.flash("Saved")
    >>> flashes(HTTPConnection({"type": "http", "session": session}))
    [Flash(text='Saved', category='info')]
    """
    return get_session(request).pop_flashes(background=background)


def context_processor(request: HTTPConnection) -> dict[str, Callable[..., list[Flash]]]:
    """For `Jinja2Templates(…, context_processors=[…])`: `flashes()`. A template that does not call it shows nothing and
    takes nothing.

    >>> list(context_processor(HTTPConnection({"type": "http"})))
    ['flashes']
    """
    return {"flashes": partial(flashes, request)}
