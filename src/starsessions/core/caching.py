"""Response headers that keep one user's session out of caches that serve other users.

A stored copy of a page that depended on a session must not be served to another user (`Vary: Cookie`), and a
`Set-Cookie` header does not by itself keep a response out of shared caches (RFC 9111, 7.3). CVE-2023-30861 and
CVE-2026-35192 are what happens otherwise. `vary_by_cookie` and `set_no_store` change the list that they are given.
"""

import re
from collections.abc import Iterable

RawHeaders = list[tuple[bytes, bytes]]


_QUOTED = re.compile(rb'"[^"]*"')
_VARY, _NO_STORE = (b"vary", b"Cookie"), (b"cache-control", b"no-store")


def make_private(headers: Iterable[Iterable[bytes]], cookies: RawHeaders) -> tuple[RawHeaders, bool]:
    """Return the headers of a response that depended on a session, with its cookies, and the result of `set_no_store`.

    The list is a new one: an application may send the same list object with every response.
    """
    present: RawHeaders = [*headers]  # type: ignore[list-item]  # ASGI: pairs, and nearly always tuples
    for name, _ in present:
        if len(name) in {4, 13}:  # the lengths of Vary and Cache-Control: only then look closer
            present = [(name, value) for name, value in present]
            vary_by_cookie(present)
            invites = bool(cookies) and set_no_store(present)
            return present + cookies, invites
    return ([*present, _VARY, _NO_STORE, *cookies] if cookies else [*present, _VARY]), False


def vary_by_cookie(headers: RawHeaders) -> None:
    """Add `Cookie` to `Vary`, unless the header lists `Cookie` or `*` already."""
    present = [(name, value) for name, value in headers if len(name) == 4 and name.lower() == b"vary"]
    if not present:
        headers.append(_VARY)
        return
    fields = [field.strip() for _, value in present for field in value.lower().split(b",")]
    if b"cookie" in fields or b"*" in fields:
        return
    for name, value in present:
        if value.strip():
            headers[headers.index((name, value))] = (name, value + b", Cookie")
            return
    headers.append(_VARY)


def set_no_store(headers: RawHeaders) -> bool:
    """Replace `Cache-Control` with `no-store`, unless it is set already.

    Returns:
        True if the replaced value allowed shared caching (`public`, `s-maxage`): the caller logs a warning.
    """
    present = [value for name, value in headers if len(name) == 13 and name.lower() == b"cache-control"]
    if not present:
        headers.append(_NO_STORE)
        return False
    plain = _QUOTED.sub(b"", b",".join(present)).lower()
    directives = [directive.strip() for directive in plain.split(b",")]
    invites = any(one == b"public" or one.startswith(b"s-maxage") for one in directives)
    if b"no-store" in directives and not invites:
        return False
    headers[:] = [header for header in headers if header[0].lower() != b"cache-control"]
    headers.append(_NO_STORE)
    return invites
