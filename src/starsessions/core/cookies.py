"""Cookies as they stand in the headers: find ours among the bytes, and the one spelling in which ours are set.

Reading follows RFC 6265bis, 4.1.1 and 5.6: pairs are separated by `;`, only SP and HTAB are trimmed, names are
compared byte by byte, and nothing is unquoted or unescaped. Work is bounded by the limits below, whatever comes in.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal
from urllib.parse import quote

from starsessions.core.record import MissReason
from starsessions.exceptions import ImproperlyConfigured

SameSite = Literal["lax", "strict", "none"]

MAX_COOKIE = 4096
"""Bytes of name and value together that browsers keep (RFC 6265bis, 5.6); a larger cookie is ignored by them."""

MAX_HEADER = 64 * 1024
"""Bytes of `Cookie` headers that are looked at; servers in front of us rarely let a quarter of it through."""

MAX_SAME_NAME = 4
"""Cookies of one name that are tried. More is an attack: the same name under other paths or domains."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_DOMAIN = re.compile(r"\.?[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_PATH = re.compile(r"/[!-:<-~]*")


Values = list[str] | Literal[MissReason.NO_COOKIE, MissReason.MALFORMED]
"""The different values of a cookie, at least one; or why there is none that we could have sent."""


def find(headers: Iterable[tuple[bytes, bytes]], name: str) -> Values:
    """The different values of the cookies called `name`, in order.

    >>> find([(b"cookie", b"a=1; session=x"), (b"cookie", b"session=y;xsession=z")], "session")
    ['x', 'y']
    """
    return finder(name)(headers)


@cache
def finder(name: str) -> Callable[[Iterable[tuple[bytes, bytes]]], Values]:
    """`find` for one name. Names come from settings: they are few."""
    # In `;` and a header. Each piece ends where the next one begins, so the time grows with the header and no faster.
    values_in = re.compile(rf";[ \t]*+{re.escape(name)}[ \t]*+=[ \t]*+([^;]*[^; \t]|)").findall
    most = MAX_COOKIE - len(name)

    def find(headers: Iterable[tuple[bytes, bytes]]) -> Values:
        header = b";".join([value for key, value in headers if key == b"cookie"])
        if len(header) > MAX_HEADER:
            return MissReason.MALFORMED
        values = values_in(f";{str(header, 'latin-1')}")
        if len(values) == 1:  # nearly always
            value = values[0]
            return values if value.isascii() and 0 < len(value) <= most else MissReason.MALFORMED
        if not values:
            return MissReason.NO_COOKIE
        values = list(dict.fromkeys(values))
        if len(values) > MAX_SAME_NAME:
            return MissReason.MALFORMED
        return [value for value in values if 0 < len(value) <= most and value.isascii()] or MissReason.MALFORMED

    return find


@dataclass(frozen=True, slots=True)
class CookieSpec:
    """Everything about our cookie but its value, checked when it is made. `path=None`: the application's root path.

    `https_only`: True and False force the `Secure` attribute, None sets it on requests that came over https.
    """

    name: str = "session"
    same_site: SameSite = "lax"
    https_only: bool | None = None
    path: str | None = None
    domain: str | None = None
    partitioned: bool = False
    needs_secure: bool = field(init=False, repr=False)
    """Whether browsers drop the cookie if it is not `Secure`."""
    _flags: tuple[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_text("session_cookie", self.name, _TOKEN, "letters, digits and any of !#$%&'*+-.^_`|~")
        if self.path is not None:
            _check_text("path", self.path, _PATH, 'printable ASCII without ";", beginning with "/"')
        if self.domain is not None:
            _check_text("domain", self.domain, _DOMAIN, "a host name such as example.com, without scheme and port")
        if self.same_site not in ("lax", "strict", "none"):
            raise ImproperlyConfigured(f'same_site must be "lax", "strict" or "none", not {self.same_site!r}.')
        if self.https_only is not None and not isinstance(self.https_only, bool):
            raise ImproperlyConfigured(
                "https_only must be True, False, or None for “when the request came over https”."
            )
        if len(self.name) > MAX_COOKIE // 2:
            raise ImproperlyConfigured("session_cookie is so long that no room is left for a value.")
        needs_secure = self.partitioned or self.name.lower().startswith(("__host-", "__secure-", "__http-"))
        object.__setattr__(self, "needs_secure", needs_secure)
        self._check_prefix()
        flags = f"httponly; samesite={self.same_site}"
        rest = (f"; domain={self.domain}" if self.domain else "") + ("; partitioned" if self.partitioned else "")
        object.__setattr__(self, "_flags", (flags + rest, flags + "; secure" + rest))
        if self.same_site == "none" and self.https_only is not True:
            raise ImproperlyConfigured(
                'Browsers refuse SameSite=None without Secure: add https_only=True to same_site="none".'
            )

    def _check_prefix(self) -> None:
        # Browsers compare prefixes without regard to case (RFC 6265bis, 5.7).
        lowered = self.name.lower()
        if lowered.startswith(("__host-", "__host-http-")):
            if self.domain is not None:
                raise ImproperlyConfigured(
                    f"A cookie called {self.name} may have no domain: drop domain=…, or use the prefix __Secure-."
                )
            if self.path not in (None, "/"):
                raise ImproperlyConfigured(
                    f'A cookie called {self.name} needs path="/": drop path=…, or use __Secure-.'
                )
        if self.needs_secure and self.https_only is False:
            raise ImproperlyConfigured(
                f"Browsers refuse the cookie {self.name} without Secure (a prefix or partitioned=True asks for it): "
                "drop https_only=False. They accept Secure cookies on http://localhost, too."
            )

    def is_secure(self, scheme: str) -> bool:
        """Whether the cookie is `Secure` in the answer to a request that came over `scheme`."""
        if self.https_only is None:
            return self.needs_secure or scheme in ("https", "wss")
        return self.https_only

    def path_under(self, root_path: str) -> str:
        """The cookie's path in an application that is mounted at `root_path`."""
        if self.path is not None:
            return self.path
        if not root_path or self.name.lower().startswith("__host-"):
            return "/"
        # A proxy's header may have made the root path: what is not fit for an attribute is escaped as in a URL.
        return quote(root_path, safe="/!$&'()*+,:=@~-._%", errors="replace") if root_path.startswith("/") else "/"

    def set(self, name: str, value: str, max_age: int | None, path: str, secure: bool) -> tuple[bytes, bytes]:
        """The header that gives the cookie, or one part of it, to the browser; `max_age` in seconds, 0 takes it away.

        To clear a cookie, name, path, domain and even the flags must be those it was set with (the prefix rules hold
        for removing, too), so there is one spelling for both.
        """
        return b"set-cookie", f"{name}={value}{self._attributes(path, max_age, secure)}".encode("ascii")

    def attributes(self, root_path: str, scheme: str, max_age: int | None) -> str:
        """What follows on name and value in the answer to a request that came to `root_path` over `scheme`."""
        return self._attributes(self.path_under(root_path), max_age, self.is_secure(scheme))

    def _attributes(self, path: str, max_age: int | None, secure: bool) -> str:
        if max_age:
            lasts = f"; Max-Age={max_age}"
        else:
            lasts = "" if max_age is None else "; expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0"
        return f"; path={path}{lasts}; {self._flags[secure]}"


def _check_text(setting: str, value: object, pattern: re.Pattern[str], allowed: str) -> None:
    if not isinstance(value, str):
        raise ImproperlyConfigured(f"{setting} must be one str, not a {type(value).__name__}.")
    if pattern.fullmatch(value) is None:
        raise ImproperlyConfigured(f"{setting}={value!r} is not a valid value: it may consist of {allowed}.")
