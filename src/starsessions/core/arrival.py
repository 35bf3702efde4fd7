"""Whether another site made the browser send a request, and the browser withheld the session cookie (SameSite).

A payment provider, a SAML identity provider or an OpenID provider with `form_post` lets the browser send a form to the
application. The browser sends no cookie with it that is `SameSite=Lax` or `Strict`. So the request looks like that of a
new visitor, and a session that it began would replace the one that the browser has: the user would be signed out.

| method | Sec-Fetch-Site | Origin  | withheld | because                                                     |
|--------|----------------|---------|----------|-------------------------------------------------------------|
| safe   |                |         | no       | a Lax cookie comes with a link; Strict ones are rare        |
| unsafe | cross-site     |         | yes      |                                                             |
| unsafe | other          |         | no       | same-site requests bring the cookie; none is the user's own |
| unsafe | missing        | missing | no       | not a browser                                               |
| unsafe | missing        | own     | no       |                                                             |
| unsafe | missing        | unclear | no       | a sign-in that is dropped is worse than one that is ended   |
| unsafe | missing        | foreign | yes      | an older browser, or plain http                             |

A blank cell matches any value. `own`: of the same site as `Host` or `X-Forwarded-Host`, as far as the last two labels
of the names show. `unclear`: one of the two is no domain. Many proxies send `Host: 127.0.0.1:8000`, and a page that
sends no referrer has the origin `null`. `SameSite=None` cookies come with every request, so nothing is withheld then.
"""

import re
from collections.abc import Iterable

from starsessions.core.csrf import SAFE_METHODS, header_of

_DOMAIN = re.compile(r"(?:.*[./])?([a-z0-9-]+\.[a-z][a-z0-9-]*)(?::[0-9]+)?")


def is_withheld(method: str | None, same_site: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the browser may have a session cookie that it did not send, by the table above.

    >>> is_withheld("POST", "lax", [(b"sec-fetch-site", b"cross-site")])
    True
    >>> is_withheld("POST", "none", [(b"sec-fetch-site", b"cross-site")])
    False
    """
    if method is None or method in SAFE_METHODS or same_site == "none":
        return False
    headers = list(headers)
    site = header_of(headers, b"sec-fetch-site")
    if site:
        return site == "cross-site"
    host, shown, origin = (_site_of(header_of(headers, name)) for name in (b"host", b"x-forwarded-host", b"origin"))
    return bool(host and origin) and origin not in (host, shown)


def _site_of(place: str) -> str | None:
    """Return the last two labels of a domain, or of an origin's; None if it is no domain."""
    found = _DOMAIN.fullmatch(place.partition(",")[0].lower())
    return found and found[1]
