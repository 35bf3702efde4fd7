"""A backend from a URL."""

import os
import re
import subprocess
import sys
import traceback
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import MetaData

from starsessions import (
    BackendUnavailable,
    CookieBackend,
    EncryptedCookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
)
from starsessions.backends.base import Backend
from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.backends.urls import backend_from_url
from starsessions.core.serializer import PlainJson
from starsessions.core.urls import credentials_in, parse
from starsessions.stores.memory import MemoryStore
from starsessions.stores.redis.urls import SCHEMES, options_for
from starsessions.stores.sqlalchemy.connection import ASYNC_DRIVERS
from starsessions.stores.sqlalchemy.urls import driver_options
from tests.backends.sql import database
from tests.check.deployments import refusing_port
from tests.docs.pages import DOCS, blocks
from tests.docs.pages import rows as table_rows
from tests.missing import missing
from tests.rows import rows
from tests.servers.process import Address
from tests.site import KEY, Clock

PASSWORD = "hunter2"
OTHER_KEY = "another key, of 32 random bytes or more"


def made(url: str, **keywords: Any) -> Backend:
    return backend_from_url(url, **{"secret_key": KEY, **keywords})


def refused(url: Any, **keywords: Any) -> str:
    with pytest.raises(ImproperlyConfigured) as caught:
        made(url, **keywords)
    assert caught.value.__cause__ is None or PASSWORD not in repr(caught.value.__cause__)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


KINDS = [
    ("memory://", InMemoryBackend),
    ("MEMORY://", InMemoryBackend),
    ("cookie://", CookieBackend),
    ("cookie://?max_age=60&compress=true&max_cookies=2&starlette_format=0&allow_unrevocable=1", CookieBackend),
    ("encrypted-cookie://?max_age=60&compress=FALSE", EncryptedCookieBackend),
    ("redis://h", RedisBackend),
    ("redis://h/3", RedisBackend),
    ("redis://h?db=3", RedisBackend),
    ("redis://h/", RedisBackend),
    ("redis://:hunter2@h:6380/0?prefix=shop:&timeout=0.5", RedisBackend),
    ("redis://user:p%40ss%2Fword@[2001:db8::1]:6380/0", RedisBackend),
    ("redis://h?client_name=shop&health_check_interval=30&max_connections=5&socket_keepalive=true", RedisBackend),
    ("rediss://h?ssl_ca_certs=%2Fetc%2Fca.pem", RedisBackend),
    ("unix:///run/redis.sock?db=1", RedisBackend),
    ("unix://user:hunter2@/run/redis.sock", RedisBackend),
    ("valkey://h", RedisBackend),
    ("valkeys://h", RedisBackend),
    ("redis+sentinel://a,b:26380,[::1]:26379/service", RedisBackend),
    ("rediss+sentinel://:hunter2@a/service/1?sentinel_password=hunter2&ssl_ca_certs=x", RedisBackend),
    ("redis+sentinel://a/service?db=1", RedisBackend),
    ("valkey+sentinel://a/my%20service/1", RedisBackend),
    ("redis+cluster://a,b:7001", RedisBackend),
    ("valkeys+cluster://user:hunter2@a/?ssl_certfile=x&max_connections=2", RedisBackend),
    ("postgresql+asyncpg://user:hunter2@h/db?ssl=require", SQLAlchemyBackend),
    ("postgresql+asyncpg://h/db?table_name=web.sessions&timeout=2&sweep_every=600", SQLAlchemyBackend),
    ("postgresql+asyncpg:///db?host=a:5432&host=b:5432", SQLAlchemyBackend),
    ("postgresql+psycopg://h/db?sslmode=verify-full&application_name=shop", SQLAlchemyBackend),
    ("postgresql://h/db?sslmode=require", SQLAlchemyBackend),
    ("postgresql://[::1]:5432/db", SQLAlchemyBackend),
    ("postgres://h/db", SQLAlchemyBackend),
    ("mysql+asyncmy://h/db?charset=utf8mb4", SQLAlchemyBackend),
    ("mariadb+asyncmy://h/db", SQLAlchemyBackend),
    ("mysql://h/db", SQLAlchemyBackend),
    ("sqlite+aiosqlite://", SQLAlchemyBackend),
    ("sqlite+aiosqlite:///relative.db?timeout=2", SQLAlchemyBackend),
    ("sqlite:////absolute.db", SQLAlchemyBackend),
]


@rows("url, kind", KINDS)
def test_a_url_says_which_backend(url: str, kind: type) -> None:
    assert type(made(url)) is kind


PARTS = "In a user name or a password, write @"
WRONG = [
    (None, "is the variable that holds it set?"),
    (b"memory://", "must be a str, not bytes"),
    ("", "must be scheme://"),
    ("memory", "must be scheme://"),
    ("memory:", "must be scheme://"),
    ("redis:h", "must be scheme://"),
    (KEY, "must be scheme://"),
    ("redis://a b", "space or a control"),
    ("http://h", "The scheme of the URL is unknown. Known: memory://"),
    ("redisx://h", "scheme of the URL is unknown"),
    ("redis+nothing://h", "scheme of the URL is unknown"),
    ("memory+x://", "scheme of the URL is unknown"),
    ("redis://h\n", "control character"),
    ("redis://h#hunter2", "# in it as %23"),
    ("redis://:100%hunter2@h", "encodes nothing"),
    ("redis://:%FFhunter2@h", "not percent-encoded UTF-8"),
    ("redis://:\ud800hunter2@h", "control character"),
    ("memory://h", "write memory:// or memory://?"),
    ("cookie:///x", "write cookie:// or"),
    ("memory://?max_age=1", "There are none for this scheme"),
    ("cookie://?maxage=1", "Do you mean max_age?"),
    ("cookie://?max_age", "max_age of the URL must be a whole number"),
    ("cookie://?max_age=-1", "must be a whole number"),
    ("cookie://?max_age=hunter2", "must be a whole number"),
    ("cookie://?max_age=" + "9" * 5000, "must be a whole number"),
    ("cookie://?max_age=0", "max_age must be between 1 and"),
    ("cookie://?max_age=1&max_age=2", "max_age twice"),
    ("cookie://?max_cookies=10", "max_cookies must be 1 to"),
    ("cookie://?compress=hunter2", "compress of the URL must be true or false"),
    ("encrypted-cookie://?starlette_format=true", "unknown option"),
    ("cookie://?secret_key=hunter2", "A key does not belong in a URL"),
    ("redis://h?encrypt_with=hunter2", "A key does not belong in a URL"),
    ("redis://", "A host in the URL is missing: is the variable"),
    ("redis://:6379", "A host in the URL is malformed"),
    ("redis://@h@:1", "A host in the URL is malformed"),
    ("redis://h:0", "between 1 and 65535"),
    ("redis://h:65536", "between 1 and 65535"),
    ("redis://h:abc", "malformed"),
    ("redis://:hunter2/x@h", "malformed"),
    ("redis://::1", "malformed"),
    ("redis://[::x]", "IPv6 address in the URL is malformed"),
    ("redis://a,b", "write redis+sentinel:// or redis+cluster://"),
    ("redis://h/abc", "number of a database, such as /0"),
    ("redis://h/1/2", "number of a database"),
    ("redis://h/²", "number of a database"),
    ("redis://h/0?db=1", "in its path, and the option db"),
    ("redis://h?db=x", "db of the URL must be a whole number"),
    ("redis://h?timeout=soon", "timeout of the URL must be a number of seconds"),
    ("redis://h?timeout=0", "timeout must be more than 0"),
    ("redis://h?max_connections=0", "max_connections of the URL must be 1 or more"),
    ("redis://h?ssl_ca_certs=x", "unknown option"),
    ("rediss://h?ssl_cert_reqs=none", "unknown option"),
    ("redis://:pass?hunter2=@h", PARTS),
    ("redis+cluster://a?read_from_replicas=true", "unknown option"),
    ("redis+cluster://a?health_check_interval=1", "unknown option"),
    ("rediss+cluster://a?ssl_ca_path=x", "unknown option"),
    ("redis+cluster://a/1", "one database only"),
    ("redis+cluster://", "host in the URL is missing"),
    ("redis+sentinel://a", "names no service"),
    ("redis+sentinel://a//1", "names no service"),
    ("redis+sentinel:///service", "host in the URL is missing"),
    ("redis+sentinel://a/service/x", "number of a database"),
    ("redis+sentinel://a/service/1?db=1", "in its path, and the option db"),
    ("unix://", "names no socket"),
    ("unix://run/redis.sock", "names no socket"),
    ("postgresql+psycopg2://h/db", "use postgresql+psycopg:// or postgresql+asyncpg://"),
    ("mysql+aiomysql://h/db", "use mysql+asyncmy://"),
    ("sqlite+pysqlite://", "use sqlite+aiosqlite://"),
    ("postgresql+asyncpg://h/db?sslmode=require", "Known: host, port, prepared_statement_cache_size, ssl, sw"),
    ("postgresql+asyncpg://h/db?prepared_statement_cache_size=hunter2", "SQLAlchemy cannot read this URL"),
    ("postgresql://h:99999/db", "between 1 and 65535"),
    ("sqlite+aiosqlite://relative.db", "SQLAlchemy cannot read this URL"),
]


@pytest.mark.guarantee(28)
@rows("url, said", WRONG)
def test_what_is_wrong_with_a_url_is_said_without_showing_it(url: Any, said: str) -> None:
    assert said in refused(url)


@rows("installed, works, fails", [("asyncpg", "ssl", "sslmode"), ("psycopg", "sslmode", "ssl")])
def test_a_url_without_a_driver_has_the_options_of_the_one_that_is_installed(
    monkeypatch: pytest.MonkeyPatch, installed: str, works: str, fails: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(
            "starsessions.stores.sqlalchemy.connection.find_spec", lambda name: True if name == installed else None
        )
        made(f"postgresql://h/db?{works}=require")
        assert works in refused(f"postgresql://h/db?{fails}=require")


def test_the_options_of_cookies_arrive() -> None:
    url = "cookie://?max_age=60&compress=true&max_cookies=2&starlette_format=0&allow_unrevocable=1"
    backend: Any = made(url, serializer=PlainJson())
    assert (backend.max_age, backend.max_cookies, backend.allow_unrevocable) == (60, 2, True)
    assert (backend._compress, backend._starlette_format) == (True, False)
    assert type(backend.serializer) is PlainJson


@rows(
    ("text", "expected"),
    [("true", True), ("TRUE", True), ("1", True), ("false", False), ("False", False), ("0", False)],
)
def test_true_and_false_have_two_spellings_in_a_url(text: str, expected: bool) -> None:
    backend: Any = made(f"cookie://?starlette_format={text}")
    assert backend._starlette_format is expected


def test_the_options_of_a_database_arrive() -> None:
    metadata = MetaData()
    backend: Any = made("sqlite://?table_name=web.sessions&timeout=2.5&sweep_every=600", metadata=metadata)
    assert backend.metadata is metadata
    assert list(metadata.tables) == ["web.sessions"]
    assert (backend._sweep_every, backend.store._database._timeout) == (600, 2.5)


def test_the_other_keywords_arrive(clock: Clock) -> None:
    backend: Any = made("memory://", clock=clock, serializer=PlainJson())
    assert (backend.clock, type(backend.serializer)) == (clock, PlainJson)


@rows("url", ["cookie://", "encrypted-cookie://"])
def test_a_cookie_without_a_key_is_refused(url: str) -> None:
    assert "is the variable that holds the key set?" in refused(url, secret_key=None)


@rows("url", ["memory://", "redis://h", "sqlite://", "cookie://"])
def test_a_keyword_that_does_not_concern_a_backend_is_ignored(url: str) -> None:
    made(url, secret_key=KEY, encrypt_with=OTHER_KEY, revocations=MemoryStore())


def test_the_address_of_a_server_is_that_of_the_url() -> None:
    backend: Any = made("valkey://user:p%40ss@[::1]:6380/3?max_connections=7&client_name=a%26b", secret_key=None)
    pool = backend.store.clients._make().client.connection_pool
    kwargs = pool.connection_kwargs
    assert (kwargs["host"], kwargs["port"], kwargs["db"]) == ("::1", 6380, 3)
    assert (kwargs["username"], kwargs["password"], kwargs["client_name"]) == ("user", "p@ss", "a&b")
    assert pool.max_connections == 7


@rows("url", ["redis://h", "redis://@h", "redis://:@h"])
def test_no_user_and_no_password_are_none_rather_than_empty(url: str) -> None:
    assert credentials_in(parse(url)) == (None, None)


def test_each_sentinel_has_a_share_of_the_time_and_its_own_password() -> None:
    url = "rediss+sentinel://u:p@a,b:1,c/my%20service/2?timeout=2&sentinel_password=x&ssl_ca_certs=/ca"
    backend: Any = made(url)
    pool = backend.store.clients._make().client.connection_pool
    assert (pool.service_name, pool.is_master) == ("my service", True)
    kwargs = pool.connection_kwargs
    assert (kwargs["username"], kwargs["password"], kwargs["db"]) == ("u", "p", 2)
    assert kwargs["socket_connect_timeout"] == 2
    sentinels = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"]) for one in sentinels] == [("a", 26379), ("b", 1), ("c", 26379)]
    assert {(one["username"], one["password"], one["socket_timeout"]) for one in sentinels} == {(None, "x", 0.5)}
    assert {(one["ssl_ca_certs"], one["ssl_check_hostname"]) for one in (kwargs, *sentinels)} == {("/ca", True)}


def test_a_cluster_begins_with_the_nodes_of_the_url() -> None:
    backend: Any = made("rediss+cluster://u:p@a,[::1]:7001?ssl_ca_certs=/ca")
    client = backend.store.clients._make().client
    nodes = client.nodes_manager.startup_nodes.values()
    assert [(node.host, node.port) for node in nodes] == [("a", 6379), ("::1", 7001)]
    kwargs = client.connection_kwargs
    assert (kwargs["username"], kwargs["password"], kwargs["ssl_ca_certs"]) == ("u", "p", "/ca")
    assert kwargs["ssl_check_hostname"] is True


@rows(
    ("query", "is_checked"),
    [
        ("", True),
        ("?ssl_cert_reqs=required", True),
        ("?ssl_cert_reqs=optional", True),
        ("?ssl_cert_reqs=none", False),  # where no certificate is looked at, there is no name either
        ("?ssl_check_hostname=false", False),
    ],
)
def test_the_name_of_a_server_is_checked_over_tls_also_by_a_redis_py_that_would_not(
    query: str, is_checked: bool
) -> None:
    backend: Any = RedisBackend(f"rediss://localhost/{query}", timeout=30)
    connection = backend.store.clients._make().client.connection_pool.make_connection()
    assert connection.ssl_context.get().check_hostname is is_checked


def test_no_option_of_redis_weakens_a_check_of_certificates_or_reads_from_replicas() -> None:
    options = {name for scheme in ("rediss", "rediss+sentinel", "rediss+cluster") for name in options_for(scheme)}
    weaker = ("cert_reqs", "check_hostname", "verify", "replica", "load_balancing", "decode", "socket_timeout")
    assert not [name for name in options for word in weaker if word in name]


def test_what_a_cookie_revokes_can_be_in_a_store_of_another_url() -> None:
    backend: Any = made("cookie://", revocations="sqlite://?table_name=revoked", encrypt_with=OTHER_KEY)
    store = backend._revocations
    assert type(store) is SQLAlchemyBackend
    assert (store.table.name, store._keys) == ("revoked", [OTHER_KEY.encode()])
    assert "a cookie cannot keep" in refused("cookie://", revocations="cookie://")


@given(st.text(max_size=40) | st.text("%:/?#[]@!,;=&+._-%09azAZ é\n\ud800", max_size=40), st.data())
@example("://", None)
def test_every_text_is_a_backend_or_a_clear_error(text: str, data: st.DataObject | None) -> None:
    heads = ["", *(url.partition("://")[0] + "://" for url, _ in KINDS), *(url for url, _ in KINDS)]
    head = "redis" if data is None else data.draw(st.sampled_from(heads))
    with suppress(ImproperlyConfigured):
        made(head + text)


def test_a_parsed_url_does_not_show_itself() -> None:
    assert PASSWORD not in repr(parse(f"redis://:{PASSWORD}@h"))


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["redis_server", "redis_cluster", "redis_sentinel"])
async def test_a_url_reaches_redis(request: pytest.FixtureRequest, kind: str) -> None:
    address: Address = request.getfixturevalue(kind)
    url = address.url.replace("redis://", "redis+cluster://") if kind == "redis_cluster" else address.url
    backend = backend_from_url(f"{url}?prefix=urls:&timeout=30")
    async with backend.lifespan():
        session_id = await backend.write({"user": "ann"})
        assert await backend.read(session_id) == {"user": "ann"}
        await backend.remove(session_id)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["sqlite", "postgres-asyncpg", "postgres-psycopg", "mariadb"])
async def test_a_url_reaches_a_database(name: str, request: pytest.FixtureRequest, tmp_path: Any) -> None:
    backend = backend_from_url(f"{database(name, request, tmp_path).url}?table_name=from_url&timeout=30")
    assert isinstance(backend, SQLAlchemyBackend)
    await backend.create_table()
    async with backend.lifespan():
        session_id = await backend.write({"user": "ann"})
        assert await backend.read(session_id) == {"user": "ann"}
        await backend.remove(session_id)
    async with backend.engine.begin() as connection:
        await connection.run_sync(backend.table.drop)
    await backend.engine.dispose()


@pytest.mark.anyio
async def test_a_sentinel_that_refuses_connections_takes_no_time_from_the_others(redis_sentinel: Address) -> None:
    with refusing_port() as port:
        url = redis_sentinel.url.replace("//", f"//127.0.0.1:{port},")
        backend: Any = made(f"{url}?timeout=30")
        sentinels = backend.store.clients.get().client.connection_pool.sentinel_manager.sentinels
        assert {one.connection_pool.connection_kwargs["retry"]._retries for one in sentinels} == {0}
        assert await backend.store.get("x", now=0) is None
        await backend.store.aclose()


DEAD = [
    "redis://:{}@127.0.0.1:{}",
    "redis+sentinel://:{0}@127.0.0.1:{1}/service?sentinel_password={0}",
    "redis+cluster://:{}@127.0.0.1:{}",
    "postgresql+asyncpg://user:{}@127.0.0.1:{}/db",
    "postgresql+psycopg://user:{}@127.0.0.1:{}/db",
    "mysql+asyncmy://user:{}@127.0.0.1:{}/db",
]


@pytest.mark.anyio
@pytest.mark.parametrize("url", DEAD)
async def test_a_password_is_in_no_error_no_log_and_no_repr(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with refusing_port() as port:
        backend: Any = made(url.format(PASSWORD, port))
        with pytest.raises(BackendUnavailable) as caught:
            await backend.store.get("x", now=0)
    await backend.store.aclose()
    shown = [backend, backend.store, backend.store.clients if "redis" in url else backend.engine]
    chain = traceback.format_exception(caught.value)
    assert PASSWORD not in "".join([*chain, *map(repr, shown), caplog.text])


# The documents


def table(first: str) -> list[list[str]]:
    return table_rows(DOCS / "reference" / "backends.md", first)


@rows("url", [url for cells, _ in table("| URL | what it is |") for url in re.findall("`([^`]+)`", cells)])
def test_the_table_of_urls_is_right(url: str) -> None:
    made(url)


def test_each_scheme_is_in_the_table() -> None:
    text = " ".join(" ".join(cells) for cells in table("| URL | what it is |"))
    assert {"memory", "cookie", "encrypted-cookie", *SCHEMES} - {
        kind + way for kind in ("rediss", "valkey", "valkeys") for way in ("+sentinel", "+cluster")
    } <= set(re.findall(r"([a-z+-]+)://", text))
    assert {f"{name}+{driver}" for name, drivers in ASYNC_DRIVERS.items() for driver in drivers} <= set(
        re.findall(r"([a-z+]+)://", text)
    )


def test_the_table_of_options_is_complete() -> None:
    told = {
        name for cells, *_ in table("| option in the URL | for | what it is |") for name in re.findall(r"\w+", cells)
    }
    of_redis = {name for scheme in SCHEMES for name in options_for(scheme)}
    schemes = [f"{dialect}+{driver}" for dialect, drivers in ASYNC_DRIVERS.items() for driver in drivers]
    of_drivers = {name for scheme in schemes for name in driver_options(scheme)}
    unknown = refused("cookie://?x=1") + refused("redis://h?x=1") + refused("sqlite://?x=1")
    ours = {name for known in re.findall(r"Known: ([^.]+)\.", unknown) for name in known.split(", ")}
    assert told - {"and", "the", "like"} <= of_redis | of_drivers | ours
    assert of_redis | ours <= told


def test_the_guide_reads_the_url_and_the_keys_from_the_environment() -> None:
    code = "print(type(backend).__name__, backend.store.clients.is_owner, len(backend.key_facts), repr(settings))"
    printed = printed_by_the_guide(code, SESSIONS_URL=f"redis://:{PASSWORD}@h", SESSIONS_ENCRYPT_WITH=KEY)
    assert printed.startswith("RedisBackend True 1 ")
    assert PASSWORD not in printed


def test_the_settings_of_the_guide_work_over_http_and_those_of_production_set_a_secure_cookie() -> None:
    visit = """
from starlette.testclient import TestClient
from starsessions.testing import sign_in
client = TestClient(app, base_url={!r})
sign_in(client, "ann")
print([(cookie.name, cookie.secure) for cookie in client.cookies.jar])
"""
    assert printed_by_the_guide(visit.format("http://localhost")) == "[('session', False)]\n"
    in_production = {"SESSIONS_COOKIE": "__Host-session", "SESSIONS_HTTPS_ONLY": "true"}
    printed = printed_by_the_guide(visit.format("https://testserver"), **in_production)
    assert printed == "[('__Host-session', True)]\n"
    assert in_production.items() <= dict(line.split("=", 1) for line in guide("")[0].splitlines()).items()


def guide(language: str) -> list[str]:
    """Return the code of the blocks of the guide on settings that are in this language."""
    page = DOCS / "guides" / "production" / "settings.md"
    return [block.code for block in blocks(page) if block.language == language]


def printed_by_the_guide(code: str, **variables: str) -> str:
    """Return what a program prints that is the guide's, and then this."""
    if find_spec("pydantic_settings") is None:
        missing("pydantic-settings is not installed")
    [settings] = guide("py")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", settings + code],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
