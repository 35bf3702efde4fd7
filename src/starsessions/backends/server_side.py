"""Turn any `Store` into a `Backend`: the browser gets an id, and the store keeps the record.

The key in the store is a hash of the id, so that a leaked store reveals no ids. The application and the cookie are part
of the hash, so that an id is invalid in another cookie. Each record begins with the first characters of its key, so
that a misdirected reply (a connection out of sync, a record copied to another key) is rejected.

After a rotation, the old key holds a pointer to the new one, for a day at most. Within the grace period, if there is
one, a request with the old id reads and writes the new session. Afterwards the old id is invalid, but known to have
been valid: its use is a sign that a stolen id is being used along with the real one.
"""

from collections.abc import Awaitable, Collection
from typing import ClassVar

from msgspec.msgpack import Decoder, Encoder

from starsessions import stores
from starsessions.backends.announcements import announcements_of
from starsessions.backends.base import Backend, Conflict, IdInUse, wall_clock
from starsessions.backends.user_index import IndexedSession, UserIndex
from starsessions.core.binding import DEFAULT_BINDING, Binding, Purpose
from starsessions.core.durations import Clock
from starsessions.core.encoding import key_under
from starsessions.core.record import Found, Instant, Key, MissReason, Opaque, Policy, Record, why_expired
from starsessions.core.serializer import Msgpack, Serializer
from starsessions.sealing.cipher import Cipher
from starsessions.sealing.keys import OptionalKeys, key_list
from starsessions.stores.base import Entry, Store, Version

MAX_HOPS = 16
"""The number of pointers that are followed. More rotations than that in one grace period are a loop or an attack."""

MOMENT = 30
"""Seconds after a rotation in which the old id is expected, because its requests were in flight."""

KNOWN_FOR = 24 * 60 * 60
"""Seconds for which a replaced id is remembered after its grace period."""

MAX_TRIES = 100
"""Conflicts after which a sign-out deletes the session unconditionally."""

_BEFORE = "~"
"""Ends the key of the data that a session had before its sign-in, for the same form if it is sent twice."""

_OWNER = 8  # characters of the key, 48 bits: enough against accidents; `encrypt_with` protects against attackers


class Pointer(Opaque, frozen=True):
    """The value stored under the old key of a rotated session: the key of its successor.

    It is a map in MessagePack and a record is an array, so that the first byte distinguishes them.
    """

    to: Key
    at: Instant
    """The time of the rotation, in seconds since 1970."""
    until: Instant
    """The time until which the old id still works; 0: it stopped working at once."""
    payload: bytes | None = None
    """The data of the session before a sign-in, under a key of its own. None: this is the pointer itself."""


class Location(Opaque, frozen=True):
    """The `version` of a session found in a store: its key, and the store's own version."""

    key: str
    version: Version


_encode = Encoder().encode
_decode_record = Decoder(Record).decode
_decode_pointer = Decoder(Pointer).decode


class StoreBackend(Backend):
    """Sessions in a `Store`. Subclasses create the store themselves.

    Args:
        store: the store.
        encrypt_with: a key of 32 bytes or more that encrypts what is stored, bound to its place. A list: the first key
            encrypts, all decrypt, and a record moves to the first key when it is next written. Sessions that are not
            encrypted are ignored then. False: no encryption.
        serializer: converts the data to bytes. None: MessagePack.
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
        clock: Clock = wall_clock,
    ) -> None:
        self.store = store
        self.serializer: Serializer = serializer or Msgpack()
        self.clock = clock
        self._keys = None if encrypt_with is False else key_list(encrypt_with, "encrypt_with", refuses_short=True)
        self._ciphers: dict[tuple[Binding, Purpose], Cipher] = {}
        self.user_index: UserIndex
        self.prepare(DEFAULT_BINDING, self.policy)

    @property
    def place(self) -> object:
        return self.store

    def prepare(self, binding: Binding, policy: Policy) -> None:
        super().prepare(binding, policy)
        self.announcements = announcements_of(self.store)
        self._label = binding.label(Purpose.SESSION_KEY)
        self._cipher = self._cipher_for(binding, Purpose.ENCRYPTED_RECORD)
        self._label_of_users = binding.label(Purpose.SESSION_LIST)
        self.user_index = self.index_for(binding, Purpose.SESSION_LIST)

    def index_for(self, binding: Binding, purpose: Purpose) -> UserIndex:
        """Return the lists of users' sessions in this store. They are encrypted if the records are."""
        return UserIndex(self.store, binding, purpose, self._cipher_for(binding, Purpose.ENCRYPTED_LIST))

    def _cipher_for(self, binding: Binding, purpose: Purpose) -> Cipher | None:
        if self._keys is None:
            return None
        cipher = self._ciphers.get((binding, purpose))
        if cipher is None:  # deriving all keys takes more than a millisecond
            cipher = self._ciphers[binding, purpose] = Cipher(self._keys, purpose, binding)
        return cipher

    async def fetch(self, token: str, now: int) -> Found | MissReason:
        key = self.key_of(token)
        read = self._read(token, key, await self.store.get(key, now=now))
        return await self._followed(read, token, now) if isinstance(read, Pointer) else read

    async def create(self, record: Record, session_id: str | None, ends_at: int, now: int) -> Found:
        token = session_id or await self.new_id()
        key = self.key_of(token)
        if record.identity is not None:
            record = await self.user_index.keep_indexed(record, key, ends_at, now)
        write = self.store.create(key, self._value(key, record), expires_at=ends_at, now=now)
        return await self._written(write, token, key, record, now)

    async def replace(self, found: Found, record: Record, ends_at: int, now: int) -> Found:
        place: Location = found.version
        if record.identity is not None:
            record = await self.user_index.keep_indexed(record, place.key, ends_at, now)
        value = self._value(place.key, record)
        write = self.store.replace(place.key, value, place.version, expires_at=ends_at, now=now)
        return await self._written(write, found.token, place.key, record, now, found.is_alias)

    async def rotate(
        self, found: Found, record: Record, session_id: str, ends_at: int, now: int, usable_until: int = 0
    ) -> Found:
        place: Location = found.version
        new_key = self.key_of(session_id)
        old, identity = found.record.identity, record.identity
        stays = old is not None and identity is not None and old.handle == identity.handle
        if identity is not None:  # a sign-in has listed the session under its new key
            record = await self.user_index.keep_indexed(record, place.key if stays else new_key, ends_at, now)
        # The new entry comes first: no browser knows its id yet, and if this is interrupted the old one is intact.
        before = new_key + _BEFORE
        try:
            write = self.store.create(new_key, self._value(new_key, record), expires_at=ends_at, now=now)
            renewed = await self._written(write, session_id, new_key, record, now)
            if identity is not None and not stays:
                kept = self._value(before, Pointer(new_key, now, 0, found.record.payload))
                await self.store.create(before, kept, expires_at=now + MOMENT, now=now)
        except (Conflict, stores.Conflict):
            raise IdInUse from None
        try:
            pointer = self._value(place.key, Pointer(new_key, now, usable_until))
            # Longer than any request is in flight, but not so long that pointers outnumber the sessions.
            known_until = min(ends_at, max(now, usable_until) + KNOWN_FOR)
            expires_at = max(known_until, usable_until)
            await self.store.replace(place.key, pointer, place.version, expires_at=expires_at, now=now)
        except stores.Conflict as conflict:
            for key in (new_key, before):
                await self.store.delete(key, now=now)
            raise Conflict(await self._current(found.token, place.key, conflict.current, now)) from None
        await self.announce(place.key)
        # The list is updated last: until then it names the old key, and the pointer there leads on.
        if old is not None and stays:
            await self.user_index.moved(old, new_key, now)
        elif old is not None:
            await self.user_index.forget(old, now)
        return renewed

    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        place: Location = found.version
        key, version = place.key, place.version
        for _ in range(MAX_TRIES):
            try:
                await self.store.delete(key, version, now=now)
                await self.announce(key)
                return
            except stores.Conflict as conflict:
                entry = conflict.current
                if if_unchanged:
                    raise Conflict(await self._current(found.token, key, entry, now)) from None
            # Another request has changed or rotated the session. After a rotation the new id is ended, grace or not.
            key, entry = await self._moved_to(key, entry, now)
            if entry is None:
                return
            version = entry.version
        await self.store.delete(key, now=now)
        await self.announce(key)

    def topics_of(self, found: Found) -> Collection[str]:
        key, identity = found.version.key, found.record.identity
        return (key,) if identity is None else (key, key_under(self._label_of_users, identity.user_id))

    async def look_up(self, listed: IndexedSession, now: int) -> Found | None:
        key, entry = await self._moved_to(listed.key, await self.store.get(listed.key, now=now), now)
        read = self._read("", key, entry)
        if not isinstance(read, Found) or why_expired(read.record, self.policy, now):
            return None
        identity = read.record.identity
        return read if identity is not None and identity.handle == listed.handle else None

    async def refetch(self, found: Found, now: int) -> Found | MissReason:
        place: Location = found.version
        key, entry = await self._moved_to(place.key, await self.store.get(place.key, now=now), now)
        read = self._read(found.token, key, entry, is_alias=found.is_alias or key != place.key)
        return MissReason.UNDECODABLE if isinstance(read, Pointer) else read

    async def data_before_sign_in(self, token: str, user_id: str | None, now: int) -> bytes | None:
        key = self.key_of(token)
        pointer = self._read(token, key, await self.store.get(key, now=now))
        if not isinstance(pointer, Pointer):
            return None
        key = pointer.to + _BEFORE
        before = self._read(token, key, await self.store.get(key, now=now))
        payload = before.payload if isinstance(before, Pointer) else None
        if user_id is None or payload is None:
            return payload
        key, entry = await self._moved_to(pointer.to, await self.store.get(pointer.to, now=now), now)
        successor = self._read("", key, entry)
        user = successor.record.identity if isinstance(successor, Found) else None
        return None if user is None or user.user_id != user_id else payload

    async def revoke(self, listed: IndexedSession, now: int) -> None:
        found = await self.look_up(listed, now)
        if found is not None:
            await self.delete(found, now)

    async def discard(self, token: str, now: int) -> None:
        await self.store.delete(self.key_of(token), now=now)

    def key_of(self, session_id: str) -> str:
        return key_under(self._label, session_id) if self.hashes_ids else session_id

    def _value(self, key: str, content: Record | Pointer) -> bytes:
        body = _encode(content)
        if self._cipher is not None:
            body = self._cipher.seal(body, key.encode())
        return _owner(key) + body if self.hashes_ids else body

    def _read(self, token: str, key: str, entry: Entry | None, is_alias: bool = False) -> Found | Pointer | MissReason:
        """Decode an entry of the store: a session, a pointer, or the reason why it is neither."""
        if entry is None:
            return MissReason.UNKNOWN
        body = entry.value
        if self.hashes_ids:
            owner = _owner(key)
            if not body.startswith(owner):
                return MissReason.UNDECODABLE
            body = body[len(owner) :]
        if self._cipher is not None:
            opened = self._cipher.open(body, key.encode())
            if opened is None:
                return MissReason.BAD_SIGNATURE
            body = opened
        try:
            if body[0] & 0xF0 == 0x80:
                return _decode_pointer(body)
            return Found(token, _decode_record(body), Location(key, entry.version), is_alias)
        except Exception:  # garbage under this key, or a record of another release
            return MissReason.UNDECODABLE

    async def _moved_to(self, key: str, entry: Entry | None, now: int) -> tuple[str, Entry | None]:
        """Follow pointers from this entry to the last key and its entry, regardless of grace periods."""
        for _ in range(MAX_HOPS):
            read = self._read("", key, entry)
            if not isinstance(read, Pointer):
                break
            key, entry = read.to, await self.store.get(read.to, now=now)
        return key, entry

    async def _followed(self, moved: Pointer, token: str, now: int) -> Found | MissReason:
        """Follow a pointer for a request with the old id, within the grace period."""
        for _ in range(MAX_HOPS):
            if now >= moved.until:
                return MissReason.ROTATED if now >= moved.at + MOMENT else MissReason.JUST_ROTATED
            read = self._read(token, moved.to, await self.store.get(moved.to, now=now), is_alias=True)
            if not isinstance(read, Pointer):
                return read
            moved = read
        return MissReason.UNDECODABLE

    async def _current(self, token: str, key: str, entry: Entry | None, now: int) -> Found | None:
        read = self._read(token, key, entry)
        if isinstance(read, Pointer):
            read = await self._followed(read, token, now)
        return read if isinstance(read, Found) else None

    async def _written(
        self, write: Awaitable[Version], token: str, key: str, record: Record, now: int, is_alias: bool = False
    ) -> Found:
        try:
            version = await write
        except stores.Conflict as conflict:
            raise Conflict(await self._current(token, key, conflict.current, now)) from None
        return Found(token, record, Location(key, version), is_alias)


def _owner(key: str) -> bytes:
    return key[:_OWNER].encode("ascii")
