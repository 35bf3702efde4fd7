"""Messages for the next page: how they stand in the data, and which request shows them.

Each message has a key of its own, `__flash__<number>.<salt>`, because what two requests did is merged key by key: both
of two new messages stay, a message that was shown is not brought back by a request that has not seen that, and the
salt keeps two messages with one number apart. The number is their order.

A page shows messages, and what a browser fetches besides does not:

| the request's headers                                   | page | because                                         |
|---------------------------------------------------------|------|-------------------------------------------------|
|                                                         | yes  | an older browser, plain http, or no browser     |
| sec-fetch-mode: navigate, sec-fetch-dest: document      | yes  | a page, or what a form was answered with        |
| sec-fetch-mode: navigate, sec-fetch-dest: iframe        | yes  | an application inside of another one's page     |
| sec-fetch-mode: navigate                                | yes  |                                                 |
| sec-fetch-mode: navigate, sec-fetch-dest: embed         | no   | a plugin's                                      |
| sec-fetch-mode: cors, sec-fetch-dest: empty             | no   | `fetch()`                                       |
| sec-fetch-mode: same-origin, sec-fetch-dest: empty      | no   | `fetch()`                                       |
| sec-fetch-mode: no-cors, sec-fetch-dest: image          | no   | a part of a page                                |
| sec-fetch-mode: websocket, sec-fetch-dest: empty        | no   |                                                 |
| sec-fetch-dest: serviceworker                           | no   |                                                 |
| sec-websocket-version: 13                               | no   | a handshake of a browser that says no more      |
| x-requested-with: XMLHttpRequest                        | no   | what libraries say where browsers say nothing   |
| sec-purpose: prefetch, sec-fetch-mode: navigate         | no   | nobody may ever look at it                      |
| sec-purpose: prefetch;prerender, sec-fetch-mode: navigate | no | as above                                        |
| purpose: prefetch                                       | no   | older Chromium, and Safari                      |
| x-moz: prefetch                                         | no   | older Firefox                                   |
| x-purpose: preview                                      | no   | Safari's picture of a page                      |
"""

import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, NamedTuple

MAX_MESSAGES = 10
MAX_BYTES = 2000
"""Of all messages together: a cookie has room for 4096 with everything else, and base64 makes four of three."""
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
    """Put a message in, behind those that wait, and drop the oldest of these if they are too many or too much.

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
    number = _place(waiting[-1])[0] + 1 if waiting else 0
    data[f"{_PREFIX}{number}.{salt}"] = [text, category]


def take_flashes(data: MutableMapping[str, Any]) -> list[Flash]:
    """The messages, the oldest first, which then are no longer in there.

    >>> data = {"user": "ann", "__flash__0.r4nd0m": ["Saved", "success"]}
    >>> take_flashes(data), data
    ([Flash(text='Saved', category='success')], {'user': 'ann'})
    """
    taken = [_read(data.pop(key)) for key in keys_of_flashes(data)]
    return [flash for flash in taken if flash is not None]


def keys_of_flashes(data: Mapping[str, Any]) -> list[str]:
    """Where messages stand in the data, the oldest first."""
    return sorted((key for key in data if isinstance(key, str) and _KEY.fullmatch(key)), key=_place)


def is_page_navigation(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a person is going to see the answer as a page: the table above.

    >>> is_page_navigation([(b"sec-fetch-mode", b"navigate"), (b"sec-fetch-dest", b"document")])
    True
    >>> is_page_navigation([(b"sec-fetch-mode", b"cors"), (b"sec-fetch-dest", b"empty")])
    False
    """
    said = {name.lower(): value.strip().lower() for name, value in headers}
    if (
        said.get(b"sec-fetch-mode", b"navigate") != b"navigate"
        or said.get(b"sec-fetch-dest", b"document") not in _PAGES
    ):
        return False
    if said.get(b"x-requested-with") == b"xmlhttprequest" or b"sec-websocket-version" in said:
        return False
    in_advance = (said.get(name, b"") for name in (b"sec-purpose", b"purpose", b"x-purpose", b"x-moz"))
    return not any(purpose.startswith((b"prefetch", b"prerender", b"preview")) for purpose in in_advance)


def _place(key: str) -> tuple[int, str]:
    number, _, salt = key.removeprefix(_PREFIX).partition(".")
    return int(number), salt


def _read(value: Any) -> Flash | None:
    """A message as it was put in; None for what is none, from the hand of somebody else."""
    match value:
        case [str() as text, str() as category]:
            return Flash(text, category)
    return None


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _cut(text: str, most: int) -> str:
    text = str(text)  # of that very type: a lazy translation, or markup, is none that is stored
    raw = text.encode("utf-8", "surrogatepass")
    return text if len(raw) <= most else raw[: most - 3].decode("utf-8", "ignore") + "…"
