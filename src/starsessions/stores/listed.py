"""Give any store of four methods the power `Indexing`: a list for each owner, in one entry of the same store.

An entry that has an owner says so in its value, and that is the truth: a place on a list only says where to look. A
place is written before its entry, and taken off after it. So whatever is interrupted, an entry that exists is listed,
and a place without an entry shows nothing. Each place has a random mark, which its entry repeats. So no one takes off
the place of an entry that was created under the same key meanwhile.

A list is read and changed whatever time it is for this worker, so that its clock hides or removes no place.
"""

from collections.abc import Callable, Coroutine
from functools import partial
from inspect import Parameter, signature
from itertools import islice
from operator import itemgetter
from os import urandom
from typing import Annotated, Any, NamedTuple, TypeGuard
from weakref import WeakValueDictionary

from msgspec import Meta, MsgspecError
from msgspec.msgpack import Decoder, Encoder

from starsessions.core.binding import UNBOUND, Purpose
from starsessions.core.encoding import is_valid_id, key_under
from starsessions.core.record import Key
from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import Conflict, Cursor, Entry, Indexing, Owner, Page, Scanning, ScanPage, Store, Version

MOST_LISTED = 1000
"""The entries of one owner that are listed at most. One more ends the oldest."""

MOST_LOOKS = 16
"""The places that one write checks at most, to forget those without an entry."""

MOST_AT_ONCE = 100
"""The changes of concurrent requests that one write of a list takes along."""

MOST_READS = 8
"""The times that one page is read, if other requests change the list meanwhile."""

MAX_TRIES = 1000

_LABEL = UNBOUND.label(Purpose.OWNER_LIST)

_SIGN = b"\xc1"  # the one byte that MessagePack never writes begins a value that has an owner


class _Tag(NamedTuple):
    """What the value of an entry says of its owner."""

    owner: Owner
    mark: bytes


_Time = Annotated[int, Meta(ge=-(2**53), le=2**53)]
"""A time that every database can store."""


class _Place(NamedTuple):
    """Where an entry is on the list of its owner, and its mark. The list has for each place until when it is kept."""

    since: _Time
    key: Key
    mark: bytes


class _Version(NamedTuple):
    """A version of the store below, and the owner of the entry that has it."""

    of_store: Version
    tag: _Tag | None


_List = dict[_Place, int]
"""The places of one owner, and when each may be forgotten: its entry has expired by then, or has extended it."""

_Changes = dict[_Place, int | None]
"""Until when to keep a place; None: take it off."""

_encode = Encoder().encode
_decode_value = Decoder(tuple[_Tag | None, bytes]).decode
_decode_list = Decoder(tuple[tuple[_Time, Key, bytes, _Time], ...]).decode


def is_indexing(store: object) -> TypeGuard[Indexing]:
    """Return whether a store lists its entries by their owner: it has all methods, and `create` takes the owner.

    >>> from starsessions.stores.memory import MemoryStore
    >>> is_indexing(MemoryStore()), is_indexing(ListedStore(MemoryStore())), is_indexing(None)
    (True, True, False)
    """
    if not isinstance(store, Indexing):
        return False
    arguments = signature(store.create).parameters
    return "owner" in arguments or any(one.kind is Parameter.VAR_KEYWORD for one in arguments.values())


def as_indexing(store: Store | Indexing) -> Indexing:
    """Return the store itself if it lists its entries by their owner, and a `ListedStore` of it if it does not.

    >>> from starsessions.stores.memory import MemoryStore
    >>> store = MemoryStore()
    >>> as_indexing(store) is store
    True
    """
    return store if is_indexing(store) else ListedStore(store)


class ListedStore:
    """A store that lists the entries of an owner, made of a store of four methods.

    A list is stored under a hash of the name of its owner. It holds `MOST_LISTED` places. When it is full, places
    without an entry are forgotten, and if there is none among those that were checked, the oldest entry is deleted.

    Args:
        store: where the entries and the lists are stored.

    >>> import anyio
    >>> from starsessions.stores.memory import MemoryStore
    >>> async def main():
    ...     store = ListedStore(MemoryStore())
    ...     await store.create("key", b"value", expires_at=200, now=100, owner=Owner("alice", since=100))
    ...     return await store.list_owned("alice", limit=50, now=100)
    >>> anyio.run(main)
    Page(entries=[('key', <Entry>)], after=None)
    """

    scan: Callable[..., Coroutine[Any, Any, ScanPage]]
    """As in `Scanning`, if the store below has that power. The lists are no entries."""

    def __init__(self, store: Store) -> None:
        self._store = store
        if isinstance(store, Scanning):
            self.scan = partial(_scan, store)
        self._lists: WeakValueDictionary[str, _OwnerList] = WeakValueDictionary()
        """By their keys: those that requests of this process are changing."""

    async def get(self, key: str, *, now: int) -> Entry | None:
        return _shown(await self._store.get(key, now=now))

    async def create(self, key: str, value: bytes, *, expires_at: int, now: int, owner: Owner | None = None) -> Version:
        tag = None if owner is None else await self._add_place(owner, key, urandom(4), expires_at, now)
        try:
            version = await self._store.create(key, _tagged(value, tag), expires_at=expires_at, now=now)
        except Conflict as conflict:  # a place without an entry shows nothing
            raise Conflict(_shown(conflict.current)) from None
        return _Version(version, tag)

    async def replace(
        self, key: str, value: bytes, version: Version, *, expires_at: int, now: int, owner: Owner | None = None
    ) -> Version:
        former: _Tag | None = version.tag
        stays = former is not None and former.owner == owner
        tag = None
        if owner is not None:
            mark = former.mark if former is not None and stays else urandom(4)
            tag = await self._add_place(owner, key, mark, expires_at, now)
        try:
            new = await self._store.replace(key, _tagged(value, tag), version.of_store, expires_at=expires_at, now=now)
        except Conflict as conflict:
            raise Conflict(_shown(conflict.current)) from None
        if former is not None and not stays:
            await self._remove_place(former, key, now)
        return _Version(new, tag)

    async def delete(self, key: str, version: Version | None = None, *, now: int) -> bool:
        if version is None:
            found = await self.get(key, now=0)
            tag: _Tag | None = None if found is None else found.version.tag
            deleted = await self._store.delete(key, now=now)
        else:
            tag = version.tag
            try:
                deleted = await self._store.delete(key, version.of_store, now=now)
            except Conflict as conflict:
                raise Conflict(_shown(conflict.current)) from None
        if tag is not None:
            await self._remove_place(tag, key, now)
        return deleted

    async def list_owned(self, name: str, *, limit: int, now: int, after: Cursor | None = None) -> Page:
        # An entry that was moved to another key since the list was read has left its place, and has another one on the
        # list, which was there before. So what was found counts only if the list is still the same, or all was found.
        where = list_key(name)
        listed = await self._store.get(where, now=0)
        page, is_whole = await self._page(name, listed, limit, now, after)
        for _ in range(MOST_READS):
            seen, listed = listed, listed if is_whole else await self._store.get(where, now=0)
            if _version_of(seen) == _version_of(listed):
                break
            page, is_whole = await self._page(name, listed, limit, now, after)
        return page

    async def _page(
        self, name: str, listed: Entry | None, limit: int, now: int, after: Cursor | None
    ) -> tuple[Page, bool]:
        """Return a page of this list, and whether each of its places has its entry."""
        cursors = {Cursor(place.since, place.key) for place in _read(list_key(name), listed)}
        left = sorted((one for one in cursors if after is None or one < after), reverse=True)
        entries: list[tuple[str, Entry]] = []
        for since, key in left[:limit]:
            entry = await self.get(key, now=now)
            if entry is not None and entry.version.tag is not None and entry.version.tag.owner == (name, since):
                entries.append((key, entry))
        page = Page(entries, left[limit - 1] if len(left) > limit else None)
        return page, len(entries) == len(left[:limit])

    async def count_owned(self, name: str, *, most: int, now: int) -> int:
        where = list_key(name)
        places = _read(where, await self._store.get(where, now=0))
        return sum(now < until for until in places.values())

    async def _add_place(self, owner: Owner, key: str, mark: bytes, expires_at: int, now: int) -> _Tag:
        """See to it that the list of the owner has the place of an entry that is about to be written."""
        await self._list_of(owner.name).add(_Place(owner.since, key, mark), expires_at, now)
        return _Tag(owner, mark)

    async def _remove_place(self, tag: _Tag, key: str, now: int) -> None:
        """Take the place of an entry that no longer exists off the list."""
        await self._list_of(tag.owner.name).remove(_Place(tag.owner.since, key, tag.mark), now)

    def _list_of(self, name: str) -> "_OwnerList":
        key = list_key(name)
        return self._lists.setdefault(key, _OwnerList(self._store, key))


class _OwnerList:
    """Changes the list of one owner. A write takes along what other requests of this process want to change in it.

    Args:
        store: where it is stored.
        key: its key there.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._key = key
        self._wanted: _Changes = {}
        """The changes that are under way."""

    async def add(self, place: _Place, expires_at: int, now: int) -> None:
        """See to it that the list has a place, for an entry that expires then."""
        until = expires_at + max(0, expires_at - now)  # twice as long, so that most renewals need not extend it
        await self._change(place, until, lambda places: places.get(place, -1) >= expires_at, now)

    async def remove(self, place: _Place, now: int) -> None:
        """See to it that the list does not have a place."""
        await self._change(place, None, lambda places: place not in places, now)

    async def _change(self, place: _Place, until: int | None, is_done: Callable[[_List], bool], now: int) -> None:
        """Change the list atomically, unless that is done already."""
        self._wanted[place] = until
        try:
            await self._carry_out({place: until}, is_done, now)
        finally:
            self._wanted.pop(place, None)

    async def _carry_out(self, mine: _Changes, is_done: Callable[[_List], bool], now: int) -> None:
        entry = await self._store.get(self._key, now=0)
        for _ in range(MAX_TRIES):
            places = _read(self._key, entry)
            if is_done(places):
                return
            changes = dict(islice(self._wanted.items(), MOST_AT_ONCE)) | mine
            try:
                await self._write(await self._updated_making_room(places, changes, now), entry, now)
                return
            except Conflict as conflict:
                entry = conflict.current or await self._store.get(self._key, now=0)
        raise BackendUnavailable("Other requests changed the list of an owner on every attempt: try again.")

    async def _updated_making_room(self, places: _List, changes: _Changes, now: int) -> _List:
        """Return the list with these changes. If it is too long then, entries are deleted that are on it."""
        kept = {place: until for place, until in places.items() if changes.get(place, until) is not None}
        added = {place: until for place, until in changes.items() if until is not None}
        count = len(added.keys() - kept.keys())
        if count:
            kept = await self._make_room(kept, MOST_LISTED - count, now)
        return kept | {place: max(until, kept.get(place, until)) for place, until in added.items()}

    async def _write(self, places: _List, entry: Entry | None, now: int) -> None:
        if not places and entry is not None:
            await self._store.delete(self._key, entry.version, now=0)
            return
        value = _start(self._key) + _encode([(*place, until) for place, until in places.items()])
        expires_at = max(places.values())
        if entry is None:
            await self._store.create(self._key, value, expires_at=expires_at, now=now)
            return
        then = min(now, entry.expires_at - 1, expires_at - 1)  # it has not expired by then, whatever this clock says
        await self._store.replace(self._key, value, entry.version, expires_at=expires_at, now=then)

    async def _make_room(self, places: _List, most: int, now: int) -> _List:
        """Free places: those whose time has passed, and more until only this many are left. Return what is left."""
        left = dict(places)
        for place, until in sorted(places.items(), key=itemgetter(1))[:MOST_LOOKS]:
            if now < until and len(left) <= most:
                break
            if await self._free(place, until, now, if_live=False):
                del left[place]
        for place in sorted(left):
            if len(left) <= most:
                break
            if await self._free(place, left[place], now, if_live=True):
                del left[place]
        return left

    async def _free(self, place: _Place, until: int, now: int, *, if_live: bool) -> bool:
        """Free this place for good. Return False if it has an entry, or may still get one."""
        key, entry = place.key, await self._store.get(place.key, now=0)
        tag = None if entry is None else _opened(entry.value)[0]
        try:
            if entry is not None and tag is not None and tag.mark == place.mark:
                if now < entry.expires_at and not if_live:
                    return False
                await self._store.delete(key, entry.version, now=0)
            elif now >= until:
                pass  # what a slow request may still write there will have expired
            elif entry is None:
                await self._store.create(key, b"", expires_at=until, now=now)  # so that such a request conflicts
            else:
                # The same entry under another version, so that such a request conflicts.
                then = min(now, entry.expires_at - 1)
                await self._store.replace(key, entry.value, entry.version, expires_at=entry.expires_at, now=then)
        except Conflict:
            return False
        return True


def list_key(name: str) -> str:
    """Return the key of the list of an owner. The name itself may be the key of an entry.

    >>> len(list_key("alice"))
    43
    """
    return key_under(_LABEL, name)


async def _scan(store: Scanning, *, limit: int, now: int, after: str | None = None) -> ScanPage:
    page = await store.scan(limit=limit, now=now, after=after)
    found = [(key, _without_tag(entry)) for key, entry, _ in page.entries if not entry.value.startswith(_start(key))]
    return ScanPage([(key, entry, _owner_name(entry)) for key, entry in found], page.after)


def _owner_name(entry: Entry) -> str | None:
    tag: _Tag | None = entry.version.tag
    return None if tag is None else tag.owner.name


def _tagged(value: bytes, tag: _Tag | None) -> bytes:
    """Return the value as it is stored: as it is, unless it has an owner, or could be taken for one that has."""
    return value if tag is None and not value.startswith(_SIGN) else _SIGN + _encode((tag, value))


def _opened(stored: bytes) -> tuple[_Tag | None, bytes]:
    """Return what `_tagged` was given."""
    if not stored.startswith(_SIGN):
        return None, stored
    try:
        tag, value = _decode_value(stored[1:])
    except (MsgspecError, UnicodeDecodeError):  # garbage under this key
        return None, stored
    return (tag, value) if tag is None or is_valid_id(tag.owner.name) else (None, stored)


def _shown(entry: Entry | None) -> Entry | None:
    return None if entry is None else _without_tag(entry)


def _without_tag(entry: Entry) -> Entry:
    tag, value = _opened(entry.value)
    return Entry(value, entry.expires_at, _Version(entry.version, tag))


def _version_of(entry: Entry | None) -> Version | None:
    return None if entry is None else entry.version


def _start(key: str) -> bytes:
    """Return how a list begins. It prevents confusion with a session, or with the list of another owner."""
    return b"l1." + key[:8].encode("ascii")


def _read(key: str, entry: Entry | None) -> _List:
    """Decode a list. Garbage counts as empty: an entry is listed again when it is replaced."""
    start = _start(key)
    if entry is None or not entry.value.startswith(start):
        return {}
    try:
        listed = _decode_list(entry.value[len(start) :])
        return {_Place(since, key, mark): until for since, key, mark, until in listed}
    except (MsgspecError, UnicodeDecodeError):
        return {}
