"""Deployments that are each wrong in one way, and some that are right: nothing is found there. The servers are real."""

import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as StarlettesMiddleware
from starlette.routing import Mount

from starsessions import CookieBackend, EncryptedCookieBackend, InMemoryBackend, SessionMiddleware, csrf
from starsessions.backends.redis import RedisBackend
from starsessions.backends.sqlalchemy import SQLAlchemyBackend
from starsessions.backends.urls import backend_from_url
from starsessions.check import Severity
from starsessions.stores import MemoryStore
from starsessions.testing import Clock
from starsessions.timeouts import AAL1, AAL3
from tests.backends.sql import Database, database, opened
from tests.check.deployments import (
    COOKIE,
    CSRF,
    FORM,
    KEY,
    OTHER_KEY,
    PAGE,
    RIGHT,
    answer,
    app_of,
    deployed,
    findings,
    numbers,
    refusing_port,
    sessions,
)
from tests.servers import redis
from tests.servers.process import Address
from tests.servers.redis import RedisServer
from tests.wide.programs import pgbouncer

pytestmark = pytest.mark.anyio

PATIENT = 30
"""Seconds for a server on a machine that does other work, too."""


@pytest.fixture(scope="module")
def durable_redis() -> Iterator[RedisServer]:
    with redis.standalone(durable=True) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres-asyncpg", "postgres-psycopg", "mariadb"])
def sql(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    return database(request.param, request, tmp_path)


@asynccontextmanager
async def changed(server: RedisServer, **config: str) -> AsyncIterator[None]:
    """Change the configuration of a running server for a moment."""
    named = {name.replace("_", "-"): value for name, value in config.items()}
    with server.client() as client:
        before = {name: client.config_get(name)[name] for name in named}
        for name, value in named.items():
            client.config_set(name, value)
        try:
            yield
        finally:
            for name, value in before.items():
                client.config_set(name, value)


# Right


async def test_nothing_is_found_where_sessions_are_in_cookies() -> None:
    assert await findings(app_of()) == []
    assert await findings(deployed(backend=EncryptedCookieBackend(KEY, revocations=MemoryStore()))) == []


async def test_nothing_is_found_where_sessions_are_in_memory_and_there_is_one_worker() -> None:
    assert await findings(deployed(backend=InMemoryBackend())) == []


async def test_nothing_is_found_where_sessions_are_in_a_redis_that_keeps_them(durable_redis: RedisServer) -> None:
    assert (
        await findings(deployed(backend=RedisBackend(durable_redis.url, timeout=PATIENT, encrypt_with=KEY)), workers=4)
        == []
    )


async def test_nothing_is_found_where_snapshots_of_redis_are_saved(durable_redis: RedisServer) -> None:
    async with changed(durable_redis, appendonly="no", save="3600 1"):
        assert (
            await findings(deployed(backend=RedisBackend(durable_redis.url, timeout=PATIENT, encrypt_with=KEY))) == []
        )


@pytest.mark.parametrize("kind", ["redis_cluster", "redis_sentinel"])
async def test_a_cluster_and_a_sentinel_say_as_much_as_one_server(request: pytest.FixtureRequest, kind: str) -> None:
    url = request.getfixturevalue(kind).url
    url = url.replace("redis://", "redis+cluster://") if kind == "redis_cluster" else url
    assert await numbers(deployed(backend=backend_from_url(f"{url}?timeout={PATIENT}", encrypt_with=KEY))) == ["S404"]


async def test_nothing_is_found_where_sessions_are_in_a_database(sql: Database) -> None:
    async with opened(sql.url, timeout=PATIENT, encrypt_with=KEY) as backend:
        assert await findings(deployed(backend=backend), workers=4) == []


async def test_nothing_is_found_where_the_cookies_are_revoked_in_a_database(sql: Database) -> None:
    async with opened(sql.url, timeout=PATIENT) as backend:
        assert await findings(deployed(backend=CookieBackend(KEY, revocations=backend)), workers=4) == []


# Wrong in one way: the application


async def test_an_application_that_cannot_start_is_wrong() -> None:
    [one] = await findings(app_of(Middleware(SessionMiddleware)))
    assert (one.number, one.severity) == ("S001", Severity.ERROR)
    assert "SessionMiddleware needs secret_key=… or backend=…" in one.sentence


async def test_an_application_without_sessions_is_wrong() -> None:
    assert await numbers(app_of(CSRF)) == ["S002"]


async def test_debug_is_wrong() -> None:
    assert await numbers(app_of(sessions(), CSRF, debug=True)) == ["S003"]


async def test_a_clock_for_tests_is_wrong() -> None:
    [one] = await findings(deployed(backend=CookieBackend(KEY, clock=Clock(time.time()))))
    assert (one.number, one.where) == ("S004", COOKIE)
    assert "starsessions.testing" in one.sentence


async def test_a_clock_that_is_wrong_is_wrong_and_another_right_one_is_not() -> None:
    [one] = await findings(deployed(backend=CookieBackend(KEY, clock=lambda: time.time() - 3600)))
    assert one.number == "S004"
    assert "3600 s away" in one.sentence
    assert await numbers(deployed(backend=CookieBackend(KEY, clock=lambda: time.time() + 1))) == []


async def test_a_setting_without_effect_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    [one] = await findings(deployed(on_conflict="raise"))
    assert one.number == "S005"
    assert 'on_conflict="raise" has no effect' in one.sentence
    assert caplog.records == []


async def test_a_secret_key_beside_a_backend_is_wrong() -> None:
    [one] = await findings(deployed(secret_key=OTHER_KEY))
    assert one.number == "S005"
    assert "ignores its secret_key" in one.sentence


# Keys


async def test_a_published_key_is_wrong() -> None:
    [one] = await findings(deployed(backend=CookieBackend("django-insecure-" + KEY)))
    assert (one.number, one.where) == ("S101", COOKIE)
    assert KEY not in repr(one)


async def test_a_short_key_is_wrong_even_if_it_only_verifies() -> None:
    assert await numbers(deployed(backend=CookieBackend([KEY, "x7Gw2"]))) == ["S102"]
    assert await numbers(deployed(backend=EncryptedCookieBackend(KEY, accept_signed="x7Gw2"))) == ["S102"]


async def test_a_published_key_of_what_is_stored_is_wrong(durable_redis: RedisServer) -> None:
    backend = RedisBackend(durable_redis.url, timeout=PATIENT, encrypt_with="the key of my first shop: changeme!")
    [one] = await findings(deployed(backend=backend))
    assert one.number == "S101"
    assert one.sentence.startswith("encrypt_with is")


async def test_one_key_for_two_purposes_is_wrong(durable_redis: RedisServer) -> None:
    revocations = RedisBackend(durable_redis.url, timeout=PATIENT, encrypt_with=KEY)
    [one] = await findings(deployed(backend=CookieBackend(KEY, revocations=revocations)))
    assert one.number == "S103"
    assert one.sentence.startswith("secret_key of the cookie '__Host-session' is also encrypt_with of the cookie")
    assert await numbers(deployed(backend=CookieBackend(OTHER_KEY, revocations=revocations))) == []


async def test_one_key_for_two_cookies_is_wrong_unless_they_share_the_backend() -> None:
    def app_with(here: CookieBackend, there: CookieBackend) -> Starlette:
        inner = sessions(backend=there, session_cookie="__Host-admin", scope_key="admin")
        return app_of(sessions(backend=here), inner, CSRF)

    assert await numbers(app_with(CookieBackend(KEY), CookieBackend(KEY, compress=True))) == ["S103"]
    assert await numbers(app_with(backend := CookieBackend(KEY, compress=True), backend)) == []
    assert await numbers(app_with(CookieBackend(KEY), CookieBackend(KEY, compress=True))) == ["S103"]


async def test_starlettes_format_with_one_key_for_two_cookies_is_wrong() -> None:
    def app_with(**settings: Any) -> Starlette:
        there = CookieBackend(OTHER_KEY, **settings)
        settings = {"absolute_timeout": None, "backend": CookieBackend(OTHER_KEY, **settings)}
        inner = sessions(**{**settings, "backend": there, "session_cookie": "__Host-admin", "scope_key": "admin"})
        return app_of(sessions(**settings), inner, CSRF)

    found = {one.number: one for one in await findings(app_with(), silence=["S103"], timeouts=None)}
    assert list(found) == ["S104", "S502"]
    assert "share a secret_key and read Starlette's cookie format" in found["S104"].sentence
    assert await numbers(app_with(starlette_format=False), silence=["S103", "S502"], timeouts=None) == []


async def test_a_key_that_another_middleware_has_is_wrong() -> None:
    class Tracking:
        def __init__(self, app: Any, signing_key: object, primary_key: object = None, secret: object = None) -> None:
            self.app = app

    [one] = await findings(app_of(Middleware(Tracking, signing_key=KEY, primary_key=42), sessions(), CSRF))
    assert one.number == "S103"
    assert one.sentence.startswith("secret_key of the cookie '__Host-session' is also signing_key of Tracking:")
    assert await numbers(app_of(Middleware(Tracking, signing_key=None, secret=[KEY]), sessions(), CSRF)) == ["S103"]
    other = Middleware(Tracking, signing_key=OTHER_KEY, primary_key="X-Key")
    assert await numbers(app_of(other, sessions(), CSRF)) == []


# The cookie


@pytest.mark.parametrize(
    ("number", "settings"),
    [
        ("S201", {"https_only": False, "session_cookie": "session"}),
        ("S202", {"https_only": None, "session_cookie": "session", "path": "/shop"}),
        ("S203", {"session_cookie": "session"}),
        ("S203", {"session_cookie": "session", "https_only": None}),
        ("S203", {"session_cookie": "__Secure-session"}),
        ("S204", {"session_cookie": "__Secure-session", "domain": "example.com"}),
        ("S205", {"same_site": "none"}),
        ("S206", {"backend": CookieBackend(KEY, max_cookies=3)}),
        ("S207", {"partitioned": True}),
    ],
)
async def test_a_cookie_that_protects_less_than_it_could_is_wrong(number: str, settings: dict[str, Any]) -> None:
    assert await numbers(deployed(**settings)) == [number]


async def test_a_cookie_below_a_path_cannot_have_the_prefix() -> None:
    assert await numbers(deployed(session_cookie="__Secure-session", path="/shop")) == []


# The middlewares


async def test_an_application_without_protection_against_other_sites_is_wrong() -> None:
    [one] = await findings(app_of(sessions()))
    assert (one.number, one.where) == ("S301", COOKIE)


async def test_a_protection_that_is_only_in_a_mounted_application_is_wrong() -> None:
    inner = app_of(CSRF)
    [one] = await findings(app_of(sessions(), routes=[Mount("/shop", inner), FORM]))
    assert one.number == "S302"
    assert "does not cover all routes: /transfer." in one.sentence
    assert await numbers(app_of(sessions(), routes=[Mount("/shop", inner), PAGE])) == []


async def test_a_protection_outside_of_the_sessions_is_wrong() -> None:
    assert await numbers(app_of(CSRF, sessions())) == ["S303"]


async def test_a_mounted_application_with_other_keys_for_the_same_cookie_is_wrong() -> None:
    def app_with(there: CookieBackend) -> Starlette:
        return app_of(sessions(), CSRF, routes=[Mount("/shop", app_of(sessions(backend=there)))])

    [one] = await findings(app_with(CookieBackend(OTHER_KEY)))
    assert one.number == "S304"
    assert "use the cookie '__Host-session' with different keys or stores" in one.sentence


async def test_a_second_middleware_for_the_same_sessions_is_wrong() -> None:
    backend = InMemoryBackend()
    inner = app_of(sessions(backend=backend))
    assert await numbers(app_of(sessions(backend=backend), CSRF, routes=[Mount("/shop", inner)])) == ["S308"]


async def test_starlettes_own_middleware_beside_this_one_is_wrong() -> None:
    def theirs(name: str) -> Middleware:
        return Middleware(StarlettesMiddleware, secret_key=OTHER_KEY, session_cookie=name)

    for app in (app_of(theirs("other"), sessions(), CSRF), app_of(sessions(), theirs("other"), CSRF)):
        [one] = await findings(app)
        assert one.number == "S305"
        assert 'scope["session"]' in one.sentence
    [one] = await findings(app_of(theirs(COOKIE), sessions(), CSRF))
    assert one.number == "S305"
    assert "also writes this cookie" in one.sentence
    assert await numbers(app_of(theirs("other"), sessions(scope_key="mine"), CSRF)) == []
    # The constructor refuses this one.
    [one] = await findings(app_of(sessions(), theirs(COOKIE), CSRF))
    assert one.number == "S001"


async def test_two_sessions_in_one_place_are_wrong() -> None:
    inner = sessions(backend=CookieBackend(OTHER_KEY), session_cookie="__Host-admin")
    assert await numbers(app_of(sessions(), inner, CSRF)) == ["S306"]


async def test_users_that_are_looked_for_before_there_is_a_session_are_wrong() -> None:
    from starlette.middleware.authentication import AuthenticationMiddleware

    users = Middleware(AuthenticationMiddleware, backend=object())
    assert await numbers(app_of(users, sessions(), CSRF)) == ["S307"]
    assert await numbers(app_of(sessions(), users, CSRF)) == []


# The stores


async def test_memory_with_several_workers_is_wrong() -> None:
    app = deployed(backend=InMemoryBackend())
    [one] = await findings(app, workers=2)
    assert one.number == "S401"
    assert "there are 2 workers" in one.sentence
    assert await numbers(app, argv=["uvicorn", "shop:app", "--workers", "2"]) == ["S401"]
    assert await numbers(app, environ={"WEB_CONCURRENCY": "2"}) == ["S401"]
    assert await numbers(deployed(backend=CookieBackend(KEY, revocations=MemoryStore())), workers=2) == ["S401"]


async def test_a_database_in_memory_with_several_workers_is_wrong() -> None:
    backend = SQLAlchemyBackend("sqlite+aiosqlite://", timeout=PATIENT, encrypt_with=KEY)
    await backend.create_table()
    assert await numbers(deployed(backend=backend), workers=2) == ["S401"]
    assert await numbers(deployed(backend=backend)) == []
    await backend.store.aclose()


async def test_a_dead_server_is_a_finding_and_no_error() -> None:
    with refusing_port() as port:
        for url in (f"redis://127.0.0.1:{port}", f"postgresql+asyncpg://127.0.0.1:{port}/x"):
            backend = backend_from_url(f"{url}?timeout={PATIENT}", encrypt_with=KEY)
            [one] = await findings(deployed(backend=backend))
            assert one.number == "S402"
            assert "The store failed: " in one.sentence


async def test_a_server_that_evicts_sessions_is_wrong(durable_redis: RedisServer) -> None:
    app = deployed(backend=RedisBackend(durable_redis.url, timeout=PATIENT, encrypt_with=KEY))
    for policy in ("allkeys-lru", "volatile-ttl"):
        async with changed(durable_redis, maxmemory="100mb", maxmemory_policy=policy):
            [one] = await findings(app)
            assert one.number == "S403"
            assert f"maxmemory-policy {policy}" in one.sentence
    async with changed(durable_redis, maxmemory="100mb", maxmemory_policy="noeviction"):
        assert await findings(app) == []


async def test_a_server_that_forgets_everything_when_it_restarts_is_worth_a_word(redis_server: Address) -> None:
    [one] = await findings(deployed(backend=RedisBackend(redis_server.url, timeout=PATIENT, encrypt_with=KEY)))
    assert (one.number, one.severity) == ("S404", Severity.INFO)


async def test_a_server_that_answers_no_such_question_is_not_suspected(durable_redis: RedisServer) -> None:
    durable_redis.ask("ACL", "SETUSER", "shy", "on", ">pw", "~*", "&*", "+@all", "-info", "-config")
    url = durable_redis.url.replace("//", "//shy:pw@")
    async with changed(durable_redis, appendonly="no"):
        assert await findings(deployed(backend=RedisBackend(url, timeout=PATIENT, encrypt_with=KEY))) == []


async def test_clocks_apart_are_wrong(durable_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    app = deployed(backend=RedisBackend(durable_redis.url, timeout=PATIENT, encrypt_with=KEY))
    here = time.time
    for seconds in (600, -600):
        monkeypatch.setattr("time.time", lambda: here() + seconds)  # noqa: B023
        [one] = await findings(app)
        assert one.number == "S405"
        assert re.search(r"differ by (59|60)\d s", one.sentence)


@pytest.mark.wide
@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ([], ["S406"]),
        (["max_prepared_statements = 0"], ["S406"]),
        (["pool_mode = session", "default_pool_size = 5"], []),
    ],
)
async def test_pgbouncer_is_wrong_in_transaction_mode(
    driver: str, settings: list[str], found: list[str], postgres_server: Address
) -> None:
    async with opened(postgres_server.over(driver), timeout=PATIENT, encrypt_with=KEY) as direct:
        with pgbouncer(postgres_server, *settings) as address:
            backend = SQLAlchemyBackend(address.over(driver), direct.table.name, timeout=PATIENT, encrypt_with=KEY)
            assert await numbers(deployed(backend=backend)) == found
            await backend.store.aclose()


async def test_a_missing_table_is_wrong(sql: Database) -> None:
    backend = SQLAlchemyBackend(sql.url, "no_such_table", timeout=PATIENT, encrypt_with=KEY)
    [one] = await findings(deployed(backend=backend))
    assert one.number == "S407"
    assert "The table 'no_such_table' is missing" in one.sentence
    await backend.store.aclose()


async def test_a_table_of_an_earlier_version_is_wrong(sql: Database) -> None:
    async with opened(sql.url, timeout=PATIENT, encrypt_with=KEY) as backend:
        async with backend.engine.begin() as connection:
            for index in list(backend.table.indexes):
                await connection.run_sync(index.drop)
            await connection.execute(sa.text(f"ALTER TABLE {backend.table.name} DROP COLUMN owner"))
        [one] = await findings(deployed(backend=backend))
        assert one.number == "S408"
        assert "lacks a column" in one.sentence


async def test_a_missing_index_is_wrong(sql: Database) -> None:
    async with opened(sql.url, timeout=PATIENT, encrypt_with=KEY) as backend:
        async with backend.engine.begin() as connection:
            [expiry] = [index for index in backend.table.indexes if len(index.columns) == 1]
            await connection.run_sync(expiry.drop)
        [one] = await findings(deployed(backend=backend))
        assert one.number == "S409"
        assert "lacks an index on expires_at:" in one.sentence


async def test_a_table_that_the_engine_calls_differently_is_not_suspected(tmp_path: Path) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(
        f"sqlite+aiosqlite:///{tmp_path / 'x.db'}", execution_options={"schema_translate_map": {"web": None}}
    )
    backend = SQLAlchemyBackend(engine, "web.sessions", timeout=PATIENT, encrypt_with=KEY)
    await backend.create_table()
    assert await findings(deployed(backend=backend)) == []
    await backend.store.aclose()
    await engine.dispose()


async def test_what_is_stored_in_the_clear_is_worth_a_word(durable_redis: RedisServer) -> None:
    [one] = await findings(deployed(backend=RedisBackend(durable_redis.url, timeout=PATIENT)))
    assert (one.number, one.severity) == ("S410", Severity.INFO)


# The limits


async def test_limits_beyond_the_chosen_level_are_wrong() -> None:
    assert await numbers(app_of(), timeouts=AAL1) == []
    [one, other] = await findings(app_of(), timeouts=AAL3)
    assert [one.number, other.number] == ["S501", "S501"]
    assert [one.sentence.split()[0], other.sentence.split()[0]] == ["absolute_timeout", "max_age"]
    [one] = await findings(deployed(absolute_timeout=None))
    assert one.number == "S501"


async def test_sessions_without_an_end_are_worth_a_word() -> None:
    [one] = await findings(deployed(absolute_timeout=None), timeouts=None)
    assert (one.number, one.severity) == ("S502", Severity.INFO)


async def test_sessions_without_a_maximum_are_worth_a_word() -> None:
    app = deployed(backend=InMemoryBackend(), max_sessions_per_user=None)
    assert await numbers(app) == ["S503"]


async def test_sessions_that_last_for_months_are_wrong() -> None:
    day = 24 * 60 * 60
    assert await numbers(deployed(max_age=31 * day, absolute_timeout=90 * day), timeouts=None) == ["S504"]
    assert await numbers(deployed(max_age=30 * day, absolute_timeout=90 * day), timeouts=None) == []


# Silence


async def test_a_finding_is_silenced_by_its_number() -> None:
    app = app_of(sessions(same_site="none"), debug=True)
    assert await numbers(app) == ["S003", "S205", "S301"]
    assert await numbers(app, silence=("S003", "S301")) == ["S205"]


@pytest.mark.parametrize("silence", [["S1"], ["S003", "none"], "S003"])
async def test_an_unknown_number_cannot_be_silenced(silence: Any) -> None:
    with pytest.raises(ValueError, match="numbers such as S104"):
        await findings(app_of(), silence=silence)


# FastAPI, and what else an application can be


async def test_a_token_in_a_dependency_protects_too() -> None:
    def app_with(dependencies: Any) -> FastAPI:
        app = FastAPI(dependencies=dependencies)
        app.add_api_route("/transfer", answer, methods=["POST"])
        app.add_middleware(SessionMiddleware, backend=CookieBackend(KEY), **RIGHT)
        return app

    assert await numbers(app_with([Depends(csrf.verify)])) == []
    assert await numbers(app_with([])) == ["S301"]
