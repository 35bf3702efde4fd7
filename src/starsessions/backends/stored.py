"""Any `Store` becomes a `Backend`: the browser holds an id, the store holds the record."""

from typing import Self

from msgspec.msgpack import Decoder, Encoder

from starsessions.backends.base import Backend, Clock, Conflict, Found, wall_clock
from starsessions.backends.store import Entry, Refused, Store
from starsessions.core.record import Policy, Record, WhyNew
from starsessions.core.serializer import Msgpack, Serializer
from starsessions.exceptions import SessionError

_encode = Encoder().encode
_decode = Decoder(Record).decode


class StoredBackend(Backend):
    """Sessions in a `Store`. What a subclass adds is how its store is made."""

    def __init__(self, store: Store, serializer: Serializer | None = None, clock: Clock = wall_clock) -> None:
        self.store = store
        self.serializer: Serializer = serializer or Msgpack()
        self.clock = clock

    def bind(self, cookie_name: str, policy: Policy) -> Self:
        self.policy = policy  # so that what is done by hand does not end a session early, nor overlook one
        return self

    async def fetch(self, token: str, now: int) -> Found | WhyNew:
        entry = await self.store.get(token, now)
        return as_found(token, entry)

    async def create(self, record: Record, session_id: str | None, ends_at: int, now: int) -> Found:
        token = session_id or await self.new_id()
        return await self._put(token, record, ends_at, None, now)

    async def replace(self, found: Found, record: Record, ends_at: int, now: int) -> Found:
        return await self._put(found.token, record, ends_at, found.version, now)

    async def rotate(self, found: Found, record: Record, session_id: str, ends_at: int, now: int) -> Found:
        # The new entry first: nobody knows its id yet, and if we are interrupted the old one is still whole.
        try:
            renewed = await self._put(session_id, record, ends_at, None, now)
        except Conflict:
            raise SessionError("generate_id() gave an id that is in use.") from None
        try:
            await self.delete(found, now, if_unchanged=True)
        except Conflict:
            await self.store.delete(session_id, None, now)
            raise
        return renewed

    async def delete(self, found: Found, now: int, if_unchanged: bool = False) -> None:
        try:
            await self.store.delete(found.token, found.version if if_unchanged else None, now)
        except Refused as refused:
            raise Conflict(_current(found.token, refused.current)) from None

    async def _put(self, token: str, record: Record, ends_at: int, expect: object, now: int) -> Found:
        try:
            version = await self.store.put(token, _encode(record), ends_at, expect, now)
        except Refused as refused:
            raise Conflict(_current(token, refused.current)) from None
        return Found(token, record, version)


def _current(token: str, entry: Entry | None) -> Found | None:
    found = as_found(token, entry)
    return found if isinstance(found, Found) else None


def as_found(token: str, entry: Entry | None) -> Found | WhyNew:
    """What a store's answer means to the session."""
    if entry is None:
        return WhyNew.UNKNOWN
    try:
        return Found(token, _decode(entry.value), entry.version)
    except Exception:  # garbage under our key, or a record of another release
        return WhyNew.UNDECODABLE
