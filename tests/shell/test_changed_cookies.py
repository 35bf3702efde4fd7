"""A release that changes the cookie's domain, path or partition: the old cookie must not lock anyone in or out."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from starsessions import CookieBackend, EncryptedCookieBackend, InMemoryBackend, Session, SessionBackend
from starsessions.core.cookies import CookieSpec
from starsessions.core.duplicates import Destination, removals
from starsessions.events import Event, Planted
from starsessions.stores.memory import MemoryStore
from starsessions.users import get_user_id, sign_in, sign_out
from tests.jar import Jar
from tests.rows import rows
from tests.site import KEY, Clock, Site

pytestmark = pytest.mark.anyio

EMBEDDED = {"same_site": "none", "https_only": True}
PAGE = "/shop/account/page"

# The settings of the old release, and of the new one.
CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "none": ({}, {}),
    "domain added": ({}, {"domain": "example.com"}),
    "domain removed": ({"domain": "example.com"}, {}),
    "domain with a dot removed": ({"domain": ".example.com"}, {}),
    "domain of the host added": ({}, {"domain": "www.example.com"}),
    "domain narrowed": ({"domain": "example.com"}, {"domain": "www.example.com"}),
    "domain widened": ({"domain": "www.example.com"}, {"domain": "example.com"}),
    "path narrowed": ({}, {"path": "/shop"}),
    "path widened": ({"path": "/shop"}, {}),
    "path of two segments widened": ({"path": "/shop/account"}, {}),
    "path with a slash widened": ({"path": "/shop/"}, {}),
    "path without its slash": ({"path": "/shop/"}, {"path": "/shop"}),
    "path with a slash": ({"path": "/shop"}, {"path": "/shop/"}),
    "domain and path": ({"domain": "example.com"}, {"path": "/shop"}),
    "partitioned added": (EMBEDDED, {**EMBEDDED, "partitioned": True}),
    "partitioned removed": ({**EMBEDDED, "partitioned": True}, EMBEDDED),
    "partitioned and domain": (EMBEDDED, {**EMBEDDED, "partitioned": True, "domain": "example.com"}),
}

BACKENDS: dict[str, Callable[[Clock], SessionBackend]] = {
    "signed": lambda clock: CookieBackend(KEY, clock=clock),
    "signed, split": lambda clock: CookieBackend(KEY, max_cookies=2, clock=clock),
    "encrypted": lambda clock: EncryptedCookieBackend(KEY, clock=clock),
    "signed, revocations": lambda clock: CookieBackend(KEY, revocations=MemoryStore(), clock=clock),
    "encrypted, revocations": lambda clock: EncryptedCookieBackend(KEY, revocations=MemoryStore(), clock=clock),
    "memory": lambda clock: InMemoryBackend(clock=clock),
}


def write(session: Session) -> None:
    session["n"] = session.get("n", 0) + 1


def write_much(session: Session) -> None:
    session["pad"] = "x" * 4000  # more than one cookie can hold
    write(session)


def is_signed_in(session: Session) -> bool:
    return "user" in session or get_user_id(session) is not None


# Each way to sign in, with its way to sign out. The first is what code for Starlette does.
def put(session: Session) -> None:
    session["user"] = "ann"


async def put_and_rotate(session: Session) -> None:
    session["user"] = "ann"
    await session.regenerate_id()


async def sign_in_with_us(session: Session) -> None:
    await sign_in(session, "ann")


WAYS: dict[str, tuple[Callable[[Session], Any], Callable[[Session], Any]]] = {
    "plain": (put, Session.clear),
    "rotating": (put_and_rotate, Session.flush),
    "sign_in": (sign_in_with_us, sign_out),
}


class Person:
    """One browser, on one host, at a page, before and after a release."""

    def __init__(self, site: Site, way: str, page: str = PAGE) -> None:
        self.site, self.jar = site, Jar(scheme="https", path=page)
        self._in, self._out = WAYS[way]

    async def at(self, act: Callable[[Session], Any]) -> Any:
        return (await self.site.visit(act, self.jar, path=self.jar.path)).result

    async def signs_in(self) -> None:
        await self.at(self._in)

    async def signs_out(self) -> None:
        await self.at(self._out)

    async def is_signed_in(self) -> bool:
        return bool(await self.at(is_signed_in))

    @property
    def copies(self) -> int:
        return sum(one.name.startswith("session") for one in self.jar.jar)


@pytest.mark.exhaustive
@pytest.mark.guarantee(6)
@rows("change", CHANGES)
@rows("kind", BACKENDS)
@rows("way", WAYS)
async def test_after_a_change_of_the_cookies_place_people_sign_in_once_more_at_most(
    site_of: Callable[..., Site], clock: Clock, change: str, kind: str, way: str
) -> None:
    """Old release: sign in. New release: visit and write, in any order, sign in where needed, sign out."""
    before, after = CHANGES[change]
    if "revocations" not in kind and kind != "memory" and way == "sign_in":
        way = "rotating"  # sign_in() is for sessions that can be revoked
    change_it = write_much if "split" in kind else write
    for steps in itertools.product(("visit", "write", "sign in"), repeat=2):
        backend = BACKENDS[kind](clock)
        # A partition and a domain at once: tried last, so only a short path leaves room for it.
        page = "/page" if change == "partitioned and domain" else PAGE
        person = Person(site_of(backend=backend, **before), way, page)
        await person.signs_in()
        await person.at(change_it)
        person.site = site_of(backend=backend, **after)
        extra = 0
        for step in steps:
            if step == "sign in":
                await person.signs_in()
            else:
                await person.at(change_it if step == "write" else is_signed_in)
            clock.advance(1)
        # With a new id, signing in works at once. In a store the old cookie has the same id, or a dead one.
        allowed = 0 if kind == "memory" or (way != "plain" and "sign in" in steps) else 1
        while not await person.is_signed_in():
            extra += 1
            assert extra <= allowed, steps
            await person.signs_in()
        assert await person.is_signed_in(), steps

        await person.signs_out()
        assert not await person.is_signed_in(), steps
        assert person.copies == 0, (steps, person.jar.jar)


@pytest.mark.guarantee(6)
@rows("way", ["plain", "rotating"])
async def test_one_of_the_old_cookies_that_outlives_the_other_signs_in_no_one(
    site_of: Callable[..., Site], clock: Clock, way: str
) -> None:
    backend = CookieBackend(KEY, clock=clock)
    person = Person(site_of(backend=backend), way)
    await person.signs_in()
    person.site = site_of(backend=backend, domain="example.com")
    await person.at(write)
    assert person.copies == 2
    await person.signs_out()
    assert person.copies == 0


@pytest.mark.guarantee(6)
@rows("kind", BACKENDS)
async def test_signing_out_with_a_message_leaves_the_cookie_of_the_message_only(
    site_of: Callable[..., Site], clock: Clock, kind: str
) -> None:
    async def say_goodbye(session: Session) -> None:
        await session.flush()
        session["message"] = "bye"

    backend = BACKENDS[kind](clock)
    person = Person(site_of(backend=backend), "plain")
    await person.signs_in()
    person.site = site_of(backend=backend, domain="example.com")
    await person.at(say_goodbye)
    assert await person.at(dict) == {"message": "bye"}
    assert person.copies == 1


@pytest.mark.guarantee(6)
async def test_signing_out_revokes_every_session_that_the_browser_brings(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    backend = CookieBackend(KEY, revocations=MemoryStore(), clock=clock)
    person = Person(site_of(backend=backend), "sign_in")
    await person.signs_in()
    site = person.site = site_of(backend=backend, domain="example.com")
    await person.at(write)
    stolen = [cookie.value for cookie in person.jar.jar.values()]
    assert len(stolen) == 2
    await person.signs_out()
    for value in stolen:
        reply = await site.visit(is_signed_in, headers=[(b"cookie", f"session={value}".encode())])
        assert reply.result is False


@pytest.mark.guarantee(6)
@rows("kind", BACKENDS)
async def test_a_planted_session_opens_for_no_one_and_is_removed_when_the_user_signs_in(
    site_of: Callable[..., Site], clock: Clock, kind: str
) -> None:
    """Another host of the domain plants the attacker's own good session, before or after the victim signs in."""
    backend = BACKENDS[kind](clock)
    events: list[Event] = []
    site = site_of(backend=backend, on_event=events.append)
    attacker, victim = Person(site, "rotating"), Person(site, "rotating")
    await attacker.at(lambda session: session.update(user="eve"))
    [stolen] = [cookie.value for cookie in attacker.jar.jar.values()]
    await victim.signs_in()
    for path in ("/", "/shop", PAGE):
        victim.jar.set(f"session={stolen}; path={path}; domain=example.com", "evil.example.com")
        events.clear()
        assert not await victim.is_signed_in()
        assert [type(one) for one in events] == [Planted]
        await victim.signs_in()
        assert await victim.at(lambda session: session["user"]) == "ann"
        assert victim.copies == 1
    await victim.signs_out()
    assert not await victim.is_signed_in()
    assert victim.copies == 0


@pytest.mark.guarantee(6)
@rows("kind", BACKENDS)
@rows("where", [{"domain": "example.com"}, {"path": "/shop"}])
async def test_another_applications_cookie_of_the_same_name_is_left_alone(
    site_of: Callable[..., Site], clock: Clock, kind: str, where: dict[str, str]
) -> None:
    other_key = KEY[::-1]
    theirs = CookieBackend(other_key, clock=clock) if kind != "memory" else InMemoryBackend(clock=clock)
    ours = Person(site_of(backend=BACKENDS[kind](clock)), "rotating")
    other = Person(site_of(backend=theirs, **where), "rotating")
    other.jar = ours.jar
    await other.signs_in()
    for act in (ours.signs_in, ours.signs_in, ours.signs_out, ours.signs_in):
        await act()
        assert await other.is_signed_in()
    assert await ours.is_signed_in()


async def test_an_expired_cookie_beside_the_valid_one_is_removed_when_the_id_changes(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    """No other application can have signed it."""
    ours = Person(site_of(max_age=60), "rotating")
    earlier = Person(site_of(max_age=60, path="/shop"), "rotating")
    ours.jar = earlier.jar
    await earlier.signs_in()
    clock.advance(60)
    await ours.signs_in()
    assert ours.copies == 2  # which of them the browser has sent, this request cannot tell
    await ours.signs_in()
    assert ours.copies == 1
    assert await ours.is_signed_in()


async def test_an_ordinary_response_removes_nothing(site_of: Callable[..., Site], clock: Clock) -> None:
    for make in BACKENDS.values():
        person = Person(site_of(backend=make(clock)), "rotating")
        for act in (put, write, write):
            assert len((await person.site.visit(act, person.jar, path=PAGE)).set_cookies) <= 2
            clock.advance(1)


# The headers are few and short

DESTINATION = Destination("a.very.deep.example.com:8000", "/one/two/three/four/five", "/root", True)


def test_the_removals_of_one_response_are_bounded() -> None:
    """The numbers are those of docs/guides/front-ends/subdomains-and-iframes.md."""
    long = Destination("a" * 40 + "." + "b" * 40 + ".example.com", f"/{'x' * 58}/a/b/c/" + "y" * 900, "/r" * 30, True)
    for destination, is_certain, count, size in [
        (Destination("www.example.com", "/auth/logout", "", True), False, 8, 700),
        (DESTINATION, True, 12, 1100),
        (long, True, 12, 3000),
    ]:
        headers = removals(CookieSpec(), ("session",), destination, is_certain)
        assert len(headers) == count
        assert 0.5 * size < sum(len(name) + len(value) + len(": \r\n") for name, value in headers) <= size


@rows(
    ("spec", "destination", "named"),
    [
        (CookieSpec(), Destination("localhost:8000", "/a", "", False), []),
        (CookieSpec(), Destination("127.0.0.1", "/", "", True), ["/; secure; partitioned"]),
        (CookieSpec(), Destination("[::1]:80", "/", "", False), []),
        (CookieSpec(), Destination("evil; domain=x", "/", "", False), []),
        (CookieSpec(), Destination("a\r\nb.example.com", "/", "", False), []),
        (CookieSpec(), Destination(".".join(["a" * 60] * 5) + ".com", "/", "", False), []),
        (CookieSpec(), Destination("Example.COM", "/x;y/z", "", False), ["/; domain=example.com"]),
        (CookieSpec(domain="Example.com"), Destination("example.com", "/", "", False), ["/"]),
        (CookieSpec("__Host-session"), Destination("a.example.com", "/x/y", "/r", True), ["/; secure; partitioned"]),
        (CookieSpec(path="/x"), Destination("", "/x/y", "/r;s", False), ["/", "/x/"]),
        (CookieSpec(path="/x"), Destination("", "/r/x/y/z", "/r", False), ["/", "/r", "/r/", "/r/x"]),
    ],
)
def test_only_what_can_be_named_safely_is_removed(spec: CookieSpec, destination: Destination, named: list[str]) -> None:
    headers = removals(spec, (spec.name,), destination, is_certain=False)
    texts = [value.decode() for _, value in headers]
    prefix, middle = f"{spec.name}=null; path=", "; Max-Age=0; samesite=lax"
    assert [text.removeprefix(prefix).replace(middle, "") for text in texts] == named


def test_the_whole_path_is_tried_only_if_there_is_certainly_a_second_cookie() -> None:
    destination = replace(DESTINATION, path="/logout", root_path="", host="")
    assert not any(
        b"/logout" in value for _, value in removals(CookieSpec(), ("session",), destination, is_certain=False)
    )
    assert any(b"/logout" in value for _, value in removals(CookieSpec(), ("session",), destination))
