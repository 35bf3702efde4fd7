"""What belongs to one application, cookie and purpose is worth nothing elsewhere: every artefact, in every other place.

The artefacts are whatever is found in cookies and in stores after some visits, so that a new one is among them without
being named here. What is hashed, derived or authenticated is found by listening, and each `Purpose` must be among it.
"""

import hashlib
import hmac
import os
import re
import sys
from abc import ABCMeta
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import aead
from hypothesis import given
from hypothesis import strategies as st

import starsessions
from starsessions import (
    CookieBackend,
    EncryptedCookieBackend,
    ImproperlyConfigured,
    InMemoryBackend,
    Session,
    SessionBackend,
    get_miss_reason,
    users,
)
from starsessions.backends.server_side import StoreBackend
from starsessions.core import encoding
from starsessions.core.binding import DEFAULT_BINDING, UNBOUND, Binding, Purpose, binding_for
from starsessions.core.chunking import MAX_PARTS, part_names
from starsessions.core.csrf import is_good, put_secret, secrets_in, token_for
from starsessions.core.record import MissReason, Record
from starsessions.lifecycle.sign_in import take_along
from starsessions.sealing import keys as sealing_keys
from starsessions.sealing.cipher import Cipher
from starsessions.sealing.encrypted import Encrypter
from starsessions.sealing.signed import StarletteSigner
from starsessions.stores import MemoryStore
from starsessions.users import UserSessions
from tests.keys import key_for, owner_name
from tests.rows import rows
from tests.site import KEY, Browser, Clock, DictBackend, Site

BINDINGS = [
    ("admin", "admin"),
    ("shop", "session"),
    ("shop", "admin"),
    ("shops", "ession"),
    ("session", "session"),  # last, because a backend derives its keys before any middleware binds it
]
USER = "1"
"""Of each application another person: it is theirs to say who that is."""

STAMP = "the hash of a password"
ISSUER, CLAIM = "https://provider.example", "the same"
"""All that a provider says is spelled the same: its session, its subject, and the number of its token."""
CARGO = {"compressed": "0" * 1000, "split": Random(1).randbytes(2500).hex()}
"""What a session carries where its cookie shall take another form: what is compressed, or too long for one cookie."""


@dataclass
class World:
    """Everything that can be shared by mistake: a secret, two stores, and the objects themselves."""

    clock: Clock = field(default_factory=Clock)
    store: MemoryStore = field(default_factory=MemoryStore)
    encrypted_store: MemoryStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        store, encrypted_store, clock = self.store, self.encrypted_store, self.clock
        encrypting = StoreBackend(encrypted_store, encrypt_with=KEY, clock=clock)
        self.backends: dict[str, SessionBackend] = {
            "signed": CookieBackend(KEY, allow_unrevocable=True, clock=clock),
            "signed, with a limit": CookieBackend(KEY, allow_unrevocable=True, clock=clock),
            "signed, revocable": CookieBackend(KEY, revocations=store, clock=clock),
            "signed, compressed": CookieBackend(KEY, allow_unrevocable=True, compress=True, clock=clock),
            "signed, split": CookieBackend(KEY, allow_unrevocable=True, max_cookies=3, clock=clock),
            "encrypted": EncryptedCookieBackend(KEY, allow_unrevocable=True, clock=clock),
            "encrypted, compressed": EncryptedCookieBackend(KEY, allow_unrevocable=True, compress=True, clock=clock),
            "encrypted, split": EncryptedCookieBackend(KEY, allow_unrevocable=True, max_cookies=3, clock=clock),
            "encrypted, revocable": EncryptedCookieBackend(KEY, revocations=encrypting, clock=clock),
            "in a store": StoreBackend(store, clock=clock),
            "encrypted in a store": encrypting,
            "in memory": InMemoryBackend(clock=clock),
            "of one's own": DictBackend(),
        }

    def place(self, kind: str, app_name: str, cookie_name: str) -> "Place":
        backend = self.backends[kind]
        names = {"app_name": app_name, "session_cookie": cookie_name}
        limit = 3600 if kind == "signed, with a limit" else None
        site = Site(backend=backend, absolute_timeout=limit, clock=self.clock, autoload=False, **names)
        lists = None
        if isinstance(backend, StoreBackend) or kind.endswith("revocable"):
            lists = UserSessions(backend, app_name=app_name, session_cookie=cookie_name)
        cargo = CARGO.get(kind.rpartition(", ")[2], "")
        return Place(f"{kind}, {cookie_name} of {app_name}", cookie_name, site, lists, cargo)

    def places(self) -> "list[Place]":
        return [self.place(kind, *binding) for kind in self.backends for binding in BINDINGS]


@dataclass
class Place:
    """One middleware, what it has given away, and the list of its user."""

    name: str
    cookie_name: str
    site: Site
    lists: UserSessions | None
    cargo: str
    tokens: list[str] = field(default_factory=list)
    csrf_token: str = ""
    handle: str = ""

    def could_be(self, other: "Place") -> bool:
        """Whether the other one is the same cookie of the same application, signed or encrypted alike."""
        kinds = (self.name.partition(", ")[0], other.name.partition(", ")[0])
        return kinds[0] == kinds[1] and self.site.app.config.backend.binding == other.site.app.config.backend.binding

    @property
    def token(self) -> str:
        """All parts of the cookie, with what no part has between them."""
        return " ".join(self.site.browser.cookies.values())

    async def fill(self) -> None:
        """A session that is anonymous, then signed in, then rotated with a grace where there can be one."""

        async def begin(session: Session) -> None:
            await session.load()
            session.update(whose=self.name, cargo=self.cargo)

        async def sign_in(session: Session) -> None:
            provider = {"provider": ISSUER, "provider_session": CLAIM, "provider_subject": CLAIM}
            await users.sign_in(session, USER, stamp=STAMP, **provider if self.lists else {})
            self.handle = users.get_handle(session) or ""

        async def rotate(session: Session) -> None:
            await session.load()
            await session.regenerate_id(grace=60 if self.site.app.config.backend.has_grace else None)
            self.csrf_token = token_for(put_secret(session, "salt", self.name.encode()), bytes(16))

        for act in (begin, sign_in, rotate):
            await self.site.visit(act)
            self.tokens.append(self.token)

    async def open(self, token: str) -> tuple[dict[str, Any], MissReason | None, str | None]:
        """What a browser with this cookie finds. It includes what a form finds that was sent twice to sign in."""

        async def look(session: Session) -> tuple[dict[str, Any], MissReason | None, str | None]:
            await session.load()
            data = await take_along(session, dict(session))
            return data, get_miss_reason(session), users.get_user_id(session)

        names = part_names(self.cookie_name, MAX_PARTS)
        browser = Browser(dict(zip(names, token.split(" "), strict=False)))
        found: tuple[dict[str, Any], MissReason | None, str | None] = (await self.site.visit(look, browser)).result
        return found


@pytest.fixture
async def places() -> list[Place]:
    world = World()
    places = world.places()
    for place in places:
        await place.fill()
    return places


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_each_binding_accepts_its_own_tokens(places: list[Place]) -> None:
    for place in places:
        data, why, user_id = await place.open(place.token)
        assert (data["whose"], why, user_id) == (place.name, None, USER), place.name
        data, _, _ = await place.open(place.tokens[0])  # as if the form that has signed in was sent twice
        taken = {} if place.name.startswith("of one's own") else {"whose": place.name, "cargo": place.cargo}
        assert data == taken, place.name


@pytest.mark.anyio
async def test_each_form_of_a_cookie_is_among_them(places: list[Place]) -> None:
    for place in places:
        for token in place.tokens:
            assert (" " in token) == (place.cargo == CARGO["split"]), place.name
            assert (len(token) < len(place.cargo)) == (place.cargo == CARGO["compressed"]), place.name


@pytest.mark.anyio
async def test_a_token_of_one_binding_is_invalid_in_another(places: list[Place]) -> None:
    for one in places:
        shown = {*one.tokens, one.csrf_token, one.handle, put_secret({}, "", one.name.encode())}
        for other in places:
            for text in shown - set(one.tokens) if one.could_be(other) else shown:
                data, why, user_id = await other.open(text)
                if text == one.tokens[0] and why is None:
                    # Before the sign-in: Starlette's format, which is bound to the key only.
                    assert one.site.app.config.backend.starlette_keys, (one.name, other.name)
                    assert other.site.app.config.backend.starlette_keys, (one.name, other.name)
                    continue
                assert (data, user_id) == ({}, None), (one.name, other.name)
                assert why is not None, (one.name, other.name)


@pytest.mark.anyio
async def test_a_csrf_token_is_valid_in_its_own_session_only(places: list[Place]) -> None:
    for one in places:
        for other in places:
            secrets = secrets_in((await other.open(other.token))[0])
            assert is_good(one.csrf_token, secrets) == (one is other), (one.name, other.name)


@pytest.mark.anyio
async def test_a_list_holds_the_sessions_of_its_binding_and_a_handle_revokes_no_other(places: list[Place]) -> None:
    listing = [(place, place.lists) for place in places if place.lists is not None]
    for place, lists in listing:
        assert [one.handle for one in await lists.list(USER)] == [place.handle], place.name
    for place, lists in listing:
        for other in places:
            if other is not place:
                assert await lists.revoke(USER, other.handle) is False, (place.name, other.name)
    for place, lists in listing:
        assert await lists.revoke_all(USER) == 1, place.name
        assert (await place.open(place.token))[0] == {}, place.name
    for place in places:
        if place.lists is None:
            assert (await place.open(place.token))[0]["whose"] == place.name


@pytest.mark.anyio
async def test_a_provider_ends_the_sessions_of_one_binding_and_its_token_is_known_there_only(
    places: list[Place],
) -> None:
    for place in places:
        if place.lists is not None:
            links, now = place.lists.provider_links()
            assert not await links.was_received(ISSUER, CLAIM, now), place.name
            await links.received(ISSUER, CLAIM, now + 60, now)
            assert await links.was_received(ISSUER, CLAIM, now), place.name
            assert await place.lists.revoke_linked(ISSUER, session=CLAIM, subject=CLAIM) == 1, place.name
            assert (await place.open(place.token))[0] == {}, place.name


@pytest.mark.anyio
async def test_a_stamp_is_of_one_binding(places: list[Place]) -> None:
    whose: dict[str, set[Binding]] = {}
    for place in places:
        assert (await place.site.visit(lambda session: users.check_stamp(session, STAMP))).result, place.name
        stamp = (await place.site.visit(stamp_in)).result
        whose.setdefault(stamp, set()).add(place.site.app.config.backend.binding)
    assert "" not in whose
    assert sorted(len(those) for those in whose.values()) == [1] * len(BINDINGS)


async def stamp_in(session: Session) -> str:
    await session.load()
    identity = session.__starsessions__.user
    assert identity is not None
    return identity.stamp


@pytest.mark.anyio
@rows(
    ("kinds", "name"),
    [
        (("in a store", "signed, revocable"), "store"),
        (("encrypted in a store", "encrypted, revocable"), "encrypted_store"),
    ],
)
async def test_a_stored_value_is_worth_nothing_under_another_key(kinds: tuple[str, ...], name: str) -> None:
    world = World()
    store: MemoryStore = getattr(world, name)
    places = [world.place(kind, *binding) for kind in kinds for binding in BINDINGS]
    for place in places:
        await place.fill()
    now = int(world.clock())
    held = {key: entry for key in store.all_keys() if (entry := store.peek(key, now)) is not None}
    assert len(held) > len(places)
    for key in held:
        for place in places:
            assert (await place.open(key))[0] == {}, "a key of a store opens a session"

    async def with_value(value: bytes, key: str) -> Any:
        """Return what all tokens open, and who is listed, while this value is stored under the key."""
        expires_at, here = held[key].expires_at, store.peek(key, now)
        assert here is not None
        changed = await store.replace(key, value, here.version, expires_at=expires_at, now=now)
        opened = [await place.open(token) for place in places for token in place.tokens]
        listed = [await place.lists.list(USER) for place in places if place.lists is not None]
        await store.replace(key, held[key].value, changed, expires_at=expires_at, now=now)
        return [(data, user_id) for data, _, user_id in opened], [[one.handle for one in page] for page in listed]

    for key in held:
        worthless = await with_value(b"worthless", key)
        for other in held.keys() - {key}:
            assert await with_value(held[other].value, key) == worthless, "a value was taken for another one"


# The labels

names = st.text(max_size=8) | st.sampled_from(["session", "admin", "1:a", "7:session/", "a/1:b", "/", "1:/"])
bindings = st.builds(Binding, names, names)


@given(bindings, bindings, st.sampled_from(list(Purpose)), st.sampled_from(list(Purpose)))
def test_no_label_is_a_prefix_of_another(one: Binding, other: Binding, here: Purpose, there: Purpose) -> None:
    is_same = (one, here) == (other, there)
    assert other.label(there).startswith(one.label(here)) == is_same


def test_the_label_matches_the_docstring_and_names_purpose_application_and_cookie() -> None:
    assert Binding("é", "a").label(Purpose.COOKIE_LIST) == b"starsessions/v1/cookie-list/2:\xc3\xa9/1:a/"
    assert all("/" not in purpose and ":" not in purpose for purpose in Purpose)
    assert binding_for("a") == Binding("a", "a")
    assert binding_for("a", "b") == Binding("b", "a")


def test_labels_are_built_in_one_module_only() -> None:
    [package] = starsessions.__path__
    sources = {path.name for path in Path(package).rglob("*.py") if "starsessions/v1" in path.read_text("utf-8")}
    # A session's own secret is the key of what csrf.py does. What reporting.py makes is for logs, and the keys of
    # history.py are those of people, whatever the application: neither opens anything.
    assert sources == {"binding.py", "csrf.py", "reporting.py", "history.py"}


RECORD = Record(b"{}", 1, 1)
KEYS = [KEY.encode()]
ENCRYPTED = (Purpose.ENCRYPTED_COOKIE, Purpose.ENCRYPTED_RECORD, Purpose.ENCRYPTED_SIGN_IN)
OF_NO_COOKIE = {Purpose.STARLETTE_KEY, Purpose.OWNER_LIST}


REAL_CIPHER = aead.AESGCM


@dataclass
class Heard:
    """Whatever is hashed, or authenticated with encrypted bytes, or what a key is derived for."""

    binding: Binding
    is_client_side: bool = False
    at_start: set[bytes] = field(default_factory=set)
    """What was heard before."""
    texts: set[bytes] = field(default_factory=set)
    hashes: set[str] = field(default_factory=set)
    stored: set[str] = field(default_factory=set)
    """The keys in stores."""
    lines: set[tuple[str, int]] = field(default_factory=set)
    """The lines of the library that have asked for it."""

    def note(self, text: bytes) -> None:
        self.texts.add(text)
        caller = sys._getframe(3)
        self.lines.add((module_at(Path(caller.f_code.co_filename)), caller.f_lineno))

    def sha256(self, text: bytes) -> Any:
        digest = hashlib.sha256(text)
        self.note(text)
        self.hashes.add(encoding.to_base64url(digest.digest()))
        return digest

    def hmac_digest(self, key: bytes, text: bytes, name: str) -> bytes:
        if key != bytes(32):  # with which a derivation begins: the text is the secret
            self.note(text)
        return hmac.digest(key, text, name)

    def cipher(self, key: bytes) -> Any:
        real = REAL_CIPHER(key)

        def encrypt(nonce: bytes, plain: bytes, associated_data: bytes) -> bytes:
            self.texts.add(associated_data)
            return real.encrypt(nonce, plain, associated_data)

        return SimpleNamespace(encrypt=encrypt, decrypt=real.decrypt)


class Plain:
    """A store of four methods, for which the library keeps the lists."""

    def __init__(self, store: MemoryStore) -> None:
        self.get, self.create, self.replace, self.delete = store.get, store.create, store.replace, store.delete


async def hear(kind: str, binding: Binding) -> Heard:
    """Listen to all that one place does. Its ids and all other random bytes are those of any other place."""
    heard, random = Heard(binding), Random(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "sha256", heard.sha256)
        patch.setattr(sealing_keys, "hmac", SimpleNamespace(digest=heard.hmac_digest))
        patch.setattr(aead, "AESGCM", heard.cipher)
        for name, module in list(sys.modules.items()):
            if name.startswith("starsessions.") and getattr(module, "urandom", None) is os.urandom:
                patch.setattr(module, "urandom", random.randbytes)
        world = World()
        if kind == "in a plain store":
            world.backends[kind] = StoreBackend(Plain(world.store), clock=world.clock)
        world.place(kind, "another", "other")  # whose keys must not be used below
        heard.at_start, heard.texts = heard.texts, set()
        place = world.place(kind, binding.app_name, binding.cookie_name)
        heard.is_client_side = place.site.app.config.backend.is_client_side
        await place.fill()
        heard.stored.update(world.store.all_keys(), world.encrypted_store.all_keys())
        await place.site.visit(lambda session: users.check_stamp(session, STAMP))
        await place.open(place.tokens[0])
        if place.lists is not None:
            links, now = place.lists.provider_links()
            await links.received(ISSUER, CLAIM, now + 60, now)
            await place.lists.revoke_linked(ISSUER, session=CLAIM, subject=CLAIM)
            await place.lists.revoke_all(USER)
            await place.lists.revoke_everyone()
        heard.stored.update(world.store.all_keys(), world.encrypted_store.all_keys())
    return heard


def purposes_in(texts: Iterable[bytes], binding: Binding) -> set[Purpose]:
    """The purposes for which any of these texts has the label of this binding."""
    return {one for one in Purpose if any(text.startswith(binding.label(one)) for text in texts)}


KINDS = [*World().backends, "in a plain store"]
WITHOUT_LABEL = {USER.encode()}
"""Its hash is a part of what a stamp is hashed with, because that has a fixed length."""


@pytest.mark.anyio
async def test_each_purpose_and_each_line_that_hashes_is_heard() -> None:
    bound, unbound, lines = set[Purpose](), set[Purpose](), set[tuple[str, int]]()
    for kind in KINDS:
        heard = await hear(kind, Binding("shop", "admin"))
        bound |= purposes_in(heard.texts, heard.binding)
        unbound |= purposes_in(heard.at_start | heard.texts, UNBOUND)
        lines |= heard.lines
    assert unbound == OF_NO_COOKIE
    assert bound == set(Purpose) - OF_NO_COOKIE
    # `_name_of` keeps the latest hashes. What reporting.py and history.py hash is bound to nothing: see above.
    asking = lines_with(r"^(?! *>>>).*(?<!def )\b(key_under|derive|_name_of)\(")
    assert lines == {
        (module, line) for module, line in asking if module not in ("starsessions/reporting", "core/history")
    }


@pytest.mark.anyio
async def test_what_is_hashed_or_derived_begins_with_the_label_of_its_place_and_is_so_nowhere_else() -> None:
    whose: dict[bytes, set[tuple[Binding, bool]]] = {}
    for heard in [await hear(kind, Binding(*one)) for kind in KINDS for one in BINDINGS]:
        labels = tuple(one.label(purpose) for purpose in Purpose for one in (heard.binding, UNBOUND))
        assert heard.stored <= heard.hashes, "a key that is no hash"
        for text in heard.texts - WITHOUT_LABEL:
            assert text.startswith(labels), heard.binding
            whose.setdefault(text, set()).add((heard.binding, heard.is_client_side))
    for text, those in whose.items():
        [binding] = {binding for binding, _ in those}
        if len(those) > 1:  # neither opens or lists anything
            assert text.startswith((binding.label(Purpose.STAMP), binding.label(Purpose.KEY_ID))), text


def test_two_purposes_have_two_labels() -> None:
    assert len(Purpose) == len(Purpose.__members__)


def test_hashes_are_made_in_few_modules() -> None:
    heard = {"core/encoding", "sealing/keys", "sealing/cipher"}
    of_formats = {"sealing/signed", "core/csrf"}  # keyed with what is derived, or with the session's own secret
    not_secret = {"redis/scanning", "redis/scripts", "sqlalchemy/announce", "pages/layout", "core/counting"}
    not_secret |= {"sealing/strength"}  # with a salt of its own
    imports = r"^ *(import (hashlib|hmac)\b|from (hashlib|hmac|cryptography[.\w]*) import (?!compare_digest))"
    assert {module for module, _ in lines_with(imports)} == heard | of_formats | not_secret


def module_at(path: Path) -> str:
    """The module's folder and name: two modules have the same name."""
    return f"{path.parent.name}/{path.stem}"


def lines_with(pattern: str) -> set[tuple[str, int]]:
    """The lines of the library in which this is found, each with its module."""
    [package] = starsessions.__path__
    return {
        (module_at(path), number)
        for path in Path(package).rglob("*.py")
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if re.search(pattern, line)
    }


def test_bytes_encrypted_for_one_purpose_and_binding_decrypt_for_no_other() -> None:
    ciphers = {(*one, purpose): Cipher(KEYS, purpose, Binding(*one)) for one in BINDINGS for purpose in ENCRYPTED}
    for one, cipher in ciphers.items():
        sealed = cipher.seal(b"plain", b"where")
        assert [other for other in ciphers if ciphers[other].open(sealed, b"where")] == [one]
        assert cipher.open(sealed, b"elsewhere") is None
        assert cipher.open(sealed) is None
    token = Encrypter(KEYS, DEFAULT_BINDING).seal(RECORD)
    assert Encrypter(KEYS, UNBOUND).open(token) is MissReason.BAD_SIGNATURE


@pytest.mark.anyio
async def test_a_store_encrypts_with_the_keys_of_its_binding(clock: Clock) -> None:
    store = MemoryStore()
    site = Site(backend=StoreBackend(store, encrypt_with=KEY, clock=clock), session_cookie="sid", app_name="shop")
    await site.visit(lambda session: users.sign_in(session, USER))
    binding, now = Binding("shop", "sid"), int(clock())
    cookies = CookieBackend(KEY, revocations=StoreBackend(store, encrypt_with=KEY, clock=clock), clock=clock)
    sealed = Site(backend=cookies, session_cookie="sid", app_name="shop", autoload=True)
    await sealed.visit(lambda session: users.sign_in(session, USER))
    handle = (await sealed.visit(users.get_handle)).result
    keys = {
        key_for(site.browser.cookies["sid"], binding): Purpose.ENCRYPTED_RECORD,
        owner_name(handle, binding, Purpose.COOKIE_KEY): Purpose.ENCRYPTED_SIGN_IN,
    }
    assert set(store.all_keys()) == set(keys)
    for key, purpose in keys.items():
        entry = store.peek(key, now)
        assert entry is not None
        mark = key[:8].encode()
        assert entry.value.startswith(mark)
        assert Cipher(KEYS, purpose, binding).open(entry.value[len(mark) :], key.encode()) is not None


def test_keys_of_starlettes_format_are_distinguished_but_not_shown() -> None:
    one, other = StarletteSigner([b"one", b"both"]), StarletteSigner([b"both", b"other"])
    assert len(one.key_digests & other.key_digests) == 1
    assert all(b"both" not in digest for digest in one.key_digests)


# One store for both kinds of backend (the order in which they are used does not matter)


@pytest.mark.anyio
@rows("order", [("stored", "sealed"), ("sealed", "stored")])
async def test_one_store_may_hold_sessions_and_revocations(order: tuple[str, str], clock: Clock) -> None:
    store = MemoryStore()
    backends: dict[str, SessionBackend] = {
        "stored": StoreBackend(store, clock=clock),
        "sealed": EncryptedCookieBackend(KEY, revocations=store, clock=clock),
    }
    sites = {name: Site(backend=backends[name], clock=clock, autoload=True) for name in order}
    for name in order:
        await sites[name].visit(lambda session: users.sign_in(session, USER))
        clock.advance(61)  # from now on, what a list cannot see is taken for dead
    for name in order:
        lists = UserSessions(backends[name])
        assert await sites[name].visit(users.get_user_id) is not None
        assert len(await lists.list(USER)) == 1
        assert await lists.revoke_all(USER) == 1
        assert (await sites[name].visit(users.get_user_id)).result is None


# Whose a call by hand is


@pytest.fixture(params=["memory", "stored", "signed", "encrypted"])
def backend(request: pytest.FixtureRequest, clock: Clock) -> Any:
    return {
        "memory": lambda: InMemoryBackend(clock=clock),
        "stored": lambda: StoreBackend(MemoryStore(), clock=clock),
        "signed": lambda: CookieBackend(KEY, clock=clock, allow_unrevocable=True, starlette_format=False),
        "encrypted": lambda: EncryptedCookieBackend(KEY, allow_unrevocable=True, clock=clock),
    }[request.param]()


@pytest.mark.anyio
async def test_calls_by_hand_use_the_sessions_of_the_only_middleware(backend: Any, clock: Clock) -> None:
    site = Site(backend=backend, session_cookie="sid", app_name="shop", clock=clock, autoload=True)
    await site.visit(lambda session: session.update(a=1))
    token = site.browser.cookies["sid"]
    assert await backend.read(token) == {"a": 1}
    assert await backend.exists(token) is True
    session = Session(backend, token)
    await session.load()
    assert session == {"a": 1}
    new = await backend.write({"b": 2}, token)
    assert await site.data(Browser({"sid": new})) == {"b": 2}
    if not backend.is_client_side:
        await backend.remove(token)
        assert await site.data() == {}


@pytest.mark.anyio
async def test_a_write_by_hand_before_any_middleware_is_for_the_default_cookie(backend: Any, clock: Clock) -> None:
    token = await backend.write({"a": 1})
    site = Site(backend=backend, clock=clock, autoload=True)
    assert await site.data(Browser({"session": token})) == {"a": 1}
    assert await backend.read(token) == {"a": 1}


@pytest.mark.anyio
async def test_a_write_into_memory_before_any_middleware_is_for_the_first_one(clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    await backend.write({"a": 1}, "an-id")
    site = Site(backend=backend, session_cookie="sid", clock=clock, autoload=True)
    other = Site(backend=backend, session_cookie="admin", clock=clock, autoload=True)
    assert await site.data(Browser({"sid": "an-id"})) == {"a": 1}
    assert await other.data(Browser({"admin": "an-id"})) == {}


@pytest.mark.anyio
async def test_a_session_by_hand_is_listed_without_a_middleware(backend: Any) -> None:
    session = Session(backend)
    await session.load()
    await users.sign_in(session, USER)
    await session.persist()
    if backend.user_index is not None:
        assert len(await UserSessions(backend).list(USER)) == 1


@pytest.mark.anyio
async def test_a_call_by_hand_must_name_one_of_several_cookies(backend: Any, clock: Clock) -> None:
    one = Site(backend=backend, clock=clock, autoload=True)
    other = Site(backend=backend, session_cookie="admin", clock=clock, autoload=True)
    await one.visit(lambda session: session.update(a=1))
    await other.visit(lambda session: session.update(b=2))
    for call in (lambda: backend.read("id"), lambda: backend.write({}), lambda: backend.remove("id")):
        with pytest.raises(ImproperlyConfigured, match=r"\('session', 'admin'\).*backend\.bound_for"):
            await call()
    with pytest.raises(ImproperlyConfigured, match="bound_for"):
        Session(backend)
    token = other.browser.cookies["admin"]
    assert await backend.bound_for("admin").read(token) == {"b": 2}
    assert await backend.bound_for("session").read(token) == {}
    assert await backend.bound_for("admin", "shop").read(token) == {}


def test_a_middleware_does_not_change_the_backend_passed_to_it(backend: Any, clock: Clock) -> None:
    policy, index = backend.policy, backend.user_index
    one = Site(backend=backend, max_age=60, clock=clock)
    other = Site(backend=backend, max_age=90, session_cookie="admin", clock=clock)
    assert (backend.policy, backend.user_index, backend.original) == (policy, index, None)
    assert one.app.config.backend.policy.max_age == 60
    assert other.app.config.backend.policy.max_age == 90


def test_a_copy_bound_to_one_cookie_is_rejected_for_another(backend: Any) -> None:
    admin = backend.bound_for("admin")
    assert Site(backend=admin, session_cookie="admin").app.config.backend.original is backend
    assert admin.bound_for("admin").original is backend
    with pytest.raises(ImproperlyConfigured, match="bound to the cookie 'admin' of 'admin'"):
        Site(backend=admin)


@pytest.mark.anyio
async def test_memory_counts_the_sessions_of_all_cookies_and_shows_those_of_one(clock: Clock) -> None:
    backend = InMemoryBackend(clock=clock)
    await backend.bound_for("session").write({"a": 1}, "id")
    assert (len(backend), dict(backend.data)) == (1, {"id": {"a": 1}})
    await backend.bound_for("admin").write({"b": 2}, "id")
    await backend.bound_for("admin").write({"b": 3}, "other")
    assert (len(backend), len(backend.bound_for("session")), len(backend.bound_for("admin"))) == (3, 1, 2)
    assert backend.bound_for("session").data == {"id": {"a": 1}}
    with pytest.raises(ImproperlyConfigured, match="bound_for"):
        assert backend.data


# A store as it is


@pytest.mark.anyio
async def test_a_store_is_accepted_wherever_a_backend_is() -> None:
    store = MemoryStore()
    lists = UserSessions(store)
    with pytest.raises(ImproperlyConfigured, match="build the application first"):
        await lists.list(USER)
    site = Site(backend=store, session_cookie="sid", autoload=True)
    await site.visit(lambda session: users.sign_in(session, USER))
    assert len(await lists.list(USER)) == 1
    session = Session(store, site.browser.cookies["sid"])
    await session.load()
    assert users.get_user_id(session) == USER
    assert await UserSessions(store, app_name="shop", session_cookie="sid").list(USER) == []
    assert await UserSessions(store, app_name="shop").list(USER) == []


@rows("wrong", [{}, "redis://localhost", object(), DictBackend, StarletteSigner], ids=repr)
def test_an_object_that_is_no_backend_or_store_is_rejected_with_the_cure(wrong: Any) -> None:
    cures = {str: r"RedisBackend\(url\)", type: "use an instance", ABCMeta: "use an instance"}
    cure = cures.get(type(wrong), "get, create, replace and delete")
    for make in (lambda: Site(backend=wrong), lambda: Session(wrong), lambda: UserSessions(wrong)):
        with pytest.raises(ImproperlyConfigured, match=cure):
            make()
    with pytest.raises(ImproperlyConfigured, match=r"revocations must be a store.*get, create, replace and delete"):
        CookieBackend(KEY, revocations=wrong)


@rows("wrong", ["", 5, b"shop"])
def test_app_name_is_a_name_or_none(wrong: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="app_name"):
        Site(secret_key=KEY, app_name=wrong)
