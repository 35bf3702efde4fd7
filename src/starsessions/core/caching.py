"""The two response headers that keep one person's session out of another person's cache.

A stored copy of a page that depended on a session must not be served to anybody else (`Vary: Cookie`), and a
`Set-Cookie` does not by itself keep a response out of shared caches (RFC 9111, 7.3; CVE-2023-30861 and
CVE-2026-35192 are what happens otherwise). `vary_by_cookie` and `set_no_store` change the list that they are given.
"""

import re
from collections.abc import Iterable

RawHeaders = list[tuple[bytes, bytes]]


_QUOTED = re.compile(rb'"[^"]*"')
_VARY, _NO_STORE = (b"vary", b"Cookie"), (b"cache-control", b"no-store")


def make_private(headers: Iterable[Iterable[bytes]], cookies: RawHeaders) -> tuple[RawHeaders, bool]:
    """The headers of a response that depended on a session, and sets these cookies. True as `set_no_store`.

    A new list: an application may send the same one to everybody.
    """
    said: RawHeaders = [*headers]  # type: ignore[list-item]  # ASGI: pairs, and nearly always tuples
    for name, _ in said:
        if len(name) in {4, 13}:  # as long as the two that matter: the application may have said something
            said = [(name, value) for name, value in said]
            vary_by_cookie(said)
            invites = bool(cookies) and set_no_store(said)
            return said + cookies, invites
    return ([*said, _VARY, _NO_STORE, *cookies] if cookies else [*said, _VARY]), False


def vary_by_cookie(headers: RawHeaders) -> None:
    """Add `Cookie` to `Vary`, unless it is there or everything is."""
    said = [(name, value) for name, value in headers if len(name) == 4 and name.lower() == b"vary"]
    if not said:
        headers.append(_VARY)
        return
    fields = [field.strip() for _, value in said for field in value.lower().split(b",")]
    if b"cookie" in fields or b"*" in fields:
        return
    for name, value in said:
        if value.strip():
            headers[headers.index((name, value))] = (name, value + b", Cookie")
            return
    headers.append(_VARY)


def set_no_store(headers: RawHeaders) -> bool:
    """Replace `Cache-Control` by `no-store`, unless it says so already.

    True if what was replaced invited shared caches (`public`, `s-maxage`): somebody should hear of it.
    """
    said = [value for name, value in headers if len(name) == 13 and name.lower() == b"cache-control"]
    if not said:
        headers.append(_NO_STORE)
        return False
    plain = _QUOTED.sub(b"", b",".join(said)).lower()
    directives = [directive.strip() for directive in plain.split(b",")]
    invites = any(one == b"public" or one.startswith(b"s-maxage") for one in directives)
    if b"no-store" in directives and not invites:
        return False
    headers[:] = [header for header in headers if header[0].lower() != b"cache-control"]
    headers.append(_NO_STORE)
    return invites
