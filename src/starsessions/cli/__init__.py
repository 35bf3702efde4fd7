"""The command line: `starsessions`, or `python -m starsessions`.

docs/reference/command-line.md shows it, and describes what it prints and its exit codes.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code.

    Args:
        arguments: what follows the name of the command. None: those of this process.
    """
    if find_spec("cyclopts") is None:
        sys.stderr.write("The command line needs a package that is missing: install the extra starsessions[cli].\n")
        return 2
    from starsessions.cli.commands import run

    return run(sys.argv[1:] if arguments is None else arguments)
