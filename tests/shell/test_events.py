"""`on_event`: told after the response, with a handle and never an id, and unable to break a request."""

from collections.abc import Callable
from typing import Any

import pytest

from starsessions import ImproperlyConfigured, Session, SessionBackend
from starsessions.events import Event, RotatedIdUsed
from tests.shell.test_websocket import connect
from tests.site import Browser, Clock, Site

pytestmark = pytest.mark.anyio


async def reuse_a_rotated_id(site: Site, clock: Clock) -> Browser:
    """A cookie that was copied before the id was rotated, and is used after the grace."""
    await site.visit(lambda session: session.update(user="ann"))
    thief = Browser(dict(site.browser.cookies))
    await site.visit(lambda session: session.regenerate_id(grace=30))
    clock.advance(30)
    await site.visit(Session.load, thief)
    return thief


@pytest.mark.parametrize("waits", [False, True])
async def test_an_id_that_was_rotated_away_and_is_used_again_is_reported_by_its_handle(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock, waits: bool
) -> None:
    heard: list[Event] = []

    async def hear(event: Event) -> None:
        heard.append(event)

    site = site_of(backend=store_backend, on_event=hear if waits else heard.append)
    thief = await reuse_a_rotated_id(site, clock)
    await site.visit(Session.load, thief)

    assert len(heard) == 2
    assert heard[0] == heard[1]
    assert isinstance(heard[0], RotatedIdUsed)
    [session_id] = thief.cookies.values()
    assert len(heard[0].handle) == 16
    assert heard[0].handle not in session_id
    assert session_id not in repr(heard[0])


async def test_within_the_grace_there_is_nothing_to_report(
    site_of: Callable[..., Site], store_backend: SessionBackend
) -> None:
    heard: list[Event] = []
    site = site_of(backend=store_backend, on_event=heard.append)
    await site.visit(lambda session: session.update(user="ann"))
    old = Browser(dict(site.browser.cookies))
    await site.visit(lambda session: session.regenerate_id(grace=30))
    await site.visit(Session.load, old)
    assert heard == []


async def test_it_is_logged_for_those_who_do_not_listen(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    thief = await reuse_a_rotated_id(site_of(backend=store_backend), clock)
    assert "had been rotated away" in caplog.text
    assert thief.cookies["session"] not in caplog.text


async def test_what_it_raises_is_logged_and_breaks_no_request(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(event: Event) -> None:
        raise LookupError("a mistake of the application's")

    await reuse_a_rotated_id(site_of(backend=store_backend, on_event=fails), clock)
    assert "on_event failed" in caplog.text


async def test_it_is_told_of_a_request_that_fails_and_of_a_websocket_too(
    site_of: Callable[..., Site], store_backend: SessionBackend, clock: Clock
) -> None:
    heard: list[Event] = []
    site = site_of(backend=store_backend, on_event=heard.append)
    thief = await reuse_a_rotated_id(site, clock)

    def fails(session: Session) -> None:
        assert not session
        raise LookupError

    with pytest.raises(LookupError):
        await site.visit(fails, thief)

    async def handler(session: Session, send: Any) -> None:
        await session.load()
        await send({"type": "websocket.close"})

    site.browser = thief
    await connect(site, handler)
    assert len(heard) == 3


def test_what_cannot_be_called_is_refused(site_of: Callable[..., Site]) -> None:
    with pytest.raises(ImproperlyConfigured, match="on_event"):
        site_of(on_event="log")
