"""The table of docs/reference/neighbours.md, and the tests that its rows come from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "neighbours.md"
AS_IT_IS, WITH_THIS_LINE = "as it is", "with this line"

TESTED: dict[str, tuple[str, str, str]] = {}
"""By neighbour: the verdict, the environment, and the application that shows it."""


def neighbour(name: str, verdict: str, app: str, needs: str = "libraries") -> Callable[[Callable[..., Any]], Any]:
    """Decorate the test that a row of the page comes from."""

    def decorate(test: Callable[..., Any]) -> Any:
        TESTED[name] = verdict, needs, app
        return pytest.mark.wide(test)

    return decorate


class Row(NamedTuple):
    """A row of the table."""

    name: str
    version: str
    verdict: str
    code: str
    why: str


def rows_of_the_page() -> list[Row]:
    """The rows, without the two that make the head."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    cells = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:])
    return [Row(*row) for row in cells]
