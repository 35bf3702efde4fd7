"""The cookie backends, called directly."""

import pytest

from starsessions import CookieBackend, EncryptedCookieBackend
from starsessions.core.record import Found, Record

pytestmark = pytest.mark.anyio

KEY = "0123456789abcdef0123456789ABCDEF"
NOW, LATER = 1000, 2000


async def test_a_cookie_leads_to_no_data_of_an_earlier_session() -> None:
    """What a sign-in that is sent twice needs is in the cookie that the browser still has."""
    assert await CookieBackend(KEY).data_before_sign_in("token", None, NOW) is None


@pytest.mark.parametrize("backend", [CookieBackend(KEY), EncryptedCookieBackend(KEY)])
async def test_storing_a_session_in_a_cookie_is_signing_or_encrypting_it(
    backend: CookieBackend | EncryptedCookieBackend,
) -> None:
    """The methods of `Backend` give the same tokens as `seal`, which the session calls directly."""
    old = Found("token", Record(b"{}", NOW, NOW))
    record = Record(b'{"a":1}', NOW, NOW)

    kept = [
        await backend.create(record, None, LATER, NOW),
        await backend.replace(old, record, LATER, NOW),
        await backend.rotate(old, record, "id", LATER, NOW),
    ]

    assert [backend.peek(found.token, NOW) for found in kept] == kept
    assert [found.record for found in kept] == [record] * 3
