"""A token, as it travels: in one cookie, or (opt-in, a last resort) over several.

Split, the first cookie keeps the plain name and its value begins with the number of parts, `~3~…`; the others are
called `name-1`, `name-2` and so on. Parts are put together by number, never in the order in which a browser sends them
or in which their names sort. Parts of two different values do not fit together: the seal over the whole refuses them.
"""

import re
from collections.abc import Callable, Sequence

from starsessions.core.caching import RawHeaders
from starsessions.core.cookies import MAX_COOKIE, CookieSpec, Values, find, finder
from starsessions.core.record import MissReason

MAX_PARTS = 9

MIN_ROOM = 256
"""Bytes of a token per cookie below which name, path and domain have left too little."""

_MARK = re.compile(r"~([2-9])~")
_MARK_LENGTH = 3


def tokens_in(
    headers: Sequence[tuple[bytes, bytes]],
    spec: CookieSpec,
    max_cookies: int = 1,
    is_well_formed: Callable[[str], bool] | None = None,
) -> Values:
    """The different well-formed tokens that a request presents, at least one; or why there is none.

    >>> tokens_in([(b"cookie", b"session=abc")], CookieSpec("session"))
    ['abc']
    """
    return tokens_of(spec, max_cookies, is_well_formed)(headers)


def tokens_of(
    spec: CookieSpec, max_cookies: int, is_well_formed: Callable[[str], bool] | None
) -> Callable[[Sequence[tuple[bytes, bytes]]], Values]:
    """`tokens_in` for all requests to one middleware."""
    find = finder(spec.name)
    if max_cookies == 1 and is_well_formed is None:
        return find

    def tokens_in(headers: Sequence[tuple[bytes, bytes]]) -> Values:
        tokens = find(headers)
        if not isinstance(tokens, list):
            return tokens
        if max_cookies > 1:
            tokens = [token for first in tokens if (token := _joined(headers, spec.name, first, max_cookies))]
        if is_well_formed is not None:
            tokens = [token for token in tokens if is_well_formed(token)]
        return tokens or MissReason.MALFORMED

    return tokens_in


def _joined(headers: Sequence[tuple[bytes, bytes]], name: str, first: str, max_cookies: int) -> str:
    """All parts together, if there are several; empty if one is missing, or there twice and well-formed both times."""
    mark = _MARK.match(first)
    if mark is None:
        return first
    parts = [first[_MARK_LENGTH:]]
    for index in range(1, min(int(mark[1]), max_cookies)):
        values = find(headers, part_name(name, index))
        if not isinstance(values, list) or len(values) != 1:
            return ""
        parts += values
    return "".join(parts)


def part_name(name: str, index: int) -> str:
    """
    >>> part_name("session", 0), part_name("session", 2)
    ('session', 'session-2')
    """
    return name if index == 0 else f"{name}-{index}"


def split(token: str, room: int) -> list[str]:
    """The parts, none longer than `room`. One part, without a mark, if all of it fits; the caller checks how many.

    >>> split("abcdefgh", 8), split("abcdefghij", 8)
    (['abcdefgh'], ['~2~abcde', 'fghij'])
    """
    if len(token) <= room:
        return [token]
    count = -(-(len(token) + _MARK_LENGTH) // room)
    marked = f"~{count}~{token}"
    return [marked[at : at + room] for at in range(0, len(marked), room)]


def room_for(spec: CookieSpec, max_cookies: int, max_age: int | None, path: str, secure: bool) -> int:
    """How many bytes of a token go into one cookie.

    Browsers count name and value. A split session is near the limits of other parties as well, some of which count
    the attributes, so there these count, too.
    """
    if max_cookies == 1:
        return MAX_COOKIE - len(spec.name)
    _, bare = spec.set(part_name(spec.name, MAX_PARTS), "", max_age, path, secure)
    return MAX_COOKIE - len(bare)


def cookies_for(
    spec: CookieSpec,
    parts: list[str],
    max_age: int | None,
    path: str,
    secure: bool,
    max_cookies: int,
    headers: Sequence[tuple[bytes, bytes]],
) -> RawHeaders:
    """The `Set-Cookie` headers for these parts; parts of an older, longer token that the browser still has are removed.

    Without parts, and with `max_age=0`, the session's cookies are taken away.
    """
    cookies = [
        spec.set(part_name(spec.name, at), part, max_age, path, secure) for at, part in enumerate(parts or ["null"])
    ]
    # As many as the browser's first part announces, too: max_cookies may have been lowered since.
    values = find(headers, spec.name)
    marks = [_MARK.match(value) for value in values] if isinstance(values, list) else []
    for index in range(max(1, len(parts)), max([max_cookies, *(int(mark[1]) for mark in marks if mark)])):
        stale = part_name(spec.name, index)
        if find(headers, stale) is not MissReason.NO_COOKIE:
            cookies.append(spec.set(stale, "null", 0, path, secure))
    return cookies
