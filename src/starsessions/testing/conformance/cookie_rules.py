"""The rules of a backend that keeps the session in the cookie, checked with requests through the middleware."""

import time
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from typing import Any

from starsessions import users
from starsessions.backends.base import Backend, SessionBackend
from starsessions.exceptions import SessionTooLarge
from starsessions.session import Session
from starsessions.testing.clock import Clock
from starsessions.testing.conformance.app import Answer, Site
from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import OpenBackend, opened

MAX_AGE = 200
DATA: dict[str, Any] = {"user": "ann-of-the-test", "cart": [1, {"c": 2}]}
RUBBISH = ("", "null", "a", ".", "..", "a.b.c", "=", "s1.", "x1.", "s1.AAAA", "x1.AAAA", "%00", "A" * 4000, "e30.a.b")


class CookieFixture:
    """Two backends with the same secret, as in two processes, and a clock that the rules advance."""

    def __init__(self, backend: SessionBackend, another: SessionBackend) -> None:
        self.backend: SessionBackend = backend
        self.clock: Clock = Clock(int(time.time()))
        self.site: Site = self.site_of(backend)
        self.another: Site = self.site_of(another)
        """The same application, in another process."""
        self.user_id: str = f"user-{token_hex(8)}"

    def site_of(self, backend: SessionBackend, **settings: Any) -> Site:
        return Site(backend, self.clock, max_age=MAX_AGE, **settings)

    async def new_session(self, site: Site | None = None) -> str:
        answer = await (site or self.site).visit(None, _begin)
        assert answer.token, "a new session began, but no cookie was set"
        return answer.token

    async def signed_in(self) -> str:
        answer = await self.site.visit(None, self._sign_in)
        assert answer.token, "a user signed in, but no cookie was set"
        return answer.token

    async def _sign_in(self, session: Session) -> None:
        await _begin(session)
        await users.sign_in(session, self.user_id)


@asynccontextmanager
async def cookie_fixture(open_backend: OpenBackend) -> AsyncIterator[CookieFixture]:
    async with opened(open_backend()) as backend, opened(open_backend()) as another:
        if isinstance(backend, Backend):
            backend.allow_unrevocable = True  # the rules sign users in, with revocations and without
        yield CookieFixture(backend, another)


COOKIE: Contract[CookieFixture] = Contract(
    {
        "encrypted": "users cannot read the contents of the cookie",
        "bound": "a cookie is invalid under another name, or in another application with the same secret",
        "revocable": "the server can revoke a signed-in user's cookie and all copies of it",
    }
)
"""The contract of a backend that keeps the session in the cookie."""


@COOKIE.rule()
async def a_cookie_keeps_its_data(place: CookieFixture) -> None:
    """A request finds the data that the browser's last request stored, and a request without a cookie finds none."""
    token = await place.new_session()
    assert await place.site.data(token) == DATA, "the session has lost its data"
    assert await place.site.data(None) == {}, "a request without a cookie found a session"
    token = (await place.site.visit(token, _change)).token or ""
    assert await place.site.data(token) == {**DATA, "user": "bob"}, "a change is lost"


@COOKIE.rule()
async def another_process_reads_the_cookie(place: CookieFixture) -> None:
    """Another backend with the same secret reads the cookie, as other workers and the next release must."""
    assert await place.another.data(await place.new_session()) == DATA, "another process cannot read the session"


@COOKIE.rule()
async def reading_sets_no_cookie(place: CookieFixture) -> None:
    """A request that only reads sets no cookie, so that it does not undo a concurrent write."""
    assert (await place.site.visit(await place.new_session(), _read)).token is None, "a read has set a cookie"


@COOKIE.rule()
async def a_changed_cookie_is_no_session(place: CookieFixture) -> None:
    """A cookie with one character changed, removed or added is ignored, and causes no error."""
    token = await place.new_session()
    changed = {token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :] for at in range(len(token))}
    changed |= {token[:at] + token[at + 1 :] for at in range(len(token))} - {token}
    changed |= {token[:at] for at in range(len(token))} | {token + "A", "A" + token, token + token}
    for text in changed:
        assert await place.site.data(text) == {}, "a modified cookie was accepted"


@COOKIE.rule()
async def rubbish_is_no_session_and_no_error(place: CookieFixture) -> None:
    """A malformed cookie is ignored, and causes no error."""
    for text in RUBBISH:
        assert await place.site.data(text) == {}, "a malformed cookie was accepted"


@COOKIE.rule()
async def a_cookie_expires_at_its_deadline(place: CookieFixture) -> None:
    """A session expires exactly `max_age` after its last change, even if the browser keeps the cookie."""
    token = await place.new_session()
    place.clock.advance(MAX_AGE - 1)
    assert await place.site.data(token) == DATA, "a session expired before its deadline"
    place.clock.advance(1)
    assert await place.site.data(token) == {}, "a session had not expired at its deadline"


@COOKIE.rule()
async def what_no_cookie_can_hold_is_refused(place: CookieFixture) -> None:
    """A session that is too large raises an error, and is not sent in a cookie that browsers drop."""
    answer: Answer | None = None
    with suppress(SessionTooLarge):
        answer = await place.site.visit(None, _fill)
    assert answer is None, "a cookie was set that is too large for browsers"


@COOKIE.rule()
async def a_logout_clears_the_cookie(place: CookieFixture) -> None:
    """A logout clears the browser's cookie."""
    answer = await place.site.visit(await place.new_session(), _log_out)
    assert answer.token == "", "a logout did not clear the cookie"


@COOKIE.rule("encrypted")
async def the_data_cannot_be_read(place: CookieFixture) -> None:
    """The session data is not readable in the cookie, nor after decoding it from base64."""
    token = await place.new_session()
    shown = {token.encode()}
    for part in (token, *token.split(".")):
        for cut in range(4):
            text = part[cut:].replace("/", "_").replace("+", "-")
            shown.add(urlsafe_b64decode("".join(filter(_is_base64, text))[: len(text) // 4 * 4] + "===="))
    assert not any(b"ann-of-the-test" in text for text in shown), "the session data is readable in the cookie"


@COOKIE.rule("bound")
async def a_cookie_is_worth_nothing_elsewhere(place: CookieFixture) -> None:
    """A cookie is ignored under another name, and in another application with the same secret."""
    elsewhere = {
        "under another name": place.site_of(place.backend, session_cookie="another"),
        "in another application": place.site_of(place.backend, app_name="another"),
    }
    tokens = [await place.new_session(), await place.signed_in()]
    for where, site in elsewhere.items():
        for token in tokens:
            assert await site.data(token) == {}, f"a cookie was accepted {where}"


@COOKIE.rule("revocable")
async def a_sign_out_ends_every_copy(place: CookieFixture) -> None:
    """After a sign-out, every copy of the cookie is invalid, in this process and in others."""
    copy = await place.signed_in()
    assert await place.site.data(copy) == DATA, "the session of a signed-in user has lost its data"
    place.clock.advance(MAX_AGE // 2)
    await place.site.visit(copy, _log_out)
    assert await place.site.data(copy) == {}, "a copy of the cookie was accepted after the sign-out"
    assert await place.another.data(copy) == {}, "another process accepted a copy of the cookie after the sign-out"


@COOKIE.rule("revocable")
async def a_user_can_be_signed_out_everywhere(place: CookieFixture) -> None:
    """`UserSessions` lists the sessions of a user, and revokes all of them."""
    tokens = [await place.signed_in() for _ in range(3)]
    sessions = users.UserSessions(place.backend, session_cookie="session")
    listed = len(await sessions.list(place.user_id))
    assert listed == 3, f"a user has 3 sessions, but {listed} are listed"
    ended = await sessions.revoke_all(place.user_id)
    assert ended == 3, f"a user had 3 sessions, but {ended} were revoked"
    for token in tokens:
        assert await place.site.data(token) == {}, "a revoked session was accepted"


# What requests do


async def _begin(session: Session) -> None:
    await session.load()
    session.update(DATA)


async def _read(session: Session) -> None:
    await session.load()
    assert session["cart"], "the session has lost its data"  # reading a list, which the handler could change in place


async def _change(session: Session) -> None:
    await session.load()
    session["user"] = "bob"


async def _fill(session: Session) -> None:
    await session.load()
    session["large"] = bytes(range(256)).hex() * 1000


async def _log_out(session: Session) -> None:
    await session.load()
    await session.flush()


def _is_base64(character: str) -> bool:
    return character.isalnum() or character in "-_"
