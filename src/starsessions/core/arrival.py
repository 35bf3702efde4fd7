"""Whether another site made the browser send a request, and the browser kept the session cookie at home.

A payment provider, a SAML identity provider or an OpenID provider with `form_post` lets the browser send a form to the
application. The browser sends no cookie with it that is `SameSite=Lax` or `Strict`. So the request looks like that of a
new visitor, and a session that it began would replace the one that the browser has: the user would be signed out.

| method | Sec-Fetch-Site | Origin  | at home | because                                                     |
|--------|----------------|---------|---------|-------------------------------------------------------------|
| safe   |                |         | no      | a Lax cookie comes with a link; Strict ones are rare        |
| unsafe | cross-site     |         | yes     |                                                             |
| unsafe | other          |         | no      | same-site requests bring the cookie; none is the user's own |
| unsafe | missing        | missing | no      | not a browser                                               |
| unsafe | missing        | own     | no      |                                                             |
| unsafe | missing        | foreign | yes     | an older browser, or plain http                             |

A blank cell matches any value. `SameSite=None` cookies come with every request, so nothing is at home then.
"""

from collections.abc import Iterable

from starsessions.core.csrf import SAFE_METHODS, header_of, why_foreign


def is_at_home(method: str | None, same_site: str, headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether the browser may have a session cookie that it did not send, by the table above.

    >>> is_at_home("POST", "lax", [(b"sec-fetch-site", b"cross-site")])
    True
    >>> is_at_home("POST", "none", [(b"sec-fetch-site", b"cross-site")])
    False
    """
    if method is None or method in SAFE_METHODS or same_site == "none":
        return False
    headers = list(headers)
    site = header_of(headers, b"sec-fetch-site")
    return site == "cross-site" if site else why_foreign("unsafe", headers, ()) is not None
