"""Whether the person in front of the browser meant a request, or another site made the browser send it.

Two answers. Where it came from, which the browser says (OWASP ASVS 5.0, 3.5.1 and 3.5.3), as Go's
`http.CrossOriginProtection` asks for it; `kind` is `safe` for GET, HEAD and OPTIONS, which are to change nothing,
`unsafe` for all other methods, and `handshake` for a WebSocket:

| kind      | Sec-Fetch-Site | Origin  | answer         | because                                                    |
|-----------|----------------|---------|----------------|------------------------------------------------------------|
| safe      |                |         | pass           | links from other sites work                                |
| unsafe    | same-origin    |         | pass           |                                                            |
| unsafe    | none           |         | pass           | the person themself: the address bar, a bookmark           |
| unsafe    | other          | trusted | pass           |                                                            |
| unsafe    | other          | own     | cross-site     | from http to https of one host: also another origin        |
| unsafe    | other          | foreign | cross-site     | a subdomain is another origin, too, and may not be ours    |
| unsafe    | other          | missing | cross-site     |                                                            |
| unsafe    | missing        | missing | pass           | no browser of this decade                                  |
| unsafe    | missing        | own     | pass           | an older browser                                           |
| unsafe    | missing        | trusted | pass           |                                                            |
| unsafe    | missing        | foreign | foreign origin | `null` is foreign: any page can have it, in a sandbox      |
| handshake |                | trusted | pass           |                                                            |
| handshake |                | foreign | foreign origin | CWE-1385: a handshake is a GET, and no CORS asks about it  |
| handshake | same-origin    | own     | pass           |                                                            |
| handshake | none           | own     | pass           |                                                            |
| handshake | missing        | own     | pass           | browsers that say Origin only                              |
| handshake | other          | own     | cross-site     |                                                            |
| handshake | same-origin    | missing | pass           |                                                            |
| handshake | none           | missing | pass           |                                                            |
| handshake | missing        | missing | pass           | no browser: these say Origin (RFC 6455, 10.2)              |
| handshake | other          | missing | cross-site     |                                                            |

A blank means: whatever it is. `other` is `same-site`, `cross-site`, and what no browser says. `own`: its host and port
are those of `Host`; its scheme is not compared, since it is the proxy that knows ours.

And what it knows: a token that only a page of this session can hold (NIST SP 800-63B-4, 5.1). A token is a nonce and
the HMAC of it under a secret that stands in the session's data. It is another one each time that it is shown, so that
nobody can guess it bit by bit from the lengths of compressed pages (BREACH), and the secret itself is never shown.
Each secret has a key of its own, because two first pages at the same moment make two of them, and both have forms.
"""

import hmac
import re
from collections.abc import Collection, Iterable, Mapping, MutableMapping
from enum import StrEnum
from typing import Any, Literal

from starsessions.core.encoding import from_base64url, to_base64url

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that are to change nothing. TRACE is missing, as it is in Go: no browser sends it."""

NONCE_BYTES = 16
SECRET_BYTES = 32
_MAC_BYTES = 32
_TOKEN_LENGTH = (NONCE_BYTES + _MAC_BYTES) // 3 * 4

_PREFIX = "__csrf__"
_LABEL = b"starsessions/v1/csrf/"

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^/?#@\\\s,]+)")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}

Kind = Literal["safe", "unsafe", "handshake"]


class WhyRefused(StrEnum):
    """Why a request was refused: for handlers of the error, and for logs.

    >>> WhyRefused.NO_TOKEN == "no token"
    True
    """

    CROSS_SITE = "cross-site"
    FOREIGN_ORIGIN = "foreign origin"
    NO_TOKEN = "no token"  # noqa: S105 - the name of a reason
    STALE_TOKEN = "stale token"  # noqa: S105 - as above


# Where it came from


def why_foreign(kind: Kind, headers: Iterable[tuple[bytes, bytes]], trusted: Collection[str]) -> WhyRefused | None:
    """The table above; None: it may pass.

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
    if kind == "handshake" and origin and not _is_own(origin, header_of(headers, b"host")):
        return WhyRefused.FOREIGN_ORIGIN
    if site:
        return None if site in ("same-origin", "none") else WhyRefused.CROSS_SITE
    return None if not origin or _is_own(origin, header_of(headers, b"host")) else WhyRefused.FOREIGN_ORIGIN


def header_of(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """What a header says; if it is there twice, both (RFC 9110, 5.3), which for ours is nothing that may pass."""
    return ", ".join(value.decode("latin-1").strip() for key, value in headers if key.lower() == name)


def as_origin(text: str) -> str:
    """An origin as browsers spell it: in lower case and without the port that goes without saying. ValueError if it is
    none.

    >>> as_origin("https://Example.com:443")
    'https://example.com'
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
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


# What it knows


def secrets_in(data: Mapping[str, Any]) -> list[str]:
    """The secrets that a session holds, always in the same order."""
    values = [data[key] for key in sorted(_keys_of_secrets(data))]
    return [value for value in values if isinstance(value, str) and value]


def put_secret(data: MutableMapping[str, Any], salt: str, secret: bytes) -> str:
    """Keep a secret in the data, beside those that are there; the secret as text."""
    text = to_base64url(secret)
    data[_PREFIX + salt] = text
    return text


def renew_secrets(data: MutableMapping[str, Any], salt: str, secret: bytes) -> None:
    """Put a new secret in the place of those that there are, if there are any: no token from before is good any more.

    >>> data = {"user": "ann"}
    >>> renew_secrets(data, "r4nd0m", bytes(32))
    >>> data
    {'user': 'ann'}
    """
    stale = _keys_of_secrets(data)
    for key in stale:
        del data[key]
    if stale:
        put_secret(data, salt, secret)


def token_for(secret: str, nonce: bytes) -> str:
    """A token to be shown in one page: 64 characters of base64url, `nonce` (16 bytes) and what only we can say of it.

    >>> token = token_for("secret", bytes(16))
    >>> len(token), is_good(token, ["another secret", "secret"]), is_good(token, ["another secret"])
    (64, True, False)
    """
    return to_base64url(nonce + _mac(secret, nonce))


def is_good(token: str, secrets: Iterable[str]) -> bool:
    """Whether it was made with one of these secrets. How long that takes says nothing about them (ASVS 11.2.4)."""
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
