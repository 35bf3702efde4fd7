"""Guarantee 9: what a stranger sends is "no session", never an error; and nothing secret is shown."""

import json
import logging
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from itsdangerous import TimestampSigner

from starsessions import (
    CookieBackend,
    EncryptedCookieBackend,
    InMemoryBackend,
    MissReason,
    Session,
    SessionBackend,
    SessionError,
    get_miss_reason,
)
from starsessions.backends.user_index import Owned, PendingSignIn
from starsessions.core.record import Found, Identity
from starsessions.core.state import Create, Rotate
from tests.kinds import each_backend
from tests.rows import rows
from tests.site import KEY, Browser, Clock, DictBackend, Site

pytestmark = pytest.mark.anyio


def sign_in(session: Session) -> None:
    session["user"] = "ann"


async def why(session: Session) -> MissReason | None:
    await session.load()
    assert get_miss_reason(session) is None or dict(session) == {}
    return get_miss_reason(session)


def starlette_cookie(payload: bytes, key: str = KEY, clock: Clock | None = None) -> str:
    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return int((clock or Clock())())

    return Signer(key).sign(payload).decode()


@each_backend
async def test_a_request_without_a_cookie_has_the_reason_no_cookie(
    site_of: Callable[..., Site], backend: SessionBackend
) -> None:
    assert (await site_of(backend=backend).visit(why)).result is MissReason.NO_COOKIE


@each_backend
async def test_a_live_session_is_not_new(site_of: Callable[..., Site], backend: SessionBackend) -> None:
    site = site_of(backend=backend)
    await site.visit(sign_in)
    assert (await site.visit(why)).result is None


@pytest.mark.requirement("ASVS 7.2.1")
@pytest.mark.guarantee(9)
@rows("name", ["signed", "our signed", "encrypted", "memory", "custom"])
async def test_a_cookie_with_one_character_changed_cut_or_added_is_ignored(
    site_of: Callable[..., Site], name: str
) -> None:
    make: dict[str, Callable[[], SessionBackend]] = {
        "signed": lambda: CookieBackend(KEY),
        "our signed": lambda: CookieBackend(KEY, compress=True),
        "encrypted": lambda: EncryptedCookieBackend(KEY),
        "memory": InMemoryBackend,
        "custom": DictBackend,
    }
    site = Site(backend=make[name](), autoload=True)
    await site.visit(sign_in)
    good = site.browser.cookies["session"]
    for at in range(len(good)):
        for bad in (
            good[:at] + ("A" if good[at] != "A" else "B") + good[at + 1 :],
            good[:at],
            good[:at] + "x" + good[at:],
        ):
            reply = await site.visit(why, Browser({"session": bad}))
            assert reply.result is not None, (at, bad)
            assert reply.set_cookies == []


@pytest.mark.guarantee(9)
@rows(
    ("payload", "expected"),
    [
        (b64encode(b"[1, 2]"), MissReason.UNDECODABLE),
        (b64encode(b'"text"'), MissReason.UNDECODABLE),
        (b64encode(b"null"), MissReason.UNDECODABLE),
        (b64encode(b"{not json"), MissReason.UNDECODABLE),
        (b64encode(b"\xff\xfe"), MissReason.UNDECODABLE),
        (b64encode(b'{"a":' * 500), MissReason.UNDECODABLE),
        (b"not*base64", MissReason.UNDECODABLE),
        (b64encode(b'{"a": NaN}'), None),
        (b64encode(json.dumps({"a": "\ud800"}).encode()), None),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_correctly_signed_data_without_a_session_is_undecodable(
    site_of: Callable[..., Site], clock: Clock, payload: bytes, expected: MissReason | None
) -> None:
    site = site_of()
    site.browser.cookies["session"] = starlette_cookie(payload, clock=clock)

    async def act(session: Session) -> MissReason | None:
        await session.load()
        return get_miss_reason(session)

    assert (await site.visit(act)).result is expected


@rows("stamp", ["", "A", "////////", "x" * 20, "AAAAAAAAAAAAAAAAAAAAAA"])
async def test_a_signed_cookie_with_an_invalid_timestamp_is_ignored(site_of: Callable[..., Site], stamp: str) -> None:
    from itsdangerous import Signer

    signer = Signer(KEY, salt=b"itsdangerous.Signer")
    site = site_of()
    site.browser.cookies["session"] = signer.sign(b64encode(b"{}") + b"." + stamp.encode()).decode()
    assert (await site.visit(why)).result in (MissReason.EXPIRED, MissReason.UNDECODABLE)


@pytest.mark.guarantee(9)
async def test_garbage_in_the_store_is_undecodable_and_can_be_replaced(
    site_of: Callable[..., Site], clock: Clock
) -> None:
    backend = InMemoryBackend(clock=clock)
    site = site_of(backend=backend)
    for garbage in (b"", b"\xc1", b"garbage", msgspec.msgpack.encode([b"\x91\x01", int(clock()), int(clock())])):
        await backend.store.create("garbage", garbage, expires_at=int(clock()) + 100, now=int(clock()))
        site.browser.cookies["session"] = "garbage"
        assert (await site.visit(why)).result is MissReason.UNDECODABLE
        await site.visit(sign_in)
        assert site.browser.cookies["session"] != "garbage"
        assert await site.data() == {"user": "ann"}
        await backend.store.delete("garbage", now=int(clock()))


@pytest.mark.guarantee(9)
@rows(
    ("stored", "expected"),
    [
        ({}, MissReason.UNKNOWN),
        (None, MissReason.UNKNOWN),
        (["a list"], MissReason.UNDECODABLE),
        ({"__starsessions__": "rubbish", "a": 1}, MissReason.UNDECODABLE),
        ({"__starsessions__": [1], "a": 1}, MissReason.UNDECODABLE),
        ({"__starsessions__": [1, 1, 1], "a": 1}, MissReason.UNDECODABLE),
        ({"__starsessions__": ["", 1, 1, "x", None, False], "a": 1}, MissReason.UNDECODABLE),
        ({"__starsessions__": ["", 1, float("inf"), None, None, False], "a": 1}, MissReason.UNDECODABLE),
        ({"__starsessions__": None}, MissReason.UNKNOWN),
        ({"a": 1}, None),
    ],
    ids=str,
)
async def test_garbage_in_a_custom_backend_is_ignored(
    site_of: Callable[..., Site], stored: Any, expected: MissReason | None
) -> None:
    backend = DictBackend()
    backend._storage["some-id"] = stored
    site = site_of(backend=backend)
    site.browser.cookies["session"] = "some-id"

    async def act(session: Session) -> MissReason | None:
        await session.load()
        return get_miss_reason(session)

    assert (await site.visit(act)).result is expected


@pytest.mark.requirement("ASVS 3.3.4")
@pytest.mark.guarantee(9)
@each_backend
async def test_no_id_key_or_value_is_in_any_log_repr_or_traceback(
    site_of: Callable[..., Site], backend: SessionBackend, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site = site_of(backend=backend)
    site.response = [(b"cache-control", b"public")]
    shown: list[str] = []

    def act(session: Session) -> None:
        session["user"] = "a-private-value"
        shown.extend([repr(session), str(session), f"{session}"])

    await site.visit(act)
    token = site.browser.cookies["session"]
    await site.visit(Session.regenerate_id)
    await site.visit(why, Browser({"session": token[:-1] + "."}))
    try:
        await site.visit(lambda session: session.update(x=object()))
    except SessionError as error:
        shown.append(str(error))
    except TypeError:
        pytest.fail("another error")
    shown.append(caplog.text)

    for secret in (KEY, token, site.browser.cookies["session"], "a-private-value"):
        assert not [text for text in shown if secret in text]


def test_an_unloaded_session_shows_nothing(clock: Clock) -> None:
    assert repr(Session(InMemoryBackend(), "the-id")) == "<Session: not loaded>"


async def test_tools_that_print_local_variables_show_no_id_or_data(site_of: Callable[..., Site], clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    site = site_of(backend=backend)
    await site.visit(lambda session: session.update(user="a-private-value"))
    session_id = site.browser.cookies["session"]
    found = await backend.fetch(session_id, int(clock()))
    entry = await backend.store.get(session_id, now=int(clock()))
    assert isinstance(found, Found)
    owned = Owned(session_id, 1, found.record)  # in memory, the key is the id
    pending = PendingSignIn(session_id, Identity("ann", 1, "a-handle"), 1)
    state = Session(backend, session_id).__starsessions__
    commands = (Create(found.record, session_id), Rotate(found, found.record, session_id, 0))
    for thing in (found, found.record, entry, owned, pending, backend, site.app.config, state, *commands):
        shown = repr(thing)
        assert "a-private-value" not in shown
        assert session_id not in shown
    assert found.__rich_repr__() == found.record.__rich_repr__() == []


async def test_a_payload_that_the_serializer_reads_as_no_dict_is_ignored(
    site_of: Callable[..., Site],
) -> None:
    class Lists:
        def dumps(self, data: dict[str, Any], /) -> bytes:
            return b"x"

        def loads(self, payload: bytes, /) -> Any:
            return [["user", "eve"]]

    site = site_of(backend=CookieBackend(KEY, serializer=Lists()))
    await site.visit(sign_in)
    assert (await site.visit(why)).result is MissReason.UNDECODABLE
