"""Our backends that keep the session in the cookie keep what users are promised; what is wrong fails what it must."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from secrets import token_hex
from typing import Any, ClassVar

import msgspec
import pytest
from msgspec.structs import replace

from starsessions import CookieBackend, EncryptedCookieBackend, MissReason, SessionBackend
from starsessions.core.record import Found
from starsessions.core.serializer import Msgpack
from starsessions.stores import MemoryStore
from starsessions.testing import CookieBackendSuite, OpenBackend
from starsessions.testing.conformance.cookie_rules import COOKIE, CookieFixture, cookie_fixture
from starsessions.testing.conformance.verdict import verdicts
from tests.contracts import WholeCookieBackend
from tests.rows import rows
from tests.site import KEY

NOT_ENCRYPTED = {"encrypted": "it is signed: users can read it"}
NOT_REVOCABLE = {"revocable": "no store knows which cookies are valid"}
NOT_BOUND = {"bound": "Starlette's format says nothing about a name"}


class TestSignedCookies(CookieBackendSuite):
    event_loops = ("asyncio", "trio")
    declines: ClassVar = NOT_ENCRYPTED | NOT_REVOCABLE | NOT_BOUND

    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return lambda: CookieBackend(KEY)


class TestSignedCookiesOfOurOwnFormat(WholeCookieBackend):
    declines: ClassVar = NOT_ENCRYPTED

    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return self.anew()

    def anew(self, opens: object = None) -> OpenBackend:
        store = MemoryStore()
        return lambda: CookieBackend(KEY, revocations=store)


class TestEncryptedCookies(WholeCookieBackend):
    declines: ClassVar = NOT_REVOCABLE

    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return lambda: EncryptedCookieBackend(KEY)


class TestEncryptedCookiesThatCanBeRevoked(WholeCookieBackend):
    event_loops = ("asyncio", "trio")

    @pytest.fixture
    def open_backend(self) -> OpenBackend:
        return self.anew()

    def anew(self, opens: object = None) -> OpenBackend:
        store = MemoryStore()
        return lambda: EncryptedCookieBackend(KEY, revocations=store)


# What is wrong


class Unsigned(SessionBackend):
    """base64 is no signature."""

    async def read(self, session_id: str) -> dict[str, Any]:
        try:
            data: dict[str, Any] = msgspec.json.decode(urlsafe_b64decode(session_id), type=dict)
        except (ValueError, msgspec.DecodeError):
            return {}
        return data

    async def write(self, data: dict[str, Any], session_id: str | None = None) -> str:
        return urlsafe_b64encode(msgspec.json.encode(data)).decode()

    async def remove(self, session_id: str) -> None:
        raise RuntimeError("there is nothing to remove here")

    async def exists(self, session_id: str) -> bool:
        return True

    def is_well_formed(self, session_id: str) -> bool:
        return True


class Revocable(EncryptedCookieBackend):
    """The right one, for others to make a mistake in."""

    store: ClassVar[MemoryStore]

    def __init__(self, key: str = KEY) -> None:
        super().__init__(key, revocations=self.store)


class HasAKeyOfItsOwn(Revocable):
    """A secret that is made when the process starts."""

    def __init__(self) -> None:
        super().__init__(token_hex(32))


class FailsOnRubbish(Revocable):
    """`assert` is no way to look at what a stranger sends."""

    def peek(self, token: str, now: int) -> Found | MissReason:
        assert token.startswith("x1.")
        return super().peek(token, now)


class TakesTheTimeFromTheRequest(Revocable):
    """The times of the record are not read."""

    def peek(self, token: str, now: int) -> Found | MissReason:
        found = super().peek(token, now)
        if isinstance(found, Found):
            return Found(found.token, replace(found.record, began_at=now, renewed_at=now))
        return found


class EndsNothing(Revocable):
    """A sign-out that only clears the cookie."""

    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        pass


class LosesChanges(Revocable):
    """What is there is sent again."""

    async def replace(self, found: Found, record: Any, ends_at: int, now: int) -> Found:
        return found


class Large(Revocable):
    """Cookies that browsers drop."""

    def __init__(self) -> None:
        super().__init__()
        self.max_cookies = 1000


class AddsSomething(Msgpack):
    """What is read is not what was written."""

    def loads(self, payload: bytes, /) -> dict[str, Any]:
        return {**super().loads(payload), "read": token_hex(8)}


class Renews(Revocable):
    """Its serializer finds a change each time."""

    def __init__(self) -> None:
        super().__init__()
        self.serializer = AddsSomething()


WRONG: dict[Callable[[], SessionBackend], set[str]] = {
    Unsigned: {
        "a_changed_cookie_is_no_session",
        "a_logout_clears_the_cookie",
        "the_data_cannot_be_read",
        "a_sign_out_ends_every_copy",
        "a_user_can_be_signed_out_everywhere",
    },
    lambda: CookieBackend(KEY): {
        "the_data_cannot_be_read",
        "a_cookie_is_worth_nothing_elsewhere",
        "a_sign_out_ends_every_copy",
        "a_user_can_be_signed_out_everywhere",
    },
    HasAKeyOfItsOwn: {"another_process_reads_the_cookie"},
    FailsOnRubbish: {"a_changed_cookie_is_no_session", "rubbish_is_no_session_and_no_error"},
    TakesTheTimeFromTheRequest: {"a_cookie_expires_at_its_deadline"},
    EndsNothing: {"a_sign_out_ends_every_copy"},
    Large: {"what_no_cookie_can_hold_is_refused"},
    Renews: {
        "a_cookie_keeps_its_data",
        "another_process_reads_the_cookie",
        "reading_sets_no_cookie",
        "a_cookie_expires_at_its_deadline",
        "a_sign_out_ends_every_copy",
    },
    LosesChanges: {"a_cookie_keeps_its_data"},
}


async def broken_by(make: Callable[[], SessionBackend]) -> set[str]:
    Revocable.store = MemoryStore()
    return {one.rule async for one in verdicts(COOKIE, lambda: cookie_fixture(make), {}) if one.outcome == "broken"}


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@rows("make", WRONG, ids=lambda make: make.__name__)
async def test_a_wrong_backend_fails_exactly_the_rules_that_its_mistake_breaks(
    make: Callable[[], SessionBackend],
) -> None:
    assert await broken_by(make) == WRONG[make]


def test_each_rule_catches_a_mistake() -> None:
    assert set().union(*WRONG.values()) == {rule.__name__ for rule in COOKIE}
    assert [rule.__name__ for rule in COOKIE if not (rule.__doc__ or "").strip().endswith(".")] == []


def test_a_fixture_has_two_backends(clock: Any) -> None:
    one, other = CookieBackend(KEY), CookieBackend(KEY)
    place = CookieFixture(one, other)
    assert place.site.app.config.backend.original is one
    assert place.another.app.config.backend.original is other
