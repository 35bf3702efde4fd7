"""In a Cluster, a write takes several steps. Between any two of them, the process may die, and others may act."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import pytest
from redis import exceptions
from redis.asyncio import Redis

from starsessions.exceptions import BackendUnavailable
from starsessions.stores.base import Conflict, Deletion, Owner, Provisional
from starsessions.stores.redis.store import RedisStore

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000
LIFE = 10_000
ANN, BOB = Owner("ann", 5), Owner("bob", 5)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the one that redis-py knows


class Dead(BaseException):
    """The process was killed."""


class Held:
    """A command that waits before it is sent."""

    def __init__(self) -> None:
        self._reached, self._free = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        self._reached.set()
        await self._free.wait()

    async def reached(self) -> None:
        async with asyncio.timeout(60):
            await self._reached.wait()

    def release(self) -> None:
        self._free.set()


class Client(Redis):
    """An ordinary client whose commands a test can number, hold back, refuse, and let die."""

    step = dies_before = dies_after = loses = 0
    refuses: Callable[[tuple[Any, ...]], str | None] = staticmethod(lambda command: None)

    def begin(self, **settings: Any) -> None:
        self.step = self.dies_before = self.dies_after = self.loses = 0
        self.held: dict[int, Held] = {}
        self.__dict__.update(settings)

    def hold(self, step: int) -> Held:
        return self.held.setdefault(step, Held())

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.step += 1
        step = self.step
        if self.dies_before and step >= self.dies_before:
            raise Dead
        if held := self.held.get(step):
            await held.wait()
        if message := self.refuses(args):
            raise exceptions.ResponseError(message)
        answer = await super().execute_command(*args, **options)
        if step == self.dies_after:
            self.dies_before = 1
            raise Dead
        if step == self.loses:
            raise exceptions.ConnectionError
        return answer


class Place:
    """A corner of a server, with a store by a client that may die, and one that shows what is stored."""

    def __init__(self, url: str, closing: AsyncExitStack, is_apart: bool) -> None:
        self.is_apart = is_apart
        self.url, self.prefix, self.closing = url, f"{secrets.token_hex(8)}:", closing
        self.client = Client.from_url(url)
        self.client.begin()
        self.store = RedisStore(self.client, self.prefix, timeout=30)
        self.clean = self.another()

    def another(self) -> RedisStore:
        store = RedisStore(self.url, self.prefix, timeout=30)
        self.closing.push_async_callback(store.aclose)
        return store

    async def warm(self) -> None:
        """Let the stores learn what kind of server this is, and the server learn the scripts."""
        for store in (self.store, self.clean):
            for version in (None, b""):
                created = await store.create("warm", b"", expires_at=NOW + LIFE, now=NOW, owner=ANN)
                await store.delete("warm", version and created, now=NOW)
            await store.list_owned("ann", limit=1, now=NOW)

    async def ask(self, *command: Any) -> Any:
        return await self.clean.clients.get().send(*command)

    async def members(self, owner: str = "ann") -> list[bytes]:
        found: list[bytes] = await self.ask("ZRANGE", f"{self.prefix}{{{owner}}}", 0, -1)
        return found

    async def check(self, key: str) -> None:
        """An entry is in the listing of its owner, and in no other."""
        entry = await self.clean.get(key, now=NOW)
        owners = [
            owner.name
            for owner in (ANN, BOB)
            for found, _ in (await self.clean.list_owned(owner.name, limit=1000, now=NOW)).entries
            if found == key
        ]
        assert owners == ([entry.value.decode()] if entry and entry.value != b"nobody" else [])


@pytest.fixture
async def closing() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


APART, TOGETHER = "redis_with_slots", "redis_server"
"""The servers on which entries and listings are written one after the other, or at once."""


@pytest.fixture
async def place(request: pytest.FixtureRequest, closing: AsyncExitStack) -> AsyncIterator[Place]:
    server = getattr(request, "param", APART)
    place = Place(request.getfixturevalue(server).url, closing, is_apart=server == APART)
    closing.push_async_callback(place.client.aclose)
    await place.warm()
    yield place
    for name in await place.ask("KEYS", f"{place.prefix}*"):
        await place.ask("DEL", name)


everywhere = pytest.mark.parametrize("place", [APART, TOGETHER], indirect=True)


# The value of an entry is the name of its owner.


def write(store: RedisStore, key: str, version: Any, life: int, owner: Owner | None) -> Awaitable[Any]:
    value = owner.name.encode() if owner else b"nobody"
    if version is None:
        return store.create(key, value, expires_at=NOW + life, now=NOW, owner=owner)
    return store.replace(key, value, version, expires_at=NOW + life, now=NOW, owner=owner)


Operation = Callable[[RedisStore, str, Any], Awaitable[Any]]

OPERATIONS: dict[str, tuple[int, int, Operation]] = {
    "create": (2, 1, lambda store, key, version: write(store, f"new-{key}", None, LIFE, ANN)),
    "replace": (2, 1, lambda store, key, version: write(store, key, version, LIFE, ANN)),
    "prolong": (2, 1, lambda store, key, version: write(store, key, version, 2 * LIFE, ANN)),
    "shorten": (2, 1, lambda store, key, version: write(store, key, version, 60, ANN)),
    "expire": (2, 1, lambda store, key, version: write(store, key, version, 0, ANN)),
    "move": (3, 1, lambda store, key, version: write(store, key, version, LIFE, Owner("ann", 9))),
    "give": (3, 1, lambda store, key, version: write(store, key, version, LIFE, BOB)),
    "let go": (2, 1, lambda store, key, version: write(store, key, version, LIFE, None)),
    "delete": (2, 1, lambda store, key, version: store.delete(key, version, now=NOW)),
    "delete any": (2, 2, lambda store, key, version: store.delete(key, now=NOW)),
}
"""What a store does, and its commands where entries and listings are apart, and together."""


@everywhere
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_whatever_step_is_the_last_an_entry_that_exists_is_listed(place: Place, operation: str) -> None:
    apart, together, operate = OPERATIONS[operation]
    for step in count(1):
        for when in ("dies_before", "dies_after"):
            key = f"{when}-{step}"
            version = await write(place.clean, key, None, LIFE, ANN)
            place.client.begin(**{when: step})
            try:
                await operate(place.store, key, version)
            except Dead:
                await place.check(key)
                await place.check(f"new-{key}")
            else:
                assert place.client.step == step - 1 == (apart if place.is_apart else together)
                return


@everywhere
@pytest.mark.parametrize("operation", sorted(OPERATIONS.keys() - {"expire"}))  # which raises Conflict: it is missing
async def test_a_reply_that_is_lost_at_any_step_changes_nothing(place: Place, operation: str) -> None:
    apart, together, operate = OPERATIONS[operation]
    for step in range((apart if place.is_apart else together) + 1):
        key = f"{step}"
        version = await write(place.clean, key, None, LIFE, ANN)
        place.client.begin(loses=step)
        assert await operate(place.store, key, version) is not False
        await place.check(key)
        await place.check(f"new-{key}")
        found = [member[8:-9] for owner in ("ann", "bob") for member in await place.members(owner)]
        if step == 0:
            expected = [member.replace(b"0", b"%d") for member in found]
        if (operation, step) != ("delete any", 1):  # it has lost where the place is
            assert found == [member % step for member in expected]
        for owner in ("ann", "bob"):
            await place.ask("DEL", f"{place.prefix}{{{owner}}}")


@everywhere
async def test_a_server_that_has_forgotten_all_scripts_gets_them_again(place: Place) -> None:
    for operation, (_, _, operate) in OPERATIONS.items():
        version = await write(place.store, operation, None, LIFE, ANN)
        await place.ask("SCRIPT", "FLUSH")
        await operate(place.store, operation, version)
        await place.ask("SCRIPT", "FLUSH")
        await place.check(operation)
        await place.ask("SCRIPT", "FLUSH")
        assert await place.store.time() > 0


# Provisional entries


UNTIL = NOW + 10 * LIFE
BRIEF = Provisional("ann", 5, UNTIL)


async def begin(store: RedisStore, key: str, version: Any = None) -> Any:
    return await write(store, key, version, LIFE, BRIEF)


async def kept_for(place: Place) -> int:
    """Return for how many seconds the only place of the listing is kept, and the listing lives."""
    [member] = await place.members()
    now = await place.clean.time()
    lives = await place.ask("PTTL", f"{place.prefix}{{ann}}")
    return min(60 * int.from_bytes(member[-8:-4], "big") - now, lives // 1000)


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_provisional_entry_and_its_place_are_written_at_the_same_time(place: Place, is_new: bool) -> None:
    version = None if is_new else await write(place.clean, "key", None, LIFE, ANN)
    place.client.begin()
    steps = [place.client.hold(1), place.client.hold(2)]
    beginning = asyncio.ensure_future(begin(place.store, "key", version))
    for step in steps:
        await step.reached()
    for step in steps:
        step.release()
    await beginning
    assert place.client.step == 2
    await place.check("key")
    assert await kept_for(place) >= UNTIL - NOW


async def test_what_replaces_a_provisional_entry_is_listed_whatever_step_is_the_last(place: Place) -> None:
    for step in count(1):
        for when in ("dies_before", "dies_after"):
            key = f"{when}-{step}"
            version = await begin(place.clean, key)
            place.client.begin(**{when: step})
            try:
                await write(place.store, key, version, UNTIL - NOW, ANN)
            except Dead:
                await place.check(key)
                assert await kept_for(place) >= UNTIL - NOW
                await place.clean.delete(key, now=NOW)
                await place.ask("DEL", f"{place.prefix}{{ann}}")
            else:
                assert place.client.step == step - 1 == 2
                return


async def test_what_replaces_a_provisional_entry_does_not_wait_for_its_place(place: Place) -> None:
    version = await begin(place.clean, "key")
    place.client.begin()
    steps = [place.client.hold(1), place.client.hold(2)]
    writing = asyncio.ensure_future(write(place.store, "key", version, UNTIL - NOW, ANN))
    for step in steps:
        await step.reached()
    for step in steps:
        step.release()
    version = await writing
    assert await place.store.delete("key", version, now=NOW) is True
    assert await place.members() == []


@pytest.mark.parametrize("owner", [ANN, Owner("ann", 6), BOB])
async def test_where_a_place_is_not_kept_for_long_enough_it_comes_first(place: Place, owner: Owner) -> None:
    """The session that is saved lasts longer than was expected, or has another place."""
    version = await begin(place.clean, "key")
    place.client.begin(dies_after=1)
    with pytest.raises(Dead):
        await write(place.store, "key", version, UNTIL + 1 - NOW if owner == ANN else 1, owner)
    entry = await place.clean.get("key", now=NOW)
    assert entry is not None
    assert entry.expires_at == NOW + LIFE
    assert len(await place.members(owner.name)) == (1 if owner in (ANN, BOB) else 2)


async def test_who_finds_a_provisional_entry_by_its_listing_knows_nothing_of_how_long_it_is_kept(place: Place) -> None:
    await begin(place.clean, "key")
    [(_, entry)] = (await place.clean.list_owned("ann", limit=1, now=NOW)).entries
    place.client.begin(dies_after=1)
    with pytest.raises(Dead):
        await write(place.store, "key", entry.version, UNTIL - NOW, ANN)
    found = await place.clean.get("key", now=NOW)
    assert found == entry
    place.client.begin()
    assert await place.store.delete("key", entry.version, now=NOW) is True


@everywhere
async def test_a_provisional_entry_ends_like_any_other(place: Place) -> None:
    ends: list[Callable[[Any], Awaitable[Any]]] = [
        lambda version: place.store.delete("key", version, now=NOW),
        lambda version: place.store.delete("key", now=NOW),
        lambda version: write(place.store, "key", version, LIFE, None),
        lambda version: place.store.write_together([Deletion("key", version)], now=NOW),
    ]
    for end in ends:
        version = await begin(place.store, "key", await begin(place.store, "key"))
        await place.check("key")
        await end(version)
        assert await place.members() == []
        await place.clean.delete("key", now=NOW)


@everywhere
async def test_a_provisional_entry_whose_key_is_in_use_leaves_no_place(place: Place) -> None:
    await write(place.clean, "key", None, LIFE, BOB)
    with pytest.raises(Conflict):
        await begin(place.store, "key")
    assert await place.members() == []
    await place.check("key")


async def test_a_provisional_entry_is_not_stored_unless_its_place_is(place: Place) -> None:
    place.client.begin(refuses=lambda command: "NOPERM" if b"{ann}" in command[3] else None)
    with pytest.raises(BackendUnavailable):
        await begin(place.store, "key")
    assert await place.members() == []


@pytest.mark.parametrize("loses", [1, 2])
async def test_a_reply_to_a_provisional_entry_that_is_lost_changes_nothing(place: Place, loses: int) -> None:
    place.client.begin(loses=loses)
    version = await begin(place.store, "key")
    await place.check("key")
    await write(place.store, "key", version, UNTIL - NOW, ANN)
    assert await kept_for(place) >= UNTIL - NOW


@pytest.mark.parametrize("place", [TOGETHER], indirect=True)
async def test_on_one_server_a_place_is_kept_for_no_longer_than_its_entry(place: Place) -> None:
    await begin(place.store, "key")
    [member] = await place.members()
    now = await place.clean.time()
    assert 60 * int.from_bytes(member[-8:-4], "big") - now < 2 * LIFE


async def test_a_place_is_removed_while_that_is_announced(place: Place) -> None:
    version = await write(place.clean, "key", None, LIFE, ANN)
    place.client.begin()
    removal, announcement = place.client.hold(2), place.client.hold(3)
    ending = asyncio.ensure_future(place.store.write_together([Deletion("key", version)], now=NOW, topics=["key"]))
    for step in (removal, announcement):
        await step.reached()
    assert await place.clean.get("key", now=NOW) is None
    for step in (removal, announcement):
        step.release()
    assert await ending == [None]
    assert (place.client.step, await place.members()) == (3, [])


async def test_a_place_that_cannot_be_removed_does_not_keep_a_change_from_being_announced(place: Place) -> None:
    version = await write(place.clean, "key", None, LIFE, ANN)
    async with place.another().listen() as heard:
        place.client.begin(
            refuses=lambda command: "NOPERM" if command[0] == "EVALSHA" and b"{ann}" in command[3] else None
        )
        assert await place.store.write_together([Deletion("key", version)], now=NOW, topics=["key"]) == [None]
        assert await anext(heard) == ["key"]


async def test_a_deletion_whose_reply_was_lost_is_announced(place: Place) -> None:
    version = await write(place.clean, "key", None, LIFE, ANN)
    async with place.another().listen() as heard:
        place.client.begin(loses=1)
        assert await place.store.write_together([Deletion("key", version)], now=NOW, topics=["key"]) == [None]
        assert await anext(heard) == ["key"]
    assert await place.members() == []


# Others act between two steps


async def test_a_listing_that_is_read_between_two_steps_keeps_the_place(place: Place) -> None:
    place.client.begin()
    second = place.client.hold(2)
    creating = asyncio.ensure_future(write(place.store, "key", None, LIFE, ANN))
    await second.reached()
    for store in (place.clean, place.another()):
        assert (await store.list_owned("ann", limit=10, now=NOW)).entries == []
    assert len(await place.members()) == 1
    second.release()
    await creating
    await place.check("key")


async def test_an_entry_that_moves_to_another_key_while_a_page_is_read_is_on_it(place: Place) -> None:
    """As a rotation moves it: the new entry is written before the old one leaves its owner. The page would have neither
    if the members were read before that, and the entries afterwards.
    """
    old = await write(place.clean, "old", None, LIFE, ANN)
    place.client.begin()
    second = place.client.hold(2)
    listing = asyncio.ensure_future(place.store.list_owned("ann", limit=10, now=NOW))
    await second.reached()
    await write(place.clean, "new", None, LIFE, ANN)
    await place.clean.replace("old", b"nobody", old, expires_at=NOW + LIFE, now=NOW)
    second.release()
    assert [key for key, _ in (await listing).entries] == ["new"]


async def test_a_page_that_changes_whenever_it_is_read_is_returned_in_the_end(place: Place) -> None:
    counted = count()
    await write(place.clean, "key", None, LIFE, ANN)

    class Restless(Client):
        async def execute_command(self, *args: Any, **options: Any) -> Any:
            if args[0] == "ZREVRANGEBYLEX":
                await place.ask("ZADD", args[1], 0, b"%012d|stale-%d|0|0|who" % (NOW, next(counted)))
            return await super().execute_command(*args, **options)

    client = Restless.from_url(place.url)
    client.begin()
    place.closing.push_async_callback(client.aclose)
    store = RedisStore(client, place.prefix, timeout=30)
    await store.list_owned("ann", limit=1, now=NOW)  # it learns what kind of server this is
    assert "key" in [key for key, _ in (await store.list_owned("ann", limit=100, now=NOW)).entries]


@pytest.mark.parametrize(("place", "given"), [(APART, True), (APART, False), (TOGETHER, False)], indirect=["place"])
async def test_a_delete_that_ends_late_keeps_the_place_of_a_new_entry(place: Place, given: bool) -> None:
    version = await write(place.store, "key", None, LIFE, ANN)
    place.client.begin()
    second = place.client.hold(2)
    deleting = asyncio.ensure_future(place.store.delete("key", version if given else None, now=NOW))
    await second.reached()
    await write(place.clean, "key", None, LIFE, ANN)
    second.release()
    assert await deleting is True
    assert place.client.step == 2
    await place.check("key")


async def test_a_loser_that_tidies_late_keeps_the_place_of_a_new_entry(place: Place) -> None:
    version = await write(place.clean, "key", None, LIFE, ANN)
    place.client.begin()
    second, third = place.client.hold(2), place.client.hold(3)
    losing = asyncio.ensure_future(write(place.store, "key", version, 2 * LIFE, ANN))
    await second.reached()
    await place.clean.delete("key", now=NOW)
    second.release()
    await third.reached()
    await write(place.clean, "key", None, LIFE, ANN)
    third.release()
    with pytest.raises(Conflict):
        await losing
    await place.check("key")


async def test_a_loser_does_not_shorten_the_time_of_a_place(place: Place) -> None:
    first = await write(place.clean, "key", None, LIFE, ANN)
    await write(place.clean, "key", first, 5 * LIFE, ANN)
    [before] = await place.members()
    for life in (2 * LIFE, LIFE, 60):
        with pytest.raises(Conflict):
            await write(place.store, "key", first, life, ANN)
    [after] = await place.members()
    assert after[-8:-4] == before[-8:-4]
    await place.check("key")


async def test_a_loser_leaves_no_place(place: Place) -> None:
    version = await write(place.clean, "key", None, LIFE, ANN)
    with pytest.raises(Conflict):
        await write(place.store, "key", None, LIFE, BOB)
    assert await place.members("bob") == []
    await place.clean.delete("key", now=NOW)
    for owner in (ANN, BOB):
        with pytest.raises(Conflict):
            await write(place.store, "key", version, 2 * LIFE, owner)
    assert (await place.members(), await place.members("bob")) == ([], [])


async def test_a_place_that_is_not_new_does_not_wait_for_its_listing(place: Place) -> None:
    version = await write(place.clean, "key", None, LIFE, ANN)
    place.client.begin()
    steps = [place.client.hold(1), place.client.hold(2)]
    writing = asyncio.ensure_future(write(place.store, "key", version, LIFE, ANN))
    for step in steps:
        await step.reached()
    for step in steps:
        step.release()
    await writing
    assert place.client.step == 2


async def test_a_listing_that_cannot_be_repaired_fails_no_write(place: Place) -> None:
    version = await write(place.clean, "key", None, LIFE, ANN)
    place.client.begin(refuses=lambda command: "NOPERM" if b"{ann}" in command[3] else None)
    version = await write(place.store, "key", version, LIFE, ANN)
    assert await place.store.delete("key", version, now=NOW) is True
    place.client.begin()
    assert len(await place.members()) == 1
    await place.check("key")


# What the servers are like


async def test_a_server_with_slots_is_noticed_once(place: Place) -> None:
    async def steps(work: Awaitable[Any]) -> int:
        place.client.begin()
        await work
        return place.client.step

    store = RedisStore(place.client, place.prefix, timeout=30)
    assert [await steps(write(store, f"key-{n}", None, LIFE, ANN)) for n in range(3)] == [4, 2, 2]  # INFO is one, too
    store = RedisStore(place.client, place.prefix, timeout=30)
    assert [await steps(store.list_owned("ann", limit=1, now=NOW)) for n in range(3)] == [3, 2, 2]


@pytest.mark.parametrize("place", [TOGETHER], indirect=True)
@pytest.mark.parametrize("what", ["undeclared key", "anything else"])
async def test_scripts_that_may_not_find_keys_are_done_without(place: Place, what: str) -> None:
    """Dragonfly refuses them by default."""
    await write(place.clean, "key", None, LIFE, ANN)
    listing = f"{place.prefix}{{ann}}".encode()
    place.client.begin(refuses=lambda command: what if command[0] == "EVALSHA" and command[3] == listing else None)
    if what == "anything else":
        with pytest.raises(BackendUnavailable):
            await place.store.list_owned("ann", limit=10, now=NOW)
        return
    for steps in (3, 5):
        page = await place.store.list_owned("ann", limit=10, now=NOW)
        assert [key for key, _ in page.entries] == ["key"]
        assert place.client.step == steps
    await write(place.store, "other", None, LIFE, BOB)
    assert place.client.step == 6


@pytest.mark.parametrize("place", [TOGETHER], indirect=True)
async def test_an_entry_and_that_of_its_owner_are_read_in_turn_where_scripts_may_not_find_keys(place: Place) -> None:
    await write(place.clean, "key", None, LIFE, ANN)
    await write(place.clean, "ann", None, LIFE, None)
    place.client.begin(refuses=lambda command: "undeclared key" if command[0] == "EVALSHA" else None)
    for steps in (4, 7):
        joined = await place.store.get_joined("key", "other", now=NOW)
        assert (joined.owner, joined.of_owner is not None, joined.other) == ("ann", True, None)
        assert place.client.step == steps
