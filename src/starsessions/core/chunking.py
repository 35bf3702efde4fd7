"""Read a token from one cookie, or (opt-in, a last resort) from several, and split it again.

Browsers keep 4096 bytes per cookie. A token that is longer can be split: the first cookie keeps the plain name, and its
value begins with a mark that says how many parts there are; the others are called `name-1`, `name-2` and so on:

    session=~3~first; session-1=second; session-2=third

The rules follow from what browsers do with several cookies:

* They send them in any order, so parts are joined by their number, never by position or in the order of their names.
* They may send parts of two tokens, when a response was lost or two raced. Such parts never fit together, because the
  signature or encryption covers the whole token. Nothing here has to detect the mixture.
* They keep what is not overwritten, so a shorter token removes the parts of a longer one, including those that an
  older setting of `max_cookies` allowed.
* One missing part makes the token malformed. A part that arrives with two values makes it unusable: with two candidates
  for each part, the number of combinations to try would be up to the sender.
"""

import re
from collections.abc import Callable

from starsessions.core.caching import RawHeaders
from starsessions.core.cookies import MAX_COOKIE, CookieSpec, Headers, Values, find, finder
from starsessions.core.record import MissReason

MAX_PARTS = 9

MIN_ROOM = 256
"""The fewest bytes of a token per cookie. Below this, name, path and domain are too long for a split to make sense."""

_MARK = re.compile(r"~([2-9])~")
_MARK_LENGTH = 3


def tokens_of(
    spec: CookieSpec, max_cookies: int = 1, is_well_formed: Callable[[str], bool] | None = None
) -> Callable[[Headers], Values]:
    """Return a function of a request's headers: its distinct well-formed tokens, at least one, or why there is none.

    >>> tokens_of(CookieSpec("session"))([(b"cookie", b"session=abc")])
    ['abc']
    """
    find = finder(spec.name)
    if max_cookies == 1 and is_well_formed is None:
        return find

    def tokens_in(headers: Headers) -> Values:
        tokens = find(headers)
        if not isinstance(tokens, list):
            return tokens
        if max_cookies > 1:
            tokens = [token for first in tokens if (token := _joined(headers, spec.name, first, max_cookies))]
            if not tokens and any(_has_several(headers, name) for name in part_names(spec.name, max_cookies)):
                return MissReason.SEVERAL
        if is_well_formed is not None:
            tokens = [token for token in tokens if is_well_formed(token)]
        return tokens or MissReason.MALFORMED

    return tokens_in


def _joined(headers: Headers, name: str, first: str, max_cookies: int) -> str:
    """Return all parts joined, or "" if a part is missing or has two well-formed values."""
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


def _has_several(headers: Headers, name: str) -> bool:
    values = find(headers, name)
    return values is MissReason.SEVERAL or (isinstance(values, list) and len(values) > 1)


def part_names(name: str, max_cookies: int) -> list[str]:
    """Return the names of all cookies that a token may be split over."""
    return [part_name(name, index) for index in range(max_cookies)]


def part_name(name: str, index: int) -> str:
    """Return the name of the cookie for one part.

    >>> part_name("session", 0), part_name("session", 2)
    ('session', 'session-2')
    """
    return name if index == 0 else f"{name}-{index}"


def split(token: str, room: int) -> list[str]:
    """Return the parts, none longer than `room`.

    If the token fits, it is the only part and has no mark. The caller checks how many parts there are.

    >>> split("abcdefgh", 8), split("abcdefghij", 8)
    (['abcdefgh'], ['~2~abcde', 'fghij'])
    """
    if len(token) <= room:
        return [token]
    count = -(-(len(token) + _MARK_LENGTH) // room)
    marked = f"~{count}~{token}"
    return [marked[at : at + room] for at in range(0, len(marked), room)]


def room_for(spec: CookieSpec, max_cookies: int, max_age: int | None, secure: bool) -> int:
    """Return how many bytes of a token fit into one cookie.

    Browsers count the name and the value. A split session is near the limits of servers and proxies as well, and some
    of those count the attributes, so with more than one cookie the attributes are subtracted, too.
    """
    if max_cookies == 1:
        return MAX_COOKIE - len(spec.name)
    _, bare = spec.set(part_name(spec.name, MAX_PARTS), "", max_age, secure)
    return MAX_COOKIE - len(bare)


def cookies_for(
    spec: CookieSpec, parts: list[str], max_age: int | None, secure: bool, max_cookies: int, headers: Headers
) -> RawHeaders:
    """Return the `Set-Cookie` headers for these parts, and those that remove parts of an older, longer token.

    Without parts, and with `max_age=0`, the headers remove the session's cookies.
    """
    cookies = [spec.set(part_name(spec.name, at), part, max_age, secure) for at, part in enumerate(parts or ["null"])]
    # Look as far as the mark of the request's first part, too: max_cookies may have been lowered since it was set.
    values = find(headers, spec.name)
    marks = [_MARK.match(value) for value in values] if isinstance(values, list) else []
    for index in range(max(1, len(parts)), max([max_cookies, *(int(mark[1]) for mark in marks if mark)])):
        stale = part_name(spec.name, index)
        if find(headers, stale) is not MissReason.NO_COOKIE:
            cookies.append(spec.set(stale, "null", 0, secure))
    return cookies
