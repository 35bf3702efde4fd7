"""A contract as a list of rules, and what may be declined of it, with a reason."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Generic, TypeVar

P = TypeVar("P")

Rule = Callable[[P], Awaitable[None]]
"""Proves one sentence, its docstring, in the place that it is given; raises if the sentence is not true there."""


class Contract(Generic[P]):
    """Rules in the order in which they were written. Some need what not everybody can do: a capability.

    A capability is declined with a reason, which people read; without one, the rules that need it have to be kept.

    >>> letters = Contract[str]({"capitals": "there are large letters"})
    >>> @letters.rule("capitals")
    ... async def it_begins_with_a_large_letter(place: str) -> None:
    ...     '''A sentence begins with a large letter.'''
    ...     assert place[0].isupper(), "the first letter is a small one"
    >>> letters.why_declined(it_begins_with_a_large_letter, {"capitals": "Georgian has none in use"})
    'Georgian has none in use'
    """

    def __init__(self, capabilities: Mapping[str, str]) -> None:
        self.capabilities = capabilities
        """Their names, and what each means."""
        self._rules: dict[Rule[P], str | None] = {}

    def rule(self, needs: str | None = None) -> Callable[[Rule[P]], Rule[P]]:
        """Makes a coroutine function a rule of this contract."""

        def add(rule: Rule[P]) -> Rule[P]:
            self._rules[rule] = needs
            return rule

        return add

    def __iter__(self) -> Iterator[Rule[P]]:
        return iter(self._rules)

    def why_declined(self, rule: Rule[P], declines: Mapping[str, str]) -> str | None:
        """The reason for which the rule need not be kept; None if it has to be."""
        for capability, reason in declines.items():
            if capability not in self.capabilities:
                raise ValueError(f"There is no {capability!r} to decline, only {', '.join(self.capabilities)}.")
            if not reason or not isinstance(reason, str):
                raise ValueError(f"Decline {capability!r} with a reason, a sentence that people can read.")
        return declines.get(self._rules[rule] or "")
