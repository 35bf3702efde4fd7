"""Backends without a server side: the session travels in the cookie, signed or encrypted."""

from abc import abstractmethod
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from typing import Any, ClassVar

from msgspec.structs import replace

from starsessions.backends.base import Backend, Conflict, wall_clock
from starsessions.backends.server_side import StoreBackend
from starsessions.backends.user_index import IndexedSession, UserIndex
from starsessions.core.binding import DEFAULT_BINDING, Binding, Purpose
from starsessions.core.chunking import MAX_PARTS
from starsessions.core.durations import Clock, Duration, seconds
from starsessions.core.record import Found, MissReason, Policy, Record
from starsessions.core.serializer import Msgpack, PlainJson, Serializer
from starsessions.exceptions import ImproperlyConfigured
from starsessions.sealing import encrypted, signed
from starsessions.sealing.encrypted import Encrypter
from starsessions.sealing.keys import Keys, key_list
from starsessions.sealing.signed import Signer, StarletteSigner
from starsessions.stores.base import WHAT_A_STORE_IS, Store, is_store


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
        if not (revocations is None or isinstance(revocations, StoreBackend) or is_store(revocations)):
            raise ImproperlyConfigured(f"revocations must be a store, or a backend on one. {WHAT_A_STORE_IS}")
        self._revocations = revocations
        self.user_index: UserIndex | None = None
        self.prepare(DEFAULT_BINDING, Policy() if self.max_age is None else Policy(self.max_age))

    def prepare(self, binding: Binding, policy: Policy) -> None:
        super().prepare(binding, policy)
        if isinstance(self._revocations, StoreBackend):  # which may encrypt what it stores
            self.user_index = self._revocations.index_for(binding, Purpose.COOKIE_LIST)
        elif self._revocations is not None:
            self.user_index = UserIndex(self._revocations, binding, Purpose.COOKIE_LIST)
        self._seal_for(binding)

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        return self._revocations.lifespan() if isinstance(self._revocations, StoreBackend) else super().lifespan()

    @abstractmethod
    def _seal_for(self, binding: Binding) -> None:
        """Prepare what signs or encrypts, for this binding and the policy."""

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
            record = await self.user_index.keep_indexed(record, "", ends_at, now)
        return Found(self.seal(record), record)

    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        """End the session of a signed-in user, if there are `revocations`: the cookie and every copy of it are invalid.

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
    """The session in a signed cookie: users can read it, and cannot change it.

    Data that is plain JSON is written as Starlette's `SessionMiddleware` and versions 1.x of this package write it, and
    theirs is read, given the same key. Other types, `set_expiry` and a sign-in need more room than that format has:
    such a session is written in a format of our own, which is bound to the application and the cookie's name.

    Starlette's format is bound to nothing but the key. So it is neither written nor read where a setting asks for more:
    `absolute_timeout`, `app_name`, `compress`, `revocations` or a `serializer`.

    Args:
        secret_key: one key, or a list of which the first signs and all verify.
        max_age: like the middleware's; the shorter one applies.
        serializer: what turns the data into bytes.
        compress: compress the data if that makes it shorter.
        max_cookies: into how many cookies a large session may be split.
        starlette_format: False never reads or writes Starlette's format.
        revocations: a store that knows which sign-ins are valid, so that one can be revoked.
        clock: seconds since 1970, for tests.

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
        clock: Clock = wall_clock,
    ) -> None:
        self.serializer: Serializer = serializer or PlainJson()
        self._starlette_format = starlette_format
        self._keys = key_list(secret_key)
        self._compress = compress
        self._starlette = StarletteSigner(self._keys)
        super().__init__(max_age, max_cookies, revocations, clock)

    def _seal_for(self, binding: Binding) -> None:
        self._signer = Signer(self._keys, binding, self._compress)
        self._may_be_plain = self._starlette_format and not self._asks_for_more(binding)

    def _asks_for_more(self, binding: Binding) -> bool:
        """Whether a setting promises what Starlette's format cannot keep, written or read."""
        return (
            not isinstance(self.serializer, PlainJson)
            or self._compress
            or self.policy.absolute_timeout is not None
            or self.user_index is not None
            or binding.app_name != binding.cookie_name
        )

    @property
    def starlette_keys(self) -> Collection[bytes]:  # type: ignore[override]
        return self._starlette.key_digests if self._may_be_plain else ()

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
        if token.startswith(signed.PREFIX):
            opened = self._signer.open(token)
        elif self._may_be_plain:
            opened = self._starlette.open(token)
        else:
            return MissReason.MALFORMED
        return Found(token, opened) if isinstance(opened, Record) else opened


class _AcceptedCookies(CookieBackend):
    """Signed cookies that are still read: a setting that names them asks for those of Starlette, too."""

    def _asks_for_more(self, binding: Binding) -> bool:
        return False


class EncryptedCookieBackend(_SealedCookieBackend):
    """The session in an encrypted cookie: only the server can read or change it. Needs `cryptography`.

    Args:
        secret_key: one key, or a list of which the first encrypts; a key id in the cookie says which one opens it.
        max_age: like the middleware's; the shorter one applies.
        serializer: what turns the data into bytes.
        compress: compress the data if that makes it shorter. It is off because the compressed length tells about the
            content: leave it off if one person can write into what another one must not read.
        max_cookies: into how many cookies a large session may be split.
        accept_signed: to migrate from signed cookies, the key or keys of those that are still read, in Starlette's
            format, too. They are written back encrypted. Without it, a cookie that is only signed is no session.
        revocations: a store that knows which sign-ins are valid, so that one can be revoked.
        clock: seconds since 1970, for tests.

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
        clock: Clock = wall_clock,
    ) -> None:
        self.serializer: Serializer = serializer or Msgpack()
        self._keys = key_list(secret_key)
        self._compress = compress
        self._encrypts_for: Binding | None = None
        self._signed = None if accept_signed is None else _AcceptedCookies(accept_signed, serializer=serializer)
        super().__init__(max_age, max_cookies, revocations, clock)

    def _seal_for(self, binding: Binding) -> None:
        if binding != self._encrypts_for:  # to derive all keys takes more than a millisecond
            self._encrypter = Encrypter(self._keys, binding, self._compress)
            self._encrypts_for = binding
        self._old = None if self._signed is None else self._signed.bind(binding, self.policy)

    @property
    def starlette_keys(self) -> Collection[bytes]:  # type: ignore[override]
        return self._old.starlette_keys if self._old else ()

    def seal(self, record: Record) -> str:
        return self._encrypter.seal(record)

    def peek(self, token: str, now: int) -> Found | MissReason:
        if token.startswith(encrypted.PREFIX):
            opened = self._encrypter.open(token)
            return Found(token, opened) if isinstance(opened, Record) else opened
        # No downgrade: what is only signed could have been read and kept by anybody.
        return self._old.peek(token, now) if self._old else MissReason.MALFORMED
