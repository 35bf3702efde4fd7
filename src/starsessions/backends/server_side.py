"""Turn any `Store` into a `Backend`: the browser gets an id, and the store keeps the record.

The key in the store is a hash of the id, so that a leaked store reveals no ids. The application and the cookie are part
of the hash, so that an id is invalid in another cookie.

After a rotation, the old key holds a pointer to the new one, for a day at most. Within the grace period, if there is
one, a request with the old id reads and writes the new session. Afterwards the old id is invalid, but known to have
been valid: its use is a sign that a stolen id is being used along with the real one.
"""

from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from starsessions import stores
from starsessions.backends.base import Backend, Conflict, IdInUse, wall_clock
from starsessions.backends.clocks import comparing
from starsessions.backends.entries import Entries, Location, Pointer
from starsessions.backends.user_index import MAX_HOPS, PENDING, Overtaken, PendingSignIn, UserIndex
from starsessions.core.binding import DEFAULT_BINDING, Binding, Purpose
from starsessions.core.durations import Clock
from starsessions.core.encoding import key_under
from starsessions.core.record import Found, Identity, MissReason, Policy, Record
from starsessions.core.serializer import Msgpack, Serializer
from starsessions.sealing.cipher import Cipher
from starsessions.sealing.keys import OptionalKeys, key_list
from starsessions.stores.base import Entry, Store, Version

if TYPE_CHECKING:
    from starsessions.sealing.strength import KeyFact

MOMENT = 30
"""Seconds after a rotation in which the old id is expected, because its requests were in flight."""

KNOWN_FOR = 24 * 60 * 60
"""Seconds for which a replaced id is remembered after its grace period."""


class StoreBackend(Backend):
    """Sessions in a `Store`. Subclasses create the store themselves.

    Args:
        store: the store.
        encrypt_with: a key of 32 bytes or more that encrypts what is stored, bound to its place. A list: the first key
            encrypts, all decrypt, and a record moves to the first key when it is next written. Sessions that are not
            encrypted are ignored then. False: no encryption.
        serializer: converts the data to bytes. None: MessagePack.
        check_epoch: ask at each load of a signed-in session, and not only when it is written, whether all sessions of
            the user or of all users were ended. That is a second round trip.
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
        self._label_before = binding.label(Purpose.BEFORE_SIGN_IN)
        entries = Entries(self._cipher_for(binding, Purpose.ENCRYPTED_RECORD), self.hashes_ids)
        self._read, self._value = entries.read, entries.value
        self.user_index = UserIndex(
            self.store, binding, Purpose.SESSION_LIST, entries, policy, checks_epoch=self._checks_epoch
        )
        self._store = self.user_index.store

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
        key = self.key_of(token)
        read = self._read(token, key, await self._store.get(key, now=now))
        if isinstance(read, Pointer):
            read = await self._followed(read, token, now)
        return await self._checked(read, now) if self._checks_epoch else read

    async def _checked(self, read: Found | MissReason, now: int) -> Found | MissReason:
        """Return the session if no later epoch refuses it. Whose epoch that is, only the record says."""
        identity = read.record.identity if isinstance(read, Found) else None
        if identity is None or await self.user_index.is_current(identity, now):
            return read
        return MissReason.UNKNOWN

    async def fetch_to_end(self, token: str, now: int) -> Found | MissReason:
        key = self.key_of(token)
        read = self._read(token, key, await self._store.get(key, now=0))
        return await self._followed(read, token, now) if isinstance(read, Pointer) else read

    async def create(
        self, record: Record, session_id: str | None, ends_at: int, now: int, pending: PendingSignIn | None = None
    ) -> Found:
        token = session_id or await self.new_id()
        key = self.key_of(token)
        try:
            version = await self._put(key, record, ends_at, now, pending)
        except stores.Conflict as conflict:
            raise Conflict(await self._current(token, key, conflict.current, now)) from None
        return Found(token, record, Location(key, version))

    async def _put(self, key: str, record: Record, ends_at: int, now: int, pending: PendingSignIn | None) -> Version:
        """Store a record under a key where there is none, or the pending entry of its sign-in."""
        if pending is not None:
            return await self.user_index.complete(pending, record, ends_at, now)
        if record.identity is not None:
            return await self.user_index.create(key, record, ends_at, now)
        return await self._store.create(key, self._value(key, record), expires_at=ends_at, now=now)

    async def replace(self, found: Found, record: Record, ends_at: int, now: int) -> Found:
        place: Location = found.version
        key, version = place.key, place.version
        try:
            if record.identity is not None:
                version = await self.user_index.replace(key, record, version, ends_at, now)
            else:
                version = await self._store.replace(key, self._value(key, record), version, expires_at=ends_at, now=now)
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
        place: Location = found.version
        new_key, index = self.key_of(session_id), self.user_index
        # The new entry comes first: no browser knows its id yet, and if this is interrupted the old one is intact. The
        # new one of a user then stays in the listing, where nothing ends it with the old one, so it lives for a minute.
        is_brief = pending is None and record.identity is not None
        first_end = min(ends_at, now + PENDING) if is_brief else ends_at
        work: list[Coroutine[Any, Any, Any]] = [self._put(new_key, record, first_end, now, pending)]
        if pending is not None:
            work.append(self._keep_data_before(new_key, found, now))
        try:
            version, *_ = await index.at_once(*work)
        except stores.Conflict:
            raise IdInUse from None
        except Overtaken:
            if pending is not None:
                raise
            await self.delete(found, now)
            raise Conflict(None) from None
        try:
            pointer = self._value(place.key, Pointer(new_key, now, usable_until))
            # Longer than any request is in flight, but not so long that pointers outnumber the sessions.
            known_until = min(ends_at, max(now, usable_until) + KNOWN_FOR)
            expires_at = max(known_until, usable_until)
            await self._store.replace(place.key, pointer, place.version, expires_at=expires_at, now=now)
        except stores.Conflict as conflict:
            if pending is not None:
                await index.take_back(pending, now)
                await index.delete(key_under(self._label_before, new_key))
            else:
                await index.delete(new_key, version)
            raise Conflict(await self._current(found.token, place.key, conflict.current, now)) from None
        await index.announce(place.key)
        if first_end < ends_at:
            version = await self._prolong(new_key, record, version, ends_at, now)
        return Found(session_id, record, Location(new_key, version))

    async def _prolong(self, key: str, record: Record, version: Version, ends_at: int, now: int) -> Version:
        """Let the new entry of a rotation live as long as its session."""
        value, owner = self._value(key, record), self.user_index.owner_of(record)
        try:
            return await self._store.replace(key, value, version, expires_at=ends_at, now=now, owner=owner)
        except stores.Conflict as conflict:
            current = await self._current("", key, conflict.current, now)
            if current is None:
                raise Conflict(None) from None
            # A request with the old id has written it, in the grace period, and prolonged it. The next save merges.
            return version

    async def _keep_data_before(self, new_key: str, found: Found, now: int) -> None:
        """Keep the data that the session had before a sign-in for a moment, for the same form if it is sent twice."""
        key = key_under(self._label_before, new_key)
        value = self._value(key, Pointer(new_key, now, 0, found.record.payload))
        with suppress(stores.Conflict):  # an earlier attempt of this request has stored it
            await self._store.create(key, value, expires_at=now + MOMENT, now=now)

    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        place: Location = found.version
        if not if_unchanged:
            await self.user_index.end(place.key, place.version)
            return
        try:
            await self._store.delete(place.key, place.version, now=now)
        except stores.Conflict as conflict:
            raise Conflict(await self._current(found.token, place.key, conflict.current, now)) from None
        await self.user_index.announce(place.key)

    async def refetch(self, found: Found, now: int) -> Found | MissReason:
        place: Location = found.version
        key, entry = await self.user_index.moved_to(place.key, await self._store.get(place.key, now=now), now)
        read = self._read(found.token, key, entry, is_alias=found.is_alias or key != place.key)
        return MissReason.UNDECODABLE if isinstance(read, Pointer) else read

    async def data_before_sign_in(self, token: str, user_id: str | None, now: int) -> bytes | None:
        key = self.key_of(token)
        pointer = self._read(token, key, await self._store.get(key, now=now))
        if not isinstance(pointer, Pointer):
            return None
        key = key_under(self._label_before, pointer.to)
        before = self._read(token, key, await self._store.get(key, now=now))
        payload = before.payload if isinstance(before, Pointer) else None
        if user_id is None or payload is None:
            return payload
        key, entry = await self.user_index.moved_to(pointer.to, await self._store.get(pointer.to, now=now), now)
        successor = self._read("", key, entry)
        user = successor.record.identity if isinstance(successor, Found) else None
        return None if user is None or user.user_id != user_id else payload

    async def discard(self, token: str, now: int) -> None:
        await self._store.delete(self.key_of(token), now=now)

    def key_of(self, session_id: str) -> str:
        """Return the store's key of the session with this id."""
        return key_under(self._label, session_id) if self.hashes_ids else session_id

    def sign_in_key(self, identity: Identity, session_id: str) -> str:
        return self.key_of(session_id)

    async def _followed(self, moved: Pointer, token: str, now: int) -> Found | MissReason:
        """Follow a pointer for a request with the old id, within the grace period."""
        for _ in range(MAX_HOPS):
            if now >= moved.until:
                return MissReason.ROTATED if now >= moved.at + MOMENT else MissReason.JUST_ROTATED
            read = self._read(token, moved.to, await self._store.get(moved.to, now=now), is_alias=True)
            if not isinstance(read, Pointer):
                return read
            moved = read
        return MissReason.UNDECODABLE

    async def _current(self, token: str, key: str, entry: Entry | None, now: int) -> Found | None:
        read = self._read(token, key, entry)
        if isinstance(read, Pointer):
            read = await self._followed(read, token, now)
        return read if isinstance(read, Found) else None
