"""What the log says once about the cookie and the servers around the application, each with its cure.

None of this costs a request that leaves its cookie alone: settings are looked at when the application is built, a
request when it gets a cookie (and no more than the first `MOST_LOOKS`), and a rejected cookie when it is rejected.
"""

import logging
import re
from collections.abc import Iterable

from starlette.types import Scope

from starsessions.core.cookies import MAX_HEADER, CookieSpec, Values
from starsessions.core.csrf import header_of
from starsessions.core.duplicates import covers, host_of
from starsessions.core.record import MissReason
from starsessions.notices import Notices

MOST_LOOKS = 1000
"""The responses with a cookie that are looked at. What is wrong with a deployment shows in the first of them."""

_PROTO = re.compile(r"\bproto=\"?https\b", re.IGNORECASE)
_LOCAL = re.compile(r"localhost|.*\.localhost|127(\.[0-9]+){3}|\[::1\]|")
_SHORTEST_FOREIGN = 16
"""The length below which a cookie is rather a stranger's experiment than the session of another application."""


MESSAGES = {
    "max_cookies": "max_cookies=%d allows sessions that many servers and proxies refuse, with a 400 or 502 that this "
    "library does not see: the browser is then locked out until its cookies are deleted. Use 2 at most, keep sessions "
    "in a store, or raise the proxy's limits (docs/guides/production/proxy.md).",
    "partitioned": "partitioned=True has no effect with same_site=%r, because browsers send such a cookie to no iframe "
    'of another site: pass same_site="none" and https_only=True, or remove partitioned=True.',
    "domain": "Browsers reject the cookie %s: its domain %s does not cover the host of the request, %s. Change "
    "domain=…, or let the proxy pass on the Host header.",
    "forwarded": "A request says that its browser used https (X-Forwarded-Proto or Forwarded), and the server does not "
    "trust that header, so the request counts as http: the cookie %s is not Secure unless https_only=True. If it came "
    "from your proxy, start uvicorn with --forwarded-allow-ips=<the proxy's address>.",
    "secure": "The cookie %s is Secure, and the request came over http to %s: unless a proxy in front speaks https, "
    "the browser or test client will not send it back. Use https; in tests, "
    "TestClient(app, base_url='https://testserver').",
    "header": "A request had more than %d bytes of cookies, so its session was not looked for. Make other cookies "
    "smaller, or set them for narrower paths.",
    "planted": "A request had several cookies %s, so none was used: another host of the domain planted one, or "
    "domain, path or partitioned has changed. Signing in removes the others; a name with __Host- keeps them out.",
    "foreign": "A request had a cookie %s that this application did not write, or not with its present keys and "
    "settings. If another application on this host (on any port) uses the same name, each signs the users of the other "
    "out: give one of them another session_cookie=….",
    "second writer": "Something else also sets the cookie %s, so each overwrites the session of the other: a mounted "
    "application that has a SessionMiddleware of its own (NiceGUI adds one), or Starlette's. Give one of them another "
    "session_cookie=….",
    "removed": "A response deletes the cookie %s, and its session lives on: a copy of the cookie still works. End the "
    "session with sign_out() or session.delete(), which also deletes the cookie.",
    "late": "The session was first read after the headers of a response were sent. If its body depends on the session "
    "(a stream), read it before the response starts: without `Vary: Cookie`, a cache may give the response to other "
    "users. For a log or a background task, this does not matter.",
    "not loaded": "The handler of %s took request.session and did not load it. If it read it, most code raises "
    "SessionNotLoaded, but pydantic finds no keys: with a response_model, FastAPI then sends defaults. Call "
    "`await session.load()` before, or pass autoload=True to SessionMiddleware.",
}
_REPLACED = (
    "The response of %.200r writes the session and had Cache-Control: public (or s-maxage, or a header for CDNs); it "
    "is sent with no-store."
)
_SHARED = (
    "The response of %.200r depends on the session and has Cache-Control: public (or s-maxage, or a header for CDNs), "
    "so a cache that ignores `Vary: Cookie` gives it to other users. Use `private`, or do not read the session there."
)


class CookieAdvice:
    """The advice of one middleware."""

    def __init__(self, cookie: CookieSpec, notices: Notices) -> None:
        self._cookie = cookie
        self._notices = notices
        self._looks = MOST_LOOKS

    def on_settings(self, max_cookies: int) -> None:
        """Report settings that work in some places only."""
        if max_cookies > 2:
            self._say("max_cookies", max_cookies)
        if self._cookie.partitioned and self._cookie.same_site != "none":
            self._say("partitioned", self._cookie.same_site)

    def on_cookie(self, scope: Scope, scheme: str) -> None:
        """Report a cookie that the browser will not keep or not protect. Called for each response that sets one."""
        name, domain = self._cookie.name, self._cookie.domain
        if not self._looks or (scheme in ("https", "wss") and domain is None):
            return
        self._looks -= 1
        headers = scope["headers"]
        host = host_of(header_of(headers, b"host"))
        if domain is not None and host and not covers(domain, host):
            self._say("domain", name, domain, host)
        if scheme in ("https", "wss"):
            return
        proto, forwarded = header_of(headers, b"x-forwarded-proto"), header_of(headers, b"forwarded")
        if proto.lower() == "https" or _PROTO.search(forwarded):
            self._say("forwarded", name)
        # Browsers send Sec-Fetch-Site over https only: then a proxy in front speaks https, and does not say so.
        elif self._cookie.is_secure(scheme) and not (_LOCAL.fullmatch(host) or header_of(headers, b"sec-fetch-site")):
            self._say("secure", name, host)

    def on_rejected(self, why: MissReason, headers: Iterable[tuple[bytes, bytes]], values: list[str]) -> None:
        """Report a rejected cookie, if that is not something that happens to every application."""
        if sum(len(value) + 1 for key, value in headers if key == b"cookie") - 1 > MAX_HEADER:
            self._say("header", MAX_HEADER)
        elif why is MissReason.SEVERAL:
            self._say("planted", self._cookie.name)
        elif any(len(value) >= _SHORTEST_FOREIGN for value in values):
            self._say("foreign", self._cookie.name)

    def on_second_writer(self) -> None:
        """Report that a response sets the cookie besides this middleware."""
        self._say("second writer", self._cookie.name, level=logging.ERROR)

    def on_removed(self, headers: list[bytes]) -> None:
        """Report a `Set-Cookie` of the application that deletes the cookie of a session which was not ended."""
        for header in headers:
            said = {key.strip().lower(): value for key, _, value in (one.partition(b"=") for one in header.split(b";"))}
            # What has another path or domain is another cookie, perhaps an old one that is cleaned up.
            place = said.get(b"path", b"").decode("latin-1"), said.get(b"domain", b"").decode("latin-1")
            if place == (self._cookie.path, self._cookie.domain or ""):
                self._say("removed", self._cookie.name)

    def on_shared_cache(self, path: str, is_replaced: bool) -> None:
        """Report a header that lets a shared cache keep a page which depends on a session."""
        self._notices.warn(("public", path, is_replaced), _REPLACED if is_replaced else _SHARED, path)

    def on_late_read(self) -> None:
        """Report a session that was first read after the headers were sent."""
        self._say("late")

    def on_not_loaded(self, path: str, tokens: Values) -> None:
        """Report a response for which the session was taken and not loaded, if the browser may have one."""
        if isinstance(tokens, list):
            self._say("not loaded", path)

    def _say(self, what: str, *args: object, level: int = logging.WARNING) -> None:
        self._notices.warn(what, MESSAGES[what], *args, level=level)
