"""Read a URL that says where sessions are kept. Nothing of it is shown in an error, because it may hold a password."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from ipaddress import AddressValueError, IPv6Address
from typing import Any
from urllib.parse import unquote_plus, unquote_to_bytes

from msgspec import Struct

from starsessions.exceptions import ImproperlyConfigured

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BOOLS = {"true": True, "1": True, "false": False, "0": False}

ENCODE = "In a user name or a password, write @ : / ? # & and % as %40 %3A %2F %3F %23 %26 and %25."
SECRETS = frozenset({"secret_key", "encrypt_with", "accept_signed", "key", "keys"})
"""Options that hold a key. They have keywords, because a URL is more likely to be logged."""

Reader = Callable[[str, str], Any]
"""Makes the value of an option from its name and its text, or raises `ImproperlyConfigured`."""


class Url(Struct, frozen=True):
    """The parts of a URL, as they were written: still percent-encoded, where a part can be."""

    scheme: str
    authority: str
    path: str
    options: Sequence[tuple[str, str]]
    """The names and values of the query, decoded."""

    def __repr__(self) -> str:
        return "<a URL>"


class Host(Struct, frozen=True):
    """A host, and its port if there is one."""

    name: str
    port: int | None


def parse(url: str) -> Url:
    """Return the parts of a URL.

    Raises:
        ImproperlyConfigured: it is no URL, or is not encoded correctly.
    """
    if not isinstance(url, str):
        end = ": is the variable that holds it set?" if url is None else "."
        raise ImproperlyConfigured(f"The URL must be a str, not {type(url).__name__}{end}")
    if not url.isprintable() or " " in url:
        raise ImproperlyConfigured("The URL contains a space or a control character: percent-encode or remove it.")
    found = _URL.fullmatch(url)
    if found is None:
        raise ImproperlyConfigured(f"The URL must be scheme://…, and a # in it as %23. {ENCODE}")
    if _BAD_PERCENT.search(url):
        raise ImproperlyConfigured(f"The URL has a % that encodes nothing: write it as %25. {ENCODE}")
    decoded(url)
    pairs = [pair.partition("=") for pair in (found["query"] or "").split("&") if pair]
    options = [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]
    return Url(found["scheme"].lower(), found["authority"], found["path"], options)


def decoded(text: str) -> str:
    """Return a part of a URL without its percent-encoding.

    >>> decoded("p%40ss")
    'p@ss'
    """
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:  # of both directions: a lone surrogate, or bytes that are no UTF-8
        raise ImproperlyConfigured("The URL is not percent-encoded UTF-8: encode it anew.") from None


def credentials_in(url: Url) -> tuple[str | None, str | None]:
    """Return the user name and the password, decoded."""
    user, _, password = url.authority.rpartition("@")[0].partition(":")
    return decoded(user) or None, decoded(password) or None


def hosts_in(url: Url) -> list[Host]:
    """Return the hosts, of which there is at least one.

    Raises:
        ImproperlyConfigured: a host is missing or malformed.
    """
    return [_host(text) for text in url.authority.rpartition("@")[2].split(",")]


def _host(text: str) -> Host:
    found = _HOST.fullmatch(text)
    if found is None:
        what = "is malformed." if text else "is missing: is the variable that holds it set?"
        raise ImproperlyConfigured(f"A host in the URL {what} Write host, host:port or [IPv6]:port. {ENCODE}")
    port = None if found["port"] is None else int(found["port"])
    if port is not None and not 1 <= port <= 65535:
        raise ImproperlyConfigured("A port in the URL is not between 1 and 65535.")
    if found["v6"] is not None:
        try:
            IPv6Address(found["v6"])
        except AddressValueError:
            raise ImproperlyConfigured("An IPv6 address in the URL is malformed.") from None
    return Host(found["v6"] or found["name"], port)


def options_of(
    options: Sequence[tuple[str, str]], readers: Mapping[str, Reader], others: Collection[str] = ()
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the options that have a reader, with their values; and those of `others`, which may come repeatedly.

    Raises:
        ImproperlyConfigured: an option is unknown, repeated, or has a wrong value.
    """
    read: dict[str, Any] = {}
    passed: list[tuple[str, str]] = []
    for name, value in options:
        if name in readers:
            if name in read:
                raise ImproperlyConfigured(f"The URL has the option {name} twice: remove one.")
            read[name] = readers[name](name, value)
        elif name in others:
            passed.append((name, value))
        else:
            raise ImproperlyConfigured(_unknown(name, sorted({*readers, *others})))
    return read, passed


def _unknown(name: str, known: Sequence[str]) -> str:
    """Return the message. The name is not shown: it may be the end of a password with a question mark."""
    if name in SECRETS:
        return "A key does not belong in a URL, which may be logged: pass secret_key=… or encrypt_with=… beside it."
    there_are = f"Known: {', '.join(known)}." if known else "There are none for this scheme."
    close = get_close_matches(name, known, n=1)
    meant = f" Do you mean {close[0]}?" if close else ""
    return f"The URL has an unknown option. {there_are}{meant} {ENCODE}"


def as_text(name: str, value: str) -> str:
    return value


def as_bool(name: str, value: str) -> bool:
    try:
        return _BOOLS[value.lower()]
    except KeyError:
        raise ImproperlyConfigured(f"The option {name} of the URL must be true or false.") from None


def as_count(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 10):
        raise ImproperlyConfigured(f"The option {name} of the URL must be a whole number.")
    return int(value)


def as_positive(name: str, value: str) -> int:
    number = as_count(name, value)
    if not number:
        raise ImproperlyConfigured(f"The option {name} of the URL must be 1 or more.")
    return number


def as_seconds(name: str, value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,6})?", value):
        raise ImproperlyConfigured(f"The option {name} of the URL must be a number of seconds.")
    return float(value)
