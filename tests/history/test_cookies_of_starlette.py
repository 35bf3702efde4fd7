"""Cookies of Starlette's `SessionMiddleware` are read, and it reads those of this library if the data is plain JSON.

Deploying this library, or rolling it back, signs no user out.
"""

import json
from base64 import b64decode, b64encode
from inspect import signature
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner
from starlette.applications import Starlette
from starlette.datastructures import Secret
from starlette.middleware.sessions import SessionMiddleware as StarletteSessionMiddleware
from starlette.routing import Mount
from starlette.testclient import TestClient

from starsessions import CookieBackend, EncryptedCookieBackend, SessionMiddleware
from starsessions.core.record import Record
from starsessions.core.serializer import Msgpack
from starsessions.stores import MemoryStore
from tests.history.pages import BrowserOf, Deployed, pages, said, seen
from tests.rows import rows
from tests.site import KEY, Clock

ANOTHER_KEY = KEY[::-1]

PLAIN: dict[str, dict[str, Any]] = {
    "text": {"user": "ann"},
    "beyond ASCII": {"näme": "Zoë 会话 🍎", "empty": ""},
    "escapes": {'a"b\\c/d\n\t\x00\x7f<>&': "\u2028;,= "},
    "numbers": {"int": 42, "negative": -1, "zero": 0, "large": 2**53 + 1, "float": 0.1, "whole": 1.0, "small": 5e-324},
    "constants": {"none": None, "yes": True, "no": False},
    "nested": {"cart": [{"item": "apple", "counts": [1, 2, [3]]}, []], "flags": {"deep": {"deeper": {}}}},
    "keys that look like numbers": {"1": 1, "": 2, "None": 3},
    "what Authlib keeps": {"_state_idp_abc": {"data": {"redirect_uri": "https://a.test/b?c=d"}, "exp": 1800000000.5}},
}


def theirs(**settings: Any) -> Starlette:
    return pages(StarletteSessionMiddleware, **{"secret_key": KEY, **settings})


def ours(**settings: Any) -> Starlette:
    return pages(SessionMiddleware, **{"secret_key": KEY, "autoload": True, **settings})


@pytest.fixture(params=["http", "https"])
def base_url(request: pytest.FixtureRequest) -> str:
    return f"{request.param}://testserver"


# Both ways


@pytest.mark.guarantee(27)
@rows("data", PLAIN.values(), ids=PLAIN)
def test_a_session_survives_the_upgrade_and_the_rollback(
    data: dict[str, Any], browser_of: BrowserOf, base_url: str
) -> None:
    server = Deployed(theirs())
    browser = browser_of(server, base_url=base_url)
    browser.post("/", json=data)

    server.app = ours()
    assert same(seen(browser), data)
    browser.post("/", json={"seen by": "us"})

    server.app = theirs()
    assert same(seen(browser), data | {"seen by": "us"})
    browser.post("/", json={"seen by": "them"})

    server.app = ours()
    assert same(seen(browser), data | {"seen by": "them"})


@pytest.mark.guarantee(27)
@rows("data", PLAIN.values(), ids=PLAIN)
def test_starlette_reads_a_session_that_begins_here(data: dict[str, Any], browser_of: BrowserOf) -> None:
    server = Deployed(ours())
    browser = browser_of(server)
    browser.post("/", json=data)
    server.app = theirs()
    assert same(seen(browser), data)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: `1 == True == 1.0`. The order of keys is kept, too."""
    return repr(one) == repr(other)


def test_reading_starlettes_cookie_sets_no_cookie(browser_of: BrowserOf) -> None:
    server = Deployed(theirs())
    browser = browser_of(server)
    browser.post("/", json={"user": "ann"})
    server.app = ours()
    assert "set-cookie" not in browser.get("/").headers


def test_there_is_one_cookie_after_the_deploy_and_not_two(browser_of: BrowserOf, base_url: str) -> None:
    server = Deployed(theirs())
    browser = browser_of(server, base_url=base_url)
    browser.post("/", json={"user": "ann"})
    server.app = ours()
    browser.post("/", json={"user": "bob"})
    assert len(browser.cookies.jar) == 1


def test_a_logout_here_is_a_logout_in_starlette_and_vice_versa(browser_of: BrowserOf, base_url: str) -> None:
    server = Deployed(theirs())
    browser = browser_of(server, base_url=base_url)
    browser.post("/", json={"user": "ann"})
    server.app = ours()
    browser.delete("/")
    assert not browser.cookies
    browser.post("/", json={"user": "ann"})
    server.app = theirs()
    browser.delete("/")
    assert not browser.cookies


@pytest.mark.guarantee(27)
def test_two_servers_of_which_one_is_updated_first_share_their_sessions(browser_of: BrowserOf) -> None:
    server = Deployed(theirs())
    browser = browser_of(server)
    for count in range(6):
        server.app = ours() if count % 2 else theirs()
        browser.post("/", json={str(count): count})
    assert seen(browser) == {str(count): count for count in range(6)}


SETTINGS: list[dict[str, Any]] = [
    {"session_cookie": "shop"},
    {"max_age": None},
    {"max_age": 60},
    {"same_site": "strict"},
    {"same_site": "none", "https_only": True},
    {"https_only": True},
    {"path": "/"},
    {"domain": "testserver.local"},
    {"partitioned": True, "https_only": True},
    {"secret_key": Secret(KEY)},
    {"secret_key": "short"},
    {"secret_key": "schlüssel-会话"},
]
THEIR_KEYWORDS = signature(StarletteSessionMiddleware).parameters.keys()  # Starlette 1.0 had no `partitioned`


@rows("settings", [settings for settings in SETTINGS if settings.keys() <= THEIR_KEYWORDS], ids=repr)
def test_the_same_settings_make_the_same_cookie(settings: dict[str, Any], browser_of: BrowserOf) -> None:
    server = Deployed(theirs(**settings))
    browser = browser_of(
        server, base_url="https://testserver.local" if "https_only" in settings else "http://testserver.local"
    )
    browser.post("/", json={"user": "ann"})
    server.app = ours(**settings)
    assert seen(browser) == {"user": "ann"}
    browser.post("/", json={"user": "bob"})
    assert len(browser.cookies.jar) == 1
    server.app = theirs(**settings)
    assert seen(browser) == {"user": "bob"}


def test_another_key_reads_nothing(browser_of: BrowserOf) -> None:
    server = Deployed(theirs())
    browser = browser_of(server)
    browser.post("/", json={"user": "ann"})
    server.app = ours(secret_key=ANOTHER_KEY)
    assert seen(browser) == {}
    browser.post("/", json={"user": "bob"})
    server.app = theirs()
    assert seen(browser) == {}


def test_starlettes_key_may_be_any_of_the_list_and_the_first_signs(browser_of: BrowserOf) -> None:
    server = Deployed(theirs())
    browser = browser_of(server)
    browser.post("/", json={"user": "ann"})
    server.app = ours(secret_key=[ANOTHER_KEY, KEY])
    assert seen(browser) == {"user": "ann"}
    browser.post("/", json={"user": "bob"})
    server.app = theirs(secret_key=ANOTHER_KEY)
    assert seen(browser) == {"user": "bob"}


def test_an_encrypted_backend_accepts_starlettes_sessions_if_configured(browser_of: BrowserOf) -> None:
    server = Deployed(theirs())
    browser = browser_of(server)
    browser.post("/", json={"user": "ann"})
    server.app = ours(secret_key=None, backend=EncryptedCookieBackend(ANOTHER_KEY))
    assert seen(browser) == {}
    server.app = ours(secret_key=None, backend=EncryptedCookieBackend(ANOTHER_KEY, accept_signed=KEY))
    assert seen(browser) == {"user": "ann"}


# Mounted, or behind a proxy that strips a prefix: both set path=/, so that there is one cookie


@rows("settings", [{}, {"path": "/"}], ids=["default path", "path=/"])
def test_an_application_behind_a_root_path_keeps_users_signed_in(
    settings: dict[str, Any], browser_of: BrowserOf
) -> None:
    server = Deployed(Starlette(routes=[Mount("/shop", theirs())]))
    browser = browser_of(server)
    browser.post("/shop/", json={"user": "ann"})
    server.app = Starlette(routes=[Mount("/shop", ours(**settings))])
    assert browser.get("/shop/").json() == {"user": "ann"}
    browser.post("/shop/", json={"user": "bob"})
    assert browser.get("/shop/").json() == {"user": "bob"}
    browser.post("/shop/", json={"user": "eve"})
    assert browser.get("/shop/").json() == {"user": "eve"}
    assert len(browser.cookies.jar) == 1


def test_behind_a_root_path_a_new_cookie_at_the_root_is_left_alone(browser_of: BrowserOf) -> None:
    backends = [CookieBackend(KEY), EncryptedCookieBackend(KEY, accept_signed=KEY)]
    for backend in backends:
        server = Deployed(Starlette(routes=[Mount("/shop", ours(secret_key=None, backend=backend))]))
        browser = browser_of(server)
        answers = [browser.post("/shop/", json={"n": n}) for n in range(3)]
        assert [len(answer.headers.get_list("set-cookie")) for answer in answers] == [1, 1, 1]


def test_a_logout_behind_a_root_path_removes_starlettes_cookie_too(browser_of: BrowserOf) -> None:
    server = Deployed(Starlette(routes=[Mount("/shop", theirs())]))
    browser = browser_of(server)
    browser.post("/shop/", json={"user": "ann"})
    server.app = Starlette(routes=[Mount("/shop", ours())])
    browser.delete("/shop/")
    assert browser.get("/shop/").json() == {}
    assert len(browser.cookies.jar) == 0


def test_an_encrypted_backend_removes_starlettes_cookie_at_the_root_too(browser_of: BrowserOf) -> None:
    server = Deployed(Starlette(routes=[Mount("/shop", theirs())]))
    browser = browser_of(server)
    browser.post("/shop/", json={"user": "ann"})
    backend = EncryptedCookieBackend(ANOTHER_KEY, accept_signed=KEY)
    server.app = Starlette(routes=[Mount("/shop", ours(secret_key=None, backend=backend))])
    browser.post("/shop/", json={"user": "bob"})
    assert browser.get("/shop/").json() == {"user": "bob"}
    assert len(browser.cookies.jar) == 1


# Time


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The wall clock of both libraries, moved by hand."""
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


def cookie_from(browser: TestClient, data: dict[str, Any]) -> str:
    value = said(browser.post("/", json=data).headers["set-cookie"])["session"]
    assert value is not None
    return value


def test_starlettes_cookie_expires_by_its_own_timestamp(browser_of: BrowserOf, at: Clock) -> None:
    cookie = cookie_from(browser_of(theirs(max_age=60)), {"user": "ann"})
    for passed, expected in ((59, {"user": "ann"}), (1, {})):
        at.advance(passed)
        browser = browser_of(ours(max_age=60))
        browser.cookies.set("session", cookie)
        assert seen(browser) == expected


def test_the_cookie_expires_in_starlette_too(browser_of: BrowserOf, at: Clock) -> None:
    cookie = cookie_from(browser_of(ours(max_age=60)), {"user": "ann"})
    for passed, expected in ((59, {"user": "ann"}), (2, {})):
        at.advance(passed)
        browser = browser_of(theirs(max_age=60))
        browser.cookies.set("session", cookie)
        assert seen(browser) == expected


@pytest.mark.guarantee(27)
@rows("limit", [{"absolute_timeout": 90}, {"absolute_timeout": 90, "rolling": True, "max_age": 60}], ids=repr)
def test_an_absolute_timeout_counts_from_the_last_write_of_starlettes_cookie(
    limit: dict[str, Any], browser_of: BrowserOf, at: Clock
) -> None:
    server = Deployed(theirs())
    browser = browser_of(server)
    browser.post("/", json={"user": "ann"})
    server.app = ours(**limit)
    for passed in (50, 39):
        at.advance(passed)
        assert seen(browser)["user"] == "ann"
        browser.post("/", json={"seen at": at.now})
        assert browser.cookies["session"].startswith("s1.")
    at.advance(1)
    assert seen(browser) == {}


def test_an_old_copy_of_starlettes_cookie_reaches_the_absolute_timeout_too(browser_of: BrowserOf, at: Clock) -> None:
    cookie = cookie_from(browser_of(theirs()), {"user": "ann"})
    for passed, expected in ((59, {"user": "ann"}), (1, {})):
        at.advance(passed)
        browser = browser_of(ours(absolute_timeout=60))
        browser.cookies.set("session", cookie)
        assert seen(browser) == expected


@rows(
    "settings",
    [
        {"app_name": "shop"},
        {"secret_key": None, "backend": CookieBackend(KEY, starlette_format=False)},
        {"secret_key": None, "backend": CookieBackend(KEY, compress=True)},
        {"secret_key": None, "backend": CookieBackend(KEY, serializer=Msgpack())},
        {"secret_key": None, "backend": CookieBackend(KEY, revocations=MemoryStore())},
    ],
    ids=["app_name", "starlette_format=False", "compress", "serializer", "revocations"],
)
def test_a_setting_that_refuses_the_format_does_so_with_an_absolute_timeout_too(
    settings: dict[str, Any], browser_of: BrowserOf
) -> None:
    cookie = cookie_from(browser_of(theirs()), {"user": "ann"})
    for limit in (None, 60):
        browser = browser_of(ours(absolute_timeout=limit, **settings))
        browser.cookies.set("session", cookie)
        assert seen(browser) == {}


# All JSON values


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)
sessions = st.dictionaries(st.text(), values, max_size=6)

signer = TimestampSigner(KEY)
backend = CookieBackend(KEY)


def opened(cookie: str) -> Any:
    found = backend.peek(cookie, 0)
    return backend.serializer.loads(found.record.payload) if not isinstance(found, str) else found


@given(sessions)
def test_every_cookie_of_starlette_is_read(data: dict[str, Any]) -> None:
    cookie = signer.sign(b64encode(json.dumps(data).encode("utf-8"))).decode()
    assert same(opened(cookie), data)


@given(sessions)
def test_starlette_reads_every_cookie_of_plain_json(data: dict[str, Any]) -> None:
    cookie = backend.seal(Record(backend.serializer.dumps(data), 1_800_000_000, 1_800_000_000))
    assert same(json.loads(b64decode(signer.unsign(cookie.encode()))), data)


@rows("value", ["NaN", "Infinity", "-Infinity", '"\\ud800"', str(2**70)])
def test_nan_and_lone_surrogates_of_pythons_json_are_read(value: str) -> None:
    cookie = signer.sign(b64encode(f'{{"value": {value}}}'.encode())).decode()
    assert same(opened(cookie), {"value": json.loads(value)})
