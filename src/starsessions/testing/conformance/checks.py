"""What the rules of a store have in common."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from anyio import create_task_group

from starsessions.stores.base import Conflict, Entry, Store, Version
from starsessions.testing.conformance.fixtures import StoreFixture

T = TypeVar("T")

LIFE = 100  # seconds
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
AT_ONCE = 16
ROUNDS = 8


async def connections(place: StoreFixture, count: int = AT_ONCE) -> list[Store]:
    """Return `count` stores, which share three connections."""
    three = [await place.connect() for _ in range(3)]
    return [three[n % 3] for n in range(count)]


async def at_once(works: Sequence[Callable[[], Awaitable[T]]]) -> list[T | Conflict]:
    """Run all calls concurrently, and return their outcomes in the order of the calls."""
    outcomes: dict[int, T | Conflict] = {}

    async def do(n: int, work: Callable[[], Awaitable[T]]) -> None:
        try:
            outcomes[n] = await work()
        except Conflict as conflict:
            outcomes[n] = conflict

    async with create_task_group() as tasks:
        for n, work in enumerate(works):
            tasks.start_soon(do, n, work)
    return [outcomes[n] for n in range(len(works))]


async def refused(verb: Awaitable[object]) -> Entry | None:
    """Return the entry that `Conflict` carries; fail if it is not raised."""
    try:
        await verb
    except Conflict as conflict:
        return conflict.current
    raise AssertionError("Conflict was not raised, though the expected entry did not exist")


def check_entry(entry: Entry | None, value: bytes, expires_at: int, version: Version) -> None:
    """Fail if this is not the entry that was written."""
    assert entry is not None, "an entry that was written is missing, or missing from Conflict"
    assert entry.value == value, f"the value is {entry.value[:40]!r} instead of {value[:40]!r}"
    wrong = entry.expires_at - expires_at
    assert wrong == 0, f"the deadline is wrong by {wrong} s"
    assert entry.version == version, "the version is not the one that the write returned"
