"""The table of `tests/mutants.py`, which says what tests could notice a mistake in a module."""

import pytest

from tests.mutants import ROOT, SOURCE, TESTS, part_of

pytestmark = pytest.mark.once

MODULES = sorted((SOURCE / "starsessions").rglob("*.py"))
OF_ALL_REQUESTS = {
    "__init__",
    "__main__",
    "events",
    "exceptions",
    "middleware",
    "moved",
    "notices",
    "reporting",
    "session",
    "timeouts",
}
"""The modules without a row of their own: what most requests need, and what has tests with its name."""


def test_the_tests_in_the_table_exist() -> None:
    paths = {path for row in TESTS.values() for group in row for path in group}
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_each_module_has_a_row_and_each_row_has_a_module() -> None:
    assert {module.stem for module in MODULES if part_of(module) == ""} == OF_ALL_REQUESTS
    assert set(TESTS) == {part_of(module) for module in MODULES}
