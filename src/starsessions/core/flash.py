"""Messages for the next page: how a session stores them, and which requests show them.

Each message has a key of its own, `__flash__<number>.<salt>`, because changes of two requests are merged key by key. So
two messages that are added at the same moment are both kept, and a request that loaded the session before a message was
shown does not restore it. The number is the order of the messages; the salt separates two with the same number.

Pages show messages; other requests of a browser do not:

| the request's headers                                                            | page | because                  |
|----------------------------------------------------------------------------------|------|--------------------------|
|                                                                                  | yes  | plain http, old browsers |
| sec-fetch-mode: navigate, sec-fetch-dest: document                               | yes  | a page                   |
| sec-fetch-mode: navigate, sec-fetch-dest: iframe                                 | yes  | a page in another        |
| sec-fetch-mode: navigate                                                         | yes  |                          |
| sec-fetch-mode: navigate, sec-fetch-dest: empty, upgrade-insecure-requests: 1    | yes  | behind a service worker  |
| sec-fetch-mode: same-origin, sec-fetch-dest: empty, upgrade-insecure-requests: 1 | yes  | the same, in Firefox     |
| sec-fetch-mode: navigate, sec-fetch-dest: empty                                  | no   | not known to be a page   |
| sec-fetch-mode: navigate, sec-fetch-dest: embed                                  | no   | a plugin                 |
| sec-fetch-dest: embed, upgrade-insecure-requests: 1                              | no   |                          |
| sec-fetch-mode: cors, sec-fetch-dest: empty                                      | no   | `fetch()`                |
| sec-fetch-mode: same-origin, sec-fetch-dest: empty                               | no   | `fetch()`                |
| sec-fetch-mode: no-cors, sec-fetch-dest: image                                   | no   | a part of a page         |
| sec-fetch-mode: websocket, sec-fetch-dest: empty                                 | no   |                          |
| sec-fetch-dest: serviceworker                                                    | no   |                          |
| sec-websocket-version: 13                                                        | no   | no Fetch metadata        |
| x-requested-with: XMLHttpRequest                                                 | no   | libraries send it        |
| sec-purpose: prefetch, sec-fetch-mode: navigate                                  | no   | it may never be seen     |
| sec-purpose: prefetch;prerender, sec-fetch-mode: navigate                        | no   | it may never be seen     |
| sec-purpose: prefetch, sec-fetch-dest: empty, upgrade-insecure-requests: 1       | no   | `<link rel=prefetch>`    |
| purpose: prefetch                                                                | no   | older Chromium, Safari   |
| x-moz: prefetch                                                                  | no   | older Firefox            |
| x-purpose: preview                                                               | no   | Safari's preview         |
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple

MAX_MESSAGES = 10
MAX_BYTES = 2000
"""The size of all messages together: a cookie holds 4096 bytes with everything else, and base64 turns three into four.
"""
MAX_TEXT = 1000
MAX_CATEGORY = 50

_PREFIX = "__flash__"
_KEY = re.compile(rf"{_PREFIX}[0-9]{{1,18}}\.[A-Za-z0-9_-]+")
_PAGES = frozenset({b"document", b"iframe", b"frame"})


class Flash(NamedTuple):
    """A message for the next page.

    >>> Flash("Saved", "success").text
    'Saved'
    """

    text: str
    category: str = "info"


def add_flash(data: MutableMapping[str, Any], flash: Flash, salt: str) -> None:
    """Append a message, and drop the oldest ones if there are too many or they take too many bytes.

    >>> data = {}
    >>> add_flash(data, Flash("Saved", "success"), "r4nd0m")
    >>> data
    {'__flash__0.r4nd0m': ['Saved', 'success']}
    """
    text, category = _cut(flash.text, MAX_TEXT), _cut(flash.category, MAX_CATEGORY)
    room = MAX_BYTES - _size(text) - _size(category)
    waiting = keys_of_flashes(data)
    for at, key in enumerate(reversed(waiting), 1):
        room -= sum(map(_size, _read(data[key]) or ()))
        if room < 0 or at >= MAX_MESSAGES:
            del data[key]
    number = _order(waiting[-1])[0] + 1 if waiting else 0
    data[f"{_PREFIX}{number}.{salt}"] = [text, category]


def take_flashes(data: MutableMapping[str, Any]) -> list[Flash]:
    """Remove and return the messages, the oldest first.

    >>> data = {"user": "ann", "__flash__0.r4nd0m": ["Saved", "success"]}
    >>> take_flashes(data), data
    ([Flash(text='Saved', category='success')], {'user': 'ann'})
    """
    taken = [_read(data.pop(key)) for key in keys_of_flashes(data)]
    return [flash for flash in taken if flash is not None]


def keys_of_flashes(data: Mapping[str, Any]) -> list[str]:
    """Return the keys of the messages, the oldest first."""
    return sorted((key for key in data if isinstance(key, str) and _KEY.fullmatch(key)), key=_order)


def is_page_navigation(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the browser shows the response as a page: the table above.

    >>> is_page_navigation([(b"sec-fetch-mode", b"navigate"), (b"sec-fetch-dest", b"document")])
    True
    >>> is_page_navigation([(b"sec-fetch-mode", b"cors"), (b"sec-fetch-dest", b"empty")])
    False
    """
    present = {name.lower(): value.strip().lower() for name, value in headers}
    mode, dest = present.get(b"sec-fetch-mode", b"navigate"), present.get(b"sec-fetch-dest", b"document")
    # A service worker that passes a navigation on, `fetch(event.request)`, hides its destination (and in Firefox its
    # mode). What remains is a header that browsers send with navigations only.
    passed_on = dest == b"empty" and present.get(b"upgrade-insecure-requests") == b"1"
    if not passed_on and (mode != b"navigate" or dest not in _PAGES):
        return False
    if present.get(b"x-requested-with") == b"xmlhttprequest" or b"sec-websocket-version" in present:
        return False
    in_advance = (present.get(name, b"") for name in (b"sec-purpose", b"purpose", b"x-purpose", b"x-moz"))
    return not any(purpose.startswith((b"prefetch", b"prerender", b"preview")) for purpose in in_advance)


def _order(key: str) -> tuple[int, str]:
    number, _, salt = key.removeprefix(_PREFIX).partition(".")
    return int(number), salt


def _read(value: Any) -> Flash | None:
    """Return the message as it was added; None for a value that other code stored under such a key."""
    match value:
        case [str() as text, str() as category]:
            return Flash(text, category)
    return None


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _cut(text: str, most: int) -> str:
    text = str(text)  # exactly str: a lazy translation, or markup, could not be stored
    raw = text.encode("utf-8", "surrogatepass")
    return text if len(raw) <= most else raw[: most - 3].decode("utf-8", "ignore") + "…"
