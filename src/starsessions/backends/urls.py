"""A backend from a URL, so that a deployment chooses where sessions are kept by one variable of its environment."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starsessions.backends.base import Backend, wall_clock
from starsessions.backends.cookie import CookieBackend, EncryptedCookieBackend
from starsessions.backends.memory import InMemoryBackend
from starsessions.backends.server_side import StoreBackend
from starsessions.core import urls
from starsessions.core.durations import Clock
from starsessions.core.serializer import Serializer
from starsessions.core.urls import Reader, Url
from starsessions.exceptions import ImproperlyConfigured
from starsessions.sealing.keys import Keys, OptionalKeys
from starsessions.stores.base import Store

if TYPE_CHECKING:
    from sqlalchemy import MetaData

__all__ = ["backend_from_url"]

_OF_COOKIES: Mapping[str, Reader] = {
    "max_age": urls.as_count,
    "max_cookies": urls.as_count,
    "compress": urls.as_bool,
    "allow_unrevocable": urls.as_bool,
}
_OF_SIGNED: Mapping[str, Reader] = {**_OF_COOKIES, "starlette_format": urls.as_bool}
_OF_REDIS: Mapping[str, Reader] = {"prefix": urls.as_text, "timeout": urls.as_seconds}
_OF_SQL: Mapping[str, Reader] = {
    "table_name": urls.as_text,
    "timeout": urls.as_seconds,
    "sweep_every": urls.as_count,
}
_COOKIES = ("cookie", "encrypted-cookie")
_DATABASES = ("postgresql", "mysql", "mariadb", "sqlite")
_KNOWN = (
    "memory://, cookie://, encrypted-cookie://, redis://, rediss://, unix://, valkey://, valkeys://, "
    "redis+sentinel://, redis+cluster://, postgresql://, mysql://, mariadb:// and sqlite://"
)


def backend_from_url(
    url: str,
    *,
    secret_key: Keys | None = None,
    encrypt_with: OptionalKeys = False,
    revocations: Store | StoreBackend | str | None = None,
    serializer: Serializer | None = None,
    metadata: "MetaData | None" = None,
    clock: Clock = wall_clock,
) -> Backend:
    """Return the backend that a URL describes: docs/reference/backends.md has a table of what it can say.

    The keys are no part of the URL. Each backend takes the keywords that concern it and ignores the others, so that the
    URL alone can change where sessions are kept. The backend opens and closes its connections with the application.

    Args:
        url: the URL.
        secret_key: the key of signed or encrypted cookies, or a list of them.
        encrypt_with: the key that encrypts what is stored in Redis or SQL, or a list of them. False: no encryption.
        revocations: for cookies, a store that keeps the valid sign-ins, or its URL. It is encrypted with
            `encrypt_with`, too, if it is a URL. None: they cannot be revoked.
        serializer: converts the data to bytes. None: that of the backend.
        metadata: the metadata that the table is added to, for SQL. None: a new one.
        clock: returns the seconds since 1970; for tests.

    Raises:
        ImproperlyConfigured: the URL, an option or a key is wrong, or a package is missing. The message shows nothing
            of the URL.

    >>> backend_from_url("memory://")  # doctest: +ELLIPSIS
    <starsessions.backends.memory.InMemoryBackend object at ...>
    >>> backend_from_url("cookie://?max_age=3600", secret_key="a key of 32 random bytes or more").max_age
    3600
    >>> backend_from_url("cookie://?maxage=3600", secret_key="a key of 32 random bytes or more")
    Traceback (most recent call last):
    starsessions.exceptions.ImproperlyConfigured: The URL has an unknown option. Known: allow_unrevocable, compress, \
max_age, max_cookies, starlette_format. Do you mean max_age? In a user name or a password, write @ : / ? # & and % as \
%40 %3A %2F %3F %23 %26 and %25.
    """
    parsed = urls.parse(url)
    common: dict[str, Any] = {"serializer": serializer, "clock": clock}
    if parsed.scheme == "memory":
        return InMemoryBackend(**_options_only(parsed, {}), **common)
    if parsed.scheme in _COOKIES:
        if isinstance(revocations, str):
            revocations = _store_from(revocations, encrypt_with=encrypt_with, metadata=metadata, clock=clock)
        common["revocations"] = revocations
        # A key that is missing is refused there, with a sentence.
        key: Any = secret_key
        if parsed.scheme == "cookie":
            return CookieBackend(key, **_options_only(parsed, _OF_SIGNED), **common)
        return EncryptedCookieBackend(key, **_options_only(parsed, _OF_COOKIES), **common)
    return _stored(parsed, metadata, {"encrypt_with": encrypt_with, **common})


def _store_from(url: str, **keywords: Any) -> Any:
    if urls.parse(url).scheme in _COOKIES:
        raise ImproperlyConfigured("revocations must be the URL of a store: a cookie cannot keep what is revoked.")
    return backend_from_url(url, **keywords)


def _options_only(url: Url, readers: Mapping[str, Reader]) -> dict[str, Any]:
    """Return the options of a URL that names no place."""
    if url.authority or url.path:
        raise ImproperlyConfigured(
            f"There is nothing between {url.scheme}:// and its options: write {url.scheme}:// or {url.scheme}://?…=…."
        )
    return urls.options_of(url.options, readers)[0]


def _stored(url: Url, metadata: "MetaData | None", common: Mapping[str, Any]) -> Backend:
    scheme = url.scheme
    if scheme == "unix" or scheme.startswith(("redis", "valkey")):
        return _in_redis(url, common)
    if scheme == "postgres":  # as some hosting services write it; SQLAlchemy does not know it
        scheme = "postgresql"
    if scheme.partition("+")[0] in _DATABASES:
        return _in_sql(Url(scheme, url.authority, url.path, url.options), metadata, common)
    raise _unknown_scheme()


def _unknown_scheme() -> ImproperlyConfigured:
    # What was given is not shown: it may be a key, if two variables were mixed up.
    return ImproperlyConfigured(f"The scheme of the URL is unknown. Known: {_KNOWN}.")


def _in_redis(url: Url, common: Mapping[str, Any]) -> Backend:
    from starsessions.backends.redis import RedisBackend
    from starsessions.stores.redis.urls import SCHEMES, client_for, options_for

    if url.scheme not in SCHEMES:
        raise _unknown_scheme()
    of_driver = options_for(url.scheme)
    options, _ = urls.options_of(url.options, {**_OF_REDIS, **of_driver})
    mine = {name: options.pop(name) for name in _OF_REDIS if name in options}
    seconds = mine.get("timeout") or 5
    return RedisBackend(client_for(url, options, seconds), **mine, **common)


def _in_sql(url: Url, metadata: "MetaData | None", common: Mapping[str, Any]) -> Backend:
    from starsessions.backends.sqlalchemy import SQLAlchemyBackend
    from starsessions.stores.sqlalchemy.urls import driver_options, url_for

    options, of_driver = urls.options_of(url.options, _OF_SQL, driver_options(url.scheme))
    return SQLAlchemyBackend(url_for(url, of_driver), metadata=metadata, **options, **common)
