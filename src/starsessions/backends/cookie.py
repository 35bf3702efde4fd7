"""Backends that keep the session in the cookie, signed or encrypted."""

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec.structs import replace

from starsessions import stores
from starsessions.backends.base import Backend, Conflict, wall_clock
from starsessions.backends.entries import Entries, Location, Pointer
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.together import complete_and_end, replace_sign_in
from starsessions.backends.user_index import Overtaken, PendingSignIn, UserIndex
from starsessions.core.binding import DEFAULT_BINDING, Binding, Purpose
from starsessions.core.chunking import MAX_PARTS
from starsessions.core.durations import Clock, Duration, seconds
from starsessions.core.encoding import key_under
from starsessions.core.record import Found, Identity, MissReason, Policy, Record
from starsessions.core.serializer import Msgpack, PlainJson, Serializer
from starsessions.exceptions import ImproperlyConfigured
from starsessions.sealing import encrypted, signed
from starsessions.sealing.encrypted import Encrypter
from starsessions.sealing.keys import Keys, key_list
from starsessions.sealing.signed import Signer, StarletteSigner
from starsessions.stores.base import WHAT_A_STORE_IS, Store, is_store

if TYPE_CHECKING:
    from starsessions.sealing.strength import KeyFact


class _SealedCookieBackend(Backend):
    """Base class of both: writes never conflict, and tokens can be revoked only if a store has their sign-ins."""

    is_client_side: ClassVar[bool] = True
    _keys: list[bytes]
    _keyword: ClassVar[str] = "secret_key"
    """The keyword that the keys were passed under, for messages."""

    def __init__(
        self,
        max_age: Duration | None,
        max_cookies: int,
        revocations: Store | StoreBackend | None,
        allow_unrevocable: bool,
        check_epoch: bool,
        clock: Clock,
    ) -> None:
        if not isinstance(max_cookies, int) or not 1 <= max_cookies <= MAX_PARTS:
            raise ImproperlyConfigured(f"max_cookies must be 1 to {MAX_PARTS}: servers reject larger headers.")
        self.max_age: int | None = None if max_age is None else seconds("max_age", max_age)
        self.max_cookies = max_cookies
        self.clock = clock
        if not (revocations is None or isinstance(revocations, StoreBackend) or is_store(revocations)):
            raise ImproperlyConfigured(f"revocations must be a store, or a backend with a store. {WHAT_A_STORE_IS}")
        if check_epoch and revocations is None:
            raise ImproperlyConfigured("check_epoch needs revocations=<store>, which has what it compares.")
        self._revocations = revocations
        self._checks_epoch = check_epoch
        self.allow_unrevocable = allow_unrevocable
        self.user_index: UserIndex | None = None
        self.prepare(DEFAULT_BINDING, Policy() if self.max_age is None else Policy(self.max_age))

    def prepare(self, binding: Binding, policy: Policy) -> None:
        super().prepare(binding, policy)
        self._label = binding.label(Purpose.COOKIE_KEY)
        if isinstance(self._revocations, StoreBackend):  # it may have encrypt_with, which applies to sign-ins as well
            self.user_index = self._revocations.sign_ins_for(binding, self._checks_epoch)
        elif self._revocations is not None:
            store, checks = self._revocations, self._checks_epoch
            self.user_index = UserIndex(store, binding, Purpose.COOKIE_LIST, Entries(), checks_epoch=checks)

    @property
    def place(self) -> object:
        return type(self), self._keys, self._revocations

    @property
    def stores(self) -> Sequence[Store]:
        if isinstance(self._revocations, StoreBackend):
            return self._revocations.stores
        return () if self._revocations is None else (self._revocations,)

    @property
    def key_facts(self) -> "Sequence[KeyFact]":
        from starsessions.sealing.strength import fact_of  # only the checks need it

        theirs = self._revocations.key_facts if isinstance(self._revocations, StoreBackend) else ()
        return [*(fact_of(self._keyword, key) for key in self._keys), *theirs]

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        return self._revocations.lifespan() if isinstance(self._revocations, StoreBackend) else super().lifespan()

    @property
    def never_waits(self) -> bool:  # type: ignore[override]
        # If cookies can be revoked, loading one also reads the entry of its sign-in.
        return self.user_index is None

    async def fetch(self, token: str, now: int) -> Found | MissReason:
        return await self._checked(self.peek(token, now), now)

    async def fetch_to_end(self, token: str, now: int) -> Found | MissReason:
        return await self._checked(self.peek(token, now), 0, to_end=True)

    async def _checked(self, found: Found | MissReason, now: int, to_end: bool = False) -> Found | MissReason:
        """Return the session with the location of its sign-in, if the sign-in is valid and in this generation."""
        index, identity = self.user_index, found.record.identity if isinstance(found, Found) else None
        if index is None or not isinstance(found, Found) or identity is None:
            return found
        key = self._key_of(identity)
        asked = index.epochs.questions(identity, now) if index.checks_epoch and not to_end else []
        entry, *answers = await index.concurrently(index.store.get(key, now=now), *asked)
        location = _location(index.read(key, entry), identity)
        return replace(found, version=location) if location is not None and all(answers) else MissReason.UNKNOWN

    async def create(
        self, record: Record, session_id: str | None, ends_at: int, now: int, pending: PendingSignIn | None = None
    ) -> Found:
        location = None if pending is None else await self._begun(pending, record, ends_at, now)
        return Found(self.seal(record), record, location)

    async def replace(self, found: Found, record: Record, ends_at: int, now: int) -> Found:
        location = found.version
        if isinstance(location, Location) and self.user_index is not None and record.identity is not None:
            if ends_at > location.until or record.identity != found.record.identity:  # it is confirmed
                location = await self._renewed(location, record, record.identity, ends_at, now)
            elif not await self.user_index.is_wanted(record, ends_at, now):
                await self.delete(found, now)
                raise Conflict(None)
        return Found(self.seal(record), record, location)

    async def rotate(
        self,
        found: Found,
        record: Record,
        session_id: str,
        ends_at: int,
        now: int,
        usable_until: int = 0,
        pending: PendingSignIn | None = None,
    ) -> Found:
        location = found.version
        index, identity = self.user_index, record.identity
        if pending is not None:
            if not isinstance(location, Location) or index is None:
                return await self.create(record, session_id, ends_at, now, pending)
            until = _entry_end(ends_at, now)
            version = await complete_and_end(index, pending, _without_data(record), location, until, now)
            return Found(self.seal(record), record, Location(pending.key, version, until))
        if isinstance(location, Location) and index is not None and identity is not None:
            record = replace(record, identity=replace(identity, generation=identity.generation + 1))
            location = await self._renewed(location, record, identity, ends_at, now, announces=True)
        return Found(self.seal(record), record, location)

    async def _begun(self, pending: PendingSignIn, record: Record, ends_at: int, now: int) -> Location:
        assert self.user_index is not None
        until = _entry_end(ends_at, now)
        version = await self.user_index.complete(pending, _without_data(record), until, now)
        return Location(pending.key, version, until)

    async def _renewed(
        self, location: Location, record: Record, before: Identity, ends_at: int, now: int, announces: bool = False
    ) -> Location:
        """Extend the sign-in, whose entry still has the generation of `before`."""
        assert self.user_index is not None
        index, stored = self.user_index, _without_data(record)
        until = max(location.until, _entry_end(ends_at, now))
        while True:
            try:
                if announces:
                    version = await replace_sign_in(index, location, stored, until, now)
                else:
                    version = await index.replace(location.key, stored, location.version, until, now)
                return Location(location.key, version, until)
            except stores.Conflict as conflict:
                current = _location(index.read(location.key, conflict.current), before)
                if current is None:
                    raise Conflict(None) from None
                location = current  # another request has extended it
            except Overtaken:
                raise Conflict(None) from None

    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        """End the session of a signed-in user, if `revocations` is set: the cookie and every copy of it become invalid.

        Otherwise only the browser's cookie is cleared, and a stolen copy stays valid until it expires.
        """
        if self.user_index is not None and found.record.identity is not None:
            location = found.version
            version = location.version if isinstance(location, Location) else None
            await self.user_index.end(self._key_of(found.record.identity), version)

    def sign_in_key(self, identity: Identity, session_id: str) -> str:
        return self._key_of(identity)

    def sign_in_end(self, ends_at: int, now: int) -> int:
        return _entry_end(ends_at, now)

    def _key_of(self, identity: Identity) -> str:
        return key_under(self._label, identity.handle)


def _location(read: Found | Pointer | MissReason, identity: Identity) -> Location | None:
    """Return where a sign-in is stored; None if that is not this sign-in, saved, and in this generation."""
    if not isinstance(read, Found) or read.record.payload is None or read.record.identity is None:
        return None
    location: Location = read.version
    return location if read.record.identity.generation == identity.generation else None


def _without_data(record: Record) -> Record:
    return Record(b"", record.began_at, record.renewed_at, identity=record.identity)


def _entry_end(ends_at: int, now: int) -> int:
    """Return when the entry of a sign-in expires: after twice its lifetime, so that most renewals do not extend it."""
    return ends_at + (ends_at - now)


class CookieBackend(_SealedCookieBackend):
    """Sessions in signed cookies: users can read them, but not change them.

    Data that is plain JSON is written in the format of Starlette's `SessionMiddleware` and of versions 1.x of this
    package, and their cookies are read, given the same key. Other types, `set_expiry` and a sign-in do not fit into
    that format. Such a session is written in another format, which is bound to the application and the cookie's name.

    Starlette's format is bound to nothing but the key. So it is neither written nor read if a setting needs more:
    `app_name`, `compress`, `revocations` or a `serializer`. With `absolute_timeout` it is read and not written: such a
    session counts as begun when it was last written, and its next write is in the other format.

    Args:
        secret_key: a key, or a list of keys: the first signs, all verify.
        max_age: how long sessions last, in seconds or as a `timedelta`; the shorter of this and the middleware's
            `max_age` applies. None: the middleware's.
        serializer: converts the data to bytes. None: JSON.
        compress: compress the data if that makes it shorter.
        max_cookies: the number of cookies that a large session may be split over.
        starlette_format: False: never read or write Starlette's format.
        revocations: a store that keeps the valid sign-ins, so that they can be revoked. None: they cannot be.
        allow_unrevocable: let `sign_in()` work without `revocations`, although a stolen copy of the cookie then stays
            valid after a sign-out.
        check_epoch: ask at each load of a signed-in session, and not only when it is written, whether all sessions of
            the user or of all users were ended: together with what `revocations` is asked anyway.
        clock: returns the seconds since 1970; for tests.

    Raises:
        ImproperlyConfigured: a key is empty or has another type, or another argument is invalid.

    >>> from starsessions import SessionMiddleware
    >>> from starlette.applications import Starlette
    >>> app = Starlette()
    >>> app.add_middleware(SessionMiddleware, backend=CookieBackend("a key of 32 random bytes or more", max_age=3600))
    """

    def __init__(
        self,
        secret_key: Keys,
        max_age: Duration | None = None,
        *,
        serializer: Serializer | None = None,
        compress: bool = False,
        max_cookies: int = 1,
        starlette_format: bool = True,
        revocations: Store | StoreBackend | None = None,
        allow_unrevocable: bool = False,
        check_epoch: bool = False,
        clock: Clock = wall_clock,
    ) -> None:
        self.serializer: Serializer = serializer or PlainJson()
        self._starlette_format = starlette_format
        self._keys = key_list(secret_key, self._keyword)
        self._compress = compress
        self._starlette = StarletteSigner(self._keys)
        super().__init__(max_age, max_cookies, revocations, allow_unrevocable, check_epoch, clock)

    def prepare(self, binding: Binding, policy: Policy) -> None:
        super().prepare(binding, policy)
        self._signer = Signer(self._keys, binding, self._compress)
        self._reads_plain = self._starlette_format and not self._asks_for_more(binding)
        # That format has one time, and each write would move the beginning.
        self._writes_plain = self._reads_plain and policy.absolute_timeout is None

    def _asks_for_more(self, binding: Binding) -> bool:
        """Return whether a setting refuses Starlette's format."""
        return (
            not isinstance(self.serializer, PlainJson)
            or self._compress
            or self.user_index is not None
            or binding.app_name != binding.cookie_name
        )

    @property
    def starlette_keys(self) -> Collection[bytes]:  # type: ignore[override]
        return self._starlette.key_digests if self._reads_plain else ()

    def seal(self, record: Record) -> str:
        # In Starlette's format, if the record fits into it.
        if (
            self._writes_plain
            and record.payload.startswith(b"{")
            and record.lifetime is None
            and record.until is None
            and record.identity is None
            and not record.browser
        ):
            return self._starlette.seal(record)
        return self._signer.seal(record)

    def peek(self, token: str, now: int) -> Found | MissReason:
        if token.startswith(signed.PREFIX):
            opened = self._signer.open(token)
        elif self._reads_plain:
            opened = self._starlette.open(token)
        else:
            return MissReason.MALFORMED
        return Found(token, opened) if isinstance(opened, Record) else opened


class _AcceptedCookies(CookieBackend):
    """The signed cookies that `accept_signed` still reads, including those in Starlette's format."""

    _keyword: ClassVar[str] = "accept_signed"

    def _asks_for_more(self, binding: Binding) -> bool:
        return False


class EncryptedCookieBackend(_SealedCookieBackend):
    """Sessions in encrypted cookies: only the server can read or change them. Needs the package `cryptography`.

    Args:
        secret_key: a key of 32 bytes or more, or a list of keys: the first encrypts, all decrypt. The cookie names its
            key.
        max_age: how long sessions last, in seconds or as a `timedelta`; the shorter of this and the middleware's
            `max_age` applies. None: the middleware's.
        serializer: converts the data to bytes. None: MessagePack.
        compress: compress the data if that makes it shorter. The compressed length leaks information about the content:
            leave it off if an attacker can add text to data that they must not read.
        max_cookies: the number of cookies that a large session may be split over.
        accept_signed: a key or a list of keys; signed cookies with one of them, also in Starlette's format, are still
            read, and re-encrypted when written. Use it to migrate. None: a cookie that is only signed is ignored.
        revocations: a store that keeps the valid sign-ins, so that they can be revoked. None: they cannot be.
        allow_unrevocable: let `sign_in()` work without `revocations`, although a stolen copy of the cookie then stays
            valid after a sign-out.
        check_epoch: ask at each load of a signed-in session, and not only when it is written, whether all sessions of
            the user or of all users were ended: together with what `revocations` is asked anyway.
        clock: returns the seconds since 1970; for tests.

    Raises:
        ImproperlyConfigured: the package `cryptography` is missing, a key is missing, too short or has another type,
            or another argument is invalid.

    >>> from starsessions import SessionMiddleware
    >>> from starlette.applications import Starlette
    >>> app = Starlette()
    >>> app.add_middleware(SessionMiddleware, backend=EncryptedCookieBackend("a key of 32 random bytes or more"))
    """

    def __init__(
        self,
        secret_key: Keys,
        max_age: Duration | None = None,
        *,
        serializer: Serializer | None = None,
        compress: bool = False,
        max_cookies: int = 1,
        accept_signed: Keys | None = None,
        revocations: Store | StoreBackend | None = None,
        allow_unrevocable: bool = False,
        check_epoch: bool = False,
        clock: Clock = wall_clock,
    ) -> None:
        self.serializer: Serializer = serializer or Msgpack()
        self._keys = key_list(secret_key, refuses_short=True)
        self._compress = compress
        self._encrypts_for: Binding | None = None
        self._signed = None if accept_signed is None else _AcceptedCookies(accept_signed, serializer=serializer)
        super().__init__(max_age, max_cookies, revocations, allow_unrevocable, check_epoch, clock)

    def prepare(self, binding: Binding, policy: Policy) -> None:
        super().prepare(binding, policy)
        if binding != self._encrypts_for:  # deriving all keys takes more than a millisecond
            self._encrypter = Encrypter(self._keys, binding, self._compress)
            self._encrypts_for = binding
        self._old = None if self._signed is None else self._signed.bind(binding, self.policy)

    @property
    def starlette_keys(self) -> Collection[bytes]:  # type: ignore[override]
        return self._old.starlette_keys if self._old else ()

    @property
    def key_facts(self) -> "Sequence[KeyFact]":
        return [*super().key_facts, *(self._signed.key_facts if self._signed else ())]

    def seal(self, record: Record) -> str:
        return self._encrypter.seal(record)

    def peek(self, token: str, now: int) -> Found | MissReason:
        if token.startswith(encrypted.PREFIX):
            opened = self._encrypter.open(token)
            return Found(token, opened) if isinstance(opened, Record) else opened
        # No downgrade: users could have read the contents of a cookie that is only signed.
        return self._old.peek(token, now) if self._old else MissReason.MALFORMED
