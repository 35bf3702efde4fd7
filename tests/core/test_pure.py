"""The core asks the system for nothing. import-linter holds what it imports, and this what it calls of that."""

import ast
from pathlib import Path

import pytest

from starsessions import core
from tests.rows import rows

pytestmark = pytest.mark.once

METHODS = {
    *("now", "today", "utcnow"),
    *("getnode", "uuid1", "uuid4", "uuid6", "uuid7"),
    *("astimezone", "fromtimestamp", "timestamp"),  # of a datetime without a zone, in that of the process
}
BUILT_IN = {"breakpoint", "input", "open", "print"}
ALLOWED = {("durations.py", "timestamp")}
"""`set_expiry()` takes a naive datetime as local time."""


def called(source: str) -> set[str]:
    """Return the functions that ask the system and are called, or handed on to be called. A variable may be `now`."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return names & BUILT_IN | (attributes | imported) & (METHODS | BUILT_IN)


def test_the_core_asks_the_system_for_nothing_but_the_zone_of_a_naive_datetime() -> None:
    files = list(Path(core.__path__[0]).rglob("*.py"))
    assert len(files) > 20
    assert {(file.name, name) for file in files for name in called(file.read_text(encoding="utf-8"))} == ALLOWED


@rows(
    ("source", "found"),
    [
        ("datetime.now(UTC)", {"now"}),
        ("make = uuid.uuid4", {"uuid4"}),
        ("from uuid import uuid4 as new", {"uuid4"}),
        ("open(name)", {"open"}),
        ("io.open(name)", {"open"}),
        ("def f(now): now = 1", set()),
        ("'print(1)'", set()),
    ],
)
def test_a_call_of_the_system_is_found(source: str, found: set[str]) -> None:
    assert called(source) == found
