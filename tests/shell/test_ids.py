"""Guarantee 5: only the library creates ids, and an old id is invalid."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from starsessions import InMemoryBackend, MissReason, Session, SessionBackend, get_miss_reason
from tests.kinds import each_backend, each_server_backend
from tests.rows import rows
from tests.site import Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio


def sign_in(session: Session) -> None:
    session["user"] = "ann"


@pytest.mark.requirement("ASVS 7.2.3", "NIST 5.1(2)")
@pytest.mark.guarantee(5)
@each_server_backend
async def test_an_id_is_256_random_bits_in_base64url(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    ids = set()
    for _ in range(50):
        browser = Browser()
        await site.visit(sign_in, browser)
        ids.add(browser.cookies["session"])
    assert len(ids) == 50
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", one) for one in ids)


@pytest.mark.requirement("ASVS 7.2.1", "NIST 5.1")
@pytest.mark.guarantee(5)
@each_server_backend
async def test_an_unknown_id_is_never_adopted(site_of: Callable[..., Site], server_backend: SessionBackend) -> None:
    site = site_of(backend=server_backend)
    planted = "A" * 43
    site.browser.cookies["session"] = planted

    assert await site.data() == {}
    await site.visit(sign_in)

    assert site.browser.cookies["session"] != planted
    assert await site.data(Browser({"session": planted})) == {}


@pytest.mark.guarantee(5)
@each_server_backend
async def test_a_dead_id_is_never_adopted(site_of: Callable[..., Site], server_backend: SessionBackend) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)
    dead = site.browser.cookies["session"]
    await site.visit(Session.delete)

    site.browser.cookies["session"] = dead
    await site.visit(sign_in)

    assert site.browser.cookies["session"] != dead
    assert await site.data(Browser({"session": dead})) == {}


class Deaf(DictBackend):
    """Fails if it is asked at all."""

    async def read(self, session_id: str) -> dict[str, Any]:
        raise AssertionError("reached")

    exists = remove = read  # type: ignore[assignment]


@pytest.mark.guarantee(5)
@rows(
    "malformed",
    [
        "",
        "../../etc/passwd",
        "a b",
        '"quoted',
        '""quoted""',
        "a\\b",
        "a=b",
        "ü",
        "x" * 129,
        "x" * 5000,
        "a,b",
        "a.b",
        "a\x00b",
        "a'--",
    ],
    ids=ascii,
)
async def test_a_malformed_id_never_reaches_the_backend(site_of: Callable[..., Site], malformed: str) -> None:
    async def act(session: Session) -> MissReason | None:
        await session.load()
        return get_miss_reason(session)

    site = site_of(backend=Deaf())
    site.browser.cookies["session"] = malformed
    reply = await site.visit(act)
    assert reply.result is MissReason.MALFORMED
    assert reply.set_cookies == []


@pytest.mark.guarantee(5)
@each_backend
async def test_a_response_to_a_dead_id_does_not_clear_the_cookie(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    for act in (load, Session.delete, Session.flush, Session.regenerate_id, Session.clear):
        site.browser.cookies["session"] = "A" * 43
        assert (await site.visit(act)).set_cookies == []


async def load(session: Session) -> None:
    await session.load()


@pytest.mark.guarantee(5)
@each_server_backend
async def test_regenerating_keeps_the_data_and_invalidates_the_old_id(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)
    old = dict(site.browser.cookies)

    reply = await site.visit(Session.regenerate_id)

    assert site.browser.cookies["session"] == reply.result != old["session"]
    assert await site.data() == {"user": "ann"}
    assert await site.data(Browser(old)) == {}


@pytest.mark.guarantee(5)
@each_server_backend
async def test_regenerating_works_without_loading(site_of: Callable[..., Site], server_backend: SessionBackend) -> None:
    site = site_of(backend=server_backend, autoload=False)

    async def begin(session: Session) -> None:
        await session.load()
        sign_in(session)

    await site.visit(begin)
    old = dict(site.browser.cookies)
    await site.visit(Session.regenerate_id)
    assert site.browser.cookies != old
    assert await site.data() == {"user": "ann"}
    assert await site.data(Browser(old)) == {}


@pytest.mark.guarantee(5)
async def test_regenerating_twice_leaves_one_session(site_of: Callable[..., Site]) -> None:
    backend = InMemoryBackend()
    site = Site(backend=backend, autoload=True)
    await site.visit(sign_in)

    async def twice(session: Session) -> list[str]:
        return [await session.regenerate_id(), await session.regenerate_id()]

    first, second = (await site.visit(twice)).result
    assert site.browser.cookies["session"] == second
    assert list(backend.data) == [second] != [first]


@pytest.mark.guarantee(5)
@each_server_backend
async def test_regenerating_and_then_clearing_ends_the_session(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(sign_in)
    old = dict(site.browser.cookies)

    async def act(session: Session) -> None:
        await session.regenerate_id()
        session.clear()

    await site.visit(act)
    assert site.browser.cookies == {}
    assert await site.data(Browser(old)) == {}


@each_server_backend
async def test_regenerating_before_signing_in_gives_a_new_visitor_that_id(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)

    async def act(session: Session) -> str:
        new_id = await session.regenerate_id()
        sign_in(session)
        return new_id

    reply = await site.visit(act)
    assert site.browser.cookies == {"session": reply.result}


@each_backend
async def test_changes_made_in_the_request_that_rotates_are_kept(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(cart=[1]))

    async def act(session: Session) -> None:
        session["cart"].append(2)
        await session.regenerate_id()
        session["user"] = "ann"

    await site.visit(act)
    assert await site.data() == {"cart": [1, 2], "user": "ann"}


@each_server_backend
async def test_flush_deletes_everything_and_later_changes_begin_a_new_session(
    site_of: Callable[..., Site], server_backend: SessionBackend
) -> None:
    site = site_of(backend=server_backend)
    await site.visit(lambda session: session.update(secret=1))
    old = dict(site.browser.cookies)

    async def act(session: Session) -> str:
        new_id = await session.flush()
        session["user"] = "bob"
        return new_id

    reply = await site.visit(act)
    assert site.browser.cookies["session"] == reply.result
    assert await site.data() == {"user": "bob"}
    assert await site.data(Browser(old)) == {}


@pytest.mark.requirement("ASVS 7.2.2")
async def test_every_new_id_comes_from_generate_id(site_of: Callable[..., Site]) -> None:
    class Numbered(InMemoryBackend):
        n = 0

        async def generate_id(self) -> str:
            self.n += 1
            return f"id-{self.n}"

    backend = Numbered()
    site = Site(backend=backend, autoload=True)
    await site.visit(sign_in)
    assert site.browser.cookies == {"session": "id-1"}
    await site.visit(Session.regenerate_id)
    assert site.browser.cookies == {"session": "id-2"}
    assert await site.data() == {"user": "ann"}


async def test_the_session_shows_no_id_that_it_does_not_know(site_of: Callable[..., Site], clock: Clock) -> None:
    site = site_of(backend=InMemoryBackend(clock=clock))
    site.browser.cookies["session"] = "A" * 43

    async def act(session: Session) -> list[str | None]:
        before = session.session_id
        await session.load()
        return [before, session.session_id]

    assert (await site.visit(act)).result == [None, None]


@each_backend
async def test_behind_a_root_path_a_rotation_is_one_cookie(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in, root_path="/shop")
    reply = await site.visit(Session.regenerate_id, root_path="/shop")
    assert [cookie for cookie in reply.set_cookies if "Max-Age=0" not in cookie] == reply.set_cookies[-1:]
