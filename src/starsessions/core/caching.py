"""Response headers that keep one user's session out of caches that serve other users.

A stored copy of a page that depended on a session must not be served to another user (`Vary: Cookie`), and a
`Set-Cookie` header does not by itself keep a response out of shared caches (RFC 9111, 7.3). CVE-2023-30861 and
CVE-2026-35192 are what happens otherwise. `vary_by_cookie` and `set_no_store` change the list that they are given.
"""

import re
from collections.abc import Callable, Iterable

RawHeaders = list[tuple[bytes, bytes]]


_QUOTED = re.compile(rb'"[^"]*"')
_VARY, _NO_STORE = (b"vary", b"Cookie"), (b"cache-control", b"no-store")

# By their length: Vary, Set-Cookie and Cache-Control; CDN-Cache-Control, Surrogate-Control and the one of Cloudflare;
# and, if storing is forbidden, all that are like them.
_NOTABLE = frozenset({4, 10, 13, 17, 28})
_NOTABLE_IF_FORBIDDEN = _NOTABLE | frozenset(range(len("x-cache-control"), 64))


def make_private(
    headers: Iterable[Iterable[bytes]], cookies: RawHeaders, forbids_storing: bool
) -> tuple[RawHeaders, RawHeaders]:
    """Return the headers of a response that depended on a session, with its cookies.

    The list is a new one: an application may send the same list object with every response.

    Args:
        headers: the application's headers.
        cookies: the headers that set cookies. If there are any, `forbids_storing` is true.
        forbids_storing: whether no cache may store the response.

    Returns:
        The headers, and those of the application if they are worth a closer look: one may be `Set-Cookie`,
        `Cache-Control` or `CDN-Cache-Control`, by its length.
    """
    present: RawHeaders = [*headers]  # type: ignore[list-item]  # ASGI: pairs, and nearly always tuples
    notable = _NOTABLE_IF_FORBIDDEN if forbids_storing else _NOTABLE
    for name, _ in present:
        if len(name) in notable:
            private = [(name, value) for name, value in present]
            vary_by_cookie(private)
            if forbids_storing:
                set_no_store(private)
            return private + cookies, present
    return ([*present, _VARY, _NO_STORE, *cookies] if forbids_storing else [*present, _VARY]), []


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


def set_no_store(headers: RawHeaders) -> None:
    """Replace `Cache-Control` with `no-store`, unless it says so already, and every header that overrides it in a CDN.

    Targeted headers (RFC 9213: `CDN-Cache-Control` and those of single vendors; `Surrogate-Control`; in nginx
    `X-Accel-Expires`) take precedence over `Cache-Control` in the caches that they are meant for. A cache ignores
    `no-store` beside `must-understand` (RFC 9111, 5.2.2.3).
    """
    said = _directives(headers)
    if b"no-store" not in said or b"must-understand" in said or invites_shared_caches(headers):
        headers[:] = [header for header in headers if header[0].lower() != b"cache-control"]
        headers.append(_NO_STORE)
    headers[:] = [
        (name, b"no-store") if _is_targeted(name.lower()) else (name, value)
        for name, value in headers
        if name.lower() != b"x-accel-expires"
    ]


def invites_shared_caches(headers: RawHeaders) -> bool:
    """Return whether a shared cache may store the response: `public`, `s-maxage`, or a CDN is told how long."""
    said, targeted = _directives(headers), _directives(headers, _is_targeted)
    return any(one == b"public" or one.startswith(b"s-maxage") for one in said) or (
        any(one == b"public" or one.startswith((b"s-maxage", b"max-age")) for one in targeted)
        and not {b"private", b"no-store"}.intersection(targeted)
    )


def _directives(headers: RawHeaders, are_of: Callable[[bytes], bool] = b"cache-control".__eq__) -> list[bytes]:
    present = [value for name, value in headers if are_of(name.lower())]
    return [directive.strip() for directive in _QUOTED.sub(b"", b",".join(present)).lower().split(b",")]


def _is_targeted(name: bytes) -> bool:
    return name.endswith(b"-cache-control") or name == b"surrogate-control"
