"""Guarantee 10: no cache gives one person's page or cookie to another."""

import logging
from collections.abc import Callable

import pytest

from starsessions import Session, SessionBackend
from starsessions.flash import Flash, add_flash, claim_flashes, pop_flashes
from tests.kinds import each_backend, each_store_backend
from tests.rows import rows
from tests.site import Browser, Headers, Site

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
@rows(
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
    caplog.clear()
    with caplog.at_level(logging.WARNING, "starsessions"):
        reply = await site.visit(write)
    assert len(reply.set_cookies) == 1
    assert reply.all("cache-control") == after
    assert reply.all("vary") == ["Cookie"]
    assert ("public" in caplog.text) is is_logged


def put_the_same(session: Session) -> None:
    session["n"] = session.get("n", 0)


def show_messages(session: Session) -> object:
    return pop_flashes(session)


async def claim_messages(session: Session) -> object:
    return await claim_flashes(session)


@pytest.mark.guarantee(10)
@each_store_backend
@rows("act", [write, show_messages, claim_messages, Session.flush])
async def test_a_response_that_has_written_the_session_is_not_stored_though_it_sets_no_cookie(
    site_of: Callable[..., Site], store_backend: SessionBackend, act: Callable[[Session], object]
) -> None:
    """Within one second, nothing changes for the browser. A page with a message must not come out of a cache again."""
    site = site_of(backend=store_backend)
    await site.visit(write)
    await site.visit(lambda session: add_flash(session, "Saved"))
    site.response = [(b"cache-control", b"private, max-age=600"), (b"cdn-cache-control", b"max-age=600")]
    site.response += [(b"X-Accel-Expires", b"600")]
    reply = await site.visit(act)
    assert act in (write, Session.flush) or reply.result == [Flash("Saved")]
    assert act is Session.flush or reply.set_cookies == []
    assert reply.all("cache-control") == ["no-store"]
    assert reply.all("cdn-cache-control") == ["no-store"]
    assert reply.all("x-accel-expires") == []


@each_store_backend
async def test_a_message_that_a_rotated_id_took_is_not_stored_either(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    """The session moved to another id while the page was made: nothing is written, and yet the message is shown."""
    site = site_of(backend=store_backend)
    await site.visit(lambda session: add_flash(session, "Saved"))
    other = Browser(dict(site.browser.cookies))

    async def show(session: Session) -> object:
        shown = pop_flashes(session)
        await site.app(await rotation(other), None, swallow)  # type: ignore[arg-type]
        return shown

    async def rotation(browser: Browser) -> dict[str, object]:
        site.act = Session.regenerate_id
        return {"type": "http", "method": "GET", "path": "/", "headers": browser.header()}

    async def swallow(message: object) -> None: ...

    site.response = [(b"cache-control", b"max-age=600")]
    reply = await site.visit(show)
    assert reply.result == [Flash("Saved")]
    assert reply.all("cache-control") == ["no-store"]


@pytest.mark.guarantee(10)
@each_store_backend
@rows("act", [lambda session: session.get("n"), put_the_same, show_messages])
async def test_a_response_that_only_reads_may_be_stored_unless_no_store_is_set(
    site_of: Callable[..., Site], store_backend: SessionBackend, act: Callable[[Session], object]
) -> None:
    site, strict = site_of(backend=store_backend), site_of(backend=store_backend, no_store=True)
    await site.visit(write)
    site.response = strict.response = [(b"cache-control", b"private, max-age=60")]
    strict.browser = site.browser
    assert (await site.visit(act)).all("cache-control") == ["private, max-age=60"]
    assert (await strict.visit(act)).all("cache-control") == ["no-store"]
    assert (await strict.visit(lambda session: session.get("n"), Browser())).all("cache-control") != ["no-store"]
    assert (await strict.visit()).all("cache-control") != ["no-store"]


@pytest.mark.guarantee(10)
@rows(
    ("name", "said"),
    [
        (b"cache-control", b"public, max-age=60"),
        (b"cache-control", b"s-maxage=60"),
        (b"CDN-Cache-Control", b"max-age=60"),
        (b"surrogate-control", b"max-age=60"),
        (b"cloudflare-cdn-cache-control", b"public"),
    ],
)
async def test_an_invitation_of_shared_caches_is_reported_once_for_each_path(
    site_of: Callable[..., Site], caplog: pytest.LogCaptureFixture, name: bytes, said: bytes
) -> None:
    caplog.clear()
    site = site_of()
    site.response = [(name, said)]
    for path in ("/a", "/b", "/a"):
        await site.visit(lambda session: session.get("a"), path=path)
    await site.visit(path="/c")
    reported = [record.getMessage() for record in caplog.records]
    assert [("/a" in one, "/b" in one, "Vary: Cookie" in one) for one in reported] == [
        (True, False, True),
        (False, True, True),
    ]


@pytest.mark.parametrize("autoload", [True, False])
@each_backend
async def test_a_stream_that_is_the_first_to_read_the_session_is_reported_once(
    site_of: Callable[..., Site], caplog: pytest.LogCaptureFixture, autoload: bool, backend: SessionBackend
) -> None:
    """Its headers are sent, so there is no `Vary: Cookie`."""

    async def read(session: Session) -> None:
        session.mark_accessed()
        await session.load()

    site = site_of(backend=backend, autoload=autoload)
    await site.visit(read, after=read)
    assert caplog.records == []
    for _ in range(2):
        await site.visit(after=read)
    await site.visit(after=Session.load)
    assert [("Vary: Cookie" in one.getMessage(), one.levelno) for one in caplog.records] == [(True, logging.WARNING)]


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
