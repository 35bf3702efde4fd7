"""Read the session cookie from a request's headers, and write it in exactly one form.

Reading follows RFC 6265bis, 4.1.1 and 5.6: pairs are separated by `;`, only SP and HTAB are trimmed, names are
compared byte by byte, and nothing is unescaped. One pair of double quotes around a value is removed, as RFC 6265, 4.1.1
allows and Starlette does: some clients, aiohttp's among them, add it to a value with `/` or `=`. The limits below bound
the work, whatever is sent.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import Literal

from msgspec import Struct

from starsessions.core.record import MissReason
from starsessions.exceptions import ImproperlyConfigured

SameSite = Literal["lax", "strict", "none"]

MAX_COOKIE = 4096
"""The bytes of name and value together that browsers keep (RFC 6265bis, 5.6). They ignore a larger cookie."""

MAX_HEADER = 64 * 1024
"""The bytes of `Cookie` headers that are parsed. Servers in front of the application rarely pass on a quarter of this.
"""

MAX_SAME_NAME = 4
"""The cookies with one name that are tried. More are an attack: the same name set for other paths or domains."""

_CLOSING_QUOTE = r'(?="[ \t]*(?:;|\Z))'
_OPENING_QUOTE = rf'(?:"(?=[^;]*{_CLOSING_QUOTE}))?+'  # only if there is a closing one
_QUOTED = rf'(?<=")[^;]*{_CLOSING_QUOTE}'
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DOMAIN = re.compile(r"\.?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_PATH = re.compile(r"/[!-:<-~]*")

Headers = Sequence[tuple[bytes, bytes]]
"""The headers of a request, with their names in lower case, as ASGI has them."""

Values = list[str] | Literal[MissReason.NO_COOKIE, MissReason.MALFORMED, MissReason.SEVERAL]
"""The distinct values of a cookie, at least one; or why there is none that the library could have set."""


def find(headers: Headers, name: str) -> Values:
    """Return the distinct values of the cookies called `name`, in the order of the request.

    >>> find([(b"cookie", b"a=1; session=x"), (b"cookie", b"session=y;xsession=z")], "session")
    ['x', 'y']
    """
    return finder(name)(headers)


@cache
def finder(name: str) -> Callable[[Headers], Values]:
    """Return `find` for one name. The cache stays small, since names come from settings."""
    values_in = _pattern(name).findall
    most = MAX_COOKIE - len(name)

    def find(headers: Headers) -> Values:
        header = b";".join([value for key, value in headers if key == b"cookie"])
        if len(header) > MAX_HEADER:
            return MissReason.MALFORMED
        values = values_in(f";{str(header, 'latin-1')}")
        if len(values) == 1:  # the usual case
            value = values[0]
            return values if value.isascii() and 0 < len(value) <= most else MissReason.MALFORMED
        if not values:
            return MissReason.NO_COOKIE
        values = list(dict.fromkeys(values))
        if len(values) > MAX_SAME_NAME:
            return MissReason.SEVERAL
        return [value for value in values if 0 < len(value) <= most and value.isascii()] or MissReason.MALFORMED

    return find


def count(headers: Headers, name: str) -> int:
    """Return how many cookies with this name a request has, equal ones included: up to the limit on their size.

    >>> count([(b"cookie", b"session=x; session=x; a=1")], "session")
    2
    """
    header = b";".join([value for key, value in headers if key == b"cookie"])
    return len(_pattern(name).findall(f";{str(header, 'latin-1')}")) if len(header) <= MAX_HEADER else 0


@cache
def _pattern(name: str) -> re.Pattern[str]:
    # Searched in ";" + header. Each piece ends where the next one begins, so the time is linear in the header's length.
    return re.compile(rf";[ \t]*+{re.escape(name)}[ \t]*+=[ \t]*+{_OPENING_QUOTE}({_QUOTED}|[^;]*[^; \t]|)")


class CookieSpec(Struct, frozen=True):
    """The cookie except its value, checked on construction.

    Args:
        name: the middleware's `session_cookie`.
        same_site: `"lax"`, `"strict"` or `"none"`; `"none"` needs `https_only=True`.
        https_only: True and False force the `Secure` attribute. None sets it for requests that came over https.
        path: the cookie's path; by default the whole host.
        domain: None restricts the cookie to the host.
        partitioned: the browser keeps one cookie for each top-level site (CHIPS).

    Raises:
        ImproperlyConfigured: a value is malformed, or browsers would reject the combination.
    """

    name: str = "session"
    same_site: SameSite = "lax"
    https_only: bool | None = None
    path: str = "/"
    domain: str | None = None
    partitioned: bool = False

    def __post_init__(self) -> None:
        _check_text("session_cookie", self.name, _TOKEN, "letters, digits and any of !#$%&'*+-.^_`|~")
        _check_text("path", self.path, _PATH, 'printable ASCII without ";", beginning with "/"')
        if self.domain is not None:
            _check_text("domain", self.domain, _DOMAIN, "a host name such as example.com, without scheme and port")
        if self.same_site not in ("lax", "strict", "none"):
            raise ImproperlyConfigured(f'same_site must be "lax", "strict" or "none", not {self.same_site!r}.')
        if self.https_only is not None and not isinstance(self.https_only, bool):
            raise ImproperlyConfigured(
                "https_only must be True, False or None. None sets Secure on requests that came over https."
            )
        if len(self.name) > MAX_COOKIE // 2:
            raise ImproperlyConfigured(
                f"session_cookie leaves no room for a value: use a name of at most {MAX_COOKIE // 2} characters."
            )
        self._check_prefix()
        if self.same_site == "none" and self.https_only is not True:
            raise ImproperlyConfigured(
                'Browsers reject SameSite=None without Secure: pass https_only=True with same_site="none".'
            )

    def _check_prefix(self) -> None:
        # Browsers compare prefixes case-insensitively (RFC 6265bis, 5.7).
        lowered = self.name.lower()
        if lowered.startswith(("__host-", "__host-http-")):
            if self.domain is not None:
                raise ImproperlyConfigured(
                    f"The cookie {self.name} must not have a domain: remove domain=…, or use the prefix __Secure-."
                )
            if self.path != "/":
                raise ImproperlyConfigured(
                    f'The cookie {self.name} needs path="/": remove path=…, or use the prefix __Secure-.'
                )
        if self.needs_secure and self.https_only is False:
            raise ImproperlyConfigured(
                f"Browsers reject the cookie {self.name} without Secure (its prefix or partitioned=True needs it): "
                "remove https_only=False. Browsers accept Secure cookies on http://localhost, too."
            )

    @property
    def needs_secure(self) -> bool:
        """Whether browsers drop the cookie if it is not `Secure`."""
        return self.partitioned or self.name.lower().startswith(("__host-", "__secure-", "__http-"))

    def is_secure(self, scheme: str) -> bool:
        """Return whether the cookie is `Secure` in the response to a request that came over `scheme`."""
        if self.https_only is None:
            return self.needs_secure or scheme in ("https", "wss")
        return self.https_only

    def set(self, name: str, value: str, max_age: int | None, secure: bool) -> tuple[bytes, bytes]:
        """Return the `Set-Cookie` header for the cookie, or for one part of it.

        To clear a cookie, name, path, domain and even the flags must be those it was set with (the prefix rules apply
        to removal, too), so setting and clearing share this form.

        Args:
            max_age: seconds. 0 removes the cookie; None makes it end with the browser.
        """
        return b"set-cookie", f"{name}={value}{self._attributes(max_age, secure)}".encode("ascii")

    def attributes(self, scheme: str, max_age: int | None) -> str:
        """Return the attributes after name and value, for the response to a request over `scheme`."""
        return self._attributes(max_age, self.is_secure(scheme))

    def _attributes(self, max_age: int | None, secure: bool) -> str:
        if max_age:
            lasts = f"; Max-Age={max_age}"
        else:
            lasts = "" if max_age is None else "; expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0"
        flags = f"; httponly; samesite={self.same_site}{'; secure' if secure else ''}"
        domain = f"; domain={self.domain}" if self.domain else ""
        return f"; path={self.path}{lasts}{flags}{domain}{'; partitioned' if self.partitioned else ''}"


def _check_text(setting: str, value: object, pattern: re.Pattern[str], allowed: str) -> None:
    if not isinstance(value, str):
        raise ImproperlyConfigured(f"{setting} must be a str, not {type(value).__name__}.")
    if pattern.fullmatch(value) is None:
        raise ImproperlyConfigured(f"{setting}={value!r} is invalid. Allowed: {allowed}.")
