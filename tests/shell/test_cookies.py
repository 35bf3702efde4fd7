"""Guarantees 6 and 7: which cookies we set, how, and which we refuse to set."""

import random
from collections.abc import Callable

import pytest

from starsessions import (
    CookieBackend,
    EncryptedCookieBackend,
    InMemoryBackend,
    MissReason,
    Session,
    SessionBackend,
    SessionTooLarge,
    get_miss_reason,
)
from starsessions.core.cookies import CookieSpec
from starsessions.core.encoding import to_base64url
from tests.kinds import each_backend
from tests.rows import rows
from tests.site import KEY, Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio


def sign_in(session: Session) -> None:
    session["user"] = "ann"


def noise(size: int) -> str:
    """Text that does not compress, the same each time."""
    return to_base64url(random.Random(size).randbytes(size))[:size]


@pytest.mark.requirement("ASVS 3.3.1", "NIST 5.1(4)", "NIST 5.1", "NIST 5.1.1(1)")
@pytest.mark.guarantee(6)
@rows(
    ("scheme", "https_only", "secure"),
    [
        ("http", None, False),
        ("https", None, True),
        ("http", True, True),
        ("https", False, False),
    ],
)
async def test_secure_follows_the_scheme_unless_it_is_forced(
    site_of: Callable[..., Site], scheme: str, https_only: bool | None, secure: bool
) -> None:
    site = site_of(https_only=https_only)
    site.browser.scheme = scheme
    assert ("; secure" in (await site.visit(sign_in)).set_cookie) is secure


@pytest.mark.requirement("ASVS 3.3.1", "NIST 5.1.1(5)")
@pytest.mark.guarantee(6)
async def test_a_host_cookie_is_secure_and_has_the_root_path_everywhere(site_of: Callable[..., Site]) -> None:
    site = site_of(session_cookie="__Host-session")
    reply = await site.visit(sign_in, root_path="/app")
    assert reply.set_cookie.startswith("__Host-session=")
    assert reply.set_cookie.endswith("; path=/; Max-Age=1209600; httponly; samesite=lax; secure")


@pytest.mark.requirement("NIST 5.1.1(2)")
@pytest.mark.guarantee(6)
async def test_the_path_is_the_root_unless_one_is_set(site_of: Callable[..., Site]) -> None:
    for settings, path in (({}, "/"), ({"path": "/fixed"}, "/fixed")):
        for root_path in ("", "/shop", "/a; domain=evil.example"):
            site = site_of(**settings)
            assert f"; path={path}; Max-Age=" in (await site.visit(sign_in, root_path=root_path)).set_cookie


@pytest.mark.guarantee(6)
@each_backend
async def test_set_and_clear_differ_in_value_and_lifetime_only(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend, domain="example.com", https_only=True, partitioned=True, same_site="strict")
    given = (await site.visit(sign_in)).set_cookie
    taken = (await site.visit(Session.flush)).set_cookies[-1]
    attributes = "httponly; samesite=strict; secure; domain=example.com; partitioned"
    assert given.partition("; ")[2] == f"path=/; Max-Age=1209600; {attributes}"
    assert taken == f"session=null; path=/; expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=0; {attributes}"


@pytest.mark.guarantee(6)
@each_backend
async def test_the_only_valid_one_of_several_cookies_is_used(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in)
    good = site.browser.cookies["session"]
    for others in (["x"], ["A" * 43, "e30=.x.y"]):
        for values in ([good, *others], [*others, good]):
            header = "; ".join(f"session={value}" for value in values)
            reply = await site.visit(lambda session: session["user"], headers=[(b"cookie", header.encode())])
            assert reply.result == "ann"


@pytest.mark.guarantee(6)
@each_backend
async def test_two_valid_cookies_of_the_same_name_are_both_ignored(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    site = site_of(backend=backend)
    ann, eve = Browser(), Browser()
    await site.visit(sign_in, ann)
    await site.visit(lambda session: session.update(user="eve"), eve)

    async def act(session: Session) -> MissReason | None:
        await session.load()
        assert dict(session) == {}
        return get_miss_reason(session)

    reply = await site.visit(act, headers=ann.header() + eve.header())
    assert reply.result is MissReason.SEVERAL


@pytest.mark.guarantee(6)
@each_backend
@rows(
    "header",
    [
        b"; ".join([b"session=x"] * 10_000),
        b"; ".join(b"session=%d" % n for n in range(10_000)),
        b"session=" + b"x" * 1_000_000,
        b"session=" + b"\\" * 20_000,
        b'session="' + b"\\" * 20_000 + b'"',
        b"session" * 9_000,
        b"session=" + b"\t" * 60_000,
        b"\xff" * 60_000 + b";session=\xff",
        b";=;;==;session",
    ],
    ids=lambda header: str(header[:12]),
)
async def test_a_hostile_cookie_header_is_ignored(
    site_of: Callable[..., Site], backend: SessionBackend, header: bytes
) -> None:
    site = site_of(backend=backend)
    reply = await site.visit(dict, headers=[(b"cookie", header)])
    assert reply.result == {}
    assert reply.set_cookies == []


@pytest.mark.guarantee(7)
@rows("make", [CookieBackend, EncryptedCookieBackend])
async def test_a_cookie_over_4096_bytes_is_an_error_that_names_the_size_and_the_largest_keys(
    site_of: Callable[..., Site], make: Callable[..., SessionBackend]
) -> None:
    site = site_of(backend=make(KEY))

    def act(session: Session) -> None:
        session.update(small=1, less=noise(20), big=noise(3000), bigger=noise(3500))

    with pytest.raises(
        SessionTooLarge, match=r"would take \d{4,5} bytes; browsers accept 4096. Largest keys: 'bigger'"
    ) as error:
        await site.visit(act)
    assert [key for key, _ in error.value.largest] == ["bigger", "big", "less"]
    assert site.browser.cookies == {}


@pytest.mark.requirement("ASVS 3.3.5")
@pytest.mark.guarantee(7)
@rows("make", [CookieBackend, EncryptedCookieBackend])
async def test_the_limit_is_4096_bytes_of_name_and_value_exactly(
    site_of: Callable[..., Site], make: Callable[..., SessionBackend]
) -> None:
    site = site_of(backend=make(KEY))
    for size in range(2880, 3100):
        try:
            cookie = (await site.visit(lambda session, size=size: session.update(x=noise(size)))).set_cookie
        except SessionTooLarge:
            break
        assert len(cookie.partition(";")[0]) - len("=") <= 4096
    else:
        pytest.fail("never too large")


async def test_an_id_of_a_custom_backend_that_is_too_long_is_an_error(site_of: Callable[..., Site]) -> None:
    class Tokens(DictBackend):
        async def generate_id(self) -> str:
            return "x" * 5000

        def is_well_formed(self, session_id: str) -> bool:
            return True

    with pytest.raises(SessionTooLarge) as error:
        await site_of(backend=Tokens()).visit(sign_in)
    assert (error.value.size, error.value.limit) == (len("session") + 5000, 4096)


@pytest.mark.guarantee(7)
@rows("make", [CookieBackend, EncryptedCookieBackend])
async def test_compression_makes_repetitive_data_fit(
    site_of: Callable[..., Site], make: Callable[..., SessionBackend]
) -> None:
    site = site_of(backend=make(KEY, compress=True))
    await site.visit(lambda session: session.update(text="abc" * 5000))
    assert await site.data() == {"text": "abc" * 5000}
    assert len(site.browser.cookies["session"]) < 500


@pytest.mark.guarantee(7)
@rows("make", [CookieBackend, EncryptedCookieBackend])
async def test_a_large_session_is_split_when_that_is_asked_for(
    site_of: Callable[..., Site], clock: Clock, make: Callable[..., SessionBackend]
) -> None:
    site = site_of(backend=make(KEY, max_cookies=5, clock=clock), domain="example.com", https_only=True)
    reply = await site.visit(lambda session: session.update(x=noise(10_000)))

    assert set(site.browser.cookies) == {"session", "session-1", "session-2", "session-3"}
    assert all(len(cookie) <= 4096 for cookie in reply.set_cookies)
    assert await site.data() == {"x": noise(10_000)}
    shuffled = Browser(dict(reversed(site.browser.cookies.items())))
    assert await site.data(shuffled) == {"x": noise(10_000)}

    await site.visit(lambda session: session.update(x=noise(5_000)))
    assert set(site.browser.cookies) == {"session", "session-1"}
    assert await site.data() == {"x": noise(5_000)}

    await site.visit(lambda session: session.update(x="small"))
    assert set(site.browser.cookies) == {"session"}
    assert await site.data() == {"x": "small"}

    await site.visit(lambda session: session.update(x=noise(10_000)))
    await site.visit(Session.flush)
    assert site.browser.cookies == {}


async def test_a_split_session_with_a_missing_or_foreign_part_is_ignored(
    site_of: Callable[..., Site],
) -> None:
    site = site_of(backend=CookieBackend(KEY, max_cookies=3))
    await site.visit(lambda session: session.update(x=noise(5_000)))
    whole = dict(site.browser.cookies)
    assert await site.data(Browser({"session": whole["session"]})) == {}
    assert await site.data(Browser(whole | {"session-1": "x" + whole["session-1"][1:]})) == {}
    assert await site.data(Browser(whole | {"session-1": ""})) == {}
    twice = [*Browser(whole).header(), (b"cookie", b"session-1=other")]
    assert (await site.visit(dict, headers=twice)).result == {}


@pytest.mark.guarantee(7)
async def test_more_than_the_allowed_parts_are_an_error(site_of: Callable[..., Site]) -> None:
    site = site_of(backend=CookieBackend(KEY, max_cookies=2))
    with pytest.raises(SessionTooLarge) as error:
        await site.visit(lambda session: session.update(x=noise(10_000)))
    assert error.value.limit == 2 * 4096


async def test_a_number_that_is_too_long_to_print_is_weighed_too(site_of: Callable[..., Site]) -> None:
    with pytest.raises(SessionTooLarge, match=r"Largest keys: 'b'"):
        await site_of().visit(lambda session: session.update(a=10**5000, b=10**20_000))


async def test_a_value_that_only_the_custom_backend_knows_is_weighed_as_nothing(site_of: Callable[..., Site]) -> None:
    class Tokens(DictBackend):
        async def generate_id(self) -> str:
            return "x" * 5000

        def is_well_formed(self, session_id: str) -> bool:
            return True

    with pytest.raises(SessionTooLarge, match=r"Largest keys: 'a' \(\d+ bytes\), 'b' \(0 bytes\)"):
        await site_of(backend=Tokens()).visit(lambda session: session.update(a=1, b=complex(1, 2)))


@rows("length", [3_700, 4_000, 5_000])
async def test_a_path_that_leaves_no_room_is_an_error_and_ends_no_session(
    site_of: Callable[..., Site], length: int
) -> None:
    site = site_of(backend=CookieBackend(KEY, max_cookies=3), path="/" + "p" * length)
    with pytest.raises(SessionTooLarge):
        await site.visit(lambda session: session.update(x=noise(2_000)))


async def test_a_path_may_leave_256_bytes_for_the_token_and_no_less(site_of: Callable[..., Site]) -> None:
    def attributes(path: str) -> int:
        return len(CookieSpec(path=path).set("session-9", "", 14 * 24 * 60 * 60, False)[1])

    path = "/" + "p" * (4096 - 256 - attributes("/"))
    backend = CookieBackend(KEY, max_cookies=3)
    await site_of(backend=backend, path=path).visit(lambda session: session.update(x=1))
    with pytest.raises(SessionTooLarge):
        await site_of(backend=backend, path=path + "p").visit(lambda session: session.update(x=1))


async def test_a_server_side_session_has_no_such_limit(site_of: Callable[..., Site]) -> None:
    site = Site(backend=InMemoryBackend(), autoload=True)
    await site.visit(lambda session: session.update(x=noise(100_000)))
    assert await site.data() == {"x": noise(100_000)}


WITHOUT_SPLITTING: dict[str, Callable[[], SessionBackend]] = {
    "two cookies": lambda: CookieBackend(KEY, max_cookies=2),
    "one cookie": lambda: CookieBackend(KEY),
    "encrypted": lambda: EncryptedCookieBackend(KEY),
    "memory": InMemoryBackend,
    "custom": DictBackend,
}


@pytest.mark.guarantee(7)
@rows("after", WITHOUT_SPLITTING)
@rows("root_path", ["", "/app"])
async def test_old_parts_are_removed_after_max_cookies_was_lowered(
    site_of: Callable[..., Site], after: str, root_path: str
) -> None:
    before, later = (site_of(backend=CookieBackend(KEY, max_cookies=5)), site_of(backend=WITHOUT_SPLITTING[after]()))
    later.browser = before.browser
    await before.visit(lambda session: session.update(x=noise(10_000)), root_path=root_path)
    assert len(before.browser.cookies) == 4
    before.browser.cookies["session-9"] = "another application's"
    await later.visit(lambda session: session.update(x="small"), root_path=root_path)
    assert set(later.browser.cookies) == {"session", "session-9"}
    assert await later.data() == {"x": "small"}


async def test_parts_are_removed_though_the_new_session_was_saved_twice(site_of: Callable[..., Site]) -> None:
    before, later = site_of(backend=CookieBackend(KEY, max_cookies=5)), site_of()
    later.browser = before.browser
    await before.visit(lambda session: session.update(x=noise(10_000)))

    async def save_twice(session: Session) -> None:
        session["x"] = "small"
        await session.persist()
        session["x"] = "smaller"

    await later.visit(save_twice)
    assert set(later.browser.cookies) == {"session"}
