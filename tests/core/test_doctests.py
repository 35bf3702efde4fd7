"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil

import starsessions
from tests.rows import rows

MODULES = ["starsessions", *(module.name for module in pkgutil.walk_packages(starsessions.__path__, "starsessions."))]


@rows("name", MODULES)
def test_the_examples_in_the_docstrings_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_docstrings_contain_examples() -> None:
    found = [
        example
        for name in MODULES
        for test in doctest.DocTestFinder().find(importlib.import_module(name))
        for example in test.examples
    ]
    assert len(found) > 30
