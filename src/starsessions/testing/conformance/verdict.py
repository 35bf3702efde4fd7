"""How a rule comes to a verdict: by what it sees, and never by how long it takes."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, TypeVar

from anyio import move_on_after

from starsessions.testing.conformance.contract import Contract
from starsessions.testing.conformance.fixtures import OpenStore, StoreFixture
from starsessions.testing.conformance.store_rules import STORE

P = TypeVar("P")

HANG_AFTER = 900
"""Seconds after which a rule is given up, so that a test run ends: rules take less than a second, on a server a few."""


class NoVerdict(Exception):
    """A rule did not end. Whether it is kept is unknown: a verb may hang, or the machine may be busy."""


class Verdict(NamedTuple):
    """What a rule says of a store."""

    rule: str
    """The rule's id: its name, which stays the same from release to release."""

    outcome: Literal["kept", "broken", "declined"]
    why: str = ""


async def ends(work: Awaitable[None], after: float = HANG_AFTER) -> None:
    """Wait for a rule.

    Raises:
        NoVerdict: it did not end.
    """
    with move_on_after(after):
        await work
        return
    raise NoVerdict(f"The rule was given up after {after} s. That is no verdict: a verb hangs, or the machine is busy.")


async def verdicts(
    contract: Contract[P],
    open_fixture: Callable[[], AbstractAsyncContextManager[P]],
    declines: Mapping[str, str],
) -> AsyncIterator[Verdict]:
    """Prove one rule after the other, each in a fixture of its own.

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
    """Prove the rules of a store without pytest.

    Args:
        open_store: opens a connection to a storage of a given name.
        declines: what the store cannot do, by name, and why.
        largest_value: how many bytes a value may have, if there is a limit.

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
