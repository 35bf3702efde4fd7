"""Remove the cookies of the session's name that another setting of `domain`, `path` or `partitioned` has left.

A browser keeps one cookie for each domain, path and partition, and a response only replaces the one that has the same
three. If a release changes one of them, the old cookie stays beside the new one, and both are sent. The same is true of
a cookie that another host of the domain has planted.

A response can remove any cookie that it can name. The names are known, as far as they can be: the domain is the host or
one of its parents, and the path is that of the application or the beginning of the request's. Browsers ignore a removal
that they must not obey, and one that matches no cookie.
"""

import re
from functools import lru_cache
from itertools import product

from msgspec import Struct

from starsessions.core.cookies import CookieSpec, Headers

MAX_REMOVED, MAX_TRIED = 12, 8
"""The removals that one response contains for each name at most, if there is certainly a second cookie, and if not. The
likeliest come first."""

MAX_DOMAINS, MAX_PATHS = 4, 5
MAX_HOST, MAX_PATH = 100, 64
"""The longest host and path that are tried, in characters, so that no URL can make the headers large."""

_HOST = re.compile(r"([a-z0-9_-]+\.)+[a-z][a-z0-9-]*")
_PATH = re.compile(r"/[!-:<-~]*")


class Destination(Struct, frozen=True):
    """Where a request was sent."""

    host: str
    """The `Host` header; its port is ignored."""
    path: str
    root_path: str
    """The path at which a proxy serves the application."""
    is_secure: bool
    """Whether the response may set `Secure` cookies."""


def removals(spec: CookieSpec, names: tuple[str, ...], destination: Destination, is_certain: bool = True) -> Headers:
    """Return `Set-Cookie` headers that remove the cookies with these names that are not the one of `spec`.

    They come before the header that sets the cookie: a few clients do not distinguish a cookie for the host from one
    for the domain of the same name.

    Args:
        spec: the cookie as it is set now.
        names: the names of the cookies. A session may be split over several.
        destination: where the request was sent.
        is_certain: whether the request shows that there is such a cookie. If not, the last segment of the path is not
            tried, which is nearly always the name of an endpoint.
    """
    domains: tuple[str | None, ...] = (None,)
    paths: tuple[str, ...] = ("/",)
    if not spec.name.lower().startswith(("__host-", "__host-http-")):  # those have no domain, and the path "/"
        domains = tuple(dict.fromkeys([_bare(spec.domain), None, *_domains(destination.host)]))[:MAX_DOMAINS]
        paths = tuple(dict.fromkeys([spec.path, *_paths(destination, is_certain)]))[:MAX_PATHS]
    return _spelled(spec, names, domains, paths, destination.is_secure, MAX_REMOVED if is_certain else MAX_TRIED)


@lru_cache(maxsize=64)  # an application signs in and out at few paths
def _spelled(
    spec: CookieSpec,
    names: tuple[str, ...],
    domains: tuple[str | None, ...],
    paths: tuple[str, ...],
    is_secure: bool,
    most: int,
) -> Headers:
    own = (_bare(spec.domain), spec.path, spec.partitioned)
    partitions = [own[2], not own[2]] if is_secure else [own[2]]
    others = [one for one in product(domains, paths, partitions) if one != own]
    # Releases rarely change two settings at once, and hardly ever the partition with another one.
    others.sort(key=lambda one: 2 * (one[0] != own[0]) + 2 * (one[1] != own[1]) + 3 * (one[2] != own[2]))
    return tuple(_removal(spec, name, is_secure, *one) for one in others[:most] for name in names)


def _removal(
    spec: CookieSpec, name: str, secure: bool, domain: str | None, path: str, partitioned: bool
) -> tuple[bytes, bytes]:
    # SameSite, because browsers ignore even a removal in an iframe without it. Otherwise as short as possible.
    text = f"{name}=null; path={path}; Max-Age=0; samesite={spec.same_site}"
    text += "; secure" if secure else ""
    text += f"; domain={domain}" if domain else ""
    return b"set-cookie", (text + ("; partitioned" if partitioned else "")).encode("ascii")


def host_of(host: str) -> str:
    """Return a `Host` header without its port, in lower case.

    >>> host_of("Shop.example.com:8000"), host_of("[::1]:8000")
    ('shop.example.com', '[::1]')
    """
    return re.sub(r":[0-9]*$", "", host).lower()


def covers(domain: str, host: str) -> bool:
    """Return whether a browser accepts this `Domain` attribute from this host.

    >>> covers("example.com", "shop.example.com"), covers("example.com", "myexample.com")
    (True, False)
    """
    return f".{host}".endswith(f".{_bare(domain)}")


def _bare(domain: str | None) -> str | None:
    return None if domain is None else domain.lower().removeprefix(".")


def _domains(host: str) -> list[str]:
    """Return the domains that a cookie from this host may have, the widest first: none for an address or one label."""
    host = host_of(host)
    if len(host) > MAX_HOST or _HOST.fullmatch(host) is None:
        return []
    labels = host.split(".")
    return [".".join(labels[at:]) for at in reversed(range(len(labels) - 1))]


def _paths(destination: Destination, to_the_end: bool) -> list[str]:
    segments = destination.path.split("/")[1:]
    below = ["/" + "/".join(segments[:end]) for end in range(1, len(segments) + to_the_end)]
    first = [destination.root_path, *below[:1]]
    # `path="/shop/"` is another place than `path="/shop"`.
    paths = ["/", *(path.rstrip("/") + slash for path in first for slash in ("", "/")), *below[1:]]
    return [path for path in paths if len(path) <= MAX_PATH and _PATH.fullmatch(path)]
