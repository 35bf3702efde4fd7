"""What clients asked and what they were told, in the order of one clock.

An operation without an answer may or may not have happened, at any time after it was sent: its end is infinity. The
same holds for a 503. If the answer is that the session has ended meanwhile (409), the operation has an end and no
answer: it may have happened until then.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

KEYS = ("color", "size")
"""The registers of each session."""
COUNT = "count"


class Seen(NamedTuple):
    """A session as the application saw it."""

    name: str
    """A name that the client chose for it. It stays when the session gets another id, also by a sign-in."""
    user: str | None = None
    owner: str | None = None
    """Whose data it is, as the data says: the user, or the browser."""
    handle: str | None = None
    """The name of the sign-in: another one with each sign-in."""


@dataclass(frozen=True)
class Answer:
    """What the application answered."""

    opened: Seen | None = None
    """The session that the cookie opened."""
    left: Seen | None = None
    """The session at the end of the request."""
    value: Any = None
    """What was asked for: the data, a counter, the handles of a list."""
    token: str | None = None
    """The new cookie; "" if it was deleted, None if there was none."""


@dataclass(frozen=True)
class Operation:
    """One request."""

    kind: str
    began: float
    ended: float = inf
    answer: Answer | None = None
    browser: str = ""
    """The browser that the cookie was given to."""
    token: str = ""
    """The cookie that was sent; "": none."""
    name: str = ""
    """The session that the client takes it for."""
    user: str = ""
    handle: str = ""
    key: str = ""
    value: str | None = None
    confirms: bool = True
    """Whether the answer comes only after the change was saved. Otherwise, a change under an id that was rotated
    meanwhile is dropped, and the answer does not tell."""
    number: int = 0

    def __str__(self) -> str:
        asked = [self.kind, self.name, self.token, self.user, self.handle, self.key, self.value or ""]
        told = "no answer"
        if self.answer is not None:
            one = self.answer
            told = f"opened {_short(one.opened)}, left {_short(one.left)}, value {one.value}, cookie {one.token}"
        return f"#{self.number} {self.began:.4f}-{self.ended:.4f} {' '.join(filter(None, asked))}: {told}"


def _short(seen: Seen | None) -> str:
    return "nothing" if seen is None else f"{seen.name} of {seen.user} ({seen.handle})"


class Quiet(NamedTuple):
    """A time in which no client was at work: all lists were read, and every cookie was tried."""

    began: float
    ended: float


@dataclass
class History:
    """All operations of a run."""

    operations: list[Operation] = field(default_factory=list)
    quiets: list[Quiet] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """Answers that no one may get, such as a 500."""

    def add(self, operation: Operation) -> None:
        self.operations.append(operation)

    def answered(self, *kinds: str) -> Iterator[tuple[Operation, Answer]]:
        """The operations that were answered, and their answers."""
        for one in self.operations:
            if one.answer is not None and (not kinds or one.kind in kinds):
                yield one, one.answer

    def unknown(self, *kinds: str) -> Iterator[Operation]:
        """The operations without an answer."""
        return (one for one in self.operations if one.answer is None and (not kinds or one.kind in kinds))
