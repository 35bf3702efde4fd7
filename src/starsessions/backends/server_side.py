"""Turn any `Store` into a `Backend`: the browser gets an id, and the store keeps the record.

The key in the store is a hash of the id, so that a leaked store reveals no ids. The application and the cookie are part
of the hash, so that an id is invalid in another cookie.

After a rotation, the old key holds a pointer to the new one, for a day at most. Within the grace period, if there is
one, a request with the old id reads and writes the new session. Afterwards the old id is invalid, but known to have
been valid: its use is a sign that a stolen id is being used along with the real one.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, ClassVar

from starsessions import stores
from starsessions.backends.base import Backend, Conflict, IdInUse, wall_clock
from starsessions.backends.clocks import comparing
from starsessions.backends.entries import Entries, Location, Pointer
from starsessions.backends.together import MOMENT, Move, Moved, Mover
from starsessions.backends.user_index import MAX_HOPS, Overtaken, PendingSignIn, UserIndex
from starsessions.core.binding import DEFAULT_BINDING, Binding, Purpose
from starsessions.core.durations import Clock
from starsessions.core.encoding import key_under
from starsessions.core.record import Found, Identity, MissReason, Policy, Record
from starsessions.core.serializer import Msgpack, Serializer
from starsessions.sealing.cipher import Cipher
from starsessions.sealing.keys import OptionalKeys, key_list
from starsessions.stores.base import Entry, Joined, Store

if TYPE_CHECKING:
    from starsessions.sealing.strength import KeyFact


class StoreBackend(Backend):
    """Sessions in a `Store`. Subclasses create the store themselves.

    Args:
        store: the store.
        encrypt_with: a key of 32 bytes or more that encrypts what is stored, bound to its place. A list: the first key
            encrypts, all decrypt, and a record moves to the first key when it is next written. Sessions that are not
            encrypted are ignored then. False: no encryption.
        serializer: converts the data to bytes. None: MessagePack.
        check_epoch: ask at each load of a signed-in session, and not only when it is written, whether all sessions of
            the user or of all users were ended. That is a second round trip, unless the store is `Joining`.
        clock: returns the seconds since 1970; for tests.

    >>> from starsessions.stores.memory import MemoryStore
    >>> backend = StoreBackend(MemoryStore(), encrypt_with="a key of 32 random bytes or more")
    """

    has_grace: ClassVar[bool] = True

    hashes_ids: ClassVar[bool] = True
    """Whether the store's keys are hashes of the ids. Otherwise they are the ids."""

    def __init__(
        self,
        store: Store,
        *,
        encrypt_with: OptionalKeys = False,
        serializer: Serializer | None = None,
        check_epoch: bool = False,
        clock: Clock = wall_clock,
    ) -> None:
        self.store = store
        self._checks_epoch = check_epoch
        self.serializer: Serializer = serializer or Msgpack()
        self.clock = clock
        self._keys = None if encrypt_with is False else key_list(encrypt_with, "encrypt_with", refuses_short=True)
        self._ciphers: dict[tuple[Binding, Purpose], Cipher] = {}
        self.user_index: UserIndex
        self.prepare(DEFAULT_BINDING, self.policy)

    @property
    def place(self) -> object:
        return self.store

    @property
    def stores(self) -> Sequence[Store]:
        return (self.store,)

    @property
    def key_facts(self) -> "Sequence[KeyFact]":
        from starsessions.sealing.strength import fact_of  # only the checks need it

        return [fact_of("encrypt_with", key) for key in self._keys or ()]

    def prepare(self, binding: Binding, policy: Policy) -> None:
        super().prepare(binding, policy)
        self._label = binding.label(Purpose.SESSION_KEY)
        entries = Entries(self._cipher_for(binding, Purpose.ENCRYPTED_RECORD), self.hashes_ids)
        self._read, self._value = entries.read, entries.value
        self.user_index = UserIndex(
            self.store, binding, Purpose.SESSION_LIST, entries, policy, checks_epoch=self._checks_epoch
        )
        self._mover = Mover(self.user_index, binding.label(Purpose.BEFORE_SIGN_IN))
        self._listing_store = self.user_index.store

    def sign_ins_for(self, binding: Binding, checks_epoch: bool = False) -> UserIndex:
        """Return the sign-ins of signed or encrypted cookies in this store. They are encrypted if the records are."""
        entries = Entries(self._cipher_for(binding, Purpose.ENCRYPTED_SIGN_IN))
        return UserIndex(self.store, binding, Purpose.COOKIE_LIST, entries, checks_epoch=checks_epoch)

    def _cipher_for(self, binding: Binding, purpose: Purpose) -> Cipher | None:
        if self._keys is None:
            return None
        cipher = self._ciphers.get((binding, purpose))
        if cipher is None:  # deriving all keys takes more than a millisecond
            cipher = self._ciphers[binding, purpose] = Cipher(self._keys, purpose, binding)
        return cipher

    def lifespan(self) -> AbstractAsyncContextManager[Any]:
        return comparing(self.store, self.clock)

    async def fetch(self, token: str, now: int) -> Found | MissReason:
        if self._checks_epoch:
            return await self._fetch_current(token, now)
        key = self.key_of(token)
        return await self._found(token, key, await self._listing_store.get(key, now=now), now, self._listing_store.get)

    async def _fetch_current(self, token: str, now: int) -> Found | MissReason:
        """Return the session if no later epoch refuses it. Whose epoch that is, only the entry says."""
        joined = Joined(None)

        async def get(key: str, *, now: int) -> Entry | None:
            nonlocal joined
            joined = await self.user_index.epochs.get_joined(key, now)
            return joined.entry

        key = self.key_of(token)
        read = await self._found(token, key, await get(key, now=now), now, get)
        identity = read.record.identity if isinstance(read, Found) else None
        if identity is None or await self.user_index.epochs.allow_joined(identity, joined, now):
            return read
        return MissReason.UNKNOWN

    async def fetch_to_end(self, token: str, now: int) -> Found | MissReason:
        key = self.key_of(token)

        async def get(key: str, *, now: int) -> Entry | None:
            return await self._listing_store.get(key, now=0)

        return await self._found(token, key, await get(key, now=now), now, get)

    async def create(
        self, record: Record, session_id: str | None, ends_at: int, now: int, pending: PendingSignIn | None = None
    ) -> Found:
        token = session_id or await self.new_id()
        key = self.key_of(token)
        try:
            version = await self._mover.put(key, record, ends_at, now, pending)
        except stores.Conflict as conflict:
            raise Conflict(await self._current(token, key, conflict.current, now)) from None
        return Found(token, record, Location(key, version))

    async def replace(self, found: Found, record: Record, ends_at: int, now: int) -> Found:
        location: Location = found.version
        key, version = location.key, location.version
        try:
            if record.identity is not None:
                version = await self.user_index.replace(key, record, version, ends_at, now)
            else:
                version = await self._listing_store.replace(
                    key, self._value(key, record), version, expires_at=ends_at, now=now
                )
        except stores.Conflict as conflict:
            raise Conflict(await self._current(found.token, key, conflict.current, now)) from None
        except Overtaken:
            raise Conflict(None) from None
        return Found(found.token, record, Location(key, version), found.is_alias)

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
        key = self.key_of(session_id)
        try:
            version = await self._mover.move(Move(found, key, record, ends_at, now, usable_until, pending))
        except stores.Conflict:
            raise IdInUse from None
        except Moved as moved:
            raise Conflict(await self._current(found.token, found.version.key, moved.current, now)) from None
        except Overtaken:
            if pending is not None:
                raise
            await self.delete(found, now)
            raise Conflict(None) from None
        return Found(session_id, record, Location(key, version))

    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        location: Location = found.version
        if not if_unchanged:
            await self.user_index.end(location.key, location.version)
            return
        try:
            await self.user_index.end_unchanged(location.key, location.version, now)
        except stores.Conflict as conflict:
            raise Conflict(await self._current(found.token, location.key, conflict.current, now)) from None

    async def refetch(self, found: Found, now: int) -> Found | MissReason:
        location: Location = found.version
        entry = await self._listing_store.get(location.key, now=now)
        key, entry = await self.user_index.moved_to(location.key, entry, now)
        read = self._read(found.token, key, entry, is_alias=found.is_alias or key != location.key)
        return MissReason.UNDECODABLE if isinstance(read, Pointer) else read

    async def data_before_sign_in(self, token: str, user_id: str | None, now: int) -> bytes | None:
        key = self.key_of(token)
        pointer = self._read(token, key, await self._listing_store.get(key, now=now))
        if not isinstance(pointer, Pointer):
            return None
        key = self._mover.key_before(pointer.to)
        before = self._read(token, key, await self._listing_store.get(key, now=now))
        payload = before.payload if isinstance(before, Pointer) else None
        if user_id is None or payload is None:
            return payload
        key, entry = await self.user_index.moved_to(pointer.to, await self._listing_store.get(pointer.to, now=now), now)
        successor = self._read("", key, entry)
        user = successor.record.identity if isinstance(successor, Found) else None
        return None if user is None or user.user_id != user_id else payload

    async def discard(self, token: str, now: int) -> None:
        await self._listing_store.delete(self.key_of(token), now=now)

    def key_of(self, session_id: str) -> str:
        """Return the store's key of the session with this id."""
        return key_under(self._label, session_id) if self.hashes_ids else session_id

    def sign_in_key(self, identity: Identity, session_id: str) -> str:
        return self.key_of(session_id)

    async def _found(
        self, token: str, key: str, entry: Entry | None, now: int, get: Callable[..., Awaitable[Entry | None]]
    ) -> Found | MissReason:
        """Return the session in an entry. If that is a pointer and in its grace period, follow it.

        Args:
            token: the id in the request.
            key: the key of the entry.
            entry: what the store has under this key.
            now: the current time.
            get: reads another entry.
        """
        read = self._read(token, key, entry)
        for _ in range(MAX_HOPS):
            if not isinstance(read, Pointer):
                return read
            if now >= read.until:
                return MissReason.ROTATED if now >= read.at + MOMENT else MissReason.JUST_ROTATED
            read = self._read(token, read.to, await get(read.to, now=now), is_alias=True)
        return MissReason.UNDECODABLE if isinstance(read, Pointer) else read

    async def _current(self, token: str, key: str, entry: Entry | None, now: int) -> Found | None:
        read = await self._found(token, key, entry, now, self._listing_store.get)
        return read if isinstance(read, Found) else None
