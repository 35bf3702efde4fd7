"""The verdict of a rule. It depends on what the rule observes, not on how long it takes.

One thing can only be observed by waiting: that an announcement is lost. See `PATIENCE` in `fixtures.py`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, TypeVar

from anyio import move_on_after

from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import OpenStore, StoreFixture
from starsessions.testing.conformance.store_rules import STORE

P = TypeVar("P")

HANG_AFTER = 900
"""Seconds after which a rule is abandoned, so that a test run ends. Rules take less than a second, on servers a few."""


class NoVerdict(Exception):
    """A rule did not end, so its verdict is unknown: a method may hang, or the machine may be busy."""


class Verdict(NamedTuple):
    """The verdict of a rule on a store."""

    rule: str
    """The id of the rule, which is the same in every release."""

    outcome: Literal["kept", "broken", "declined"]
    why: str = ""


async def ends(work: Awaitable[None], after: float = HANG_AFTER) -> None:
    """Wait for a rule, at most `after` seconds.

    Raises:
        NoVerdict: it did not end.
    """
    with move_on_after(after):
        await work
        return
    raise NoVerdict(f"The rule did not end within {after} s, so there is no verdict: check whether a method hangs.")


async def verdicts(
    contract: Contract[P],
    open_fixture: Callable[[], AbstractAsyncContextManager[P]],
    declines: Mapping[str, str],
) -> AsyncIterator[Verdict]:
    """Check one rule after the other, each in its own fixture.

    Raises:
        NoVerdict: a rule did not end.
    """
    for rule in contract:
        why_declined = contract.why_declined(rule, declines)
        if why_declined:
            yield Verdict(rule.__name__, "declined", why_declined)
            continue
        try:
            async with open_fixture() as fixture:
                await ends(rule(fixture))
        except NoVerdict:
            raise
        except Exception as error:
            yield Verdict(rule.__name__, "broken", str(error) or type(error).__name__)
        else:
            yield Verdict(rule.__name__, "kept")


def store_verdicts(
    open_store: OpenStore, *, declines: Mapping[str, str] | None = None, largest_value: int | None = None
) -> AsyncIterator[Verdict]:
    """Check the rules of a store without pytest.

    Args:
        open_store: opens a connection to the storage of a given name.
        declines: the capabilities that the store lacks, by name, and why. None: it has all of them.
        largest_value: the largest value in bytes that the store accepts. None: there is no limit.

    Raises:
        NoVerdict: a rule did not end.

    >>> import anyio
    >>> from starsessions.stores import MemoryStore
    >>> from collections import defaultdict
    >>> async def main():
    ...     declines = {"durable": "it is memory", "sweeps": "each write sweeps"}
    ...     proved = store_verdicts(defaultdict(MemoryStore).__getitem__, declines=declines)
    ...     return [verdict.rule async for verdict in proved if verdict.outcome == "broken"]
    >>> anyio.run(main)
    []
    """
    declines = declines or {}
    one_only = "several_connections" in declines
    return verdicts(
        STORE,
        lambda: StoreFixture(open_store, one_connection_only=one_only, largest_value=largest_value),
        declines,
    )
