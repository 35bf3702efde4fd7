"""From the URL of a database to one of SQLAlchemy, for the drivers that are tested."""

from collections.abc import Sequence
from urllib.parse import urlencode

import sqlalchemy as sa

from starsessions.core import urls
from starsessions.core.urls import Url
from starsessions.exceptions import ImproperlyConfigured
from starsessions.stores.sqlalchemy.connection import ASYNC_DRIVERS, with_driver

_LIBPQ = (
    "application_name channel_binding client_encoding connect_timeout gssencmode host keepalives keepalives_count "
    "keepalives_idle keepalives_interval options passfile port service sslcert sslcrl sslkey sslmode sslnegotiation "
    "sslrootcert target_session_attrs tcp_user_timeout"
)
_OF_DRIVERS = {
    "asyncpg": frozenset({"host", "port", "ssl", "prepared_statement_cache_size"}),
    "psycopg": frozenset(_LIBPQ.split()),
    "asyncmy": frozenset({"charset", "connect_timeout", "unix_socket"}),
    "aiosqlite": frozenset({"cache", "immutable", "mode", "nolock", "uri", "vfs"}),
}
"""The options of each driver that may come in a URL as text."""


def driver_options(scheme: str) -> frozenset[str]:
    """Return the options of the driver that the URL names, or of the one that is used if it names none.

    Raises:
        ImproperlyConfigured: the driver is not supported, or none is installed.
    """
    dialect, _, named = scheme.partition("+")
    drivers = ASYNC_DRIVERS[dialect]
    driver = named or with_driver(sa.URL.create(scheme)).get_driver_name()
    if driver not in drivers:
        usable = " or ".join(f"{dialect}+{name}://" for name in drivers)
        raise ImproperlyConfigured(f"The driver of this URL does not support asyncio, or is not tested: use {usable}.")
    return _OF_DRIVERS[driver]


def url_for(url: Url, options: Sequence[tuple[str, str]]) -> sa.URL:
    """Return the URL as SQLAlchemy reads it, with these options of the driver only.

    Raises:
        ImproperlyConfigured: a part of it is malformed.
    """
    if url.authority.rpartition("@")[2]:
        urls.hosts_in(url)
    scheme = with_driver(sa.URL.create(url.scheme)).drivername
    query = urlencode(options)
    try:
        made = sa.make_url(f"{scheme}://{url.authority}{url.path}{'?' if query else ''}{query}")
        # This reads the options, which otherwise happens at the first connection.
        made.get_dialect()().create_connect_args(made)
    except Exception:
        # The message of the error may contain a password.
        raise ImproperlyConfigured(f"SQLAlchemy cannot read this URL, or an option of it. {urls.ENCODE}") from None
    return made
