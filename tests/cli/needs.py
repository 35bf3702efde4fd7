"""The package that the command line needs."""

from importlib.util import find_spec

from tests.missing import missing


def needs_cyclopts() -> None:
    if find_spec("cyclopts") is None:
        missing("the command line needs the package cyclopts")
