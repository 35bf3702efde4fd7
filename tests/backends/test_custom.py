"""What a `SessionBackend` of the user's own gets, and where its contract says no more."""

from collections.abc import Callable
from typing import Any

import pytest

from starsessions import ImproperlyConfigured, InMemoryBackend, MissReason, Session, UnsupportedValue, get_miss_reason
from starsessions.backends.adapter import adapt
from tests.rows import rows
from tests.site import Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio


def sign_in(session: Session) -> None:
    session["user"] = "ann"


@pytest.mark.guarantee(26)
async def test_the_backend_and_the_handler_share_no_objects(site_of: Callable[..., Site]) -> None:
    backend = DictBackend()
    site = site_of(backend=backend)
    cart = [1]
    await site.visit(lambda session: session.update(cart=cart))
    cart.append(2)
    await site.visit(lambda session: session["cart"] and None)
    [stored] = backend._storage.values()
    assert stored["cart"] == [1]
    stored["cart"].append(9)
    assert await site.data() == {"cart": [1, 9]}


async def test_a_custom_backend_says_nothing_of_its_stores_and_keys() -> None:
    backend = adapt(DictBackend())
    assert (backend.stores, backend.key_facts) == ((), ())


async def test_a_custom_backend_may_store_values_of_any_type(site_of: Callable[..., Site]) -> None:
    site = site_of(backend=DictBackend())
    await site.visit(lambda session: session.update(value=complex(1, 2)))
    assert await site.data() == {"value": complex(1, 2)}


async def test_data_written_by_version_1_is_read(site_of: Callable[..., Site], clock: Clock) -> None:
    backend = DictBackend()
    backend._storage["0b54c1b6-5d0f-4d3b-8b0b-6b3f0e6ad8f0"] = {"user": "ann"}
    site = site_of(backend=backend, max_age=100)
    site.browser.cookies["session"] = "0b54c1b6-5d0f-4d3b-8b0b-6b3f0e6ad8f0"
    assert await site.data() == {"user": "ann"}
    await site.visit(lambda session: session.update(n=1))
    clock.advance(100)
    assert await site.data() == {}


async def test_a_session_by_hand_writes_only_its_data() -> None:
    backend = DictBackend()
    session = Session(backend)
    await session.load()
    session["user"] = "ann"
    session_id = await session.persist()
    assert backend._storage == {session_id: {"user": "ann"}}


@pytest.mark.guarantee(26)
async def test_the_reserved_key_is_refused_in_the_data(site_of: Callable[..., Site]) -> None:
    with pytest.raises(ImproperlyConfigured, match="reserved"):
        await site_of(backend=DictBackend()).visit(lambda session: session.update({"__starsessions__": 1}))


class Encoded(DictBackend):
    """Its id *is* the data, as in the cookie backend of version 1."""

    async def read(self, session_id: str) -> dict[str, Any]:
        user, _, n = session_id.partition(".")
        return {"user": user, "n": int(n), "__starsessions__": ["", 1_800_000_000, 1_800_000_000]}

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        return f"{data['user']}.{data['n']}"

    async def exists(self, session_id: str) -> bool:
        return False

    async def remove(self, session_id: str) -> None:
        raise AssertionError("there is nothing to remove")


class WellFormedSealed(Encoded):
    def is_well_formed(self, session_id: str) -> bool:
        return "." in session_id


async def test_a_backend_whose_id_is_the_data_works(site_of: Callable[..., Site]) -> None:
    site = site_of(backend=WellFormedSealed())
    await site.visit(lambda session: session.update(user="ann", n=1))
    assert site.browser.cookies == {"session": "ann.1"}
    await site.visit(lambda session: session.update(n=2))
    assert site.browser.cookies == {"session": "ann.2"}
    await site.visit(Session.regenerate_id)
    assert await site.data() == {"user": "ann", "n": 2}
    await site.visit(Session.flush)
    assert site.browser.cookies == {}


@rows("returned", [None, 5, "a.b", "with space"])
async def test_an_id_that_is_well_formed_rejects_fails_on_writing(site_of: Callable[..., Site], returned: Any) -> None:
    class Odd(DictBackend):
        async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
            return returned  # type: ignore[no-any-return]

    with pytest.raises(ImproperlyConfigured, match="is_well_formed"):
        await site_of(backend=Odd()).visit(sign_in)


@pytest.mark.guarantee(26)
async def test_a_late_write_merges_by_key_with_a_changed_session(site_of: Callable[..., Site]) -> None:
    backend = DictBackend()
    site, elsewhere = site_of(backend=backend), site_of(backend=backend)
    await site.visit(lambda session: session.update(a=1, b=1, gone=1))

    async def act(session: Session) -> None:
        session["a"] = 2
        del session["gone"]
        await elsewhere.visit(lambda other: other.update(b=2, new=1), Browser(dict(site.browser.cookies)))

    await site.visit(act)
    assert await site.data() == {"a": 2, "b": 2, "new": 1}


@pytest.mark.guarantee(26)
async def test_a_late_write_to_a_deleted_session_is_dropped(site_of: Callable[..., Site]) -> None:
    backend = DictBackend()
    site, elsewhere = site_of(backend=backend), site_of(backend=backend)
    for late in (sign_in, Session.regenerate_id, lambda session: session.update(n=1)):
        site.browser.cookies.clear()
        await site.visit(lambda session: session.update(user="bob"))
        cookies = dict(site.browser.cookies)

        async def act(session: Session, late: Callable[[Session], Any] = late, cookies: Any = cookies) -> None:
            outcome = late(session)
            if outcome is not None:
                await outcome
            await elsewhere.visit(Session.flush, Browser(cookies))

        reply = await site.visit(act)
        assert reply.set_cookies == []
        assert backend._storage == {}


async def test_rolling_does_not_renew_a_deleted_session(site_of: Callable[..., Site], clock: Clock) -> None:
    backend = DictBackend()
    site, elsewhere = site_of(backend=backend, rolling=True, max_age=100), site_of(backend=backend)
    await site.visit(sign_in)
    cookies = dict(site.browser.cookies)
    clock.advance(50)

    async def act(session: Session) -> None:
        assert session["user"] == "ann"
        await elsewhere.visit(Session.flush, Browser(cookies))

    reply = await site.visit(act)
    assert reply.set_cookies == []
    assert backend._storage == {}


async def test_removing_a_session_that_another_request_removed_is_no_error(site_of: Callable[..., Site]) -> None:
    class Raced(DictBackend):
        async def exists(self, session_id: str) -> bool:
            self._storage.clear()
            return True

    site = site_of(backend=Raced())
    await site.visit(sign_in)
    await site.visit(Session.flush)
    assert site.browser.cookies == {}


async def test_a_subclass_of_a_built_in_backend_may_override_its_methods(site_of: Callable[..., Site]) -> None:
    class Audited(InMemoryBackend):
        written: list[dict[str, Any]]

        async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
            self.written.append(data)
            return await super().write(data, session_id)

    backend = Audited()
    backend.written = []
    site = Site(backend=backend, autoload=True)
    await site.visit(sign_in)
    assert [data["user"] for data in backend.written] == ["ann"]
    assert await site.data() == {"user": "ann"}


async def test_a_backend_is_given_an_id_for_every_session_that_begins() -> None:
    """It need not make one itself: `write` with an id is all that it has to know."""
    given: list[str | None] = []

    class Numbered(DictBackend):
        async def generate_id(self) -> str:
            return f"number-{len(given)}"

        async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
            given.append(session_id)
            return await super().write(data, session_id)

    site = Site(backend=Numbered(), autoload=True)
    await site.visit(lambda session: session.update(n=1))
    await site.visit(Session.regenerate_id)

    assert given == ["number-0", "number-1"]


async def test_two_ids_from_generate_id_that_collide_are_an_error_and_overwrite_nothing() -> None:
    from starsessions import SessionError

    class Stuck(InMemoryBackend):
        async def generate_id(self) -> str:
            return "always-the-same"

    backend = Stuck()
    site = Site(backend=backend, autoload=True)
    await site.visit(sign_in)
    with pytest.raises(SessionError, match="generate_id"):
        await site.visit(lambda session: session.update(user="eve"), Browser())
    assert backend.data == {"always-the-same": {"user": "ann"}}


async def test_an_expired_session_of_a_custom_backend_has_the_reason_expired(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    site = site_of(backend=DictBackend(), max_age=100)
    await site.visit(sign_in)
    clock.advance(100)

    async def act(session: Session) -> MissReason | None:
        await session.load()
        return get_miss_reason(session)

    assert (await site.visit(act)).result is MissReason.EXPIRED


class Plain:
    """Says nothing about equality."""

    def __init__(self, value: int) -> None:
        self.value = value


class Slotted:
    """Has no `__dict__` either."""

    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


@rows("kind", [Plain, Slotted])
async def test_objects_without_an_eq_method_are_compared_by_their_contents(
    site_of: Callable[..., Site], kind: type[Plain | Slotted]
) -> None:
    site = site_of(backend=DictBackend())
    await site.visit(lambda session: session.update(thing=kind(1), bare=object, nothing=object()))
    await site.visit(lambda session: session.update(n=1))
    assert (await site.data())["thing"].value == 1
    await site.visit(lambda session: setattr(session["thing"], "value", 2))
    assert (await site.data())["thing"].value == 2


async def test_a_value_that_cannot_be_copied_is_refused(site_of: Callable[..., Site]) -> None:
    from threading import Lock

    with pytest.raises(UnsupportedValue, match="cannot be copied"):
        await site_of(backend=DictBackend()).visit(lambda session: session.update(lock=Lock()))


@rows("bad", ["a\r\nSet-Cookie: evil=1", "", "user:1", "ä"])
async def test_a_malformed_id_from_generate_id_fails_when_it_is_generated(
    site_of: Callable[..., Site], bad: str
) -> None:
    class Odd(InMemoryBackend):
        async def generate_id(self) -> str:
            return bad

    with pytest.raises(ImproperlyConfigured, match="is_well_formed"):
        await site_of(backend=Odd()).visit(sign_in)


@rows("bad", ["a\r\nSet-Cookie: evil=1", "a;b", "ä", 'a"b'])
async def test_an_id_that_cannot_be_a_cookie_value_is_never_sent(site_of: Callable[..., Site], bad: str) -> None:
    class Trusting(DictBackend):
        async def generate_id(self) -> str:
            return bad

        def is_well_formed(self, session_id: str) -> bool:
            return True

    with pytest.raises(ImproperlyConfigured, match="cannot be the value of a cookie"):
        await site_of(backend=Trusting()).visit(sign_in)


async def test_a_max_age_attribute_of_a_custom_backend_is_ignored(site_of: Callable[..., Site]) -> None:
    class Own(DictBackend):
        max_age = "whatever"

    site = site_of(backend=Own())
    assert "; Max-Age=1209600; " in (await site.visit(sign_in)).set_cookie
