"""What is printed: results as text or JSON, colours and progress on a terminal, questions."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from starsessions.personal import as_json

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "cyan": 36}


def say(line: str) -> None:
    """Print a line that is not the result."""
    sys.stderr.write(f"{printable(line)}\n")
    sys.stderr.flush()


def show(result: Any, lines: Iterable[str], as_json_text: bool) -> None:
    """Print the result: as JSON if that was asked for, otherwise as these lines."""
    if as_json_text:
        sys.stdout.write(json.dumps(as_json(result), indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in lines)


def printable(text: str) -> str:
    """Return a text that changes nothing on a terminal but what is shown: users choose some of what is stored."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, with their columns aligned. The first one is the heading."""
    cleaned = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cleaned, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cleaned]


def many(count: int, one: str, more: str) -> str:
    """Return a number with its noun.

    >>> many(1, "entry", "entries"), many(2000, "entry", "entries")
    ('1 entry', '2,000 entries')
    """
    return f"{count:,} {one if count == 1 else more}"


def moment(instant: datetime) -> str:
    """Return an instant as a person reads it."""
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def coloured(text: str, colour: str) -> str:
    """Return a text in a colour, on a terminal. See https://no-color.org and https://force-color.org."""
    if os.environ.get("NO_COLOR") or not (os.environ.get("FORCE_COLOR") or _is_terminal(sys.stdout)):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"


def is_asked(yes: bool) -> bool:
    """Return whether `agrees` asks: without a terminal, there is no one to ask."""
    return not yes and _is_terminal(sys.stdin) and _is_terminal(sys.stderr)


def agrees(question: str, yes: bool) -> bool:
    """Ask on a terminal, unless `yes`."""
    if not is_asked(yes):
        return True
    sys.stderr.write(f"{printable(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int], object]]:
    """Show on a terminal that work is going on, while the block runs. It is told how much was done so far."""
    if not _is_terminal(sys.stderr):
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count: bar.update(task, completed=count)


def _is_terminal(stream: Any) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"
