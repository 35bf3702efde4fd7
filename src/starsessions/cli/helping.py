"""How the help is set: as plain text that is read from top to bottom, without boxes."""

import textwrap
from io import StringIO
from typing import Any

_WIDEST = 100
_COLUMN = 22
"""Where the explanations begin."""


class HelpFormatter:
    """Sets the help of cyclopts, which calls it."""

    def __call__(self, console: Any, options: Any, panel: Any) -> None:
        """Print a list of commands or options."""
        entries = [entry for entry in panel.entries if entry.display_labels]
        if not entries:
            return
        lines = [f"{panel.title}:"]
        for entry in entries:
            label = ", ".join(entry.display_labels_with_metavar)
            lines += _entry(label, " ".join([_plain(entry.description), *_remarks(entry)]), _width(console))
        _print(console, [*lines, ""])

    def render_usage(self, console: Any, options: Any, usage: Any) -> None:
        """Print how the command is written."""
        _print(console, [f"Usage: {_plain(usage).strip()}", ""])

    def render_description(self, console: Any, options: Any, description: Any) -> None:
        """Print what the command does. A paragraph that begins with a prompt is an example, and keeps its lines."""
        for paragraph in _plain(description).strip().split("\n\n"):
            if paragraph.startswith("$ "):
                _print(console, [*textwrap.indent(paragraph, "    ").splitlines(), ""])
            else:
                _print(console, [*textwrap.wrap(paragraph, _width(console)), ""])


def _entry(label: str, text: str, width: int) -> list[str]:
    indent = " " * _COLUMN
    wrapped = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent)
    start = f"  {label}"
    if wrapped and len(start) < _COLUMN - 1:
        return [start.ljust(_COLUMN) + wrapped[0].lstrip(), *wrapped[1:]]
    return [start, *wrapped]


def _remarks(entry: Any) -> list[str]:
    found = []
    if entry.choices:
        found.append(f"[{', '.join(entry.choices)}]")
    if entry.env_var:
        found.append(f"[or set {', '.join(entry.env_var)}]")
    if entry.default is not None:
        found.append(f"[default: {entry.default}]")
    return found


def _plain(text: Any) -> str:
    """Return what cyclopts passes as an object of rich, as it was written."""
    from rich.console import Console

    wide = Console(file=StringIO(), width=10_000, no_color=True, highlight=False)
    with wide.capture() as capture:
        wide.print("" if text is None else text, markup=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _width(console: Any) -> int:
    return min(int(console.width), _WIDEST)


def _print(console: Any, lines: list[str]) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
