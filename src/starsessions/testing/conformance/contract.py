"""A contract as a list of rules, of which some may be declined with a reason."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Generic, TypeVar

P = TypeVar("P")

Rule = Callable[[P], Awaitable[None]]
"""Checks the statement in its docstring in the given fixture, and raises if it is not true."""


class Contract(Generic[P]):
    """Rules in the order of their definition. Some need a capability, which not every implementation has.

    An implementation declines a capability with a reason, which is shown in the test report. Otherwise it must follow
    the rules that need it.

    >>> letters = Contract[str]({"capitals": "there are large letters"})
    >>> @letters.rule("capitals")
    ... async def it_begins_with_a_large_letter(place: str) -> None:
    ...     '''A sentence begins with a large letter.'''
    ...     assert place[0].isupper(), "the first letter is a small one"
    >>> letters.why_declined(it_begins_with_a_large_letter, {"capitals": "Georgian has none in use"})
    'Georgian has none in use'
    """

    def __init__(self, capabilities: Mapping[str, str]) -> None:
        self.capabilities: Mapping[str, str] = capabilities
        """The names of the capabilities, and their meanings."""
        self.needs: dict[Rule[P], tuple[str, ...]] = {}
        """The rules, and the capabilities that each of them needs."""

    def rule(self, *needs: str) -> Callable[[Rule[P]], Rule[P]]:
        """Add a coroutine function to this contract as a rule. `needs`: the capabilities that it applies to."""

        def add(rule: Rule[P]) -> Rule[P]:
            self.needs[rule] = needs
            return rule

        return add

    def include(self, other: "Contract[P]") -> None:
        """Add all rules and capabilities of another contract."""
        self.capabilities = {**self.capabilities, **other.capabilities}
        self.needs |= other.needs

    def __iter__(self) -> Iterator[Rule[P]]:
        return iter(self.needs)

    def why_declined(self, rule: Rule[P], declines: Mapping[str, str]) -> str | None:
        """Return the reason why the rule was declined; None if it applies.

        Raises:
            TypeError: `declines` is not a mapping.
            ValueError: `declines` names an unknown capability, or gives no reason.
        """
        if not isinstance(declines, Mapping):
            raise TypeError('declines is a dict of names and reasons, such as {"sweeps": "the database does"}.')
        for capability, reason in declines.items():
            if capability not in self.capabilities:
                raise ValueError(f"Unknown capability {capability!r}: decline one of {', '.join(self.capabilities)}.")
            if not reason or not isinstance(reason, str):
                raise ValueError(f"Decline {capability!r} with a reason, as a sentence for the test report.")
        return next((declines[needed] for needed in self.needs[rule] if needed in declines), None)
