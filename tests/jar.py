"""A cookie jar by RFC 6265bis, 5.7 and 5.8, with domains, paths, partitions and prefixes."""

from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from tests.site import Browser, Headers, Reply


class Identity(NamedTuple):
    """What makes two cookies one: a new one replaces the one of the same identity, and no other."""

    name: str
    domain: str
    is_host_only: bool
    path: str
    is_partitioned: bool


@dataclass
class Cookie:
    value: str
    is_secure: bool
    born: int


@dataclass
class Jar(Browser):
    """A browser on a page of `host` and `path`."""

    host: str = "www.example.com"
    path: str = "/"
    jar: dict[Identity, Cookie] = field(default_factory=dict)
    _ticks: "count[int]" = field(default_factory=count)

    def header(self) -> Headers:
        sent = [one for one in self.jar.items() if self._is_sent(*one)]
        sent.sort(key=lambda one: (-len(one[0].path), one[1].born))
        text = "; ".join(f"{identity.name}={cookie.value}" for identity, cookie in sent)
        return [(b"host", self.host.encode()), *([(b"cookie", text.encode())] if text else [])]

    def take(self, reply: Reply) -> None:
        for header in reply.set_cookies:
            self.set(header, self.host)

    def set(self, header: str, host: str) -> None:
        """Do what a browser does with a `Set-Cookie` header from `host`."""
        pair, *attributes = header.split("; ")
        name, _, value = pair.partition("=")
        said = {key.lower(): text for key, _, text in (one.partition("=") for one in attributes)}
        domain = said.get("domain", "").removeprefix(".").lower()
        identity = Identity(name, domain or host, not domain, said["path"], "partitioned" in said)
        secure = "secure" in said
        is_allowed = (
            (not domain or f".{host}".endswith(f".{domain}"))
            and (self.scheme == "https" or not secure)
            and (secure or not (identity.is_partitioned or name.startswith(("__Host-", "__Secure-"))))
            and not (name.startswith("__Host-") and (domain or identity.path != "/"))
        )
        if not is_allowed:
            return
        before = self.jar.pop(identity, None)
        if said.get("max-age") != "0":
            self.jar[identity] = Cookie(value, secure, before.born if before else next(self._ticks))

    def _is_sent(self, identity: Identity, cookie: Cookie) -> bool:
        same_host = self.host == identity.domain
        in_domain = same_host if identity.is_host_only else f".{self.host}".endswith(f".{identity.domain}")
        below = identity.path if identity.path.endswith("/") else identity.path + "/"
        in_path = self.path == identity.path or self.path.startswith(below)
        return in_domain and in_path and (self.scheme == "https" or not cookie.is_secure)
