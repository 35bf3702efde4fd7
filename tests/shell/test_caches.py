"""Guarantee 10: no cache gives one person's page or cookie to another."""

import logging
from collections.abc import Callable

import pytest

from starsessions import Session
from tests.rows import rows
from tests.site import Headers, Site

pytestmark = pytest.mark.anyio


def write(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


ACCESSES: list[Callable[[Session], object]] = [
    lambda session: "a" in session,
    lambda session: session.get("a"),
    len,
    bool,
    list,
    lambda session: list(reversed(session)),
    lambda session: session.keys(),
    lambda session: session.values(),
    lambda session: session.items(),
    lambda session: session == {},
    lambda session: session != {},
    lambda session: session | {},
    lambda session: {} | session,
    dict,
    lambda session: {**session},
    lambda session: session.copy(),
    lambda session: session.data,
    lambda session: session.is_empty,
    lambda session: session.mark_accessed(),
    lambda session: session.pop("a", None),
    lambda session: session.load(),
]


@pytest.mark.guarantee(10)
@rows("access", range(len(ACCESSES)))
async def test_every_way_to_look_at_a_session_makes_the_response_vary(
    site_of: Callable[..., Site], access: int
) -> None:
    reply = await site_of().visit(ACCESSES[access])
    assert reply.all("vary") == ["Cookie"]
    assert reply.all("cache-control") == []


@pytest.mark.guarantee(10)
@rows(
    ("before", "after"),
    [
        ([], ["Cookie"]),
        ([(b"vary", b"Accept-Encoding")], ["Accept-Encoding, Cookie"]),
        ([(b"Vary", b"cookie")], ["cookie"]),
        ([(b"vary", b"Accept,Cookie , Origin")], ["Accept,Cookie , Origin"]),
        ([(b"vary", b"*")], ["*"]),
        ([(b"vary", b"Accept"), (b"vary", b"Origin")], ["Accept, Cookie", "Origin"]),
        ([(b"vary", b"Accept"), (b"vary", b"Cookie")], ["Accept", "Cookie"]),
        ([(b"vary", b"")], ["", "Cookie"]),
    ],
    ids=str,
)
async def test_vary_is_merged_with_an_existing_header(
    site_of: Callable[..., Site], before: Headers, after: list[str]
) -> None:
    site = site_of()
    site.response = before
    assert (await site.visit(lambda session: session.get("a"))).all("vary") == after


@pytest.mark.requirement("NIST 5.1(6)")
@pytest.mark.guarantee(10)
@pytest.mark.parametrize(
    ("before", "after", "is_logged"),
    [
        ([], ["no-store"], False),
        ([(b"cache-control", b"no-store")], ["no-store"], False),
        ([(b"Cache-Control", b"private, No-Store")], ["private, No-Store"], False),
        ([(b"cache-control", b"max-age=60")], ["no-store"], False),
        ([(b"cache-control", b"private")], ["no-store"], False),
        ([(b"cache-control", b"public, max-age=60")], ["no-store"], True),
        ([(b"cache-control", b"s-maxage=60")], ["no-store"], True),
        ([(b"cache-control", b"max-age=60"), (b"cache-control", b"public")], ["no-store"], True),
    ],
    ids=str,
)
async def test_a_response_that_sets_a_cookie_is_not_stored(
    site_of: Callable[..., Site],
    caplog: pytest.LogCaptureFixture,
    before: Headers,
    after: list[str],
    is_logged: bool,
) -> None:
    site = site_of()
    site.response = before
    with caplog.at_level(logging.WARNING, "starsessions"):
        reply = await site.visit(write)
    assert len(reply.set_cookies) == 1
    assert reply.all("cache-control") == after
    assert reply.all("vary") == ["Cookie"]
    assert ("public" in caplog.text) is is_logged


@pytest.mark.guarantee(10)
async def test_a_response_that_only_reads_keeps_its_cache_control(site_of: Callable[..., Site]) -> None:
    site = site_of()
    site.response = [(b"cache-control", b"public, max-age=60")]
    assert (await site.visit(lambda session: session.get("a"))).all("cache-control") == ["public, max-age=60"]


async def test_a_cookie_that_rolling_renews_makes_the_response_unstorable_too(
    site_of: Callable[..., Site], clock: Callable[[], float]
) -> None:
    site = site_of(rolling=True, max_age=100)
    await site.visit(write)
    clock.advance(50)  # type: ignore[attr-defined]
    reply = await site.visit(lambda session: session["n"])
    assert len(reply.set_cookies) == 1
    assert reply.all("cache-control") == ["no-store"]
    assert reply.all("vary") == ["Cookie"]


async def test_a_response_object_shared_by_all_requests_is_not_changed(
    site_of: Callable[..., Site],
) -> None:
    site = site_of()
    shared: Headers = []
    message = {"type": "http.response.start", "status": 200, "headers": shared}

    async def app(scope, receive, send):  # type: ignore[no-untyped-def]
        write(scope["session"])
        await send(message)

    site.app.app = app
    reply = await site.visit()
    assert len(reply.set_cookies) == 1
    assert message == {"type": "http.response.start", "status": 200, "headers": []}
    assert message["headers"] is shared
