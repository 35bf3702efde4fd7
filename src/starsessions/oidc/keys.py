"""The keys of a provider: given, or found by discovery and kept for an hour.

A token with an unknown key makes us look again, since providers rotate their keys: at most once a minute, because
anyone can send such a token.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from anyio import Lock

from starsessions.exceptions import ImproperlyConfigured
from starsessions.oidc.documents import DocumentUnavailable, fetch, is_loopback, is_safe
from starsessions.oidc.tokens import Header, fits

Key = Mapping[str, Any]

KEPT_FOR = 60 * 60
"""Seconds after which the keys are fetched anew."""

AT_MOST_FOR = 24 * 60 * 60
"""Seconds for which keys are used if the provider does not answer."""

PAUSE = 60
"""Seconds between two attempts to find an unknown key."""

PAUSE_AFTER_FAILURE = 5

MOST_KEYS = 8
"""Keys that are tried for one token."""


def openid_configuration(issuer: str) -> str:
    """Return the address of an OpenID provider's document (OpenID Connect Discovery 1.0, section 4).

    >>> openid_configuration("https://example.com/tenant/")
    'https://example.com/tenant/.well-known/openid-configuration'
    """
    return issuer.rstrip("/") + "/.well-known/openid-configuration"


def ssf_configuration(issuer: str) -> str:
    """Return the address of a transmitter's document (SSF 1.0, section 7.2): the path of the issuer comes last.

    >>> ssf_configuration("https://example.com/tenant/")
    'https://example.com/.well-known/ssf-configuration/tenant'
    """
    parts = urlsplit(issuer)
    return f"{parts.scheme}://{parts.netloc}/.well-known/ssf-configuration{parts.path.rstrip('/')}"


class GivenKeys:
    """Keys that the application has."""

    critical_members: Collection[str] = ()

    def __init__(self, key_set: Mapping[str, Any]) -> None:
        self._keys = _keys_in(key_set)
        if not self._keys:
            raise ImproperlyConfigured('There is no key in keys: pass a JSON Web Key Set, {"keys": [...]}.')

    async def matching(self, header: Header, now: float) -> Sequence[Key]:
        """Return the keys that may have signed a token with this header."""
        return _matching(self._keys, header)


class DiscoveredKeys:
    """Keys that the provider publishes."""

    def __init__(
        self,
        issuer: str,
        document_of: Callable[[str], str],
        fetch: Callable[[str], Awaitable[Mapping[str, Any]]] = fetch,
    ) -> None:
        """Find them where `document_of(issuer)` says."""
        self._allow_loopback = is_loopback(issuer)
        if not is_safe(issuer, allow_loopback=self._allow_loopback):
            raise ImproperlyConfigured(
                "The issuer of an identity provider is a URL with https (or http on this machine, for tests): pass it "
                "as the provider spells it in its tokens, or pass keys=… if it publishes none."
            )
        self.critical_members: Collection[str] = ()
        """What the transmitter declares critical in a subject."""
        self._issuer = issuer
        self._document_url = document_of(issuer)
        self._fetch = fetch
        self._keys: Sequence[Key] = ()
        self._fetched_at = float("-inf")
        self._wait_until = float("-inf")
        self._lock = Lock()

    async def matching(self, header: Header, now: float) -> Sequence[Key]:
        """Return the keys that may have signed a token with this header.

        Raises:
            DocumentUnavailable: there are no keys, because the provider does not answer.
        """
        if now >= self._fetched_at + KEPT_FOR:
            await self._refresh(now)
        found = _matching(self._keys, header)
        if not found and now >= self._wait_until:
            await self._refresh(now)
            found = _matching(self._keys, header)
        return found

    async def _refresh(self, now: float) -> None:
        """Fetch the keys, unless another request has just done so. Without an answer, keep those of today."""
        async with self._lock:
            if now >= self._wait_until:
                try:
                    self._keys = await self._fetched()
                except DocumentUnavailable:
                    self._wait_until = now + PAUSE_AFTER_FAILURE
                else:
                    self._fetched_at, self._wait_until = now, now + PAUSE
        if now >= self._fetched_at + AT_MOST_FOR:
            self._keys = ()
            raise DocumentUnavailable("The provider's keys cannot be fetched.")

    async def _fetched(self) -> Sequence[Key]:
        document = await self._fetch(self._document_url)
        if document.get("issuer") != self._issuer:
            raise DocumentUnavailable("The document is of another issuer.")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or not is_safe(url, allow_loopback=self._allow_loopback):
            raise DocumentUnavailable("The document does not lead to keys by https.")
        keys = _keys_in(await self._fetch(url))
        if not keys:
            raise DocumentUnavailable("The provider publishes no keys.")
        members = document.get("critical_subject_members")
        self.critical_members = members if isinstance(members, list) else ()
        return keys


def _keys_in(key_set: Mapping[str, Any]) -> Sequence[Key]:
    keys = key_set.get("keys")
    return [key for key in keys if isinstance(key, dict)] if isinstance(keys, list) else []


def _matching(keys: Sequence[Key], header: Header) -> Sequence[Key]:
    return [key for key in keys if fits(key, header)][:MOST_KEYS]
