"""Tell a request that the user intended from one that another site made the browser send.

There are two checks. The first is where the request came from, as the browser reports it (OWASP ASVS 5.0, 3.5.1 and
3.5.3), with the rules of Go's `http.CrossOriginProtection`. `kind` is `safe` for GET, HEAD and OPTIONS, which must not
change anything, `unsafe` for all other methods, and `handshake` for a WebSocket:

| kind      | Sec-Fetch-Site | Origin  | answer         | because                                                    |
|-----------|----------------|---------|----------------|------------------------------------------------------------|
| safe      |                |         | pass           | links from other sites work                                |
| unsafe    | same-origin    |         | pass           |                                                            |
| unsafe    | none           |         | pass           | typed into the address bar, or a bookmark                  |
| unsafe    | other          | trusted | pass           |                                                            |
| unsafe    | other          | own     | cross-site     | http and https of one host are two origins                 |
| unsafe    | other          | foreign | cross-site     | a subdomain is another origin, maybe another owner's       |
| unsafe    | other          | null    | null origin    | a sandboxed frame: any page can be in one                  |
| unsafe    | other          | missing | cross-site     |                                                            |
| unsafe    | missing        | missing | pass           | not a browser of this decade                               |
| unsafe    | missing        | own     | pass           | an older browser                                           |
| unsafe    | missing        | trusted | pass           |                                                            |
| unsafe    | missing        | foreign | foreign origin |                                                            |
| unsafe    | missing        | null    | null origin    |                                                            |
| handshake |                | trusted | pass           |                                                            |
| handshake |                | foreign | foreign origin | CWE-1385: a handshake is a GET that CORS ignores           |
| handshake |                | null    | null origin    |                                                            |
| handshake | same-origin    | own     | pass           |                                                            |
| handshake | none           | own     | pass           |                                                            |
| handshake | missing        | own     | pass           | browsers that send Origin only                             |
| handshake | other          | own     | cross-site     |                                                            |
| handshake | same-origin    | missing | pass           |                                                            |
| handshake | none           | missing | pass           |                                                            |
| handshake | missing        | missing | pass           | not a browser: browsers send Origin (RFC 6455, 10.2)       |
| handshake | other          | missing | cross-site     |                                                            |

A blank cell matches any value. `other` is `same-site`, `cross-site`, or a value that no browser sends. `own`: host and
port equal those of `Host`. The scheme is not compared, because only a proxy in front may know the application's scheme.

The second check is what the request knows: a token that only a page of this session can hold (NIST SP 800-63B-4, 5.1).
A token is a nonce and its HMAC under a secret in the session's data. Each token is different, so that an attacker
cannot guess one bit by bit from the lengths of compressed pages (BREACH), and the secret itself is never sent. Each
secret has its own key in the session: two first pages that are rendered at the same moment create two secrets, and the
forms of both must work.
"""

import hmac
import re
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from enum import StrEnum
from typing import Any, Literal

from starsessions.core.encoding import from_base64url, to_base64url

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that must not change anything. TRACE is missing, as in Go: no browser sends it."""

NONCE_BYTES = 16
SECRET_BYTES = 32
_MAC_BYTES = 32
_TOKEN_LENGTH = (NONCE_BYTES + _MAC_BYTES) // 3 * 4

_PREFIX = "__csrf__"
_LABEL = b"starsessions/v1/csrf/"

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\\\s,]+)")
_HOST = re.compile(r"(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
_SAME = ("same-origin", "none")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

Kind = Literal["safe", "unsafe", "handshake"]


class WhyRefused(StrEnum):
    """The reason why a request was rejected: for error handlers and logs.

    >>> WhyRefused.NO_TOKEN == "no token"
    True
    """

    CROSS_SITE = "cross-site"
    FOREIGN_ORIGIN = "foreign origin"
    NULL_ORIGIN = "null origin"
    NO_TOKEN = "no token"  # noqa: S105 - the name of a reason
    STALE_TOKEN = "stale token"  # noqa: S105 - as above


# Check the origin
def why_foreign(kind: Kind, headers: Iterable[tuple[bytes, bytes]], trusted: Collection[str]) -> WhyRefused | None:
    """Return why the request is rejected, by the table above; None if it may pass.

    >>> why_foreign("unsafe", [(b"sec-fetch-site", b"cross-site")], ())
    <WhyRefused.CROSS_SITE: 'cross-site'>
    >>> why_foreign("unsafe", [(b"sec-fetch-site", b"same-origin")], ())
    """
    if kind == "safe":
        return None
    headers = list(headers)
    site, origin = header_of(headers, b"sec-fetch-site"), header_of(headers, b"origin")
    if origin in trusted:
        return None
    if origin == "null" and (kind == "handshake" or site not in _SAME):
        return WhyRefused.NULL_ORIGIN
    if kind == "handshake" and origin and not _is_own(origin, header_of(headers, b"host")):
        return WhyRefused.FOREIGN_ORIGIN
    if site:
        return None if site in _SAME else WhyRefused.CROSS_SITE
    return None if not origin or _is_own(origin, header_of(headers, b"host")) else WhyRefused.FOREIGN_ORIGIN


def header_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """Return the value of a header. Repeated headers are joined (RFC 9110, 5.3), which no rule of the table accepts."""
    length = len(name)  # which is compared in a third of the time that lower() takes
    return ", ".join(
        [value.decode("latin-1").strip() for key, value in headers if len(key) == length and key.lower() == name]
    )


def as_origin(text: str) -> str:
    """Return an origin in the form that browsers send: in lower case, without the default port.

    Raises:
        ValueError: no browser sends such an origin. A wildcard, a name in Unicode or `wss://` would match nothing.

    >>> as_origin("https://Example.com:443")
    'https://example.com'
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None or found[1] in ("ws", "wss") or _HOST.fullmatch(found[2]) is None:
        raise ValueError("not an origin")
    return f"{found[1]}://{_without_default_port(found[1], found[2])}"


def _is_own(origin: str, host: str) -> bool:
    found = _ORIGIN.fullmatch(origin.lower())
    if found is None or found[1] not in _DEFAULT_PORTS or not host:
        return False
    scheme, theirs = found.groups()
    return _without_default_port(scheme, theirs) == _without_default_port(scheme, host.lower())


def _without_default_port(scheme: str, host: str) -> str:
    return host.removesuffix(_DEFAULT_PORTS.get(scheme, ""))


# Check the token
def secrets_in(data: Mapping[str, Any]) -> list[str]:
    """Return the secrets in the session's data, always in the same order."""
    values = [data[key] for key in sorted(_keys_of_secrets(data))]
    return [value for value in values if isinstance(value, str) and value]


def put_secret(data: MutableMapping[str, Any], salt: str, secret: bytes) -> str:
    """Add a secret to the data, beside existing ones, and return it as text."""
    text = to_base64url(secret)
    data[_PREFIX + salt] = text
    return text


def remove_secrets(data: MutableMapping[str, Any]) -> bool:
    """Remove all secrets, so that earlier tokens stop working. Return whether there were any.

    >>> data = {"user": "ann", "__csrf__r4nd0m": "c2VjcmV0"}
    >>> remove_secrets(data), data, remove_secrets(data)
    (True, {'user': 'ann'}, False)
    """
    stale = _keys_of_secrets(data)
    for key in stale:
        del data[key]
    return bool(stale)


def token_for(secret: str, nonce: bytes) -> str:
    """Return a token for one page: 64 characters of base64url, made of `nonce` (16 bytes) and its HMAC.

    >>> token = token_for("secret", bytes(16))
    >>> len(token), is_good(token, ["another secret", "secret"]), is_good(token, ["another secret"])
    (64, True, False)
    """
    return to_base64url(nonce + _mac(secret, nonce))


def is_good(token: str, secrets: Iterable[str]) -> bool:
    """Return whether one of these secrets made the token, in time that reveals nothing of them (ASVS 11.2.4)."""
    if len(token) != _TOKEN_LENGTH:
        return False
    try:
        raw = from_base64url(token)
    except ValueError:
        return False
    nonce, mac = raw[:NONCE_BYTES], raw[NONCE_BYTES:]
    return any(hmac.compare_digest(mac, _mac(secret, nonce)) for secret in secrets)


def _keys_of_secrets(data: Iterable[Any]) -> list[str]:
    return [key for key in data if isinstance(key, str) and key.startswith(_PREFIX)]


def _mac(secret: str, nonce: bytes) -> bytes:
    return hmac.digest(secret.encode("utf-8", "surrogatepass"), _LABEL + nonce, "sha256")
