"""Fetches a JSON document of a provider, or posts one. The only module that knows httpx2.

A provider, or an attacker who has taken over its document, must not lead us anywhere else: https only, no
redirects, a limit of size, a limit of time.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
from anyio import fail_after
from msgspec import DecodeError
from msgspec.json import Decoder

MOST_BYTES = 262_144
SECONDS = 5.0

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_decode = Decoder(dict[str, Any]).decode


class DocumentUnavailable(Exception):
    """The document cannot be had now. The message names no address, since it may contain a secret."""


def is_loopback(url: str) -> bool:
    """Return whether the address is plain http on this machine.

    >>> is_loopback("http://127.0.0.1:8000/keys"), is_loopback("http://example.com/keys")
    (True, False)
    """
    try:
        parts = urlsplit(url)
        return parts.scheme == "http" and parts.hostname in LOOPBACK
    except ValueError:
        return False


def is_safe(url: str, *, allow_loopback: bool) -> bool:
    """Return whether a document may be fetched from this address.

    >>> is_safe("https://example.com/keys", allow_loopback=False), is_safe("http://example.com", allow_loopback=True)
    (True, False)
    """
    try:
        parts = urlsplit(url)
        is_https = parts.scheme == "https" and bool(parts.hostname) and parts.username is None
    except ValueError:
        return False
    return is_https or (allow_loopback and is_loopback(url))


async def fetch(url: str) -> dict[str, Any]:
    """Return the JSON object at this address.

    Raises:
        DocumentUnavailable: it cannot be fetched, is too large, or is no JSON object.
    """
    return await _answer_of("GET", url, SECONDS)


async def post(url: str, document: Mapping[str, Any], headers: Mapping[str, str], limit: float) -> dict[str, Any]:
    """Post a document to this address, and return the JSON object that it answers.

    Args:
        url: the address.
        document: what is sent, as JSON.
        headers: the headers to send.
        limit: the seconds after which it fails.

    Raises:
        DocumentUnavailable: as for `fetch`.
    """
    return await _answer_of("POST", url, limit, json=document, headers=headers)


async def _answer_of(method: str, url: str, limit: float, **what: Any) -> dict[str, Any]:
    try:
        with fail_after(limit):
            body = await _body_of(method, url, limit, **what)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:  # a TimeoutError is an OSError
        raise DocumentUnavailable(f"The provider did not answer: {type(error).__name__}.") from error
    try:
        return _decode(body)
    except (DecodeError, ValueError, RecursionError):
        raise DocumentUnavailable("The provider's document is no JSON object.") from None


async def _body_of(method: str, url: str, limit: float, **what: Any) -> bytes:
    body = bytearray()
    headers = {"accept": "application/json"}
    async with (
        httpx2.AsyncClient(timeout=limit, follow_redirects=False, headers=headers) as client,
        client.stream(method, url, **what) as response,
    ):
        if response.status_code != 200:
            raise DocumentUnavailable(f"The provider answered {response.status_code}.")
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MOST_BYTES:
                raise DocumentUnavailable("The provider's document is too large.")
    return bytes(body)
