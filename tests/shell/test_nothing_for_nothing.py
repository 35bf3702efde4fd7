"""Guarantee 1: a request that does not touch its session costs nothing, and reading begins no session."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from starsessions import InMemoryBackend, Session, SessionBackend
from tests.kinds import each_backend
from tests.site import Browser, DictBackend, Site

pytestmark = pytest.mark.anyio


class Unreadable(list[tuple[bytes, bytes]]):
    """Headers that must not be read."""

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        raise AssertionError("the headers were parsed")


class Counting(DictBackend):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    async def read(self, session_id: str) -> dict[str, Any]:
        self.calls.append("read")
        return await super().read(session_id)

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        self.calls.append("write")
        return await super().write(data, session_id)

    async def exists(self, session_id: str) -> bool:
        self.calls.append("exists")
        return await super().exists(session_id)


async def signed_in(site: Site) -> None:
    def act(session: Session) -> None:
        session["user"] = "ann"

    await site.visit(act)


@pytest.mark.guarantee(1)
async def test_an_untouched_request_parses_no_header_and_sends_none(site_of: Callable[..., Site]) -> None:
    site = site_of()
    reply = await site.visit(headers=Unreadable())
    assert reply.headers == [(b"content-type", b"text/plain")]


async def test_an_untouched_request_passes_the_applications_message_on_as_it_is(site_of: Callable[..., Site]) -> None:
    sent: list[Any] = []
    start = {"type": "http.response.start", "status": 204}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start)

    async def send(message: Any) -> None:
        sent.append(message)

    site = site_of()
    site.app.app = app
    await site.app({"type": "http", "headers": Unreadable()}, None, send)  # type: ignore[arg-type]
    assert sent[0] is start


@pytest.mark.guarantee(1)
async def test_an_untouched_request_with_a_live_session_makes_no_backend_call(site_of: Callable[..., Site]) -> None:
    backend = Counting()
    site = site_of(backend=backend, autoload=False)

    async def act(session: Session) -> None:
        await session.load()
        session["user"] = "ann"

    await site.visit(act)
    backend.calls.clear()

    reply = await site.visit()

    assert backend.calls == []
    assert reply.headers == [(b"content-type", b"text/plain")]


async def test_reading_is_one_call_and_no_cookie(site_of: Callable[..., Site]) -> None:
    backend = Counting()
    site = site_of(backend=backend)
    await signed_in(site)
    backend.calls.clear()

    reply = await site.visit(lambda session: session["user"])

    assert backend.calls == ["read"]
    assert reply.set_cookies == []
    assert reply.all("vary") == ["Cookie"]


async def test_without_a_cookie_no_backend_is_asked(site_of: Callable[..., Site]) -> None:
    backend = Counting()
    reply = await site_of(backend=backend).visit(lambda session: session.get("user"))
    assert backend.calls == []
    assert reply.set_cookies == []


@pytest.mark.requirement("ASVS 7.6.2")
@pytest.mark.guarantee(1)
@each_backend
async def test_reading_an_empty_session_stores_nothing_and_sets_no_cookie(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)

    def act(session: Session) -> None:
        assert dict(session) == {}
        session.clear()
        session.pop("user", None)
        session.update({})

    reply = await site.visit(act)
    assert reply.set_cookies == []
    if isinstance(backend, InMemoryBackend):
        assert len(backend) == 0


@each_backend
async def test_an_empty_session_that_is_ended_or_rotated_leaves_no_trace(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    for act in (Session.delete, Session.flush, Session.regenerate_id):
        assert (await site.visit(act)).set_cookies == []


@pytest.mark.guarantee(1)
@each_backend
async def test_asking_for_the_user_id_begins_no_session(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)
    reply = await site.visit(lambda session: "user" in session)
    assert reply.result is False
    assert reply.set_cookies == []
    assert reply.all("vary") == ["Cookie"]


@each_backend
async def test_the_flags_of_starlettes_own_session_say_what_was_done_and_can_be_set(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    def flags(session: Session) -> list[tuple[bool, bool]]:
        seen = [(session.accessed, session.modified)]
        session.get("a")
        seen.append((session.accessed, session.modified))
        session["a"] = 1
        seen.append((session.accessed, session.modified))
        session.accessed = session.modified = False
        return [*seen, (session.accessed, session.modified)]

    reply = await site_of(backend=backend).visit(flags)
    assert reply.result == [(False, False), (True, False), (True, True), (False, False)]


async def test_lifespan_passes_through(site_of: Callable[..., Site]) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])
        assert "session" not in scope

    site = site_of()
    site.app.app = app
    await site.app({"type": "lifespan"}, None, None)  # type: ignore[arg-type]
    assert seen == ["lifespan"]


async def test_an_unread_session_that_autoload_fetched_is_no_reason_for_vary(site_of: Callable[..., Site]) -> None:
    site = site_of(backend=DictBackend())
    await signed_in(site)
    assert (await site.visit()).headers == [(b"content-type", b"text/plain")]


@each_backend
async def test_two_browsers_have_two_sessions(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)
    ann, bob = Browser(), Browser()
    await site.visit(lambda session: session.update(user="ann"), ann)
    await site.visit(lambda session: session.update(user="bob"), bob)
    assert await site.data(ann) == {"user": "ann"}
    assert await site.data(bob) == {"user": "bob"}
