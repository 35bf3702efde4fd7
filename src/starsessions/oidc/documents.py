"""Fetches a JSON document of a provider. The only module that knows httpx2.

A provider, or who has taken over its document, must not lead us anywhere else: https only, no redirects, a limit of
size, a limit of time.
"""

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
    try:
        with fail_after(SECONDS):
            body = await _body_at(url)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:  # a TimeoutError is an OSError
        raise DocumentUnavailable(f"The provider did not answer: {type(error).__name__}.") from error
    try:
        return _decode(body)
    except (DecodeError, ValueError, RecursionError):
        raise DocumentUnavailable("The provider's document is no JSON object.") from None


async def _body_at(url: str) -> bytes:
    body = bytearray()
    headers = {"accept": "application/json"}
    async with (
        httpx2.AsyncClient(timeout=SECONDS, follow_redirects=False) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        if response.status_code != 200:
            raise DocumentUnavailable(f"The provider answered {response.status_code}.")
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MOST_BYTES:
                raise DocumentUnavailable("The provider's document is too large.")
    return bytes(body)
