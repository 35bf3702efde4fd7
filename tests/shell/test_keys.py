"""Guarantee 8: keys, their replacement, and what a key cannot be used for."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from starlette.datastructures import Secret

from starsessions import (
    CookieBackend,
    EncryptedCookieBackend,
    ImproperlyConfigured,
    MissReason,
    Session,
    SessionMiddleware,
    get_miss_reason,
)
from tests.rows import rows
from tests.site import KEY, Clock, Site

pytestmark = pytest.mark.anyio

OLD, NEW = "old-" + KEY, "new-" + KEY


def sign_in(session: Session) -> None:
    session["user"] = "ann"


async def why(session: Session) -> MissReason | None:
    await session.load()
    return get_miss_reason(session)


@pytest.mark.guarantee(8)
@rows("make", [CookieBackend, EncryptedCookieBackend])
async def test_a_session_with_an_old_key_is_read_and_rewritten_with_the_first_key(
    site_of: Callable[..., Site], make: Callable[..., Any]
) -> None:
    old = site_of(backend=make(OLD))
    await old.visit(sign_in)
    both, new = site_of(backend=make([NEW, OLD])), site_of(backend=make(NEW))
    both.browser = new.browser = old.browser

    assert await both.data() == {"user": "ann"}
    assert (await new.visit(why)).result is MissReason.BAD_SIGNATURE

    await both.visit(lambda session: session.update(n=1))

    assert await new.data() == {"user": "ann", "n": 1}
    assert (await old.visit(why)).result is MissReason.BAD_SIGNATURE


async def test_rich_data_in_a_signed_cookie_follows_the_key_list_too(
    site_of: Callable[..., Site],
) -> None:
    old, both = site_of(secret_key=OLD), site_of(secret_key=[NEW, OLD])
    both.browser = old.browser
    await old.visit(lambda session: session.update(tags={"a"}))
    assert await both.data() == {"tags": {"a"}}


@rows("make", [CookieBackend, EncryptedCookieBackend])
async def test_a_key_may_be_bytes_or_starlettes_secret(site_of: Callable[..., Site], make: Callable[..., Any]) -> None:
    text, others = site_of(backend=make(KEY)), [site_of(backend=make(KEY.encode())), site_of(backend=make(Secret(KEY)))]
    await text.visit(sign_in)
    for other in others:
        other.browser = text.browser
        assert await other.data() == {"user": "ann"}


@pytest.mark.requirement("NIST 5.1.1(7)")
@pytest.mark.guarantee(8)
async def test_an_encrypted_cookie_shows_nothing_and_is_never_the_same_twice(site_of: Callable[..., Site]) -> None:
    site = site_of(backend=EncryptedCookieBackend(KEY))
    seen = set()
    for _ in range(20):
        site.browser.cookies.clear()
        await site.visit(lambda session: session.update(user="somebody-with-a-name"))
        seen.add(site.browser.cookies["session"])
    assert len(seen) == 20


@pytest.mark.guarantee(8)
async def test_an_encrypted_cookie_is_refused_under_another_name(site_of: Callable[..., Site]) -> None:
    one, other = (site_of(backend=EncryptedCookieBackend(KEY), session_cookie=name) for name in ("one", "other"))
    await one.visit(sign_in)
    other.browser.cookies["other"] = one.browser.cookies["one"]
    assert (await other.visit(why)).result is MissReason.BAD_SIGNATURE


async def test_an_s1_cookie_is_rejected_under_another_name(site_of: Callable[..., Site]) -> None:
    one, other = (site_of(session_cookie=name) for name in ("one", "other"))
    await one.visit(lambda session: session.update(tags={"a"}))
    other.browser.cookies["other"] = one.browser.cookies["one"]
    assert (await other.visit(why)).result is MissReason.BAD_SIGNATURE


@pytest.mark.guarantee(8)
@rows("value", [{"user": "ann"}, {"user": {"ann"}}], ids=["Starlette's form", "our form"])
async def test_the_encrypted_backend_rejects_signed_cookies_without_accept_signed(
    site_of: Callable[..., Site], value: dict[str, Any]
) -> None:
    signed, strict = site_of(secret_key=OLD), site_of(backend=EncryptedCookieBackend(OLD))
    moving = site_of(backend=EncryptedCookieBackend(NEW, accept_signed=OLD))
    strict.browser = moving.browser = signed.browser
    await signed.visit(lambda session: session.update(value))

    assert (await strict.visit(why)).result is MissReason.MALFORMED
    assert await moving.data() == value

    await moving.visit(lambda session: session.update(n=1))
    assert moving.browser.cookies["session"].startswith("x1.")
    assert await moving.data() == value | {"n": 1}


async def test_the_signed_backend_accepts_no_encrypted_cookie(site_of: Callable[..., Site]) -> None:
    encrypted, signed = site_of(backend=EncryptedCookieBackend(KEY)), site_of(secret_key=KEY)
    signed.browser = encrypted.browser
    await encrypted.visit(sign_in)
    assert (await signed.visit(why)).result in (MissReason.MALFORMED, MissReason.BAD_SIGNATURE)


@pytest.mark.guarantee(8)
def test_a_weak_key_is_reported_once_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "starsessions"):
        SessionMiddleware(None, secret_key="TOP SECRET")  # type: ignore[arg-type]
    [record] = caplog.records
    assert "weak" in record.getMessage()
    assert "TOP SECRET" not in record.getMessage()


def test_a_strong_key_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "starsessions"):
        SessionMiddleware(None, secret_key=KEY)  # type: ignore[arg-type]
    assert caplog.records == []


@rows("key", ["", b"", "\ud800", [], [""], [["nested"]], 5, {"a": 1}, [None]], ids=repr)
def test_an_invalid_key_fails_at_startup(key: Any) -> None:
    for make in (CookieBackend, EncryptedCookieBackend):
        with pytest.raises(ImproperlyConfigured, match="secret_key"):
            make(key)


@rows("settings", [{"max_cookies": 0}, {"max_cookies": 10}, {"max_cookies": "2"}], ids=str)
def test_a_max_cookies_that_servers_reject_fails_at_startup(settings: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match="max_cookies"):
        CookieBackend(KEY, **settings)


def test_a_secret_key_that_is_not_used_is_reported(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    with caplog.at_level(logging.WARNING, "starsessions"):
        SessionMiddleware(None, secret_key=KEY, backend=CookieBackend(KEY))  # type: ignore[arg-type]
    assert "ignores its secret_key" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("value", [{"user": "ann"}, {"user": {"ann"}}], ids=["plain", "rich"])
@pytest.mark.parametrize("make", [CookieBackend, EncryptedCookieBackend])
async def test_no_request_derives_a_key(
    site_of: Callable[..., Site], monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any], value: dict[str, Any]
) -> None:
    site = site_of(backend=make([NEW, OLD]))

    def derive(*args: object) -> bytes:
        raise AssertionError("a key was derived during a request")

    for module in ("keys", "signed", "cipher"):
        monkeypatch.setattr(f"starsessions.sealing.{module}.derive", derive)
    await site.visit(lambda session: session.update(value))
    await site.visit(lambda session: session.update(n=1))
    assert await site.data() == value | {"n": 1}
