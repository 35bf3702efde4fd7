"""Keeps a run: what the checker needs to judge it again, and a page for each violation that a person can read."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.histories.checker import Rules, Violation, check
from tests.histories.history import History, Operation

MOST = 20
"""Violations that get a page."""


class Kept(NamedTuple):
    """A run that was kept."""

    rules: Rules
    history: History

    def judge(self) -> list[Violation]:
        return check(self.history, self.rules)


def keep(folder: Path, name: str, kept: Kept, violations: Sequence[Violation]) -> None:
    """Write a run to a folder, and a page for each of the first violations."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.run").write_bytes(msgspec.msgpack.encode(kept))
    for number, one in enumerate(violations[:MOST], 1):
        lines = [str(one), "", "What touched the session or its user:", *map(str, touching(kept.history, one))]
        (folder / f"{name}-{number}.txt").write_text("\n".join(lines) + "\n")


def kept(file: Path) -> Kept:
    """Read a run that was kept."""
    return msgspec.msgpack.decode(file.read_bytes(), type=Kept)


def touching(history: History, violation: Violation) -> Iterator[Operation]:
    """Every request that touched a session of the violation, or its user, or all users: in the order of their begin."""
    meant = set[str]().union(*map(_touched, violation.shown_by))
    for one in sorted(history.operations, key=lambda one: one.began):
        if one.kind == "revoke_everyone" or _touched(one) & meant:
            yield one


def _touched(one: Operation) -> set[str]:
    """The cookies, sessions, sign-ins and users that a request was about."""
    touched = {one.token, one.name, one.handle}
    # A list or an end of a user's sessions names the user, and so does a sign-in. Others only guess who it is.
    if one.kind == "sign_in" or not one.token:
        touched.add(one.user)
    if one.answer is not None:
        touched.add(one.answer.token or "")
        for seen in filter(None, (one.answer.opened, one.answer.left)):
            touched |= {seen.name, seen.user or "", seen.handle or ""}
    return touched - {""}
