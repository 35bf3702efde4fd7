"""Backends without a server side: the session travels in the cookie, sealed."""

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from copy import copy
from typing import Any, ClassVar, Self

from msgspec.structs import replace

from starsessions.backends.base import Backend, Conflict, wall_clock
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import IndexedSession, UserIndex
from starsessions.core.chunking import MAX_PARTS
from starsessions.core.durations import Clock, Duration, seconds
from starsessions.core.record import Found, MissReason, Policy, Record
from starsessions.core.serializer import Msgpack, PlainJson, Serializer
from starsessions.exceptions import ImproperlyConfigured
from starsessions.sealing import encrypted, signed
from starsessions.sealing.encrypted import Encrypter
from starsessions.sealing.keys import Keys, key_list
from starsessions.sealing.signed import Signer, StarletteSigner
from starsessions.stores.base import Store


class _SealedCookieBackend(Backend):
    """What both have in common: a token that cannot be called back, and no call that could conflict."""

    is_client_side: ClassVar[bool] = True

    def __init__(
        self, max_age: Duration | None, max_cookies: int, revocations: Store | StoreBackend | None, clock: Clock
    ) -> None:
        if not isinstance(max_cookies, int) or not 1 <= max_cookies <= MAX_PARTS:
            raise ImproperlyConfigured(f"max_cookies must be 1 to {MAX_PARTS}: servers refuse larger headers.")
        self.max_age: int | None = None if max_age is None else seconds("max_age", max_age)
        self.max_cookies = max_cookies
        self.clock = clock
        self._revocations = revocations
        self.user_index: UserIndex | None = None
        if isinstance(revocations, StoreBackend):  # which may seal what it stores
            self.user_index = revocations.user_index
        elif revocations is not None:
            self.user_index = UserIndex(revocations)
        self.policy: Policy = Policy() if self.max_age is None else Policy(self.max_age)
        self._seal_for("session")

    def bind(self, cookie_name: str, policy: Policy) -> Self:
        bound = copy(self)
        bound.policy = policy
        bound._seal_for(cookie_name)
        return bound

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        return self._revocations.lifespan() if isinstance(self._revocations, StoreBackend) else super().lifespan()

    @abstractmethod
    def _seal_for(self, cookie_name: str) -> None:
        """Prepare the seals for one cookie name and the policy."""

    @property
    def never_waits(self) -> bool:  # type: ignore[override]
        # A sealed cookie that can be revoked is no longer all that there is to look at.
        return self.user_index is None

    @abstractmethod
    def seal(self, record: Record) -> str:
        """Makes the token for a record."""

    @abstractmethod
    def peek(self, token: str, now: int) -> Found | MissReason:
        """What a token holds; never raises for what a stranger can send."""

    async def fetch(self, token: str, now: int) -> Found | MissReason:
        found = self.peek(token, now)
        if self.user_index is not None and isinstance(found, Found):
            identity = found.record.identity
            if identity is not None and not await self.user_index.is_indexed(identity, now):
                return MissReason.UNKNOWN
        return found

    async def create(self, record: Record, session_id: str | None, ends_at: int, now: int) -> Found:
        return await self._sealed(record, ends_at, now)

    async def replace(self, found: Found, record: Record, ends_at: int, now: int) -> Found:
        return await self._sealed(record, ends_at, now)

    async def rotate(
        self, found: Found, record: Record, session_id: str, ends_at: int, now: int, usable_until: int = 0
    ) -> Found:
        old, new = found.record.identity, record.identity
        if self.user_index is not None and old is not None and new is not None:
            if old.handle == new.handle:
                new = await self.user_index.next_generation(new, now)
                if new is None:
                    raise Conflict(None)
                record = replace(record, identity=new)
            else:  # signed in again, under another name
                await self.user_index.forget(old, now)
        return await self._sealed(record, ends_at, now)

    async def _sealed(self, record: Record, ends_at: int, now: int) -> Found:
        if self.user_index is not None:
            record = await self.user_index.keep_indexed(record, "", ends_at, now, is_sealed=True)
        return Found(self.seal(record), record)

    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        """Of somebody who is signed in, if there are `revocations`: the cookie is over, and so is every copy of it.

        Otherwise the cookie is cleared, but a copy of it stays good until its deadline.
        """
        identity = found.record.identity
        if self.user_index is not None and identity is not None:
            await self.user_index.forget(identity, now)

    async def look_up(self, listed: IndexedSession, now: int) -> Found | None:
        identity = listed.identity
        if identity is None or now >= listed.until:
            return None
        return Found("", Record(b"", identity.signed_in_at, identity.signed_in_at, identity=identity))


class CookieBackend(_SealedCookieBackend):
    """The session in a signed cookie: the person can read it, and nobody can change it.

    Data that is plain JSON is written as Starlette's `SessionMiddleware` and versions 1.x of this package write it, and
    theirs is read, given the same key. Other types, `set_expiry`, `absolute_timeout` and `compress` need more room than
    that format has: such a session is written in a form of our own.

    `secret_key`: one key, or a list of which the first signs and all verify. `max_age`: like the middleware's; the
    shorter one holds. `max_cookies`: over how many cookies a large session may be split.

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
        revocations: Store | StoreBackend | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        self.serializer: Serializer = serializer or PlainJson()
        self._keys = key_list(secret_key)
        self._compress = compress
        self._starlette = StarletteSigner(self._keys)
        super().__init__(max_age, max_cookies, revocations, clock)

    def _seal_for(self, cookie_name: str) -> None:
        self._signer = Signer(self._keys, cookie_name, self._compress)
        self._may_be_plain = (
            isinstance(self.serializer, PlainJson) and not self._compress and self.policy.absolute_timeout is None
        )

    def seal(self, record: Record) -> str:
        # As Starlette does, if that has room for what the record says.
        if (
            self._may_be_plain
            and record.payload.startswith(b"{")
            and record.lifetime is None
            and record.until is None
            and record.identity is None
            and not record.browser
        ):
            return self._starlette.seal(record)
        return self._signer.seal(record)

    def peek(self, token: str, now: int) -> Found | MissReason:
        opened = self._signer.open(token) if token.startswith(signed.PREFIX) else self._starlette.open(token)
        return Found(token, opened) if isinstance(opened, Record) else opened


class EncryptedCookieBackend(_SealedCookieBackend):
    """The session in an encrypted cookie: nobody but the server can read or change it. Needs `cryptography`.

    `secret_key`: one key, or a list of which the first encrypts; a key id in the cookie says which one opens it.
    `pad_to`: hide the length up to a multiple of so many bytes. `compress` is off because compressed length tells
    about content: leave it off if one person can write into what another one must not read.
    `accept_signed`: for moving over from signed cookies, the key(s) of those that are still read. They are written
    back encrypted. Without it, a cookie that is merely signed is no session.

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
        pad_to: int = 0,
        max_cookies: int = 1,
        accept_signed: Keys | None = None,
        revocations: Store | StoreBackend | None = None,
        clock: Clock = wall_clock,
    ) -> None:
        if not isinstance(pad_to, int) or not 0 <= pad_to <= 1024:
            raise ImproperlyConfigured("pad_to must be 0 to 1024 bytes.")
        self.serializer: Serializer = serializer or Msgpack()
        self._keys = key_list(secret_key)
        self._compress = compress
        self._pad_to = pad_to
        self._cookie_name = ""
        self._signed = None if accept_signed is None else CookieBackend(accept_signed, serializer=serializer)
        super().__init__(max_age, max_cookies, revocations, clock)

    def _seal_for(self, cookie_name: str) -> None:
        if cookie_name != self._cookie_name:  # to derive all keys takes more than a millisecond
            self._encrypter = Encrypter(self._keys, cookie_name, self._compress, self._pad_to)
            self._cookie_name = cookie_name
        self._old = self._signed.bind(cookie_name, self.policy) if self._signed else None

    def seal(self, record: Record) -> str:
        return self._encrypter.seal(record)

    def peek(self, token: str, now: int) -> Found | MissReason:
        if token.startswith(encrypted.PREFIX):
            opened = self._encrypter.open(token)
            return Found(token, opened) if isinstance(opened, Record) else opened
        # No downgrade: what is only signed could have been read and kept by anybody.
        return self._old.peek(token, now) if self._old else MissReason.MALFORMED
