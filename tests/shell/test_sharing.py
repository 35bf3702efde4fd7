"""Reads that are shared: each begins after all who get its answer have asked, on asyncio and trio."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from starsessions.backends.sharing import SharedReads
from tests.site import settled

pytestmark = [pytest.mark.anyio, pytest.mark.both_loops]


class Source:
    """Reads that end when the test says so. Each answers with its number."""

    def __init__(self) -> None:
        self.begun = 0
        self.fails = False
        self._ends: list[anyio.Event] = []

    async def __call__(self) -> int:
        self.begun += 1
        number, end = self.begun, anyio.Event()
        self._ends.append(end)
        await end.wait()
        if self.fails:
            raise LookupError(str(number))
        return number

    async def end(self) -> None:
        self._ends.pop(0).set()
        await settled()


@asynccontextmanager
async def asking(source: Source, count: int) -> AsyncIterator[tuple[list[Any], list[anyio.CancelScope]]]:
    """Ask one after the other, and collect the answers."""
    shared, answers, scopes = SharedReads(), [], [anyio.CancelScope() for _ in range(count)]

    async def ask(scope: anyio.CancelScope) -> None:
        with scope:
            try:
                answers.append(await shared.read("key", source))
            except LookupError as error:
                answers.append(repr(error))

    async with anyio.create_task_group() as tasks:
        for scope in scopes:
            tasks.start_soon(ask, scope)
            await settled()
        yield answers, scopes
        tasks.cancel_scope.cancel()
    assert (shared._running, shared._waiting) == ({}, {})


async def test_all_who_ask_during_a_read_share_the_next_one() -> None:
    source = Source()
    async with asking(source, 5) as (answers, _):
        assert (source.begun, answers) == (1, [])
        await source.end()
        assert (source.begun, answers) == (2, [1])
        await source.end()
        assert (source.begun, answers) == (2, [1, 2, 2, 2, 2])


async def test_an_error_is_raised_to_all_who_share_the_read() -> None:
    source = Source()
    async with asking(source, 3) as (answers, _):
        source.fails = True
        await source.end()
        await source.end()
        assert (source.begun, answers) == (2, ["LookupError('1')", "LookupError('2')", "LookupError('2')"])


@pytest.mark.parametrize("who", [0, 1, 2])
async def test_one_that_leaves_takes_no_answer_from_the_others(who: int) -> None:
    source = Source()
    async with asking(source, 4) as (answers, scopes):
        scopes[who].cancel()
        await settled()
        while len(answers) < 3:
            await source.end()
        assert len(answers) == 3
        assert source.begun <= 3


async def test_keys_are_read_independently() -> None:
    shared, sources = SharedReads(), [Source(), Source()]
    async with anyio.create_task_group() as tasks:
        for name, source in zip("ab", sources, strict=True):
            tasks.start_soon(shared.read, name, source)
        await settled()
        assert [source.begun for source in sources] == [1, 1]
        for source in sources:
            await source.end()
