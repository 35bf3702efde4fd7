"""A signed token of a provider as values, and whether a key has signed it. The only module that knows joserfc.

Each part of a token has one accepted spelling, since base64 with other unused bits would pass for another token.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry
from msgspec import DecodeError, Struct
from msgspec.json import Decoder

from starsessions.core.encoding import from_base64url
from starsessions.core.issued import Refused

KINDS = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
"""The algorithms that are understood, each with its kind of key. None of them works with a shared secret."""

MOST_BYTES = 16_384
"""The longest token."""

LEAST_RSA = 342
"""The characters of the modulus of an RSA key of 2048 bits in base64url."""


class Header(Struct):
    """What is used of a token's header. Keys and addresses in it are ignored: only the provider's keys count."""

    alg: str
    kid: str | None = None
    typ: str = ""
    crit: object = None


class Token(NamedTuple):
    """A token whose signature has not been verified."""

    text: str
    header: Header
    claims: dict[str, Any]

    def __repr__(self) -> str:
        return "<Token>"


class _Registry(jws.JWSRegistry):
    """The algorithms, without the warning about the name EdDSA, which providers still use."""

    max_header_length = MOST_BYTES

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


_registry = _Registry(strict_check_header=False)
_header = Decoder(Header).decode
_claims = Decoder(dict[str, Any]).decode


def read(text: str, types: Collection[str], algorithms: Collection[str]) -> Token | Refused:
    """Return the parts of a token, or why it is refused without a look at its signature.

    Args:
        text: the token.
        types: the accepted types, in lower case; "" if the type may be missing.
        algorithms: the accepted algorithms.
    """
    parts = text.split(".")
    if len(text) > MOST_BYTES or len(parts) != 3:
        return Refused("invalid_request", "This is not a signed token. (Encrypted ones are not supported.)")
    try:
        header, claims, _ = map(from_base64url, parts)
        token = Token(text, _header(header), _claims(claims))
    except (DecodeError, ValueError, RecursionError):
        return Refused("invalid_request", "This is not a signed token.")
    if token.header.alg not in algorithms:
        return Refused("invalid_request", "The token is signed with an algorithm that is not accepted.")
    if token.header.typ.lower() not in types:
        return Refused("invalid_request", "The token is of another type.")
    if token.header.crit is not None:
        return Refused("invalid_request", "The token has a critical header, and none is understood.")
    return token


def fits(key: Mapping[str, Any], header: Header) -> bool:
    """Return whether a key of a set (RFC 7517) may have signed a token with this header."""
    return (
        (header.kid is None or key.get("kid") == header.kid)
        and key.get("kty") == KINDS[header.alg]
        and key.get("use", "sig") == "sig"
        and key.get("alg", header.alg) == header.alg
        and (key["kty"] != "RSA" or len(str(key.get("n"))) >= LEAST_RSA)
    )


def is_signed_by(token: Token, key: Mapping[str, Any]) -> bool:
    """Return whether the key has signed the token."""
    try:
        jws.deserialize_compact(token.text, JWKRegistry.import_key(dict(key)), registry=_registry)
    except (JoseError, ValueError, TypeError):  # a bad signature, or a malformed key
        return False
    return True
