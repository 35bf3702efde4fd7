"""From the URL of a server, of Sentinels or of a Cluster to a client. redis-py itself knows URLs of one server only."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starsessions.core import urls
from starsessions.core.urls import Host, Reader, Url
from starsessions.exceptions import ImproperlyConfigured
from starsessions.stores.redis.clients import Client, ClientOrUrl
from starsessions.stores.redis.connection import CHECKED, CONNECTIONS

if TYPE_CHECKING:
    from redis.asyncio import Redis, RedisCluster

_PORT, _SENTINEL_PORT = 6379, 26379

_KINDS = {"redis": False, "rediss": True, "valkey": False, "valkeys": True}
"""The schemes of servers, and whether they are for TLS."""

SCHEMES = frozenset({"unix", *(kind + way for kind in _KINDS for way in ("", "+sentinel", "+cluster"))})

_DRIVER: Mapping[str, Reader] = {
    "client_name": urls.as_text,
    "health_check_interval": urls.as_count,
    "max_connections": urls.as_positive,
    "socket_keepalive": urls.as_bool,
}
_TLS: Mapping[str, Reader] = dict.fromkeys(("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"), urls.as_text)
_SENTINELS: Mapping[str, Reader] = dict.fromkeys(("sentinel_username", "sentinel_password"), urls.as_text)
"""What is left out would weaken something: a check of certificates that is off, reads from replicas, other limits."""


def options_for(scheme: str) -> Mapping[str, Reader]:
    """Return the options of the driver that a URL may have."""
    kind, _, way = scheme.partition("+")
    readers = {**_DRIVER, **(_TLS if _KINDS.get(kind) else {})}
    if way == "cluster":
        readers.pop("health_check_interval")
        readers.pop("ssl_ca_path", None)
        return readers
    return {**readers, "db": urls.as_count, **(_SENTINELS if way == "sentinel" else {})}


def client_for(url: Url, options: Mapping[str, Any], seconds: float) -> ClientOrUrl:
    """Return what `RedisStore` takes: a URL of redis-py, or a function that makes a client.

    Args:
        url: the URL.
        options: those of the driver, from the URL.
        seconds: the limit of time of an operation.

    Raises:
        ImproperlyConfigured: a part of the URL is missing or malformed.
    """
    kind, _, way = url.scheme.partition("+")
    if way == "sentinel":
        return _sentinel(url, dict(options), _KINDS[kind], seconds)
    if way == "cluster":
        return _cluster(url, options, _KINDS[kind], seconds)
    if kind == "unix":
        if not url.path.strip("/") or (url.authority and "@" not in url.authority):
            raise ImproperlyConfigured("The URL names no socket: write unix:///path or unix://user:password@/path.")
        scheme = "unix"
    else:
        scheme = "rediss" if _KINDS[kind] else "redis"
        if len(urls.hosts_in(url)) > 1:
            raise ImproperlyConfigured("The URL has several hosts: write redis+sentinel:// or redis+cluster://.")
        _database(url.path.lstrip("/"), options)
    query = urlencode(options)
    return f"{scheme}://{url.authority}{url.path}{'?' if query else ''}{query}"


def _database(path: str, options: Mapping[str, Any]) -> int:
    """Return the number of the database, from the path or from an option."""
    if not path:
        return int(options.get("db", 0))
    if "db" in options:
        raise ImproperlyConfigured("The URL has a database in its path, and the option db: remove one.")
    if not (path.isascii() and path.isdigit() and len(path) <= 10):
        raise ImproperlyConfigured("The path of the URL must be the number of a database, such as /0.")
    return int(path)


def _common(url: Url, options: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    user, password = urls.credentials_in(url)
    # No timeout for single reads and writes: each operation has one for everything that it does.
    common = {"socket_timeout": None, "socket_connect_timeout": seconds, "max_connections": CONNECTIONS}
    return {**common, "username": user, "password": password, **options}


def _tls(options: Mapping[str, Any], tls: bool) -> dict[str, Any]:
    given = {name: options[name] for name in _TLS if name in options}
    return {"ssl": True, **CHECKED, **given} if tls else {}


def _sentinel(url: Url, options: dict[str, Any], tls: bool, seconds: float) -> Callable[[], Client]:
    hosts = [(host.name, host.port or _SENTINEL_PORT) for host in urls.hosts_in(url)]
    service, _, path = url.path.removeprefix("/").partition("/")
    if not service:
        raise ImproperlyConfigured("The URL names no service: write redis+sentinel://host1,host2/service/db.")
    # One Sentinel that does not answer must leave time for the others.
    share = seconds / (len(hosts) + 1)
    mine = {"socket_timeout": share, "socket_connect_timeout": share, **_tls(options, tls)}
    for name in ("username", "password"):
        mine[name] = options.pop(f"sentinel_{name}", None)
    common = {**_common(url, options, seconds), **_tls(options, tls), "db": _database(path, options)}
    return partial(_primary, hosts, mine, common, urls.decoded(service))


def _primary(
    hosts: list[tuple[str, int]], of_sentinels: Mapping[str, Any], common: Mapping[str, Any], service: str
) -> "Redis":
    from redis.asyncio import Sentinel
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    # The next Sentinel is the second attempt: by default, the first one would be asked for seconds.
    once = {**of_sentinels, "retry": Retry(NoBackoff(), 0)}
    sentinel: Any = Sentinel  # its constructor has no types
    primary: Redis = sentinel(hosts, sentinel_kwargs=once, **common).master_for(service)
    return primary


def _cluster(url: Url, options: Mapping[str, Any], tls: bool, seconds: float) -> Callable[[], Client]:
    hosts = urls.hosts_in(url)
    if url.path.strip("/"):
        raise ImproperlyConfigured("A Cluster has one database only: remove the path of the URL.")
    return partial(_nodes, hosts, {**_common(url, options, seconds), **_tls(options, tls)})


def _nodes(hosts: list[Host], common: Mapping[str, Any]) -> "RedisCluster":
    from redis.asyncio import RedisCluster
    from redis.asyncio.cluster import ClusterNode

    nodes = [ClusterNode(host.name, host.port or _PORT) for host in hosts]
    return RedisCluster(startup_nodes=nodes, **common)
